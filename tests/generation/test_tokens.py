"""Generated tokens, row by row: the loop one would write for a single row, fed with the recorded draws."""

import math

import pytest
import torch
from tests.networks import make, tensors_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contextual_rnn import (
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    NormalState,
    TokenSampler,
    fast_weights_spec,
    generate,
    load_carried_state,
    save_carried_state,
)
from contextual_rnn.generation import GenerationStep, sampling
from contextual_rnn.generation.sampling import _inverted
from contextual_rnn.spec import take_step

TOKENS, STOP, B, SAMPLES, STEPS = 6, 5, 4, 3, 8
CASES = ["gru", "lstm", "lstm cell", "fast weights, low-rank A", "own cell", "gru, one state for all layers"]
LENGTHS = torch.tensor([3, 1, 4, 2])


class Language(nn.Module):
    """A model of tokens over any network, whose rows are counted."""

    def __init__(self, case, kind=lambda spec: NormalState(spec, nn.Linear(2, 6), 0.5)):
        super().__init__()
        network, spec = make(case)
        torch.manual_seed(3)
        self.rnn = ContextualRNN(network, kind(spec)).eval()
        self.embedding, self.readout = nn.Embedding(TOKENS, 3), nn.Linear(network.hidden_size, TOKENS)
        nn.init.normal_(self.readout.weight, std=1.5)
        nn.init.constant_(self.readout.bias, 0.0)
        nn.init.constant_(self.readout.bias[STOP:], 0.5)
        self.prompt, self.context = torch.randint(TOKENS - 1, (B, 4)), torch.randn(B, 2)

    def score(self, output, token):
        return self.readout(output)

    def generate(self, seed=0, **options):
        defaults = {"prompt": self.prompt, "context": self.context, "num_steps": STEPS, "embed": self.embedding}
        generator = torch.Generator().manual_seed(seed)
        return generate(self.rnn, self.score, generator=generator, **defaults | options)

    @torch.no_grad()
    def scores_after(self, state, prompt):
        """States and scores along one row's tokens: after each, (state, output, scores)."""
        for token in prompt:
            output, state = take_step(self.rnn.network, self.rnn._spec, self.embedding(token[None]), state)
            yield state, output[0], self.readout(output)[0]


def row_of(model, state, row):
    leaves = model.rnn.initial_state.spec.unpack(state)
    return model.rnn.initial_state.spec.pack({name: leaf[row : row + 1] for name, leaf in leaves.items()})


