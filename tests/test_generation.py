"""generate is the loop one would write by hand, from the states one would draw by hand."""

import pytest
import torch
from tests.networks import SPECS, is_cell, make, tensors_of
from torch import nn

from contextual_rnn import ContextState, ContextualRNN, FreeState, NormalState, generate, state_spec

B, SAMPLES, STEPS = 3, 4, 6
ONE_WAY = [name for name in SPECS if "both ways" not in name and "projected" not in name]


def build(case, kind=NormalState):
    network, spec = make(case)
    torch.manual_seed(2)
    model = ContextualRNN(network, kind(spec, nn.Linear(2, 6)))
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
    model, step = build(case)
    first, context, found = run(model, step)
    assert found.shape == (B, SAMPLES, STEPS, 3)
    network = model.network.eval()
    state = model.initial_state.sample(context, SAMPLES, generator=torch.Generator().manual_seed(0))
    carries_a = {} if is_cell(network) or "fast" not in case else {"return_fast_weights": True}
    value = first.repeat_interleave(SAMPLES, 0)
    with torch.no_grad():
        for t in range(STEPS):
            if is_cell(network):
                state = network(value, state)
                output = state if isinstance(state, torch.Tensor) else state[0]
            else:
                time = 1 if network.batch_first else 0
                output, state = network(value.unsqueeze(time), state, **carries_a)
                output = output.squeeze(time)
            value = step(output, value)
            assert torch.equal(found[:, :, t].flatten(0, 1), value)


@pytest.mark.parametrize("case", ["lstm", "gru cell", "fast weights, dense A"])
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


def test_no_gradients_and_modes_as_they_were():
    lstm = nn.LSTM(3, 5, num_layers=2, dropout=0.5)
    model = ContextualRNN(lstm, NormalState(lstm, nn.Linear(2, 6))).train()
    model.initial_state.eval()
    seen = []

    def step(output, value):
        seen.append(lstm.training)
        if len(seen) > 2:
            raise KeyError("mine")
        return value

    with pytest.raises(KeyError, match="mine"):
        run(model, step)
    assert seen == [False] * 3
    assert lstm.training
    assert not model.initial_state.training
    _, _, paths = run(model, lambda output, value: value + output[:, :3])
    assert not paths.requires_grad


def test_one_context_for_all():
    model, step = build("lstm")
    paths = generate(model, step, torch.zeros(B, 3), context=torch.randn(2), num_steps=2, num_samples=2)
    assert paths.shape == (B, 2, 2, 3)
    assert len({tuple(row.tolist()) for row in paths[:, :, 0].flatten(0, 1)}) == 2 * B, "each row its own draw"


MODEL, STEP = build("lstm")
BOTH_WAYS, _ = build("lstm deep both ways")
GOOD = {"num_steps": 2, "context": torch.zeros(B, 2)}
FIRST = torch.zeros(B, 3)
BAD_CALLS = [
    (lambda: generate(MODEL.network, STEP, FIRST, **GOOD), TypeError, "model: expected a ContextualRNN"),
    (lambda: generate(MODEL, STEP, FIRST, num_steps=2), ValueError, "context: expected .* got None"),
    (lambda: generate(MODEL, STEP, FIRST[:2], **GOOD), ValueError, "context: expected a batch of 2"),
    (lambda: generate(MODEL, STEP, torch.tensor(0.0), **GOOD), ValueError, "first: expected"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD | {"num_steps": 0}), ValueError, "num_steps: expected"),
    (lambda: generate(MODEL, STEP, FIRST, **GOOD, num_samples=2.5), TypeError, "num_samples: expected"),
    (lambda: generate(MODEL, lambda o, v: v[:1], FIRST, **GOOD), ValueError, "step: expected values of 3 rows"),
    (lambda: generate(BOTH_WAYS, STEP, FIRST, **GOOD), ValueError, "network: expected one direction"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD_CALLS, ids=[words for _, _, words in BAD_CALLS])
def test_bad_calls_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_every_network_can_be_stepped():
    for case in ONE_WAY:
        network, _ = make(case)
        spec = state_spec(network)
        lead = {leaf.name: torch.randn(B, *leaf.shape) for leaf in spec}
        output, state = spec.step(network, torch.randn(B, 3), spec.pack(lead))
        assert output.shape == (B, network.hidden_size)
        assert tensors_of(state)
