"""Time what `ContextualRNN` adds to a bare `nn.LSTM` that is given a ready state.

    python -m benchmarks.overhead            about two minutes on an idle core
    python -m benchmarks.overhead --quick    a few rounds, to see that it works

The paper's decay task: B = 128, T = 25, H = 128, one input, contexts of two numbers, 50 ReLU units in the context
network. The bare network gets its (h0, c0) ready: contiguous tensors of the network's layout that require a gradient,
as a learned state does (`bare, constant state` does without). A training step is zero_grad, forward, backward from a
random cotangent, fused Adam over all parameters there are; inference is one step of one sequence, state carried. Steps
alternate one by one, so that what else the machine does meets all alike; one thread.
"""

from __future__ import annotations

import json
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
from benchmarks.parts import Figure
from benchmarks.timing import Seconds, ratio, spread
from benchmarks.workers import Workers
from contextual_rnn import ContextState, ContextualRNN, FreeState, InitialState

BATCH, STEPS, UNITS, CONTEXT = 128, 25, 128, 2
BARE, CONSTANT, FREE, CONTEXTUAL = "bare, ready state", "bare, constant state", "free state", "contextual state"


@dataclass(frozen=True)
class Benchmark:
    """Time what `ContextualRNN` adds to a bare `nn.LSTM`."""

    training_rounds: int = 1500
    inference_rounds: int = 300
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
        found = []
        for run in (lambda: lstm(x, model.initial_state(context, BATCH)), lambda: model(x, context=context)):
            output, state = run()
            found.append([output, *state, *torch.autograd.grad((output, *state), list(model.parameters()), cotangents)])
        assert all(map(torch.equal, *found)), f"{kind}: another output or gradient than the bare network's"
        with torch.no_grad():
            hx = found[0][1:3]
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
    taken: Seconds = {name: [] for name in steps}
    for number in range(-max(2, rounds // 20), rounds):  # the first ones warm up
        for name in list(steps)[:: -1 if number % 2 else 1]:
            step = steps[name]
            start = time.thread_time()
            for _ in range(each):
                step()
            if number >= 0:
                taken[name].append((time.thread_time() - start) / each)
    return taken


def figures(trained: Seconds, inferred: Seconds) -> list[Figure]:
    shares = [(FREE, 2.0), (CONTEXTUAL, 6.0)]
    found = [
        Figure(
            f"training step, {kind} over bare, per cent", 100 * (ratio(trained[kind], trained[BARE]) - 1), "at most", most
        )
        for kind, most in shares
    ]
    for name, seconds in inferred.items():
        if name != BARE:
            extra = statistics.median(ours - bare for ours, bare in zip(seconds, inferred[BARE], strict=True))
            target = 15.0 if "carried" in name else float("inf")
            found.append(Figure(f"inference at B=1, {name}, extra microseconds", 1e6 * extra, "at most", target))
    return found


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
    }
    print("\n".join(figure.line() for figure in found))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "overhead.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    run(tyro.cli(Benchmark))
