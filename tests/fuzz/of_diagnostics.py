"""Valid calls of the diagnostics."""

from __future__ import annotations

from typing import Any

import torch
from tests.fuzz.call import Call, case
from tests.fuzz.draw import Draw, random_state
from tests.fuzz.of_sequences import STEPS, model_of
from tests.networks import NETWORKS, make_input

from contextual_rnn import state_spec
from contextual_rnn.diagnostics import Diagnosis, Influence, Sigma, diagnose, diagnose_state

NAMES = ["gru", "lstm", "rnn", "fast weights"]


def _told(diagnosis: Diagnosis) -> Any:
    values = diagnosis.as_dict()
    return values["losses"], values["p_value"], diagnosis.table(), diagnosis.findings()


def _expect(told: Any) -> None:
    p_value = told[1]
    assert p_value is None or 0 < p_value <= 1, f"a p-value of {p_value}"


@case("diagnose")
def _(d: Draw) -> Call:
    model, s = model_of(d, NAMES)
    batch, whole = d.choose([2, 3]), d.chance(0.3)
    context, inputs = s.new_context(d, batch), make_input(s.network, batch, STEPS)

    def losses() -> Any:
        output = model(inputs, context=context)[0]
        rows = output if s.network.batch_first else output.transpose(0, 1)
        return rows.square().mean((1, 2)) if whole else rows.square().mean(2)

    options = d.some(permutations=d.choose([0, 3]), influence_steps=3, seed=1)
    if not whole and d.chance(0.3):
        options["lengths"] = torch.randint(1, STEPS + 1, (batch,))
    if d.chance(0.3):
        options["groups"] = list(range(batch))
    options.setdefault("permutations", 2)

    def alone(_: Call) -> Any:
        return s.network(inputs, random_state(s.spec, batch))

    return Call(diagnose, [model, losses], options, expect=_expect, alone=alone, finish=_told)


@case("diagnose_state")
def _(d: Draw) -> Call:
    network, batch = NETWORKS[d.choose(["gru", "lstm", "rnn"])](), d.choose([2, 3])
    inputs, state = make_input(network, batch, STEPS), random_state(state_spec(network), batch)

    def losses(state: Any) -> Any:
        output = network(inputs, state)[0]
        return (output if network.batch_first else output.transpose(0, 1)).square().mean(2)

    options = {"permutations": d.choose([0, 3])} | d.some(influence_steps=3, seed=1, groups=torch.arange(batch))
    return Call(diagnose_state, [losses, state, network], options, expect=_expect, finish=_told)


def _influence(d: Draw) -> Influence:
    values = d.choose([[1.0, 0.5, 0.25], [0.0, 0.0, 0.0], [1.0, 2.0, 4.0], [0.0, 1.0, 0.0], [1e-200, 0.0, 1e-300]])
    return Influence((1, 2, 3), 3, {"h": torch.tensor(values, dtype=torch.float64)})


@case("Influence", "Influence.total", "Influence.half_life", "Influence.burn_in", "Influence.as_dict",
      "Influence.not_finite_from")  # fmt: skip
def _(d: Draw) -> Call:
    def use(influence: Influence) -> Any:
        return influence.total, influence.half_life, influence.burn_in, influence.as_dict(), influence.not_finite_from

    return Call(use, [_influence(d)], keep=("0",))


@case("Diagnosis", "Diagnosis.half_life", "Diagnosis.burn_in", "Diagnosis.table", "Diagnosis.as_dict",
      "Diagnosis.findings", "Diagnosis.plot")  # fmt: skip
def _(d: Draw) -> Call:
    curves = d.choose([[1.0, 2.0], [1.0], [0.0] * 20, [float("nan")], [1e300, 1e-300]])
    losses = {name: torch.tensor(curves, dtype=torch.float64) for name in ("true", "zeroed", "mean")}
    sigma = {"h": Sigma(0.1, 0.0, 0.2, 0.5)}
    diagnosis = Diagnosis(
        losses, {name: curve.mean().item() for name, curve in losses.items()}, d.choose([0, 9]),
        d.choose([None, 0.1]), d.choose([None, _influence(d)]), d.choose([{}, sigma]),
    )  # fmt: skip

    def use(diagnosis: Diagnosis) -> Any:
        diagnosis.plot()
        return diagnosis.table(), diagnosis.findings(), diagnosis.half_life, diagnosis.burn_in, str(diagnosis)

    return Call(use, [diagnosis], keep=("0",))


@case("Sigma", "Sigma.as_dict", "Sigma.finite")
def _(d: Draw) -> Call:
    return Call(lambda sigma: (sigma.as_dict(), sigma.finite), [Sigma(0.1, 0.0, 0.2, 0.5)], keep=("0",))
