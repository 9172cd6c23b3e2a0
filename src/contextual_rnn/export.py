"""A model to export for every length: the steps as one loop of the graph, where torch.export would unroll them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn._tensors import check_dense
from contextual_rnn._torch_internals import is_plain_call
from contextual_rnn.layers.fast_weights import FastWeightsRNN
from contextual_rnn.ops import LowRank
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.spec.steps import check_input, runs_as_torch_does
from contextual_rnn.spec.tree import State

# (W_ih x(t) + b_ih, states, W_hh, b_hh, W_hr) -> new states, of which the first is the output.
Step = Callable[[Tensor, list[Tensor], Tensor, Tensor | None, Tensor | None], list[Tensor]]


class AnyLength(nn.Module):
    """A frozen copy of `model`, computed in a loop over the steps that torch.export and ONNX keep as a loop.

        program = torch.export.export(AnyLength(model), (x,), {"context": context}, dynamic_shapes=...)

    torch.export runs the steps of nn.RNN, nn.LSTM and nn.GRU, as those of fast weights, one by one and writes each
    into the graph, so that the program serves one length alone. Here every layer and direction is one `scan`: any
    batch size and any length, the same numbers up to rounding, and PyTorch's own operators alone. For inference: the
    copy is in evaluation mode and its parameters take no gradients. Cells need none of it: they take one step.

    Raises TypeError for another model or network and ValueError for one with hooks, in the forward pass TypeError or
    ValueError for an input that is no batch of sequences as the network takes them and for a state that does not fit
    it, and ImportError where torch has no `scan`, which it calls a prototype (seen to work: torch 2.13).
    """

    def __init__(self, model: ContextualRNN):
        super().__init__()
        if not isinstance(model, ContextualRNN):
            raise TypeError(f"model: expected a ContextualRNN, got {type(model).__name__}")
        if not runs_as_torch_does(model.network) and type(model.network).forward is not FastWeightsRNN.forward:
            kind = type(model.network).__name__
            raise TypeError(f"model: expected a network of RNN, LSTM, GRU or FastWeightsRNN, got {kind}")
        for module in (model, model.network):
            if not is_plain_call(module):
                raise ValueError(
                    f"model: expected a {type(module).__name__} without hooks and not compiled, as the loop runs "
                    "neither, got one with hooks or compiled"
                )
        # With gradients torch 2.13 fails when ONNX traces a scan over a batch of any size a second time.
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> AnyLength:
        """Set the mode of this module alone: the copy stays in evaluation mode, whatever a module around it is in."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, input: Tensor, hx: State | None = None, *, context: Any = None) -> tuple[Tensor, State]:
        """The output and final state, as the model returns them, from `hx` or from the initial state for `context`."""
        check_dense("input", input)
        if input.ndim != 3:
            raise ValueError(f"input: expected a batch of sequences, 3 axes, got {tuple(input.shape)}")
        network = self.model.network
        check_input("input", network, input)
        steps = input.transpose(0, 1) if network.batch_first else input
        if not steps.shape[0]:
            raise ValueError(f"input: expected at least one step, got {tuple(input.shape)}")
        if hx is None:
            hx = self.model.initial_state(context, steps.shape[1])
        else:
            self.model._check_state(hx, steps.shape[1])  # pyright: ignore[reportPrivateUsage]
        output, state = (_fast_weights if isinstance(network, FastWeightsRNN) else _layers)(network, steps, hx)
        return output.transpose(0, 1) if network.batch_first else output, state


def _layers(network: Any, inputs: Tensor, hx: State) -> tuple[Tensor, State]:
    """Layer by layer and direction by direction over (T, B, I)."""
    step, states = _STEPS[network.mode], [hx] if isinstance(hx, Tensor) else list(hx)
    directions, finals = 2 if network.bidirectional else 1, []
    for layer in range(network.num_layers):
        outputs = []
        for direction in range(directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            w_ih, w_hh, b_ih, b_hh, w_hr = (getattr(network, name + suffix, None) for name in names)
            projected = functional.linear(inputs.flip(0) if direction else inputs, cast(Tensor, w_ih), b_ih)
            weights = cast(Tensor, w_hh), b_hh, w_hr
            start = [state[layer * directions + direction] for state in states]
            final, output = _scan(lambda carry, x, weights=weights: step(x, carry, *weights), start, projected)
            finals.append(final)
            outputs.append(output.flip(0) if direction else output)
        inputs = torch.cat(outputs, -1)
    state = tuple(torch.stack(leaves) for leaves in zip(*finals, strict=True))
    return inputs, state[0] if isinstance(hx, Tensor) else state


def _fast_weights(network: Any, inputs: Tensor, hx: State) -> tuple[Tensor, State]:
    """The equations of `ops.fast_weights` with A stored, in operators that do not fix the batch size."""
    options, weight = network.options, network.weight_hh
    h, a = hx
    if a is None:
        a = h.new_zeros(*h.shape, h.shape[-1])
    elif isinstance(a, LowRank):
        a = a.dense()

    def write(a: Tensor, h: Tensor) -> Tensor:
        return options.decay * a + options.rate * h[:, :, None] * h[:, None]

    def step(carry: list[Tensor], x: Tensor) -> list[Tensor]:
        h, a = carry
        z = x + functional.linear(h, weight)
        h = z.relu()
        if options.timing == "wenke2019":
            a = write(a, h)
        for _ in range(options.inner_steps):
            bracket = z + torch.bmm(a, h[:, :, None])[:, :, 0]
            if options.layer_norm:
                width = (network.hidden_size,)
                bracket = functional.layer_norm(bracket, width, network.norm_weight, network.norm_bias, options.eps)
            h = bracket.relu()
        return [h, write(a, h) if options.timing == "ba2016" else a]

    (h_n, a_n), output = _scan(step, [h, a], network.project(inputs))
    return output, (h_n, a_n if network.return_fast_weights else None)


def _scan(
    step: Callable[[list[Tensor], Tensor], list[Tensor]], start: list[Tensor], inputs: Tensor
) -> tuple[list[Tensor], Tensor]:
    from torch._higher_order_ops.scan import scan

    def run(carry: list[Tensor], x: Tensor) -> tuple[list[Tensor], Tensor]:
        carry = step(carry, x)
        return carry, carry[0].clone()  # an output may not be the carry's own memory

    # A carry keeps its memory layout: a tiled state, or a layer's part of a batch of one, has another than the next.
    start = [state.clone(memory_format=torch.contiguous_format) for state in start]
    final, output = scan(run, start, inputs, dim=0)
    return list(final), output


def _lstm(x: Tensor, states: list[Tensor], w: Tensor, b: Tensor | None, w_hr: Tensor | None) -> list[Tensor]:
    h, c = states
    i, f, g, o = (x + functional.linear(h, w, b)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return [h if w_hr is None else functional.linear(h, w_hr), c]


def _gru(x: Tensor, states: list[Tensor], w: Tensor, b: Tensor | None, w_hr: Tensor | None) -> list[Tensor]:
    (h,) = states
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), functional.linear(h, w, b).chunk(3, -1)
    z = (x_z + h_z).sigmoid()
    return [(1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + z * h]


def _rnn(activation: Callable[[Tensor], Tensor]) -> Step:
    return lambda x, states, w, b, w_hr: [activation(x + functional.linear(states[0], w, b))]


_STEPS: dict[str, Step] = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _rnn(torch.tanh), "RNN_RELU": _rnn(torch.relu)}
