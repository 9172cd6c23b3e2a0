"""A saved state goes on where it ended, by a bit; what is no state of the network is refused."""

import contextlib
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.networks import SPECS, make, make_input, tensors_of
from tests.sequences_alone import build
from torch import nn

from contextual_rnn import ContextualRNN, FreeState, Leaf, StateSpec, fast_weights_spec
from contextual_rnn.serialization import load_carried_state, save_carried_state, save_state

GRU = nn.GRU(3, 5)
CARRIED = "contextual_rnn.carried_state"  # in the header of files of version 0


@pytest.mark.parametrize("batch", [3, None])
@pytest.mark.parametrize("case", [name for name in SPECS if "own" not in name])
def test_round_trip(case, batch, tmp_path):
    network, spec = make(case)
    wanted = spec.pack({leaf.name: torch.randn(*([] if batch is None else [batch]), *leaf.shape) for leaf in spec})
    save_carried_state(wanted, tmp_path / "state.safetensors", spec)
    found = load_carried_state(tmp_path / "state.safetensors", spec)
    assert type(found) is type(wanted)
    assert all(map(torch.equal, tensors_of(found), tensors_of(wanted)))
    assert all(tensor.is_contiguous() for tensor in tensors_of(found))
    assert os.listdir(tmp_path) == ["state.safetensors"]
    x = make_input(network, batch)
    assert all(map(torch.equal, tensors_of(network(x, found)), tensors_of(network(x, wanted))))


@pytest.mark.parametrize("case", ["lstm", "gru", "fast weights"])
def test_going_on_from_a_file_is_going_on(case, tmp_path):
    model = build(case, torch.float64)
    (x, more), context = torch.randn(2, 2, 4, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    spec = fast_weights_spec(model.network, "dense") if case == "fast weights" else model
    _, state = model(x, context=context)
    save_carried_state(state, tmp_path / "state.safetensors", spec)
    # No context is needed: the saved state stands for it.
    found = model(more, load_carried_state(tmp_path / "state.safetensors", spec))
    assert all(map(torch.equal, tensors_of(found), tensors_of(model(more, state))))


def test_bytes_are_little_more_than_the_numbers(tmp_path):
    lstm = nn.LSTM(3, 128)
    state = FreeState(lstm)(batch_size=8)
    save_carried_state(state, tmp_path / "state", lstm)
    assert (tmp_path / "state").stat().st_size < 1.2 * 2 * 8 * 128 * 4


def write(tensors, metadata=None):
    return lambda path: save_file(tensors, path, metadata=metadata)


H = "h of shape (1, batch, 5) or (1, 5) without a batch"
BAD = [
    (lambda path: save_carried_state(torch.zeros(1, 2, 6), path, nn.GRU(3, 6)),
     r"network: expected one with state h of shape \(1, batch, 6\).*, as the file has, .*\(1, batch, 5\)"),
    (lambda path: save_carried_state((torch.zeros(1, 2, 5),) * 2, path, nn.LSTM(3, 5)),
     r"network: .* c of .*, as the file has"),
    (lambda path: save_carried_state(torch.zeros(1, 2, 5).double(), path, nn.GRU(3, 5).double()),
     "path: expected leaf 'h' of torch.float32, as the network, got torch.float64"),
    (lambda path: torch.save(torch.zeros(1, 2, 5), path), "path: expected a file of save_carried_state, got "),
    (lambda path: path.write_bytes(b""), "path: expected a file of save_carried_state, got "),
    (write({"h": torch.zeros(1, 2, 5)}), "path: expected a file of save_carried_state, got .*, of h"),
    (write({"h": torch.zeros(1, 2, 6)}, {CARRIED: H}), r"path: expected leaf 'h' of shape .*, got \(1, 2, 6\)"),
    (write({"g": torch.zeros(1, 2, 5)}, {CARRIED: H}), "network: expected one with state h"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_files_are_refused(written, words, tmp_path):
    written(tmp_path / "state")
    with pytest.raises(ValueError, match=f"^{words}"):
        load_carried_state(tmp_path / "state", GRU)


def test_bad_states_are_refused_and_leave_the_old_file(tmp_path):
    save_carried_state(torch.ones(1, 2, 5), tmp_path / "state", GRU)
    fast = build("fast weights", torch.float32).network
    for state, network, words in (
        (torch.zeros(1, 2, 6), GRU, r"state: expected leaf 'h' of shape .*, got \(1, 2, 6\)"),
        ((torch.zeros(2, 5), torch.zeros(2, 5, 5)), fast, "state: expected .*, got something where it has None"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            save_carried_state(state, tmp_path / "state", network)
    with pytest.raises(TypeError, match=r"^state: expected h of .*, got \(a tensor"):
        save_carried_state((torch.zeros(1, 2, 5),) * 2, tmp_path / "state", GRU)
    assert torch.equal(load_file(tmp_path / "state")["h"], torch.ones(1, 2, 5))
    with pytest.raises(FileNotFoundError):
        load_carried_state(tmp_path / "none", GRU)
    assert os.listdir(tmp_path) == ["state"]
    assert ContextualRNN(GRU, FreeState(GRU))(torch.randn(4, 2, 3), load_carried_state(tmp_path / "state", GRU))


def test_what_no_file_can_hold_is_refused_when_it_is_saved(tmp_path):
    named = StateSpec(Leaf("__metadata__", (3,)))
    with pytest.raises(ValueError, match=r"^__metadata__: expected a tensor of another name"):
        save_carried_state(torch.zeros(2, 3), tmp_path / "file", named)
    with pytest.raises(ValueError, match=r"^h: expected a tensor whose values can be read, got one that torch"):
        torch.func.grad(lambda h: save_carried_state(h, tmp_path / "file", GRU))(torch.zeros(1, 2, 5))
    positive = StateSpec(Leaf("h", (3,), domain="positive"))
    with pytest.raises(ValueError, match=r"^state: expected leaf 'h' of positive numbers, got -1 to -1$"):
        save_carried_state(-torch.ones(2, 3), tmp_path / "file", positive)
    state = FreeState(nn.GRU(3, 5))
    for number in (-torch.inf, torch.nan):
        state.register_buffer("mask", torch.full((3,), number))
        refused = pytest.raises(ValueError, match=r"^mask: expected finite numbers")
        with contextlib.nullcontext() if number == -torch.inf else refused:
            save_state(state, tmp_path / "file")
