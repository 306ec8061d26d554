"""The latent action VAE: what holds by construction, before and after any training."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.camera import CAMERA_DIM, camera_of, homography, move
from common.exposure import expose
from common.flow import local_flow, warp
from lam.interface import Posterior
from lam.model import LatentActionModel, Stabilised, low_frequencies
from lam.presets import FLOW_CELLS, LamModelConfig
from tests.drawn_scene import Scene, centres

SMALL = LamModelConfig(
    height=48, width=64, patch=8, channels=32, heads=2, encoder_blocks=2, decoder_blocks=2, latent_dim=5
)
SIZE = (SMALL.height, SMALL.width)


def new_model(config: LamModelConfig = SMALL) -> LatentActionModel:
    torch.manual_seed(0)
    return LatentActionModel(config)


def small_model(config: LamModelConfig = SMALL) -> LatentActionModel:
    model = new_model(config)
    with torch.no_grad():
        for parameter in model.parameters():  # no weight keeps a value that hides its use, such as 0 or 1
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def hand_pairs(camera: Tensor, *, shift: tuple[float, float] = (2.5, -1.5), size: tuple[int, int] = SIZE) -> Tensor:
    """(B, 2, 3, H, W): the camera moves by `camera` (B, 8) over a background, and a patch by `shift` pixels of 64."""
    half, places = torch.tensor([0.5, 0.45]), centres(size)
    pairs = []
    for seed, motion in enumerate(camera):
        background, hand = Scene(seed), Scene(seed + 50)
        frames = []
        # The patch's place in the picture does not follow the camera: a hand belongs to no background.
        for seen_from, offset in ((None, torch.tensor(shift) / 32), (homography(motion[None])[0], torch.zeros(2))):
            covered = ((places - offset).abs() < half).all(-1)
            patch = hand.at(places - offset).permute(2, 0, 1)[None].float()
            frames.append(torch.where(covered, patch, background.frame(size, seen_from)))
        pairs.append(torch.stack(frames, dim=1))
    return torch.cat(pairs)


def still(pairs: int = 3) -> Tensor:
    return torch.zeros(pairs, 8)


def moving(pairs: int = 3) -> Tensor:
    return torch.randn(pairs, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.2] * 2 + [0.2] * 6)


# The code --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_equal_frames_give_a_code_of_zeros_with_any_weights():
    frame = torch.cat([Scene(seed).frame(SIZE) for seed in range(3)])
    posterior = small_model().encode(torch.stack((frame, frame), dim=1))
    assert posterior.mean.abs().max() < 1e-4
    assert posterior.camera.abs().max() < 1e-4
    moved = small_model().encode(hand_pairs(still()))
    assert moved.mean.abs().max() > 0.3


@torch.no_grad()
def test_the_code_is_the_action_then_the_camera():
    model, frames = small_model(), hand_pairs(moving())
    posterior = model.encode(frames)
    assert (posterior.mean.shape, posterior.log_variance.shape, posterior.camera.shape) == ((3, 5), (3, 5), (3, 10))
    assert torch.equal(posterior.code[:, :5], posterior.mean)
    assert torch.equal(posterior.code[:, 5:], posterior.camera)
    assert {part.dtype for part in vars(posterior).values()} == {torch.float32}
    # What is known of the camera stands in the last 10, its motion first.
    torch.testing.assert_close(posterior.code[:, 5:7], moving()[:, :2], atol=0.2, rtol=0)


@torch.no_grad()
def test_exchanging_what_the_encoder_sees_changes_the_sign_of_the_action_and_not_its_spread():
    model, frames = small_model(), hand_pairs(moving())
    pair, second = model.stabilise(frames), frames[:, 1]
    forth = model._posterior(pair, second)
    back = model._posterior(Stabilised(pair.camera, second, pair.seen, -pair.flow), pair.first)
    assert forth.mean.abs().max() > 0.3
    torch.testing.assert_close(back.mean, -forth.mean, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(back.log_variance, forth.log_variance, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_places_that_the_first_frame_did_not_show_do_not_tell_the_encoder_anything():
    model, frames = small_model(), hand_pairs(still())
    pair, second = model.stabilise(frames), frames[:, 1]
    pair.seen[..., 40:] = 0
    before = model._posterior(pair, second).mean
    for frame in (pair.first, second):  # textures look 4 pixels around
        frame[..., 44:] = torch.rand(3, 3, 48, 20)
        torch.testing.assert_close(model._posterior(pair, second).mean, before, atol=1e-5, rtol=0)
    second[..., 20:30] = 0.0
    assert (model._posterior(pair, second).mean - before).abs().max() > 1e-2


@torch.no_grad()
def test_the_flow_of_a_pair_is_that_of_the_hand_after_the_camera():
    """Where the second frame shows the hand, it was `shift` away in the first; the background stands still."""
    model = new_model()
    for camera in (still(), moving()):
        pair = model.stabilise(hand_pairs(camera))
        assert pair.flow.shape == (3, 2, *SMALL.flow_grid)
        assert pair.flow[~F.interpolate(pair.seen, size=SMALL.flow_grid).bool().expand_as(pair.flow)].abs().sum() == 0
        hand = (centres(SMALL.flow_grid).abs() < torch.tensor([0.3, 0.25])).all(-1)
        away = (centres(SMALL.flow_grid).abs() > torch.tensor([0.8, 0.75])).any(-1)
        for row, motion in enumerate(camera):
            # The hand of the first frame, at p + shift, is moved to where the camera takes it: H q = p + shift.
            x, y = (torch.linalg.inv(homography(motion[None])[0]) @ torch.tensor([2.5 / 32, -1.5 / 32, 1.0]))[:2] * 32
            found = pair.flow[row][:, hand].mean(1)
            torch.testing.assert_close(found, torch.stack((x, y)), atol=0.8, rtol=0)
            assert pair.flow[row][:, away].abs().mean() < 0.35


@torch.no_grad()
def test_the_camera_alone_makes_a_small_action():
    """Against a moving hand, and against what the camera would make if it was not taken out; with any weights."""
    camera = moving()
    first = torch.cat([Scene(seed).frame(SIZE) for seed in range(3)])
    second = torch.cat([Scene(seed).frame(SIZE, homography(camera[seed : seed + 1])[0]) for seed in range(3)])
    left_in = Stabilised(still(), first, torch.ones(3, 1, *SIZE), local_flow(first, second, SMALL.flow_grid))
    for model in (new_model(), small_model()):
        action = model.encode(torch.stack((first, second), dim=1)).mean.norm(dim=-1).mean()
        assert action < 0.4 * model.encode(hand_pairs(still())).mean.norm(dim=-1).mean()
        assert action < 0.4 * model._posterior(left_in, second).mean.norm(dim=-1).mean()


@torch.no_grad()
def test_moving_the_second_frame_moves_the_camera_by_as_much_and_the_action_little():
    # Half as large as a hand: what was in the first frame is not resampled twice.
    model, camera = new_model(), still()
    frames = hand_pairs(camera)
    extra = torch.tensor([[1.2, -0.8, 0.4, 0.3, 0.1, 0.1, 0.0, 0.0]]).repeat(3, 1)
    further = torch.stack((frames[:, 0], move(frames[:, 1], extra)[0]), dim=1)
    before, after = model.encode(frames), model.encode(further)
    expected = camera_of(homography(before.camera[:, :CAMERA_DIM]) @ homography(extra))
    torch.testing.assert_close(after.camera[:, :CAMERA_DIM], expected, atol=0.15, rtol=0)
    change = (after.mean - before.mean).norm(dim=-1)
    assert change.mean() < 0.35 * before.mean.norm(dim=-1).mean()


def test_samples_spread_in_the_action_only():
    torch.manual_seed(0)
    rows = 4000
    posterior = Posterior(
        mean=torch.tensor([[1.0, -2.0]]).repeat(rows, 1),
        log_variance=torch.tensor([[0.0, -2.0]]).repeat(rows, 1),
        camera=torch.randn(rows, 10),
    )
    code = posterior.sample()
    assert torch.equal(code[:, 2:], posterior.camera)
    noise = code[:, :2] - posterior.mean
    torch.testing.assert_close(noise.std(0), (0.5 * posterior.log_variance[0]).exp(), atol=0.05, rtol=0)
    assert noise.mean(0).abs().max() < 0.07
    assert (noise[:, 0] * noise[:, 1]).mean().abs() < 0.03  # each dimension has its own


# The decoder -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_before_training_a_code_moves_the_camera_changes_its_exposure_and_nothing_else():
    model, first = new_model(), hand_pairs(still())[:, 0]
    assert (model.decode(first, torch.zeros(3, 15)) - first).abs().max() < 1e-4
    camera, exposure = moving(), torch.tensor([[2.0, 0.0], [0.0, -3.0], [-1.0, 1.0]])
    moved, _ = move(first, camera)
    assert (moved - first).abs().mean() > 0.05
    assert (expose(moved, exposure) - moved).abs().mean() > 0.03
    for action in (torch.zeros(3, 5), torch.randn(3, 5)):
        shown = model.decode(first, torch.cat((action, camera, exposure), dim=-1))
        torch.testing.assert_close(shown, expose(moved, exposure), atol=1e-4, rtol=0)


@torch.no_grad()
def test_light_is_told_by_the_exposure_and_by_nothing_else():
    model, frames = small_model(), hand_pairs(moving())
    light = torch.tensor([[2.0, 1.0], [-2.0, 0.5], [1.0, -2.0]])
    lit = torch.stack((frames[:, 0], expose(frames[:, 1], light)), dim=1)
    before, after = model.encode(frames), model.encode(lit)
    torch.testing.assert_close((after.camera - before.camera)[:, CAMERA_DIM:], light, atol=0.35, rtol=0)
    assert (after.camera - before.camera)[:, :CAMERA_DIM].abs().max() < 0.1
    assert (after.mean - before.mean).norm(dim=-1).mean() < 0.15 * before.mean.norm(dim=-1).mean()


@torch.no_grad()
def test_the_decoder_sees_the_second_frame_only_through_the_code():
    model, frames = small_model(), hand_pairs(moving())
    for sample in (False, True):
        output = model(frames, sample=sample)
        torch.testing.assert_close(output.prediction, model.decode(frames[:, 0], output.code), atol=1e-4, rtol=0)
        assert torch.equal(output.code[:, 5:], output.posterior.camera)
        assert torch.equal(output.code, output.posterior.code) is not sample
    # And it does look at the action.
    other = torch.cat((output.code[:, :5] + 1, output.code[:, 5:]), dim=-1)
    assert (model.decode(frames[:, 0], other) - output.prediction).abs().max() > 1e-2


@torch.no_grad()
def test_the_flow_layer_gives_x_and_y_of_a_patch_row_by_row_and_times_four():
    model, frames = new_model(), hand_pairs(still())
    bias = model.decoder.flow.bias.view(FLOW_CELLS, FLOW_CELLS, 2)
    bias[1, 3, 0], bias[2, 0, 1] = 0.25, -0.5
    flow = model(frames, sample=False).flow
    assert flow.shape == (3, 2, 24, 32)
    expected = torch.zeros(2, 24, 32)
    expected[0, 1::4, 3::4], expected[1, 2::4, 0::4] = 4 * 0.25, 4 * -0.5
    torch.testing.assert_close(flow, expected.expand(3, -1, -1, -1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_motion_is_flow_in_pixels_of_64_then_change_in_unit_range():
    model, first = new_model(), torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixel = 64 / SMALL.height
    flow = model.decoder.flow.bias.view(-1, 2)
    flow[:, 0], flow[:, 1] = 3 * pixel / 4, -1 * pixel / 4  # look 3 pixels to the right and one up
    moved = model.decode(first, torch.zeros(2, 15))
    torch.testing.assert_close(moved[..., 1:, :-3], first[..., :-1, 3:], atol=1e-4, rtol=0)
    flow[:] = 0
    change = model.decoder.change.bias.view(SMALL.patch, SMALL.patch, 3)
    change[2, 5, 1] = 0.25  # half of the range from -1 to 1 is 1: green, third row, sixth column of each patch
    added = model.decode(first, torch.zeros(2, 15)) - first
    expected = torch.zeros(3, *SIZE)
    expected[1, 2::8, 5::8] = 0.5
    torch.testing.assert_close(added, expected.expand(2, -1, -1, -1), atol=1e-4, rtol=0)


def told(*steps: list[float], pairs: int = 3) -> Tensor:
    """(pairs, T, 15): the camera moves by these first numbers of z_cam, step by step; nothing is done."""
    codes = torch.zeros(pairs, len(steps), 15)
    for number, step in enumerate(steps):
        codes[:, number, 5 : 5 + len(step)] = torch.tensor(step)
    return codes


def forecast(model: LatentActionModel, first: Tensor, codes: Tensor) -> Tensor:
    return model.forecast(model.carry(first), codes)[0]


@torch.no_grad()
def test_a_forecast_without_an_action_is_the_first_frame_moved_once():
    """By all the camera's steps together, so it is as sharp after many as after one; with any weights."""
    model, first = small_model(), hand_pairs(still())[:, 0].clamp(-1, 1)
    steps = [[1.2, -0.5, 0.3], [0.7, 0.4, -0.2, 0.3], [-0.6, 0.9, 0.5]]
    made = forecast(model, first, told(*steps))
    whole = torch.eye(3)[None]
    for number, code in enumerate(told(*steps)[:1, :, 5:13].unbind(1)):
        whole = whole @ homography(code)
        expected, seen = move(first, camera_of(whole).expand(3, -1))
        inside = F.avg_pool2d(seen.float(), 5, stride=1, padding=2).expand_as(expected) == 1
        torch.testing.assert_close(made[:, number][inside], expected[inside], atol=0.02, rtol=0)
    torch.testing.assert_close(forecast(model, first, told([0.0], [0.0]))[:, 1], first, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_forecast_takes_what_no_action_says_from_what_an_action_says():
    model, first = small_model(), hand_pairs(still())[:, 0] / 4
    code = torch.cat((torch.randn(3, 5), torch.zeros(3, 10)), dim=-1)
    (flow, change, _), (no_flow, no_change, _) = (model.decoder(first, a) for a in (code[:, :5], torch.zeros(3, 5)))
    expected = warp(first, flow - no_flow) + 2 * (change - no_change)
    torch.testing.assert_close(forecast(model, first, code[:, None])[:, 0], expected.clamp(-1, 1), atol=1e-4, rtol=0)
    # And each step sees the frame that the one before made.
    again = forecast(model, first, code[:, None].repeat(1, 2, 1))
    nearly = forecast(model, again[:, 0], code[:, None])[:, 0]
    assert (again[:, 1] - nearly).abs().mean() < 0.2 * (again[:, 1] - again[:, 0]).abs().mean()


@torch.no_grad()
def test_a_forecasts_motions_are_as_large_as_what_training_saw():
    model, first = small_model(), hand_pairs(still())[:, 0] / 4
    for values in (model.decoder.change.weight, model.decoder.change.bias):
        values.zero_()
    code = torch.cat((torch.randn(3, 5), torch.zeros(3, 10)), dim=-1)
    flow = model.decoder(first, code[:, :5])[0] - model.decoder(first, torch.zeros(3, 5))[0]
    for squares, gain in (((1.0, 2.25), 1.5), ((4.0, 1.0), 1.0), ((1e-6, 1.0), 2.0)):
        model.flow_squares.copy_(torch.tensor(squares))
        made = forecast(model, first, code[:, None])[:, 0]
        torch.testing.assert_close(made, warp(first, gain * flow).clamp(-1, 1), atol=1e-4, rtol=0)


def test_training_measures_how_large_motions_are_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lam.model.SQUARES_MOMENTUM", 0.1)
    model, frames = small_model().eval(), hand_pairs(moving())
    with torch.no_grad():
        model(frames, sample=False)
        assert model.flow_squares.tolist() == [1, 1]
        model.train()
        for _ in range(50):
            output = model(frames, sample=False)
    expected = torch.stack((output.flow.square().mean(), output.stabilised.flow.square().mean()))
    torch.testing.assert_close(model.flow_squares, expected, rtol=0.05, atol=0.05)
    model(torch.full_like(frames, torch.nan), sample=False)
    assert model.flow_squares.isfinite().all()


@torch.no_grad()
def test_light_adds_up_in_a_forecast():
    model, first = new_model(), hand_pairs(still())[:, 0] / 4
    codes = told([0.0], [0.0], [0.0])
    codes[..., 13:] = torch.tensor([[1.0, 0.5], [-2.0, 1.0], [0.5, -2.0]])
    expected, made = first, forecast(model, first, codes)
    for number in range(3):
        expected = expose(expected, codes[:, number, 13:])
        torch.testing.assert_close(made[:, number], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_larger_picture_stays_sharp_in_a_forecast():
    model, size = small_model(), (96, 128)
    first = torch.cat([Scene(seed).frame(size) for seed in range(3)]).clamp(-1, 1)
    made = forecast(model, first, told([0.9, -0.4, 0.2]))[:, 0]
    expected, seen = move(first, told([0.9, -0.4, 0.2])[:, 0, 5:13])
    inside = F.avg_pool2d(seen.float(), 9, stride=1, padding=4).expand_as(expected) == 1
    torch.testing.assert_close(made[inside], expected[inside], atol=0.02, rtol=0)


@torch.no_grad()
def test_a_forecast_goes_on_where_it_stopped():
    model, first = small_model(), hand_pairs(still())[:, 0] / 4
    codes = torch.randn(3, 5, 15) * 0.3
    early, carried = model.forecast(model.carry(first), codes[:, :2])
    late, _ = model.forecast(carried, codes[:, 2:])
    torch.testing.assert_close(torch.cat((early, late), dim=1), forecast(model, first, codes))


# Running it ------------------------------------------------------------------------------------------------------


def gradients(model: LatentActionModel, frames: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    output = model(frames, sample=True)
    error = (output.prediction - frames[:, 1]).square().mean() + (output.flow - output.stabilised.flow).square().mean()
    for extra in (output.feature_change, output.labels):
        error = error + (0 if extra is None else extra.square().mean())
    error.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_every_parameter_gets_a_gradient():
    config = LamModelConfig(**{**vars(SMALL), "label_dim": 3, "feature_channels": 7})
    model = small_model(config)
    found = gradients(model, hand_pairs(moving()))
    assert [name for name, _ in model.named_parameters() if name not in found or not found[name].any()] == []


def test_labels_and_features_are_read_from_the_mean_and_the_patches():
    model = small_model(LamModelConfig(**{**vars(SMALL), "label_dim": 3, "feature_channels": 7}))
    output = model(hand_pairs(still()), sample=True)
    assert model.label_head is not None
    torch.testing.assert_close(output.labels, model.label_head(output.posterior.mean))
    assert output.feature_change is not None
    assert output.feature_change.shape == (3, SMALL.tokens, 7)
    without = small_model()(hand_pairs(still()), sample=True)
    assert without.labels is None
    assert without.feature_change is None


def test_gradient_checkpointing_changes_no_gradient():
    model, frames = small_model(), hand_pairs(moving())
    plain = {name: value.clone() for name, value in gradients(model, frames).items()}
    model.enable_gradient_checkpointing()
    checkpointed = gradients(model, frames)
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name])


def test_half_precision_stays_near_and_trains():
    model, frames = small_model(), hand_pairs(moving())
    exact = model(frames, sample=False)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(frames, sample=False)
        decoded = model.decode(frames[:, 0], output.code)
    for part in (output.prediction, output.flow, output.posterior.mean, output.posterior.log_variance, decoded):
        assert part.dtype == torch.float32
    assert torch.equal(output.posterior.camera, exact.posterior.camera)
    assert torch.equal(output.stabilised.first, exact.stabilised.first)
    assert (output.posterior.mean - exact.posterior.mean).abs().max() < 0.1 * exact.posterior.mean.abs().max()
    assert (output.prediction - exact.prediction).abs().mean() < 0.05
    assert (decoded - output.prediction).abs().mean() < 0.02
    output.prediction.square().mean().backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


@torch.no_grad()
def test_half_precision_leaves_an_untrained_models_pictures_sharp():
    model, first, camera = new_model(), hand_pairs(still())[:, 0], moving()
    code = torch.cat((torch.zeros(3, 5), camera, torch.zeros(3, 2)), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        shown = model.decode(first, code)
    torch.testing.assert_close(shown, move(first, camera)[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize(("height", "width", "patch"), [(24, 40, 8), (40, 24, 8), (32, 32, 16), (72, 48, 4)])
def test_other_sizes_run(height: int, width: int, patch: int):
    config = LamModelConfig(**{**vars(SMALL), "height": height, "width": width, "patch": patch})
    model = small_model(config)
    output = model(hand_pairs(still(2), size=(height, width)), sample=True)
    assert output.prediction.shape == (2, 3, height, width)
    assert output.flow.shape == output.stabilised.flow.shape == (2, 2, *config.flow_grid)
    assert output.prediction.isfinite().all()
    assert model.decode(torch.zeros(2, 3, height, width), output.code).shape == (2, 3, height, width)


@torch.no_grad()
def test_a_pair_alone_is_encoded_as_it_is_among_others():
    model, frames = small_model(), hand_pairs(moving())
    together = model.encode(frames)
    for row in range(3):
        alone = model.encode(frames[row : row + 1])
        torch.testing.assert_close(together.code[row], alone.code[0], atol=2e-3, rtol=0)
        torch.testing.assert_close(together.log_variance[row], alone.log_variance[0], atol=2e-3, rtol=0)


@torch.no_grad()
def test_encoding_leaves_the_model_as_it_was():
    model, frames = small_model(), hand_pairs(moving())
    before = copy.deepcopy(model.state_dict())
    first, second = model.encode(frames), model.encode(frames)
    assert torch.equal(first.code, second.code)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_frames_of_another_size_are_refused():
    model = new_model()
    with pytest.raises(ValueError, match=r"expected frames of shape \(B, 2, 3, 48, 64\), got \(1, 2, 3, 64, 48\)"):
        model.encode(torch.zeros(1, 2, 3, 64, 48))
    with pytest.raises(ValueError, match=r"expected frames of shape \(B, 3, 48, 64\)"):
        model.decode(torch.zeros(1, 3, 48, 48), torch.zeros(1, 15))


def test_half_of_the_action_is_the_slow_waves_of_motion():
    rows = low_frequencies(200)
    assert rows.shape == (128, 128)
    assert torch.allclose(rows @ rows.T, torch.eye(128), atol=1e-5)
    right = torch.stack((torch.ones(8, 8), torch.zeros(8, 8))).flatten()
    assert torch.allclose(rows[:4] @ right, torch.tensor([8.0, 0, 0, 0]), atol=1e-5), "0: all to the right"
    down = right.roll(64)
    assert torch.allclose(rows[:4] @ down, torch.tensor([0, 8.0, 0, 0]), atol=1e-5), "1: all down"


def test_the_action_starts_with_the_mean_motion():
    """Everything moves two pixels to the right between the frames, and the camera is told to have stood still."""
    model = small_model()
    frames = torch.rand(1, 2, 3, *SIZE) * 2 - 1
    flow = torch.zeros(1, 2, *SMALL.flow_grid)
    flow[:, 0] = -2.0  # seen from the second frame, it came from the left
    pair = Stabilised(torch.zeros(1, 8), frames[:, 0], torch.ones(1, 1, *SIZE), flow)
    mean = model._posterior(pair, frames[:, 1]).mean[0]
    assert len(mean) == 5, "two of them slow waves"
    assert torch.allclose(mean[:2], torch.tensor([-2.0 * 8 / 4, 0]).asinh(), atol=1e-4)
    assert mean[2:].abs().min() > 0
