"""`understudy align`: a video model learns to answer to a robot's own controls.

Modules that import torch, PyAV or pyarrow are imported inside the verb, so that help texts stay quick.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from align.presets import AlignConfig, Mode
from scripts.verb_options import parse


def align(words: list[str], program: str) -> None:
    """align a video model to a robot with a few labelled episodes"""

    def run(
        checkpoint: Positional[Path],
        dataset: Positional[str],
        /,
        out: Path,
        mode: Mode | None = None,
        name: str | None = None,
        episodes: str | None = None,
        camera: str | None = None,
        changes: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="GROUP.FIELD=VALUE")] = (),
        config: Annotated[AlignConfig, arg(name="")] = AlignConfig(),  # noqa: B008
    ) -> None:
        """Write a copy of a video model that also knows a robot, learned from a few of its recorded episodes.

        Before it learns, it prints what each control is taken for; `--set` corrects that.

        Args:
            checkpoint: A video model's checkpoint, or the folder of a run (its newest checkpoint), or one that knows
                other robots already.
            dataset: A LeRobot dataset (a folder, or its name on the Hugging Face hub), HDF5 of robomimic or ALOHA, or
                a folder of episode_*/{video.mp4, actions.npy}.
            out: Folder for the new checkpoint.
            mode: adapter: only from controls to latent actions, in minutes; posttrain: the network learns the controls
                too; scratch: a new network learns from the episodes alone, the baseline. By default adapter for fewer
                than 20 episodes, else posttrain.
            name: What to call the robot; by default as the dataset's folder.
            episodes: A split of the dataset, or first:end; by default its split `train`, or all.
            camera: Which camera, where there are several.
            changes: Correct what a group of controls, or one column, is taken for: kind (absolute, delta, velocity,
                gripper), rotation, frame, wraps, unit, limits. May be given more than once.
        """
        from scripts.align import run_align

        run_align(
            checkpoint,
            dataset,
            out,
            mode=mode,
            name=name,
            episodes=episodes,
            camera=camera,
            words=changes,
            config=config,
        )

    parse(run, words, program)
