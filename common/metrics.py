"""Numbers that judge pictures and vectors."""

import torch
from torch import Tensor

PSNR_CEILING = 60.0
"""dB at which `psnr` stops: about what rounding to 8 bits leaves, and finite for two equal pictures."""


def psnr(pictures: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, at most `PSNR_CEILING`.

    Both (B, ...) in [0, 1] (the peak is 1); the squared error is averaged over everything but the first axis: (B,).
    """
    error = (pictures.float() - reference.float()).square().flatten(1).mean(1)
    return -10 * error.clamp_min(10 ** (-PSNR_CEILING / 10)).log10()


def effective_rank(vectors: Tensor) -> float:
    """How many directions the vectors (N, D) use, between 1 and min(N - 1, D): exp of the entropy of the normalised
    singular values of the centred matrix (Roy and Vetterli, 2007). 0 when all vectors are equal.
    """
    centred = vectors.double() - vectors.double().mean(0)
    singular_values = torch.linalg.svdvals(centred)
    total = singular_values.sum()
    if total <= 1e-9 * vectors.double().norm():
        return 0.0
    shares = singular_values / total
    return torch.special.entr(shares).sum().exp().item()
