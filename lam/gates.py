"""What a latent action model must not miss: one limit per gate, all of them here; who is ranked, and what that means.

The limits are the starting values of the suite; they say "this is not a latent action", not "this is a good one".
"""

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from typing import Literal

from common.intervals import Interval
from lam.baselines import ControlCheck
from lam.known_factors import HANDS, GroupScores, KnownFactors
from lam.label_curve import Spread
from lam.label_free import CodeMetrics, LabelFree
from lam.sequences import EvaluationSet

ZERO_RESPONSE = 0.10  # at most
SHIFT_RESPONSE = 0.15  # at most
SCENE_CUT = 1.8  # at least
CLIP_LEAK = 2.0  # at most, times chance
UTILISATION = 0.3  # at least
RANK_SHARE = 0.5  # at least, of the dimensions of what was done

TARGETS = ("hand", "state")
"""The factor groups that can stand for what was done, the best first."""
STABILISED_FLOW = "stabilised flow"
"""The baseline that a model must tell more than."""

Role = Literal["model", "against", "baseline"]


@dataclass(frozen=True)
class Gate:
    """A gate on one subject and set."""

    name: str
    value: float | None
    limit: float | None
    at_least: bool
    passed: bool | None
    """None where it could not be measured."""
    missing: str = ""
    """Why not."""


@dataclass(frozen=True)
class SubjectCard:
    """Everything measured of one subject on one set."""

    name: str
    role: Role
    blocks: dict[str, int]
    """Named parts of the latent action -> how many values each has."""
    label_free: LabelFree
    known: KnownFactors | None
    """None where the set has no factors."""
    label_curve: dict[int, Spread] | None
    """Of the target, from the action block; None without a target or when fast."""
    labels_needed: dict[str, float | None]
    """Error (1 - R2) -> labels at which the curve falls to it, None if it never does; {} without a curve."""
    gates: tuple[Gate, ...]

    @property
    def code(self) -> CodeMetrics:
        """Of the action block."""
        return self.label_free.code.get("act") or self.label_free.code["all"]

    @property
    def utilisation(self) -> Interval | None:
        """Of the action block: that of the whole code is high where the decoder listens to the camera alone."""
        decoder = self.label_free.decoder
        return decoder.utilisation["act" if "act" in decoder.utilisation else "all"] if decoder else None

    def read(self, group: str, block: str | None = None) -> GroupScores | None:
        """What a block, by default the action's, tells of a factor group; None where that isn't known."""
        if self.known is None or (block is not None and block not in self.known.blocks):
            return None
        return self.known.blocks[block or action_block(self.blocks)].groups.get(group)


def action_block(blocks: Iterable[str]) -> str:
    """The block that should hold the action: `act`, or the whole of a code that isn't parted."""
    names = tuple(blocks)
    return "act" if "act" in names else names[0]


def target_of(data: EvaluationSet) -> str | None:
    """The factor group that stands for what was done: the hand's place, or a robot's state."""
    return next((group for group in TARGETS if group in data.fields), None)


