"""The loss against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from lam.loss import PairBatch, kl_nats, loss
from lam.model import LamOutput, LatentActionModel, Posterior
from lam.presets import LamLossConfig, LamModelConfig

SMALL = LamModelConfig(
    height=16, width=24, patch=8, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1, latent_dim=3
)


class Fixed(nn.Module):
    """Answers every batch with the same prediction and posterior."""

    def __init__(self, prediction: Tensor, posterior: Posterior) -> None:
        super().__init__()
        self.prediction, self.posterior = prediction, posterior

    def forward(self, frames: Tensor, *, sample: bool) -> LamOutput:
        return LamOutput(posterior=self.posterior, latent_action=self.posterior.mean, prediction=self.prediction)


def test_kl_of_a_gaussian_is_summed_over_dimensions_only():
    posterior = Posterior(
        mean=torch.tensor([[0.0, 0.0], [2.0, 0.0]]), log_variance=torch.tensor([[0.0, 0.0], [0.0, math.log(4.0)]])
    )
    second = 0.5 * 2.0**2 + 0.5 * (4.0 - 1.0 - math.log(4.0))
    torch.testing.assert_close(kl_nats(posterior), torch.tensor([0.0, second]))


def test_kl_agrees_with_torch_distributions():
    posterior = Posterior(mean=torch.randn(5, 7), log_variance=torch.randn(5, 7))
    gaussian = torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    expected = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_nats(posterior), expected)


def test_loss_is_squared_error_of_unit_range_pixels_plus_weighted_nats():
    frames = torch.zeros(2, 2, 3, 4, 4)
    frames[:, 0] = -0.5  # first frames
    prediction = torch.zeros(2, 3, 4, 4)
    prediction[0] = 0.4  # 0.2 in [0, 1], wrong in one of the two pairs
    posterior = Posterior(mean=torch.tensor([[1.0, 2.0], [0.0, 1.0]]), log_variance=torch.zeros(2, 2))
    batch = PairBatch(frames=frames, names=("a", "b"))

    scalar, metrics = loss(Fixed(prediction, posterior), batch, LamLossConfig(kl_weight=0.01))

    mse, nats = 0.2**2 / 2, (0.5 * (1 + 4) + 0.5 * 1) / 2
    assert scalar.item() == pytest.approx(mse + 0.01 * nats)
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {"mse": mse, "nats": nats, "copy_mse": 0.25**2}
    )


def test_the_target_is_the_second_frame():
    frames = torch.rand(3, 2, 3, 4, 4) * 2 - 1
    posterior = Posterior(mean=torch.zeros(3, 2), log_variance=torch.zeros(3, 2))
    batch = PairBatch(frames=frames, names=("a", "b", "c"))
    right, _ = loss(Fixed(frames[:, 1], posterior), batch, LamLossConfig())
    wrong, _ = loss(Fixed(frames[:, 0], posterior), batch, LamLossConfig())
    assert right.item() == 0.0
    assert wrong.item() > 0.01


def test_training_samples_the_latent_action_and_evaluation_takes_its_mean():
    torch.manual_seed(0)
    model = LatentActionModel(SMALL)
    batch = PairBatch(frames=torch.rand(2, 2, 3, 16, 24) * 2 - 1, names=("a", "b"))
    config = LamLossConfig()
    model.train()
    assert loss(model, batch, config)[0].item() != loss(model, batch, config)[0].item()
    model.eval()
    assert loss(model, batch, config)[0].item() == loss(model, batch, config)[0].item()


def test_every_parameter_gets_a_gradient_and_the_loss_falls():
    torch.manual_seed(0)
    model = LatentActionModel(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = PairBatch(frames=torch.rand(4, 2, 3, 16, 24) * 2 - 1, names=("a", "b", "c", "d"))
    errors = []
    for _ in range(60):
        scalar, metrics = loss(model, batch, LamLossConfig())
        optimizer.zero_grad()
        scalar.backward()
        optimizer.step()
        errors.append(metrics["mse"].item())
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []
    assert errors[-1] < 0.7 * errors[0]
