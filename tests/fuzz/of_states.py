"""Valid calls of the initial states."""

from __future__ import annotations

from typing import Any

import torch
from tests.fuzz.call import Call, case
from tests.fuzz.draw import KINDS, NETS, Draw, network_and_spec, random_state, subject
from tests.networks import tensors_of
from torch import nn

import contextual_rnn as ours
from contextual_rnn import StateSpec, state_spec

RANDOM = ("normal", "scaled normal", "free normal")


def _net(d: Draw) -> nn.Module:
    return NETS[d.choose(list(NETS))][0]()


def _network(d: Draw) -> Any:
    network, spec = network_and_spec(d)
    return d.choose([network, spec])


def _finite(result: Any) -> None:
    for tensor in tensors_of(result):
        assert tensor.isfinite().all(), "a result that is not finite"


def _state_of(spec: StateSpec, batch: int | None) -> Any:
    def expect(state: Any) -> None:
        for leaf in spec.unpack(state).items():
            expected = ((batch,) if batch is not None else ()) + spec[leaf[0]].tree.shape
            assert tuple(leaf[1].shape) == expected, f"expected {expected}, got {tuple(leaf[1].shape)}"
            assert leaf[1].dtype == torch.float32, f"got {leaf[1].dtype}"
        _finite(state)

    return expect


@case("ConstantState")
def _(d: Draw) -> Call:
    network, spec = network_and_spec(d)
    owner = d.choose([network, spec])
    values = [0.0, 1, 0.5, random_state(spec if owner is spec else state_spec(network), None)]
    return Call(ours.ConstantState, [owner, d.choose(values)], makes=True)


@case("FreeState")
def _(d: Draw) -> Call:
    options = d.some(noise=0.1, value=0.5, error_decay=0.9)
    return Call(ours.FreeState, [_network(d)], options, makes=True)


@case("ContextState")
def _(d: Draw) -> Call:
    options = d.some(features=6, zero_init=True, activation=torch.tanh)
    return Call(ours.ContextState, [_network(d), _net(d)], options, makes=True)


@case("NormalState")
def _(d: Draw) -> Call:
    options = d.some(
        min_scale=0.1, features=6, zero_init=True, activation=torch.tanh, scale_from_context=d.chance(0.5), scale=0.5
    )
    return Call(ours.NormalState, [_network(d), _net(d)], options, makes=True)


@case("LeafwiseState")
def _(d: Draw) -> Call:
    network, spec = network_and_spec(d)
    states = {leaf.name: ours.FreeState(spec[leaf.name]) for leaf in spec}
    return Call(ours.LeafwiseState, [d.choose([network, spec]) if spec is state_spec(network) else spec], states,
                makes=True)  # fmt: skip


@case("SumState")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    states = [ours.FreeState(spec), ours.ContextState(spec, _net(d))]
    return Call(ours.SumState, [states, [0.25, 2]], makes=True)


@case("ContextDropout")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    options = d.some(p=0.5, guidance=1.5, null=ours.ConstantState(spec))
    return Call(ours.ContextDropout, [ours.ContextState(spec, _net(d))], options, makes=True)


class OwnState(ours.InitialState):
    """A user's own: its moments are those of another state."""

    def __init__(self, network: Any, inner: ours.InitialState):
        super().__init__(network)
        self.inner = inner

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> Any:
        return self.inner.moments(context, batch_size, batched)


@case("LatentState")
def _(d: Draw) -> Call:
    options = d.some(scale=0.5, min_scale=0.1, scale_from_context=False)
    return Call(ours.LatentState, [_network(d), _net(d), 3], options, makes=True)


@case("LatentState.decode")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    batch = d.choose([None, 1, 3])
    z = torch.randn(*(() if batch is None else (batch,)), 3)
    return Call(ours.LatentState(spec, _net(d), 3).decode, [z], expect=_state_of(spec, batch))


@case("LatentState.log_prob")
def _(d: Draw) -> Call:
    s, batch = subject(d, ("latent",)), d.choose([None, 1, 3])
    z = torch.randn(*(() if batch is None else (batch,)), *s.state.latent.spec.tree.shape)  # pyright: ignore
    return Call(s.state.log_prob, [z, s.new_context(d, batch)], expect=_finite)


@case("InitialState")
def _(d: Draw) -> Call:
    network, spec = network_and_spec(d)
    return Call(OwnState, [d.choose([network, spec]), ours.FreeState(spec)], makes=True)


@case("Moments")
def _(d: Draw) -> Call:
    """A named tuple of anything: states check what their `moments` return."""
    return Call(ours.Moments, [torch.randn(2, 3), d.choose([None, 0.5, torch.rand(2, 3)])], keep=("0", "1"))


def _forward_of(*kinds: str) -> Any:
    def build(d: Draw) -> Call:
        s = subject(d, kinds)
        batch = d.choose([None, 1, 2, 3])
        context, options = s.new_context(d, batch), d.some(generator=d.generator())
        args: list[Any] = [context]
        rows = batch
        if batch is not None and (not s.state.reads_context or d.chance(0.5)):
            args.append(batch)
            if d.chance(0.3):
                options["rows"] = torch.randint(batch, (4,))
                rows = 4
        elif batch is None:
            options |= d.some(batched=False)
        return Call(s.state, args, options, expect=_state_of(s.spec, rows))

    return build


