"""Files of states: one format with a version, files of earlier versions, and whatever else a file may be."""

import copy
import json
import re
import sys

import pytest
import torch
from safetensors.torch import save_file
from tests import fresh, golden_cases
from tests.golden_cases import CARRIED, HUB, STATES, carried_state, hub_parts, numbers_like
from tests.networks import tensors_of
from tests.state_files import FILES, header_of, structure_in, unchanged, with_first_number, with_header
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import contextual_rnn
from contextual_rnn import ConstantState, ContextState, FreeState, Leaf, StateSpec, serialization
from contextual_rnn.hub import HubContextualRNN
from contextual_rnn.serialization import (
    load_carried_state,
    load_state,
    load_weights,
    save_carried_state,
    save_state,
    save_weights,
)

GRU = nn.GRU(3, 5)


def golden(name):
    return golden_cases.FOLDER / f"{name}.safetensors"


@pytest.mark.parametrize("name", STATES)
def test_states_of_version_0_load(name):
    state = STATES[name]()
    numbers = {key: tensor for key, tensor in state.state_dict().items() if "saved_" in key}
    load_state(state, golden(name))
    assert all(torch.equal(tensor, numbers_like(tensor)) for tensor in [*state.parameters(), *state.buffers()])
    assert all(torch.equal(state.state_dict()[key], tensor) for key, tensor in numbers.items())


@pytest.mark.parametrize("name", CARRIED)
def test_carried_states_of_version_0_load(name):
    state = load_carried_state(golden(name), CARRIED[name][0]())
    assert all(map(torch.equal, tensors_of(state), tensors_of(carried_state(name))))


@pytest.mark.parametrize("name", HUB)
def test_published_weights_of_version_0_load(name, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(golden(name).read_bytes())
    network, initial_state = hub_parts(name)
    model = HubContextualRNN.from_pretrained(tmp_path, network=network, initial_state=initial_state)
    assert all(torch.equal(tensor, numbers_like(tensor)) for tensor in [*model.parameters(), *model.buffers()])


def test_files_of_version_0_are_refused_by_other_networks(tmp_path):
    with pytest.raises(ValueError, match=r"^network: expected one .* \(h of shape \(2, batch, 5\).*as the file"):
        load_carried_state(golden("carried-lstm"), nn.LSTM(3, 5))
    with pytest.raises(ValueError, match=r'^path: expected a state for "h B 5".*, got one for \["h 1 B 5","c 1 B 5"\]'):
        load_state(FreeState(nn.GRUCell(3, 5)), golden("free-lstm"))
    network, initial_state = nn.LSTM(3, 6), FreeState(nn.LSTM(3, 6))
    with pytest.raises(ValueError, match=r"^network: expected one .* \(h of shape \(1, batch, 5\).*weights have"):
        load_weights(HubContextualRNN(network, initial_state), golden("hub-normal-lstm"))


@pytest.mark.parametrize("kind", FILES)
def test_one_header_for_all_and_the_same_bytes_each_time(kind, tmp_path):
    load = FILES[kind](tmp_path)
    load()
    data = (tmp_path / "file.safetensors").read_bytes()
    for _ in range(5):
        torch.manual_seed(3)
        FILES[kind](tmp_path)
        if kind in ("state", "carried", "checkpoint"):  # published weights have those of a network that is drawn anew
            assert (tmp_path / "file.safetensors").read_bytes() == data
    if kind != "checkpoint":
        name, structure = structure_in(tmp_path / "file.safetensors")
        assert name == {"state": "h0v1", "carried": "hxv1", "weights": "weightsv1"}[kind]
        assert json.loads(structure) == "h 1 B 5"


@pytest.mark.parametrize("kind", ["state", "carried", "weights"])
@pytest.mark.parametrize("version", ["2", "10", "01", "-1", "1.0", "", "x", "\u0661"])
def test_another_version_is_refused_by_name(kind, version, tmp_path):
    load, file = FILES[kind](tmp_path), tmp_path / "file.safetensors"
    header, (name, structure) = header_of(file), structure_in(file)
    with_header(file, header | {"__metadata__": {name[:-1] + version: structure}})
    with pytest.raises(ValueError, match=re.escape(f"{file}: one of version {version}; this contextual_rnn reads")):
        load()


@pytest.mark.parametrize("kind", ["state", "carried", "weights"])
@pytest.mark.parametrize("other", ["state", "carried", "weights"])
def test_another_kind_of_file_is_refused_by_name(kind, other, tmp_path):
    load = FILES[kind](tmp_path)
    if kind != other:
        FILES[other](tmp_path)
        writer = {"state": "save_state", "carried": "save_carried_state", "weights": "save_pretrained"}
        with pytest.raises(ValueError, match=f"expected a file of {writer[kind]}, got .*: one of {writer[other]}"):
            load()


def test_the_wording_of_messages_is_no_format(tmp_path, monkeypatch):
    loads = []
    for kind in ("state", "carried", "weights"):
        (tmp_path / kind).mkdir()
        loads.append(FILES[kind](tmp_path / kind))
    monkeypatch.setattr("contextual_rnn.spec.tree.describe", lambda tree: "in other words")
    monkeypatch.setattr(sys.modules["contextual_rnn.spec.spec"], "describe", lambda tree: "in other words")
    for load in loads:
        load()
    for name, (network, _) in CARRIED.items():
        load_carried_state(golden(name), network())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_numbers_that_are_not_finite_or_of_another_dtype_are_refused(dtype, bad, tmp_path):
    network = nn.GRU(3, 5).to(dtype)
    diverged, state, file = FreeState(network), FreeState(network, value=0.5), tmp_path / "file"
    model = HubContextualRNN(network, state)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        diverged.values["h"][0, 3] = bad
    save_state(state, file)
    with unchanged(file), pytest.raises(ValueError, match=r"^values.h: expected finite numbers, got NaN or infinity$"):
        save_state(diverged, file)
    with_first_number(file, "values.h", bad)
    with pytest.raises(ValueError, match=f"^path: expected finite numbers in 'values.h', got NaN or inf.* in {file}$"):
        load_state(state, file)
    save_carried_state(state(batch_size=2), file, network)
    with unchanged(file), pytest.raises(ValueError, match=r"^h: expected finite numbers, got NaN or infinity$"):
        save_carried_state(diverged(batch_size=2).detach(), file, network)
    with_first_number(file, "h", bad)
    with pytest.raises(ValueError, match=f"^path: expected finite numbers in leaf 'h', got NaN or inf.* in {file}$"):
        load_carried_state(file, network)
    save_weights(model, file)
    with unchanged(file), pytest.raises(ValueError, match=r"^initial_state.values.h: expected finite numbers, got NaN"):
        save_weights(HubContextualRNN(network, diverged), file)
    with_first_number(file, "initial_state.values.h", bad)
    with pytest.raises(ValueError, match=f"^weights: expected finite numbers in 'initial_state.values.h'.* in {file}$"):
        load_weights(model, file)
    for other in {torch.float32, torch.float64, torch.float16, torch.bfloat16} - {dtype}:
        another = copy.deepcopy(network).to(other)
        words = f"{dtype}.*, got {other} in {file}$"
        save_state(FreeState(another), file)
        with pytest.raises(ValueError, match=f"^path: expected 'values.h' of {words}"):
            load_state(state, file)
        save_carried_state(FreeState(another)(batch_size=2), file, another)
        with pytest.raises(ValueError, match=f"^path: expected leaf 'h' of {words}"):
            load_carried_state(file, network)
        save_weights(HubContextualRNN(another, FreeState(another)), file)
        with pytest.raises(ValueError, match=f"^weights: expected '.*' of {words}"):
            load_weights(model, file)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items()), "nothing changed"


