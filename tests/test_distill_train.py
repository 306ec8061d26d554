"""Distillation runs: what they leave behind, resume, when stage C stops, which stage is shipped, what is refused."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from align.presets import AlignConfig
from align.robot import load_robot, robot_names
from align.train import align
from common.checkpoints import MANIFEST, durable_folder, save_model
from common.config import TrainingConfig
from common.errors import BadData, StoppedBySignal, UserError
from distill import train as distill_train
from distill.drift import Decay, Drift, measure_drift
from distill.presets import DISTILL_PRESETS, DistillConfig, DriftConfig, SelfForcingConfig, WarmUpConfig
from distill.student import copy_companions, own_networks, say_what_is_left_out
from distill.train import distill
from lam.label import label
from scripts import cli
from scripts.small_copy import small_copy
from tests.counted_clips import write_clip
from tests.labelled_clips import write_labels
from tests.square_robot import recording
from tests.tiny_robot import (
    CODE,
    SIDE,
    TOKENIZER,
    VIDEO,
    robot_episodes,
    write_robot_dataset,
    write_tiny_decoder,
    write_video_model,
)
from video_model.generator import Generator, load_generator
from video_model.latent_windows import encode
from video_model.presets import VideoDataConfig, VideoModelConfig
from video_model.rollout import rollout
from video_model.tokenizer import checkpoint_config as tokenizer_config
from video_model.tokenizer import load_tokenizer
from video_model.train import train
from video_model.validation import HeldOut

TRAINING = TrainingConfig(
    steps=4,
    batch_size=4,
    warmup_steps=1,
    learning_rate=1e-3,
    ema_decay=0.5,
    workers=0,
    log_every=1,
    save_every=2,
    evaluate_every=2,
    keep=9,
)
CONFIG = DistillConfig(
    warm_up=WarmUpConfig(teacher_steps=8, training=TRAINING),
    self_forcing=SelfForcingConfig(latents=5, critic_ratio=2, patience=9, buffer_windows=8, training=TRAINING),
    drift=DriftConfig(latents=3, windows=2),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the bright square, their labels, and two teachers: one clean, with a forecast, one flow, without."""
    root = tmp_path_factory.mktemp("world")
    for number, episode in enumerate(robot_episodes(6)):
        seconds = [frame / 10 for frame in range(len(episode.frames))]
        write_clip(root / "clips" / f"{number}.mp4", seconds, gop=10, images=list(episode.frames))
    write_video_model(root)  # for its tokenizer and latent action model
    _normalise(root / "tokens")
    label(root / "lam", root / "clips", root / "labels")
    for name, lam in (("clean", root / "lam"), ("flow", None)):
        config = replace(
            VIDEO,
            model=VideoModelConfig(heads=2, head_dim=12, layers=2, modulation_dim=8, predicts=name),  # type: ignore[arg-type]
            data=VideoDataConfig(
                height=SIDE, width=SIDE, latents=3, buffer_windows=16, encode_once=True, validation_share=0.3
            ),
            training=replace(TRAINING, steps=40, optimizer="muon", learning_rate=1e-2, evaluate_every=0, save_every=40),
        )
        train(
            config,
            preset="tiny",
            data=root / "clips",
            actions=root / "labels",
            tokenizer=root / "tokens",
            lam=lam,
            out=root / name,
            latents=root / f"latents-{name}",
        )
    return root


def _normalise(folder: Path) -> None:
    """Give a tokenizer the statistics of its latents, which a trained one has."""
    tokenizer, episodes = load_tokenizer(folder), robot_episodes(6)
    frames = torch.from_numpy(np.stack([episode.frames[:17, ::2, ::2] for episode in episodes]))
    latents = encode(tokenizer, frames).movedim(1, 0).flatten(1)
    tokenizer.latents_mean.copy_(latents.mean(1))
    tokenizer.latents_std.copy_(latents.std(1))
    save_model(folder, tensors=tokenizer.state_dict(), config=tokenizer_config(TOKENIZER, preset="tiny"), card="")


def run(config: DistillConfig, world: Path, out: Path, *, teacher: str = "clean", decoder: Path | None = None) -> Path:
    return distill(
        config,
        preset="tiny",
        teacher=world / teacher,
        data=world / "clips",
        actions=world / "labels",
        out=out,
        latents=world / f"latents-{teacher}",
        decoder=decoder,
    )


def lines(folder: Path) -> list[dict[str, float]]:
    unlike = ("samples_per_second", "data_wait_share", "seconds")
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in unlike} for line in found]


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def film(folder: Path) -> torch.Tensor:
    return rollout(load_generator(folder), torch.zeros(2, 3, SIDE, SIDE), torch.ones(2, 9, CODE))


