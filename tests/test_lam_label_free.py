"""The label-free numbers on worlds and codes whose answers are known: each must be able to be good, and to be bad."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from common.errors import BadData
from common.metrics import PSNR_CEILING
from lam.baselines import ConstantCode, DifferencePca, LeakyCode, Zeros, controls
from lam.label_free import choose, label_free, shifted
from lam.sequences import Sequence
from lam.subjects import Subject

SIDE, CLIPS, FRAMES = 32, 6, 26


def walk(rng: np.random.Generator) -> np.ndarray:
    """(FRAMES - 1, 2): a random step down and right between any two frames."""
    return rng.integers(-3, 4, (FRAMES - 1, 2))


def world(steps=walk, *, clips: int = CLIPS, seed: int = 0) -> list[Sequence]:
    """Each clip moves its own smooth texture, of its own colour, around the border by whole pixels."""
    rng = np.random.default_rng(seed)
    low = np.fft.fftfreq(SIDE)[:, None] ** 2 + np.fft.fftfreq(SIDE)[None] ** 2 < 0.1**2
    sequences = []
    for clip in range(clips):
        noise = np.fft.fft2(rng.standard_normal((SIDE, SIDE, 3)), axes=(0, 1)) * low[..., None]
        texture = np.fft.ifft2(noise, axes=(0, 1)).real
        texture = rng.uniform(80, 180, 3) + 30 * texture / texture.std()
        texture = texture.clip(0, 255).round().astype(np.uint8)
        places = np.concatenate((np.zeros((1, 2), int), steps(rng).cumsum(axis=0)))
        frames = np.stack([np.roll(texture, tuple(place), axis=(0, 1)) for place in places])
        sequences.append(Sequence(f"clip{clip}", frames, np.arange(len(frames)) / 10, {}))
    return sequences


class Oracle:
    """Finds the whole-pixel step around the border, and applies it. Two values, or four in two equal blocks."""

    name, size, decodes = "oracle", (SIDE, SIDE), True

    def __init__(self, *, split: bool = False, slip: int = 0) -> None:
        self.blocks = {"act": slice(0, 2), "cam": slice(2, 4)} if split else {"z": slice(0, 2)}
        self.slip = slip

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        a, b = (
            np.fft.fft2(frames.mean(axis=3) - frames.mean(axis=(1, 2, 3))[:, None, None]) for frames in (first, second)
        )
        surface = np.fft.ifft2(b * a.conj()).real
        steps = np.stack(np.unravel_index(surface.reshape(len(a), -1).argmax(axis=1), (SIDE, SIDE)), axis=1)
        z = ((steps + SIDE // 2) % SIDE - SIDE // 2).astype(np.float32)
        z = np.roll(z, self.slip, axis=0)
        return np.concatenate((z, 0 * z), axis=1) if len(self.blocks) == 2 else z

    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        steps = z[:, :2].round().astype(int)
        return np.stack([np.roll(frame, tuple(step), axis=(0, 1)) for frame, step in zip(first, steps, strict=True)])

    def nats(self, first: np.ndarray, second: np.ndarray) -> float | None:
        return None


class Wrapped(Oracle):
    """The oracle with another encoder, which is given the oracle's answer too."""

    def __init__(self, encoder, **options) -> None:
        super().__init__(**options)
        self.encoder = encoder

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self.encoder(super().encode(first, second), first, second).astype(np.float32)


