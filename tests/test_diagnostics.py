"""The diagnosis is right on networks whose answer is known, and in a model of a user's own."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from tests.networks import NETWORKS, SPECS, make, make_input
from torch import nn

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    LeafwiseState,
    NormalState,
    fast_weights_spec,
    state_spec,
)
from contextual_rnn.diagnostics import diagnose, diagnose_state
from contextual_rnn.spec import take_step

BATCH, STEPS, UNITS, INPUTS = 12, 20, 4, 3
KINDS = ["rnn", "gru", "lstm", "fast weights"]


def _zeroed(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


def keeping(kind: str, kept: float) -> nn.Module:
    """A network that keeps `kept` of its (small, positive) state in a step: 1 copies it, 0 ignores it."""
    gate = 200.0 * (2 * kept - 1) if kept in (0, 1) else math.log(kept / (1 - kept))  # the sigmoid is exactly 0 or 1
    sizes = {"input_size": INPUTS, "hidden_size": UNITS, "batch_first": True}
    if kind == "rnn":
        network = _zeroed(nn.RNN(**sizes, nonlinearity="relu"))
        network.weight_hh_l0.data = kept * torch.eye(UNITS)
    elif kind == "gru":  # h' = (1 - z) tanh(0) + z h
        network = _zeroed(nn.GRU(**sizes))
        network.bias_ih_l0.data[UNITS : 2 * UNITS] = gate
    elif kind == "lstm":  # c' = f c + i tanh(0), and an open output gate
        network = _zeroed(nn.LSTM(**sizes))
        network.bias_ih_l0.data[UNITS : 2 * UNITS] = gate
        network.bias_ih_l0.data[3 * UNITS :] = 200.0
    else:
        network = _zeroed(FastWeightsRNN(**sizes, rate=0.0, layer_norm=False))
        network.weight_hh.data = kept * torch.eye(UNITS)
    return network


def small_positive(features: torch.Tensor) -> torch.Tensor:
    return 0.01 * features.sigmoid()


def model_of(network: nn.Module) -> ContextualRNN:
    torch.manual_seed(1)
    return ContextualRNN(network, ContextState(network, nn.Identity(), features=5, activation=small_positive))


def diagnosis_of(network: nn.Module, **options):
    """Under a loss that only the sequence's own h(0) makes small."""
    model = model_of(network)
    context, x = torch.randn(BATCH, 5), torch.randn(BATCH, STEPS, INPUTS)
    with torch.no_grad():
        target = model(x, context=context)[0]
    return diagnose(model, lambda: (model(x, context=context)[0] - target).square().mean(2), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_ignores_its_state(kind):
    found = diagnosis_of(keeping(kind, 0.0))
    assert found.p_value == 1
    assert found.influence.total.tolist() == [0] * STEPS
    assert (found.half_life, found.burn_in) == (0, 0)
    assert all(torch.equal(curve, found.losses["true"]) for curve in found.losses.values())
    assert "influence of h(0): none" in str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_copies_its_state(kind):
    found = diagnosis_of(keeping(kind, 1.0))
    assert found.p_value == 0.01, "the least that 99 permutations can give"
    # tanh of a state of at most 0.01 has a slope of at least 0.9999 in an LSTM
    torch.testing.assert_close(found.influence.total, torch.ones(STEPS, dtype=torch.float64), rtol=1e-4, atol=0)
    assert found.half_life > 1000 * STEPS
    assert found.burn_in is None
    assert found.overall["true"] == 0 < min(value for name, value in found.overall.items() if name != "true")
    assert "p = 0.01" in str(found)
    assert "more than the 20 steps" in str(found)


@pytest.mark.parametrize("kept", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("kind", KINDS)
def test_exponential_forgetting(kind, kept):
    found = diagnosis_of(keeping(kind, kept))
    assert found.half_life == pytest.approx(math.log(2) / -math.log(kept), rel=0.01)
    # 1 % of the influence after the first step
    burn_in = 1 + math.ceil(math.log(0.01) / math.log(kept))
    assert found.burn_in == (burn_in if burn_in <= STEPS else None)
    expected = kept ** torch.arange(1, STEPS + 1, dtype=torch.float64)
    torch.testing.assert_close(found.influence.total, expected, rtol=1e-3, atol=0)


def test_a_long_sequence_is_measured_at_some_steps():
    model, x = model_of(keeping("gru", 0.98)), torch.randn(4, 1000, INPUTS)
    found = diagnose(model, lambda: model(x, context=torch.ones(4, 5))[0].mean(2), permutations=0, influence_steps=12)
    assert found.influence.steps[0] == 1
    assert found.influence.steps[-1] == 1000
    assert len(found.influence.steps) <= 12
    assert found.half_life == pytest.approx(math.log(2) / -math.log(0.98), rel=0.01)
    assert found.burn_in == 1 + math.ceil(math.log(0.01) / math.log(0.98))


@pytest.mark.parametrize("name", [name for name in SPECS if "both ways" not in name and "cell" not in name])
def test_influence_is_the_norm_of_the_jacobian(name):
    """Against the whole Jacobian, from random states; random signs estimate it, so over many sequences."""
    network, spec = make(name, torch.float64)
    batch, steps = 600, 4
    x = make_input(network, 1, steps, torch.float64)
    time = 1 if network.batch_first else 0
    one = {leaf.name: torch.randn(1, *leaf.shape, dtype=torch.float64) for leaf in spec}

    def last(*leaves):
        output, _ = network(x, spec.pack(dict(zip(one, leaves, strict=True))))
        return output.select(time, steps - 1)

    jacobians = torch.autograd.functional.jacobian(last, tuple(one.values()))
    expected = [jacobian.square().sum().div(jacobian.shape[1]).sqrt().item() for jacobian in jacobians]
    xs = x.expand(batch, -1, -1) if time else x.expand(-1, batch, -1)
    state = spec.pack({name: leaf.expand(batch, *leaf.shape[1:]) for name, leaf in one.items()})

    def losses(state):
        h = network(xs, state)[0].movedim(1 - time, 0)
        return h.mean(2), h

    assert diagnose_state(lambda state: losses(state)[0], state, spec, permutations=0).influence is None, "no h to see"
    found = diagnose_state(losses, state, spec, permutations=0)
    # Three standard errors of the estimate, each at most sqrt(2 / 600) of the square and half of that of its root.
    for leaf, value in zip(found.influence.leaves.values(), expected, strict=True):
        assert leaf[-1].item() == pytest.approx(value, rel=1.5 * math.sqrt(2 / batch))


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_can_be_diagnosed(kind):
    """Cells and networks of a user's own, run step by step from the initial state, and both directions."""
    torch.manual_seed(0)
    network = NETWORKS[kind]()
    initial_state = FreeState(network)
    spec = state_spec(network)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.initial_state = network, initial_state

        def forward(self, xs):
            state, outputs = self.initial_state(batch_size=BATCH), []
            if spec.input_ndim != 2:
                output, _ = self.network(make_input(network, BATCH), state)
                return output.movedim(spec.input_batch_dim, 0)
            for x in xs:
                output, state = take_step(self.network, spec, x, state)
                outputs.append(output)
            return torch.stack(outputs, 1)

    model, xs = Own(), torch.randn(4, BATCH, INPUTS)
    found = diagnose(model, lambda: model(xs).mean(2), network=network)
    assert found.losses["true"].shape == (4,)
    assert found.p_value is None, "all sequences start alike"
    assert "same initial state" in str(found)
    if getattr(network, "bidirectional", False):
        assert found.influence is None
    else:
        assert found.influence.steps == (1, 2, 3, 4)
        assert set(found.influence.leaves) == {leaf.name for leaf in spec}
        assert (found.influence.total > 0).all()
    assert diagnose(model, lambda: model(xs).mean(2), permutations=0).influence is None


def losses_of(model, **options):
    torch.manual_seed(2)
    x, context = torch.randn(BATCH, STEPS, INPUTS), torch.randn(BATCH, 2)
    return lambda: model(x, context=context, **options)[0].mean(2)


def test_the_states_are_what_they_are_called():
    """Against the losses from states that were made by hand."""
    torch.manual_seed(0)
    gru = nn.GRU(INPUTS, UNITS, batch_first=True)
    x, target, h0 = torch.randn(BATCH, STEPS, INPUTS), torch.randn(BATCH, STEPS), torch.randn(1, BATCH, UNITS)

    def losses(h):
        return (gru(x, h)[0].sum(2) - target).square()

    found = diagnose_state(losses, h0, gru, permutations=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    shuffled = [losses(h0[:, torch.randperm(BATCH, generator=generator)]) for _ in range(3)]
    by_hand = {
        "true": losses(h0),
        "zeroed": losses(torch.zeros_like(h0)),
        "mean": losses(h0.mean(1, keepdim=True).repeat(1, BATCH, 1)),
        "shuffled": torch.stack(shuffled).mean(0),
    }
    assert list(found.losses) == list(by_hand)
    for name, expected in by_hand.items():
        torch.testing.assert_close(found.losses[name], expected.mean(0).detach().double(), check_dtype=False)
        assert found.overall[name] == pytest.approx(expected.mean().item(), rel=1e-6)
    better = sum(bool(losses(h0).mean() >= each.mean()) for each in shuffled)
    assert found.p_value == (1 + better) / 4


def test_padding_does_not_count():
    torch.manual_seed(0)
    gru = nn.GRU(INPUTS, UNITS, batch_first=True)
    model = ContextualRNN(gru, ContextState(gru, nn.Linear(2, 5)))
    lengths = torch.tensor([3, 20] * (BATCH // 2))
    losses = losses_of(model, lengths=lengths)
    beyond = torch.arange(STEPS) >= lengths[:, None]
    spoiled = diagnose(model, lambda: losses().masked_fill(beyond, math.nan), lengths=lengths)
    real = losses().masked_fill(beyond, 0).double().sum() / (~beyond).sum()
    assert spoiled.overall["true"] == pytest.approx(real.item(), rel=1e-6)
    assert spoiled.losses["true"][10].item() == pytest.approx(losses()[1::2, 10].mean().item(), rel=1e-5)


@pytest.mark.parametrize("returned", [True, False])
def test_only_the_run_with_gradients_has_a_hook(returned, monkeypatch):
    """Native kernels run a network without hooks alone. Where h(t) is returned, none is needed at all."""
    hooked, run = [], ContextualRNN.forward
    monkeypatch.setattr(
        ContextualRNN,
        "forward",
        lambda self, *a, **k: hooked.append(len(self.network._forward_hooks)) or run(self, *a, **k),
    )
    model, x, context = model_of(keeping("gru", 0.8)), torch.randn(BATCH, STEPS, INPUTS), torch.randn(BATCH, 5)

    def losses():
        hidden = model(x, context=context)[0]
        return (hidden.mean(2), hidden) if returned else hidden.mean(2)

    assert diagnose(model, losses, permutations=3).influence is not None
    assert len(hooked) == 8  # the model's own state, true, zeroed, mean, three permutations, and the influence
    assert hooked == [0] * 7 + [0 if returned else 1]


def test_steps_that_no_sequence_has_are_left_out():
    """They had a loss of NaN, and an influence of zero, as if the state had faded."""
    model, x, lengths = (
        model_of(keeping("gru", 0.8)),
        torch.randn(BATCH, STEPS, INPUTS),
        torch.tensor([3, 7] * (BATCH // 2)),
    )
    whole, cut = (
        diagnose(model, lambda x=x: model(x, context=torch.ones(BATCH, 5))[0].mean(2), lengths=lengths, permutations=0)
        for x in (x, x[:, :7])
    )
    assert whole.as_dict() == cut.as_dict()
    assert whole.losses["true"].shape == (7,)
    assert (whole.influence.length, whole.burn_in) == (7, None)


@pytest.mark.parametrize("lengths", [[3] * BATCH, torch.full((BATCH,), 3.0), torch.tensor([3] * (BATCH - 1))])
def test_lengths_beside_losses_of_whole_sequences_are_checked(lengths):
    model, x = model_of(keeping("gru", 0.8)), torch.randn(BATCH, STEPS, INPUTS)
    run = lambda: model(x, context=torch.ones(BATCH, 5))[0].mean((1, 2))  # noqa: E731
    with pytest.raises((TypeError, ValueError), match="lengths: expected"):
        diagnose(model, run, lengths=lengths)


def test_influence_is_over_the_sequences_that_last():
    """Not thinned by the zeros that stand behind the end of the others."""
    model, x = model_of(keeping("gru", 0.8)), torch.randn(BATCH, STEPS, INPUTS)
    lengths = torch.tensor([3, 20] * (BATCH // 2))
    run = lambda: model(x, context=torch.ones(BATCH, 5), lengths=lengths)[0].mean(2)  # noqa: E731
    expected = 0.8 ** torch.arange(1, STEPS + 1, dtype=torch.float64)
    torch.testing.assert_close(diagnose(model, run, lengths=lengths).influence.total, expected, rtol=1e-3, atol=0)


def test_losses_of_whole_sequences():
    torch.manual_seed(0)
    gru = nn.GRU(INPUTS, UNITS, batch_first=True)
    model = ContextualRNN(gru, ContextState(gru, nn.Linear(2, 5)))
    losses = losses_of(model)
    found = diagnose(model, lambda: losses()[:, -1])
    assert found.losses["true"].tolist() == pytest.approx([losses()[:, -1].mean().item()])
    assert len(found.influence.steps) == STEPS


def test_sigma():
    torch.manual_seed(0)
    lstm = nn.LSTM(INPUTS, UNITS, batch_first=True)
    initial_state = NormalState(lstm, nn.Linear(2, 5), scale=0.25)
    initial_state.raw_scale["h"].data[..., 0] = -40.0  # a sigma of 4e-18 for one unit of four
    model = ContextualRNN(lstm, initial_state)
    found = diagnose(model, losses_of(model))
    assert found.sigma["c"].mean == pytest.approx(0.25)
    assert found.sigma["c"].collapsed == 0
    assert found.sigma["h"].collapsed == 0.25
    assert found.sigma["h"].smallest < 1e-15
    torch.manual_seed(2)
    torch.randn(BATCH, STEPS, INPUTS)
    means = initial_state.distribution(torch.randn(BATCH, 2))["h"].mean
    assert found.sigma["h"].spread == pytest.approx(means.std(0, correction=0).mean().item(), rel=1e-5)
    assert "25% of the units collapsed" in str(found)
    assert not torch.equal(found.losses["sampled"], found.losses["true"])
    free = ContextualRNN(lstm, FreeState(lstm))
    assert "sampled" not in diagnose(free, losses_of(free)).losses


def test_nested_states_and_fast_weights():
    torch.manual_seed(0)
    network = FastWeightsRNN(INPUTS, UNITS, batch_first=True)
    spec = fast_weights_spec(network, "low_rank", rank=2)
    states = {leaf.name: ContextState(spec[leaf.name], nn.Linear(2, 5)) for leaf in spec}
    model = ContextualRNN(network, LeafwiseState(spec, **states))
    found = diagnose(model, losses_of(model))
    assert set(found.influence.leaves) == {"h", "a_left", "a_right"}
    assert all((leaf > 0).any() for leaf in found.influence.leaves.values())


def test_everything_is_left_as_it_was():
    torch.manual_seed(0)
    lstm = nn.LSTM(INPUTS, UNITS, num_layers=2, dropout=0.5, batch_first=True)
    model = ContextualRNN(lstm, NormalState(lstm, nn.Linear(2, 5)))
    model.network.eval()
    losses = losses_of(model)
    losses().sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    first, second = diagnose(model, losses).as_dict(), diagnose(model, losses).as_dict()
    assert first == second
    assert diagnose(model, losses, seed=1).as_dict() != first
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b.grad) for a, b in zip(gradients, model.parameters(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_what_else_is_random_is_the_same_under_every_state():
    model, x = model_of(keeping("gru", 0.0)), torch.randn(BATCH, STEPS, INPUTS)
    noisy = lambda: model(x, context=torch.randn(BATCH, 5))[0].mean(2) + torch.randn(BATCH, STEPS)  # noqa: E731
    found = diagnose(model, noisy)
    torch.randn(7)
    assert diagnose(model, noisy).as_dict() == found.as_dict(), "wherever the global generator stands"
    assert found.p_value == 1
    assert torch.equal(found.losses["zeroed"], found.losses["true"])


def test_table_plot_and_json():
    found = diagnosis_of(keeping("lstm", 0.8))
    lines = found.table().splitlines()
    assert lines[0].split() == ["step", "true", "zeroed", "mean", "shuffled"]
    assert [line.split()[0] for line in lines[1:9]] == ["1", "4", "6", "9", "12", "15", "17", "20"]
    assert lines[9].split()[1:] == [f"{value:.4g}" for value in found.overall.values()]
    assert str(found) == found.table()
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["influence"]["burn_in"] is None
    json.dumps(diagnosis_of(keeping("gru", 1.0)).as_dict(), allow_nan=False)
    left, right = found.plot().axes
    assert [line.get_label() for line in left.get_lines()] == list(found.losses)
    assert right.get_lines()[0].get_ydata().tolist() == pytest.approx(found.influence.total.tolist())
    assert len(replace(found, influence=None).plot().axes) == 1


def test_shuffles_that_differ_by_rounding_alone_are_as_good():
    gru = nn.GRU(1, 4)
    rounded = itertools.chain([0.5], itertools.repeat(0.5 + 2**-24))  # one float32 after the other
    found = diagnose_state(lambda h: h.sum((0, 2)) * 0 + next(rounded), torch.randn(1, BATCH, 4), gru, permutations=9)
    assert found.p_value == 1
