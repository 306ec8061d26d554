"""`understudy evaluate lam`: the card of a latent action model on a folder of video."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.checkpoints import write_text
from lam.checkpoint import load_lam
from lam.data import evaluation_batches, open_clips, pair_config, split_as_trained
from lam.evaluate import LamCard, evaluate_pairs, reconstruction_sheet


def evaluate_lam(
    checkpoint: Path,
    folder: Path,
    *,
    pairs: int = 1024,
    held_out: bool = False,
    json_path: Path | None = None,
    sheet: Path | None = None,
    seed: int = 0,
) -> LamCard:
    """Measure the model on about `pairs` pairs of the folder (fewer where it gives fewer) and print the card."""
    loaded = load_lam(checkpoint)
    clips = open_clips([folder])
    if held_out:
        clips = split_as_trained(clips, loaded.config)[1]
    batches = evaluation_batches(clips, pair_config(loaded.config.data, loaded.config.model), pairs=pairs, seed=seed)
    card = evaluate_pairs(loaded.model, batches)
    print_card(card, title=f"{checkpoint} on {folder}: {card.pairs} pairs of {sum(map(len, clips.folders))} clips")
    if json_path:
        write_text(json_path, card.to_json())
    if sheet:
        reconstruction_sheet(loaded.model, batches[0], sheet)
    return card


def print_card(card: LamCard, *, title: str) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for row in card_rows(card):
        table.add_row(*row)
    Console().print(table)


def card_rows(card: LamCard) -> list[tuple[str, str, str]]:
    """(name, value, what it says) for people."""
    return [
        ("PSNR, own action", f"{card.psnr.own:.2f} dB", "the next frame, predicted with the pair's own latent action"),
        (
            "another's action",
            f"{card.psnr.shuffled:.2f} dB",
            "with another pair's, from another clip if it can: should be far lower",
        ),
        ("zero action", f"{card.psnr.zero:.2f} dB", "with none"),
        ("copy", f"{card.psnr.copy:.2f} dB", "the first frame itself: what any model must beat"),
        (
            "zero response",
            f"{card.zero_response:.3f}",
            "latent action where nothing happens, over its usual size: 0 is best",
        ),
        ("effective rank", f"{card.effective_rank:.1f} of {card.latent_dim}", "directions that the latent actions use"),
        ("nats", f"{card.nats:.1f}", "the most that one latent action can tell"),
    ]
