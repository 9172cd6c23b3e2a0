"""Rows that go on as they are are streamed; nothing but rounding shows it."""

import pytest
import torch
from tests.networks import make, tensors_of
from torch import nn

from contextual_rnn import ContextDropout, ContextualRNN, FreeState, NormalState, TokenSampler, generate
from contextual_rnn.generation.network_steps import STEPS_BEFORE_A_STREAM, NetworkSteps
from contextual_rnn.ops._gated import cpu
from contextual_rnn.sequences.stream import Stream

pytestmark = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")

TOKENS, STOP, B, SAMPLES, STEPS = 6, 5, 4, 3, 30
SERVED = ["rnn", "gru", "lstm", "rnn cell", "gru cell", "lstm cell", "fast weights", "fast weights, low-rank A",
          "fast weights cell, dense A", "gru, one state for all layers"]  # fmt: skip


@pytest.fixture
def streamed(monkeypatch):
    """How many rows each step of a stream has."""
    rows, step = [], Stream.__call__
    monkeypatch.setattr(Stream, "__call__", lambda self, input: rows.append(len(input)) or step(self, input))
    return rows


class Language:
    """A model of tokens, and the same weights run by torch alone."""

    def __init__(self, case, kind=lambda spec: NormalState(spec, nn.Linear(2, 6), 0.5), dtype=torch.float64):
        network, spec = make(case, dtype)
        torch.manual_seed(3)
        state = kind(spec).to(dtype)
        self.models = [ContextualRNN(network, state, backend) for backend in ("auto", "torch")]
        self.embedding, self.readout = nn.Embedding(TOKENS, 3, dtype=dtype), nn.Linear(5, TOKENS, dtype=dtype)
        nn.init.normal_(self.readout.weight, std=1.5)
        nn.init.constant_(self.readout.bias, 0.0)
        nn.init.constant_(self.readout.bias[STOP:], -2.0)
        self.prompt, self.context = torch.randint(TOKENS - 1, (B, 4)), torch.randn(B, 2, dtype=dtype)

    def generate(self, model, **options):
        defaults = {"prompt": self.prompt, "context": self.context, "num_steps": STEPS, "embed": self.embedding}
        defaults |= {"sampler": TokenSampler(), "generator": torch.Generator().manual_seed(0), "return_outputs": True}
        return generate(model, lambda output, token: self.readout(output), **defaults | options)

    def both_ways(self, **options):
        """By a stream where there is one, and by torch."""
        return [self.generate(model, **options) for model in self.models]


