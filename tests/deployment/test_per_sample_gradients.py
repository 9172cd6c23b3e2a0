"""Gradients row by row, as differential privacy clips them: those of each row run alone."""

import copy

import pytest
import torch
from tests.networks import tensors_of
from torch import nn
from torch.func import functional_call, grad, vmap

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    Leaf,
    LeafwiseState,
    NormalState,
    StateSpec,
    SumState,
    state_spec,
)

B, T, H = 4, 5, 3


class Leaky(nn.Module):
    """A cell that every tool can follow: two leaves of different shape and dtype, a counter, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 + H, H)

    def forward(self, x, state):
        h, m, count = state
        h = torch.tanh(self.linear(torch.cat([x, h], -1)) + m.sum(1).to(h.dtype))
        return h, (h, 0.9 * m + h[:, None].to(m.dtype), count + 1)


@state_spec.register
def _(network: Leaky) -> StateSpec:
    wide, count = Leaf("m", (2, H), dtype=torch.float64), Leaf("count", (1,), dtype=torch.int64)
    return StateSpec((Leaf("h", (H,)), wide, count), input_ndim=2).like(network.linear.weight)


def value(spec):
    """A random state of one example: no two units alike."""
    leaves = {leaf.name: torch.randn(leaf.shape) for leaf in spec.floats}
    return spec.pack(leaves | {leaf.name: torch.ones(leaf.shape, dtype=leaf.dtype) for leaf in spec.constants})


STATES = {
    "free": lambda spec: FreeState(spec, value=value(spec)),
    "free with noise": lambda spec: FreeState(spec, noise=0.5, value=value(spec)),
    "context": lambda spec: ContextState(spec, nn.Linear(2, 3)),
    "normal": lambda spec: NormalState(spec, nn.Linear(2, 3)),
    "normal, sigma of the context": lambda spec: NormalState(spec, nn.Linear(2, 3), scale_from_context=True),
    "normal around free": lambda spec: NormalState(spec, FreeState(spec, value=value(spec))),
    "sum": lambda spec: SumState([FreeState(spec, value=value(spec)), ContextState(spec, nn.Linear(2, 3))], [0.3, 0.7]),
    "one a leaf": lambda spec: LeafwiseState(
        spec, **{leaf.name: FreeState(spec[leaf.name], value=value(spec[leaf.name])) for leaf in spec}
    ),
    "always dropped": lambda spec: ContextDropout(
        ContextState(spec, nn.Linear(2, 3)), 1.0, null=FreeState(spec, value=value(spec))
    ),
    "constant": lambda spec: ConstantState(spec, value(spec)),
}


def build(network, kind):
    torch.manual_seed(0)
    return ContextualRNN(network, STATES[kind](state_spec(network)))


@pytest.fixture(autouse=True)
def same_draws(monkeypatch):
    """Noise that a row gets alone and in a batch."""

    def draws(shape, *, generator=None, **options):
        count = torch.Size(shape[1:]).numel()
        return torch.linspace(-1.5, 1, count, **options).square().view(shape[1:]).expand(shape)

    monkeypatch.setattr("contextual_rnn.states.moments.torch.randn", draws)


def loss_of(model, result):
    """Cotangents on the outputs and on the final state, the same for every row, no two units alike."""
    output, state = result
    total = 0.0
    for number, rows in enumerate([output, *state_spec(model).check(state).values()]):
        if rows.is_floating_point():
            cotangent = torch.linspace(-1, 2 + number, rows[0].numel(), dtype=rows.dtype).cos().view(rows.shape[1:])
            total = total + (rows * cotangent).sum().float()
    return total


def assert_same(found, expected):
    """To the rounding of float32, through which the gradients of the leaf of float64 go too."""
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6)


def rows_alone(model, x, context):
    gradients = []
    for row in range(B):
        loss = loss_of(model, model(x[row : row + 1], context=context[row : row + 1]))
        parameters = list(model.parameters())
        gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
    names = [name for name, _ in model.named_parameters()]
    return {name: torch.stack(rows) for name, rows in zip(names, zip(*gradients, strict=True), strict=True)}


def inputs(model):
    x = torch.empty(B, 2) if isinstance(model.network, Leaky) else torch.empty(B, T, 2)
    return x.normal_(), torch.empty(B, 2).normal_()


@pytest.mark.parametrize("kind", STATES)
def test_vmap_of_grad_over_rows(kind):
    model = build(Leaky(), kind)
    x, context = inputs(model)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, context):
        return loss_of(model, functional_call(model, parameters, (x[None],), {"context": context[None]}))

    options = {"randomness": "different"} if kind == "always dropped" else {}
    found, expected = (
        vmap(grad(loss), in_dims=(None, 0, 0), **options)(parameters, x, context),
        rows_alone(model, x, context),
    )
    for name, gradient in expected.items():
        assert_same(found[name], gradient)


def hooked(model):
    """For each module with parameters what its hooks see: its input and the gradient of its output."""
    seen = {}

    def after(module, args, output):
        assert isinstance(output, torch.Tensor)
        (rows,) = args
        output.register_hook(lambda gradient: seen.setdefault(module, []).append((rows.detach(), gradient)))

    for module in model.modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_hook(after)
    return seen


@pytest.mark.parametrize("kind", ["free", "free with noise", "normal", "normal around free", "one a leaf", "sum"])
def test_hooks_of_a_module_see_all_that_its_parameters_do(kind):
    """What Opacus does, in short: a module's gradient row by row, of its input and the gradient of its output alone."""
    model = build(Leaky(), kind)
    x, context = inputs(model)
    expected, seen = rows_alone(model, x, context), hooked(model)
    loss_of(model, model(x, context=context)).backward()
    names = {parameter: name for name, parameter in model.named_parameters()}
    compared = []
    for module, ((rows, gradients),) in seen.items():
        own = {name: p.detach() for name, p in module.named_parameters(recurse=False)}

        def product(own, row, gradient, module=module):
            return (functional_call(module, own, (row[None],)) * gradient[None]).sum()

        found = vmap(grad(product), in_dims=(None, 0, 0))(own, rows, gradients)
        for name, parameter in module.named_parameters(recurse=False):
            assert_same(found[name], expected[names[parameter]])
            compared.append(names[parameter])
    assert sorted(compared) == sorted(expected)


