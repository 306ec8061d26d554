"""Short films of what a latent action model predicts, for its page: best and worst clips, and actions carried over."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lam.sequences import EvaluationSet, Sequence
from lam.subjects import Subject
from scripts.page_plots import beside

STEPS = 20  # pairs shown of a clip
PANEL_HEIGHT = 112  # pixels; a page of six films then stays below 5 MB
EACH = 2  # best clips, and as many worst


@dataclass(frozen=True)
class Film:
    """Panels that play side by side."""

    title: str
    panels: tuple[str, ...]
    """What each panel shows, from left to right."""
    frames: np.ndarray
    """uint8 (T, H, W, 3), all panels in one picture."""
    transfer: bool = False
    """Whether it shows the actions of one clip in another."""


def films(subject: Subject, data: EvaluationSet, scores: Mapping[str, float]) -> tuple[Film, ...]:
    """The clips with the highest and the lowest `scores`, then action transfer both ways between the two ends.

    scores: how much better than copying each clip is predicted. Empty where the subject does not decode.
    """
    if not subject.decodes:
        return ()
    ranked = sorted(scores, key=lambda clip: -scores[clip])
    longest = {clip: max(_of(data, clip), key=lambda sequence: len(sequence.frames)) for clip in ranked}
    each = min(EACH, len(ranked) // 2)
    best, worst = ranked[:each], ranked[len(ranked) - each :]
    shown = [("best", place, clip) for place, clip in enumerate(best, 1)]
    shown += [("worst", place, clip) for place, clip in enumerate(reversed(worst), 1)]
    made = [prediction_film(subject, longest[clip], title=f"{kind} {place}: {clip}") for kind, place, clip in shown]
    for giver, taker in ((best[0], worst[-1]), (worst[-1], best[0])):
        made.append(transfer_film(subject, longest[giver], longest[taker]))
    return tuple(made)


def prediction_film(subject: Subject, sequence: Sequence, *, title: str) -> Film:
    """Each pair of a clip: both frames, the second as predicted from the first, and where that is wrong."""
    first, second = sequence.frames[:-1][:STEPS], sequence.frames[1:][:STEPS]
    own = subject.decode(first, subject.encode(first, second))
    error = np.abs(own.astype(np.int16) - second) * 4
    panels = [first, second, own, error.clip(0, 255).astype(np.uint8)]
    names = ("frame t", "frame t+1", "predicted", "error × 4")
    return Film(title=title, panels=names, frames=beside(panels, height=PANEL_HEIGHT))


def transfer_film(subject: Subject, giver: Sequence, taker: Sequence) -> Film:
    """The latent actions of one clip, step after step, from its own first frame and from another clip's.

    Row t of the film is t steps in; each prediction is the first frame of the next, so errors add up.
    """
    real = giver.frames[: STEPS + 1]
    actions = subject.encode(real[:-1], real[1:])
    at_home, abroad = real[:1], taker.frames[:1]
    own, moved = [at_home[0]], [abroad[0]]
    for action in actions:
        both = subject.decode(np.concatenate((at_home, abroad)), np.stack((action, action)))
        at_home, abroad = both[:1], both[1:]
        own.append(at_home[0])
        moved.append(abroad[0])
    still = np.repeat(taker.frames[:1], len(real), axis=0)
    names = ("A, real", "A's actions on A", "A's actions on B", "B, first frame")
    frames = beside([real, np.stack(own), np.stack(moved), still], height=PANEL_HEIGHT)
    return Film(title=f"A = {giver.clip}, B = {taker.clip}", panels=names, frames=frames, transfer=True)


def _of(data: EvaluationSet, clip: str) -> list[Sequence]:
    return [sequence for sequence in data.sequences if sequence.clip == clip]
