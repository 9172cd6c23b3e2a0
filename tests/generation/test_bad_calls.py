"""Arguments of `generate` that do not go together, and functions that return something else."""

import pytest
import torch
from torch import nn

from contextual_rnn import ContextDropout, ContextState, ContextualRNN, FreeState, TokenSampler, generate

gru = nn.GRU(3, 5, batch_first=True)
MODEL = ContextualRNN(gru, ContextState(gru, nn.Linear(2, 6)))
DROPPED = ContextualRNN(gru, ContextDropout(ContextState(gru, nn.Linear(2, 6))))
PROMPT, FIRST, CONTEXT = torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 3), torch.zeros(3, 2)
EMBED, READOUT = nn.Embedding(6, 3), nn.Linear(5, 6)


def tokens(model=MODEL, step=lambda output, token: READOUT(output), **options):
    options = {"prompt": PROMPT, "context": CONTEXT, "num_steps": 2, "embed": EMBED} | options
    return generate(model, step, **options)


def values(step=lambda output, value: value, **options):
    return generate(MODEL, step, **{"prompt": FIRST[:, None], "context": CONTEXT, "num_steps": 2} | options)


GREEDY = TokenSampler(0)
BAD_CALLS = {
    "prompt: expected None beside first": lambda: values(first=FIRST),
    r"prompt: expected a tensor of shape \(batch, steps, \*value\), steps >= 1, got \(3, 0\)": lambda: tokens(
        prompt=PROMPT[:, :0]
    ),
    "prompt: expected a tensor .* got list": lambda: tokens(prompt=[1, 2]),
    "prompt: expected 2 axes for one step": lambda: values(prompt=torch.zeros(3, 1)),
    "lengths: expected only with a prompt": lambda: values(prompt=None, lengths=torch.ones(3).long()),
    "lengths: expected 1 to 4, got 0 to 4": lambda: tokens(lengths=torch.tensor([0, 4, 1])),
    r"lengths: expected shape \(3,\)": lambda: tokens(lengths=torch.tensor([4, 1])),
    "hx: expected 'h' of batch size 3": lambda: tokens(hx=torch.zeros(1, 2, 5)),
    "stop: expected an int of at least 0, got 2.5": lambda: tokens(stop=2.5, sampler=GREEDY),
    "stop: expected an int of at least 0, got -1": lambda: tokens(stop=-1, sampler=GREEDY),
    "stop: expected a function, as values are no tokens": lambda: values(stop=1),
    "stop: expected a function that returns a tensor of bool, got True": lambda: values(stop=lambda v: True),
    r"stop: expected flags of shape \(3,\)": lambda: values(stop=lambda v: v > 0),
    r"step: expected a function of 2 arguments, .* got one with signature \(obj, /\)": lambda: values(step=len),
    "stop: expected a function of 1 argument, or of one more": lambda: values(stop=lambda: False),
    "sampler: expected a function or None, got float": lambda: tokens(sampler=0.7),
    "sampler: expected a function or None, got the class TokenSampler": lambda: tokens(sampler=TokenSampler),
    "sampler: expected None beside beams": lambda: tokens(sampler=GREEDY, beams=2),
    "first: expected torch.float32 on cpu, as the network, got torch.float64": lambda: generate(
        MODEL, lambda output, value: value, FIRST.double(), context=CONTEXT, num_steps=2
    ),
    r"step: expected inputs of width 3 for the network, got .*\(3, 2\)": lambda: values(step=lambda o, v: v[:, :2]),
    r"embed: expected inputs of width 3 for the network, got .*\(3, 2\)": lambda: values(embed=lambda v: v[:, :2]),
    r"embed: expected inputs of 3 rows for the network, got .*\(1, 3\)": lambda: values(embed=lambda v: v[:1]),
    "embed: expected torch.float32 on cpu": lambda: values(embed=lambda v: v.double()),
    "sampler: expected tokens from 0 to 5, got 99 to 99": lambda: tokens(sampler=lambda s: torch.full((3,), 99)),
    "sampler: expected tokens from 0 to 5, got -1 to -1": lambda: tokens(sampler=lambda s: torch.full((3,), -1)),
    "num_steps, num_samples: expected a product that fits in memory": lambda: values(num_samples=2**62),
    "sampler: expected int64 tokens of shape": lambda: tokens(sampler=lambda scores: scores),
    "sampler: expected a function that returns a tensor": lambda: tokens(sampler=lambda scores: 3),
    r"sampler: expected log-probabilities of shape \(3,\)": lambda: tokens(
        sampler=lambda scores: (scores.argmax(-1), scores)
    ),
    r"step: expected scores of shape \(3, tokens\)": lambda: tokens(step=lambda o, v: v.float(), sampler=GREEDY),
    "step: expected a floating-point tensor": lambda: tokens(step=lambda o, v: v, sampler=GREEDY),
    "step: expected scores .* got 3": lambda: tokens(step=lambda o, v: 3, beams=2),
    "step: expected scores with a finite highest": lambda: tokens(step=lambda o, v: o * torch.nan, beams=2),
    "step: expected values of shape": lambda: values(
        step=lambda o, v, at: v if at.number == 0 else v[:, :2], stop=lambda v, at: at.rows == 0
    ),
    r"step: expected values of shape \(3,\), as before, got \(2,\)": lambda: values(
        step=lambda o, v, at: FIRST if at.number == 0 else FIRST[:, :2], embed=lambda v: v
    ),
    "step: expected log-probabilities in every step or in none, got the first in step 1": lambda: values(
        step=lambda o, v, at: v if at.number == 0 else (v, v[:, 0])
    ),
    "step: expected log-probabilities in every step or in none, got none in step 1": lambda: values(
        step=lambda o, v, at: v if at.number else (v, v[:, 0])
    ),
    "beams: expected at least num_samples, 3, got 2": lambda: tokens(beams=2, num_samples=3),
    "beams: expected a positive int, got 0": lambda: tokens(beams=0),
    "beams: expected only with first or prompt": lambda: tokens(prompt=None, beams=2),
    "length_penalty: expected 0 without beams": lambda: tokens(length_penalty=1.0),
    "length_penalty: expected a finite number": lambda: tokens(length_penalty="1", beams=2),
    "guidance: expected only with a ContextDropout": lambda: tokens(guidance=2.0, sampler=GREEDY),
    "guidance: expected None beside hx": lambda: tokens(DROPPED, guidance=2.0, sampler=GREEDY, hx=torch.zeros(1, 3, 5)),
    "guidance: expected only with a sampler or beams": lambda: tokens(DROPPED, guidance=2.0),
    "guidance: expected a finite number": lambda: tokens(DROPPED, guidance=torch.inf, sampler=GREEDY),
    "return_outputs: expected True or False": lambda: tokens(return_outputs=1),
    "temperature: expected a finite number of at least 0": lambda: TokenSampler(-1.0),
    "top_k: expected a positive int": lambda: TokenSampler(top_k=0),
    "top_p: expected a number above 0 and at most 1": lambda: TokenSampler(top_p=0.0),
    "context: expected .* got None": lambda: tokens(context=None, sampler=GREEDY),
}


@pytest.mark.parametrize("words", BAD_CALLS)
def test_bad_calls_are_refused(words):
    with pytest.raises((ValueError, TypeError), match=f"^{words}"):
        BAD_CALLS[words]()


def test_a_meta_error_of_a_user_is_not_ours():
    def embed(token):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tokens(embed=embed)
    assert not ContextualRNN(gru, FreeState(gru)).eval().training
