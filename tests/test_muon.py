"""Muon: orthogonal steps, their size, what is left to AdamW, and that its state survives a checkpoint."""

from pathlib import Path

import pytest
import torch
from torch import nn

from common.config import TrainingConfig
from common.muon import Muon, is_matrix, orthogonalised
from common.training import fit
from tests import toy_stage


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4)])
def test_orthogonalised_has_the_same_directions_and_nearly_equal_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalised(matrix)
    inside = left.T @ made @ right.T  # diagonal where the directions are those of the matrix
    assert sizes.max() / sizes.min() > 1.5
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-4
    assert inside.diagonal().min() > 0.6
    assert inside.diagonal().max() < 1.3
    assert orthogonalised(torch.zeros(3, 5)).abs().max() == 0


def test_a_convolution_steps_as_the_matrix_of_its_outputs() -> None:
    torch.manual_seed(0)
    convolution, linear = nn.Conv3d(3, 6, 2, bias=False), nn.Linear(24, 6, bias=False)
    linear.weight.data = convolution.weight.data.flatten(1).clone()
    before, gradient = linear.weight.detach().clone(), torch.randn(6, 24)
    convolution.weight.grad, linear.weight.grad = gradient.view_as(convolution.weight), gradient
    for layer in (convolution, linear):
        Muon(layer.parameters(), lr=0.1, weight_decay=0.0).step()
    assert torch.equal(convolution.weight.flatten(1), linear.weight)
    step = (linear.weight - before) / 0.1
    # The size of AdamW's steps, whatever that of the gradient: 6 singular values near 1 on 6 x 24 places.
    assert step.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)
    assert (step * gradient).sum() < 0


def test_momentum_looks_ahead() -> None:
    layer = nn.Linear(5, 4, bias=False)
    optimizer = Muon(layer.parameters(), lr=0.1, weight_decay=0.01)
    torch.manual_seed(0)
    weight, momentum = layer.weight.detach().clone(), torch.zeros(4, 5)
    for _ in range(3):
        gradient = torch.randn(4, 5)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + gradient
        weight = weight * (1 - 0.1 * 0.01) - 0.1 * 0.2 * 5**0.5 * orthogonalised(gradient + 0.95 * momentum)
    torch.testing.assert_close(layer.weight.detach(), weight)


def test_what_is_no_matrix_steps_as_in_adamw() -> None:
    def run(make: type) -> list[torch.Tensor]:
        torch.manual_seed(0)
        norm = nn.LayerNorm([6, 1, 1])  # (6, 1, 1): as many numbers as rows
        options = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
        optimizer = make(norm.parameters(), lr=0.1, **options)
        for _ in range(4):
            for parameter in norm.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        return [parameter.detach() for parameter in norm.parameters()]

    assert not is_matrix(nn.LayerNorm([6, 1, 1]).weight)
    for ours, theirs in zip(run(Muon), run(torch.optim.AdamW), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_fit_with_muon_resumes_bit_for_bit(tmp_path: Path) -> None:
    def train(name: str, steps: int) -> dict[str, torch.Tensor]:
        options = {"batch_size": 8, "warmup_steps": 2, "evaluate_every": 0, "save_every": 4}
        config = TrainingConfig(steps=steps, optimizer="muon", decay="constant", **options)  # type: ignore[arg-type]
        stage = toy_stage.stage(config)
        fit(stage, config, tmp_path / name)
        return {key: value.clone() for key, value in stage.model.state_dict().items()}

    whole = train("whole", 8)
    train("parts", 4)
    parts = train("parts", 8)
    assert any(is_matrix(value) for value in whole.values())
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
