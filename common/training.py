"""The one training loop: `fit(model, loss, batches, ...)` serves every stage that has one optimizer.

The same command again resumes, bit for bit: data order and random numbers are functions of (seed, step, rank), and a
checkpoint holds weights, average, optimizer and progress exactly. Signals, bad numbers and full disks are met here.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import Self

from common.checkpoints import durable_folder, newest_checkpoint, prune, require_space, write_model_files
from common.config import TrainingConfig
from common.errors import BadData, StoppedBySignal, UserError
from common.muon import Muon
from common.run_folder import MetricsLog, open_run, require_tracker
from common.training_state import (
    ExponentialMovingAverage,
    Progress,
    first_non_finite,
    learning_rate,
    load_training,
    parameter_groups,
    published_tensors,
    save_training,
    seed_step,
    training_tensors,
)

NON_FINITE_LIMIT = 20


class Batch(Protocol):
    """What a stage's loss takes. `names` says which clips it came from, for messages."""

    names: Sequence[str]

    def to(self, device: torch.device) -> Self: ...


@dataclass(frozen=True)
class DataPosition:
    """Where in the endless data stream to start: everything that a stage's batch order may depend on."""

    first_batch: int
    """Micro-batches already used by this rank."""
    batch_size: int
    """Samples per micro-batch on this rank."""
    rank: int
    world_size: int


@dataclass(frozen=True)
class Stage:
    """What a stage gives to `fit`. `loss(model, batch)` calls only the model's forward; returns (scalar, metrics)."""

    name: str
    model: nn.Module
    loss: Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]
    batches: Callable[[DataPosition], Iterator[Any]]
    evaluate: Callable[[nn.Module, int], dict[str, float]]
    """(unwrapped model with published weights, step) -> numbers; may write pictures. Runs on the main process."""
    config: dict[str, Any]
    """The whole resolved config, as JSON values: the run's config.json."""
    checkpoint_config: dict[str, Any]
    """config.json of each checkpoint: what loading the model needs."""
    card: Callable[[int, dict[str, float]], str]
    """(step, last validation) -> text of the model card."""
    companions: Callable[[Path], None] | None = None
    """Writes into a new checkpoint's folder what it needs beside the model."""


