"""The kernel of nn.RNN, nn.LSTM and nn.GRU over segments, against its reference and torch's networks."""

import itertools
import platform
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.gated_problems import PROBLEMS, Problem
from torch import nn
from torch.library import opcheck

from contextual_rnn.experiments.cli.info import information
from contextual_rnn.ops._gated import cpu, layers
from contextual_rnn.ops._gated.kernel import CELLS, Given, Settings
from contextual_rnn.ops._gated.layers import Stack
from contextual_rnn.ops._gated.operators import OPERATOR
from contextual_rnn.sequences.backend import whole_rows

pytestmark = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
VARIANTS = ["baseline", "avx2", "avx512"]
AVAILABLE = VARIANTS[: VARIANTS.index(cpu.instruction_set() or "baseline") + 1]
KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.parametrize("mode", CELLS)
def test_dense_batches_are_those_of_torch(assert_all_close, mode, proj_size, backend):
    """Two layers of two directions; all gradients, from random states and for random cotangents."""
    if proj_size and mode != "LSTM":
        return
    torch.manual_seed(0)
    options = {"nonlinearity": "relu" if mode == "RNN_RELU" else "tanh"} if "RNN" in mode else {}
    options |= {"proj_size": proj_size} if proj_size else {}
    network = KINDS[mode](4, 7, 2, bidirectional=True, dtype=torch.float64, **options)
    states = [torch.randn(4, 5, proj_size or 7).double()] + [torch.randn(4, 5, 7).double()] * (mode == "LSTM")
    leaves = [torch.randn(6, 5, 4).double(), *states]
    leaves = [leaf.requires_grad_() for leaf in leaves] + list(network.parameters())

    def evaluate(output, *states):
        results = [output, *states]
        generator = torch.Generator().manual_seed(1)
        loss = sum((r * torch.randn(r.shape, generator=generator).double()).sum() for r in results)
        return dict(enumerate([*(r.detach() for r in results), *torch.autograd.grad(loss, leaves)]))

    x, h, c = leaves[0], leaves[1], leaves[2] if mode == "LSTM" else None
    output, state = network(x, h if c is None else (h, c))
    expected = evaluate(output, *(state if isinstance(state, tuple) else [state]))
    stack = Stack(mode, network.all_weights, 2)
    output, h_n, c_n = stack.run(x.transpose(0, 1), h, c, whole_rows(5, 6, None), backend)
    actual = evaluate(output.transpose(0, 1), h_n, *([] if c_n is None else [c_n]))
    assert_all_close(actual, expected, 1e-12)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mode", CELLS)
def test_tensors_that_are_negated_on_reading(mode, compiled):
    """As the imaginary part of a conjugate is: inputs, states, weights and cotangents, contiguous or not."""
    torch.manual_seed(0)
    options = {"proj_size": 3} if mode == "LSTM" else {}
    network = KINDS[mode](1, 7, dtype=torch.float64, **options)
    weights, size = list(network.parameters()), 3 if mode == "LSTM" else 7
    leaves = [torch.randn(4, 12, 1).double(), torch.randn(1, 4, size).double(), *weights]
    c0 = torch.randn(1, 4, 7).double() if mode == "LSTM" else None
    negated = torch.fft.fft(leaves[0][..., 0]).conj().imag.unsqueeze(-1)
    plain = [t.detach().clone().requires_grad_() for t in [negated, *leaves[1:]]]
    given = [t.detach().requires_grad_() for t in [negated, *(torch._neg_view(-t.detach()) for t in leaves[1:])]]
    assert all(tensor.is_neg() for tensor in given)
    cotangents = torch.randn(4, 12, size).double(), torch.randn(1, 4, size if c0 is None else size + 7).double()

    def evaluate(leaves, cotangents):
        x, h0, w_ih, w_hh, b_ih, b_hh, *w_hr = leaves
        of_call = Given(x, w_ih, w_hh, h0, c0, b_ih, b_hh, w_hr[0] if w_hr else None, whole_rows(4, 12, None))
        if compiled:
            results = OPERATOR(*of_call, *Settings.of(mode, False), True, True)[:2]
        else:
            results = layers.BACKENDS["native"](of_call, Settings.of(mode, False))
        return [*results, *torch.autograd.grad(results, leaves, cotangents)]

    actual = evaluate(given, [torch._neg_view(-cotangent) for cotangent in cotangents])
    for ours, theirs in zip(actual, evaluate(plain, cotangents), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("variant", AVAILABLE)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(problem=PROBLEMS)
def test_every_instruction_set_agrees_with_the_reference(assert_all_close, variant, problem):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "instruction_set", lambda: variant)
        actual = problem.evaluate("native")
    assert_all_close(actual, problem.evaluate("reference"), 1e-10)


