"""The tokenizer that ships with the package: small, whole, and as good late in a stream as at its beginning."""

import numpy as np
import torch

from common.folders import open_folder
from common.metrics import psnr
from scripts.demo_data import demo_set_path, demo_tokenizer_path
from video_model.clip_batches import clip_batch
from video_model.tokenizer import load_tokenizer


def test_the_demo_tokenizer_shows_unseen_clips_all_along() -> None:
    assert (demo_tokenizer_path() / "model.safetensors").stat().st_size <= 6e6
    tokenizer = load_tokenizer(demo_tokenizer_path())
    clips = open_folder(demo_set_path() / "human" / "test").clips[:4]
    frames = np.stack([np.stack([frame.image for frame in clip.decode(size=(64, 64))]) for clip in clips])
    films = clip_batch(torch.from_numpy(frames[:, :49]), ()).frames
    with torch.inference_mode():
        shown = tokenizer.decode(tokenizer.encode(films))
    quality = psnr((shown.flatten(0, 1) + 1) / 2, (films.flatten(0, 1) + 1) / 2).unflatten(0, films.shape[:2])
    assert quality.mean() > 23.5
    assert abs(quality[:, 1:17].mean() - quality[:, 33:].mean()) < 1.5
