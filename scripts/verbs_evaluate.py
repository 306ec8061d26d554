"""`understudy evaluate …`: the cards of trained models.

Modules that import torch, PyAV or pyarrow are imported inside the verb, so that help texts stay quick.
"""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from scripts.verb_options import Html, Json, parse


def evaluate_lam(words: list[str], program: str) -> None:
    """the card of a latent action model: what it learned, measured on any folders"""

    def run(
        checkpoint: Positional[str],
        data: Positional[tuple[Path, ...]],
        /,
        against: tuple[str, ...] = (),
        size: tuple[int, int] | None = None,
        gap: float = 0.1,
        pairs: int = 2048,
        held_out: bool = False,
        split: str | None = None,
        probe_onto: Path | None = None,
        sweep: bool = False,
        fast: bool = False,
        json_file: Json = None,
        html_file: Html = None,
        sheet: Path | None = None,
        seed: int = 0,
    ) -> None:
        """Measure what a latent action model has learned, beside baselines and with controls, and print its card.

        Any folder of video tells how the latent actions behave. A LeRobot dataset also tells what can be read from
        them about its states; the demo world tells hand, camera, light and distractor apart.

        Args:
            checkpoint: A checkpoint folder, the folder of a run (its newest checkpoint), or module:function, a Python
                function encode(frames_a, frames_b) -> z on uint8 frames (B, H, W, 3).
            data: Folders of video, LeRobot datasets, or the demo world's human/test and robot.
            against: Other models for the same table, given as the checkpoint is.
            size: Height and width of the frames that a Python function gets (a checkpoint knows its own).
            gap: Seconds between the two frames of a pair.
            pairs: At most about so many frame pairs of each folder, spread evenly over its clips.
            held_out: Use only the clips that training on this very folder left out; for one folder of video.
            split: Only these episodes of the LeRobot datasets: a name in their info.json, or first:end.
            probe_onto: Also test the probes fitted on the first data folder on this one, by factors of the same name:
                the demo's human/test onto its robot.
            sweep: Also render the demo world with nuisance 0.5, 1, 2 and 4 and measure on each. Takes MuJoCo.
            fast: Leave out the slow probes: no MLP, no label curve.
            sheet: Write a picture of predictions (PNG) here.
            seed: Of everything that is drawn: folds, resamples, exchanges.
        """
        from scripts.evaluate_lam import evaluate_lam

        evaluate_lam(
            checkpoint,
            data,
            against=against,
            size=size,
            gap=gap,
            pairs=pairs,
            held_out=held_out,
            split=split,
            probe_onto=probe_onto,
            sweep=sweep,
            fast=fast,
            json_path=json_file,
            html_path=html_file,
            sheet=sheet,
            seed=seed,
        )

    parse(run, words, program)


def evaluate_video(words: list[str], program: str) -> None:
    """the card of a video model: fidelity, whether it follows actions, drift, on clips that it never saw"""

    def run(
        checkpoint: Positional[Path],
        data: Positional[Path],
        /,
        actions: Path,
        windows: int = 64,
        long_windows: int = 16,
        batch_size: int = 8,
        steps: int | None = None,
        lpips: Path | None = None,
        fvd: Path | None = None,
        json_file: Json = None,
        html_file: Html = None,
        seed: int = 0,
    ) -> None:
        """Roll out from single frames with the clips' own latent actions, another clip's, none and opposite ones, and
        measure how near the films are to what happened and whether they do what they are told; print the card.

        In the demo world it also says where the hand goes, found by a probe that learns on real frames.

        Args:
            checkpoint: A video model's checkpoint, or the folder of a run (its newest checkpoint).
            data: Folder of video that training did not see.
            actions: Its latent actions, written by `understudy label` with the latent action model of training.
            windows: At most about so many windows as long as those of training, spread over the clips.
            long_windows: And so many four times as long, for the drift.
            batch_size: Windows that are rolled out at once.
            steps: Sampling steps per latent; by default as the model was trained for.
            lpips: Weights of LPIPS, a TorchScript file; without them it is not measured.
            fvd: Weights of FVD's I3D detector, a TorchScript file; without them it is not measured.
            seed: Of noise, exchanges and resamples.
        """
        from scripts.evaluate_video import evaluate_video

        evaluate_video(
            checkpoint,
            data,
            labels=actions,
            windows=windows,
            long_windows=long_windows,
            batch_size=batch_size,
            steps=steps,
            lpips=lpips,
            fvd=fvd,
            json_path=json_file,
            html_path=html_file,
            seed=seed,
        )

    parse(run, words, program)


