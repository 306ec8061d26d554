"""The loop of stage C, in which two networks take turns: the student once, then its critic a few times.

Otherwise it keeps the promises of `common.training.fit`: the same command again resumes bit for bit, signals are met
between steps, checkpoints are whole or not there. It stops on the drift curve, not on a number of steps, and at the
first loss or gradient that is not finite.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from common.checkpoints import (
    durable_folder,
    prune,
    require_space,
    save_model,
    write_model_files,
)
from common.config import TrainingConfig, from_dict, to_dict
from common.errors import StoppedBySignal
from common.muon import Muon
from common.run_folder import MetricsLog, open_run, require_tracker
from common.training import DataPosition, StopSignals, agree, data_position, resumed_from
from common.training_state import (
    ExponentialMovingAverage,
    Progress,
    learning_rate,
    load_training,
    parameter_groups,
    published_tensors,
    save_training,
    seed_step,
    training_tensors,
)
from distill.drift import Drift
from distill.presets import SelfForcingConfig
from distill.self_forcing import Rollouts, Starts, critic_loss, roll_out, student_loss
from video_model.generator import Generator
from video_model.model import VideoModel

BEST = "best"
"""Folder in the run: the network with the smallest drift so far."""


@dataclass(frozen=True)
class Game:
    """What stage C is given."""

    name: str
    student: Generator
    """With the network to train, and the settings that its rollouts have."""
    teacher: VideoModel
    critic: VideoModel
    """At first a copy of the teacher."""
    batches: Callable[[DataPosition], Iterator[Starts]]
    measure: Callable[[Generator], Drift]
    """Runs on the main process."""
    config: SelfForcingConfig
    run_config: dict[str, Any]
    """The whole resolved config, as JSON values: the run's config.json."""
    checkpoint_config: dict[str, Any]
    """config.json of the network's checkpoints."""


@dataclass(frozen=True)
class Measured:
    """The student's average after so many steps."""

    step: int
    drift: Drift

    @property
    def score(self) -> float:
        score = self.drift.late.score
        return score if math.isfinite(score) else math.inf


@dataclass
class History:
    """The drift from step 0, the student as it came, on."""

    measured: list[Measured] = field(default_factory=list)
    diverged: bool = False

    @property
    def best(self) -> Measured:
        return min(self.measured, key=lambda one: one.score)

    def worse_in_a_row(self) -> int:
        """How many measurements there were since the best one."""
        return len(self.measured) - 1 - self.measured.index(self.best)


@dataclass
class Player:
    """A network in training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: ExponentialMovingAverage

    @classmethod
    def of(
        cls, network: VideoModel, accelerator: Accelerator, training: TrainingConfig, *, ema_decay: float
    ) -> "Player":
        # No momentum: the gradient's direction changes with the other player (arXiv 2405.14867).
        groups = parameter_groups(network, weight_decay=training.weight_decay)
        muon = training.optimizer == "muon"
        betas = (0.0, 0.999)
        optimizer = (
            Muon(groups, lr=0.0, momentum=0.0, betas=betas) if muon else torch.optim.AdamW(groups, lr=0.0, betas=betas)
        )
        model, prepared = accelerator.prepare(network, optimizer)
        average = ExponentialMovingAverage(model, decay=ema_decay)
        average.copy_from(model)
        return cls(model, prepared.optimizer, average)

    def gradient_norm(self, *, clip: float) -> Tensor:
        """Of the gradient before it is clipped."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def update(self, rate: float, *, updates: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model, updates=updates)


