"""What a latent action model is compared with: baselines without a learned idea of an action, and two cheats, on which
`controls` tests the label-free numbers themselves.

Each is a `lam.subjects.Subject`. Axes: P pairs, H rows, W columns, D values of a latent action.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.camera import estimate, move
from common.errors import BadData
from common.flow import local_flow
from common.intervals import Interval
from lam.checkpoint import build
from lam.label_free import CodeMetrics, DecoderMetrics, choose, label_free
from lam.presets import LamModelConfig
from lam.sequences import Sequence as FrameSequence
from lam.subjects import LamSubject

BATCH = 32
THUMBNAIL = 32  # side of the pictures that the frame difference PCA looks at
LEAK = 8  # side of the picture that the leaky code keeps
FLOW_ROWS = 32  # rows of the picture at which flow is computed
FLOW_GRID = 8  # cells per side that flow is averaged over


class _Plain:
    """What every baseline without a network shares."""

    name: str
    decodes = False

    def __init__(self, *, size: tuple[int, int], dims: int) -> None:
        self.size = size
        self.blocks = {"z": slice(0, dims)}

    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        raise AssertionError(f"{self.name} does not decode")

    def nats(self, first: np.ndarray, second: np.ndarray) -> None:
        return None


class Zeros(_Plain):
    """Tells nothing: what a probe reaches from this is its own floor."""

    name = "zeros"

    def __init__(self, *, size: tuple[int, int], dims: int = 32) -> None:
        super().__init__(size=size, dims=dims)

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.zeros((len(first), self.blocks["z"].stop), dtype=np.float32)


def random_encoder(config: LamModelConfig, *, seed: int) -> LamSubject:
    """The untrained model of this config: what its architecture alone gives. Its decoder is not used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config)
    return LamSubject(model, name="random encoder", decodes=False)


class DifferencePca(_Plain):
    """Principal components of the frame difference, in colour at 32x32: the optimum of a linear latent action model
    (arXiv 2506.15691). Its decoder adds the difference back onto the first frame.

    The differences are not centred, so two equal frames give exactly zero and reversed ones the negative.
    """

    name = "frame difference PCA"
    decodes = True

    def __init__(self, components: Tensor, *, size: tuple[int, int]) -> None:
        """components: (D, 3 * 32 * 32) with orthonormal rows; see `fit`."""
        super().__init__(size=size, dims=len(components))
        self.components = components

    @classmethod
    def fit(cls, first: np.ndarray, second: np.ndarray, *, dims: int = 32) -> "DifferencePca":
        """Fit on pairs, of which no label is needed; uses fewer components where there are fewer pairs."""
        differences = torch.cat([_difference(first[part], second[part]) for part in _parts(len(first))])
        if not differences.any():
            raise BadData("no frame differs from the one before it: nothing moves")
        _, _, directions = torch.linalg.svd(differences, full_matrices=False)
        return cls(directions[:dims].contiguous(), size=(first.shape[1], first.shape[2]))

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        codes = [_difference(first[part], second[part]) @ self.components.T for part in _parts(len(first))]
        return torch.cat(codes).numpy()

    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        frames = []
        for part in _parts(len(first)):
            change = (torch.from_numpy(z[part]) @ self.components).view(-1, 3, THUMBNAIL, THUMBNAIL)
            frames.append(_frames(_floats(first[part]) + _enlarged(change, self.size)))
        return np.concatenate(frames)


