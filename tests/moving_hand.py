"""A small world in which everything is known: a bright square, the hand, moves over a still pattern."""

import numpy as np

from lam.sequences import EvaluationSet, Sequence

SIZE, SIDE = 32, 6


def hand_clip(seed: int, *, frames: int = 14, name: str = "") -> Sequence:
    """The square walks at random, a few pixels a frame; factor "hand" is its place in pixels (x, y)."""
    rng = np.random.default_rng(seed)
    background = rng.integers(20, 110, (SIZE // 4, SIZE // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    steps = rng.integers(-3, 4, (frames, 2))
    place = np.empty((frames, 2), dtype=int)
    now = rng.integers(8, SIZE - SIDE - 8, 2)
    film = np.repeat(background[None], frames, axis=0)
    for t in range(frames):
        now = np.clip(now + steps[t], 1, SIZE - SIDE - 1)
        place[t] = now
        film[t, now[1] : now[1] + SIDE, now[0] : now[0] + SIDE] = (250, 200, 90)
    return Sequence(name or f"clip{seed}", film, np.arange(frames) / 10, {"hand": place.astype(float)})


def hand_set(clips: int = 5, *, frames: int = 14) -> EvaluationSet:
    sequences = tuple(hand_clip(seed, frames=frames) for seed in range(clips))
    return EvaluationSet("hands", "demo", sequences, {"hand": ("x", "y")})


def plain_set(clips: int = 5, *, frames: int = 14) -> EvaluationSet:
    """The same pictures with nothing known."""
    bare = [Sequence(c.clip, c.frames, c.seconds, {}) for c in hand_set(clips, frames=frames).sequences]
    return EvaluationSet("plain", "video", tuple(bare), {})


class Tracker:
    """A subject that is right: it finds the square and tells how far it went; its decoder moves the square."""

    name = "tracker"
    size = (SIZE, SIZE)
    blocks = {"z": slice(0, 2)}  # noqa: RUF012
    decodes = True

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return (self.place(second) - self.place(first)).astype(np.float32)

    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        frames = first.copy()
        for frame, here, move in zip(frames, self.place(first), z, strict=True):
            (x, y), (u, v) = here.round().astype(int), (here + move).round().astype(int).clip(0, SIZE - SIDE)
            frame[y : y + SIDE, x : x + SIDE] = np.median(frame.reshape(-1, 3), axis=0)
            frame[v : v + SIDE, u : u + SIDE] = (250, 200, 90)
        return frames

    def nats(self, first: np.ndarray, second: np.ndarray) -> None:
        return None

    def place(self, frames: np.ndarray) -> np.ndarray:
        """(P, 2) upper left corner of the square."""
        corners = np.zeros((len(frames), 2))
        for row, frame in enumerate(frames):
            y, x = np.nonzero(frame[..., 0] > 180)
            corners[row] = (x.min(), y.min()) if len(x) else (0, 0)
        return corners
