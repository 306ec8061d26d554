"""`understudy evaluate video`: opens a generator, clips and labels, has its rollouts measured, writes the card."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from common.checkpoints import write_text
from common.errors import BadData, UserError
from common.folders import Clip, open_folder
from scripts.demo_hands import human_demo, learn_to_find_hands, with_hands
from scripts.verb_options import check_outputs
from scripts.video_page import video_page
from scripts.video_table import print_card
from video_model.evaluate import FindHand, measure
from video_model.films import VideoSubject
from video_model.generator import LATENT, Generator, load_generator
from video_model.held_out import Window, read_windows
from video_model.labels import Labels
from video_model.rollout import rollout
from video_model.scorers import Scorers
from video_model.video_card import VideoCard

DRIFT_WINDOWS = 4  # training windows that the drift is measured over


def evaluate_video(
    checkpoint: Path,
    data: Path,
    *,
    labels: Path,
    windows: int = 64,
    long_windows: int = 16,
    batch_size: int = 8,
    steps: int | None = None,
    lpips: Path | None = None,
    fvd: Path | None = None,
    json_path: Path | None = None,
    html_path: Path | None = None,
    seed: int = 0,
) -> VideoCard:
    """Measure the generator's rollouts; print the card, then write what was asked for.

    data: a folder of video that training did not see; labels: what `understudy label` made of it. windows,
    long_windows: about so many, spread over the clips. steps: sampling steps, by default the checkpoint's. UserError
    and BadData before anything is written.
    """
    if min(windows, long_windows, batch_size) < 1:
        raise UserError("--windows, --long-windows and --batch-size must be at least 1")
    check_outputs(json_path, html_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator, known = load_generator(checkpoint).to(device), Labels.open(labels)
    check_labels(generator, known, labels)
    scorers = Scorers.open(lpips=lpips, fvd=fvd, device=device)
    clips = open_folder(data).clips
    known.require(clips)
    window = generator.config.data
    size, length = (window.height, window.width), window.frames - 1
    short = read_windows(clips, known.clip, size=size, steps=length, limit=windows)
    long = read_windows(clips, known.clip, size=size, steps=DRIFT_WINDOWS * length, limit=long_windows)
    if not short:
        raise BadData(
            f"no clip of {data} has {length + 1} labelled frames in one scene",
            hint="Give longer clips; the model was trained on windows of that length.",
        )
    short, find_hand = _hands(short, clips, data, size=size, seed=seed, device=device)
    with tqdm(desc="measuring", unit=" batches", disable=None, leave=False) as bar:

        def progress(what: str) -> None:
            bar.set_description(what)
            bar.update()

        card, films = measure(
            video_subject(generator, str(checkpoint), known, steps=steps),
            short,
            long,
            data=data.resolve().name,
            scorers=scorers,
            find_hand=find_hand,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    text, page = card.to_json(), video_page(card, films) if html_path else ""
    print_card(card)
    if json_path:
        write_text(json_path, text)
    if html_path:
        write_text(html_path, page)
    return card


def check_labels(generator: Generator, known: Labels, folder: Path) -> None:
    """UserError unless the labels are of the kind that the generator learned from."""
    learned = generator.embodiment(LATENT)
    if (known.latent_dim, known.camera_dim) != (learned.act_dim, learned.camera_dim):
        raise UserError(
            f"{folder} holds actions of {known.latent_dim} + {known.camera_dim} values; the model learned from "
            f"{learned.act_dim} + {learned.camera_dim}",
            hint="Label the folder with the latent action model that labelled the training videos.",
        )
    if known.fps is not None and known.fps != learned.fps:
        raise UserError(
            f"{folder} was labelled at {known.fps:g} frames/s; the model learned at {learned.fps:g}",
            hint=f"understudy label … --fps {learned.fps:g}",
        )


def video_subject(generator: Generator, name: str, known: Labels, *, steps: int | None) -> VideoSubject:
    """steps: for each latent, by default the checkpoint's."""

    def roll(first: Tensor, actions: Tensor, seed: int) -> Tensor:
        return rollout(generator, first, actions, steps=steps, seed=seed)

    @torch.inference_mode()
    def reconstruct(films: Tensor) -> Tensor:
        return generator.tokenizer.decode(generator.tokenizer.encode(films))

    return VideoSubject(
        name, roll, reconstruct, known.latent_dim, device=generator.device, forecast=generator.forecaster
    )


def _hands(
    windows: list[Window],
    clips: Sequence[Clip],
    data: Path,
    *,
    size: tuple[int, int],
    seed: int,
    device: torch.device,
) -> tuple[list[Window], FindHand | None]:
    """In the demo world: the windows with the hand's places, and a probe learned on its training videos."""
    demo = human_demo(data)
    if demo is None:
        return windows, None
    root, below = demo
    known = with_hands(windows, clips, root / "factors" / below)
    return known, learn_to_find_hands(root / "human/train", size=size, seed=seed, device=device)
