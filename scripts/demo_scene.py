"""The demo world drawn: a MuJoCo scene of our own primitives, posed frame by frame from an episode's factors."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from common.errors import MissingDependency
from scripts.demo_bodies import (
    FINGER_RADIUS,
    GRIPPER_WRIST,
    JAW_BELOW,
    JAW_HALF_SIZE,
    LINK,
    PALM_TURN,
    SHOULDER,
    Body,
    hand_points,
    human_arm,
    jaw_offset,
    palm_to_tool,
    robot_arm,
    tool_to_world,
)
from scripts.demo_looks import DISTRACTOR_RADIUS, TEXTURE_SIZE, Colour, Look, Thing, table_texture

FIELD_OF_VIEW = 47  # vertical, degrees
SUPERSAMPLING = 2  # drawn at twice the size and averaged: cheaper in software than OpenGL's multisampling
_HINT = (
    'pip install "understudy[sim]"; off screen on Linux it draws through EGL (Debian: libegl1 and libgl1-mesa-dri), '
    "or with MUJOCO_GL=osmesa through OSMesa (Debian: libosmesa6)"
)


def draw(look: Look, factors: dict[str, np.ndarray], *, body: Body, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 RGB (T, H, W, 3) of an episode's factors (`demo_world.FACTORS`); `size` is (height, width).

    Raises MissingDependency without MuJoCo or without off-screen OpenGL.
    """
    height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    mujoco = _import_mujoco()
    model = mujoco.MjModel.from_xml_string(scene_xml(look, body=body, size=(height, width)))
    table = model.texture("table")
    first = int(table.adr[0])
    model.tex_data[first : first + TEXTURE_SIZE**2 * 3] = table_texture(look).ravel()
    data = mujoco.MjData(model)
    frames = np.empty((len(factors["time"]), *size, 3), np.uint8)
    with _renderer(mujoco, model, height, width) as renderer:
        for t in range(len(frames)):
            _pose(mujoco, model, data, {name: values[t] for name, values in factors.items()}, body=body)
            renderer.update_scene(data, camera="head")
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = 0
            picture = renderer.render().reshape(size[0], SUPERSAMPLING, size[1], SUPERSAMPLING, 3)
            frames[t] = np.round(picture.mean(axis=(1, 3), dtype=np.float32))
    return frames


def _import_mujoco() -> Any:
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco  # pyright: ignore[reportMissingImports]
    except (ImportError, AttributeError, RuntimeError) as error:  # absent, or its OpenGL library is
        raise MissingDependency(f"the demo world needs MuJoCo: {error}", hint=_HINT) from error
    return mujoco


@contextmanager
def _renderer(mujoco, model, height: int, width: int) -> Iterator:
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:  # each OpenGL backend has its own exceptions
        raise MissingDependency(f"MuJoCo cannot open an off-screen OpenGL context: {error}", hint=_HINT) from error
    try:
        yield renderer
    finally:
        renderer.close()


def _pose(mujoco, model, data, row: dict[str, np.ndarray], *, body: Body) -> None:
    """Puts the scene into the state of one row of factors."""

    def put(name: str, position: np.ndarray, quaternion: np.ndarray | None = None) -> None:
        mocap = model.body(name).mocapid[0]
        data.mocap_pos[mocap] = position
        data.mocap_quat[mocap] = (1, 0, 0, 0) if quaternion is None else quaternion

    tool = row["tool"].astype(np.float64)
    turn = _rotation("z", tool[3])
    if body == "human":
        put("palm", tool_to_world(tool, palm_to_tool(np.zeros(3))), _multiply(turn, _PALM_QUATERNION))
        wrist, elbow = human_arm(tool)
        put("forearm", wrist, _z_towards(elbow - wrist))
        for finger, joints in enumerate(tool_to_world(tool, hand_points(tool[4]))):
            for bone in range(3):
                put(f"bone{finger}{bone}", joints[bone], _z_towards(joints[bone + 1] - joints[bone]))
    else:
        put("gripper", tool[:3], turn)
        elbow, wrist = robot_arm(tool)
        put("upper_arm", SHOULDER, _z_towards(elbow - SHOULDER))
        put("forearm", elbow, _z_towards(wrist - elbow))
        data.qpos[:] = jaw_offset(tool[4])
    put("shadow", np.array([tool[0], tool[1], 0.0]), turn)
    for index, pose in enumerate(row["objects"]):
        put(f"thing{index}", pose[:3], _rotation("z", pose[3]))
    put("distractor", row["distractor"])
    x, y, z, yaw, pitch, roll = row["camera"]
    put(
        "head",
        np.array([x, y, z]),
        _multiply(_rotation("z", yaw), _rotation("x", math.pi / 2 + pitch), _rotation("z", roll)),
    )
    _light_up(model, row["light"])
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


