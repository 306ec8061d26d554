"""Which episodes an HDF5 file holds, and where in it their pictures, states and actions are.

    robomimic, LIBERO   data/demo_0/{obs/<key>, actions}, data/demo_1/…    mask/<split>: names of demos
    ALOHA, ACT          one file for each episode: observations/images/<camera>, observations/qpos, action

Reading needs the optional package h5py; every problem with a file becomes BadData.
"""

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from align.robot_dataset import WHOLE, episode_name
from common.errors import BadData, MissingDependency

SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class Layout:
    """Where the parts of an episode are, as paths below its group."""

    images: str
    vectors: str
    action: str
    usual_states: tuple[tuple[str, ...], ...]
    """The first of these that is there whole is the state; else all vectors are."""


DEMOS = Layout(
    images="obs",
    vectors="obs",
    action="actions",
    usual_states=(
        ("obs/joint_states", "obs/gripper_states"),  # LIBERO
        ("obs/robot0_joint_pos", "obs/robot0_gripper_qpos"),  # robosuite
        ("obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/robot0_gripper_qpos"),
    ),
)
ALOHA = Layout(
    images="observations/images", vectors="observations", action="action", usual_states=(("observations/qpos",),)
)


@dataclass(frozen=True)
class Hdf5Episode:
    index: int
    """The number in the demo's or the file's name; where two would have the same, its place among all."""
    root: Path
    """Of the dataset."""
    file: Path
    group: str
    """"data/demo_3", or "/" where the file is the episode."""
    layout: Layout

    @property
    def length(self) -> int:
        """Frames of the first camera; without a camera, rows of actions. BadData if neither can be read."""
        return self._rows

    @cached_property
    def _rows(self) -> int:
        with self.open() as group:
            cameras = camera_names(group, self.layout)
            key = f"{self.layout.images}/{cameras[0]}" if cameras else self.layout.action
            return len(member(group, key, where=self.where(key)))

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The h5py group with the episode's parts. BadData if it is not there, or reading in it fails."""
        with open_file(self.file, where=f"{self.name}: ") as file:
            if self.group not in file:
                raise BadData(f"{self.name}: {self.file} has no group {self.group}")
            yield file[self.group]

    def where(self, key: str) -> str:
        return f"{self.name}: '{key}'"

    @property
    def name(self) -> str:
        place = f"{self.file.name}/{self.group}".rstrip("/")
        return episode_name(self.root, self) if self.file == self.root else f"{episode_name(self.root, self)} ({place})"


@contextmanager
def open_file(path: Path, *, where: str = "") -> Iterator[Any]:
    """The h5py file. MissingDependency without h5py; BadData for whatever goes wrong in reading it."""
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # what h5py raises for damage
        raise BadData(f"{where}{path} cannot be read ({error})", hint=WHOLE) from error


def member(group: Any, key: str, *, where: str) -> Any:
    """A dataset with rows below a group. BadData if there is none."""
    found = group.get(key)
    if found is None:
        raise BadData(f"{where} is missing")
    if not getattr(found, "shape", ()):
        raise BadData(f"{where} is no array with a row for each frame")
    return found


def camera_names(group: Any, layout: Layout) -> tuple[str, ...]:
    """The colour cameras of an episode: uint8 (T, H, W, 3), or in ALOHA's layout also a JPEG in each row (T, …)."""
    images = group.get(layout.images, {})
    return tuple(name for name, values in images.items() if _is_camera(values, files=layout is ALOHA))


def vector_keys(group: Any, layout: Layout) -> tuple[str, ...]:
    """What the state is made of: the usual ones, else every table of floats that is no knowledge of the simulator's."""
    for keys in layout.usual_states:
        if all(key in group for key in keys):
            return keys
    vectors = group.get(layout.vectors, {})
    return tuple(
        f"{layout.vectors}/{name}"
        for name, values in vectors.items()
        if not name.startswith("object") and len(getattr(values, "shape", ())) == 2 and values.dtype.kind == "f"
    )


def is_hdf5(root: Path) -> bool:
    return bool(_files(root))


def find_episodes(root: Path) -> tuple[Hdf5Episode, ...]:
    """The episodes of a file, or of all files of a folder. BadData if a file is of neither layout, or cannot be read.

    The files episode_0.hdf5, episode_1.hdf5, … of a folder are one episode each, and not opened here.
    """
    files = _files(root)
    if len(files) > 1 and all(re.fullmatch(r"episode_[0-9]+", file.stem) for file in files):
        layouts = {ALOHA}
    else:
        layouts = {_layout(file) for file in files}
    if len(layouts) > 1:
        raise BadData(f"{root} holds files of two layouts", hint="Give each layout a folder of its own.")
    if ALOHA in layouts:
        places = [(file.stem, file, "/") for file in files]
    else:
        places = [(demo, file, f"data/{demo}") for file in files for demo in _demos(file)]
    if not places:
        raise BadData(f"{root} has no episodes", hint="It needs data/demo_0, …")
    numbers, layout = _numbers([name for name, _, _ in places]), layouts.pop()
    return tuple(
        Hdf5Episode(number, root, file, group, layout) for number, (_, file, group) in zip(numbers, places, strict=True)
    )


def _files(root: Path) -> list[Path]:
    files = [root] if root.is_file() else list(root.iterdir()) if root.is_dir() else []
    files = [file for file in files if file.suffix in SUFFIXES and file.is_file()]
    return sorted(files, key=lambda file: _by_number(file.stem))


def _layout(path: Path) -> Layout:
    with open_file(path) as file:
        if "data" in file:
            return DEMOS
        if "observations" in file or "action" in file:
            return ALOHA
        held = ", ".join(file) or "nothing"
    raise BadData(f"{path} holds {held}", hint="Known are data/demo_0/… and observations/… with action.")


def _demos(path: Path) -> list[str]:
    with open_file(path) as file:
        demos = [name for name, part in file["data"].items() if hasattr(part, "items")]
    return sorted(demos, key=_by_number)


def _by_number(name: str) -> tuple[int, str]:
    digits = re.search(r"[0-9]+$", name)
    return (int(digits[0]) if digits else -1, name)


def _numbers(names: list[str]) -> list[int]:
    """The numbers at the end of the names, if each has one of its own; else their places."""
    numbers = [_by_number(name)[0] for name in names]
    return numbers if len(set(numbers)) == len(numbers) and min(numbers) >= 0 else list(range(len(names)))


def _is_camera(values: Any, *, files: bool) -> bool:
    shape: Sequence[int] = getattr(values, "shape", ())
    if not shape:  # a group, or a link that leads nowhere
        return False
    if len(shape) == 4:
        return shape[3] == 3 and values.dtype.kind == "u" and values.dtype.itemsize == 1
    return files and (len(shape), values.dtype.kind) in ((2, "u"), (1, "O"))


def _h5py() -> Any:
    try:  # by name, since it is optional and type checks run without it
        return importlib.import_module("h5py")
    except ImportError as error:
        raise MissingDependency("HDF5 files need the package h5py", hint="pip install 'understudy[hdf5]'") from error
