"""The recurrence alone, forward and backward, over projected inputs: ours and three peers'."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import peers
from benchmarks.machine import peak
from benchmarks.size import APART, BARE, COMPILED, EAGER, JAX, OURS, PROJECTING, Cell, Size
from benchmarks.timing import interleave, repeated
from contextual_rnn.ops import BACKENDS, KERNELS, LowRank, Timing, fast_weights
from contextual_rnn.ops._fast_weights.backend import prepare
from contextual_rnn.ops._fast_weights.dispatch import checked_options
from contextual_rnn.ops._fast_weights.kernel import Given

PEAK = "multiply-adds alone"
INITIAL = ("zero", "shared", "dense", "low rank")
RANK = 4
FEATURES = 100  # of the retrieval task's embedding

Gradients = Callable[[], Any]


class Problem:
    """Random tensors of one size, and the gradients of the outputs times a cotangent, by backend.

    W is near the 0.05 I of Ba et al.: gradients neither vanish into slow subnormal numbers nor explode over 4,096
    steps.
    """

    def __init__(self, size: Size, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int, scale: float = 1.0, around: Tensor | float = 0.0) -> Tensor:
            drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return (around + scale * drawn).to(size.device, dtype).requires_grad_()

        b, t, h = size.batch, size.steps, size.units
        weight = draw(h, h, scale=0.3 * h**-0.5, around=0.05 * torch.eye(h, dtype=torch.float64))
        self.tensors = [draw(b, t, h), weight, draw(b, h), draw(h, scale=0.1, around=1.0), draw(h, scale=0.1)]
        self._a0: Tensor | LowRank | None = None
        if size.initial == "low rank":
            self._a0 = LowRank(*(draw(b, RANK, h, scale=h**-0.5) for _ in range(2)))
            self.tensors += self._a0
        elif size.initial != "zero":
            matrix = draw(*(() if size.initial == "shared" else (b,)), h, h, scale=h**-0.5)
            self.tensors.append(matrix)
            self._a0 = matrix.expand(b, h, h)
        self.cotangent = draw(b, t, h).detach()

    def gradients(self, backend: str = "auto", timing: Timing = "wenke2019") -> tuple[Tensor, ...]:
        """Of every tensor, in the order of `tensors`."""
        inputs, weight, h0, gain, shift, *_ = self.tensors
        given = {"norm_weight": gain, "norm_bias": shift, "timing": timing, "backend": backend}
        output, _ = fast_weights(inputs, weight, h0, self._a0, **given)
        return torch.autograd.grad(output, self.tensors, self.cotangent)

    def bare(self) -> Gradients:
        """What gives `gradients` by the device's kernel itself, forward and backward; A(0) is none."""
        inputs, weight, h0, gain, shift = (tensor.detach() for tensor in self.tensors)
        options = checked_options(1, 0.95, 0.5, True, "wenke2019", 1e-5, False)
        kernel = KERNELS["triton" if inputs.is_cuda else "cpu"]
        given, settings = prepare(inputs, inputs.shape[1], weight, h0, None, gain, shift, None, options)
        wanted = [name in ("inputs", "weight_hh", "h0", "norm_weight", "norm_bias") for name in Given._fields]

        def call() -> list[Tensor]:
            output, _, saved = kernel.forward(given, settings, True, False)
            return kernel.backward(given, settings, output, saved, self.cotangent, None, wanted)

        return call

    def projecting(self, apart: bool) -> Gradients:
        """What gives gradients of features and their projection too, by one call or after torch's linear layer."""
        inputs, weight, h0, gain, shift, *_ = self.tensors
        batch, steps, units = inputs.shape
        generator, place = torch.Generator().manual_seed(1), {"dtype": inputs.dtype}
        x = torch.randn(batch, steps, FEATURES, generator=generator, **place).requires_grad_()
        weight_ih = (0.1 * torch.randn(units, FEATURES, generator=generator, **place)).requires_grad_()
        bias = torch.randn(units, generator=generator, **place).requires_grad_()
        norm = {"norm_weight": gain, "norm_bias": shift, "timing": "wenke2019"}

        def call() -> tuple[Tensor, ...]:
            if apart:
                output, _ = fast_weights(functional.linear(x, weight_ih, bias), weight, h0, self._a0, **norm)
            else:
                output, _ = fast_weights(x, weight, h0, self._a0, weight_ih=weight_ih, bias=bias, **norm)
            return torch.autograd.grad(output, (x, weight_ih, bias, weight, h0, gain, shift), self.cotangent)

        return call

    def attention(self, form: Callable[..., Tensor] = peers.attention_form) -> tuple[Tensor, ...]:
        """The same by the attention form; an A(0) is dense or none."""
        return torch.autograd.grad(form(*self.tensors), self.tensors, self.cotangent)


