"""Named configurations of tokenizer and video model, from ones that train on two CPU cores to the published sizes.

Standard library only: the command line reads this file before it imports torch.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

from common.config import TrainingConfig
from common.errors import UserError

TIME_FACTOR = 4
"""Frames that one latent stands for, but for the first, which stands for one."""


@dataclass(frozen=True)
class TokenizerModelConfig:
    """Sizes of a causal video autoencoder of Wan's kind (arXiv 2503.20314, section 4.1; `AutoencoderKLWan`).

    Time is compressed by 4 in the two innermost of the len(dim_mult) - 1 halvings of space.
    """

    base_dim: int = 96
    """Channels of the encoder's outermost stage."""
    decoder_base_dim: int = 96
    """Channels of the decoder's outermost stage."""
    z_dim: int = 16
    """Channels of a latent."""
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each stage, from the outermost in, in units of the base."""
    num_res_blocks: int = 2
    """Residual blocks of each encoder stage; the decoder has one more."""
    patch_size: int = 1
    """Side in pixels of the squares that are folded into channels before the first convolution (Wan 2.2: 2)."""
    is_residual: bool = False
    """Wan 2.2's shortcuts around each stage."""

    def __post_init__(self) -> None:
        for name in ("base_dim", "decoder_base_dim", "z_dim", "num_res_blocks", "patch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        if len(self.dim_mult) < 3 or min(self.dim_mult) < 1:
            raise UserError(f"model.dim_mult needs three numbers or more, all from 1 on, not {self.dim_mult}")

    @property
    def space_factor(self) -> int:
        """Pixels along a side of the square that one place of a latent stands for."""
        return self.patch_size * 2 ** (len(self.dim_mult) - 1)


@dataclass(frozen=True)
class TokenizerLossConfig:
    """Weights of the training loss (`video_model.tokenizer_loss.loss`)."""

    sharpness_weight: float = 0.5
    """Price of an error of the differences between neighbouring pixels, over that of the pixels."""
    kl_weight: float = 1e-4
    """Price of one nat per number of a latent, in errors of pixels in [-1, 1]."""

    def __post_init__(self) -> None:
        for name in ("sharpness_weight", "kl_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"loss.{name} must not be negative, not {getattr(self, name)}")


@dataclass(frozen=True)
class TokenizerDataConfig:
    """Which windows of frames to train on; see `video_model.clips.WindowConfig`."""

    height: int = 240
    """Rows of the frames in pixels."""
    width: int = 320
    """Columns of the frames in pixels; the picture is cropped to this aspect."""
    fps: float = 10.0
    """Frames per second of a window; faster video is thinned to it."""
    frames: int = 17
    """Frames of a window that are trained on: 5, 9, 13, …"""
    lead_in: int = 16
    """Frames before them, in half of the batches, that only fill the caches. What a latent is goes back over a dozen
    latents; without a lead-in, long streams leave what training saw, and fade (docs/log.md)."""
    windows_per_frame: float = 0.25
    """Windows drawn per frame that could begin one: more costs less time per window, but they look alike."""
    buffer_windows: int = 256
    """Windows that are shuffled together in memory."""
    validation_share: float = 0.1
    """Share of the files that training never sees; at least one."""
    validation_windows: int = 64
    """Windows from these files that each validation looks at."""

    def __post_init__(self) -> None:
        if self.frames <= 1 or self.frames % TIME_FACTOR != 1:
            lower = max(1 + TIME_FACTOR, self.frames - (self.frames - 1) % TIME_FACTOR)
            raise UserError(
                f"data.frames must be 5 or more by whole latents of {TIME_FACTOR}, not {self.frames}; "
                f"the nearest that are: {lower} and {lower + TIME_FACTOR}"
            )
        if self.lead_in < 0 or self.lead_in % TIME_FACTOR:
            raise UserError(f"data.lead_in must be a multiple of {TIME_FACTOR}, not {self.lead_in}")
        if not 0 < self.validation_share < 1:
            raise UserError(f"data.validation_share must lie between 0 and 1, not {self.validation_share}")
        if self.validation_windows < 1:
            raise UserError(f"data.validation_windows must be at least 1, not {self.validation_windows}")


@dataclass(frozen=True)
class TokenizerAugmentConfig:
    """Changes to training windows, the same for all frames of a window."""

    mirror: bool = True
    """Mirror half of the windows left to right."""
    crop: int = 0
    """Side in pixels of a random square that is cut out of each batch; 0 keeps the whole picture."""
    colour: bool = False
    """Exchange the colour channels and change their contrast and brightness: for data of few looks."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Everything that decides a trained tokenizer, but for the video."""

    model: TokenizerModelConfig = field(default_factory=TokenizerModelConfig)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    data: TokenizerDataConfig = field(default_factory=TokenizerDataConfig)
    augment: TokenizerAugmentConfig = field(default_factory=TokenizerAugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        factor, crop = self.model.space_factor, self.augment.crop
        for name, pixels in (
            ("data.height", self.data.height),
            ("data.width", self.data.width),
            ("augment.crop", crop),
        ):
            if pixels < 0 or pixels % factor:
                lower = pixels - pixels % factor
                raise UserError(
                    f"{name} {pixels} is not a multiple of {factor}, the tokenizer's factor in space; "
                    f"the nearest that are: {lower} and {lower + factor}"
                )
        if crop > min(self.data.height, self.data.width):
            raise UserError(f"augment.crop {crop} is larger than the {self.data.height} x {self.data.width} pixels")


def tokenizer_tiny() -> TokenizerConfig:
    """1.3 M parameters at 64x64: an hour on two CPU cores."""
    return TokenizerConfig(
        model=TokenizerModelConfig(
            base_dim=16,
            decoder_base_dim=24,
            z_dim=24,
            dim_mult=(1, 2, 2),
            num_res_blocks=1,
            patch_size=2,
            is_residual=True,
        ),
        data=TokenizerDataConfig(height=64, width=64, frames=17, buffer_windows=512),
        augment=TokenizerAugmentConfig(crop=32, colour=True),
        training=TrainingConfig(
            steps=4000,
            batch_size=8,
            optimizer="muon",
            learning_rate=8e-3,
            warmup_steps=50,
            ema_decay=0.995,
            precision="bf16",
            log_every=50,
        ),
    )


def tokenizer_wan21() -> TokenizerConfig:
    """Wan 2.1's 126.9 M parameters, from random weights. Its published ones need no training: load their folder."""
    return TokenizerConfig(
        training=TrainingConfig(steps=200_000, batch_size=32, learning_rate=1e-4, precision="bf16", save_every=2_000)
    )


TOKENIZER_PRESETS = {"tiny": tokenizer_tiny, "wan21": tokenizer_wan21}


@dataclass(frozen=True)
class TinyDecoderModelConfig:
    """Sizes of a small decoder for live use; `video_model.tiny_decoder.TinyDecoder`."""

    channels: tuple[int, ...] = (256, 128, 64, 64)
    """Of each stage, from the latents out; between two stages the sides double, and twice the number of frames."""
    blocks: int = 3
    """Of each stage."""
    patch_size: int = 1
    """Side in pixels of the squares that the last convolution makes at once."""

    def __post_init__(self) -> None:
        if len(self.channels) < 3 or min(self.channels) < 1:
            raise UserError(f"model.channels needs three numbers or more, all from 1 on, not {self.channels}")
        for name in ("blocks", "patch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} must be at least 1, not {getattr(self, name)}")

    @property
    def space_factor(self) -> int:
        """Pixels along a side of the square that one place of a latent stands for."""
        return self.patch_size * 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class TinyDecoderConfig:
    """Everything that decides a trained tiny decoder, but for the video and the tokenizer."""

    model: TinyDecoderModelConfig = field(default_factory=TinyDecoderModelConfig)
    sharpness_weight: float = 0.5
    """Price of an error of the differences between neighbouring pixels, over that of the pixels."""
    data: TokenizerDataConfig = field(default_factory=TokenizerDataConfig)
    augment: TokenizerAugmentConfig = field(default_factory=TokenizerAugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.sharpness_weight < 0:
            raise UserError(f"sharpness_weight must not be negative, not {self.sharpness_weight}")


def decoder_tiny() -> TinyDecoderConfig:
    """0.4 M parameters for `tokenizer_tiny`: ten minutes on two CPU cores."""
    return TinyDecoderConfig(
        model=TinyDecoderModelConfig(channels=(64, 48, 24), blocks=1, patch_size=2),
        data=TokenizerDataConfig(height=64, width=64, frames=17, buffer_windows=512),
        augment=TokenizerAugmentConfig(crop=32, colour=True),
        training=TrainingConfig(
            steps=2000, batch_size=8, optimizer="muon", learning_rate=5e-3, warmup_steps=50, ema_decay=0.995
        ),
    )


def decoder_wan21() -> TinyDecoderConfig:
    """9.8 M parameters for Wan 2.1's autoencoder, as TAEHV's, on crops of 240x320 pixels, for one GPU."""
    return TinyDecoderConfig(
        augment=TokenizerAugmentConfig(crop=128),
        training=TrainingConfig(steps=50_000, batch_size=16, learning_rate=3e-4, precision="bf16", save_every=2_000),
    )


DECODER_PRESETS = {"tiny": decoder_tiny, "wan21": decoder_wan21}


@dataclass(frozen=True)
class VideoModelConfig:
    """Sizes of a video model that is trained from scratch; `video_model.model.VideoModel` without text."""

    heads: int = 16
    """Attention heads."""
    head_dim: int = 128
    """Channels of a head, even, 12 or more; heads x head_dim are the network's channels."""
    layers: int = 28
    """Transformer blocks."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP, over the network's."""
    modulation_dim: int = 256
    """Inner channels of the adaptive norms."""
    patch: int = 2
    """Side in latent pixels of the square that is one token."""
    predicts: Literal["flow", "clean"] = "flow"
    """What the last layer says: clean latents ask less of few channels (arXiv 2511.13720), the flow is Cosmos's way."""

    def __post_init__(self) -> None:
        for name in ("heads", "layers", "modulation_dim", "patch"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        if self.head_dim < 12 or self.head_dim % 2:
            raise UserError(f"model.head_dim must be even and at least 12, not {self.head_dim}")


@dataclass(frozen=True)
class VideoLossConfig:
    """What a training step of the video model looks like (`video_model.loss`)."""

    shift: float = 5.0
    """Moves noise levels towards noise, in training and in sampling: the larger the picture, the more."""
    temporal_weight: float = 0.1
    """Price of an error of the velocity's change along time, over that of the velocity."""
    causal_share: float = 0.7
    """Share of the steps in which a latent sees the past only, each with a noise level of its own; else all see all."""
    window: int = 3
    """Latents before it that a causal latent sees, besides the sink."""
    sink: int = 1
    """First latents that stay visible."""
    context_noise: float = 0.1
    """Highest noise level of given latents."""
    clean_context_share: float = 0.5
    """Share of the samples whose given latents have no noise."""
    mid_clip_share: float = 0.25
    """Share of the steps whose windows begin with a latent that stands for four frames."""
    hold_share: float = 0.3
    """Share of the samples in which a latent's four actions are replaced by their mean, as a live stream holds them."""
    drop_share: float = 0.1
    """Share of the samples that get no actions."""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self) if f.name.endswith("_share")):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loss.{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.shift <= 0:
            raise UserError(f"loss.shift must be above 0, not {self.shift}")
        if not 0 <= self.context_noise < 1:
            raise UserError(f"loss.context_noise must lie in [0, 1), not {self.context_noise}")
        if self.temporal_weight < 0 or self.window < 1 or self.sink < 0:
            raise UserError("loss.temporal_weight and loss.sink must not be negative, loss.window must be at least 1")


@dataclass(frozen=True)
class VideoDataConfig:
    """Which windows of video to train the video model on."""

    height: int = 480
    """Rows of the frames in pixels."""
    width: int = 640
    """Columns of the frames in pixels; the picture is cropped to this aspect."""
    fps: float = 10.0
    """Frames, and so actions, per second: the rate of the labels."""
    latents: int = 4
    """Latents of a training window: the first is one frame, every other one four."""
    windows_per_frame: float = 0.25
    """Windows drawn per frame that could begin one, each time that the video is gone through."""
    buffer_windows: int = 256
    """Windows that are shuffled together in memory."""
    forecast_span: int = 4
    """Latents that a forecast (--lam) is carried on for, from one frame, before it begins anew."""
    still_share: float = 0.1
    """Share of the windows that stand still at their first frame and are told actions of zeros."""
    encode_once: bool = False
    """Turn all windows into latents before training and train on these; else anew in every step."""
    validation_share: float = 0.1
    """Share of the files that training never sees; at least one."""
    validation_windows: int = 32
    """Windows from these files that each validation looks at."""

    def __post_init__(self) -> None:
        if self.latents < 2:
            raise UserError(f"data.latents must be at least 2, not {self.latents}")
        if self.forecast_span < 1:
            raise UserError(f"data.forecast_span must be at least 1, not {self.forecast_span}")
        if not 0 <= self.still_share <= 1:
            raise UserError(f"data.still_share must lie in [0, 1], not {self.still_share}")
        if not 0 < self.validation_share < 1:
            raise UserError(f"data.validation_share must lie between 0 and 1, not {self.validation_share}")
        if self.validation_windows < 2:
            raise UserError(f"data.validation_windows must be at least 2, not {self.validation_windows}")

    @property
    def frames(self) -> int:
        """Frames of that many latents at the beginning of a clip."""
        return 1 + TIME_FACTOR * (self.latents - 1)

    @property
    def frames_read(self) -> int:
        """Frames that a training window is cut from: one latent more, so that some windows begin in mid-clip."""
        return self.frames + TIME_FACTOR


@dataclass(frozen=True)
class VideoConfig:
    """Everything that decides a trained video model, but for video, latent actions and tokenizer."""

    model: VideoModelConfig = field(default_factory=VideoModelConfig)
    loss: VideoLossConfig = field(default_factory=VideoLossConfig)
    data: VideoDataConfig = field(default_factory=VideoDataConfig)
    lora_rank: int = 0
    """Rank of low-rank adapters that are trained in place of the network (LoRA; takes peft); 0 trains the network."""
    sampling_steps: int = 12
    """From noise to a latent."""
    sampler: Literal["euler", "renoise"] = "euler"
    """What a step does: follow the flow a little; or go all the way to a clean latent, which is then noised again, but
    less (arXiv 2303.01469, algorithm 1), as a distilled student wants it."""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.sampling_steps < 1 or self.lora_rank < 0:
            raise UserError("sampling_steps must be at least 1 and lora_rank not negative")


def video_tiny() -> VideoConfig:
    """About 2 M parameters at 64x64: some ten minutes on two CPU cores."""
    return VideoConfig(
        model=VideoModelConfig(heads=4, head_dim=32, layers=6, modulation_dim=32, predicts="clean"),
        loss=VideoLossConfig(shift=4.0),
        data=VideoDataConfig(height=64, width=64, latents=5, windows_per_frame=0.125, encode_once=True),
        sampling_steps=1,  # at this size more of them add noise, not detail (docs/log.md)
        training=TrainingConfig(
            steps=1000, batch_size=16, optimizer="muon", learning_rate=1e-2, warmup_steps=50, ema_decay=0.99
        ),
    )


def video_small() -> VideoConfig:
    """110 M parameters at 240x320, for one GPU."""
    return VideoConfig(
        model=VideoModelConfig(heads=12, head_dim=64, layers=12, modulation_dim=128),
        data=VideoDataConfig(height=240, width=320),
        training=TrainingConfig(steps=50_000, batch_size=32, precision="bf16", save_every=2_000),
    )


def video_cosmos_2b() -> VideoConfig:
    """The shape of Cosmos-Predict2.5-2B at 480x640, but for its attention to a text; `--init` brings that, too."""
    return VideoConfig(
        training=TrainingConfig(
            steps=50_000,
            batch_size=64,
            learning_rate=1.6e-4,
            weight_decay=0.1,
            precision="bf16",
            checkpoint_activations=True,
            save_every=1_000,
        )
    )


VIDEO_PRESETS = {"tiny": video_tiny, "small": video_small, "cosmos-2b": video_cosmos_2b}
