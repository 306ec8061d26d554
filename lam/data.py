"""Where a latent action model's pairs come from: folders of video or shards, split by file, as batches for the loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from common.errors import UserError
from common.folders import Clip, open_folder, split_by_file
from common.pairs import PairBlock, PairConfig, VideoPairs
from common.shard_pairs import ShardClip, ShardFolder, ShardPairs
from common.shards import is_shard_folder
from lam.loss import PairBatch
from lam.presets import LamConfig, LamDataConfig, LamModelConfig

EVALUATION_BATCH = 32
"""Pairs per batch where nothing is trained."""


class PairSource(Protocol):
    """`VideoPairs` or `ShardPairs`: block `number` is a pure function of the seed, the rank and the data."""

    block_pairs: int

    def block(self, number: int) -> PairBlock: ...


@dataclass(frozen=True)
class Clips:
    """The clips of each data folder, all of them in video files or all of them in shards."""

    folders: tuple[tuple[Clip | ShardClip, ...], ...]

    def split(self, *, validation_share: float, seed: int) -> tuple["Clips", "Clips"]:
        """(training, validation), whole files on one side. UserError if that leaves no file for one of them."""
        sides = [split_by_file(clips, validation_share=validation_share, seed=seed) for clips in self.folders]
        training = Clips(tuple(tuple(side[0]) for side in sides))
        validation = Clips(tuple(tuple(side[1]) for side in sides if side[1]))
        if not validation.folders or not all(training.folders):
            counts = ", ".join(str(len(clips)) for clips in self.folders)
            raise UserError(
                f"training and validation need a clip each; the data folders hold {counts}",
                hint="Add clips, or cut a long one into several files.",
            )
        return training, validation

    @property
    def pairs(self) -> Callable[..., PairSource]:
        """What draws pairs from these clips, `VideoPairs` or `ShardPairs`: call it with `folders` and their options."""
        return ShardPairs if isinstance(self.folders[0][0], ShardClip) else VideoPairs


def open_clips(paths: Sequence[Path]) -> Clips:
    """Open data folders: of video, or all written by `understudy data prepare`."""
    shards = [is_shard_folder(path) for path in paths]
    if not paths or any(shards) != all(shards):
        raise UserError("give data folders, all of video or all of shards", hint="--data A B …")
    if all(shards):
        return Clips(tuple(ShardFolder(path).clips for path in paths))
    return Clips(tuple(open_folder(path).clips for path in paths))


def pair_config(data: LamDataConfig, model: LamModelConfig) -> PairConfig:
    return PairConfig(
        height=model.height,
        width=model.width,
        gap_seconds=data.gap_seconds,
        pairs_per_frame=data.pairs_per_frame,
        buffer_pairs=data.buffer_pairs,
        static_share=data.static_share,
    )


def split_as_trained(clips: Clips, config: LamConfig) -> tuple[Clips, Clips]:
    """The split that training with this config makes of these clips."""
    return clips.split(validation_share=config.data.validation_share, seed=config.training.seed)


def evaluation_batches(clips: Clips, config: PairConfig, *, pairs: int, seed: int) -> list[PairBatch]:
    """About `pairs` pairs, always the same for the same clips, in memory. Fewer when the clips give fewer."""
    # A pair from every frame if need be: here alike neighbours cost nothing, and more pairs make a steadier number.
    dense = replace(config, buffer_pairs=pairs, pairs_per_frame=1.0)
    source = clips.pairs(clips.folders, config=dense, batch_size=1, seed=seed)
    block = source.block(0)
    frames = torch.stack((torch.from_numpy(block.first), torch.from_numpy(block.second)), dim=1)
    names = [block.clips[index] for index in block.clip]
    # A last batch of one pair has no other pair to exchange actions with on a sheet, so it is left out.
    starts = [start for start in range(0, len(names), EVALUATION_BATCH) if len(names) - start > 1]
    return [
        pair_batch(frames[start : start + EVALUATION_BATCH], names[start : start + EVALUATION_BATCH])
        for start in starts
    ]


def pair_batch(frames: torch.Tensor, names: Sequence[str]) -> PairBatch:
    """frames uint8 (B, 2, H, W, 3) -> PairBatch with float (B, 2, 3, H, W) in [-1, 1]."""
    return PairBatch(frames=frames.movedim(-1, 2).float() / 127.5 - 1, names=tuple(names))
