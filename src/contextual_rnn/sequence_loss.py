"""The loss of a network with fast weights that names a class for each sequence of tokens, in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn._autocast import in_autocast
from contextual_rnn._shapes import Float, Int
from contextual_rnn._tree import State
from contextual_rnn.fast_weights import FastWeightsRNN, split_state
from contextual_rnn.ops.backend import PLAIN, is_transformed
from contextual_rnn.ops.classification import Classification, Parameters
from contextual_rnn.ops.once import differentiable_once
from contextual_rnn.ops.options import FastWeightsOptions, LowRank

_N_PARAMETERS = len(Parameters._fields)


def sequence_cross_entropy(
    tokens: Int[Tensor, "B T"],
    targets: Int[Tensor, " B"],
    embedding: nn.Embedding,
    network: FastWeightsRNN,
    hidden: nn.Linear,
    readout: nn.Linear,
    hx: State | None = None,
) -> Float[Tensor, ""]:
    """Mean cross entropy of a readout on the last h of a network with fast weights over tokens, in nats.

        loss = - 1/B sum log softmax(W2 relu(W1 h(T) + b1) + b2)[target],  h = network(embedding(tokens), hx)

    Loss and gradients, those of hx too, are those of the modules called one after the other:
    `cross_entropy(readout(relu(hidden(network(embedding(tokens), hx)[0][:, -1]))), targets)` where the network is
    `batch_first`, which it need not be. Where the CPU kernel serves, all come of one native call: a training step takes
    about half the time. Elsewhere (no gradient wanted, another device, torch.compile, torch.func, autocast, hooks,
    parametrizations, an embedding with options, more than 2 H steps) the modules are called.

    Shapes: tokens (B, T) and targets (B,) int64, hx as `FastWeightsRNN` takes it. Raises ValueError for tensors that
    do not fit each other and for a token or target out of range, TypeError for another network; RuntimeError where
    the gradient of the native call is differentiated again. Source: the model of Ba et al. (2016), section 4.1, and
    of the paper, section 2.2.1.
    """
    if not isinstance(network, FastWeightsRNN):
        raise TypeError(f"network: expected FastWeightsRNN, got {type(network).__name__}")
    modules = (embedding, network, hidden, readout)
    parameters = _parameters(*modules) if _is_plain(*modules) else None
    initial = _initial(hx)
    if parameters is None or not _serves(parameters, initial, tokens, network):
        inputs = embedding(tokens)
        output, _ = network(inputs if network.batch_first else inputs.transpose(0, 1), hx)
        last = output[:, -1] if network.batch_first else output[-1]
        return functional.cross_entropy(readout(torch.relu(hidden(last))), targets)
    if initial[0] is None:
        initial = (parameters.embedding.new_zeros(len(tokens), network.hidden_size), *initial[1:])
    return _SequenceLoss.apply(tokens, targets, network.options, *parameters, *initial)


def _is_plain(embedding: nn.Module, network: nn.Module, hidden: nn.Module, readout: nn.Module) -> bool:
    """Whether the modules compute what their classes do, and nobody waits for what passes between them."""
    types = ((embedding, nn.Embedding), (network, FastWeightsRNN), (hidden, nn.Linear), (readout, nn.Linear))
    if any(type(module) is not expected for module, expected in types):
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module, _ in types for name in hooks):
        return False
    options: Any = embedding
    given = options.padding_idx is not None or options.max_norm is not None
    return not (given or options.sparse or options.scale_grad_by_freq)


def _parameters(
    embedding: nn.Embedding, network: FastWeightsRNN, hidden: nn.Linear, readout: nn.Linear
) -> Parameters | None:
    """None where a layer has no bias, which the native call wants."""
    if hidden.bias is None or readout.bias is None:
        return None
    return Parameters(
        embedding.weight, network.weight_ih, network.bias, network.weight_hh, network.norm_weight, network.norm_bias,
        hidden.weight, hidden.bias, readout.weight, readout.bias,
    )  # fmt: skip


def _initial(hx: State | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """h0, dense A(0), and left and right of a low-rank one."""
    h0, a0 = split_state(hx)
    return (h0, None, a0.left, a0.right) if isinstance(a0, LowRank) else (h0, a0, None, None)


def _serves(parameters: Parameters, initial: Sequence[Tensor | None], tokens: Tensor, network: FastWeightsRNN) -> bool:
    tensors = [tensor for tensor in (*parameters, *initial) if tensor is not None]
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not isinstance(tokens, Tensor):
        return False
    if any([type(tensor) not in PLAIN or is_transformed(tensor) for tensor in tensors]):
        return False
    if not any([tensor.requires_grad for tensor in tensors]) or tokens.ndim != 2 or 0 in tokens.shape:
        return False
    weight = parameters.embedding
    if in_autocast(weight.device) or any([not tensor.is_contiguous() for tensor in parameters if tensor is not None]):
        return False
    return Classification.serves(weight, tokens.shape[1], network.hidden_size, network.options, network.backend)


class _SequenceLoss(torch.autograd.Function):
    """Gradients are made with the loss and wait for the backward pass, which scales them."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, targets: Tensor, options: FastWeightsOptions, *tensors: Any) -> Tensor:
        parameters, (h0, a0, left, right) = Parameters(*tensors[:_N_PARAMETERS]), tensors[_N_PARAMETERS:]
        grads = Parameters(*(None if p is None else torch.empty_like(p) for p in parameters))  # pyright: ignore[reportArgumentType]
        classification = Classification(parameters, grads, options)
        _, of_initial = classification(tokens, targets, h0, a0 if left is None else LowRank(left, right))
        ctx.save_for_backward(*grads, *of_initial, *tensors)
        return classification.loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[3:]
        made, tensors = saved[: len(needs)], saved[len(needs) :]
        grads = [
            grad * grad_output if need and grad is not None else None for grad, need in zip(made, needs, strict=True)
        ]
        return (None, None, None, *differentiable_once(tuple(grads), tensors))
