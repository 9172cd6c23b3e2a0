"""What users of other libraries ask for of an initial state, each with its thread, and a test that it is here."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from tests.networks import SPECS, make, make_input, tensors_of
from torch import nn

from contextual_rnn import (
    Categorical,
    ConstantState,
    ContextNet,
    ContextState,
    ContextualRNN,
    Continuous,
    FreeState,
    Leaf,
    LeafwiseState,
    NormalState,
    StateSpec,
    SumState,
    state_spec,
)
from contextual_rnn.export import AnyLength
from contextual_rnn.serialization import load_state, save_state

# Answered by tests that stand elsewhere.
ELSEWHERE = {
    "https://github.com/pytorch/pytorch/issues/158007 (compile)": "deployment/test_compile.py",
    "https://github.com/pytorch/pytorch/issues/4145 (h0 ignores batch_first)": "test_rnn.py",
    "https://github.com/google/flax/issues/868 (a learned carry)": "test_coming_from.py",
    "https://github.com/flairNLP/flair/issues/897 (does it make a difference?)": "test_diagnostics.py",
    "https://github.com/mila-iqia/blocks-examples/pull/70 (a constant or an MLP?)": "test_diagnostics.py",
}


@pytest.mark.parametrize("link", ELSEWHERE)
def test_answered_elsewhere(link):
    assert "def test_" in (Path(__file__).parent / ELSEWHERE[link]).read_text()


def attached(network, **options):
    return ContextualRNN(network, ContextState(network, nn.Linear(2, 4), **options))


@pytest.mark.parametrize("name", SPECS)
def test_any_network_takes_a_condition(name):
    """https://github.com/philipperemy/cond_rnn/issues/48 (in PyTorch), /25 and /35 (bidirectional), /38 (stacked)."""
    network, spec = make(name)
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 4)))
    x, context = make_input(network, 3), torch.randn(3, 2)
    one, other = (tensors_of(model(x, context=given)) for given in (context, context + 1))
    assert not torch.equal(one[0], other[0])


def test_stacked_layers_with_dropout_between():
    """https://github.com/philipperemy/cond_rnn/issues/42"""
    model = attached(nn.LSTM(3, 8, num_layers=3, dropout=0.5, bidirectional=True))
    output, (h_n, _) = model(torch.randn(5, 2, 3), context=torch.randn(2, 2))
    assert output.shape == (5, 2, 16)
    assert h_n.shape == (6, 2, 8)


def test_a_penalty_on_the_condition_alone():
    """https://github.com/philipperemy/cond_rnn/issues/10: a state has parameters of its own, for any regulariser."""
    model = attached(nn.GRU(3, 5))
    state = set(model.initial_state.parameters())
    rest = [parameter for parameter in model.parameters() if parameter not in state]
    before = [parameter.detach().clone() for parameter in rest]
    norm = sum(float(parameter.detach().square().sum()) for parameter in state)
    groups = [{"params": list(state), "weight_decay": 1.0}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert sum(float(parameter.detach().square().sum()) for parameter in state) == pytest.approx(0.81 * norm)
    assert all(map(torch.equal, rest, before))


def test_constant_learned_or_predicted_by_another_model():
    """https://github.com/google/flax/issues/91 lists the three; https://github.com/FluxML/Flux.jl/issues/2514 asks for
    the second, https://github.com/keras-team/keras/issues/9797 and /4264 too, https://github.com/LuxDL/Lux.jl/pull/117
    adds it, and https://github.com/FluxML/Flux.jl/issues/807 wants none learned unasked."""
    network = nn.GRU(3, 5)
    states = [ConstantState(network, 0.5), FreeState(network), ContextState(network, nn.Linear(2, 4))]
    assert [len(list(state.parameters())) for state in states] == [0, 1, 4]
    for state in states:
        output, _ = ContextualRNN(network, state)(torch.randn(4, 6, 3), context=torch.randn(6, 2))
        gradients = torch.autograd.grad(output.sum(), list(state.parameters())) if list(state.parameters()) else []
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_learned_from_the_first_chunk_alone_where_the_state_is_carried():
    """https://github.com/tensorflow/tensorflow/issues/12086, there by a mask made by hand for the first batch."""
    lstm = nn.LSTM(3, 5)
    model = ContextualRNN(lstm, FreeState(lstm, value=0.3))
    first, second = torch.randn(2, 4, 6, 3)
    output, carried = model(first)
    (gradient,) = torch.autograd.grad(output.sum(), [model.initial_state.values["h"]])
    assert gradient.abs().sum() > 0
    output, _ = model(second, tuple(leaf.detach() for leaf in carried))
    output.sum().backward()
    assert all(parameter.grad is None for parameter in model.initial_state.parameters())
    assert all(parameter.grad is not None for parameter in lstm.parameters())


@pytest.mark.parametrize("make_state", [lambda n: FreeState(n, noise=0.3), lambda n: NormalState(n, FreeState(n))])
def test_random_in_training_and_fixed_in_evaluation(make_state):
    """https://github.com/keras-team/keras/issues/16502: no `training` there to tell one from the other."""
    lstm = nn.LSTM(3, 5)
    model, x = ContextualRNN(lstm, make_state(lstm)), torch.randn(4, 6, 3)
    assert not torch.equal(model(x)[0], model(x)[0])
    once, again = (model(x, generator=torch.Generator().manual_seed(1))[0] for _ in range(2))
    assert torch.equal(once, again)
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])


