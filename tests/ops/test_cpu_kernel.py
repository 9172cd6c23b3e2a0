"""What the contract suite of all backends does not cover: the build, instruction sets, and bits."""

import subprocess
import sys

import pytest
import torch

from contextual_rnn import LowRank
from contextual_rnn.experiments.information import information
from contextual_rnn.ops import cpu, fast_weights

pytestmark = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
VARIANTS = ["baseline", "avx2", "avx512"]
BEST = cpu.instruction_set() or "baseline"


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
@pytest.mark.parametrize("variant", VARIANTS[: VARIANTS.index(BEST) + 1])
def test_every_instruction_set_agrees_with_the_reference(monkeypatch, variant, dtype, timing, kind):
    monkeypatch.setattr(cpu, "instruction_set", lambda: variant)
    found = run("cpu", dtype=dtype, kind=kind, timing=timing)
    expected = run("reference", dtype=torch.float64, kind=kind, timing=timing)
    # Seven steps of two reads and their way back: a few hundred roundings of the largest entry.
    tolerance = 500 * torch.finfo(dtype).eps
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


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


def test_other_tensors_are_refused_with_the_reason():
    tensors = [torch.randn(2, 5, 8).bfloat16(), torch.eye(8).bfloat16(), torch.randn(2, 8).bfloat16()]
    with pytest.raises(
        ValueError, match=r"backend: expected tensors for the cpu kernel, .*float32 and float64\), got torch.bfloat16"
    ):
        fast_weights(*tensors, backend="cpu")


def test_information_names_the_instruction_set():
    assert information()["fast weights: cpu"] == f"available ({BEST}, float32 and float64)"


def test_without_the_library_pytorch_serves():
    code = """
import torch
from contextual_rnn.ops import cpu, fast_weights
cpu.instruction_set, cpu._BUILT = lambda: None, False
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
    subprocess.run([sys.executable, "-c", code], check=True)
