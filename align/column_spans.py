"""Which columns of an action vector belong together, before it is known how they move.

What a file of the dataset declares comes first (GR00T's meta/modality.json); then rotations, whose columns mean nothing
alone; then neighbours whose names put them in the same part of the robot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from align.column_names import ColumnName, Role, read_name, rotation_at
from align.rotations import WIDTHS, RotationName, read_rotations
from common.config import nearest
from common.errors import BadData, UserError

Declared = tuple[int, int, bool | None, str | None]
"""First column, first after it, whether absolute (None: not said), rotation type as GR00T writes it (or None)."""
_GR00T_ROTATIONS: dict[str, RotationName] = {
    "euler_angles_rpy": "euler_xyz",
    "quaternion": "quaternion_wxyz",  # GR00T reads them with pytorch3d: the real part first
}
_GRIPPER_FEW = 20
"""Rows below which a column with two values is no sign of a gripper."""


@dataclass(frozen=True)
class Span:
    """Columns that will be one group, or several if they turn out to move differently."""

    name: str
    start: int
    stop: int
    role: Role
    rotation: RotationName | None = None
    declared: bool | None = None
    """What a file says: absolute or not."""
    whole: bool = False
    """Whether a file or a rotation says that these columns belong together."""
    reason: str = ""

    @property
    def columns(self) -> range:
        return range(self.start, self.stop)

    @property
    def sideless(self) -> tuple[str, str]:
        """What is the same for left and right."""
        return self.role, self.name.removeprefix("left_").removeprefix("right_")


def find_spans(
    names: Sequence[ColumnName], actions: Sequence[np.ndarray], declared: Mapping[str, Declared]
) -> list[Span]:
    """The spans of the columns of actions (T, A), in order and without gaps.

    UserError if declared groups overlap, reach beyond the actions, or name a rotation that is not known.
    """
    held = sorted(_declared_spans(names, declared), key=lambda span: span.start)
    absolute = {start: said for start, _, said, _ in declared.values()}
    two_valued = _two_valued(actions)
    found: list[Span] = []
    start = 0
    for span in [*held, None]:
        stop = span.start if span else len(names)
        found += _named_spans(names[start:stop], first=start, absolute=absolute, two_valued=two_valued)
        if span:
            found.append(span)
            start = span.stop
    spans = [_merged(list(run)) for _, run in groupby(found, key=_merge_key)]
    return [_if_rotation(span, actions) for span in spans]


def read_names(action_names: Sequence[str], declared: Mapping[str, Declared]) -> list[ColumnName]:
    """The columns' names; a declared group of one column ("x", "roll", "gripper") names that column.

    Such groups are not kept apart: x, y and z go together, and so do roll, pitch and yaw. UserError as `find_spans`.
    """
    names = [read_name(text) for text in action_names]
    for group, (start, stop, _, _) in declared.items():
        if not 0 <= start < stop <= len(names):
            raise UserError(f"the declared group '{group}' has the columns {start} to {stop} of {len(names)}")
        if stop - start == 1:
            names[start] = read_name(group)
    return names


def _declared_spans(names: Sequence[ColumnName], declared: Mapping[str, Declared]) -> list[Span]:
    """The declared groups of more than one column."""
    spans: list[Span] = []
    taken: dict[int, str] = {}
    for group, (start, stop, absolute, rotation_type) in declared.items():
        for column in range(start, stop):
            if column in taken:
                raise UserError(f"column {column} belongs to the declared groups '{taken[column]}' and '{group}'")
            taken[column] = group
        if stop - start > 1:
            rotation = _rotation(group, rotation_type, names[start:stop])
            named = read_name(group).role
            role = "rotation" if rotation else "joint" if named == "rotation" else named
            spans.append(Span(group, start, stop, role, rotation, absolute, whole=True, reason="declared"))
    return spans


def _named_spans(
    names: Sequence[ColumnName], *, first: int, absolute: Mapping[int, bool | None], two_valued: set[int]
) -> list[Span]:
    """Rotations, and spans of one column each, of columns that stand together; the first of them is `first`."""
    spans: list[Span] = []
    at = 0
    while at < len(names):
        name, column = names[at], first + at
        rotation = rotation_at(names, at)
        if rotation:
            at += rotation[1]
            why, said = f"named as {rotation[0]}", absolute.get(column)
            spans.append(Span(name.part, column, first + at, "rotation", rotation[0], said, whole=True, reason=why))
            continue
        at += 1
        role, part, why = name.role, name.part, ""
        if role == "gripper":
            why = "named so"
        elif column in two_valued and role == "joint":
            role, part, why = "gripper", "gripper", "has two values only"
        elif role == "rotation":  # a part of one that is not all there, such as a yaw alone
            role = "joint"
            part = part.removesuffix("rotation") + name.component if name.rotation == "euler_xyz" else part
        spans.append(Span(part, column, column + 1, role, declared=absolute.get(column), reason=why))
    return spans


def _merge_key(span: Span) -> tuple[object, ...]:
    return (span.name, span.role, span.declared, span.reason, span.start if span.whole else -1)


def _merged(run: list[Span]) -> Span:
    return replace(run[0], stop=run[-1].stop)


def _if_rotation(span: Span, actions: Sequence[np.ndarray]) -> Span:
    """The span; without its rotation, if its numbers are none."""
    if span.rotation is None:
        return span
    try:
        read_rotations(np.concatenate([rows[:, span.start : span.stop] for rows in actions]), span.rotation)
    except BadData as error:
        return replace(span, rotation=None, role="joint", reason=f"{span.reason}, but {error}")
    return span


def _rotation(group: str, rotation_type: str | None, names: Sequence[ColumnName]) -> RotationName | None:
    """GR00T's name for a rotation as ours."""
    if rotation_type is None:
        return None
    known: dict[str, RotationName] = {**{name: name for name in WIDTHS}, **_GR00T_ROTATIONS}
    if rotation_type not in known:
        hint = "Leave the type out, and set the group by hand."
        problem = f"the rotation type '{rotation_type}'; {nearest(rotation_type, known)}"
        raise UserError(f"the declared group '{group}' has {problem}", hint=hint)
    rotation = known[rotation_type]
    if len(names) != WIDTHS[rotation]:
        needs = f"'{rotation_type}' takes {WIDTHS[rotation]}"
        raise UserError(f"the declared group '{group}' has {len(names)} columns; {needs}")
    spelt = rotation_at(names, 0)
    if rotation_type == "quaternion" and spelt and spelt[0].startswith("quaternion"):
        return spelt[0]
    return rotation


def _two_valued(actions: Sequence[np.ndarray]) -> set[int]:
    """Columns that hold exactly two different values."""
    rows = np.concatenate(actions)
    if len(rows) < _GRIPPER_FEW:
        return set()
    return {column for column in range(rows.shape[1]) if len(np.unique(rows[:, column])) == 2}
