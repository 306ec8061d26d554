"""Reads LeRobot datasets (v2.0, v2.1 and v3.0) with pyarrow and PyAV alone.

    v2.x   one parquet and one mp4 per camera for each episode; meta/episodes.jsonl lists them
    v3.0   many episodes in one parquet and one mp4; meta/episodes/*.parquet says which rows and seconds are whose

Cameras are videos, or images inside the parquet files (https://huggingface.co/docs/lerobot; what files in the wild do
otherwise is in the comments). Row t of states, actions and frames is the same instant, and `actions[t]` leads from
frame t to frame t+1. Whatever does not fit together is BadData: frames and labels are never matched by guess.
"""

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from align.lerobot_index import (
    ACTION_KEYS,
    STATE_KEYS,
    WHOLE,
    FilePlace,
    LeRobotEpisode,
    colour_cameras,
    named_columns,
    read_episodes,
    read_info,
    read_splits,
)
from common.containers import PacketReader, UnreadableVideo, check_file, open_container, reasons, video_stream
from common.errors import BadData, UserError
from common.video import decode


@dataclass(frozen=True, eq=False)
class LeRobotDataset:
    """An open dataset. Nothing but its tables of contents is in memory."""

    root: Path
    version: str
    """As the dataset calls it: "v2.0", "v2.1" or "v3.0"."""
    fps: float
    robot_type: str
    cameras: tuple[str, ...]
    """Feature names of the colour cameras, in the order of info.json."""
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    episodes: tuple[LeRobotEpisode, ...]
    splits: dict[str, tuple[LeRobotEpisode, ...]]
    info: dict[str, Any]
    """The whole of info.json."""
    _state_keys: tuple[str, ...]
    _action_keys: tuple[str, ...]
    _times: dict[Path, np.ndarray] = field(default_factory=dict)

    def episodes_of(self, split: str) -> tuple[LeRobotEpisode, ...]:
        """The episodes of a split: a name in info.json, or first:end. UserError if there are none."""
        try:
            chosen = self.splits[split] if split in self.splits else self.episodes[slice(*map(int, split.split(":")))]
        except (ValueError, TypeError):
            chosen = ()
        if not chosen:
            hint = f"It has {len(self.episodes)} episodes; its splits: {', '.join(self.splits) or 'none'}."
            raise UserError(f"{self.root} has no episodes {split!r}", hint=hint)
        return chosen

    def states(self, episode: LeRobotEpisode) -> np.ndarray:
        """What was measured at each frame, float32 (T, S). BadData if it is missing, of other width, or not finite."""
        return self._vectors(episode, self._state_keys, self.state_names)

    def actions(self, episode: LeRobotEpisode) -> np.ndarray:
        """What was asked for at each frame, float32 (T, A); row t leads from frame t to t+1. BadData as above."""
        return self._vectors(episode, self._action_keys, self.action_names)

    def seconds(self, episode: LeRobotEpisode) -> np.ndarray:
        """When each row was taken, float64 (T,) from the start of the episode. BadData unless it increases."""
        column = self._columns(episode, ["timestamp"]).column("timestamp")
        seconds = np.array(column.to_pylist(), dtype=np.float64).reshape(-1)
        if not seconds.any():  # some writers leave it at zero
            return np.arange(episode.length) / self.fps
        if not (np.diff(seconds) > 0).all():
            raise BadData(f"{self._name(episode)}: its timestamps do not increase")
        return seconds

    def frames(
        self,
        episode: LeRobotEpisode,
        size: tuple[int, int] | None,
        *,
        camera: str | None = None,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """The pictures of one camera, uint8 RGB (T, H, W, 3), row by row with the states.

        size: (height, width), centre-cropped to that aspect; None as stored. camera: may be left out where there is
        only one. rows: only these, increasing (by default all of them). BadData if the pictures do not match the rows,
        UserError if there is no such camera.
        """
        if camera is None and len(self.cameras) != 1:
            raise UserError(f"{self.root} has the cameras {', '.join(self.cameras)}", hint="Name one of them.")
        camera = self.cameras[0] if camera is None else camera
        if camera not in self.cameras:
            raise UserError(f"{self.root} has no camera {camera!r}", hint=f"It has {', '.join(self.cameras)}.")
        rows = np.arange(episode.length) if rows is None else rows
        if self.info["features"][camera]["dtype"] == "image":
            return self._stored_images(episode, camera, size, rows)
        return self._video_frames(episode, camera, size, rows)

    def _vectors(self, episode: LeRobotEpisode, keys: tuple[str, ...], names: tuple[str, ...]) -> np.ndarray:
        if not keys:
            raise BadData(f"{self.root} does not hold any of {', '.join(STATE_KEYS + ACTION_KEYS)}")
        table = self._columns(episode, list(keys))
        try:
            columns = [np.array(table.column(key).to_pylist(), np.float32).reshape(len(table), -1) for key in keys]
        except (ValueError, TypeError) as error:
            raise BadData(f"{self._name(episode)}: '{keys[0]}' is no table of numbers ({error})") from error
        values = np.concatenate(columns, axis=1)
        if values.shape[1] != len(names):
            message = f"'{keys[0]}' has {values.shape[1]} columns, info.json names {len(names)}"
            raise BadData(f"{self._name(episode)}: {message}")
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise BadData(f"{self._name(episode)}: '{names[column]}' of frame {row} is {values[row, column]}")
        return values

    def _columns(self, episode: LeRobotEpisode, keys: list[str]) -> pa.Table:
        """The episode's rows, in order. BadData if there are more or fewer than the table of episodes says."""
        path = self._find(self.info["data_path"], episode, episode.data, suffix=".parquet")
        try:
            known = pq.read_schema(path).names
            order = [key for key in ("frame_index",) if key in known]
            mine = [("episode_index", "=", episode.index)] if episode.data and "episode_index" in known else None
            chosen = [key for key in dict.fromkeys(keys + order) if key in known]
            table = pq.read_table(path, columns=chosen, filters=mine)
        except (OSError, pa.ArrowException) as error:
            raise BadData(f"{path} cannot be read ({error})", hint=WHOLE) from error
        if set(keys) - set(known):
            raise BadData(f"{path} has no column '{min(set(keys) - set(known))}'", hint="meta/info.json names it.")
        if table.num_rows != episode.length:
            raise self._misfit(episode, f"its table has {table.num_rows} rows")
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
                picture = Image.open(io.BytesIO(content)).convert("RGB")
            except (OSError, AttributeError) as error:
                raise BadData(f"{self._name(episode)}: picture {row} cannot be read ({error})") from error
            if size is not None:
                picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BOX)
            pictures.append(np.asarray(picture))
        return np.stack(pictures)

    def _video_frames(
        self, episode: LeRobotEpisode, camera: str, size: tuple[int, int] | None, rows: np.ndarray
    ) -> np.ndarray:
        path, first = self._place(episode, camera)
        times = self._shown(path)[first : first + episode.length]
        steps, frame = np.diff(times) - np.diff(self.seconds(episode)), 1 / self.fps
        if len(steps) and np.abs(steps).max() > frame / 2:
            row = int(np.abs(steps).argmax())
            video = times[row + 1] - times[row]
            message = (
                f"takes {video:.3f} s, the table {video - steps[row]:.3f} s: frames are missing or not at its rate"
            )
            raise BadData(f"{self._name(episode)}: from frame {row} to the next the video {message}")
        wanted = times[rows]
        pictures: list[np.ndarray] = []
        try:
            for shown in decode(path, size=size, start=wanted[0], stop=wanted[-1] + frame / 2):
                if len(pictures) < len(wanted) and abs(shown.seconds - wanted[len(pictures)]) < 1e-6:
                    pictures.append(shown.image)
        except UnreadableVideo as error:
            raise BadData(f"{path}: {error.reason}", hint=WHOLE) from error
        if len(pictures) != len(wanted):
            raise BadData(f"{path}: only {len(pictures)} of {len(wanted)} frames of {self._name(episode)} are readable")
        return np.stack(pictures)

    def _place(self, episode: LeRobotEpisode, camera: str) -> tuple[Path, int]:
        """The video with an episode's frames, and how many frames come before them in it.

        By counting, if the episodes in the file have as many frames as it shows: `from_timestamp` adds up durations,
        and writers drift from the file's own clock by up to a millisecond per episode (lerobot issue 3177). Else by
        time, to half a frame.
        """
        place = episode.videos.get(camera)
        if episode.data and place is None:
            raise BadData(f"{self._name(episode)}: the list of episodes does not say where '{camera}' is")
        path = self._find(self.info["video_path"], episode, place, suffix=".mp4", camera=camera)
        times = self._shown(path)
        if place is None:
            if len(times) != episode.length:
                raise self._misfit(episode, f"{path.name} shows {len(times)} frames")
            return path, 0
        by_time = int(np.abs(times - place.start).argmin())
        others = [(other.videos[camera], other.length) for other in self.episodes if camera in other.videos]
        same_file = [(other.start, length) for other, length in others if other.file == place.file]
        if sum(length for _, length in same_file) == len(times):
            counted = sum(length for start, length in same_file if start < place.start)
            if counted != by_time:
                message = "from_timestamp is off by more than half a frame; frames are found by counting"
                warnings.warn(f"{path}: {message}", stacklevel=3)
            return path, counted
        if abs(times[by_time] - place.start) > 0.5 / self.fps:
            raise self._misfit(episode, f"its video has no frame at {place.start:.3f} s, where it should begin")
        if by_time + episode.length > len(times):
            raise self._misfit(episode, f"its video shows {len(times) - by_time} frames from {place.start:.3f} s on")
        return path, by_time

    def _misfit(self, episode: LeRobotEpisode, problem: str) -> BadData:
        return BadData(f"{self._name(episode)}: {problem}; the list of episodes says {episode.length} frames")

    def _shown(self, path: Path) -> np.ndarray:
        """Seconds (frames,) at which a video shows its frames, from its packets; read once per file."""
        if path not in self._times:
            try:
                self._times[path] = _presentation_times(path)
            except UnreadableVideo as error:
                raise BadData(f"{path}: {error.reason}", hint=WHOLE) from error
        return self._times[path]

    def _find(
        self, template: str, episode: LeRobotEpisode, place: FilePlace | None, *, suffix: str, camera: str = ""
    ) -> Path:
        """The file that a template of info.json names, or the only other one in the folder that can be meant."""
        numbers: dict[str, Any] = {"episode_index": episode.index, "video_key": camera}
        numbers["episode_chunk"] = episode.index // int(self.info.get("chunks_size") or 1000)
        name, parts = f"episode_{episode.index:06d}{suffix}", {camera} if camera else set()
        if place is not None:
            chunk, file = place.file
            numbers |= {"chunk_index": chunk, "file_index": file}
            name, parts = f"file-{file:03d}{suffix}", parts | {f"chunk-{chunk:03d}"}
        try:
            path = self.root / template.format(**numbers)
        except (KeyError, IndexError, ValueError, AttributeError):  # v3.0 sets with templates of v2 exist, for one
            path = self.root / template
        if path.is_file():
            return path
        others = [other for other in self.root.rglob(name) if parts <= set(other.parts) and "meta" not in other.parts]
        if len(others) != 1:
            raise BadData(f"{self._name(episode)}: {path} is missing", hint=WHOLE)
        return others[0]

    def _name(self, episode: LeRobotEpisode) -> str:
        return f"{self.root.name} episode {episode.index}"


