"""Recurrent networks with fast weights (Ba et al. 2016): parameters, layouts and sequences; the sums are in `ops`."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from contextual_rnn import ops
from contextual_rnn._lengths import packed_like
from contextual_rnn._numbers import check_elements, check_factory, check_flag, check_size, shortened
from contextual_rnn._tensors import FLOATS, check_dense
from contextual_rnn.layers.fast_weights_state import check_input, split_state, unsqueeze_state
from contextual_rnn.layers.fast_weights_steps import SequenceStep, cell_step
from contextual_rnn.ops._fast_weights.choice import FastWeightsBackend, check_backend
from contextual_rnn.ops._fast_weights.dispatch import checked_options
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, LowRank, Timing
from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import StateSpec, state_spec
from contextual_rnn.spec.steps import LEAVE_STATES_ALONE
from contextual_rnn.spec.tree import State


class _FastWeights(nn.Module):
    """Parameters and options that the cell and the sequence network share; see `FastWeightsRNN`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        inner_steps: int = 1,
        decay: float | Tensor = 0.95,
        rate: float | Tensor = 0.5,
        bias: bool = True,
        layer_norm: bool = True,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        timing: Timing = "ba2016",
        backend: FastWeightsBackend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        input_size, hidden_size = check_size("input_size", input_size), check_size("hidden_size", hidden_size)
        check_elements(hidden_size=hidden_size, input_size=max(input_size, hidden_size))
        check_flag("bias", bias)
        check_flag("elementwise_affine", elementwise_affine)
        inner_steps = checked_options(inner_steps, decay, rate, layer_norm, timing, eps, False).inner_steps
        check_backend(backend)
        device, dtype = check_factory(device, dtype)
        if dtype is not None and dtype not in FLOATS:
            raise TypeError(f"dtype: expected a floating-point dtype of at least 16 bits, got {dtype}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.inner_steps, self.decay, self.rate = inner_steps, decay, rate
        self.timing: Timing = timing
        self.backend: FastWeightsBackend = backend
        self.layer_norm, self.eps = layer_norm, eps
        self._learned = {name: p.item() for name, p in self.named_parameters() if not p.is_meta}  # decay, rate
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size, **place))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size, **place))
        self.bias = nn.Parameter(torch.empty(hidden_size, **place)) if bias else None
        affine = layer_norm and elementwise_affine
        self.norm_weight = nn.Parameter(torch.empty(hidden_size, **place)) if affine else None
        self.norm_bias = nn.Parameter(torch.empty(hidden_size, **place)) if affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W = 0.05 I (Ba et al. 2016); C and b uniform within 1 / sqrt(input_size), as torch's linear layers.

        A learned decay or rate starts anew where it started.
        """
        bound = 1 / math.sqrt(self.input_size)
        with torch.no_grad():
            self.weight_hh.zero_().fill_diagonal_(0.05)
            for name, start in self._learned.items():
                if isinstance(parameter := self._parameters.get(name), nn.Parameter):
                    parameter.fill_(start)
        nn.init.uniform_(self.weight_ih, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        if self.norm_weight is not None and self.norm_bias is not None:
            nn.init.ones_(self.norm_weight)
            nn.init.zeros_(self.norm_bias)

    def extra_repr(self) -> str:
        decay, rate = ("tensor" if isinstance(value, Tensor) else value for value in (self.decay, self.rate))
        return (
            f"{self.input_size}, {self.hidden_size}, inner_steps={self.inner_steps}, decay={decay}, "
            f"rate={rate}, layer_norm={self.layer_norm}, timing={self.timing!r}"
        )

    @property
    def options(self) -> FastWeightsOptions:
        """The options of the recurrence, as `ops.fast_weights` takes them."""
        return checked_options(self.inner_steps, self.decay, self.rate, self.layer_norm, self.timing, self.eps, False)

    def project(self, input: Tensor) -> Tensor:
        """What the inputs add to the bracket, C x + b: (..., input_size) to (..., H).

        Raises ValueError for inputs of another width, dtype or device than the weights.
        """
        check_input(input, self.weight_ih)
        return functional.linear(input, self.weight_ih, self.bias)

    def recur(
        self,
        projected: Tensor,
        hx: State | None = None,
        *,
        lengths: Tensor | None = None,
        return_fast_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The recurrence alone, over inputs that were projected before: (B, T, H) to all h(t) and the final A.

        For who can project more cheaply than step by step: of tokens, a table of their few projections is enough. hx
        is as `FastWeightsRNN` takes it; the shapes and errors are those of `ops.fast_weights`.
        """
        return self._recur(projected, hx, lengths, return_fast_weights)

    def _recur(
        self, inputs: Tensor, hx: State | None, lengths: Tensor | None, return_fast_weights: bool, **projection: Any
    ) -> tuple[Tensor, Tensor | None]:
        h0, a0 = split_state(hx)
        if h0 is None:
            check_dense("inputs", inputs)
            h0 = inputs.new_zeros(*inputs.shape[:1], self.hidden_size)
        return ops.fast_weights(
            inputs,
            self.weight_hh,
            h0,
            a0,
            norm_weight=self.norm_weight,
            norm_bias=self.norm_bias,
            layer_norm=self.layer_norm,
            inner_steps=self.inner_steps,
            decay=self.decay,
            rate=self.rate,
            timing=self.timing,
            eps=self.eps,
            lengths=lengths,
            return_fast_weights=return_fast_weights,
            backend=self.backend,
            **projection,
        )


