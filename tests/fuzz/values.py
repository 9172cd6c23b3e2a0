"""Arguments in the place of an argument: wrong types, wrong numbers, odd modules and functions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.fuzz.draw import KINDS, NETS, Draw, initial_state, network_and_spec
from tests.fuzz.networks import ODD_NETWORKS, OddError
from tests.fuzz.tensors import SAME, hostile_tensor
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import contextual_rnn as ours
from contextual_rnn import InitialState, Leaf, LowRank, StateSpec

# Numbers of rounds: a large one is valid, and takes for ever.
ROUNDS = ("num_steps", "permutations", "influence_steps", "inner_steps")
MILLION = 2**31


class Falsy:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise OddError("a truth that fails")


def surprises() -> list[Any]:
    """What nobody expects anywhere."""
    return [
        None, "", "no", "h", b"h", True, False, 0, 1, -1, 1.5, 1j, 2**63, 10**400, math.nan, math.inf, -0.0, [], (), {},
        [1.0, 2.0], (None,), {"h": None}, {"self": 1}, set(), object(), int, len, range(3), slice(None), Falsy(),
        Fraction(1, 3), Decimal("0.5"), np.float32(0.5), np.int64(2), np.bool_(True), np.zeros((3, 5)), np.array("x"),
        torch.float32, torch.device("meta"), torch.Size([3]), torch.tensor(2), torch.zeros(3, 5), torch.zeros(0),
        nn.Linear(2, 6), nn.Identity(), Leaf("h", (5,)), LowRank(torch.zeros(1), torch.zeros(1)), Path("nowhere"),
        torch.Generator(), lambda *args, **kwargs: None,
    ]  # fmt: skip


SIZES: list[Any] = [
    0, -1, 2, 7, True, False, 1.0, 2.5, "2", None, MILLION, 2**40, 2**63, 2**64, -(2**63), 10**400, np.int64(2),
    np.int32(2), np.array(2), torch.tensor(2), Fraction(2), Decimal(2), math.nan, math.inf, 2j, [2], (2,),
]  # fmt: skip
NUMBERS: list[Any] = [
    math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0, 0, 1, 2, 1e308, -1e308, 5e-324, 10**400, -(10**400), 2**63,
    Fraction(1, 3), Fraction(10**400), Decimal("0.5"), Decimal("nan"), np.float32(0.5), np.float64("nan"), np.int64(1),
    "0.5", "nan", None, True, False, 1j, torch.tensor(0.5), torch.tensor(math.nan), torch.zeros(2), [0.5],
]  # fmt: skip
FLAGS: list[Any] = [
    "yes", "no", "", "False", 1, 0, 2, None, math.nan, np.bool_(True), np.bool_(False), torch.tensor(True), [], [0],
    Falsy(), object(),
]  # fmt: skip
WORDS: list[Any] = ["", "zero", "é", "h" * 1000, "\0", "self", "a b", "../x", b"h", None, 1, True, ["h"], Path("x")]


def _fail(*args: Any, **kwargs: Any) -> Any:
    raise OddError("a function that fails")


FUNCTIONS: list[Callable[..., Any]] = [
    _fail, lambda *args: None, lambda *args: "text", lambda *args: torch.zeros(3, 5), lambda *args: torch.zeros(()),
    lambda *args: args[0] if args else 0.0, lambda *args: args, lambda: None,
    lambda *args: torch.full((3, 4), math.nan),
    lambda *args: args[0][..., :1] if args and isinstance(args[0], Tensor) else 1,
    lambda *args: args[0].long() if args and isinstance(args[0], Tensor) else [],
    lambda *args: torch.zeros(3, 4, dtype=torch.long), lambda x: torch.sigmoid(x), torch.relu_,
    lambda *args: torch.zeros(2, 0),
    lambda *args: (torch.zeros(3), torch.zeros(3, 4, 5)), lambda *args: torch.zeros(3, 4, device="meta"),
]  # fmt: skip


def _other_state(d: Draw) -> InitialState:
    _, spec = network_and_spec(d)
    return initial_state(d, spec, d.choose(KINDS), NETS[d.choose(list(NETS))][0])


def _odd_module(d: Draw, module: nn.Module) -> Any:
    if isinstance(module, InitialState) and d.chance(0.6):
        return _other_state(d)
    odd = d.choose(list(ODD_NETWORKS))
    changed = d.choose(["odd", "odd", "network", "net", "double", "half", "meta", "kind"])
    if changed == "odd":
        return ODD_NETWORKS[odd]()
    if changed == "network":
        return network_and_spec(d)[0]
    if changed == "net":
        return NETS[d.choose(list(NETS))][0]()
    if changed == "kind":
        return type(module)
    return {"double": module.double, "half": module.half, "meta": lambda: module.to("meta")}[changed]()


def hostile(d: Draw, name: str, value: Any) -> tuple[str, Any]:
    """What stands for an argument, and its description; of a container some entry is replaced."""
    if d.chance(0.12):
        surprise = d.choose(surprises())
        return short(surprise), surprise
    if isinstance(value, Tensor):
        return hostile_tensor(d, value)
    if isinstance(value, bool):
        return _of(d, FLAGS)
    if isinstance(value, int):
        sizes = [s for s in SIZES if not (isinstance(s, int) and s > 2**20)] if name in ROUNDS else SIZES
        return _of(d, sizes if d.chance(0.8) or name in ROUNDS else NUMBERS)
    if isinstance(value, float):
        return _of(d, NUMBERS)
    if isinstance(value, str):
        return _of(d, WORDS)
    if isinstance(value, nn.Module):
        odd = _odd_module(d, value)
        return short(odd), odd
    if isinstance(value, StateSpec):
        other = d.choose([network_and_spec(d)[1], network_and_spec(d)[0], value.shared()])
        return short(other), other
    if isinstance(value, PackedSequence):
        text, data = hostile_tensor(d, value.data)
        return (text, value._replace(data=data)) if isinstance(data, Tensor) else (text, data)
    if isinstance(value, dict | list | tuple):
        return _of_container(d, name, value)
    if callable(value):
        function = d.choose(FUNCTIONS)
        return f"function {FUNCTIONS.index(function)}", function
    surprise = d.choose(surprises())
    return short(surprise), surprise


def _of(d: Draw, values: list[Any]) -> tuple[str, Any]:
    value = d.choose(values)
    return short(value), value


def _of_container(d: Draw, name: str, value: Any) -> tuple[str, Any]:
    entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    change = d.choose(["entry"] * 6 + ["fewer", "more", "kind", "nested"])
    if change == "entry" and entries:
        index = d.random.randrange(len(entries))
        key, old = entries[index]
        text, new = hostile(d, name, old)
        entries[index] = (key, new)
        return f"[{key!r}] {text}", _like(value, entries)
    if change == "fewer" and entries:
        return "fewer entries", _like(value, entries[:-1])
    if change == "nested":
        return "nested once more", [value]
    if change == "kind":
        kind = d.choose([list, tuple, iter, lambda pairs: dict(enumerate(pairs))])
        return "another container", kind([entry for _, entry in entries])
    more = [*entries, ("another", entries[0][1] if entries else 0)]
    return "more entries", _like(value, more)


def _like(value: Any, entries: list[tuple[Any, Any]]) -> Any:
    if isinstance(value, dict):
        return dict(entries)
    values = [entry for _, entry in entries]
    if hasattr(value, "_fields"):
        return type(value)(*values) if len(values) == len(value) else tuple(values)
    return tuple(values) if isinstance(value, torch.Size) else type(value)(values)


def same_tensor(d: Draw, value: Any) -> tuple[str, Any]:
    """The argument with every tensor in it laid out otherwise."""
    if isinstance(value, Tensor):
        name = d.choose(list(SAME))
        return name, SAME[name](value)
    if isinstance(value, dict | list | tuple) and not isinstance(value, PackedSequence | torch.Size):
        entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        changed = [(key, same_tensor(d, entry)) for key, entry in entries]
        texts = " ".join(text for _, (text, _) in changed if text)
        return texts, _like(value, [(key, new) for key, (_, new) in changed])
    return "", value


def short(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        try:
            return f"tensor{tuple(value.shape)} {value.dtype} {value.device} {value.layout}"
        except Exception:
            return f"a {type(value).__name__}"
    if isinstance(value, InitialState | ours.ContextualRNN):
        inner = getattr(value, "network", None)
        return type(value).__name__ + (f"({short(inner)}, {short(value.initial_state)})" if inner is not None else "")
    if isinstance(value, nn.Module):
        return repr(value).replace("\n", " ")[:60]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {short(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple) and len(value) < 12:
        return f"{type(value).__name__}({', '.join(map(short, value))})"
    try:
        text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    except Exception:
        text = ""
    return text if 0 < len(text) < 70 else f"a {type(value).__name__}"
