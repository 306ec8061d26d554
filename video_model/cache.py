"""What a latent frame sees of the past: a mask over a whole clip in training, a ring of keys and values in streaming.

Both mean the same: a latent attends to itself, to the `window` latents before it, and to the first `sink` latents.

Axes: L layers, B samples, H heads, T latent frames, F frames in the cache, N tokens of one frame, D channels of a head.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from typing_extensions import Self

AttentionMask = Tensor | BlockMask
"""A dense bool mask (T * N, T * N), or a block mask for flex attention."""


def visible_frames(frames: int, *, window: int | None = None, sink: int = 0) -> Tensor:
    """Bool (T, T): whether the query frame (row) sees the key frame (column). `window` None is the whole past."""
    query, key = torch.arange(frames)[:, None], torch.arange(frames)
    recent = key >= query - (frames if window is None else window)
    return (key <= query) & (recent | (key < sink))


def attention_mask(visible_TT: Tensor, *, tokens: int) -> AttentionMask:
    """The mask over tokens for a bool (T, T) over frames, such as `visible_frames` gives, with `tokens` per frame.

    On a CPU dense, for scaled dot-product attention; on a GPU a block mask, for flex attention.
    """
    if visible_TT.is_cuda:
        return block_mask(visible_TT, tokens=tokens)
    return visible_TT.repeat_interleave(tokens, dim=0).repeat_interleave(tokens, dim=1)


def block_mask(visible_TT: Tensor, *, tokens: int) -> BlockMask:
    """`attention_mask` for flex attention, on the device of `visible_TT`."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible_TT[query // tokens, key // tokens]

    length = len(visible_TT) * tokens
    return create_block_mask(sees, B=None, H=None, Q_LEN=length, KV_LEN=length, device=str(visible_TT.device))


@dataclass
class KVCache:
    """Keys and values of the latents that a stream still sees. The caller owns it; a network only reads and appends.

    The first `sink` latents stay; the later ones share a ring of `window` slots, the newest in place of the oldest.
    Keys are kept before rotary positions and turned when read: whatever the stream's length, positions run from 0
    (the oldest kept) to sink + window (the latent being made). Positions in a clip of at most sink + window + 1 latents
    are therefore the same as without a cache; in a longer one a sink keeps its distance, as if it moved along.
    """

    keys: Tensor
    """(L, B, H, sink + window, N, D)."""
    values: Tensor
    sink: int
    window: int
    written: int = 0
    """Latents appended so far."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.sink < 0:
            raise ValueError(f"window must be at least 1 and sink not negative, not {self.window} and {self.sink}")

    def copy(self) -> Self:
        return replace(self, keys=self.keys.clone(), values=self.values.clone())

    def turned(self) -> Self:
        """A full cache's copy that begins with its oldest latent: of the same form whenever the stream began."""
        assert self.filled == self.sink + self.window
        order = self.positions().argsort()
        return replace(self, keys=self.keys[:, :, :, order], values=self.values[:, :, :, order], written=self.filled)

    @property
    def filled(self) -> int:
        """Latents that can be seen: those in the first slots."""
        return min(self.written, self.sink + self.window)

    def positions(self) -> Tensor:
        """(F,) temporal position of each filled slot, on the cache's device: 0 for the oldest latent."""
        slots = torch.arange(self.filled, device=self.keys.device)
        in_ring = self.written - self.sink
        if in_ring <= self.window:
            return slots
        oldest = in_ring % self.window
        return torch.where(slots < self.sink, slots, self.sink + (slots - self.sink - oldest) % self.window)

    def slot(self) -> Tensor:
        """(1,) where the next latent goes, on the cache's device."""
        in_ring = self.written - self.sink
        place = self.written if in_ring < 0 else self.sink + in_ring % self.window
        return torch.tensor([place], device=self.keys.device)

    def layer(self, index: int, *, slot: Tensor | None) -> "LayerCache":
        """What block `index` reads and, with a slot, where it writes."""
        keys, values = self.keys[index], self.values[index]
        past_keys, past_values = keys[:, :, : self.filled], values[:, :, : self.filled]
        if torch.is_grad_enabled():
            # The backward pass comes after later latents have been written over these.
            past_keys, past_values = past_keys.clone(), past_values.clone()
        return LayerCache(keys, values, past_keys=past_keys, past_values=past_values, slot=slot)


@dataclass(frozen=True)
class LayerCache:
    """One block's part of a `KVCache`, during one pass."""

    keys: Tensor
    """(B, H, sink + window, N, D), to write to."""
    values: Tensor
    past_keys: Tensor
    """(B, H, F, N, D), before rotary positions."""
    past_values: Tensor
    slot: Tensor | None
    """(1,) slot of the latent of this pass; None: it is not kept."""

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Keep keys (before rotary) and values (B, H, 1, N, D), in place, if this pass keeps its latent."""
        if self.slot is not None:
            self.keys.index_copy_(2, self.slot, keys.to(self.keys.dtype))
            self.values.index_copy_(2, self.slot, values.to(self.values.dtype))