class PooledFlow(_Plain):
    """Optical flow (`common.flow`) averaged over an 8x8 grid: 128 values, 64 across and then 64 down, in its `UNIT`.

    It points from the second frame back to the first. Stabilised: what is left of it once the camera's motion
    (`common.camera`) is taken out, zero at places that the first frame did not show.
    """

    def __init__(self, *, size: tuple[int, int], stabilised: bool) -> None:
        super().__init__(size=size, dims=2 * FLOW_GRID**2)
        self.stabilised = stabilised
        self.name = "stabilised flow" if stabilised else "flow"

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        parts = _parts(len(first))
        return torch.cat([self._pooled(_floats(first[part]), _floats(second[part])) for part in parts]).numpy()

    def _pooled(self, first: Tensor, second: Tensor) -> Tensor:
        """(P, 3, H, W) in [-1, 1] twice -> (P, 128)."""
        height, width = self.size
        grid = (FLOW_ROWS, round(FLOW_ROWS * width / height))
        if not self.stabilised:
            flow = local_flow(first, second, grid)
        else:
            moved, seen = move(first, estimate(first, second))
            flow = local_flow(moved, second, grid) * F.interpolate(seen.float(), size=grid)
        return F.adaptive_avg_pool2d(flow, FLOW_GRID).flatten(1)


class LeakyCode(_Plain):
    """A cheat: the code is the second frame, 8x8 in colour from 0 to 1; the decoder paints it over any first frame."""

    name = "leaky code"
    decodes = True

    def __init__(self, *, size: tuple[int, int]) -> None:
        super().__init__(size=size, dims=3 * LEAK**2)

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        codes = [F.adaptive_avg_pool2d(_floats(second[part]), LEAK).flatten(1) for part in _parts(len(second))]
        return ((torch.cat(codes) + 1) / 2).numpy()

    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        codes = [2 * torch.from_numpy(z[part]).view(-1, 3, LEAK, LEAK) - 1 for part in _parts(len(z))]
        return np.concatenate([_frames(F.interpolate(code, self.size, mode="nearest-exact")) for code in codes])


class ConstantCode(_Plain):
    """A cheat: every code is ones, and the decoder repeats the first frame."""

    name = "constant code"
    decodes = True

    def __init__(self, *, size: tuple[int, int], dims: int = 32) -> None:
        super().__init__(size=size, dims=dims)

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.ones((len(first), self.blocks["z"].stop), dtype=np.float32)

    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        return first.copy()


@dataclass(frozen=True)
class ControlCheck:
    """One label-free number on the two cheats and on the frame difference PCA, which is honest. None: undefined."""

    metric: str
    leaky: float | None
    constant: float | None
    linear: float | None
    expected: str
    ok: bool


def controls(sequences: Sequence[FrameSequence], *, seed: int, pairs: int = 256) -> list[ControlCheck]:
    """Whether each number of `lam.label_free` shows on these clips what it must show of codes whose faults are known.

    A check that fails says that the number means nothing here: clips that all look alike, say, or motion too steady.
    """
    size = sequences[0].frames.shape[1], sequences[0].frames.shape[2]
    sample = choose(sequences, pairs=pairs)
    rows = range(len(sample.places))
    linear = DifferencePca.fit(sample.frames(rows, 0), sample.frames(rows, 1))
    measured = []
    for subject in (LeakyCode(size=size), ConstantCode(size=size), linear):
        card = label_free(subject, sequences, seed=seed, pairs=pairs)
        assert card.decoder is not None
        measured.append((card.code["all"], card.decoder))
    checks = []
    for metric, read, expected, holds in _CHECKS:
        numbers = [_number(read(code, decoder)) for code, decoder in measured]
        ok = bool(holds(*(math.nan if number is None else number for number in numbers)))  # NaN passes no comparison
        checks.append(ControlCheck(metric, *numbers, expected=expected, ok=ok))
    return checks


def _number(value: Interval | float | None) -> float | None:
    return value.value if isinstance(value, Interval) else value


