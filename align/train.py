"""Align a video model to a robot with a few labelled episodes: read, learn, write a checkpoint that knows the robot."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from align.adapter import Adapter, adapter_inputs, learn_adapter
from align.check import check_dataset
from align.datasets import open_dataset
from align.embodiment import HEADER, RobotEmbodiment, describe, override
from align.guess import guess_embodiment
from align.inverse import learn_inverse, write_inverse
from align.modality import declared_groups
from align.presets import AlignConfig, Mode
from align.recordings import Recording, read_recordings, stride_of
from align.robot import robot_names, video_embodiment, write_robot
from align.robot_dataset import RobotDataset, choose_camera
from align.windows import RobotWindows, encode_recordings
from common.checkpoints import MANIFEST, durable_folder, find_checkpoint, load_model_folder
from common.config import to_dict
from common.errors import BadData, UserError
from common.training import DataPosition, Stage, fit
from lam.interface import resized
from lam.label import encode_frames
from video_model.generator import LATENT, Generator, build_video_model, checkpoint_config, load_generator
from video_model.latent_windows import LatentBatch
from video_model.lora import add_lora, merged
from video_model.loss import loss
from video_model.model import VideoModel

Show = Callable[[RobotEmbodiment], None]
PAIRS_AT_ONCE = 64
"""Pairs of frames that the latent action model looks at together."""


@dataclass(frozen=True)
class Episodes:
    """What an alignment learns from."""

    embodiment: RobotEmbodiment
    """At the recordings' rate, fitted on them."""
    recordings: tuple[Recording, ...]


def align(
    checkpoint: Path,
    dataset: str | Path,
    *,
    mode: Mode,
    out: Path,
    config: AlignConfig,
    name: str | None = None,
    episodes: str | None = None,
    camera: str | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    show: Show = lambda embodiment: None,
) -> Path:
    """Write `out`, a copy of the checkpoint that knows one robot more; returns it.

    dataset: as `align.datasets.open_dataset` takes it. episodes: a split of it, or first:end; by default its split
    "train", or all. name: of the robot, by default the dataset's folder. changes: corrections of what is guessed of the
    controls (`align.embodiment.override`). show: is given what the controls are taken for, before anything is learned.
    UserError and BadData before anything is written; training goes on where it was stopped.
    """
    opened = open_dataset(dataset)
    generator = load_generator(checkpoint)
    name = name or opened.root.resolve().name
    if name in robot_names(checkpoint) or name == LATENT:
        raise UserError(f"{checkpoint} knows a robot '{name}' already", hint="Give another --name.")
    if mode != "scratch" and generator.forecaster is None:
        raise UserError(
            f"{checkpoint} was trained without --lam, so nothing says what the robot's frames show",
            hint="Train it with `understudy train video ... --lam RUN`, or use --mode scratch.",
        )
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists already", hint="Choose another --out.")
    known = read_episodes(opened, generator, name=name, episodes=episodes, camera=camera, changes=changes)
    show(known.embodiment)
    codes, scale = [], generator.embodiment(LATENT).scale
    if generator.forecaster:
        codes = [frame_codes(generator, recording.frames) for recording in known.recordings]
    adapter = None
    if mode != "scratch":
        adapter = learn_adapter(known.embodiment, known.recordings, codes, code_scale=scale)
    network = None
    if mode != "adapter":
        windows = encode(generator, known, config, adapter=adapter)
        network = train_network(generator, known.embodiment, windows, config, scratch=mode == "scratch", out=out)
    source = find_checkpoint(checkpoint)
    with durable_folder(out) as folder:
        left_out = shutil.ignore_patterns("training", MANIFEST, "README.md")
        shutil.copytree(source, folder, ignore=left_out, dirs_exist_ok=True)
        names = [recording.name for recording in known.recordings]
        write_robot(
            folder, known.embodiment, learned_from=names, adapter=adapter, network=network, base=generator.model
        )
        if codes:
            inverse = learn_inverse(
                known.embodiment, known.recordings, codes, code_scale=scale, seed=config.training.seed
            )
            write_inverse(folder, name, inverse)
        text = (source / "README.md").read_text() if (source / "README.md").exists() else ""
        (folder / "README.md").write_text(text + _card(checkpoint, dataset, known, mode=mode, episodes=episodes))
    return out


def training_episodes(dataset: RobotDataset[Any], episodes: str | None) -> Sequence[Any]:
    """Those that are named; else the split "train", or all where there is none. UserError if there are none."""
    if episodes:
        return dataset.episodes_of(episodes)
    try:
        return dataset.episodes_of("train")
    except UserError:
        return dataset.episodes


