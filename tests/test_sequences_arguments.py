"""What is refused of masks, resets, burn-in and pieces, and that it says which argument it was."""

import pytest
import torch
from tests.networks import Springs
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    LowRank,
    fast_weights_spec,
    state_spec,
    truncated,
)

B, T = 4, 5
GRU = nn.GRU(3, 5)
MODEL = ContextualRNN(GRU, ContextState(GRU, nn.Linear(2, 6)))
X, C, H = torch.randn(T, B, 3), torch.randn(B, 2), torch.randn(1, B, 5)
LENGTHS = torch.tensor([2, 5, 1, 4])
MASK = torch.arange(T)[:, None] < LENGTHS
RESET = torch.zeros(T, B, dtype=torch.bool)
RESET[2, 1] = RESET[0, 3] = True
PACKED = pack_padded_sequence(X, LENGTHS, enforce_sorted=False)
CELL = ContextualRNN(gru_cell := nn.GRUCell(3, 5), FreeState(gru_cell))
FIRST = ContextualRNN(first := nn.GRU(3, 5, batch_first=True), ContextState(first, nn.Linear(2, 6)))
BOTH = ContextualRNN(both := nn.GRU(3, 5, bidirectional=True), FreeState(both))
springs = Springs(3, 5)
FAST = ContextualRNN(fast := FastWeightsRNN(3, 5), FreeState(fast))
DENSE = ContextualRNN(fast, FreeState(fast_weights_spec(fast, "dense")))
OWN = ContextualRNN(springs, FreeState(state_spec(springs).like(springs.weight)))


def changed(mask, *places):
    mask = mask.clone()
    for place in places:
        mask[place] = ~mask[place]
    return mask


