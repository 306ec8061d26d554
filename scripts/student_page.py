"""The card of a student as a page: one HTML file with films, plots, and what good looks like."""

from collections.abc import Sequence

from distill.card import Endurance, StudentCard, StudentDrift
from distill.evaluate import Measured
from scripts.lam_page import HEAD
from scripts.page_parts import (
    BAD,
    GOOD,
    curve_plot,
    film_figure,
    fitted_plot,
    gate_list,
    interval_line,
    number_table,
    text,
)
from scripts.page_plots import STYLE, Line
from scripts.student_table import WHO, tables, verdict
from video_model.evaluate import Film

NAMES = {who: who for who in WHO}
PANELS = {"truth": "real frames", **NAMES}
CONTROL_PANELS = {
    "truth": "real frames",
    "own": "own actions",
    "opposite": "opposite actions",
    "zero": "zero actions",
}


def student_page(measured: Measured) -> str:
    """The whole page."""
    card = measured.card
    parts = [
        HEAD.format(title=f"Card of {text(card.student)}", colour=GOOD if card.passes else BAD, plots=STYLE),
        f"<h1>{text(card.student)}, student of {text(card.teacher)}</h1><p class=verdict>{text(verdict(card))}</p>",
        gate_list(card.gates),
        _films(measured.films, measured.control_films),
        f"<h2>Over time</h2><div class=plots>{_fidelity(card)}{_drift(card.drift)}</div>",
        f"<h2>The long rollout</h2><div class=plots>{_endurance(card.endurance)}</div>",
        *(number_table(table) for table in tables(card)),
        _how(card),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _films(films: Sequence[Film], control: Sequence[Film]) -> str:
    return f"""<h2>Rollouts</h2><p class=note>All begin with the same frame; only the first film was recorded. Long
films show every so many frames. Good: the student's looks like the real one, or at least like the teacher's, to its
end.</p><div class=films>{"".join(film_figure(film, PANELS) for film in films)}</div>
<p class=note>What the student makes of other actions. Good: opposite ones move the foreground the other way, zero
actions stand still.</p><div class=films>{"".join(film_figure(film, CONTROL_PANELS) for film in control)}</div>"""


def _fidelity(card: StudentCard) -> str:
    longest = card.fidelity[-1]
    plots = [
        curve_plot(
            curves,
            NAMES,
            range(1, longest.frames),
            x_label="frame",
            y_label=f"{label}, by frame since the first",
            band="student",
            dashed=("teacher",),
        )
        for label, curves in (
            ("PSNR in dB", {"student": longest.student.psnr, "teacher": longest.teacher.psnr}),
            ("SSIM", {"student": longest.student.ssim, "teacher": longest.teacher.ssim}),
        )
    ]
    return "".join(plots)


def _drift(drift: StudentDrift) -> str:
    plots = []
    for label, student, teacher in (
        ("Error of the path, over the path. Good: low and flat", drift.student.path, drift.teacher.path),
        ("Sharpness in dB, made minus true. Good: near 0", drift.student.sharpness, drift.teacher.sharpness),
        ("Difference of mean colours. Good: low and flat", drift.student.colour, drift.teacher.colour),
    ):
        lines = [
            interval_line("student", drift.seconds, student.by_latent, band=True, dashed=False),
            interval_line("teacher", drift.seconds, teacher.by_latent, band=False, dashed=True),
        ]
        plots.append(fitted_plot(lines, x_label="seconds", y_label=label))
    return "".join(plots)


def _endurance(endurance: Endurance) -> str:
    halves, truth = endurance.half_minutes, endurance.truth
    if not halves:
        return "<p class=bad>It did not finish half a minute.</p>"
    minutes = [half.seconds / 60 for half in halves]

    def beside_truth(label: str, made: list[float], true: float) -> str:
        real = Line("real frames", minutes, [true] * len(minutes), dashed=True)
        return fitted_plot([Line("student", minutes, made), real], x_label="minutes", y_label=label)

    memory = Line("in use", minutes, [half.megabytes for half in halves])
    looks = [half.look for half in halves]
    colours = [
        Line(name, minutes, [look.colour[place] for look in looks], colour=name)
        for place, name in enumerate(("red", "green", "blue"))
    ]
    return "".join(
        (
            fitted_plot([memory], x_label="minutes", y_label="Memory in MB. Good: flat"),
            beside_truth("Sharpness in dB. Good: flat", [look.sharpness for look in looks], truth.sharpness),
            fitted_plot(colours, x_label="minutes", y_label="Mean colour, in [-1, 1]. Good: flat"),
            beside_truth("Motion. Good: flat", [look.motion for look in looks], truth.motion),
        )
    )


def _how(card: StudentCard) -> str:
    return f"""<h2>How it was measured</h2><p>Protocol <code>{text(card.protocol)}</code>, seed {card.seed}, on
{text(card.data)}. Small numbers: 95 % intervals, 1000 resamples of whole clips. Drift is of the longest horizon,
control and diversity of the shortest. Frame 0 is given and counts nowhere.</p>"""
