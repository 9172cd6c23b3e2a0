"""What PyTorch has no public name for, in one place: its next version may change it."""

# pyright: reportPrivateUsage=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.utils._python_dispatch import _get_current_dispatch_mode as dispatch_mode

_functorch: Any = torch._C._functorch
_autograd: Any = torch._C._autograd

is_transformed = _functorch.is_functorch_wrapped_tensor  # whether torch.func made this tensor
transforms = _functorch.peek_interpreter_stack  # the innermost transform of torch.func under way, or None
graph_task = torch._C._current_graph_task_id  # the number of the backward pass under way, -1 for none
top_saved_tensors_hooks = _autograd._top_saved_tensors_default_hooks  # those of saved tensors, None where none are set

__all__ = [
    "Dropout",
    "dispatch_mode",
    "graph_task",
    "is_tracing",
    "is_transformed",
    "top_saved_tensors_hooks",
    "transforms",
]


def is_tracing() -> bool:
    """Whether torch.jit.trace is running."""
    return torch._C._get_tracing_state() is not None
