"""What a latent action model is measured on: runs of frames at an even rate, and the factors known of each frame.

A `Sequence` never reaches over a hard cut or a hole in the video. Several may come from one clip and share its name:
the clip, not the sequence, is the unit of every split and every bootstrap.
"""

import sys
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import BadData, UserError
from common.folders import Clip, printable
from common.frame_rate import FrameRate
from common.motion import CutDetector
from common.pairs import partner
from common.shard_pairs import ShardClip
from common.video import Frame, UnreadableVideo

ANGLES = frozenset({"yaw", "pitch", "roll", "azimuth", "elevation"})  # fields with these names are in radians
WINDOW = 32  # frames, about, that are read in one go where a clip is too long to be taken whole
FEWEST = 8  # frames per clip: where there are too many clips for that, only some of them are read
SHORTEST = 3  # frames: two steps, so that a sequence can say whether they add up

_LEAD = 8  # frames shown to the cut detector before a window begins


@dataclass(frozen=True)
class Sequence:
    """Frames of one clip within one scene, at an even rate. BadData if its arrays do not fit or are not finite."""

    clip: str
    """Name of the clip, unique within its data set."""
    frames: np.ndarray
    """uint8 (T, H, W, 3), T >= 3."""
    seconds: np.ndarray
    """float64 (T,): when each frame is shown."""
    factors: dict[str, np.ndarray]
    """Known factors at the instant of each frame: group -> (T, d) float; {} where nothing is known."""

    def __post_init__(self) -> None:
        length, name = len(self.frames), printable(self.clip)
        if self.frames.ndim != 4 or self.frames.shape[3] != 3 or self.frames.dtype != np.uint8 or length < SHORTEST:
            raise BadData(f"{name}: {SHORTEST} RGB frames or more are needed, not {self.frames.shape}")
        if self.seconds.shape != (length,):
            raise BadData(f"{name}: {length} frames, but {self.seconds.shape} times")
        for group, values in self.factors.items():
            if values.ndim != 2 or len(values) != length:
                raise BadData(f"{name}: {length} frames, but '{group}' has the shape {values.shape}")
            if not np.isfinite(values).all():
                row, column = np.argwhere(~np.isfinite(values))[0]
                raise BadData(f"{name}: '{group}' of frame {row} holds {values[row, column]} in column {column}")


@dataclass(frozen=True)
class EvaluationSet:
    """One data folder, ready to be measured on. BadData if its sequences and fields do not fit each other."""

    name: str
    """The folder's name, for tables."""
    kind: Literal["video", "demo", "robot"]
    """Nothing known, the demo world with all its factors, or a LeRobot data set."""
    sequences: tuple[Sequence, ...]
    fields: dict[str, tuple[str, ...]]
    """Factor group -> names of its dimensions."""

    def __post_init__(self) -> None:
        widths = {group: len(names) for group, names in self.fields.items()}
        for sequence in self.sequences:
            found = {group: values.shape[1] for group, values in sequence.factors.items()}
            if found != widths:
                raise BadData(f"{printable(sequence.clip)} has factors of the widths {found}, its data set {widths}")

    @property
    def clips(self) -> tuple[str, ...]:
        """The names of its clips, each once, in order."""
        return tuple(dict.fromkeys(sequence.clip for sequence in self.sequences))


@dataclass(frozen=True)
class Pairs:
    """All consecutive frame pairs of some sequences, P in all: sequence by sequence, in order of time."""

    first: np.ndarray
    """uint8 (P, H, W, 3)."""
    second: np.ndarray
    """uint8 (P, H, W, 3)."""
    clips: tuple[str, ...]
    """The clip of each pair (P,)."""


def changes(sequence: Sequence, group: str) -> np.ndarray:
    """What changed in a factor group: (T-1, d), row t from frame t to frame t+1, as row t of the sequence's pairs.

    A plain difference; angles are `continuous`, so it is right for them too.
    """
    return np.diff(sequence.factors[group], axis=0)


