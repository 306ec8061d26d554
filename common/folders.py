"""A folder of video: which clips it holds, which files cannot be used and why, and the split for validation.

What `probe` finds is kept in one small index (JSON, no code in it) beside the clips, so that a folder opens at once the
second time. An entry counts as long as the file's size and modification time are the same; files that could not be read
are tried again every time, since a permission or a missing codec is mended without touching the file.
"""

import hashlib
import json
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from common.errors import BadData, UserError
from common.video import Frame, Keyframe, UnreadableVideo, VideoInfo, decode, numbered_images, probe

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".3gp"}
)
_KNOWN = ", ".join(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))
INDEX_NAME = ".understudy-index.json"
INDEX_VERSION = 1
PROBES_AT_ONCE = 4  # threads; probing waits for the disk more than it computes


@dataclass(frozen=True)
class Clip:
    """One usable video. `name` is its posix path below `root` ("." when the root itself is a series of images)."""

    root: Path
    name: str
    info: VideoInfo

    @property
    def path(self) -> Path:
        return self.root / self.name

    def decode(
        self, *, size: tuple[int, int], start: float | None = None, stop: float | None = None, frames: int | None = None
    ) -> Iterator[Frame]:
        """As `common.video.decode`, but also raises UnreadableVideo, after the good frames, when some are missing.

        frames: how many the index counts between start and stop; by default all of the clip. A decoder may pass over
        damaged packets without a word, so that counting is the only way to know.
        """
        expected = self.info.frames if frames is None else frames
        count = 0
        for frame in decode(self.path, size=size, start=start, stop=stop):
            count += 1
            yield frame
        if count < expected:
            raise UnreadableVideo(f"damaged: only {count} of {expected} frames could be decoded")


@dataclass(frozen=True)
class BadFile:
    name: str
    reason: str


@dataclass(frozen=True)
class VideoFolder:
    root: Path
    clips: tuple[Clip, ...]  # sorted by name
    bad: tuple[BadFile, ...]  # sorted by name
    ignored: int = 0  # other files, which were not tried


def open_folder(root: str | os.PathLike[str], *, refresh: bool = False) -> VideoFolder:
    """Every video below `root`: files with a known suffix, and folders of numbered images.

    Links are followed, each folder is read once (one that leads back up is reported). Hidden files are passed over.
    Pipes, sockets and devices are never opened. refresh: probe all files anew. Names that are not UTF-8 carry surrogate
    escapes, as everywhere in Python: encode them with `os.fsencode`, show them with `printable`.
    Raises UserError when there is no such folder, BadData when nothing in it is readable, with the reasons.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is no folder", hint="Give the folder that holds the video files.")
    found = _walk(root)
    index = FolderIndex.load(root)
    infos = {} if refresh else {name: index.info(name, found.videos[name]) for name in found.videos}
    wanted = [name for name in sorted(found.videos) if infos.get(name) is None]
    bad = list(found.bad)
    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        results = pool.map(_probe_or_reason, [root / name for name in wanted])
        progress = tqdm(results, total=len(wanted), desc="reading videos", unit="file", disable=None, leave=False)
        for name, result in zip(wanted, progress, strict=True):
            if isinstance(result, VideoInfo):
                infos[name] = result
                index.store(name, found.videos[name], result)
            else:
                bad.append(BadFile(name, result))
    index.save(keep=found.videos.keys())
    clips = tuple(Clip(root, name, info) for name, info in sorted(infos.items()) if info is not None)
    bad.sort(key=lambda file: file.name)
    if not clips:
        raise BadData(
            _nothing_readable(root, bad, found.ignored), hint=f"Known are {_KNOWN}, and folders of numbered images."
        )
    return VideoFolder(root, clips, tuple(bad), found.ignored)


class Named(Protocol):
    """A clip in a file of its own or in shards."""

    @property
    def name(self) -> str: ...


AnyClip = TypeVar("AnyClip", bound=Named)


def split_by_file(
    clips: Sequence[AnyClip], *, validation_share: float, seed: int
) -> tuple[list[AnyClip], list[AnyClip]]:
    """(training, validation) clips, whole files on one side, each in the given order.

    The side is a hash of (seed, name), so adding files moves no other file, except that with two clips or more each
    side gets at least one. Raises ValueError unless 0 < validation_share < 1.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share must lie between 0 and 1, got {validation_share}")

    def place(clip: AnyClip) -> float:
        digest = hashlib.sha256(f"{seed}/".encode() + os.fsencode(clip.name)).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    if len(clips) < 2:
        return list(clips), []
    validation = {clip.name for clip in clips if place(clip) < validation_share}
    validation |= {min(clips, key=place).name}
    validation -= {max(clips, key=place).name}
    return [clip for clip in clips if clip.name not in validation], [clip for clip in clips if clip.name in validation]


