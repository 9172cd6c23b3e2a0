"""Memory of a stream: what can be read in place, and what is copied."""

from __future__ import annotations

import torch
from torch import Tensor

from contextual_rnn._tensors import PLAIN_TENSORS
from contextual_rnn._torch_internals import is_transformed
from contextual_rnn.ops.native.memory import addresses_of
from contextual_rnn.spec.rows import map_tensors, tensors_of
from contextual_rnn.spec.tree import State

# Whether a tensor is of this dtype, dense, on the CPU and its elements as they are in memory: asked in a quarter of the
# time that each of these takes. Tensors of other classes, and those of torch.func, may be so and have no memory.
IS_FLAGS = torch.BoolTensor.__instancecheck__
IS_OF = {torch.float32: torch.FloatTensor.__instancecheck__, torch.float64: torch.DoubleTensor.__instancecheck__}


def check_not_wrapped(name: str, tensor: Tensor) -> None:
    if is_transformed(tensor):
        received = "one that torch.func has wrapped (vmap, grad)"
        raise ValueError(f"{name}: expected a tensor with elements of its own, got {received}")


def copy_in(name: str, memory: Tensor, tensor: Tensor) -> int:
    """Copy `tensor`, the argument `name`, into memory that the kernel reads, and say where that is."""
    check_not_wrapped(name, tensor)
    if type(tensor) in PLAIN_TENSORS and not tensor._is_zerotensor():
        addresses_of([tensor], [name])  # refuses elements without memory
    with torch.inference_mode(False), torch.no_grad():
        return memory.copy_(tensor).data_ptr()


def own_copy(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return tensor.detach().clone(memory_format=torch.contiguous_format)


def can_receive(output: Tensor, tensor: Tensor, rows: int, shape: tuple[int, ...]) -> bool:
    """Whether `output` has memory for `rows` rows of `shape` that are as `tensor`."""
    if (output.dtype, output.device) != (tensor.dtype, tensor.device) or output.shape != (rows, *shape):
        return False
    end = (output.storage_offset() + output.numel()) * output.element_size()
    return output.is_contiguous() and (output.is_meta or end <= output.untyped_storage().nbytes())


def memory_like(state: State) -> State:
    """A copy in contiguous memory, which may be written to anywhere."""
    with torch.inference_mode(False), torch.no_grad():
        return map_tensors(
            lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor), state
        )


def copy_into(memory: State, state: State) -> None:
    """Copy a state into memory for it."""
    with torch.inference_mode(False), torch.no_grad():
        for to, tensor in zip(tensors_of(memory), tensors_of(state), strict=True):
            to.copy_(tensor)
