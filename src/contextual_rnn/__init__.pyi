"""Initial states for recurrent networks: constant, free, contextual, normal; fast weights; generation."""

# The table of contents, for readers, editors and type checkers; `__init__.py` imports a name when it is first used.

from contextual_rnn import attachment as attachment
from contextual_rnn import diagnostics as diagnostics
from contextual_rnn import export as export
from contextual_rnn import generation as generation
from contextual_rnn import hub as hub
from contextual_rnn import language as language
from contextual_rnn import ops as ops
from contextual_rnn import sequences as sequences
from contextual_rnn import serialization as serialization
from contextual_rnn import spec as spec
from contextual_rnn import states as states
from contextual_rnn import truncation as truncation
from contextual_rnn.attachment import attach as attach
from contextual_rnn.attachment import given_context as given_context
from contextual_rnn.attachment import remove_initial_state as remove_initial_state
from contextual_rnn.generation import TokenSampler as TokenSampler
from contextual_rnn.generation import generate as generate
from contextual_rnn.generation import interpolate as interpolate
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
from contextual_rnn.serialization import load_carried_state as load_carried_state
from contextual_rnn.serialization import load_state as load_state
from contextual_rnn.serialization import save_carried_state as save_carried_state
from contextual_rnn.serialization import save_state as save_state
from contextual_rnn.spec.checks import check_spec as check_spec
from contextual_rnn.spec.leaf import Leaf as Leaf
from contextual_rnn.spec.networks import StateSpec as StateSpec
from contextual_rnn.spec.networks import state_spec as state_spec
from contextual_rnn.states import ConstantState as ConstantState
from contextual_rnn.states import ContextDropout as ContextDropout
from contextual_rnn.states import ContextState as ContextState
from contextual_rnn.states import FreeState as FreeState
from contextual_rnn.states import InitialState as InitialState
from contextual_rnn.states import LatentState as LatentState
from contextual_rnn.states import LeafwiseState as LeafwiseState
from contextual_rnn.states import Moments as Moments
from contextual_rnn.states import NormalState as NormalState
from contextual_rnn.states import SumState as SumState
from contextual_rnn.truncation import detach as detach
from contextual_rnn.truncation import truncated as truncated

__version__: str
# Not those of `serialization`, as `import *` works without safetensors.
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
    "LatentState",
    "Leaf",
    "LeafwiseState",
    "LowRank",
    "Moments",
    "NormalState",
    "SetValued",
    "StateSpec",
    "SumState",
    "TokenSampler",
    "attach",
    "check_spec",
    "detach",
    "fast_weights_spec",
    "generate",
    "given_context",
    "interpolate",
    "remove_initial_state",
    "sequence_cross_entropy",
    "state_spec",
    "truncated",
]
