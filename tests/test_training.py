"""The training loop: resume bit for bit, signals, bad numbers, full disks, kills, several processes."""

import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

from common import checkpoints
from common.checkpoints import newest_checkpoint, step_folders, verify
from common.config import TrainingConfig
from common.errors import BadData, MissingDependency, UserError
from common.muon import Muon
from common.training import NON_FINITE_LIMIT, Stage, fit
from common.training_state import (
    ExponentialMovingAverage,
    Progress,
    learning_rate,
    load_training,
    published_tensors,
    save_training,
    training_tensors,
)
from tests import toy_stage

SHORT = {"steps": 12, "batch_size": 8, "warmup_steps": 3, "save_every": 4, "log_every": 3, "evaluate_every": 6}
REPOSITORY = Path(__file__).parent.parent
TIMES = ("samples_per_second", "data_wait_share")


def short(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{**SHORT, **changes})  # type: ignore[arg-type]


def train(out: Path, training: TrainingConfig, **options: object) -> Path:
    return fit(toy_stage.stage(training, **options), training, out)


def fingerprint(run: Path, step: int) -> str:
    """Hash of everything a step's checkpoint holds, and of the losses up to it."""
    digest = hashlib.sha256()
    folder = run / "checkpoints" / f"step-{step}"
    for path in [*sorted(folder.rglob("*.safetensors")), folder / "training" / "state.json"]:
        digest.update(path.read_bytes())
    for line in (run / "metrics.jsonl").read_text().splitlines():
        digest.update(json.dumps({k: v for k, v in json.loads(line).items() if k not in TIMES}).encode())
    return digest.hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    out: Path, training: Mapping[str, object], *, processes: int = 1, delay: float = 0.0
) -> list[subprocess.Popen]:
    port = free_port()
    command = [sys.executable, "-m", "tests.toy_stage", str(out), json.dumps(training), "--delay", str(delay)]
    started = []
    for rank in range(processes):
        ranks = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1}
        extra = {**ranks, **where} if processes > 1 else {"OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{name: str(value) for name, value in extra.items()}}
        started.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True))
    return started


def finish(processes: list[subprocess.Popen]) -> list[int]:
    for process in processes:
        process.communicate(timeout=120)
    return [process.returncode for process in processes]


