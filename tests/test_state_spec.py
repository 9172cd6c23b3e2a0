"""The spec says what state a network takes, and says it for networks of anybody's own."""

import itertools
import textwrap
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.networks import NETWORKS, SPECS, Motion, Springs, make, make_input, tensors_of
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
from contextual_rnn.spec import take_step


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


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "own cell"])
def test_dtype_and_device_are_the_networks(name):
    network, _ = make(name, torch.float64)
    spec = state_spec(network)
    assert (spec.dtype, spec.device) == (torch.float64, torch.device("cpu"))
    assert state_spec(network.to("meta")).device == torch.device("meta")


def test_a_network_of_ones_own():
    network = Springs(3, 6).double()
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 4).double()))
    assert model.initial_state.heads.layers["v"].weight.dtype == torch.float64, "dtype follows the network's parameters"
    output, state = model(torch.randn(5, 3).double(), context=torch.randn(5, 2).double())
    assert isinstance(state, Motion)
    assert state.rest["v"].shape == (6, 5)
    output.sum().backward()
    hx = FreeState(network, value=1.5)(batch_size=5)
    assert isinstance(hx, Motion)
    assert torch.equal(hx.rest["v"], torch.full((6, 5), 1.5, dtype=torch.float64))


def test_a_network_is_registered_in_the_three_lines_that_its_refusal_shows():
    class Counter(nn.Module):
        hidden_size = 4

        def forward(self, x, state):
            return state + x, state + 1

    with pytest.raises(TypeError, match=r"^network: expected .* got Counter") as refusal:
        state_spec(Counter())
    lines = textwrap.dedent(str(refusal.value).partition("\n\n")[2])
    assert len(lines.splitlines()) == 3
    exec(lines, {"state_spec": state_spec, "StateSpec": StateSpec, "Leaf": Leaf, "Counter": Counter})

    class Subclass(Counter):
        hidden_size = 6

    for network in (Counter(), Subclass()):
        width = network.hidden_size
        model = ContextualRNN(network, ContextState(network, nn.Linear(2, 3)))
        output, state = model(torch.randn(5, width), context=torch.randn(5, 2))
        assert output.shape == state.shape == (5, width)


class Two(NamedTuple):
    first: object
    second: object


LEAVES = st.lists(st.integers(1, 3), min_size=1, max_size=3).flatmap(
    lambda shape: st.integers(0, len(shape)).map(lambda batch_dim: Leaf("x", tuple(shape), batch_dim))
)
TREES = st.recursive(
    LEAVES | st.none(),
    lambda children: (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.builds(Two, children, children)
        | st.dictionaries(st.sampled_from("abc"), children, max_size=3)
    ),
    max_leaves=5,
)


def skeleton(tree):
    """The types that hold a state together, its tensors and leaves left out."""
    if isinstance(tree, dict):
        return {name: skeleton(child) for name, child in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree), [skeleton(child) for child in tree]
    return tree is None


@given(tree=TREES, batch=st.none() | st.integers(1, 4))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_states_of_any_structure(tree, batch):
    numbers = itertools.count()

    def rename(node):
        if isinstance(node, Leaf):
            return replace(node, name=f"x{next(numbers)}")
        if isinstance(node, dict):
            return {name: rename(child) for name, child in node.items()}
        if isinstance(node, tuple | list):
            children = map(rename, node)
            return Two(*children) if isinstance(node, Two) else type(node)(children)
        return node

    tree = rename(tree)
    assume(next(numbers) > 0)
    spec = StateSpec(tree)
    leaves = {leaf.name: torch.randn(*(() if batch is None else (batch,)), *leaf.shape) for leaf in spec}
    state = spec.pack(leaves)
    assert skeleton(state) == skeleton(tree)
    for leaf, tensor in zip(spec, tensors_of(state), strict=True):
        expected = list(leaf.shape)
        expected[leaf.batch_dim : leaf.batch_dim] = [] if batch is None else [batch]
        assert list(tensor.shape) == expected
        assert tensor.is_contiguous()
    back = spec.unpack(state)
    assert back.keys() == leaves.keys()
    assert all(torch.equal(back[name], leaves[name]) for name in leaves)
    made = FreeState(spec, value=2.5)
    assert skeleton(made(batch_size=batch)) == skeleton(tree)
    assert [tensor.shape for tensor in tensors_of(made(batch_size=batch))] == [t.shape for t in tensors_of(state)]


