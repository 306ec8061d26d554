"""`understudy data check`: a robot dataset before anyone aligns to it.

What was chosen of it, what its controls are taken for, all that is wrong, and, with a latent action model, whether its
actions fit its frames or come some rows early or late.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from align.check import DatasetCheck, check_dataset
from align.datasets import open_dataset
from align.embodiment import RobotEmbodiment
from align.guess import guess_embodiment
from align.hdf5_reader import Hdf5Dataset
from align.lerobot_reader import LeRobotDataset
from align.robot_dataset import RobotDataset
from align.shift import LEAST_SCORE, Shift, Shifts, find_shifts, open_lam
from common.config import to_dict
from common.errors import BadData
from scripts.align import print_controls

BAR = 20
NATURE = (
    "A negative shift is natural as far as a robot lags behind its targets (the actions alone are early) or the camera "
    "behind the robot (actions and state are). What is left is a mistake of the recording, and so is any positive one."
)


def run_check(dataset: str, *, checkpoint: Path | None, camera: str | None, json_path: Path | None) -> None:
    """Print the report and write it to `json_path`, if given. BadData, after all is printed, if anything is wrong."""
    lam = open_lam(checkpoint) if checkpoint else None
    opened = open_dataset(dataset)
    console = Console()
    about = _about(opened)
    for heading, text in about.items():
        console.print(f"{heading:>9}  {escape(text)}", soft_wrap=True, highlight=False)
    found = check_dataset(opened, cameras=(camera,) if camera else None)
    good = [episode for episode in opened.episodes if episode.index in found.good]
    embodiment = None
    if good and opened.action_keys:
        embodiment = guess_embodiment(opened, name=_name(dataset), episodes=good)
        console.print()
        print_controls(embodiment, console=console)
    _print_problems(found, console=console)
    shifts = None
    if lam and embodiment and opened.cameras:
        shifts = find_shifts(lam, opened, good, embodiment, camera=camera)
        _print_shifts(shifts, fps=opened.fps, console=console)
    if json_path:
        json_path.write_text(json.dumps(_numbers(about, found, embodiment, shifts), indent=1) + "\n", encoding="utf-8")
    _require(found)


def _about(dataset: RobotDataset[Any]) -> dict[str, str]:
    """What was chosen, heading by heading."""
    form = f"LeRobot {dataset.version}" if isinstance(dataset, LeRobotDataset) else "plain folder"
    if isinstance(dataset, Hdf5Dataset):
        form = "HDF5"

    def field(keys: tuple[str, ...], names: tuple[str, ...]) -> str:
        return f"{', '.join(keys)} ({len(names)} columns)" if keys else "none"

    return {
        "dataset": f"{dataset.root}, {form}",
        "episodes": f"{len(dataset.episodes)}",
        "fps": f"{dataset.fps:g}",
        "cameras": ", ".join(dataset.cameras) or "none",
        "state": field(dataset.state_keys, dataset.state_names),
        "actions": field(dataset.action_keys, dataset.action_names),
    }


def _name(place: str) -> str:
    """The folder's or the hub's name, as an embodiment may be called."""
    text = "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in Path(place).resolve().name)
    return text if text[:1].isalnum() and text.isascii() else "robot"


def _print_shifts(shifts: Shifts, *, fps: float, console: Console) -> None:
    console.print()
    columns = [("actions", shifts.controls), *([("state", shifts.state)] if shifts.state else [])]
    title = f"How well they are read from the frames, moved by so many rows ({shifts.episodes} episodes, R2)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("rows", justify="right")
    for heading, _ in columns:
        table.add_column(heading, no_wrap=True)
    for row in sorted({shift for _, one in columns for shift in one.shifts}):
        table.add_row(f"{row:+d}" if row else "0", *(_bar(one, row) for _, one in columns))
    console.print(table)
    for heading, one in columns:
        console.print(escape(verdict(heading, one, fps=fps)), soft_wrap=True, highlight=False)
    if any(one.slipped for _, one in columns):
        console.print(f"\n{NATURE}", soft_wrap=True, highlight=False)


def verdict(heading: str, shift: Shift, *, fps: float) -> str:
    """The most likely shift in words. heading: "actions" or "state"."""
    what, fit, come = ("Its actions", "fit", "come") if heading == "actions" else ("Its state", "fits", "comes")
    if shift.score < LEAST_SCORE:
        return f"{what} cannot be read from the frames by this model (R2 {shift.score:.2f}), so nothing can be said."
    if shift.best == 0:
        return f"{what} {fit} the frames as is (shift 0, R2 {shift.score:.2f})."
    row = "row" if abs(shift.best) == 1 else "rows"
    if not shift.slipped:
        best = f"shift {shift.best:+d} is the best, R2 {shift.score:.2f}, but may be so by chance"
        return f"{what} {fit} the frames as is, as far as can be told ({best})."
    says = f"{abs(shift.best)} {row} ({abs(shift.best) / fps * 1000:.0f} ms)"
    when = "later than what the frames show" if shift.best > 0 else "before the frames show it"
    gain = f"R2 {shift.score:.2f}, {shift.gain.value:.2f} ({shift.gain.low:.2f} to {shift.gain.high:.2f}) better"
    return f"{what} {come} {says} {when} (shift {shift.best:+d}): {gain} than unmoved."


def _bar(shift: Shift, row: int) -> str:
    """A score as a number and a bar."""
    if row not in shift.shifts:
        return ""
    score = shift.scores[shift.shifts.index(row)]
    top = max(max(shift.scores), 1e-9)
    bar = "█" * round(BAR * max(score, 0) / top)
    return f"{score:6.3f} {bar}{' ←' if row == shift.best else ''}"


def _print_problems(found: DatasetCheck, *, console: Console) -> None:
    if not found.problems:
        console.print(f"\nNothing is wrong with its {len(found.episodes)} episodes, {found.frames} frames.")
        return
    console.print(f"\nWRONG ({len(found.problems)}):")
    for problem in found.problems:
        where = "all" if problem.episode is None else f"episode {problem.episode}"
        console.print(f"  {where}, {escape(problem.field)}: {escape(problem.message)}", soft_wrap=True, highlight=False)


def _numbers(
    about: dict[str, str], found: DatasetCheck, embodiment: RobotEmbodiment | None, shifts: Shifts | None
) -> dict[str, Any]:
    return {
        **about,
        "frames": found.frames,
        "good": list(found.good),
        "problems": [asdict(problem) for problem in found.problems],
        "controls": to_dict(embodiment) if embodiment else None,
        "shifts": asdict(shifts) if shifts else None,
    }


def _require(found: DatasetCheck) -> None:
    """BadData that names the first of what is wrong, episode and field, and how many are."""
    if not found.problems:
        return
    first = found.problems[0]
    bad = len(found.episodes) - len(found.good)
    where = "" if first.episode is None else f"episode {first.episode}, "
    which = f"{bad} of {len(found.episodes)} episodes of {found.root}" if bad else str(found.root)
    hint = "Leave them out, or mend them: all are listed above. `understudy align` leaves them out by itself."
    message = f"{which} cannot be used as they are; {where}{first.field}: {first.message}"
    raise BadData(message, hint=hint if found.good else "All that is wrong is listed above.")
