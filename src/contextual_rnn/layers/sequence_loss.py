"""The loss of a network with fast weights that names a class for each sequence of tokens, in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn._autocast import in_autocast
from contextual_rnn._precision import wide
from contextual_rnn._shapes import Float, Int
from contextual_rnn._tensors import PLAIN_TENSORS, check_dense, described
from contextual_rnn._torch_internals import dispatch_mode, is_plain_call, is_tracing, is_transformed
from contextual_rnn.layers.fast_weights import FastWeightsRNN
from contextual_rnn.layers.fast_weights_state import split_state
from contextual_rnn.ops._fast_weights.classification import Classification, Parameters
from contextual_rnn.ops._fast_weights.options import LowRank
from contextual_rnn.ops.native.once import differentiable_once
from contextual_rnn.spec.tree import State

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
    `batch_first`, which it need not be. The loss is computed and returned in float32 at least. Where the CPU kernel
    serves, all come of one native call: a training step takes about half the time. Elsewhere (no gradient wanted,
    another device, torch.compile, torch.jit.trace, torch.func, autocast, hooks, parametrizations, an embedding with
    options, more than 2 H steps) the modules are called.

    Shapes: tokens (B, T) and targets (B,) int64, B and T at least 1, hx as `FastWeightsRNN` takes it. Raises ValueError
    for tensors that do not fit each other, an empty batch, which has no mean, and a token or target out of range (on a
    CPU, where they can be read), TypeError for modules of other kinds; RuntimeError where the gradient of the native
    call is differentiated again. Source: the model of Ba et al. (2016), section 4.1, and of the paper, section 2.2.1.
    """
    if not isinstance(network, FastWeightsRNN):
        raise TypeError(f"network: expected FastWeightsRNN, got {type(network).__name__}")
    for name, module in (("embedding", embedding), ("hidden", hidden), ("readout", readout)):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name}: expected a module, got {type(module).__name__}")
    _check_indices("tokens", tokens, 2, network)
    _check_indices("targets", targets, 1, network)
    if targets.shape[0] != tokens.shape[0]:
        raise ValueError(f"targets: expected shape ({tokens.shape[0]},), as tokens, got {tuple(targets.shape)}")
    modules = (embedding, network, hidden, readout)
    parameters = _parameters(*modules) if _is_plain(*modules) else None
    initial = _initial(hx)
    try:
        native = None if parameters is None else _native(parameters, initial, tokens, targets, network)
        scores = _scores(tokens, *modules, hx) if native is None else None
    except (RuntimeError, TypeError, ValueError) as error:
        _check_modules(*modules, kinds=not isinstance(error, ValueError))
        raise
    if parameters is None or native is None:
        assert scores is not None
        _check_range("targets", targets, scores.shape[-1])
        return functional.cross_entropy(scores, targets, ignore_index=_NO_TARGET)
    if initial[0] is None:
        initial = (parameters.embedding.new_zeros(tokens.shape[0], network.hidden_size), *initial[1:])
    return _SequenceLoss.apply(native, tokens, targets, *parameters, *initial)


def _scores(
    tokens: Tensor, embedding: nn.Module, network: FastWeightsRNN, hidden: nn.Module, readout: nn.Module, hx: State
) -> Tensor:
    """What the readout says of the last h, (B, classes), in float32 at least."""
    if isinstance(embedding, nn.Embedding):
        _check_range("tokens", tokens, embedding.num_embeddings)
    inputs = embedding(tokens)
    output, _ = network(inputs if network.batch_first else inputs.transpose(0, 1), hx)
    last = output[:, -1] if network.batch_first else output[-1]
    return wide(readout(torch.relu(hidden(last))))


_NO_TARGET = -(2**30)  # torch would leave out targets of -100


def _check_indices(name: str, indices: Tensor, axes: int, network: FastWeightsRNN) -> None:
    check_dense(name, indices)
    shape, device = "(batch, time)" if axes == 2 else "(batch,)", network.weight_hh.device
    if indices.dtype != torch.int64 or indices.ndim != axes:
        raise ValueError(f"{name}: expected torch.int64 of shape {shape}, got {described(indices)}")
    if indices.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, as the network, got one on {indices.device}")
    if 0 in indices.shape:
        raise ValueError(f"{name}: expected shape {shape} of at least one of each, got {tuple(indices.shape)}")


def _check_range(name: str, indices: Tensor, end: int) -> None:
    """Refuse indices outside 0 to end - 1, where they can be read without waiting for them."""
    if torch.compiler.is_compiling() or is_transformed(indices) or dispatch_mode() is not None or not indices.is_cpu:
        return
    least, most = int(indices.min()), int(indices.max())
    if least < 0 or most >= end:
        raise ValueError(f"{name}: expected 0 to {end - 1}, got {least} to {most}")