@pytest.mark.parametrize(
    ("unknown", "words"),
    [
        (nn.Linear(2, 3), "one with a registered state spec, got Linear; register it"),
        (None, "a module with a registered state spec, or a StateSpec, got NoneType"),
        (nn.LSTM, "a module with a registered state spec, or a StateSpec, got the class LSTM"),
    ],
)
@pytest.mark.parametrize(
    "door", [state_spec, FreeState, lambda network: ContextualRNN(network, FreeState(nn.LSTM(2, 3)))]
)
def test_an_unknown_network_is_refused(unknown, words, door):
    with pytest.raises(TypeError, match=f"^network: expected {words}"):
        door(unknown)


ONE, TWO = torch.zeros(1, 4, 5), torch.zeros(1, 3, 5)
DICTS = StateSpec({"h": Leaf("h", (5,)), "c": Leaf("c", (5,), batch_dim=1)})


@pytest.mark.parametrize("name", ["state", "hx"])
@pytest.mark.parametrize(
    ("spec", "state", "error", "words"),
    [
        (state_spec(nn.LSTM(3, 5)), ONE, TypeError, "expected .*, got a tensor"),
        (state_spec(nn.LSTM(3, 5)), (ONE,), TypeError, "expected"),
        (state_spec(nn.LSTM(3, 5)), (ONE, None), TypeError, "expected .*, got None for leaf 'c'"),
        (state_spec(nn.LSTM(3, 5)), (ONE, torch.zeros(1, 4, 6)), ValueError, "expected leaf 'c' of shape"),
        (state_spec(nn.LSTM(3, 5)), (torch.zeros(4, 1, 5), ONE), ValueError, "expected leaf 'h' of shape"),
        (state_spec(nn.LSTM(3, 5)), (ONE, TWO), ValueError, "expected .* one batch size, got 4 for 'h', 3 for 'c'"),
        (state_spec(nn.LSTM(3, 5)), (ONE, TWO[:, 0]), ValueError, "expected .*, got 4 for 'h', None for 'c'"),
        (DICTS, {"h": ONE[0]}, TypeError, r"expected \{h: .*, c: .*\}, got \{h: a tensor"),
        (DICTS, {"h": ONE[0], "v": ONE[0].T}, TypeError, "expected"),
        (DICTS, {"h": ONE[0], "c": ONE[0]}, ValueError, r"expected leaf 'c' of shape \(5, batch\) .*, got \(4, 5\)"),
    ],
)
def test_states_of_another_structure_or_shape_are_refused(spec, state, error, words, name):
    with pytest.raises(error, match=f"^{name}: {words}"):
        spec.unpack(state, *([] if name == "state" else [name]))


def nested(levels):
    tree = Leaf("h", (5,))
    for _ in range(levels):
        tree = [tree]
    return tree


def in_itself():
    tree = []
    tree.append(tree)
    return tree


