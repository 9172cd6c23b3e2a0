"""Rows of states, picked, mixed, joined and divided: every leaf as torch does it with the batch first."""

import pytest
import torch
from tests.networks import SPECS, make, make_input, tensors_of
from torch import nn

from contextual_rnn import FastWeightsRNN, Leaf, LowRank, StateSpec, fast_weights_spec, state_spec

BATCH = 5
LSTM = state_spec(nn.LSTM(3, 4, num_layers=2))
COUNTED = StateSpec({"h": Leaf("h", (2, 4), batch_dim=2), "n": Leaf("n", (1,), dtype=torch.int64)})


def leaves_of(spec, batch=BATCH):
    lead = () if batch is None else (batch,)
    return {leaf.name: torch.randn(*lead, *leaf.shape, dtype=torch.float64).requires_grad_() for leaf in spec}


def dense(left, right):
    return left.mT @ right


def batch_first(spec, state):
    """The tensors of a state as a user would write them down, (B, *shape); A of low rank as its matrix."""
    if isinstance(spec.tree, tuple) and isinstance(spec.tree[1], LowRank):
        h, a = state
        return [h, dense(*a) if isinstance(a, LowRank) else a]
    tensors = dict(spec.check(state))
    return list(tensors.values())


OPERATIONS = {
    "take": (
        lambda spec, a, b: spec.take(a, torch.tensor([4, 0, 4])),
        lambda a, b: a[[4, 0, 4]],
    ),
    "take of bool": (
        lambda spec, a, b: spec.take(a, torch.tensor([True, False, False, True, True])),
        lambda a, b: a[[0, 3, 4]],
    ),
    "where": (
        lambda spec, a, b: spec.where(torch.tensor([True, False, True, True, False]), a, b),
        lambda a, b: torch.stack([a[0], b[1], a[2], a[3], b[4]]),
    ),
    "lerp": (lambda spec, a, b: spec.lerp(a, b, 0.3), lambda a, b: 0.7 * a + 0.3 * b),
    "lerp of rows": (
        lambda spec, a, b: spec.lerp(a, b, torch.arange(5.0) / 4),
        lambda a, b: torch.stack([(1 - k / 4) * a[k] + k / 4 * b[k] for k in range(5)]),
    ),
    "cat": (lambda spec, a, b: spec.cat([a, b, a]), lambda a, b: torch.cat([a, b, a])),
    "split": (lambda spec, a, b: spec.split(a, [2, 0, 3])[2], lambda a, b: a[2:]),
    "split of one size": (lambda spec, a, b: spec.split(a, 2)[1], lambda a, b: a[2:4]),
    "unbind and stack": (lambda spec, a, b: spec.stack([spec.unbind(b)[3], spec.unbind(a)[0]]),
                         lambda a, b: torch.stack([b[3], a[0]])),
}  # fmt: skip


