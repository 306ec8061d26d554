"""Robot episodes as the plainest files there can be:

    episode_0/video.mp4  actions.npy  [states.npy]      float arrays (T, A) and (T, S) for T frames
    episode_1/...
    info.json            optional: {"fps": 10, "action_names": [...], "state_names": [...]}

Row t of actions.npy leads from frame t to frame t+1. It may have T rows or T-1: the last frame has no frame after it,
so that with T-1 rows it has no action, and with T the last row belongs to no pair. Any other number is BadData, as is
anything but an array of numbers: pickled objects are never loaded.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np

from align.robot_dataset import WHOLE, checked_vectors, choose_camera, choose_episodes, episode_name, of_first_readable
from align.sidecar import names_or_numbers, read_sidecar
from align.video_rows import check_clock, pictures_at, shown_times
from common.errors import BadData, UserError

VIDEO, ACTIONS, STATES = "video.mp4", "actions.npy", "states.npy"
# What numpy raises for files that are damaged, or no arrays, or hold pickled objects.
NPY_ERRORS = (OSError, ValueError, EOFError, SyntaxError, TokenError, MemoryError, OverflowError, BadZipFile)


@dataclass(frozen=True)
class PlainEpisode:
    index: int
    """The number in the folder's name."""
    folder: Path

    @cached_property
    def times(self) -> np.ndarray:
        """Seconds (T,) at which the video shows its frames. BadData if it is missing or cannot be read."""
        return shown_times(self.folder / VIDEO, where=self.where(VIDEO))

    @property
    def length(self) -> int:
        """Frames of the video. BadData if it is missing or cannot be read."""
        return len(self.times)

    @property
    def name(self) -> str:
        return episode_name(self.folder.parent, self)

    def where(self, file: str) -> str:
        return f"{self.name}: '{file}'"


