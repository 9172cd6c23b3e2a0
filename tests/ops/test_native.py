"""What native kernels share serves any recurrence: here one that no other code knows, with arguments of its own."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from contextual_rnn import ops
from contextual_rnn.ops.native.autograd import is_eager, run_as_operator, run_eagerly
from contextual_rnn.ops.native.kernel import Operation
from contextual_rnn.ops.native.operator import register

OPS = Path(ops.__file__).parent


class Given(NamedTuple):
    inputs: Tensor
    weight: Tensor
    start: Tensor | None
    lengths: Tensor | None
    offset: Tensor | None = None  # which the operator does not take


class Settings(NamedTuple):
    scale: float


class Cumulative:
    """h(t) = h(t-1) + scale weight x(t) + offset, from `start`; the further result is the last h."""

    def forward(self, given, settings, keep, keep_extra):
        each = settings.scale * given.weight * given.inputs + (0 if given.offset is None else given.offset)
        output = each.cumsum(1) + (0 if given.start is None else given.start[:, None])
        saved = given.inputs.new_zeros(self.saved_size(given, settings) if keep else 0)
        return output.contiguous(), output[:, -1].clone() if keep_extra else output.new_empty(0), saved

    def backward(self, given, settings, output, saved, grad_output, grad_extra, wanted):
        grad = torch.zeros_like(output) if grad_output is None else grad_output.clone()
        if grad_extra is not None:
            grad[:, -1] += grad_extra
        each = grad.flip(1).cumsum(1).flip(1)
        grads = [
            settings.scale * given.weight * each, (settings.scale * given.inputs * each).sum((0, 1)), grad.sum(1), None,
            each.sum((0, 1)),
        ]  # fmt: skip
        return [grad.contiguous() for grad, want in zip(grads, wanted, strict=True) if want]

    def saved_size(self, given, settings):
        return given.inputs.shape[0]


def check(given, settings, **others):
    if given.weight.shape != given.inputs.shape[2:]:
        raise ValueError(f"weight: expected {given.inputs.shape[2:]}, got {given.weight.shape}")


def empty(given, keep_extra):
    return torch.empty_like(given.inputs), given.inputs.new_empty(given.inputs[:, 0].shape if keep_extra else 0)


OPERATION = Operation("cumulative_of_tests", Cumulative(), Given, Settings, check, empty)
OPERATOR = register(OPERATION)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def leaves():
    torch.manual_seed(0)
    return draw(3, 4, 2), draw(2), draw(3, 2)


@pytest.mark.parametrize("keep_extra", [False, True])
@pytest.mark.parametrize("with_start", [False, True])
def test_gradients_of_a_recurrence_of_ones_own(leaves, keep_extra, with_start):
    def run(inputs, weight, start, offset):
        given = Given(inputs, weight, start if with_start else None, torch.tensor([4, 4, 4]), offset)
        assert is_eager(given)
        output, last = run_eagerly(OPERATION, given, Settings(0.5), keep_extra)
        return (output, last) if keep_extra else output

    assert torch.autograd.gradcheck(run, (*leaves, draw(2)))


def test_its_operator(leaves):
    output, last = run_as_operator(OPERATION, OPERATOR, Given(*leaves, None), Settings(0.5), True)
    expected = leaves[2][:, None] + (0.5 * leaves[1] * leaves[0]).cumsum(1)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(last, expected[:, -1])
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    opcheck(OPERATOR, (*leaves, None, 0.5, True, True), test_utils=tests)
    with pytest.raises(ValueError, match="weight: expected"):
        OPERATOR(leaves[0], draw(3), None, None, 0.5, False, False)


def test_under_vmap_and_twice(leaves):
    def loss(inputs):
        return run_eagerly(OPERATION, Given(inputs, *leaves[1:], None), Settings(0.5), True)[1].sin().sum()

    stacked = torch.stack([leaves[0].detach(), -leaves[0].detach()])
    grads = torch.func.vmap(torch.func.grad(loss))(stacked)
    for inputs, grad in zip(stacked, grads, strict=True):
        inputs = inputs.clone().requires_grad_()
        torch.testing.assert_close(grad, torch.autograd.grad(loss(inputs), inputs)[0])
    first = torch.autograd.grad(loss(leaves[0]), leaves[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiated once, not twice"):
        first.sum().backward()


def test_of_tensors_that_are_not_mapped_over(leaves):
    """vmap is under way, and holds none of the recurrence's own tensors."""

    def loss(scale):
        return (scale * run_eagerly(OPERATION, Given(*leaves, None), Settings(0.5), False)[0]).sum()

    torch.func.vmap(loss)(torch.tensor([2.0, 3.0], dtype=torch.float64)).sum().backward()
    under_vmap = [leaf.grad for leaf in leaves]
    for grad, expected in zip(under_vmap, torch.autograd.grad(loss(5.0), leaves), strict=True):
        torch.testing.assert_close(grad, expected)


CHANGES = {
    "a dtype": (lambda weight: weight.float(), "got torch.float32"),
    "a shape": (lambda weight: weight[:1], r"of shape \(1,\)"),
    "a device": (lambda weight: weight.to("meta"), "on meta"),
}


@pytest.mark.parametrize("name", ["a dtype", "a shape"])  # data on meta is refused by torch
@pytest.mark.parametrize("transformed", [False, True])
def test_a_tensor_that_is_another_in_the_backward_pass_is_refused(leaves, transformed, name):
    """`module.float()` sets the data of its parameters, which autograd does not notice; a kernel would read beyond."""
    inputs, weight, start = leaves

    def run(inputs):
        return run_eagerly(OPERATION, Given(inputs, weight, start, None), Settings(0.5), False)[0].sum()

    change, received = CHANGES[name]
    expected = rf"weight: expected torch.float64 of shape \(2,\) on cpu, as in the forward pass, .*{received}"
    differentiate = torch.func.vjp(run, inputs)[1] if transformed else run(inputs).backward
    weight.data = change(weight.data)
    with pytest.raises(RuntimeError, match=expected):
        differentiate(torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("name", CHANGES)
def test_hooks_that_return_another_saved_tensor_are_refused(leaves, name):
    weight, (change, received) = leaves[1], CHANGES[name]
    hooks = (lambda tensor: change(tensor) if tensor is weight else tensor, lambda tensor: tensor)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        output = run_eagerly(OPERATION, Given(*leaves, None), Settings(0.5), False)[0]
    with pytest.raises(RuntimeError, match=rf"weight: expected .*{received}"):
        output.sum().backward()


def test_what_is_shared_knows_no_recurrence():
    files = [*(OPS / "native").glob("*.py"), *(OPS / "csrc").iterdir()]
    assert len(files) > 10
    naming = [file.name for file in files if re.search(r"fast.?weights", file.read_text(), re.IGNORECASE)]
    assert naming == []
