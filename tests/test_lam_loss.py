"""The loss against numbers worked out by hand."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from lam.dreamdojo import DreamDojoLam
from lam.interface import LamOutput, Posterior
from lam.loss import PairBatch, kl_nats, loss
from lam.model import LatentActionModel, MotionOutput, Stabilised
from lam.presets import LamLossConfig, LamModelConfig
from tests.drawn_scene import Scene, centres

SMALL = LamModelConfig(
    height=32, width=48, patch=8, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1, latent_dim=3
)
DREAMDOJO = dataclasses.replace(SMALL, design="dreamdojo")
SIZE = (SMALL.height, SMALL.width)
FREE = LamLossConfig(kl_weight=0.0, flow_weight=0.0)


class Fixed(nn.Module):
    """Answers every batch with the same output."""

    def __init__(self, output: LamOutput) -> None:
        super().__init__()
        self.output = output

    def forward(self, frames: Tensor, *, sample: bool) -> LamOutput:
        return self.output


def painting(prediction: Tensor, posterior: Posterior) -> Fixed:
    return Fixed(LamOutput(posterior=posterior, code=posterior.code, prediction=prediction))


def gaussian(mean: Tensor, log_variance: Tensor) -> Posterior:
    return Posterior(mean=mean, log_variance=log_variance, camera=torch.zeros(len(mean), 0))


def motion_output(frames: Tensor, **changes: Tensor) -> MotionOutput:
    """The output that is right about everything for a camera that stands still and things that do not move."""
    rows = len(frames)
    posterior = Posterior(mean=torch.zeros(rows, 3), log_variance=torch.zeros(rows, 3), camera=torch.zeros(rows, 8))
    stabilised = Stabilised(
        camera=posterior.camera,
        first=changes.pop("first", frames[:, 0]),
        seen=changes.pop("seen", torch.ones(rows, 1, *frames.shape[-2:])),
        flow=changes.pop("true_flow", torch.zeros(rows, 2, 16, 24)),
    )
    output = MotionOutput(
        posterior=posterior,
        code=posterior.code,
        prediction=frames[:, 1],
        stabilised=stabilised,
        flow=stabilised.flow,
        feature_change=None,
        labels=None,
    )
    return dataclasses.replace(output, **changes)


def batch_of(frames: Tensor, labels: Tensor | None = None) -> PairBatch:
    return PairBatch(frames=frames, names=tuple(map(str, range(len(frames)))), labels=labels)


def pairs(count: int = 3) -> Tensor:
    """(B, 2, 3, H, W): a patch moves to the left and down over a still background, otherwise in each pair."""
    result = []
    for seed in range(count):
        shift = torch.tensor([2.0 + seed, -1.5]) / 32
        frames = []
        for offset in (shift, torch.zeros(2)):
            covered = ((centres(SIZE) - offset).abs() < torch.tensor([0.45, 0.4])).all(-1)
            patch = Scene(seed + 50).at(centres(SIZE) - offset).permute(2, 0, 1)[None].float()
            frames.append(torch.where(covered, patch, Scene(seed).frame(SIZE)))
        result.append(torch.stack(frames, dim=1))
    return torch.cat(result)


# What the latent action costs ------------------------------------------------------------------------------------


def test_kl_of_a_gaussian_is_summed_over_dimensions_only():
    posterior = gaussian(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, math.log(4.0)]]))
    second = 0.5 * 2.0**2 + 0.5 * (4.0 - 1.0 - math.log(4.0))
    torch.testing.assert_close(kl_nats(posterior), torch.tensor([0.0, second]))


def test_kl_agrees_with_torch_distributions_and_the_camera_is_free():
    posterior = Posterior(mean=torch.randn(5, 7), log_variance=torch.randn(5, 7), camera=9 * torch.randn(5, 8))
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_nats(posterior), expected)


# Painted frames: DreamDojo's design ------------------------------------------------------------------------------


def test_loss_is_squared_error_of_unit_range_pixels_plus_weighted_nats():
    frames = torch.zeros(2, 2, 3, 4, 4)
    frames[:, 0] = -0.5  # first frames
    prediction = torch.zeros(2, 3, 4, 4)
    prediction[0] = 0.4  # 0.2 in [0, 1], wrong in one of the two pairs
    posterior = gaussian(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.zeros(2, 2))

    scalar, metrics = loss(painting(prediction, posterior), batch_of(frames), LamLossConfig(kl_weight=0.01))

    mse, nats = 0.2**2 / 2, (0.5 * (1 + 4) + 0.5 * 1) / 2
    assert scalar.item() == pytest.approx(mse + 0.01 * nats)
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {"mse": mse, "nats": nats, "copy_mse": 0.25**2}
    )


def test_the_target_is_the_second_frame():
    frames = pairs()
    posterior = gaussian(torch.zeros(3, 2), torch.zeros(3, 2))
    for right, wrong in (
        (painting(frames[:, 1], posterior), painting(frames[:, 0], posterior)),
        (Fixed(motion_output(frames)), Fixed(motion_output(frames, prediction=frames[:, 0]))),
    ):
        assert loss(right, batch_of(frames), LamLossConfig())[0].item() == 0.0
        assert loss(wrong, batch_of(frames), LamLossConfig())[0].item() > 0.003


# Motion and change: ours -----------------------------------------------------------------------------------------


def test_the_pixel_error_is_squared_in_unit_range_and_its_mean_over_a_quarter_of_the_height_counts_a_tenth():
    frames = torch.zeros(2, 2, 3, *SIZE)
    wrong = torch.zeros(2, 3, *SIZE)
    wrong[0, 1, 16, 24] = 0.8  # one green pixel of one pair, 0.4 in [0, 1]
    first = frames[:, 0].clone()
    first[1, 2, 16, 24] = 0.2
    output = motion_output(frames, prediction=wrong, first=first)
    scalar, metrics = loss(Fixed(output), batch_of(frames), FREE)
    window = 9 * 9  # a quarter of 32 rows, made odd
    of_one_pixel = ((1 - 1 / window) ** 2 + (window - 1) / window**2) / (2 * 3 * 32 * 48)
    of_its_light = 0.1 * window / window**2 / (2 * 3 * 32 * 48)  # a mean of 1 / window at each place of the window
    assert scalar.item() == pytest.approx(0.4**2 * (of_one_pixel + of_its_light), rel=1e-4)
    assert metrics["mse"].item() == pytest.approx(0.4**2 * of_one_pixel, rel=1e-4)
    assert metrics["copy_mse"].item() == pytest.approx(0.1**2 * of_one_pixel, rel=1e-4)


def test_the_motion_error_is_in_squared_pixels_of_64():
    frames = torch.zeros(2, 2, 3, *SIZE)
    truth, said = torch.zeros(2, 2, 16, 24), torch.zeros(2, 2, 16, 24)
    truth[:, 0], said[0, 0] = 3.0, 1.0  # the first pair is wrong by 2, the second by 3, in x of x and y
    output = motion_output(frames, true_flow=truth, flow=said)
    config = LamLossConfig(kl_weight=0.0, flow_weight=0.1)
    scalar, metrics = loss(Fixed(output), batch_of(frames), config)
    mean = (2.0**2 + 3.0**2) / 2 / 2
    assert metrics["flow_mse"].item() == pytest.approx(mean)
    assert metrics["still_flow_mse"].item() == pytest.approx(3.0**2 / 2)
    assert scalar.item() == pytest.approx(0.1 * mean)


def test_the_copy_errors_are_those_of_a_model_that_says_nothing_moves():
    """A new decoder adds nothing to the stabilised first frame, so its errors are the copy's."""
    torch.manual_seed(0)
    _, metrics = loss(LatentActionModel(SMALL).eval(), batch_of(pairs()), LamLossConfig())
    assert metrics["mse"].item() == pytest.approx(metrics["copy_mse"].item(), rel=1e-3)
    assert metrics["flow_mse"].item() == pytest.approx(metrics["still_flow_mse"].item(), rel=1e-6)
    assert metrics["copy_mse"].item() > 1e-3
    assert metrics["still_flow_mse"].item() > 0.1