@dataclass(frozen=True, eq=False)
class PlainDataset:
    """An open folder of plain episodes, as `align.robot_dataset.RobotDataset`; its only camera is "video"."""

    root: Path
    fps: float
    declared_fps: float | None
    """What info.json says; the videos are held against it."""
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    episodes: tuple[PlainEpisode, ...]
    cameras: tuple[str, ...] = ("video",)
    action_keys: tuple[str, ...] = (ACTIONS,)

    @property
    def state_keys(self) -> tuple[str, ...]:
        return (STATES,) if self.state_names else ()

    def episodes_of(self, split: str) -> tuple[PlainEpisode, ...]:
        """The episodes at the places first:end. UserError if there are none."""
        return choose_episodes(self.root, self.episodes, split, splits={})

    def states(self, episode: PlainEpisode) -> np.ndarray:
        """What was measured at each frame, float32 (T, S). BadData if it is missing, of other shape, or not finite."""
        if not self.state_names:
            raise BadData(f"{self.root} has no {STATES} in its episodes")
        states = checked_vectors(_load(episode, STATES), self.state_names, episode=episode.name, field=STATES)
        if len(states) != episode.length:
            raise BadData(f"{episode.where(STATES)} has {len(states)} rows, {VIDEO} has {episode.length} frames")
        return states

    def actions(self, episode: PlainEpisode) -> np.ndarray:
        """What was asked for, float32 (T, A) or (T-1, A); row t leads from frame t to t+1. BadData as above.

        T-1 rows: the last frame has none. T rows: the last one belongs to no pair of frames.
        """
        actions = checked_vectors(_load(episode, ACTIONS), self.action_names, episode=episode.name, field=ACTIONS)
        if len(actions) not in (episode.length, episode.length - 1):
            message = f"has {len(actions)} rows, {VIDEO} has {episode.length} frames"
            raise BadData(f"{episode.where(ACTIONS)} {message}", hint="It needs as many, or one less.")
        return actions

    def seconds(self, episode: PlainEpisode) -> np.ndarray:
        """When each frame was taken, float64 (T,) from 0 at the start of the video, by its clock.

        BadData if that runs at another rate than info.json says.
        """
        if self.declared_fps is not None:
            declared = np.arange(episode.length) / self.declared_fps
            check_clock(episode.times, declared, fps=self.declared_fps, where=episode.where("fps"))
        return episode.times - episode.times[0]

    def frames(
        self,
        episode: PlainEpisode,
        size: tuple[int, int] | None,
        *,
        camera: str | None = None,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """The pictures, uint8 RGB (T, H, W, 3), row by row with the states (see `RobotDataset`)."""
        choose_camera(self.root, self.cameras, camera)
        times = episode.times if rows is None else episode.times[rows]
        return pictures_at(episode.folder / VIDEO, times, size, where=episode.where(VIDEO))


def is_plain(root: Path) -> bool:
    return any(_folders(root))


def open_plain(root: Path) -> PlainDataset:
    """Opens a folder of plain episodes. UserError if it is none, BadData if no episode can be read.

    What an episode lacks is raised when it is read, so that the others can be used.
    """
    root = Path(root)
    if not is_plain(root):
        raise UserError(f"{root} has no episodes", hint=f"It needs folders episode_0, … with {VIDEO} and {ACTIONS}.")
    episodes = _episodes(root)
    sidecar = read_sidecar(root)
    states = sidecar.state_names is not None or any((episode.folder / STATES).exists() for episode in episodes)
    return PlainDataset(
        root=root,
        fps=of_first_readable(episodes, _measured_fps) if sidecar.fps is None else sidecar.fps,
        declared_fps=sidecar.fps,
        state_names=_names(episodes, STATES, sidecar.state_names) if states else (),
        action_names=_names(episodes, ACTIONS, sidecar.action_names),
        episodes=episodes,
    )


def _folders(root: Path) -> list[Path]:
    return [folder for folder in root.glob("episode_*") if folder.is_dir()]


def _episodes(root: Path) -> tuple[PlainEpisode, ...]:
    by_number: dict[int, PlainEpisode] = {}
    for folder in sorted(_folders(root)):
        number = re.fullmatch(r"episode_([0-9]+)", folder.name)
        if not number:
            raise BadData(f"{folder} has no number", hint="Episodes are the folders episode_0, episode_1, …")
        episode = PlainEpisode(int(number[1]), folder)
        other = by_number.setdefault(episode.index, episode)
        if other is not episode:
            raise BadData(f"{root}: episode {episode.index} is there twice ({other.folder.name} and {folder.name})")
    return tuple(by_number[number] for number in sorted(by_number))


def _measured_fps(episode: PlainEpisode) -> float:
    if episode.length < 2:
        raise BadData(f"{episode.where(VIDEO)} has {episode.length} frame, which gives no frame rate")
    return round((episode.length - 1) / float(episode.times[-1] - episode.times[0]), 3)


def _names(episodes: tuple[PlainEpisode, ...], file: str, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """One for each column of the file. BadData if info.json names another number of them."""

    def width(episode: PlainEpisode) -> int:
        values = _load(episode, file)
        if values.ndim != 2:
            raise BadData(f"{episode.where(file)} has the shape {values.shape}, not a row for each frame")
        return values.shape[1]

    return names_or_numbers(names, file.removesuffix("s.npy"), of_first_readable(episodes, width), where=file)


def _load(episode: PlainEpisode, file: str) -> np.ndarray:
    path = episode.folder / file
    if not path.is_file():
        raise BadData(f"{episode.where(file)} is missing", hint=WHOLE)
    try:
        values = np.load(path, allow_pickle=False)
    except NPY_ERRORS as error:
        raise BadData(
            f"{episode.where(file)} cannot be read ({error})", hint="numpy.save writes such files."
        ) from error
    if not isinstance(values, np.ndarray):
        raise BadData(f"{episode.where(file)} is an archive of arrays, not one array")
    return values