def _check_modules(
    embedding: nn.Module, network: FastWeightsRNN, hidden: nn.Module, readout: nn.Module, *, kinds: bool
) -> None:
    """Refuse modules that do not fit each other, and those of other kinds; called where one has failed."""
    width, like = network.hidden_size, network.weight_hh
    for name, module, kind in (
        ("embedding", embedding, nn.Embedding),
        ("hidden", hidden, nn.Linear),
        ("readout", readout, nn.Linear),
    ):
        if not isinstance(module, kind):
            if kinds:
                raise TypeError(f"{name}: expected nn.{kind.__name__}, got {type(module).__name__}")
            return
        if (module.weight.dtype, module.weight.device) != (like.dtype, like.device):
            received = f"{module.weight.dtype} on {module.weight.device}"
            raise ValueError(f"{name}: expected {like.dtype} on {like.device}, as the network, got {received}")
        if isinstance(module, nn.Embedding):
            if module.embedding_dim != network.input_size:
                raise ValueError(f"{name}: expected width {network.input_size}, got {module.embedding_dim}")
        elif module.in_features != width:
            raise ValueError(f"{name}: expected a layer of {width} inputs, got one of {module.in_features}")
        else:
            width = module.out_features


def _is_plain(embedding: nn.Module, network: nn.Module, hidden: nn.Module, readout: nn.Module) -> bool:
    """Whether the modules compute what their classes do, and no hook reads the values between them."""
    types = ((embedding, nn.Embedding), (network, FastWeightsRNN), (hidden, nn.Linear), (readout, nn.Linear))
    if any(type(module) is not expected or not is_plain_call(module) for module, expected in types):
        return False
    options: Any = embedding
    given = options.padding_idx is not None or options.max_norm is not None
    return not (given or options.sparse or options.scale_grad_by_freq)


def _parameters(
    embedding: nn.Embedding, network: FastWeightsRNN, hidden: nn.Linear, readout: nn.Linear
) -> Parameters | None:
    """None where a layer has no bias, which the native call needs."""
    if hidden.bias is None or readout.bias is None:
        return None
    # Not as attributes: a module searches three dicts for them.
    e, n, h, r = (module._parameters for module in (embedding, network, hidden, readout))  # pyright: ignore[reportPrivateUsage]
    of_network = map(n.get, ("weight_ih", "bias", "weight_hh", "norm_weight", "norm_bias"))
    tensors: Any = (e["weight"], *of_network, h["weight"], h["bias"], r["weight"], r["bias"])
    return Parameters(*tensors)


def _initial(hx: State | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """h0, dense A(0), and left and right of a low-rank one."""
    h0, a0 = split_state(hx)
    return (h0, None, a0.left, a0.right) if isinstance(a0, LowRank) else (h0, a0, None, None)


# The native call of each network, so that its parameters are checked once and not at every step.
_native_calls: WeakKeyDictionary[FastWeightsRNN, Classification] = WeakKeyDictionary()


def _native(
    parameters: Parameters, initial: Sequence[Tensor | None], tokens: Tensor, targets: Tensor, network: FastWeightsRNN
) -> Classification | None:
    """The native call, None where it does not apply."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or is_tracing() or dispatch_mode() is not None:
        return None
    weight, options = parameters.embedding, network.options
    call = _native_calls.get(network)
    known = call is not None and call.is_of(parameters, options)
    for tensor in (tokens, targets, *initial) if known else (tokens, targets, *parameters, *initial):
        if tensor is not None and (type(tensor) not in PLAIN_TENSORS or is_transformed(tensor)):
            return None
    wanted = any(tensor.requires_grad for tensor in (*parameters, *initial) if tensor is not None)
    if not wanted or in_autocast(weight.device):
        return None
    if not Classification.serves(weight, tokens.shape[1], network.hidden_size, options, network.backend):
        return None
    if known:
        return call
    if any(not tensor.is_contiguous() or tensor.is_neg() for tensor in parameters if tensor is not None):
        return None
    call = _native_calls[network] = Classification(parameters, None, options)
    return call


class _SequenceLoss(torch.autograd.Function):
    """Gradients are computed with the loss and returned in the backward pass, without a copy."""

    @staticmethod
    def forward(ctx: Any, native: Classification, tokens: Tensor, targets: Tensor, *tensors: Any) -> Tensor:
        loss, ctx.grads = _loss_and_gradients(native, tokens, targets, tensors)
        ctx.native = native
        ctx.save_for_backward(tokens, targets, *tensors)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens, targets, *tensors = ctx.saved_tensors
        grads, ctx.grads = ctx.grads, None
        if grads is None:  # a second backward pass through a retained graph, whose tensors may have moved
            native = Classification(Parameters(*tensors[:_N_PARAMETERS]), None, ctx.native.options)
            _, grads = _loss_and_gradients(native, tokens, targets, tensors)
        grads = [grad if need else None for grad, need in zip(grads, ctx.needs_input_grad[3:], strict=True)]
        if (scale := grad_output.item()) != 1:
            for grad in grads:
                if grad is not None:
                    grad.mul_(scale)
        return (None, None, None, *differentiable_once(tuple(grads), tuple(tensors), (grad_output,)))


def _loss_and_gradients(
    native: Classification, tokens: Tensor, targets: Tensor, tensors: Sequence[Any]
) -> tuple[Tensor, list[Tensor | None]]:
    h0, a0, left, right = tensors[_N_PARAMETERS:]
    result = native(tokens, targets, h0, a0 if left is None else LowRank(left, right))
    return result.loss, [*result.parameters, *result.initial]
