"""Calls with lengths, masks, resets and burn-in: as a program where one can be made, uncompiled where none can."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._autocast import no_grad
from contextual_rnn._torch_internals import compiling_callback, disable_dynamo
from contextual_rnn.sequences.backend import KINDS, choose
from contextual_rnn.sequences.batch import Sequences
from contextual_rnn.sequences.model import Model
from contextual_rnn.sequences.running import runs_whole_rows
from contextual_rnn.spec.rows import map_tensors
from contextual_rnn.spec.tree import State


def run_sequences(
    model: Model, batch: tuple[Any, ...], given: Mapping[str, Any], hx: State | None, burn_in: int
) -> Any:
    """Output and final state of `ContextualRNN.forward` for `batch` and `given`, the arguments of `Sequences.of`.

    Raises ValueError for a batch that is cut where values say so under torch.export.
    """
    read = functools.partial(_read, model.backend, batch[0], given, burn_in)
    return run_by(model, read, _run, model, batch, given, hx, burn_in)


def check_sequences(model: Model, batch: tuple[Any, ...], given: Mapping[str, Any], burn_in: int) -> None:
    """Refuse what `run_sequences` refuses, before a state is drawn; a program does so when it runs."""
    if torch.compiler.is_compiling():
        return
    sequences = Sequences.of(model, *batch, **given, pieces="burn_in" if burn_in else None)
    if burn_in:
        sequences.split("burn_in", burn_in)


def run_by(
    model: Model, read: Callable[[nn.Module], str | None], function: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """function(*args, **options), uncompiled where `read(network)` names an argument whose values say what it does.

    torch.compile would make dozens of graphs of it, for seconds, and again for other values. What PyTorch itself does
    not compile, such as nn.LSTM unless it is told to, runs uncompiled too: PyTorch leaves this function, which takes
    the network from the model, as it is, and would compile what it calls.

    Raises ValueError where there is such an argument under torch.export.
    """
    if torch.compiler.is_compiling():
        name = read(model.network)
        uncompiled = name is not None
        if uncompiled and torch.compiler.is_exporting():
            raise ValueError(f"{name}: expected none under torch.export here, where its values are not known")
    else:
        uncompiled = bool(compiling_callback())
    return (_run_uncompiled if uncompiled else _run_here)(function, *args, **options)


def _read(backend: str, input: Any, given: Mapping[str, Any], burn_in: int, network: nn.Module) -> str | None:
    """The argument whose values say where the batch is cut or packed, None for a batch that a program can run."""
    if given["reset"] is not None:
        return "reset"
    name = "lengths" if given["mask"] is None else "mask"
    if given[name] is None or not isinstance(input, Tensor):  # a packed input is refused beside either
        return None
    if name == "mask" and burn_in > 0:
        return name
    native = type(network) in KINDS and backend != "reference" and choose(backend, network, [input]) == "native"
    return None if native or runs_whole_rows(network, input, given["final_state"] or burn_in > 0) else name


def _run(model: Model, batch: tuple[Any, ...], given: Mapping[str, Any], hx: State | None, burn_in: int) -> Any:
    sequences = Sequences.of(model, *batch, **given, pieces="burn_in" if burn_in else None)
    if burn_in == 0:
        return sequences.run(hx)
    before, after = sequences.split("burn_in", burn_in)
    with no_grad(sequences.input.device):
        _, carried = before.run(hx, carry=True)
    # no_grad lets derivatives that are carried forward pass.
    return after.run(hx, carried=map_tensors(Tensor.detach, carried))


def _run_here(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return function(*args, **options)


_run_uncompiled = disable_dynamo(_run_here)
