"""A stream gives the numbers of the network's own steps, whatever takes them, and never reads what it should not."""

import copy
import os
import pickle
import platform

import pytest
import torch
from tests import fresh
from tests.networks import INPUT_SIZE, NETWORKS, SPECS, make, tensors_of
from tests.own_networks import OWN
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    FastWeightsCell,
    FastWeightsRNN,
    FreeState,
    NormalState,
    StateSpec,
    fast_weights_spec,
    state_spec,
)
from contextual_rnn.ops._gated import cpu
from contextual_rnn.sequences.stream_kernels import KERNELS
from contextual_rnn.spec.steps import step_of

VARIANTS = ["baseline", "avx2", "avx512"]
AVAILABLE = VARIANTS[: VARIANTS.index(cpu.instruction_set() or "baseline") + 1]
native = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
ONE_WAY = [name for name, (kind, _) in SPECS.items() if not getattr(NETWORKS[kind](), "bidirectional", False)]
TORCH = {
    "lstm": lambda **options: nn.LSTM(3, 5, batch_first=True, **options),
    "lstm of three layers": lambda **options: nn.LSTM(3, 17, num_layers=3, **options),
    "lstm, projected": lambda **options: nn.LSTM(3, 18, num_layers=2, proj_size=7, **options),
    "gru": lambda **options: nn.GRU(1, 33, num_layers=2, **options),
    "rnn": lambda **options: nn.RNN(17, 16, bias=False, **options),
    "rnn of relu": lambda **options: nn.RNN(3, 5, nonlinearity="relu", num_layers=2, **options),
    "lstm cell": lambda **options: nn.LSTMCell(3, 5, bias=False, **options),
    "gru cell": lambda **options: nn.GRUCell(9, 20, **options),
    "rnn cell": lambda **options: nn.RNNCell(3, 5, **options),
    "fast weights": lambda **options: FastWeightsRNN(3, 17, inner_steps=2, **options),
    "fast weights that write first": lambda **options: FastWeightsCell(17, 8, timing="wenke2019", rate=0.3, **options),
    "fast weights without norm": lambda **options: FastWeightsRNN(3, 33, layer_norm=False, bias=False, **options),
    "rnn cell of relu": lambda **options: nn.RNNCell(3, 5, nonlinearity="relu", **options),
}


def model_of(network, spec=None, **options):
    """A model in evaluation whose states are random functions of a context (B, 2)."""
    torch.manual_seed(0)
    dtype = next(network.parameters()).dtype
    spec = state_spec(network).like(next(network.parameters())) if spec is None else spec
    if isinstance(network, FastWeightsRNN):
        spec = fast_weights_spec(network, "dense")
    return ContextualRNN(network, ContextState(spec, nn.Linear(2, 4, dtype=dtype)), **options).eval()


def context_of(batch, dtype=torch.float64):
    return torch.randn(batch, 2, dtype=dtype)


