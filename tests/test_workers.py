"""Workers end with the process that started them, so that a killed study leaves none behind that train on."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PARENT = """
import os, sys, time
import joblib
from prilora_lite.shared.workers import in_worker

calls = (joblib.delayed(in_worker)(time.sleep, os.getpid(), 600) for _ in range(2))
joblib.Parallel(n_jobs=2)(calls)
"""


@pytest.mark.skipif(os.name == "nt", reason="where a process keeps the number of a parent that is gone")
def test_workers_of_a_process_that_was_killed_end():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=Path(__file__).parent.parent)
    process = psutil.Process(parent.pid)
    try:
        while len(workers := [p for p in process.children() if "popen_loky" in " ".join(p.cmdline())]) < 2:
            psutil.wait_procs([process], timeout=0.1)
        while not all(worker.num_threads() > 1 for worker in workers):  # they are at work, and look for their parent
            psutil.wait_procs([process], timeout=0.1)
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    for worker in alive:
        worker.kill()
    assert not alive
