"""What a latent sees: masks over a clip, and streams with a cache, against the definition in loops."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_mask, flex_attention

from tests.test_video_model import SIZE, TOKENS, acting, greatest, levels, noise, small
from video_model.cache import KVCache, attention_mask, block_mask, visible_frames
from video_model.layers import Actions, TextContext, rotary
from video_model.model import VideoModel

# Masks


def test_visible_frames():
    assert visible_frames(5, window=2, sink=1).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 0, 1, 1, 1],
    ]
    assert torch.equal(visible_frames(5), torch.ones(5, 5).tril().bool())


def test_a_dense_mask_repeats_frames_over_tokens():
    mask = attention_mask(visible_frames(3, window=1), tokens=2)
    assert isinstance(mask, Tensor)
    assert mask.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
    ]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_of_a_gpu_is_the_dense_mask():
    visible = visible_frames(4, window=1, sink=1)
    dense, blocks = attention_mask(visible, tokens=50), block_mask(visible, tokens=50)
    assert isinstance(dense, Tensor)
    assert torch.equal(create_mask(blocks.mask_mod, None, None, 200, 200, device="cpu")[0, 0], dense)
    q, k, v = noise(3, 1, 2, 200, 16)
    assert greatest(flex_attention(q, k, v, block_mask=blocks), F.scaled_dot_product_attention(q, k, v, dense)) < 1e-5


def test_a_later_latent_changes_nothing_earlier():
    model = small()
    mask = attention_mask(visible_frames(5), tokens=TOKENS)
    latents, timesteps = noise(1, 4, 5, *SIZE), levels(1, 5)
    with torch.no_grad():
        before = model(latents, timesteps, mask=mask)
        for k in range(5):
            changed, later = latents.clone(), timesteps.clone()
            changed[:, :, k] += 1
            later[:, k] /= 2
            after = model(changed, later, mask=mask)
            assert torch.equal(after[:, :, :k], before[:, :, :k])
            assert all(greatest(after[:, :, i], before[:, :, i]) > 1e-4 for i in range(k, 5))
        everywhere = model(changed, timesteps) - model(latents, timesteps)
    assert all(everywhere[:, :, i].abs().max() > 1e-4 for i in range(5))


# Streams


def by_definition(
    model: VideoModel, latents: Tensor, timesteps: Tensor, *, window: int, sink: int, text: TextContext | None = None
) -> Tensor:
    """What a stream must give: each latent by loops over what it sees, from the layers but without mask, ring or cache.

    Query i sees the latents `seen`, at positions 0, 1, .. in their order, and itself last.
    """
    rows, columns = SIZE[0] // 2, SIZE[1] // 2
    x = model.patch_embed(model._with_mask_channels(latents, None))
    time, shared = model.time_embed(timesteps, x.dtype, None)
    for index, block in enumerate(model._blocks()):
        normed, gate = block.norm1(x, time, shared)
        q, (k, v) = block.attn1.queries(normed), block.attn1.keys_values(normed)  # (B, H, T, N, D)
        rows_of_output = []
        for i in range(latents.shape[2]):
            seen = [j for j in range(i + 1) if j < sink or i - window <= j]
            place = rotary(torch.arange(len(seen)), rows=rows, columns=columns, head_dim=16, scale=model.rope_scale)
            last = rotary(
                torch.tensor([len(seen) - 1]), rows=rows, columns=columns, head_dim=16, scale=model.rope_scale
            )
            scores = last.turn(q[:, :, i]) @ place.turn(k[:, :, seen].flatten(2, 3)).mT * 16**-0.5
            rows_of_output.append(scores.softmax(-1) @ v[:, :, seen].flatten(2, 3))  # (B, H, N, D)
        attended = torch.stack(rows_of_output, dim=2).movedim(1, 3).flatten(3)  # (B, T, N, C)
        x = x + gate * block.attn1.to_out[0](attended)
        if text is not None:
            normed, gate = block.norm2(x, time, shared)
            x = x + gate * block.attn2(normed, text.layers[index])
        normed, gate = block.norm3(x, time, shared)
        x = x + gate * block.ff(normed)
    values = model.proj_out(model.norm_out(x, time, shared))  # (B, T, N, 2 * 2 * 4)
    patches = values.unflatten(-1, (2, 2, -1)).unflatten(2, (rows, columns))
    return patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


def stream(model: VideoModel, cache: KVCache, latents: Tensor, timesteps: Tensor, **given: Any) -> list[Tensor]:
    """Denoise twice without keeping, then keep, as a sampler does; what the last pass gives."""
    outputs = []
    for i in range(latents.shape[2]):
        latent, level = latents[:, :, i : i + 1], timesteps[:, i]
        for extra in (0.5, 0.2):
            model(latent + extra, level + extra, cache=cache, **given)
        outputs.append(model(latent, level, cache=cache, append=True, **given))
    return outputs


@pytest.mark.parametrize(("window", "sink"), [(1, 0), (3, 0), (1, 1), (3, 1), (2, 2)])
def test_a_stream_beyond_its_window_is_the_definition(window: int, sink: int):
    model, latents, timesteps = small(), noise(2, 4, 11, *SIZE), levels(2, 11)
    with torch.no_grad():
        expected = by_definition(model, latents, timesteps, window=window, sink=sink)
        cache = model.empty_cache(batch=2, height=SIZE[0], width=SIZE[1], window=window, sink=sink)
        streamed = torch.cat(stream(model, cache, latents, timesteps), dim=2)
        mask = attention_mask(visible_frames(11, window=window, sink=sink), tokens=TOKENS)
        masked = model(latents, timesteps, mask=mask)
    assert greatest(streamed, expected) < 1e-5
    same = 11 if sink == 0 else sink + window + 1  # later, a sink moves along in a stream and stays in a masked clip
    assert greatest(masked[:, :, :same], streamed[:, :, :same]) < 1e-5
    assert same == 11 or greatest(masked[:, :, same:], streamed[:, :, same:]) > 1e-4


def test_a_stream_with_text_and_actions_is_the_masked_pass():
    text_sizes = {"text_embed_dim": 24, "rope_scale": (1.0, 3.0, 3.0)}
    model, latents, timesteps = acting(**text_sizes), noise(2, 4, 7, *SIZE), levels(2, 7)
    values, mask = noise(2, 24, 3, seed=5), attention_mask(visible_frames(7, window=2), tokens=TOKENS)
    with torch.no_grad():
        text = model.project_text(noise(1, 5, 24, seed=3))
        masked = model(latents, timesteps, text=text, mask=mask, actions=Actions(values, "latent"))
        cache = model.empty_cache(batch=2, height=SIZE[0], width=SIZE[1], window=2, sink=0)
        for i in range(7):
            actions = Actions(values[:, 4 * i - 4 : 4 * i], "latent", mid_clip=True) if i else None
            latent, level = latents[:, :, i : i + 1], timesteps[:, i]
            given = {"text": text, "actions": actions, "cache": cache}
            assert greatest(model(latent, level, append=True, **given), masked[:, :, i : i + 1]) < 1e-5


def test_streams_of_one_model_do_not_touch_each_other():
    model, latents, timesteps = small(), noise(3, 4, 8, *SIZE), levels(3, 8)

    def new(sink: int) -> KVCache:
        return model.empty_cache(batch=1, height=SIZE[0], width=SIZE[1], window=2, sink=sink)

    with torch.no_grad():
        alone = [stream(model, new(s), latents[s : s + 1], timesteps[s : s + 1]) for s in range(3)]
        caches = [new(s) for s in range(3)]
        for i in range(8):
            for s in range(3):
                latent, level = latents[s : s + 1, :, i : i + 1], timesteps[s : s + 1, i : i + 1]
                assert torch.equal(stream(model, caches[s], latent, level)[0], alone[s][i])


def test_a_pass_that_does_not_append_leaves_the_cache_as_it_is():
    model, latents, timesteps = small(), noise(1, 4, 5, *SIZE), levels(1, 5)
    cache = model.empty_cache(batch=1, height=SIZE[0], width=SIZE[1], window=2, sink=1)
    with torch.no_grad():
        stream(model, cache, latents, timesteps)
        keys, values = cache.keys.clone(), cache.values.clone()
        model(latents[:, :, :1], timesteps[:, 0], cache=cache)
    assert cache.written == 5 and torch.equal(cache.keys, keys) and torch.equal(cache.values, values)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_survive_what_is_appended_after_their_pass(recompute: bool):
    latents, timesteps = noise(1, 4, 4, *SIZE), levels(1, 4)

    def gradient(append_before_backward: bool) -> Tensor:
        model = small()
        if recompute:
            model.enable_gradient_checkpointing()
        cache = model.empty_cache(batch=1, height=SIZE[0], width=SIZE[1], window=2, sink=0)
        with torch.no_grad():
            stream(model, cache, latents[:, :, :3], timesteps[:, :3])
        loss = model(latents[:, :, 3:], timesteps[:, 3], cache=cache).square().mean()
        if append_before_backward:
            with torch.no_grad():
                stream(model, cache, latents[:, :, :2] + 3, timesteps[:, :2])
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    assert torch.equal(gradient(False), gradient(True))
    assert gradient(False).abs().max() > 1e-3


def test_what_a_cache_cannot_do_is_refused():
    model, latent, level = small(), noise(1, 4, 1, *SIZE), levels(1)
    cache = model.empty_cache(batch=1, height=SIZE[0], width=SIZE[1], window=2, sink=0)
    mask, positions = attention_mask(visible_frames(1), tokens=TOKENS), torch.zeros(1)
    for given, message in (
        ({"mask": mask, "cache": cache}, "no mask"),
        ({"positions": positions, "cache": cache}, "no positions"),
        ({"append": True}, "needs a cache"),
        ({"cache": cache, "append": True}, "no_grad"),
    ):
        with pytest.raises(ValueError, match=message):
            model(latent, level, **given)
    with pytest.raises(ValueError, match=r"\(1, 1, 6\), not \(1, 2, 6\)"):
        model(noise(1, 4, 2, *SIZE), level, cache=cache)
    with pytest.raises(ValueError, match=r"\(2, 1, 6\), not \(1, 1, 6\)"):
        model(noise(2, 4, 1, *SIZE), levels(2), cache=cache)
    with pytest.raises(ValueError, match="window must be at least 1"):
        model.empty_cache(batch=1, height=4, width=6, window=0, sink=1)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_stream_in_bf16_is_close(autocast: bool):
    model, latents, timesteps = small(), noise(1, 4, 6, *SIZE), levels(1, 6)
    with torch.no_grad():
        exact = by_definition(model, latents, timesteps, window=2, sink=1)
        if not autocast:
            model, latents = model.bfloat16(), latents.bfloat16()
        cache = model.empty_cache(batch=1, height=SIZE[0], width=SIZE[1], window=2, sink=1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            streamed = torch.cat(stream(model, cache, latents, timesteps), dim=2)
    assert streamed.dtype == torch.bfloat16
    assert (streamed.float() - exact).square().mean() < 1e-2 * exact.square().mean()


@pytest.mark.parametrize("written", [4, 5, 6, 7, 8])
def test_a_full_cache_is_turned_to_begin_with_its_oldest_latent(written: int) -> None:
    """Latent n, when it is written, is a tensor of n; the sink keeps latent 0, the ring of three the last ones."""
    kept = torch.tensor([0.0, *range(written - 3, written)])
    keys = torch.empty(1, 1, 1, 4, 1, 2)
    for place in range(4):
        latent = 0 if place == 0 else max(n for n in range(1, written) if (n - 1) % 3 == place - 1)
        keys[:, :, :, place] = latent
    cache = KVCache(keys, -keys, sink=1, window=3, written=written)
    turned = cache.turned()
    assert turned.keys[0, 0, 0, :, 0, 0].tolist() == kept.tolist() and torch.equal(turned.values, -turned.keys)
    assert turned.positions().tolist() == [0, 1, 2, 3] and turned.slot().tolist() == [1], "the next replaces the oldest"
    assert cache.keys is keys and cache.written == written
