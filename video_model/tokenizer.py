"""The tokenizer: video to latents and back, whole clips or as a stream, with Wan's causal video autoencoder.

Axes: B clips, T frames, H rows, W columns; C latent channels, N latents (in time), h rows and w columns of a latent.
Latent 0 stands for frame 0, latent n > 0 for the frames 4n-3 to 4n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, patchify, unpatchify
from torch import Tensor, nn
from typing_extensions import Self

from common.checkpoints import load_model_folder
from common.config import from_dict, to_dict
from common.errors import BadData
from video_model.presets import TIME_FACTOR, TokenizerConfig, TokenizerModelConfig

STATISTICS_MOMENTUM = 0.01
"""Share of each training batch in `latents_mean` and `latents_std`."""

FIRST_LOG_VARIANCE = -6.0
"""Of a new tokenizer's posterior."""


@dataclass(frozen=True)
class StreamState:
    """Where one stream stands: the last features before each convolution over time, in the order they are used.

    A value: nothing changes it, so a reference to it is a snapshot, and many streams share one model.
    """

    features: tuple[Tensor | str | None, ...]
    """A string is the network's own mark for a place that the first frame passed without leaving features."""

    def detach(self) -> Self:
        """The same state, cut off from the gradients of what came before."""
        return type(self)(tuple(f.detach() if isinstance(f, Tensor) else f for f in self.features))

    def to(self, device: torch.device | str) -> Self:
        return type(self)(tuple(f.to(device) if isinstance(f, Tensor) else f for f in self.features))

    def with_clips(self, *others: Self) -> Self:
        """Where the clips of all these states stand, this one's first. All have seen the same number of frames, or more
        than the network looks back."""
        places = zip(self.features, *(other.features for other in others), strict=True)
        return type(self)(tuple(torch.cat(cast(Any, f)) if isinstance(f[0], Tensor) else f[0] for f in places))

    def clips(self, rows: slice) -> Self:
        """The state of some of the clips."""
        return type(self)(tuple(f[rows] if isinstance(f, Tensor) else f for f in self.features))

    def where(self, rows: Tensor, other: Self) -> Self:
        """This state for the clips that rows, bool (B,), says, the other for the rest; as for `with_clips`."""
        pairs = zip(self.features, other.features, strict=True)
        return type(self)(tuple(where_rows(rows, a, cast(Tensor, b)) if isinstance(a, Tensor) else a for a, b in pairs))


class EncoderState(StreamState):
    """Where a stream of frames stands."""


class DecoderState(StreamState):
    """Where a stream of latents stands."""


@dataclass
class TokenizerOutput:
    """What training sees of B clips, after the lead-in."""

    mean: Tensor
    """(B, C, N, h, w), float32: the posterior's mean, not normalised."""
    log_variance: Tensor
    """(B, C, N, h, w), float32."""
    reconstruction: Tensor
    """(B, T, 3, H, W), not clamped."""


