"""Train a latent action model from folders of video, or from shards made of them: build the stage, then `fit`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from common.block_stream import Block, block_batches
from common.config import to_dict
from common.errors import UserError
from common.pairs import PairBlock
from common.training import DataPosition, Stage, fit
from lam.augment import augment
from lam.checkpoint import Lam, build, checkpoint_config, model_card
from lam.data import PairSource, evaluation_batches, open_clips, pair_batch, pair_config, split_as_trained
from lam.evaluate import evaluate_pairs, reconstruction_sheet
from lam.features import feature_target, open_backbone
from lam.labelled import LabelledPairs
from lam.loss import PairBatch, loss
from lam.presets import LamConfig


def train(
    config: LamConfig,
    *,
    preset: str,
    data: Sequence[Path],
    out: Path,
    weights: Sequence[float] = (),
    labelled: LabelledPairs | None = None,
) -> Path:
    """Train until `config.training.steps` or go on there; returns the last checkpoint's folder.

    data: folders of video, or shards written by `understudy data prepare`. weights: share of the training pairs that
    each of them gives; by default in proportion to their frames. labelled: pairs for the linear action head.
    """
    if weights and len(weights) != len(data):
        raise UserError(f"{len(data)} data folders need as many weights, not {len(weights)}")
    if (labelled or config.loss.target == "features") and config.model.design != "default":
        raise UserError(
            f"the design '{config.model.design}' takes neither labels nor features", hint="Preset tiny does."
        )
    backbone = open_backbone(config.loss.backbone) if config.loss.target == "features" else None
    channels = backbone.channels if backbone else 0
    model_config = replace(config.model, label_dim=labelled.dims if labelled else 0, feature_channels=channels)
    config = replace(config, model=model_config)
    torch.manual_seed(config.training.seed)
    model = build(config.model)
    if config.training.checkpoint_activations:
        model.enable_gradient_checkpointing()
    pairs = pair_config(config.data, config.model)
    training_clips, validation_clips = split_as_trained(open_clips(data), config)
    held_out = evaluation_batches(
        validation_clips, pairs, pairs=config.data.validation_pairs, seed=config.training.seed
    )

    features = feature_target(backbone, held_out, config.model) if backbone else None

    def evaluate(network: Lam, step: int) -> dict[str, float]:
        device = next(network.parameters()).device
        batches = [batch.to(device) for batch in held_out]
        sheets = out / "samples"
        sheets.mkdir(exist_ok=True)
        reconstruction_sheet(network, batches[0], sheets / f"step-{step}.png")
        return evaluate_pairs(network, batches).numbers()

    def batches(position: DataPosition) -> Iterator[PairBatch]:
        source = training_clips.pairs(
            training_clips.folders,
            config=pairs,
            batch_size=position.batch_size,
            seed=config.training.seed,
            weights=weights or None,
            rank=position.rank,
            world_size=position.world_size,
        )
        batches = stream(source, position, workers=config.training.workers, log=out / "quarantine.jsonl")
        return labelled.mixed_into(batches, position, seed=config.training.seed) if labelled else batches

    folders = [str(path) for path in data]
    described = {"preset": preset, "folders": folders, "weights": list(weights), **to_dict(config)}
    stage = Stage(
        name=f"train lam {preset}",
        model=model,
        loss=lambda network, batch: loss(network, augment(batch, config.augment), config.loss, features=features),
        batches=batches,
        evaluate=evaluate,  # type: ignore[arg-type]
        config=described,
        checkpoint_config=checkpoint_config(config, preset=preset),
        card=lambda step, numbers: model_card(config, preset=preset, data=data, out=out, step=step, numbers=numbers),
    )
    return fit(stage, config.training, out)


def stream(source: PairSource, position: DataPosition, *, workers: int, log: Path | None) -> Iterator[PairBatch]:
    """Endless batches from `position` on, decoded ahead by `workers` processes (0: by this one)."""
    load = partial(_load, source)
    for frames, names in block_batches(load, position, block_size=source.block_pairs, workers=workers, log=log):
        yield pair_batch(frames, names)


def _load(source: PairSource, number: int) -> Block:
    block: PairBlock = source.block(number)
    frames = torch.stack((torch.from_numpy(block.first), torch.from_numpy(block.second)), dim=1)
    return Block(frames, tuple(block.clips[index] for index in block.clip), block.bad)
