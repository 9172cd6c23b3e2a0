"""Random problems of the fast-weights recurrence, for every test of its backends.

A backend added to `BACKENDS` is held to all of them: the fixtures below are the only place that lists backends. A
kernel is left out where it cannot run.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from contextual_rnn.ops import BACKENDS, KERNELS, TIMINGS, LowRank, fast_weights

AVAILABLE = [name for name in BACKENDS if name not in KERNELS or KERNELS[name].supports(torch.empty(1))]
A0_KINDS = ("zero", "shared", "dense", "low_rank")
NORMS = ("none", "plain", "gain", "bias", "affine")


@dataclass(frozen=True)
class Problem:
    """Sizes and options of one problem; its numbers follow from `seed`.

    Without layer norm h is a polynomial whose degree grows with every step: once rate |h|^2 + |A(0)| passes 1 it
    explodes, and agreement between two algorithms says nothing. So everything is drawn small there, bounded for no
    tail to set it off, and yet large enough for every term to matter far above the tolerances.
    """

    batch: int = 3
    steps: int = 7
    width: int = 5
    inner_steps: int = 2
    timing: str = "ba2016"
    norm: str = "affine"
    a0: str = "dense"
    rank: int = 2
    decay: float = 0.9
    rate: float = 0.5
    eps: float = 1e-5
    with_lengths: bool = False
    learned: bool = False  # decay and rate are tensors and have gradients
    seed: int = 0
    dtype: torch.dtype = torch.float64

    def draw(self, stream: int, *shape: int, scale: float = 1.0) -> Tensor:
        """Uniform within `scale`; every `stream` of a seed gives other numbers."""
        generator = torch.Generator().manual_seed(100 * self.seed + stream)
        return ((2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1) * scale).to(self.dtype)

    def leaves(self) -> dict[str, Tensor]:
        """What the gradient is taken of, by name; a shared A(0) is one matrix here."""
        batch, width = self.batch, self.width
        small = (0.3 if self.norm == "none" else 1.2) / width**0.5
        large = small if self.norm == "none" else 1.5
        leaves = {
            "inputs": self.draw(1, batch, self.steps, width, scale=large),
            "weight_hh": self.draw(2, width, width, scale=small),
            "h0": self.draw(3, batch, width, scale=large),
        }
        if self.a0 in ("shared", "dense"):
            leaves["a0"] = self.draw(4, *(() if self.a0 == "shared" else (batch,)), width, width, scale=small)
        if self.a0 == "low_rank":
            leaves["left"] = self.draw(5, batch, self.rank, width, scale=small)
            leaves["right"] = self.draw(6, batch, self.rank, width, scale=small)
        if self.norm in ("gain", "affine"):
            leaves["norm_weight"] = 1 + self.draw(7, width, scale=0.5)
        if self.norm in ("bias", "affine"):
            leaves["norm_bias"] = self.draw(8, width, scale=0.5)
        if self.learned:
            leaves |= {name: torch.tensor(getattr(self, name), dtype=self.dtype) for name in ("decay", "rate")}
        return {name: leaf.requires_grad_() for name, leaf in leaves.items()}

    @property
    def lengths(self) -> Tensor | None:
        if not self.with_lengths:
            return None
        return torch.randint(0, self.steps + 1, (self.batch,), generator=torch.Generator().manual_seed(self.seed))

    def a0_of(self, leaves: dict[str, Tensor]) -> Tensor | LowRank | None:
        if self.a0 == "low_rank":
            return LowRank(leaves["left"], leaves["right"])
        if self.a0 == "shared":
            return leaves["a0"].expand(self.batch, -1, -1)
        return leaves.get("a0")

    def run(self, leaves: dict[str, Tensor], backend: str, **options) -> tuple[Tensor, Any]:
        """Outputs and final A, None where options leave it out."""
        given: dict = {
            name: getattr(self, name) for name in ("inner_steps", "timing", "decay", "rate", "eps", "lengths")
        }
        given |= {name: leaf for name, leaf in leaves.items() if name not in ("left", "right")}
        given |= {"a0": self.a0_of(leaves), "layer_norm": self.norm != "none", "return_fast_weights": True}
        return fast_weights(**given | options, backend=backend)

    def evaluate(
        self, backend: str, leaves: dict[str, Tensor] | None = None, loss_of: tuple[str, ...] = ("output", "final")
    ) -> dict[str, Tensor]:
        """Outputs, final A and the gradient of every leaf, for random cotangents on the outputs and the final A."""
        leaves = self.leaves() if leaves is None else leaves
        output, final = self.run(leaves, backend)
        terms = {
            "output": (output * self.draw(11, *output.shape)).sum(),
            "final": (final * self.draw(12, *final.shape)).sum(),
        }
        loss = torch.stack([terms[name] for name in loss_of]).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        values = {"output": output.detach(), "final": final.detach()}
        return values | {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}


PROBLEMS = st.builds(
    Problem,
    batch=st.integers(1, 3) | st.just(17),  # 17: one more than a vector register holds
    steps=st.integers(1, 15),  # from one step to T > 2 H
    width=st.integers(1, 6),
    inner_steps=st.integers(1, 3),
    timing=st.sampled_from(TIMINGS),
    norm=st.sampled_from(NORMS),
    a0=st.sampled_from(A0_KINDS),
    rank=st.integers(1, 4),
    decay=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    rate=st.sampled_from([0.0, 0.1, 0.5]),
    eps=st.sampled_from([1e-5, 0.1]),
    with_lengths=st.booleans(),
    learned=st.booleans(),
    seed=st.integers(0, 10**6),
)


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor within `tolerance` of the expected one, relative to the largest entry there or 1."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = (actual[name].to(value.dtype) - value).abs().max() / value.abs().max().clamp(min=1)
        assert error <= tolerance, f"{name}: {float(error):.1e} > {tolerance:.1e}"


@pytest.fixture(scope="session")
def make_problem():
    return Problem


@pytest.fixture(scope="session")
def problems():
    """What hypothesis draws problems from."""
    return PROBLEMS


@pytest.fixture(scope="session", name="assert_all_close")
def _assert_all_close():
    return assert_all_close


@pytest.fixture(scope="session", params=AVAILABLE)
def backend(request):
    """Every backend: what holds for the recurrence holds for each."""
    return request.param


@pytest.fixture(scope="session", params=[name for name in AVAILABLE if name != "reference"])
def fast_backend(request):
    """Every backend but the reference, with which they are compared."""
    return request.param


@pytest.fixture(scope="session", params=[name for name in AVAILABLE if name in KERNELS])
def kernel(request):
    """Every backend that is an operator of its own."""
    return request.param


@pytest.fixture(scope="session", params=TIMINGS)
def timing(request):
    return request.param


@pytest.fixture(scope="session", params=A0_KINDS)
def a0(request):
    return request.param
