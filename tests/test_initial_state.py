"""One contract for every initial state over every network; then what each state adds."""

import copy
import math

import pytest
import torch
from tests.networks import SPECS, make, make_input, tensors_of
from torch import nn
from torch.distributions import Normal

from contextual_rnn import ConstantState, ContextState, FreeState, LeafwiseState, NormalState, state_spec

B = 4


def net(dtype=torch.float32):
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh()).to(dtype)


STATES = {
    "constant": lambda spec: ConstantState(spec, 0.5),
    "free": lambda spec: FreeState(spec, noise=0.1, value=0.5),
    "context": lambda spec: ContextState(spec, net(spec.dtype)),
    "context squashed": lambda spec: ContextState(spec, net(spec.dtype), activation=torch.tanh),
    "normal": lambda spec: NormalState(spec, net(spec.dtype)),
    "normal, sigma of the context": lambda spec: NormalState(spec, net(spec.dtype), scale_from_context=True),
    "normal around free": lambda spec: NormalState(spec, FreeState(spec, value=0.5)),
    "one a leaf": lambda spec: LeafwiseState(
        spec,
        **{
            leaf.name: NormalState(spec[leaf.name], net(spec.dtype))
            if index == 0
            else FreeState(spec[leaf.name], value=0.5)
            for index, leaf in enumerate(spec)
        },
    ),
}
TAKES_CONTEXT = {name for name in STATES if name not in ("constant", "free", "normal around free")}


@pytest.fixture(params=SPECS)
def case(request):
    return request.param


@pytest.fixture(params=STATES)
def kind(request):
    return request.param


def build(kind, case, dtype=torch.float32):
    network, spec = make(case, dtype)
    torch.manual_seed(1)
    return network, spec, STATES[kind](spec)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_state_is_exactly_what_the_network_takes(kind, case, dtype, training):
    network, spec, state = build(kind, case, dtype)
    state.train(training)
    for batch in (B, None):
        context = torch.randn(*(() if batch is None else (batch,)), 2, dtype=dtype)
        context = context if kind in TAKES_CONTEXT else None
        calls = [state(context, batch)] if batch else [state(context, batched=False)]
        if context is not None:
            calls.append(state(context))
        elif batch is None:
            calls.append(state())
        for hx in calls:
            leaves = spec.unpack(hx)  # structure, shapes
            for leaf in spec:
                lead = () if batch is None else (batch,)
                assert leaves[leaf.name].shape == (*lead, *leaf.shape)
                assert leaves[leaf.name].dtype == dtype
            for leaf, tensor in zip(spec, tensors_of(hx), strict=True):
                assert tensor.is_contiguous() or leaf.tiled_in_place
            output = network(make_input(network, batch, dtype=dtype), hx)
            assert all(tensor.isfinite().all() for tensor in tensors_of(output))


def test_every_parameter_learns(kind, case):
    network, _, state = build(kind, case)
    output = network(make_input(network, B), state(torch.randn(B, 2), B))
    # The final state counts: c of an LSTM, and the last layer backwards, reach the outputs late or not at all.
    sum(tensor.square().sum() for tensor in tensors_of(output)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in state.parameters())


def test_copies_and_checkpoints_give_the_same_state(kind, case):
    _, spec, state = build(kind, case)
    context = torch.randn(B, 2)
    state.eval()
    fresh = STATES[kind](spec).eval()
    fresh.load_state_dict(state.state_dict())
    for other in (copy.deepcopy(state), fresh):
        assert all(map(torch.equal, tensors_of(other(context, B)), tensors_of(state(context, B))))


def test_generator_repeats_draws_and_evaluation_does_not_draw(kind, case):
    _, _, state = build(kind, case)
    context = torch.randn(B, 2)

    def draw(seed):
        return tensors_of(state(context, B, generator=torch.Generator().manual_seed(seed)))

    assert all(map(torch.equal, draw(1), draw(1)))
    random = not all(map(torch.equal, draw(1), draw(2)))
    assert random == (kind in ("free", "one a leaf") or "normal" in kind)
    state.eval()
    assert all(map(torch.equal, draw(1), draw(2)))


