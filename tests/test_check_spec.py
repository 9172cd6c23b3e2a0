"""`check_spec` finds every planted fault, names it with its figures, and passes what is right."""

import warnings

import pytest
import torch
from tests.networks import NETWORKS, make_input
from tests.own_networks import OWN
from tests.test_spec_call import KINDS as CALLED
from torch import nn

from contextual_rnn import Leaf, StateSpec, check_spec, state_spec

X = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))


class Right(nn.Module):
    """Two leaves, batch first, in the order in which the faults below change it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.u, self.w = nn.Linear(3, 4), nn.Linear(4, 4)

    def step(self, x, h, c):
        c = 0.8 * c + torch.tanh(self.u(x) + self.w(h))
        return torch.tanh(c) + 0.1 * h, c

    def forward(self, x, state):
        (h, c), outputs = state, []
        for inputs in x.unbind(1):
            h, c = self.step(inputs, h, c)
            outputs.append(h.clone())
        return torch.stack(outputs, 1), (h, c)


@state_spec.register
def _(network: Right) -> StateSpec:
    return StateSpec((Leaf("h", (4,)), Leaf("c", (4,))), time_dim=1)


class InPlaceBreaking(Right):
    def step(self, x, h, c):
        out = torch.tanh(self.u(x) + self.w(h)) * h.exp()
        h.mul_(0.5).add_(out)
        return h.clone(), 0.5 * c + h.clone()


class InPlaceHarmless(Right):
    def forward(self, x, state):
        output, (h, c) = super().forward(x, [state[0].clone(), state[1]])
        state[0].copy_(h)
        return output, (state[0], c)


class RowsMixed(Right):
    def step(self, x, h, c):
        return super().step(x, h - 0.1 * h.mean(0), c)


class InputsMixed(Right):
    def step(self, x, h, c):
        return super().step(x - 0.1 * x.mean(0), h, c)


class OtherStep(Right):
    def one(self, inputs, state):
        h, c = self.step(inputs, state[0], 0.99 * state[1])
        return h, (h, c)


@state_spec.register
def _(network: OtherStep) -> StateSpec:
    return StateSpec((Leaf("h", (4,)), Leaf("c", (4,))), time_dim=1, step=OtherStep.one)


class WrongBatchAxis(Right):
    """Its spec says that time comes first."""


@state_spec.register
def _(network: WrongBatchAxis) -> StateSpec:
    return StateSpec((Leaf("h", (4,)), Leaf("c", (4,))), input_batch_dim=1, time_dim=0)


class NotReturned(Right):
    def forward(self, x, state):
        return super().forward(x, state)[0]


class StateAlone(Right):
    def forward(self, x, state):
        return super().forward(x, state)[1]


class ThreeReturned(Right):
    def forward(self, x, state):
        return *super().forward(x, state), None


class FirstReturned(Right):
    def forward(self, x, state):
        return super().forward(x, state)[0], state


class PartReturned(Right):
    def forward(self, x, state):
        output, (h, c) = super().forward(x, state)
        return output, (h, torch.zeros_like(c))


class Swapped(Right):
    def forward(self, x, state):
        return super().forward(x, state)[::-1]


class OtherDtype(Right):
    def forward(self, x, state):
        output, (h, c) = super().forward(x, state)
        return output, (h, c.double())


class DeadGradient(Right):
    def step(self, x, h, c):
        return super().step(x, h, c.detach())


class NanFromZero(Right):
    def step(self, x, h, c):
        return super().step(x, h / h.norm(dim=1, keepdim=True), c)


class PositiveAlone(Right):
    def step(self, x, h, c):
        h, c = super().step(x, h.sqrt(), c)
        return h.square(), c


class NanGradientFromZero(Right):
    def step(self, x, h, c):
        return super().step(x, h.square().sum(1, keepdim=True).sqrt() + 0 * h, c)


class Tanh98(torch.autograd.Function):
    """tanh, with a backward pass that gives 98 % of the derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return 0.98 * gradient * (1 - y * y)


class WrongGradient(Right):
    def step(self, x, h, c):
        h, c = super().step(x, h, c)
        return Tanh98.apply(h), c


