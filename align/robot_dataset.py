"""What every robot dataset offers, whatever its files are, and what its readers share.

Row t of states, pictures and seconds is the same instant, and `actions[t]` leads from frame t to frame t+1. Whatever
does not fit together is BadData, raised where it is read: frames and labels are never matched by guess.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image, ImageOps

from common.errors import BadData, UserError

WHOLE = "Is the download whole?"


class Episode(Protocol):
    """One recording. `index` is its number in the dataset's own files, which need not count from 0 without gaps."""

    @property
    def index(self) -> int: ...

    @property
    def length(self) -> int:
        """Frames T. BadData where a file must be read to know and cannot be."""
        ...


AnyEpisode = TypeVar("AnyEpisode", bound=Episode)
Found = TypeVar("Found")


class RobotDataset(Protocol[AnyEpisode]):
    """An open dataset: nothing but its table of contents is in memory. `align.datasets.open_dataset` makes one."""

    @property
    def root(self) -> Path: ...

    @property
    def fps(self) -> float: ...

    @property
    def cameras(self) -> tuple[str, ...]: ...

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Which of the dataset's fields make the state, in this order; () if there is none."""
        ...

    @property
    def action_keys(self) -> tuple[str, ...]: ...

    @property
    def state_names(self) -> tuple[str, ...]: ...

    @property
    def action_names(self) -> tuple[str, ...]: ...

    @property
    def episodes(self) -> tuple[AnyEpisode, ...]: ...

    def episodes_of(self, split: str) -> tuple[AnyEpisode, ...]:
        """The episodes of a split: a name that the dataset gives, or first:end. UserError if there are none."""
        ...

    def states(self, episode: AnyEpisode) -> np.ndarray:
        """What was measured at each frame, float32 (T, S). BadData if it is missing, of other width, or not finite."""
        ...

    def actions(self, episode: AnyEpisode) -> np.ndarray:
        """What was asked for, float32 (T, A) or (T-1, A): row t leads from frame t to t+1. BadData as above.

        The last frame has no frame after it, so a T-th row, where there is one, belongs to no pair of frames.
        """
        ...

    def seconds(self, episode: AnyEpisode) -> np.ndarray:
        """When each frame was taken, float64 (T,), increasing from 0 at the start of the episode."""
        ...

    def frames(
        self,
        episode: AnyEpisode,
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
        ...


def episode_name(root: Path, episode: Episode) -> str:
    """How messages name an episode."""
    return f"{root.resolve().name} episode {episode.index}"


def choose_camera(root: Path, cameras: Sequence[str], camera: str | None) -> str:
    """The camera meant. BadData if there is none at all; UserError if the one asked for is not there, or unclear."""
    if not cameras:
        raise BadData(f"{root} has no camera", hint="Without pictures there is nothing to learn from.")
    if camera is None and len(cameras) > 1:
        raise UserError(f"{root} has the cameras {', '.join(cameras)}", hint="Name one of them.")
    if camera is not None and camera not in cameras:
        raise UserError(f"{root} has no camera {camera!r}", hint=f"It has {', '.join(cameras)}.")
    return cameras[0] if camera is None else camera


def choose_episodes(
    root: Path,
    episodes: tuple[AnyEpisode, ...],
    split: str,
    *,
    splits: Mapping[str, tuple[AnyEpisode, ...]],
) -> tuple[AnyEpisode, ...]:
    """The episodes of a split by name, or those at the places first:end. UserError if there are none."""
    try:
        chosen = splits[split] if split in splits else episodes[slice(*map(int, split.split(":")))]
    except (ValueError, TypeError):
        chosen = ()
    if not chosen:
        hint = f"It has {len(episodes)} episodes; its splits: {', '.join(splits) or 'none'}."
        raise UserError(f"{root} has no episodes {split!r}", hint=hint)
    return chosen


def of_first_readable(episodes: Sequence[AnyEpisode], read: Callable[[AnyEpisode], Found]) -> Found:
    """What `read` finds in the first episode that it can read: what the files of all episodes should have in common.

    If it can read none, the BadData of the first.
    """
    errors = []
    for episode in episodes:
        try:
            return read(episode)
        except BadData as error:
            errors.append(error)
    raise errors[0]


def checked_vectors(values: np.ndarray, names: Sequence[str], *, episode: str, field: str) -> np.ndarray:
    """The values as float32 (T, D). BadData unless they are finite numbers, one column for each name.

    episode, field: what messages call them.
    """
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise BadData(f"{episode}: '{field}' is no table of numbers, but {values.dtype} of shape {values.shape}")
    if values.shape[1] != len(names):
        raise BadData(f"{episode}: '{field}' has {values.shape[1]} columns, the dataset names {len(names)}")
    # A float64 beyond float32 becomes infinite here, and is reported as such.
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise BadData(f"{episode}: '{names[column]}' of frame {row} is {values[row, column]} (in '{field}')")
    return values


def fitted(picture: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    """A picture as uint8 RGB (H, W, 3): its centre with the aspect of size (height, width), area-averaged."""
    picture = picture.convert("RGB")
    if size is not None:
        picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BOX)
    return np.asarray(picture)
