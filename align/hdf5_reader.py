"""Reads robot episodes from HDF5: the files of robomimic, robosuite, LIBERO, ALOHA and ACT (see `align.hdf5_layout`).

They do not name the columns of their vectors, and ALOHA's not their rate: an info.json beside them can say both
(see `align.sidecar`).
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from align.hdf5_layout import (
    DEMOS,
    Hdf5Episode,
    camera_names,
    find_episodes,
    is_hdf5,
    member,
    open_file,
    vector_keys,
)
from align.robot_dataset import checked_vectors, choose_camera, choose_episodes, fitted, of_first_readable
from align.sidecar import names_or_numbers, read_sidecar
from common.errors import BadData, UserError

LIBERO_CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")


@dataclass(frozen=True, eq=False)
class Hdf5Dataset:
    """An open file or folder of files, as `align.robot_dataset.RobotDataset`. No file stays open."""

    root: Path
    fps: float
    cameras: tuple[str, ...]
    state_keys: tuple[str, ...]
    """Paths of the arrays in an episode whose columns, one after the other, are the state."""
    action_keys: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    episodes: tuple[Hdf5Episode, ...]
    splits: Mapping[str, tuple[Hdf5Episode, ...]]
    upside_down: frozenset[str]
    """Cameras whose pictures are stored with their last row first; `frames` turns them."""

    def episodes_of(self, split: str) -> tuple[Hdf5Episode, ...]:
        """The episodes of a split: a mask in the file, or first:end. UserError if there are none."""
        return choose_episodes(self.root, self.episodes, split, splits=self.splits)

    def states(self, episode: Hdf5Episode) -> np.ndarray:
        """What was measured at each frame, float32 (T, S). BadData if it is missing, of other shape, or not finite."""
        return self._vectors(episode, self.state_keys, self.state_names)

    def actions(self, episode: Hdf5Episode) -> np.ndarray:
        """What was asked for at each frame, float32 (T, A); row t leads from frame t to t+1. BadData as above."""
        return self._vectors(episode, self.action_keys, self.action_names)

    def seconds(self, episode: Hdf5Episode) -> np.ndarray:
        """When each frame was taken, float64 (T,): these files hold no times, so it follows from the rate."""
        return np.arange(episode.length) / self.fps

    def frames(
        self,
        episode: Hdf5Episode,
        size: tuple[int, int] | None,
        *,
        camera: str | None = None,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """The pictures of one camera, uint8 RGB (T, H, W, 3), row by row with the states (see `RobotDataset`)."""
        camera = choose_camera(self.root, self.cameras, camera)
        key = f"{episode.layout.images}/{camera}"
        pictures = []
        with episode.open() as group:
            stored = member(group, key, where=episode.where(key))
            if len(stored) != episode.length:
                raise BadData(f"{episode.where(key)} has {len(stored)} rows, the episode has {episode.length}")
            for row in range(episode.length) if rows is None else rows:
                try:
                    picture = fitted(_picture(stored[int(row)]), size)
                except (OSError, TypeError, SyntaxError, ValueError) as error:  # Pillow raises each of them
                    raise BadData(f"{episode.where(key)}: picture {row} cannot be read ({error})") from error
                pictures.append(picture[::-1] if camera in self.upside_down else picture)
        return np.stack(pictures)

    def _vectors(self, episode: Hdf5Episode, keys: tuple[str, ...], names: tuple[str, ...]) -> np.ndarray:
        if not keys:
            raise BadData(f"{self.root} has no states", hint="Name the array to take.")
        columns = []
        with episode.open() as group:
            for key in keys:
                values = member(group, key, where=episode.where(key))[()]
                if len(values) != episode.length:
                    raise BadData(f"{episode.where(key)} has {len(values)} rows, the episode has {episode.length}")
                columns.append(values.reshape(len(values), -1))
        return checked_vectors(np.concatenate(columns, axis=1), names, episode=episode.name, field=", ".join(keys))


def open_hdf5(root: Path, *, state_key: str | None = None, action_key: str | None = None) -> Hdf5Dataset:
    """Opens an HDF5 file or a folder of them. BadData if no episode can be read; MissingDependency without h5py.

    state_key, action_key: paths of the arrays in an episode to take instead of the usual ones. UserError if they are
    not in it, or root is no such file or folder.
    """
    root = Path(root)
    if not is_hdf5(root):
        raise UserError(f"{root} is no HDF5 file, nor a folder of them")
    episodes = find_episodes(root)
    sidecar = read_sidecar(root if root.is_dir() else root.parent)
    layout, notes = episodes[0].layout, _notes(episodes)

    def widths(episode: Hdf5Episode, keys: tuple[str, ...]) -> tuple[int, ...]:
        with episode.open() as group:
            arrays = [member(group, key, where=episode.where(key)) for key in keys]
            return tuple(int(np.prod(array.shape[1:])) for array in arrays)

    def contents(episode: Hdf5Episode) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        with episode.open() as group:
            for asked in (state_key, action_key):
                if asked is not None and asked not in group:
                    raise UserError(f"{root} has no array {asked!r}", hint=f"An episode has {', '.join(group)}.")
            states = vector_keys(group, layout) if state_key is None else (state_key,)
            actions = layout.action if action_key is None else action_key
            return camera_names(group, layout), states, (actions,)

    cameras, state_keys, action_keys = of_first_readable(episodes, contents)
    state_widths = of_first_readable(episodes, lambda episode: widths(episode, state_keys))
    (action_width,) = of_first_readable(episodes, lambda episode: widths(episode, action_keys))
    numbered = tuple(
        f"{key.split('/')[-1]}_{column}"
        for key, width in zip(state_keys, state_widths, strict=True)
        for column in range(width)
    )
    state_names = numbered if sidecar.state_names is None else sidecar.state_names
    return Hdf5Dataset(
        root=root,
        fps=_rate(notes, root) if sidecar.fps is None else sidecar.fps,
        cameras=cameras,
        state_keys=state_keys,
        action_keys=action_keys,
        state_names=names_or_numbers(state_names, "state", sum(state_widths), where=", ".join(state_keys)),
        action_names=names_or_numbers(sidecar.action_names, "action", action_width, where=action_keys[0]),
        episodes=episodes,
        splits=_splits(episodes),
        upside_down=_upside_down(notes, cameras),
    )


def _picture(stored: Any) -> Image.Image:
    """One row of a camera: pixels (H, W, 3), or an image file in bytes, with zeros after it up to the longest."""
    if stored.ndim == 3:
        return Image.fromarray(stored)
    return Image.open(io.BytesIO(stored.astype(np.uint8).tobytes()))


def _notes(episodes: tuple[Hdf5Episode, ...]) -> dict[str, Any]:
    """What robosuite and LIBERO note of all demos of a file, from the first that can be read; ALOHA has no notes."""

    def read(episode: Hdf5Episode) -> dict[str, Any]:
        with open_file(episode.file) as file:
            return dict(file["data"].attrs)

    return of_first_readable(episodes, read) if episodes[0].layout is DEMOS else {}


def _rate(notes: dict[str, Any], root: Path) -> float:
    """The control frequency that robosuite notes. BadData where nothing says how fast the frames follow each other."""
    try:
        rate = float(json.loads(notes.get("env_args", "{}"))["env_kwargs"]["control_freq"])
    except (ValueError, TypeError, KeyError) as error:
        hint = 'Put an info.json beside it with {"fps": 20}; ALOHA records 50 frames per second, LIBERO 20.'
        raise BadData(f"{root} does not say how many frames it has per second", hint=hint) from error
    if not 0 < rate < inf:
        raise BadData(f"{root} gives a control frequency of {rate}")
    return rate


def _upside_down(notes: dict[str, Any], cameras: tuple[str, ...]) -> frozenset[str]:
    """OpenGL's pictures begin with the bottom row. LIBERO keeps them so, and notes it, but copies lose the note."""
    convention = notes.get("macros_image_convention")
    if convention is None:
        return frozenset(LIBERO_CAMERAS) & frozenset(cameras)
    return frozenset(cameras) if convention == "opengl" else frozenset()


def _splits(episodes: tuple[Hdf5Episode, ...]) -> dict[str, tuple[Hdf5Episode, ...]]:
    """robomimic's masks: for each split of a single file the names of its demos. BadData if one is not there."""
    path = episodes[0].file
    if episodes[0].layout is not DEMOS or any(episode.file != path for episode in episodes):
        return {}
    by_name = {episode.group.split("/")[-1]: episode for episode in episodes}
    splits = {}
    with open_file(path) as file:
        for split, names in file.get("mask", {}).items():
            named = [name.decode() if isinstance(name, bytes) else str(name) for name in names[()]]
            for name in named:
                if name not in by_name:
                    raise BadData(f"{path}: the mask '{split}' names {name}, which is not there")
            splits[split] = tuple(by_name[name] for name in named)
    return splits
