"""One call of a public name, made by its number and judged: refused as documented, right, or a finding."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
import os
import re
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tests.fuzz import surroundings, transforms
from tests.fuzz.call import CASES, Call, documented
from tests.fuzz.draw import Draw
from tests.fuzz.networks import OddError
from tests.fuzz.outcome import Outcome
from tests.fuzz.tensors import MAY_BE_REFUSED
from tests.fuzz.values import MILLION, hostile, same_tensor, short
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import contextual_rnn

for module in ("context_nets", "diagnostics", "files", "ops", "sequences", "specs", "states"):
    importlib.import_module(f"tests.fuzz.of_{module}")  # whose builders join CASES
OURS = str(Path(contextual_rnn.__file__).parent)
HERE = str(Path(__file__).parent)
MOST_SECONDS = 10.0  # of processor time for one call
LARGE = (
    "ContextualRNN.forward", "truncated", "generate", "FastWeightsRNN.forward", "fast_weights", "InitialState.forward",
    "InitialState.sample", "sequence_cross_entropy", "AdditiveAttention.forward", "diagnose", "StateSpec.unpack",
    "torch.ops.contextual_rnn.fast_weights_cpu", "torch.ops.contextual_rnn.fast_weights_cpu_backward",
    "ops.classification.Classification.__call__", "InitialState.kl", "InitialState.log_prob", "ContextNet.encode",
)  # fmt: skip
SLOW = ("AnyLength.forward",)  # which torch compiles
LARGEST = 100_000  # elements of an argument that is looked at before and after
MEMORY = re.compile(
    r"allocate|not enough memory|out of memory|bad_alloc|Storage size calculation overflowed", re.IGNORECASE
)
NAMED = re.compile(r"^[A-Za-z_][\w.\[\]'/]*(, [A-Za-z_][\w.\[\]']*)*: ")
# Python's words for arguments that a function does not have, and torch's for what only its modes refuse.
BINDING = re.compile(r"(un)?expected (keyword )?argument|positional argument|multiple values for")
OF_A_MODE = re.compile(
    r"[Ii]nference tensor|vmap|functorch|[Ff]ake ?[Tt]ensor|Batching rule not implemented|can be differentiated once"
)
# What Python says of a path and torch of a device or dtype names the argument too.
OF_OTHERS = ("os.PathLike", "device string", "device type at start", "argument 'dtype'", "argument 'device'")
OF_USERS = (
    "generation/step.py:<lambda>",
    "diagnostics/intercept.py:watch",
)  # where we call a function that was handed to us
SCHEMA = re.compile(r"Expected a value of type .* for argument '\w+'")


def run(seed: str, number: int) -> Outcome:
    """Make call `number` of `seed`."""
    whose_turn = names()
    name, started = whose_turn[number % len(whose_turn)], time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = _run(name, f"{seed}/{number}")
    seconds = time.process_time() - started
    if seconds > MOST_SECONDS and str(MILLION) not in outcome.text:  # so many rows take what they take
        outcome = dataclasses.replace(outcome, kind="finding", error="slow", message=f"{seconds:.1f} s")
    return outcome


@functools.cache
def names() -> list[str]:
    """Whose turn it is: each way to build calls once in a round, the larger ones more often, the slow ones rarely."""
    first = {build: name for name, build in reversed(CASES.items())}
    once = [name for name, build in CASES.items() if first[build] == name]
    a_round = [name for name in once if name not in SLOW] + 3 * [name for name in once if name in LARGE]
    return 8 * a_round + list(SLOW)


def _run(name: str, seed: str) -> Outcome:
    d = Draw(f"{seed}/change")
    mode = d.choose(["hostile"] * 10 + ["valid"] * 4 + ["same"] * 5 + ["transformed"])
    call = CASES[name](Draw(seed))
    if mode == "hostile":
        return _hostile(name, call, d)
    if mode == "transformed" and (place := transforms.place_of(d, call)) is not None and not call.makes:
        return _transformed(name, call, place, d, seed)
    return _same(name, call, d, seed) if mode == "same" else _valid(name, call, seed)


def _hostile(name: str, call: Call, d: Draw) -> Outcome:
    texts, changes = [], {}
    for _ in range(d.choose([1, 1, 1, 2])):
        if not call.places():
            break
        place = d.choose(call.places())
        holder: Any = call.kwargs if isinstance(place, str) else call.args
        old = holder[place]
        text, holder[place] = hostile(d, str(place), old)
        texts.append(f"{place}={text}")
        changes[place] = (changes.get(place, (old,))[0], holder[place])
    around = d.choose(list(surroundings.ALL) if d.chance(0.2) else ["nothing"])
    text = f"{', '.join(texts)}" + (f" under {around}" if around != "nothing" else "")
    torch.manual_seed(0)
    try:
        with surroundings.ALL[around]():
            result = call.run()
    except Exception as error:
        return judged(name, text, call, error, around)
    for old, new in changes.values():
        number = isinstance(old, int | float)
        if (number and isinstance(new, str | list)) or (isinstance(old, Tensor) and type(new) is str):
            return Outcome(name, text, "finding", "taken", "", f"{short(new)} taken for {short(old)}: {short(result)}")
        if number and not isinstance(old, bool) and isinstance(new, float) and new != new:
            return Outcome(name, text, "finding", "taken", "", f"nan taken for {short(old)}: {short(result)}")
    return Outcome(name, text, "taken")


def _valid(name: str, call: Call, seed: str) -> Outcome:
    before = None if call.changes else _numbers([*call.args, call.kwargs, call.function])
    try:
        result = _called(call)
    except Exception as error:
        outcome = judged(name, "valid", call, error, "nothing")
        return outcome if call.lenient else dataclasses.replace(outcome, kind="finding")
    try:
        if call.expect is not None:
            call.expect(result)
    except Exception as error:
        return _wrong(name, "valid", f"{type(error).__name__}: {error}")
    if before is not None and not _equal(before, _numbers([*call.args, call.kwargs, call.function]), 0):
        return _wrong(name, "valid", "an argument or the module was changed")
    if call.same and not _equal(_numbers(result), _numbers(_called(CASES[name](Draw(seed)))), 0):
        return _wrong(name, "valid", "a second call returned something else")
    return Outcome(name, "valid", "right")


def _same(name: str, call: Call, d: Draw, seed: str) -> Outcome:
    """Tensors of another layout, or another mode of torch: the result is the same."""
    other, text, around = CASES[name](Draw(seed)), "", "nothing"
    if d.chance(0.5) or call.plain:
        others = call.makes * surroundings.DEFAULTS + call.gradient * surroundings.WITHOUT_GRADIENT
        around = text = d.choose([name for name in surroundings.SAME if name not in others])
    else:
        for place in other.places():
            holder: Any = other.kwargs if isinstance(place, str) else other.args
            change, holder[place] = same_tensor(d, holder[place])
            text += f"{place}: {change}; " if change else ""
    try:
        result = _called(call)
        with surroundings.SAME.get(around, contextlib.nullcontext)():
            changed = _called(other)
    except Exception as error:
        outcome = judged(name, text, other, error, around)
        refused = MAY_BE_REFUSED in text or call.lenient
        return outcome if refused else dataclasses.replace(outcome, kind="finding")
    # Of another default dtype torch draws other numbers.
    if call.same and not _equal(_numbers(result), _numbers(changed), math.inf if "dtype" in around else 1e-4):
        return _wrong(name, text, "another result than from plain tensors")
    return Outcome(name, text, "right")


def _transformed(name: str, call: Call, place: int | str, d: Draw, seed: str) -> Outcome:
    """Under torch.func: refused by torch or us, or the same numbers as without."""
    text = d.choose(list(transforms.TRANSFORMS))
    changed, plain = transforms.TRANSFORMS[text]
    holder: Any = call.kwargs if isinstance(place, str) else call.args
    results = []
    for compute in (plain, changed):
        torch.manual_seed(0)
        try:
            results.append(compute(lambda: CASES[name](Draw(seed)), place, holder[place]))
        except Exception as error:
            return judged(name, f"{text} over {place}", call, error, "nothing")
    if not _equal(*map(_numbers, results), 1e-4 if name in transforms.EXACT else math.inf):
        return _wrong(name, f"{text} over {place}", f"another result than without {text}")
    return Outcome(name, text, "right")


def _called(call: Call) -> Any:
    torch.manual_seed(0)
    return call.run()


def _wrong(name: str, text: str, message: str) -> Outcome:
    return Outcome(name, text, "finding", "wrong", "", message)


def judged(name: str, text: str, call: Call, error: Exception, around: str) -> Outcome:
    """Whether an error is one that is documented and says which argument it is about."""
    frames = traceback.extract_tb(error.__traceback__)
    of_ours = [frame for frame in frames if frame.filename.startswith(OURS)]
    place = f"{os.path.relpath(of_ours[-1].filename, OURS)}:{of_ours[-1].name}" if of_ours else ""
    message = " ".join(str(error).split())
    if isinstance(error, OddError):
        kind = "user"
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and MEMORY.search(message)):
        kind = "memory"
    elif _is_documented(call, error, message, frames, bool(of_ours)):
        kind = "refused"
    elif OF_A_MODE.search(message) or type(error).__module__.startswith("torch._subclasses"):
        kind = "mode"
    elif "Cannot access data pointer" in message and not frames[-1].filename.startswith(OURS):
        kind = "mode"  # of torch.func, in an operator that it does not know
    elif _last(frames, HERE) > _last(frames, OURS) >= 0 or frames[-1].filename.startswith(HERE) or place in OF_USERS:
        kind = "user"  # a network, a step or a loss of the tests that is handed what it does not expect
    elif _others_say(frames, message) or _fails_alone(call, type(error), around):
        kind = "network"
    else:
        kind = "finding"
    return Outcome(name, text, kind, type(error).__name__, place, message[:300])


def _last(frames: traceback.StackSummary, folder: str) -> int:
    return max((place for place, frame in enumerate(frames) if frame.filename.startswith(folder)), default=-1)


def _is_documented(call: Call, error: Exception, message: str, frames: traceback.StackSummary, inside: bool) -> bool:
    if isinstance(error, call.also):
        return True
    raised_here = bool(frames) and frames[-1].filename.startswith(OURS)
    if isinstance(error, TypeError) and BINDING.search(message):  # Python's own, of a signature
        return raised_here or not inside
    if not inside and SCHEMA.search(message):  # torch's own, of an operator
        return True
    if not isinstance(error, documented(call.function)):
        return False
    return bool(NAMED.match(message)) or (raised_here and not isinstance(error, ValueError | TypeError))


def _others_say(frames: traceback.StackSummary, message: str) -> bool:
    """Whether another library refuses one of its own arguments by name."""
    inside = frames[-1].filename if frames else ""
    if inside.endswith(os.path.join("nn", "modules", "rnn.py")):
        return "input" in message and "hidden" not in message
    return "huggingface_hub" in inside or any(words in message for words in OF_OTHERS)


def _fails_alone(call: Call, kind: type[Exception], around: str) -> bool:
    if call.alone is None:
        return False
    try:
        with surroundings.ALL[around]():
            call.alone(call)
    except kind:
        return True
    except Exception:
        return False
    return False


def _numbers(value: Any, depth: int = 0) -> list[Any]:
    """Copies of all tensors and numbers in a value, in order."""
    if isinstance(value, Tensor):
        fits = value.numel() <= LARGEST and value.layout == torch.strided
        return [value.detach().clone() if fits else tuple(value.shape)]
    if isinstance(value, int | float | str) or value is None:
        return [value]
    if isinstance(value, nn.Module):
        return [entry for tensor in value.state_dict().values() for entry in _numbers(tensor)]
    if isinstance(value, PackedSequence):
        return _numbers(value.data)
    if isinstance(value, Mapping):
        return [entry for child in value.values() for entry in _numbers(child, depth + 1)]
    if isinstance(value, tuple | list) and depth < 8:
        return [entry for child in value for entry in _numbers(child, depth + 1)]
    if isinstance(value, torch.distributions.Normal):
        return _numbers([value.loc, value.scale])
    return []


def _equal(first: list[Any], second: list[Any], tolerance: float) -> bool:
    if len(first) != len(second):
        return False
    for a, b in zip(first, second, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            a, b = a.as_subclass(Tensor), b.as_subclass(Tensor)
            if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
                return False
            if a.is_meta or tolerance == math.inf:
                continue
            if not torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance, equal_nan=True):
                return False
        elif isinstance(a, str) and tolerance:
            continue  # numbers in words, of other last digits
        elif tolerance == math.inf:
            continue
        elif isinstance(a, float) and isinstance(b, float):
            if not (a == b or (a != a and b != b) or abs(a - b) <= tolerance * max(abs(a), abs(b))):
                return False
        elif type(a) is not type(b) or a != b:
            return False
    return True
