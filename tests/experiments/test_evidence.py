"""What is said of several seeds: values, gains over zero and probabilities, each from the right runs."""

import json
import math
from pathlib import Path

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.evidence import evidence
from contextual_rnn.experiments.stats.groups import groups_of


def retrieval(state, seed, accuracies, *, finished=True, **options):
    config = RetrievalConfig(state=state, seed=seed, epochs=len(accuracies) - 1, **options)
    lines = [{"epoch": e, "step": e, "validation_accuracy": a} for e, a in enumerate(accuracies)]
    return Run(Path(f"{state}{seed}{options}"), "retrieval", config, lines, {"final": lines[-1]} if finished else None)


def rows_of(runs):
    return {(row.state, row.measure): row for row in evidence(groups_of(runs))}


def test_gains_over_zero_are_paired_by_seed_and_positive_where_better():
    zero = [retrieval("zero", seed, [0.1, 0.2, 0.5 + 0.1 * seed]) for seed in range(3)]
    context = [retrieval("context", seed, [0.1, 0.96, 0.52 + 0.1 * seed]) for seed in range(3)]
    rows = rows_of(zero + context)
    accuracy = rows["context", "validation_accuracy"]
    assert accuracy.seeds == (0, 1, 2)
    assert accuracy.value.estimate == 0.62
    assert math.isclose(accuracy.gain.estimate, 0.02)
    assert math.isclose(accuracy.gain.low, 0.02)
    assert accuracy.improvement.estimate == 6 / 9, "ahead of the same seed and of the lower ones"
    assert rows["zero", "validation_accuracy"].gain is None
    epochs = rows["context", "epochs_to_95"]
    assert epochs.value == (1, 1, 1)
    assert rows["zero", "epochs_to_95"].value.estimate == math.inf
    assert epochs.gain is None, "from for ever to one epoch is no number of epochs"
    assert epochs.improvement.estimate == 1


def test_less_error_is_better():
    def run(state, seed, error):
        final = {"epoch": 1, "step": 1, "validation_squared_error": error, "free_running_squared_error": error}
        return Run(Path(f"{state}{seed}"), "decay", DecayConfig(state=state, seed=seed), [final], {"final": final})

    rows = rows_of([run(state, seed, error) for state, error in (("zero", 3.0), ("normal", 1.0)) for seed in (0, 1)])
    row = rows["normal", "validation_squared_error"]
    assert (row.value.estimate, row.gain.estimate, row.improvement.estimate) == (1, 2, 1)
    assert json.loads(json.dumps(row.as_dict()))["gain"] == [2, 2, 2]


def test_single_seeds_unfinished_runs_and_other_settings_say_nothing():
    single = [retrieval("zero", 0, [0.1, 0.2]), retrieval("context", 0, [0.1, 0.9])]
    assert not evidence(groups_of(single))
    unfinished = [retrieval("zero", seed, [0.1, 0.2], finished=seed > 0) for seed in range(3)]
    assert rows_of(unfinished)["zero", "validation_accuracy"].seeds == (1, 2)
    others = [retrieval("context", seed, [0.1, 0.2], units=20) for seed in range(2)]
    assert all(row.gain is None for row in evidence(groups_of(others + unfinished)))


def test_what_is_not_finite_is_null_in_json():
    runs = [retrieval("zero", seed, [0.1, 0.2]) for seed in range(2)]
    assert rows_of(runs)["zero", "epochs_to_99"].as_dict()["value"] == [None, None, None]
