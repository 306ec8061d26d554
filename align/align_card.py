"""What is measured of a robot in a video model, as plain values, and the limits that it must not miss."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from common.intervals import Interval
from video_model.video_card import ZERO_MOTION, Fidelity, Followed, Gate, gate_of

PROTOCOL = "align-1"
STATE_ERROR = 0.8
"""Of standing still: a film in which the robot goes only partly where it should has at most that."""
LEAST_CHANGE = 0.05
"""Standard deviations of a state below which nothing is said to have moved."""


@dataclass(frozen=True)
class StateError:
    """How far the state that a film shows is from the true one, over the same of the first frame copied.

    Root mean square over frames 1 to T. 0: where it should be; 1: as far off as if nothing had moved.
    """

    overall: Interval | None
    """Of all columns that the probe can read, each in its own standard deviations; None if it can read none."""
    columns: dict[str, Interval]
    """Of those that it can read."""


@dataclass(frozen=True)
class StateFollowing:
    """The state as a probe reads it from single frames (`align.state_probe`)."""

    source: str
    """What stands for the state: "measured" or "controls", the absolute ones in force."""
    probe_episodes: int
    """That the probe learned from; none of them is measured."""
    r2: dict[str, float | None]
    """Of the probe on the real frames measured, by column; None where the state does not change there."""
    unread: dict[str, str]
    """Columns that are left out of everything here -> why."""
    errors: dict[str, StateError]
    """By kind of film. `truth` is the probe on the real frames: no film can be expected to be better."""


@dataclass(frozen=True)
class ControlEffect:
    """What one unit of a control does, all others doing nothing: half of +1 unit less -1 unit, mean of some starts."""

    name: str
    unit: float
    """How much is one unit, in the control's own: a large but usual change over four rows."""
    left: float
    """Change of the left half of the picture against a film without change: mean absolute, in shares of white."""
    right: float
    shift: tuple[float, float]
    """How far the foreground went, in half heights, right and down."""
    states: dict[str, float]
    """Change of each readable column of the state, in its standard deviations."""
    own: str | None
    """The column that measures this very control; None if there is none that can be read."""
    asked: float | None
    """By how much that should have changed; None where control and state need not have one unit."""

    @property
    def largest(self) -> str | None:
        """The column that changed most; None if none did to speak of."""
        name = max(self.states, key=lambda name: abs(self.states[name]), default=None)
        return name if name is not None and abs(self.states[name]) >= LEAST_CHANGE else None


@dataclass(frozen=True)
class ControlTrials:
    """Controls tried one at a time."""

    starts: int
    """First frames that it was done from."""
    steps: int
    """The unit is reached after four of them, then held."""
    controls: tuple[ControlEffect, ...]
    left_out: tuple[str, ...]
    """Controls that never moved in the episodes of the alignment: nothing can be expected of them."""


@dataclass(frozen=True)
class AlignCard:
    """Everything measured of one robot on held-out episodes."""

    model: str
    robot: str
    data: str
    seed: int
    episodes: int
    windows: int
    steps: int
    """T: steps of a window."""
    fidelity: dict[str, Fidelity]
    """By what the film was made of: the controls told, the first frame copied, the truth encoded and decoded."""
    zero_motion: Interval | None
    """Change from frame to frame with neutral controls over that with true ones; None where nothing changes."""
    foreground: Followed
    state: StateFollowing | None
    trials: ControlTrials
    missing: dict[str, str]
    """Part of the card -> why it was not measured."""
    gates: tuple[Gate, ...]
    protocol: str = PROTOCOL

    def to_json(self) -> str:
        """One JSON object. ValueError if a number is not finite."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def gates(
    fidelity: Mapping[str, Fidelity],
    foreground: Followed,
    zero_motion: Interval | None,
    errors: Mapping[str, StateError],
) -> tuple[Gate, ...]:
    """What any robot that answers to its controls must reach. errors: empty where the state cannot be read."""
    true, copy, shuffled = (fidelity[name].psnr.mean.value for name in ("true", "copy", "shuffled"))
    told = [_value(errors[name].overall) if name in errors else None for name in ("true", "shuffled")]
    return (
        gate_of("PSNR, true controls, over copying", true, "≥", copy),
        gate_of("PSNR, true controls, over another episode's", true, ">", shuffled),
        gate_of("state error, true controls, below another episode's", told[0], "<", told[1]),
        gate_of("state error, true controls, below standing still", told[0], "≤", STATE_ERROR),
        gate_of("cosine with opposite controls", _value(foreground.rows["opposite"].cosine), "<", 0.0),
        gate_of("motion with neutral controls", _value(zero_motion), "≤", ZERO_MOTION),
    )


def _value(interval: Interval | None) -> float | None:
    return None if interval is None else interval.value
