"""Which runs share a picture."""

from pathlib import Path

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.groups import groups_of


def run_of(start, state, accuracy=0.5, *, finished=True, epochs=3, folder="", **options):
    config = RetrievalConfig(start=start, state=state, epochs=epochs, **options)
    line = {"epoch": epochs, "step": epochs, "validation_accuracy": accuracy}
    return Run(Path(f"{start}-{state}{folder}"), "retrieval", config, [line], {"final": line} if finished else None)


def test_groups_share_settings_and_the_authors_come_first():
    runs = [
        run_of("sound", "zero"),
        run_of("sound", "context", epochs=9, seed=4, threads=2),
        run_of("wenke2019", "zero"),
        run_of("sound", "zero", units=20),
    ]
    groups = groups_of(runs)
    assert [group.runs for group in groups] == [[runs[2]], [runs[1], runs[0]], [runs[3]]]
    assert groups[2].settings["units"] == 20
    assert not {"state", "seed", "epochs", "threads"} & set(groups[0].settings)


def test_of_runs_of_one_state_and_seed_the_finished_one_counts():
    long, done = run_of("sound", "zero", finished=False, folder="a"), run_of("sound", "zero", folder="b")
    long.metrics.extend(long.metrics * 5)
    (group,) = groups_of([done, long])
    assert group.runs == [done]


def test_decay_runs_group_too():
    zero, normal = (Run(Path(state), "decay", DecayConfig(state=state), [], None) for state in ("zero", "normal"))
    (group,) = groups_of([zero, normal])
    assert group.runs == [normal, zero]
