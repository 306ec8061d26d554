"""The small copy of a checkpoint: half the bytes, the same films."""

from pathlib import Path

import numpy as np
import pytest
import torch

from align.presets import AlignConfig
from align.robot import load_robot
from align.train import align
from common.checkpoints import find_checkpoint
from common.errors import UserError
from scripts.small_copy import NETWORK, small_copy
from tests.tiny_robot import SIDE, write_robot_dataset, write_video_model


def test_half_the_bytes_and_the_same_film(tmp_path: Path) -> None:
    dataset, runs = write_robot_dataset(tmp_path / "set"), tmp_path / "runs"
    runs.mkdir()
    align(write_video_model(runs), dataset, mode="adapter", out=runs / "robot", config=AlignConfig(), name="square")
    small_copy(runs / "robot", tmp_path / "small")
    before, after = (find_checkpoint(folder) for folder in (runs / "robot", tmp_path / "small"))
    files = sorted(file.relative_to(before) for file in before.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(after) for file in after.rglob("*") if file.is_file())
    networks = [file for file in files if file.name == NETWORK]
    assert len(networks) == 3, "video model, tokenizer, latent action model"
    assert all((after / file).stat().st_size < 0.7 * (before / file).stat().st_size for file in networks)
    first = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    controls = np.random.default_rng(0).uniform(size=(1, 12, 3)).astype(np.float32)
    films = [load_robot(folder).rollout(first, controls, controls[:, 0]) for folder in (before, after)]
    assert 0 < (films[0] - films[1]).abs().max() < 2 / 255
    with pytest.raises(UserError, match="exists already"):
        small_copy(before, tmp_path / "small")
