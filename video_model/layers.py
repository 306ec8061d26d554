"""Layers of the video model, with the parameter names and numerics of diffusers' CosmosTransformer3DModel.

Axes: B samples, T latent frames, N tokens of one frame, C channels, H heads, D channels of one head (C = H * D),
S tokens of a sequence of frames (T * N), A values of one action. Time and modulation are (B, T, ...), or (B, 1, ...)
where all frames share them.
"""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from video_model.cache import AttentionMask, LayerCache

ACTIONS_PER_LATENT = 4
"""Frames, and therefore actions, that one latent stands for; the first latent of a clip is one frame and has none."""


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of S tokens: cosine and sine (S, D / 2) of each pair's angle."""

    cos: Tensor
    sin: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """x (B, H, S, D) -> the same, with channels (i, i + D / 2) turned."""
        first, second = x.float().chunk(2, dim=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return torch.cat(turned, dim=-1).to(x.dtype)


def rotary(positions: Tensor, *, rows: int, columns: int, head_dim: int, scale: tuple[float, float, float]) -> Rotary:
    """Three-axis rotary positions: of the frames at `positions` (T,), each with rows x columns tokens.

    Of the D channels of a head, D // 6 * 2 turn by row, as many by column, the rest by time. `scale` (time, rows,
    columns) stretches an axis in the NTK-aware way: base 10,000 times scale^(d / (d - 2)) for the axis' d channels.
    """
    d_space = head_dim // 6 * 2
    d_time = head_dim - 2 * d_space

    def angles(places: Tensor, channels: int, stretch: float) -> Tensor:
        base = 10_000.0 * stretch ** (channels / (channels - 2))
        exponents = torch.arange(0, channels, 2, device=positions.device, dtype=torch.float32) / channels
        return torch.outer(places.float(), base**-exponents)

    shape = (len(positions), rows, columns, -1)
    time = angles(positions, d_time, scale[0])[:, None, None].expand(shape)
    row = angles(torch.arange(rows, device=positions.device), d_space, scale[1])[:, None].expand(shape)
    column = angles(torch.arange(columns, device=positions.device), d_space, scale[2]).expand(shape)
    both = torch.cat((time, row, column), dim=-1).flatten(0, 2)
    return Rotary(both.cos(), both.sin())


@functools.cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    # Uncompiled, flex attention holds the whole matrix of scores.
    return torch.compile(flex_attention)  # pyright: ignore[reportReturnType]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    """Softmax attention: q (B, H, S, D), k and v (B, H, S', D) -> (B, H, S, D), in the dtype of v. No mask sees all."""
    q, k = q.to(v.dtype), k.to(v.dtype)
    if isinstance(mask, BlockMask):
        return _compiled_flex_attention()(q, k, v, block_mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class RmsNorm(nn.RMSNorm):
    """RMS norm in the dtype of its input, so that the fused kernel also serves under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Projections without biases and the norms of queries and keys, each head by itself."""

    def __init__(self, channels: int, *, heads: int, context_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels, bias=False)])
        self.norm_q = RmsNorm(channels // heads, eps=1e-5)
        self.norm_k = RmsNorm(channels // heads, eps=1e-5)

    def queries(self, x: Tensor) -> Tensor:
        """(B, ..., C) -> (B, H, ..., D)."""
        return self.norm_q(self.to_q(x).unflatten(-1, (self.heads, -1))).movedim(-2, 1)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ..., C of the context) -> keys and values (B, H, ..., D)."""
        keys = self.norm_k(self.to_k(x).unflatten(-1, (self.heads, -1))).movedim(-2, 1)
        return keys, self.to_v(x).unflatten(-1, (self.heads, -1)).movedim(-2, 1)

    def output(self, attended: Tensor, like: Tensor) -> Tensor:
        """(B, H, S, D) -> (B, T, N, C), the shape of `like`."""
        return self.to_out[0](attended.transpose(1, 2).reshape(like.shape))


class SelfAttention(Attention):
    """Attention among the tokens of all frames of a clip, or of one frame and those in a cache."""

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__(channels, heads=heads, context_channels=channels)

    def forward(
        self, x: Tensor, here: Rotary, mask: AttentionMask | None, past: tuple[LayerCache, Rotary] | None
    ) -> Tensor:
        """x (B, T, N, C) at the positions `here` -> (B, T, N, C). `past` is a cache and its latents' positions."""
        q = self.queries(x)  # (B, H, T, N, D)
        k, v = self.keys_values(x)
        all_k, all_v = here.turn(k.flatten(2, 3)), v.flatten(2, 3)
        if past is not None:
            cache, there = past
            all_k = torch.cat((there.turn(cache.past_keys.flatten(2, 3)), all_k), dim=2)
            all_v = torch.cat((cache.past_values.flatten(2, 3).to(v.dtype), all_v), dim=2)
            cache.append(k, v)
        return self.output(attend(here.turn(q.flatten(2, 3)), all_k, all_v, mask), like=x)


class CrossAttention(Attention):
    """Attention of each token to the text."""

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, T, N, C); keys and values of the text, each (B or 1, H, words, D) -> (B, T, N, C)."""
        q = self.queries(x).flatten(2, 3)
        k, v = (part.expand(len(x), -1, -1, -1) for part in text)
        return self.output(attend(q, k, v, None), like=x)


class AdaptiveNorm(nn.Module):
    """Layer norm scaled and shifted by the time, through a narrow layer (AdaLN-LoRA, arXiv 2501.03575, 5.1).

    Modulation is one vector per frame, whatever the number of tokens.
    """

    parts = 2

    def __init__(self, channels: int, *, lora_channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, lora_channels, bias=False)
        self.linear_2 = nn.Linear(lora_channels, self.parts * channels, bias=False)

    def modulation(self, time: Tensor, shared: Tensor) -> tuple[Tensor, ...]:
        """time (B, T, C), shared (B, T, 3 C) -> shift, scale and, with three parts, gate: each (B, T, 1, C)."""
        own = self.linear_2(self.linear_1(F.silu(time)))
        return (own + shared[..., : own.shape[-1]])[:, :, None].chunk(self.parts, dim=-1)

    def forward(self, x: Tensor, time: Tensor, shared: Tensor) -> Tensor:
        shift, scale = self.modulation(time, shared)
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class GatedAdaptiveNorm(AdaptiveNorm):
    """An `AdaptiveNorm` that also gives the gate of the branch it opens."""

    parts = 3

    def forward(self, x: Tensor, time: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, gate = self.modulation(time, shared)
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift, gate


class GeluProjection(nn.Module):
    """A linear layer and a GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """The MLP of a block, without biases."""

    def __init__(self, channels: int, *, hidden: int) -> None:
        super().__init__()
        # The identity stands where diffusers has a dropout of 0, so that the index 2 agrees.
        projections = [GeluProjection(channels, hidden), nn.Identity(), nn.Linear(hidden, channels, bias=False)]
        self.net = nn.Sequential(*projections)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@dataclass(frozen=True)
