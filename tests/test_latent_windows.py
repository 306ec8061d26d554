"""Latent windows: as encoded on the fly and from a cache, the same windows with the actions of their own frames."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import BadData, UserError
from common.folders import open_folder
from common.training import DataPosition
from lam.checkpoint import Lam
from tests.counted_clips import damage, number_of, write_clip
from tests.labelled_clips import write_labels
from video_model import latent_cache
from video_model.clip_batches import LabelledWindows, labelled_stream
from video_model.clips import ClipWindows, WindowConfig
from video_model.forecast import Forecaster
from video_model.labels import Labels
from video_model.latent_cache import LatentCache
from video_model.latent_windows import LatentBatch, encode, encode_windows, encoded_batches, with_still
from video_model.presets import TokenizerModelConfig
from video_model.tokenizer import Tokenizer, build_tokenizer

WINDOW = WindowConfig(height=24, width=32, frames=9, fps=10, windows_per_frame=0.5, buffer_windows=16)
SEED = 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    sizes = TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 2, 2), num_res_blocks=1)
    return build_tokenizer(sizes).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clips` of other rates, long enough for several segments, and `labels` at 10 frames per second."""
    root = tmp_path_factory.mktemp("data")
    for index, (rate, frames) in enumerate([(30.0, 300), (10.0, 60), (20.0, 100)]):
        times = (np.arange(frames) / rate).tolist()
        write_clip(root / "clips" / f"{index}.mp4", times, gop=30)
    write_labels(root / "labels", root / "clips", fps=10.0)
    return root


def windows_of(data: Path, config: WindowConfig = WINDOW, *, batch_size: int = 4) -> ClipWindows:
    labels = Labels.open(data / "labels")
    return ClipWindows(open_folder(data / "clips").clips, config=config, batch_size=batch_size, seed=0, labels=labels)


def cache_of(folder: Path, data: Path, tokenizer: Tokenizer, config: WindowConfig = WINDOW) -> LatentCache:
    clips, labels = open_folder(data / "clips").clips, Labels.open(data / "labels")
    return LatentCache(folder, clips, config, labels=labels, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, data: Path, tokenizer: Tokenizer) -> LatentCache:
    cache = cache_of(tmp_path_factory.mktemp("cache"), data, tokenizer)
    cache.write(batch_size=5, workers=0)
    return cache


def at(first_batch: int, *, batch_size: int = 4, rank: int = 0, world_size: int = 1) -> DataPosition:
    return DataPosition(first_batch=first_batch, batch_size=batch_size, rank=rank, world_size=world_size)


