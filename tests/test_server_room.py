"""Who drives, who looks on, and what they are told."""

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from common.errors import UserError
from simulator.engine import Engine
from simulator.guard import Security
from simulator.listener import listen
from simulator.protocol import (
    BUSY,
    MISTAKEN,
    NO_HELLO,
    TOO_LATE,
    TOO_MANY,
    WRONG_VERSION,
    Ack,
    Hello,
    Pause,
    Ping,
    Resume,
    SingleStep,
)
from tests.drawn_session import drawn_engine
from tests.serve_helpers import PATIENCE, Served, guest, raw_guest, served, wait_until


def test_driver_is_welcomed_and_drives(tmp_path: Path) -> None:
    with served(tmp_path) as server, raw_guest(server) as driver:
        driver.say(Hello(1))
        welcome = driver.hear("welcome")
        assert welcome["role"] == "driver" and welcome["version"] == 1
        assert [column["name"] for column in welcome["columns"]] == ["x", "y", "opening", "sweep"]
        assert driver.hear("state")["state"] == "stopped"
        driver.hear("scene")
        assert driver.begin(seed=7)["seed"] == 7
        driver.steer()
        driver.say(SingleStep())
        header = driver.see()
        assert header["first"] == 1 and header["action_seq"] == 1
        assert header["controls"] == [[0.5, 0.5, 0, 0]] * 4


def test_second_driver_is_busy_and_may_look_on(tmp_path: Path) -> None:
    with served(tmp_path) as server, guest(server) as first:
        with raw_guest(server) as second:
            second.say(Hello(1, takeover=True))
            told = second.hear("busy")
            assert abs(told["since"] - 1000 * time.time()) < 1000 * PATIENCE and not told["takeover"]
            assert second.closed() == BUSY
        with guest(server, "viewer"):
            first.begin()
            first.say(SingleStep())
            assert first.see()["number"] == 1


def test_takeover(tmp_path: Path) -> None:
    with served(tmp_path, security=Security(takeover=True)) as server, guest(server) as first:
        first.begin()
        first.say(Resume())
        first.see()
        with raw_guest(server) as polite:
            polite.say(Hello(1))
            assert polite.hear("busy")["takeover"]
        with guest(server, takeover=True) as second:
            assert first.hear("busy") and first.closed() == BUSY
            wait_until(lambda: server.engine.state()["state"] == "paused")
            assert "took over" in server.engine.state()["reason"]
            second.say(SingleStep())
            second.see()
            assert server.room.driver is not None


def test_driver_lost_pauses_and_the_next_finds_the_session_as_it_was(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        with guest(server) as driver:
            driver.begin(seed=3)
            driver.say(Resume())
            driver.steer()
            driver.see()
        wait_until(lambda: server.engine.state()["state"] == "paused")
        before = server.engine.state()
        assert "lost" in before["reason"] and before["made"] >= 4
        with raw_guest(server) as driver:
            driver.say(Hello(1))
            assert driver.hear("welcome")["state"] == before
            driver.hear("scene")
            driver.say(SingleStep())
            assert driver.see()["first"] == before["made"] + 1


def test_eight_viewers_get_the_same_bytes_and_the_ninth_none(tmp_path: Path) -> None:
    with served(tmp_path) as server, guest(server) as driver:
        driver.begin()
        viewers = [guest(server, "viewer") for _ in range(8)]
        guests = [viewer.__enter__() for viewer in viewers]
        with raw_guest(server) as ninth:
            ninth.say(Hello(1, "viewer"))
            assert "8" in ninth.hear("error")["message"] and ninth.closed() == TOO_MANY
        shown: list[int] = []
        for member in server.room.members:
            show = member.outbox.show
            member.outbox.show = lambda made, show=show: (shown.append(id(made.data)), show(made))[1]
        driver.say(SingleStep())
        assert {viewer.see()["number"] for viewer in guests} == {driver.see()["number"]}
        assert len(shown) == 9 and len(set(shown)) == 1
        for viewer in viewers:
            viewer.__exit__(None, None, None)


def test_a_viewer_may_only_acknowledge_and_ping(tmp_path: Path) -> None:
    with served(tmp_path) as server, guest(server) as driver, guest(server, "viewer") as viewer:
        driver.begin()
        driver.say(Resume())
        viewer.say(Pause())
        assert "viewer" in viewer.hear("error")["message"]
        viewer.say(Ping(12.5))
        assert viewer.hear("pong")["ts"] == 12.5
        assert server.engine.state()["state"] == "running"


def test_sixteen_sockets_at_most(tmp_path: Path) -> None:
    with served(tmp_path) as server, guest(server):
        waiting = [raw_guest(server) for _ in range(15)]
        for one in waiting:
            one.__enter__()
        with raw_guest(server) as one_too_many:
            assert one_too_many.hear("error") and one_too_many.closed() == TOO_MANY
        for one in waiting:
            one.__exit__(None, None, None)
        wait_until(lambda: server.room.sockets == 1)


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"type": "ping"}, NO_HELLO),
        ("nonsense", NO_HELLO),
        ({"type": "hello"}, NO_HELLO),
        ({"type": "hello", "version": 2}, WRONG_VERSION),
        (b"\0\1", 1003),
    ],
)
def test_without_a_proper_hello_nobody_comes_in(tmp_path: Path, first: dict | str | bytes, code: int) -> None:
    with served(tmp_path) as server, raw_guest(server) as stranger:
        stranger.say(first)
        assert stranger.hear("error") and stranger.closed() == code
        wait_until(lambda: server.room.sockets == 0)


