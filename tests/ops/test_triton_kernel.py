"""The Triton kernel against the reference: on a GPU where there is one, else under Triton's interpreter.

    pytest tests/ops/test_triton_kernel.py            on the GPU where there is one, with larger sizes
    TRITON_INTERPRET=1 pytest tests/ops -k triton     every test that all backends have, under the interpreter: slow

The interpreter must be asked for before triton is imported, so without a GPU a test here runs the others in processes
of their own. It computes with NumPy, one program after another, and has no threads: that nobody reads what another
thread has yet to store is checked by itself, and that the programs compile for a GPU likewise.
"""

import os
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import fresh
from torch._subclasses.fake_tensor import FakeTensorMode

from contextual_rnn import FastWeightsRNN
from contextual_rnn.ops import BACKENDS, TIMINGS, fast_weights
from contextual_rnn.ops._fast_weights.kernel import Given, Settings
from contextual_rnn.ops._fast_weights.triton import launch as triton

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
installed = pytest.mark.skipif(not triton._INSTALLED, reason="triton is not installed")
numbers = pytest.mark.usefixtures("runs_here")
interpreted = pytest.mark.skipif(not triton._INTERPRETED, reason="checked under TRITON_INTERPRET=1")

# Each timing and A(0) with another norm, lengths or not; sizes are odd, as every tile then has an edge.
SMALL = [
    {"timing": timing, "a0": a0, "norm": norm, "with_lengths": with_lengths, "inner_steps": reads}
    for timing, a0, norm, with_lengths, reads in [
        ("ba2016", "zero", "affine", True, 2),
        ("ba2016", "shared", "plain", False, 1),
        ("ba2016", "dense", "gain", True, 1),
        ("ba2016", "low_rank", "none", False, 2),
        ("wenke2019", "zero", "bias", False, 1),
        ("wenke2019", "shared", "affine", True, 2),
        ("wenke2019", "dense", "none", True, 2),
        ("wenke2019", "low_rank", "affine", False, 1),
    ]
]
SIZES = [
    {"batch": 17, "steps": 1, "width": 3, "inner_steps": 1, "a0": "dense"},
    {"batch": 1, "steps": 1, "width": 1, "a0": "low_rank", "timing": "ba2016"},
    {"batch": 1, "steps": 1, "width": 7, "a0": "shared", "timing": "wenke2019"},
    {"batch": 1, "steps": 3, "width": 131, "a0": "dense", "inner_steps": 1, "timing": "wenke2019"},
    {"batch": 1, "steps": 17, "width": 2, "a0": "zero", "inner_steps": 1, "norm": "none"},
]
# Every number of warps, matrices in registers or not, tiles by the dozen; samples together from 2,048 on.
SIZES_OF_A_GPU = [
    *[(128, 11, 50), (300, 40, 64), (33, 70, 128), (5, 150, 200), (3, 20, 520), (2, 9, 2048)],
    *[(2060, 11, 50), (2049, 9, 131)],
]
LARGE = [
    {"batch": batch, "steps": steps, "width": width, "a0": a0, "timing": timing, "with_lengths": True, "decay": 0.95}
    for batch, steps, width in SIZES_OF_A_GPU
    for a0 in ("zero", "shared", "dense", "low_rank")
    for timing in TIMINGS
]


def patched_once(patch):
    """The interpreter's patch of triton.language, once a program: it repeats it with every function that is called, and
    takes half of the time for that."""
    restores = {}

    def restore():
        for each in reversed(restores.values()):
            each()
        restores.clear()

    def patched(function):
        names = id(function.__globals__)
        if names in restores:
            return None
        scope = patch(function)
        restores[names], scope.restore = scope.restore, restore
        return scope

    return patched


def remembered(numpy_dtype):
    """NumPy's dtype of a type of Triton, for which the interpreter makes a table of all of them at every call."""
    dtypes = {}

    def of(kind):
        name = kind.scalar.name
        if name not in dtypes:
            dtypes[name] = numpy_dtype(kind)
        return dtypes[name]

    return of


