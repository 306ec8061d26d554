"""Transformer blocks of the latent action models; the names are those of the published DreamDojo checkpoint.

Axes: B pairs, 2 frames of a pair, N tokens of one frame, C channels, H heads, D channels of one head (C = H * D).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def patchify(images_BTCHW: Tensor, patch: int) -> Tensor:
    """(B, T, 3, H, W) -> (B, T, N, patch * patch * 3): patches row by row, each as rows of RGB pixels."""
    batch, frames, colours, height, width = images_BTCHW.shape
    rows, columns = height // patch, width // patch
    x = images_BTCHW.reshape(batch, frames, colours, rows, patch, columns, patch)
    return x.permute(0, 1, 3, 5, 4, 6, 2).reshape(batch, frames, rows * columns, patch * patch * colours)


def unpatchify(patches_BNV: Tensor, *, patch: int, height: int, width: int) -> Tensor:
    """(B, N, patch * patch * K) -> (B, K, height, width), the inverse of `patchify` for one frame of K planes."""
    rows, columns = height // patch, width // patch
    x = patches_BNV.reshape(len(patches_BNV), rows, columns, patch, patch, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches_BNV), -1, height, width)


def sinusoidal_positions(tokens: int, channels: int) -> Tensor:
    """(tokens, channels): sine and cosine of the token index alternate over the channels (arXiv 1706.03762, 3.5)."""
    frequencies = torch.exp(-torch.arange(0, channels, 2) / channels * torch.log(torch.tensor(10_000.0)))
    angles = torch.arange(tokens)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def spatial_attention(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor) -> Tensor:
    """Softmax attention among the tokens of one frame; (B, N, H, D) in and out."""
    return F.scaled_dot_product_attention(
        q_BNHD.transpose(1, 2), k_BNHD.transpose(1, 2), v_BNHD.transpose(1, 2)
    ).transpose(1, 2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn channels (2i, 2i + 1) of the last axis (D) by angles[i]: rotary positions in interleaved pairs (D / 2)."""
    # As complex numbers: on a CPU half the time of sines and cosines over strided halves.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def two_frame_attention(q_B2NHD: Tensor, k_B2NHD: Tensor, v_B2NHD: Tensor, freqs: Tensor) -> Tensor:
    """Rotary softmax attention of each token over its own two frames, not causal; (B, 2, N, H, D) in and out.

    A softmax over two is a sigmoid of the difference of the logits, and frame 0 is turned by no angle, so all of it is
    a few elementwise operations: no transposes and no 2x2 matrix products. freqs (D / 2): radians per frame.
    """
    q_0, q_1 = q_B2NHD.unbind(1)
    k_0, k_1 = k_B2NHD.unbind(1)
    v_0, v_1 = v_B2NHD.unbind(1)
    key_difference = rotate(k_1, freqs) - k_0
    logit_0 = (q_0 * key_difference).sum(-1)
    logit_1 = (rotate(q_1, freqs) * key_difference).sum(-1)
    scale = q_0.shape[-1] ** -0.5
    share_of_frame_1 = torch.sigmoid(scale * torch.stack((logit_0, logit_1), dim=1)).to(v_0.dtype)  # (B, 2, N, H)
    return v_0[:, None] + share_of_frame_1[..., None] * (v_1 - v_0)[:, None]


class SelfAttention(nn.Module):
    """Projections around an attention function: no bias on q, k and v, one on the output."""

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return spatial_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)) for project in (self.to_q, self.to_k, self.to_v))
        return self.to_out(self.attend(q, k, v).flatten(-2))


class RotaryEmbedding(nn.Module):
    """Holds the rotary frequencies, which the published checkpoint stores: 10,000^(-2i / D) for i < D / 2."""

    freqs: Tensor

    def __init__(self, head_channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 10_000.0 ** (-torch.arange(0, head_channels, 2) / head_channels))


class TemporalAttention(SelfAttention):
    """Attention of each token over the two frames of its pair: x (B, 2, N, C)."""

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__(channels, heads=heads)
        self.rotary_embedding = RotaryEmbedding(channels // heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return two_frame_attention(q, k, v, self.rotary_embedding.freqs)


def feed_forward(channels: int) -> nn.Sequential:
    # The identity stands where the published network has a dropout of 0, so that the indices 0 and 3 agree.
    return nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Identity(), nn.Linear(4 * channels, channels))


class SpatialBlock(nn.Module):
    """Pre-norm transformer block over the tokens of one frame: x (B, N, C)."""

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.spatial_attn = SelfAttention(channels, heads=heads)
        self.ffn = feed_forward(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.spatial_attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class ConditionedBlock(nn.Module):
    """A `SpatialBlock` whose norms and branches a condition scales and shifts (adaptive norm, arXiv 2212.09748).

    x (B, N, C), condition (B, C). It starts as a plain block: the condition's layer is zero.
    """

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.spatial_attn = SelfAttention(channels, heads=heads)
        self.ffn = feed_forward(channels)
        self.norm1 = nn.LayerNorm(channels, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(channels, elementwise_affine=False)
        self.modulation = nn.Linear(channels, 6 * channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + (1 + gate_1) * self.spatial_attn(self.norm1(x) * (1 + scale_1) + shift_1)
        return x + (1 + gate_2) * self.ffn(self.norm2(x) * (1 + scale_2) + shift_2)


class SpatioTemporalBlock(nn.Module):
    """Pre-norm block for a pair: within each frame, then across the two frames, then the MLP: x (B, 2, N, C)."""

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.spatial_attn = SelfAttention(channels, heads=heads)
        self.temporal_attn = TemporalAttention(channels, heads=heads)
        self.ffn = feed_forward(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        within_frames = self.spatial_attn(self.norm1(x).flatten(0, 1))  # (B * 2, N, C)
        x = x + within_frames.unflatten(0, (-1, 2))
        x = x + self.temporal_attn(self.norm2(x))
        return x + self.ffn(self.norm3(x))


class TokenTransformer(nn.Module):
    """Stem, fixed positions over the token index, blocks, output layer: (..., N, inputs) -> (..., N, outputs)."""

    positions: Tensor

    def __init__(self, *, inputs: int, channels: int, outputs: int, tokens: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, channels), nn.LayerNorm(channels))
        self.transformer_blocks = nn.ModuleList(blocks)
        self.out = nn.Linear(channels, outputs)
        self.register_buffer("positions", sinusoidal_positions(tokens, channels), persistent=False)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.ffn(x) + self.positions
        for block in self.transformer_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.out(x)
