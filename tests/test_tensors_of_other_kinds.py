"""Sparse, nested, quantised and other tensors where numbers in memory are expected: refused by name, never read."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from contextual_rnn import AdditiveAttention, FastWeightsCell, FastWeightsRNN, LowRank, sequence_cross_entropy
from contextual_rnn.ops import fast_weights

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

B, T, I, H = 2, 4, 3, 5  # noqa: E741

KINDS = {
    "sparse": lambda t: t.to_sparse(),
    "csr": lambda t: t.to_sparse_csr(),
    "mkldnn": lambda t: t.to_mkldnn(),
    "nested": lambda t: torch.nested.nested_tensor(list(t)),
    "jagged": lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
    "quint8": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.quint8),
    "qint32": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint32),
    "complex": lambda t: t + 0j,
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "meta": lambda t: t.to("meta"),
    "array": lambda t: t.numpy(),
}
FLOATS = [*KINDS, "int64", "bool"]
KINDS |= {"int64": lambda t: t.long(), "bool": lambda t: t > 0}
KINDS |= {"float32": lambda t: t.float(), "int32": lambda t: t.int()}


def recurrence(name, backend):
    given = {"inputs": torch.randn(B, T, H), "weight_hh": torch.randn(H, H), "h0": torch.randn(B, H)}
    given |= {"a0": torch.randn(B, H, H), "norm_weight": torch.ones(H), "norm_bias": torch.zeros(H)}
    return given[name], lambda value: fast_weights(**given | {name: value}, backend=backend)


def network(name):
    rnn, cell, x = FastWeightsRNN(I, H, batch_first=True), FastWeightsCell(I, H), torch.randn(B, T, I)
    return {
        "input": (x, rnn),
        "input of one example": (x[0], rnn),
        "input of a cell": (x[:, 0], cell),
        "input to project": (x, rnn.project),
        "inputs, projected": (torch.randn(B, T, H), rnn.recur),
        "hx": (torch.randn(B, H), lambda value: rnn(x, value)),
        "hx of one example": (torch.randn(H), lambda value: rnn(x[0], value)),
        "hx of a cell": (torch.randn(B, H), lambda value: cell(x[:, 0], value)),
        "hx, dense A(0)": (torch.randn(B, H, H), lambda value: rnn(x, (None, value))),
        "hx, left": (torch.randn(B, 2, H), lambda value: rnn(x, (None, LowRank(value, torch.randn(B, 2, H))))),
    }[name]


def attention(name):
    given = {"query": torch.randn(B, I), "keys": torch.randn(B, T, H), "values": torch.randn(B, T, H)}
    module = AdditiveAttention(I, H, 6)
    return given[name], lambda value: module(**given | {name: value})


NETWORK = [
    "input", "input of one example", "input of a cell", "input to project", "inputs, projected", "hx",
    "hx of one example", "hx of a cell", "hx, dense A(0)", "hx, left",
]  # fmt: skip
RECURRENCE = [
    (name, backend)
    for name in ("inputs", "weight_hh", "h0", "a0", "norm_weight", "norm_bias")
    for backend in ("auto", "attention", "reference")
]


def kinds_of(tensor, kinds):
    """The tensor in each of these kinds that torch has for its shape."""
    for kind in kinds:
        try:
            yield kind, KINDS[kind](tensor)
        except (RuntimeError, IndexError):
            assert kind in ("csr", "jagged"), kind  # which have two axes or more


def name_in(raised):
    return str(raised.value).partition(":")[0]


def check(names, tensor, call, kinds):
    call(tensor)
    for kind, value in kinds_of(tensor, kinds):
        with pytest.raises((TypeError, ValueError), match=rf"^({names})\b.*: expected .*got ") as raised:
            call(value)
        assert name_in(raised) != "weight_hh" or names == "weight_hh" or kind == "meta", kind


@pytest.mark.parametrize(("name", "backend"), RECURRENCE)
def test_the_recurrence(name, backend):
    # Where the inputs are on meta, it is the first of the others that fits no more.
    check("inputs|weight_hh" if name == "inputs" else name, *recurrence(name, backend), FLOATS)


@pytest.mark.parametrize("name", NETWORK)
def test_networks(name):
    check("inputs?|weight_hh" if "input" in name else "hx|h0|a0", *network(name), FLOATS)


@pytest.mark.parametrize("name", ["query", "keys", "values"])
def test_attention(name):
    check(name, *attention(name), FLOATS)


@pytest.mark.parametrize("name", ["tokens", "targets"])
@pytest.mark.parametrize("grad", [True, False], ids=["native", "module by module"])
def test_a_loss_over_tokens(name, grad):
    given = {"tokens": torch.randint(7, (B, T)), "targets": torch.randint(7, (B,))}
    modules = {"embedding": nn.Embedding(7, I), "network": FastWeightsRNN(I, H)}
    modules |= {"hidden": nn.Linear(H, 6), "readout": nn.Linear(6, 7)}
    kinds = [kind for kind in KINDS if kind not in ("int64", "mkldnn")]
    with torch.set_grad_enabled(grad):
        check(name, given[name], lambda value: sequence_cross_entropy(**given | {name: value} | modules), kinds)


@pytest.mark.parametrize("of", ["recurrence", "rnn", "attention"])
def test_lengths(of):
    x, keys = torch.randn(B, T, I), torch.randn(B, T, H)
    call = {
        "recurrence": lambda value: fast_weights(keys, torch.eye(H), keys[:, 0], lengths=value),
        "rnn": lambda value: FastWeightsRNN(I, H, batch_first=True)(x, lengths=value),
        "attention": lambda value: AdditiveAttention(I, H, 6)(x[:, 0], keys, lengths=value),
    }[of]
    check("lengths", torch.tensor([1, 3]), call, [k for k in KINDS if k not in ("int64", "int32", "mkldnn")])


def test_a_mask():
    attention, query, keys = AdditiveAttention(I, H, 6), torch.randn(B, I), torch.randn(B, T, H)
    kinds = [kind for kind in KINDS if kind not in ("bool", "mkldnn")]
    check("mask", torch.ones(B, T, dtype=torch.bool), lambda value: attention(query, keys, mask=value), kinds)


def test_tensors_of_another_class_are_computed_by_their_class():
    """Their elements are not where a plain tensor's would be; the kernel must not look there."""
    given = {"inputs": torch.randn(B, T, H), "weight_hh": torch.randn(H, H), "h0": torch.randn(B, H)}
    expected, _ = fast_weights(**given)
    for name, tensor in given.items():
        output, _ = fast_weights(**given | {name: TwoTensor(tensor, tensor)})
        assert type(output) is TwoTensor
        torch.testing.assert_close(output.a, expected)
        torch.testing.assert_close(output.b, expected)


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("name", ["inputs", "weight_hh", "h0"])
def test_memory_that_was_freed_is_not_read(name, part):
    """The address of a part of it is not 0."""
    given = {"inputs": torch.randn(B, T, H), "weight_hh": torch.randn(H, H), "h0": torch.randn(B, H)}
    if part:
        given[name] = torch.stack([given[name]] * 2)[1]
    given[name].untyped_storage().resize_(0)
    assert bool(given[name].data_ptr()) == part
    with pytest.raises(ValueError, match=f"^{name}: expected a tensor with memory, got torch.float32 of shape"):
        fast_weights(**given, backend="cpu")


@pytest.mark.parametrize("timing", ["ba2016", "wenke2019"])
def test_cotangents_in_any_form(timing):
    """Negated by a bit, tiled without memory of their own, zeros without any."""
    leaves = [torch.randn(B, T, H), torch.randn(H, H), torch.randn(B, H)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    output, _ = fast_weights(*leaves, timing=timing, backend="cpu")
    cotangent = torch.randn(B, T, H)
    for other in (
        torch._neg_view(-cotangent),
        cotangent[:1, :1].expand(B, T, H),
        torch._efficientzerotensor((B, T, H)),
    ):
        actual = torch.autograd.grad(output, leaves, other, retain_graph=True)
        expected = torch.autograd.grad(output, leaves, other.clone() + torch.zeros(B, T, H), retain_graph=True)
        for ours, theirs in zip(actual, expected, strict=True):
            assert torch.equal(ours, theirs)
