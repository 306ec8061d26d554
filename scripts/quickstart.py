"""`understudy quickstart`: the pipeline on the demo videos that come with the package, and a report."""

import base64
import html
import json
import time
from dataclasses import replace
from pathlib import Path

from common.checkpoints import write_text
from lam.checkpoint import load_lam
from lam.data import evaluation_batches, open_clips, pair_config
from lam.evaluate import Validation, evaluate_pairs, reconstruction_sheet
from lam.label import LabelReport, label
from lam.presets import tiny
from lam.train import train
from scripts.demo_data import demo_set_path

PAIRS = 1024


def quickstart(out: Path, *, steps: int) -> None:
    """Train on the demo's training videos, label and measure on its test videos, write OUT/report.html."""
    started = time.monotonic()
    videos = demo_set_path() / "human"
    run, labels, sheet = out / "lam", out / "labels", out / "predictions.png"
    config = tiny()
    config = replace(config, training=replace(config.training, steps=steps))
    print(f"1/3  understudy train lam tiny --data {videos / 'train'} --out {run} --training.steps {steps}", flush=True)
    train(config, preset="tiny", data=[videos / "train"], out=run)
    print(f"2/3  understudy label {run} {videos / 'test'} --out {labels}", flush=True)
    labelled = label(run, videos / "test", labels)
    print("3/3  a first look at what it predicts", flush=True)
    measured = first_look(run, videos / "test", sheet=sheet)
    minutes = (time.monotonic() - started) / 60
    page = report_page(measured, labelled, run=run, labels=labels, sheet=sheet, minutes=minutes)
    write_text(out / "measured.json", measured.to_json())
    write_text(out / "report.html", page)
    print(
        f"\nDone in {minutes:.1f} minutes: {out / 'report.html'}"
        "\nThe two commands above work on any folder of videos: put your own in place of the demo's."
        "\nThe whole card, beside baselines and with controls, takes some minutes more:"
        f"\n  understudy evaluate lam {run} {videos / 'test'} --html {out / 'card.html'}"
    )


def first_look(run: Path, videos: Path, *, sheet: Path) -> Validation:
    """The numbers that training follows, on videos that it never saw, and a picture of predictions at `sheet`."""
    loaded = load_lam(run)
    config = pair_config(loaded.config.data, loaded.config.model)
    batches = evaluation_batches(open_clips([videos]), config, pairs=PAIRS, seed=0)
    reconstruction_sheet(loaded.model, batches[0], sheet)
    return evaluate_pairs(loaded.model, batches)


def rows(measured: Validation) -> list[tuple[str, str, str]]:
    """(name, value, what it says) for people."""
    psnr = measured.psnr
    return [
        ("PSNR, own action", f"{psnr.own:.2f} dB", "the next frame, predicted with the pair's own latent action"),
        ("another's action", f"{psnr.shuffled:.2f} dB", "with another clip's: should be far lower"),
        ("zero action", f"{psnr.zero:.2f} dB", "with none"),
        ("copy", f"{psnr.copy:.2f} dB", "the first frame itself: what any model must beat"),
        (
            "zero response",
            f"{measured.zero_response:.3f}",
            "latent action where nothing happens, over its usual size: 0 is best",
        ),
        (
            "effective rank",
            f"{measured.effective_rank:.1f} of {measured.latent_dim}",
            "directions that the latent actions use",
        ),
        ("nats", f"{measured.nats:.1f}", "the most that one latent action can tell"),
    ]


def report_page(
    measured: Validation, labelled: LabelReport, *, run: Path, labels: Path, sheet: Path, minutes: float
) -> str:
    """The report as one HTML file that needs nothing beside it."""
    table = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=number>{html.escape(value)}</td><td>{html.escape(about)}</td></tr>"
        for name, value, about in rows(measured)
    )
    picture = base64.b64encode(sheet.read_bytes()).decode()
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Understudy quickstart</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
 table {{ border-collapse: collapse; }} td {{ padding: .2rem .8rem; border-top: 1px solid #ddd; }}
 .number {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
 img {{ max-width: 100%; }} figure {{ margin: 1rem 0; }} code {{ background: #f4f4f4; }}
</style>
<h1>What was learned from videos of a hand</h1>
<p>In {minutes:.1f} minutes a latent action model watched the demo's training videos: no labels, only pixels. Below it
meets test videos with tables, lights and objects that it never saw.</p>
<h2>One frame, one action, the next frame</h2>
<figure><img alt="rows of frames and predictions" src="data:image/png;base64,{picture}">
<figcaption>Each column is a pair of frames from a test video. The latent action of the pair should turn the first frame
into the next one (<i>own action</i>); another pair's or none should not. The camera's motion is measured and taken out
first, so the action is about the hand; after so short a training its edges are still blurred.</figcaption></figure>
<h2>In numbers</h2>
<table>{table}</table>
<p>{measured.pairs} pairs of test frames. The training run, in <code>{html.escape(str(run))}</code>:</p>
{loss_curve(run / "metrics.jsonl")}
<h2>What to use</h2>
<p>The latent actions of {labelled.clips} test videos ({labelled.frames} frames) are in
<code>{html.escape(str(labels))}</code>, one safetensors file per video: <code>latent_actions[t]</code> is what was done
between frame t and frame t+1, and in its last 8 numbers how the camera moved.</p>
</html>
"""


def loss_curve(metrics: Path, *, width: int = 640, height: int = 160) -> str:
    """Training error relative to copying the first frame, over steps, as SVG: below the line is better than copying."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    points = [(line["step"], line["mse"] / line["copy_mse"]) for line in lines if "mse" in line]
    last, highest = points[-1][0], max(1.1, *(ratio for _, ratio in points))
    path = " ".join(f"{step / last * width:.1f},{height * (1 - ratio / highest):.1f}" for step, ratio in points)
    copy = height * (1 - 1 / highest)
    return f"""<figure><svg viewBox="0 0 {width} {height + 20}" width="{width}" role="img" aria-label="training curve">
<line x1="0" x2="{width}" y1="{copy:.1f}" y2="{copy:.1f}" stroke="#aaa" stroke-dasharray="4"/>
<text x="{width}" y="{copy - 4:.1f}" text-anchor="end" font-size="12" fill="#777">copying the first frame</text>
<polyline points="{path}" fill="none" stroke="#06c" stroke-width="2"/>
<text x="{width}" y="{height + 16}" text-anchor="end" font-size="12" fill="#777">step {last}</text></svg>
<figcaption>Squared error of the predicted frame, over that of copying the first frame.</figcaption></figure>"""
