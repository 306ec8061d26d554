"""`understudy rollout`: a video from a first frame and an action file, beside the truth where there is one."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from align.robot_dataset import fitted
from common.errors import BadData, UserError
from common.metrics import psnr
from common.video import Frame, UnreadableVideo, decode, probe, write_video
from video_model.generator import LATENT, Embodiment, load_generator
from video_model.rollout import rollout

Use = Literal["all", "act", "camera", "opposite", "none"]
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SMALLEST_SIDE = 256
"""Pixels that the shorter side of a written video has at least: small pictures are enlarged in whole steps."""


@dataclass(frozen=True)
class Recorded:
    """Actions of an action file."""

    actions: np.ndarray
    """float32 (T, A)."""
    seconds: np.ndarray
    """(T + 1,), of the frames between which they are."""


def read_actions(path: Path, *, fps: float, action_dim: int) -> Recorded:
    """A file that `understudy label` wrote, or any safetensors file with `latent_actions` (T, A), at `fps` per second.

    UserError if there is none; BadData if it is damaged, of another width or rate, not finite, or goes over a cut.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file", hint="Give one of the safetensors files that `understudy label` writes.")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadData(f"{path} is damaged: {error}") from error
    actions = tensors.get("latent_actions")
    if actions is None or actions.ndim != 2 or actions.shape[1] != action_dim or not np.isfinite(actions).all():
        found = "none" if actions is None else f"{actions.shape}"
        raise BadData(f"{path} must hold finite latent_actions of {action_dim} values each; it has {found}")
    seconds = tensors.get("timestamps", np.arange(len(actions) + 1) / fps)
    gap = float(np.median(np.diff(seconds)))
    if abs(gap * fps - 1) > 0.1:
        raise BadData(
            f"{path} has {1 / gap:.3g} actions per second; this model makes {fps:g} frames per second",
            hint=f"Label with --fps {fps:g}.",
        )
    return Recorded(actions.astype(np.float32), seconds)


def chosen(actions: Tensor, use: Use, embodiment: Embodiment) -> Tensor:
    """(..., A) with the camera's part, the rest, or both set to zero, or the rest turned round."""
    camera = torch.zeros(actions.shape[-1], dtype=torch.bool)
    camera[actions.shape[-1] - embodiment.camera_dim :] = True
    factors = {"all": (1, 1), "act": (1, 0), "camera": (0, 1), "opposite": (-1, 1), "none": (0, 0)}
    for_act, for_camera = factors[use]
    return actions * torch.where(camera, for_camera, for_act)


def make_rollout(
    checkpoint: Path,
    video: Path,
    actions: Path,
    out: Path,
    *,
    start: float,
    actions_start: float | None,
    seconds: float | None,
    use: Use,
    beside: Path | None,
    steps: int | None,
    seed: int,
) -> str:
    """Write `out`; returns a line that says what it shows."""
    generator = load_generator(checkpoint)
    if torch.cuda.is_available():
        generator.to("cuda")
    embodiment, data = generator.embodiment(LATENT), generator.config.data
    recorded = read_actions(actions, fps=embodiment.fps, action_dim=len(embodiment.scale))
    own = actions.name == f"{video.name}.safetensors"
    actions_start = start if actions_start is None and own else actions_start or 0.0
    first = int(np.searchsorted(recorded.seconds, actions_start - 0.5 / embodiment.fps))
    last = len(recorded.actions) if seconds is None else first + max(1, round(seconds * embodiment.fps))
    part = torch.from_numpy(recorded.actions[first:last])
    if not len(part):
        raise UserError(f"{actions} has no actions from {actions_start:g} s on", hint="Lower --actions-start.")
    size = (data.height, data.width)
    frame = frame_of(video, start, size=size)
    made = rollout(generator, as_model(frame), chosen(part, use, embodiment)[None], steps=steps, seed=seed).cpu()
    shown, told = [as_pixels(made[0])], ""
    truth = video if own and actions_start == start else None
    if beside or truth:
        times = recorded.seconds[first : first + len(part) + 1]
        reference = frames_at(beside or truth or video, times, size=size)
        shown.insert(0, reference)
        if not beside:
            quality = psnr((made[0, 1:] + 1) / 2, (as_model(reference)[1:] + 1) / 2).mean().item()
            told = f", {quality:.2f} dB from the video at the left"
    write_video(out, enlarged(np.concatenate(shown, axis=2)), fps=embodiment.fps)
    return f"{out}: {len(part)} frames after the first{told}"


def frame_of(source: Path, start: float, *, size: tuple[int, int]) -> np.ndarray:
    """A picture, or the frame of a video at this time, uint8 (1, H, W, 3). BadData if it cannot be read."""
    if source.suffix.lower() not in PICTURES:
        return frames_at(source, np.array([start]), size=size)
    try:
        with Image.open(source) as picture:
            return np.array(fitted(ImageOps.exif_transpose(picture), size))[None]
    except OSError as error:  # PIL's UnidentifiedImageError is one
        raise BadData(f"{source} cannot be read as a picture ({error})") from error


def frames_at(video: Path, seconds: np.ndarray, *, size: tuple[int, int]) -> np.ndarray:
    """The frames of a video at these times, or the nearest ones, uint8 (T, H, W, 3).

    UserError beyond its end, BadData if it cannot be read.
    """
    try:
        return _frames_at(video, seconds, size=size)
    except UnreadableVideo as error:
        raise BadData(f"{video}: {error.reason}") from error


def _frames_at(video: Path, seconds: np.ndarray, *, size: tuple[int, int]) -> np.ndarray:
    info = probe(video)
    margin, first = 0.75 / info.fps, info.start_seconds
    end = first + info.duration_seconds
    if seconds[-1] > end + margin or seconds[0] < first - margin:
        raise UserError(f"{video} goes from {first:g} to {end:g} s, not from {seconds[0]:g} to {seconds[-1]:g} s")
    found: list[np.ndarray] = []
    before: Frame | None = None
    for frame in decode(video, size=size, start=max(first, seconds[0] - margin), stop=seconds[-1] + 2 / info.fps):
        while before and len(found) < len(seconds) and _nearer(before, frame, seconds[len(found)]):
            found.append(before.image)
        before = frame
    assert before, "decode raises where there is no frame"
    return np.stack([*found, *[before.image] * (len(seconds) - len(found))])


def _nearer(before: Frame, after: Frame, wanted: float) -> bool:
    """Whether `before` is nearer to the wanted time than the frame after it."""
    return abs(before.seconds - wanted) <= abs(after.seconds - wanted)


def as_model(frames: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) -> (T, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).movedim(-1, 1).float() / 127.5 - 1


def as_pixels(frames: Tensor) -> np.ndarray:
    """(T, 3, H, W) in [-1, 1] -> uint8 (T, H, W, 3)."""
    return ((frames + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1).numpy()


def enlarged(frames: np.ndarray) -> np.ndarray:
    times = max(1, math.ceil(SMALLEST_SIDE / min(frames.shape[1:3])))
    return frames.repeat(times, axis=1).repeat(times, axis=2)
