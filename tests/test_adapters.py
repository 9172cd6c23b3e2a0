"""Networks of other packages: their registration is right, and every row and segment is as if run alone."""

import copy
from itertools import pairwise

import pytest
import torch
from tests.networks import tensors_of
from tests.sequences_alone import assert_equal
from torch import nn

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    FreeState,
    check_spec,
    generate,
    load_state,
    save_state,
    state_spec,
    truncated,
)
from contextual_rnn.diagnostics import diagnose

F64, BATCH, STEPS, WIDTH = torch.float64, 3, 5, 4
WHY = "comes with `make install`, or `make integrations`"


def _ncps():
    pytest.importorskip("ncps", reason=WHY)
    from ncps import torch, wirings

    return torch, wirings


def _recurrent():
    return pytest.importorskip("torchrecurrent", reason=WHY)


def _torchrl():
    pytest.importorskip("torchrl", reason=WHY)
    from torchrl import modules

    return modules


NETWORKS = {
    "ncps CfC": lambda: _ncps()[0].CfC(WIDTH, 6),
    "ncps CfC mixed, projected": lambda: _ncps()[0].CfC(WIDTH, 6, mixed_memory=True, proj_size=5),
    "ncps CfC wired": lambda: _ncps()[0].CfC(WIDTH, _ncps()[1].AutoNCP(10, 4)),
    "ncps CfC time first": lambda: _ncps()[0].CfC(WIDTH, 6, mode="pure", batch_first=False),
    "ncps LTC wired": lambda: _ncps()[0].LTC(WIDTH, _ncps()[1].AutoNCP(10, 4)),
    "ncps LTC mixed": lambda: _ncps()[0].LTC(WIDTH, 5, mixed_memory=True),
    "torchrecurrent MGU": lambda: _recurrent().MGU(WIDTH, 6, num_layers=2, batch_first=True),
    "torchrecurrent NAS": lambda: _recurrent().NAS(WIDTH, 6),
    "torchrecurrent TLSTM": lambda: _recurrent().TLSTM(WIDTH, 6, num_layers=2),
    "torchrecurrent coRNN": lambda: _recurrent().coRNN(WIDTH, 6),
    "torchrl LSTM": lambda: _torchrl().LSTM(WIDTH, 6, num_layers=2, batch_first=True),
    "torchrl GRU": lambda: _torchrl().GRU(WIDTH, 6),
}


@pytest.fixture(params=NETWORKS)
def model(request):
    torch.manual_seed(0)
    network = NETWORKS[request.param]().to(F64)
    net = nn.Sequential(nn.Linear(2, 5, dtype=F64), nn.Tanh())
    return ContextualRNN(network, ContextState(network, net))


def batch_of(model):
    torch.manual_seed(1)
    axes = state_spec(model).input_batch_dim, state_spec(model).known_time_dim
    x, times = torch.randn(BATCH, STEPS, WIDTH, dtype=F64), 0.5 + torch.rand(BATCH, STEPS, dtype=F64)
    context = torch.randn(BATCH, 2, dtype=F64).requires_grad_()
    given = {"timespans": times.movedim((0, 1), axes)} if "timespans" in state_spec(model).per_step else {}
    return x.movedim((0, 1), axes).requires_grad_(), context, given, axes


def rows(model, output, state, axes):
    return [output.movedim(axes, (0, 1)), *state_spec(model).check(state).values()]


def alone(model, x, context, given, axes, lengths, cuts):
    outputs, finals = [], []
    for row, length in enumerate(lengths):
        bounds, pieces = [0, *cuts[row], length], []
        for start, stop in pairwise(bounds):

            def cut(tensor, row=row, start=start, stop=stop):
                return tensor.narrow(axes[0], row, 1).narrow(axes[1], start, stop - start)

            arguments = {name: cut(value) for name, value in given.items()}
            output, state = model(cut(x), context=context[row : row + 1], **arguments)
            output, *final = rows(model, output, state, axes)
            pieces.append(output[0])
        outputs.append(torch.cat([*pieces, output.new_zeros(STEPS - length, *output.shape[2:])]))
        finals.append(final)
    return [torch.stack(outputs), *(torch.cat(leaf) for leaf in zip(*finals, strict=True))]


