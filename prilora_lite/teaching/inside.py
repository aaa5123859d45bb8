"""Runs inside the sandbox: a notebook's cells in a kernel, each cell's outputs reported as one line of JSON.

Started by its path, so that nothing heavy is imported. It reads the request from standard input and reports to standard
output; the kernel, where learners' code runs, has neither. A cell that goes on for too long costs no other cell: the
kernel is ended, and a fresh one gets the cells before it again, except for tests and for those that took too long.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

SHOWN = ("text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg")
LARGEST, MOST = 1_000_000, 500  # characters of a cell's outputs, and their number; what comes after is left out
MEMORY_FOLDERS = ("/tmp", "/dev/shm")  # of limited size
FILES = 100_000  # in one of them: each takes memory, even if it is empty
START, LOOK = 60, 20  # seconds for a kernel, and for looking through the code
UNSEEN = "the code can't be looked through by machine: look at it"
LAUNCH = """import sys
sys.path[:0] = {first!r}
sys.path.append({work!r})  # last: a file that was handed in takes no module's place
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()"""


class Stopped(Exception):
    """The kernel has ended, or must be ended."""


class Died(Stopped):
    """The kernel has ended by itself, or talks nonsense."""


class CellTimeoutError(Stopped):
    """A cell took too long."""


class Specs(KernelSpecManager):
    """Knows how one kernel is started: isolated from the environment and from the folder where it runs."""

    def __init__(self, first: list[str], work: str) -> None:
        super().__init__()
        self.launch = LAUNCH.format(first=first, work=work)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The same for every name."""
        options = ["--InteractiveShellApp.ignore_cwd=True", "--HistoryManager.hist_file=:memory:"]
        argv = [sys.executable, "-I", "-c", self.launch, "-f", "{connection_file}", *options]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


class Kernel:
    """A kernel in the folder ``work``, and what its cells show."""

    def __init__(self, first: list[str], work: str) -> None:
        self.manager = KernelManager(kernel_spec_manager=Specs(first, work))
        self.manager.start_kernel(cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=START)
        except RuntimeError as error:
            raise Died from error

    def end(self) -> None:
        """End it, and in the sandbox whatever it has started."""
        self.client.stop_channels()
        if os.getpid() == 1:  # of a process namespace of its own: everything else there is the learner's
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        self.manager.shutdown_kernel(now=True)

    def run(self, source: str, timeout: float, outputs: list[dict[str, Any]], *, history: bool = True) -> str:
        """Run a cell; its outputs are appended as they come.

        Returns:
            "ok", or another status by which Jupyter says that it did not end as it should.

        Raises:
            Stopped: the kernel is not to be used any more.
        """
        deadline = time.monotonic() + timeout
        request = self.client.execute(source, store_history=history, allow_stdin=False, stop_on_error=False)
        room = LARGEST
        while True:
            message = self._next(self.client.get_iopub_msg, request, deadline)
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind == "clear_output":
                outputs.clear()
            elif (output := _output(kind, content)) is not None:
                room -= len(json.dumps(output))
                if room > 0 and len(outputs) < MOST:
                    _add(outputs, output)
                elif kind == "error" and not any(given["output_type"] == "error" for given in outputs):
                    outputs.append(output)
        return str(self._next(self.client.get_shell_msg, request, deadline)["content"]["status"])

    def _next(self, get: Any, request: str, deadline: float) -> dict[str, Any]:
        """The next answer to a request."""
        while True:
            if time.monotonic() > deadline:
                raise CellTimeoutError
            if any(_files(folder) > FILES for folder in MEMORY_FOLDERS if os.getpid() == 1):
                raise Died
            try:
                message = get(timeout=0.5)
            except queue.Empty:
                if not self.manager.is_alive():
                    raise Died from None
                continue
            except Exception as error:  # what came is no message
                raise Died from error
            if message.get("parent_header", {}).get("msg_id") == request:
                return message


