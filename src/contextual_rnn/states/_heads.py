"""From a context to the leaves of a state: batch size, features, heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from contextual_rnn._autocast import autocast_joins, in_autocast
from contextual_rnn._numbers import check_flag, check_size
from contextual_rnn._precision import is_narrow, wide
from contextual_rnn._sharded import is_sharded
from contextual_rnn._tensors import check_dense, first_parameter
from contextual_rnn._torch_internals import Dropout
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.tree import MOST_NESTED

# Layers that hand on as many features as they get; GLU and MultiheadAttention are the module's exceptions.
_WIDTH_KEEPING = (
    Dropout,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.BatchNorm1d,
    nn.Identity,
    *(
        kind
        for name in nn.modules.activation.__all__
        if (kind := getattr(nn, name)) not in (nn.GLU, nn.MultiheadAttention)
    ),
)


def check_call(
    batch_size: int | None, batched: bool | None = None, generator: torch.Generator | None = None
) -> int | None:
    """The batch size as an int; refuse what no initial state can be called with."""
    if batched is not None:
        check_flag("batched", batched)
    if batch_size is not None:
        batch_size = check_size("batch_size", batch_size, 0)
        if batched is False:
            raise ValueError(f"batch_size: expected None with batched=False, got {batch_size}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {type(generator).__name__}")
    return batch_size


def batch_of(context: Any, batch_size: int | None, batched: bool | None) -> int | None:
    """The batch size of a state that does not depend on the context; None for one unbatched example.

    Raises ValueError for a context that does not say it.
    """
    if batched is not None and batched is not True:
        check_flag("batched", batched)
        return None
    if batch_size is not None:
        return check_size("batch_size", batch_size, 0)  # moments may be called by anyone
    if context is None:
        return None
    for part in _parts(context):
        return _rows_of(part)
    raise ValueError(
        f"batch_size: expected the number of rows, as {_describe(context)} does not say it, got None "
        "(batched=False is one example without a batch)"
    )


def rows_beside_one_example(context: Any) -> int | None:
    """The batch size of a context whose state came out as one example; None where that is one too, such as a vector."""
    part = next(_parts(context), None)
    if part is None or (isinstance(part, Tensor) and not part.is_nested and part.ndim < 2):
        return None
    return _rows_of(part)


def _rows_of(part: Tensor | PackedSequence) -> int | None:
    if isinstance(part, PackedSequence):
        return int(part.batch_sizes[0])
    if part.is_nested:
        return part.size(0)
    return part.shape[0] if part.ndim else None


def feature_count(encoder: nn.Module, features: int | None) -> int:
    """The width of what `encoder` returns: `features` where given, else read off its last layer."""
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder: expected a context network (nn.Module), got {type(encoder).__name__}")
    if features is not None:
        return check_size("features", features)
    width = _output_width(encoder)
    if width is None:
        kind = type(encoder).__name__
        raise ValueError(f"features: expected the width of what encoder returns, as {kind} does not say it")
    return width


def _output_width(module: nn.Module) -> int | None:
    if isinstance(module, nn.Sequential):
        for child in reversed(module):
            if not isinstance(child, _WIDTH_KEEPING):
                return _output_width(child)
        return None
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return module.embedding_dim
    width = getattr(module, "out_features", None)
    return width if isinstance(width, int) else None


class MissingContextError(ValueError):
    """A state that reads the context got none."""

    def __init__(self, message: str = "context: expected one, as the initial state reads it, got None"):
        super().__init__(message)


def features_of(encoder: nn.Module, context: Any, width: int, batch_size: int | None, batched: bool | None) -> Tensor:
    """encoder(context), (B, width) or (width,), or a ValueError that says what is wrong with the context."""
    batch_size = check_call(batch_size, batched)
    if context is None:
        raise MissingContextError
    try:
        features = encoder(context)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"context: the context network refuses {_describe(context)}: {error}") from error
    if not isinstance(features, Tensor) or features.ndim not in (1, 2):
        raise ValueError(
            f"context: expected features of shape (batch, {width}) or ({width},), got {_describe(features)}"
        )
    check_dense("context", features, "features in a tensor")
    if features.shape[-1] != width:
        raise ValueError(f"features: expected a context network of width {width}, got {features.shape[-1]}")
    if features.ndim == 2 and batched is False:
        raise ValueError(f"context: expected one unbatched example, as the input is, got a batch of {len(features)}")
    if features.ndim == 2 and batch_size is not None and features.shape[0] != batch_size:
        raise ValueError(f"context: expected a batch of {batch_size}, as the input has, got {features.shape[0]}")
    return features


Run = Callable[[nn.Module, Tensor], Tensor]


class Heads(nn.Module):
    """One linear layer for every leaf of floats, from features (B, F) or (F,) to (B, *shape) or `shape`.

    With `constant` the layers start as that number, or that of their leaf, whatever the features; a factor that would
    start at zero does not. A leaf with a dtype of its own has a layer of that dtype, which gets the features in it; of
    a complex leaf the layer gives real and imaginary parts.
    """

    def __init__(self, spec: StateSpec, features: int, *, constant: float | Mapping[str, float] | None):
        super().__init__()
        self.shapes = {leaf.name: leaf.shape for leaf in spec.floats}
        self.own_dtype = {leaf.name for leaf in spec.floats if leaf.dtype is not None}
        self.complex: set[str] = set()
        self.layers = nn.ModuleDict()
        for leaf in spec.floats:
            dtype, numel = spec.dtype_of(leaf), leaf.numel
            if dtype is not None and dtype.is_complex:
                self.complex.add(leaf.name)
                dtype, numel = dtype.to_real(), 2 * numel
            layer = nn.Linear(features, numel, dtype=dtype, device=spec.device)
            if constant is not None:
                number = constant[leaf.name] if isinstance(constant, Mapping) else constant
                std = leaf.shape[-1] ** -0.5 if leaf.factor and number == 0 else None
                _fill(layer, number, std)
                # Whoever resets a model resets this layer by itself, and quantisation looks for nn.Linear: no subclass.
                setattr(layer, "reset_parameters", partial(_reset, layer, number, std))  # noqa: B010
            self.layers[leaf.name] = layer

    def reset_parameters(self) -> None:
        """Start anew as the constructor does."""
        for layer in self.layers.values():
            layer.reset_parameters()  # pyright: ignore[reportCallIssue]

    def forward(self, features: Tensor, batch_size: int | None, precise: bool = False) -> dict[str, Tensor]:
        """Features of one example are tiled to `batch_size`, where that is given.

        With `precise` the layers compute in float32 at least, also under autocast.
        """
        layers = self.layers  # looking up an attribute of a module is slow
        # None where the layers are quantised, and take what they take.
        weight = next((w for layer in layers.values() if (w := first_parameter(layer)) is not None), None)
        run = _run
        if precise and weight is not None:
            narrow = is_narrow(weight.dtype) or in_autocast(weight.device)
            run = _run_precisely if narrow or self.own_dtype else _run
        if self.own_dtype or self.complex:
            leaves = {name: self._mixed(name, layer, features, run) for name, layer in layers.items()}
        else:
            _check_features(features, weight)
            leaves = {name: _leaf(name, run(layer, features), self.shapes[name]) for name, layer in layers.items()}
        return leaves if features.ndim == 2 else {name: tile(leaf, batch_size) for name, leaf in leaves.items()}

    def _mixed(self, name: str, layer: nn.Module, features: Tensor, run: Run) -> Tensor:
        weight = next(layer.parameters(), None)
        if name in self.own_dtype and weight is not None and features.is_floating_point():
            features = features.to(weight.dtype)
        _check_features(features, weight)
        output = run(layer, features)
        if name not in self.complex:
            return _leaf(name, output, self.shapes[name])
        output = output.float() if output.dtype == torch.bfloat16 else output  # which has no complex numbers
        return torch.view_as_complex(_leaf(name, output, (*self.shapes[name], 2)))


def _check_features(features: Tensor, weight: Tensor | None) -> None:
    if weight is None:
        return
    fits = features.dtype == weight.dtype or autocast_joins(features.dtype, weight.dtype, weight.device)
    if features.device != weight.device or not (fits or is_sharded(weight)):
        raise ValueError(
            f"context: expected features of {weight.dtype} on {weight.device}, "
            f"got {features.dtype} on {features.device}"
        )


def _fill(layer: nn.Linear, constant: float, bias_std: float | None) -> None:
    """A layer whose output is `constant`, or a random bias, whatever comes in."""
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, constant)
    if bias_std is not None:
        nn.init.normal_(layer.bias, std=bias_std)


def _reset(layer: nn.Linear, constant: float, bias_std: float | None) -> None:
    nn.Linear.reset_parameters(layer)  # draws the random numbers that the constructor draws
    _fill(layer, constant, bias_std)


def _run(layer: nn.Module, features: Tensor) -> Tensor:
    return layer(features)


def _leaf(name: str, output: Tensor, shape: tuple[int, ...]) -> Tensor:
    if type(output) is not Tensor and is_sharded(output):  # by tensor parallelism
        output = output.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return output.unflatten(-1, shape)
    except RuntimeError as error:
        raise ValueError(f"heads: expected {math.prod(shape)} features for {name!r}, got {output.shape[-1]}") from error


def _run_precisely(layer: nn.Module, features: Tensor) -> Tensor:
    """The layer, or what an adapter or a parametrization made of it, in float32 at least and without autocast."""
    if (weight := next(layer.parameters(), None)) is None:  # quantised
        return layer(features)
    tensors = (*layer.named_parameters(), *layer.named_buffers())
    widened = {name: wide(tensor) for name, tensor in tensors if is_narrow(tensor.dtype)}
    with torch.autocast(features.device.type, enabled=False) if in_autocast(features.device) else nullcontext():
        return torch.func.functional_call(layer, widened, (features.to(wide(weight).dtype),))


def tile(value: Tensor, batch_size: int | None) -> Tensor:
    """`value` for every row of a batch, without copies for several rows.

    For one row it is copied: a network that overwrites its state must not overwrite what the state was made from.
    """
    if batch_size is None:
        return value.clone()
    if isinstance(batch_size, Tensor):  # a size that torch.jit.trace follows, which may be any
        return value.clone().expand(batch_size, *value.shape)
    return value.clone()[None] if batch_size == 1 else value.expand(batch_size, *value.shape)


def _parts(context: Any, depth: int = 0) -> Iterator[Tensor | PackedSequence]:
    """What in a context says a batch size, in order; ValueError for a context nested too deeply."""
    if isinstance(context, (Tensor, PackedSequence)):
        yield context
        return
    children: Iterable[Any] = ()
    if isinstance(context, Mapping):
        children = context.values()
    elif isinstance(context, (tuple, list)):
        children = context
    elif is_dataclass(context) and not isinstance(context, type):
        children = (getattr(context, field.name) for field in fields(context))
    if depth == MOST_NESTED and children:
        raise ValueError(f"context: expected at most {MOST_NESTED} containers around a tensor, got more")
    for child in children:
        yield from _parts(child, depth + 1)


def _describe(context: Any) -> str:
    if isinstance(context, PackedSequence):
        return f"a PackedSequence of {_rows_of(context)} sequences, of {context.data.dtype}, on {context.data.device}"
    if isinstance(context, Tensor):
        shape = f"{context.size(0)} rows, nested" if context.is_nested else f"shape {tuple(context.shape)}"
        return f"a tensor of {shape}, {context.dtype}, on {context.device}"
    parts = [_describe(part) for part in islice(_parts(context), 8)]
    return f"{type(context).__name__}" + (f" of {', '.join(parts)}" if parts else "")
