"""States whose leaves differ in dtype: what each leaf is made, cast, checked and saved as; leaves without floats."""

import copy

import pytest
import torch
from tests.networks import tensors_of
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    Leaf,
    LeafwiseState,
    NormalState,
    StateSpec,
    SumState,
    generate,
    state_spec,
    truncated,
)
from contextual_rnn.diagnostics import diagnose, diagnose_state
from contextual_rnn.serialization import load_carried_state, load_state, save_carried_state, save_state
from contextual_rnn.spec.tree import matches

B, T, H = 5, 6, 4


class Mixer(nn.Module):
    """A step, or with `steps` a sequence (B, T, 3): its last input, a running sum of another dtype, a counter."""

    def __init__(self, dtype=torch.bfloat16, of_sum=torch.float32, steps=False):
        super().__init__()
        self.u, self.steps, self.of_sum = nn.Linear(3, H, dtype=dtype), steps, of_sum

    def step(self, x, state):
        last, (total, count) = state
        z = torch.tanh(self.u(x) + last)
        total = 0.9 * total + z.to(total.dtype) / count.T.to(total.dtype)
        return z + total.to(z.dtype), (z, [total, count + 1])

    def forward(self, x, state):
        if not self.steps:
            return self.step(x, state)
        outputs = []
        for step in x.unbind(1):
            output, state = self.step(step, state)
            outputs.append(output)
        return torch.stack(outputs, 1), state


@state_spec.register
def _(network: Mixer) -> StateSpec:
    leaves = [Leaf("total", (H,), dtype=network.of_sum), Leaf("count", (1,), batch_dim=1, dtype=torch.int64)]
    options = {"input_ndim": 3, "step": Mixer.step} if network.steps else {"input_ndim": 2}
    return StateSpec((Leaf("last", (H,)), leaves), **options)


def value(spec, count=2):
    """A random state of one example: no two units alike."""
    leaves = {leaf.name: torch.randn(leaf.shape) for leaf in spec}
    return spec.pack(leaves | {"count": torch.tensor([count])})


def net(dtype):
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh()).to(dtype)


def like(network):
    """The spec with the network's own dtype, which the states in `STATES` read."""
    return state_spec(network).like(network.u.weight)


STATES = {
    "constant": lambda spec: ConstantState(spec, value(spec)),
    "free": lambda spec: FreeState(spec, noise=0.1, value=value(spec)),
    "free, error": lambda spec: FreeState(spec, noise=0.1, value=value(spec), error_decay=0.5),
    "context": lambda spec: ContextState(spec, net(spec.dtype), activation=torch.tanh),
    "normal": lambda spec: NormalState(spec, net(spec.dtype)),
    "normal, sigma of the context": lambda spec: NormalState(spec, net(spec.dtype), scale_from_context=True),
    "normal around free": lambda spec: NormalState(spec, FreeState(spec, value=value(spec))),
    "one a leaf": lambda spec: LeafwiseState(
        spec,
        last=ContextState(spec["last"], net(spec.dtype)),
        total=NormalState(spec["total"], net(spec.dtype)),
        count=ConstantState(spec["count"], 2),
    ),
    "sum": lambda spec: SumState([FreeState(spec, value=value(spec)), ContextState(spec, net(spec.dtype))], [0.3, 0.7]),
    "dropped at times": lambda spec: ContextDropout(
        SumState([ConstantState(spec, value(spec)), NormalState(spec, net(spec.dtype))], [0.5, 0.5]), 0.5, guidance=2.0
    ),
}
COUNTS = {"constant": 2, "free": 2, "free, error": 2, "normal around free": 2, "one a leaf": 2, "sum": 2}
COUNTS |= {"dropped at times": 2}  # 0 elsewhere
DTYPES = [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float64, torch.float16)]


def dtypes(state):
    return [tensor.dtype for tensor in tensors_of(state)]


