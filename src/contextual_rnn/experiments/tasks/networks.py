"""The networks of a comparison: torch's and ours by name, or one that a Python file makes."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from contextual_rnn import ConstantState, FastWeightsRNN, state_spec

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "fast_weights": FastWeightsRNN,
}


def make_network(name: str, input_size: int, units: int) -> nn.Module:
    """The network `name`, of one of `NETWORKS`, or of FILE.py:FUNCTION.

    Raises ValueError or TypeError for a file that does not run or has no such function, for a function of other
    arguments or one that fails, and for a network that is not batch-first, not registered, bidirectional (at each step
    it would see the inputs after it), of other floats than float32 on the CPU, or that does not return an output
    (batch, steps, features) and a state.
    """
    if name in NETWORKS:
        return NETWORKS[name](input_size, units, batch_first=True)
    try:
        network = _function(name)(input_size, units)
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError) and str(error).startswith("network: "):
            raise
        raise ValueError(
            f"network: expected a function of the input size and the units in {name}, got {type(error).__name__}: "
            f"{error}"
        ) from error
    _check(name, network, input_size)
    return network


def own_files(name: str) -> list[str]:
    """The file that a network comes from, which runs of the network depend on; none for one of `NETWORKS`."""
    return [] if name in NETWORKS else [name.rpartition(":")[0]]


def _function(name: str) -> Callable[[int, int], nn.Module]:
    path, _, function = name.rpartition(":")
    try:
        build = cast("Callable[[int, int], nn.Module] | None", runpy.run_path(path).get(function))
    except (Exception, SystemExit) as error:  # a script ends the process where it has read its arguments
        raise ValueError(
            f"network: expected a Python file that runs, got {path}: {type(error).__name__}: {error}"
        ) from error
    if not callable(build):
        raise ValueError(f"network: expected a function {function} in {path}, got {type(build).__name__}")
    return build


def _check(name: str, network: Any, input_size: int) -> None:
    if not isinstance(network, nn.Module) or getattr(network, "batch_first", None) is not True:
        raise ValueError(f"network: expected one with batch_first=True from {name}, got {network}")
    if state_spec(network).bidirectional:
        raise ValueError(f"network: expected one that reads forwards alone from {name}, got {network}")
    for parameter in network.parameters():
        if parameter.dtype != torch.float32 or not parameter.is_cpu:
            received = f"{parameter.dtype} on {parameter.device}"
            raise ValueError(f"network: expected parameters of torch.float32 on cpu from {name}, got {received}")
    inputs, expected = torch.zeros(1, 2, input_size, device="cpu"), "(1, 2, features) and a state"
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output, _ = network(inputs, ConstantState(network)(batch_size=1))
    except Exception as error:
        raise ValueError(
            f"network: expected one from {name} that makes inputs {tuple(inputs.shape)} and a state an output "
            f"{expected}, got {type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[:2] != inputs.shape[:2]:
        received = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"network: expected an output {expected} from {name}, got {received}")
