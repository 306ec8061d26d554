"""Training pairs straight from video files: blocks of frame pairs, each a pure function of (seed, block, rank, data).

A pair is two frames of one scene, the second later than the first by a gap in seconds. `VideoPairs.block(n)` decodes
whole segments (see common/plan.py) once each and draws its pairs on the way, so a block costs a small part of what
random access would, and memory holds no more than the block and the frames that still wait for their partner.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.errors import BadData, UserError
from common.folders import BadFile, Clip, printable
from common.motion import STATIC_DIFFERENCE, CutDetector, difference, thumbnail
from common.plan import SEGMENT, FolderPlan, segments_of, share_out
from common.video import Frame, UnreadableVideo

LATER_PARTS = 3  # how many blocks' segments a block reads at most on top of its own, to be half full without repeats


@dataclass(frozen=True)
class PairConfig:
    """Which pairs of frames to train on."""

    height: int
    """Height of a training frame in pixels."""
    width: int
    """Width of a training frame in pixels; the picture is cropped to this aspect."""
    gap_seconds: tuple[float, float]
    """Shortest and longest time from the first frame of a pair to the second, drawn uniformly; at least one frame."""
    pairs_per_frame: float = 0.25
    """Pairs drawn per frame decoded: more costs less time per pair, but neighbouring pairs look alike."""
    buffer_pairs: int = 256
    """Pairs that are shuffled together; each takes 2 x height x width x 3 bytes in every data process."""
    static_share: float = 0.1
    """Largest share of pairs in which next to nothing changes; 0 leaves them out."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(f"frames of {self.height} x {self.width} pixels are impossible")
        if not 0 <= self.gap_seconds[0] <= self.gap_seconds[1] < math.inf:
            raise UserError(f"gap_seconds must be (shortest, longest), both from 0 on, not {self.gap_seconds}")
        if not 0 < self.pairs_per_frame <= 1:
            raise UserError(f"pairs_per_frame must lie in (0, 1], not {self.pairs_per_frame}")
        if self.buffer_pairs < 1:
            raise UserError(f"buffer_pairs must be at least 1, not {self.buffer_pairs}")
        if not 0 <= self.static_share <= 1:
            raise UserError(f"static_share must lie in [0, 1], not {self.static_share}")


@dataclass
class PairBlock:
    """P pairs in random order. Pair p shows `clips[clip[p]]` at the times `seconds[p]`, the earlier frame first."""

    first: np.ndarray  # uint8 (P, H, W, 3) RGB
    second: np.ndarray  # uint8 (P, H, W, 3) RGB
    seconds: np.ndarray  # float64 (P, 2), presentation times within the clip
    clip: np.ndarray  # int64 (P,)
    clips: tuple[str, ...]
    bad: tuple[BadFile, ...]  # what could not be read; other parts of the same file may be in the block


def partner(seconds: Sequence[float] | np.ndarray, start: int, gap: float, *, interval: float) -> int | None:
    """Which frame makes a pair with frame `start`: the one after it whose time is nearest to seconds[start] + gap.

    seconds: times of the frames of one scene, increasing; interval: the usual time between two frames. Of two equally
    near frames the earlier one; a gap below one frame gives the next frame. None when the scene ends more than half
    an interval before the wanted time, or when the nearest frame misses it by more than 1.5 intervals (a hole in a
    file of variable rate).
    """
    wanted = seconds[start] + gap
    later = bisect_left(seconds, wanted, start + 1)
    if later == len(seconds):
        at_end = later - 1 > start and wanted - seconds[later - 1] <= interval / 2
        return later - 1 if at_end else None
    if later - 1 > start and wanted - seconds[later - 1] <= seconds[later] - wanted:
        later -= 1
    return later if abs(seconds[later] - wanted) <= 1.5 * interval else None


class Share:
    """The places in a block that one folder fills; see BlockBuilder."""

    def __init__(self, block: PairBlock, places: np.ndarray, *, static_share: float) -> None:
        self.block = block
        self.places = places
        self.static: list[bool] = []  # one entry per place filled
        self.most_static = math.ceil(static_share * len(places))

    @property
    def filled(self) -> int:
        return len(self.static)

    @property
    def free(self) -> int:
        return len(self.places) - len(self.static)

    def offer(self, first: Frame, second: Frame, *, clip: int, static: bool) -> bool:
        """Put the pair into the next free place; False if there is none or there are enough static pairs."""
        if not self.free or (static and sum(self.static) == self.most_static):
            return False
        place, block = self.places[self.filled], self.block
        block.first[place], block.second[place] = first.image, second.image
        block.seconds[place], block.clip[place] = (first.seconds, second.seconds), clip
        self.static.append(static)
        return True

    def cut_back(self, filled: int) -> None:
        """Forget all but the first `filled` pairs."""
        del self.static[filled:]

    def repeat(self, rng: np.random.Generator) -> None:
        """Fill the free places with copies of the pairs there are: of those that move, if any do."""
        sources = self.places[: self.filled]
        if not all(self.static):
            sources = sources[~np.array(self.static)]
        block = self.block
        for place in self.places[self.filled :]:
            source = rng.choice(sources)
            for array in (block.first, block.second, block.seconds, block.clip):
                array[place] = array[source]


