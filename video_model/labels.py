"""The latent actions of a folder of video, as `understudy label` wrote them.

Row t of a clip's actions is the change from labelled frame t to labelled frame t+1, [z_act | z_cam]. Which frame that
is says its presentation time, so that frames and actions are paired by time and never by counting.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from typing_extensions import Self

from common.errors import BadData, UserError
from common.folders import Clip, printable

TOLERANCE = 1e-6
"""Seconds. The times of labels and of frames come from the same clock, so only rounding may tell them apart."""
FASTER = 1.05
"""Labels of every frame fit windows up to this much below the clip's rate: 29.97 is 30, but 30 is not 24."""


@dataclass(frozen=True)
class ClipLabels:
    """The T labelled frames of one clip and the steps between them."""

    actions: np.ndarray  # float32 (T-1, A); row t describes the change from frame t to frame t+1
    seconds: np.ndarray  # float64 (T,), presentation times within the clip, increasing
    scenes: np.ndarray  # int32 (T,), counts up at each hard cut; a row across a cut describes no action

    def between(self, start: float, stop: float) -> "ClipLabels":
        """Those with start <= time < stop."""
        first, end = np.searchsorted(self.seconds, np.array([start, stop]) - TOLERANCE).tolist()
        return ClipLabels(self.actions[first : max(first, end - 1)], self.seconds[first:end], self.scenes[first:end])


