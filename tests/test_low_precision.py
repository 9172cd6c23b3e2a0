"""float16, bfloat16 and autocast: sums over time, differences of close numbers and densities are float32 at least."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from contextual_rnn import (
    AdditiveAttention,
    ContextDropout,
    ContextNet,
    ContextualRNN,
    Continuous,
    FastWeightsCell,
    FastWeightsRNN,
    FreeState,
    LatentState,
    LeafwiseState,
    NormalState,
    SetValued,
    SumState,
    generate,
    sequence_cross_entropy,
    state_spec,
)
from contextual_rnn.diagnostics import diagnose
from contextual_rnn.diagnostics.influence import influence_of
from contextual_rnn.diagnostics.sigma import sigma_of
from contextual_rnn.export import AnyLength

NARROW = [torch.bfloat16, torch.float16]
B, H = 4, 256


@pytest.fixture(params=NARROW, ids=str)
def narrow(request):
    return request.param


def normal(**options):
    torch.manual_seed(0)
    return NormalState(nn.GRU(3, H), nn.Linear(2, 8), 1.05, **{"zero_init": True} | options)


def in_double(state):
    return copy.deepcopy(state).double()


@pytest.mark.parametrize("from_context", [False, True])
@pytest.mark.parametrize("prior", [{}, {"prior_mean": 0.01, "prior_scale": 1.04}])
def test_densities_of_a_module_in_few_bits(narrow, from_context, prior):
    state = normal(scale_from_context=from_context, min_scale=0.3).to(narrow)
    exact, context = in_double(state), torch.zeros(B, 2, dtype=narrow)
    found, expected = state.kl(context, **prior), exact.kl(context.double(), **prior)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=H * torch.finfo(torch.float32).eps)
    value = (torch.randn(1, B, H) * 1.05).to(narrow)
    found, expected = state.log_prob(value, context), exact.log_prob(value.double(), context.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-4)
    assert found.dtype == state.kl(context).dtype == torch.float32
    assert state.distribution(context)["h"].scale.dtype == torch.float32
    assert state(context).dtype == state.sample(context).dtype == state.eval()(context).dtype == narrow


def test_heads_of_densities_are_not_rounded(narrow):
    """Other weights than zero: the product of a head is not rounded to 8 bits before the density."""
    state = normal(scale_from_context=True, zero_init=False).to(narrow)
    for parameter in state.scale_heads.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    context = torch.randn(B, 2, dtype=narrow)
    features = nn.functional.linear(context, state.mean.net.weight, state.mean.net.bias)
    exact = in_double(state)
    exact.mean.net = nn.Identity()
    exact.mean.features = 8
    torch.testing.assert_close(state.kl(context).double(), exact.kl(features.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("from_context", [False, True])
def test_densities_under_autocast_and_their_gradients(from_context):
    state, context = normal(scale_from_context=from_context), torch.zeros(B, 2)
    value = torch.randn(1, B, H)
    results = []
    for enabled in (False, True):
        state.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = [state.kl(context), state.log_prob(value, context)]
        sum(part.sum() for part in found).backward()
        results.append(found + [parameter.grad for name, parameter in state.named_parameters() if "heads" in name])
    # The context network runs in bfloat16, and so its output, which the heads' gradients are made of.
    torch.testing.assert_close(results[1][:2], results[0][:2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[1][2:], results[0][2:], rtol=1e-2, atol=1e-2)


class Adapter(nn.Module):
    """A layer and what is added to it, as adapters replace one."""

    def __init__(self, layer):
        super().__init__()
        self.base, self.more = layer, nn.Linear(layer.in_features, layer.out_features)

    def forward(self, x):
        return self.base(x) + self.more(x)


def adapted(heads, name):
    heads.layers[name] = Adapter(heads.layers[name])


HEADS = {
    "adapter": adapted,
    "weight norm": lambda heads, name: parametrizations.weight_norm(heads.layers[name]),
    "spectral norm": lambda heads, name: parametrizations.spectral_norm(heads.layers[name]),
    "pruned": lambda heads, name: prune.l1_unstructured(heads.layers[name], "weight", 0.5),
}


@pytest.mark.parametrize("kind", HEADS)
def test_densities_of_heads_that_were_changed(narrow, kind):
    state = NormalState(nn.GRU(3, 5), nn.Identity(), scale_from_context=True, features=2, min_scale=0.1)
    for heads in (state.mean.heads, state.scale_heads):
        nn.init.normal_(heads.layers["h"].weight)
        HEADS[kind](heads, "h")
    state.eval()
    context = torch.randn(B, 2).to(narrow)
    expected = state.kl(context.float())
    with torch.autocast("cpu", narrow):
        torch.testing.assert_close(state.kl(context.float()), expected)
    found = state.to(narrow).kl(context)
    torch.testing.assert_close(found, state.float().kl(context.float()))


def test_float64_stays_float64():
    state, context = normal(scale_from_context=True).double(), torch.randn(B, 2).double()
    assert state.kl(context).dtype == state.log_prob(state(context), context).dtype == torch.float64
    free = FreeState(nn.GRU(3, H).double(), noise=0.1)
    total = SumState([free, free], [1.0, 1.0]).double().moments(None, B, None)["h"]
    assert total.scale.dtype == torch.float64
    torch.testing.assert_close(total.scale, torch.tensor(2 * 0.1**2, dtype=torch.float64).sqrt(), rtol=1e-15, atol=0)


def test_a_moving_mean_goes_on_in_few_bits(narrow):
    """A decay of 0.999 rounds to 1 in bfloat16, and squares of small gradients are zero in float16."""
    found = []
    for dtype in (torch.float64, narrow):
        torch.manual_seed(0)
        state = FreeState(nn.GRUCell(3, 4), noise=0.1, error_decay=0.999).to(dtype)
        cotangent = (1e-4 * (1 + torch.rand(B, 4))).to(narrow).to(dtype)
        for step in range(1500):
            state(batch_size=B).backward(cotangent * (1.0 if step == 0 else 0.125))
        found.append(state.error.relative("h").double())
        assert state(batch_size=B).dtype == dtype
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=0)


def test_what_a_moving_mean_has_is_kept_when_the_module_is_moved(narrow):
    state = FreeState(nn.GRUCell(3, 4), noise=0.1, error_decay=0.9)
    for _ in range(3):
        state(batch_size=B).backward(torch.rand(B, 4))
    before = copy.deepcopy(dict(state.error.named_buffers()))
    state.to(narrow)
    assert state.values["h"].dtype == narrow
    assert all(torch.equal(buffer, before[name]) for name, buffer in state.error.named_buffers())
    state.double().to(narrow)
    assert all(torch.equal(buffer, before[name]) for name, buffer in state.error.named_buffers())
    state.to("meta")
    assert all(buffer.is_meta for buffer in state.error.buffers())


def test_sums_of_states_neither_overflow_nor_cancel(narrow):
    spec = state_spec(nn.GRUCell(3, 4).to(narrow))
    states = [FreeState(spec, value=6e4).eval() for _ in range(3)]
    assert SumState(states, [1.0, 1.0, -1.0]).eval()(batch_size=B)[0].tolist() == states[0](batch_size=B)[0].tolist()
    noisy = [NormalState(spec, FreeState(spec), 300.0) for _ in range(2)]
    scale = SumState(noisy, [1.0, 1.0]).moments(None, B, None)["h"].scale
    torch.testing.assert_close(scale, torch.full((4,), 300.0 * 2**0.5), rtol=5e-3, atol=0)
    assert SumState(noisy, [1.0, 1.0])(batch_size=B).dtype == narrow
    close = [FreeState(spec, value=value).eval() for value in (1.0, 1.0078125)]
    found = SumState(close, [-0.3, 0.3]).eval()(batch_size=1).double()
    torch.testing.assert_close(found, torch.full_like(found, 0.3 * 0.0078125), rtol=2**-8, atol=0)


def test_guidance_beyond_a_context_close_to_the_null_state(narrow):
    spec = state_spec(nn.GRUCell(3, 4).to(narrow))
    state = ContextDropout(FreeState(spec, value=1.0078125), guidance=0.3, null=FreeState(spec, value=1.0)).eval()
    found = state(torch.zeros(B, 2, dtype=narrow)).double()
    torch.testing.assert_close(found, torch.full_like(found, 1.0 + 0.3 * 0.0078125), rtol=2**-8, atol=0)
    large, other = FreeState(spec, value=-6e4), FreeState(spec, value=6e4)
    assert ContextDropout(large, guidance=0.5, null=other).eval()(torch.zeros(B, 2, dtype=narrow)).isfinite().all()


def test_a_random_leaf_of_every_kind_has_the_networks_dtype(narrow):
    lstm = nn.LSTM(3, 4).to(narrow)
    spec, context = state_spec(lstm), torch.randn(B, 2).to(narrow)
    states = [
        NormalState(lstm, nn.Linear(2, 3).to(narrow), scale_from_context=True),
        LeafwiseState(
            spec, h=FreeState(spec["h"], noise=0.1, error_decay=0.5), c=NormalState(spec["c"], nn.Linear(2, 3))
        ),
    ]
    states.append(SumState([states[0], FreeState(lstm, noise=0.1)], [0.5, 0.5]))
    states.append(ContextDropout(states[0], 0.5))
    for state in states:
        state.to(narrow)
        for drawn in (state(context), state.sample(context, 2), state.eval()(context)):
            assert all(leaf.dtype == narrow for leaf in drawn), type(state).__name__
        output, _ = ContextualRNN(lstm, state.train())(torch.randn(5, B, 3).to(narrow), context=context)
        assert output.dtype == narrow


def error_of(values, dtype):
    feature = Continuous.fit(values)
    net = ContextNet({"q": feature}, 4).to(dtype)
    seen = []
    net.linear.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, 0]))
    net(net.encode({"q": values}))
    exact = torch.tensor([(value - feature.mean) / feature.std for value in values], dtype=torch.float64)
    return ((seen[0].double() - exact).abs() / exact.abs().clamp(min=1)).max().item()


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "values",
    [
        [1.7e9 + 60 * i for i in range(10)],  # seconds since 1970, a minute apart
        [1.7e9 + 1e-2 * i for i in range(10)],
        [1005.0, 1010.0, 1013.0, 1016.0, 1020.0, 1024.0],  # air pressure
        [10.0, 1e5, 2e3],
        [1e-30, 3e-30],
    ],
)
def test_quantities_are_scaled_before_they_are_rounded(values, dtype):
    assert error_of(values, dtype) <= torch.finfo(dtype).eps


def test_a_context_net_runs_in_every_dtype_on_what_was_encoded_before(narrow):
    features = {"q": Continuous.fit([10.0, 1e5, 2e3]), "s": SetValued(("a", "b"))}
    net = ContextNet(features, 4)
    context = net.encode({"q": [10.0, 1e5], "s": [["a"], ["a", "b"]]})
    expected = net(context)
    for dtype in (narrow, torch.float64, torch.float32):
        net.to(dtype)
        torch.testing.assert_close(net(context).float(), expected, rtol=3e-2, atol=3e-2)
        assert net(context).dtype == dtype
    given = context | {"q": context["q"].float()}
    torch.testing.assert_close(net(given), net(context), rtol=1e-5, atol=1e-6)


def test_a_quantity_that_hardly_varies_is_no_constant():
    assert Continuous.fit([1.7e18, 1.7e18 + 1e6]).std == pytest.approx(5e5, rel=1e-3)
    assert Continuous.fit([0.3, 0.1 + 0.2]).std == 1.0


def test_fast_weights_forget_in_few_bits(narrow):
    for backend in ("reference", "attention"):
        torch.manual_seed(0)
        options = {"decay": 0.999, "rate": 0.01, "batch_first": True, "return_fast_weights": True}
        network = FastWeightsRNN(3, 8, backend=backend, **options).to(narrow)
        x, hx = torch.randn(2, 200, 3).to(narrow), (torch.randn(2, 8).to(narrow), torch.randn(2, 8, 8).to(narrow))
        x[:, 20:] = 0
        exact = copy.deepcopy(network).double()
        results = []
        for model, dtype in ((network, narrow), (exact, torch.float64)):
            inputs = [tensor.detach().clone().to(dtype).requires_grad_() for tensor in (x, *hx)]
            output, (h, a) = model(inputs[0], (inputs[1], inputs[2]))
            assert output.dtype == a.dtype == dtype
            (output.double().square().mean() + a.double().square().mean()).backward()
            results.append([output, h, a, *(tensor.grad for tensor in inputs), *(p.grad for p in model.parameters())])
        for found, expected in zip(*results, strict=True):
            error = (found.double() - expected).norm() / expected.norm()
            assert error < 20 * torch.finfo(narrow).eps, backend


def test_the_loss_of_a_sequence_in_few_bits(narrow):
    torch.manual_seed(0)
    modules = nn.Embedding(9, 6), FastWeightsRNN(6, 5, batch_first=True), nn.Linear(5, 6), nn.Linear(6, 9)
    tokens, targets = torch.randint(9, (B, 7)), torch.randint(9, (B,))
    embedding, network, hidden, readout = (module.to(narrow) for module in modules)
    loss = sequence_cross_entropy(tokens, targets, embedding, network, hidden, readout)
    logits = readout(torch.relu(hidden(network(embedding(tokens))[0][:, -1])))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), functional.cross_entropy(logits.double(), targets), rtol=1e-6, atol=0)
    embedding, network, hidden, readout = (module.float() for module in modules)
    with torch.autocast("cpu", narrow):
        assert sequence_cross_entropy(tokens, targets, embedding, network, hidden, readout).dtype == torch.float32


def test_gradients_that_have_lost_their_digits_are_no_influence():
    """r^t in float16 is a staircase below 6e-5, on which a half-life would be read."""
    h0, rate = torch.ones(B, 3, dtype=torch.float16, requires_grad=True), 0.7
    hidden = [h0]
    for _ in range(60):
        hidden.append(hidden[-1] * rate)
    found = influence_of(torch.stack(hidden[1:], 1), {"h": h0}, range(1, 61), None, torch.Generator().manual_seed(0))
    assert found.half_life == pytest.approx(
        torch.log(torch.tensor(0.5)).item() / torch.log(torch.tensor(rate)).item(), rel=0.01
    )


def test_a_sigma_that_is_a_number_keeps_its_digits():
    moments = FreeState(nn.GRUCell(3, 4), noise=0.1).moments(None, B, None)["h"]
    assert sigma_of(moments).mean == pytest.approx(0.1, rel=1e-14)


def test_a_moving_mean_of_a_file_in_few_bits_is_widened(narrow):
    state = FreeState(nn.GRUCell(3, 4), noise=0.1, error_decay=0.9)
    saved = {name: value.to(narrow) if "saved" not in name else value for name, value in state.state_dict().items()}
    state.load_state_dict(saved, assign=True)
    assert state.values["h"].dtype == narrow
    assert {buffer.dtype for buffer in state.error.buffers()} == {torch.float32}


@pytest.mark.parametrize("cell", [False, True])
def test_a_diagnosis_of_float16_under_autocast(cell):
    """Autocast on a CPU joins no float16."""
    kind = FastWeightsCell if cell else FastWeightsRNN
    network = kind(3, 5).half()
    model = ContextualRNN(network, FreeState(network, value=0.5))
    x = torch.randn(6, 4, 3).half()

    def losses():
        if not cell:
            return model(x)[0].square().mean(2).T
        state, outputs = None, []
        for step in x:
            state = model(step, state)
            outputs.append(state[0].float().square().mean(1))
        return torch.stack(outputs, 1)

    with torch.autocast("cpu"):
        assert len(diagnose(model, losses, permutations=2).influence.total) > 0


LSTM = nn.LSTM(3, 5, batch_first=True)
MODEL = ContextualRNN(LSTM, LatentState(LSTM, nn.Linear(4, 6), 2))
X, CONTEXT = torch.randn(B, 6, 3), torch.randn(B, 4)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: MODEL.initial_state.decode(torch.randn(B, 2).double()), "context"),
        (lambda: MODEL(X, tuple(h.double() for h in MODEL.initial_state(CONTEXT))), "hx"),
        (lambda: MODEL(X.double(), context=CONTEXT, lengths=torch.tensor([6, 1, 2, 3])), "input"),
        (lambda: generate(MODEL, lambda y, t: y[..., :3], X[:, 0] > 0, num_steps=2, context=CONTEXT), "first"),
        (lambda: AnyLength(MODEL)(X.double(), context=CONTEXT), "input"),
        (lambda: AdditiveAttention(3, 3, 4)(X[:, 0].double(), X, X), "query"),
    ],
)
def test_float64_and_bools_are_refused_under_autocast_which_leaves_them_alone(call, name):
    with torch.autocast("cpu"), pytest.raises((ValueError, TypeError), match=f"^{name}"):
        call()
