"""Whatever a file is, it loads or is refused with one error that names it."""

import copy
import json
import os
import random
import re

import pytest
import torch
from safetensors.torch import load_file
from tests.state_files import FILES, checkpoint_file, header_of, with_header, with_metadata
from torch import nn

from contextual_rnn import FreeState, NormalState
from contextual_rnn.experiments.runs import checkpoint
from contextual_rnn.hub import HubContextualRNN
from contextual_rnn.serialization import load_state, save_state
from contextual_rnn.serialization.file_format import safetensors_bytes

GRU = nn.GRU(3, 5)


def deep(levels):
    return b"[" * levels + b"]" * levels


def renamed(file, **entries):
    header = header_of(file)
    first = next(name for name in header if name != "__metadata__")
    with_header(file, header | {first: header[first] | entries})


def of_four_bits(file):
    header = header_of(file)
    first = next(name for name in header if name != "__metadata__")
    start, stop = header[first]["data_offsets"]
    renamed(file, dtype="F4", shape=[2 * (stop - start)])


def doubled(file):
    """With one tensor twice, the same both times."""
    header = header_of(file)
    first = next(name for name in header if name != "__metadata__")
    again = json.dumps({first: header[first]})[1:]
    with_header(file, json.dumps(header)[:-1].encode() + b"," + again.encode())


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
        h0v1=deep(10**5).decode(),
        hxv1=deep(10**5).decode(),
        numbers=deep(10**5).decode(),
        progress=deep(10**5).decode(),
    ),
    "no UTF-8": lambda file: with_header(file, b'{"\xff\xfe": 1}'),
    "a list": lambda file: with_header(file, []),
    "doubled names": lambda file: with_header(
        file, b"{" + json.dumps(header_of(file))[1:-1].encode() + b"," + json.dumps(header_of(file))[1:].encode()
    ),
    "one name twice": doubled,
    "metadata that are no texts": lambda file: with_header(file, header_of(file) | {"__metadata__": {"v": 1}}),
    "no metadata": lambda file: with_header(file, header_of(file) | {"__metadata__": {}}),
    "a type that torch has not": lambda file: of_four_bits(file),
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


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ('{"min_scale":-1}', "min_scale: expected a finite number of at least 0, got -1"),
        ('{"min_scale":1e999}', "min_scale: expected a finite number of at least 0, got inf"),
        ('{"min_scale":NaN}', "JSON with NaN"),
        ('{"min_scale":true}', "min_scale: expected .*, got True"),
        ('{"min_scale":"0.2"}', "min_scale: expected .*, got '0.2'"),
        ('{"min_scale":[0.2]}', r"min_scale: expected .*, got \[0.2\]"),
        ('{"min_scale":1' + "0" * 400 + "}", "min_scale: expected"),
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


def test_a_message_has_no_control_characters_of_a_file(tmp_path):
    file = tmp_path / "state.safetensors"
    save_state(FreeState(GRU), file)
    with_metadata(file, h0v1="\x1b[31mh 1 B 4\x9b")
    with pytest.raises(ValueError, match=r"^path: expected a state for") as refusal:
        load_state(FreeState(GRU), file)
    assert r"\x1b[31mh 1 B 4\x9b" in str(refusal.value)
    assert str(refusal.value).isprintable()
