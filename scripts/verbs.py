"""The verbs of `understudy`. Their options, and which module does the work, are in the file of each group."""

from typing import Any

from scripts.verbs_align import align
from scripts.verbs_convert import convert_cosmos, convert_dreamdojo_lam, convert_dreamdojo_video
from scripts.verbs_data import data_check, data_demo, data_episodes, data_prepare, data_scan
from scripts.verbs_evaluate import evaluate_align, evaluate_lam, evaluate_student, evaluate_video
from scripts.verbs_machine import bench_decode, bench_lam, bench_student, bench_video, doctor, quickstart
from scripts.verbs_serve import replay, serve
from scripts.verbs_train import train_decoder, train_distill, train_lam, train_tokenizer, train_video
from scripts.verbs_use import label, rollout

TREE: dict[str, Any] = {
    "quickstart": quickstart,
    "doctor": doctor,
    "data": {
        "scan": data_scan,
        "prepare": data_prepare,
        "demo": data_demo,
        "check": data_check,
        "episodes": data_episodes,
    },
    "train": {
        "tokenizer": train_tokenizer,
        "lam": train_lam,
        "video": train_video,
        "decoder": train_decoder,
        "distill": train_distill,
    },
    "align": align,
    "label": label,
    "rollout": rollout,
    "serve": serve,
    "replay": replay,
    "evaluate": {
        "lam": evaluate_lam,
        "video": evaluate_video,
        "align": evaluate_align,
        "student": evaluate_student,
    },
    "convert": {
        "dreamdojo-lam": convert_dreamdojo_lam,
        "dreamdojo-video": convert_dreamdojo_video,
        "cosmos": convert_cosmos,
    },
    "bench": {"decode": bench_decode, "lam": bench_lam, "video": bench_video, "student": bench_student},
}
