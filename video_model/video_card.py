"""What is measured of a video model, as plain values, and the limits that it must not miss."""

import json
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from common.intervals import Interval

PROTOCOL = "video-1"
ZERO_MOTION = 0.1  # at most
RELATIONS = {"≥": operator.ge, ">": operator.gt, "≤": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Curve:
    """A number of each frame, frame 1 to T, averaged over clips."""

    mean: Interval
    """Over the frames too."""
    frames: tuple[Interval, ...]


@dataclass(frozen=True)
class Fidelity:
    """How near films of one kind are to the truth."""

    psnr: Curve
    """dB."""
    ssim: Curve
    lpips: Curve | None
    """None unless its weights were named; so `fvd`."""
    fvd: float | None


@dataclass(frozen=True)
class Likeness:
    """How films of one kind move, compared with the truth, over windows in which that moves."""

    cosine: Interval | None
    """1 the same way, -1 the other way, 0 unrelated or not at all. None where no window moves; so `size`."""
    size: Interval | None
    """Length of the motion over that of the truth."""


@dataclass(frozen=True)
class Followed:
    """One kind of motion, by the actions that were given."""

    rows: dict[str, Likeness]
    windows: int
    still: int
    """Windows left out, because the truth hardly moves there."""


@dataclass(frozen=True)
class Hand:
    """The hand's place as the probe sees it."""

    followed: Followed
    """The row `truth` is the probe on the real frames: no rollout can be expected to score higher."""
    probe_r2: tuple[float, float]
    """Of the probe, across and down, on the real frames of these windows."""


@dataclass(frozen=True)
class Drift:
    """Own actions over several times the training window."""

    windows: int
    seconds: tuple[float, ...]
    """Time of each frame since the first, the mean over windows."""
    psnr: Curve
    slopes: dict[str, Interval]
    """Change per second: of psnr and sharpness in dB, of the errors of colour mean and spread in shares of white."""


@dataclass(frozen=True)
class Gate:
    name: str
    value: float | None
    relation: str
    """One of `RELATIONS`."""
    limit: float | None
    passed: bool | None
    """None where it could not be measured."""


@dataclass(frozen=True)
class VideoCard:
    """Everything measured of one model on one data folder."""

    model: str
    data: str
    seed: int
    clips: int
    windows: int
    steps: int
    """T: steps of a window, as many as in training."""
    fidelity: dict[str, Fidelity]
    """By what the film was made of: what the model was told, its forecast without it, copying the first frame, encoding
    and decoding the truth."""
    zero_motion: Interval | None
    """Change from frame to frame with zero actions over that with own; None where nothing changes with own actions."""
    foreground: Followed
    camera: Followed
    hand: Hand | None
    drift: Drift | None
    diversity: Interval | None
    """Standard deviation of a pixel over seeds, over the error's size. 0: always the same film. About 0.7 for samples
    of what could have happened, since the error then is that of two draws. None where nothing is wrong."""
    missing: dict[str, str]
    """Part of the card -> why it was not measured."""
    gates: tuple[Gate, ...]
    protocol: str = PROTOCOL

    def to_json(self) -> str:
        """One JSON object. ValueError if a number is not finite."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def gates(fidelity: Mapping[str, Fidelity], foreground: Followed, zero_motion: Interval | None) -> tuple[Gate, ...]:
    """What any model that follows actions must reach."""
    own, copy, shuffled = (fidelity[name].psnr.mean.value for name in ("own", "copy", "shuffled"))
    opposite = foreground.rows["opposite"].cosine
    return (
        gate_of("PSNR, own actions, over copying", own, "≥", copy),
        gate_of("PSNR, own actions, over another clip's", own, ">", shuffled),
        gate_of("motion with zero actions", zero_motion.value if zero_motion else None, "≤", ZERO_MOTION),
        gate_of("cosine with opposite actions", opposite.value if opposite else None, "<", 0.0),
    )


def gate_of(name: str, value: float | None, relation: str, limit: float | None) -> Gate:
    passed = None if value is None or limit is None else RELATIONS[relation](value, limit)
    return Gate(name, value, relation, limit, passed)