class StopSignals:
    """Inside the block, SIGTERM, SIGUSR1 and SIGINT ask for a stop; a second signal leaves at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        print(f"{signal.Signals(number).name}: saving after this step; once more to leave at once", file=sys.stderr)


def data_position(training: TrainingConfig, step: int, accelerator: Accelerator) -> DataPosition:
    """Where this rank's data goes on before optimizer step `step`. UserError if the batch cannot be shared out."""
    parts = accelerator.num_processes * training.accumulation
    batch_size, rest = divmod(training.batch_size, parts)
    if rest or not batch_size:
        raise UserError(
            f"training.batch_size {training.batch_size} does not divide by {accelerator.num_processes} "
            f"processes x {training.accumulation} accumulation"
        )
    return DataPosition(
        first_batch=step * training.accumulation,
        batch_size=batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def agree(sums: dict[str, Tensor], *, stop: bool, accelerator: Accelerator) -> tuple[dict[str, float], bool, bool]:
    """One reduction over ranks: mean of each number, whether any rank must stop, whether any is not finite.

    Finite must be `loss` and `gradient_norm`, which are among the sums.
    """
    finite = torch.isfinite(sums["loss"]) & torch.isfinite(sums["gradient_norm"])
    flags = torch.tensor([float(stop), 0.0], device=accelerator.device)
    flags[1] = (~finite).float()
    numbers = torch.stack([value.to(accelerator.device).float() for value in sums.values()])
    together = cast(Tensor, accelerator.reduce(torch.cat([flags, numbers]), "mean")).tolist()
    return dict(zip(sums, together[2:], strict=True)), together[0] > 0, together[1] > 0


def resumed_from(out: Path) -> Path | None:
    """The run's newest whole checkpoint, None in a new run; names damaged ones on stderr. BadData if none is whole."""
    newest, damaged = newest_checkpoint(out)
    for reason in damaged:
        print(f"skipped a damaged checkpoint: {reason}", file=sys.stderr)
    if newest is None and damaged:
        raise BadData(f"no checkpoint of {out} is whole", hint="Remove the folder or choose another --out.")
    return newest


def fit(stage: Stage, training: TrainingConfig, out: Path) -> Path:
    """Train until `training.steps`, or go on from the newest checkpoint in `out`; returns the last checkpoint's folder.

    Raises StoppedBySignal once everything is saved, UserError for a config that does not fit the run or the machine,
    BadData when NON_FINITE_LIMIT steps in a row gave no finite loss and gradient.
    """
    require_tracker(training.tracker)
    accelerator = Accelerator(log_with=None if training.tracker == "none" else training.tracker, project_dir=out)
    if accelerator.is_main_process:
        open_run(out, stage.config)
    accelerator.wait_for_everyone()
    return _Fit(stage, training, out, accelerator).run()


class _Fit:
    """One call of `fit`."""

    def __init__(self, stage: Stage, training: TrainingConfig, out: Path, accelerator: Accelerator) -> None:
        self.stage, self.training, self.out, self.accelerator = stage, training, out, accelerator
        if training.compile:
            stage.model.compile()
        groups = parameter_groups(stage.model, weight_decay=training.weight_decay)
        optimizer = Muon(groups, lr=0.0) if training.optimizer == "muon" else torch.optim.AdamW(groups, lr=0.0)
        self.model, prepared = accelerator.prepare(stage.model, optimizer)
        self.optimizer = prepared.optimizer
        self.ema = ExponentialMovingAverage(self.model, decay=training.ema_decay)
        self.progress = self._resume()
        self.stop = False
        self.clock = _Clock()

    def run(self) -> Path:
        if self.progress.step >= self.training.steps:
            return self._folder()
        self._require_space()
        log = None
        if self.accelerator.is_main_process:
            log = MetricsLog(
                self.out,
                start=self.progress.step,
                config=self.training,
                accelerator=self.accelerator,
                title=self.stage.name,
            )
        try:
            with StopSignals() as signals:
                batches = self.stage.batches(data_position(self.training, self.progress.step, self.accelerator))
                while self.progress.step < self.training.steps:
                    self._step(batches, signals)
                    self._between_steps(log)
        finally:
            if log:
                log.close()
        return self._folder()

    def _step(self, batches: Iterator[Any], signals: StopSignals) -> None:
        """One optimizer step; a non-finite loss or gradient leaves the weights as they are."""
        started = time.monotonic()
        self.model.train()
        clips: list[str] = []
        sums: dict[str, Tensor] = {}
        for micro in range(1, self.training.accumulation + 1):
            waiting = time.monotonic()
            batch = next(batches).to(self.accelerator.device)
            self.clock.waited += time.monotonic() - waiting
            clips += batch.names
            # Only now, because fetching data may draw random numbers of its own (a DataLoader does when it starts).
            seed_step(self.training.seed, self.progress.step, micro, self.accelerator.process_index)
            last = micro == self.training.accumulation
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                # Not accelerate's mixed precision: that is one for the whole process, whatever is trained next in it.
                bf16 = self.training.precision == "bf16"
                with torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=bf16):
                    loss, metrics = self.stage.loss(self.model, batch)
                self.accelerator.backward(loss / self.training.accumulation)
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / self.training.accumulation
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip)
        sums["gradient_norm"] = norm.full_tensor() if isinstance(norm, DTensor) else norm

        values, self.stop, bad = agree(sums, stop=signals.received is not None, accelerator=self.accelerator)
        if bad:
            self._skip(clips)
        else:
            self._update(values)
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.clock.steps += 1
        self.clock.busy += time.monotonic() - started

    def _update(self, values: dict[str, float]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.training, self.progress.step)
        self.optimizer.step()
        self.ema.update(self.model, updates=self.progress.step - self.progress.skipped)
        self.progress.skipped_in_a_row = 0
        for name, value in values.items():
            self.progress.window[name] = self.progress.window.get(name, 0.0) + value
        self.progress.window_updates += 1

    def _skip(self, clips: list[str]) -> None:
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        if self.progress.skipped_in_a_row >= NON_FINITE_LIMIT:
            raise BadData(
                f"loss or gradient was not finite {NON_FINITE_LIMIT} steps in a row, the last at step "
                f"{self.progress.step} with the clips {', '.join(sorted(set(clips)))}",
                hint="Look at these clips, lower --training.learning-rate, or train in fp32.",
            )

    def _between_steps(self, log: MetricsLog | None) -> None:
        training, step = self.training, self.progress.step
        last = step == training.steps
        if step % training.log_every == 0 or last:
            self._log(log)
        if training.evaluate_every and (step % training.evaluate_every == 0 or last):
            self._evaluate(log)
        if log:
            log.advance()
        if step % training.save_every == 0 or last or self.stop:
            self._save()
        if self.stop and not last:
            raise StoppedBySignal(
                f"stopped after step {step} of {training.steps}; everything is saved in {self.out}",
                hint="Run the same command again to go on.",
            )

    def _log(self, log: MetricsLog | None) -> None:
        progress, clock = self.progress, self.clock
        if log:
            means = {name: total / progress.window_updates for name, total in progress.window.items()}
            rates = {
                "samples_per_second": clock.steps * self.training.batch_size / clock.busy,
                "data_wait_share": clock.waited / clock.busy,
            }
            steady = {"learning_rate": learning_rate(self.training, progress.step - 1), "skipped": progress.skipped}
            log.write(progress.step, means | steady | rates)
            log.show(progress.step, means | rates)
        progress.window, progress.window_updates, self.clock = {}, 0, _Clock()

    def _evaluate(self, log: MetricsLog | None) -> None:
        with self.ema.swapped_into(self.model):
            if log:
                network = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
                network.eval()
                with torch.no_grad():
                    self.progress.validation = self.stage.evaluate(network, self.progress.step)
                log.write(self.progress.step, {f"validation/{k}": v for k, v in self.progress.validation.items()})
                log.show(self.progress.step, self.progress.validation)
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        tensors = published_tensors(self.model, self.ema)
        files = training_tensors(self.model, self.optimizer, self.ema)
        if self.accelerator.is_main_process:
            broken = first_non_finite(tensors) or first_non_finite(files.get("weights", {}))
            if broken:
                raise BadData(
                    f"weight {broken} is not finite at step {self.progress.step}; nothing was written",
                    hint="The checkpoints before this step are whole. Lower --training.learning-rate and start anew.",
                )
            self._require_space()
            with durable_folder(self._folder()) as temporary:
                card = self.stage.card(self.progress.step, self.progress.validation)
                write_model_files(temporary, tensors=tensors, config=self.stage.checkpoint_config, card=card)
                save_training(temporary / "training", files, self.progress)
                if self.stage.companions:
                    self.stage.companions(temporary)
            prune(self.out, keep=self.training.keep)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> Progress:
        newest = resumed_from(self.out)
        if newest is None:
            self.ema.copy_from(self.model)
            return Progress()
        return load_training(newest, self.model, self.optimizer, self.ema)

    def _folder(self) -> Path:
        return self.out / "checkpoints" / f"step-{self.progress.step}"

    def _require_space(self) -> None:
        """Weights, their average and AdamW's two moments (Muon has one)."""
        copies = 3 + bool(self.training.ema_decay)
        require_space(self.out, copies * sum(p.numel() * p.element_size() for p in self.model.parameters()))


@dataclass
class _Clock:
    """Time since the last line in metrics.jsonl, training steps only."""

    steps: int = 0
    busy: float = 0.0
    waited: float = 0.0