@pytest.fixture(scope="module")
def straight(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    return run(CONFIG, world, tmp_path_factory.mktemp("runs") / "straight").parent


def test_a_student_is_a_video_model_that_samples_in_few_steps(world: Path, straight: Path):
    student, teacher = load_generator(straight / "student"), load_generator(world / "clean")
    assert (student.config.sampling_steps, student.config.sampler) == (2, "renoise")
    assert student.embodiments == teacher.embodiments and student.forecaster is not None
    made = film(straight / "student")
    assert made.shape == (2, 10, 3, SIDE, SIDE) and made.isfinite().all()
    assert film(straight / "consistency").isfinite().all(), "stage B's checkpoints are students, too"
    card = (straight / "student" / "README.md").read_text()
    assert f"understudy train distill tiny --teacher {world / 'clean'}" in card and "| 0.4 |" in card
    assert json.loads((straight / "student" / "config.json").read_text())["distilled"]["drift"]["latents"] == 3
    history = json.loads((straight / "self-forcing/checkpoints/step-4/training/history.json").read_text())
    assert [one["step"] for one in history["measured"]] == [0, 2, 4]
    assert "drift/score" in lines(straight / "self-forcing")[0]


def test_the_same_command_again_trains_nothing(world: Path, straight: Path, tmp_path: Path):
    shutil.copytree(straight, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("step-*/model.safetensors")}
    made = film(run(CONFIG, world, straight))
    assert before == {path: path.stat().st_mtime_ns for path in straight.rglob("step-*/model.safetensors")}
    assert torch.equal(film(tmp_path / "copy" / "student"), made)


def test_a_student_is_given_a_decoder_without_being_trained_again(world: Path, straight: Path, tmp_path: Path):
    shutil.copytree(straight, tmp_path / "run")
    decoder = write_tiny_decoder(tmp_path / "decoder")
    student = run(CONFIG, world, tmp_path / "run", decoder=decoder)
    assert torch.equal(film(student), film(straight / "student"))
    loaded = load_generator(student)
    assert loaded.tiny_decoder and loaded.live().decoder is loaded.tiny_decoder and loaded.decoder is loaded.tokenizer
    assert f"--decoder {decoder}" in (student / "README.md").read_text()
    copy_companions(student, tmp_path / "companions")
    assert same(tmp_path / "companions/decoder/model.safetensors", decoder / "model.safetensors")
    other = write_tiny_decoder(tmp_path / "other", latent_channels=6)
    with pytest.raises(BadData, match="latents of 6 channels, 4 pixels wide a place; the tokenizer's have 4 and 4"):
        run(CONFIG, world, tmp_path / "run", decoder=other)
    with pytest.raises(BadData, match="latents of 6 channels"):
        small_copy(student, tmp_path / "small", decoder=other)
    with durable_folder(student) as folder:
        left_out = shutil.ignore_patterns(MANIFEST)
        shutil.copytree(straight / "student", folder, dirs_exist_ok=True, ignore=left_out)
        shutil.copytree(other, folder / "decoder", ignore=left_out)
    with pytest.raises(BadData, match="latents of 6 channels"):
        load_generator(student)


def test_both_stages_go_on_bit_for_bit(world: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stage B lacks its last checkpoint, stage C is stopped by a signal after its third step."""
    cut, last = tmp_path / "cut", Path("checkpoints") / "step-4"
    shutil.copytree(straight / "consistency", cut / "consistency")
    shutil.rmtree(cut / "consistency" / last)
    calls = []

    def measure(generator: Generator, held_out: HeldOut) -> Drift:
        calls.append(held_out)
        if len(calls) == 3:  # after stage B's last step, and stage C's steps 0 and 2
            os.kill(os.getpid(), signal.SIGTERM)
        return measure_drift(generator, held_out)

    monkeypatch.setattr(distill_train, "measure_drift", measure)
    with pytest.raises(StoppedBySignal, match="step 3"):
        run(CONFIG, world, cut)
    assert not (cut / "student").exists()
    run(CONFIG, world, cut)
    own = ("model", "training/weights", "training/optimizer")
    for stage, names in (("consistency", own), ("self-forcing", (*own, "critic/model", "critic/training/optimizer"))):
        for name in names:
            one, other = (root / stage / last / f"{name}.safetensors" for root in (straight, cut))
            assert same(one, other), (stage, name)
        assert lines(straight / stage) == lines(cut / stage)
    assert same(straight / "student" / "model.safetensors", cut / "student" / "model.safetensors")


def drift(score: float) -> Drift:
    decay = Decay(path=score, sharpness=0.0, colour=0.0)
    return Drift((0.4,), (decay,), decay)


def measured_as(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Stage B measures first, at its end, then stage C at steps 0, 2, 4, .."""
    left = iter((9.0, 9.0, *scores))
    monkeypatch.setattr(distill_train, "measure_drift", lambda generator, held_out: drift(next(left)))


@pytest.mark.parametrize(
    ("scores", "best", "last"), [((1.0, 0.8, 0.9), 2, 4), ((1.0, 1.1, 0.5), 4, 4), ((0.7, 0.8), 0, 2)]
)
def test_the_student_with_the_least_drift_is_shipped(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: tuple[float, ...], best: int, last: int
):
    measured_as(monkeypatch, *scores)
    patience = 2 if len(scores) == 3 else 1
    config = replace(CONFIG, self_forcing=replace(CONFIG.self_forcing, patience=patience))
    student = run(config, world, tmp_path / "run")
    stages = tmp_path / "run" / "self-forcing", tmp_path / "run" / "consistency"
    assert (stages[0] / "checkpoints" / f"step-{last}").exists()
    assert not (stages[0] / "checkpoints" / f"step-{last + 2}").exists()
    found = stages[0] / "checkpoints" / f"step-{best}" if best else stages[1] / "checkpoints" / "step-4"
    assert same(student / "model.safetensors", found / "model.safetensors")
    card = (student / "README.md").read_text()
    assert (f"stage C's network after step {best}" if best else "stage B's network: stage C ended") in card


def test_a_stage_c_that_diverges_ships_stage_b(
    world: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wild = replace(CONFIG.self_forcing, training=replace(TRAINING, learning_rate=1e30, evaluate_every=100))
    shutil.copytree(straight / "consistency", tmp_path / "run" / "consistency")
    student = run(replace(CONFIG, self_forcing=wild), world, tmp_path / "run")
    assert "stage B's network: stage C diverged" in capsys.readouterr().out
    assert "stage B's network: stage C diverged" in (student / "README.md").read_text()
    assert same(student / "model.safetensors", straight / "consistency/checkpoints/step-4/model.safetensors")
    run(replace(CONFIG, self_forcing=wild), world, tmp_path / "run")
    assert "stage C diverged" in capsys.readouterr().out, "it is not tried again"


def test_dreamdojos_way_of_a_flow_without_a_forecast(world: Path, tmp_path: Path):
    """Regression, then self-forcing, four steps, a window of three latents, no sink; and all that saves memory."""
    training = replace(TRAINING, accumulation=2, precision="bf16", checkpoint_activations=True)
    config = replace(
        CONFIG,
        steps=4,
        window=3,
        sink=0,
        warm_up=WarmUpConfig(method="regression", teacher_steps=8, training=training),
        self_forcing=replace(CONFIG.self_forcing, training=training),
    )
    student = load_generator(run(config, world, tmp_path / "run", teacher="flow"))
    assert (student.config.sampling_steps, student.config.loss.window, student.config.loss.sink) == (4, 3, 0)
    assert student.forecaster is None and (tmp_path / "run" / "regression" / "metrics.jsonl").exists()


@pytest.mark.parametrize("method", ["consistency", "regression"])
def test_stage_b_learns(world: Path, tmp_path: Path, method: str):
    training = replace(
        TRAINING, steps=40, batch_size=8, optimizer="muon", learning_rate=3e-3, evaluate_every=0, save_every=40
    )
    config = replace(
        CONFIG,
        warm_up=WarmUpConfig(method=method, teacher_steps=8, training=training),  # type: ignore[arg-type]
        self_forcing=replace(CONFIG.self_forcing, training=replace(TRAINING, steps=1)),
    )
    run(config, world, tmp_path / "run", teacher="flow")
    losses = [line["loss"] for line in lines(tmp_path / "run" / method)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_lora_students_load_without_peft(world: Path, tmp_path: Path):
    pytest.importorskip("peft")
    student = load_generator(run(replace(CONFIG, lora_rank=2), world, tmp_path / "run"))
    assert student.config.lora_rank == 0
    before, after = load_generator(world / "clean").model.state_dict(), student.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(any(part in name for part in ("attn", "ff", "action", "patch_embed")) for name in changed)


# Robots


def test_a_student_keeps_robots_with_an_adapter_and_names_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    teacher = write_video_model(tmp_path)
    write_robot_dataset(tmp_path / "data")
    training = replace(TRAINING, steps=1, evaluate_every=0)
    config = AlignConfig(window_every=8, training=training)
    first = align(teacher, tmp_path / "data", mode="adapter", out=tmp_path / "one", config=config, name="arm")
    both = align(first, tmp_path / "data", mode="posttrain", out=tmp_path / "two", config=config, name="other")
    assert own_networks(both) == {"other"}
    say_what_is_left_out(both)
    assert "the robot other" in capsys.readouterr().err
    (tmp_path / "student").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(both / name, tmp_path / "student" / name)
    copy_companions(both, tmp_path / "student")
    assert robot_names(tmp_path / "student") == ["arm"]
    robot = load_robot(tmp_path / "student")
    assert robot.adapter is not None and not robot.own_network
    assert (tmp_path / "student" / "inverses" / "arm.safetensors").exists()


# Drift


@pytest.fixture
def truth() -> HeldOut:
    films = torch.stack([torch.from_numpy(recording(seed, frames=17).frames) for seed in range(3)])
    return HeldOut(films.movedim(-1, 2).float() / 127.5 - 1, torch.zeros(3, 16, 2), ("a", "b", "c"))


def test_drift_of_films_that_are_known(world: Path, truth: HeldOut, monkeypatch: pytest.MonkeyPatch):
    generator = load_generator(world / "flow")

    def of(films: torch.Tensor) -> Drift:
        monkeypatch.setattr("distill.drift.rollout", lambda generator, first, actions, seed: films)
        return measure_drift(generator, truth)

    perfect = of(truth.frames)
    assert perfect.seconds == pytest.approx((0.4, 0.8, 1.2, 1.6))
    assert perfect.late.score == pytest.approx(0, abs=1e-5) and len(perfect.by_latent) == 4
    still = of(truth.frames[:, :1].expand_as(truth.frames))
    assert still.late.path == pytest.approx(1, abs=1e-3)
    fading = truth.frames.clone()
    fading[:, 9:] = 0.5 * fading[:, 9:]
    faded = of(fading)
    assert faded.by_latent[0].score == pytest.approx(0, abs=1e-5)
    assert faded.late.sharpness == pytest.approx(20 * torch.tensor(0.5).log10().item(), abs=0.01)
    assert faded.late.score == pytest.approx(faded.late.path + 0.602, abs=0.01) and faded.late.colour > 0.1
    broken = of(truth.frames * float("nan"))
    assert broken.late.score != broken.late.score


# What is refused


def test_what_does_not_fit_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["train", "distill", "tiny", "--teacher", str(world / "clean"), "--data", str(world / "clips")]
    words += ["--out", str(tmp_path / "run"), "--actions"]
    other = write_labels(tmp_path / "labels", world / "clips")
    assert cli.main([*words, str(other)]) == 2
    assert "takes latent actions of 14 values, 10 of them the camera's; the labels" in capsys.readouterr().err
    shutil.copytree(world / "labels", tmp_path / "foreign")
    index = tmp_path / "foreign" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"weights": "0123abcd"}))
    assert cli.main([*words, str(tmp_path / "foreign")]) == 2
    shown = capsys.readouterr().err
    assert "written by another latent action model" in shown and "/lam FOLDER --out LABELS" in shown
    assert cli.main([*words, str(world / "labels"), "--self-forcing.latents", "2"]) == 2
    assert "must be at least 3" in capsys.readouterr().err
    assert cli.main([*words, str(world / "labels"), "--steps", "5"]) == 2
    assert "multiple of steps 5" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_never_saw_all_at_once_is_refused(world: Path, tmp_path: Path):
    teacher = shutil.copytree(world / "clean" / "checkpoints" / "step-40", tmp_path / "teacher")
    (teacher / "manifest.json").unlink()
    config = json.loads((teacher / "config.json").read_text())
    config["settings"]["loss"]["causal_share"] = 1.0
    (teacher / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="never seen all latents at once"):
        distill(
            CONFIG,
            preset="tiny",
            teacher=teacher,
            data=world / "clips",
            actions=world / "labels",
            out=tmp_path / "run",
        )


@pytest.mark.parametrize("preset", DISTILL_PRESETS)
def test_presets_hold_together(preset: str):
    config = DISTILL_PRESETS[preset]()
    assert config.steps == 2 and config.self_forcing.latents >= 13 and config.drift.latents >= 13


def test_a_generator_is_not_changed_by_its_distillation(world: Path, straight: Path):
    """The teacher is frozen, and the student's stages began with its weights."""
    teacher: Generator = load_generator(world / "clean")
    first = load_file(straight / "consistency/checkpoints/step-2/training/weights.safetensors")
    steps = [(first[name] - tensor).abs().max().item() for name, tensor in teacher.model.state_dict().items()]
    assert 0 < max(steps) < 0.01
