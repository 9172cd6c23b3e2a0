"""A batch with resets is every piece between resets, run alone: forwards and backwards, from states of its own."""

import pytest
import torch
from hypothesis import given, settings
from tests.networks import NETWORKS, Springs, make, make_input, tensors_of
from tests.sequences_alone import (
    CASES,
    SEED,
    STEPS,
    TWO_INNER_STEPS,
    Batch,
    alone,
    assert_equal,
    batch_first,
    build,
    outcome,
    patterns,
    rows_of,
)
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from contextual_rnn import (
    ContextDropout,
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    Leaf,
    NormalState,
    StateSpec,
    state_spec,
)
from contextual_rnn.spec import take_step

DTYPES = [torch.float32, torch.float64]
CELLS = [name for name in NETWORKS if "cell" in name]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("case", [*CASES, *TWO_INNER_STEPS])
@given(pattern=patterns())
@settings(deadline=None, derandomize=True, max_examples=5)
def test_every_segment_is_as_if_alone(case, explicit, dtype, pattern):
    """Gradients through two layer norms a step are worse conditioned: in float32 they differ by up to 6e-6."""
    model = build(case, dtype)
    batch = Batch.of(model, *pattern, explicit=explicit)
    output, state = model(batch.input(model), batch.state(model), **batch.arguments(model))
    found = outcome(model, batch, batch_first(model, output), rows_of(model, state))
    assert_equal(found, outcome(model, batch, *alone(model, batch)), 1e-5 if "twice" in case else 1e-6)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("case", ["lstm", "gru", "fast weights, low-rank A"])
@given(pattern=patterns())
@settings(deadline=None, derandomize=True, max_examples=5)
def test_every_reset_may_have_a_context_of_its_own(case, explicit, pattern):
    model = build(case, torch.float64)
    batch = Batch.of(model, *pattern, explicit=explicit, reset_context=True)
    output, state = model(batch.input(model), batch.state(model), **batch.arguments(model))
    found = outcome(model, batch, batch_first(model, output), rows_of(model, state))
    assert_equal(found, outcome(model, batch, *alone(model, batch)))


@pytest.mark.parametrize("enforce_sorted", [False, True])
@pytest.mark.parametrize("case", ["lstm projected", "rnn", "fast weights, dense A"])
def test_a_packed_batch_is_reset_as_a_padded_one(case, enforce_sorted):
    model = build(case, torch.float64)
    torch.manual_seed(2)
    lengths = torch.tensor([6, 4, 4, 1] if enforce_sorted else [4, 1, 6, 4])
    batch = Batch.of(model, lengths, torch.rand(4, STEPS) < 0.4, explicit=False)
    options = {"batch_first": model.network.batch_first}
    packed = pack_padded_sequence(batch.input(model), lengths, enforce_sorted=enforce_sorted, **options)
    told = batch.arguments(model)
    del told["lengths"]
    output, state = model(packed, **told)
    assert torch.equal(output.batch_sizes, packed.batch_sizes)
    padded, found_lengths = pad_packed_sequence(output, total_length=STEPS, **options)
    assert torch.equal(found_lengths, lengths)
    found = outcome(model, batch, batch_first(model, padded), rows_of(model, state))
    assert_equal(found, outcome(model, batch, *alone(model, batch)))


@pytest.mark.parametrize("case", CELLS)
@given(pattern=patterns())
@settings(deadline=None, derandomize=True, max_examples=5)
def test_cells_begin_anew_before_their_step(case, pattern):
    """The loop of docs/sequences.md over a cell, against every segment in a loop of its own."""
    network, spec = make(case, torch.float64)
    if isinstance(network, Springs):
        spec = spec.like(network.weight)
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 6).double()))
    _, reset = pattern
    rows = len(reset)
    x = torch.randn(rows, STEPS, 3, dtype=torch.float64, requires_grad=True)
    context = torch.randn(rows, 2, dtype=torch.float64, requires_grad=True)
    cotangents = torch.randn(STEPS + 1, 3, rows, 5, dtype=torch.float64)
    network_spec = state_spec(model)

    def loss(rows, reset):
        total, state, spec = torch.zeros((), dtype=torch.float64), None, model.initial_state.spec
        for t in range(STEPS):
            if reset is None:  # alone, one row
                if t == 0 or begins[t]:
                    state = model.initial_state(context[rows])
                output, state = take_step(network, network_spec, x[rows, t], state)
            else:
                made = model(x[rows, t], state, context=context[rows], reset=reset[:, t])
                output, state = made if isinstance(network, Springs) else (tensors_of(made)[0], made)
            total = total + (cotangents[t, 0, rows] * output).sum()
        final = list(spec.unpack(state).values()) if "fast" not in case else [state[0]]
        return total + sum((cotangents[-1, k, rows] * leaf).sum() for k, leaf in enumerate(final))

    leaves = [x, context, *model.parameters()]
    found = torch.autograd.grad(loss(torch.arange(rows), reset), leaves)
    wanted = [torch.zeros_like(leaf) for leaf in leaves]
    for row in range(rows):
        begins = reset[row]
        for total, gradient in zip(wanted, torch.autograd.grad(loss(torch.tensor([row]), None), leaves), strict=True):
            total += gradient
    assert_equal(list(found), wanted)


