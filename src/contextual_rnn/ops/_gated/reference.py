"""The equations of nn.RNN, nn.LSTM and nn.GRU step by step, in plain PyTorch: what every other way is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from contextual_rnn.ops._gated.kernel import Given, Settings


def layer(given: Given, settings: Settings) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, O), zero where no segment is, and the final states of each row, (1, B, O), with c beside h.

    Segment after segment and step after step; differentiable any number of times.
    """
    batch, steps, _ = given.inputs.shape
    output = given.inputs.new_zeros(batch, steps, given.weight_hh.shape[1])
    finals: dict[int, Tensor] = {}
    places, values = [], []
    # Cut at once: a step of its own would have a gradient of the whole.
    inputs, h0 = [of_row.unbind(0) for of_row in given.inputs.unbind(0)], given.h0[0].unbind(0)
    c0 = [None] * len(h0) if given.c0 is None else given.c0[0].unbind(0)
    for (row, start, length, last), h, c in zip(given.table.T.tolist(), h0, c0, strict=True):
        times = range(start, start + length)
        for step in reversed(times) if settings.reverse else times:
            h, c = _step(settings.mode, given, inputs[row][step], h, c)
            places.append((row, step))
            values.append(h)
        if last:
            finals[row] = h if c is None else torch.cat([h, c])
    if places:
        index = torch.tensor(places, device="cpu").T
        output = output.index_put(tuple(index), torch.stack(values))
    if not batch:
        return output, output.new_zeros(1, 0, given.h0.shape[2] + (0 if given.c0 is None else given.c0.shape[2]))
    final = torch.stack([finals[row] for row in range(batch)])
    return output, torch.stack([final])  # no view, which could not be detached in place


def _step(mode: str, given: Given, x: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One step of one sequence; https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html and its siblings."""
    from_input = functional.linear(x, given.weight_ih, given.bias_ih)
    from_state = functional.linear(h, given.weight_hh, given.bias_hh)
    if mode == "GRU":
        (r_x, z_x, n_x), (r_h, z_h, n_h) = from_input.chunk(3), from_state.chunk(3)
        r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
        n = (n_x + r * n_h).tanh()
        return (1 - z) * n + z * h, None
    if mode != "LSTM":
        summed = from_input + from_state
        return summed.tanh() if mode == "RNN_TANH" else summed.relu(), None
    assert c is not None
    i, f, g, o = (from_input + from_state).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if given.weight_hr is None else functional.linear(h, given.weight_hr)), c
