"""generate is the loop one would write by hand, from the states one would draw by hand."""

from copy import deepcopy

import pytest
import torch
from tests.networks import SPECS, Springs, is_cell, make, tensors_of
from torch import nn

from contextual_rnn import ContextState, ContextualRNN, FreeState, NormalState, generate, state_spec
from contextual_rnn.spec import take_step

B, SAMPLES, STEPS = 3, 4, 6
ONE_WAY = [name for name in SPECS if "both ways" not in name and "projected" not in name]


def build(case, kind=NormalState, backend="auto"):
    network, spec = make(case)
    torch.manual_seed(2)
    model = ContextualRNN(network, kind(spec, nn.Linear(2, 6)), backend)
    width = network.hidden_size
    readout = nn.Linear(width, 3)
    return model, lambda output, value: value + 0.3 * torch.tanh(readout(output))


def run(model, step, seed=0, **options):
    torch.manual_seed(5)
    first, context = torch.randn(B, 3), torch.randn(B, 2)
    generator = torch.Generator().manual_seed(seed)
    options = {"num_steps": STEPS, "num_samples": SAMPLES, "generator": generator} | options
    return first, context, generate(model, step, first, context=context, **options)


@pytest.mark.parametrize("case", ONE_WAY)
def test_it_is_the_loop_one_would_write(case):
    model, step = build(case, backend="torch")  # to the bit; test_network_steps.py has what streams change
    first, context, found = run(model, step)
    assert found.shape == (B, SAMPLES, STEPS, 3)
    network = model.network.eval()
    state = model.initial_state.sample(context, SAMPLES, generator=torch.Generator().manual_seed(0))
    carries_a = {} if is_cell(network) or "fast" not in case else {"return_fast_weights": True}
    value = first.repeat_interleave(SAMPLES, 0)
    with torch.no_grad():
        for t in range(STEPS):
            if isinstance(network, Springs):
                output, state = network(value, state)
            elif is_cell(network):
                state = network(value, state)
                output = state if isinstance(state, torch.Tensor) else state[0]
            else:
                time = 1 if network.batch_first else 0
                output, state = network(value.unsqueeze(time), state, **carries_a)
                output = output.squeeze(time)
            value = step(output, value)
            assert torch.equal(found[:, :, t].flatten(0, 1), value)


