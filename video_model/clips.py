"""Windows of frames straight from video files, in blocks: each a pure function of (seed, block, rank, data).

A window is `frames` frames of one scene at an even rate. Like `common.pairs`, `ClipWindows.block(n)` decodes whole
segments (see common/plan.py) once each and draws its windows on the way; a window never reaches over a segment's end,
a hard cut or a hole in the video. With labels, its frames are labelled ones in a row, and cuts are those of the labels.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import BadData, UserError
from common.folders import BadFile, Clip, printable
from common.frame_rate import FrameRate
from common.motion import CutDetector
from common.plan import SEGMENT, FolderPlan, segments_of, share_out
from common.video import Frame, UnreadableVideo, VideoInfo
from video_model.labels import TOLERANCE, ClipLabels, Labels

LATER_PARTS = 3  # how many blocks' segments a block reads at most on top of its own, to be half full without repeats
SLOWEST = 2 / 3  # of the wanted rate: slower clips would give windows of another rate


@dataclass(frozen=True)
class WindowConfig:
    """Which windows of frames to train on."""

    height: int
    """Height of a frame in pixels."""
    width: int
    """Width of a frame in pixels; the picture is cropped to this aspect."""
    frames: int
    """Frames of a window."""
    fps: float
    """Frames per second of a window; of faster clips the frames nearest to this rate are kept."""
    windows_per_frame: float = 0.25
    """Windows drawn per frame that could begin one."""
    buffer_windows: int = 256
    """Windows that are shuffled together; each takes frames x height x width x 3 bytes in every data process."""

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.frames) < 1:
            raise UserError(f"windows of {self.frames} frames of {self.height} x {self.width} pixels are impossible")
        if not 0 < self.fps < math.inf:
            raise UserError(f"fps must be above 0, not {self.fps}")
        if not 0 < self.windows_per_frame <= 1:
            raise UserError(f"windows_per_frame must lie in (0, 1], not {self.windows_per_frame}")
        if self.buffer_windows < 1:
            raise UserError(f"buffer_windows must be at least 1, not {self.buffer_windows}")


@dataclass
class WindowBlock:
    """P windows of T frames in random order. Window p shows `clips[clip[p]]` at the times `seconds[p]`."""

    frames: np.ndarray  # uint8 (P, T, H, W, 3) RGB
    seconds: np.ndarray  # float64 (P, T), presentation times within the clip
    clip: np.ndarray  # int64 (P,)
    clips: tuple[str, ...]
    bad: tuple[BadFile, ...]  # what could not be read; other parts of the same file may be in the block

    @classmethod
    def empty(cls, size: int, config: WindowConfig) -> "WindowBlock":
        """Places for `size` windows, to be filled by `put`; until `name_clips`, `clip` counts in another list."""
        return cls(
            frames=np.empty((size, config.frames, config.height, config.width, 3), dtype=np.uint8),
            seconds=np.zeros((size, config.frames)),
            clip=np.zeros(size, dtype=np.int64),
            clips=(),
            bad=(),
        )

    def put(self, place: int, window: Sequence[Frame], clip: int) -> None:
        self.frames[place] = [frame.image for frame in window]
        self.seconds[place] = [frame.seconds for frame in window]
        self.clip[place] = clip

    def cut_back(self, filled: int) -> None:
        """Forget all but the first `filled` windows."""
        self.frames, self.seconds, self.clip = self.frames[:filled], self.seconds[:filled], self.clip[:filled]

    def name_clips(self, clips: Sequence[Clip]) -> None:
        """Turn the numbers of `clips` in `clip` into those of `self.clips`, the names that occur."""
        used, self.clip = np.unique(self.clip, return_inverse=True)
        self.clips = tuple(clips[clip].name for clip in used)


def even_spacing(info: VideoInfo, fps: float) -> tuple[float, float]:
    """Seconds between which lies the time from one frame at `fps` to the next, if none is missing."""
    steps, interval = info.fps / fps, 1 / info.fps  # frames of the clip from one kept frame to the next
    return (math.floor(steps + 0.01) - 0.5) * interval, (math.ceil(steps - 0.01) + 0.5) * interval


class EvenRuns:
    """Of a clip's frames in turn, those at `fps`, in runs without a cut or a hole: the latest `length` of each.

    The times between two frames of a run are as even as the clip's own rate allows.
    """

    def __init__(self, info: VideoInfo, *, fps: float, length: int) -> None:
        self.shortest, self.longest = even_spacing(info, fps)
        self.rate, self.cuts = FrameRate(info, fps), CutDetector()
        self.latest: deque[Frame] = deque(maxlen=length)

    def feed(self, frame: Frame) -> bool:
        """Whether this frame completes a window, which is then in `latest`."""
        if self.cuts.is_cut(frame.image):  # looks at every frame, whatever the rate
            self.latest.clear()
        if not self.rate.takes(frame.seconds):
            return False
        if self.latest and not self.shortest < frame.seconds - self.latest[-1].seconds < self.longest:
            self.latest.clear()
        self.latest.append(frame)
        return len(self.latest) == self.latest.maxlen


class LabelledRuns:
    """Of a segment's frames in turn, those with a label: the latest `length` of each run without a cut or a hole."""

    def __init__(self, labels: ClipLabels, info: VideoInfo, *, fps: float, length: int) -> None:
        """labels: the segment's part of them."""
        self.seconds = labels.seconds
        self.starts = labelled_starts(labels, info, fps=fps, length=length)
        self.latest: deque[Frame] = deque(maxlen=length)
        self.row = 0

    def feed(self, frame: Frame) -> bool:
        """Whether this frame completes a window, which is then in `latest`."""
        if self.row == len(self.seconds) or abs(frame.seconds - self.seconds[self.row]) > TOLERANCE:
            return False
        self.latest.append(frame)
        self.row += 1
        first = self.row - len(self.latest)
        return len(self.latest) == self.latest.maxlen and bool(self.starts[first])

    @property
    def missing(self) -> float | None:
        """After the segment's last frame: the time of the first label whose frame never came."""
        return self.seconds[self.row] if self.row < len(self.seconds) else None


