"""What a call of a network is: one step or a sequence; who returns what; who overwrites the state that it is given."""

import copy
import pickle

import pytest
import torch
from tests.networks import tensors_of
from tests.own_networks import OWN, Around, InPlace, LeakyIntegrator
from tests.sequences_alone import ONE_WAY_OWN
from torch import nn

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    FastWeightsCell,
    FastWeightsRNN,
    FreeState,
    Leaf,
    NormalState,
    StateSpec,
    generate,
    state_spec,
    truncated,
)
from contextual_rnn.diagnostics import diagnose
from contextual_rnn.export import AnyLength
from contextual_rnn.spec.rows import map_tensors

X, CONTEXT, LENGTHS = torch.randn(4, 6, 3), torch.randn(4, 2), torch.tensor([6, 0, 3, 1])


def contextual(network, kind=ContextState):
    spec = state_spec(network).like(next(network.parameters()))
    return ContextualRNN(network, kind(spec, nn.Linear(2, 6)))


def registered(base=nn.Module, **spec):
    """A new class of networks, registered with this spec."""
    kind = type("Own", (base,), {})
    state_spec.register(kind, lambda network: StateSpec(**({"tree": Leaf("h", (4,))} | spec)))
    return kind


def calling(forward, **spec):
    """A network whose forward is `forward(linear, x, state)`."""
    kind = registered(**spec)
    kind.__init__ = lambda self: (nn.Module.__init__(self), setattr(self, "linear", nn.Linear(7, 4)))[0]
    kind.forward = lambda self, x, state: forward(self.linear, x, state)
    return kind()


def cell(linear, x, h):
    return torch.tanh(linear(torch.cat([x, h], -1)))


class TestGenerate:
    @pytest.mark.parametrize("case", ONE_WAY_OWN)
    def test_it_is_a_loop_over_steps(self, case):
        torch.manual_seed(0)
        network = OWN[case]()
        model, first = contextual(network), torch.randn(4, 3)
        batch, time = state_spec(network).input_batch_dim, 1 - state_spec(network).input_batch_dim
        time = 2 if case == "time last" else time
        found = generate(model, lambda o, v: v + o.mean(1, keepdim=True), first, context=CONTEXT, num_steps=3)[:, 0]
        state, value = model.initial_state(CONTEXT), first
        for step in range(3):
            inputs = value.movedim(0, batch - (time < batch)).unsqueeze(time)
            output, state = network(inputs, state)
            value = value + output.movedim((batch, time), (0, 1))[:, 0].mean(1, keepdim=True)
            torch.testing.assert_close(found[:, step], value)

    def test_outputs_that_are_the_next_values_are_not_overwritten(self):
        def step(linear, x, h):
            return h.copy_(cell(linear, x, h)), h

        network = calling(step, input_ndim=2)
        model = contextual(network)
        paths = generate(model, lambda output, value: output[:, :3], X[:, 0], context=CONTEXT, num_steps=3)
        assert not torch.equal(paths[:, 0, 0], paths[:, 0, 2])

    def test_fast_weights_in_a_module_must_return_a(self):
        model = contextual(Around(FastWeightsRNN(3, 5), 5))
        arguments = (lambda output, value: value, X[:, 0])
        with pytest.raises(ValueError, match=r"^network: expected Around to return A, .* return_fast_weights=True"):
            generate(model, *arguments, context=CONTEXT, num_steps=2)
        with pytest.raises(ValueError, match=r"^network: expected Around to return A"):
            list(truncated(model, X.transpose(0, 1), 2, context=CONTEXT))

    def test_a_cell_in_a_module(self):
        for inner in (nn.GRUCell(3, 5), FastWeightsCell(3, 5)):
            kind = registered()
            kind.forward = lambda self, x, state: self.cell(x, state)
            state_spec.register(kind, lambda network: state_spec(network.cell))
            network = kind()
            network.cell = inner
            own, bare = (
                ContextualRNN(network, FreeState(inner, value=0.5), "torch"),
                ContextualRNN(inner, FreeState(inner, value=0.5), "torch"),
            )
            step = lambda output, value: value + output[:, :3]  # noqa: E731
            assert torch.equal(*(generate(model, step, X[:, 0], num_steps=4) for model in (own, bare)))


