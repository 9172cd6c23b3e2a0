"""The loss in one call against the modules one after the other: random states, every gradient, every way out."""

import inspect

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.nn.utils import parametrizations

from contextual_rnn import ContextState, FastWeightsRNN, LowRank, fast_weights_spec, sequence_cross_entropy
from contextual_rnn.ops import BACKENDS
from contextual_rnn.ops._fast_weights import classification, cpu

TOKENS, CLASSES = 7, 5
native = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")


class Model:
    """Modules with random weights, data, and a random initial state that requires gradients."""

    def __init__(self, kind="zero", batch=21, steps=6, dtype=torch.float64, **options):
        torch.manual_seed(0)
        self.embedding = nn.Embedding(TOKENS, 4, dtype=dtype)
        self.network = FastWeightsRNN(4, 9, **{"batch_first": True, "dtype": dtype, **options})
        self.hidden, self.readout = nn.Linear(9, 6, dtype=dtype), nn.Linear(6, CLASSES, dtype=dtype)
        self.modules = [self.embedding, self.network, self.hidden, self.readout]
        self.parameters = [parameter for module in self.modules for parameter in module.parameters()]
        with torch.no_grad():
            for parameter in self.parameters:
                parameter += 0.3 * torch.randn_like(parameter)
        self.tokens, self.targets = torch.randint(TOKENS, (batch, steps)), torch.randint(CLASSES, (batch,))

        def draw(*shape):
            return (0.4 * torch.randn(batch, *shape, dtype=dtype)).requires_grad_()

        self.h0 = draw(9)
        a0 = {"zero": lambda: None, "dense": lambda: draw(9, 9), "low rank": lambda: LowRank(draw(2, 9), draw(2, 9))}
        self.hx = self.h0, a0[kind]()

    @property
    def leaves(self):
        h0, a0 = self.hx
        return [*self.parameters, h0, *(a0 if isinstance(a0, LowRank) else [a0] if a0 is not None else [])]

    def by_modules(self):
        embedded = self.embedding(self.tokens)
        if not self.network.batch_first:
            embedded = embedded.transpose(0, 1)
        output, _ = self.network(embedded, self.hx)
        last = output[:, -1] if self.network.batch_first else output[-1]
        return functional.cross_entropy(self.readout(torch.relu(self.hidden(last))), self.targets)

    def in_one_call(self, **changed):
        given = {"tokens": self.tokens, "targets": self.targets, "hx": self.hx, **changed}
        tokens, targets, hx = given.pop("tokens"), given.pop("targets"), given.pop("hx")
        return sequence_cross_entropy(tokens, targets, *self.modules, hx=hx)


def natively(monkeypatch):
    """Counts the native calls from now on."""
    calls, run = [], classification.cpu.classification
    monkeypatch.setattr(classification.cpu, "classification", lambda *given: calls.append(given) or run(*given))
    return calls


def assert_agree(model, **tolerances):
    """The two ways' losses, and the gradients of one random multiple of each."""
    ours, theirs = model.in_one_call(), model.by_modules()
    torch.testing.assert_close(ours, theirs, **tolerances)
    cotangent = torch.randn_like(ours)
    found = torch.autograd.grad(ours, model.leaves, cotangent)
    torch.testing.assert_close(found, torch.autograd.grad(theirs, model.leaves, cotangent), **tolerances)


@native
@pytest.mark.parametrize("kind", ["zero", "dense", "low rank"])
@pytest.mark.parametrize(
    "options",
    [{}, {"timing": "wenke2019", "inner_steps": 2}, {"layer_norm": False, "bias": False}, {"batch_first": False}],
    ids=str,
)
def test_loss_and_every_gradient(monkeypatch, kind, options):
    calls = natively(monkeypatch)
    assert_agree(Model(kind, **options), rtol=1e-9, atol=1e-10)
    assert len(calls) == 1


@native
def test_in_float32():
    """Sums of 21 sequences in another order: a millionth of the largest."""
    assert_agree(Model("dense", dtype=torch.float32), rtol=1e-4, atol=1e-6)


@native
def test_gradients_reach_a_state_that_a_network_makes(monkeypatch):
    model, calls = Model(), natively(monkeypatch)
    state = ContextState(fast_weights_spec(model.network, "low_rank"), nn.Linear(3, 5, dtype=torch.float64))
    model.parameters += state.parameters()
    context = torch.randn(21, 3, dtype=torch.float64)
    grads = []
    for loss_of in (model.in_one_call, model.by_modules):
        model.hx = state(context)
        grads.append(torch.autograd.grad(loss_of(), model.parameters))
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-10)
    assert len(calls) == 1


@native
def test_losses_wait_for_each_other_and_gradients_add_up():
    model = Model("dense")
    first = model.in_one_call()
    second = model.in_one_call(tokens=model.tokens.flip(0))
    (first + 2 * second).backward(retain_graph=True)
    (first + 2 * second).backward()
    found = [leaf.grad for leaf in model.leaves]
    expected = model.by_modules()
    model.tokens = model.tokens.flip(0)
    expected = 2 * (expected + 2 * model.by_modules())
    torch.testing.assert_close(found, list(torch.autograd.grad(expected, model.leaves)), rtol=1e-9, atol=1e-10)


