"""A network with fast weights that reads tokens and names a class: loss and gradients in one native call."""

from __future__ import annotations

import operator
from typing import NamedTuple

import torch
from torch import Tensor

from contextual_rnn._shapes import Float, Int
from contextual_rnn._tensors import PLAIN_TENSORS, check_dense, check_floats, described
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.choice import choose
from contextual_rnn.ops._fast_weights.dispatch import check_a0, check_norm, check_tensor, checked_options
from contextual_rnn.ops._fast_weights.kernel import Settings
from contextual_rnn.ops._fast_weights.layouts import HEADS
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, LowRank, decay_tables
from contextual_rnn.ops.native.memory import address, addresses_of, has_memory


class Parameters(NamedTuple):
    """embedding (V, D), weight_ih (H, D), bias (H,), weight_hh (H, H), norm_weight and norm_bias (H,), and of the
    readout hidden_weight (Q, H), hidden_bias (Q,), readout_weight (K, Q) and readout_bias (K,)."""

    embedding: Tensor
    weight_ih: Tensor
    bias: Tensor | None
    weight_hh: Tensor
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    hidden_weight: Tensor
    hidden_bias: Tensor
    readout_weight: Tensor
    readout_bias: Tensor


_OPTIONAL = ("bias", "norm_weight", "norm_bias")
_RECEIVED = ("tokens", "targets", "states", "h0", "a0", "a0.left", "a0.right")


class Head(NamedTuple):
    """A linear layer from embeddings to one part of the initial state, weight (size, D) and bias (size,)."""

    weight: Tensor
    bias: Tensor


class Heads(NamedTuple):
    """What makes h0 and, dense or of low rank, A(0); None for a part that there is not."""

    h0: Head
    a0: Head | None = None
    left: Head | None = None
    right: Head | None = None


class LossAndGradients(NamedTuple):
    """The loss, of no axes, its gradients by the parameters, and by h0, a0, left and right of every state, None for
    those that do not require one."""

    loss: Tensor
    parameters: Parameters
    initial: list[Tensor | None]


