"""A robot's controls: what each column of its action vector means, and how they become numbers for a video model.

Row t of a dataset's actions leads from frame t to frame t+1. A video model takes them in chunks of four rows, one chunk
per latent frame, each row as the change since the chunk began (`align.control_group`), scaled (`align.normalisation`).
With chunk=1 each row is the change that it makes by itself, which is what a latent action describes.

An embodiment is a value: guessed from a dataset (`align.guess`), corrected (`override`), fitted (`fitted`), saved.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from align.control_group import ControlGroup, check_groups
from align.normalisation import Normalisation, fit_normalisation
from common.config import from_dict, nearest, to_dict
from common.errors import BadData, UserError

CHUNK = 4
"""Rows for each latent frame: the tokenizer's compression of time."""
HEADER = ("column", "group", "kind", "unit", "in the data", "why")


@dataclass(frozen=True)
class RobotEmbodiment:
    """One robot's controls. UserError if the groups do not hold every column exactly once.

    Axes of arrays: T rows, A columns of actions, C columns of changes (three for a rotation). A batch may come before
    them. What comes out has the type of what goes in; in between everything is float64.
    """

    name: str
    """Also the name of its file, and of its input to the video model."""
    columns: tuple[str, ...]
    """A name for each column of the action vector."""
    rate: float
    """Rows per second."""
    groups: tuple[ControlGroup, ...]
    """In the order of the columns."""
    seen: tuple[tuple[float, float], ...] = ()
    """Lowest and highest value of each column in the data; empty if it was never shown any."""
    normalisation: Normalisation | None = None
    """None until fitted."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise UserError(f"{self.name!r} cannot name an embodiment", hint="Use letters, digits, '_', '-' and '.'.")
        if self.rate <= 0:
            raise UserError(f"the embodiment '{self.name}' has a rate of {self.rate} Hz")
        if self.seen and len(self.seen) != len(self.columns):
            raise UserError(f"the embodiment '{self.name}' has {len(self.columns)} columns, {len(self.seen)} ranges")
        check_groups(self.groups, len(self.columns))
        if self.normalisation and len(self.normalisation.scale) != self.relative_dim:
            scales = len(self.normalisation.scale)
            raise UserError(f"the embodiment '{self.name}' has changes of {self.relative_dim} numbers, {scales} scales")

    @property
    def relative_dim(self) -> int:
        """C, the numbers in one row of changes."""
        return sum(group.relative_width for group in self.groups)

    @property
    def relative_names(self) -> tuple[str, ...]:
        """A name for each of them: its column's, or "wrist turn x" for a rotation's group "wrist"."""
        return tuple(
            name
            for group in self.groups
            for name in (
                [f"{group.name} turn {axis}" for axis in "xyz"]
                if group.rotation
                else self.columns[group.start : group.stop]
            )
        )

    @property
    def alike(self) -> np.ndarray:
        """(C,): the same number for changes that compare: of one kind and unit, or of one group without a unit."""
        kinds = [
            (group.kind, group.rotation, group.unit or group.name)
            for group in self.groups
            for _ in range(group.relative_width)
        ]
        return np.array([kinds.index(kind) for kind in kinds])

    def relative(self, actions: np.ndarray, before: np.ndarray, *, chunk: int = CHUNK) -> np.ndarray:
        """Changes (..., T, C) of actions (..., T, A), each from the start of its chunk of rows.

        before: (..., A), the controls in force just before row 0: the row before it, or at the start of an episode what
        was measured. It counts for absolute controls alone. UserError unless T is a multiple of `chunk`; BadData for
        numbers that are no rotation.
        """
        rows_BTA, before_BA = self._batched(actions, before, width=len(self.columns), chunk=chunk)
        parts = [
            group.relative(
                rows_BTA[..., group.start : group.stop],
                before_BA[:, group.start : group.stop],
                chunk=chunk,
                rate=self.rate,
            )
            for group in self.groups
        ]
        return np.concatenate(parts, axis=-1).astype(actions.dtype).reshape(*actions.shape[:-1], -1)

    def controls(self, relative: np.ndarray, before: np.ndarray, *, chunk: int = CHUNK) -> np.ndarray:
        """Actions (..., T, A) that make the changes (..., T, C): `relative` undone, rotations as equal ones."""
        rows_BTC, before_BA = self._batched(relative, before, width=self.relative_dim, chunk=chunk)
        parts, first = [], 0
        for group in self.groups:
            changes = rows_BTC[..., first : first + group.relative_width]
            first += group.relative_width
            own = before_BA[:, group.start : group.stop]
            parts.append(group.controls(changes, own, chunk=chunk, rate=self.rate))
        return np.concatenate(parts, axis=-1).astype(relative.dtype).reshape(*relative.shape[:-1], -1)

    def neutral(self, before: np.ndarray, *, rows: int = CHUNK) -> np.ndarray:
        """Controls (..., rows, A) that do nothing when `before` (..., A) is in force: hold, stand still, keep grip."""
        before_BA = np.asarray(before, np.float64).reshape(-1, len(self.columns))
        parts = [group.neutral(before_BA[:, group.start : group.stop]) for group in self.groups]
        held = np.concatenate(parts, axis=-1).astype(before.dtype).reshape(before.shape)
        return np.repeat(held[..., None, :], rows, axis=-2)

    def fitted(self, episodes: Sequence[np.ndarray], *, chunk: int = CHUNK) -> "RobotEmbodiment":
        """Itself with ranges and normalisation from actions (T, A) of training episodes, and of no others.

        Chunks begin at every row, as they do in training. UserError if no episode is longer than a chunk.
        """
        changes = []
        for actions in episodes:
            for before in range(min(chunk, max(len(actions) - chunk, 0))):
                stop = before + 1 + (len(actions) - before - 1) // chunk * chunk
                window = np.asarray(actions[before + 1 : stop], np.float64)
                changes.append(self.relative(window, np.asarray(actions[before], np.float64), chunk=chunk))
        if not changes:
            raise UserError(f"no episode has more than the {chunk} rows of a chunk")
        openings = np.concatenate([np.full(group.relative_width, group.kind == "gripper") for group in self.groups])
        normalisation = fit_normalisation(
            np.concatenate(changes), self.relative_names, openings=openings, alike=self.alike, chunk=chunk
        )
        return replace(self, seen=ranges(episodes), normalisation=normalisation)

    def normalised(self, relative: np.ndarray) -> np.ndarray:
        """Changes (..., T, C) as the network takes them, within [-3, 3]; made with the chunk that was fitted."""
        return self._fitted().normalised(relative)

    def denormalised(self, normalised: np.ndarray) -> np.ndarray:
        """The way back, but for what was ended at +-3."""
        return self._fitted().denormalised(normalised)

    def at_stride(self, stride: int) -> "RobotEmbodiment":
        """The same controls in rows `stride` times as long, not fitted."""
        return replace(self, rate=self.rate / stride, normalisation=None)

    def strided(self, actions: np.ndarray, stride: int) -> np.ndarray:
        """Actions (..., T, A) in rows `stride` times as long, (..., T/stride, A), for `at_stride(stride)`.

        For a video model slower than the recording. Each long row does what its short ones do together: the last
        target, the sum of deltas, the mean velocity, the composed turn, the last opening.
        """
        start = actions[..., 0, :]
        changes = self.relative(actions, start, chunk=stride)[..., stride - 1 :: stride, :]
        return self.at_stride(stride).controls(changes, start, chunk=1)

    def save(self, folder: Path) -> Path:
        """Writes `controls/NAME.json` in a checkpoint's folder.

        Not in `embodiments/`: there the video model keeps its own file of the same name, with the scale of its input
        (`video_model.generator.Embodiment`), also for inputs that are no robot's; and it knows nothing of robots.
        """
        path = folder / "controls" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(to_dict(self), indent=1, allow_nan=False), encoding="utf-8")
        return path

    def _fitted(self) -> Normalisation:
        if self.normalisation is None:
            raise UserError(f"the embodiment '{self.name}' has no normalisation", hint="Fit it on training episodes.")
        return self.normalisation

    def _batched(
        self, rows: np.ndarray, before: np.ndarray, *, width: int, chunk: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both as float64 with one batch axis, (B, T, width) and (B, A)."""
        if rows.ndim < 2 or rows.shape[-1] != width:
            raise UserError(f"'{self.name}' takes rows of {width} numbers, not an array {rows.shape}")
        if before.shape != (*rows.shape[:-2], len(self.columns)):
            raise UserError(f"'{self.name}' got rows {rows.shape} and before {before.shape}: one for each batch")
        if rows.shape[-2] % chunk or not rows.size:
            raise UserError(f"{rows.shape[-2]} rows are no whole number of chunks of {chunk}")
        rows_BTC = np.asarray(rows, np.float64).reshape(-1, *rows.shape[-2:])
        return rows_BTC, np.asarray(before, np.float64).reshape(-1, len(self.columns))


