"""Guesses what a robot's controls mean, from their names and from what happens when they are given.

Absolute controls are where the state is or soon will be; deltas and velocities are how it moves. Where a dataset has a
state, that decides; else the names do, and last what the numbers look like. What a file of its own declares (GR00T's
meta/modality.json) stands above all. Each group says why it is thought to be so, beginning with "unsure" where nothing
spoke for it: the table (`align.embodiment.describe`) is there to be read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import pi

import numpy as np

from align.column_names import ColumnName, read_name, rotation_at
from align.column_spans import Declared, Span, find_spans, read_names
from align.control_group import ControlGroup, Kind
from align.embodiment import RobotEmbodiment, ranges
from align.evidence import Evidence, likelier_frame, summary, weigh
from align.robot_dataset import AnyEpisode, RobotDataset
from common.errors import BadData, UserError


def guess_embodiment(
    dataset: RobotDataset[AnyEpisode],
    *,
    name: str,
    episodes: Sequence[AnyEpisode] | None = None,
    declared: Mapping[str, Declared] | None = None,
) -> RobotEmbodiment:
    """The embodiment of a dataset's robot, not fitted, from these episodes (by default all). BadData as they are read.

    declared: as in `guess_from_rows`.
    """
    chosen = dataset.episodes if episodes is None else episodes
    return guess_from_rows(
        name=name,
        rate=dataset.fps,
        action_names=dataset.action_names,
        actions=[dataset.actions(episode) for episode in chosen],
        state_names=dataset.state_names,
        states=[dataset.states(episode) for episode in chosen] if dataset.state_names else [],
        declared=declared,
    )


def guess_from_rows(
    *,
    name: str,
    rate: float,
    action_names: Sequence[str],
    actions: Sequence[np.ndarray],
    state_names: Sequence[str] = (),
    states: Sequence[np.ndarray] = (),
    declared: Mapping[str, Declared] | None = None,
) -> RobotEmbodiment:
    """The same from the rows of episodes: actions (T, A) or (T-1, A), states (T, S) or none.

    declared: groups that a file of the dataset names; other columns are guessed. UserError if they overlap, reach
    beyond the actions, or name a rotation that is not known.
    """
    if not actions or not any(len(rows) for rows in actions):
        raise UserError(f"there are no actions to guess the controls of '{name}' from")
    declared = dict(declared or {})
    names = read_names(action_names, declared)
    measured = [read_name(text) for text in state_names]
    evidence = weigh(names, measured, actions, states, rate=rate)
    spans = find_spans(names, actions, declared)
    groups: list[ControlGroup] = []
    for span in spans:
        alike = [column for other in spans if other.sideless == span.sideless for column in other.columns]
        for part in _by_movement(span, names, evidence):
            previous = groups[-1] if groups else None
            groups.append(_group(part, names, evidence, actions, alike=alike, previous=previous))
    groups = [_with_frame(group, names, measured, actions, states) for group in _named_apart(groups)]
    return RobotEmbodiment(name, tuple(action_names), float(rate), tuple(groups), seen=ranges(actions))


def _by_movement(span: Span, names: list[ColumnName], evidence: list[Evidence]) -> Iterator[Span]:
    """The span, cut where neighbours clearly move in different ways; grippers and declared ones stay whole."""
    if span.whole or span.role == "gripper" or span.declared is not None:
        yield span
        return
    columns = span.columns
    usual = _most([evidence[column].kind for column in columns])
    kinds = [evidence[column].kind or names[column].kind or usual for column in columns]
    for _, run in groupby(zip(columns, kinds, strict=True), key=lambda pair: pair[1]):
        cut = [column for column, _ in run]
        yield replace(span, start=cut[0], stop=cut[-1] + 1)


def _group(
    span: Span,
    names: list[ColumnName],
    evidence: list[Evidence],
    actions: Sequence[np.ndarray],
    *,
    alike: Sequence[int],
    previous: ControlGroup | None,
) -> ControlGroup:
    """The group that a span is. Its unit is that of the columns `alike`: both hands' are the same."""
    columns = span.columns
    values = np.concatenate([rows[:, alike] for rows in actions])
    if span.role == "gripper" and not any(names[column].kind == "velocity" for column in columns):
        unit = "0 to 1" if values.min() >= -0.05 and values.max() <= 1.05 else ""
        reason = "declared, and named so" if span.whole else span.reason
        return ControlGroup(span.name, span.start, span.stop, "gripper", unit=unit, reason=reason)
    kind, reason = _kind(span, names, evidence, previous=previous)
    if span.rotation and kind == "velocity" and span.rotation != "axis_angle":
        # Rates of roll, pitch and yaw add up as numbers.
        return ControlGroup(span.name, span.start, span.stop, kind, unit="rad/s", reason=reason)
    if span.reason and not reason.startswith(span.reason):
        reason = f"{span.reason}; {reason}"
    unit = _unit(span, kind, values, [evidence[column] for column in columns])
    steps = np.concatenate([np.abs(np.diff(rows[:, span.start : span.stop], axis=0)) for rows in actions])
    half = 180.0 if unit == "deg" else pi
    joints = kind == "absolute" and span.role == "joint" and unit in ("rad", "deg")
    wraps = bool(joints and len(steps) and steps.max() > half)
    if wraps:
        reason += "; steps of more than half a turn, so it wraps"
    return ControlGroup(
        span.name, span.start, span.stop, kind, rotation=span.rotation, wraps=wraps, unit=unit, reason=reason
    )