class Decaying(nn.Module):
    """A sequence network of a user's own, (T, B, I), known by its step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))

    def forward(self, x, state):
        outputs = []
        for inputs in x:
            state = {"v": torch.tanh(0.9 * state["v"] + inputs @ self.weight.T)}
            outputs.append(state["v"])
        return torch.stack(outputs), state


@state_spec.register
def _(network: Decaying) -> StateSpec:
    def step(network, inputs, state):
        output, state = network(inputs[None], state)
        return output[0], state

    return StateSpec({"v": Leaf("v", (5,))}, input_batch_dim=1, step=step)


class TestOwnNetworks:
    @given(pattern=patterns())
    @settings(deadline=None, derandomize=True, max_examples=10)
    def test_a_network_with_a_step_is_run_by_it(self, pattern):
        network = Decaying()
        spec = state_spec(network).like(network.weight)
        model = ContextualRNN(network, NormalState(spec, nn.Linear(2, 6).double(), scale_from_context=True))
        network.batch_first = False  # for the helpers alone
        batch = Batch.of(model, *pattern, explicit=True)
        output, state = model(batch.input(model), batch.state(model), **batch.arguments(model))
        found = outcome(model, batch, batch_first(model, output), rows_of(model, state))
        assert_equal(found, outcome(model, batch, *alone(model, batch)))

    def test_without_a_step_lengths_are_refused_and_resets_are_before_the_call(self):
        network, spec = make("own cell")
        model = ContextualRNN(network, FreeState(spec, value=spec.pack({n.name: torch.ones(5) for n in spec})))
        x, state = torch.randn(3, 3), spec.pack({leaf.name: torch.randn(3, *leaf.shape) for leaf in spec})
        output, _ = model(x, state, reset=torch.tensor([False, True, False]))
        assert torch.equal(output[1], model(x)[0][1])
        assert torch.equal(output[0], model(x, state)[0][0])


def test_no_reset_is_no_change_by_a_bit():
    model = build("lstm", torch.float32)
    batch = Batch.of(model, torch.full((3,), STEPS), torch.zeros(3, STEPS, dtype=torch.bool), explicit=False)
    seed = torch.Generator().manual_seed(SEED)
    plain = model(batch.input(model), context=batch.context, generator=seed)
    told = model(batch.input(model), **batch.arguments(model) | {"lengths": None})
    assert all(map(torch.equal, tensors_of(told), tensors_of(plain)))


def test_each_segment_has_a_draw_of_its_own_and_evaluation_has_none():
    gru = nn.GRU(3, 5, batch_first=True)
    model = ContextualRNN(gru, NormalState(gru, nn.Linear(2, 6)))
    made = []
    model.initial_state.register_forward_hook(lambda module, arguments, state: made.append(state))
    reset = torch.tensor([[False, True, True, False]])
    model(torch.randn(1, 4, 3), context=torch.randn(1, 2), reset=reset)
    model.eval()(torch.randn(1, 4, 3), context=torch.randn(1, 2), reset=reset)
    drawn, mean = (state[0] for state in made)
    assert drawn.shape == mean.shape == (3, 5)
    assert len(drawn.unique(dim=0)) == 3
    assert len(mean.unique(dim=0)) == 1


def test_a_context_is_dropped_for_each_segment_anew():
    gru = nn.GRU(3, 5, batch_first=True)
    model = ContextualRNN(gru, ContextDropout(ContextState(gru, nn.Linear(2, 6)), p=0.5))
    made = []
    model.initial_state.register_forward_hook(lambda module, arguments, state: made.append(state[0]))
    reset = torch.ones(1, 40, dtype=torch.bool)
    model(torch.randn(1, 40, 3), context=torch.randn(1, 2), reset=reset, generator=torch.Generator().manual_seed(0))
    assert made[0].shape == (40, 5)
    assert len(made[0].unique(dim=0)) == 2  # the null state and the context's
    assert 8 < int((made[0] == 0).all(1).sum()) < 32


def test_the_context_network_runs_once_a_row_however_many_resets():
    gru = nn.GRU(3, 5, batch_first=True)
    net = nn.Linear(2, 6)
    rows = []
    net.register_forward_hook(lambda module, arguments, output: rows.append(len(output)))
    model = ContextualRNN(gru, ContextState(gru, net))
    model(torch.randn(2, 9, 3), context=torch.randn(2, 2), reset=torch.ones(2, 9, dtype=torch.bool))
    assert rows == [2]


@pytest.mark.parametrize("case", ["lstm", "fast weights"])
def test_all_segments_are_one_call_of_the_network(case):
    network, spec = make(case)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    model = ContextualRNN(network, FreeState(spec))
    model(make_input(network, 3, 8), reset=torch.rand(3, 8) < 0.5)
    assert calls == [1]


def test_an_initial_state_gets_a_gradient_whether_or_not_something_is_reset():
    """A parameter that takes part in some calls alone stops DistributedDataParallel."""
    gru = nn.GRU(3, 5, batch_first=True)
    model = ContextualRNN(gru, FreeState(gru))
    hx = torch.randn(1, 2, 5)
    output, _ = model(torch.randn(2, 4, 3), hx, reset=torch.zeros(2, 4, dtype=torch.bool))
    output.sum().backward()
    assert model.initial_state.values["h"].grad is not None


def test_a_reset_reaches_the_carried_fast_weights():
    """A(t) goes back to the row's own A(0), here zero, and only in that row."""
    torch.manual_seed(0)
    network = FastWeightsRNN(3, 5, batch_first=True, return_fast_weights=True)
    model = ContextualRNN(network, FreeState(network))
    x, hx = torch.randn(2, 4, 3), (torch.rand(2, 5), torch.randn(2, 5, 5))
    reset = torch.zeros(2, 4, dtype=torch.bool)
    reset[1, 0] = True
    output, (_, a_n) = model(x, hx, reset=reset)
    carried, (_, carried_a) = network(x, hx)
    fresh, (_, fresh_a) = network(x)
    torch.testing.assert_close(output, torch.stack([carried[0], fresh[1]]))
    torch.testing.assert_close(a_n, torch.stack([carried_a[0], fresh_a[1]]))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_flags_of_as_many_rows_as_steps_have_the_layout_of_the_input(batch_first, packed):
    """Row 1 begins anew at step 4, or ends there."""
    gru, size = nn.GRU(3, 4, batch_first=batch_first), 6
    model, x = ContextualRNN(gru, FreeState(gru, value=1.0)), torch.randn(size, size, 3)
    late = torch.zeros(size, size, dtype=torch.bool)  # (B, T)
    late[1, 4:] = True
    reset = late.clone()
    reset[1, 5] = False

    def outputs(**flags):
        flags = {name: flag if batch_first else flag.T for name, flag in flags.items()}
        if not packed:
            output, _ = model(x, **flags)
        else:
            steps = pack_padded_sequence(x, torch.full((size,), size), batch_first=batch_first)
            output, _ = pad_packed_sequence(model(steps, **flags)[0], batch_first=batch_first)
        return output if batch_first else output.transpose(0, 1)

    plain = outputs()
    assert torch.equal((outputs(reset=reset) - plain).abs().amax(-1) > 1e-6, late)
    if not packed:
        torch.testing.assert_close(outputs(mask=~late), plain.masked_fill(late[..., None], 0))


