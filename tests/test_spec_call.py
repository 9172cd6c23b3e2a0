"""Networks with signatures of their own: `call`, a step alone, and arguments that are cut with the input."""

from itertools import pairwise

import pytest
import torch
from tests.own_networks import LeakyIntegrator
from tests.sequences_alone import assert_equal
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextualRNN,
    FreeState,
    Leaf,
    NormalState,
    StateSpec,
    detach,
    generate,
    state_spec,
    truncated,
)

F64, BATCH, STEPS = torch.float64, 4, 6


class Keywords(nn.Module):
    """The state as two keyword arguments; it is returned first, in a dict; the time between steps is an argument."""

    def __init__(self, time_first=False):
        super().__init__()
        self.time_first = time_first
        self.u, self.w = nn.Linear(3, 5, dtype=F64), nn.Linear(5, 5, dtype=F64)

    def forward(self, x, *, timespans=None, speed=None, h, v):
        speed, outputs = 1.0 if speed is None else speed[:, None], []
        steps = x if self.time_first else x.mT.movedim(2, 0).contiguous()
        for number, inputs in enumerate(steps):
            times = 1.0
            if timespans is not None:
                times = (timespans[number] if self.time_first else timespans[:, number])[:, None]
            v = v - times * speed * (h - self.u(inputs).tanh())
            h = (h + times * v + self.w(h)).tanh()
            outputs.append(h * v)
        output = torch.stack(outputs, 0 if self.time_first else 1)
        return {"h": h, "v": v.T}, output


def call_keywords(network, x, state, **arguments):
    returned, output = network(x, h=state[0], v=state[1].T, **arguments)
    return output, (returned["h"], returned["v"])


class OneStep(nn.Module):
    """Only a step: it has no forward method for sequences."""

    def __init__(self):
        super().__init__()
        self.cell = Keywords()

    def step(self, inputs, state, *, timespans=None, speed=None):
        times = None if timespans is None else timespans[:, None]
        output, state = call_keywords(self.cell, inputs[:, None], state, timespans=times, speed=speed)
        return output[:, 0], state


NAMES = {"per_step": ("timespans",), "per_row": ("speed",)}
TREE = (Leaf("h", (5,)), Leaf("v", (5,), batch_dim=1))


@state_spec.register
def _(network: Keywords) -> StateSpec:
    batch_dim = 1 if network.time_first else 0
    axes = {"input_batch_dim": batch_dim, "time_dim": 1 - batch_dim}
    return StateSpec(TREE, call=call_keywords, **axes, **NAMES).like(network.u.weight)


@state_spec.register
def _(network: OneStep) -> StateSpec:
    return StateSpec(TREE, step=OneStep.step, call="steps", time_dim=1, **NAMES).like(network.cell.u.weight)


KINDS = {"batch first": Keywords, "time first": lambda: Keywords(True), "one step": OneStep}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    network = KINDS[request.param]()
    net = nn.Sequential(nn.Linear(2, 6, dtype=F64), nn.Tanh())
    return ContextualRNN(network, NormalState(network, net, scale_from_context=True)).eval()


def arguments_of(model):
    torch.manual_seed(1)
    x, times = torch.randn(BATCH, STEPS, 3, dtype=F64), torch.rand(BATCH, STEPS, dtype=F64)
    given = {"context": torch.randn(BATCH, 2, dtype=F64), "speed": torch.rand(BATCH, dtype=F64)}
    leaves = [tensor.requires_grad_() for tensor in (x, times, *given.values())]
    time_first = getattr(model.network, "time_first", False)
    given["timespans"] = times.T if time_first else times
    return (x.transpose(0, 1) if time_first else x), given, [*leaves, *model.parameters()]


def row_of(model, x, given, row, first, stop):
    """One piece of one row, from its initial state, by the network alone."""
    time_first = getattr(model.network, "time_first", False)
    piece = x[first:stop, row : row + 1] if time_first else x[row : row + 1, first:stop]
    times = given["timespans"]
    times = times[first:stop, row : row + 1] if time_first else times[row : row + 1, first:stop]
    network = getattr(model.network, "cell", model.network)
    state = model.initial_state(given["context"][row : row + 1])
    output, (h, v) = call_keywords(network, piece, state, timespans=times, speed=given["speed"][row : row + 1])
    return (output[:, 0] if time_first else output[0]), (h, v)


