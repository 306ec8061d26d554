"""What is measured of a student beside its teacher, as plain values, and the limits that it must not miss."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from common.intervals import Interval
from video_model.video_card import ZERO_MOTION, Curve, Followed, Gate, gate_of

PROTOCOL = "student-1"
JUDGED_FRAMES = 49
"""Horizon at which fidelity has its gates."""
PSNR_LOSS = 0.5
"""dB."""
SSIM_KEPT = 0.95
PATH_ERROR = 1.1
"""Times the teacher's; `ZERO_MOTION` or as many times the teacher's is the limit of motion under zero actions, too."""
CONTROL_KEPT = 0.9
"""Of the teacher's cosine with the true path."""
SHARPNESS_KEPT = 0.9
"""Of the truth's high-frequency energy."""
DIVERSITY_OFF = 0.1
"""Share by which the spread over seeds may differ from the teacher's."""
MEMORY_GROWTH = 5.0
"""MB."""
SPEED_UP, FRAMES_PER_SECOND, FIRST_FRAME = 8.0, 15.0, 0.5
"""Times the teacher's; of the student; seconds."""
PSNR_GATE = f"over {JUDGED_FRAMES} frames the PSNR is at most {PSNR_LOSS} dB below the teacher's"


@dataclass(frozen=True)
class Scores:
    """How near films are to the truth."""

    psnr: Curve
    """dB."""
    ssim: Curve


@dataclass(frozen=True)
class Horizon:
    """Films of student and teacher from the same first frames, under the same actions."""

    frames: int
    """Of a film, the given first one counted."""
    windows: int
    clips: int
    student: Scores
    teacher: Scores
    psnr_gain: Interval
    """The student's less the teacher's, window by window."""
    ssim_gain: Interval


@dataclass(frozen=True)
class Departure:
    """How far films leave the truth in one respect."""

    by_latent: tuple[Interval, ...]
    late: Interval
    """Over the second half of the time."""
    frames_100_200: Interval | None
    """None where films are shorter."""
    slope: Interval
    """Change of `by_latent` per second."""


@dataclass(frozen=True)
class Departures:
    """In the three respects of `distill.drift.Decay`."""

    path: Departure
    """Error of the foreground's path, over that path."""
    sharpness: Departure
    """dB of high-frequency energy, made minus true."""
    colour: Departure
    """Difference of mean colours, of pictures in [-1, 1]."""


@dataclass(frozen=True)
class StudentDrift:
    """Of the films of the longest horizon."""

    frames: int
    windows: int
    clips: int
    seconds: tuple[float, ...]
    """Mean time of each latent's frames since the first frame."""
    student: Departures
    teacher: Departures


@dataclass(frozen=True)
class Control:
    """Whether films of the shortest horizon do what they are told."""

    followed: Followed
    """The foreground's path, rows "student, own", "student, opposite" and so for the teacher."""
    zero_motion: dict[str, Interval | None]
    """Of student and teacher: change from frame to frame with zero actions over that with own ones."""


@dataclass(frozen=True)
class Diversity:
    """Standard deviation of a pixel in [-1, 1] over seeds, in films of the shortest horizon."""

    seeds: int
    student: Interval
    """0: it makes the same film with every seed."""
    teacher: Interval
    ratio: Interval | None
    """Student over teacher; None where the teacher makes the same film with every seed."""


@dataclass(frozen=True)
class Look:
    """How a stretch of film looks."""

    sharpness: float
    """dB of high-frequency energy (`video_model.following.sharpness`)."""
    colour: tuple[float, float, float]
    """Mean colour, in [-1, 1]."""
    motion: float
    """Mean absolute change from frame to frame."""


@dataclass(frozen=True)
class HalfMinute:
    """Of the long rollout."""

    seconds: float
    """Of film since the first frame, at its end."""
    megabytes: float
    """Memory in use at its end."""
    look: Look


@dataclass(frozen=True)
class Endurance:
    """A long rollout through the stream, under one clip's actions forwards and backwards in turn."""

    clip: str
    asked_seconds: float
    """Of film."""
    finite_seconds: float
    """It ends at the first number that is not finite."""
    half_minutes: tuple[HalfMinute, ...]
    """Those that were finished."""
    memory_growth: float | None
    """MB: the most that any later half minute ended above the first; None with fewer than two."""
    truth: Look
    """Of the clip itself, which a perfect film shows forwards and backwards for ever."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds."""

    p50: float
    p99: float

    def __str__(self) -> str:
        return f"{self.p50:.1f} / {self.p99:.1f}"


@dataclass(frozen=True)
class WayCost:
    """One way to stream."""

    steps: int
    """From noise to a latent."""
    frames_per_second: float
    first_frame_ms: float
    latent: Latency
    """Of one latent, all in all."""
    parts: dict[str, Latency]


@dataclass(frozen=True)
class Speed:
    """Of live sessions, one latent each in turns."""

    device: str
    precision: str
    threads: int
    student: WayCost
    teacher: WayCost

    @property
    def times_the_teacher(self) -> float:
        """The student's frames per second over the teacher's."""
        return self.student.frames_per_second / self.teacher.frames_per_second


