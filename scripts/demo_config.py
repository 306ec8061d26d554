"""What to render of the demo world. Standard library only: the command line reads this file to print its help."""

from dataclasses import dataclass

from common.errors import UserError


@dataclass(frozen=True)
class DemoConfig:
    """What to render. Episode k of a split is the same however many episodes there are."""

    seed: int = 0
    size: tuple[int, int] = (64, 64)  # height, width
    frames: int = 80  # per episode, at 10 Hz
    human_episodes: tuple[int, int, int] = (120, 16, 20)  # train, validation, test
    robot_episodes: tuple[int, int, int] = (30, 5, 5)
    nuisance: float = 1.0  # strength of head motion, changing light and the rolling ball in the human video, 0 to 4

    def __post_init__(self) -> None:
        if min(self.human_episodes + self.robot_episodes) < 0 or not sum(self.robot_episodes):
            raise UserError(f"a demo needs robot episodes: human {self.human_episodes}, robot {self.robot_episodes}")