def test_the_networks_own_spec_is_enough():
    model, x = ContextualRNN(Mixer(), FreeState(Mixer(), value=1.0)), torch.randn(2, 3, dtype=torch.bfloat16)
    _, state = model(x)
    expected = [torch.bfloat16, torch.float32, torch.int64]
    assert dtypes(model.initial_state(batch_size=2)) == expected
    assert dtypes(state) == expected
    again, _ = model(x, state)
    torch.testing.assert_close(again, model.network(x, state)[0])
    assert not torch.equal(again, model(x)[0])


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize(("dtype", "of_sum"), DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_every_state_is_what_the_network_receives(kind, dtype, of_sum, training):
    """Through every conversion of the module: parameters follow, as torch's do, and packing casts."""
    torch.manual_seed(0)
    network = Mixer(dtype, of_sum)
    state = STATES[kind](like(network)).train(training)
    for convert, moved in ((lambda m: m, dtype), (nn.Module.double, torch.float64), (nn.Module.float, torch.float32),
                           (nn.Module.bfloat16, torch.bfloat16)):  # fmt: skip
        network, state = convert(network), convert(state)
        calls = [
            state(torch.randn(B, 2, dtype=moved), B),
            state(torch.randn(2, dtype=moved), B),
            state.sample(torch.randn(B, 2, dtype=moved), 3, batch_size=B),
            state(torch.randn(2, dtype=moved), batched=False),
        ]
        for hx in calls:
            assert dtypes(hx) == [moved, of_sum, torch.int64]
            assert tensors_of(hx)[2].eq(COUNTS.get(kind, 0)).all()
        if COUNTS.get(kind):
            model = ContextualRNN(network, state)
            x, context = torch.randn(B, 3, dtype=moved), torch.randn(B, 2, dtype=moved)
            output, end = model(x, context=context)
            assert output.dtype == moved
            assert model(x, end)[1][1][1].eq(COUNTS[kind] + 2).all()
            sum(tensor.float().square().sum() for tensor in tensors_of(end)).backward()
            learned = {name: p for name, p in state.named_parameters() if training or "raw_scale" not in name}
            if not (kind == "dropped at times" and training):
                learned = {name: p for name, p in learned.items() if not name.startswith("null") or not training}
                assert all(p.grad is not None and p.grad.any() for p in learned.values())
            state.zero_grad()


def test_only_leaves_of_floats_have_parameters_and_noise():
    spec = like(Mixer(torch.float32, torch.float64))
    free = FreeState(spec, noise=1.0, value=3.0)
    assert set(free.values) == {"last", "total"}
    own = [*free.named_parameters(), *free.named_buffers()]
    assert {name: tensor.dtype for name, tensor in own} == {
        "values.last": torch.float32, "values.total": torch.float64, "value_count": torch.int64
    }  # fmt: skip
    last, (total, count) = free(batch_size=B)
    assert last.ne(3).all()
    assert total.ne(3).all()
    assert count.eq(3).all()
    normal = NormalState(spec, nn.Linear(2, 6), scale_from_context=True)
    assert set(normal.mean.heads.layers) == set(normal.scale_heads.layers) == {"last", "total"}
    assert normal.mean.heads.layers["total"].weight.dtype == torch.float64
    error = FreeState(spec, noise=1.0, error_decay=0.5).error
    assert {name for name, _ in error.named_buffers()} == {"square_last", "first_last", "square_total", "first_total"}


def test_log_prob_and_kl_are_those_of_the_leaves_of_floats():
    torch.manual_seed(0)
    spec, alone = like(Mixer(torch.float64, torch.float64)), StateSpec((Leaf("last", (H,)), Leaf("total", (H,))))
    context, h = torch.randn(B, 2).double(), {name: torch.randn(B, H).double() for name in ("last", "total")}
    state = NormalState(spec, net(torch.float64))
    other = NormalState(alone, state.mean.net, dtype=torch.float64)
    other.load_state_dict({name: t for name, t in state.state_dict().items() if "count" not in name})
    for count in (torch.zeros(B, 1).long(), torch.ones(B, 1).long()):
        found = state.log_prob(spec.pack(h | {"count": count}), context)
        torch.testing.assert_close(found, other.log_prob(alone.pack(h), context), rtol=0, atol=0)
    torch.testing.assert_close(state.kl(context), other.kl(context), rtol=0, atol=0)
    assert set(state.distribution(context)) == {"last", "total"}


@pytest.mark.parametrize("kind", STATES)
def test_gradients_flow_through_the_cast(kind):
    """A float32 leaf of a float64 network: the gradients are those of the float64 network but for rounding."""
    gradients, numbers = [], None
    for of_sum in (torch.float64, torch.float32):
        torch.manual_seed(0)
        network = Mixer(torch.float64, of_sum)
        state = STATES[kind](like(network)).double()
        numbers = copy.deepcopy(state.state_dict()) if numbers is None else numbers
        state.load_state_dict(numbers)  # random numbers of two dtypes differ
        torch.manual_seed(3)
        context, x = torch.randn(B, 2).double().requires_grad_(), torch.randn(B, 3).double()
        torch.manual_seed(1)
        hx = state(context, B, generator=torch.Generator().manual_seed(1))
        hx = (hx[0], [hx[1][0], hx[1][1] + 1])
        output, (last, (total, _)) = network(x, hx)
        generator = torch.Generator().manual_seed(2)
        cotangents = [torch.randn(B, H, generator=generator).double() for _ in range(3)]
        loss = sum((t * c).sum() for t, c in zip((output, last, total), cotangents, strict=True))
        parameters = [p for p in state.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(loss, [context, *parameters], allow_unused=True, materialize_grads=True))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_autocast_receives_what_the_leaf_says():
    network = Mixer(torch.float32, torch.float32)
    for kind in ("free", "sum", "normal around free"):
        state = STATES[kind](like(network))
        model, context = ContextualRNN(network, state), torch.randn(B, 2)
        with torch.autocast("cpu", torch.bfloat16):
            hx = state(context, B)
            assert dtypes(hx)[1:] == [torch.float32, torch.int64]
            output, end = model(torch.randn(B, 3), context=context)
            model(torch.randn(B, 3), end)
        output.float().sum().backward()


def model_of(steps=True, kind="sum"):
    """In evaluation, float64 with a float32 sum: rows alone and together round alike."""
    torch.manual_seed(0)
    network = Mixer(torch.float64, torch.float32, steps)
    return ContextualRNN(network, STATES[kind](like(network))).eval()


def rows_of(state, row):
    last, (total, count) = state
    return last[row : row + 1], [total[row : row + 1], count[:, row : row + 1]]


def assert_same(found, expected):
    assert dtypes(found) == dtypes(expected)
    for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_lengths_carried_states_and_pieces_are_each_row_alone():
    model = model_of()
    x, context, lengths = torch.randn(B, T, 3).double(), torch.randn(B, 2).double(), torch.tensor([6, 1, 3, 2, 6])
    output, end = model(x, context=context, lengths=lengths)
    pieces = list(truncated(model, x, 2, context=context, lengths=lengths))
    assert_same(pieces[-1][2], end)
    assert_same(torch.cat([piece for _, piece, _ in pieces], 1), output)
    more, after = model(x, end, lengths=lengths)
    for row, length in enumerate(lengths):
        alone, state = model(x[row : row + 1, :length], context=context[row : row + 1])
        assert_same(output[row : row + 1, :length], alone)
        assert_same(rows_of(end, row), state)
        alone, state = model(x[row : row + 1, :length], state)
        assert_same(more[row : row + 1, :length], alone)
        assert_same(rows_of(after, row), state)
    assert end[1][1].tolist() == [(2 + lengths).tolist()]


def test_resets_are_sequences_of_their_own():
    model = model_of(steps=False)
    x, context, more = torch.randn(B, 3).double(), torch.randn(B, 2).double(), torch.randn(2, 2).double()
    hx = model(x, context=context)[1]
    reset = torch.tensor([False, True, False, False, True])
    for contexts in (None, more):
        output, end = model(x, hx, context=context, reset=reset, reset_context=contexts)
        starts = context if contexts is None else torch.zeros_like(context).masked_scatter(reset[:, None], more)
        for row in range(B):
            one = {"context": starts[row : row + 1]} if reset[row] else {"hx": rows_of(hx, row)}
            alone, state = model(x[row : row + 1], **one)
            assert_same(output[row : row + 1], alone)
            assert_same(rows_of(end, row), state)


@pytest.mark.parametrize("sample", [True, False])
def test_generated_rows_are_each_row_alone(sample):
    model, first, context = model_of(steps=False), torch.randn(B, 3).double(), torch.randn(B, 2).double()

    def step(output, value):
        return value + output[:, :3]

    together = generate(model, step, first, num_steps=4, context=context, num_samples=2, sample=sample)
    for row in range(B):
        alone = generate(model, step, first[row : row + 1], num_steps=4, context=context[row : row + 1])
        torch.testing.assert_close(together[row, 1:], alone[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["sum", "normal around free", "one a leaf"])
def test_diagnosed(kind):
    """Counters are left alone: to zero or average them would ask what no initial state can say."""
    model = model_of(kind=kind)
    x, context = torch.randn(B, T, 3).double(), torch.randn(B, 2).double()

    def losses():
        return model(x, context=context)[0].square().mean(2)

    found = diagnose(model, losses, permutations=3)
    assert set(found.influence.leaves) == {"last", "total"}
    assert found.influence.total[0] > 0
    state = model.initial_state(context, B)
    zeroed = (torch.zeros_like(state[0]), [torch.zeros_like(state[1][0]), state[1][1]])
    expected = model(x, zeroed)[0].square().mean((0, 2))
    torch.testing.assert_close(found.losses["zeroed"], expected.detach())
    again = diagnose_state(lambda hx: model(x, hx)[0].square().mean(2), state, model.network, permutations=3)
    torch.testing.assert_close(again.losses["mean"], found.losses["mean"])


def test_saved_and_loaded(tmp_path):
    model = model_of()
    _, end = model(torch.randn(B, T, 3).double(), context=torch.randn(B, 2).double())
    save_carried_state(end, tmp_path / "carried.safetensors", model)
    loaded = load_carried_state(tmp_path / "carried.safetensors", model)
    assert dtypes(loaded) == dtypes(end)
    assert all(map(torch.equal, tensors_of(loaded), tensors_of(end)))
    with pytest.raises(ValueError, match=r"torch\.float32"):
        load_carried_state(tmp_path / "carried.safetensors", Mixer(torch.float64, torch.float16, steps=True))
    state, other = (model_of().initial_state for _ in range(2))
    with torch.no_grad():
        for tensor in state.state_dict().values():
            tensor.add_(1)
    save_state(state, tmp_path / "state.safetensors")
    load_state(other, tmp_path / "state.safetensors")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in state.state_dict().items())
    with pytest.raises(ValueError, match="float16"):
        load_state(STATES["sum"](like(Mixer(torch.float64, torch.float16))), tmp_path / "state.safetensors")


def test_a_carried_state_takes_the_quick_check():
    """Which every step of a loop pays for; the slow one that words the error is for what is wrong."""
    network = Mixer(torch.float32, torch.float64)
    spec, weight = state_spec(network), network.u.weight
    last, (total, count) = ContextualRNN(network, FreeState(network, value=1.0))(torch.randn(B, 3))[1]
    assert matches(spec.tree, (last, [total, count]), B, weight)
    assert not matches(spec.tree, (last, [total.float(), count]), B, weight)
    assert not matches(spec.tree, (last.double(), [total, count]), B, weight)


def test_a_state_of_another_dtype_is_refused_by_name():
    network = Mixer(torch.float32, torch.float64)
    model, x = ContextualRNN(network, FreeState(network, value=1.0)), torch.randn(B, 3)
    last, (total, count) = model(x)[1]
    for wrong in ((last, [total.float(), count]), (last, [total, count.float()]), (last, [total, count.int()])):
        with pytest.raises(ValueError, match=r"^hx: expected '(total' of torch.float64|count' of torch.int64) on cpu"):
            model(x, wrong)
    with pytest.raises(ValueError, match=r"^initial_state: expected one for .*total .*float64.*got .*total .*float16"):
        ContextualRNN(network, FreeState(Mixer(torch.float32, torch.float16)))
    with pytest.raises(ValueError, match=r"^states: expected all for .*float64.*, got .*float16"):
        SumState([FreeState(network), FreeState(Mixer(torch.float32, torch.float16))], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"^context: expected features of torch.float32 on cpu, got torch.float64"):
        ContextState(like(network), net(torch.float64))(torch.randn(B, 2).double())


@pytest.mark.parametrize("make", [ConstantState, lambda spec, value: FreeState(spec, value=value)])
@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (0.5, ValueError, "value: expected a number that leaf 'count' of torch.int64 can hold, got 0.5"),
        (1e30, ValueError, "value: expected a number that leaf 'count' of torch.int64 can hold"),
        ({"count": torch.ones(1)}, TypeError, "value: expected leaf 'count' of torch.int64, got torch.float32"),
        ({"count": torch.ones(1).bool()}, TypeError, "value: expected leaf 'count' of torch.int64, got torch.bool"),
        ({"last": torch.ones(H).long()}, TypeError, "value: expected leaf 'last' of floats, got torch.int64"),
        ({"last": torch.ones(H) + 1j}, TypeError, "value: expected leaf 'last' of floats, got torch.complex64"),
    ],
)
def test_values_that_a_leaf_cannot_hold_are_refused(make, wrong, error, words):
    spec = like(Mixer(torch.float32, torch.float32))
    if isinstance(wrong, dict):
        last, (total, count) = value(spec)
        wrong = (wrong.get("last", last), [total, wrong.get("count", count)])
    with pytest.raises(error, match=f"^{words}"):
        make(spec, wrong)


