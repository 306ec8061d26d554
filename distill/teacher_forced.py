"""Latents made from the true ones before them, all of a window in one pass: where a student meets its teacher first.

Windows, context, mask, actions and forecasts are those of the teacher's own training (`video_model.loss`).

Axes: B samples, T latent frames of a window, of which M = T - 1 are made, C channels, h x w latent pixels.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from typing_extensions import Self

from video_model.generator import LATENT
from video_model.latent_windows import LatentBatch
from video_model.loss import Draw, Pass, Window, answer, causal_pass, draw, window_of
from video_model.presets import VideoLossConfig


@dataclass(frozen=True)
class TeacherForced:
    """One micro-batch, with what is random about it."""

    window: Window
    plan: Draw
    step: Pass
    """As the teacher trains on it; the noise levels of what is made are still to be chosen."""
    patch: int
    """Side of the networks' tokens."""

    @classmethod
    def draw(cls, batch: LatentBatch, config: VideoLossConfig, *, patch: int) -> Self:
        """From torch's generators. The batch's actions are as the networks take them (`Embodiment.scaled`)."""
        plan = draw(batch.latents[:, :, 1:], replace(config, causal_share=1.0))
        window = window_of(batch, mid_clip=plan.mid_clip)
        return cls(window, plan, causal_pass(window, plan, span=config.window, sink=config.sink), patch)

    @property
    def clean(self) -> Tensor:
        """(B, C, M, h, w), the true latents."""
        return self.window.latents[:, :, 1:]

    @property
    def noise(self) -> Tensor:
        """(B, C, M, h, w)."""
        return self.plan.noise[:, :, 1:]

    def flow(self, network: nn.Module, x: Tensor, times: Tensor) -> Tensor:
        """What the network answers for latents x (B, C, M, h, w) at the noise levels `times` (B, M); float32."""
        context = self.step.latents.shape[2] - self.step.made
        asked = replace(
            self.step,
            latents=torch.cat((self.step.latents[:, :, :context], x), dim=2),
            times=torch.cat((self.step.times[:, :context], times), dim=1),
        )
        return answer(network, asked, self.window, self.plan, embodiment=LATENT, patch=self.patch)
