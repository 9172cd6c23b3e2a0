"""Finished runs that nobody trained, for tests of what is said about them."""

from dataclasses import replace
from pathlib import Path

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.runs.folder import Run


def retrieval_run(study, state, seed, accuracy, *, epochs=30, rise=10, **options):
    """Accuracy rises in a straight line to `accuracy` at epoch `rise` and stays there."""
    config = RetrievalConfig(state=state, seed=seed, epochs=epochs, **options)
    curve = [accuracy * min(1.0, epoch / rise) for epoch in range(epochs + 1)]
    metrics = [{"epoch": e, "validation_accuracy": a, "validation_log_likelihood": a - 1} for e, a in enumerate(curve)]
    return _run(study, "retrieval", config, metrics, {**metrics[-1], "test_accuracy": accuracy - 0.001})


def decay_run(study, state, seed, error, *, epochs=65):
    config = DecayConfig(state=state, seed=seed, epochs=epochs)
    metrics = [{"epoch": epoch, "validation_squared_error": error} for epoch in range(epochs + 1)]
    return _run(study, "decay", config, metrics, {**metrics[-1], "free_running_squared_error": 10 * error})


def _run(study, task, config, metrics, final):
    folder = Path("runs", study, f"{config.state}-seed{config.seed}")
    command = f"contextual-rnn train {task} --out {folder}"
    result = {"final": final, "seconds": 1.0, "command": command, "parameters": 7, "versions": {"torch": "1"}}
    return Run(folder, task, config, metrics, result)


def every_study():
    """A small set of every experiment: the paper's gap under the authors' start, none under a sound one."""
    return [run for seed in range(3) for run in _of_one_seed(seed, off=0.001 * seed)]


def _of_one_seed(seed, off):
    authors = {"zero": 0.7, "free": 0.95, "context": 0.99}
    switched = {"embedding": 0.9, "bias": 0.6, "norm": 0.7 + 0.01 * (seed - 1)}
    paper = {"epochs": 200, "start": "wenke2019", "leaves": "h+a"}
    runs = []
    for state, accuracy in authors.items():
        runs.append(retrieval_run("retrieval-authors-start", state, seed, accuracy + off, **paper))
        alone = paper | {"leaves": "h"}
        runs.append(retrieval_run("retrieval-authors-start-h", state, seed, 0.99 - accuracy / 10, **alone))
        for timing in ("wenke2019", "ba2016"):
            level = 0.99 + 0.002 * (-1) ** (seed + (state == "zero"))
            runs.append(retrieval_run("map", state, seed, accuracy - off, start="wenke2019", timing=timing))
            runs.append(retrieval_run("map", state, seed, level, timing=timing))
    for name, accuracy in switched.items():
        runs.append(retrieval_run("ingredients", "zero", seed, accuracy, start="wenke2019", switched=name))
    runs.append(retrieval_run("ingredients", "zero", seed, 0.8, switched="embedding"))
    runs.append(retrieval_run("controls", "context", seed, 0.71, start="wenke2019", shuffled_context=True))
    for units, accuracy in ((20, 0.981), (50, 1.0)):
        runs.append(retrieval_run("table1", "zero", seed, accuracy, epochs=200, timing="ba2016", units=units))
    for state, error in (("zero", 0.001), ("normal", 0.0008 + off / 20)):
        runs.append(decay_run("decay-paper", state, seed, error))
    return runs


def diverged(run):
    """The run as if its loss had ended after the epochs that it has."""
    final = {"epoch": run.metrics[-1]["epoch"], "step": 1}
    return replace(run, result={**run.result, "final": final, "diverged": "loss of step 2 is not finite"})
