"""How a video model is aligned to a robot. Standard library only: the command line reads this to print its help."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import TrainingConfig
from common.errors import UserError

Mode = Literal["adapter", "posttrain", "scratch"]
"""adapter: only from controls to latent actions. posttrain: the network learns the controls, too. scratch: a new
network learns from the episodes alone, the baseline."""


@dataclass(frozen=True)
class AlignConfig:
    """Everything that decides an alignment, but for the checkpoint and the episodes."""

    window_every: int = 2
    """Frames from the beginning of one training window to that of the next (posttrain, scratch)."""
    hold_share: float = 0.3
    """Share of the samples in which a latent's four rows of controls are its last, as a live stream holds it."""
    lora_rank: int = 0
    """Rank of low-rank adapters that are trained in place of the network (posttrain; takes peft); 0: the network."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=300,
            batch_size=16,
            optimizer="muon",
            learning_rate=5e-3,
            warmup_steps=30,
            ema_decay=0.98,
            workers=0,
            evaluate_every=0,
        )
    )
    """Of the network (posttrain, scratch)."""

    def __post_init__(self) -> None:
        if self.window_every < 1 or self.lora_rank < 0:
            raise UserError("window_every must be at least 1 and lora_rank not negative")
        if not 0 <= self.hold_share <= 1:
            raise UserError(f"hold_share must lie in [0, 1], not {self.hold_share}")
