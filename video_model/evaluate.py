"""Measures a video model by its rollouts: fidelity, whether it does what it is told, drift, and variety.

Whatever makes films of first frames and actions can be measured, so that functions with known answers test this file.

Axes: W windows, B of them at once, T steps, A values of an action = [z_act | z_cam].
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common.intervals import Interval, clip_mean
from common.metrics import frechet_distance, psnr, ssim
from video_model.films import VideoSubject, as_pictures, own_actions, roll_out, rolled, true_films
from video_model.following import (
    LEAST_PATH,
    LEAST_SHIFT,
    cosine,
    frame_change,
    motion_of,
    root_mean_square,
    seen_from_first,
    sharpness,
    size_ratio,
    slope,
)
from video_model.hand_probe import r2
from video_model.held_out import Window, other_clips
from video_model.scorers import Scorers
from video_model.video_card import Curve, Drift, Fidelity, Followed, Hand, Likeness, VideoCard, gates

FindHand = Callable[[Tensor], Tensor]
"""Films (B, 1 + T, 3, H, W) in [-1, 1] to the hand's places (B, 1 + T, 2), see `video_model.hand_probe`."""

SEEDS = 4
PICTURES_AT_ONCE = 256
SEED_STEP = 1_000_003  # from one set of seeds to the next: no window meets another's seed
LEAST_PLACE = 1 / 16
"""Half heights, two pixels of 64: windows in which the hand stays nearer to where it began are left out."""


@dataclass(frozen=True)
class Film:
    """The films of one window beside each other."""

    clip: str
    frames: dict[str, np.ndarray]
    """By what they were made of: uint8 (1 + T, H, W, 3)."""


@dataclass
class Tally:
    """Numbers per window, by name, gathered batch by batch."""

    parts: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, values: Tensor) -> None:
        self.parts[name].append(values.detach().double().cpu().numpy())

    def of(self, name: str) -> np.ndarray:
        return np.concatenate(self.parts[name])


def measure(
    subject: VideoSubject,
    windows: Sequence[Window],
    long_windows: Sequence[Window],
    *,
    data: str,
    scorers: Scorers,
    find_hand: FindHand | None = None,
    batch_size: int = 8,
    seed: int = 0,
    films: int = 6,
    progress: Callable[[str], None] = lambda what: None,
) -> tuple[VideoCard, tuple[Film, ...]]:
    """The card, and films of about `films` windows. A function of its arguments; the batch size changes rounding only.

    windows are all of one length; long_windows too, and may be none. find_hand: for windows that know where it is.
    BadData with windows of fewer than 2 clips, and if a film holds NaN or infinite values.
    """
    clips = [window.clip for window in windows]
    givers = [windows[row] for row in other_clips(clips, seed=seed)]
    shown = set(np.linspace(0, len(windows) - 1, min(films, len(windows))).round().astype(int).tolist())
    tally, kept = Tally(), []
    for start in range(0, len(windows), batch_size):
        progress(f"window {start + 1} of {len(windows)}")
        here = slice(start, start + batch_size)
        made = roll_out(subject, windows[here], givers[here], seed=seed + start)
        _compare(tally, made, windows[here], scorers, find_hand)
        _vary(tally, subject, windows[here], made, seed=seed + start)
        kept += [_film(made, row, clips[start + row]) for row in range(len(windows[here])) if start + row in shown]
    names = [name for name in made if name != "truth"]
    given = [name for name in names if name not in ("copy", "tokenizer")]

    def mean(values: np.ndarray) -> Interval | None:
        return clip_mean(values, clips, seed=seed)

    fidelity = {name: _fidelity(tally, name, clips, seed) for name in names}
    with np.errstate(divide="ignore", invalid="ignore"):
        zero_motion = mean(_finite(_by_clip(tally.of("change/zero"), clips) / _by_clip(tally.of("change/own"), clips)))
        spread, error = _by_clip(tally.of("variance"), clips), _by_clip(tally.of("error"), clips)
        diversity = mean(_finite(np.sqrt(spread / error)))
    foreground = followed(tally, "path", given, mean, least=LEAST_PATH)
    missing, hand = {}, None
    if "hand/truth/cosine" in tally.parts:
        places = followed(tally, "hand", ["truth", *given], mean, least=LEAST_PLACE)
        hand = Hand(places, r2(tally.of("said").reshape(-1, 2), tally.of("known").reshape(-1, 2)))
    else:
        missing["hand"] = "where the hand is in these frames is not known"
    drift = _drift(subject, long_windows, scorers, batch_size=batch_size, seed=seed, progress=progress)
    if drift is None:
        missing["drift"] = "no clip is long enough"
    card = VideoCard(
        model=subject.name,
        data=data,
        seed=seed,
        clips=len(set(clips)),
        windows=len(windows),
        steps=len(windows[0].actions),
        fidelity=fidelity,
        zero_motion=zero_motion,
        foreground=foreground,
        camera=followed(tally, "shift", given, mean, least=LEAST_SHIFT),
        hand=hand,
        drift=drift,
        diversity=diversity,
        missing=missing,
        gates=gates(fidelity, foreground, zero_motion),
    )
    return card, tuple(kept)


