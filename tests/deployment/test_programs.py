"""Programs, in which values cannot be read: lengths, masks and random states as the model itself has them."""

import logging

import pytest
import torch
from tests import fresh
from tests.networks import Springs, tensors_of
from tests.own_networks import OWN
from tests.sequences_alone import Batch, build
from torch import nn
from torch._dynamo.utils import counters

from contextual_rnn import (
    ContextDropout,
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    NormalState,
    state_spec,
    truncated,
)
from contextual_rnn.ops._gated import cpu

B, T = 4, 6
NETWORKS = {
    "gru": lambda: nn.GRU(3, 4, batch_first=True),
    "gru, time first": lambda: nn.GRU(3, 4),
    "lstm": lambda: nn.LSTM(3, 4, batch_first=True),
    "rnn both ways": lambda: nn.RNN(3, 4, num_layers=2, bidirectional=True),
}
ONE_WAY = ["gru", "gru, time first", "lstm"]
# One block a row: at its end, in the middle, at its beginning, none; not as in the masks of which programs are made.
STEP = torch.arange(T)
FIRST, STOP = torch.tensor([2, 1, 0, 0]), torch.tensor([6, 4, 5, 0])
MASK = (FIRST[:, None] <= STEP) & (STOP[:, None] > STEP)
ANOTHER = MASK.roll(1, 0).flip(1)


class Masked(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, context, mask):
        return tuple(tensors_of(self.model(x, context=context, mask=mask)))


def masked(network):
    torch.manual_seed(0)
    network = NETWORKS[network]()
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 5))).eval().requires_grad_(False)
    x = torch.randn(B, T, 3)
    flags = (lambda mask: mask) if network.batch_first else (lambda mask: mask.T)
    return Masked(model), x if network.batch_first else x.transpose(0, 1), torch.randn(B, 2), flags


def compiled(module, inputs):
    torch._dynamo.reset()
    return torch.compile(module, backend="eager")


def traced(module, inputs):
    return torch.jit.trace(module, inputs, check_trace=False)


def exported(module, inputs):
    return torch.export.export(module, inputs).module()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "network"),
    [
        *((compiled, network) for network in NETWORKS),
        *((traced, network) for network in NETWORKS),
        *((exported, network) for network in ("gru", "gru, time first")),  # torch exports no packing
    ],
)
def test_masks_of_any_block(make, network):
    module, x, context, flags = masked(network)
    with torch._dynamo.config.patch(allow_rnn=True):
        program = make(module, (x, context, flags(ANOTHER)))
        for mask in (ANOTHER, MASK):
            found, wanted = program(x, context, flags(mask)), module(x, context, flags(mask))
            for tensor, eager in zip(found, wanted, strict=True):
                torch.testing.assert_close(tensor, eager)
        if make is not traced:  # which drops the check, as nothing is computed of it
            # Without the kernel torch packs these, which is not compiled.
            packed = cpu.instruction_set() is None and "gru" not in network
            with pytest.raises(ValueError if packed else RuntimeError, match="one block"):
                program(x, context, flags(MASK | (STEP == 5)))


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_without_a_step(network):
    module, x, context, _ = masked(network)
    torch._dynamo.reset()
    program = torch.compile(module.model, backend="eager")
    with torch._dynamo.config.patch(allow_rnn=True):
        for lengths, burn_in in (([6, 3, 1, 0], 0), ([6, 0, 4, 2], 0), ([6, 3, 1, 5], 2), ([6, 0, 4, 2], 2)):
            if burn_in and module.model.network.bidirectional:
                continue
            options = {"context": context, "lengths": torch.tensor(lengths), "burn_in": burn_in}
            for tensor, eager in zip(*(tensors_of(run(x, **options)) for run in (program, module.model)), strict=True):
                torch.testing.assert_close(tensor, eager)


@pytest.mark.parametrize("beside", ["lengths", "mask"])
@pytest.mark.parametrize("given", ["context", "hx"])
@pytest.mark.parametrize("network", ONE_WAY)
def test_rows_that_begin_after_the_burn_in_have_their_gradient(network, given, beside):
    """Or never: a row without a step ends in the state that it starts from."""
    module, x, context, flags = masked(network)
    model = module.model.requires_grad_()
    options = {"lengths": torch.tensor([6, 0, 4, 2])} if beside == "lengths" else {"mask": flags(MASK)}
    state = tuple(torch.randn_like(tensor).requires_grad_() for tensor in tensors_of(model.initial_state(context)))
    leaves = [*model.network.parameters(), *(model.initial_state.parameters() if given == "context" else state)]
    if given == "context":
        options["context"] = context
    else:
        options["hx"] = state if len(state) > 1 else state[0]
    torch._dynamo.reset()
    gradients = []
    with torch._dynamo.config.patch(allow_rnn=True):
        for run in (torch.compile(model, backend="eager"), model):
            loss = sum(tensor.square().sum() for tensor in tensors_of(run(x, burn_in=2, **options)))
            gradients.append(torch.autograd.grad(loss, leaves))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted)


