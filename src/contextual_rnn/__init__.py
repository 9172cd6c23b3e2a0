"""Initial states for recurrent networks: constant, free, contextual, normal; fast weights; generation."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from contextual_rnn import _command_start as _command_start
from contextual_rnn.generation import generate as generate
from contextual_rnn.layers.additive_attention import AdditiveAttention as AdditiveAttention
from contextual_rnn.layers.context_net import Categorical as Categorical
from contextual_rnn.layers.context_net import ContextNet as ContextNet
from contextual_rnn.layers.context_net import Continuous as Continuous
from contextual_rnn.layers.context_net import SetValued as SetValued
from contextual_rnn.layers.fast_weights import FastWeightsCell as FastWeightsCell
from contextual_rnn.layers.fast_weights import FastWeightsRNN as FastWeightsRNN
from contextual_rnn.layers.fast_weights import fast_weights_spec as fast_weights_spec
from contextual_rnn.layers.sequence_loss import sequence_cross_entropy as sequence_cross_entropy
from contextual_rnn.ops import LowRank as LowRank
from contextual_rnn.rnn import ContextualRNN as ContextualRNN
from contextual_rnn.spec.networks import StateSpec as StateSpec
from contextual_rnn.spec.networks import state_spec as state_spec
from contextual_rnn.spec.tree import Leaf as Leaf
from contextual_rnn.states import ConstantState as ConstantState
from contextual_rnn.states import ContextDropout as ContextDropout
from contextual_rnn.states import ContextState as ContextState
from contextual_rnn.states import FreeState as FreeState
from contextual_rnn.states import InitialState as InitialState
from contextual_rnn.states import LeafwiseState as LeafwiseState
from contextual_rnn.states import NormalState as NormalState
from contextual_rnn.states import SumState as SumState
from contextual_rnn.truncation import detach as detach
from contextual_rnn.truncation import truncated as truncated

if TYPE_CHECKING:
    from contextual_rnn.serialization import load_carried_state as load_carried_state
    from contextual_rnn.serialization import load_state as load_state
    from contextual_rnn.serialization import save_carried_state as save_carried_state
    from contextual_rnn.serialization import save_state as save_state

__version__ = version("contextual-rnn")

__all__ = [
    "AdditiveAttention",
    "Categorical",
    "ConstantState",
    "ContextDropout",
    "ContextNet",
    "ContextState",
    "ContextualRNN",
    "Continuous",
    "FastWeightsCell",
    "FastWeightsRNN",
    "FreeState",
    "InitialState",
    "Leaf",
    "LeafwiseState",
    "LowRank",
    "NormalState",
    "SetValued",
    "StateSpec",
    "SumState",
    "detach",
    "fast_weights_spec",
    "generate",
    "sequence_cross_entropy",
    "state_spec",
    "truncated",
]

# Imported when first used, as they need safetensors; not in __all__, so that `import *` works without it.
_OF_FILES = ("load_carried_state", "load_state", "save_carried_state", "save_state")


def __getattr__(name: str) -> Any:
    if name not in _OF_FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from contextual_rnn import serialization
    except ModuleNotFoundError as error:
        if error.name != "safetensors":
            raise
        raise ImportError(f'{name} needs safetensors: pip install "contextual-rnn[files]"') from error
    return getattr(serialization, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_OF_FILES])