def is_lerobot(root: Path) -> bool:
    return (root / "meta/info.json").is_file()


def open_lerobot(root: Path) -> LeRobotDataset:
    """Opens the dataset in a folder. UserError if it is none, BadData if its tables of contents make no sense."""
    root = Path(root)
    if not is_lerobot(root):
        raise UserError(f"{root} is no LeRobot dataset", hint="It needs a file meta/info.json.")
    info = read_info(root)
    features, episodes = info["features"], read_episodes(root, info)
    state_keys, state_names = named_columns(features, STATE_KEYS)
    action_keys, action_names = named_columns(features, ACTION_KEYS)
    return LeRobotDataset(
        root=root,
        version=str(info["codebase_version"]),
        fps=float(info["fps"]),
        robot_type=str(info.get("robot_type") or "unknown"),
        cameras=colour_cameras(features),
        state_names=state_names,
        action_names=action_names,
        episodes=episodes,
        splits=read_splits(root, info, episodes),
        info=info,
        _state_keys=state_keys,
        _action_keys=action_keys,
    )


def _presentation_times(path: Path) -> np.ndarray:
    """Seconds (frames,) at which each frame that `common.video.decode` yields is shown, from the packets alone."""
    with reasons(path):
        check_file(path)
        with open_container(path) as container:
            stream = video_stream(container)
            reader = PacketReader(container, stream)
            ticks = [packet.pts for packet in reader.packets() if packet.size and not packet.is_discard]
            shown = sorted({tick for tick in ticks if tick >= (reader.first_tick or 0)})
            return np.array([float(tick * stream.time_base) for tick in shown])
