"""The kernels of fast weights as operators of PyTorch.

Imported where the first of them is called, as registering takes long: a quarter of the time of importing all else.
"""

from contextual_rnn.ops._fast_weights.operation import OPERATIONS
from contextual_rnn.ops.native.operator import register

OPERATORS = {name: register(operation) for name, operation in OPERATIONS.items()}
