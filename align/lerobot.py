"""Writes robot episodes as a LeRobot v3.0 dataset, with pyarrow and PyAV alone.

The layout (https://huggingface.co/docs/lerobot, "LeRobotDataset v3.0"): many episodes in one parquet file and in one
mp4 per camera, and a table of episodes that says which rows and which seconds are whose:

    meta/info.json  meta/stats.json  meta/tasks.parquet  meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet  videos/CAMERA/chunk-000/file-000.mp4

Frame j of an episode is the picture at `from_timestamp + timestamp[j]` of the mp4; `action[j]` leads to the next one.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError
from common.video import write_video

DATA_FILE = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_FILE = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_FILE = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FIRST = {"chunk_index": 0, "file_index": 0}  # one file of each kind: readers accept any size
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
KEY_FRAME_EVERY = 12  # frames; a random frame is then never far from a key frame

Stats = dict[str, list]


@dataclass(frozen=True)
class RobotEpisode:
    """T frames uint8 RGB (T, H, W, 3), measured states (T, S) and actions (T, A), and the task in words.

    S may be 0: then nothing was measured, and the dataset has no field for it.
    """

    frames: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    task: str


def write_lerobot(
    root: Path,
    episodes: Iterable[RobotEpisode],
    *,
    fps: int,
    robot_type: str,
    state_names: tuple[str, ...],
    action_names: tuple[str, ...],
    splits: dict[str, int] | None = None,
    camera: str = "observation.images.head",
) -> None:
    """Writes the episodes, in order, as the dataset `root`; `splits` is the number of episodes of each split in turn.

    Episodes are taken one at a time, so they may be a generator. Raises UserError if `root` already holds a dataset and
    ValueError if an episode's arrays do not fit each other or the names, or the splits do not add up.
    """
    if (root / "meta").exists():
        raise UserError(f"{root} already holds a dataset", hint="choose another folder or remove that one")
    video_path = root / VIDEO_FILE.format(video_key=camera, **FIRST)
    tables = _Tables(fps=fps, state_names=state_names, action_names=action_names, camera=camera)
    for path in (video_path, root / DATA_FILE.format(**FIRST), root / EPISODES_FILE.format(**FIRST)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_video(video_path, tables.take(episodes), fps=fps, gop=KEY_FRAME_EVERY)
    lengths = [table.num_rows for table in tables.data]
    splits = {"train": len(lengths)} if splits is None else splits
    if sum(splits.values()) != len(lengths):
        raise ValueError(f"the splits {splits} name {sum(splits.values())} episodes; {len(lengths)} were written")

    with pq.ParquetWriter(root / DATA_FILE.format(**FIRST), tables.data[0].schema) as writer:
        for table in tables.data:  # one row group per episode
            writer.write_table(table, row_group_size=table.num_rows)
    spans = episode_spans(_presentation_times(video_path), lengths, fps=fps)
    pq.write_table(_episode_table(tables, spans), root / EPISODES_FILE.format(**FIRST))
    pq.write_table(_task_table(list(tables.tasks)), root / "meta/tasks.parquet")
    _write_json(root / "meta/stats.json", tables.total_stats())
    height, width = tables.picture
    features = _features(tables, height=height, width=width)
    _write_json(root / "meta/info.json", _info(tables, features, robot_type=robot_type, splits=splits))


class _Tables:
    """Takes episodes apart: frames go on to the video, the rest is kept as arrow tables, statistics and tasks."""

    def __init__(self, *, fps: int, state_names: tuple[str, ...], action_names: tuple[str, ...], camera: str) -> None:
        self.fps, self.camera = fps, camera
        names = {"observation.state": state_names, "action": action_names}
        self.names = {key: columns for key, columns in names.items() if columns}
        self.data: list[pa.Table] = []
        self.stats: list[dict[str, Stats]] = []
        self.episode_tasks: list[str] = []
        self.tasks: dict[str, int] = {}  # task -> task_index, in order of first use
        self.picture = (0, 0)  # height, width
        self.histogram = np.zeros((3, 256), np.int64)  # of all frames, per channel
        self.rows = 0

    def take(self, episodes: Iterable[RobotEpisode]) -> Iterator[np.ndarray]:
        """Yields every frame (H, W, 3) of every episode; an episode is noted before its frames are passed on."""
        for episode in episodes:
            self._note(episode)
            yield from episode.frames

    def _note(self, episode: RobotEpisode) -> None:
        length, height, width = episode.frames.shape[:3]
        vectors = {"observation.state": episode.states, "action": episode.actions}
        for key, values in vectors.items():
            expected = (length, len(self.names.get(key, ())))
            if values.shape != expected:
                raise ValueError(
                    f"episode {len(self.data)}: {key} is {values.shape}, its frames and names say {expected}"
                )
        if self.data and (height, width) != self.picture:
            raise ValueError(f"episode {len(self.data)} is {height}x{width}, the first was {self.picture}")
        self.picture = (height, width)
        frame_index = np.arange(length)
        scalars = {
            "timestamp": frame_index / self.fps,
            "frame_index": frame_index,
            "episode_index": np.full(length, len(self.data)),
            "index": self.rows + frame_index,
            "task_index": np.full(length, self.tasks.setdefault(episode.task, len(self.tasks))),
        }
        columns = {key: vectors[key].astype(np.float32) for key in self.names}
        columns |= {key: scalars[key].astype(dtype) for key, dtype in SCALARS.items()}
        histogram = _histogram(episode.frames)
        stats = {key: _stats(values.reshape(length, -1)) for key, values in columns.items()}
        self.stats.append(stats | {self.camera: _image_stats(histogram, count=length)})
        self.data.append(_data_table(columns))
        self.episode_tasks.append(episode.task)
        self.histogram += histogram
        self.rows += length

    def total_stats(self) -> dict[str, Stats]:
        """Statistics of the whole dataset, computed from every row rather than merged from the episodes' quantiles."""
        total = {}
        table = pa.concat_tables(self.data)
        for key in (*self.names, *SCALARS):
            column = table[key].combine_chunks()
            values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
            total[key] = _stats(values.to_numpy().reshape(self.rows, -1))
        return total | {self.camera: _image_stats(self.histogram, count=self.rows)}