BAD = [
    (lambda: MODEL(X, context=C, mask=MASK.float()), TypeError, "mask: expected a tensor of bool, got torch.float32"),
    (lambda: MODEL(X, context=C, mask=MASK.tolist()), TypeError, "mask: expected a tensor of bool, got list"),
    (lambda: MODEL(X, context=C, mask=MASK.T), ValueError,
     r"mask: expected shape \(5, 4\), \(time, batch\) as the input, got \(4, 5\)"),
    (lambda: FIRST(X.transpose(0, 1), context=C, mask=MASK), ValueError,
     r"mask: expected shape \(4, 5\), \(batch, time\) as the input, got \(5, 4\)"),
    (lambda: MODEL(X, context=C, mask=changed(MASK, (3, 0))), ValueError,
     "mask: expected the real steps of each row in one block, got padding at step 2 and a real step after it at step 3 "
     "of row 0"),
    (lambda: MODEL(X, context=C, mask=changed(MASK, (1, 1), (3, 1))), ValueError,
     "mask: .* got padding at step 1 and a real step after it at step 2 of row 1"),
    (lambda: FIRST(X.transpose(0, 1), context=C, mask=changed(MASK, (3, 2)).T), ValueError,
     "mask: .* got padding at step 1 and a real step after it at step 3 of row 2"),
    (lambda: MODEL(X, context=C, mask=MASK, lengths=LENGTHS), ValueError, "mask: expected none beside lengths"),
    (lambda: MODEL(PACKED, context=C, mask=MASK), ValueError, "mask: expected only with a padded batch of sequences"),
    (lambda: MODEL(X[:, 0], context=C[0], mask=MASK[:, 0]), ValueError, r"mask: .* unbatched .*; input.unsqueeze\(1\)"),
    (lambda: CELL(X[0], mask=MASK), ValueError, "mask: expected only with a padded batch of .*, got an input of one"),
    (lambda: OWN(X[0], mask=MASK), ValueError, "mask: expected only with a padded batch"),
    (lambda: MODEL(X, context=C, reset=RESET.int()), TypeError, "reset: expected a tensor of bool, got torch.int32"),
    (lambda: MODEL(X, context=C, reset=[True]), TypeError, "reset: expected a tensor of bool, got list"),
    (lambda: MODEL(X, context=C, reset=RESET.T), ValueError,
     r"reset: expected shape \(5, 4\), \(time, batch\) as the input, got \(4, 5\)"),
    (lambda: MODEL(X, context=C, reset=RESET[0]), ValueError, r"reset: expected shape \(5, 4\), .*, got \(4,\)"),
    (lambda: MODEL(PACKED, context=C, reset=RESET[:3]), ValueError,
     r"reset: expected shape \(5, 4\), .*, got \(3, 4\)"),
    (lambda: MODEL(X[:, 0], context=C[0], reset=RESET[:, 0]), ValueError, "reset: expected only with a padded batch"),
    (lambda: CELL(X[0], reset=RESET), ValueError, r"reset: expected shape \(4,\), got \(5, 4\)"),
    (lambda: OWN(X[0], reset=RESET), ValueError, r"reset: expected shape \(4,\), got \(5, 4\)"),
    (lambda: MODEL(X, H, reset=RESET), ValueError, "context: expected one, as the initial state reads it, got None"),
    (lambda: MODEL(X, H, reset=~RESET & False), ValueError, "context: expected one, as the initial state reads"),
    (lambda: MODEL(X, context=C, reset_context=C), ValueError, "reset_context: expected only with reset, got it alone"),
    (lambda: MODEL(X, context=C, reset=RESET, reset_context=C), ValueError, "reset_context: .* 2 True .* got 4"),
    (lambda: MODEL(X, context=C, reset=RESET & False, reset_context=C[:2]), ValueError,
     "reset_context: expected a context for each of 0 True of reset, got 2"),
    (lambda: torch.func.vmap(lambda flags: MODEL(X, context=C, reset=flags)[0])(RESET[None]), ValueError,
     "reset: expected a tensor whose values can be read, got one over which torch.func.vmap maps"),
    (lambda: torch.func.vmap(lambda lengths: MODEL(X, context=C, lengths=lengths)[0])(LENGTHS[None]), ValueError,
     "lengths: expected a tensor whose values can be read, got one over which torch.func.vmap maps"),
    (lambda: MODEL(X, context=C, return_posterior=X), TypeError, "return_posterior: expected True or False, got"),
    (lambda: MODEL(X, H[:, :3], context=C, reset=RESET), ValueError, "hx: expected 'h' of batch size 4"),
    (lambda: FAST(X, (H[0], torch.zeros(6, 5, 5)), lengths=LENGTHS), ValueError,
     r"hx: expected 4 rows where the spec has None, got \(6, 5, 5\)"),
    (lambda: FAST(X, (H[0], torch.zeros(3, 5, 5)), reset=RESET), ValueError, r"hx: expected 4 rows .* got \(3, 5, 5\)"),
    (lambda: FAST(X, (H[0], LowRank(*torch.zeros(2, 6, 1, 5))), mask=MASK), ValueError, "hx: expected 4 rows where"),
    (lambda: FAST(X, (H[0], LowRank(None, None)), lengths=LENGTHS), TypeError, "hx: expected a tensor, LowRank"),
    (lambda: FAST(X, (H[0], torch.zeros(4, 5, 6)), reset=RESET), ValueError, r"a0: expected shape \(4, 5, 5\), got"),
    (lambda: DENSE(X, (H[0], torch.zeros(4, 5, 5).half()), reset=RESET), ValueError, "a0: expected torch.float32 on"),
    (lambda: FAST(X, (H[0], LowRank(*torch.zeros(2, 4, 5))), reset=RESET), ValueError, "hx: expected LowRank of one"),
    (lambda: truncated(FAST, X, 2, (H[0], torch.zeros(6, 5, 5)), lengths=LENGTHS), ValueError, "hx: expected 4 rows"),
    (lambda: MODEL(X, context=C, burn_in=5), ValueError, "burn_in: expected fewer steps than the input's 5, got 5"),
    (lambda: MODEL(X, context=C, burn_in=-1), ValueError, "burn_in: expected an int of at least 0, got -1"),
    (lambda: MODEL(X, context=C, burn_in=1.5), TypeError, "burn_in: expected an int of at least 0, got 1.5"),
    (lambda: MODEL(X, context=C, burn_in=2, lengths=torch.tensor([2, 1, 2, 2])), ValueError,
     "burn_in: expected fewer steps than the longest sequence has, got 2"),
    (lambda: MODEL(PACKED, context=C, burn_in=1), ValueError, "burn_in: expected only with a padded batch"),
    (lambda: MODEL(X[:, 0], context=C[0], burn_in=1), ValueError, "burn_in: expected only with a padded batch"),
    (lambda: CELL(X[0], burn_in=1), ValueError, "burn_in: expected only with a padded batch of sequences"),
    (lambda: BOTH(X, burn_in=1), ValueError, "burn_in: expected only with a network of one direction"),
    (lambda: truncated(GRU, X, 2), TypeError, "model: expected a ContextualRNN, got GRU"),
    (lambda: truncated(MODEL, X, 0, context=C), ValueError, "steps: expected a positive int, got 0"),
    (lambda: truncated(MODEL, X, 2.0, context=C), TypeError, "steps: expected a positive int, got 2.0"),
    (lambda: truncated(BOTH, X, 2), ValueError, "steps: expected only with a network of one direction"),
    (lambda: truncated(CELL, X[0], 2), ValueError, "steps: expected only with a padded batch of sequences, got an"),
    (lambda: truncated(MODEL, PACKED, 2, context=C), ValueError, "steps: expected only with a padded batch"),
    (lambda: truncated(MODEL, X, 2, H[:, :2]), ValueError, "hx: expected 'h' of batch size 4, as the input, got 2"),
    (lambda: truncated(MODEL, X, 2, context=C, lengths=LENGTHS + 1), ValueError, "lengths: expected 0 to 5, got 2 to"),
    (lambda: truncated(MODEL, X.tolist(), 2), TypeError, "input: expected a tensor or a PackedSequence, got list"),
    (lambda: MODEL.initial_state(C, rows=torch.tensor([4])), ValueError, "rows: expected 0 to 3, got 4 to 4"),
    (lambda: MODEL.initial_state(C, rows=torch.tensor([-1])), ValueError, "rows: expected 0 to 3, got -1 to -1"),
    (lambda: MODEL.initial_state(C, rows=[0]), TypeError, "rows: expected a tensor of int64 with one axis, got list"),
    (lambda: MODEL.initial_state(C, rows=RESET), TypeError, "rows: expected a tensor of int64 .* got torch.bool of"),
    (lambda: MODEL.initial_state(C[0], rows=torch.tensor([0])), ValueError, "rows: expected only with a batch"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[f"{n} {words}" for n, (_, _, words) in enumerate(BAD)])
def test_bad_calls_are_refused(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()