@pytest.mark.parametrize("kind", STATES)
def test_hooked_states_have_the_numbers_of_others(kind):
    model = build(Leaky(), kind)
    twin = copy.deepcopy(model)
    x, context = inputs(model)
    hooked(model)
    results = [m(x, context=context) for m in (model, twin)]
    for found, expected in zip(*map(tensors_of, results), strict=True):
        assert torch.equal(found, expected)
    for result in results:
        loss_of(model, result).backward()
    for found, expected in zip(model.parameters(), twin.parameters(), strict=True):
        assert (found.grad is None) == (expected.grad is None)
        if found.grad is not None:
            assert_same(found.grad, expected.grad)
    for batch in ({"batch_size": 0}, {"batched": False}, {"batch_size": 1}):
        state = model.initial_state
        if not state.reads_context:
            assert all(map(torch.equal, tensors_of(state(**batch)), tensors_of(twin.initial_state(**batch))))


def opacus_networks():
    # Not installed for the tests: its wheel brings packages named benchmarks and examples, which hide ours.
    layers = pytest.importorskip(
        "opacus.layers", reason="Opacus is not installed; test_hooks_of_a_module does as it does"
    )
    for kind in (layers.DPGRU, layers.DPLSTM):

        @state_spec.register
        def _(network: kind) -> StateSpec:  # pyright: ignore[reportInvalidTypeForm]
            names = "hc" if isinstance(network, layers.DPLSTM) else "h"
            leaves = [Leaf(name, (network.num_layers, network.hidden_size), batch_dim=1) for name in names]
            tree = tuple(leaves) if len(leaves) > 1 else leaves[0]
            return StateSpec(tree, input_ndim=3).like(next(network.parameters()))

    return {
        "gru": lambda: layers.DPGRU(2, H, num_layers=2, batch_first=True),
        "lstm": lambda: layers.DPLSTM(2, H, batch_first=True),
        "cell": Leaky,
    }


@pytest.mark.filterwarnings(
    "ignore:Full backward hook is firing"
)  # of modules whose input takes no gradient, ours or not
@pytest.mark.parametrize("network", ["gru", "lstm", "cell"])
@pytest.mark.parametrize("kind", STATES)
def test_opacus(network, kind):
    make = opacus_networks()[network]
    from opacus import GradSampleModule

    model = build(make(), kind)
    x, context = inputs(model)
    expected = rows_alone(model, x, context)
    wrapped = GradSampleModule(model, loss_reduction="sum")
    loss_of(model, wrapped(x, context=context)).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad_sample is None:  # what took no part
            assert not expected[name].any()
        else:
            torch.testing.assert_close(parameter.grad_sample, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # Opacus' own, of its secure generator and of its hooks
def test_a_private_optimizer_trains_a_free_state():
    opacus_networks()
    from opacus import PrivacyEngine

    model = build(Leaky(), "free")
    x, context = torch.empty(16, 2).normal_(), torch.zeros(16, 2)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, context), batch_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    private, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        data_loader=data,
        noise_multiplier=0.5,
        max_grad_norm=1.0,
        poisson_sampling=False,
    )
    for rows, contexts in loader:
        optimizer.zero_grad()
        private(rows, context=contexts)[0].square().sum(1).mean().backward()
        optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
