"""The card on models whose quality is known: each number must be able to be good, and to be bad."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common.metrics import PSNR_CEILING
from lam.evaluate import evaluate_pairs, exchange, frame_psnr, reconstruction_sheet
from lam.interface import Posterior
from lam.loss import PairBatch
from lam.model import LatentActionModel
from lam.presets import LamModelConfig

SIDE, STEPS = 16, 5
SHIFTS = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])


def world(*, clips: int = 4, lag: int = 0) -> list[PairBatch]:
    """Noise that each clip shifts by a pixel a frame in its own direction; lag=1 skips a frame in each pair."""
    generator = torch.Generator().manual_seed(0)
    frames, names = [], []
    for clip in range(clips):
        still = torch.rand(3, SIDE, SIDE, generator=generator) * 2 - 1
        film = [
            still.roll(tuple(t * SHIFTS[clip % 4].tolist()[axis] for axis in (0, 1)), dims=(1, 2))
            for t in range(STEPS + 2)
        ]
        for t in range(STEPS):
            frames.append(torch.stack((film[t], film[t + 1 + lag])))
            names.append(f"clip{clip}")
    order = torch.randperm(len(frames), generator=generator).tolist()
    batches = [order[i : i + 8] for i in range(0, len(order), 8)]
    return [
        PairBatch(frames=torch.stack([frames[i] for i in batch]), names=tuple(names[i] for i in batch))
        for batch in batches
    ]


class Control(nn.Module):
    """A model with a known answer; the log-variance 0 makes the nats half the squared length of the mean."""

    def posterior(self, mean: Tensor) -> Posterior:
        return Posterior(mean=mean, log_variance=torch.zeros_like(mean), camera=mean[:, :0])


class Copier(Control):
    """Encodes something, but paints the first frame whatever it is told."""

    def encode(self, frames: Tensor) -> Posterior:
        return self.posterior((frames[:, 1] - frames[:, 0]).flatten(1)[:, :6])

    def decode(self, first_frame: Tensor, latent_action: Tensor) -> Tensor:
        return first_frame


class Blur(Copier):
    """Ignores the latent action and paints something that is not the first frame."""

    def decode(self, first_frame: Tensor, latent_action: Tensor) -> Tensor:
        return first_frame * 0.5


class Oracle(Control):
    """Finds the one-pixel shift and applies it; "no change" is the zero action."""

    def encode(self, frames: Tensor) -> Posterior:
        first, second = frames.unbind(1)
        errors = [
            (self.shifted(first, shift) - second).square().flatten(1).mean(1) for shift in [SHIFTS[0] * 0, *SHIFTS]
        ]
        best = torch.stack(errors).argmin(0)
        return self.posterior(torch.cat((torch.zeros(1, 2), SHIFTS.float()))[best])

    def decode(self, first_frame: Tensor, latent_action: Tensor) -> Tensor:
        return torch.stack(
            [self.shifted(f[None], a.round().long())[0] for f, a in zip(first_frame, latent_action, strict=True)]
        )

    def shifted(self, frame: Tensor, shift: Tensor) -> Tensor:
        return frame.roll(tuple(shift.tolist()), dims=(2, 3))


class Leak(Control):
    """Stores the second frame in the latent action."""

    def encode(self, frames: Tensor) -> Posterior:
        return self.posterior(frames[:, 1].flatten(1))

    def decode(self, first_frame: Tensor, latent_action: Tensor) -> Tensor:
        return latent_action.reshape(first_frame.shape)


def test_an_oracle_gets_a_perfect_card():
    card = evaluate_pairs(Oracle(), world())
    assert card.pairs == 4 * STEPS
    assert card.psnr.own == PSNR_CEILING
    assert card.psnr.copy == card.psnr.zero < 10
    assert card.psnr.shuffled < 10
    assert card.shuffled_across_clips == 1.0
    assert card.zero_response == 0.0
    assert card.effective_rank == pytest.approx(2.0)
    assert (card.latent_dim, card.nats) == (2, 0.5)


def test_a_copier_scores_what_copying_scores():
    psnr = evaluate_pairs(Copier(), world()).psnr
    assert psnr.own == psnr.shuffled == psnr.zero == psnr.copy


def test_a_model_that_ignores_its_latent_action_shows_it():
    psnr = evaluate_pairs(Blur(), world()).psnr
    assert psnr.own == psnr.shuffled == psnr.zero
    assert psnr.own != psnr.copy


def test_a_leak_reconstructs_perfectly_but_its_zero_response_and_nats_give_it_away():
    card = evaluate_pairs(Leak(), world())
    assert card.psnr.own == PSNR_CEILING
    assert card.psnr.shuffled < 10
    assert card.zero_response == pytest.approx(1.0, abs=0.1)
    assert card.nats > 100
    assert card.effective_rank > 10


def test_frames_that_slip_by_one_cost_the_oracle_its_score():
    assert evaluate_pairs(Oracle(), world(lag=1)).psnr.own < 15


def test_swapped_frames_cost_the_leak_its_score():
    swapped = [dataclasses.replace(batch, frames=batch.frames.flip(1)) for batch in world()]

    class DecodesBackwards(Leak):
        def encode(self, frames: Tensor) -> Posterior:
            return self.posterior(frames[:, 0].flatten(1))

    assert evaluate_pairs(Leak(), swapped).psnr.own == PSNR_CEILING
    assert evaluate_pairs(DecodesBackwards(), swapped).psnr.own < 10


def test_psnr_is_averaged_in_decibels_over_pairs_of_unequal_batches():
    frames = torch.zeros(3, 2, 3, 4, 4)
    frames[:, 1] = 2 * torch.tensor([0.1, 0.01, 0.001]).view(3, 1, 1, 1)  # 20, 40 and 60 dB
    batches = [PairBatch(frames[:2], ("a", "b")), PairBatch(frames[2:], ("c",))]
    assert evaluate_pairs(Copier(), batches).psnr.copy == pytest.approx(40.0, abs=1e-3)


def test_a_guess_outside_the_range_is_judged_as_it_would_be_shown():
    white = torch.ones(1, 3, 2, 2)
    assert frame_psnr(white * 1.5, white).item() == PSNR_CEILING


@pytest.mark.parametrize(
    ("names", "across"),
    [(["a", "b"] * 5, 1.0), (["a"] * 5 + ["b"] * 3 + ["c"] * 2, 1.0), (["a"] * 8 + ["b"] * 2, 0.4), (["a"] * 7, 0.0)],
)
def test_exchange_leaves_nobody_his_own_and_crosses_clips_where_it_can(names: list[str], across: float):
    donors = exchange(names).tolist()
    assert sorted(donors) == list(range(len(names)))
    assert all(donor != index for index, donor in enumerate(donors))
    assert sum(names[i] != names[j] for i, j in enumerate(donors)) / len(names) == across


def test_the_means_are_used_in_evaluation_mode_and_the_mode_comes_back():
    torch.manual_seed(0)
    model = LatentActionModel(SMALL).train()
    first, second = evaluate_pairs(model, world()), evaluate_pairs(model, world())
    assert first == second
    assert model.training


SMALL = LamModelConfig(
    height=SIDE, width=SIDE, patch=8, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1, latent_dim=3
)


def test_the_card_is_json_and_refuses_a_number_that_is_none():
    card = evaluate_pairs(Oracle(), world())
    assert json.loads(card.to_json())["psnr"]["own"] == PSNR_CEILING
    with pytest.raises(ValueError, match="nan"):
        dataclasses.replace(card, nats=math.nan).to_json()


def test_batches_that_cannot_be_exchanged_are_refused():
    with pytest.raises(ValueError, match="gone through twice"):
        evaluate_pairs(Oracle(), iter(world()))
    with pytest.raises(ValueError, match="at least 2 pairs, not 1"):
        evaluate_pairs(Oracle(), [PairBatch(world()[0].frames[:1], ("a",))])


def test_the_sheet_shows_the_frames_in_their_rows(tmp_path: Path):
    path = tmp_path / "sheet.png"
    batch = PairBatch(torch.zeros(3, 2, 3, 96, 96), ("a", "b", "c"))
    batch.frames[:, 0], batch.frames[:, 1] = -1.0, 0.0  # black, then grey
    reconstruction_sheet(Leak(), batch, path, columns=2)
    sheet = np.asarray(Image.open(path).convert("RGB"))
    assert sheet.shape == (6 * 98, 110 + 2 * 98, 3)
    middles = [tuple(sheet[row * 98 + 48, 110 + 98 + 48].tolist()) for row in range(6)]
    # first, next, own, another's (the same grey), zero action (grey: pixel value 0), no difference (black)
    assert middles == [(v, v, v) for v in (0, 128, 128, 128, 128, 0)]
    assert sheet[:98, :100].min() < 100  # the label is written