class FastWeightsRNN(_FastWeights):
    """A recurrent network with fast weights over a sequence (Ba et al. 2016, Eqs. 1 and 2; see `ops.fast_weights`).

    `inner_steps` is S, `decay` and `rate` are lambda and eta, `timing` says when A is written: "ba2016", the finished
    h(t) after the read, or "wenke2019", the preliminary h_0 before it. `decay` and `rate` are numbers, or tensors of
    no axes; a parameter is learned, and is to be kept within its range (`torch.nn.utils.parametrize`).
    `elementwise_affine` gives layer norm its gain and bias, shared by all inner steps. Parameters: weight_ih C
    (H, input_size), weight_hh W (H, H), bias (H,).

    Raises ValueError or TypeError for sizes and options out of range.
    Deviation from Ba et al.: a bias in the bracket, as in torch's networks; `bias=False` leaves it out.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        batch_first: bool = False,
        return_fast_weights: bool = False,
        inner_steps: int = 1,
        decay: float | Tensor = 0.95,
        rate: float | Tensor = 0.5,
        bias: bool = True,
        layer_norm: bool = True,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        timing: Timing = "ba2016",
        backend: FastWeightsBackend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(
            input_size, hidden_size, inner_steps=inner_steps, decay=decay, rate=rate, bias=bias, layer_norm=layer_norm,
            elementwise_affine=elementwise_affine, eps=eps, timing=timing, backend=backend, device=device, dtype=dtype,
        )  # fmt: skip
        check_flag("batch_first", batch_first)
        check_flag("return_fast_weights", return_fast_weights)
        self.batch_first = batch_first
        self.return_fast_weights = return_fast_weights

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | None = None,
        return_fast_weights: bool | None = None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor | None]]:
        """Return all h(t) and the final (h_n, a_n).

        input (T, B, input_size), (B, T, input_size) with `batch_first`, (T, input_size) for one example, or packed.
        hx None (zeros), h0, or (h0, a0) with h0 (B, H) and a0 None (zero), (B, H, H) or `LowRank`; without B for one
        example. a_n is None unless asked for here or at construction: it costs more than all the rest at small sizes.
        A sequence of length 0 ends in the state that it starts from.
        """
        wanted = self.return_fast_weights if return_fast_weights is None else return_fast_weights
        if isinstance(input, PackedSequence):
            check_dense("input", input.data)
            if lengths is not None:
                raise ValueError("lengths: expected none with a packed input, which carries its own")
            padded, lengths = pad_packed_sequence(input, batch_first=True)
            output, state = self._forward(padded, hx, lengths, wanted)
            return packed_like(input, output, 1), state
        check_dense("input", input, "a tensor or a PackedSequence")
        if input.ndim not in (2, 3):
            raise ValueError(f"input: expected 3 axes, or 2 for one example, got {tuple(input.shape)}")
        if input.ndim == 2:
            if lengths is not None:
                raise ValueError("lengths: expected none with an unbatched input")
            output, (h_n, a_n) = self._forward(input[None], unsqueeze_state(hx), None, wanted)
            return output[0], (h_n[0], None if a_n is None else a_n[0])
        output, state = self._forward(input if self.batch_first else input.transpose(0, 1), hx, lengths, wanted)
        return output if self.batch_first else output.transpose(0, 1), state

    def _forward(
        self, inputs: Tensor, hx: State | None, lengths: Tensor | None, wanted: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        check_input(inputs, self.weight_ih)
        output, a_n = self._recur(inputs, hx, lengths, wanted, weight_ih=self.weight_ih, bias=self.bias)
        if lengths is None:
            return output, (output[:, -1].clone(), a_n)  # as torch's networks, whose state may be overwritten
        lengths = lengths.to(output.device).long()
        h_n = output[torch.arange(len(output), device=output.device), (lengths - 1).clamp(min=0)]
        h0 = split_state(hx)[0]
        return output, (torch.where(lengths[:, None] > 0, h_n, 0.0 if h0 is None else h0), a_n)


class FastWeightsCell(_FastWeights):
    """One step of `FastWeightsRNN`, with its options and errors: input (B, input_size), (h, A) to the next (h, A)."""

    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, Tensor]:
        """Return (h, A), (B, H) and (B, H, H), without B for one example. hx is None (zeros), h, or (h, A)."""
        check_dense("input", input)
        if input.ndim not in (1, 2):
            raise ValueError(f"input: expected 2 axes, or 1 for one example, got {tuple(input.shape)}")
        single = input.ndim == 1
        projected = self.project(input[None, None] if single else input[:, None])
        output, a = self.recur(projected, unsqueeze_state(hx) if single else hx, return_fast_weights=True)
        assert a is not None
        return (output[0, 0], a[0]) if single else (output[:, 0], a)


LEAVE_STATES_ALONE.update({FastWeightsRNN.forward, FastWeightsCell.forward})


def fast_weights_spec(
    network: FastWeightsRNN | FastWeightsCell, a0: Literal["zero", "dense", "low_rank"] = "zero", rank: int = 4
) -> StateSpec:
    """The state (h, A) of a fast-weights network, with A(0) zero, a full matrix, or of rank `rank` (`LowRank`).

    `state_spec(network)` is the first. Raises ValueError for another `a0`, TypeError for another network.
    """
    if not isinstance(network, _FastWeights):
        raise TypeError(f"network: expected FastWeightsRNN or FastWeightsCell, got {type(network).__name__}")
    rank = check_size("rank", rank)
    width = network.hidden_size
    a: dict[str, State] = {
        "zero": None,
        "dense": Leaf("a", (width, width), tiled_in_place=True),
        # One factor may start at zero; `factor` keeps the other from zero, or both would have no gradient.
        "low_rank": LowRank(Leaf("a_left", (rank, width)), Leaf("a_right", (rank, width), factor=True)),  # pyright: ignore[reportArgumentType]
    }
    if not isinstance(a0, str) or a0 not in a:
        raise ValueError(f"a0: expected one of {', '.join(a)}, got {shortened(a0)}")
    tree = (Leaf("h", (width,)), a[a0])
    if isinstance(network, FastWeightsCell):
        return StateSpec(tree, input_ndim=2, step=cell_step, time_dim=None).like(network.weight_hh)
    batch_dim = 0 if network.batch_first else 1
    return StateSpec(
        tree, input_batch_dim=batch_dim, input_ndim=3, step=SequenceStep(1 - batch_dim), time_dim=1 - batch_dim
    ).like(network.weight_hh)


@state_spec.register
def _(network: _FastWeights) -> StateSpec:
    return fast_weights_spec(network)  # pyright: ignore[reportArgumentType]
