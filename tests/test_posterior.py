"""A state, its draws, its KL and its density from one pass of the context network."""

import math
import typing

import pytest
import torch
from tests.networks import SPECS, make, make_input, tensors_of
from torch import nn
from torch.distributions import Normal, kl_divergence

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    LatentState,
    Leaf,
    LeafwiseState,
    NormalState,
    StateSpec,
    SumState,
    interpolate,
    load_state,
    save_state,
    state_spec,
)
from contextual_rnn.diagnostics import diagnose
from contextual_rnn.states.latent import LatentPosterior

B = 4


class Encoder(nn.Sequential):
    """A context network that counts its calls and draws a dropout mask in each."""

    def __init__(self, dtype=torch.float64):
        super().__init__(nn.Linear(2, 6), nn.Tanh(), nn.Dropout(0.5))
        self.to(dtype)
        self.calls, self.out_features = 0, 6

    def forward(self, context):
        self.calls += 1
        return super().forward(context)


def normal(spec, encoder=None, scale=0.5):
    return NormalState(spec, encoder or Encoder(), scale, scale_from_context=True)


STATES = {
    "normal": normal,
    "normal around free": lambda spec: NormalState(spec, FreeState(spec, value=0.3), 0.5),
    "free with noise": lambda spec: FreeState(spec, noise=0.5, value=0.3),
    "latent": lambda spec: LatentState(spec, Encoder(), 3, nn.Linear(3, 6).double(), features=6, scale=0.5),
    "latent of one's own scale": lambda spec: LatentState(spec, Encoder(), 3, scale_from_context=False, scale=0.5),
    "leafwise": lambda spec: LeafwiseState(
        spec,
        **{
            leaf.name: ConstantState(spec[leaf.name], 0.5) if index else normal(spec[leaf.name])
            for index, leaf in enumerate(spec)
        },
    ),
    "sum": lambda spec: SumState([normal(spec), FreeState(spec, noise=0.2)], [0.7, -1.5]),
    "dropped": lambda spec: ContextDropout(normal(spec), 0.5, null=NormalState(spec, FreeState(spec), 0.3)),
    "dropped to a state without noise": lambda spec: ContextDropout(normal(spec), 0.5, null=FreeState(spec)),
    "dropped latent": lambda spec: ContextDropout(LatentState(spec, Encoder(), 3), 0.5),
}


def build(kind, case="lstm"):
    network, spec = make(case, torch.float64)
    torch.manual_seed(1)
    state = STATES[kind](spec)
    with torch.no_grad():
        for parameter in state.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network, spec, state


def encoders_of(state):
    return [module for module in state.modules() if isinstance(module, Encoder)]


