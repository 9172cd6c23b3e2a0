"""What the contract suite of all backends does not cover: the build, instruction sets, and bits."""

import ctypes
import functools
import importlib
import itertools
import struct
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import fresh

from contextual_rnn import LowRank
from contextual_rnn.experiments.cli.info import information
from contextual_rnn.ops import fast_weights
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.kernel import Given, Settings
from contextual_rnn.ops._fast_weights.layouts import CLASSIFICATION, PACK, PROBLEM
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions
from contextual_rnn.ops.native import library
from contextual_rnn.ops.native.layout import Layout
from contextual_rnn.ops.native.memory import address

pytestmark = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
VARIANTS = ["baseline", "avx2", "avx512"]
BEST = cpu.instruction_set() or "baseline"
AVAILABLE = VARIANTS[: VARIANTS.index(BEST) + 1]


def run(backend, batch=37, steps=7, width=19, dtype=torch.float32, kind="dense", timing="wenke2019"):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return (0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    leaves = [draw(batch, steps, width), draw(width, width), draw(batch, width)]
    a0 = draw(batch, width, width) if kind == "dense" else LowRank(draw(batch, 3, width), draw(batch, 3, width))
    norm = [draw(width), draw(width)]
    output, final = fast_weights(
        *leaves, a0, norm_weight=norm[0], norm_bias=norm[1], inner_steps=2, timing=timing,
        return_fast_weights=True, backend=backend,
    )  # fmt: skip
    leaves += [*(a0 if kind == "low rank" else [a0]), *norm]
    loss = (output * draw(*output.shape).detach()).sum() + (final * draw(*final.shape).detach()).sum()
    return [output.detach(), final.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("kind", ["dense", "low rank"])
@pytest.mark.parametrize("timing", ["ba2016", "wenke2019"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", AVAILABLE)
def test_every_instruction_set_agrees_with_the_reference(monkeypatch, variant, dtype, timing, kind):
    monkeypatch.setattr(cpu, "_variant", lambda *_: variant)
    found = run("cpu", dtype=dtype, kind=kind, timing=timing)
    expected = run("reference", dtype=torch.float64, kind=kind, timing=timing)
    # Seven steps of two reads and their way back: a few hundred roundings of the largest entry.
    tolerance = 500 * torch.finfo(dtype).eps
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


# Around what registers of 4, 8 and 16 samples and blocks of up to 12 units hold.
SIZES = st.fixed_dictionaries(
    {
        "batch": st.sampled_from([1, 15, 16, 17, 33]),
        "width": st.sampled_from([1, 3, 4, 5, 17, 50, 67]),
        "steps": st.sampled_from([1, 2, 7, 20]),
    }
)


@pytest.mark.parametrize("variant", AVAILABLE)
@pytest.mark.parametrize("chunk", [1, 2, 7, 20])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_size_on_every_instruction_set(problems, assert_all_close, variant, chunk, data):
    """In one chunk or up to twenty; A is kept at the start of every eighth. Tolerance: as for all backends."""
    problem = replace(data.draw(problems), **data.draw(SIZES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_variant", lambda *_: variant)
        patch.setattr(cpu, "_chunk", lambda steps, width: chunk)
        actual = problem.evaluate("cpu")
    assert_all_close(actual, problem.evaluate("reference"), 1e-10)


@pytest.mark.parametrize("variant", AVAILABLE)
@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("other", [None, 5, 16])
def test_an_h0_of_zero(make_problem, assert_all_close, monkeypatch, variant, timing, a0, chunk, other):
    """Products with it are left out for every block of samples that all start from zero, and for no other."""
    monkeypatch.setattr(cpu, "_variant", lambda *_: variant)
    monkeypatch.setattr(cpu, "_chunk", lambda steps, width: chunk)
    problem = make_problem(batch=17, steps=7, width=5, timing=timing, a0=a0, with_lengths=True)
    leaves = problem.leaves()
    with torch.no_grad():
        kept = None if other is None else leaves["h0"][other, 3].clone()
        leaves["h0"].zero_()
        if kept is not None:
            leaves["h0"][other, 3] = kept
    assert_all_close(problem.evaluate("cpu", leaves), problem.evaluate("reference", leaves), 1e-11)


@pytest.mark.parametrize("kind", ["zero", "shared", "dense", "low_rank"])
def test_a_long_sequence(make_problem, assert_all_close, timing, kind):
    """As it comes: ten chunks, the last of them short, and sequences that end in every one of them."""
    problem = make_problem(batch=18, steps=310, width=3, inner_steps=1, timing=timing, a0=kind, norm="affine",
                           with_lengths=True, learned=True, eps=0.1)  # fmt: skip
    assert cpu._chunk(310, 3) == 32
    # Rounding grows over 310 steps; the worst seen was 6e-13.
    assert_all_close(problem.evaluate("cpu"), problem.evaluate("reference"), 1e-10)


@pytest.mark.parametrize("chunk", [3, 100])
def test_strides_and_padding_in_chunks(make_problem, assert_all_close, monkeypatch, timing, a0, chunk):
    monkeypatch.setattr(cpu, "_chunk", lambda steps, width: chunk)
    problem = make_problem(batch=17, steps=30, width=18, timing=timing, a0=a0, with_lengths=True)
    leaves = {
        name: leaf.detach().mT.contiguous().mT if leaf.ndim > 1 else leaf.detach()
        for name, leaf in problem.leaves().items()
    }
    beyond = torch.arange(problem.steps) >= problem.lengths[:, None]
    leaves["inputs"][beyond] = torch.nan
    assert not leaves["inputs"].is_contiguous()
    actual = problem.evaluate("cpu", {name: leaf.requires_grad_() for name, leaf in leaves.items()})
    expected = problem.evaluate("reference")
    assert_all_close(actual, expected, 1e-11)


@pytest.mark.parametrize("chunk", [3, 100])
def test_what_memory_held_before_does_not_matter(make_problem, monkeypatch, timing, a0, chunk):
    """The same bits with NaN in everything that is allocated; PyTorch fills bytes with 255, which is NaN too."""
    monkeypatch.setattr(cpu, "_chunk", lambda steps, width: chunk)
    problem = make_problem(batch=17, steps=30, width=18, timing=timing, a0=a0, with_lengths=True, learned=True)
    expected = problem.evaluate("cpu")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        actual = problem.evaluate("cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@pytest.mark.parametrize("chunk", [3, 100])
def test_samples_end_with_the_longest_beside_them(make_problem, assert_all_close, monkeypatch, timing, a0, chunk):
    """8 long ones, 8 of one or two steps, 8 of none: all that is after their steps is zero, whatever memory held."""
    monkeypatch.setattr(cpu, "_chunk", lambda steps, width: chunk)
    problem = make_problem(batch=24, steps=11, width=5, timing=timing, a0=a0, with_lengths=True, learned=True)
    lengths = torch.tensor([*range(8, 0, -1), *[2, 1] * 4, *[0] * 8])
    monkeypatch.setattr(type(problem), "lengths", property(lambda problem: lengths))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        actual = problem.evaluate("cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert_all_close(actual, problem.evaluate("reference"), 1e-10)


@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("projected", [False, True])
def test_gradients_of_padding_are_zero(monkeypatch, projected, chunk):
    """Those of the kernel itself: those of `fast_weights` are made zero once more."""
    monkeypatch.setattr(cpu, "_chunk", lambda steps, width: chunk)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    batch, steps, width = 20, 7, 5
    lengths = torch.tensor([*range(7, 0, -1), *[2] * 9, *[0] * 4])
    inputs, weight_ih = torch.randn(batch, steps, width), torch.randn(width, width) if projected else None
    given = Given(
        inputs, torch.randn(width, width), torch.randn(batch, width), *[None] * 5,
        torch.rand(steps), torch.rand(steps + 1), lengths, weight_ih,
    )  # fmt: skip
    numbers = Settings.of(FastWeightsOptions(1, 0.9, 0.5, True, "ba2016", 1e-5, False), False)
    torch.use_deterministic_algorithms(True)
    try:
        output, _, saved = cpu.forward(given, numbers, True, False)
        wanted = [name == "inputs" for name in Given._fields]
        (grad,) = cpu.backward(given, numbers, output, saved, torch.randn_like(output), None, wanted)
    finally:
        torch.use_deterministic_algorithms(False)
    beyond = torch.arange(steps) >= lengths[:, None]
    assert grad.isfinite().all()
    assert grad[~beyond].any()
    assert not torch.cat([grad[beyond], output[beyond]]).any()


@pytest.fixture
def threads(monkeypatch):
    """Sets the number of threads, however small the work."""
    before = torch.get_num_threads()
    monkeypatch.setattr(cpu, "_WORTH_THREADS", 0)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("chunk", [3, 100])
def test_any_number_of_threads_gives_the_same_bits(make_problem, monkeypatch, threads, timing, chunk):
    """80 blocks of 16 samples: more than there are groups for sums over samples.

    Of the outputs: the final A is a product of PyTorch's, whose sums are other ones with every number of threads.
    """
    monkeypatch.setattr(cpu, "_chunk", lambda steps, width: chunk)
    problem = make_problem(batch=1270, steps=5, width=7, timing=timing, learned=True, dtype=torch.float32)
    results = []
    for number in (1, 2, 3):
        threads(number)
        results.append(problem.evaluate("cpu", loss_of=("output",)))
    for name, value in results[0].items():
        if name == "final":
            continue
        assert torch.equal(results[1][name], value), name
        assert torch.equal(results[2][name], value), name


@pytest.mark.skipif(not (sys.platform == "linux" and torch.backends.openmp.is_available()), reason="no libgomp")
def test_threads_are_those_of_pytorch():
    """No second copy of libgomp is loaded: it would bring a second pool of threads. Other packages bring theirs."""
    program = (
        "import torch; from contextual_rnn.ops import fast_weights; from contextual_rnn.ops._fast_weights import cpu;"
        "from contextual_rnn.ops.native.library import load; torch.set_num_threads(2);"
        "fast_weights(torch.ones(64, 9, 50), torch.eye(50), torch.ones(64, 50), backend='cpu');"
        "assert load(*cpu._LAYOUTS).contextual_rnn_has_threads();"
        "maps = open('/proc/self/maps').read().splitlines();"
        "print(len({line.split()[-1] for line in maps if 'libgomp' in line.rpartition('/')[2]}))"
    )
    assert fresh.run(program).stdout.strip() == "1"


@pytest.mark.parametrize("tasks", [1, 2])
def test_tasks_run_on_no_more_threads_than_there_are_tasks(tasks):
    """A stream of one row, for example, has memory for one thread."""
    run_on = []
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    run = signature(lambda context, task, thread: run_on.append((task, thread)))
    parallel = library.load(*cpu._LAYOUTS).contextual_rnn_parallel
    parallel(ctypes.c_int64(tasks), ctypes.c_int64(5), run, None)
    assert sorted(task for task, _ in run_on) == [*range(tasks)]
    assert all(thread < tasks for _, thread in run_on)


@pytest.mark.parametrize(
    ("best", "batch", "dtype", "expected"),
    [
        ("avx512", 8, torch.float32, "avx2"),
        ("avx512", 9, torch.float32, "avx512"),
        ("avx512", 4, torch.float64, "avx2"),
        ("avx512", 5, torch.float64, "avx512"),
        ("avx2", 1, torch.float32, "avx2"),
        ("baseline", 1, torch.float32, "baseline"),
    ],
)
def test_few_samples_go_into_small_registers(monkeypatch, best, batch, dtype, expected):
    monkeypatch.setattr(cpu, "instruction_set", lambda: best)
    assert cpu._variant(batch, dtype) == expected


@pytest.mark.parametrize("variant", AVAILABLE)
@pytest.mark.parametrize("rank", [None, 3])
def test_what_is_saved_fits(monkeypatch, variant, rank):
    """The formula in Python is that of the kernel, for any instruction set."""
    monkeypatch.setattr(cpu, "_variant", lambda *_: variant)
    for batch, steps, width, reads, norm, dtype in itertools.product(
        (1, 16, 17), (1, 4, 99, 300), (2, 50), (1, 2), (True, False), (torch.float32, torch.float64)
    ):
        empty = functools.partial(torch.empty, dtype=dtype)
        a0 = empty(batch, width, width) if rank is None else None
        factor = None if rank is None else empty(batch, rank, width)
        tensors = Given(
            empty(batch, steps, width), *[empty(1)] * 2, a0, factor, factor, *[None] * 2, *[empty(1)] * 2, None
        )
        options = Settings(reads, True, norm, False, 1e-5)
        sizes = cpu._sizes(tensors.inputs.shape, options, True, rank or 0, a0 is not None)
        packed = PACK[False, False](*sizes, *map(address, tensors), 0, 0, 0)
        size = cpu.function("saved", dtype, variant, [ctypes.c_char_p], ctypes.c_int64)
        assert size(packed) == cpu.saved_size(tensors, options)


def test_a_long_sequence_keeps_little():
    """Less than its outputs take, where A at every step would be 64 times as much."""
    tensors = Given(torch.empty(32, 2048, 64), *[torch.empty(1)] * 9, None)._replace(a0=None, left=None)
    assert cpu.saved_size(tensors, Settings(1, True, True, False, 1e-5)) < tensors.inputs.numel()


def test_results_are_the_same_bits_every_time():
    assert all(map(torch.equal, run("cpu"), run("cpu")))


@pytest.mark.parametrize("where", [0, 20, 36])
def test_a_nan_stays_in_its_sample(where):
    inputs = torch.randn(37, 5, 8)
    inputs[where, 2] = torch.nan
    output, _ = fast_weights(inputs, torch.eye(8), torch.zeros(37, 8), backend="cpu")
    bad = output.isnan().any(dim=2).any(dim=1)
    assert bad.nonzero().tolist() == [[where]]


def test_nothing_is_kept_where_no_gradient_is_wanted(monkeypatch):
    kept = []
    monkeypatch.setattr(cpu, "_run", lambda *a, _run=cpu._run: kept.append(a[3]) or _run(*a))
    tensors = [torch.randn(40, 5, 8), torch.eye(8), torch.randn(40, 8)]
    without, _ = fast_weights(*tensors, backend="cpu")
    tensors[0].requires_grad_()
    with_gradients, _ = fast_weights(*tensors, backend="cpu")
    assert kept == [False, True]
    assert torch.equal(without, with_gradients)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            evaluated, _ = fast_weights(*tensors, backend="cpu")
        assert not evaluated.requires_grad
        assert torch.equal(without, evaluated)
    assert kept == [False, True, False, False]


def test_other_tensors_are_refused_with_the_reason():
    tensors = [torch.randn(2, 5, 8).bfloat16(), torch.eye(8).bfloat16(), torch.randn(2, 8).bfloat16()]
    with pytest.raises(
        ValueError, match=r"backend: expected tensors for the cpu kernel, .*float32 and float64\), got torch.bfloat16"
    ):
        fast_weights(*tensors, backend="cpu")


def test_information_names_the_instruction_set():
    assert information()["fast weights: cpu"] == f"available ({BEST}, float32 and float64)"


OTHER_FIELDS = {
    "one field less": lambda fields: fields[:-1],
    "one field more": lambda fields: [*fields, ("result", "grad_grad")],
    # The struct is as large as before.
    "two fields have changed places": lambda fields: [
        (kind, names.replace("rank chunk", "chunk rank")) for kind, names in fields
    ],
    "a field has another name": lambda fields: [(kind, names.replace("rank", "range")) for kind, names in fields],
    "a field has another type": lambda fields: [
        ("integer" if kind == "real" else kind, names) for kind, names in fields
    ],
}


@pytest.mark.parametrize("layout", [PROBLEM, CLASSIFICATION], ids=lambda layout: layout.name)
@pytest.mark.parametrize("change", OTHER_FIELDS)
def test_a_build_of_other_fields_is_refused(monkeypatch, layout, change):
    fields = OTHER_FIELDS[change](layout.fields)
    assert fields != list(layout.fields)
    other = Layout(layout.name, fields)
    layouts = [other if layout is each else each for each in (PROBLEM, CLASSIFICATION)]
    monkeypatch.delenv("CONTEXTUAL_RNN_KERNEL", raising=False)
    assert library.load(*layouts) is None
    assert library.instruction_set(*layouts) is None
    assert library.availability(*layouts).startswith("not available: built from other sources")
    named = library.load(PROBLEM, CLASSIFICATION)._name
    monkeypatch.setenv("CONTEXTUAL_RNN_KERNEL", named)
    library.load.cache_clear()
    with pytest.raises(ImportError, match=r"CONTEXTUAL_RNN_KERNEL: expected a build of these sources, got .*cpu"):
        library.load(*layouts)


def test_a_layout_packs_by_name():
    layout = Layout("three", [("integer", "batch steps"), ("real", "eps")])
    assert layout.packer(("eps", "batch"))(0.5, 7) == struct.pack("=qqd", 7, 0, 0.5)
    for names in (("batch", "ranks"), ("batch", "batch")):
        with pytest.raises(AssertionError, match=r"three has no fields|three: a field is named twice"):
            layout.packer(names)
    with pytest.raises(AssertionError):
        layout.packer(("eps", "batch"))(0.5, 7, 8)
    with pytest.raises(AssertionError, match="two fields have the same name"):
        Layout("twice", [("integer", "batch steps batch")])


def test_a_library_without_our_functions_is_refused():
    foreign = importlib.import_module("_struct").__file__  # a library that loads, and has nothing of ours
    done = fresh.run("import contextual_rnn.ops", check=False, CONTEXTUAL_RNN_KERNEL=str(foreign))
    assert done.returncode == 1
    assert f"CONTEXTUAL_RNN_KERNEL: expected a build of these sources, got {foreign}" in done.stderr


def test_without_the_library_pytorch_serves():
    code = """
import torch
from contextual_rnn.ops import fast_weights
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops.native import library
library.instruction_set, library._installed, cpu._BUILT = lambda *_: None, lambda: None, False
assert cpu.availability().startswith("not available: not built at install")
output, _ = fast_weights(torch.randn(2, 3, 4), torch.eye(4), torch.randn(2, 4))
assert output.shape == (2, 3, 4)
try:
    fast_weights(torch.randn(2, 3, 4), torch.eye(4), torch.randn(2, 4), backend="cpu")
except ValueError as error:
    assert "not built at install" in str(error)
else:
    raise SystemExit("the missing kernel ran")
"""
    fresh.run(code)
