"""The quickstart's report: one HTML file that needs nothing beside it."""

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path

from distill.card import WayCost
from lam.evaluate import Validation
from lam.label import LabelReport


@dataclass(frozen=True)
class Films:
    """What the video model makes of test clips."""

    numbers: dict[str, float]
    """See `video_model.validation.follow`."""
    sheet: Path
    video: Path
    transfer: Path


@dataclass(frozen=True)
class RobotFilm:
    """What the model shows of the demo robot under an episode's controls."""

    video: Path
    said: str
    """What `understudy rollout` says of it."""
    episodes: int
    """That it was aligned with."""


@dataclass(frozen=True)
class StudentFilm:
    """The same robot and episode, in the distilled model."""

    folder: Path
    """Of the student."""
    video: Path
    said: str
    student: WayCost
    teacher: WayCost


def lam_rows(measured: Validation) -> list[tuple[str, str, str]]:
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


def video_rows(numbers: dict[str, float]) -> list[tuple[str, str, str]]:
    """The same for rollouts."""
    return [
        ("PSNR, own actions", f"{numbers['psnr']:.2f} dB", "16 frames from one, told the clip's own latent actions"),
        ("another's actions", f"{numbers['psnr_shuffled']:.2f} dB", "told another clip's: should be lower"),
        ("no actions", f"{numbers['psnr_zero']:.2f} dB", "told nothing"),
        ("copy", f"{numbers['psnr_copy']:.2f} dB", "the first frame all along"),
        ("response", f"{numbers['response']:.2f}", "what actions change, over what changes in truth"),
    ]


def student_rows(student: StudentFilm) -> list[tuple[str, str, str]]:
    """The same for speed, on the machine that ran the quickstart."""
    own, other = student.student, student.teacher
    return [
        ("student", f"{own.frames_per_second:.1f} frames/s", f"four frames take {own.latent.p50:.0f} ms"),
        ("its teacher", f"{other.frames_per_second:.1f} frames/s", f"in {other.steps} steps, as diffusion models take"),
        ("first frame", f"{own.first_frame_ms:.0f} ms", "of the student, from a picture"),
    ]


def report_page(
    measured: Validation,
    labelled: LabelReport,
    films: Films,
    robot: RobotFilm,
    student: StudentFilm,
    *,
    lam: Path,
    generator: Path,
    labels: Path,
    sheet: Path,
    minutes: float,
) -> str:
    """The report as HTML. lam, generator: the folders of the two runs."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Understudy quickstart</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
 table {{ border-collapse: collapse; }} td {{ padding: .2rem .8rem; border-top: 1px solid #ddd; }}
 .number {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
 img, video {{ max-width: 100%; }} figure {{ margin: 1rem 0; }} code {{ background: #f4f4f4; }}
</style>
<h1>What was learned from videos of a hand</h1>
<p>In {minutes:.1f} minutes two models watched the demo's training videos: no labels, only pixels. A latent action model
learned to say what is done between two frames, a video model to show what comes of it. Below they meet test videos with
tables, lights and objects that they never saw.</p>
<h2>One frame, one action, the next frame</h2>
<figure><img alt="rows of frames and predictions" src="data:image/png;base64,{_encoded(sheet)}">
<figcaption>The latent action model. Each column is a pair of frames from a test video. The latent action of the pair
should turn the first frame into the next one (<i>own action</i>); another pair's or none should not. The camera's
motion is measured and taken out first, so the action is about the hand; after so short a training its edges are still
blurred.</figcaption></figure>
{_table(lam_rows(measured))}
<p>{measured.pairs} pairs of test frames. The training run, in <code>{html.escape(str(lam))}</code>:</p>
{loss_curve(lam / "metrics.jsonl")}
<h2>One frame, many actions, a film</h2>
<figure><img alt="rows of films" src="data:image/png;base64,{_encoded(films.sheet)}">
<figcaption>The video model sees the first frame of a test video and is told latent actions: the video's own, another's,
none.</figcaption></figure>
<figure><video autoplay loop muted playsinline controls src="data:video/mp4;base64,{_encoded(films.video)}"></video>
<figcaption>Left what happened, right what the model makes of the first frame and the video's own latent actions
(<code>{html.escape(films.video.name)}</code>).</figcaption></figure>
<figure><video autoplay loop muted playsinline controls src="data:video/mp4;base64,{_encoded(films.transfer)}"></video>
<figcaption>The same first frame with another video's latent actions; that video at the left
(<code>{html.escape(films.transfer.name)}</code>).</figcaption></figure>
{_table(video_rows(films.numbers))}
<p>After so short a training this is a beginning: films are blurred and drift. The run is in
<code>{html.escape(str(generator))}</code>.</p>
<h2>A robot's controls</h2>
<figure><video autoplay loop muted playsinline controls src="data:video/mp4;base64,{_encoded(robot.video)}"></video>
<figcaption>{robot.episodes} labelled episodes said what the demo robot's controls look like as latent actions. Left
what happened in an episode that is not among them, right what the model makes of its first frame and its controls. The
model itself was trained on videos of the hand alone, and has never seen this robot move. {html.escape(robot.said)}
</figcaption></figure>
<h2>A stream that answers</h2>
<figure><video autoplay loop muted playsinline controls src="data:video/mp4;base64,{_encoded(student.video)}"></video>
<figcaption>The same episode in a student of that model, which makes four frames in {student.student.steps} step{
        "s" if student.student.steps > 1 else ""
    } and goes on for as long as it is driven. {html.escape(student.said)}</figcaption></figure>
{_table(student_rows(student))}
<p>The student is in <code>{html.escape(str(student.folder))}</code>, and knows the robot, too.</p>
<h2>What to use</h2>
<p>The latent actions of {labelled.clips} test videos ({labelled.frames} frames) are in
<code>{html.escape(str(labels))}</code>, one safetensors file per video: <code>latent_actions[t]</code> is what was done
between frame t and frame t+1, and in its last 10 numbers what the camera did.</p>
</html>
"""


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = (
        f"<tr><td>{html.escape(name)}</td><td class=number>{html.escape(value)}</td><td>{html.escape(about)}</td></tr>"
        for name, value, about in rows
    )
    return f"<table>{''.join(lines)}</table>"


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