def printable(name: str) -> str:
    """A file name that any terminal and any encoder accepts: bytes that are not UTF-8 are shown as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Stamp:
    """What tells whether a file has changed since it was probed."""

    size: int
    mtime_ns: int


@dataclass
class FolderIndex:
    """The index of one folder: for each clip its stamp, its VideoInfo and, once scanned, its picture statistics.

    It is only a cache: one that is damaged or of another version is built again, one that cannot be written is not.
    Two processes may use it at once, since it is replaced as a whole; the later one wins.
    """

    root: Path
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def load(cls, root: Path) -> "FolderIndex":
        index = cls(root)
        for path in (root / INDEX_NAME, _cache_path(root)):
            try:
                content = json.loads(path.read_text(encoding="ascii"))
                if content["version"] == INDEX_VERSION:
                    index.entries.update(content["files"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
        return index

    def info(self, name: str, stamp: Stamp) -> VideoInfo | None:
        """What is known of a file, or None when it is new, changed, or its entry makes no sense."""
        try:
            entry = self.entries[name]
            return _info_from_json(entry["info"]) if entry["stamp"] == asdict(stamp) else None
        except (KeyError, TypeError, ValueError):
            return None

    def store(self, name: str, stamp: Stamp, info: VideoInfo) -> None:
        self.entries[name] = {"stamp": asdict(stamp), "info": _info_to_json(info)}
        self.changed = True

    def statistics(self, name: str) -> dict[str, Any] | None:
        """What `store_statistics` kept for a file that has not changed since (as `open_folder` made sure)."""
        entry = self.entries.get(name)
        return entry.get("statistics") if isinstance(entry, dict) else None

    def store_statistics(self, name: str, statistics: dict[str, Any]) -> None:
        self.entries[name]["statistics"] = statistics
        self.changed = True

    def save(self, *, keep: Any) -> None:
        """Write the entries of the names in `keep`, if any is new or gone."""
        kept = {name: entry for name, entry in self.entries.items() if name in keep}
        if not self.changed and len(kept) == len(self.entries):
            return
        text = json.dumps({"version": INDEX_VERSION, "files": kept}, separators=(",", ":"))
        # Mode bits, not os.access: to the administrator every folder seems writable, also one set read-only on purpose.
        here = [self.root / INDEX_NAME] if self.root.stat().st_mode & 0o222 else []
        for path in [*here, _cache_path(self.root)]:
            temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(text, encoding="ascii")
                os.replace(temporary, path)
                return
            except OSError as error:
                problem = error
                if temporary.exists():
                    temporary.unlink()
        warnings.warn(f"the index of {printable(str(self.root))} cannot be stored ({problem})", stacklevel=3)


@dataclass
class _Found:
    videos: dict[str, Stamp] = field(default_factory=dict)
    bad: list[BadFile] = field(default_factory=list)
    ignored: int = 0


def _walk(root: Path) -> _Found:
    """All files and image series below root. Links to folders come last, so a folder is found by its own name first."""
    found = _Found()
    seen: set[tuple[int, int]] = set()
    folders, linked_folders = [root], []
    while folders or linked_folders:
        folder = folders.pop() if folders else linked_folders.pop(0)
        name = folder.relative_to(root).as_posix()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                found.bad.append(BadFile(name, "a link to a folder that is read already (a loop?)"))
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            series = {path.name for path in numbered_images(folder)}
            if series:
                found.videos[name] = _series_stamp(folder, series)
            elif folder != root and folder.suffix.lower() in VIDEO_SUFFIXES:
                found.bad.append(BadFile(name, "a folder, not a video"))
        except UnreadableVideo as error:
            series = set()
            found.bad.append(BadFile(name, error.reason))
        except OSError as error:
            found.bad.append(BadFile(name, f"this folder cannot be read ({error.strerror})"))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (linked_folders if entry.is_symlink() else folders).append(Path(entry.path))
            elif Path(entry.name).suffix.lower() in VIDEO_SUFFIXES or _leads_nowhere(entry):
                _take_file(found, entry, Path(entry.path).relative_to(root).as_posix())
            elif entry.name not in series:
                found.ignored += 1
    return found


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """A link without an end, whatever its name: it may have been a folder of videos."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a closed folder: _take_file says so if it is named like a video
        return False


def _take_file(found: _Found, entry: os.DirEntry[str], name: str) -> None:
    try:
        status = entry.stat()
    except OSError as error:
        found.bad.append(BadFile(name, f"cannot be found ({error.strerror}; a link that leads nowhere?)"))
        return
    if stat.S_ISREG(status.st_mode):
        found.videos[name] = Stamp(status.st_size, status.st_mtime_ns)
    else:
        found.bad.append(BadFile(name, "not a file (a pipe, socket or device)"))


def _series_stamp(folder: Path, series: set[str]) -> Stamp:
    names = series | ({"fps.txt"} if (folder / "fps.txt").exists() else set())
    statuses = [(folder / name).stat() for name in names]
    return Stamp(sum(status.st_size for status in statuses), max(status.st_mtime_ns for status in statuses))


def _probe_or_reason(path: Path) -> VideoInfo | str:
    try:
        return probe(path)
    except UnreadableVideo as error:
        return error.reason


def _nothing_readable(root: Path, bad: list[BadFile], ignored: int) -> str:
    shown = [f"\n  {printable(file.name)}: {file.reason}" for file in bad[:20]]
    more = [f"\n  and {len(bad) - 20} more"] if len(bad) > 20 else []
    tried = f"{len(bad)} tried" if bad else f"no video file among {ignored} files"
    return "".join([f"no readable video in {printable(str(root))} ({tried})", *shown, *more])


def _cache_path(root: Path) -> Path:
    """Where the index goes when the folder itself is read-only."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return cache / "understudy" / "index" / f"{key}.json"


def _info_to_json(info: VideoInfo) -> dict[str, Any]:
    return {**asdict(info), "keyframes": [[keyframe.frame, keyframe.seconds] for keyframe in info.keyframes]}


def _info_from_json(content: dict[str, Any]) -> VideoInfo:
    keyframes = tuple(Keyframe(int(frame), float(seconds)) for frame, seconds in content["keyframes"])
    return VideoInfo(**{**content, "keyframes": keyframes, "warnings": tuple(map(str, content["warnings"]))})
