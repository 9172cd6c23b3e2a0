"""A backend from a kernel: what `fast_weights` is called with becomes what the kernel is given."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from contextual_rnn._shapes import Float, Int
from contextual_rnn.ops._fast_weights.attention import final_fast_weights
from contextual_rnn.ops._fast_weights.kernel import Given, Settings
from contextual_rnn.ops._fast_weights.operation import KERNELS, OPERATIONS
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, LowRank, decay_tables
from contextual_rnn.ops.native.autograd import is_eager, run_as_operator, run_eagerly

Backend = Callable[..., tuple[Tensor, Tensor | None]]


def prepare(
    inputs: Tensor,
    steps: int,
    weight_hh: Tensor,
    h0: Tensor,
    a0: Tensor | LowRank | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    lengths: Tensor | None,
    options: FastWeightsOptions,
    weight_ih: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Given, Settings]:
    """What a kernel is given, from what a backend is."""
    left, right = a0 if isinstance(a0, LowRank) else (None, None)
    given = Given(
        inputs, weight_hh, h0, a0 if isinstance(a0, Tensor) else None, left, right, norm_weight, norm_bias,
        *decay_tables(options, steps, inputs), None if lengths is None else lengths.long(), weight_ih, bias,
    )  # fmt: skip
    shared = isinstance(a0, Tensor) and a0.stride(0) == 0
    return given, Settings.of(options, shared)


def backend_of(name: str) -> Backend:
    """The backend that runs the kernel of that name.

    Beside what every backend takes it may be given weight_ih and bias: inputs are then features yet to be projected.
    """
    kernel, operation = KERNELS[name], OPERATIONS[name]

    def backend(
        inputs: Float[Tensor, "B T I"],
        weight_hh: Float[Tensor, "H H"],
        h0: Float[Tensor, "B H"],
        a0: Float[Tensor, "B H H"] | LowRank | None,
        norm_weight: Float[Tensor, " H"] | None,
        norm_bias: Float[Tensor, " H"] | None,
        lengths: Int[Tensor, " B"] | None,
        options: FastWeightsOptions,
        weight_ih: Float[Tensor, "H I"] | None = None,
        bias: Float[Tensor, " H"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H H"] | None]:
        if not kernel.supports(weight_hh):
            raise ValueError(
                f"backend: expected tensors for the {kernel.name} kernel, {kernel.availability()}, "
                f"got {inputs.dtype} of {weight_hh.shape[-1]} units on {inputs.device}"
            )
        given, settings = prepare(
            inputs, inputs.shape[1], weight_hh, h0, a0, norm_weight, norm_bias, lengths, options, weight_ih, bias
        )
        eager = is_eager(given)
        if weight_ih is not None and not (eager and kernel.projects(weight_ih)):
            projected = functional.linear(given.inputs, weight_ih, bias)
            given = given._replace(inputs=projected, weight_ih=None, bias=None)
        keep_written = settings.write_before_read and options.return_fast_weights
        if eager:
            output, written = run_eagerly(operation, given, settings, keep_written)
        else:
            from contextual_rnn.ops._fast_weights.operators import OPERATORS

            output, written = run_as_operator(operation, OPERATORS[name], given, settings, keep_written)
        if not options.return_fast_weights:
            return output, None
        tables = given.discounts, given.retained
        return output, final_fast_weights(output if written is None else written, a0, lengths, tables)

    return backend