_Read = Callable[[CodeMetrics, DecoderMetrics], Interval | float | None]
_Holds = Callable[[float, float, float], bool]
_CHECKS: tuple[tuple[str, _Read, str, _Holds], ...] = (
    (
        "shuffle_gap",
        lambda code, decoder: decoder.shuffle_gap,
        "leaky far above 0, constant 0",
        lambda leaky, constant, linear: leaky > 1 and abs(constant) < 1e-6 and linear > 0,
    ),
    (
        "utilisation",
        lambda code, decoder: decoder.utilisation["all"],
        "constant undefined (it never beats copying), linear above 0",
        lambda leaky, constant, linear: math.isnan(constant) and linear > 0,
    ),
    (
        "alpha.spearman",
        lambda code, decoder: decoder.alpha.spearman,
        "constant 0, the others near 1",
        lambda leaky, constant, linear: min(leaky, linear) > 0.8 and constant == 0,
    ),
    (
        "scene_cut",
        lambda code, decoder: decoder.scene_cut,
        "leaky 1, constant far above",
        lambda leaky, constant, linear: 0.8 < leaky < 1.25 and constant > 1.5 * leaky,
    ),
    (
        "cycle",
        lambda code, decoder: decoder.cycle,
        "both cheats near 1: read it beside the others",
        lambda leaky, constant, linear: 0.9 < leaky < 1.1 and 0.9 < constant < 1.1,
    ),
    (
        "imagination_gap",
        lambda code, decoder: decoder.imagination_gap,
        "leaky 0, constant -1, linear above constant",
        lambda leaky, constant, linear: abs(leaky) < 0.1 and constant < -0.9 and linear > -0.9,
    ),
    (
        "zero_response",
        lambda code, decoder: code.zero_response,
        "both cheats near 1, linear 0",
        lambda leaky, constant, linear: min(leaky, constant) > 0.5 and linear < 0.01,
    ),
    (
        "shift_response",
        lambda code, decoder: code.shift_response,
        "both cheats near 1, linear above 0 (a shift is a difference)",
        lambda leaky, constant, linear: min(leaky, constant) > 0.5 and linear > 0.01,
    ),
    (
        "pcfc",
        lambda code, decoder: code.pcfc,
        "both cheats near 1, linear below",
        lambda leaky, constant, linear: min(leaky, constant) > 0.9 and linear < leaky,
    ),
    (
        "additivity",
        lambda code, decoder: code.additivity,
        "both cheats near 1, linear 0",
        lambda leaky, constant, linear: min(leaky, constant) > 0.5 and linear < 0.01,
    ),
    (
        "reversibility",
        lambda code, decoder: code.reversibility,
        "both cheats near 4, linear 0",
        lambda leaky, constant, linear: min(leaky, constant) > 2 and linear < 0.01,
    ),
    (
        "clip_leak.ratio",
        lambda code, decoder: code.clip_leak and code.clip_leak.ratio,
        "leaky far above 1, constant 1",
        lambda leaky, constant, linear: leaky > 1.5 and abs(constant - 1) < 0.01,
    ),
    (
        "effective_rank",
        lambda code, decoder: code.effective_rank,
        "constant 0, the others above 1",
        lambda leaky, constant, linear: constant == 0 and min(leaky, linear) > 1,
    ),
)


def _difference(first: np.ndarray, second: np.ndarray) -> Tensor:
    """uint8 frames (P, H, W, 3) twice -> (P, 3 * 32 * 32), in half of the range from black to white."""
    return F.adaptive_avg_pool2d(_floats(second) - _floats(first), THUMBNAIL).flatten(1)


def _enlarged(change: Tensor, size: tuple[int, int]) -> Tensor:
    return change if size == change.shape[-2:] else F.interpolate(change, size, mode="bilinear")


def _floats(frames: np.ndarray) -> Tensor:
    """uint8 (P, H, W, 3) -> (P, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _frames(pictures: Tensor) -> np.ndarray:
    """(P, 3, H, W) in [-1, 1] -> uint8 (P, H, W, 3)."""
    return pictures.clamp(-1, 1).add_(1).mul_(127.5).round_().byte().permute(0, 2, 3, 1).numpy()


def _parts(rows: int) -> list[slice]:
    return [slice(start, start + BATCH) for start in range(0, rows, BATCH)]