def recurrence(size: Size, names: Iterable[str], seconds: float, least: int = 5) -> Cell:
    """Check that the contenders named agree, then time them; `PEAK` does a call's multiply-adds and nothing else."""
    problem = Problem(size, torch.float32)
    calls = {name: CALLS[name](problem) for name in names if name != PEAK}
    expected = Problem(size, torch.float64).gradients("reference")
    for name, call in calls.items():
        # As `TOLERANCE` of training_step.py; the errors of float32 grow with the steps besides, and a unit at the kink
        # of its ReLU changes the gradients of its own step: of 90,000 steps a few.
        _assert_close(name, call(), expected, 1e-3, apart=1e-4)
    contenders = {name: repeated(call) for name, call in calls.items()}
    if PEAK in names:
        top = peak()
        contenders[PEAK] = repeated(top.run)
    taken = interleave(contenders, seconds, least)
    if PEAK in names:
        scale = multiply_adds(size) / top.multiply_adds
        taken[PEAK] = [scale * second for second in taken[PEAK]]
    return Cell("recurrence", size, taken)


def projection(size: Size, seconds: float, least: int = 5) -> Cell:
    """Check that features projected in the same call or before give the same gradients, then time both."""
    expected = Problem(size, torch.float64).projecting(apart=True)()
    for apart in (False, True):
        _assert_close(f"projection, apart: {apart}", Problem(size, torch.float64).projecting(apart)(), expected, 1e-9)
    problem = Problem(size, torch.float32)
    ways = {PROJECTING: problem.projecting(apart=False), APART: problem.projecting(apart=True)}
    return Cell("recurrence", size, interleave({name: repeated(way) for name, way in ways.items()}, seconds, least))


def multiply_adds(size: Size) -> int:
    """Multiply-adds of forward and backward, ReLU, layer norm and an A(0) left out; S = 1, timing wenke2019.

    Forward, a sample: W h is H^2 a step; the read of step t, after n = t writes, is 2 n H (products with what was
    written, then their sum). Backward is twice that: W^T and dW, H^2 each; 4 n H for the read. In all
    3 B (T H^2 + H T (T + 1)).
    """
    b, t, h = size.batch, size.steps, size.units
    return 3 * b * (t * h**2 + h * t * (t + 1))


def check_operations(size: Size, jax: bool) -> list[str]:
    """Raise AssertionError unless every backend and peer agrees with the explicit A in float64 to 1e-9.

    Returns what was compared.
    """
    compared = check_backends(size)
    for initial in ("zero", "dense"):
        problem = Problem(replace(size, initial=initial), torch.float64)
        expected = problem.gradients("reference")
        _assert_close("attention form", problem.attention(), expected, 1e-9)
        compared.append(f"attention form in PyTorch, A(0) {initial}, wenke2019")
        if jax:
            _assert_close("JAX", _jax_call(problem, float64=True)(), expected, 1e-9)
            compared.append(f"attention form in JAX, A(0) {initial}, wenke2019")
    return compared


def check_backends(size: Size) -> list[str]:
    """As `check_operations`, without the peers."""
    like = torch.empty(0, dtype=torch.float64, device=size.device)
    backends = [name for name in BACKENDS if name not in KERNELS or KERNELS[name].supports(like)]
    backends.remove("reference")
    compared = []
    for initial in INITIAL:
        problem = Problem(replace(size, initial=initial), torch.float64)
        for timing in get_args(Timing):
            expected = problem.gradients("reference", timing)
            for backend in (*backends, "auto"):
                _assert_close(f"{backend}, {timing}", problem.gradients(backend, timing), expected, 1e-9)
                compared.append(f"{backend}, A(0) {initial}, {timing}")
    return compared


