"""A policy server that speaks openpi's protocol, real, in this process: what it is asked, and what it may answer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from simulator.policy import RemotePolicy, packed, unpacked
from simulator.protocol import Resume, Source
from tests.drawn_session import BEFORE, ground
from tests.watched_engine import Watched

Answer = Callable[[Any], bytes | str | None]
"""From an observation to what is sent back; None closes the connection."""


class PolicyServer:
    """As openpi's `WebsocketPolicyServer`: metadata first, then an answer to each observation."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.observations: list[Any] = []
        self.keys: list[str | None] = []
        self.connections = 0
        self._server = serve(self._attend, "127.0.0.1", 0, compression=None, max_size=None)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def _attend(self, connection: ServerConnection) -> None:
        self.connections += 1
        assert connection.request
        self.keys.append(connection.request.headers.get("Authorization"))
        connection.send(packed({"name": "a policy"}))
        try:
            for message in connection:
                self.observations.append(unpacked(message) if isinstance(message, bytes) else message)
                answer = self.answer(self.observations[-1])
                if answer is None:
                    return
                connection.send(answer)
        except ConnectionClosed:
            return

    def __enter__(self) -> "PolicyServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()


@contextmanager
def asking(answer: Answer, **options: Any) -> Iterator[tuple[PolicyServer, RemotePolicy]]:
    with PolicyServer(answer) as server:
        policy = RemotePolicy(server.url, **options)
        yield server, policy
        policy.close()


def rows_of(observation: Any) -> bytes:
    """Eight rows that lead to the right from what is in force."""
    rows = np.tile(observation["observation/state"], (8, 1))
    rows[:, 0] += 0.02 * np.arange(1, 9)
    return packed({"actions": rows, "server_timing": {"infer_ms": 1.0}})


def test_an_observation_and_its_answer():
    with asking(rows_of, prompt="put it down", key="secret") as (server, policy):
        rows = policy.ask(ground(3), BEFORE).result(10)
        assert policy.metadata == {"name": "a policy"}
        assert rows.shape == (8, 4) and rows[-1, 0] == pytest.approx(0.5 + 0.16)
        (observation,) = server.observations
        assert np.array_equal(observation["observation/image"], ground(3))
        assert observation["observation/image"].dtype == np.uint8
        assert np.array_equal(observation["observation/state"], BEFORE)
        assert observation["prompt"] == "put it down"
        policy.ask(ground(3), BEFORE).result(10)
        assert server.connections == 1 and server.keys == ["Api-Key secret"]


def test_it_drives_a_session(tmp_path: Path):
    with PolicyServer(rows_of) as server:
        with Watched(tmp_path, policy=RemotePolicy(server.url)) as watched:
            watched.begin()
            watched.say(Source("policy"), Resume())
            watched.wait(lambda: len(watched.passes) >= 4)
            used = np.concatenate([made.controls for made in watched.passes])[:16]
        assert np.allclose(used[:, 0], 0.5 + 0.02 * np.arange(1, 17), atol=1e-5)
        assert all(made.header["source"] == "policy" for made in watched.passes)


def message(content: Any) -> bytes:
    data = msgpack.packb(content)
    assert data is not None
    return data


def test_the_wire_is_openpi_s():
    """Byte for byte what `openpi_client.msgpack_numpy` makes of these."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    wire = message(
        {"a": {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": "<f4", b"shape": (2, 3)}, "p": "do"}
    )
    assert packed({"a": array, "p": "do"}) == wire
    assert np.array_equal(unpacked(wire)["a"], array)
    scalar = message({b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f8"})
    assert packed(np.float64(1.5)) == msgpack.packb(1.5), "a float64 is a float"
    assert packed(np.float32(1.5)) == msgpack.packb({b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"})
    assert unpacked(scalar) == 1.5


@pytest.mark.parametrize(
    "wire",
    [
        message({b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": (1,)}),
        message({b"__ndarray__": True, b"data": b"12345678", b"dtype": "|V8", b"shape": (1,)}),
        message({b"__ndarray__": True, b"data": b"12345678", b"dtype": "<U2", b"shape": (1,)}),
        message({b"__ndarray__": True, b"data": b"12345678", b"dtype": "none", b"shape": (1,)}),
        message({b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": (2**40,)}),
        message({b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": (-1,)}),
        message({b"__ndarray__": True, b"dtype": "<f4", b"shape": (1,)}),
        message({b"__npgeneric__": True, b"data": "x", b"dtype": "|O"}),
        b"\xc1",
        b"",
        b"\x81\xa1a",
        b"\x91" * 3000,
    ],
)
def test_what_no_policy_sends_is_refused(wire: bytes):
    with pytest.raises(ValueError, match="no message of a policy server"):
        unpacked(wire)
    with asking(lambda _: wire) as (_, policy), pytest.raises(ValueError, match="policy server"):
        policy.ask(ground(1), BEFORE).result(10)


def test_objects_are_not_sent():
    for value in (np.array([object()]), object(), np.array(["text"]), 1j):
        with pytest.raises(ValueError, match=r"sent|serializ"):
            packed({"value": value})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("Traceback (most recent call last):\n  ...\nKeyError: 'observation/wrist_image'\n", "wrist_image'$"),
        (packed({"chunk": 1}), "without an array of actions"),
        (packed([1, 2]), "without an array of actions"),
        (packed({"actions": [1.0]}), "without an array of actions"),
    ],
)
def test_answers_without_actions_say_why(answer: bytes | str, message: str):
    with asking(lambda _: answer) as (server, policy):
        with pytest.raises(ValueError, match=message):
            policy.ask(ground(1), BEFORE).result(10)
        server.answer = rows_of
        assert policy.ask(ground(1), BEFORE).result(10).shape == (8, 4), "the next question is another one"


def test_a_lost_connection_is_made_again():
    with asking(lambda _: None) as (server, policy):
        with pytest.raises(OSError, match="was lost"):
            policy.ask(ground(1), BEFORE).result(10)
        server.answer = rows_of
        policy.ask(ground(1), BEFORE).result(10)
        assert server.connections == 2


def test_a_server_that_is_not_there():
    policy = RemotePolicy("ws://127.0.0.1:9")
    with pytest.raises(OSError, match="cannot be reached"):
        policy.ask(ground(1), BEFORE).result(10)
    policy.close()


def test_of_questions_that_wait_only_the_last_is_asked():
    asked, go = threading.Event(), threading.Event()

    def slowly(observation: Any) -> bytes:
        asked.set()
        go.wait(10)
        return rows_of(observation)

    with asking(slowly) as (server, policy):
        first = policy.ask(ground(1), BEFORE)
        asked.wait(10)
        second, third = policy.ask(ground(2), BEFORE), policy.ask(ground(3), BEFORE)
        go.set()
        assert third.result(10).shape == first.result(10).shape
        assert second.cancelled() and len(server.observations) == 2
        assert np.array_equal(server.observations[1]["observation/image"], ground(3))
