"""`understudy align`: says what the robot's controls are taken for, learns, and says how long it took."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from align.datasets import open_dataset
from align.embodiment import HEADER, RobotEmbodiment, describe
from align.presets import AlignConfig, Mode
from align.train import align, training_episodes
from scripts.align_words import EXAMPLE, read_changes

FEW_EPISODES = 20
"""Below so many the network is left as it is, unless told otherwise."""


def run_align(
    checkpoint: Path,
    dataset: str,
    out: Path,
    *,
    mode: Mode | None,
    name: str | None,
    episodes: str | None,
    camera: str | None,
    words: Sequence[str],
    config: AlignConfig,
) -> None:
    """Write `out`. words: corrections of the controls, as `scripts.align_words.read_changes` takes them."""
    began = time.monotonic()
    changes = read_changes(words)
    if mode is None:
        mode, why = chosen_mode(dataset, episodes)
        print(f"--mode {mode}: {why}")
    align(
        checkpoint,
        dataset,
        mode=mode,
        out=out,
        config=config,
        # A dataset from the hub lies in a folder that is called by its revision.
        name=name or (None if Path(dataset).exists() else Path(dataset).name),
        episodes=episodes,
        camera=camera,
        changes=changes or None,
        show=show_controls,
    )
    print(f"{out}: aligned in {_minutes(time.monotonic() - began)}")
    opened = open_dataset(dataset)
    left = len(opened.episodes) - len(training_episodes(opened, episodes))
    kept = "" if left else " --episodes FIRST:END, of others than these: all were learned from"
    print(f"Next: understudy evaluate align {out} {dataset}{kept}")


def chosen_mode(dataset: str, episodes: str | None) -> tuple[Mode, str]:
    """The mode for so many episodes, and why in words."""
    count = len(training_episodes(open_dataset(dataset), episodes))
    if count < FEW_EPISODES:
        return "adapter", f"{count} episodes, so the network stays as it is ({FEW_EPISODES} or more: posttrain)"
    return "posttrain", f"{count} episodes, so the network learns too (fewer than {FEW_EPISODES}: adapter)"


def show_controls(embodiment: RobotEmbodiment) -> None:
    """The table of controls, and how to correct it."""
    print_controls(embodiment)
    print(f"Not so? Correct a group or a column with {EXAMPLE}.", flush=True)


def print_controls(embodiment: RobotEmbodiment, *, console: Console | None = None) -> None:
    console = console or Console()
    if not console.is_terminal and console.width < 110:
        console = Console(file=console.file, width=110)
    title = f"controls of {embodiment.name}, {embodiment.rate:g} rows per second"
    table = Table(title=escape(title), title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in HEADER:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("column", "group"))
    before = ""
    for *said, why in describe(embodiment):
        table.add_row(*map(escape, said), "″" if why == before else escape(why))
        before = why
    console.print(table)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
