"""How many rows a context has: of packed and nested ones, and of those that do not tell."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    LeafwiseState,
    NormalState,
    SumState,
    generate,
    state_spec,
)

DECODER = nn.LSTM(3, 4, batch_first=True)
SPEC = state_spec(DECODER)


def packed(*lengths):
    return pack_sequence([torch.randn(length, 2) for length in lengths], enforce_sorted=False)


class Last(nn.Module):
    """The last state of an encoder over a PackedSequence."""

    out_features = 6

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2, 6)

    def forward(self, source):
        return self.gru(source)[1][0]


class Pair(NamedTuple):
    source: object
    size: Tensor


@dataclass
class Document:
    name: str
    source: object


STATES = {
    "constant": lambda: ConstantState(SPEC, 0.5),
    "free": lambda: FreeState(SPEC, noise=0.1),
    "normal around free": lambda: NormalState(SPEC, FreeState(SPEC)),
    "sum": lambda: SumState([FreeState(SPEC), ConstantState(SPEC)], [0.3, 0.7]),
    "sum with a context": lambda: SumState([FreeState(SPEC), ContextState(SPEC, Last())], [0.3, 0.7]),
    "one a leaf": lambda: LeafwiseState(SPEC, h=ConstantState(SPEC["h"]), c=FreeState(SPEC["c"])),
    "one a leaf, with a context": lambda: LeafwiseState(SPEC, h=FreeState(SPEC["h"]), c=NormalState(SPEC["c"], Last())),
    "context": lambda: ContextState(SPEC, Last()),
    "normal": lambda: NormalState(SPEC, Last(), scale_from_context=True),
    "dropped at times": lambda: ContextDropout(ContextState(SPEC, Last()), 0.5),
    "free dropped at times": lambda: ContextDropout(FreeState(SPEC), 0.5),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_packed_context_has_as_many_rows_as_sequences(kind):
    state, source = STATES[kind](), packed(3, 5)
    for training in (True, False):
        state.train(training)
        assert [leaf.shape for leaf in state(source)] == [(1, 2, 4)] * 2
        assert [leaf.shape for leaf in state(source, 2)] == [(1, 2, 4)] * 2
        assert [leaf.shape for leaf in state.sample(source, 3)] == [(1, 6, 4)] * 2
    if isinstance(state, NormalState):
        assert state.kl(source).shape == (2,)
        assert state.distribution(source)["h"].mean.shape == (2, 1, 4)
        assert state.log_prob(state(source), source).shape == (2,)


@pytest.mark.parametrize("kind", ["free", "one a leaf", "normal around free"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda source: {"source": source, "size": torch.zeros(9)},
        lambda source: MappingProxyType({"name": "a source", "source": source}),
        lambda source: (source, torch.zeros(9)),
        lambda source: [None, [source]],
        lambda source: Pair(source, torch.zeros(9)),
        lambda source: Document("a source", source),
    ],
    ids=["dict", "mapping", "tuple", "list", "named tuple", "dataclass"],
)
@pytest.mark.parametrize("source", [packed(3, 5), torch.zeros(2, 7)], ids=["packed", "tensor"])
def test_packed_contexts_inside_others(kind, wrap, source):
    assert STATES[kind]()(wrap(source))[0].shape == (1, 2, 4)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_a_nested_context_has_as_many_rows_as_tensors(layout):
    nested = torch.nested.nested_tensor([torch.randn(3, 2), torch.randn(5, 2)], layout=layout)
    assert FreeState(SPEC)(nested)[0].shape == (1, 2, 4)
    assert FreeState(SPEC)({"source": nested})[0].shape == (1, 2, 4)
    with pytest.raises(ValueError, match=r"^context: the context network refuses a tensor of 2 rows, nested"):
        ContextState(SPEC, nn.Embedding(3, 4))(nested)


@pytest.mark.parametrize("context", [["rye", "oats"], "rye", {}, 3, object(), {"crop": ["rye"]}, [None]])
@pytest.mark.parametrize("kind", ["constant", "free", "normal around free", "sum"])
def test_a_context_that_does_not_tell_its_rows_is_refused_unless_they_are_given(kind, context):
    state = STATES[kind]()
    with pytest.raises(ValueError, match=r"^batch_size: expected the number of rows, as \w+ does not say it, got None"):
        state(context)
    assert state(context, 2)[0].shape == (1, 2, 4)
    assert state(context, batched=False)[0].shape == (1, 4)
    assert state(None)[0].shape == (1, 4)


def test_a_model_knows_the_batch_from_its_input():
    for context in (["rye", "oats"], packed(3, 5)):
        model = ContextualRNN(DECODER, FreeState(DECODER))
        assert model(torch.randn(2, 7, 3), context=context)[0].shape == (2, 7, 4)


@pytest.mark.parametrize("kind", STATES)
def test_generated_and_reset_from_packed_contexts(kind):
    torch.manual_seed(0)
    model, source = ContextualRNN(DECODER, STATES[kind]()).eval(), packed(3, 5)
    paths = generate(model, lambda output, value: output[:, :3], torch.zeros(2, 3), num_steps=2, context=source)
    assert paths.shape == (2, 1, 2, 3)
    x, reset = torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool)
    reset[0, 2] = reset[1, 1] = reset[1, 4] = True
    sources = [torch.randn(length, 2) for length in (4, 2, 3)]
    after = pack_sequence(sources, enforce_sorted=False)
    output, (h, _) = model(x, context=source, reset=reset, reset_context=after)
    for row, start, stop, begun in ((0, 2, 5, sources[0]), (1, 1, 4, sources[1]), (1, 4, 5, sources[2])):
        alone, (last, _) = model(x[row : row + 1, start:stop], context=pack_sequence([begun]))
        torch.testing.assert_close(output[row : row + 1, start:stop], alone)
    torch.testing.assert_close(h[:, 1:], last)


def test_errors_say_what_a_packed_context_holds():
    source = packed(3, 5)
    words = r"^context: the context network refuses a PackedSequence of 2 sequences, of torch.float32, on cpu: "
    with pytest.raises(ValueError, match=words):
        ContextState(SPEC, nn.Embedding(3, 4))(source)
    with pytest.raises(
        ValueError, match=r"^context: expected features of shape .*, got a PackedSequence of 2 sequences"
    ):
        ContextState(SPEC, nn.Identity(), features=2)(source)
    with pytest.raises(ValueError, match=r"^context: expected a batch of 3, as the input has, got 2"):
        ContextualRNN(DECODER, ContextState(SPEC, Last()))(torch.randn(3, 5, 3), context=source)
    assert isinstance(source, PackedSequence)