@pytest.mark.parametrize("mode", CELLS)
@pytest.mark.parametrize("variant", AVAILABLE)
def test_single_precision(assert_all_close, monkeypatch, variant, mode):
    """Against doubles: nine steps and their way back, whose sums have 50 to 400 terms of rounded factors."""
    monkeypatch.setattr(cpu, "instruction_set", lambda: variant)
    problem = Problem(mode, batch=30, steps=9, input_size=9, width=50, resets=0.1, dtype=torch.float32)
    doubles = replace(problem, dtype=torch.float64)
    leaves = problem.leaves(problem.table().shape[1])
    expected = doubles.evaluate("reference", {n: leaf.detach().double().requires_grad_() for n, leaf in leaves.items()})
    assert_all_close(problem.evaluate("native", leaves), expected, 100 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("mode", CELLS)
def test_each_segment_is_as_if_alone(mode):
    """The same bits, wherever it runs and beside whatever else."""
    problem = Problem(mode, batch=40, steps=20, width=19, resets=0.15)
    table = problem.table()
    leaves = problem.leaves(table.shape[1])
    output = problem.run(leaves, table, "native")["output"]
    grads = torch.autograd.grad(output.cos().sum(), [leaves["inputs"], leaves["h0"]])
    for segment in (0, 7, table.shape[1] - 1):
        row, start, length, _ = table[:, segment].tolist()
        piece = slice(start, start + length)
        alone = leaves | {"inputs": leaves["inputs"][row : row + 1, piece].detach().requires_grad_()}
        alone |= {name: leaves[name][:, segment : segment + 1].detach().requires_grad_() for name in ("h0", "c0")
                  if name in leaves}  # fmt: skip
        result = problem.run(alone, whole_rows(1, length, None), "native")["output"]
        assert torch.equal(result[0], output[row, piece])
        ours = torch.autograd.grad(result.cos().sum(), [alone["inputs"], alone["h0"]])
        assert torch.equal(ours[0][0], grads[0][row, piece])
        assert torch.equal(ours[1][:, 0], grads[1][:, segment])


@pytest.mark.parametrize("without", [("output",), ("h", "c"), ("h",)])
@pytest.mark.parametrize("mode", CELLS)
def test_cotangents_may_be_missing(assert_all_close, mode, without):
    problem = Problem(mode, layers=2)
    assert_all_close(problem.evaluate("native", without=without), problem.evaluate("reference", without=without), 1e-11)


@pytest.mark.parametrize("frozen", ["inputs", "ih 0", "hh 0", "bias_hh 0", "h0", "c0", "hr 0"])
def test_gradients_may_be_unwanted(assert_all_close, frozen):
    problem = Problem(proj_size=3, batch=29)
    leaves = problem.leaves(problem.table().shape[1])
    leaves[frozen].requires_grad_(False)
    table, wanted = problem.table(), [leaf for name, leaf in leaves.items() if name != frozen]
    grads = {}
    for backend in ("native", "reference"):
        loss = sum(result.sin().sum() for result in problem.run(leaves, table, backend).values())
        grads[backend] = dict(enumerate(torch.autograd.grad(loss, wanted)))
    assert_all_close(grads["native"], grads["reference"], 1e-11)


@pytest.mark.parametrize("mode", CELLS)
def test_strides(assert_all_close, mode):
    """Inputs of which every second unit is read, weights turned, and the gradient of a sum, which has no strides."""
    problem = Problem(mode, batch=5, input_size=6)
    table = problem.table()
    plain = problem.leaves(table.shape[1])
    turned = {
        name: leaf.detach().mT.contiguous().mT if leaf.ndim > 1 else leaf.detach() for name, leaf in plain.items()
    }
    turned["inputs"] = torch.stack([plain["inputs"].detach()] * 2, 3)[..., 0]
    assert turned["inputs"].stride(2) == 2
    found = []
    for leaves in (turned, plain):
        leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
        output = problem.run(leaves, table, "native" if leaves is not plain else "reference")["output"]
        grads = torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)
        found.append({0: output.detach()} | dict(enumerate((g for g in grads if g is not None), 1)))
    assert_all_close(found[0], found[1], 1e-11)