def _data_table(columns: dict[str, np.ndarray]) -> pa.Table:
    """One episode as rows. The schema's metadata tells Hugging Face datasets what the columns are."""
    arrays, features = {}, {}
    for key, values in columns.items():
        value = {"dtype": str(values.dtype), "_type": "Value"}
        if values.ndim == 2:
            arrays[key] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            features[key] = {"feature": value, "length": values.shape[1], "_type": "Sequence"}
        else:
            arrays[key], features[key] = pa.array(values), value
    return pa.table(arrays).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _stats(values: np.ndarray) -> Stats:
    """Statistics of rows (T, D), each a list of D numbers."""
    exact = values.astype(np.float64)
    stats = {"min": values.min(axis=0), "max": values.max(axis=0), "mean": exact.mean(axis=0), "std": exact.std(axis=0)}
    quantiles = {name: np.quantile(exact, share, axis=0) for name, share in QUANTILES.items()}
    return _lists(stats) | {"count": [len(values)]} | _lists(quantiles)


def _histogram(frames: np.ndarray) -> np.ndarray:
    """How often each value occurs in each channel of uint8 frames (T, H, W, 3): (3, 256)."""
    counts = np.zeros((3, 256), np.int64)
    for frame in frames:  # one at a time: bincount makes eight bytes of each
        counts += [np.bincount(frame[..., channel].ravel(), minlength=256) for channel in range(3)]
    return counts


def _image_stats(histogram: np.ndarray, *, count: int) -> Stats:
    """Statistics of `count` frames in 0..1, shaped (3, 1, 1), exact from the histogram of all their pixels."""
    levels = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ levels
    stats = {
        "min": [levels[row > 0][0] for row in histogram],
        "max": [levels[row > 0][-1] for row in histogram],
        "mean": mean,
        "std": np.sqrt(np.maximum(0, share @ levels**2 - mean**2)),
    }
    below = np.cumsum(share, axis=1)
    quantiles = {name: [levels[(row < at - 1e-12).sum()] for row in below] for name, at in QUANTILES.items()}
    return _lists(stats, (3, 1, 1)) | {"count": [count]} | _lists(quantiles, (3, 1, 1))


