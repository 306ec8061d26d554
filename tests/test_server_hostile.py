"""What a bad client may do: it loses its connection, and the honest driver loses nothing."""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import certifi
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from scripts.bench_serve import Panning
from simulator import connection, listener
from simulator.engine import Engine
from simulator.protocol import MESSAGE_BYTES, TOO_MANY, Hello, Reset
from simulator.takes import Scene
from tests.attacks import HELLO, PING, text
from tests.serve_helpers import (
    PATIENCE,
    ROW,
    HonestDriver,
    Served,
    guest,
    hands,
    megabytes,
    raw_guest,
    served,
    wait_until,
)
from tests.test_protocol import JSON, MALFORMED, OBJECTS

PASSES_PER_SECOND = 5
LOST = 0.05
"""Share of passes that the honest driver may miss, and of its rate."""


T = TypeVar("T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("recordings")) as server:
        yield server


def beside_an_honest_driver(server: Served, attack: Callable[[], T], row: tuple[float, ...] = ROW) -> T:
    """Attack while somebody drives, who must lose nothing by it. Three tries: a busy machine disturbs drivers, too."""
    for _ in range(3):
        with HonestDriver(server, row) as driver:
            began = time.monotonic()
            result = attack()
            ended = time.monotonic()
        expected = (1 - LOST) * PASSES_PER_SECOND * (ended - began) - 1
        if driver.missed <= LOST and not driver.errors and driver.came(began, ended) >= expected:
            return result
    raise AssertionError(f"missed {driver.missed:.0%}, heard {driver.errors[:3]}")


def test_thousand_malformed_messages(server: Served) -> None:
    """Generated ones and those made by hand, as a viewer's; binary ones and broken UTF-8 among them."""
    messages: list[str | bytes] = [*MALFORMED, b"", b"\0" * 100, struct.pack("<I", 2**31)]

    @settings(max_examples=1000, derandomize=True, deadline=None)
    @given(OBJECTS.map(json.dumps) | JSON.map(json.dumps) | some.text(max_size=200) | some.binary(max_size=50))
    def collect(message: str | bytes) -> None:
        messages.append(message)

    collect()
    assert len(messages) >= 1060
    before = megabytes()
    beside_an_honest_driver(server, lambda: talk(server, messages))
    assert megabytes() - before < 50
    wait_until(lambda: server.room.sockets == 0)


def talk(server: Served, messages: list[str | bytes]) -> None:
    """Say all of it, coming back whenever shown out. Each answer is a text that makes sense."""
    left = list(reversed(messages))
    while left:
        with suppress(ConnectionClosed), raw_guest(server) as bad:
            bad.say(Hello(1, "viewer"))
            bad.hear("scene")
            for _ in range(10):
                if not left:
                    return
                bad.connection.send(left.pop())
                with suppress(TimeoutError):
                    answer = bad.receive(0.001)
                    assert isinstance(answer, bytes) or "Traceback" not in json.dumps(answer)


FRAMES = {
    "broken UTF-8": Frame(Opcode.TEXT, b"\xff\xfe{"),
    "reserved opcode": b"\x83\x80\0\0\0\0",
    "reserved bit": b"\xc1\x80\0\0\0\0",
    "unmasked": b"\x81\x02{}",
    "length of 2 GB": b"\x81\xff" + struct.pack(">Q", 2**31) + b"\0\0\0\0",
    "length of 2^63": b"\x81\xff" + struct.pack(">Q", 2**63) + b"\0\0\0\0",
    "long control frame": b"\x89\xfe\x01\x00\0\0\0\0" + bytes(256),
    "continuation of nothing": Frame(Opcode.CONT, b"x"),
    "one byte too long": Frame(Opcode.TEXT, b"x" * (MESSAGE_BYTES + 1)),
    "close with a wrong code": Frame(Opcode.CLOSE, struct.pack("!H", 5)),
    "close with a broken reason": Frame(Opcode.CLOSE, struct.pack("!H", 1000) + b"\xff"),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_broken_frames_end_the_connection(server: Served, frame: Frame | bytes) -> None:
    with raw_guest(server) as bad:
        bad.say(Hello(1, "viewer"))
        bad.hear("scene")
        raw = frame if isinstance(frame, bytes) else frame.serialize(mask=True)
        bad.connection.socket.sendall(raw)
        assert bad.closed() in (1000, 1002, 1007, 1009, None)
    wait_until(lambda: server.room.sockets == 0)


def test_a_compressed_bomb_is_no_message(server: Served) -> None:
    """The server does not agree to compression, so there is nothing that it would blow up."""
    with hands(server, header="Sec-WebSocket-Extensions: permessage-deflate") as link:
        answer = link.recv(4096)
        assert b" 101 " in answer and b"deflate" not in answer.lower()
        link.sendall(b"\xc1\xfe\xff\xff\0\0\0\0" + bytes(65535))
        assert struct.pack("!H", 1002) in link.recv(4096)


def attacked(server: Served, name: str, seconds: float) -> int:
    """An attack from another process; how often that was shown out."""

    def attack() -> int:
        words = [sys.executable, "-m", "tests.attacks", name, str(server.port), str(seconds)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=6 * PATIENCE)
        return int(done.stdout)

    return beside_an_honest_driver(server, attack)


def test_a_flood_of_messages_is_cut_off(server: Served) -> None:
    """10,000 messages per second, as a viewer, again and again."""
    assert attacked(server, "flood", 3) >= 3


def test_two_hundred_sockets(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HELLO_SECONDS", 1.0)
    assert attacked(server, "sockets", 4) == 200
    wait_until(lambda: server.room.sockets == 0)


def test_of_too_many_sockets_most_are_not_even_shaken_hands_with(server: Served) -> None:
    shaken = 0
    with ExitStack() as stack:
        for link in [stack.enter_context(hands(server)) for _ in range(listener.MOST_SOCKETS + 20)]:
            with suppress(ConnectionError):
                shaken += b" 101 " in link.recv(4096)
    assert shaken <= listener.MOST_SOCKETS
    wait_until(lambda: server.room.sockets == 0)


def test_three_hundred_half_open_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 1.0)
    with served(tmp_path) as server:
        assert attacked(server, "half_open", 3) == 300


def test_of_a_flood_of_controls_the_last_count(server: Served) -> None:
    """The driver's own: 600 per second are thinned out to 200, the last of them is used, nobody is shown out."""
    handled: list[int] = []
    handle = server.engine.handle
    server.engine.handle = lambda message: (handled.append(getattr(message, "seq", 0)), handle(message))[1]
    try:
        with guest(server) as driver:
            driver.begin()
            handled.clear()
            began = time.monotonic()
            while driver.seq < 600:
                driver.steer()
                time.sleep(max(0.0, began + driver.seq / 600 - time.monotonic()))
            driver.say({"type": "step"})
            assert driver.see()["action_seq"] == 600
            seconds = time.monotonic() - began
            for _ in range(20):  # a step that comes right after controls has them
                driver.steer()
                driver.steer()
                driver.say({"type": "step"})
                assert driver.see()["action_seq"] == driver.seq
    finally:
        server.engine.handle = handle
    controls = handled[: handled.index(600) + 1]
    assert controls == sorted(controls)
    assert len(controls) <= 200 * seconds + 2


def test_too_much_of_anything_ends_the_connection(server: Served) -> None:
    with guest(server) as driver:
        with suppress(ConnectionClosed):
            for _ in range(5000):
                driver.steer()
        assert driver.closed() in (TOO_MANY, None)
    with guest(server) as driver:
        with suppress(ConnectionClosed):
            for _ in range(40):
                driver.say(json.dumps({"type": "pause"}) + " " * 60_000)
        assert driver.closed() in (TOO_MANY, None)


@pytest.mark.parametrize(
    "frame", [b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x00\x80\0\0\0\0"], ids=["ping", "pong", "cont"]
)
def test_a_flood_of_frames_ends_the_connection(server: Served, frame: bytes) -> None:
    with guest(server, "viewer") as bad:
        first = b"\x01\x80\0\0\0\0" if frame[0] == 0 else b""
        with suppress(ConnectionError):
            bad.connection.socket.sendall(first + frame * 5000)
        wait_until(lambda: server.room.sockets == 0)


def test_who_never_reads_holds_up_nobody_and_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was sent fills its side and the server's, so that a polite end would wait for ever."""
    monkeypatch.setattr(listener, "PING_SECONDS", 1.0)
    picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)

    def load() -> Engine:
        scene = Scene("noise", "Noise", picture, None, None)
        return Engine(Panning(picture), [scene], fps=20.0, recordings=tmp_path)

    def attack() -> bool:
        with hands(server) as link:
            assert b" 101 " in link.recv(4096)
            link.sendall(text(HELLO))
            wait_until(lambda: server.room.viewers)
            wait_until(lambda: not server.room.viewers, 5)
            return shown_out_without_reading(link)

    with served(tmp_path, load=load, send_buffer=256 * 1024) as server:
        assert beside_an_honest_driver(server, attack, row=(0.1, 0.1))


def shown_out_without_reading(link: socket.socket) -> bool:
    """Whether the other side has reset the connection, although what it sent was not read."""
    try:
        for _ in range(100):
            link.sendall(text(PING))
            time.sleep(0.01)
    except ConnectionError:
        return True
    return False


def test_five_hundred_times_there_and_gone(server: Served) -> None:
    """Half say goodbye, half do not; nothing stays behind."""
    with guest(server) as driver:
        driver.begin()
    wait_until(lambda: server.room.sockets == 0)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(500):
        with raw_guest(server) as visitor:
            visitor.say(Hello(1, "driver" if number % 3 else "viewer"))
            visitor.receive()
            if number % 2:
                visitor.connection.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: server.room.sockets == 0)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files + 2, 15)
    assert threading.active_count() <= threads + 1
    assert not server.room.members and len(server.engine._listeners) == 1