def test_pixels_that_the_first_frame_did_not_show_do_not_count():
    frames, seen = pairs(), torch.ones(3, 1, *SIZE)
    seen[..., :10], seen[..., 28:, :] = 0, 0
    wild = frames[:, 1] + (1 - seen) * torch.randn(3, 3, *SIZE)
    scalar, metrics = loss(Fixed(motion_output(frames, seen=seen, prediction=wild, first=wild)), batch_of(frames), FREE)
    assert scalar.item() < 1e-12
    assert metrics["copy_mse"].item() < 1e-12
    everywhere, _ = loss(Fixed(motion_output(frames, prediction=wild)), batch_of(frames), FREE)
    assert everywhere.item() > 0.01


def test_motion_where_the_first_frame_showed_nothing_does_not_count():
    frames, seen = pairs(), torch.ones(3, 1, *SIZE)
    seen[..., :10], seen[..., 28:, :] = 0, 0
    said = torch.randn(3, 2, 16, 24) * (1 - seen[..., ::2, ::2])
    output = motion_output(frames, seen=seen, flow=said)
    _, metrics = loss(Fixed(output), batch_of(frames), LamLossConfig())
    assert metrics["flow_mse"].item() == 0.0


@pytest.mark.parametrize("unseen", [0, 6])
def test_light_that_changes_smoothly_over_the_picture_counts_a_tenth(unseen: int):
    """Also beside places that the first frame did not show."""
    frames, seen = pairs(), torch.ones(3, 1, *SIZE)
    seen[..., :unseen] = 0
    light = 0.3 + 0.1 * torch.linspace(-1, 1, 48) + 0.1 * torch.linspace(-1, 1, 32)[:, None]
    output = motion_output(frames, seen=seen, prediction=frames[:, 1] - light)
    lit, metrics = loss(Fixed(output), batch_of(frames), FREE)
    assert metrics["mse"].item() < 1e-4
    squared = ((light / 2).square() * seen[0]).mean()
    assert squared > 0.015
    assert lit.item() == pytest.approx(0.1 * squared.item(), rel=0.1)
    moved = motion_output(frames, seen=seen, prediction=frames[:, 0])
    assert loss(Fixed(moved), batch_of(frames), FREE)[1]["mse"].item() > 200 * metrics["mse"].item()


