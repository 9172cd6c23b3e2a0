"""The same with Lightning: the random initial state draws in training and takes its mean in validation by itself.

pip install lightning && python examples/lightning_training.py
"""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from plain_pytorch import STEPS, oscillations  # the example beside this one
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from contextual_rnn import ContextualRNN, NormalState
from contextual_rnn.states import Posterior


class Oscillator(lightning.LightningModule):
    def __init__(self, hidden_size: int = 32, scale: float = 0.05, kl_weight: float = 1e-5, lr: float = 5e-3):
        super().__init__()
        self.save_hyperparameters()
        network = nn.GRU(1, hidden_size, batch_first=True)
        encoder = nn.Sequential(nn.Linear(3, hidden_size), nn.ReLU())
        self.rnn = ContextualRNN(network, NormalState(network, encoder, scale=scale, min_scale=0.01))
        self.readout = nn.Linear(hidden_size, 1)

    def forward(self, context: Tensor) -> Tensor:
        return self.with_posterior(context)[0]

    def with_posterior(self, context: Tensor) -> tuple[Tensor, Posterior]:
        """One pass of the encoder gives the states and their KL."""
        ticks = context.new_ones(len(context), STEPS, 1)
        (output, _), posterior = self.rnn(ticks, context=context, return_posterior=True)
        return self.readout(output), posterior

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        context, target = batch
        predicted, posterior = self.with_posterior(context)
        error, kl = nn.functional.mse_loss(predicted, target), posterior.kl().mean()
        self.log_dict({"train_error": error, "kl": kl})
        return error + self.hparams["kl_weight"] * kl

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        context, target = batch
        self.log("error", nn.functional.mse_loss(self(context), target))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


def loaders(count: int = 1024, seed: int = 0) -> tuple[DataLoader, DataLoader]:
    generator = torch.Generator().manual_seed(seed)
    trained, new = (TensorDataset(*oscillations(size, generator)) for size in (count, 256))
    return DataLoader(trained, batch_size=64, shuffle=True, generator=generator), DataLoader(new, batch_size=256)


def train(folder: str | Path, epochs: int = 20) -> tuple[float, Path]:
    """The validation error, and a checkpoint that `Oscillator.load_from_checkpoint` reads."""
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        default_root_dir=folder,
        gradient_clip_val=1.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Oscillator()
    trainer.fit(model, *loaders())
    checkpoint = Path(folder) / "oscillator.ckpt"
    trainer.save_checkpoint(checkpoint)
    return float(trainer.callback_metrics["error"]), checkpoint


if __name__ == "__main__":
    error, checkpoint = train("runs/lightning")
    print(f"squared error {error:.5f}, {checkpoint}")
