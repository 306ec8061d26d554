"""What a latent action model is worth on any video, without labels (Tier 1 of the card), and the cheats that test it.

No number here means much alone: each has a cheat that maximises it (a code that stores the next frame, a code that
says nothing), so `lam.baselines.controls` runs both cheats on the same clips. Axes: P pairs, D values of a latent
action. A pair is frames (a, b) of a run of three: a, b, c. Errors are of pixels in [0, 1]; intervals resample clips.
"""

import math
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field

import numpy as np
import torch

from common.errors import BadData
from common.intervals import Interval, resamples
from common.metrics import PSNR_CEILING, effective_rank
from common.motion import STATIC_DIFFERENCE, difference, thumbnail
from lam.evaluate import exchange
from lam.sequences import Sequence
from lam.subjects import Subject

CHUNK = 64  # pairs in memory at once
SHIFT = 3  # pixels, whatever the size of the frame
ALPHAS = (0.5, 1.0, 1.5, 2.0)
FLOOR = 10 ** (-PSNR_CEILING / 10)  # squared error below which 8 bits say nothing
LEAK_DIMS = 64  # of a longer code the clip classifier sees the directions of largest variance
PERMUTATIONS = 50
SURE = 0.95  # share of the resamples in which a ratio must have a positive denominator


@dataclass(frozen=True)
class ClipLeak:
    """Whether the code tells which clip a pair is from: learned on the first half of each clip, tested on its end."""

    accuracy: Interval
    chance: float
    """Accuracy of the same classifier when the clips' names are permuted in training, mean of 50."""
    ratio: Interval
    """Accuracy over chance: 1 is best. The number of clips is its largest value."""


@dataclass(frozen=True)
class CodeMetrics:
    """What the latent actions, or one block of them, say by themselves. None: undefined, see `LabelFree.missing`."""

    dims: int
    zero_response: Interval | None
    """Median |z(a, a)| over RMS |z(a, b)|: 0 is best (CD-LAM's R0, with the median). Cheat: none that also moves."""
    shift_response: Interval | None
    """Median |z(a, shifted a)| over RMS |z(a, b)|; the picture is moved by 3 pixels in a random one of the four
    directions and its border repeated. Small for `act`; `cam` should answer (CD-LAM's R_shift)."""
    pcfc: Interval | None
    """Mean cosine of z(a, b) and z(b, c), lower is better (CoMo's S-PCFC): 1 stores frames. Steady motion raises it."""
    additivity: Interval | None
    """sum |z(a,c) - z(a,b) - z(b,c)|^2 / sum |z(a,c)|^2, 0 is best (ALAM, AC-LAM)."""
    reversibility: Interval | None
    """sum |z(a,b) + z(b,a)|^2 / sum |z(a,b)|^2, 0 is best, 4 is a code that ignores the order (ALAM)."""
    clip_leak: ClipLeak | None
    effective_rank: float
    """Directions that the codes use, of `dims` (`common.metrics.effective_rank`)."""


@dataclass(frozen=True)
class AlphaCurve:
    """Decoding alpha * z: distance (root mean squared error) to decoding 0 * z. It must rise (Wayfarer)."""

    alphas: tuple[float, ...]
    distances: tuple[float, ...]
    """Mean over pairs at each alpha, 0 first."""
    spearman: Interval
    """Rank correlation of distance and alpha > 0 per pair, averaged: 1 is best, 0 where nothing changes."""
    slope: Interval
    """Distance per unit of alpha, least squares through the origin."""


@dataclass(frozen=True)
class DecoderMetrics:
    """What the decoder makes of latent actions. None: undefined, see `LabelFree.missing`."""

    psnr: dict[str, Interval]
    """dB between the second frame and: "own", "shuffled" (another clip's z), "zero", "antiparallel" (-z), "copy"."""
    shuffle_gap: Interval
    """PSNR of own less shuffled, dB (Genie's delta PSNR, with real donors)."""
    utilisation: dict[str, Interval | None]
    """(d_shuffled - d_own) / (d_copy - d_own), d the mean squared error; whole ("all") and with one block exchanged.
    1: a wrong action is as bad as no model."""
    alpha: AlphaCurve
    scene_cut: Interval
    """d_cut / d_own, where the second frame is another clip's; d the root mean squared error. 1: the code stores the
    frame (Garrido et al. use LPIPS). Cheat: predicting nothing."""
    cycle: Interval
    """d(D(a, z'), b) / d(D(a, z), b) with z' = E(o, D(o, z)) inferred on another clip's frame o; 1 is best (Garrido et
    al.). Cheat: a code that says little."""
    imagination_gap: Interval
    """(|D(b, z) - b|^2 - |D(a, z) - b|^2) / |a - b|^2 in means: 0 stores the frame, 1 moves on as far as before, -1
    does nothing (RotVLA, here divided by the error of copying)."""


