"""torch.jit.trace and the ONNX exporter that is made of it: any batch size, any length, or one clear line."""

import io
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from tests.deployment.matrix import CELLS, FAST_WEIGHTS, STATES, build, inputs_for
from tests.networks import is_cell, tensors_of
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from contextual_rnn import ContextState, ContextualRNN, FastWeightsRNN, FreeState, sequence_cross_entropy

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*legacy TorchScript.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of the older exporter
]
NETWORKS = ["rnn deep both ways", "gru", "lstm", "lstm projected", *CELLS]
# Every state over one network, every network under one state; with a batch of one, what would be fixed is seen.
TRACED = [*(f"{state} gru" for state in STATES), *(f"free {network}" for network in NETWORKS), "normal lstm cell"]
EXPORTED = ["constant rnn deep both ways", "free gru", "context lstm", "normal lstm cell", "context fast weights cell"]
UNSEEN = [(2, 9), (1, 1), (7, 3)]
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


class Flat(nn.Module):
    """Output and final state as plain tensors; tracers take neither None nor keywords."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, context):
        return tuple(tensors_of(self.model(x, context=context)))


def trace(model, batch, steps=5):
    flat = Flat(model).eval()
    return torch.jit.trace(flat, inputs_for(model, batch, steps), check_trace=False)


def compare(found, model, x, context):
    with torch.no_grad():
        expected = tensors_of(model(x, context=context))
    for tensor, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(tensor).detach(), eager, **CLOSE)


@pytest.mark.parametrize("batch", [4, 1])
@pytest.mark.parametrize("case", dict.fromkeys(TRACED))
def test_a_traced_module_runs_at_other_sizes(case, batch):
    model = build(case).eval()
    traced = trace(model, batch)
    for size, steps in UNSEEN:
        x, context = inputs_for(model, size, steps)
        compare(traced(x, context), model, x, context)


@pytest.mark.parametrize("network", FAST_WEIGHTS)
def test_fast_weights_are_traced_for_one_length(network):
    """Step by step, in PyTorch's own operators: a native call would leave its results behind as constants."""
    model = build(f"context {network}").eval()
    traced = trace(model, 4)
    for size in (2, 1, 7):
        x, context = inputs_for(model, size, 5)
        compare(traced(x, context), model, x, context)
    with pytest.raises(RuntimeError, match="Expected 5 elements in a list but found 9"):
        traced(*inputs_for(model, 2, 9))


@pytest.mark.parametrize("backend", ["attention", "cpu"])
def test_a_backend_that_cannot_be_traced_is_refused(backend):
    network = FastWeightsRNN(3, 5, batch_first=True, backend=backend)
    with pytest.raises(ValueError, match=r"^backend: expected auto or reference under torch\.jit\.trace, got"):
        torch.jit.trace(Flat(ContextualRNN(network, FreeState(network))), (torch.randn(2, 4, 3), torch.randn(2, 2)))


def test_the_loss_of_a_sequence_is_traced_by_its_modules():
    modules = nn.Embedding(9, 6), FastWeightsRNN(6, 5, batch_first=True), nn.Linear(5, 6), nn.Linear(6, 9)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(modules)

        def forward(self, tokens, targets):
            return sequence_cross_entropy(tokens, targets, *self.parts)

    traced = torch.jit.trace(Loss(), (torch.randint(9, (3, 4)), torch.randint(9, (3,))), check_trace=False)
    tokens, targets = torch.randint(9, (5, 4)), torch.randint(9, (5,))
    torch.testing.assert_close(traced(tokens, targets), sequence_cross_entropy(tokens, targets, *modules))


def packed(model, x, context, lengths):
    batch = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, state = model(batch, context=context)
    return pad_packed_sequence(output, batch_first=True)[0], state


def mask(lengths, steps):
    return torch.arange(steps)[None] < lengths[:, None]


RAGGED = {
    "lengths": lambda model, x, context, lengths: model(x, context=context, lengths=lengths),
    "mask": lambda model, x, context, lengths: model(x, context=context, mask=mask(lengths, x.shape[1])),
    "packed": packed,
    "burn_in": lambda model, x, context, lengths: model(x, context=context, burn_in=2),
}
REFUSED = {
    "reset": lambda model, x, context, lengths: model(x, context=context, reset=mask(lengths, x.shape[1])),
    "lengths": lambda model, x, context, lengths: model(x, context=context, lengths=lengths, burn_in=2),
}


def ragged(call):
    lstm = nn.LSTM(3, 4, batch_first=True)
    model = ContextualRNN(lstm, ContextState(lstm, nn.Linear(2, 3))).eval()

    class Ragged(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, context, lengths):
            return tuple(tensors_of(call(self.model, x, context, lengths)))

    return Ragged()


def sizes(batch, steps):
    lengths = torch.randint(1, steps + 1, (batch,))
    lengths[0] = steps
    return torch.randn(batch, steps, 3), torch.randn(batch, 2), lengths


@pytest.mark.parametrize("name", RAGGED)
def test_lengths_are_traced_where_torch_packs(name):
    module = ragged(RAGGED[name])
    traced = torch.jit.trace(module, sizes(4, 5), check_trace=False)
    for batch, steps in ((2, 9), (1, 4), (7, 3)):
        given = sizes(batch, steps)
        torch.testing.assert_close(traced(*given), module(*given), **CLOSE)


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_would_become_constants_are_refused(name):
    with pytest.raises(ValueError, match=rf"^{name}: expected none under torch\.jit\.trace here"):
        torch.jit.trace(ragged(REFUSED[name]), sizes(4, 5), check_trace=False)


@pytest.mark.parametrize("case", EXPORTED)
def test_the_older_onnx_exporter(case):
    model, file = build(case).eval(), io.BytesIO()
    x, context = inputs_for(model, 4, 5)
    axes = {0: "batch"} if is_cell(model.network) else {0: "time", 1: "batch"}
    if getattr(model.network, "batch_first", False):
        axes = {0: "batch", 1: "time"}
    dynamic = {"x": axes, "context": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["x", "context"], "dynamic_axes": dynamic}
        torch.onnx.export(Flat(model).eval(), (x, context), file, dynamo=False, **names)
    session = onnxruntime.InferenceSession(file.getvalue())
    for batch, steps in UNSEEN:
        x, context = inputs_for(model, batch, steps)
        given = {"x": x.numpy(), "context": context.numpy()}
        feeds = {argument.name: given[argument.name] for argument in session.get_inputs()}
        compare([np.asarray(array) for array in session.run(None, feeds)], model, x, context)


def test_torch_jit_script_is_refused_by_torch():
    model = build("free gru")
    # Keyword-only arguments, or the type of an attribute: whichever torch meets first.
    with pytest.raises((torch.jit.frontend.NotSupportedError, ValueError), match=r"keyword|Unknown type annotation"):
        torch.jit.script(model)
