"""What does each control do? From a few first frames one of them gets a unit more, then less, the others nothing.

Axes: K first frames, T steps, A columns of controls, C numbers of a change, S columns of a state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from align.align_card import ControlEffect, ControlTrials
from align.embodiment import CHUNK, RobotEmbodiment
from align.state_probe import StateProbe
from align.subject import RobotSubject
from align.told_controls import RobotWindow, controls_of
from video_model.films import as_films, as_pictures
from video_model.following import motion_of

STEPS = 12
AFTER = 4
"""Last frames that the effect is read from: by then a robot that lags has arrived."""


@dataclass(frozen=True)
class Strip:
    """What a control did from one first frame."""

    control: str
    pictures: dict[str, np.ndarray]
    """uint8 (H, W, 3): `first`, `less` and `more` after a unit each way, `difference` of the two around grey."""


def try_controls(
    subject: RobotSubject,
    windows: Sequence[RobotWindow],
    *,
    probe: StateProbe | None,
    readable: Sequence[str],
    seed: int,
    progress: Callable[[str], None] = lambda what: None,
) -> tuple[ControlTrials, tuple[Strip, ...]]:
    """From the first frames of K windows; strips from the middle one. readable: columns of the state to tell of."""
    embodiment = subject.embodiment
    assert embodiment.normalisation
    first = as_films([window.frames[:1] for window in windows], subject.device)[:, 0]
    before = np.stack([window.before for window in windows])
    still = subject.film(first, embodiment.neutral(before, rows=STEPS), before, seed=seed)
    effects, strips = [], []
    for number, name in enumerate(embodiment.relative_names):
        if name in embodiment.normalisation.dead:
            continue
        progress(f"control {name}")
        unit = embodiment.normalisation.scale[number]
        changes = one_unit(embodiment, number, batch=len(first))
        more, less = (
            subject.film(first, controls_of(embodiment, told, before), before, seed=seed)
            for told in (changes, -changes)
        )
        left, right = _halves(torch.cat((more - still, less - still)))
        moved = (motion_of(more).path.sum(1) - motion_of(less).path.sum(1)).mean(0) / 2
        states = _states(probe, more, less, readable)
        own = own_state(embodiment, number, probe.names) if probe else None
        own = own if own in states else None
        asked = None
        if own and probe and _same_unit(embodiment, name):
            asked = float(unit / probe.scale[probe.names.index(own)])
        shift = (moved[0].item(), moved[1].item())
        effects.append(ControlEffect(name, unit, left, right, shift, states=states, own=own, asked=asked))
        strips.append(_strip(name, first, more, less))
    trials = ControlTrials(len(windows), STEPS, tuple(effects), left_out=embodiment.normalisation.dead)
    return trials, tuple(strips)


def one_unit(embodiment: RobotEmbodiment, number: int, *, batch: int) -> np.ndarray:
    """Changes (batch, T, C) by a normalised unit in all, evenly over the first rows of a chunk; then nothing."""
    assert embodiment.normalisation
    changes = np.zeros((batch, STEPS, embodiment.relative_dim))
    changes[:, :CHUNK, number] = embodiment.normalisation.scale[number] / CHUNK
    return changes


def own_state(embodiment: RobotEmbodiment, number: int, state_names: Sequence[str]) -> str | None:
    """The column of the state that measures a number of the changes: of one name; if none has one, at its place."""
    names = embodiment.relative_names
    if set(names) & set(state_names):
        return names[number] if names[number] in state_names else None
    return state_names[number] if len(state_names) == len(names) else None


def _same_unit(embodiment: RobotEmbodiment, name: str) -> bool:
    """Whether a control says where to be, so that its state changes by as much."""
    kinds = {
        column: group.kind
        for group in embodiment.groups
        if not group.rotation
        for column in embodiment.columns[group.start : group.stop]
    }
    return kinds.get(name) in ("absolute", "gripper")


def _halves(changes: Tensor) -> tuple[float, float]:
    """Mean absolute change (N, 1 + T, 3, H, W) of the left and the right half, frames 1 to T, in shares of white."""
    middle = changes.shape[-1] // 2
    parts = (changes[:, 1:, ..., :middle], changes[:, 1:, ..., -middle:])
    left, right = (part.abs().mean().item() / 2 for part in parts)
    return left, right


def _states(probe: StateProbe | None, more: Tensor, less: Tensor, readable: Sequence[str]) -> dict[str, float]:
    if probe is None:
        return {}
    up, down = (probe.find(film[:, -AFTER:]).mean((0, 1)) for film in (more, less))
    changes = zip(probe.names, ((up - down) / 2).tolist(), strict=True)
    return {name: change for name, change in changes if name in readable}


def _strip(name: str, first: Tensor, more: Tensor, less: Tensor) -> Strip:
    row = len(first) // 2
    shown = {
        "first": first[row],
        "less": less[row, -1],
        "more": more[row, -1],
        "difference": (more[row, -1] - less[row, -1]) / 2,
    }
    return Strip(name, {kind: as_pictures(picture) for kind, picture in shown.items()})
