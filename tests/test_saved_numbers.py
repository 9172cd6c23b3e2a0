"""Numbers and functions that define a state are restored, or refused by name, wherever a state is saved."""

import copy
import functools
import io
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tests.networks import tensors_of
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from contextual_rnn import (
    Categorical,
    ContextDropout,
    ContextNet,
    ContextState,
    ContextualRNN,
    Continuous,
    FreeState,
    InitialState,
    LeafwiseState,
    NormalState,
    SetValued,
    SumState,
    state_spec,
)
from contextual_rnn._numbers import FINITE
from contextual_rnn.hub import HubContextualRNN
from contextual_rnn.serialization import load_state, save_state
from contextual_rnn.states.moments import Moments

GRU, LSTM = nn.GRU(3, 5), nn.LSTM(3, 5)


class Scaled(InitialState):
    """A state of a user's own."""

    saved_numbers = FreeState.saved_numbers | {"factors": NormalState.saved_numbers["min_scale"]}

    def __init__(self, network, noise, factors):
        super().__init__(network)
        self.noise, self.factors = noise, list(factors)
        self.values = nn.ParameterDict(self.spec.fill(1.0))

    def moments(self, context, batch_size, batched):
        return {leaf.name: Moments(sum(self.factors) * self.values[leaf.name], self.noise) for leaf in self.spec}


def context_net(mean, std, dropout):
    features = {
        "rain": Continuous(mean, std),
        "crop": Categorical(("rye", "oats"), unknown=True, dropout=dropout),
        "tools": SetValued((1, 2)),
    }
    return ContextNet(features, 4)


def leafwise(noise, min_scale):
    spec = state_spec(LSTM)
    return LeafwiseState(
        spec, h=FreeState(spec["h"], noise=noise), c=NormalState(spec["c"], nn.Linear(2, 4), min_scale=min_scale)
    )


def dropout(p, guidance):
    return ContextDropout(ContextState(GRU, nn.Linear(2, 4)), p, guidance=guidance)


# How each is built from its numbers, two sets of these, and where the numbers are.
CASES = {
    "noise": (lambda noise: FreeState(GRU, noise), (0.3,), (0.0,), ["noise"]),
    "error_decay": (
        lambda noise, decay: FreeState(GRU, noise, error_decay=decay),
        (0.3, 0.7),
        (0.1, 0.0),
        ["noise", "error.decay"],
    ),
    "min_scale": (lambda least: NormalState(GRU, nn.Linear(2, 4), 0.5, min_scale=least), (0.2,), (0.0,), ["min_scale"]),
    "weights": (
        lambda *weights: SumState([FreeState(GRU, 0.1), FreeState(GRU, 0.1)], weights),
        (0.3, -0.7),
        (0.0, 1.0),
        ["weights"],
    ),
    "p, guidance": (dropout, (0.4, 1.7), (0.0, 0.0), ["p", "guidance"]),
    "leafwise": (leafwise, (0.3, 0.2), (0.0, 0.1), ["states.h.noise", "states.c.min_scale"]),
    "a sum in a mean": (
        lambda least, *weights: NormalState(
            GRU, SumState([FreeState(GRU), NormalState(GRU, FreeState(GRU), min_scale=least)], weights)
        ),
        (0.2, 0.3, 0.7),
        (0.1, 1.0, 1.0),
        ["mean.states.1.min_scale", "mean.weights"],
    ),
    "quantities": (
        lambda *numbers: ContextState(GRU, context_net(*numbers)),
        (1e10, 0.3, 0.2),
        (0.1, 1.0, 0.0),
        ["net.feature_numbers"],
    ),
    "of one's own": (lambda noise, *factors: Scaled(GRU, noise, factors), (0.3, 0.2, 0.1), (0.0, 1.0, 0.0),
                     ["noise", "factors"]),
}  # fmt: skip


def numbers(module, names):
    return [functools.reduce(getattr, name.split("."), module) for name in names]


def flat(values):
    return [each for value in values for each in (value if isinstance(value, list) else [value])]


def context_for(state, batch):
    nets = [module for module in state.modules() if isinstance(module, ContextNet)]
    if nets:
        return nets[0].encode({"rain": [3.0] * batch, "crop": ["rye"] * batch, "tools": [{1}] * batch})
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(3))


