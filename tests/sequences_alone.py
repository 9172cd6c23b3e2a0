"""Every sequence of a batch run by itself, by hand: what lengths, resets, pieces and burn-in must be equal to."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from tests.networks import SPECS, make, tensors_of
from tests.own_networks import OWN
from torch import Tensor, nn

from contextual_rnn import (
    ContextualRNN,
    FastWeightsRNN,
    Leaf,
    LowRank,
    NormalState,
    detach,
    fast_weights_spec,
    state_spec,
)
from contextual_rnn.spec.rows import map_tensors

STEPS = 6
SEED = 5
# Every sequence network of the contract suites with every variant of its state, and the other timing of fast weights.
CASES = [name for name in SPECS if "cell" not in name]
CASES += ["fast weights wenke2019, dense A", "fast weights wenke2019, low-rank A"]
TWO_INNER_STEPS = ["fast weights twice ba2016, dense A", "fast weights twice wenke2019, low-rank A"]
UNDIVIDED = ["both ways in a module", "fast weights in a module"]  # cannot go on in the middle
ONE_WAY_OWN = [name for name in OWN if name not in UNDIVIDED]
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
    elif case in OWN:
        network = OWN[case]().to(dtype)
        spec = state_spec(network).like(next(network.parameters()))
    else:
        network, spec = make(case, dtype)
    if isinstance(network, FastWeightsRNN):
        network.return_fast_weights = True
    net = nn.Sequential(nn.Linear(2, 6, dtype=dtype), nn.Tanh())
    return ContextualRNN(network, NormalState(spec, net, scale_from_context=True))


@st.composite
def patterns(draw, max_batch: int = 4):
    """Lengths (B,) and resets (B, T): padding has resets too, which mean nothing, and a row may have no step at all."""
    batch = draw(st.integers(1, max_batch))
    lengths = draw(st.lists(st.integers(0, STEPS), min_size=batch, max_size=batch))
    flags = st.lists(st.sampled_from([False, False, True]), min_size=STEPS, max_size=STEPS)
    return torch.tensor(lengths), torch.tensor(draw(st.lists(flags, min_size=batch, max_size=batch)))


def axes_of(model: ContextualRNN) -> tuple[int, int]:
    """Batch and time axis of the network's input."""
    spec = state_spec(model)
    time = spec.known_time_dim
    return spec.input_batch_dim, time if isinstance(time, int) else 1 - spec.input_batch_dim


def in_layout(model: ContextualRNN, flags: Tensor) -> Tensor:
    """Flags (B, T) in the layout of the input."""
    batch, time = axes_of(model)
    return flags if batch < time else flags.T


@dataclass
class Batch:
    """What a test gives to the model, all of it random and batch first; `hx` is in leaves, or None.

    The real steps of a row are `lengths` from `first`, which the model gets as a mask where it is given.
    """

    x: Tensor
    context: Tensor
    lengths: Tensor
    reset: Tensor
    hx: dict[str, Tensor] | None
    reset_context: Tensor | None = None
    first: Tensor | None = None

    @classmethod
    def of(
        cls,
        model: ContextualRNN,
        lengths: Tensor,
        reset: Tensor,
        explicit: bool,
        reset_context: bool = False,
        first: Tensor | None = None,
    ):
        dtype, batch = next(model.parameters()).dtype, len(lengths)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=dtype).requires_grad_()

        hx = {leaf.name: random(batch, *leaf.shape) for leaf in model.initial_state.spec} if explicit else None
        contexts = random(int(reset.sum()), 2) if reset_context else None
        return cls(random(batch, STEPS, 3), random(batch, 2), lengths, reset, hx, contexts, first)

    @property
    def begin(self) -> Tensor:
        return torch.zeros_like(self.lengths) if self.first is None else self.first

    @property
    def real(self) -> Tensor:
        """(B, T), True for the real steps."""
        step = torch.arange(STEPS)
        return (step >= self.begin[:, None]) & (step < (self.begin + self.lengths)[:, None])

    def leaves(self, model: ContextualRNN) -> list[Tensor]:
        """Everything that gets a gradient."""
        given = [self.x, self.context, *(self.hx or {}).values()]
        return [*given, *([] if self.reset_context is None else [self.reset_context]), *model.parameters()]

    def input(self, model: ContextualRNN, padding: float = torch.nan) -> Tensor:
        """In the network's layout, with `padding` outside each row's steps: it must not be read."""
        return self.x.masked_fill(~self.real[..., None], padding).movedim((0, 1), axes_of(model))

    def state(self, model: ContextualRNN) -> Any:
        return None if self.hx is None else model.initial_state.spec.pack(self.hx)

    def arguments(self, model: ContextualRNN) -> dict[str, Any]:
        given: dict[str, Any] = {"context": self.context, "reset": in_layout(model, self.reset)}
        given |= {"lengths": self.lengths} if self.first is None else {"mask": in_layout(model, self.real)}
        return given | {"reset_context": self.reset_context, "generator": torch.Generator().manual_seed(SEED)}


