"""Measures how well a robot in a video model answers to its controls, on episodes that it was not aligned with.

Whatever makes films of first frames and controls can be measured, so that functions with known answers test this file.

Axes: W windows, B of them at once, T steps, S columns of a state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from align.align_card import AlignCard, StateError, StateFollowing, gates
from align.one_at_a_time import Strip, try_controls
from align.state_probe import StateProbe
from align.subject import RobotSubject
from align.told_controls import RobotWindow, told_controls
from common.intervals import clip_mean, ratio, root_ratio
from video_model.evaluate import Film, Tally, alike, followed, near, score_curve
from video_model.films import as_films, as_pictures, checked
from video_model.following import LEAST_PATH, frame_change, motion_of, root_mean_square
from video_model.hand_probe import column_r2
from video_model.held_out import other_clips
from video_model.scorers import Scorers
from video_model.video_card import Fidelity

READABLE = 0.5
"""R² on real frames that the probe must reach for a column to count."""
STARTS = 8
"""First frames that the controls are tried from, at most."""
FOLLOWED = ("true", "opposite", "zero", "shuffled")
SHOWN = ("truth", *FOLLOWED)


@dataclass(frozen=True)
class Measured:
    """What `measure` gives."""

    card: AlignCard
    films: tuple[Film, ...]
    """Of some windows."""
    strips: tuple[Strip, ...]
    """One for each control that was tried."""


def measure(
    subject: RobotSubject,
    windows: Sequence[RobotWindow],
    *,
    data: str,
    probe: StateProbe | None,
    source: str = "measured",
    batch_size: int = 8,
    seed: int = 0,
    films: int = 6,
    starts: int = STARTS,
    progress: Callable[[str], None] = lambda what: None,
) -> Measured:
    """The card, and films of about `films` windows. A function of its arguments; the batch size changes rounding only.

    windows are all of one length, and with a probe have states; source: what stands for these (`StateFollowing`).
    starts: from the first frames of so many windows the controls are tried one at a time.
    BadData with windows of fewer than 2 episodes, and if a film holds NaN or infinite values.
    """
    episodes = [window.episode for window in windows]
    givers = [windows[row] for row in other_clips(episodes, seed=seed)]
    shown = _spread(len(windows), films)
    tally, kept = Tally(), []
    for start in range(0, len(windows), batch_size):
        progress(f"window {start + 1} of {len(windows)}")
        here = slice(start, start + batch_size)
        made = _roll_out(subject, windows[here], givers[here], seed=seed + start)
        _compare(tally, made)
        if probe:
            _read_states(tally, made, windows[here], probe)
        rows = [row for row in range(len(windows[here])) if start + row in shown]
        kept += [Film(episodes[start + row], {k: as_pictures(made[k][row]) for k in SHOWN}) for row in rows]
    fidelity = {
        name: Fidelity(
            psnr=score_curve(tally.of(f"psnr/{name}"), episodes, seed),
            ssim=score_curve(tally.of(f"ssim/{name}"), episodes, seed),
            lpips=None,
            fvd=None,
        )
        for name in made
        if name != "truth"
    }
    zero_motion = ratio(tally.of("change/zero"), tally.of("change/true"), episodes, seed=seed)
    foreground = followed(
        tally, "path", FOLLOWED, lambda values: clip_mean(values, episodes, seed=seed), least=LEAST_PATH
    )
    state = _state_following(tally, list(made), episodes, probe, source=source, seed=seed) if probe else None
    readable = [name for name in state.r2 if name not in state.unread] if state else []
    tried = [windows[row] for row in _spread(len(windows), starts)]
    trials, strips = try_controls(subject, tried, probe=probe, readable=readable, seed=seed, progress=progress)
    missing = {}
    if state is None:
        missing["state error"] = "the dataset has no states, and no control says where the robot is to be"
    elif not readable:
        missing["state error"] = "the probe cannot read the state from real frames that it did not learn from"
    card = AlignCard(
        model=subject.name,
        robot=subject.embodiment.name,
        data=data,
        seed=seed,
        episodes=len(set(episodes)),
        windows=len(windows),
        steps=len(windows[0].controls),
        fidelity=fidelity,
        zero_motion=zero_motion,
        foreground=foreground,
        state=state,
        trials=trials,
        missing=missing,
        gates=gates(fidelity, foreground, zero_motion, state.errors if state else {}),
    )
    return Measured(card, tuple(kept), strips)


def _roll_out(
    subject: RobotSubject, windows: Sequence[RobotWindow], givers: Sequence[RobotWindow], *, seed: int
) -> dict[str, Tensor]:
    """Films (B, 1 + T, 3, H, W) of all kinds, and the truth."""
    truth = as_films([window.frames for window in windows], subject.device)
    before = np.stack([window.before for window in windows])
    told = told_controls(subject.embodiment, windows, givers)
    made = {name: subject.film(truth[:, 0], controls, before, seed=seed) for name, controls in told.items()}
    copy = truth[:, :1].expand_as(truth)
    return made | {"copy": copy, "tokenizer": checked(subject.reconstruct(truth), truth.shape), "truth": truth}


def _compare(tally: Tally, made: dict[str, Tensor]) -> None:
    """Pictures and motion of the films of one batch against the truth."""
    truth = made["truth"]
    moved = motion_of(truth).path
    tally.add("path", root_mean_square(moved))
    for name, film in made.items():
        if name == "truth":
            continue
        near(tally, name, film[:, 1:], truth[:, 1:], Scorers())
        tally.add(f"change/{name}", frame_change(film))
        if name in FOLLOWED:
            alike(tally, f"path/{name}", motion_of(film).path, moved)


def _read_states(tally: Tally, made: dict[str, Tensor], windows: Sequence[RobotWindow], probe: StateProbe) -> None:
    """What the probe reads from each film (B, 1 + T, S), and how far frames 1 to T are off, squared: (B, S)."""
    known = torch.from_numpy(probe.normalised(np.stack([_states(window) for window in windows]))).double()
    tally.add("known", known)
    for name, film in made.items():
        said = probe.find(film).double().cpu()
        if name == "truth":
            tally.add("said", said)
        tally.add(f"state/{name}", (said - known)[:, 1:].square().mean(1))


def _states(window: RobotWindow) -> np.ndarray:
    assert window.states is not None
    return window.states


def _state_following(
    tally: Tally, names: Sequence[str], episodes: Sequence[str], probe: StateProbe, *, source: str, seed: int
) -> StateFollowing:
    said, known = (tally.of(name).reshape(-1, len(probe.names)) for name in ("said", "known"))
    found = column_r2(said, known)
    r2 = {name: float(one) if np.isfinite(one) else None for name, one in zip(probe.names, found, strict=True)}
    unread = {}
    for name, one in r2.items():
        if name in probe.still:
            unread[name] = "never moves in the episodes that the probe learned from"
        elif one is None:
            unread[name] = "never moves in the episodes measured"
        elif one < READABLE:
            unread[name] = f"R² {one:.2f}"
    read = [column for column, name in enumerate(probe.names) if name not in unread]
    copied = tally.of("state/copy")
    errors = {}
    for kind in names:
        off = tally.of(f"state/{kind}")
        errors[kind] = StateError(
            overall=root_ratio(off[:, read].mean(1), copied[:, read].mean(1), episodes, seed=seed) if read else None,
            columns={
                probe.names[column]: found
                for column in read
                if (found := root_ratio(off[:, column], copied[:, column], episodes, seed=seed))
            },
        )
    return StateFollowing(source, probe.episodes, r2, unread, errors)


def _spread(count: int, chosen: int) -> list[int]:
    """At most `chosen` of `count` places, evenly."""
    return np.linspace(0, count - 1, min(chosen, count)).round().astype(int).tolist()