if triton._INTERPRETED:
    from triton.runtime import interpreter

    interpreter._patch_lang = patched_once(interpreter._patch_lang)
    interpreter._get_np_dtype = remembered(interpreter._get_np_dtype)


@pytest.fixture(scope="session")
def runs_here():
    if not triton.supports(torch.empty(1, device=DEVICE)):
        pytest.skip("no GPU, and not under TRITON_INTERPRET=1, where test_under_the_interpreter runs this")


def evaluate(problem, backend, device, leaves=None, **options):
    """As `Problem.evaluate`, on a device."""
    leaves = problem.leaves() if leaves is None else leaves
    leaves = {name: leaf.detach().to(device).requires_grad_() for name, leaf in leaves.items()}
    results = problem.run(leaves, backend, **options)
    cotangents = [problem.draw(11 + i, *result.shape).to(device) for i, result in enumerate(results)]
    loss = sum((result * cotangent).sum() for result, cotangent in zip(results, cotangents, strict=True))
    grads = torch.autograd.grad(loss, list(leaves.values()))
    values = {"output": results[0].detach(), "final": results[1].detach()}
    values |= {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: value.cpu() for name, value in values.items()}


@pytest.fixture
def agrees(make_problem, assert_all_close):
    """Values and every gradient are those of the reference, both in double precision."""

    def check(tolerance=1e-10, **sizes):
        problem = make_problem(**{"learned": True} | sizes)
        assert_all_close(evaluate(problem, "triton", DEVICE), evaluate(problem, "reference", "cpu"), tolerance)

    return check


@pytest.fixture
def small_tiles(monkeypatch):
    """Several tiles in few steps: of two rows each, and of eight columns of a matrix that is read from memory."""

    def options(given, settings, _options=triton._options):
        return _options(given, settings) | {"BLOCK_T": 2, "BLOCK_K": 8, "RESIDENT": False}

    monkeypatch.setattr(triton, "_options", options)


@pytest.fixture(params=["resident", "tiled"])
def together(monkeypatch, request):
    """Four samples a program, by products of matrices, as there are on a GPU where samples are many."""
    tiles = {"BLOCK_T": 1, "RESIDENT": True} if request.param == "resident" else {"BLOCK_T": 2, "RESIDENT": False}

    def options(given, settings, _options=triton._options):
        return _options(given, settings) | {"BLOCK_B": 4, "BLOCK_K": 16, "PRECISION": "ieee"} | tiles

    monkeypatch.setattr(triton, "_options", options)


@interpreted
@pytest.mark.parametrize(
    "options", [o for o in SMALL if o["a0"] != "dense"], ids=lambda options: f"{options['timing']}-{options['a0']}"
)
def test_samples_together(agrees, together, options):
    """The last program has places for samples that there are not."""
    agrees(batch=6, steps=4, width=5, seed=1, **options)


@numbers
@pytest.mark.parametrize("options", SMALL, ids=lambda options: f"{options['timing']}-{options['a0']}")
def test_equals_the_reference(agrees, options):
    agrees(batch=3, steps=4, width=5, seed=1, **options)


@numbers
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(str(sizes[n]) for n in ("batch", "steps", "width")))
def test_every_size(agrees, sizes):
    agrees(**sizes)


@numbers
@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize(("a0", "rank"), [("dense", 1), ("low_rank", 5)])
def test_tiles_join(agrees, small_tiles, timing, a0, rank):
    agrees(batch=1, steps=5, width=11, inner_steps=2, timing=timing, a0=a0, rank=rank)


@numbers
def test_a_low_rank_of_nothing(make_problem, assert_all_close):
    options = {"batch": 1, "steps": 2, "width": 3, "inner_steps": 1}
    nothing = evaluate(make_problem(a0="low_rank", rank=0, **options), "triton", DEVICE)
    expected = evaluate(make_problem(a0="zero", **options), "reference", "cpu")
    assert_all_close({name: nothing[name] for name in expected}, expected, 1e-12)