class Labels:
    """The labels of one folder. A = `latent_dim` + `camera_dim`."""

    def __init__(
        self, folder: Path, *, identity: dict[str, Any], latent_dim: int, camera_dim: int, bad: dict[str, str]
    ) -> None:
        self.folder, self.identity, self.bad = folder, identity, bad
        self.latent_dim, self.camera_dim = latent_dim, camera_dim
        self._last: tuple[str, ClipLabels] | None = None  # windows of one clip are asked for one after the other

    @classmethod
    def open(cls, folder: Path) -> Self:
        """UserError if there is no such folder or it holds no finished labels; BadData if its index is damaged."""
        index = folder / "index.json"
        if not index.is_file():
            unfinished = (folder / "made-with.json").is_file()
            raise UserError(
                f"{folder} {'holds labels that were not finished' if unfinished else 'holds no labels'}",
                hint="Make them with `understudy label CHECKPOINT FOLDER --out LABELS`.",
            )
        try:
            data = json.loads(index.read_text())
            return cls(
                folder,
                identity={"weights": data["weights"], "fps": None if data["fps"] is None else float(data["fps"])},
                latent_dim=int(data["latent_dim"]),
                camera_dim=int(data["camera_dim"]),
                bad={entry["clip"]: entry["reason"] for entry in data["bad"]},
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadData(
                f"{index} is damaged: {error!r}", hint="Run `understudy label` again, with the same --out."
            ) from error

    @property
    def dim(self) -> int:
        return self.latent_dim + self.camera_dim

    @property
    def fps(self) -> float | None:
        """The rate of the labelled frames, as far as a clip's own rate allows it; None: every frame has a label."""
        return self.identity["fps"]

    def clip(self, name: str) -> ClipLabels:
        """BadData, naming the clip, if it has no labels or its file is damaged, inconsistent or not finite."""
        if self._last is None or self._last[0] != name:
            self._last = name, self._read(name)
        return self._last[1]

    def _read(self, name: str) -> ClipLabels:
        path = self._path(name)
        if not path.is_file():
            raise self._without([name])
        try:
            with safe_open(path, framework="numpy") as file:
                made_with = json.loads(file.metadata()["understudy"])
                arrays = [file.get_tensor(key) for key in ("latent_actions", "timestamps", "scenes")]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise self.misfit(name, f"its labels {path} are damaged: {error}") from error
        if made_with != self.identity:
            raise self.misfit(name, f"its labels were made with {made_with}, those of the folder with {self.identity}")
        actions, seconds, scenes = arrays
        frames = len(seconds)
        if frames < 2 or actions.shape != (frames - 1, self.dim) or not seconds.shape == scenes.shape == (frames,):
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise self.misfit(name, f"its labels do not fit each other: actions, times and scenes are {shapes}")
        if not np.isfinite(actions).all():
            raise self.misfit(name, "its labels hold numbers that are not finite")
        if not ((np.diff(seconds) > 0).all() and (np.diff(scenes) >= 0).all()):
            raise self.misfit(name, "the times or the scenes of its labels do not increase")
        return ClipLabels(actions.astype(np.float32), seconds.astype(np.float64), scenes.astype(np.int32))

    def require(self, clips: Sequence[Clip]) -> None:
        """BadData unless every clip has labels of its own: some that have none, or two clips of one name, are named."""
        repeated = [name for name, count in Counter(clip.name for clip in clips).items() if count > 1]
        if repeated:
            raise BadData(
                f"{_some(repeated)}: several data folders hold a clip of this name, so its labels may be another's",
                hint="Give the folder that holds them all as the one data folder, and label that.",
            )
        missing = [clip.name for clip in clips if not self._path(clip.name).is_file()]
        if missing:
            raise self._without(missing)

    def fitting(self, clip: Clip, *, fps: float) -> ClipLabels:
        """The clip's labels, to train at `fps` frames per second.

        BadData if they were made of a video of another rate, beginning or length. UserError if they have another rate.
        """
        labels, info = self.clip(clip.name), clip.info
        if self.fps is not None and self.fps != fps:
            raise UserError(
                f"the labels in {self.folder} are at {self.fps:g} frames per second, the windows at {fps:g}",
                hint=f"Train at {self.fps:g} frames per second, or label with --fps {fps:g}.",
            )
        if self.fps is None and info.fps > FASTER * fps:
            raise BadData(
                f"{printable(clip.name)} has a label for every frame, {info.fps:g} per second; windows are at {fps:g}",
                hint=f"Label with --fps {fps:g}, or train at {info.fps:g} frames per second.",
            )
        end, last = info.start_seconds + info.duration_seconds, labels.seconds[-1]
        longest_rest = (0 if self.fps is None else 1 / self.fps) + 1.5 / info.fps
        if self.fps is None and len(labels.seconds) != info.frames:
            raise self.misfit(clip.name, f"it has {len(labels.seconds)} labelled frames, the clip has {info.frames}")
        if abs(labels.seconds[0] - info.start_seconds) > TOLERANCE or not 0 < end - last < longest_rest:
            raise self.misfit(
                clip.name,
                f"its labels go from {labels.seconds[0]:.3f} s to {last:.3f} s, "
                f"the clip from {info.start_seconds:.3f} s to {end:.3f} s",
            )
        return labels

    def actions(self, name: str, seconds: np.ndarray) -> np.ndarray:
        """The actions (T-1, A) between the frames of a clip at these times (T,).

        BadData unless they are labelled frames, one after the other, of one scene.
        """
        labels = self.clip(name)
        first = int(np.searchsorted(labels.seconds, seconds[0] - TOLERANCE))
        own = slice(first, first + len(seconds))
        there = labels.seconds[own]
        if len(there) != len(seconds) or (np.abs(there - seconds) > TOLERANCE).any():
            where = f"from {seconds[0]:.3f} s to {seconds[-1]:.3f} s"
            raise self.misfit(name, f"its {len(seconds)} frames {where} are not labelled frames in a row")
        if labels.scenes[own][0] != labels.scenes[own][-1]:
            raise self.misfit(name, f"a cut lies between {seconds[0]:.3f} s and {seconds[-1]:.3f} s")
        return labels.actions[first : first + len(seconds) - 1]

    def rms(self, names: Sequence[str]) -> np.ndarray:
        """float32 (A,): root mean square of each value over the steps within scenes of these clips.

        1 where it would be 0, so that one can divide by it.
        """
        squares, count = np.zeros(self.dim), 0
        for name in names:
            labels = self.clip(name)
            rows = labels.actions[np.diff(labels.scenes) == 0].astype(np.float64)
            squares, count = squares + np.square(rows).sum(0), count + len(rows)
        root = np.sqrt(squares / max(count, 1))
        return np.where(root > 0, root, 1.0).astype(np.float32)

    def misfit(self, name: str, why: str) -> BadData:
        """What to raise when this clip's labels cannot be those of its frames."""
        return BadData(
            f"{printable(name)}: {why}",
            hint=f"Delete {self._path(name)} and run `understudy label` again, with the same --out.",
        )

    def _without(self, names: Sequence[str]) -> BadData:
        refused = [name for name in names if name in self.bad]
        if refused:
            reasons = "; ".join(f"{printable(name)}: {self.bad[name]}" for name in refused[:5])
            return BadData(
                f"{len(refused)} clips could not be labelled: {reasons}", hint="Repair or remove these files."
            )
        return BadData(
            f"{len(names)} clips have no labels in {self.folder}: {_some(names)}",
            hint="Run `understudy label` on their folder again, with the same --out: it labels what is missing.",
        )

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _some(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
