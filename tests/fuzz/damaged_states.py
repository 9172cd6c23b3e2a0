"""Files of states and weights, damaged: one documented error that names the file, or numbers that are sound."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.fuzz.calls import OURS
from tests.fuzz.draw import Draw, network_and_spec, random_state, subject
from tests.fuzz.of_files import hub_model
from tests.fuzz.outcome import Outcome
from tests.fuzz.safetensors_damage import IN_FILE
from tests.networks import tensors_of
from torch import Tensor, nn

from contextual_rnn.hub import HubContextualRNN
from contextual_rnn.serialization import load_carried_state, save_carried_state
from contextual_rnn.state_file import load_state, save_state

LONGEST = 10_000  # characters of a message
DOCUMENTED = (ValueError, TypeError, OSError)


@dataclass
class Saved:
    """A file on disk, how it is loaded, and what a refusal must leave as it was."""

    path: Path
    load: Callable[[], Any]
    module: nn.Module | None = None
    folder: Path | None = None


def _state(d: Draw, folder: Path) -> Saved:
    state, path = subject(d).state, folder / "a-state.safetensors"
    save_state(state, path)
    return Saved(path, lambda: (load_state(state, path), list(state.state_dict().values()))[1], state)


def _carried(d: Draw, folder: Path) -> Saved:
    _, spec = network_and_spec(d)
    path = folder / "a-carried.safetensors"
    save_carried_state(random_state(spec, d.choose([None, 1, 3])), path, spec)
    return Saved(path, lambda: tensors_of(load_carried_state(path, spec)))


def _hub(d: Draw, folder: Path) -> Saved:
    model, home = hub_model(), folder / "hub"
    model.save_pretrained(home)
    if not (home / "config.json").exists():
        (home / "config.json").write_text("{}")

    def load() -> Any:
        loaded = HubContextualRNN.from_pretrained(home, network=model.network, initial_state=model.initial_state,
                                                  local_files_only=True)  # fmt: skip
        return list(loaded.state_dict().values())

    return Saved(home / "model.safetensors", load, folder=home)


KINDS: dict[str, Callable[[Draw, Path], Saved]] = {"load_state": _state, "load_carried_state": _carried, "hub": _hub}


def _replace(make: Callable[[Path], Any]) -> Callable[[Draw, Path], object]:
    def damage(d: Draw, path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _another(d: Draw, path: Path) -> None:
    """A sound file of another kind, or of another network."""
    kind = d.choose(list(KINDS))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(KINDS[kind](d, Path(folder)).path, path)


DAMAGES: dict[str, Callable[[Draw, Path], object]] = {
    **IN_FILE,
    "a folder": _replace(lambda path: path.mkdir()),
    "missing": _replace(lambda path: None),
    "empty": _replace(lambda path: path.write_bytes(b"")),
    "text": _replace(lambda path: path.write_text("a state")),
    "a pickle": _replace(lambda path: torch.save({"h": torch.zeros(1)}, path)),
    "a link to itself": _replace(lambda path: path.symlink_to(path)),
    "a link to nothing": _replace(lambda path: path.symlink_to("/dev/null")),
    "another file": _another,
}
# Of a hub's folder.
CONFIGS = [
    "", "{", "[]", "null", "1", '"x"', "[" * 100_000, '{"a":' * 10_000, '{"hidden_size": "x"}', "\0", '{"a":NaN}',
    '{"network": 1}', '{"a":1,"a":2}', '{"n": 9' + "9" * 5000 + "}",
]  # fmt: skip


def damage(d: Draw, saved: Saved) -> str:
    """Damage the file, or a hub's configuration; returns how."""
    if saved.folder is not None and d.chance(0.25):
        saved.path = config = saved.folder / "config.json"
        if d.chance(0.2):
            config.unlink()
            config.mkdir()
            return "config.json a folder"
        text = d.choose(CONFIGS)
        config.write_text(text)
        return f"config.json {text[:20]!r}"
    name = d.choose(list(DAMAGES))
    DAMAGES[name](d, saved.path)
    return name


def run(seed: str, number: int) -> Outcome:
    """Write a file, damage it, load it."""
    d = Draw(f"{seed}/{number}")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        name = list(KINDS)[number % len(KINDS)]
        saved = KINDS[name](d, Path(folder))
        how = damage(d, saved)
        before = _copies(saved.module)
        try:
            loaded = saved.load()
        except Exception as error:
            return _judged(name, how, saved, before, error)
        if saved.path.name == "config.json":
            return Outcome(name, how, "right")
        for tensor in loaded:
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return Outcome(name, how, "finding", "taken", how, "numbers that are not finite were loaded")
        if how in ("another dtype", "a folder", "a tensor less", "a renamed tensor", "cut off"):
            return Outcome(name, how, "finding", "taken", how, "the damaged file was loaded")
        return Outcome(name, how, "right")


def _judged(name: str, how: str, saved: Saved, before: list[Tensor], error: Exception) -> Outcome:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(OURS)]
    place = f"{os.path.relpath(frames[-1].filename, OURS)}:{frames[-1].name}" if frames else ""
    message, kind = " ".join(str(error).split())[:300], type(error).__name__
    if not isinstance(error, DOCUMENTED):
        return Outcome(name, how, "finding", kind, place, message)
    if len(str(error)) > LONGEST:
        return Outcome(name, how, "finding", "a message of many pages", place, message)
    if saved.path.name not in str(error):
        return Outcome(name, how, "finding", f"{kind} without the file's name", place, message)
    if not all(map(torch.equal, before, _copies(saved.module))):
        return Outcome(name, how, "finding", "changed", place, "a refused file changed the state")
    return Outcome(name, how, "refused", kind, place, message)


def _copies(module: nn.Module | None) -> list[Tensor]:
    return [] if module is None else [tensor.detach().clone() for tensor in module.state_dict().values()]
