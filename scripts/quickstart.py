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
from distill.presets import distill_tiny
from distill.train import distill
from lam.checkpoint import load_lam
from lam.data import evaluation_batches, open_clips, pair_config
from lam.evaluate import Validation, evaluate_pairs, reconstruction_sheet
from lam.label import label
from lam.presets import tiny
from lam.train import train
from scripts.bench_student import time_ways
from scripts.demo_data import demo_set_path, demo_tokenizer_path
from scripts.quickstart_page import Films, RobotFilm, StudentFilm, report_page
from scripts.rollout import make_rollout
from scripts.rollout_robot import make_robot_rollout
from simulator.session import Session
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
WARM_UP = 3
"""Steps of a student's stage B for each of its stage C."""
DRIFT_WINDOWS = 8
"""That say whether stage C helped."""
TEACHER_STEPS = 16
"""In which a diffusion model of this kind is usually sampled."""
TIMED_LATENTS = 10


def quickstart(out: Path, *, lam_steps: int, video_steps: int, student_steps: int, videos: Path | None = None) -> None:
    """Train both models on `videos`/train, measure them on `videos`/test, align, distil, write OUT/report.html.

    videos: by default the demo's human videos.
    """
    started = time.monotonic()
    videos = videos or demo_set_path() / "human"
    run, labels, sheet = out / "lam", out / "labels", out / "predictions.png"
    config = tiny()
    config = replace(config, training=replace(config.training, steps=lam_steps))
    print(
        f"1/8  understudy train lam tiny --data {videos / 'train'} --out {run} --training.steps {lam_steps}", flush=True
    )
    train(config, preset="tiny", data=[videos / "train"], out=run)
    print(f"2/8  understudy label {run} {videos / 'train'} --out {labels / 'train'}, and the same for test", flush=True)
    label(run, videos / "train", labels / "train")
    labelled = label(run, videos / "test", labels / "test")
    print("3/8  a first look at what it predicts", flush=True)
    measured = first_look(run, videos / "test", sheet=sheet)
    print(
        f"4/8  understudy train video tiny --data {videos / 'train'} --actions {labels / 'train'} --tokenizer demo "
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
    student = distil(
        out / "robot",
        videos / "train",
        labels / "train",
        out=out / "distill",
        latents=out / "video" / "latents",
        steps=student_steps,
        film=out / "student.mp4",
    )
    minutes = (time.monotonic() - started) / 60
    print("8/8  the report", flush=True)
    page = report_page(
        measured,
        labelled,
        films,
        robot,
        student,
        lam=run,
        generator=out / "video",
        labels=labels,
        sheet=sheet,
        minutes=minutes,
    )
    write_text(out / "measured.json", json.dumps({"lam": asdict(measured), "video": films.numbers}, indent=1))
    write_text(out / "report.html", page)
    print(
        f"\nDone in {minutes:.1f} minutes: {out / 'report.html'}"
        "\nDrive the student in a browser:"
        f"\n  understudy serve {student.folder} --data {demo_set_path() / 'robot'} --split test"
        "\nThe commands above work on any folder of videos: put your own in place of the demo's."
        "\nThe whole cards, beside baselines and with controls, take some minutes more:"
        f"\n  understudy evaluate lam {run} {videos / 'test'} --html {out / 'lam.html'}"
        f"\n  understudy evaluate video {out / 'video'} {videos / 'test'} --actions {labels / 'test'} "
        f"--html {out / 'video.html'}"
        f"\n  understudy evaluate align {out / 'robot'} {demo_set_path() / 'robot'} --html {out / 'robot.html'}"
        f"\n  understudy evaluate student {student.folder} {videos / 'test'} --actions {labels / 'test'} "
        f"--teacher {out / 'robot'} --html {out / 'student.html'}"
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
        print(f"5/8  understudy rollout {run} {own} --actions {actions} --out {target} --seconds 4{beside}", flush=True)
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
    print(f"6/8  understudy align {run} {dataset} --episodes 0:{ROBOT_EPISODES} --name demo --out {out}", flush=True)
    if not out.exists():
        episodes = f"0:{ROBOT_EPISODES}"
        align(run, dataset, mode="adapter", out=out, config=AlignConfig(), name="demo", episodes=episodes)
    return RobotFilm(film, drive(out, film, number=6), ROBOT_EPISODES)


def drive(checkpoint: Path, film: Path, *, number: int) -> str:
    """Film the demo robot under the controls of an episode that nothing was trained on; returns what the verb says."""
    dataset = demo_set_path() / "robot"
    held_out = open_dataset(dataset).episodes_of("test")[0].index
    print(
        f"{number}/8  understudy rollout {checkpoint} {dataset} --episode {held_out} --start 0.5 --seconds 4 "
        f"--out {film}",
        flush=True,
    )
    return make_robot_rollout(
        checkpoint,
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


def distil(
    teacher: Path, data: Path, actions: Path, *, out: Path, latents: Path, steps: int, film: Path
) -> StudentFilm:
    """Distil the aligned model to a student that streams, drive the robot in it, and time both."""
    config = distill_tiny()
    warm_up, forcing = config.warm_up, config.self_forcing
    config = replace(
        config,
        warm_up=replace(warm_up, training=replace(warm_up.training, steps=WARM_UP * steps, evaluate_every=0)),
        self_forcing=replace(
            forcing, training=replace(forcing.training, steps=steps, evaluate_every=steps, save_every=steps)
        ),
        drift=replace(config.drift, windows=DRIFT_WINDOWS),
    )
    print(
        f"7/8  understudy train distill tiny --teacher {teacher} --data {data} --actions {actions} --latents {latents} "
        f"--out {out} --warm-up.training.steps {WARM_UP * steps} --warm-up.training.evaluate-every 0 "
        f"--self-forcing.training.steps {steps} --self-forcing.training.evaluate-every {steps} "
        f"--self-forcing.training.save-every {steps} --drift.windows {DRIFT_WINDOWS}",
        flush=True,
    )
    student = distill(config, preset="tiny", teacher=teacher, data=data, actions=actions, out=out, latents=latents)
    said = drive(student, film, number=7)
    ways = [Session(load_generator(student)), Session(load_generator(teacher), steps=TEACHER_STEPS)]
    own, other = time_ways(ways, latents=TIMED_LATENTS)
    return StudentFilm(student, film, said, own, other)


def first_look(run: Path, videos: Path, *, sheet: Path) -> Validation:
    """The numbers that training follows, on videos that it never saw, and a picture of predictions at `sheet`."""
    loaded = load_lam(run)
    config = pair_config(loaded.config.data, loaded.config.model)
    batches = evaluation_batches(open_clips([videos]), config, pairs=PAIRS, seed=0)
    reconstruction_sheet(loaded.model, batches[0], sheet)
    return evaluate_pairs(loaded.model, batches)