@pytest.mark.parametrize("kind", STATES)
def test_all_of_it_takes_one_pass_of_the_encoder(kind):
    _, _, state = build(kind)
    q = state.posterior(torch.randn(B, 2).double(), B)
    q.rsample(), q.mean, q.sample(2), q.kl(), q.kl_per_unit()
    q.log_prob(q.drawn), q.log_prior(q.drawn)
    assert [encoder.calls for encoder in encoders_of(state)] == [1] * len(encoders_of(state))


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("case", ["lstm", "gru, one state for all layers", "fast weights, low-rank A", "own cell"])
def test_draws_mean_and_samples_are_those_of_the_state(kind, case):
    _, _, state = build(kind, case)
    context = torch.randn(B, 2).double()
    state.eval()
    for found, expected in zip(
        tensors_of(state.posterior(context, B).mean), tensors_of(state(context, B)), strict=True
    ):
        torch.testing.assert_close(found, expected)
    q = state.posterior(context, B)
    drawn = tensors_of(q.sample(3, torch.Generator().manual_seed(0)))
    sampled = state.sample(context, 3, batch_size=B, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(drawn, tensors_of(sampled), strict=True):
        torch.testing.assert_close(found, expected)
    if "dropped" not in kind:
        state.train()
        for encoder in encoders_of(state):
            encoder[2].p = 0.0
        drawn = tensors_of(state.posterior(context, B).rsample(torch.Generator().manual_seed(0)))
        expected = tensors_of(state(context, B, generator=torch.Generator().manual_seed(0)))
        assert all(map(torch.equal, drawn, expected))


@pytest.mark.parametrize("kind", ["normal", "leafwise", "sum", "latent", "normal around free"])
def test_kl_and_densities_are_the_closed_form_by_one_pass(kind):
    """To 1e-10 in float64, with the moments read off many draws' generator: mean and mean + sigma * noise."""
    _, spec, state = build(kind)
    context = torch.randn(B, 2).double()
    q = state.posterior(context, B)
    moments = {name: leaf for name, leaf in getattr(q, "latent", q).moments.items() if leaf.scale is not None}
    if kind == "leafwise":
        assert set(moments) == {"h"}
    drawn, expected_kl, expected_log_prob, expected_prior = (q.rsample(), q.drawn)[1], 0, 0, 0
    leaves = {"z": drawn} if kind == "latent" else spec.unpack(drawn)
    for name, (mean, scale) in moments.items():
        axes = tuple(range(1, mean.ndim))
        scale = scale.expand_as(mean)
        expected_kl += 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log()).sum(axes)
        residual = (leaves[name] - mean) / scale
        expected_log_prob += (-0.5 * residual**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(axes)
        expected_prior += (-0.5 * leaves[name] ** 2 - 0.5 * math.log(2 * math.pi)).sum(axes)
    for found, expected in ((q.kl(), expected_kl), (q.log_prob(drawn), expected_log_prob),
                            (q.log_prior(drawn), expected_prior)):  # fmt: skip
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    # The closed form is also the mean of log q - log p over draws: five standard errors.
    many = state.eval().posterior(context, B)
    many.sample(4000, torch.Generator().manual_seed(0))
    ratio = (many.log_prob(many.drawn) - many.log_prior(many.drawn)).view(B, -1)
    assert ((ratio.mean(1) - many.kl()).abs() < 5 * ratio.std(1) / 4000**0.5).all()


@pytest.mark.parametrize("kind", ["normal", "latent", "sum", "dropped"])
def test_gradients_through_draw_and_kl_at_once(kind):
    network, _, state = build(kind, "gru cell")
    state.eval()
    x, cotangent = torch.randn(B, 3).double(), torch.randn(B, 5).double()

    def loss(context):
        q = state.posterior(context)
        h = network(x, q.sample(1, torch.Generator().manual_seed(0)))
        return (h * cotangent).sum() + (q.kl() * torch.arange(1.0, B + 1)).sum() + q.log_prior(q.drawn).sum()

    assert torch.autograd.gradcheck(loss, torch.randn(B, 2).double().requires_grad_())
    loss(torch.randn(B, 2).double()).backward()
    assert all(p.grad is not None for p in (state.state if kind == "dropped" else state).parameters())


def test_a_dropped_row_has_the_kl_and_density_of_its_branch():
    _, spec, state = build("dropped")
    context = torch.randn(64, 2).double()
    q = state.posterior(context, generator=torch.Generator().manual_seed(0))
    assert 10 < int(q.dropped.sum()) < 54
    drawn = q.rsample()
    null = state.null.posterior(None, 64)
    for row, dropped in enumerate(q.dropped.tolist()):
        branch = null if dropped else q.given
        torch.testing.assert_close(q.kl()[row], branch.kl()[row])
        torch.testing.assert_close(q.log_prob(drawn)[row], branch.log_prob(drawn)[row])
        mean = spec.unpack(q.mean)["h"][row]
        assert torch.equal(mean, spec.unpack(branch.mean)["h"][row])
    single = state.posterior(context[0])
    assert spec.unpack(single.sample(3))["h"].shape == (3, *spec.unpack(q.mean)["h"].shape[1:])
    assert single.log_prob(single.drawn).shape == (3,)
    q.sample(3)
    assert q.log_prob(q.drawn).shape == (192,)
    assert q.log_prior(q.drawn).shape == (192,)
    _, _, state = build("dropped to a state without noise")
    q = state.posterior(context)
    assert not q.kl()[q.dropped].any()
    assert (q.kl()[~q.dropped] > 0).all()
    assert not q.log_prob(q.rsample())[q.dropped].any()
    assert (state.kl(context) > 0).all(), "which never drops"


@pytest.mark.parametrize("null", ["free", "latent"])
def test_a_dropped_row_of_a_latent_state_has_the_density_of_its_z(null):
    _, spec, state = build("dropped latent")
    context, copies = torch.randn(64, 2).double(), 3
    if null == "latent":
        z = StateSpec(Leaf("z", (3,)), dtype=torch.float64)
        learned = LatentState(spec, FreeState(z, value=0.3), 3, scale=0.4, scale_from_context=False)
        state = ContextDropout(state.state, 0.5, null=learned)
    q = state.posterior(context, generator=torch.Generator().manual_seed(0))
    assert 10 < int(q.dropped.sum()) < 54
    kl = torch.where(q.dropped, q.null.kl() if null == "latent" else 0, q.given.kl())
    torch.testing.assert_close(q.kl(), kl)
    h, dropped = spec.unpack(q.sample(copies))["h"], q.dropped.repeat_interleave(copies)
    assert torch.equal(h[~dropped], spec.unpack(state.state.decode(q.drawn.given))["h"][~dropped])
    for density in (lambda q, drawn: q.log_prob(drawn), lambda q, drawn: q.log_prior(drawn, (0.1, 2.0))):
        of_null = density(q.null, q.drawn.null) if null == "latent" else torch.zeros(64 * copies).double()
        expected = torch.where(dropped, of_null, density(q.given, q.drawn.given))
        torch.testing.assert_close(density(q, q.drawn), expected)
    if null == "latent":
        assert torch.equal(h[dropped], spec.unpack(learned.decode(q.drawn.null))["h"][dropped])


def test_priors_of_numbers_tensors_parameters_and_states():
    _, spec, state = build("normal", "lstm")
    context = torch.randn(B, 2).double()
    q, drawn = state.eval().posterior(context), state.sample(context)
    ours = q.distribution

    def expected(priors):
        return sum(kl_divergence(ours[name], Normal(*pair)).sum((1, 2)) for name, pair in priors.items())

    conditional, label = normal(spec).eval(), torch.randn(B, 2).double()
    free = NormalState(spec, FreeState(spec, value=0.2), 0.7)
    mean, scale = nn.Parameter(torch.randn(1, 5).double()), nn.Parameter(torch.rand(B, 1, 5).double())
    of_label = {name: (d.loc, d.scale) for name, d in conditional.distribution(label).items()}
    for prior, parameters in (
        (None, {"h": (0.0, 1.0), "c": (0.0, 1.0)}),
        ((0.5, 2.0), {"h": (0.5, 2.0), "c": (0.5, 2.0)}),
        ((mean, scale), {"h": (mean, scale), "c": (mean, scale)}),
        ({"h": (mean, 1.0), "c": (0, scale)}, {"h": (mean, 1.0), "c": (0.0, scale)}),
        (conditional.posterior(label), of_label),
        (free, {name: (d.loc, d.scale) for name, d in free.distribution().items()}),
    ):
        torch.testing.assert_close(q.kl(prior), expected(parameters))
        leaves = spec.unpack(drawn)
        log_prior = sum(Normal(*pair).log_prob(leaves[name]).sum((1, 2)) for name, pair in parameters.items())
        torch.testing.assert_close(q.log_prior(drawn, prior), log_prior)
    (q.kl((mean, scale)) + q.kl(conditional.posterior(label))).sum().backward()
    assert mean.grad.any()
    assert scale.grad.any()
    assert all(parameter.grad is not None for parameter in conditional.parameters())
    latent = LatentState(spec, Encoder(), 3)
    z = latent.latent.spec
    q = latent.posterior(context)
    standard = NormalState(z, ConstantState(z), 1.0)
    torch.testing.assert_close(q.kl(standard), q.kl())
    torch.testing.assert_close(q.kl(latent.posterior(context)).shape, torch.Size([B]))


def test_free_bits_are_a_floor_of_each_units_mean():
    _, _, state = build("normal", "gru cell")
    q = state.posterior(torch.randn(B, 2).double())
    units = q.kl_per_unit()["h"]
    assert units.shape == (B, 5)
    torch.testing.assert_close(units.sum(1), q.kl())
    least = float(units.detach().mean(0).sort().values[2]) + 1e-9
    free = q.kl(free_bits=least)
    torch.testing.assert_close(free.mean(), units.mean(0).clamp(min=least).sum())
    assert torch.equal(q.kl(free_bits=0), q.kl())
    (gradient,) = torch.autograd.grad(free.sum(), q.moments["h"].mean)
    assert torch.equal(gradient.any(0), units.mean(0) >= least)


@pytest.mark.parametrize("case", [case for case in SPECS if "both ways" not in case and "projected" not in case])
@pytest.mark.parametrize("kind", ["normal", "latent"])
def test_num_samples_are_rows_of_a_model_from_one_encoding(case, kind):
    network, spec, state = build(kind, case)
    model, (encoder,) = ContextualRNN(network, state), encoders_of(state)
    x, context = make_input(network, B, dtype=torch.float64), torch.randn(B, 2).double()
    for training in (True, False):
        model.train(training)
        encoder.calls = 0
        torch.manual_seed(0)
        returned, q = model(x, context=context, num_samples=3, return_posterior=True)
        assert encoder.calls == 1
        hx = state.decode(q.drawn) if kind == "latent" else q.drawn
        repeated = x.repeat_interleave(3, model._spec.input_batch_dim)
        for found, expected in zip(tensors_of(returned), tensors_of(network(repeated, hx)), strict=True):
            torch.testing.assert_close(found, expected)
        leaf = next(iter(spec))
        rows = spec.unpack(hx)[leaf.name]
        assert rows.shape[0] == 3 * B
        assert not torch.equal(rows[0], rows[1]), "draws, in evaluation too"
        assert q.kl().shape == (B,)
        assert q.log_prob(q.drawn).shape == (3 * B,)


def test_importance_weights_of_samples_in_one_call():
    """The bound of S samples is above that of one, and below log p(x), here of a linear model in closed form."""
    torch.manual_seed(0)
    cell = nn.RNNCell(1, 2, nonlinearity="relu").double()
    state = NormalState(cell, nn.Linear(2, 4).double(), 1.5, scale_from_context=True)
    model = ContextualRNN(cell, state)
    x, context, target = torch.zeros(B, 1).double(), torch.randn(B, 2).double(), torch.randn(B, 2).double()

    def bound(samples, seed=0):
        generator = torch.Generator().manual_seed(seed)
        _, q = model(x, context=context, num_samples=samples, return_posterior=True, generator=generator)
        log_likelihood = Normal(q.drawn, 0.5).log_prob(target.repeat_interleave(samples, 0)).sum(1)
        weights = (log_likelihood + q.log_prior(q.drawn) - q.log_prob(q.drawn)).view(B, samples)
        return weights.logsumexp(1) - math.log(samples), weights

    exact = Normal(0.0, math.sqrt(1.25)).log_prob(target).sum(1)
    many, weights = bound(20_000)
    shares = weights.softmax(1)
    assert ((many - exact).abs() < 5 * (shares.square().sum(1)).sqrt()).all(), "five standard errors"
    assert shares.square().sum() < 0.01 * B
    assert torch.stack([bound(1, seed)[0].mean() for seed in range(20)]).mean() < many.mean() - 0.1


@pytest.mark.parametrize("options", [{"lengths": torch.tensor([3, 1, 4, 0])}, {"burn_in": 2},
                                     {"mask": torch.arange(4) < torch.tensor([[3], [1], [4], [2]])}])  # fmt: skip
def test_samples_beside_lengths_masks_and_burn_in(options):
    for case in ("lstm", "rnn"):
        network, _, state = build("normal", case)
        model = ContextualRNN(network, state)
        x, context = make_input(network, B, dtype=torch.float64), torch.randn(B, 2).double()
        axis = model._spec.input_batch_dim
        given = {name: value.T if name == "mask" and axis else value for name, value in options.items()}
        returned, q = model(x, context=context, num_samples=2, return_posterior=True, **given)
        for name, value in options.items():
            given[name] = value.repeat_interleave(2, 0) if name != "burn_in" else value
            given[name] = given[name].T if name == "mask" and axis else given[name]
        expected = model(x.repeat_interleave(2, axis), q.drawn, **given)
        assert all(map(torch.equal, tensors_of(returned), tensors_of(expected)))


def test_a_model_returns_what_it_draws():
    network, _, state = build("normal", "lstm")
    model = ContextualRNN(network, state)
    x, context = make_input(network, B, dtype=torch.float64), torch.randn(B, 2).double()
    torch.manual_seed(3)
    (output, final), q = model(x, context=context, return_posterior=True)
    expected, _ = network(x, q.drawn)
    assert torch.equal(output, expected)
    torch.manual_seed(3)
    again, _ = model(x, context=context)
    torch.testing.assert_close(again, output)
    model.eval()
    (output, final), q = model(x, context=context, return_posterior=True)
    torch.testing.assert_close(output, network(x, q.mean)[0])
    assert len(final) == 2
    diagnosis = diagnose(model, lambda: model(x, context=context, return_posterior=True)[0][0].square().mean(-1))
    assert "zeroed" in str(diagnosis)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_states_are_drawn_in_their_dtype_and_measured_in_float32(dtype):
    gru = nn.GRUCell(3, 5, dtype=dtype)
    state = NormalState(gru, nn.Linear(2, 6, dtype=dtype), scale_from_context=True)
    latent = LatentState(gru, nn.Linear(2, 6, dtype=dtype), 3)
    for each in (state, latent, ContextDropout(state)):
        q = each.posterior(torch.randn(B, 2, dtype=dtype))
        assert (q.rsample().dtype, q.mean.dtype, q.sample(2).dtype, q.kl().dtype) == (
            dtype,
            dtype,
            dtype,
            torch.float32,
        )
        assert each(torch.randn(B, 2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("kind", ["normal", "latent", "sum", "leafwise"])
def test_the_old_calls_are_the_same_numbers(kind, tmp_path):
    _, spec, state = build(kind)
    state.eval()
    context = torch.randn(B, 2).double()
    q = state.posterior(context)
    q.sample()
    torch.testing.assert_close(state.kl(context), q.kl())
    torch.testing.assert_close(state.kl(context, prior_mean=0.5, prior_scale=2.0), q.kl((0.5, 2.0)))
    torch.testing.assert_close(state.log_prob(q.drawn, context), q.log_prob(q.drawn))
    for some, of_some in ((context, q), (context[0], state.posterior(context[0]))):
        of_some.sample(3)
        torch.testing.assert_close(state.log_prob(of_some.drawn, some), of_some.log_prob(of_some.drawn))
    ours = getattr(q, "latent", q).distribution
    for name, density in state.distribution(context).items():
        torch.testing.assert_close(density.loc, ours[name].loc)
        torch.testing.assert_close(density.scale, ours[name].scale)
    save_state(state, tmp_path / "state.safetensors")
    fresh = STATES[kind](spec).eval()
    load_state(fresh, tmp_path / "state.safetensors")
    assert all(map(torch.equal, tensors_of(fresh(context)), tensors_of(state(context))))


def test_states_made_of_others_measure_as_precisely():
    """In bfloat16 heads compute in float32 for a KL, in parts of other states too."""
    lstm, context = nn.LSTMCell(3, 5, dtype=torch.bfloat16), torch.randn(B, 2, dtype=torch.bfloat16)
    spec = state_spec(lstm)
    h, c = (NormalState(spec[name], nn.Linear(2, 6, dtype=torch.bfloat16), scale_from_context=True) for name in "hc")
    both = LeafwiseState(spec, h=h, c=c)
    expected = h.kl(context) + c.kl(context)
    assert not torch.equal(expected, expected.bfloat16().float())
    torch.testing.assert_close(both.posterior(context).kl(), expected)
    for state in (ContextDropout(both).eval(), SumState([both], [1.0])):
        torch.testing.assert_close(state.posterior(context).kl(), expected)


def test_a_path_between_two_contexts_in_z():
    _, _, state = build("latent", "gru")
    ends = [state.eval().posterior(torch.randn(1, 2).double()) for _ in range(2)]
    path = interpolate(*(q.latent.mean for q in ends), 5, spherical=True)
    states = state.decode(path)
    assert states.shape == (2, 5, 5)
    torch.testing.assert_close(states[:, :1], ends[0].mean)
    torch.testing.assert_close(states[:, -1:], ends[1].mean)


GRU = nn.GRUCell(3, 5)
CONTEXT = torch.zeros(B, 2)


def q_of(**options):
    return NormalState(GRU, nn.Linear(2, 6)).posterior(CONTEXT, **options)


def model_of(*args, **options):
    gru = nn.GRU(3, 5, batch_first=True)
    model = ContextualRNN(gru, NormalState(gru, nn.Linear(2, 6)))
    return model(torch.zeros(B, 2, 3), *args, context=CONTEXT, **options)


BAD_CALLS = {
    "state: expected a random state of real numbers": lambda: ContextState(GRU, nn.Linear(2, 6)).posterior(CONTEXT),
    "context: expected .* got None": lambda: NormalState(GRU, nn.Linear(2, 6)).posterior(),
    "batch_size: expected an int of at least 0": lambda: q_of(batch_size=-1),
    "free_bits: expected a finite number of at least 0": lambda: q_of().kl(free_bits=-1.0),
    "prior: expected None, .* got 3": lambda: q_of().kl(3),
    "prior: expected one for each of h, got": lambda: q_of().kl({"c": (0.0, 1.0)}),
    "prior_mean: expected a finite number, got nan": lambda: q_of().kl((torch.nan, 1.0)),
    "prior_scale: expected a positive, finite number": lambda: q_of().kl((0.0, 0.0)),
    "prior_mean: expected a shape that broadcasts": lambda: q_of().kl((torch.zeros(3), 1.0)),
    "prior_scale: expected a floating-point": lambda: q_of().kl((0.0, torch.ones(5).long())),
    r"prior_scale: expected positive numbers, got \[-1.0": lambda: q_of().kl((torch.zeros(5), -torch.ones(5))),
    "prior_scale: expected positive numbers": lambda: q_of().kl((0.0, torch.tensor([1.0, 0.0, 1.0, 1.0, torch.nan]))),
    "prior_mean: expected a tensor on cpu": lambda: q_of().kl((torch.zeros(5, device="meta"), 1.0)),
    "prior: expected state.posterior": lambda: q_of().kl(NormalState(GRU, nn.Linear(2, 6))),
    "num_samples: expected a positive int": lambda: q_of().sample(0),
    "state: expected leaf 'h' of 4 rows or a multiple, got 6": lambda: q_of().log_prob(torch.zeros(6, 5)),
    "state: expected numbers in leaf 'h', got NaN": lambda: q_of().log_prob(torch.full((B, 5), torch.nan)),
    "context: expected one that gives finite means": lambda: (
        NormalState(GRU, nn.Linear(2, 6)).posterior(CONTEXT * torch.nan).log_prob(torch.zeros(B, 5))
    ),
    "state: expected a floating-point tensor of at least 16 bits": lambda: (
        NormalState(state_spec(nn.GRU(3, 5, 2)).shared(), nn.Linear(2, 6))
        .posterior(CONTEXT)
        .log_prob(torch.zeros(2, B, 5).to(torch.float8_e5m2))
    ),
    "drawn: expected the draws of both branches, .* got Tensor": lambda: ContextDropout(
        LatentState(GRU, nn.Linear(2, 6), 3)
    ).posterior(CONTEXT).log_prob(torch.zeros(B, 5)),
    "guidance: expected 1 for draws around a latent": lambda: ContextDropout(
        LatentState(GRU, nn.Linear(2, 6), 3), guidance=2.0
    ).eval().sample(CONTEXT),
    "states: expected a state that its moments": lambda: SumState([LatentState(GRU, nn.Linear(2, 6), 3)], [1.0]),
    "h: expected a state that its moments": lambda: LeafwiseState(
        state_spec(GRU), h=LatentState(state_spec(GRU)["h"], nn.Linear(2, 6), 3)
    ),
    "(net|encoder): expected a state that its moments": lambda: NormalState(
        GRU, LatentState(GRU, nn.Linear(2, 6), 3)
    ),
    "size: expected a positive int": lambda: LatentState(GRU, nn.Linear(2, 6), 0),
    "hx: expected None beside num_samples": lambda: model_of(torch.zeros(1, B, 5), num_samples=2),
    "reset: expected None beside num_samples": lambda: model_of(num_samples=2, reset=torch.zeros(B, 2).bool()),
    "num_samples: expected a positive int, got 0": lambda: model_of(num_samples=0),
    "return_posterior: expected True or False": lambda: model_of(return_posterior=1),
    "lengths: expected a tensor": lambda: model_of(num_samples=2, lengths=[1, 2, 3, 4]),
}  # fmt: skip


@pytest.mark.parametrize("words", BAD_CALLS)
def test_bad_calls_are_refused(words, monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # as torch.compile leaves it
    with pytest.raises((ValueError, TypeError), match=f"^{words}"):
        BAD_CALLS[words]()


def test_type_checkers_know_the_posterior_of_a_latent_variable():
    assert typing.get_type_hints(LatentState.posterior)["return"] is LatentPosterior
    assert isinstance(LatentState(GRU, nn.Linear(2, 6), 4).posterior(torch.zeros(3, 2)), LatentPosterior)