@native
def test_parameters_that_move_are_found_again():
    """What was checked for a network at one step serves at the next only while its parameters stay where they were."""
    model, kept = Model("dense"), []
    for _ in range(2):
        assert_agree(model, rtol=1e-9, atol=1e-10)
        for parameter in model.parameters:
            kept.append(parameter.data)  # alive, so that a stale address reads old numbers rather than anything
            parameter.data = parameter.data + 0.1
    model.network.weight_hh.data = model.network.weight_hh.data.T
    assert_agree(model, rtol=1e-9, atol=1e-10)


@native
def test_a_negated_view_of_a_parameter_that_is_known_is_read_as_such():
    model = Model()
    assert_agree(model, rtol=1e-9, atol=1e-10)
    model.hidden.weight.data = torch._neg_view(model.hidden.weight.data)
    assert_agree(model, rtol=1e-9, atol=1e-10)


@native
def test_frozen_parameters_get_no_gradient(monkeypatch):
    model, calls = Model(), natively(monkeypatch)
    for parameter in model.parameters:
        parameter.requires_grad_(False)
    model.in_one_call().backward()
    assert all(parameter.grad is None for parameter in model.parameters)
    torch.testing.assert_close(model.h0.grad, torch.autograd.grad(model.by_modules(), model.h0)[0])
    assert len(calls) == 1


@native
def test_no_state_is_a_zero_state():
    model = Model()
    loss = model.in_one_call(hx=None)
    model.hx = None
    torch.testing.assert_close(loss, model.by_modules())


def test_without_gradients_the_modules_are_called(monkeypatch):
    model, calls = Model("dense"), natively(monkeypatch)
    with torch.no_grad():
        torch.testing.assert_close(model.in_one_call(), model.by_modules())
    assert not calls


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def hooked(model):
    model.hidden.register_forward_hook(lambda module, given, output: 2 * output)


def parametrized(model):
    parametrizations.weight_norm(model.readout)


def padded(model):
    model.embedding.padding_idx = 0


def inherited(model):
    model.modules[3] = model.readout = Doubled(6, CLASSES, dtype=torch.float64)


def unbiased(model):
    model.modules[2] = model.hidden = nn.Linear(9, 6, bias=False, dtype=torch.float64)


def scattered(model):
    model.hidden.weight = nn.Parameter(
        model.hidden.weight.detach().t().clone(memory_format=torch.contiguous_format).t()
    )


def learned(model):
    model.network.decay = nn.Parameter(torch.tensor(0.9, dtype=torch.float64))


def explicit(model):
    model.network.backend = "reference"


def patched(model):
    own = model.embedding.forward
    model.embedding.forward = lambda tokens: 2 * own(tokens)


@pytest.mark.parametrize(
    "change",
    [hooked, parametrized, padded, inherited, unbiased, scattered, learned, explicit, patched],
    ids=lambda f: f.__name__,
)
def test_what_the_native_call_does_not_know_is_left_to_the_modules(monkeypatch, change):
    model, calls = Model(), natively(monkeypatch)
    change(model)
    model.parameters = [parameter for module in model.modules for parameter in module.parameters()]
    assert_agree(model, rtol=1e-9, atol=1e-10)
    assert not calls


def test_hooks_of_all_modules_are_called(monkeypatch):
    model, calls = Model(), natively(monkeypatch)
    with torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, output: 2 * output if isinstance(module, nn.Linear) else None
    ):
        assert_agree(model, rtol=1e-9, atol=1e-10)
    assert not calls


def test_long_sequences_are_left_to_the_modules(monkeypatch):
    calls = natively(monkeypatch)
    assert_agree(Model(batch=3, steps=40), rtol=1e-9, atol=1e-10)
    assert not calls


def test_functional_gradients_are_left_to_the_modules():
    model = Model()

    def loss(weight):
        return torch.func.functional_call(Called(model), {"hidden.weight": weight})

    found = torch.func.grad(loss)(model.hidden.weight)
    torch.testing.assert_close(found, torch.autograd.grad(model.by_modules(), model.hidden.weight)[0])


