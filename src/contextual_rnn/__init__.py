"""Initial states for recurrent networks: constant, free, contextual, normal; fast weights; generation."""

from importlib.metadata import version

from contextual_rnn._tree import Leaf as Leaf
from contextual_rnn.attention import AdditiveAttention as AdditiveAttention
from contextual_rnn.context_net import Categorical as Categorical
from contextual_rnn.context_net import ContextNet as ContextNet
from contextual_rnn.context_net import Continuous as Continuous
from contextual_rnn.context_net import SetValued as SetValued
from contextual_rnn.fast_weights import FastWeightsCell as FastWeightsCell
from contextual_rnn.fast_weights import FastWeightsRNN as FastWeightsRNN
from contextual_rnn.fast_weights import fast_weights_spec as fast_weights_spec
from contextual_rnn.generation import generate as generate
from contextual_rnn.ops import LowRank as LowRank
from contextual_rnn.rnn import ContextualRNN as ContextualRNN
from contextual_rnn.sequence_loss import sequence_cross_entropy as sequence_cross_entropy
from contextual_rnn.state_spec import StateSpec as StateSpec
from contextual_rnn.state_spec import state_spec as state_spec
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
