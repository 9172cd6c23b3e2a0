"""Every sequence of a batch run by itself, by hand: what lengths, resets, pieces and burn-in must be equal to."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from tests.networks import SPECS, make, tensors_of
from torch import Tensor, nn

from contextual_rnn import ContextualRNN, FastWeightsRNN, NormalState, detach, fast_weights_spec

STEPS = 6
SEED = 5
# Every sequence network of the contract suites with every variant of its state, and the other timing of fast weights.
CASES = [name for name in SPECS if "cell" not in name]
CASES += ["fast weights wenke2019, dense A", "fast weights wenke2019, low-rank A"]
TWO_INNER_STEPS = ["fast weights twice ba2016, dense A", "fast weights twice wenke2019, low-rank A"]
ONE_WAY = [name for name in CASES if "both ways" not in name and name != "lstm projected"] + ["lstm projected one way"]


def build(case: str, dtype: torch.dtype) -> ContextualRNN:
    """A model whose state is drawn, with a mean and a sigma that are learned from the context."""
    torch.manual_seed(0)
    if case == "lstm projected one way":
        network: Any = nn.LSTM(3, 5, num_layers=2, proj_size=2, batch_first=True, dtype=dtype)
        spec: Any = network
    elif "2019" in case or "2016" in case:
        timing, inner_steps = "wenke2019" if "2019" in case else "ba2016", 2 if "twice" in case else 1
        network = FastWeightsRNN(3, 5, timing=timing, inner_steps=inner_steps, dtype=dtype)
        spec = fast_weights_spec(network, "low_rank" if "low-rank" in case else "dense", rank=2)
    else:
        network, spec = make(case, dtype)
    if isinstance(network, FastWeightsRNN):
        network.return_fast_weights = True
    net = nn.Sequential(nn.Linear(2, 6, dtype=dtype), nn.Tanh())
    return ContextualRNN(network, NormalState(spec, net, scale_from_context=True))


@st.composite
def patterns(draw, max_batch: int = 4):
    """Lengths (B,) and resets (B, T): padding has resets too, which mean nothing."""
    batch = draw(st.integers(1, max_batch))
    lengths = draw(st.lists(st.integers(1, STEPS), min_size=batch, max_size=batch))
    flags = st.lists(st.sampled_from([False, False, True]), min_size=STEPS, max_size=STEPS)
    return torch.tensor(lengths), torch.tensor(draw(st.lists(flags, min_size=batch, max_size=batch)))


@dataclass
class Batch:
    """What a test gives to the model, all of it random and batch first; `hx` is in leaves, or None."""

    x: Tensor
    context: Tensor
    lengths: Tensor
    reset: Tensor
    hx: dict[str, Tensor] | None
    reset_context: Tensor | None = None

    @classmethod
    def of(cls, model: ContextualRNN, lengths: Tensor, reset: Tensor, explicit: bool, reset_context: bool = False):
        dtype, batch = next(model.parameters()).dtype, len(lengths)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=dtype).requires_grad_()

        hx = {leaf.name: random(batch, *leaf.shape) for leaf in model.initial_state.spec} if explicit else None
        contexts = random(int(reset.sum()), 2) if reset_context else None
        return cls(random(batch, STEPS, 3), random(batch, 2), lengths, reset, hx, contexts)

    def leaves(self, model: ContextualRNN) -> list[Tensor]:
        """Everything that gets a gradient."""
        given = [self.x, self.context, *(self.hx or {}).values()]
        return [*given, *([] if self.reset_context is None else [self.reset_context]), *model.parameters()]

    def input(self, model: ContextualRNN, padding: float = torch.nan) -> Tensor:
        """In the network's layout, with `padding` after each row's end: it must not be read."""
        beyond = torch.arange(STEPS) >= self.lengths[:, None]
        x = self.x.masked_fill(beyond[..., None], padding)
        return x if model.network.batch_first else x.transpose(0, 1)

    def state(self, model: ContextualRNN) -> Any:
        return None if self.hx is None else model.initial_state.spec.pack(self.hx)

    def arguments(self) -> dict[str, Any]:
        given = {"context": self.context, "lengths": self.lengths, "reset": self.reset}
        return given | {"reset_context": self.reset_context, "generator": torch.Generator().manual_seed(SEED)}


def batch_first(model: ContextualRNN, output: Tensor) -> Tensor:
    return output if model.network.batch_first else output.transpose(0, 1)


def rows_of(model: ContextualRNN, state: Any) -> list[Tensor]:
    """The tensors of a state, each (B, ...)."""
    dim = 1 if isinstance(model.network, nn.RNNBase) else 0
    return [tensor.movedim(dim, 0) for tensor in tensors_of(state)]


def alone(model: ContextualRNN, batch: Batch, bounds: tuple[int, ...] = (), silent: int = 0):
    """Outputs (B, T, H) and final states, row by row and segment by segment.

    Before the steps `bounds` the state goes on detached; the steps before `silent` run without gradients. Draws come
    from one generator: for each piece between bounds first those of rows that start, then those of resets, except
    where both come from one context: then all segments in order.
    """
    generator, rows = torch.Generator().manual_seed(SEED), len(batch.lengths)
    states: list[Any] = [None] * rows if batch.hx is None else [_row(model, batch.hx, row) for row in range(rows)]
    outputs: list[list[Tensor]] = [[] for _ in range(rows)]
    numbers = batch.reset.flatten().cumsum(0).view_as(batch.reset) - 1
    for first, stop in zip((0, *bounds), (*bounds, STEPS), strict=True):
        if first > 0:
            states = [detach(state) for state in states]  # that of a row which has ended too
        segments = []  # (row, start, stop, whether it begins anew)
        for row in range(rows):
            end = min(stop, int(batch.lengths[row]))
            cuts = [t for t in range(first, end) if t == first or batch.reset[row, t]]
            stops = [*cuts[1:], end] if cuts else []
            segments += [(row, t, until, bool(batch.reset[row, t])) for t, until in zip(cuts, stops, strict=True)]
        fresh = [segment for segment in segments if states[segment[0]] is None and not segment[3]]
        anew = [segment for segment in segments if segment[3]]
        if all(state is None for state in states) and batch.reset_context is None:
            drawn = _noise(model, segments, generator)
        else:
            drawn = _noise(model, fresh, generator) | _noise(model, anew, generator)
        for segment in segments:
            row, start, until, new = segment
            with torch.no_grad() if start < silent else contextlib.nullcontext():
                if new or states[row] is None:
                    context = batch.context[row : row + 1]
                    if new and batch.reset_context is not None:
                        context = batch.reset_context[numbers[row, start]][None]
                    states[row] = _draw(model, context, drawn[segment])
                x = batch.x[row : row + 1, start:until]
                output, states[row] = model.network(x if model.network.batch_first else x.transpose(0, 1), states[row])
                outputs[row].append(batch_first(model, output)[0])
    padded = [
        nn.functional.pad(torch.cat(o), (0, 0, 0, STEPS - int(n))) for o, n in zip(outputs, batch.lengths, strict=True)
    ]
    finals = [rows_of(model, state) for state in states]
    return torch.stack(padded), [torch.cat(leaf) for leaf in zip(*finals, strict=True)]


def _row(model, hx, row):
    return model.initial_state.spec.pack({name: leaf[row : row + 1] for name, leaf in hx.items()})


def _noise(model, segments, generator):
    """epsilon of each segment, of all segments at once."""
    dtype, spec = next(model.parameters()).dtype, model.initial_state.spec
    noise = {leaf.name: torch.randn(len(segments), *leaf.shape, generator=generator, dtype=dtype) for leaf in spec}
    return {segment: {name: leaf[k] for name, leaf in noise.items()} for k, segment in enumerate(segments)}


def _draw(model, context, noise):
    """Eq. 4 of one row, written out."""
    normal = model.initial_state.distribution(context)
    return model.initial_state.spec.pack({name: d.loc + d.scale * noise[name] for name, d in normal.items()})


def outcome(model: ContextualRNN, batch: Batch, output: Tensor, finals: list[Tensor]) -> list[Tensor]:
    """Outputs, final states and every gradient under random cotangents; no gradient is a gradient of zeros."""
    generator = torch.Generator().manual_seed(9)
    loss = sum(
        (tensor * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)).sum()
        for tensor in (output, *finals)
    )
    leaves = batch.leaves(model)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [output, *finals, *gradients]


def assert_equal(found: list[Tensor], wanted: list[Tensor], float32: float = 1e-6) -> None:
    """Equal to 1e-12 of the scale in float64 and to 1e-6 in float32: the same sums in another order, and no more.

    The scale is the largest number of the tensor; in float32 the largest of all, for a gradient may be a small
    difference of large terms.
    """
    assert len(found) == len(wanted)
    largest = [float(tensor.detach().abs().max()) if tensor.numel() else 0.0 for tensor in wanted]
    for tensor, expected, own in zip(found, wanted, largest, strict=True):
        atol = float32 * max(1.0, *largest) if expected.dtype == torch.float32 else 1e-12 * max(1.0, own)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=atol)