def test_a_hello_must_come_soon(tmp_path: Path) -> None:
    with served(tmp_path) as server, raw_guest(server) as silent:
        began = time.monotonic()
        assert silent.closed() == TOO_LATE
        assert 2.5 < time.monotonic() - began < 6


def test_ten_mistakes_are_answered_and_no_more(tmp_path: Path) -> None:
    with served(tmp_path) as server, guest(server) as clumsy:
        for _ in range(10):
            clumsy.say({"type": "control", "seq": 1})
            assert "control" in clumsy.hear("error")["message"]
        clumsy.say("{}")
        assert clumsy.closed() == MISTAKEN


def test_what_the_engine_refuses_is_told_and_forgiven(tmp_path: Path) -> None:
    with served(tmp_path) as server, guest(server) as driver:
        for _ in range(20):
            driver.say({"type": "control", "seq": 1, "values": [0.0]})
            driver.hear("error")
        driver.begin()


class Slow:
    """Loads when it is told to."""

    def __init__(self, recordings: Path, error: Exception | None = None) -> None:
        self.go = threading.Event()
        self.recordings, self.error = recordings, error

    def __call__(self) -> Engine:
        assert self.go.wait(PATIENCE)
        if self.error:
            raise self.error
        return drawn_engine(self.recordings)


def health(server: Served) -> str:
    with urlopen(server.url("/healthz"), timeout=PATIENCE) as answer:
        return answer.read().decode()


def test_those_who_come_early_wait_until_it_is_loaded(tmp_path: Path) -> None:
    load = Slow(tmp_path)
    with served(tmp_path, load=load) as server:
        assert "loading" in health(server)
        with raw_guest(server) as early:
            early.say(Hello(1))
            assert early.hear("state")["state"] == "loading"
            early.say(SingleStep())
            assert "not loaded" in early.hear("error")["message"]
            load.go.set()
            assert early.hear("welcome")["role"] == "driver"
            early.hear("scene")
            early.begin()
        assert "ready" in health(server)


@pytest.mark.parametrize(("error", "told"), [(UserError("no such folder"), True), (KeyError("/secret/path"), False)])
def test_a_failed_load_is_told_to_all(tmp_path: Path, error: Exception, told: bool) -> None:
    load = Slow(tmp_path, error)
    with served(tmp_path, load=load) as server:
        with raw_guest(server) as early, raw_guest(server) as late:
            early.say(Hello(1))
            assert early.hear("state")["state"] == "loading"
            load.go.set()
            state = early.hear("state")
            late.say(Hello(1, "viewer"))
            assert late.hear("state") == state and state["state"] == "failed"
            assert ("no such folder" in state["reason"]) == told and "secret" not in state["reason"]
        assert "failed" in health(server)


def test_two_passes_are_under_way_and_then_the_newest_comes(tmp_path: Path) -> None:
    with served(tmp_path, fps=400) as server, guest(server) as driver, guest(server, "viewer") as silent:
        driver.begin()
        driver.say(Resume())
        numbers = [silent.see(acknowledge=False)["number"] for _ in range(2)]
        last = 0
        while last < 20:
            driver.steer()
            last = driver.see()["number"]
        with pytest.raises(TimeoutError):
            silent.see(acknowledge=False, timeout=0.2)
        driver.say(Pause())
        wait_until(lambda: server.engine.state()["state"] == "paused")
        silent.say(Ack(numbers[-1]))
        newest = silent.see(acknowledge=False)
        assert numbers == [1, 2] and newest["number"] >= last
        silent.say(Ping())
        pong = silent.hear("pong")
        assert pong["sent"] == 3 and pong["dropped"] == newest["number"] - 3


def test_when_the_server_ends_guests_are_told_and_the_engine_ends(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with served(tmp_path) as server:
            left = stack.enter_context(raw_guest(server))
            left.say(Hello(1))
            left.hear("scene")
            engine = server.engine
        assert left.closed() == 1012
    with pytest.raises(RuntimeError):
        engine.start()  # a thread runs once, and this one did
    assert not any(thread.name == "model" for thread in threading.enumerate())


def test_whoever_follows_the_link_before_the_server_runs_waits() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname(), timeout=2) as early:
        accepted, _ = listener.accept()
        accepted.close()
        assert early.recv(1) == b""
    with listen("127.0.0.1", 0) as listener, pytest.raises(UserError, match="cannot be listened at"):
        listen("127.0.0.1", listener.getsockname()[1])
