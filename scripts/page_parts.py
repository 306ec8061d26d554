"""Parts of a card's page: gates, tables of numbers, films beside each other, curves over time."""

import html
from collections.abc import Iterable, Mapping, Sequence

from common.folders import printable
from common.intervals import Interval
from scripts.card_print import Table, gate_text
from scripts.page_plots import Line, animation, beside, line_plot
from video_model.evaluate import Film
from video_model.video_card import Curve, Gate

FILM_MILLISECONDS = 200  # a frame
PANEL_HEIGHT = 96  # pixels
GOOD, BAD = "#2c8a3d", "#c4490b"


def text(value: str) -> str:
    return html.escape(printable(value))


def verdict_colour(gates: Iterable[Gate]) -> str:
    return BAD if any(gate.passed is False for gate in gates) else GOOD


def gate_list(gates: Iterable[Gate]) -> str:
    kinds = {True: ("yes", "PASS "), False: ("no", "MISS "), None: ("", "")}
    shown = [(*kinds[gate.passed], gate_text(gate)) for gate in gates]
    items = "".join(f'<li class="{kind}">{mark}{text(words)}</li>' for kind, mark, words in shown)
    return f"<ul class=gates>{items}</ul>"


def film_figure(film: Film, names: Mapping[str, str]) -> str:
    """The film's kinds that have names, side by side."""
    source = animation(
        beside([film.frames[kind] for kind in names], height=PANEL_HEIGHT), milliseconds=FILM_MILLISECONDS
    )
    panels = "".join(f"<span>{text(name)}</span>" for name in names.values())
    return (
        f'<figure><img alt="{text(film.clip)}: {text(", ".join(names.values()))}" src="{source}">'
        f"<div class=panels>{panels}</div><figcaption>{text(film.clip)}</figcaption></figure>"
    )


def curve_plot(
    curves: Mapping[str, Curve],
    names: Mapping[str, str],
    x: Sequence[float],
    *,
    x_label: str,
    y_label: str,
    band: str,
    dashed: Sequence[str],
) -> str:
    """One line for each curve; that of the kind `band` with its intervals."""
    lines = [
        interval_line(names[kind], x, curve.frames, band=kind == band, dashed=kind in dashed)
        for kind, curve in curves.items()
    ]
    return fitted_plot(lines, x_label=x_label, y_label=y_label)


def interval_line(name: str, x: Sequence[float], y: Sequence[Interval], *, band: bool, dashed: bool) -> Line:
    """band: with the intervals."""
    return Line(
        name,
        x,
        [value.value for value in y],
        low=[value.low for value in y] if band else (),
        high=[value.high for value in y] if band else (),
        dashed=dashed,
    )


def fitted_plot(lines: Sequence[Line], *, x_label: str, y_label: str) -> str:
    """Limits that hold all lines and bands."""
    values = [value for line in lines for value in (*line.y, *line.low, *line.high)]
    edge = 0.05 * (max(values) - min(values)) + 1e-3
    return line_plot(lines, x_label=x_label, y_label=y_label, y_limits=(min(values) - edge, max(values) + edge))


def number_table(table: Table) -> str:
    head = "".join(f"<th>{text(column)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr><th>{text(name)}</th>"
        + "".join(f"<td>{text(cell.text)}<small>{text(cell.spread)}</small></td>" for cell in cells)
        + "</tr>"
        for name, cells in table.rows.items()
    )
    return f"""<h2>{text(table.title)}</h2><p class=note>{text(table.note)}</p><div class=wide><table class=numbers>
<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"""