class TwoSteps(Oracle):
    """An oracle whose first block holds the step down and whose second the step right."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = {"act": slice(0, 1), "cam": slice(1, 2)}

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return Oracle().encode(first, second)


@pytest.fixture(scope="module")
def films() -> list[Sequence]:
    return world()


@pytest.fixture(scope="module")
def oracle(films) -> Any:
    return measure(Oracle(), films)


def measure(subject: Subject, sequences: list[Sequence]) -> Any:
    """Its `LabelFree`; Any, because here no number that is read is None."""
    return label_free(subject, sequences, seed=0)


def code(subject: Subject, sequences: list[Sequence]) -> Any:
    return measure(subject, sequences).code["all"]


def decoder(subject: Subject, sequences: list[Sequence]) -> Any:
    return measure(subject, sequences).decoder


def test_each_clip_belongs_to_the_block_that_explains_it():
    """Clip 0 moves down only, clip 1 right only, clip 2 both ways at once, clip 3 is still."""

    def steps(rng: np.random.Generator) -> np.ndarray:
        return rng.choice((-2, 2), (FRAMES - 1, 2)) * next(ways)

    ways = iter(((1, 0), (0, 1), (1, 1), (0, 0)))
    shares = measure(TwoSteps(), world(steps, clips=4)).shares
    assert list(shares) == ["clip0", "clip1", "clip2"], "a clip that gains nothing has no shares"
    assert shares["clip0"] == pytest.approx({"act": 1, "cam": 0}, abs=1e-6)
    assert shares["clip1"] == pytest.approx({"act": 0, "cam": 1}, abs=1e-6)
    assert 0 < shares["clip2"]["act"] < 0.9 and 0 < shares["clip2"]["cam"] < 0.9
    assert measure(Oracle(), world(clips=2)).shares == {}, "one block"


def test_an_oracle_gets_the_best_of_every_number(oracle):
    assert (oracle.pairs, oracle.clips) == (CLIPS * (FRAMES - 2), CLIPS)
    z, used = oracle.code["all"], oracle.decoder
    assert z.zero_response.value == z.additivity.value == z.reversibility.value == 0
    assert abs(z.pcfc.value) < 0.15  # steps are independent
    assert z.clip_leak.ratio.low < 1.2 and z.clip_leak.chance == pytest.approx(1 / CLIPS, abs=0.03)
    assert z.effective_rank == pytest.approx(2, abs=0.05)
    assert used.psnr["own"].value == PSNR_CEILING
    assert used.psnr["copy"].value == used.psnr["zero"].value < 25
    assert used.psnr["antiparallel"].value < used.psnr["zero"].value - 1
    assert used.utilisation["all"].value > 0.9
    assert used.shuffle_gap.value > 30
    assert used.alpha.spearman.value > 0.8
    assert used.scene_cut.value > 50
    assert used.cycle.value == 1
    assert used.imagination_gap.value == pytest.approx(1, abs=1e-6)


def test_one_number_per_block_and_one_exchange_per_block(films, oracle):
    both = measure(Oracle(split=True), films)
    assert set(both.code) == {"all", "act", "cam"}
    assert both.code["act"].zero_response == both.code["all"].zero_response == oracle.code["all"].zero_response
    assert both.code["act"].shift_response == both.code["all"].shift_response
    assert both.code["cam"].shift_response is None  # that block is always zero
    assert "zero for every pair" in both.missing["cam.shift_response"]
    assert both.decoder.utilisation["act"] == both.decoder.utilisation["all"]
    assert both.decoder.utilisation["cam"].value == 0  # its decoder never looks at it


@pytest.mark.parametrize("slip", [1, -1])
def test_codes_slipped_by_a_row_are_caught(films, slip):
    slipped = measure(Oracle(slip=slip), films)
    assert abs(slipped.decoder.shuffle_gap.value) < 2
    assert slipped.decoder.psnr["own"].value < slipped.decoder.psnr["copy"].value
    assert slipped.decoder.utilisation["all"] is None
    assert "no better than copying" in slipped.missing["utilisation.all"]


def test_frames_slipped_by_one_are_caught(films, oracle):
    """An encoder that is shown (b, c) for (a, b): every pair's code is right for the pair after it."""
    later = {a.tobytes(): b for film in films for a, b in zip(film.frames[:-1], film.frames[1:], strict=True)}

    def encoder(z, first, second):
        after = np.stack([later.get(frame.tobytes(), frame) for frame in second])
        return Oracle().encode(second, after)

    slipped = measure(Wrapped(encoder), films)
    assert slipped.decoder.utilisation["all"] is None and oracle.decoder.utilisation["all"].value > 0.9


