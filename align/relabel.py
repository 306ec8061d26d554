"""Robot video without labels becomes an action-labelled LeRobot dataset, by a model that is aligned to the robot.

What can be known from video alone is what changes. So an absolute control is written as its change in each row, named
"x.delta" and, for a rotation, as a turn "wrist.delta.x" in radians: where the robot stood no frame tells. Deltas and
velocities stay what they are. A gripper's opening is the sum of its changes, begun where the whole episode fits best
between the lowest and the highest opening seen: how it opens and closes is read, how wide it is is a guess.

Axes: T frames, A columns of controls, C numbers of a change.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment, ranges
from align.films import Film, Films, Unusable, open_films
from align.inverse import Inverse, read_inverse
from align.lerobot import RobotEpisode, write_lerobot
from align.robot import load_robot
from align.told_controls import controls_of
from align.train import frame_codes
from common.checkpoints import durable_folder
from common.errors import BadData, UserError


@dataclass
class RelabelReport:
    """What was written."""

    episodes: int = 0
    frames: int = 0
    left_out: list[str] = field(default_factory=list)
    """Reasons, one for each episode or clip that could not be used."""


def relabel(
    checkpoint: Path,
    source: Path,
    out: Path,
    *,
    robot: str | None = None,
    camera: str | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[RelabelReport, Inverse]:
    """Write the dataset `out` of a robot dataset, whose own actions are not looked at, or a folder of video.

    robot: may be left out where the checkpoint knows only one. size: height and width of the pictures that are kept, by
    default as they are. States are copied where the source has them. The embodiment of what is written lies beside it,
    `out`/controls/NAME.json.
    UserError if the checkpoint cannot do it or `out` exists; BadData if nothing of the source can be used.
    """
    if out.exists():
        raise UserError(f"{out} exists already", hint="Choose another --out.")
    loaded = load_robot(checkpoint, robot)
    name, generator = loaded.embodiment.name, loaded.generator
    inverse = read_inverse(checkpoint, name)
    if generator.forecaster is None:
        raise UserError(f"{checkpoint} holds no latent action model, so nothing says what the frames show")
    written = as_changes(loaded.embodiment)
    seen = (generator.config.data.height, generator.config.data.width)
    films = open_films(source, rate=written.rate, seen=seen, shown=size, camera=camera)
    report, actions = RelabelReport(), []
    shape: tuple[int, ...] = ()

    def episodes() -> Iterator[RobotEpisode]:
        nonlocal shape
        for film in films:
            if isinstance(film, Unusable):
                report.left_out.append(film.reason)
                continue
            if actions and film.shown.shape[1:] != shape:
                raise UserError(f"{film.name} has another size of picture than those before", hint="Give --size.")
            shape = film.shown.shape[1:]
            changes = inverse.changes(frame_codes(generator, film.seen))
            actions.append(actions_of(loaded.embodiment, written, changes))
            report.episodes, report.frames = report.episodes + 1, report.frames + len(film.seen)
            yield _episode(film, actions[-1], films)

    first = next(made := episodes(), None)
    if first is None:
        raise BadData("\n  ".join([f"nothing of {source} can be used:", *report.left_out[:20]]))
    with durable_folder(out) as folder:
        write_lerobot(
            folder,
            _chained(first, made),
            fps=_whole(written.rate),
            robot_type=name,
            state_names=films.state_names,
            action_names=written.columns,
        )
        replace(written, seen=ranges(actions)).save(folder)
        (folder / "README.md").write_text(_card(checkpoint, source, inverse, report, written), encoding="utf-8")
    return report, inverse


def as_changes(embodiment: RobotEmbodiment) -> RobotEmbodiment:
    """The embodiment of what can be read from video: absolute groups as deltas, all others as they are; not fitted."""
    groups: list[ControlGroup] = []
    columns: list[str] = []
    for group in embodiment.groups:
        names = list(embodiment.columns[group.start : group.stop])
        start, reason, kind, rotation, unit = len(columns), group.reason, group.kind, group.rotation, group.unit
        if group.kind == "absolute":
            names = [f"{group.name}.delta.{axis}" for axis in "xyz"] if rotation else [f"{n}.delta" for n in names]
            kind, rotation, unit = "delta", "axis_angle" if rotation else None, "rad" if rotation else unit
            reason = "read from video, which shows changes alone"
        columns += names
        groups.append(
            replace(
                group,
                start=start,
                stop=len(columns),
                kind=kind,
                rotation=rotation,
                wraps=False,
                unit=unit,
                limits=group.limits if group.kind != "absolute" else None,
                reason=reason,
            )
        )
    return RobotEmbodiment(embodiment.name, tuple(columns), embodiment.rate, tuple(groups))


def actions_of(embodiment: RobotEmbodiment, written: RobotEmbodiment, changes: np.ndarray) -> np.ndarray:
    """Actions float32 (T + 1, A) of `written`, which is `as_changes` of the embodiment, from changes (T, C).

    The last row, which leads nowhere, changes nothing.
    """
    start, seen, first = np.zeros(len(written.columns)), [(0.0, 0.0)] * len(written.columns), 0
    for own, other in zip(embodiment.groups, written.groups, strict=True):
        for place in range(own.width if own.kind == "gripper" else 0):
            low, high = embodiment.seen[own.start + place]
            sums = np.concatenate(([0.0], np.cumsum(changes[:, first + place])))
            seen[other.start + place] = low, high
            start[other.start + place] = np.clip((low + high - sums.min() - sums.max()) / 2, low, high)
        first += own.relative_width
    rows = controls_of(replace(written, seen=tuple(seen)), changes[None], start[None])[0]
    return np.concatenate((rows, written.neutral(rows[-1], rows=1)))


def _episode(film: Film, actions: np.ndarray, films: Films) -> RobotEpisode:
    states = np.zeros((len(film.seen), 0), np.float32) if film.states is None else film.states
    return RobotEpisode(film.shown, states, actions, task=f"unknown, from {film.name}")


def _chained(first: RobotEpisode, rest: Iterator[RobotEpisode]) -> Iterator[RobotEpisode]:
    yield first
    yield from rest


def _whole(rate: float) -> int:
    """The rate as the format takes it. UserError if it is no whole number."""
    if abs(rate - round(rate)) > 1e-3 * rate:
        raise UserError(f"the robot has {rate:g} rows per second; a LeRobot dataset takes a whole number")
    return round(rate)


def _card(checkpoint: Path, source: Path, inverse: Inverse, report: RelabelReport, written: RobotEmbodiment) -> str:
    """The dataset's README.md."""
    table = "\n".join(
        f"| {name} | {'not measured' if share is None else f'{share:.2f}'} |"
        for name, share in zip(inverse.names, inverse.readable, strict=True)
    )
    return f"""# Video of `{written.name}` with actions read from the frames

{report.episodes} episodes, {report.frames} frames, made by

    understudy label {checkpoint} {source} --as-actions --robot {written.name} --out OUT

Nobody recorded these actions: a model read them from the video. Video shows what changes and not where things stand,
so a control that the robot takes as an absolute target is written as its change in each row (`.delta`). Openings of
grippers are sums of their changes; where each episode begins between open and closed is a guess.

How much of each control's change was read right in labelled episodes that were left out (R2: 1 all, 0 nothing; where it
is near 0 the column says next to nothing):

| change | R2 |
|---|---|
{table}

`controls/{written.name}.json` says what the columns mean.
"""
