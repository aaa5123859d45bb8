"""Environments and processes of their own: fresh ones that have what a user has, and none of this repository."""

import os
import subprocess
import sys
import sysconfig
import venv
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path


def call(*command, cwd, check=True, **variables):
    """Run a command with hardly anything from this environment; returns its output, of both kinds if it may fail."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP") if name in os.environ}
    variables = kept | {"HOME": str(cwd), "HF_HOME": str(cwd), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"} | variables
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout if check else done.stdout + done.stderr


def processes():
    """The way to start processes: forks of one that has the library loaded and nothing else, where there is forking."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["prilora_lite.experiments.finetune"])  # else each loads torch for seconds
    return context


def fresh(folder):
    """A new environment that borrows the packages of this one, but not this project; its Python and its site folder."""
    venv.create(folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / Path(sys.executable).name
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python, site
