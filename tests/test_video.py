"""probe, decode and write_video on files made here and on real clips. Broken files: test_bad_video.py."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.video import Frame, UnreadableVideo, decode, numbered_images, probe, write_video
from tests.bad_videos import (
    CASES,
    NEGATIVE,
    OPEN_GOP,
    UNEVEN,
    USABLE,
    encode,
    image_folder,
    patched,
    picture,
    rotated,
    trim,
)

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
REAL = [f"ego/{name}.mp4" for name in ("blocks", "bristol", "fair", "hand_gestures", "kaust", "tokyo")]
REAL += ["robot/g1_inspire_v21/videos/chunk-000/observation.images.cam_high/episode_000002.mp4"]


RANGES = [(0.0, 0.4, 0, 12), (0.4, 0.8, 12, 24), (0.5, None, 15, 40)]  # start, stop, first frame, end


def numbered(index: int) -> np.ndarray:
    """A picture that says which frame it is: grey level 40 + 5 index."""
    return np.full((48, 64, 3), 40 + 5 * index, np.uint8)


def number(frame: Frame) -> int:
    return round((float(frame.image.mean()) - 40) / 5)


def same(a: list[Frame], b: list[Frame]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(x.seconds == y.seconds and np.array_equal(x.image, y.image) for x, y in pairs)


def test_every_frame_keeps_its_time_and_its_place(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", (numbered(index) for index in range(40)), fps=30, gop=12)
    info = probe(tmp_path / "clip.mp4")
    frames = list(decode(tmp_path / "clip.mp4"))
    assert [number(frame) for frame in frames] == list(range(40))
    assert [frame.seconds for frame in frames] == pytest.approx([index / 30 for index in range(40)], abs=1e-4)
    assert (info.frames, info.width, info.height, info.codec, info.rotation) == (40, 64, 48, "h264", 0)
    assert (info.fps, info.duration_seconds) == (pytest.approx(30, 1e-3), pytest.approx(40 / 30, 1e-3))
    assert not info.variable_rate and info.start_seconds == 0 and info.longest_gop == 12 and not info.warnings


@pytest.mark.parametrize("fps", [10, 15, 24, 25, 29.97, 30000 / 1001, 30, 60])
def test_rate_comes_from_the_timestamps(tmp_path: Path, fps: float) -> None:
    """Also in Matroska, whose clock ticks in whole milliseconds."""
    write_video(tmp_path / "clip.mp4", (numbered(0) for _ in range(50)), fps=fps)
    encode(tmp_path / "clip.mkv", count=50, times=[round(1000 * index / fps) for index in range(50)])
    for name in ("clip.mp4", "clip.mkv"):
        info = probe(tmp_path / name)
        assert info.fps == pytest.approx(fps, rel=1e-3) and not info.variable_rate


@pytest.mark.parametrize(
    ("start", "stop", "first", "end"), [(0.0, 0.4, 0, 12), (0.4, 0.8, 12, 24), (0.5, None, 15, 40)]
)
def test_a_range_is_closed_at_its_start_and_open_at_its_end(
    tmp_path: Path, start: float, stop: float | None, first: int, end: int
) -> None:
    write_video(tmp_path / "clip.mp4", (numbered(index) for index in range(40)), fps=30, gop=12)
    frames = decode(tmp_path / "clip.mp4", start=start, stop=stop)
    assert [number(frame) for frame in frames] == list(range(first, end))


def segments_equal_one_pass(path: Path) -> None:
    info = probe(path)
    whole = list(decode(path, size=(48, 64)))
    assert len(whole) == info.frames
    assert all(before.seconds < after.seconds for before, after in pairwise(whole))
    assert all(whole[keyframe.frame].seconds == keyframe.seconds for keyframe in info.keyframes)
    assert whole[0].seconds == info.start_seconds
    cuts = [*(keyframe.seconds for keyframe in info.keyframes[:40]), math.inf]
    parts = [list(decode(path, size=(48, 64), start=start, stop=stop)) for start, stop in pairwise(cuts)]
    assert [part[0].seconds for part in parts] == cuts[:-1]
    assert same([frame for part in parts for frame in part], whole)


@pytest.mark.parametrize("case", [case for case in CASES if case.outcome == USABLE], ids=lambda case: case.name)
def test_cutting_at_key_frames_loses_and_repeats_nothing(case, tmp_path: Path) -> None:
    if case.name == "zeroed_middle.mp4":
        pytest.skip("raises, or hides the damage, depending on the decoder; see test_bad_video.py")
    case.make(tmp_path / case.name)
    segments_equal_one_pass(tmp_path / case.name)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mts", "avi"])
@pytest.mark.parametrize("bframes", [0, 1, 3])
@pytest.mark.parametrize("open_gop", [0, 1])
def test_cutting_reordered_groups(tmp_path: Path, suffix: str, bframes: int, open_gop: int) -> None:
    options = f"open-gop={open_gop}:keyint=10:min-keyint=10:scenecut=0:bframes={bframes}:b-adapt=0"
    path = tmp_path / f"clip.{suffix}"
    encode(path, count=47, options={"x264-params": options})
    assert (len(probe(path).keyframes) == 5) == (suffix != "avi")
    segments_equal_one_pass(path)


@pytest.mark.parametrize("name", REAL)
def test_cutting_real_clips(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"needs the real clip {name} beside the repository")
    segments_equal_one_pass(DATA / name)


def test_an_open_group_needs_the_frames_before_it(tmp_path: Path) -> None:
    """Guards the test above: in this file pictures shown before a key frame are stored after it."""
    import av

    encode(tmp_path / "clip.mp4", options=OPEN_GOP)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    second = [index for index, packet in enumerate(packets) if packet.is_keyframe][1]
    assert any(packet.pts < packets[second].pts for packet in packets[second + 1 :])


@pytest.mark.parametrize(("degrees", "red_at"), [(90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_rotation_turns_the_picture_clockwise(tmp_path: Path, degrees: int, red_at: tuple[int, int]) -> None:
    """The stored picture is red at its top left; turned by 90 degrees clockwise, red is at the top right."""
    rotated(degrees)(tmp_path / "clip.mp4")
    info = probe(tmp_path / "clip.mp4")
    shape = (64, 48) if degrees in (90, 270) else (48, 64)
    assert info.rotation == degrees and (info.height, info.width) == shape
    for size in (None, (30, 40), (40, 30)):
        image = next(decode(tmp_path / "clip.mp4", size=size)).image
        assert image.shape == (*(size or shape), 3)
        height, width = image.shape[:2]
        corners = {(y, x): image[2 + y * (height - 6), 2 + x * (width - 6)] for y in (0, 1) for x in (0, 1)}
        red = max(corners, key=lambda place: int(corners[place][0]) - int(corners[place][1]))
        assert red == red_at


def test_crop_keeps_the_middle_and_the_colours(tmp_path: Path) -> None:
    """A wide picture loses its sides, a tall one its top and bottom; colours come back within a few levels."""
    wide = np.zeros((60, 160, 3), np.uint8)
    wide[:, 40:120] = (200, 60, 20)
    for stored, size in ((wide, (30, 40)), (wide.transpose(1, 0, 2).copy(), (40, 30))):
        write_video(tmp_path / "clip.mp4", [stored] * 2, fps=10, crf=1)
        image = next(decode(tmp_path / "clip.mp4", size=size)).image
        assert image.shape == (*size, 3)
        assert np.abs(image[2:-2, 2:-2].astype(int) - (200, 60, 20)).max() <= 6


def test_resize_takes_the_mean_of_the_area(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 1), dtype=np.uint8).repeat(3, axis=2)
    write_video(tmp_path / "clip.mp4", [noise] * 2, fps=10, crf=0)
    small = next(decode(tmp_path / "clip.mp4", size=(12, 16))).image
    want = noise.reshape(12, 8, 16, 8, 3).mean(axis=(1, 3))
    assert np.abs(small - want).max() < 8 and np.abs(small - want).mean() < 2


def test_full_size_equals_a_size_of_the_same_shape(tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4")
    assert same(list(decode(tmp_path / "clip.mp4")), list(decode(tmp_path / "clip.mp4", size=(48, 64))))


def test_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4", times=UNEVEN)
    info = probe(tmp_path / "clip.mp4")
    times = [frame.seconds for frame in decode(tmp_path / "clip.mp4")]
    assert times == pytest.approx([tick / 1000 for tick in UNEVEN], abs=1e-4)
    assert info.variable_rate and info.fps == pytest.approx((len(UNEVEN) - 1) / 0.8)


def test_negative_times_are_kept_where_the_format_shows_them(tmp_path: Path) -> None:
    encode(tmp_path / "clip.mts", container="mpegts", times=NEGATIVE)
    frames = list(decode(tmp_path / "clip.mts"))
    assert len(frames) == len(NEGATIVE) == probe(tmp_path / "clip.mts").frames
    assert np.diff([frame.seconds for frame in frames]) == pytest.approx(0.04)


def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path: Path) -> None:
    """Four of the twenty frames lie before time 0; players do not show them, nor do we."""
    encode(tmp_path / "clip.mp4", times=NEGATIVE)
    frames = list(decode(tmp_path / "clip.mp4"))
    assert len(frames) == probe(tmp_path / "clip.mp4").frames == 16
    errors = [[np.abs(frame.image - picture(index).astype(int)).mean() for index in range(20)] for frame in frames]
    assert [int(np.argmin(row)) for row in errors] == list(range(4, 20))


def test_a_trimmed_recording_shows_what_its_edit_list_says(tmp_path: Path) -> None:
    """100 frames at 25 per second, of which the list shows 40, from the 25th on."""
    patched(trim, count=100, options={"bf": "2"})(tmp_path / "clip.mp4")
    frames = list(decode(tmp_path / "clip.mp4"))
    errors = [[np.abs(frame.image - picture(index).astype(int)).mean() for index in range(30)] for frame in frames[:4]]
    assert [int(np.argmin(row)) for row in errors] == [25, 26, 27, 28]
    info = probe(tmp_path / "clip.mp4")
    assert (info.frames, info.warnings) == (40, ()) and frames[0].seconds == info.start_seconds == 0


def test_numbered_images_are_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    image_folder(names="{}.png", sizes=((48, 64),) * 12)(folder)  # 0.png ... 11.png: 10 comes after 9, not after 1
    (folder / "cover.png").write_bytes(b"not part of the series")
    info = probe(folder)
    frames = list(decode(folder))
    assert [path.name for path in numbered_images(folder)] == [f"{index}.png" for index in range(12)]
    assert all(np.array_equal(frame.image, picture(index)) for index, frame in enumerate(frames))
    assert [frame.seconds for frame in frames] == pytest.approx([index / 10 for index in range(12)])
    assert (info.frames, info.fps, info.longest_gop, info.codec) == (12, 10, 1, "png images")
    assert same(list(decode(folder, start=0.3, stop=0.7)), frames[3:7])
    (folder / "fps.txt").write_text("29.97\n")
    assert probe(folder).fps == pytest.approx(29.97)
    (folder / "fps.txt").write_text("fast")
    with pytest.raises(UnreadableVideo, match=r"fps\.txt"):
        probe(folder)


def test_a_photograph_taken_sideways_is_turned(tmp_path: Path) -> None:
    """Orientation 6 in the EXIF part of a JPEG: to be turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(2):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.jpg", exif=exif, quality=95)
    info = probe(tmp_path)
    image = next(decode(tmp_path)).image
    assert (info.rotation, info.height, info.width) == (90, 64, 48) and image.shape == (64, 48, 3)
    assert image[4, -4].argmax() == 0 and image[-4, -4].argmax() == 1  # red, then green below it


@pytest.mark.parametrize("shape", [(48, 64), (47, 64), (48, 63), (47, 63)])
def test_write_video_pads_odd_sizes(tmp_path: Path, shape: tuple[int, int]) -> None:
    images = [picture(index, height=shape[0], width=shape[1]) for index in range(5)]
    write_video(tmp_path / "clip.mp4", images, fps=10, crf=1)
    frames = list(decode(tmp_path / "clip.mp4"))
    assert len(frames) == 5 and frames[0].image.shape == (48, 64, 3)
    error = np.abs(frames[3].image[: shape[0], : shape[1]].astype(int) - images[3])
    assert error.mean() < 5


def test_write_video_leaves_nothing_half_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "clip.mp4", [], fps=10)
    with pytest.raises(ValueError, match="frame 1"):
        write_video(tmp_path / "clip.mp4", [picture(0), picture(1, width=32)], fps=10)
    assert list(tmp_path.iterdir()) == []


def test_size_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        next(decode(tmp_path / "clip.mp4", size=(0, 4)))


def test_a_range_without_frames_is_an_error(tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4")
    with pytest.raises(UnreadableVideo, match="between 5"):
        list(decode(tmp_path / "clip.mp4", start=5.0))
