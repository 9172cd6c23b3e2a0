"""Random problems of nn.RNN, nn.LSTM and nn.GRU over segments, for the tests of their kernel."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor

from contextual_rnn.ops._gated.kernel import CELLS
from contextual_rnn.ops._gated.layers import Stack


@dataclass(frozen=True)
class Problem:
    """Sizes of one problem; its numbers follow from `seed`, states and cotangents among them."""

    mode: str = "LSTM"
    batch: int = 4
    steps: int = 7
    input_size: int = 3
    width: int = 5
    proj_size: int = 0
    layers: int = 1
    directions: int = 1
    bias: bool = True
    resets: float = 0.2  # their share of the steps
    time_first: bool = False
    seed: int = 0
    dtype: torch.dtype = torch.float64

    def generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(100 * self.seed + stream)

    def draw(self, stream: int, *shape: int) -> Tensor:
        """Standard normal; every `stream` of a seed gives other numbers."""
        return torch.randn(*shape, generator=self.generator(stream), dtype=torch.float64).to(self.dtype)

    def table(self) -> Tensor:
        """Rows of 0 to `steps` steps, whose first may be any, cut at resets."""
        lengths = torch.randint(0, self.steps + 1, (self.batch,), generator=self.generator(1))
        first = (torch.rand(self.batch, generator=self.generator(2)) * (self.steps - lengths + 1)).long()
        anew = torch.rand(self.batch, self.steps, generator=self.generator(3)) < self.resets
        segments = []
        for row, (start, end) in enumerate(zip(first.tolist(), (first + lengths).tolist(), strict=True)):
            cuts = [start, *[t for t in range(start + 1, end) if anew[row, t]], end]
            segments += [(row, a, b - a, int(b == end)) for a, b in pairwise(cuts)]
        return torch.tensor(segments, dtype=torch.int64).reshape(-1, 4).T.contiguous()

    @property
    def output_size(self) -> int:
        return self.proj_size or self.width

    def leaves(self, segments: int) -> dict[str, Tensor]:
        """What the gradient is taken of, by name."""
        gates, count = CELLS[self.mode], self.layers * self.directions
        shape = (self.steps, self.batch) if self.time_first else (self.batch, self.steps)
        leaves = {
            "inputs": self.draw(4, *shape, self.input_size),
            "h0": self.draw(5, count, segments, self.output_size),
        }
        if self.mode == "LSTM":
            leaves["c0"] = self.draw(6, count, segments, self.width)
        scale = 1.5 / self.width**0.5
        for k in range(count):
            size = self.input_size if k < self.directions else self.output_size * self.directions
            shapes = {"ih": (gates * self.width, size), "hh": (gates * self.width, self.output_size)}
            if self.bias:
                shapes |= {"bias_ih": (gates * self.width,), "bias_hh": (gates * self.width,)}
            if self.proj_size:
                shapes["hr"] = (self.proj_size, self.width)
            for place, (name, of) in enumerate(shapes.items()):
                leaves[f"{name} {k}"] = scale * self.draw(10 + 10 * k + place, *of)
        return {name: leaf.requires_grad_() for name, leaf in leaves.items()}

    def run(self, leaves: dict[str, Tensor], table: Tensor, backend: str) -> dict[str, Tensor]:
        """Outputs and final states by name."""
        count = self.layers * self.directions
        weights = [[leaf for name, leaf in leaves.items() if name.endswith(f" {k}")] for k in range(count)]
        stack = Stack(self.mode, weights, self.directions)
        inputs = leaves["inputs"].transpose(0, 1) if self.time_first else leaves["inputs"]
        output, h, c = stack.run(inputs, leaves["h0"], leaves.get("c0"), table, backend)
        return {"output": output, "h": h} | ({} if c is None else {"c": c})

    def evaluate(
        self, backend: str, leaves: dict[str, Tensor] | None = None, without: tuple[str, ...] = ()
    ) -> dict[str, Tensor]:
        """Outputs, final states and the gradient of every leaf, for random cotangents on all but `without`."""
        table = self.table()
        leaves = self.leaves(table.shape[1]) if leaves is None else leaves
        results = self.run(leaves, table, backend)
        loss = [
            (result * self.draw(200 + k, *result.shape)).sum()
            for k, (name, result) in enumerate(results.items())
            if name not in without
        ]
        grads = torch.autograd.grad(sum(loss), list(leaves.values()), allow_unused=True, materialize_grads=True)
        values = {name: result.detach() for name, result in results.items()}
        return values | {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}


SIZES = {
    "batch": st.integers(1, 3) | st.just(29),  # 29: more than run side by side
    "steps": st.integers(1, 9),
    "input_size": st.integers(1, 5) | st.sampled_from([16, 17]),
    "width": st.integers(1, 9) | st.sampled_from([16, 17, 33]),  # around what a register holds
    "bias": st.booleans(),
    "resets": st.sampled_from([0.0, 0.2, 1.0]),
    "time_first": st.booleans(),
    "seed": st.integers(0, 10**6),
}
LAYERS = {"layers": st.integers(1, 3), "directions": st.integers(1, 2)}
PROBLEMS = st.one_of(
    st.builds(Problem, mode=st.sampled_from(list(CELLS)), **SIZES, **LAYERS),
    st.builds(Problem, mode=st.just("LSTM"), proj_size=st.integers(1, 6) | st.just(20), **SIZES, **LAYERS),
)
