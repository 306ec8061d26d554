"""`understudy serve` and `understudy replay`: opens a model for a live session, and makes a recorded one again.

Torch comes with the model, in the thread that loads it, so that the server answers at once.
"""

import _thread
import logging
import os
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import BadData, MissingDependency, UserError

if TYPE_CHECKING:
    from simulator.engine import Engine
    from simulator.replay import ReplayReport
    from simulator.session import Session
    from simulator.takes import Scene

DEMO_FPS = 20.0
"""Twice the rate of the demo's model, so that a control can matter every 200 ms."""
DEMO_EPISODES = "36:40"
"""Of the split "test": all but the first, which begins with the tool at the picture's edge."""
INSTALL = "pip install 'understudy[serve]'"


@dataclass(frozen=True)
class Served:
    """What is served; nothing of it is opened yet."""

    checkpoint: Path
    data: tuple[Path, ...]
    recordings: Path
    robot: str | None = None
    split: str | None = None
    camera: str | None = None
    actions: Path | None = None
    fps: float | None = None
    """Frames shown per second; by default the model's rate."""
    steps: int | None = None
    still_camera: bool = False
    policy: str | None = None
    prompt: str = ""


def demo(
    recordings: Path,
    *,
    fps: float | None = None,
    steps: int | None = None,
    policy: str | None = None,
    prompt: str = "",
) -> Served:
    """The student that comes with Understudy, at the beginnings of episodes that it never saw."""
    here = Path(__file__).parent
    return Served(
        here / "demo_student",
        (here / "demo_set" / "robot",),
        recordings,
        split=DEMO_EPISODES,
        fps=fps or DEMO_FPS,
        steps=steps,
        still_camera=True,
        policy=policy,
        prompt=prompt,
    )


def run_server(
    served: Served,
    *,
    host: str,
    port: int,
    token: str | None,
    allowed_hosts: Sequence[str],
    takeover: bool,
    open_page: bool,
) -> None:
    """Serve until Ctrl-C. UserError and BadData for what cannot be opened, also if that is found out late."""
    _require_packages(served)
    for path in (served.checkpoint, *served.data, *([served.actions] if served.actions else [])):
        if not path.exists():
            raise UserError(f"{path} does not exist")
    from simulator.guard import Security
    from simulator.server import build_app, serve

    logging.getLogger("simulator.room").setLevel(logging.CRITICAL)  # what fails in loading is this verb's own failure
    security = Security.of(host, token=token, allowed_hosts=allowed_hosts, takeover=takeover)
    loading = Loading(lambda: open_engine(served))

    def listening(bound: int) -> None:
        name = f"[{host}]" if ":" in host else host
        link = f"http://{name}:{bound}/" + (f"#token={security.token}" if security.token else "")
        print(f"listening: {link}   (the model is loading; Ctrl-C ends)", flush=True)
        if open_page:
            threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()

    app = build_app(loading.load, security=security, recordings=served.recordings)
    serve(app, host, port, listening=listening)
    if loading.error:
        raise loading.error


class Loading:
    """Opens the engine in the server's thread; if that fails, ends the server, so that the verb fails."""

    def __init__(self, load: "Callable[[], Engine]") -> None:
        self._load = load
        self.error: Exception | None = None

    def load(self) -> "Engine":
        try:
            return self._load()
        except Exception as error:
            self.error = error
            _thread.interrupt_main()
            raise