READ = [
    *(
        (network, beside)
        for network in (*NETWORKS, "fast weights", "lstm cell")
        for beside in ("reset", "reset_context")
    ),
    *((network, "lengths") for network in NETWORKS),
    *((network, "mask, burn_in") for network in (*ONE_WAY, "fast weights")),
]


@pytest.mark.parametrize(("network", "beside"), READ)
def test_calls_that_read_values_run_as_they_do_uncompiled(network, beside):
    """Not in dozens of graphs that are compiled again for other lengths."""
    if network == "lstm cell":
        network, flags = nn.LSTMCell(3, 4), lambda mask: mask[:, 1]
        x = torch.randn(B, 3)
    else:
        network = NETWORKS[network]() if network in NETWORKS else FastWeightsRNN(3, 4, batch_first=True)
        flags = (lambda mask: mask) if network.batch_first else (lambda mask: mask.T)
        x = torch.randn(B, T, 3) if network.batch_first else torch.randn(T, B, 3)
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 5)))
    torch._dynamo.reset()
    counters.clear()
    program = torch.compile(model, backend="eager")
    for mask in (MASK, ANOTHER):
        options = {
            "reset": lambda mask: {"reset": flags(mask)},
            "reset_context": lambda mask: {"reset": flags(mask), "reset_context": torch.randn(flags(mask).sum(), 2)},
            "mask, burn_in": lambda mask: {"mask": flags(mask), "burn_in": 2},
            "lengths": lambda mask: {"lengths": mask.sum(1)},
        }[beside](mask)
        found, wanted = (tensors_of(run(x, context=torch.ones(B, 2), **options)) for run in (program, model))
        cotangents = [torch.randn_like(tensor) for tensor in wanted]
        gradients = [torch.autograd.grad(each, [*model.parameters()], cotangents) for each in (found, wanted)]
        for tensor, eager in zip([*found, *gradients[0]], [*wanted, *gradients[1]], strict=True):
            assert torch.equal(tensor, eager)
    assert not counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(("network", "options"), [("lstm", {}), ("lstm", {"burn_in": 2}), ("rnn both ways", {})])
def test_lengths_that_torch_packs_are_not_compiled(network, options, monkeypatch):
    """Packing reads them: it was 13 graphs. The kernel needs none, and is in the program: test_compile.py."""
    monkeypatch.setenv("CONTEXTUAL_RNN_SEQUENCES_BACKEND", "torch")
    module, x, context, _ = masked(network)
    torch._dynamo.reset()
    counters.clear()
    options = {"context": context, "lengths": torch.tensor([6, 3, 2, 5]), **options}
    with torch._dynamo.config.patch(allow_rnn=True):
        found, wanted = (tensors_of(run(x, **options)) for run in (torch.compile(module.model), module.model))
    for tensor, eager in zip(found, wanted, strict=True):
        assert torch.equal(tensor, eager)
    assert not counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("beside", ["lengths", "mask", "reset"])
@pytest.mark.parametrize("network", ["gru", "fast weights", "own"])
def test_pieces_that_values_say_are_not_compiled(network, beside):
    """They were more than the longest row has, in up to 61 graphs."""
    networks = {**NETWORKS, "fast weights": lambda: FastWeightsRNN(3, 4, batch_first=True), "own": OWN["not said"]}
    network = networks[network]()
    model = ContextualRNN(network, NormalState(state_spec(network).like(torch.zeros(1)), nn.Linear(2, 5)))
    lengths, x, context = torch.tensor([3, 0, 2, 3]), torch.randn(B, T, 3), torch.randn(B, 2, requires_grad=True)
    options = {"lengths": {"lengths": lengths}, "mask": {"mask": lengths[:, None] > STEP}, "reset": {"reset": MASK}}

    def pieces():
        torch.manual_seed(0)
        return [[output, state] for _, output, state in truncated(model, x, 2, context=context, **options[beside])]

    torch._dynamo.reset()
    counters.clear()
    found, wanted = tensors_of(torch.compile(pieces, backend="eager")()), tensors_of(pieces())
    cotangents = [torch.randn_like(tensor) for tensor in wanted]
    leaves = [context, *model.parameters()]
    gradients = [torch.autograd.grad(each, leaves, cotangents) for each in (found, wanted)]
    for tensor, eager in zip([*found, *gradients[0]], [*wanted, *gradients[1]], strict=True):
        assert torch.equal(tensor, eager)
    assert counters["stats"]["unique_graphs"] <= 1  # that of the cut between pieces


