"""Publishing through huggingface_hub's mixin: a local folder, nothing over the network."""

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

from contextual_rnn import ConstantState, ContextState, FreeState, NormalState
from contextual_rnn.hub import HubContextualRNN


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("contextual_rnn.hub.hf_hub_download", None)


def parts(hidden_size=5, kind=nn.LSTM):
    network = kind(3, hidden_size, batch_first=True)
    return network, NormalState(network, nn.Sequential(nn.Linear(2, 4), nn.ReLU()))


class Forecaster(HubContextualRNN):
    def __init__(self, hidden_size: int = 7, hidden_layers: int = 1):
        network = nn.GRU(3, hidden_size, num_layers=hidden_layers)
        super().__init__(network, ContextState(network, nn.Linear(2, 4)))


def test_modules_handed_over_get_the_saved_weights(tmp_path):
    model = HubContextualRNN(*parts()).eval()
    model.save_pretrained(tmp_path)
    network, initial_state = parts()
    loaded = HubContextualRNN.from_pretrained(tmp_path, network=network, initial_state=initial_state)
    assert not loaded.training
    x, context = torch.randn(4, 6, 3), torch.randn(4, 2)
    assert torch.equal(loaded(x, context=context)[0], model(x, context=context)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "model.safetensors"]


def test_a_subclass_is_rebuilt_from_its_config_alone(tmp_path):
    model = Forecaster(hidden_size=6, hidden_layers=2).eval()
    model.save_pretrained(tmp_path)
    loaded = Forecaster.from_pretrained(tmp_path)
    assert loaded.network.hidden_size == 6
    x, context = torch.randn(5, 4, 3), torch.randn(4, 2)
    assert torch.equal(loaded(x, context=context)[0], model(x, context=context)[0])


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (parts(hidden_size=6), ValueError, r"^network: expected one with state .*5.*, got one with state .*6"),
        (parts(kind=nn.GRU), ValueError, r"^network: expected one with state \(h .*, c .*\), .* got one with state h "),
        (
            (network := parts()[0], FreeState(network)),
            ValueError,
            r"^weights: expected a HubContextualRNN of .*model.safetensors",
        ),
        (
            (nn.LSTM(4, 5, batch_first=True), parts()[1]),
            ValueError,
            r"^weights: expected .*weight_ih_l0.*20, 4.*20, 3.*model.safetensors",
        ),
    ],
    ids=["wider", "another network", "another initial state", "another input"],
)
def test_weights_of_another_model_are_refused(tmp_path, given, error, match):
    HubContextualRNN(*parts()).save_pretrained(tmp_path)
    with pytest.raises(error, match=match):
        HubContextualRNN.from_pretrained(tmp_path, network=given[0], initial_state=given[1])


def test_a_folder_without_weights_is_refused(tmp_path):
    network, initial_state = parts()
    torch.save(HubContextualRNN(*parts()).state_dict(), tmp_path / "pytorch_model.bin")  # pickled: not read
    with pytest.raises(FileNotFoundError):
        HubContextualRNN.from_pretrained(tmp_path, network=network, initial_state=initial_state)


def test_bad_arguments_are_named(tmp_path):
    model = HubContextualRNN(network := nn.GRU(3, 5), state := FreeState(network))
    model.save_pretrained(tmp_path)
    given = {"network": network, "initial_state": state}
    with pytest.raises(ValueError, match=r"^map_location: expected a torch\.device, its name or None, got 'gpu'"):
        HubContextualRNN.from_pretrained(tmp_path, map_location="gpu", **given)
    for name in (None, 3, network):
        with pytest.raises(TypeError, match=r"^pretrained_model_name_or_path: expected a folder or the name of a rep"):
            HubContextualRNN.from_pretrained(name, **given)


def test_weights_written_elsewhere_load_where_all_fit(tmp_path):
    model = HubContextualRNN(*parts())
    model.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")  # without our words in it
    network, initial_state = parts()
    loaded = HubContextualRNN.from_pretrained(tmp_path, network=network, initial_state=initial_state)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


def test_the_card_says_what_the_model_is_and_its_code_runs(tmp_path, monkeypatch):
    network, initial_state = parts()
    model = HubContextualRNN(network, initial_state)
    model.save_pretrained(tmp_path, model_card_kwargs={"notes": "Trained on nothing.", "repo_id": str(tmp_path)})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "contextual-rnn"
    assert {"initial-state", "recurrent-neural-network"} <= set(card.data.tags)
    for words in ("`LSTM`", "`NormalState`", "Trained on nothing.", "needs a context", "Linear(in_features=2"):
        assert words in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    scope = {"network": network, "initial_state": initial_state}
    exec(code, scope)
    assert isinstance(scope["model"], HubContextualRNN)
    plain = HubContextualRNN(network, ConstantState(network))
    assert "needs a context" not in plain.generate_model_card().text


def test_push_sends_the_folder_that_save_pretrained_writes(monkeypatch):
    sent = {}

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **_):
            sent.update({path.name: path.stat().st_size for path in folder_path.iterdir()})
            return "commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    Forecaster().push_to_hub("somebody/forecaster")
    assert set(sent) == {"README.md", "config.json", "model.safetensors"}
