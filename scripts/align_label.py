"""`understudy label --as-actions`: says what was written, and how far it can be trusted."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from align.relabel import relabel


def run_relabel(
    checkpoint: Path, source: Path, out: Path, *, robot: str | None, camera: str | None, size: tuple[int, int] | None
) -> None:
    """Write the dataset `out`; prints what was left out and how well each control can be read."""
    report, inverse = relabel(checkpoint, source, out, robot=robot, camera=camera, size=size)
    for reason in report.left_out:
        print(f"left out: {reason}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("control")
    table.add_column("read right in episodes left out (R2: 1 all, 0 nothing)")
    for name, share in zip(inverse.names, inverse.readable, strict=True):
        table.add_row(escape(name), "not measured" if share is None else f"{share:.2f}")
    Console().print(table)
    print(f"{out}: {report.episodes} episodes, {report.frames} frames, with the actions read from them")
    print(f"Next: understudy data check {out}")
