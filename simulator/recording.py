"""A recording: one folder, written as the session goes on, that can be trained on, watched, and made again.

    session.json         the model, the controls, the rates; what is in here once the recording is finished
    passes.jsonl         a line for each reset ("take") and for each pass: controls, frame hashes, times
    take-N.png           the picture that take N began from
    film.mp4             what was shown
    meta/ data/ videos/  the same as a LeRobot v3.0 dataset, an episode for each take (`align.lerobot`)

Lines and film are appended, the film in fragments of half a second, so that a process that is killed leaves all but
the last of it; the dataset is written at the end (`finish`). A recording that begins within a take has all of its
passes, so that it can be made again (`simulator.replay`), but only the pictures that were shown since.
"""

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from align.lerobot import RobotEpisode, write_lerobot
from common.errors import BadData
from common.video import UnreadableVideo, decode
from simulator.columns import Column
from simulator.takes import Pass, Shown, Take

VERSION = 1
SESSION, PASSES, FILM = "session.json", "passes.jsonl", "film.mp4"
DATASET = ("meta", "data", "videos")
EPISODE_BYTES = 128 * 2**20
"""Pictures of one episode of the dataset; a longer take becomes several episodes."""
FRAGMENT_SECONDS = 0.5
CRF = 12  # the dataset's video is made of it


@dataclass(frozen=True)
class Origin:
    """The model that made a film: what `replay` needs to make it again."""

    checkpoint: str
    checksum: str
    """SHA-256 over its files' names and checksums."""
    robot: str | None
    steps: int
    """From noise to a latent."""
    still_camera: bool
    machine: str
    """Device and versions: only the same make the same frames, bit for bit."""


@dataclass(frozen=True)
class Filmed:
    """A take as it stands in a recording."""

    take: Take
    shown_from: int
    """Number of the first frame that is in the film."""


@dataclass(frozen=True)
class Recording:
    """A recording that was read. `takes` may be cut off where a process was killed."""

    folder: Path
    session: dict[str, Any]
    takes: tuple[Filmed, ...]

    @property
    def finished(self) -> bool:
        return self.session["finished"]


class RecordingWriter:
    """Appends to a new folder. Not thread-safe: one thread at a time."""

    def __init__(
        self, folder: Path, *, columns: Sequence[Column], fps: float, rate: float, origin: Origin | None
    ) -> None:
        """folder: an empty one. fps: at which frames were shown; rate: at which the model makes them, the dataset's."""
        self.folder = folder
        self._session = {
            "version": VERSION,
            "origin": asdict(origin) if origin else None,
            "columns": [asdict(column) for column in columns],
            "fps": fps,
            "rate": rate,
            "finished": False,
        }
        _write_json(folder / SESSION, self._session)
        self._lines = open(folder / PASSES, "a", encoding="utf-8")  # noqa: SIM115
        self._film: FilmWriter | None = None
        self._take: Take | None = None
        self._takes = 0
        self.passes = 0
        """In the film."""

    def add(self, shown: Shown) -> None:
        """What was shown next. The first of a take brings along the take's earlier passes."""
        if shown.take is not self._take:
            self._begin(shown)
        if shown.made:
            self._line({"type": "pass", **_as_json(shown.made)})
            self.passes += 1
        if self._film is None:
            self._film = FilmWriter(self.folder / FILM, fps=self._session["fps"], size=shown.frames.shape[1:3])
        self._film.add(shown.frames)

    def close(self) -> None:
        """Nothing more comes. The folder is then as a killed process would leave it, but whole."""
        self._lines.close()
        if self._film:
            self._film.close()

    def _begin(self, shown: Shown) -> None:
        take = self._take = shown.take
        self._takes += 1
        picture = f"take-{self._takes}.png"
        Image.fromarray(take.first_frame).save(self.folder / picture)
        self._line(
            {
                "type": "take",
                "scene": take.scene,
                "name": take.name,
                "seed": take.seed,
                "picture": picture,
                "before": None if take.before is None else take.before.tolist(),
                "shown_from": shown.number,
            }
        )
        for made in list(take.passes):
            if made.first < shown.number:
                self._line({"type": "pass", **_as_json(made)})

    def _line(self, content: dict[str, Any]) -> None:
        self._lines.write(json.dumps(content, allow_nan=False) + "\n")
        self._lines.flush()


