"""One contract for every initial state over every network; then what each state adds."""

import copy

import pytest
import torch
from tests.networks import SPECS, make, make_input, tensors_of
from tests.own_states import OwnState
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    FreeState,
    LatentState,
    LeafwiseState,
    NormalState,
    state_spec,
)

B = 4


def net(dtype=torch.float32):
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh()).to(dtype)


def value(spec):
    """A random state of one example: no two units alike."""
    return spec.pack({leaf.name: torch.randn(leaf.shape) for leaf in spec})


STATES = {
    "constant": lambda spec: ConstantState(spec, value(spec)),
    "free": lambda spec: FreeState(spec, noise=0.1, value=value(spec)),
    "context": lambda spec: ContextState(spec, net(spec.dtype)),
    "context squashed": lambda spec: ContextState(spec, net(spec.dtype), activation=torch.tanh),
    "normal": lambda spec: NormalState(spec, net(spec.dtype)),
    "normal, sigma of the context": lambda spec: NormalState(spec, net(spec.dtype), scale_from_context=True),
    "normal around free": lambda spec: NormalState(spec, FreeState(spec, value=value(spec))),
    "normal latent": lambda spec: LatentState(spec, net(spec.dtype), 4, scale=0.2),
    "normal, at times dropped": lambda spec: ContextDropout(
        NormalState(spec, net(spec.dtype)), 0.5, null=NormalState(spec, FreeState(spec, value=value(spec)))
    ),
    "one a leaf": lambda spec: LeafwiseState(
        spec,
        **{
            leaf.name: NormalState(spec[leaf.name], net(spec.dtype))
            if index == 0
            else FreeState(spec[leaf.name], value=value(spec[leaf.name]))
            for index, leaf in enumerate(spec)
        },
    ),
    "a user's own, normal": OwnState,
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
    rows = 32  # so many that some contexts are dropped and some are not
    output = network(make_input(network, rows), state(torch.randn(rows, 2), rows))
    # The final state counts: c of an LSTM, and the last layer backwards, reach the outputs late or not at all.
    sum(tensor.square().sum() for tensor in tensors_of(output)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in state.parameters())


def test_copies_and_checkpoints_give_the_same_state(kind, case):
    _, spec, state = build(kind, case)
    context = torch.randn(B, 2)
    state.eval()
    fresh = STATES[kind](spec).eval()
    assert not all(map(torch.equal, tensors_of(fresh(context, B)), tensors_of(state(context, B))))
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


def test_a_generator_gives_the_same_draws_in_every_way(kind, case):
    _, _, state = build(kind, case)
    context = torch.randn(B, 2)

    def of_posterior(draw):
        def call(generator):
            return draw(state.posterior(context, B, generator=generator), generator)

        return call

    ways = [lambda generator: state(context, B, generator=generator, rows=torch.arange(B))]
    if kind != "normal, at times dropped":  # it says that it draws in another order, and that samples are never dropped
        ways.append(lambda generator: state(context, B, generator=generator, num_samples=1))
        ways.append(lambda generator: state.sample(context, 1, batch_size=B, generator=generator))
        if kind in ("free", "one a leaf") or "normal" in kind:
            ways.append(of_posterior(lambda posterior, generator: posterior.rsample(generator)))
            ways.append(of_posterior(lambda posterior, generator: posterior.sample(1, generator)))
    expected = tensors_of(state(context, B, generator=torch.Generator().manual_seed(1)))
    for draw in ways:
        torch.testing.assert_close(tensors_of(draw(torch.Generator().manual_seed(1))), expected)


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


def test_no_draw_is_used_twice(kind, case):
    _, spec, state = build(kind, case, torch.float64)
    context = torch.randn(2, dtype=torch.float64)
    drawn, means = spec.unpack(state.train()(context, B)), spec.unpack(state.eval()(context, B))
    noise = torch.cat([(drawn[leaf.name] - means[leaf.name]).flatten() for leaf in spec])
    noise = noise[noise != 0]
    assert noise.unique().numel() == noise.numel()
    expected = 0 if kind in ("constant", "context", "context squashed") else B * next(iter(spec)).numel
    assert noise.numel() >= expected
    assert bool(noise.numel()) == bool(expected)


def test_shapes_and_device_on_meta(kind, case):
    _, spec, state = build(kind, case)
    expected = tensors_of(state(torch.randn(B, 2), B))
    on_meta = STATES[kind](spec.like(torch.empty(0, device="meta"))).to("meta")
    found = tensors_of(on_meta(torch.randn(B, 2, device="meta"), B))
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    assert all(tensor.is_meta for tensor in found)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_that_overwrites_its_state_leaves_the_initial_state_alone(kind, case, training):
    _, _, state = build(kind, case)
    state.train(training)
    context = torch.randn(2)
    before = copy.deepcopy(state.state_dict())
    for make_state in (
        lambda: state(context, 1),
        lambda: state(context, batched=False),
        lambda: state.sample(context),
        lambda: state.sample(context, batch_size=1),
    ):
        with torch.no_grad():
            for tensor in tensors_of(make_state()):
                tensor.add_(1)
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.state_dict().items())