def load_embodiment(path: Path) -> RobotEmbodiment:
    """From a file that `save` wrote. UserError if it is missing or has unknown fields, BadData if it is no JSON."""
    if not path.is_file():
        raise UserError(f"{path} is missing", hint="A checkpoint has it once it is aligned to a robot.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadData(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise BadData(f"{path} holds no object")
    return from_dict(RobotEmbodiment, content, where=str(path))


def override(embodiment: RobotEmbodiment, changes: Mapping[str, Mapping[str, Any]]) -> RobotEmbodiment:
    """Other fields for some groups, as in {"left_arm": {"kind": "delta"}}; a column's name splits it off its group.

    What was fitted is dropped. UserError for unknown names, with the nearest, and for what cannot be.
    """
    groups = list(embodiment.groups)
    for name, fields in changes.items():
        if name not in [group.name for group in groups]:
            groups = _split(embodiment, groups, name)
        place = [group.name for group in groups].index(name)
        given = {"reason": "set by hand", **fields}
        groups[place] = from_dict(ControlGroup, {**to_dict(groups[place]), **given}, where=name)
    return replace(embodiment, groups=tuple(groups), normalisation=None)


def describe(embodiment: RobotEmbodiment) -> list[tuple[str, ...]]:
    """A table to show: one row of text per column, under HEADER."""
    rows = []
    dead = embodiment.normalisation.dead if embodiment.normalisation else ()
    for group in embodiment.groups:
        kind = " ".join([group.kind, *([group.rotation, f"({group.frame})"] if group.rotation else [])])
        for column in range(group.start, group.stop):
            name = embodiment.columns[column]
            seen = "{:.3g} to {:.3g}".format(*embodiment.seen[column]) if embodiment.seen else ""
            still = name in dead or (embodiment.seen and embodiment.seen[column][0] == embodiment.seen[column][1])
            why = f"{group.reason}; never moves" if still else group.reason
            rows.append((name, group.name, kind + (", wraps" if group.wraps else ""), group.unit, seen, why))
    return rows


def ranges(episodes: Sequence[np.ndarray]) -> tuple[tuple[float, float], ...]:
    """Lowest and highest value of each column of the episodes' actions (T, A)."""
    rows = np.concatenate(episodes)
    return tuple(zip(rows.min(axis=0).tolist(), rows.max(axis=0).tolist(), strict=True))


def _split(embodiment: RobotEmbodiment, groups: list[ControlGroup], column: str) -> list[ControlGroup]:
    """The groups, with a column in one of its own."""
    names = [group.name for group in groups]
    if column not in embodiment.columns:
        options = {*names, *embodiment.columns}
        raise UserError(f"'{embodiment.name}' has no control group or column '{column}'; {nearest(column, options)}")
    index = embodiment.columns.index(column)
    place = next(place for place, group in enumerate(groups) if group.start <= index < group.stop)
    group = groups[place]
    if group.rotation:
        raise UserError(f"'{column}' is part of the rotation '{group.name}'", hint="Set the whole group.")
    pieces = [(group.name, group.start, index), (column, index, index + 1), (f"{group.name}_2", index + 1, group.stop)]
    if index == group.start:  # nothing is left before it: what follows keeps the name
        pieces = [pieces[1], (group.name, index + 1, group.stop)]
    return [
        *groups[:place],
        *(
            replace(
                group,
                name=name,
                start=start,
                stop=stop,
                limits=group.limits[start - group.start : stop - group.start] if group.limits else None,
            )
            for name, start, stop in pieces
            if start < stop
        ),
        *groups[place + 1 :],
    ]
