"""What a live session's server and its clients say to each other: `docs/protocol.md`, version 1.

A client sends text messages, JSON objects with a "type": the classes here. The server answers with JSON objects of its
own ("welcome", "state", "scene", "recorded", "busy", "error", "pong") and, for each pass of the model, with one binary
message: length of a header (uint32, little-endian), the header (JSON), then each frame's length and its JPEG.

Standard library only: a client needs neither torch nor numpy.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args, get_origin

VERSION = 1
MESSAGE_BYTES = 64 * 1024
"""Longest message that a client may send."""
WINDOW = 2
"""Passes that are under way to a client before it has acknowledged one; what is made meanwhile it does not see."""
MAX_ID = 64
"""Characters of an identifier: of a scene, or of a recorded file of controls."""

# Codes with which the server closes a connection, besides WebSocket's own (1000 to 1015).
NO_HELLO = 4400
WRONG_TOKEN = 4401
TOO_LATE = 4408
BUSY = 4409
WRONG_VERSION = 4426
TOO_MANY = 4429
TOO_SLOW = 4430
MISTAKEN = 4431

Role = Literal["driver", "viewer"]


class ProtocolError(ValueError):
    """A message that the protocol does not know. The text is meant for the one who sent it."""


@dataclass(frozen=True)
class Hello:
    """First, within three seconds."""

    version: int
    role: Role = "driver"
    token: str = ""
    takeover: bool = False
    """Drive although another does, where the server allows it (`--takeover`)."""
    thin: bool = False
    """Take fewer pictures of each pass where the connection cannot carry all (`kept` in a pass's header)."""


@dataclass(frozen=True)
class Control:
    """The controls that hold from now on, until the next; a pass uses the last that came."""

    seq: int
    """Grows from message to message; the passes that use these controls name it."""
    values: tuple[float, ...]
    """One for each of the welcome's columns."""
    ts: float = 0.0
    """The client's clock, in milliseconds; comes back with the passes."""


@dataclass(frozen=True)
class Ack:
    """Has shown, or at least received, a pass."""

    number: int


@dataclass(frozen=True)
class Reset:
    """Begin anew, paused at the first frame of a scene."""

    seed: int = 0
    scene: str | None = None
    """By default the one that is played."""


@dataclass(frozen=True)
class Pause:
    pass


@dataclass(frozen=True)
class Resume:
    pass


@dataclass(frozen=True)
class SingleStep:
    """One pass, while paused."""


@dataclass(frozen=True)
class Stop:
    """Stop at once; only a reset goes on from there."""


@dataclass(frozen=True)
class Record:
    on: bool


@dataclass(frozen=True)
class Keep:
    """Save the last ten seconds as a recording."""


@dataclass(frozen=True)
class Source:
    """Where controls come from: "human" (control messages), or another of the welcome's sources."""

    name: str


@dataclass(frozen=True)
class Ping:
    ts: float = 0.0


Message = Hello | Control | Ack | Reset | Pause | Resume | SingleStep | Stop | Record | Keep | Source | Ping
TYPES: dict[str, type[Message]] = {
    "hello": Hello,
    "control": Control,
    "ack": Ack,
    "reset": Reset,
    "pause": Pause,
    "resume": Resume,
    "step": SingleStep,
    "stop": Stop,
    "record": Record,
    "keep": Keep,
    "source": Source,
    "ping": Ping,
}
NAMES = {kind: name for name, kind in TYPES.items()}


def parse(text: str) -> Message:
    """A client's message. ProtocolError if it is none: too long, no JSON object, a type, field or value unknown."""
    if len(text) > MESSAGE_BYTES:  # bytes were counted where the socket was read; this is for other callers
        raise ProtocolError(f"a message may have {MESSAGE_BYTES} bytes")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message must be JSON") from error
    if not isinstance(data, dict):
        raise ProtocolError("a message must be a JSON object")
    name = data.pop("type", None)
    kind = TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ProtocolError(f"the type must be one of {', '.join(TYPES)}")
    known = {field.name: field for field in fields(kind)}
    if unknown := [key for key in data if key not in known]:
        raise ProtocolError(f"'{name}' has no field {unknown[0][:MAX_ID]!r}")
    if missing := [key for key, field in known.items() if key not in data and field.default is MISSING]:
        raise ProtocolError(f"'{name}' needs the field '{missing[0]}'")
    return kind(**{key: _checked(known[key].type, value, f"{name}.{key}") for key, value in data.items()})


def text_of(message: Message) -> str:
    """The message as it is sent; `parse` undone."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    return json.dumps({"type": NAMES[type(message)], **values})


def pack(header: dict[str, Any], pictures: Sequence[bytes]) -> bytes:
    """A pass as one binary message."""
    text = json.dumps(header, separators=(",", ":")).encode()
    parts = [struct.pack("<I", len(text)), text]
    for picture in pictures:
        parts += [struct.pack("<I", len(picture)), picture]
    return b"".join(parts)


def header_of(message: bytes) -> dict[str, Any]:
    """Of a pass that `pack` made; its pictures are not looked at."""
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length])


def unpack(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Header and pictures of a pass. ProtocolError if lengths do not fit."""
    parts, at = [], 0
    while at < len(message):
        if at + 4 > len(message):
            raise ProtocolError("the message ends within a length")
        (length,) = struct.unpack_from("<I", message, at)
        if at + 4 + length > len(message):
            raise ProtocolError("the message ends within a part")
        parts.append(message[at + 4 : at + 4 + length])
        at += 4 + length
    if not parts:
        raise ProtocolError("the message is empty")
    return json.loads(parts[0]), parts[1:]


def _checked(kind: Any, value: Any, where: str) -> Any:
    """The value as the field's type. ProtocolError if it is not of that type, or a number is not finite."""
    options = get_args(kind)
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in options:
            raise ProtocolError(f"{where} must be {' or '.join(options)}")
        return value
    if type(None) in options:
        return None if value is None else _checked(options[0], value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ProtocolError(f"{where} must be a list of numbers")
        return tuple(_number(item, where) for item in value)
    if kind is bool:
        if not isinstance(value, bool):
            raise ProtocolError(f"{where} must be true or false")
        return value
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
            raise ProtocolError(f"{where} must be a whole number from 0 to 2^53 - 1")
        return value
    if kind is float:
        return _number(value, where)
    assert kind is str, kind
    if not isinstance(value, str) or len(value) > 4 * MAX_ID:
        raise ProtocolError(f"{where} must be a short text")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ProtocolError(f"{where} must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ProtocolError(f"{where} must be finite")
    return number