def test_sample_rows_are_grouped_by_context(kind, case):
    _, spec, state = build(kind, case)
    state.eval()
    context = torch.randn(B, 2)
    samples = spec.unpack(state.sample(context, 3, batch_size=B, generator=torch.Generator().manual_seed(0)))
    means = spec.unpack(state(context, B))
    for name, sampled in samples.items():
        assert sampled.shape[0] == 3 * B
        grouped = sampled.unflatten(0, (B, 3))
        spread = (grouped - means[name][:, None]).abs().max()
        assert spread < 2.0, "five sigma and more around the context's own mean"
        if name == "h" and "normal" in kind:
            assert not torch.equal(grouped[:, 0], grouped[:, 1])
        if kind in ("constant", "context"):
            assert spread == 0


@pytest.mark.parametrize("wrapped", [lambda spec: ContextState(spec, net(), zero_init=True, activation=torch.tanh),
                                     lambda spec: NormalState(spec, net(), zero_init=True),
                                     FreeState, ConstantState])  # fmt: skip
def test_zero_initialised_states_change_no_bit(case, wrapped):
    network, spec = make(case)
    state = wrapped(spec).eval()
    x = make_input(network, B)
    found = tensors_of(network(x, state(torch.randn(B, 2), B)))
    expected = tensors_of(network(x))
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_constant_and_free_take_a_whole_state_as_value():
    lstm = nn.LSTM(3, 5, num_layers=2)
    value = (torch.randn(2, 5), torch.randn(2, 5))
    for state in (ConstantState(lstm, value), FreeState(lstm, value=value)):
        h, c = state(batch_size=3)
        for row in range(3):
            assert torch.equal(h[:, row], value[0])
            assert torch.equal(c[:, row], value[1])
    assert not list(ConstantState(lstm, value).parameters())
    with pytest.raises(ValueError, match="value: expected leaf 'h' of one example"):
        FreeState(lstm, value=(torch.randn(2, 3, 5), torch.randn(2, 3, 5)))
    with pytest.raises(TypeError, match="state: expected"):
        ConstantState(lstm, torch.randn(2, 5))


def test_noise_of_a_free_state_is_gaussian_and_of_the_given_size():
    state = FreeState(nn.GRUCell(3, 100), noise=0.3, value=2.0)
    h = state(batch_size=1000, generator=torch.Generator().manual_seed(0)).detach()
    # 100,000 draws: standard errors 0.3 / 316 of the mean and 0.3 / 447 of the deviation; five of each.
    assert abs(h.mean() - 2.0) < 0.005
    assert abs(h.std() - 0.3) < 0.0035
    assert abs(((h - 2).abs() < 0.3).float().mean() - 0.6827) < 0.0075


def test_context_state_is_g_of_the_context():
    gru, network = nn.GRU(3, 5, num_layers=2), net()
    state = ContextState(gru, network, activation=torch.sigmoid)
    context = torch.randn(B, 2)
    head = state.heads.layers["h"]
    expected = torch.sigmoid(network(context) @ head.weight.T + head.bias).view(B, 2, 5).transpose(0, 1)
    torch.testing.assert_close(state(context), expected)


class OfDict(nn.Module):
    out_features = 6

    def __init__(self):
        super().__init__()
        self.kind, self.size = nn.Embedding(3, 6), nn.Linear(1, 6)

    def forward(self, context):
        return self.kind(context["kind"]) + self.size(context["size"])


@pytest.mark.parametrize(
    ("network", "context", "one"),
    [
        (nn.Embedding(7, 6), torch.tensor([1, 5, 1, 2]), torch.tensor(3)),
        (nn.Sequential(nn.Linear(2, 6), nn.LayerNorm(6), nn.GELU(), nn.Dropout()), torch.randn(B, 2), torch.randn(2)),
        (OfDict(), {"kind": torch.zeros(B, dtype=torch.int64), "size": torch.randn(B, 1)},
         {"kind": torch.tensor(1), "size": torch.randn(1)}),
    ],
    ids=["embedding", "layers", "dict"],
)  # fmt: skip
def test_any_context_network(network, context, one):
    lstm = nn.LSTM(3, 5)
    state = ContextState(lstm, network).eval()
    h, c = state(context)
    assert h.shape == c.shape == (1, B, 5)
    assert state(one)[0].shape == (1, 5)
    tiled = state(one, 3)[0]
    assert tiled.shape == (1, 3, 5)
    assert torch.equal(tiled[:, 0], tiled[:, 2])