def _light_up(model, light: np.ndarray) -> None:
    key, fill, warmth, azimuth, elevation = light.astype(np.float64)
    tint = np.array([1 + 0.25 * warmth, 1.0, 1 - 0.35 * warmth])
    model.light_diffuse[0] = key * tint
    model.vis.headlight.ambient[:] = fill * tint
    model.light_dir[0] = (
        -math.cos(elevation) * math.sin(azimuth),
        -math.cos(elevation) * math.cos(azimuth),
        -math.sin(elevation),
    )


def scene_xml(look: Look, *, body: Body, size: tuple[int, int]) -> str:
    """The scene as MJCF. Everything that moves is a mocap body, so nothing is simulated."""
    things = "".join(
        f'<body name="thing{index}" mocap="true">{_thing_geoms(thing)}</body>'
        for index, thing in enumerate(look.things)
    )
    return f"""<mujoco>
  <compiler angle="radian"/>
  <statistic extent="1" center="0 0.2 0"/>
  <visual><map znear="0.02" zfar="10"/><quality offsamples="0"/>
    <global offheight="{size[0]}" offwidth="{size[1]}"/><headlight diffuse="0.15 0.15 0.15" specular="0 0 0"/></visual>
  <default><geom contype="0" conaffinity="0"/></default>
  <asset>
    <texture name="table" type="2d" builtin="flat" width="{TEXTURE_SIZE}" height="{TEXTURE_SIZE}"/>
    <material name="table" texture="table" texrepeat="1 1" specular="0.1" shininess="0.1"/>
  </asset>
  <worldbody>
    <light name="key" directional="true" pos="0 0 2" dir="0 0 -1" ambient="0 0 0" specular="0.15 0.15 0.15"/>
    <geom type="box" size="0.55 0.42 0.02" pos="0 0.26 -0.02" material="table"/>
    <geom type="box" size="2 2 0.01" pos="0 1.5 -0.7" rgba="{_rgb(look.floor)} 1"/>
    <geom type="box" size="2 0.01 1.5" pos="0 1.6 0" rgba="{_rgb(look.wall)} 1"/>
    <body name="head" mocap="true"><camera name="head" fovy="{FIELD_OF_VIEW}"/></body>
    <body name="distractor" mocap="true">
      <geom type="sphere" size="{DISTRACTOR_RADIUS}" rgba="{_rgb(look.distractor)} 1"/></body>
    {things}
    {_hand_xml(look) if body == "human" else _gripper_xml(look)}
  </worldbody>
</mujoco>"""


def _thing_geoms(thing: Thing) -> str:
    """Primitives that stand inside a cylinder of the thing's radius and half height."""
    r, h, main, second = thing.radius, thing.half_height, _rgb(thing.colour), _rgb(thing.second_colour)
    side = r / math.sqrt(2)
    parts = {
        "box": [
            ("box", f"{side} {side} {h}", "0 0 0", main),
            ("box", f"{side * 0.7} {side * 0.7} 0.001", f"0 0 {h}", second),
        ],
        "cylinder": [("cylinder", f"{r} {h}", "0 0 0", main), ("cylinder", f"{r * 0.7} 0.001", f"0 0 {h}", second)],
        "ball": [("sphere", f"{r}", "0 0 0", main)],
        "tower": [
            ("cylinder", f"{r} {h / 2}", f"0 0 {-h / 2}", main),
            ("box", f"{side * 0.8} {side * 0.8} {h / 2}", f"0 0 {h / 2}", second),
        ],
        "mug": [
            ("cylinder", f"{r * 0.8} {h}", f"{-r * 0.2} 0 0", main),
            ("cylinder", f"{r * 0.6} 0.001", f"{-r * 0.2} 0 {h}", "0.1 0.1 0.1"),
            ("box", f"{r * 0.2} {r * 0.15} {h * 0.6}", f"{r * 0.78} 0 0", main),
        ],
        "bottle": [
            ("cylinder", f"{r} {h * 0.6}", f"0 0 {-h * 0.4}", main),
            ("cylinder", f"{r * 0.45} {h * 0.4}", f"0 0 {h * 0.6}", second),
        ],
        "cross": [
            ("box", f"{r * 0.92} {r * 0.35} {h}", "0 0 0", main),
            ("box", f"{r * 0.35} {r * 0.92} {h * 0.98}", "0 0 0", second),
        ],
    }[thing.shape]
    return "".join(f'<geom type="{kind}" size="{size}" pos="{pos}" rgba="{rgb} 1"/>' for kind, size, pos, rgb in parts)


