"""Time one step a call: a stream against one-step calls of torch's networks and cells, and against onnxruntime.

    python -m benchmarks.streaming            a minute on an idle core
    python -m benchmarks.streaming --quick    a few rounds, to see that it works

8 input features, 64 units, one thread, no gradients; each contender carries its own state. onnxruntime runs the ONNX
operator LSTM with inputs and outputs bound to memory once. Contenders alternate; the time is the processor's.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.parts import Figure, conclude
from benchmarks.timing import Contender, Seconds, in_turns, ratio, spread
from benchmarks.workers import Workers
from contextual_rnn import ContextualRNN, FastWeightsRNN, FreeState, state_spec
from contextual_rnn.ops._gated import cpu
from contextual_rnn.spec.steps import step_of

FEATURES, UNITS = 8, 64
ONE_CALL, CELL, ONNX = "a call of one step", "torch's cell", "onnxruntime's LSTM"
STREAM, FLAGS, STREAM_OF_CELL = "a stream", "a stream with flags", "a stream of the cell"
KINDS: dict[str, Callable[[], nn.Module]] = {
    "nn.LSTM": lambda: nn.LSTM(FEATURES, UNITS),
    "nn.GRU": lambda: nn.GRU(FEATURES, UNITS),
    "fast weights": lambda: FastWeightsRNN(FEATURES, UNITS),
}
CELLS: dict[str, Callable[[], nn.Module]] = {
    "nn.LSTM": lambda: nn.LSTMCell(FEATURES, UNITS),
    "nn.GRU": lambda: nn.GRUCell(FEATURES, UNITS),
}
BATCHES = (1, 64)
# At most how much of the other's time, by kind, rows, and the two.
TARGETS = {
    ("nn.LSTM", 1, STREAM, ONE_CALL): 0.05,
    ("nn.LSTM", 1, STREAM, ONNX): 1.0,
    ("nn.LSTM", 64, STREAM_OF_CELL, CELL): 0.5,
    **{(kind, batch, FLAGS, STREAM): 1.2 for kind in KINDS for batch in BATCHES},
}
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Benchmark:
    """Time one step a call."""

    rounds: int = 60
    each: int = 200
    """Steps of a contender in a round."""
    quick: bool = False
    """A few rounds in this process: to see that it works, not to quote."""
    out: Path = Path("results/benchmarks")
    """Folder for streaming.json."""


def model_of(network: nn.Module) -> ContextualRNN:
    """A model in evaluation whose state is random."""
    model = ContextualRNN(network, FreeState(network)).eval()
    with torch.no_grad():
        for parameter in model.initial_state.parameters():
            parameter.normal_()
    return model


def stepped(network: nn.Module, batch: int) -> Step:
    """One call of the network after the other, each with the state that the one before returned."""
    spec, state = state_spec(network), model_of(network).initial_state(batch_size=batch)

    def step(x: Tensor) -> Tensor:
        nonlocal state
        if isinstance(network, nn.RNNBase):
            output, state = network(x[None], state)
            return output[0]
        if isinstance(network, nn.RNNCellBase):
            state = network(x, state)
            return state[0] if isinstance(state, tuple) else state
        output, state = step_of(network, spec, x, state)
        return output

    return step


def by_onnxruntime(network: Any, batch: int) -> Step:
    """The operator LSTM of ONNX with the same weights and state; two states are read and written in turns."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def gates(tensor: Tensor) -> Tensor:
        """From torch's order i f g o to that of ONNX, i o f c."""
        i, f, g, o = tensor.detach().chunk(4)
        return torch.cat([i, o, f, g])

    weights = {
        "W": gates(network.weight_ih_l0)[None],
        "R": gates(network.weight_hh_l0)[None],
        "B": torch.cat([gates(network.bias_ih_l0), gates(network.bias_hh_l0)])[None],
    }
    shapes = {"X": (1, batch, FEATURES), "h": (1, batch, UNITS), "c": (1, batch, UNITS)}
    results = {"Y": (1, 1, batch, UNITS), "h_n": shapes["h"], "c_n": shapes["c"]}

    def described(sizes: dict[str, tuple[int, ...]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]

    node = helper.make_node("LSTM", ["X", *weights, "", "h", "c"], list(results), hidden_size=UNITS)
    initializers = [numpy_helper.from_array(weight.numpy(), name) for name, weight in weights.items()]
    graph = helper.make_graph([node], "lstm", described(shapes), described(results), initializers)
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(program.SerializeToString(), options, ["CPUExecutionProvider"])
    start = dict(zip("hc", model_of(network).initial_state(batch_size=batch), strict=True))

    def memory(size: tuple[int, ...]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(size, np.float32))

    x_in, output = memory(shapes["X"]), memory(results["Y"])
    states = [{name: memory(shapes[name]) for name in start} for _ in range(2)]
    bindings = [session.io_binding() for _ in states]
    for binding, before, after in zip(bindings, states, states[::-1], strict=True):
        binding.bind_ortvalue_input("X", x_in)
        binding.bind_ortvalue_output("Y", output)
        for name, value in start.items():
            before[name].update_inplace(value.contiguous().numpy())
            binding.bind_ortvalue_input(name, before[name])
            binding.bind_ortvalue_output(f"{name}_n", after[name])
    turns = itertools.cycle(
        list(zip(bindings, states, strict=True))
    )  # a binding does not keep the memory that it reads

    def step(x: Tensor) -> Tensor:
        x_in.update_inplace(x.numpy()[None])
        session.run_with_iobinding(next(turns)[0])
        return torch.from_numpy(output.numpy())[0, 0]

    return step


def contenders(kind: str, batch: int) -> dict[str, Step]:
    """Every way to take a step of one kind of network, with the same weights and state."""

    def network(kinds: dict[str, Callable[[], nn.Module]]) -> Any:
        torch.manual_seed(0)
        return kinds[kind]()

    streams = [model_of(network(KINDS)).stream(batch_size=batch) for _ in range(2)]
    no_flags = torch.zeros(batch, dtype=torch.bool)
    ways: dict[str, Step] = {
        ONE_CALL: stepped(network(KINDS), batch),
        STREAM: lambda x: streams[0](x),  # called as the one with flags is
        FLAGS: lambda x: streams[1](x, reset=no_flags),
    }
    if kind in CELLS:
        ways |= {CELL: stepped(network(CELLS), batch)}
        ways |= {STREAM_OF_CELL: model_of(network(CELLS)).stream(batch_size=batch)}
    if kind == "nn.LSTM" and all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        ways[ONNX] = by_onnxruntime(network(KINDS), batch)
    return ways


def check() -> list[str]:
    """Ten steps of all ways agree to 1e-5; names what was compared. The cell has the same weights."""
    compared = []
    with torch.no_grad():
        for kind in KINDS:
            for batch in BATCHES:
                ways = contenders(kind, batch)
                for _ in range(10):
                    x = torch.randn(batch, FEATURES)
                    outputs = {name: step(x).clone() for name, step in ways.items()}
                    for name, output in outputs.items():
                        worst = float((output - outputs[ONE_CALL]).abs().max())
                        assert worst < 1e-5, f"{kind}, B = {batch}, {name}: differs by {worst:.1e}"
                compared += [f"{kind}, B = {batch}: {name}" for name in ways]
    return compared


@torch.no_grad()
def time_steps(kind: str, batch: int, rounds: int, each: int) -> Seconds:
    """Seconds a step, one figure a round."""
    ways, x = contenders(kind, batch), torch.randn(batch, FEATURES)
    steps, at_once = {name: _steps(step, x) for name, step in ways.items()}, dict.fromkeys(ways, each)
    in_turns(steps, at_once, 2, time.thread_time)  # warms up
    return in_turns(steps, at_once, rounds, time.thread_time)


def _steps(step: Step, x: Tensor) -> Contender:
    """As `repeated`, without a function around the step, which would be timed with it."""

    def run(steps: int) -> None:
        for _ in range(steps):
            step(x)

    return Contender(run)


def figures(kind: str, batch: int, seconds: Seconds) -> list[Figure]:
    pairs = [(STREAM, ONE_CALL), (STREAM, ONNX), (STREAM_OF_CELL, CELL), (FLAGS, STREAM)]
    return [
        Figure(
            f"{kind}, B = {batch}: {ours} / {theirs}",
            ratio(seconds[ours], seconds[theirs]),
            "at most",
            TARGETS.get((kind, batch, ours, theirs)),
            f"{1e6 * min(seconds[ours]):.1f} us",
        )
        for ours, theirs in pairs
        if theirs in seconds
    ]


def run(options: Benchmark) -> dict[str, Any]:
    """Check, measure, print and write; returns what is written to streaming.json."""
    rounds, each = (2, 3) if options.quick else (options.rounds, options.each)
    rows, measured = [], {}
    with Workers(here=options.quick) as workers:
        report: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.streaming", *sys.argv[1:]]),
            "machine": machine.describe() | {"native kernel": cpu.availability()},
            "quick": options.quick,
            "gate": workers.run(1, check),
        }
        for kind in KINDS:
            for batch in BATCHES:
                seconds = workers.run(1, time_steps, kind, batch, rounds, each)
                rows += figures(kind, batch, seconds)
                measured[f"{kind}, B = {batch}"] = {name: spread(each_one) for name, each_one in seconds.items()}
    report |= {"figures": [row.summary() for row in rows], "microseconds a step": measured}
    conclude(options.out / "streaming.json", report, rows)
    return report


if __name__ == "__main__":
    run(tyro.cli(Benchmark))
