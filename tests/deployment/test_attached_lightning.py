"""An attached state in checkpoints of Lightning: written, loaded strictly, and what is refused."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from contextual_rnn import ContextState, attach, given_context

lightning = pytest.importorskip("lightning")


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


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize("kind", [Hosted, Given])
def test_a_checkpoint_is_loaded_strictly_and_training_goes_on(kind, tmp_path):
    torch.manual_seed(1)
    start = kind(units=7)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    model, file = fitted(start, tmp_path, 2)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "all train"
    loaded = kind.load_from_checkpoint(file, strict=True, weights_only=True)
    assert loaded.lstm.hidden_size == 7
    assert torch.equal(loaded(X, static=STATIC), model(X, static=STATIC))
    assert not torch.equal(loaded(X, static=-STATIC), model(X, static=STATIC))
    (tmp_path / "whole").mkdir()
    torch.manual_seed(1)
    whole, _ = fitted(kind(units=7), tmp_path / "whole", 4)
    continued, _ = fitted(kind(units=7), tmp_path, 4, ckpt_path=file, weights_only=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(continued.state_dict()[name], tensor), name  # Adam's averages of the state too


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_a_state_attached_after_the_constructor_is_refused_at_loading(tmp_path):
    model = Plain()
    attach(model.lstm, contextual(model.lstm), host=model, context="static")
    model, file = fitted(model, tmp_path, 1)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: .lstm.initial_state"):
        Plain.load_from_checkpoint(file, weights_only=True)
    without = Plain.load_from_checkpoint(file, strict=False, weights_only=True)  # which drops it
    assert not torch.equal(without(X), model(X, static=STATIC))
    other = Plain()
    attach(other.lstm, contextual(other.lstm), host=other, context="static")
    other.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    assert torch.equal(other(X, static=STATIC), model(X, static=STATIC))
    _, file = fitted(Plain(), tmp_path, 1)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: .lstm.initial_state"):
        Hosted.load_from_checkpoint(file, weights_only=True)
