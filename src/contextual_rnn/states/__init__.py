"""The initial states: constant, free, contextual and normal; one for each leaf, sums, and missing contexts."""

from contextual_rnn.states.base import InitialState as InitialState
from contextual_rnn.states.constant import ConstantState as ConstantState
from contextual_rnn.states.context import ContextState as ContextState
from contextual_rnn.states.dropout import ContextDropout as ContextDropout
from contextual_rnn.states.free import FreeState as FreeState
from contextual_rnn.states.latent import LatentState as LatentState
from contextual_rnn.states.leafwise import LeafwiseState as LeafwiseState
from contextual_rnn.states.moments import Moments as Moments
from contextual_rnn.states.normal import NormalState as NormalState
from contextual_rnn.states.posterior import Posterior as Posterior
from contextual_rnn.states.sum import SumState as SumState
