"""Sequences of fast weights that the native kernel reads and writes where they stand in a batch."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.test_cpu_kernel import AVAILABLE, SIZES

from contextual_rnn import ContextualRNN, FastWeightsRNN, FreeState
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.dispatch import checked_options
from contextual_rnn.ops._fast_weights.kernel import Given, Settings
from contextual_rnn.ops._fast_weights.segments import run

pytestmark = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
FEATURES = 3


def spread_out(problem):
    """A batch of up to two rows in which the sequences of the problem stand in any order, with gaps; their places."""
    numbers = random.Random(problem.seed)
    order, lengths = list(range(problem.batch)), problem.lengths.tolist()
    numbers.shuffle(order)
    table, ends = torch.zeros(4, problem.batch, dtype=torch.int64), [0] * min(2, problem.batch)
    for number, sequence in enumerate(order):
        row = number if number < 2 else numbers.randrange(2)
        start = ends[row] + numbers.randrange(3)
        table[:3, sequence] = torch.tensor([row, start, lengths[sequence]])
        ends[row] = start + lengths[sequence]
        table[3, (table[0] == row) & (table[3] == 1)] = 0
        table[3, sequence] = 1
    return table, max(1, *ends) + numbers.randrange(2)


def outcomes(problem):
    """Outputs and every gradient where they stand, and of the reference, padded; NaN where no sequence stands.

    The final A of the last sequence of each row goes into the gradients too.
    """
    leaves = problem.leaves()
    leaves["inputs"] = problem.draw(20, problem.batch, problem.steps, FEATURES).requires_grad_()
    small = (0.3 if problem.norm == "none" else 1.2) / problem.width**0.5 / (FEATURES + 1)  # as `Problem` says
    leaves["weight_ih"] = problem.draw(21, problem.width, FEATURES, scale=small).requires_grad_()
    leaves["bias"] = problem.draw(22, problem.width, scale=small).requires_grad_()
    expected, every_final = problem.run(leaves, "reference", return_fast_weights=True)
    table, steps = spread_out(problem)
    last = table[3].nonzero()[:, 0]
    final = every_final[last[table[0, last].argsort()]]
    rows = len(last)
    cotangent, of_final = problem.draw(23, *expected.shape), problem.draw(24, *final.shape)
    wanted = torch.autograd.grad(
        (expected, final), list(leaves.values()), (cotangent, of_final), materialize_grads=True
    )

    places = [(int(row), slice(int(start), int(start + n))) for row, start, n, _ in table.T]
    batch = torch.full((rows, steps, FEATURES), torch.nan, dtype=problem.dtype)
    cotangents = torch.full((rows, steps, problem.width), torch.nan, dtype=problem.dtype)
    for sequence, place in enumerate(places):
        length = place[1].stop - place[1].start
        batch[place] = leaves["inputs"].detach()[sequence, :length]
        cotangents[place] = cotangent[sequence, :length]
    batch.requires_grad_()
    numbers = leaves.get("decay", problem.decay), leaves.get("rate", problem.rate)
    options = checked_options(problem.inner_steps, *numbers, problem.norm != "none", problem.timing, problem.eps, True)
    a0 = problem.a0_of(leaves)
    norm = (leaves.get(name) for name in ("norm_weight", "norm_bias"))
    output, a_n = run(
        batch, table, leaves["weight_hh"], leaves["h0"], a0, *norm, options, leaves["weight_ih"], leaves["bias"]
    )
    given = {**leaves, "inputs": batch}
    found = torch.autograd.grad((output, a_n), list(given.values()), (cotangents, of_final), materialize_grads=True)
    ours, theirs = (
        {"output": output.detach(), "a_n": a_n.detach(), **dict(zip(given, found, strict=True))},
        {"output": torch.zeros_like(output), "a_n": final.detach()},
    )
    theirs["inputs"] = torch.zeros_like(batch)
    for sequence, place in enumerate(places):
        length = place[1].stop - place[1].start
        theirs["output"][place] = expected.detach()[sequence, :length]
        theirs["inputs"][place] = wanted[0][sequence, :length]
    return ours, {**theirs, **{name: grad for name, grad in zip(leaves, wanted, strict=True) if name != "inputs"}}


@pytest.mark.parametrize("variant", AVAILABLE)
@pytest.mark.parametrize("chunk", [1, 2, 7, 100])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_they_are_as_if_alone(problems, assert_all_close, variant, chunk, data):
    """Every instruction set, timing, norm and A(0), lengths of 0 too, with NaN in all memory and between sequences."""
    problem = replace(data.draw(problems), **data.draw(SIZES), with_lengths=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_variant", lambda *_: variant)
        patch.setattr(cpu, "_chunk", lambda steps, width: min(steps, chunk))
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        torch.use_deterministic_algorithms(True)
        try:
            ours, theirs = outcomes(problem)
        finally:
            torch.use_deterministic_algorithms(False)
    assert_all_close(ours, theirs, 1e-10)


@pytest.mark.parametrize("kind", ["zero", "shared", "dense", "low_rank"])
def test_long_ones_beside_short_ones(make_problem, assert_all_close, timing, kind):
    """Blocks of ten chunks, of one, and of less than one."""
    problem = make_problem(batch=50, steps=310, width=3, inner_steps=1, timing=timing, a0=kind, with_lengths=True,
                           learned=True, eps=0.1)  # fmt: skip
    lengths = torch.tensor([310, 250, 33, 32, 31, *[1, 0, 7] * 15])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(problem), "lengths", property(lambda problem: lengths))
        assert_all_close(*outcomes(problem), 1e-10)


def test_memory_that_is_asked_for_is_that_of_their_lengths():
    """And not of as many sequences as long as the longest: of so much the system gives new memory at every call."""
    lengths = torch.tensor([99, *[1] * 47])
    empty = torch.empty(48, 50)
    given = Given(torch.empty(1, 200, 3), empty, empty, *[None] * 5, torch.empty(99), torch.empty(100), lengths,
                  torch.empty(50, 3), None, torch.arange(48))  # fmt: skip
    of_one_block = given._replace(lengths=lengths[:16], places=torch.arange(16))
    numbers = Settings(1, True, True, False, 1e-5)
    assert cpu.saved_size(given, numbers) < 1.1 * cpu.saved_size(of_one_block, numbers)
    as_long = given._replace(lengths=torch.full((48,), 99))
    assert cpu.saved_size(as_long, numbers) == 3 * cpu.saved_size(of_one_block, numbers)


def test_a_sequence_that_diverged_does_not_reach_the_final_state_of_the_next_in_its_row(timing):
    torch.manual_seed(0)
    network = FastWeightsRNN(FEATURES, 4, batch_first=True, return_fast_weights=True, timing=timing).double()
    model = ContextualRNN(network, FreeState(network))
    x = torch.randn(2, 7, FEATURES, dtype=torch.float64)
    x[0, :3] = torch.nan
    reset = torch.zeros(2, 7, dtype=torch.bool)
    reset[0, 3] = reset[1, 2] = True
    _, (h, a) = model(x, reset=reset)
    for row, start in enumerate((3, 2)):
        _, (h_alone, a_alone) = model(x[row : row + 1, start:])
        torch.testing.assert_close((h[row], a[row]), (h_alone[0], a_alone[0]))