RETURNS = {
    "(output, h)": (lambda linear, x, h: (-cell(linear, x, h), cell(linear, x, h)), Leaf("h", (4,)), -1),
    "h": (cell, Leaf("h", (4,)), 1),
    "[h]": (lambda linear, x, h: [cell(linear, x, h[0])], [Leaf("h", (4,))], 1),
    "{h}": (lambda linear, x, state: {"h": cell(linear, x, state["h"])}, {"h": Leaf("h", (4,))}, 1),
    "(h, c)": (lambda linear, x, s: (cell(linear, x, s[0]), s[1] + 1), (Leaf("h", (4,)), Leaf("c", (2,))), 1),
    "(h, None)": (lambda linear, x, s: (cell(linear, x, s[0]), None), (Leaf("h", (4,)), None), 1),
    "(output, (h, None))": (
        lambda linear, x, s: (-cell(linear, x, s[0]), (cell(linear, x, s[0]), None)), (Leaf("h", (4,)), None), -1,
    ),
    "h, the batch last": (lambda linear, x, h: cell(linear, x, h.T).T, Leaf("h", (4,), batch_dim=1), 1),
}  # fmt: skip


@pytest.mark.parametrize("ndim", [2, None])
@pytest.mark.parametrize("case", RETURNS)
def test_what_a_cell_returns_is_recognised(case, ndim):
    forward, tree, sign = RETURNS[case]
    network = calling(forward, tree=tree, input_ndim=ndim)
    model = ContextualRNN(network, FreeState(network, value=0.3))
    outputs = []
    generate(model, lambda output, value: outputs.append(output) or value, X[:, 0], num_steps=2)
    first = torch.full((4, 4), 0.3)
    for output in outputs:
        first = cell(network.linear, X[:, 0], first)
        torch.testing.assert_close(output, sign * first)


@pytest.mark.parametrize(
    ("forward", "received"),
    [
        (lambda linear, x, h: (h, h, h), "three tensors"),
        (lambda linear, x, h: (h, h[:, :2]), "a state of another width"),
        (lambda linear, x, h: (h, (h, h)), "a state of another structure"),
        (lambda linear, x, h: (h[:1], h), "an output of another batch size"),
        (lambda linear, x, h: None, "nothing"),
    ],
)
def test_anything_else_is_refused_by_name(forward, received):
    model = contextual(calling(forward, input_ndim=2))
    with pytest.raises(TypeError, match=r"^network: expected Own to return \(output, state\) or a state, .*got"):
        generate(model, lambda output, value: value, X[:, 0], context=CONTEXT, num_steps=1)


@pytest.mark.parametrize("forward", [lambda _, x, h: h, lambda _, x, h: (h, h), lambda _, x, h: (x[:, :1], h)])
def test_sequences_without_an_output_for_each_step_are_refused_by_name(forward):
    model = contextual(calling(forward, time_dim=1))
    with pytest.raises(TypeError, match=r"^network: expected Own to return \(output, state\), the output of batch"):
        model(X, context=CONTEXT, lengths=LENGTHS)


def either(linear, x, h):
    """Takes one step and sequences alike."""
    if x.ndim == 3:
        outputs = [h := cell(linear, step, h) for step in x.unbind(1)]
        return torch.stack(outputs, 1), h
    return (h := cell(linear, x, h)), h


def neither(linear, x, h):
    raise KeyError("mine")