def test_numbers_beyond_a_floats_range_are_refused():
    spec = StateSpec(Leaf("h", (3,), dtype=torch.float16))
    with pytest.raises(
        ValueError, match=r"^value: expected a number that leaf 'h' of torch.float16 can hold, got 1000000.0"
    ):
        FreeState(spec, value=1e6)
    assert FreeState(spec, value=6e4)().tolist() == [60000.0] * 3


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_a_state_without_any_float(dtype):
    spec = StateSpec(Leaf("flag", (3,), dtype=dtype))
    states = [ConstantState(spec, 1), FreeState(spec, value=1, noise=0.1), ContextState(spec, nn.Linear(2, 4))]
    for state, expected in zip(states, (1, 1, 0), strict=True):
        for flags in (state(torch.randn(B, 2)), state.sample(torch.randn(B, 2))):
            assert (flags.dtype, flags.shape) == (dtype, (B, 3))
            assert flags.eq(expected).all()
        assert not [name for name, _ in state.named_parameters() if not name.startswith("net")]
    with pytest.raises(ValueError, match=r"^network: expected one whose state has a leaf of floats, got flag of shape"):
        NormalState(spec, nn.Linear(2, 4))
    with pytest.raises(ValueError, match=r"^value: expected a number that leaf 'flag'"):
        ConstantState(spec, -1 if dtype != torch.int32 else 2**31)