class Painter(nn.Module):
    """Paints the last frame brighter by a tenth of each action's first number."""

    def carry(self, frame: torch.Tensor) -> torch.Tensor:
        return frame

    def forecast(self, carried: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = carried[:, None] + codes[:, :, :1, None, None].cumsum(1) / 10
        return frames, frames[:, -1]


def brighter(identity: str = "brighter", span: int = 4) -> Forecaster:
    return Forecaster(cast(Lam, Painter()), identity=identity, span=span)


def keys(batches: list[LatentBatch]) -> list[tuple[str, int]]:
    """(clip, number of the first frame) of each window."""
    return [(n, int(row[0, 0])) for batch in batches for n, row in zip(batch.names, batch.actions, strict=True)]


def equal(one: LatentBatch, other: LatentBatch) -> bool:
    return (
        one.names == other.names and torch.equal(one.latents, other.latents) and torch.equal(one.actions, other.actions)
    )


def flat(height: int, width: int, values: list[int]) -> torch.Tensor:
    """One window whose frame t has the brightness values[t] everywhere."""
    return (
        torch.tensor(values, dtype=torch.uint8)[None, :, None, None, None].expand(1, -1, height, width, 3).contiguous()
    )


def test_latent_n_and_its_four_actions_belong_to_the_same_frames(data: Path, tokenizer: Tokenizer) -> None:
    """Changing frames 4n-3 to 4n changes latent n and no earlier one; rows 4n-4 to 4n-1 lead up to these frames."""
    windows = next(labelled_stream(windows_of(data), at(0), workers=0, log=None))
    numbers = [number_of(image.numpy()) for image in windows.frames[0]]
    batch = encode_windows(tokenizer, windows)
    assert batch.latents.shape == (4, 4, 3, 6, 8) and batch.latents.dtype == torch.float32
    assert batch.actions.shape == (4, 8, 3) and batch.actions.dtype == torch.float32
    for n in (1, 2):
        assert batch.actions[0, 4 * n - 4 : 4 * n, 1].tolist() == numbers[4 * n - 3 : 4 * n + 1]
        for frame, changed in ((4 * n - 4, n - 1), (4 * n - 3, n), (4 * n, n)):
            values = [100] * 9
            values[frame] = 200
            other = encode(tokenizer, flat(24, 32, values)) != encode(tokenizer, flat(24, 32, [100] * 9))
            assert [bool(other[:, :, latent].any()) for latent in range(changed + 1)] == [False] * changed + [True]


def test_encoding_is_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    frames = torch.randint(0, 256, (2, 5, 24, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    latents = encode(tokenizer, frames)
    with torch.no_grad():
        expected = tokenizer.encode(frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1)
    assert torch.equal(latents, expected) and not latents.requires_grad
    with pytest.raises(ValueError, match="8 frames do not make whole latents"):
        encode(tokenizer, torch.zeros(1, 8, 24, 32, 3, dtype=torch.uint8))


def test_batches_on_the_fly_are_the_same_for_any_number_of_workers_and_on_resume(
    data: Path, tokenizer: Tokenizer
) -> None:
    source = windows_of(data)

    def batches(first: int, count: int, workers: int) -> list[LatentBatch]:
        stream = encoded_batches(source, tokenizer, at(first), workers=workers, log=None)
        taken = list(islice(stream, count))
        stream.close()  # type: ignore[attr-defined]
        return taken

    straight = batches(0, 10, 0)
    assert source.block_windows < 40, "over the end of a block"
    assert all(equal(a, b) for a, b in zip(straight, batches(0, 10, 2), strict=True))
    assert all(equal(a, b) for a, b in zip(straight[7:], batches(7, 3, 0), strict=True))
    assert len(set(keys(straight))) > 20
    for batch in straight:
        assert batch.names == tuple(f"{int(clip)}.mp4" for clip in batch.actions[:, 0, 2])


def windows_expected(source: ClipWindows) -> Iterator[tuple[str, np.ndarray]]:
    """(clip, frames) of every second window of each segment, as decoded one by one."""
    for segment in range(len(source.segments.table)):
        clip = source.clips[source.segments.table["clip"][segment]]
        for number, window in enumerate(source.segments.windows(segment)):
            if number % 2 == 0:
                yield clip.name, np.stack([frame.image for frame in window])


def test_a_cached_window_is_what_encoding_it_now_gives(data: Path, tokenizer: Tokenizer, cache: LatentCache) -> None:
    expected = {}
    for name, frames in windows_expected(windows_of(data)):
        expected[name, number_of(frames[0])] = [number_of(image) for image in frames], torch.from_numpy(frames)
    assert cache.windows == len(expected) > 60 and len(cache.blocks) > 3
    batches = list(islice(cache.batches(at(0, batch_size=1), seed=SEED), cache.windows))
    assert set(keys(batches)) == expected.keys(), "each window once in the first epoch"
    others: list[torch.Tensor] = []
    for batch, key in zip(batches, keys(batches), strict=True):
        numbers, frames = expected[key]
        assert batch.actions[0, :, 0].tolist() == numbers[:-1] and batch.actions[0, :, 1].tolist() == numbers[1:]
        now = encode(tokenizer, frames[None])
        assert batch.latents.dtype == torch.float32
        torch.testing.assert_close(batch.latents, now, rtol=1e-3, atol=1e-4)
        if others:
            assert (batch.latents - others[-1]).abs().max() > 0.01, "another window's would show"
        others.append(now)


def test_every_epoch_has_each_window_once_in_another_order(cache: LatentCache) -> None:
    total = cache.windows
    seen = keys(list(islice(cache.batches(at(0), seed=SEED), 3 * total // 4 + 1)))
    epochs = [seen[start : start + total] for start in (0, total, 2 * total)]
    assert len(set(epochs[0])) == total
    assert set(epochs[0]) == set(epochs[1]) and epochs[0] != epochs[1]
    other = keys(list(islice(cache.batches(at(0), seed=SEED + 1), total // 4)))
    assert other != seen[: len(other)]


def test_ranks_share_the_windows_and_a_batch_may_be_larger_than_an_epoch(cache: LatentCache) -> None:
    total = cache.windows
    ranks = [cache.batches(at(0, rank=rank, world_size=2), seed=SEED) for rank in range(2)]
    together = [keys([next(batches)]) for _ in range(total // 8) for batches in ranks]
    alone = list(islice(cache.batches(at(0), seed=SEED), total // 8 * 2))
    assert [key for part in together for key in part] == keys(alone), "by turns, without overlap"
    large = keys([next(cache.batches(at(0, batch_size=2 * total), seed=SEED))])
    assert len(set(large[:total])) == len(set(large[total:])) == total


@pytest.mark.parametrize("first", [1, 7, 100])
def test_resuming_gives_the_batches_that_would_have_come(cache: LatentCache, first: int) -> None:
    for rank in range(2):
        straight = list(islice(cache.batches(at(0, rank=rank, world_size=2), seed=SEED), first + 3))[first:]
        resumed = list(islice(cache.batches(at(first, rank=rank, world_size=2), seed=SEED), 3))
        assert all(equal(a, b) for a, b in zip(straight, resumed, strict=True))


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_cache_is_written_once_goes_on_and_is_shared_by_ranks(
    tmp_path: Path, data: Path, tokenizer: Tokenizer, cache: LatentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stopping(model: Tokenizer, windows: LabelledWindows, forecaster: Forecaster | None) -> LatentBatch:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return encode_windows(model, windows, forecaster)

    started = cache_of(tmp_path / "cache", data, tokenizer)
    monkeypatch.setattr(latent_cache, "encode_windows", stopping)
    with pytest.raises(KeyboardInterrupt):
        started.write(batch_size=5, workers=0)
    before = files(tmp_path / "cache")
    assert 1 < len(before) < len(cache.blocks) and not any(name.startswith(".") for name in before)
    with pytest.raises(UserError, match=r"of .* are not encoded yet"):
        next(started.batches(at(0), seed=SEED))

    state = torch.get_rng_state()
    for rank in (1, 0):
        part = cache_of(tmp_path / "cache", data, tokenizer)
        part.write(batch_size=5, workers=2 * rank, rank=rank, world_size=2)
    assert torch.equal(torch.get_rng_state(), state), "or a run that finds its cache would draw other numbers"
    written = files(tmp_path / "cache")
    assert {name: written[name] for name in before} == before, "what was there is kept"
    calls_before = calls
    cache_of(tmp_path / "cache", data, tokenizer).write(batch_size=5, workers=0)
    assert calls == calls_before and files(tmp_path / "cache") == written, "nothing is encoded again"
    assert {name: content for name, (_, content) in written.items()} == {
        name: content for name, (_, content) in files(cache.folder).items()
    }, "the same for any number of ranks and workers"
    batch = next(pickle.loads(pickle.dumps(part)).batches(at(2), seed=SEED))
    assert equal(batch, next(cache.batches(at(2), seed=SEED)))


def test_a_cache_of_something_else_is_refused(
    tmp_path: Path, data: Path, tokenizer: Tokenizer, cache: LatentCache
) -> None:
    other = build_tokenizer(
        TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 2, 2), num_res_blocks=1)
    )
    with pytest.raises(UserError, match=r"made with other tokenizer$"):
        cache_of(cache.folder, data, other)
    for change in ({"height": 32}, {"frames": 5}, {"windows_per_frame": 0.25}):
        with pytest.raises(UserError, match=r"made with other windows$"):
            cache_of(cache.folder, data, tokenizer, replace(WINDOW, **change))
    clips, labels = open_folder(data / "clips").clips, Labels.open(data / "labels")
    with pytest.raises(UserError, match=r"made with other clips$"):
        LatentCache(cache.folder, clips[:2], WINDOW, labels=labels, tokenizer=tokenizer)
    write_labels(tmp_path / "labels", data / "clips", fps=10.0, weights="another")
    with pytest.raises(UserError, match=r"made with other labels$"):
        LatentCache(cache.folder, clips, WINDOW, labels=Labels.open(tmp_path / "labels"), tokenizer=tokenizer)
    with pytest.raises(UserError, match="is not empty and holds no latents"):
        cache_of(data / "clips", data, tokenizer)
    cache_of(cache.folder, data, tokenizer)


def small_data(root: Path) -> None:
    for name in "abc":
        write_clip(root / "clips" / f"{name}.mp4", (np.arange(120) / 30).tolist(), gop=120)
    write_labels(root / "labels", root / "clips", fps=10.0)


def test_what_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    small_data(tmp_path)
    one_block_each = replace(WINDOW, buffer_windows=1)
    cache = cache_of(tmp_path / "cache", tmp_path, tokenizer, one_block_each)
    damage(tmp_path / "clips" / "b.mp4", after=0.68)
    cache.write(batch_size=8, workers=0)
    assert "left out: b.mp4: " in capsys.readouterr().err
    assert len(cache.blocks) == 3 and cache.windows == 2 * 16
    assert {name for name, _ in keys(list(islice(cache.batches(at(0), seed=SEED), 8)))} == {"a.mp4", "c.mp4"}
    path = cache.path(2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadData, match=r"block-000002\.safetensors is damaged"):
        next(cache_of_again(cache).batches(at(0), seed=SEED))


def cache_of_again(cache: LatentCache) -> LatentCache:
    """As a second run has it, with nothing read yet; the clips have changed, so that it cannot be opened anew."""
    again = pickle.loads(pickle.dumps(cache))
    again.__dict__.pop("_ends", None)
    return again


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_of_other_frames_stop_the_writing(tmp_path: Path, tokenizer: Tokenizer, workers: int) -> None:
    small_data(tmp_path)
    cache = cache_of(tmp_path / "cache", tmp_path, tokenizer)
    write_clip(tmp_path / "clips" / "b.mp4", (np.arange(120) / 30 + np.arange(120) % 2 * 0.01).tolist(), gop=120)
    with pytest.raises(BadData, match=r"^b\.mp4: no frame at") as caught:
        cache.write(batch_size=8, workers=workers)
    assert "run `understudy label` again" in caught.value.hint


def test_forecasts_are_kept_with_their_windows(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    clips, labels = open_folder(data / "clips").clips, Labels.open(data / "labels")
    forecaster = brighter()

    def opened(forecaster: Forecaster | None) -> LatentCache:
        return LatentCache(tmp_path, clips, WINDOW, labels=labels, tokenizer=tokenizer, forecaster=forecaster)

    cache = opened(forecaster)
    cache.write(batch_size=5, workers=0)
    kept = {key: batch for batch in islice(cache.batches(at(0, batch_size=1), seed=SEED), 40) for key in keys([batch])}
    found = 0
    for windows in islice(labelled_stream(windows_of(data), at(0), workers=0, log=None), 20):
        batch = encode_windows(tokenizer, windows, forecaster)
        assert batch.forecasts is not None
        for row, key in enumerate(keys([batch])):
            if key in kept:
                found += 1
                torch.testing.assert_close(kept[key].forecasts, batch.forecasts[row : row + 1], rtol=1e-3, atol=1e-4)
                assert (batch.forecasts[row] - batch.latents[row])[:, 1:].abs().max() > 2e-3
    assert found > 3
    for other in (None, brighter("another"), brighter(span=1)):
        with pytest.raises(UserError, match="made with other forecaster"):
            opened(other)


def test_a_share_of_the_windows_stands_still_and_is_told_zeros() -> None:
    frames = torch.arange(5 * 3, dtype=torch.uint8).reshape(5, 3, 1, 1, 1).expand(5, 3, 2, 2, 3).contiguous()
    windows = LabelledWindows(frames, torch.ones(5, 2, 4), tuple("abcde"))
    changed = [
        [row for row in range(5) if not with_still(windows, share=0.3, first=5 * part).actions[row].any()]
        for part in range(4)
    ]
    assert changed == [[3], [1, 4], [3], [1, 4]], "three of ten, whatever the batches"
    still = with_still(windows, share=0.3, first=0)
    assert still.names == windows.names
    for row in range(5):
        if row == 3:
            assert (still.frames[row] == frames[row, :1]).all() and not still.actions[row].any()
        else:
            assert torch.equal(still.frames[row], frames[row]) and torch.equal(still.actions[row], windows.actions[row])
    assert torch.equal(with_still(windows, share=0.0, first=0).frames, frames)


@pytest.mark.parametrize("encode_once", [True, False])
def test_still_windows_are_encoded_as_such(data: Path, tokenizer: Tokenizer, tmp_path: Path, encode_once: bool) -> None:
    """Their forecast is the film itself, and about as many are there as were asked for."""
    if encode_once:
        clips, labels = open_folder(data / "clips").clips, Labels.open(data / "labels")
        cache = LatentCache(
            tmp_path, clips, WINDOW, labels=labels, tokenizer=tokenizer, forecaster=brighter(), still_share=0.25
        )
        cache.write(batch_size=5, workers=0)
        batches = islice(cache.batches(at(0), seed=SEED), 10)
        with pytest.raises(UserError, match="made with other still_share"):
            LatentCache(tmp_path, clips, WINDOW, labels=labels, tokenizer=tokenizer, forecaster=brighter())
    else:
        source = windows_of(data)
        batches = islice(
            encoded_batches(source, tokenizer, at(0), workers=0, log=None, forecaster=brighter(), still_share=0.25),
            10,
        )
    still = 0
    for batch in batches:
        assert batch.forecasts is not None
        for row in range(len(batch.names)):
            if not batch.actions[row].any():
                still += 1
                torch.testing.assert_close(batch.forecasts[row, :, 1:], batch.latents[row, :, 1:], rtol=1e-3, atol=1e-3)
    assert 6 <= still <= 14