def batch_first(model: ContextualRNN, output: Tensor) -> Tensor:
    return output.movedim(axes_of(model), (0, 1))


def rows_of(model: ContextualRNN, state: Any) -> list[Tensor]:
    """The tensors of a state, each (B, ...)."""

    def rows(tree: Any, state: Any) -> list[Tensor]:
        if isinstance(tree, Leaf):
            return [state.movedim(tree.batch_dim, 0)]
        if tree is None or isinstance(tree, LowRank):
            return tensors_of(state)
        keys = tree if isinstance(tree, dict) else range(len(tree))
        return [tensor for key in keys for tensor in rows(tree[key], state[key])]

    return rows(model.initial_state.spec.tree, state)


def alone(model: ContextualRNN, batch: Batch, bounds: tuple[int, ...] = (), silent: int = 0):
    """Outputs (B, T, H) and final states, row by row and segment by segment.

    Before the steps `bounds` the state goes on detached; the steps before `silent` run without gradients. Draws come
    from one generator: for each piece between bounds first those of rows that start, then those of resets, except
    where both come from one context: then all that are drawn in order.
    """
    generator, rows, axes = torch.Generator().manual_seed(SEED), len(batch.lengths), axes_of(model)
    given: list[Any] = [None] * rows if batch.hx is None else [_row(model, batch.hx, row) for row in range(rows)]
    states = list(given)
    outputs: list[list[Tensor]] = [[] for _ in range(rows)]
    flags = in_layout(model, batch.reset)
    numbers = in_layout(model, flags.flatten().cumsum(0).view_as(flags) - 1)
    for first, stop in zip((0, *bounds), (*bounds, STEPS), strict=True):
        if first > 0:
            begun = (batch.begin < first) & (batch.lengths > 0)
            # Detached is that of a row which has ended too, and that of a row to come is as at first.
            states = [detach(states[row]) if begun[row] else given[row] for row in range(rows)]
        segments = []  # (row, start, stop, whether it begins anew)
        for row in range(rows):
            begin = max(first, int(batch.begin[row]))
            end = min(stop, int(batch.begin[row] + batch.lengths[row]))
            cuts = [t for t in range(begin, end) if t == begin or batch.reset[row, t]]
            if not cuts and states[row] is None:
                segments.append((row, first, first, False))
            stops = [*cuts[1:], end] if cuts else []
            segments += [(row, t, until, bool(batch.reset[row, t])) for t, until in zip(cuts, stops, strict=True)]
        fresh = [segment for segment in segments if states[segment[0]] is None and not segment[3]]
        anew = [segment for segment in segments if segment[3]]
        if batch.reset_context is None:
            drawn = _noise(model, [segment for segment in segments if segment in fresh or segment in anew], generator)
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
                if start == until:
                    continue
                x = batch.x[row : row + 1, start:until].movedim((0, 1), axes)
                own = map_tensors(Tensor.clone, states[row])  # the network may overwrite it
                output, states[row] = model.network(x, own)
                outputs[row].append(batch_first(model, output)[0])
    width = next((output.shape[1:] for row in outputs for output in row), width_of(model))
    padded = []
    for row, parts in enumerate(outputs):
        before, length = int(batch.begin[row]), int(batch.lengths[row])
        before = before if length else 0
        parts = [batch.x.new_zeros(before, *width), *parts, batch.x.new_zeros(STEPS - before - length, *width)]
        padded.append(torch.cat(parts))
    finals = [rows_of(model, as_finals(model, state)) for state in states]
    return torch.stack(padded), [torch.cat(leaf) for leaf in zip(*finals, strict=True)]


def as_finals(model: ContextualRNN, state: Any) -> Any:
    """A start as the network returns it: A of fast weights is a matrix then, or None where it is not asked for."""
    if not isinstance(fast := getattr(model.network, "network", model.network), FastWeightsRNN):
        return state
    h, a = state
    if not fast.return_fast_weights:
        return h, None
    if a is None:
        return h, h.new_zeros(*h.shape, h.shape[1])
    return h, a.dense() if isinstance(a, LowRank) else a


def width_of(model: ContextualRNN) -> tuple[int, ...]:
    """The axes of an output after batch and time."""
    dtype = next(model.parameters()).dtype
    x = torch.zeros(1, 1, 3, dtype=dtype).movedim((0, 1), axes_of(model))
    with torch.no_grad():
        return tuple(batch_first(model, model(x, context=torch.zeros(1, 2, dtype=dtype))[0]).shape[2:])


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
