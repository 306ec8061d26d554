"""The latent action VAE against formulas written out here, token by token, without the model's own helpers."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lam import presets
from lam.blocks import patchify, sinusoidal_positions, two_frame_attention, unpatchify
from lam.dreamdojo import DreamDojoLam
from lam.presets import LamModelConfig

SMALL = LamModelConfig(
    design="dreamdojo",
    height=16,
    width=24,
    patch=8,
    channels=32,
    heads=2,
    encoder_blocks=2,
    decoder_blocks=2,
    latent_dim=5,
)


def small_model(config: LamModelConfig = SMALL) -> DreamDojoLam:
    torch.manual_seed(0)
    model = DreamDojoLam(config)
    with torch.no_grad():
        for parameter in model.parameters():  # no weight keeps a value that hides its use, such as 0 or 1
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def some_frames(config: LamModelConfig = SMALL, *, pairs: int = 3) -> Tensor:
    return torch.rand(pairs, 2, 3, config.height, config.width, generator=torch.Generator().manual_seed(1)) * 2 - 1


# An independent forward pass of the published network ------------------------------------------------------------


def cut(frame: Tensor, patch: int) -> Tensor:
    """(3, H, W) in [0, 1] -> (N, patch * patch * 3), by loops over rows and columns of patches."""
    _, height, width = frame.shape
    tiles = [
        frame[:, y : y + patch, x : x + patch].permute(1, 2, 0).reshape(-1)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    return torch.stack(tiles)


def positions(tokens: int, channels: int) -> Tensor:
    table = torch.zeros(tokens, channels)
    for token in range(tokens):
        for i in range(channels // 2):
            angle = token / 10_000 ** (2 * i / channels)
            table[token, 2 * i], table[token, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


def turn(vector: Tensor, time: int) -> Tensor:
    """Rotary positions of one head's vector (D,): channel pair (2i, 2i + 1) turned by time * 10000^(-2i / D)."""
    turned = vector.clone()
    size = len(vector)
    for i in range(size // 2):
        angle = time * 10_000 ** (-2 * i / size)
        a, b = vector[2 * i], vector[2 * i + 1]
        turned[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        turned[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return turned


def attention(x: Tensor, weights: dict[str, Tensor], name: str, *, heads: int, rotary: bool) -> Tensor:
    """x (S, C): softmax attention along S, explicitly."""
    q, k, v = (F.linear(x, weights[f"{name}.to_{part}.weight"]).reshape(len(x), heads, -1) for part in "qkv")
    if rotary:
        q, k = (torch.stack([torch.stack([turn(h, s) for h in y[s]]) for s in range(len(y))]) for y in (q, k))
    logits = torch.einsum("shd,thd->hst", q, k) / math.sqrt(q.shape[-1])
    weighted = torch.einsum("hst,thd->shd", torch.softmax(logits, dim=-1), v)
    return linear(weighted.reshape(len(x), -1), weights, f"{name}.to_out.0")


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def transformer(
    frames: list[Tensor], weights: dict[str, Tensor], name: str, *, blocks: int, heads: int
) -> list[Tensor]:
    """Tokens (N, C) of one frame, or of each of two, through stem, blocks and output layer."""
    frames = [
        norm(linear(norm(x, weights, f"{name}.ffn.0"), weights, f"{name}.ffn.1"), weights, f"{name}.ffn.2")
        for x in frames
    ]
    frames = [x + positions(*x.shape) for x in frames]
    for i in range(blocks):
        block = f"{name}.transformer_blocks.{i}"
        frames = [
            x
            + attention(norm(x, weights, f"{block}.norm1"), weights, f"{block}.spatial_attn", heads=heads, rotary=False)
            for x in frames
        ]
        if len(frames) == 2:
            tracks = torch.stack(frames, dim=1)  # (N, 2, C)
            tracks = tracks + torch.stack(
                [
                    attention(
                        norm(t, weights, f"{block}.norm2"), weights, f"{block}.temporal_attn", heads=heads, rotary=True
                    )
                    for t in tracks
                ]
            )
            frames = list(tracks.unbind(1))
        last_norm = "norm3" if len(frames) == 2 else "norm2"
        frames = [
            x
            + linear(
                gelu(linear(norm(x, weights, f"{block}.{last_norm}"), weights, f"{block}.ffn.0")),
                weights,
                f"{block}.ffn.3",
            )
            for x in frames
        ]
    return [linear(x, weights, f"{name}.out") for x in frames]


def published_forward(model: DreamDojoLam, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One pair (2, 3, H, W) in [-1, 1] -> mean (D,), log-variance (D,), next frame (3, H, W) in [0, 1]."""
    weights, config = dict(model.state_dict()), model.config
    patches = [cut((frame + 1) / 2, config.patch) for frame in pair]
    prompt = weights["action_prompt"].reshape(1, -1)
    tokens = transformer(
        [torch.cat((prompt, x)) for x in patches], weights, "encoder", blocks=config.encoder_blocks, heads=config.heads
    )
    statistics = linear(tokens[1][0], weights, "fc")
    mean, log_variance = statistics[: config.latent_dim], statistics[config.latent_dim :]

    condition = linear(patches[0], weights, "patch_up") + linear(mean, weights, "action_up")
    painted = transformer([condition], weights, "decoder", blocks=config.decoder_blocks, heads=config.heads)[0]
    frame = torch.empty(3, config.height, config.width)
    columns = config.width // config.patch
    for n, values in enumerate(painted):
        y, x = config.patch * (n // columns), config.patch * (n % columns)
        frame[:, y : y + config.patch, x : x + config.patch] = values.reshape(config.patch, config.patch, 3).permute(
            2, 0, 1
        )
    return mean, log_variance, 1 / (1 + torch.exp(-frame))


@torch.no_grad()
def test_the_whole_forward_pass_equals_the_explicit_one():
    model, frames = small_model(), some_frames()
    output = model(frames, sample=False)
    for i, pair in enumerate(frames):
        mean, log_variance, frame = published_forward(model, pair)
        torch.testing.assert_close(output.posterior.mean[i], mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.posterior.log_variance[i], log_variance, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close((output.prediction[i] + 1) / 2, frame, atol=1e-5, rtol=1e-5)
    assert torch.equal(output.code, output.posterior.mean)


@torch.no_grad()
def test_the_explicit_pass_notices_swapped_frames():
    """The negative control of the test above: it would fail for a model that takes the pair the other way round."""
    model, frames = small_model(), some_frames()
    mean = model.encode(frames.flip(1)).mean
    assert (mean[0] - published_forward(model, frames[0])[0]).abs().max() > 1e-2


# The pieces ------------------------------------------------------------------------------------------------------


def test_patches_go_row_by_row_and_hold_rows_of_rgb_pixels():
    image = torch.arange(2 * 3 * 16 * 24).float().reshape(1, 2, 3, 16, 24)
    patches = patchify(image, 8)
    assert patches.shape == (1, 2, 6, 192)
    expected = torch.stack([cut(frame, 8) for frame in image[0]])
    assert torch.equal(patches[0], expected)
    assert torch.equal(unpatchify(patches[:, 1], patch=8, height=16, width=24), image[:, 1])


def test_sinusoids_run_over_the_token_index_and_the_prompt_is_token_0():
    torch.testing.assert_close(sinusoidal_positions(7, 12), positions(7, 12), atol=1e-6, rtol=0)
    model = small_model()
    assert model.encoder.positions.shape == (SMALL.tokens + 1, SMALL.channels)  # the encoder's prompt takes index 0
    assert model.decoder.positions.shape == (SMALL.tokens, SMALL.channels)
    assert not any("positions" in name for name in model.state_dict())


def test_two_frame_attention_equals_rotary_softmax_attention():
    q, k, v = torch.randn(3, 2, 2, 4, 3, 8).unbind(0)  # (B, 2, N, H, D)
    freqs = torch.tensor([10_000 ** (-2 * i / 8) for i in range(4)])
    attended = two_frame_attention(q, k, v, freqs)
    for b in range(2):
        for n in range(4):
            for h in range(3):
                queries = torch.stack([turn(q[b, t, n, h], t) for t in range(2)])
                keys = torch.stack([turn(k[b, t, n, h], t) for t in range(2)])
                expected = torch.softmax(queries @ keys.T / math.sqrt(8), dim=-1) @ v[b, :, n, h]
                torch.testing.assert_close(attended[b, :, n, h], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_first_frame_sees_the_second():
    """Temporal attention is not causal: what frame 1 shows reaches frame 0's tokens."""
    model, frames = small_model(), some_frames(pairs=1)
    changed = frames.clone()
    changed[:, 1] = -changed[:, 1]

    def first_frame_tokens(x: Tensor) -> Tensor:
        patches = patchify((x + 1) / 2, 8)
        return model.encoder(torch.cat((model.action_prompt.expand(1, 2, 1, -1), patches), dim=2))[:, 0]

    assert (first_frame_tokens(frames) - first_frame_tokens(changed)).abs().max() > 1e-3


@torch.no_grad()
def test_the_decoder_knows_the_second_frame_only_through_the_latent_action():
    model, frames = small_model(), some_frames()
    other = frames.clone()
    other[:, 1] = torch.rand_like(other[:, 1])
    latent_action = torch.randn(3, SMALL.latent_dim)
    assert torch.equal(model.decode(frames[:, 0], latent_action), model.decode(other[:, 0], latent_action))
    assert not torch.allclose(model(frames, sample=False).prediction, model(other, sample=False).prediction)


@torch.no_grad()
def test_samples_have_the_posterior_spread():
    model = small_model()
    posterior = model.encode(some_frames(pairs=1).expand(4000, -1, -1, -1, -1))
    torch.manual_seed(0)
    samples = posterior.sample()
    torch.testing.assert_close(samples.mean(0), posterior.mean[0], atol=0.1, rtol=0)
    torch.testing.assert_close(samples.std(0), (0.5 * posterior.log_variance[0]).exp(), atol=0.1, rtol=0.05)


# Running it ------------------------------------------------------------------------------------------------------


def gradients(model: DreamDojoLam, frames: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    (model(frames, sample=True).prediction - frames[:, 1]).square().mean().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_gradient_checkpointing_changes_no_gradient():
    model, frames = small_model(), some_frames()
    plain = gradients(model, frames)
    model.enable_gradient_checkpointing()
    checkpointed = gradients(model, frames)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


@torch.no_grad()
def test_bf16_autocast_stays_close_and_returns_float32():
    model, frames = small_model(), some_frames()
    exact = model(frames, sample=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(frames, sample=False)
    assert rough.prediction.dtype == rough.posterior.mean.dtype == rough.posterior.log_variance.dtype == torch.float32
    assert (rough.posterior.mean - exact.posterior.mean).norm() < 0.05 * exact.posterior.mean.norm()
    assert (rough.prediction - exact.prediction).abs().max() < 0.05


@pytest.mark.slow
@torch.no_grad()
def test_it_compiles_without_a_graph_break():
    model, frames = small_model(), some_frames()
    expected = model(frames, sample=False)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True)
    torch.testing.assert_close(compiled(frames, sample=False).prediction, expected.prediction, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("preset", "millions"), [(presets.dreamdojo, 709.8), (presets.dreamdojo_tiny, 2.1)])
def test_preset_sizes(preset, millions: float):
    with torch.device("meta"):
        model = DreamDojoLam(preset().model)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 250}, "height 250 is not a multiple of the patch size 16; the nearest that are: 240 and 256"),
        ({"channels": 1000}, "channels 1000 over 16 heads"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, not 0"),
        ({"design": "both"}, "'both'"),
    ],
)
def test_a_config_that_cannot_work_says_why(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        LamModelConfig(**change)


def test_frames_of_another_size_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match=r"expected frames of shape \(B, 2, 3, 16, 24\), got \(1, 2, 3, 24, 16\)"):
        model.encode(torch.zeros(1, 2, 3, 24, 16))
    with pytest.raises(ValueError, match="expected frames of shape"):
        model.encode(torch.zeros(1, 3, 3, 16, 24))