def test_labels_are_compared_where_they_are_known():
    frames = torch.zeros(4, 2, 3, *SIZE)
    nothing = float("nan")
    labels = torch.tensor([[1.0, 2.0], [nothing, nothing], [0.0, -1.0], [nothing, nothing]])
    said = torch.tensor([[1.0, 0.0], [50.0, 50.0], [3.0, -1.0], [7.0, 7.0]], requires_grad=True)
    config = LamLossConfig(kl_weight=0.0, label_weight=0.5)
    scalar, metrics = loss(Fixed(motion_output(frames, labels=said)), batch_of(frames, labels), config)
    mean = (2.0**2 / 2 + 3.0**2 / 2) / 2  # over the two rows that are known
    assert metrics["label_mse"].item() == pytest.approx(mean)
    assert metrics["label_share"].item() == 0.5
    assert scalar.item() == pytest.approx(0.5 * mean)
    scalar.backward()
    assert said.grad is not None
    torch.testing.assert_close(said.grad, 0.5 * torch.tensor([[0.0, -2.0], [0, 0], [3, 0], [0, 0]]) / 2)

    _, metrics = loss(Fixed(motion_output(frames, labels=said)), batch_of(frames, labels * nothing), config)
    assert (metrics["label_mse"].item(), metrics["label_share"].item()) == (0.0, 0.0)
    assert "label_mse" not in loss(Fixed(motion_output(frames)), batch_of(frames), config)[1]


