"""What a result was measured with: versions, the commit of this code, machine and arithmetic."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from prilora_lite.experiments.device import pick_device

_PACKAGE = Path(__file__).parents[1]


def describe_environment(precision: str = "auto", device: str | None = None) -> dict[str, str]:
    """Versions, commit (where the code is a repository's), machine and arithmetic that a figure was measured with."""
    place = pick_device(device)
    machine = torch.cuda.get_device_name() if place == "cuda" else f"{processor_name()}, {os.cpu_count()} cores"
    packages = ("prilora-lite", "torch", "transformers", "datasets", "accelerate")
    commit = commit_of(_PACKAGE)
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        **({"commit": commit} if commit else {}),
        "device": place,
        "machine": machine,
        "precision": precision,
    }


@cache
def commit_of(folder: Path) -> str | None:
    """The last commit that changed a folder, with a plus if it was changed since; None where it is not in git."""
    commands = (["log", "-1", "--format=%h", "--abbrev=12", "--", "."], ["status", "--porcelain", "--", "."])
    try:
        commit, changes = (_git(folder, command) for command in commands)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one that git won't read
        return None
    return commit + "+" * bool(changes) if commit else None


def _git(folder: Path, command: list[str]) -> str:
    done = subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def processor_name() -> str:
    """What this machine computes on, in the words of its maker."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
