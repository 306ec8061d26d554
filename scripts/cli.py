"""`understudy VERB …`: finds the verb, runs it, and turns errors into one message and an exit code.

Exit codes: 0 done, 2 wrong usage, 3 missing dependency, 4 bad data, 75 stopped by a signal and saved.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from common.config import nearest
from common.errors import BadData, UserError

Verb = Callable[[list[str], str], Any]
"""(arguments after the verb, name of the program for help texts) -> nothing that matters"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command. `--debug` anywhere shows the traceback of an error instead of its message."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        verb, rest, program = find_verb(words)
        verb(rest, program)
        return 0
    except (UserError, OSError) as error:
        if debug:
            raise
        return report(error)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as leaving:  # tyro has printed help (0) or what is wrong with the options (2)
        return leaving.code if isinstance(leaving.code, int) else 2


def report(error: UserError | OSError) -> int:
    """Print what went wrong and, on the last line, what to do next; returns the exit code."""
    text = (
        str(error)
        if isinstance(error, UserError)
        else f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    )
    print(f"error: {text}", file=sys.stderr)
    hint = getattr(error, "hint", "") or "`understudy --help` lists the verbs; --debug shows where this happened."
    print(hint, file=sys.stderr)
    return error.exit_code if isinstance(error, UserError) else BadData.exit_code


def find_verb(words: list[str]) -> tuple[Verb, list[str], str]:
    """Walk the tree of verbs; UserError with the nearest name for an unknown one, SystemExit(0) after a help text."""
    from scripts import verbs

    node: dict[str, Any] = verbs.TREE
    path: list[str] = []
    for position, word in enumerate([*words, "--help"]):
        if word in ("-h", "--help"):
            print(help_text(node, path))
            raise SystemExit(0)
        if word == "--version":
            from importlib.metadata import version

            print(f"understudy {version('understudy')}")
            raise SystemExit(0)
        if word not in node:
            raise UserError(f"'{' '.join(['understudy', *path, word])}' is no verb; {nearest(word, node)}")
        path.append(word)
        if callable(node[word]):
            return node[word], words[position + 1 :], " ".join(["understudy", *path])
        node = node[word]
    raise AssertionError("unreachable: the added --help ends the walk")


def help_text(node: dict[str, Any], path: list[str]) -> str:
    """The verbs below `node`, one line each."""
    lines = [f"usage: {' '.join(['understudy', *path])} VERB …", ""]
    if not path:
        lines += ["Learn actions from raw first-person video, and drive a robot inside what was learned.", ""]

    def walk(children: dict[str, Any], names: list[str]) -> None:
        for name, child in children.items():
            if callable(child):
                about = (child.__doc__ or "").strip().splitlines()[0]
                lines.append(f"  {' '.join([*names, name]):<26} {about}")
            else:
                walk(child, [*names, name])

    walk(node, path)
    lines += ["", f"`{' '.join(['understudy', *path])} VERB --help` shows a verb's options."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
