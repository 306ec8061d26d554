"""The card of a latent action model: every measurement on every set, beside baselines, with controls and gates.

A card gives no single score. Each gate has a limit (`lam.gates`); a subject that misses one is not ranked, and where a
control comes out in the wrong order nothing is.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Listed
from dataclasses import asdict, dataclass, replace

import numpy as np

from common.intervals import Interval
from lam.baselines import ControlCheck, DifferencePca, PooledFlow, Zeros, controls, random_encoder
from lam.gates import Role, SubjectCard, action_block, gates, out_of_order, rank, target_of, verdict
from lam.known_factors import Score, frame_features, known_factors, transfer
from lam.label_curve import Spread, label_curve, labels_needed, supervised_curve
from lam.label_free import label_free
from lam.presets import dreamdojo_tiny
from lam.probes import cross_validated, r2_interval
from lam.sequences import EvaluationSet, changes, pairs
from lam.subjects import LamSubject, Subject

PROTOCOL = "understudy-lam-card-1"
"""Numbers compare only where this and the set's `sha256` are equal."""

BASELINE_PAIRS = 512  # for the label-free numbers of baselines, at most: they are there to compare with
ERRORS = (0.9, 0.75, 0.5)  # shares of the label's variation that are left, for which the labels needed are told
ORACLE, NOTHING = 0.9, 0.1  # R2 that the labels themselves must reach as a code, and that a constant must not


@dataclass(frozen=True)
class ProbeControl:
    """The probe of the target on codes whose answer is known. Fails where there is too little data to probe."""

    oracle: float
    """R2 from the target itself: near 1."""
    constant: float
    """R2 from a code that never changes: 0 or less."""
    ok: bool


@dataclass(frozen=True)
class SetCard:
    """Everything measured on one data folder."""

    name: str
    kind: str
    clips: int
    pairs: int
    sha256: str
    """Of the names and frames of its clips."""
    fields: dict[str, tuple[str, ...]]
    """Factor group -> names of its dimensions."""
    target: str | None
    """The factor group that stands for what was done; None where nothing is known."""
    subjects: tuple[SubjectCard, ...]
    supervised: dict[int, Spread] | None
    """Label curve of a network that learns from the frames and the same labels alone."""
    supervised_needed: dict[str, float | None]
    controls: tuple[ControlCheck, ...]
    probe_control: ProbeControl | None
    ranking: tuple[str, ...]
    """Subjects that miss no gate, best first; empty where a control is out of order."""

    @property
    def disorder(self) -> tuple[str, ...]:
        """The controls that came out in the wrong order."""
        probes = self.probe_control is None or self.probe_control.ok
        return out_of_order(self.controls) + (() if probes else ("probe",))


@dataclass(frozen=True)
class ProbeOnto:
    """Probes learned on one set and tested on another as they are, from the action block."""

    learned_on: str
    tested_on: str
    scores: dict[str, dict[str, Score]]
    """Subject -> factor group -> score."""


@dataclass(frozen=True)
class SweepPoint:
    """The demo world at one strength of camera motion, light and distractor."""

    nuisance: float
    r2: dict[str, dict[str, Interval]]
    """Subject -> factor group -> R2 from the action block, by ridge."""


