"""Networks of other packages: their registration is right, and every row and segment is as if run alone."""

import copy
from itertools import pairwise

import pytest
import torch
from tests.networks import tensors_of
from tests.sequences_alone import assert_equal
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextState,
    ContextualRNN,
    Leaf,
    StateSpec,
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


def _min_gru():
    return pytest.importorskip("minGRU_pytorch", reason=WHY)


def _s5():
    return pytest.importorskip("s5", reason=WHY)


def _xlstm(slstm_at):
    """Two blocks, those of `slstm_at` sLSTM; its recurrent weights would be zero, and its y in no use."""
    package = pytest.importorskip("xlstm", reason=WHY)
    sizes = {"num_heads": 2, "conv1d_kernel_size": 3}
    mlstm = package.mLSTMLayerConfig(qkv_proj_blocksize=4, **sizes)
    slstm = package.sLSTMLayerConfig(backend="vanilla", dtype="float32", recurrent_weight_init="standard", **sizes)
    feedforward = package.FeedForwardConfig(proj_factor=1.3, act_fn="gelu")
    config = package.xLSTMBlockStackConfig(
        mlstm_block=package.mLSTMBlockConfig(mlstm=mlstm),
        slstm_block=package.sLSTMBlockConfig(slstm=slstm, feedforward=feedforward),
        context_length=STEPS, num_blocks=2, embedding_dim=WIDTH, slstm_at=slstm_at,
    )  # fmt: skip
    network = package.xLSTMBlockStack(config)
    network.reset_parameters()
    return network


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
    "minGRU": lambda: _min_gru().minGRU(WIDTH),
    "minGRU wider": lambda: _min_gru().minGRU(WIDTH, expansion_factor=1.5),
    "s5": lambda: _s5().S5(WIDTH, 6),
    "s5 block": lambda: _s5().S5Block(WIDTH, 6, bidir=False),
    "xlstm": lambda: _xlstm([]),
    "xlstm, one sLSTM": lambda: _xlstm([1]),
}


@pytest.fixture(params=NETWORKS)
def model(request):
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    dtype = F64 if not request.param.startswith("s5") else torch.float32  # its own complex numbers are of float32
    network = network.to(dtype) if dtype == F64 else network
    net = nn.Sequential(nn.Linear(2, 5, dtype=dtype), nn.Tanh())
    return ContextualRNN(network, ContextState(network, net))


def batch_of(model):
    torch.manual_seed(1)
    axes = state_spec(model).input_batch_dim, state_spec(model).known_time_dim
    options = {"dtype": model.initial_state.net[0].weight.dtype}
    x, times = torch.randn(BATCH, STEPS, WIDTH, **options), 0.5 + torch.rand(BATCH, STEPS, **options)
    context = torch.randn(BATCH, 2, **options).requires_grad_()
    given = {
        name: times.movedim((0, 1), axes) for name in ("timespans", "step_scale") if name in state_spec(model).per_step
    }
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
    cotangents = [torch.randn(t.shape, generator=generator, dtype=F64).to(t.dtype) for t in tensors]
    loss = sum((t * cotangent).real.sum() for t, cotangent in zip(tensors, cotangents, strict=True))
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [torch.view_as_real(t) if t.is_complex() else t for t in (*tensors, *gradients)]


def test_the_registration_is_right(model):
    x, _, given, _ = batch_of(model)
    check_spec(model.network, x.detach(), arguments=given)


def test_without_a_state_the_package_computes_the_same_from_zeros(model):
    x, network = batch_of(model)[0].float(), model.network.float()  # ncps makes zeros of float32
    expected = tensors_of(network(x))  # some return the output alone
    found = tensors_of(ContextualRNN(network, ConstantState(network))(x))[: len(expected)]
    # xlstm adds 1e-6 to its normaliser, which a step scales by another number than a sequence does.
    assert_equal(found, expected, 1e-4 if type(network).__name__ == "xLSTMBlockStack" else 1e-6)


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