class Tokenizer(nn.Module):
    """Encoder and decoder of a Wan autoencoder (arXiv 2503.20314, section 4.1) with the names of its published weights.

    Frames are float in [-1, 1]; latents are normalised by `latents_mean` and `latents_std`, each (C,), as the video
    model takes them. Every path, the training pass too, goes one latent at a time through the same operations, so a
    stream equals the whole clip bit for bit.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, vae: AutoencoderKLWan) -> None:
        """Takes over the networks of `vae`, which is not needed any more. ValueError if it is not of Wan's kind."""
        super().__init__()
        config: Any = vae.config
        if 2 ** sum(config.temperal_downsample) != TIME_FACTOR:
            raise ValueError(f"time must be compressed by {TIME_FACTOR}, not {2 ** sum(config.temperal_downsample)}")
        for name in ("latents_mean", "latents_std"):
            if len(config[name]) != config.z_dim:
                raise ValueError(f"{name} holds {len(config[name])} numbers for {config.z_dim} channels")
        self.z_dim: int = config.z_dim
        self.patch_size: int = config.patch_size or 1
        self.space_factor: int = self.patch_size * 2 ** len(config.temperal_downsample)
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder
        self.register_buffer("latents_mean", torch.tensor(config.latents_mean, dtype=torch.float32))
        self.register_buffer("latents_std", torch.tensor(config.latents_std, dtype=torch.float32))

    def encode(self, frames: Tensor) -> Tensor:
        """frames (B, 1 + 4k, 3, H, W) -> latents (B, C, 1 + k, H / space_factor, W / space_factor), posterior means.

        ValueError if the number or the size of the frames does not fit.
        """
        return self.encode_next(frames, None)[0]

    def encode_next(self, frames: Tensor, state: EncoderState | None) -> tuple[Tensor, EncoderState]:
        """The next frames of a stream: 1 + 4k to begin with (state None), then 4k. Returns (latents, new state).

        As `encode`; the latents are those that the whole clip would give at this place.
        """
        moments, state = self._posterior_next(frames, state)
        mean = moments[:, : self.z_dim]
        return (mean - _per_channel(self.latents_mean)) / _per_channel(self.latents_std), state

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, 1 + k, h, w) -> frames (B, 1 + 4k, 3, h * space_factor, w * space_factor) in [-1, 1]."""
        return self.decode_next(latents, None)[0]

    def decode_next(self, latents: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        """The next latents (B, C, N, h, w) of a stream, N from 1 on. Returns (frames, new state); frames are float32.

        Each latent gives 4 frames, but for the first of the stream (state None), which gives 1. ValueError if the
        shape does not fit.
        """
        if latents.ndim != 5 or latents.shape[1] != self.z_dim or not latents.shape[2]:
            raise ValueError(f"expected latents of shape (B, {self.z_dim}, N, h, w), got {tuple(latents.shape)}")
        latents = latents * _per_channel(self.latents_std) + _per_channel(self.latents_mean)
        frames, state = self._frames_next(latents, state)
        return frames.float().clamp(-1, 1), state

    def forward(self, frames: Tensor, *, sample: bool, lead_in: int = 0) -> TokenizerOutput:
        """frames (B, 1 + 4k, 3, H, W); the decoder gets a sample of the posterior, or its mean.

        lead_in: so many of the first latents only fill the caches: they get no gradient and are not in the output. In
        training mode the statistics of the latents follow the batches.
        """
        encoder = decoder = None
        if lead_in:
            beginning, frames = frames.tensor_split([1 + TIME_FACTOR * (lead_in - 1)], dim=1)
            with torch.no_grad():
                moments, encoder = self._posterior_next(beginning, None)
                _, decoder = self._frames_next(moments[:, : self.z_dim], None)
        moments, _ = self._posterior_next(frames, encoder)
        mean, log_variance = moments.float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if sample else mean
        if self.training:
            self._follow(mean.detach())
        reconstruction, _ = self._frames_next(latents, decoder)
        return TokenizerOutput(mean=mean, log_variance=log_variance, reconstruction=reconstruction)

    def _posterior_next(self, frames: Tensor, state: EncoderState | None) -> tuple[Tensor, EncoderState]:
        """Means and log variances (B, 2C, N, h, w), not normalised, of the next frames of a stream."""
        self._check_frames(frames, first=state is None)
        features = [None] * _time_convolutions(self.encoder) if state is None else list(state.features)
        x = patchify(frames.movedim(2, 1), self.patch_size)  # (B, 3 p p, T, H / p, W / p)
        first = x.shape[2] % TIME_FACTOR
        chunks = ([x[:, :, :first]] if first else []) + list(x[:, :, first:].split(TIME_FACTOR, dim=2))
        moments = [self.quant_conv(self.encoder(c, feat_cache=features, feat_idx=[0])) for c in chunks if c.shape[2]]
        return torch.cat(moments, dim=2), EncoderState(tuple(features))

    def _frames_next(self, latents: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        """Frames (B, T, 3, H, W), not clamped, of the next latents of a stream, not normalised."""
        features = [None] * _time_convolutions(self.decoder) if state is None else list(state.features)
        frames = []
        for number, latent in enumerate(latents.split(1, dim=2)):
            first = state is None and number == 0
            x = self.post_quant_conv(latent)
            frames.append(self.decoder(x, feat_cache=features, feat_idx=[0], first_chunk=first))
        clip = unpatchify(torch.cat(frames, dim=2), self.patch_size)  # (B, 3, T, H, W)
        return clip.movedim(1, 2), DecoderState(tuple(features))

    def _check_frames(self, frames: Tensor, *, first: bool) -> None:
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"expected frames of shape (B, T, 3, H, W), got {tuple(frames.shape)}")
        count, extra = frames.shape[1], int(first)
        if count < 1 or (count - extra) % TIME_FACTOR:
            below = count - (count - extra) % TIME_FACTOR
            fitting = " or ".join(str(number) for number in (below, below + TIME_FACTOR) if number > 0)
            place = "the beginning of a clip" if first else "a clip that goes on"
            raise ValueError(f"{count} frames do not make whole latents at {place}; {fitting} would")
        for name, pixels in (("height", frames.shape[3]), ("width", frames.shape[4])):
            if pixels < 1 or pixels % self.space_factor:
                below = pixels - pixels % self.space_factor
                fitting = " or ".join(str(size) for size in (below, below + self.space_factor) if size > 0)
                raise ValueError(f"{name} {pixels} is not a multiple of {self.space_factor}; {fitting} would fit")

    @torch.no_grad()
    def _follow(self, mean: Tensor) -> None:
        """Move the statistics towards those of a batch's posterior means (B, C, N, h, w), if these are finite."""
        values = mean.movedim(1, 0).flatten(1)  # (C, numbers)
        centre = self.latents_mean.lerp(values.mean(1), STATISTICS_MOMENTUM)
        variance = self.latents_std.square().lerp((values - centre[:, None]).square().mean(1), STATISTICS_MOMENTUM)
        usable = values.isfinite().all()
        self.latents_mean.copy_(torch.where(usable, centre, self.latents_mean))
        self.latents_std.copy_(torch.where(usable, variance.sqrt(), self.latents_std))


