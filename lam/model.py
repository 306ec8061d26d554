"""The latent action VAE of DreamDojo (arXiv 2602.06949): what was done between two frames, and the frame it leads to.

Axes: B pairs, 2 frames of a pair, N patches of one frame, V values of one patch, C channels, D latent dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lam.blocks import SpatialBlock, SpatioTemporalBlock, TokenTransformer, patchify, unpatchify
from lam.presets import LamModelConfig


@dataclass
class Posterior:
    """Diagonal Gaussian over the latent action of each pair; both (B, D), float32."""

    mean: Tensor
    log_variance: Tensor

    def sample(self) -> Tensor:
        return self.mean + torch.randn_like(self.mean) * (0.5 * self.log_variance).exp()


@dataclass
class LamOutput:
    posterior: Posterior
    latent_action: Tensor
    """(B, D): what the decoder was given, a sample or the mean."""
    prediction: Tensor
    """(B, 3, H, W): the second frame."""


class LatentActionModel(nn.Module):
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
            outputs=values if config.predicts == "frame" else values // 3 * 5,  # three colours, two of motion
            tokens=config.tokens,
            blocks=[SpatialBlock(channels, heads=config.heads) for _ in range(config.decoder_blocks)],
        )
        self.initialise()

    def initialise(self) -> None:
        """PyTorch's own initialisation of linear and norm layers, as published, but for two tensors.

        The action prompt is uniform in [-1, 1]. Where motion is predicted, the decoder's last layer is zero, so that
        training starts from "the next frame equals the first".
        """
        nn.init.uniform_(self.action_prompt, -1.0, 1.0)
        if self.config.predicts == "motion":
            nn.init.zeros_(self.decoder.out.weight)
            nn.init.zeros_(self.decoder.out.bias)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass: less memory, about a third more time."""
        self.encoder.gradient_checkpointing = True
        self.decoder.gradient_checkpointing = True

    def encode(self, frames: Tensor) -> Posterior:
        """frames (B, 2, 3, H, W) in [-1, 1], earlier frame first. ValueError if they are not of the config's size."""
        self._check_shape(frames, (2, 3, self.config.height, self.config.width))
        patches = patchify((frames + 1) / 2, self.config.patch)  # (B, 2, N, V)
        prompt = self.action_prompt.expand(frames.shape[0], 2, 1, -1).to(patches.dtype)
        tokens = self.encoder(torch.cat((prompt, patches), dim=2))  # (B, 2, 1 + N, C)
        mean, log_variance = self.fc(tokens[:, 1, 0]).float().chunk(2, dim=-1)  # the second frame's prompt token
        return Posterior(mean=mean, log_variance=log_variance)

    def decode(self, first_frame: Tensor, latent_action: Tensor) -> Tensor:
        """first_frame (B, 3, H, W) in [-1, 1], latent_action (B, D) -> second frame (B, 3, H, W).

        The result lies in [-1, 1] when the model paints the frame; what it adds to a moved frame can leave that range
        a little, and is not clamped here because a clamp has no gradient.
        """
        config = self.config
        self._check_shape(first_frame, (3, config.height, config.width))
        patches = patchify((first_frame[:, None] + 1) / 2, config.patch)[:, 0]  # (B, N, V)
        tokens = self.patch_up(patches) + self.action_up(latent_action)[:, None]  # (B, N, C)
        painted = unpatchify(self.decoder(tokens).float(), patch=config.patch, height=config.height, width=config.width)
        if config.predicts == "motion":
            change, flow = painted.split((3, 2), dim=1)
            return warp(first_frame, flow) + 2 * change
        return 2 * torch.sigmoid(painted) - 1

    def forward(self, frames: Tensor, *, sample: bool) -> LamOutput:
        """frames (B, 2, 3, H, W) in [-1, 1]; the decoder gets a sample of the posterior, or its mean."""
        posterior = self.encode(frames)
        latent_action = posterior.sample() if sample else posterior.mean
        prediction = self.decode(frames[:, 0], latent_action)
        return LamOutput(posterior=posterior, latent_action=latent_action, prediction=prediction)

    def _check_shape(self, frames: Tensor, expected: tuple[int, ...]) -> None:
        if tuple(frames.shape[1:]) != expected:
            raise ValueError(
                f"expected frames of shape (B, {', '.join(map(str, expected))}), got {tuple(frames.shape)}"
            )


def warp(frame: Tensor, flow: Tensor) -> Tensor:
    """Each pixel of the result is what `frame` (B, 3, H, W) shows at that place plus `flow` (B, 2, H, W), bilinearly.

    Flow is (x, y) in half pictures; places outside show the nearest border pixel.
    """
    height, width = frame.shape[-2:]
    still = F.affine_grid(torch.eye(2, 3, device=frame.device)[None], [1, 1, height, width], align_corners=False)
    return F.grid_sample(frame, still + flow.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
