"""The two bodies of the demo world as geometry: a five-finger hand and a gripper, driven by the same tool pose.

A tool pose is (x, y, z, yaw, opening): the point between the finger tips in metres (x right, y away from the viewer,
z up from the table), the turn about the vertical in radians, and the opening, 0 closed to 1 open. Numpy only: the
behaviour asks here what a body touches, the scene asks here where its parts are.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np

Body = Literal["human", "robot"]
BODIES: tuple[Body, ...] = ("human", "robot")
BELOW = 0.052  # no part of a body reaches further below the tool point, metres

# The hand in the frame of its palm: x towards the little finger, y along the fingers, z out of the back of the hand.
FINGER_RADIUS = 0.0105
KNUCKLES = np.array([[-0.0345, 0.044, 0], [-0.0115, 0.050, 0.002], [0.0115, 0.046, 0.001], [0.034, 0.036, -0.003]])
PHALANGES = (0.044, 0.029, 0.021)  # lengths of the index finger from knuckle to tip, metres
FINGER_SCALES = (0.95, 1.05, 1.0, 0.80)  # index, middle, ring and little finger
SPLAY = np.array([-0.22, -0.06, 0.10, 0.26])  # sideways turn of each finger at opening 1, radians
CURL_OPEN = np.array([0.10, 0.12, 0.08])  # joint angles at opening 1, radians
CURL_CLOSED = np.array([1.05, 1.25, 0.80])  # joint angles at opening 0
THUMB_BASE = np.array([-0.034, -0.016, -0.010])
THUMB_LENGTHS = (0.022, 0.038, 0.032)
THUMB_OPEN = np.array([[-0.7, 0.1, -0.6], [-0.55, 0.2, -1.0], [-0.4, 0.45, -0.9]])  # directions at opening 1
THUMB_CLOSED = np.array([[-0.5, 0.4, -0.8], [-0.1, 0.9, -0.6], [0.3, 1.0, -0.1]])  # directions at opening 0
PALM_ROLL, PALM_PITCH, PALM_YAW = 0.80, 0.32, 0.45  # thumb up, fingers down, fingers to the left; radians
GRASP_POINT = np.array([-0.002, 0.058, -0.050])  # the tool point, in the frame of the palm
WRIST = np.array([0.0, -0.060, 0.0])

JAW_CLOSED, JAW_TRAVEL = 0.003, 0.044  # half the gap between the jaws: JAW_CLOSED + JAW_TRAVEL * opening
JAW_HALF_SIZE = (0.009, 0.014, 0.045)
JAW_BELOW = 0.042  # how far the jaws reach below the tool point
GRIPPER_WRIST = 0.13  # height of the robot's wrist above the tool point
SHOULDER = np.array([0.34, -0.24, 0.24])
LINK = 0.42  # length of each of the robot's two arm links


def _rotation_matrix(axis: int, angle: float) -> np.ndarray:
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[[i, i, j, j], [i, j, i, j]] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    return matrix


PALM_TURN = _rotation_matrix(2, PALM_YAW) @ _rotation_matrix(0, -PALM_PITCH) @ _rotation_matrix(1, PALM_ROLL)


def hand_points(opening: float) -> np.ndarray:
    """Joints of thumb, index, middle, ring and little finger, base to tip: (5, 4, 3) in the tool frame, metres."""
    angles = np.cumsum(CURL_CLOSED + (CURL_OPEN - CURL_CLOSED) * opening)
    splay = (SPLAY * opening)[:, None]
    bends = np.stack(
        [np.sin(splay) * np.cos(angles), np.cos(splay) * np.cos(angles), -np.sin(angles) + 0 * splay], axis=-1
    )
    bends *= np.array(FINGER_SCALES)[:, None, None] * np.array(PHALANGES)[:, None]
    thumb = THUMB_CLOSED + (THUMB_OPEN - THUMB_CLOSED) * opening
    thumb = thumb / np.linalg.norm(thumb, axis=1, keepdims=True) * np.array(THUMB_LENGTHS)[:, None]
    steps = np.concatenate([thumb[None], bends])
    bases = np.concatenate([THUMB_BASE[None], KNUCKLES])[:, None]
    return palm_to_tool(np.concatenate([bases, bases + np.cumsum(steps, axis=1)], axis=1))


def palm_to_tool(points: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the palm's frame in the tool frame, metres."""
    return (points - GRASP_POINT) @ PALM_TURN.T


def jaw_offset(opening: float) -> float:
    """Distance of each jaw's inner face from the tool point, metres."""
    return JAW_CLOSED + JAW_TRAVEL * opening


def footprint(body: Body, opening: float) -> tuple[np.ndarray, np.ndarray]:
    """What can touch things on the table: low and high corner (2,), (2,) of a box in the tool frame, metres."""
    if body == "robot":
        reach = jaw_offset(opening) + 2 * JAW_HALF_SIZE[0]
        return np.array([-reach, -JAW_HALF_SIZE[1]]), np.array([reach, JAW_HALF_SIZE[1]])
    points = hand_points(opening)[..., :2].reshape(-1, 2)
    return points.min(axis=0) - FINGER_RADIUS, points.max(axis=0) + FINGER_RADIUS


@lru_cache(maxsize=1024)
def grasp_opening(body: Body, radius: float) -> float:
    """The opening at which the fingers touch an object of this radius (metres) at the tool point."""
    if body == "robot":
        return (radius - JAW_CLOSED) / JAW_TRAVEL
    openings = np.linspace(1, 0, 51)
    for opening in openings:
        joints = hand_points(opening)[1:4, 1:, :2]
        between = (joints[:, :-1] + joints[:, 1:]) / 2
        nearest = np.linalg.norm(np.concatenate([joints, between], axis=1), axis=-1).min()
        if nearest < radius + FINGER_RADIUS:
            return float(opening)
    return 0.0


def tool_to_world(tool: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the tool frame in world coordinates, metres."""
    return tool[:3] + points @ _rotation_matrix(2, tool[3]).T


def human_arm(tool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrist and a point on the way to the elbow, both (3,) in metres; the elbow half follows the hand."""
    wrist = tool_to_world(tool, palm_to_tool(WRIST))
    return wrist, np.array([0.34 + 0.5 * wrist[0], -0.30, 0.02 + 0.5 * wrist[2]])


def robot_arm(tool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elbow and wrist of the two-link arm, both (3,) in metres, with the elbow outward."""
    wrist = tool[:3] + np.array([0.0, 0.0, GRIPPER_WRIST])
    span = wrist - SHOULDER
    length = float(np.linalg.norm(span))
    assert length < 2 * LINK, f"the wrist is {length:.2f} m from the shoulder; the arm is {2 * LINK:.2f} m long"
    along = span / length
    aside = np.array([1.0, 0.0, 0.15])
    aside -= aside @ along * along
    height = math.sqrt(LINK**2 - (length / 2) ** 2)
    return SHOULDER + span / 2 + height * aside / np.linalg.norm(aside), wrist
