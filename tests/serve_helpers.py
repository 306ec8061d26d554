"""A real server in this process, over a session that draws, and guests who talk to it through real sockets."""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from simulator.engine import Engine
from simulator.guard import Security
from simulator.listener import configuration, listen
from simulator.protocol import Ack, Control, Hello, Message, Reset, Resume, Role, text_of, unpack
from simulator.room import Room
from simulator.server import build_app
from tests.attacks import HANDSHAKE
from tests.drawn_session import drawn_engine

PATIENCE = 10.0
"""Seconds until a test gives up."""
ROW = (0.5, 0.5, 0.0, 0.0)


@dataclass(frozen=True)
class Served:
    port: int
    room: Room

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/session"

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def engine(self) -> Engine:
        assert self.room.engine is not None
        return self.room.engine


@contextmanager
def served(
    recordings: Path,
    *,
    fps: float = 20.0,
    load: Callable[[], Engine] | None = None,
    security: Security | None = None,
    host: str = "127.0.0.1",
    page: Path | None = None,
    send_buffer: int | None = None,
) -> Iterator[Served]:
    """load: by default an engine over a drawn session, `fps` frames per second. page: by default an empty folder.
    send_buffer: bytes that the system holds for one client."""
    (recordings / "no-page").mkdir(exist_ok=True)
    app = build_app(
        load or (lambda: drawn_engine(recordings, fps=fps)),
        security=security or Security(),
        page=page or recordings / "no-page",
        recordings=recordings,
    )
    with listen(host, 0) as listener:
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        server = uvicorn.Server(configuration(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="test-server")
        port = listener.getsockname()[1]
        thread.start()
        try:
            wait_until(lambda: server.started)
            if load is None:
                wait_until(lambda: app.state.room.engine)
            yield Served(port, app.state.room)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


class Guest:
    """A client. Texts that a test does not wait for are skipped; passes are acknowledged only by `see`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seq = 0

    def say(self, message: Message | dict[str, Any] | str | bytes) -> None:
        if isinstance(message, dict):
            message = json.dumps(message)
        elif not isinstance(message, str | bytes):
            message = text_of(message)
        self.connection.send(message)

    def receive(self, timeout: float = PATIENCE) -> dict[str, Any] | bytes:
        message = self.connection.recv(timeout)
        return json.loads(message) if isinstance(message, str) else message

    def hear(self, kind: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The next text of that type."""
        until = time.monotonic() + timeout
        while True:
            message = self.receive(until - time.monotonic())
            if isinstance(message, dict) and message["type"] == kind:
                return message

    def see(self, *, acknowledge: bool = True, timeout: float = PATIENCE) -> dict[str, Any]:
        """The header of the next pass."""
        until = time.monotonic() + timeout
        while True:
            message = self.receive(until - time.monotonic())
            if isinstance(message, bytes):
                header, pictures = unpack(message)
                assert len(pictures) == header["n"]
                if acknowledge:
                    self.say(Ack(header["number"]))
                return header

    def begin(self, seed: int = 0) -> dict[str, Any]:
        """Reset; returns the scene event."""
        self.say(Reset(seed))
        while True:
            scene = self.hear("scene")
            if scene["seed"] == seed:
                assert base64.b64decode(scene["picture"])[:2] == b"\xff\xd8"
                return scene

    def steer(self, row: tuple[float, ...] = ROW) -> None:
        self.seq += 1
        self.say(Control(self.seq, row, 1000 * time.time()))

    def closed(self, timeout: float = PATIENCE) -> int | None:
        """The code with which the server closes; whatever comes before is skipped."""
        try:
            while True:
                self.receive(timeout)
        except ConnectionClosed as closing:
            return closing.rcvd.code if closing.rcvd else None


@contextmanager
def raw_guest(served: Served, *, name: str = "", origin: str | None = None) -> Iterator[Guest]:
    """Connected, but for the hello. name: what `Host` calls the server, with its port."""
    link = socket.create_connection(("127.0.0.1", served.port), PATIENCE)
    url = f"ws://{name}/session" if name else served.socket_url
    with connect(url, sock=link, origin=origin, max_size=None, compression=None, close_timeout=2) as connection:  # type: ignore[arg-type]
        yield Guest(connection)


def hands(served: Served, *, header: str = "") -> socket.socket:
    """A plain socket that has asked for a WebSocket, without having read the answer."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.settimeout(PATIENCE)
    link.connect(("127.0.0.1", served.port))
    link.sendall(HANDSHAKE.replace(b"\r\n", f"\r\n{header}\r\n".encode(), 1) if header else HANDSHAKE)
    return link


@contextmanager
def guest(served: Served, role: Role = "driver", **hello: Any) -> Iterator[Guest]:
    """Connected and welcomed, the first scene included."""
    with raw_guest(served) as guest:
        guest.say(Hello(1, role, **hello))
        guest.hear("scene")
        yield guest


class HonestDriver:
    """Drives for as long as the block lasts, in a thread; counts what comes."""

    def __init__(self, served: Served, row: tuple[float, ...] = ROW) -> None:
        self.served = served
        self.row = row
        self.numbers: list[int] = []
        self.arrivals: list[float] = []
        self.errors: list[dict[str, Any]] = []
        self._leaving = threading.Event()
        self._driving = threading.Event()
        self._thread = threading.Thread(target=self._drive, name="honest-driver")

    def __enter__(self) -> "HonestDriver":
        self._thread.start()
        assert self._driving.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    @property
    def missed(self) -> float:
        """Share of the passes between the first and the last that did not come."""
        return 1 - len(self.numbers) / (self.numbers[-1] - self.numbers[0] + 1)

    def came(self, since: float, until: float) -> int:
        """Passes between two times of `time.monotonic`."""
        return sum(since <= at < until for at in self.arrivals)

    def _drive(self) -> None:
        with guest(self.served) as driver:
            driver.begin()
            driver.say(Resume())
            steered = 0.0
            while not self._leaving.is_set():
                if time.monotonic() > steered + 0.03:
                    driver.steer(self.row)
                    steered = time.monotonic()
                try:
                    message = driver.receive(0.03)
                except TimeoutError:
                    continue
                if isinstance(message, bytes):
                    header, _ = unpack(message)
                    driver.say(Ack(header["number"]))
                    self.numbers.append(header["number"])
                    self.arrivals.append(time.monotonic())
                    self._driving.set()
                elif message["type"] == "error" or message.get("reason"):
                    self.errors.append(message)


def wait_until(condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.01)


def megabytes() -> float:
    """Of memory that this process holds."""
    return psutil.Process().memory_info().rss / 2**20
