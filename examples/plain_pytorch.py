"""A contextual initial state in a plain PyTorch loop: damped oscillations from where they start and how fast they are.

    python examples/plain_pytorch.py

The network sees no input but time ticking; position, velocity and frequency are known before the first step and reach
it through the initial state alone. With a constant state nothing tells one sequence from another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextState, ContextualRNN, InitialState

STEPS = 30


def oscillations(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Contexts (position, velocity, frequency), (count, 3), and the solutions x(t), (count, STEPS, 1).

    x(t) = exp(-0.1 t) (p cos w t + (v + 0.1 p) / w sin w t) solves x'' + 0.2 x' + (w^2 + 0.01) x = 0.
    """
    context = torch.rand(count, 3, generator=generator) * 2 - 1
    position, velocity, frequency = context[:, 0:1], context[:, 1:2], 1.5 + 0.5 * context[:, 2:3]
    time = torch.arange(STEPS) * 0.2
    cosine, sine = torch.cos(frequency * time), torch.sin(frequency * time)
    solution = torch.exp(-0.1 * time) * (position * cosine + (velocity + 0.1 * position) / frequency * sine)
    return context, solution[..., None]


class Model(nn.Module):
    def __init__(self, network: nn.GRU, initial_state: InitialState):
        super().__init__()
        self.rnn = ContextualRNN(network, initial_state)
        self.readout = nn.Linear(network.hidden_size, 1)

    def forward(self, ticks: Tensor, context: Tensor) -> Tensor:
        return self.readout(self.rnn(ticks, context=context)[0])


def train(kind: str, epochs: int = 20, count: int = 1024, batch: int = 64, seed: int = 0) -> float:
    """Mean squared error on sequences that were not trained on."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    context, targets = oscillations(count, generator)
    new_context, new_targets = oscillations(256, generator)

    network = nn.GRU(1, 32, batch_first=True)
    encoder = nn.Sequential(nn.Linear(3, 32), nn.ReLU())
    model = Model(network, ContextState(network, encoder) if kind == "context" else ConstantState(network))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    for _ in range(epochs):
        for rows in torch.randperm(count, generator=generator).split(batch):
            ticks = torch.ones(len(rows), STEPS, 1)
            loss = nn.functional.mse_loss(model(ticks, context[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    model.eval()
    with torch.no_grad():
        return nn.functional.mse_loss(model(torch.ones(256, STEPS, 1), new_context), new_targets).item()


if __name__ == "__main__":
    for kind in ("constant", "context"):
        print(f"{kind:>8} state: squared error {train(kind):.5f}")