def wait_for(path: Path, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(0.01)


def test_loss_falls_and_the_checkpoint_is_whole(tmp_path: Path) -> None:
    last = train(tmp_path / "run", short(steps=150, learning_rate=1e-2, save_every=50, log_every=10))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.3 * losses[0]
    assert last.name == "step-150"
    verify(last)
    assert [step for step, _ in step_folders(tmp_path / "run")] == [100, 150], "keep = 2"
    assert "norm" in (last / "README.md").read_text()


@pytest.mark.parametrize("cuts", [(5,), (4, 7), (1, 2, 11)])
def test_resumed_run_equals_straight_run(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    train(tmp_path / "straight", short())
    for cut in cuts:  # SIGUSR1 in the middle of a step's data stops after that step
        training = short()
        with pytest.raises(UserError, match=f"stopped after step {cut} "):
            stage = toy_stage.stage(training)
            fit(stopping_at(stage, cut), training, tmp_path / "resumed")
    train(tmp_path / "resumed", short())
    assert fingerprint(tmp_path / "straight", 12) == fingerprint(tmp_path / "resumed", 12)


def stopping_at(stage: Stage, step: int) -> Stage:
    def stream(position):  # type: ignore[no-untyped-def]
        for number, batch in enumerate(stage.batches(position), position.first_batch):
            if number == step - 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            yield batch

    return dataclasses.replace(stage, batches=stream)


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    """Without dropout, four micro-batches of two have the gradient of one batch of eight."""
    weights = []
    for accumulation in (1, 4):
        training = short(accumulation=accumulation, steps=3, learning_rate=1e-3)
        stage = toy_stage.stage(training)
        model = nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 1))
        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)

        def stream(position, accumulation=accumulation):  # type: ignore[no-untyped-def]
            generator = torch.Generator().manual_seed(7)
            while True:
                x = torch.randn(8, 8, generator=generator)
                for part in x.chunk(accumulation):
                    yield toy_stage.ToyBatch(part, part.sum(-1, keepdim=True), ())

        fit(dataclasses.replace(stage, model=model, batches=stream), training, tmp_path / str(accumulation))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_weights_follow_a_loop_written_out(tmp_path: Path) -> None:
    """fit = AdamW with clipping, warm-up and cosine, plus an average; against the same in plain torch."""
    training = short(steps=5, learning_rate=1e-2, gradient_clip=0.5, ema_decay=0.9, weight_decay=0.1)
    stage = toy_stage.stage(training)
    model = nn.Linear(8, 1)
    with torch.no_grad():
        model.weight.fill_(0.1)
        model.bias.fill_(0.0)
    fit(dataclasses.replace(stage, model=model), training, tmp_path / "run")

    weight, bias = torch.full((1, 8), 0.1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}])
    average = weight.detach().clone()
    stream = toy_stage.batches(position_of(training))
    rates = [1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2, 1e-2 * (0.1 + 0.9 * 0.5)]
    for step, rate in enumerate(rates):
        batch = next(stream)
        error = (batch.x @ weight.T + bias - batch.y).square().mean()
        error.backward()
        torch.nn.utils.clip_grad_norm_([weight, bias], 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight.detach()
    torch.testing.assert_close(model.weight, weight)
    _, tensors = checkpoints.load_model_folder(tmp_path / "run")
    torch.testing.assert_close(tensors["weight"], average)


def position_of(training: TrainingConfig):  # type: ignore[no-untyped-def]
    return toy_stage.DataPosition(first_batch=0, batch_size=training.batch_size, rank=0, world_size=1)


def test_learning_rate_schedule() -> None:
    training = short(steps=103, warmup_steps=3, learning_rate=1.0)
    assert [learning_rate(training, step) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert learning_rate(training, 53) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(training, 102) < 0.11
    assert learning_rate(dataclasses.replace(training, decay="linear"), 53) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(dataclasses.replace(training, decay="constant"), 102) == 1.0


def test_precision_is_of_the_run_not_of_the_process(tmp_path: Path) -> None:
    """fp32, bf16 and fp32 again in one process: bf16 rounds the forward pass, the weights stay fp32."""
    runs = [train(tmp_path / str(number), short(precision=p)) for number, p in enumerate(("fp32", "bf16", "fp32"))]
    first, rounded, again = ({k: v.double() for k, v in checkpoints.load_model_folder(run)[1].items()} for run in runs)
    assert all(tensor.dtype == torch.float32 for tensor in checkpoints.load_model_folder(runs[1])[1].values())
    assert all(torch.equal(first[name], again[name]) for name in first)
    worst = max((first[name] - rounded[name]).abs().max().item() for name in first)
    assert 0 < worst < 0.05


@pytest.mark.slow
def test_compiled_network_trains_and_resumes(tmp_path: Path) -> None:
    train(tmp_path / "run", short(compile=True))
    last = train(tmp_path / "run", short(compile=True, steps=14))
    assert set(checkpoints.load_model_folder(last)[1]) == {"0.weight", "0.bias", "3.weight", "3.bias"}, "no prefix"
    train(tmp_path / "eager", short())
    eager, compiled = (checkpoints.load_model_folder(tmp_path / run)[1]["0.weight"] for run in ("eager", "run"))
    torch.testing.assert_close(eager, compiled, atol=1e-2, rtol=0)


def test_average_without_decay_publishes_the_last_weights(tmp_path: Path) -> None:
    training = short(ema_decay=0.0)
    stage = toy_stage.stage(training)
    last = fit(stage, training, tmp_path / "run")
    _, tensors = checkpoints.load_model_folder(last)
    torch.testing.assert_close(tensors["0.weight"], stage.model.state_dict()["0.weight"], rtol=0, atol=0)
    assert not (last / "training" / "weights.safetensors").exists()


def test_swapping_the_average_in_and_out_is_exact() -> None:
    model = nn.Linear(3, 3)
    ema = ExponentialMovingAverage(model, decay=0.5)
    raw = model.weight.detach().clone()
    ema.parameters[0].fill_(2.0)
    with ema.swapped_into(model):
        assert bool((model.weight == 2.0).all())
    assert bool((model.weight == raw).all()) and bool((ema.parameters[0] == 2.0).all())


@pytest.mark.parametrize("poisoned", [1, 3])
def test_non_finite_steps_are_skipped_and_counted(tmp_path: Path, poisoned: int) -> None:
    train(tmp_path / "run", short(), poison=tuple(range(4, 4 + poisoned)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "skipped" in line][-1]["skipped"] == poisoned
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_twenty_non_finite_steps_in_a_row_stop_and_name_the_clips(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=f"{NON_FINITE_LIMIT} steps in a row.*clip-24"):
        train(tmp_path / "run", short(steps=100), poison=tuple(range(5, 100)))
    newest, damaged = newest_checkpoint(tmp_path / "run")
    assert newest is not None and not damaged
    assert all(bool(torch.isfinite(t).all()) for t in checkpoints.load_model_folder(newest)[1].values())


def test_a_non_finite_weight_is_never_saved(tmp_path: Path) -> None:
    training = short(save_every=12)
    stage = toy_stage.stage(training)

    def stream(position):  # type: ignore[no-untyped-def]
        for number, batch in enumerate(stage.batches(position)):
            if number == 11:
                with torch.no_grad():
                    stage.model[0].weight[0, 0] = float("inf")  # type: ignore[index]
            yield batch

    with pytest.raises(BadData, match=r"0\.weight is not finite at step 12"):
        fit(dataclasses.replace(stage, batches=stream), training, tmp_path / "run")
    assert step_folders(tmp_path / "run") == []


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", short())
    whole = fingerprint(tmp_path / "run", 12)
    for damage in ("truncate", "flip", "delete"):
        victim = random.Random(damage).choice(
            sorted((tmp_path / "run" / "checkpoints" / "step-12").rglob("*.safetensors"))
        )
        data = bytearray(victim.read_bytes())
        if damage == "delete":
            victim.unlink()
        else:
            data[len(data) // 2] ^= 1
            victim.write_bytes(bytes(data[:-9] if damage == "truncate" else data))
        train(tmp_path / "run", short())
        assert victim.name in capsys.readouterr().err
        assert fingerprint(tmp_path / "run", 12) == whole, "step 12 was made again from step 8"


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    train(tmp_path / "run", short(keep=1))
    (tmp_path / "run" / "checkpoints" / "step-12" / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadData, match="no checkpoint of"):
        train(tmp_path / "run", short(keep=1))


def test_another_config_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", short())
    with pytest.raises(UserError, match=r"training\.learning_rate: 0\.0003 -> 0\.1"):
        train(tmp_path / "run", short(learning_rate=0.1))
    train(tmp_path / "run", short(steps=14, workers=0))  # these may change
    assert newest_checkpoint(tmp_path / "run")[0] == tmp_path / "run" / "checkpoints" / "step-14"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty and holds no run"):
        train(tmp_path, short())


def test_full_disk_is_seen_before_it_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "run", short())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="MB of free disk"):
        train(tmp_path / "run", short(steps=20))
    verify(tmp_path / "run" / "checkpoints" / "step-12")


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="wandb is not installed"):
        train(tmp_path / "run", short(tracker="wandb"))


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path / "run", short(tracker="tensorboard"))
    events = list((tmp_path / "run").rglob("events.out.tfevents*"))
    assert any(b"gradient_norm" in path.read_bytes() for path in events)


