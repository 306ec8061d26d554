"""Learned judges of pictures and films, LPIPS and FVD: TorchScript modules whose weights the user names.

LPIPS (arXiv 1801.03924) is called with two (B, 3, H, W) in [-1, 1] and gives one distance per pair. The detector of FVD
(arXiv 1812.01717), published as `i3d_torchscript.pt`, is called with (B, 3, T, 224, 224) in [-1, 1] and `rescale=False,
resize=False, return_features=True` and gives one row of features per film.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import BadData, UserError

DETECTOR_SIZE = 224
AT_ONCE = 64


@dataclass(frozen=True)
class Scorers:
    """The judges that were named; None where one was not."""

    lpips: Any = None
    fvd: Any = None

    @classmethod
    def open(cls, *, lpips: Path | None, fvd: Path | None, device: torch.device | str) -> "Scorers":
        """UserError if a file is not there, BadData if it is no TorchScript module."""
        return cls(*(None if path is None else _open(path, device) for path in (lpips, fvd)))

    @torch.no_grad()
    def distance(self, films: Tensor, truth: Tensor) -> Tensor:
        """LPIPS of each frame of films (B, T, 3, H, W) in [-1, 1]: (B, T). BadData if the module answers otherwise."""
        pairs = zip(films.flatten(0, 1).split(AT_ONCE), truth.flatten(0, 1).split(AT_ONCE), strict=True)
        found = [(self.lpips(*pair), len(pair[0])) for pair in pairs]
        for distances, count in found:
            if not isinstance(distances, Tensor) or distances.numel() != count:
                raise BadData(f"the LPIPS module does not give one distance for each of {count} pairs of pictures")
        return torch.cat([distances.flatten() for distances, _ in found]).float().unflatten(0, films.shape[:2])

    @torch.no_grad()
    def features(self, films: Tensor) -> Tensor:
        """FVD's features of films (B, T, 3, H, W) in [-1, 1]: (B, D). BadData if the module answers otherwise."""
        size = (DETECTOR_SIZE, DETECTOR_SIZE)
        large = F.interpolate(films.flatten(0, 1), size=size, mode="bilinear", align_corners=False, antialias=True)
        large = large.unflatten(0, films.shape[:2]).movedim(2, 1)  # (B, 3, T, 224, 224)
        found = self.fvd(large, rescale=False, resize=False, return_features=True)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(films):
            raise BadData(f"the FVD module does not give one row of features for each of {len(films)} films")
        return found.float()


def _open(path: Path, device: torch.device | str) -> Any:
    if not path.is_file():
        raise UserError(f"{path} is not a file", hint="--lpips and --fvd name TorchScript files.")
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise BadData(f"{path} is no TorchScript module: {str(error).strip().splitlines()[0]}") from error
