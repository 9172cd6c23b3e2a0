"""The recurrence follows its equations: every backend against loops over single units, and against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from contextual_rnn.ops import LowRank, fast_weights

REPEATABLE = settings(max_examples=150, deadline=None, derandomize=True)


def run_one_sample(x, w, h, a, gain, shift, problem):
    """Eqs. 1 and 2 of Ba et al. for one sample, one unit at a time in Python's floats; shares no code with ours."""
    units = range(problem.width)

    def decay_and_write(a, v):
        return [[problem.decay * a[i][j] + problem.rate * v[i] * v[j] for j in units] for i in units]

    outputs = []
    for x_t in x:
        z = [x_t[i] + sum(w[i][j] * h[j] for j in units) for i in units]
        h = [max(value, 0.0) for value in z]
        if problem.timing == "wenke2019":
            a = decay_and_write(a, h)
        for _ in range(problem.inner_steps):
            bracket = [z[i] + sum(a[i][j] * h[j] for j in units) for i in units]
            if problem.norm != "none":
                mean = sum(bracket) / problem.width
                variance = sum((value - mean) ** 2 for value in bracket) / problem.width
                deviation = math.sqrt(variance + problem.eps)
                bracket = [gain[i] * (bracket[i] - mean) / deviation + shift[i] for i in units]
            h = [max(value, 0.0) for value in bracket]
        if problem.timing == "ba2016":
            a = decay_and_write(a, h)
        outputs.append(h)
    return outputs, a


def run_by_hand(problem):
    """Outputs, zero beyond a sequence's length, and final A."""
    leaves = {name: leaf.tolist() for name, leaf in problem.leaves().items()}
    units, lengths = range(problem.width), problem.lengths
    gain = leaves.get("norm_weight", [1.0] * problem.width)
    shift = leaves.get("norm_bias", [0.0] * problem.width)
    output, final = torch.zeros(problem.batch, problem.steps, problem.width, dtype=torch.float64), []
    for b in range(problem.batch):
        if problem.a0 == "low_rank":
            left, right = leaves["left"][b], leaves["right"][b]
            a = [[sum(left[r][i] * right[r][j] for r in range(problem.rank)) for j in units] for i in units]
        elif problem.a0 == "zero":
            a = [[0.0 for _ in units] for _ in units]
        else:
            a = leaves["a0"] if problem.a0 == "shared" else leaves["a0"][b]
        length = problem.steps if lengths is None else int(lengths[b])
        x = leaves["inputs"][b][:length]
        h, a = run_one_sample(x, leaves["weight_hh"], leaves["h0"][b], a, gain, shift, problem)
        if length:
            output[b, :length] = torch.tensor(h, dtype=torch.float64)
        final.append(a)
    return {"output": output, "final": torch.tensor(final, dtype=torch.float64)}


@REPEATABLE
@given(data=st.data())
def test_equals_loops_over_single_units(problems, assert_all_close, backend, data):
    problem = data.draw(problems)
    output, final = problem.run(problem.leaves(), backend)
    # Rounding alone, amplified where layer norm divides by a small deviation; the worst of thousands was 4e-12.
    assert_all_close({"output": output, "final": final}, run_by_hand(problem), 1e-10)
    assert output.max() < 20, "an explosion would make agreement meaningless"


# z1 = 2, h(1) = 2 (1 + 1/2), A(1) = 1/4 + 9, z2 = 5/2, h(2) = 5/2 (1 + A(1)) and so on: all exact in binary.
@pytest.mark.parametrize(
    ("timing", "inner_steps", "outputs", "final"),
    [
        ("ba2016", 1, [3.0, 25.625], 9.25 / 2 + 25.625**2),
        ("ba2016", 2, [3.5, 2.75 * (1 + 12.5 * 13.5)], 12.5 / 2 + (2.75 * (1 + 12.5 * 13.5)) ** 2),
        ("wenke2019", 1, [10.5, 6.25 * (1 + 4.25 / 2 + 6.25**2)], 4.25 / 2 + 6.25**2),
        ("wenke2019", 2, [46.625, 24.3125 * (1 + 593.22265625 * (1 + 593.22265625))], 593.22265625),
    ],
)
def test_one_unit_by_hand(backend, timing, inner_steps, outputs, final):
    one = torch.ones(1, 1, dtype=torch.float64)
    output, a = fast_weights(
        one.expand(1, 2, 1), 0.5 * one, 2 * one, 0.5 * one[None],
        layer_norm=False, inner_steps=inner_steps, decay=0.5, rate=1.0, timing=timing, return_fast_weights=True,
        backend=backend,
    )  # fmt: skip
    assert output.flatten().tolist() == outputs
    assert a.item() == final