@dataclass(frozen=True)
class LabelFree:
    """Tier 1 of one subject on one set of clips."""

    pairs: int
    clips: int
    code: dict[str, CodeMetrics]
    """ "all", and each block where there is more than one."""
    decoder: DecoderMetrics | None
    nats: float | None
    gains: dict[str, float]
    """Clip -> mean squared error of copying less the model's own; {} without a decoder."""
    shares: dict[str, dict[str, float]]
    """Clip -> block -> share of that gain which is left when the other blocks are zeros, at most 1; {} for a code of
    one block, and without the clips that gain nothing. A clip in which nobody acts belongs to the camera."""
    missing: dict[str, str]
    """Name of a number that is None -> why."""


@dataclass(frozen=True)
class Sample:
    """Runs of three frames, spread evenly over the clips and within each clip, in time order clip by clip."""

    sequences: tuple[Sequence, ...]
    places: tuple[tuple[int, int], ...]
    """(sequence, index of frame a) of each pair."""
    clips: tuple[str, ...]

    def frames(self, rows: Iterable[int], step: int) -> np.ndarray:
        """uint8 (rows, H, W, 3): frame a (step 0), b (1) or c (2) of these pairs."""
        return np.stack([self.sequences[self.places[row][0]].frames[self.places[row][1] + step] for row in rows])

    def chunks(self) -> Iterator[range]:
        """The rows, at most 64 at a time."""
        return (range(start, min(start + CHUNK, len(self.places))) for start in range(0, len(self.places), CHUNK))