def test_a_leaky_code_shows_in_each_leak_number(films):
    z, used = code(LeakyCode(size=(SIDE, SIDE)), films), decoder(LeakyCode(size=(SIDE, SIDE)), films)
    assert z.zero_response.value > 0.9
    assert z.clip_leak.ratio.value > 4 and z.clip_leak.accuracy.value > 0.9
    assert used.scene_cut.value == pytest.approx(1, abs=0.02)
    assert used.imagination_gap.value == pytest.approx(0, abs=0.02)
    assert used.shuffle_gap.value > 3  # the cheat: the controllability numbers love it
    assert used.alpha.spearman.value > 0.9
    assert z.reversibility.value > 2


def test_a_constant_code_is_worth_nothing(films):
    measured = measure(ConstantCode(size=(SIDE, SIDE)), films)
    z, used = measured.code["all"], measured.decoder
    assert z.zero_response.value == z.shift_response.value == pytest.approx(1)
    assert z.pcfc.value == pytest.approx(1)
    assert z.reversibility.value == pytest.approx(4)
    assert z.additivity.value == pytest.approx(1)
    assert z.effective_rank == 0
    assert z.clip_leak.ratio.value == pytest.approx(1)
    assert used.utilisation["all"] is None and used.shuffle_gap.value == 0
    assert used.alpha.spearman.value == 0 and used.alpha.slope.value == 0
    assert used.scene_cut.value > 1.5  # the cheat: whoever predicts nothing stores nothing
    assert used.imagination_gap.value == pytest.approx(-1)


def test_a_code_of_zeros_gives_no_number_and_says_why(films):
    silent = measure(Wrapped(lambda z, first, second: 0 * z), films)
    assert silent.code["all"].zero_response is silent.code["all"].pcfc is None
    assert silent.missing["all.zero_response"] == "the latent action is zero for every pair"
    json.dumps(dataclasses.asdict(silent), allow_nan=False)


def test_what_cannot_be_measured_is_named(films):
    """One pair per clip holds no end of a clip to test a classifier on; zeros have no decoder and no posterior."""
    few = label_free(Oracle(), films, seed=0, pairs=CLIPS)
    assert few.pairs == few.clips == CLIPS and few.code["all"].clip_leak is None
    assert few.missing["all.clip_leak"] == "fewer than 2 clips have 4 pairs"
    silent = label_free(Zeros(size=(SIDE, SIDE)), films, seed=0)
    assert (silent.decoder, silent.nats, silent.gains) == (None, None, {})
    assert {"decoder", "nats", "all.additivity"} <= set(silent.missing)
    with pytest.raises(ValueError, match="at least 2 pairs"):
        label_free(Oracle(), films, seed=0, pairs=1)


@pytest.mark.parametrize(("offset", "response"), [(0.0, 0.0), (2.0, math.sqrt(8 / (8 + 8)))])
def test_the_zero_response_is_what_nothing_happening_says(films, offset, response):
    """Steps have a mean square of 4 in each of two directions; an offset is what a still pair answers."""
    measured = code(Wrapped(lambda z, first, second: z + offset), films).zero_response
    assert measured.value == pytest.approx(response, abs=0.05)
    assert measured.low <= measured.value <= measured.high


def test_the_shift_response_follows_a_camera_and_not_a_blind_code(films):
    rms = math.sqrt(8)
    assert code(Oracle(), films).shift_response.value == pytest.approx(3 / rms, abs=0.1)

    def blind(z, first, second):  # a shift in one direction only is a camera that this code leaves out
        return np.where((z != 0).all(axis=1, keepdims=True), z, 0)

    assert code(Wrapped(blind), films).shift_response.value == 0


