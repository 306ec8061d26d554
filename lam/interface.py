"""What every latent action model is to the rest of the code: an encoder of frame pairs, a decoder, their values."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


@dataclass
class Posterior:
    """What the encoder says about B pairs, float32: a diagonal Gaussian over `z_act`, and the camera's `z_cam`."""

    mean: Tensor
    """(B, latent_dim): the latent action z_act."""
    log_variance: Tensor
    """(B, latent_dim)."""
    camera: Tensor
    """(B, camera_dim): z_cam, which is computed and has no variance; no columns where the design has none."""

    @property
    def code(self) -> Tensor:
        """[z_act | z_cam] with the mean action: (B, latent_dim + camera_dim), what `decode` takes and labels store."""
        return torch.cat((self.mean, self.camera), dim=-1)

    def sample(self) -> Tensor:
        """A code with a sampled action."""
        noise = torch.randn_like(self.mean) * (0.5 * self.log_variance).exp()
        return torch.cat((self.mean + noise, self.camera), dim=-1)


@dataclass
class LamOutput:
    posterior: Posterior
    code: Tensor
    """(B, latent_dim + camera_dim): what the decoder was given, a sample or the mean."""
    prediction: Tensor
    """(B, 3, H, W): the second frame."""


class PairModel(Protocol):
    """A latent action model, or a control with a known answer. Frames are float in [-1, 1]."""

    training: bool

    def encode(self, frames: Tensor, /) -> Posterior: ...
    def decode(self, first_frame: Tensor, code: Tensor, /) -> Tensor: ...
    def train(self, mode: bool = True) -> object: ...


def resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) at another size; unchanged where it is the same."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    shrinks = size[0] <= frames.shape[-2] and size[1] <= frames.shape[-1]
    return functional.interpolate(frames, size=size, mode="area" if shrinks else "bilinear")


def check_shape(frames: Tensor, expected: tuple[int, ...]) -> None:
    """ValueError unless frames are (B, *expected)."""
    if tuple(frames.shape[1:]) != expected:
        raise ValueError(f"expected frames of shape (B, {', '.join(map(str, expected))}), got {tuple(frames.shape)}")