PARTS = ["..", "../..", "/etc/passwd", "C:\\Windows", "\\\\host\\share", "%2e%2e", "\0", "a\0b", "~", "$HOME", "."]
PATHS = [
    *(f"{before}{part}{after}" for part in PARTS for before in ("", "tiles-1/", "/") for after in ("", "/x", ".mp4")),
    "file:///etc/passwd",
    "\ud800",
    "x" * 256,
]


CERTIFICATES = str(Path(certifi.where()).parent)
"""httpx reads them for each request."""


def test_recordings_are_found_by_their_ids_alone(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    recordings = tmp_path / "recordings"
    for name in ("one", "without-film"):
        (recordings / name).mkdir(parents=True)
    for folder in ("outside", "recordings/one"):
        (tmp_path / folder / "film.mp4").write_bytes(folder.encode())
    (recordings / "link").symlink_to(tmp_path / "outside")
    (recordings / "without-film" / "film.mp4").symlink_to(tmp_path / "outside" / "film.mp4")
    with served(recordings) as server:
        assert httpx.get(server.url("/recordings")).json() == {"recordings": ["one"]}
        film = httpx.get(server.url("/recordings/one.mp4"))
        assert film.content == b"recordings/one" and film.headers["content-type"] == "video/mp4"
        for name in ("link", "without-film", "..%2foutside", "one%2f..%2fone", "ONE", ""):
            answer = httpx.get(httpx.URL(server.url("/"), raw_path=f"/recordings/{name}.mp4".encode()))
            assert answer.status_code == 404, name


def test_no_id_is_a_path(server: Served) -> None:
    """A hundred strings where an identifier belongs: refused, and no file is opened for them."""
    opened: list[str] = []

    def note(event: str, details: tuple) -> None:
        if event == "open" and watching:
            opened.append(str(details[0]))

    watching = True
    sys.addaudithook(note)
    try:
        with guest(server) as driver:
            for path in PATHS:
                driver.say(Reset(0, path))
                assert "no scene" in driver.hear("error")["message"]
                driver.say({"type": "source", "name": path})
                assert "sources here" in driver.hear("error")["message"]
                raw = quote(path, safe="/.%", errors="replace")
                answer = httpx.get(httpx.URL(server.url("/"), raw_path=f"/recordings/{raw}.mp4".encode()))
                assert answer.status_code == 404, path
    finally:
        watching = False
    assert len(PATHS) >= 100
    assert not [path for path in opened if not path.startswith(CERTIFICATES)]
