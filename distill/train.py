"""Distil a video model to a student that makes its latents in few steps: warm up, self-force, ship the better one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from torch import Tensor, nn

from common.checkpoints import find_checkpoint, weights_checksum
from common.config import TrainingConfig, to_dict
from common.errors import UserError
from common.folders import Clip
from common.training import DataPosition, Stage, fit
from distill import consistency, regression
from distill.alternating import BEST, Game, History, alternate
from distill.drift import Drift, measure_drift
from distill.presets import DistillConfig
from distill.self_forcing import Starts, start_batches
from distill.student import (
    copy_companions,
    say_what_is_left_out,
    student_card,
    student_config,
    write_student,
)
from video_model.clip_batches import open_split
from video_model.clips import ClipWindows
from video_model.generator import (
    LATENT,
    Generator,
    checkpoint_config,
    load_generator,
    load_video_model,
    require_decoder_fits,
)
from video_model.labels import Labels
from video_model.latent_windows import LatentBatch
from video_model.lora import add_lora
from video_model.model import VideoModel
from video_model.presets import TIME_FACTOR, VideoConfig
from video_model.tiny_decoder import load_tiny_decoder
from video_model.train import SPLIT_SEED, labelled, latent_batches, window_config
from video_model.validation import HeldOut, held_out_windows

STAGE_C = "self-forcing"
"""Folder of its run; that of stage B is named for its method."""


@dataclass(frozen=True)
class _Task:
    """What both stages are given."""

    config: DistillConfig
    preset: str
    given: dict[str, str]
    teacher: Generator
    teacher_folder: Path
    settings: VideoConfig
    """The student's."""
    labels: Labels
    clips: list[Clip]
    """Of training."""
    held_out: HeldOut
    out: Path
    latents: Path
    decoder: Path | None

    def student(self, network: VideoModel) -> Generator:
        """With tokenizer, forecaster and embodiments of the teacher."""
        return replace(self.teacher, model=network, config=self.settings)

    def measure(self, student: Generator) -> Drift:
        return measure_drift(student, self.held_out)

    def run_config(self, part: Any, **more: str) -> dict[str, Any]:
        """config.json of a stage's run; `part` is its own part of the config."""
        whole = {"steps": self.config.steps, "window": self.config.window, "sink": self.config.sink}
        whole |= {"lora_rank": self.config.lora_rank, "drift": to_dict(self.config.drift)}
        source = {"preset": self.preset, **self.given, "teacher_weights": weights_checksum(self.teacher_folder)}
        return source | more | whole | to_dict(part)


def distill(
    config: DistillConfig,
    *,
    preset: str,
    teacher: Path,
    data: Path,
    actions: Path,
    out: Path,
    latents: Path | None = None,
    decoder: Path | None = None,
) -> Path:
    """Train both stages, or go on there, and write the student that drifts less; returns its folder, OUT/student.

    teacher: a video model's checkpoint, aligned to a robot or not. data, actions: a folder of video and its latent
    actions, as the teacher was trained on. latents: folder of encoded windows, which may be that of the teacher's
    training; by default in OUT. decoder: a tiny decoder that the student is given. UserError where these do not fit
    each other.
    """
    generator, labels = load_generator(teacher), Labels.open(actions)
    if decoder:
        require_decoder_fits(load_tiny_decoder(decoder), generator.tokenizer, decoder)
    _require_fit(config, generator, labels, teacher)
    say_what_is_left_out(teacher)
    train_clips, held_out_clips = open_split(
        [data], validation_share=generator.config.data.validation_share, seed=SPLIT_SEED
    )
    rolled = window_config(generator.config.data, frames=1 + TIME_FACTOR * (config.drift.latents - 1))
    given = {"teacher": str(teacher), "data": str(data), "actions": str(actions)}
    given |= {"latents": str(latents)} if latents else {}
    task = _Task(
        config=config,
        preset=preset,
        given=given,
        teacher=generator.to(cast(torch.device, PartialState().device)),
        teacher_folder=find_checkpoint(teacher),
        settings=student_config(generator.config, config),
        labels=labels,
        clips=labelled(train_clips, labels),
        held_out=held_out_windows(
            labelled(held_out_clips, labels), labels, rolled, windows=config.drift.windows, seed=SPLIT_SEED
        ),
        out=out,
        latents=latents or out / "latents",
        decoder=decoder,
    )
    warm = _warm_up(task)
    history = _self_force(task, warm)
    return _ship(task, warm, history)


def _require_fit(config: DistillConfig, teacher: Generator, labels: Labels, path: Path) -> None:
    """UserError unless the labels are what the teacher takes, and the teacher is one that can teach."""
    body, loss = teacher.embodiment(LATENT), teacher.config.loss
    if (labels.dim, labels.camera_dim) != (len(body.scale), body.camera_dim):
        raise UserError(
            f"{path} takes latent actions of {len(body.scale)} values, {body.camera_dim} of them the camera's; the "
            f"labels in {labels.folder} have {labels.dim} and {labels.camera_dim}",
            hint="Give the labels that the teacher was trained on.",
        )
    if teacher.forecaster and labels.identity["weights"] != teacher.forecaster.identity:
        raise UserError(
            f"the labels in {labels.folder} were written by another latent action model than the teacher's",
            hint=f"Label the videos with the teacher's own: understudy label {path}/lam FOLDER --out LABELS",
        )
    if loss.causal_share in (0.0, 1.0):
        seen = "all latents at once" if loss.causal_share else "a stream"
        raise UserError(
            f"{path} was trained with loss.causal_share {loss.causal_share:g}: it has never seen {seen}, as a teacher "
            "must",
            hint="Train it with --loss.causal-share between 0 and 1.",
        )
    if config.self_forcing.latents < teacher.config.data.latents:
        raise UserError(
            f"self_forcing.latents {config.self_forcing.latents} must be at least {teacher.config.data.latents}, the "
            "window that the teacher was trained on and scores"
        )


