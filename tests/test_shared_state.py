"""One state for all layers: a state whose layers differ is not one, whoever hands it over."""

import pytest
import torch
from torch import nn
from torch.func import vmap

from contextual_rnn import (
    ConstantState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    Leaf,
    LeafwiseState,
    NormalState,
    StateSpec,
    SumState,
    generate,
    state_spec,
    truncated,
)
from contextual_rnn.diagnostics import diagnose_state
from contextual_rnn.serialization import load_carried_state, save_carried_state

B, H = 3, 4
GRU, LSTM = nn.GRU(3, H, num_layers=2), nn.LSTM(3, H, bidirectional=True, batch_first=True)
DIFFER = "expected leaf '{}' with the same values in all 2 layers, as the spec shares one state, got layers that differ"


def both(unit):
    """Two equal layers."""
    return unit[None].repeat(2, *[1] * unit.ndim)


@pytest.mark.parametrize("make", [ConstantState, lambda spec, value: FreeState(spec, value=value)])
def test_constructors_refuse_layers_that_differ(make):
    spec, layers = state_spec(GRU).shared(), torch.stack([torch.zeros(H), torch.full((H,), 7.0)])
    with pytest.raises(ValueError, match=f"^value: {DIFFER.format('h')}"):
        make(spec, layers)
    same = both(torch.randn(H))
    assert torch.equal(make(spec, same)(), same)
    spec, h, c = state_spec(LSTM).shared(), both(torch.randn(H)), torch.randn(2, H)
    with pytest.raises(ValueError, match=f"^value: {DIFFER.format('c')}"):
        make(spec, (h, c))
    with pytest.raises(ValueError, match=f"^value: {DIFFER.format('c')}"):
        make(spec["c"], c)
    one = h.clone()
    one[1, 2] += 1e-3
    with pytest.raises(ValueError, match=f"^value: {DIFFER.format('h')}"):
        make(spec, (one, h))


@pytest.mark.parametrize("batched", [True, False])
def test_log_prob_refuses_layers_that_differ(batched):
    spec = state_spec(LSTM).shared()
    state = NormalState(spec, FreeState(spec))
    h, c = (both(torch.randn(B, H) if batched else torch.randn(H)) for _ in range(2))
    expected = sum(torch.distributions.Normal(0, 0.25).log_prob(leaf[0]).sum(-1) for leaf in (h, c))
    torch.testing.assert_close(state.log_prob((h, c)), expected)
    for name, wrong in (("h", (torch.randn_like(h), c)), ("c", (h, torch.randn_like(c)))):
        with pytest.raises(ValueError, match=f"^state: {DIFFER.format(name)}"):
            state.log_prob(wrong)
    _, end = LSTM(torch.randn(B, 5, 3), state(batch_size=B))
    with pytest.raises(ValueError, match=r"^state: expected leaf 'h' with the same values"):
        state.log_prob(end)  # what a network returned: its layers went apart


def test_layers_that_are_no_numbers_together_or_differ_by_rounding_are_the_same():
    spec = state_spec(GRU).shared()
    diverged = both(torch.tensor([1.0, torch.nan, -torch.inf, 2.0]))
    assert torch.equal(spec.unpack(diverged)["h"].nan_to_num(), diverged[:1].nan_to_num())
    alone = diverged.clone()
    alone[1, 1] = 0.0
    with pytest.raises(ValueError, match=f"^state: {DIFFER.format('h')}"):
        spec.unpack(alone)
    rounded = both(torch.randn(B, H))
    rounded[1] = rounded[1].nextafter(torch.full_like(rounded[1], torch.inf))  # as kernels' vectors and remainders
    spec.unpack(rounded)
    counts = StateSpec(Leaf("count", (2, 1), batch_dim=1, dtype=torch.int64)).shared()
    assert counts.unpack(torch.tensor([[3], [3]]))["count"].tolist() == [[3]]
    with pytest.raises(ValueError, match=r"^state: expected leaf 'count' with the same values"):
        counts.unpack(torch.tensor([[3], [4]]))


def test_states_interpolated_or_added_are_one_state():
    spec = state_spec(GRU).shared()
    states = [FreeState(spec, value=both(torch.randn(H))) for _ in range(2)]
    between = SumState(states, [0.3, 0.7])
    folded = FreeState(GRU, value=between()), FreeState(spec, value=between())
    assert all(torch.equal(state(), between()) for state in folded)
    by_hand = torch.lerp(states[0](batch_size=B), states[1](batch_size=B), 0.7)
    assert NormalState(spec, between).log_prob(by_hand).shape == (B,)
    leafwise = LeafwiseState(state_spec(LSTM).shared(), **{
        leaf: FreeState(state_spec(LSTM).shared()[leaf], value=0.5) for leaf in "hc"
    })  # fmt: skip
    assert FreeState(state_spec(LSTM).shared(), value=leafwise())().__len__() == 2


