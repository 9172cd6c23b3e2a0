"""Files of states: one format with a version, files of earlier versions, and whatever else a file may be."""

import copy
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import golden_cases
from tests.golden_cases import CARRIED, HUB, STATES, carried_state, hub_parts, numbers_like, with_numbers
from tests.networks import tensors_of
from torch import nn

import contextual_rnn
from contextual_rnn import ConstantState, ContextState, FreeState, NormalState, SumState, serialization
from contextual_rnn._file_format import safetensors_bytes
from contextual_rnn.experiments import checkpoint
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


def header_of(file):
    data = Path(file).read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(file, header, data=None):
    """Write `header`, an object or bytes, before the numbers that are in `file`."""
    whole = Path(file).read_bytes()
    numbers = whole[8 + int.from_bytes(whole[:8], "little") :] if data is None else data
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    Path(file).write_bytes(len(header).to_bytes(8, "little") + header + numbers)


def with_metadata(file, **metadata):
    header = header_of(file)
    with_header(file, header | {"__metadata__": header["__metadata__"] | metadata})


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


def state_file(folder):
    state = with_numbers(NormalState(GRU, nn.Linear(2, 4), min_scale=0.2, activation=torch.tanh))
    save_state(state, folder / "file.safetensors")
    return lambda: load_state(NormalState(GRU, nn.Linear(2, 4), activation=torch.tanh), folder / "file.safetensors")


def carried_file(folder):
    save_carried_state(torch.ones(1, 2, 5), folder / "file.safetensors", GRU)
    return lambda: load_carried_state(folder / "file.safetensors", GRU)


def weights_file(folder):
    state = SumState([FreeState(GRU), ContextState(GRU, nn.Linear(2, 4), activation=torch.tanh)], [0.3, 0.7])
    model = with_numbers(HubContextualRNN(nn.GRU(3, 5), state))
    save_weights(model, folder / "file.safetensors")
    return lambda: load_weights(copy.deepcopy(model), folder / "file.safetensors")


def checkpoint_file(folder):
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.int64), "c": torch.ones(2).bfloat16()}
    written = checkpoint.Checkpoint(3, 0.5, [{"epoch": 0, "loss": 1.0}], 2.5, tensors)
    checkpoint.save(folder / "file.safetensors", written, "a run")
    return lambda: checkpoint.load(folder / "file.safetensors", "a run")


FILES = {"state": state_file, "carried": carried_file, "weights": weights_file, "checkpoint": checkpoint_file}


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
        metadata = header_of(tmp_path / "file.safetensors")["__metadata__"]
        assert metadata["v"] == "1"
        structure = metadata[{"state": "spec"}.get(kind, kind)]
        assert json.loads(structure) == "h 1 B 5"


@pytest.mark.parametrize("kind", ["state", "carried", "weights"])
@pytest.mark.parametrize("version", ["2", "10", "0", "-1", "1.0", "", "x", "\u0661"])
def test_another_version_is_refused_by_name(kind, version, tmp_path):
    load, file = FILES[kind](tmp_path), tmp_path / "file.safetensors"
    with_metadata(file, v=version)
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
    monkeypatch.setattr("contextual_rnn._tree.describe", lambda tree: "in other words")
    monkeypatch.setattr(sys.modules["contextual_rnn.state_spec"], "describe", lambda tree: "in other words")
    for load in loads:
        load()
    for name, (network, _) in CARRIED.items():
        load_carried_state(golden(name), network())


def deep(levels):
    return b"[" * levels + b"]" * levels


