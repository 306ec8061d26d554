"""Fewer pictures of each pass for a client whose connection cannot carry all of them.

A pass brings four pictures at once. Where it takes longer to send them than to make the next pass, the last picture,
which is the one to act on, comes late because of the others. Such a client gets two of the four, or only the last.
"""

from functools import lru_cache

from simulator.protocol import pack, unpack

MOST = 4
"""Pictures of a whole pass."""
CALM = 8
"""Passes in a row that were there so soon that twice the pictures would fit, until more are tried."""
LATE = 4
"""Passes in a row that are no sooner there with one picture, until the rest are sent again."""
SPARE = 0.8
"""Share of the time between two passes that sending may take."""
USELESS = 0.7
"""Share of the time that a whole pass took. One picture that takes longer is late for another reason."""


class Pace:
    """How many pictures one client gets. Times are in seconds."""

    def __init__(self) -> None:
        self.pictures = MOST
        self._made_at: float | None = None
        self._period = float("inf")
        self._crowded = False
        """There was no room for a pass since the number of pictures changed."""
        self._calm = self._late = 0
        self._whole = 0.0
        """Time that a whole pass took, the last time."""
        self._helps = True

    def made(self, now: float, *, room: bool) -> None:
        """A pass is made; room: it can be sent at once."""
        if self._made_at is not None:
            self._period = now - self._made_at
        self._made_at = now
        self._crowded |= not room

    def arrived(self, seconds: float, *, pictures: int) -> None:
        """A pass with so many pictures was acknowledged, so long after it was sent."""
        if pictures != self.pictures:
            return
        if pictures == MOST:
            self._whole = seconds
        if self._crowded and seconds > self._period:
            self._shrink(seconds)
        elif pictures < MOST:
            self._calm = self._calm + 1 if 2 * seconds < SPARE * self._period else 0
            if self._calm >= CALM:
                self._try(2 * pictures)

    def _shrink(self, seconds: float) -> None:
        """To what fits, if the time is what the pictures take."""
        if self.pictures > 1 and self._helps:
            fitting = int(self.pictures * SPARE * self._period / seconds)
            self._try(2 if fitting >= 2 and self.pictures > 2 else 1)
        elif self.pictures == 1:
            self._late = self._late + 1 if seconds > USELESS * self._whole else 0
            if self._late >= LATE:
                self._helps = False  # a long way, not a narrow one
                self._try(MOST)

    def _try(self, pictures: int) -> None:
        self.pictures = pictures
        self._crowded, self._calm, self._late = False, 0, 0


@lru_cache(maxsize=8)
def thinned(data: bytes, pictures: int) -> bytes:
    """A pass (`protocol.pack`) with so many of its pictures, evenly spread, the last among them.

    Its header has the `n` that are left, and `kept`: the places of these in the pass.
    """
    header, all_pictures = unpack(data)
    step = len(all_pictures) // pictures
    kept = list(range(step - 1, len(all_pictures), step))
    return pack({**header, "n": len(kept), "kept": kept}, [all_pictures[place] for place in kept])
