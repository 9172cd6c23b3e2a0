"""Time what `ContextualRNN` adds to a bare `nn.LSTM` that is given a ready state.

    python -m benchmarks.overhead            about a minute on an idle core
    python -m benchmarks.overhead --quick    a few rounds, to see that it works

The paper's decay task: B = 128, T = 25, H = 128, one input, contexts of two numbers, 50 ReLU units in the context
network. The bare network gets its (h0, c0) ready: contiguous tensors of the network's layout that require a gradient,
as a learned state does (`bare, constant state` does without). A training step is zero_grad, forward, backward from a
random cotangent, fused Adam over all parameters there are; inference is one step of one sequence, state carried (its
first step, which makes the state, is timed too and has no target). Contenders alternate, so that what else the machine
does meets all alike; the time is the processor's, of the one thread there is.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.parts import Figure, conclude
from benchmarks.timing import Seconds, in_turns, ratio, repeated, spread
from benchmarks.workers import Workers
from contextual_rnn import ContextState, ContextualRNN, FreeState, InitialState

BATCH, STEPS, UNITS, CONTEXT = 128, 25, 128, 2
BARE, CONSTANT, FREE, CONTEXTUAL = "bare, ready state", "bare, constant state", "free state", "contextual state"


@dataclass(frozen=True)
class Benchmark:
    """Time what `ContextualRNN` adds to a bare `nn.LSTM`."""

    training_rounds: int = 600
    inference_rounds: int = 150
    """Each of 100 steps a contender."""
    quick: bool = False
    """A few rounds in this process: to see that it works, not to quote."""
    out: Path = Path("results/benchmarks")
    """Folder for overhead.json."""


def build(kind: str) -> tuple[nn.LSTM, ContextualRNN]:
    """The same LSTM each time, and a model around it whose state is random."""
    torch.manual_seed(0)
    lstm = nn.LSTM(1, UNITS, batch_first=True)
    initial_state: InitialState = FreeState(lstm)
    if kind == CONTEXTUAL:
        initial_state = ContextState(lstm, nn.Sequential(nn.Linear(CONTEXT, 50), nn.ReLU()))
    with torch.no_grad():
        for parameter in initial_state.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return lstm, ContextualRNN(lstm, initial_state)


def training(kind: str) -> tuple[Callable[[], Tensor], nn.Module]:
    """A training step, which returns the outputs, and what it trains."""
    lstm, model = build(kind)
    x, context, cotangent = torch.randn(BATCH, STEPS, 1), torch.randn(BATCH, CONTEXT), torch.randn(BATCH, STEPS, UNITS)
    bare = kind in (BARE, CONSTANT)
    trained = lstm if bare else model
    with torch.no_grad():
        hx = model.initial_state(context, BATCH)
    for leaf in hx:
        leaf.requires_grad_(kind == BARE)
    adam = torch.optim.Adam(trained.parameters(), fused=True)

    def step() -> Tensor:
        adam.zero_grad()
        output, _ = lstm(x, hx) if bare else model(x, context=context)
        output.backward(cotangent)
        adam.step()
        return output

    return step, trained


def check() -> list[str]:
    """Outputs, final states and gradients of the network are the bare ones to the bit; names what was compared."""
    for kind in (FREE, CONTEXTUAL):
        lstm, model = build(kind)
        x, context = torch.randn(BATCH, STEPS, 1), torch.randn(BATCH, CONTEXT)
        cotangents = [torch.randn(BATCH, STEPS, UNITS), *torch.randn(2, 1, BATCH, UNITS)]
        hx, parameters = model.initial_state(context, BATCH), list(model.parameters())
        found = []
        for output, state in (lstm(x, hx), model(x, context=context)):
            found.append([output, *state, *torch.autograd.grad((output, *state), parameters, cotangents)])
        assert all(map(torch.equal, *found)), f"{kind}: another output or gradient than the bare network's"
        with torch.no_grad():
            hx = tuple(found[0][1:3])
            assert torch.equal(model(x[:, :1], hx)[0], lstm(x[:, :1], hx)[0]), f"{kind}: another step"
    return [FREE, CONTEXTUAL]


def time_training(rounds: int) -> Seconds:
    """Seconds a training step, one figure a round."""
    steps = {kind: training(kind)[0] for kind in (BARE, CONSTANT, FREE, CONTEXTUAL)}
    return _alternate(steps, rounds, 1)


def time_inference(rounds: int) -> Seconds:
    """Seconds a step of one sequence whose state is carried, and of its first step, which makes the state."""
    (lstm, free), (_, contextual) = build(FREE), build(CONTEXTUAL)
    for module in (lstm, free, contextual):
        module.eval()
    x, context, hx = torch.randn(1, 1, 1), torch.randn(1, CONTEXT), tuple(torch.randn(2, 1, 1, UNITS))
    steps = {
        BARE: lambda: lstm(x, hx),
        f"{FREE}, carried": lambda: free(x, hx),
        f"{CONTEXTUAL}, carried": lambda: contextual(x, hx),
        f"{FREE}, first step": lambda: free(x),
        f"{CONTEXTUAL}, first step": lambda: contextual(x, context=context),
    }
    with torch.no_grad():
        return _alternate(steps, rounds, 100)


def _alternate(steps: Mapping[str, Callable[[], Any]], rounds: int, each: int) -> Seconds:
    contenders, at_once = {name: repeated(step) for name, step in steps.items()}, dict.fromkeys(steps, each)
    in_turns(contenders, at_once, max(2, rounds // 20), time.thread_time)  # warms up
    return in_turns(contenders, at_once, rounds, time.thread_time)


def figures(trained: Seconds, inferred: Seconds) -> list[Figure]:
    shares = [(FREE, 2.0), (CONTEXTUAL, 6.0)]
    found = [
        Figure(
            f"training step, {kind} over bare, per cent",
            100 * (ratio(trained[kind], trained[BARE]) - 1),
            "at most",
            most,
        )
        for kind, most in shares
    ]
    for kind in (FREE, CONTEXTUAL):
        extra = _extra(inferred, f"{kind}, carried")
        found.append(Figure(f"inference at B=1, {kind}, carried, extra microseconds", extra, "at most", 15.0))
    return found


def _extra(inferred: Seconds, name: str) -> float:
    """Microseconds beyond the bare call: median over the rounds, each of which saw the same machine."""
    return 1e6 * statistics.median(ours - bare for ours, bare in zip(inferred[name], inferred[BARE], strict=True))


def run(options: Benchmark) -> dict[str, Any]:
    """Check, measure, print and write; returns what is written to overhead.json."""
    rounds = (3, 2) if options.quick else (options.training_rounds, options.inference_rounds)
    with Workers(here=options.quick) as workers:
        report: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.overhead", *sys.argv[1:]]),
            "machine": machine.describe(),
            "quick": options.quick,
            "gate": workers.run(1, check),
        }
        trained = workers.run(1, time_training, rounds[0])
        inferred = workers.run(1, time_inference, rounds[1])
    found = figures(trained, inferred)
    report |= {
        "figures": [figure.summary() for figure in found],
        "training step, microseconds": {name: spread(seconds) for name, seconds in trained.items()},
        "inference, microseconds": {name: spread(seconds) for name, seconds in inferred.items()},
        "inference, extra microseconds": {name: _extra(inferred, name) for name in inferred},
    }
    conclude(options.out / "overhead.json", report, found)
    return report


if __name__ == "__main__":
    run(tyro.cli(Benchmark))
