"""Writes the demo world to disk: human video without labels, a LeRobot robot dataset, and the factors beside them.

    OUT/human/{train,validation,test}/NAME.mp4           plain video, nothing beside it: what training sees
    OUT/robot/                                            LeRobot v3.0, states and actions; splits in meta/info.json
    OUT/factors/human/SPLIT/NAME.npz, factors/robot/episode_NNNNNN.npz    for measuring only; training never reads them
    OUT/demo.json                                         the configuration, the splits, the factors and their units

The repository ships one such folder, `demo_set_path()`, rendered with the default configuration.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from align.lerobot import KEY_FRAME_EVERY, RobotEpisode, write_lerobot
from common.errors import UserError
from common.video import write_video
from scripts.demo_behaviour import FRAME_SECONDS, SKILLS
from scripts.demo_bodies import BODIES, Body
from scripts.demo_config import DemoConfig
from scripts.demo_looks import SPLITS, Split
from scripts.demo_scene import FIELD_OF_VIEW
from scripts.demo_world import FACTORS, EpisodeSpec, render_episode

FPS = round(1 / FRAME_SECONDS)
CRF = 20  # the default set stays below 10 MB
TASK = "reach for, push, pick and place the objects on the table"


def demo_set_path() -> Path:
    """The demo set that ships with Understudy (read it only). Raises UserError if the installation lacks it."""
    path = Path(__file__).parent / "demo_set"
    if not (path / "demo.json").is_file():
        raise UserError(f"the shipped demo set is missing from {path}", hint="run: understudy data demo demo_set")
    return path


def demo_tokenizer_path() -> Path:
    """The demo world's tokenizer, a checkpoint folder that ships with Understudy; its README says how it was made."""
    return Path(__file__).parent / "demo_tokenizer"


def tokenizer_named(name: str) -> Path:
    """The folder that a command line names: `demo`, the one above, or a path."""
    return demo_tokenizer_path() if name == "demo" else Path(name)


def demo_student_path() -> Path:
    """A student of the demo world and its robot, a checkpoint folder that ships with Understudy; see its README."""
    return Path(__file__).parent / "demo_student"


def episode_specs(config: DemoConfig, body: Body) -> list[EpisodeSpec]:
    """Every episode of a body, split after split. Raises UserError for values that no episode can have."""
    counts = config.human_episodes if body == "human" else config.robot_episodes
    try:
        return [
            EpisodeSpec(config.seed, body, split, index, config.frames, config.size, config.nuisance)
            for split, count in zip(SPLITS, counts, strict=True)
            for index in range(count)
        ]
    except ValueError as error:
        raise UserError(str(error)) from error


def clip_name(spec: EpisodeSpec) -> str:
    """Where a human episode lies below `human/`, and its factors below `factors/human/`, without the suffix."""
    return f"{spec.split}/{spec.split}_{spec.index:04d}"


def make_demo(out: Path, config: DemoConfig) -> None:
    """Renders a demo world into `out`, a new or empty folder, which appears whole or not at all.

    Raises UserError if `out` holds something already, MissingDependency without MuJoCo or off-screen OpenGL.
    """
    out = Path(out).absolute()
    episodes = sum(len(episode_specs(config, body)) for body in BODIES)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists and is not an empty folder", hint="name a new folder")
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a run that was killed
    unfinished.mkdir(parents=True)
    try:
        with tqdm(total=episodes, unit="episode", disable=None) as progress:
            _write_human(unfinished, config, progress)
            _write_robot(unfinished, config, progress)
        (unfinished / "demo.json").write_text(json.dumps(_description(config), indent=2) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        os.replace(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_gif(path: Path, *, episodes: int = 4, frames: int = 36, size: tuple[int, int] = (96, 120)) -> None:
    """A picture of the demo world: a row of human and a row of robot episodes, two of training and the rest of test."""
    rows = []
    for body in BODIES:
        splits: tuple[Split, ...] = ("train",) * 2 + ("test",) * (episodes - 2)
        specs = [EpisodeSpec(0, body, split, index, frames=frames, size=size) for index, split in enumerate(splits)]
        rows.append(np.concatenate([render_episode(spec).frames for spec in specs], axis=2))
    sheet = np.concatenate(rows, axis=1)  # (T, 2 H, episodes * W, 3)
    palette = Image.fromarray(sheet[:: frames // 4].reshape(-1, *sheet.shape[2:])).quantize(128)
    pictures = [Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in sheet]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0, optimize=False)


def _write_human(root: Path, config: DemoConfig, progress: tqdm) -> None:
    for spec in episode_specs(config, "human"):
        episode = render_episode(spec)
        clip = root / "human" / f"{clip_name(spec)}.mp4"
        clip.parent.mkdir(parents=True, exist_ok=True)
        write_video(clip, episode.frames, fps=FPS, crf=CRF, gop=KEY_FRAME_EVERY)
        _write_factors(root / "factors/human" / f"{clip_name(spec)}.npz", episode.factors)
        progress.update()


def _write_robot(root: Path, config: DemoConfig, progress: tqdm) -> None:
    def episodes() -> Iterator[RobotEpisode]:
        for number, spec in enumerate(episode_specs(config, "robot")):
            episode = render_episode(spec)
            _write_factors(root / f"factors/robot/episode_{number:06d}.npz", episode.factors)
            yield RobotEpisode(episode.frames, episode.factors["tool"], episode.factors["command"], TASK)
            progress.update()

    write_lerobot(
        root / "robot",
        episodes(),
        fps=FPS,
        robot_type="demo_gripper",
        state_names=FACTORS["tool"][0],
        action_names=FACTORS["command"][0],
        splits={split: count for split, count in zip(SPLITS, config.robot_episodes, strict=True) if count},
    )


def _write_factors(path: Path, factors: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **factors)  # pyright: ignore[reportArgumentType]


def _description(config: DemoConfig) -> dict:
    return {
        "command": "understudy data demo OUT" + _changed_options(config),
        "config": asdict(config),
        "fps": FPS,
        "vertical_field_of_view_degrees": FIELD_OF_VIEW,
        "splits": {
            "human": dict(zip(SPLITS, config.human_episodes, strict=True)),
            "robot": dict(zip(SPLITS, config.robot_episodes, strict=True)),
        },
        "factors": {name: {"fields": list(names), "meaning": meaning} for name, (names, meaning) in FACTORS.items()},
        "skills": list(SKILLS),
    }


def _changed_options(config: DemoConfig) -> str:
    options = ""
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            options += f" --{field.name.replace('_', '-')} {words}"
    return options
