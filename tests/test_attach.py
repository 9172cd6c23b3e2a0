"""An initial state inside somebody else's model: what the model computes, and which context each call gets."""

import copy
import functools
import gc
import pickle
import threading
import weakref

import pytest
import torch
from tests.networks import NETWORKS, make_input, tensors_of
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    FreeState,
    Leaf,
    NormalState,
    StateSpec,
    attach,
    given_context,
    remove_initial_state,
    state_spec,
)
from contextual_rnn.diagnostics import diagnose

F64 = torch.float64
TORCHS = [name for name in NETWORKS if "own" not in name and "fast" not in name]


class Model(nn.Module):
    """Somebody else's model: it calls its network without a state."""

    def __init__(self, network=None, width=5, checkpointed=None):
        super().__init__()
        self.lstm = network or nn.LSTM(3, 5, batch_first=True, dtype=F64)
        self.readout = nn.Linear(width, 2, dtype=F64)
        self.checkpointed = checkpointed  # None, or use_reentrant

    def forward(self, x, static=None, *, repeats=1):
        if repeats > 1:
            x = x.repeat_interleave(repeats, 0)
        if self.checkpointed is None:
            return self.readout(self.lstm(x)[0])
        return self.readout(checkpoint(self.lstm, x, use_reentrant=self.checkpointed)[0])


class OfDicts(Model):
    def forward(self, batch, scale=1.0, other=None, **more):
        return scale * super().forward(batch["x"])


def contextual(network, **options):
    torch.manual_seed(7)
    return ContextState(network, nn.Sequential(nn.Linear(2, 6, dtype=F64), nn.Tanh()), **options)


def random(*shape):
    return torch.randn(*shape, dtype=F64)


X, CONTEXT, OTHER = random(4, 6, 3), random(4, 2), random(4, 2)


def attached(model=None, state=contextual, **options):
    model = Model() if model is None else model
    attach(model.lstm, state(model.lstm), **options)
    return model


def expected(model, context, x=X):
    return model.readout(model.lstm(x, model.lstm.initial_state(context))[0])


def second_argument(x, static=None, **more):
    return static


@pytest.mark.parametrize("name", TORCHS)
def test_as_the_network_called_with_the_state(name):
    network = NETWORKS[name]().to(F64)
    x, context = make_input(network, 4, dtype=F64).requires_grad_(), random(4, 2).requires_grad_()
    attach(network, contextual(network))
    state = network.initial_state(context)
    leaves = [x, context, *network.parameters()]
    results = []
    with given_context(context):
        for output in (network(x), network(input=x), network(x, None), network(x, state)):
            generator = torch.Generator().manual_seed(0)
            loss = sum((t * torch.randn(t.shape, dtype=F64, generator=generator)).sum() for t in tensors_of(output))
            results.append([*tensors_of(output), *torch.autograd.grad(loss, leaves, retain_graph=True)])
    for result in results[:3]:
        assert all(map(torch.equal, result, results[3]))


@pytest.mark.parametrize("name", TORCHS)
def test_zeros_leave_the_output_as_it_is_to_the_bit(name):
    network = NETWORKS[name]()
    x, context = make_input(network, 4), torch.randn(4, 2)
    one = make_input(network, None)
    own = [tensors_of(network(x)), tensors_of(network(one))]
    for state in (ConstantState(network), FreeState(network), ContextState(network, nn.Linear(2, 3), zero_init=True)):
        attach(network, state)
        with given_context(context):
            assert all(map(torch.equal, tensors_of(network(x)), own[0]))
        with given_context(context[0]):
            assert all(map(torch.equal, tensors_of(network(one)), own[1]))
        remove_initial_state(network)


