"""From a folder of video to a latent action model: the whole path, resume over workers and processes, bad files."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoints import newest_checkpoint
from common.config import TrainingConfig
from common.errors import BadData, UserError
from common.pairs import PairConfig
from common.shards import write_shards
from common.training import DataPosition
from lam.checkpoint import load_lam
from lam.data import evaluation_batches, open_clips, pair_config, split_as_trained
from lam.evaluate import evaluate_pairs
from lam.presets import LamConfig, LamDataConfig, LamModelConfig
from lam.train import stream, train
from tests.moving_clips import write_moving_clips
from tests.test_training import fingerprint, free_port

REPOSITORY = Path(__file__).parent.parent
SMALL = LamConfig(
    model=LamModelConfig(height=24, width=24, patch=8, channels=32, heads=2, encoder_blocks=1, decoder_blocks=1),
    data=LamDataConfig(gap_seconds=(0.1, 0.2), buffer_pairs=32, validation_pairs=16),
    training=TrainingConfig(
        steps=12, batch_size=8, warmup_steps=2, log_every=3, save_every=6, evaluate_every=6, workers=0
    ),
)
OPTIONS = (
    "--model.height 24 --model.width 24 --model.channels 32 --model.encoder-blocks 1 --model.decoder-blocks 1 "
    "--data.gap-seconds 0.1 0.2 --data.buffer-pairs 32 --data.validation-pairs 16 --training.batch-size 8 "
    "--training.warmup-steps 2 --training.log-every 3 --training.save-every 6 --training.evaluate-every 6"
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_clips(tmp_path_factory.mktemp("clips"), 6)


def with_training(config: LamConfig, **changes: object) -> LamConfig:
    return replace(config, training=replace(config.training, **changes))  # type: ignore[arg-type]


def test_a_run_folder_holds_what_a_person_looks_for(clips: Path, tmp_path: Path) -> None:
    last = train(SMALL, preset="tiny", data=[clips], out=tmp_path / "run")
    run = tmp_path / "run"
    assert last == run / "checkpoints" / "step-12"
    assert json.loads((run / "config.json").read_text())["folders"] == [str(clips)]
    assert {path.name for path in (run / "samples").iterdir()} == {"step-6.png", "step-12.png"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "mse", "copy_mse", "nats", "samples_per_second", "data_wait_share"} <= lines[0].keys()
    validation = [line for line in lines if "validation/psnr_own" in line]
    assert [line["step"] for line in validation] == [6, 12]
    assert {f"validation/psnr_{kind}" for kind in ("own", "shuffled", "zero", "copy")} <= validation[0].keys()
    card = (last / "README.md").read_text()
    assert f"{validation[-1]['validation/psnr_own']:.4g}" in card and "understudy train lam tiny" in card


def test_the_model_learns_what_moves(tmp_path: Path) -> None:
    """On clips it never saw, its own latent action beats copying and beats another clip's."""
    folder = write_moving_clips(tmp_path / "clips", 40)
    config = with_training(
        SMALL, steps=120, learning_rate=3e-3, batch_size=32, ema_decay=0.98, evaluate_every=0, log_every=100
    )
    train(config, preset="tiny", data=[folder], out=tmp_path / "run")
    loaded = load_lam(tmp_path / "run")
    held_out = split_as_trained(open_clips([folder]), loaded.config)[1]
    pairs = evaluation_batches(held_out, pair_config(config.data, config.model), pairs=64, seed=1)
    psnr = evaluate_pairs(loaded.model, pairs).psnr
    assert psnr.own > psnr.copy + 1.0
    assert psnr.own > psnr.shuffled + 1.0