@pytest.mark.parametrize("mode", CELLS)
def test_what_memory_held_before_does_not_matter(monkeypatch, mode):
    """The same bits with NaN in padding and in everything that is allocated."""
    problem = Problem(mode, batch=29, width=18, input_size=17, layers=2, directions=2)
    table = problem.table()
    leaves = problem.leaves(table.shape[1])
    expected = problem.evaluate("native", leaves)
    outside = torch.ones(problem.batch, problem.steps, dtype=torch.bool)
    for row, start, length, _ in table.T.tolist():
        outside[row, start : start + length] = False
    assert outside.any()
    leaves["inputs"].detach()[outside] = torch.nan
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        actual = problem.evaluate("native", leaves)
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
        assert not outside.any() or name != "output" or not value[outside].any()


@pytest.mark.parametrize("mode", CELLS)
def test_threads_share_the_segments(assert_all_close, monkeypatch, mode):
    problem = Problem(mode, batch=29, steps=9, width=17)
    expected = problem.evaluate("native")
    monkeypatch.setattr(cpu, "_WORTH_THREADS", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert_all_close(problem.evaluate("native"), expected, 1e-12)
    finally:
        torch.set_num_threads(threads)


def one_step(mode, gate, x, h):
    """One unit whose sums are x in `gate` and 0 in the others, one row for each x."""
    gates = CELLS[mode]
    weight_ih = torch.zeros(gates, 1, dtype=x.dtype)
    weight_ih[gate] = 1
    given = Given(x[:, None, None], weight_ih, torch.zeros(gates, 1, dtype=x.dtype), torch.full_like(x, h)[:, None],
                  None, None, None, None, whole_rows(len(x), 1, None))  # fmt: skip
    return cpu.forward(given, Settings.of(mode, False), False, True)[0][:, 0, 0]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no slower with subnormal numbers")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("variant", AVAILABLE)
def test_what_fades_away_ends_at_zero(monkeypatch, variant, threads):
    """Subnormal numbers are zeros in the kernel, in states and in gradients, and elsewhere as they were."""
    monkeypatch.setattr(cpu, "instruction_set", lambda: variant)
    monkeypatch.setattr(cpu, "_WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    batch, steps, width, tiny = 7, 140, 19, torch.finfo(torch.float32).tiny
    weights = [torch.zeros(width, 2), torch.eye(width) / 2]
    h0 = torch.ones(1, batch, width, requires_grad=True)
    table = whole_rows(batch, steps, torch.arange(steps - batch, steps) + 1)
    output, h_n, _ = Stack("RNN_RELU", [weights]).run(torch.zeros(batch, steps, 2), h0, None, table, "native")
    faded = 0.5 ** torch.arange(1, steps + 1).double()
    assert 0 < faded[-1] < tiny / 100
    expected = torch.where(faded < tiny, 0, faded).float()
    assert torch.equal(output[-1], expected[:, None].expand(-1, width))
    assert not h_n.any()
    for size, gradient in ((1, 2**-120), (2**-11, 0)):
        h0.grad = None
        (size * output[:, 119].sum()).backward(retain_graph=True)
        assert torch.equal(h0.grad, torch.full_like(h0, gradient))
    assert torch.tensor(tiny / 100) * 1 > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", AVAILABLE)
def test_sigmoid_and_tanh_are_accurate(monkeypatch, variant, dtype):
    """Four units in the last place, as csrc/activations.h says, and the limits of infinities."""
    monkeypatch.setattr(cpu, "instruction_set", lambda: variant)
    size = torch.cat([torch.logspace(-12, 1.9, 4000, dtype=torch.float64), torch.linspace(0.01, 86, 4000).double()])
    x = torch.cat([size, -size]).to(dtype)
    eps = torch.finfo(dtype).eps
    for ours, exact in (
        (one_step("RNN_TANH", 0, x, 0.0), x.double().tanh()),
        (one_step("GRU", 1, x, 1.0), x.double().sigmoid()),
    ):
        assert ((ours.double() - exact).abs() / exact.abs()).max() <= 4 * eps
    limits = torch.tensor([torch.inf, -torch.inf, 1e30, -1e30, 0.0, -0.0], dtype=dtype)
    assert torch.equal(one_step("RNN_TANH", 0, limits, 0.0), torch.tensor([1, -1, 1, -1, 0, 0], dtype=dtype))
    # An infinity would make NaN of the other gates, whose weights are zero.
    assert torch.equal(one_step("GRU", 1, limits[[2, 4, 5]], 1.0), torch.tensor([1, 0.5, 0.5], dtype=dtype))
    assert one_step("GRU", 1, limits[3:4], 1.0) < (2e-38 if dtype == torch.float32 else 4e-308)
    for bad in (torch.nan, -torch.nan):
        assert one_step("RNN_TANH", 0, torch.full((3,), bad, dtype=dtype), 0.0).isnan().all()
        assert one_step("GRU", 1, torch.full((3,), bad, dtype=dtype), 1.0).isnan().all()


@pytest.mark.parametrize("mode", CELLS)
def test_a_nan_stays_in_its_segment(mode):
    problem = Problem(mode, batch=30, width=17)
    table = problem.table()
    leaves = problem.leaves(table.shape[1])
    with torch.no_grad():
        row, start, _, _ = table[:, table[2].argmax()].tolist()
        leaves["inputs"][row, start] = torch.nan
    bad = problem.run(leaves, table, "native")["output"].isnan().any(2)
    assert bad.any(1).nonzero().tolist() == [[row]]
    assert not bad[row, :start].any()


@pytest.mark.parametrize("mode", CELLS)
def test_no_rows_and_no_steps(mode):
    for batch, steps in itertools.product((0, 2), (0, 3)):
        problem = Problem(mode, batch=batch, steps=steps, layers=2)
        table = whole_rows(batch, steps, None)
        leaves = problem.leaves(batch)
        results = problem.run(leaves, table, "native")
        assert results["output"].shape == (batch, steps, 5)
        if not steps:
            assert torch.equal(results["h"], leaves["h0"])
        for grad in torch.autograd.grad(sum(r.sum() for r in results.values()), list(leaves.values())):
            assert grad.isfinite().all()


def test_information_names_the_instruction_set():
    text = information()["sequences of nn.RNN, nn.LSTM, nn.GRU: native"]
    assert text == f"available ({cpu.instruction_set()}, float32 and float64)"


def test_nothing_is_saved_where_no_gradient_is_wanted(monkeypatch):
    kept = []
    monkeypatch.setattr(cpu, "saved_size", lambda *a, _size=cpu.saved_size: kept.append(1) or _size(*a))
    problem = Problem()
    leaves = problem.leaves(problem.table().shape[1])
    results = problem.run({name: leaf.detach() for name, leaf in leaves.items()}, problem.table(), "native")
    assert not any(result.requires_grad for result in results.values())
    with torch.no_grad():
        problem.run(leaves, problem.table(), "native")
    assert not kept
    problem.run(leaves, problem.table(), "native")
    assert kept


def test_a_second_derivative_is_refused():
    problem = Problem("GRU")
    leaves = problem.leaves(problem.table().shape[1])
    output = problem.run(leaves, problem.table(), "native")["output"]
    (grad,) = torch.autograd.grad(output.square().sum(), leaves["inputs"], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        grad.sum().backward()


def arguments_of(problem):
    """What the operator takes: tensors and settings of one layer, with everything kept."""
    table = problem.table()
    leaves = problem.leaves(table.shape[1])
    bias = [leaves.get(f"bias_{part} 0") for part in ("ih", "hh")]
    tensors = (
        leaves["inputs"],
        leaves["ih 0"],
        leaves["hh 0"],
        leaves["h0"],
        leaves.get("c0"),
        *bias,
        leaves.get("hr 0"),
        table,
    )
    return (*tensors, *Settings.of(problem.mode, False), True, True)


@pytest.mark.parametrize("problem", [Problem(), Problem(proj_size=3), Problem("GRU"), Problem("RNN_RELU", bias=False)])
def test_registration_of_the_operator(problem):
    """By torch's own checks; the one that is left out compares all outputs, of which what is saved has gaps."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(OPERATOR, arguments_of(problem), test_utils=tests)


@pytest.mark.parametrize(
    ("position", "change"),
    [
        (0, lambda x: x[0]), (0, lambda x: x.half()), (0, lambda x: x[:, :, :0]), (0, lambda x: x[1:]),
        (1, lambda w: w[:, 1:]), (1, lambda w: w[1:]), (2, lambda w: w[:, 1:]), (2, lambda w: w[0]),
        (3, lambda h: h[0]), (3, lambda h: h[:, 1:]), (3, lambda h: h.float()), (4, lambda c: c[0]),
        (4, lambda c: c[:, 1:]), (4, lambda c: None),
        (5, lambda b: b[1:]), (5, lambda b: None), (7, lambda _: torch.ones(4, 5).double()), (8, lambda t: t[:3]),
        (8, lambda t: t.int()), (8, lambda t: t + 1), (8, lambda t: t - 1), (8, lambda t: t * 0),
        (8, lambda t: t * torch.tensor([[1], [0], [1], [1]])), (9, lambda _: 4), (9, lambda _: -1), (9, lambda _: 1),
    ],
)  # fmt: skip
def test_an_operator_may_be_called_by_anybody(position, change):
    """What would read or write beyond a tensor's end is refused, not tried."""
    arguments = list(arguments_of(Problem()))
    arguments[position] = change(arguments[position])
    with pytest.raises(ValueError, match="expected"):
        OPERATOR(*arguments)


@pytest.mark.parametrize("position", [0, 1, 2, 3, 8])
def test_an_operator_needs_its_tensors(position):
    arguments = list(arguments_of(Problem()))
    arguments[position] = None
    with pytest.raises((TypeError, RuntimeError), match=r"expected a tensor, got NoneType|Expected a value of type"):
        OPERATOR(*arguments)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_reference_has_the_derivative_of_itself(data):
    problem = data.draw(st.builds(Problem, mode=st.sampled_from(list(CELLS)), seed=st.integers(0, 99)))
    problem = replace(problem, batch=2, steps=3, width=2, input_size=2)
    table = problem.table()
    leaves = problem.leaves(table.shape[1])

    def output(*tensors):
        return problem.run(dict(zip(leaves, tensors, strict=True)), table, "reference")["output"].tanh()

    if problem.mode != "RNN_RELU":  # has a kink
        torch.autograd.gradcheck(output, tuple(leaves.values()))
