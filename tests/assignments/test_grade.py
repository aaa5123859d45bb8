"""Grading that was killed half-way; A4, whose runs are made again; without a sandbox."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prilora_lite.teaching import grading as classroom
from prilora_lite.teaching import handin, sandbox
from prilora_lite.teaching.autograde import autograde
from prilora_lite.teaching.gradebook import database
from tests.assignments.hostile import HOSTILE, A
from tests.assignments.submissions import COURSE, named, notebook, perfect, points

try:
    sandbox.require()
    lacks = ""
except ValueError as error:
    lacks = str(error)
pytestmark = pytest.mark.skipif(bool(lacks), reason=lacks)
FULL = sum(points(A).values())
A4 = "a4_ablation_report"
RUNS = Path(__file__).with_name("runs.jsonl")  # of the solution: A4's second cell from above makes them


def hand_in(course, student, submission, name=A):
    file = course / "submitted" / student / name / f"{name}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(submission), encoding="utf-8")
    return file.parent


def new_course(folder, seconds=10):
    shutil.copytree(COURSE, folder, ignore=shutil.ignore_patterns("gradebook.db", "submitted", "autograded", "grades"))
    with (folder / "nbgrader_config.py").open("a", encoding="utf-8") as config:
        config.write(f"c.ExecutePreprocessor.timeout = {seconds}\n")
    return folder


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


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


@pytest.fixture(scope="module")
def after_one_grading(tmp_path_factory):
    course = new_course(tmp_path_factory.mktemp("graded") / "course")
    hand_in(course, "ann", perfect(A))
    assert float(table(classroom.grade(A, course))["ann"]["score"]) == FULL
    return course


@pytest.fixture
def graded(after_one_grading, tmp_path):
    """A course in which ann's right answers are graded; below a folder of an editor's name, which is no part of it."""
    return Path(shutil.copytree(after_one_grading, tmp_path / ".vscode" / "course"))


def test_who_goes_back_to_an_earlier_version_gets_its_marks(graded):
    for submission, score in ((notebook(A, "release"), 0), (perfect(A), FULL)):
        hand_in(graded, "ann", submission)
        assert float(table(classroom.grade(A, graded))["ann"]["score"]) == score


def test_a_fault_of_the_machine_is_tried_again_and_takes_no_marks(graded, monkeypatch):
    from nbgrader.api import Gradebook

    given = 3

    def marks():
        with Gradebook(database(graded)) as gradebook:
            return [g.manual_score for g in gradebook.find_submission(A, "ann").notebooks[0].grades]

    with Gradebook(database(graded)) as gradebook:
        gradebook.find_submission(A, "ann").notebooks[0].grades[0].manual_score = given
        gradebook.db.commit()
    hand_in(graded, "ann", notebook(A, "release"))

    def full(*args, **options):
        raise OSError(28, "No space left")

    monkeypatch.setattr("prilora_lite.teaching.autograde.autograde", full)
    row = table(classroom.grade(A, graded))["ann"]
    assert row["status"] == "not graded"
    assert "No space left; that may be a fault of the machine: the same command tries again" in row["notes"]
    assert given in marks()
    monkeypatch.undo()
    assert float(table(classroom.grade(A, graded))["ann"]["score"]) == given


def test_a_version_that_was_being_graded_when_it_stopped_leaves_no_marks_behind(graded, monkeypatch):
    hand_in(graded, "ann", notebook(A, "release"))
    write = classroom.append_record
    monkeypatch.setattr(
        classroom, "append_record", lambda path, r: 1 / 0 if r["status"] == "graded" else write(path, r)
    )
    with pytest.raises(ZeroDivisionError):  # it is in the gradebook, and stopped before it is in the journal
        classroom.grade(A, graded)
    monkeypatch.undo()
    hand_in(graded, "ann", perfect(A))
    assert float(table(classroom.grade(A, graded))["ann"]["score"]) == FULL


def test_the_table_says_how_late_a_hand_in_is_without_any_penalty(graded):
    from nbgrader.api import Gradebook

    with Gradebook(database(graded)) as gradebook:
        gradebook.update_or_create_assignment(A, duedate="2026-02-28 23:59")
    (graded / "submitted" / "ann" / A / "timestamp.txt").write_text("2026-03-01 11:59:00 UTC", encoding="utf-8")
    row = table(classroom.grade(A, graded))["ann"]
    assert [row["notes"], float(row["score"])] == ["handed in 12 h late", FULL]


def test_a_page_of_feedback_goes_when_what_it_is_about_is_graded_anew(tmp_path):
    page = tmp_path / "course" / "feedback" / "ann" / A / f"{A}.html"
    page.parent.mkdir(parents=True)
    page.touch()
    with pytest.raises(handin.Refused, match="no folder"):
        autograde("ann", A, tmp_path / "course", None, tmp_path, notes=[], protected=True, shown=[])
    assert not page.exists()


def test_a_gradebook_put_back_from_a_backup_gives_no_marks_of_an_earlier_version(graded):
    backup = shutil.copy(graded / "gradebook.db", graded / "backup.db")
    hand_in(graded, "ann", notebook(A, "release"))
    assert float(table(classroom.grade(A, graded))["ann"]["score"]) == 0
    shutil.copy(backup, graded / "gradebook.db")
    assert float(table(classroom.grade(A, graded))["ann"]["score"]) == 0


def test_a_student_removed_from_the_gradebook_is_graded_again(graded):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{graded / 'gradebook.db'}") as gradebook:
        gradebook.remove_student("ann")
    hand_in(graded, "abe", notebook(A, "release"))
    scores = {name: float(row["score"]) for name, row in table(classroom.grade(A, graded)).items()}
    assert scores == {"abe": 0, "ann": FULL}


def test_a_gradebook_that_was_deleted_is_filled_again(graded):
    (graded / "gradebook.db").unlink()
    hand_in(graded, "abe", perfect(A))
    with pytest.raises(ZeroDivisionError):  # stopped after abe, and before ann, who is in the journal of the old one
        classroom.grade(A, graded, on_done=lambda count, record: 1 / 0)
    assert {float(row["score"]) for row in table(classroom.grade(A, graded)).values()} == {FULL}


def test_a_source_with_another_cell_is_refused_once_somebody_is_graded_and_nothing_is_lost(graded):
    copies = {path: path.read_bytes() for path in (graded / "release").rglob("*") if path.is_file()}
    file = graded / "source" / A / f"{A}.ipynb"
    right = file.read_bytes()
    source = json.loads(right)
    cell = json.loads(json.dumps(named(source)["a2_line_test"]))
    cell["id"], cell["metadata"]["nbgrader"]["grade_id"] = "another", "a2_another_test"
    source["cells"].append(cell)
    file.write_text(json.dumps(source), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ValueError, match="Cannot add or remove cells"):
            classroom.grade(A, graded)
    assert {path: path.read_bytes() for path in (graded / "release").rglob("*") if path.is_file()} == copies
    file.write_bytes(right)
    assert float(table(classroom.grade(A, graded))["ann"]["score"]) == FULL


def test_a_hidden_test_that_was_corrected_grades_all_anew_and_outputs_of_a_look_do_not(graded):
    file = graded / "source" / A / f"{A}.ipynb"
    source = json.loads(file.read_text(encoding="utf-8"))
    stream = {"output_type": "stream", "name": "stdout", "text": ["looked"]}
    next(cell for cell in source["cells"] if cell["cell_type"] == "code")["outputs"] = [stream]
    source["cells"].append(
        {"cell_type": "code", "id": "e", "metadata": {}, "outputs": [], "execution_count": None, "source": []}
    )
    file.write_text(json.dumps(source), encoding="utf-8")
    journal = graded / "grades" / f"{A}.jsonl"
    before = journal.read_bytes()
    classroom.grade(A, graded)
    assert journal.read_bytes() == before
    test = named(source)["a2_line_test"]
    test["source"] = "".join(test["source"]) + "\nassert CORRECTED, 'the corrected test'\n"
    test["metadata"]["nbgrader"]["points"] += 1
    solution = named(source)["a2_line"]
    solution["source"] = "".join(solution["source"]) + "\nCORRECTED = True\n"  # which ann's does not have
    file.write_text(json.dumps(source), encoding="utf-8")
    row = table(classroom.grade(A, graded))["ann"]
    assert [float(row["score"]), float(row["of"])] == [FULL - points(A)["a2_line_test"], FULL + 1]
    assert "a2_line_test: NameError" in row["notes"]


def test_a_slip_in_a_hidden_test_stops_the_grading_before_it_costs_right_answers_their_points(graded):
    file = graded / "source" / A / f"{A}.ipynb"
    source = json.loads(file.read_text(encoding="utf-8"))
    test = named(source)["a2_line_test"]
    test["source"] = "".join(test["source"]) + "\nassert False, 'a slip'\n"
    file.write_text(json.dumps(source), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ValueError, match="own solution loses a2_line_test: AssertionError: a slip; mend source/"):
            classroom.grade(A, graded)


def test_a4s_runs_are_made_again_and_a_forged_one_is_found(tmp_path):
    course = new_course(tmp_path / "course", seconds=200)
    shutil.copy(RUNS, course / "source" / A4)  # the teacher's own
    lines = [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()]
    for student, better in (("ann", 0), ("ben", 0.2)):
        for record in lines:
            record["metrics"]["accuracy"] += better if (record["name"], record["seed"]) == ("mine", 1) else 0
        folder = hand_in(course, student, perfect(A4), A4)
        (folder / "runs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines), encoding="utf-8")
    hand_in(course, "cem", notebook(A4, "release"), A4)
    rows = table(classroom.grade(A4, course, jobs=2))
    assert "runs.jsonl was not handed in" in rows["cem"]["notes"]
    lost = {name for name in points(A4) if float(rows["ben"][name]) == 0}
    assert [float(rows["ann"]["score"]), rows["ann"]["notes"], rows["ann"]["by hand"]] == [11, "", "open"]
    assert lost == {"a4_runs_test"}
    assert "seed 1: the file says" in rows["ben"]["notes"]


def test_without_a_sandbox_marks_and_time_outs_are_the_same_and_no_file_handed_in_runs_by_itself(tmp_path, monkeypatch):
    course = new_course(tmp_path / "course")
    for student, submission in (("ann", perfect(A)), ("ben", HOSTILE["endless_loop"]())):
        folder = hand_in(course, student, submission)
        for name in ("sitecustomize", "usercustomize", "resource", "jupyter_client"):
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", os.environ.get("PYTHONPATH", "")]))
    rows = table(classroom.grade(A, course, protected=False))
    assert {student: float(row["score"]) for student, row in rows.items()} == {"ann": FULL, "ben": FULL - 4}
    assert "a2_line_test: CellTimeoutError: stopped after 10 s" in rows["ben"]["notes"]
    assert not (tmp_path / "ran").exists()
