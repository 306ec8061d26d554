"""The tiny decoder: its shapes, its stream, what it may look at, how it is trained and kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from typing_extensions import Self

from common.config import TrainingConfig
from common.errors import BadData, UserError
from tests.moving_clips import write_moving_clips
from video_model.clip_batches import clip_batch
from video_model.presets import (
    DECODER_PRESETS,
    TOKENIZER_PRESETS,
    TinyDecoderConfig,
    TinyDecoderModelConfig,
    TokenizerAugmentConfig,
    TokenizerDataConfig,
    TokenizerModelConfig,
)
from video_model.tiny_decoder import TinyDecoder, load_tiny_decoder
from video_model.tiny_decoder_train import loss, train
from video_model.tokenizer import Tokenizer, build_tokenizer

SIZES = TinyDecoderModelConfig(channels=(8, 6, 4), blocks=2, patch_size=2)
TOKENIZER = TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 2, 2), patch_size=2)
SMALL = TinyDecoderConfig(
    model=SIZES,
    data=TokenizerDataConfig(height=32, width=32, frames=5, lead_in=4, buffer_windows=16, validation_windows=8),
    augment=TokenizerAugmentConfig(crop=16),
    training=TrainingConfig(
        steps=3, batch_size=4, warmup_steps=1, log_every=1, save_every=2, evaluate_every=2, workers=0
    ),
)


@pytest.fixture
def decoder() -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(SIZES, latent_channels=4).eval()


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 4, 7, 3, 5, generator=torch.Generator().manual_seed(1))


def test_one_frame_for_the_first_latent_and_four_for_the_others(decoder: TinyDecoder, latents: torch.Tensor) -> None:
    assert decoder.decode(latents).shape == (2, 1 + 4 * 6, 3, 24, 40)
    assert decoder.decode(latents[:, :, :1]).shape == (2, 1, 3, 24, 40)
    assert decoder.decode(1e6 * latents).abs().max() <= 1
    with pytest.raises(ValueError, match=r"latents of shape \(B, 4, N, h, w\)"):
        decoder.decode(latents[:, :3])


@torch.inference_mode()
def test_a_stream_equals_the_whole_clip(decoder: TinyDecoder, latents: torch.Tensor) -> None:
    whole, state, parts = decoder.decode(latents), None, []
    for some in latents.split((1, 1, 3, 2), dim=2):
        frames, state = decoder.decode_next(some, state)
        parts.append(frames)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_latent_changes_its_own_frames_and_later_ones_alone(decoder: TinyDecoder, latents: torch.Tensor) -> None:
    changed = latents.clone()
    changed[0, :, 3] += 1
    moved = (decoder.decode(changed) - decoder.decode(latents)).abs().amax((2, 3, 4))  # (B, T)
    assert moved[0, :9].max() == 0 and moved[1].max() == 0, "nothing before, and no other clip"
    assert moved[0, 9:13].min() > 0, "all four of its own frames"
    assert moved[0, 13:17].max() > 0, "and what comes next remembers it"


@torch.inference_mode()
def test_states_of_two_streams_go_together_and_part(decoder: TinyDecoder, latents: torch.Tensor) -> None:
    first, second = latents[:1], latents[1:]
    _, one = decoder.decode_next(first[:, :, :2], None)
    _, other = decoder.decode_next(second[:, :, :4], None)
    joint, both = decoder.decode_next(torch.cat((first[:, :, 2:3], second[:, :, 4:5])), one.with_clips(other))
    alone, after = decoder.decode_next(second[:, :, 4:5], other)
    torch.testing.assert_close(joint[1:], alone, atol=1e-5, rtol=0)
    for kept, expected in zip(both.clips(slice(1, None)).features, after.features, strict=True):
        torch.testing.assert_close(kept, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", ["tiny", "wan21"])
def test_presets_fit_their_tokenizer(preset: str) -> None:
    assert DECODER_PRESETS[preset]().model.space_factor == TOKENIZER_PRESETS[preset]().model.space_factor


def test_the_size_for_wan_is_that_of_taehv() -> None:
    with torch.device("meta"):
        decoder = TinyDecoder(DECODER_PRESETS["wan21"]().model, latent_channels=16)
    assert 4e6 < sum(parameter.numel() for parameter in decoder.parameters()) < 11e6


class Shift(nn.Module):
    """Shows the true frames, `late` frames too late."""

    def __init__(self, frames: torch.Tensor, late: int) -> None:
        super().__init__()
        self.shown = torch.cat((frames[:, :1].expand(-1, late, -1, -1, -1), frames), dim=1)[:, : frames.shape[1]]

    def forward(self, latents: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        return self.shown, None


def test_the_loss_wants_each_frame_in_its_place() -> None:
    tokenizer = build_tokenizer(TOKENIZER).eval()
    pictures = torch.randint(0, 256, (2, 9, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = clip_batch(pictures, ("a", "b"))
    right, _ = loss(Shift(batch.frames, 0), batch, tokenizer, sharpness_weight=0.5)
    late, metrics = loss(Shift(batch.frames, 1), batch, tokenizer, sharpness_weight=0.5)
    assert right.abs() < 1e-6 and late > 0.3 and metrics["mse"] > 0.05
    assert all(parameter.grad is None for parameter in tokenizer.parameters())


class Pooled:
    """In place of a tokenizer: latents are the colours of every fourth frame."""

    def to(self, device: torch.device) -> Self:
        return self

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        colours = frames[:, ::4].movedim(2, 1)[..., ::8, ::8]  # (B, 3, N, h, w)
        return torch.cat((colours, colours[:, :1]), dim=1)


def test_it_learns_what_the_latents_show() -> None:
    torch.manual_seed(0)
    shades = torch.rand(8, 5, 1, 1, 3) * 255
    batch = clip_batch(shades[:, [0, 1, 1, 1, 1]].expand(8, 5, 16, 16, 3).to(torch.uint8), ("plain",) * 8)
    decoder = TinyDecoder(replace(SIZES, channels=(32, 24, 16), blocks=1), latent_channels=4)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
    losses = []
    for _ in range(150):
        value, _ = loss(decoder, batch, cast(Any, Pooled()), sharpness_weight=0.5)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.3 * losses[0], losses


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_clips(tmp_path_factory.mktemp("clips"), 6)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from common.checkpoints import write_model_files
    from video_model.presets import TokenizerConfig
    from video_model.tokenizer import checkpoint_config

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerConfig(model=TOKENIZER, data=SMALL.data)
    tokenizer: Tokenizer = build_tokenizer(TOKENIZER)
    write_model_files(folder, tensors=tokenizer.state_dict(), config=checkpoint_config(config, preset="x"), card="")
    return folder


def test_training_leaves_a_checkpoint_that_loads_from_itself(
    tmp_path: Path, clips: Path, tokenizer_folder: Path, latents: torch.Tensor
) -> None:
    last = train(SMALL, preset="small", tokenizer=tokenizer_folder, data=[clips], out=tmp_path / "run")
    decoder = load_tiny_decoder(tmp_path / "run")
    assert not decoder.training and decoder.decode(latents).shape == (2, 25, 3, 24, 40)
    again = load_tiny_decoder(last)
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), again.parameters(), strict=True))
    card = (last / "README.md").read_text()
    assert f"--tokenizer {tokenizer_folder}" in card and "psnr_tokenizer" in card
    assert list((tmp_path / "run/samples").glob("*.png"))


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, clips: Path, tokenizer_folder: Path) -> None:
    wide = replace(SMALL, model=replace(SIZES, patch_size=4))
    with pytest.raises(UserError, match=r"8 pixels wide .* 16 in the decoder"):
        train(wide, preset="small", tokenizer=tokenizer_folder, data=[clips], out=tmp_path / "run")
    with pytest.raises(BadData, match="holds a 'tokenizer' checkpoint, not a tiny decoder"):
        load_tiny_decoder(tokenizer_folder)
