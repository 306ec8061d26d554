"""The command line: help that is quick, mistakes that are named, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import BadData, MissingDependency, StoppedBySignal, UserError
from scripts import cli, verbs

REPOSITORY = Path(__file__).parent.parent


def leaves(tree: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        found
        for name, child in tree.items()
        for found in ([(*path, name)] if callable(child) else leaves(child, (*path, name)))
    ]


VERBS = leaves(verbs.TREE)


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(" ".join(verb) in shown for verb in VERBS)
    assert cli.main([]) == 0, "no verb shows the help"


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_each_verb_explains_each_option(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"understudy {' '.join(verb)}" in shown


@pytest.mark.parametrize("words", [["--help"], ["train", "lam", "--help"], ["data", "demo", "--help"]], ids=" ".join)
def test_help_is_quick(words: list[str]) -> None:
    """Nothing heavy is imported; processor time of the quickest of three, since the machine may be busy."""
    code = f"""
import sys, time
from scripts import cli
cli.main({words!r})
assert not {{"torch", "numpy", "av", "pyarrow"}} & set(sys.modules)
sys.exit(str(time.process_time()))"""
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True) for _ in range(3)
    ]
    assert min(float(run.stderr.split()[-1]) for run in runs) < 0.5


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["trian"], 2, "did you mean 'train'?"),
        (["train", "lma"], 2, "did you mean 'lam'?"),
        (["train", "lam"], 2, "which preset?"),
        (["train", "lam", "tinny", "--data", "a", "--out", "b"], 2, "did you mean 'tiny'?"),
        (["train", "lam", "tiny", "--data", "a"], 2, "--out"),
        (["train", "lam", "tiny", "--data", "a", "--out", "b", "--training.stpes", "3"], 2, "--training.steps"),
        (["train", "lam", "tiny", "--data", "a", "--out", "b", "--training.steps", "many"], 2, "'many'"),
        (["train", "lam", "tiny", "--data", "a", "--out", "b", "--training.steps", "0"], 2, "at least 1, not 0"),
        (["train", "lam", "tiny", "--data", "a", "--out", "b", "--model.patch", "7"], 2, "not a multiple of the patch"),
        (["train", "lam", "tiny", "--data", "/nowhere", "--out", "b"], 2, "/nowhere is no folder"),
        (["label", "/nowhere", ".", "--out", "b"], 2, "/nowhere does not exist"),
        (["evaluate", "lam", "/nowhere", "."], 2, "/nowhere does not exist"),
        (["data", "scan", "/nowhere"], 2, "/nowhere is no folder"),
        (["convert", "dreamdojo-lam", "/nowhere", "b"], 2, "/nowhere is not a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_message(
    words: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == code
    shown = capsys.readouterr()
    assert message in shown.err + shown.out
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


def test_a_folder_with_nothing_readable_exits_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "film.mp4").write_text("<!doctype html><title>404</title>")
    assert cli.main(["data", "scan", str(tmp_path)]) == 4
    assert "film.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError, 2), (MissingDependency, 3), (BadData, 4), (StoppedBySignal, 75)],
)
def test_exit_codes(
    error: type[UserError], code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str], program: str) -> None:
        raise error("it broke", hint="mend it")

    monkeypatch.setitem(verbs.TREE, "doctor", fail)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err.splitlines()[-1] == "mend it"
    with pytest.raises(error):
        cli.main(["doctor", "--debug"])


def test_file_errors_are_shown_without_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str], program: str) -> None:
        Path("/proc/understudy/none").write_text("x")

    monkeypatch.setitem(verbs.TREE, "doctor", fail)
    assert cli.main(["doctor"]) == 4
    assert "/proc/understudy/none" in capsys.readouterr().err


def test_doctor_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
