"""The latent action VAE of DreamDojo (arXiv 2602.06949), with the names of its published weights: the baseline.

Axes: B pairs, 2 frames of a pair, N patches of one frame, V values of one patch, C channels, D latent dimensions.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lam.blocks import SpatialBlock, SpatioTemporalBlock, TokenTransformer, patchify, unpatchify
from lam.interface import LamOutput, Posterior, check_shape, resized
from lam.presets import LamModelConfig


class Painted(NamedTuple):
    """What is carried from frame to frame of a forecast: the last one."""

    frame: Tensor
    """(B, 3, H, W) in [-1, 1], of any size."""


class DreamDojoLam(nn.Module):
    """Encoder (pair -> posterior) and decoder (first frame, latent action -> second frame).

    Frames are float in [-1, 1]. Inside, pixels are in [0, 1] as in the published weights, whose parameter names
    these are (without the leading "lam."). Under autocast the posterior and the prediction stay float32.
    """

    def __init__(self, config: LamModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, values = config.channels, config.patch_values
        self.action_prompt = nn.Parameter(torch.empty(1, 1, 1, values))
        self.encoder = TokenTransformer(
            inputs=values,
            channels=channels,
            outputs=channels,
            tokens=config.tokens + 1,
            blocks=[SpatioTemporalBlock(channels, heads=config.heads) for _ in range(config.encoder_blocks)],
        )
        self.fc = nn.Linear(channels, 2 * config.latent_dim)
        self.patch_up = nn.Linear(values, channels)
        self.action_up = nn.Linear(config.latent_dim, channels)
        self.decoder = TokenTransformer(
            inputs=channels,
            channels=channels,
            outputs=values,
            tokens=config.tokens,
            blocks=[SpatialBlock(channels, heads=config.heads) for _ in range(config.decoder_blocks)],
        )
        self.initialise()

    def initialise(self) -> None:
        """PyTorch's own initialisation of linear and norm layers, as published; the action prompt is uniform."""
        nn.init.uniform_(self.action_prompt, -1.0, 1.0)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass: less memory, about a third more time."""
        self.encoder.gradient_checkpointing = True
        self.decoder.gradient_checkpointing = True

    def encode(self, frames: Tensor) -> Posterior:
        """frames (B, 2, 3, H, W) in [-1, 1], earlier frame first. ValueError if they are not of the config's size."""
        check_shape(frames, (2, 3, self.config.height, self.config.width))
        patches = patchify((frames + 1) / 2, self.config.patch)  # (B, 2, N, V)
        prompt = self.action_prompt.expand(frames.shape[0], 2, 1, -1).to(patches.dtype)
        tokens = self.encoder(torch.cat((prompt, patches), dim=2))  # (B, 2, 1 + N, C)
        mean, log_variance = self.fc(tokens[:, 1, 0]).float().chunk(2, dim=-1)  # the second frame's prompt token
        return Posterior(mean=mean, log_variance=log_variance, camera=mean[:, :0])

    def decode(self, first_frame: Tensor, latent_action: Tensor) -> Tensor:
        """first_frame (B, 3, H, W) in [-1, 1], latent_action (B, D) -> second frame (B, 3, H, W) in [-1, 1]."""
        config = self.config
        check_shape(first_frame, (3, config.height, config.width))
        patches = patchify((first_frame[:, None] + 1) / 2, config.patch)[:, 0]  # (B, N, V)
        tokens = self.patch_up(patches) + self.action_up(latent_action)[:, None]  # (B, N, C)
        painted = unpatchify(self.decoder(tokens).float(), patch=config.patch, height=config.height, width=config.width)
        return 2 * torch.sigmoid(painted) - 1

    def carry(self, frame: Tensor) -> Painted:
        """frame (B, 3, H, W) in [-1, 1] of any size, to be forecast from."""
        return Painted(frame.float())

    @torch.no_grad()
    def forecast(self, carried: Painted, codes: Tensor) -> tuple[Tensor, Painted]:
        """The last frame, codes (B, T, D) -> the T frames after it (B, T, 3, H, W), and the last of them.

        `decode` repeated. Painted at the config's size and enlarged if that is another.
        """
        size = (carried.frame.shape[-2], carried.frame.shape[-1])
        frame = resized(carried.frame, (self.config.height, self.config.width))
        frames = []
        for code in codes.float().unbind(1):
            frame = self.decode(frame, code).clamp(-1, 1)
            frames.append(resized(frame, size))
        return torch.stack(frames, dim=1), Painted(frames[-1])

    def forward(self, frames: Tensor, *, sample: bool) -> LamOutput:
        """frames (B, 2, 3, H, W) in [-1, 1]; the decoder gets a sample of the posterior, or its mean."""
        posterior = self.encode(frames)
        code = posterior.sample() if sample else posterior.code
        return LamOutput(posterior=posterior, code=code, prediction=self.decode(frames[:, 0], code))