@dataclass(frozen=True)
class StudentCard:
    """Everything measured of one student on one data folder."""

    student: str
    teacher: str
    data: str
    seed: int
    fidelity: tuple[Horizon, ...]
    """By length; horizons for which no clip is long enough are in `missing`."""
    drift: StudentDrift
    control: Control
    diversity: Diversity
    endurance: Endurance
    speed: Speed
    missing: dict[str, str]
    """Part of the card -> why it was not measured."""
    gates: tuple[Gate, ...]
    """Each name is a sentence."""
    passes: bool
    """No gate is missed, but for that of PSNR: it never decides alone, since blur pleases it."""
    protocol: str = PROTOCOL

    def to_json(self) -> str:
        """One JSON object. ValueError if a number is not finite."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def energy_ratio(decibels: float) -> float:
    """A difference of sharpness in dB as a ratio of high-frequency energies: 10^(dB / 10), so 0.9 is -0.46 dB."""
    return 10 ** (decibels / 10)


def gates(
    fidelity: Sequence[Horizon],
    drift: StudentDrift,
    control: Control,
    diversity: Diversity,
    endurance: Endurance,
    speed: Speed,
) -> tuple[Gate, ...]:
    """What a student must reach that is to stand in for its teacher."""
    judged = next((horizon for horizon in fidelity if horizon.frames == JUDGED_FRAMES), None)
    psnr, ssim = _means(judged.student) if judged else (None, None)
    least_psnr, least_ssim = _means(judged.teacher) if judged else (None, None)
    own, teachers_own = (_value(control.followed.rows[f"{who}, own"].cosine) for who in ("student", "teacher"))
    opposite, still = control.followed.rows["student, opposite"].cosine, control.zero_motion
    return (
        gate_of(
            f"late in a rollout the path's error is at most {PATH_ERROR} times the teacher's",
            drift.student.path.late.value,
            "≤",
            PATH_ERROR * drift.teacher.path.late.value,
        ),
        gate_of(
            f"late in a rollout at least {SHARPNESS_KEPT} of the truth's high-frequency energy is there",
            energy_ratio(drift.student.sharpness.late.value),
            "≥",
            SHARPNESS_KEPT,
        ),
        gate_of(
            f"with own actions the foreground follows at least {CONTROL_KEPT} as well as the teacher's (cosine)",
            own,
            "≥",
            None if teachers_own is None else CONTROL_KEPT * teachers_own,
        ),
        gate_of("with opposite actions the foreground goes the other way (cosine)", _value(opposite), "<", 0.0),
        gate_of(
            f"zero actions leave at most {ZERO_MOTION} of the motion, or {PATH_ERROR} times what the teacher leaves",
            _value(still["student"]),
            "≤",
            max(ZERO_MOTION, PATH_ERROR * (_value(still["teacher"]) or 0.0)),
        ),
        gate_of(
            f"the spread over seeds differs from the teacher's by at most {100 * DIVERSITY_OFF:.0f} % (share)",
            abs(diversity.ratio.value - 1) if diversity.ratio else None,
            "≤",
            DIVERSITY_OFF,
        ),
        gate_of(PSNR_GATE, psnr, "≥", None if least_psnr is None else least_psnr - PSNR_LOSS),
        gate_of(
            f"over {JUDGED_FRAMES} frames the SSIM is at least {SSIM_KEPT} of the teacher's",
            ssim,
            "≥",
            None if least_ssim is None else SSIM_KEPT * least_ssim,
        ),
        *_long_gates(endurance),
        *_speed_gates(speed),
    )


def _long_gates(endurance: Endurance) -> tuple[Gate, ...]:
    return (
        gate_of(
            "the long rollout is finite to its end (seconds)",
            endurance.finite_seconds,
            "≥",
            endurance.asked_seconds,
        ),
        gate_of(
            f"the long rollout's memory grows by at most {MEMORY_GROWTH:.0f} MB",
            endurance.memory_growth,
            "≤",
            MEMORY_GROWTH,
        ),
    )


def _speed_gates(speed: Speed) -> tuple[Gate, ...]:
    return (
        gate_of(
            f"it makes at least {SPEED_UP:.0f} times the teacher's frames per second",
            speed.times_the_teacher,
            "≥",
            SPEED_UP,
        ),
        gate_of(
            f"it makes at least {FRAMES_PER_SECOND:.0f} frames per second on {speed.device}",
            speed.student.frames_per_second,
            "≥",
            FRAMES_PER_SECOND,
        ),
        gate_of(
            f"the first frame is there within {FIRST_FRAME} s on {speed.device}",
            speed.student.first_frame_ms / 1000,
            "≤",
            FIRST_FRAME,
        ),
    )


def passes(gates: Iterable[Gate]) -> bool:
    """See `StudentCard.passes`."""
    return all(gate.passed is not False for gate in gates if gate.name != PSNR_GATE)


def _means(scores: Scores) -> tuple[float, float]:
    return scores.psnr.mean.value, scores.ssim.mean.value


def _value(interval: Interval | None) -> float | None:
    return None if interval is None else interval.value
