"""What every backend must provide besides right numbers: any memory layout, samples apart, the right choice."""

import dataclasses
from typing import get_args

import pytest
import torch

from contextual_rnn.ops import BACKENDS, fast_weights
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.choice import FastWeightsBackend


def scattered(leaf: torch.Tensor) -> torch.Tensor:
    """The same numbers with axes reversed in memory and NaN between them, for whoever reads past its own."""
    storage = leaf.new_full((*reversed(leaf.shape), 2), torch.nan)
    view = storage[..., 0].permute(*reversed(range(leaf.ndim)))
    with torch.no_grad():
        return view.copy_(leaf).detach().requires_grad_()


@pytest.mark.parametrize("norm", ["none", "affine"])
def test_any_memory_layout(make_problem, assert_all_close, backend, timing, a0, norm):
    problem = make_problem(timing=timing, a0=a0, norm=norm)
    leaves = {name: scattered(leaf) for name, leaf in problem.leaves().items()}
    assert not any(leaf.is_contiguous() for leaf in leaves.values())
    # Products of strided matrices may be summed in another order: rounding alone.
    assert_all_close(problem.evaluate(backend, leaves), problem.evaluate(backend), 1e-12)


def test_a_tensor_that_is_negated_on_reading(make_problem, assert_all_close, backend):
    """As the imaginary part of a conjugate is: it holds the numbers of the original and a mark to negate them."""
    problem = make_problem(a0="dense")
    expected = problem.run(problem.leaves(), backend)
    leaves = {name: torch._neg_view(-leaf) for name, leaf in problem.leaves().items()}
    assert all(leaf.is_neg() for leaf in leaves.values())
    actual = problem.run(leaves, backend)
    assert_all_close(dict(zip("ab", actual, strict=True)), dict(zip("ab", expected, strict=True)), 1e-12)


def test_not_a_number_stays_in_its_sample(make_problem, assert_all_close, backend, timing, a0):
    """Rows of the others are as without it, gradients included; in its own it is seen from its step on."""
    problem = make_problem(timing=timing, a0=a0)
    leaves = problem.leaves()
    with torch.no_grad():
        leaves["inputs"][1, 3, 0] = torch.nan
    poisoned, healthy = problem.evaluate(backend, leaves), problem.evaluate(backend)
    assert_all_close({"before": poisoned["output"][1, :3]}, {"before": healthy["output"][1, :3]}, 1e-12)
    assert poisoned["output"][1, 4:].isnan().all()
    assert poisoned["final"][1].isnan().all()
    per_sample = {name for name, value in healthy.items() if value.ndim > 1 and len(value) == problem.batch}
    assert {"output", "final", "gradient of inputs", "gradient of h0"} <= per_sample
    rows = [{name: values[name][[0, 2]] for name in per_sample} for values in (poisoned, healthy)]
    assert_all_close(*rows, 1e-12)


def test_padding_may_be_anything(make_problem, assert_all_close, backend, timing, a0):
    """Values and gradients are those of padding with zeros, the weights' gradients included."""
    problem = make_problem(timing=timing, a0=a0, with_lengths=True, seed=1)
    beyond = torch.arange(problem.steps) >= problem.lengths[:, None]
    assert beyond.any()
    padded = []
    for padding in (0.0, torch.nan):
        leaves = problem.leaves()
        with torch.no_grad():
            leaves["inputs"][beyond] = padding
        padded.append(problem.evaluate(backend, leaves))
    assert_all_close(padded[1], padded[0], 1e-12)


def test_nothing_explodes_beyond_the_end_of_a_sequence(make_problem, backend, timing):
    """Sample 0 would overflow soon after its end, sample 1 is all zeros: both are as if each had been alone."""
    inputs, weight = torch.zeros(2, 30, 2, dtype=torch.float64), 3 * torch.eye(2, dtype=torch.float64)
    h0 = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    results = []
    for batch, length in ((2, 30), (1, 2)):
        leaves = [tensor.clone().requires_grad_() for tensor in (inputs[:batch, :length], weight, h0[:batch])]
        output, final = fast_weights(
            *leaves, layer_norm=False, rate=0.1, timing=timing, lengths=torch.tensor([2, 30][:batch]),
            return_fast_weights=True, backend=backend,
        )  # fmt: skip
        grads = torch.autograd.grad(output.sum() + final.sum(), leaves)
        results.append((output[:1, :2], final[:1], grads[0][:1, :2], grads[1], grads[2][:1]))
    for together, alone in zip(*results, strict=True):
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("steps", [4, 13])  # 13: in chunks
def test_a_sequence_of_length_0_ends_in_its_a0(make_problem, backend, timing, a0, steps):
    """Beside one that has steps, which is as if alone, and in a batch of nothing else; padding may be NaN."""
    problem = make_problem(timing=timing, a0=a0, steps=steps, batch=3, seed=1)
    cotangents = problem.draw(11, 3, steps, problem.width), problem.draw(12, 3, problem.width, problem.width)
    all_rows = {"weight_hh", "norm_weight", "norm_bias", *(["a0"] if a0 == "shared" else [])}

    def run(rows, lengths):
        leaves = problem.leaves()
        with torch.no_grad():
            leaves["inputs"][[0, 2]] = torch.nan
        leaves = {
            name: (leaf if name in all_rows else leaf[rows]).detach().requires_grad_() for name, leaf in leaves.items()
        }
        some = dataclasses.replace(problem, batch=len(rows))
        output, final = some.run(leaves, backend, lengths=torch.tensor(lengths))
        start = some.a0_of(leaves)
        start = torch.zeros_like(final) if start is None else start.dense() if a0 == "low_rank" else start
        for row, length in enumerate(lengths):
            assert length or (torch.equal(final[row], start[row]) and not output[row].any())
        loss = sum((tensor * of[rows]).sum() for tensor, of in zip((output, final), cotangents, strict=True))
        return output, final, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    output, final, grads = run([0, 1, 2], [0, 3, 0])
    wanted_output, wanted_final, wanted = run([1], [3])
    _, _, nothing = run([0, 1, 2], [0, 0, 0])
    torch.testing.assert_close((output[1:2], final[1:2]), (wanted_output, wanted_final), rtol=0, atol=1e-12)
    if a0 == "shared":
        wanted["a0"] = wanted["a0"] + cotangents[1][[0, 2]].sum(0)
    if a0 == "dense":
        assert torch.equal(grads["a0"][[0, 2]], cotangents[1][[0, 2]])
        assert torch.equal(nothing["a0"], cotangents[1])
    for name, grad in grads.items():
        torch.testing.assert_close(grad if name in all_rows else grad[1:2], wanted[name], rtol=0, atol=1e-11)
    for name in ("inputs", "h0"):
        assert not grads[name][[0, 2]].any()
        assert not nothing[name].any()
    assert not nothing["weight_hh"].any()


