"""How long a newcomer waits: a fresh clone, its first figure, every notebook, the tests, a slider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import seconds
from prilora_lite.teaching import recordings, widgets

ROOT = Path(__file__).parent.parent
FIRST_COMMAND = ("prilora-lite", "ablate", "--jobs", "2", "--set", "epochs=1")  # the README's

NOTEBOOKS = """
import json
from pathlib import Path
from prilora_lite.teaching.notebook_files import execute

print(json.dumps({path.name: execute(path) for path in sorted(Path("notebooks").glob("*.ipynb"))}))
"""


def fresh_clone(rounds: int) -> dict[str, Any]:
    """Seconds of each thing that a newcomer does up to the first figure, once, and of every notebook after that."""
    taken, said = _in_a_clone({"first figure": FIRST_COMMAND, "notebooks": ("python", "-c", NOTEBOOKS)})
    return {"seconds": taken, "notebooks": json.loads(said["notebooks"].strip().splitlines()[-1])}


def all_tests(rounds: int) -> dict[str, Any]:
    """Seconds of the README's second command, once, and its last line."""
    taken, said = _in_a_clone({"tests": ("pytest", "-q")})
    return {"seconds": taken, "outcome": said["tests"].strip().splitlines()[-1].strip("= ")}


def _in_a_clone(commands: dict[str, tuple[str, ...]]) -> tuple[dict[str, float], dict[str, str]]:
    """Run commands of a fresh environment in a fresh clone: seconds and output of each, installing included.

    The package index must be reached; how long installing takes is its speed, and the size of torch's build there.
    """
    with tempfile.TemporaryDirectory() as place:
        clone, programs = Path(place) / "clone", Path(place) / "venv" / ("Scripts" if os.name == "nt" else "bin")
        everything = {
            "clone": ["git", "clone", "--quiet", ROOT, clone],
            "environment": [sys.executable, "-m", "venv", programs.parent],
            "install": [programs / "python", "-m", "pip", "install", "--quiet", "-r", "requirements.txt"],
            **{name: [programs / program, *arguments] for name, (program, *arguments) in commands.items()},
        }
        taken, said = {}, {}
        for name, command in everything.items():
            print(f"{name} ...", end=" ", flush=True)
            begin = time.perf_counter()
            said[name] = _call(command, clone if clone.is_dir() else Path(place))
            taken[name] = time.perf_counter() - begin
            print(f"{taken[name]:.0f} s", flush=True)
    return taken, said


def _call(command: list[str | Path], cwd: Path) -> str:
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
    variables = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def sliders(rounds: int) -> dict[str, list[float]]:
    """Seconds from a slider's new value to the new picture, in the kernel, for each control of each widget."""
    torch.manual_seed(0)
    explorers = {
        "rank": widgets.explore_rank(torch.randn(384, 384)),
        "schedule": widgets.explore_schedule(12, [(128, 128)] * 4 + [(256, 128), (128, 256)]),
        "importance": widgets.explore_importance(torch.randn(8, 128), [torch.randn(200, 128) for _ in range(40)]),
        "pruning": widgets.explore_pruning(),
        "grid": widgets.explore_grid(recordings.load_study("pocket_grid")),
    }
    moves = {
        f"{name}, {control}": _move(widget)
        for name, explorer in explorers.items()
        for control, widget in explorer.controls.items()
    }
    return seconds(moves, rounds)


def _move(control: Any) -> Callable[[], None]:
    """Moves a control to another value and, the next time, back."""
    there, back = _another(control), control.value

    def move() -> None:
        control.value = there if control.value == back else back

    return move


def _another(control: Any) -> Any:
    if hasattr(control, "options"):
        return next(option for option in control.options if option != control.value)
    return control.value + 1 if control.value < control.max else control.value - 1


# Case -> what measures it, given the number of rounds
CASES: dict[str, Callable[[int], Any]] = {"sliders": sliders, "fresh clone": fresh_clone, "all tests": all_tests}