def read_episodes(
    dataset: RobotDataset[Any],
    generator: Generator,
    *,
    name: str,
    episodes: str | None,
    camera: str | None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Episodes:
    """The episodes that can be used, at the model's size and rate, and what their controls mean.

    Says on stderr which are left out and why. BadData if none is left.
    """
    chosen = training_episodes(dataset, episodes)
    wanted = {episode.index for episode in chosen}
    check = check_dataset(dataset, cameras=(choose_camera(dataset.root, dataset.cameras, camera),))
    for problem in check.problems:
        if problem.episode is None:
            raise BadData(problem.message)
        if problem.episode in wanted:
            print(f"left out: {problem.message}", file=sys.stderr)
    good = [episode for episode in chosen if episode.index in check.good]
    if not good:
        raise BadData(
            f"none of the {len(chosen)} episodes of {dataset.root} can be used", hint="The reasons are above."
        )
    guessed = guess_embodiment(dataset, name=name, episodes=good, declared=declared_groups(dataset))
    own = override(guessed, changes) if changes else guessed
    window = generator.config.data
    stride = stride_of(dataset.fps, window.fps)
    size = (window.height, window.width)
    recordings = tuple(read_recordings(dataset, good, own, size=size, stride=stride, camera=camera))
    at_rate = own.at_stride(stride) if stride > 1 else own
    return Episodes(at_rate.fitted([recording.controls for recording in recordings]), recordings)


def frame_codes(generator: Generator, frames: np.ndarray) -> np.ndarray:
    """Latent actions float32 (T-1, D) of frames uint8 (T, H, W, 3), by the model's own latent action model."""
    assert generator.forecaster
    lam = generator.forecaster.model
    size = (lam.config.height, lam.config.width)
    if frames.shape[1:3] != size:
        pictures = resized(torch.from_numpy(frames).movedim(-1, 1).float(), size)
        frames = pictures.round().clamp(0, 255).byte().movedim(1, -1).numpy()
    parts = [
        encode_frames(lam, frames[first : first + PAIRS_AT_ONCE + 1])
        for first in range(0, len(frames) - 1, PAIRS_AT_ONCE)
    ]
    return np.concatenate(parts)


def encode(generator: Generator, known: Episodes, config: AlignConfig, *, adapter: Adapter | None) -> RobotWindows:
    """The episodes' training windows."""

    def translate(controls: np.ndarray, before: np.ndarray) -> np.ndarray:
        assert adapter
        return adapter.codes(adapter_inputs(known.embodiment, controls, before))

    return encode_recordings(
        known.recordings,
        known.embodiment,
        frames=generator.config.data.frames_read,
        every=config.window_every,
        tokenizer=generator.tokenizer,
        forecaster=generator.forecaster if adapter else None,
        translate=translate if adapter else None,
    )


def train_network(
    generator: Generator,
    embodiment: RobotEmbodiment,
    windows: RobotWindows,
    config: AlignConfig,
    *,
    scratch: bool,
    out: Path,
) -> VideoModel:
    """The robot's own network, in evaluation mode; the run's folder is OUT-run. The generator is not changed."""
    torch.manual_seed(config.training.seed)
    settings = replace(
        generator.config,
        loss=replace(generator.config.loss, hold_share=0.0),  # controls are held at their last, not their mean
        training=config.training,
        lora_rank=config.lora_rank,
    )
    model = _new_network(generator, embodiment, scratch=scratch)
    if config.lora_rank and not scratch:
        add_lora(model, rank=config.lora_rank)
    body = video_embodiment(embodiment)

    def batches(position: DataPosition) -> Iterator[LatentBatch]:
        return windows.batches(position, seed=config.training.seed, hold_share=config.hold_share)

    def scaled_loss(network: nn.Module, batch: LatentBatch) -> tuple[Tensor, dict[str, Tensor]]:
        scaled = replace(batch, actions=body.scaled(batch.actions))
        return loss(network, scaled, settings.loss, embodiment=embodiment.name, patch=model.patch)

    stage = Stage(
        name=f"align {embodiment.name}",
        model=model,
        loss=scaled_loss,
        batches=batches,
        evaluate=lambda network, step: {},
        config={"robot": embodiment.name, "scratch": scratch, **to_dict(config)},
        checkpoint_config=checkpoint_config(model, settings, preset="align"),
        card=lambda step, numbers: (
            f"# Network of the robot `{embodiment.name}`, step {step}\n\nPart of an alignment.\n"
        ),
    )
    return _load_trained(fit(stage, config.training, out.with_name(f"{out.name}-run")))


def _new_network(generator: Generator, embodiment: RobotEmbodiment, *, scratch: bool) -> VideoModel:
    """Random weights, or a copy of the generator's; with an input for the robot."""
    if scratch:
        model = build_video_model(
            generator.config.model,
            latent_channels=generator.tokenizer.z_dim,
            action_dim=embodiment.relative_dim,
            embodiment=embodiment.name,
        )
    else:
        model = cast(VideoModel, VideoModel.from_config(generator.model.config))
        model.load_state_dict(generator.model.state_dict())
        model.add_embodiment(embodiment.name, embodiment.relative_dim)
    return model


def _load_trained(folder: Path) -> VideoModel:
    """The published weights of a run's last checkpoint, without adapters of LoRA."""
    config, tensors = load_model_folder(folder)
    network = cast(VideoModel, VideoModel.from_config(config["model"]))
    network.load_state_dict(merged(tensors), strict=True)
    return network.eval()


def _card(checkpoint: Path, dataset: str | Path, known: Episodes, *, mode: Mode, episodes: str | None) -> str:
    """What is added to the checkpoint's README.md."""
    name, chosen = known.embodiment.name, f" --episodes {episodes}" if episodes else ""
    lines = [f"| {' | '.join(row)} |" for row in (HEADER, ("---",) * len(HEADER), *describe(known.embodiment))]
    table = "\n".join(lines)
    return f"""
## Robot `{name}`

Aligned with {len(known.recordings)} episodes by

    understudy align {checkpoint} {dataset} --mode {mode} --name {name}{chosen} --out OUT

Its controls, at {known.embodiment.rate:g} rows per second:

{table}

Measure it with `understudy evaluate align`.
"""
