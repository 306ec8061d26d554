"""Whatever is measured answers in one form, or is refused with a sentence; the baselines see what they are said to."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import BadData, MissingDependency, UserError
from lam.baselines import (
    ConstantCode,
    DifferencePca,
    LeakyCode,
    PooledFlow,
    Zeros,
    random_encoder,
)
from lam.checkpoint import Lam, build
from lam.model import LatentActionModel
from lam.presets import LamModelConfig
from lam.subjects import CallableSubject, LamSubject, columns, open_callable

SIDE = 64
SIZE = (SIDE, SIDE)
SMALL = LamModelConfig(
    height=16, width=24, patch=8, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1, latent_dim=3
)


def noise(pairs: int, *, size: tuple[int, int] = (16, 24), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (pairs, *size, 3), dtype=np.uint8)


def texture(pairs: int = 1, *, seed: int = 0, margin: int = 16) -> np.ndarray:
    """Smooth pictures, float (P, 64 + 2 * margin, 64 + 2 * margin, 3) in 0..255."""
    side = SIDE + 2 * margin
    spectrum = np.fft.fft2(np.random.default_rng(seed).standard_normal((pairs, side, side, 1)), axes=(1, 2))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    smooth = np.fft.ifft2(spectrum * np.exp(-((frequency / 0.08) ** 2))[:, :, None], axes=(1, 2)).real
    return (128 + 40 * smooth / smooth.std()).clip(0, 255).repeat(3, axis=3)


def window(pictures: np.ndarray, right: int = 0, down: int = 0, *, margin: int = 16) -> np.ndarray:
    """The middle of the pictures (P, 64, 64, 3), with its contents moved right and down by whole pixels."""
    rows, columns = slice(margin - down, margin - down + SIDE), slice(margin - right, margin - right + SIDE)
    return pictures[:, rows, columns].round().astype(np.uint8)


@pytest.fixture(scope="module", params=["default", "dreamdojo"])
def model(request: pytest.FixtureRequest) -> Lam:
    torch.manual_seed(0)
    return build(dataclasses.replace(SMALL, design=request.param))


class TestLamSubject:
    def test_it_gives_the_model_s_own_answers_in_batches(self, model):
        subject, first, second = LamSubject(model), noise(70), noise(70, seed=1)
        blocks = {"act": slice(0, 3), "cam": slice(3, 13)} if model.config.camera_dim else {"z": slice(0, 3)}
        z = subject.encode(first, second)
        assert (z.shape, z.dtype, subject.size) == ((70, columns(blocks)), np.float32, (16, 24))
        assert subject.blocks == blocks
        frames = torch.from_numpy(np.stack((first, second), 1)).movedim(-1, 2).float() / 127.5 - 1
        with torch.no_grad():
            posterior = model.encode(frames)
            painted = model.decode(frames[:, 0], torch.from_numpy(z)).clamp(-1, 1)
        np.testing.assert_allclose(z, posterior.code.numpy(), atol=1e-3)
        guess = subject.decode(first, z)
        assert (guess.shape, guess.dtype) == (first.shape, np.uint8)
        np.testing.assert_allclose(guess, ((painted.movedim(1, -1) + 1) * 127.5).numpy(), atol=0.51)
        variance = posterior.log_variance.exp()
        nats = 0.5 * (posterior.mean**2 + variance - 1 - posterior.log_variance).sum(1).mean()
        assert subject.nats(first, second) == pytest.approx(nats.item(), rel=1e-5)

    def test_the_order_of_the_frames_matters(self, model):
        subject = LamSubject(model)
        assert (
            np.abs(subject.encode(noise(2), noise(2, seed=1)) - subject.encode(noise(2, seed=1), noise(2))).max() > 1e-3
        )

    def test_a_diverged_model_is_refused(self):
        model = LatentActionModel(SMALL)
        torch.nn.init.constant_(model.encoder.out.weight, torch.nan)
        with pytest.raises(BadData, match="2 of 2 latent actions hold NaN"):
            LamSubject(model).encode(noise(2), noise(2))
        torch.nn.init.constant_(model.decoder.change.weight, torch.nan)
        with pytest.raises(BadData, match="no numbers"):
            LamSubject(model).decode(noise(2), np.zeros((2, 13), np.float32))


def colours(first, second):
    """A callable as a user writes one: the change of the mean colour."""
    return second.mean(axis=(1, 2), dtype=np.float32) - first.mean(axis=(1, 2), dtype=np.float32)


class TestCallable:
    def open(self, function) -> CallableSubject:
        return CallableSubject(function, name="mine:encode", size=(16, 24))

    def test_arrays_and_tensors_become_float32(self):
        def tensors(first, second):
            return torch.from_numpy(colours(first, second)).double().requires_grad_()

        for function in (colours, tensors):
            subject = self.open(function)
            z = subject.encode(noise(70), noise(70, seed=1))
            np.testing.assert_allclose(z, colours(noise(70), noise(70, seed=1)), rtol=1e-6)
            assert (z.dtype, subject.blocks, subject.decodes) == (np.float32, {"z": slice(0, 3)}, False)
            assert subject.nats(noise(2), noise(2)) is None

    def test_its_decode_is_used(self):
        class Model:
            def __call__(self, first, second):
                return colours(first, second)

            def decode(self, first, z):
                return (first + z[:, None, None]).clip(0, 255).astype(np.uint8)

        subject = self.open(Model())
        assert subject.decodes
        z = np.full((70, 3), 5, np.float32)
        np.testing.assert_array_equal(subject.decode(noise(70) // 2, z), noise(70) // 2 + 5)

    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            (lambda a, b: np.full((len(a), 3), np.nan), r"2 of 2 latent actions hold NaN or infinite values"),
            (lambda a, b: np.full((len(a), 3), 1e300), "NaN or infinite"),
            (lambda a, b: np.zeros((len(a) - 1, 3)), r"shape \(2, D\), not \(1, 3\)"),
            (lambda a, b: np.zeros(len(a)), r"shape \(2, D\), not \(2,\)"),
            (lambda a, b: np.zeros((len(a), 0)), r"shape \(2, D\), not \(2, 0\)"),
            (lambda a, b: np.zeros((len(a), 2), complex), "real numbers, not complex128"),
            (lambda a, b: [["a", "b"]] * len(a), "real numbers"),
            (lambda a, b: [[1.0, 2.0], [1.0]], r"shape \(2, D\)"),
            (lambda a, b: None, r"shape \(2, D\)"),
            (lambda a, b: [torch.zeros(2, requires_grad=True) for _ in a], "real numbers|shape"),
            (lambda a, b: a @ b, "encode failed with ValueError"),
            (lambda a: a, "encode failed with TypeError"),
        ],
    )
    def test_any_other_answer_is_refused_with_a_sentence(self, answer, sentence):
        with pytest.raises(BadData, match=sentence):
            self.open(answer)

    def test_a_dimension_that_changes_is_refused(self):
        subject = self.open(lambda a, b: np.zeros((len(a), 3 if len(a) < 5 else 4)))
        with pytest.raises(BadData, match="3 values and then 4"):
            subject.encode(noise(8), noise(8))

    def test_nan_later_on_is_refused_with_its_row(self):
        def some(first, second):
            z = colours(first, second)
            z[(first == second).all(axis=(1, 2, 3))] = np.nan
            return z

        second = noise(4, seed=1)
        second[2] = noise(4)[2]
        with pytest.raises(BadData, match=r"1 of 4 latent actions .* the first in row 2"):
            self.open(some).encode(noise(4), second)

    @pytest.mark.parametrize(
        "answer",
        [lambda a, z: a / 255, lambda a, z: a[:, :-1], lambda a, z: a.transpose(0, 3, 1, 2), lambda a, z: None],
    )
    def test_a_decoder_that_paints_no_frames_is_refused(self, answer):
        def encode(first, second):
            return colours(first, second)

        encode.decode = answer
        with pytest.raises(BadData, match=r"uint8 frames of shape \(2, 16, 24, 3\)"):
            self.open(encode).decode(noise(2), np.zeros((2, 3), np.float32))

    def test_a_function_that_writes_into_its_frames_harms_nobody(self):
        def vandal(first, second):
            z = colours(first, second)
            first[:] = 0
            return z

        frames = noise(2)
        self.open(vandal).encode(frames, frames)
        np.testing.assert_array_equal(frames, noise(2))


def test_a_callable_is_found_by_name_in_the_current_folder(tmp_path: Path, monkeypatch):
    (tmp_path / "lam_of_a_user.py").write_text(
        "def encode(a, b):\n    return (b.mean((1, 2)) - a.mean((1, 2)))\nsize = 3\n"
    )
    (tmp_path / "lam_that_lacks.py").write_text("import surely_not_installed\n")
    (tmp_path / "lam_that_fails.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    subject = open_callable("lam_of_a_user:encode", size=(16, 24))
    assert (subject.name, subject.blocks) == ("lam_of_a_user:encode", {"z": slice(0, 3)})
    for reference, error, sentence in [
        ("lam_of_a_user", UserError, "does not name a function"),
        ("lam_of_nobody:encode", UserError, "no Python module 'lam_of_nobody'"),
        ("lam_of_nobody.part:encode", UserError, "no Python module 'lam_of_nobody'"),
        ("lam_of_a_user:decode", UserError, "has no 'decode'"),
        ("lam_of_a_user:size", UserError, "something else than a function"),
        ("lam_that_lacks:encode", MissingDependency, "surely_not_installed"),
        ("lam_that_fails:encode", BadData, "ZeroDivisionError"),
    ]:
        with pytest.raises(error, match=sentence):
            open_callable(reference, size=(16, 24))


def test_a_random_encoder_is_its_seed_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, same, other = (random_encoder(SMALL, seed=seed).encode(noise(4), noise(4, seed=1)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    assert not random_encoder(SMALL, seed=0).decodes


def test_zeros_constant_and_leak_are_what_they_say():
    first, second = noise(3, size=SIZE), noise(3, size=SIZE, seed=1)
    assert not Zeros(size=SIZE).encode(first, second).any()
    constant, leaky = ConstantCode(size=SIZE), LeakyCode(size=SIZE)
    assert (constant.encode(first, second) == 1).all()
    np.testing.assert_array_equal(constant.decode(first, constant.encode(first, second)), first)
    blocks = second.reshape(3, 8, 8, 8, 8, 3).mean(axis=(2, 4))
    painted = leaky.decode(first, leaky.encode(first, second))
    np.testing.assert_allclose(painted[:, 3::8, 5::8], blocks, atol=0.51)
    np.testing.assert_array_equal(leaky.decode(second, leaky.encode(first, second)), painted)


def test_difference_pca_rebuilds_what_lies_in_its_components():
    """Differences in two directions: two components hold them, one cannot, and a third has nothing to add."""
    rng = np.random.default_rng(0)
    directions = rng.integers(-20, 21, (2, 32, 32, 3))
    weights = rng.integers(-2, 3, (40, 2))
    first = np.full((40, 32, 32, 3), 128, np.uint8)
    second = (first + np.tensordot(weights, directions, axes=1)).astype(np.uint8)
    two = DifferencePca.fit(first, second, dims=2)
    z = two.encode(first, second)
    np.testing.assert_array_equal(two.decode(first, z), second)
    np.testing.assert_array_equal(two.encode(second, first), -z)
    assert not two.encode(first, first).any()
    one = DifferencePca.fit(first, second, dims=1)
    assert np.abs(one.decode(first, one.encode(first, second)).astype(int) - second).max() > 5
    assert DifferencePca.fit(first[:3], second[:3]).blocks == {"z": slice(0, 3)}
    with pytest.raises(BadData, match="nothing moves"):
        DifferencePca.fit(first, first)


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, -3), (-5, 4)])
def test_flow_is_the_way_back_in_pixels_right_and_down(right, down):
    pictures = texture(4)
    z = PooledFlow(size=SIZE, stabilised=False).encode(window(pictures), window(pictures, right, down))
    across, downward = z.reshape(4, 2, 8, 8).transpose(1, 0, 2, 3)
    assert np.median(across) == pytest.approx(-right, abs=0.15)
    assert np.median(downward) == pytest.approx(-down, abs=0.15)


@pytest.mark.parametrize("stabilised", [False, True])
def test_flow_keeps_out_light_and_finds_none_in_what_stands_or_is_flat(stabilised):
    pictures, flow = texture(2), PooledFlow(size=SIZE, stabilised=stabilised)
    still = window(pictures)
    darker = (still * 0.9 + 5).astype(np.uint8)
    assert np.abs(flow.encode(still, still)).max() < 1e-3
    assert np.abs(flow.encode(still, darker)).max() < 0.25
    flat = np.full_like(still, 90)
    assert np.abs(flow.encode(flat, flat + 30)).max() < 1e-3


def test_flow_is_in_64ths_of_the_height_both_ways_whatever_the_size():
    """The pictures are stretched to twice their height and three times their width."""
    large = window(texture(1), 0, 0).repeat(2, axis=1).repeat(3, axis=2)
    moved = window(texture(1), 3, 2).repeat(2, axis=1).repeat(3, axis=2)
    z = PooledFlow(size=(128, 192), stabilised=False).encode(large, moved).reshape(2, 64)
    np.testing.assert_allclose(np.median(z, axis=1), (-3 * 3 / 2, -2), atol=0.2)


def test_flow_is_the_same_in_batches():
    first, second = window(texture(40)), window(texture(40), 2, 1)
    for stabilised in (False, True):
        flow = PooledFlow(size=SIZE, stabilised=stabilised)
        z = flow.encode(first, second)
        assert (z.shape, z.dtype) == ((40, 128), np.float32)
        np.testing.assert_allclose(z[30:], flow.encode(first[30:], second[30:]), atol=1e-3)


def test_stabilised_flow_leaves_what_moves_on_its_own():
    """Everything moves by (3, -2); a patch in the top left quarter moves by (0, 2) instead."""
    pictures, patch = texture(3), window(texture(3, seed=1))
    first, second = window(pictures), window(pictures, 3, -2)
    first[:, 8:32, 8:32] = patch[:, 8:32, 8:32]
    second[:, 10:34, 8:32] = patch[:, 8:32, 8:32]
    flow = PooledFlow(size=SIZE, stabilised=True).encode(first, second).reshape(3, 2, 8, 8)
    assert np.abs(flow[:, :, 5:7, 5:7]).max() < 0.3  # far from the patch and from what came into the picture
    np.testing.assert_allclose(flow[:, :, 2:4, 1:3].mean(axis=(0, 2, 3)), (3, -4), atol=1)


def test_stabilised_flow_is_zero_where_the_first_frame_did_not_look():
    """All moves right by the width of one cell, so the first column of cells is new."""
    pictures = texture(4)
    flow = PooledFlow(size=SIZE, stabilised=True).encode(window(pictures), window(pictures, 8)).reshape(4, 2, 8, 8)
    assert not flow[:, :, :, 0].any()
    assert np.abs(flow[:, :, :, 4:]).max() < 0.3
