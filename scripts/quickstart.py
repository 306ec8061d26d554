"""`understudy quickstart`: the pipeline on the demo videos that come with the package, and a report."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from align.datasets import open_dataset
from align.presets import AlignConfig
from align.train import align
from common.checkpoints import write_text
from common.folders import open_folder
from lam.checkpoint import load_lam
from lam.data import evaluation_batches, open_clips, pair_config
from lam.evaluate import Validation, evaluate_pairs, reconstruction_sheet
from lam.label import label
from lam.presets import tiny
from lam.train import train
from scripts.demo_data import demo_set_path, demo_tokenizer_path
from scripts.quickstart_page import Films, RobotFilm, report_page
from scripts.rollout import make_rollout
from scripts.rollout_robot import make_robot_rollout
from video_model.generator import load_generator
from video_model.labels import Labels
from video_model.presets import video_tiny
from video_model.rollout import rollout
from video_model.train import train as train_video
from video_model.train import window_config
from video_model.validation import follow, held_out_windows, make_rollouts, rollout_sheet

PAIRS = 1024
WINDOWS = 20
ROBOT_EPISODES = 8


def quickstart(out: Path, *, lam_steps: int, video_steps: int, videos: Path | None = None) -> None:
    """Train both models on `videos`/train, measure them on `videos`/test, align to a robot, write OUT/report.html.

    videos: by default the demo's human videos.
    """
    started = time.monotonic()
    videos = videos or demo_set_path() / "human"
    run, labels, sheet = out / "lam", out / "labels", out / "predictions.png"
    config = tiny()
    config = replace(config, training=replace(config.training, steps=lam_steps))
    print(
        f"1/7  understudy train lam tiny --data {videos / 'train'} --out {run} --training.steps {lam_steps}", flush=True
    )
    train(config, preset="tiny", data=[videos / "train"], out=run)
    print(f"2/7  understudy label {run} {videos / 'train'} --out {labels / 'train'}, and the same for test", flush=True)
    label(run, videos / "train", labels / "train")
    labelled = label(run, videos / "test", labels / "test")
    print("3/7  a first look at what it predicts", flush=True)
    measured = first_look(run, videos / "test", sheet=sheet)
    print(
        f"4/7  understudy train video tiny --data {videos / 'train'} --actions {labels / 'train'} --tokenizer demo "
        f"--lam {run} --out {out / 'video'} --training.steps {video_steps}",
        flush=True,
    )
    video_config = video_tiny()
    video_config = replace(video_config, training=replace(video_config.training, steps=video_steps))
    train_video(
        video_config,
        preset="tiny",
        data=videos / "train",
        actions=labels / "train",
        tokenizer=demo_tokenizer_path(),
        lam=run,
        out=out / "video",
    )
    films = make_films(out / "video", videos / "test", labels / "test", out=out)
    robot = align_robot(out / "video", out / "robot", film=out / "robot.mp4")
    minutes = (time.monotonic() - started) / 60
    print("7/7  the report", flush=True)
    page = report_page(
        measured, labelled, films, robot, lam=run, generator=out / "video", labels=labels, sheet=sheet, minutes=minutes
    )
    write_text(out / "measured.json", json.dumps({"lam": asdict(measured), "video": films.numbers}, indent=1))
    write_text(out / "report.html", page)
    print(
        f"\nDone in {minutes:.1f} minutes: {out / 'report.html'}"
        "\nThe commands above work on any folder of videos: put your own in place of the demo's."
        "\nThe whole cards, beside baselines and with controls, take some minutes more:"
        f"\n  understudy evaluate lam {run} {videos / 'test'} --html {out / 'lam.html'}"
        f"\n  understudy evaluate video {out / 'video'} {videos / 'test'} --actions {labels / 'test'} "
        f"--html {out / 'video.html'}"
        f"\n  understudy evaluate align {out / 'robot'} {demo_set_path() / 'robot'} --html {out / 'robot.html'}"
    )


def make_films(run: Path, videos: Path, labels: Path, *, out: Path) -> Films:
    """Roll out from test clips' first frames: a sheet and numbers over all of them, and two videos by the verb."""
    generator = load_generator(run)
    clips = open_folder(videos).clips
    data = generator.config.data
    held_out = held_out_windows(
        clips, Labels.open(labels), window_config(data, frames=data.frames), windows=WINDOWS, seed=0
    )
    made = make_rollouts(lambda first, actions: rollout(generator, first, actions), held_out)
    films = Films(follow(made, held_out), out / "rollouts.png", out / "rollout.mp4", out / "transfer.mp4")
    rollout_sheet(made, held_out, films.sheet)
    own, other = clips[0].path, clips[1].path
    for target, source in ((films.video, own), (films.transfer, other)):
        actions = labels / f"{source.name}.safetensors"
        beside = "" if source == own else f" --beside {source}"
        print(f"5/7  understudy rollout {run} {own} --actions {actions} --out {target} --seconds 4{beside}", flush=True)
        make_rollout(
            run,
            own,
            actions,
            target,
            start=0.0,
            actions_start=0.0,
            seconds=4.0,
            use="all",
            beside=None if source == own else source,
            steps=None,
            seed=0,
        )
    return films


def align_robot(run: Path, out: Path, *, film: Path) -> RobotFilm:
    """Align to the demo robot with a few of its episodes, and drive it by the controls of one that it never saw."""
    dataset = demo_set_path() / "robot"
    print(f"6/7  understudy align {run} {dataset} --episodes 0:{ROBOT_EPISODES} --name demo --out {out}", flush=True)
    if not out.exists():
        episodes = f"0:{ROBOT_EPISODES}"
        align(run, dataset, mode="adapter", out=out, config=AlignConfig(), name="demo", episodes=episodes)
    held_out = open_dataset(dataset).episodes_of("test")[0].index
    print(
        f"6/7  understudy rollout {out} {dataset} --episode {held_out} --start 0.5 --seconds 4 --out {film}", flush=True
    )
    said = make_robot_rollout(
        out,
        dataset,
        None,
        film,
        robot="demo",
        episode=held_out,
        camera=None,
        start=0.5,
        actions_start=None,
        seconds=4.0,
        use="all",
        steps=None,
        seed=0,
    )
    return RobotFilm(film, said, ROBOT_EPISODES)


def first_look(run: Path, videos: Path, *, sheet: Path) -> Validation:
    """The numbers that training follows, on videos that it never saw, and a picture of predictions at `sheet`."""
    loaded = load_lam(run)
    config = pair_config(loaded.config.data, loaded.config.model)
    batches = evaluation_batches(open_clips([videos]), config, pairs=PAIRS, seed=0)
    reconstruction_sheet(loaded.model, batches[0], sheet)
    return evaluate_pairs(loaded.model, batches)
