"""The films that a video model is measured by: the truth, and what the model makes of the same first frames.

Axes: B windows, T steps, A values of an action = [z_act | z_cam].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import BadData
from video_model.held_out import Window

Rollout = Callable[[Tensor, Tensor, int], Tensor]
"""(first frames (B, 3, H, W) in [-1, 1], actions (B, T, A), seed) -> films (B, 1 + T, 3, H, W) in [-1, 1].

Sample i of a call is drawn by seed + i."""
Reconstruct = Callable[[Tensor], Tensor]
"""Films (B, 1 + T, 3, H, W) in [-1, 1], encoded and decoded."""


@dataclass(frozen=True)
class VideoSubject:
    """What is measured."""

    name: str
    rollout: Rollout
    reconstruct: Reconstruct
    latent_dim: int
    """How many values of an action are z_act; the others are z_cam."""
    device: torch.device | str = "cpu"
    forecast: Callable[[Tensor, Tensor], Tensor] | None = None
    """What the model's forecaster makes of first frames and own actions without the model: (B, T, 3, H, W)."""


def given_actions(own: Tensor, other: Tensor, *, latent_dim: int) -> dict[str, Tensor]:
    """What a model is told for each kind of film; own and another clip's actions (B, T, A).

    `camera alone` keeps z_cam and makes z_act zero; it is absent where actions have no z_cam.
    """
    act, camera = own.split((latent_dim, own.shape[-1] - latent_dim), dim=-1)
    told = {
        "own": own,
        "shuffled": other,
        "zero": torch.zeros_like(own),
        "opposite": torch.cat((-act, camera), dim=-1),
    }
    return told | ({"camera alone": torch.cat((torch.zeros_like(act), camera), dim=-1)} if camera.shape[-1] else {})


def roll_out(
    subject: VideoSubject, windows: Sequence[Window], givers: Sequence[Window], *, seed: int
) -> dict[str, Tensor]:
    """Films (B, 1 + T, 3, H, W) of all kinds, and the truth."""
    truth, own = true_films(windows, subject.device), own_actions(windows, subject.device)
    told = given_actions(own, own_actions(givers, subject.device), latent_dim=subject.latent_dim)
    made = {name: rolled(subject, truth[:, 0], actions, seed) for name, actions in told.items()}
    if subject.forecast:
        made["forecast"] = checked(torch.cat((truth[:, :1], subject.forecast(truth[:, 0], own)), dim=1), truth.shape)
    copy = truth[:, :1].expand_as(truth)
    return made | {"copy": copy, "tokenizer": checked(subject.reconstruct(truth), truth.shape), "truth": truth}


def true_films(windows: Sequence[Window], device: torch.device | str) -> Tensor:
    """(B, 1 + T, 3, H, W) in [-1, 1]."""
    return as_films([window.frames for window in windows], device)


def as_films(frames: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    """B times uint8 (1 + T, H, W, 3) to (B, 1 + T, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(frames)).to(device).movedim(-1, 2).float() / 127.5 - 1


def as_pictures(frames: Tensor) -> np.ndarray:
    """(..., 3, H, W) in [-1, 1] -> uint8 (..., H, W, 3)."""
    return ((frames + 1) * 127.5).round().clamp(0, 255).byte().cpu().movedim(-3, -1).numpy()


def own_actions(windows: Sequence[Window], device: torch.device | str) -> Tensor:
    """(B, T, A)."""
    return torch.from_numpy(np.stack([window.actions for window in windows])).float().to(device)


def rolled(subject: VideoSubject, first: Tensor, actions: Tensor, seed: int) -> Tensor:
    """Films (B, 1 + T, 3, H, W), checked. ValueError if they have another shape, BadData unless they are finite."""
    shape = torch.Size((len(first), actions.shape[1] + 1, *first.shape[1:]))
    return checked(subject.rollout(first, actions, seed), shape, name=subject.name)


def checked(films: Tensor, shape: torch.Size, *, name: str = "the model") -> Tensor:
    """The films, float32. ValueError unless of this shape, BadData unless finite."""
    if films.shape != shape:
        raise ValueError(f"expected films of the shape {tuple(shape)}, got {tuple(films.shape)}")
    if not films.isfinite().all():
        raise BadData(f"the films of {name} hold NaN or infinite values", hint="Take an earlier checkpoint.")
    return films.float()