def _lists(stats: dict[str, Any], shape: tuple[int, ...] = (-1,)) -> Stats:
    return {name: np.reshape(value, shape).tolist() for name, value in stats.items()}


def _presentation_times(path: Path) -> np.ndarray:
    """Seconds (frames,) at which each frame of a video is shown, in order, from its packets."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [packet.pts * packet.time_base for packet in container.demux(stream) if packet.pts is not None]
    return np.array(sorted(times), dtype=np.float64)


def episode_spans(times: np.ndarray, lengths: list[int], *, fps: float) -> list[tuple[float, float]]:
    """First second and end second of each episode, from the presentation times (frames,) of the joined video."""
    if len(times) != sum(lengths):
        raise ValueError(f"the video holds {len(times)} frames, the episodes {sum(lengths)}")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    edges = np.append(times, times[-1] + 1 / fps)
    return [(float(edges[start]), float(edges[stop])) for start, stop in pairwise(starts)]


def _episode_table(tables: _Tables, spans: list[tuple[float, float]]) -> pa.Table:
    """One row per episode: which rows, which seconds of which file, and its statistics."""
    rows, start = [], 0
    for index, (table, (begin, end)) in enumerate(zip(tables.data, spans, strict=True)):
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [tables.episode_tasks[index]],
            "length": table.num_rows,
            "dataset_from_index": start,
            "dataset_to_index": start + table.num_rows,
            "data/chunk_index": 0,
            "data/file_index": 0,
            f"videos/{tables.camera}/chunk_index": 0,
            f"videos/{tables.camera}/file_index": 0,
            f"videos/{tables.camera}/from_timestamp": begin,
            f"videos/{tables.camera}/to_timestamp": end,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for key, stats in tables.stats[index].items():
            row |= {f"stats/{key}/{name}": value for name, value in stats.items()}
        rows.append(row)
        start += table.num_rows
    return pa.Table.from_pylist(rows)


def _task_table(tasks: list[str]) -> pa.Table:
    """The tasks as the frame that pandas writes when the task itself is the index, which is what LeRobot reads back."""
    text = {"name": "task", "field_name": "task", "pandas_type": "object", "numpy_type": "str", "metadata": None}
    number = {
        "name": "task_index",
        "field_name": "task_index",
        "pandas_type": "int64",
        "numpy_type": "int64",
        "metadata": None,
    }
    index = {
        "name": None,
        "field_name": None,
        "pandas_type": "unicode",
        "numpy_type": "str",
        "metadata": {"encoding": "UTF-8"},
    }
    pandas = {"index_columns": ["task"], "column_indexes": [index], "columns": [number, text], "attributes": {}}
    pandas |= {"creator": {"library": "pyarrow", "version": pa.__version__}, "pandas_version": "2.0.0"}
    columns = {"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.large_string())}
    return pa.table(columns).replace_schema_metadata({"pandas": json.dumps(pandas)})


def _features(tables: _Tables, *, height: int, width: int) -> dict[str, Any]:
    features: dict[str, Any] = {
        key: {"dtype": "float32", "shape": [len(names)], "names": list(names), "fps": tables.fps}
        for key, names in tables.names.items()
    }
    features[tables.camera] = {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channel"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": tables.fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }
    return features | {
        key: {"dtype": dtype, "shape": [1], "names": None, "fps": tables.fps} for key, dtype in SCALARS.items()
    }


def _info(tables: _Tables, features: dict[str, Any], *, robot_type: str, splits: dict[str, int]) -> dict[str, Any]:
    ranges, start = {}, 0
    for name, count in splits.items():
        ranges[name] = f"{start}:{start + count}"
        start += count
    return {
        "codebase_version": "v3.0",
        "robot_type": robot_type,
        "total_episodes": len(tables.data),
        "total_frames": tables.rows,
        "total_tasks": len(tables.tasks),
        "chunks_size": 1000,
        "fps": tables.fps,
        "splits": ranges,
        "data_path": DATA_FILE,
        "video_path": VIDEO_FILE,
        "features": features,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4) + "\n", encoding="utf-8")
