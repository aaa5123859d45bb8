"""Workers end with the process that started them: a killed study leaves none behind that train on, and no locks."""

import os
import signal
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

WITH_BARS = """
import os, signal, time
from pathlib import Path
import joblib
from tqdm import tqdm
from prilora_lite.shared.workers import in_worker

def work():
    list(tqdm(range(2)))  # makes the lock
    Path(f"at_work_{os.getpid()}").touch()
    time.sleep(600)

signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts tests in the background may have them ignore it
joblib.Parallel(n_jobs=2)(joblib.delayed(in_worker)(work, os.getpid()) for _ in range(2))
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


@pytest.mark.skipif(os.name == "nt", reason="where no signal goes to a group of processes")
def test_workers_that_are_interrupted_leave_no_lock_behind(tmp_path):
    command = [sys.executable, "-c", WITH_BARS]
    path = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    parent = subprocess.Popen(
        command, cwd=tmp_path, env=path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while len(list(tmp_path.glob("at_work_*"))) < 2 and parent.poll() is None:
            psutil.wait_procs([psutil.Process(parent.pid)], timeout=0.1)
        os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        _, said = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert "KeyboardInterrupt" in said
    assert "leaked" not in said
