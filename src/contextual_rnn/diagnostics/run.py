"""Run a model under other initial states than its own, and see what changes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._lengths import check_lengths
from contextual_rnn._numbers import check_function, check_size, check_takes
from contextual_rnn._tensors import check_floats, check_readable
from contextual_rnn.diagnostics.diagnosis import Diagnosis
from contextual_rnn.diagnostics.groups import orders
from contextual_rnn.diagnostics.influence import Influence, influence_of, measured_steps
from contextual_rnn.diagnostics.intercept import Found, Intercept, watch
from contextual_rnn.diagnostics.not_finite import among, not_finite
from contextual_rnn.diagnostics.sigma import Sigma, sigma_of
from contextual_rnn.spec.networks import StateSpec, spec_of
from contextual_rnn.spec.place import check_like
from contextual_rnn.spec.rows import has_more
from contextual_rnn.spec.steps import evaluation
from contextual_rnn.spec.tree import State, describe_state

TIE = 1e-6  # of a loss: what the order of a sum in float32 changes


def diagnose(
    model: nn.Module,
    losses: Callable[[], Any],
    *,
    network: nn.Module | None = None,
    lengths: Tensor | None = None,
    groups: Sequence[Hashable] | Tensor | None = None,
    permutations: int = 99,
    influence_steps: int = 32,
    seed: int = 0,
) -> Diagnosis:
    """Did the initial state matter? For a model with one of this library's initial states anywhere inside.

        diagnose(model, lambda: squared_error(readout(model(x, context=context)[0]), target))

    `losses` runs the model on one batch and returns the loss of every step, (B, T), or of every sequence, (B,). It is
    called in evaluation mode with the initial state replaced: by zeros; by the mean of the batch; and `permutations`
    times by the states of other sequences, which is the test,

        p = (1 + number of permutations whose mean loss is at most the true one) / (1 + permutations),

    of the hypothesis that a state says nothing about its own sequence. It is exact for sequences drawn independently.
    Where they are not, such as windows of one series, `groups`, (B,), says which belong together, and the states of
    whole groups are permuted (exact for groups of the same size). `losses` is called also with a draw where the state
    is random, and once with gradients, for the influence of h(0) on h(t) at no more than `influence_steps` steps. h(t)
    is what `network` returns, by default the network of the `ContextualRNN` around the
    initial state; `losses` may return it instead, as (losses, h) with h (B, T, H). Where losses, states or h(t) are not
    finite, the diagnosis names them, and has no p-value where they are losses of the test. `lengths`, (B,), says how
    long each sequence of a padded batch is; steps that none has are left out. The same `seed` gives the same diagnosis.
    Modes, parameters, their gradients and the global generators are left as they were.

    Raises ValueError for a model with no initial state or several, for `losses` that do not call it once, are of
    another shape, or forbid gradients, for fewer than two sequences or groups and for bad lengths or sizes, TypeError
    for arguments of another type.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a module, got {type(model).__name__}")
    options = _Options(lengths, groups, permutations, influence_steps, seed)
    options.check(losses, network)
    check_takes("losses", losses, "a function without arguments")
    intercept = Intercept(model, network)
    with evaluation(model), torch.inference_mode(False):
        with torch.no_grad(), _same_draws(options.seed):
            intercept.run(losses, None)
        spec, moments = intercept.initial_state.spec, intercept.moments
        leaves = _leaves(spec, intercept.state)
        sigma = {name: scale for name, leaf in moments.items() if (scale := sigma_of(leaf)) is not None}
        with torch.no_grad():
            drawn = _leaves(spec, intercept.draw(options.seed)) if sigma else None
        return _diagnose(lambda state: intercept.run(losses, state), spec, leaves, drawn, sigma, options)