class BlockBuilder:
    """A block that folders fill in random places. sizes: pairs of each folder."""

    def __init__(self, config: PairConfig, sizes: Sequence[int], rng: np.random.Generator) -> None:
        pairs = sum(sizes)
        first, second = (np.empty((pairs, config.height, config.width, 3), dtype=np.uint8) for _ in range(2))
        self.block = PairBlock(first, second, np.zeros((pairs, 2)), np.zeros(pairs, dtype=np.int64), (), ())
        self.rng = rng
        parts = np.split(rng.permutation(pairs), np.cumsum(sizes)[:-1])
        self.shares = [Share(self.block, places, static_share=config.static_share) for places in parts]

    def finish(self, names: Sequence[str], bad: Iterable[BadFile]) -> PairBlock:
        """The block, once every share holds a pair. names: of all clips, in the numbering given to `Share.offer`."""
        for share in self.shares:
            share.repeat(self.rng)
        used, clip = np.unique(self.block.clip, return_inverse=True)
        self.block.clip, self.block.clips = clip, tuple(str(names[number]) for number in used)
        self.block.bad = tuple(dict.fromkeys(bad))
        return self.block


class _Start(NamedTuple):
    """A frame that waits for its partner."""

    index: int  # within its scene
    frame: Frame
    thumb: np.ndarray
    gap: float


class _Drawing:
    """Draws pairs from consecutive frames as they come. take(first, second, static) says whether a pair is used.

    Each frame is chosen as the start of a pair with the chance (pairs still wanted) / (frames still to come), so a pair
    that fell to a cut or was refused is made up for by a later one. Frames are kept only while they wait.
    """

    def __init__(
        self,
        *,
        frames: int,
        wanted: int,
        gap_seconds: tuple[float, float],
        interval: float,
        rng: np.random.Generator,
        take: Callable[[Frame, Frame, bool], bool],
    ) -> None:
        self.wanted = wanted
        self.interval = interval
        self.take = take
        self.gaps = rng.uniform(*gap_seconds, size=frames)
        self.coins = rng.random(frames)
        self.full_starts = frames - math.ceil(gap_seconds[1] / interval)  # starts after these may lack a partner
        self.cuts = CutDetector()
        self.times: list[float] = []  # of the frames of the current scene
        self.scene_start = 0
        self.latest: list[tuple[Frame, np.ndarray]] = []  # the last two frames of the scene, with their thumbnails
        self.waiting: list[_Start] = []

    def feed(self, frame: Frame) -> None:
        thumb = thumbnail(frame.image)
        if self.cuts.is_cut_thumbnail(thumb):
            self.end_scene()
        self.times.append(frame.seconds)
        self.latest = [*self.latest[-1:], (frame, thumb)]
        waiting, self.waiting = self.waiting, []
        for start in waiting:
            if frame.seconds < start.frame.seconds + start.gap:
                self.waiting.append(start)
            else:
                self._settle(start)
        index = len(self.times) - 1
        place = self.scene_start + index
        if place < len(self.coins):
            due = (self.wanted - len(self.waiting)) / max(1, self.full_starts - place)
            if self.coins[place] < due:
                self.waiting.append(_Start(index, frame, thumb, self.gaps[place]))

    def end_scene(self) -> None:
        """What still waits gets the last frame of the scene, where that is near enough, or nothing."""
        for start in self.waiting:
            self._settle(start)
        self.scene_start += len(self.times)
        self.times, self.waiting, self.latest = [], [], []

    def _settle(self, start: _Start) -> None:
        """Give `start` its partner, which is one of the last two frames, if it has one at all."""
        index = partner(self.times, start.index, start.gap, interval=self.interval)
        if index is not None:
            second, thumb = self.latest[index - len(self.times)]
            static = difference(start.thumb, thumb) < STATIC_DIFFERENCE
            self.wanted -= self.take(start.frame, second, static)


