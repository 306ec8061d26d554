"""The forecast: which frame and which actions it is made of, and what becomes of it in windows, streams and films."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.camera import CAMERA_DIM, move
from common.checkpoints import find_checkpoint, save_model, weights_checksum
from common.errors import UserError
from lam.checkpoint import checkpoint_config
from lam.dreamdojo import DreamDojoLam
from lam.model import LatentActionModel
from lam.presets import LamConfig, LamModelConfig
from video_model.clip_batches import LabelledWindows, clip_batch
from video_model.detail import FirstFrame, with_detail
from video_model.forecast import Forecaster
from video_model.generator import LATENT, Embodiment, Generator, build_video_model
from video_model.labels import Labels
from video_model.latent_windows import encode, encode_windows
from video_model.presets import TokenizerModelConfig, VideoConfig, VideoDataConfig, VideoLossConfig, VideoModelConfig
from video_model.rollout import denoise, keep, next_request, rollout, start
from video_model.tokenizer import Tokenizer, build_tokenizer

SIDE = 16
LAM = LamModelConfig(
    height=SIDE, width=SIDE, patch=8, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1, latent_dim=2
)
"""Before training: its decoder moves the camera, changes the exposure, and nothing else."""
CODE = 2 + 10


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    torch.manual_seed(0)
    return Forecaster(LatentActionModel(LAM), identity="0123abcd", span=2)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    sizes = TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 1, 1), num_res_blocks=1)
    return build_tokenizer(sizes).eval()


def codes(*values: float) -> Tensor:
    """(1, T, A): in each step the camera moves to the right by so many units, and nothing is done."""
    actions = torch.zeros(1, len(values), CODE)
    actions[0, :, 2] = torch.tensor(values)
    return actions


def film(frames: int, *, batch: int = 1) -> Tensor:
    return torch.randint(
        0, 256, (batch, frames, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


def moved(frame: Tensor, steps: Sequence[float]) -> Tensor:
    """(1, T, 3, H, W): the frame moved by the first step, by the first two, and so on."""
    cameras = torch.zeros(len(steps), CAMERA_DIM)
    cameras[:, 0] = torch.tensor(steps).cumsum(0)
    return torch.stack([move(frame, camera[None])[0] for camera in cameras], dim=1)


def test_each_frame_is_made_of_the_one_before_and_its_own_action(forecaster: Forecaster) -> None:
    last, steps = clip_batch(film(1), ()).frames[:, 0], (1.0, 2.0, 0.0, 1.5)
    made = forecaster(last, codes(*steps))
    inside = (..., slice(4, -4))  # what comes into view at a side is not known
    torch.testing.assert_close(made[inside], moved(last, steps)[inside], atol=1e-4, rtol=0)
    assert made.diff(dim=1)[:, 1].abs().max() < 1e-4, "the third action is none"
    assert (made[:, 0] - last).abs().mean() > 0.05 and not made.requires_grad


def test_only_the_model_that_wrote_the_labels_will_do(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DreamDojoLam(LamModelConfig(**{**vars(LAM), "design": "dreamdojo"}))
    config = LamConfig(model=model.config)
    save_model(tmp_path / "lam", tensors=model.state_dict(), config=checkpoint_config(config, preset="tiny"), card="")
    there = Forecaster.open(tmp_path / "lam", span=2)
    assert there.code_dim == 2
    first, actions = torch.rand(1, 3, SIDE, SIDE), torch.randn(1, 2, 2)
    once = there.model.decode(first, actions[:, 0]).detach()
    made = there(first, actions)
    torch.testing.assert_close(made, torch.stack((once, there.model.decode(once, actions[:, 1]).detach()), dim=1))
    assert there(torch.rand(1, 3, 48, 64), actions).shape == (1, 2, 3, 48, 64)
    write = {"own": weights_checksum(find_checkpoint(tmp_path / "lam")), "other": "0123abcd"}
    folders = {name: tmp_path / name for name in write}
    for name, folder in folders.items():
        write_empty_labels(folder, weights=write[name])
    there.require(Labels.open(folders["own"]))
    with pytest.raises(UserError, match="written by another latent action model"):
        there.require(Labels.open(folders["other"]))


def write_empty_labels(folder: Path, *, weights: str) -> None:
    folder.mkdir()
    (folder / "index.json").write_text(
        f'{{"weights": "{weights}", "fps": null, "latent_dim": 2, "camera_dim": 0, "clips": [], "bad": []}}'
    )


def test_the_forecast_of_a_latent_is_of_the_frames_and_actions_before_it(
    forecaster: Forecaster, tokenizer: Tokenizer
) -> None:
    """From frame 0 for two latents, then anew from frame 8, where the encoder has seen the true frames."""
    steps = np.linspace(0, 2, 16).tolist()
    windows = LabelledWindows(film(17), codes(*steps), ("clip",))
    batch = encode_windows(tokenizer, windows, forecaster)
    assert batch.forecasts is not None
    torch.testing.assert_close(batch.latents, encode(tokenizer, windows.frames), atol=1e-6, rtol=0)
    assert not batch.forecasts[:, :, 0].any()
    frames = clip_batch(windows.frames, ()).frames
    for n in (1, 2, 3, 4):
        began = 0 if n < 3 else 8  # the frame that the forecast began with, and the row of the action that leads on
        foreseen = forecaster(frames[:, began], codes(*steps[began : 4 * n]))
        expected = torch.cat((frames[:, : began + 1], foreseen), dim=1)
        with torch.no_grad():
            latent = tokenizer.encode(expected)[:, :, n]
        torch.testing.assert_close(batch.forecasts[:, :, n], latent, atol=1e-4, rtol=0)


def untrained(tokenizer: Tokenizer, forecaster: Forecaster) -> Generator:
    """Says "nothing to add" to any forecast."""
    config = VideoConfig(
        model=VideoModelConfig(heads=2, head_dim=12, layers=1, modulation_dim=8, predicts="clean"),
        loss=VideoLossConfig(window=2, sink=1),
        data=VideoDataConfig(height=SIDE, width=SIDE, latents=3),
        sampling_steps=2,
    )
    model = build_video_model(config.model, latent_channels=4, action_dim=CODE, forecast=True).eval()
    model.add_embodiment("arm", 3)
    body = Embodiment(scale=(1.0,) * CODE, fps=10.0, camera_dim=10)
    arm = Embodiment(scale=(1.0,) * 3, fps=10.0)
    return Generator(model, tokenizer, {LATENT: body, "arm": arm}, config, forecaster)


def test_before_training_a_rollout_is_its_own_forecast(forecaster: Forecaster, tokenizer: Tokenizer) -> None:
    """Pixel by pixel, as what the tokenizer loses is given back; and begun anew from what was made."""
    generator = untrained(tokenizer, forecaster)
    first, steps = clip_batch(film(1), ()).frames[:, 0], np.linspace(0, 2, 16).tolist()
    made = rollout(generator, first, codes(*steps))
    begun = forecaster(first, codes(*steps[:8]))
    anew = forecaster(begun[:, -1], codes(*steps[8:]))
    torch.testing.assert_close(made, torch.cat((first[:, None], begun, anew), dim=1), atol=1e-4, rtol=0)
    assert (made[:, 9:] - forecaster(first, codes(*steps))[:, 8:]).abs().max() > 1e-3


def test_a_model_that_disagrees_with_the_forecast_is_shown_as_it_is(
    forecaster: Forecaster, tokenizer: Tokenizer
) -> None:
    generator = untrained(tokenizer, forecaster)
    first, told = clip_batch(film(1), ()).frames[:, 0], codes(*[1.0] * 12)
    with torch.no_grad():
        torch.nn.init.normal_(generator.model.proj_out.weight, std=30)
    made = rollout(generator, first, told)
    generator.forecaster, anew = None, generator.forecaster
    assert anew is not None
    assert (made[:, 1:] - anew(first, told)).abs().mean() > 0.2


@torch.inference_mode()
def test_a_film_is_its_latents_decoded_with_what_each_forecast_lost(
    forecaster: Forecaster, tokenizer: Tokenizer
) -> None:
    """Step by step as a whole clip decodes them: what was made, and what was made until the forecast began, then it."""
    generator = untrained(tokenizer, forecaster)
    torch.nn.init.normal_(generator.model.proj_out.weight, std=5)  # it disagrees with its forecasts, but not wholly
    first, actions = clip_batch(film(1, batch=2), ()).frames[:, 0], torch.randn(2, 20, CODE) * 0.3
    stream, _ = start(generator, first, seeds=[0, 1])
    made, shown, began = [tokenizer.encode(first[:, None])], [], 1
    for number, told in enumerate(actions.split(4, dim=1)):
        if number % forecaster.span == 0:
            shown, began = [], len(made)
        request = next_request(generator, stream, told, embodiment=LATENT)
        latent = denoise(generator, request, stream, steps=1)
        frames = keep(generator, stream, request, latent)
        assert request.expected is not None and stream.forecast
        made, shown = [*made, latent], [*shown, request.expected]
        film_of, lost = (tokenizer.decode(torch.cat(part, dim=2))[:, -4:] for part in (made, [*made[:began], *shown]))
        expected = with_detail(film_of, shown=lost, forecast=stream.forecast.frames)
        torch.testing.assert_close(frames, expected, atol=1e-4, rtol=0)
        exchanged = with_detail(lost, shown=film_of, forecast=stream.forecast.frames)
        assert (exchanged - expected).abs().max() > 1e-2, "this test could tell them apart"


def test_detail_is_given_back_where_model_and_forecast_agree() -> None:
    torch.manual_seed(0)
    forecast = torch.rand(2, 4, 3, 16, 16) - 0.5
    shown = forecast.flatten(0, 1).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    shown = shown.repeat_interleave(2, 2).repeat_interleave(2, 3).unflatten(0, (2, 4))
    made = shown.clone()
    torch.testing.assert_close(with_detail(made, shown=shown, forecast=forecast), forecast)
    made[0, 2, :, :, 8:] += 0.5
    given = with_detail(made, shown=shown, forecast=forecast)
    torch.testing.assert_close(given[0, 2, :, :, :5], forecast[0, 2, :, :, :5])
    torch.testing.assert_close(given[0, 2, :, :, 11:], made[0, 2, :, :, 11:], atol=3e-3, rtol=0)
    others = torch.ones(2, 4, dtype=torch.bool)
    others[0, 2] = False
    torch.testing.assert_close(given[others], forecast[others])


def test_under_a_still_camera_the_first_frame_is_shown_where_nothing_has_changed() -> None:
    torch.manual_seed(0)
    frame, shown = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    made = shown[:, None].repeat(1, 4, 1, 1, 1)
    made[1, 3, :, :, 8:] += 0.5
    film = torch.rand(2, 4, 3, 16, 16)
    given = FirstFrame(frame, shown).seen_in(film, made=made)
    torch.testing.assert_close(given[0], frame[:1].expand(4, -1, -1, -1))
    torch.testing.assert_close(given[1, :3], frame[1:].expand(3, -1, -1, -1))
    torch.testing.assert_close(given[1, 3, :, :, :5], frame[1, :, :, :5])
    torch.testing.assert_close(given[1, 3, :, :, 11:], film[1, 3, :, :, 11:])


def test_of_another_bodys_actions_nothing_is_forecast(forecaster: Forecaster, tokenizer: Tokenizer) -> None:
    generator = untrained(tokenizer, forecaster)
    first = clip_batch(film(1), ()).frames[:, 0]
    still = rollout(generator, first, torch.zeros(1, 8, CODE))
    torch.testing.assert_close(rollout(generator, first, torch.ones(1, 8, 3), embodiment="arm"), still)
    assert (rollout(generator, first, codes(*[3.0] * 8)) - still).abs().max() > 1e-3
