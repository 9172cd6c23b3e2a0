"""reset_parameters starts anew as the constructor does; device and dtype of what is made; representations."""

import copy
import pickle

import pytest
import torch
from torch import nn

from contextual_rnn import (
    AdditiveAttention,
    Categorical,
    ConstantState,
    ContextDropout,
    ContextNet,
    ContextState,
    Continuous,
    FastWeightsRNN,
    FreeState,
    LatentState,
    Leaf,
    LeafwiseState,
    NormalState,
    SetValued,
    StateSpec,
    SumState,
    fast_weights_spec,
    state_spec,
)

# A low-rank factor, a leaf of its own dtype and one without floats: all that a start can be.
SPEC = StateSpec(
    (
        Leaf("h", (2, 3), batch_dim=1),
        Leaf("right", (2, 3), factor=True),
        Leaf("wide", (3,), dtype=torch.float64),
        Leaf("count", (1,), dtype=torch.int64),
    ),
    dtype=torch.float32,
)
VALUE = (torch.randn(2, 3), torch.randn(2, 3), torch.randn(3).double(), torch.tensor([7]))
FEATURES = {
    "crop": Categorical(("rye", "oats"), unknown=True),
    "rain": Continuous(20.0, 4.0),
    "tools": SetValued(("hoe", "rake")),
}


def net():
    return nn.Linear(2, 6)


# A constructor for what is given, and one that makes a state of it.
STATES = {
    "constant number": (net, lambda net, **kw: ConstantState(SPEC, 5, **kw)),
    "constant state": (net, lambda net, **kw: ConstantState(SPEC, VALUE, **kw)),
    "free": (net, lambda net, **kw: FreeState(SPEC, **kw)),
    "free number": (net, lambda net, **kw: FreeState(SPEC, value=2, **kw)),
    "free state": (net, lambda net, **kw: FreeState(SPEC, value=VALUE, noise=0.1, error_decay=0.5, **kw)),
    "context": (net, lambda net, **kw: ContextState(SPEC, net, **kw)),
    "context, zero_init": (net, lambda net, **kw: ContextState(SPEC, net, zero_init=True, **kw)),
    "normal": (net, lambda net, **kw: NormalState(SPEC, net, 0.3, min_scale=0.1, **kw)),
    "normal, zero_init": (net, lambda net, **kw: NormalState(SPEC, net, zero_init=True, **kw)),
    "normal, sigma of the context": (net, lambda net, **kw: NormalState(SPEC, net, 3.0, scale_from_context=True, **kw)),
    "normal around free": (net, lambda net, **kw: NormalState(SPEC, FreeState(SPEC, **kw), **kw)),
    "latent": (net, lambda net, **kw: LatentState(SPEC, net, 3, min_scale=0.1, **kw)),
    "dropped at times": (net, lambda net, **kw: ContextDropout(ContextState(SPEC, net, **kw), **kw)),
    "sum": (net, lambda net, **kw: SumState([FreeState(SPEC, **kw), ContextState(SPEC, net, **kw)], [0.3, 0.7])),
    "one a leaf": (net, lambda net, **kw: LeafwiseState(
        SPEC, h=ContextState(SPEC["h"], net, **kw), right=FreeState(SPEC["right"], **kw),
        wide=NormalState(SPEC["wide"], net, **kw), count=ConstantState(SPEC["count"], 3, **kw))),
}  # fmt: skip
NETS = {
    "context net": lambda **kw: ContextNet(FEATURES, 6, **kw),
    "attention": lambda **kw: AdditiveAttention(3, 4, 5),
}


def build(kind, **options):
    torch.manual_seed(0)
    if kind in NETS:
        torch.manual_seed(1)
        return NETS[kind](**options)
    given, make = STATES[kind]
    made = given()
    torch.manual_seed(1)  # the same numbers, however many the context network took
    return make(made, **options)


def spoil(module):
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.fill_(77)


def own(module):
    """What a state made itself: all but the context network, which was given."""
    return {name: tensor.detach().clone() for name, tensor in tensors(module).items() if "net." not in name}


def tensors(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize("kind", [*STATES, *NETS])
def test_the_start_is_the_constructors_to_the_bit(kind):
    expected, module = own(build(kind)), build(kind)
    spoil(module)
    assert not any(torch.equal(tensor, expected[name]) for name, tensor in own(module).items())
    torch.manual_seed(1)
    module.reset_parameters()
    assert own(module).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own(module).items())
    if kind in STATES:
        given = [tensor for name, tensor in tensors(module).items() if "net." in name]
        assert all(tensor.eq(77).all() for tensor in given), "the context network is the caller's"