def diagnose_state(
    losses: Callable[[State], Any],
    state: State,
    network: nn.Module | StateSpec,
    *,
    lengths: Tensor | None = None,
    groups: Sequence[Hashable] | Tensor | None = None,
    permutations: int = 99,
    influence_steps: int = 32,
    seed: int = 0,
) -> Diagnosis:
    """As `diagnose`, for anything that can be run from a given state, such as a network of torch's without a wrapper.

        diagnose_state(lambda state: squared_error(readout(lstm(x, state)[0]), target), (h0, c0), lstm)

    `losses(state)` returns losses (B, T) or (B,), or (losses, h). `network` (or a `StateSpec`) says how `state` is laid
    out; where it is a module that `losses` calls, h(t) is read off it, and it alone is put into evaluation mode.
    Raises as `diagnose`, and for a state that is not one of a batch as the network takes it.
    """
    options = _Options(lengths, groups, permutations, influence_steps, seed)
    options.check(losses, None)
    check_takes("losses", losses, "a function of a state", state)
    spec = spec_of(network)
    leaves = _leaves(spec, state)
    module = network if isinstance(network, nn.Module) else None
    if module is not None:
        check_like("state", module, spec.tree, state)
    with nullcontext() if module is None else evaluation(module), torch.inference_mode(False):
        return _diagnose(lambda state: watch(partial(losses, state), module), spec, leaves, None, {}, options)


@dataclass(frozen=True)
class _Options:
    lengths: Tensor | None
    groups: Sequence[Hashable] | Tensor | None
    permutations: int
    influence_steps: int
    seed: int

    def check(self, losses: object, network: object) -> None:
        check_function("losses", losses)
        if not (network is None or isinstance(network, nn.Module)):
            raise TypeError(f"network: expected a module or None, got {type(network).__name__}")
        for name, least in (("permutations", 0), ("influence_steps", 2), ("seed", 0)):
            object.__setattr__(self, name, check_size(name, getattr(self, name), least))


def _diagnose(
    run: Callable[[State], Found],
    spec: StateSpec,
    leaves: Mapping[str, Tensor],
    drawn: Mapping[str, Tensor] | None,
    sigma: Mapping[str, Sigma],
    options: _Options,
) -> Diagnosis:
    batch = len(next(iter(leaves.values())))
    number_of_groups, permuted = orders(options.groups, batch, options.permutations, options.seed)

    def under(arm: str, leaves: Mapping[str, Tensor]) -> _Means:
        with torch.no_grad(), _same_draws(options.seed):
            return _Means.of(arm, run(spec.pack(leaves))[0], batch, options.lengths)

    def shuffle(order: Tensor) -> _Means:
        return under("shuffled", {name: leaf[order.to(leaf.device)] for name, leaf in leaves.items()})

    true, floats = under("true", leaves), _floats(leaves)
    starts = {leaf.name: leaf.start for leaf in spec}
    means = {name: leaf.mean(0, keepdim=True).expand_as(leaf) for name, leaf in floats.items()}
    arms = {
        "true": true,
        "zeroed": under(
            "zeroed", {**leaves, **{name: torch.full_like(leaf, starts[name]) for name, leaf in floats.items()}}
        ),
        "mean": under("mean", {**leaves, **means}),
    }
    p_value = None
    shuffled = [shuffle(order) for order in permuted]
    if shuffled:
        arms["shuffled"] = _Means(
            torch.stack([means.steps for means in shuffled]).mean(0),
            sum(means.overall for means in shuffled) / len(shuffled),
            among(means.not_finite for means in shuffled),
        )
        finite = all(arms[arm].not_finite is None for arm in ("true", "shuffled"))
        if finite and any((leaf != leaf[:1]).any() for leaf in leaves.values()):
            # One that gives every sequence a state of equal numbers is as good, however its sum was rounded.
            as_good = sum(means.overall <= true.overall + TIE * abs(true.overall) for means in shuffled)
            p_value = (1 + as_good) / (1 + len(shuffled))
    if drawn is not None:
        arms["sampled"] = under("sampled", drawn)
    influence, not_finite_h = _influence(run, spec, leaves, options)
    states = [
        not_finite(f"{kind} {name}(0)", leaf, f"{name}(0)")
        for kind, state in (("the state", leaves), ("the draw of", drawn or {}))
        for name, leaf in state.items()
    ]
    sentences = [*states, *(means.not_finite for means in arms.values()), not_finite_h]
    return Diagnosis(
        losses={name: means.steps for name, means in arms.items()},
        overall={name: means.overall for name, means in arms.items()},
        permutations=options.permutations,
        p_value=p_value,
        influence=influence,
        sigma=sigma,
        groups=None if options.groups is None else number_of_groups,
        not_finite=tuple(sentence for sentence in sentences if sentence is not None),
    )


