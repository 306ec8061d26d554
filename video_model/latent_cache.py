"""Latent windows that are encoded once and then read from disk, for training that goes over them many times.

A cache is a folder: `cache.json` says what its windows depend on, `block-N.safetensors` holds some hundred windows of
neighbouring segments: `latents` float16 (P, C, 1 + k, h, w), `actions` float32 (P, 4k, A), `forecasts` as the latents
where there are any, the clips' names as JSON in its metadata. The order of reading is a pure function of
(seed, position), with every window once per epoch.
"""

import hashlib
import json
import math
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.checkpoints import durable_file, require_space, write_text
from common.errors import BadData, UserError
from common.folders import BadFile, Clip, printable
from common.training import DataPosition
from common.video import UnreadableVideo, numbered_images
from video_model.clip_batches import LabelledWindows, labelled_block
from video_model.clips import Segments, WindowBlock, WindowConfig
from video_model.forecast import Forecaster
from video_model.labels import Labels
from video_model.latent_windows import LatentBatch, encode_windows, row_batches, with_still
from video_model.presets import TIME_FACTOR
from video_model.tokenizer import Tokenizer

NOTE = "cache.json"


class LatentCache:
    """The windows of some clips as latents, in `folder`. `write` makes what is missing, `batches` reads.

    Of each segment's windows every (1 / config.windows_per_frame)-th is kept. UserError if the folder holds a cache of
    other windows, labels or clips, or of another tokenizer or forecaster; further errors as
    `video_model.clips.Segments`.
    """

    def __init__(
        self,
        folder: Path,
        clips: Sequence[Clip],
        config: WindowConfig,
        *,
        labels: Labels,
        tokenizer: Tokenizer,
        forecaster: Forecaster | None = None,
        still_share: float = 0.0,
    ) -> None:
        self.folder, self.config, self.labels = folder, config, labels
        self.tokenizer, self.forecaster, self.still_share = tokenizer, forecaster, still_share
        self.segments = Segments(clips, config, labels)
        shares = np.ceil(self.segments.starts * config.windows_per_frame)
        # A block ends with the segment that fills it.
        block = np.concatenate(([0], np.cumsum(shares)[:-1])) // config.buffer_windows
        edges = np.flatnonzero(np.diff(block, prepend=-1, append=np.inf))
        self.blocks = [range(first, end) for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
        self._open(
            {
                "tokenizer": weights_checksum(tokenizer),
                "labels": labels.identity,
                "forecaster": forecaster and [forecaster.identity, forecaster.span],
                "still_share": still_share,
                "windows": asdict(config),
                "clips": _clips_checksum(clips),
            }
        )

    def _open(self, identity: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Listed before the note is looked for: another rank may be about to write it. Hidden files are half-written.
        found = [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
        note = self.folder / NOTE
        if note.exists():
            before = json.loads(note.read_text())
            other = [name for name, value in identity.items() if before.get(name) != value]
            if other:
                raise UserError(
                    f"{self.folder} holds latents made with other {' and '.join(other)}",
                    hint="Choose another folder for the cache, or delete this one.",
                )
        elif found:
            raise UserError(f"{self.folder} is not empty and holds no latents", hint="Choose another folder.")
        else:
            write_text(note, json.dumps(identity, indent=1))

    def path(self, block: int) -> Path:
        return self.folder / f"block-{block:06d}.safetensors"

    def write(self, *, batch_size: int, workers: int, rank: int = 0, world_size: int = 1) -> None:
        """Encode those blocks of this rank's share that are not there yet, `batch_size` windows at once.

        `workers` processes decode (0: this one). Files that cannot be read are named on stderr and left out. All ranks
        must have finished before the first reads. BadData when labels are of other frames, UserError when the disk is
        too small.
        """
        missing = [n for n in range(rank, len(self.blocks), world_size) if not self.path(n).exists()]
        if not missing:
            return
        windows = sum(_count(self.segments, self.blocks[number]) for number in missing)
        latents = math.prod(self._latent_shape) * (2 if self.forecaster else 1)
        width = latents * 2 + (self.config.frames - 1) * self.labels.dim * 4
        require_space(self.folder, windows * width * world_size)
        loader = DataLoader(
            _Blocks(self.segments, [self.blocks[number] for number in missing]),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=1 if workers else None,
            generator=torch.Generator(),  # a loader draws from torch's own otherwise: a second run would go another way
        )
        progress = tqdm(total=windows, desc="encoding", unit="window", disable=True if rank else None)
        with progress:
            for number, loaded in zip(missing, loader, strict=True):
                if isinstance(loaded, UserError):
                    raise loaded
                decoded, bad = loaded
                for file in bad:
                    print(f"left out: {printable(file.name)}: {file.reason}", file=sys.stderr)
                self._write_block(number, decoded, batch_size, progress)

    def _write_block(self, number: int, decoded: LabelledWindows, batch_size: int, progress: tqdm) -> None:
        decoded = with_still(decoded, share=self.still_share, first=0)
        kept = ("latents", "forecasts") if self.forecaster else ("latents",)
        shape = (len(decoded.names), *self._latent_shape)
        tensors = {name: torch.empty(shape, dtype=torch.float16) for name in kept}
        for start in range(0, len(decoded.names), batch_size):
            part = slice(start, start + batch_size)
            windows = LabelledWindows(decoded.frames[part], decoded.actions[part], decoded.names[part])
            batch = encode_windows(self.tokenizer, windows, self.forecaster)
            for name, tensor in tensors.items():
                tensor[part] = getattr(batch, name)
            progress.update(len(batch.names))
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            names = ", ".join(sorted({printable(name) for name in decoded.names}))
            raise BadData(f"the tokenizer's latents are too large or not finite; the clips are {names}")
        with durable_file(self.path(number)) as temporary:
            tensors["actions"] = decoded.actions
            save_file(tensors, temporary, {"names": json.dumps(decoded.names)})

    @property
    def _latent_shape(self) -> tuple[int, int, int, int]:
        config, factor = self.config, self.tokenizer.space_factor
        latents = 1 + (config.frames - 1) // TIME_FACTOR
        return self.tokenizer.z_dim, latents, config.height // factor, config.width // factor

    @cached_property
    def _ends(self) -> np.ndarray:
        """(blocks,): how many windows there are up to the end of each block."""
        absent = sum(not self.path(number).exists() for number in range(len(self.blocks)))
        if absent:
            raise UserError(
                f"{absent} of {len(self.blocks)} blocks of {self.folder} are not encoded yet",
                hint="Run the same command again to go on.",
            )
        sizes = []
        for number in range(len(self.blocks)):
            with self._reading(number) as file:
                sizes.append(file.get_slice("actions").get_shape()[0])
        if not sum(sizes):
            raise BadData(f"{self.folder} holds no window: none of its clips could be read")
        return np.cumsum(sizes)

    @property
    def windows(self) -> int:
        """How many windows an epoch has. UserError while blocks are missing, BadData when one is damaged."""
        return int(self._ends[-1])

    def batches(self, position: DataPosition, *, seed: int) -> Iterator[LatentBatch]:
        """Endless batches from `position` on, on the CPU; an epoch may end in mid-batch. Errors as `windows`."""
        for numbers in row_batches(position, count=self.windows, seed=seed):
            parts, names = zip(*map(self._window, numbers), strict=True)
            stacked = {name: torch.stack([part[name] for part in parts]).float() for name in parts[0]}
            yield LatentBatch(names=names, **stacked)

    def _window(self, number: int) -> tuple[dict[str, torch.Tensor], str]:
        block = int(np.searchsorted(self._ends, number, side="right"))
        row = number - int(self._ends[block])  # from the block's end, so negative
        with self._reading(block) as file:
            names = json.loads(file.metadata()["names"])
            row += len(names)
            return {name: file.get_slice(name)[row] for name in file.keys()}, names[row]  # noqa: SIM118

    def _reading(self, block: int) -> Any:
        try:
            return safe_open(self.path(block), framework="pt")
        except (OSError, SafetensorError) as error:
            raise BadData(f"{self.path(block)} is damaged: {error}", hint="Delete it and run again.") from error


class _Blocks(Dataset):
    """Windows of each of these runs of segments, with what could not be read."""

    def __init__(self, segments: Segments, runs: Sequence[range]) -> None:
        self.segments, self.runs = segments, runs

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> tuple[LabelledWindows, tuple[BadFile, ...]] | UserError:
        try:
            labels = self.segments.labels
            assert labels, "a cache has labels"
            block = _decode(self.segments, self.runs[number])
            return labelled_block(block, labels), block.bad
        except UserError as error:  # raised anew in the main process; torch would wrap it in a traceback
            return error


def _decode(segments: Segments, run: range) -> WindowBlock:
    """The windows of these segments that are kept, in order. A segment that fails anywhere gives none."""
    block, filled, bad = WindowBlock.empty(_count(segments, run), segments.config), 0, []
    share = segments.config.windows_per_frame
    for segment in run:
        clip, before = int(segments.table["clip"][segment]), filled
        try:
            for number, window in enumerate(segments.windows(segment)):
                if math.ceil((number + 1) * share) > math.ceil(number * share):
                    block.put(filled, window, clip)
                    filled += 1
        except UnreadableVideo as error:
            bad.append(BadFile(segments.clips[clip].name, error.reason))
            filled = before
    block.cut_back(filled)
    block.name_clips(segments.clips)
    block.bad = tuple(dict.fromkeys(bad))
    return block


def _count(segments: Segments, run: range) -> int:
    """How many windows of these segments are kept, if all can be read."""
    return int(np.ceil(segments.starts[run.start : run.stop] * segments.config.windows_per_frame).sum())


def weights_checksum(tokenizer: Tokenizer) -> str:
    """CRC-32 of a tokenizer's weights and statistics, wherever it was loaded from."""
    checksum = 0
    for name, tensor in sorted(tokenizer.state_dict().items()):
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        checksum = zlib.crc32(content, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def _clips_checksum(clips: Sequence[Clip]) -> str:
    """Of names, sizes in bytes and frame counts."""
    lines = []
    for clip in clips:
        paths = numbered_images(clip.path) if clip.path.is_dir() else [clip.path]
        lines.append(json.dumps([clip.name, clip.info.frames, sum(path.stat().st_size for path in paths)]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