class TextContext:
    """Keys and values of a text in each block, made once by `VideoModel.project_text`; each (B or 1, H, words, D)."""

    layers: tuple[tuple[Tensor, Tensor], ...]


class Block(nn.Module):
    """Self-attention, attention to the text (with `text_channels`), MLP; each with adaptive norm and gate."""

    def __init__(self, channels: int, *, heads: int, text_channels: int, hidden: int, lora_channels: int) -> None:
        super().__init__()
        self.norm1 = GatedAdaptiveNorm(channels, lora_channels=lora_channels)
        self.attn1 = SelfAttention(channels, heads=heads)
        if text_channels:
            self.norm2 = GatedAdaptiveNorm(channels, lora_channels=lora_channels)
            self.attn2 = CrossAttention(channels, heads=heads, context_channels=text_channels)
        self.norm3 = GatedAdaptiveNorm(channels, lora_channels=lora_channels)
        self.ff = FeedForward(channels, hidden=hidden)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        shared: Tensor,
        here: Rotary,
        mask: AttentionMask | None,
        text: Tensor | tuple[Tensor, Tensor] | None,
        past: tuple[LayerCache, Rotary] | None,
    ) -> Tensor:
        """x (B, T, N, C), time (B, T, C), shared modulation (B, T, 3 C) -> (B, T, N, C).

        text: (B or 1, words, text_channels), or its keys and values.
        """
        normed, gate = self.norm1(x, time, shared)
        x = x + gate * self.attn1(normed, here, mask, past)
        if text is not None:
            normed, gate = self.norm2(x, time, shared)
            # Projected in here, not before the blocks: sharded weights (FSDP2) are only whole inside their block.
            x = x + gate * self.attn2(normed, self.attn2.keys_values(text) if isinstance(text, Tensor) else text)
        normed, gate = self.norm3(x, time, shared)
        return x + gate * self.ff(normed)


