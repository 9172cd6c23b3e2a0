"""Models of Lightning with an attached state, and their training. Only tests that run import it: it takes seconds."""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from contextual_rnn import ContextState, attach, given_context


class Plain(lightning.LightningModule):
    """A forecaster that starts from zeros."""

    def __init__(self, units=5):
        super().__init__()
        self.save_hyperparameters()
        self.lstm, self.readout = nn.LSTM(3, units, batch_first=True), nn.Linear(units, 1)

    def forward(self, x, static=None):
        return self.readout(self.lstm(x)[0])

    def training_step(self, batch, index):
        x, static, target = batch
        return (self(x, static=static) - target).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


def contextual(lstm):
    return ContextState(lstm, nn.Sequential(nn.Linear(2, 4), nn.Tanh()))


class Hosted(Plain):
    """Attached in the constructor, as `load_from_checkpoint` needs it."""

    def __init__(self, units=5):
        super().__init__(units)
        attach(self.lstm, contextual(self.lstm), host=self, context="static")


class Given(Plain):
    """Attached in the constructor, with a context that the training step gives."""

    def __init__(self, units=5):
        super().__init__(units)
        attach(self.lstm, contextual(self.lstm))

    def forward(self, x, static=None):
        with given_context(static):
            return super().forward(x)


X, STATIC = torch.randn(8, 6, 3), torch.randn(8, 2)
BATCH = X, STATIC, STATIC[:, None, :1].expand(8, 6, 1).clone()


def fitted(model, folder, epochs, **options):
    """The model after training, and its checkpoint."""
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(*BATCH), batch_size=8), **options)
    trainer.save_checkpoint(folder / "model.ckpt")
    return model, folder / "model.ckpt"
