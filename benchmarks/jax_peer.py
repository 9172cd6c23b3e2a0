"""The attention form and the retrieval model in JAX: the peer that XLA compiles. Imported where JAX is installed."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers import DECAY, EPS, HEADS, NETWORK, RATE

Parameters = dict[str, Any]


def attention_form(
    inputs: Any, weight_hh: Any, h0: Any, norm_weight: Any, norm_bias: Any, a0: Any | None = None
) -> Any:
    """As `peers.attention_form`."""
    h, written, outputs = h0, [], []
    for t in range(inputs.shape[1]):
        z = inputs[:, t] + h @ weight_hh.T
        query = jax.nn.relu(z)
        written.append(query)
        seen = jnp.stack(written, axis=1)
        discounts = jnp.array([RATE * DECAY ** (t - n) for n in range(t + 1)], dtype=z.dtype)
        scores = jnp.einsum("bnh,bh->bn", seen, query) * discounts
        bracket = z + jnp.einsum("bn,bnh->bh", scores, seen)
        if a0 is not None:
            bracket = bracket + DECAY ** (t + 1) * jnp.einsum("bij,bj->bi", a0, query)
        mean = bracket.mean(-1, keepdims=True)
        variance = jnp.square(bracket - mean).mean(-1, keepdims=True)
        h = jax.nn.relu((bracket - mean) * jax.lax.rsqrt(variance + EPS) * norm_weight + norm_bias)
        outputs.append(h)
    return jnp.stack(outputs, axis=1)


def retrieval_loss(parameters: Parameters, tokens: Any, targets: Any) -> Any:
    """As `peers.retrieval_loss`."""

    def linear(inputs: Any, name: str) -> Any:
        return inputs @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]

    embedded = parameters["embedding.weight"][tokens]
    network = {name: parameters[f"rnn.network.{name}"] for name in NETWORK}
    width = len(network["weight_hh"])
    h0, a0 = jnp.zeros((len(tokens), width), embedded.dtype), None
    if f"{HEADS}.h.weight" in parameters:
        h0, a0 = (linear(embedded[:, 0], f"{HEADS}.{leaf}") for leaf in "ha")
        a0 = a0.reshape(-1, width, width)
    projected = embedded @ network["weight_ih"].T + network["bias"]
    output = attention_form(projected, network["weight_hh"], h0, network["norm_weight"], network["norm_bias"], a0)
    logits = linear(jax.nn.relu(linear(output[:, -1], "hidden")), "readout")
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)
    return -chosen.mean()


loss_and_gradients = jax.jit(jax.value_and_grad(retrieval_loss))


@functools.partial(jax.jit, donate_argnums=0)
def train(state: Any, tokens: Any, targets: Any, learning_rate: float) -> Any:
    """Adam (torch's defaults) over batches (N, B, T) and (N, B) in one call; returns the new state and N losses.

    The state is parameters, first moments, second moments and the number of steps done.
    """

    def step(state: Any, batch: Any) -> Any:
        parameters, first, second, count = state
        loss, grads = jax.value_and_grad(retrieval_loss)(parameters, *batch)
        count = count + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
        rate, correction = learning_rate / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
        parameters = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) / correction + 1e-8), parameters, first, second
        )
        return (parameters, first, second, count), loss

    return jax.lax.scan(step, state, (tokens, targets))


@jax.jit
def recurrence_gradients(tensors: tuple[Any, ...], cotangent: Any) -> Any:
    """Gradients of the outputs times a cotangent (B, T, H), of everything `attention_form` takes."""
    return jax.grad(lambda *given: (attention_form(*given) * cotangent).sum(), argnums=tuple(range(len(tensors))))(
        *tensors
    )