def test_a_shift_moves_the_picture_three_pixels_and_repeats_its_border():
    frame = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(1, 8, 9, 3).repeat(4, axis=0)
    right, left, down, up = shifted(frame, np.arange(4))
    still = frame[0]
    np.testing.assert_array_equal(right[:, 3:], still[:, :-3])
    np.testing.assert_array_equal(right[:, :3], still[:, :1].repeat(3, axis=1))
    np.testing.assert_array_equal(left[:, :-3], still[:, 3:])
    np.testing.assert_array_equal(left[:, -3:], still[:, -1:].repeat(3, axis=1))
    np.testing.assert_array_equal(down[3:], still[:-3])
    np.testing.assert_array_equal(up[-3:], still[-1:].repeat(3, axis=0))


@pytest.mark.parametrize(("sign", "cosine"), [(1, 1.0), (-1, -1.0)])
def test_the_cosine_of_neighbours_is_steady_motion_or_reversal(sign, cosine):
    def steps(rng):
        return np.array([2, 1]) * np.array([sign**t for t in range(FRAMES - 1)])[:, None]

    assert code(Oracle(), world(steps)).pcfc.value == pytest.approx(cosine, abs=1e-6)


def test_a_code_that_saturates_does_not_add_up(films):
    assert code(Wrapped(lambda z, first, second: np.sign(z)), films).additivity.value > 0.1


def test_a_code_that_forgets_the_order_is_not_reversible(films):
    assert code(Wrapped(lambda z, first, second: np.abs(z)), films).reversibility.value == pytest.approx(4)


def test_a_little_of_the_clip_in_the_code_is_found(films, oracle):
    """A texture's mean colour, far below the steps in size and in a direction of its own."""

    def encoder(z, first, second):
        colour = second.mean(axis=(1, 2, 3))[:, None] - 128
        return np.concatenate((z, 0.05 * colour), axis=1)

    leaking = Wrapped(encoder)
    leaking.blocks = {"z": slice(0, 3)}
    leak = code(leaking, films).clip_leak.ratio
    assert leak.value > 3 and leak.low > 1.5 and oracle.code["all"].clip_leak.ratio.value < 1.5


def test_a_code_that_marks_each_pair_is_no_leak_of_the_clip(films):
    """Forty random values per pair can be learned by heart, but say nothing of the clip's other pairs."""

    def encoder(z, first, second):
        marks = [np.random.default_rng(list(pair.tobytes()[:40])).standard_normal(38) for pair in second]
        return np.concatenate((z, marks), axis=1)

    marked = Wrapped(encoder)
    marked.blocks = {"z": slice(0, 40)}
    marked.decodes = False
    assert code(marked, films).clip_leak.ratio.value < 1.7


def test_a_decoder_that_does_not_listen_has_no_use_of_its_codes(films):
    class Deaf(Oracle):
        def decode(self, first, z):
            return first // 2

    used = decoder(Deaf(), films)
    assert used.shuffle_gap.value == 0 and used.alpha.spearman.value == 0
    assert used.utilisation["all"] is None


def test_an_alpha_curve_that_bends_back_is_seen(films):
    class Wrapping(Oracle):
        def decode(self, first, z):
            return super().decode(first, np.where(np.abs(z).max(axis=1, keepdims=True) > 1.2 * STEP, 0, z))

    STEP = 2
    alpha = decoder(Wrapping(), world(lambda rng: rng.choice((-STEP, STEP), (FRAMES - 1, 2)))).alpha
    assert alpha.distances[2] > alpha.distances[1] > alpha.distances[0] == 0 == alpha.distances[4]
    assert alpha.spearman.value < 0


def test_a_code_that_works_only_on_its_own_clip_breaks_the_cycle(films):
    def tag(frames):
        return frames.mean(axis=(1, 2, 3))[:, None].astype(np.float32)

    class Locked(Wrapped):
        def decode(self, first, z):
            return super().decode(first, np.where(np.abs(z[:, 2:] - tag(first)) < 1e-3, z[:, :2], 0))

    locked = Locked(lambda z, first, second: np.concatenate((z, tag(first)), axis=1))
    locked.blocks = {"z": slice(0, 3)}
    used = decoder(locked, films)
    assert used.psnr["own"].value == PSNR_CEILING
    assert used.cycle.value > 50


