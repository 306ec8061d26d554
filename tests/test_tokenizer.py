"""The tokenizer: a stream equals the clip bit for bit, nothing looks ahead, and published folders load."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import BadData
from video_model.presets import TokenizerModelConfig
from video_model.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

WAN21: dict[str, Any] = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
WAN22 = WAN21 | {"decoder_base_dim": 8, "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
STATISTICS: dict[str, Any] = {"latents_mean": [0.1, -0.4, 0.0, 0.3], "latents_std": [0.5, 1.5, 2.0, 0.8]}
KINDS = {"2.1": WAN21 | STATISTICS, "2.2": WAN22 | STATISTICS}
SIDE = 32


def published(kind: str, seed: int = 0) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    return AutoencoderKLWan(**KINDS[kind]).eval()


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(published(kind)).eval().requires_grad_(False)


def clip(frames: int, *, seed: int = 0, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames, 3, SIDE, SIDE, generator=generator) * 2 - 1


def latents_of(tokenizer: Tokenizer, number: int, *, seed: int = 0) -> Tensor:
    places = SIDE // tokenizer.space_factor
    return torch.randn(1, 4, number, places, places, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3)])
def test_one_latent_for_the_first_frame_and_one_for_every_four_later(
    tokenizer: Tokenizer, kind: str, frames: int, latents: int
) -> None:
    factor = {"2.1": 8, "2.2": 16}[kind]
    encoded = tokenizer.encode(clip(frames, batch=2))
    assert encoded.shape == (2, 4, latents, SIDE // factor, SIDE // factor)
    assert tokenizer.decode(encoded).shape == (2, frames, 3, SIDE, SIDE)


def test_a_stream_of_frames_equals_the_whole_clip(tokenizer: Tokenizer) -> None:
    frames = clip(13)
    whole = tokenizer.encode(frames)
    first, state = tokenizer.encode_next(frames[:, :1], None)
    second, state = tokenizer.encode_next(frames[:, 1:5], state)
    rest, _ = tokenizer.encode_next(frames[:, 5:13], state)
    assert [part.shape[2] for part in (first, second, rest)] == [1, 1, 2]
    assert torch.equal(torch.cat((first, second, rest), dim=2), whole)
    together, state = tokenizer.encode_next(frames[:, :9], None)
    assert torch.equal(torch.cat((together, tokenizer.encode_next(frames[:, 9:], state)[0]), dim=2), whole)


def test_a_stream_of_latents_equals_the_whole_clip(tokenizer: Tokenizer) -> None:
    latents = latents_of(tokenizer, 4)
    whole = tokenizer.decode(latents)
    parts, state = [], None
    for number in range(4):
        frames, state = tokenizer.decode_next(latents[:, :, number : number + 1], state)
        parts.append(frames)
    assert [part.shape[1] for part in parts] == [1, 4, 4, 4]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    two, state = tokenizer.decode_next(latents[:, :, :2], None)
    assert torch.equal(torch.cat((two, tokenizer.decode_next(latents[:, :, 2:], state)[0]), dim=1), whole)


def test_whole_clips_equal_diffusers(tokenizer: Tokenizer, kind: str) -> None:
    vae, frames = published(kind), clip(9)
    mean, std = (torch.tensor(STATISTICS[name])[:, None, None, None] for name in ("latents_mean", "latents_std"))
    with torch.no_grad():
        expected = (vae.encode(frames.movedim(2, 1)).latent_dist.mode() - mean) / std  # type: ignore[union-attr]
        decoded = vae.decode(expected * std + mean).sample.movedim(1, 2)  # type: ignore[union-attr]
    latents = tokenizer.encode(frames)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(tokenizer.decode(latents), decoded, rtol=0, atol=1e-5)


def test_streams_share_a_model_without_mixing(tokenizer: Tokenizer) -> None:
    """Three streams in turn, one of them joining late, and none at the same place."""
    clips = [clip(9, seed=seed) for seed in range(3)]
    latents = [latents_of(tokenizer, 3, seed=seed) for seed in range(3)]
    encoded, decoded = ([[], [], []] for _ in range(2))
    encoders, decoders = [None] * 3, [None] * 3
    for turn in range(5):
        for stream in range(3):
            place = turn - stream
            if 0 <= place < 3:
                part = clips[stream][:, max(0, 4 * place - 3) : 4 * place + 1]
                out, encoders[stream] = tokenizer.encode_next(part, encoders[stream])  # type: ignore[call-overload]
                encoded[stream].append(out)
                latent = latents[stream][:, :, place : place + 1]
                out, decoders[stream] = tokenizer.decode_next(latent, decoders[stream])  # type: ignore[call-overload]
                decoded[stream].append(out)
    for stream in range(3):
        assert torch.equal(torch.cat(encoded[stream], dim=2), tokenizer.encode(clips[stream]))
        assert torch.equal(torch.cat(decoded[stream], dim=1), tokenizer.decode(latents[stream]))


@pytest.mark.parametrize("past", [1, 2, 4])
def test_two_streams_go_on_together_as_each_alone(tokenizer: Tokenizer, past: int) -> None:
    one, other, here = latents_of(tokenizer, past + 2), latents_of(tokenizer, past + 2, seed=1), slice(past)
    (_, state), (_, others) = (tokenizer.decode_next(latents[:, :, here], None) for latents in (one, other))
    for number in (past, past + 1):
        latent = torch.cat((one, other))[:, :, number : number + 1]
        made, both = tokenizer.decode_next(latent, state.with_clips(others))
        alone, after = tokenizer.decode_next(latent[:1], state)
        torch.testing.assert_close(made[:1], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(made[1:], tokenizer.decode_next(latent[1:], others)[0], atol=1e-5, rtol=0)
        assert (made[0] - made[1]).abs().mean() > 1e-3
        state, others = both.clips(slice(1)), both.clips(slice(1, None))
        assert all(type(a) is type(b) for a, b in zip(state.features, after.features, strict=True))


def test_a_state_is_a_snapshot(tokenizer: Tokenizer) -> None:
    """From a kept state a stream goes on again and again, whatever was done since; a detached copy is as good."""
    frames, latents = clip(13), latents_of(tokenizer, 4)
    _, encoder = tokenizer.encode_next(frames[:, :5], None)
    _, decoder = tokenizer.decode_next(latents[:, :, :2], None)
    kept = [f.clone() for f in (*encoder.features, *decoder.features) if isinstance(f, Tensor)]
    expected = tokenizer.encode_next(frames[:, 5:9], encoder)[0], tokenizer.decode_next(latents[:, :, 2:3], decoder)[0]
    tokenizer.encode_next(frames[:, 9:13], encoder)  # another future of the same past
    tokenizer.decode_next(latents[:, :, 3:4], decoder)
    now = [f for f in (*encoder.features, *decoder.features) if isinstance(f, Tensor)]
    assert len(kept) > 20 and all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    for past, future in ((encoder, decoder), (encoder.detach().to("cpu"), decoder.detach().to("cpu"))):
        assert torch.equal(tokenizer.encode_next(frames[:, 5:9], past)[0], expected[0])
        assert torch.equal(tokenizer.decode_next(latents[:, :, 2:3], future)[0], expected[1])


def test_gradients_reach_back_through_a_state_until_it_is_detached(tokenizer: Tokenizer) -> None:
    latents = latents_of(tokenizer, 2).requires_grad_()
    _, state = tokenizer.decode_next(latents[:, :, :1], None)
    frames, _ = tokenizer.decode_next(latents[:, :, 1:], state)
    (gradient,) = torch.autograd.grad(frames.sum(), latents)
    assert gradient[:, :, 0].abs().max() > 0
    frames, _ = tokenizer.decode_next(latents[:, :, 1:], state.detach())
    (gradient,) = torch.autograd.grad(frames.sum(), latents)
    assert gradient[:, :, 0].abs().max() == 0 < gradient[:, :, 1].abs().max()


@pytest.mark.parametrize("frame", [0, 1, 4, 5, 8])
def test_latents_depend_on_no_later_frame(tokenizer: Tokenizer, frame: int) -> None:
    """Frame t first shows in latent (t + 3) // 4."""
    frames, changed = clip(9), clip(9)
    changed[:, frame] = -changed[:, frame]
    differs = (tokenizer.encode(frames) != tokenizer.encode(changed)).flatten(3).any(-1)[0].any(0).tolist()
    latent = (frame + 3) // 4
    assert not any(differs[:latent]) and differs[latent]


