"""Looks a whole robot dataset over before anything is learned from it, and lists all that is wrong.

Of each episode every number is read, every video's clock is held against the table, and the first and last picture of
every camera is decoded. What is damaged between them comes out when those pictures are read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from align.robot_dataset import AnyEpisode, RobotDataset
from common.errors import BadData

MOST_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    episode: int | None
    """None for what is wrong with the dataset as a whole."""
    field: str
    message: str


@dataclass(frozen=True)
class DatasetCheck:
    """What `check_dataset` found."""

    root: Path
    episodes: tuple[int, ...]
    """Numbers of all episodes."""
    frames: int
    """Of the episodes in which nothing is wrong."""
    problems: tuple[Problem, ...]
    """In the order of the episodes; what concerns all of them comes first."""

    @property
    def good(self) -> tuple[int, ...]:
        """Numbers of the episodes in which nothing is wrong."""
        bad = {problem.episode for problem in self.problems}
        return tuple(index for index in self.episodes if index not in bad)

    def require(self) -> None:
        """Raises BadData with all problems, if there are any."""
        if not self.problems:
            return
        shown = [f"\n  {problem.message}" for problem in self.problems[:MOST_SHOWN]]
        more = [f"\n  and {len(self.problems) - MOST_SHOWN} more"] if len(self.problems) > MOST_SHOWN else []
        bad = len(self.episodes) - len(self.good)
        summary = f"{self.root}: {bad} of {len(self.episodes)} episodes cannot be used as they are"
        if not bad:
            summary = f"{self.root} cannot be used as it is"
        hint = f"Leave out the episodes {_listed(self.episodes, self.good)}, or mend them." if bad and self.good else ""
        raise BadData("".join([summary, *shown, *more]), hint=hint)


def check_dataset(dataset: RobotDataset[AnyEpisode], *, cameras: tuple[str, ...] | None = None) -> DatasetCheck:
    """All that is wrong with a dataset and its episodes, instead of only the first thing.

    cameras: which to look at; by default all. A dataset whose tables of contents make no sense does not open at all,
    so that `open_dataset` raises for it.
    """
    cameras = dataset.cameras if cameras is None else cameras
    problems, frames, constant = [], 0, []
    for episode in tqdm(dataset.episodes, desc="checking episodes", unit="episode", disable=None, leave=False):
        found, actions = _look_over(dataset, episode, cameras)
        problems += found
        frames += 0 if found else episode.length
        if actions is not None:
            constant.append(not (actions[1:] != actions[:-1]).any())
    whole = {"camera": dataset.cameras, "action": dataset.action_names}
    general = [Problem(None, field, f"{dataset.root} has no {field}") for field, there in whole.items() if not there]
    if constant and all(constant):
        keys = ", ".join(dataset.action_keys)
        message = f"{dataset.root}: '{keys}' never changes in any episode, so that there is nothing to learn from it"
        general.append(Problem(None, keys, message))
    indices = tuple(episode.index for episode in dataset.episodes)
    return DatasetCheck(dataset.root, indices, frames, (*general, *problems))


def _look_over(
    dataset: RobotDataset[AnyEpisode], episode: AnyEpisode, cameras: tuple[str, ...]
) -> tuple[list[Problem], np.ndarray | None]:
    """What is wrong with one episode, and its actions if they can be read."""
    problems: dict[str, Problem] = {}  # by message: a file that is missing is missing for each of its fields

    def attempt(field: str, read: Callable[[], np.ndarray]) -> np.ndarray | None:
        try:
            return read()
        except BadData as error:
            problems.setdefault(str(error), Problem(episode.index, field, str(error)))
            return None

    attempt("timestamp", lambda: dataset.seconds(episode))
    if dataset.state_keys:
        attempt(", ".join(dataset.state_keys), lambda: dataset.states(episode))
    actions = None
    if dataset.action_keys:
        actions = attempt(", ".join(dataset.action_keys), lambda: dataset.actions(episode))
    for camera in cameras:
        attempt(camera, lambda camera=camera: _end(dataset, episode, camera, last=False))
        attempt(camera, lambda camera=camera: _end(dataset, episode, camera, last=True))
    return list(problems.values()), actions


def _end(dataset: RobotDataset[AnyEpisode], episode: AnyEpisode, camera: str, *, last: bool) -> np.ndarray:
    """The first or the last picture of an episode. Not both in one call, which would decode all between them."""
    return dataset.frames(episode, None, camera=camera, rows=np.array([episode.length - 1 if last else 0]))


def _listed(episodes: tuple[int, ...], good: tuple[int, ...]) -> str:
    bad = [str(index) for index in episodes if index not in set(good)]
    return ", ".join(bad[:MOST_SHOWN]) + (", …" if len(bad) > MOST_SHOWN else "")
