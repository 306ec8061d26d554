"""Sheets of pictures to look at while something trains."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor


def write_sheet(
    rows: Sequence[tuple[str, Tensor]], path: Path, *, label_width: int = 110, least_height: int = 96
) -> None:
    """Write a PNG: rows of pictures (N, 3, H, W) in [-1, 1] beside their labels; small ones enlarged in whole steps."""
    count, _, height, width = rows[0][1].shape
    scale = -(-least_height // height)
    cell_height, cell_width = height * scale + 2, width * scale + 2
    sheet = Image.new("RGB", (label_width + count * cell_width, len(rows) * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, pictures) in enumerate(rows):
        draw.multiline_text((6, row * cell_height + cell_height // 2), label, fill="black", anchor="lm")
        pixels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for column, picture in enumerate(pixels):
            enlarged = Image.fromarray(picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (label_width + column * cell_width, row * cell_height))
    sheet.save(path, format="PNG")
