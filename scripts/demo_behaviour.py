"""Scripted behaviour on the demo table: the world a tool acts on, and the skills that decide where the tool goes next.

Everything is kinematic and plain numpy, so factors are the same on every machine and with every MuJoCo. A skill is a
generator that yields one command (5,) per frame, the tool pose wanted at the next frame, and looks at the world to
choose it. Objects are upright cylinders: the tool pushes them aside, they push each other, a closed grasp carries one.
"""

import math
from collections.abc import Iterator

import numpy as np

from scripts.demo_bodies import BELOW, Body, footprint, grasp_opening
from scripts.demo_looks import Thing

FRAME_SECONDS = 0.1
SUBSTEPS = 5  # per frame; contacts are resolved at each
GRAVITY = 9.81
LOW = np.array([-0.17, 0.04, 0.053, -0.6, 0.0])  # the tool's workspace
HIGH = np.array([0.15, 0.27, 0.20, 0.6, 1.0])
HOVER = 0.118  # tool height that clears every object, metres
CARRY = 0.135  # tool height that clears every object with another one in the hand
SPACING = 0.105  # least distance between objects at the start, metres
ROBOT_TRACKING = 0.9  # share of the way to the command that the robot covers in one frame
GRASP_SLACK = 0.05  # in opening: fingers this near to touching hold; fingers twice this far let go

REST, REACH, WANDER, PUSH, PICK = range(5)
SKILLS = ("rest", "reach", "wander", "push", "pick_and_place")
SKILL_ODDS = (0.05, 0.10, 0.20, 0.35, 0.30)

Commands = Iterator[np.ndarray]


class World:
    """Tool and objects. `step` moves the tool towards a command for one frame and lets the objects follow."""

    def __init__(self, body: Body, things: tuple[Thing, ...], rng: np.random.Generator) -> None:
        self.body: Body = body
        self.things = things
        self.radii = np.array([thing.radius for thing in things])
        self.rest = np.array([thing.half_height for thing in things])
        self.objects = _place(things, rng)  # (N, 4): x, y, z of the centre in metres, yaw in radians
        self.fall_speed = np.zeros(len(things))
        self.tool = rng.uniform(LOW, HIGH)  # (5,)
        self.tool[2] = rng.uniform(HOVER, HIGH[2])
        self.skill = REST
        self.held: int | None = None
        self.grasped: int | None = None  # the object between the fingers: not pushed by them
        self.grip = np.zeros(4)  # pose of the held object relative to the tool, in the tool frame

    def step(self, command: np.ndarray, noise: np.ndarray) -> None:
        """One frame (0.1 s) towards `command` (5,); `noise` (5,) is added to where the tool ends."""
        share = ROBOT_TRACKING if self.body == "robot" else 1.0
        start, goal = self.tool, np.clip(self.tool + share * (command - self.tool) + noise, LOW, HIGH)
        for substep in range(1, SUBSTEPS + 1):
            before, self.tool = self.tool, start + (goal - start) * substep / SUBSTEPS
            self._hold_or_release()
            self._fall(FRAME_SECONDS / SUBSTEPS)
            self._push(self.tool[:2] - before[:2])

    def _hold_or_release(self) -> None:
        if self.held is None and self.grasped is not None:
            offset = self.objects[self.grasped, :3] - self.tool[:3]
            near = np.hypot(offset[0], offset[1]) < 0.02 and abs(offset[2]) < 0.04
            if near and self.tool[4] < grasp_opening(self.body, self.radii[self.grasped]) + GRASP_SLACK:
                self.held = self.grasped
                self.grip[:3] = _turn(offset, -self.tool[3])
                self.grip[3] = self.objects[self.held, 3] - self.tool[3]
        elif self.held is not None and self.tool[4] > grasp_opening(self.body, self.radii[self.held]) + 2 * GRASP_SLACK:
            self.held = None
        if self.held is not None:
            self.objects[self.held, :3] = self.tool[:3] + _turn(self.grip[:3], self.tool[3])
            self.objects[self.held, 3] = self.tool[3] + self.grip[3]

    def _fall(self, seconds: float) -> None:
        for index, height in enumerate(self.rest):
            if index == self.held:
                self.objects[index, 2] = max(height, self.objects[index, 2])
                self.fall_speed[index] = 0.0
            elif self.objects[index, 2] > height:
                self.fall_speed[index] += GRAVITY * seconds
                self.objects[index, 2] = max(height, self.objects[index, 2] - self.fall_speed[index] * seconds)

    def _push(self, moved: np.ndarray) -> None:
        """Moves overlapping objects apart, then out of the tool, until none moves (at most 8 rounds)."""
        for round_number in range(8):
            changed = self._separate()
            for index in range(len(self.things)):
                shift = self._penetration(index)
                if shift is None:
                    continue
                self.objects[index, :2] += shift
                changed = True
                if round_number == 0:  # friction with the passing tool turns what it pushes
                    normal = shift / np.linalg.norm(shift)
                    self.objects[index, 3] += 0.4 * (normal[1] * moved[0] - normal[0] * moved[1]) / self.radii[index]
            if not changed:
                return

    def _penetration(self, index: int) -> np.ndarray | None:
        """The shift (2,) in metres that takes an object out of the tool, or None when they don't touch."""
        if index in (self.held, self.grasped) or self.tool[2] - BELOW > 2 * self.rest[index]:
            return None
        low, high = footprint(self.body, self.tool[4])
        centre = _turn(self.objects[index, :2] - self.tool[:2], -self.tool[3])
        nearest = np.clip(centre, low, high)
        gap = centre - nearest
        distance = float(np.linalg.norm(gap))
        if distance >= self.radii[index] - 1e-6:
            return None
        if distance > 1e-9:
            shift = gap / distance * (self.radii[index] - distance)
        else:  # the centre is inside: out through the nearest side
            outs = np.array(
                [[low[0] - centre[0], 0], [high[0] - centre[0], 0], [0, low[1] - centre[1]], [0, high[1] - centre[1]]]
            )
            shift = outs[np.abs(outs).sum(axis=1).argmin()]
            shift = shift + self.radii[index] * shift / max(np.linalg.norm(shift), 1e-9)
        return _turn(shift, self.tool[3])

    def _separate(self) -> bool:
        changed = False
        for a in range(len(self.things)):
            for b in range(a + 1, len(self.things)):
                if self.held in (a, b) and self.objects[self.held, 2] > 2.5 * self.rest.max():
                    continue
                gap = self.objects[b, :2] - self.objects[a, :2]
                distance = float(np.linalg.norm(gap))
                overlap = self.radii[a] + self.radii[b] - distance
                if overlap <= 1e-6:
                    continue
                changed = True
                shift = gap / distance * overlap
                share = 1.0 if a == self.held else 0.0 if b == self.held else 0.5
                self.objects[a, :2] -= (1 - share) * shift
                self.objects[b, :2] += share * shift
        return changed


