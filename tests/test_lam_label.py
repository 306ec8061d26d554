"""Labels: row t is the change from frame t to t+1, whatever the batch size, rank count or interruptions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from common.checkpoints import save_model
from common.errors import BadData, UserError
from common.folders import open_folder
from common.frame_rate import FrameRate
from common.video import decode, write_video
from lam.checkpoint import checkpoint_config, load_lam
from lam.label import label
from lam.model import LatentActionModel
from tests.moving_clips import moving_square, write_moving_clips
from tests.test_lam_train import REPOSITORY, SMALL
from tests.test_training import free_port


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = LatentActionModel(SMALL.model)
    folder = tmp_path_factory.mktemp("model") / "lam"
    save_model(folder, tensors=model.state_dict(), config=checkpoint_config(SMALL, preset="tiny"), card="")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_moving_clips(tmp_path_factory.mktemp("clips"), 3, frames=23)
    write_moving_clips(folder / "more", 1, frames=40)
    return folder


def labels(out: Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.relative_to(out).as_posix(): load_file(path) for path in sorted(out.rglob("*.safetensors"))}


def test_row_t_is_the_pair_t_and_t_plus_1(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    report = label(checkpoint, clips, tmp_path / "labels", batch_size=5)
    assert (report.clips, report.frames, report.bad) == (4, 3 * 23 + 40, ())
    model = load_lam(checkpoint).model
    for clip in open_folder(clips).clips:
        arrays = load_file(tmp_path / "labels" / f"{clip.name}.safetensors")
        frames = list(decode(clip.path, size=(24, 24)))
        pixels = torch.from_numpy(np.stack([frame.image for frame in frames])).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            one_by_one = torch.cat([model.encode(pixels[t : t + 2][None]).code for t in range(len(frames) - 1)])
        assert arrays["latent_actions"].shape == (len(frames) - 1, 32 + 10)
        np.testing.assert_allclose(arrays["latent_actions"], one_by_one.numpy(), atol=5e-5)
        wrong = np.abs(arrays["latent_actions"][:-1] - one_by_one[1:].numpy()).max()
        assert wrong > 1e-3, "a slip by one frame would show"
        np.testing.assert_array_equal(arrays["timestamps"], [frame.seconds for frame in frames])
        np.testing.assert_allclose(arrays["pair_gap_seconds"], 0.1, atol=1e-6)
        assert set(arrays["scenes"]) == {0}


@pytest.mark.parametrize("batch_size", [1, 7, 22, 100])
def test_same_for_any_batch_size(checkpoint: Path, clips: Path, tmp_path: Path, batch_size: int) -> None:
    label(checkpoint, clips, tmp_path / "a", batch_size=16)
    label(checkpoint, clips, tmp_path / "b", batch_size=batch_size)
    a, b = labels(tmp_path / "a"), labels(tmp_path / "b")
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name]["latent_actions"], b[name]["latent_actions"], rtol=0, atol=2e-6)
        np.testing.assert_array_equal(a[name]["timestamps"], b[name]["timestamps"])


def test_same_for_any_number_of_ranks(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    label(checkpoint, clips, tmp_path / "one")
    port = free_port()
    ranks = []
    for rank in range(2):
        extra = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
        extra |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, "-m", "scripts.cli", "label", checkpoint, clips, "--out", tmp_path / "two"]
        environment = {**os.environ, **{name: str(value) for name, value in extra.items()}}
        ranks.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    one, two = labels(tmp_path / "one"), labels(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name][key], two[name][key]) for name in one for key in one[name])
    assert (tmp_path / "one" / "index.json").read_text() == (tmp_path / "two" / "index.json").read_text()


def test_going_on_labels_only_what_is_missing(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    label(checkpoint, clips, out)
    files = sorted(out.rglob("*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in files}
    kept = files[0].read_bytes()
    files[0].unlink()
    files[1].write_bytes(kept[:100])  # cut short by a full disk, say
    label(checkpoint, clips, out)
    changed = [path for path in files if path.stat().st_mtime_ns != before[path]]
    assert changed == files[:2]
    assert files[0].read_bytes() == kept


def test_labels_of_another_checkpoint_are_refused(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    label(checkpoint, clips, tmp_path / "labels")
    other = LatentActionModel(SMALL.model)
    config = checkpoint_config(SMALL, preset="tiny")
    save_model(tmp_path / "other", tensors=other.state_dict(), config=config, card="")
    with pytest.raises(UserError, match="holds labels made with"):
        label(tmp_path / "other", clips, tmp_path / "labels")
    with pytest.raises(UserError, match="holds labels made with"):
        label(checkpoint, clips, tmp_path / "labels", fps=5)


def test_a_lower_rate_takes_every_other_frame(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    label(checkpoint, clips, tmp_path / "labels", fps=5)
    for arrays in labels(tmp_path / "labels").values():
        np.testing.assert_allclose(arrays["pair_gap_seconds"], 0.2, atol=1e-6)
        assert len(arrays["latent_actions"]) == len(arrays["timestamps"]) - 1


@pytest.mark.parametrize("native", [24, 25, 29.97, 30, 60])
def test_frame_rate_keeps_the_nearest_frames(native: float, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(0, frames=90), fps=native)
    (clip,) = open_folder(tmp_path).clips
    rate = FrameRate(clip.info, 10)
    kept = [frame.seconds for frame in decode(clip.path) if rate.takes(frame.seconds)]
    wanted = clip.info.start_seconds + np.arange(len(kept)) / 10
    assert np.abs(np.array(kept) - wanted).max() <= 0.5 / native + 1e-3
    assert len(kept) == pytest.approx(90 / native * 10, abs=1)


def test_scenes_count_up_at_a_hard_cut(checkpoint: Path, tmp_path: Path) -> None:
    frames = np.concatenate([moving_square(1, frames=20), 255 - moving_square(2, frames=15)])
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "cut.mp4", frames, fps=10)
    label(checkpoint, tmp_path / "clips", tmp_path / "labels")
    scenes = load_file(tmp_path / "labels" / "cut.mp4.safetensors")["scenes"]
    np.testing.assert_array_equal(scenes, [0] * 20 + [1] * 15)


def test_bad_clips_are_listed_and_the_rest_labelled(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    folder = write_moving_clips(tmp_path / "clips", 2)
    (folder / "page.mp4").write_text("<html>not found</html>")
    report = label(checkpoint, folder, tmp_path / "labels")
    assert report.clips == 2 and [file.name for file in report.bad] == ["page.mp4"]
    index = json.loads((tmp_path / "labels" / "index.json").read_text())
    assert [entry["clip"] for entry in index["clips"]] == ["clip_00.mp4", "clip_01.mp4"]
    assert index["bad"][0]["clip"] == "page.mp4" and index["bad"][0]["reason"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "empty.mp4").touch()
    with pytest.raises(BadData, match="empty"):
        label(checkpoint, tmp_path / "bad", tmp_path / "none")
