"""torch.export and ONNX: batch sizes and lengths that were not seen at export give the numbers of eager PyTorch."""

import functools
import io

import numpy as np
import onnxruntime
import pytest
import torch
from tests.deployment.matrix import build, inputs_for
from tests.networks import is_cell, make_input, tensors_of
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from contextual_rnn import AdditiveAttention, ContextualRNN, FastWeightsRNN, FreeState, LowRank
from contextual_rnn.export import AnyLength

# Each state and each family of networks at least once; the graph of a state is the same over all networks.
EXPORTED = [
    "context rnn",
    "free gru",
    "normal lstm",
    "free fast weights, dense A",
    "context fast weights, low-rank A",
    "constant lstm cell",
    "normal fast weights cell",
]
# Sums are in another order than in oneDNN and our kernels: a few units in the last place, over up to 9 steps.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
UNSEEN = [(2, 9), (1, 1), (7, 1), (1, 6)]  # exported at (4, 5)


@pytest.fixture(scope="module", autouse=True)
def one_registry():
    """torch.onnx.export parses all operators of onnxscript anew each time, a fifth of what an export takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


def export(model):
    """A program for any batch size and, unless it is a cell, any length."""
    batch = torch.export.Dim("batch")
    x, context = inputs_for(model, 4, 5)
    if is_cell(model.network):
        return torch.export.export(_Step(model), (x, context), dynamic_shapes=({0: batch}, {0: batch}))
    shapes = {"input": _axes(model.network, batch), "context": {0: batch}}
    return torch.export.export(AnyLength(model), (x,), {"context": context}, dynamic_shapes=shapes)


def _axes(network, batch):
    time = torch.export.Dim("time")
    return {0: batch, 1: time} if network.batch_first else {0: time, 1: batch}


class _Step(nn.Module):
    """One step of a cell from its initial state, for exporters that take positions only."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, context):
        return self.model(x, context=context)


def expected(model, x, context):
    with torch.no_grad():
        return tensors_of(model(x, context=context))


@pytest.mark.parametrize("case", EXPORTED)
def test_sizes_not_seen_at_export(case, tmp_path):
    """The exported program, then the ONNX file made of it in onnxruntime."""
    model = build(case).eval()
    program = export(model)
    targets = {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"}
    assert "contextual_rnn" not in targets, "what is exported runs where this library is not installed"
    torch.onnx.export(program, f=str(tmp_path / "model.onnx"), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names, run = [argument.name for argument in session.get_inputs()], program.module()
    for batch, steps in UNSEEN:
        x, context = inputs_for(model, batch, steps)
        eager = expected(model, x, context)
        found = run(x, context) if is_cell(model.network) else run(x, context=context)
        # A state that does not read the context leaves its input out of the file.
        feeds = {name: tensor.numpy() for name, tensor in zip(names, (x, context), strict=False)}
        arrays = session.run(None, feeds)
        for tensor, array, wanted in zip(tensors_of(found), arrays, eager, strict=True):
            torch.testing.assert_close(tensor, wanted, **CLOSE)
            np.testing.assert_allclose(array, wanted.numpy(), **CLOSE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
        lambda: nn.GRU(3, 4, bidirectional=True, batch_first=True),
        lambda: nn.RNN(3, 4, num_layers=2, nonlinearity="relu", bias=False),
        lambda: FastWeightsRNN(3, 4, timing="wenke2019", inner_steps=2, batch_first=True, return_fast_weights=True),
        lambda: FastWeightsRNN(3, 4, layer_norm=False, decay=nn.Parameter(torch.tensor(0.7)), batch_first=True),
    ],
    ids=["lstm deep both ways projected", "gru both ways", "rnn relu", "fast weights wenke2019", "without norm"],
)
def test_any_length_computes_what_the_model_computes(make):
    """In eager mode and from a given state; which layers and options there are changes no exporter's path."""
    torch.manual_seed(0)
    model = ContextualRNN(network := make(), FreeState(network, value=0.4)).eval()
    x = make_input(network, 3, 5)
    hx = model(x)[1]
    if isinstance(network, FastWeightsRNN):
        hx = (hx[0], torch.randn(3, 4, 4))
    for state in (None, hx):
        with torch.no_grad():
            found, wanted = AnyLength(model)(x, state), model(x, state)
        for tensor, eager in zip(tensors_of(found), tensors_of(wanted), strict=True):
            torch.testing.assert_close(tensor, eager, **CLOSE)


@pytest.mark.parametrize("network", ["lstm", "fast weights"])
def test_without_any_length_the_batch_is_free_and_the_length_is_not(network):
    model = build(f"context {network}").eval()
    x, context = inputs_for(model, 4, 5)
    batch = torch.export.Dim("batch")
    axes = _axes(model.network, batch)
    free = {axis: dim for axis, dim in axes.items() if dim is batch}
    program = torch.export.export(_Step(model), (x, context), dynamic_shapes=(free, {0: batch}))
    x, context = inputs_for(model, 7, 5)
    for tensor, eager in zip(tensors_of(program.module()(x, context)), expected(model, x, context), strict=True):
        torch.testing.assert_close(tensor, eager, **CLOSE)
    with pytest.raises(torch._dynamo.exc.UserError, match="time"):
        torch.export.export(_Step(model), (x, context), dynamic_shapes=(axes, {0: batch}))


def test_lengths_cannot_be_exported_where_torch_packs():
    """Packing a padded batch reads its lengths: torch has no graph for it. Mask the outputs outside instead."""
    model = build("context lstm").eval()

    class Ragged(_Step):
        def forward(self, x, context, lengths):
            return self.model(x, context=context, lengths=lengths)

    x, context = inputs_for(model, 4, 5)
    with pytest.raises(ValueError, match=r"lengths: expected none under torch\.export"):
        torch.export.export(Ragged(model), (x, context, torch.tensor([5, 3, 2, 1])))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (AdditiveAttention(4, 6, 5), lambda draw: (draw(4, 4), draw(4, 5, 6))),
        (
            FastWeightsRNN(3, 4, batch_first=True, backend="reference"),
            lambda draw: (draw(4, 5, 3), (draw(4, 4), LowRank(draw(4, 2, 4), draw(4, 2, 4)))),
        ),
    ],
    ids=["Attended", "LowRank"],
)
def test_programs_with_our_types_are_saved_and_loaded(model, inputs, monkeypatch):
    file, given = io.BytesIO(), inputs(torch.randn)
    torch.export.save(torch.export.export(model, inputs(torch.randn)), file)
    monkeypatch.setattr("torch._export.serde.serialize.log.warning", pytest.fail)  # which it has of unsafe pickles
    found, wanted = torch.export.load(io.BytesIO(file.getvalue())).module()(*given), model(*given)
    assert type(found) is type(wanted)
    torch.testing.assert_close(tensors_of(found), tensors_of(wanted), **CLOSE)


