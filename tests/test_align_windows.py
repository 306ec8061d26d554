"""Recordings and training windows of a robot: which controls belong to which frames, at any rate and on resume."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from align.datasets import open_dataset
from align.guess import guess_embodiment
from align.recordings import Recording, read_recordings, stride_of
from align.windows import RobotWindows, encode_recordings, hold_last
from common.errors import BadData, UserError
from common.training import DataPosition
from tests.test_adapter import ARM
from video_model.presets import TokenizerModelConfig
from video_model.tokenizer import Tokenizer, build_tokenizer

SIDE = 16


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    sizes = TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 1, 1), num_res_blocks=1)
    return build_tokenizer(sizes).eval()


def recording(frames: int, *, name: str = "one") -> Recording:
    """Frame t is of the brightness 10 t, control t says t."""
    pictures = np.arange(frames, dtype=np.uint8)[:, None, None, None] * 10
    shown = np.broadcast_to(pictures, (frames, SIDE, SIDE, 3))
    controls = np.repeat(np.arange(frames - 1, dtype=np.float32)[:, None], 3, axis=1)
    return Recording(name, shown, controls, None)


def write_plain(root: Path, lengths: tuple[int, ...], *, fps: float, last_row: bool = True) -> Path:
    """A plain folder; state and action of frame t say t and t + 1."""
    from common.video import write_video

    for number, length in enumerate(lengths):
        folder = root / f"episode_{number:03d}"
        folder.mkdir(parents=True)
        frames = np.broadcast_to(np.arange(length, dtype=np.uint8)[:, None, None, None] * 5, (length, 16, 16, 3))
        write_video(folder / "video.mp4", np.ascontiguousarray(frames), fps=fps, gop=4)
        times = np.arange(length, dtype=np.float32)[:, None]
        np.save(folder / "states.npy", times)
        np.save(folder / "actions.npy", times[: length if last_row else -1] + 1)
    return root


@pytest.mark.parametrize("last_row", [True, False])
def test_rows_are_thinned_to_the_models_rate(tmp_path: Path, last_row: bool) -> None:
    """At every third frame, with the control that was last asked for before the next of these frames."""
    dataset = open_dataset(write_plain(tmp_path, (20,), fps=30, last_row=last_row))
    stride = stride_of(dataset.fps, 10)
    assert stride == 3
    embodiment = guess_embodiment(dataset, name="plain")
    assert embodiment.groups[0].kind == "absolute"
    (read,) = read_recordings(dataset, dataset.episodes, embodiment, size=(16, 16), stride=stride)
    assert [round(frame.mean() / 5) for frame in read.frames] == [0, 3, 6, 9, 12, 15, 18]
    assert read.controls[:, 0].tolist() == [3, 6, 9, 12, 15, 18], "the target of row 2 is where frame 3 is"
    assert read.states is not None and read.states[:, 0].tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert [read.before(frame).tolist() for frame in (0, 1, 2)] == [[3], [3], [6]]
    (all_rows,) = read_recordings(dataset, dataset.episodes, embodiment, size=(16, 16), stride=1)
    assert len(all_rows.frames) == 20 and all_rows.controls[:, 0].tolist() == list(range(1, 20))


def test_rates_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    assert stride_of(5, 10) == 1 and stride_of(29.97, 10) == 3 and stride_of(50, 10) == 5
    with pytest.raises(UserError, match="25 frames per second, the model 10"):
        stride_of(25, 10)
    dataset = open_dataset(write_plain(tmp_path, (2,), fps=30))
    embodiment = guess_embodiment(open_dataset(write_plain(tmp_path / "more", (20,), fps=30)), name="plain")
    with pytest.raises(BadData, match="episode 0 has 2 frames; at the model's rate that is no pair"):
        list(read_recordings(dataset, dataset.episodes, embodiment, size=(16, 16), stride=3))


def test_each_latent_has_the_changes_of_its_own_four_frames(tokenizer: Tokenizer) -> None:
    """Rows count from the control before the chunk, and a window that begins later has later frames and rows."""
    shown = [recording(14), recording(12, name="two")]
    embodiment = ARM.fitted([part.controls for part in shown])
    windows = encode_recordings(
        shown, embodiment, frames=9, every=2, tokenizer=tokenizer, forecaster=None, translate=None
    )
    assert windows.names == ("one",) * 3 + ("two",) * 2 and windows.forecasts is None
    for number, start in enumerate((0, 2, 4, 0, 2)):
        first = float(max(start - 1, 0))
        rows = np.arange(start, start + 8, dtype=np.float32)
        befores = np.repeat([first, start + 3.0], 4)
        expected = np.stack([rows - befores, rows - befores, rows], axis=1)
        expected = embodiment.normalised(expected)
        np.testing.assert_allclose(windows.changes[number], expected, atol=1e-5)
        frames = torch.from_numpy(shown[0].frames[start : start + 9].copy())
        with torch.no_grad():
            latents = tokenizer.encode(frames[None].movedim(-1, 2).float() / 127.5 - 1)
        torch.testing.assert_close(windows.latents[number].float(), latents[0], atol=2e-3, rtol=1e-2)
    with pytest.raises(UserError, match="no recording has the 21 frames"):
        encode_recordings(shown, embodiment, frames=21, every=2, tokenizer=tokenizer, forecaster=None, translate=None)


def test_batches_resume_and_hold_their_share() -> None:
    count = 7
    marks = torch.arange(count, dtype=torch.float32)
    changes = marks[:, None, None] * 100 + torch.arange(8)[None, :, None]
    latents = marks[:, None, None, None, None].expand(count, 1, 3, 1, 1).half()
    windows = RobotWindows(latents, None, changes, tuple("abcdefg"))

    def batches(first: int, held: float = 0.5) -> list:
        position = DataPosition(first_batch=first, batch_size=3, rank=0, world_size=1)
        return list(islice(windows.batches(position, seed=5, hold_share=held), 12 - first))

    straight = batches(0)
    for one, other in zip(straight[5:], batches(5), strict=True):
        assert one.names == other.names and torch.equal(one.actions, other.actions)
    names = [name for batch in straight for name in batch.names]
    assert sorted(names[:7]) == sorted(names[7:14]) == list("abcdefg") and names[:7] != names[7:14]
    held = 0
    for batch in straight:
        for row, name in enumerate(batch.names):
            mark = "abcdefg".index(name)
            assert batch.latents[row].unique().tolist() == [mark]
            told = (batch.actions[row, :, 0] - 100 * mark).tolist()
            assert told in ([0, 1, 2, 3, 4, 5, 6, 7], [3, 3, 3, 3, 7, 7, 7, 7])
            held += told[0] == 3
    assert 9 <= held <= 27
    assert all(batch.actions[row, 0, 0] % 100 == 0 for batch in batches(0, held=0.0) for row in range(3))


def test_held_rows_are_the_last_of_their_own_chunk() -> None:
    changes = torch.arange(16.0).reshape(2, 8, 1)
    made = hold_last(changes, torch.tensor([False, True]))
    assert made[0, :, 0].tolist() == list(range(8)) and made[1, :, 0].tolist() == [11] * 4 + [15] * 4
