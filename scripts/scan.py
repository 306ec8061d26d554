"""`understudy data scan`: what is in a folder of video, before anyone trains on it.

Every file is listed with what its packets say. Cuts, standing pictures and camera motion need decoding and are measured
on a sample of each file. Both are kept in the folder's index, so the second scan takes no time.
"""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from common.folders import Clip, FolderIndex, VideoFolder, open_folder, printable
from common.motion import STATIC_DIFFERENCE, CutDetector, camera_shift, difference, thumbnail
from common.video import UnreadableVideo

PIECE_SECONDS = 5.0  # a file longer than the sample is looked at in pieces of this length, evenly spread
SHIFT_GAP = 0.1  # seconds between the two pictures that camera motion is measured on
ROWS_SHOWN = 40
NAME_SHOWN = 40  # letters of a file's path in the table: its end
FILES_AT_ONCE = 4  # threads; decoding runs outside Python's lock
# Median speed of the picture as a whole, in picture widths per second, up to which a word applies.
CAMERA_WORDS = ((0.03, "still"), (0.15, "calm"), (0.5, "moving"), (float("inf"), "fast"))


@dataclass(frozen=True)
class PictureStatistics:
    """What the pictures of one file look like, measured on `seconds` of it."""

    sample_seconds: float  # asked for
    seconds: float  # looked at
    cuts: tuple[float, ...]  # times of the first frame after each hard cut
    static_share: float  # of all pairs of neighbouring frames, those that are near-identical
    camera_speed: float  # median, picture widths per second
    problem: str = ""  # why decoding stopped, if it did


@dataclass(frozen=True)
class ClipReport:
    name: str
    seconds: float
    width: int
    height: int
    fps: float
    variable_rate: bool
    codec: str
    frames: int
    longest_gop: int
    rotation: int
    warnings: tuple[str, ...]
    pictures: PictureStatistics


@dataclass(frozen=True)
class ScanReport:
    folder: str
    clips: tuple[ClipReport, ...]
    unreadable: dict[str, str]  # name -> reason
    ignored: int

    @property
    def seconds(self) -> float:
        return sum(clip.seconds for clip in self.clips)


def scan(
    folder: Path, *, json_path: Path | None = None, sample_seconds: float = 20.0, refresh: bool = False
) -> ScanReport:
    """Look at every video below `folder`, print a table, and write all of it to `json_path` if given.

    sample_seconds: how much of each file is decoded for the picture statistics. refresh: forget what is in the index.
    Raises BadData (exit code 4) when nothing is readable, ValueError unless sample_seconds > 0.
    """
    if not sample_seconds > 0:
        raise ValueError(f"sample_seconds must be above 0, got {sample_seconds}")
    found = open_folder(folder, refresh=refresh)
    report = ScanReport(
        folder=printable(str(folder)),
        clips=tuple(
            _clip_report(clip, pictures)
            for clip, pictures in zip(found.clips, _all_pictures(found, sample_seconds=sample_seconds), strict=True)
        ),
        unreadable={printable(file.name): file.reason for file in found.bad},
        ignored=found.ignored,
    )
    if json_path is not None:
        json_path.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    print_report(report)
    return report


def look_at(clip: Clip, *, sample_seconds: float) -> PictureStatistics:
    """Decode a sample of one clip and measure its pictures."""
    cuts: list[float] = []
    differences: list[float] = []
    speeds: list[float] = []
    frames = 0
    problem = ""
    try:
        pieces = sample_pieces(clip, sample_seconds=sample_seconds)
        counted = clip.info.frames if clip.info.duration_seconds <= sample_seconds else 0
        for start, stop in pieces:
            detector = CutDetector()
            previous = anchor = None
            for frame in clip.decode(size=(72, 96), start=start, stop=stop, frames=counted):
                frames += 1
                thumb = thumbnail(frame.image)
                if detector.is_cut_thumbnail(thumb):
                    cuts.append(frame.seconds)
                    previous = anchor = None
                if previous is not None:
                    differences.append(difference(previous, thumb))
                if anchor is None or frame.seconds - anchor[0] >= SHIFT_GAP - 1e-3:
                    if anchor is not None:
                        right, down = camera_shift(anchor[1], thumb)
                        down_in_widths = down * clip.info.height / clip.info.width
                        speeds.append(float(np.hypot(right, down_in_widths)) / (frame.seconds - anchor[0]))
                    anchor = frame.seconds, thumb
                previous = thumb
    except UnreadableVideo as error:
        problem = error.reason
    return PictureStatistics(
        sample_seconds=sample_seconds,
        seconds=min(clip.info.duration_seconds, frames / clip.info.fps),
        cuts=tuple(cuts),
        static_share=float(np.mean(np.array(differences) < STATIC_DIFFERENCE)) if differences else 0.0,
        camera_speed=float(np.median(speeds)) if speeds else 0.0,
        problem=problem,
    )


