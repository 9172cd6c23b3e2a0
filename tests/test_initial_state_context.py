"""From a context, of whatever kind, through a network and one head a leaf, to a state."""

import re

import pytest
import torch
from torch import nn

from contextual_rnn import ContextState, ContextualRNN

B = 4


def test_context_state_is_g_of_the_context():
    gru, network = nn.GRU(3, 5, num_layers=2), nn.Sequential(nn.Linear(2, 6), nn.Tanh())
    state = ContextState(gru, network, activation=torch.sigmoid)
    context = torch.randn(B, 2)
    head = state.heads.layers["h"]
    expected = torch.sigmoid(network(context) @ head.weight.T + head.bias).view(B, 2, 5).transpose(0, 1)
    torch.testing.assert_close(state(context), expected)


class OfDict(nn.Module):
    out_features = 6

    def __init__(self):
        super().__init__()
        self.kind, self.size = nn.Embedding(3, 6), nn.Linear(1, 6)

    def forward(self, context):
        return self.kind(context["kind"]) + self.size(context["size"])


@pytest.mark.parametrize(
    ("network", "context", "one"),
    [
        (nn.Embedding(7, 6), torch.tensor([1, 5, 1, 2]), torch.tensor(3)),
        (nn.Sequential(nn.Linear(2, 6), nn.LayerNorm(6), nn.GELU(), nn.Dropout()), torch.randn(B, 2), torch.randn(2)),
        (OfDict(), {"kind": torch.zeros(B, dtype=torch.int64), "size": torch.randn(B, 1)},
         {"kind": torch.tensor(1), "size": torch.randn(1)}),
    ],
    ids=["embedding", "layers", "dict"],
)  # fmt: skip
def test_any_context_network(network, context, one):
    lstm = nn.LSTM(3, 5)
    state = ContextState(lstm, network).eval()
    h, c = state(context)
    assert h.shape == c.shape == (1, B, 5)
    assert state(one)[0].shape == (1, 5)
    tiled = state(one, 3)[0]
    assert tiled.shape == (1, 3, 5)
    assert torch.equal(tiled[:, 0], tiled[:, 2])


def test_feature_count_is_read_off_or_asked_for():
    assert ContextState(nn.GRUCell(3, 5), nn.Sequential(nn.Linear(2, 9), nn.ReLU())).features == 9
    with pytest.raises(ValueError, match="features: expected the width of what encoder returns"):
        ContextState(nn.GRUCell(3, 5), nn.Identity())
    assert ContextState(nn.GRUCell(3, 5), nn.Identity(), features=2)(torch.randn(B, 2)).shape == (B, 5)
    with pytest.raises(ValueError, match="features: expected"):
        ContextState(nn.GRUCell(3, 5), nn.Sequential(nn.Linear(2, 8), nn.GLU()))
    with pytest.raises(TypeError, match="encoder: expected a context network"):
        ContextState(nn.GRUCell(3, 5), torch.tanh)


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 1, 1, 8, 8), (6, 1, 9, 9)])
def test_an_image_that_does_not_fit_is_refused_by_its_shape_and_the_one_expected(shape):
    gru = nn.GRU(3, 4, batch_first=True)
    image_net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 5))
    model = ContextualRNN(gru, ContextState(gru, image_net))
    said = f"context: the context network refuses a tensor of shape {shape}"
    with pytest.raises(ValueError, match=re.escape(said) + ".*(1 channels|4D|72x5)"):
        model(torch.zeros(6, 5, 3), context=torch.zeros(shape))


@pytest.mark.parametrize("error", [AttributeError, KeyError, IndexError])
def test_whatever_a_context_network_raises_names_the_context(error):
    class Encoder(nn.Module):
        def forward(self, context):
            raise error("field")

    state = ContextState(nn.GRU(3, 4), Encoder(), features=2)
    with pytest.raises(ValueError, match=r"^context: the context network refuses a tensor of shape \(5, 2\).*field"):
        state(torch.randn(5, 2))
