"""The kernels of flash-linear-attention on a CPU, by Triton's interpreter; import this first, with TRITON_INTERPRET=1.

The interpreter of Triton 3.9 lacks three things that they need: a clock for the choice among settings, tensors as the
counters of loops, and masks that are made of integers.
"""

import builtins

import numpy
from triton.runtime import interpreter
from triton.runtime.autotuner import Autotuner

Autotuner.do_bench = lambda self, call, quantiles: (1.0,) * 3  # all settings are equally fast


def tensors(*bounds):
    """`range`, of tensors as a compiled kernel has them."""
    yield from map(interpreter._implicit_cvt, builtins.range(*map(int, bounds)))


def patched(function, patch=interpreter._patch_lang):
    scope = patch(function)
    names, restore = function.__globals__, scope.restore
    outside = names.get("range", builtins.range)
    names["range"] = tensors

    def restore_all():
        names["range"] = outside
        restore()

    scope.restore = restore_all
    return scope


def with_flags(method):
    def masked(self, pointers, *arguments):
        place = 0 if method.__name__ == "create_masked_load" else 1
        arguments[place].data = arguments[place].data.astype(numpy.bool_)
        return method(self, pointers, *arguments)

    return masked


interpreter._patch_lang = patched
for name in ("create_masked_load", "create_masked_store"):
    setattr(interpreter.InterpreterBuilder, name, with_flags(getattr(interpreter.InterpreterBuilder, name)))
