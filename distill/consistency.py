"""Teacher-forced causal consistency distillation: agree with oneself one step of the teacher nearer to the data.

A consistency model answers with the end of the path that its input lies on (arXiv 2303.01469). The path is the
teacher's, under true context, so no trajectory is stored. The target is the student itself without its gradient
(arXiv 2310.14189), not an average of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.teacher_forced import TeacherForced
from video_model.flow import at_level, clean_from, sampling_times
from video_model.latent_windows import LatentBatch
from video_model.presets import VideoLossConfig


@dataclass(frozen=True)
class Step:
    """Two neighbouring points of the teacher's path for each latent that is made."""

    x: Tensor
    """(B, C, M, h, w), from data and noise."""
    times: Tensor
    """(B, M)."""
    nearer: Tensor
    """(B, C, M, h, w), where one Euler step of the teacher leads."""
    nearer_times: Tensor
    """(B, M)."""


@torch.no_grad()
def teacher_step(case: TeacherForced, teacher: nn.Module, *, teacher_steps: int, shift: float) -> Step:
    """A random one of the teacher's steps for each latent."""
    levels = sampling_times(teacher_steps, shift=shift, device=case.clean.device)
    which = torch.randint(teacher_steps, case.plan.times[:, 1:].shape, device=levels.device)
    t, nearer = levels[which], levels[which + 1]
    x = at_level(case.clean, case.noise, t)
    return Step(x, t, x + (nearer - t)[:, None, :, None, None] * case.flow(teacher, x, t), nearer)


def loss(
    student: nn.Module,
    batch: LatentBatch,
    config: VideoLossConfig,
    *,
    teacher: nn.Module,
    teacher_steps: int,
    patch: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared distance of the student's clean latents to those it gives one step nearer to the data.

    At t = 0 these are the point itself. config: the student's, which sees what its stream will show. Actions and
    `patch` as in `TeacherForced`.
    """
    case = TeacherForced.draw(batch, config, patch=patch)
    step = teacher_step(case, teacher, teacher_steps=teacher_steps, shift=config.shift)
    # The gradient's pass comes first: autocast of older torch remembers weights met without one, and would lose it.
    guess = clean_from(step.x, case.flow(student, step.x, step.times), step.times)
    with torch.no_grad():
        target = clean_from(step.nearer, case.flow(student, step.nearer, step.nearer_times), step.nearer_times)
    return (guess - target).square().mean(), {"from_truth": (guess.detach() - case.clean).square().mean()}