class PartlyDetached(Right):
    def step(self, x, h, c):
        return super().step(x, h + 0.1 * h.detach(), c)


class LeavesItsDomain(Right):
    """Its spec says that h is positive."""


@state_spec.register
def _(network: LeavesItsDomain) -> StateSpec:
    return StateSpec((Leaf("h", (4,), domain="positive", start=1.0), Leaf("c", (4,))), time_dim=1)


class KeptInside(Right):
    memory = 0.0

    def forward(self, x, state):
        output, (h, c) = super().forward(x, (state[0] + self.memory, state[1]))
        self.memory = h.detach()
        return output, (h, c)


class Random(Right):
    def step(self, x, h, c):
        return super().step(x, h + 0.1 * torch.randn_like(h), c)


FAULTS = {
    InPlaceBreaking: r"through which gradients flow, got RuntimeError: .* compute a new state, not in place",
    RowsMixed: r"in which the state of a row changes that row alone, got a difference of 0\.\d+ in the output",
    InputsMixed: r"in which the input of a row changes that row alone, got a difference of 0\.\d+ in the output",
    OtherStep: r"whose steps give the numbers of the whole run, got a difference of 0\.\d+ in the output",
    WrongBatchAxis: r"that runs from .* got RuntimeError: .*; see its Leafs' shapes and batch_dim",
    NotReturned: r"that runs from .*, got a tensor of shape \(3, 5, 4\); return the output and the final",
    StateAlone: r"that runs from .*, got the state alone, \(a tensor of .*, a tensor of .*\); return the output",
    ThreeReturned: r"that runs from .*, got \(a tensor of .*, \(.*\), None\); return the output and the final",
    FirstReturned: r"whose steps give the numbers of the whole run, got a difference of .*; return all that",
    PartReturned: r"whose steps give the numbers of the whole run, got a difference of",
    Swapped: r"that runs .*, got them in the other order, \(\(a tensor .*; give the spec a call that",
    OtherDtype: r"that returns leaf 'c' in torch.float32, as it gets it, got torch.float64; .*Leaf\('c', ..., dtype=",
    DeadGradient: r"in which a gradient reaches leaf 'c', got none; see whether the network detaches it",
    NanFromZero: r"that gives finite numbers from a state of zeros, got NaN or infinity in the output",
    PositiveAlone: r"that gives finite numbers from a random state of both signs, got NaN .*; where its states are of",
    LeavesItsDomain: r"whose final state has leaf 'h' of positive numbers, got -\d.* to .*; see the domain",
    WrongGradient: r"whose gradients are its derivatives, got a gradient and a finite difference of \S+ and \S+ along "
    r"one direction of leaf 'h'; see its backward pass, or say surrogate_gradients=True",
    PartlyDetached: r"whose gradients are its derivatives, got a gradient and a finite difference of .* of leaf 'h'",
    NanGradientFromZero: r"with finite gradients at a state of zeros, got NaN or infinity for leaf 'h'",
    KeptInside: r"that returns the same for the same state and input, got a difference of .* after another call",
    Random: r"that returns the same for the same state and input, got a difference",
}


@pytest.mark.filterwarnings("ignore:.*overwrites the state")
@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_named_with_its_figures(kind):
    with pytest.raises(ValueError, match=f"^network: expected a {kind.__name__} {FAULTS[kind]}"):
        check_spec(kind(), X)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_are_registered_pass(name):
    network = NETWORKS[name]()
    check_spec(network, make_input(network, 3, 4))


@pytest.mark.filterwarnings("ignore:.*overwrites the state")
@pytest.mark.parametrize("name", [name for name in OWN if "not said" not in name and "in a module" not in name])
def test_networks_of_ones_own_pass(name):
    axes = {"in place": (1, 0), "with a step": (1, 0), "time last": (0, 2)}
    check_spec(OWN[name](), X.movedim((0, 1), axes.get(name, (0, 1))))


