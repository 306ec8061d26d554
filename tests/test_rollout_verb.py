"""`understudy rollout`: which frame and which actions, what stands beside them, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from common.errors import BadData, UserError
from common.video import decode, probe
from scripts.cli import main
from scripts.rollout import chosen, frames_at, read_actions
from tests.counted_clips import number_of, write_clip
from tests.labelled_clips import write_labels
from tests.test_rollout import generator, write  # noqa: F401 (a fixture)
from video_model.generator import Embodiment, Generator

SIZE = (96, 128)


@pytest.mark.parametrize("rate", [10, 30])
def test_frames_are_those_of_the_wanted_times(tmp_path: Path, rate: int):
    clip = write_clip(tmp_path / "clip.mp4", [i / rate for i in range(40)], gop=7)
    for wanted in ([0.0, 0.1, 0.2], [0.5, 0.9, 1.2], [0.71], [1.0, 1.0]):
        found = [number_of(image) for image in frames_at(clip, np.array(wanted), size=SIZE)]
        assert found == [round(seconds * rate) for seconds in wanted]
    assert number_of(frames_at(clip, np.array([39 / rate]), size=SIZE)[0]) == 39
    with pytest.raises(UserError, match="goes from 0 to"):
        frames_at(clip, np.array([0.0, 40.0]), size=SIZE)


def test_parts_of_an_action():
    body = Embodiment(scale=(1.0, 1.0, 1.0), fps=10.0, camera_dim=1)
    actions = torch.tensor([[1.0, 2.0, 3.0]])
    found = {use: chosen(actions, use, body)[0].tolist() for use in ("all", "act", "camera", "opposite", "none")}
    assert found == {
        "all": [1, 2, 3],
        "act": [1, 2, 0],
        "camera": [0, 0, 3],
        "opposite": [-1, -2, 3],
        "none": [0, 0, 0],
    }


@pytest.fixture
def world(generator: Generator, tmp_path: Path) -> Path:  # noqa: F811
    for name in ("a", "b"):
        write_clip(tmp_path / "clips" / f"{name}.mp4", [i / 10 for i in range(30)], gop=10)
    write_labels(tmp_path / "labels", tmp_path / "clips")
    write(generator, tmp_path)
    return tmp_path


def run(world: Path, clip: str, labels: str, *options: str) -> np.ndarray:
    """The frames of the written video."""
    out = world / "out.mp4"
    words = [world / "video", world / "clips" / clip, "--actions", world / "labels" / labels, "--out", out]
    assert main(["rollout", *map(str, words), *options]) == 0
    assert probe(out).fps == 10
    return np.stack([frame.image for frame in decode(out, size=None)])


def test_own_actions_are_shown_beside_the_truth(world: Path, capsys: pytest.CaptureFixture[str]):
    video = run(world, "a.mp4", "a.mp4.safetensors", "--start", "1", "--seconds", "0.8")
    assert video.shape == (9, 256, 512, 3)
    assert "dB from the video at the left" in capsys.readouterr().out
    truth = frames_at(world / "clips/a.mp4", np.arange(10, 19) / 10, size=(256, 256))
    left = video[:, :, :256].astype(float)
    assert np.abs(left - truth).mean() < 0.5 * np.abs(left - truth[::-1]).mean()


def test_anothers_actions_stand_alone_or_beside_their_own_video(world: Path, capsys: pytest.CaptureFixture[str]):
    assert run(world, "a.mp4", "b.mp4.safetensors").shape == (30, 256, 256, 3)
    assert "dB" not in capsys.readouterr().out
    beside = str(world / "clips" / "b.mp4")
    assert run(world, "a.mp4", "b.mp4.safetensors", "--beside", beside, "--actions-start", "2").shape[2] == 512


def test_the_first_frame_may_be_a_picture(world: Path, capsys: pytest.CaptureFixture[str]):
    Image.fromarray(frames_at(world / "clips/a.mp4", np.array([1.0]), size=SIZE)[0]).save(world / "first.png")
    words = [world / "video", world / "first.png", "--actions", world / "labels/b.mp4.safetensors"]
    assert main(["rollout", *map(str, words), "--out", str(world / "out.mp4")]) == 0
    assert probe(world / "out.mp4").frames == 30
    (world / "first.png").write_bytes(b"no picture")
    assert main(["rollout", *map(str, words), "--out", str(world / "out.mp4")]) == 4
    (world / "first.mp4").write_bytes(b"no film")
    assert (
        main(["rollout", str(world / "video"), str(world / "first.mp4"), *map(str, words[2:]), "--out", "o.mp4"]) == 4
    )
    assert "first.png" in capsys.readouterr().err


def test_action_files_that_do_not_fit_are_refused(tmp_path: Path):
    def refused(error: type[Exception], message: str, **arrays: np.ndarray) -> None:
        save_file(arrays, tmp_path / "a.safetensors")
        with pytest.raises(error, match=message):
            read_actions(tmp_path / "a.safetensors", fps=10, action_dim=3)

    good = np.zeros((4, 3), dtype=np.float32)
    save_file({"latent_actions": good}, tmp_path / "a.safetensors")
    assert read_actions(tmp_path / "a.safetensors", fps=10, action_dim=3).seconds.tolist() == [0, 0.1, 0.2, 0.3, 0.4]
    refused(BadData, "3 values", latent_actions=good[:, :2].copy())
    refused(BadData, "finite", latent_actions=good + np.nan)
    refused(BadData, "it has none", actions=good)
    refused(BadData, "30 actions per second", latent_actions=good, timestamps=np.arange(5) / 30)
    with pytest.raises(UserError, match="no file"):
        read_actions(tmp_path / "none.safetensors", fps=10, action_dim=3)