class TestUnknown:
    @pytest.mark.parametrize(("forward", "words"), [(either, "it runs with either"), (neither, "with neither.*'mine'")])
    def test_both_ways_or_none_are_refused(self, forward, words):
        model = contextual(calling(forward))
        for call in (
            lambda: generate(model, lambda output, value: value, X[:, 0], context=CONTEXT, num_steps=1),
            lambda: model(X, context=CONTEXT, lengths=LENGTHS),
            lambda: model(X, context=CONTEXT, mask=X[..., 0] < 9),
            lambda: model(X, context=CONTEXT, reset=X[..., 0] > 1),
            lambda: model(X, context=CONTEXT, burn_in=2),
            lambda: truncated(model, X, 2, context=CONTEXT),
        ):
            with pytest.raises(ValueError, match=rf"^network: .* Own takes .* StateSpec time_dim=.*{words}"):
                call()

    @pytest.mark.parametrize(("time_dim", "steps"), [(None, False), (1, True)])
    def test_what_is_said_is_not_asked(self, time_dim, steps):
        shapes = []
        model = contextual(calling(lambda *given: shapes.append(tuple(given[1].shape)) or either(*given),
                                   time_dim=time_dim))  # fmt: skip
        generate(model, lambda output, value: value, X[:, 0], context=CONTEXT, num_steps=1)
        assert shapes == [(4, 1, 3) if steps else (4, 3)]

    def test_a_cell_takes_no_lengths_and_a_sequence_does(self):
        with pytest.raises(
            ValueError, match=r"^lengths: expected only with a padded batch .* got an input of one step"
        ):
            contextual(calling(cell))(X, context=CONTEXT, lengths=LENGTHS)
        model = contextual(calling(lambda linear, x, h: nn.GRU.forward(model.gru, x, h), tree=Leaf("h", (1, 4), 1)))
        model.gru = nn.GRU(3, 4, batch_first=True)
        reset = torch.rand(4, 6) < 0.4
        bare = ContextualRNN(model.gru, model.initial_state)
        for given in ({"reset": reset}, {"lengths": LENGTHS}, {"burn_in": 2}):
            torch.testing.assert_close(model(X, context=CONTEXT, **given), bare(X, context=CONTEXT, **given))

    @pytest.mark.parametrize("features", range(1, 12))
    def test_features_never_fit_as_time(self, features):
        """Whatever the sizes: of features, of the state, of the batch."""
        seen = []
        for width in (1, 5, features):
            model, first = contextual(LeakyIntegrator(features, width)), torch.randn(features, features)
            step = lambda output, value: seen.append(output.shape) or value  # noqa: E731
            generate(model, step, first, context=torch.randn(features, 2), num_steps=1)
            assert seen[-1] == (features, width)

    def test_once_and_nothing_is_left_behind(self):
        class Counting(LeakyIntegrator):
            def __init__(self):
                super().__init__(3, 5)
                self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
                self.drop, self.norm, self.modes = nn.Dropout(0.5), nn.BatchNorm1d(5), []

            def forward(self, x, state):
                self.calls += 1
                self.modes.append((self.training, torch.is_grad_enabled()))
                torch.rand(3)
                output, state = super().forward(x, state)
                return self.norm(self.drop(output.mT)).mT, state

        model = contextual(Counting()).train()
        model.network.drop.eval()
        modes, generator = [m.training for m in model.modules()], torch.get_rng_state()
        model._known_spec(X[:, 0])
        assert [m.training for m in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), generator)
        assert not model.network.calls
        assert not model.network.norm.num_batches_tracked
        assert set(model.network.modes) == {(False, False)}
        probes = len(model.network.modes)
        for other in (model, copy.deepcopy(model)):
            other(X, context=CONTEXT, lengths=torch.full((4,), 6))
            assert len(other.network.modes) == probes + 1

    def test_what_was_found_is_pickled(self):
        model = contextual(LeakyIntegrator())
        wanted = model(X, context=CONTEXT, lengths=LENGTHS)
        again = pickle.loads(pickle.dumps(model))
        assert again._found_spec == model._found_spec
        torch.testing.assert_close(again(X, context=CONTEXT, lengths=LENGTHS), wanted)

    def test_after_a_move_to_another_dtype(self):
        model = contextual(LeakyIntegrator()).double()
        output, _ = model(X.double(), context=CONTEXT.double(), lengths=LENGTHS)
        assert output.dtype == torch.float64

    def test_flags_before_the_call_need_no_time_axis(self):
        network = calling(either)
        model, flags = contextual(network), torch.tensor([True, False, True, False])
        state = torch.randn(4, 4)
        wanted = network(X, torch.where(flags[:, None], model.initial_state(CONTEXT), state))
        torch.testing.assert_close(model(X, state, context=CONTEXT, reset=flags), wanted)


