"""Named configurations of distillation, from one that takes minutes on two CPU cores to the published sizes.

Standard library only: the command line reads this file before it imports torch.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.config import TrainingConfig
from common.errors import UserError


@dataclass(frozen=True)
class WarmUpConfig:
    """Stage B: each latent from the true ones before it, in few steps, as the teacher makes it in many."""

    method: Literal["consistency", "regression"] = "consistency"
    """consistency: agree with oneself one teacher step nearer to the data (`distill.consistency`). regression: go where
    the teacher's whole path ends (`distill.regression`), DreamDojo's way, kept as a baseline."""
    teacher_steps: int = 48
    """Teacher's steps from noise to a latent: consistency takes one of them in a training step, regression all."""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.teacher_steps < 1:
            raise UserError(f"warm_up.teacher_steps must be at least 1, not {self.teacher_steps}")


@dataclass(frozen=True)
class SelfForcingConfig:
    """Stage C: from a first frame on own latents, scored by the teacher (`distill.self_forcing`)."""

    latents: int = 13
    """Latents of a rollout, the true first one counted."""
    critic_ratio: int = 5
    """Steps of the critic for each step of the student."""
    critic_learning_rate: float = 3e-4
    """Peak learning rate of the critic; training.learning_rate is the student's."""
    patience: int = 3
    """Measurements of the drift (training.evaluate_every) without a new best one after which training stops."""
    buffer_windows: int = 64
    """Windows of video that first frames and actions are shuffled in; each is as long as a rollout."""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.latents < 2 or self.critic_ratio < 1 or self.patience < 1 or self.buffer_windows < 1:
            raise UserError(
                "self_forcing.latents must be at least 2, its critic_ratio, patience and buffer_windows at least 1"
            )
        if self.critic_learning_rate <= 0:
            raise UserError(f"self_forcing.critic_learning_rate must be above 0, not {self.critic_learning_rate}")
        if self.training.evaluate_every < 1:
            raise UserError("self_forcing.training.evaluate_every must be at least 1: the drift says when to stop")


@dataclass(frozen=True)
class DriftConfig:
    """The rollouts on held-out clips that a student is judged by (`distill.drift`)."""

    latents: int = 13
    """Latents of a rollout, the true first one counted."""
    windows: int = 16
    """Rollouts."""

    def __post_init__(self) -> None:
        if self.latents < 3 or self.windows < 1:
            raise UserError("drift.latents must be at least 3 and drift.windows at least 1")


@dataclass(frozen=True)
class DistillConfig:
    """Everything that decides a student, but for its teacher, video and labels."""

    steps: int = 2
    """Steps in which the student makes a latent."""
    window: int | None = None
    """Latents before it that the student sees, besides the sink; by default as many as its teacher."""
    sink: int | None = None
    """First latents that stay visible; by default as many as for its teacher."""
    lora_rank: int = 0
    """Rank of low-rank adapters that are trained in place of student and critic (LoRA; takes peft); 0: all weights."""
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    self_forcing: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lora_rank < 0:
            raise UserError("steps must be at least 1 and lora_rank not negative")
        if self.warm_up.teacher_steps % self.steps:
            raise UserError(
                f"warm_up.teacher_steps {self.warm_up.teacher_steps} must be a multiple of steps {self.steps}: "
                "the student is taught at the noise levels that it uses"
            )
        if (self.window is not None and self.window < 1) or (self.sink is not None and self.sink < 0):
            raise UserError("window must be at least 1 and sink not negative")


def distill_tiny() -> DistillConfig:
    """For `video_tiny`: about a quarter of an hour on two CPU cores."""
    return DistillConfig(
        warm_up=WarmUpConfig(
            training=TrainingConfig(
                steps=300,
                batch_size=16,
                optimizer="muon",
                learning_rate=2e-3,
                warmup_steps=20,
                ema_decay=0.98,
                evaluate_every=300,
                save_every=100,
            )
        ),
        self_forcing=SelfForcingConfig(
            critic_learning_rate=6e-4,
            training=TrainingConfig(
                steps=100,
                batch_size=8,
                learning_rate=2e-4,
                warmup_steps=5,
                decay="constant",
                ema_decay=0.95,
                log_every=5,
                evaluate_every=20,
                save_every=20,
            ),
        ),
    )


def distill_cosmos_2b() -> DistillConfig:
    """For the shape of Cosmos-Predict2.5-2B, by adapters (rates as in LongLive 2 and arXiv 2506.08009)."""
    return DistillConfig(
        lora_rank=128,
        warm_up=WarmUpConfig(
            training=TrainingConfig(
                steps=2000,
                batch_size=32,
                accumulation=8,
                learning_rate=1e-4,
                ema_decay=0.99,
                precision="bf16",
                checkpoint_activations=True,
                evaluate_every=1000,
            )
        ),
        self_forcing=SelfForcingConfig(
            critic_learning_rate=2e-5,
            buffer_windows=16,
            training=TrainingConfig(
                steps=300,
                batch_size=32,
                accumulation=8,
                learning_rate=1e-5,
                warmup_steps=10,
                decay="constant",
                ema_decay=0.99,
                precision="bf16",
                checkpoint_activations=True,
                log_every=5,
                evaluate_every=25,
                save_every=25,
            ),
        ),
    )


DISTILL_PRESETS = {"tiny": distill_tiny, "cosmos-2b": distill_cosmos_2b}
