"""Prompts: which rows are run in them, and what `embed` gets there."""

import pytest
import torch
from torch import nn

from contextual_rnn import ContextDropout, ContextState, ContextualRNN, FreeState, NormalState, generate

B, P, SAMPLES = 2, 5, 3
GRU = nn.GRU(2, 6, batch_first=True)
NOISY, NULL = NormalState(GRU, nn.Linear(2, 4)), FreeState(GRU, value=0.2)
CONTEXT, PROMPT, HX = torch.randn(B, 2), torch.randn(B, P, 1), torch.randn(1, B, 6)
READOUT = nn.Linear(6, 1)
# A state, what is generated from it, and how many rows of each condition differ before they are generated.
STARTS = {
    "context": (ContextState(GRU, nn.Linear(2, 4)), {"context": CONTEXT}, 1),
    "free": (NULL, {}, 1),
    "free with noise": (FreeState(GRU, noise=0.5), {}, SAMPLES),
    "random": (NOISY, {"context": CONTEXT}, SAMPLES),
    "mean": (NOISY, {"context": CONTEXT, "sample": False}, 1),
    "given": (NOISY, {"hx": HX}, 1),
    "guided": (ContextDropout(NOISY, null=NULL), {"context": CONTEXT, "guidance": 2.0}, SAMPLES),
    "guided, no noise": (
        ContextDropout(ContextState(GRU, nn.Linear(2, 4)), null=NULL), {"context": CONTEXT, "guidance": 2.0}, 1
    ),
}  # fmt: skip


def generated(state, embed, **options):
    guided = {"sampler": lambda scores: scores.argmax(-1)} if "guidance" in options else {}

    def step(output, value):
        return torch.cat([output, -output], 1) if guided else READOUT(output)

    options = {"num_samples": SAMPLES, "num_steps": 2, "return_outputs": True, **guided, **options}
    prompt = PROMPT.round().abs().long()[:, :, 0] if guided else PROMPT
    model = ContextualRNN(GRU, state)
    return generate(model, step, prompt=prompt, embed=embed, generator=torch.Generator().manual_seed(0), **options)


def of_value(value):
    value = value.float().reshape(len(value), 1)
    return torch.cat([value, -value], 1)


@pytest.mark.parametrize("name", STARTS)
def test_rows_that_are_alike_in_the_prompt_are_run_once(name):
    state, options, copies = STARTS[name]
    rows = []

    def counted(value):
        rows.append(len(value))
        return of_value(value)

    outcome = generated(state, counted, **options)
    assert rows == [copies * B] * (P - 1) + [SAMPLES * B] * 2
    every = generated(state, lambda value, at: of_value(value), **options)  # which may be of other rows, and is not
    torch.testing.assert_close(outcome.values, every.values)
    torch.testing.assert_close(outcome.outputs, every.outputs)
    torch.testing.assert_close(outcome.state, every.state)


@pytest.mark.parametrize("name", STARTS)
def test_embed_knows_each_row_in_the_prompt_too(name):
    state, options, _ = STARTS[name]
    drive = torch.randn(B * SAMPLES, P + 1, 1)

    def driven(number=None):
        def embed(value, at):
            rows = at.rows if number is None else SAMPLES * at.conditions + number
            assert at.num_rows == B * SAMPLES
            assert torch.equal(at.conditions, at.rows // SAMPLES)
            return torch.cat([value.float().reshape(-1, 1), drive[rows, at.number + P - 1]], 1)

        return generated(state, embed, **options).outputs

    each = torch.stack([driven(number)[:, number] for number in range(SAMPLES)], 1)
    torch.testing.assert_close(driven(), each)


def test_embed_knows_the_first_beam_of_each_condition_in_the_prompt():
    rows = []

    def embed(value, at):
        rows.append((at.rows.tolist(), at.num_rows, len(at.rand())))
        return of_value(value)

    options = {"beams": 4, "num_samples": 1, "num_steps": 1, "context": CONTEXT}
    model = ContextualRNN(GRU, NOISY)
    generate(model, lambda output, value: output, prompt=PROMPT.round().long()[:, :, 0], embed=embed, **options)
    assert rows == [([0, 4], 8, 2)] * (P - 1) + [([0, 4], 8, 2)]


def test_both_states_of_guidance_get_one_input():
    state, options, _ = STARTS["guided"]
    numbers = []

    def embed(value, at):
        numbers.append(at.number)
        return of_value(value) + at.randn(2)

    generated(state, embed, **options)
    assert numbers == list(range(1 - P, 2))
