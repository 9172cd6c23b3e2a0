"""What the native kernel of nn.RNN, nn.LSTM and nn.GRU is called with: the structs of csrc/problem.h."""

from __future__ import annotations

from contextual_rnn.ops.native.layout import Layout

PROBLEM = Layout(
    "gated_problem",
    [
        ("integer", "cell batch steps input_size width output_size segments threads reverse keep"),
        ("integer", "inputs_row inputs_step output_row output_step grad_output_row grad_output_step"),
        ("input", "inputs weight_ih weight_hh bias_ih bias_hh weight_hr h0 c0"),
        ("indices", "table"),
        ("result", "output final_state saved scratch"),
        ("input", "grad_output grad_final_state"),
        ("result", "grad_inputs grad_weight_ih grad_weight_hh grad_bias_ih grad_bias_hh grad_weight_hr"),
        ("result", "grad_h0 grad_c0"),
    ],
)

STREAM = Layout("gated_stream", [("integer", "count batch threads"), ("input", "layers"), ("result", "output")])

# The fields that the arguments of a call go to, in the order of the arguments.
SIZES = (
    "cell", "batch", "steps", "input_size", "width", "output_size", "segments", "threads", "reverse", "keep",
    "inputs_row", "inputs_step", "output_row", "output_step",
)  # fmt: skip
_GIVEN = (
    "inputs", "weight_ih", "weight_hh", "h0", "c0", "bias_ih", "bias_hh", "weight_hr", "table", "output", "saved",
)  # fmt: skip
_GRADIENTS = (
    "grad_output_row", "grad_output_step", "grad_output", "grad_final_state", "grad_inputs", "grad_weight_ih",
    "grad_weight_hh", "grad_h0", "grad_c0", "grad_bias_ih", "grad_bias_hh", "grad_weight_hr",
)  # fmt: skip

PACK_FORWARD = PROBLEM.packer((*SIZES, *_GIVEN, "final_state"))
PACK_BACKWARD = PROBLEM.packer((*SIZES, *_GIVEN, *_GRADIENTS))
PACK_STREAM = STREAM.packer(("count", "batch", "threads", "layers", "output"))
PACK_LAYER = PROBLEM.packer(
    (
        "cell", "batch", "segments", "threads", "input_size", "width", "output_size", "weight_ih", "weight_hh",
        "bias_ih", "bias_hh", "weight_hr", "h0", "c0", "output", "final_state", "scratch",
    )
)  # fmt: skip
