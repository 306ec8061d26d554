"""The demo world: one episode from its specification, frames and every factor behind them.

A hand (the human) or a gripper arm (the robot) works at a table seen by a head camera. `make_tracks` decides what
happens, in plain numpy; `render_episode` draws it with MuJoCo. Row t of every factor describes the instant of frame t;
for the robot, `command[t]` is what leads from frame t to frame t+1. An episode is a function of its specification
alone, and `nuisance` changes camera, light and distractor but never what the hand does.
"""

import math
from dataclasses import dataclass

import numpy as np

from scripts.demo_behaviour import FRAME_SECONDS, SKILLS, World, behave
from scripts.demo_bodies import BODIES, Body
from scripts.demo_looks import DISTRACTOR_RADIUS, SPLITS, Look, Split, draw_look
from scripts.demo_scene import draw

# Factor name -> (fields, meaning). T frames; arrays are (T, fields) unless the meaning says otherwise.
FACTORS: dict[str, tuple[tuple[str, ...], str]] = {
    "time": ((), "(T,) seconds since the first frame"),
    "tool": (("x", "y", "z", "yaw", "opening"), "point between the finger tips: metres, radians, 0 closed to 1 open"),
    "command": (("x", "y", "z", "yaw", "opening"), "tool pose asked for at the next frame, same units"),
    "skill": ((), f"(T,) index into {', '.join(SKILLS)}"),
    "held": ((), "(T,) index of the object in the hand, -1 when none"),
    "objects": (("x", "y", "z", "yaw"), "(T, objects, 4) centre of each object: metres, radians"),
    "camera": (("x", "y", "z", "yaw", "pitch", "roll"), "head camera: metres, radians; pitch is negative looking down"),
    "light": (
        ("key", "fill", "warmth", "azimuth", "elevation"),
        "brightness of lamp and fill, warmth -1 to 1, direction of the lamp in radians",
    ),
    "distractor": (("x", "y", "z"), "a ball that rolls by itself behind the work: metres"),
}

CAMERA_HOME = np.array([0.0, -0.20, 0.46, 0.0, -0.85, 0.0])
CAMERA_SPREAD = np.array([0.025, 0.02, 0.02, 0.03, 0.03, 0.02])  # between episodes, standard deviation
CAMERA_SWAY = np.array([0.010, 0.008, 0.006, 0.018, 0.014, 0.022])  # within an episode at nuisance 1
CAMERA_TURN = np.array([0.10, 0.055])  # head turns in yaw and pitch at nuisance 1, radians
CAMERA_LIMIT = np.array([0.06, 0.05, 0.05, 0.28, 0.20, 0.25])
LIGHT_HOME = np.array([0.62, 0.42, 0.0, 0.0, 1.0])
LIGHT_SPREAD = np.array([0.06, 0.05, 0.25, 0.9, 0.15])
LIGHT_DRIFT = np.array([0.16, 0.10, 0.15, 0.45, 0.10])
LIGHT_LIMIT = np.array([0.45, 0.25, 0.5, 0.8, 0.3])
LAMP_SIDE = 0.7  # the lamp's azimuth stays within LAMP_SIDE + LIGHT_LIMIT of its side: 1.5, less than a right angle
DISTRACTOR_HOME = np.array([0.0, 0.45])


@dataclass(frozen=True)
class EpisodeSpec:
    """Names one episode; everything in it follows from these values."""

    seed: int
    body: Body
    split: Split
    index: int
    frames: int = 80
    size: tuple[int, int] = (64, 64)  # height, width
    nuisance: float = 1.0  # strength of head motion, light and distractor; the robot's head, light and ball hold still

    def __post_init__(self) -> None:
        if self.body not in BODIES or self.split not in SPLITS:
            raise ValueError(
                f"body must be one of {BODIES} and split one of {SPLITS}, not {self.body!r}, {self.split!r}"
            )
        if self.seed < 0 or self.index < 0:
            raise ValueError(f"seed and index count from 0; they are {self.seed} and {self.index}")
        if self.frames < 2 or min(self.size) < 16:
            raise ValueError(f"an episode needs 2 frames of 16x16 or more, not {self.frames} of {self.size}")
        if not 0 <= self.nuisance <= 4:
            raise ValueError(f"nuisance must lie between 0 and 4, not {self.nuisance}")


@dataclass(frozen=True)
class Tracks:
    """What happens in an episode: its look and its factors, float32 (T, ...) except integer `held` and `skill`."""

    look: Look
    factors: dict[str, np.ndarray]


@dataclass(frozen=True)
class Episode:
    """A rendered episode: frames uint8 RGB (T, H, W, 3) and the factors of the same instants."""

    frames: np.ndarray
    factors: dict[str, np.ndarray]


def render_episode(spec: EpisodeSpec) -> Episode:
    """Renders an episode anew. Raises MissingDependency without MuJoCo or without off-screen OpenGL."""
    tracks = make_tracks(spec)
    return Episode(draw(tracks.look, tracks.factors, body=spec.body, size=spec.size), tracks.factors)