def where_rows(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """(B, ...): the rows of `one` that rows, bool (B,), says, and those of `other`."""
    return torch.where(rows.view(-1, *[1] * (one.ndim - 1)), one, other)


def _per_channel(values: Tensor) -> Tensor:
    """(C,) -> (C, 1, 1, 1), to go with latents."""
    return values[:, None, None, None]


def _time_convolutions(network: nn.Module) -> int:
    """How many places for features the network asks for, at most."""
    return sum(isinstance(module, WanCausalConv3d) for module in network.modules())


def build_tokenizer(config: TokenizerModelConfig) -> Tokenizer:
    """A new tokenizer with random weights and statistics 0 and 1. ValueError if the sizes do not fit each other."""
    halvings = len(config.dim_mult) - 1
    vae = AutoencoderKLWan(
        base_dim=config.base_dim,
        decoder_base_dim=config.decoder_base_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=[stage >= halvings - 2 for stage in range(halvings)],
        latents_mean=[0.0] * config.z_dim,
        latents_std=[1.0] * config.z_dim,
        is_residual=config.is_residual,
        in_channels=3 * config.patch_size**2,
        out_channels=3 * config.patch_size**2,
        patch_size=config.patch_size if config.patch_size > 1 else None,
    )
    with torch.no_grad():
        # Begin nearly without noise: the usual start, a deviation of 1, drowns the means for hundreds of steps.
        cast(Tensor, vae.quant_conv.bias)[config.z_dim :].fill_(FIRST_LOG_VARIANCE)
    return Tokenizer(vae)


def checkpoint_config(config: TokenizerConfig, *, preset: str) -> dict[str, Any]:
    """config.json of a tokenizer's checkpoint."""
    return {"stage": "tokenizer", "preset": preset, **to_dict(config)}


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a checkpoint folder, a run's newest checkpoint, or a published Wan 2.1 or 2.2 folder in diffusers' format.

    A published folder may be the autoencoder's own or one with the subfolder `vae`. The tokenizer is in evaluation
    mode, on the CPU. BadData if the folder is something else or its tensors do not fit its config.
    """
    for folder in (path, path / "vae"):
        if any(folder.glob("diffusion_pytorch_model*.safetensors")):
            return _load_published(folder)
    data, tensors = load_model_folder(path)
    if data.get("stage") != "tokenizer":
        raise BadData(f"{path} holds a '{data.get('stage')}' checkpoint, not a tokenizer")
    fields = {key: value for key, value in data.items() if key not in ("stage", "preset")}
    tokenizer = build_tokenizer(from_dict(TokenizerConfig, fields, where=f"{path}/config.json").model)
    expected = tokenizer.state_dict()
    wrong = sorted(set(expected) ^ set(tensors)) or [n for n, t in expected.items() if t.shape != tensors[n].shape]
    _require_fit(path, wrong)
    tokenizer.load_state_dict(tensors, strict=True)
    return tokenizer.eval()


def _load_published(folder: Path) -> Tokenizer:
    try:
        vae, found = AutoencoderKLWan.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder, output_loading_info=True, local_files_only=True, use_safetensors=True
        )
        _require_fit(folder, [*found["missing_keys"], *found["unexpected_keys"]])
        return Tokenizer(vae).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise BadData(f"{folder} is not a Wan autoencoder: {str(error).splitlines()[0]}") from error


def _require_fit(path: Path, wrong: Sequence[str]) -> None:
    if wrong:
        raise BadData(f"{path}: {len(wrong)} tensors do not fit its config, among them {wrong[0]}")
