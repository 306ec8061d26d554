"""`understudy evaluate lam`: opens models and data folders, has them measured, prints and writes the card."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from align.lerobot_reader import is_lerobot
from common.checkpoints import durable_file, write_text
from common.errors import BadData, UserError
from lam.card import Card, Entrant, baselines, make_card
from lam.checkpoint import load_lam
from lam.data import open_clips, pair_batch, split_as_trained
from lam.evaluate import reconstruction_sheet
from lam.gates import Role
from lam.presets import LamConfig
from lam.sequences import EvaluationSet
from lam.subjects import LamSubject, Subject, open_callable
from scripts.card_table import print_card
from scripts.evaluation_data import open_evaluation_set, render_demo_set
from scripts.lam_page import card_page
from scripts.lam_pictures import films
from scripts.verb_options import check_outputs

NUISANCES = (0.5, 1.0, 2.0, 4.0)
SWEEP_EPISODES = 12  # rendered at each strength
LABEL_FREE_PAIRS = 1024  # at most; the probes see all pairs
SHEET_PAIRS = 8


def evaluate_lam(
    checkpoint: str,
    data: Sequence[Path],
    *,
    against: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    gap: float = 0.1,
    pairs: int = 2048,
    held_out: bool = False,
    split: str | None = None,
    probe_onto: Path | None = None,
    sweep: bool = False,
    fast: bool = False,
    json_path: Path | None = None,
    html_path: Path | None = None,
    sheet: Path | None = None,
    seed: int = 0,
) -> Card:
    """Measure the model, the others and the baselines; print the card, then write what was asked for.

    The arguments are those of the verb. UserError, MissingDependency and BadData before anything is written.
    """
    (model, config), *others = _open_subjects([checkpoint, *against], size=size)
    if sheet and config is None:
        raise UserError("--sheet takes a checkpoint", hint="--html shows films of any model that has a `decode`.")
    _check_folders(data, onto=probe_onto, split=split, outputs=(json_path, html_path, sheet))
    kept = _left_out_of_training(data, config) if held_out else None

    @cache
    def read(path: Path, size: tuple[int, int]) -> EvaluationSet:
        limit = pairs if kept is None else round(pairs / kept.share)
        only = split if is_lerobot(path) else None
        found = open_evaluation_set(path, size=size, gap_seconds=gap, limit=limit, split=only)
        return found if kept is None else kept.of(found, path)

    @cache
    def render(size: tuple[int, int]) -> dict[float, EvaluationSet]:
        return {
            strength: render_demo_set(strength, episodes=SWEEP_EPISODES, gap_seconds=gap, size=size, seed=0)
            for strength in NUISANCES
        }

    def entrant(subject: Subject, role: Role) -> Entrant:
        return Entrant(
            subject,
            role,
            sets=tuple(read(path, subject.size) for path in data),
            onto=read(probe_onto, subject.size) if probe_onto else None,
            sweep=render(subject.size) if sweep else None,
        )

    with tqdm(desc="reading", unit=" parts", disable=None, leave=False) as bar:

        def progress(what: str) -> None:
            bar.set_description(what)
            bar.update()

        first = entrant(model, "model")
        entrants = [first, *(entrant(subject, "against") for subject, _ in others)]
        entrants += [entrant(subject, "baseline") for subject in baselines(model, first.sets, seed=seed)]
        most = min(pairs, LABEL_FREE_PAIRS)
        card = make_card(entrants, gap_seconds=gap, seed=seed, fast=fast, label_free_pairs=most, progress=progress)
        progress("page")
        shown = films(model, first.sets[0], card.sets[0].subjects[0].label_free.gains) if html_path else ()
    text, page = card.to_json(), card_page(card, shown) if html_path else ""
    print_card(card)
    if json_path:
        write_text(json_path, text)
    if html_path:
        write_text(html_path, page)
    if sheet and isinstance(model, LamSubject):
        _write_sheet(model, first.sets[0], sheet)
    return card


Opened = tuple[Subject, LamConfig | None]
"""A subject, and the config of a checkpoint."""


@dataclass(frozen=True)
class LeftOut:
    """The clips of a folder that training on it did not see."""

    names: frozenset[str]
    share: float
    """Of all clips."""

    def of(self, found: EvaluationSet, path: Path) -> EvaluationSet:
        """The part of a set that is left out of training. BadData with fewer than 2 clips."""
        kept = replace(found, sequences=tuple(clip for clip in found.sequences if clip.clip in self.names))
        if len(kept.clips) < 2:
            raise BadData(
                f"training on {path} left out {len(self.names)} clips, which give {len(kept.clips)} here; 2 are needed",
                hint="Train with a larger --data.validation-share, or give a folder that was not trained on.",
            )
        return kept


def _open_subjects(references: Sequence[str], *, size: tuple[int, int] | None) -> list[Opened]:
    """Checkpoints and Python functions, each under a name of its own. UserError where one is given twice."""
    if len(set(references)) < len(references):
        raise UserError("a model is given twice", hint="--against takes other models than the first.")
    functions = [":" in reference and not Path(reference).exists() for reference in references]
    if any(functions) and size is None:
        raise UserError("how large are the frames that the function takes?", hint="--size HEIGHT WIDTH")
    if size is not None and (not any(functions) or min(size) < 16):
        raise UserError(f"--size {size[0]} {size[1]} is for Python functions, from 16 pixels; a checkpoint has its own")
    return [
        (open_callable(reference, size=size), None) if function and size else _open_checkpoint(reference)
        for reference, function in zip(references, functions, strict=True)
    ]


def _open_checkpoint(reference: str) -> Opened:
    loaded = load_lam(Path(reference))
    model = loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return LamSubject(model, name=reference.rstrip("/")), loaded.config


def _check_folders(
    data: Sequence[Path], *, onto: Path | None, split: str | None, outputs: Sequence[Path | None]
) -> None:
    """UserError for what would only come out after all is measured."""
    if not data:
        raise UserError("which data? give one folder or more", hint="understudy evaluate lam CHECKPOINT DATA…")
    if len({path.resolve() for path in data}) < len(data):
        raise UserError("a data folder is given twice")
    if onto and onto.resolve() == data[0].resolve():
        raise UserError(f"--probe-onto {onto} is what the probes are learned on", hint="Give another folder.")
    if split is not None and not any(map(is_lerobot, data)):
        raise UserError(f"--split {split} is for LeRobot datasets, and none is given")
    check_outputs(*outputs)


def _left_out_of_training(data: Sequence[Path], config: LamConfig | None) -> LeftOut:
    if config is None or len(data) != 1 or is_lerobot(data[0]):
        raise UserError("--held-out is for a checkpoint and the one folder of video that it was trained on")
    clips = open_clips(data)
    names = frozenset(clip.name for folder in split_as_trained(clips, config)[1].folders for clip in folder)
    return LeftOut(names, len(names) / sum(map(len, clips.folders)))


def _write_sheet(model: LamSubject, data: EvaluationSet, path: Path) -> None:
    """A picture of pairs spread evenly over the set."""
    places = [(clip, t) for clip in data.sequences for t in range(len(clip.frames) - 1)]
    rows = np.unique(np.linspace(0, len(places) - 1, min(SHEET_PAIRS, len(places))).round().astype(int))
    chosen = [places[row] for row in rows]
    frames = torch.from_numpy(np.stack([clip.frames[t : t + 2] for clip, t in chosen]))
    batch = pair_batch(frames, [clip.clip for clip, _ in chosen]).to(next(model.model.parameters()).device)
    with durable_file(path) as temporary:
        reconstruction_sheet(model.model, batch, temporary)
