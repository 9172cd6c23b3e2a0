"""What the native kernel of fast weights is called with: the structs of csrc/problem.h, field by field."""

from __future__ import annotations

from contextual_rnn.ops.native.layout import Layout

PROBLEM = Layout(
    "fast_weights_problem",
    [
        ("integer", "batch steps width inner_steps rank chunk threads write_before_read layer_norm a0_stride keep"),
        ("real", "eps"),
        ("input", "inputs weight h0 a0 left right gain shift discounts retained"),
        ("indices", "lengths places"),
        ("integer", "rows"),
        ("result", "output written saved scratch"),
        ("input", "grad_output grad_written"),
        ("result", "grad_inputs grad_weight grad_h0 grad_a0 grad_left grad_right grad_gain grad_shift"),
        ("result", "grad_discounts grad_retained"),
        ("integer", "input_size"),
        ("input", "features projection bias"),
        ("result", "grad_features grad_projection grad_bias"),
    ],
)
CLASSIFICATION = Layout(
    "fast_weights_classification",
    [
        *PROBLEM.fields,
        ("integer", "vocabulary embedding_size hidden classes initial_states"),
        ("indices", "tokens targets states"),
        ("input", "embedding weight_ih bias_ih hidden_weight hidden_bias readout_weight readout_bias"),
        ("result", "loss grad_embedding grad_weight_ih grad_bias_ih"),
        ("result", "grad_hidden_weight grad_hidden_bias grad_readout_weight grad_readout_bias"),
        *(
            (kind, " ".join(f"{part}_{name}" for name in names))
            for part in ("h0", "a0", "left", "right")
            for kind, names in (("input", ("weight", "bias")), ("result", ("grad_weight", "grad_bias")))
        ),
    ],
)

STREAM = Layout(
    "fast_weights_stream",
    [
        ("integer", "batch width input_size inner_steps threads write_before_read layer_norm"),
        ("real", "eps decay rate"),
        ("input", "projection bias weight gain shift h0 a0"),
        ("result", "h a output scratch"),
    ],
)

# The fields that the arguments of a call go to, in the order of the arguments.
SIZES = (
    "batch", "steps", "width", "inner_steps", "rank", "chunk", "threads", "write_before_read", "layer_norm",
    "a0_stride", "keep", "eps", "input_size", "rows",
)  # fmt: skip
_GIVEN = (
    "inputs", "weight", "h0", "a0", "left", "right", "gain", "shift", "discounts", "retained", "lengths",
    "projection", "bias", "places",
)  # fmt: skip
INDICES = "lengths", "places"  # of these, which have no gradients


def _call(backwards: bool, projects: bool) -> tuple[str, ...]:
    given = ("features", *_GIVEN[1:]) if projects else _GIVEN
    if not backwards:
        return (*SIZES, *given, "output", "written", "saved")
    gradients = [f"grad_{name}" for name in given if name not in INDICES]
    return (*SIZES, *given, "output", "saved", "grad_output", "grad_written", *gradients)


PACK = {
    (backwards, projects): PROBLEM.packer(_call(backwards, projects))
    for backwards in (False, True)
    for projects in (False, True)
}
PARAMETERS = (
    "embedding", "weight_ih", "bias_ih", "weight", "gain", "shift",
    "hidden_weight", "hidden_bias", "readout_weight", "readout_bias",
)  # fmt: skip
HEADS = tuple(
    f"{part}_{name}"
    for part in ("h0", "a0", "left", "right")
    for name in ("weight", "bias", "grad_weight", "grad_bias")
)
PACK_CLASSIFICATION = CLASSIFICATION.packer(
    (
        *SIZES, "vocabulary", "embedding_size", "hidden", "classes", *PARAMETERS, *HEADS, "initial_states", "loss",
        "tokens", "targets", "states", "h0", "a0", "left", "right", "discounts", "retained",
        "grad_h0", "grad_a0", "grad_left", "grad_right", *[f"grad_{name}" for name in PARAMETERS],
    )
)  # fmt: skip
PACK_STREAM = STREAM.packer(STREAM.names)
