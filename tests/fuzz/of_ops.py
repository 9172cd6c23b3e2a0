"""Valid calls of the recurrence, by function, by operator and by its parts."""

from __future__ import annotations

from typing import Any

import torch
from tests.fuzz.call import Call, case
from tests.fuzz.draw import Draw
from tests.networks import tensors_of
from torch import Tensor

from contextual_rnn import LowRank, ops
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.classification import Classification, Parameters
from contextual_rnn.ops._fast_weights.kernel import Given, Settings
from contextual_rnn.ops._fast_weights.operators import OPERATORS
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, decay_tables

B, T, H, FEATURES, RANK = 3, 4, 5, 3, 2


def _finite(result: Any) -> None:
    for tensor in tensors_of(result):
        assert tensor.isfinite().all(), "a result that is not finite"


@case("fast_weights")
def _(d: Draw) -> Call:
    dtype, project = d.choose([torch.float32, torch.float64]), d.chance(0.4)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, dtype=dtype)

    a0 = d.choose([None, random(B, H, H), random(1, H, H).expand(B, H, H),
                   LowRank(random(B, RANK, H), random(B, RANK, H))])  # fmt: skip
    norm = d.chance(0.6)
    steps = d.choose([1, T, 3 * H if norm else T])  # without, what is written grows without bound
    options = d.some(
        inner_steps=2, decay=d.choose([0.9, torch.tensor(0.9, dtype=dtype)]), rate=0.25, timing="wenke2019", eps=1e-4,
        lengths=torch.randint(1, steps + 1, (B,)), return_fast_weights=True,
        backend=d.choose(["attention", "reference", "cpu", "auto"]),
    )  # fmt: skip
    options["layer_norm"] = norm
    if not norm:
        options |= {"rate": 0.02, "inner_steps": 1}
    if norm and d.chance(0.5):
        options |= {"norm_weight": random(H), "norm_bias": random(H)}
    if project:
        options |= {"weight_ih": random(H, FEATURES), **d.some(bias=random(H))}
    inputs = random(B, steps, FEATURES if project else H)
    backward = d.chance(0.4)
    weight, h0 = random(H, H), random(B, H)
    if backward:
        weight.requires_grad_()

    def finish(result: Any) -> Any:
        output = result[0]
        if not (backward and output.requires_grad and output.ndim):
            return result
        return result, torch.autograd.grad(
            (output * torch.linspace(-1, 1, H, dtype=output.dtype, device=output.device)).sum(), weight
        )

    return Call(ops.fast_weights, [inputs, weight, h0, a0], options, expect=_finite, finish=finish, gradient=backward,
                keep=("1",) if backward else ())  # fmt: skip


def _given(d: Draw) -> tuple[Given, Settings]:
    inner_steps, norm = d.choose([(1, False), (1, True), (2, True)])  # without norm what is written grows
    rate = 0.25 if norm else 0.02
    options = FastWeightsOptions(inner_steps, 0.9, rate, norm, d.choose(list(ops.TIMINGS)), 1e-5, False)
    inputs = 0.3 * torch.randn(B, T, H)
    low, dense = (0.3 * torch.randn(2, B, RANK, H)).unbind(0), 0.3 * torch.randn(B, H, H)
    a0, left, right = d.choose([(None, None, None), (dense, None, None), (None, *low)])
    norm = (torch.rand(H), torch.rand(H)) if options.layer_norm and d.chance(0.5) else (None, None)
    lengths = d.choose([None, torch.randint(1, T + 1, (B,))])
    given = Given(
        inputs, 0.3 * torch.randn(H, H), torch.rand(B, H), a0, left, right, *norm,
        *decay_tables(options, T, inputs), lengths,
    )  # fmt: skip
    return given, Settings.of(options, False)


if cpu.availability().startswith("available"):

    @case("torch.ops.contextual_rnn.fast_weights_cpu")
    def _(d: Draw) -> Call:
        given, settings = _given(d)
        operator = OPERATORS["cpu"]
        args = [*given[:11], *settings, d.chance(0.5), d.chance(0.5)]
        # What is saved is scratch whose padding is never read.
        return Call(operator, args, finish=lambda result: result[0], expect=_finite, also=(RuntimeError,))

    @case("torch.ops.contextual_rnn.fast_weights_cpu_backward")
    def _(d: Draw) -> Call:
        given, settings = _given(d)
        output, _, saved = OPERATORS["cpu"](*given[:11], *settings, True, False)
        operator = torch.ops.contextual_rnn.fast_weights_cpu_backward.default
        wanted = [tensor is not None for tensor in given[:10]] + [False]  # lengths have no gradient
        args = [*given[:11], *settings, output, saved, torch.randn(B, T, H), None, wanted]
        return Call(
            operator, args, expect=_finite, plain=True, also=(RuntimeError,)
        )  # of what was saved for another call

    def _parameters() -> Parameters:
        sizes = (7, FEATURES), (H, FEATURES), (H,), (H, H), (H,), (H,), (6, H), (6,), (4, 6), (4,)
        return Parameters(*(0.3 * torch.randn(size) for size in sizes))

    @case("ops.classification.Classification")
    def _(d: Draw) -> Call:
        parameters = _parameters()
        grads = d.choose([None, Parameters(*map(torch.zeros_like, parameters))])
        options = FastWeightsOptions(1, 0.9, 0.25, True, "ba2016", 1e-5, False)
        return Call(Classification, [parameters, grads, options], makes=True, plain=True, keep=("0", "1", "2"))

    @case("ops.classification.Classification.__call__")
    def _(d: Draw) -> Call:
        options = FastWeightsOptions(1, 0.9, 0.25, True, d.choose(list(ops.TIMINGS)), 1e-5, False)
        native = Classification(_parameters(), None, options)
        low_rank = LowRank(*(0.3 * torch.randn(2, B, RANK, H)))
        a0 = d.choose([None, 0.3 * torch.randn(B, H, H), low_rank])
        args = [torch.randint(7, (B, T)), torch.randint(4, (B,)), torch.rand(B, H), a0]
        return Call(native, args, expect=_finite, gradient=True, plain=True, also=(RuntimeError,),
                    finish=lambda result: (result.loss, result.parameters))  # fmt: skip
