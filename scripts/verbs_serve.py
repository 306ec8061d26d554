"""`understudy serve` and `understudy replay`: a live session in the browser, and the same session again.

Modules that import torch, PyAV or a web server are imported inside the verb, so that help texts stay quick.
"""

from pathlib import Path

from tyro.conf import Positional

from common.errors import BadData, UserError
from scripts.verb_options import Json, check_outputs, parse

RECORDINGS = Path("recordings")


def serve(words: list[str], program: str) -> None:
    """live teleoperation in the browser, with recordings that can be trained on"""

    def run(
        checkpoint: Positional[Path | None] = None,
        /,
        demo: bool = False,
        data: tuple[Path, ...] = (),
        robot: str | None = None,
        split: str | None = None,
        camera: str | None = None,
        actions: Path | None = None,
        fps: float | None = None,
        steps: int | None = None,
        still_camera: bool = False,
        host: str = "127.0.0.1",
        port: int = 8765,
        token: str | None = None,
        allowed_host: tuple[str, ...] = (),
        takeover: bool = False,
        recordings: Path = RECORDINGS,
        policy: str | None = None,
        prompt: str = "",
        open: bool = False,
    ) -> None:
        """Serve a live session of a model, until Ctrl-C. The link that it prints opens the page to drive it.

        A robot that the checkpoint is aligned to is driven by its controls; where there is none, by latent actions.

        Args:
            checkpoint: A video model's checkpoint, or the folder of a run (its newest checkpoint).
            demo: Serve the student that comes with Understudy, in its demo world.
            data: What sessions begin from: robot datasets (first frame and controls of their episodes), pictures,
                videos, or folders of pictures and videos.
            robot: Which of the checkpoint's robots; may be left out where it knows only one.
            split: Which episodes of the datasets, by name or as first:end; by default all.
            camera: Which camera of the datasets, where there are several.
            actions: For latent actions: a folder of what `understudy label` wrote, to play recorded actions.
            fps: Frames shown per second; by default the model's rate. Each pass makes four.
            steps: Sampling steps per latent; by default as the model was trained for.
            still_camera: The camera does not move: what looks as in the first picture is shown as there.
            host: Address to listen at. Any but this machine's own asks for a token.
            port: Port to listen at; 0 for any that is free.
            token: What those who connect must know; by default made where it is needed.
            allowed_host: Other names under which browsers reach the server, behind a proxy for example.
            takeover: Let a second driver take over.
            recordings: Folder for recordings.
            policy: A policy server that speaks openpi's protocol, ws://HOST:PORT, as another source of controls.
            prompt: Its task, in words.
            open: Open the page in a browser.
        """
        from scripts.serve import Served, run_server
        from scripts.serve import demo as served_demo

        if demo == (checkpoint is not None):
            raise UserError("serve what?", hint=f"{program} CHECKPOINT --data DATA; or {program} --demo")
        if demo and (data or robot or split or camera or actions):
            raise UserError("--demo brings its own data and robot")
        if checkpoint is not None and not data:
            raise UserError("where do sessions begin?", hint="--data DATASET, or pictures, or videos.")
        if (fps is not None and not 0 < fps <= 1000) or (steps is not None and steps < 1):
            raise UserError("--fps must be above 0 and at most 1000, --steps at least 1")
        if policy is not None and not policy.startswith(("ws://", "wss://")):
            raise UserError(f"--policy must be ws://HOST:PORT or wss://…, not {policy}")
        served = (
            served_demo(recordings, fps=fps, steps=steps, policy=policy, prompt=prompt)
            if checkpoint is None
            else Served(
                checkpoint, data, recordings, robot, split, camera, actions, fps, steps, still_camera, policy, prompt
            )
        )
        run_server(
            served,
            host=host,
            port=port,
            token=token,
            allowed_hosts=allowed_host,
            takeover=takeover,
            open_page=open,
        )

    parse(run, words, program)


def replay(words: list[str], program: str) -> None:
    """a recorded session again, without a screen, frame hashes compared"""

    def run(recording: Positional[Path], /, checkpoint: Path | None = None, json: Json = None) -> None:
        """Make every frame of a recording again, and say how many are equal. Exits with 4 if one is not.

        A recording that was cut off, since its process was killed, is finished first.

        Args:
            recording: Folder of a recording.
            checkpoint: The model, where it is no longer at the place that the recording names.
        """
        check_outputs(json)
        from scripts.serve import replay_recording

        report = replay_recording(recording, checkpoint)
        if json:
            json.write_text(report.to_json(), encoding="utf-8")
        if not report.same_model:
            print("this is not the model that made the recording: checksum, robot, steps or camera differ")
        if not report.same_machine:
            print("the recording was made on another device, or with other versions: frames may differ in the last bit")
        print(
            f"{report.equal} of {report.frames} frames are equal, in {report.passes} passes after {report.takes} resets"
        )
        if not report.all_equal:
            raise BadData(
                f"frame {report.first_unequal} is the first that is another",
                hint="The same checkpoint on the same device and versions makes the same frames.",
            )

    parse(run, words, program)
