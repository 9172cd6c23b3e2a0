"""Gradients: each backend against finite differences, and every backend against the reference in all it returns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

REPEATABLE = settings(max_examples=200, deadline=None, derandomize=True)


def as_function(problem, backend):
    """Outputs and final A as a function of the leaves alone, and the leaves."""
    leaves = problem.leaves()
    return lambda *values: problem.run(dict(zip(leaves, values, strict=True)), backend), tuple(leaves.values())


@pytest.mark.parametrize("norm", ["none", "affine"])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_equals_finite_differences(make_problem, backend, timing, a0, norm, with_lengths):
    problem = make_problem(
        batch=2, steps=3, width=3, timing=timing, a0=a0, norm=norm, eps=0.01, with_lengths=with_lengths, learned=True,
        seed=1,
    )  # fmt: skip
    function, leaves = as_function(problem, backend)
    assert gradcheck(function, leaves, fast_mode=with_lengths)


@REPEATABLE
@given(data=st.data())
def test_every_gradient_equals_the_references(problems, assert_all_close, fast_backend, data):
    """The reference is right by the test above and by that of its values.

    The bound is relative to the largest entry or 1: layer norm of one or two units leaves gradients that are the rest
    of a cancellation of terms of size 1, down to nothing but rounding for one unit. The worst of 6000 was 4e-12.
    """
    problem = data.draw(problems)
    assert_all_close(problem.evaluate(fast_backend), problem.evaluate("reference"), 1e-10)


@pytest.mark.parametrize("loss_of", ["output", "final"])
def test_a_loss_may_use_the_outputs_or_the_final_fast_weights_alone(
    make_problem, assert_all_close, fast_backend, timing, a0, loss_of
):
    problem = make_problem(timing=timing, a0=a0, with_lengths=True, seed=2)
    expected = problem.evaluate("reference", loss_of=(loss_of,))
    assert_all_close(problem.evaluate(fast_backend, loss_of=(loss_of,)), expected, 1e-12)


@pytest.mark.parametrize("norm", ["none", "affine"])
def test_single_precision(make_problem, assert_all_close, backend, timing, a0, norm):
    """Against the reference in double precision, from the same numbers.

    T (S + 1) = 27 dependent sums, each rounded to 6e-8 of its value and passed on with a gain of up to 10 where layer
    norm divides by the deviation of its bracket: 2e-5. The numbers themselves are rounded first.
    """
    options = {"timing": timing, "a0": a0, "norm": norm, "steps": 9, "width": 8, "with_lengths": True}
    options |= {"learned": True, "seed": 3}
    single, double = make_problem(**options, dtype=torch.float32), make_problem(**options)
    rounded = {name: leaf.detach().double().requires_grad_() for name, leaf in single.leaves().items()}
    actual = single.evaluate(backend)
    assert {tensor.dtype for tensor in actual.values()} == {torch.float32}
    assert_all_close(actual, double.evaluate("reference", rounded), 2e-5)


def test_each_leaf_alone_may_want_a_gradient(make_problem, backend, timing, a0):
    problem = make_problem(timing=timing, a0=a0, learned=True)
    everything = problem.evaluate(backend)
    for wanted in problem.leaves():
        leaves = {name: leaf.requires_grad_(name == wanted) for name, leaf in problem.leaves().items()}
        output, final = problem.run(leaves, backend)
        torch.autograd.backward((output, final), (problem.draw(11, *output.shape), problem.draw(12, *final.shape)))
        assert [name for name, leaf in leaves.items() if leaf.grad is not None] == [wanted]
        torch.testing.assert_close(leaves[wanted].grad, everything[f"gradient of {wanted}"])


def test_backward_leaves_everything_as_it_was(make_problem, backend, timing, a0):
    """Twice through one graph gives the same bits: saved activations, arguments and cotangents are not overwritten."""
    problem = make_problem(timing=timing, a0=a0)
    leaves = problem.leaves()
    before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    output, final = problem.run(leaves, backend)
    values = output.detach().clone(), final.detach().clone()
    cotangents = problem.draw(11, *output.shape), problem.draw(12, *final.shape)
    kept = [cotangent.clone() for cotangent in cotangents]
    first, second = (
        torch.autograd.grad((output, final), list(leaves.values()), cotangents, retain_graph=True) for _ in range(2)
    )
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, cotangents, kept))
    assert all(map(torch.equal, (output, final), values))
    assert all(torch.equal(leaf, before[name]) for name, leaf in leaves.items())


def test_cotangents_of_any_stride(make_problem, backend, timing):
    """A sum hands back one number tiled over the outputs, a transposed product a transposed tensor."""
    problem = make_problem(timing=timing)
    leaves = problem.leaves()
    output, final = problem.run(leaves, backend)
    shapes = (output.mT.shape, final.mT.shape)
    for strided in [(torch.ones((), dtype=output.dtype).expand(output.shape), final.new_ones(()).expand(final.shape)),
                    tuple(problem.draw(20, *shape).mT for shape in shapes)]:  # fmt: skip
        assert not any(cotangent.is_contiguous() for cotangent in strided)
        plain = [cotangent.contiguous() for cotangent in strided]
        for grads in zip(
            torch.autograd.grad((output, final), list(leaves.values()), strided, retain_graph=True),
            torch.autograd.grad((output, final), list(leaves.values()), plain, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(*grads)


def test_a_tiled_a0_gets_the_gradient_of_every_sample(make_problem, backend, timing):
    """The gradient of the tiled tensor itself, not of what it was tiled from: one matrix a sample."""
    problem = make_problem(timing=timing, a0="zero")
    grads = []
    for tile in (lambda matrix: matrix.expand(3, 5, 5), lambda matrix: matrix.repeat(3, 1, 1)):
        a0 = tile(problem.draw(4, 5, 5)).requires_grad_()
        output, _ = problem.run(problem.leaves(), backend, a0=a0)
        grads += torch.autograd.grad((output * problem.draw(11, *output.shape)).sum(), a0)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("norm", ["none", "affine"])
def test_the_reference_differentiates_twice(make_problem, timing, a0, norm):
    problem = make_problem(batch=2, steps=2, width=2, timing=timing, a0=a0, norm=norm, eps=0.1, rank=1)
    assert gradgradcheck(*as_function(problem, "reference"), fast_mode=True)


@pytest.mark.parametrize("loss", [torch.sum, torch.linalg.vector_norm])
def test_others_refuse_to_differentiate_twice(make_problem, fast_backend, timing, loss):
    """Also where the first derivative's cotangent is constant, as that of a sum: no term may be missing silently."""
    problem = make_problem(timing=timing)
    leaves = problem.leaves()
    output, _ = problem.run(leaves, fast_backend)
    (slope,) = torch.autograd.grad(loss(output), leaves["inputs"], create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        (loss(output) + slope.pow(2).sum()).backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(make_problem, backend, timing, a0, mode):
    problem = make_problem(timing=timing, a0=a0, with_lengths=True)
    expected = problem.run(problem.leaves(), backend)
    with mode():
        actual = problem.run(problem.leaves(), backend)
    assert not any(tensor.requires_grad for tensor in actual)
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("norm", ["none", "affine"])
def test_an_empty_batch(make_problem, backend, timing, a0, norm):
    """Gives empty results, and gradients of nothing."""
    problem = make_problem(batch=0, timing=timing, a0=a0, norm=norm)
    values = problem.evaluate(backend)
    assert values["output"].shape == (0, problem.steps, problem.width)
    assert values["final"].shape == (0, problem.width, problem.width)
    assert not any(value.any() for value in values.values())


def test_gradient_stops_at_a_sequences_end(make_problem, backend, timing):
    problem = make_problem(timing=timing, with_lengths=True, seed=1)
    leaves = problem.leaves()
    grad = problem.evaluate(backend, leaves)["gradient of inputs"]
    beyond = torch.arange(problem.steps) >= problem.lengths[:, None]
    assert beyond.any()
    assert (grad[beyond] == 0).all()
    assert (grad[~beyond] != 0).any(-1).all()