class Called(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.hidden, self.model = model.hidden, model

    def forward(self):
        return self.model.in_one_call()


def test_under_compile_the_modules_are_traced(monkeypatch):
    # Not every version of torch can trace the checks of shapes that the tests wrap around it.
    monkeypatch.setitem(BACKENDS, "reference", inspect.unwrap(BACKENDS["reference"]))
    model, calls = Model("dense"), natively(monkeypatch)
    traced = torch.compile(model.in_one_call, fullgraph=True, backend="aot_eager")()
    torch.testing.assert_close(traced, model.by_modules())
    found = torch.autograd.grad(traced, model.leaves)
    torch.testing.assert_close(found, torch.autograd.grad(model.by_modules(), model.leaves))
    assert not calls


def test_under_make_fx_the_modules_are_traced(monkeypatch):
    """What the native call computes would be a constant of the program."""
    model, calls = Model(), natively(monkeypatch)

    def loss(weight):
        return torch.func.functional_call(Called(model), {"hidden.weight": weight})

    program, other = make_fx(loss)(model.hidden.weight), 2 * model.hidden.weight.detach()
    assert not calls
    torch.testing.assert_close(program(other), loss(other))


def test_under_autocast_the_modules_are_called(monkeypatch):
    model, calls = Model(dtype=torch.float32), natively(monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model.in_one_call(), model.by_modules())
    assert not calls


@native
def test_a_second_derivative_is_refused():
    model = Model()
    grads = torch.autograd.grad(model.in_one_call(), model.leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once, not twice"):
        sum(grad.square().sum() for grad in grads).backward()


@native
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": torch.full((21, 6), TOKENS)}, "tokens: expected 0 to 6, got "),
        ({"tokens": torch.full((21, 6), -1)}, "tokens: expected 0 to 6, got "),
        ({"targets": torch.full((21,), 5)}, "targets: expected 0 to 4, got "),
        ({"targets": torch.full((21,), -1)}, "targets: expected 0 to 4, got "),
        ({"targets": torch.full((21,), -100)}, "targets: expected 0 to 4, got "),  # which torch would leave out
        ({"targets": torch.zeros(20, dtype=torch.int64)}, r"targets: expected shape \(21,\), as tokens, got \(20,\)"),
        ({"targets": torch.zeros(21, 1, dtype=torch.int64)}, r"targets: expected torch.int64 of shape \(batch,\), got"),
        ({"tokens": torch.zeros(0, 6, dtype=torch.int64)}, r"tokens: expected .* at least one of each, got \(0, 6\)"),
        ({"tokens": torch.zeros(21, 0, dtype=torch.int64)}, r"tokens: expected .* at least one of each, got \(21, 0\)"),
        ({"targets": torch.zeros(0, dtype=torch.int64)}, r"targets: expected .* at least one of each, got \(0,\)"),
        ({"tokens": torch.zeros(21, 6)}, r"tokens: expected torch.int64 of shape \(batch, time\), got torch.float32"),
        ({"hx": torch.zeros(20, 9).double()}, r"h0: expected shape \(21, 9\), got \(20, 9\)"),
        ({"hx": torch.zeros(21, 9)}, "h0: expected torch.float64 on cpu, as inputs, got torch.float32 on cpu"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("grad", [True, False], ids=["native", "module by module"])
def test_bad_input(changed, message, grad):
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=f"^{message}"):
        Model().in_one_call(**changed)


@native
def test_parameters_that_moved_are_not_read_where_they_were():
    """What is read is where the parameters are at the call, or nothing is."""
    model = Model()
    model.in_one_call()
    model.network.weight_hh.data = model.network.weight_hh.data.clone().mul_(2)
    torch.testing.assert_close(model.in_one_call(), model.by_modules())


@native
def test_layers_that_do_not_fit():
    model = Model()
    model.modules[2] = nn.Linear(8, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^hidden: expected a layer of 9 inputs, got one of 8"):
        model.in_one_call()
    model.modules[1] = nn.GRU(4, 9)
    with pytest.raises(TypeError, match="network: expected FastWeightsRNN, got GRU"):
        model.in_one_call()


@native
def test_layer_norm_parameters_without_layer_norm():
    model = Model()
    model.network.layer_norm = False
    with pytest.raises(ValueError, match="norm_weight: expected None without layer norm, got Parameter"):
        model.in_one_call()


@pytest.mark.parametrize("grad", [True, False], ids=["native", "module by module"])
@pytest.mark.parametrize(
    ("place", "module", "error", "words"),
    [
        (0, nn.Linear(3, 3), TypeError, "embedding: expected nn.Embedding, got Linear"),
        (0, nn.Embedding(7, 4), ValueError, "embedding: expected width 3, got 4"),
        (0, nn.Embedding(7, 3).double(), ValueError, "embedding: expected torch.float32 on cpu, as the network, got"),
        (2, nn.Embedding(7, 3), TypeError, "hidden: expected nn.Linear, got Embedding"),
        (2, nn.Linear(6, 6), ValueError, "hidden: expected a layer of 5 inputs, got one of 6"),
        (3, nn.Linear(7, 4), ValueError, "readout: expected a layer of 6 inputs, got one of 7"),
        (
            3,
            nn.Linear(6, 4).double(),
            ValueError,
            "readout: expected torch.float32 on cpu, as the network, got",
        ),
        (3, nn.Linear(6, 4, device="meta"), ValueError, "readout: expected torch.float32 on cpu, as the network, got"),
    ],
)
def test_modules_that_do_not_fit_are_refused(place, module, error, words, grad):
    modules = [nn.Embedding(7, 3), FastWeightsRNN(3, 5), nn.Linear(5, 6), nn.Linear(6, 4)]
    modules[place] = module
    hooked = modules[2 if place != 2 else 3]
    if not grad:
        hooked.register_forward_hook(lambda *_: None)  # so that the modules are called
    with torch.set_grad_enabled(grad), pytest.raises(error, match=f"^{words}"):
        sequence_cross_entropy(torch.randint(7, (2, 4)), torch.randint(4, (2,)), *modules)
