"""`understudy rollout --robot`: a video from a first frame and the controls of an episode, beside the episode."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from align.datasets import open_dataset
from align.recordings import Recording
from align.robot import load_robot
from align.robot_recordings import robot_recordings
from common.errors import UserError
from common.metrics import psnr
from common.video import write_video
from scripts.rollout import as_model, as_pixels, enlarged, frame_of

UseControls = Literal["all", "none"]


def make_robot_rollout(
    checkpoint: Path,
    video: Path,
    actions: Path | None,
    out: Path,
    *,
    robot: str | None,
    episode: int,
    camera: str | None,
    start: float,
    actions_start: float | None,
    seconds: float | None,
    use: UseControls,
    steps: int | None,
    seed: int,
) -> str:
    """Write `out`; returns a line that says what it shows.

    video: the dataset, where `actions` is None; else a picture or video with the first frame, taken at `start`, while
    the controls are those of an episode of the dataset `actions`.
    """
    known = load_robot(checkpoint, robot)
    if torch.cuda.is_available():
        known.generator.to("cuda")
    rate = known.embodiment.rate
    dataset = open_dataset(actions or video)
    numbers = {found.index: found for found in dataset.episodes}
    if episode not in numbers:
        listed = f"{min(numbers)} to {max(numbers)}" if numbers else "none"
        raise UserError(f"{dataset.root} has no episode {episode}", hint=f"Its episodes are {listed}.")
    recording = next(robot_recordings(known, dataset, [numbers[episode]], camera=camera))
    own = actions is None
    if own and actions_start not in (None, start):
        raise UserError("an episode's first frame and controls begin together", hint="Give --start alone.")
    first = round(rate * (start if own else actions_start or 0.0))
    last = len(recording.controls) if seconds is None else first + max(1, round(seconds * rate))
    controls = recording.controls[first:last]
    if first < 0 or not len(controls):
        length = len(recording.controls) / rate
        raise UserError(f"{recording.name} has controls from 0 to {length:g} s, none from {first / rate:g} s on")
    before = recording.before(first)
    if use == "none":
        controls = known.embodiment.neutral(before, rows=len(controls))
    frame = recording.frames[first : first + 1]
    if not own:
        frame = frame_of(video, start, size=(frame.shape[1], frame.shape[2]))
    made = known.rollout(as_model(frame), controls[None], before[None], steps=steps, seed=seed).cpu()
    reference, told = recording.frames[first : first + 1 + len(controls)], ""
    if own:
        quality = psnr((made[0, 1:] + 1) / 2, (as_model(reference)[1:] + 1) / 2).mean().item()
        told = f", {quality:.2f} dB from the episode at the left"
    write_video(out, enlarged(np.concatenate((reference, as_pixels(made[0])), axis=2)), fps=rate)
    return f"{out}: {len(controls)} frames after the first under {_what(recording, use)}{told}"


def _what(recording: Recording, use: UseControls) -> str:
    return f"the controls of {recording.name}" if use == "all" else "controls that change nothing"