def sample_pieces(clip: Clip, *, sample_seconds: float) -> list[tuple[float, float]]:
    """(start, stop) in seconds: the whole clip if it is short, else pieces that begin at evenly spread key frames."""
    info = clip.info
    end = info.start_seconds + info.duration_seconds
    if info.duration_seconds <= sample_seconds:
        return [(info.start_seconds, end)]
    key_times = np.array([keyframe.seconds for keyframe in info.keyframes])
    count = max(1, round(sample_seconds / PIECE_SECONDS))
    wanted = info.start_seconds + np.arange(count) * info.duration_seconds / count
    starts = sorted({float(key_times[key_times <= time + 1e-6][-1]) for time in wanted})
    length = sample_seconds / len(starts)
    stops = [*starts[1:], end]
    return [(start, min(start + length, stop)) for start, stop in zip(starts, stops, strict=True)]


def _all_pictures(found: VideoFolder, *, sample_seconds: float) -> list[PictureStatistics]:
    """Of every clip, in order; from the index where it has them for this length of sample."""
    index = FolderIndex.load(found.root)
    known = {clip.name: _from_index(index.statistics(clip.name), sample_seconds) for clip in found.clips}
    wanted = [clip for clip in found.clips if known[clip.name] is None]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        results = pool.map(partial(look_at, sample_seconds=sample_seconds), wanted)
        progress = tqdm(results, total=len(wanted), desc="looking at pictures", unit="file", disable=None, leave=False)
        for clip, pictures in zip(wanted, progress, strict=True):
            known[clip.name] = pictures
            index.store_statistics(clip.name, asdict(pictures))
    index.save(keep={clip.name for clip in found.clips})
    return [pictures for clip in found.clips if (pictures := known[clip.name]) is not None]


def _from_index(stored: dict[str, Any] | None, sample_seconds: float) -> PictureStatistics | None:
    try:
        if stored is None or stored["sample_seconds"] != sample_seconds:
            return None
        return PictureStatistics(**{**stored, "cuts": tuple(map(float, stored["cuts"]))})
    except (KeyError, TypeError, ValueError):
        return None


def _clip_report(clip: Clip, pictures: PictureStatistics) -> ClipReport:
    info = clip.info
    return ClipReport(
        name=printable(clip.name),
        seconds=info.duration_seconds,
        width=info.width,
        height=info.height,
        fps=info.fps,
        variable_rate=info.variable_rate,
        codec=info.codec,
        frames=info.frames,
        longest_gop=info.longest_gop,
        rotation=info.rotation,
        warnings=info.warnings,
        pictures=pictures,
    )


