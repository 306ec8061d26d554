"""The training loss of a latent action model: predict the second frame, pay for what the latent action tells."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.texture import box_mean
from lam.interface import LamOutput, Posterior
from lam.model import MotionOutput
from lam.presets import LamLossConfig

_LIGHT_SHARE = 0.1
"""Price of an error in the light, over that of one in what moves: enough that predictions keep the first frame's."""

FeatureTarget = Callable[[Tensor, Tensor], Tensor]
"""(stabilised first frame, second frame), both (B, 3, H, W) -> how the backbone's features change, (B, N, channels)."""


@dataclass(frozen=True)
class PairBatch:
    """Frame pairs, on one device."""

    frames: Tensor
    """(B, 2, 3, H, W), float in [-1, 1], earlier frame first."""
    names: tuple[str, ...]
    """The clip that each of the B pairs comes from."""
    labels: Tensor | None = None
    """(B, label_dim), in standard deviations; NaN in the rows of pairs without labels."""

    def to(self, device: torch.device | str) -> "PairBatch":
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return PairBatch(self.frames.to(device, non_blocking=True), self.names, labels)


def kl_nats(posterior: Posterior) -> Tensor:
    """KL divergence from the standard normal, in nats, summed over the latent dimensions: (B,) (arXiv 1312.6114, B)."""
    mean, log_variance = posterior.mean, posterior.log_variance
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def loss(
    model: nn.Module, batch: PairBatch, config: LamLossConfig, *, features: FeatureTarget | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of the prediction, plus `kl_weight` times the mean KL of a pair in nats.

    DreamDojo's design predicts pixels in [0, 1]. Ours adds the error of the predicted motion, looks only at places that
    the first frame showed, and counts a tenth of an error that varies slowly over the picture, which is light.
    Samples the latent action in training mode, uses its mean in evaluation mode. The metrics (detached scalars) hold
    the error of predicting "nothing moves" beside the model's own: a model above it has learned nothing yet.
    """
    output = model(batch.frames, sample=model.training)
    nats = kl_nats(output.posterior).mean()
    if isinstance(output, MotionOutput):
        error, metrics = motion_error(output, batch, config, features)
    else:
        error, metrics = _painting_error(output, batch.frames)
    return error + config.kl_weight * nats, {**metrics, "nats": nats.detach()}


def _painting_error(output: LamOutput, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    first, second = frames.unbind(1)
    error = ((output.prediction - second) / 2).square().mean()
    return error, {"mse": error.detach(), "copy_mse": ((first - second) / 2).square().mean()}


def motion_error(
    output: MotionOutput, batch: PairBatch, config: LamLossConfig, features: FeatureTarget | None
) -> tuple[Tensor, dict[str, Tensor]]:
    pair, second = output.stabilised, batch.frames[:, 1]
    seen = nn.functional.interpolate(pair.seen, size=pair.flow.shape[-2:])
    flow_error = ((output.flow - pair.flow) * seen).square().mean()
    metrics = {"flow_mse": flow_error.detach(), "still_flow_mse": pair.flow.square().mean()}
    error = config.flow_weight * flow_error
    if features is None:
        pixels, light = _parted(output.prediction - second, pair.seen)
        pixel_error = pixels.square().mean()
        copy_error = _parted(pair.first - second, pair.seen)[0].square().mean()
        error = error + pixel_error + _LIGHT_SHARE * light.square().mean()
        metrics |= {"mse": pixel_error.detach(), "copy_mse": copy_error}
    else:
        target = features(pair.first, second)
        assert output.feature_change is not None
        feature_error = (output.feature_change - target).square().mean()
        error = error + config.feature_weight * feature_error
        metrics |= {"mse": feature_error.detach(), "copy_mse": target.square().mean()}
    if batch.labels is not None:
        assert output.labels is not None
        known = batch.labels.isfinite().all(-1)
        wrong = (output.labels - batch.labels.nan_to_num()).square().mean(-1) * known
        label_error = wrong.sum() / known.sum().clamp(min=1)
        error = error + config.label_weight * label_error
        metrics |= {"label_mse": label_error.detach(), "label_share": known.float().mean()}
    return error, metrics


def _parted(difference: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """A difference of frames (B, 3, H, W) in units of [0, 1], as what varies within a quarter of the height, and light.

    Light is its mean over a window of that size; both are zero where the first frame did not show the place.
    """
    window = difference.shape[-2] // 4 | 1
    light = box_mean(difference * seen, window) / box_mean(seen, window).clamp(min=1e-3)
    return (difference - light) * seen / 2, light * seen / 2
