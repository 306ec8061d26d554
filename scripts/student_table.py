"""The card of a student in words: its tables, each number with what good looks like, for terminal and page."""

from collections.abc import Callable

from rich.markup import escape

from common.folders import printable
from common.intervals import Interval
from distill.card import Departure, Departures, Look, StudentCard, WayCost, energy_ratio
from scripts.card_print import Cell, Table, card_console, gates_said, print_gates, print_tables
from scripts.card_words import spread, written

WHO = ("student", "teacher")


def tables(card: StudentCard) -> list[Table]:
    """Everything that the card holds as numbers."""
    return [_fidelity(card), _drift(card), _control(card), _variety(card), _endurance(card), _speed(card)]


def _fidelity(card: StudentCard) -> Table:
    rows = {}
    for horizon in card.fidelity:
        for who, scores in zip(WHO, (horizon.student, horizon.teacher), strict=True):
            rows[f"{horizon.frames} frames, {who}"] = (
                _cell(scores.psnr.mean, "{:.2f}"),
                _cell(scores.ssim.mean, "{:.3f}"),
                Cell(f"{horizon.windows} of {horizon.clips}"),
            )
        gains = (_cell(horizon.psnr_gain, "{:+.2f}"), _cell(horizon.ssim_gain, "{:+.3f}"), Cell(""))
        rows[f"{horizon.frames} frames, difference"] = gains
    left_out = "".join(f" No {part}: {reason}." for part, reason in card.missing.items() if part.endswith("frames"))
    note = (
        "Against the real film, over all frames but the first, on the same windows and actions. Difference: student "
        f"less teacher, window by window. PSNR alone decides nothing: blur pleases it.{left_out}"
    )
    return Table("Fidelity", note, ("PSNR, dB", "SSIM", "windows of clips"), rows)


def _drift(card: StudentCard) -> Table:
    drift = card.drift
    rows = {}
    for who, departures in zip(WHO, (drift.student, drift.teacher), strict=True):
        rows[f"{who}, late"] = _respects(departures, lambda one: one.late)
        if departures.path.frames_100_200:
            rows[f"{who}, 100-200"] = _respects(departures, lambda one: one.frames_100_200)
        rows[f"{who}, slope"] = _respects(departures, lambda one: one.slope, sign="+")
    kept = energy_ratio(drift.student.sharpness.late.value)
    note = (
        f"{drift.windows} windows of {drift.clips} clips, {drift.frames} frames: their late half, frames 100 to 200 if "
        "there are so many, and the change per second. Path: error of the foreground's path, over that path; 0 is "
        "perfect, 1 no better than standing still. Sharpness: high-frequency energy, made minus true, in dB; as a "
        f"ratio it is 10^(dB / 10), for the student's late half {kept:.2f}. Colour: difference of mean colours, of "
        "pictures in [-1, 1]. Good: near 0, and changes no larger than the teacher's."
    )
    return Table("Drift", note, ("path", "sharpness", "colour"), rows)


def _respects(
    departures: Departures, read: Callable[[Departure], Interval | None], *, sign: str = ""
) -> tuple[Cell, ...]:
    forms = (f"{{:{sign}.3f}}", "{:+.2f}", f"{{:{sign}.4f}}")
    parts = (departures.path, departures.sharpness, departures.colour)
    return tuple(_cell(read(part), form) for part, form in zip(parts, forms, strict=True))


def _control(card: StudentCard) -> Table:
    followed = card.control.followed
    rows = {
        f"{name} actions": (_cell(like.cosine, "{:.2f}"), _cell(like.size, "{:.2f}"))
        for name, like in followed.rows.items()
    }
    note = (
        f"How the foreground moves by optical flow, the camera's motion taken out, over {card.fidelity[0].frames} "
        "frames, against the real film. Good: own actions near cosine 1 and size 1, opposite ones below 0. Left out "
        f"are {followed.still} of {followed.windows} windows, in which it hardly moves."
    )
    return Table("Control", note, ("cosine", "size"), rows)