BAD_SPECS = [
    ({"time_dim": 0}, ValueError, "time_dim: expected an axis, counted from 0, other than the batch's 0, got 0"),
    ({"time_dim": -1}, ValueError, "time_dim: expected an axis"),
    ({"time_dim": 3, "input_ndim": 3}, ValueError, "time_dim: expected one of 3 axes"),
    ({"time_dim": True}, TypeError, 'time_dim: expected an int, None or "unknown", got True'),
    ({"time_dim": 1.0}, TypeError, "time_dim: expected an int"),
    ({"time_dim": "first"}, TypeError, "time_dim: expected an int"),
    ({"input_batch_dim": -1}, ValueError, "input_batch_dim: expected an int of at least 0"),
    ({"input_batch_dim": 2, "input_ndim": 2}, ValueError, "input_batch_dim: expected less than input_ndim, 2, got 2"),
    ({"input_batch_dim": None}, TypeError, "input_batch_dim: expected"),
    ({"input_ndim": 0}, ValueError, "input_ndim: expected a positive int"),
    ({"input_ndim": "2"}, TypeError, "input_ndim: expected"),
    ({"step": 3}, TypeError, "step: expected a function or None, got int"),
    ({"bidirectional": 1}, TypeError, "bidirectional: expected True or False, got 1"),
    (
        {"bidirectional": True, "input_ndim": 2},
        ValueError,
        "bidirectional: expected False for a network",
    ),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD_SPECS, ids=[words for _, _, words in BAD_SPECS])
def test_axes_that_make_no_sense_are_refused(options, error, words):
    with pytest.raises(error, match=f"^{words}"):
        StateSpec(Leaf("h", (2,)), **options)


