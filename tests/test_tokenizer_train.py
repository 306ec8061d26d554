"""Training a tokenizer: its windows of frames, its loss, and a run that resumes bit for bit."""

import dataclasses
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from common.config import TrainingConfig
from common.errors import BadData, UserError
from common.folders import open_folder
from common.training import DataPosition
from tests.counted_clips import SIZE, damage, number_of, numbered_frame, write_clip
from tests.moving_clips import write_moving_clips
from video_model.clip_batches import ClipBatch, evaluation_batches, open_split, stream
from video_model.clips import ClipWindows, WindowBlock, WindowConfig
from video_model.presets import (
    TOKENIZER_PRESETS,
    TokenizerAugmentConfig,
    TokenizerConfig,
    TokenizerDataConfig,
    TokenizerLossConfig,
    TokenizerModelConfig,
)
from video_model.tokenizer import TokenizerOutput, build_tokenizer, load_tokenizer
from video_model.tokenizer_loss import loss, sharpness_error
from video_model.tokenizer_train import augment, evaluate_tokenizer, train, window_config

WINDOW = WindowConfig(height=SIZE[0], width=SIZE[1], frames=5, fps=10, windows_per_frame=0.5, buffer_windows=24)
SMALL = TokenizerConfig(
    model=TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 2, 2), num_res_blocks=1),
    data=TokenizerDataConfig(height=24, width=24, frames=5, lead_in=4, buffer_windows=16, validation_windows=8),
    augment=TokenizerAugmentConfig(crop=16),
    training=TrainingConfig(
        steps=3, batch_size=4, warmup_steps=1, log_every=1, save_every=2, evaluate_every=2, workers=0
    ),
)


def times_at(rate: float, frames: int) -> list[float]:
    return (np.arange(frames) / rate).tolist()


def source(root: Path, *, config: WindowConfig = WINDOW, batch_size: int = 8, **options: Any) -> ClipWindows:
    return ClipWindows(open_folder(root).clips, config=config, batch_size=batch_size, **{"seed": 0, **options})


def numbers(block: WindowBlock) -> np.ndarray:
    return np.array([[number_of(image) for image in window] for window in block.frames])


def same(one: WindowBlock, other: WindowBlock) -> bool:
    arrays = ("frames", "seconds", "clip")
    return one.clips == other.clips and all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)


@pytest.mark.parametrize(
    ("rate", "steps"), [(10, {1}), (30, {3}), (30000 / 1001, {3}), (60, {6}), (24, {2, 3}), (8, {1})]
)
def test_windows_are_the_frames_of_the_wanted_rate(tmp_path: Path, rate: float, steps: set[int]) -> None:
    times = times_at(rate, round(6 * rate))
    write_clip(tmp_path / "clip.mp4", times, gop=30)
    block = source(tmp_path).block(0)
    shown = numbers(block)
    assert block.frames.shape[1:] == (5, *SIZE, 3)
    np.testing.assert_allclose(block.seconds, np.array(times)[shown], atol=1e-4)  # one frame off would be 16 ms or more
    assert set(np.diff(shown, axis=1).ravel().tolist()) == steps


