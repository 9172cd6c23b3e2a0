"""The interface of a native kernel of the fast-weights recurrence: what it is given, and what it must provide."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from contextual_rnn.ops._fast_weights.options import FastWeightsOptions
from contextual_rnn.ops.native import kernel as native


class Given(NamedTuple):
    """The tensors of one call, in the order of the operator's arguments; all but lengths and places have gradients.

    inputs (B, T, H), weight_hh (H, H), h0 (B, H), a0 (B, H, H), left and right (B, r, H), norm_weight and norm_bias
    (H,), discounts (T,), retained (T + 1,), lengths (B,) int64. Checked for shape, dtype and device; of any strides.

    A kernel that projects may be given weight_ih (H, I) and bias (H,) besides; inputs are then features (B, T, I), of
    which it makes weight_ih features + bias itself. The operator has neither: compiled programs project outside.

    With weight_ih and lengths the kernel of a CPU may be given places (N,) int64 besides: N sequences then stand in the
    B T steps of the features, each from step places[n] on, and states and lengths are of these. Outputs and what was
    written stand where the features do, and are zero elsewhere.
    """

    inputs: Tensor
    weight_hh: Tensor
    h0: Tensor
    a0: Tensor | None
    left: Tensor | None
    right: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    discounts: Tensor
    retained: Tensor
    lengths: Tensor | None
    weight_ih: Tensor | None = None
    bias: Tensor | None = None
    places: Tensor | None = None


class Settings(NamedTuple):
    """The numbers of one call.

    `write_before_read` is the timing of wenke2019. `shared_a0` says that a0 is one matrix tiled over the batch; its
    gradient is of every sample all the same.
    """

    inner_steps: int
    write_before_read: bool
    layer_norm: bool
    shared_a0: bool
    eps: float

    @classmethod
    def of(cls, options: FastWeightsOptions, shared_a0: bool) -> Settings:
        return cls(options.inner_steps, options.timing == "wenke2019", options.layer_norm, shared_a0, options.eps)


class Kernel(native.Kernel, Protocol):
    """A native implementation of the recurrence. Its further result is what was written, m(t), (B, T, H) too."""

    name: str

    def availability(self) -> str:
        """Whether it can run here, and why not."""
        ...

    def supports(self, inputs: Tensor) -> bool:
        """Whether it can run on tensors like `inputs`."""
        ...

    def projects(self, weight_ih: Tensor) -> bool:
        """Whether it takes features, weight_ih (H, I) and bias."""
        ...
