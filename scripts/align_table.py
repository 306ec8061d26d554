"""The card of a robot in words: its tables, each number with what good looks like, for terminal and page."""

from rich.markup import escape

from align.align_card import AlignCard, ControlEffect, StateFollowing
from align.evaluate import READABLE
from common.folders import printable
from common.intervals import Interval
from scripts.card_print import Cell, Table, card_console, gates_said, print_gates, print_tables
from scripts.card_words import spread, written

NAMES = {
    "truth": "real frames",
    "true": "true controls",
    "shuffled": "another episode's controls",
    "zero": "neutral controls",
    "opposite": "opposite controls",
    "copy": "first frame copied",
    "tokenizer": "tokenizer (ceiling)",
}
"""Of the kinds of films."""
MATRIX_WIDTH = 60
"""Letters in the names of the states that a terminal has room for side by side; else the page and the file have them.
"""
SOURCES = {
    "measured": "what the robot measured",
    "controls": "where its controls ask it to be, since the dataset has no states",
}


def tables(card: AlignCard) -> list[Table]:
    """Everything that the card holds as numbers, but which control moves which state (`moved_states`)."""
    found = [_fidelity(card)]
    if card.state:
        found += [_errors(card.state), _columns(card.state)]
    return [*found, _foreground(card), _effects(card)]


def _fidelity(card: AlignCard) -> Table:
    rows = {
        NAMES[name]: (_cell(kind.psnr.mean, "{:.2f}"), _cell(kind.ssim.mean, "{:.3f}"))
        for name, kind in card.fidelity.items()
    }
    note = (
        f"Rollouts of {card.steps} frames from one frame, against what was recorded. Good: true controls above copying "
        "and above another episode's, and near the tokenizer, which is the most that its latents can show."
    )
    return Table("Fidelity", note, ("PSNR, dB", "SSIM"), rows)


def _errors(state: StateFollowing) -> Table:
    rows = {NAMES[name]: (_cell(error.overall, "{:.2f}"),) for name, error in state.errors.items()}
    note = (
        "How far the state that a film shows is from the true one (root mean square over all frames), over the same of "
        "the first frame copied: 1 is as bad as not moving, 0 perfect. Good: true controls well below 1 and below "
        "another episode's, near what is read from real frames (the probe's own error) and from the tokenizer's; "
        f"opposite ones above 1. The state is {SOURCES[state.source]}; a probe that learned on {state.probe_episodes} "
        "other episodes reads it from each frame."
    )
    return Table("Action-following error", note, ("",), rows)


def _columns(state: StateFollowing) -> Table:
    kinds = ("true", "shuffled", "opposite", "tokenizer", "truth")
    rows = {
        name: (
            Cell(written(one, "{:.2f}")),
            *(_cell(state.errors[kind].columns.get(name), "{:.2f}") for kind in kinds),
            *([Cell("left out" if name in state.unread else "")] if state.unread else []),
        )
        for name, one in state.r2.items()
    }
    note = (
        "R²: what the probe reads from the real frames measured; 1 all, 0 nothing; good: above 0.8. Then the error "
        "above for each column by itself."
    )
    columns = ("R²", "true", "another's", "opposite", "tokenizer", "real", *([""] if state.unread else []))
    return Table("Column by column", note, columns, rows)


def _foreground(card: AlignCard) -> Table:
    followed = card.foreground
    rows = {
        NAMES[name]: (_cell(like.cosine, "{:.2f}"), _cell(like.size, "{:.2f}")) for name, like in followed.rows.items()
    }
    note = (
        "How the foreground moves by optical flow, the camera's motion taken out, against the real film. Good: true "
        "controls near cosine 1 and size 1, opposite ones below 0, neutral ones near size 0. Left out are "
        f"{followed.still} of {followed.windows} windows, in which it hardly moves. Change from frame to frame with "
        f"neutral controls over that with true ones: {written(card.zero_motion, '{:.3f}')}; good: below 0.1."
    )
    return Table("Foreground", note, ("cosine", "size"), rows)


