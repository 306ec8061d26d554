"""What is said is understood, and nothing else."""

import json
import re
import struct
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from simulator import protocol
from simulator.protocol import (
    MESSAGE_BYTES,
    TYPES,
    Ack,
    Control,
    Hello,
    Keep,
    Message,
    Pause,
    Ping,
    ProtocolError,
    Record,
    Reset,
    Resume,
    SingleStep,
    Source,
    Stop,
    header_of,
    pack,
    parse,
    text_of,
    unpack,
)

SPECIMENS: list[Message] = [
    Hello(1, "viewer", token="t", takeover=True, thin=True),
    Control(3, (0.5, -1.0), 12.5),
    Ack(7),
    Reset(2**53 - 1, "tiles-1"),
    Reset(),
    Pause(),
    Resume(),
    SingleStep(),
    Stop(),
    Record(True),
    Keep(),
    Source("recorded"),
    Ping(1.5),
]
DOCUMENT = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()


@pytest.mark.parametrize("message", SPECIMENS, ids=lambda message: type(message).__name__)
def test_text_and_back(message: Message) -> None:
    assert parse(text_of(message)) == message


def test_specimens_are_complete() -> None:
    assert {type(message) for message in SPECIMENS} == set(TYPES.values())


def test_what_is_left_out_has_its_default() -> None:
    assert parse('{"type": "hello", "version": 1}') == Hello(1, "driver", "", False)
    assert parse('{"type": "reset", "scene": null}') == Reset(0, None)
    assert parse('{"type": "control", "seq": 1, "values": [1, 2.5]}') == Control(1, (1.0, 2.5), 0.0)


MALFORMED = [
    "",
    "{",
    "null",
    "[]",
    '"hello"',
    "1e999",
    "{}",
    '{"type": null}',
    '{"type": ["hello"]}',
    '{"type": "Hello", "version": 1}',
    '{"type": "hello"}',
    '{"type": "hello", "version": "1"}',
    '{"type": "hello", "version": true}',
    '{"type": "hello", "version": 1.0}',
    '{"type": "hello", "version": -1}',
    '{"type": "hello", "version": 1, "role": "admin"}',
    '{"type": "hello", "version": 1, "role": ["driver"]}',
    '{"type": "hello", "version": 1, "token": 5}',
    '{"type": "hello", "version": 1, "token": "' + "x" * 257 + '"}',
    '{"type": "hello", "version": 1, "takeover": 1}',
    '{"type": "hello", "version": 1, "__class__": "x"}',
    '{"type": "control", "seq": 1}',
    '{"type": "control", "values": []}',
    '{"type": "control", "seq": 1, "values": 5}',
    '{"type": "control", "seq": 1, "values": "12"}',
    '{"type": "control", "seq": 1, "values": {"0": 1}}',
    '{"type": "control", "seq": 1, "values": [NaN]}',
    '{"type": "control", "seq": 1, "values": [Infinity]}',
    '{"type": "control", "seq": 1, "values": [-Infinity]}',
    '{"type": "control", "seq": 1, "values": [1e999]}',
    '{"type": "control", "seq": 1, "values": [1' + "0" * 400 + "]}",
    '{"type": "control", "seq": 1, "values": [1' + "0" * 5000 + "]}",
    '{"type": "control", "seq": 1, "values": [null]}',
    '{"type": "control", "seq": 1, "values": [true]}',
    '{"type": "control", "seq": 1, "values": ["1"]}',
    '{"type": "control", "seq": 1, "values": [[1]]}',
    '{"type": "control", "seq": 9007199254740992, "values": []}',
    '{"type": "control", "seq": -1, "values": []}',
    '{"type": "control", "seq": null, "values": []}',
    '{"type": "control", "seq": 1, "values": [], "ts": "now"}',
    '{"type": "control", "seq": 1, "values": [], "ts": NaN}',
    '{"type": "ack"}',
    '{"type": "ack", "number": 1.5}',
    '{"type": "ack", "number": [1]}',
    '{"type": "reset", "seed": "0"}',
    '{"type": "reset", "seed": 1e3}',
    '{"type": "reset", "scene": 5}',
    '{"type": "reset", "scene": ["tiles-1"]}',
    '{"type": "pause", "now": true}',
    '{"type": "record"}',
    '{"type": "record", "on": "yes"}',
    '{"type": "source"}',
    '{"type": "source", "name": null}',
    '{"type": "welcome"}',
    '{"type": "ping", "ts": {}}',
    "[" * 50_000,
    '{"type": "control", "seq": 1, "values": ' + "[" * 30_000 + "]" * 30_000 + "}",
    "x" * (MESSAGE_BYTES + 1),
    '{"type": "pause"} {"type": "pause"}',
    "\ufeff{}",
]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:60])
def test_malformed(text: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        parse(text)
    assert 0 < len(str(refused.value)) < 300


def test_there_are_sixty_by_hand() -> None:
    assert len(set(MALFORMED)) >= 60


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
NAMES_OF_FIELDS = sorted({field.name for kind in TYPES.values() for field in fields(kind)})
OBJECTS = some.builds(
    lambda kind, data: {"type": kind, **data},
    some.sampled_from(list(TYPES)) | JSON,
    some.dictionaries(some.sampled_from(NAMES_OF_FIELDS), JSON, max_size=4),
)


@settings(max_examples=500, derandomize=True, deadline=None)
@given(OBJECTS | JSON)
def test_a_message_or_an_error(value: object) -> None:
    try:
        message = parse(json.dumps(value))
    except ProtocolError:
        return
    assert parse(text_of(message)) == message


def test_a_pass_and_back() -> None:
    header = {"number": 5, "first": 1, "n": 2, "scene": "sch\u00f6n"}
    data = pack(header, [b"first", b""])
    assert unpack(data) == (header, [b"first", b""])
    assert header_of(data) == header
    (length,) = struct.unpack_from("<I", data)
    assert json.loads(data[4 : 4 + length]) == header


@given(some.binary(max_size=60) | some.integers(0, 30).map(lambda end: pack({"n": 1}, [b"picture"])[:end]))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_a_broken_pass_is_an_error(data: bytes) -> None:
    try:
        header, _ = unpack(data)
    except ProtocolError:
        return
    assert isinstance(header, dict)


@pytest.mark.parametrize("name", list(TYPES))
def test_the_document_knows_every_message(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|(.*)$", DOCUMENT, re.MULTILINE)
    assert row, f"docs/protocol.md has no row for '{name}'"
    for field in fields(TYPES[name]):
        assert f"`{field.name}`" in row[1], f"{name}.{field.name}"


def test_the_document_knows_every_code() -> None:
    codes = {value for value in vars(protocol).values() if isinstance(value, int) and 4400 <= value < 4500}
    assert codes == {int(code) for code in re.findall(r"^\| (44\d\d) \|", DOCUMENT, re.MULTILINE)}
