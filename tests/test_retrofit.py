"""A trained network that is frozen, and a state for each task: attach, train, save, load, swap."""

import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.networks import SPECS, make, make_input, tensors_of
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    LeafwiseState,
    NormalState,
    fast_weights_spec,
    state_spec,
)
from contextual_rnn.serialization import load_state, save_state

ATTACHED = {
    "free": FreeState,
    "context": lambda spec: ContextState(spec, nn.Sequential(nn.Linear(2, 6), nn.Tanh()), zero_init=True),
}


def randomised(state):
    with torch.no_grad():
        for tensor in state.state_dict().values():
            tensor.copy_(torch.randn_like(tensor))
    return state


def file_of(tmp_path, state, name="task"):
    save_state(state, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("kind", ATTACHED)
@pytest.mark.parametrize("name", SPECS)
def test_attach_and_freeze(name, kind):
    """The output is the network's own to the bit, and after training all but the state is what it was, to the bit."""
    network, spec = make(name)
    network.requires_grad_(False)  # first: with a batch first torch's own GRU then sums in another order
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    x, context = make_input(network, 4), torch.randn(4, 2)
    bare = tensors_of(network(x))
    h0 = ATTACHED[kind](spec)
    model = ContextualRNN(network, h0)
    attached = tensors_of(model(x, context=context))
    if "low-rank" not in name:  # whose factors cannot start at zero, or they would never move
        assert all(map(torch.equal, attached, bare))
    start = {key: tensor.clone() for key, tensor in h0.state_dict().items()}
    # All parameters, decay and momentum included: nothing but what takes a gradient may move.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    targets = [torch.randn_like(tensor) for tensor in attached]
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        outputs = tensors_of(model(x, context=context))
        loss = sum((output - target).square().mean() for output, target in zip(outputs, targets, strict=True))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert any(not torch.equal(tensor, start[key]) for key, tensor in h0.state_dict().items())


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.LSTM(1, 128),
        lambda: nn.LSTM(3, 512, num_layers=2, bidirectional=True),
        lambda: nn.GRU(1, 256),
        lambda: nn.RNN(1, 128, num_layers=2),
        lambda: nn.LSTMCell(4, 256),
        lambda: FastWeightsRNN(4, 50),
    ],
)
def test_a_file_is_little_more_than_its_numbers(network, tmp_path):
    """From a kilobyte on under 1.2 times; the header is about 100 bytes and 70 a tensor, whatever the width."""
    network = network()
    spec = fast_weights_spec(network, "dense") if isinstance(network, FastWeightsRNN) else state_spec(network)
    for state in (FreeState(spec), ContextState(spec, nn.Embedding(4, 8))):
        numbers = sum(tensor.numel() * tensor.element_size() for tensor in state.state_dict().values())
        size = os.path.getsize(file_of(tmp_path, state))
        assert numbers >= 1024
        assert size < 1.2 * numbers
        assert size - numbers <= 100 + 85 * len(state.state_dict())


STATES = {
    "constant": lambda spec: ConstantState(spec),
    "free": lambda spec: FreeState(spec),
    "context": lambda spec: ContextState(spec, nn.Linear(2, 3)),
    "normal": lambda spec: NormalState(spec, nn.Linear(2, 3), scale_from_context=True),
}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("name", SPECS)
def test_swapped_in_place(name, kind, tmp_path):
    """Two tasks' states come back to the bit, into the same parameters, whatever the network and its state."""
    _, spec = make(name)
    first, second, h0 = (randomised(STATES[kind](spec)).eval() for _ in range(3))
    identities = [id(parameter) for parameter in h0.parameters()]
    context = torch.randn(4, 2)
    for task in (first, second, first):
        load_state(h0, file_of(tmp_path, task))
        assert all(map(torch.equal, tensors_of(h0(context)), tensors_of(task(context))))
    assert [id(parameter) for parameter in h0.parameters()] == identities


def test_a_context_network_that_two_heads_share_is_kept_once(tmp_path):
    spec, net = state_spec(nn.LSTM(3, 5)), nn.Linear(2, 64)

    def shared(net):
        return LeafwiseState(spec, h=ContextState(spec["h"], net), c=ContextState(spec["c"], net))

    state, h0 = shared(net), shared(nn.Linear(2, 64))
    file = file_of(tmp_path, state)
    assert sum(tensor.numel() for tensor in load_file(file).values()) == sum(p.numel() for p in state.parameters())
    load_state(h0, file)
    context = torch.randn(4, 2)
    assert all(map(torch.equal, h0(context), state(context)))


LSTM = '["h 1 B 5","c 1 B 5"]'
REFUSED = {
    "another width": (nn.LSTM(3, 6), '["h 1 B 6","c 1 B 6"]'),
    "more layers": (nn.LSTM(3, 5, num_layers=2), '["h 2 B 5","c 2 B 5"]'),
    "a projection": (nn.LSTM(3, 5, proj_size=2), '["h 1 B 2","c 1 B 5"]'),
    "another network": (nn.GRU(3, 5), '"h 1 B 5"'),
    "a cell": (nn.LSTMCell(3, 5), '["h B 5","c B 5"]'),
    "fast weights": (FastWeightsRNN(3, 5), '["h B 5",null]'),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_state_for_another_network_is_refused_with_both_shown(what, tmp_path):
    network, words = REFUSED[what]
    file = file_of(tmp_path, FreeState(network))
    h0 = randomised(FreeState(nn.LSTM(3, 5)))
    before = [tensor.clone() for tensor in h0.parameters()]
    message = f"path: expected a state for {LSTM}, as this one is, got one for {words} in {file}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_state(h0, file)
    assert all(map(torch.equal, h0.parameters(), before))


def test_numbers_of_another_kind_of_state_are_refused(tmp_path):
    lstm = nn.LSTM(3, 5)
    h0 = randomised(ContextState(lstm, nn.Linear(2, 4)))
    before = [tensor.clone() for tensor in h0.parameters()]
    for other in (FreeState(lstm), ContextState(lstm, nn.Linear(3, 4)), FreeState(state_spec(lstm).shared())):
        with pytest.raises(ValueError, match=r"^path: expected a ContextState of \{.*net.weight.*\}, got \{"):
            load_state(h0, file_of(tmp_path, other))
    assert all(map(torch.equal, h0.parameters(), before))


def test_files_that_are_none_are_refused(tmp_path):
    h0, file = FreeState(nn.LSTM(3, 5)), tmp_path / "task"
    with pytest.raises(FileNotFoundError):
        load_state(h0, file)
    save_file(h0.state_dict(), file)
    with pytest.raises(ValueError, match=r"^path: expected a file of save_state, got .*task, which names no state"):
        load_state(h0, file)
    torch.save(h0.state_dict(), file)  # pickled: never read
    with pytest.raises(ValueError, match=r"^path: expected a file of save_state, got .*task: "):
        load_state(h0, file)
    whole = file_of(tmp_path, h0).read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"^path: expected a file of save_state, got .*task: "):
        load_state(h0, file)
    for call in (save_state, load_state):
        with pytest.raises(TypeError, match=r"^state: expected an InitialState, got LSTM"):
            call(nn.LSTM(3, 5), file)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = file_of(tmp_path, FreeState(nn.LSTM(3, 5)))
    before = file.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match=f"could not be written: disk full.*{file}"):
        save_state(randomised(FreeState(nn.LSTM(3, 5))), file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["task"]