def _files(folder: str) -> int:
    space = os.statvfs(folder)
    return space.f_files - space.f_ffree


def _output(kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
    """A message as the output of a cell, of known parts alone; None if it is no output."""
    if kind == "stream":
        name = "stderr" if content.get("name") == "stderr" else "stdout"
        return {"output_type": kind, "name": name, "text": str(content.get("text", ""))[:LARGEST]}
    if kind == "error":
        name, value = (str(content.get(part, ""))[:2_000] for part in ("ename", "evalue"))
        lines = [str(line)[:20_000] for line in list(content.get("traceback", []))[:100]]
        return {"output_type": kind, "ename": name, "evalue": value, "traceback": lines}
    if kind not in ("display_data", "execute_result", "update_display_data"):
        return None
    given = content.get("data", {})
    output = {"output_type": "display_data", "metadata": {}, "data": {k: str(given[k]) for k in SHOWN if k in given}}
    if kind == "execute_result":
        output |= {"output_type": kind, "execution_count": None}
    return output


def _add(outputs: list[dict[str, Any]], output: dict[str, Any]) -> None:
    """Append an output; a stream goes on where the same one ended."""
    last = outputs[-1] if outputs else {}
    if output["output_type"] == "stream" and last.get("name") == output["name"]:
        last["text"] += output["text"]
    else:
        outputs.append(output)


def run_cells(request: dict[str, Any], work: str, report: Callable[[dict[str, Any]], None]) -> None:
    """Run all cells from top to bottom, in as many kernels as it takes, and report each when it is done."""
    cells, stuck, place, looked = request["cells"], set(), 0, False
    while place < len(cells):
        kernel = Kernel(request["first"], work)
        try:
            if not looked:
                looked = True
                try:
                    notes = _look(kernel, request["look"])
                except Stopped:  # in the middle of it: the cells get a fresh kernel
                    report({"notes": [UNSEEN]})
                    continue
                report({"notes": notes})
            for number, cell in enumerate(cells):
                again = number < place  # in an earlier kernel: what the next cells need must be there once more
                if again and (cell["test"] or number in stuck):
                    continue
                outputs: list[dict[str, Any]] = []
                try:
                    status = kernel.run(cell["source"], request["timeout"], outputs)
                except CellTimeoutError as error:
                    stuck.add(number)
                    status, value = "error", f"stopped after {request['timeout']} s"
                    named = {"ename": type(error).__name__, "evalue": value, "traceback": [value]}
                    outputs.append({"output_type": "error", **named})
                if not again:
                    report({"cell": number, "outputs": outputs, "status": status})
                    place = number + 1
                if number in stuck:
                    break
        finally:
            kernel.end()


def _look(kernel: Kernel, asked: dict[str, Any]) -> list[str]:
    """What is odd in the code, looked for in the kernel before the code runs: parsing it can crash Python.

    Raises:
        Stopped: it does crash it, or takes too long.
    """
    file, script = Path(os.environ["HOME"]) / "look.json", Path(__file__).with_name("look.py")
    file.write_text(json.dumps(asked), encoding="utf-8")
    outputs: list[dict[str, Any]] = []
    code = f"print(__import__('runpy').run_path({str(script)!r})['look']({str(file)!r}))"
    try:
        kernel.run(code, LOOK, outputs, history=False)
        return [str(note) for note in json.loads(outputs[0]["text"])]
    except (ValueError, LookupError):
        return [UNSEEN]
    finally:
        file.unlink()


def main() -> None:
    """Run what standard input asks for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: who has the same rights can't look into this process
    request = json.load(sys.stdin)
    if request["limits"]:
        import resource

        for limit, value in request["limits"].items():
            resource.setrlimit(getattr(resource, limit), (value, value))
    work = request["work"]
    if request["copy"]:
        shutil.copytree(request["copy"], work)

    def report(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    try:
        run_cells(request, work, report)
        report({"end": "done"})
    except Died:
        report({"end": "died"})


if __name__ == "__main__":
    main()
