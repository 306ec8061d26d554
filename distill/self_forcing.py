"""Self-Forcing (arXiv 2506.08009): the student rolls out on its own latents, and the teacher says what is wrong.

The teacher, which sees all latents of a window at once, gives the direction in which the window becomes likelier; a
critic that follows the student's own windows gives that in which it becomes more like the student. Their difference is
the gradient (distribution matching, arXiv 2311.18828, 2405.14867). Scored is a window at a random place of a longer
rollout (arXiv 2510.02283), so that what has drifted meets the teacher, too.

Axes: B samples, R latents of a rollout and K of a scored window, the first of which is given, C channels, h x w latent
pixels, A values of an action.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common.training import DataPosition
from video_model.clip_batches import clip_batch, labelled_stream
from video_model.clips import ClipWindows
from video_model.flow import at_level, clean_from, sampling_times, velocity
from video_model.generator import LATENT, Generator
from video_model.latent_windows import with_still
from video_model.loss import Draw, Window, answer, draw, flow_errors, joint_pass
from video_model.presets import TIME_FACTOR, VideoLossConfig
from video_model.rollout import Request, Stream, denoise, keep, next_request, remember, start

LEAST_DISTANCE = 1e-6
"""Mean distance to the teacher's latents below which the gradient is no longer scaled up."""


@dataclass(frozen=True)
class Starts:
    """What B rollouts begin with and are told, on one device."""

    first: Tensor
    """(B, 3, H, W) in [-1, 1]."""
    actions: Tensor
    """(B, 4 (R - 1), A), not scaled."""
    names: tuple[str, ...]
    """The clip that each comes from."""

    def to(self, device: torch.device | str) -> "Starts":
        return Starts(self.first.to(device), self.actions.to(device), self.names)


def start_batches(
    source: ClipWindows, position: DataPosition, *, workers: int, log: Path | None, still_share: float
) -> Iterator[Starts]:
    """Endless batches from `position` on; arguments as `video_model.latent_windows.encoded_batches`."""
    for step, windows in enumerate(labelled_stream(source, position, workers=workers, log=log), position.first_batch):
        first = (step * position.world_size + position.rank) * position.batch_size
        stilled = with_still(windows, share=still_share, first=first)
        yield Starts(clip_batch(stilled.frames[:, :1], ()).frames[:, 0], stilled.actions, stilled.names)


@dataclass(frozen=True)
class Rollouts:
    """B rollouts of R latents, the first of them true."""

    latents: Tensor
    """(B, C, R, h, w)."""
    actions: Tensor
    """(B, R, 4, A), as the network takes them: the four that lead to each latent; zeros for the first."""
    forecasts: Tensor | None
    """As the latents: what the student was shown; zeros for the first."""

    def window(self, place: int, length: int) -> Window:
        """The latents from `place` on, with what leads to each."""
        here = slice(place, place + length)
        return Window(
            latents=self.latents[:, :, here],
            actions=self.actions[:, here],
            has_actions=torch.arange(place, place + length, device=self.actions.device) > 0,
            forecasts=None if self.forecasts is None else self.forecasts[:, :, here],
        )

    def detached(self) -> "Rollouts":
        return replace(self, latents=self.latents.detach())


