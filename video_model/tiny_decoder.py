"""A small decoder for live use: latents to frames, in a fraction of the tokenizer's time, and a little less sharp.

The way of TAEHV (Tiny AutoEncoder for Hunyuan Video, github.com/madebyollin/taehv): two-dimensional convolutions, and
memory in place of convolutions over time: each block sees, besides a frame's features, those of the frame before.

Axes: B clips, N latents (in time), T frames or steps of a stage, C channels, h x w places, H x W pixels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.checkpoints import load_model_folder
from common.config import from_dict, to_dict
from common.errors import BadData
from common.published import require_fit
from video_model.presets import TIME_FACTOR, TinyDecoderConfig, TinyDecoderModelConfig
from video_model.tokenizer import DecoderState


class MemoryBlock(nn.Module):
    """Three convolutions and a shortcut over a frame's features and those of the frame before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x (B, T, C, h, w), before (B, C, h, w): the frame before them -> (B, T, C, h, w)."""
        earlier = torch.cat((before[:, None], x[:, :-1]), dim=1)
        y = F.relu(self.conv1(torch.cat((x, earlier), dim=2).flatten(0, 1)))
        y = self.conv3(F.relu(self.conv2(y)))
        return F.relu(x + y.unflatten(0, x.shape[:2]))


class Grow(nn.Module):
    """To twice the places along each side and, where `time` says so, twice the steps."""

    def __init__(self, channels: int, after: int, *, time: bool) -> None:
        super().__init__()
        self.steps = 2 if time else 1
        self.in_time = nn.Conv2d(channels, self.steps * channels, 1) if time else nn.Identity()
        self.conv = nn.Conv2d(channels, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, h, w) -> (B, T or 2 T, C', 2 h, 2 w)."""
        batch, steps = x.shape[:2]
        y = self.in_time(x.flatten(0, 1)).unflatten(1, (self.steps, -1)).flatten(0, 1)
        y = self.conv(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        return y.unflatten(0, (batch, steps * self.steps))


class TinyDecoder(nn.Module):
    """Decodes the latents of one tokenizer, as the tokenizer's `decode` and `decode_next` do."""

    def __init__(self, config: TinyDecoderModelConfig, *, latent_channels: int) -> None:
        super().__init__()
        self.z_dim, self.patch_size = latent_channels, config.patch_size
        self.space_factor = config.space_factor
        channels = config.channels
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        layers: list[nn.Module] = []
        for number, width in enumerate(channels):
            if number:
                layers.append(Grow(channels[number - 1], width, time=number <= 2))
            layers += [MemoryBlock(width) for _ in range(config.blocks)]
        self.layers = nn.ModuleList(layers)
        self.conv_out = nn.Conv2d(channels[-1], 3 * config.patch_size**2, 3, padding=1)

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, 1 + k, h, w), normalised -> frames (B, 1 + 4k, 3, H, W) in [-1, 1]."""
        return self.decode_next(latents, None)[0]

    def decode_next(self, latents: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        """The next latents (B, C, N, h, w) of a stream. Returns (frames, new state).

        Each latent gives 4 frames, but for the first of the stream (state None), which gives 1. ValueError if the shape
        does not fit.
        """
        if latents.ndim != 5 or latents.shape[1] != self.z_dim or not latents.shape[2]:
            raise ValueError(f"expected latents of shape (B, {self.z_dim}, N, h, w), got {tuple(latents.shape)}")
        frames, after = self(latents, state)
        return frames.float().clamp(-1, 1), after

    def forward(self, latents: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        """As `decode_next`; frames are not clamped."""
        batch, steps = latents.shape[0], latents.shape[2]
        x = F.relu(self.conv_in(3 * torch.tanh(latents.transpose(1, 2).flatten(0, 1) / 3)))
        x = x.unflatten(0, (batch, steps))
        before = iter(state.features if state else ())
        seen: list[Tensor | str | None] = []
        for layer in self.layers:
            if isinstance(layer, MemoryBlock):
                earlier = next(before) if state else torch.zeros_like(x[:, 0])
                seen.append(x[:, -1])
                x = layer(x, earlier)
            else:
                x = layer(x)
        frames = F.pixel_shuffle(self.conv_out(x.flatten(0, 1)), self.patch_size).unflatten(0, x.shape[:2])
        # The first latent stands for one frame: the last of the four that it is decoded to.
        return frames if state else frames[:, TIME_FACTOR - 1 :], DecoderState(tuple(seen))


def checkpoint_config(config: TinyDecoderConfig, *, preset: str, latent_channels: int) -> dict[str, Any]:
    """config.json of a tiny decoder's checkpoint."""
    return {"stage": "decoder", "preset": preset, "latent_channels": latent_channels, "settings": to_dict(config)}


def load_tiny_decoder(path: Path) -> TinyDecoder:
    """Load a checkpoint folder, or a run's newest checkpoint, on the CPU, in evaluation mode. BadData if it is none."""
    data, tensors = load_model_folder(path)
    if data.get("stage") != "decoder":
        raise BadData(f"{path} holds a '{data.get('stage')}' checkpoint, not a tiny decoder")
    config = from_dict(TinyDecoderConfig, data["settings"], where=f"{path}/config.json")
    model = TinyDecoder(config.model, latent_channels=data["latent_channels"])
    require_fit(tensors, {name: tensor.shape for name, tensor in model.state_dict().items()}, path)
    model.load_state_dict(tensors, strict=True)
    return model.eval()
