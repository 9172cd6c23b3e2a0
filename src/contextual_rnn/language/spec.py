"""The state of a language model of transformers: its spec, and the cache that carries a state into a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers.modeling_utils import PreTrainedModel

from contextual_rnn._numbers import Range, check_flag, check_number
from contextual_rnn.language.cache import InitialCache
from contextual_rnn.language.calls import watch
from contextual_rnn.language.layout import StateTensor, base_of, read_state_tensors
from contextual_rnn.language.mamba1 import add_shares
from contextual_rnn.language.own_caches import translate_caches
from contextual_rnn.language.probe import probe
from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State


@dataclass(frozen=True)
class _Known:
    """What was read off a model, of the dtype and device that it had."""

    dtype: torch.dtype
    device: torch.device
    tensors: tuple[StateTensor, ...]
    specs: dict[bool, StateSpec]  # with convolutions and without


_KNOWN = "_contextual_rnn_known"  # on the model: torch.compile guards a table of all models, and fails when one dies
_POSITIVE = Range("a positive number", lambda value: value > 0)


def language_model_spec(
    model: PreTrainedModel, *, convolutions: bool = False, tolerance: float | None = None
) -> StateSpec:
    """The spec of the state that a language model of transformers carries from token to token: a leaf for each layer.

    A leaf `layer3` is the matrix S(0) of layer 3 for each head, of the shape and dtype in which the layer's cache keeps
    it; with `convolutions` there is also `layer3_convolution`, the inputs of a convolution before the first token.
    Attention keeps what it has read and not a state of one size: it has no leaf and begins empty.

        spec = language_model_spec(model)
        state = FreeState(spec)
        output = model(ids, cache=initial_cache(model, state(batch_size=len(ids))))

    The first call runs the model on a few tokens, in evaluation mode: it reads the shapes, and compares a whole run
    from a random state with single tokens, and a gradient with a difference. `tolerance` is how much the two runs may
    differ, as a part of the largest output; by default the square root of the dtype's precision.

    Raises TypeError for a model that is not of transformers, ValueError for one that keeps no recurrent state in a
    `LinearAttentionLayer` (the message lists those that do), one for which the comparison fails, and bad arguments.
    """
    check_flag("convolutions", convolutions)
    if tolerance is not None:
        check_number("tolerance", tolerance, *_POSITIVE)
    return _known(model, tolerance).specs[convolutions]


def initial_cache(model: PreTrainedModel, state: State) -> InitialCache:
    """A cache of transformers with which `model` begins from `state`: pass it as `cache=` to a call or to `generate`.

    `state` is what a state of `language_model_spec(model)` returns, a row for each sequence; convolutions begin with
    zeros where it has none. Gradients reach the state, and its tensors are never written into. A cache
    serves one run, which may go on over several calls. From then on calls of `model` with such a cache are checked.

    Raises TypeError or ValueError for a state of another model, one without a batch, or of other dtypes, and whatever
    `language_model_spec` raises. A call with the cache raises ValueError under gradient checkpointing, for padding
    before a token, for packed sequences, for another number of rows, with another model, and for `use_cache=False`.
    """
    known = _known(model)
    convolutions = isinstance(state, dict) and any(
        tensor.name in state for tensor in known.tensors if tensor.convolution
    )
    leaves = known.specs[convolutions].check(state)
    tensors = [tensor for tensor in known.tensors if tensor.name in leaves]
    for tensor in tensors:
        leaf = leaves[tensor.name]
        if leaf.ndim == len(tensor.shape):
            raise ValueError(f"state: expected a row for each sequence, got {tensor.name!r} without a batch")
        if leaf.dtype != tensor.dtype:
            raise TypeError(f"state: expected {tensor.name!r} of {tensor.dtype}, as the model keeps, got {leaf.dtype}")
        leaves[tensor.name] = leaf.to(tensor.device)
    return InitialCache(base_of(model), tensors, leaves)


def _known(model: PreTrainedModel, tolerance: float | None = None) -> _Known:
    """What `model` keeps; read and probed when it is first needed, and again where its dtype or device has changed."""
    base = base_of(model)
    translate_caches(model, base)  # each time: the decoder may be known without this model around it
    known: _Known | None = getattr(base, _KNOWN, None)
    if known is None or (known.dtype, known.device) != (model.dtype, model.device):
        tensors = read_state_tensors(model)
        add_shares(base)
        watch(base)
        probe(model, base, tensors, tolerance)
        specs = {convolutions: _spec(model, tensors, convolutions) for convolutions in (False, True)}
        known = _Known(model.dtype, model.device, tensors, specs)
        setattr(base, _KNOWN, known)
    return known


def _spec(model: PreTrainedModel, tensors: Iterable[StateTensor], convolutions: bool) -> StateSpec:
    leaves = {t.name: Leaf(t.name, t.shape, dtype=t.dtype) for t in tensors if convolutions or not t.convolution}
    return StateSpec(leaves, input_ndim=2, time_dim=1, dtype=model.dtype, device=model.device)
