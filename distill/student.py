"""A student on disk: a video model's checkpoint as any other, with its teacher's parts, that samples in few steps."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from common.checkpoints import MANIFEST, durable_folder, find_checkpoint, write_model_files
from common.config import to_dict
from distill.alternating import History
from distill.drift import Decay
from distill.presets import DistillConfig
from video_model.generator import checkpoint_config, load_video_model, write_decoder
from video_model.presets import VideoConfig

PARTS = ("tokenizer", "decoder", "lam", "embodiments")
"""Folders of every video model's checkpoint; the others (`align.robot`) hold a file for each robot."""


def student_config(teacher: VideoConfig, config: DistillConfig) -> VideoConfig:
    """The teacher's settings with the student's steps and context."""
    loss = teacher.loss
    seen = replace(
        loss,
        window=loss.window if config.window is None else config.window,
        sink=loss.sink if config.sink is None else config.sink,
    )
    training = config.warm_up.training
    return replace(
        teacher,
        loss=seen,
        sampling_steps=config.steps,
        sampler="renoise",
        lora_rank=config.lora_rank,
        training=training,
    )


def own_networks(teacher: Path) -> set[str]:
    """Robots of a checkpoint that have a network of their own, which is another teacher than the checkpoint's."""
    return {file.stem for file in (find_checkpoint(teacher) / "networks").glob("*.safetensors")}


def say_what_is_left_out(teacher: Path) -> None:
    for name in sorted(own_networks(teacher)):
        print(f"left out: the robot {name}: it has a network of its own, which this student is not of", file=sys.stderr)


def copy_companions(teacher: Path, folder: Path) -> None:
    """Copy into a checkpoint's folder what the teacher's holds beside its network, but for robots with their own."""
    source, own = find_checkpoint(teacher), own_networks(teacher)
    for part in source.iterdir():
        if part.is_dir() and part.name not in ("training", "networks"):
            left_out = ["training", MANIFEST] if part.name in PARTS else [f"{name}.*" for name in own]
            shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns(*left_out))


def write_student(
    folder: Path,
    network: Path,
    *,
    teacher: Path,
    decoder: Path | None,
    settings: VideoConfig,
    config: DistillConfig,
    preset: str,
    card: str,
) -> None:
    """A checkpoint folder with the network of a checkpoint, adapters merged, and the teacher's companions.

    decoder: a tiny decoder's checkpoint or run, in place of the teacher's.
    """
    model, _ = load_video_model(network)
    told = checkpoint_config(model, replace(settings, lora_rank=0), preset=preset) | {"distilled": to_dict(config)}
    with durable_folder(folder) as temporary:
        write_model_files(temporary, tensors=model.state_dict(), config=told, card=card)
        copy_companions(teacher, temporary)
        if decoder:
            write_decoder(temporary, decoder)


def student_card(
    config: DistillConfig, history: History, *, preset: str, options: str, teacher: VideoConfig, shipped: str
) -> str:
    """Text of the student's README.md. shipped: which stage's network it is, and why."""
    first, best = history.measured[0].drift, history.best.drift
    curves = "\n".join(
        f"| {seconds:.1f} | {_cells(before)} | {_cells(after)} |"
        for seconds, before, after in zip(first.seconds, first.by_latent, best.by_latent, strict=True)
    )
    steps = "\n".join(f"| {one.step} | {_cells(one.drift.late)} | {one.score:.3f} |" for one in history.measured)
    return f"""# Student of a video model, `{preset}`

Makes four frames in {config.steps} steps, where its teacher takes {teacher.sampling_steps}. Distilled by

    understudy train distill {preset} {options}

Stage B: {config.warm_up.method}, {config.warm_up.training.steps} steps of {config.warm_up.training.batch_size} windows.
Stage C: self-forcing, {history.measured[-1].step} of at most {config.self_forcing.training.steps} steps of
{config.self_forcing.training.batch_size} rollouts of {config.self_forcing.latents} latents.
Every setting is in `config.json`.

{shipped}

Drift on {config.drift.windows} held-out windows, of rollouts of {config.drift.latents} latents from one frame under
the true actions. path: error of the foreground's path over the true path; sharpness: dB, made minus true; colour:
difference of mean colours, of pictures in [-1, 1].

| second | stage B: path | sharpness | colour | shipped: path | sharpness | colour |
|---|---|---|---|---|---|---|
{curves}

By steps of stage C, over the second half of the time; score = path + |sharpness| / 10:

| step | path | sharpness | colour | score |
|---|---|---|---|---|
{steps}

Use it as any video model: `understudy rollout`, `understudy evaluate video`.
"""


def _cells(decay: Decay) -> str:
    return f"{decay.path:.3f} | {decay.sharpness:+.2f} | {decay.colour:.3f}"
