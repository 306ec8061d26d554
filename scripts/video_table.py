"""The card of a video model in words: its tables, each number with what good looks like, for terminal and page."""

from collections.abc import Callable, Mapping

from rich.markup import escape

from common.folders import printable
from common.intervals import Interval
from scripts.card_print import Cell, Table, card_console, gates_said, print_gates, print_tables
from scripts.card_words import spread, written
from video_model.video_card import Fidelity, Followed, VideoCard

NAMES = {
    "truth": "real frames",
    "own": "own actions",
    "shuffled": "another clip's actions",
    "zero": "zero actions",
    "opposite": "opposite actions",
    "camera alone": "z_cam alone",
    "forecast": "forecast alone (own actions)",
    "copy": "first frame copied",
    "tokenizer": "tokenizer (ceiling)",
}
"""Of the kinds of films."""
POOR_PROBE = 0.5  # R2 below which the hand's numbers say little


def tables(card: VideoCard) -> list[Table]:
    """Everything that the card holds as numbers."""
    found = [_fidelity(card), _other(card)]
    found.append(
        _followed(
            card.foreground,
            "Foreground",
            "How the foreground moves by optical flow, the camera's motion taken out, against the real film. Good: own "
            "actions near cosine 1 and size 1, opposite ones below 0, zero actions and z_cam alone near size 0.",
        )
    )
    if card.hand:
        across, down = card.hand.probe_r2
        poor = " That is poor: these numbers say little." if min(card.hand.probe_r2) < POOR_PROBE else ""
        found.append(
            _followed(
                card.hand.followed,
                "Hand",
                "Where the hand went from the first frame on, by a probe learned on real training frames, against "
                f"where it really went. The probe's own R² on these real frames: {across:.2f} across, {down:.2f} down."
                f"{poor} Real frames are the most that can be reached.",
            )
        )
    found.append(
        _followed(
            card.camera,
            "Camera",
            "How the whole picture shifts. Good: own actions and z_cam alone near cosine 1 and size 1, zero near 0.",
        )
    )
    return found


def _fidelity(card: VideoCard) -> Table:
    readings: Mapping[str, tuple[str, Callable[[Fidelity], Interval | float | None]]] = {
        "PSNR, dB": ("{:.2f}", lambda kind: kind.psnr.mean),
        "SSIM": ("{:.3f}", lambda kind: kind.ssim.mean),
        "LPIPS": ("{:.3f}", lambda kind: kind.lpips.mean if kind.lpips else None),
        "FVD": ("{:.1f}", lambda kind: kind.fvd),
    }
    measured = {
        name: reading
        for name, reading in readings.items()
        if any(reading[1](kind) is not None for kind in card.fidelity.values())
    }
    rows = {
        NAMES[name]: tuple(_cell(read(kind), form) for form, read in measured.values())
        for name, kind in card.fidelity.items()
    }
    note = "Mean over frames 1 to T. Good: own actions above all but the tokenizer, and near it."
    if "FVD" in measured:
        note += f" FVD of {card.windows} films of {card.steps + 1} frames: compare it only with as many of that length."
    return Table("Fidelity", note, tuple(measured), rows)


def _followed(followed: Followed, title: str, note: str) -> Table:
    rows = {
        NAMES[name]: (_cell(like.cosine, "{:.2f}"), _cell(like.size, "{:.2f}")) for name, like in followed.rows.items()
    }
    left = f" Left out are {followed.still} of {followed.windows} windows, in which it hardly moves."
    return Table(title, note + left, ("cosine", "size"), rows)


def _other(card: VideoCard) -> Table:
    rows = {
        "motion with zero actions": (_cell(card.zero_motion, "{:.3f}"),),
        "diversity": (_cell(card.diversity, "{:.2f}"),),
    }
    forms = {"psnr": ("PSNR", "{:+.2f} dB/s"), "sharpness": ("sharpness", "{:+.2f} dB/s")}
    for name, value in (card.drift.slopes if card.drift else {}).items():
        title, form = forms.get(name, (name, "{:+.4f} /s"))
        rows[f"drift of {title}"] = (_cell(value, form),)
    length = f" Drift over {card.drift.seconds[-1]:.1f} s in {card.drift.windows} windows." if card.drift else ""
    missing = "".join(f" No {part}: {reason}." for part, reason in card.missing.items())
    note = (
        "Motion: change from frame to frame over that with own actions; good: near 0. Diversity: standard deviation "
        "over 4 seeds over the error; 0: always the same film, 0.7: as uncertain as it is wrong. Drift: change per "
        f"second of a number against the real film; good: near 0.{length}{missing}"
    )
    return Table("Motion, diversity, drift", note, ("",), rows)


def _cell(value: Interval | float | None, form: str) -> Cell:
    return Cell(written(value, form), spread(value, form))


def verdict(card: VideoCard) -> str:
    """What the card says, in a sentence."""
    own = card.foreground.rows["own"].cosine
    follows = f", and follows its own actions with cosine {own.value:.2f}" if own else ""
    return f"On {card.data} {card.model} {gates_said(card.gates)}{follows}."


def print_card(card: VideoCard) -> None:
    console = card_console()
    console.print(
        f"\n[bold]{escape(printable(card.data))}[/]: {card.windows} windows of {card.steps} steps from {card.clips} "
        f"clips, seed {card.seed}",
        highlight=False,
    )
    print_tables(console, tables(card))
    print_gates(console, card.gates)
    console.print(f"\n{escape(printable(verdict(card)))}", highlight=False)