def test_validation_clips_are_never_trained_on(clips: Path) -> None:
    training, validation = split_as_trained(open_clips([clips]), SMALL)
    names = [{clip.name for folder in side.folders for clip in folder} for side in (training, validation)]
    assert names[0] and names[1] and not names[0] & names[1]
    source = training.pairs(training.folders, config=pair_config(SMALL.data, SMALL.model), batch_size=8, seed=0)
    seen = {name for number in range(4) for name in source.block(number).clips}
    assert seen <= names[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_is_the_blocks_in_order_from_any_batch(clips: Path, workers: int) -> None:
    pairs = PairConfig(height=24, width=24, gap_seconds=(0.1, 0.2), buffer_pairs=24)
    opened = open_clips([clips])
    source = opened.pairs(opened.folders, config=pairs, batch_size=8, seed=3)
    assert source.block_pairs == 24
    expected = torch.cat([torch.from_numpy(source.block(number).second) for number in range(3)])

    def frames(first_batch: int, count: int) -> torch.Tensor:
        position = DataPosition(first_batch=first_batch, batch_size=8, rank=0, world_size=1)
        batches = stream(source, position, workers=workers, log=None)
        got = torch.cat([next(batches).frames for _ in range(count)])
        batches.close()  # type: ignore[attr-defined]
        return ((got[:, 1].movedim(1, -1) + 1) * 127.5).round().byte()

    assert torch.equal(frames(0, 9), expected)
    assert torch.equal(frames(4, 5), expected[32:])


def launch(clips: Path, out: Path, *, steps: int, workers: int, processes: int) -> list[subprocess.Popen]:
    words = ["train", "lam", "tiny", "--data", str(clips), "--out", str(out), *OPTIONS.split(" ")]
    words += ["--training.steps", str(steps), "--training.workers", str(workers)]
    port, started = free_port(), []
    for rank in range(processes):
        extra = {"OMP_NUM_THREADS": 1, "ACCELERATE_USE_CPU": "true"}
        if processes > 1:
            extra |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank}
            extra |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "scripts.cli", *words],
                cwd=REPOSITORY,
                env={**os.environ, **{name: str(value) for name, value in extra.items()}},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        )
    return started


def finish(processes: list[subprocess.Popen]) -> list[int]:
    errors = [process.communicate(timeout=240)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert all(code in (0, 75) for code in codes), errors
    return codes


@pytest.mark.slow
def test_resume_grid(clips: Path, tmp_path: Path) -> None:
    """{0, 2} workers x {1, 2} processes x {straight, stopped after the first log line and resumed}: equal hashes.

    One and two processes differ in the order of sums, so hashes are equal for each number of processes.
    """
    for processes in (1, 2):
        hashes = set()
        for workers in (0, 2):
            straight = tmp_path / f"straight-{workers}-{processes}"
            assert finish(launch(clips, straight, steps=40, workers=workers, processes=processes)) == [0] * processes
            hashes.add(fingerprint(straight, 40))
            cut = tmp_path / f"cut-{workers}-{processes}"
            started = launch(clips, cut, steps=40, workers=workers, processes=processes)
            while not (cut / "metrics.jsonl").exists():
                assert started[0].poll() is None, started[0].communicate()[1]
                time.sleep(0.005)
            for process in started:  # the whole process group, data workers too, as Ctrl-C in a terminal would
                os.killpg(process.pid, signal.SIGINT)
            assert finish(started) == [75] * processes
            newest, _ = newest_checkpoint(cut)
            assert newest is not None and newest.name != "step-40"
            assert finish(launch(clips, cut, steps=40, workers=workers, processes=processes)) == [0] * processes
            hashes.add(fingerprint(cut, 40))
        assert len(hashes) == 1, f"{processes} processes"


def test_shards_train_as_files_do(clips: Path, tmp_path: Path) -> None:
    write_shards(open_clips([clips]).folders[0], tmp_path / "shards", size=(24, 24))  # type: ignore[arg-type]
    last = train(SMALL, preset="tiny", data=[tmp_path / "shards"], out=tmp_path / "run")
    assert last.name == "step-12"
    with pytest.raises(UserError, match="all of video or all of shards"):
        train(SMALL, preset="tiny", data=[tmp_path / "shards", clips], out=tmp_path / "other")


def test_a_clip_that_breaks_later_is_left_out_and_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_moving_clips(tmp_path / "clips", 6)
    damage_middle(folder / training_clip(folder))
    last = train(SMALL, preset="tiny", data=[folder], out=tmp_path / "run")
    assert last.name == "step-12"
    noted = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {line["file"] for line in noted} == {training_clip(folder)}
    assert all(line["reason"] for line in noted)
    assert training_clip(folder) in capsys.readouterr().err


def training_clip(folder: Path) -> str:
    return split_as_trained(open_clips([folder]), SMALL)[0].folders[0][0].name


def damage_middle(path: Path) -> None:
    """Overwrite picture data after the index was made, as a bad disk would: the container stays whole."""
    open_clips([path.parent])
    before = path.stat()
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 400
    rng = np.random.default_rng(0)
    data[start : start + 3000] = rng.integers(0, 256, 3000, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_nothing_readable_is_exit_4(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"")
    with pytest.raises(BadData, match=r"a\.mp4"):
        train(SMALL, preset="tiny", data=[tmp_path / "clips"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_clip_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need a clip each"):
        train(SMALL, preset="tiny", data=[write_moving_clips(tmp_path / "one", 1)], out=tmp_path / "run")


def test_weights_go_with_folders(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 data folders need as many weights, not 2"):
        train(SMALL, preset="tiny", data=[clips], out=tmp_path / "run", weights=[1.0, 2.0])
