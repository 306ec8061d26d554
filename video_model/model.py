"""The video model: a transformer that predicts the flow of noised video latents, given actions.

One class is the bidirectional teacher (no mask), the causal teacher (a mask) and the streaming student (a cache).

Axes: B samples, T latent frames, h x w latent pixels, N tokens of one frame, C channels, A values of one action.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from video_model.cache import AttentionMask, KVCache
from video_model.flow import flow_to
from video_model.layers import (
    ActionEmbedding,
    Actions,
    AdaptiveNorm,
    Block,
    PatchEmbedding,
    Rotary,
    TextContext,
    TimeEmbedding,
    initialise_linear,
    rotary,
    unpatchify,
)

Prediction = Literal["flow", "clean"]

UNUSED_KEYS = frozenset({"max_size", "img_context_num_tokens", "img_context_dim_out"})
"""Keys of diffusers' config without a meaning here: positions have no limit, and there is no image context."""
UNSUPPORTED_KEYS = ("extra_pos_embed_type", "controlnet_block_every_n", "img_context_dim_in")
"""Keys of diffusers' config that ask for parts this model does not have, unless they are null."""


class VideoModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts the flow v = noise - clean of noised latents; parameter names and numerics of Cosmos-Predict2.5.

    `from_pretrained` of a diffusers folder with a CosmosTransformer3DModel loads with no missing or unexpected
    tensor; the arguments have the names of its config, and the defaults of the 2B model. ValueError for a config that
    asks for what this model does not have.

    Args:
        in_channels: Latent channels, and one more for the channel that marks given latents (`conditioned`).
        out_channels: Latent channels.
        patch_size: Latent frames, rows and columns of one token; one latent frame.
        text_embed_dim: Width of the text that the blocks attend to. Cosmos weights were trained with a text, if only
            with the embedding of an empty one, and need it. 0 is a model without text, for one trained from scratch.
        rope_scale: Stretch of the positions in time, rows and columns.
        concat_padding_mask: One more input channel of zeros (for Cosmos: which latent pixels are padding).
        use_crossattn_projection: The text is projected from `crossattn_proj_in_channels` first.
        embodiments: Values of one action, by the embodiment's name; none in a plain Cosmos model.
        fixed_words: Words of a projected text that is part of the model (`fix_text`); 0 is none.
        forecast: The network is shown a forecast of the latents that it makes, in `out_channels` more input channels.
        predicts: What the last layer says: the "flow", as Cosmos's does, or the "clean" latents (arXiv 2511.13720),
            where there is a forecast as what is to be added to it; the flow is worked out from them then.
    """

    text: Tensor
    """(words, text_embed_dim), where `fixed_words` says that there is one."""

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["Block"]
    _repeated_blocks: ClassVar = ["Block"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 17,
        out_channels: int = 16,
        num_attention_heads: int = 16,
        attention_head_dim: int = 128,
        num_layers: int = 28,
        mlp_ratio: float = 4.0,
        text_embed_dim: int = 1024,
        adaln_lora_dim: int = 256,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        rope_scale: tuple[float, float, float] = (1.0, 3.0, 3.0),
        concat_padding_mask: bool = True,
        use_crossattn_projection: bool = True,
        crossattn_proj_in_channels: int = 100_352,
        encoder_hidden_states_channels: int = 1024,
        embodiments: Mapping[str, int] | None = None,
        fixed_words: int = 0,
        forecast: bool = False,
        predicts: Prediction = "flow",
    ) -> None:
        super().__init__()
        if patch_size[0] != 1 or patch_size[1] != patch_size[2]:
            raise ValueError(f"patch_size must be one latent frame and a square, not {tuple(patch_size)}")
        if in_channels - out_channels not in (0, 1):
            raise ValueError(f"in_channels must be out_channels or one more, not {in_channels} for {out_channels}")
        if predicts not in get_args(Prediction):
            raise ValueError(f"predicts must be one of {', '.join(get_args(Prediction))}, not {predicts!r}")
        if attention_head_dim < 12 or attention_head_dim % 2:
            raise ValueError(f"attention_head_dim must be even and at least 12, not {attention_head_dim}")
        if use_crossattn_projection and encoder_hidden_states_channels != text_embed_dim:
            raise ValueError(
                f"the projected text has {encoder_hidden_states_channels} channels (encoder_hidden_states_channels); "
                f"the blocks take {text_embed_dim} (text_embed_dim)"
            )
        channels = num_attention_heads * attention_head_dim
        self.patch = patch_size[1]
        self.heads, self.head_dim, self.rope_scale = num_attention_heads, attention_head_dim, rope_scale
        self.latent_channels = out_channels
        self.has_condition_channel = in_channels > out_channels
        self.has_padding_channel = concat_padding_mask
        self.has_text = text_embed_dim > 0
        inputs = in_channels + concat_padding_mask + (out_channels if forecast else 0)
        self.patch_embed = PatchEmbedding(inputs, channels, patch=self.patch)
        self.time_embed = TimeEmbedding(channels)
        self.transformer_blocks = nn.ModuleList(
            Block(
                channels,
                heads=num_attention_heads,
                text_channels=text_embed_dim,
                hidden=int(mlp_ratio * channels),
                lora_channels=adaln_lora_dim,
            )
            for _ in range(num_layers)
        )
        self.norm_out = AdaptiveNorm(channels, lora_channels=adaln_lora_dim)
        self.proj_out = nn.Linear(channels, self.patch**2 * out_channels, bias=False)
        if use_crossattn_projection:
            projection = nn.Linear(crossattn_proj_in_channels, encoder_hidden_states_channels)
            self.crossattn_proj = nn.Sequential(projection, nn.GELU())
        if fixed_words:
            self.register_buffer("text", torch.zeros(fixed_words, text_embed_dim))
        self.action_embedder: ActionEmbedding | None = None
        self.gradient_checkpointing = False
        self.initialise()
        for name, action_dim in (embodiments or {}).items():
            self._add_embodiment(name, action_dim)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """As in diffusers, but a key that this class does not know, or that asks for what it lacks, is a ValueError."""
        for key in UNSUPPORTED_KEYS:
            if config_dict.get(key) is not None:
                raise ValueError(f"the config has {key} = {config_dict[key]!r}, which this model does not support")
        known = {k: v for k, v in config_dict.items() if k not in UNUSED_KEYS and k not in UNSUPPORTED_KEYS}
        unknown = [key for key in known if not key.startswith("_") and key not in cls._get_init_keys(cls)]
        if unknown:
            raise ValueError(f"the config has keys that this model does not know: {', '.join(unknown)}")
        return super().extract_init_dict(known, **kwargs)

    def initialise(self) -> None:
        """Weights for training from scratch: truncated normal by fan-in; modulations and output start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                initialise_linear(module)
        for norm in self.modules():
            if isinstance(norm, AdaptiveNorm):
                nn.init.zeros_(norm.linear_2.weight)
        nn.init.zeros_(self.time_embed.t_embedder.linear_2.weight)
        nn.init.zeros_(self.proj_out.weight)

    def add_embodiment(self, name: str, action_dim: int) -> None:
        """Learn to take the actions, of `action_dim` values, of one more embodiment; nothing else changes.

        ValueError if there is one of that name already, or if it cannot be part of a tensor's name.
        """
        self._add_embodiment(name, action_dim)
        self.register_to_config(embodiments={**(self.config["embodiments"] or {}), name: action_dim})

    @torch.no_grad()
    def add_forecast(self) -> None:
        """Learn to use a forecast of the latents; until it is trained, the model does not look at it."""
        if self.config["forecast"]:
            raise ValueError("this model has a forecast already")
        before = self.patch_embed.proj
        added = before.weight.new_zeros(before.out_features, self.latent_channels * self.patch**2)
        self.patch_embed.proj = nn.Linear(before.in_features + added.shape[1], before.out_features, bias=False)
        self.patch_embed.proj.weight = nn.Parameter(torch.cat((before.weight, added), dim=1))  # a patch's channels lead
        self.register_to_config(forecast=True)

    def _add_embodiment(self, name: str, action_dim: int) -> None:
        if self.action_embedder is None:
            self.action_embedder = ActionEmbedding(self.proj_out.in_features).to(self.proj_out.weight)
        self.action_embedder.add(name, action_dim)

    def project_text(self, embeddings: Tensor) -> TextContext:
        """A text's keys and values in each block, to give to any number of forward passes.

        embeddings (B or 1, words, crossattn_proj_in_channels), or of text_embed_dim channels without a projection.
        """
        text = self.crossattn_proj(embeddings) if self.config["use_crossattn_projection"] else embeddings
        return TextContext(tuple(block.attn2.keys_values(text) for block in self._blocks()))

    @torch.no_grad()
    def fix_text(self, embeddings: Tensor | None = None) -> None:
        """Make one text part of the model, and forget the projection (103 M values in the 2B model).

        From then on `forward` needs no text. embeddings (words, crossattn_proj_in_channels); by default one word of
        zeros: what Cosmos saw for a text that was dropped, where any number of equal words mean the same as one.
        """
        if not self.config["use_crossattn_projection"]:
            raise ValueError("this model has no projection for a text")
        if embeddings is None:
            embeddings = self.proj_out.weight.new_zeros(1, self.config["crossattn_proj_in_channels"])
        self.register_buffer("text", self.crossattn_proj(embeddings))
        del self.crossattn_proj
        self.register_to_config(use_crossattn_projection=False, fixed_words=len(embeddings))

    def empty_cache(self, *, batch: int, height: int, width: int, window: int, sink: int) -> KVCache:
        """A new stream's cache, for `batch` samples of height x width latent pixels, in the model's dtype."""
        tokens = (height // self.patch) * (width // self.patch)
        shape = (len(self.transformer_blocks), batch, self.heads, sink + window, tokens, self.head_dim)
        like = self.proj_out.weight
        return KVCache(like.new_zeros(shape), like.new_zeros(shape), sink=sink, window=window)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        *,
        text: TextContext | None = None,
        actions: Actions | None = None,
        conditioned: Tensor | None = None,
        positions: Tensor | None = None,
        mask: AttentionMask | None = None,
        cache: KVCache | None = None,
        append: bool = False,
        forecast: Tensor | None = None,
    ) -> Tensor:
        """The predicted flow (B, out_channels, T, h, w).

        Args:
            latents: (B, out_channels, T, h, w), in the model's dtype.
            timesteps: Noise level sigma in [0, 1], (B,) or one per latent frame (B, T); float32.
            text: For a model with cross-attention, and for no other; one with a fixed text has its own.
            actions: None is no action: nothing is added.
            conditioned: (B, T), 1 for latents that are given; None is none.
            positions: (T,) of the latent frames in time; by default 0 .. T - 1. Fractions are allowed: frame * 24 / fps
                is diffusers' `fps`, which Cosmos-Predict2.5 and DreamDojo do not use.
            mask: Which tokens see which (`video_model.cache.attention_mask`); None: all see all.
            cache: The past of a stream, for one latent (T = 1) that sees it and itself.
            append: Keep this latent in the cache, in place. Not where gradients are recorded.
            forecast: As the latents, for a model that takes it: what is expected where they are made; not looked at
                where they are given.
        """
        self._check(latents, timesteps, text, mask, positions, cache, append)
        frames, (rows, columns) = latents.shape[2], (size // self.patch for size in latents.shape[3:])
        expected = self._expected(latents, forecast, conditioned)
        x = self._with_mask_channels(latents, conditioned)
        x = self.patch_embed(x if expected is None else torch.cat((x, expected), dim=1))  # (B, T, N, C)
        added = None if actions is None else self._embed_actions(actions, frames)
        per_frame = timesteps if timesteps.ndim == 2 else timesteps[:, None]
        time, shared = self.time_embed(per_frame, x.dtype, added)  # (B, T or 1, C), (B, T or 1, 3 C)
        if positions is None:
            first = 0 if cache is None else cache.filled
            positions = torch.arange(first, first + frames, device=latents.device)
        here = self._rotary(positions, rows, columns)
        there = None if cache is None else self._rotary(cache.positions(), rows, columns)
        slot = cache.slot() if cache is not None and append else None
        fixed = self.text[None] if self.config["fixed_words"] else None  # (1, words, text_embed_dim)
        for index, block in enumerate(self._blocks()):
            words = fixed if text is None else text.layers[index]
            past = None if cache is None or there is None else (cache.layer(index, slot=slot), there)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                recompute = cast(Callable[..., Tensor], self._gradient_checkpointing_func)
                x = recompute(block, x, time, shared, here, mask, words, past)
            else:
                x = block(x, time, shared, here, mask, words, past)
        if cache is not None and append:
            cache.written += 1
        values = self.proj_out(self.norm_out(x, time, shared))  # (B, T, N, patch * patch * out_channels)
        made = unpatchify(values, patch=self.patch, rows=rows, columns=columns)
        if self.config["predicts"] == "flow":
            return made
        clean = made if expected is None else made + expected
        return flow_to(clean.float(), latents.float(), per_frame.expand(-1, frames))

    def _rotary(self, positions: Tensor, rows: int, columns: int) -> Rotary:
        return rotary(positions, rows=rows, columns=columns, head_dim=self.head_dim, scale=self.rope_scale)

    def _blocks(self) -> Iterable[Block]:
        return cast(Iterable[Block], self.transformer_blocks)

    def _embed_actions(self, actions: Actions, frames: int) -> tuple[Tensor, Tensor]:
        if self.action_embedder is None:
            raise ValueError(f"this model takes no actions; add_embodiment('{actions.embodiment}', ...) changes that")
        return self.action_embedder(actions, frames)

    def _expected(self, latents: Tensor, forecast: Tensor | None, conditioned: Tensor | None) -> Tensor | None:
        """The forecast's channels, zero where latents are given; None for a model without."""
        if not self.config["forecast"]:
            if forecast is not None:
                raise ValueError("this model takes no forecast; add_forecast() changes that")
            return None
        if forecast is None:
            raise ValueError("this model needs a forecast")
        made = 1 if conditioned is None else 1 - conditioned.to(latents.dtype)[:, None, :, None, None]
        return forecast.to(latents.dtype) * made

    def _with_mask_channels(self, latents: Tensor, conditioned: Tensor | None) -> Tensor:
        parts = [latents]
        if self.has_condition_channel:
            given = torch.zeros_like(latents[:, 0, :, 0, 0]) if conditioned is None else conditioned.to(latents.dtype)
            parts.append(given[:, None, :, None, None].expand(-1, -1, -1, *latents.shape[3:]))
        elif conditioned is not None:
            raise ValueError("this model has no channel for `conditioned`: its in_channels equal its out_channels")
        if self.has_padding_channel:
            parts.append(torch.zeros_like(latents[:, :1]))
        return torch.cat(parts, dim=1)

    def _check(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: TextContext | None,
        mask: AttentionMask | None,
        positions: Tensor | None,
        cache: KVCache | None,
        append: bool,
    ) -> None:
        batch, channels, frames, height, width = latents.shape
        if channels != self.latent_channels or height % self.patch or width % self.patch:
            raise ValueError(
                f"latents must have {self.latent_channels} channels and rows and columns that are multiples of "
                f"{self.patch}, not {channels} of {height}x{width}"
            )
        if timesteps.shape not in ((batch,), (batch, frames)):
            raise ValueError(f"timesteps must be ({batch},) or ({batch}, {frames}), not {tuple(timesteps.shape)}")
        if self.has_text != (text is not None or self.config["fixed_words"] > 0):
            raise ValueError("a model with text_embed_dim, and no other, needs a text: see project_text and fix_text")
        if positions is not None and positions.shape != (frames,):
            raise ValueError(f"positions must be ({frames},), one per latent frame, not {tuple(positions.shape)}")
        if cache is None:
            if append:
                raise ValueError("`append` needs a cache")
            return
        if mask is not None or positions is not None:
            raise ValueError("a cache brings its own visibility and positions: give no mask and no positions with it")
        expected = (batch, 1, (height // self.patch) * (width // self.patch))
        found = (cache.keys.shape[1], frames, cache.keys.shape[4])
        if found != expected:
            raise ValueError(f"samples, latent frames and tokens per frame must be {expected}, not {found}")
        if append and torch.is_grad_enabled():
            raise ValueError("`append` writes in place: use torch.no_grad()")
