"""Numbers that judge pictures and vectors."""

import torch
from torch import Tensor
from torch.nn import functional as F

_SSIM_WINDOW = 11
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


def ssim(pictures: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al. 2004): a Gaussian window of 11 x 11, sigma 1.5; 1 where equal.

    Both (B, C, H, W) in [0, 1]; the mean over all places whose window lies inside the picture, and over the channels:
    (B,). ValueError for pictures smaller than the window.
    """
    if min(pictures.shape[-2:]) < _SSIM_WINDOW:
        raise ValueError(f"SSIM looks at windows of {_SSIM_WINDOW} pixels; the pictures are {tuple(pictures.shape)}")
    x, y = pictures.double(), reference.double()
    mean_x, mean_y = _gaussian_mean(x), _gaussian_mean(y)
    variance_x = _gaussian_mean(x * x) - mean_x.square()
    variance_y = _gaussian_mean(y * y) - mean_y.square()
    covariance = _gaussian_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).flatten(1).mean(1).float()


def frechet_distance(vectors: Tensor, reference: Tensor) -> float:
    """Squared Fréchet distance of the two Gaussians that fit vectors (N, D) and (M, D); both need two rows or more.

    |m - n|² + tr(S + R - 2 (S R)^(1/2)) (Dowson and Landau 1982). With S = A'A and R = B'B the last trace is the sum of
    the singular values of A B', exact also where there are fewer vectors than dimensions.
    """
    x, y = vectors.double(), reference.double()
    a, b = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (x, y))
    shared = torch.linalg.svdvals(a @ b.T).sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * shared).item()


def _gaussian_mean(pictures: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H - 10, W - 10): each place's weighted surroundings."""
    offsets = torch.arange(_SSIM_WINDOW, device=pictures.device, dtype=pictures.dtype) - _SSIM_WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * 1.5**2))
    weights = (weights / weights.sum()).expand(pictures.shape[1], 1, -1)
    across = F.conv2d(pictures, weights[:, :, None], groups=pictures.shape[1])
    return F.conv2d(across, weights[..., None], groups=pictures.shape[1])
