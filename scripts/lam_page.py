"""The card as a page: one HTML file with plots, short films, and what good looks like beside every number."""

import html
from collections.abc import Sequence
from dataclasses import replace

from common.folders import printable
from common.intervals import Interval
from lam.card import Card, ProbeOnto, SetCard, SweepPoint
from lam.gates import Gate, SubjectCard, action_block
from lam.known_factors import GroupScores
from lam.label_curve import Spread
from scripts.card_words import GROUPS, METRICS, gate_words, missing, spread, written
from scripts.lam_pictures import Film
from scripts.page_plots import COLOURS, STYLE, Cell, Line, animation, heat_table, line_plot

SUPERVISED = "supervised on frames"
FILM_MILLISECONDS = 250  # a frame; slower than life, to be looked at
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 1.5rem auto; padding: 0 1rem; color: #222; }}
 h1 {{ font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }} h2 {{ font-size: 1.2rem; margin-top: 2.4rem; }}
 h3 {{ font-size: 1rem; margin: 1.6rem 0 .3rem; }} figure {{ margin: .8rem 0; }}
 figcaption, .note {{ color: #555; font-size: .9rem; }} code {{ background: #f3f3f3; overflow-wrap: anywhere; }}
 .verdict {{ font-size: 1.1rem; border-left: 5px solid {colour}; padding: .3rem .9rem; overflow-wrap: anywhere; }}
 .gates {{ padding: 0; display: flex; flex-wrap: wrap; gap: .4rem; }}
 .gates li {{ list-style: none; border-radius: 6px; padding: .15rem .6rem; font-size: .88rem; background: #eee; }}
 .gates .yes {{ background: #dff2e1; }} .gates .no {{ background: #fbdfd9; }}
 .films {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); gap: .4rem 1.2rem; }}
 .films img {{ width: 100%; display: block; image-rendering: pixelated; }}
 .panels {{ display: flex; font-size: .75rem; color: #555; }} .panels span {{ flex: 1; text-align: center; }}
 .plots {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: 0 1.5rem; }}
 table.numbers {{ border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }}
 .numbers td, .numbers th {{ padding: .25rem .5rem; border-top: 1px solid #ddd; text-align: right; }}
 .numbers td, .numbers th {{ vertical-align: top; min-width: 5rem; }}
 .numbers th:first-child {{ text-align: left; font-weight: 500; min-width: 11rem; max-width: 17rem; }}
 .numbers thead th {{ border: 0; font-weight: 500; vertical-align: bottom; overflow-wrap: anywhere; }}
 .numbers small {{ display: block; color: #666; font-weight: 400; font-size: .78rem; line-height: 1.3; }}
 .numbers td small {{ white-space: nowrap; }} .bad {{ color: #b3261e; font-weight: 600; }}
{plots}</style></head><body>
"""


def card_page(card: Card, films: Sequence[Film]) -> str:
    """The whole page; `films` of the model on the first set, none where it does not decode."""
    fine = all(gate.passed is not False for data in card.sets for gate in data.subjects[0].gates)
    colour = "#2c8a3d" if fine and not any(data.disorder for data in card.sets) else "#c4490b"
    parts = [
        HEAD.format(title=f"Card of {_text(card.model)}", colour=colour, plots=STYLE),
        f"<h1>Latent actions of {_text(card.model)}</h1><p class=verdict>{_text(card.verdict)}</p>",
        *(_gates(data) for data in card.sets),
        _films(card, films),
        *(_set(data) for data in card.sets),
        _onto(card.probe_onto) if card.probe_onto else "",
        _sweep(card.sweep) if card.sweep else "",
        *(_controls(data) for data in card.sets),
        _how(card),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _text(value: str) -> str:
    return html.escape(printable(value))


def _gates(data: SetCard) -> str:
    def item(gate: Gate) -> str:
        kind, mark = {True: ("yes", "✓ "), False: ("no", "✗ "), None: ("", "not measured: ")}[gate.passed]
        return f'<li class="{kind}">{mark}{_text(gate_words(gate))}</li>'

    items = "".join(item(gate) for gate in data.subjects[0].gates)
    ranking = (
        f"Ranked, best first (who misses a gate is left out): {_text(', '.join(data.ranking))}."
        if data.ranking
        else "Nothing is ranked, since controls came out in the wrong order."
        if data.disorder
        else "Everything here misses a gate, so nothing is ranked."
    )
    return f"<h3>Gates on {_text(data.name)}</h3><ul class=gates>{items}</ul><p class=note>{ranking}</p>"


def _films(card: Card, films: Sequence[Film]) -> str:
    head = "<h2>What it predicts</h2>"
    if not films:
        reason = card.sets[0].subjects[0].label_free.missing.get("decoder", "")
        return f"{head}<p>No films: {_text(reason)}, so there are no predicted frames to show.</p>"
    predicted = "".join(_film(film) for film in films if not film.transfer)
    carried = "".join(_film(film) for film in films if film.transfer)
    return f"""{head}<p class=note>Clips of {_text(card.sets[0].name)} on which it gains most and least over copying the
first frame. Each step predicts frame t+1 from frame t and the pair's own latent action. Good: the prediction moves as
the real frame does, hands above all, and the error stays dark.</p><div class=films>{predicted}</div>
<h3>Action transfer</h3><p class=note>The latent actions of clip A, one after the other, from A's own first frame and
from the first frame of another clip. Good: B does what A does, and still looks like B.</p>
<div class=films>{carried}</div>"""


def _film(film: Film) -> str:
    panels = "".join(f"<span>{_text(name)}</span>" for name in film.panels)
    source = animation(film.frames, milliseconds=FILM_MILLISECONDS)
    return (
        f'<figure><img alt="{_text(film.title)}: {_text(", ".join(film.panels))}" src="{source}">'
        f"<div class=panels>{panels}</div><figcaption>{_text(film.title)}</figcaption></figure>"
    )


def _set(data: SetCard) -> str:
    parts = [f"<h2>On {_text(data.name)}: {data.pairs} pairs of {data.clips} clips</h2>"]
    if data.target:
        parts += [_factors(data), _probe_plots(data)]
    elif data.fields:
        parts += [_factors(data)]
    else:
        parts.append("<p>Nothing is known of what was done in these clips, so no probe is possible.</p>")
    parts += [_label_free(data), _shares(data.subjects[0])]
    return "\n".join(parts)


def _factors(data: SetCard) -> str:
    """R2 of every factor group from every block of every subject."""
    known = data.subjects[0].known
    assert known is not None
    rows: list[tuple[str, list[Cell | None]]] = []
    for card in data.subjects:
        assert card.known is not None
        blocks = [name for name in card.known.blocks if name != "z" or len(card.known.blocks) == 1]
        for name in blocks:
            label = f"{card.name}: {name}" if len(blocks) > 1 else card.name
            groups = card.known.blocks[name].groups
            rows.append((f"{label} ({card.blocks[name]})", [_cell(groups[group].ridge.r2) for group in known.frame]))
            if card.role != "baseline" and all(scores.mlp for scores in groups.values()):
                rows.append((f"{label}, by MLP", [_mlp(groups[group]) for group in known.frame]))
    block = known.blocks[action_block(data.subjects[0].blocks)]
    rows.append(("frame t alone", [_cell(score.r2) for score in known.frame.values()]))
    rows.append(("chance", [Cell(written(block.groups[group].floor, "{:.2f}"), 0) for group in known.frame]))
    rows.append((f"{data.subjects[0].name} beyond frame t", [_cell(block.groups[g].increment) for g in known.frame]))
    about = ", ".join(f"<b>{_text(group)}</b> {_text(GROUPS.get(group, ''))}" for group in known.frame)
    linear = ""
    if block.linear_lam and block.selectivity is not None:
        linear = (
            f"<p>Linear-LAM objective <b>{block.linear_lam.objective:.2f}</b>: from -1 to 2; 2 reads the hand and "
            "nothing of camera, light, ball or the frame's looks. "
            f"Selectivity <b>{block.selectivity:+.2f}</b>: the hand's R² less the camera's; good is above 0.</p>"
        )
    return f"""<h3>What can be read from the latent action</h3>
<p class=note>R² of a linear probe on clips that it did not see, with 95 % intervals over clips: 1 reads all, 0 nothing.
Good: the hand high from the action, camera, light and distractor at 0 from it; with two blocks, the camera high from
<code>cam</code>. In brackets the number of values. What changed over a pair: {about}.</p>
{heat_table(list(known.frame), rows)}{linear}"""


def _cell(value: Interval) -> Cell:
    return Cell(written(value, "{:.2f}"), value.value, spread(value, "{:.2f}"))


def _mlp(scores: GroupScores) -> Cell | None:
    return _cell(scores.mlp.r2) if scores.mlp else None


def _probe_plots(data: SetCard) -> str:
    """R2 of the target over dimensions, and its error over the number of labels."""
    assert data.target is not None
    dims = []
    for card in data.subjects:
        scores, native = card.read(data.target), card.blocks[action_block(card.blocks)]
        if scores and card.name != "zeros":
            points = {int(count): value for count, value in scores.reduced.items()} | {native: scores.ridge.r2}
            x = sorted(points)
            dims.append(_line(data, card, x, [points[n].value for n in x]))
    low = min(0.0, *(y for line in dims for y in line.y))
    high = max(0.2, *(y for line in dims for y in line.y))
    y_label = f"R² of {data.target} after reduction to so many dimensions. Good: high already at 8"
    plots = [line_plot(dims, x_label="dimensions", y_label=y_label, log_x=True, y_limits=(max(low, -0.5), high * 1.05))]
    curves = []
    for card in data.subjects:
        if card.label_curve and card.name != "zeros":
            counts = sorted(card.label_curve)
            line = _line(data, card, counts, [card.label_curve[n].median for n in counts])
            curves.append(_with_band(line, card.label_curve) if card.role == "model" else line)
    if data.supervised:
        counts = sorted(data.supervised)
        line = Line(SUPERVISED, counts, [data.supervised[n].median for n in counts], colour="#000")
        curves.append(_with_band(line, data.supervised))
        y_label = f"Error (1 - R²) of {data.target} by number of labelled pairs. Good: left of and below the others"
        plots.append(line_plot(curves, x_label="labelled pairs", y_label=y_label, log_x=True, y_limits=(0, 1.5)))
    return f"<div class=plots>{''.join(plots)}</div>{_needed(data) if curves else ''}"


def _line(data: SetCard, card: SubjectCard, x: Sequence[float], y: Sequence[float]) -> Line:
    """A curve of a subject, in the same colour on every plot; dashed for a baseline."""
    colour = COLOURS[data.subjects.index(card) % len(COLOURS)]
    return Line(card.name, x, y, dashed=card.role == "baseline", colour=colour)


def _with_band(line: Line, curve: dict[int, Spread]) -> Line:
    counts = sorted(curve)
    return replace(line, low=[curve[n].low for n in counts], high=[curve[n].high for n in counts])


def _needed(data: SetCard) -> str:
    """Labels that it takes to reach an error."""
    found = {card.name: card.labels_needed for card in data.subjects if card.labels_needed and card.name != "zeros"}
    if data.supervised_needed:
        found[SUPERVISED] = data.supervised_needed
    errors = list(next(iter(found.values())))
    rows = "".join(
        f"<tr><th>{_text(name)}</th>"
        + "".join(f"<td>{'never' if needed[error] is None else f'{needed[error]:.0f}'}</td>" for error in errors)
        + "</tr>"
        for name, needed in found.items()
    )
    head = "".join(f"<th>error {error}</th>" for error in errors)
    return f"""<h3>Labels needed</h3><p class=note>Labelled pairs until the error of {_text(data.target or "")} falls
so low
(1 is guessing the mean). Good: fewer than the supervised network, which sees the same labels and no other video.</p>
<div class=wide><table class=numbers><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"""


def _label_free(data: SetCard) -> str:
    """All label-free numbers of all subjects, then the alpha curve."""
    head = "".join(f"<th>{_text(card.name)}</th>" for card in data.subjects)
    rows = "".join(
        f"<tr><th>{_text(metric.title)}<small>{_text(metric.good)}</small></th>"
        + "".join(_number(card, metric.title) for card in data.subjects)
        + "</tr>"
        for metric in METRICS
    )
    model = data.subjects[0]
    reasons = {metric.title: missing(model, metric) for metric in METRICS if metric.read(model) is None}
    none = "".join(f"<br>{_text(title)}: {_text(reason)}." for title, reason in reasons.items())
    note = f"<p class=note>A dash: undefined. For {_text(model.name)}: {none}</p>" if reasons else ""
    curves = [
        _line(data, card, curve.alphas, curve.distances)
        for card in data.subjects
        if card.label_free.decoder and (curve := card.label_free.decoder.alpha)
    ]
    plot = ""
    if curves:
        highest = max(1e-3, *(y for line in curves for y in line.y))
        y_label = "Change of the predicted picture (RMS) when the action is scaled. Good: it rises all the way"
        plot = line_plot(curves, x_label="alpha", y_label=y_label, y_limits=(0, highest * 1.05))
    return f"""<h3>Without labels</h3><div class=wide><table class=numbers><thead><tr><th></th>{head}</tr></thead>
<tbody>{rows}</tbody></table></div>{note}{plot}"""


def _shares(card: SubjectCard) -> str:
    """Which block of the code explains each clip."""
    shares = card.label_free.shares
    if not shares:
        return ""
    rows = [(clip, [Cell(f"{share:.2f}", max(share, 0)) for share in shares[clip].values()]) for clip in sorted(shares)]
    table = heat_table(list(next(iter(shares.values()))), rows)
    return f"""<details><summary>What each clip is made of</summary><p class=note>Share of the gain over copying that
is left when one block alone is decoded and the others are zeros. Good: walking is <code>cam</code>, work at a table is
<code>act</code>. Clips without a gain are left out.</p>{table}</details>"""


def _number(card: SubjectCard, title: str) -> str:
    metric = next(metric for metric in METRICS if metric.title == title)
    value = metric.read(card)
    failed = any(gate.passed is False and gate.name == title for gate in card.gates)
    kind = " class=bad" if failed else ""
    return f"<td{kind}>{written(value, metric.form)}<small>{spread(value, metric.form)}</small></td>"


def _onto(onto: ProbeOnto) -> str:
    groups = list(dict.fromkeys(group for scores in onto.scores.values() for group in scores))
    rows = [
        (name, [_cell(scores[group].r2) if group in scores else None for group in groups])
        for name, scores in onto.scores.items()
    ]
    return f"""<h2>From {_text(onto.learned_on)} onto {_text(onto.tested_on)}</h2><p class=note>R² of probes learned
on the one and tested on the other as they are. Good: well above 0; below 0 they mislead.</p>
{heat_table(groups, rows)}"""


def _sweep(sweep: Sequence[SweepPoint]) -> str:
    plots = []
    groups = [group for group in ("hand", "camera", "light", "distractor") if group in next(iter(sweep[0].r2.values()))]
    for group in groups:
        lines = [
            Line(
                name,
                [point.nuisance for point in sweep],
                [point.r2[name][group].value for point in sweep],
                low=[point.r2[name][group].low for point in sweep] if number == 0 else (),
                high=[point.r2[name][group].high for point in sweep] if number == 0 else (),
                dashed=number > 0,
                colour=COLOURS[number % len(COLOURS)],
            )
            for number, name in enumerate(sweep[0].r2)
            if name != "zeros"
        ]
        good = "high, and flat" if group == "hand" else "0"
        y_label = f"R² of the {group} from the action. Good: {good}"
        plots.append(line_plot(lines, x_label="nuisance", y_label=y_label, log_x=True, y_limits=(-0.1, 1)))
    return f"""<h2>With more and less nuisance</h2><p class=note>The demo world, the hands doing the same, with
camera, light and ball moving so many times as much as usual.</p><div class=plots>{"".join(plots)}</div>"""


def _controls(data: SetCard) -> str:
    rows = "".join(
        f"<tr><th>{_text(check.metric)}<small>{_text(check.expected)}</small></th>"
        + "".join(f"<td>{written(value, '{:.2f}')}</td>" for value in (check.leaky, check.constant, check.linear))
        + (f"<td>{'✓' if check.ok else '<span class=bad>✗</span>'}</td></tr>")
        for check in data.controls
    )
    if data.probe_control:
        control = data.probe_control
        rows += (
            "<tr><th>probe<small>constant 0 or less; the labels themselves (last) near 1</small></th><td>–</td>"
            f"<td>{control.constant:.2f}</td><td>{control.oracle:.2f}</td>"
            f"<td>{'✓' if control.ok else '<span class=bad>✗</span>'}</td></tr>"
        )
    state = (
        f"<p class=bad>In the wrong order: {_text(', '.join(data.disorder))}. Nothing is ranked on this set.</p>"
        if data.disorder
        else ""
    )
    return f"""<h2>Controls on {_text(data.name)}</h2><p class=note>The same numbers of a code that stores the next
frame, of one that is always the same, and of the honest linear baseline. Where they are not as expected, a number means
nothing on these clips.</p>{state}<div class=wide><table class=numbers>
<thead><tr><th></th><th>leaking</th><th>constant</th><th>linear</th><th></th></tr></thead>
<tbody>{rows}</tbody></table></div>"""


def _how(card: Card) -> str:
    sets = "".join(
        f"<li>{_text(data.name)} ({data.kind}): {data.pairs} pairs of {data.clips} clips; SHA-256 of names and frames "
        f"<code>{data.sha256}</code>"
        + (
            f"; never changes: {_text(', '.join(data.subjects[0].known.still))}"
            if data.subjects[0].known and data.subjects[0].known.still
            else ""
        )
        + "</li>"
        for data in card.sets
    )
    fast = " With --fast: no MLP probes, no label curves." if card.fast else ""
    return f"""<h2>How it was measured</h2><p>Protocol <code>{card.protocol}</code>, seed {card.seed}, frames
{card.gap_seconds:g} s apart. Numbers of two cards compare only where the protocol and the SHA-256 are the same.{fast}
Intervals: 95 %, 1000 resamples of whole clips. Probes: whole clips held out, five folds.</p>
<ul class=note>{sets}</ul>"""
