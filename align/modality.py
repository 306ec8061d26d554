"""Named parts of the state and action vectors, from the `meta/modality.json` that GR00T keeps beside LeRobot data.

    {"state": {"left_arm": {"start": 0, "end": 7}, …},
     "action": {"left_arm": {"start": 0, "end": 7, "absolute": true}, …},
     "video": {"head": {"original_key": "observation.images.head"}}, "annotation": {…}}

(NVIDIA, Isaac-GR00T, getting_started/LeRobot_compatible_data_schema.md). Places are half-open ranges of columns of the
whole vector, or of the field that `original_key` names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from align.lerobot_reader import LeRobotDataset
from align.robot_dataset import RobotDataset
from common.errors import BadData

EULER = {f"euler_angles_{order}" for order in ("rpy", "ryp", "pry", "pyr", "yrp", "ypr")}
ROTATION_TYPES = EULER | {"axis_angle", "quaternion", "rotation_6d", "matrix"}
GROUP_KEYS = {"start", "end", "absolute", "rotation_type", "dtype", "range", "original_key"}
PARTS = {"state", "action", "video", "annotation"}


@dataclass(frozen=True)
class Group:
    """Neighbouring columns of the state or action vector that belong together."""

    start: int
    end: int
    """One past the last column."""
    absolute: bool | None = None
    """Whether an action is a place to go to, not a change; None where the file does not say."""
    rotation_type: str | None = None
    """One of ROTATION_TYPES; None for what is no rotation, or is not said to be one."""

    @property
    def columns(self) -> slice:
        return slice(self.start, self.end)


@dataclass(frozen=True)
class Groups:
    """Both vectors' groups by name, in the file's order; groups may share columns, and need not cover all."""

    state: Mapping[str, Group]
    action: Mapping[str, Group]
    elsewhere: tuple[str, ...] = ()
    """Groups ("state.tool") of fields that the dataset was not opened with, and that have no columns here."""


def declared_groups(dataset: RobotDataset[Any]) -> dict[str, tuple[int, int, bool | None, str | None]]:
    """The groups of the action columns, for `align.guess`; of groups that share columns the first."""
    found, taken = {}, set()
    for name, group in groups(dataset).action.items():
        columns = set(range(group.start, group.end))
        if not columns & taken:
            found[name] = (group.start, group.end, group.absolute, group.rotation_type)
            taken |= columns
    return found


def groups(dataset: RobotDataset[Any]) -> Groups:
    """The groups of a dataset's state and action columns; none where it has no modality.json.

    BadData for anything that is not understood: a range that is reversed, empty or reaches beyond the vector, a key or
    rotation that is not known.
    """
    path = dataset.root / "meta/modality.json"
    if not isinstance(dataset, LeRobotDataset) or not path.is_file():
        return Groups({}, {})
    content = _read(path)
    found: dict[str, dict[str, Group]] = {}
    elsewhere: list[str] = []
    vectors = {
        "state": (dataset.state_keys, dataset.state_names),
        "action": (dataset.action_keys, dataset.action_names),
    }
    for part, (keys, names) in vectors.items():
        found[part] = {}
        for name, entry in _entries(content, part, path).items():
            where = f"{path}: {part} '{name}'"
            group = _group(entry, where=where)
            first, width = _field(dataset, keys, len(names), entry.get("original_key"), where=where)
            if first is None:
                elsewhere.append(f"{part}.{name}")
                continue
            if group.end > width:
                raise BadData(f"{where} is {group.start}:{group.end}, its vector has {width} columns")
            place = (first + group.start, first + group.end)
            found[part][name] = Group(*place, group.absolute, group.rotation_type)
    return Groups(found["state"], found["action"], tuple(elsewhere))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict) or set(content) - PARTS:
        unknown = f"the unknown part '{min(set(content) - PARTS)}'" if isinstance(content, dict) else "no object"
        raise BadData(f"{path} holds {unknown}", hint=f"Known are {', '.join(sorted(PARTS))}.")
    return content


def _entries(content: dict[str, Any], part: str, path: Path) -> dict[str, dict[str, Any]]:
    entries = content.get(part, {})
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise BadData(f"{path}: {part} does not give each group an object")
    return entries


def _group(entry: dict[str, Any], *, where: str) -> Group:
    """The group as the file says it, its range not yet held against the vector."""
    if set(entry) - GROUP_KEYS:
        unknown = min(set(entry) - GROUP_KEYS)
        raise BadData(f"{where} has the unknown key '{unknown}'", hint=f"Known are {', '.join(sorted(GROUP_KEYS))}.")
    start, end = _column(entry, "start", where=where), _column(entry, "end", where=where)
    if end <= start:
        raise BadData(f"{where} has the range {start}:{end}, which is {'empty' if end == start else 'reversed'}")
    absolute, rotation = entry.get("absolute"), entry.get("rotation_type")
    if absolute is not None and not isinstance(absolute, bool):
        raise BadData(f"{where}: absolute is {absolute!r}, not true or false")
    if rotation is not None and rotation not in ROTATION_TYPES:
        hint = f"Known are {', '.join(sorted(ROTATION_TYPES))}."
        raise BadData(f"{where} has the unknown rotation_type {rotation!r}", hint=hint)
    return Group(start, end, absolute, rotation)


def _column(entry: dict[str, Any], key: str, *, where: str) -> int:
    column = entry.get(key)
    if not isinstance(column, int) or isinstance(column, bool) or column < 0:
        raise BadData(f"{where}: its {key} is {column!r}, not the number of a column")
    return column


def _field(
    dataset: LeRobotDataset, keys: tuple[str, ...], width: int, original: Any, *, where: str
) -> tuple[int | None, int]:
    """First column in the dataset's vector and width of the field that a group's range counts in.

    keys, width: the fields that make the vector, and all their columns. The first column is None for other fields.
    """
    if original is None or (original,) == keys:
        return 0, width
    features = dataset.info["features"]
    if original not in features:
        raise BadData(f"{where} names the field {original!r}, which meta/info.json does not")
    if original not in keys:
        return None, 0
    widths = [prod(features[key].get("shape") or [1]) for key in keys]
    at = keys.index(original)
    return sum(widths[:at]), widths[at]