def test_packed_sequences_have_contexts_in_the_order_before_packing():
    model = attached()
    packed = pack_sequence([X[0, :2], X[1, :5], X[2, :3], X[3, :6]], enforce_sorted=False)
    with given_context(CONTEXT):
        _, (h, c) = model.lstm(packed)
        for row, length in enumerate((2, 5, 3, 6)):
            with given_context(CONTEXT[row : row + 1]):
                _, (own_h, own_c) = model.lstm(X[row : row + 1, :length])
            torch.testing.assert_close((h[:, row], c[:, row]), (own_h[:, 0], own_c[:, 0]))


def test_an_explicit_state_wins():
    model = attached()
    state = random(1, 4, 5), random(1, 4, 5)
    for output in (model.lstm(X, state), model.lstm(X, hx=state), model.lstm(input=X, hx=state)):
        assert torch.equal(output[0], nn.LSTM.forward(model.lstm, X, state)[0])


class Scaled(nn.Module):
    """A network whose second argument is no state."""

    def __init__(self, call):
        super().__init__()
        self.gru = nn.GRU(3, 5, dtype=F64)
        self.state_spec = StateSpec(Leaf("h", (1, 5), batch_dim=1), time_dim=0, input_batch_dim=1, call=call)

    def forward(self, x, scale=1.0, state=None):
        return self.gru(scale * x, state)


class ByName(Scaled):
    def forward(self, x, scale=1.0, *, state=None):
        return super().forward(x, scale, state)


@pytest.mark.parametrize("kind", [Scaled, ByName])
def test_the_state_is_given_as_the_call_of_the_spec_gives_it(kind):
    network = kind(lambda network, x, state: network(x, state=state))
    state = FreeState(network, value=0.5, dtype=F64)
    wanted, scaled = (network.gru(scale * X, state(batch_size=X.shape[1]))[0] for scale in (1.0, 2.0))
    attach(network, state)
    assert torch.equal(network(X)[0], wanted)
    assert torch.equal(network(X, 2.0)[0], scaled)
    assert torch.equal(network(X, state=torch.zeros(1, X.shape[1], 5, dtype=F64))[0], network.gru(X)[0])
    if kind is Scaled:
        assert torch.equal(network(X, 2.0, None)[0], scaled)


def test_a_network_that_takes_parts_of_its_state_is_refused():
    network = Scaled(lambda network, x, state: network(x, state={"h": state}))
    with pytest.raises(TypeError, match=r"^network: expected one that takes its state as one argument, got Scaled"):
        attach(network, FreeState(network))


def test_a_state_without_a_context_needs_none():
    model = attached(state=lambda lstm: FreeState(lstm, value=0.5))
    assert torch.equal(model(X), model.readout(model.lstm(X, (torch.full((1, 4, 5), 0.5, dtype=F64),) * 2)[0]))


HOSTED = {
    "positional": (Model, "static", lambda model: model(X, CONTEXT)),
    "keyword": (Model, "static", lambda model: model(X, static=CONTEXT)),
    "key": (OfDicts, "static", lambda model: model({"x": X, "static": CONTEXT})),
    "argument.key": (OfDicts, "batch.static", lambda model: model({"x": X, "static": CONTEXT}, 1.0, static=OTHER)),
    "further keyword": (OfDicts, "static", lambda model: model({"x": X}, static=CONTEXT)),
    "function": (Model, second_argument, lambda model: model(X, static=CONTEXT)),
    "lambda": (Model, lambda x, static: 2 * static, lambda model: model(X, CONTEXT / 2)),
}


@pytest.mark.parametrize("case", HOSTED)
def test_the_context_from_the_arguments_of_the_host(case):
    kind, context, call = HOSTED[case]
    model = kind()
    attached(model, host=model, context=context)
    output = call(model)
    assert torch.equal(output, expected(model, CONTEXT))
    with given_context(OTHER):  # around the call: the host's own is nearer
        assert torch.equal(call(model), output)