def make_tracks(spec: EpisodeSpec) -> Tracks:
    """Decides an episode: the look, what the tool and the objects do, and the nuisances, each from its own stream."""
    entropy = [spec.seed, BODIES.index(spec.body), SPLITS.index(spec.split), spec.index]
    look_rng, world_rng, *nuisance_rngs = (
        np.random.default_rng(child) for child in np.random.SeedSequence(entropy).spawn(5)
    )
    look = draw_look(look_rng, split=spec.split)
    factors = _live(look, world_rng, body=spec.body, frames=spec.frames)
    strength = spec.nuisance if spec.body == "human" else 0.0
    camera_rng, light_rng, distractor_rng = nuisance_rngs
    factors["camera"] = _camera(factors["time"], strength, camera_rng)
    factors["light"] = _light(factors["time"], strength, light_rng, split=spec.split)
    factors["distractor"] = _distractor(factors["time"], strength, distractor_rng)
    if spec.body == "human":
        del factors["command"]  # nobody commands a person: only the motion is there to see
    return Tracks(look, {name: _compact(factors[name]) for name in FACTORS if name in factors})


def _compact(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.kind == "f" else values.astype(np.int8)


def _live(look: Look, rng: np.random.Generator, *, body: Body, frames: int) -> dict[str, np.ndarray]:
    """Lets the tool act for an episode; every row is noted before the step that leads to the next."""
    world = World(body, look.things, rng)
    commands = behave(world, rng)
    scale = np.array([0.0012, 0.0012, 0.0008, 0.006, 0.004]) * (0.3 if body == "robot" else 1.0)
    noise = np.zeros(5)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("tool", "command", "skill", "held", "objects")}
    for _ in range(frames):
        command = next(commands).copy()
        held = -1 if world.held is None else world.held
        state = (world.tool, command, world.skill, held, world.objects)
        for name, value in zip(rows, state, strict=True):
            rows[name].append(np.array(value))
        noise = 0.7 * noise + rng.normal(0, scale)
        world.step(command, noise)
    return {"time": np.arange(frames) * FRAME_SECONDS} | {name: np.stack(values) for name, values in rows.items()}


def _camera(time: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Head pose (T, 6): a place per episode, sway of the body, and turns of the head."""
    home = CAMERA_HOME + rng.normal(0, CAMERA_SPREAD)
    motion = _sway(time, 6, rng) * CAMERA_SWAY
    motion[:, 3:5] += _turns(time, CAMERA_TURN, rng)
    return home + _bounded(strength * motion, CAMERA_LIMIT)


def _light(time: np.ndarray, strength: float, rng: np.random.Generator, *, split: Split) -> np.ndarray:
    """Light (T, 5): drifting lamp and fill, a lamp that is switched, and flicker from frame to frame.

    The lamp stands behind the table; in the test split it stands on the viewer's side, where training never has it.
    """
    home = LIGHT_HOME + rng.normal(0, LIGHT_SPREAD)
    home[3] = _bounded(home[3], np.array(LAMP_SIDE)) + (math.pi if split == "test" else 0.0)
    change = _sway(time, 5, rng) * LIGHT_DRIFT
    change[:, :2] += _turns(time, np.array([0.12, 0.03]), rng, seconds=(0.1, 0.3))
    change[:, :2] += rng.normal(0, [0.02, 0.01], (len(time), 2))
    return home + _bounded(strength * change, LIGHT_LIMIT)


def _distractor(time: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The ball (T, 3): rolls to and fro on a path of its own; `strength` is its speed."""
    phase, frequency = rng.uniform(0, 2 * math.pi, 2), rng.uniform([0.12, 0.1], [0.3, 0.25])
    angles = phase + 2 * math.pi * frequency * strength * time[:, None] + 0.5 * strength * _sway(time, 2, rng)
    path = DISTRACTOR_HOME + np.array([0.24, 0.05]) * np.sin(angles)
    return np.column_stack([path, np.full(len(time), DISTRACTOR_RADIUS)])


def _sway(time: np.ndarray, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise (T, channels) of standard deviation 1: five waves between 0.1 and 1 Hz per channel."""
    frequency = rng.uniform(0.1, 1.0, (5, channels))
    phase = rng.uniform(0, 2 * math.pi, (5, channels))
    return np.sin(2 * math.pi * frequency * time[:, None, None] + phase).sum(axis=1) / math.sqrt(2.5)


def _turns(
    time: np.ndarray, size: np.ndarray, rng: np.random.Generator, seconds: tuple[float, float] = (0.35, 0.9)
) -> np.ndarray:
    """Sudden smooth moves between random targets (T, len(size)) of standard deviation `size`, with pauses between."""
    values = np.zeros((len(time), len(size)))
    here, begin = rng.normal(0, size), 0.0
    values[:] = here
    while begin < time[-1]:
        begin += rng.uniform(0.4, 2.2)
        duration = rng.uniform(*seconds)
        there = rng.normal(0, size)
        s = np.clip((time - begin) / duration, 0, 1)[:, None]
        values += (there - here) * (10 * s**3 - 15 * s**4 + 6 * s**5)
        here, begin = there, begin + duration
    return values


def _bounded(values: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Folds values smoothly into -limit..limit, so that stronger motion stays in view and stays fast."""
    return limit * np.sin(values / limit)
