"""Modules that torch.distributed.fsdp.fully_shard has sharded: whole parameters for methods other than forward."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar
from weakref import ref

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

Result = TypeVar("Result")

_FSDP = "torch.distributed.fsdp"
_AROUND = "_around"
_running: list[nn.Module] = []  # modules in which `as_forward` is running


class _Around:
    """The module that runs another as a part of itself: sharded, it may hold the parameters of both.

    An attribute of the part that is neither copied nor saved. One dictionary of all parts would not do: torch.compile
    looks at all keys of a dictionary that it meets, and compiles anew for every module that is made anywhere.
    """

    def __init__(self, whole: nn.Module | None = None):
        self.reference = None if whole is None else ref(whole)

    def __reduce__(self) -> tuple[type[_Around], tuple[()]]:
        return _Around, ()


def set_around(part: nn.Module, whole: nn.Module) -> None:
    """Remember which module runs `part`."""
    if _around(part) is not whole:
        vars(part)[_AROUND] = _Around(whole)


def _around(part: nn.Module) -> nn.Module | None:
    around = part.__dict__.get(_AROUND)
    return None if around is None or around.reference is None else around.reference()


def is_sharded(tensor: Tensor) -> bool:
    """Whether this is a DTensor: its dtype is not the one that the module computes with."""
    kind = type(tensor)
    return kind is not Tensor and kind is not nn.Parameter and hasattr(kind, "full_tensor")


def casts_inputs(network: nn.Module, parameter: Tensor) -> bool:
    """Whether FSDP casts what the network receives; `parameter` is one of its own."""
    return is_sharded(parameter) or hasattr(type(network), "summon_full_params")


def is_fsdp(module: nn.Module) -> bool:
    """Whether fully_shard was given this module."""
    return hasattr(type(module), "_get_fsdp_state")


def as_forward(module: nn.Module, function: Callable[..., Result]) -> Callable[..., Result]:
    """`function`, run like the forward pass of `module`: under FSDP with whole parameters and inputs as it casts them.

    Gradients are reduced as those of a forward pass are, provided that all tensors are in what `function` returns.
    """
    if not is_fsdp(module):
        return function
    if "_run_as_forward" not in module.__dict__:
        module._run_as_forward = MethodType(_run, module)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        sys.modules[_FSDP].register_fsdp_forward_method(module, "_run_as_forward")
    return lambda *args, **options: module._run_as_forward(function, *args, **options)  # pyright: ignore[reportCallIssue]


def gathered(module: nn.Module, method: Callable[..., Result]) -> Callable[..., Result]:
    """A method of `module`, run with whole parameters if fully_shard was given the module or the one around it."""
    if _FSDP not in sys.modules:
        return method
    whole = _around(module)
    if whole is None or not is_fsdp(whole) or whole in _running or (is_fsdp(module) and _has_run(module)):
        return as_forward(module, method)
    # FSDP wants the outermost module to be the first that runs.
    return as_forward(whole, lambda *args, **options: as_forward(module, method)(*args, **options))


def _run(module: nn.Module, function: Callable[..., Result], /, *args: Any, **options: Any) -> Result:
    _running.append(module)
    try:
        result = function(*args, **options)
    finally:
        _running.pop()
    # A view of a parameter would lose its memory when the parameter is sharded again.
    return tree_map_only(Tensor, lambda t: t.clone() if t._is_view() else t, result)


def _has_run(module: Any) -> bool:
    return module._get_fsdp_state()._is_root is not None