def gates(card: SubjectCard, beside: Listed[SubjectCard], *, target: str | None) -> tuple[Gate, ...]:
    """Every gate on one subject; `beside` are all subjects of the set, among them the stabilised flow."""
    code, decoder, missing = card.code, card.label_free.decoder, card.label_free.missing
    block = "act" if "act" in card.label_free.code else "all"
    no_decoder = missing.get("decoder", "")
    leak = code.clip_leak.ratio if code.clip_leak else None
    few = "fewer than 3 clips: no code can miss it" if card.label_free.clips < 3 else ""
    unknown = "what was done in these clips is not known"
    own, flow = _increment(card, target), _increment(_named(beside, STABILISED_FLOW), target)
    itself = "this is the flow that others are compared with" if card.name == STABILISED_FLOW else ""
    moving = _moving_fields(card, target)
    psnr: Mapping[str, Interval] = decoder.psnr if decoder else {}
    return (
        _gate("PSNR, own action", psnr.get("own"), no_decoder, at_least=psnr["copy"].value if psnr else None),
        _gate("zero response", code.zero_response, missing.get(f"{block}.zero_response"), at_most=ZERO_RESPONSE),
        _gate("shift response", code.shift_response, missing.get(f"{block}.shift_response"), at_most=SHIFT_RESPONSE),
        _gate("scene cut", decoder.scene_cut if decoder else None, no_decoder, at_least=SCENE_CUT),
        _gate(
            "clip leak",
            None if few else leak,
            few or missing.get(f"{block}.clip_leak"),
            at_most=CLIP_LEAK,
        ),
        _gate(
            "utilisation",
            card.utilisation,
            no_decoder or missing.get(f"utilisation.{block}"),
            at_least=UTILISATION,
        ),
        _gate("beyond flow", None if itself else own, itself or unknown, at_least=flow.value if flow else None),
        _gate(
            "effective rank",
            code.effective_rank if moving else None,
            unknown,
            at_least=RANK_SHARE * moving if moving else None,
        ),
    )


def rank(cards: Listed[SubjectCard], *, target: str | None) -> tuple[str, ...]:
    """Names of the subjects that miss no gate: by what they tell of the target beyond frame t, or without a target by
    utilisation; who has neither is left out."""
    scores: dict[str, float] = {}
    for card in cards:
        score = _increment(card, target) if target else card.utilisation
        if score is not None and not any(gate.passed is False for gate in card.gates):
            scores[card.name] = score.value
    return tuple(sorted(scores, key=lambda name: -scores[name]))


def out_of_order(checks: Iterable[ControlCheck]) -> tuple[str, ...]:
    return tuple(check.metric for check in checks if not check.ok)


def verdict(
    card: SubjectCard, beside: Listed[SubjectCard], *, name: str, target: str | None, disorder: Listed[str]
) -> str:
    """What the card says of one subject on one set, in a sentence or two."""
    if disorder:
        return (
            f"On {name} the controls come out in the wrong order ({', '.join(disorder)}): these numbers mean nothing "
            "here, and nothing is ranked."
        )
    missed = [gate for gate in card.gates if gate.passed is False]
    measured = [gate for gate in card.gates if gate.passed is not None]
    said = (
        f"misses {len(missed)} of {len(measured)} gates ({', '.join(gate.name for gate in missed)})"
        if missed
        else f"misses none of the {len(measured)} gates that could be measured"
    )
    found = card.read(target) if target else None
    if found is None:
        return f"On {name} {card.name} {said}; without labels nobody knows what its actions are about."
    flow = _named(beside, STABILISED_FLOW)
    other = flow.read(target) if flow and target else None
    than = f", stabilised flow {other.ridge.r2.value:.2f}" if other else ""
    return f"On {name} {card.name} reads the {target} with R² {found.ridge.r2.value:.2f}{than}, and {said}."


def _gate(
    name: str,
    value: Interval | float | None,
    missing: str | None,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Gate:
    number = value.value if isinstance(value, Interval) else value
    limit, low = (at_least, True) if at_most is None else (at_most, False)
    if number is None or limit is None:
        return Gate(name, None, None, low, None, missing or "")
    return Gate(name, number, limit, low, number >= limit if low else number <= limit)


def _named(cards: Listed[SubjectCard], name: str) -> SubjectCard | None:
    return next((card for card in cards if card.name == name), None)


def _increment(card: SubjectCard | None, target: str | None) -> Interval | None:
    found = card.read(target) if card and target else None
    return found.increment if found else None


def _moving_fields(card: SubjectCard, target: str | None) -> int:
    """Dimensions of what was done that move: the hand's place, turn and opening, or the robot's state."""
    groups: Mapping[str, GroupScores] = card.known.blocks[action_block(card.blocks)].groups if card.known else {}
    wanted = HANDS if target == "hand" else (target,)
    return sum(len(scores.ridge.fields) for group, scores in groups.items() if group in wanted)
