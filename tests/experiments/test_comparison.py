"""Which runs share a picture, and what both starts together say."""

from pathlib import Path

import pytest

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.groups import finding, groups_of


def run_of(start, state, accuracy=0.5, *, finished=True, epochs=3, folder="", **options):
    config = RetrievalConfig(start=start, state=state, epochs=epochs, **options)
    line = {"epoch": epochs, "step": epochs, "validation_accuracy": accuracy}
    return Run(Path(f"{start}-{state}{folder}"), "retrieval", config, [line], {"final": line} if finished else None)


def both(authors, sound, states=("zero", "context"), **options):
    return groups_of(
        [
            run_of(start, state, accuracy, **options)
            for start, accuracies in (("wenke2019", authors), ("sound", sound))
            for state, accuracy in zip(states, accuracies, strict=True)
        ]
    )


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


def test_epochs_are_apart_where_the_step_size_depends_on_them():
    runs = [run_of("sound", "zero", epochs=epochs, schedule="cosine") for epochs in (3, 9)]
    assert [group.settings["epochs"] for group in groups_of(runs)] == [3, 9]


def test_decay_runs_group_too():
    zero, normal = (Run(Path(state), "decay", DecayConfig(state=state), [], None) for state in ("zero", "normal"))
    (group,) = groups_of([zero, normal])
    assert group.runs == [normal, zero]


@pytest.mark.parametrize(
    ("authors", "sound", "verdict"),
    [
        ((0.71, 0.99), (0.992, 0.994), "The gap between the states is a matter of the start"),
        ((0.71, 0.99), (0.99, 0.98), "The gap between the states is a matter of the start"),
        ((0.71, 0.99), (0.71, 0.99), "The gap between the states is not a matter of the authors' start"),
        ((0.99, 0.99), (0.71, 0.99), "The gap between the states is not a matter of the authors' start"),
        ((0.50, 0.99), (0.90, 0.99), "The gap between the states is smaller under a sound start, but does not vanish"),
        ((0.93, 0.99), (0.95, 0.99), "The gap between the states is smaller under a sound start, but does not vanish"),
        ((0.98, 0.99), (0.98, 0.99), "The contextual state does not end ahead under either start"),
        ((0.99, 0.71), (0.99, 0.98), "The contextual state does not end ahead under either start"),
    ],
)
def test_the_verdict_follows_the_runs(authors, sound, verdict):
    said = finding(both(authors, sound))
    assert said is not None
    assert said.startswith(verdict)
    assert f"authors' start zero {authors[0]:.1%}, context {authors[1]:.1%} after 3 epochs" in said
    assert f"sound start zero {sound[0]:.1%}, context {sound[1]:.1%} after 3 epochs." in said


def test_medians_over_seeds_and_spans_of_epochs_are_said():
    runs = [run_of("wenke2019", "zero", value, seed=seed) for seed, value in enumerate((0.1, 0.6, 0.7))]
    runs += [run_of("wenke2019", "context", 0.99, epochs=8)]
    runs += [run_of("sound", state, 0.99) for state in ("zero", "context")]
    assert "authors' start zero 60.0%, context 99.0% after 3 to 8 epochs; under" in (finding(groups_of(runs)) or "")


def test_the_most_similar_groups_are_compared_and_their_differences_named():
    authors = [run_of("wenke2019", state, leaves="h+a") for state in ("zero", "context")]
    far = [run_of("sound", state, 0.3, units=20, train_samples=1000) for state in ("zero", "context")]
    near = [run_of("sound", state, 0.9) for state in ("zero", "context")]
    said = finding(groups_of([*authors, *far, *near])) or ""
    assert "sound start zero 90.0%" in said
    assert said.endswith("; the two also differ in leaves (h+a and h).")
    said = finding(groups_of([*authors, *far])) or ""
    assert "train samples (100,000 and 1,000)" in said


@pytest.mark.parametrize(
    "groups",
    [
        [],
        groups_of([run_of("sound", state) for state in ("zero", "context")]),
        both((0.7, 0.9), (0.9, 0.9), states=("zero", "free")),
        both((0.7, 0.9), (0.9, 0.9), finished=False),
        both((0.7, float("nan")), (0.9, 0.9)),
        groups_of([run_of("wenke2019", state) for state in ("zero", "context")] + [run_of("sound", "context")]),
    ],
    ids=["none", "one start", "no contextual state", "unfinished", "non-finite", "no state to compare"],
)
def test_no_finding_without_both_starts_and_both_kinds_of_state(groups):
    assert finding(groups) is None