def print_report(report: ScanReport, *, console: Console | None = None) -> None:
    """The table of files, the totals, then what is wrong with which file."""
    console = console or Console()
    # Made for 80 columns: only the name may be broken, and keeps at least 16 of them.
    table = Table(title=escape(report.folder), title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("file", overflow="fold", min_width=16)
    for heading in ("length", "picture", "fps", "codec", "GOP", "cuts", "static", "camera"):
        table.add_column(heading, justify="left" if heading in ("codec", "camera") else "right", no_wrap=True)
    for clip in report.clips[:ROWS_SHOWN]:
        table.add_row(*_row(clip))
    console.print(table)
    if len(report.clips) > ROWS_SHOWN:
        console.print(f"... and {len(report.clips) - ROWS_SHOWN} more files (--json FILE has all of them)")
    console.print()
    for heading, text in _totals(report):
        console.print(f"{heading:>9}  {escape(text)}", soft_wrap=True)
    notes = {clip.name: "; ".join(_notes(clip)) for clip in report.clips if _notes(clip)}
    for heading, problems in (("usable, but", notes), ("UNREADABLE", report.unreadable)):
        if problems:
            console.print(f"\n{heading} ({len(problems)}):")
            for name, reason in list(problems.items())[:ROWS_SHOWN]:
                console.print(f"  {escape(name)}: {escape(reason)}", soft_wrap=True, highlight=False)
            if len(problems) > ROWS_SHOWN:
                console.print(f"  ... and {len(problems) - ROWS_SHOWN} more (--json FILE has all of them)")


def _row(clip: ClipReport) -> tuple[str, ...]:
    pictures = clip.pictures
    return (
        escape(clip.name if len(clip.name) <= NAME_SHOWN else "…" + clip.name[1 - NAME_SHOWN :]),
        _clock(clip.seconds),
        f"{clip.width}x{clip.height}" + (f" ↻{clip.rotation}" if clip.rotation else ""),
        ("~" if clip.variable_rate else "") + f"{clip.fps:.4g}",
        clip.codec,
        str(clip.longest_gop),
        str(len(pictures.cuts)) + ("+" if pictures.seconds < 0.95 * clip.seconds else ""),
        f"{pictures.static_share:.0%}",
        _camera_word(pictures.camera_speed),
    )


def _totals(report: ScanReport) -> list[tuple[str, str]]:
    clips = report.clips
    looked = sum(clip.pictures.seconds for clip in clips)
    weights = [clip.pictures.seconds for clip in clips]
    static = float(np.average([clip.pictures.static_share for clip in clips], weights=weights)) if looked else 0.0
    cuts = sum(len(clip.pictures.cuts) for clip in clips)
    words = Counter(_camera_word(clip.pictures.camera_speed) for clip in clips)
    frames = sum(clip.frames for clip in clips)
    turned, varying = sum(clip.rotation > 0 for clip in clips), sum(clip.variable_rate for clip in clips)
    return [
        ("total", f"{_clock(report.seconds)} ({report.seconds / 3600:.2f} h), {frames:,} frames"),
        ("files", f"{len(clips)} usable, {len(report.unreadable)} unreadable, {report.ignored} others not tried"),
        (
            "picture",
            _counted(f"{clip.width}x{clip.height}" for clip in clips)
            + (f"; {turned} turned (↻) as their file says" if turned else ""),
        ),
        (
            "fps",
            _counted(f"{clip.fps:.4g}" for clip in clips)
            + (f"; {varying} vary (~), that is their mean" if varying else ""),
        ),
        ("codec", _counted(clip.codec for clip in clips)),
        ("GOP", f"up to {max(clip.longest_gop for clip in clips)} frames from one key frame to the next"),
        ("looked at", f"{_clock(looked)} of it ({min(1.0, looked / report.seconds):.0%}) for the next three"),
        (
            "cuts",
            f"{cuts} hard cuts"
            + (f", {60 * cuts / looked:.2g} per minute" if cuts else "")
            + (" (+: only a part of the file was looked at)" if looked < 0.95 * report.seconds else ""),
        ),
        ("static", f"{static:.0%} of neighbouring frames are near-identical"),
        ("camera", ", ".join(f"{words[word]} {word}" for _, word in CAMERA_WORDS if words[word])),
    ]


def _notes(clip: ClipReport) -> list[str]:
    return [*clip.warnings, *([clip.pictures.problem] if clip.pictures.problem else [])]


def _camera_word(speed: float) -> str:
    return next(word for limit, word in CAMERA_WORDS if speed <= limit)


def _counted(values: Any, *, most: int = 6) -> str:
    """ "640x480 (12), 480x360 (3)", most frequent first."""
    counts = Counter(values)
    texts = [f"{value} ({count})" for value, count in counts.most_common(most)]
    return ", ".join(texts + ([f"{len(counts) - most} more kinds"] if len(counts) > most else []))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
