"""The card's numbers in words: what each is called, how it is written, and what good looks like."""

from collections.abc import Callable
from dataclasses import dataclass

from common.intervals import Interval
from lam.gates import Gate, SubjectCard
from lam.label_free import CodeMetrics, DecoderMetrics

Reading = Interval | float | None


@dataclass(frozen=True)
class Metric:
    """A number of the label-free tier."""

    title: str
    read: Callable[[SubjectCard], Reading]
    form: str
    """How it is formatted."""
    good: str
    """What good looks like, in one sentence."""
    missing: str = ""
    """Its name in `LabelFree.missing`, after the block's where it belongs to one."""


def _decoder(read: Callable[[DecoderMetrics], Reading]) -> Callable[[SubjectCard], Reading]:
    return lambda card: read(card.label_free.decoder) if card.label_free.decoder else None


def _code(read: Callable[[CodeMetrics], Reading]) -> Callable[[SubjectCard], Reading]:
    return lambda card: read(card.code)


METRICS = (
    Metric(
        "PSNR, own action",
        _decoder(lambda decoder: decoder.psnr["own"]),
        "{:.2f} dB",
        "The next frame from the pair's own latent action: above copying.",
    ),
    Metric(
        "another's action",
        _decoder(lambda decoder: decoder.psnr["shuffled"]),
        "{:.2f} dB",
        "From another clip's: clearly below its own, or the action does nothing.",
    ),
    Metric("zero action", _decoder(lambda decoder: decoder.psnr["zero"]), "{:.2f} dB", "From zeros: near copying."),
    Metric(
        "opposite action",
        _decoder(lambda decoder: decoder.psnr["antiparallel"]),
        "{:.2f} dB",
        "From the negative: below copying, since it should undo.",
    ),
    Metric(
        "copy",
        _decoder(lambda decoder: decoder.psnr["copy"]),
        "{:.2f} dB",
        "The first frame itself: what any model must beat.",
    ),
    Metric(
        "utilisation",
        lambda card: card.utilisation,
        "{:.2f}",
        "How much a wrong action costs, over what the right one gains: 0.3 or more.",
        "utilisation",
    ),
    Metric(
        "alpha curve",
        _decoder(lambda decoder: decoder.alpha.spearman),
        "{:.2f}",
        "A larger action changes the picture more: 1 is best.",
    ),
    Metric(
        "zero response",
        _code(lambda code: code.zero_response),
        "{:.3f}",
        "Length of the action where nothing happens, over its usual length: 0.10 or less.",
        "zero_response",
    ),
    Metric(
        "shift response",
        _code(lambda code: code.shift_response),
        "{:.3f}",
        "The same for a picture moved by 3 pixels, which no hand did: 0.15 or less.",
        "shift_response",
    ),
    Metric(
        "scene cut",
        _decoder(lambda decoder: decoder.scene_cut),
        "{:.2f}",
        "Error on a frame of another clip, over its own: 1.8 or more; 1 copies the next frame.",
    ),
    Metric(
        "cycle",
        _decoder(lambda decoder: decoder.cycle),
        "{:.2f}",
        "Error after carrying the action to another clip and back: near 1.",
    ),
    Metric(
        "imagination gap",
        _decoder(lambda decoder: decoder.imagination_gap),
        "{:+.2f}",
        "The action done twice should move on: near 1; 0 stores the frame, -1 does nothing.",
    ),
    Metric(
        "frame similarity",
        _code(lambda code: code.pcfc),
        "{:.2f}",
        "Cosine of an action and the next one: low; near 1 it stores frames, not motion.",
        "pcfc",
    ),
    Metric(
        "additivity",
        _code(lambda code: code.additivity),
        "{:.2f}",
        "Two steps in one should be the sum of both: 0 is best.",
        "additivity",
    ),
    Metric(
        "reversibility",
        _code(lambda code: code.reversibility),
        "{:.2f}",
        "Backwards should be the negative: 0 is best, 4 ignores the order.",
        "reversibility",
    ),
    Metric(
        "clip leak",
        _code(lambda code: code.clip_leak and code.clip_leak.ratio),
        "{:.1f} x",
        "How often the action tells which clip it is from, over chance: 2 or less.",
        "clip_leak",
    ),
    Metric(
        "effective rank",
        _code(lambda code: code.effective_rank),
        "{:.1f}",
        "Directions that the actions use: half of what moves, or more.",
    ),
    Metric(
        "nats",
        lambda card: card.label_free.nats,
        "{:.1f}",
        "The most that one action can tell: compare models at equal nats.",
        "nats",
    ),
)

GROUPS = {
    "hand": "where the hand went",
    "turn": "how the hand turned",
    "opening": "how the hand opened",
    "camera": "how the head turned",
    "sway": "how the head moved",
    "light": "how the light changed",
    "distractor": "how the ball rolled",
    "state": "how the robot's joints moved",
    "command": "what the robot was told",
}
"""Factor groups in words."""


def written(value: Reading, form: str) -> str:
    """A number as text; a dash where there is none."""
    if value is None:
        return "–"
    return _plain(form.format(value.value if isinstance(value, Interval) else value))


def spread(value: Reading, form: str) -> str:
    """The 95 % interval as text; nothing for a number that has none."""
    if not isinstance(value, Interval):
        return ""
    bare = form.split("}")[0] + "}"
    return f"{_plain(bare.format(value.low))} … {_plain(bare.format(value.high))}"


def _plain(text: str) -> str:
    """Without the sign of a zero."""
    return text[1:] if text[:1] in "+-" and not text.strip("+-0. x") else text


def missing(card: SubjectCard, metric: Metric) -> str:
    """Why a number is None."""
    reasons = card.label_free.missing
    block = "act" if "act" in card.label_free.code else "all"
    names = [metric.missing, f"{block}.{metric.missing}", f"{metric.missing}.{block}"]
    return next((reasons[name] for name in names if name in reasons), reasons.get("decoder", ""))


def gate_words(gate: Gate) -> str:
    """ "zero response 0.53 (at most 0.10)"."""
    side = "at least" if gate.at_least else "at most"
    if gate.value is None or gate.limit is None:
        return f"{gate.name}: {gate.missing}"
    return f"{gate.name} {gate.value:.2f} ({side} {gate.limit:.2f})"