@pytest.mark.parametrize("network", [lambda: nn.LSTM(3, 5), lambda: nn.LSTMCell(3, 5)])
def test_two_states_from_one_vector_and_a_distribution_over_both(network):
    """https://github.com/timbmg/Sentence-VAE/issues/10 and https://github.com/keras-team/keras/issues/12889."""
    network = network()
    h0 = NormalState(network, nn.Linear(7, 6), min_scale=0.05, scale_from_context=True)
    z = torch.randn(4, 7)
    h, c = h0(z)
    assert not torch.equal(h, c), "each has a head of its own"
    h0.kl(z).mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in h0.parameters())


def test_sigma_has_a_floor_and_the_kl_a_gradient_that_keeps_it():
    """https://github.com/jxhe/vae-lagging-encoder/issues/5 and https://github.com/molecularsets/moses/issues/45."""
    gru = nn.GRU(3, 5)
    h0, context = NormalState(gru, nn.Linear(2, 4), 0.25, min_scale=0.1), torch.randn(8, 2)
    optimizer = torch.optim.Adam(h0.parameters(), 0.3)
    for _ in range(50):  # nothing but a wish for certainty
        optimizer.zero_grad()
        sum(d.scale.sum() for d in h0.distribution(context).values()).backward()
        optimizer.step()
    assert all((d.scale >= 0.1).all() and (d.scale < 0.11).all() for d in h0.distribution(context).values())
    optimizer.zero_grad()
    h0.kl(context).mean().backward()
    assert (h0.raw_scale["h"].grad < 0).all(), "a step downhill makes sigma larger"


def test_static_covariates_of_a_forecaster():
    """https://github.com/unit8co/darts/issues/2492, https://github.com/Nixtla/neuralforecast/issues/211 and /343."""
    fields = {"store": Categorical(["north", "south"], unknown=True), "area": Continuous(mean=100.0, std=20.0)}
    gru = nn.GRU(1, 8, num_layers=2, batch_first=True)
    net = ContextNet(fields, 6)
    model = ContextualRNN(gru, ContextState(gru, net))
    statics = net.encode({"store": ["north", "south", "elsewhere"], "area": [80.0, 80.0, 120.0]})
    past = torch.randn(1, 12, 1).expand(3, 12, 1)  # one past, three stores
    output, h_n = model(past, context=statics)
    assert (output[0] - output[1]).abs().max() > 1e-4
    assert (h_n[0] != h_n[1]).all(), "layers do not share a state, as they do in some forecasters"
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_state_for_each_leaf():
    """https://github.com/FluxML/Flux.jl/issues/807: h learned, c left at zero."""
    lstm = nn.LSTM(3, 5)
    spec = state_spec(lstm)
    h, c = LeafwiseState(lstm, h=FreeState(spec["h"], value=1.0), c=ConstantState(spec["c"]))(batch_size=2)
    assert h.eq(1).all()
    assert not c.any()


