"""Four times as many steps, rows or resets take four times the memory that is touched, not sixteen times."""

import pytest
import torch
from tests.allocated import allocated
from tests.own_networks import OWN
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    Leaf,
    StateSpec,
    state_spec,
    truncated,
)
from contextual_rnn.sequences.segments import Segments

SMALL, LARGE = 40, 160


class Steps(nn.Module):
    """A network that only has a step."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def step(self, inputs, h):
        h = self.cell(inputs, h)
        return h, h


@state_spec.register
def _(network: Steps) -> StateSpec:
    return StateSpec(Leaf("h", (5,)), time_dim=1, step=Steps.step, call="steps")


def trained(make, resets=False, **options):
    """A training step of 4 rows, with a gradient for the input too."""

    def call(size):
        network = make()
        model, spec = ContextualRNN(network, FreeState(network), **options), state_spec(network)
        batch, time = spec.input_batch_dim, spec.known_time_dim
        x = torch.randn(4, size, 3).movedim((0, 1), (batch, time)).requires_grad_()
        reset = (torch.arange(size) % 4 == torch.arange(4)[:, None]).movedim((0, 1), (batch, time))
        return lambda: model(x, reset=reset if resets else None)[0].sum().backward()

    return call


def lengths_of_both_directions(size):
    """Four times as many lengths too."""
    network = OWN["both ways in a module"]()
    model, x = ContextualRNN(network, FreeState(network)), torch.randn(size, 20, 3, requires_grad=True)
    lengths = 20 - torch.arange(size) % (size // 8)
    return lambda: model(x, lengths=lengths)[0].sum().backward()


def pieces_of_one_backward_pass(size):
    network = nn.GRU(3, 5, batch_first=True)
    model, x = ContextualRNN(network, FreeState(network)), torch.randn(4, size, 3, requires_grad=True)
    return lambda: torch.stack([output.sum() for _, output, _ in truncated(model, x, 4)]).sum().backward()


def backward_pass_of_one_piece(pieces):
    network = nn.GRU(3, 5, batch_first=True)
    model, x = ContextualRNN(network, FreeState(network)), torch.randn(1, 4 * pieces, 3, requires_grad=True)
    loss = next(truncated(model, x, 4))[1].sum()
    return lambda: loss.backward(retain_graph=True)


def rows_of(divide):
    def call(size):
        spec, state = state_spec(nn.GRU(3, 8)), torch.randn(1, size, 8, requires_grad=True)
        return lambda: torch.cat([row.flatten() for row in divide(spec, state)]).sum().backward()

    return call


def packed_beside_a_long_row(size):
    resets, x = torch.ones(4, size, dtype=torch.bool), torch.randn(4, size, 3)
    resets[0] = False
    return lambda: Segments.between(resets, None, None).packed(x, 1)


def reset_of_one_row(size):
    """A stream each of whose rows has a context of its own."""
    network = nn.GRU(3, 8)
    stream = ContextualRNN(network, ContextState(network, nn.Linear(2, 8))).stream(torch.randn(size, 2))
    for row in torch.eye(size, dtype=torch.bool):
        stream.reset(row, torch.randn(1, 2))
    return lambda: stream.reset(torch.arange(size) == 3)


CALLS = {
    "pieces of sequences": trained(OWN["lstm in a module"], resets=True),
    "pieces of steps": trained(OWN["with a step"], resets=True),
    "a network that only has a step": trained(Steps),
    "the reference": trained(lambda: nn.GRU(3, 5), resets=True, backend="reference"),
    "segments by length": lengths_of_both_directions,
    "truncated, one backward pass": pieces_of_one_backward_pass,
    "rows": rows_of(lambda spec, state: spec.unbind(state)),
    "parts": rows_of(lambda spec, state: spec.split(state, 2)),
    "packed segments": packed_beside_a_long_row,
}


@pytest.mark.parametrize("name", CALLS)
def test_four_times_the_size_takes_four_times_the_memory(name):
    small, large = (allocated(CALLS[name](size)) for size in (SMALL, LARGE))
    assert large < 5 * small


def test_a_long_segment_of_fast_weights_takes_no_memory_for_short_ones():
    """Their kernel works on 16 at once, in rows as long as the longest."""
    network = FastWeightsRNN(3, 5, batch_first=True)
    model, x = ContextualRNN(network, FreeState(network)), torch.randn(1, 20_000, 3)
    begins = torch.arange(20_000)[None] < 16
    calls = (lambda reset=reset: model(x, reset=reset)[0].sum().backward() for reset in (None, begins))
    alone, beside = map(allocated, calls)
    assert beside < 4 * alone


def test_a_row_of_a_stream_begins_anew_without_a_look_at_the_contexts_of_others():
    small, large = (operations(reset_of_one_row(size)) for size in (SMALL, LARGE))
    assert large == small


def test_a_backward_pass_through_one_piece_makes_no_zeros_for_each_of_the_others():
    small, large = (operations(backward_pass_of_one_piece(size)) for size in (10 * SMALL, 10 * LARGE))
    assert large < 3 * small


def test_the_specs_of_all_leaves_are_found_by_their_names():
    class Counted(StateSpec):
        visits = 0

        def __iter__(self):
            for leaf in super().__iter__():
                Counted.visits += 1
                yield leaf

    def visited(size):
        spec = Counted({f"leaf{number}": Leaf(f"leaf{number}", (2,)) for number in range(size)})
        Counted.visits = 0
        assert [next(iter(spec[name])).name for name in spec.tree] == list(spec.tree)
        return Counted.visits

    assert visited(LARGE) == LARGE / SMALL * visited(SMALL)


class _Counting(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(call):
    with _Counting() as counting:
        call()
    return counting.count