def labelled_starts(labels: ClipLabels, info: VideoInfo, *, fps: float, length: int) -> np.ndarray:
    """bool (T,): whether a window begins at each of these labelled frames, all of it one scene without a hole."""
    shortest, longest = even_spacing(info, fps)
    gaps = np.diff(labels.seconds)
    broken = (np.diff(labels.scenes) != 0) | (gaps <= shortest) | (gaps >= longest)
    before = np.concatenate(([0], np.cumsum(broken)))[: len(labels.seconds)]  # breaks before each frame
    starts = np.zeros(len(before), dtype=bool)
    windows = max(0, len(before) - length + 1)
    starts[:windows] = before[:windows] == before[length - 1 :][:windows]
    return starts


class Segments:
    """The segments of clips that hold a window, and their windows.

    labels: of these clips; then the frames of a window are labelled ones in a row. BadData when no clip is fast and
    long enough or labels do not fit their clip, UserError when they have another rate.
    """

    def __init__(self, clips: Sequence[Clip], config: WindowConfig, labels: Labels | None) -> None:
        self.clips, self.config, self.labels = list(clips), config, labels
        if labels:
            labels.require(self.clips)
        rows, starts = [], []
        for number, clip in enumerate(self.clips):
            fitting = labels.fitting(clip, fps=config.fps) if labels else None
            for frames, start, stop in segments_of(clip.info):
                part = fitting.between(start, stop) if fitting else None
                if (count := self._count(clip.info, frames, part)) > 0:
                    rows.append((number, frames, start, stop))
                    starts.append(count)
        if not rows:
            raise _no_window(len(self.clips), config, [])
        self.table = np.array(rows, dtype=SEGMENT)
        self.starts = np.array(starts)
        """(segments,): windows of each. Without labels, only as far as its number of frames tells."""

    def _count(self, info: VideoInfo, frames: int, labels: ClipLabels | None) -> int:
        """How many windows a segment holds, overlapping ones counted; 0 or less if it is too short or slow."""
        config = self.config
        if info.fps < SLOWEST * config.fps:
            return 0
        if labels:
            return int(labelled_starts(labels, info, fps=config.fps, length=config.frames).sum())
        kept = math.ceil(frames * min(1.0, config.fps / info.fps) - 0.01)
        return kept - config.frames + 1

    def windows(self, segment: int) -> Iterator[Sequence[Frame]]:
        """Every window of a segment in turn, each valid until the next is asked for.

        After them raises UnreadableVideo for a damaged file, and BadData when the labels are of other frames.
        """
        number, count, start, stop = self.table[segment].tolist()
        clip, config = self.clips[number], self.config
        if self.labels:
            part = self.labels.clip(clip.name).between(start, stop)
            runs = LabelledRuns(part, clip.info, fps=config.fps, length=config.frames)
        else:
            runs = EvenRuns(clip.info, fps=config.fps, length=config.frames)
        size, end = (config.height, config.width), None if math.isinf(stop) else stop
        for frame in clip.decode(size=size, start=start, stop=end, frames=count):
            if runs.feed(frame):
                yield runs.latest
        if self.labels and isinstance(runs, LabelledRuns) and runs.missing is not None:
            raise self.labels.misfit(clip.name, f"no frame at {runs.missing:.3f} s, where its labels have one")