@pytest.mark.parametrize("name", CALLED)
def test_networks_with_signatures_of_their_own_pass(name):
    x, times = X.double(), torch.rand(3, 5, dtype=torch.float64)
    if name == "time first":
        x, times = x.transpose(0, 1), times.T
    check_spec(CALLED[name](), x, arguments={"timespans": times, "speed": torch.rand(3, dtype=torch.float64)})


def test_right_ones_pass_without_a_warning_and_an_update_in_place_costs_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_spec(Right(), X)
    with pytest.warns(UserWarning, match=r"InPlaceHarmless overwrites the state .* 24 numbers here; other callers"):
        check_spec(InPlaceHarmless(), X)


def test_the_network_is_as_before():
    class Counting(Right):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.drop = nn.Dropout(0.5)

        def forward(self, x, state):
            self.calls += 1
            output, state = super().forward(x, state)
            return self.drop(output), state

    network = Counting()
    generator = torch.get_rng_state()
    check_spec(network, X)
    assert network.training
    assert network.drop.training
    assert network.calls == 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_tried_where_none_are_wanted(mode):
    network = Right()
    with mode():
        check_spec(network, X)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.u = nn.Linear(3, 4)

    def forward(self, x, n):
        steps = 1 + torch.arange(x.shape[1])[:, None]
        return self.u(x) * (n[:, None] + steps), n + x.shape[1]


@state_spec.register
def _(network: Counter) -> StateSpec:
    return StateSpec(Leaf("n", (1,), dtype=torch.int64), time_dim=1)


def test_a_state_without_floats_has_no_gradients_to_try():
    check_spec(Counter(), X)


def test_the_tolerance_decides():
    check_spec(OtherStep(), X, tolerance=0.5)
    with pytest.raises(ValueError, match="whose steps"):
        check_spec(OtherStep(), X, tolerance=1e-3)


class InFloat32(Right):
    """Computes its step in float32, whatever it is moved to: only coarse differences can be compared."""

    def step(self, x, h, c):
        c = 0.8 * c + torch.tanh(self.u.weight.float() @ x.float().T).T.to(c.dtype)
        return torch.tanh(self.w(h).float()).to(h.dtype) + c, c


class WrongInFloat32(InFloat32):
    def step(self, x, h, c):
        h, c = super().step(x, h, c)
        return Tanh98.apply(h), c


class NotCopied(Right):
    """Cannot be copied, so that it is compared in float32."""

    def __deepcopy__(self, memo):
        raise RuntimeError


class WrongAndNotCopied(WrongGradient, NotCopied):
    pass


def test_gradients_are_compared_where_float64_is_not_to_be_had():
    check_spec(InFloat32(), X)
    check_spec(NotCopied(), X)
    for network in (WrongInFloat32(), WrongAndNotCopied()):
        with pytest.raises(ValueError, match="whose gradients are its derivatives"):
            check_spec(network, X)


def test_surrogate_gradients_are_not_compared_when_they_are_said():
    check_spec(WrongGradient(), X, surrogate_gradients=True)


@state_spec.register
def _(network: nn.Bilinear) -> StateSpec:
    return StateSpec(Leaf("h", (3,)))


REFUSED = [
    (lambda: check_spec(nn.Linear(2, 3), X), TypeError, "network: expected one with a registered state spec"),
    (lambda: check_spec(Right(), [X]), TypeError, "input: expected a tensor, got list"),
    (lambda: check_spec(Right(), X[:1]), ValueError, "input: expected a batch with at least 2 in axis 0"),
    (lambda: check_spec(Right(), X[:, :2]), ValueError, r"input: expected a batch with .*, got \(3, 2, 3\)"),
    (lambda: check_spec(nn.Bilinear(2, 2, 3), X), ValueError, "network: expected a spec with time_dim"),
    (lambda: check_spec(Right(), X, tolerance=-1), ValueError, "tolerance: expected a finite number of at least 0"),
    (lambda: check_spec(Right(), X, surrogate_gradients=1), TypeError, "surrogate_gradients: expected True or False"),
    (lambda: check_spec(Right(), X, arguments=[X]), TypeError, "arguments: expected a dict from names .*, got list"),
    (lambda: check_spec(Right(), X, arguments={"a": X}), ValueError, "a: expected no argument beside the input"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED)
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
