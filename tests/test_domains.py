"""Leaves with a domain: every initial state stays in it, and starts, densities, files and checks mean the same."""

import copy

import pytest
import torch
from tests.networks import tensors_of
from tests.state_files import with_first_number
from tests.test_initial_state import STATES as OF_EVERY_NETWORK
from torch import nn
from torch.distributions import Normal, SigmoidTransform, SoftplusTransform, TransformedDistribution

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
    check_spec,
    generate,
    state_spec,
    truncated,
)
from contextual_rnn.diagnostics import diagnose, diagnose_state
from contextual_rnn.serialization import load_carried_state, load_state, save_carried_state, save_state

B, T, H = 6, 5, 4


class Reservoirs(nn.Module):
    """Water that is stored, v > 0, an open gate, 0 < p < 1, a real h and a counter; of v < 0 it makes NaN."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.w, self.gate = nn.Linear(3, H), nn.Linear(H, H)

    def forward(self, x, state):
        v, p, h, count = (state[name] for name in ("v", "p", "h", "count"))
        outputs = []
        for inputs in x.unbind(1):
            h = torch.tanh(self.w(inputs) + 0.5 * h + v.log())
            p = torch.sigmoid(self.gate(h) + torch.logit(p))
            v = 0.9 * v * (1 - 0.5 * p) + 0.3 * h.square()
            outputs.append(h + v.sqrt())
        return torch.stack(outputs, 1), {"v": v, "p": p, "h": h, "count": count + x.shape[1]}


def spec_of(positive_start=1.5, **domains):
    of = {"v": "positive", "p": "unit_interval", **domains}
    leaves = [
        Leaf("v", (H,), start=positive_start, domain=of["v"]),
        Leaf("p", (H,), start=0.25, domain=of["p"]),
        Leaf("h", (H,)),
        Leaf("count", (1,), dtype=torch.int64, start=7),
    ]
    return StateSpec({leaf.name: leaf for leaf in leaves}, time_dim=1)


state_spec.register(Reservoirs, lambda network: spec_of())


def net(factor=1.0):
    """A context network whose features are of any size: states are pushed far."""
    network = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6))
    with torch.no_grad():
        network[2].weight.mul_(factor)
    return network


def inside(spec):
    return spec.pack({"v": 0.1 + torch.rand(H), "p": 0.1 + 0.8 * torch.rand(H), "h": torch.randn(H),
                      "count": torch.tensor([3])})  # fmt: skip


STATES = {
    "constant": lambda spec: ConstantState(spec, inside(spec)),
    "free": lambda spec: FreeState(spec, noise=3.0, value=inside(spec)),
    "free, noise of the error": lambda spec: FreeState(spec, noise=3.0, error_decay=0.9),
    "context": lambda spec: ContextState(spec, net(20.0)),
    "context, activation": lambda spec: ContextState(spec, net(20.0), activation=torch.sin),
    "normal": lambda spec: NormalState(spec, net(20.0), 5.0),
    "normal, sigma of the context": lambda spec: NormalState(spec, net(20.0), 5.0, scale_from_context=True),
    "normal around free": lambda spec: NormalState(spec, FreeState(spec, value=inside(spec)), 3.0),
    "latent": lambda spec: LatentState(spec, net(20.0), 3, scale=3.0),
    "dropped": lambda spec: ContextDropout(NormalState(spec, net(20.0), 2.0), 0.5, guidance=7.0),
    "latent, dropped": lambda spec: ContextDropout(LatentState(spec, net(20.0), 3), 0.5),
    "sum": lambda spec: SumState([ContextState(spec, net(20.0)), FreeState(spec), ConstantState(spec)], [3, -5, 1]),
    "one a leaf": lambda spec: LeafwiseState(
        spec, v=NormalState(spec["v"], net(20.0), 4.0), p=FreeState(spec["p"], noise=9.0), h=ConstantState(spec["h"]),
        count=ConstantState(spec["count"], 3),
    ),
}  # fmt: skip
NOISY = {"normal", "normal, sigma of the context", "normal around free", "one a leaf"}


@pytest.fixture(params=STATES)
def kind(request):
    return request.param


def build(kind, spec=None):
    torch.manual_seed(1)
    return STATES[kind](spec_of() if spec is None else spec)


def assert_inside(state):
    v, p = state["v"], state["p"]
    assert bool((v >= 0).all() and (p >= 0).all() and (p <= 1).all())
    assert all(tensor.isfinite().all() for tensor in tensors_of(state))
    assert state["count"].dtype == torch.int64
    assert bool((state["count"] == state["count"].flatten()[0]).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_states_are_inside_however_far_they_are_drawn_or_guided(kind, dtype):
    state = build(kind).to(dtype)
    context = torch.randn(300, 2, dtype=dtype)
    for training in (True, False):
        state.train(training)
        for made in (state(context, 300), state.sample(context, 2, batch_size=300)):
            assert_inside(made)
            assert {tensor.dtype for tensor in tensors_of(made)} == {dtype, torch.int64}
        if state.reads_context or "free" in kind:
            made = state.sample(context, 2, batch_size=300)
            assert bool((made["v"] < 0.7).any() and (made["v"] > 0.7).any()), "not moved at all"
    one = state(context[0], batched=False)
    assert one["v"].shape == (H,)
    assert_inside(one)


def test_every_kind_of_state_is_in_the_list():
    kinds = {type(build(kind)) for kind in STATES}
    spec = state_spec(nn.GRU(3, 4))
    ours = {type(make(spec)) for make in OF_EVERY_NETWORK.values()}
    assert {kind.__name__ for kind in ours - kinds} == {"OwnState"}  # in a test of its own below


def test_gradients_reach_every_parameter_and_are_the_derivatives(kind):
    state = build(kind).double().eval()
    parameters = [p for p in state.parameters() if p.requires_grad]
    if not parameters:
        return
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:  # smaller, so that a step is no kink of rounding
            parameter.mul_(0.1)
    context, weights = torch.randn(8, 2).double(), torch.randn(3, 8, H).double()
    directions = [torch.randn_like(p) for p in parameters]

    def loss():
        made = state(context, 8)
        return sum((made[name] * weight).sum() for name, weight in zip(("v", "p", "h"), weights, strict=True))

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(sign * 1e-6 * direction)
            values.append(loss().item())
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(sign * 1e-6 * direction)
    assert abs((values[0] - values[1]) / 2e-6 - slope) < 1e-6 * max(1.0, abs(slope))


START = {
    "constant": ConstantState,
    "free": FreeState,
    "context": lambda spec: ContextState(spec, nn.Linear(2, 6), zero_init=True),
    "normal": lambda spec: NormalState(spec, nn.Linear(2, 6), zero_init=True),
    "null": lambda spec: ContextDropout(ContextState(spec, nn.Linear(2, 6)), 1.0),
    "sum": lambda spec: SumState([FreeState(spec), ConstantState(spec)], [0.3, 0.7]),
    "one a leaf": lambda spec: LeafwiseState(spec, **{leaf.name: FreeState(spec[leaf.name]) for leaf in spec}),
}


@pytest.mark.parametrize("name", START)
def test_the_start_is_the_networks_own(name):
    state = START[name](spec_of()).train(name == "null")
    for again in (False, True):
        if again:
            state.to_empty(device="cpu")
            for module in state.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        made = state(torch.randn(3, 2), 3)
        # Rounded twice: into the real number that stands for it, and back.
        torch.testing.assert_close(made["v"], torch.full((3, H), 1.5), rtol=3e-7, atol=0)
        torch.testing.assert_close(made["p"], torch.full((3, H), 0.25), rtol=3e-7, atol=0)
        assert torch.equal(made["h"], torch.zeros(3, H))
        assert made["count"].tolist() == [[7]] * 3


def test_a_limit_is_a_constants_start_to_the_bit_and_no_learned_ones():
    spec = spec_of(0.0)
    made = ConstantState(spec)(batch_size=3)
    assert torch.equal(made["v"], torch.zeros(3, H))
    given = inside(spec)
    sums = SumState([ConstantState(spec), FreeState(spec, value=given)], [0.0, 1.0])(batch_size=3)
    torch.testing.assert_close(sums["v"], given["v"].expand(3, H))
    words = "expected leaf 'v' of positive numbers, which learned numbers can reach, got 0 to 0"
    with pytest.raises(ValueError, match=f"^value: {words}"):
        FreeState(spec)
    with pytest.raises(ValueError, match=f"^zero_init: {words}"):
        ContextState(spec, nn.Linear(2, 6), zero_init=True)
    assert_inside(ContextState(spec, nn.Linear(2, 6))(torch.randn(3, 2)))


def test_densities_are_those_of_the_leaf():
    spec = spec_of()
    state = NormalState(spec, net(), 0.7).double()
    context = torch.randn(B, 2).double()
    posterior = state.posterior(context)
    drawn = posterior.sample(3)
    expected = torch.zeros(3 * B).double()
    for name, transform in (("v", SoftplusTransform()), ("p", SigmoidTransform()), ("h", [])):
        normal = posterior.distribution[name]
        repeated = Normal(normal.loc.repeat_interleave(3, 0), normal.scale.repeat_interleave(3, 0))
        of_leaf = TransformedDistribution(repeated, transform)
        expected += of_leaf.log_prob(drawn[name]).sum(1)
    torch.testing.assert_close(posterior.log_prob(drawn), expected, rtol=1e-9, atol=1e-9)
    draws = state.posterior(context).sample(20000, torch.Generator().manual_seed(0))
    kl = posterior.kl((0.3, 1.2))
    terms = (posterior.log_prob(draws) - posterior.log_prior(draws, (0.3, 1.2))).view(B, -1)
    error = terms.std(1) / terms.shape[1] ** 0.5
    assert bool(((terms.mean(1) - kl).abs() < 5 * error).all())
    assert bool((error < 0.1 * kl).all()), "too few draws to tell"


def test_the_density_of_a_positive_leaf_integrates_to_one():
    spec = StateSpec(Leaf("v", (1,), domain="positive", start=1.0))
    state = NormalState(spec, nn.Linear(2, 3), 0.8).double()
    context = torch.randn(1, 2).double()
    points = torch.linspace(1e-4, 40.0, 400_001).double()
    density = state.posterior(context).log_prob(points[:, None]).exp()
    assert abs(torch.trapezoid(density, points).item() - 1.0) < 1e-3


def test_copies_checkpoints_and_files(kind, tmp_path):
    state, context = build(kind).eval(), torch.randn(B, 2)
    torch.manual_seed(5)
    other = STATES[kind](spec_of()).eval()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(0.9)
    save_state(state, tmp_path / "state.safetensors")
    third = copy.deepcopy(other)
    load_state(third, tmp_path / "state.safetensors")
    other.load_state_dict(state.state_dict())
    for copied in (copy.deepcopy(state), other, third):
        assert all(map(torch.equal, tensors_of(copied(context, B)), tensors_of(state(context, B))))


def test_a_file_for_another_domain_is_refused(tmp_path):
    save_state(FreeState(spec_of()), tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match=r"^path: expected a state for .*v B 4\".*got one for .*v B 4 in:positive"):
        load_state(FreeState(spec_of(v=None)), tmp_path / "state.safetensors")
    network = Reservoirs()
    end = ContextualRNN(network, FreeState(network))(torch.randn(2, T, 3))[1]
    save_carried_state(end, tmp_path / "carried.safetensors", network)
    loaded = load_carried_state(tmp_path / "carried.safetensors", network)
    assert all(map(torch.equal, tensors_of(loaded), tensors_of(end)))
    with pytest.raises(ValueError, match=r"^state: expected leaf 'p' of numbers between 0 and 1, got .*"):
        save_carried_state({**end, "p": end["p"] + 1}, tmp_path / "carried.safetensors", network)
    with_first_number(tmp_path / "carried.safetensors", "p", 1.5)
    with pytest.raises(ValueError, match=r"^path: expected leaf 'p' of numbers between 0 and 1, got .* in .*carried"):
        load_carried_state(tmp_path / "carried.safetensors", network)


def test_states_combine_only_with_the_same_domain():
    words = r"v of shape \(batch, 4\) or \(4,\) without a batch, positive"
    for refused in (
        lambda: SumState([FreeState(spec_of()), FreeState(spec_of(v=None))], [1.0, 1.0]),
        lambda: ContextDropout(FreeState(spec_of()), null=FreeState(spec_of(v=None))),
        lambda: NormalState(spec_of(), FreeState(spec_of(v=None))),
        lambda: ContextualRNN(Reservoirs(), FreeState(spec_of(v=None))),
    ):
        with pytest.raises(ValueError, match=words):
            refused()


def test_sums_and_guidance_are_of_the_real_numbers():
    spec = spec_of()
    first, second = FreeState(spec, value=inside(spec)), FreeState(spec, value=inside(spec))
    real = [SoftplusTransform().inv(state(batch_size=1)["v"]) for state in (first, second)]
    made = SumState([first, second], [0.3, 0.7])(batch_size=1)["v"]
    torch.testing.assert_close(made, nn.functional.softplus(0.3 * real[0] + 0.7 * real[1]))
    folded = FreeState(spec, value=SumState([first, second], [0.3, 0.7]).eval()())
    torch.testing.assert_close(folded(batch_size=1)["v"], made)


def test_an_own_state_gives_moments_of_the_real_numbers():
    from tests.own_states import OwnState

    state = OwnState(spec_of()).eval()
    context = torch.randn(B, 2)
    made = state(context)
    assert_inside(state.train()(100 * context))
    torch.testing.assert_close(made["v"], nn.functional.softplus(state.heads["v"](context)))
    torch.testing.assert_close(made["h"], state.heads["h"](context))
    assert made["count"].tolist() == [[7]] * B


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["constant", "free", "context", "normal", "dropped", "sum", "one a leaf"])
def test_compiles_whole(kind, training):
    torch._dynamo.reset()
    state = build(kind).train(training)
    compiled = torch.compile(state, fullgraph=True, backend="eager")
    context = torch.randn(B, 2)

    def draw(function):
        torch.manual_seed(0)
        return tensors_of(function(context, B))

    assert all(map(torch.equal, draw(compiled), draw(state)))


def model_of():
    network = Reservoirs().double()
    return ContextualRNN(network, ContextState(network, net().double()).double())


def test_a_model_with_lengths_pieces_resets_and_generation():
    model, x, context = model_of(), torch.randn(B, T, 3).double(), torch.randn(B, 2).double()
    check_spec(model.network, x)
    lengths, reset = torch.tensor([5, 1, 3, 2, 5, 4]), torch.zeros(B, T, dtype=torch.bool)
    reset[0, 2] = True
    output, end = model(x, context=context, lengths=lengths, reset=reset)
    assert bool((end["v"] > 0).all())
    assert end["count"].tolist() == [[10], [8], [10], [9], [12], [11]]
    for row, length in enumerate(lengths.tolist()):
        start = 2 if row == 0 else 0
        alone, state = model(x[row : row + 1, start:length], context=context[row : row + 1])
        torch.testing.assert_close(output[row : row + 1, start:length], alone)
        torch.testing.assert_close(end["v"][row : row + 1], state["v"])
    pieces = [piece for _, piece, _ in truncated(model, x, 2, context=context, lengths=lengths, reset=reset)]
    torch.testing.assert_close(torch.cat(pieces, 1), output)
    values = generate(model, lambda output, value: output[:, :3], x[:, 0], context=context, num_steps=4)
    assert values.isfinite().all()


def test_diagnosed():
    model, x, context = model_of(), torch.randn(B, T, 3).double(), torch.randn(B, 2).double()
    found = diagnose(model, lambda: model(x, context=context)[0].square().mean(2), permutations=2)
    start = ConstantState(model.network)(batch_size=B)
    wanted = model(x, start)[0].square().mean((0, 2))
    torch.testing.assert_close(found.losses["zeroed"], wanted.detach())
    assert not found.not_finite
    assert set(found.influence.leaves) == {"v", "p", "h"}


def test_a_state_outside_is_refused_by_name():
    model, x = model_of(), torch.randn(B, T, 3).double()
    end = model(x, context=torch.randn(B, 2).double())[1]
    model(x, {**end, "v": torch.zeros_like(end["v"])})  # a limit may be reached by rounding
    for name, wrong, words in (
        ("v", -end["v"], r"of positive numbers, got -\d\S* to -\d\S*"),
        ("v", end["v"] * torch.nan, "of positive numbers, got nan to nan"),
        ("p", end["p"] + 0.9, r"of numbers between 0 and 1, got \S+ to 1\.\d+"),
    ):
        for refused in (
            lambda given: model(x, given),
            lambda given: model(x, given, lengths=torch.full((B,), 2)),
            lambda given: model.stream(hx=given),
        ):
            with pytest.raises(ValueError, match=f"^hx: expected leaf '{name}' {words}"):
                refused({**end, name: wrong})
    with pytest.raises(ValueError, match=r"^state: expected leaf 'v' of positive numbers"):
        diagnose_state(lambda state: model(x, state)[0].mean(2), {**end, "v": -end["v"]}, model.network)
    spec = spec_of()
    outside = {**inside(spec), "v": -torch.ones(H)}
    for kind in (ConstantState, lambda spec, value: FreeState(spec, value=value)):
        for value in (outside, -1.0):
            with pytest.raises(ValueError, match=r"^value: expected leaf 'v' of positive numbers"):
                kind(spec, value)
    with pytest.raises(ValueError, match=r"^state: expected leaf 'v' of positive numbers"):
        NormalState(spec, net()).log_prob({name: leaf[None] for name, leaf in outside.items()}, torch.randn(1, 2))


REFUSED = [
    (lambda: Leaf("v", (3,), domain="negative"), "domain: expected None or one of positive, unit_interval, got 'negat"),
    (lambda: Leaf("v", (3,), domain=["positive"]), r"domain: expected None or one of .*, got \['positive'\]"),
    (lambda: Leaf("v", (3,), domain="positive", factor=True), "domain: expected None for a factor, got 'positive'"),
    (lambda: Leaf("v", (3,), domain="positive", dtype=torch.int64), "domain: expected None for a leaf of torch.int64"),
    (lambda: Leaf("v", (3,), domain="positive", dtype=torch.complex64), "domain: expected None for a leaf of torch.co"),
    (lambda: Leaf("v", (3,), domain="positive", start=-1), "start: expected one of the positive numbers of domain 'po"),
    (lambda: Leaf("v", (3,), domain="unit_interval", start=2), "start: expected one of the numbers between 0 and 1 of"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