def _variety(card: StudentCard) -> Table:
    diversity = card.diversity
    rows = {f"{who}, motion with zero actions": (_cell(card.control.zero_motion[who], "{:.3f}"),) for who in WHO}
    for who, value in zip(WHO, (diversity.student, diversity.teacher), strict=True):
        rows[f"{who}, spread over seeds"] = (_cell(value, "{:.4f}"),)
    rows["spread, student over teacher"] = (_cell(diversity.ratio, "{:.2f}"),)
    missing = f" No ratio: {card.missing['diversity']}." if "diversity" in card.missing else ""
    note = (
        "Motion: change from frame to frame over that with own actions; good: near 0. Spread: standard deviation of a "
        f"pixel in [-1, 1] over {diversity.seeds} seeds; 0 is a model that always makes the same film. Good: a ratio "
        f"near 1.{missing}"
    )
    return Table("Standing still, diversity", note, ("",), rows)


def _endurance(card: StudentCard) -> Table:
    endurance = card.endurance
    halves = endurance.half_minutes
    rows = {}
    for half in (halves[0], halves[-1]) if halves else ():
        rows[f"half minute up to {half.seconds:.0f} s"] = (Cell(f"{half.megabytes:.1f}"), *_looks(half.look))
    rows["real frames"] = (Cell("–"), *_looks(endurance.truth))
    ended = "finite to its end"
    if endurance.finite_seconds < endurance.asked_seconds:
        ended = f"NOT FINITE after {endurance.finite_seconds:.1f} s, where it was ended"
    missing = f" No growth of memory: {card.missing['memory']}." if "memory" in card.missing else ""
    note = (
        f"One rollout of {endurance.asked_seconds:.0f} s from {endurance.clip}, through the stream, under the clip's "
        "actions, then the same negated in reverse order, and so on, so that the scene comes back to where it began: "
        f"{ended}. Good: the last row but one as the first, and both near the real frames.{missing}"
    )
    return Table("Endurance", note, ("MB", "sharpness, dB", "mean colour", "motion"), rows)


def _looks(look: Look) -> tuple[Cell, ...]:
    colour = " ".join(f"{value:+.2f}" for value in look.colour)
    return Cell(f"{look.sharpness:.2f}"), Cell(colour), Cell(f"{look.motion:.4f}")


def _speed(card: StudentCard) -> Table:
    speed = card.speed
    ways: tuple[WayCost, ...] = (speed.student, speed.teacher)
    rows = {
        "frames/s": tuple(Cell(f"{way.frames_per_second:.1f}") for way in ways),
        "first frame, ms": tuple(Cell(f"{way.first_frame_ms:.0f}") for way in ways),
        "one latent": tuple(Cell(str(way.latent)) for way in ways),
    }
    for part in speed.student.parts:
        rows[part] = tuple(Cell(str(way.parts[part])) for way in ways)
    columns = tuple(f"{who}, {way.steps} step{'s' * (way.steps > 1)}" for who, way in zip(WHO, ways, strict=True))
    note = (
        f"A live session on {speed.device}, {speed.precision}, {speed.threads} threads; milliseconds, median / 99th "
        f"percentile, of one latent (4 frames). The student is {speed.times_the_teacher:.2f} times as fast."
    )
    return Table("Speed", note, columns, rows)


def _cell(value: Interval | None, form: str) -> Cell:
    return Cell(written(value, form), spread(value, form))


def verdict(card: StudentCard) -> str:
    """What the card says, in a few sentences."""
    said = f"On {card.data} the student {card.student} {gates_said(card.gates)}."
    if card.passes and any(gate.passed is False for gate in card.gates):
        said += " PSNR alone decides nothing: it stands in for its teacher."
    return said


def print_card(card: StudentCard) -> None:
    console = card_console()
    console.print(
        f"\n[bold]{escape(printable(card.student))}[/] beside its teacher {escape(printable(card.teacher))}, on "
        f"{escape(printable(card.data))}, seed {card.seed}",
        highlight=False,
    )
    print_tables(console, tables(card))
    print_gates(console, card.gates)
    console.print(f"\n{escape(printable(verdict(card)))}", highlight=False)
