"""The interface of a native kernel of the recurrence: forward and backward on plain tensors."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from contextual_rnn.ops._fast_weights.options import FastWeightsOptions


class Given(NamedTuple):
    """The tensors of one call, in the order of the operator's arguments; all but `lengths` have gradients.

    inputs (B, T, H), weight_hh (H, H), h0 (B, H), a0 (B, H, H), left and right (B, r, H), norm_weight and norm_bias
    (H,), discounts (T,), retained (T + 1,), lengths (B,) int64. Checked for shape, dtype and device; of any strides.

    A kernel that projects may be given weight_ih (H, I) and bias (H,) besides; inputs are then features (B, T, I), of
    which it makes weight_ih features + bias itself. The operator has neither: compiled programs project outside.
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


class Kernel(Protocol):
    """A native implementation of the recurrence; knows nothing of autograd."""

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

    def forward(
        self, given: Given, settings: Settings, keep: bool, keep_written: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs h(t), the written m(t), and what the backward pass needs.

        The written, (B, T, H) too, are of no elements unless `keep_written`, as is what is saved unless `keep`.
        """
        ...

    def backward(
        self,
        given: Given,
        settings: Settings,
        output: Tensor,
        saved: Tensor,
        grad_output: Tensor | None,
        grad_written: Tensor | None,
        wanted: list[bool],
    ) -> list[Tensor]:
        """Gradients of those of `given` but lengths that are wanted, in their order. Leaves `saved` as it was.

        `wanted` is of the first ten alone where nothing is projected.
        """
        ...

    def saved_size(self, given: Given, settings: Settings) -> int:
        """Elements of what `forward` saves; sizes may be symbolic."""
        ...