def test_a_plain_call_refuses_arguments_of_another_size(model):
    x, given, _ = arguments_of(model)
    for name in ("timespans", "speed"):
        for lengths in (None, torch.full((BATCH,), STEPS)):
            with pytest.raises(ValueError, match=rf"^{name}: expected [46] in axis 0.*, as the input, got "):
                model(x, **given | {name: given[name][:1]}, lengths=lengths)
    if model.network.__class__ is Keywords:
        assert model(x, **given | {"speed": None})[0].isfinite().all()


def outcome(tensors, leaves):
    generator = torch.Generator().manual_seed(9)
    loss = sum((t * torch.randn(t.shape, generator=generator, dtype=F64)).sum() for t in tensors)
    return [*tensors, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def of_rows(model, output, state):
    output = output.transpose(0, 1) if getattr(model.network, "time_first", False) else output
    return [output, state[0], state[1].T]


def alone(model, x, given, lengths, cuts):
    """Every row alone, from the last of its cuts on from its initial state."""
    outputs, finals = [], []
    for row, length in enumerate(lengths):
        bounds = [0, *(cut for cut in cuts[row] if 0 < cut < length), length]
        pieces = [row_of(model, x, given, row, *pair) for pair in pairwise(bounds)]
        outputs.append(torch.cat([*(piece for piece, _ in pieces), x.new_zeros(STEPS - length, 5)]))
        finals.append(pieces[-1][1])
    return [torch.stack(outputs), torch.cat([h for h, _ in finals]), torch.cat([v for _, v in finals], 1).T]


@pytest.mark.parametrize("options", [{}, {"lengths": torch.tensor([6, 3, 5, 1])}])
def test_arguments_of_rows_and_steps_are_repeated_with_samples(model, options):
    """In evaluation, where all samples of a row but their draws are alike."""
    x, given, _ = arguments_of(model)
    model.initial_state = ConstantState(model.network)
    given.pop("context")
    of_two = model(x, num_samples=2, **given, **options)
    once = of_rows(model, *model(x, **given, **options))
    for ours, theirs in zip(of_rows(model, *of_two), once, strict=True):
        assert_equal(ours, theirs.repeat_interleave(2, 0))
    with pytest.raises(ValueError, match=r"speed: expected (a batch|4) in axis 0"):
        model(x, num_samples=2, **{**given, "speed": torch.ones((), dtype=F64)}, **options)


LENGTHS, CUTS = [6, 3, 5, 1], [[2], [], [1, 4], []]


def flags(model):
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    for row, cuts in enumerate(CUTS):
        reset[row, cuts] = True
    return reset.T if getattr(model.network, "time_first", False) else reset


def test_a_call_with_all_arguments(model):
    x, given, leaves = arguments_of(model)
    result = outcome(of_rows(model, *model(x, **given)), leaves)
    assert_equal(result, outcome(alone(model, x, given, [STEPS] * BATCH, [[]] * BATCH), leaves))


def test_arguments_are_cut_with_the_input(model):
    x, given, leaves = arguments_of(model)
    output, state = model(x, lengths=torch.tensor(LENGTHS), reset=flags(model), **given)
    wanted = outcome(alone(model, x, given, LENGTHS, CUTS), leaves)
    assert_equal(outcome(of_rows(model, output, state), leaves), wanted)


def test_truncated_pieces_and_burn_in_have_their_own_arguments(model):
    x, given, _ = arguments_of(model)
    options = {"context": given["context"], "lengths": torch.tensor(LENGTHS), "reset": flags(model)}
    arguments = {name: given[name] for name in ("timespans", "speed")}
    wanted, final = model(x, **options, **arguments)
    pieces = list(truncated(model, x, 2, arguments=arguments, **options))
    time = 0 if getattr(model.network, "time_first", False) else 1
    torch.testing.assert_close(torch.cat([output for _, output, _ in pieces], time), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(pieces[-1][2], final, rtol=0, atol=1e-12)
    output, state = model(x, burn_in=2, **options, **arguments)
    torch.testing.assert_close(output, wanted.narrow(time, 2, 4), rtol=0, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=0, atol=1e-12)


def test_a_step_is_made_where_there_is_none(model):
    x, _, _ = arguments_of(model)
    model.initial_state = FreeState(model.network, value=0.3)
    first = x[0] if getattr(model.network, "time_first", False) else x[:, 0]
    values = generate(model, lambda output, value: output[:, :3], first, num_steps=3)[:, 0]
    value, state = first, model.initial_state(None, BATCH)
    for step in range(3):
        output, state = call_keywords(Batched(model), value[:, None], state)
        value = output[:, 0, :3]
        torch.testing.assert_close(values[:, step], value)


@pytest.mark.parametrize("how", ["sample", "stop", "beams"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 1, 2, 3])])
def test_generation_has_arguments_of_its_own_at_every_step(model, lengths, how):
    """What `embed` returns beside the input: outputs are those of one run over the prompt and what was generated."""
    torch.manual_seed(2)
    table, prompt, times = torch.randn(7, 3, dtype=F64), torch.randint(7, (BATCH, 3)), torch.rand(BATCH, 8, dtype=F64)
    speed, readout = torch.rand(BATCH, dtype=F64), nn.Linear(5, 7, dtype=F64)
    count = torch.full((BATCH,), 3) if lengths is None else lengths

    def embed(value, at):
        place = at.number + (2 if at.number < 0 else count[at.conditions] - 1)
        return table[value], {"timespans": times[at.conditions, place], "speed": speed[at.conditions]}

    options = {
        "sample": {"num_samples": 2},
        "stop": {"num_samples": 2, "stop": 3},
        "beams": {"num_samples": 2, "beams": 3},
    }[how]
    if how == "beams":
        step = lambda output, value: readout(output)  # noqa: E731
    else:
        step = lambda output, value, at: (readout(output) + at.rand(7, dtype=F64)).argmax(-1)  # noqa: E731
    hx = model.initial_state(torch.randn(BATCH, 2, dtype=F64))
    generated = generate(
        model, step, prompt=prompt, lengths=lengths, num_steps=5, hx=hx, embed=embed, return_outputs=True, **options
    )
    for row in range(BATCH):
        state = tuple(leaf[row : row + 1] if i == 0 else leaf[:, row : row + 1] for i, leaf in enumerate(hx))
        for values, outputs, length in zip(
            generated.values[row], generated.outputs[row], generated.lengths[row], strict=True
        ):
            tokens = torch.cat([prompt[row, : count[row]], values[: length - 1]])[None]
            given = {"timespans": times[row : row + 1, : tokens.shape[1]], "speed": speed[row : row + 1]}
            wanted, _ = call_keywords(Batched(model), table[tokens], state, **given)
            torch.testing.assert_close(outputs[:length], wanted[0, count[row] - 1 :], rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 1, 2, 3])])
