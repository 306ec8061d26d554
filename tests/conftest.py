"""What several test files need: real clips where they are at hand, and one thread, so that results repeat."""

from pathlib import Path

import pytest
import torch

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ego_clips() -> Path:
    """The folder of real first-person clips; skips where it is absent."""
    folder = SHARED_DATA / "ego"
    if not folder.is_dir():
        pytest.skip("../shared/data/ego is not here")
    return folder
