"""The card of a video model as a page: one HTML file with films, plots, and what good looks like."""

import html
from collections.abc import Mapping, Sequence

from common.folders import printable
from scripts.lam_page import HEAD
from scripts.page_plots import STYLE, Line, animation, beside, line_plot
from scripts.video_table import NAMES, Table, gate_text, tables, verdict
from video_model.evaluate import Film
from video_model.video_card import Curve, VideoCard

FILM_MILLISECONDS = 200  # a frame
PANEL_HEIGHT = 96  # pixels
PANELS = ("truth", "own", "opposite", "zero", "shuffled")


def video_page(card: VideoCard, films: Sequence[Film]) -> str:
    """The whole page."""
    colour = "#c4490b" if any(gate.passed is False for gate in card.gates) else "#2c8a3d"
    parts = [
        HEAD.format(title=f"Card of {_text(card.model)}", colour=colour, plots=STYLE),
        f"<h1>Rollouts of {_text(card.model)}</h1><p class=verdict>{_text(verdict(card))}</p>",
        _gates(card),
        _films(films),
        _plots(card),
        *(_table(table) for table in tables(card)),
        _how(card),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _text(value: str) -> str:
    return html.escape(printable(value))


def _gates(card: VideoCard) -> str:
    kinds = {True: ("yes", "PASS "), False: ("no", "MISS "), None: ("", "")}
    shown = [(*kinds[gate.passed], gate_text(gate)) for gate in card.gates]
    items = "".join(f'<li class="{kind}">{mark}{_text(text)}</li>' for kind, mark, text in shown)
    return f"<ul class=gates>{items}</ul>"


def _films(films: Sequence[Film]) -> str:
    return f"""<h2>Rollouts</h2><p class=note>All begin with the same frame; only the first film was recorded. Good: own
actions look like it, opposite ones move the hand the other way, zero actions stand still, and another clip's do
something else in the same scene.</p><div class=films>{"".join(map(_film, films))}</div>"""


def _film(film: Film) -> str:
    source = animation(
        beside([film.frames[name] for name in PANELS], height=PANEL_HEIGHT), milliseconds=FILM_MILLISECONDS
    )
    panels = "".join(f"<span>{_text(NAMES[name])}</span>" for name in PANELS)
    alt = ", ".join(NAMES[name] for name in PANELS)
    return (
        f'<figure><img alt="{_text(film.clip)}: {_text(alt)}" src="{source}"><div class=panels>{panels}</div>'
        f"<figcaption>{_text(film.clip)}</figcaption></figure>"
    )


def _plots(card: VideoCard) -> str:
    plots = []
    shown = {name: kind for name, kind in card.fidelity.items() if name not in ("opposite", "camera alone")}
    for label, curves in (
        ("PSNR in dB", {name: kind.psnr for name, kind in shown.items()}),
        ("SSIM", {name: kind.ssim for name, kind in shown.items()}),
        ("LPIPS, good is low", {name: kind.lpips for name, kind in shown.items() if kind.lpips}),
    ):
        if curves:
            steps = range(1, card.steps + 1)
            plots.append(_plot(curves, steps, x_label="frame", y_label=f"{label}, by frame since the first"))
    if card.drift:
        y_label = "PSNR in dB over four training windows. Good: flat"
        plots.append(_plot({"own": card.drift.psnr}, card.drift.seconds, x_label="seconds", y_label=y_label))
    return f"<h2>Over time</h2><div class=plots>{''.join(plots)}</div>"


def _plot(curves: Mapping[str, Curve], x: Sequence[float], *, x_label: str, y_label: str) -> str:
    lines = [
        Line(
            NAMES[name],
            x,
            [value.value for value in curve.frames],
            low=[value.low for value in curve.frames] if name == "own" else (),
            high=[value.high for value in curve.frames] if name == "own" else (),
            dashed=name in ("forecast", "copy", "tokenizer"),
        )
        for name, curve in curves.items()
    ]
    values = [value for line in lines for value in (*line.y, *line.low, *line.high)]
    edge = 0.05 * (max(values) - min(values)) + 1e-3
    return line_plot(lines, x_label=x_label, y_label=y_label, y_limits=(min(values) - edge, max(values) + edge))


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr><th>{_text(name)}</th>"
        + "".join(f"<td>{_text(cell.text)}<small>{_text(cell.spread)}</small></td>" for cell in cells)
        + "</tr>"
        for name, cells in table.rows.items()
    )
    return f"""<h2>{_text(table.title)}</h2><p class=note>{_text(table.note)}</p><div class=wide><table class=numbers>
<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"""


def _how(card: VideoCard) -> str:
    return f"""<h2>How it was measured</h2><p>Protocol <code>{_text(card.protocol)}</code>, seed {card.seed}:
{card.windows} windows of {card.steps} steps from {card.clips} clips of {_text(card.data)}. Small numbers: 95 %
intervals, 1000 resamples of whole clips. PSNR and SSIM are of frames 1 to T; frame 0 is given.</p>"""
