"""The kernel as an operator of PyTorch; imported where it is first called, as registering takes long."""

from contextual_rnn.ops._gated.operation import OPERATION
from contextual_rnn.ops.native.operator import register

OPERATOR = register(OPERATION)