@dataclass(frozen=True)
class Card:
    """The whole card."""

    protocol: str
    verdict: str
    model: str
    against: tuple[str, ...]
    gap_seconds: float
    seed: int
    fast: bool
    """Without MLP probes and label curves."""
    sets: tuple[SetCard, ...]
    probe_onto: ProbeOnto | None
    sweep: tuple[SweepPoint, ...]

    def to_json(self) -> str:
        """One JSON object. ValueError if a number is not finite."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


@dataclass(frozen=True)
class Entrant:
    """A subject and what it is measured on, in frames of its size."""

    subject: Subject
    role: Role
    sets: tuple[EvaluationSet, ...]
    onto: EvaluationSet | None = None
    sweep: Mapping[float, EvaluationSet] | None = None


def make_card(
    entrants: Listed[Entrant],
    *,
    gap_seconds: float,
    seed: int,
    fast: bool,
    label_free_pairs: int = 1024,
    progress: Callable[[str], None] = lambda what: None,
) -> Card:
    """Measure all entrants, the model first; each is to have the same sets, in frames of its size.

    `progress` is told what comes next. BadData where a set cannot be measured or a subject's answer not be used.
    """
    names = [entrant.subject.name for entrant in entrants]
    if len(set(names)) < len(names):
        raise ValueError(f"subjects need names of their own, not {names}")
    card = Card(
        protocol=PROTOCOL,
        verdict="",
        model=names[0],
        against=tuple(entrant.subject.name for entrant in entrants if entrant.role == "against"),
        gap_seconds=gap_seconds,
        seed=seed,
        fast=fast,
        sets=tuple(
            _measure_set(entrants, number, seed=seed, fast=fast, most=label_free_pairs, progress=progress)
            for number in range(len(entrants[0].sets))
        ),
        probe_onto=_probe_onto(entrants, seed=seed, progress=progress),
        sweep=_sweep(entrants, seed=seed, progress=progress),
    )
    return replace(card, verdict=" ".join(_verdict(data) for data in card.sets))


def baselines(subject: Subject, sets: Listed[EvaluationSet], *, seed: int) -> tuple[Subject, ...]:
    """What every model is shown beside, for frames of its size.

    The random encoder has the model's own architecture, or `dreamdojo-tiny`'s where the model is not ours; the frame
    difference PCA is fitted on pairs of all the sets.
    """
    height, width = subject.size
    device = "cpu"
    if isinstance(subject, LamSubject):
        config, device = subject.model.config, next(subject.model.parameters()).device
    else:
        divisor = math.gcd(height, width)
        patch = next(patch for patch in (*range(8, divisor), divisor) if divisor % patch == 0)
        config = replace(dreamdojo_tiny().model, height=height, width=width, patch=patch)
    sequences = [sequence for data in sets for sequence in data.sequences]
    places = [(number, t) for number, found in enumerate(sequences) for t in range(len(found.frames) - 1)]
    chosen = [places[row] for row in np.unique(np.linspace(0, len(places) - 1, 1024).round().astype(int))]
    first, second = (np.stack([sequences[number].frames[t + step] for number, t in chosen]) for step in (0, 1))
    untrained = random_encoder(config, seed=seed)
    untrained.model.to(device)
    return (
        Zeros(size=subject.size),
        untrained,
        DifferencePca.fit(first, second),
        PooledFlow(size=subject.size, stabilised=False),
        PooledFlow(size=subject.size, stabilised=True),
    )


def set_hash(data: EvaluationSet) -> str:
    """SHA-256 of the names and frames of its clips, in order."""
    digest = hashlib.sha256()
    for sequence in data.sequences:
        digest.update(os.fsencode(sequence.clip) + b"\0" + repr(sequence.frames.shape).encode())
        digest.update(sequence.frames.tobytes())
    return digest.hexdigest()


def encode(subject: Subject, data: EvaluationSet) -> np.ndarray:
    """Latent actions (P, D) of all pairs of a set, in the order of `lam.sequences.pairs`."""
    return np.concatenate([subject.encode(found.frames[:-1], found.frames[1:]) for found in data.sequences])


def labels(data: EvaluationSet) -> dict[str, np.ndarray]:
    """Factor group -> what changed over each pair (P, d), in the same order."""
    return {group: np.concatenate([changes(found, group) for found in data.sequences]) for group in data.fields}


def pair_clips(data: EvaluationSet) -> tuple[str, ...]:
    """The clip of each pair (P,)."""
    return tuple(found.clip for found in data.sequences for _ in range(len(found.frames) - 1))


def _measure_set(
    entrants: Listed[Entrant], number: int, *, seed: int, fast: bool, most: int, progress: Callable[[str], None]
) -> SetCard:
    data = entrants[0].sets[number]
    clips, target = pair_clips(data), target_of(data)
    known = labels(data)
    progress(f"{data.name}: controls")
    checks = tuple(controls(data.sequences, seed=seed))
    probe_control = _probe_control(known[target], clips, seed=seed) if target else None
    measured = []
    for entrant in entrants:
        progress(f"{data.name}: {entrant.subject.name}")
        if pair_clips(entrant.sets[number]) != clips:
            raise ValueError(f"{entrant.subject.name} is measured on other clips than {entrants[0].subject.name}")
        measured.append(_measure(entrant, number, known, target, seed=seed, fast=fast, most=most))
    supervised = None
    if target and not fast:
        progress(f"{data.name}: supervised inverse model")
        frames = pairs(data.sequences)
        supervised = supervised_curve(frames.first, frames.second, known[target], clips, seed=seed)
    judged = tuple(replace(card, gates=gates(card, measured, target=target)) for card in measured)
    card = SetCard(
        name=data.name,
        kind=data.kind,
        clips=len(data.clips),
        pairs=len(clips),
        sha256=set_hash(data),
        fields=data.fields,
        target=target,
        subjects=judged,
        supervised=supervised,
        supervised_needed=_needed(supervised),
        controls=checks,
        probe_control=probe_control,
        ranking=(),
    )
    return replace(card, ranking=() if card.disorder else rank(judged, target=target))


def _measure(
    entrant: Entrant,
    number: int,
    known: dict[str, np.ndarray],
    target: str | None,
    *,
    seed: int,
    fast: bool,
    most: int,
) -> SubjectCard:
    subject, data = entrant.subject, entrant.sets[number]
    clips = pair_clips(data)
    factors, curve = None, None
    if known:
        z = encode(subject, data)
        features = frame_features(np.concatenate([found.frames[:-1] for found in data.sequences]))
        factors = known_factors(
            z,
            known,
            clips,
            blocks=subject.blocks,
            fields=data.fields,
            features=features,
            mlp=not fast and entrant.role != "baseline",
            seed=seed,
        )
        if target and not fast:
            curve = label_curve(z[:, subject.blocks[action_block(subject.blocks)]], known[target], clips, seed=seed)
    return SubjectCard(
        name=subject.name,
        role=entrant.role,
        blocks={name: len(range(*block.indices(10**9))) for name, block in subject.blocks.items()},
        label_free=label_free(
            subject, data.sequences, seed=seed, pairs=most if entrant.role != "baseline" else min(most, BASELINE_PAIRS)
        ),
        known=factors,
        label_curve=curve,
        labels_needed=_needed(curve),
        gates=(),
    )


def _needed(curve: dict[int, Spread] | None) -> dict[str, float | None]:
    """Error (1 - R2) -> labels that it takes to fall to it."""
    return {f"{error:g}": labels_needed(curve, error) for error in ERRORS} if curve else {}


def _probe_control(target: np.ndarray, clips: Listed[str], *, seed: int) -> ProbeControl:
    oracle, constant = (
        r2_interval(cross_validated(code, target, clips, seed=seed), target, clips, seed=seed).value
        for code in (target, np.ones((len(target), 1)))
    )
    return ProbeControl(oracle, constant, ok=oracle >= ORACLE and constant <= NOTHING)


def _probe_onto(entrants: Listed[Entrant], *, seed: int, progress: Callable[[str], None]) -> ProbeOnto | None:
    here, there = entrants[0].sets[0], entrants[0].onto
    if there is None:
        return None
    progress(f"probes of {here.name} onto {there.name}")
    scores = {}
    for entrant in entrants:
        assert entrant.onto is not None
        block = entrant.subject.blocks[action_block(entrant.subject.blocks)]
        scores[entrant.subject.name] = transfer(
            encode(entrant.subject, entrant.sets[0])[:, block],
            labels(here),
            pair_clips(here),
            onto_z=encode(entrant.subject, entrant.onto)[:, block],
            onto_changes=labels(there),
            onto_clips=pair_clips(there),
            fields=here.fields,
            seed=seed,
        )
    return ProbeOnto(here.name, there.name, scores)


def _sweep(entrants: Listed[Entrant], *, seed: int, progress: Callable[[str], None]) -> tuple[SweepPoint, ...]:
    points = []
    for nuisance in entrants[0].sweep or {}:
        found = {}
        for entrant in entrants:
            assert entrant.sweep is not None
            data, name = entrant.sweep[nuisance], action_block(entrant.subject.blocks)
            progress(f"nuisance {nuisance:g}: {entrant.subject.name}")
            scores = known_factors(
                encode(entrant.subject, data)[:, entrant.subject.blocks[name]],
                labels(data),
                pair_clips(data),
                blocks={},
                fields=data.fields,
                features=frame_features(np.concatenate([clip.frames[:-1] for clip in data.sequences])),
                mlp=False,
                seed=seed,
            )
            groups = scores.blocks["z"].groups
            found[entrant.subject.name] = {group: groups[group].ridge.r2 for group in groups}
        points.append(SweepPoint(nuisance, found))
    return tuple(points)


def _verdict(data: SetCard) -> str:
    return verdict(data.subjects[0], data.subjects, name=data.name, target=data.target, disorder=data.disorder)