PAIR, SHARED = state_spec(nn.LSTM(3, 5)), state_spec(nn.GRU(3, 5, 3)).shared()
BAD_SPECS = [
    *(
        (lambda name=name, flag=flag: Leaf("h", (5,), **{name: flag}), TypeError, f"{name}: expected True or False")
        for name in ("factor", "tiled_in_place")
        for flag in ("no", 1, None)
    ),
    (lambda: Leaf("h", (5,), repeat="3"), TypeError, "repeat: expected a positive int, got '3'"),
    (lambda: Leaf("h", (5,), repeat=0), ValueError, "repeat: expected a positive int, got 0"),
    (lambda: Leaf("h", (3, 5), repeat=3), ValueError, "repeat: expected 1 for a first axis of 3, got 3"),
    (lambda: Leaf("h", (1, 2**40), repeat=2**40), ValueError, "shape, repeat: expected a product that fits in memory"),
    (lambda: Leaf("h", (10**5000,)), ValueError, "shape: expected a positive int below"),
    (lambda: StateSpec(Leaf("h", (5,)), time_dim=10**5000), ValueError, "time_dim: expected an axis"),
    (lambda: StateSpec(Leaf("h", (5,)), device=2**63), ValueError, "device: expected a torch.device, its name or None"),
    (lambda: StateSpec(in_itself()), ValueError, "tree: expected at most 100 containers around a leaf, got more"),
    (lambda: StateSpec(nested(101)), ValueError, "tree: expected at most 100 containers around a leaf, got more"),
    (lambda: PAIR.unpack(in_itself()), TypeError, r"state: expected .*, got \(\(\(\(\.\.\.\)\)\)\)$"),
    (lambda: PAIR.unpack([ONE] * 1000), TypeError, r"state: expected .*, got \((a tensor of [^)]*\), ){8}\.\.\.\)$"),
    (lambda: PAIR.like(None), TypeError, "tensor: expected a tensor, got NoneType"),
    (lambda: PAIR.pack(None), TypeError, "leaves: expected a dict from names to tensors, got NoneType"),
    (lambda: PAIR.pack({"h": ONE[0, :, None]}), ValueError, r"leaves: expected leaf 'c', got \['h'\]"),
    (lambda: PAIR.pack({"h": 1.0, "c": 1.0}), TypeError, "leaves: expected a tensor for 'h', got float"),
    (
        lambda: PAIR.pack({"h": torch.zeros(7), "c": ONE}),
        ValueError,
        r"leaves: expected leaf 'h' of shape \(1, 5\),",
    ),
    (
        lambda: PAIR.pack({"h": ONE[:, 0], "c": ONE[0, :, None]}),
        ValueError,
        r"leaves: expected one batch size, got",
    ),
    (lambda: PAIR.pack({"h": ONE[0, :, None].to_sparse(), "c": ONE}), ValueError, "leaves: expected a strided tensor"),
    (lambda: SHARED.pack({"h": torch.zeros(3, 0, 5)}), ValueError, r"leaves: expected leaf 'h' of shape \(1, 5\)"),
    (
        lambda: PAIR.unpack((ONE, torch.nested.nested_tensor([ONE[0]]))),
        ValueError,
        "state: expected a strided tensor",
    ),
    (lambda: PAIR.unpack((ONE, ONE.to_mkldnn())), ValueError, "state: expected a strided tensor, got .*mkldnn"),
    (
        lambda: take_step(nn.GRUCell(3, 5), state_spec(nn.GRUCell(3, 5)), torch.zeros(4, 3), ONE[0].int()),
        ValueError,
        "state: expected leaf 'h' of torch.float32, got torch.int32",
    ),
    (
        lambda: take_step(nn.GRUCell(3, 5), state_spec(nn.GRUCell(3, 5)), torch.zeros(4, 3), 1),
        TypeError,
        "state: ",
    ),
    (
        lambda: take_step(nn.GRU(3, 5), state_spec(nn.GRU(3, 5)), torch.zeros(3), ONE),
        ValueError,
        "inputs: expected 2",
    ),
    (lambda: StateSpec((None,)), TypeError, "tree: expected at least one Leaf"),
    (lambda: StateSpec((Leaf("h", (2,)), Leaf("h", (2,)))), ValueError, "tree: expected leaves of different names"),
    (lambda: StateSpec("h"), TypeError, "tree: expected Leaf"),
    (lambda: Leaf(3, (2,)), TypeError, "name: expected an identifier, such as h, got 3"),
    (lambda: Leaf("h.0", (2,)), ValueError, "name: expected an identifier"),
    (lambda: Leaf("keys", (2,)), ValueError, "name: expected an identifier that modules do not use"),
    (lambda: Leaf("training", (2,)), ValueError, "name: expected an identifier that modules do not use"),
    (lambda: Leaf("network", (2,)), ValueError, "name: expected an identifier that modules do not use"),
    (lambda: Leaf("h", (2,), batch_dim=2), ValueError, "batch_dim: expected 0 to 1"),
    (lambda: Leaf("h", (2,), batch_dim=-1), ValueError, "batch_dim: expected an int of at least 0"),
    (lambda: Leaf("h", (2,), batch_dim=0.0), TypeError, "batch_dim: expected an int of at least 0"),
    (lambda: Leaf("h", ()), ValueError, "shape: expected at least one axis"),
    (lambda: Leaf("h", [2]), TypeError, r"shape: expected a tuple of positive ints, got \[2\]"),
    (lambda: Leaf("h", 2), TypeError, "shape: expected a tuple of positive ints, got 2"),
    (lambda: Leaf("h", (2, 0)), ValueError, "shape: expected a positive int, got 0"),
    (lambda: Leaf("h", (2, 1.5)), TypeError, "shape: expected a positive int, got 1.5"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD_SPECS, ids=range(len(BAD_SPECS)))
def test_bad_specs_are_refused(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()


def test_input_says_the_batch_size():
    spec = StateSpec(Leaf("h", (2,)), input_batch_dim=1, input_ndim=3)
    assert [spec.input_batch_size(torch.zeros(shape)) for shape in ((5, 4, 3), (5, 3), (5, 0, 3))] == [4, None, 0]
    any_axes = replace(spec, input_ndim=None)
    assert [any_axes.input_batch_size(torch.zeros(shape)) for shape in ((5, 4), (5, 4, 3, 2))] == [4, 4]
    with pytest.raises(ValueError, match=r"^input: expected at least 2 axes, got 1: \(3,\)"):
        any_axes.input_batch_size(torch.zeros(3))


def test_an_unknown_leaf_is_refused():
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


def test_a_deep_tree_is_a_tree_still():
    spec = StateSpec(nested(100))
    state = spec.pack({"h": torch.randn(3, 5)})
    assert spec.unpack(state)["h"].shape == (3, 5)
