"""Adam over one vector is Adam over every parameter."""

import pytest
import torch
from torch import nn

from contextual_rnn.experiments.training.flat_adam import FlatAdam


class Model(nn.Module):
    """An LSTM from a random state, a frozen layer and one that the loss does not use."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.frozen = nn.Linear(4, 2).requires_grad_(False)
        self.unused = nn.Parameter(torch.randn(2, 3))

    def forward(self, x, state):
        return self.frozen(self.lstm(x, state)[0])


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_equals_adam(clip_norm):
    torch.manual_seed(0)
    ours, theirs = Model().double(), Model().double()
    theirs.load_state_dict(ours.state_dict())
    flat = FlatAdam(ours, clip_norm)
    adam = torch.optim.Adam([parameter for parameter in theirs.parameters() if parameter.requires_grad], lr=0.01)
    for _ in range(5):
        x, state = torch.randn(2, 5, 3).double(), (torch.randn(1, 2, 4).double(), torch.randn(1, 2, 4).double())
        flat.differentiate(ours(x, state).square().sum())
        flat.step(0.01)
        adam.zero_grad()
        theirs(x, state).square().sum().backward()
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
            assert norm > clip_norm
        adam.step()
    assert any((parameter != 0).any() for parameter in ours.lstm.parameters())
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, msg=name)


def test_parameters_stay_the_models_own():
    """Loading and saving go through them, and what is loaded is what is trained on."""
    model, other = Model(), Model()
    flat = FlatAdam(model)
    model.load_state_dict(other.state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    flat.differentiate(model(torch.randn(2, 5, 3), state).square().sum())
    flat.step(0.1)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("lstm")}
    assert all((model.state_dict()[name] - before[name]).abs().max() < 0.11 for name in moved)
