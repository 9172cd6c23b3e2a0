"""Does a model really begin from a state? A tiny run, whole against token by token, and a gradient against numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from contextual_rnn.language.cache import InitialCache
from contextual_rnn.language.layout import StateTensor
from contextual_rnn.spec.steps import evaluation

TOKENS = 6


def probe(
    model: PreTrainedModel, base: PreTrainedModel, tensors: Sequence[StateTensor], tolerance: float | None
) -> None:
    """Refuse a model that ignores a state, whose whole run differs from its steps, or whose gradients are wrong.

    `tolerance` is the difference that is allowed, as a part of the largest output; by default the square root of the
    precision of the model's dtype: 3e-4 in float32, 9e-2 in bfloat16.
    """
    precision = max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)  # states are computed in float32
    tolerance = math.sqrt(precision) if tolerance is None else tolerance
    generator = torch.Generator().manual_seed(0)
    embeddings: Any = model.get_input_embeddings().num_embeddings
    ids = (torch.arange(2 * TOKENS, device="cpu").view(2, TOKENS) % embeddings).to(model.device)
    state = {t.name: torch.randn(2, *t.shape, generator=generator, device="cpu").to(t.device, t.dtype) for t in tensors}

    def run(values: Mapping[str, Tensor]) -> Tensor:
        return model(ids, cache=InitialCache(base, tensors, values))[0].float()

    with evaluation(model):
        with torch.no_grad():
            whole = run(state)
            steps = _token_by_token(model, ids, InitialCache(base, tensors, state))
            effect = _largest(whole - model(ids)[0].float())
        difference, size = _largest(whole - steps), _largest(whole)
        if not difference <= min(tolerance * size, 0.3 * effect):
            raise ValueError(
                f"{_refused(model)}: from one state, a whole run and single tokens give outputs that differ by "
                f"{difference:.1e} of {size:.1e}, where a state changes them by {effect:.1e}; tolerance=... allows more"
            )
        _check_gradient(
            model, state, run, torch.randn(whole.shape, generator=generator, device="cpu").to(whole), precision
        )


def _token_by_token(model: PreTrainedModel, ids: Tensor, cache: InitialCache) -> Tensor:
    # As `generate` does: Bamba counts positions anew with each call that does not say them.
    counted = "position_ids" in inspect.signature(model.forward).parameters
    outputs = []
    for number, token in enumerate(ids.split(1, 1)):
        places = {"position_ids": torch.full_like(token, number)} if counted else {}
        outputs.append(model(token, cache=cache, **places)[0].float())
    return torch.cat(outputs, 1)


def _check_gradient(
    model: PreTrainedModel,
    state: dict[str, Tensor],
    run: Callable[[Mapping[str, Tensor]], Tensor],
    cotangent: Tensor,
    precision: float,
) -> None:
    """Along the gradient itself, where the difference is largest beside rounding."""
    with torch.enable_grad():
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
        outputs = run(leaves)
        output = (outputs * cotangent).sum()
        if not output.requires_grad:
            raise ValueError(f"{_refused(model)}: no gradient reaches the state")
        gradients = torch.autograd.grad(output, list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, gradients, strict=True):
        if gradient is None or not bool(gradient.any()):
            raise ValueError(f"{_refused(model)}: no gradient reaches {name}")
    slope, numeric = _norm(gradients), math.nan
    rounding, rough = precision * _norm([outputs.detach()]), precision > torch.finfo(torch.float32).eps
    # The shorter the step, the straighter the model is, and the more rounding there is: a multiple of what that is.
    for multiple in (10, 3) if rough else (10_000, 1000, 100):
        step = multiple * rounding / slope
        moves = {name: gradient * (step / slope) for name, gradient in zip(state, gradients, strict=True)}
        with torch.no_grad():
            ahead = run({name: tensor + moves[name] for name, tensor in state.items()})
            behind = run({name: tensor - moves[name] for name, tensor in state.items()})
        numeric = float(((ahead - behind) * cotangent).sum()) / (2 * step)
        if abs(numeric - slope) <= (0.5 if rough else 0.05) * slope:
            return
    raise ValueError(f"{_refused(model)}: a derivative by the state is {slope:.3e}, its difference {numeric:.3e}")


def _refused(model: PreTrainedModel) -> str:
    kind, release = type(model).__name__, version("transformers")
    return f"model: expected one that begins from a state, got {kind} of transformers {release}"


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.float().square().sum()) for tensor in tensors))


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())
