"""Initial states for recurrent networks: constant, free, contextual, normal; fast weights; generation."""

# The table of contents is `__init__.pyi`. A name is imported when it is first used (PEP 562), so that
# `import contextual_rnn`, and with it `contextual-rnn --help`, does not import PyTorch. Nor `typing`, which takes
# longer than all of this: the command handles Ctrl-C only after it.

import gc as _gc
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

# Public names and their modules.
_MODULES = {
    "AdditiveAttention": "layers.additive_attention",
    "Categorical": "layers.context_net",
    "ConstantState": "states",
    "ContextDropout": "states",
    "ContextNet": "layers.context_net",
    "ContextState": "states",
    "ContextualRNN": "rnn",
    "Continuous": "layers.context_net",
    "FastWeightsCell": "layers.fast_weights",
    "FastWeightsRNN": "layers.fast_weights",
    "FreeState": "states",
    "InitialState": "states",
    "LatentState": "states",
    "Leaf": "spec.leaf",
    "LeafwiseState": "states",
    "LowRank": "ops",
    "Moments": "states",
    "NormalState": "states",
    "SetValued": "layers.context_net",
    "StateSpec": "spec.networks",
    "SumState": "states",
    "TokenSampler": "generation",
    "attach": "attachment",
    "check_spec": "spec.checks",
    "detach": "truncation",
    "fast_weights_spec": "layers.fast_weights",
    "generate": "generation",
    "given_context": "attachment",
    "interpolate": "generation",
    "load_carried_state": "serialization",
    "load_state": "serialization",
    "remove_initial_state": "attachment",
    "save_carried_state": "serialization",
    "save_state": "serialization",
    "sequence_cross_entropy": "layers.sequence_loss",
    "state_spec": "spec.networks",
    "truncated": "truncation",
}
# Folders and files that are public themselves: `contextual_rnn.ops.fast_weights` works after `import contextual_rnn`.
_PUBLIC_MODULES = (
    "attachment",
    "diagnostics",
    "export",
    "generation",
    "hub",
    "language",
    "ops",
    "sequences",
    "serialization",
    "spec",
    "states",
    "truncation",
)
_EXTRAS = {"safetensors": "files", "huggingface_hub": "hub", "transformers": "transformers"}  # that have a package

# Not those of `serialization`, which needs safetensors: `import *` works without it.
__all__ = [name for name, module in _MODULES.items() if module != "serialization"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("contextual-rnn")
    elif name in _MODULES:
        value = getattr(_import(_MODULES[name], name), name)
    elif name in _PUBLIC_MODULES:
        value = _import(name, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # so that it is looked up once
    return value


def _import(module: str, name: str) -> _ModuleType:
    # Without garbage collection: a full one visits every object of PyTorch, which takes longer than our own modules.
    collecting = _gc.isenabled()
    _gc.disable()
    try:
        return _import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if (extra := _EXTRAS.get(error.name or "")) is None:
            raise
        raise ImportError(f'{name} needs {error.name}: pip install "contextual-rnn[{extra}]"') from error
    finally:
        if collecting:
            _gc.enable()


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_PUBLIC_MODULES, "__version__"})