def behave(world: World, rng: np.random.Generator) -> Commands:
    """Endless commands (5,): one skill after the other, chosen at random."""
    while True:
        world.skill = int(rng.choice(len(SKILLS), p=SKILL_ODDS))
        if world.skill == REST:
            yield from _stay(world, int(rng.integers(2, 6)))
        elif world.skill == REACH:
            yield from _move(world, rng, _hover_pose(rng))
        elif world.skill == WANDER:
            yield from _wander(world, rng)
        elif world.skill == PUSH:
            yield from _push_object(world, rng)
        else:
            yield from _pick_and_place(world, rng)


def _stay(world: World, frames: int) -> Commands:
    pose = world.tool.copy()
    for _ in range(frames):
        yield pose


def _move(world: World, rng: np.random.Generator, target: np.ndarray) -> Commands:
    """Minimum-jerk motion from where the tool is to `target` (5,), at a random speed."""
    start, target = world.tool.copy(), np.clip(target, LOW, HIGH)
    change = np.abs(target - start)
    speed = rng.uniform(0.16, 0.38)
    seconds = max(
        np.linalg.norm(change[:3]) / speed, change[3] / (5 * speed), change[4] / (8 * speed), 2 * FRAME_SECONDS
    )
    frames = math.ceil(seconds / FRAME_SECONDS)
    for frame in range(1, frames + 1):
        s = frame / frames
        yield start + (target - start) * (10 * s**3 - 15 * s**4 + 6 * s**5)


def _wander(world: World, rng: np.random.Generator) -> Commands:
    """Smooth random motion above the objects: a random velocity that forgets itself in about half a second."""
    low = np.array([*LOW[:2], HOVER, *LOW[3:]])
    yield from _raise(world, rng)
    pose, velocity = world.tool.copy(), np.zeros(5)
    for _ in range(int(rng.integers(12, 31))):
        velocity = 0.8 * velocity + rng.normal(0, [0.013, 0.011, 0.007, 0.06, 0.09])
        velocity = np.where((pose + velocity < low) | (pose + velocity > HIGH), -0.5 * velocity, velocity)
        pose = np.clip(pose + velocity, low, HIGH)
        yield pose


