"""Measures a student beside its teacher: fidelity by horizon, drift, control, diversity, endurance.

Whatever makes films of first frames and actions can be measured, so that functions with known answers test this file.

Axes: W windows, B of them at once, T steps, L latents, A values of a latent action = [z_act | z_cam].
"""

import ctypes
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor

from common.intervals import Interval, clip_mean, interval_of, ratio, resampled_means, root_ratio
from distill.card import (
    Control,
    Departure,
    Departures,
    Diversity,
    Endurance,
    HalfMinute,
    Horizon,
    Look,
    Scores,
    Speed,
    StudentCard,
    StudentDrift,
    gates,
    passes,
)
from distill.drift import ROLLOUTS_AT_ONCE, decay_numbers, off_truth
from video_model.evaluate import SEED_STEP, Film, Tally, alike, followed, near, score_curve
from video_model.films import VideoSubject, as_films, as_pictures, given_actions, own_actions, rolled, true_films
from video_model.following import LEAST_PATH, frame_change, motion_of, root_mean_square, sharpness, slope
from video_model.generator import LATENT, Generator
from video_model.held_out import Window, spread
from video_model.presets import TIME_FACTOR
from video_model.rollout import advance, start
from video_model.scorers import Scorers

Begin = Callable[[Tensor, int], Callable[[Tensor], Tensor]]
"""(first frame (3, H, W) in [-1, 1], seed) -> what makes of the next actions (4, A) the next frames (4, 3, H, W)."""

LEAST_FRAMES = 1 + 2 * TIME_FACTOR
"""Of a horizon: a slope takes two latents."""
PIXELS_AT_ONCE = 2**22
"""Of the films that are rolled out together, or one film."""
HALF_MINUTE = 30.0
LEAST_SPREAD = 1e-6
"""Standard deviation over seeds below which films are the same but for rounding."""
FILM_FRAMES = 60
"""That are shown of a longer film, at most."""


@dataclass(frozen=True)
class Measured:
    """What `measure` gives."""

    card: StudentCard
    films: tuple[Film, ...]
    """Of some of the longest windows, every so many frames: truth, student, teacher."""
    control_films: tuple[Film, ...]
    """Of some of the shortest: truth, and the student's with own, opposite and zero actions."""


def measure(
    student: VideoSubject,
    teacher: VideoSubject,
    windows: Mapping[int, Sequence[Window]],
    *,
    data: str,
    fps: float,
    begin: Begin,
    time: Callable[[], Speed],
    memory: Callable[[], float],
    minutes: float = 10.0,
    seeds: int = 4,
    seed: int = 0,
    films: int = 4,
    progress: Callable[[str], None] = lambda what: None,
) -> Measured:
    """The card, and films of about `films` windows.

    windows: by their frames, `LEAST_FRAMES` or more; none where no clip is long enough, but some for one length. fps:
    of the films. begin: the student's stream. time: measures the speed, last of all. memory: MB in use. BadData if a
    film of a horizon holds NaN or infinite values; a long rollout that does ends there, and the card says so.
    """
    subjects = {"student": student, "teacher": teacher}
    found = {frames: windows[frames] for frames in sorted(windows) if windows[frames]}
    missing = {f"{frames} frames": "no clip is long enough" for frames in sorted(windows) if not windows[frames]}
    shortest, longest = min(found), max(found)
    # First: memory that the other parts have used and freed could hide what the stream takes.
    endurance = endure(
        begin,
        found[longest][0],
        device=student.device,
        fps=fps,
        minutes=minutes,
        memory=memory,
        seed=seed,
        progress=progress,
    )
    tallies, shown, controlled = {}, [], []
    for frames, some in found.items():
        tally = tallies[frames] = Tally()
        for first, part in _batches(some):
            progress(f"{frames} frames, window {first + 1} of {len(some)}")
            truth, actions = true_films(part, student.device), own_actions(part, student.device)
            made = {who: rolled(subject, truth[:, 0], actions, seed + first) for who, subject in subjects.items()}
            kept = [row for row in range(len(part)) if first + row in spread(len(some), min(films, len(some)))]
            for who, film in made.items():
                near(tally, who, film[:, 1:], truth[:, 1:], Scorers())
            if frames == longest:
                for who, film in made.items():
                    tally.add(f"off/{who}", off_truth(film, truth).transpose(0, 1))
                shown += _films({"truth": truth, **made}, part, kept)
            if frames == shortest:
                told = _control(tally, subjects, made, truth, actions, seed=seed + first)
                controlled += _films({"truth": truth, **told}, part, kept)
                _vary(tally, subjects, made, truth[:, 0], actions, seeds=seeds, seed=seed + first)
    fidelity = tuple(_horizon(tallies[frames], frames, some, seed) for frames, some in found.items())
    drift = _drift(tallies[longest], found[longest], seed)
    control = _controlled(tallies[shortest], found[shortest], seed)
    diversity = _diversity(tallies[shortest], found[shortest], seeds=seeds, seed=seed)
    if diversity.ratio is None:
        missing["diversity"] = "the teacher makes the same film with every seed"
    if endurance.memory_growth is None:
        missing["memory"] = "the long rollout has not finished two half minutes"
    progress("speed")
    speed = time()
    measured = gates(fidelity, drift, control, diversity, endurance, speed)
    card = StudentCard(
        student=student.name,
        teacher=teacher.name,
        data=data,
        seed=seed,
        fidelity=fidelity,
        drift=drift,
        control=control,
        diversity=diversity,
        endurance=endurance,
        speed=speed,
        missing=missing,
        gates=measured,
        passes=passes(measured),
    )
    return Measured(card, tuple(shown), tuple(controlled))


