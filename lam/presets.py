"""Named configurations of the latent action model, from one that trains on two CPU cores to DreamDojo's published size.

Standard library only: the command line reads this file before it imports torch.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from common.config import TrainingConfig
from common.errors import UserError

FLOW_CELLS = 4
"""The decoder predicts so many by so many motions per patch."""


@dataclass(frozen=True)
class LamModelConfig:
    """Sizes of a latent action VAE: ours (`lam.model`) or DreamDojo's (`lam.dreamdojo`)."""

    design: Literal["default", "dreamdojo"] = "default"
    """`default`: z = [z_act | z_cam], camera computed and taken out. `dreamdojo`: the published network, one code."""
    height: int = 240
    """Rows of the frames in pixels; a multiple of `patch`."""
    width: int = 320
    """Columns of the frames in pixels; a multiple of `patch`."""
    patch: int = 16
    """Side in pixels of the square that becomes one token."""
    channels: int = 1024
    """Values per token inside the transformers."""
    heads: int = 16
    """Attention heads; DreamDojo's are 64 channels wide."""
    encoder_blocks: int = 24
    decoder_blocks: int = 24
    latent_dim: int = 32
    """Values of one latent action, without the camera's."""
    label_dim: int = 0
    """Values that a linear head reads from the latent action; set by `--labels`. `default` only."""
    feature_channels: int = 0
    """Channels of the backbone whose features are predicted; set by `loss.target`. `default` only."""

    def __post_init__(self) -> None:
        if self.design not in ("default", "dreamdojo"):
            raise ValueError(f"design must be 'default' or 'dreamdojo', not {self.design!r}")
        for name in ("height", "width", "patch", "channels", "heads", "encoder_blocks", "decoder_blocks", "latent_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, pixels in (("height", self.height), ("width", self.width)):
            if pixels % self.patch:
                lower = pixels - pixels % self.patch
                raise ValueError(
                    f"{name} {pixels} is not a multiple of the patch size {self.patch}; "
                    f"the nearest that are: {lower} and {lower + self.patch}"
                )
        if self.channels % (2 * self.heads):
            raise ValueError(
                f"channels {self.channels} over {self.heads} heads must give an even whole number of channels a head "
                f"(rotary positions turn them in pairs), not {self.channels / self.heads:g}"
            )
        if self.design == "dreamdojo" and (self.label_dim or self.feature_channels):
            raise ValueError("labels and features are for the design 'default', not for 'dreamdojo'")

    @property
    def tokens(self) -> int:
        """Patches in one frame."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def patch_values(self) -> int:
        """Numbers in one RGB patch."""
        return 3 * self.patch**2

    @property
    def camera_dim(self) -> int:
        """Values of the code that stand for the camera: `CAMERA_DIM` of its motion, `EXPOSURE_DIM` of its exposure."""
        return 10 if self.design == "default" else 0

    @property
    def flow_grid(self) -> tuple[int, int]:
        """(rows, columns) at which motion is computed and predicted."""
        return FLOW_CELLS * self.height // self.patch, FLOW_CELLS * self.width // self.patch


@dataclass(frozen=True)
class LamLossConfig:
    """Weights of the training loss (`lam.loss.loss`)."""

    kl_weight: float = 1e-6
    """Price of one nat, in mean squared error of pixels in [0, 1] (DreamDojo's beta)."""
    flow_weight: float = 1e-3
    """Price of a squared error of one pixel (of 64) in the predicted motion. `default` only."""
    target: Literal["pixels", "features"] = "pixels"
    """What is predicted beside the motion: the second frame, or how a frozen backbone's features change."""
    backbone: str = ""
    """For `features`: a folder or hub id of DINOv2, DINOv3 or V-JEPA 2 weights (extra `features`)."""
    feature_weight: float = 1e-3
    """Price of the features' mean squared error; 1 is as bad as predicting no change."""
    label_weight: float = 1e-3
    """Price of the action head's mean squared error on labelled pairs; 1 is as bad as the labels' mean."""

    def __post_init__(self) -> None:
        for name in ("kl_weight", "flow_weight", "feature_weight", "label_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if (self.target == "features") != bool(self.backbone):
            raise UserError(
                "target 'features' and a backbone need each other",
                hint="--loss.target features --loss.backbone FOLDER",
            )


@dataclass(frozen=True)
class LamDataConfig:
    """Which pairs of frames to train on; see `common.pairs.PairConfig`."""

    gap_seconds: tuple[float, float] = (1 / 30, 4 / 30)
    """Shortest and longest time between the two frames of a pair, drawn uniformly; at least one frame."""
    pairs_per_frame: float = 0.25
    """Pairs drawn per frame decoded: more costs less time per pair, but neighbouring pairs look alike."""
    buffer_pairs: int = 256
    """Pairs that are shuffled together in memory."""
    static_share: float = 0.1
    """Largest share of pairs in which next to nothing changes."""
    validation_share: float = 0.1
    """Share of the files that training never sees; at least one."""
    validation_pairs: int = 256
    """Pairs from these files that each validation looks at."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise UserError(f"data.validation_share must lie between 0 and 1, not {self.validation_share}")
        if self.validation_pairs < 2:
            raise UserError(f"data.validation_pairs must be at least 2, not {self.validation_pairs}")


@dataclass(frozen=True)
class LamAugmentConfig:
    """Changes to training pairs, the same for both frames (`lam.augment.augment`)."""

    mirror: bool = True
    """Mirror half of the pairs left to right."""
    zoom: float = 1.4
    """Largest zoom into a random window; 1 shows the whole picture always."""
    brightness: float = 0.1
    """Largest offset of all pixels, of the range from black to white."""

    def __post_init__(self) -> None:
        if not 1 <= self.zoom <= 4:
            raise UserError(f"augment.zoom must lie between 1 and 4, not {self.zoom}")
        if not 0 <= self.brightness <= 1:
            raise UserError(f"augment.brightness must lie between 0 and 1, not {self.brightness}")


@dataclass(frozen=True)
class LamConfig:
    """Everything that decides a trained latent action model, but for the video."""

    model: LamModelConfig = field(default_factory=LamModelConfig)
    loss: LamLossConfig = field(default_factory=LamLossConfig)
    data: LamDataConfig = field(default_factory=LamDataConfig)
    augment: LamAugmentConfig = field(default_factory=LamAugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


_NO_AUGMENTATION = LamAugmentConfig(mirror=False, zoom=1.0, brightness=0.0)
_PUBLISHED_AUGMENTATION = LamAugmentConfig(mirror=False, zoom=1.0, brightness=0.1)


def tiny() -> LamConfig:
    """2.0 M parameters at 64x64: minutes on two CPU cores."""
    return LamConfig(
        model=LamModelConfig(height=64, width=64, patch=8, channels=128, heads=2, encoder_blocks=4, decoder_blocks=3),
        loss=LamLossConfig(kl_weight=1e-5),
        data=LamDataConfig(gap_seconds=(0.1, 0.2), buffer_pairs=4096),
        augment=_NO_AUGMENTATION,
        training=TrainingConfig(
            steps=900, batch_size=32, optimizer="muon", learning_rate=3e-3, warmup_steps=50, log_every=50
        ),
    )


def small() -> LamConfig:
    """17 M parameters at 120x160: a small GPU, or a night on a CPU."""
    return LamConfig(
        model=LamModelConfig(height=120, width=160, patch=8, channels=256, heads=4, encoder_blocks=8, decoder_blocks=8),
        loss=LamLossConfig(kl_weight=1e-5),
        data=LamDataConfig(gap_seconds=(0.1, 0.2), buffer_pairs=1024),
        augment=_NO_AUGMENTATION,
        training=TrainingConfig(steps=20_000, batch_size=64, learning_rate=5e-4, precision="bf16"),
    )


def base() -> LamConfig:
    """98 M parameters at 240x320: one consumer GPU."""
    return LamConfig(
        model=LamModelConfig(channels=512, heads=8, encoder_blocks=12, decoder_blocks=12),
        loss=LamLossConfig(kl_weight=1e-5),
        augment=_NO_AUGMENTATION,
        training=TrainingConfig(steps=100_000, batch_size=64, learning_rate=1e-4, precision="bf16", save_every=2_000),
    )


def dreamdojo() -> LamConfig:
    """The published model and recipe: 709.8 M parameters, 240x320, whole-frame prediction (arXiv 2602.06949)."""
    return LamConfig(
        model=LamModelConfig(design="dreamdojo"),
        augment=_PUBLISHED_AUGMENTATION,
        training=TrainingConfig(
            steps=400_000,
            batch_size=256,
            learning_rate=2.5e-5,
            decay="constant",
            gradient_clip=0.3,
            precision="bf16",
            save_every=5_000,
            evaluate_every=5_000,
        ),
    )


def dreamdojo_tiny() -> LamConfig:
    """DreamDojo's network, loss, optimizer and augmentation at the size, data and steps of `tiny`: the baseline."""
    ours = tiny()
    model = replace(ours.model, design="dreamdojo", channels=152, encoder_blocks=3)
    training = replace(ours.training, optimizer="adamw", learning_rate=1e-3, warmup_steps=100)
    return replace(ours, model=model, loss=LamLossConfig(), augment=_PUBLISHED_AUGMENTATION, training=training)


PRESETS = {"tiny": tiny, "small": small, "base": base, "dreamdojo-tiny": dreamdojo_tiny, "dreamdojo": dreamdojo}
