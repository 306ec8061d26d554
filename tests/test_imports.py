"""The import arrows of the architecture, and what must not be imported at all."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
ALLOWED = {
    "common": set(),
    "lam": {"common"},
    "video_model": {"common", "lam"},
    "align": {"common", "lam", "video_model"},
    "distill": {"common", "video_model"},
    "simulator": {"common", "video_model", "align"},
    "scripts": {"common", "lam", "video_model", "align", "distill", "simulator"},
}
BANNED = {"pickle": {"common/published.py"}, "dill": set(), "lerobot": set(), "torchvision": set(), "tests": set()}
"""Module -> files that may import it (the reader of published weights names pickle's error)."""


def sources() -> list[Path]:
    """Without the plugin for LeRobot, which is a distribution of its own."""
    found = [path for package in ALLOWED for path in sorted((REPOSITORY / package).rglob("*.py"))]
    return [path for path in found if "lerobot_robot_understudy" not in path.parts]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_arrows(path: Path) -> None:
    name = path.relative_to(REPOSITORY).as_posix()
    package = name.split("/")[0]
    for module in imported(path):
        if module in ALLOWED and module != package:
            assert module in ALLOWED[package], f"{name} imports {module}"
        assert module not in BANNED or name in BANNED[module], f"{name} imports {module}"


def test_torch_load_reads_weights_only() -> None:
    calls = [
        (path.name, ast.unparse(node))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert calls, "the converter loads a foreign checkpoint"
    assert all("weights_only=True" in call for _, call in calls), calls


def test_every_package_is_in_the_wheel() -> None:
    listed = (REPOSITORY / "pyproject.toml").read_text().split("packages = [")[1].split("]")[0]
    found = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert {name.strip().strip('"') for name in listed.split(",")} == found


@pytest.mark.parametrize("module", ["scripts.verbs", "common.pairs", "common.shard_pairs", "scripts.demo_data"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'mujoco') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
