"""The card of a robot as a page: one HTML file with films, a strip for each control, and what good looks like."""

from collections.abc import Sequence

from align.align_card import AlignCard
from align.evaluate import Measured
from align.one_at_a_time import Strip
from scripts.align_table import NAMES, moved_states, tables, unread, verdict
from scripts.lam_page import HEAD
from scripts.page_parts import curve_plot, film_figure, gate_list, number_table, text, verdict_colour
from scripts.page_plots import STYLE, Cell, animation, beside, heat_table
from video_model.evaluate import Film

PANELS = {name: NAMES[name] for name in ("truth", "true", "opposite", "zero", "shuffled")}
STRIP_HEIGHT = 96  # pixels
STRIP_NAMES = {"first": "first frame", "less": "one unit less", "more": "one unit more", "difference": "difference"}


def align_page(measured: Measured) -> str:
    """The whole page."""
    card = measured.card
    parts = [
        HEAD.format(title=f"Card of {text(card.robot)}", colour=verdict_colour(card.gates), plots=STYLE),
        f"<h1>{text(card.robot)} in {text(card.model)}</h1><p class=verdict>{text(verdict(card))}</p>",
        gate_list(card.gates),
        f'<p class="bad">{text(unread(card))}</p>' if unread(card) else "",
        _films(measured.films),
        _strips(measured.strips),
        _matrix(card),
        _plots(card),
        *(number_table(table) for table in tables(card)),
        _how(card),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _films(films: Sequence[Film]) -> str:
    return f"""<h2>Rollouts</h2><p class=note>All begin with the same frame; only the first film was recorded. Good:
true controls look like it, opposite ones move the robot the other way, neutral ones stand still, and another episode's
do something else in the same scene.</p><div class=films>{"".join(film_figure(film, PANELS) for film in films)}</div>"""


def _strips(strips: Sequence[Strip]) -> str:
    return f"""<h2>What each control does</h2><p class=note>From one first frame, one control gets a unit less or more,
the others nothing. Grey in the last picture: no difference between the two. Good: the part of the robot that the
control moves, and nothing else.</p><div class=films>{"".join(map(_strip, strips))}</div>"""


def _strip(strip: Strip) -> str:
    film = beside([strip.pictures[kind][None] for kind in STRIP_NAMES], height=STRIP_HEIGHT)
    panels = "".join(f"<span>{name}</span>" for name in STRIP_NAMES.values())
    alt = f"{strip.control}: {', '.join(STRIP_NAMES.values())}"
    return (
        f'<figure><img alt="{text(alt)}" src="{animation(film, milliseconds=1000)}"><div class=panels>{panels}</div>'
        f"<figcaption>{text(strip.control)}</figcaption></figure>"
    )


def _matrix(card: AlignCard) -> str:
    """The state's changes, darker where a control changes more than elsewhere in its row."""
    table = moved_states(card)
    if table is None:
        return ""
    rows = []
    for effect in card.trials.controls:
        most = max(abs(change) for change in effect.states.values()) or 1.0
        shares = [abs(change) / most for change in effect.states.values()]
        cells = [Cell(cell.text, share) for cell, share in zip(table.rows[effect.name], (*shares, 0.0), strict=True)]
        rows.append((effect.name, cells))
    return f"<h2>{table.title}</h2><p class=note>{text(table.note)}</p>{heat_table(table.columns, rows)}"


def _plots(card: AlignCard) -> str:
    shown = {name: kind for name, kind in card.fidelity.items() if name != "opposite"}
    plots = [
        curve_plot(
            curves,
            NAMES,
            range(1, card.steps + 1),
            x_label="frame",
            y_label=f"{label}, by frame since the first",
            band="true",
            dashed=("copy", "tokenizer"),
        )
        for label, curves in (
            ("PSNR in dB", {name: kind.psnr for name, kind in shown.items()}),
            ("SSIM", {name: kind.ssim for name, kind in shown.items()}),
        )
    ]
    return f"<h2>Over time</h2><div class=plots>{''.join(plots)}</div>"


def _how(card: AlignCard) -> str:
    probe = ""
    if card.state:
        probe = f" The probe learned on {card.state.probe_episodes} episodes, none of which is measured."
    return f"""<h2>How it was measured</h2><p>Protocol <code>{text(card.protocol)}</code>, seed {card.seed}:
{card.windows} windows of {card.steps} steps from {card.episodes} episodes of {text(card.data)}. Small numbers: 95 %
intervals, 1000 resamples of whole episodes. PSNR, SSIM and state errors are of frames 1 to T; frame 0 is given. Another
episode's controls are applied as changes, so that they begin where the robot is; opposite ones are the changes turned
round.{probe}</p>"""