FORWARDS = {
    "InitialState": KINDS, "ConstantState": ("constant",), "FreeState": ("free", "noisy free", "error free"),
    "ContextState": ("context", "zero context"), "NormalState": RANDOM, "LeafwiseState": ("leafwise",),
    "SumState": ("sum",), "ContextDropout": ("dropout",), "LatentState": ("latent",),
}  # fmt: skip
for _name, _kinds in FORWARDS.items():
    case(f"{_name}.forward")(_forward_of(*_kinds))


def _moments_of(*kinds: str) -> Any:
    def build(d: Draw) -> Call:
        s, batch = subject(d, kinds), d.choose([1, 3])
        return Call(s.state.moments, [s.new_context(d, batch), batch, True])

    return build


def _reads_context(d: Draw) -> Call:
    s = subject(d)
    return Call(lambda state: state.reads_context, [s.state], keep=("0",))


for _name, _kinds in FORWARDS.items():
    if _name != "InitialState":
        case(f"{_name}.moments")(_moments_of(*_kinds))
    case(f"{_name}.reads_context")(_reads_context)


# The names of states beside their calls: what is printed, saved and restored.
RESET = {
    "InitialState": "reset_parameters", "ConstantState": "extra_repr", "ContextState": "extra_repr reset_parameters "
    "saved_words", "FreeState": "extra_repr reset_parameters saved_noise", "LeafwiseState": "extra_repr "
    "reset_parameters", "NormalState": "extra_repr reset_parameters saved_min_scale", "SumState": "extra_repr "
    "reset_parameters saved_weights",
    "LatentState": "extra_repr reset_parameters",
    "ContextDropout": "extra_repr reset_parameters saved_p saved_guidance",
}  # fmt: skip


def _reset_of(names: str, *kinds: str) -> Any:
    def build(d: Draw) -> Call:
        def use(state: ours.InitialState) -> Any:
            state.reset_parameters()
            return [value() if callable(value) else value for value in (getattr(state, name) for name in names.split())]

        return Call(use, [subject(d, kinds).state], keep=("0",), changes=True, makes=True)

    return build


for _name, _names in RESET.items():
    case(*(f"{_name}.{each}" for each in _names.split()))(_reset_of(_names, *FORWARDS[_name]))


@case("InitialState.check_saved")
def _(d: Draw) -> Call:
    state, noise = subject(d, ("noisy free",)).state, d.choose([0.0, 0.5])
    return Call(lambda state: state.check_saved("noise", noise), [state], keep=("0",))


@case("InitialState.sample")
def _(d: Draw) -> Call:
    s, batch, samples = subject(d), d.choose([1, 2, 3]), d.choose([1, 3])
    options = d.some(generator=d.generator())
    if d.chance(0.5) or not s.state.reads_context:
        options["batch_size"] = batch
    return Call(s.state.sample, [s.new_context(d, batch), samples], options, expect=_state_of(s.spec, batch * samples))


@case("InitialState.posterior", "LatentState.posterior")
def _(d: Draw) -> Call:
    """All that a posterior has, of every state with noise."""
    s, batch = subject(d, (*RANDOM, "noisy free", "latent", "noisy dropout")), d.choose([None, 1, 3])
    context, options = s.new_context(d, batch), d.some(generator=d.generator())
    if batch is not None and (not s.state.reads_context or d.chance(0.5)):
        options["batch_size"] = batch

    def use(*args: Any, **options: Any) -> Any:
        q = s.state.posterior(*args, **options)
        state = q.sample(2, options.get("generator")) if batch else q.rsample(options.get("generator"))
        return state, q.mean, q.kl(free_bits=0.1), q.log_prob(q.drawn), q.log_prior(q.drawn)

    def expect(result: Any) -> None:
        assert result[2].shape == (() if batch is None else (batch,)), f"got {tuple(result[2].shape)}"
        _finite(result)

    return Call(use, [context], options, expect=expect)


@case("InitialState.distribution")
def _(d: Draw) -> Call:
    s, batch = subject(d, RANDOM), d.choose([1, 3])
    return Call(s.state.distribution, [s.new_context(d, batch), batch])


@case("InitialState.log_prob")
def _(d: Draw) -> Call:
    s, batch = subject(d, RANDOM), d.choose([None, 1, 3])

    def expect(value: Any) -> None:
        assert value.shape == (() if batch is None else (batch,)), f"got {tuple(value.shape)}"
        _finite(value)

    return Call(s.state.log_prob, [random_state(s.spec, batch), s.new_context(d, batch)], expect=expect)


@case("InitialState.kl")
def _(d: Draw) -> Call:
    s, batch = subject(d, RANDOM), d.choose([1, 3])

    def expect(value: Any) -> None:
        assert value.shape == (batch,), f"got {tuple(value.shape)}"
        assert (value >= -1e-4).all(), f"a negative divergence, {value.tolist()}"
        _finite(value)

    options = d.some(prior_mean=0.5, prior_scale=2.0)
    return Call(s.state.kl, [s.new_context(d, batch), batch], options, expect=expect)