def _compare(
    tally: Tally, made: dict[str, Tensor], windows: Sequence[Window], scorers: Scorers, find_hand: FindHand | None
) -> None:
    """Everything that is measured of the films of one batch."""
    truth = made["truth"]
    moved = motion_of(truth)
    known = _places(windows, truth.device) if find_hand else None
    for name, film in made.items():
        if scorers.fvd:
            tally.add(f"features/{name}", scorers.features(film))
        if name == "truth":
            continue
        near(tally, name, film[:, 1:], truth[:, 1:], scorers)
        tally.add(f"change/{name}", frame_change(film))
        if name in ("copy", "tokenizer"):
            continue
        motion = motion_of(film)
        alike(tally, f"path/{name}", motion.path, moved.path)
        alike(tally, f"shift/{name}", motion.shift, moved.shift)
        if find_hand and known is not None:
            way = _way(known, moved.camera)
            alike(tally, f"hand/{name}", _way(find_hand(film), motion.camera), way)
    if find_hand and known is not None:
        said, way = find_hand(truth), _way(known, moved.camera)
        alike(tally, "hand/truth", _way(said, moved.camera), way)
        tally.add("hand", root_mean_square(way))
        tally.add("said", said)
        tally.add("known", known)
    tally.add("path", root_mean_square(moved.path))
    tally.add("shift", root_mean_square(moved.shift))


def near(tally: Tally, name: str, film: Tensor, truth: Tensor, scorers: Scorers) -> None:
    """PSNR, SSIM and, if named, LPIPS of frames (B, T, 3, H, W): psnr/NAME, … (B, T)."""
    pictures, reference = ((frames.flatten(0, 1) + 1) / 2 for frames in (film, truth))
    pairs = list(zip(pictures.split(PICTURES_AT_ONCE), reference.split(PICTURES_AT_ONCE), strict=True))
    for score, function in (("psnr", psnr), ("ssim", ssim)):
        tally.add(f"{score}/{name}", torch.cat([function(*pair) for pair in pairs]).unflatten(0, film.shape[:2]))
    if scorers.lpips:
        tally.add(f"lpips/{name}", scorers.distance(film, truth))


def alike(tally: Tally, name: str, path: Tensor, true: Tensor) -> None:
    """How a path (B, T, 2) goes, compared with the true one: NAME/cosine and NAME/size (B,)."""
    tally.add(f"{name}/cosine", cosine(path, true))
    tally.add(f"{name}/size", size_ratio(path, true))


def _places(windows: Sequence[Window], device: torch.device | str) -> Tensor | None:
    """(B, 1 + T, 2), or None where the hand's place is not known."""
    known = [window.hand for window in windows if window.hand is not None]
    return torch.from_numpy(np.stack(known)).float().to(device) if len(known) == len(windows) else None


def _way(places: Tensor, camera: Tensor) -> Tensor:
    """How far the hand is from where it began, the camera's motion taken out: (B, 1 + T, 2) -> (B, T, 2)."""
    still = seen_from_first(places, camera)
    return still[:, 1:] - still[:, :1]


def _vary(
    tally: Tally, subject: VideoSubject, windows: Sequence[Window], made: dict[str, Tensor], *, seed: int
) -> None:
    """Variance over seeds and squared error of own actions' films, per window."""
    truth, actions = made["truth"], own_actions(windows, subject.device)
    others = [rolled(subject, truth[:, 0], actions, seed + SEED_STEP * number) for number in range(1, SEEDS)]
    films = torch.stack((made["own"], *others))[:, :, 1:]  # (SEEDS, B, T, 3, H, W)
    tally.add("variance", films.var(0).flatten(1).mean(1))
    tally.add("error", (films - truth[:, 1:]).square().mean(0).flatten(1).mean(1))