def roll_out(generator: Generator, starts: Starts, *, network: nn.Module, scored: range) -> Rollouts:
    """Rollouts of the generator's model, noise and exits from torch's generators.

    Latents in `scored` (1 .. R - 1) are what the model takes for clean at a random one of its steps, and carry the
    gradient of that pass, which goes through `network`: the model, or what stands for it among several processes. All
    others are made in all steps. The past is seen without gradients.
    """
    seeds = torch.randint(2**62, (len(starts.first),)).tolist()
    stream, _ = start(generator, starts.first, seeds=seeds)
    with torch.no_grad():
        first, _ = generator.tokenizer.encode_next(starts.first[:, None], None)
    latents, asked = [first.float()], []
    for number, actions in enumerate(starts.actions.split(TIME_FACTOR, dim=1), 1):
        with torch.no_grad():
            request = next_request(generator, stream, actions, embodiment=LATENT)
        if number in scored:
            latent = exit_early(generator, request, stream, network=network)
        else:
            with torch.no_grad():
                latent = denoise(generator, request, stream, steps=generator.config.sampling_steps)
        with torch.inference_mode():  # as the cache was made
            (keep if generator.forecaster else remember)(generator, stream, request, latent.detach())
        latents.append(latent)
        asked.append(request)
    chunks = [request.actions.values.float() for request in asked]
    expected = [request.expected.float() for request in asked if request.expected is not None]
    return Rollouts(
        latents=torch.cat(latents, dim=2),
        actions=torch.stack((torch.zeros_like(chunks[0]), *chunks), dim=1),
        forecasts=torch.cat((torch.zeros_like(latents[0]), *expected), dim=2) if expected else None,
    )


def exit_early(generator: Generator, request: Request, stream: Stream, *, network: nn.Module) -> Tensor:
    """A latent (B, C, 1, h, w) as `denoise` makes it, but only up to a random step, which alone has a gradient."""
    model, steps = generator.model, generator.config.sampling_steps
    times = sampling_times(steps, shift=generator.config.loss.shift, device=generator.device)
    x = stream.noise(generator.device)
    level = x.new_ones(len(x), 1)
    shown = {"actions": request.actions, "cache": stream.cache, "forecast": request.expected}
    last = int(torch.randint(steps, ()))
    with torch.no_grad():
        for now, then in itertools.pairwise(times[: last + 1]):
            clean = clean_from(x, model(x.to(model.dtype), now * level, **shown).float(), now * level)
            x = at_level(clean, stream.noise(generator.device), then * level)
    level = times[last] * level
    return clean_from(x, network(x.to(model.dtype), level, **shown).float(), level)


def joint_draw(latents: Tensor, *, shift: float) -> Draw:
    """A noise level for each window (B, C, K, h, w), as where all see all in training; its first latent is given."""
    plan = draw(
        latents,
        VideoLossConfig(shift=shift, causal_share=0.0, context_noise=0.0, hold_share=0.0, drop_share=0.0),
    )
    first = torch.arange(latents.shape[2], device=latents.device) == 0
    return replace(plan, given=first.expand(len(latents), -1))


def student_loss(
    window: Window, *, teacher: nn.Module, critic: nn.Module, shift: float, patch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the squared distance of the made latents to where distribution matching moves them.

    The gradient is (critic's clean latents - teacher's) over the mean distance from the student's to the teacher's,
    each sample by itself (arXiv 2311.18828, eq. 7 and 8).
    """
    made = window.latents[:, :, 1:]
    with torch.no_grad():
        shown = replace(window, latents=window.latents.detach())
        plan = joint_draw(shown.latents, shift=shift)
        given = joint_pass(shown, plan)
        real, fake = (
            clean_from(given.latents, answer(network, given, shown, plan, embodiment=LATENT, patch=patch), given.times)[
                :, :, 1:
            ]
            for network in (teacher, critic)
        )
        distance = (made - real).abs().mean((1, 2, 3, 4), keepdim=True)
        gradient = (fake - real) / distance.clamp(min=LEAST_DISTANCE)
        target = made - gradient
    return 0.5 * (made - target).square().mean(), {"distance": distance.mean()}


def critic_loss(window: Window, *, critic: nn.Module, shift: float, patch: int) -> Tensor:
    """Flow matching on the student's latents, all made at once from the first."""
    plan = joint_draw(window.latents, shift=shift)
    flow = answer(critic, joint_pass(window, plan), window, plan, embodiment=LATENT, patch=patch)
    return flow_errors(flow - velocity(window.latents, plan.noise), plan.given)[0]