@pytest.mark.parametrize("latent", [0, 1, 2])
def test_frames_depend_on_no_later_latent(tokenizer: Tokenizer, latent: int) -> None:
    """Latent n first shows in frame 4n - 3."""
    latents, changed = latents_of(tokenizer, 3), latents_of(tokenizer, 3)
    changed[:, :, latent] += 1
    differs = (tokenizer.decode(latents) != tokenizer.decode(changed)).flatten(2).any(-1)[0].tolist()
    frame = max(0, 4 * latent - 3)
    assert not any(differs[:frame]) and differs[frame]


@pytest.mark.parametrize(
    ("frames", "going_on", "message"),
    [
        (0, False, "; 1 would"),
        (2, False, "1 or 5 would"),
        (4, False, "1 or 5 would"),
        (8, False, "5 or 9 would"),
        (0, True, "; 4 would"),
        (1, True, "; 4 would"),
        (5, True, "4 or 8 would"),
        (9, True, "8 or 12 would"),
    ],
)
def test_a_wrong_number_of_frames_says_what_would_fit(
    tokenizer: Tokenizer, frames: int, going_on: bool, message: str
) -> None:
    state = tokenizer.encode_next(clip(1), None)[1] if going_on else None
    with pytest.raises(ValueError, match=f"^{frames} frames .*{message}"):
        tokenizer.encode_next(clip(frames), state)


