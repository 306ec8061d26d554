"""Reads LeRobot datasets (v2.0, v2.1 and v3.0) with pyarrow and PyAV alone.

    v2.x   one parquet and one mp4 per camera for each episode; meta/episodes.jsonl lists them
    v3.0   many episodes in one parquet and one mp4; meta/episodes/*.parquet says which rows and seconds are whose

Cameras are videos, or images inside the parquet files (https://huggingface.co/docs/lerobot; what files in the wild do
otherwise is in the comments). `LeRobotDataset` offers what `align.robot_dataset.RobotDataset` asks for.
"""

import io
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from align.lerobot_files import find_file, first_frame
from align.lerobot_index import (
    ACTION_KEYS,
    STATE_KEYS,
    LeRobotEpisode,
    colour_cameras,
    named_columns,
    read_episodes,
    read_info,
    read_splits,
)
from align.robot_dataset import WHOLE, checked_vectors, choose_camera, choose_episodes, episode_name, fitted
from align.video_rows import check_clock, pictures_at, shown_times
from common.errors import BadData, UserError

OTHER_RATE = 0.05  # a declared frame rate that is off by this share is wrong, not rounded


@dataclass(frozen=True, eq=False)
class LeRobotDataset:
    """An open dataset. Nothing but its tables of contents is in memory."""

    root: Path
    version: str
    """As the dataset calls it: "v2.0", "v2.1" or "v3.0"."""
    fps: float
    """Rows per second: as declared, or that of the timestamps where those say something else."""
    robot_type: str
    cameras: tuple[str, ...]
    """Feature names of the colour cameras, in the order of info.json."""
    state_keys: tuple[str, ...]
    action_keys: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    episodes: tuple[LeRobotEpisode, ...]
    splits: dict[str, tuple[LeRobotEpisode, ...]]
    info: dict[str, Any]
    """The whole of info.json."""
    _times: dict[Path, np.ndarray] = field(default_factory=dict)

    def episodes_of(self, split: str) -> tuple[LeRobotEpisode, ...]:
        """The episodes of a split: a name in info.json, or first:end. UserError if there are none."""
        return choose_episodes(self.root, self.episodes, split, splits=self.splits)

    def states(self, episode: LeRobotEpisode) -> np.ndarray:
        """What was measured at each frame, float32 (T, S). BadData if it is missing, of other width, or not finite."""
        return self._vectors(episode, self.state_keys, self.state_names, wanted=STATE_KEYS)

    def actions(self, episode: LeRobotEpisode) -> np.ndarray:
        """What was asked for at each frame, float32 (T, A); row t leads from frame t to t+1. BadData as above."""
        return self._vectors(episode, self.action_keys, self.action_names, wanted=ACTION_KEYS)

    def seconds(self, episode: LeRobotEpisode) -> np.ndarray:
        """When each row was taken, float64 (T,) from 0 at the start of the episode. BadData unless it increases."""
        where = self._where(episode, "timestamp")
        column = _numbers(self._columns(episode, ["timestamp"]), "timestamp", where=where)
        seconds = checked_vectors(column, ("timestamp",), episode=self._name(episode), field="timestamp")[:, 0]
        seconds = seconds.astype(np.float64)
        if not seconds.any():  # some writers leave it at zero
            return np.arange(episode.length) / self.fps
        if not (np.diff(seconds) > 0).all():
            row = int((np.diff(seconds) > 0).argmin())
            raise BadData(f"{where} does not increase from frame {row} ({seconds[row]:.3f} s) to the next")
        if abs(seconds[0]) > 0.5 / self.fps:
            raise BadData(f"{where} begins at {seconds[0]:.3f} s; it must count from the start of the episode")
        return seconds

    def frames(
        self,
        episode: LeRobotEpisode,
        size: tuple[int, int] | None,
        *,
        camera: str | None = None,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """The pictures of one camera, uint8 RGB (T, H, W, 3), row by row with the states (see `RobotDataset`)."""
        camera = choose_camera(self.root, self.cameras, camera)
        rows = np.arange(episode.length) if rows is None else rows
        if self.info["features"][camera]["dtype"] == "image":
            return self._stored_images(episode, camera, size, rows)
        path, times = self._shown(episode, camera)
        where = self._where(episode, camera)
        check_clock(times, self.seconds(episode), fps=self.fps, where=where)
        return pictures_at(path, times[rows], size, where=where)

    def _vectors(
        self, episode: LeRobotEpisode, keys: tuple[str, ...], names: tuple[str, ...], *, wanted: tuple[str, ...]
    ) -> np.ndarray:
        if not keys:
            raise BadData(f"{self.root} has none of the features {', '.join(wanted)}", hint="Name the one to take.")
        table = self._columns(episode, list(keys))
        columns = [_numbers(table, key, where=self._where(episode, key)) for key in keys]
        joined = np.concatenate(columns, axis=1)
        return checked_vectors(joined, names, episode=self._name(episode), field=", ".join(keys))

    def _columns(self, episode: LeRobotEpisode, keys: list[str]) -> pa.Table:
        """The episode's rows, in order. BadData if there are more or fewer than the table of episodes says."""
        where = self._where(episode, ", ".join(keys))
        path = find_file(
            self.root,
            self.info["data_path"],
            episode,
            episode.data,
            chunk_size=self.info["chunks_size"],
            suffix=".parquet",
            where=where,
        )
        try:
            known = pq.read_schema(path).names
            order = [key for key in ("frame_index",) if key in known]
            mine = [("episode_index", "=", episode.index)] if episode.data and "episode_index" in known else None
            chosen = [key for key in dict.fromkeys(keys + order) if key in known]
            table = pq.read_table(path, columns=chosen, filters=mine)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise BadData(f"{where}: {path} cannot be read ({error})", hint=WHOLE) from error
        if set(keys) - set(known):
            missing = min(set(keys) - set(known))
            raise BadData(f"{where}: {path} has no column '{missing}'", hint="meta/info.json names it.")
        if table.num_rows != episode.length:
            message = f"{self._name(episode)}: its table has {table.num_rows} rows"
            raise BadData(f"{message}; the list of episodes says {episode.length} frames")
        if order and table.column("frame_index").to_pylist() != list(range(episode.length)):
            raise BadData(f"{self._name(episode)}: its rows are not frames 0 to {episode.length - 1} in order")
        return table

    def _stored_images(
        self, episode: LeRobotEpisode, camera: str, size: tuple[int, int] | None, rows: np.ndarray
    ) -> np.ndarray:
        column = self._columns(episode, [camera]).column(camera)
        pictures = []
        for row in rows:
            entry = column[int(row)].as_py() or {}
            try:
                content = entry.get("bytes") or (self.root / str(entry.get("path"))).read_bytes()
                pictures.append(fitted(Image.open(io.BytesIO(content)), size))
            except (OSError, AttributeError, TypeError, SyntaxError, ValueError) as error:  # Pillow raises each of them
                raise BadData(f"{self._where(episode, camera)}: picture {row} cannot be read ({error})") from error
        return np.stack(pictures)

    def _shown(self, episode: LeRobotEpisode, camera: str) -> tuple[Path, np.ndarray]:
        """The video with an episode's frames, and the seconds (T,) in it at which they are shown."""
        where, place = self._where(episode, camera), episode.videos.get(camera)
        if episode.data and place is None:
            raise BadData(f"{self._name(episode)}: the list of episodes does not say where '{camera}' is")
        path = find_file(
            self.root,
            self.info["video_path"],
            episode,
            place,
            chunk_size=self.info["chunks_size"],
            suffix=".mp4",
            where=where,
            camera=camera,
        )
        if path not in self._times:
            self._times[path] = shown_times(path, where=where)
        times = self._times[path]
        if place is None:
            if len(times) != episode.length:
                message = f"{where}: {path.name} shows {len(times)} frames"
                raise BadData(f"{message}; the list of episodes says {episode.length}", hint=WHOLE)
            return path, times
        first = first_frame(times, episode, camera, listed=self.episodes, fps=self.fps, where=where)
        return path, times[first : first + episode.length]

    def _name(self, episode: LeRobotEpisode) -> str:
        return episode_name(self.root, episode)

    def _where(self, episode: LeRobotEpisode, field: str) -> str:
        return f"{self._name(episode)}: '{field}'"


def is_lerobot(root: Path) -> bool:
    return (root / "meta/info.json").is_file()


def open_lerobot(root: Path, *, state_key: str | None = None, action_key: str | None = None) -> LeRobotDataset:
    """Opens the dataset in a folder. UserError if it is none, BadData if its tables of contents make no sense.

    state_key, action_key: the feature to take, where the first one of the usual names is not the one meant.
    """
    root = Path(root)
    if not is_lerobot(root):
        raise UserError(f"{root} is no LeRobot dataset", hint="It needs a file meta/info.json.")
    info = read_info(root)
    features, episodes = info["features"], read_episodes(root, info)
    state_keys, state_names = named_columns(features, STATE_KEYS if state_key is None else (state_key,))
    action_keys, action_names = named_columns(features, ACTION_KEYS if action_key is None else (action_key,))
    for asked, found in ((state_key, state_keys), (action_key, action_keys)):
        if asked is not None and not found:
            raise UserError(f"{root} has no feature {asked!r}", hint=f"It has {', '.join(features)}.")
    dataset = LeRobotDataset(
        root=root,
        version=str(info["codebase_version"]),
        fps=float(info["fps"]),
        robot_type=str(info.get("robot_type") or "unknown"),
        cameras=colour_cameras(features),
        state_keys=state_keys,
        action_keys=action_keys,
        state_names=state_names,
        action_names=action_names,
        episodes=episodes,
        splits=read_splits(root, info, episodes),
        info=info,
    )
    return replace(dataset, fps=_rate(dataset))


def _rate(dataset: LeRobotDataset) -> float:
    """Rows per second: the timestamps of the first episode are believed over the rate declared (3 for 30 was seen)."""
    try:
        seconds = dataset.seconds(dataset.episodes[0])
    except BadData:  # raised again when the episode is read, unlike a whole dataset that cannot be opened
        return dataset.fps
    if len(seconds) < 2:
        return dataset.fps
    measured = float((len(seconds) - 1) / seconds[-1])
    if abs(measured / dataset.fps - 1) < OTHER_RATE:
        return dataset.fps
    measured = round(measured, 3)
    found = f"its rows are {measured:g} per second by their timestamps"
    message = f"{dataset.root}: {found}, not {dataset.fps:g} as declared"
    warnings.warn(message, stacklevel=3)
    return measured


def _numbers(table: pa.Table, key: str, *, where: str) -> np.ndarray:
    """A column of numbers or of equally long lists of them, as (T, D) in their own type."""
    try:
        return np.array(table.column(key).to_pylist()).reshape(len(table), -1)
    except ValueError as error:  # lists of different lengths
        raise BadData(f"{where} is no table of numbers ({error})") from error
