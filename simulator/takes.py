"""What happened since a reset: where a film began, and each pass of the model since, with hashes of what it showed.

The same model makes the same film of it again (`simulator.replay`), so a take is all that a recording must know.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Scene:
    """Something to begin from."""

    id: str
    """A short identifier, never a path."""
    name: str
    """For people."""
    first_frame: np.ndarray
    """uint8 RGB (H, W, 3), of the model's size."""
    before: np.ndarray | None
    """(A,) controls in force at that frame; None for a plain generator."""
    rows: np.ndarray | None
    """(T, A) recorded controls that follow, or None."""


@dataclass(frozen=True)
class Pass:
    """One pass of the model: four frames, and the rows of controls that led to them."""

    first: int
    """Number of its first frame; that of the reset is 0."""
    controls: np.ndarray
    """float32 (4, A), as they were used."""
    hashes: tuple[str, ...]
    """Of each frame (`frame_hash`)."""
    source: str
    """Where the controls came from."""
    seq: int | None
    """Of the control message that was used, if it was one."""
    ts: float | None
    at: float
    """When it began, in milliseconds of the server's unix time."""


@dataclass(frozen=True)
class Take:
    """From one reset to the next. `passes` grows while the take lasts; nothing else ever changes."""

    scene: str
    name: str
    seed: int
    first_frame: np.ndarray
    """As the scene gives it; the film may show it as the tokenizer does."""
    before: np.ndarray | None
    passes: list[Pass] = field(default_factory=list)


@dataclass(frozen=True)
class Shown:
    """Frames (T, H, W, 3) of a take, from frame `number` on, and the pass that made them; none made the first."""

    take: Take
    number: int
    frames: np.ndarray
    made: Pass | None

    @property
    def end(self) -> int:
        """Number of the last of the frames."""
        return self.number + len(self.frames) - 1


def frame_hash(frame: np.ndarray) -> str:
    """SHA-256 of a frame's bytes, in hexadecimal: equal for equal frames and, in practice, for no others."""
    return hashlib.sha256(frame.tobytes()).hexdigest()