@numbers
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_problem_equals_the_reference(make_problem, assert_all_close, data):
    problem = data.draw(
        st.builds(
            make_problem,
            batch=st.integers(1, 3),
            steps=st.integers(1, 3),
            width=st.integers(2, 6),
            inner_steps=st.integers(1, 2),
            timing=st.sampled_from(TIMINGS),
            norm=st.sampled_from(["none", "plain", "gain", "bias", "affine"]),
            a0=st.sampled_from(["zero", "shared", "dense", "low_rank"]),
            decay=st.sampled_from([0.0, 0.5, 1.0]),
            rate=st.sampled_from([0.0, 0.5]),
            eps=st.sampled_from([1e-5, 0.1]),
            with_lengths=st.booleans(),
            learned=st.booleans(),
            seed=st.integers(0, 10**6),
        )
    )
    assert_all_close(evaluate(problem, "triton", DEVICE), evaluate(problem, "reference", "cpu"), 1e-10)


@pytest.mark.skipif(not GPU, reason="of sizes for a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", LARGE, ids=lambda sizes: "-".join(map(str, sizes.values())))
def test_large(make_problem, assert_all_close, sizes, dtype):
    """In single precision for as long as rounding errors do not grow with the number of steps.

    There, of the millions of units of thousands of samples, a few at the kink of their ReLU fall on the other side: the
    reference's own gradients in float32 are off by 6e-3 of the largest then, and by 3e-4 in the norm, in which they are
    compared.
    """
    if dtype == torch.float32:
        sizes = sizes | {"steps": min(sizes["steps"], 11)}
    problem = make_problem(**sizes, dtype=dtype)
    rounded = {name: leaf.detach().double() for name, leaf in problem.leaves().items()}
    actual = evaluate(problem, "triton", DEVICE)
    expected = evaluate(make_problem(**sizes), "reference", DEVICE, rounded)
    if dtype == torch.float32 and sizes["batch"] > 2000:
        for name in [name for name in expected if name.startswith("gradient")]:
            value, wanted = actual.pop(name).double(), expected.pop(name)
            assert (value - wanted).norm() <= 1e-3 * wanted.norm(), name
    assert_all_close(actual, expected, 1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.skipif(not GPU, reason="the interpreter cannot be traced")
@pytest.mark.parametrize("batch", [3, 2048])
def test_compiled_and_under_autocast(batch):
    """A network on the GPU gives one and the same, in float32 also where autocast asks for less around it."""
    network = FastWeightsRNN(6, 50, batch_first=True).to(DEVICE)
    x, h0 = torch.randn(batch, 7, 6, device=DEVICE), torch.rand(batch, 50, device=DEVICE, requires_grad=True)
    leaves = [h0, *network.parameters()]

    def evaluated(call):
        output, _ = call(x, h0)
        return [output.detach(), *torch.autograd.grad(output, leaves, output.detach())]

    plain, compiled = evaluated(network), evaluated(torch.compile(network, fullgraph=True, backend="aot_eager"))
    with torch.autocast(DEVICE, torch.bfloat16):
        cast = evaluated(network)
    for value, same, half in zip(plain, compiled, cast, strict=True):
        torch.testing.assert_close(same, value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, value, rtol=0.1, atol=0.1 * float(value.abs().max()))


# What is stored is rounded: 12 dependent reads and writes, passed on with a gain of up to 10 where layer norm divides
# by the deviation of its bracket; of the largest entry. Sums are in float32 for all but float64.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}


@numbers
@pytest.mark.parametrize(("dtype", "timing"), [*zip(TOLERANCES, (*TIMINGS, TIMINGS[0]), strict=True)], ids=str)
def test_fewer_bits(make_problem, assert_all_close, timing, dtype):
    """Against the reference in double precision, from the same numbers."""
    options = {"timing": timing, "a0": "dense", "steps": 4, "width": 6, "batch": 2, "with_lengths": True, "seed": 3}
    problem = make_problem(**options, dtype=dtype)
    rounded = {name: leaf.detach().double() for name, leaf in problem.leaves().items()}
    actual = evaluate(problem, "triton", DEVICE)
    assert {value.dtype for value in actual.values()} == {dtype}
    assert_all_close(actual, evaluate(make_problem(**options), "reference", "cpu", rounded), TOLERANCES[dtype])


@numbers
@pytest.mark.parametrize("a0", ["shared", "low_rank"])
def test_any_memory_layout(make_problem, assert_all_close, a0):
    """Axes reversed in memory and NaN between the numbers, cotangents that are one number tiled."""
    problem = make_problem(a0=a0, timing="wenke2019", steps=3, inner_steps=1)

    def scattered(leaf):
        storage = leaf.new_full((*reversed(leaf.shape), 2), torch.nan, device=DEVICE)
        view = storage[..., 0].permute(*reversed(range(leaf.ndim)))
        return view.copy_(leaf.detach()).detach().requires_grad_()

    results = []
    for make in (scattered, lambda leaf: leaf.detach().to(DEVICE).requires_grad_()):
        leaves = {name: make(leaf) for name, leaf in problem.leaves().items()}
        (output, final) = problem.run(leaves, "triton")
        grads = torch.autograd.grad(output.sum() + final.sum(), list(leaves.values()))
        results.append(dict(enumerate([output, final, *grads])))
    assert_all_close(*results, 1e-12)


def leaks_nowhere(problem, assert_all_close, *of_a0):
    """NaN in the padding is not seen; NaN in one sample stays in its rows, gradients included."""
    beyond = torch.arange(3) >= problem.lengths[:, None]
    assert beyond.any()
    padded, poisoned = problem.leaves(), problem.leaves()
    with torch.no_grad():
        padded["inputs"][beyond] = torch.nan
        poisoned["inputs"][1, 0, 0] = torch.nan
    plain = evaluate(problem, "triton", DEVICE)
    assert (plain["output"][beyond] == 0).all()
    assert (plain["gradient of inputs"][beyond] == 0).all()
    assert (plain["output"][~beyond] != 0).any(-1).all()
    assert_all_close(evaluate(problem, "triton", DEVICE, padded), plain, 0)
    found = evaluate(problem, "triton", DEVICE, poisoned)
    assert found["output"][1, 0].isnan().any()
    rows = ("output", "final", "gradient of inputs", "gradient of h0", *(f"gradient of {name}" for name in of_a0))
    assert_all_close(*({name: values[name][[0, 2]] for name in rows} for values in (found, plain)), 0)


@numbers
@pytest.mark.parametrize("timing", TIMINGS)
def test_padding_and_other_samples_leak_nowhere(make_problem, assert_all_close, timing):
    options = {"a0": "dense", "with_lengths": True, "seed": 1, "steps": 3, "inner_steps": 1}
    leaks_nowhere(make_problem(timing=timing, **options), assert_all_close, "a0")


@interpreted
@pytest.mark.parametrize("timing", TIMINGS)
def test_samples_together_leak_nowhere(make_problem, assert_all_close, together, timing):
    options = {"a0": "low_rank", "with_lengths": True, "seed": 1, "steps": 3, "inner_steps": 1}
    leaks_nowhere(make_problem(timing=timing, **options), assert_all_close, "left", "right")


@numbers
@pytest.mark.parametrize("a0", ["zero", "shared", "low_rank"])
def test_an_empty_batch(make_problem, a0):
    problem = make_problem(batch=0, a0=a0, timing="wenke2019")
    values = evaluate(problem, "triton", DEVICE)
    assert values["output"].shape == (0, problem.steps, problem.width)
    assert values["final"].shape == (0, problem.width, problem.width)
    assert not any(value.any() for value in values.values())


@numbers
@pytest.mark.parametrize(("timing", "tiled"), [("wenke2019", False), ("ba2016", True)])
def test_nothing_is_kept_where_no_gradient_is_wanted(make_problem, request, monkeypatch, timing, tiled):
    """And the outputs are the same bits; products that are read from memory have queries there all the same."""
    if tiled:
        request.getfixturevalue("small_tiles")
    sizes = []

    def forward(*arguments, _forward=triton.forward):
        results = _forward(*arguments)
        sizes.append(results[2].numel())
        return results

    monkeypatch.setattr(triton, "forward", forward)
    problem = make_problem(timing=timing, a0="dense", steps=3)
    leaves = {name: leaf.detach().to(DEVICE) for name, leaf in problem.leaves().items()}
    without = problem.run(leaves, "triton")
    leaves["inputs"].requires_grad_()
    kept = problem.run(leaves, "triton")
    reads = problem.batch * problem.steps * problem.inner_steps
    assert sizes == [0, reads * (2 * problem.width + 1)]
    assert all(map(torch.equal, without, kept))


@numbers
@pytest.mark.parametrize("a0", ["dense", "low_rank"])
def test_each_leaf_alone_may_want_a_gradient(make_problem, a0):
    problem = make_problem(a0=a0, learned=True, batch=1, steps=2, inner_steps=1, width=2)
    everything = evaluate(problem, "triton", DEVICE)
    for wanted in problem.leaves() if a0 == "low_rank" else ["a0"]:
        leaves = {name: leaf.detach().to(DEVICE) for name, leaf in problem.leaves().items()}
        leaves[wanted].requires_grad_()
        results = problem.run(leaves, "triton")
        cotangents = [problem.draw(11 + i, *result.shape).to(DEVICE) for i, result in enumerate(results)]
        (grad,) = torch.autograd.grad(results, leaves[wanted], cotangents)
        torch.testing.assert_close(grad.cpu(), everything[f"gradient of {wanted}"])


@numbers
@pytest.mark.parametrize("timing", TIMINGS)
def test_backward_twice_gives_the_same_bits(make_problem, timing):
    """What is kept, the arguments and the cotangents are left as they were."""
    problem = make_problem(timing=timing, a0="shared", steps=3, inner_steps=1, learned=True)
    leaves = {name: leaf.detach().to(DEVICE).requires_grad_() for name, leaf in problem.leaves().items()}
    output, _ = problem.run(leaves, "triton")  # alone, or autograd sums its cotangents in a tensor of its own
    cotangent = problem.draw(11, *output.shape).to(DEVICE)
    kept = [tensor.detach().clone() for tensor in (cotangent, output, *leaves.values())]
    first, second = (torch.autograd.grad(output, list(leaves.values()), cotangent, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, kept, (cotangent, output, *leaves.values())))


class RaceError(AssertionError):
    """A thread may have seen, or not have seen, what another one did."""


class Threads:
    """Watches what the programs read and write between two barriers, as if every element had a thread of its own.

    Addresses that one operation reads and another then writes are in order only if it wrote exactly what was read:
    the written depends on the read. All else that meets between barriers, or between programs, is a race.
    """

    def __init__(self, builder):
        self.builder, self.owners = builder, {}
        self.program, self.written, self.read = None, set(), []
        self.barriers = 0

    def addresses(self, pointers, mask):
        if self.builder.grid_idx != self.program:
            self.barrier()
            self.program = self.builder.grid_idx
        found = np.broadcast_to(pointers.data, np.shape(mask.data))[mask.data]
        return frozenset(found.tolist())

    def barrier(self):
        self.written, self.read = set(), []
        self.barriers += 1

    def load(self, pointers, mask):
        addresses = self.addresses(pointers, mask)
        if addresses & self.written:
            raise RaceError("read what was written since the last barrier")
        if any(self.owners.get(address, self.program) != self.program for address in addresses):
            raise RaceError("read what another program wrote")
        self.read.append(addresses)

    def store(self, pointers, mask):
        addresses = self.addresses(pointers, mask)
        if addresses & self.written:
            raise RaceError("wrote twice since the last barrier")
        if any(addresses & read and addresses != read for read in self.read):
            raise RaceError("wrote what was read since the last barrier")
        for address in addresses:
            if self.owners.setdefault(address, self.program) != self.program:
                raise RaceError("wrote what another program wrote")
        self.written |= addresses


@pytest.fixture
def nobody_races(make_problem, monkeypatch):
    """Runs a problem, watched."""
    from triton.runtime.interpreter import interpreter_builder as builder

    watched = []

    def launch(*arguments, _launch=triton._launch, **options):
        watched.append(Threads(builder))
        _launch(*arguments, **options)

    def watch(name, before):
        original = getattr(type(builder), name)
        monkeypatch.setattr(builder, name, lambda *a: (before(*a), original(builder, *a))[1], raising=False)

    monkeypatch.setattr(triton, "_launch", launch)
    watch("create_masked_load", lambda pointers, mask, *_: watched[-1].load(pointers, mask))
    watch("create_masked_store", lambda pointers, _, mask, *__: watched[-1].store(pointers, mask))
    watch("create_barrier", lambda *_: watched[-1].barrier())

    def check(keep, **options):
        problem = make_problem(steps=3, width=9, learned=keep, **options)
        if keep:
            evaluate(problem, "triton", "cpu")
        else:
            problem.run({name: leaf.detach() for name, leaf in problem.leaves().items()}, "triton")
        assert len(watched) == (2 if keep else 1)
        assert all(threads.barriers > 0 and threads.owners for threads in watched)

    return check


@interpreted
@pytest.mark.parametrize(
    ("timing", "a0", "keep"),
    [
        ("ba2016", "dense", True),
        ("ba2016", "dense", False),
        ("ba2016", "zero", True),
        ("wenke2019", "dense", True),
        ("wenke2019", "dense", False),
    ],
)
def test_threads_wait_for_one_another(nobody_races, small_tiles, timing, a0, keep):
    nobody_races(keep, timing=timing, a0=a0, batch=2)


@interpreted
@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("keep", [True, False])
def test_threads_wait_with_samples_together(nobody_races, together, timing, keep):
    nobody_races(keep, timing=timing, a0="shared", batch=6, with_lengths=True)


@pytest.mark.skipif(GPU or triton._INTERPRETED or not triton._INSTALLED, reason="the tests themselves run already")
def test_under_the_interpreter():
    """In a process of its own, for Triton's own functions are made for the interpreter when they are imported."""
    which = "not (auto or library or says)"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", which]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def problem_of(dtype, width, a0, early, norm, inner_steps, batch=2, steps=40):
    """What one call is given, by shape alone."""

    def of(*shape):
        return torch.empty(*shape, dtype=dtype)

    dense = of(batch, width, width) if a0 in ("dense", "shared") else None
    low_rank = (of(batch, 3, width), of(batch, 3, width)) if a0 == "low_rank" else (None, None)
    gain, shift = (of(width), of(width)) if norm else (None, None)
    given = Given(
        of(batch, steps, width), of(width, width), of(batch, width), dense, *low_rank, gain, shift,
        of(steps), of(steps + 1), torch.full((batch,), steps),
    )  # fmt: skip
    return given, Settings(inner_steps, early, norm, a0 == "shared", 1e-5)


@installed
@pytest.mark.skipif(triton._INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize(
    "problem",
    [
        (torch.float32, 50, "zero", False, True, 1),
        (torch.float32, 50, "low_rank", True, False, 2),
        (torch.float64, 131, "dense", True, True, 2),
        (torch.bfloat16, 2048, "shared", False, True, 1),
        (torch.float32, 50, "low_rank", True, True, 1, 4096),
        (torch.float32, 200, "shared", False, True, 1, 4096),
        (torch.bfloat16, 65, "zero", True, True, 2, 4096),
    ],
    ids=str,
)
def test_compiles_for_a_gpu(monkeypatch, tmp_path, problem):
    """To machine code for an H100, which needs none, with little shared memory; arguments are bound as in a launch."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    programs, compiled = triton._programs(), []

    def launcher(program):
        def launch(*arguments, **options):
            compiled.append(program.warmup(*arguments, grid=(2,), **options))

        return defaultdict(lambda: launch)

    h100 = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )
    monkeypatch.setattr(driver, "_active", h100)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launchers = {name: launcher(programs[name]) for name in ("forward", "backward")}
    monkeypatch.setattr(triton, "_programs", lambda: programs | launchers)
    call = problem_of(*problem)
    output, written, saved = triton.forward(*call, True, True)
    grads = triton.backward(*call, output, saved, output, written, [tensor is not None for tensor in call[0][:10]])
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in call[0][:10] if tensor is not None]
    assert len(compiled) == 2
    for program in compiled:
        assert program.asm["cubin"]
        assert program.metadata.shared <= 48 * 1024
        # Loads that are moved ahead of a barrier would miss what is stored before it.
        assert program.metadata.num_stages == 1
        assert "cp.async" not in program.asm["ptx"]
        assert program.asm["ttgir"].count("barrier") >= 2


@pytest.fixture
def chosen(monkeypatch):
    """The names of the backends called, which do nothing."""
    names = []
    for name in list(BACKENDS):
        monkeypatch.setitem(BACKENDS, name, lambda inputs, *_, name=name: names.append(name) or (inputs, None))
    monkeypatch.delenv("CONTEXTUAL_RNN_BACKEND", raising=False)
    return names


@pytest.mark.parametrize(
    ("found", "steps", "width", "dtype", "expected"),
    [
        (True, 8, 4, torch.float32, ["triton"]),
        (True, 8, 4, torch.bfloat16, ["triton"]),
        (True, 9, 4, torch.float32, ["triton"] * 3),
        (True, 3, 2048, torch.float32, ["triton"]),
        (True, 3, 2049, torch.float32, ["attention"]),
        (False, 8, 4, torch.float32, ["attention"]),
        (False, 9, 4, torch.float32, ["attention"] * 3),
    ],
)
def test_auto_takes_it_on_a_gpu(chosen, monkeypatch, found, steps, width, dtype, expected):
    """Beyond 2 H steps in chunks of H."""
    monkeypatch.setattr(triton, "_INSTALLED", found)
    with FakeTensorMode():
        shapes = (2, steps, width), (width, width), (2, width)
        fast_weights(*(torch.empty(shape, device="cuda", dtype=dtype) for shape in shapes))
    assert chosen == expected


def test_auto_never_interprets(chosen, monkeypatch):
    """On a CPU the interpreter is for who asks for it by name, also where there is no other kernel."""
    from contextual_rnn.ops._fast_weights import cpu

    monkeypatch.setattr(triton, "_INTERPRETED", True)
    for supported in (True, False):
        monkeypatch.setattr(cpu, "supports", lambda _, supported=supported: supported)
        fast_weights(torch.ones(2, 3, 4), torch.eye(4), torch.ones(2, 4))
    assert chosen == ["cpu", "attention"]


@pytest.mark.parametrize(
    ("installed", "interpreted", "gpu", "expected"),
    [
        (False, False, True, "not available: triton is not installed"),
        (True, False, False, "not available: no GPU"),
        (True, True, False, "available (in Triton's interpreter"),
        (True, False, True, "available (GPU; float16, bfloat16, float32 and float64, up to 2048 units)"),
    ],
)
def test_availability_says_why(monkeypatch, installed, interpreted, gpu, expected):
    monkeypatch.setattr(triton, "_INSTALLED", installed)
    monkeypatch.setattr(triton, "_INTERPRETED", interpreted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert triton.availability().startswith(expected)
    assert triton.supports(torch.empty(1)) == (installed and interpreted)


WITHOUT = """
import os, sys
os.environ.pop("CONTEXTUAL_RNN_BACKEND", None)
sys.modules["triton"] = None
import torch
from contextual_rnn.ops import fast_weights
tensors = torch.ones(2, 3, 4), torch.eye(4), torch.ones(2, 4)
assert fast_weights(*tensors)[0].shape == (2, 3, 4)
try:
    fast_weights(*tensors, backend="triton")
except ValueError as error:
    assert "triton is not installed, got torch.float32 of 4 units on cpu" in str(error), error
else:
    raise SystemExit("it ran")
"""
LIGHT = """
import sys, torch
import contextual_rnn.ops
assert "triton" not in sys.modules
"""


@pytest.mark.parametrize("code", [WITHOUT, LIGHT], ids=["without", "light"])
def test_the_library_neither_needs_nor_imports_triton(code):
    fresh.run(code)