@pytest.mark.parametrize("case", [case for case in ONE_WAY if "cell" not in case])
@pytest.mark.parametrize("sample", [True, False])
def test_the_paths_fed_back_whole_give_themselves(case, sample):
    model, step = build(case)
    first, context, found = run(model, step, sample=sample)
    values = torch.cat([first[:, None, None].expand(B, SAMPLES, 1, 3), found], 2).flatten(0, 1)
    if sample:
        hx = model.initial_state.sample(context, SAMPLES, generator=torch.Generator().manual_seed(0))
    else:
        hx = model.initial_state.eval()(context.repeat_interleave(SAMPLES, 0))
    batch_first = model.network.batch_first
    output, _ = model.network(values[:, :-1] if batch_first else values[:, :-1].transpose(0, 1), hx)
    output = output if batch_first else output.transpose(0, 1)
    # Six steps of float32 sums of five terms, in another order; each step may double an error.
    torch.testing.assert_close(step(output, values[:, :-1]), values[:, 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["lstm", "gru cell", "fast weights, low-rank A", "own cell"])
def test_each_condition_is_as_if_alone(case):
    model, step = build(case)
    first, context, found = run(model, step, sample=False)
    for b in range(B):
        for one in (context[b : b + 1], context[b]):
            alone = generate(model, step, first[b : b + 1], context=one, num_steps=STEPS, sample=False)
            torch.testing.assert_close(alone, found[b : b + 1, :1], rtol=1e-5, atol=1e-5)


def test_no_conditions_give_no_paths():
    model, step = build("gru cell")
    paths = generate(model, step, torch.zeros(0, 3), context=torch.zeros(0, 2), num_steps=2, num_samples=2)
    assert paths.shape == (0, 2, 2, 3)


@pytest.mark.parametrize("case", ["lstm", "gru cell", "fast weights, dense A", "own cell"])
def test_samples_differ_repeat_and_coincide_at_the_mean(case):
    model, step = build(case)
    _, _, first = run(model, step)
    for sample in range(1, SAMPLES):
        assert not torch.equal(first[:, 0], first[:, sample])
    assert torch.equal(run(model, step)[2], first)
    assert not torch.equal(run(model, step, seed=1)[2], first)
    _, _, mean = run(model, step, sample=False)
    assert torch.equal(mean, mean[:, :1].expand_as(mean))
    assert torch.equal(run(model, step, seed=1, sample=False)[2], mean)
    assert not torch.equal(mean[0, 0], mean[1, 0]), "conditions differ"


@pytest.mark.parametrize("kind", [lambda spec, _: FreeState(spec, value=0.5), ContextState])
def test_states_without_noise_give_equal_samples(kind):
    _, _, paths = run(*build("lstm", kind))
    assert torch.equal(paths, paths[:, :1].expand_as(paths))


def test_a_value_is_repeated_as_it_was_where_later_ones_have_another_dtype():
    gru = nn.GRU(1, 5)
    model, first = ContextualRNN(gru, FreeState(gru)), torch.zeros(2, 1)

    def step(output, value, at):
        return torch.full_like(value, 2.75) if at.number == 0 else torch.ones_like(value, dtype=torch.int64)

    options = {"num_steps": 3, "embed": lambda value: value.float()}
    values = generate(model, step, first, stop=lambda value, at: at.rows == 0, **options)
    assert values[:, 0, :, 0].tolist() == [[2.75, 2.75, 2.75], [2.75, 1.0, 1.0]]
    assert torch.equal(values[1], generate(model, step, first, **options)[1])


def test_tokens_through_an_embedding():
    gru = nn.GRU(4, 5, batch_first=True)
    model = ContextualRNN(gru, NormalState(gru, nn.Embedding(3, 6)))
    embedding, readout = nn.Embedding(7, 4), nn.Linear(5, 7)
    generator = torch.Generator().manual_seed(0)

    def step(output, token):
        assert token.dtype == torch.int64
        return torch.multinomial(readout(output).softmax(1), 1, generator=generator)[:, 0]

    tokens = generate(
        model, step, torch.zeros(2, dtype=torch.int64), context=torch.tensor([0, 2]), num_steps=50, num_samples=3,
        embed=embedding, generator=generator,
    )  # fmt: skip
    assert tokens.shape == (2, 3, 50)
    assert tokens.unique().numel() > 1
    generator = torch.Generator().manual_seed(0)
    state = model.initial_state.sample(torch.tensor([0, 2]), 3, generator=generator)
    token = torch.zeros(6, dtype=torch.int64)
    for t in range(50):
        output, state = gru(embedding(token)[:, None], state)
        token = step(output[:, 0], token)
        assert torch.equal(tokens[:, :, t].flatten(), token)


def test_no_gradients_and_modes_as_they_were():
    lstm = nn.LSTM(3, 5, num_layers=2, dropout=0.5)
    model = ContextualRNN(lstm, NormalState(lstm, nn.Linear(2, 6))).train()
    model.initial_state.eval()
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {True, False}
    seen = []

    def step(output, value):
        seen.append(lstm.training)
        if len(seen) > 2:
            raise KeyError("mine")
        return value

    with pytest.raises(KeyError, match="mine"):
        run(model, step)
    assert seen == [False] * 3
    assert {name: module.training for name, module in model.named_modules()} == before
    _, _, paths = run(model, lambda output, value: value + output[:, :3])
    assert not paths.requires_grad
    assert {name: module.training for name, module in model.named_modules()} == before


def test_one_context_for_all():
    model, step = build("lstm")
    paths = generate(model, step, torch.zeros(B, 3), context=torch.randn(2), num_steps=2, num_samples=2)
    assert paths.shape == (B, 2, 2, 3)
    assert len({tuple(row.tolist()) for row in paths[:, :, 0].flatten(0, 1)}) == 2 * B, "each row its own draw"


MODEL, STEP = build("lstm")
CELL = ContextualRNN(cell := nn.GRUCell(3, 5), FreeState(cell))
BOTH_WAYS, _ = build("lstm deep both ways")
UNLIKE = ContextualRNN(lstm := nn.LSTM(3, 5, dtype=torch.float64), FreeState(lstm).float())
GOOD = {"num_steps": 2, "context": torch.zeros(B, 2)}
FIRST = torch.zeros(B, 3)
BAD_CALLS = [
    (lambda: generate(MODEL.network, STEP, FIRST, **GOOD), TypeError, "model: expected a ContextualRNN"),
    (lambda: generate(MODEL, STEP, FIRST, num_steps=2), ValueError, "context: expected .* got None"),
    (lambda: generate(MODEL, STEP, FIRST[:2], **GOOD), ValueError, "context: expected a batch of 2"),
    (lambda: generate(MODEL, STEP, torch.tensor(0.0), **GOOD), ValueError, "first: expected"),
    (lambda: generate(MODEL, STEP, 0.0, **GOOD), TypeError, "first: expected a tensor .*, got float"),
    (lambda: generate(MODEL, "step", FIRST, **GOOD), TypeError, "step: expected a function, got str"),
    (lambda: generate(MODEL, None, FIRST, **GOOD), TypeError, "step: expected a function, got NoneType"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD, embed=3), TypeError, "embed: expected a function or None, got int"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD, generator=3), TypeError, "generator: expected a torch.Generator"),
    (lambda: generate(MODEL, lambda o, v: None, FIRST, **GOOD), TypeError, "step: expected a function that returns a"),
    (lambda: generate(MODEL, lambda o, v: v.sum(), FIRST, **GOOD), ValueError, "step: expected values of 3 rows"),
    (lambda: generate(UNLIKE, STEP, FIRST, **GOOD), ValueError, "initial_state: expected 'h' of torch.float64 on cpu"),
    (lambda: generate(UNLIKE, STEP, FIRST, **GOOD, sample=False), ValueError, "initial_state: expected 'h' of torch"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD | {"num_steps": 0}), ValueError, "num_steps: expected"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD | {"num_steps": True}), TypeError, "num_steps: expected"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD, num_samples=0), ValueError, "num_samples: expected"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD | {"context": torch.zeros(B, 3)}), ValueError, "context: the context"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD, num_samples=2.5), TypeError, "num_samples: expected"),
    (lambda: generate(MODEL, lambda o, v: v[:1], FIRST, **GOOD), ValueError, "step: expected values of 3 rows"),
    (lambda: generate(BOTH_WAYS, STEP, FIRST, **GOOD), ValueError, "network: expected one direction"),
    *(
        (lambda flag=flag: generate(MODEL, STEP, FIRST, **GOOD, sample=flag), TypeError, "sample: expected True or Fal")
        for flag in ("no", 0, None)
    ),
    (lambda: generate(MODEL, STEP, FIRST.to_sparse(), **GOOD), ValueError, "first: expected a strided tensor"),
    (lambda: generate(MODEL, STEP, FIRST.to("meta"), **GOOD), ValueError, "first: expected a tensor whose values"),
    (
        lambda: generate(deepcopy(CELL).to("meta"), lambda o, v: v, torch.zeros(2, 3), num_steps=1),
        ValueError,
        "model: expected a network whose parameters have values, got one on meta",
    ),
    (
        lambda: generate(CELL, lambda o, v: v, torch.zeros(3), num_steps=1),
        ValueError,
        r"first: expected 2 axes for one step of the network, got torch.float32 of shape \(3,\)",
    ),
    (
        lambda: generate(CELL, lambda o, v: v, FIRST.double(), num_steps=1),
        ValueError,
        "first: expected torch.float32 on cpu, as the network, got torch.float64 on cpu",
    ),
    (
        lambda: generate(CELL, lambda o, v: v, prompt=torch.zeros(2, 4, 3).double(), num_steps=1),
        ValueError,
        "prompt: expected torch.float32 on cpu, as the network, got torch.float64 on cpu",
    ),
    (
        lambda: generate(CELL, lambda o, v: v.double(), torch.zeros(2, 3), num_steps=2),
        ValueError,
        "step: expected torch.float32 on cpu, as the network, got torch.float64",
    ),
    (
        lambda: generate(CELL, STEP, FIRST, num_steps=1, embed=lambda v: (v, v)),
        TypeError,
        "embed: expected a tensor, or it and a dict of arguments, got a tuple of Tensor, Tensor",
    ),
    (
        lambda: generate(CELL, lambda o, v: v, torch.zeros(2, 3), num_steps=2, embed=torch.Tensor.double),
        ValueError,
        "embed: expected torch.float32 on cpu, as the network, got torch.float64",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD_CALLS, ids=[words for _, _, words in BAD_CALLS])
def test_bad_calls_are_refused(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()


def test_every_network_can_be_stepped():
    for case in ONE_WAY:
        network, _ = make(case)
        spec = state_spec(network)
        lead = {leaf.name: torch.randn(B, *leaf.shape) for leaf in spec}
        output, state = take_step(network, spec, torch.randn(B, 3), spec.pack(lead))
        assert output.shape == (B, network.hidden_size)
        assert tensors_of(state)