def open_engine(served: Served) -> "Engine":
    """Model, scenes and policy, ready to start."""
    from scripts.serve_scenes import scenes_of
    from simulator.columns import session_columns
    from simulator.engine import Engine
    from simulator.replay import origin_of

    session = open_session(served.checkpoint, served.robot, steps=served.steps, still_camera=served.still_camera)
    scenes = scenes_of(
        session.robot or session.generator,
        served.data,
        split=served.split,
        camera=served.camera,
        actions=served.actions,
    )
    policy = None
    if served.policy:
        from simulator.policy import RemotePolicy

        policy = RemotePolicy(served.policy, prompt=served.prompt)
    rate = session_columns(session)[1]
    fps = served.fps or rate
    engine = Engine(
        session,
        scenes,
        fps=fps,
        recordings=served.recordings,
        policy=policy,
        origin=origin_of(served.checkpoint, session),
    )
    _warm_up(session, scenes[0])
    speed = "" if fps == rate else f" ({fps / rate:.3g} times as fast as the model's {rate:g})"
    print(
        f"ready: {_what(session)}, {len(scenes)} scenes; 4 frames per pass at {fps:g} frames/s{speed}: "
        f"a control can matter every {4000 / fps:.0f} ms",
        flush=True,
    )
    return engine


def open_session(checkpoint: Path, robot: str | None, *, steps: int | None, still_camera: bool = False) -> "Session":
    """A robot of the checkpoint, or, where it knows none, its generator; on a GPU, if there is one, in bfloat16."""
    import torch

    from align.robot import Robot, load_robot, robot_names
    from simulator.session import Session
    from video_model.generator import load_generator

    known = robot_names(checkpoint)
    driven = load_robot(checkpoint, robot) if known or robot else load_generator(checkpoint)
    generator = driven.generator if isinstance(driven, Robot) else driven
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        # Threads that wait for each other lose more than they gain where the browser takes a core, too.
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    if torch.cuda.is_available():
        generator.to("cuda")
        torch.nn.Module.to(generator.model, torch.bfloat16)
    session = Session(driven, steps=steps, still_camera=still_camera)
    if torch.cuda.is_available():
        half = torch.autocast("cuda", dtype=torch.bfloat16)
        session.reset, session.step = half(session.reset), half(session.step)
    return session


def replay_recording(folder: Path, checkpoint: Path | None) -> "ReplayReport":
    """Make a recording again; one that was cut off is finished first. BadData if it is none."""
    from tqdm import tqdm

    from simulator.recording import finish, read_recording
    from simulator.replay import origin_of, replay

    recording = read_recording(folder)
    if not recording.finished:
        try:
            print(f"{folder} was cut off; finished with {finish(folder)} frames")
        except BadData as error:  # cut off before any picture was on disk; what was done can be there all the same
            print(error)
    origin = recording.session["origin"]
    if checkpoint is None and not origin:
        raise UserError(f"{folder} does not say which model made it", hint="Name it: --checkpoint CHECKPOINT")
    source = checkpoint or Path(origin["checkpoint"])
    if not source.exists():
        raise UserError(f"{source} does not exist", hint="Where is the model now? --checkpoint CHECKPOINT")
    known = origin or {}
    session = open_session(
        source, known.get("robot"), steps=known.get("steps"), still_camera=known.get("still_camera", False)
    )
    total = sum(len(filmed.take.passes) for filmed in recording.takes)
    with tqdm(desc="making it again", total=total, unit=" passes", disable=None, leave=False) as bar:
        try:
            return replay(recording, session, origin_of(source, session), progress=bar.update)
        except ValueError as error:
            raise BadData(f"{folder} does not fit {source}: {error}") from error


def _warm_up(session: "Session", scene: "Scene") -> None:
    """One pass, since the first takes longer: kernels are chosen, and memory is taken."""
    import numpy as np

    session.reset(scene.first_frame, seed=0, before=scene.before)
    session.step(np.empty((0, session.width)))


def _what(session: "Session") -> str:
    return f"robot '{session.robot.embodiment.name}'" if session.robot else "latent actions"


def _require_packages(served: Served) -> None:
    """MissingDependency for what only this verb needs."""
    from importlib.util import find_spec

    needed = ["starlette", "uvicorn", "websockets", *(["msgpack"] if served.policy else [])]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise MissingDependency(f"{', '.join(missing)} is not installed", hint=INSTALL)