def test_feature_count_is_read_off_or_asked_for():
    assert ContextState(nn.GRUCell(3, 5), nn.Sequential(nn.Linear(2, 9), nn.ReLU())).features == 9
    with pytest.raises(ValueError, match="features: expected the width of what net returns"):
        ContextState(nn.GRUCell(3, 5), nn.Identity())
    assert ContextState(nn.GRUCell(3, 5), nn.Identity(), features=2)(torch.randn(B, 2)).shape == (B, 5)
    with pytest.raises(ValueError, match="features: expected"):
        ContextState(nn.GRUCell(3, 5), nn.Sequential(nn.Linear(2, 8), nn.GLU()))
    with pytest.raises(TypeError, match="net: expected a context network"):
        ContextState(nn.GRUCell(3, 5), torch.tanh)


def normal_state(**options):
    torch.manual_seed(0)
    return NormalState(nn.LSTM(3, 5, num_layers=2), net(), **options).eval()


@pytest.mark.parametrize("from_context", [False, True])
def test_moments_of_the_samples(from_context):
    state = normal_state(scale=0.4, scale_from_context=from_context)
    if from_context:
        nn.init.normal_(state.scale_heads.layers["h"].weight, std=0.5)
    context = torch.randn(1, 2)
    h, _ = state.sample(context, 20_000, generator=torch.Generator().manual_seed(0))
    distribution = state.distribution(context)["h"]
    # Standard errors sigma / 141 and sigma / 200 at 20,000 draws; five of each.
    mean_error = (h.mean(1) - distribution.loc[0]).abs() / distribution.scale[0]
    assert mean_error.max() < 5 / 141
    assert (h.std(1) / distribution.scale[0] - 1).abs().max() < 5 / 200
    if not from_context:
        torch.testing.assert_close(distribution.scale, torch.full_like(distribution.scale, 0.4))


