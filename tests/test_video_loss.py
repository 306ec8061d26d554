"""The video model's loss: the path, who gets which noise, and that latents, actions and times stay together."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.test_video_model import SIZE, TOKENS, small
from video_model.cache import attention_mask
from video_model.flow import at_level, logit_normal_times, sampling_times, shifted, velocity
from video_model.latent_windows import LatentBatch
from video_model.layers import Actions
from video_model.loss import Draw, causal_pass, draw, flow_errors, hold, joint_pass, loss, window_of
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
    seen: dict[str, list[float]] = {"causal": [], "mid_clip": [], "held": [], "kept": [], "clean": []}
    given: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(200):
        torch.manual_seed(seed)
        plan = draw(latents, config)
        assert plan.given[:, 0].all()
        assert not plan.given[:, -1].any()
        assert (plan.given.int().diff(dim=1) <= 0).all(), "what is given comes first"
        assert plan.context_times.max() <= 0.1
        assert bool((plan.times == plan.times[:, :1]).all()) is not plan.causal, "one noise level where all see all"
        given[plan.causal].append(plan.given.float().sum(1).mean().item())
        seen["clean"].append((plan.context_times[:, 0] == 0).float().mean().item())
        for name in ("causal", "mid_clip", "held", "kept"):
            seen[name].append(float(torch.as_tensor(getattr(plan, name)).float().mean()))
    means = {name: sum(values) / len(values) for name, values in seen.items()}
    assert means == pytest.approx({"causal": 0.7, "mid_clip": 0.25, "held": 0.3, "kept": 0.9, "clean": 0.5}, abs=0.07)
    assert set(given[True]) == {1.0}
    assert sum(given[False]) / len(given[False]) == pytest.approx((1 + LATENTS - 1) / 2, abs=0.1)


def test_held_actions_keep_their_sum_and_their_latent():
    actions = torch.randn(2, 2, 4, VALUES)
    held = hold(actions, torch.tensor([True, False]))
    assert torch.equal(held[1], actions[1])
    torch.testing.assert_close(held[0], actions[0].mean(1, keepdim=True).expand(2, 4, -1))


def test_each_latent_keeps_its_forecast_and_the_four_actions_that_lead_to_it():
    assert window_of(batch(), mid_clip=False).forecasts is None
    for mid_clip in (False, True):
        given = batch()
        window = window_of(replace(given, forecasts=10 + given.latents), mid_clip=mid_clip)
        assert window.forecasts is not None
        assert torch.equal(window.forecasts, 10 + window.latents)
        assert window.latents.shape[2] == LATENTS
        assert window.has_actions.tolist() == [mid_clip, *[True] * (LATENTS - 1)]
        for place in torch.nonzero(window.has_actions).flatten().tolist():
            number = window.latents[:, :, place].mean().round().int().item()  # latent n stands for frames 4n - 3 .. 4n
            assert window.actions[0, place, :, 0].tolist() == [4 * number - 4 + i for i in range(4)]


def plan_of(latents: Tensor, **changes: object) -> Draw:
    """A causal step without noise in the context."""
    torch.manual_seed(3)
    plan = draw(latents, VideoLossConfig(causal_share=1.0, mid_clip_share=0.0, clean_context_share=1.0))
    return replace(plan, **changes)


@pytest.mark.parametrize(("mid_clip", "span", "sink"), [(False, 3, 0), (True, 3, 1), (False, 1, 1), (True, 1, 0)])
def test_a_causal_step_asks_what_a_stream_will_ask(mid_clip: bool, span: int, sink: int):
    """Every latent of a window at once, by mask, against one after the other, by cache."""
    model = small(embodiments={"latent": VALUES})
    given = batch(2)
    window = window_of(given, mid_clip=mid_clip)
    plan = plan_of(window.latents, mid_clip=mid_clip)
    step = causal_pass(window, plan, span=span, sink=sink)
    assert step.visible is not None
    actions = window.actions[:, step.source].flatten(1, 2)
    kept = window.has_actions[step.source].expand(2, -1)
    with torch.no_grad():
        together = model(
            step.latents,
            step.times,
            actions=Actions(actions, embodiment="latent", kept=kept, mid_clip=True),
            conditioned=step.conditioned,
            positions=step.positions,
            mask=attention_mask(step.visible, tokens=TOKENS),
        )[:, :, -step.made :]
        cache = model.empty_cache(batch=2, height=SIZE[0], width=SIZE[1], window=span, sink=sink)
        for place in range(LATENTS):
            own = Actions(window.actions[:, place], embodiment="latent", mid_clip=True)
            told = own if window.has_actions[place] else None
            if place and place <= sink + span:  # beyond, a stream's sink moves along, a mask's stays
                noisy = at_level(window.latents, plan.noise, plan.times)[:, :, place : place + 1]
                alone = model(noisy, plan.times[:, place : place + 1], actions=told, cache=cache)
                torch.testing.assert_close(together[:, :, place - 1 : place], alone, atol=1e-5, rtol=1e-5)
            clean, level = window.latents[:, :, place : place + 1], torch.zeros(2, 1)
            model(clean, level, actions=told, conditioned=level + 1, cache=cache, append=True)


def test_a_joint_step_keeps_what_is_given():
    window = window_of(batch(2), mid_clip=False)
    plan = plan_of(
        window.latents, causal=False, given=torch.tensor([[True, True, False, False], [True, False, False, False]])
    )
    step = joint_pass(window, plan)
    noisy = at_level(window.latents, plan.noise, plan.times)
    assert step.visible is None and torch.equal(step.conditioned, plan.given)
    for sample in range(2):
        for place in range(LATENTS):
            expected = window.latents if plan.given[sample, place] else noisy
            assert torch.equal(step.latents[sample, :, place], expected[sample, :, place])
            assert (step.times[sample, place] == 0) == plan.given[sample, place]


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
        self,
        latents: Tensor,
        times: Tensor,
        *,
        actions: Actions,
        conditioned: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        forecast: Tensor | None,
    ) -> Tensor:
        told = actions.values.unflatten(1, (-1, 4))[0, 1, 0, 0].item()  # of the second frame: 4 n - 4 for latent n
        first = told / 4 + 1 - positions[1].item()
        clean = (first + positions.float())[:, None, None]
        t = times[:, None, :, None, None].clamp_min(1e-6)
        return (latents - clean) / t  # x_t = x_0 + t v


def test_an_oracle_has_no_loss_and_a_slip_by_one_has():
    config = VideoLossConfig(context_noise=0.0, shift=5.0, hold_share=0.0)
    exact = batch()
    clean = LatentBatch(exact.latents.round(), exact.actions, exact.names)
    for slip, good in ((0, True), (1, False)):
        shifted_latents = LatentBatch(clean.latents.roll(slip, dims=2), clean.actions, clean.names)
        for seed in range(8):
            torch.manual_seed(seed)
            total, _ = loss(Oracle(), shifted_latents, config, embodiment="latent", patch=2)
            assert total.item() < 1e-6 if good else total.item() > 0.5


def test_the_loss_trains_every_part_of_the_network():
    model = small(embodiments={"latent": VALUES}).train()
    for seed in range(4):
        torch.manual_seed(seed)
        total, metrics = loss(model, batch(), VideoLossConfig(), embodiment="latent", patch=2)
        total.backward()
        assert set(metrics) == {"flow", "change"}
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


class Listener(Oracle):
    """Knows, too, that the forecast of latent n is 10 + n."""

    def forward(self, latents: Tensor, times: Tensor, *, forecast: Tensor | None, **told: Any) -> Tensor:
        flow = super().forward(latents, times, forecast=forecast, **told)
        clean = latents - times[:, None, :, None, None].clamp_min(1e-6) * flow
        assert forecast is not None
        torch.testing.assert_close(forecast, 10 + clean, atol=0.1, rtol=0)
        return flow


@pytest.mark.parametrize("causal", [0.0, 1.0])
@pytest.mark.parametrize("mid_clip", [0.0, 1.0])
def test_each_latent_is_shown_its_own_forecast(causal: float, mid_clip: float):
    config = VideoLossConfig(context_noise=0.0, hold_share=0.0, causal_share=causal, mid_clip_share=mid_clip)
    given = batch()
    told = replace(given, forecasts=10 + given.latents)
    torch.manual_seed(0)
    loss(Listener(), told, config, embodiment="latent", patch=2)
    slipped = replace(given, forecasts=(10 + given.latents).roll(1, dims=2))
    with pytest.raises(AssertionError):
        loss(Listener(), slipped, config, embodiment="latent", patch=2)
