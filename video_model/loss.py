"""The training loss of the video model: flow matching, one noise level per latent frame (arXiv 2210.02747, 2407.01392).

In most steps the network learns what a stream needs: each latent is made from noise and sees the clean ones before it.
All latents of a window are learned at once, as the network is given the clean ones and, beside them, the noisy ones;
which sees which is a matter of the mask. In the other steps all latents but the first ones are noisy, and all see all.

Axes: B samples, T latent frames of a window, F latent frames of a pass, C channels, h x w latent pixels, A values of an
action.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Each latent is made from the clean ones before it, as in a stream; else all at once."""
    given: Tensor
    """(B, T) bool: latents that are not made; the first always, in a causal step no other, and never all."""
    times: Tensor
    """(B, T) noise levels of latents that are made; where all see all, one for each sample."""
    context_times: Tensor
    """(B, T) noise levels of latents that are seen as context."""
    noise: Tensor
    """(B, C, T, h, w)."""
    context_noise: Tensor
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
    first_made = 1 if causal else torch.randint(1, frames, (batch, 1), device=device)
    times = logit_normal_times((batch, frames), shift=config.shift, device=device)
    noisy_context = torch.rand(batch, 1, device=device) >= config.clean_context_share
    return Draw(
        mid_clip=mid_clip,
        causal=causal,
        given=(torch.arange(frames, device=device) < first_made).expand(batch, -1),
        times=times if causal else times[:, :1].expand(-1, frames),
        context_times=config.context_noise * torch.rand(batch, frames, device=device) * noisy_context,
        noise=torch.randn_like(latents),
        context_noise=torch.randn_like(latents),
        held=torch.rand(batch, device=device) < config.hold_share,
        kept=torch.rand(batch, device=device) >= config.drop_share,
    )


def hold(actions: Tensor, held: Tensor) -> Tensor:
    """actions (B, T, 4, A): where held (B,), each of a latent's four is their mean, so that their sum stays."""
    means = actions.mean(dim=2, keepdim=True).expand_as(actions)
    return torch.where(held[:, None, None, None], means, actions)


@dataclass(frozen=True)
class Window:
    """T latents and what leads to each."""

    latents: Tensor
    """(B, C, T, h, w)."""
    actions: Tensor
    """(B, T, 4, A): the four that lead to each latent; zeros for the first of a clip, which has none."""
    has_actions: Tensor
    """(T,) bool."""
    forecasts: Tensor | None
    """As the latents."""


def window_of(batch: LatentBatch, *, mid_clip: bool) -> Window:
    """The window of T latents in a batch that holds T + 1 of them and 4 T actions.

    From the start: the first latent has no actions. In mid-clip: without the batch's first latent, so that each of the
    T stands for four frames and has four actions.
    """
    chunks = batch.actions.unflatten(1, (-1, TIME_FACTOR))  # (B, T, 4, A), leading to latents 1 .. T
    has_actions = torch.ones(chunks.shape[1], dtype=torch.bool, device=chunks.device)
    if not mid_clip:
        has_actions[0] = False
        chunks = torch.cat((torch.zeros_like(chunks[:, :1]), chunks[:, :-1]), dim=1)
    kept = slice(1, None) if mid_clip else slice(None, -1)
    forecasts = None if batch.forecasts is None else batch.forecasts[:, :, kept]
    return Window(batch.latents[:, :, kept], chunks, has_actions, forecasts)


@dataclass(frozen=True)
class Pass:
    """What the network is given: F latent frames, the last `made` of which it is asked for."""

    latents: Tensor
    """(B, C, F, h, w), each at its noise level."""
    times: Tensor
    """(B, F)."""
    conditioned: Tensor
    """(B, F) bool."""
    positions: Tensor
    """(F,) in time; a latent that is there twice has the same twice."""
    source: Tensor
    """(F,) which latent of the window each frame is."""
    visible: Tensor | None
    """(F, F) bool: whether the row sees the column. None: all see all."""
    made: int