class PatchEmbedding(nn.Module):
    """One linear layer over each patch of `patch` x `patch` latent pixels."""

    def __init__(self, inputs: int, channels: int, *, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(inputs * patch * patch, channels, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, inputs, T, h, w) -> (B, T, N, C)."""
        rows = latents.unflatten(4, (-1, self.patch)).unflatten(3, (-1, self.patch))  # (B, I, T, rows, p, columns, p)
        return self.proj(rows.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3))


def unpatchify(values: Tensor, *, patch: int, rows: int, columns: int) -> Tensor:
    """(B, T, N, patch * patch * K) -> (B, K, T, h, w). Unlike in `PatchEmbedding`, a patch's channels come last."""
    x = values.unflatten(3, (patch, patch, -1)).unflatten(2, (rows, columns))  # (B, T, rows, columns, p, p, K)
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


class TimestepMlp(nn.Module):
    """What all adaptive norms share: (B, T, C) -> (B, T, 3 C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, channels, bias=False)
        self.linear_2 = nn.Linear(channels, 3 * channels, bias=False)

    def forward(self, time: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(time)))


class TimeEmbedding(nn.Module):
    """From noise levels, and what actions add, to the time and the shared modulation of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.t_embedder = TimestepMlp(channels)
        self.norm = RmsNorm(channels, eps=1e-6)

    def forward(
        self, timesteps: Tensor, dtype: torch.dtype, actions: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """timesteps (B, T) or (B, 1) -> time (B, T, C) and modulation (B, T, 3 C); `actions` is added to each."""
        half = self.channels // 2
        frequencies = torch.exp(torch.arange(half, device=timesteps.device) * (-math.log(10_000.0) / half))
        angles = timesteps.float()[..., None] * frequencies
        time = torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype)
        shared = self.t_embedder(time)
        if actions is not None:
            time, shared = time + actions[0], shared + actions[1]
        return self.norm(time), shared


@dataclass(frozen=True)
class Actions:
    """What is done between the frames of a window of T latents."""

    values: Tensor
    """(B, 4 (T - 1), A), or (B, 4 T, A) with `mid_clip`; values[:, t] is the change from frame t to frame t + 1."""
    embodiment: str
    """Whose actions these are: a name in the model's `embodiments`."""
    kept: Tensor | None = None
    """(B,) bool: samples with False have no actions (dropped); or (B, T) with `mid_clip`, for each latent. None: all
    have."""
    mid_clip: bool = False
    """The first latent of the window stands for four frames, not for the first frame of a clip."""


class ActionEmbedding(nn.Module):
    """Actions of a latent -> what they add to its time embedding and to its shared modulation (arXiv 2602.06949).

    Two MLPs with one hidden layer. The hidden layers of both are one projection per embodiment; the output layers are
    shared, and zero at the start: an untrained embedding changes nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = 4 * channels
        self.inputs = nn.ModuleDict()
        self.to_time = nn.Linear(self.hidden, channels)
        self.to_modulation = nn.Linear(self.hidden, 3 * channels)
        for layer in (self.to_time, self.to_modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def add(self, name: str, action_dim: int) -> None:
        """A new input projection, of the dtype and on the device of the shared layers."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict, name):
            raise ValueError(f"'{name}' cannot name an embodiment: letters, digits, _ and -, and no name of a method")
        if name in self.inputs:
            raise ValueError(f"there is an embodiment '{name}' already")
        if action_dim < 1:
            raise ValueError(f"the actions of '{name}' must have at least 1 value, not {action_dim}")
        like = self.to_time.weight
        layer = nn.Linear(ACTIONS_PER_LATENT * action_dim, 2 * self.hidden, device=like.device, dtype=like.dtype)
        initialise_linear(layer)
        self.inputs[name] = layer

    def forward(self, actions: Actions, frames: int) -> tuple[Tensor, Tensor]:
        """-> (B, T, C) and (B, T, 3 C) for T `frames` (latents); exactly zero where there is no action."""
        if actions.embodiment not in self.inputs:
            raise ValueError(f"no embodiment '{actions.embodiment}'; there are: {', '.join(self.inputs)}")
        project = cast(nn.Linear, self.inputs[actions.embodiment])
        latents = frames if actions.mid_clip else frames - 1
        batch, count, action_dim = actions.values.shape
        if count != ACTIONS_PER_LATENT * latents or ACTIONS_PER_LATENT * action_dim != project.in_features:
            raise ValueError(
                f"{frames} latents {'in mid-clip' if actions.mid_clip else 'from the start of a clip'} take "
                f"{ACTIONS_PER_LATENT * latents} actions of {project.in_features // ACTIONS_PER_LATENT} values "
                f"for '{actions.embodiment}', not {count} of {action_dim}"
            )
        chunks = actions.values.reshape(batch, latents, ACTIONS_PER_LATENT * action_dim)
        for_time, for_modulation = F.gelu(project(chunks), approximate="tanh").chunk(2, dim=-1)
        added = (self.to_time(for_time), self.to_modulation(for_modulation))
        if actions.kept is not None:
            dropped = ~(actions.kept if actions.kept.ndim == 2 else actions.kept[:, None])[..., None]
            added = (added[0].masked_fill(dropped, 0), added[1].masked_fill(dropped, 0))
        if actions.mid_clip:
            return added
        return F.pad(added[0], (0, 0, 1, 0)), F.pad(added[1], (0, 0, 1, 0))


def initialise_linear(layer: nn.Linear) -> None:
    """Truncated normal weights by fan-in, no bias."""
    std = layer.in_features**-0.5
    nn.init.trunc_normal_(layer.weight, std=std, a=-3 * std, b=3 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
