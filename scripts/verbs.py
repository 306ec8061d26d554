"""The verbs of `understudy`: their options (read by tyro from the signatures) and which module does the work.

Modules that import torch, MuJoCo or PyAV are imported inside the verb, so that help texts stay quick.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from common.config import nearest
from common.errors import UserError
from lam.presets import PRESETS, LamConfig
from scripts.demo_config import DemoConfig
from video_model.presets import TOKENIZER_PRESETS, VIDEO_PRESETS, TokenizerConfig, VideoConfig

Json = Annotated[Path | None, arg(name="json", help="Also write the numbers to this file.")]


def _options(function: Callable[..., Any], words: list[str], program: str) -> Any:
    return tyro.cli(function, args=words, prog=program)


def quickstart(words: list[str], program: str) -> None:
    """the whole pipeline on the demo world, then a report"""

    def run(out: Path = Path("runs/quickstart"), lam_steps: int = 500, video_steps: int = 500) -> None:
        """Train a latent action model on the demo videos that come with the package, label them, train a video model
        on both, roll it out, and write a report.

        Args:
            out: Folder for everything that is made.
            lam_steps: Training steps of the latent action model.
            video_steps: Training steps of the video model.
        """
        from scripts.quickstart import quickstart

        quickstart(out, lam_steps=lam_steps, video_steps=video_steps)

    _options(run, words, program)


def doctor(words: list[str], program: str) -> None:
    """versions, devices, codecs, disk; what is missing and how to get it"""

    def run() -> None:
        """Look at this machine: versions, devices, codecs, disk; what is missing and how to get it."""
        from scripts.doctor import doctor

        doctor()

    _options(run, words, program)


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

    _options(run, words, program)


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
        _list_bad(report.bad)
        print(f"{out}: {report.clips} clips, {report.frames} frames, {report.bytes / 1e6:.1f} MB")

    _options(run, words, program)


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

    _options(run, words, program)


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

    _options(run, words, program)


def train_lam(words: list[str], program: str) -> None:
    """train a latent action model on folders of video: PRESET is tiny, small, base or dreamdojo"""
    name = _preset(words, program, PRESETS)

    def run(
        preset: Positional[str],
        /,
        data: tuple[Path, ...],
        out: Path,
        weights: tuple[float, ...] = (),
        labels: Path | None = None,
        label_share: float = 0.25,
        config: Annotated[LamConfig, arg(name="")] = PRESETS[name](),  # noqa: B008 (a new function each call)
    ) -> None:
        """Train a latent action model. The same command again goes on where it stopped.

        Args:
            preset: tiny (2 CPU cores, minutes), small, base (one GPU); as baselines dreamdojo (the published 700 M)
                and dreamdojo-tiny (its design at the size of tiny).
            data: Folders of video files, or of shards.
            out: Folder of the run: config, metrics, sample pictures, checkpoints.
            weights: Share of the training pairs that each data folder gives; by default in proportion to its frames.
            labels: A LeRobot dataset: a linear head learns its changes of state from the latent action on the way.
            label_share: Share of each batch that is drawn from it.
        """
        from lam.train import train
        from scripts.evaluation_data import labelled_pairs

        labelled = labelled_pairs(labels, config, share=label_share) if labels else None
        last = train(config, preset=preset, data=data, out=out, weights=weights, labelled=labelled)
        print(f"{last}\nNext: understudy label {out} FOLDER --out LABELS")

    _options(run, words, program)


def train_tokenizer(words: list[str], program: str) -> None:
    """train a tokenizer, which turns video into latents and back: PRESET is tiny or wan21"""
    name = _preset(words, program, TOKENIZER_PRESETS)

    def run(
        preset: Positional[str],
        /,
        data: tuple[Path, ...],
        out: Path,
        config: Annotated[TokenizerConfig, arg(name="")] = TOKENIZER_PRESETS[name](),  # noqa: B008
    ) -> None:
        """Train a tokenizer: a causal video autoencoder of Wan's kind. The same command again goes on where it stopped.

        Args:
            preset: tiny (64x64, 2 CPU cores), or wan21 (the published size; its published weights need no training).
            data: Folders of video files.
            out: Folder of the run: config, metrics, sample pictures, checkpoints.
        """
        from video_model.tokenizer_train import train

        print(train(config, preset=preset, data=data, out=out))

    _options(run, words, program)


def train_video(words: list[str], program: str) -> None:
    """train a video model on folders of video and their latent actions: PRESET is tiny, small or cosmos-2b"""
    name = _preset(words, program, VIDEO_PRESETS)

    def run(
        preset: Positional[str],
        /,
        data: Path,
        actions: Path,
        tokenizer: str,
        out: Path,
        lam: Path | None = None,
        init: Path | None = None,
        latents: Path | None = None,
        config: Annotated[VideoConfig, arg(name="")] = VIDEO_PRESETS[name](),  # noqa: B008
    ) -> None:
        """Train the video model: a first frame and latent actions go in, video comes out. The same command again goes
        on where it stopped.

        Args:
            preset: tiny (64x64, 2 CPU cores), small (240x320, one GPU), or cosmos-2b (480x640, the shape of
                Cosmos-Predict2.5-2B).
            data: Folder of video files.
            actions: Their latent actions, written by `understudy label`.
            tokenizer: Folder of a tokenizer: a checkpoint, a run, or a published Wan autoencoder; or `demo`, the small
                one that comes with the package, for the demo world.
            out: Folder of the run: config, metrics, sample pictures, checkpoints.
            lam: The latent action model that wrote the labels. Its decoder then forecasts what comes next; shown the
                forecast, the video model learns sooner and follows better. The checkpoint holds a copy.
            init: Start from this video model, such as `understudy convert cosmos` writes, and its sizes.
            latents: Folder for the encoded windows (--data.encode-once), which runs on the same data may share; by
                default in the run.
        """
        from scripts.demo_data import demo_tokenizer_path
        from video_model.train import train

        folder = demo_tokenizer_path() if tokenizer == "demo" else Path(tokenizer)
        print(
            train(
                config,
                preset=preset,
                data=data,
                actions=actions,
                tokenizer=folder,
                out=out,
                lam=lam,
                init=init,
                latents=latents,
            )
        )

    _options(run, words, program)


def _preset(words: list[str], program: str, presets: Mapping[str, Any]) -> str:
    """The preset's name, which is the first word. It decides the defaults that tyro shows and fills in."""
    given = bool(words) and not words[0].startswith("-")
    if not given and not {"-h", "--help"} & set(words):
        raise UserError(
            "which preset?", hint=f"{program} PRESET --data FOLDER --out RUN; there are: {', '.join(presets)}"
        )
    name = words[0] if given else "tiny"
    if name not in presets:
        raise UserError(f"there is no preset '{name}'; {nearest(name, presets)}")
    return name


