"""Publishing a model: save_pretrained, from_pretrained and push_to_hub, of huggingface_hub's own mixin.

Needs `pip install "contextual-rnn[hub]"`; nothing else in the library imports this file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from torch import nn

from contextual_rnn._numbers import check_device, shortened_text
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.serialization import load_weights, save_weights
from contextual_rnn.serialization.file_format import parse_json, read_bytes
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.states import InitialState

FILE, CONFIG = "model.safetensors", "config.json"
CARD = """---
{{ card_data }}
---

# {{ title }}

A recurrent network, `{{ network }}`, that starts from a `{{ initial_state }}` instead of zeros.
Its state is {{ state }}. {{ parameters }} parameters, {{ own }} of them in the initial state.

## Use

```sh
pip install "contextual-rnn[hub]"
```

```python
{{ usage }}
```
{% if reads_context %}
It needs a context with every call: what its context network takes. {% endif %}\
The weights are safetensors; nothing in this repository is executed when they are loaded.

## Architecture

```
{{ architecture }}
```

## Data, evaluation, limits

{{ notes }}
"""


class HubContextualRNN(
    ContextualRNN,
    PyTorchModelHubMixin,
    library_name="contextual-rnn",
    tags=["recurrent-neural-network", "initial-state"],
    paper_url="https://arxiv.org/abs/1902.03455",
    model_card_template=CARD,
):
    """A `ContextualRNN` that is published and loaded as models on the Hub are.

        model.save_pretrained("folder")
        model = HubContextualRNN.from_pretrained("folder", network=lstm, initial_state=h0)

    Modules are code and are not saved: hand the same architecture, with any weights, to `from_pretrained`. A subclass
    that builds both from numbers and words needs no arguments there: the mixin keeps those in config.json.

        class Forecaster(HubContextualRNN):
            def __init__(self, hidden_size: int = 128):
                lstm = nn.LSTM(1, hidden_size)
                super().__init__(lstm, ContextState(lstm, nn.Linear(2, 50)))

    Weights are read from safetensors alone, and all of them must fit; numbers such as a `min_scale` are restored.
    Raises FileNotFoundError for a folder without weights, and ValueError for a network with another state (both are
    shown), weights of other names, shapes or dtypes or that are not finite, another activation or other categories,
    and a file that is damaged; each names the file.
    """

    def __init__(self, network: nn.Module, initial_state: InitialState):
        super().__init__(network, initial_state)  # its backend is no matter of what is published

    def _save_pretrained(self, save_directory: Path) -> None:
        save_weights(self, save_directory / FILE)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> HubContextualRNN:
        """The model in a folder or repository; options and further arguments are those of huggingface_hub's mixin."""
        if not isinstance(pretrained_model_name_or_path, str | os.PathLike):
            received = type(pretrained_model_name_or_path).__name__
            raise TypeError(
                f"pretrained_model_name_or_path: expected a folder or the name of a repository, got {received}"
            )
        config = Path(pretrained_model_name_or_path) / CONFIG
        if config.exists():  # checked here: the mixin's own errors name no file
            try:
                if not isinstance(parse_json(read_bytes(config)), dict):
                    raise ValueError("no JSON object")
            except ValueError as error:
                raise ValueError(f"config: expected a JSON object in {config}, got {shortened_text(error)}") from error
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,
        **arguments: Any,
    ) -> HubContextualRNN:
        device = check_device(map_location, "map_location")
        if Path(model_id).is_dir():
            file = str(Path(model_id) / FILE)
        else:
            file = hf_hub_download(
                model_id,
                FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        model = cls(**arguments)
        load_weights(model, file, strict=strict)
        return model.to(device).eval()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card written for you; `model_card_kwargs` of save_pretrained may give `title`, `repo_id` and `notes`."""
        own = type(self) is not HubContextualRNN
        repo = kwargs.pop("repo_id", "FOLDER_OR_REPOSITORY")
        inside = f'"{repo}"' if own else f'"{repo}", network=network, initial_state=initial_state'
        module = type(self).__module__ if own else "contextual_rnn.hub"
        call = f"model = {type(self).__name__}.from_pretrained({inside})"
        if not own:
            call = "# network and initial_state: built as below, with any weights\n" + call
        written = {
            "title": f"{type(self.network).__name__} with a {type(self.initial_state).__name__}",
            "network": type(self.network).__name__,
            "initial_state": type(self.initial_state).__name__,
            "reads_context": self.initial_state.reads_context,
            "state": state_spec(self).describe(),
            "parameters": f"{sum(parameter.numel() for parameter in self.parameters()):,}",
            "own": f"{sum(parameter.numel() for parameter in self.initial_state.parameters()):,}",
            "usage": f"from {module} import {type(self).__name__}\n\n{call}",
            "architecture": str(self),
            "notes": "Not written yet: what it was trained on, how well it does, and where it should not be used.",
        }
        return super().generate_model_card(*args, **written | kwargs)
