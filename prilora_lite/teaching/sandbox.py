"""Starts a notebook's kernel where it can do no harm: no network, no files but the submission's own, limited memory.

Run by its path, as the kernel's command, so that nothing heavy is imported twice. It needs bubblewrap (``bwrap``),
hence Linux.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

MEMORY = 8 * 2**30  # bytes of address space; torch alone reserves some 3 GiB
FILE_SIZE = 256 * 2**20
CPU_SECONDS = 15 * 60
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")  # as the programs there need one another
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # kernels side by side must not fight over the cores
    "PYTHONWARNINGS": "ignore",  # nbgrader takes a warning in a test's cell for a wrong answer
    "JPY_PARENT_PID": "1",  # started by another program; bubblewrap ends it when that is gone
}  # fmt: skip


def command(connection_file: str, folder: str) -> list[str]:
    """The command line of a kernel that sees the folder, Python and its packages, and nothing else.

    Args:
        connection_file: where the kernel reads how to be reached; its sockets lie beside it.
        folder: of the submission, where the kernel runs; the only place that it can write to, and that stays.
    """
    package = Path(__file__).resolve().parents[1]
    python = [sys.prefix, sys.base_prefix, *sys.path[1:]]  # the first is the folder of this file
    # An editable install has the whole repository on the path: of that, only the package, not the solutions beside it
    shown = [path for path in python if os.path.isdir(path) and not (Path(path) / "notebooks/assignments").is_dir()]
    sockets = os.path.dirname(connection_file)
    arguments = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--proc", "/proc", "--dev", "/dev"]
    arguments += ["--tmpfs", "/tmp"]
    for path in dict.fromkeys([*SYSTEM, *shown, str(package)]):
        arguments += ["--ro-bind-try", path, path]
    arguments += ["--bind", sockets, sockets, "--bind", folder, folder, "--chdir", folder]
    for name, value in ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    if str(package.parent) not in (sys.prefix, *shown):
        arguments += ["--setenv", "PYTHONPATH", str(package.parent)]
    return [*arguments, sys.executable, "-m", "ipykernel_launcher", "-f", connection_file]


if __name__ == "__main__":
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILE_SIZE), (resource.RLIMIT_CPU, CPU_SECONDS)
    ):  # fmt: skip
        resource.setrlimit(limit, (value, value))
    bwrap = command(sys.argv[1], os.getcwd())
    os.execvp(bwrap[0], bwrap)
