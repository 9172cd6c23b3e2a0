"""Valid calls of context networks and their features."""

from __future__ import annotations

from typing import Any

import torch
from tests.fuzz.call import Call, case
from tests.fuzz.draw import Draw, context_net, rows_of
from torch import Tensor

import contextual_rnn as ours


@case("Categorical")
def _(d: Draw) -> Call:
    return Call(ours.Categorical, [["a", "b", 3]], d.some(unknown=True, dropout=0.0))


@case("Categorical.fit")
def _(d: Draw) -> Call:
    return Call(ours.Categorical.fit, [["a", "b", "a"]], d.some(unknown=True, dropout=0.0))


@case("Continuous")
def _(d: Draw) -> Call:
    return Call(ours.Continuous, [d.choose([0, 1.5]), d.choose([1, 0.5])])


@case("Continuous.fit")
def _(d: Draw) -> Call:
    return Call(ours.Continuous.fit, [d.choose([[1.0, 2, 3.5], torch.randn(4), (7,)])])


@case("SetValued")
def _(d: Draw) -> Call:
    return Call(ours.SetValued, [["a", "b", 3]], d.some(unknown=True))


@case("SetValued.fit")
def _(d: Draw) -> Call:
    return Call(ours.SetValued.fit, [[["a"], [], {"a", "b"}]], d.some(unknown=True))


@case("ContextNet")
def _(d: Draw) -> Call:
    return Call(ours.ContextNet, [context_net().features], d.some(out_features=4, embedding_dim=2), makes=True)


@case("ContextNet.encode")
def _(d: Draw) -> Call:
    return Call(context_net().encode, [rows_of(d, d.choose([0, 1, 3]))])


@case("ContextNet.forward")
def _(d: Draw) -> Call:
    net, batch = context_net().train(d.chance(0.5)), d.choose([None, 1, 3])

    def expect(features: Tensor) -> None:
        assert features.shape == ((6,) if batch is None else (batch, 6)), f"got {tuple(features.shape)}"

    encoded = net.encode(rows_of(d, batch or 1))
    return Call(net, [encoded if batch is not None else {k: v[0] for k, v in encoded.items()}], expect=expect)


@case("ContextNet.extra_repr", "ContextNet.reset_parameters", "ContextNet.saved_words", "ContextNet.feature_numbers",
      "ContextNet.saved_feature_numbers", "ContextNet.check_saved")  # fmt: skip
def _(d: Draw) -> Call:
    def use(net: ours.ContextNet) -> Any:
        net.reset_parameters()
        net.check_saved("feature_numbers", net.feature_numbers)
        net.feature_numbers = net.feature_numbers
        return net.extra_repr(), net.saved_words(), net.feature_numbers

    return Call(use, [context_net()], keep=("0",), changes=True, makes=True)
