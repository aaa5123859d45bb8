"""A class graded for real: nbgrader, a kernel in the sandbox for each submission, two at a time."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from prilora_lite.teaching import grading as classroom
from tests.assignments.hostile import HOSTILE, A
from tests.assignments.submissions import COURSE, answered, notebook, perfect, points, solutions, wrong

try:
    classroom._require_sandbox()
    lacks = ""
except ValueError as error:
    lacks = str(error)
pytestmark = pytest.mark.skipif(bool(lacks), reason=lacks)
FULL = sum(points(A).values())


def hand_in(course, student, submission, name=A):
    file = course / "submitted" / student / A / f"{name}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(submission if isinstance(submission, str) else json.dumps(submission), encoding="utf-8")


def new_course(folder):
    shutil.copytree(COURSE, folder, ignore=shutil.ignore_patterns("gradebook.db", "submitted", "autograded", "grades"))
    with (folder / "nbgrader_config.py").open("a", encoding="utf-8") as config:
        config.write("c.ExecutePreprocessor.timeout = 15  # an endless loop costs no more than that\n")
    return folder


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    return new_course(tmp_path_factory.mktemp("class") / "course")


@pytest.fixture(scope="module")
def graded(course):
    """Student -> row of the class's table; each student handed in another oddity."""
    hand_in(course, "perfect", perfect(A))
    hand_in(course, "blank", notebook(A, "release"))
    hand_in(course, "wrong", wrong(A, "a2_line", "ranks falling")[0])
    hand_in(
        course,
        "warns",
        answered(
            A,
            solutions(A)
            | {
                "a2_line": "import warnings\n\n\n"
                + solutions(A)["a2_line"].replace("    if num_layers", "    warnings.warn('odd')\n    if num_layers")
            },
        ),
    )
    hand_in(course, "not_json", "{")
    hand_in(course, "wrong_name", perfect(A), name="untitled")
    for student, make in HOSTILE.items():
        hand_in(course, student, make())
    done = []
    path = classroom.grade(A, course, jobs=2, on_done=lambda count, record: done.append((count, record["student"])))
    rows = table(path)
    assert sorted(done) == sorted((len(rows), student) for student in rows)
    return rows


@pytest.mark.parametrize("student", ["perfect", "warns"])
def test_a_right_answer_has_all_points(student, graded):
    assert float(graded[student]["score"]) == float(graded[student]["of"]) == FULL
    assert graded[student]["notes"] == ""


@pytest.mark.parametrize("student", ["blank", "overwritten_tests"])
def test_who_wrote_nothing_has_none_whatever_the_tests_were_made_to_say(student, graded):
    assert float(graded[student]["score"]) == 0


LOST_THE_FIRST = (
    "wrong", "deleted_test", "duplicated_test", "duplicated_answer", "endless_loop", "too_much_memory",
    "changes_a_module", "reads_the_frame", "prints_millions_of_lines", "looks_for_the_solutions", "calls_out",
)  # fmt: skip


@pytest.mark.parametrize("student", LOST_THE_FIRST)
def test_a_wrong_first_answer_costs_its_points_and_no_others(student, graded):
    assert graded[student]["status"] == "graded"
    lost = {name: float(graded[student][name]) for name in points(A)}
    assert lost == points(A) | {"a2_line_test": 0}


@pytest.mark.parametrize(
    ("student", "note"),
    [
        ("deleted_test", "cell a2_line_test was deleted and put back"),
        ("duplicated_test", "cell a2_line_test is there twice: the last one counts"),
        ("duplicated_answer", "cell a2_line is there twice: the last one counts"),
        ("reads_the_frame", "look at cell 6: _getframe"),
        ("uses_the_library", "look at cell 6: imports linear_ranks"),
        ("changes_a_module", "look at cell 6: changes math.floor"),
        ("calls_out", "look at cell 6: socket"),
        ("crash", "the kernel died: the code ends Python, crashes it, or wants too much memory"),
        ("not_json", "a2_rank_schedule.ipynb can't be read: "),
        ("wrong_name", "there is no a2_rank_schedule.ipynb, but untitled.ipynb"),
    ],
)
def test_what_was_odd_is_said_in_the_table(student, note, graded):
    assert note in graded[student]["notes"]


@pytest.mark.parametrize("student", ["crash", "not_json", "wrong_name"])
def test_what_can_not_be_graded_has_no_score(student, graded):
    assert graded[student]["status"] == "not graded"
    assert graded[student]["score"] == ""


@pytest.mark.parametrize(
    ("student", "said"),
    [("looks_for_the_solutions", "found 0 files"), ("calls_out", "Network is unreachable|Connection refused")],
)
def test_a_kernel_sees_neither_solutions_nor_gradebook_nor_the_network(student, said, graded, course):
    written = (course / "autograded" / student / A / f"{A}.ipynb").read_text(encoding="utf-8")
    assert re.search(said, written)


def test_a_killed_run_goes_on_and_what_was_handed_in_anew_is_graded_anew(tmp_path):
    course = new_course(tmp_path / "course")
    for student in ("ann", "ben", "cem"):
        hand_in(course, student, perfect(A))
    journal = course / "grades" / f"{A}.jsonl"
    command = [sys.executable, "-m", "prilora_lite", "grade", A, "--course", str(course)]
    killed = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n")):
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no submission was graded"
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    first = journal.read_bytes().split(b"\n")[0]
    hand_in(course, "cem", notebook(A, "release"))
    rows = table(classroom.grade(A, course, jobs=2))
    assert {student: float(row["score"]) for student, row in rows.items()} == {"ann": FULL, "ben": FULL, "cem": 0}
    assert journal.read_bytes().split(b"\n")[0] == first, "what was graded before the kill was graded again"
