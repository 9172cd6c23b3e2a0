"""What the table over seeds says: values, gains over zero and probabilities, each from the right runs."""

from pathlib import Path

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.report.tables import over_seeds
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.groups import groups_of


def retrieval(state, seed, accuracies, *, finished=True, **options):
    config = RetrievalConfig(state=state, seed=seed, epochs=len(accuracies) - 1, **options)
    lines = [{"epoch": e, "step": e, "validation_accuracy": a} for e, a in enumerate(accuracies)]
    return Run(Path(f"{state}{seed}{options}"), "retrieval", config, lines, {"final": lines[-1]} if finished else None)


def rows_of(runs):
    return {tuple(row[:2]): row[2:] for table in over_seeds(groups_of(runs)) for row in table.rows}


def test_gains_over_zero_are_paired_by_seed_and_positive_where_better():
    zero = [retrieval("zero", seed, [0.1, 0.2, 0.5 + 0.1 * seed]) for seed in range(3)]
    context = [retrieval("context", seed, [0.1, 0.96, 0.52 + 0.1 * seed]) for seed in range(3)]
    rows = rows_of(zero + context)
    seeds, value, gain, improvement = rows["context", "validation accuracy"]
    assert seeds == "3"
    assert value == "62.00% (52.00% to 72.00%)"
    assert gain == "2.00% (2.00% to 2.00%)"
    assert improvement.startswith("0.6667 ("), "ahead of the same seed and of the lower ones"
    assert rows["zero", "validation accuracy"][2:] == ["-", "-"]
    assert rows["context", "epochs to 95"][1:3] == ["1 (1 to 1)", "-"], "from for ever to one epoch is no number"
    assert rows["zero", "epochs to 95"][1] == "never (never to never)"
    assert rows["context", "epochs to 95"][3] == "1 (1 to 1)"


def test_less_error_is_better():
    def run(state, seed, error):
        final = {"epoch": 1, "step": 1, "validation_squared_error": error, "free_running_squared_error": error}
        return Run(Path(f"{state}{seed}"), "decay", DecayConfig(state=state, seed=seed), [final], {"final": final})

    rows = rows_of([run(state, seed, error) for state, error in (("zero", 3.0), ("normal", 1.0)) for seed in (0, 1)])
    assert rows["normal", "validation squared error"] == ["2", "1 (1 to 1)", "2 (2 to 2)", "1 (1 to 1)"]


def test_single_seeds_unfinished_runs_and_other_settings_say_nothing():
    single = [retrieval("zero", 0, [0.1, 0.2]), retrieval("context", 0, [0.1, 0.9])]
    assert not rows_of(single)
    unfinished = [retrieval("zero", seed, [0.1, 0.2 * seed], finished=seed > 0) for seed in range(3)]
    assert rows_of(unfinished)["zero", "validation accuracy"][:2] == ["2", "30.00% (20.00% to 40.00%)"]
    others = [retrieval("context", seed, [0.1, 0.2], units=20) for seed in range(2)]
    assert {row[2] for row in rows_of(others + unfinished).values()} == {"-"}