def continuous(values: np.ndarray, fields: Listed[str]) -> np.ndarray:
    """Rows (T, d) whose columns named in ANGLES no longer jump by whole turns, so that their differences are right."""
    columns = [index for index, name in enumerate(fields) if name in ANGLES]
    unwrapped = np.array(values, dtype=np.float64)
    unwrapped[:, columns] = np.unwrap(unwrapped[:, columns], axis=0)
    return unwrapped


def pairs(sequences: Listed[Sequence]) -> Pairs:
    """All consecutive pairs of all sequences, stacked. Takes twice the memory of the frames. All of one size."""
    return Pairs(
        first=np.concatenate([sequence.frames[:-1] for sequence in sequences]),
        second=np.concatenate([sequence.frames[1:] for sequence in sequences]),
        clips=tuple(sequence.clip for sequence in sequences for _ in range(len(sequence.frames) - 1)),
    )


def read_sequences(
    clips: Listed[Clip | ShardClip], *, size: tuple[int, int], gap_seconds: float, limit: int
) -> tuple[Sequence, ...]:
    """Frames `gap_seconds` apart from every clip, at most `limit` in all, without factors.

    size: (height, width). Where the clips hold more than `limit`, each gives the same number (short ones all they have;
    with very many clips, only some give FEWEST), in windows spread evenly over its length. Scenes end at hard cuts and
    wherever two frames are further apart than 1.5 gaps; those of fewer than 3 frames are left out. A clip that cannot
    be read to its end is left out and named on stderr. Raises BadData when nothing is left, UserError for settings that
    make no sense.
    """
    if not 0 < gap_seconds < np.inf or limit < SHORTEST:
        raise UserError(f"a gap of {gap_seconds} s and {limit} frames make no sequence", hint="--gap-seconds 0.1")
    lengths = [round(_duration(clip) / gap_seconds) + 1 for clip in clips]
    sequences: list[Sequence] = []
    for clip, windows in zip(clips, plan_windows(lengths, limit=limit), strict=True):
        try:
            found = [
                sequence
                for first, frames in windows
                for sequence in _read_window(clip, first, frames, size=size, gap=gap_seconds)
            ]
        except UnreadableVideo as error:
            print(f"left out: {printable(clip.name)}: {error.reason}", file=sys.stderr)
            continue
        sequences += found
    if not sequences:
        raise BadData(
            f"none of {len(clips)} clips gives {SHORTEST} frames that are {gap_seconds} s apart",
            hint="Are they slower than that, or cut into scenes that are shorter? `understudy data scan` tells.",
        )
    return tuple(sequences)


