"""What the demo world looks like: table textures, objects, skin, sleeve, walls. Test looks never occur in training."""

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

TEXTURE_SIZE = 128
DISTRACTOR_RADIUS = 0.032  # metres
Colour = tuple[float, float, float]

SHOWN_SHAPES = ("box", "cylinder", "ball", "tower")
UNSEEN_SHAPES = ("mug", "bottle", "cross")
SHOWN_TEXTURES = ("wood", "cloth", "speckle", "checker")
UNSEEN_TEXTURES = ("tiles", "marble", "stripes")
SHOWN_OBJECT_HUES = ((0.97, 1.03), (0.12, 0.18), (0.55, 0.68))  # reds, yellows, blues
UNSEEN_OBJECT_HUES = ((0.27, 0.42), (0.75, 0.88))  # greens, purples
SHOWN_TABLE_HUES = ((0.04, 0.12), (0.52, 0.62))
UNSEEN_TABLE_HUES = ((0.20, 0.40), (0.80, 0.95))
SKIN = ((0.96, 0.78, 0.66), (0.90, 0.68, 0.53), (0.78, 0.56, 0.42), (0.60, 0.41, 0.29), (0.42, 0.28, 0.20))


@dataclass(frozen=True)
class Thing:
    """One object: it touches others as an upright cylinder of this radius and half height (metres)."""

    shape: str
    radius: float
    half_height: float
    colour: Colour
    second_colour: Colour


@dataclass(frozen=True)
class Look:
    """All that stays the same during an episode and can be seen."""

    texture: str
    table: tuple[Colour, Colour]
    texture_seed: int
    floor: Colour
    wall: Colour
    skin: Colour
    sleeve: Colour
    arm: Colour
    gripper: Colour
    distractor: Colour
    things: tuple[Thing, ...]


def draw_look(rng: np.random.Generator, *, split: Split) -> Look:
    """A random look of a split: validation looks are drawn like training looks, test looks from held-out families."""
    unseen = split == "test"
    table_hues = UNSEEN_TABLE_HUES if unseen else SHOWN_TABLE_HUES
    hue = _hue(rng, table_hues)
    saturation, value = rng.uniform(0.08, 0.55), rng.uniform(0.45, 0.85)
    light = _rgb(hue, saturation, value)
    dark = _rgb(hue + rng.uniform(-0.03, 0.03), min(1.0, saturation * 1.3), value * rng.uniform(0.55, 0.85))
    things = tuple(_draw_thing(rng, unseen=unseen) for _ in range(rng.integers(2, 5)))
    return Look(
        texture=str(rng.choice(UNSEEN_TEXTURES if unseen else SHOWN_TEXTURES)),
        table=(light, dark),
        texture_seed=int(rng.integers(2**31)),
        floor=_rgb(rng.uniform(), 0.2, rng.uniform(0.15, 0.4)),
        wall=_rgb(rng.uniform(), rng.uniform(0.0, 0.3), rng.uniform(0.35, 0.8)),
        skin=SKIN[rng.integers(len(SKIN))],
        sleeve=_rgb(rng.uniform(), rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.85)),
        arm=_rgb(0.6, 0.04, rng.uniform(0.78, 0.95)),
        gripper=_rgb(rng.uniform(), 0.1, rng.uniform(0.2, 0.5)),
        distractor=_rgb(rng.uniform(), 0.8, 0.9),
        things=things,
    )


def _draw_thing(rng: np.random.Generator, *, unseen: bool) -> Thing:
    hue = _hue(rng, UNSEEN_OBJECT_HUES if unseen else SHOWN_OBJECT_HUES)
    radius = rng.uniform(0.021, 0.031)
    shape = str(rng.choice(UNSEEN_SHAPES if unseen else SHOWN_SHAPES))
    half_height = radius if shape == "ball" else rng.uniform(0.020, 0.031)
    colour = _rgb(hue, rng.uniform(0.65, 0.95), rng.uniform(0.6, 0.95))
    return Thing(shape, radius, half_height, colour, _rgb(hue + rng.uniform(0.08, 0.12), 0.35, 0.95))


def _hue(rng: np.random.Generator, ranges: tuple[tuple[float, float], ...]) -> float:
    return rng.uniform(*ranges[rng.integers(len(ranges))])


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def table_texture(look: Look) -> np.ndarray:
    """The table top as uint8 (TEXTURE_SIZE, TEXTURE_SIZE, 3), a pure function of the look."""
    rng = np.random.default_rng(look.texture_seed)
    v, u = np.mgrid[0:TEXTURE_SIZE, 0:TEXTURE_SIZE] / TEXTURE_SIZE
    mix = _pattern(look.texture, u, v, rng)[..., None]
    colour = np.array(look.table[0]) * (1 - mix) + np.array(look.table[1]) * mix
    colour += rng.normal(0, 0.006, colour.shape)
    return np.clip(colour * 255, 0, 255).astype(np.uint8)


def _pattern(name: str, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Share of the dark table colour at each texel, 0 to 1."""
    cloud = _cloud(rng)
    if name == "wood":
        return 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(8, 14) * u + 1.4 * _stretched(cloud)))
    if name == "cloth":
        threads = int(rng.integers(12, 20))
        return 0.5 + 0.25 * (np.sign(np.sin(2 * np.pi * threads * u)) + np.sin(2 * np.pi * threads * v))
    if name == "speckle":
        return np.clip(0.3 + 0.5 * cloud + (rng.random(u.shape) < 0.05), 0, 1)
    if name == "checker":
        squares = int(rng.integers(6, 13))
        return ((np.floor(squares * u) + np.floor(squares * v)) % 2).astype(float)
    if name == "tiles":
        count = int(rng.integers(7, 12))
        grout = ((count * u) % 1 < 0.1) | ((count * v) % 1 < 0.1)
        return np.where(grout, 1.0, 0.25 * cloud)
    if name == "marble":
        return np.clip(1.2 - 3.0 * np.abs(cloud - 0.5) * (1 + cloud[::-1]), 0, 1)
    if name == "stripes":
        bands = int(rng.integers(6, 11))
        return 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * bands * (u + v)))
    raise ValueError(f"no texture named {name!r}")


def _cloud(rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in 0..1 that tiles: a few octaves of random waves, (TEXTURE_SIZE, TEXTURE_SIZE)."""
    v, u = np.mgrid[0:TEXTURE_SIZE, 0:TEXTURE_SIZE] / TEXTURE_SIZE
    total = np.zeros_like(u)
    for _ in range(12):
        waves = rng.integers(-8, 9, size=2)
        total += np.sin(2 * np.pi * (waves[0] * u + waves[1] * v + rng.uniform())) / (1 + np.abs(waves).sum())
    return (total - total.min()) / (np.ptp(total) + 1e-9)


def _stretched(cloud: np.ndarray) -> np.ndarray:
    """The cloud drawn out along v, as wood grain is."""
    rows = np.arange(TEXTURE_SIZE) // 4
    return cloud[rows]