def _influence(
    run: Callable[[State], Found], spec: StateSpec, leaves: Mapping[str, Tensor], options: _Options
) -> tuple[Influence | None, str | None]:
    """The influence, if h(t) is known, and a sentence on values of h(t) that are not finite."""
    inputs = {name: leaf.clone().requires_grad_() for name, leaf in _floats(leaves).items()}
    # cuDNN has no backward pass in evaluation mode.
    with torch.enable_grad(), _same_draws(options.seed), torch.backends.cudnn.flags(enabled=False):
        _, hidden = run(spec.pack({**leaves, **inputs}))
        if hidden is None:
            return None, None
        if not hidden.requires_grad:
            raise ValueError("losses: expected h(t) with a gradient, got one without; is it run under torch.no_grad?")
        sequences = next(iter(leaves.values())).shape[0]
        if len(hidden) != sequences:
            raise ValueError(
                f"losses: expected h(t) of {sequences} sequences, got {len(hidden)}; sequences without a step have "
                "none: leave them out, or return (losses, h) with all of them"
            )
        hidden, padding = _without_padding(hidden, options.lengths)
        steps = measured_steps(hidden.shape[1], options.influence_steps)
        generator = torch.Generator().manual_seed(options.seed)
        real = hidden if padding is None else hidden.detach().masked_fill(padding[..., None].to(hidden.device), 0.0)
        return influence_of(hidden, inputs, steps, options.lengths, generator), not_finite("h(t)", real, "h")


def _without_padding(values: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The steps of (B, T, ...) that any sequence has, and which are after the end of each; None without lengths."""
    if lengths is None:
        return values, None
    check_lengths(lengths, *values.shape[:2])
    if not (longest := int(lengths.max())):
        raise ValueError("lengths: expected at least one real step, got none")
    return values[:, :longest], torch.arange(longest, device="cpu") >= lengths.cpu()[:, None]


@dataclass(frozen=True)
class _Means:
    """Mean losses: of each step, (T,), and over all steps and sequences; a sentence on those that are not finite."""

    steps: Tensor
    overall: float
    not_finite: str | None

    @classmethod
    def of(cls, arm: str, losses: object, batch: int, lengths: Tensor | None) -> _Means:
        check_readable("losses", losses, "a function that returns a tensor")
        assert isinstance(losses, Tensor)
        if losses.is_complex():
            raise TypeError(f"losses: expected real numbers, got {losses.dtype}")
        if losses.ndim not in (1, 2) or len(losses) != batch or not losses.numel():
            raise ValueError(f"losses: expected ({batch}, steps) or ({batch},), got {tuple(losses.shape)}")
        values, padding = losses.detach().double().cpu(), None
        if values.ndim == 2:
            values, padding = _without_padding(values, lengths)
        if padding is not None:
            values = values.masked_fill(padding, 0.0)
        bad = not_finite(f"losses under the state {arm}", values, "losses")
        if values.ndim == 1:
            return cls(values.mean()[None], values.mean().item(), bad)
        if padding is None:
            return cls(values.mean(0), values.mean().item(), bad)
        real = ~padding
        return cls(values.sum(0) / real.sum(0), (values.sum() / real.sum()).item(), bad)


def _leaves(spec: StateSpec, state: State) -> dict[str, Tensor]:
    """The leaves of a batch of states, each (B, *shape), detached."""
    leaves = {name: leaf.detach() for name, leaf in spec.unpack(state).items()}
    spec.check_domains(leaves, "state")
    for leaf in leaves.values():
        check_readable("state", leaf)
        if leaf.is_floating_point():
            check_floats("state", leaf)
    if any(leaf.ndim == len(described.shape) for described, leaf in zip(spec, leaves.values(), strict=True)):
        raise ValueError(f"state: expected a batch of states, got that of one example, {describe_state(state)}")
    if (batch := len(next(iter(leaves.values())))) < 2:
        raise ValueError(f"state: expected those of two sequences or more, got {batch}")
    if has_more(spec.tree, state):
        raise ValueError(f"state: expected {spec.describe()}, got {describe_state(state)}")
    return leaves


def _floats(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The leaves that can be averaged and differentiated; the others stay as they are."""
    return {name: leaf for name, leaf in leaves.items() if leaf.is_floating_point() or leaf.is_complex()}


@contextmanager
def _same_draws(seed: int) -> Generator[None, None, None]:
    """All other random numbers are the same under every state."""
    cuda = torch.cuda.is_initialized()
    with torch.random.fork_rng(list(range(torch.cuda.device_count())) if cuda else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes longer than a small network
        if cuda:
            torch.cuda.manual_seed_all(seed)
        yield