def outcome(tensors, leaves):
    generator = torch.Generator().manual_seed(9)
    loss = sum((t * torch.randn(t.shape, generator=generator, dtype=F64)).sum() for t in tensors)
    return [*tensors, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def test_the_registration_is_right(model):
    x, _, given, _ = batch_of(model)
    check_spec(model.network, x.detach(), arguments=given)


def test_without_a_state_the_package_computes_the_same_from_zeros(model):
    x, network = batch_of(model)[0].float(), model.network.float()  # ncps makes zeros of float32
    zeros = ContextualRNN(network, FreeState(network))
    assert_equal(tensors_of(zeros(x)), tensors_of(network(x)))


LENGTHS, CUTS = [5, 3, 4], [[2], [], [1, 3]]


def test_rows_and_segments_are_as_if_alone(model):
    x, context, given, axes = batch_of(model)
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    for row, cuts in enumerate(CUTS):
        reset[row, cuts] = True
    options = {"lengths": torch.tensor(LENGTHS), "reset": reset.movedim((0, 1), axes), "context": context}
    leaves = [x, context, *(p for p in model.parameters() if p.requires_grad)]
    wanted = alone(model, x, context, given, axes, LENGTHS, CUTS)
    found = rows(model, *model(x, **options, **given), axes)
    assert_equal(outcome(found, leaves), outcome(wanted, leaves))
    pieces = [output for _, output, _ in truncated(model, x, 2, arguments=given, **options)]
    assert_equal([torch.cat(pieces, axes[1]).movedim(axes, (0, 1))], wanted[:1])
    assert_equal([model(x, burn_in=2, **options, **given)[0].movedim(axes, (0, 1))], [wanted[0][:, 2:]])


def test_generated_diagnosed_and_saved(model, tmp_path):
    x, context, given, axes = batch_of(model)
    first = x.detach().movedim(axes, (0, 1))[:, 0]
    values = generate(model, lambda output, value: output[:, :WIDTH], first, num_steps=3, context=context)[:, 0]
    inputs = torch.cat([first[:, None], values[:, :2]], 1).movedim((0, 1), axes)
    assert_equal([values], [model(inputs, context=context)[0].movedim(axes, (0, 1))[..., :WIDTH]])
    losses = diagnose(model, lambda: model(x, context=context, **given)[0].movedim(axes, (0, 1)).square().mean(2),
                      permutations=2).losses  # fmt: skip
    assert losses["true"].isfinite().all()
    assert not torch.equal(losses["true"], losses["zeroed"])
    save_state(model.initial_state, tmp_path / "state")
    other = copy.deepcopy(model)
    for parameter in other.initial_state.parameters():
        parameter.data.zero_()
    load_state(other.initial_state, tmp_path / "state")
    assert all(map(torch.equal, tensors_of(other(x, context=context)), tensors_of(model(x, context=context))))


def names(cells):
    module = pytest.importorskip("torchrecurrent", reason=WHY)
    return [name for name in module.__all__ if name.endswith("Cell") == cells and not name.startswith("tau")]


@pytest.mark.parametrize("cells", [False, True])
def test_all_of_torchrecurrent(cells):
    module = _recurrent()
    for name in names(cells):
        width = 6 if name.startswith("Intersection") else WIDTH
        network = getattr(module, name)(width, 6, **({} if cells else {"num_layers": 2}))
        check_spec(network, torch.randn(2, width) if cells else torch.randn(3, 2, width))


def test_what_does_not_take_all_of_its_state_is_refused():
    with pytest.raises(TypeError, match="got tauGRU, which keeps earlier states inside"):
        state_spec(_recurrent().tauGRU(3, 4))
    with pytest.raises(ValueError, match="expected a CfC with return_sequences=True"):
        state_spec(_ncps()[0].CfC(3, 4, return_sequences=False))


def _neurons():
    snn = pytest.importorskip("snntorch", reason=WHY)
    return {
        "Leaky": snn.Leaky(beta=0.9),
        "Lapicque": snn.Lapicque(beta=0.9),
        "Synaptic": snn.Synaptic(alpha=0.8, beta=0.9),
        "RLeaky": snn.RLeaky(beta=0.9, linear_features=WIDTH),
        "RSynaptic": snn.RSynaptic(alpha=0.8, beta=0.9, linear_features=WIDTH),
        "SLSTM": snn.SLSTM(WIDTH, WIDTH),
    }, snn


@pytest.mark.parametrize("name", ["Leaky", "Lapicque", "Synaptic", "RLeaky", "RSynaptic", "SLSTM"])
def test_neurons_of_snntorch(name):
    from contextual_rnn.spec.adapters.snntorch import neuron_spec

    neuron = _neurons()[0][name]
    if name != "SLSTM":
        with pytest.raises(TypeError, match="network: expected one with a registered state spec"):
            state_spec(neuron)
        neuron.state_spec = neuron_spec(neuron, (WIDTH,))
    check_spec(neuron, torch.randn(3, WIDTH), surrogate_gradients=True)
    model = ContextualRNN(neuron, ContextState(neuron, nn.Linear(2, 3), features=3))
    x, context = torch.randn(3, WIDTH), torch.randn(3, 2)
    spikes, state = model(x, context=context)
    given = model.initial_state(context)
    returned = neuron(x, *(given if isinstance(given, tuple) else (given,)))
    assert torch.equal(spikes, returned[0])
    assert torch.equal(tensors_of(state)[-1], returned[-1])
    reset = torch.tensor([True, False, True])
    _, after = model(x, state, context=context, reset=reset)
    for tensor, begun, goes_on in zip(
        tensors_of(after), tensors_of(state), tensors_of(model(x, state)[1]), strict=True
    ):
        assert torch.equal(tensor, torch.where(reset[:, None], begun, goes_on))


def test_neurons_that_keep_or_lose_their_state_are_refused():
    from contextual_rnn.spec.adapters.snntorch import neuron_spec

    _, snn = _neurons()
    with pytest.raises(ValueError, match="expected an SLSTM of input_size == hidden_size, got 3 and 4"):
        state_spec(snn.SLSTM(3, 4))
    with pytest.raises(ValueError, match="expected a Leaky with init_hidden=False"):
        neuron_spec(snn.Leaky(beta=0.9, init_hidden=True), (3,))
    with pytest.raises(TypeError, match=r"network: expected one of snntorch's Leaky, .*, got Linear"):
        neuron_spec(nn.Linear(2, 3), (3,))