def renamed(file, **entries):
    header = header_of(file)
    first = next(name for name in header if name != "__metadata__")
    with_header(file, header | {first: header[first] | entries})


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "seven bytes": lambda file: file.write_bytes(b"1234567"),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "more": lambda file: file.write_bytes(file.read_bytes() + b"1"),
    "text": lambda file: file.write_bytes(b"years of work"),
    "a huge header": lambda file: file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:]),
    "a deep header": lambda file: with_header(file, deep(100_000)),
    "deep metadata": lambda file: with_metadata(
        file,
        spec=deep(100_000).decode(),
        carried=deep(10**5).decode(),
        numbers=deep(10**5).decode(),
        progress=deep(10**5).decode(),
    ),
    "no UTF-8": lambda file: with_header(file, b'{"\xff\xfe": 1}'),
    "a list": lambda file: with_header(file, []),
    "doubled names": lambda file: with_header(
        file, b"{" + json.dumps(header_of(file))[1:-1].encode() + b"," + json.dumps(header_of(file))[1:].encode()
    ),
    "metadata that are no texts": lambda file: with_header(file, header_of(file) | {"__metadata__": {"v": 1}}),
    "no metadata": lambda file: with_header(file, header_of(file) | {"__metadata__": {}}),
    "a type that torch has not": lambda file: renamed(file, dtype="F4"),
    "an unknown type": lambda file: renamed(file, dtype="F33"),
    "another type": lambda file: renamed(file, dtype="I32"),
    "another shape": lambda file: renamed(file, shape=[1]),
    "no shape": lambda file: renamed(file, shape=None),
    "too large a shape": lambda file: renamed(file, shape=[2**62, 2**62]),
    "overlapping": lambda file: renamed(file, data_offsets=[4, 24]),
    "outside": lambda file: renamed(file, data_offsets=[2**40, 2**40 + 20]),
    "a folder": lambda file: file.unlink() or file.mkdir(),
    "a pipe": lambda file: file.unlink() or os.mkfifo(file),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_such_file_is_a_value_error_that_names_it(damage, kind, tmp_path):
    load, file = FILES[kind](tmp_path), tmp_path / "file.safetensors"
    if damage == "no metadata" and kind == "weights":
        pytest.skip("weights written elsewhere have none")
    DAMAGE[damage](file)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load()


@pytest.mark.parametrize("kind", FILES)
def test_what_cannot_be_read_is_an_os_error_that_names_it(kind, tmp_path, monkeypatch):
    load, file = FILES[kind](tmp_path), tmp_path / "file.safetensors"

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PermissionError, match=re.escape(str(file))):
        load()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(file))):
        load()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_numbers_that_are_not_finite_or_of_another_dtype_are_refused(dtype, bad, tmp_path):
    network = nn.GRU(3, 5).to(dtype)
    diverged, state, file = FreeState(network), FreeState(network, value=0.5), tmp_path / "file"
    model = HubContextualRNN(network, state)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        diverged.values["h"][0, 3] = bad
    save_state(diverged, file)
    with pytest.raises(ValueError, match=f"^path: expected finite numbers in 'values.h', got NaN or inf.* in {file}$"):
        load_state(state, file)
    save_carried_state(diverged(batch_size=2), file, network)
    with pytest.raises(ValueError, match=f"^path: expected finite numbers in leaf 'h', got NaN or inf.* in {file}$"):
        load_carried_state(file, network)
    save_weights(HubContextualRNN(network, diverged), file)
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


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ('{"min_scale":-1}', "min_scale: expected a finite number of at least 0, got -1"),
        ('{"min_scale":1e999}', "min_scale: expected a finite number of at least 0, got inf"),
        ('{"min_scale":NaN}', "JSON with NaN"),
        ('{"min_scale":true}', "min_scale: expected .*, got True"),
        ('{"min_scale":"0.2"}', "min_scale: expected .*, got '0.2'"),
        ('{"min_scale":[0.2]}', r"min_scale: expected .*, got \[0.2\]"),
        ('{"min_scale":1' + "0" * 400 + "}", "int too large"),
        ('{"min_scale":1' + "0" * 5000 + "}", "4300 digits"),
        ('{"min_scale":0.1,"min_scale":0.2}', "JSON that has a name twice"),
        ('{"noise":0.1}', "noise: expected no such number in a NormalState, got 0.1"),
        ("[]", "one whose numbers are no JSON object"),
        ("", "text that is no JSON"),
    ],
)
def test_bad_numbers_in_a_header_are_refused_and_change_nothing(numbers, words, tmp_path):
    file = tmp_path / "state"
    save_state(NormalState(GRU, nn.Linear(2, 4), min_scale=0.1), file)
    with_metadata(file, numbers=numbers)
    state = NormalState(GRU, nn.Linear(2, 4), min_scale=0.2)
    before = copy.deepcopy(state.state_dict())
    with pytest.raises(ValueError, match=words) as error:
        load_state(state, file)
    assert str(file) in str(error.value)
    assert all(map(torch.equal, state.state_dict().values(), before.values()))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("step", -1), ("step", True), ("step", 1.5), ("step", None), ("losses", "x"), ("seconds", -1), ("seconds", []),
        ("metrics", {}), ("metrics", [1]), ("metrics", [{"loss": "x"}]), ("identity", 3), ("identity", "another"),
        ("more", 1),
    ],
)  # fmt: skip
def test_the_progress_in_a_checkpoint_is_checked(entry, value, tmp_path):
    load, file = checkpoint_file(tmp_path), tmp_path / "file.safetensors"
    assert load().tensors["c"].dtype == torch.bfloat16
    progress = json.loads(header_of(file)["__metadata__"]["progress"]) | {entry: value}
    tensors = load_file(file)
    text = json.dumps(progress)
    metadata = {"progress": text, "digest": checkpoint._digest(text, tensors)}
    file.write_bytes(safetensors_bytes(tensors, metadata))
    with pytest.raises(ValueError, match=f"^checkpoint: expected one that this run has written in {file}, got one "):
        load()


