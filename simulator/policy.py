"""A policy on a server that speaks the protocol of openpi (Physical-Intelligence/openpi) chooses the controls.

The protocol: WebSocket; the server's first message is its metadata; then each binary message is one observation, and
each answer a dict with "actions" (T, A). Everything is msgpack, an array a dict of b"__ndarray__", b"data", b"dtype"
and b"shape". An answer in text is the server's error.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from simulator.sources import POLICY_SECONDS

ANSWER_BYTES = 16 * 2**20
"""Longest answer that is read."""
PLAIN = "biuf"
"""Kinds of numpy types that are read: truth values, whole numbers and floats."""


class RemotePolicy:
    """Asks in a thread of its own, one question at a time. Connects when it is asked and is not connected."""

    def __init__(self, url: str, *, prompt: str = "", key: str | None = None) -> None:
        """url: ws://host:port; prompt: the task in words; key: for the server, if it wants one."""
        self._url, self._prompt, self._key = url, prompt, key
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._connection: ClientConnection | None = None
        self._open = ExitStack()
        """Closes the connection, if there is one."""
        self._latest: Future[np.ndarray] | None = None
        self.metadata: Any = None
        """What the server said of itself."""

    def ask(self, frame: np.ndarray, controls: np.ndarray) -> Future[np.ndarray]:
        """Rows (T, A) after the frame (H, W, 3) shown last and the controls (A,) in force.

        What the policy sees of a robot's state are the controls: nothing else of it is known inside a film. The answer
        fails with OSError or ValueError.
        """
        if self._latest:
            self._latest.cancel()  # of questions that wait, only the last counts
        observation = {
            "observation/image": np.ascontiguousarray(frame),
            "observation/state": np.asarray(controls, np.float32),
            "prompt": self._prompt,
        }
        self._latest = self._thread.submit(self._infer, observation)
        return self._latest

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._open.close()

    def _infer(self, observation: dict[str, Any]) -> np.ndarray:
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.send(packed(observation))
            answer = self._connection.recv(timeout=POLICY_SECONDS)
        except (OSError, WebSocketException) as error:
            self._open.close()
            self._connection = None
            raise OSError(f"{self._url} was lost: {error or type(error).__name__}") from error
        if isinstance(answer, str):  # a traceback of the server's
            raise ValueError(f"{self._url} answers: {(answer.strip().splitlines() or ['nothing'])[-1][:200]}")
        content = unpacked(answer)
        if not isinstance(content, dict) or not isinstance(content.get("actions"), np.ndarray):
            raise ValueError(f"{self._url} answers without an array of actions")
        return content["actions"]

    def _connect(self) -> ClientConnection:
        headers = {"Authorization": f"Api-Key {self._key}"} if self._key else None
        try:
            connection = self._open.enter_context(
                connect(self._url, compression=None, max_size=ANSWER_BYTES, additional_headers=headers)
            )
            metadata = connection.recv(timeout=POLICY_SECONDS)
        except (OSError, WebSocketException) as error:
            self._open.close()
            raise OSError(f"{self._url} cannot be reached: {error or type(error).__name__}") from error
        self.metadata = unpacked(metadata) if isinstance(metadata, bytes) else metadata
        return connection


def packed(content: Any) -> bytes:
    """What openpi's `msgpack_numpy` packs. ValueError for types of arrays that it does not."""
    data = msgpack.packb(content, default=_packed_array)
    assert data is not None
    return data


def unpacked(data: bytes) -> Any:
    """`packed` undone. ValueError for anything else, above all for arrays of objects."""
    try:
        return msgpack.unpackb(data, object_hook=_unpacked_array)
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"no message of a policy server: {error}") from error


def _packed_array(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise ValueError(f"{type(value).__name__} cannot be sent to a policy")
    _require_plain(value.dtype)
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def _unpacked_array(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype = _require_plain(np.dtype(value[b"dtype"]))
        shape = tuple(value[b"shape"])
        if any(size < 0 for size in shape):
            raise ValueError(f"an array has no shape {shape}")
        return np.ndarray(shape, dtype, buffer=value[b"data"])
    if b"__npgeneric__" in value:
        return _require_plain(np.dtype(value[b"dtype"])).type(value[b"data"])
    return value


def _require_plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in PLAIN:
        raise ValueError(f"arrays of {dtype} are not read or sent")
    return dtype
