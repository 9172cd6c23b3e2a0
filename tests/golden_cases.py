"""Cases of files that an earlier version wrote, and the numbers in them; see test_serialization_golden.py.

`python -m tests.golden_cases` writes them anew. Only for a new case: the files show that what users have still loads.
"""

from pathlib import Path

import torch
from tests.networks import make
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    FastWeightsRNN,
    FreeState,
    LeafwiseState,
    NormalState,
    SumState,
    fast_weights_spec,
    state_spec,
)

FOLDER = Path(__file__).parent / "golden_files"


def shared_net():
    spec, net = state_spec(nn.LSTM(3, 5)), nn.Linear(2, 4)
    return LeafwiseState(spec, h=ContextState(spec["h"], net), c=ContextState(spec["c"], net))


STATES = {
    "constant-gru": lambda: ConstantState(nn.GRU(3, 5, num_layers=2)),
    "free-lstm": lambda: FreeState(nn.LSTM(3, 5)),
    "free-own-cell": lambda: FreeState(make("own cell")[1]),
    "free-fast-weights": lambda: FreeState(FastWeightsRNN(3, 5)),
    "free-error-rnn": lambda: FreeState(nn.RNN(3, 5), noise=0.1, error_decay=0.5),
    "context-lstm-cell": lambda: ContextState(nn.LSTMCell(3, 5), nn.Linear(2, 4), activation=torch.tanh),
    "normal-gru-double": lambda: NormalState(nn.GRU(3, 5).double(), nn.Linear(2, 4).double(), min_scale=0.2),
    "sum-gru": lambda: SumState([FreeState(nn.GRU(3, 5)), FreeState(nn.GRU(3, 5))], [0.3, 0.7]),
    "dropout-lstm": lambda: ContextDropout(ContextState(nn.LSTM(3, 5), nn.Linear(2, 4)), guidance=2.0),
    "leafwise-shared-net": shared_net,
}
CARRIED = {
    "carried-lstm": (lambda: nn.LSTM(3, 5, num_layers=2), 3),
    "carried-gru-unbatched": (lambda: nn.GRU(3, 5), None),
    "carried-gru-half": (lambda: nn.GRU(3, 5).bfloat16(), 2),
    "carried-own-cell": (lambda: make("own cell")[1], 2),
    "carried-fast-weights": (lambda: FastWeightsRNN(3, 5), 2),
    "carried-fast-weights-A": (lambda: fast_weights_spec(FastWeightsRNN(3, 5), "dense"), 2),
}


def hub_parts(name):
    if name == "hub-normal-lstm":
        network = nn.LSTM(3, 5, batch_first=True)
        return network, NormalState(network, nn.Sequential(nn.Linear(2, 4), nn.ReLU()), min_scale=0.2)
    return nn.LSTM(3, 5), shared_net()


HUB = ["hub-normal-lstm", "hub-shared-net"]


def numbers_like(tensor):
    """Numbers that are exact in every floating type."""
    return (torch.arange(tensor.numel()).remainder(64) / 8 - 3).reshape(tensor.shape).to(tensor.dtype)


def with_numbers(module):
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.copy_(numbers_like(tensor))
    return module


def carried_state(name):
    network, batch = CARRIED[name]
    spec = state_spec(network())
    rows = [] if batch is None else [batch]
    return spec.pack({leaf.name: numbers_like(torch.empty([*rows, *leaf.shape], dtype=spec.dtype)) for leaf in spec})


if __name__ == "__main__":
    from contextual_rnn.hub import HubContextualRNN
    from contextual_rnn.serialization import save_carried_state, save_state

    FOLDER.mkdir(exist_ok=True)
    for name, build in STATES.items():
        save_state(with_numbers(build()), FOLDER / f"{name}.safetensors")
    for name, (network, _) in CARRIED.items():
        save_carried_state(carried_state(name), FOLDER / f"{name}.safetensors", network())
    for name in HUB:
        with_numbers(HubContextualRNN(*hub_parts(name)))._save_pretrained(FOLDER)
        (FOLDER / "model.safetensors").rename(FOLDER / f"{name}.safetensors")
