"""What the name of a column of controls says: whose it is, and whether it is a place, a part of a rotation, a grip."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from align.rotations import RotationName

Role = Literal["position", "rotation", "gripper", "joint"]

_DELTA = {"delta", "d", "rel", "relative", "diff"}
_VELOCITY = {"vel", "velocity", "velocities", "speed", "twist", "qvel"}
_GRIP = {"gripper", "grippers", "grip", "grasp", "jaw", "claw", "opening", "aperture", "closure", "openness"}
_NOISE = {"k", "pos", "position", "target", "cmd", "command", "goal", "action", "state", "desired", "abs", "absolute"}
_NOISE |= {"ee", "eef", "tcp", "end", "effector", "cartesian"}
_ROTATION = {"rot", "rotation", "rotvec", "orientation", "ori", "axisangle", "aa"}
_FORMS = {"quat", "quaternion", "6d", "rot6d", "rpy", "euler", "axis", "angle"}
_PARTS = {
    "hand": {"hand", "finger", "fingers", "thumb", "index", "middle", "ring", "pinky", "little"},
    "arm": {"arm", "shoulder", "elbow", "wrist", "forearm"},
    "leg": {"leg", "hip", "knee", "ankle"},
    "waist": {"waist", "torso", "trunk", "lift"},
    "head": {"head", "neck"},
    "base": {"base", "wheel", "chassis"},
}
_JOINT = {"joint", "joints", "motor", "servo", "flex", "pan"}.union(*_PARTS.values()) - {"hand", "arm", "base"}
"""Words for a joint of its own: its roll, pitch or yaw is one angle, and no part of a rotation."""
_ANGLES = ("roll", "pitch", "yaw")


@dataclass(frozen=True)
class ColumnName:
    """The reading of one name."""

    key: tuple[str, ...]
    """Its words without those that every name may have, to find the same thing in the state: "dx" -> ("x",)."""
    role: Role
    part: str
    """The name of the group that it would be in: "left_arm", "position", "right_gripper"."""
    component: str = ""
    """Which of a place or rotation: "x", "roll", "qw", "3"."""
    rotation: RotationName | None = None
    """What rotation it may be a part of, by itself; quaternions always as quaternion_xyzw."""
    kind: Literal["delta", "velocity"] | None = None
    """What the name says of it outright."""


def read_name(name: str) -> ColumnName:
    """Reads "kLeftShoulderPitch", "droll", "left_eef_quat_w", "shoulder_pan.pos", "motor_3", "action"."""
    words = [word.lower() for word in re.findall(r"\d+[dD]\b|\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name.replace("_", " "))]
    words = [word for part in words for word in _unfolded(part)]
    kind = "velocity" if _VELOCITY & set(words) else "delta" if _DELTA & set(words) else None
    key = [word for word in words if word not in _DELTA | _VELOCITY | _NOISE]
    side = next((side for side in ("left", "right") for word in key if word in (side, side[0])), "")
    owner = [word for word in key if word not in ("left", "right", "l", "r") and not word.isdigit()]
    if _GRIP & set(key):
        return ColumnName(tuple(key), "gripper", _joined(side, "gripper"), kind=kind)
    last = key[-1] if key else ""
    form = _form(key, last)
    if form:
        component = last.removeprefix("q") if form == "quaternion_xyzw" else last
        rest = [word for word in owner if word not in _ROTATION | _FORMS | {last}]
        return ColumnName(tuple(key), "rotation", _joined(side, *rest, "rotation"), component, form, kind)
    if last in ("x", "y", "z"):
        return ColumnName(tuple(key), "position", _joined(side, *owner[:-1], "position"), last, kind=kind)
    part = next((part for part, its in _PARTS.items() if its & set(key)), "")
    if not part:
        # "motor_0" and "motor_1" belong together, "yaw" and "throttle" do not
        part = "_".join(dict.fromkeys(owner)) or "controls"
    elif part == "waist" and side:  # ALOHA calls the first joint of each arm its waist
        part = "arm"
    return ColumnName(tuple(key), "joint", _joined(side, part), last, kind=kind)


def rotation_at(names: Sequence[ColumnName], start: int) -> tuple[RotationName, int] | None:
    """The rotation whose first column this is, and its width; None if it is no rotation or not all of it is there."""
    first = names[start]
    same = [(name.part, name.rotation) == (first.part, first.rotation) for name in names[start:]]
    width = same.index(False) if False in same else len(same)
    run = tuple(name.component for name in names[start : start + width])
    if first.rotation is None:
        return None
    if run[0].isdigit():
        by_width: dict[int, RotationName] = {4: "quaternion_xyzw", 6: "rotation_6d", 9: "matrix"}
        if width == 3 and first.rotation in ("euler_xyz", "axis_angle"):
            return first.rotation, width
        return (by_width[width], width) if width in by_width else None
    spelt: dict[tuple[str, ...], tuple[RotationName, RotationName]] = {
        ("roll", "pitch", "yaw"): ("euler_xyz", "euler_xyz"),
        ("x", "y", "z", "w"): ("quaternion_xyzw", "quaternion_xyzw"),
        ("w", "x", "y", "z"): ("quaternion_xyzw", "quaternion_wxyz"),
        ("x", "y", "z"): ("axis_angle", "axis_angle"),
    }
    for components, (form, rotation) in spelt.items():
        if first.rotation == form and run[: len(components)] == components:
            return rotation, len(components)
    return None


def _form(key: Sequence[str], last: str) -> RotationName | None:
    """The rotation that a name's last word may be a part of."""
    words, axis = set(key[:-1]), last in ("x", "y", "z")
    if (last in _ANGLES and not _JOINT & words) or ({"rpy", "euler"} & words and last.isdigit()):
        return "euler_xyz"
    if re.fullmatch(r"q[wxyz]", last) or ({"quat", "quaternion"} & words and (axis or last == "w" or last.isdigit())):
        return "quaternion_xyzw"
    if {"6d", "rot6d"} & words and last.isdigit():
        return "rotation_6d"
    if (_ROTATION & words or {"axis", "angle"} <= words) and (axis or last.isdigit()):
        return "axis_angle"
    return None


def _unfolded(word: str) -> list[str]:
    """Words that are two: "droll", "dx", "vx", "rx", "wx"."""
    if match := re.fullmatch(r"d(x|y|z|roll|pitch|yaw)", word):
        return ["delta", match[1]]
    if match := re.fullmatch(r"(v|w|r|rot)(x|y|z)", word):
        return [*{"v": ["velocity"], "w": ["velocity", "rot"]}.get(match[1], ["rot"]), match[2]]
    if match := re.fullmatch(r"d(r|rot)(x|y|z)", word):
        return ["delta", "rot", match[2]]
    return [word]


def _joined(*words: str) -> str:
    return "_".join(word for word in words if word)
