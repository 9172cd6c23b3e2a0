"""The spec says what state a network takes, and says it for networks of anybody's own."""

from typing import NamedTuple

import pytest
import torch
from tests.networks import NETWORKS, SPECS, make, make_input, tensors_of
from torch import nn

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    FreeState,
    Leaf,
    LowRank,
    StateSpec,
    fast_weights_spec,
    state_spec,
)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("batch_first", [False, True])
def test_shapes_are_those_torch_returns(layers, both_ways, proj_size, batch_first):
    options = {"num_layers": layers, "bidirectional": both_ways, "batch_first": batch_first}
    kinds = [nn.LSTM] if proj_size else [nn.RNN, nn.GRU, nn.LSTM]
    for kind in kinds:
        network = kind(3, 5, **options, **({"proj_size": proj_size} if proj_size else {}))
        spec = state_spec(network)
        for batch in (4, None):
            _, state = network(make_input(network, batch))
            tensors = tensors_of(state)
            leaves = list(spec)
            assert [leaf.name for leaf in leaves] == ["h", "c"][: len(tensors)]
            for leaf, tensor in zip(leaves, tensors, strict=True):
                expected = list(leaf.shape)
                if batch is not None:
                    expected.insert(leaf.batch_dim, batch)
                assert list(tensor.shape) == expected


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("batch", [4, None])
def test_pack_and_unpack_are_inverse(name, batch):
    _, spec = make(name)
    lead = () if batch is None else (batch,)
    leaves = {leaf.name: torch.randn(*lead, *leaf.shape) for leaf in spec}
    back = spec.unpack(spec.pack(leaves))
    assert back.keys() == leaves.keys()
    assert all(torch.equal(back[leaf], leaves[leaf]) for leaf in leaves)


def test_layers_and_samples_are_not_confused():
    spec = state_spec(nn.LSTM(3, 2, num_layers=2))
    h = torch.arange(12.0).view(3, 2, 2)  # sample, layer, unit
    packed, _ = spec.pack({"h": h, "c": h})
    assert packed.shape == (2, 3, 2)
    assert packed.is_contiguous()
    for sample in range(3):
        for layer in range(2):
            assert torch.equal(packed[layer, sample], h[sample, layer])


@pytest.mark.parametrize("name", NETWORKS)
def test_dtype_and_device_are_the_networks(name):
    network, _ = make(name, torch.float64)
    spec = state_spec(network)
    assert (spec.dtype, spec.device) == (torch.float64, torch.device("cpu"))
    assert state_spec(network.to("meta")).device == torch.device("meta")


class Pair(NamedTuple):
    position: object
    inner: object


class Oscillators(nn.Module):
    """A user's network with a nested state: a named tuple of a tensor and a dict, in layouts of its own."""

    def __init__(self, n):
        super().__init__()
        self.n, self.weight = n, nn.Parameter(torch.randn(n, 3))

    def forward(self, x, state):
        position = state.position + x @ self.weight.T
        inner = {"v": state.inner["v"] + position.T}
        return position, Pair(position, inner)


@state_spec.register
def _(network: Oscillators) -> StateSpec:
    return StateSpec(Pair(Leaf("position", (network.n,)), {"v": Leaf("v", (network.n,), batch_dim=1)}))


def test_a_network_of_ones_own():
    network = Oscillators(6).double()
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 4).double()))
    assert model.initial_state.heads.layers["v"].weight.dtype == torch.float64, "dtype follows the network's parameters"
    context = torch.randn(5, 2, dtype=torch.float64)
    output, state = model(torch.randn(5, 3, dtype=torch.float64), context=context)
    assert isinstance(state, Pair)
    assert state.inner["v"].shape == (6, 5)
    output.sum().backward()
    hx = FreeState(network, value=1.5)(batch_size=5)
    assert torch.equal(hx.inner["v"], torch.full((6, 5), 1.5, dtype=torch.float64))


def test_an_unknown_network_is_told_how_to_register():
    with pytest.raises(
        TypeError, match=r"network: expected .* got Linear(?s:.*)@state_spec.register(?s:.*)StateSpec\(Leaf"
    ):
        state_spec(nn.Linear(2, 3))
    with pytest.raises(TypeError, match="network: expected one with a registered state spec"):
        FreeState(nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        (torch.zeros(1, 4, 5), TypeError, "state: expected .*, got a tensor"),
        ((torch.zeros(1, 4, 5),), TypeError, "state: expected"),
        ((torch.zeros(1, 4, 5), None), TypeError, "state: expected"),
        ((torch.zeros(1, 4, 5), torch.zeros(1, 4, 6)), ValueError, "state: expected leaf 'c' of shape"),
        ((torch.zeros(4, 1, 5), torch.zeros(1, 4, 5)), ValueError, "state: expected leaf 'h' of shape"),
        ((torch.zeros(1, 4, 5), torch.zeros(1, 3, 5)), ValueError, "one batch size, got 4 for 'h', 3 for 'c'"),
        ((torch.zeros(1, 4, 5), torch.zeros(1, 5)), ValueError, "one batch size, got 4 for 'h', None for 'c'"),
    ],
)
def test_states_of_another_structure_or_shape_are_refused(state, error, words):
    with pytest.raises(error, match=words):
        state_spec(nn.LSTM(3, 5)).unpack(state)


def test_bad_specs_are_refused():
    with pytest.raises(TypeError, match="tree: expected at least one Leaf"):
        StateSpec((None,))
    with pytest.raises(ValueError, match="different names"):
        StateSpec((Leaf("h", (2,)), Leaf("h", (2,))))
    with pytest.raises(TypeError, match="tree: expected Leaf"):
        StateSpec("h")
    with pytest.raises(ValueError, match="name: expected an identifier"):
        Leaf("h.0", (2,))
    with pytest.raises(ValueError, match="batch_dim: expected 0 to 1"):
        Leaf("h", (2,), batch_dim=2)
    with pytest.raises(ValueError, match="shape: expected at least one axis"):
        Leaf("h", ())
    with pytest.raises(KeyError, match="leaf: expected one of h, c, got 'x'"):
        state_spec(nn.LSTM(3, 5))["x"]


def test_a_shared_state_is_the_same_for_all_layers():
    spec = state_spec(nn.GRU(3, 5, num_layers=3)).shared()
    state = spec.pack({"h": torch.randn(4, 1, 5)})
    assert state.shape == (3, 4, 5)
    assert state.is_contiguous()
    assert torch.equal(state[0], state[2])
    cell = state_spec(nn.GRUCell(3, 5))
    assert list(cell.shared()) == list(cell), "a cell has no layers to share"


def test_a_low_rank_state_is_a_low_rank_tuple():
    spec = fast_weights_spec(make("fast weights")[0], "low_rank", rank=3)
    h, a = spec.pack({"h": torch.randn(2, 5), "a_left": torch.randn(2, 3, 5), "a_right": torch.randn(2, 3, 5)})
    assert isinstance(a, LowRank)
    assert h.shape == (2, 5)
