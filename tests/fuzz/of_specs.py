"""Valid calls of specs and leaves."""

from __future__ import annotations

from typing import Any

import torch
from tests.fuzz.call import Call, case
from tests.fuzz.draw import Draw, network_and_spec, random_state
from tests.networks import NETWORKS, make_input

from contextual_rnn import Leaf, LowRank, StateSpec, check_spec, state_spec


@case("Leaf")
def _(d: Draw) -> Call:
    options = d.some(batch_dim=1, repeat=3, tiled_in_place=True)
    options |= d.choose([{}, {"factor": True}, {"domain": "positive", "start": 1.0}, {"domain": "unit_interval"}])
    return Call(Leaf, ["h", (1, 5)], options)


@case("Leaf.numel", "Leaf.network_shape", "Leaf.shape_text")
def _(d: Draw) -> Call:
    leaf = Leaf("h", (1, 5), d.choose([0, 1, 2]), d.choose([1, 3]), tiled_in_place=d.chance(0.5))
    return Call(lambda leaf: (leaf.numel, leaf.network_shape, leaf.shape_text), [leaf], keep=("0",))


def _run(network: Any, inputs: Any, state: Any) -> Any:
    return inputs, state


@case("StateSpec")
def _(d: Draw) -> Call:
    h, c = Leaf("h", (5,)), Leaf("c", (2, 5), batch_dim=1)
    tree = d.choose([h, (h, c), [h, None], {"h": h, "rest": (c, None)}])
    options = d.some(input_batch_dim=1, input_ndim=3, dtype=torch.float64, device=torch.device("cpu"))
    options |= d.some(per_step=("timespans",), per_row=("speed", "mode"))
    options |= d.choose([{}, {"call": _run}, {"call": "steps", "step": _run, "time_dim": 1, "input_batch_dim": 0}])
    return Call(StateSpec, [tree], options)


@case("StateSpec.like")
def _(d: Draw) -> Call:
    return Call(network_and_spec(d)[1].like, [torch.zeros(1, dtype=torch.float64)])


@case("StateSpec.shared", "StateSpec.describe", "StateSpec.dtype_of", "StateSpec.start")
def _(d: Draw) -> Call:
    def use(spec: StateSpec) -> Any:
        return spec.shared(), spec.describe(), spec.start, spec.known_time_dim, [spec.dtype_of(leaf) for leaf in spec]

    return Call(use, [network_and_spec(d)[1]], keep=("0",))


@case("StateSpec.__getitem__")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    return Call(spec.__getitem__, [next(iter(spec)).name])


@case("StateSpec.pack")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    lead = d.choose([(), (1,), (3,)])
    leaves = {leaf.name: torch.randn(*lead, *leaf.shape) for leaf in spec}

    def expect(state: Any) -> None:
        for name, leaf in spec.unpack(state).items():
            assert torch.equal(leaf, leaves[name]), "unpacked are not the leaves that were packed"

    return Call(spec.pack, [leaves], expect=expect)


@case("StateSpec.unpack", "StateSpec.check")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    return Call(d.choose([spec.unpack, spec.check]), [random_state(spec, d.choose([None, 1, 3]))])


@case("StateSpec.fill")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    return Call(spec.fill, [d.choose([0.0, 1, 0.5, random_state(spec, None)])])


@case("StateSpec.input_batch_size")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    return Call(spec.input_batch_size, [torch.randn(2, 3) if spec.input_ndim == 2 else torch.randn(2, 3, 4)])


@case("StateSpec.take")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    rows = torch.tensor(d.choose([[0], [2, 2, 1, 0], [True, False, True]]))
    return Call(spec.take, [random_state(spec, 3), rows])


@case("StateSpec.where")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    return Call(spec.where, [torch.rand(3) < 0.5, random_state(spec, d.choose([3, None])), random_state(spec, 3)])


@case("StateSpec.lerp")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    a, b = random_state(spec, d.choose([3, None])), random_state(spec, 3)
    return Call(spec.lerp, [a, b, d.choose([0.3, torch.rand(()), torch.rand(3)])])


@case("StateSpec.cat", "StateSpec.stack")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    if d.chance(0.5):
        return Call(spec.stack, [[random_state(spec, None) for _ in range(3)]])
    return Call(spec.cat, [[random_state(spec, d.choose([1, 3])) for _ in range(3)]])


@case("StateSpec.split", "StateSpec.unbind")
def _(d: Draw) -> Call:
    _, spec = network_and_spec(d)
    if d.chance(0.3):
        return Call(spec.unbind, [random_state(spec, 3)])
    return Call(spec.split, [random_state(spec, 3), d.choose([1, 2, 3, 7, [1, 2], [0, 3]])])


@case("state_spec")
def _(d: Draw) -> Call:
    return Call(state_spec, [NETWORKS[d.choose(list(NETWORKS))]()])


@case("check_spec")
def _(d: Draw) -> Call:
    network = NETWORKS[d.choose(list(NETWORKS))]()
    return Call(check_spec, [network, make_input(network, 3)], d.some(tolerance=1e-3, surrogate_gradients=True))


@case("LowRank", "LowRank.dense")
def _(d: Draw) -> Call:
    return Call(lambda left, right: LowRank(left, right).dense(), [torch.randn(3, 2, 5), torch.randn(3, 2, 5)])
