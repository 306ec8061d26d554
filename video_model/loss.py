"""The training loss of the video model: flow matching, one noise level per latent frame (arXiv 2210.02747, 2407.01392).

Axes: B samples, T latent frames, C channels, h x w latent pixels, A values of one action.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from video_model.cache import attention_mask, visible_frames
from video_model.flow import at_level, logit_normal_times, velocity
from video_model.latent_windows import LatentBatch
from video_model.layers import Actions
from video_model.presets import TIME_FACTOR, VideoLossConfig


@dataclass(frozen=True)
class Draw:
    """What is random about one micro-batch besides its windows."""

    mid_clip: bool
    """The windows begin in mid-clip, with a latent that stands for four frames."""
    causal: bool
    """Each latent sees the past only, as in a stream; else all see all."""
    given: Tensor
    """(B, T) bool: latents that are context; the first always, and never all."""
    times: Tensor
    """(B, T) noise levels."""
    noise: Tensor
    """(B, C, T, h, w)."""
    held: Tensor
    """(B,) bool: the actions of each latent are replaced by their mean."""
    kept: Tensor
    """(B,) bool: the sample has its actions."""


def draw(latents: Tensor, config: VideoLossConfig) -> Draw:
    """All random choices for latents (B, C, T, h, w), from torch's generators."""
    batch, _, frames, _, _ = latents.shape
    device = latents.device
    mid_clip, causal = (torch.rand(2) < torch.tensor([config.mid_clip_share, config.causal_share])).tolist()
    first_target = torch.randint(1, frames, (batch, 1), device=device)
    given = torch.arange(frames, device=device) < first_target
    times = logit_normal_times((batch, frames), shift=config.shift, device=device)
    if not causal:
        times = times[:, :1].expand(-1, frames)
    noisy_context = torch.rand(batch, 1, device=device) >= config.clean_context_share
    context_times = config.context_noise * torch.rand(batch, frames, device=device) * noisy_context
    return Draw(
        mid_clip=mid_clip,
        causal=causal,
        given=given,
        times=torch.where(given, context_times, times),
        noise=torch.randn_like(latents),
        held=torch.rand(batch, device=device) < config.hold_share,
        kept=torch.rand(batch, device=device) >= config.drop_share,
    )


def hold(actions: Tensor, held: Tensor) -> Tensor:
    """actions (B, 4 n, A): where held (B,), each of a latent's four is their mean, so that their sum stays."""
    chunks = actions.unflatten(1, (-1, TIME_FACTOR))
    means = chunks.mean(dim=2, keepdim=True).expand_as(chunks)
    return torch.where(held[:, None, None, None], means, chunks).flatten(1, 2)


def window_of(batch: LatentBatch, *, mid_clip: bool) -> tuple[Tensor, Tensor]:
    """Latents (B, C, T, h, w) and the actions that lead to them, of a batch that holds T + 1 latents and 4 T actions.

    From the start of the window: T latents and 4 (T - 1) actions, as the first latent has none. In mid-clip: without
    the window's first latent, so that each of the T stands for four frames and has four actions.
    """
    if mid_clip:
        return batch.latents[:, :, 1:], batch.actions
    return batch.latents[:, :, :-1], batch.actions[:, :-TIME_FACTOR]


def loss(
    model: nn.Module, batch: LatentBatch, config: VideoLossConfig, *, embodiment: str, patch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the velocity, plus the weighted error of its change along time.

    Only latents that are not given count. The actions are as the network takes them (`Embodiment.scaled`); `patch` is
    the side of its tokens. The metrics are detached scalars.
    """
    plan = draw(batch.latents[:, :, 1:], config)
    clean, values = window_of(batch, mid_clip=plan.mid_clip)
    mask = None
    if plan.causal:
        visible = visible_frames(clean.shape[2], window=config.window, sink=config.sink).to(clean.device)
        mask = attention_mask(visible, tokens=clean[0, 0, 0].numel() // patch**2)
    actions = Actions(hold(values, plan.held), embodiment=embodiment, kept=plan.kept, mid_clip=plan.mid_clip)
    predicted = model(
        at_level(clean, plan.noise, plan.times), plan.times, actions=actions, conditioned=plan.given, mask=mask
    )
    error = predicted.float() - velocity(clean, plan.noise)
    flow, change = flow_errors(error, plan.given)
    total = flow + config.temporal_weight * change
    return total, {"flow": flow.detach(), "change": change.detach()}


def flow_errors(error: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Of velocity errors (B, C, T, h, w): mean square over the latents that are not given (B, T), and that of their
    differences from one latent frame to the next (arXiv 2602.06949, eq. 4). Given latents count as free of error.
    """
    target = ~given
    error = error * target[:, None, :, None, None]
    numbers = error[0, :, 0].numel()
    change = error.diff(dim=2)
    return error.square().sum() / (target.sum() * numbers), change.square().sum() / (target[:, 1:].sum() * numbers)
