"""Corrections of a robot's controls, as the command line takes them: `--set left_arm.kind=delta`."""

import json
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from align.control_group import ControlGroup
from common.config import nearest
from common.errors import UserError

SETTABLE = ("kind", "rotation", "frame", "wraps", "unit", "limits", "name")
EXAMPLE = "--set GROUP.FIELD=VALUE, for example --set left_arm.kind=delta"


def read_changes(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["left_arm.kind=delta"] -> {"left_arm": {"kind": "delta"}}, for `align.embodiment.override`.

    A group may be a column's name, dots and all. Values have the field's type: text as it is, `none` for no rotation
    and no limits, others as JSON (true, [[0, 1], [0, 1]]). UserError for what cannot be read, with the nearest name.
    """
    changes: dict[str, dict[str, Any]] = {}
    for word in words:
        place, equals, text = word.partition("=")
        group, dot, field = place.rpartition(".")
        if not equals or not dot or not group:
            raise UserError(f"'{word}' does not say what to set", hint=EXAMPLE)
        if field not in SETTABLE:
            raise UserError(f"'{word}' sets the unknown field '{field}'; {nearest(field, SETTABLE)}", hint=EXAMPLE)
        changes.setdefault(group, {})[field] = _value(get_type_hints(ControlGroup)[field], text, word=word)
    return changes


def _value(kind: Any, text: str, *, word: str) -> Any:
    """The text as a value of the type; UserError if it is none."""
    if get_origin(kind) in (Union, types.UnionType):
        if text == "none":
            return None
        kind = next(option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UserError(f"'{word}': there is no '{text}'; {nearest(text, get_args(kind))}", hint=EXAMPLE)
        return text
    if kind is str:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"'{word}': {text!r} is no JSON ({error})", hint=f"For example {_examples(kind)}.") from error


def _examples(kind: Any) -> str:
    return "true" if kind is bool else "[[-1, 1], [0, 0.5]], one pair for each column"
