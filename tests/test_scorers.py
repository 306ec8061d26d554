"""LPIPS and FVD by small scripted modules that are called as the published ones are."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import BadData, UserError
from video_model.scorers import Scorers


class Distance(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().mean((1, 2, 3), keepdim=True)


class OneForAll(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().mean()


class Detector(nn.Module):
    """Refuses what it must not be given; its features are the films' mean colours and their change over time."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert not rescale and not resize and return_features and x.shape[1] == 3
        assert x.shape[3] == 224 and x.shape[4] == 224
        return torch.cat((x.mean((2, 3, 4)), (x[:, :, -1] - x[:, :, 0]).mean((2, 3))), dim=1)


def script(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


def test_lpips_is_per_frame(tmp_path: Path) -> None:
    scorers = Scorers.open(lpips=script(Distance(), tmp_path / "lpips.pt"), fvd=None, device="cpu")
    truth = torch.zeros(2, 40, 3, 16, 16)
    offsets = torch.arange(80.0).view(2, 40) / 100
    torch.testing.assert_close(scorers.distance(truth + offsets[..., None, None, None], truth), offsets)


def test_fvd_features_are_per_film_at_the_detectors_size(tmp_path: Path) -> None:
    scorers = Scorers.open(lpips=None, fvd=script(Detector(), tmp_path / "i3d.pt"), device="cpu")
    films = torch.zeros(2, 9, 3, 16, 20)
    films[1, :, 2] = torch.linspace(0, 0.8, 9)[:, None, None]
    expected = torch.zeros(2, 6)
    expected[1, 2], expected[1, 5] = 0.4, 0.8
    torch.testing.assert_close(scorers.features(films), expected)


def test_what_is_no_scorer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a file"):
        Scorers.open(lpips=tmp_path / "nothing.pt", fvd=None, device="cpu")
    (tmp_path / "text.pt").write_text("404")
    with pytest.raises(BadData, match="TorchScript"):
        Scorers.open(lpips=tmp_path / "text.pt", fvd=None, device="cpu")
    scorers = Scorers.open(lpips=script(OneForAll(), tmp_path / "one.pt"), fvd=None, device="cpu")
    with pytest.raises(BadData, match="one distance for each"):
        scorers.distance(torch.zeros(1, 2, 3, 8, 8), torch.zeros(1, 2, 3, 8, 8))
