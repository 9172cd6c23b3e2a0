"""The fast-weights recurrence: one function, several algorithms."""

from contextual_rnn.ops._fast_weights.choice import BACKENDS as BACKENDS
from contextual_rnn.ops._fast_weights.dispatch import fast_weights as fast_weights
from contextual_rnn.ops._fast_weights.operation import KERNELS as KERNELS
from contextual_rnn.ops._fast_weights.options import TIMINGS as TIMINGS
from contextual_rnn.ops._fast_weights.options import LowRank as LowRank
from contextual_rnn.ops._fast_weights.options import Timing as Timing

__all__ = ["BACKENDS", "KERNELS", "TIMINGS", "LowRank", "Timing", "fast_weights"]
