"""Runs a notebook's cells where they can do no harm, and sees to it that they don't take more than their share.

The sandbox is made by bubblewrap (``bwrap``), hence needs Linux: no network, processes and environment of its own, no
rights, no files but Python, its packages and a copy of what was handed in. What the code writes is kept in memory, of
limited size, and is gone afterwards. Processes and their memory are summed from outside, and held by the system where
it lets this account make a control group (:mod:`~.confine`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from prilora_lite.teaching import confine

GIGABYTE = 2**30
ADDRESSES = 8 * GIGABYTE  # that each process may reserve; torch alone takes some 3 GiB
MEMORY = min(8 * GIGABYTE, psutil.virtual_memory().total * 3 // 4)  # of all processes together
TEMPORARY, SHARED = GIGABYTE, GIGABYTE // 2  # folders that are kept in memory: /tmp, /dev/shm
PROCESSES = 256  # with their threads
FILES = 512  # open in one process: a socket's buffers take memory as well
SECONDS = 15 * 60  # of each process's processor, and of waiting for all
REPORTS = 64 * 2**20  # bytes that are read of what the cells show
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime", "/etc/mime.types")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "HOME": "/tmp", "USER": "learner", "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # kernels side by side must not fight over the cores
}  # fmt: skip
SHIELD = (
    "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
    "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox",
    "--proc", "/proc", "--remount-ro", "/proc",  # where root grades, /proc/sys could be written otherwise
    "--dev", "/dev",
    "--size", str(SHARED), "--tmpfs", "/dev/shm", "--remount-ro", "/dev", "--size", str(TEMPORARY), "--tmpfs", "/tmp",
)  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[1]


def require() -> None:
    """See whether there can be a sandbox.

    Raises:
        ValueError: not here; it says what to do.
    """
    if shutil.which("bwrap") is None:
        wrong = "bubblewrap is not installed (on Debian and Ubuntu: apt-get install bubblewrap)"
    else:
        with tempfile.TemporaryFile() as calls:
            tried = ["bwrap", *_refusing(calls), *SHIELD, "--ro-bind", "/usr", "/usr", "--ro-bind-try", "/lib", "/lib"]
            tried += ["--ro-bind-try", "/lib64", "/lib64", "/usr/bin/true"]
            passed = [calls.fileno()]
            done = subprocess.run(tried, capture_output=True, text=True, check=False, pass_fds=passed)
        if done.returncode == 0:
            return
        wrong = f"bubblewrap does not work here ({done.stderr.strip()}); version 0.8 or newer is needed"
    raise ValueError(
        f"{wrong}, so learners' code would run with all your rights. Install it, or grade in a container or a "
        "throw-away account, where you say --unprotected"
    )


def _refusing(calls: Any) -> list[str]:
    """The option by which bubblewrap refuses calls to the system; their list is written into this open file."""
    if (program := confine.call_filter()) is None:
        return []
    calls.write(program)
    calls.seek(0)
    return ["--seccomp", str(calls.fileno())]


def python_path(course: Path) -> list[str]:
    """The folders that Python takes modules from here, for the kernel; none that has a course in it."""
    hidden = {course.resolve(), Path.cwd().resolve()}
    shown = []
    for path in dict.fromkeys(sys.path):
        folder = Path(path).resolve()
        near = any(folder in (place, *place.parents) or place in folder.parents for place in hidden)
        if os.path.isabs(path) and folder.is_dir() and not near and not (folder / "notebooks/assignments").is_dir():
            shown.append(str(folder))
    return shown


def command(handed_in: Path, shown: list[str]) -> list[str]:
    """The command line that runs :mod:`~.inside` in a sandbox.

    Args:
        handed_in: folder of the copy of what was handed in.
        shown: folders that Python takes modules from.
    """
    arguments = ["bwrap", *SHIELD]
    for path in dict.fromkeys([*SYSTEM, *SETTINGS, sys.prefix, sys.base_prefix, *shown, str(PACKAGE)]):
        arguments += ["--ro-bind-try", path, path]
    arguments += ["--ro-bind", str(handed_in), "/handed_in", "--remount-ro", "/", "--chdir", "/tmp"]
    return [*arguments, "--", *_inside()]


def run(
    cells: list[dict[str, Any]], look: dict[str, Any], handed_in: Path, room: Path, *, timeout: float, shown: list[str],
    protected: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Run cells from top to bottom, each in the state that the ones before have left.

    Args:
        cells: each with ``source``, and ``test`` if no later cell needs what it does.
        look: what :mod:`~.look` is asked.
        handed_in: folder of the copy of what was handed in; nothing is written there.
        room: a folder of this run alone; where there is no sandbox, the code runs there.
        timeout: seconds for a cell.
        shown: folders that Python takes modules from.
        protected: in a sandbox; False where all of this runs in one already.

    Returns:
        ``notes`` on the code, and ``cells``: for the number of each that ran, its ``outputs`` and ``status``.

    Raises:
        RuntimeError: the code ended Python, or wanted more than it may have.
    """
    work = Path("/tmp/work") if protected else room / "work"
    inherited = {} if protected else {**os.environ, "HOME": str(room)}
    limits = {
        "RLIMIT_AS": ADDRESSES, "RLIMIT_CPU": SECONDS, "RLIMIT_FSIZE": TEMPORARY, "RLIMIT_NPROC": 2 * PROCESSES,
        "RLIMIT_NOFILE": FILES, "RLIMIT_CORE": 0,
    }  # fmt: skip
    request = {
        "cells": cells, "look": look, "timeout": timeout, "work": str(work), "first": [str(PACKAGE.parent), *shown],
        "copy": "/handed_in" if protected else str(handed_in), "limits": limits if protected else {},
    }  # fmt: skip
    environment = {**ENVIRONMENT, **inherited}
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as calls:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        if not protected:
            return _supervise(_inside(), room, stdin=asked, env=environment)
        arguments = command(handed_in, shown)
        arguments[1:1] = _refusing(calls)
        with confine.groups(MEMORY + TEMPORARY + SHARED, 2 * PROCESSES) as made:
            started = {"stdin": asked, "env": environment, "pass_fds": [calls.fileno()]}
            return _supervise(arguments, room, preexec_fn=confine.join(made), **started)