@pytest.mark.parametrize("backend", ["auto", "torch", "native", "reference"])
@pytest.mark.parametrize("batch", [0, 3])
def test_no_steps_end_as_they_start(backend, batch):
    network = nn.LSTM(3, 5, batch_first=True)
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 4)), backend=backend)
    x, context = torch.zeros(batch, 0, 3), torch.randn(batch, 2)
    start = model.initial_state(context)
    for flags in ({"reset": torch.zeros(batch, 0, dtype=torch.bool)}, {"lengths": torch.zeros(batch).long()}):
        output, state = model(x, context=context, **flags)
        assert output.shape == (batch, 0, 5)
        torch.testing.assert_close(state, start)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [(nn.GRU, "auto"), (nn.GRU, "torch"), (nn.GRU, "native"), (nn.LSTM, "reference"), (FastWeightsRNN, "auto")],
)
def test_no_rows_and_no_steps(kind, backend):
    network = kind(3, 5, batch_first=True)
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 4)), backend=backend)
    x, context, flags = torch.zeros(0, 0, 3), torch.zeros(0, 2), torch.zeros(0, 0, dtype=torch.bool)
    hx = model.initial_state(context)
    given = [{"hx": hx, "lengths": torch.zeros(0).long()}, {"hx": hx, "mask": flags}]
    given += [
        {how: state, "reset": flags, "reset_context": context} for how, state in (("hx", hx), ("context", context))
    ]
    given += [{"context": context}, {"hx": hx}] if backend in ("native", "reference") else []  # others refuse it
    for arguments in given:
        output, state = model(x, **arguments)
        assert output.shape == (0, 0, 5)
        for tensor, start in zip(tensors_of(state), tensors_of(hx), strict=False):
            assert tensor.shape == start.shape


def test_an_empty_batch_runs():
    model = build("lstm", torch.float32)
    x, none = torch.zeros(0, 4, 3), torch.zeros(0, 4, dtype=torch.bool)
    output, (h, _) = model(x, context=torch.zeros(0, 2), reset=none, mask=none)
    assert output.shape == (0, 4, 5)
    assert h.shape == (1, 0, 5)