def test_hosts_may_call_each_other_and_several_networks():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.lstm = attached(), nn.LSTM(3, 5, batch_first=True, dtype=F64)
            attach(self.lstm, contextual(self.lstm), host=self, context="static")

        def forward(self, x, static, inner):
            first = self.lstm(x)[0]
            with given_context(inner, network=self.inner.lstm):
                output = self.inner(x)
            return first, output, self.lstm(x)[0]

    model = Outer()
    first, inner, last = model(X, CONTEXT, OTHER)
    assert torch.equal(first, last)
    assert torch.equal(first, model.lstm(X, model.lstm.initial_state(CONTEXT))[0])
    assert torch.equal(inner, expected(model.inner, OTHER))
    with (
        given_context(CONTEXT),
        given_context(OTHER, network=model.inner.lstm),
        pytest.raises(ValueError, match="rows"),
    ):
        model(X, CONTEXT[:2], OTHER)
    with pytest.raises(ValueError, match="context: expected one"):  # after the error too
        model.lstm(X)


def test_a_context_may_be_for_one_network_alone():
    first, second = attached(), attached()
    for given in ((None, second.lstm), (second.lstm, None)):
        contexts = [OTHER if network is second.lstm else CONTEXT for network in given]
        with given_context(contexts[0], network=given[0]), given_context(contexts[1], network=given[1]):
            assert torch.equal(first(X), expected(first, CONTEXT))
            assert torch.equal(second(X), expected(second, contexts[1]))  # the innermost that is for it


def test_a_context_whose_generator_is_over_is_over_whatever_began_since():
    model = attached()

    def outputs(context):
        with given_context(context):
            yield model(X)
            yield model(X)

    first, second = outputs(CONTEXT), outputs(OTHER)
    next(first), next(second)
    assert len(list(first)) == 1  # it ends before the one that began after it
    assert torch.equal(next(second), expected(model, OTHER))
    second.close()
    with pytest.raises(ValueError, match="context: expected one"):
        model(X)


def gradients(model, output):
    loss = (output * torch.linspace(-1, 1, output.numel(), dtype=F64).view_as(output)).sum()
    model.zero_grad()
    return lambda: (loss.backward(), [p.grad.clone() for p in model.parameters()])[1]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("hosted", [False, True])