def _hand_xml(look: Look) -> str:
    skin = f'rgba="{_rgb(look.skin)} 1"'
    bones = ""
    lengths = np.linalg.norm(np.diff(hand_points(1.0), axis=1), axis=-1)
    for finger in range(5):
        for bone in range(3):
            radius = FINGER_RADIUS * (1.25 if finger == 0 else 1.0) - 0.0009 * bone
            bones += (
                f'<body name="bone{finger}{bone}" mocap="true">'
                f'<geom type="capsule" size="{radius}" fromto="0 0 0 0 0 {lengths[finger, bone]}" {skin}/></body>'
            )
    sleeve = f'rgba="{_rgb(look.sleeve)} 1"'
    cuff = f'rgba="{_rgb(tuple(value * 0.7 for value in look.sleeve))} 1"'
    return f"""
    <body name="palm" mocap="true">
      <geom type="ellipsoid" size="0.046 0.058 0.019" {skin}/>
      <geom type="box" size="0.036 0.036 0.0125" pos="0 0.006 0" {skin}/>
      <geom type="ellipsoid" size="0.018 0.032 0.018" pos="-0.028 -0.012 -0.008" {skin}/>
      <geom type="capsule" size="0.023" fromto="0 -0.06 0 0 -0.03 0" {skin}/></body>
    {bones}
    <body name="forearm" mocap="true">
      <geom type="capsule" size="0.0235" fromto="0 0 0 0 0 0.1" {skin}/>
      <geom type="cylinder" size="0.036 0.010" pos="0 0 0.075" {cuff}/>
      <geom type="capsule" size="0.033" fromto="0 0 0.1 0 0 0.18" {sleeve}/>
      <geom type="capsule" size="0.037" fromto="0 0 0.18 0 0 0.5" {sleeve}/></body>
    <body name="shadow" mocap="true">
      <geom type="cylinder" size="0.055 0.0006" pos="0.01 -0.01 0" rgba="0 0 0 0.25"/></body>"""


def _gripper_xml(look: Look) -> str:
    arm, dark = f'rgba="{_rgb(look.arm)} 1"', f'rgba="{_rgb(look.gripper)} 1"'
    jaws = ""
    for side in (-1, 1):
        x, y, z = JAW_HALF_SIZE
        jaws += (
            f'<body><joint type="slide" axis="{side} 0 0"/>'
            f'<geom type="box" size="{x} {y} {z}" pos="{side * x} 0 {z - JAW_BELOW}" {dark}/>'
            f'<geom type="box" size="0.0015 {y * 0.8} 0.018" pos="{-side * 0.001} 0 {0.02 - JAW_BELOW}" '
            f'rgba="0.9 0.5 0.1 1"/></body>'
        )
    return f"""
    <body name="gripper" mocap="true">
      <geom type="box" size="0.056 0.022 0.016" pos="0 0 0.064" {dark}/>
      <geom type="cylinder" size="0.024 0.03" pos="0 0 0.095" {arm}/>
      <geom type="sphere" size="0.033" pos="0 0 {GRIPPER_WRIST}" {dark}/>{jaws}</body>
    <body name="upper_arm" mocap="true">
      <geom type="sphere" size="0.06" {dark}/>
      <geom type="capsule" size="0.042" fromto="0 0 0.03 0 0 {LINK}" {arm}/></body>
    <body name="forearm" mocap="true">
      <geom type="cylinder" size="0.046 0.05" euler="1.5708 0 0" {dark}/>
      <geom type="capsule" size="0.034" fromto="0 0 0 0 0 {LINK - 0.03}" {arm}/>
      <geom type="cylinder" size="0.0352 0.008" pos="0 0 {LINK - 0.12}" {dark}/></body>
    <body name="shadow" mocap="true">
      <geom type="cylinder" size="0.04 0.0006" rgba="0 0 0 0.25"/></body>"""


def _rgb(colour: Colour | tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in colour)


def _rotation(axis: str, angle: float) -> np.ndarray:
    """Quaternion (w, x, y, z) of a turn about a world axis."""
    quaternion = np.zeros(4)
    quaternion[0], quaternion["wxyz".index(axis)] = math.cos(angle / 2), math.sin(angle / 2)
    return quaternion


def _multiply(*quaternions: np.ndarray) -> np.ndarray:
    """Product of quaternions (w, x, y, z): the rightmost turn is applied first."""
    result = quaternions[0]
    for other in quaternions[1:]:
        (a, u), (b, v) = (result[0], result[1:]), (other[0], other[1:])
        result = np.concatenate([[a * b - u @ v], a * v + b * u + np.cross(u, v)])
    return result


def _z_towards(direction: np.ndarray) -> np.ndarray:
    """Quaternion that turns the z axis to a direction (3,)."""
    unit = direction / np.linalg.norm(direction)
    quaternion = np.array([1 + unit[2], -unit[1], unit[0], 0.0])
    return quaternion / np.linalg.norm(quaternion)


def _quaternion_of(matrix: np.ndarray) -> np.ndarray:
    """Quaternion (w, x, y, z) of a rotation matrix that turns by less than half a circle."""
    w = math.sqrt(1 + np.trace(matrix)) / 2
    skew = matrix - matrix.T
    return np.array([w, skew[2, 1] / (4 * w), skew[0, 2] / (4 * w), skew[1, 0] / (4 * w)])


_PALM_QUATERNION = _quaternion_of(PALM_TURN)
