from dataclasses import dataclass

from lerobot.robots import RobotConfig  # pyright: ignore[reportMissingImports]


@RobotConfig.register_subclass("understudy")
@dataclass
class UnderstudyConfig(RobotConfig):
    url: str = "http://127.0.0.1:8765"
    """As `understudy serve` prints it; the token may be in it."""
    token: str = ""
    scene: str | None = None
    """What to begin from, by its identifier; by default the server's first."""
    seed: int = 0
    camera: str = "view"
    """What the picture is called in an observation."""
