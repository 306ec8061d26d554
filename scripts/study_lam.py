"""The study behind the numbers in docs/measurements.md: our latent action model beside DreamDojo's, on the demo world.

    python -m scripts.study_lam OUT [--seeds 0 1 2] [--steps 600]

For each seed it trains, on the shipped demo's training videos with the same pairs and steps: `tiny`, `dreamdojo-tiny`,
the ceiling (the network of `tiny` trained by the labels of all pairs instead of by prediction), and the oracle (the
decoder of `tiny`, fed the true factors). Then it measures them on the test videos, which have tables, lights and
objects that training never shows, and prints medians over the seeds. It goes on where it stopped.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from common.checkpoints import write_text
from lam.card import encode, labels, pair_clips
from lam.checkpoint import load_lam
from lam.data import pair_batch
from lam.gates import action_block
from lam.interface import Posterior
from lam.known_factors import frame_features, known_factors, transfer
from lam.label_curve import label_curve, supervised_curve
from lam.label_free import label_free
from lam.loss import PairBatch, motion_error
from lam.model import LatentActionModel, MotionOutput
from lam.presets import PRESETS, LamConfig
from lam.probes import cross_validated, r2_interval
from lam.sequences import EvaluationSet, pairs
from lam.subjects import LamSubject
from lam.train import train
from scripts.demo_data import demo_set_path
from scripts.evaluation_data import labelled_pairs, open_evaluation_set

SIZE = (64, 64)  # of the frames of all four
ALL_FRAMES = 100_000
LABEL_FREE_PAIRS = 512
COUNTS = (8, 16, 32, 64, 128, 256, 1024)
BATCH = 64


def study(out: Path, /, seeds: tuple[int, ...] = (0, 1, 2), steps: int = 600) -> None:
    """Train, measure, print. OUT gets a run folder per model and seed, what was measured per seed, and `study.json`.

    Args:
        out: Folder for the runs.
        seeds: Each trains four models.
        steps: Of 32 pairs.
    """
    found = []
    for seed in seeds:
        runs = {name: out / f"{name}-{seed}" for name in ("tiny", "dreamdojo-tiny", "ceiling")}
        for name, run in runs.items():
            if not (run / "checkpoints" / f"step-{steps}").exists():
                _train(name, run, seed=seed, steps=steps, videos=demo_set_path() / "human" / "train")
        measured = out / f"measured-{seed}.json"
        if not measured.exists():
            numbers = _measure(runs, seed=seed) | _utilisation(runs["tiny"], seed=seed, steps=steps)
            numbers |= _supervised(seed=seed)
            write_text(measured, json.dumps(numbers))
        found.append(json.loads(measured.read_text()))
    medians = {name: statistics.median(numbers[name] for numbers in found) for name in found[0]}
    write_text(out / "study.json", json.dumps({"seeds": seeds, "medians": medians, "each": found}, indent=1))
    for name, value in medians.items():
        print(f"{name:44} {value:7.3f}   ({'  '.join(f'{numbers[name]:7.3f}' for numbers in found)} )")


def _train(name: str, run: Path, *, seed: int, steps: int, videos: Path) -> None:
    config = PRESETS["tiny" if name == "ceiling" else name]()
    training = replace(config.training, steps=steps, seed=seed, workers=0, save_every=200, keep=4, evaluate_every=steps)
    config = replace(config, training=training, data=replace(config.data, validation_pairs=128))
    labelled = None
    if name == "ceiling":
        config = replace(config, loss=replace(config.loss, flow_weight=0.0, label_weight=1.0))
        labelled = labelled_pairs(videos, config, share=1.0)
    train(config, preset=name, data=[videos], out=run, labelled=labelled)


def _measure(runs: dict[str, Path], *, seed: int) -> dict[str, float]:
    """R2 of every factor from every block, by ridge on the test videos; and what needs no labels."""
    test, robot = _demo("test", SIZE), _open(demo_set_path() / "robot", SIZE)
    known, clips = labels(test), pair_clips(test)
    features = frame_features(np.concatenate([clip.frames[:-1] for clip in test.sequences]))
    found: dict[str, float] = {}
    for title, name in (("ours", "tiny"), ("dreamdojo", "dreamdojo-tiny"), ("ceiling", "ceiling")):
        subject = LamSubject(load_lam(runs[name]).model)
        z, block = encode(subject, test), subject.blocks[action_block(subject.blocks)]
        scores = known_factors(
            z, known, clips, blocks=subject.blocks, fields=test.fields, features=features, mlp=False, seed=seed
        )
        for part, groups in scores.blocks.items():
            for group, score in groups.groups.items():
                found[f"{title} {part}: {group} R2"] = score.ridge.r2.value
        onto = transfer(
            z[:, block],
            known,
            clips,
            onto_z=encode(subject, robot)[:, block],
            onto_changes=labels(robot),
            onto_clips=pair_clips(robot),
            fields=test.fields,
            seed=seed,
        )
        for group, score in onto.items():
            found[f"{title} onto the robot: {group} R2"] = score.r2.value
        for count, spread in label_curve(z[:, block], known["hand"], clips, counts=COUNTS, seed=seed).items():
            found[f"{title} error with {count} labels"] = spread.median
        for earlier in sorted((runs[name] / "checkpoints").glob("step-*")):
            young = LamSubject(load_lam(earlier).model)
            found[f"{title}: hand R2 at {earlier.name}"] = _hand_r2(encode(young, test)[:, block], test, seed=seed)
        if name != "ceiling":
            found |= _without_labels(title, subject, test, seed=seed)
    return found


def _hand_r2(z: np.ndarray, data: EvaluationSet, *, seed: int) -> float:
    hand, clips = labels(data)["hand"], pair_clips(data)
    return r2_interval(cross_validated(z, hand, clips, seed=seed), hand, clips).value


def _supervised(*, seed: int) -> dict[str, float]:
    """Error of a network that learns the hand from as many labels and the frames alone."""
    test = _demo("test", SIZE)
    found = pairs(test.sequences)
    curve = supervised_curve(
        found.first, found.second, labels(test)["hand"], pair_clips(test), counts=COUNTS, seed=seed
    )
    return {f"supervised error with {count} labels": spread.median for count, spread in curve.items()}


def _without_labels(title: str, subject: LamSubject, test: EvaluationSet, *, seed: int) -> dict[str, float]:
    measured, found = label_free(subject, test.sequences, seed=seed, pairs=LABEL_FREE_PAIRS), {}
    for part, metrics in measured.code.items():
        for name, value in (("zero response", metrics.zero_response), ("shift response", metrics.shift_response)):
            if value:
                found[f"{title} {part}: {name}"] = value.value
        if metrics.clip_leak:
            found[f"{title} {part}: clip leak, times chance"] = metrics.clip_leak.ratio.value
    if measured.decoder:
        found |= {f"{title}: PSNR {name}": value.value for name, value in measured.decoder.psnr.items()}
    return found


def _demo(split: str, size: tuple[int, int]) -> EvaluationSet:
    return _open(demo_set_path() / "human" / split, size)


def _open(folder: Path, size: tuple[int, int]) -> EvaluationSet:
    return open_evaluation_set(folder, size=size, gap_seconds=0.1, limit=ALL_FRAMES)


def _utilisation(run: Path, *, seed: int, steps: int) -> dict[str, float]:
    """What the decoder makes of the latent action, over what it makes of the true factors.

    Each is the rise of the squared error when the action (not the camera) comes from another pair.
    """
    loaded = load_lam(run)
    assert isinstance(loaded.model, LatentActionModel)
    training, test = _demo("train", SIZE), _demo("test", SIZE)
    known, tested = _factors(training), _factors(test)
    mean, deviation = known.mean(0), known.std(0)
    oracle = _train_oracle(loaded.config, training, (known - mean) / deviation, seed=seed, steps=steps)
    dims = loaded.config.model.latent_dim
    true = F.pad((tested - mean) / deviation, (0, dims - tested.shape[1]))
    ours = _rise(loaded.model, test, lambda frames, _: loaded.model.encode(frames).mean)
    best = _rise(oracle, test, lambda _, rows: true[rows])
    return {"utilisation of the oracle's": ours / best}


def _factors(data: EvaluationSet) -> Tensor:
    return torch.from_numpy(np.concatenate(list(labels(data).values()), axis=1).astype(np.float32))


def _train_oracle(config: LamConfig, data: EvaluationSet, known: Tensor, *, seed: int, steps: int) -> LatentActionModel:
    """The decoder, trained as in `tiny` but on the true factors (P, d) of each pair."""
    torch.manual_seed(seed)
    model = LatentActionModel(config.model)
    known = F.pad(known, (0, config.model.latent_dim - known.shape[1]))
    found = pairs(data.sequences)
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=config.training.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.training.learning_rate, steps, pct_start=0.1)
    for _ in range(steps):
        rows = torch.randint(len(known), (config.training.batch_size,))
        batch = PairBatch(_frames(found.first[rows], found.second[rows]), ())
        pair = model.stabilise(batch.frames)
        prediction, flow, _ = model.decoder(pair.first, known[rows])
        posterior = Posterior(known[rows], torch.zeros_like(known[rows]), pair.camera)
        output = MotionOutput(posterior, posterior.code, prediction, pair, flow, None, None)
        optimizer.zero_grad()
        motion_error(output, batch, config.loss, None)[0].backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def _rise(model: LatentActionModel, data: EvaluationSet, action: Callable[[Tensor, Tensor], Tensor]) -> float:
    found = pairs(data.sequences)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(found.first)))
    rise, count = 0.0, 0
    for rows in order.split(BATCH):
        frames = _frames(found.first[rows], found.second[rows])
        camera, own = model.stabilise(frames).camera, action(frames, rows)
        errors = []
        for given in (own, own.roll(len(rows) // 2, 0)):
            guess = model.decode(frames[:, 0], torch.cat((given, camera), dim=-1))
            errors.append(((guess - frames[:, 1]) / 2).square().sum().item())
        rise, count = rise + errors[1] - errors[0], count + len(rows)
    return rise / count


def _frames(first: np.ndarray, second: np.ndarray) -> Tensor:
    return pair_batch(torch.from_numpy(np.stack((first, second), axis=1)), [""] * len(first)).frames


if __name__ == "__main__":
    tyro.cli(study)