class FilmWriter:
    """An mp4 in fragments: what is there of it can be watched at any time, also if the end never comes."""

    def __init__(self, path: Path, *, fps: float, size: tuple[int, int]) -> None:
        rate = Fraction(fps).limit_denominator(1001)
        options = {"movflags": "empty_moov+frag_keyframe+default_base_moof", "flush_packets": "1"}
        self._container = av.open(os.path.abspath(path), "w", format="mp4", options=options)
        # Without look-ahead, so that a frame that was given is on disk as soon as its fragment ends.
        self._stream: Any = self._container.add_stream(
            "libx264", rate=rate, options={"crf": str(CRF), "preset": "veryfast", "tune": "zerolatency"}
        )
        self._stream.height, self._stream.width = (side + side % 2 for side in size)  # yuv420p needs even sizes
        self._stream.pix_fmt = "yuv420p"
        self._stream.gop_size = max(1, round(FRAGMENT_SECONDS * fps))
        self._stream.codec_context.thread_count = 1
        self._step, self._next = 1 / rate, 0

    def add(self, frames: np.ndarray) -> None:
        """uint8 RGB (T, H, W, 3)."""
        _, height, width, _ = frames.shape
        for image in np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge"):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = self._next, self._step
            self._container.mux(self._stream.encode(frame))
            self._next += 1

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


def read_recording(folder: Path) -> Recording:
    """BadData if it is none, or damaged other than by being cut off."""
    try:
        session = json.loads((folder / SESSION).read_text(encoding="utf-8"))
        if session["version"] != VERSION:
            raise BadData(f"{folder} is a recording of version {session['version']}, not {VERSION}")
        takes: list[Filmed] = []
        for line in _whole_lines(folder / PASSES):
            if line["type"] == "take":
                takes.append(_read_take(folder, line))
            else:
                takes[-1].take.passes.append(_read_pass(line))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadData(f"{folder} is no recording, or damaged ({error!r})") from error
    return Recording(folder, session, tuple(takes))


def finish(folder: Path) -> int:
    """Write the dataset of a recording that is whole or cut off, and note that it is finished; returns its frames.

    BadData if there are not two frames to learn from.
    """
    recording = read_recording(folder)
    for part in DATASET:
        shutil.rmtree(folder / part, ignore_errors=True)
    episodes = _episodes(recording)
    first = next(episodes, None)
    if first is None:
        raise BadData(f"{folder}: nothing was recorded")
    write_lerobot(
        folder,
        itertools.chain([first], episodes),
        fps=max(1, round(recording.session["rate"])),
        robot_type=(recording.session["origin"] or {}).get("robot") or "unknown",
        state_names=(),
        action_names=tuple(column["name"] for column in recording.session["columns"]),
        camera="observation.images.view",
    )
    frames = json.loads((folder / "meta/info.json").read_text(encoding="utf-8"))["total_frames"]
    _write_json(folder / SESSION, {**recording.session, "finished": True, "frames": frames})
    return frames


def _episodes(recording: Recording) -> Iterator[RobotEpisode]:
    """As many frames of each take as the film holds, in pieces that memory can hold."""
    film = _frames(recording.folder / FILM)
    for filmed in recording.takes:
        take, number = filmed.take, filmed.shown_from
        rows = np.concatenate([made.controls for made in take.passes]) if take.passes else np.empty((0, 0), np.float32)
        most = max(2, EPISODE_BYTES // take.first_frame.nbytes)
        while number <= len(rows):
            length = min(most, len(rows) + 1 - number)
            frames = np.empty((length, *take.first_frame.shape), np.uint8)
            height, width = take.first_frame.shape[:2]
            found = 0
            for found, frame in enumerate(itertools.islice(film, length), 1):
                frames[found - 1] = frame[:height, :width]
            if found > 1:
                # Row t leads to frame t + 1; the last frame has none, and repeats the row that led to it.
                numbers = np.minimum(number + np.arange(found), len(rows) - 1)
                yield RobotEpisode(frames[:found], np.empty((found, 0)), rows[numbers], take.name)
            if found < length:
                return
            number += found


def _frames(film: Path) -> Iterator[np.ndarray]:
    """As many as there are: the film of a process that was killed ends somewhere, or has not begun."""
    if film.exists():
        with suppress(UnreadableVideo):
            yield from (frame.image for frame in decode(film))


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; a last line that was cut off is left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _as_json(made: Pass) -> dict[str, Any]:
    return {**asdict(made), "controls": made.controls.tolist()}


def _read_pass(line: dict[str, Any]) -> Pass:
    fields = {key: value for key, value in line.items() if key != "type"}
    controls = np.array(line["controls"], np.float32)
    return Pass(**{**fields, "controls": controls, "hashes": tuple(line["hashes"])})


def _read_take(folder: Path, line: dict[str, Any]) -> Filmed:
    picture = line["picture"]
    if Path(picture).name != picture:
        raise ValueError(f"{picture!r} is no name of a picture")
    first_frame = np.asarray(Image.open(folder / picture).convert("RGB"))
    before = None if line["before"] is None else np.array(line["before"], np.float32)
    return Filmed(Take(line["scene"], line["name"], line["seed"], first_frame, before), line["shown_from"])


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole, or not at all."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)
