"""The few numbers that training follows on held-out pairs, and a sheet of predictions. The whole card: `lam.card`.

PSNR alone says little: copying the first frame scores well on slow video. So the same decoder is also run with another
clip's latent action and with none, and the latent action itself is measured.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.metrics import effective_rank, psnr
from common.sheets import write_sheet
from lam.interface import PairModel
from lam.loss import PairBatch, kl_nats


@dataclass(frozen=True)
class PairPsnr:
    """Mean over pairs of the PSNR in dB between the second frame and a guess at it (pixels in [0, 1])."""

    own: float
    """Decoded with the pair's own code (the posterior mean, and the camera)."""
    shuffled: float
    """Decoded with the latent action of another pair, from another clip where possible."""
    zero: float
    """Decoded with a latent action of zeros."""
    copy: float
    """The first frame itself, without any model."""


@dataclass(frozen=True)
class Validation:
    """The measured quality of a latent action model on one set of pairs."""

    pairs: int
    psnr: PairPsnr
    shuffled_across_clips: float
    """Share of the pairs whose exchanged latent action came from another clip."""
    zero_response: float
    """Median |mu(o, o)| over root mean square |mu(o, o')|: 0 when nothing happening reads as nothing; 1 is bad."""
    effective_rank: float
    """Directions that the mean latent actions use, of `latent_dim`."""
    latent_dim: int
    nats: float
    """Mean KL from the standard normal per pair: an upper bound on what a latent action tells."""

    def to_json(self) -> str:
        """One JSON object. ValueError if a number is not finite."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    def numbers(self) -> dict[str, float]:
        """What to follow during training, flat."""
        scores = {f"psnr_{name}": value for name, value in asdict(self.psnr).items()}
        return scores | {"zero_response": self.zero_response, "effective_rank": self.effective_rank, "nats": self.nats}


@torch.no_grad()
def evaluate_pairs(model: PairModel, batches: Iterable[PairBatch]) -> Validation:
    """Measure the model, in evaluation mode, on pairs that were not trained on.

    `batches` is gone through twice, in the same order (latent actions first, then exchanged ones), and must be on the
    model's device. ValueError if it can be gone through only once, or holds fewer than two pairs.
    """
    if iter(batches) is batches:
        raise ValueError("batches is gone through twice: give a list, or an object whose __iter__ starts anew")
    was_training = model.training
    model.train(False)
    means, codes, still_norms, nats, names = [], [], [], [], []
    own, zero, copy = [], [], []
    for batch in batches:
        first, second = batch.frames.unbind(1)
        posterior = model.encode(batch.frames)
        still = model.encode(torch.stack((first, first), dim=1))
        means.append(posterior.mean)
        codes.append(posterior.code)
        still_norms.append(still.mean.norm(dim=-1))
        nats.append(kl_nats(posterior))
        names.extend(batch.names)
        own.append(frame_psnr(model.decode(first, posterior.code), second))
        zero.append(frame_psnr(model.decode(first, torch.zeros_like(posterior.code)), second))
        copy.append(frame_psnr(first, second))
    if len(names) < 2:
        raise ValueError(f"exchanging latent actions takes at least 2 pairs, not {len(names)}")

    mean, code = torch.cat(means), torch.cat(codes)  # (pairs, D), (pairs, D + K)
    donors = exchange(names)
    shuffled = []
    for batch, donor in zip(batches, donors.split([len(m) for m in means]), strict=True):
        first, second = batch.frames.unbind(1)
        shuffled.append(frame_psnr(model.decode(first, code[donor.to(code.device)]), second))
    model.train(was_training)
    return Validation(
        pairs=len(names),
        psnr=PairPsnr(own=_mean(own), shuffled=_mean(shuffled), zero=_mean(zero), copy=_mean(copy)),
        shuffled_across_clips=sum(names[i] != names[j] for i, j in enumerate(donors.tolist())) / len(names),
        zero_response=(torch.cat(still_norms).median() / mean.norm(dim=-1).square().mean().sqrt()).item(),
        effective_rank=effective_rank(mean),
        latent_dim=mean.shape[1],
        nats=_mean(nats),
    )


def exchange(names: Sequence[str]) -> Tensor:
    """For each pair the index of the pair whose latent action it gets: a permutation without fixed points.

    Sorted by clip and shifted by the largest clip's number of pairs, so that nobody gets one from its own clip unless
    a single clip holds more than half of the pairs.
    """
    order = torch.tensor(sorted(range(len(names)), key=lambda index: names[index]))
    largest = max(Counter(names).values())
    shift = largest if 2 * largest <= len(names) else len(names) // 2
    donors = torch.empty_like(order)
    donors[order] = order.roll(-shift)
    return donors


def frame_psnr(guess: Tensor, frame: Tensor) -> Tensor:
    """PSNR in dB of each picture; both (B, 3, H, W) in [-1, 1], the guess clamped to it as it would be shown."""
    return psnr((guess.clamp(-1, 1) + 1) / 2, (frame + 1) / 2)


def _mean(parts: list[Tensor]) -> float:
    return torch.cat(parts).double().mean().item()


@torch.no_grad()
def reconstruction_sheet(model: PairModel, batch: PairBatch, path: Path, *, columns: int = 8) -> None:
    """Write a PNG: a column per pair; labelled rows with the frames, the guesses, and the own guess's error times 4.

    columns: at most so many of the batch's pairs. ValueError if that leaves fewer than 2. The PSNR in a label is the
    mean over the row.
    """
    was_training = model.training
    model.train(False)
    frames = batch.frames[:columns]
    first, second = frames.unbind(1)
    if len(first) < 2:
        raise ValueError(f"exchanging latent actions takes at least 2 pairs, not {len(first)}")
    code = model.encode(frames).code
    own = model.decode(first, code)
    guesses = {
        "own action": own,
        "other's action": model.decode(first, code[exchange(batch.names[:columns]).to(code.device)]),
        "zero action": model.decode(first, torch.zeros_like(code)),
    }
    model.train(was_training)
    rows = {f"first frame\n{frame_psnr(first, second).mean():.1f} dB": first, "next frame": second}
    rows |= {f"{name}\n{frame_psnr(guess, second).mean():.1f} dB": guess for name, guess in guesses.items()}
    rows["|own - next| x 4"] = (own - second).abs() * 4 - 1
    write_sheet(list(rows.items()), path)
