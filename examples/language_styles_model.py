"""The language model of the example, and what is trained beside it: low-rank updates, a bias of the output."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig, logging

from contextual_rnn import InitialState
from contextual_rnn.language import initial_cache

logging.set_verbosity_error()  # on a CPU its kernels are those of PyTorch
BATCH = 16


def new_model(width: int) -> Qwen3_5ForCausalLM:
    """Of bytes: gated delta rule, attention, gated delta rule; a state of 4 matrices of 8 x 16 in two layers."""
    model = Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            vocab_size=256,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            linear_num_key_heads=4,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=16,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    # Time steps from 0.001 to 0.1, as such models are trained; transformers' own start forgets within a step or two.
    for name, parameter in model.named_parameters():
        if name.endswith("dt_bias"):
            steps = torch.empty_like(parameter).uniform_(math.log(0.001), math.log(0.1)).exp()
            parameter.data = steps + (-torch.expm1(-steps)).log()
    return model


class LowRank(nn.Module):
    """W + B A for the projections of every recurrent layer; B is zero at first, so that nothing has changed yet."""

    def __init__(self, model: nn.Module, rank: int):
        super().__init__()
        names = ("in_proj_qkv", "in_proj_z", "out_proj")
        self.layers: list[Any] = [layer for name, layer in model.named_modules() if name.endswith(names)]
        sizes = [layer.weight.shape for layer in self.layers]
        self.a = nn.ParameterList(torch.randn(rank, inputs) / inputs**0.5 for _, inputs in sizes)
        self.b = nn.ParameterList(torch.zeros(outputs, rank) for outputs, _ in sizes)

    @contextmanager
    def added(self) -> Iterator[None]:
        for layer, a, b in zip(self.layers, self.a, self.b, strict=True):
            parametrize.register_parametrization(layer, "weight", _Sum(b @ a))
        try:
            yield
        finally:
            for layer in self.layers:
                original = layer.parametrizations.weight.original
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
                layer.weight = original


class _Sum(nn.Module):
    def __init__(self, change: Tensor):
        super().__init__()
        self.change = change

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.change


class Bias(nn.Module):
    """Added to the scores of the next byte."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(256))


def bits(
    model: nn.Module, extra: nn.Module | None, rows: Tensor, context: Tensor, prefix: Tensor | None = None
) -> Tensor:
    """Bits of each byte of the rows (B, T) but the first, (B, T - 1), with what a style adds.

    `context` is what a state of a context receives, `prefix` texts that are read before.
    """
    given = rows if prefix is None else torch.cat([prefix, rows], 1)
    arguments = {}
    if isinstance(extra, InitialState):
        own = context.expand(len(rows), -1) if extra.reads_context else None
        arguments["cache"] = initial_cache(model, extra(own, len(rows)))
    if isinstance(extra, LowRank):
        with extra.added():
            scores = model(given).logits
    else:
        scores = model(given, **arguments).logits
    scores = scores[:, -rows.shape[1] : -1]
    scores = scores + extra.bias if isinstance(extra, Bias) else scores
    losses = functional.cross_entropy(scores.transpose(1, 2), rows[:, 1:], reduction="none")
    return losses / torch.tensor(2.0).log()


def train(
    model: nn.Module,
    extra: nn.Module | None,
    rows: Tensor,
    context: Tensor,
    updates: int,
    rate: float,
    beta: float = 0.0,
) -> nn.Module:
    """Train `extra`, or the model where there is none, on rows (S, N, T) of styles with contexts (S, 256)."""
    trained = [parameter for parameter in (extra or model).parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, updates)
    for _ in range(updates):
        style = torch.randint(len(rows), (BATCH,))
        batch = rows[style, torch.randint(rows.shape[1], (BATCH,))]
        loss = bits(model, extra, batch, context[style]).mean()
        if beta:
            loss = loss + beta * extra.kl(context[style]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    return (extra or model).eval()


def histogram(rows: Tensor) -> Tensor:
    """Of bytes, (..., N, T) -> (..., 256): the square roots of their shares, so that rare ones count."""
    return functional.one_hot(rows, 256).float().mean((-3, -2)).sqrt()