def check_long(size: Size) -> None:
    """Raise AssertionError unless what is chosen at this size agrees with the explicit A in float64 to 1e-9."""
    for initial in ("zero", "dense"):
        problem = Problem(replace(size, initial=initial), torch.float64)
        _assert_close(f"auto, A(0) {initial}", problem.gradients(), problem.gradients("reference"), 1e-9)


def has_kernel() -> bool:
    return KERNELS["cpu"].supports(torch.empty(0))


def has_jax() -> bool:
    return importlib.util.find_spec("jax") is not None


def thread_scaling(size: Size, threads: int, seconds: float) -> Cell:
    """Ours on one thread and on `threads`, in turn."""
    problem = Problem(size, torch.float32)

    def on(count: int) -> Gradients:
        def call() -> None:
            torch.set_num_threads(count)
            problem.gradients()

        return call

    contenders = {thread_name(count): repeated(on(count)) for count in (1, threads)}
    return Cell("recurrence", size, interleave(contenders, seconds))


def thread_name(count: int) -> str:
    return f"{OURS}, {count} thread{'s' * (count > 1)}"


def lengths(sizes: list[Size], seconds: float, least: int) -> list[Cell]:
    """Ours at several sizes, in turn, a cell each."""
    problems = {str(size): Problem(size, torch.float32) for size in sizes}
    contenders = {name: repeated(problem.gradients) for name, problem in problems.items()}
    taken = interleave(contenders, seconds, least)
    return [Cell("recurrence", size, {OURS: taken[str(size)]}) for size in sizes]


def extra_memory(size: Size, backend: str) -> float:
    """Bytes by which one call raises the process's peak of resident memory above what it holds before.

    For a process that has done nothing else. Raises OSError where the system does not tell, which only Linux does.
    """
    Problem(Size(size.batch, 8, size.units), torch.float32).gradients(backend)
    problem = Problem(size, torch.float32)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    problem.gradients(backend)
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    # Not getrusage: its peak is that of the parent too, if that was higher.
    status = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def _compiled_call(problem: Problem) -> Gradients:
    torch._dynamo.reset()
    form = torch.compile(peers.attention_form, fullgraph=True, dynamic=False)
    return lambda: problem.attention(form)


def _jax_call(problem: Problem, float64: bool = False) -> Gradients:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    from benchmarks import jax_peer

    with jax.enable_x64(float64):
        tensors = tuple(jnp.array(tensor.detach().numpy()) for tensor in problem.tensors)
        cotangent = jnp.array(problem.cotangent.numpy())

    def call() -> Any:
        with jax.enable_x64(float64):
            return jax.block_until_ready(jax_peer.recurrence_gradients(tensors, cotangent))

    return call


CALLS: dict[str, Callable[[Problem], Gradients]] = {
    OURS: lambda problem: problem.gradients,
    BARE: Problem.bare,
    EAGER: lambda problem: lambda: problem.gradients("reference"),
    COMPILED: _compiled_call,
    JAX: _jax_call,
}


def _assert_close(
    what: str, found: Iterable[Any], expected: Iterable[Tensor], tolerance: float, apart: float = 0
) -> None:
    """Raise AssertionError where more than a share `apart` of a tensor is off by `tolerance` of its largest element."""
    for number, (one, wanted) in enumerate(zip(found, expected, strict=True)):
        tensor = one if isinstance(one, Tensor) else torch.from_numpy(np.array(one))
        atol = tolerance * float(wanted.abs().max())
        found_apart = float(((tensor.to(wanted.dtype) - wanted).abs().le(atol).logical_not()).double().mean())
        assert tensor.shape == wanted.shape, f"{what}, gradient {number}: {tensor.shape}, not {wanted.shape}"
        assert found_apart <= apart, (
            f"{what}, gradient {number}: a share of {found_apart:.1e} is off by over {atol:.1e}"
        )