def test_any_length_refuses_what_it_cannot_loop_over():
    with pytest.raises(TypeError, match=r"^model: expected a ContextualRNN, got LSTM"):
        AnyLength(nn.LSTM(3, 4))
    with pytest.raises(TypeError, match=r"^model: expected a network of RNN, .* got LSTMCell"):
        AnyLength(build("context lstm cell"))
    model = build("context lstm")
    with pytest.raises(ValueError, match=r"^input: expected a batch of sequences, 3 axes, got \(5, 3\)"):
        AnyLength(model)(torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"^input: expected at least one step, got \(5, 0, 3\)"):
        AnyLength(model)(torch.randn(5, 0, 3), context=torch.randn(5, 2))
    for module in (model, model.network):
        for register in (module.register_forward_hook, module.register_forward_pre_hook):
            hook = register(lambda *given: None)
            with pytest.raises(ValueError, match=rf"^model: expected a {type(module).__name__} without hooks"):
                AnyLength(model)
            hook.remove()
    parameters = [parameter for parameter in AnyLength(model).parameters() if parameter.requires_grad]
    assert not parameters
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("network", [nn.GRU(3, 5, 2), nn.LSTM(3, 5, bidirectional=True)], ids=["layers", "directions"])
def test_any_length_of_a_batch_of_one(network):
    model = ContextualRNN(network, FreeState(network, value=0.3)).eval()
    x = torch.randn(4, 1, 3)
    with torch.no_grad():
        found, wanted = AnyLength(model)(x), model(x)
    for tensor, eager in zip(tensors_of(found), tensors_of(wanted), strict=True):
        torch.testing.assert_close(tensor, eager, **CLOSE)


def test_any_length_stays_in_evaluation_mode_inside_of_modules_in_training():
    looped = AnyLength(build("normal lstm"))
    around = nn.ModuleList([looped]).train()
    x, context = inputs_for(looped.model, 4, 5)
    assert looped.training
    assert torch.equal(looped(x, context=context)[0], looped(x, context=context)[0])
    assert not around.eval()[0].training


@pytest.mark.parametrize("kind", [tuple, list])
def test_any_length_takes_a_state_as_the_network_takes_it(kind):
    lstm = nn.LSTM(3, 5, 2)
    model, x = ContextualRNN(lstm, FreeState(lstm)).eval(), torch.randn(4, 2, 3)
    hx = kind(torch.randn(2, 2, 2, 5))
    with torch.no_grad():
        looped, eager = AnyLength(model)(x, hx), model(x, hx)
    for tensor, wanted in zip(tensors_of(looped), tensors_of(eager), strict=True):
        torch.testing.assert_close(tensor, wanted, **CLOSE)


def test_any_length_refuses_what_does_not_fit_the_network():
    looped, x = AnyLength(build("context lstm")), torch.randn(5, 4, 3)
    with pytest.raises(ValueError, match=r"^input: expected torch.float32 on cpu, as the network, got torch.int64"):
        looped(x.long())
    for hx, error in ((1, TypeError), (torch.zeros(1, 4, 7), TypeError), ((torch.zeros(1, 3, 7),) * 2, ValueError)):
        with pytest.raises(error, match=r"^hx: expected"):
            looped(x, hx)
