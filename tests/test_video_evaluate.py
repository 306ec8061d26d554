"""The measures of a video model on models with known answers: each number moves the right way."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import BadData
from common.intervals import Interval
from tests.simulated_hand import Simulator, floats, make_windows
from video_model.evaluate import Film, measure
from video_model.films import Rollout, VideoSubject, given_actions
from video_model.scorers import Scorers
from video_model.video_card import VideoCard

CLIPS, STEPS = 4, 6
NO_SCORERS = Scorers()
WINDOWS = make_windows(CLIPS, STEPS)
LONG = make_windows(CLIPS, 4 * STEPS)
perfect = Simulator(CLIPS)


def card_of(rollout: Rollout, *, long: bool = False, batch_size: int = 3, **options) -> VideoCard:
    return both(rollout, long=long, batch_size=batch_size, **options)[0]


def both(
    rollout: Rollout,
    *,
    long: bool = False,
    batch_size: int = 3,
    scorers: Scorers = NO_SCORERS,
    **options,
) -> tuple[VideoCard, tuple[Film, ...]]:
    subject = VideoSubject("toy", rollout, lambda films: films, latent_dim=2)
    long_windows = LONG if long else []
    return measure(subject, WINDOWS, long_windows, data="toy", scorers=scorers, batch_size=batch_size, **options)


def ignoring(first: Tensor, actions: Tensor, seed: int) -> Tensor:
    """Plays the truth, whatever it is told."""
    known = torch.stack([floats(window.frames) for window in WINDOWS])
    rows = [int((known[:, 0] - frame).square().flatten(1).mean(1).argmin()) for frame in first]
    return known[rows]


def mirrored(first: Tensor, actions: Tensor, seed: int) -> Tensor:
    """Moves the hand the other way."""
    return perfect(first, actions * torch.tensor([-1.0, -1, 1, 1]), seed)


def frozen(first: Tensor, actions: Tensor, seed: int) -> Tensor:
    return first[:, None].repeat(1, actions.shape[1] + 1, 1, 1, 1)


def late(first: Tensor, actions: Tensor, seed: int) -> Tensor:
    """One frame behind."""
    films = perfect(first, actions, seed)
    return torch.cat((films[:, :1], films[:, :-1]), dim=1)


def noisy(amount: Callable[[int], Tensor], *, same: bool = False) -> Rollout:
    """The perfect model and noise (T,) of its own for each sample, as the contract draws seeds."""

    def rollout(first: Tensor, actions: Tensor, seed: int) -> Tensor:
        films = perfect(first, actions, seed)
        for row, film in enumerate(films):
            random = torch.Generator().manual_seed(0 if same else seed + row)
            film += amount(len(film))[:, None, None, None] * torch.randn(film.shape, generator=random)
        return films

    return rollout


@pytest.fixture(scope="module")
def right() -> tuple[VideoCard, tuple[Film, ...]]:
    return both(perfect, long=True)


def value(found: Interval | None) -> float:
    assert found is not None
    return found.value


def drift_of(card: VideoCard) -> dict[str, float]:
    assert card.drift is not None
    return {name: slope.value for name, slope in card.drift.slopes.items()}


def gate(card: VideoCard, name: str) -> bool | None:
    return next(gate.passed for gate in card.gates if name in gate.name)


def test_the_forecast_is_measured_beside_the_model() -> None:
    def forecast(first: Tensor, actions: Tensor) -> Tensor:
        return perfect(first, actions, 0)[:, 1:]

    subject = VideoSubject("toy", frozen, lambda films: films, latent_dim=2, forecast=forecast)
    card, films = measure(subject, WINDOWS, [], data="toy", scorers=NO_SCORERS)
    assert value(card.foreground.rows["forecast"].cosine) > 0.95
    assert card.fidelity["forecast"].psnr.mean.value > card.fidelity["own"].psnr.mean.value + 3
    assert np.array_equal(films[0].frames["forecast"], films[0].frames["truth"])


def test_a_perfect_model_scores_as_it_should(right: tuple[VideoCard, tuple[Film, ...]]) -> None:
    card, _ = right
    quality = {name: (found.psnr.mean.value, found.ssim.mean.value) for name, found in card.fidelity.items()}
    assert quality["own"] == quality["tokenizer"] == (60, 1)
    assert all(psnr < 30 and ssim < 0.95 for name, (psnr, ssim) in quality.items() if name not in ("own", "tokenizer"))
    assert len(card.fidelity["own"].psnr.frames) == STEPS
    assert [gate.passed for gate in card.gates] == [True] * 4
    rows = card.foreground.rows
    assert value(rows["own"].cosine) == pytest.approx(1) and value(rows["own"].size) == pytest.approx(1)
    assert value(rows["opposite"].cosine) < -0.9 and value(rows["opposite"].size) == pytest.approx(1, abs=0.15)
    assert value(rows["zero"].size) == 0 and value(card.zero_motion) == 0
    assert abs(value(rows["shuffled"].cosine)) < 0.9
    assert card.diversity is None, "nothing is wrong"
    assert card.missing.keys() == {"hand"} and card.drift and card.drift.windows == CLIPS
    assert list(drift_of(card).values()) == pytest.approx([0] * 4)


def test_z_cam_alone_moves_the_picture_and_not_the_hand(right: tuple[VideoCard, tuple[Film, ...]]) -> None:
    camera, foreground = right[0].camera.rows, right[0].foreground.rows["camera alone"]
    assert value(camera["camera alone"].cosine) > 0.97 and value(camera["camera alone"].size) == pytest.approx(
        1, abs=0.1
    )
    assert value(foreground.size) < 0.15
    assert value(camera["opposite"].cosine) > 0.97, "opposite actions keep the camera"
    assert value(camera["zero"].size) == 0


def test_the_films_show_what_was_made(right: tuple[VideoCard, tuple[Film, ...]]) -> None:
    films = right[1]
    assert [film.clip for film in films] == [window.clip for window in WINDOWS]
    for film, window in zip(films, WINDOWS, strict=True):
        assert list(film.frames) == ["truth", "own", "opposite", "zero", "shuffled", "camera alone"]
        np.testing.assert_array_equal(film.frames["own"], window.frames)
        assert (film.frames["zero"] == window.frames[:1]).all()


def test_who_ignores_actions_is_caught() -> None:
    card = card_of(ignoring)
    assert card.fidelity["own"] == card.fidelity["shuffled"]
    assert gate(card, "copying") and gate(card, "another clip's") is False
    assert value(card.zero_motion) == 1 and gate(card, "zero actions") is False
    assert value(card.foreground.rows["opposite"].cosine) == pytest.approx(1) and gate(card, "opposite") is False


def test_who_does_the_opposite_is_caught() -> None:
    rows = card_of(mirrored).foreground.rows
    assert value(rows["own"].cosine) < -0.9 and value(rows["opposite"].cosine) > 0.99


def test_who_stands_still_is_caught() -> None:
    card = card_of(frozen)
    assert card.fidelity["own"].psnr == card.fidelity["copy"].psnr
    assert value(card.foreground.rows["own"].size) == 0 and value(card.foreground.rows["own"].cosine) == 0
    assert card.zero_motion is None and gate(card, "zero actions") is None
    assert gate(card, "another clip's") is False


def test_a_frame_too_late_shows(right: tuple[VideoCard, tuple[Film, ...]]) -> None:
    own = card_of(late).fidelity["own"].psnr
    assert max(frame.value for frame in own.frames) < 30
    assert own.frames[0] == right[0].fidelity["copy"].psnr.frames[0], "frame 1 shows frame 0"


def test_windows_that_do_not_move_are_left_out_and_counted() -> None:
    still = [replace(window, frames=window.frames[:1].repeat(STEPS + 1, 0)) for window in WINDOWS[:1]]
    subject = VideoSubject("toy", ignoring, lambda films: films, latent_dim=2)
    card, _ = measure(subject, still + WINDOWS[1:], [], data="toy", scorers=NO_SCORERS)
    assert (card.foreground.windows, card.foreground.still, card.camera.still) == (CLIPS, 1, 1)
    assert value(card.foreground.rows["own"].cosine) == pytest.approx(1), "the others play the truth"


def growing(count: int) -> Tensor:
    return torch.arange(count) / count * 0.3


def test_drift_of_noise_blur_and_colour() -> None:
    def blurred(first: Tensor, actions: Tensor, seed: int) -> Tensor:
        films = perfect(first, actions, seed)
        for t in range(films.shape[1]):
            share = t / films.shape[1]
            films[:, t] = films[:, t].lerp(F.avg_pool2d(films[:, t], 5, 1, 2, count_include_pad=False), share)
        return films

    def redder(first: Tensor, actions: Tensor, seed: int) -> Tensor:
        films = perfect(first, actions, seed)
        films[:, :, 0] += 2 * 0.1 * torch.arange(films.shape[1])[:, None, None] / 10  # 0.1 of white per second
        return films

    noise, blur, red = (drift_of(card_of(model, long=True)) for model in (noisy(growing), blurred, redder))
    assert noise["psnr"] < -1 and noise["sharpness"] > 1
    assert blur["sharpness"] < -0.5 and blur["psnr"] < -1 and blur["colour mean"] < 0.01
    assert red["colour mean"] == pytest.approx(0.1 / 3) and red["sharpness"] == pytest.approx(0, abs=1e-5)


def test_diversity_is_the_spread_over_the_error() -> None:
    flat = torch.full((STEPS + 1,), 0.2)
    assert value(card_of(noisy(lambda count: flat)).diversity) == pytest.approx(1, abs=0.01)
    assert value(card_of(noisy(lambda count: flat, same=True)).diversity) == pytest.approx(0, abs=1e-6)


def test_the_batch_size_does_not_matter_and_the_seed_does() -> None:
    model = noisy(lambda count: torch.full((count,), 0.1))
    one, all_at_once, other = (
        card_of(model, batch_size=size, seed=seed, films=0) for size, seed in ((1, 0), (4, 0), (4, 1))
    )
    numbers = [np.array(leaves(json.loads(card.to_json()))) for card in (one, all_at_once)]
    np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-4)
    assert other.fidelity["own"].psnr.mean.value != all_at_once.fidelity["own"].psnr.mean.value


def leaves(value: object) -> list[float]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [float(value)] if isinstance(value, (int, float)) else [x for part in parts or () for x in leaves(part)]


def yellow(films: Tensor) -> Tensor:
    """Where the hand is, by its colour."""
    weight = (films[:, :, 0] - films[:, :, 2] > 1).float()  # (B, T, H, W)
    centres = (2 * torch.arange(films.shape[-1]) + 1) / films.shape[-1] - 1
    x, y = (weight.sum(axis) @ centres / weight.sum((-2, -1)) for axis in (-2, -1))
    return torch.stack((x, y), dim=-1)


def test_the_hand_is_followed() -> None:
    hand = card_of(perfect, find_hand=yellow).hand
    assert hand is not None
    assert min(hand.probe_r2) > 0.99
    rows = hand.followed.rows
    assert rows["truth"] == rows["own"] and value(rows["own"].cosine) > 0.98
    assert value(rows["own"].size) == pytest.approx(1, abs=0.1)
    assert value(rows["opposite"].cosine) < -0.9 and value(rows["zero"].size) == 0
    assert value(rows["camera alone"].size) < 0.15, "the camera's part is taken out"


def test_a_probe_that_sees_nothing_says_so() -> None:
    hand = card_of(perfect, find_hand=lambda films: torch.zeros(*films.shape[:2], 2)).hand
    assert hand is not None and max(hand.probe_r2) <= 0


def test_named_scorers_are_asked() -> None:
    scorers = Scorers(
        lpips=lambda one, two: (one - two).abs().mean((1, 2, 3)),
        fvd=lambda films, **options: films.mean((3, 4)).flatten(1),
    )
    card = card_of(perfect, long=True, scorers=scorers)
    own, copy = card.fidelity["own"], card.fidelity["copy"]
    assert own.lpips and copy.lpips and own.lpips.mean.value == 0 < copy.lpips.mean.value
    assert own.fvd is not None and copy.fvd is not None and own.fvd == pytest.approx(0, abs=1e-9) and copy.fvd > 1e-4
    assert drift_of(card)["lpips"] == 0


def test_actions_told() -> None:
    own, other = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    told = given_actions(own, other, latent_dim=3)
    assert torch.equal(told["opposite"][..., :3], -own[..., :3]) and torch.equal(
        told["opposite"][..., 3:], own[..., 3:]
    )
    assert not told["camera alone"][..., :3].any() and torch.equal(told["camera alone"][..., 3:], own[..., 3:])
    assert torch.equal(told["shuffled"], other) and not told["zero"].any()
    assert "camera alone" not in given_actions(own, other, latent_dim=5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_films_that_are_not_finite_are_bad(value: float) -> None:
    with pytest.raises(BadData, match="NaN"):
        card_of(lambda first, actions, seed: perfect(first, actions, seed) * value)


def test_films_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        card_of(lambda first, actions, seed: perfect(first, actions, seed)[:, 1:])
