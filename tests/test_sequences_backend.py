"""Which backend runs a batch of sequences: the native one where it serves, torch's own code everywhere else."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from contextual_rnn import ContextualRNN, FreeState, truncated
from contextual_rnn.ops._gated import cpu, layers
from contextual_rnn.sequences import backend as backends

KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
pytestmark = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")


def model_of(kind="lstm", backend="auto", dtype=torch.float64, **options):
    torch.manual_seed(0)
    network = KINDS[kind](3, 5, batch_first=True, dtype=dtype, **options)
    model = ContextualRNN(network, FreeState(network), backend)
    with torch.no_grad():
        for parameter in model.initial_state.parameters():
            parameter.normal_()
    return model


def batch():
    torch.manual_seed(1)
    return torch.randn(4, 6, 3).double(), torch.tensor([6, 0, 3, 5]), torch.rand(4, 6) < 0.3


def evaluate(model, x, **arguments):
    """Outputs, final states and all gradients, for random cotangents on the outputs and the final states."""
    x = x.detach().requires_grad_()
    output, state = model(x, **arguments)
    results = [output, *(state if isinstance(state, tuple) else [state])]
    generator = torch.Generator().manual_seed(2)
    loss = sum((r * torch.randn(r.shape, generator=generator).to(r.dtype)).sum() for r in results)
    return [*(r.detach() for r in results), *torch.autograd.grad(loss, [x, *model.parameters()])]


def assert_close(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.fixture(autouse=True)
def no_batch_is_small(monkeypatch):
    monkeypatch.setattr(backends, "FEW", 0)


@pytest.fixture
def calls(monkeypatch):
    """The backends of ours that ran a layer."""
    names = []
    for name, layer in list(layers.BACKENDS.items()):
        monkeypatch.setitem(layers.BACKENDS, name, lambda *a, _n=name, _l=layer: names.append(_n) or _l(*a))
    monkeypatch.delenv(backends.ENVIRONMENT, raising=False)
    return names


ARGUMENTS = {
    "lengths": lambda lengths, reset: {"lengths": lengths},
    "mask": lambda lengths, reset: {"mask": torch.arange(6).flip(0) < lengths[:, None]},
    "reset": lambda lengths, reset: {"reset": reset},
    "all": lambda lengths, reset: {"lengths": lengths, "reset": reset, "burn_in": 2},
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": False},
        {"num_layers": 2, "bidirectional": True, "batch_first": False},
    ],
)
@pytest.mark.parametrize("given", ARGUMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_backends_agree(calls, kind, given, options):
    if given == "all" and options.get("bidirectional"):
        return  # burn-in needs one direction
    torch.manual_seed(0)
    x, *flags = batch()
    arguments = ARGUMENTS[given](*flags)
    options = {"batch_first": True, **options}
    network = KINDS[kind](3, 5, dtype=torch.float64, **options)
    if not options["batch_first"]:
        x = x.transpose(0, 1)
        arguments |= {name: arguments[name].T for name in ("mask", "reset") if name in arguments}
    results = {}
    for name in backends.BACKENDS:
        model = ContextualRNN(network, FreeState(network), name)
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.initial_state.parameters():
                parameter.normal_()
        calls.clear()
        results[name] = evaluate(model, x, **arguments)
        assert set(calls) == ({"native"} if name == "auto" else {name} - {"torch"})
    for name in ("auto", "native", "reference"):
        assert_close(results[name], results["torch"])
    assert results["auto"][0].is_contiguous()


def test_a_plain_call_is_torchs_own(calls):
    model, (x, lengths, _) = model_of(), batch()
    expected = model.network(x, model.initial_state(batch_size=4))[0]
    assert torch.equal(model(x)[0], expected)
    assert torch.equal(model(x, reset=torch.zeros(4, 6, dtype=torch.bool))[0], expected)
    assert not calls
    assert_close([model_of(backend="native")(x)[0]], [expected])
    assert calls == ["native"]
    model(x, lengths=lengths)
    assert calls == ["native"] * 2


def test_pieces_of_a_long_run(calls):
    model, (x, lengths, reset) = model_of(num_layers=2), batch()
    expected = model_of(num_layers=2, backend="torch")(x, lengths=lengths, reset=reset)[0]
    pieces = [output for _, output, _ in truncated(model, x, 2, lengths=lengths, reset=reset)]
    assert_close([torch.cat(pieces, 1)], [expected])
    assert set(calls) == {"native"}


class Subclass(nn.LSTM):
    pass


def hooked(model):
    model.network.register_forward_hook(lambda *_: None)


def parametrized(model):
    parametrizations.weight_norm(model.network, "weight_hh_l0")


def pruned(model):
    prune.l1_unstructured(model.network, "weight_hh_l0", 3)


def own_forward(model):
    model.network.forward = model.network.forward


def subclassed(model):
    model.network.__class__ = Subclass


OBSTACLES = (hooked, parametrized, pruned, own_forward, subclassed)


@pytest.mark.parametrize("change", OBSTACLES)
def test_networks_that_somebody_changed_run_as_torch_runs_them(calls, change):
    x, lengths, reset = batch()
    results = []
    for name in ("auto", "torch"):
        model = model_of(backend=name)
        change(model)
        results.append(evaluate(model, x, lengths=lengths, reset=reset))
    assert_close(*results)
    assert not calls
    model = model_of(backend="native")
    change(model)
    with pytest.raises(ValueError, match="backend: expected auto or torch here"):
        model(x, lengths=lengths)


def test_where_torch_runs(calls):
    x, lengths, _ = batch()
    model = model_of(dtype=torch.bfloat16)
    model(x.bfloat16(), lengths=lengths)
    model = model_of(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x.float(), lengths=lengths)
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        model(x.float(), lengths=lengths)
    model(pack_padded_sequence(x.float(), lengths.clamp(min=1), batch_first=True, enforce_sorted=False))
    assert not calls
    model(x.float(), lengths=lengths)
    assert calls == ["native"]


def test_dropout_between_layers(calls):
    """None in evaluation; in training each layer but the last loses that share of its outputs."""
    x, lengths, _ = batch()
    plain, dropping = (model_of(num_layers=3, dropout=rate) for rate in (0.0, 0.5))
    dropping.load_state_dict(plain.state_dict())
    assert_close(evaluate(dropping.eval(), x, lengths=lengths), evaluate(plain, x, lengths=lengths))
    first, second = (dropping.train()(x, lengths=lengths)[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert set(calls) == {"native"}
    all_dropped = model_of(num_layers=2, dropout=1.0, backend="reference")
    native = model_of(num_layers=2, dropout=1.0)
    assert_close(evaluate(native, x, lengths=lengths), evaluate(all_dropped, x, lengths=lengths))


def test_the_environment_names_what_auto_is(calls, monkeypatch):
    x, lengths, _ = batch()
    monkeypatch.setenv(backends.ENVIRONMENT, "torch")
    model_of()(x, lengths=lengths)
    assert not calls
    model_of(backend="native")(x, lengths=lengths)
    assert calls == ["native"]
    monkeypatch.setenv(backends.ENVIRONMENT, "reference")
    model_of()(x, lengths=lengths)
    assert calls == ["native", "reference"]
    monkeypatch.setenv(backends.ENVIRONMENT, "fast")
    with pytest.raises(ValueError, match=f"{backends.ENVIRONMENT}: expected one of auto, torch.*got 'fast'"):
        model_of()(x, lengths=lengths)


@pytest.mark.parametrize("bad", ["fast", None, 3, "cpu"])
def test_unknown_backends_are_refused(bad):
    with pytest.raises(ValueError, match="backend: expected one of auto, torch, native, reference, got"):
        model_of(backend=bad)


def test_a_backend_of_ours_is_refused_for_other_networks():
    network = nn.LSTMCell(3, 5)
    ContextualRNN(network, FreeState(network), "torch")
    with pytest.raises(ValueError, match=r"backend: expected auto or torch but for nn.RNN.*native for LSTMCell"):
        ContextualRNN(network, FreeState(network), "native")


def test_what_native_cannot_run_is_refused_by_name():
    x, lengths, _ = batch()
    model = model_of(backend="native")
    packed = pack_padded_sequence(x, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
    for given in (packed, x[0]):
        with pytest.raises(ValueError, match="input: expected a padded batch for 'native', got a packed"):
            model(given)
    with pytest.raises(ValueError, match=r"input: expected torch.float.* as the network, got"):
        model(x.bfloat16())
    model.backend = "cpu"
    with pytest.raises(ValueError, match="backend: expected one of auto, torch, native, reference, got 'cpu'"):
        model(x, lengths=lengths)
    model.backend = "native"
    with pytest.raises(ValueError, match=r"no kernel for torch.bfloat16"):
        model.bfloat16()(x.bfloat16(), lengths=lengths)


def test_states_that_do_not_fit_are_refused_before_the_kernel(monkeypatch):
    x, lengths, _ = batch()
    model = model_of("gru")
    monkeypatch.setattr(model, "_start", lambda *_, **__: torch.zeros(1, 3, 5).double())
    with pytest.raises((ValueError, RuntimeError), match=r"h0|expected|Expected"):
        model(x, lengths=lengths)
    with pytest.raises((ValueError, RuntimeError), match="input: expected inputs of width 3"):
        model_of("gru")(x[..., :2], lengths=lengths)


def test_copies_and_older_pickles_have_a_backend(calls):
    x, lengths, _ = batch()
    model = pickle.loads(pickle.dumps(copy.deepcopy(model_of(backend="reference"))))
    model(x, lengths=lengths)
    assert calls == ["reference"]
    del model.__dict__["backend"]
    pickle.loads(pickle.dumps(model))(x, lengths=lengths)
    assert calls == ["reference", "native"]


def test_functional_calls_and_gradients_of_torch_func(calls):
    x, lengths, _ = batch()
    model = model_of("gru")
    weights = {name: 2 * weight.detach() for name, weight in model.named_parameters()}

    def loss(weights):
        return torch.func.functional_call(model, weights, (x,), {"lengths": lengths})[0].square().sum()

    grads = torch.func.grad(loss)(weights)
    several = {name: torch.stack([weight, 2 * weight]) for name, weight in weights.items()}
    mapped = torch.func.vmap(loss)(several)
    other = model_of("gru")
    other.load_state_dict(weights)
    expected = torch.autograd.grad(other(x, lengths=lengths)[0].square().sum(), list(other.parameters()))
    assert set(calls) == {"native"}
    assert_close([grads[name] for name, _ in other.named_parameters()], expected)
    each = [loss({name: weight[i] for name, weight in several.items()}) for i in range(2)]
    assert_close(mapped, each)
    assert_close([each[0]], [other(x, lengths=lengths)[0].square().sum()])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # torch's own rules for derivatives carried forward
def test_derivatives_carried_forward_in_torch_func(backend):
    """The gradient's derivative along x, against differences of the gradient."""
    x, lengths, reset = batch()
    model, along = model_of("gru", backend=backend), torch.randn_like(x)
    for given in ({"lengths": lengths}, {"reset": reset}):
        gradient = torch.func.grad(lambda x, given=given: model(x, **given)[0].sin().sum())
        found = torch.func.jvp(gradient, (x,), (along,))[1]
        step = 1e-5
        differences = (gradient(x + step * along) - gradient(x - step * along)) / (2 * step)
        torch.testing.assert_close(found, differences, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_derivatives_carried_forward_in_a_dual_level(monkeypatch, kind, few):
    """As in torch.func, small batches too: torch packs rows that all have a step, and has no rule for it."""
    monkeypatch.setattr(backends, "FEW", few)
    x, lengths, reset = batch()
    model, along = model_of(kind), torch.randn_like(x)
    for given in ({"lengths": lengths.clamp(min=1)}, {"lengths": lengths}, {"reset": reset}):

        def total(x, given=given):
            return model(x, **given)[0].sin().sum()

        with torch.autograd.forward_ad.dual_level():
            found = torch.autograd.forward_ad.unpack_dual(total(torch.autograd.forward_ad.make_dual(x, along))).tangent
        assert_close([found], [(torch.func.grad(total)(x) * along).sum()])


def test_torch_func_beside_a_mode_that_the_kernel_does_not_see():
    """Torch's code over packed rows is not for torch.func either."""

    class Passing(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    x, lengths, reset = batch()
    model = model_of("gru")
    for given in ({"lengths": lengths}, {"reset": reset}):
        gradient = torch.func.grad(lambda x, given=given: model(x, **given)[0].sin().sum())
        expected = gradient(x)
        with Passing():
            assert_close([gradient(x)], [expected])


@pytest.mark.parametrize("kind", KINDS)
def test_small_batches_in_torch_func(calls, monkeypatch, kind):
    """Outside of it they are torch's own, but torch.func has no rule for torch's code over packed rows."""
    monkeypatch.setattr(backends, "FEW", 1000)
    x, lengths, reset = batch()
    model = model_of(kind)
    for given in ({"lengths": lengths}, {"reset": reset}):

        def loss(x, given=given):
            return model(x, **given)[0].sin().sum()

        found = torch.func.grad(loss)(x)
        assert calls == ["native"]
        calls.clear()
        expected = torch.autograd.grad(loss(x.requires_grad_()), x)
        assert calls == []
        assert_close([found], expected)
        x = x.detach()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile looks at a state's own
def test_compiled_models_run(calls):
    """Lengths are read before the program goes on; the numbers are those of torch."""
    x, lengths, _ = batch()
    model = model_of("gru")
    compiled = torch.compile(model, backend="eager")
    assert_close([compiled(x, lengths=lengths)[0]], [model_of("gru", "torch")(x, lengths=lengths)[0]])


def test_torch_runs_a_very_small_batch(calls, monkeypatch):
    monkeypatch.setattr(backends, "FEW", 4 * 6 * 5)
    model, (x, lengths, reset) = model_of("gru"), batch()
    model(x, lengths=lengths, reset=reset)
    assert not calls
    longer = torch.cat([x, x], 1)
    model(longer, lengths=lengths)
    assert calls == ["native"]


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"batch_first": False}, {"bidirectional": True}])
@pytest.mark.parametrize("kind", [*KINDS, "projected"])
@pytest.mark.parametrize("rows", [1, 2])
def test_final_states_have_memory_of_their_own(rows, kind, options):
    """Whatever the sizes they may be changed in place, and the gradients are then those of torch's own."""
    options = options | ({"proj_size": 2} if kind == "projected" else {})
    gradients = []
    for backend in ("native", "torch", "reference"):
        torch.manual_seed(0)
        network = KINDS.get(kind, nn.LSTM)(3, 5, dtype=torch.float64, **{"batch_first": True, **options})
        x = torch.randn(*((rows, 4) if network.batch_first else (4, rows)), 3).double().requires_grad_()
        output, state = ContextualRNN(network, FreeState(network), backend)(x)
        states = state if isinstance(state, tuple) else (state,)
        assert len({tensor.untyped_storage().data_ptr() for tensor in (output, *states)}) == 1 + len(states)
        loss = sum((tensor.mul_(2) * torch.randn(tensor.shape)).sum() for tensor in states)
        gradients.append(torch.autograd.grad(loss, [x, *network.parameters()]))
        for tensor in states:
            tensor.detach_()
    assert_close(gradients[0], gradients[1])
    assert_close(gradients[2], gradients[1])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_may_be_overwritten_where_torchs_own_may(kind, batch_first, options):
    """Until the backward pass, which refuses an output that it needs as it was."""
    x, lengths, _ = batch()
    x = x if batch_first else x.transpose(0, 1)
    for backend in ("native", "torch"):
        network = KINDS[kind](3, 5, dtype=torch.float64, batch_first=batch_first, **options)
        model = ContextualRNN(network, FreeState(network), backend)
        for change in (lambda output: output.mul_(2), lambda output: output[0].zero_()):
            output, _ = model(x, lengths=lengths)
            expected = output.detach().clone()
            change(expected)
            change(output)
            assert torch.equal(output, expected)
        output, _ = model(x, lengths=lengths)
        output.mul_(2)
        if backend == "native" and not options.get("bidirectional"):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                output.sum().backward()
