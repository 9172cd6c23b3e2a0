"""A file of each kind, how it is read, and how its header is changed."""

import contextlib
import copy
import json
from pathlib import Path

import torch
from tests.golden_cases import with_numbers
from torch import nn

from contextual_rnn import ContextState, FreeState, NormalState, SumState
from contextual_rnn.experiments.runs import checkpoint
from contextual_rnn.hub import HubContextualRNN
from contextual_rnn.serialization import (
    load_carried_state,
    load_state,
    load_weights,
    save_carried_state,
    save_state,
    save_weights,
)
from contextual_rnn.serialization.file_format import read_safetensors, safetensors_bytes

GRU = nn.GRU(3, 5)


def header_of(file):
    data = Path(file).read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(file, header, data=None):
    """Write `header`, an object or bytes, before the numbers that are in `file`."""
    whole = Path(file).read_bytes()
    numbers = whole[8 + int.from_bytes(whole[:8], "little") :] if data is None else data
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    Path(file).write_bytes(len(header).to_bytes(8, "little") + header + numbers)


def structure_in(file):
    """The name under which the header has the structure, and the structure."""
    (name,) = header_of(file)["__metadata__"].keys() & {"h0v1", "hxv1", "weightsv1"}
    return name, header_of(file)["__metadata__"][name]


def with_metadata(file, **metadata):
    header = header_of(file)
    with_header(file, header | {"__metadata__": header["__metadata__"] | metadata})


def with_first_number(file, name, number):
    """Write `file` anew with another first number in a tensor."""
    header, tensors = read_safetensors(file)
    tensors[name].view(-1)[0] = number
    Path(file).write_bytes(safetensors_bytes(tensors, header))


@contextlib.contextmanager
def unchanged(file):
    before = file.read_bytes()
    yield
    assert file.read_bytes() == before


def state_file(folder):
    state = with_numbers(NormalState(GRU, nn.Linear(2, 4), min_scale=0.2, activation=torch.tanh))
    save_state(state, folder / "file.safetensors")
    return lambda: load_state(NormalState(GRU, nn.Linear(2, 4), activation=torch.tanh), folder / "file.safetensors")


def carried_file(folder):
    save_carried_state(torch.ones(1, 2, 5), folder / "file.safetensors", GRU)
    return lambda: load_carried_state(folder / "file.safetensors", GRU)


def weights_file(folder):
    state = SumState([FreeState(GRU), ContextState(GRU, nn.Linear(2, 4), activation=torch.tanh)], [0.3, 0.7])
    model = with_numbers(HubContextualRNN(nn.GRU(3, 5), state))
    save_weights(model, folder / "file.safetensors")
    return lambda: load_weights(copy.deepcopy(model), folder / "file.safetensors")


def checkpoint_file(folder):
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.int64), "c": torch.ones(2).bfloat16()}
    written = checkpoint.Checkpoint(3, 0.5, [{"epoch": 0, "loss": 1.0}], 2.5, tensors)
    checkpoint.save(folder / "file.safetensors", written, "a run")
    return lambda: checkpoint.load(folder / "file.safetensors", "a run")


FILES = {"state": state_file, "carried": carried_file, "weights": weights_file, "checkpoint": checkpoint_file}