def test_an_empty_batch_has_an_empty_state(kind, case):
    network, spec, state = build(kind, case)
    hx = state(torch.randn(0, 2), 0)
    assert [leaf.shape for leaf in spec.unpack(hx).values()] == [(0, *leaf.shape) for leaf in spec]
    expected = network(x := make_input(network, 0))
    assert [tensor.shape for tensor in tensors_of(network(x, hx))] == [tensor.shape for tensor in tensors_of(expected)]


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
    given = tuple(leaf.clone() for leaf in value)
    states = ConstantState(lstm, given), FreeState(lstm, value=given)
    for leaf in given:
        leaf.zero_()  # what was given is the caller's, and copied
    for state in states:
        h, c = state(batch_size=3)
        for row in range(3):
            assert torch.equal(h[:, row], value[0])
            assert torch.equal(c[:, row], value[1])
    assert not list(ConstantState(lstm, value).parameters())


@pytest.mark.parametrize("kind", ["constant", "free"])
@pytest.mark.parametrize(
    "context", [torch.zeros(B, 2), {"size": (torch.zeros(B), "a name")}, [None, torch.zeros(B, 1)]]
)
def test_states_that_read_no_context_take_its_batch_size(kind, context):
    _, _, state = build(kind, "lstm deep both ways")
    assert [tensor.shape for tensor in state(context)] == [(6, B, 5), (6, B, 5)]
    assert [tensor.shape for tensor in state(context, 7)] == [(6, 7, 5), (6, 7, 5)]
    assert [tensor.shape for tensor in state(context, batched=False)] == [(6, 5), (6, 5)]


# As they stand in saved files: a change here breaks every checkpoint there is.
NAMES = {
    "constant": "value_h value_c",
    "free": "values.h values.c saved_noise",
    "context": "net.0.weight net.0.bias heads.layers.h.weight heads.layers.h.bias heads.layers.c.weight "
    "heads.layers.c.bias",
    "normal": "mean.net.0.weight mean.net.0.bias mean.heads.layers.h.weight mean.heads.layers.h.bias "
    "mean.heads.layers.c.weight mean.heads.layers.c.bias raw_scale.h raw_scale.c saved_min_scale",
    "one a leaf": "states.h.mean.net.0.weight states.h.mean.net.0.bias states.h.mean.heads.layers.h.weight "
    "states.h.mean.heads.layers.h.bias states.h.raw_scale.h states.c.values.c "
    "states.h.saved_min_scale states.c.saved_noise",
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_in_checkpoints_stay(kind):
    assert set(build(kind, "lstm")[2].state_dict()) == set(NAMES[kind].split())


def test_noise_of_a_free_state_is_gaussian_and_of_the_given_size():
    state = FreeState(nn.GRUCell(3, 100), noise=0.3, value=2.0)
    h = state(batch_size=1000, generator=torch.Generator().manual_seed(0)).detach()
    # 100,000 draws: standard errors 0.3 / 316 of the mean and 0.3 / 447 of the deviation; five of each.
    assert abs(h.mean() - 2.0) < 0.005
    assert abs(h.std() - 0.3) < 0.0035
    assert abs(((h - 2).abs() < 0.3).float().mean() - 0.6827) < 0.0075


@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(kind, training):
    torch._dynamo.reset()
    _, _, state = build(kind, "lstm deep both ways")
    state.train(training)
    compiled = torch.compile(state, fullgraph=True, backend="eager")
    context = torch.randn(B, 2)

    def draw(function):
        torch.manual_seed(0)
        return tensors_of(function(context, B))

    assert all(map(torch.equal, draw(compiled), draw(state)))


def test_state_spec_is_taken_in_place_of_a_network():
    spec = state_spec(nn.LSTM(3, 5))
    assert [tensor.shape for tensor in FreeState(spec)(batch_size=2)] == [(1, 2, 5), (1, 2, 5)]
