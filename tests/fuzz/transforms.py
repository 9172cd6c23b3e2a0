"""Calls under torch.func: mapped over copies of one tensor, or differentiated by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.fuzz.call import Call
from tests.fuzz.draw import Draw
from tests.networks import tensors_of
from torch import Tensor

# Nothing in them is drawn, so that the numbers can be compared.
EXACT = (
    "fast_weights", "FastWeightsRNN.forward", "FastWeightsCell.forward", "FastWeightsRNN.recur", "LowRank",
    "FastWeightsRNN.project", "AdditiveAttention.forward", "StateSpec.pack", "StateSpec.unpack", "ContextState.forward",
    "ContextState.from_features",
)  # fmt: skip


def place_of(d: Draw, call: Call) -> int | str | None:
    """An argument that is a tensor of floats."""
    entries = [*enumerate(call.args), *call.kwargs.items()]
    places = [place for place, value in entries if isinstance(value, Tensor) and value.is_floating_point()]
    return d.choose(places) if places else None


def _outputs(build: Callable[[], Call], place: int | str, tensor: Tensor) -> list[Tensor]:
    call = build()
    holder: Any = call.kwargs if isinstance(place, str) else call.args
    holder[place] = tensor
    return [output for output in tensors_of(call.function(*call.args, **call.kwargs)) if output.is_floating_point()]


def mapped(build: Callable[[], Call], place: int | str, tensor: Tensor) -> list[Tensor]:
    """The outputs for two copies of the tensor, the second of which is returned."""
    run = torch.func.vmap(lambda each: _outputs(build, place, each), randomness="same")
    return [output[1] for output in run(torch.stack([tensor, tensor]))]


def plain(build: Callable[[], Call], place: int | str, tensor: Tensor) -> list[Tensor]:
    return [output.detach() for output in _outputs(build, place, tensor)]


def _sum(outputs: list[Tensor]) -> Tensor:
    return sum((output.double().cos().sum() for output in outputs), torch.zeros((), dtype=torch.float64))


def gradient(build: Callable[[], Call], place: int | str, tensor: Tensor) -> list[Tensor]:
    """By torch.func."""
    return [torch.func.grad(lambda each: _sum(_outputs(build, place, each)))(tensor)]


def plain_gradient(build: Callable[[], Call], place: int | str, tensor: Tensor) -> list[Tensor]:
    """By autograd."""
    leaf = tensor.detach().clone().requires_grad_()
    total = _sum(_outputs(build, place, leaf))
    found = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
    return [torch.zeros_like(tensor) if found is None else found]


TRANSFORMS = {"vmap": (mapped, plain), "grad": (gradient, plain_gradient)}
