"""The straight path between latents and noise, and which places on it training visits (arXiv 2210.02747, 2403.03206).

x_t = (1 - t) x_0 + t eps, with the velocity v = eps - x_0: t = 0 is clean, t = 1 is noise.

Axes: B samples, T latent frames, C channels, h x w latent pixels.
"""

import torch
from torch import Tensor

LEAST_TIME = 0.05


def at_level(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """x_t for clean and noise (B, C, T, h, w) and times (B, T)."""
    t = times[:, None, :, None, None]
    return (1 - t) * clean + t * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """dx_t / dt, the same at every t."""
    return noise - clean


def flow_to(clean: Tensor, noised: Tensor, times: Tensor) -> Tensor:
    """The flow at x_t that comes from `clean`: (x_t - x_0) / t, for both (B, C, T, h, w) and times (B, T).

    t counts as 0.05 at least, as the error of a prediction grows by 1 / t (arXiv 2511.13720).
    """
    return (noised - clean) / times[:, None, :, None, None].clamp(min=LEAST_TIME)


def clean_from(noised: Tensor, flow: Tensor, times: Tensor) -> Tensor:
    """x_0 where the line through x_t along the flow ends: x_t - t v, for both (B, C, T, h, w) and times (B, T)."""
    return noised - times[:, None, :, None, None] * flow


def shifted(times: Tensor, shift: float) -> Tensor:
    """Times in [0, 1] moved towards noise, as larger pictures need (arXiv 2403.03206, eq. 23). 1 moves nothing."""
    return shift * times / (1 + (shift - 1) * times)


def logit_normal_times(shape: tuple[int, ...], *, shift: float, device: torch.device) -> Tensor:
    """Random times: the logistic function of standard normal numbers, shifted (arXiv 2403.03206, section 3.1)."""
    return shifted(torch.randn(shape, device=device).sigmoid(), shift)


def sampling_times(steps: int, *, shift: float, device: torch.device) -> Tensor:
    """steps + 1 times from 1 (noise) to 0 (clean), spaced evenly and then shifted."""
    return shifted(torch.linspace(1, 0, steps + 1, device=device), shift)
