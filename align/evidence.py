"""What the numbers say about a control: is it where the robot goes, or how it moves?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from align.column_names import ColumnName
from align.control_group import ControlGroup, Frame
from align.rotations import RotationName, read_rotations

_LAGS = range(4)
"""Rows that a robot may take to begin to move."""


@dataclass(frozen=True)
class Evidence:
    """For one column."""

    kind: Literal["absolute", "delta", "velocity"] | None = None
    """What the state says; None if there is none to compare with, or it fits neither."""
    correlation: float = 0.0
    """With the state, for absolute ones; else with how it changes."""
    doubt: str = ""
    """Why there is no kind."""
    gain: float | None = None
    """How far the state moves in a row for each unit of a control that moves it."""
    looks: Literal["absolute", "delta"] | None = None
    """What the numbers look like by themselves, a weaker sign."""


def weigh(
    names: Sequence[ColumnName],
    state_names: Sequence[ColumnName],
    actions: Sequence[np.ndarray],
    states: Sequence[np.ndarray],
    *,
    rate: float,
) -> list[Evidence]:
    """For each column of actions (T, A), compared with the column of the states (T, S) that is named like it.

    Where no name is shared and both have as many columns, with the one at its place.
    """
    keys = [name.key for name in state_names]
    by_place = len(names) == len(keys) and not {name.key for name in names} & set(keys)
    found = []
    for column, name in enumerate(names):
        own = [rows[:, column].astype(np.float64) for rows in actions]
        if states and (by_place or keys.count(name.key) == 1):
            place = column if by_place else keys.index(name.key)
            found.append(_compared(own, [rows[:, place].astype(np.float64) for rows in states], rate=rate))
        else:
            found.append(_alone(own))
    return found


def summary(evidence: Sequence[Evidence], kind: str) -> str:
    """What speaks for this kind in a group of columns, in words."""
    agreeing = [one for one in evidence if one.kind == kind]
    low, high = (f"{bound(one.correlation for one in agreeing):.2f}" for bound in (min, max))
    fits = f"correlation {low}" if low == high else f"correlation {low} to {high}"
    some = "" if len(agreeing) == len(evidence) else f"{len(agreeing)} of {len(evidence)}: "
    if kind == "absolute":
        return f"{some}is where the state is ({fits})"
    gain = float(np.median([one.gain for one in agreeing if one.gain is not None]))
    per_second = ", which is 1 per second" if kind == "velocity" else ""
    return f"{some}moves the state by {gain:.3g} per unit and row{per_second} ({fits})"


def likelier_frame(
    group: ControlGroup, actions: Sequence[np.ndarray], turns: Sequence[np.ndarray], written: RotationName
) -> tuple[Frame, str]:
    """Which frame a delta rotation's turns are in, from the measured rotations (T, W) that they led to; and why.

    BadData if those are none.
    """
    assert group.rotation is not None
    errors: dict[Frame, float] = {"world": 0.0, "body": 0.0}
    degrees = group.unit.startswith("deg")
    for rows, measured in zip(actions, turns, strict=True):
        count = min(len(rows), len(measured) - 1)
        if count < 1:
            continue
        state = read_rotations(measured, written, degrees=degrees)
        step = read_rotations(rows[:count, group.start : group.stop], group.rotation, degrees=degrees)
        now, then = state[:count], state[1 : count + 1]
        errors["world"] += float(((step * now).inv() * then).magnitude().sum())
        errors["body"] += float(((now * step).inv() * then).magnitude().sum())
    frame: Frame = "body" if errors["body"] < errors["world"] else "world"
    share = errors[frame] / max(errors.values()) if max(errors.values()) else 1.0
    if share > 0.9:
        return "world", "frame unsure: the state follows both alike"
    return frame, f"as turns in the {frame}'s axes {share:.2f} as far from the state as in the other's"


def _compared(own: list[np.ndarray], state: list[np.ndarray], *, rate: float) -> Evidence:
    """A control against the state that it may move."""
    given, now, then = _pairs(own, state, lag=0)
    if len(given) < 2 or given.std() < 1e-9 or now.std() < 1e-9:
        return Evidence(doubt="it or its state never moves")
    ahead = max(_correlation(given, now), _correlation(given, then))
    apart = min(_rms(given - now), _rms(given - then)) / now.std()
    if ahead > 0.7 and apart < 1:
        return Evidence("absolute", ahead)
    moves, gain = 0.0, 0.0
    for lag in _LAGS:
        given, now, then = _pairs(own, state, lag=lag)
        if len(given) < 2:
            break
        correlation = _correlation(given, then - now)
        if abs(correlation) > abs(moves):
            moves, gain = correlation, float(given @ (then - now) / (given @ given))
    if abs(moves) > 0.5 and abs(given.mean()) < given.std():
        # With less than 4 rows a second a gain near 1 / rate could as well be a delta that is not quite reached.
        is_velocity = rate >= 4 and 0.7 < gain * rate < 1.4
        return Evidence("velocity" if is_velocity else "delta", moves, gain=gain)
    return Evidence(doubt=f"fits the state neither as a target (correlation {ahead:.2f}) nor as a change ({moves:.2f})")


def _alone(own: list[np.ndarray]) -> Evidence:
    """A control without a state: targets go on smoothly wherever they are; deltas are about zero, and rough."""
    values = np.concatenate(own)
    spread = values.std()
    if spread < 1e-9:
        return Evidence(doubt="it never moves")
    steps = np.concatenate([np.diff(rows) for rows in own])
    rough, off = (_rms(steps) / spread if len(steps) else 0.0), abs(values.mean()) / spread
    looks = "delta" if rough > 0.5 and off < 0.5 else "absolute"
    doubt = f"no state to compare with; its steps are {rough:.2f} of its spread, its mean {off:.2f}"
    return Evidence(doubt=doubt, looks=looks)


def _pairs(own: list[np.ndarray], state: list[np.ndarray], *, lag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Controls with the state `lag` rows after them, and one row later still."""
    triples = []
    for rows, measured in zip(own, state, strict=True):
        count = max(min(len(rows), len(measured) - lag - 1), 0)
        triples.append((rows[:count], measured[lag : lag + count], measured[lag + 1 : lag + 1 + count]))
    given, now, then = (np.concatenate(part) for part in zip(*triples, strict=True))
    return given, now, then


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / size) if size > 1e-12 else 0.0


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
