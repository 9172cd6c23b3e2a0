"""The diagnostics of a trained run: did its initial state matter?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from contextual_rnn.diagnostics import Diagnosis, diagnose, diagnose_state
from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.runs.weights import load_model
from contextual_rnn.experiments.tasks.decay import INITIAL_RANGE, VALIDATION_PERIODS, DecayModel, linear_cosine_decay
from contextual_rnn.experiments.tasks.retrieval import RetrievalModel, retrieval_data
from contextual_rnn.experiments.training.seeding import generator_for
from contextual_rnn.spec.tree import State

SEQUENCES = 200
HEADER = ("state", "loss", "zeroed", "mean of all", "shuffled", "p", "half-life, steps", "burn-in, steps")


def diagnose_run(run: Run) -> Diagnosis:
    """On fresh sequences: cross entropy in nats of the retrieved digit, squared error of every scaled decay step.

    Raises ValueError for a run without weights.
    """
    model = load_model(run)
    if isinstance(model, DecayModel):
        return _diagnose_decay(model)
    assert isinstance(model, RetrievalModel)
    assert isinstance(run.config, RetrievalConfig)
    return _diagnose_retrieval(model, run.config)


def _diagnose_decay(model: DecayModel) -> Diagnosis:
    period = torch.tensor(VALIDATION_PERIODS, device="cpu").repeat(SEQUENCES // len(VALIDATION_PERIODS))
    low, high = INITIAL_RANGE
    initial = low + (high - low) * torch.rand(
        len(period), generator=generator_for("diagnostics", "decay"), device="cpu"
    )
    x = linear_cosine_decay(initial, period)
    return diagnose(model, lambda: (model(x[:, :-1], period) - x.diff() / model.largest_step).square())


def _diagnose_retrieval(model: RetrievalModel, config: RetrievalConfig) -> Diagnosis:
    tokens, targets = retrieval_data(
        SEQUENCES,
        config.pairs,
        letters=config.letters,
        modified=config.modified,
        generator=generator_for("diagnostics", "retrieval"),
    )

    def losses(state: State) -> tuple[Tensor, Tensor]:
        inputs = model.embedding(tokens)
        if model.context_input:
            inputs = torch.cat([inputs, inputs[:, :1].expand_as(inputs)], dim=2)
        output, _ = model.rnn(inputs, state)
        logits = model.readout(torch.relu(model.hidden(output[:, -1])))
        return functional.cross_entropy(logits, targets, reduction="none"), output

    initial_state = model.rnn.initial_state
    with torch.no_grad():
        first = tokens[:, 0].roll(1) if model.shuffled_context else tokens[:, 0]
        context = model.embedding(first) if initial_state.reads_context else None
        state = initial_state(context, len(tokens))
    return diagnose_state(losses, state, initial_state.spec)


def numbers_of(diagnosis: Diagnosis) -> list[str]:
    """A row of the report's table, under `HEADER` but the state."""
    losses = [f"{diagnosis.overall[name]:.3g}" for name in ("true", "zeroed", "mean", "shuffled")]
    p_value = "-" if diagnosis.p_value is None else f"{diagnosis.p_value:.2g}"
    half_life = "-" if diagnosis.half_life is None else f"{diagnosis.half_life:.3g}".replace("inf", "does not fade")
    half_life = half_life.replace("nan", "not finite")
    longer = "" if diagnosis.influence is None else f"more than {diagnosis.influence.length}"
    if diagnosis.influence is not None and diagnosis.influence.not_finite_from is not None:
        longer = "-"
    return [*losses, p_value, half_life, longer if diagnosis.burn_in is None else str(diagnosis.burn_in)]