def _kind(
    span: Span, names: list[ColumnName], evidence: list[Evidence], *, previous: ControlGroup | None
) -> tuple[Kind, str]:
    """How a span's columns move, and why that is thought."""
    mine = [evidence[column] for column in span.columns]
    named = _most([names[column].kind for column in span.columns]) or read_name(span.name).kind
    seen = _most([one.kind for one in mine])
    why = summary(mine, seen) if seen else mine[0].doubt
    if named == "velocity" and seen != "absolute":
        return "velocity", "named so"
    if span.declared is not None:
        kind: Kind = "absolute" if span.declared else "delta"
        doubt = f", but {why}: is that right?" if seen and (seen == "absolute") != span.declared else ""
        return kind, f"declared {kind}{doubt}"
    if seen:
        return seen, why
    if named:
        return named, "named so"
    if span.rotation and previous and previous.kind in ("absolute", "delta"):
        return previous.kind, f"as '{previous.name}' before it"
    return _most([one.looks for one in mine]) or "absolute", f"unsure: {why}"


def _unit(span: Span, kind: Kind, values: np.ndarray, evidence: Sequence[Evidence]) -> str:
    """The likeliest unit; "" where the numbers are in none, such as deltas that a controller scales."""
    largest = float(np.abs(values).max())
    per_second = "/s" if kind == "velocity" else ""
    gains = [one.gain for one in evidence if one.gain is not None]
    if span.rotation:
        angles = span.rotation in ("axis_angle", "euler_xyz")
        return ("deg" if largest > 2 * pi + 0.1 else "rad") + per_second if angles else ""
    if kind == "delta" and gains and not 0.3 < abs(float(np.median(gains))) < 3:
        return ""
    if span.role == "position":
        return ("mm" if largest > 10 else "m") + per_second
    if kind == "absolute" and values.min() >= 0 and 0.9 < largest <= 1:
        return "0 to 1"
    return ("deg" if largest > 2 * pi + 0.1 else "rad") + per_second


def _named_apart(groups: list[ControlGroup]) -> list[ControlGroup]:
    """The groups, with numbers behind names that come twice."""
    count: Counter[str] = Counter()
    apart = []
    for group in groups:
        count[group.name] += 1
        apart.append(replace(group, name=f"{group.name}_{count[group.name]}") if count[group.name] > 1 else group)
    return apart


def _with_frame(
    group: ControlGroup,
    names: list[ColumnName],
    measured: list[ColumnName],
    actions: Sequence[np.ndarray],
    states: Sequence[np.ndarray],
) -> ControlGroup:
    """A delta rotation in the frame that the state's rotation of the same name speaks for; `world` if there is none."""
    if not group.rotation or group.kind == "absolute":
        return group
    parts = [name.part for name in measured]
    start = parts.index(names[group.start].part) if names[group.start].part in parts else -1
    spelt = rotation_at(measured, start) if states and start >= 0 else None
    if spelt is None:
        return replace(group, frame="world", reason=f"{group.reason}; frame unsure: no measured rotation")
    try:
        turns = [rows[:, start : start + spelt[1]] for rows in states]
        frame, why = likelier_frame(group, actions, turns, spelt[0])
    except BadData as error:
        frame, why = "world", f"frame unsure: in the state {error}"
    return replace(group, frame=frame, reason=f"{group.reason}; {why}")


def _most(kinds: Sequence[Kind | None]) -> Kind | None:
    """The commonest, leaving out None; None if there is nothing else."""
    counted: Counter[Kind] = Counter(kind for kind in kinds if kind is not None)
    return counted.most_common(1)[0][0] if counted else None