def test_gradients_reach_the_shared_state_once():
    spec = state_spec(GRU).shared()
    state = NormalState(spec, FreeState(spec, value=both(torch.randn(H))))
    unit = torch.randn(B, 1, H, requires_grad=True)
    state.log_prob(spec.pack({"h": unit})).backward(torch.randn(B))
    expected = unit.grad.clone()
    layers = both(unit.detach()[:, 0]).requires_grad_()
    torch.manual_seed(0)
    cotangent = torch.randn(B)
    unit.grad = None
    state.log_prob(spec.pack({"h": unit})).backward(cotangent)
    state.log_prob(layers).backward(cotangent)
    torch.testing.assert_close(layers.grad.sum(0), unit.grad[:, 0])
    assert expected.any()


class Stack(nn.Module):
    """A network of a user's own, whose registered spec shares one state between its layers."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, H, num_layers=2, batch_first=True)

    def forward(self, x, state):
        return self.gru(x, state)


def _step(network, x, state):
    output, state = network(x[:, None], state)
    return output[:, 0], state


@state_spec.register
def _(network: Stack) -> StateSpec:
    return StateSpec(Leaf("h", (2, H), batch_dim=1), input_ndim=3, step=_step).shared()


def test_a_state_that_a_network_returned_goes_on_with_all_its_layers(tmp_path):
    """hx is the network's own, whatever the initial states share: nothing of it is lost or refused."""
    network = Stack()
    model, x = ContextualRNN(network, FreeState(network, value=0.5)), torch.randn(B, 6, 3)
    whole, end = model(x)
    assert not torch.equal(end[0], end[1])
    _, half = model(x[:, :3])
    again, after = model(x[:, 3:], half)
    torch.testing.assert_close(again, whole[:, 3:])
    torch.testing.assert_close(after, end)
    pieces = list(truncated(model, x[:, 3:], 2, half))
    torch.testing.assert_close(torch.cat([output for _, output, _ in pieces], 1), whole[:, 3:])
    with pytest.raises(ValueError, match=r"^hx: expected 'h' of batch size 2, as the input, got 3"):
        model(x[:2], half)
    save_carried_state(end, tmp_path / "state.safetensors", model)
    assert torch.equal(load_carried_state(tmp_path / "state.safetensors", model), end)
    assert generate(model, lambda output, value: output[:, :3], x[:, 0], num_steps=2, sample=False).shape == (
        B,
        1,
        2,
        3,
    )


def test_a_diagnosis_refuses_what_the_spec_would_lose():
    spec, x = state_spec(GRU).shared(), torch.randn(5, B, 3)

    def losses(state):
        return GRU(x, state)[0].square().mean(2).T

    with pytest.raises(ValueError, match=f"^state: {DIFFER.format('h')}"):
        diagnose_state(losses, torch.randn(2, B, H), spec, permutations=1)
    assert diagnose_state(losses, both(torch.randn(B, H)), spec, permutations=1)


def test_where_values_cannot_be_read_the_first_layer_is_taken():
    spec = state_spec(GRU).shared()
    state = NormalState(spec, FreeState(spec)).eval()
    layers = both(torch.randn(B, H))
    expected = state.log_prob(layers)
    torch.testing.assert_close(torch.compile(state.log_prob, backend="eager", fullgraph=True)(layers), expected)
    torch.testing.assert_close(vmap(state.log_prob, in_dims=1)(layers), expected)
    assert spec.unpack(layers.to("meta"))["h"].is_meta


@pytest.mark.parametrize("make", [ConstantState, lambda spec, value: FreeState(spec, value=value)])
def test_what_a_state_has_no_leaf_for_is_not_dropped(make):
    """Of fast weights the spec has None for A: one that is given would be lost."""
    network = FastWeightsRNN(3, H, batch_first=True)
    with pytest.raises(ValueError, match=r"^value: expected \(h of shape .*, None\), got something where it has None"):
        make(network, (torch.randn(H), torch.randn(H, H)))
    h = torch.randn(H)
    assert torch.equal(make(network, (h, None))()[0], h)
