"""Rollouts: what an action changes and when, any length, many streams in a batch, and the folder that holds it all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.checkpoints import save_model
from common.errors import BadData, UserError
from tests.test_video_model import randomise
from video_model.generator import (
    Embodiment,
    Generator,
    build_video_model,
    checkpoint_config,
    load_generator,
    write_companions,
)
from video_model.model import VideoModel
from video_model.presets import (
    TokenizerConfig,
    TokenizerDataConfig,
    TokenizerModelConfig,
    VideoConfig,
    VideoDataConfig,
    VideoLossConfig,
    VideoModelConfig,
)
from video_model.rollout import advance, denoise, next_request, rollout, start
from video_model.tokenizer import build_tokenizer
from video_model.tokenizer import checkpoint_config as tokenizer_config

VALUES, SIDE = 3, 16
TOKENIZER = TokenizerConfig(
    model=TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 1, 1), num_res_blocks=1),
    data=TokenizerDataConfig(height=SIDE, width=SIDE),
)
CONFIG = VideoConfig(
    model=VideoModelConfig(heads=2, head_dim=12, layers=2, modulation_dim=8),
    loss=VideoLossConfig(window=2, sink=1, shift=2.0),
    data=VideoDataConfig(height=SIDE, width=SIDE, latents=3),
    sampling_steps=2,
)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TOKENIZER.model).eval()
    model = build_video_model(CONFIG.model, latent_channels=4, action_dim=VALUES).eval()
    randomise(model)
    return Generator(model, tokenizer, {"latent": Embodiment(scale=(1.0, 0.5, 2.0), fps=10.0, camera_dim=1)}, CONFIG)


def first_frames(batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def actions(length: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, length, VALUES, generator=torch.Generator().manual_seed(2))


def test_an_action_reaches_the_frames_of_its_latent_and_none_before(generator: Generator):
    plain = rollout(generator, first_frames(), actions(16))
    assert plain.shape == (1, 17, 3, SIDE, SIDE)
    for t in (0, 3, 4, 9, 15):
        changed = actions(16)
        changed[:, t] += 3
        other = rollout(generator, first_frames(), changed)
        first = 4 * (t // 4) + 1  # actions 4n-4 .. 4n-1 make latent n, which is the frames 4n-3 .. 4n
        assert first <= t + 1
        assert torch.equal(other[:, :first], plain[:, :first])
        assert (other[:, t + 1] - plain[:, t + 1]).abs().max() > 1e-4


def test_the_first_frame_is_the_tokenizers_and_shapes_all_that_follows(generator: Generator):
    video = rollout(generator, first_frames(), actions(4))
    tokenizer = generator.tokenizer
    torch.testing.assert_close(video[:, :1], tokenizer.decode(tokenizer.encode(first_frames()[:, None])).detach())
    other = rollout(generator, -first_frames(), actions(4))
    assert (other[:, 4] - video[:, 4]).abs().max() > 1e-3


def test_a_video_does_not_depend_on_its_neighbours_in_the_batch(generator: Generator):
    together = rollout(generator, first_frames(3), actions(8, 3), seed=5)
    alone = rollout(generator, first_frames(3)[2:], actions(8, 3)[2:], seed=7)
    torch.testing.assert_close(together[2:], alone, atol=1e-4, rtol=0)
    assert (rollout(generator, first_frames(3)[2:], actions(8, 3)[2:], seed=8) - alone).abs().max() > 1e-3


def test_any_length_and_its_beginning_is_that_of_a_longer_one(generator: Generator):
    long = rollout(generator, first_frames(), actions(30))  # 9 latents, the network sees 4 at once
    assert long.shape[1] == 31
    assert long.isfinite().all()
    assert torch.equal(rollout(generator, first_frames(), actions(30)[:, :12]), long[:, :13])
    short = rollout(generator, first_frames(), actions(30)[:, :2])
    padded = torch.cat((actions(30)[:, :2], torch.zeros(1, 2, VALUES)), dim=1)
    assert torch.equal(short, rollout(generator, first_frames(), padded)[:, :3])


def test_steps_are_euler_steps_of_the_velocity(generator: Generator):
    one, many, more = (rollout(generator, first_frames(), actions(4), steps=steps) for steps in (1, 16, 32))
    assert (many - more).abs().mean() < 0.2 * (one - more).abs().mean()


def test_renoising_goes_to_clean_latents_and_back_to_less_noise(generator: Generator, monkeypatch: pytest.MonkeyPatch):
    clean, seen = torch.full((1, 4, 1, 4, 4), 0.5), []

    def flow(self: VideoModel, x: Tensor, times: Tensor, **given: object) -> Tensor:
        seen.append((x, float(times)))
        return (x - clean) / times.clamp(min=1e-6)[:, :, None, None, None]

    student = replace(generator, config=replace(CONFIG, sampler="renoise"))
    stream, _ = start(student, first_frames(), seeds=[3])
    before = stream.copy()
    monkeypatch.setattr(VideoModel, "forward", flow)
    request = next_request(student, stream, actions(4), embodiment="latent")
    made = denoise(student, request, stream, steps=3)
    first, second, third = (before.noise(made.device) for _ in range(3))  # fresh noise for each step
    assert [time for _, time in seen] == pytest.approx([1, 0.8, 0.5])  # thirds, shifted by 2
    for (x, time), noise in zip(seen, (first, second, third), strict=True):
        assert torch.allclose(x, (1 - time) * clean + time * noise, atol=1e-5)
    assert torch.allclose(made, clean, atol=1e-5)


def test_a_copied_stream_goes_on_as_the_first_and_leaves_it_alone(generator: Generator):
    stream, _ = start(generator, first_frames(2), seeds=[3, 4])
    parts = actions(40, 2).split(4, dim=1)
    for part in parts[:5]:  # the ring of three is full
        advance(generator, stream, part, embodiment="latent", steps=2)
    copy = stream.copy()
    there, other = ([advance(generator, s, p, embodiment="latent", steps=2) for p in parts[5:]] for s in (stream, copy))
    assert all(torch.equal(a, b) for a, b in zip(there, other, strict=True))
    assert not torch.equal(there[0], there[1])


def test_scaled_actions_keep_zero_and_direction_and_bend_outliers():
    embodiment = Embodiment(scale=(1.0, 0.5, 2.0), fps=10.0)
    scaled = embodiment.scaled(torch.tensor([[0.0, 0.005, -0.02], [100.0, -100.0, 100.0]]))
    assert scaled[0].tolist() == pytest.approx([0.0, 0.01, -0.01], rel=1e-3)
    assert (scaled[1].abs() < 7).all()
    assert scaled[1].sign().tolist() == [1, -1, 1]


def write(generator: Generator, folder: Path) -> Path:
    """The checkpoint folder of a generator, beside that of its tokenizer."""
    tokens = folder / "tokens"
    weights = generator.tokenizer.state_dict()
    save_model(tokens, tensors=weights, config=tokenizer_config(TOKENIZER, preset="tiny"), card="")
    target = folder / "video"
    config = checkpoint_config(generator.model, CONFIG, preset="tiny")
    save_model(target, tensors=generator.model.state_dict(), config=config, card="")
    write_companions(target, tokenizer=tokens, embodiments=generator.embodiments)
    return target


def test_a_folder_gives_the_same_generator_back(generator: Generator, tmp_path: Path):
    loaded = load_generator(write(generator, tmp_path))
    assert loaded.embodiments == generator.embodiments
    assert loaded.config == CONFIG
    again = rollout(loaded, first_frames(), actions(8))
    assert torch.equal(again, rollout(generator, first_frames(), actions(8)))


def test_what_is_no_generator_is_refused(generator: Generator, tmp_path: Path):
    folder = write(generator, tmp_path)
    with pytest.raises(BadData, match="'tokenizer' checkpoint, not a video model"):
        load_generator(tmp_path / "tokens")
    config = json.loads((folder / "config.json").read_text())
    (folder / "manifest.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"model": config["model"] | {"num_layers": 3}}))
    with pytest.raises(BadData, match=r"transformer_blocks\.2"):
        load_generator(folder)


def test_wrong_arguments_are_refused(generator: Generator):
    with pytest.raises(ValueError, match="first frames must be"):
        rollout(generator, torch.zeros(1, 3, SIDE, 2 * SIDE), actions(4))
    with pytest.raises(ValueError, match="actions must be"):
        rollout(generator, first_frames(2), actions(4))
    with pytest.raises(UserError, match="no embodiment 'g1'"):
        rollout(generator, first_frames(), actions(4), embodiment="g1")
