"""Muon: steps of equal size in every direction for matrices, AdamW for the rest, in one optimizer.

A matrix's momentum gives way to the nearest orthogonal one (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon)
and scaled to the size that AdamW's steps have (arXiv 2502.16982, section 2.2), so that one learning rate serves both.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that pulls singular values towards 1: those of the reference implementation."""
_ITERATIONS = 5
_SIZE = 0.2
"""Root mean square of a step over the learning rate: about that of AdamW."""


class Muon(torch.optim.Optimizer):
    """Muon for parameters that are matrices (see `as_matrix`), AdamW for all others.

    Momentum is Nesterov's. In FSDP2 each matrix is gathered for its step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step for every parameter that has a gradient. A closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    advance = _orthogonal_step if is_matrix(parameter) else _adam_step
                    advance(parameter, self.state[parameter], group)


def is_matrix(parameter: Tensor) -> bool:
    """Whether it maps several inputs to several outputs: linear layers and convolutions, not norms and biases."""
    return parameter.ndim > 1 and min(parameter.shape[0], parameter.shape[1:].numel()) > 1


def orthogonalised(matrix: Tensor) -> Tensor:
    """(rows, columns) -> U V^T of its singular value decomposition U S V^T, about: singular values within 0.7 to 1.2.

    Newton and Schulz's iteration, which needs products of matrices only. Zero stays zero.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def _orthogonal_step(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(parameter)
    gradient, momentum = parameter.grad, group["momentum"]
    assert gradient is not None
    state["momentum"].mul_(momentum).add_(gradient)
    ahead = gradient.add(state["momentum"], alpha=momentum)
    whole = ahead.full_tensor() if isinstance(ahead, DTensor) else ahead
    matrix = whole.flatten(1)
    step = orthogonalised(matrix.float()).view_as(whole).to(whole.dtype)
    if isinstance(ahead, DTensor):
        step = distribute_tensor(step, ahead.device_mesh, ahead.placements)
    parameter.add_(step, alpha=-group["lr"] * _SIZE * max(matrix.shape) ** 0.5)


def _adam_step(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """AdamW without its decay (arXiv 1711.05101, algorithm 2)."""
    if not state:
        state |= {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter), "steps": torch.zeros(())}
    gradient, (keep_mean, keep_square) = parameter.grad, group["betas"]
    assert gradient is not None
    state["steps"] += 1
    state["mean"].lerp_(gradient, 1 - keep_mean)
    state["square"].lerp_(gradient.square(), 1 - keep_square)
    steps = state["steps"].item()
    size = (state["square"] / (1 - keep_square**steps)).sqrt() + group["eps"]
    parameter.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - keep_mean**steps))