STRANGE = [None, [], {}, "", "x", "1", -1, 0, 2**70, 1.5, True, "[" * 5000, "9" * 5000, "\x00", "é", [2**64], 1e308]


def damaged(data, random):
    """A file that is damaged in one of several ways."""
    way = random.randrange(6)
    length = int.from_bytes(data[:8], "little")
    if way == 0:
        return data[: random.randrange(len(data))]
    if way in (1, 2):  # flips, in the header mostly
        changed = bytearray(data)
        for _ in range(random.randint(1, 4)):
            changed[random.randrange(8 + length if way == 1 else len(data))] ^= 1 << random.randrange(8)
        return bytes(changed)
    header = json.loads(data[8 : 8 + length])
    if way == 3:  # a piece of the header's text taken out, doubled or moved
        text = data[8 : 8 + length]
        start, stop = sorted(random.randrange(length + 1) for _ in range(2))
        piece = random.choice([b"", text[start:stop] * 2, b"\xff", b'"', b"[" * 2000])
        text = text[:start] + piece + text[stop:]
        return len(text).to_bytes(8, "little") + text + data[8 + length :]
    node = header
    while True:  # an entry of the header, at any depth
        key = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], dict | list) or not node[key] or random.random() < 0.3:
            break
        node = node[key]
    if way == 4 and isinstance(node, dict):
        del node[key]
    else:
        node[key] = random.choice(STRANGE)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_load_or_are_refused_by_name(kind, tmp_path):
    load, file = FILES[kind](tmp_path), tmp_path / "file.safetensors"
    good, seed, messages = file.read_bytes(), random.Random(kind), []
    for _ in range(300):
        file.write_bytes(damaged(good, seed))
        try:
            load()
        except (ValueError, OSError) as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert all(str(file) in message and len(message) < 1000 for message in messages)


def test_a_config_of_the_hub_that_is_damaged_is_named(tmp_path):
    network, state = nn.GRU(3, 5), FreeState(GRU)
    HubContextualRNN(network, state).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    for data in (b"", b"[]", b"\xff", deep(100_000), b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": 1'):
        config.write_bytes(data)
        with pytest.raises(ValueError, match=re.escape(f"config: expected a JSON object in {config}, got ")):
            HubContextualRNN.from_pretrained(tmp_path, network=network, initial_state=state)


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
    quantised = ContextState(GRU, nn.Sequential(nn.Linear(2, 4)), features=4)
    quantised.net[0].get_extra_state = None
    quantised.register_buffer("buffer", None)
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
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == 'save_state needs safetensors: pip install "contextual-rnn[files]"\n'


def test_numbers_of_zero_and_functions_of_no_name_cost_no_byte(tmp_path):
    for state in (FreeState(GRU), ContextState(GRU, nn.Linear(2, 4)), ConstantState(GRU)):
        save_state(state, tmp_path / "state")
        assert set(header_of(tmp_path / "state")["__metadata__"]) == {"spec", "v"}