def _inside() -> list[str]:
    return [sys.executable, "-I", str(Path(__file__).with_name("inside.py"))]


def _supervise(arguments: list[str], room: Path, **started: Any) -> dict[str, Any]:
    """Start it, read its reports, end it if it goes too far."""
    result: dict[str, Any] = {"notes": [], "cells": {}}
    ended, deadline, wrong = "died", time.monotonic() + SECONDS, ""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, cwd=room, **started)
        lines: list[bytes] = []
        reader = threading.Thread(target=_read, args=(process.stdout, lines))
        reader.start()
        try:
            while reader.is_alive() and not wrong:
                reader.join(0.25)
                late = time.monotonic() > deadline
                wrong = "late" if late else _excess(process.pid)
        finally:
            _end(process)
            reader.join()
        for line in map(json.loads, lines):
            if "cell" in line:
                result["cells"][line["cell"]] = line
            result["notes"] += line.get("notes", [])
            ended = line.get("end", ended)
        if ended == "done" or wrong == "late":
            return result
        errors.seek(0)
        said = errors.read(2_000).decode(errors="replace").strip()
    if not wrong and not lines and said:
        raise RuntimeError(f"there is no kernel: {said.splitlines()[-1]}")
    raise RuntimeError(wrong or "the kernel died: the code ends Python, crashes it, or wants too much memory")


def _read(stream: Any, lines: list[bytes]) -> None:
    """Whole lines until the end, or until they are too many: then no one reads on, and the writer waits to be ended."""
    left = REPORTS
    while left > 0 and (line := stream.readline(left)).endswith(b"\n"):
        lines.append(line)
        left -= len(line)


def _excess(pid: int) -> str:
    """What all processes together have too much of."""
    threads = memory = 0
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return ""
    for child in children:
        try:
            threads, memory = threads + child.num_threads(), memory + child.memory_info().rss
        except psutil.Error:  # it has ended meanwhile
            continue
    if memory > MEMORY:
        return f"the code wants more than {MEMORY // GIGABYTE} GiB of memory in all its processes"
    return f"the code starts more than {PROCESSES} processes and threads" if threads > PROCESSES else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started; in a sandbox the kernel of the system does that with the first of them."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        started = []
    for each in (process, *started):
        try:
            each.kill()
        except psutil.Error:
            continue
    process.wait()