IN_CODE = ["nn.GRU(3, 4, batch_first=True)", "FastWeightsRNN(3, 4, batch_first=True)"]


def model_of(network):
    """Code, for a process of its own, that makes a model of a network of `IN_CODE`."""
    return (
        "import torch\n"
        "from torch import nn\n"
        "from contextual_rnn import ContextState, ContextualRNN, FastWeightsRNN\n"
        "torch.manual_seed(0)\n"
        f"network = {network}\n"
        "model = ContextualRNN(network, ContextState(network, nn.Linear(2, 5)))\n"
    )


@pytest.mark.parametrize("network", IN_CODE)
def test_nothing_is_said_of_what_runs_uncompiled(network):
    """torch warned, once a process, of a function of its own that it cannot compile."""
    done = fresh.run(
        model_of(network) + "program = torch.compile(model, backend='eager')\n"
        "lengths, reset = torch.tensor([6, 3]), torch.ones(2, 6) > 0\n"
        "for options in ({'lengths': lengths}, {'reset': reset}):\n"
        "    program(torch.randn(2, 6, 3), context=torch.randn(2, 2), **options)\n",
        compiles=True,
    )
    assert not done.stderr


@pytest.mark.parametrize("case", OWN)
def test_lengths_of_networks_of_ones_own_run_as_they_do_uncompiled(case):
    torch._dynamo.reset()
    counters.clear()
    model = build(case, torch.float64)
    batch = Batch.of(model, torch.tensor([6, 3, 0, 2]), torch.zeros(4, 6, dtype=torch.bool), explicit=False)
    found, wanted = (
        run(batch.input(model), **batch.arguments(model) | {"reset": None})
        for run in (torch.compile(model, backend="eager"), model)
    )
    for tensor, eager in zip(tensors_of(found), tensors_of(wanted), strict=True):
        assert torch.equal(tensor, eager)
    assert not counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("options", [{"reset": MASK}, {"mask": MASK, "burn_in": 2}], ids=["reset", "mask"])
def test_calls_that_read_values_are_not_exported(options, strict):
    model = ContextualRNN(network := nn.GRU(3, 4, batch_first=True), ContextState(network, nn.Linear(2, 5)))
    name = next(iter(options))
    with pytest.raises((ValueError, torch._dynamo.exc.Unsupported), match=f"{name}: expected none under torch.export"):
        torch.export.export(model, (torch.randn(B, T, 3),), {"context": torch.randn(B, 2), **options}, strict=strict)


def test_a_network_compiled_by_itself_stays_so_within_calls_that_read_values():
    torch._dynamo.reset()
    counters.clear()
    cell = Springs(3, 4)
    model = ContextualRNN(cell, ContextState(cell, nn.Linear(2, 5)))
    x, options = torch.randn(B, 3), {"context": torch.randn(B, 2), "reset": MASK[:, 1]}
    wanted = tensors_of(model(x, **options))
    cell.compile(backend="eager")
    for tensor, eager in zip(tensors_of(torch.compile(model, backend="eager")(x, **options)), wanted, strict=True):
        torch.testing.assert_close(tensor, eager)
    assert counters["stats"]["unique_graphs"] == 1