def test_features_take_the_place_of_pixels():
    frames = pairs()
    seen_by_backbone = []

    def target(first: Tensor, second: Tensor) -> Tensor:
        seen_by_backbone.append((first, second))
        return torch.full((3, 24, 5), 2.0)

    output = motion_output(frames, feature_change=torch.full((3, 24, 5), 0.5), prediction=frames[:, 0] * 0)
    config = LamLossConfig(kl_weight=0.0, target="features", backbone="any", feature_weight=0.1)
    scalar, metrics = loss(Fixed(output), batch_of(frames), config, features=target)
    assert (metrics["mse"].item(), metrics["copy_mse"].item()) == pytest.approx((1.5**2, 2.0**2))
    assert scalar.item() == pytest.approx(0.1 * 1.5**2)
    assert torch.equal(seen_by_backbone[0][0], output.stabilised.first)
    assert torch.equal(seen_by_backbone[0][1], frames[:, 1])


# Batches and training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, DREAMDOJO])
def test_the_loss_of_a_batch_is_the_mean_of_its_pairs(config: LamModelConfig):
    torch.manual_seed(0)
    model, frames = build(config).eval(), pairs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        whole, metrics = loss(model, batch_of(frames), LamLossConfig(kl_weight=0.01))
        rows = [loss(model, batch_of(frames[i : i + 1]), LamLossConfig(kl_weight=0.01)) for i in range(3)]
    assert len({round(row[0].item(), 6) for row in rows}) == 3  # the pairs differ
    assert whole.item() == pytest.approx(sum(row[0].item() for row in rows) / 3, rel=1e-3)
    for name, value in metrics.items():
        assert value.item() == pytest.approx(sum(row[1][name].item() for row in rows) / 3, rel=2e-3), name


def build(config: LamModelConfig) -> nn.Module:
    return LatentActionModel(config) if config.design == "default" else DreamDojoLam(config)


@pytest.mark.parametrize("config", [SMALL, DREAMDOJO])
def test_training_samples_the_latent_action_and_evaluation_takes_its_mean(config: LamModelConfig):
    torch.manual_seed(0)
    model, batch = build(config), batch_of(pairs())
    with torch.no_grad():
        for parameter in model.parameters():  # ours starts from a decoder that looks at no action
            parameter += 0.05 * torch.randn_like(parameter)
    model.train()
    assert loss(model, batch, LamLossConfig())[0].item() != loss(model, batch, LamLossConfig())[0].item()
    model.eval()
    assert loss(model, batch, LamLossConfig())[0].item() == loss(model, batch, LamLossConfig())[0].item()


@pytest.mark.parametrize("config", [SMALL, DREAMDOJO])
def test_every_parameter_gets_a_gradient_and_the_loss_falls(config: LamModelConfig):
    torch.manual_seed(0)
    model, batch = build(config), batch_of(pairs())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(40):
        scalar, metrics = loss(model, batch, LamLossConfig())
        optimizer.zero_grad()
        scalar.backward()
        optimizer.step()
        errors.append(metrics["mse"].item())
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []
    assert errors[-1] < 0.7 * errors[0]
    if config is SMALL:
        assert metrics["flow_mse"] < 0.5 * metrics["still_flow_mse"]


def test_a_batch_moves_to_a_device_as_a_whole():
    batch = batch_of(torch.zeros(2, 2, 3, 4, 4), torch.zeros(2, 3)).to("meta")
    assert batch.labels is not None
    assert (batch.frames.device.type, batch.labels.device.type, batch.names) == ("meta", "meta", ("0", "1"))
    assert batch_of(torch.zeros(2, 2, 3, 4, 4)).to("meta").labels is None
