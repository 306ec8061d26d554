"""A live session of Understudy as a LeRobot robot, `--robot.type=understudy`."""

from .config_understudy import UnderstudyConfig
from .understudy import Understudy

__all__ = ["Understudy", "UnderstudyConfig"]
