"""Drives a session of `understudy serve` from Python, without torch:

    with Client("http://127.0.0.1:8765") as robot:
        robot.reset(seed=1)
        frames = robot.step([0.1, 0.2, 0.1, 0.0, 1.0])

`step` makes one pass of the model and waits for it, as an environment does. For driving at the server's pace there are
`resume`, `control` and `passes`.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import simplejpeg
from typing_extensions import Self
from websockets.sync.client import connect

from simulator import protocol


@dataclass(frozen=True)
class Passed:
    """One pass of the model, as it was sent."""

    header: dict[str, Any]
    """As in `docs/protocol.md`."""
    jpegs: list[bytes]

    @property
    def frames(self) -> np.ndarray:
        """uint8 RGB (4, H, W, 3)."""
        return np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in self.jpegs])

    @property
    def controls(self) -> np.ndarray:
        """(4, A), as they were used."""
        return np.array(self.header["controls"], np.float32)


class Client:
    """One connection. ConnectionError if the server refuses it; ValueError for what the server says cannot be done.

    `controls` (A,) are those in force: after a reset the scene's, then those of the last pass that was seen.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        role: protocol.Role = "driver",
        takeover: bool = False,
        timeout: float = 60.0,
    ) -> None:
        """url: as `understudy serve` prints it; its token may be in it. timeout: seconds to wait for any answer."""
        parts = urlsplit(url)
        token = token or parts.fragment.removeprefix("token=")
        scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        self._timeout = timeout
        self._seq = 0
        self.state: dict[str, Any] = {}
        """The last message of that type."""
        with ExitStack() as opened:
            address = f"{scheme}://{parts.netloc}/session"
            self._socket = opened.enter_context(connect(address, compression=None, max_size=None))
            self._send(protocol.Hello(protocol.VERSION, role, token, takeover))
            self.welcome = self.wait_for("welcome")
            self.names = tuple(column["name"] for column in self.welcome["columns"])
            self.controls = np.array(self.wait_for("scene")["controls"], np.float32)  # where things stand
            self._open = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def reset(self, *, seed: int = 0, scene: str | None = None) -> np.ndarray:
        """Begin anew, paused; returns the first frame (H, W, 3)."""
        self._send(protocol.Reset(seed, scene))
        begun = self.wait_for("scene")
        self.controls = np.array(begun["controls"], np.float32)
        return simplejpeg.decode_jpeg(base64.b64decode(begun["picture"]))

    def step(self, controls: Sequence[float] | np.ndarray) -> np.ndarray:
        """One pass with a row of controls (A,), held for its four frames (4, H, W, 3), while the session is paused."""
        self.control(controls)
        self._send(protocol.SingleStep())
        while (made := self.next_pass()).header["action_seq"] != self._seq:
            continue  # a pass that was under way
        return made.frames

    def control(self, controls: Sequence[float] | np.ndarray) -> None:
        """Hold this row (A,) from now on. While the session runs it wants to hear one every 250 ms, or it pauses."""
        self._seq += 1
        self._send(protocol.Control(self._seq, tuple(float(value) for value in controls)))

    def send(self, message: protocol.Message) -> None:
        """Anything else that the protocol knows, such as `Resume()`, `Record(True)` or `Source("policy")`."""
        self._send(message)

    def passes(self) -> Iterator[Passed]:
        """Each pass as it comes, for ever; what is made while nobody asks for the next is in part left out."""
        while True:
            yield self.next_pass()

    def next_pass(self) -> Passed:
        while True:
            message = self.next_message()
            if isinstance(message, Passed):
                return message

    def wait_for(self, kind: str) -> dict[str, Any]:
        """The next message of this type, such as "state" or "recorded"; passes until then are not looked at."""
        while True:
            message = self.next_message()
            if not isinstance(message, Passed) and message["type"] == kind:
                return message

    def next_message(self) -> "Passed | dict[str, Any]":
        """A pass, which is acknowledged, or what else the server says. TimeoutError if nothing comes."""
        data = self._socket.recv(timeout=self._timeout)
        if isinstance(data, bytes):
            made = Passed(*protocol.unpack(data))
            self._send(protocol.Ack(made.header["number"]))
            self.controls = made.controls[-1]
            return made
        message = json.loads(data)
        if message["type"] == "busy":
            raise ConnectionError("another client drives this session")
        if message["type"] == "error":
            raise ValueError(message["message"])
        if message["type"] == "state":
            if message["state"] == "failed":
                raise ConnectionError(message["reason"])
            self.state = message
        return message

    def _send(self, message: protocol.Message) -> None:
        self._socket.send(protocol.text_of(message))