class ClipWindows:
    """Endless blocks of windows from clips.

    batch_size: windows per batch of this rank; a block holds `block_windows`, a multiple of it. Between them the ranks
    read every segment once per epoch. labels, errors: as `Segments`.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        config: WindowConfig,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        labels: Labels | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.segments = Segments(clips, config, labels)
        self.clips, self.config, self.seed, self.rank = self.segments.clips, config, seed, rank
        starts = self.segments.starts
        supply = starts.sum() * config.windows_per_frame / world_size
        batches = min(math.ceil(config.buffer_windows / batch_size), int(supply // batch_size))
        self.block_windows = batch_size * max(1, batches)
        self._plan = FolderPlan(
            starts,
            pairs_per_frame=config.windows_per_frame,
            quota=self.block_windows,
            world_size=world_size,
            seed=(seed, 0),
        )
        self._broken: dict[int, BadFile] = {}  # segment -> why; never tried again

    @property
    def windows(self) -> int:
        """How many windows there are, overlapping ones counted, as far as the frame counts tell."""
        return int(self.segments.starts.sum())

    def block(self, number: int) -> WindowBlock:
        """Block `number`. Raises BadData when nothing gives a window; files that fail are in `WindowBlock.bad`."""
        size = self.block_windows
        block = WindowBlock.empty(size, self.config)
        rng = np.random.default_rng([self.seed, 1, number, self.rank])
        places = rng.permutation(size)
        filled, bad = self._fill(block, places, number)
        for place in places[filled:]:
            source = rng.choice(places[:filled])
            for array in (block.frames, block.seconds, block.clip):
                array[place] = array[source]
        block.name_clips(self.clips)
        block.bad = tuple(dict.fromkeys(bad))
        return block

    def _fill(self, block: WindowBlock, places: np.ndarray, number: int) -> tuple[int, list[BadFile]]:
        """Fill `places` in turn from the block's own segments; if they give little, from some that follow too.

        Returns how many are filled, and what failed.
        """
        filled, bad = 0, []
        for later in range(self._plan.parts):
            segments = self._plan.segments(number, self.rank, later=later)
            due = filled + np.cumsum(share_out(len(places) - filled, self._plan.pairs[segments]))
            for segment, total in zip(segments.tolist(), due.tolist(), strict=True):
                if total > filled:
                    filled += self._read(block, places[filled:total], segment, number)
                    bad += [self._broken[segment]] if segment in self._broken else []
            if filled >= len(places) - filled or (filled and later >= LATER_PARTS):
                return filled, bad
        if filled:
            return filled, bad
        raise _no_window(len(self.clips), self.config, bad)

    def _read(self, block: WindowBlock, places: np.ndarray, segment: int, number: int) -> int:
        """Draw windows of one segment into these places; returns how many. A segment that fails anywhere gives none.

        It is decoded to its end even when there are enough: whether it fails must not depend on what was wanted.
        """
        if segment in self._broken:
            return 0
        clip_number = int(self.segments.table["clip"][segment])
        rng = np.random.default_rng([self.seed, 2, number, self.rank, segment])
        draw = _draw(rng, candidates=int(self.segments.starts[segment]))
        filled = 0
        try:
            for window in self.segments.windows(segment):
                if filled < len(places) and draw(len(places) - filled):
                    block.put(places[filled], window, clip_number)
                    filled += 1
        except UnreadableVideo as error:
            self._broken[segment] = BadFile(self.clips[clip_number].name, error.reason)
            return 0
        return filled


def _draw(rng: np.random.Generator, *, candidates: int) -> Callable[[int], bool]:
    """Says of each candidate in turn, given how many are still wanted, whether to take it.

    All have the same chance, and as many as wanted are taken (selection sampling, Knuth's Algorithm S). What comes
    after the expected candidates is taken as long as any is wanted.
    """
    left = iter(range(candidates, 0, -1))
    return lambda missing: rng.random() * next(left, 1) < missing


def _no_window(clips: int, config: WindowConfig, bad: Sequence[BadFile]) -> BadData:
    """What to raise when nothing gives a window."""
    reasons = [f"{printable(file.name)}: {file.reason}" for file in dict.fromkeys(bad)]
    more = [f"and {len(reasons) - 10} more"] if len(reasons) > 10 else []
    why = "".join(f"\n  {reason}" for reason in [*reasons[:10], *more])
    return BadData(
        f"no {config.frames} frames at {config.fps:g} per second in {clips} clips"
        f"{why or ': they are too short, too slow, or cut too often'}",
        hint="Ask for fewer frames or a lower rate; `understudy data scan` explains a folder.",
    )