def randomised(state):
    with torch.no_grad():
        for tensor in [*state.parameters(), *state.buffers()]:
            tensor.copy_(torch.randn_like(tensor))
    for name, buffer in state.named_buffers():
        if "square" in name or "first" in name:
            buffer.abs_()
    return state


def through_state_dict(source, target, tmp_path):
    target.load_state_dict(source.state_dict())


def through_torch_save(source, target, tmp_path):
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))


def through_safetensors(source, target, tmp_path):
    target.load_state_dict(load(save(dict(source.state_dict()))))


def through_a_file(source, target, tmp_path):
    save_state(source, tmp_path / "state")
    load_state(target, tmp_path / "state")


def through_the_hub(source, target, tmp_path):
    network = nn.LSTM(3, 5) if len(list(source.spec)) == 2 else nn.GRU(3, 5)
    HubContextualRNN(network, source).save_pretrained(tmp_path)
    HubContextualRNN.from_pretrained(tmp_path, network=network, initial_state=target)


ROUTES = [through_state_dict, through_torch_save, through_safetensors, through_a_file, through_the_hub]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", CASES)
def test_restored(case, route, tmp_path):
    build, these, others, names = CASES[case]
    for first, second in ((these, others), (others, these)):  # of a zero too
        source, target = randomised(build(*first)), randomised(build(*second))
        assert flat(numbers(source, names)) == list(first)
        parameters = [id(parameter) for parameter in target.parameters()]
        route(source, target, tmp_path)
        assert numbers(target, names) == numbers(source, names)
        assert [type(number) for number in flat(numbers(target, names))] == [float] * len(first)
        assert [id(parameter) for parameter in target.parameters()] == parameters
        context = context_for(source, 4)
        for training in (True, False):
            source.train(training)
            target.train(training)
            drawn = [
                tensors_of(state(context, 4, generator=torch.Generator().manual_seed(7))) for state in (source, target)
            ]
            assert all(map(torch.equal, *drawn)), "to the bit, noise included"


@pytest.mark.parametrize("case", CASES)
def test_parameters_and_older_state_dicts_are_what_they_were(case):
    build, these, others, names = CASES[case]
    state = build(*these)
    older = {name: tensor for name, tensor in state.state_dict().items() if "saved_" not in name}
    tensors = dict([*state.named_parameters(), *state.named_buffers()])
    assert older.keys() == tensors.keys()
    other = build(*others)
    before = numbers(other, names)
    assert str(other.load_state_dict(older)) == "<All keys matched successfully>"
    assert numbers(other, names) == before, "nothing is known of them"


@pytest.mark.parametrize("case", CASES)
def test_copies_and_transforms(case):
    build, these, others, names = CASES[case]
    state, other = randomised(build(*these)), randomised(build(*others))
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))) if case != "of one's own" else ():
        assert numbers(twin, names) == numbers(state, names)
    context = context_for(state, 4)
    before = numbers(state, names)
    state.eval()
    other.eval()
    for tensor, wanted in zip(
        tensors_of(functional_call(state, other.state_dict(), (context, 4))), tensors_of(other(context, 4)), strict=True
    ):
        assert torch.equal(tensor, wanted)
    assert numbers(state, names) == before
    assert all(tensor.is_meta for tensor in copy.deepcopy(state).to("meta").state_dict().values())
    meta = copy.deepcopy(state).to("meta")
    meta.load_state_dict(other.state_dict(), assign=True)
    assert numbers(meta, names) == numbers(other, names)
    assert numbers(copy.deepcopy(state).half(), names) == before, "floats have no dtype to lose"


class Tempered(FreeState):
    """Another number beside those of its base class, as the documentation writes it."""

    saved_numbers = {"temperature": ("a positive number", lambda value: value > 0)}  # noqa: RUF012
    temperature = 1.0


def test_a_subclass_adds_numbers_to_those_of_its_base():
    source, target = Tempered(GRU, 0.3), Tempered(GRU)
    source.temperature = 0.5
    target.load_state_dict(source.state_dict())
    assert (target.noise, target.temperature, FreeState(GRU).state_dict().keys()) == (
        0.3, 0.5, {"saved_noise", "values.h"},
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"saved_temperature: expected a positive number, got 0\.0"):
        target.load_state_dict(source.state_dict() | {"saved_temperature": torch.zeros(())})


