"""`understudy data …`: look at data, make it, change its form.

Modules that import torch, PyAV or pyarrow are imported inside the verb, so that help texts stay quick.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from scripts.demo_config import DemoConfig
from scripts.verb_options import Json, list_bad, parse


def data_scan(words: list[str], program: str) -> None:
    """look at a folder of video: what is in it, what cannot be used and why"""

    def run(folder: Positional[Path], /, json_file: Json = None, refresh: bool = False) -> None:
        """Look at every video below a folder and print a table: size, frame rate, codec, cuts, motion, and a reason
        for each file that cannot be used.

        Args:
            folder: Folder of video files.
            refresh: Read every file anew instead of trusting the folder's index.
        """
        from scripts.scan import scan

        scan(folder, json_path=json_file, refresh=refresh)

    parse(run, words, program)


def data_prepare(words: list[str], program: str) -> None:
    """write training-size shards of a folder, for fast repeated training"""

    def run(
        folder: Positional[Path],
        /,
        out: Path,
        size: tuple[int, int] = (240, 320),
        quality: int = 90,
        fps: float | None = None,
        workers: int = 1,
    ) -> None:
        """Write every frame once as a JPEG of training size. Train on the result with `--data OUT`.

        Args:
            folder: Folder of video files.
            out: Folder for the shards.
            size: Height and width in pixels; must be those of the model.
            quality: JPEG quality.
            fps: Keep the frames nearest to this rate; by default all.
            workers: Processes.
        """
        from common.folders import open_folder
        from common.shards import write_shards

        report = write_shards(open_folder(folder).clips, out, size=size, quality=quality, fps=fps, workers=workers)
        list_bad(report.bad)
        print(f"{out}: {report.clips} clips, {report.frames} frames, {report.bytes / 1e6:.1f} MB")

    parse(run, words, program)


def data_check(words: list[str], program: str) -> None:
    """look a robot dataset over: what its controls mean, what is wrong, whether actions fit frames"""

    def run(
        dataset: Positional[str],
        /,
        checkpoint: Path | None = None,
        camera: str | None = None,
        json_file: Json = None,
    ) -> None:
        """Say what would be used of a robot dataset and what each control is taken for, and list all that is wrong
        (exit code 4). With a latent action model, also whether its actions come some rows early or late.

        Args:
            dataset: A LeRobot dataset (a folder, or its name on the Hugging Face hub), HDF5 of robomimic or ALOHA, or
                a folder of episode_*/{video.mp4, actions.npy}.
            checkpoint: A latent action model, or a video model that was trained with one: find the most likely shift
                between frames and actions.
            camera: Look at this one only.
        """
        from scripts.align_check import run_check

        run_check(dataset, checkpoint=checkpoint, camera=camera, json_path=json_file)

    parse(run, words, program)


def data_episodes(words: list[str], program: str) -> None:
    """the episodes of a LeRobot dataset as plain videos, one folder per split"""

    def run(
        dataset: Positional[Path], out: Positional[Path], /, camera: str | None = None, splits: tuple[str, ...] = ()
    ) -> None:
        """Write each episode of a LeRobot dataset (v2.0 to v3.0) as a video of its own, so that it can be pretrained
        on like any other: OUT/SPLIT/episode_NNNNNN.mp4.

        Args:
            dataset: Folder of the dataset.
            out: Folder for the videos.
            camera: Which camera, where there are several.
            splits: Names of splits in its info.json, or first:end; by default all that have names.
        """
        from scripts.episodes import write_episodes

        print(f"{out}: {write_episodes(dataset, out, camera=camera, splits=splits)} videos")

    parse(run, words, program)


def data_demo(words: list[str], program: str) -> None:
    """make the demo world: a human hand and a robot at the same table"""

    def run(out: Positional[Path], /, config: Annotated[DemoConfig, arg(name="")] = DemoConfig()) -> None:  # noqa: B008
        """Render the demo world with MuJoCo: `human/` (plain videos), `robot/` (a LeRobot v3.0 dataset) and `factors/`
        (what really happened, which training never reads).

        Args:
            out: Folder to write, new or empty.
        """
        from scripts.demo_data import make_demo

        make_demo(out, config)

    parse(run, words, program)
