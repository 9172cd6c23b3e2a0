"""Features that `fast_weights` projects itself: the numbers of a linear layer before it, for every backend."""

import pytest
import torch
from torch.nn import functional

from contextual_rnn.ops import fast_weights
from contextual_rnn.ops._fast_weights import cpu

FEATURES = 11


def features_of(problem, features, bias):
    """The leaves of `problem` with features in place of its inputs, and the projection's own."""
    leaves = problem.leaves()
    scale = 1.5 / features**0.5
    leaves["inputs"] = problem.draw(21, problem.batch, problem.steps, features, scale=1.5).requires_grad_()
    leaves["weight_ih"] = problem.draw(22, problem.width, features, scale=scale).requires_grad_()
    if bias:
        leaves["bias"] = problem.draw(23, problem.width).requires_grad_()
    return leaves


def projected_outside(problem, leaves, backend):
    inside = {name: leaf for name, leaf in leaves.items() if name not in ("weight_ih", "bias")}
    inputs = functional.linear(leaves["inputs"], leaves["weight_ih"], leaves.get("bias"))
    return problem.run(inside | {"inputs": inputs}, backend)


def values(problem, leaves, output, final):
    loss = (output * problem.draw(11, *output.shape)).sum() + (final * problem.draw(12, *final.shape)).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"output": output, "final": final} | {f"gradient of {n}": g for n, g in zip(leaves, grads, strict=True)}


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize(("batch", "width", "features"), [(3, 5, 11), (17, 4, 1), (18, 19, 9)])
def test_values_and_every_gradient(
    make_problem, assert_all_close, backend, timing, a0, with_lengths, batch, width, features
):
    problem = make_problem(batch=batch, width=width, timing=timing, a0=a0, with_lengths=with_lengths, learned=True)
    leaves = features_of(problem, features, bias=not with_lengths)
    actual = values(problem, leaves, *problem.run(leaves, backend))
    expected = values(problem, leaves, *projected_outside(problem, leaves, "reference"))
    assert_all_close(actual, expected, 1e-10)


@pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_a_long_sequence(make_problem, assert_all_close, monkeypatch, timing, a0, chunk):
    """In chunks, of which the way back makes some of the projections once more."""
    monkeypatch.setattr(cpu, "_chunk", lambda steps, width: chunk)
    problem = make_problem(batch=17, steps=20, timing=timing, a0=a0, with_lengths=True)
    leaves = features_of(problem, FEATURES, bias=True)
    actual = values(problem, leaves, *problem.run(leaves, "cpu"))
    assert_all_close(actual, values(problem, leaves, *projected_outside(problem, leaves, "reference")), 1e-10)


@pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
def test_a_large_projection_is_a_product_before(make_problem, assert_all_close, monkeypatch):
    problem = make_problem()
    leaves = features_of(problem, FEATURES, bias=True)
    expected = values(problem, leaves, *problem.run(leaves, "cpu"))
    monkeypatch.setattr(cpu, "_MOST_PROJECTED", problem.width * FEATURES - 1)
    given, forward = [], cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *arguments: given.append(arguments[0]) or forward(*arguments))
    assert_all_close(values(problem, leaves, *problem.run(leaves, "cpu")), expected, 1e-12)
    assert [tensors.weight_ih for tensors in given] == [None]


@pytest.mark.parametrize("wanted", ["inputs", "weight_ih", "bias", "weight_hh", "h0"])
def test_any_gradient_alone(make_problem, backend, wanted):
    problem = make_problem(batch=18, a0="zero", norm="plain")
    leaves = features_of(problem, FEATURES, bias=True)
    (expected,) = torch.autograd.grad(projected_outside(problem, leaves, backend)[0].square().sum(), leaves[wanted])
    alone = {name: leaf.detach() for name, leaf in leaves.items()}
    alone[wanted].requires_grad_()
    (actual,) = torch.autograd.grad(problem.run(alone, backend)[0].square().sum(), alone[wanted])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_padding_may_be_anything(make_problem, assert_all_close, backend):
    problem = make_problem(with_lengths=True, seed=1)
    beyond = torch.arange(problem.steps) >= problem.lengths[:, None]
    assert beyond.any()
    padded = []
    for padding in (0.0, torch.nan):
        leaves = features_of(problem, FEATURES, bias=True)
        with torch.no_grad():
            leaves["inputs"][beyond] = padding
        padded.append(values(problem, leaves, *problem.run(leaves, backend)))
    assert_all_close(padded[1], padded[0], 1e-12)


def test_stacked_parameters_under_vmap(make_problem, assert_all_close, kernel):
    problem = make_problem(a0="zero", norm="plain")
    leaves = {name: leaf.detach() for name, leaf in features_of(problem, FEATURES, bias=True).items()}
    stacked = {name: torch.stack([leaf, 0.5 * leaf]) for name, leaf in leaves.items()}
    cotangent = problem.draw(11, problem.batch, problem.steps, problem.width)

    def loss(leaves):
        return (problem.run(leaves, kernel)[0] * cotangent).sum()

    mapped = torch.func.vmap(torch.func.grad(loss))(stacked)
    for i in range(2):
        alone = torch.func.grad(loss)({name: leaf[i] for name, leaf in stacked.items()})
        assert_all_close({name: grad[i] for name, grad in mapped.items()}, alone, 1e-12)


def test_a_second_derivative_is_refused(make_problem):
    if cpu.instruction_set() is None:
        pytest.skip("the kernel was not built: no C++ compiler")
    problem = make_problem(a0="zero", norm="plain")
    leaves = features_of(problem, FEATURES, bias=True)
    output, _ = problem.run(leaves, "cpu")
    (grad,) = torch.autograd.grad(output.sum(), leaves["inputs"], create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("name", "changes", "error"),
    [
        ("weight_ih", {"weight_ih": torch.zeros(4, 6)}, ValueError),
        ("weight_ih", {"weight_ih": torch.zeros(5, 5)}, ValueError),
        ("weight_ih", {"weight_ih": torch.zeros(5)}, ValueError),
        ("weight_ih", {"weight_ih": torch.zeros(4, 5).double()}, ValueError),
        ("weight_ih", {"weight_ih": torch.zeros(4, 5, device="meta")}, ValueError),
        ("weight_ih", {"weight_ih": torch.ones(4, 5).to_sparse()}, ValueError),
        ("weight_ih", {"weight_ih": 1.0}, TypeError),
        ("bias", {"bias": torch.zeros(5)}, ValueError),
        ("bias", {"bias": torch.zeros(4).double()}, ValueError),
        ("bias", {"bias": 0.0}, TypeError),
        ("bias", {"weight_ih": None}, ValueError),
        ("weight_hh", {"weight_hh": torch.zeros(5, 5)}, ValueError),
        ("weight_hh", {"weight_hh": None}, TypeError),
    ],
)
def test_bad_projections(name, changes, error):
    given = {
        "inputs": torch.zeros(2, 3, 5), "weight_hh": torch.zeros(4, 4), "h0": torch.zeros(2, 4),
        "weight_ih": torch.zeros(4, 5), "bias": torch.zeros(4),
    }  # fmt: skip
    fast_weights(**given)
    if name == "weight_hh" and error is ValueError:
        name = "weight_ih"  # which is then the first that does not fit
    with pytest.raises(error, match=f"^{name}: expected .*got"):
        fast_weights(**given | changes)
