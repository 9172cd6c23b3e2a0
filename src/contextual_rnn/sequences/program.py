"""Calls with lengths, masks, resets and burn-in: as a program where one can be made, uncompiled where none can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from contextual_rnn._autocast import no_grad
from contextual_rnn._torch_internals import disable_dynamo, is_compiled
from contextual_rnn.sequences.batch import Sequences
from contextual_rnn.sequences.model import Model
from contextual_rnn.sequences.running import takes_packed
from contextual_rnn.spec.tree import State


def run_sequences(
    model: Model, batch: tuple[Any, ...], given: Mapping[str, Any], hx: State | None, burn_in: int
) -> Any:
    """Output and final state of `ContextualRNN.forward` for `batch` and `given`, the arguments of `Sequences.of`.

    Under torch.compile a batch that is cut where values say so runs uncompiled: it would be compiled in dozens of
    pieces, for seconds, and again for other values. So does what PyTorch does not compile, such as nn.LSTM unless it is
    told to.

    Raises ValueError for a batch that is cut so under torch.export.
    """
    if torch.compiler.is_compiling():
        name = _read(model.network, given, burn_in)
        uncompiled = name is not None
        if uncompiled and torch.compiler.is_exporting():
            raise ValueError(f"{name}: expected none under torch.export here, where its values are not known")
    else:
        uncompiled = is_compiled()
    return (_run_uncompiled if uncompiled else _run)(model, batch, given, hx, burn_in)


def _read(network: nn.Module, given: Mapping[str, Any], burn_in: int) -> str | None:
    """The argument whose values say where the batch is cut, None for a batch that a program can run."""
    if given["reset"] is not None:
        return "reset"
    name = "lengths" if given["mask"] is None else "mask"
    cut = given[name] is not None and (not takes_packed(network) or (name == "mask" and burn_in > 0))
    return name if cut else None


def _run(model: Model, batch: tuple[Any, ...], given: Mapping[str, Any], hx: State | None, burn_in: int) -> Any:
    sequences = Sequences.of(model, *batch, **given, pieces="burn_in" if burn_in else None)
    if burn_in == 0:
        return sequences.run(hx)
    before, after = sequences.split("burn_in", burn_in)
    with no_grad(sequences.input.device):
        _, carried = before.run(hx, carry=True)
    return after.run(hx, carried=carried)


_run_uncompiled = disable_dynamo(_run)
