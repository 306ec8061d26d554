"""Makes a recorded session again, frame by frame, and compares hashes: a film is a function of what was logged."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common.checkpoints import MANIFEST, find_checkpoint
from simulator.recording import Origin, Recording
from simulator.session import Session
from simulator.takes import frame_hash


@dataclass(frozen=True)
class ReplayReport:
    """What was made again. Without first frames, which are given."""

    takes: int
    passes: int
    frames: int
    equal: int
    first_unequal: int | None
    """Number of the first frame that is another, counted through all takes from 1; None if all are equal."""
    same_model: bool
    """Whether the checkpoint has the recorded one's checksum, robot, steps and kind of camera."""
    same_machine: bool
    """Whether device and versions are the recorded ones; on others, frames may differ in the last bit."""

    @property
    def all_equal(self) -> bool:
        return self.equal == self.frames

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "all_equal": self.all_equal}, indent=1)


def replay(
    recording: Recording, session: Session, origin: Origin, *, progress: Callable[[], object] = lambda: None
) -> ReplayReport:
    """Make every frame of the recording again, in its order. origin: of the model in `session`. progress: after each
    pass. ValueError if the recording's pictures or controls are of another shape than the model's."""
    frames = equal = passes = 0
    first_unequal: int | None = None
    for filmed in recording.takes:
        take = filmed.take
        session.reset(take.first_frame, seed=take.seed, before=take.before)
        for recorded in take.passes:
            made = session.step(recorded.controls)
            passes += 1
            for frame, expected in zip(made.frames, recorded.hashes, strict=True):
                frames += 1
                if frame_hash(frame) == expected:
                    equal += 1
                elif first_unequal is None:
                    first_unequal = frames
            progress()
    then = recording.session["origin"] or {}
    return ReplayReport(
        takes=len(recording.takes),
        passes=passes,
        frames=frames,
        equal=equal,
        first_unequal=first_unequal,
        same_model=all(then.get(key) == getattr(origin, key) for key in ("checksum", "robot", "steps", "still_camera")),
        same_machine=then.get("machine") == origin.machine,
    )


def origin_of(checkpoint: Path, session: Session) -> Origin:
    """What recordings of the session will say of its model."""
    robot = session.robot.embodiment.name if session.robot else None
    return Origin(
        str(checkpoint),
        checksum(checkpoint),
        robot,
        session.steps,
        session.still_camera,
        machine(session.generator.device),
    )


def checksum(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint: of its manifest, which holds every file's checksum, or, without one, of its files."""
    folder = find_checkpoint(checkpoint)
    if (folder / MANIFEST).is_file():
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def machine(device: torch.device) -> str:
    """Device, versions and threads: all on which the last bit of a frame may depend."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