@pytest.mark.parametrize("case", CASES)
def test_every_row_is_the_loop_of_a_single_row_with_the_recorded_draws(case):
    model, sampler = Language(case), TokenSampler(0.9, top_k=5, top_p=0.95)
    outcome = model.generate(
        lengths=LENGTHS, num_samples=SAMPLES, stop=STOP, sampler=sampler, return_outputs=True, seed=1
    )
    generator = torch.Generator().manual_seed(1)
    state = model.rnn.initial_state.sample(model.context, SAMPLES, generator=generator)
    numbers = torch.stack([torch.rand(B * SAMPLES, generator=generator, dtype=torch.float64) for _ in range(STEPS)])
    assert outcome.lengths.unique().numel() > 1
    finals = tensors_of(outcome.state)
    for b in range(B):
        for s in range(SAMPLES):
            row, length = b * SAMPLES + s, int(outcome.lengths[b, s])
            one, tokens = row_of(model, state, row), model.prompt[b, : LENGTHS[b]]
            *_, (one, output, scores) = model.scores_after(one, tokens)
            for t in range(length):
                probabilities = sampler._probabilities(scores.double()[None])[0].tolist()
                total, token = 0.0, -1
                while total <= numbers[t, row] * sum(probabilities):  # what top_p leaves does not sum to 1
                    token += 1
                    total += probabilities[token]
                assert outcome.values[b, s, t] == token
                # One row and many are multiplied by other kernels.
                torch.testing.assert_close(
                    outcome.log_probs[b, s, t], scores.log_softmax(0)[token], rtol=1e-4, atol=1e-5
                )
                torch.testing.assert_close(outcome.outputs[b, s, t], output, rtol=1e-4, atol=1e-5)
                if t + 1 < length:
                    ((one, output, scores),) = model.scores_after(one, torch.tensor([token]))
            assert (token == STOP) == (length < STEPS or bool(outcome.values[b, s, -1] == STOP))
            assert (outcome.values[b, s, length:] == STOP).all()
            assert not outcome.log_probs[b, s, length:].any()
            assert not outcome.outputs[b, s, length:].any()
            for final, alone in zip(finals, tensors_of(one), strict=False):
                axis = next(iter(model.rnn._spec)).batch_dim if case != "own cell" else alone.shape.index(1)
                torch.testing.assert_close(final.select(axis, row), alone.select(axis, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["lstm cell", "gru"])
def test_rows_that_have_stopped_are_not_run(case):
    model, rows = Language(case), []
    model.embedding.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    outcome = model.generate(num_samples=SAMPLES, stop=STOP, sampler=TokenSampler(), prompt=model.prompt[:, :1])
    longest = int(outcome.lengths.max())
    assert rows == [int((outcome.lengths > t).sum()) for t in range(longest)]
    assert sum(rows) < B * SAMPLES * STEPS


@pytest.mark.parametrize("sampler", [TokenSampler(1.3), None], ids=["ours", "a user's"])
def test_the_stop_of_a_row_changes_no_other(sampler):
    model = Language("gru")

    def draw(scores, at):
        return (scores - (-at.rand(TOKENS).log()).log()).argmax(-1)

    options = {"sampler": sampler or draw, "num_samples": SAMPLES}
    free, stopping = model.generate(**options), model.generate(**options, stop=STOP)
    real = torch.arange(STEPS) < stopping.lengths[..., None]
    assert not real.all()
    assert torch.equal(stopping.values[real], free.values[real])
    assert not torch.equal(stopping.values, free.values)
    torch.testing.assert_close(stopping.log_probs[real], free.log_probs[real], rtol=1e-5, atol=1e-6)
    assert torch.equal(model.generate(**options).values, free.values), "equal generators give equal results"
    assert not torch.equal(model.generate(**options, seed=1).values, free.values)
    # The first stop of each row, and nothing later.
    first = (free.values == STOP).int().cumsum(-1).eq(0).sum(-1) + 1
    assert torch.equal(stopping.lengths, first.clamp(max=STEPS))


@pytest.mark.parametrize("case", ["lstm", "fast weights, low-rank A", "own cell"])
def test_it_goes_on_from_its_final_state_and_from_a_file(case, tmp_path):
    model, greedy = Language(case), TokenSampler(0)
    whole = model.generate(sampler=greedy, num_samples=2)
    half = model.generate(sampler=greedy, num_samples=2, num_steps=3)
    path = tmp_path / "state.safetensors"
    spec = model.rnn.network
    if "fast weights" in case:
        spec = fast_weights_spec(spec, "dense")
    save_carried_state(half.state, path, spec)
    for hx in (half.state, load_carried_state(path, spec)):
        rest = model.generate(
            sampler=greedy, prompt=half.values[..., -1:].flatten(0, 1), hx=hx, num_steps=STEPS - 3, context=None
        )
        assert torch.equal(rest.values.view(B, 2, -1), whole.values[..., 3:])
    two = model.generate(
        sampler=TokenSampler(), hx=half.state, prompt=half.values[..., -1:].flatten(0, 1), num_samples=2
    )
    assert two.values.shape == (2 * B, 2, STEPS)
    assert not torch.equal(two.values[:, 0], two.values[:, 1])


def test_functions_get_the_step_and_the_rows_of_their_contexts():
    model, calls = Language("gru cell"), []

    def embed(token, at):
        calls.append(("embed", at.number, at.conditions.tolist()))
        return model.embedding(token)

    def step(output, token, at: GenerationStep):
        assert at.num_rows == 2 * B
        assert torch.equal(at.conditions, at.rows // 2)
        calls.append(("step", at.number, at.conditions.tolist()))
        return torch.full_like(token, at.number), -torch.ones(len(token))

    def stop(token, at):
        return at.rows == at.number

    outcome = generate(
        model.rnn, step, prompt=model.prompt[:, :2], context=model.context, num_samples=2, num_steps=3, embed=embed,
        stop=stop,
    )  # fmt: skip
    rows = [0, 0, 1, 1, 2, 2, 3, 3]
    expected = [("embed", -1, rows)]
    expected += [(name, number, rows[number:]) for number in range(3) for name in ("embed", "step")]
    assert calls == expected
    assert outcome.values[0].tolist() == [[0, 0, 0], [0, 1, 1]]
    assert outcome.values[1:].tolist() == [[[0, 1, 2]] * 2] * 3
    assert outcome.lengths.flatten().tolist() == [1, 2, 3, 3, 3, 3, 3, 3]
    assert outcome.log_probs.sum(-1).flatten().tolist() == [-1, -2, -3, -3, -3, -3, -3, -3]


def test_a_third_argument_with_a_default_is_the_users_own():
    model = Language("gru cell")

    def step(output, value, scale=2.0):
        return scale * value

    paths = generate(model.rnn, step, torch.ones(B, 3), context=model.context, num_steps=2)
    assert torch.equal(paths[:, 0, -1], torch.full((B, 3), 4.0))


def test_a_network_runs_by_itself():
    gru = nn.GRU(1, 5, num_layers=2, batch_first=True)
    model = ContextualRNN(gru, NormalState(gru, nn.Linear(2, 6), 0.5)).eval()
    context = torch.randn(B, 2)
    outcome = generate(
        model, lambda output, value: output, context=context, num_steps=4, num_samples=2, return_outputs=True,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    state = model.initial_state.sample(context, 2, generator=torch.Generator().manual_seed(0))
    output, last = gru(torch.zeros(2 * B, 4, 1), state)
    torch.testing.assert_close(outcome.values.flatten(0, 1), output)
    torch.testing.assert_close(outcome.state, last)
    assert torch.equal(outcome.outputs, outcome.values)
    assert outcome.log_probs is None
    drive = torch.randn(B, 4, 1)
    driven = generate(
        model, lambda output, value: output, context=context, num_steps=4, sample=False,
        embed=lambda value, at: drive[at.conditions, at.number],
    )  # fmt: skip
    torch.testing.assert_close(driven.values[:, 0], model(drive, context=context)[0])
    free = ContextualRNN(gru, FreeState(gru, value=0.5))
    for sample in (True, False):
        assert generate(free, lambda output, value: output, num_steps=2, sample=sample).values.shape == (1, 1, 2, 5)


@pytest.mark.parametrize("beams", [1, 2, 40])
def test_beams_are_the_likeliest_sequences(beams):
    """Wide enough, they are all: every sequence of three tokens, scored by hand."""
    model = Language("lstm", lambda spec: ContextState(spec, nn.Linear(2, 6)))
    model.readout = nn.Linear(5, 3)
    nn.init.normal_(model.readout.weight, std=3.0)
    best = model.generate(beams=beams, num_samples=1, num_steps=3, lengths=LENGTHS, return_outputs=True)
    for b in range(B):
        start = model.rnn.initial_state(model.context[b : b + 1])
        prompt = model.prompt[b, : LENGTHS[b]]
        everything = {}
        for tokens in torch.cartesian_prod(*[torch.arange(3)] * 3):
            scores = [scores for _, _, scores in model.scores_after(start, torch.cat([prompt, tokens]))][-4:-1]
            everything[tuple(tokens.tolist())] = sum(
                float(s.log_softmax(0)[t]) for s, t in zip(scores, tokens, strict=True)
            )
        chosen = tuple(best.values[b, 0].tolist())
        assert math.isclose(float(best.log_probs[b, 0].sum()), everything[chosen], rel_tol=1e-4)
        if beams == 40:
            assert math.isclose(everything[chosen], max(everything.values()), rel_tol=1e-4)
        if beams == 1:
            greedy = model.generate(sampler=TokenSampler(0), num_steps=3, lengths=LENGTHS, return_outputs=True)
            assert chosen == tuple(greedy.values[b, 0].tolist())
            torch.testing.assert_close(best.outputs, greedy.outputs)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_that_stop_keep_their_place_by_length(penalty):
    model = Language("gru", lambda spec: ContextState(spec, nn.Linear(2, 6)))
    model.readout, steps = nn.Linear(5, 3), 4
    nn.init.normal_(model.readout.weight, std=2.0)
    rows = []
    model.embedding.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    best = model.generate(
        beams=81, num_samples=5, num_steps=steps, stop=2, length_penalty=penalty, prompt=model.prompt[:, :1]
    )
    assert rows == [B * 2**t for t in range(steps)], "only those that go on are run, at first one a condition"
    for b in range(B):
        start, ranks = model.rnn.initial_state(model.context[b : b + 1]), {}
        for tokens in torch.cartesian_prod(*[torch.arange(3)] * steps):
            length = next((t + 1 for t, token in enumerate(tokens) if token == 2), steps)
            scores = [s for _, _, s in model.scores_after(start, torch.cat([model.prompt[b, :1], tokens]))][:length]
            total = sum(float(s.log_softmax(0)[t]) for s, t in zip(scores, tokens[:length], strict=True))
            ranks[tuple(tokens[:length].tolist())] = total / length**penalty
        ordered = sorted(ranks, key=ranks.__getitem__, reverse=True)
        lengths = best.lengths[b].tolist()
        assert [tuple(v[:n].tolist()) for v, n in zip(best.values[b], lengths, strict=True)] == ordered[:5]
        assert all(bool((v[n:] == 2).all()) for v, n in zip(best.values[b], lengths, strict=True))


def test_guidance_weighs_the_context_against_the_null_state():
    def dropped(spec):
        null = FreeState(spec, value=0.3)
        return ContextDropout(ContextState(spec, nn.Linear(2, 6)), null=null)

    model = Language("gru", dropped)
    h0 = model.rnn.initial_state
    with torch.no_grad():
        h0.null.values["h"].normal_()

    def one_step(weight):
        return model.generate(guidance=weight, sampler=lambda scores: scores.argmax(-1), num_steps=1, lengths=LENGTHS)

    parts = []
    for state in (h0.state(model.context), h0.null(batch_size=B)):
        rows = [list(model.scores_after(state[:, b : b + 1], model.prompt[b, : LENGTHS[b]]))[-1][2] for b in range(B)]
        parts.append(torch.stack(rows).log_softmax(-1))
    assert not torch.equal(parts[0].argmax(-1), parts[1].argmax(-1))
    for weight in (0.0, 1.0, 2.5):
        scores = parts[1] + weight * (parts[0] - parts[1])
        outcome = one_step(weight)
        assert torch.equal(outcome.values[:, 0, 0], scores.argmax(-1))
        expected = scores.log_softmax(-1).max(-1).values
        torch.testing.assert_close(outcome.log_probs[:, 0, 0], expected, rtol=1e-4, atol=1e-5)
    beams = [model.generate(guidance=weight, beams=3, num_samples=2).values for weight in (0.0, 3.0)]
    assert not torch.equal(*beams)


SCORES = torch.tensor([0.0, 3.0, 1.0, -torch.inf, 2.0])


def drawn(sampler, count=20_000):
    scores = SCORES.expand(count, -1)
    rows = torch.arange(count)
    return sampler(scores, GenerationStep(0, rows, rows, count, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_have_the_frequencies_of_their_scores(temperature):
    tokens, log_probs = drawn(TokenSampler(temperature))
    expected = (SCORES / temperature).softmax(0)
    shares = tokens.bincount(minlength=5) / len(tokens)
    assert ((shares - expected).abs() <= 5 * (expected * (1 - expected) / len(tokens)).sqrt()).all()
    assert torch.equal(log_probs, SCORES.log_softmax(0)[tokens])


@pytest.mark.parametrize(
    ("options", "tokens"),
    [({"top_k": 2}, {1, 4}), ({"top_k": 9}, {0, 1, 2, 4}), ({"top_p": 0.6}, {1}), ({"top_p": 0.7}, {1, 4}),
     ({"top_p": 1.0}, {0, 1, 2, 4}), ({"temperature": 0}, {1}), ({"temperature": 1e-30}, {1}),
     ({"top_k": 3, "top_p": 0.92, "temperature": 1.0}, {1, 4, 2}), ({"top_k": 3, "top_p": 0.9}, {1, 4})],
)  # fmt: skip
def test_unlikely_tokens_are_left_out(options, tokens):
    assert set(drawn(TokenSampler(**options))[0].tolist()) == tokens


def test_the_largest_uniform_number_draws_a_possible_token():
    for numbers, token in ((torch.full((1,), 1 - 2**-53, dtype=torch.float64), 4), (torch.zeros(1).double(), 0)):
        assert int(_inverted(SCORES.double().softmax(0)[None], numbers)) == token
    impossible_last = torch.tensor([[0.3, 0.7, 0.0]]).double()
    assert int(_inverted(impossible_last, torch.full((1,), 1 - 2**-53, dtype=torch.float64))) == 1


class Sizes(TorchDispatchMode):
    """How many elements the tensors have that are made."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func(*args, **(kwargs or {}))
        self.made += [tensor.numel() for tensor in tree_leaves(returned) if isinstance(tensor, torch.Tensor)]
        return returned


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 4}, {"top_p": 0.7}])
def test_many_scores_are_looked_at_in_parts(options, monkeypatch):
    scores, sampler = torch.randn(50, 12), TokenSampler(**options)

    def sampled():
        rows = torch.arange(len(scores))
        with Sizes() as sizes:
            outcome = sampler(scores, GenerationStep(0, rows, rows, len(rows), torch.Generator().manual_seed(0)))
        return outcome, max(sizes.made)

    whole, of_whole = sampled()
    monkeypatch.setattr(sampling, "_SCORES_AT_ONCE", 60)
    parts, of_parts = sampled()
    assert (of_whole, of_parts) == (scores.numel(), 60)
    assert all(map(torch.equal, whole, parts))
    monkeypatch.setattr(sampling, "_SCORES_AT_ONCE", 1)  # fewer than a row has
    assert all(map(torch.equal, whole, sampled()[0]))
    empty = torch.arange(0)
    assert len(sampler(scores[:0], GenerationStep(0, empty, empty, 0))[0]) == 0


def test_beams_go_on_with_their_likeliest_tokens_alone():
    gru, tokens = nn.GRU(3, 5), 5000
    model, embedding, readout = ContextualRNN(gru, FreeState(gru)), nn.Embedding(tokens, 3), nn.Linear(5, tokens)
    prompt = torch.zeros(2, 1, dtype=torch.int64)
    with Sizes() as sizes:
        generate(model, lambda output, token: readout(output), prompt=prompt, embed=embedding, beams=4, num_steps=1)
    rows_run, rows = 2, 8  # in the first step one beam of each condition is run
    of_scores = [size // tokens for size in sizes.made if size in (rows_run * tokens, rows * tokens)]
    assert of_scores == [rows_run] * 3, "the scores, in float64, and their log-probabilities"
