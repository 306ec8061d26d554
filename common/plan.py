"""Which part of a folder of video each block of training pairs reads: pure functions of (seed, block, rank, data).

A segment is a run of frames that starts at a key frame, so that decoding it costs nothing but its own frames. Random
access inside a group of pictures would decode it from its key frame for every pair; a segment is decoded once for all.
"""

from typing import Any

import numpy as np

from common.video import VideoInfo

SEGMENT_FRAMES = 128  # short groups of pictures are joined up to this many frames; longer ones are never cut
SEGMENT = np.dtype([("clip", "i4"), ("frames", "i4"), ("start", "f8"), ("stop", "f8")])


def segments_of(info: VideoInfo) -> list[tuple[int, float, float]]:
    """(frames, start, stop) of each segment in order: key-frame times in seconds, the last stop is inf.

    Together they hold every frame exactly once.
    """
    starts = [keyframe.frame for keyframe in info.keyframes] + [info.frames]
    times = [keyframe.seconds for keyframe in info.keyframes] + [float("inf")]
    cuts = [0]
    for end in range(1, len(starts)):
        if end > cuts[-1] + 1 and starts[end] - starts[cuts[-1]] > SEGMENT_FRAMES:
            cuts.append(end - 1)
    if len(cuts) > 1 and starts[-1] - starts[cuts[-1]] < SEGMENT_FRAMES // 4:
        cuts.pop()  # a few frames at the end would give hardly a pair
    ends = [*cuts[1:], len(starts) - 1]
    return [(starts[b] - starts[a], times[a], times[b]) for a, b in zip(cuts, ends, strict=True)]


def share_out(total: int, weights: Any) -> np.ndarray:
    """Whole numbers that sum to `total`, in proportion to `weights` (largest remainders are rounded up)."""
    exact = np.asarray(weights, dtype=np.float64) * (total / np.sum(weights))
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    return shares


class FolderPlan:
    """The segments of one folder, dealt to blocks and ranks: every segment once per epoch, to one block of one rank.

    frames: of each segment. pairs_per_frame: how many pairs a frame should give in an epoch. quota: pairs that this
    folder gives to each block. All ranks are in the same epoch at the same block.
    """

    def __init__(
        self, frames: np.ndarray, *, pairs_per_frame: float, quota: int, world_size: int, seed: tuple[int, ...]
    ) -> None:
        self.pairs = np.minimum(frames * pairs_per_frame, quota)
        self.world_size = world_size
        self.seed = seed
        self.blocks_per_epoch = max(1, round(self.pairs.sum() / (quota * world_size)))
        self.parts = self.blocks_per_epoch * world_size
        self._shuffled: tuple[int, np.ndarray, np.ndarray] | None = None

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order of segments, and where each one ends on a line as long as all their pairs."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = np.random.default_rng([*self.seed, epoch]).permutation(len(self.pairs))
            self._shuffled = epoch, order, np.cumsum(self.pairs[order])
        return self._shuffled[1:]

    def segments(self, block: int, rank: int, *, later: int = 0) -> np.ndarray:
        """Numbers of the segments that `block` of `rank` reads, in order; never empty.

        later: how many parts of the epoch further on to look, for a block whose own segments give nothing.
        """
        epoch, place = divmod(block, self.blocks_per_epoch)
        part = (place * self.world_size + rank + later) % self.parts
        order, ends = self._epoch(epoch)
        # A segment belongs to the part in which its middle lies, so parts are as even as whole segments allow.
        part_of = ((ends - self.pairs[order] / 2) * (self.parts / ends[-1])).astype(np.int64)
        own = order[slice(*np.searchsorted(part_of, [part, part + 1]))]
        # With fewer segments than parts, a part without a middle shares the segment that lies across its own middle.
        return own if len(own) else order[[np.searchsorted(ends, (part + 0.5) * ends[-1] / self.parts)]]