class VideoPairs:
    """Endless blocks of pairs from folders of clips.

    weights: share of the pairs that each folder gives (default: in proportion to its frames). batch_size: pairs per
    batch of this rank; a block holds `block_pairs` pairs, a multiple of it. The data order is a function of `seed` and
    the block number, so training resumes at batch b in block (b * batch_size) // block_pairs. Between them the ranks
    read every segment once per epoch. A segment gives at most one block's pairs, however many frames it has.
    """

    def __init__(
        self,
        folders: Sequence[Sequence[Clip]],
        *,
        config: PairConfig,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.config, self.seed, self.rank = config, seed, rank
        self.folders = [list(clips) for clips in folders]
        self.names = [clip.name for clips in self.folders for clip in clips]
        self._first_clip = np.cumsum([0] + [len(clips) for clips in self.folders])
        self._segments = [
            np.array([(n, *s) for n, clip in enumerate(clips) for s in segments_of(clip.info)], dtype=SEGMENT)
            for clips in self.folders
        ]
        frames = [int(segments["frames"].sum()) for segments in self._segments]
        self.block_pairs = block_size(config, batch_size, sum(frames) * config.pairs_per_frame / world_size)
        self._sizes = folder_sizes(self.block_pairs, frames, weights)
        self._plans = [
            FolderPlan(
                segments["frames"],
                pairs_per_frame=config.pairs_per_frame,
                quota=int(size),
                world_size=world_size,
                seed=(seed, 0, folder),
            )
            for folder, (segments, size) in enumerate(zip(self._segments, self._sizes, strict=True))
        ]
        self._broken: dict[tuple[int, int], BadFile] = {}  # (folder, segment) -> why; never tried again

    def block(self, number: int) -> PairBlock:
        """Block `number`. Raises BadData when a whole folder gives no pair; files that fail are in `PairBlock.bad`."""
        rng = np.random.default_rng([self.seed, 1, number, self.rank])
        builder = BlockBuilder(self.config, self._sizes.tolist(), rng)
        bad: list[BadFile] = []
        for folder, share in enumerate(builder.shares):
            bad += self._fill(share, folder, number)
        return builder.finish(self.names, bad)

    def _fill(self, share: Share, folder: int, block: int) -> list[BadFile]:
        """Fill the share from the block's own segments; if they give little, from some that follow in the epoch too."""
        plan = self._plans[folder]
        bad: list[BadFile] = []
        for later in range(plan.parts):
            numbers = plan.segments(block, self.rank, later=later)
            due = share.filled + np.cumsum(share_out(share.free, plan.pairs[numbers]))
            for number, total in zip(numbers.tolist(), due.tolist(), strict=True):
                if total > share.filled:
                    self._read(share, folder, number, total - share.filled, block)
                    bad += [self._broken[folder, number]] if (folder, number) in self._broken else []
            if share.filled >= share.free or (share.filled and later >= LATER_PARTS):
                return bad
        if share.filled:
            return bad
        raise no_pairs(len(self.folders[folder]), bad)

    def _read(self, share: Share, folder: int, number: int, wanted: int, block: int) -> None:
        """Decode one segment into the share. A segment that fails anywhere gives nothing, now and later.

        It is decoded to its end even when the share has enough: whether it fails must not depend on what was wanted.
        """
        if (folder, number) in self._broken:
            return
        segment = self._segments[folder][number]
        clip = self.folders[folder][segment["clip"]]
        clip_number = int(self._first_clip[folder] + segment["clip"])
        drawing = _Drawing(
            frames=int(segment["frames"]),
            wanted=wanted,
            gap_seconds=self.config.gap_seconds,
            interval=1 / clip.info.fps,
            rng=np.random.default_rng([self.seed, 2, block, self.rank, folder, number]),
            take=lambda first, second, static: share.offer(first, second, clip=clip_number, static=static),
        )
        filled = share.filled
        stop = None if math.isinf(segment["stop"]) else float(segment["stop"])
        size = (self.config.height, self.config.width)
        try:
            frames = int(segment["frames"])
            for frame in clip.decode(size=size, start=float(segment["start"]), stop=stop, frames=frames):
                drawing.feed(frame)
            drawing.end_scene()
        except UnreadableVideo as error:
            share.cut_back(filled)
            self._broken[folder, number] = BadFile(clip.name, error.reason)


def no_pairs(clips: int, bad: Sequence[BadFile]) -> BadData:
    """What to raise when a folder gives nothing."""
    reasons = [f"{printable(file.name)}: {file.reason}" for file in dict.fromkeys(bad)]
    more = [f"and {len(reasons) - 10} more"] if len(reasons) > 10 else []
    why = "".join(f"\n  {reason}" for reason in [*reasons[:10], *more])
    return BadData(
        f"no pair of frames in {clips} clips{why or ': they are too short, cut too often, or do not move'}",
        hint="`understudy data scan` explains a folder.",
    )


def block_size(config: PairConfig, batch_size: int, supply: float) -> int:
    """Pairs per block: buffer_pairs in whole batches; less, but a batch at least, when an epoch has only `supply`."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return batch_size * max(1, min(math.ceil(config.buffer_pairs / batch_size), int(supply // batch_size)))


def folder_sizes(pairs: int, frames: Sequence[int], weights: Sequence[float] | None) -> np.ndarray:
    """How many of a block's pairs each folder gives: by weight, at least one each."""
    if not frames or min(frames) < 1:
        raise ValueError(f"every folder needs a clip; frames per folder: {list(frames)}")
    weights = list(frames) if weights is None else list(weights)
    if len(weights) != len(frames) or not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"{len(frames)} folders need as many weights above 0, not {weights}")
    if pairs < len(frames):
        raise UserError(f"a block of {pairs} pairs cannot hold {len(frames)} folders; make the batch larger")
    sizes = np.maximum(1, share_out(pairs, weights))
    sizes[np.argmax(sizes)] -= sizes.sum() - pairs
    return sizes
