"""The diagnostics of a trained run: did its initial state matter?"""

from __future__ import annotations

from contextual_rnn.diagnostics import Diagnosis

HEADER = ("state", "loss", "zeroed", "mean of all", "shuffled", "p", "half-life, steps", "burn-in, steps")


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