def _film(made: dict[str, Tensor], row: int, clip: str) -> Film:
    kinds = ("truth", "own", "opposite", "zero", "shuffled", "camera alone", "forecast")
    names = [name for name in kinds if name in made]
    return Film(clip, {name: as_pictures(made[name][row]) for name in names})


def _fidelity(tally: Tally, name: str, clips: Sequence[str], seed: int) -> Fidelity:
    features = tally.parts.get(f"features/{name}")
    return Fidelity(
        psnr=score_curve(tally.of(f"psnr/{name}"), clips, seed),
        ssim=score_curve(tally.of(f"ssim/{name}"), clips, seed),
        lpips=score_curve(tally.of(f"lpips/{name}"), clips, seed) if f"lpips/{name}" in tally.parts else None,
        fvd=frechet_distance(*(torch.from_numpy(tally.of(f"features/{kind}")) for kind in (name, "truth")))
        if features and len(clips) > 1
        else None,
    )


def score_curve(values: np.ndarray, clips: Sequence[str], seed: int) -> Curve:
    """values (W, T), all finite."""
    mean, *frames = (clip_mean(column, clips, seed=seed) for column in (values.mean(1), *values.T))
    assert mean is not None
    return Curve(mean, tuple(interval for interval in frames if interval is not None))


def followed(
    tally: Tally, kind: str, names: Sequence[str], mean: Callable[[np.ndarray], Interval | None], *, least: float
) -> Followed:
    """Of KIND/NAME as `alike` gathered them, over windows in which the true motion, KIND (W,), is `least` or more."""
    still = tally.of(kind) < least
    rows = {
        name: Likeness(
            *(mean(np.where(still, np.nan, tally.of(f"{kind}/{name}/{part}"))) for part in ("cosine", "size"))
        )
        for name in names
    }
    return Followed(rows, windows=len(still), still=int(still.sum()))


def _by_clip(values: np.ndarray, clips: Sequence[str]) -> np.ndarray:
    """Each window's number replaced by the mean of its clip: (W,)."""
    _, clip_of = np.unique(np.asarray(clips), return_inverse=True)
    return (np.bincount(clip_of, weights=values) / np.bincount(clip_of))[clip_of]


def _finite(ratios: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(ratios), ratios, np.nan)


def _drift(
    subject: VideoSubject,
    windows: Sequence[Window],
    scorers: Scorers,
    *,
    batch_size: int,
    seed: int,
    progress: Callable[[str], None],
) -> Drift | None:
    """None without windows."""
    if not windows:
        return None
    clips, tally, times = [window.clip for window in windows], Tally(), []
    for start, part in _batches(windows, batch_size):
        progress(f"long window {start + 1} of {len(windows)}")
        truth = true_films(part, subject.device)
        film = rolled(subject, truth[:, 0], own_actions(part, subject.device), seed + start)[:, 1:]
        seconds = torch.from_numpy(np.stack([window.seconds - window.seconds[0] for window in part]))[:, 1:]
        times.append(seconds.numpy())
        for name, values in _decay(film, truth[:, 1:], scorers).items():
            tally.add(name, values)
            tally.add(f"slope/{name}", slope(values.double().cpu(), seconds))
    slopes = {name: clip_mean(tally.of(f"slope/{name}"), clips, seed=seed) for name in tally.parts if "/" not in name}
    return Drift(
        windows=len(windows),
        seconds=tuple(np.concatenate(times).mean(0).tolist()),
        psnr=score_curve(tally.of("psnr"), clips, seed),
        slopes={name: interval for name, interval in slopes.items() if interval is not None},
    )


def _decay(film: Tensor, truth: Tensor, scorers: Scorers) -> dict[str, Tensor]:
    """What can get worse with time, of frames (B, T, 3, H, W): name -> (B, T)."""
    shown, real = (film + 1) / 2, (truth + 1) / 2
    colours = {"colour mean": Tensor.mean, "colour spread": Tensor.std}
    errors = {name: (of(shown, (-2, -1)) - of(real, (-2, -1))).abs().mean(-1) for name, of in colours.items()}
    scores = {"psnr": psnr(shown.flatten(0, 1), real.flatten(0, 1)).unflatten(0, film.shape[:2])}
    scores |= {"sharpness": sharpness(film) - sharpness(truth)} | errors
    return scores | ({"lpips": scorers.distance(film, truth)} if scorers.lpips else {})


def _batches(windows: Sequence[Window], size: int) -> Iterator[tuple[int, Sequence[Window]]]:
    for start in range(0, len(windows), size):
        yield start, windows[start : start + size]