def assert_same(actual, expected, rtol=1e-10):
    for ours, theirs in zip(tensors_of(actual), tensors_of(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)


def compare(model, batch, size, steps=6, rtol=1e-10, dtype=torch.float64, start=None):
    """Steps of a stream against those of the network itself, with rows that begin anew."""
    context = context_of(batch, dtype)
    start = model.initial_state(context) if start is None else start
    stream, state = model.stream(context), start
    with torch.no_grad():
        for number in range(steps):
            x, reset = torch.randn(batch, size, dtype=dtype), torch.rand(batch) < 0.3
            if number:
                state = model._spec.where(reset, start, state)
            expected, state = step_of(model.network, model._spec, x, state)
            assert_same(stream(x, reset=reset if number else None), expected, rtol)
            assert_same(stream.state, state, rtol)
    return stream


@pytest.mark.parametrize("name", ONE_WAY)
def test_every_network_steps_as_it_does_itself(name):
    network, spec = make(name, torch.float64)
    stream = compare(model_of(network, spec), 4, INPUT_SIZE)
    assert stream.backend == ("native" if type(network) in KERNELS and cpu.instruction_set() else "torch")


@native
@pytest.mark.parametrize("variant", AVAILABLE)
@pytest.mark.parametrize("name", TORCH)
def test_every_instruction_set(monkeypatch, name, variant):
    """Sizes around those of a register, and more rows than run side by side."""
    monkeypatch.setattr(cpu, "instruction_set", lambda: variant)
    torch.manual_seed(1)
    for batch in (1, 29):
        network = TORCH[name](dtype=torch.float64)
        assert compare(model_of(network), batch, network.input_size).backend == "native"


@native
@pytest.mark.parametrize("name", [name for name in TORCH if name != "fast weights without norm"])
def test_single_precision(name):
    """Six steps, whose sums have up to 50 rounded terms; without its norm A grows, and with it each error."""
    network = TORCH[name]()
    compare(model_of(network), 5, network.input_size, rtol=50 * torch.finfo(torch.float32).eps, dtype=torch.float32)


@native
def test_threads_share_the_rows(monkeypatch):
    monkeypatch.setattr(cpu, "_WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    compare(model_of(nn.LSTM(3, 5, num_layers=2, dtype=torch.float64)), 80, 3)


@native
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no slower with subnormal numbers")
def test_fast_weights_that_nothing_is_written_to_fade_to_zero():
    """An Intel processor would take ten times as long for each step if they ended among the subnormal numbers."""
    network = FastWeightsRNN(3, 5, layer_norm=False)
    with torch.no_grad():
        for parameter in (network.weight_ih, network.weight_hh, network.bias):
            parameter.zero_()
    a = torch.rand(2, 5, 5) + 1
    stream = ContextualRNN(network, FreeState(network)).stream(hx=(torch.zeros(2, 5), a))
    for steps in (1650, 100):
        faded = stream.state[1]
        assert (faded > 0).all()
        for _ in range(steps):
            stream(torch.zeros(2, 3))
    assert (faded < 1e-36).all()
    assert not stream.state[1].any()
    assert torch.tensor(1e-40) * 1 > 0


NO_STEPS = ("both ways in a module", "fast weights in a module")  # the last does not return A, which a step reads


@pytest.mark.parametrize("name", [name for name in OWN if name not in NO_STEPS])
def test_networks_of_users_take_plain_steps(name):
    network = OWN[name]().double()
    model, context = model_of(network), context_of(4)
    stream, state = model.stream(context), model.initial_state(context)
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(4, 3).double()
            spec = model._known_spec(x) if model._spec.known_time_dim == "unknown" else model._spec
            expected, state = step_of(network, spec, x, state)
            assert_same(stream(x), expected)
            assert_same(stream.state, state)
    assert stream.backend == "torch"


class Operations(TorchDispatchMode):
    """Counts what torch does."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += 1
        return function(*arguments, **(options or {}))


@native
@pytest.mark.parametrize("name", [name for name in ONE_WAY if type(make(name)[0]) in KERNELS])
def test_a_step_does_nothing_in_torch(name):
    """So that it allocates nothing; the output is the same tensor at every step."""
    network, spec = make(name)
    stream = model_of(network, spec).stream(context_of(4, torch.float32))
    x, reset = torch.randn(4, INPUT_SIZE), torch.tensor([True, False, False, True])
    stream(x, reset=reset)
    with Operations() as operations:
        first, second = stream(x), stream(x, reset=reset)
    assert operations.count == 0
    assert first is second


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_the_output_is_overwritten_and_autograd_knows(backend):
    stream = model_of(nn.GRU(3, 5), backend=backend).stream(context_of(2, torch.float32))
    weight = torch.randn(5, 1, requires_grad=True)
    first = stream(torch.randn(2, 3))
    copy_of_first = first.clone()
    value = (first @ weight).sum()
    assert stream(torch.randn(2, 3)) is first
    assert not torch.equal(first, copy_of_first)
    assert not first.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_no_derivative_is_carried_forward(kind, backend):
    stream = model_of(kind(3, 5), backend=backend).stream(context_of(2, torch.float32))
    x = torch.randn(2, 3)
    with torch.autograd.forward_ad.dual_level():
        output = stream(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        for tensor in (output, stream.state):
            assert torch.autograd.forward_ad.unpack_dual(tensor).tangent is None


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell])
def test_the_state_is_read_and_set_as_a_copy(kind, backend):
    network = kind(3, 5)
    model = model_of(network, backend=backend)
    stream, x = model.stream(context_of(2, torch.float32)), torch.randn(2, 3)
    before = stream.state
    expected = stream(x).clone()
    other = tuple(torch.randn_like(leaf) for leaf in stream.state)
    stream.state = before
    assert_same(stream(x), expected)
    for leaf in before:
        leaf.zero_()
    stream.state = other
    copies = tuple(leaf.clone() for leaf in other)
    for leaf in other:
        leaf.fill_(7)
    assert_same(stream.state, copies)
    assert_same(model.stream(hx=copies, context=context_of(2, torch.float32))(x), stream(x))
    with pytest.raises(ValueError, match="hx: expected 'h' of batch size 2"):
        stream.state = model.initial_state(context_of(3, torch.float32))
    with pytest.raises(ValueError, match=r"hx: expected 'h' of torch.float32"):
        stream.state = tuple(leaf.double() for leaf in copies)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_rows_get_contexts_of_their_own(backend):
    model = model_of(nn.LSTM(3, 5, dtype=torch.float64), backend=backend)
    first, second, third = context_of(4), context_of(2), context_of(1)
    stream, x = model.stream(first), torch.randn(4, 3).double()
    stream(x)
    rows = torch.tensor([True, False, True, False])
    stream.reset(rows, second)
    current = torch.stack([second[0], first[1], second[1], first[3]])
    assert_same([leaf[:, rows] for leaf in stream.state], [leaf[:, rows] for leaf in model.initial_state(current)])
    one = torch.tensor([False, False, True, False])
    stream(x, reset=one, reset_context=third)
    current[2] = third[0]
    stream.reset()
    assert_same(stream.state, model.initial_state(current))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    stream.read_weights()
    everywhere = torch.ones(4, dtype=torch.bool)
    assert_same(stream(x, reset=everywhere), model(x[None], context=current)[0][0])
    with pytest.raises(ValueError, match="reset_context: expected only with reset"):
        stream(x, reset_context=third)
    with pytest.raises(ValueError, match="context"):
        stream.reset(one, second)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_weights_are_read_again_on_request(backend):
    model = model_of(nn.GRU(3, 5, dtype=torch.float64), backend=backend)
    stream, x = model.stream(context_of(2)), torch.randn(2, 3).double()
    output = stream(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    state = stream.state
    stream.read_weights()
    expected = model(x[None], state)[0][0]
    assert stream(x) is output
    assert_same(output, expected)
    model.float()
    stream.read_weights()
    with pytest.raises(ValueError, match=r"input: expected torch.float32"):
        stream(x)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_random_states_are_drawn_anew_in_training_alone(backend):
    network = nn.GRU(3, 5)
    model = ContextualRNN(network, NormalState(network, nn.Linear(2, 4), scale=1.0), backend)
    context = context_of(3, torch.float32)
    stream = model.stream(context, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        assert_same(stream.state, model.initial_state(context, generator=generator))
        stream(torch.randn(3, 3), reset=torch.zeros(3, dtype=torch.bool))  # draws nothing
        stream.reset()
        assert_same(stream.state, model.initial_state(context, generator=generator))
        draws = [model.initial_state(context, generator=generator) for _ in range(2)]
        first = stream(torch.zeros(3, 3), reset=torch.ones(3, dtype=torch.bool)).clone()
        assert_same(first, network(torch.zeros(1, 3, 3), draws[0])[0][0], 1e-6)
        model.eval()
        stream.read_weights()
        for _ in range(2):
            stream.reset()
            assert_same(stream.state, model.initial_state(context))


def test_only_rows_that_begin_anew_are_drawn_whatever_takes_the_steps():
    """From a state that was given."""
    network = nn.GRU(3, 5)
    context, hx, x = context_of(3, torch.float32), torch.randn(1, 3, 5), torch.randn(3, 3)
    flags, outputs = torch.tensor([True, False, True]), []
    for backend in ("auto", "torch"):
        model = ContextualRNN(network, NormalState(network, nn.Linear(2, 4), scale=1.0), backend)
        torch.manual_seed(0)
        model.initial_state.reset_parameters()
        stream = model.stream(context, hx=hx, generator=torch.Generator().manual_seed(0))
        outputs.append(stream(x, reset=flags).clone())
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            drawn = model.initial_state(context, rows=flags.nonzero()[:, 0], generator=generator)
        expected = hx.clone()
        expected[:, flags] = drawn
        assert_same(outputs[-1], network(x[None], expected)[0][0].detach(), 1e-6)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize(
    "change",
    [
        lambda output: output.share_memory_(),  # as a queue of torch.multiprocessing does
        lambda output: output.untyped_storage().resize_(0),
        lambda output: output.untyped_storage().resize_(8),
        lambda output: output.resize_(0),
        lambda output: output.set_(torch.full((2, 5), 7.0)),
    ],
)
def test_an_output_whose_memory_was_moved_or_freed_is_not_written_to(change, backend):
    torch.manual_seed(0)
    model = model_of(nn.GRU(3, 5), backend=backend)
    context, inputs = context_of(2, torch.float32), torch.randn(3, 2, 3)
    undisturbed, stream = model.stream(context), model.stream(context)
    expected = [undisturbed(x).clone() for x in inputs]
    change(stream(inputs[0]))
    freed = [torch.full((10,), 7.0) for _ in range(200)]  # would take the place of memory that was freed
    for x, output in zip(inputs[1:], expected[1:], strict=True):
        assert_same(stream(x), output, 1e-6)
    assert all((tensor == 7).all() for tensor in freed)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("change", ["squeeze_", "t_", "unsqueeze_"])
def test_an_output_whose_axes_were_changed_is_made_anew(change, backend):
    stream = model_of(nn.GRU(3, 5), backend=backend).stream(context_of(1, torch.float32))
    output = stream(torch.randn(1, 3))
    output.unsqueeze_(0) if change == "unsqueeze_" else getattr(output, change)()
    assert stream(torch.randn(1, 3)).shape == (1, 5)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_square_output_that_was_turned_is_made_anew(backend):
    """Its shape and its address are as before."""
    model, context, x = model_of(nn.GRU(3, 5), backend=backend), context_of(5, torch.float32), torch.randn(2, 5, 3)
    undisturbed, stream = model.stream(context), model.stream(context)
    undisturbed(x[0])
    stream(x[0]).t_()
    assert_same(stream(x[1]), undisturbed(x[1]), 1e-6)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_steps_inside_and_outside_of_inference_mode(backend):
    model = model_of(nn.GRU(3, 5), backend=backend)
    context, inputs = context_of(2, torch.float32), torch.randn(3, 2, 3)
    expected, stream = model.stream(context), model.stream(context)
    for number, x in enumerate(inputs):
        with torch.inference_mode(number == 0):
            assert_same(stream(x), expected(x), 1e-6)


@native
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell, FastWeightsRNN])
def test_weights_that_do_not_fit_are_refused_before_they_are_read(kind):
    for name, parameter in kind(3, 16).named_parameters():
        for shape in [(1,), (16, 5), (8, 8), (64, 8), (64, 3), (64, 16, 1)]:
            network = kind(3, 16)
            stream = model_of(network).stream(context_of(4, torch.float32))
            getattr(network, name).data = torch.zeros(shape)
            if shape == parameter.shape:
                stream.read_weights()
                continue
            with pytest.raises(ValueError, match=r": expected .* got"):
                stream.read_weights()
            assert stream.backend == "native"  # as it was, of the weights that it had
            with pytest.raises(ValueError, match=r": expected .* got"):
                model_of(network).stream(context_of(4, torch.float32))
    network = kind(3, 16)
    network.input_size = 2
    with pytest.raises(ValueError, match=r"weight_ih: expected .*2\), got .*3\)"):
        model_of(network).stream(context_of(4, torch.float32))


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_what_is_refused_changes_nothing(backend):
    model = model_of(nn.GRU(3, 5), backend=backend)
    context, x, flags = context_of(2, torch.float32), torch.randn(2, 3), torch.tensor([True, False])
    for training in (False, True):
        model.train(training)
        expected, stream = model.stream(context), model.stream(context)
        for reset, reset_context, words in (
            (flags, context, "reset_context: expected a context for each of 1 True"),
            (flags, context[:1, :1], "reset_context: expected a context for each of 1 True"),
            (~flags & flags, context, "reset_context: expected a context for each of 0 True"),
        ):
            with pytest.raises(ValueError, match=words):
                stream(x, reset=reset, reset_context=reset_context)
        with pytest.raises(ValueError, match="input: expected"):
            stream(x[:1], reset=~flags | flags, reset_context=context + 1)
        with pytest.raises(ValueError, match="context: expected a context for each of 1 True"):
            stream.reset(flags, context)
        for row in (None, flags):
            for each in (expected, stream):
                each.reset(row)
            assert_same(stream(x), expected(x), 1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_what_a_network_of_ones_own_refuses_changes_nothing(training):
    """Only it knows which inputs and arguments it takes, after the rows have begun anew."""
    network = OWN["with a step"]()
    model = ContextualRNN(network, ContextState(state_spec(network), nn.Linear(2, 4))).train(training)
    x, context, flags = torch.randn(3, 3), torch.randn(3, 2), torch.tensor([True, False, True])
    expected, stream = model.stream(context), model.stream(context)
    assert_same(stream(x), expected(x), 1e-6)
    for bad, arguments in ((x.double(), None), (x[:, :2], None), (x, {"unknown": 1}), (x, 3)):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            stream(bad, reset=flags, reset_context=context[:2] + 1, arguments=arguments)
        assert_same(stream(x, reset=~flags), expected(x, reset=~flags), 1e-6)
    assert_same(stream(x, reset=flags), expected(x, reset=flags), 1e-6)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("training", [True, False])
def test_rows_that_begin_from_a_given_state_get_their_contexts_later(backend, training):
    model = model_of(nn.GRU(3, 5), backend=backend).train(training)
    context, x = context_of(2, torch.float32), torch.randn(2, 3)
    given, flags = model.initial_state(context).detach(), torch.tensor([True, False])
    stream = model.stream(hx=given)
    with torch.no_grad():
        state = step_of(model.network, model._spec, x, given)[1]
        assert_same(stream(x, reset=flags & ~flags), state[0], 1e-6)
        for reset, contexts in ((flags, context[1:]), (flags, None), (~flags, context[:1]), (flags | ~flags, None)):
            rows = reset.nonzero()[:, 0]
            state = model._spec.where(reset, model.initial_state(context.flip(0)), state)
            state = step_of(model.network, model._spec, x, state)[1]
            assert_same(stream(x, reset=reset, reset_context=contexts), state[0], 1e-6)
            if len(rows) == 1 and not rows[0]:
                with pytest.raises(ValueError, match="context: expected one, as the initial state reads it, got None"):
                    model.stream(hx=given)(x, reset=reset)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_stream_goes_on_in_the_dtype_that_its_model_has_later(backend):
    model, x = model_of(nn.GRU(3, 5, dtype=torch.float64), backend=backend), torch.randn(2, 3, dtype=torch.float64)
    stream = model.stream(context_of(2))
    stream(x.t().contiguous().t())
    state = stream.state.float()
    model.float()
    stream.read_weights()
    x = x.float()
    expected = step_of(model.network, model._spec, x, state)[0].detach()
    assert_same(stream(x.t().contiguous().t()), expected, 1e-6)


def test_a_learned_decay_is_read_without_a_warning():
    network = FastWeightsRNN(3, 5, decay=nn.Parameter(torch.tensor(0.9)))
    assert compare(model_of(network), 2, 3, rtol=1e-5, dtype=torch.float32).backend in ("native", "torch")


@native
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, FastWeightsRNN])
@pytest.mark.parametrize("features", [8, 16])
def test_inputs_that_lie_in_the_output(kind, features):
    """Rows are worked on some at a time, and those written first must not be read as those that follow."""
    model = model_of(kind(features, 16))
    context = context_of(100, torch.float32)
    stream, expected = model.stream(context), model.stream(context)
    x = torch.randn(100, features)
    output, numbers = stream(x), expected(x).clone()
    for first in (0, 5, 400, 1600 - 100 * features):
        given, copied = (o.view(-1)[first : first + 100 * features].view(100, -1) if features < 16 else o
                         for o in (output, numbers))  # fmt: skip
        output, numbers = stream(given), expected(copied).clone()
        assert torch.equal(output, numbers), first


@native
@pytest.mark.parametrize("kind", ["lstm, projected", "gru", "fast weights"])
def test_weights_that_are_negated_on_reading(kind):
    network = TORCH[kind](dtype=torch.float64)
    context = context_of(2)
    expected = model_of(network).stream(context)
    for name, weight in list(network.named_parameters()):
        setattr(network, name, nn.Parameter(torch._neg_view(-weight.detach())))
    stream = model_of(network).stream(context)
    assert stream.backend == "native"
    for x in torch.randn(3, 2, network.input_size).double():
        assert torch.equal(stream(x), expected(x))


@native
def test_inputs_of_any_memory():
    """What cannot be read in place is copied, and the numbers are the same."""
    model = model_of(nn.GRU(3, 5))
    x, context, outputs = torch.randn(2, 3), context_of(2, torch.float32), []
    negated = torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag
    in_place = torch._neg_view(-x)
    assert negated.is_neg()
    assert in_place.is_neg()
    assert in_place.is_contiguous()
    parameter = nn.Parameter(x.clone())
    for given in (x, x.t().contiguous().t(), torch.stack([x, x], -1)[..., 0], negated, in_place, parameter):
        outputs.append(model.stream(context)(given).clone())
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])
    one = nn.GRUCell(1, 5)
    stream = model_of(one).stream(context_of(1, torch.float32))
    x, state = torch.randn(1, 1), stream.state
    expected = stream(x).clone()
    stream.state = state
    assert torch.equal(stream(torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag), expected)
    flags = torch.zeros(2, 4, dtype=torch.bool)
    flags[1, 2] = True
    stream = model.stream(context)
    stream(parameter)
    stream(parameter, reset=flags[:, 2])
    assert_same(stream.state[:, 1], model(parameter[None], context=context)[1][:, 1], 1e-6)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_bad_inputs_are_refused_before_they_are_read(backend):
    stream = model_of(nn.GRU(3, 5), backend=backend).stream(context_of(2, torch.float32))
    x, state = torch.randn(2, 3), stream.state
    cases = [
        (ValueError, "input: expected.*2, 3", x[:1]),
        (ValueError, "input: expected.*(2, 3|width 3)", x[:, :2]),
        (ValueError, "input: expected", x[None]),
        (ValueError, "input: expected torch.float32", x.double()),
        (ValueError, "input: expected", x.to("meta")),
        (ValueError, "input: expected a strided tensor", x.to_sparse()),
        (TypeError, "input: expected a tensor", x.tolist()),
    ]
    for error, message, given in cases:
        with pytest.raises(error, match=message):
            stream(given)
    if stream.backend == "native":
        for freed in (x.clone(), torch.stack([x, x])[1]):
            freed.untyped_storage().resize_(0)
            with pytest.raises(ValueError, match="input: expected a tensor with memory"):
                stream(freed)
        freed = torch.zeros(2, 2, dtype=torch.bool)[1]
        freed.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match="reset: expected a tensor with memory"):
            stream(x, freed)
        with pytest.raises(ValueError, match="input: expected a tensor with elements of its own"):
            torch.vmap(lambda _: stream(x + _))(torch.zeros(2))
    flags = torch.zeros(2, dtype=torch.bool)
    for error, message, given in [
        (TypeError, "reset: expected a tensor of bool", flags.float()),
        (TypeError, "reset: expected a tensor of bool", [True, False]),
        (ValueError, r"reset: expected shape \(2,\)", flags[:1]),
        (ValueError, r"reset: expected shape \(2,\)", flags[None]),
        (ValueError, "reset: expected a tensor whose values can be read", flags.to("meta")),
    ]:
        with pytest.raises(error, match=message):
            stream(x, reset=given)
        with pytest.raises(error, match=message):
            stream.reset(given)
    with pytest.raises((ValueError, TypeError), match="other"):
        stream(x, arguments={"other": 1})
    assert_same(stream.state, state, 0)


def test_streams_that_cannot_be_are_refused():
    network = nn.LSTM(3, 5, bidirectional=True)
    with pytest.raises(ValueError, match="expected one direction to stream, got a bidirectional LSTM"):
        ContextualRNN(network, FreeState(network)).stream(batch_size=2)
    model = model_of(nn.GRU(3, 5))
    with pytest.raises(ValueError, match="context: expected one, as the initial state reads it, got None"):
        model.stream()
    with pytest.raises(ValueError, match=r"batch_size: expected the number of rows, .* got no context"):
        ContextualRNN(nn.GRU(3, 5), FreeState(nn.GRU(3, 5))).stream()
    with pytest.raises(ValueError, match=r"batch_size: expected .* got the context of one example"):
        model.stream(context_of(1, torch.float32)[0])
    with pytest.raises(ValueError, match="context: expected a batch of 3"):
        model.stream(context_of(2, torch.float32), 3)
    with pytest.raises(ValueError, match="hx: expected 'h' of batch size 3"):
        model.stream(batch_size=3, hx=torch.zeros(1, 2, 5))
    stream = model.stream(hx=torch.zeros(1, 2, 5))  # has no context to begin anew from
    stream(torch.randn(2, 3))
    with pytest.raises(ValueError, match="context"):
        stream.reset()
    for function in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="stream: expected a new one"):
            function(stream)


def test_a_batch_of_contexts_is_read_once():
    """By its running mean: a second pass would count the batch twice."""
    network = nn.GRU(3, 5)
    encoder = nn.Sequential(nn.BatchNorm1d(4, momentum=0.5), nn.Linear(4, 5))
    model = ContextualRNN(network, NormalState(network, encoder, scale=1.0))
    context = torch.randn(6, 4)
    stream = model.stream(context, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(encoder[0].running_mean, context.mean(0) / 2)
    assert_same(stream.state, model.stream(context, 6, generator=torch.Generator().manual_seed(1)).state, 0)


@pytest.mark.parametrize("batch_size", [None, 0])
def test_an_empty_batch(batch_size):
    stream = model_of(nn.LSTM(3, 5)).stream(context_of(0, torch.float32), batch_size)
    assert stream(torch.randn(0, 3), reset=torch.zeros(0, dtype=torch.bool)).shape == (0, 5)
    stream.reset()
    assert [tuple(leaf.shape) for leaf in stream.state] == [(1, 0, 5)] * 2


def test_a_cell_without_input():
    """Torch's cells may run by themselves; its networks of layers may not."""
    assert compare(model_of(nn.GRUCell(0, 5, dtype=torch.float64)), 4, 0).backend == "torch"


@native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("kind", ["nn.LSTM", "FastWeightsRNN"])
def test_a_stream_goes_on_in_a_fork_with_fewer_threads(kind):
    """As in the workers of a DataLoader: the threads that it was made for are not there."""
    program = f"""if True:
        import os, signal, torch
        from torch import nn
        from contextual_rnn import ConstantState, ContextualRNN, FastWeightsRNN
        torch.set_num_threads(2)
        network = {kind}(64, 128)
        model = ContextualRNN(network, ConstantState(network)).eval()
        streams, x = [model.stream(batch_size=256) for _ in range(2)], torch.randn(256, 64)
        for stream in streams:
            stream(x)
        expected = streams[1](x)
        child = os.fork()
        if not child:
            signal.alarm(30)
            torch.set_num_threads(1)
            os._exit(0 if torch.equal(streams[0](x), expected) else 1)
        print(os.waitpid(child, 0)[1])
    """
    assert fresh.run(program).stdout.strip() == "0"


class Subclass(nn.GRU):
    pass


OBSTACLES = {
    "a hook": lambda network: network.register_forward_hook(lambda *_: None),
    "a parametrization": lambda network: parametrizations.weight_norm(network, "weight_hh_l0"),
    "pruning": lambda network: prune.l1_unstructured(network, "weight_hh_l0", 3),
    "a forward method of its own": lambda network: setattr(network, "forward", network.forward),
    "bfloat16": lambda network: network.bfloat16(),
}


@native
@pytest.mark.parametrize("name", OBSTACLES)
def test_what_the_kernel_cannot_serve_takes_torchs_steps(name):
    network = nn.GRU(3, 5, num_layers=2)
    OBSTACLES[name](network)
    dtype = next(network.parameters()).dtype
    model = model_of(network)
    context, x = context_of(2, dtype), torch.randn(2, 3, dtype=dtype)
    stream = model.stream(context)
    assert stream.backend == "torch"
    with torch.no_grad():
        assert torch.equal(stream(x), model(x[None], context=context)[0][0])


@native
def test_who_takes_the_steps(monkeypatch):
    context = context_of(2, torch.float32)
    dropout = nn.GRU(3, 5, num_layers=2, dropout=0.5)
    model = model_of(dropout)
    assert model.stream(context).backend == "native"
    assert model.train().stream(context).backend == "torch"
    model, backends = model_of(nn.GRU(3, 5)), []
    torch.vmap(lambda x: (x, backends.append(model.stream(context).backend))[0])(torch.zeros(2))
    assert backends == ["torch"]
    with torch.inference_mode():
        stream = model_of(nn.GRU(3, 5)).stream(context)
    stream(torch.randn(3, 2).t(), reset=torch.zeros(2, 3, dtype=torch.bool)[:, 1])
    stream.reset()
    assert model_of(Subclass(3, 5)).stream(context).backend == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert model_of(nn.GRUCell(3, 5)).stream(context).backend == "torch"
    monkeypatch.setenv("CONTEXTUAL_RNN_SEQUENCES_BACKEND", "torch")
    assert model_of(nn.GRU(3, 5)).stream(context).backend == "torch"
    assert model_of(nn.GRU(3, 5), backend="native").stream(context).backend == "native"


def test_arguments_of_a_network():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(3, 5)

        def forward(self, x, h, scale):
            h = self.cell(x * scale[:, None], h)
            return h, h

    network = Scaled()
    spec = state_spec(network.cell)
    network.state_spec = StateSpec(spec.tree, input_ndim=2, per_row=("scale",)).like(network.cell.weight_ih)
    model = model_of(network, network.state_spec)
    context, x, scale = context_of(2, torch.float32), torch.randn(2, 3), torch.randn(2)
    with torch.no_grad():
        expected = network.cell(x * scale[:, None], model.initial_state(context))
    assert_same(model.stream(context)(x, arguments={"scale": scale}), expected, 1e-6)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_inputs_of_torch_func_are_refused(backend):
    stream = model_of(nn.GRU(3, 5), backend=backend).stream(context_of(2, torch.float32))
    x = torch.randn(2, 3)
    for transformed in (torch.func.grad(lambda each: stream(each).sum()), torch.func.vmap(stream)):
        with pytest.raises(ValueError, match="input: expected"):
            transformed(x)
    assert stream(x).isfinite().all()
