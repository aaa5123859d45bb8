"""A whole class graded in one go: what it costs a submission, and that a stop loses none.

Run with ``python -m benchmarks.classroom --students 300 --jobs 2 --output results/classroom.json``. The class is a mix
of right, empty, wrong and hostile submissions; once, in the middle, everything is killed and started again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from prilora_lite.experiments.environment import processor_name
from tests.assignments.answers import WRONG
from tests.assignments.hostile import HOSTILE, A
from tests.assignments.hostile_folders import FOLDERS, expected_score
from tests.assignments.submissions import COURSE, notebook, perfect, points, wrong

SECRET = "the teacher's secret"  # in a file that some of them reach for


def make_class(course: Path, students: int) -> dict[str, float | None]:
    """Hand in for each student; the score that each should get, None for those that can't be graded.

    Of twenty submissions nine are right, six wrong in one answer, one empty, four hostile: of 300 each kind is there.
    """
    shutil.copytree(COURSE, course, ignore=shutil.ignore_patterns("gradebook.db", "submitted", "autograded", "grades"))
    (course / "secret").write_text(SECRET, encoding="utf-8")
    full = sum(points(A).values())
    mistakes = cycle([(answer, name) for answer, names in WRONG[A].items() for name in names])
    hostile = cycle([*HOSTILE, *(name for name in FOLDERS if name.isidentifier())])
    expected: dict[str, float | None] = {}
    for number, kind in enumerate(islice(cycle("rrwrhrwhrwerwhrwrwhr"), students)):
        student = f"student{number:03}"
        folder = course / "submitted" / student / A
        folder.mkdir(parents=True)
        if kind == "r":
            submission, expected[student] = perfect(A), full
        elif kind == "e":
            submission, expected[student] = notebook(A, "release"), 0
        elif kind == "w":
            submission, lost = wrong(A, *next(mistakes))
            expected[student] = full - sum(points(A)[name] for name in lost)
        elif (name := next(hostile)) in HOSTILE:
            submission = HOSTILE[name]()
            worth = {"crash": None, "overwritten_tests": 0, "uses_the_library": full}
            expected[student] = worth.get(name, full - points(A)["a2_line_test"])
        else:
            FOLDERS[name][0](folder)
            expected[student] = expected_score(name)
            continue
        (folder / f"{A}.ipynb").write_text(json.dumps(submission), encoding="utf-8")
    return expected


def contents(course: Path) -> dict[str, bytes]:
    """What grading must leave as it is: the teacher's files, and what was handed in."""
    files = [course / "secret", *(course / "source").rglob("*"), *(course / "submitted").rglob("*")]
    return {str(file): file.read_bytes() for file in files if file.is_file() and not file.is_symlink()}


def run(students: int, jobs: int) -> dict[str, Any]:
    """Grade such a class, kill it half-way, go on; what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder) / "course"
        expected = make_class(course, students)
        before = contents(course)
        command = [sys.executable, "-m", "prilora_lite", "grade", A, "--course", str(course), "--jobs", str(jobs)]
        journal = course / "grades" / f"{A}.jsonl"
        started = time.perf_counter()
        first = subprocess.Popen(command, start_new_session=True)
        while first.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") >= students // 2):
            time.sleep(0.2)
        killed_at = journal.read_bytes().count(b"\n")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        used = os.times()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        processor = sum(os.times()[2:4]) - sum(used[2:4])  # of the run that was not killed, and all that it waited for
        with (course / "grades" / f"{A}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        harmed = [name for name, content in contents(course).items() if before.get(name) != content]
        left = [str(path) for path in (course / "autograded").rglob("*") if SECRET.encode() in _content(path)]
    scores = {row["student"]: float(row["score"]) if row["score"] else None for row in rows}
    each = sorted(float(row["seconds"]) for row in rows)
    return {
        "assignment": A, "students": students, "jobs": jobs, "killed_after": killed_at, "seconds": round(seconds, 1),
        "seconds_per_submission": round(seconds / students, 2),
        "processor_seconds_per_submission": round(processor / (students - killed_at), 2),
        "load_average": [round(load, 1) for load in os.getloadavg()],  # of 1, 5 and 15 minutes; 2 keep two cores busy
        "median_seconds_of_one": statistics.median(each), "slowest_seconds_of_one": each[-1],
        "lost": sorted(set(expected) - set(scores)),
        "scored_otherwise": {s: [scores.get(s), e] for s, e in expected.items() if scores.get(s) != e},
        "harmed": sorted(harmed), "leaked": sorted(left),
        "not_graded": sum(row["status"] != "graded" for row in rows),
        "environment": {
            "python": platform.python_version(), "machine": f"{processor_name()}, {os.cpu_count()} cores",
            **{name: version(name) for name in ("prilora-lite", "nbgrader", "torch", "ipykernel")},
        },
    }  # fmt: skip


def one_at_a_time(students: int = 6) -> dict[str, float]:
    """Seconds of one more right submission, by nbgrader's own command without a sandbox and by ours, side by side."""
    seconds = {}
    for name, command in {
        "nbgrader": ["nbgrader", "autograde", A], "prilora-lite": ["prilora_lite", "grade", A, "--course", "."],
    }.items():  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            course = Path(folder) / "course"
            make_class(course, 0)
            _call(course, "nbgrader", "generate_assignment", A, "--force")
            took = []
            for group in (["first"], [f"student{number}" for number in range(students)]):
                for student in group:
                    place = course / "submitted" / student / A
                    place.mkdir(parents=True)
                    (place / f"{A}.ipynb").write_text(json.dumps(perfect(A)), encoding="utf-8")
                took.append(_call(course, *command))
        seconds[name] = round((took[1] - took[0]) / (students - 1), 2)
    return seconds


def _call(course: Path, *command: str) -> float:
    """Seconds of a command in a course's folder."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command], cwd=course, check=True, capture_output=True)
    return time.perf_counter() - started


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--students", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/classroom.json"))
    options = parser.parse_args()
    measured = run(options.students, options.jobs) | {"seconds_of_one_more_right_submission": one_at_a_time()}
    options.output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=1))