def test_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size 8 does not divide"):
        train(tmp_path / "run", short(accumulation=3))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_saves_within_one_step_and_exits_75(tmp_path: Path, number: signal.Signals) -> None:
    training = {**SHORT, "steps": 100_000, "save_every": 100_000, "log_every": 1, "evaluate_every": 0}
    processes = start(tmp_path / "run", training, delay=0.02)
    wait_for(tmp_path / "run" / "metrics.jsonl", processes)
    processes[0].send_signal(number)
    assert finish(processes) == [75]
    newest, _ = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    logged = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert newest.name == f"step-{logged[-1]}"


def test_second_signal_leaves_at_once(tmp_path: Path) -> None:
    training = {**SHORT, "steps": 100_000, "log_every": 1, "evaluate_every": 0}
    processes = start(tmp_path / "run", training, delay=30.0)
    wait_for(tmp_path / "run" / "config.json", processes)
    time.sleep(2.0)  # the handlers are in place once the first batch is awaited
    processes[0].send_signal(signal.SIGTERM)
    time.sleep(0.3)
    processes[0].send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert finish(processes) == [128 + signal.SIGTERM]
    assert time.monotonic() - started < 2


def test_two_processes_resume_bit_for_bit(tmp_path: Path) -> None:
    assert finish(start(tmp_path / "straight", SHORT, processes=2)) == [0, 0]
    # Stopping at 5 of 12 is a signal to one rank only: all ranks must agree on the step.
    processes = start(tmp_path / "resumed", {**SHORT, "log_every": 3}, processes=2, delay=0.1)
    wait_for(tmp_path / "resumed" / "metrics.jsonl", processes)
    processes[1].send_signal(signal.SIGTERM)
    assert finish(processes) == [75, 75]
    newest, _ = newest_checkpoint(tmp_path / "resumed")
    assert newest is not None and newest.name != "step-12"
    assert finish(start(tmp_path / "resumed", SHORT, processes=2)) == [0, 0]
    assert fingerprint(tmp_path / "straight", 12) == fingerprint(tmp_path / "resumed", 12)


