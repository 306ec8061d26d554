"""The card as tables for the terminal, made for 100 columns."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.folders import printable
from common.intervals import Interval
from lam.card import Card, ProbeOnto, SetCard, SweepPoint
from lam.gates import SubjectCard, action_block
from scripts.card_words import GROUPS, METRICS, gate_words, missing, spread, written

NAME_SHOWN = 20
SHOWN_GROUPS = ("hand", "opening", "camera", "light", "distractor", "state")


def print_card(card: Card) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    for data in card.sets:
        known = f", of which {', '.join(data.fields)} are known" if data.fields else ""
        console.print(
            f"\n[bold]{escape(printable(data.name))}[/]: {data.pairs} pairs of {data.clips} clips, "
            f"{card.gap_seconds:g} s apart{known}. SHA-256 {data.sha256[:12]}",
            highlight=False,
        )
        _print_label_free(console, data)
        if data.target:
            _print_factors(console, data.subjects[0])
        _print_beside(console, data)
        _print_curves(console, data)
    if card.probe_onto:
        _print_onto(console, card.probe_onto)
    if card.sweep:
        _print_sweep(console, card.sweep)
    console.print(f"\n{escape(card.verdict)}", highlight=False)


def _table(console: Console, title: str, columns: Sequence[str]) -> Table:
    """Prints the title; gives the table to fill, its first column to the left."""
    console.print(f"\n[bold]{escape(title)}[/]", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _short(name: str) -> str:
    name = printable(name)
    return escape(name if len(name) <= NAME_SHOWN else "…" + name[1 - NAME_SHOWN :])


def _print_label_free(console: Console, data: SetCard) -> None:
    """The label-free numbers of the model and what it is compared with, each with what good looks like."""
    models = [card for card in data.subjects if card.role != "baseline"]
    table = _table(console, "Without labels (✗ misses a gate)", ["", *(_short(card.name) for card in models)])
    table.add_column("95 %", justify="right", no_wrap=True)
    table.add_column("what good looks like")
    for metric in METRICS:
        values = [_marked(card, metric.title, written(metric.read(card), metric.form)) for card in models]
        own, reason = metric.read(models[0]), missing(models[0], metric)
        if own is None and reason == models[0].label_free.missing.get("decoder"):
            continue
        about = metric.good if own is not None else f"{metric.good} None here: {reason}."
        table.add_row(metric.title, *values, spread(own, metric.form), escape(about))
    console.print(table)
    if models[0].label_free.decoder is None:
        console.print("It has no decoder, so nothing is said of predicted frames.")


def _marked(card: SubjectCard, title: str, text: str) -> str:
    failed = any(gate.passed is False and gate.name == title for gate in card.gates)
    return f"[red]✗ {text}[/]" if failed else text


def _print_factors(console: Console, card: SubjectCard) -> None:
    """What can be read from each block of the model's code."""
    assert card.known is not None
    blocks = [name for name in card.known.blocks if name != "z" or len(card.known.blocks) == 1]
    table = _table(
        console,
        "Read from it (R² on clips that the probe did not see: 1 all, 0 nothing)",
        ["", *blocks, "95 %", "MLP", "at 8", "at 16", "chance", "frame t alone"],
    )
    block = action_block(card.blocks)
    for group, alone in card.known.frame.items():
        scores = card.known.blocks[block].groups[group]
        table.add_row(
            group,
            *(written(card.known.blocks[name].groups[group].ridge.r2, "{:.2f}") for name in blocks),
            spread(scores.ridge.r2, "{:.2f}"),
            written(scores.mlp.r2 if scores.mlp else None, "{:.2f}"),
            *(written(scores.reduced.get(dims), "{:.2f}") for dims in ("8", "16")),
            written(scores.floor, "{:.2f}"),
            written(alone.r2, "{:.2f}"),
        )
    console.print(table)
    about = ", ".join(f"{group}: {GROUPS.get(group, group)}" for group in card.known.frame)
    console.print(f"All but the first columns are of {block}. {about}.", highlight=False)
    whole = card.known.blocks[block]
    if whole.linear_lam and whole.selectivity is not None:
        console.print(
            f"Linear-LAM objective {whole.linear_lam.objective:.2f} (-1 to 2: the hand, and no camera, light, "
            f"ball or frame t); selectivity {whole.selectivity:+.2f} (hand less camera).",
            highlight=False,
        )
    if card.known.still:
        console.print(f"Never change: {', '.join(card.known.still)}.", highlight=False)


