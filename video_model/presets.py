"""Named configurations of the tokenizer, from one that trains on two CPU cores to Wan's published size.

Standard library only: the command line reads this file before it imports torch.
"""

from dataclasses import dataclass, field

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
    frames: int = 9
    """Frames of a window: 5, 9, 13, … Streams settle into their steady state with the third latent, so 9 at least."""
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
    """1.2 M parameters at 64x64: minutes on two CPU cores."""
    return TokenizerConfig(
        model=TokenizerModelConfig(
            base_dim=16, decoder_base_dim=24, dim_mult=(1, 2, 2), num_res_blocks=1, patch_size=2, is_residual=True
        ),
        data=TokenizerDataConfig(height=64, width=64, buffer_windows=512),
        augment=TokenizerAugmentConfig(crop=32),
        training=TrainingConfig(
            steps=4000, batch_size=4, learning_rate=3e-3, warmup_steps=50, ema_decay=0.99, log_every=50
        ),
    )


def tokenizer_wan21() -> TokenizerConfig:
    """Wan 2.1's 126.9 M parameters, from random weights. Its published ones need no training: load their folder."""
    return TokenizerConfig(
        training=TrainingConfig(steps=200_000, batch_size=32, learning_rate=1e-4, precision="bf16", save_every=2_000)
    )


TOKENIZER_PRESETS = {"tiny": tokenizer_tiny, "wan21": tokenizer_wan21}
