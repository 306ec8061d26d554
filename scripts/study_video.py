"""The study behind the video model's numbers in docs/measurements.md, on the demo world.

    python -m scripts.study_video OUT --lam RUN [--against RUN] [--seeds 0 1 2] [--steps 3000]

For each seed it trains `tiny` on the training videos of hand and robot, with the same windows and steps: told latent
actions, told those of another latent action model (`--against`), each with its model's forecast, and told nothing. It
measures them on the test videos, and what becomes of a human's actions on a robot's first frame and the reverse. It
prints medians over the seeds, and goes on where it stopped.
"""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from common.checkpoints import write_text
from common.folders import open_folder
from common.intervals import clip_mean
from lam.label import label
from scripts.demo_data import demo_set_path, demo_tokenizer_path
from scripts.episodes import write_episodes
from scripts.evaluate_video import evaluate_video
from video_model.films import own_actions, true_films
from video_model.following import LEAST_PATH, cosine, motion_of, root_mean_square, size_ratio
from video_model.generator import Generator, load_generator
from video_model.held_out import Window, read_windows
from video_model.labels import Labels
from video_model.presets import video_tiny
from video_model.rollout import rollout
from video_model.train import train
from video_model.video_card import Followed, VideoCard

WINDOWS = 40


def study(
    out: Path,
    /,
    lam: Path,
    against: Path | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 3000,
    only: tuple[Literal["ours", "against", "told nothing"], ...] = (),
) -> None:
    """Train, measure, print. OUT gets a run folder per model and seed, cards, and `study.json`.

    Args:
        out: Folder for everything.
        lam: Latent action model that says what is done.
        against: Another one, for comparison: `dreamdojo-tiny`.
        seeds: Each trains two models, or three.
        steps: Of 16 windows.
        only: Train and measure only these, as one of several processes that share the work.
    """
    world = _videos(out)
    models = {"ours": lam} | ({"against": against} if against else {}) | {"told nothing": None}
    found = []
    for seed in seeds:
        numbers: dict[str, float] = {}
        for name in only or models:
            kept = out / f"{name.replace(' ', '-')}-{seed}-{steps}.numbers.json"
            if not kept.exists():
                measured = _measured(out, world, name, models[name], lam, seed=seed, steps=steps)
                write_text(kept, json.dumps(measured, indent=1))
            numbers |= json.loads(kept.read_text())
        found.append(numbers)
    medians = {
        name: statistics.median(values)
        for name in found[0]
        if len(values := [numbers[name] for numbers in found if name in numbers]) == len(found)
    }
    write_text(out / "study.json", json.dumps({"seeds": seeds, "medians": medians, "each": found}, indent=1))
    for name, value in medians.items():
        print(f"{name:44} {value:7.3f}   ({'  '.join(f'{numbers[name]:7.3f}' for numbers in found)} )")


def _videos(out: Path) -> dict[str, Path]:
    """Folders of plain video: training (hand and robot together), and the test videos of both."""
    demo, robot, training = demo_set_path(), out / "robot", out / "training"
    if not (robot / "test").exists():
        write_episodes(demo / "robot", robot, camera=None, splits=("train", "test"))
    training.mkdir(parents=True, exist_ok=True)
    for name, folder in (("human", demo / "human" / "train"), ("robot", robot / "train")):
        if not (training / name).exists():
            (training / name).symlink_to(folder.resolve(), target_is_directory=True)
    return {"training": training, "human": demo / "human" / "test", "robot": robot / "test"}


def _measured(
    out: Path, world: dict[str, Path], name: str, model: Path | None, lam: Path, *, seed: int, steps: int
) -> dict[str, float]:
    """Train what is missing and measure it; the numbers by name. model: where what is told is from; None: nothing."""
    labels = out / "labels" / ("against" if name == "against" else "ours")
    for part, folder in world.items():
        label(model or lam, folder, labels / part)
    run, card = out / f"{name.replace(' ', '-')}-{seed}", out / f"{name.replace(' ', '-')}-{seed}.json"
    if not (run / "checkpoints" / f"step-{steps}").exists():
        config = video_tiny()
        training = replace(config.training, steps=steps, seed=seed, evaluate_every=steps, workers=0)
        if not model:  # nothing that says of a window whether it stands still
            config = replace(
                config, loss=replace(config.loss, drop_share=1.0), data=replace(config.data, still_share=0.0)
            )
        train(
            replace(config, training=training),
            preset="tiny",
            data=world["training"],
            actions=labels / "training",
            tokenizer=demo_tokenizer_path(),
            lam=model,
            out=run,
            latents=out / f"latents-{name.replace(' ', '-')}",
        )
    measured = evaluate_video(run, world["human"], labels=labels / "human", windows=WINDOWS, json_path=card, seed=seed)
    numbers = {f"{name}: {key}": value for key, value in _numbers(measured).items()}
    return numbers | (_transfers(load_generator(run), world, labels, seed=seed) if name == "ours" else {})


def _numbers(card: VideoCard) -> dict[str, float]:
    """Those of a card that go into the table."""
    found = {f"PSNR, {kind}": values.psnr.mean.value for kind, values in card.fidelity.items()}
    if card.zero_motion:
        found["motion with zero actions"] = card.zero_motion.value
    parts: dict[str, Followed | None] = {"foreground": card.foreground, "camera": card.camera}
    parts["hand"] = card.hand.followed if card.hand else None
    for part, followed in parts.items():
        for kind, like in (followed.rows if followed else {}).items():
            found |= {f"{part} cosine, {kind}": like.cosine.value} if like.cosine else {}
            found |= {f"{part} size, {kind}": like.size.value} if like.size else {}
    return found


def _transfers(generator: Generator, world: dict[str, Path], labels: Path, *, seed: int) -> dict[str, float]:
    """The foreground's path when told the other body's actions, against the path that these made there."""
    data = generator.config.data
    windows: dict[str, list[Window]] = {}
    for body in ("human", "robot"):
        known = Labels.open(labels / body)
        size = (data.height, data.width)
        windows[body] = read_windows(
            open_folder(world[body]).clips, known.clip, size=size, steps=data.frames - 1, limit=WINDOWS
        )
    found = {}
    for source, target in (("human", "robot"), ("robot", "human")):
        given = windows[source]
        first = [windows[target][row % len(windows[target])] for row in range(len(given))]
        films = rollout(generator, true_films(first, "cpu")[:, 0], own_actions(given, "cpu"), seed=seed)
        made, true = motion_of(films).path, motion_of(true_films(given, "cpu")).path
        still = root_mean_square(true) < LEAST_PATH
        for name, values in (("cosine", cosine(made, true)), ("size", size_ratio(made, true))):
            masked = torch.where(still, torch.nan, values).double().numpy()
            mean = clip_mean(masked, [window.clip for window in given], seed=seed)
            if mean:
                found[f"{source} to {target}: foreground {name}"] = mean.value
    return found


if __name__ == "__main__":
    tyro.cli(study)
