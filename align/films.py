"""Robot video without labels, from datasets and from folders of video, at a robot's rate.

Axes: T frames, H x W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from align.datasets import open_dataset
from align.hdf5_layout import is_hdf5
from align.plain_folder import ACTIONS
from align.recordings import RATE_TOLERANCE, stride_of
from align.robot_dataset import RobotDataset, episode_name
from common.errors import BadData, UserError
from common.folders import Clip, open_folder
from common.frame_rate import FrameRate
from common.motion import CutDetector
from common.video import UnreadableVideo, decode

SHORTEST = 5
"""Frames that a scene must have to be an episode."""


@dataclass(frozen=True)
class Film:
    """One episode, or one scene of a video, that can be used."""

    name: str
    seen: np.ndarray
    """uint8 RGB (T, h, w, 3): as the models see it."""
    shown: np.ndarray
    """uint8 RGB (T, H, W, 3): the same frames, as they are to be kept."""
    states: np.ndarray | None
    """float32 (T, S), where the source has them."""


@dataclass(frozen=True)
class Unusable:
    """One that cannot be."""

    reason: str


@dataclass(frozen=True)
class Films:
    """A source that is open."""

    source: RobotDataset[Any] | tuple[Clip, ...]
    state_names: tuple[str, ...]
    camera: str | None
    rate: float
    seen: tuple[int, int]
    shown: tuple[int, int] | None

    def __iter__(self) -> Iterator[Film | Unusable]:
        if isinstance(self.source, tuple):
            for clip in self.source:
                yield from self._scenes(clip)
            return
        for episode in self.source.episodes:
            try:
                yield self._episode(self.source, episode)
            except BadData as error:
                yield Unusable(str(error))

    def _episode(self, dataset: RobotDataset[Any], episode: Any) -> Film:
        rows = np.arange(0, episode.length, stride_of(dataset.fps, self.rate))
        name = episode_name(dataset.root, episode)
        if len(rows) < SHORTEST:
            raise BadData(f"{name} has only {len(rows)} frames at {self.rate:g} frames per second")
        seen = dataset.frames(episode, self.seen, camera=self.camera, rows=rows)
        shown = dataset.frames(episode, self.shown, camera=self.camera, rows=rows)
        states = dataset.states(episode)[rows] if self.state_names else None
        return Film(name, seen, shown, states)

    def _scenes(self, clip: Clip) -> Iterator[Film | Unusable]:
        """The parts of a clip between its cuts."""
        if clip.info.fps < self.rate * (1 - RATE_TOLERANCE):
            yield Unusable(f"{clip.name} has {clip.info.fps:g} frames per second, the robot {self.rate:g}")
            return
        rate, cuts, number = FrameRate(clip.info, self.rate), CutDetector(), 0
        seen: list[np.ndarray] = []
        shown: list[np.ndarray] = []
        try:
            for small, large in zip(clip.decode(size=self.seen), decode(clip.path, size=self.shown), strict=True):
                if cuts.is_cut(small.image):
                    if len(seen) >= SHORTEST:
                        yield Film(f"{clip.name} scene {number}", np.stack(seen), np.stack(shown), None)
                    seen, shown, number = [], [], number + 1
                if rate.takes(small.seconds):
                    seen.append(small.image)
                    shown.append(large.image)
        except UnreadableVideo as error:
            yield Unusable(f"{clip.name}: {error.reason}")
        if len(seen) >= SHORTEST:
            yield Film(f"{clip.name} scene {number}", np.stack(seen), np.stack(shown), None)


def open_films(
    place: Path, *, rate: float, seen: tuple[int, int], shown: tuple[int, int] | None, camera: str | None
) -> Films:
    """The films of a robot dataset, whose actions are not looked at, or of a folder of video, cut into scenes.

    rate: frames per second that they are thinned to. seen, shown: height and width that pictures are cropped and
    scaled to; shown None keeps them as they are. UserError if the dataset is slower or has no whole number of frames
    to each of the robot's; whatever the two readers raise.
    """
    labelled = (place / "meta").is_dir() or is_hdf5(place) or any(place.glob(f"episode_*/{ACTIONS}"))
    if place.is_dir() and not labelled:
        return Films(open_folder(place).clips, (), camera, rate, seen, shown)
    dataset = open_dataset(place)
    if dataset.fps / stride_of(dataset.fps, rate) < rate * (1 - RATE_TOLERANCE):
        raise UserError(f"{place} has {dataset.fps:g} frames per second, the robot's controls {rate:g}")
    return Films(dataset, dataset.state_names if dataset.state_keys else (), camera, rate, seen, shown)