def evaluate_align(words: list[str], program: str) -> None:
    """the card of a robot: how well a video model answers to its controls, on episodes that it never saw"""

    def run(
        checkpoint: Positional[Path],
        dataset: Positional[str],
        /,
        robot: str | None = None,
        episodes: str | None = None,
        probe_episodes: str | None = None,
        windows: int = 64,
        camera: str | None = None,
        steps: int | None = None,
        json_file: Json = None,
        html_file: Html = None,
        seed: int = 0,
    ) -> None:
        """Roll out from single frames of held-out episodes with their own controls, another episode's, neutral and
        opposite ones; measure how near the films are to what happened, and how far the robot's state in them, read by
        a probe that learns on other episodes' real frames, is from the true one; try each control by itself; print
        the card.

        Args:
            checkpoint: A checkpoint that `understudy align` made.
            dataset: Recordings of the robot: a folder, a file, or a name on the Hugging Face hub.
            robot: Which of the checkpoint's robots; may be left out where there is only one.
            episodes: What is measured: a split of the dataset, or first:end; by default its split "test", or else
                those that the robot was not aligned with.
            probe_episodes: What the probe of the state learns from, none of it measured; by default what else the
                split "train" has, or else those that the robot was aligned with.
            windows: At most about so many windows as long as those of training, spread over the episodes.
            camera: Which camera, where there are several.
            steps: Sampling steps per latent; by default as the model was trained for.
            seed: Of noise, exchanges, resamples and the probe.
        """
        from scripts.evaluate_align import evaluate_align

        evaluate_align(
            checkpoint,
            dataset,
            robot=robot,
            episodes=episodes,
            probe_episodes=probe_episodes,
            windows=windows,
            camera=camera,
            steps=steps,
            json_path=json_file,
            html_path=html_file,
            seed=seed,
        )

    parse(run, words, program)


def evaluate_student(words: list[str], program: str) -> None:
    """the card of a distilled student beside its teacher: fidelity, drift, control, diversity, endurance, speed"""

    def run(
        student: Positional[Path],
        data: Positional[Path],
        /,
        teacher: Path,
        actions: Path,
        teacher_steps: int | None = None,
        decoder: Literal["tiny", "full"] = "tiny",
        windows: int = 16,
        horizons: tuple[int, ...] = (13, 49, 240, 600),
        minutes: float = 10.0,
        seeds_diversity: int = 4,
        json_file: Json = None,
        html_file: Html = None,
        seed: int = 0,
    ) -> None:
        """Roll out student and teacher from the same frames under the same latent actions, and measure how near the
        films are to what happened, how they drift, whether they do what they are told, and how much they vary; let the
        student run on for minutes; time both as live sessions. Print the card, with what is met and what is missed.

        Args:
            student: A checkpoint that `understudy train distill` made.
            data: Folder of video that training did not see.
            teacher: The checkpoint that it was distilled from.
            actions: The latent actions of the data, written by `understudy label` with the model of training.
            teacher_steps: The teacher's sampling steps per latent; by default as it was trained for.
            decoder: The student's: its tiny one, if it has one, or its tokenizer's. The teacher's is the tokenizer's.
            windows: At most about so many windows of each horizon, spread over the clips.
            horizons: Frames of the films; those for which no clip is long enough are left out, and named.
            minutes: Of film that the student makes in one go.
            seeds_diversity: Films of each of the shortest windows, from which the spread is taken.
            seed: Of noise and resamples.
        """
        from scripts.evaluate_student import evaluate_student

        evaluate_student(
            student,
            data,
            teacher=teacher,
            labels=actions,
            teacher_steps=teacher_steps,
            decoder=decoder,
            windows=windows,
            horizons=horizons,
            minutes=minutes,
            seeds=seeds_diversity,
            json_path=json_file,
            html_path=html_file,
            seed=seed,
        )

    parse(run, words, program)
