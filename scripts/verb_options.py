"""What the verbs share: options read by tyro from a function's signature, presets by name, and files left out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from common.config import nearest
from common.errors import UserError

Json = Annotated[Path | None, arg(name="json", help="Also write the numbers to this file.")]
Html = Annotated[Path | None, arg(name="html", help="Also write a page with plots and short films: one file.")]


def parse(function: Callable[..., Any], words: list[str], program: str) -> Any:
    return tyro.cli(function, args=words, prog=program)


def preset_named(words: list[str], program: str, presets: Mapping[str, Any]) -> str:
    """The preset's name, which is the first word. It decides the defaults that tyro shows and fills in."""
    given = bool(words) and not words[0].startswith("-")
    if not given and not {"-h", "--help"} & set(words):
        raise UserError(
            "which preset?", hint=f"{program} PRESET --data FOLDER --out RUN; there are: {', '.join(presets)}"
        )
    name = words[0] if given else "tiny"
    if name not in presets:
        raise UserError(f"there is no preset '{name}'; {nearest(name, presets)}")
    return name


def check_outputs(*paths: Path | None) -> None:
    """UserError, before all the work, for a file that could not be written after it."""
    for path in paths:
        if path is not None and (path.is_dir() or any(parent.is_file() for parent in path.parents)):
            raise UserError(f"{path} cannot be written: it, or what it lies in, is there already")


def list_bad(bad: Any) -> None:
    from common.folders import printable

    for file in bad:
        print(f"left out: {printable(file.name)}: {file.reason}")
