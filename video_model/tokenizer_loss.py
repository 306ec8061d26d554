"""The training loss of a tokenizer: pixels, sharpness, and a little KL. It needs no downloaded weights."""

import torch
from torch import Tensor, nn

from video_model.clip_batches import ClipBatch
from video_model.presets import TIME_FACTOR, TokenizerLossConfig
from video_model.tokenizer import TokenizerOutput

_ROUNDING = 0.02
"""Error of a pixel in [-1, 1] below which the Charbonnier loss is quadratic."""


def charbonnier(error: Tensor) -> Tensor:
    """Mean of sqrt(error² + e²) - e: |error|, but smooth around 0 (Charbonnier et al., 1994). A scalar."""
    return (error.square() + _ROUNDING**2).sqrt().mean() - _ROUNDING


def sharpness_error(reconstruction: Tensor, frames: Tensor) -> Tensor:
    """How wrong the differences between neighbouring pixels are: a smeared edge costs more than a pale area. A scalar.

    Both (B, T, 3, H, W). It compares rows and columns of single frames and colours: time and channels do not mix. The
    gradient difference loss (arXiv 1511.05440, eq. 6), but with the differences' signs.
    """
    error = reconstruction - frames
    return charbonnier(error.diff(dim=-1)) + charbonnier(error.diff(dim=-2))


def kl_nats(output: TokenizerOutput) -> Tensor:
    """KL divergence from the standard normal in nats, mean over all numbers (arXiv 1312.6114, appendix B). A scalar."""
    mean, log_variance = output.mean, output.log_variance
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def loss(
    model: nn.Module, batch: ClipBatch, config: TokenizerLossConfig, *, lead_in: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Charbonnier error of the pixels, plus the weighted sharpness error and KL.

    In half of the calls the first 1 + lead_in frames only fill the caches, in the others the last lead_in frames are
    not looked at: so both the beginning of a stream and what comes long after it are trained, at the same cost.
    Samples the latents in training mode, uses their means in evaluation mode. The metrics are detached scalars.
    """
    late = lead_in > 0 and torch.rand(()).item() < 0.5
    frames = batch.frames if late else batch.frames[:, : batch.frames.shape[1] - lead_in]
    output: TokenizerOutput = model(frames, sample=model.training, lead_in=1 + lead_in // TIME_FACTOR if late else 0)
    reconstruction = output.reconstruction.float()
    frames = frames[:, -reconstruction.shape[1] :]
    pixels = charbonnier(reconstruction - frames)
    sharpness = sharpness_error(reconstruction, frames)
    nats = kl_nats(output)
    total = pixels + config.sharpness_weight * sharpness + config.kl_weight * nats
    mse = ((reconstruction.detach() - frames) / 2).square().mean()
    parts = {"pixels": pixels, "sharpness": sharpness, "nats": nats, "mse": mse}
    return total, {name: value.detach() for name, value in parts.items()}
