"""Training pairs from shards (see common/shards.py): true random access, a frame of any clip for the price of one JPEG.

`ShardPairs.block(n)` gives the same kind of block as `VideoPairs.block(n)`, under the same rules about gaps, cuts and
still pairs, and is a pure function of (seed, block, rank, data) as well; but its pairs come from all frames at once.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from common.errors import BadData, UserError
from common.folders import BadFile
from common.motion import STATIC_DIFFERENCE, difference, thumbnail
from common.pairs import BlockBuilder, PairBlock, PairConfig, Share, block_size, folder_sizes, no_pairs, partner
from common.shards import FORMAT, INDEX_NAME, shard_path
from common.video import Frame

TRIES_PER_PAIR = 8  # draws before a block makes do with repeats: cuts, clip ends and still pairs cost draws


@dataclass(frozen=True, eq=False)
class ShardClip:
    """The frames `first` to `first + frames - 1` of a shard folder: one clip. fps: of what was kept."""

    folder: "ShardFolder"
    name: str
    first: int
    frames: int
    fps: float


class ShardFolder:
    """An open shard folder. The index stays on disk (memory map), so it costs next to no memory at any size."""

    def __init__(self, path: Path) -> None:
        """Raises BadData when the folder is damaged or was written by a version that kept it otherwise."""
        self.path = path
        hint = "Write them anew with `understudy data prepare`."
        try:
            arrays, metadata = _map_index(path / INDEX_NAME)
        except (OSError, ValueError, KeyError) as error:
            raise BadData(f"{path} holds no readable shards ({error})", hint=hint) from error
        if metadata["format"] != FORMAT:
            raise BadData(f"{path} holds shards of format {metadata['format']}, not {FORMAT}", hint=hint)
        for number, expected in enumerate(metadata["shard_bytes"]):
            file = shard_path(path, number)
            found = file.stat().st_size if file.exists() else 0
            if found != expected:
                raise BadData(f"{file} has {found} bytes instead of {expected}", hint=hint)
        self.size: tuple[int, int] = (metadata["height"], metadata["width"])
        self.seconds, self.scene = arrays["seconds"], arrays["scene"]
        self._shard, self._offset, self._length = arrays["shard"], arrays["offset"], arrays["length"]
        self.clips = tuple(ShardClip(self, **clip) for clip in metadata["clips"])

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return ShardFolder, (self.path,)  # a data worker opens it itself: a pickled memory map would be a full copy

    def read_frame(self, index: int) -> Frame:
        """Frame `index` of the folder (see `ShardClip.first`). Raises ValueError when its JPEG is damaged."""
        with open(shard_path(self.path, int(self._shard[index])), "rb", buffering=0) as file:
            file.seek(int(self._offset[index]))
            jpeg = file.read(int(self._length[index]))
        image = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
        if image.shape[:2] != self.size:
            raise ValueError(f"frame {index} is {image.shape[:2]}, not {self.size}")
        return Frame(float(self.seconds[index]), image)


def _map_index(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays of a safetensors file as memory maps, and our part of its metadata."""
    kinds = {"U32": "<u4", "U64": "<u8", "F64": "<f8"}
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    metadata = json.loads(header.pop("__metadata__")["understudy"])
    content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))[8 + length :]
    places = {name: (slice(*entry["data_offsets"]), kinds[entry["dtype"]]) for name, entry in header.items()}
    return {name: content[place].view(kind) for name, (place, kind) in places.items()}, metadata


class ShardPairs:
    """Endless blocks of pairs from clips of shard folders; arguments as for `VideoPairs`.

    Raises UserError when a folder's frames are not of the size in `config`.
    """

    def __init__(
        self,
        folders: Sequence[Sequence[ShardClip]],
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
        for clip in (clip for clips in self.folders for clip in clips):
            if clip.folder.size != (config.height, config.width):
                message = f"{clip.folder.path} holds frames of {clip.folder.size}, not {(config.height, config.width)}"
                raise UserError(message, hint="Prepare shards of that size, or train at the size of the shards.")
        self.names = [clip.name for clips in self.folders for clip in clips]
        self._first_clip = np.cumsum([0] + [len(clips) for clips in self.folders])
        self._ends = [np.cumsum([clip.frames for clip in clips]) for clips in self.folders]
        frames = [int(ends[-1]) if len(ends) else 0 for ends in self._ends]
        self.block_pairs = block_size(config, batch_size, sum(frames) / world_size)
        self._sizes = folder_sizes(self.block_pairs, frames, weights)

    def block(self, number: int) -> PairBlock:
        """Block `number`. Raises BadData when a whole folder gives no pair; frames that fail are in `PairBlock.bad`."""
        rng = np.random.default_rng([self.seed, number, self.rank])
        builder = BlockBuilder(self.config, self._sizes.tolist(), rng)
        bad: list[BadFile] = []
        for folder, share in enumerate(builder.shares):
            bad += self._fill(share, folder, rng)
        return builder.finish(self.names, bad)

    def _fill(self, share: Share, folder: int, rng: np.random.Generator) -> list[BadFile]:
        """Draw frames and gaps until the share is full, or too many draws gave nothing."""
        bad: list[BadFile] = []
        for _ in range(TRIES_PER_PAIR * len(share.places) + 100):
            clip_number, row = self._draw_frame(folder, rng)
            clip = self.folders[folder][clip_number]
            later = self._partner_row(clip, row, gap=float(rng.uniform(*self.config.gap_seconds)))
            if later is None:
                continue
            try:
                first, second = clip.folder.read_frame(row), clip.folder.read_frame(later)
            except ValueError as error:
                bad.append(BadFile(clip.name, f"a damaged frame in its shard ({error})"))
                continue
            static = difference(thumbnail(first.image), thumbnail(second.image)) < STATIC_DIFFERENCE
            share.offer(first, second, clip=int(self._first_clip[folder]) + clip_number, static=static)
            if not share.free:
                return bad
        if not share.filled:
            raise no_pairs(len(self.folders[folder]), bad)
        return bad

    def _draw_frame(self, folder: int, rng: np.random.Generator) -> tuple[int, int]:
        """A clip of the folder and a row of its shards, every frame with the same chance."""
        ends = self._ends[folder]
        place = int(rng.integers(ends[-1]))
        number = int(np.searchsorted(ends, place, side="right"))
        clip = self.folders[folder][number]
        return number, clip.first + clip.frames - (int(ends[number]) - place)

    def _partner_row(self, clip: ShardClip, row: int, *, gap: float) -> int | None:
        scenes = clip.folder.scene[row : clip.first + clip.frames]
        scene_frames = int(np.searchsorted(scenes, scenes[0], side="right"))
        steps = partner(clip.folder.seconds[row : row + scene_frames], 0, gap, interval=1 / clip.fps)
        return None if steps is None else row + steps
