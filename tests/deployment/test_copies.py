"""Copies of a model: deepcopy, pickle, state_dict against golden files, meta device with to_empty."""

import copy
import io
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.deployment.matrix import CASES, build, inputs_for
from tests.networks import tensors_of

GOLDEN = Path(__file__).parent / "golden"
# One case for each state and each layout of a state; `python -m tests.deployment.golden` writes them anew.
KEPT = [
    "constant lstm projected",
    "free rnn deep both ways",
    "context gru",
    "normal lstm cell",
    "context fast weights, low-rank A",
    "free fast weights, dense A",
]


def outputs(model, x, context):
    with torch.no_grad():
        return tensors_of(model(x, context=context))


@pytest.mark.parametrize("case", CASES)
def test_deepcopy_and_pickle(case):
    model = build(case).eval()
    x, context = inputs_for(model, 3)
    wanted = outputs(model, x, context)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert all(map(torch.equal, outputs(twin, x, context), wanted))
        with torch.no_grad():
            for tensor in twin.state_dict().values():
                tensor.zero_()
        assert all(map(torch.equal, outputs(model, x, context), wanted)), "a copy shares no memory"


@pytest.mark.parametrize("case", CASES)
def test_meta_device_and_to_empty(case):
    model = build(case).eval()
    x, context = inputs_for(model, 3)
    with torch.device("meta"):
        fresh = build(case).eval()
    assert all(tensor.is_meta for tensor in fresh.state_dict().values())
    on_meta = outputs(fresh, x.to("meta"), context.to("meta"))
    assert [tensor.shape for tensor in on_meta] == [tensor.shape for tensor in outputs(model, x, context)]
    fresh.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert all(map(torch.equal, outputs(fresh, x, context), outputs(model, x, context)))


@pytest.mark.parametrize("case", CASES)
def test_weights_alone_restore_a_model(case, tmp_path):
    """Nothing pickled is read back."""
    model = build(case).eval()
    x, context = inputs_for(model, 3)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = build(case).eval()
    with torch.no_grad():
        for tensor in fresh.state_dict().values():
            tensor.fill_(torch.nan)
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert all(map(torch.equal, outputs(fresh, x, context), outputs(model, x, context)))


@pytest.mark.parametrize("case", KEPT)
def test_golden_files_load_and_give_the_numbers_of_their_day(case):
    """A file written by an earlier version: the same names and shapes, and the same output.

    Sums may be in another order with another torch or processor: a few units in the last place.
    """
    kept = load_file(GOLDEN / f"{re.sub('[ ,]+', '-', case)}.safetensors")
    x, context = kept.pop("example.input"), kept.pop("example.context")
    wanted = [kept.pop(name) for name in sorted(kept) if name.startswith("example.output.")]
    model = build(case).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(torch.nan)
    model.load_state_dict(kept)
    for found, tensor in zip(outputs(model, x, context), wanted, strict=True):
        torch.testing.assert_close(found, tensor, rtol=1e-5, atol=2e-6)
