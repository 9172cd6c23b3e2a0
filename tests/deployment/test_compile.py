"""torch.compile(fullgraph=True): one graph from context to final state, forward and backward."""

import copy
import gc

import pytest
import torch
import torch._inductor.config
from tests.deployment.matrix import CELLS, FAST_WEIGHTS, STATES, TORCH, build, inputs_for
from tests.networks import INPUT_SIZE, tensors_of
from torch import nn
from torch._dynamo.utils import counters

from contextual_rnn import ContextState, attach
from contextual_rnn.ops._gated import cpu

# Every state over one network, and every network under one state; what is traced of one does not depend on the other.
TRACED = [*(f"{state} lstm cell" for state in STATES), *(f"context {name}" for name in TORCH + CELLS + FAST_WEIGHTS)]
TRACED.remove("context lstm")  # below
# The same through the compiler's own code generator, minutes for all: the paper's network, and fast weights.
GENERATED = ["context lstm cell", "context fast weights, low-rank A"]


def check(case, backend):
    torch._dynamo.reset()
    model = build(case).eval()
    x, context = inputs_for(model, 3)
    # Dynamo does not trace torch's sequence networks unless asked to, whoever calls them.
    with torch._dynamo.config.patch(allow_rnn=True):
        found = tensors_of(torch.compile(model, fullgraph=True, backend=backend)(x, context=context))
        wanted = tensors_of(model(x, context=context))
        cotangents = [torch.randn_like(tensor) for tensor in wanted]
        parameters = [parameter for name, parameter in model.named_parameters() if "raw_scale" not in name]
        gradients = [torch.autograd.grad(outputs, parameters, cotangents) for outputs in (found, wanted)]
    for tensor, eager in zip([*found, *gradients[0]], [*wanted, *gradients[1]], strict=True):
        # Other kernels for the same sums.
        torch.testing.assert_close(tensor, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", dict.fromkeys(TRACED))
def test_one_graph(case):
    check(case, "aot_eager")


@pytest.mark.parametrize("case", GENERATED)
def test_one_graph_with_generated_code(case):
    # Otherwise every instruction set is tried first, by a compilation and a process; all files of torch are read for
    # the key under which the code is kept, which the next run of the tests would find; and to compile at once what is
    # one file, a process imports torch.
    quick = {"cpp.vec_isa_ok": True, "fx_graph_cache": False, "compile_threads": 1}
    with torch._inductor.config.patch(quick):
        check(case, "inductor")


def test_a_compiled_lstm_runs_and_torch_cannot_train_it_on_cpus():
    """The bare network fails alike: torch 2.13 saves a None for oneDNN's backward pass. Train eagerly, or a cell."""
    torch._dynamo.reset()
    model = build("context lstm").eval()
    x, context = inputs_for(model, 3)
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            found, wanted = compiled(x, context=context), model(x, context=context)
        for tensor, eager in zip(tensors_of(found), tensors_of(wanted), strict=True):
            torch.testing.assert_close(tensor, eager)
        hx = model.initial_state(context, 3)
        for train in (
            lambda: compiled(x, context=context),
            lambda: torch.compile(model.network, backend="aot_eager")(x, hx),
        ):
            with pytest.raises(AssertionError):  # in words of its own in every version
                train()


@pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
@pytest.mark.parametrize(
    ("network", "beside"),
    [
        ("lstm", "lengths"),
        ("lstm", "burn_in"),
        ("lstm deep both ways", "mask"),
        ("lstm projected", "lengths"),
        ("gru", "mask"),
        ("rnn", "lengths"),
        ("lstm", "nothing"),
    ],
)
def test_sequences_of_different_lengths_train_in_one_graph_by_the_kernel(network, beside):
    """Torch's own code over packed rows is in no graph, and the backward pass of its LSTM fails there."""
    torch._dynamo.reset()
    counters.clear()
    model, batch, steps = build(f"context {network}"), 6, 50
    model.backend = "native" if beside == "nothing" else "auto"
    time_first = not model.network.batch_first
    with torch._dynamo.config.patch(allow_rnn=True):
        program = torch.compile(model, fullgraph=True, backend="aot_eager")
        for lengths in ([50, 3, 0, 7, 20, 1], [1, 50, 30, 0, 2, 9]):
            x, context = torch.randn(batch, steps, INPUT_SIZE, requires_grad=True), inputs_for(model, batch)[1]
            lengths = torch.tensor(lengths)
            mask = torch.arange(steps) < lengths[:, None]
            options = {
                "nothing": {},
                "lengths": {"lengths": lengths},
                "burn_in": {"lengths": lengths, "burn_in": 20},
                "mask": {"mask": mask.T if time_first else mask},
            }[beside]
            found, wanted = (
                tensors_of(run(x.transpose(0, 1) if time_first else x, context=context, **options))
                for run in (program, model)
            )
            cotangents = [torch.randn_like(tensor) for tensor in wanted]
            leaves = [x, *model.parameters()]
            gradients = [torch.autograd.grad(each, leaves, cotangents) for each in (found, wanted)]
            for tensor, eager in zip([*found, *gradients[0]], [*wanted, *gradients[1]], strict=True):
                assert torch.equal(tensor, eager)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("lengths", [[5, 2, 1], [4, -1, 2]])
@pytest.mark.parametrize("network", ["gru", "fast weights"])
def test_lengths_that_do_not_fit_are_refused_when_their_values_are_known(network, lengths):
    torch._dynamo.reset()
    model = build(f"context {network}")
    x, context = inputs_for(model, 3)
    with torch._dynamo.config.patch(allow_rnn=True):
        program = torch.compile(model, fullgraph=True, backend="aot_eager")
        program(x, context=context, lengths=torch.tensor([4, 0, 2]))
        with pytest.raises(RuntimeError, match=r"^lengths: expected 0 to the number of steps, got others"):
            program(x, context=context, lengths=torch.tensor(lengths))


@pytest.mark.parametrize("network", TORCH)
def test_torch_refuses_its_sequence_networks_unless_allowed(network):
    """Ours or not: Dynamo's `allow_rnn` is what pytorch/pytorch#158007 is about. torch 2.15 compiles them."""
    torch._dynamo.reset()
    model = build(f"context {network}").eval()
    x, context = inputs_for(model, 3)
    hx, compiled = model.initial_state(context, 3), torch.compile(model, fullgraph=True, backend="eager")
    try:
        torch.compile(model.network, fullgraph=True, backend="eager")(x, hx)
    except torch._dynamo.exc.Unsupported:
        with pytest.raises(torch._dynamo.exc.Unsupported):  # in words of its own in every version
            compiled(x, context=context)
        return
    for tensor, eager in zip(
        tensors_of(compiled(x, context=context)), tensors_of(model(x, context=context)), strict=True
    ):
        torch.testing.assert_close(tensor, eager)


@pytest.mark.parametrize("method", ["kl", "sample"])
def test_other_models_do_not_have_it_compiled_anew(method):
    torch._dynamo.reset()
    model = build("normal lstm cell")
    _, context = inputs_for(model, 3)
    compiled = torch.compile(getattr(model.initial_state, method), backend="eager")
    compiled(context)
    with torch._dynamo.config.patch(error_on_recompile=True):
        others = [build("normal lstm cell") for _ in range(2)]
        compiled(context)
        del others
        gc.collect()
        compiled(context)


class Host(nn.Module):
    """A model whose attached networks start from what its forward method gets."""

    def __init__(self, cells=1, context="static"):
        super().__init__()
        self.cells = nn.ModuleList(nn.GRUCell(3, 4) for _ in range(cells))
        for cell in self.cells:
            attach(cell, ContextState(cell, nn.Linear(2, 5)), host=self, context=context)

    def forward(self, x, static):
        return torch.stack([cell(x) for cell in self.cells])


def second_argument(x, static):
    return static


@pytest.mark.parametrize("context", ["static", second_argument])
def test_other_models_do_not_have_an_attached_network_compiled_anew(context):
    torch._dynamo.reset()
    x = torch.randn(4, 3)
    torch.compile(Host(context=context), backend="eager")(x, torch.randn(4, 2))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for model in (Host(context=context), copy.deepcopy(Host(context=context))):
            compiled = torch.compile(model, backend="eager")
            for static in torch.randn(2, 4, 2):
                assert torch.equal(compiled(x, static), model(x, static))


def test_ten_attached_networks_are_compiled_once():
    torch._dynamo.reset()
    x, static = torch.randn(4, 3), torch.randn(4, 2)
    model = Host(cells=10)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(torch.compile(model, backend="eager")(x, static), model(x, static))


@pytest.mark.filterwarnings("ignore")
def test_an_attached_network_with_a_host_is_no_single_graph():
    torch._dynamo.reset()
    model, x, static = Host(), torch.randn(4, 3), torch.randn(4, 2)
    assert torch.equal(torch.export.export(model, (x, static)).module()(x, static), model(x, static))
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, fullgraph=True, backend="eager")(x, static)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.export.export(model, (x, static), strict=True)