@pytest.mark.parametrize("kind", [*STATES, *NETS])
def test_made_on_meta_and_reset_module_by_module(kind):
    """As sharding does: whatever owns tensors resets them by itself, in any order, and none is left out."""
    expected = tensors(build(kind))
    for order in (lambda owners: owners, reversed):
        with torch.device("meta"):
            module = build(kind)
        if kind in STATES:
            module.to("meta")  # a spec that names its device has the last word
        module.to_empty(device="cpu")
        spoil(module)
        owners = [m for m in module.modules() if [*m.parameters(recurse=False), *m.buffers(recurse=False)]]
        torch.manual_seed(0)
        for owner in order(owners):
            owner.reset_parameters()
        found = tensors(module)
        random = {name for name, tensor in expected.items() if not torch.equal(tensor, found[name])}
        assert all("layers" in name or "net" in name or "right" in name or kind in NETS for name in random)
        for name, tensor in found.items():
            assert tensor.isfinite().all()
            assert tensor.abs().max() < 8, f"{name} was left out"
            if "zero_init" in kind and ".heads.layers.h" in f".{name}":
                assert tensor.eq(0).all()


@pytest.mark.parametrize("kind", [*STATES, *NETS])
@pytest.mark.parametrize("loop", ["apply", "modules"])
def test_a_loop_over_all_modules_starts_anew(kind, loop):
    module, expected = build(kind), build(kind)
    spoil(module)

    def reset(part):
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()

    if loop == "apply":
        module.apply(reset)
    else:
        for part in module.modules():
            reset(part)
    for (name, found), wanted in zip(tensors(module).items(), tensors(expected).values(), strict=True):
        # What is drawn is drawn anew; what is not is the same.
        drawn = wanted.numel() > 1 and len(wanted.flatten().unique()) > 1 and "state" not in kind
        assert torch.equal(found, wanted) or drawn, name
        assert found.abs().max() < 8


