"""`understudy train …`: the stages that learn from folders of video.

Modules that import torch, PyAV or pyarrow are imported inside the verb, so that help texts stay quick.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from distill.presets import DISTILL_PRESETS, DistillConfig
from lam.presets import PRESETS, LamConfig
from scripts.verb_options import parse, preset_named
from video_model.presets import (
    DECODER_PRESETS,
    TOKENIZER_PRESETS,
    VIDEO_PRESETS,
    TinyDecoderConfig,
    TokenizerConfig,
    VideoConfig,
)


def train_lam(words: list[str], program: str) -> None:
    """train a latent action model on folders of video: PRESET is tiny, small, base or dreamdojo"""
    name = preset_named(words, program, PRESETS)

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

    parse(run, words, program)


def train_tokenizer(words: list[str], program: str) -> None:
    """train a tokenizer, which turns video into latents and back: PRESET is tiny or wan21"""
    name = preset_named(words, program, TOKENIZER_PRESETS)

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

    parse(run, words, program)


def train_decoder(words: list[str], program: str) -> None:
    """train a small, quick decoder for a tokenizer's latents, for live use: PRESET is tiny or wan21"""
    name = preset_named(words, program, DECODER_PRESETS)

    def run(
        preset: Positional[str],
        /,
        tokenizer: str,
        data: tuple[Path, ...],
        out: Path,
        config: Annotated[TinyDecoderConfig, arg(name="")] = DECODER_PRESETS[name](),  # noqa: B008
    ) -> None:
        """Train a tiny decoder. The same command again goes on where it stopped.

        Args:
            preset: tiny (for the tokenizer `tiny`, minutes on 2 CPU cores), or wan21 (for Wan 2.1's, one GPU).
            tokenizer: Folder of the tokenizer: a checkpoint, a run, or a published Wan autoencoder; or `demo`.
            data: Folders of video files.
            out: Folder of the run: config, metrics, sample pictures, checkpoints.
        """
        from scripts.demo_data import tokenizer_named
        from video_model.tiny_decoder_train import train

        print(train(config, preset=preset, tokenizer=tokenizer_named(tokenizer), data=data, out=out))

    parse(run, words, program)


def train_video(words: list[str], program: str) -> None:
    """train a video model on folders of video and their latent actions: PRESET is tiny, small or cosmos-2b"""
    name = preset_named(words, program, VIDEO_PRESETS)

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
        from scripts.demo_data import tokenizer_named
        from video_model.train import train

        print(
            train(
                config,
                preset=preset,
                data=data,
                actions=actions,
                tokenizer=tokenizer_named(tokenizer),
                out=out,
                lam=lam,
                init=init,
                latents=latents,
            )
        )

    parse(run, words, program)


def train_distill(words: list[str], program: str) -> None:
    """distil a video model to a student that streams in few steps: PRESET is tiny or cosmos-2b"""
    name = preset_named(words, program, DISTILL_PRESETS)

    def run(
        preset: Positional[str],
        /,
        teacher: Path,
        data: Path,
        actions: Path,
        out: Path,
        latents: Path | None = None,
        decoder: Path | None = None,
        config: Annotated[DistillConfig, arg(name="")] = DISTILL_PRESETS[name](),  # noqa: B008
    ) -> None:
        """Distil a video model: first the student learns to make in few steps what its teacher makes in many, then the
        teacher scores its rollouts, until they drift no less. The same command again goes on where it stopped.

        Args:
            preset: tiny (64x64, 2 CPU cores), or cosmos-2b (480x640, by LoRA).
            teacher: The video model: a checkpoint or a run, with the robots that it was aligned to.
            data: Folder of video files that the teacher was trained on.
            actions: Their latent actions, written by `understudy label`.
            out: Folder of the run. The student is OUT/student, a video model as any other.
            latents: Folder of encoded windows, such as the teacher's training made; by default in the run.
            decoder: A tiny decoder (`understudy train decoder`) that the student is given for live use.
        """
        from distill.train import distill

        student = distill(
            config,
            preset=preset,
            teacher=teacher,
            data=data,
            actions=actions,
            out=out,
            latents=latents,
            decoder=decoder,
        )
        print(f"{student}\nNext: understudy rollout {student} ...")

    parse(run, words, program)