@pytest.mark.parametrize(
    "declared", [["t"], {"t": "a number"}, {"t": ("a number",)}, {"t": ("a number", 1)}, {1: FINITE}]
)
def test_a_wrong_declaration_is_refused_where_the_class_is_made(declared):
    with pytest.raises(TypeError, match=r"^Own.saved_numbers: expected a dict from names of .* got [\[{]"):
        type("Own", (FreeState,), {"saved_numbers": declared})


@pytest.mark.parametrize(("value", "error", "received"), [
    ("nothing", ValueError, "no such attribute"), (None, TypeError, "None"), ("a", TypeError, "'a'"),
    ([0.5, "a"], TypeError, r"\[0.5, 'a'\]"), (-1.0, ValueError, "-1.0"), ([0.5, -1.0], ValueError, "-1.0"),
])  # fmt: skip
def test_a_number_that_could_not_be_loaded_is_refused_when_it_is_saved(value, error, received, tmp_path):
    kind = type("Own", (FreeState,), {"saved_numbers": {"temprature": Tempered.saved_numbers["temperature"]}})
    state = kind(GRU)
    if value != "nothing":
        state.temprature = value
    for save_it in (state.state_dict, lambda: save_state(state, tmp_path / "state")):
        with pytest.raises(error, match=rf"^Own.temprature: expected a positive number.* got {received}"):
            save_it()
    assert not list(tmp_path.iterdir())


def test_numbers_that_a_user_made_parameters_are_parameters():
    state, other = (SumState([FreeState(GRU, value=1.0), FreeState(GRU, value=2.0)], [1, 1]) for _ in range(2))
    for each in (state, other):
        del each.weights
        each.weights = nn.Parameter(torch.ones(2))
    with torch.no_grad():
        state.weights.copy_(torch.tensor([0.25, 0.5]))
    assert "saved_weights" not in state.state_dict()
    other.load_state_dict(state.state_dict())
    assert other()[0, 0] == 1.25


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple])
@pytest.mark.parametrize("way", ["state_dict", "file"])
def test_weights_in_an_array_are_numbers_too(kind, way, tmp_path):
    states = [FreeState(GRU, value=1.0), FreeState(GRU, value=2.0)]
    source, target = SumState(states, [1, 1]), SumState(states, [1, 1])
    source.weights = kind([0.25, 0.5])
    if way == "file":
        save_state(source, tmp_path / "state.safetensors")
        load_state(target, tmp_path / "state.safetensors")
    else:
        target.load_state_dict(source.state_dict())
    assert target.weights == [0.25, 0.5]
    assert target()[0, 0] == source()[0, 0] == 1.25


@pytest.mark.parametrize(
    ("state", "key", "bad"),
    [
        (lambda: FreeState(GRU), "saved_noise", torch.tensor(-0.1)),
        (lambda: FreeState(GRU), "saved_noise", torch.tensor(1e39, dtype=torch.float64)),
        (lambda: dropout(0.1, 1.0), "saved_guidance", torch.tensor(1e39, dtype=torch.float64)),
        (lambda: FreeState(GRU), "saved_noise", torch.tensor(torch.nan)),
        (lambda: FreeState(GRU), "saved_noise", torch.zeros(2)),
        (lambda: FreeState(GRU), "saved_noise", torch.tensor(True)),
        (lambda: FreeState(GRU, error_decay=0.5), "error.saved_decay", torch.tensor(1.0)),
        (lambda: NormalState(GRU, FreeState(GRU)), "saved_min_scale", torch.tensor(torch.inf)),
        (lambda: SumState([FreeState(GRU)] * 2, [1, 1]), "saved_weights", torch.zeros(3)),
        (lambda: SumState([FreeState(GRU)] * 2, [1, 1]), "saved_weights", torch.tensor(1.0)),
        (lambda: dropout(0.1, 1.0), "saved_p", torch.tensor(1.5)),
        (lambda: ContextState(GRU, context_net(0.0, 1.0, 0.0)), "net.saved_feature_numbers", torch.zeros(3)),
    ],
)
def test_bad_numbers_are_refused_by_name_and_change_nothing(state, key, bad, tmp_path):
    state, network = state(), nn.GRU(3, 5)
    before = copy.deepcopy(state.state_dict())
    with pytest.raises(RuntimeError, match=key.rpartition("_")[2]):
        state.load_state_dict(state.state_dict() | {key: bad})
    model = HubContextualRNN(network, state)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(save(load(file.read_bytes()) | {f"initial_state.{key}": bad}))
    with pytest.raises(ValueError, match=rf"^weights: .*{key.rpartition('_')[2]}.* in {file}$"):
        HubContextualRNN.from_pretrained(tmp_path, network=network, initial_state=state)
    assert all(map(torch.equal, state.state_dict().values(), before.values()))


