"""What a live session can begin from: the first frames of a robot's episodes, of videos, and pictures."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from align.datasets import open_dataset
from align.robot import Robot
from align.robot_dataset import fitted
from align.robot_recordings import robot_recordings
from common.errors import BadData, UserError
from common.video import IMAGE_SUFFIXES, UnreadableVideo, decode
from scripts.rollout import read_actions
from simulator.columns import limits, robot_columns
from simulator.takes import Scene
from video_model.generator import LATENT, Generator

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v"})
MOST_SCENES = 24
"""They are read before the session begins, and a person chooses among them."""


def scenes_of(
    driven: Robot | Generator,
    data: Sequence[Path],
    *,
    split: str | None = None,
    camera: str | None = None,
    actions: Path | None = None,
) -> list[Scene]:
    """The first 24 of what the paths hold: robot datasets, pictures, videos, or folders of pictures and videos.

    split: of datasets, by default all episodes. camera: of datasets that have several. actions: of a plain generator, a
    folder of action files (`understudy label`): NAME.safetensors holds what follows the first frame of NAME.mp4.
    UserError if a path holds none of this, BadData for what cannot be read.
    """
    if actions is not None and isinstance(driven, Robot):
        raise UserError("action files hold latent actions", hint="A robot's controls come with its dataset: --data.")
    found = itertools.chain.from_iterable(
        _of_dataset(driven, path, split=split, camera=camera) if is_dataset(path) else _of_files(driven, path, actions)
        for path in data
    )
    scenes = [
        replace(scene, id=f"{number}-{_plain(scene.name)}")
        for number, scene in enumerate(itertools.islice(found, MOST_SCENES), 1)
    ]
    if not scenes:
        raise UserError("there is nothing to begin from", hint="Give --data a robot dataset, pictures or videos.")
    return scenes


def is_dataset(path: Path) -> bool:
    """Whether a path is to be opened as a robot dataset, rather than as pictures and videos."""
    if path.is_dir():
        return (path / "meta").is_dir() or not any(_files(path))  # a recording holds pictures beside its dataset
    return path.suffix.lower() in (".hdf5", ".h5")


def _of_dataset(driven: Robot | Generator, path: Path, *, split: str | None, camera: str | None) -> Iterator[Scene]:
    dataset = open_dataset(path)
    episodes = dataset.episodes if split is None else dataset.episodes_of(split)
    if isinstance(driven, Robot):
        for recording in robot_recordings(driven, dataset, episodes, camera=camera):
            yield Scene("", recording.name, recording.frames[0], recording.before(0), recording.controls)
        return
    for episode in episodes:
        first = dataset.frames(episode, _size(driven), camera=camera, rows=np.array([0]))[0]
        yield Scene("", f"{dataset.root.resolve().name} episode {episode.index}", first, None, None)


def _of_files(driven: Robot | Generator, path: Path, actions: Path | None) -> Iterator[Scene]:
    before, generator = None, driven
    if isinstance(driven, Robot):
        before, generator = limits(robot_columns(driven.embodiment)).mean(axis=0).astype(np.float32), driven.generator
    assert isinstance(generator, Generator)
    for file in _files(path):
        yield Scene("", file.stem, first_frame(file, _size(generator)), before, _rows_of(generator, file, actions))


def _files(path: Path) -> Iterator[Path]:
    """The pictures and videos of a folder, in the order of their names; or the file itself."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not file.name.startswith("."):
            yield file


def first_frame(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Of a picture or video, uint8 RGB, its centre with the aspect of size (height, width)."""
    if not file.exists():
        raise UserError(f"{file} does not exist")
    try:
        if file.suffix.lower() in IMAGE_SUFFIXES:
            with Image.open(file) as picture:
                return fitted(picture, size)
        return next(decode(file, size=size)).image
    except (OSError, UnidentifiedImageError, UnreadableVideo, Image.DecompressionBombError) as error:
        raise BadData(f"{file} cannot be read ({error})") from error


def _rows_of(generator: Generator, file: Path, actions: Path | None) -> np.ndarray | None:
    if actions is None:
        return None
    latent = generator.embodiment(LATENT)
    found = [actions] if actions.is_file() else sorted(actions.rglob(f"{file.stem}.safetensors"))
    return read_actions(found[0], fps=latent.fps, action_dim=len(latent.scale)).actions if found else None


def _size(generator: Generator) -> tuple[int, int]:
    return generator.config.data.height, generator.config.data.width


def _plain(name: str) -> str:
    """A name as a part of an identifier."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
