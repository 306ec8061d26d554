"""The card of a video model as a page: one HTML file with films, plots, and what good looks like."""

from collections.abc import Mapping, Sequence

from scripts.lam_page import HEAD
from scripts.page_parts import curve_plot, film_figure, gate_list, number_table, text, verdict_colour
from scripts.page_plots import STYLE
from scripts.video_table import NAMES, tables, verdict
from video_model.evaluate import Film
from video_model.video_card import Curve, VideoCard

PANELS = {name: NAMES[name] for name in ("truth", "own", "opposite", "zero", "shuffled")}
DASHED = ("forecast", "copy", "tokenizer")


def video_page(card: VideoCard, films: Sequence[Film]) -> str:
    """The whole page."""
    parts = [
        HEAD.format(title=f"Card of {text(card.model)}", colour=verdict_colour(card.gates), plots=STYLE),
        f"<h1>Rollouts of {text(card.model)}</h1><p class=verdict>{text(verdict(card))}</p>",
        gate_list(card.gates),
        _films(films),
        _plots(card),
        *(number_table(table) for table in tables(card)),
        _how(card),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _films(films: Sequence[Film]) -> str:
    return f"""<h2>Rollouts</h2><p class=note>All begin with the same frame; only the first film was recorded. Good: own
actions look like it, opposite ones move the hand the other way, zero actions stand still, and another clip's do
something else in the same scene.</p><div class=films>{"".join(film_figure(film, PANELS) for film in films)}</div>"""


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
            plots.append(_curves(curves, steps, x_label="frame", y_label=f"{label}, by frame since the first"))
    if card.drift:
        y_label = "PSNR in dB over four training windows. Good: flat"
        plots.append(_curves({"own": card.drift.psnr}, card.drift.seconds, x_label="seconds", y_label=y_label))
    return f"<h2>Over time</h2><div class=plots>{''.join(plots)}</div>"


def _curves(curves: Mapping[str, Curve], x: Sequence[float], *, x_label: str, y_label: str) -> str:
    return curve_plot(curves, NAMES, x, x_label=x_label, y_label=y_label, band="own", dashed=DASHED)


def _how(card: VideoCard) -> str:
    return f"""<h2>How it was measured</h2><p>Protocol <code>{text(card.protocol)}</code>, seed {card.seed}:
{card.windows} windows of {card.steps} steps from {card.clips} clips of {text(card.data)}. Small numbers: 95 %
intervals, 1000 resamples of whole clips. PSNR and SSIM are of frames 1 to T; frame 0 is given.</p>"""