def test_zero_init_leaves_the_output_alone_after_a_loop_over_all_modules():
    lstm = nn.LSTM(3, 4)
    state = ContextState(lstm, net(), zero_init=True)
    spoil(state)
    for part in state.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert all(leaf.eq(0).all() for leaf in state(torch.randn(5, 2)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_resets_itself_alone(copied):
    lstm = nn.LSTM(3, 4)
    for state in (ContextState(lstm, net(), zero_init=True), FreeState(lstm, value=0.5), ConstantState(lstm, 0.5),
                  NormalState(lstm, net(), scale_from_context=True)):  # fmt: skip
        twin = copied(state)
        spoil(state)
        spoil(twin)
        twin.reset_parameters()
        assert all(tensor.eq(77).all() for tensor in tensors(state).values())
        assert not any(tensor.eq(77).any() for name, tensor in tensors(twin).items() if "net." not in name)


def test_a_state_that_was_moved_starts_anew_in_its_dtype():
    state = FreeState(nn.LSTM(3, 4), value=(torch.full((1, 4), 0.1), torch.randn(1, 4))).double()
    expected = copy.deepcopy(state)
    spoil(state)
    state.reset_parameters()
    assert all(
        torch.equal(found, wanted) for found, wanted in zip(state.parameters(), expected.parameters(), strict=True)
    )


def test_a_value_given_is_kept_apart_from_the_callers():
    value = (torch.randn(1, 4), torch.randn(1, 4))
    given = tuple(leaf.clone() for leaf in value)
    state = ConstantState(nn.LSTM(3, 4), given)
    for leaf in (*given, *state.buffers()):
        leaf.zero_()
    state.reset_parameters()
    assert all(torch.equal(found, wanted) for found, wanted in zip(state(), value, strict=True))


def test_errors_are_forgotten():
    state = FreeState(nn.GRUCell(3, 4), noise=0.5, error_decay=0.5)
    state(batch_size=3).square().sum().backward()
    assert state.error.get_buffer("first_h") > 0
    state.reset_parameters()
    assert all(buffer.eq(0).all() for buffer in state.error.buffers())


LSTM = nn.LSTM(3, 4)
ON_META = {
    "constant": lambda **kw: ConstantState(LSTM, 0.5, **kw),
    "free": lambda **kw: FreeState(LSTM, value=0.5, error_decay=0.5, noise=0.1, **kw),
    "context": lambda **kw: ContextState(LSTM, nn.Identity(), features=2, **kw),
    "normal": lambda **kw: NormalState(LSTM, nn.Identity(), features=2, **kw),
    "sigma of the context": lambda **kw: NormalState(LSTM, nn.Identity(), features=2, scale_from_context=True, **kw),
    "dropped at times": lambda **kw: ContextDropout(ContextState(LSTM, nn.Identity(), features=2, **kw), **kw),
    "context net": lambda **kw: ContextNet(FEATURES, 6, **kw),
}


@pytest.mark.parametrize("kind", ON_META)
def test_device_and_dtype_are_taken_as_torchs_modules_take_them(kind):
    make = ON_META[kind]
    for device in ("meta", torch.device("meta")):
        assert all(tensor.is_meta for tensor in tensors(make(device=device)).values())
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        means = dtype if dtype == torch.float64 else torch.float32  # moving means are float32 at least
        for name, tensor in [*tensors(make(dtype=dtype)).items(), *tensors(make(device="cpu", dtype=dtype)).items()]:
            expected = means if name.startswith("error.") else dtype
            assert (tensor.dtype, tensor.device) == (expected, torch.device("cpu")), name
    for bad, error in (("float32", TypeError), (3, TypeError), (torch.int64, ValueError), (torch.qint8, ValueError)):
        with pytest.raises(error, match=r"^dtype: expected"):
            make(dtype=bad)
    for bad, error in ((3.5, TypeError), ([], TypeError), (True, TypeError), ("gpu", ValueError)):
        with pytest.raises(error, match=r"^device: expected a torch.device, its name or None, got"):
            make(device=bad)


def test_a_dtype_overrides_the_networks_but_not_a_leafs_own():
    state = FreeState(SPEC, dtype=torch.bfloat16)
    assert [leaf.dtype for leaf in state()] == [torch.bfloat16, torch.bfloat16, torch.float64, torch.int64]
    for name, option in (("device", "cpu"), ("dtype", torch.float64)):
        with pytest.raises(ValueError, match=rf"^{name}: expected None beside a null state that is given, got"):
            ContextDropout(ContextState(LSTM, net()), null=FreeState(LSTM), **{name: option})


def test_representations_are_true():
    lstm = nn.LSTM(3, 4, num_layers=2)
    words = "(h of shape (2, batch, 4) or (2, 4) without a batch, c of shape (2, batch, 4) or (2, 4) without a batch)"
    constant = ConstantState(lstm, 0.5)
    assert repr(constant) == f"ConstantState({words}, value=0.5)"
    constant.value_h.zero_()
    assert repr(constant) == f"ConstantState({words})"
    assert "value" not in repr(ConstantState(lstm, device="meta"))
    free = FreeState(lstm, noise=0.1, error_decay=0.9)
    assert f"{words}, noise=0.1\n" in repr(free)
    assert "decay=0.9" in repr(free)
    context = ContextState(lstm, net(), activation=torch.tanh)
    assert f"{words}, features=6, activation=tanh\n" in repr(context)
    assert "activation=Sigmoid" in repr(ContextState(lstm, net(), activation=nn.Sigmoid()))
    assert f"{words}, min_scale=0.1\n" in repr(NormalState(lstm, net(), min_scale=0.1))
    total = SumState([free, context], [0.3, 0.7])
    total.weights[0] = 1.0
    assert f"{words}, weights=[1, 0.7]\n" in repr(total)
    dropout = ContextDropout(context, 0.2)
    dropout.guidance = 3.0
    assert "ContextDropout(\n  p=0.2, guidance=3.0\n" in repr(dropout)
    spec = state_spec(lstm)
    assert f"{words}\n" in repr(LeafwiseState(lstm, h=FreeState(spec["h"]), c=FreeState(spec["c"])))
    found = repr(ContextNet(FEATURES, 6))
    assert "crop: Categorical(2 categories and unknown), rain: Continuous(mean=20, std=4), " in found
    assert "tools: SetValued(2 categories)\n" in found


def test_random_numbers_are_drawn_in_the_order_of_always():
    """A seed gives the weights it gave: heads by leaf, then sigma's; what zero_init overwrites is drawn too."""
    spec = fast_weights_spec(FastWeightsRNN(3, 4), "low_rank", rank=2)
    torch.manual_seed(5)
    state = NormalState(spec, nn.Identity(), features=2, zero_init=True, scale_from_context=True)
    after = torch.rand(1)
    torch.manual_seed(5)
    _ = nn.Linear(2, 4), nn.Linear(2, 8), nn.Linear(2, 8)
    factor = torch.empty(8).normal_(std=0.5)
    _ = nn.Linear(2, 4), nn.Linear(2, 8), nn.Linear(2, 8)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(state.mean.heads.layers["a_right"].bias, factor)
    torch.manual_seed(5)
    free = FreeState(spec, noise=0.1, error_decay=0.5)
    after = torch.rand(1)
    torch.manual_seed(5)
    factor = torch.empty(2, 4).normal_(std=0.5)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(free.values["a_right"], factor)


def test_a_learned_decay_starts_anew():
    network = FastWeightsRNN(3, 4, decay=nn.Parameter(torch.tensor(0.7)), rate=nn.Parameter(torch.tensor(0.25)))
    network.to("meta").to_empty(device="cpu")
    spoil(network)
    network.reset_parameters()
    assert (network.decay, network.rate) == (torch.tensor(0.7), 0.25)
