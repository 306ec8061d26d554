"""Pictures for pages that are one file: line plots as SVG, heat tables as HTML, animations as WebP in data URIs.

Nothing here needs a script, a style sheet from elsewhere or the network. `STYLE` belongs into the page's head.
"""

import base64
import html
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

COLOURS = ("#0b62c4", "#c4490b", "#2c8a3d", "#8a3dac", "#7a6a00", "#008a8a", "#b0306a", "#555555")
WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 42

STYLE = """
 .plot svg { width: 100%; max-width: 36rem; height: auto; display: block; }
 .plot text { font: 13px system-ui, sans-serif; fill: #444; }
 .keys { margin: .2rem 0 0; padding: 0; font-size: .85rem; }
 .keys li { display: inline-block; margin-right: 1rem; list-style: none; }
 .keys i { display: inline-block; width: 1.4rem; border-top: 3px solid; vertical-align: middle; margin-right: .3rem; }
 .wide { overflow-x: auto; }
 .heat { border-collapse: separate; border-spacing: 2px; font-variant-numeric: tabular-nums; font-size: .85rem; }
 .heat td { text-align: right; padding: .2rem .45rem; border-radius: 3px; white-space: nowrap; border: 0; }
 .heat th { text-align: left; padding: .2rem .45rem .2rem 0; font-weight: 500; }
 .heat thead th { text-align: right; }
 .heat small { display: block; color: inherit; opacity: .75; font-size: .72rem; }
"""


@dataclass(frozen=True)
class Line:
    """One curve. `low` and `high`, where given, draw a band; `dashed` marks a reference beside what is measured."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False
    colour: str = ""
    """Of CSS; by default the next of `COLOURS`."""


def line_plot(
    lines: Sequence[Line], *, x_label: str, y_label: str, log_x: bool = False, y_limits: tuple[float, float]
) -> str:
    """SVG with axes and a legend below. Values outside `y_limits` lie on its border. ValueError without a line."""
    if not lines:
        raise ValueError("a plot needs at least one line")
    xs = [math.log2(x) if log_x else x for line in lines for x in line.x]
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1e-9)
    low_y, high_y = y_limits

    def place_x(x: float) -> float:
        return LEFT + ((math.log2(x) if log_x else x) - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def place_y(y: float) -> float:
        return TOP + (high_y - min(max(y, low_y), high_y)) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(sorted({x for line in lines for x in line.x}), y_limits, place_x, place_y)]
    for number, line in enumerate(lines):
        colour = _colour(line, number)
        if line.low:
            edge = [*zip(line.x, line.high, strict=True), *reversed(list(zip(line.x, line.low, strict=True)))]
            points = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in edge)
            parts.append(f'<polygon points="{points}" fill="{colour}" opacity=".13"/>')
        points = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.2"{dash}/>')
        parts += [
            f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3" fill="{colour}"/>'
            for x, y in zip(line.x, line.y, strict=True)
        ]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x_label)}</text>')
    keys = "".join(
        f'<li><i style="border-color:{_colour(line, number)}'
        f'{";border-top-style:dashed" if line.dashed else ""}"></i>{html.escape(line.name)}</li>'
        for number, line in enumerate(lines)
    )
    return (
        f'<figure class=plot><figcaption>{html.escape(y_label)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{html.escape(y_label)} over {html.escape(x_label)}">{"".join(parts)}</svg>'
        f"<ul class=keys>{keys}</ul></figure>"
    )


def _colour(line: Line, number: int) -> str:
    return line.colour or COLOURS[number % len(COLOURS)]


def _axes(
    ticks_x: Sequence[float],
    limits: tuple[float, float],
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
) -> str:
    """Horizontal rules with their values, and values below; of many x values only every second or so is written."""
    low, high = limits
    step = next(
        s
        for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 1e9)
        if (high - low) / s <= 7
    )
    first = math.ceil(low / step - 1e-9) * step
    rules = [first + index * step for index in range(int((high - first) / step + 1e-9) + 1)]
    parts = []
    for y in rules:
        strong = "#999" if abs(y) < 1e-9 else "#e4e4e4"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place_y(y):.1f}" y2="{place_y(y):.1f}" stroke="{strong}"/>'
            f'<text x="{LEFT - 6}" y="{place_y(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>'
        )
    for x in ticks_x[:: -(-len(ticks_x) // 9)]:
        parts.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x:.4g}</text>')
    return "".join(parts)


@dataclass(frozen=True)
class Cell:
    """One value of a heat table: `share` in [0, 1] colours it, `small` stands below it."""

    text: str
    share: float
    small: str = ""


def heat_table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell | None]]]) -> str:
    """HTML table, darker where `share` is higher; it scrolls sideways on a narrow screen."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(_cell(cell) for cell in cells)}</tr>" for name, cells in rows
    )
    return (
        f"<div class=wide><table class=heat><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td>–</td>"
    share = min(max(cell.share, 0.0), 1.0)
    red, green, blue = (round(white + (dark - white) * share) for white, dark in ((246, 11), (248, 84), (251, 160)))
    ink = "#fff" if share > 0.55 else "#222"
    small = f"<small>{html.escape(cell.small)}</small>" if cell.small else ""
    return f'<td style="background:rgb({red},{green},{blue});color:{ink}">{html.escape(cell.text)}{small}</td>'


def animation(frames: np.ndarray, *, milliseconds: int, quality: int = 70) -> str:
    """Frames uint8 (T, H, W, 3) -> an animated WebP as a data URI, played for ever."""
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, quality=quality
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def beside(panels: Sequence[np.ndarray], *, height: int, gap: int = 2) -> np.ndarray:
    """Films uint8 (T, H, W, 3) of one size side by side, a white gap between them: uint8 (T, height, W', 3).

    Small pictures are enlarged in whole steps, large ones reduced, to `height` or a little more.
    """
    count, rows, columns, _ = panels[0].shape
    size = (round(columns * height / rows), height) if rows > height else (columns * -(-height // rows), 0)
    size = (size[0], size[1] or rows * -(-height // rows))
    kind = Image.Resampling.BOX if rows > height else Image.Resampling.NEAREST
    film = np.full((count, size[1], len(panels) * (size[0] + gap) - gap, 3), 255, np.uint8)
    for place, panel in enumerate(panels):
        left = place * (size[0] + gap)
        for t in range(count):
            film[t, :, left : left + size[0]] = np.asarray(Image.fromarray(panel[t]).resize(size, kind))
    return film
