"""What the initial states refuse, and that they say which argument it was."""

import math

import pytest
import torch
from torch import nn

from contextual_rnn import ConstantState, ContextState, FreeState, NormalState

LSTM, H = nn.LSTM(3, 5), torch.zeros(1, 5)


def net():
    return nn.Linear(2, 6)


BAD_ARGUMENTS = [
    (lambda: FreeState(LSTM, noise=-0.1), ValueError, "noise: expected"),
    (lambda: FreeState(LSTM, noise=math.nan), ValueError, "noise: expected"),
    (lambda: FreeState(LSTM, noise="0.1"), TypeError, "noise: expected"),
    (lambda: FreeState(LSTM, value=(H, torch.zeros(1, 6))), ValueError, "value: expected leaf 'c' of shape"),
    (lambda: FreeState(LSTM, value=(H[:, None], H[:, None])), ValueError, "value: expected leaf 'h' of one example"),
    (lambda: ConstantState(LSTM, H), TypeError, r"value: expected \(h of shape .*, got a tensor of shape \(1, 5\)"),
    (lambda: ConstantState(LSTM, (H, "0")), TypeError, "value: expected"),
    (lambda: ConstantState(nn.Linear(3, 5)), TypeError, "network: expected one with a registered state spec"),
    (lambda: ContextState(LSTM, net(), features=0), ValueError, "features: expected a positive int"),
    (lambda: ContextState(LSTM, net(), features=True), TypeError, "features: expected a positive int"),
    (lambda: NormalState(LSTM, net(), scale="0.25"), TypeError, "scale: expected"),
    (lambda: NormalState(LSTM, net(), min_scale=None), TypeError, "min_scale: expected"),
    (lambda: NormalState(LSTM, net(), scale=math.nan), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, net(), scale=0.0), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, net(), scale=-1.0), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, net(), scale=math.inf), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, net(), min_scale=-0.1), ValueError, "min_scale: expected"),
    (lambda: NormalState(LSTM, net(), scale=0.1, min_scale=0.1), ValueError, "scale: expected"),
    (lambda: NormalState(LSTM, FreeState(LSTM), scale_from_context=True), ValueError, "scale_from_context: expected"),
    (lambda: NormalState(LSTM, net()).kl(torch.zeros(1, 2), prior_scale=0.0), ValueError, "prior_scale: expected"),
    (lambda: NormalState(LSTM, net()).log_prob(torch.zeros(1, 1, 5), torch.zeros(1, 2)), TypeError, "state: expected"),
    (lambda: ContextState(LSTM, net())(), ValueError, "context: expected .* got None"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2), 4), ValueError, "context: expected a batch of 4, .* got 3"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 7)), ValueError, r"context: .* \(3, 7\)"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2).double()), ValueError, "context: .*float64"),
    (lambda: ContextState(LSTM, net())(torch.zeros(3, 2, device="meta")), ValueError, "context: .* on meta"),
    (lambda: ContextState(LSTM, nn.Embedding(4, 2))(torch.tensor([4])), ValueError, "context: the context network"),
    (lambda: ContextState(LSTM, nn.Embedding(4, 2))(torch.tensor([0.5])), ValueError, "context: .*float32"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2, 2)), ValueError, "context: expected features of shape"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2), batched=False), ValueError, "context: expected one unb"),
    (lambda: ContextState(LSTM, nn.Identity(), features=3)(torch.randn(3, 2)), ValueError, "features: expected"),
    (lambda: ContextState(LSTM, nn.Identity(), features=2)(H.double()[:, :2]), ValueError, "context: .*float64"),
    (lambda: FreeState(LSTM)(batch_size=0), ValueError, "batch_size: expected"),
    (lambda: FreeState(LSTM)(batch_size=True), TypeError, "batch_size: expected"),
    (lambda: FreeState(LSTM)(batch_size="4"), TypeError, "batch_size: expected"),
    (lambda: FreeState(LSTM)(batch_size=-1), ValueError, "batch_size: expected"),
    (lambda: FreeState(LSTM).sample(batch_size=2.0), TypeError, "batch_size: expected"),
    (lambda: FreeState(LSTM).sample(num_samples=0), ValueError, "num_samples: expected"),
    (lambda: FreeState(LSTM).sample(num_samples=True), TypeError, "num_samples: expected"),
    (lambda: NormalState(LSTM, net()).sample(), ValueError, "context: expected .* got None"),
    (lambda: NormalState(LSTM, net()).sample(torch.zeros(3, 2), batch_size=4), ValueError, "context: expected a batch"),
    (lambda: NormalState(LSTM, net()).kl(torch.zeros(3, 2), 0), ValueError, "batch_size: expected"),
    (lambda: NormalState(LSTM, net()).distribution(torch.zeros(3, 2), 4), ValueError, "context: expected a batch of 4"),
    (lambda: NormalState(LSTM, net()).log_prob((H, H)), ValueError, "context: expected .* got None"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD_ARGUMENTS, ids=[words for _, _, words in BAD_ARGUMENTS])
def test_bad_arguments_are_refused(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()
