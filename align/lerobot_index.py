"""What the metadata of a LeRobot dataset says (v2.0, v2.1 and v3.0): its features, episodes and splits.

v2.x   meta/episodes.jsonl lists the episodes
v3.0   meta/episodes/*.parquet lists them, and says which file, rows and seconds are whose
"""

import json
from dataclasses import dataclass, field
from math import inf, prod
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align.robot_dataset import WHOLE
from common.errors import BadData

STATE_KEYS = ("observation.state", "state", "observation.states")
ACTION_KEYS = ("action", "actions", "action_dict")


@dataclass(frozen=True)
class FilePlace:
    """Which file of many an episode lies in, and from which second of it on."""

    file: tuple[int, int]
    """Number of the folder ("chunk") and of the file in it."""
    start: float = 0.0
    end: float | None = None
    """Where the files say that it ends, for a video."""


@dataclass(frozen=True)
class LeRobotEpisode:
    """One row of the table of episodes."""

    index: int
    length: int
    """Frames, as many as rows of states and actions."""
    tasks: tuple[str, ...]
    data: FilePlace | None = None
    """None in v2.x, where each episode has files of its own."""
    videos: dict[str, FilePlace] = field(default_factory=dict)
    """Camera -> place in its videos; empty in v2.x."""


def read_info(root: Path) -> dict[str, Any]:
    """The whole of info.json. BadData unless it has what every version that can be read must have."""
    info = _read_json(root / "meta/info.json")
    version, features, fps = str(info.get("codebase_version")), info.get("features"), info.get("fps")
    if not version.startswith(("v2.", "v3.")):
        raise BadData(f"{root} is a LeRobot dataset of version {version}", hint="v2.0, v2.1 and v3.0 can be read.")
    if not isinstance(features, dict) or not isinstance(fps, (int, float)) or not 0 < fps < inf:
        raise BadData(f"{root}/meta/info.json has no features or no fps", hint=WHOLE)
    for key, feature in features.items():
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            raise BadData(f"{root}/meta/info.json gives the feature '{key}' no dtype")
    chunk_size = info.setdefault("chunks_size", 1000)  # older sets leave it out
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise BadData(f"{root}/meta/info.json has a chunks_size of {chunk_size!r}")
    has_video = any(features[key]["dtype"] == "video" for key in colour_cameras(features))
    for key in ["data_path"] + (["video_path"] if has_video else []):
        if not isinstance(info.get(key), str):
            raise BadData(f"{root}/meta/info.json has no {key}")
    return info


def colour_cameras(features: dict[str, Any]) -> tuple[str, ...]:
    """Names of the colour cameras, in the order of info.json."""
    return tuple(key for key, feature in features.items() if _is_colour_camera(feature))


