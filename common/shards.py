"""Shards: every frame of a folder once, as a JPEG of training size, so that pairs cost two small reads.

A shard folder holds `shard-00000.bin`, ... (JPEGs end to end) and `index.safetensors`: for each frame its shard,
offset, length, time, clip and scene, and in the metadata, as JSON, the frame size and the clips. The index is written
last and appears under its name only when whole, so a folder that has one is complete. common/shard_pairs.py reads them.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from safetensors.numpy import save_file
from tqdm import tqdm

from common.errors import BadData, UserError
from common.folders import BadFile, Clip, printable
from common.frame_rate import FrameRate
from common.motion import CutDetector
from common.video import UnreadableVideo

FORMAT = 1
INDEX_NAME = "index.safetensors"
JOURNAL_NAME = "journal.jsonl"  # only while the folder is being written: the settings, then a line per finished clip
ROWS_NAME = "rows.bin"  # only while the folder is being written: the index so far
SUBSAMPLING = "420"
SHARD_BYTES = 256 * 2**20  # a shard is closed at the end of the clip that takes it beyond this
ROW = np.dtype(
    [("shard", "<u4"), ("length", "<u4"), ("offset", "<u8"), ("seconds", "<f8"), ("clip", "<u4"), ("scene", "<u4")]
)


@dataclass(frozen=True)
class ShardReport:
    """What lies in the folder after `write_shards`, including what an earlier, unfinished run had written."""

    clips: int
    frames: int
    bytes: int
    bad: tuple[BadFile, ...]


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.bin"


def is_shard_folder(path: Path) -> bool:
    """Whether `path` holds finished shards."""
    return (path / INDEX_NAME).is_file()


def write_shards(
    clips: Sequence[Clip],
    out: Path,
    *,
    size: tuple[int, int],
    quality: int = 90,
    fps: float | None = None,
    workers: int = 1,
) -> ShardReport:
    """Write the frames of all clips into `out`; after an interruption the same call goes on with the next clip.

    size: (height, width). fps: keep the frames nearest to this rate only (None: every frame). workers: processes, each
    with a clip of its own. A clip that fails anywhere is left out and reported. Raises BadData when none can be read,
    UserError for settings that make no sense and when `out` holds shards already, finished or of other settings.
    """
    if min(size) < 1 or not 1 <= quality <= 100 or workers < 1:
        raise UserError(f"impossible settings: size {size}, JPEG quality {quality}, {workers} workers")
    if fps is not None and not 0 < fps < math.inf:
        raise UserError(f"fps must be above 0, not {fps}")
    if is_shard_folder(out):
        raise UserError(f"{out} already holds shards", hint="Choose another folder, or delete this one first.")
    settings = {"format": FORMAT, "height": size[0], "width": size[1], "quality": quality, "fps": fps}
    settings["clips"] = [[clip.name, clip.info.frames] for clip in clips]
    out.mkdir(parents=True, exist_ok=True)
    journal = _Journal(out, settings)
    todo = range(len(journal.entries), len(clips))
    encode = partial(_encode_clip, out=out, size=size, quality=quality, fps=fps)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers > 1 else None
    try:
        results = (pool.map if pool else map)(encode, todo, [clips[number] for number in todo])
        progress = tqdm(results, total=len(todo), desc="writing shards", unit="clip", disable=None)
        for number, result in zip(todo, progress, strict=True):
            journal.append(number, result)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return _write_index(journal, clips, settings)


def _part_path(out: Path, number: int) -> Path:
    return out / f"clip-{number:07d}.part"


def _encode_clip(
    number: int, clip: Clip, *, out: Path, size: tuple[int, int], quality: int, fps: float | None
) -> np.ndarray | str:
    """Write the clip's JPEGs into a file of its own; returns its rows, or why it cannot be used."""
    rows: list[tuple[float, ...]] = []
    cuts, scene = CutDetector(), 0
    offset, rate = 0, FrameRate(clip.info, fps)
    with open(_part_path(out, number), "wb") as file:
        try:
            for seconds, image in clip.decode(size=size):
                scene += cuts.is_cut(image)  # looks at every frame, whatever the rate
                if not rate.takes(seconds):
                    continue
                jpeg = simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling=SUBSAMPLING)
                file.write(jpeg)
                rows.append((0, len(jpeg), offset, seconds, number, scene))
                offset += len(jpeg)
        except UnreadableVideo as error:
            return error.reason
    return np.array(rows, dtype=ROW)


