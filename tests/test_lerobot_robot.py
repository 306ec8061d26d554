"""The LeRobot robot against a real server.

LeRobot itself needs Python 3.12 and much else, so its base classes are stood in for: what is called, and what must be
there, is taken from the published `lerobot/robots/robot.py` and `lerobot/robots/config.py`.
"""

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.protocol import Stop
from tests.drawn_session import BEFORE, SIZE, ground, middle
from tests.serve_helpers import Served, served

PLUGIN = Path(__file__).parent.parent / "scripts" / "lerobot_robot_understudy"
LEROBOT = """
import abc
from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class RobotConfig(abc.ABC):
    id: str | None = None
    calibration_dir: Path | None = None
    known = {}

    @classmethod
    def register_subclass(cls, name):
        def register(subclass):
            cls.known[name] = subclass
            return subclass

        return register


class Robot(abc.ABC):
    def __init__(self, config):
        self.robot_type = self.name
        self.id = config.id

    def __str__(self):
        return f"{self.id} {self.__class__.__name__}"

    missing = property(abc.abstractmethod(lambda self: None))
    observation_features = action_features = is_connected = is_calibrated = missing
    del missing

    @abc.abstractmethod
    def connect(self, calibrate=True): ...
    @abc.abstractmethod
    def calibrate(self): ...
    @abc.abstractmethod
    def configure(self): ...
    @abc.abstractmethod
    def get_observation(self): ...
    @abc.abstractmethod
    def send_action(self, action): ...
    @abc.abstractmethod
    def disconnect(self): ...
"""


@pytest.fixture(scope="module")
def robots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The stand-in for `lerobot.robots`, with the plugin imported as LeRobot would."""
    root = tmp_path_factory.mktemp("lerobot")
    (root / "lerobot").mkdir()
    (root / "lerobot" / "__init__.py").write_text("")
    (root / "lerobot" / "robots.py").write_text(LEROBOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        patch.syspath_prepend(str(PLUGIN))
        importlib.import_module("lerobot_robot_understudy")
        yield importlib.import_module("lerobot.robots")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("lerobot", "lerobot_robot_understudy")]:
        del sys.modules[name]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, fps=40) as found:
        yield found


def made(robots: Any, server: Served, **options: Any) -> Any:
    """As LeRobot makes a device of a config: the class of its name without "Config", in the same package."""
    config_class = robots.RobotConfig.known["understudy"]
    package = importlib.import_module(config_class.__module__.rpartition(".")[0])
    device = getattr(package, config_class.__name__.removesuffix("Config"))
    return device(config_class(id="one", url=server.url("/"), **options))


def action_of(x: float, y: float) -> dict[str, float]:
    return {"x": x, "y": y, "opening": 0.0, "sweep": 0.0}


def drive(robot: Any, action: dict[str, float], *, seconds: float) -> dict[str, Any]:
    """LeRobot's loop: an observation and an action at a time."""
    end = time.monotonic() + seconds
    observation = robot.get_observation()
    while time.monotonic() < end:
        observation = robot.get_observation()
        robot.send_action(action)
        time.sleep(1 / 30)
    return observation


def test_features_are_known_before_it_is_connected(robots: Any, server: Served):
    robot = made(robots, server, camera="front")
    assert not robot.is_connected and robot.is_calibrated
    assert robot.action_features == dict.fromkeys(("x", "y", "opening", "sweep"), float)
    assert robot.observation_features == {**robot.action_features, "front": (SIZE, SIZE, 3)}
    robot.calibrate()
    robot.configure()


def test_it_is_driven_like_a_robot(robots: Any, server: Served):
    robot = made(robots, server, scene="tiles-2", seed=5)
    robot.connect()
    assert robot.is_connected
    first = robot.get_observation()
    assert set(first) == set(robot.observation_features)
    assert np.abs(first["view"].astype(int) - ground(2)).mean() < 5
    assert [first[name] for name in robot.action_features] == pytest.approx(BEFORE.tolist())
    for place in ((0.3, 0.3), (0.8, 0.6)):
        seen = drive(robot, action_of(*place), seconds=1.0)
        assert np.allclose(middle(seen["view"]), place, atol=0.05)
        assert seen["x"] == pytest.approx(place[0])
    assert server.engine.state()["seed"] == 5
    assert robot.send_action(action_of(9.0, -9.0)) == pytest.approx(action_of(0.95, 0.05))
    robot.disconnect()
    assert not robot.is_connected
    time.sleep(0.3)
    assert server.engine.state()["state"] == "paused"
    robot.connect()
    assert np.abs(robot.get_observation()["view"].astype(int) - ground(2)).mean() < 5, "it begins anew"
    robot.disconnect()


def test_a_pause_between_episodes_is_resumed_by_the_next_action(robots: Any, server: Served):
    robot = made(robots, server)
    robot.connect()
    drive(robot, action_of(0.3, 0.3), seconds=0.5)
    time.sleep(0.8)  # nobody sends anything while an episode is saved
    assert server.engine.state()["state"] == "paused"
    seen = drive(robot, action_of(0.7, 0.7), seconds=1.0)
    assert np.allclose(middle(seen["view"]), (0.7, 0.7), atol=0.05)
    robot.disconnect()


def test_what_goes_wrong_is_said(robots: Any, server: Served):
    robot = made(robots, server)
    for call in (robot.get_observation, lambda: robot.send_action(action_of(0, 0))):
        with pytest.raises(ConnectionError, match="one Understudy is not connected"):
            call()
    robot.connect()
    with pytest.raises(ConnectionError, match="connected already"):
        robot.connect()
    with pytest.raises(ValueError, match="sweep is missing"):
        robot.send_action({"x": 0.1, "y": 0.1, "opening": 0.1})
    server.engine.handle(Stop())
    with pytest.raises(ConnectionError, match="has stopped"):
        for _ in range(100):
            robot.get_observation()
            time.sleep(0.05)
    assert not robot.is_connected
    robot.disconnect()