def joint_pass(window: Window, plan: Draw) -> Pass:
    """All latents at once: the given ones as context, the others noisy."""
    given = plan.given[:, None, :, None, None]
    order = torch.arange(window.latents.shape[2], device=window.latents.device)
    return Pass(
        latents=at_level(
            window.latents,
            torch.where(given, plan.context_noise, plan.noise),
            torch.where(plan.given, plan.context_times, plan.times),
        ),
        times=torch.where(plan.given, plan.context_times, plan.times),
        conditioned=plan.given,
        positions=order,
        source=order,
        visible=None,
        made=len(order),
    )


def causal_pass(window: Window, plan: Draw, *, span: int, sink: int) -> Pass:
    """T - 1 latents as context, then the T - 1 after the first, noisy: each sees the context before it, and itself.

    What the network answers is what it would answer in a stream, with the context in a `KVCache` of window `span`.
    """
    latents, device = window.latents, window.latents.device
    order = torch.arange(latents.shape[2], device=device)
    context, noisy = order[:-1], order[1:]
    sees = visible_frames(len(order), window=span, sink=sink).to(device)
    visible = torch.zeros(2 * len(noisy), 2 * len(noisy), dtype=torch.bool, device=device)
    visible[: len(context), : len(context)] = sees[:-1, :-1]
    visible[len(context) :, : len(context)] = sees[1:, :-1] & (context < noisy[:, None])
    visible[len(context) :, len(context) :] = torch.eye(len(noisy), dtype=torch.bool, device=device)
    parts = (
        at_level(latents[:, :, :-1], plan.context_noise[:, :, :-1], plan.context_times[:, :-1]),
        at_level(latents[:, :, 1:], plan.noise[:, :, 1:], plan.times[:, 1:]),
    )
    seen = torch.cat((torch.ones_like(context), torch.zeros_like(noisy))).bool()
    return Pass(
        latents=torch.cat(parts, dim=2),
        times=torch.cat((plan.context_times[:, :-1], plan.times[:, 1:]), dim=1),
        conditioned=seen.expand(len(latents), -1),
        positions=torch.cat((context, noisy)),
        source=torch.cat((context, noisy)),
        visible=visible,
        made=len(noisy),
    )


def answer(model: nn.Module, given: Pass, window: Window, plan: Draw, *, embodiment: str, patch: int) -> Tensor:
    """The flow (B, C, made, h, w), float32, that the network answers in a pass over a window, for what is made.

    The actions are as the network takes them (`Embodiment.scaled`); `patch` is the side of its tokens.
    """
    mask = None
    if given.visible is not None:
        mask = attention_mask(given.visible, tokens=window.latents[0, 0, 0].numel() // patch**2)
    actions = Actions(
        hold(window.actions, plan.held)[:, given.source].flatten(1, 2),
        embodiment=embodiment,
        kept=plan.kept[:, None] & window.has_actions[given.source],
        mid_clip=True,
    )
    flow = model(
        given.latents,
        given.times,
        actions=actions,
        conditioned=given.conditioned,
        positions=given.positions,
        mask=mask,
        forecast=None if window.forecasts is None else window.forecasts[:, :, given.source],
    )
    return flow[:, :, -given.made :].float()


def loss(
    model: nn.Module, batch: LatentBatch, config: VideoLossConfig, *, embodiment: str, patch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the velocity, plus the weighted error of its change along time.

    Only latents that are made count. Actions and `patch` as in `answer`. The metrics are detached scalars.
    """
    plan = draw(batch.latents[:, :, 1:], config)
    window = window_of(batch, mid_clip=plan.mid_clip)
    given = causal_pass(window, plan, span=config.window, sink=config.sink) if plan.causal else joint_pass(window, plan)
    made = answer(model, given, window, plan, embodiment=embodiment, patch=patch)
    error = made - velocity(window.latents, plan.noise)[:, :, -given.made :]
    error = F.pad(error, (0, 0, 0, 0, window.latents.shape[2] - given.made, 0))
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