def label(words: list[str], program: str) -> None:
    """latent actions of every clip of a folder"""

    def run(
        checkpoint: Positional[Path],
        folder: Positional[Path],
        /,
        out: Path,
        batch_size: int = 64,
        fps: float | None = None,
    ) -> None:
        """Write the latent actions of every clip as safetensors. Running it again goes on with the clips that are
        missing.

        Args:
            checkpoint: A checkpoint folder, or the folder of a run (its newest checkpoint).
            folder: Folder of video files.
            out: Folder for the labels.
            batch_size: Frame pairs per forward pass.
            fps: Take the frames nearest to this rate; by default all.
        """
        from lam.label import label

        report = label(checkpoint, folder, out, batch_size=batch_size, fps=fps)
        _list_bad(report.bad)
        print(f"{out}: latent actions of {report.clips} clips, {report.frames} frames")

    _options(run, words, program)


def rollout(words: list[str], program: str) -> None:
    """a video from a first frame and latent actions: a clip's own, or another's"""

    def run(
        checkpoint: Positional[Path],
        video: Positional[Path],
        /,
        actions: Path,
        out: Path,
        start: float = 0.0,
        actions_start: float | None = None,
        seconds: float | None = None,
        use: Literal["all", "act", "camera", "opposite", "none"] = "all",
        beside: Path | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        """Make a video that begins with a frame of VIDEO and follows latent actions. Where these are the video's own,
        what really happened is shown at its left, and the PSNR against it is printed.

        Args:
            checkpoint: A video model's checkpoint, or the folder of a run (its newest checkpoint).
            video: Video, or picture, with the first frame.
            actions: A file written by `understudy label`: the video's own, or another's (transfer).
            out: mp4 file to write.
            start: Second of the video that the first frame is taken from.
            actions_start: Second from which on actions are taken; by default `start` for own actions, 0 for another's.
            seconds: Length; by default as long as there are actions.
            use: What of the actions: all; act, without the camera's motion; camera, only that; opposite, what was done
                turned round, under the same camera; none.
            beside: Show this video at the left, from `actions_start` on: the one that the actions are from.
            steps: Sampling steps per latent; by default as the model was trained for.
            seed: Of the noise.
        """
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

    _options(run, words, program)


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
        html_file: Annotated[
            Path | None, arg(name="html", help="Also write a page with plots and short films: one file.")
        ] = None,
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

    _options(run, words, program)


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
        html_file: Annotated[
            Path | None, arg(name="html", help="Also write a page with plots and short films: one file.")
        ] = None,
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

    _options(run, words, program)


def convert_dreamdojo_lam(words: list[str], program: str) -> None:
    """DreamDojo's published latent action model as a checkpoint folder"""

    def run(source: Positional[Path], target: Positional[Path], /) -> None:
        """Convert DreamDojo's published Lightning checkpoint.

        Args:
            source: LAM_400k.ckpt.
            target: Checkpoint folder to write.
        """
        from lam.convert import convert_dreamdojo_lam

        config = convert_dreamdojo_lam(source, target)
        print(f"{target}: {config.encoder_blocks}+{config.decoder_blocks} blocks, {config.channels} channels")

    _options(run, words, program)


def convert_dreamdojo_video(words: list[str], program: str) -> None:
    """DreamDojo's published video model as a checkpoint folder"""

    def run(source: Positional[Path], target: Positional[Path], /) -> None:
        """Convert DreamDojo's published 2B or 14B video model.

        Args:
            source: The downloaded model_ema_bf16.pt.
            target: Checkpoint folder to write.
        """
        from video_model.convert import convert_dreamdojo_video

        _describe_video(target, convert_dreamdojo_video(source, target))

    _options(run, words, program)


def convert_cosmos(words: list[str], program: str) -> None:
    """Cosmos-Predict2.5, from its diffusers folder, as a checkpoint folder"""

    def run(source: Positional[Path], target: Positional[Path], /) -> None:
        """Convert NVIDIA's Cosmos-Predict2.5 in the diffusers format.

        Args:
            source: The downloaded folder, or the `transformer` in it.
            target: Checkpoint folder to write.
        """
        from video_model.convert import convert_cosmos

        _describe_video(target, convert_cosmos(source, target))

    _options(run, words, program)


def _describe_video(target: Path, config: dict[str, Any]) -> None:
    channels = config["num_attention_heads"] * config["attention_head_dim"]
    print(f"{target}: {config['num_layers']} blocks, {channels} channels")


def bench_decode(words: list[str], program: str) -> None:
    """CPU milliseconds per training pair, beside seek-and-decode and OpenCV"""

    def run(files: Positional[tuple[Path, ...]], /, json_file: Json = None, size: tuple[int, int] = (240, 320)) -> None:
        """Measure CPU time per frame pair and peak memory, each way in a process of its own.

        Args:
            files: Video files.
            size: Height and width of a training frame.
        """
        from scripts.bench_decode import bench_decode

        bench_decode(files, size=size, json_path=json_file)

    _options(run, words, program)


def bench_lam(words: list[str], program: str) -> None:
    """milliseconds per training step, and the share spent in attention"""

    def run(json_file: Json = None) -> None:
        """Time one training step of DreamDojo's architecture beside the published attention: at reduced size in fp32
        on a CPU, at 700 M in bf16 on a CUDA device."""
        from scripts.bench_lam import bench_lam

        bench_lam(json_path=json_file)

    _options(run, words, program)


def bench_video(words: list[str], program: str) -> None:
    """milliseconds per forward pass of the video model, beside diffusers' network, and per training step"""

    def run(json_file: Json = None) -> None:
        """Time a forward pass beside diffusers' Cosmos network with the same weights, and a training step: on a CPU a
        reduced network in fp32 and `tiny`, on a CUDA device the 2B shape in bf16."""
        from scripts.bench_video import bench_video

        bench_video(json_path=json_file)

    _options(run, words, program)


def _list_bad(bad: Any) -> None:
    from common.folders import printable

    for file in bad:
        print(f"left out: {printable(file.name)}: {file.reason}")


TREE: dict[str, Any] = {
    "quickstart": quickstart,
    "doctor": doctor,
    "data": {"scan": data_scan, "prepare": data_prepare, "demo": data_demo, "episodes": data_episodes},
    "train": {"tokenizer": train_tokenizer, "lam": train_lam, "video": train_video},
    "label": label,
    "rollout": rollout,
    "evaluate": {"lam": evaluate_lam, "video": evaluate_video},
    "convert": {
        "dreamdojo-lam": convert_dreamdojo_lam,
        "dreamdojo-video": convert_dreamdojo_video,
        "cosmos": convert_cosmos,
    },
    "bench": {"decode": bench_decode, "lam": bench_lam, "video": bench_video},
}