def test_a_recomputed_call_has_the_context_of_its_forward_pass(reentrant, hosted):
    model, x = Model(checkpointed=reentrant), X.clone().requires_grad_()
    attached(model, **({"host": model, "context": "static"} if hosted else {}))
    wanted = gradients(model, expected(model, CONTEXT))()
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    model.lstm.initial_state.register_forward_hook(count)
    with given_context(CONTEXT):
        backward = gradients(model, model(x, CONTEXT))
    with given_context(OTHER):
        recomputed = backward()
    assert calls == 2
    for gradient, plain in zip(recomputed, wanted, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_whole_host_may_be_recomputed(reentrant):
    model = Model()
    attached(model, host=model, context="static")
    contexts = [CONTEXT.clone().requires_grad_() for _ in range(2)]
    wanted = gradients(model, expected(model, contexts[0]))()
    output = checkpoint(model, X, 1.0 * contexts[1], use_reentrant=reentrant)
    recomputed = gradients(model, output)()
    for gradient, plain in zip([*recomputed, contexts[1].grad], [*wanted, contexts[0].grad], strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-12, atol=1e-12)


def test_a_recomputation_that_is_not_known_is_refused():
    """A context that is given now may be another: nothing says that this call is a checkpointed one."""
    model = attached()

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return model(x).detach()

        @staticmethod
        def backward(ctx, gradient):
            model(X)
            return gradient

    with given_context(CONTEXT):
        output = Again.apply(X.clone().requires_grad_())
        with pytest.raises(ValueError, match=r"context: expected one .* it runs in a backward pass"):
            output.sum().backward()


def run_in_threads(*functions):
    results = [None] * len(functions)

    def run(number):
        try:
            results[number] = functions[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_have_contexts_of_their_own():
    model, barrier = attached(), threading.Barrier(2)

    def run(context):
        with given_context(context):
            barrier.wait()
            output = model(X)
            barrier.wait()
            return output

    for output, context in zip(run_in_threads(lambda: run(CONTEXT), lambda: run(OTHER)), (CONTEXT, OTHER), strict=True):
        assert torch.equal(output, expected(model, context))
    with given_context(CONTEXT):
        (error,) = run_in_threads(lambda: model(X))
    assert "one given in another thread does not count here" in str(error)


def replica_of(module):
    """As torch.nn.parallel.replicate makes one, with weights that are no parameters."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        setattr(replica, name, replica_of(child))
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter.detach().clone())
    return replica


def test_replicas_use_their_own_rows_and_weights():
    model = Model()
    attached(model, host=model, context="static")
    replicas = [replica_of(model), replica_of(model)]
    halves = run_in_threads(lambda: replicas[0](X[:2], CONTEXT[:2]), lambda: replicas[1](X[2:], CONTEXT[2:]))
    torch.testing.assert_close(torch.cat(halves), expected(model, CONTEXT))
    for parameter in model.parameters():
        parameter.data.zero_()
    assert not torch.equal(run_in_threads(lambda: replicas[0](X[:2], CONTEXT[:2]))[0], model(X[:2], CONTEXT[:2]))


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("hosted", [False, True])
def test_a_copy_is_whole_and_has_its_own_state(way, hosted):
    model = Model()
    attached(model, **({"host": model, "context": second_argument} if hosted else {}))
    with given_context(CONTEXT):
        output = model(X, CONTEXT)
        other = COPIES[way](model)
        assert torch.equal(other(X, CONTEXT), output)
        for parameter in other.lstm.initial_state.parameters():
            parameter.data.add_(1.0)
        assert torch.equal(model(X, CONTEXT), output)
        assert torch.equal(other(X, CONTEXT), expected(other, CONTEXT))
        assert not torch.equal(other(X, CONTEXT), output)
    remove_initial_state(other)
    with given_context(CONTEXT):
        assert torch.equal(model(X, CONTEXT), output)


def test_hooks_added_to_a_loaded_model_do_not_replace_ours(monkeypatch):
    saved = pickle.dumps(attached())
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # as in a new process
    model = pickle.loads(saved)
    for _ in range(RemovableHandle.next_id + 3):
        model.lstm.register_forward_pre_hook(lambda *_: None)
    with given_context(CONTEXT):
        assert torch.equal(model(X), expected(model, CONTEXT))


def test_state_dicts_keep_their_names():
    model, plain = attached(), Model()
    names = set(plain.state_dict())
    assert {name for name in model.state_dict() if ".initial_state." not in name} == names
    model.load_state_dict(plain.state_dict(), strict=False)
    other = attached()
    other.load_state_dict(model.state_dict())
    with given_context(CONTEXT):
        assert torch.equal(model(X), other(X))
    assert type(model.lstm) is nn.LSTM


def traces(module):
    return {name: {*vars(each)} for name, each in module.named_modules()}, {
        name: (dict(each._forward_pre_hooks), dict(each._forward_hooks), dict(each._forward_pre_hooks_with_kwargs),
               dict(each._forward_hooks_always_called))
        for name, each in module.named_modules()
    }  # fmt: skip


@pytest.mark.parametrize("hosted", [False, True])
def test_removal_leaves_no_trace(hosted):
    model = Model()
    model.register_forward_pre_hook(second_argument)
    before, names = traces(model), list(model.state_dict())
    attached(model, **({"host": model, "context": "static"} if hosted else {}))
    assert traces(model) != before
    if hosted:
        with pytest.raises(ValueError, match="model: expected the host of every attached state inside, got LSTM"):
            remove_initial_state(model.lstm)
    remove_initial_state(model)
    assert traces(model) == before
    assert list(model.state_dict()) == names
    attached(model)
    del model.lstm.initial_state
    remove_initial_state(model)
    assert traces(model) == before


def test_a_function_that_cannot_be_imported_copies_but_does_not_pickle():
    model = Model()
    attached(model, host=model, context=lambda x, static: static)
    assert torch.equal(copy.deepcopy(model)(X, CONTEXT), model(X, CONTEXT))
    with pytest.raises(TypeError, match=r"context: expected a function that can be imported, .* got .*lambda"):
        pickle.dumps(model)


def test_rows_that_the_model_repeats_are_refused_with_the_factor():
    model = Model()
    attached(model, host=model, context="static")
    with pytest.raises(ValueError, match=r"context: expected 12 rows, as the input of LSTM\(3, 5, batch_first=True\), "
                       "got 4: the model repeats rows 3 times"):  # fmt: skip
        model(X, CONTEXT, repeats=3)
    with pytest.raises(ValueError, match="context: expected") as error:
        model(X, CONTEXT[:3])
    assert "repeats" not in str(error.value)
    assert model(X, CONTEXT.repeat_interleave(3, 0), repeats=3).isfinite().all()


def test_a_missing_context_names_the_network_and_how_to_give_it():
    model = attached()
    missing = r"context: expected one for the initial state of LSTM\(3, 5, batch_first=True\), got none; run the model"
    with pytest.raises(ValueError, match=missing + " inside `with given_context.* attach.*host=model"):
        model(X)
    hosted = Model()
    attached(hosted, host=hosted, context="static")
    with pytest.raises(ValueError, match=missing + ".* or call its host as a module"):
        hosted.forward(X, CONTEXT)
    with pytest.raises(ValueError, match=r"state of LSTM\(.*\), got None; give its host the argument that attach\("):
        hosted(X)
    with given_context(CONTEXT):
        assert torch.equal(hosted.forward(X), expected(hosted, CONTEXT))
    dropout = attached(state=lambda lstm: ContextDropout(contextual(lstm)))
    with given_context(None):
        assert dropout(X).isfinite().all()


def test_a_state_trains_and_is_diagnosed():
    torch.manual_seed(0)
    model = Model()
    attached(model, state=lambda lstm: contextual(lstm, zero_init=True), host=model, context="static")
    target = CONTEXT[:, None] * torch.ones(6, 1, dtype=F64)
    first = (model(X, CONTEXT) - target).square().mean().item()
    optimizer = torch.optim.Adam(model.lstm.initial_state.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        (model(X, CONTEXT) - target).square().mean().backward()
        optimizer.step()
    assert (model(X, CONTEXT) - target).square().mean().item() < 0.9 * first
    diagnosis = diagnose(model, lambda: (model(X, CONTEXT) - target).square().mean(2), permutations=3)
    assert diagnosis.overall["true"] < diagnosis.overall["zeroed"]


def test_a_drawn_state_is_drawn_anew_in_each_call():
    model = attached(state=lambda lstm: NormalState(lstm, nn.Linear(2, 3, dtype=F64)))
    with given_context(CONTEXT):
        assert not torch.equal(model(X), model(X))
        model.eval()
        assert torch.equal(model(X), model(X))


class Unhashable:
    __hash__ = None

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, x, static=None):
        return self.forward(x)


@pytest.mark.parametrize("wrapped", [lambda forward: lambda x, static=None: forward(x), functools.partial, Unhashable])
def test_a_forward_method_of_the_host_itself_is_read_and_does_not_keep_it(wrapped):
    model = Model()
    model.forward = wrapped(model.forward)
    attached(model, host=model, context="static")
    assert torch.equal(model(X, static=CONTEXT), expected(model, CONTEXT))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gets_the_context_of_each_call():
    model = Model(nn.GRUCell(3, 5, dtype=F64))
    model.forward = lambda x, static=None: model.readout(model.lstm(x))
    attach(model.lstm, contextual(model.lstm))
    compiled = torch.compile(model, backend="eager")
    for context in (CONTEXT, OTHER, CONTEXT):
        with given_context(context):
            wanted = model.readout(model.lstm(X[:, 0], model.lstm.initial_state(context)))
            torch.testing.assert_close(compiled(X[:, 0]), wanted)
    with pytest.raises(ValueError, match="context: expected one"):
        compiled(X[:, 0])


LSTM = nn.LSTM(3, 5)
FREE = FreeState(LSTM)
REFUSED = [
    (lambda: attach(nn.Linear(2, 3), FREE), TypeError, "network: expected one with a registered state spec"),
    (lambda: attach(state_spec(LSTM), FREE), TypeError, "network: expected a module, got StateSpec"),
    (lambda: attach(nn.LSTM(3, 5), nn.Linear(2, 3)), TypeError, "state: expected an InitialState, got Linear"),
    (lambda: attach(nn.GRU(3, 5), FREE), ValueError, "state: expected one for h of shape .*, got one for .h of"),
    (lambda: attach(attach(nn.LSTM(3, 5), FREE), FREE), ValueError, "network: expected one without an initial state"),
    (lambda: attach(nn.LSTM(3, 5), FREE, context="static"), ValueError, "context: expected None without a host"),
    (lambda: attach(nn.LSTM(3, 5), FREE, host=Model()), ValueError, "context: expected the name of an argument"),
    (lambda: attach(nn.LSTM(3, 5), FREE, host=3, context="a"), TypeError, "host: expected a module or None, got int"),
    (lambda: attach(nn.LSTM(3, 5), FREE, host=Model(), context=3), TypeError, "context: expected a name or a function"),
    (lambda: attach(nn.LSTM(3, 5), FREE, host=Model(), context=dict), TypeError, "a name or a function, got the class"),
    (lambda: given_context(CONTEXT, network=3).__enter__(), TypeError, "network: expected a module or None, got int"),
    (lambda: given_context(CONTEXT, network=LSTM).__enter__(), ValueError, "network: expected one with an attached"),
    (lambda: remove_initial_state(LSTM), ValueError, "model: expected one with an attached initial state, got LSTM"),
    (lambda: remove_initial_state(3), TypeError, "model: expected a module, got int"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED)
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_an_argument_that_is_not_there_is_named():
    model = OfDicts()
    attached(model, host=model, context="static")
    message = "expected 'static' to be an argument of OfDicts.forward or a key of one, got arguments batch, scale"
    with pytest.raises(ValueError, match=message):
        model({"x": X})
    with pytest.raises(ValueError, match="and the key in 2 of them"):
        model({"x": X, "static": CONTEXT}, other={"static": CONTEXT})


def test_arguments_that_the_host_does_not_take_are_refused_in_its_name():
    model = Model()
    attached(model, host=model, context="static")
    with pytest.raises(TypeError, match=r"^Model\.forward: got an unexpected keyword argument 'statics'"):
        model(X, statics=CONTEXT)
    with pytest.raises(TypeError, match=r"^Model\.forward: too many positional arguments"):
        model(X, CONTEXT, CONTEXT)
    assert model(X, CONTEXT).isfinite().all()


def test_a_function_that_cannot_take_what_the_host_gets_is_named():
    model, other = Model(), Model()
    attached(model, host=model, context=lambda static: static)
    with pytest.raises(TypeError, match=r"^context: expected a function of what Model\.forward gets, got <function"):
        model(X, CONTEXT)
    attached(other, host=other, context=lambda x, static: static + "its own error")
    with pytest.raises(TypeError, match="str"):
        other(X, CONTEXT)


def test_a_state_of_another_dtype_is_refused():
    model = attached()
    model.lstm.initial_state.float()
    with (
        given_context(CONTEXT.float()),
        pytest.raises(ValueError, match=r"expected 'h' of torch.float64"),
    ):
        model(X)