class Four(nn.RNNCellBase):
    def __init__(self, i, h, chunks=4):
        super().__init__(i, h, bias=True, num_chunks=chunks)

    def forward(self, x, state):
        h, c = state
        i, f, g, o = (x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Layers(nn.RNNBase):
    """nn.LSTM or nn.GRU, without being one."""

    def forward(self, x, hx):
        options = {"proj_size": self.proj_size} if self.mode == "LSTM" else {}
        twin = getattr(nn, self.mode)(
            self.input_size, self.hidden_size, self.num_layers, bidirectional=self.bidirectional,
            batch_first=self.batch_first, **options,
        )  # fmt: skip
        return torch.func.functional_call(twin, dict(self.named_parameters()), (x, hx))


class TestOtherPeoples:
    """Subclasses of torch's base classes, of which nothing is known; torchrl's LSTM cell is one."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Four(3, 5),
            lambda: Layers("LSTM", 3, 5, num_layers=2, bidirectional=True, batch_first=True),
            lambda: Layers("LSTM", 3, 5, proj_size=2),
            lambda: Layers("GRU", 3, 5),
        ],
    )
    def test_they_are_refused_with_the_words_that_register_them(self, make):
        base = type(make())
        kind = type(base.__name__, (base,), {})  # not registered by another case
        network = make()
        network.__class__ = kind
        with pytest.raises(TypeError, match=f"^network: expected .* got {base.__name__}; register") as refusal:
            FreeState(network)
        exec(str(refusal.value).partition("\n\n")[2].replace("    @", "@", 1).replace("\n    ", "\n"),
             {"state_spec": state_spec, "StateSpec": StateSpec, "Leaf": Leaf, base.__name__: kind})  # fmt: skip
        model = contextual(network)
        if base is Four:
            states = model.initial_state(CONTEXT)
            for found, wanted in zip(model(X[:, 0], context=CONTEXT), network(X[:, 0], states), strict=True):
                assert torch.equal(found, wanted)
            generate(model, lambda output, value: value, X[:, 0], context=CONTEXT, num_steps=2)
            return
        x = X if network.batch_first else X.transpose(0, 1)
        output, state = model(x, context=CONTEXT, lengths=LENGTHS)
        time, batch = (1, 0) if network.batch_first else (0, 1)
        for row, length in enumerate(LENGTHS.tolist()):
            start = model.initial_state(CONTEXT[row : row + 1])
            wanted = network(x.narrow(batch, row, 1).narrow(time, 0, length), start) if length else (None, start)
            assert torch.allclose(tensors_of(state)[0][:, row], tensors_of(wanted[1])[0][:, 0], atol=1e-6)
            if length:
                torch.testing.assert_close(output.narrow(batch, row, 1).narrow(time, 0, length), wanted[0])

    def test_subclasses_of_torchs_own_are_known_and_their_forward_is_theirs(self):
        class Doubled(nn.GRU):
            def forward(self, input, hx=None):
                output, hx = super().forward(input, hx)
                return 2 * output, hx

        model, twin = contextual(Doubled(3, 5)), nn.GRU(3, 5)
        twin.load_state_dict(model.network.state_dict())
        x, bare = X.transpose(0, 1), ContextualRNN(twin, model.initial_state)
        for given in ({}, {"lengths": LENGTHS}):
            output, wanted = (m(x, context=CONTEXT, **given)[0] for m in (model, bare))
            torch.testing.assert_close(output, 2 * wanted)
        with pytest.raises(TypeError, match=r"model: expected a network of RNN, LSTM, GRU or .*, got Doubled"):
            AnyLength(model)
        AnyLength(contextual(nn.GRU(3, 5)))


class TestStatesAreNotOverwritten:
    def state(self):
        return {"h": torch.randn(4, 5), "c": torch.randn(5, 4)}

    @pytest.mark.parametrize("given", [{}, {"lengths": LENGTHS}, {"burn_in": 2}, {"reset": X[..., 0].T > 0.5}])
    def test_of_the_caller(self, given):
        model, x, state = contextual(InPlace()), X.transpose(0, 1), self.state()
        before = map_tensors(torch.clone, state)
        with torch.no_grad():
            model(x, state, context=CONTEXT, **given)
            list(truncated(model, x, 2, state, context=CONTEXT))
            assert all(torch.equal(state[name], before[name]) for name in before)
        for leaf in state.values():
            leaf.requires_grad_()
        output, _ = model(x, state, context=CONTEXT)
        assert all(grad.any() for grad in torch.autograd.grad(output.sum(), list(state.values())))

    def test_of_pieces(self):
        model, states = contextual(InPlace()), []
        with torch.no_grad():
            for _, _, state in truncated(model, X.transpose(0, 1), 2, context=CONTEXT):
                states.append((state, map_tensors(torch.clone, state)))
        assert all(torch.equal(state[name], before[name]) for state, before in states for name in before)

    @pytest.mark.parametrize("kind", [FreeState, lambda spec: FreeState(spec, noise=0.1)])
    def test_of_the_initial_state(self, kind):
        network = InPlace()
        model = ContextualRNN(network, kind(state_spec(network).like(network.u.weight)))
        before = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for rows in (1, 4):
                model(X.transpose(0, 1)[:, :rows])
                generate(model, lambda output, value: value, X[:rows, 0], num_steps=2)
        assert all(map(torch.equal, before, model.parameters()))

    def test_that_the_backward_pass_needs(self):
        """The result of tanh is what its derivative is made of."""
        model = contextual(InPlace())
        h0 = {name: leaf.requires_grad_() for name, leaf in self.state().items()}
        output, _ = model(X.transpose(0, 1), {name: torch.tanh(leaf) for name, leaf in h0.items()})
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(output.sum(), list(h0.values())))

    def test_of_a_diagnosis(self):
        model, twin = contextual(InPlace(), NormalState), contextual(InPlace(), NormalState)
        twin.load_state_dict(model.state_dict())
        forward = InPlace.forward
        twin.network.forward = lambda x, state: forward(twin.network, x, map_tensors(torch.clone, state))

        def losses(model):
            return lambda: model(X.transpose(0, 1), context=CONTEXT)[0].mean(2).T

        first, second = (diagnose(m, losses(m), permutations=3).as_dict() for m in (model, twin))
        assert str(first) == str(second)

    @pytest.mark.parametrize("network", [nn.LSTM(3, 5), nn.GRU(3, 5), FastWeightsRNN(3, 5), nn.utils.parametrizations
                                         .weight_norm(nn.GRU(3, 5), "weight_hh_l0")])  # fmt: skip
    def test_torchs_networks_and_ours_get_no_copies(self, network):
        model, seen = contextual(network), []
        network.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
        _, state = model(X.transpose(0, 1), context=CONTEXT)
        model(X.transpose(0, 1), state)
        assert seen[1] is state


class Modulated(nn.Module):
    """Takes arguments beside input and state, one of which has a name of ours."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 5, batch_first=True)

    def forward(self, x, h, timespans=None, *, context=None, lengths=0):
        output, h = self.gru(x if timespans is None else x * timespans[..., None], h)
        return (output, h, context, lengths)


@state_spec.register
def _(network: Modulated):
    return state_spec(network.gru)


class TestFurtherArguments:
    MODEL, TIMES = contextual(Modulated()), torch.rand(4, 6)

    def test_they_are_passed_on_and_our_names_win(self):
        h0 = self.MODEL.initial_state(CONTEXT)
        wanted = self.MODEL.network.gru(X * self.TIMES[..., None], h0)
        for given in ({"timespans": self.TIMES}, {"arguments": {"timespans": self.TIMES}}):
            output, h, context, _ = self.MODEL(X, context=CONTEXT, **given)
            torch.testing.assert_close((output, h), wanted)
            assert context is None
        _, _, context, lengths = self.MODEL(X, context=CONTEXT, arguments={"context": "theirs", "lengths": 7})
        assert (context, lengths) == ("theirs", 7)
        both = self.MODEL(X, h0, timespans=self.TIMES, arguments={"context": "theirs"})
        torch.testing.assert_close(both[:2], wanted)
        assert both[2] == "theirs"
        assert self.MODEL(X, context=CONTEXT, arguments={})[2] is None

    def test_of_fast_weights(self):
        model = contextual(FastWeightsRNN(3, 5, batch_first=True))
        assert model(X, context=CONTEXT)[1][1] is None
        assert model(X, context=CONTEXT, return_fast_weights=True)[1][1].shape == (4, 5, 5)

    @pytest.mark.parametrize(
        "given", [{"lengths": LENGTHS}, {"mask": X[..., 0] < 9}, {"reset": X[..., 0] > 1}, {"burn_in": 2}]
    )
    def test_they_are_refused_beside_what_cuts_the_batch(self, given):
        for more in ({"timespans": self.TIMES}, {"arguments": {"timespans": self.TIMES}}):
            with pytest.raises(ValueError, match=r"^timespans: expected no argument beside .* with per_step or"):
                self.MODEL(X, context=CONTEXT, **given, **more)

    def test_bad_ones_are_refused(self):
        for arguments in ([("timespans", self.TIMES)], {3: 4}, 3):
            with pytest.raises(TypeError, match=r"^arguments: expected a dict from names to values, got"):
                self.MODEL(X, context=CONTEXT, arguments=arguments)
        with pytest.raises(ValueError, match=r"^arguments: expected each argument once, got timespans"):
            self.MODEL(X, context=CONTEXT, timespans=self.TIMES, arguments={"timespans": self.TIMES})
        with pytest.raises(TypeError, match="contexts"):
            contextual(nn.GRU(3, 5))(X.transpose(0, 1), context=CONTEXT, contexts=CONTEXT)