def endure(
    begin: Begin,
    window: Window,
    *,
    device: torch.device | str,
    fps: float,
    minutes: float,
    memory: Callable[[], float],
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> Endurance:
    """A long rollout, up to the first number that is not finite.

    It is told the window's latent actions, then the same in reverse order and negated, which undoes them, and so on:
    so the scene comes back to where it began, and never has to show what no clip shows.
    """
    film = as_films([window.frames], device)[0]
    there = torch.from_numpy(window.actions).to(device)
    rows = torch.cat((there, -there.flip(0)))
    latents, each = (round(seconds * fps / TIME_FACTOR) for seconds in (60 * minutes, HALF_MINUTE))
    go_on, last = begin(film[0], seed), film[0]
    looks: list[Tensor] = []
    half_minutes: list[HalfMinute] = []
    finite = 0
    while finite < latents:
        place = TIME_FACTOR * finite + torch.arange(TIME_FACTOR, device=device)
        frames = go_on(rows[place % len(rows)])
        if not frames.isfinite().all():
            break
        looks.append(_look(torch.cat((last[None], frames))))
        last, finite = frames[-1], finite + 1
        if len(looks) == each:
            seconds = TIME_FACTOR * finite / fps
            half_minutes.append(HalfMinute(seconds, memory(), _as_look(torch.stack(looks).mean(0))))
            looks.clear()
            progress(f"long rollout, {seconds / 60:.1f} of {minutes:g} minutes")
    taken = [half.megabytes for half in half_minutes]
    return Endurance(
        clip=window.clip,
        asked_seconds=TIME_FACTOR * latents / fps,
        finite_seconds=TIME_FACTOR * finite / fps,
        half_minutes=tuple(half_minutes),
        memory_growth=max(taken[1:]) - taken[0] if len(taken) > 1 else None,
        truth=_as_look(_look(film)),
    )


def streamed(generator: Generator, *, steps: int) -> Begin:
    """A generator's stream under latent actions. steps: for each latent."""

    def begin(first: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
        stream, _ = start(generator, first[None], seeds=[seed])
        return lambda actions: advance(generator, stream, actions[None], embodiment=LATENT, steps=steps)[0]

    return begin


def megabytes_in_use(device: torch.device) -> float:
    """Resident memory of this process and, on a GPU, what tensors take there.

    What is free is given back before: in what the allocator keeps for later, growth would not show.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim:
        trim(0)
    on_gpu = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    return (psutil.Process().memory_info().rss + on_gpu) / 1e6


def _look(frames: Tensor) -> Tensor:
    """Frames (1 + n, 3, H, W) to (5,): sharpness and colour of the last n, motion."""
    shown = frames[1:]
    motion = frames.diff(dim=0).abs().mean()
    return torch.cat((sharpness(shown).mean()[None], shown.mean((0, 2, 3)), motion[None])).double().cpu()


def _as_look(numbers: Tensor) -> Look:
    sharp, red, green, blue, motion = numbers.tolist()
    return Look(sharp, (red, green, blue), motion)


def _control(
    tally: Tally,
    subjects: Mapping[str, VideoSubject],
    made: Mapping[str, Tensor],
    truth: Tensor,
    actions: Tensor,
    *,
    seed: int,
) -> dict[str, Tensor]:
    """What films do with opposite and zero actions, and with own ones as made before; returns the student's."""
    moved = motion_of(truth).path
    tally.add("path", root_mean_square(moved))
    films = {}
    for who, subject in subjects.items():
        told = given_actions(actions, actions, latent_dim=subject.latent_dim)
        others = {kind: rolled(subject, truth[:, 0], told[kind], seed) for kind in ("opposite", "zero")}
        films[who] = {"own": made[who], **others}
        for kind in ("own", "opposite"):
            alike(tally, f"path/{who}, {kind}", motion_of(films[who][kind]).path, moved)
        for kind in ("own", "zero"):
            tally.add(f"change/{who}/{kind}", frame_change(films[who][kind]))
    return films["student"]


def _vary(
    tally: Tally,
    subjects: Mapping[str, VideoSubject],
    made: Mapping[str, Tensor],
    first: Tensor,
    actions: Tensor,
    *,
    seeds: int,
    seed: int,
) -> None:
    """Variance of a pixel over seeds, per window."""
    for who, subject in subjects.items():
        others = [rolled(subject, first, actions, seed + SEED_STEP * number) for number in range(1, seeds)]
        tally.add(f"variance/{who}", torch.stack((made[who], *others))[:, :, 1:].var(0).flatten(1).mean(1))


def _horizon(tally: Tally, frames: int, windows: Sequence[Window], seed: int) -> Horizon:
    clips = [window.clip for window in windows]

    def scores(who: str) -> Scores:
        return Scores(*(score_curve(tally.of(f"{score}/{who}"), clips, seed) for score in ("psnr", "ssim")))

    def gain(score: str) -> Interval:
        difference = tally.of(f"{score}/student") - tally.of(f"{score}/teacher")
        return interval_of(resampled_means(difference.mean(1), clips, seed=seed))

    return Horizon(
        frames=frames,
        windows=len(windows),
        clips=len(set(clips)),
        student=scores("student"),
        teacher=scores("teacher"),
        psnr_gain=gain("psnr"),
        ssim_gain=gain("ssim"),
    )


def _drift(tally: Tally, windows: Sequence[Window], seed: int) -> StudentDrift:
    clips = [window.clip for window in windows]
    times = torch.from_numpy(np.stack([window.seconds[1:] - window.seconds[0] for window in windows]).mean(0))
    seconds = torch.stack([chunk.mean() for chunk in times.split(TIME_FACTOR)])
    student, teacher = (
        _departures(resampled_means(tally.of(f"off/{who}"), clips, seed=seed), seconds)
        for who in ("student", "teacher")
    )
    return StudentDrift(
        frames=len(windows[0].frames),
        windows=len(windows),
        clips=len(set(clips)),
        seconds=tuple(seconds.tolist()),
        student=student,
        teacher=teacher,
    )


def _departures(means: np.ndarray, seconds: Tensor) -> Departures:
    """Of resampled means (1 + R, 4, T) of what `off_truth` gives; seconds (L,)."""
    off = torch.from_numpy(means).movedim(1, 0)  # (4, 1 + R, T)
    steps = off.shape[2]
    curves = torch.stack([decay_numbers(chunk.mean(2)) for chunk in off.split(TIME_FACTOR, dim=2)], dim=2)
    late = decay_numbers(off[:, :, steps // 2 :].mean(2))  # (3, 1 + R)
    middle = decay_numbers(off[:, :, 99:200].mean(2)) if steps >= 200 else None
    times = seconds.expand(curves.shape[1], -1)
    return Departures(
        *(
            Departure(
                by_latent=tuple(_interval(latent) for latent in curve.unbind(1)),
                late=_interval(late[number]),
                frames_100_200=None if middle is None else _interval(middle[number]),
                slope=_interval(slope(curve, times)),
            )
            for number, curve in enumerate(curves)
        )
    )


def _controlled(tally: Tally, windows: Sequence[Window], seed: int) -> Control:
    clips = [window.clip for window in windows]
    names = [f"{who}, {kind}" for who in ("student", "teacher") for kind in ("own", "opposite")]
    zero_motion = {
        who: ratio(tally.of(f"change/{who}/zero"), tally.of(f"change/{who}/own"), clips, seed=seed)
        for who in ("student", "teacher")
    }
    paths = followed(tally, "path", names, lambda values: clip_mean(values, clips, seed=seed), least=LEAST_PATH)
    return Control(paths, zero_motion)


def _diversity(tally: Tally, windows: Sequence[Window], *, seeds: int, seed: int) -> Diversity:
    clips = [window.clip for window in windows]
    variances = {who: tally.of(f"variance/{who}") for who in ("student", "teacher")}
    student, teacher = (interval_of(np.sqrt(resampled_means(one, clips, seed=seed))) for one in variances.values())
    times = None
    if teacher.value > LEAST_SPREAD:
        times = root_ratio(variances["student"], variances["teacher"], clips, seed=seed)
    return Diversity(seeds, student, teacher, times)


def _interval(values: Tensor) -> Interval:
    return interval_of(values.numpy())


def _films(made: Mapping[str, Tensor], windows: Sequence[Window], rows: Sequence[int]) -> list[Film]:
    thinned = {name: film[:, :: -(-film.shape[1] // FILM_FRAMES)] for name, film in made.items()}
    return [Film(windows[row].clip, {name: as_pictures(film[row]) for name, film in thinned.items()}) for row in rows]


def _batches(windows: Sequence[Window]) -> Iterator[tuple[int, Sequence[Window]]]:
    """As many at once as fit; the first one's number with them."""
    pixels = windows[0].frames[..., 0].size
    size = min(ROLLOUTS_AT_ONCE, max(1, PIXELS_AT_ONCE // pixels))
    for first in range(0, len(windows), size):
        yield first, windows[first : first + size]