def test_gains_name_the_clips_that_the_model_fails_on(films):
    bad = films[2].frames[0].mean()

    class Partial(Oracle):
        def decode(self, first, z):
            known = (first.mean(axis=(1, 2, 3)) != bad)[:, None]
            return super().decode(first, np.where(known, z, -z))

    gains = label_free(Partial(), films, seed=0).gains
    assert list(gains) == [film.clip for film in films]
    assert min(gains, key=lambda clip: gains[clip]) == "clip2"
    assert gains["clip2"] < 0 < min(value for clip, value in gains.items() if clip != "clip2")


def test_an_interval_holds_the_value_and_repeats_with_its_seed(films, oracle):
    assert label_free(Oracle(), films, seed=0) == oracle
    copy = oracle.decoder.psnr["copy"]
    assert copy.low < copy.value < copy.high


def test_pairs_are_spread_over_clips_and_none_gives_more_than_half():
    long, short = world(clips=2)
    short = Sequence("short", short.frames[:7], short.seconds[:7], {})
    sample = choose([long, short], pairs=1000)
    assert (sample.clips.count("clip0"), sample.clips.count("short")) == (5, 5)
    assert [t for sequence, t in sample.places if sequence == 0] == [0, 4, 9, 14, 19]
    np.testing.assert_array_equal(sample.frames([1], 2)[0], long.frames[6])
    three = choose(world(clips=3), pairs=10)
    assert sorted(three.clips.count(name) for name in set(three.clips)) == [3, 3, 4]


def test_parts_of_a_clip_count_as_one_clip_and_pairs_never_join_them(films):
    halves = [
        Sequence(film.clip, film.frames[part], film.seconds[part], {})
        for film in films[:2]
        for part in (slice(13, 26), slice(0, 13))
    ]
    measured = label_free(Oracle(), halves, seed=0)
    assert (measured.clips, measured.pairs) == (2, 4 * 11)
    sample = choose(halves, pairs=1000)
    assert [place for place in sample.places if place[0] < 2] == [(s, t) for s in (1, 0) for t in range(11)]
    with pytest.raises(BadData, match="at least 2 clips"):
        label_free(Oracle(), halves[:2], seed=0)


def test_clips_in_which_nothing_moves_are_refused(films):
    still = [
        dataclasses.replace(film, frames=film.frames[:1].repeat(5, axis=0), seconds=film.seconds[:5]) for film in films
    ]
    with pytest.raises(BadData, match="nothing moves"):
        label_free(Oracle(), still, seed=0)
    assert label_free(Oracle(), [*still, films[0]], seed=0).clips == CLIPS


def test_frames_of_another_size_than_the_subject_takes_are_refused(films):
    with pytest.raises(ValueError, match=r"\(16, 16\)"):
        label_free(LeakyCode(size=(16, 16)), films, seed=0)


def test_the_controls_hold_where_there_is_motion_to_measure(films):
    checks = controls(films, seed=0)
    assert [check.metric for check in checks if not check.ok] == []
    assert {check.metric for check in checks} >= {"scene_cut", "clip_leak.ratio", "imagination_gap", "utilisation"}
    json.dumps([dataclasses.asdict(check) for check in checks], allow_nan=False)


def test_the_controls_fail_where_the_clips_cannot_tell(films):
    """Copies of one clip: another clip's next frame is the own next frame, and no clip can be told from another."""
    same = [dataclasses.replace(films[0], clip=f"copy{number}") for number in range(4)]
    failed = {check.metric for check in controls(same, seed=0) if not check.ok}
    assert {"shuffle_gap", "scene_cut", "clip_leak.ratio"} <= failed


def test_the_frame_difference_pca_is_additive_and_reversible(films):
    frames = [np.concatenate([film.frames[part] for film in films]) for part in (slice(0, -1), slice(1, None))]
    z = code(DifferencePca.fit(*frames), films)
    assert z.additivity.value < 1e-9 and z.reversibility.value == z.zero_response.value == 0
