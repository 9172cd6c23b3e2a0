"""What PyTorch has no public name for, in one place: its next version may change it."""

# pyright: reportPrivateUsage=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

Named = TypeVar("Named", bound=tuple[Any, ...])
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])

_functorch: Any = torch._C._functorch
_autograd: Any = torch._C._autograd
_dynamo: Any = torch._C._dynamo.eval_frame

Dropout = _DropoutNd  # the class of nn.Dropout and its siblings
disable_dynamo = _disable_dynamo  # as torch.compiler.disable, without importing torch._dynamo at once
dispatch_mode = _get_current_dispatch_mode  # the innermost TorchDispatchMode under way, or None
is_batched = _functorch.is_batchedtensor  # whether torch.func.vmap made this tensor
is_transformed = _functorch.is_functorch_wrapped_tensor  # whether torch.func made this tensor
transforms = _functorch.peek_interpreter_stack  # the innermost transform of torch.func under way, or None
graph_task = torch._C._current_graph_task_id  # the number of the backward pass under way, -1 for none
# What torch.compile puts calls into a program with, None or False for nothing; where it found nothing to put into one,
# the code runs with it set. A function of Python around it would be put into a program itself, with a warning.
compiling_callback: Callable[[], object] = _dynamo.get_eval_frame_callback
assert_later = torch._assert_async  # refuses a tensor of False when its value is known, in a compiled program too
increment_version = torch._C._increment_version  # as autograd.graph.increment_version, in a tenth of the time
data_parallel_around = DistributedDataParallel._get_active_ddp_module  # that whose forward pass is under way, or None
top_saved_tensors_hooks = _autograd._top_saved_tensors_default_hooks  # those of saved tensors, None where none are set

_hooks_of_all: Any = torch.nn.modules.module  # hooks that run with every module
_forward_ad: Any = torch.autograd.forward_ad


def untraced(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, which torch.compile calls as it is: of many small parts it would make many graphs."""
    disabled = disable_dynamo(function)

    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        # Not always `disabled`, which imports torch._dynamo.
        return (disabled if torch.compiler.is_dynamo_compiling() else function)(*args, **options)

    # It keeps what it compiled by the code, which all that are decorated would share.
    call.__code__ = call.__code__.replace(co_name=function.__qualname__)
    return wraps(function)(call)


def not_compiled(function: Function) -> Function:
    """`function`, which torch.compile leaves as it is with all that it calls; unlike by `disable_dynamo` at no cost."""
    skip = _dynamo._FrameExecStrategy(_dynamo._FrameAction.SKIP, _dynamo._FrameAction.SKIP)
    called: Any = function
    _dynamo.set_code_exec_strategy(called.__code__, skip)
    called._torchdynamo_disable = True  # where other functions that are compiled call it
    return function


def exportable(namedtuple: type[Named]) -> type[Named]:
    """`namedtuple`, so that torch.export saves and loads programs that take or return it."""
    pytree._register_namedtuple(namedtuple, serialized_type_name=f"contextual_rnn.{namedtuple.__name__}")
    torch.serialization.add_safe_globals([namedtuple])  # the example inputs of a program are pickled
    return namedtuple


def is_tracing() -> bool:
    """Whether torch.jit.trace is running."""
    return torch._C._get_tracing_state() is not None


def is_program() -> bool:
    """Whether calls are put into a program, in which values cannot be read: by torch.compile, export or jit.trace."""
    return torch.compiler.is_compiling() or is_tracing()


def each_of_a_batch(
    differentiate: Callable[..., Sequence[Tensor | None]], grad_outputs: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    """`differentiate(*grad_outputs)`, once for each where autograd.grad(is_grads_batched=True) gives a batch of them.

    It gives None in the same places each time.
    """
    if not any([grad is not None and _functorch.is_legacy_batchedtensor(grad) for grad in grad_outputs]):
        return differentiate(*grad_outputs)
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()

    def opened(size: int) -> list[Tensor | None]:
        remove: Any = torch._remove_batch_dim
        return [None if grad is None else remove(grad, level, size, 0) for grad in grad_outputs]

    def joined(gradients: Sequence[Tensor | None]) -> Tensor | None:
        present = [grad for grad in gradients if grad is not None]
        return torch._add_batch_dim(torch.stack(present), 0, level) if present else None

    size = max(len(grad) for grad in opened(1) if grad is not None)
    batches = [[None] * size if grad is None else grad.unbind() for grad in opened(size)]
    gradients = [differentiate(*each) for each in zip(*batches, strict=True)]
    return [joined(each) for each in zip(*gradients, strict=True)]


def forward_pre_hooks(module: nn.Module) -> tuple[Callable[..., Any], ...]:
    """What is called before `module.forward`."""
    return tuple(module._forward_pre_hooks.values())


def in_forward_ad() -> bool:
    """Whether derivatives are carried forward with the values."""
    return _forward_ad._current_level >= 0


def is_plain_call(module: torch.nn.Module) -> bool:
    """Whether calling the module runs the forward method of its class and nothing else."""
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
        _hooks_of_all._global_forward_hooks, _hooks_of_all._global_forward_pre_hooks,
        _hooks_of_all._global_backward_hooks, _hooks_of_all._global_backward_pre_hooks,
    )  # fmt: skip
    return not any(hooks) and "forward" not in module.__dict__ and module._compiled_call_impl is None