def read_episodes(root: Path, info: dict[str, Any]) -> tuple[LeRobotEpisode, ...]:
    """The list of episodes of either layout, by number; which one is decided by the files, not by the version."""
    cameras = colour_cameras(info["features"])
    tables = sorted((root / "meta/episodes").rglob("*.parquet"))
    try:
        if tables:
            episodes = [_episode_v3(row, cameras) for path in tables for row in _episode_rows(path)]
        else:
            lines = (root / "meta/episodes.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
            episodes = [
                LeRobotEpisode(int(row["episode_index"]), int(row["length"]), _flat(row.get("tasks"))) for row in rows
            ]
    except (KeyError, TypeError, ValueError, OverflowError, OSError, pa.ArrowException) as error:
        file = "meta/episodes" if tables else "meta/episodes.jsonl"
        raise BadData(f"{root}: the list of episodes, {file}, cannot be read ({error!r})", hint=WHOLE) from error
    if not episodes:
        raise BadData(f"{root}: the list of episodes is empty", hint=WHOLE)
    seen = set()
    for episode in episodes:
        if episode.index in seen:
            raise BadData(f"{root}: episode {episode.index} is in the list of episodes twice", hint=WHOLE)
        if episode.length < 1:
            raise BadData(f"{root}: episode {episode.index} has a length of {episode.length} frames", hint=WHOLE)
        seen.add(episode.index)
    if len(episodes) != info.get("total_episodes", len(episodes)):
        raise BadData(f"{root} lists {len(episodes)} episodes, its info.json says {info['total_episodes']}")
    return tuple(sorted(episodes, key=lambda episode: episode.index))


def named_columns(features: dict[str, Any], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns and names of the first wanted feature there is, or of the parts that it is split into ("state.arm")."""
    for key in wanted:
        if key in features:
            return (key,), _names(key, features[key])
        parts = [part for part in features if part.startswith(f"{key}.") and "float" in str(features[part]["dtype"])]
        if parts:
            names = [f"{part[len(key) + 1 :]}.{name}" for part in parts for name in _names(part, features[part])]
            return tuple(parts), tuple(names)
    return (), ()


def read_splits(
    root: Path, info: dict[str, Any], episodes: tuple[LeRobotEpisode, ...]
) -> dict[str, tuple[LeRobotEpisode, ...]]:
    """The episodes of each split, from ranges such as "0:30"."""
    splits, listed = {}, info.get("splits") or {}
    if not isinstance(listed, dict):
        raise BadData(f"{root}: the splits of meta/info.json are {listed!r}, not a name and range each")
    for name, text in listed.items():
        try:
            start, stop = map(int, str(text).split(":"))
        except ValueError as error:
            raise BadData(f"{root}: the split '{name}' is {text!r}, not first:end") from error
        if not 0 <= start <= stop <= len(episodes):
            raise BadData(f"{root}: the split '{name}' is {text}, there are {len(episodes)} episodes")
        splits[name] = episodes[start:stop]
    return splits


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"{path} cannot be read ({error})", hint=WHOLE) from error
    if not isinstance(content, dict):
        raise BadData(f"{path} holds no object")
    return content


def _episode_rows(path: Path) -> list[dict[str, Any]]:
    names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
    return pq.read_table(path, columns=names).to_pylist()


def _episode_v3(row: dict[str, Any], cameras: tuple[str, ...]) -> LeRobotEpisode:
    videos = {
        camera: _video_place(row, f"videos/{camera}") for camera in cameras if f"videos/{camera}/from_timestamp" in row
    }
    data = FilePlace(_file(row, "data"))
    return LeRobotEpisode(int(row["episode_index"]), int(row["length"]), _flat(row.get("tasks")), data, videos)


def _video_place(row: dict[str, Any], video: str) -> FilePlace:
    end = row.get(f"{video}/to_timestamp")
    return FilePlace(_file(row, video), float(row[f"{video}/from_timestamp"]), None if end is None else float(end))


def _file(row: dict[str, Any], kind: str) -> tuple[int, int]:
    return int(row[f"{kind}/chunk_index"]), int(row[f"{kind}/file_index"])


def _is_colour_camera(feature: dict[str, Any]) -> bool:
    details = feature.get("info") or feature.get("video_info")
    keys = ("video.is_depth_map", "is_depth_map")
    depth = isinstance(details, dict) and any(details.get(key) for key in keys)
    return feature["dtype"] in ("video", "image") and not depth


def _names(key: str, feature: dict[str, Any]) -> tuple[str, ...]:
    """A name for each number of a feature, from any of the ways in which files give them."""
    shape = feature.get("shape") or [1]
    if not isinstance(shape, list) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise BadData(f"'{key}' has the shape {shape!r} in meta/info.json")
    width = prod(shape)
    names = _flat(feature.get("names"))
    if len(names) == width:
        return names
    if len(names) > 1:
        raise BadData(f"'{key}' has {width} numbers and {len(names)} names in meta/info.json")
    return tuple(f"{(names or (key,))[0]}_{index}" for index in range(width))


def _flat(names: Any) -> tuple[str, ...]:
    """Lists in lists, {"motors": [...]}, {name: place} or nothing, as one row of names."""
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        return _flat(lists) if lists else tuple(map(str, names))
    if isinstance(names, list):
        return tuple(name for entry in names for name in _flat(entry))
    return () if names is None else (str(names),)
