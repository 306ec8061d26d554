"""A robot that is a bright square, and a video model that was never trained: enough to try every verb in seconds.

The controls say where the square is to be at the next frame and how bright, so that any slip changes a number.
"""

from pathlib import Path

import numpy as np
import torch

from align.lerobot import RobotEpisode, write_lerobot
from common.checkpoints import save_model, write_model_files
from lam.checkpoint import checkpoint_config as lam_config
from lam.model import LatentActionModel
from lam.presets import LamConfig, LamDataConfig, LamModelConfig
from video_model.generator import LATENT, Embodiment, build_video_model, checkpoint_config, write_companions
from video_model.presets import (
    TinyDecoderConfig,
    TinyDecoderModelConfig,
    TokenizerConfig,
    TokenizerDataConfig,
    TokenizerModelConfig,
    VideoConfig,
    VideoDataConfig,
    VideoLossConfig,
    VideoModelConfig,
)
from video_model.tiny_decoder import TinyDecoder
from video_model.tiny_decoder import checkpoint_config as decoder_config
from video_model.tokenizer import build_tokenizer
from video_model.tokenizer import checkpoint_config as tokenizer_config

SIDE, FPS, NAMES = 16, 10, ("x", "y", "opening")
CODE = 4 + 10
LAM = LamModelConfig(
    height=SIDE, width=SIDE, patch=4, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1, latent_dim=4
)
TOKENIZER = TokenizerConfig(
    model=TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 1, 1), num_res_blocks=1),
    data=TokenizerDataConfig(height=SIDE, width=SIDE),
)
DECODER = TinyDecoderConfig(model=TinyDecoderModelConfig(channels=(4, 4, 4), blocks=1), data=TOKENIZER.data)
VIDEO = VideoConfig(
    model=VideoModelConfig(heads=2, head_dim=12, layers=2, modulation_dim=8),
    loss=VideoLossConfig(window=2, sink=1, shift=2.0),
    data=VideoDataConfig(height=SIDE, width=SIDE, latents=3),
    sampling_steps=2,
)


def square(x: float, y: float, opening: float) -> np.ndarray:
    """uint8 (2 SIDE, 2 SIDE, 3): a square of 8 pixels with its corner at (x, y) in 0..1, on a grey ground."""
    picture = np.full((2 * SIDE, 2 * SIDE, 3), 40, np.uint8)
    left, top = round(x * (2 * SIDE - 8)), round(y * (2 * SIDE - 8))
    picture[top : top + 8, left : left + 8] = 120 + round(120 * opening)
    return picture


def robot_episodes(count: int = 4, *, length: int = 40, late: int = 0) -> list[RobotEpisode]:
    """late: rows that the actions come too late."""
    episodes = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        steps = rng.normal(0, 0.08, (length + 20, 3))
        places = np.empty_like(steps)
        now = np.full(3, 0.5)
        for row, step in enumerate(steps):
            now = np.where((now + step < 0) | (now + step > 1), now - step, now + step)
            places[row] = now
        states = places[10 : 10 + length]
        actions = places[11 - late : 11 - late + length]
        frames = np.stack([square(*row) for row in states])
        episodes.append(RobotEpisode(frames, states, actions, task="move"))
    return episodes


def write_robot_dataset(root: Path, count: int = 4, *, length: int = 40, late: int = 0) -> Path:
    write_lerobot(
        root,
        robot_episodes(count, length=length, late=late),
        fps=FPS,
        robot_type="square",
        state_names=NAMES,
        action_names=NAMES,
    )
    return root


def write_lam(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LamConfig(model=LAM, data=LamDataConfig(gap_seconds=(0.1, 0.2)))
    model = LatentActionModel(LAM)
    save_model(folder, tensors=model.state_dict(), config=lam_config(config, preset="tiny"), card="")
    return folder


def write_video_model(root: Path, *, forecast: bool = True) -> Path:
    """root/video, a checkpoint with a latent action model unless it has no forecast, and what it is made of."""
    torch.manual_seed(0)
    tokens = build_tokenizer(TOKENIZER.model).state_dict()
    save_model(root / "tokens", tensors=tokens, config=tokenizer_config(TOKENIZER, preset="tiny"), card="")
    model = build_video_model(VIDEO.model, latent_channels=4, action_dim=CODE, forecast=forecast)
    folder = root / "video"
    folder.mkdir()
    config = checkpoint_config(model, VIDEO, preset="tiny")
    write_model_files(folder, tensors=model.state_dict(), config=config, card="# a model\n")
    bodies = {LATENT: Embodiment(scale=(1.0,) * CODE, fps=FPS, camera_dim=10)}
    write_companions(
        folder, tokenizer=root / "tokens", embodiments=bodies, lam=write_lam(root / "lam") if forecast else None
    )
    return folder


def write_tiny_decoder(folder: Path, *, latent_channels: int = 4) -> Path:
    torch.manual_seed(0)
    model = TinyDecoder(DECODER.model, latent_channels=latent_channels)
    config = decoder_config(DECODER, preset="tiny", latent_channels=latent_channels)
    save_model(folder, tensors=model.state_dict(), config=config, card="")
    return folder
