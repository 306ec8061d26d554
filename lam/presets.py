"""Named configurations of the latent action model, from one that trains on two CPU cores to DreamDojo's published size.

Standard library only: the command line reads this file before it imports torch.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.config import TrainingConfig
from common.errors import UserError


@dataclass(frozen=True)
class LamModelConfig:
    """Sizes of the latent action VAE (`lam.model.LatentActionModel`)."""

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
    """Values of one latent action."""
    predicts: Literal["frame", "motion"] = "frame"
    """`frame`: the decoder paints the whole next frame (DreamDojo). `motion`: it moves the first frame's pixels and
    adds to them, both by nothing at first, so an untrained model predicts "nothing happens"."""

    def __post_init__(self) -> None:
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
        if self.predicts not in ("frame", "motion"):
            raise ValueError(f"predicts must be 'frame' or 'motion', not {self.predicts!r}")

    @property
    def tokens(self) -> int:
        """Patches in one frame; the encoder sees one more, the action prompt."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def patch_values(self) -> int:
        """Numbers in one RGB patch."""
        return 3 * self.patch**2


@dataclass(frozen=True)
class LamLossConfig:
    """Weights of the training loss (`lam.loss.loss`)."""

    kl_weight: float = 1e-6
    """Price of one nat, in mean squared error of pixels in [0, 1] (DreamDojo's beta)."""

    def __post_init__(self) -> None:
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight must not be negative, not {self.kl_weight}")


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


def dreamdojo() -> LamConfig:
    """The published model and recipe: 709.8 M parameters, 240x320, whole-frame prediction (arXiv 2602.06949)."""
    return LamConfig(
        augment=LamAugmentConfig(mirror=False, zoom=1.0, brightness=0.1),
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


def base() -> LamConfig:
    """90 M parameters at 240x320: one consumer GPU."""
    return LamConfig(
        model=LamModelConfig(channels=512, heads=8, encoder_blocks=12, decoder_blocks=12, predicts="motion"),
        training=TrainingConfig(steps=100_000, batch_size=64, learning_rate=1e-4, precision="bf16", save_every=2_000),
    )


def tiny() -> LamConfig:
    """1.5 M parameters at 64x64: minutes on two CPU cores.

    A nat costs ten times DreamDojo's price: as good a reconstruction with a fifth of the nats, and a latent action of
    zeros then means nearly "nothing happens" instead of nothing at all.
    """
    return LamConfig(
        model=LamModelConfig(
            height=64,
            width=64,
            patch=8,
            channels=128,
            heads=2,
            encoder_blocks=3,
            decoder_blocks=3,
            predicts="motion",
        ),
        loss=LamLossConfig(kl_weight=1e-5),
        data=LamDataConfig(gap_seconds=(0.1, 0.2), buffer_pairs=4096),
        training=TrainingConfig(steps=1500, batch_size=32, learning_rate=1e-3, log_every=50),
    )


PRESETS = {"tiny": tiny, "base": base, "dreamdojo": dreamdojo}