def assert_equal_to_rounding(ours, theirs):
    assert torch.equal(ours.values, theirs.values)
    assert torch.equal(ours.lengths, theirs.lengths)
    for one, other in zip(tensors_of(ours[2:]), tensors_of(theirs[2:]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)  # float64, of numbers about one


@pytest.mark.parametrize("case", SERVED)
def test_streamed_rows_are_those_of_torch(case, streamed):
    language = Language(case)
    ours, theirs = language.both_ways(lengths=torch.tensor([3, 1, 4, 2]), num_samples=SAMPLES)
    assert streamed == [B * SAMPLES] * (STEPS - STEPS_BEFORE_A_STREAM)
    assert_equal_to_rounding(ours, theirs)
    assert not torch.equal(ours.outputs[:, :, -1], ours.outputs[:, :, -2]), "each step's output is its own"


@pytest.mark.parametrize("case", ["gru", "lstm cell", "fast weights"])
def test_rows_that_stop_leave_the_stream(case, streamed):
    ours, theirs = Language(case).both_ways(num_samples=SAMPLES, stop=STOP)
    assert_equal_to_rounding(ours, theirs)
    going = [int((ours.lengths > t).sum()) for t in range(int(ours.lengths.max()))]
    before = STEPS_BEFORE_A_STREAM
    expected = [n for t, n in enumerate(going) if t >= before and going[t - before] == n]
    assert streamed == expected
    assert len(set(streamed)) > 1, "rows have stopped while others were streamed"


def test_both_states_of_a_guidance_are_streamed(streamed):
    language = Language("lstm", lambda spec: ContextDropout(NormalState(spec, nn.Linear(2, 6)), null=FreeState(spec)))
    assert_equal_to_rounding(*language.both_ways(guidance=2.0))
    assert len(streamed) == 2 * (STEPS - STEPS_BEFORE_A_STREAM)


def test_continuous_values_of_float32(streamed):
    network, _ = make("gru")
    readout = nn.Linear(5, 3)
    paths = [
        generate(
            ContextualRNN(network, FreeState(network, value=0.5), backend),
            lambda output, value, at: 0.5 * value + torch.tanh(readout(output)) + 0.1 * at.randn(3),
            prompt=torch.ones(B, 1, 3),
            num_steps=STEPS,
            generator=torch.Generator().manual_seed(0),
        )
        for backend in ("auto", "torch")
    ]
    assert streamed
    torch.testing.assert_close(*(path.values for path in paths), rtol=1e-4, atol=1e-5)  # a value is fed back


def test_outputs_that_the_user_keeps_stay(streamed):
    network, _ = make("lstm cell")
    outputs = []
    model = ContextualRNN(network, FreeState(network, value=0.5))
    paths = generate(
        model, lambda output, value: outputs.append(output) or output[:, :3], torch.ones(B, 3), num_steps=STEPS
    )
    assert streamed
    assert torch.equal(torch.stack(outputs, 1)[..., :3], paths[:, 0])


def test_the_state_goes_on_and_is_the_callers():
    language = Language("lstm")
    greedy = {"sampler": TokenSampler(0)}
    whole = language.generate(language.models[0], **greedy)
    half = language.generate(language.models[0], **greedy, num_steps=STEPS // 2)
    kept = [tensor.clone() for tensor in tensors_of(half.state)]
    more = {"prompt": half.values[..., -1:].flatten(0, 1), "hx": half.state, "context": None}
    rest = language.generate(language.models[0], **greedy, **more, num_steps=STEPS // 2)
    assert torch.equal(torch.cat([half.values, rest.values], -1), whole.values)
    assert all(map(torch.equal, kept, tensors_of(half.state)))


@pytest.mark.parametrize("backend", ["auto", "native"])
def test_a_network_with_hooks_keeps_its_own_steps(backend, streamed):
    network, _ = make("lstm")
    model, calls = ContextualRNN(network, FreeState(network), backend), []
    network.register_forward_hook(lambda *_: calls.append(1))
    generate(model, lambda output, value: value, torch.ones(B, 3), num_steps=STEPS)
    assert len(calls) == STEPS
    assert not streamed


def test_beams_and_networks_of_others_are_not_streamed(streamed):
    for case, options in (("lstm", {"beams": 3, "sampler": None}), ("own cell", {})):
        language = Language(case)
        ours, theirs = language.both_ways(**options)
        assert torch.equal(ours.values, theirs.values)
        assert torch.equal(ours.outputs, theirs.outputs)
    assert not streamed


@pytest.mark.parametrize("bad", [torch.Tensor.double, lambda value: value[:, :2], lambda value: value.to_sparse()])
def test_a_late_bad_input_is_refused_as_an_early_one(bad):
    network, _ = make("lstm")
    model = ContextualRNN(network, FreeState(network))

    def message(step):
        with pytest.raises((ValueError, RuntimeError, TypeError)) as refusal:
            generate(
                model, lambda output, value, at: bad(value) if at.number == step else value, torch.ones(B, 3),
                num_steps=STEPS,
            )  # fmt: skip
        return type(refusal.value), str(refusal.value)

    assert message(0) == message(STEPS_BEFORE_A_STREAM + 4)


def test_another_state_ends_the_stream():
    network, spec = make("gru")
    model = ContextualRNN(network, FreeState(network))
    steps, inputs = NetworkSteps(model), torch.randn(20, B, 3)
    with torch.no_grad():
        state = other = torch.randn(2, B, 5)
        for step in inputs[:10]:
            _, state = steps(spec, step, state, {})
        output, _ = steps(spec, inputs[10], other, {})
        expected, _ = network(inputs[10][:, None], other)
    assert torch.equal(output, expected[:, 0])