def choose(sequences: Listed[Sequence], *, pairs: int) -> Sample:
    """At most `pairs` of them. No clip gives more than half, so that actions can always come from another clip.

    BadData with fewer than two clips, or if nothing moves. ValueError if frames differ in size.
    """
    sizes = {sequence.frames.shape[1:] for sequence in sequences}
    if len(sizes) > 1:
        raise ValueError(f"frames of one size are needed, not {sorted(sizes)}")
    available: dict[str, list[tuple[int, int]]] = {}
    for index in sorted(range(len(sequences)), key=lambda index: sequences[index].seconds[0]):
        steps = range(len(sequences[index].frames) - 2)
        available.setdefault(sequences[index].clip, []).extend((index, t) for t in steps)
    if len(available) < 2:
        raise BadData(
            f"at least 2 clips are needed to exchange latent actions, not {len(available)}",
            hint="Add clips; parts of one recording count as one.",
        )
    taken: dict[str, int] = {}
    for name in sorted(available, key=lambda name: len(available[name])):  # what short clips leave, long ones get
        left = pairs - sum(taken.values())
        taken[name] = min(len(available[name]), left // (len(available) - len(taken)))
    longest = max(taken, key=lambda name: taken[name])
    taken[longest] = min(taken[longest], sum(taken.values()) - taken[longest])
    if not taken[longest]:
        raise ValueError(f"at least 2 pairs are needed, not {pairs}")
    chosen = [
        (name, available[name][number * len(available[name]) // taken[name]])
        for name in available
        for number in range(taken[name])
    ]
    sample = Sample(tuple(sequences), tuple(place for _, place in chosen), tuple(name for name, _ in chosen))
    if not any(map(_moves, (sequences[index].frames[t : t + 2] for index, t in sample.places))):
        raise BadData("nothing moves in these clips: every frame looks like the one before it")
    return sample


def _moves(pair: np.ndarray) -> bool:
    return difference(thumbnail(pair[0]), thumbnail(pair[1])) >= STATIC_DIFFERENCE


@dataclass
class _Clips:
    """Numbers per pair -> intervals over clips; remembers which could not be given, and why."""

    weights: np.ndarray
    """(1 + resamples, P): how often each pair counts; once each in row 0."""
    missing: dict[str, str] = field(default_factory=dict)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(P,) -> (1 + resamples,): weighted means; NaN pairs are left out."""
        known = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            return self.weights[:, known] @ values[known] / self.weights[:, known].sum(1)

    def median(self, values: np.ndarray) -> np.ndarray:
        """(P,) -> (1 + resamples,): weighted lower medians."""
        order = np.argsort(values)
        below = self.weights[:, order].cumsum(axis=1)
        return values[order][(below >= below[:, -1:] / 2).argmax(axis=1)]

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray, name: str, reason: str) -> Interval | None:
        """None, with the reason, unless the denominator is surely positive."""
        positive = denominator > 0
        if not positive[0] or positive.mean() < SURE:
            self.missing[name] = reason
            return None
        return _interval(np.where(positive, numerator / np.where(positive, denominator, 1), np.nan))


def _interval(resampled: np.ndarray) -> Interval:
    low, high = np.nanquantile(resampled[1:], (0.025, 0.975))
    return Interval(float(resampled[0]), float(low), float(high))


def label_free(subject: Subject, sequences: Listed[Sequence], *, seed: int, pairs: int = 1024) -> LabelFree:
    """Measure the subject on at most `pairs` pairs, spread evenly over the clips.

    The seed draws shifts, permutations and resamples. BadData as `choose` and the subject say; ValueError if the frames
    have another size than the subject takes.
    """
    sample = choose(sequences, pairs=pairs)
    size = sequences[0].frames.shape[1:3]
    if size != tuple(subject.size):
        raise ValueError(f"{subject.name} takes frames of {subject.size}, not {size}")
    names, clip_of = np.unique(sample.clips, return_inverse=True)
    boot = _Clips(resamples(len(names), seed=seed)[:, clip_of])
    codes = _encode(subject, sample, seed=seed)
    blocks = {"all": slice(None)} | (subject.blocks if len(subject.blocks) > 1 else {})
    code = {
        name: _code_metrics(
            {key: z[:, block].astype(np.float64) for key, z in codes.items()}, clip_of, boot, name, seed
        )
        for name, block in blocks.items()
    }
    decoder, gains, shares = None, {}, {}
    if subject.decodes:
        errors = _decode(subject, sample, codes["own"], blocks)
        decoder = _decoder_metrics(errors, blocks, boot)
        gains = _by_clip(errors["copy"] - errors["own"], sample.clips)
        shares = _shares(errors, gains, sample.clips)
    else:
        boot.missing["decoder"] = f"{subject.name} has no decoder"
    nats = [(subject.nats(sample.frames(rows, 0), sample.frames(rows, 1)), len(rows)) for rows in sample.chunks()]
    told = [value * count for value, count in nats if value is not None]
    if not told:
        boot.missing["nats"] = f"{subject.name} has no posterior"
    return LabelFree(
        pairs=len(sample.places),
        clips=len(names),
        code=code,
        decoder=decoder,
        nats=sum(told) / len(sample.places) if told else None,
        gains=gains,
        shares=shares,
        missing=boot.missing,
    )


def _by_clip(values: np.ndarray, clips: Listed[str]) -> dict[str, float]:
    """(P,) -> the mean of each clip."""
    names = np.asarray(clips)
    return {str(name): float(values[names == name].mean()) for name in np.unique(names)}


def _shares(errors: dict[str, np.ndarray], gains: dict[str, float], clips: Listed[str]) -> dict[str, dict[str, float]]:
    only = {name.removeprefix("only "): values for name, values in errors.items() if name.startswith("only ")}
    left = {block: _by_clip(errors["copy"] - values, clips) for block, values in only.items()}
    return {
        clip: {block: min(kept[clip] / gain, 1.0) for block, kept in left.items()}
        for clip, gain in gains.items()
        if left and gain > FLOOR
    }


def shifted(frames: np.ndarray, directions: np.ndarray, *, pixels: int = SHIFT) -> np.ndarray:
    """Frames (P, H, W, 3) moved right (direction 0), left (1), down (2) or up (3); the border's pixels are repeated."""
    _, height, width, _ = frames.shape
    moved = np.empty_like(frames)
    for direction, (down, right) in enumerate(((0, pixels), (0, -pixels), (pixels, 0), (-pixels, 0))):
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        chosen = directions == direction
        moved[chosen] = frames[chosen][:, rows][:, :, columns]
    return moved


def _encode(subject: Subject, sample: Sample, *, seed: int) -> dict[str, np.ndarray]:
    """Latent actions (P, D): own (a, b), still (a, a), shift (a, shifted a), back (b, a), next (b, c), skip (a, c)."""
    directions = np.random.default_rng(seed).integers(0, 4, len(sample.places))
    codes: dict[str, list[np.ndarray]] = {}
    for rows in sample.chunks():
        a, b, c = (sample.frames(rows, step) for step in (0, 1, 2))
        moved = shifted(a, directions[rows.start : rows.stop])
        pairs = {"own": (a, b), "still": (a, a), "shift": (a, moved), "back": (b, a), "next": (b, c), "skip": (a, c)}
        for name, (first, second) in pairs.items():
            codes.setdefault(name, []).append(subject.encode(first, second))
    return {name: np.concatenate(parts) for name, parts in codes.items()}


def _code_metrics(codes: dict[str, np.ndarray], clip_of: np.ndarray, boot: _Clips, name: str, seed: int) -> CodeMetrics:
    """codes: of this block, (P, D) float64; name: the block's, for reasons."""
    own = codes["own"]
    silent = "the latent action is zero for every pair"

    def square(z: np.ndarray) -> np.ndarray:
        return (z**2).sum(axis=1)

    def ratio(metric: str, numerator: np.ndarray, denominator: np.ndarray) -> Interval | None:
        return boot.ratio(numerator, denominator, f"{name}.{metric}", silent)

    size = np.sqrt(boot.mean(square(own)))
    lengths = np.sqrt(square(own) * square(codes["next"]))
    cosine = np.where(lengths > 0, (own * codes["next"]).sum(axis=1) / np.where(lengths > 0, lengths, 1), np.nan)
    additive = codes["skip"] - own - codes["next"]
    pcfc = None
    if np.isfinite(cosine).any():
        pcfc = _interval(boot.mean(cosine))
    else:
        boot.missing[f"{name}.pcfc"] = silent
    return CodeMetrics(
        dims=own.shape[1],
        zero_response=ratio("zero_response", boot.median(np.sqrt(square(codes["still"]))), size),
        shift_response=ratio("shift_response", boot.median(np.sqrt(square(codes["shift"]))), size),
        pcfc=pcfc,
        additivity=ratio("additivity", boot.mean(square(additive)), boot.mean(square(codes["skip"]))),
        reversibility=ratio("reversibility", boot.mean(square(own + codes["back"])), size**2),
        clip_leak=_clip_leak(own, clip_of, boot, name, seed),
        effective_rank=effective_rank(torch.from_numpy(own)),
    )


def _clip_leak(z: np.ndarray, clip_of: np.ndarray, boot: _Clips, name: str, seed: int) -> ClipLeak | None:
    """Rows of one clip are in time order. Between its training and its test pairs a tenth, at least one, is unused."""
    train, test = np.zeros(len(z), bool), np.zeros(len(z), bool)
    for clip in np.unique(clip_of):
        rows = np.flatnonzero(clip_of == clip)
        if len(rows) >= 4:
            half = len(rows) // 2
            train[rows[:half]] = True
            test[rows[half + math.ceil(len(rows) / 10) :]] = True
    clips, label = np.unique(clip_of[train], return_inverse=True)
    if len(clips) < 2:
        boot.missing[f"{name}.clip_leak"] = "fewer than 2 clips have 4 pairs"
        return None
    deviation = z[train].std(axis=0)
    x = (z - z[train].mean(axis=0)) / np.where(deviation > 1e-9 * np.abs(z[train]).max(), deviation, np.inf)
    if x.shape[1] > LEAK_DIMS:
        x = x @ np.linalg.svd(x[train], full_matrices=False)[2][:LEAK_DIMS].T
    truth = clip_of[test]
    correct = clips[_nearest_mean(x[train], label, x[test])] == truth
    rng = np.random.default_rng(seed)
    permuted = [clips[_nearest_mean(x[train], rng.permutation(label), x[test])] == truth for _ in range(PERMUTATIONS)]
    chance = float(np.mean(permuted))
    score = np.full(len(z), np.nan)
    score[test] = correct
    accuracy = boot.mean(score)
    if chance == 0:
        boot.missing[f"{name}.clip_leak"] = "too few pairs: permuted names were never guessed right"
        return None
    return ClipLeak(accuracy=_interval(accuracy), chance=chance, ratio=_interval(accuracy / chance))


def _nearest_mean(train: np.ndarray, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Linear discriminant analysis (Fisher): the class of the nearest mean, measured in the spread within classes.

    The spread is shrunk by a tenth towards a sphere. All classes 0..max must occur.
    """
    members = np.eye(label.max() + 1)[label]  # (N, C)
    means = members.T @ train / members.sum(axis=0)[:, None]
    within = train - means[label]
    spread = within.T @ within / len(train)
    scale = np.trace(spread) / len(spread) + 1e-6
    metric = np.linalg.inv(0.9 * spread + 0.1 * scale * np.eye(len(spread)))
    scores = test @ metric @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, metric, means)
    return scores.argmax(axis=1)


def _decode(subject: Subject, sample: Sample, own: np.ndarray, blocks: dict[str, slice]) -> dict[str, np.ndarray]:
    """Mean squared errors (P,) by name; "alpha" is (P, 4), to decoding zeros. Donors are from other clips."""
    donors = exchange(sample.clips).numpy()
    parts: dict[str, list[np.ndarray]] = {}
    for rows in sample.chunks():
        a, b, z = sample.frames(rows, 0), sample.frames(rows, 1), own[rows.start : rows.stop]
        other, cut = (sample.frames(donors[rows.start : rows.stop], step) for step in (0, 1))
        still = subject.decode(a, np.zeros_like(z))
        again = subject.encode(other, subject.decode(other, z))
        scaled = [subject.decode(a, np.float32(alpha) * z) for alpha in ALPHAS]
        errors = {
            "copy": _error(a, b),
            "own": _error(scaled[ALPHAS.index(1.0)], b),
            "zero": _error(still, b),
            "antiparallel": _error(subject.decode(a, -z), b),
            "alpha": np.stack([_error(guess, still) for guess in scaled], axis=1),
            "cut": _error(subject.decode(a, subject.encode(a, cut)), cut),
            "cycle": _error(subject.decode(a, again), b),
            "imagined": _error(subject.decode(b, z), b),
        }
        for name, block in blocks.items():
            exchanged = z.copy()
            exchanged[:, block] = own[donors[rows.start : rows.stop], block]
            errors[f"shuffled {name}"] = _error(subject.decode(a, exchanged), b)
            if name != "all":
                alone = np.zeros_like(z)
                alone[:, block] = z[:, block]
                errors[f"only {name}"] = _error(subject.decode(a, alone), b)
        for name, values in errors.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _error(guess: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Mean squared error of each picture (P,), of pixels in [0, 1]; both uint8 (P, H, W, 3)."""
    changes = (np.subtract(g, f, dtype=np.float32).ravel() for g, f in zip(guess, frames, strict=True))
    return np.array([np.dot(change, change) / change.size for change in changes], np.float64) / 255**2


def _decoder_metrics(errors: dict[str, np.ndarray], blocks: dict[str, slice], boot: _Clips) -> DecoderMetrics:
    mean = {name: boot.mean(values) for name, values in errors.items() if values.ndim == 1}
    decibel = {name: -10 * np.log10(np.maximum(values, FLOOR)) for name, values in errors.items()}
    kinds = {"own": "own", "shuffled": "shuffled all", "zero": "zero", "antiparallel": "antiparallel", "copy": "copy"}
    distances = np.sqrt(errors["alpha"])  # (P, 4)
    floored = {name: np.sqrt(np.maximum(values, FLOOR)) for name, values in mean.items()}
    alphas = np.array(ALPHAS)
    return DecoderMetrics(
        psnr={kind: _interval(boot.mean(decibel[name])) for kind, name in kinds.items()},
        shuffle_gap=_interval(boot.mean(decibel["own"] - decibel["shuffled all"])),
        utilisation={
            name: boot.ratio(
                mean[f"shuffled {name}"] - mean["own"],
                mean["copy"] - mean["own"],
                f"utilisation.{name}",
                "with its own latent actions the model predicts no better than copying the first frame",
            )
            for name in blocks
        },
        alpha=AlphaCurve(
            alphas=(0.0, *ALPHAS),
            distances=(0.0, *distances.mean(axis=0).tolist()),
            spearman=_interval(boot.mean(_spearman(distances))),
            slope=_interval(boot.mean(distances @ alphas / (alphas @ alphas))),
        ),
        scene_cut=_interval(floored["cut"] / floored["own"]),
        cycle=_interval(floored["cycle"] / floored["own"]),
        imagination_gap=_interval((mean["imagined"] - mean["own"]) / np.maximum(mean["copy"], FLOOR)),
    )


def _spearman(values: np.ndarray) -> np.ndarray:
    """Rank correlation of each row (P, K) with 0..K-1: (P,). Equal values share a rank; all equal gives 0."""
    ranks = (values[:, :, None] > values[:, None]).sum(2) + 0.5 * (values[:, :, None] == values[:, None]).sum(2)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    steps = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    return ranks @ steps / np.maximum(np.linalg.norm(ranks, axis=1) * np.linalg.norm(steps), 1e-9)
