"""The training loss of the latent action model: reconstruct the second frame, pay for what the latent action tells."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lam.model import Posterior
from lam.presets import LamLossConfig


@dataclass(frozen=True)
class PairBatch:
    """Frame pairs, on one device."""

    frames: Tensor
    """(B, 2, 3, H, W), float in [-1, 1], earlier frame first."""
    names: tuple[str, ...]
    """The clip that each of the B pairs comes from."""

    def to(self, device: torch.device | str) -> "PairBatch":
        return PairBatch(frames=self.frames.to(device, non_blocking=True), names=self.names)


def kl_nats(posterior: Posterior) -> Tensor:
    """KL divergence from the standard normal, in nats, summed over the latent dimensions: (B,) (arXiv 1312.6114, B)."""
    mean, log_variance = posterior.mean, posterior.log_variance
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def loss(model: nn.Module, batch: PairBatch, config: LamLossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of pixels in [0, 1], plus `kl_weight` times the mean KL of a pair in nats.

    Samples the latent action in training mode, uses its mean in evaluation mode. The metrics (detached scalars) hold
    the error of copying the first frame beside the model's own: a model above it has learned nothing yet.
    """
    first, second = batch.frames.unbind(1)
    output = model(batch.frames, sample=model.training)
    error = ((output.prediction - second) / 2).square().mean()
    nats = kl_nats(output.posterior).mean()
    copy_error = ((first - second) / 2).square().mean()
    metrics = {"mse": error.detach(), "copy_mse": copy_error, "nats": nats.detach()}
    return error + config.kl_weight * nats, metrics