@pytest.mark.slow
def test_kill_9_loses_no_checkpoint(tmp_path: Path) -> None:
    """20 kills at random moments of training that saves every step; then the run ends as if nothing had happened."""
    training = {**SHORT, "save_every": 1, "log_every": 1, "evaluate_every": 0, "decay": "constant"}
    generator = random.Random(0)
    log = tmp_path / "run" / "metrics.jsonl"
    for _ in range(20):
        before = len(log.read_bytes()) if log.exists() else 0
        processes = start(tmp_path / "run", {**training, "steps": 100_000})
        while not log.exists() or len(log.read_bytes()) <= before:
            assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(generator.uniform(0, 0.3))
        processes[0].kill()
        finish(processes)
        assert newest_checkpoint(tmp_path / "run")[1] == [], "every checkpoint that has its name is whole"
    last = step_folders(tmp_path / "run")[-1][0] + 5
    assert finish(start(tmp_path / "run", {**training, "steps": last})) == [0]
    assert finish(start(tmp_path / "straight", {**training, "steps": last})) == [0]
    assert fingerprint(tmp_path / "run", last) == fingerprint(tmp_path / "straight", last)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*")), "no leftovers"


def sharded_round_trip(rank: int, port: int, folder: Path, optimizer: type[torch.optim.Optimizer]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))

    def build() -> tuple[nn.Module, torch.optim.Optimizer, ExponentialMovingAverage]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
        fully_shard(model, mesh=mesh)
        return model, optimizer(model.parameters(), lr=0.1), ExponentialMovingAverage(model, decay=0.9)  # type: ignore[call-arg]

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage, number: int) -> None:
        torch.manual_seed(number)
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, updates=number)

    first = build()
    step(*first, number=1)
    published, files = published_tensors(first[0], first[2]), training_tensors(*first)
    if rank == 0:
        folder.mkdir()
        checkpoints.write_model_files(folder, tensors=published, config={}, card="")
        save_training(folder / "training", files, Progress(step=1))
    torch.distributed.barrier()
    second = build()
    assert load_training(folder, *second).step == 1
    step(*first, number=2)
    step(*second, number=2)
    for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a.full_tensor(), b.full_tensor())  # type: ignore[operator]
    for a, b in zip(first[2].parameters, second[2].parameters, strict=True):
        assert torch.equal(a.full_tensor(), b.full_tensor())  # type: ignore[operator]
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, Muon])
def test_sharded_state_goes_to_disk_and_back(tmp_path: Path, optimizer: type[torch.optim.Optimizer]) -> None:
    """FSDP2 on two CPU processes: weights, average and optimizer written whole, read back into shards, trained on."""
    spawn(sharded_round_trip, args=(free_port(), tmp_path / "checkpoint", optimizer), nprocs=2)