def _warm_up(task: _Task) -> Path:
    """Stage B; the last checkpoint's folder."""
    stage, settings, teacher = task.config.warm_up, task.settings, task.teacher
    training, body, patch = stage.training, teacher.embodiment(LATENT), teacher.model.patch
    torch.manual_seed(training.seed)
    network = _trainable(teacher.model, task.config, training)
    teacher.model.requires_grad_(False)

    def loss(student: nn.Module, batch: LatentBatch) -> tuple[Tensor, dict[str, Tensor]]:
        scaled = replace(batch, actions=body.scaled(batch.actions))
        shared = {"teacher": teacher.model, "teacher_steps": stage.teacher_steps, "patch": patch}
        if stage.method == "consistency":
            return consistency.loss(student, scaled, settings.loss, **shared)
        return regression.loss(student, scaled, settings.loss, student_steps=task.config.steps, **shared)

    def batches(position: DataPosition) -> Iterator[LatentBatch]:
        return latent_batches(
            position,
            task.clips,
            task.labels,
            teacher.tokenizer,
            teacher.forecaster,
            settings,
            out=task.out / stage.method,
            latents=task.latents,
        )

    def card(step: int, numbers: dict[str, float]) -> str:
        measured = "\n".join(f"- {name}: {value:.4g}" for name, value in numbers.items())
        return (
            f"# Student after stage B ({stage.method}), step {step}\n\nLate drift:\n\n{measured or '- not measured'}\n"
        )

    return fit(
        Stage(
            name=f"distill {stage.method}",
            model=network,
            loss=loss,
            batches=batches,
            evaluate=lambda model, step: task.measure(task.student(cast(VideoModel, model))).late.numbers(),
            config=task.run_config(stage),
            checkpoint_config=checkpoint_config(network, settings, preset=task.preset),
            card=card,
            companions=lambda folder: copy_companions(task.teacher_folder, folder),
        ),
        training,
        task.out / stage.method,
    )


def _self_force(task: _Task, warm: Path) -> History:
    """Stage C, from stage B's checkpoint."""
    stage, data, teacher = task.config.self_forcing, task.settings.data, task.teacher
    training = stage.training
    torch.manual_seed(training.seed)
    network = _trainable(load_video_model(warm)[0], task.config, training)
    frames = 1 + TIME_FACTOR * (stage.latents - 1)
    windows = replace(window_config(data, frames=frames), buffer_windows=stage.buffer_windows)

    def batches(position: DataPosition) -> Iterator[Starts]:
        source = ClipWindows(
            task.clips,
            config=windows,
            batch_size=position.batch_size,
            seed=training.seed,
            rank=position.rank,
            world_size=position.world_size,
            labels=task.labels,
        )
        log = task.out / STAGE_C / "quarantine.jsonl"
        return start_batches(source, position, workers=training.workers, log=log, still_share=data.still_share)

    return alternate(
        Game(
            name="distill self-forcing",
            student=task.student(network),
            teacher=teacher.model,
            critic=_trainable(teacher.model, task.config, training),
            batches=batches,
            measure=task.measure,
            config=stage,
            run_config=task.run_config(stage, init=str(warm.relative_to(task.out))),
            checkpoint_config=checkpoint_config(network, task.settings, preset=task.preset),
        ),
        task.out / STAGE_C,
    )


def _trainable(source: VideoModel, config: DistillConfig, training: TrainingConfig) -> VideoModel:
    """A copy of a network, to be trained as the config says."""
    network = cast(VideoModel, VideoModel.from_config(source.config))
    network.load_state_dict(source.state_dict())
    if config.lora_rank:
        add_lora(network, rank=config.lora_rank)
    if training.checkpoint_activations:
        network.enable_gradient_checkpointing()
    return network


def _ship(task: _Task, warm: Path, history: History) -> Path:
    """Write OUT/student with the network that drifts least, and say which it is."""
    best, before = history.best, history.measured[0]
    if best.step:
        network, scores = task.out / STAGE_C / BEST, f"late drift {best.score:.3f}, stage B's {before.score:.3f}"
        shipped = f"This is stage C's network after step {best.step} ({scores})."
    else:
        network, end = warm, "diverged" if history.diverged else "ended"
        shipped = f"This is stage B's network: stage C {end} without drifting less in any measurement."
    folder = task.out / "student"
    if PartialState().is_main_process:
        given = task.given | ({"decoder": str(task.decoder)} if task.decoder else {})
        options = " ".join(f"--{name} {value}" for name, value in given.items()) + f" --out {task.out}"
        card = student_card(
            task.config,
            history,
            preset=task.preset,
            options=options,
            teacher=task.teacher.config,
            shipped=shipped,
        )
        write_student(
            folder,
            network,
            teacher=task.teacher_folder,
            decoder=task.decoder,
            settings=task.settings,
            config=task.config,
            preset=task.preset,
            card=card,
        )
        print(shipped)
    PartialState().wait_for_everyone()
    return folder