class Diagonal(nn.Module):
    """A state space of one's own: s(t) = a s(t-1) + b x(t)."""

    def __init__(self, width):
        super().__init__()
        self.width, self.a, self.b = width, nn.Parameter(torch.rand(width)), nn.Parameter(torch.randn(width))

    def forward(self, x, s):
        outputs = []
        for step in x.unbind(1):
            s = self.a * s + self.b * step
            outputs.append(s)
        return torch.stack(outputs, 1), s


@state_spec.register
def _(network: Diagonal) -> StateSpec:
    return StateSpec(Leaf("s", (network.width,)))


def test_a_state_space_model_starts_from_a_state_and_gradients_reach_it():
    """https://github.com/state-spaces/mamba/issues/175, /258 and /460."""
    network = Diagonal(4)
    model = ContextualRNN(network, FreeState(network, value=0.5))
    output, _ = model(torch.zeros(3, 5, 4))
    torch.testing.assert_close(output[0, -1], 0.5 * network.a**5)
    output.sum().backward()
    assert model.initial_state.values["s"].grad.abs().sum() > 0


@pytest.mark.parametrize("network", [lambda: nn.LSTM(4, 5, batch_first=True), lambda: Diagonal(4)])
def test_a_state_is_loaded_instead_of_a_prompt(network, tmp_path):
    """https://github.com/state-spaces/mamba/issues/141: what was read once is kept in a file."""
    network = network()
    prompt, x = torch.randn(1, 9, 4), torch.randn(3, 2, 4)
    zero = ContextualRNN(network, ConstantState(network))
    after = {name: leaf[0] for name, leaf in state_spec(network).unpack(zero(prompt)[1]).items()}
    save_state(FreeState(network, value=state_spec(network).pack(after)), tmp_path / "prompt")
    model = ContextualRNN(network, FreeState(network))
    load_state(model.initial_state, tmp_path / "prompt")
    wanted, _ = zero(torch.cat([prompt.expand(3, 9, 4), x], 1))
    torch.testing.assert_close(model(x)[0], wanted[:, 9:])


def test_states_are_composed():
    """https://github.com/BlinkDL/RWKV-LM/issues/338"""
    gru = nn.GRU(3, 5)
    formal, short = (FreeState(gru, value=torch.randn(1, 5)) for _ in range(2))
    both = SumState([formal, short], [1.0, 1.0])(batch_size=2)
    torch.testing.assert_close(both, formal(batch_size=2) + short(batch_size=2))


def test_an_exported_model_has_no_batch_of_one_baked_in(tmp_path):
    """https://github.com/pytorch/pytorch/issues/24235 warns of h0's batch, https://github.com/llvm/torch-mlir/pull/4741
    mends an exporter that fixes it; and https://github.com/pytorch/pytorch/issues/191855: both directions, any T."""
    model = attached(nn.GRU(3, 5, bidirectional=True, batch_first=True)).eval()
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    shapes = {"input": {0: batch, 1: time}, "context": {0: batch}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arguments = (torch.randn(2, 5, 3),), {"context": torch.randn(2, 2)}
        program = torch.export.export(AnyLength(model), *arguments, dynamic_shapes=shapes)
    assert not [warning for warning in caught if re.search("batch|hidden|h0", str(warning.message))]
    for b, t in [(1, 9), (7, 1), (4, 3)]:
        x, context = torch.randn(b, t, 3), torch.randn(b, 2)
        found, wanted = program.module()(x, context=context), model(x, context=context)
        for tensor, eager in zip(tensors_of(found), tensors_of(wanted), strict=True):
            torch.testing.assert_close(tensor, eager, rtol=1e-5, atol=2e-6)
