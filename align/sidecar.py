"""The optional info.json beside plain recordings: what their own files do not say."""

import json
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from common.errors import BadData

KEYS = {"fps", "action_names", "state_names"}


@dataclass(frozen=True)
class Sidecar:
    """Each is None where it is not said."""

    path: Path
    fps: float | None = None
    action_names: tuple[str, ...] | None = None
    state_names: tuple[str, ...] | None = None


def read_sidecar(folder: Path) -> Sidecar:
    """What folder/info.json says, nothing if there is none. BadData for anything in it that is not understood."""
    path = folder / "info.json"
    if not path.is_file():
        return Sidecar(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict) or set(content) - KEYS:
        unknown = f"the unknown key '{min(set(content) - KEYS)}'" if isinstance(content, dict) else "no object"
        raise BadData(f"{path} holds {unknown}", hint=f"Known are {', '.join(sorted(KEYS))}.")
    fps = content.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < inf):
        raise BadData(f"{path}: fps is {fps!r}, not a number of frames per second")
    names = {key: _names(content.get(key), where=f"{path}: {key}") for key in ("action_names", "state_names")}
    return Sidecar(path, None if fps is None else float(fps), **names)


def names_or_numbers(names: tuple[str, ...] | None, kind: str, width: int, *, where: str) -> tuple[str, ...]:
    """The names given, else kind_0, kind_1, …: one for each of `width` columns. BadData if there are others."""
    names = tuple(f"{kind}_{column}" for column in range(width)) if names is None else names
    if len(names) != width:
        raise BadData(f"'{where}' has {width} columns, info.json names {len(names)}")
    return names


def _names(names: Any, *, where: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise BadData(f"{where} is no list of different names, but {names!r}")
    return tuple(names)