def test_shared_and_repeated_leaves_keep_their_dtype():
    spec = StateSpec((Leaf("h", (2, 3), batch_dim=1), Leaf("s", (2, 3), batch_dim=1, dtype=torch.float64))).shared()
    h, s = FreeState(spec, value=0.5)(batch_size=B)
    assert (h.dtype, s.dtype, s.shape) == (torch.float32, torch.float64, (2, B, 3))
    assert "s of shape (2, batch, 3) or (2, 3) without a batch, torch.float64" in spec.describe()


@pytest.mark.parametrize(
    ("dtype", "error"), [("float32", TypeError), (1, TypeError), (torch.float, None), (torch.qint8, ValueError)]
)
def test_a_dtype_that_is_none_is_refused(dtype, error):
    for make in (lambda: Leaf("h", (3,), dtype=dtype), lambda: StateSpec(Leaf("h", (3,)), dtype=dtype)):
        if error is None:
            make()
            continue
        with pytest.raises(error, match=r"^dtype: expected"):
            make()


def test_a_network_whose_first_parameter_has_no_floats():
    """As a quantised one: the initial state is of the dtype of its floats."""

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.packed = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    state_spec.register(Packed, lambda network: StateSpec(Leaf("h", (3,))))
    assert FreeState(Packed()).values["h"].dtype == torch.float64


def test_copies_have_the_constants_too():
    state = STATES["one a leaf"](like(Mixer(torch.float32)))
    twin = copy.deepcopy(state)
    assert twin(torch.randn(B, 2))[1][1].eq(2).all()


def test_leaves_may_have_any_name_that_modules_leave_free():
    names = ("start", "factors", "tiled", "hooked", "values", "value", "layers", "device", "dtype", "mean", "spec")
    free_names = [name for name in names if not hasattr(nn.ParameterDict(), name)]
    spec = StateSpec(tuple(Leaf(name, (2,)) for name in free_names))
    for state in (
        FreeState(spec),
        ConstantState(spec),
        ContextState(spec, nn.Linear(2, 3)),
        NormalState(spec, nn.Linear(2, 3)),
    ):
        assert [tensor.shape for tensor in state(torch.randn(B, 2))] == [(B, 2)] * len(free_names)
        state.reset_parameters()
    LeafwiseState(spec, **{name: FreeState(spec[name]) for name in free_names})
    with pytest.raises(ValueError, match=r"^name: expected an identifier that modules do not use"):
        Leaf("reset_parameters", (2,))
