"""LSTM and GRU with resets as a scan in JAX, the peer of `ragged` that XLA compiles. Imported where JAX is there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from torch import Tensor

Parameters = dict[str, Any]


def lstm(parameters: Parameters, projected: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
    h, c = state
    gates = projected + h @ parameters["weight_hh_l0"].T + parameters["bias_hh_l0"]
    entry, forget, cell, out = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(entry) * jnp.tanh(cell)
    return jax.nn.sigmoid(out) * jnp.tanh(c), c


def gru(parameters: Parameters, projected: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
    (h,) = state
    recurrent = h @ parameters["weight_hh_l0"].T + parameters["bias_hh_l0"]
    (reset, update, new), (reset_h, update_h, new_h) = (jnp.split(part, 3, axis=-1) for part in (projected, recurrent))
    update = jax.nn.sigmoid(update + update_h)
    new = jnp.tanh(new + jax.nn.sigmoid(reset + reset_h) * new_h)
    return ((1 - update) * new + update * h,)


CELLS: dict[str, Callable[..., Any]] = {"LSTM": lstm, "GRU": gru}


def outputs(kind: str, parameters: Parameters, start: tuple[Any, ...], x: Any, reset: Any) -> Any:
    """(B, T, H) from the learned start (1, 1, H), to which a row goes back where `reset` (B, T) says so."""
    projected = x @ parameters["weight_ih_l0"].T + parameters["bias_ih_l0"]
    first = tuple(jnp.broadcast_to(leaf[0], (len(x), leaf.shape[-1])) for leaf in start)

    def step(state: tuple[Any, ...], now: tuple[Any, Any]) -> tuple[tuple[Any, ...], Any]:
        state = tuple(jnp.where(now[1][:, None], anew, leaf) for anew, leaf in zip(first, state, strict=True))
        state = CELLS[kind](parameters, now[0], state)
        return state, state[0]

    return jax.lax.scan(step, first, (projected.swapaxes(0, 1), reset.T))[1].swapaxes(0, 1)


@functools.partial(jax.jit, static_argnums=0)
def gradients(kind: str, parameters: Parameters, start: tuple[Any, ...], x: Any, reset: Any, cotangent: Any) -> Any:
    """The outputs, and the gradients of the weights and the start."""
    computed, pull = jax.vjp(lambda weights, leaves: outputs(kind, weights, leaves, x, reset), parameters, start)
    return computed, *pull(cotangent)


def step_of(kind: str, network: Any, start: tuple[Tensor, ...], x: Tensor, reset: Tensor, cotangent: Tensor) -> Any:
    """A training step without the optimizer, as a call; (outputs, gradients of the weights, of the start)."""
    with jax.enable_x64(x.element_size() == 8):
        parameters = {name: jnp.array(weight.detach().numpy()) for name, weight in network.named_parameters()}
        leaves = tuple(jnp.array(leaf.detach().numpy()) for leaf in start)
        given = [jnp.array(tensor.numpy()) for tensor in (x, reset, cotangent)]

    def step() -> Any:
        with jax.enable_x64(x.element_size() == 8):
            return jax.block_until_ready(gradients(kind, parameters, leaves, *given))

    return step