@pytest.mark.parametrize("case", SPECS)
@pytest.mark.parametrize(("ours", "expected"), OPERATIONS.values(), ids=OPERATIONS)
def test_every_leaf_is_as_torch_does_it_with_the_batch_first(case, ours, expected):
    _, spec = make(case, torch.float64)
    first, second = leaves_of(spec), leaves_of(spec)
    a, b = spec.pack(first), spec.pack(second)
    results = batch_first(spec, ours(spec, a, b))
    wanted = [expected(*pair) for pair in zip(batch_first(spec, a), batch_first(spec, b), strict=True)]
    leaves = [*first.values(), *second.values()]
    gradients = []
    for tensors in (results, wanted):
        generator = torch.Generator().manual_seed(3)
        loss = sum((t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in tensors)
        gradients.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    for result, tensor in zip([*results, *gradients[0]], [*wanted, *gradients[1]], strict=True):
        torch.testing.assert_close(result, tensor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", SPECS)
def test_the_network_goes_on_from_them(case):
    network, spec = make(case, torch.float64)
    a, b = spec.pack(leaves_of(spec)), spec.pack(leaves_of(spec, None))
    states = [
        spec.take(a, torch.tensor([1, 1, 2])),
        spec.where(torch.tensor([True, False, True]), spec.take(a, torch.arange(3)), b),
        spec.lerp(b, b, torch.tensor([0.0, 0.5, 1.0])),
        spec.split(a, 3)[0],
        spec.stack([b, b, b]),
        spec.cat(spec.split(a, [1, 2, 2])[:2]),
    ]
    x = make_input(network, 3, dtype=torch.float64)
    for state in states:
        assert all(tensor.is_contiguous() for tensor in tensors_of(state))
        assert all(tensor.isfinite().all() for tensor in tensors_of(network(x, state)))
    single = spec.lerp(b, spec.unbind(a)[4], 0.25)
    assert all(t.isfinite().all() for t in tensors_of(network(make_input(network, None, dtype=torch.float64), single)))


def test_a_state_of_one_example_stands_for_every_row():
    a, b = LSTM.pack(leaves_of(LSTM)), LSTM.pack(leaves_of(LSTM, None))
    mask = torch.tensor([True, False, False, True, False])
    for state in (LSTM.where(mask, b, a), LSTM.where(~mask, a, b)):
        for tensor, one, many in zip(state, b, a, strict=True):
            for row, flag in enumerate(mask):
                assert torch.equal(tensor[:, row], one if flag else many[:, row])


def test_fast_weights_may_be_none_low_rank_or_a_matrix():
    network = FastWeightsRNN(3, 4)
    spec, low = state_spec(network), fast_weights_spec(network, "low_rank", rank=2)
    h, a = low.pack({leaf.name: torch.randn(3, *leaf.shape) for leaf in low})
    states = {"none": (h, None), "low rank": (h, a), "matrix": (h, a.dense())}
    mask = torch.tensor([True, False, True])
    zeros = torch.zeros(3, 4, 4)
    matrices = {"none": zeros, "low rank": a.dense(), "matrix": a.dense()}
    for form, other in ((form, other) for form in states for other in states):
        for one in (spec, low):
            _, result = one.where(mask, states[form], states[other])
            if form == other:
                assert type(result) is type(states[form][1])
            if form == other == "none":
                continue
            result = result.dense() if isinstance(result, LowRank) else result
            expected = torch.where(mask[:, None, None], matrices[form], matrices[other])
            torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_leaves_without_floats_go_along_and_are_not_interpolated():
    counted = [{"h": torch.randn(2, 4, 3), "n": torch.tensor([[k], [k + 1], [k + 2]])} for k in (0, 10)]
    assert COUNTED.take(counted[0], torch.tensor([2, 0]))["n"].tolist() == [[2], [0]]
    assert COUNTED.where(torch.tensor([True, False, True]), *counted)["n"].tolist() == [[0], [11], [2]]
    mixed = COUNTED.lerp(*counted, 0.5)
    assert torch.equal(mixed["n"], counted[0]["n"])
    torch.testing.assert_close(mixed["h"], (counted[0]["h"] + counted[1]["h"]) / 2)


def test_the_weight_of_lerp_gets_its_gradient():
    a, b = LSTM.pack(leaves_of(LSTM)), LSTM.pack(leaves_of(LSTM))
    weight = torch.rand(BATCH, dtype=torch.float64, requires_grad=True)
    mixed, cotangents = LSTM.lerp(a, b, weight), [torch.randn(2, BATCH, 4, dtype=torch.float64) for _ in a]
    sum((m * g).sum() for m, g in zip(mixed, cotangents, strict=True)).backward()
    expected = sum((g * (y - x)).sum((0, 2)) for g, x, y in zip(cotangents, a, b, strict=True))
    torch.testing.assert_close(weight.grad, expected)


def test_they_compile_in_one_graph():
    def use(mask, rows, a, b):
        return LSTM.where(mask, LSTM.take(a, rows), LSTM.lerp(a, b, 0.5))

    a, b = LSTM.pack(leaves_of(LSTM)), LSTM.pack(leaves_of(LSTM))
    given = torch.tensor([True, False, True, True, False]), torch.tensor([3, 3, 1, 0, 4]), a, b
    compiled = torch.compile(use, fullgraph=True, backend="eager")
    assert all(map(torch.equal, compiled(*given), use(*given)))


STATE = LSTM.pack({leaf.name: torch.randn(3, *leaf.shape) for leaf in LSTM})
ONE = LSTM.pack({leaf.name: torch.randn(*leaf.shape) for leaf in LSTM})
HALF = tuple(t.half() for t in STATE)
MASK = torch.tensor([True, False, True])
FAST = state_spec(FastWeightsRNN(3, 4))
H = torch.zeros(3, 4)
MATRIX = torch.zeros(3, 4, 4)
WIDER = [LowRank(torch.zeros(3, 2, 5), torch.zeros(3, 2, 5)), torch.zeros(3, 5, 5), MATRIX.double()]
UNLIKE = LowRank(torch.zeros(3, 2, 4), torch.zeros(3, 3, 4))
OTHERS = r"torch.float32 of shape \(4, 4\) on cpu where the spec has None, as the other's, got torch.float"
REFUSED = [
    (lambda: LSTM.take(STATE, torch.tensor([3])), ValueError, "rows: expected 0 to 2, got 3 to 3"),
    (lambda: LSTM.take(STATE, torch.tensor([0, -1])), ValueError, "rows: expected 0 to 2, got -1 to 0"),
    (lambda: LSTM.take(STATE, torch.tensor([0.5])), TypeError, "rows: expected a tensor of integers or bool, got .*32"),
    (lambda: LSTM.take(STATE, MASK[:2]), ValueError, r"rows: expected \(3,\) of bool, as the state, got \(2,\)"),
    (lambda: LSTM.take(STATE, torch.zeros(1, 1).long()), ValueError, r"rows: expected one axis, got \(1, 1\)"),
    (lambda: LSTM.take(STATE, torch.tensor([3], dtype=torch.uint16)), ValueError, "rows: expected 0 to 2, got 3 to 3"),
    (lambda: LSTM.take(STATE, torch.tensor([0], device="meta")), ValueError,
     "rows: expected a tensor whose values can be read, got one on meta"),
    (lambda: LSTM.lerp(STATE, STATE, torch.tensor(0.5, device="meta")), ValueError,
     "weight: expected a tensor whose values can be read, got one on meta"),
    (lambda: LSTM.take(STATE, [0]), TypeError, "rows: expected a tensor, got list"),
    (lambda: LSTM.take(ONE, torch.tensor([0])), ValueError, "state: expected a batch of states, got the state of one"),
    (lambda: LSTM.take(STATE[0], torch.tensor([0])), TypeError, r"state: expected \(h of shape"),
    (lambda: LSTM.where(MASK.long(), STATE, STATE), TypeError, "mask: expected a tensor of bool, got torch.int64"),
    (lambda: LSTM.where(MASK.to("meta"), STATE, STATE), ValueError, "mask: expected a tensor whose values can be read"),
    (lambda: LSTM.where(MASK[:2], STATE, STATE), ValueError, r"mask: expected \(3,\), as the states, got \(2,\)"),
    (lambda: LSTM.where(MASK, STATE, HALF), ValueError, "b: expected leaf 'h' of torch.float32 on cpu, as the other's"),
    (lambda: LSTM.where(MASK, STATE, LSTM.split(STATE, 2)[0]), ValueError, "b: expected batch size 3, as a, got 2"),
    (lambda: LSTM.where(MASK, None, STATE), TypeError, "a: expected .* got None"),
    (lambda: LSTM.lerp(STATE, STATE, "half"), TypeError, "weight: expected a finite number, got 'half'"),
    (lambda: LSTM.lerp(STATE, STATE, torch.zeros(2)), ValueError, r"weight: expected \(\), or \(3,\), as the states"),
    (lambda: LSTM.lerp(STATE, STATE, torch.zeros(3, 1)), ValueError, r"weight: expected a number, \(\) or \(batch,\)"),
    (lambda: LSTM.lerp(STATE, STATE, -1e308), ValueError, "weight: expected a number that torch.float32 can hold"),
    (lambda: LSTM.lerp(STATE, STATE, MASK), TypeError, "weight: expected a number or a tensor of floats"),
    (lambda: LSTM.cat([]), ValueError, "states: expected at least one, got none"),
    (lambda: LSTM.cat([STATE, ONE]), ValueError, "states: expected batches of states"),
    (lambda: LSTM.cat([STATE, HALF]), ValueError, "states: expected leaf 'h' of torch.float32"),
    (lambda: LSTM.cat(STATE[0]), TypeError, "states: expected a list of states, got Tensor"),
    (lambda: LSTM.stack([ONE, STATE]), ValueError, "states: expected states of one example, got one with a batch"),
    (lambda: LSTM.split(STATE, [1, 1]), ValueError, r"sizes: expected sizes that sum to 3, as the batch, got \[1, 1\]"),
    (lambda: LSTM.split(STATE, 0), ValueError, "sizes: expected a positive int, got 0"),
    (lambda: LSTM.unbind(ONE), ValueError, "state: expected a batch of states"),
    (lambda: FAST.take((torch.zeros(3, 4), torch.zeros(2, 4, 4)), torch.tensor([0])), ValueError,
     r"state: expected 3 rows where the spec has None, got \(2, 4, 4\)"),
    (lambda: FAST.take((torch.zeros(3, 4), "A"), torch.tensor([0])), TypeError, "state: expected a tensor, LowRank or"),
    (lambda: FAST.take((H, UNLIKE), torch.tensor([0])), ValueError,
     r"state: expected LowRank of one dtype and shape \(3, r, H\), got torch.float32 of shape"),
    (lambda: FAST.unbind((H, LowRank(H, H))), ValueError, r"state: expected LowRank of one dtype and shape"),
    *[case for a in WIDER for case in (
        (lambda a=a: FAST.cat([(H, None), (H, MATRIX), (H, a)]), ValueError, f"states: expected {OTHERS}"),
        (lambda a=a: FAST.where(MASK, (H, MATRIX), (H, a)), ValueError, f"b: expected {OTHERS}"),
        (lambda a=a: FAST.lerp((H[0], torch.zeros(4, 4)), (H, a), 0.5), ValueError, f"b: expected {OTHERS}"),
    )],
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED)
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
