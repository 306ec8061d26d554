"""`understudy quickstart`, `doctor` and `bench …`: the whole pipeline, and what this machine has and can do.

Modules that import torch, PyAV or pyarrow are imported inside the verb, so that help texts stay quick.
"""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from scripts.verb_options import Json, parse


def quickstart(words: list[str], program: str) -> None:
    """the whole pipeline on the demo world, then a report"""

    def run(
        out: Path = Path("runs/quickstart"), lam_steps: int = 500, video_steps: int = 500, student_steps: int = 20
    ) -> None:
        """Train a latent action model on the demo videos that come with the package, label them, train a video model
        on both, roll it out, align it to the demo robot, distil it to a student that streams, and write a report.

        Args:
            out: Folder for everything that is made.
            lam_steps: Training steps of the latent action model.
            video_steps: Training steps of the video model.
            student_steps: Training steps of the student on its own films, after three times as many on true ones.
        """
        from scripts.quickstart import quickstart

        quickstart(out, lam_steps=lam_steps, video_steps=video_steps, student_steps=student_steps)

    parse(run, words, program)


def doctor(words: list[str], program: str) -> None:
    """versions, devices, codecs, disk; what is missing and how to get it"""

    def run() -> None:
        """Look at this machine: versions, devices, codecs, disk; what is missing and how to get it."""
        from scripts.doctor import doctor

        doctor()

    parse(run, words, program)


def bench_decode(words: list[str], program: str) -> None:
    """CPU milliseconds per training pair, beside seek-and-decode and OpenCV"""

    def run(files: Positional[tuple[Path, ...]], /, json_file: Json = None, size: tuple[int, int] = (240, 320)) -> None:
        """Measure CPU time per frame pair and peak memory, each way in a process of its own.

        Args:
            files: Video files.
            size: Height and width of a training frame.
        """
        from scripts.bench_decode import bench_decode

        bench_decode(files, size=size, json_path=json_file)

    parse(run, words, program)


def bench_lam(words: list[str], program: str) -> None:
    """milliseconds per training step, and the share spent in attention"""

    def run(json_file: Json = None) -> None:
        """Time one training step of DreamDojo's architecture beside the published attention: at reduced size in fp32
        on a CPU, at 700 M in bf16 on a CUDA device."""
        from scripts.bench_lam import bench_lam

        bench_lam(json_path=json_file)

    parse(run, words, program)


def bench_video(words: list[str], program: str) -> None:
    """milliseconds per forward pass of the video model, beside diffusers' network, and per training step"""

    def run(json_file: Json = None) -> None:
        """Time a forward pass beside diffusers' Cosmos network with the same weights, and a training step: on a CPU a
        reduced network in fp32 and `tiny`, on a CUDA device the 2B shape in bf16."""
        from scripts.bench_video import bench_video

        bench_video(json_path=json_file)

    parse(run, words, program)


def bench_student(words: list[str], program: str) -> None:
    """frames per second and latency of a student's stream, beside its teacher and DreamDojo's re-encoding"""

    def run(
        checkpoint: Positional[Path | None] = None,
        /,
        teacher: Path | None = None,
        steps: int | None = None,
        teacher_steps: int = 16,
        size: Literal["tiny", "small", "cosmos-2b"] | None = None,
        latents: int = 40,
        json_file: Json = None,
    ) -> None:
        """Stream a student, its teacher, and the student in DreamDojo's way (decode, encode 13 frames again, fill the
        cache again), in turns in one run.

        Args:
            checkpoint: The student's checkpoint folder, or the folder of a run (its newest checkpoint).
            teacher: The teacher's checkpoint; by default the student's own network.
            steps: Sampling steps per latent; by default as the student was trained for.
            teacher_steps: The teacher's.
            size: Random weights of this preset's sizes, in place of a checkpoint.
            latents: How many of them, four frames each, are made under the clock.
        """
        from scripts.bench_student import bench_student

        bench_student(
            checkpoint,
            size=size,
            teacher=teacher,
            steps=steps,
            teacher_steps=teacher_steps,
            latents=latents,
            json_path=json_file,
        )

    parse(run, words, program)