def _effects(card: AlignCard) -> Table:
    trials = card.trials
    rows = {
        effect.name: (
            Cell(f"{effect.unit:.3g}"),
            Cell(f"{100 * effect.left:.2f}"),
            Cell(f"{100 * effect.right:.2f}"),
            Cell(f"{effect.shift[0]:+.3f}"),
            Cell(f"{effect.shift[1]:+.3f}"),
            Cell(effect.largest or "nothing" if effect.states else "–"),
        )
        for effect in trials.controls
    }
    listed = ", ".join(trials.left_out)
    left = f" Never moved in the alignment's episodes, so left out: {listed}." if listed else ""
    note = (
        f"From {trials.starts} first frames each control gets one unit (a large but usual change over four rows) more, "
        f"and less, the others nothing; {trials.steps} frames. Left, right: how much that half of the picture changes, "
        "in % of white. Where to: how far the foreground goes with one unit more, in half heights, right and down. "
        f"Good: each control changes what it moves, and nothing else.{left}"
    )
    return Table(
        "One control at a time", note, ("unit", "left, %", "right, %", "to the right", "down", "moves most"), rows
    )


def moved_states(card: AlignCard) -> Table | None:
    """Which control moves which state; None where no state can be read."""
    effects = [effect for effect in card.trials.controls if effect.states]
    if not effects:
        return None
    columns = tuple(effects[0].states)
    rows = {
        effect.name: (*(Cell(marked(effect, name)) for name in columns), Cell(written(effect.asked, "{:+.2f}")))
        for effect in effects
    }
    note = (
        "By how much one unit of each control (row) changes each column of the state, as the probe sees it, in that "
        "column's standard deviations; its own is in brackets. Good: the largest of its row is its own, and as large "
        f"as was asked for. {diagonal(card)}"
    )
    return Table("Which state each control moves", note, (*columns, "asked"), rows)


def marked(effect: ControlEffect, name: str) -> str:
    """The change of a state; in brackets if it is the control's own."""
    change = f"{effect.states[name]:+.2f}"
    return f"[{change}]" if name == effect.own else change


def diagonal(card: AlignCard) -> str:
    """How many controls move their own state most, in words."""
    known = [effect for effect in card.trials.controls if effect.own]
    if not known:
        return "No control has a state of its own that can be read."
    right = [effect for effect in known if effect.largest == effect.own]
    return f"{len(right)} of {len(known)} controls move their own state most."


def _cell(value: Interval | float | None, form: str) -> Cell:
    return Cell(written(value, form), spread(value, form))


def unread(card: AlignCard) -> str:
    """What of the state could not be read, in a sentence; empty if all could."""
    if not card.state or not card.state.unread:
        return "".join(f"No {part}: {reason}." for part, reason in card.missing.items())
    listed = "; ".join(f"{name} ({reason})" for name, reason in card.state.unread.items())
    return (
        "NOT in the action-following error, since the probe cannot read them from real frames (R² below "
        f"{READABLE}): {listed}."
    )


def verdict(card: AlignCard) -> str:
    """What the card says, in a few sentences."""
    parts = [f"{card.robot} in {card.model}, on {card.data}, {gates_said(card.gates)}."]
    error = card.state.errors["true"].overall if card.state else None
    floor = card.state.errors["truth"].overall if card.state else None
    if error and floor:
        parts.append(
            f"With true controls its state is off by {error.value:.2f} of what standing still would be (the probe's "
            f"own error: {floor.value:.2f}). {diagonal(card)}"
        )
    return " ".join(parts)


def print_card(card: AlignCard) -> None:
    console = card_console()
    console.print(
        f"\n[bold]{escape(printable(card.robot))}[/] on {escape(printable(card.data))}: {card.windows} windows of "
        f"{card.steps} steps from {card.episodes} episodes, seed {card.seed}",
        highlight=False,
    )
    moved = moved_states(card)
    fits = moved is not None and sum(map(len, moved.columns)) <= MATRIX_WIDTH
    print_tables(console, [*tables(card), *([moved] if moved and fits else [])])
    print_gates(console, card.gates)
    if unread(card):
        console.print(f"\n[bold red]{escape(printable(unread(card)))}[/]", highlight=False)
    console.print(f"\n{escape(printable(verdict(card)))}", highlight=False)