def named(activation):
    return ContextState(GRU, nn.Linear(2, 4), activation=activation)


def mean_of(activation):
    return NormalState(GRU, nn.Linear(2, 4), activation=activation)


def categories(*names, unknown=False):
    return ContextState(GRU, ContextNet({"crop": Categorical(names, unknown)}, 4))


def ordered(*names):
    return ContextState(GRU, ContextNet({name: Continuous(0.0, 1.0) for name in names}, 4))


WORDS = {
    "none, tanh": (lambda: named(None), lambda: named(torch.tanh), "activation: expected None.*got tanh"),
    "tanh, none": (lambda: named(torch.tanh), lambda: named(None), "activation: expected tanh.*got None"),
    "in a mean": (lambda: mean_of(torch.tanh), lambda: mean_of(nn.ReLU()), "mean.activation: expected tanh.*got ReLU"),
    "categories": (lambda: categories("rye", "oats"), lambda: categories("oats", "rye"), "net.features: expected crop"),
    "a bucket": (lambda: categories("a", "b"), lambda: categories("a", unknown=True), "net.features: expected crop"),
    "order": (lambda: ordered("rain", "heat"), lambda: ordered("heat", "rain"), "net.features: expected rain"),
}


@pytest.mark.parametrize("words", WORDS)
def test_other_functions_and_categories_are_refused_by_name(words, tmp_path):
    target, source, message = WORDS[words]
    target, network = randomised(target()), nn.GRU(3, 5)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(RuntimeError, match=message):
        copy.deepcopy(target).load_state_dict(source().state_dict())
    save_state(source(), tmp_path / "state")
    with pytest.raises(ValueError, match=f"^path: {message}.* in {tmp_path / 'state'}$"):
        load_state(target, tmp_path / "state")
    HubContextualRNN(network, source()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^weights: initial_state.{message}.* in {tmp_path / 'model.safetensors'}$"):
        HubContextualRNN.from_pretrained(tmp_path, network=network, initial_state=target)
    assert all(map(torch.equal, target.state_dict().values(), before.values()))


def test_names_of_one_function_are_one(tmp_path):
    names = [torch.tanh, functional.tanh, nn.Tanh(), torch.Tensor.tanh, functools.partial(torch.tanh)]
    for source in names:
        save_state(named(source), tmp_path / "state")
        for target in names:
            load_state(named(target), tmp_path / "state")
            named(target).load_state_dict(named(source).state_dict())


def test_categories_that_are_equal_are_the_same():
    numpy = pytest.importorskip("numpy")
    for these, others in (
        ((1, 2), (1.0, 2.0)),
        ((1, 2), tuple(numpy.arange(1, 3))),
        ((("a", 1), None), (("a", True), None)),
    ):
        categories(*these).load_state_dict(categories(*others).state_dict())
    with pytest.raises(RuntimeError, match=r"net\.features"):
        categories(1, 2).load_state_dict(categories("1", "2").state_dict())


def test_distributed_checkpoints_keep_numbers(tmp_path):
    from torch.distributed.checkpoint import load as load_checkpoint
    from torch.distributed.checkpoint import save as save_checkpoint
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    build, these, others, names = CASES["a sum in a mean"]
    source, target = (ContextualRNN(GRU, build(*values)) for values in (these, others))
    save_checkpoint(get_model_state_dict(source), checkpoint_id=tmp_path, no_dist=True)
    tensors = get_model_state_dict(target)
    load_checkpoint(tensors, checkpoint_id=tmp_path, no_dist=True)
    set_model_state_dict(target, tensors)
    assert numbers(target.initial_state, names) == numbers(source.initial_state, names)


def test_compiled_states_restore_numbers():
    state = SumState([FreeState(GRU, value=1.0), FreeState(GRU, value=2.0)], [1, 1]).eval()
    compiled = torch.compile(state, backend="eager")
    assert compiled(batch_size=2)[0, 0, 0] == 3
    compiled.load_state_dict({**compiled.state_dict(), "_orig_mod.saved_weights": torch.tensor([0.5, 0.25])})
    assert compiled(batch_size=2)[0, 0, 0] == 1