def _push_object(world: World, rng: np.random.Generator) -> Commands:
    """Goes down beside an object and moves it 5 to 12 cm along a random direction."""
    yield from _raise(world, rng)
    for _ in range(30):
        index = int(rng.integers(len(world.things)))
        angle, yaw = rng.uniform(-math.pi, math.pi), rng.uniform(-0.4, 0.4)
        opening = rng.uniform(0.0, 0.35)
        direction = np.array([math.cos(angle), math.sin(angle)])
        reach = _support(world.body, opening, _turn(direction, -yaw)) + world.radii[index]
        spot = world.objects[index, :2]
        begin, end = spot - direction * (reach + 0.012), spot + direction * (rng.uniform(0.07, 0.16) - reach)
        if _inside(begin) and _inside(end) and _clear(world, begin, yaw, opening, ignore=None):
            break
    else:
        return
    height = LOW[2] + rng.uniform(0, 0.006)
    yield from _move(world, rng, np.array([*begin, HOVER, yaw, opening]))
    yield from _move(world, rng, np.array([*begin, height, yaw, opening]))
    yield from _move(world, rng, np.array([*end, height, yaw, opening]))
    yield from _raise(world, rng)


def _pick_and_place(world: World, rng: np.random.Generator) -> Commands:
    """Grasps an object, carries it to a free place and lets it go."""
    yield from _raise(world, rng)
    for _ in range(30):
        index, (yaw, put_yaw) = int(rng.integers(len(world.things))), rng.uniform(-0.45, 0.45, size=2)
        spot, put = world.objects[index, :2].copy(), rng.uniform(LOW[:2], HIGH[:2])
        closed = grasp_opening(world.body, world.radii[index])
        wide = min(1.0, closed + 0.35)
        free = _clear(world, spot, yaw, wide, ignore=index) and _clear(world, put, put_yaw, wide, ignore=index)
        others = np.delete(world.objects[:, :2], index, axis=0)
        room = all(np.linalg.norm(others - put, axis=1) > 2 * world.radii.max() + 0.01)
        if free and room and _inside(spot) and np.linalg.norm(put - spot) > 0.06:
            break
    else:
        return
    height = max(world.rest[index], LOW[2])
    yield from _move(world, rng, np.array([*spot, HOVER, yaw, wide]))
    world.grasped = index
    yield from _move(world, rng, np.array([*spot, height, yaw, wide]))
    yield from _move(world, rng, np.array([*spot, height, yaw, closed]))
    lift = CARRY + rng.uniform(0, 0.05)
    yield from _move(world, rng, np.array([*spot, lift, yaw, closed]))
    yield from _move(world, rng, np.array([*put, lift, put_yaw, closed]))
    yield from _move(world, rng, np.array([*put, height + 0.004, put_yaw, closed]))
    yield from _move(world, rng, np.array([*put, height + 0.004, put_yaw, wide]))
    yield from _move(world, rng, np.array([*put, HOVER + 0.01, put_yaw, wide]))
    world.grasped = None


def _raise(world: World, rng: np.random.Generator) -> Commands:
    if world.tool[2] < HOVER:
        yield from _move(world, rng, np.array([*world.tool[:2], HOVER + 0.02, *world.tool[3:]]))


def _hover_pose(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform([*LOW[:2], HOVER, *LOW[3:]], HIGH)


def _inside(spot: np.ndarray) -> bool:
    return bool(np.all(spot >= LOW[:2]) and np.all(spot <= HIGH[:2]))


def _clear(world: World, spot: np.ndarray, yaw: float, opening: float, *, ignore: int | None) -> bool:
    """Whether the tool could come down at `spot` without touching any object but `ignore`."""
    low, high = footprint(world.body, opening)
    for index in range(len(world.things)):
        centre = _turn(world.objects[index, :2] - spot, -yaw)
        if index != ignore and np.linalg.norm(centre - np.clip(centre, low, high)) < world.radii[index] + 0.004:
            return False
    return True


def _support(body: Body, opening: float, direction: np.ndarray) -> float:
    """How far the footprint reaches along a direction (2,) of the tool frame, metres."""
    low, high = footprint(body, opening)
    return float(np.maximum(low * direction, high * direction).sum())


def _turn(vector: np.ndarray, angle: float) -> np.ndarray:
    """A vector (2,) or (3,) turned about the vertical by an angle in radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    turned = vector.copy()
    turned[0], turned[1] = cosine * vector[0] - sine * vector[1], sine * vector[0] + cosine * vector[1]
    return turned


def _place(things: tuple[Thing, ...], rng: np.random.Generator) -> np.ndarray:
    """Objects standing apart on the table, (N, 4)."""
    spots: list[np.ndarray] = []
    while len(spots) < len(things):
        spot = rng.uniform(LOW[:2] + 0.01, HIGH[:2] - 0.01)
        if all(np.linalg.norm(spot - other) > SPACING for other in spots):
            spots.append(spot)
    return np.array(
        [[*spot, thing.half_height, rng.uniform(-math.pi, math.pi)] for spot, thing in zip(spots, things, strict=True)]
    )
