"""A stage small enough to train in a second: noisy linear regression whose data and noise depend on step and rank.

Run as a program it trains in its own process, for tests of signals, kills and several processes.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import TrainingConfig, from_dict, to_dict
from common.errors import UserError
from common.training import DataPosition, Stage, fit


@dataclass(frozen=True)
class ToyBatch:
    x: Tensor
    y: Tensor
    names: tuple[str, ...]

    def to(self, device: torch.device) -> "ToyBatch":
        return ToyBatch(self.x.to(device), self.y.to(device), self.names)


def batches(position: DataPosition, *, poison: tuple[int, ...] = (), delay: float = 0.0) -> Iterator[ToyBatch]:
    number = position.first_batch
    torch.randn(3)  # as a DataLoader does when it starts; must not reach the training noise
    while True:
        generator = torch.Generator().manual_seed(number * position.world_size + position.rank)
        x = torch.randn(position.batch_size, 8, generator=generator)
        y = x.sum(-1, keepdim=True)
        if number in poison:
            x = x / 0
        time.sleep(delay)
        yield ToyBatch(x, y, (f"clip-{number}",))
        number += 1


def loss(model: nn.Module, batch: ToyBatch) -> tuple[Tensor, dict[str, Tensor]]:
    error = (model(batch.x) - batch.y).square().mean()
    return error, {"error": error.detach()}


def stage(training: TrainingConfig, **options: Any) -> Stage:
    torch.manual_seed(training.seed)
    # Dropout, so that a wrong random state after resuming shows in the weights.
    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.GELU(), nn.Linear(32, 1))
    return Stage(
        name="toy",
        model=model,
        loss=loss,
        batches=lambda position: batches(position, **options),
        evaluate=lambda network, step: {"norm": float(sum(p.norm() for p in network.parameters()))},
        config={"training": to_dict(training)},
        checkpoint_config={"stage": "toy"},
        card=lambda step, numbers: f"toy at step {step}: {json.dumps(numbers)}\n",
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("training", type=json.loads)
    parser.add_argument("--delay", type=float, default=0.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    training = from_dict(TrainingConfig, options.training)
    try:
        fit(stage(training, delay=options.delay), training, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
