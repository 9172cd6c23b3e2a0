"""No hand-written derivative leaves out a term of a second one: it is that of the reference, or refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from contextual_rnn import ConstantState, ContextualRNN, FastWeightsRNN, sequence_cross_entropy
from contextual_rnn.ops._gated import cpu

native = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
TOKENS, TARGETS = torch.arange(54).view(6, 9) % 10, torch.arange(6) % 4


def by_fast_weights(backend, dtype=torch.float64, **options):
    network = FastWeightsRNN(3, 12, batch_first=True, dtype=dtype, backend=backend, **options)
    return network, lambda x: network(x)[0].square().sum(), torch.randn(6, 9, 3, dtype=dtype)


def by_gated(backend):
    network = nn.LSTM(3, 12, batch_first=True, dtype=torch.float64)
    model = ContextualRNN(network, ConstantState(network), backend)
    lengths = torch.tensor([9, 5, 1, 3, 0, 9])
    return network, lambda x: model(x, lengths=lengths)[0].square().sum(), torch.randn(6, 9, 3).double()


def by_loss(in_one_call):
    embedding, network = nn.Embedding(10, 3), FastWeightsRNN(3, 12, batch_first=True)
    hidden, readout = nn.Linear(12, 7), nn.Linear(7, 4)
    modules = nn.ModuleList([embedding, network, hidden, readout]).double()

    def separately(h0):
        network.backend = "reference"
        last = network(embedding(TOKENS), h0)[0][:, -1]
        return functional.cross_entropy(readout(torch.relu(hidden(last))), TARGETS)

    loss = (lambda h0: sequence_cross_entropy(TOKENS, TARGETS, *modules, h0)) if in_one_call else separately
    return modules, loss, torch.randn(6, 12).double()


PAIRS = {
    "attention": (lambda: by_fast_weights("attention"), lambda: by_fast_weights("reference")),
    "attention, which writes first": (
        lambda: by_fast_weights("attention", timing="wenke2019"),
        lambda: by_fast_weights("reference", timing="wenke2019"),
    ),
    "low precision": (lambda: by_fast_weights("auto", torch.bfloat16), lambda: by_fast_weights("reference")),
    "fast weights": (lambda: by_fast_weights("cpu"), lambda: by_fast_weights("reference")),
    "gated": (lambda: by_gated("native"), lambda: by_gated("reference")),
    "loss": (lambda: by_loss(True), lambda: by_loss(False)),
}


def drawn(make):
    """What `make` makes, with the same random numbers each time."""
    torch.manual_seed(0)
    network, function, x = make()
    for number, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    return network, function, x


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if "attention" in n else native) for n in PAIRS])
def test_by_the_incoming_gradient(name, frozen):
    """`autograd.functional.jvp` differentiates a backward pass by its cotangent."""
    outcomes = []
    for make in PAIRS[name]:
        network, function, x = drawn(make)
        network.requires_grad_(not frozen)
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(99)).to(x)
        try:
            outcomes.append(torch.autograd.functional.jvp(function, x, v)[1])
        except RuntimeError as error:
            assert "differentiated once, not twice" in str(error)  # noqa: PT017
            outcomes.append(None)
    ours, exact = outcomes
    assert exact is not None
    assert exact.abs() > 1e-3
    if ours is not None:
        torch.testing.assert_close(ours.to(exact), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    "name",
    ["attention", "attention, which writes first", *(pytest.param(n, marks=native) for n in ("fast weights", "gated"))],
)
def test_a_batch_of_incoming_gradients(name, again):
    """`is_grads_batched=True`, as `autograd.functional.jacobian(vectorize=True)` has it."""
    outcomes = []
    for make in PAIRS[name]:
        network, function, x = drawn(make)
        leaves = [x.requires_grad_(), *network.parameters()]
        cotangents = torch.tensor([1.0, -2.0, 0.0], dtype=x.dtype)
        options = {"is_grads_batched": True, "create_graph": again}
        outcomes.append(torch.autograd.grad(function(x), leaves, cotangents, **options))
    for ours, exact in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


def carried(function, x):
    """The gradient's derivative along a vector, as torch.func.hessian computes it, and that of the function."""
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(99)).to(x)
    with torch.autograd.forward_ad.dual_level():
        output = function(torch.autograd.forward_ad.make_dual(x, along))
        first = torch.autograd.forward_ad.unpack_dual(output).tangent
    return torch.func.jvp(torch.func.grad(function), (x,), (along,))[1], first


def test_fast_weights_carry_derivatives_forward():
    """By the reference, which alone has them."""
    results = []
    for backend in ("auto", "reference"):
        _, function, x = drawn(lambda backend=backend: by_fast_weights(backend))
        results.append(carried(function, x))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["attention", pytest.param("cpu", marks=native)])
def test_backends_that_carry_no_derivatives_forward_are_refused(backend):
    _, function, x = drawn(lambda: by_fast_weights(backend))
    expected = f"backend: expected auto or reference where derivatives are carried forward, got '{backend}'"
    with pytest.raises(ValueError, match=expected):
        torch.func.jvp(function, (x,), (x,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ValueError, match=expected):
        function(x)


@native
@pytest.mark.parametrize("name", ["fast weights", "gated", "loss", "attention"])
def test_derivatives_carried_into_a_backward_pass_are_refused(name):
    """What is hand-written reads the values of a gradient alone, not what is carried with them."""
    _, function, x = drawn(PAIRS[name][0])
    loss = function(x.requires_grad_())
    with torch.autograd.forward_ad.dual_level():
        one = torch.ones((), dtype=x.dtype)
        plain = torch.autograd.grad(loss, x, one, retain_graph=True)
        with pytest.raises(RuntimeError, match="carries no derivatives forward; pass backend='reference'"):
            torch.autograd.grad(loss, x, torch.autograd.forward_ad.make_dual(one, one), retain_graph=True)
    torch.testing.assert_close(plain, torch.autograd.grad(loss, x))


def test_fast_weights_without_a_kernel_in_torch_func():
    """In bfloat16 there is none; attention's hand-written derivative is not for torch.func."""
    network, function, x = drawn(lambda: by_fast_weights("auto", torch.bfloat16))
    found = torch.func.grad(function)(x)
    network.backend = "reference"
    torch.testing.assert_close(found, torch.autograd.grad(function(x.requires_grad_()), x)[0])
    network.backend = "attention"
    with pytest.raises(ValueError, match=r"backend: expected auto or reference under torch.func, got 'attention'"):
        torch.func.grad(function)(x.detach())