def test_lengths_may_be_of_any_integer_type(make_problem, backend):
    problem = make_problem(with_lengths=True, seed=1)
    expected = problem.run(problem.leaves(), backend)
    actual = problem.run(problem.leaves(), backend, lengths=problem.lengths.to(torch.int32))
    assert all(map(torch.equal, actual, expected))


def test_outputs_beyond_the_end_are_zero(make_problem, backend, timing):
    problem = make_problem(timing=timing, with_lengths=True, seed=1)
    output, _ = problem.run(problem.leaves(), backend)
    beyond = torch.arange(problem.steps) >= problem.lengths[:, None]
    assert beyond.any()
    assert (output[beyond] == 0).all()
    assert (output[~beyond] != 0).any(-1).all()


@pytest.fixture
def calls(monkeypatch):
    """The names of the backends called; the reference does the work, as the kernel may not have been built."""
    names, reference = [], BACKENDS["reference"]

    def recorder(name):
        return lambda *arguments: names.append(name) or reference(*arguments)

    for name in list(BACKENDS):
        monkeypatch.setitem(BACKENDS, name, recorder(name))
    return names


@pytest.mark.parametrize(
    ("built", "steps", "chosen"),
    [
        (True, 1, ["cpu"]),
        (True, 100, ["cpu"]),
        (False, 1, ["attention"]),
        (False, 10, ["attention"]),
        (False, 11, ["attention"] * 3),
    ],
)
def test_auto_reads_what_is_cheaper(make_problem, calls, monkeypatch, built, steps, chosen):
    """Sums over what was written grow with T^2: in PyTorch up to 2 H steps, then in chunks of H, here of 5 units."""
    monkeypatch.setattr(cpu, "supports", lambda _: built)
    problem = make_problem(steps=steps, width=5)
    fast_weights(*(problem.leaves()[name] for name in ("inputs", "weight_hh", "h0")))
    assert calls == chosen


def test_the_environment_names_the_backend(make_problem, calls, monkeypatch, backend):
    monkeypatch.setenv("CONTEXTUAL_RNN_BACKEND", backend)
    problem = make_problem(steps=3, width=5)
    tensors = [problem.leaves()[name] for name in ("inputs", "weight_hh", "h0")]
    fast_weights(*tensors)
    assert calls == [backend]
    fast_weights(*tensors, backend="reference")
    assert calls == [backend, "reference"], "an argument wins over the environment"
    monkeypatch.setenv("CONTEXTUAL_RNN_BACKEND", "warp")
    with pytest.raises(ValueError, match="CONTEXTUAL_RNN_BACKEND: expected one of auto, reference"):
        fast_weights(*tensors)


def test_a_named_backend_is_the_one_that_runs(make_problem, calls, backend):
    """Of 5 units, 30 steps are six chunks where there are chunks."""
    for steps in (1, 30):
        make_problem(steps=steps).evaluate(backend)
    assert calls == [backend] * (7 if backend in ("attention", "triton") else 2)


def test_defaults_are_those_of_the_paper(make_problem):
    """decay 0.95, rate 0.5, one inner step, layer norm on, eps as torch's, A(0) zero, Ba et al.'s timing."""
    problem = make_problem(inner_steps=1, decay=0.95, rate=0.5, eps=1e-5, norm="plain", a0="zero", timing="ba2016")
    leaves = problem.leaves()
    output, final = fast_weights(*leaves.values())
    expected, _ = problem.run(leaves, "reference")
    torch.testing.assert_close(output, expected)
    assert final is None


@pytest.mark.parametrize("with_lengths", [False, True])
def test_a_is_carried_from_chunk_to_chunk(make_problem, assert_all_close, fast_backend, timing, a0, with_lengths):
    """Whether anybody asks for the last A or not."""
    sizes = {"steps": 23, "width": 5, "rank": 2, "inner_steps": 1, "learned": True}
    problem = make_problem(timing=timing, a0=a0, with_lengths=with_lengths, **sizes)
    assert_all_close(problem.evaluate(fast_backend), problem.evaluate("reference"), 1e-9)
    leaves = problem.leaves()
    values = {}
    for backend in (fast_backend, "reference"):
        output, final = problem.run(leaves, backend, return_fast_weights=False)
        assert final is None
        values[backend] = dict(
            enumerate([output, *torch.autograd.grad(output, list(leaves.values()), output.detach())])
        )
    assert_all_close(values[fast_backend], values["reference"], 1e-9)


def test_an_editor_shows_every_backend():
    assert set(get_args(FastWeightsBackend)) == {"auto", *BACKENDS}
