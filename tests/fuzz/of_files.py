"""Valid calls of what writes and reads files, and of the command line."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from tests.fuzz.call import Call, case
from tests.fuzz.draw import Draw, network_and_spec, random_state, subject
from torch import nn

from contextual_rnn import ContextState
from contextual_rnn.experiments.cli.main import main
from contextual_rnn.hub import HubContextualRNN
from contextual_rnn.serialization import (
    load_carried_state,
    load_state,
    load_weights,
    save_carried_state,
    save_state,
    save_weights,
)
from contextual_rnn.serialization.states import tensors_of

FOLDER = tempfile.TemporaryDirectory(prefix="contextual-rnn-fuzz-")


def new_path(name: str) -> Path:
    return Path(tempfile.mkdtemp(dir=FOLDER.name)) / name


@case("save_state")
def _(d: Draw) -> Call:
    return Call(save_state, [subject(d).state, new_path("state.safetensors")], also=(OSError,))


@case("load_state")
def _(d: Draw) -> Call:
    state, path = subject(d).state, new_path("state.safetensors")
    save_state(state, path)
    return Call(load_state, [state, d.choose([path, str(path)])], changes=True, also=(OSError,))


@case("save_carried_state")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    state = random_state(spec, d.choose([None, 1, 3]))
    return Call(save_carried_state, [state, new_path("carried.safetensors"), spec], also=(OSError,))


@case("load_carried_state")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    path, state = new_path("carried.safetensors"), random_state(spec, d.choose([None, 1, 3]))
    save_carried_state(state, path, spec)

    def expect(loaded: Any) -> None:
        for name, leaf in spec.unpack(loaded).items():
            assert torch.equal(leaf, spec.unpack(state)[name]), "another state than was saved"

    return Call(load_carried_state, [path, spec], d.some(device="cpu"), expect=expect, also=(OSError,))


def hub_model() -> HubContextualRNN:
    lstm = nn.LSTM(3, 5)
    return HubContextualRNN(lstm, ContextState(lstm, nn.Linear(2, 6)))


@case("save_weights", "load_weights")
def _(d: Draw) -> Call:
    path, model = new_path("model.safetensors"), hub_model()
    if d.chance(0.5):
        return Call(save_weights, [model, path], also=(OSError,), keep=("0",))
    save_weights(model, path)
    return Call(load_weights, [model, path], d.some(strict=True), changes=True, also=(OSError,), keep=("0",),
                finish=lambda _: tensors_of(model))  # fmt: skip


@case("HubContextualRNN", "HubContextualRNN.generate_model_card")
def _(d: Draw) -> Call:
    return Call(lambda model: str(model.generate_model_card()), [hub_model()], keep=("0",))


@case("HubContextualRNN.from_pretrained")
def _(d: Draw) -> Call:
    path, model = new_path("hub"), hub_model()
    model.save_pretrained(path)
    options = {"network": model.network, "initial_state": model.initial_state, "local_files_only": True}
    return Call(HubContextualRNN.from_pretrained, [path], options, changes=True, also=(OSError,),
                keep=("local_files_only",),
                finish=lambda loaded: list(loaded.parameters()))  # fmt: skip


def _run_main(*arguments: Any) -> Any:
    """The exit status and how many lines were printed; argparse's own exit with 2 is an answer too."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main(list(arguments))
        except SystemExit as exit_:
            status = exit_.code
    assert status in (0, 1, 2), f"an exit status of {status!r}"
    assert status != 1 or errors.getvalue().strip(), "an error without a word"
    assert "Traceback" not in errors.getvalue(), "a traceback"
    return status


NUMBERS = ["nan", "inf", "-1", "0", "1e400", "10**9", "", "x", "1e-400", "9" * 400, "-0.0", "None", "True"]
SIZES = ["--units", "--pairs", "--batch-size", "--inner-steps", "--readout-units", "--train-samples"]
TRAIN = {
    "retrieval": ["--epochs", "1", "--train-samples", "4", "--validation-samples", "4", "--units", "4", "--pairs", "1"],
    "decay": ["--epochs", "1", "--samples-per-period", "2", "--units", "3", "--context-units", "2"],
}
OPTIONS = {
    "retrieval": ["--units", "--pairs", "--batch-size", "--decay", "--rate", "--learning-rate", "--seed", "--threads",
                  "--alphabet-size", "--inner-steps", "--state", "--timing", "--modified", "--network"],
    "decay": ["--units", "--batch-size", "--scale", "--min-scale", "--kl-weight", "--clip-norm", "--seed", "--state",
              "--learning-rate"],
}  # fmt: skip


@case("main", "parse")
def _(d: Draw) -> Call:
    folder = str(new_path("runs"))
    kind = d.choose(["info", "results", "report", "generate", "train", "train", "words"])
    if kind == "train":
        task = d.choose(list(TRAIN))
        arguments = ["train", task, *TRAIN[task], "--out", folder]
        arguments += [d.choose(OPTIONS[task]), d.choose(NUMBERS)]
    elif kind == "words":
        words = ["train", "--help", "decay", "--out", "sweep", "--nothing", "", "retrieval", "é", "--seed", "7"]
        arguments = [d.choose(words) for _ in range(d.choose([1, 2, 3]))]
        if arguments in (["train", "decay"], ["train", "retrieval"]):
            arguments.append("--nothing")
    elif kind == "info":
        arguments = ["info"]
    elif kind == "generate":
        arguments = ["generate", folder, "--samples", d.choose(NUMBERS), "--period", d.choose(NUMBERS)]
    else:
        arguments = [kind, d.choose([folder, "", "/dev/null", "file:///nowhere", "x://y", "\0", "é" * 300])]
    return Call(_run_main, arguments, changes=True, same=False, keep=tuple(map(str, range(len(arguments)))))