def alternate(game: Game, out: Path) -> History:
    """Train until the drift no longer improves or something is not finite, `training.steps` at most, or go on there.

    The best network is then in OUT/best, unless no step made the student better. Raises as `common.training.fit`.
    """
    training = game.config.training
    require_tracker(training.tracker)
    accelerator = Accelerator(
        log_with=None if training.tracker == "none" else training.tracker,
        project_dir=out,
        # A network is run several times before its gradient is taken; buffers must not be written to in between.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.is_main_process:
        open_run(out, game.run_config)
    accelerator.wait_for_everyone()
    return _Alternating(game, out, accelerator).run()


def run_in_bf16(network: nn.Module, device_type: str) -> None:
    """From now on the network, and nothing around it, runs in autocast: a rollout's tokenizer stays in fp32."""
    network.forward = torch.autocast(device_type, dtype=torch.bfloat16)(network.forward)


class _Alternating:
    """One call of `alternate`."""

    def __init__(self, game: Game, out: Path, accelerator: Accelerator) -> None:
        self.game, self.out, self.accelerator = game, out, accelerator
        self.training = training = game.config.training
        game.student.to(accelerator.device)
        self.teacher = game.teacher.to(accelerator.device).requires_grad_(False)
        self.student = Player.of(game.student.model, accelerator, training, ema_decay=training.ema_decay)
        self.critic = Player.of(game.critic, accelerator, training, ema_decay=0.0)
        self.progress, self.history = self._resume()
        self.stop = False
        if training.precision == "bf16":
            for network in (self.teacher, game.student.model, game.critic):
                run_in_bf16(network, accelerator.device.type)
        if training.compile:  # the networks that score: a student's rollout has as many shapes as its cache
            self.teacher.compile()
            self.critic.model.compile()

    def run(self) -> History:
        log = None
        if self.accelerator.is_main_process:
            log = MetricsLog(
                self.out,
                start=self.progress.step,
                config=self.training,
                accelerator=self.accelerator,
                title=self.game.name,
            )
        try:
            with StopSignals() as signals:
                if not self.history.measured:
                    self._measure(log)
                batches = self.game.batches(data_position(self.training, self.progress.step, self.accelerator))
                while not self._finished:
                    self._step(batches, signals)
                    self._between_steps(log)
        finally:
            if log:
                log.close()
        return self.history

    @property
    def _finished(self) -> bool:
        done = self.progress.step >= self.training.steps or self.history.diverged
        return done or self.history.worse_in_a_row() >= self.game.config.patience

    def _step(self, batches: Iterator[Starts], signals: StopSignals) -> None:
        """Rollouts, a step of the student on one window of each, then steps of the critic on other windows of them.

        The critic's steps share the rollouts, as these cost more than all else; windows and noise are new each time.
        """
        started = time.monotonic()
        training, parts = self.training, self.training.accumulation
        rate, updates = learning_rate(training, self.progress.step), self.progress.step
        rolled, sums = [], {}
        for micro in range(1, parts + 1):
            batch = next(batches).to(self.accelerator.device)
            seed_step(training.seed, self.progress.step, micro, self.accelerator.process_index)
            with self._synchronised(self.student, micro):
                rollouts, loss, metrics = self._play(batch)
                self.accelerator.backward(loss / parts)
            rolled.append(rollouts)
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / parts
        sums["gradient_norm"] = self.student.gradient_norm(clip=training.gradient_clip)
        values, self.stop, bad = agree(sums, stop=signals.received is not None, accelerator=self.accelerator)
        if not bad:
            self.student.update(rate, updates=updates)
            for turn in range(1, self.game.config.critic_ratio + 1):
                found, bad = self._critic_step(rolled, turn)
                if bad:
                    break
                for name, value in found.items():
                    values[f"critic_{name}"] = values.get(f"critic_{name}", 0.0) + value / self.game.config.critic_ratio
        self.history.diverged = bad
        self.progress.step += 1
        if bad:
            return
        for name, value in (values | {"seconds": time.monotonic() - started}).items():
            self.progress.window[name] = self.progress.window.get(name, 0.0) + value
        self.progress.window_updates += 1

    def _play(self, batch: Starts) -> tuple[Rollouts, Tensor, dict[str, Tensor]]:
        """Rollouts, without their gradient, and the student's loss on a window of them."""
        place = self._place()
        rollouts = roll_out(
            self.game.student,
            batch,
            network=self.student.model,
            scored=range(place + 1, place + self._length),
        )
        loss, metrics = student_loss(
            rollouts.window(place, self._length),
            teacher=self.teacher,
            critic=self.critic.model,
            shift=self._shift,
            patch=self.teacher.patch,
        )
        return rollouts.detached(), loss, metrics

    def _critic_step(self, rolled: list[Rollouts], turn: int) -> tuple[dict[str, float], bool]:
        """Loss and gradient norm, and whether one of them was not finite; then nothing was changed."""
        training, parts = self.training, self.training.accumulation
        sums: dict[str, Tensor] = {}
        for micro, rollouts in enumerate(rolled, 1):
            seed_step(training.seed, self.progress.step, turn * parts + micro, self.accelerator.process_index)
            with self._synchronised(self.critic, micro):
                window = rollouts.window(self._place(), self._length)
                loss = critic_loss(window, critic=self.critic.model, shift=self._shift, patch=self.teacher.patch)
                self.accelerator.backward(loss / parts)
            sums["loss"] = sums.get("loss", 0.0) + loss.detach().float() / parts
        sums["gradient_norm"] = self.critic.gradient_norm(clip=training.gradient_clip)
        values, _, bad = agree(sums, stop=False, accelerator=self.accelerator)
        if not bad:
            own = replace(training, learning_rate=self.game.config.critic_learning_rate)
            self.critic.update(learning_rate(own, self.progress.step), updates=0)
        return values, bad

    @property
    def _length(self) -> int:
        """Latents of a scored window: as many as the teacher was trained on."""
        return self.game.student.config.data.latents

    @property
    def _shift(self) -> float:
        return self.game.student.config.loss.shift

    def _place(self) -> int:
        """A random place of a window in a rollout."""
        return int(torch.randint(self.game.config.latents - self._length + 1, ()))

    def _synchronised(self, player: Player, micro: int) -> contextlib.AbstractContextManager[None]:
        """Gradients are shared among processes with the last micro-batch of a step."""
        last = micro == self.training.accumulation
        return contextlib.nullcontext() if last else self.accelerator.no_sync(player.model)

    def _between_steps(self, log: MetricsLog | None) -> None:
        training, step = self.training, self.progress.step
        last = step == training.steps or self.history.diverged
        if step % training.log_every == 0 or last:
            self._log(log)
        if (step % training.evaluate_every == 0 or last) and not self.history.diverged:
            self._measure(log)
        if log:
            log.advance()
        if step % training.save_every == 0 or self._finished or self.stop:
            self._save()
        if self.stop and not self._finished:
            raise StoppedBySignal(
                f"stopped after step {step}; everything is saved in {self.out}",
                hint="Run the same command again to go on.",
            )

    def _log(self, log: MetricsLog | None) -> None:
        progress = self.progress
        if log and progress.window_updates:
            means = {name: total / progress.window_updates for name, total in progress.window.items()}
            log.write(progress.step, means | {"learning_rate": learning_rate(self.training, progress.step - 1)})
            log.show(progress.step, means)
        progress.window, progress.window_updates = {}, 0

    def _measure(self, log: MetricsLog | None) -> None:
        """Measure the average's drift, and keep the average if it is the best after step 0."""
        with self.student.average.swapped_into(self.student.model):
            found: list[Drift | None] = [self.game.measure(self.game.student) if log else None]
        drift = cast(Drift, broadcast_object_list(found)[0])
        self.history.measured.append(Measured(self.progress.step, drift))
        self.history.diverged = not math.isfinite(drift.late.score)
        if log:
            late = {f"drift/{name}": value for name, value in drift.late.numbers().items()}
            log.write(self.progress.step, late)
            log.show(self.progress.step, late)
        if self.progress.step and self.history.best.step == self.progress.step:
            tensors = published_tensors(self.student.model, self.student.average)
            if self.accelerator.is_main_process:
                config, card = self.game.checkpoint_config, self._card()
                save_model(self.out / BEST, tensors=tensors, config=config, card=card)
        self.accelerator.wait_for_everyone()

    def _card(self) -> str:
        return f"# {self.game.name}, step {self.progress.step}\n\nThe network of a student in the making.\n"

    def _save(self) -> None:
        student, critic = self.student, self.critic
        tensors, critic_tensors = (published_tensors(one.model, one.average) for one in (student, critic))
        files, critic_files = (training_tensors(one.model, one.optimizer, one.average) for one in (student, critic))
        if self.accelerator.is_main_process:
            weights = sum(p.numel() * p.element_size() for one in (student, critic) for p in one.model.parameters())
            require_space(self.out, 4 * weights)
            with durable_folder(self.out / "checkpoints" / f"step-{self.progress.step}") as folder:
                write_model_files(folder, tensors=tensors, config=self.game.checkpoint_config, card=self._card())
                save_training(folder / "training", files, self.progress)
                (folder / "training" / "history.json").write_text(json.dumps(to_dict(self.history)))
                (folder / "critic").mkdir()
                save_file(critic_tensors, folder / "critic" / "model.safetensors")
                save_training(folder / "critic" / "training", critic_files, self.progress)
            prune(self.out, keep=self.training.keep)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> tuple[Progress, History]:
        newest = resumed_from(self.out)
        if newest is None:
            return Progress(), History()
        load_training(newest / "critic", self.critic.model, self.critic.optimizer, self.critic.average)
        progress = load_training(newest, self.student.model, self.student.optimizer, self.student.average)
        history = json.loads((newest / "training" / "history.json").read_text())
        return progress, from_dict(History, history, where=f"{newest}/training/history.json")