def test_a_wrong_size_says_what_would_fit(tokenizer: Tokenizer) -> None:
    factor = tokenizer.space_factor
    with pytest.raises(ValueError, match=r"height 40 .* 16; 32 or 48 would fit|width 36 .* 8; 32 or 40 would fit"):
        tokenizer.encode(torch.zeros(1, 1, 3, 40, 36))
    with pytest.raises(ValueError, match=f"width 7 is not a multiple of {factor}; {factor} would fit"):
        tokenizer.encode(torch.zeros(1, 1, 3, SIDE, 7))
    with pytest.raises(ValueError, match=r"\(B, T, 3, H, W\)"):
        tokenizer.encode(torch.zeros(1, 3, 1, SIDE, SIDE))
    with pytest.raises(ValueError, match=r"\(B, 4, N, h, w\)"):
        tokenizer.decode(torch.zeros(1, 2, 4, 2, 2))


def test_latents_are_normalised_by_the_statistics(tokenizer: Tokenizer, kind: str) -> None:
    """With statistics 0 and 1 the same weights give mean + std * latent, and decode that to the same frames."""
    plain = Tokenizer(published(kind)).eval().requires_grad_(False)
    plain.latents_mean.zero_()
    plain.latents_std.fill_(1)
    frames = clip(5)
    latents, raw = tokenizer.encode(frames), plain.encode(frames)
    for channel in range(4):
        expected = STATISTICS["latents_mean"][channel] + STATISTICS["latents_std"][channel] * latents[:, channel]
        torch.testing.assert_close(raw[:, channel], expected)
    torch.testing.assert_close(plain.decode(raw), tokenizer.decode(latents))
    torch.testing.assert_close(tokenizer(frames, sample=False).mean, raw)


def test_statistics_follow_training_and_nothing_else() -> None:
    torch.manual_seed(0)
    small = TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 2, 2), num_res_blocks=1)
    model = build_tokenizer(small)
    frames = clip(5, batch=4)
    first = model.eval()(frames, sample=False)
    assert (first.log_variance < -4).all(), "training begins nearly without noise"
    assert torch.equal(model.latents_mean, torch.zeros(4)) and torch.equal(model.latents_std, torch.ones(4))
    model.train()
    with torch.no_grad():
        model(frames * torch.nan, sample=False)
        assert model.latents_std.isfinite().all()
        mean = model(frames, sample=False).mean
        for _ in range(1500):
            model._follow(mean)
    model.eval()
    latents = model.encode(frames)
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(4), rtol=0, atol=0.02)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(4), rtol=0, atol=0.02)


@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_a_published_folder_loads(kind: str, tokenizer: Tokenizer, tmp_path: Path, subfolder: str) -> None:
    published(kind).save_pretrained(tmp_path / subfolder)
    loaded = load_tokenizer(tmp_path)
    expected = published(kind).state_dict()
    assert {name for name in loaded.state_dict() if not name.startswith("latents_")} == set(expected)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in expected.items())
    assert not loaded.training
    assert torch.equal(loaded.encode(clip(5)), tokenizer.encode(clip(5)))


def test_a_published_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    published("2.1").save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: t for name, t in tensors.items() if name != "decoder.conv_in.bias"}, weights)
    with pytest.raises(BadData, match=r"decoder\.conv_in\.bias"):
        load_tokenizer(tmp_path)
    save_file(tensors | {"surplus": torch.zeros(1)}, weights)
    with pytest.raises(BadData, match="surplus"):
        load_tokenizer(tmp_path)
    save_file(tensors | {"decoder.conv_in.bias": torch.zeros(3)}, weights)
    with pytest.raises(BadData, match=r"decoder\.conv_in\.bias|shape"):
        load_tokenizer(tmp_path)
    save_file(tensors, weights)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latents_mean": [0.0] * 16}))
    with pytest.raises(BadData, match="16 numbers for 4 channels"):
        load_tokenizer(tmp_path)