def plan_windows(lengths: Listed[int], *, limit: int) -> list[list[tuple[int, int | None]]]:
    """Which frames to read of each clip: (first, how many), None for all that follow.

    lengths: frames that each clip has at the wanted rate. The windows hold at most `limit` frames together.
    """
    if sum(lengths) <= limit:
        return [[(0, None)] for _ in lengths]
    usable = [index for index, length in enumerate(lengths) if length >= SHORTEST]
    most = max(1, limit // FEWEST)
    if len(usable) > most:
        usable = [usable[place] for place in np.linspace(0, len(usable) - 1, most).round().astype(int)]
    quota, left = [0] * len(lengths), limit
    for place, index in enumerate(sorted(usable, key=lambda index: lengths[index])):
        quota[index] = min(lengths[index], left // (len(usable) - place))  # what a short one lacks, the others share
        left -= quota[index]
    return [_spread(length, share) for length, share in zip(lengths, quota, strict=True)]


def _spread(length: int, quota: int) -> list[tuple[int, int | None]]:
    """Windows of `quota` frames together, spread evenly over a clip of `length` frames."""
    if quota < SHORTEST:
        return []
    if quota == length:
        return [(0, None)]
    count = max(1, round(quota / WINDOW))
    frames = quota // count
    skipped = (length - count * frames) / count  # per window: half before it, half after
    return [(int(index * frames + skipped * (index + 0.5)), frames) for index in range(count)]


def _duration(clip: Clip | ShardClip) -> float:
    """Seconds from the first frame of a clip to its last."""
    if isinstance(clip, Clip):
        return clip.info.duration_seconds - 1 / clip.info.fps
    seconds = clip.folder.seconds
    return float(seconds[clip.first + clip.frames - 1] - seconds[clip.first])


def _read_window(
    clip: Clip | ShardClip, first: int, frames: int | None, *, size: tuple[int, int], gap: float
) -> list[Sequence]:
    """The scenes between frame `first` (counted at the wanted rate) and `frames` later."""
    start = first * gap
    stop = np.inf if frames is None else (first + frames) * gap
    if isinstance(clip, Clip):
        read = _video_frames(clip, clip.info.start_seconds + start, clip.info.start_seconds + stop, size=size, gap=gap)
    elif clip.folder.size == size:
        read = _shard_frames(clip, start, stop, gap=gap)
    else:
        hint = f"Give the videos themselves, or shards written at {size[0]}x{size[1]}."
        raise UserError(f"{clip.folder.path} holds frames of {clip.folder.size}, the model takes {size}", hint=hint)
    return [
        Sequence(clip.name, np.stack([frame.image for frame in run]), np.array([frame.seconds for frame in run]), {})
        for run in _runs(read, gap)
        if len(run) >= SHORTEST
    ]


def _video_frames(
    clip: Clip, start: float, stop: float, *, size: tuple[int, int], gap: float
) -> Iterator[tuple[int, Frame]]:
    """Frames with start <= time < stop, to half a frame, and the number of the scene that each belongs to."""
    half = 0.5 / clip.info.fps
    whole = start <= clip.info.start_seconds and np.isinf(stop)
    decoded = (
        clip.decode(size=size)
        if whole
        else clip.decode(size=size, start=start - half - _LEAD / clip.info.fps, stop=stop - half, frames=0)
    )
    rate, cuts, scene = FrameRate(clip.info, 1 / gap), CutDetector(), 0
    for frame in decoded:
        scene += cuts.is_cut(frame.image)  # looks at every frame, whatever the rate
        if frame.seconds >= start - half and rate.takes(frame.seconds):
            yield scene, frame


def _shard_frames(clip: ShardClip, start: float, stop: float, *, gap: float) -> Iterator[tuple[int, Frame]]:
    """The same from shards; after the end of a scene or a hole, the next frame begins anew."""
    rows = slice(clip.first, clip.first + clip.frames)
    seconds, scenes = np.array(clip.folder.seconds[rows]), np.array(clip.folder.scene[rows])
    half = 0.5 / clip.fps
    row = int(np.searchsorted(seconds, seconds[0] + start - half))
    end = int(np.searchsorted(seconds, seconds[0] + stop - half))
    while row < end:
        try:
            yield int(scenes[row]), clip.folder.read_frame(clip.first + row)
        except ValueError as error:
            raise UnreadableVideo(f"a damaged frame in its shard ({error})") from error
        scene_end = min(end, int(np.searchsorted(scenes, scenes[row], side="right")))
        steps = partner(seconds[row:scene_end], 0, gap, interval=1 / clip.fps)
        row = int(np.searchsorted(seconds[:scene_end], seconds[row] + gap)) if steps is None else row + steps


def _runs(frames: Iterable[tuple[int, Frame]], gap: float) -> Iterator[list[Frame]]:
    """Frames parted where the scene changes or more than 1.5 gaps pass."""
    run: list[Frame] = []
    last_scene = 0
    for scene, frame in frames:
        if run and (scene != last_scene or frame.seconds - run[-1].seconds > 1.5 * gap):
            yield run
            run = []
        run.append(frame)
        last_scene = scene
    if run:
        yield run