class Classification:
    """Mean cross entropy of a readout on the last h of `fast_weights` over tokens; `grads` take the gradients.

        inputs(t) = C embedding(token(t)) + b
        loss      = - 1/B sum log softmax(W2 relu(W1 h(T) + b1) + b2)[target]

    Tokens are projected once each, and every block of sequences goes forward and back before the next, so that what it
    went through stays in the processor's cache. `parameters` and `grads` are contiguous, of one dtype and to stay where
    they are. Gradients are written, not added; without `grads` they and the loss are new tensors at every call. With
    `heads` the initial states are linear in the embeddings of the first `contexts` tokens, made once each. Raises
    ValueError where tensors do not fit each other.
    """

    def __init__(
        self,
        parameters: Parameters,
        grads: Parameters | None,
        options: FastWeightsOptions,
        heads: Heads | None = None,
        head_grads: Heads | None = None,
        contexts: int = 0,
    ):
        options = checked_options(*options)
        check_norm(parameters.norm_weight, parameters.norm_bias, options)
        self._parameters, self.options = parameters, options
        for name in ("embedding", "weight_hh", "readout_weight"):
            matrix = getattr(parameters, name)
            check_floats(name, matrix)
            if matrix.ndim != 2 or 0 in matrix.shape or not cpu.supports(matrix):
                expected = f"a matrix of no axis 0 for the cpu kernel, {cpu.availability()}"
                raise ValueError(f"{name}: expected {expected}, got {described(matrix)}")
        self._settings = Settings.of(options, shared_a0=False)
        self._heads, self._contexts = heads, contexts
        (tokens, inputs), (width, _) = parameters.embedding.shape, parameters.weight_hh.shape
        (classes, hidden), dtype = parameters.readout_weight.shape, parameters.embedding.dtype
        shapes = {
            "embedding": (tokens, inputs), "weight_ih": (width, inputs), "bias": (width,),
            "weight_hh": (width, width), "norm_weight": (width,), "norm_bias": (width,),
            "hidden_weight": (hidden, width), "hidden_bias": (hidden,),
            "readout_weight": (classes, hidden), "readout_bias": (classes,),
        }  # fmt: skip
        for places in (parameters,) if grads is None else (parameters, grads):
            for tensor, given, (name, shape) in zip(places, parameters, shapes.items(), strict=True):
                if not (tensor is given is None and name in _OPTIONAL):
                    _check_place(name, tensor, shape, dtype)
        self._width, self._grads = width, grads
        self._loss = None if grads is None else parameters.embedding.new_empty(())
        self._places = _places(parameters)
        self._rank, self._dense = 0, heads is not None and heads.a0 is not None
        with_heads = heads is not None or head_grads is not None
        self._ends = {"tokens": tokens, "targets": classes}
        self._fixed_numbers = (
            tokens, inputs, hidden, classes, *map(address, parameters),
            *(self._head_addresses(heads, head_grads) if with_heads else [0] * len(HEADS)),
        )  # fmt: skip
        every = [*parameters, *(grads or ()), *_tensors_of(heads), *_tensors_of(head_grads)]
        self._fixed = [tensor for tensor in every if tensor is not None]
        self._fixed_addresses = [*map(Tensor.data_ptr, self._fixed)]

    def _head_addresses(self, heads: Heads | None, grads: Heads | None) -> list[int]:
        """The addresses of heads that fit, and of their gradients, `HEADS` of layouts.py."""
        embedding, width = self._parameters.embedding, len(self._parameters.weight_hh)
        if heads is None or grads is None:
            raise ValueError("heads, head_grads: expected both or none, got one")
        if not 1 <= self._contexts <= len(embedding):
            raise ValueError(f"contexts: expected 1 to the {len(embedding)} tokens there are, got {self._contexts}")
        if (heads.left is None) != (heads.right is None) or (heads.left is not None and heads.a0 is not None):
            raise ValueError("heads: expected left and right together and no a0 beside them")
        self._rank = max(1, len(heads.left.bias) // width) if heads.left is not None else 0
        factor, addresses = self._rank * width, []
        for name, size in {"h0": width, "a0": width**2, "left": factor, "right": factor}.items():
            head, grad = getattr(heads, name), getattr(grads, name)
            if head is None and grad is None:
                addresses += [0] * 4
                continue
            places = (*(head or (None, None)), *(grad or (None, None)))
            for tensor, shape in zip(places, 2 * [(size, embedding.shape[1]), (size,)], strict=True):
                _check_place(name, tensor, shape, embedding.dtype)
            addresses += map(address, places)
        return addresses

    def is_of(self, parameters: Parameters, options: FastWeightsOptions) -> bool:
        """Whether it was made for these, which are still where they were."""
        same = all(map(operator.is_, parameters, self._parameters)) and not any(map(Tensor.is_neg, self._fixed))
        return same and (options is self.options or options == self.options) and _places(parameters) == self._places

    @staticmethod
    def serves(embedding: Tensor, steps: int, width: int, options: FastWeightsOptions, backend: str = "auto") -> bool:
        """Whether it can stand for the separate functions: decay and rate are numbers and T is at most 2 H."""
        numbers = not isinstance(options.decay, Tensor) and not isinstance(options.rate, Tensor)
        native = cpu.supports(embedding) and cpu.classification_fits(steps, width)
        return numbers and native and choose(backend, embedding) == "cpu"

    def __call__(
        self,
        tokens: Int[Tensor, "B T"],
        targets: Int[Tensor, " B"],
        h0: Float[Tensor, "N H"] | None = None,
        a0: Float[Tensor, "N H H"] | LowRank | None = None,
        states: Int[Tensor, " B"] | None = None,
    ) -> LossAndGradients:
        """The loss and its gradients, which the next call overwrites where they have places that stay.
        `states` says which of N initial states each sequence starts from; without it N is B. Where heads make them,
        h0 and a0 are left out and `states` are tokens, without it the first of each sequence. Raises ValueError for
        tensors that do not fit, and for a token, target or state out of range.
        """
        if [*map(Tensor.data_ptr, self._fixed)] != self._fixed_addresses:
            raise ValueError("parameters: expected tensors that stay where they are in memory, got some that moved")
        self._check(tokens, targets, h0, a0, states)
        parameters, grads, loss = self._parameters, self._grads, self._loss
        if grads is None or loss is None:
            grads = Parameters(*[None if tensor is None else torch.empty_like(tensor) for tensor in parameters])  # pyright: ignore[reportArgumentType]
            loss = parameters.embedding.new_empty(())
        (batch, steps), width = tokens.shape, self._width
        dense, left, right = (None, *a0) if isinstance(a0, LowRank) else (a0, None, None)
        initial = (h0, dense, left, right)
        d_initial = [
            tensor.new_empty((batch, *tensor.shape[1:])) if tensor is not None and tensor.requires_grad else None
            for tensor in initial
        ]
        settings, form, number = self._settings, (self._rank, self._dense), self._contexts
        if h0 is not None:
            number, form = h0.shape[0], (0 if left is None else left.shape[1], dense is not None)
        if dense is not None and dense.stride(0) == 0:
            dense, settings = dense[:1], settings._replace(shared_a0=True)
        # Kept alive until the kernel is done.
        given = [None if t is None else t.resolve_neg().contiguous() for t in (h0, dense, left, right)]
        indices = [None if t is None else t.contiguous() for t in (tokens, targets, states)]
        tables = decay_tables(self.options, steps, parameters.embedding)
        received = addresses_of((*indices, *given), _RECEIVED)
        others = (
            *self._fixed_numbers, number, address(loss), *received, *map(address, (*tables, *d_initial, *grads)),
        )  # fmt: skip
        wrong = cpu.classification((batch, steps, width), settings, loss.dtype, form, others)
        if wrong:
            name = ("tokens", "targets", "states")[wrong - 1]
            end = self._ends.get(name, number)
            raise ValueError(f"{name}: expected 0 to {end - 1}, got one out of range")
        if states is not None and h0 is not None:
            d_initial = [
                None if grad is None or tensor is None else torch.zeros_like(tensor).index_add_(0, states, grad)
                for tensor, grad in zip(initial, d_initial, strict=True)
            ]
        return LossAndGradients(loss, grads, d_initial)

    def _check(
        self, tokens: Tensor, targets: Tensor, h0: Tensor | None, a0: Tensor | LowRank | None, states: Tensor | None
    ) -> None:
        # Every step pays for this: a tensor's `len` takes five times as long as its shape.
        parameters, width = self._parameters, self._width
        named = () if states is None else (("states", states, 1),)
        batch = tokens.shape[0] if type(tokens) in PLAIN_TENSORS and not tokens.is_nested and tokens.ndim else 0
        for name, tensor, axes in (("tokens", tokens, 2), ("targets", targets, 1), *named):
            fits = type(tensor) in PLAIN_TENSORS and tensor.ndim == axes and tensor.dtype == torch.int64
            dense = fits and not tensor.is_nested and tensor.layout == torch.strided and tensor.is_cpu
            if not dense or tensor.shape[0] != batch or 0 in tensor.shape:
                shape = "(batch, time)" if axes == 2 else "(batch,)"
                raise ValueError(f"{name}: expected torch.int64 of shape {shape}, got {described(tensor)}")
        if not cpu.classification_fits(tokens.shape[1], width):
            raise ValueError(f"tokens: expected few enough steps for {width} units, got {tokens.shape[1]}")
        if (self._heads is None) == (h0 is None) or (h0 is None and a0 is not None):
            raise ValueError("h0: expected initial states, or heads that make them, got both or none")
        if h0 is None:
            return
        check_dense("h0", h0)
        rows = h0.shape[0] if states is not None and h0.ndim else batch
        check_tensor("h0", h0, (rows, width), parameters.embedding)
        check_a0(a0, rows, width, parameters.embedding)


def _tensors_of(heads: Heads | None) -> list[Tensor]:
    return [] if heads is None else [tensor for head in heads if head is not None for tensor in head]


def _places(parameters: Parameters) -> list[object]:
    """What must stay as it was checked."""
    return [None if p is None else (p.data_ptr(), p.dtype, p.shape, p.stride()) for p in parameters]


def _check_place(name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse what the native call could not read or write at its address."""
    if (
        tensor is None
        or type(tensor) not in PLAIN_TENSORS
        or tensor.is_nested
        or tensor.layout != torch.strided
        or tensor.shape != shape
        or tensor.dtype != dtype
        or not (tensor.is_cpu and tensor.is_contiguous())
        or tensor.is_neg()
        or not has_memory(tensor)
    ):
        raise ValueError(f"{name}: expected contiguous {dtype} of shape {shape}, got {described(tensor)}")
