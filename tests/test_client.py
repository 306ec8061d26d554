"""The Python client against a real server: one step at a time, at the server's pace, and what it is refused."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from simulator.client import Client, Passed
from simulator.guard import Security
from simulator.protocol import Pause, Record, Resume, Source
from tests.drawn_session import BEFORE, SIZE, ground, middle, recorded_rows
from tests.serve_helpers import served


def test_step_by_step(tmp_path: Path):
    with served(tmp_path) as server, Client(server.url("/")) as robot:
        assert robot.names == ("x", "y", "opening", "sweep")
        assert np.allclose(robot.controls, BEFORE)
        first = robot.reset(seed=3, scene="tiles-2")
        assert first.shape == (SIZE, SIZE, 3) and np.abs(first.astype(int) - ground(2)).mean() < 5
        for number in range(4):
            place = (0.2 + 0.1 * number, 0.5, 0.0, 0.0)
            frames = robot.step(place)
            assert frames.shape == (4, SIZE, SIZE, 3) and frames.dtype == np.uint8
            assert np.allclose(middle(frames[-1]), place[:2], atol=0.03)
            assert np.allclose(robot.controls, place)
        robot.reset(seed=4)
        assert np.allclose(robot.controls, BEFORE)
        assert server.engine.state()["seed"] == 4 and server.engine.state()["scene"] == "tiles-2"


def test_at_the_server_s_pace(tmp_path: Path):
    with served(tmp_path, fps=80) as server, Client(server.url("/")) as robot:
        robot.reset()
        robot.control((0.7, 0.5, 0.0, 0.0))
        robot.send(Resume())
        passes = []
        while len(passes) < 30:
            message = robot.next_message()
            robot.control((0.7, 0.5, 0.0, 0.0))
            if isinstance(message, Passed):
                passes.append(message)
            elif message.get("reason"):  # this machine was so busy that nothing came for 250 ms
                robot.send(Resume())
        assert all(made.header["state"] == "running" for made in passes)
        assert np.allclose(passes[-1].controls[-1], (0.7, 0.5, 0.0, 0.0))
        assert passes[-1].header["first"] > 100
        robot.send(Pause())
        while robot.state["state"] != "paused":
            robot.wait_for("state")


def test_a_recording_over_the_wire(tmp_path: Path):
    with served(tmp_path) as server, Client(server.url("/")) as robot:
        robot.reset()
        robot.send(Record(True))
        robot.send(Source("recorded"))
        robot.send(Resume())
        rows = np.concatenate([next(robot.passes()).controls for _ in range(3)])[:10]
        assert np.allclose(rows, recorded_rows())
        robot.send(Record(False))
        assert robot.wait_for("recorded")["frames"] == 13


def test_what_cannot_be_done_is_said(tmp_path: Path):
    with served(tmp_path) as server, Client(server.url("/")) as robot:
        with pytest.raises(ValueError, match="no scene 'nowhere'"):
            robot.reset(scene="nowhere")
        robot.reset()
        with pytest.raises(ValueError, match="4 values here, not 2"):
            robot.step((0.1, 0.2))


def test_one_drives_and_others_look_on(tmp_path: Path):
    with served(tmp_path) as server, Client(server.url("/")) as robot:
        with pytest.raises(ConnectionError, match="another client drives"):
            Client(server.url("/"))
        with Client(server.url("/"), role="viewer") as viewer:
            robot.reset()
            frames = robot.step((0.3, 0.3, 0.0, 0.0))
            assert np.array_equal(viewer.next_pass().frames, frames)
    with served(tmp_path, security=Security(takeover=True)) as server, Client(server.url("/")):
        with Client(server.url("/"), takeover=True) as second:
            second.reset()


def test_the_token_is_in_the_link(tmp_path: Path):
    token = "a-token-of-some-length"
    with served(tmp_path, security=Security(token=token)) as server:
        with pytest.raises(ValueError, match="token is wrong or missing"):
            Client(server.url("/"))
        with Client(server.url(f"/#token={token}")) as robot:
            robot.reset()
        time.sleep(0.2)
        with Client(server.url("/"), token=token) as robot:
            robot.reset()


def test_it_needs_no_torch():
    code = "import sys, simulator.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


def test_a_step_is_not_taken_for_a_pass_that_was_under_way(tmp_path: Path):
    with served(tmp_path) as server, Client(server.url("/")) as robot:
        robot.reset()
        robot.control((0.2, 0.2, 0.0, 0.0))
        robot.send(Resume())
        time.sleep(0.3)
        robot.send(Pause())  # the passes since are still to be received
        frames = robot.step((0.8, 0.8, 0.0, 0.0))
        assert np.allclose(middle(frames[-1]), (0.8, 0.8), atol=0.03)
