"""What becomes of marks when something else is handed in, or the course changes. No notebook is run for it."""

import json
import shutil

import pytest

Gradebook = pytest.importorskip("nbgrader.api", reason="needs nbgrader: pip install '.[classroom]'").Gradebook

from prilora_lite.teaching import autograde, grading, handin  # noqa: E402
from prilora_lite.teaching.gradebook import database  # noqa: E402
from tests.assignments.submissions import notebook, perfect  # noqa: E402
from tests.assignments.test_grade import A4, hand_in, new_course, table  # noqa: E402


def graded(course):
    """The row of ann."""
    return table(grading.grade(A4, course, protected=False))["ann"]


def gradebook(course):
    return Gradebook(database(course))


@pytest.fixture(scope="module", autouse=True)
def nothing_is_run():
    """In place of grading, the gradebook gets an entry."""

    def enter(student, assignment, course, *_, **__):
        with gradebook(course) as opened:
            opened.update_or_create_student(student)
            opened.update_or_create_submission(assignment, student)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autograde, "autograde", enter)
        patch.setattr(autograde, "run_source", lambda *_, **__: [])
        yield


@pytest.fixture(scope="module")
def marked_once(tmp_path_factory):
    course = new_course(tmp_path_factory.mktemp("marked") / "course")
    hand_in(course, "ann", perfect(A4), A4)
    assert graded(course)["by hand"] == "open"
    with gradebook(course) as opened:
        for grade in opened.find_submission(A4, "ann").notebooks[0].grades:
            grade.needs_manual_grade = False
            grade.manual_score = 1.0 if "task" in grade.cell.type.lower() else None
        opened.db.commit()
    return course


@pytest.fixture
def course(marked_once, tmp_path):
    """Ann's texts of A4 have been marked by hand."""
    return shutil.copytree(marked_once, tmp_path / "course")


def test_marks_given_by_hand_are_taken_up(course):
    row = graded(course)
    assert [row["by hand"], float(row["score"])] == ["", 3]


def test_marks_given_by_hand_stand_as_open_once_something_else_is_handed_in(course):
    hand_in(course, "ann", notebook(A4, "release"), A4)
    row = graded(course)
    assert [row["by hand"], float(row["score"])] == ["open", 3]


def test_marks_given_by_hand_stay_closed_when_the_source_alone_has_changed(course):
    file = course / "source" / A4 / f"{A4}.ipynb"
    changed = file.read_text(encoding="utf-8").replace("### BEGIN HIDDEN", "# another\\n### BEGIN HIDDEN", 1)
    file.write_text(changed, encoding="utf-8")
    before = (course / "grades" / f"{A4}.jsonl").read_bytes()
    assert graded(course)["by hand"] == ""
    assert (course / "grades" / f"{A4}.jsonl").read_bytes() != before, "it was not graded again"


def test_a_due_date_that_is_set_afterwards_grades_all_anew(course):
    before = (course / "grades" / f"{A4}.jsonl").read_bytes()
    with gradebook(course) as opened:
        opened.update_or_create_assignment(A4, duedate="2026-02-28 23:59")
    graded(course)
    assert (course / "grades" / f"{A4}.jsonl").read_bytes() != before


def test_a_changed_setting_of_nbgraders_grades_all_anew(course):
    before = (course / "grades" / f"{A4}.jsonl").read_bytes()
    with (course / "nbgrader_config.py").open("a") as config:
        config.write("c.LateSubmissionPlugin.penalty_method = 'zero'\n")
    graded(course)
    assert (course / "grades" / f"{A4}.jsonl").read_bytes() != before


def test_a_due_date_may_be_set_in_a_gradebook_that_knows_nothing_else(course):
    (course / "gradebook.db").unlink()
    with gradebook(course) as opened:
        opened.update_or_create_assignment(A4, duedate="2026-02-28 23:59")
    assert graded(course)["status"] == "graded"


def test_a_corrected_sentence_between_the_tasks_grades_nobody_anew(course):
    before = (course / "grades" / f"{A4}.jsonl").read_bytes()
    file = course / "source" / A4 / f"{A4}.ipynb"
    source = json.loads(file.read_text(encoding="utf-8"))
    text = next(cell for cell in source["cells"] if "nbgrader" not in cell["metadata"])
    assert text["cell_type"] == "markdown"
    text["source"] = "Another sentence."
    file.write_text(json.dumps(source), encoding="utf-8")
    graded(course)
    assert (course / "grades" / f"{A4}.jsonl").read_bytes() == before


def refuse(*_, **__):
    raise handin.Refused("why")


def test_what_can_not_be_graded_leaves_no_marks_of_an_earlier_version(course, monkeypatch):
    monkeypatch.setattr(autograde, "autograde", refuse)
    hand_in(course, "ann", notebook(A4, "release"), A4)
    assert graded(course)["status"] == "not graded"
    with gradebook(course) as opened:
        assert opened.assignment_submissions(A4) == []


def test_what_can_not_be_graded_again_keeps_the_marks_that_it_had(course, monkeypatch):
    """The same hand-in: it is the machine, or the source, that went wrong."""
    monkeypatch.setattr(autograde, "autograde", refuse)
    with (course / "source" / A4 / "data.txt").open("w") as file:
        file.write("new")
    assert graded(course)["status"] == "not graded"
    with gradebook(course) as opened:
        assert opened.find_submission(A4, "ann").score == 3


def test_what_lies_in_a_slightly_wrong_place_has_a_row_of_its_own(course):
    (course / "submitted" / "lea.zip").touch()
    done = []
    rows = table(grading.grade(A4, course, protected=False, on_done=lambda count, record: done.append(count)))
    assert [rows["lea.zip"]["status"], rows["ann"]["status"]] == ["not graded", "graded"]
    assert "is an archive: unpack it" in rows["lea.zip"]["notes"]
    assert done == [2, 2]


@pytest.mark.parametrize("error", [RuntimeError("the kernel died"), SyntaxError("invalid syntax")])
def test_a_source_that_can_not_be_run_stops_the_grading_with_a_reason(error, course, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(autograde, "run_source", fail)
    (course / "source" / A4 / "data.txt").touch()
    with pytest.raises(ValueError, match=f"own solution can't be run: {error}; mend source/{A4}"):
        graded(course)