@pytest.mark.parametrize("layer_norm", [False, True])
def test_two_units_by_hand(backend, layer_norm):
    """A v = left (right . v); of two units, layer norm leaves d / sqrt(d^2 + eps) for d half their difference."""
    left, right = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.5, 0.25]]])
    output, _ = fast_weights(
        torch.tensor([[[1.0, 3.0]]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[5.0, 1.0]]),
        LowRank(left, right), norm_weight=torch.tensor([-2.0, 3.0]) if layer_norm else None,
        norm_bias=torch.tensor([0.5, 0.25]) if layer_norm else None, eps=1.0, layer_norm=layer_norm, backend=backend,
    )  # fmt: skip
    bracket = (2 + 1.75, 3 + 3.5)  # z = (1 + 1, 3), right . z = 1.75
    d = (bracket[0] - bracket[1]) / 2 / math.sqrt(((bracket[0] - bracket[1]) / 2) ** 2 + 1)
    expected = [-2 * d + 0.5, max(-3 * d + 0.25, 0)] if layer_norm else list(bracket)
    torch.testing.assert_close(output.flatten(), torch.tensor(expected))


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_inner_steps_sum_powers_of_the_fast_weights(make_problem, backend, timing, inner_steps):
    """h = sum_k A^k z, k = 0 .. S, where nothing is negative and nothing normalised; A is not symmetric."""
    leaves = make_problem(batch=4, steps=1, norm="none").leaves()
    x, w, h0, a0 = (leaves[name].detach().abs() for name in ("inputs", "weight_hh", "h0", "a0"))
    output, _ = fast_weights(
        x, w, h0, a0, layer_norm=False, inner_steps=inner_steps, decay=0.5, rate=0.3, timing=timing, backend=backend
    )
    z = x[:, 0] + h0 @ w.mT
    a = 0.5 * a0 + 0.3 * z[:, :, None] * z[:, None] if timing == "wenke2019" else a0
    expected = sum(torch.linalg.matrix_power(a, k) @ z[:, :, None] for k in range(inner_steps + 1))
    torch.testing.assert_close(output[:, 0], expected[:, :, 0])


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_without_writing_it_is_torchs_rnn(make_problem, assert_all_close, backend, timing, inner_steps, decay):
    """A stays zero, so h = relu(z) however often it is read; outputs and gradients are nn.RNN's."""
    problem = make_problem(
        norm="none", a0="zero", rate=0.0, decay=decay, inner_steps=inner_steps, timing=timing, with_lengths=True
    )
    leaves = problem.leaves()
    rnn = nn.RNN(5, 5, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.eye(5))
        rnn.weight_hh_l0.copy_(leaves["weight_hh"])
    output, _ = rnn(leaves["inputs"], leaves["h0"][None])
    output = output * (torch.arange(problem.steps) < problem.lengths[:, None])[:, :, None]
    ours = problem.evaluate(backend, loss_of=("output",))
    sources = (leaves["inputs"], rnn.weight_hh_l0, leaves["h0"])
    grads = torch.autograd.grad((output * problem.draw(11, *output.shape)).sum(), sources)
    expected = {"output": output, "final": torch.zeros(3, 5, 5, dtype=torch.float64)}
    names = ("gradient of inputs", "gradient of weight_hh", "gradient of h0")
    assert_all_close(ours, expected | dict(zip(names, grads, strict=True)), 1e-13)


@pytest.mark.parametrize("norm", ["none", "affine"])
def test_carried_state_goes_on_where_the_sequence_was_cut(make_problem, assert_all_close, backend, timing, a0, norm):
    problem = make_problem(timing=timing, a0=a0, norm=norm, steps=9)
    leaves = problem.leaves()
    output, final = problem.run(leaves, backend)
    first, a = problem.run(leaves | {"inputs": leaves["inputs"][:, :4]}, backend)
    second, a = problem.run(leaves | {"inputs": leaves["inputs"][:, 4:], "h0": first[:, -1]}, backend, a0=a)
    cut = {"output": torch.cat([first, second], 1), "final": a}
    assert_all_close(cut, {"output": output, "final": final}, 1e-12)


def test_final_fast_weights_only_where_asked_for(make_problem, backend, timing):
    problem = make_problem(timing=timing)
    output, final = problem.run(problem.leaves(), backend)
    alone, nothing = problem.run(problem.leaves(), backend, return_fast_weights=False)
    assert nothing is None
    assert final.shape == (3, 5, 5)
    assert torch.equal(output, alone)
