"""Labels: frames and actions of a window belong together, and labels that are not those of the video are refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from common.checkpoints import save_model
from common.errors import BadData, UserError
from common.folders import open_folder
from lam.checkpoint import checkpoint_config
from lam.label import label
from lam.model import LatentActionModel
from tests.counted_clips import damage, number_of, write_clip
from tests.labelled_clips import write_labels
from tests.test_lam_train import SMALL
from video_model.clip_batches import labelled_block, labelled_evaluation_windows
from video_model.clips import ClipWindows, WindowConfig
from video_model.labels import Labels

WINDOW = WindowConfig(height=48, width=64, frames=5, fps=10, windows_per_frame=1.0, buffer_windows=512)


def times_at(rate: float, frames: int) -> list[float]:
    return (np.arange(frames) / rate).tolist()


def drawn(folder: Path, labels: Labels, config: WindowConfig = WINDOW) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(numbers of the frames (P, T), actions (P, T-1, A), names) of the first block: an epoch of all windows."""
    source = ClipWindows(open_folder(folder).clips, config=config, batch_size=1, seed=0, labels=labels)
    windows = labelled_block(source.block(0), labels)
    shown = np.array([[number_of(image.numpy()) for image in window] for window in windows.frames])
    return shown, windows.actions.numpy(), list(windows.names)


@pytest.mark.parametrize(
    ("rate", "fps", "step"), [(30, 10.0, 3), (10, None, 1), (30000 / 1001, 10.0, 3), (60, 10.0, 6), (24, 10.0, None)]
)
def test_actions_lead_from_each_frame_of_a_window_to_the_next(
    tmp_path: Path, rate: float, fps: float | None, step: int | None
) -> None:
    """Segments of 128 to 160 frames: at 30, 60 and 24 fps most begin between two labelled frames."""
    frames = 400
    write_clip(tmp_path / "clips" / "clip.mp4", times_at(rate, frames), gop=32)
    labels = Labels.open(write_labels(tmp_path / "labels", tmp_path / "clips", fps=fps))
    shown, actions, _ = drawn(tmp_path / "clips", labels)
    assert len(np.unique(shown[:, 0])) > 0.6 * frames * min(1, 10 / rate)
    np.testing.assert_array_equal(actions[:, :, 0], shown[:, :-1])
    np.testing.assert_array_equal(actions[:, :, 1], shown[:, 1:])
    labelled = set(labels.clip("clip.mp4").actions[:, :2].ravel().astype(int).tolist())
    assert set(shown.ravel().tolist()) <= labelled, "no frame without a label is shown"
    if step:
        assert set(np.diff(shown, axis=1).ravel().tolist()) == {step}


def test_each_window_of_labelled_frames_can_be_drawn_but_none_across_a_cut_or_a_hole(tmp_path: Path) -> None:
    times = [time + (5.0 if number >= 60 else 0.0) for number, time in enumerate(times_at(10, 102))]
    write_clip(tmp_path / "clips" / "clip.mp4", times, gop=102)
    labels = Labels.open(write_labels(tmp_path / "labels", tmp_path / "clips", scene_frames=17))
    shown, _, _ = drawn(tmp_path / "clips", labels)
    pieces = [range(start, start + 17) for start in (0, 17, 34, 68, 85)] + [range(51, 60), range(60, 68)]
    expected = sorted(start for piece in pieces for start in piece[: len(piece) - 4])
    assert sorted(shown[:, 0].tolist()) == expected, "each once: the labels tell how many there are"
    assert set(np.diff(shown, axis=1).ravel().tolist()) == {1}


def test_clips_keep_their_own_labels(tmp_path: Path) -> None:
    for index, rate in enumerate((30, 10, 20)):
        write_clip(tmp_path / "clips" / f"{index}.mp4", times_at(rate, 90), gop=30)
    labels = Labels.open(write_labels(tmp_path / "labels", tmp_path / "clips", fps=10.0))
    _, actions, names = drawn(tmp_path / "clips", labels)
    assert set(names) == {"0.mp4", "1.mp4", "2.mp4"}
    for action, name in zip(actions, names, strict=True):
        assert set(action[:, 2]) == {float(name[0])}
    held_out = labelled_evaluation_windows(
        open_folder(tmp_path / "clips").clips, WINDOW, labels=labels, windows=9, seed=0
    )
    assert len(held_out.names) == 9 and set(held_out.names) == set(names)
    numbers = np.array([[number_of(image.numpy()) for image in window] for window in held_out.frames])
    np.testing.assert_array_equal(held_out.actions[:, :, 0], numbers[:, :-1])


