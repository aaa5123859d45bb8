"""Does a study survive being killed? SIGKILL at random moments, started again each time, beside an undisturbed one.

Run with ``python -m benchmarks.killed_study --kills 20 --output results/killed_study.json`` (POSIX; some 5 minutes on
two CPU cores). It fails if a run was lost, doubled, or came out otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prilora_lite.experiments.device import pick_precision
from prilora_lite.experiments.environment import describe_environment
from prilora_lite.shared.records import read_records


def start(arguments: list[str]) -> subprocess.Popen:
    """Start ``prilora-lite`` in a process of its own and wait until its first run has begun."""
    command = [sys.executable, "-m", "prilora_lite", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for line in process.stderr:
        if line.startswith(b"["):
            break
    else:
        raise RuntimeError(f"no run began: {' '.join(command)}")
    return process


def finish(process: subprocess.Popen) -> None:
    """Let a process come to its end."""
    process.communicate()
    if process.returncode:
        raise RuntimeError(f"the study ended with {process.returncode}")


def kill_at_random(arguments: list[str], output: Path, kills: int, runs: int, seed: int) -> list[int]:
    """Start a study, kill it, start it again, and let it come to its end after the last kill.

    The kills are spread over the runs: before each, so many runs are waited for, then a random share of the time that
    the last of them took. So it is the study itself, not the clock, that says when, however busy the machine is.

    Args:
        arguments: of ``prilora-lite``; runs go to ``output``.
        output: the study's file.
        kills: how often it is killed.
        runs: how many the study has, more than ``kills``.
        seed: of the moments.

    Returns:
        How many runs were finished at each kill.
    """
    moments = random.Random(seed)
    finished = []
    for kill in tqdm(range(kills), desc="kill", leave=False):
        process = start(arguments)
        while len(done := read_records(output)) < kill * runs // (kills + 1) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.random() * (done[-1]["seconds"] if done else 0.1))
        if process.poll() is not None:
            raise RuntimeError("the study was over before it was killed: make it longer")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finished.append(len(read_records(output)))
    finish(start(arguments))
    return finished


def essence(output: Path) -> list[Any]:
    """What a kill must not change: which runs there are, once each, in which order, with which results."""
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [[r["key"], r["metrics"], r["curve"], r["pruning"], r["counts"], r["steps"]] for r in lines]


def compare(arguments: list[str], folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """One study undisturbed, one killed again and again; what came of both.

    Args:
        arguments: of ``prilora-lite ablate``, without an output.
        folder: where both write.
        kills: how often the second is killed.
        seed: of the moments.

    Returns:
        ``kills``, ``finished_at_each_kill``, ``runs``, ``equal``: whether both files hold the same.
    """
    undisturbed, killed = folder / "undisturbed.jsonl", folder / "killed.jsonl"
    finish(start([*arguments, "--output", str(undisturbed)]))
    runs = len(essence(undisturbed))
    finished = kill_at_random([*arguments, "--output", str(killed)], killed, kills, runs, seed)
    return {
        "kills": kills,
        "finished_at_each_kill": finished,
        "runs": runs,
        "equal": essence(undisturbed) == essence(killed),
    }


def publish(result: dict[str, Any], output: Path | None) -> None:
    """Print a result with versions and machine, and write it to a file if one is named."""
    result |= {"environment": describe_environment(pick_precision(encoder="pocket", device="cpu"), "cpu")}
    print(json.dumps(result, indent=1))
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    study = ["ablate", "--methods", "head", "lora", "ranks", "pruning", "prilora", "--set", "epochs=0.25"]
    study += ["--seeds", *map(str, range(5)), "--device", "cpu"]
    with tempfile.TemporaryDirectory() as place:
        result = compare(study, Path(place), options.kills)
    publish({"command": ["prilora-lite", *study], **result}, options.output)
    sys.exit(0 if result["equal"] else 1)
