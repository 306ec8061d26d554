"""Config from JSON and back: strict, with the nearest name for a mistake."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from common.config import TrainingConfig, differences, from_dict, nearest, to_dict
from common.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    gap: tuple[float, float] = (0.1, 0.2)
    folders: tuple[str, ...] = ()
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_round_trip_keeps_every_value() -> None:
    config = Outer("x", gap=(0.5, 1.0), folders=("p", "q"), limit=3, inner=Inner(2.0, "b"))
    assert from_dict(Outer, to_dict(config)) == config
    assert from_dict(Outer, {"name": "x", "gap": [1, 2]}).gap == (1.0, 2.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "lacks the field 'name'"),
        ({"name": "x", "inner": {"rte": 1.0}}, "config.inner has the unknown field 'rte'; did you mean 'rate'"),
        ({"name": "x", "limit": "many"}, "config.limit is 'many'; it must be int"),
        ({"name": "x", "limit": True}, "must be int"),
        ({"name": "x", "gap": [1.0]}, "config.gap has 1 values; it needs 2"),
        ({"name": "x", "inner": {"kind": "c"}}, "must be one of a, b"),
        ({"name": 3}, "must be str"),
    ],
)
def test_mistakes_are_named(data: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(Outer, data)
    assert message in str(caught.value)


def test_nearest_name() -> None:
    assert nearest("tinny", ["tiny", "base"]) == "did you mean 'tiny'?"
    assert nearest("zzzz", ["tiny", "base"]) == "there are: base, tiny"


def test_differences_have_paths() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == {"a.c": (2, 3), "d": (None, 4)}


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"ema_decay": 1.0}, {"workers": -1}, {"keep": 0}],
)
def test_training_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        TrainingConfig(**wrong)