def test_a_folder_that_understudy_labelled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LatentActionModel(SMALL.model)
    save_model(tmp_path / "lam", tensors=model.state_dict(), config=checkpoint_config(SMALL, preset="tiny"), card="")
    write_clip(tmp_path / "clips" / "more" / "a.mp4", times_at(30, 60), gop=20)
    label(tmp_path / "lam", tmp_path / "clips", tmp_path / "labels", fps=10)
    labels = Labels.open(tmp_path / "labels")
    assert labels.fps == 10 and (labels.latent_dim, labels.camera_dim, labels.dim) == (32, 10, 42)
    stored = load_file(tmp_path / "labels" / "more" / "a.mp4.safetensors")
    np.testing.assert_array_equal(
        labels.actions("more/a.mp4", stored["timestamps"][3:8]), stored["latent_actions"][3:7]
    )
    shown, actions, _ = drawn(tmp_path / "clips", labels)
    np.testing.assert_array_equal(actions[:, 0], stored["latent_actions"][shown[:, 0] // 3])


@pytest.fixture
def one_clip(tmp_path: Path) -> Path:
    """A folder with `clips/a.mp4`, 60 frames at 30 per second, and `labels` at 10."""
    write_clip(tmp_path / "clips" / "a.mp4", times_at(30, 60), gop=30)
    write_labels(tmp_path / "labels", tmp_path / "clips", fps=10.0)
    return tmp_path


def test_times_that_are_no_run_of_labelled_frames_are_refused(one_clip: Path) -> None:
    labels = Labels.open(one_clip / "labels")
    seconds = labels.clip("a.mp4").seconds
    np.testing.assert_array_equal(labels.actions("a.mp4", seconds[4:7])[:, 0], [12, 15])
    for wrong in (
        seconds[4:7] + 0.01,
        seconds[4:9:2],
        seconds[[4, 6, 5]],
        seconds[-2:] + 0.1,
        seconds[4:6] + np.array([0, 1 / 30]),
    ):
        with pytest.raises(BadData, match=r"a\.mp4: its \d frames .* are not labelled frames in a row"):
            labels.actions("a.mp4", wrong)
    write_labels(one_clip / "labels", one_clip / "clips", fps=10.0, scene_frames=30)
    labels = Labels.open(one_clip / "labels")
    assert len(labels.actions("a.mp4", seconds[8:10])) == 1
    with pytest.raises(BadData, match=r"a\.mp4: a cut lies between 0\.9"):
        labels.actions("a.mp4", seconds[9:11])


def test_rms_leaves_out_steps_across_cuts_and_is_never_zero(one_clip: Path) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        arrays["latent_actions"][:] = (3, 0, -4)
        arrays["latent_actions"][::2, 0] = -5
        arrays["scenes"][10:] = 1
        arrays["latent_actions"][9] = 1e6

    change(one_clip, edit)
    rms = Labels.open(one_clip / "labels").rms(["a.mp4"])
    # 19 steps, of which number 9 crosses the cut: 10 of -5 and 8 of 3.
    np.testing.assert_allclose(rms, [np.sqrt((10 * 25 + 8 * 9) / 18), 1, 4], rtol=1e-6)
    assert rms.dtype == np.float32


def change(folder: Path, edit: Callable[[dict[str, np.ndarray]], None], **identity: object) -> None:
    """Rewrite the labels of `a.mp4`."""
    path = folder / "labels" / "a.mp4.safetensors"
    arrays = load_file(path)
    edit(arrays)
    save_file(arrays, path, {"understudy": json.dumps({"weights": "0123abcd", "fps": 10.0, **identity})})


def refused(folder: Path, message: str) -> str:
    """The hint with which windows of this folder are refused."""
    clips = open_folder(folder / "clips").clips
    with pytest.raises(BadData, match=message) as caught:
        labels = Labels.open(folder / "labels")
        ClipWindows(clips, config=WINDOW, batch_size=1, seed=0, labels=labels).block(0)
    return caught.value.hint


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda arrays: arrays["latent_actions"].__setitem__((7, 1), np.nan), "not finite"),
        (lambda arrays: arrays["latent_actions"].__setitem__((7, 1), np.inf), "not finite"),
        (lambda arrays: arrays.update(latent_actions=arrays["latent_actions"][:-1]), "do not fit each other"),
        (lambda arrays: arrays.update(latent_actions=arrays["latent_actions"][:, :2].copy()), "do not fit each other"),
        (lambda arrays: arrays.update(scenes=arrays["scenes"][:-1]), "do not fit each other"),
        (lambda arrays: arrays["timestamps"].__setitem__(3, 0.1), "do not increase"),
        (lambda arrays: arrays.pop("scenes"), "are damaged"),
        (lambda arrays: arrays["timestamps"].__iadd__(0.01), r"go from 0\.010 s to 1\.910 s, the clip from 0\.000"),
        (
            lambda arrays: arrays["timestamps"].__setitem__(slice(5, 15), arrays["timestamps"][5:15] + 0.01),
            "no frame at 0.510 s",
        ),
    ],
)
def test_damaged_labels_name_their_clip(
    one_clip: Path, edit: Callable[[dict[str, np.ndarray]], None], message: str
) -> None:
    change(one_clip, edit)
    assert "run `understudy label` again" in refused(one_clip, r"^a\.mp4: .*" + message)