class Masked(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_a_mask_of_infinities_is_a_number_as_it_should_be(tmp_path):
    source, target = (ContextState(GRU, Masked(2, 4)) for _ in range(2))
    save_state(source, tmp_path / "state")
    load_state(target, tmp_path / "state")
    assert torch.equal(target.net.weight, source.net.weight)
    source.net.mask[0] = -torch.inf
    save_state(source, tmp_path / "state")
    with pytest.raises(ValueError, match=r"expected finite numbers in 'net\.mask'"):
        load_state(target, tmp_path / "state")


def test_weights_without_strictness(tmp_path):
    network, file = nn.GRU(3, 5), tmp_path / "file"
    source, target = (HubContextualRNN(network, FreeState(network, value=value)) for value in (0.5, 0.0))
    save_file({"initial_state.values.h": source.initial_state.values["h"].detach(), "more": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"^weights: expected a HubContextualRNN of .*weight_ih_l0.*got .*more.* in "):
        load_weights(target, file)
    load_weights(target, file, strict=False)
    assert torch.equal(target.initial_state.values["h"], source.initial_state.values["h"])


def test_tensors_that_share_memory_are_saved(tmp_path):
    whole = torch.randn(2, 2, 5)
    save_carried_state(whole[0][None].expand(1, 2, 5), tmp_path / "file", GRU)
    assert torch.equal(load_carried_state(tmp_path / "file", GRU), whole[:1])
    lstm = nn.LSTM(3, 5)
    save_carried_state((whole[:1], whole[:1]), tmp_path / "file", lstm)
    assert all(torch.equal(leaf, whole[:1]) for leaf in load_carried_state(tmp_path / "file", lstm))
    state = ContextState(GRU, nn.Linear(2, 4))
    state.more = nn.Linear(2, 4)
    state.more.weight.data = state.net.weight.data  # two parameters, one memory
    save_state(state, tmp_path / "file")
    load_state(state, tmp_path / "file")


def test_paths_and_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_state(FreeState(GRU), "state")
    load_state(FreeState(GRU), "state")
    for path in (3, None, b"state"):
        with pytest.raises(TypeError, match=r"^path: expected a path, got "):
            load_state(FreeState(GRU), path)
    with pytest.raises(ValueError, match=r"^path: expected a file of save_state, got a\x00b: "):
        load_state(FreeState(GRU), "a\x00b")
    quantised = torch.ao.quantization.quantize_dynamic(ContextState(GRU, nn.Linear(2, 4)))
    with pytest.raises(TypeError, match=r"^state: expected parameters and buffers alone, got .* as "):
        save_state(quantised, "state")


def test_states_are_saved_from_the_package_itself():
    names = ["load_carried_state", "load_state", "save_carried_state", "save_state"]
    assert all(getattr(contextual_rnn, name) is getattr(serialization, name) for name in names)
    assert set(names) < set(dir(contextual_rnn))
    assert not hasattr(contextual_rnn, "load_nothing")
    code = """if True:
        import sys
        import contextual_rnn
        from contextual_rnn import *
        assert "safetensors" not in sys.modules
        sys.modules["safetensors"] = None
        try:
            contextual_rnn.save_state
        except ImportError as error:
            print(error)
        """
    assert fresh.run(code).stdout == 'save_state needs safetensors: pip install "contextual-rnn[files]"\n'


def test_numbers_of_zero_and_functions_of_no_name_cost_no_byte(tmp_path):
    for state in (FreeState(GRU), ContextState(GRU, nn.Linear(2, 4)), ConstantState(GRU)):
        save_state(state, tmp_path / "state")
        assert set(header_of(tmp_path / "state")["__metadata__"]) == {"h0v1"}


def test_what_is_no_path_is_refused(tmp_path):
    gru = nn.GRU(3, 5)
    state, carried = FreeState(gru), torch.randn(1, 3, 5)
    calls = [
        lambda path: save_state(state, path),
        lambda path: load_state(state, path),
        lambda path: save_carried_state(carried, path, gru),
        lambda path: load_carried_state(path, gru),
    ]
    for call in calls:
        for path in (1, None, b"a", [tmp_path]):
            with pytest.raises(TypeError, match=r"^path: expected a path, got "):
                call(path)
        with pytest.raises(ValueError, match=r"^path: expected "):
            call(f"{tmp_path}/a\0b")


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # it is looked at, not used
def test_states_without_numbers_are_neither_saved_nor_loaded(tmp_path):
    gru, path = nn.GRU(3, 5), tmp_path / "state"
    carried = torch.randn(1, 3, 5)
    for other in (carried.to_sparse(), torch.nested.nested_tensor(list(carried)), carried.to("meta")):
        with pytest.raises(ValueError, match=r"^state: expected a"):
            save_carried_state(other, path, gru)
    with FakeTensorMode(), pytest.raises(ValueError, match=r"^h: expected a tensor with memory, got torch.float32"):
        save_carried_state(torch.randn(2, 3, 5)[1:], path, gru)
    with pytest.raises(ValueError, match=r"^values\.h: expected a tensor whose values can be read, got one on meta"):
        save_state(FreeState(gru).to("meta"), path)
    assert not path.exists()
    save_state(FreeState(gru), path)
    with pytest.raises(ValueError, match=r"^path: expected a FreeState with 'values.h' in memory, got it on meta in "):
        load_state(FreeState(gru).to("meta"), path)
    lazy = ContextState(gru, nn.LazyLinear(4), features=4)
    path.unlink()
    with pytest.raises(
        ValueError, match=r"^net\.weight: expected a tensor whose values can be read, got one of a lazy"
    ):
        save_state(lazy, path)
    assert not path.exists()
    save_state(ContextState(gru, nn.Linear(2, 4)), path)
    with pytest.raises(
        ValueError, match=r"^path: expected a ContextState with 'net.weight' in memory, got one of a lazy"
    ):
        load_state(lazy, path)
    lazy(torch.zeros(3, 2))
    load_state(lazy, path)
    save_carried_state(carried, path, gru)
    for device, error in (("nowhere", ValueError), (slice(None), TypeError), (2**63, ValueError)):
        with pytest.raises(error, match=r"^device: expected a torch.device, its name or None, got"):
            load_carried_state(path, gru, device=device)


def test_a_dtype_that_safetensors_does_not_have_is_named(tmp_path):
    spec = StateSpec(Leaf("z", (4,)), dtype=torch.complex128)
    with pytest.raises(ValueError, match=r"^values.z: expected a dtype that safetensors can hold, got torch.c"):
        save_state(FreeState(spec), tmp_path / "state")
    with pytest.raises(ValueError, match=r"^z: expected a dtype"):
        save_carried_state(torch.zeros(2, 4, dtype=torch.complex128), tmp_path / "state", spec)
    assert not list(tmp_path.iterdir())
