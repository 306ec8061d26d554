"""`understudy label` and `understudy rollout`: what trained models are used for.

Modules that import torch, PyAV or pyarrow are imported inside the verb, so that help texts stay quick.
"""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from common.errors import UserError
from scripts.verb_options import list_bad, parse


def label(words: list[str], program: str) -> None:
    """latent actions of every clip of a folder, or a robot's actions (--as-actions)"""

    def run(
        checkpoint: Positional[Path],
        folder: Positional[Path],
        /,
        out: Path,
        batch_size: int = 64,
        fps: float | None = None,
        as_actions: bool = False,
        robot: str | None = None,
        camera: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Write the latent actions of every clip as safetensors. Running it again goes on with the clips that are
        missing.

        With --as-actions and a checkpoint that was aligned to the robot of the videos, write a LeRobot v3.0 dataset
        instead: the frames, with the robot's actions as they can be read from them.

        Args:
            checkpoint: A checkpoint folder, or the folder of a run (its newest checkpoint).
            folder: Folder of video files; with --as-actions also a robot dataset, whose own actions are not looked at.
            out: Folder for the labels, or for the dataset.
            batch_size: Frame pairs per forward pass.
            fps: Take the frames nearest to this rate; by default all.
            as_actions: Write a dataset with the robot's actions, at the robot's rate.
            robot: Which of the checkpoint's robots, where it knows several (--as-actions).
            camera: Which camera of a dataset, where there are several (--as-actions).
            size: Height and width of the pictures in the dataset; by default as they are (--as-actions).
        """
        if as_actions:
            if fps is not None:
                raise UserError("--fps does not go with --as-actions, which writes rows at the robot's rate")
            from scripts.align_label import run_relabel

            run_relabel(checkpoint, folder, out, robot=robot, camera=camera, size=size)
            return
        if robot or camera or size:
            raise UserError("--robot, --camera and --size are for --as-actions")
        from lam.label import label

        report = label(checkpoint, folder, out, batch_size=batch_size, fps=fps)
        list_bad(report.bad)
        print(f"{out}: latent actions of {report.clips} clips, {report.frames} frames")

    parse(run, words, program)


def rollout(words: list[str], program: str) -> None:
    """a video from a first frame and latent actions, or a robot's controls: a clip's own, or another's"""

    def run(
        checkpoint: Positional[Path],
        video: Positional[Path],
        /,
        out: Path,
        actions: Path | None = None,
        start: float = 0.0,
        actions_start: float | None = None,
        seconds: float | None = None,
        use: Literal["all", "act", "camera", "opposite", "none"] = "all",
        beside: Path | None = None,
        robot: str | None = None,
        episode: int | None = None,
        camera: str | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        """Make a video that begins with a frame of VIDEO and follows latent actions. Where these are the video's own,
        what really happened is shown at its left, and the PSNR against it is printed.

        With --robot or --episode it follows the controls of a robot that the checkpoint is aligned to: VIDEO is then a
        robot dataset, and the episode is shown at the left.

        Args:
            checkpoint: A video model's checkpoint, or the folder of a run (its newest checkpoint).
            video: Video, or picture, with the first frame; or a robot dataset.
            out: mp4 file to write.
            actions: A file written by `understudy label`: the video's own, or another's (transfer). For a robot: the
                dataset that controls are taken from, where VIDEO is only a video or picture with the first frame.
            start: Second of the video, or episode, that the first frame is taken from.
            actions_start: Second from which on actions are taken; by default `start` for own actions, 0 for another's.
            seconds: Length; by default as long as there are actions.
            use: What of the actions: all; act, without the camera's motion; camera, only that; opposite, what was done
                turned round, under the same camera; none. For a robot all or none.
            beside: Show this video at the left, from `actions_start` on: the one that the actions are from.
            robot: Which of the checkpoint's robots; may be left out, with --episode, where it knows only one.
            episode: Number of the episode that gives first frame and controls; by default 0.
            camera: Which camera of the dataset, where there are several.
            steps: Sampling steps per latent; by default as the model was trained for.
            seed: Of the noise.
        """
        if robot is not None or episode is not None:
            if use not in ("all", "none") or beside is not None:
                raise UserError("for a robot --use is all or none, and the episode itself is shown beside")
            from scripts.rollout_robot import make_robot_rollout

            print(
                make_robot_rollout(
                    checkpoint,
                    video,
                    actions,
                    out,
                    robot=robot,
                    episode=episode or 0,
                    camera=camera,
                    start=start,
                    actions_start=actions_start,
                    seconds=seconds,
                    use=use,
                    steps=steps,
                    seed=seed,
                )
            )
            return
        if actions is None:
            raise UserError(
                "which actions?",
                hint="--actions FILE, written by `understudy label`; or --robot NAME --episode N, for a robot dataset.",
            )
        if camera is not None:
            raise UserError("--camera is for robot datasets (--robot, --episode)")
        from scripts.rollout import make_rollout

        print(
            make_rollout(
                checkpoint,
                video,
                actions,
                out,
                start=start,
                actions_start=actions_start,
                seconds=seconds,
                use=use,
                beside=beside,
                steps=steps,
                seed=seed,
            )
        )

    parse(run, words, program)