def test_every_window_of_a_clip_can_be_drawn_and_none_beyond(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", times_at(10, 20), gop=20)
    windows = source(tmp_path, config=replace(WINDOW, windows_per_frame=1.0), batch_size=16)
    assert windows.windows == windows.block_windows == 16
    assert sorted(numbers(windows.block(0))[:, 0].tolist()) == list(range(16))


def test_no_window_crosses_a_cut_or_a_hole(tmp_path: Path) -> None:
    scenes = [numbered_frame(number, scene=number // 17) for number in range(102)]
    times = times_at(10, 102)
    holed = [time + (5.0 if number >= 60 else 0.0) for number, time in enumerate(times)]
    write_clip(tmp_path / "clip.mp4", holed, gop=102, images=scenes)
    shown = numbers(source(tmp_path, config=replace(WINDOW, windows_per_frame=1.0, buffer_windows=96)).block(0))
    first, last = shown[:, 0], shown[:, -1]
    assert np.all(first // 17 == last // 17), "no window crosses a cut"
    assert np.all((first < 60) == (last < 60)), "nor the hole"
    assert len(set(first // 17)) == 6


def test_segments_are_read_from_their_first_frame(tmp_path: Path) -> None:
    """At 30 fps most segments begin between two frames of the wanted rate; their windows are even all the same."""
    write_clip(tmp_path / "clip.mp4", times_at(30, 400), gop=100)
    blocks = [source(tmp_path, config=replace(WINDOW, windows_per_frame=1.0)).block(number) for number in range(4)]
    assert all(set(np.diff(numbers(block), axis=1).ravel().tolist()) == {3} for block in blocks)


@pytest.fixture(scope="module")
def three_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("three")
    for index, (rate, frames) in enumerate([(30.0, 150), (10.0, 60), (20.0, 100)]):
        write_clip(root / f"clip{index}.mp4", times_at(rate, frames), gop=24)
    return root


def test_a_block_is_a_function_of_its_number_alone(three_clips: Path) -> None:
    straight = [source(three_clips).block(number) for number in range(3)]
    reused = source(three_clips)
    backwards = [reused.block(number) for number in (2, 1, 0)][::-1]
    copied = pickle.loads(pickle.dumps(source(three_clips)))  # as a data worker gets it
    assert all(same(a, b) for a, b in zip(straight, backwards, strict=True))
    assert same(copied.block(2), straight[2])
    assert not same(straight[0], source(three_clips, seed=1).block(0))
    assert not np.array_equal(straight[0].seconds, straight[1].seconds)


def test_ranks_share_an_epoch_without_overlap(tmp_path: Path) -> None:
    for index in range(4):
        write_clip(tmp_path / f"{index}.mp4", times_at(10, 40), gop=40)
    ranks = [source(tmp_path, rank=rank, world_size=2) for rank in range(2)]
    seen = [
        {name for n in range(windows._plan.blocks_per_epoch) for name in windows.block(n).clips} for windows in ranks
    ]
    assert seen[0] | seen[1] == {f"{n}.mp4" for n in range(4)} and not seen[0] & seen[1]


def test_a_damaged_clip_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in "abc":
        write_clip(tmp_path / f"{name}.mp4", times_at(30, 120), gop=120)
    clips = open_folder(tmp_path).clips
    damage(tmp_path / "b.mp4", after=0.68)  # after the folder was opened, and late: some blocks have enough by then
    few = replace(WINDOW, windows_per_frame=0.1)
    used = ClipWindows(clips, config=few, batch_size=2, seed=0)
    blocks = [used.block(number) for number in range(8)]
    assert {file.name for block in blocks for file in block.bad} == {"b.mp4"}
    assert not any("b.mp4" in block.clips for block in blocks), "a segment that fails gives nothing"
    for number, block in enumerate(blocks[:4]):
        fresh = ClipWindows(clips, config=few, batch_size=2, seed=0).block(number)
        assert same(block, fresh) and block.bad == fresh.bad, "whatever was read before"


def test_what_gives_no_window_is_bad_data(tmp_path: Path) -> None:
    write_clip(tmp_path / "slow" / "clip.mp4", times_at(5, 60), gop=30)
    with pytest.raises(BadData, match="no 5 frames at 10 per second in 1 clips: they are too short, too slow"):
        source(tmp_path / "slow")
    write_clip(tmp_path / "short" / "clip.mp4", times_at(10, 4), gop=30)
    with pytest.raises(BadData, match="no 5 frames at 10 per second"):
        source(tmp_path / "short")
    write_clip(tmp_path / "bad" / "only.mp4", times_at(30, 120), gop=120)
    windows = source(tmp_path / "bad")
    damage(tmp_path / "bad" / "only.mp4", after=0.3)
    with pytest.raises(BadData, match=r"only\.mp4: .+"):
        windows.block(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_is_the_blocks_in_order_from_any_batch(three_clips: Path, workers: int) -> None:
    windows = source(three_clips)
    expected = torch.cat([torch.from_numpy(windows.block(number).frames) for number in range(2)])

    def frames(first_batch: int, count: int) -> Tensor:
        position = DataPosition(first_batch=first_batch, batch_size=8, rank=0, world_size=1)
        batches = stream(windows, position, workers=workers, log=None)
        got = torch.cat([next(batches).frames for _ in range(count)])
        batches.close()  # type: ignore[attr-defined]
        return ((got.movedim(2, -1) + 1) * 127.5).round().byte()

    assert windows.block_windows == 24
    assert torch.equal(frames(0, 6), expected)
    assert torch.equal(frames(4, 2), expected[32:])


def test_validation_windows_come_from_all_held_out_clips_and_no_other(tmp_path: Path) -> None:
    folder = write_moving_clips(tmp_path / "clips", 12, frames=20)
    training, validation = open_split([folder], validation_share=0.3, seed=0)
    names = {clip.name for clip in validation}
    assert len(names) > 1 and not names & {clip.name for clip in training}
    config = replace(WINDOW, height=24, width=24)
    batches = evaluation_batches(validation, config, windows=10, batch_size=4, seed=0)
    assert [len(batch.frames) for batch in batches] == [4, 4, 2] == [len(batch.names) for batch in batches]
    assert {name for batch in batches for name in batch.names} == names
    again = evaluation_batches(validation, config, windows=10, batch_size=4, seed=0)
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(batches, again, strict=True))


def test_augmentation_treats_all_frames_of_a_window_alike() -> None:
    torch.manual_seed(0)
    columns = torch.arange(16.0).expand(32, 5, 3, 16, 16) + 16 * torch.arange(16.0)[:, None]
    out = augment(ClipBatch(columns, ("a",) * 32), TokenizerAugmentConfig(crop=8)).frames
    assert out.shape == (32, 5, 3, 8, 8)
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    rising = out[:, 0, 0, 0].diff(dim=-1)
    assert torch.equal(rising.abs(), torch.ones(32, 7)) and 8 < (rising[:, 0] < 0).sum() < 24
    assert torch.equal(out[0, 0, 0].diff(dim=0), torch.full((7, 8), 16.0))
    kept = augment(ClipBatch(columns, ("a",) * 32), TokenizerAugmentConfig(mirror=False)).frames
    assert torch.equal(kept, columns)


def test_recolouring_changes_windows_each_in_one_way() -> None:
    torch.manual_seed(0)
    frames = torch.linspace(-0.3, 0.3, 17)[:, None, None, None] + torch.tensor([-0.2, 0.0, 0.2])[:, None, None]
    frames = frames.expand(32, 17, 3, 8, 8)  # within [-0.5, 0.5], so that nothing is cut off
    out = augment(ClipBatch(frames, ("a",) * 32), TokenizerAugmentConfig(mirror=False, colour=True)).frames
    per_frame = out[..., 0, 0]  # (B, T, 3)
    assert torch.equal(out, per_frame[..., None, None].expand_as(out)), "no place differs"
    slopes = per_frame.diff(dim=1)
    torch.testing.assert_close(slopes, slopes[:, :1].expand_as(slopes), msg="nor does a time")
    assert slopes.min() > 0, "nothing is inverted"
    assert slopes.mean(1).flatten().unique().numel() == 96, "each colour of each window has its own contrast"
    ranks = (per_frame.mean(1) / slopes.mean(1)).argsort(dim=1)
    assert len({tuple(order.tolist()) for order in ranks}) > 1, "and the order of colours changes"


def test_sharpness_is_about_space_not_time_or_channels() -> None:
    frames, guess = torch.rand(2, 2, 5, 3, 12, 10, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = sharpness_error(guess, frames)
    for axis in (0, 1, 2):  # clips, frames, colours in another order: the same error
        order = torch.arange(frames.shape[axis]).flip(0)
        shuffled = sharpness_error(guess.index_select(axis, order), frames.index_select(axis, order))
        torch.testing.assert_close(shuffled, expected)
    for axis in (3, 4):  # rows or columns in another order: other neighbours, another error
        order = torch.randperm(frames.shape[axis], generator=torch.Generator().manual_seed(1))
        shuffled = sharpness_error(guess.index_select(axis, order), frames.index_select(axis, order))
        assert (shuffled - expected).abs() > 1e-3
    assert sharpness_error(frames + 0.5, frames) < 1e-6, "blind to a pale picture"
    offsets = torch.rand(2, 5, 3, 1, 1)
    assert sharpness_error(frames + offsets, frames) < 1e-6, "of any frame and colour"


def test_every_weight_gets_a_gradient_and_each_part_counts() -> None:
    torch.manual_seed(0)
    model = build_tokenizer(SMALL.model)
    batch = ClipBatch(torch.rand(2, 9, 3, 16, 16) * 2 - 1, ("a", "b"))  # three latents: the third uses all caches
    total, metrics = loss(model, batch, TokenizerLossConfig(), lead_in=0)
    total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()] == []
    assert not any(value.requires_grad for value in metrics.values())
    weighted = metrics["pixels"] + 0.5 * metrics["sharpness"] + 1e-4 * metrics["nats"]
    torch.testing.assert_close(total.detach(), weighted)
    torch.manual_seed(1)
    one = loss(model, batch, TokenizerLossConfig(), lead_in=0)[0]
    assert not torch.equal(one, loss(model, batch, TokenizerLossConfig(), lead_in=0)[0]), "training samples"
    model.eval()
    assert torch.equal(
        loss(model, batch, TokenizerLossConfig(), lead_in=0)[0], loss(model, batch, TokenizerLossConfig(), lead_in=0)[0]
    )


def test_a_lead_in_fills_the_caches_and_gets_no_gradient() -> None:
    torch.manual_seed(0)
    model = build_tokenizer(SMALL.model).eval()
    frames = (torch.rand(2, 13, 3, 16, 16) * 2 - 1).requires_grad_()
    whole, rest = model(frames, sample=False), model(frames, sample=False, lead_in=2)
    assert rest.reconstruction.shape[1] == 8 and rest.mean.shape[2] == 2
    assert torch.equal(rest.reconstruction, whole.reconstruction[:, 5:]) and torch.equal(
        rest.mean, whole.mean[:, :, 2:]
    )
    rest.reconstruction.sum().backward()
    assert frames.grad is not None and not frames.grad[:, :5].any() and frames.grad[:, 5:].any()


def test_the_loss_looks_at_the_beginning_or_at_what_comes_late() -> None:
    """The model shows its input; one frame is unlike the others, and only the draws that hold it can know."""

    class Echo(nn.Module):
        def forward(self, frames: Tensor, *, sample: bool, lead_in: int = 0) -> TokenizerOutput:
            shown = frames[:, 1 + 4 * (lead_in - 1) :] if lead_in else frames
            seen.append((frames.shape[1], shown.shape[1]))
            return TokenizerOutput(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), shown)

    seen: list[tuple[int, int]] = []
    batch = ClipBatch(torch.rand(1, 13, 3, 8, 8), ("a",))
    for seed in range(40):
        torch.manual_seed(seed)
        assert loss(Echo(), batch, TokenizerLossConfig(), lead_in=8)[0].abs().item() < 1e-6
    assert set(seen) == {(5, 5), (13, 4)} and 8 < seen.count((5, 5)) < 32


def run_numbers(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("samples_per_second", "data_wait_share")} for line in lines]


def test_training_resumes_bit_for_bit_and_its_checkpoint_loads(tmp_path: Path) -> None:
    clips = write_moving_clips(tmp_path / "clips", 6, frames=20)
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    last = train(SMALL, preset="tiny", data=[clips], out=straight)
    # A run that was stopped after its first checkpoint: what came later is gone.
    train(SMALL, preset="tiny", data=[clips], out=cut)
    for path in (cut / "checkpoints" / "step-3").rglob("*"):
        if path.is_file():
            path.unlink()
    (cut / "checkpoints" / "step-3" / "training").rmdir()
    (cut / "checkpoints" / "step-3").rmdir()
    resumed = train(SMALL, preset="tiny", data=[clips], out=cut)
    assert last == straight / "checkpoints" / "step-3" and resumed.name == "step-3"
    for name in ("model", "training/weights", "training/optimizer"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in (last, resumed))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert run_numbers(straight) == run_numbers(cut)

    found = [line for line in run_numbers(straight) if "validation/psnr" in line]
    assert [line["step"] for line in found] == [2, 3]
    assert {f"validation/psnr_{kind}" for kind in ("first_frame", "copy")} <= found[0].keys()
    card = (last / "README.md").read_text()
    assert f"{found[-1]['validation/psnr']:.4g}" in card and "understudy train tokenizer tiny" in card
    with Image.open(straight / "samples" / "step-3.png") as sheet:
        assert sheet.width > 5 * 96 and sheet.height > 9 * 96

    loaded, data = load_tokenizer(straight), SMALL.data
    assert not loaded.training and loaded.latents_std.ne(1).all()
    config = window_config(data)
    held_out = open_split([clips], validation_share=data.validation_share, seed=0)[1]
    batches = evaluation_batches(held_out, config, windows=8, batch_size=8, seed=0)
    measured = evaluate_tokenizer(loaded, batches)
    assert measured["psnr"] == pytest.approx(found[-1]["validation/psnr"], abs=1e-3)
    frames = batches[0].frames
    decoded = loaded.decode(loaded.encode(frames)).detach()
    error = ((decoded - frames) / 2).square().mean((2, 3, 4))
    assert measured["psnr"] == pytest.approx(float(-10 * error.log10().mean()), abs=1e-3)
    (last / "config.json").write_text(json.dumps({"stage": "lam"}))
    (last / "manifest.json").unlink()
    with pytest.raises(BadData, match="a 'lam' checkpoint, not a tokenizer"):
        load_tokenizer(last)


@pytest.mark.parametrize("preset", list(TOKENIZER_PRESETS))
def test_presets_compress_time_by_4_and_space_by_8(preset: str) -> None:
    config = TOKENIZER_PRESETS[preset]()
    with torch.device("meta"):
        model = build_tokenizer(config.model)
    parameters = sum(p.numel() for p in model.parameters())
    assert model.space_factor == config.model.space_factor == 8
    if preset == "tiny":
        assert 4 * parameters <= 6e6, "the shipped file stays below 6 MB in fp32"
    else:
        assert round(parameters / 1e6, 1) == 126.9


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("data", {"frames": 8}, "the nearest that are: 5 and 9"),
        ("data", {"frames": 1}, "the nearest that are: 5 and 9"),
        ("data", {"height": 60}, "multiple of 8.* 56 and 64"),
        ("augment", {"crop": 12}, "multiple of 8.* 8 and 16"),
        ("augment", {"crop": 128}, "larger than the 64 x 64"),
        ("model", {"dim_mult": (1, 2)}, "three numbers"),
        ("loss", {"kl_weight": -1.0}, "kl_weight must not be negative, not -1.0"),
    ],
)
def test_wrong_settings_are_refused(part: str, change: dict[str, object], message: str) -> None:
    config = TOKENIZER_PRESETS["tiny"]()
    with pytest.raises(UserError, match=message):
        replace(config, **{part: dataclasses.replace(getattr(config, part), **change)})