def test_what_reads_its_state_in_two_ways_is_refused_and_check_spec_says_why():
    """A network that is refused by name, and what `check_spec` finds where a subclass says a spec all the same."""
    _min_gru()
    from minGRU_pytorch.minLSTM import minLSTM

    class OwnMinLSTM(minLSTM):
        pass

    @state_spec.register
    def _(network: OwnMinLSTM) -> StateSpec:
        leaf = Leaf("h", (1, WIDTH), domain="positive")
        return StateSpec(leaf, time_dim=1, call=lambda lstm, x, h: lstm(x, h, return_next_prev_hidden=True))

    class OwnS5(_s5().S5):  # pyrefly: ignore[invalid-inheritance]
        pass

    @state_spec.register
    def _(network: OwnS5) -> StateSpec:
        leaf = Leaf("x", (6,), dtype=torch.complex64)
        return StateSpec(leaf, time_dim=1, call=lambda s5, x, state: s5(x, state=state, return_state=True))

    with pytest.raises(TypeError, match="got minLSTM, which reads it in another way over a sequence than in a step"):
        state_spec(minLSTM(WIDTH))
    for option in ("liquid", "bidir"):
        with pytest.raises(ValueError, match=f"expected an S5 with {option}=False, whose state can be given"):
            state_spec(_s5().S5(WIDTH, 6, **{option: True}))
    for network in (OwnMinLSTM(WIDTH), OwnS5(WIDTH, 6, liquid=True)):
        with pytest.raises(ValueError, match=r"whose (steps|pieces) give the numbers of the whole run"):
            check_spec(network, torch.randn(3, STEPS, WIDTH))
    check_spec(OwnS5(WIDTH, 6), torch.randn(3, STEPS, WIDTH))


NEURONS_OF_NORSE = ["LIFCell", "LIF", "LIFRecurrentCell", "LIFRecurrent",
                    "LSNNCell", "LSNN", "LSNNRecurrentCell", "LSNNRecurrent"]  # fmt: skip


@pytest.mark.parametrize("bio", [False, True])
@pytest.mark.parametrize("name", NEURONS_OF_NORSE)
def test_neurons_of_norse(name, bio):
    norse = pytest.importorskip("norse.torch", reason="`make integrations`")
    from norse.torch.functional import lif, lsnn

    from contextual_rnn.spec.adapters.norse import neuron_spec

    torch.manual_seed(0)
    kind, recurrent, layer = getattr(norse, name), "Recurrent" in name, not name.endswith("Cell")
    parameters = lif.LIFParameters() if name.startswith("LIF") else lsnn.LSNNParameters()
    if bio:  # in mV: at rest v is -65, and a threshold that adapts begins at -50
        parameters = parameters._replace(v_leak=torch.tensor(-65.0), v_th=torch.tensor(-50.0))
    neuron = kind(WIDTH, 6, p=parameters) if recurrent else kind(p=parameters)
    size = 6 if recurrent else WIDTH
    if not recurrent:
        with pytest.raises(TypeError, match="network: expected one with a registered state spec"):
            state_spec(neuron)
        neuron.state_spec = neuron_spec(neuron, (size,))
    x = (30.0 if recurrent else 300.0) * torch.randn(*([STEPS] if layer else []), BATCH, WIDTH)
    check_spec(neuron, x, surrogate_gradients=True)
    spikes, state = neuron(x)
    started = [tensor.expand(BATCH, size) for tensor in state]  # a threshold may come without its rows
    assert_equal(tensors_of(ContextualRNN(neuron, ConstantState(neuron))(x)), [spikes, *started])
    model = ContextualRNN(neuron, ContextState(neuron, nn.Linear(2, 3), zero_init=True))
    assert_equal(tensors_of(model(x, context=torch.randn(BATCH, 2))), [spikes, *started])
    assert bool((ConstantState(neuron)(batch_size=1).v == (-65.0 if bio else 0.0)).all())
    assert not layer or bio or bool(spikes.any())


def test_neurons_of_norse_that_are_refused():
    norse = pytest.importorskip("norse.torch", reason="`make integrations`")
    from contextual_rnn.spec.adapters.norse import neuron_spec

    with pytest.raises(ValueError, match="expected a LIF with record_states=False"):
        neuron_spec(norse.LIF(record_states=True), (3,))
    several = norse.LIFParameters(v_leak=torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="expected one v_leak for all neurons, which start from it, got several"):
        neuron_spec(norse.LIFCell(p=several), (2,))
    with pytest.raises(TypeError, match=r"network: expected one of norse's LIFCell, .*, got Linear"):
        neuron_spec(nn.Linear(2, 3), (3,))


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
