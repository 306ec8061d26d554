"""DreamDojo's warm-up, as a baseline: answer at once where the teacher's path ends (arXiv 2602.06949; CausVid's).

From each noise the teacher is followed to the end, under true context, and the student learns that end from the few
points of the path at which it will be asked. The path is walked anew for each batch, and used at all of these points.
"""

import torch
from torch import Tensor, nn

from distill.teacher_forced import TeacherForced
from video_model.flow import clean_from, sampling_times
from video_model.latent_windows import LatentBatch
from video_model.presets import VideoLossConfig


@torch.no_grad()
def teacher_path(
    case: TeacherForced, teacher: nn.Module, *, teacher_steps: int, student_steps: int, shift: float
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Points (B, C, M, h, w) of the teacher's Euler path, with times (B, M), where the student is asked; and its end.

    teacher_steps is a multiple of student_steps.
    """
    levels = sampling_times(teacher_steps, shift=shift, device=case.noise.device)
    x, asked = case.noise, []
    for number in range(teacher_steps):
        t = levels[number].expand_as(case.plan.times[:, 1:])
        if number % (teacher_steps // student_steps) == 0:
            asked.append((x, t))
        x = x + (levels[number + 1] - levels[number]) * case.flow(teacher, x, t)
    return asked, x


def loss(
    student: nn.Module,
    batch: LatentBatch,
    config: VideoLossConfig,
    *,
    teacher: nn.Module,
    teacher_steps: int,
    student_steps: int,
    patch: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared distance of the student's clean latents to the path's end, over the points where it is asked.

    Arguments as `distill.consistency.loss`.
    """
    case = TeacherForced.draw(batch, config, patch=patch)
    asked, end = teacher_path(
        case, teacher, teacher_steps=teacher_steps, student_steps=student_steps, shift=config.shift
    )
    errors = [(clean_from(x, case.flow(student, x, t), t) - end).square().mean() for x, t in asked]
    return torch.stack(errors).mean(), {"from_truth": (end - case.clean).square().mean()}