def test_arguments_of_rows_may_change_within_a_prompt(model, lengths):
    """They were those of its first step, without a word."""
    torch.manual_seed(2)
    prompt, speed = torch.randn(BATCH, 3, 3, dtype=F64), torch.rand(BATCH, 3, dtype=F64)
    hx = model.initial_state(torch.randn(BATCH, 2, dtype=F64))

    def embed(value, at):
        return value, {"speed": speed[at.conditions, at.number + 2]}

    generated = generate(
        model, lambda output, value: value, prompt=prompt, lengths=lengths, num_steps=1, hx=hx, embed=embed,
        return_outputs=True,
    )  # fmt: skip
    for row in range(BATCH):
        state = tuple(leaf[row : row + 1] if i == 0 else leaf[:, row : row + 1] for i, leaf in enumerate(hx))
        last = 2 if lengths is None else int(lengths[row]) - 1
        for place, number in [*((step, step) for step in range(last)), (last, 2)]:
            given = {"speed": speed[row, number : number + 1]}
            output, state = call_keywords(Batched(model), prompt[row : row + 1, place : place + 1], state, **given)
        torch.testing.assert_close(generated.outputs[row, 0], output[0], rtol=0, atol=1e-12)


class Named(nn.Module):
    """A network of sequences whose arguments have the names that our own functions gave to theirs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=F64))

    def forward(self, x, h, *, state, inputs, network):
        outputs = []
        for step in x.unbind(1):
            h = torch.tanh(h + self.weight * step * state * inputs * network)
            outputs.append(h)
        return torch.stack(outputs, 1), h


@state_spec.register
def _(network: Named) -> StateSpec:
    return StateSpec(Leaf("h", (3,)), time_dim=1, per_row=("state", "inputs", "network"))


@pytest.mark.parametrize("options", [{}, {"lengths": torch.tensor([3, 2])}, {"reset": torch.eye(2, 3) > 0}], ids=str)
def test_arguments_of_any_name_reach_the_network(options):
    model = ContextualRNN(Named(), FreeState(state_spec(Named()).like(torch.zeros(1, dtype=F64)), value=0.3))
    given = dict.fromkeys(("state", "inputs", "network"), torch.full((2, 1), 2.0, dtype=F64))
    x = torch.randn(2, 3, 3, dtype=F64)
    ones = dict.fromkeys(given, torch.ones(2, 1, dtype=F64))
    output, wanted = model(x, arguments=given, **options)[0], model(8 * x, arguments=ones, **options)[0]
    torch.testing.assert_close(output, wanted)
    stream = model.stream(batch_size=2)
    torch.testing.assert_close(stream(x[:, 0], arguments=given), model(x[:, :1], arguments=given)[0][:, 0])


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ((1, 2), TypeError, "embed: expected a tensor, or it and a dict of arguments, got a tuple of int, int"),
        (
            (1, {}, {}),
            TypeError,
            "embed: expected a tensor, or it and a dict of arguments, got a tuple of int, dict, dict",
        ),
        ((1, {"speed": 2.0}), TypeError, "speed: expected a tensor, got float"),
        ((1, {"speed": torch.ones(3)}), ValueError, r"speed: expected 4 rows, got \(3,\)"),
        ((1, {"timespans": torch.ones(())}), ValueError, r"timespans: expected 4 rows, got \(\)"),
    ],
)
def test_what_embed_returns_beside_the_input_is_checked(returned, error, message):
    with pytest.raises(error, match=f"^{message}"):
        generate(MODEL, lambda output, value: value, torch.ones(BATCH, 3), num_steps=2, embed=lambda value: returned)


def test_a_prompt_has_the_same_arguments_at_every_step():
    def embed(value, at):
        return value, {"speed": value[:, 0]} if at.number == -1 else {}

    prompt = torch.ones(BATCH, 3, 3, dtype=F64)
    with pytest.raises(ValueError, match=r"^embed: expected the same arguments at every step, \[\], got \['speed'\]"):
        generate(MODEL, lambda output, value: value, prompt=prompt, num_steps=2, embed=embed)


class Batched:
    """A network of `Keywords`, batch first."""

    def __init__(self, model):
        self.network = getattr(model.network, "cell", model.network)

    def __call__(self, x, **options):
        if not self.network.time_first:
            return self.network(x, **options)
        if "timespans" in options:
            options["timespans"] = options["timespans"].T
        state, output = self.network(x.transpose(0, 1), **options)
        return state, output.transpose(0, 1)


def test_the_loop_over_steps_goes_on_and_detaches():
    network = OneStep()
    model = ContextualRNN(network, FreeState(network))
    x = torch.randn(BATCH, STEPS, 3, dtype=F64)
    output, state = model(x)
    first, middle = model(x[:, :2])
    last, final = model(x[:, 2:], detach(middle))
    torch.testing.assert_close(torch.cat([first, last], 1), output)
    torch.testing.assert_close(final, state)


MODEL = ContextualRNN(Keywords(), FreeState(Keywords()))
X = torch.zeros(2, 3, 3, dtype=F64)
LEAF = Leaf("h", (5,))
REFUSED = [
    (lambda: StateSpec(LEAF, call="loop"), TypeError, 'call: expected a function, "steps" or None, got \'loop\''),
    (lambda: StateSpec(LEAF, call="steps", time_dim=1), ValueError, 'step: expected one beside call="steps", got None'),
    (lambda: StateSpec(LEAF, call="steps", step=len, time_dim=None), ValueError, "time_dim: expected one beside call"),
    (lambda: StateSpec(LEAF, per_step="timespans"), TypeError, "per_step: expected a tuple of names, got 'timespans'"),
    (lambda: StateSpec(LEAF, per_row=(1,)), TypeError, r"per_row: expected a tuple of names, got \(1,\)"),
    (lambda: StateSpec(LEAF, per_row=("a",), per_step=("a",)), ValueError, "per_step, per_row: expected each"),
    (lambda: MODEL(X, lengths=torch.tensor([1, 2]), timespans=torch.ones(2, 2)), ValueError,
     r"timespans: expected 2 in axis 0 and 3 in axis 1, as the input, got \(2, 2\)"),
    (lambda: MODEL(X, lengths=torch.tensor([1, 2]), speed=torch.ones(3)), ValueError,
     r"speed: expected 2 in axis 0, as the input, got \(3,\)"),
    (lambda: MODEL(X, lengths=torch.tensor([1, 2]), speed=0.5), TypeError, "speed: expected a tensor, got float"),
    (lambda: MODEL(X, lengths=torch.tensor([1, 2]), other=X), ValueError, "other: expected no argument beside lengths"),
    (lambda: ContextualRNN(OneStep(), FreeState(OneStep()))(X[:, :0]), ValueError, "input: expected a batch in"),
    (lambda: list(truncated(MODEL, X, 2, arguments=[X])), TypeError, "arguments: expected a dict"),
    (lambda: ContextualRNN(LeakyIntegrator(), FreeState(LeakyIntegrator()))(X.float(), reset=torch.ones(2, 3) > 0, v=X),
     ValueError, "v: expected no argument beside reset"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED)
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
