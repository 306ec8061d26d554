"""`understudy evaluate student`: opens student, teacher, clips and labels, has them measured, writes the card."""

from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from common.checkpoints import write_text
from common.errors import BadData, UserError
from common.folders import open_folder
from distill.card import Speed, StudentCard
from distill.evaluate import LEAST_FRAMES, measure, megabytes_in_use, streamed
from scripts.bench_parts import device_name
from scripts.bench_student import precision_on, time_ways
from scripts.evaluate_video import check_labels, video_subject
from scripts.student_page import student_page
from scripts.student_table import print_card
from scripts.verb_options import check_outputs
from simulator.session import Session
from video_model.generator import Generator, load_generator
from video_model.held_out import read_windows
from video_model.labels import Labels

TIMED_LATENTS = 40


def evaluate_student(
    student: Path,
    data: Path,
    *,
    teacher: Path,
    labels: Path,
    teacher_steps: int | None = None,
    decoder: Literal["tiny", "full"] = "tiny",
    windows: int = 16,
    horizons: tuple[int, ...] = (13, 49, 240, 600),
    minutes: float = 10.0,
    seeds: int = 4,
    json_path: Path | None = None,
    html_path: Path | None = None,
    seed: int = 0,
) -> StudentCard:
    """Measure a student beside its teacher; print the card, then write what was asked for.

    data: a folder of video that training did not see; labels: what `understudy label` made of it. teacher_steps: for
    each latent, by default the checkpoint's. decoder: the student's, if it has a tiny one; the teacher's is always its
    tokenizer's. windows: of each horizon, about. UserError and BadData before anything is written.
    """
    _check_options(horizons, windows=windows, minutes=minutes, seeds=seeds, teacher_steps=teacher_steps)
    check_outputs(json_path, html_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own, other, known = load_generator(student).to(device), load_generator(teacher).to(device), Labels.open(labels)
    for generator in (own, other):
        check_labels(generator, known, labels)
    _check_alike(own, other, student, teacher)
    own = own.live() if decoder == "tiny" else own
    clips = open_folder(data).clips
    known.require(clips)
    shown = own.config.data
    size = (shown.height, shown.width)
    found = {
        frames: read_windows(clips, known.clip, size=size, steps=frames - 1, limit=windows)
        for frames in dict.fromkeys(horizons)
    }
    if not any(found.values()):
        raise BadData(
            f"no clip of {data} has {min(found)} labelled frames in one scene",
            hint="Give longer clips, or a shorter horizon with --horizons.",
        )
    sessions = [Session(own, decoder=decoder), Session(other, steps=teacher_steps, decoder="full")]

    def time() -> Speed:
        costs = time_ways(sessions, latents=TIMED_LATENTS)
        return Speed(device_name(device), precision_on(device), torch.get_num_threads(), *costs)

    with tqdm(desc="measuring", unit=" parts", disable=None, leave=False) as bar:

        def progress(what: str) -> None:
            bar.set_description(what)
            bar.update()

        measured = measure(
            video_subject(own, str(student), known, steps=None),
            video_subject(other, str(teacher), known, steps=teacher_steps),
            found,
            data=data.resolve().name,
            fps=shown.fps,
            begin=streamed(own, steps=own.config.sampling_steps),
            time=time,
            memory=lambda: megabytes_in_use(device),
            minutes=minutes,
            seeds=seeds,
            seed=seed,
            progress=progress,
        )
    card = measured.card
    text, page = card.to_json(), student_page(measured) if html_path else ""
    print_card(card)
    if json_path:
        write_text(json_path, text)
    if html_path:
        write_text(html_path, page)
    return card


def _check_options(
    horizons: tuple[int, ...], *, windows: int, minutes: float, seeds: int, teacher_steps: int | None
) -> None:
    if not horizons or min(horizons) < LEAST_FRAMES:
        raise UserError(
            f"--horizons must be {LEAST_FRAMES} frames or more, not {', '.join(map(str, horizons)) or 'none'}",
            hint="13 49 240 600 are the usual ones; those for which no clip is long enough are left out.",
        )
    if windows < 1 or (teacher_steps is not None and teacher_steps < 1):
        raise UserError("--windows and --teacher-steps must be at least 1")
    if not minutes >= 1:
        raise UserError(f"--minutes must be at least 1, not {minutes:g}", hint="Memory is compared by half minutes.")
    if seeds < 2:
        raise UserError(f"--seeds-diversity must be at least 2, not {seeds}", hint="One film has no spread.")


def _check_alike(student: Generator, teacher: Generator, student_path: Path, teacher_path: Path) -> None:
    """UserError unless both make the same kind of film."""
    ours, theirs = (
        (generator.config.data.height, generator.config.data.width, generator.config.data.fps)
        for generator in (student, teacher)
    )
    if ours != theirs:
        said = [f"{rows}x{columns} at {fps:g} frames/s" for rows, columns, fps in (ours, theirs)]
        raise UserError(
            f"{student_path} makes films of {said[0]}, {teacher_path} of {said[1]}",
            hint="Give the teacher that this student was distilled from.",
        )