STATES = {
    "free": lambda cell: FreeState(cell, noise=0.3, value=0.2),
    "normal": lambda cell: NormalState(cell, nn.Linear(2, 5)),
    "dropout": lambda cell: ContextDropout(NormalState(cell, nn.Linear(2, 5)), 0.5),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("options", [{}, {"num_samples": 2}, {"return_posterior": True}], ids=str)
def test_random_states_of_another_batch_size(state, options):
    torch._dynamo.reset()
    cell = nn.LSTMCell(3, 4)
    model = ContextualRNN(cell, STATES[state](cell))
    program = torch.compile(model, backend="eager")
    for batch in (4, 5, 3):
        x, context, drawn = torch.randn(batch, 3), torch.randn(batch, 2), []
        for run in (program, model):
            torch.manual_seed(batch)
            drawn.append(tensors_of(run(x, context=context, **options)))
        for tensor, eager in zip(*drawn, strict=True):
            torch.testing.assert_close(tensor, eager)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("state", STATES)
def test_a_batch_without_bounds_is_exported(state, strict):
    cell = nn.GRUCell(3, 4)
    model = ContextualRNN(cell, STATES[state](cell))
    batch = torch.export.Dim("batch")
    inputs, shapes = (
        ((torch.randn(4, 3),), {"context": torch.randn(4, 2)}),
        {"input": {0: batch}, "context": {0: batch}},
    )
    program = torch.export.export(model, *inputs, dynamic_shapes=shapes, strict=strict).module()
    x, context, drawn = torch.randn(7, 3), torch.randn(7, 2), []
    for run in (program, model):
        torch.manual_seed(0)
        drawn.append(run(x, context=context))
    torch.testing.assert_close(*drawn)


def test_a_network_that_does_not_say_its_time_axis_is_tried_uncompiled(monkeypatch):
    """Dynamo wrote an error with a traceback for the way that does not run."""
    network = OWN["not said"]()
    model = ContextualRNN(network, FreeState(state_spec(network).like(torch.zeros(1)), value=0.3))
    x = torch.randn(B, T, 3)
    errors = []
    monkeypatch.setattr(
        logging.getLogger("torch._subclasses.fake_tensor"), "error", lambda *words, **_: errors.append(words)
    )
    torch._dynamo.reset()
    found = torch.compile(model, backend="eager")(x, burn_in=2)
    for tensor, eager in zip(tensors_of(found), tensors_of(model(x, burn_in=2)), strict=True):
        torch.testing.assert_close(tensor, eager)
    assert not errors


@pytest.mark.parametrize("strict", [True, False])
def test_a_network_that_does_not_say_its_time_axis_is_not_tried_under_export(strict):
    network = OWN["not said"]()
    model = ContextualRNN(network, FreeState(state_spec(network).like(torch.zeros(1)), value=0.3))
    with pytest.raises((ValueError, torch._dynamo.exc.Unsupported), match=r"give its StateSpec time_dim=.* cannot try"):
        torch.export.export(model, (torch.randn(B, T, 3),), {"burn_in": 2}, strict=strict)


@pytest.mark.parametrize("options", ["", "lengths=lengths", "reset=reset"])
@pytest.mark.parametrize("network", IN_CODE)
def test_a_compiled_training_step_has_the_gradients_of_the_kernels(network, options):
    """Their backward pass was compiled in pieces, which freed what the kernel had the address of: the process died."""
    done = fresh.run(
        model_of(network)
        + "x, context, lengths = torch.randn(4, 6, 3), torch.randn(4, 2), torch.tensor([6, 3, 4, 2])\n"
        "reset, cotangent = torch.rand(4, 6) < 0.3, torch.randn(4, 6, 4)\n"
        "def step():\n"
        "    model.zero_grad()\n"
        f"    (model(x, context=context, {options})[0] * cotangent).sum().backward()\n"
        "    return [parameter.grad.clone() for parameter in model.parameters()]\n"
        "wanted, program = step(), torch.compile(step, backend='eager')\n"
        "for _ in range(3):\n"
        "    for found, gradient in zip(program(), wanted):\n"
        "        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)\n",
        compiles=True,
    )
    assert "UserWarning" not in done.stderr


@pytest.mark.parametrize("network", IN_CODE)
def test_streams_and_generation_run_as_they_do_uncompiled(network):
    """They were compiled in up to 21 graphs, around a kernel that has addresses of tensors."""
    done = fresh.run(
        model_of(network) + "from contextual_rnn import generate\n"
        "from torch._dynamo.utils import counters\n"
        "model, readout = model.eval(), nn.Linear(4, 3)\n"
        "x, context, reset = torch.randn(4, 6, 3), torch.randn(4, 2), torch.rand(4, 6) < 0.3\n"
        "def streamed():\n"
        "    stream = model.stream(context)\n"
        "    outputs = [stream(x[:, t], reset=reset[:, t]).clone() for t in range(6)]\n"
        "    stream.reset()\n"
        "    stream.read_weights()\n"
        "    return torch.stack([*outputs, stream(x[:, 0])])\n"
        "def generated():\n"
        "    step = lambda output, value: readout(output)\n"
        "    options = {'prompt': x, 'context': context, 'num_steps': 5, 'stop': lambda value: value[:, 0] > 0}\n"
        "    return generate(model, step, **options).values\n"
        "for function in (streamed, generated):\n"
        "    torch.manual_seed(0)\n"
        "    wanted = function()\n"
        "    torch.manual_seed(0)\n"
        "    assert torch.equal(torch.compile(function, backend='eager')(), wanted)\n"
        "print(counters['stats']['unique_graphs'])\n",
        compiles=True,
    )
    assert "UserWarning" not in done.stderr
    assert int(done.stdout) <= 8  # of the slices and clones around