def _print_beside(console: Console, data: SetCard) -> None:
    """One row per subject: the model beside others and baselines."""
    known = data.subjects[0].known
    if known:
        groups = [group for group in SHOWN_GROUPS if group in known.frame]
        table = _table(
            console,
            "Read from it, beside others (R², ridge)",
            ["", "values", *(group[:8] for group in groups), "beyond t", "95 %"],
        )
        for card in data.subjects:
            found = card.read(data.target) if data.target else None
            table.add_row(
                _short(card.name),
                str(card.blocks[action_block(card.blocks)]),
                *(_group(card, group) for group in groups),
                *((_signed(found.increment.value), spread(found.increment, "{:.2f}")) if found else ("–", "")),
            )
        console.print(table)
    table = _table(
        console, "Without labels, beside others", ["", "used", "zero", "shift", "cut", "leak", "nats", "gates", "rank"]
    )
    for card in data.subjects:
        decoder, leak = card.label_free.decoder, card.code.clip_leak
        passed = sum(gate.passed is True for gate in card.gates)
        measured = sum(gate.passed is not None for gate in card.gates)
        table.add_row(
            _short(card.name),
            written(card.utilisation, "{:.2f}"),
            written(card.code.zero_response, "{:.2f}"),
            written(card.code.shift_response, "{:.2f}"),
            written(decoder.scene_cut if decoder else None, "{:.2f}"),
            written(leak.ratio if leak else None, "{:.1f}"),
            written(card.label_free.nats, "{:.1f}"),
            f"{passed} of {measured}",
            str(data.ranking.index(card.name) + 1) if card.name in data.ranking else "–",
        )
    console.print(table)
    if data.disorder:
        console.print(f"[red]Controls in the wrong order: {', '.join(data.disorder)}. Nothing is ranked.[/]")
        return
    console.print(f"The {len(data.controls)} controls (a leaking and a constant code) came out as they must.")
    missed = [gate_words(gate) for gate in data.subjects[0].gates if gate.passed is False]
    unknown = [gate_words(gate) for gate in data.subjects[0].gates if gate.passed is None]
    for heading, gates in (("Gates missed", missed), ("Gates not measured", unknown)):
        if gates:
            console.print(f"{heading}: {'; '.join(gates)}.", highlight=False)


def _group(card: SubjectCard, group: str) -> str:
    scores = card.read(group)
    return written(scores.ridge.r2, "{:.2f}") if scores else "–"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _print_curves(console: Console, data: SetCard) -> None:
    """Labels that it takes to read the target, beside learning from the frames themselves."""
    if data.supervised is None:
        return
    counts = sorted(data.supervised)
    table = _table(console, f"Error (1 - R²) of {data.target} after so many labels", ["", *map(str, counts)])
    curves = [(card.name, card.label_curve) for card in data.subjects] + [("supervised on frames", data.supervised)]
    for name, curve in curves:
        if curve and name != "zeros":
            table.add_row(_short(name), *(f"{curve[count].median:.2f}" if count in curve else "–" for count in counts))
    console.print(table)


def _print_onto(console: Console, onto: ProbeOnto) -> None:
    groups = list(dict.fromkeys(group for scores in onto.scores.values() for group in scores))
    title = f"Probes learned on {onto.learned_on}, tested on {onto.tested_on} (R², may be far below 0)"
    table = _table(console, title, ["", *groups])
    for name, scores in onto.scores.items():
        table.add_row(
            _short(name), *(written(scores[group].r2 if group in scores else None, "{:.2f}") for group in groups)
        )
    console.print(table)


def _print_sweep(console: Console, sweep: Sequence[SweepPoint]) -> None:
    for group in [group for group in ("hand", "camera") if group in next(iter(sweep[0].r2.values()))]:
        title = f"R² of the {group} at camera, light and ball motion of so many times the usual"
        table = _table(console, title, ["", *(f"{point.nuisance:g}" for point in sweep)])
        for name in sweep[0].r2:
            table.add_row(_short(name), *(_interval(point.r2[name][group]) for point in sweep))
        console.print(table)


def _interval(value: Interval) -> str:
    return f"{written(value, '{:.2f}')} [dim]{spread(value, '{:.2f}').replace(' ', '')}[/]"
