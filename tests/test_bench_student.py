"""`understudy bench student`: DreamDojo's way is what it says, and what is measured adds up."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from scripts.bench_student import ReEncoding, bench_student, untrained
from scripts.cli import main
from scripts.small_copy import small_copy
from tests.test_video_model import randomise
from tests.tiny_robot import CODE, SIDE, TOKENIZER, VIDEO, write_tiny_decoder, write_video_model
from video_model.cache import attention_mask, visible_frames
from video_model.films import as_films, as_pictures
from video_model.generator import LATENT, Embodiment, Generator, build_video_model
from video_model.layers import Actions
from video_model.tokenizer import build_tokenizer


def actions(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(4, CODE)).astype(np.float32)


def test_dreamdojos_way_is_a_pass_over_what_it_showed():
    torch.manual_seed(0)
    model = build_video_model(VIDEO.model, latent_channels=4, action_dim=CODE).eval()
    randomise(model)
    tokenizer = build_tokenizer(TOKENIZER.model).eval()
    generator = Generator(model, tokenizer, {LATENT: Embodiment((1.0,) * CODE, fps=10.0)}, VIDEO)
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    way, random = ReEncoding(generator, steps=1), torch.Generator().manual_seed(3)
    way.reset(picture, seed=3)
    shown, done = [picture[None]] * 9, [np.zeros((8, CODE), np.float32)]
    mask = attention_mask(visible_frames(4), tokens=4)
    given = torch.tensor([[1.0, 1, 1, 0]])
    for number in range(4):
        done.append(actions(number))
        with torch.no_grad():
            latents = tokenizer.encode(as_films([np.concatenate(shown)[-9:]], "cpu"))
            noise = torch.randn((1, *latents[0, :, :1].shape), generator=random)
            told = generator.embodiments[LATENT].scaled(torch.from_numpy(np.concatenate(done)[-12:]))[None]
            window = torch.cat((latents, noise), dim=2)
            flow = model(window, 1 - given, actions=Actions(told, LATENT), conditioned=given, mask=mask)
            film = tokenizer.decode(torch.cat((latents, noise - flow[:, :, 3:]), dim=2))
        step = way.step(actions(number))
        assert step.first == 4 * number + 1 and step.frames.shape == (4, SIDE, SIDE, 3)
        expected = as_pictures(film[0, -4:])
        assert np.abs(step.frames.astype(int) - expected).max() <= 1
        assert np.abs(expected.astype(int) - shown[-1][-1]).mean() > 5
        shown.append(step.frames)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a forecast."""
    return write_video_model(tmp_path_factory.mktemp("bench"))


def test_three_ways_are_timed(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "bench.json"
    words = ["bench", "student", str(checkpoint), "--teacher-steps", "8", "--latents", "3", "--json", str(file)]
    assert main(words) == 0
    shown, written = capsys.readouterr().out, json.loads(file.read_text())
    assert written["torch"] == torch.__version__ and written["size"] == [SIDE, SIDE]
    ways = {name: written[name] for name in ("student", "teacher", "re_encoding")}
    assert [way["steps"] for way in ways.values()] == [2, 8, 2]
    for way in ways.values():
        assert way["frames_per_second"] == pytest.approx(4000 / way["latent"]["p50"])
        assert way["first_frame_ms"] > 0 and way["latent"]["p50"] <= way["latent"]["p99"]
        assert sum(part["p50"] for part in way["parts"].values()) < 1.5 * way["latent"]["p50"]
    assert set(ways["student"]["parts"]) == {"controls", "forecast", "denoise", "cache", "decode"}
    assert set(ways["re_encoding"]["parts"]) == {"encode", "forecast", "denoise", "cache", "decode"}
    assert ways["teacher"]["parts"]["denoise"]["p50"] > 2 * ways["student"]["parts"]["denoise"]["p50"]
    fast, slow, other = (way["frames_per_second"] for way in ways.values())
    assert written["times_the_teacher"] == pytest.approx(fast / slow)
    assert written["times_re_encoding"] == pytest.approx(fast / other)
    assert [target["met"] for target in written["targets"]] == [
        fast / slow >= 8,
        fast / other >= 2.5,
        fast >= 15,
        ways["student"]["first_frame_ms"] <= 500,
    ]
    assert "frames/s" in shown and "times DreamDojo's way at equal steps" in shown and "met: 15 frames/s" in shown


def test_a_presets_sizes_need_no_checkpoint():
    generator = untrained("tiny", torch.device("cpu"))
    assert generator.config.data.height == 64
    found = bench_student(size="tiny", teacher_steps=2, latents=1)
    assert found.student_name == "tiny, random weights" and found.size == (64, 64)
    assert found.student.steps == generator.config.sampling_steps and found.peak_gigabytes > 0.1


def test_another_network_may_be_the_teacher(checkpoint: Path, tmp_path: Path):
    teacher = write_video_model(tmp_path, forecast=False)
    found = bench_student(checkpoint, teacher=teacher, teacher_steps=2, latents=1)
    assert found.teacher_name == str(teacher)
    assert found.teacher.parts["forecast"].p50 < found.student.parts["forecast"].p50


def test_a_student_with_a_tiny_decoder_is_timed_with_both(checkpoint: Path, tmp_path: Path):
    small_copy(checkpoint, tmp_path / "quick", decoder=write_tiny_decoder(tmp_path / "decoder"))
    found = bench_student(tmp_path / "quick", latents=15)  # a median that a busy machine does not move
    assert found.full_decoder and found.full_decoder.steps == found.student.steps
    assert found.student.parts["decode"].p50 < found.full_decoder.parts["decode"].p50
    assert bench_student(checkpoint, latents=1).full_decoder is None


def test_what_cannot_be_measured_is_refused(checkpoint: Path):
    with pytest.raises(UserError, match="which student"):
        bench_student()
    with pytest.raises(UserError, match="which student"):
        bench_student(checkpoint, size="tiny")
    with pytest.raises(UserError, match="at least 1, not 2, 0 and 40"):
        bench_student(checkpoint, teacher_steps=0)