@pytest.mark.parametrize("from_context", [False, True])
def test_log_prob_and_kl_are_the_closed_forms(from_context):
    state = normal_state(scale=0.4, scale_from_context=from_context).double()
    context = torch.randn(B, 2, dtype=torch.float64)
    hx = state.sample(context, 1)
    log_prob, kl = torch.zeros(B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
    for (name, d), value in zip(state.distribution(context).items(), hx, strict=True):
        mean, sigma, x = d.loc, d.scale, value.transpose(0, 1)
        assert name in ("h", "c")
        log_prob += (-((x - mean) ** 2) / (2 * sigma**2) - sigma.log() - math.log(2 * math.pi) / 2).sum((1, 2))
        kl += (math.log(0.7) - sigma.log() + (sigma**2 + (mean - 0.2) ** 2) / (2 * 0.7**2) - 0.5).sum((1, 2))
    torch.testing.assert_close(state.log_prob(hx, context), log_prob)
    torch.testing.assert_close(state.kl(context, prior_mean=0.2, prior_scale=0.7), kl)
    one = state.log_prob(tuple(leaf[:, 1] for leaf in hx), context[1])
    torch.testing.assert_close(one, log_prob[1])


def test_sigma_has_a_floor():
    state = normal_state(scale=0.5, min_scale=0.125)
    with torch.no_grad():
        state.raw_scale["h"].fill_(-1e9)
    assert torch.equal(state.distribution(torch.randn(1, 2))["h"].scale, torch.full((1, 2, 5), 0.125))
    torch.testing.assert_close(state.distribution(torch.randn(1, 2))["c"].scale, torch.full((1, 2, 5), 0.5))


@pytest.mark.parametrize("scale", [1e-4, 0.25, 30.0])
def test_sigma_starts_where_it_is_told(scale):
    found = normal_state(scale=scale).distribution(torch.randn(1, 2))["h"]
    assert isinstance(found, Normal)
    torch.testing.assert_close(found.scale, torch.full((1, 2, 5), scale))


def test_reparameterised_gradient_reaches_mean_and_sigma():
    state = NormalState(nn.GRUCell(3, 5), FreeState(nn.GRUCell(3, 5)), scale=0.5)
    generator = torch.Generator().manual_seed(0)
    h = state(batch_size=B, generator=generator)
    epsilon = torch.randn(B, 5, generator=torch.Generator().manual_seed(0))
    cotangent = torch.randn(B, 5)
    h.backward(cotangent)
    torch.testing.assert_close(state.mean.values["h"].grad, cotangent.sum(0))
    slope = torch.sigmoid(state.raw_scale["h"].detach())
    torch.testing.assert_close(state.raw_scale["h"].grad, (cotangent * epsilon).sum(0) * slope)


LSTM = nn.LSTM(3, 5)
BAD_ARGUMENTS = [
    (lambda: FreeState(LSTM, noise=-0.1), ValueError, "noise: expected"),
    (lambda: FreeState(LSTM, noise=math.nan), ValueError, "noise: expected"),
    (lambda: NormalState(LSTM, net(), scale=0.0), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, net(), scale=-1.0), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, net(), scale=math.inf), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, net(), min_scale=-0.1), ValueError, "min_scale: expected"),
    (lambda: NormalState(LSTM, net(), scale=0.1, min_scale=0.1), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, FreeState(LSTM), scale_from_context=True), ValueError, "scale_from_context: expected"),
    (lambda: normal_state().kl(torch.zeros(1, 2), prior_scale=0.0), ValueError, "prior_scale: expected"),
    (lambda: normal_state().log_prob(torch.zeros(2, 1, 5), torch.zeros(1, 2)), TypeError, "state: expected"),
    (lambda: LeafwiseState(LSTM, h=FreeState(LSTM)), ValueError, "states: expected one for each of h, c, got h"),
    (lambda: LeafwiseState(LSTM, h=FreeState(LSTM), c=FreeState(LSTM)), ValueError, "h: expected a state made for"),
    (lambda: ContextState(LSTM, net())(), ValueError, "context: expected .* got None"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2), 4), ValueError, "context: expected a batch of 4, .* got 3"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 7)), ValueError, r"context: .* \(3, 7\)"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2).double()), ValueError, "context: .*float64"),
    (lambda: ContextState(LSTM, net())(torch.zeros(3, 2, device="meta")), ValueError, "context: .* on meta"),
    (lambda: ContextState(LSTM, nn.Embedding(4, 2))(torch.tensor([4])), ValueError, "context: the context network"),
    (lambda: ContextState(LSTM, nn.Embedding(4, 2))(torch.tensor([0.5])), ValueError, "context: .*float32"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2, 2)), ValueError, "context: expected features of shape"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2), batched=False), ValueError, "one unbatched example"),
    (lambda: ContextState(LSTM, nn.Identity(), features=3)(torch.randn(3, 2)), ValueError, "features: expected"),
    (lambda: ContextState(LSTM, nn.Identity(), features=2)(torch.randn(3, 2).double()), ValueError, "float64"),
    (lambda: FreeState(LSTM)(batch_size=0), ValueError, "batch_size: expected"),
    (lambda: FreeState(LSTM)(batch_size=True), TypeError, "batch_size: expected"),
    (lambda: FreeState(LSTM)(batch_size="4"), TypeError, "batch_size: expected"),
    (lambda: FreeState(LSTM).sample(num_samples=0), ValueError, "num_samples: expected"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD_ARGUMENTS, ids=[words for _, _, words in BAD_ARGUMENTS])
def test_bad_arguments_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("kind", ["constant", "free", "context", "normal"])
def test_compiles_whole(kind):
    torch._dynamo.reset()
    _, _, state = build(kind, "lstm deep both ways")
    state.eval()
    compiled = torch.compile(state, fullgraph=True, backend="eager")
    context = torch.randn(B, 2)
    assert all(map(torch.equal, compiled(context, B), state(context, B)))


def test_state_spec_is_taken_in_place_of_a_network():
    spec = state_spec(LSTM)
    assert [tensor.shape for tensor in FreeState(spec)(batch_size=2)] == [(1, 2, 5), (1, 2, 5)]
