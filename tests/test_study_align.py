"""The study's slip of controls against frames, by the number of each row."""

import numpy as np
import pytest

from align.recordings import Recording
from scripts.study_align import slipped


@pytest.mark.parametrize("late", [-2, -1, 0, 1, 2])
def test_row_t_leads_from_the_frame_that_is_so_much_later(late: int) -> None:
    numbers = np.arange(6)
    frames = np.broadcast_to(numbers[:, None, None, None], (6, 2, 2, 3)).astype(np.uint8)
    whole = Recording("one", frames, numbers[:5, None].astype(np.float32), numbers[:, None])
    shifted = slipped(whole, late)
    first = shifted.frames[:, 0, 0, 0].astype(int)
    assert len(first) == 6 - abs(late) and len(shifted.controls) == len(first) - 1
    assert (first[:-1] - shifted.controls[:, 0] == late).all(), "the row was recorded for an earlier frame"
    assert shifted.states is not None and (shifted.states[:, 0] == first).all()
