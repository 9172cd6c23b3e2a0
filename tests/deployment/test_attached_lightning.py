"""An attached state in checkpoints of Lightning: written, loaded strictly, and what is refused."""

import pytest
import torch

from contextual_rnn import attach


@pytest.fixture(scope="module")
def models():
    pytest.importorskip("lightning")
    from tests.deployment import lightning_models

    return lightning_models


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize("kind", ["Hosted", "Given"])
def test_a_checkpoint_is_loaded_strictly_and_training_goes_on(kind, models, tmp_path):
    kind, x, static = getattr(models, kind), models.X, models.STATIC
    torch.manual_seed(1)
    start = kind(units=7)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    model, file = models.fitted(start, tmp_path, 2)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "all train"
    loaded = kind.load_from_checkpoint(file, strict=True, weights_only=True)
    assert loaded.lstm.hidden_size == 7
    assert torch.equal(loaded(x, static=static), model(x, static=static))
    assert not torch.equal(loaded(x, static=-static), model(x, static=static))
    (tmp_path / "whole").mkdir()
    torch.manual_seed(1)
    whole, _ = models.fitted(kind(units=7), tmp_path / "whole", 4)
    continued, _ = models.fitted(kind(units=7), tmp_path, 4, ckpt_path=file, weights_only=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(continued.state_dict()[name], tensor), name  # Adam's averages of the state too


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_a_state_attached_after_the_constructor_is_refused_at_loading(models, tmp_path):
    x, static = models.X, models.STATIC
    model = models.Plain()
    attach(model.lstm, models.contextual(model.lstm), host=model, context="static")
    model, file = models.fitted(model, tmp_path, 1)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: .lstm.initial_state"):
        models.Plain.load_from_checkpoint(file, weights_only=True)
    without = models.Plain.load_from_checkpoint(file, strict=False, weights_only=True)  # which drops it
    assert not torch.equal(without(x), model(x, static=static))
    other = models.Plain()
    attach(other.lstm, models.contextual(other.lstm), host=other, context="static")
    other.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    assert torch.equal(other(x, static=static), model(x, static=static))
    _, file = models.fitted(models.Plain(), tmp_path, 1)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: .lstm.initial_state"):
        models.Hosted.load_from_checkpoint(file, weights_only=True)
