"""What the native kernel of fast weights is called with: the structs of csrc/problem.h, field by field."""

from __future__ import annotations

from contextual_rnn.ops.native.layout import Layout

PROBLEM = Layout(
    "fast_weights_problem",
    [
        ("integer", "batch steps width inner_steps rank chunk threads write_before_read layer_norm a0_stride keep"),
        ("real", "eps"),
        ("input", "inputs weight h0 a0 left right gain shift discounts retained"),
        ("indices", "lengths"),
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
# The fields of `Given` as C++ names them, without a projection and with one.
GIVEN = (
    "inputs", "weight", "h0", "a0", "left", "right", "gain", "shift", "discounts", "retained", "lengths",
    "projection", "bias",
)  # fmt: skip
GIVEN_FEATURES = ("features", *GIVEN[1:])
