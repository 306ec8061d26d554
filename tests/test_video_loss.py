"""The video model's loss: the path, who gets which noise, and that latents, actions and times stay together."""

import pytest
import torch
from torch import Tensor, nn

from tests.test_video_model import SIZE, small
from video_model.flow import at_level, logit_normal_times, sampling_times, shifted, velocity
from video_model.latent_windows import LatentBatch
from video_model.layers import Actions
from video_model.loss import draw, flow_errors, hold, loss, window_of
from video_model.presets import VideoLossConfig

CHANNELS, LATENTS, VALUES = 4, 4, 3


def batch(size: int = 6, *, seed: int = 0) -> LatentBatch:
    """One latent more than the network sees; latent n is about n, action row t about t."""
    generator = torch.Generator().manual_seed(seed)
    latents = 0.01 * torch.randn(size, CHANNELS, LATENTS + 1, *SIZE, generator=generator)
    latents += torch.arange(LATENTS + 1.0)[:, None, None]
    actions = torch.arange(4.0 * LATENTS)[:, None].expand(size, -1, VALUES)
    return LatentBatch(latents=latents, actions=actions.clone(), names=("clip",) * size)


def test_the_path_runs_from_clean_to_noise_at_constant_speed():
    clean, noise = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    times = torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.25, 0.25]])
    x = at_level(clean, noise, times)
    assert torch.equal(x[0, :, 0], clean[0, :, 0])
    assert torch.equal(x[0, :, 2], noise[0, :, 2])
    later = at_level(clean, noise, times + 0.125)
    torch.testing.assert_close((later - x) / 0.125, velocity(clean, noise))


def test_times_are_shifted_towards_noise():
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 5.0).tolist() == pytest.approx([0.0, 5 / 6, 1.0])
    torch.manual_seed(0)
    times = logit_normal_times((100_000,), shift=5.0, device=torch.device("cpu"))
    # DreamDojo's quantiles at 5, 50 and 95 %, which follow from the same law
    assert torch.quantile(times, torch.tensor([0.05, 0.5, 0.95])).tolist() == pytest.approx(
        [0.49, 0.83, 0.96], abs=0.01
    )
    steps = sampling_times(4, shift=1.0, device=torch.device("cpu"))
    assert steps.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_draw_keeps_its_promises():
    config = VideoLossConfig(context_noise=0.1)
    latents = torch.zeros(64, CHANNELS, LATENTS, 1, 1)
    seen: dict[str, list[float]] = {"causal": [], "mid_clip": [], "held": [], "kept": [], "clean": [], "given": []}
    for seed in range(200):
        torch.manual_seed(seed)
        plan = draw(latents, config)
        assert plan.given[:, 0].all()
        assert not plan.given[:, -1].any()
        assert (plan.given.int().diff(dim=1) <= 0).all(), "what is given comes first"
        assert plan.times[plan.given].max() <= 0.1
        spread = plan.times.masked_fill(plan.given, float("nan"))
        same = (spread.nan_to_num(-1) == plan.times[:, -1:]) | plan.given
        assert bool(same.all()) is not plan.causal, "one noise level where all see all, else one for each latent"
        seen["clean"].append((plan.times[:, 0] == 0).float().mean().item())
        seen["given"].append(plan.given.float().sum(1).mean().item())
        for name in ("causal", "mid_clip", "held", "kept"):
            seen[name].append(float(torch.as_tensor(getattr(plan, name)).float().mean()))
    means = {name: sum(values) / len(values) for name, values in seen.items()}
    expected = {"causal": 0.7, "mid_clip": 0.25, "held": 0.3, "kept": 0.9, "clean": 0.5, "given": 2.0}
    assert means == pytest.approx(expected, abs=0.07)


def test_held_actions_keep_their_sum_and_their_latent():
    actions = torch.randn(2, 8, VALUES)
    held = hold(actions, torch.tensor([True, False]))
    assert torch.equal(held[1], actions[1])
    for chunk in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(held[0, chunk], actions[0, chunk].mean(0).expand(4, -1))


def test_each_latent_keeps_the_four_actions_that_lead_to_it():
    for mid_clip in (False, True):
        latents, actions = window_of(batch(), mid_clip=mid_clip)
        assert latents.shape[2] == LATENTS
        without_actions = 0 if mid_clip else 1
        assert actions.shape[1] == 4 * (LATENTS - without_actions)
        for place in range(without_actions, LATENTS):
            number = latents[:, :, place].mean().round().int().item()  # latent n stands for frames 4n - 3 .. 4n
            row = 4 * (place - without_actions)
            assert actions[0, row : row + 4, 0].tolist() == [4 * number - 4 + i for i in range(4)]


def test_errors_along_time_are_about_frames_not_channels():
    torch.manual_seed(0)
    error, given = torch.randn(2, 5, 6, 2, 2), torch.zeros(2, 6, dtype=torch.bool)
    given[:, 0] = True
    flow, change = flow_errors(error, given)
    free = error.clone()
    free[:, :, 0] = 0
    assert flow.item() == pytest.approx(free[:, :, 1:].square().mean().item(), rel=1e-5)
    assert change.item() == pytest.approx(free.diff(dim=2).square().mean().item(), rel=1e-5)
    frames, channels = [0, 3, 1, 5, 2, 4], [4, 2, 0, 1, 3]
    assert flow_errors(error[:, channels], given)[1].item() == pytest.approx(change.item(), rel=1e-5)
    assert abs(flow_errors(error[:, :, frames], given)[1].item() - change.item()) > 0.01
    assert flow_errors(error[:, :, frames], given)[0].item() == pytest.approx(flow.item(), rel=1e-5)
    given[0, :3] = True
    error[0, :, :3] = 1e6  # counts nowhere
    assert max(value.item() for value in flow_errors(error, given)) < 10


class Oracle(nn.Module):
    """Knows the clean latents of `batch` without their small noise: latent n is n everywhere."""

    def forward(
        self, latents: Tensor, times: Tensor, *, actions: Actions, conditioned: Tensor, mask: Tensor | None
    ) -> Tensor:
        first = 1.0 if actions.mid_clip else 0.0
        clean = (first + torch.arange(float(latents.shape[2])))[:, None, None]
        t = times[:, None, :, None, None].clamp_min(1e-6)
        assert torch.equal(conditioned.int().diff(dim=1).clamp_min(0), torch.zeros_like(conditioned[:, 1:]).int())
        return (latents - clean) / t  # x_t = x_0 + t v


def test_an_oracle_has_no_loss_and_a_slip_by_one_has():
    for seed in range(6):
        torch.manual_seed(seed)
        config = VideoLossConfig(context_noise=0.0, shift=5.0)
        exact = batch()
        clean = LatentBatch(exact.latents.round(), exact.actions, exact.names)
        torch.manual_seed(seed)
        total, _ = loss(Oracle(), clean, config, embodiment="latent", patch=2)
        assert total.item() < 1e-6
        slipped = LatentBatch(clean.latents.roll(1, dims=2), clean.actions, clean.names)
        torch.manual_seed(seed)
        assert loss(Oracle(), slipped, config, embodiment="latent", patch=2)[0].item() > 0.5


def test_the_loss_trains_every_part_of_the_network():
    model = small(embodiments={"latent": VALUES}).train()
    for seed in range(4):
        torch.manual_seed(seed)
        total, metrics = loss(model, batch(), VideoLossConfig(), embodiment="latent", patch=2)
        total.backward()
        assert set(metrics) == {"flow", "change"}
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