class _Journal:
    """What is written so far, on disk and in step with the shards: an interrupted run loses only the clip at hand."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        """Begin a folder, or go back to the end of its last finished clip."""
        self.out = out
        self.path, self.rows_path = out / JOURNAL_NAME, out / ROWS_NAME
        first_line = json.dumps({"settings": settings}) + "\n"
        if not self.path.exists():
            if any(out.iterdir()):
                raise UserError(f"{out} holds other files", hint="Give a new folder for the shards.")
            _append(self.path, first_line.encode())
        # A line without its end was being written when the run stopped: its clip is done again.
        lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if lines[:1] != [first_line]:
            hint = "Delete it, or give a new folder for the shards."
            raise UserError(f"{out} holds unfinished shards of other clips or other settings", hint=hint)
        self.entries = [json.loads(line) for line in lines[1:]]
        self.rows, self.shard, self.end = 0, 0, 0
        if self.entries:
            self.rows, self.shard, self.end = (self.entries[-1][key] for key in ("rows", "shard", "end"))
        for leftover in [*out.glob("clip-*.part"), *out.glob("shard-*.bin")]:
            if leftover.suffix == ".part" or leftover > shard_path(out, self.shard):
                leftover.unlink()
        _cut(self.path, sum(len(line) for line in lines))
        _cut(self.rows_path, self.rows * ROW.itemsize)
        _cut(shard_path(out, self.shard), self.end)

    def append(self, number: int, result: np.ndarray | str) -> None:
        """Take over the file and the rows that `_encode_clip` made of clip `number`."""
        part = _part_path(self.out, number)
        if not isinstance(result, str):
            if self.end >= SHARD_BYTES:
                self.shard, self.end = self.shard + 1, 0
            result["shard"] = self.shard
            result["offset"] += self.end
            self.end = _append(shard_path(self.out, self.shard), part)
            self.rows = _append(self.rows_path, result.tobytes()) // ROW.itemsize
        part.unlink()
        bad = result if isinstance(result, str) else None
        entry = {"rows": self.rows, "shard": self.shard, "end": self.end, "bad": bad}
        _append(self.path, json.dumps(entry).encode() + b"\n")
        self.entries.append(entry)


def _append(path: Path, content: bytes | Path) -> int:
    """Add bytes, or those of a file, to the end of a file and see them on disk; returns its length."""
    with open(path, "ab") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            with open(content, "rb") as source:
                shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _cut(path: Path, length: int) -> None:
    with open(path, "ab") as file:
        file.truncate(length)


def _write_index(journal: _Journal, clips: Sequence[Clip], settings: dict[str, Any]) -> ShardReport:
    """Turn the journal into the index, which makes the folder complete."""
    out = journal.out
    bad = tuple(BadFile(c.name, e["bad"]) for c, e in zip(clips, journal.entries, strict=True) if e["bad"] is not None)
    if not journal.rows:
        reasons = "".join(f"\n  {printable(file.name)}: {file.reason}" for file in bad[:20])
        hint = "`understudy data scan` explains a folder."
        raise BadData(f"none of {len(clips)} clips can be read{reasons}", hint=hint)
    rows = np.fromfile(journal.rows_path, dtype=ROW)
    firsts = np.searchsorted(rows["clip"], np.arange(len(clips) + 1)).tolist()
    most = settings["fps"] or math.inf
    table = [
        {"name": clip.name, "first": first, "frames": end - first, "fps": min(clip.info.fps, most)}
        for clip, first, end in zip(clips, firsts, firsts[1:], strict=False)
        if end > first
    ]
    shard_bytes = [shard_path(out, number).stat().st_size for number in range(journal.shard + 1)]
    metadata = json.dumps({**settings, "clips": table, "shard_bytes": shard_bytes})
    part = out / f"{INDEX_NAME}.part"
    save_file({name: rows[name].copy() for name in ROW.names or ()}, part, {"understudy": metadata})
    _append(part, b"")
    os.replace(part, out / INDEX_NAME)
    journal.path.unlink()
    journal.rows_path.unlink()
    return ShardReport(clips=len(table), frames=len(rows), bytes=sum(shard_bytes), bad=bad)
