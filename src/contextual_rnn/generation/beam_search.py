"""The likeliest sequences of tokens, by beam search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from contextual_rnn._precision import wide
from contextual_rnn.generation.functions import Functions
from contextual_rnn.generation.rollout import Generated, stack_steps
from contextual_rnn.generation.step import GenerationStep
from contextual_rnn.spec.rows import take, write_rows
from contextual_rnn.spec.tree import State


def beam_search(
    functions: Functions,
    states: Sequence[State],
    value: Tensor,
    conditions: Tensor,
    beams: int,
    num_best: int,
    num_steps: int,
    length_penalty: float,
    generator: torch.Generator | None,
    keep_outputs: bool,
) -> Generated:
    """The `num_best` of `beams` hypotheses a condition with the highest sum of log p / length ** length_penalty.

    A hypothesis that has stopped keeps its place and is not run, but can be displaced by better ones. All arguments
    have `beams` rows a condition, which are alike.
    """
    num_rows, device = len(conditions), conditions.device
    value = value.to(device)
    batch = num_rows // beams
    offset = beams * torch.arange(batch, device=device)[:, None]
    total = torch.full((batch, beams), -torch.inf, dtype=torch.float64, device=device)
    total[:, :1] = 0.0  # beams start alike: only one counts
    stopped = torch.zeros(batch, beams, dtype=torch.bool, device=device)
    lengths = torch.zeros(batch, beams, dtype=torch.int64, device=device)
    values: list[Tensor] = []
    log_probs: list[Tensor] = []
    outputs: list[Tensor] = []
    parents: list[Tensor] = []  # of each beam its row before the step
    for number in range(num_steps):
        rows = (~stopped & ~total.isneginf()).flatten().nonzero()[:, 0]
        if batch and not len(rows):
            break
        at = GenerationStep(number, rows, conditions[rows], num_rows, generator)
        some = [take(functions.spec.tree, rows, state) for state in states]
        output, new = functions.advance(value[rows], some, at)
        states = [
            write_rows(functions.spec.tree, old, rows, changed, num_rows)
            for old, changed in zip(states, new, strict=True)
        ]
        scores = functions.scores(output, value[rows], at)
        # A hypothesis has as many candidates as there are beams: its likeliest tokens.
        each = min(beams, scores.shape[-1])
        likeliest = wide(scores).double().log_softmax(-1).topk(each)
        step_log_prob = torch.full((num_rows, each), -torch.inf, dtype=torch.float64, device=device)
        step_log_prob[rows] = likeliest.values.to(device)
        step_log_prob[stopped.flatten(), 0] = 0.0  # a stopped hypothesis is one candidate
        tokens = torch.zeros(num_rows, each, dtype=torch.int64, device=device)
        tokens[rows] = likeliest.indices.to(device)
        candidates = total[..., None] + step_log_prob.view(batch, beams, each)
        new_lengths = lengths + ~stopped
        ranks = candidates / new_lengths[..., None].double() ** length_penalty
        best = ranks.flatten(1).topk(beams).indices
        parent, place = (best // each + offset).flatten(), (best % each).flatten()
        token = tokens[parent, place]
        total = candidates.flatten(1).gather(1, best)
        was_stopped = stopped.flatten()[parent]
        value = torch.where(was_stopped, value[parent], token) if values else token
        values.append(value)
        log_probs.append(step_log_prob[parent, place])
        parents.append(parent)
        if keep_outputs:
            all_rows = output[0].new_zeros(num_rows, *output[0].shape[1:]).index_copy(0, rows, output[0])
            outputs.append(all_rows[parent])
        lengths, stopped = new_lengths.flatten()[parent].view(batch, beams), was_stopped.view(batch, beams)
        states = [take(functions.spec.tree, parent, state) for state in states]
        if functions.can_stop:
            going = (~was_stopped & ~total.isneginf().flatten()).nonzero()[:, 0]
            at = GenerationStep(number, going, conditions[going], num_rows, generator)
            stopped = stopped.flatten().index_copy(0, going, functions.stopped(value[going], at)).view(batch, beams)
    best_rows = (offset + torch.arange(num_best, device=device)).flatten()
    lasting, others = _backwards(values, parents, best_rows), (log_probs, outputs)
    padded = [stack_steps(_backwards(history, parents, best_rows), num_steps, (batch, num_best)) for history in others]
    return Generated(
        values=stack_steps(lasting, num_steps, (batch, num_best), repeat_last=True),
        lengths=lengths[:, :num_best],
        log_probs=padded[0],
        outputs=padded[1],
        state=take(functions.spec.tree, best_rows, states[0]),
    )


def _backwards(history: list[Tensor], parents: list[Tensor], rows: Tensor) -> list[Tensor]:
    """The history of the hypotheses that are `rows` in the end, first step first."""
    steps = []
    for part, parent in zip(reversed(history), reversed(parents), strict=False):
        steps.append(part[rows])
        rows = parent[rows]
    return steps[::-1]
