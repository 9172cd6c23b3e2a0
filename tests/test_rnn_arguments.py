"""What ContextualRNN refuses, and that it says which argument it was."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    Leaf,
    LeafwiseState,
    NormalState,
    StateSpec,
    state_spec,
    truncated,
)
from contextual_rnn.export import AnyLength

B = 4
LENGTHS = torch.tensor([2, 5, 1, 4])
LSTM = nn.LSTM(3, 5)
MODEL = ContextualRNN(LSTM, ContextState(LSTM, nn.Linear(2, 6)))
X, CONTEXT = torch.randn(5, B, 3), torch.randn(B, 2)
H = torch.zeros(1, B, 5)
PACKED = pack_padded_sequence(X, LENGTHS, enforce_sorted=False)
CELL = ContextualRNN(gru_cell := nn.GRUCell(3, 5), FreeState(gru_cell))
FAST = FastWeightsRNN(3, 5)
SPEC = state_spec(LSTM)
THREE = StateSpec((*SPEC.tree, Leaf("d", (1, 5), batch_dim=1)))
DOUBLE = nn.LSTM(3, 5, dtype=torch.float64)
OTHER_KINDS = [
    torch.Tensor.to_sparse,
    torch.Tensor.to_mkldnn,
    lambda tensor: torch.nested.nested_tensor(list(tensor)),
    lambda tensor: torch.nested.nested_tensor(list(tensor), layout=torch.jagged),
]
BAD_CALLS = [
    (lambda: MODEL(X), ValueError, "context: expected .* got None"),
    (lambda: MODEL(X, context=CONTEXT[:3]), ValueError, "context: expected a batch of 4, as the input has, got 3"),
    (lambda: MODEL(X[:, 0], context=CONTEXT), ValueError, "context: expected one unbatched example"),
    (lambda: MODEL(X[0, 0], context=CONTEXT), ValueError,
     r"input: expected 3 axes, or 2 without a batch, got 1: \(3,\)"),
    (lambda: MODEL(X[None], context=CONTEXT), ValueError,
     r"input: expected 3 axes, or 2 without a batch, got 4: \(1, 5, 4, 3\)"),
    (lambda: CELL(X), ValueError, r"input: expected 2 axes, or 1 without a batch, got 3: \(5, 4, 3\)"),
    (lambda: CELL(X[0, 0, 0]), ValueError, r"input: expected 2 axes, or 1 without a batch, got 0: \(\)"),
    (lambda: CELL(PACKED), TypeError, "input: expected a tensor of one step, .* got PackedSequence"),
    (lambda: MODEL(X.tolist(), context=CONTEXT), TypeError, "input: expected a tensor, got list"),
    (lambda: MODEL(None, context=CONTEXT), TypeError, "input: expected a tensor, got NoneType"),
    (lambda: MODEL(X, context=CONTEXT[:, :1]), ValueError, r"context: .* \(4, 1\)"),
    (lambda: MODEL(X, context=CONTEXT.double()), ValueError, "context: .*float64"),
    (lambda: MODEL(X, context=CONTEXT.to("meta")), ValueError, "context: .* on meta"),
    (lambda: MODEL(PACKED, context=CONTEXT[:3]), ValueError, "context: expected a batch of 4, as the input has, got 3"),
    (lambda: MODEL(PACKED, context=CONTEXT, lengths=LENGTHS), ValueError, "lengths: expected only with a padded"),
    (lambda: MODEL(X[..., :0], context=CONTEXT, lengths=LENGTHS), ValueError, "input: expected inputs of width 3 .*0"),
    (lambda: MODEL(X[..., :2], context=CONTEXT, burn_in=1), ValueError, "input: expected inputs of width 3 .*2"),
    (lambda: list(truncated(MODEL, X[..., :0], 2, context=CONTEXT)), ValueError, "input: expected inputs of width 3"),
    (lambda: AnyLength(MODEL)(X[..., :2], context=CONTEXT), ValueError, "input: expected inputs of width 3"),
    (lambda: MODEL(X, context=CONTEXT, burn_in=torch.ones(2)), TypeError, "burn_in: expected an int of at least 0"),
    (lambda: FAST(X.to(torch.float8_e4m3fn), lengths=LENGTHS), ValueError, "input: expected torch.float32"),
    (lambda: MODEL(X, H, context=CONTEXT), TypeError, r"hx: expected .*, got a tensor of shape \(1, 4, 5\)"),
    (lambda: MODEL(X, (H, H[:, :3])), ValueError, "hx: expected leaves of one batch size"),
    (lambda: MODEL(X, (H, torch.zeros(1, B, 6))), ValueError, "hx: expected leaf 'c' of shape"),
    (lambda: MODEL(X, (H, None)), TypeError, "hx: expected"),
    (lambda: MODEL(X, CONTEXT), TypeError, r"hx: expected .* \(a context is given as context=...\)$"),
    (lambda: MODEL(X, (H[:, 0], H[:, 0])), ValueError, "hx: expected 'h' of batch size 4, as the input"),
    (lambda: MODEL(X[:, 0], (H, H)), ValueError, "hx: expected 'h'"),
    (lambda: MODEL(X, (H[:, :3], H[:, :3])), ValueError, "hx: expected 'h' of batch size 4, as the input, got 3"),
    (lambda: MODEL(X, (H, H.double())), ValueError, "hx: expected 'c' of torch.float32 on cpu, .* got torch.float64"),
    (lambda: MODEL(X, (H.to("meta"), H)), ValueError, "hx: expected 'h' of torch.float32 on cpu, .* got .* on meta"),
    *(
        (lambda kind=kind: MODEL(kind(X), context=CONTEXT), ValueError, "input: expected a strided tensor")
        for kind in OTHER_KINDS
    ),
    *(
        (lambda kind=kind: MODEL(X, (H, kind(H))), ValueError, "hx: expected a strided tensor") for kind in OTHER_KINDS
    ),
    (lambda: MODEL(X.double(), context=CONTEXT, lengths=LENGTHS), ValueError,
     "input: expected torch.float32 on cpu, as the network, got torch.float64 on cpu"),
    (lambda: MODEL(X.to("meta"), context=CONTEXT, lengths=LENGTHS), ValueError,
     "input: expected torch.float32 on cpu, as the network, got torch.float32 on meta"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS.to_sparse()), ValueError, "lengths: expected a strided tensor"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS.to("meta")), ValueError, "lengths: expected a tensor whose"),
    (lambda: MODEL(X, context=CONTEXT, reset=(X[..., 0] > 0).to_sparse()), ValueError, "reset: expected a strided"),
    (lambda: MODEL(X, context=CONTEXT, mask=(X[..., 0] > 0).to("meta")), ValueError, "mask: expected a tensor whose"),
    (lambda: MODEL(X, context=CONTEXT, generator=1), TypeError, "generator: expected a torch.Generator or None"),
    (lambda: MODEL(X, context=CONTEXT, lengths=[2, 5, 1, 4]), TypeError, "lengths: expected a tensor"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS.float()), TypeError, "lengths: expected a tensor of int64"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS > 0), TypeError, "lengths: expected a tensor of int64"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS[:, None]), ValueError, r"lengths: expected shape \(4,\)"),
    (lambda: CELL(X[0], lengths=LENGTHS), ValueError, "lengths: expected only with a padded batch of sequences"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS[:3]), ValueError, r"lengths: expected shape \(4,\)"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS - 2), ValueError, "lengths: expected 0 to 5, got -1 to 3"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS + 1), ValueError, "lengths: expected 0 to 5, got 2 to 6"),
    (lambda: MODEL(X[:, 0], context=CONTEXT[0], lengths=LENGTHS), ValueError, "lengths: expected only with a padded"),
    (lambda: ContextualRNN(nn.Linear(2, 2), FreeState(LSTM)), TypeError, "network: expected one with a registered"),
    (lambda: ContextualRNN(LSTM, nn.Linear(2, 2)), TypeError, "initial_state: expected an InitialState"),
    (lambda: ContextualRNN(LSTM, FreeState(nn.LSTM(3, 6))), ValueError, "initial_state: expected one for"),
    (lambda: ContextualRNN(LSTM, FreeState(nn.GRU(3, 5))), ValueError, "initial_state: expected one for"),
    (lambda: ContextualRNN(gru_cell, FreeState(StateSpec(Leaf("h", (5,), batch_dim=1)))), ValueError,
     r"initial_state: expected one for h of shape \(batch, 5\) .*, got one for h of shape \(5, batch\)"),
    (lambda: ContextualRNN(LSTM, FreeState(nn.LSTM(3, 5, 2))), ValueError, "initial_state: expected one for"),
    (lambda: ContextualRNN(DOUBLE, FreeState(LSTM))(X.double()), ValueError,
     "initial_state: expected 'h' of torch.float64 on cpu, as the network, got torch.float32 on cpu"),
    (lambda: ContextualRNN(LSTM, FreeState(nn.LSTM(3, 5, device="meta")))(X), ValueError,
     "initial_state: expected 'h' of torch.float32 on cpu, as the network, got torch.float32 on meta"),
    (lambda: ContextualRNN(LSTM, LeafwiseState(LSTM, h=FreeState(SPEC["h"]), c=FreeState(SPEC["c"]).double()))(X),
     ValueError, "initial_state: expected 'c' of torch.float32 on cpu, as the network, got torch.float64 on cpu"),
    (lambda: ContextualRNN(nn.GRU(3, 5), FreeState(LSTM)), ValueError, "initial_state: expected one for"),
    (lambda: ContextualRNN(LSTM, FreeState(THREE)), ValueError, "initial_state: expected .*, got one for .*d of"),
    (lambda: ContextualRNN(LSTM, FreeState(StateSpec(dict(zip("hc", SPEC.tree, strict=True))))), ValueError,
     "initial_state: expected one for .*, got one for {h: "),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD_CALLS, ids=[words for _, _, words in BAD_CALLS])
def test_bad_calls_are_refused(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()


def test_a_spec_is_no_network():
    with pytest.raises(TypeError, match=r"^network: expected a module, got StateSpec"):
        ContextualRNN(state_spec(nn.GRU(3, 4)), FreeState(nn.GRU(3, 4)))


@pytest.mark.parametrize(("backend", "arguments"), [("auto", 3), ("auto", {1: 2}), ("reference", {"x": 1})])
def test_refused_arguments_of_the_network_draw_no_state(backend, arguments):
    lstm = nn.LSTM(3, 5, batch_first=True)
    model = ContextualRNN(lstm, NormalState(lstm, nn.Linear(2, 4)), backend)
    before = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError), match=r"^arguments: expected"):
        model(torch.randn(2, 4, 3, generator=torch.Generator()), context=torch.zeros(2, 2), arguments=arguments)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("draws", [{"num_samples": 2}, {"return_posterior": True}], ids=str)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": torch.tensor([1, 2, 3])}, r"lengths: expected shape \(2,\), got \(3,\)"),
        ({"lengths": torch.tensor([1, 9])}, "lengths: expected 0 to 4, got 1 to 9"),
        ({"mask": torch.ones(2, 3).bool()}, r"mask: expected shape \(2, 4\), \(batch, time\) as the input, got"),
        ({"burn_in": 4}, "burn_in: expected fewer steps than the input's 4, got 4"),
        ({"burn_in": -1}, "burn_in: expected an int of at least 0, got -1"),
        ({"final_state": "no"}, "final_state: expected True or False, got 'no'"),
        ({"arguments": 3}, "arguments: expected a dict"),
    ],
)
def test_refused_sequences_draw_no_state(options, message, draws):
    lstm = nn.LSTM(3, 5, batch_first=True)
    model, x = ContextualRNN(lstm, NormalState(lstm, nn.Linear(2, 4))), torch.zeros(2, 4, 3)
    before = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        model(x, context=torch.zeros(2, 2), **draws, **options)
    assert torch.equal(torch.get_rng_state(), before)