def test_labels_of_another_model_or_that_cannot_be_read_are_refused(one_clip: Path) -> None:
    change(one_clip, lambda arrays: None, weights="another")
    refused(one_clip, r"^a\.mp4: its labels were made with .*another")
    (one_clip / "labels" / "a.mp4.safetensors").write_bytes(b"no labels")
    refused(one_clip, r"^a\.mp4: its labels .* are damaged")


@pytest.mark.parametrize(("rate", "frames"), [(25, 50), (30, 45), (30, 90), (15.5, 31)])
def test_labels_of_a_video_that_was_made_anew_are_refused(one_clip: Path, rate: float, frames: int) -> None:
    write_clip(one_clip / "clips" / "a.mp4", times_at(rate, frames), gop=30)
    hint = refused(one_clip, r"^a\.mp4: (no frame at|its labels go from)")
    assert "Delete" in hint and "a.mp4.safetensors and run `understudy label` again" in hint


@pytest.mark.parametrize("rate", [5, 20])
def test_labels_of_every_frame_know_how_many_there_were(tmp_path: Path, rate: float) -> None:
    """Frames at 10 per second hold all times of 5 per second, so that times alone would not tell."""
    write_clip(tmp_path / "clips" / "a.mp4", times_at(rate, round(4 * rate)), gop=20)
    write_labels(tmp_path / "labels", tmp_path / "clips")
    write_clip(tmp_path / "clips" / "a.mp4", times_at(10, 40), gop=20)
    refused(tmp_path, rf"^a\.mp4: it has {4 * rate} labelled frames, the clip has 40")


def test_labels_at_another_rate_than_the_windows_are_refused(one_clip: Path) -> None:
    clips, labels = open_folder(one_clip / "clips").clips, Labels.open(one_clip / "labels")
    with pytest.raises(UserError, match="are at 10 frames per second, the windows at 15"):
        ClipWindows(clips, config=replace(WINDOW, fps=15), batch_size=1, seed=0, labels=labels)
    write_labels(one_clip / "labels", one_clip / "clips")
    assert "--fps 10" in refused(one_clip, r"a\.mp4 has a label for every frame, 30 per second; windows are at 10")


def test_clips_without_labels_are_named(one_clip: Path) -> None:
    for name in "bc":
        write_clip(one_clip / "clips" / f"{name}.mp4", times_at(30, 30), gop=30)
    hint = refused(one_clip, r"2 clips have no labels in .*: b\.mp4, c\.mp4")
    assert "Run `understudy label`" in hint
    with pytest.raises(BadData, match=r"b\.mp4"):
        Labels.open(one_clip / "labels").clip("b.mp4")
    index = one_clip / "labels" / "index.json"
    bad = [{"clip": "c.mp4", "reason": "too dark"}]
    index.write_text(json.dumps({**json.loads(index.read_text()), "bad": bad}))
    assert "Repair or remove" in refused(one_clip, r"1 clips could not be labelled: c\.mp4: too dark")


def test_two_clips_of_one_name_are_refused(one_clip: Path) -> None:
    clips = open_folder(one_clip / "clips").clips
    with pytest.raises(BadData, match=r"^a\.mp4: several data folders"):
        Labels.open(one_clip / "labels").require([*clips, *clips])


def test_damage_after_labelling_is_reported_as_damage(tmp_path: Path) -> None:
    for name in "abc":
        write_clip(tmp_path / "clips" / f"{name}.mp4", times_at(30, 120), gop=120)
    labels = Labels.open(write_labels(tmp_path / "labels", tmp_path / "clips", fps=10.0))
    clips = open_folder(tmp_path / "clips").clips
    damage(tmp_path / "clips" / "b.mp4", after=0.68)
    block = ClipWindows(clips, config=WINDOW, batch_size=1, seed=0, labels=labels).block(0)
    assert {file.name for file in block.bad} == {"b.mp4"} and block.clips == ("a.mp4", "c.mp4")


def test_folders_that_hold_no_labels(tmp_path: Path, one_clip: Path) -> None:
    with pytest.raises(UserError, match="holds no labels"):
        Labels.open(tmp_path / "nowhere")
    index = one_clip / "labels" / "index.json"
    for text in ("{", "[]", '{"weights": "0123abcd", "fps": 10.0}', '{"weights": "0", "fps": "fast"}'):
        index.write_text(text)
        with pytest.raises(BadData, match=r"index\.json is damaged"):
            Labels.open(one_clip / "labels")
    index.unlink()
    (one_clip / "labels" / "made-with.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        Labels.open(one_clip / "labels")
