"""Labelled pairs in training batches: the right rows, the right labels, the same ones whenever training goes on."""

import itertools

import numpy as np
import pytest
import torch

from common.errors import BadData, UserError
from common.training import DataPosition
from lam.labelled import LabelledPairs
from lam.loss import PairBatch
from lam.sequences import EvaluationSet, Sequence

SIDE = 16


def known_set(*, groups: dict[str, int] | None = None, moving: bool = True) -> EvaluationSet:
    """Frame t of a clip is grey value 10 t; the factors are t times a different number per dimension."""
    groups = {"hand": 3} if groups is None else groups
    clips = []
    for name in ("a", "b"):
        times = np.arange(6)
        frames = np.broadcast_to((10 * times**2)[:, None, None, None], (6, SIDE, SIDE, 3)).astype(np.uint8)
        factors = {group: moving * times[:, None] ** 2 * np.arange(1.0, dims + 1) for group, dims in groups.items()}
        clips.append(Sequence(name, frames.copy(), times * 0.1, factors))
    fields = {group: tuple(f"{group}{i}" for i in range(dims)) for group, dims in groups.items()}
    return EvaluationSet("known", "demo", tuple(clips), fields)


def position(*, first_batch: int = 0, rank: int = 0) -> DataPosition:
    return DataPosition(first_batch=first_batch, batch_size=8, rank=rank, world_size=1)


def unlabelled() -> itertools.repeat:
    return itertools.repeat(PairBatch(torch.zeros(8, 2, 3, SIDE, SIDE), tuple("abcdefgh")))


def test_each_label_says_what_changed_in_its_own_pair():
    found = LabelledPairs.of(known_set(), share=0.5)
    assert found.frames.shape == (10, 2, SIDE, SIDE, 3)
    assert found.dims == 3
    change = found.frames[:, :, 0, 0, 0].float().diff(dim=1)[:, 0]  # 10 (2 t + 1)
    for column in found.labels.T:
        torch.testing.assert_close(column, (change - change.mean()) / change.std(correction=0))


def test_labelled_pairs_take_the_last_rows_and_the_others_have_none():
    found = LabelledPairs.of(known_set(), share=0.25)
    batch = next(found.mixed_into(unlabelled(), position(), seed=0))
    assert batch.labels is not None
    assert batch.names == (*"abcdef", "labelled", "labelled")
    assert batch.labels[:6].isnan().all()
    assert batch.frames[:6].abs().max() == 0
    for frames, label in zip(batch.frames[6:], batch.labels[6:], strict=True):
        row = int(((found.frames[:, :, 0, 0, 0] / 127.5 - 1) - frames[:, 0, 0, 0]).abs().sum(1).argmin())
        torch.testing.assert_close(label, found.labels[row])


def test_a_resumed_stream_gives_the_same_pairs_and_another_rank_others():
    found = LabelledPairs.of(known_set(), share=1.0)

    def labels(**where: int) -> list[torch.Tensor]:
        mixed = found.mixed_into(unlabelled(), position(**where), seed=3)
        return [batch.labels for batch in itertools.islice(mixed, 4) if batch.labels is not None]

    assert torch.equal(labels()[2], labels(first_batch=2)[0])
    assert not torch.equal(labels()[0], labels()[1])
    assert not torch.equal(labels()[0], labels(rank=1)[0])


def test_the_hand_is_preferred_to_a_state_and_what_never_changes_is_left_out():
    assert LabelledPairs.of(known_set(groups={"state": 7}), share=1).dims == 7
    assert LabelledPairs.of(known_set(groups={"hand": 3, "turn": 1, "state": 7}), share=1).dims == 4


def test_bad_labels_have_a_sentence():
    with pytest.raises(BadData, match="has no labels"):
        LabelledPairs.of(known_set(groups={}), share=0.5)
    with pytest.raises(BadData, match="ever changes"):
        LabelledPairs.of(known_set(moving=False), share=0.5)
    with pytest.raises(UserError, match=r"not 1\.5"):
        LabelledPairs.of(known_set(), share=1.5)
