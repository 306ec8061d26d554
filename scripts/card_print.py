"""A card's tables and gates, and how a terminal shows them."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Printed

from video_model.video_card import Gate

MOST_SPREADS = 4
"""Columns of a table that has room for intervals, too."""


@dataclass(frozen=True)
class Cell:
    text: str
    spread: str = ""


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    """What is measured, and what good looks like."""
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]


def card_console() -> Console:
    """Wide enough for a card where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=100)


def print_tables(console: Console, tables: Iterable[Table]) -> None:
    for table in tables:
        console.print(f"\n[bold]{escape(table.title)}[/]\n{escape(table.note)}", highlight=False)
        printed = Printed(box=None, padding=(0, 2, 0, 0))
        printed.add_column("", no_wrap=True)
        room = len(table.columns) <= MOST_SPREADS
        spreads = [
            room and any(cells[place].spread for cells in table.rows.values()) for place in range(len(table.columns))
        ]
        for column, spread in zip(table.columns, spreads, strict=True):
            printed.add_column(column, justify="right", no_wrap=True)
            if spread:
                printed.add_column("95 %", justify="right", no_wrap=True)
        for name, cells in table.rows.items():
            texts = [
                text
                for cell, spread in zip(cells, spreads, strict=True)
                for text in ((cell.text, cell.spread) if spread else (cell.text,))
            ]
            printed.add_row(name, *texts)
        console.print(printed)


def print_gates(console: Console, gates: Iterable[Gate]) -> None:
    console.print("\n[bold]Gates[/]", highlight=False)
    for gate in gates:
        mark = {True: "[green]PASS[/]", False: "[red]MISS[/]", None: "–   "}[gate.passed]
        console.print(f"{mark}  {escape(gate_text(gate))}", highlight=False)


def gates_said(gates: Iterable[Gate]) -> str:
    """What they say together: "misses 1 of 4 gates (…)"."""
    missed = [gate.name for gate in gates if gate.passed is False]
    measured = sum(gate.passed is not None for gate in gates)
    if not missed:
        return f"misses none of {measured} gates"
    return f"misses {len(missed)} of {measured} gates ({'; '.join(missed)})"


def gate_text(gate: Gate) -> str:
    """The gate, its number and its limit."""
    if gate.value is None or gate.limit is None:
        return f"{gate.name}: not measured"
    return f"{gate.name}: {gate.value:.2f}, limit {gate.relation} {gate.limit:.2f}"
