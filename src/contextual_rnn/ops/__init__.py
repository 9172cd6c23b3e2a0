"""The fast-weights recurrence: one function, several algorithms."""

from contextual_rnn.ops.fast_weights import BACKENDS as BACKENDS
from contextual_rnn.ops.fast_weights import KERNELS as KERNELS
from contextual_rnn.ops.fast_weights import fast_weights as fast_weights
from contextual_rnn.ops.options import TIMINGS as TIMINGS
from contextual_rnn.ops.options import LowRank as LowRank
from contextual_rnn.ops.options import Timing as Timing

__all__ = ["BACKENDS", "KERNELS", "TIMINGS", "LowRank", "Timing", "fast_weights"]
