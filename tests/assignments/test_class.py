"""A class full of attacks and bad luck, graded for real: each gets what it should, and nothing else is touched."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prilora_lite.teaching import grading, sandbox
from prilora_lite.teaching.gradebook import database, register
from tests.assignments.hostile import HOSTILE, A
from tests.assignments.hostile_folders import FOLDERS, NAME, expected_score, hand_in
from tests.assignments.submissions import COURSE, notebook, perfect, points, wrong

try:
    sandbox.require()
    lacks = ""
except ValueError as error:
    lacks = str(error)
pytestmark = pytest.mark.skipif(bool(lacks), reason=lacks)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DUE = "2026-03-05 10:00:00 UTC"
FULL = sum(points(A).values())


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {row["student"].removeprefix("'"): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    course = tmp_path_factory.mktemp("class") / "course"
    shutil.copytree(COURSE, course, ignore=shutil.ignore_patterns("gradebook.db", "submitted", "autograded", "grades"))
    with (course / "nbgrader_config.py").open("a", encoding="utf-8") as config:
        config.write("\nc.ExecutePreprocessor.timeout = 6\nc.LateSubmissionPlugin.penalty_method = 'zero'\n")
    (course / "secret").write_text("teacher-secret", encoding="utf-8")
    (course / "secret").chmod(0o600)
    return course


@pytest.fixture(scope="module")
def graded(course):
    """Student -> row of the table."""
    from nbgrader.api import Gradebook

    for student, when in (("ann", "2026-03-01 10:00:00 UTC"), ("late", "2026-03-09 10:00:00 UTC")):
        put(course, student, perfect(A))
        (course / "submitted" / student / A / "timestamp.txt").write_text(when, encoding="utf-8")
    (course / "submitted" / "linked").symlink_to("ann")
    put(course, os.fsdecode(b"\xff"), perfect(A))
    put(course, "blank", notebook(A, "release"))
    put(course, "wrong", wrong(A, "a2_line", "ranks falling")[0])
    put(course, "not_json", "{")
    put(course, "wrong_name", perfect(A), name=f"{A} (1).ipynb")
    for name in ("first.ipynb", "second.ipynb"):
        put(course, "wrong_names", perfect(A), name=name)
    for student, make in HOSTILE.items():
        put(course, student, make())
    for student in FOLDERS:
        hand_in(course, student)
    register(A, course, known=False)
    with Gradebook(database(course)) as gradebook:
        gradebook.update_or_create_assignment(A, duedate=DUE)
    before = snapshot(course)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(["", os.environ.get("PYTHONPATH", "")]))
        done = []
        path = grading.grade(A, course, jobs=2, on_done=lambda count, record: done.append((count, record["student"])))
    rows = table(path)
    assert sorted((count, as_in_table(student)) for count, student in done) == sorted((len(rows), s) for s in rows)
    assert snapshot(course) == before, "something of the teacher's, or another's hand-in, is not what it was"
    return rows


def as_in_table(student):
    return student.encode("utf-8", errors="backslashreplace").decode()


def put(course, student, submission, name=NAME):
    file = course / "submitted" / student / A / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(submission if isinstance(submission, str) else json.dumps(submission), encoding="utf-8")


def snapshot(course):
    """The teacher's files and what was handed in: contents and rights."""
    files = [course / "secret", *(course / "source").rglob("*"), *(course / "submitted").rglob("*")]
    return {
        str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
        for path in files
    }


@pytest.mark.parametrize("student", ["ann", "warnings"])
def test_a_right_answer_has_all_points(student, graded):
    assert float(graded[student]["score"]) == float(graded[student]["of"]) == FULL
    assert graded[student]["notes"] == ""


def test_the_only_notebook_is_graded_whatever_its_name(graded):
    assert float(graded["wrong_name"]["score"]) == FULL
    assert graded["wrong_name"]["notes"] == f"handed in as {A} (1).ipynb"


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
        ("reads_the_frame", "look at a2_line (cell 6): _getframe"),
        ("uses_the_library", "look at a2_line (cell 6): imports linear_ranks"),
        ("changes_a_module", "look at a2_line (cell 6): changes math.floor"),
        ("calls_out", "look at a2_line (cell 6): socket"),
        ("crash", "the kernel died: the code ends Python, crashes it, or wants too much memory"),
        ("not_json", "a2_rank_schedule.ipynb can't be read: "),
        ("wrong_names", "there is no a2_rank_schedule.ipynb, but first.ipynb, second.ipynb"),
    ],
)
def test_what_was_odd_is_said_in_the_table(student, note, graded):
    assert note in graded[student]["notes"]


@pytest.mark.parametrize("student", ["crash", "not_json", "wrong_names"])
def test_what_can_not_be_graded_has_no_score(student, graded):
    assert graded[student]["status"] == "not graded"
    assert graded[student]["score"] == ""


@pytest.mark.parametrize(
    ("student", "said"),
    [("looks_for_the_solutions", "found 0 files"), ("calls_out", "Network is unreachable|Connection refused")],
)
def test_a_kernel_sees_neither_solutions_nor_gradebook_nor_the_network(student, said, graded, course):
    assert re.search(said, outputs(course, student))


@pytest.mark.parametrize("student", FOLDERS)
def test_each_gets_what_it_should(student, graded):
    row = graded[student]
    assert (float(row["score"]) if row["score"] else None) == expected_score(student), row["notes"]
    assert row["status"] == ("not graded" if FOLDERS[student][1] is None else "graded")


@pytest.mark.parametrize("student", FOLDERS)
def test_the_table_says_what_was_odd_and_why_points_were_lost(student, graded):
    _, lost, note = FOLDERS[student]
    notes = graded[student]["notes"]
    assert re.search(note, notes)
    for name in lost or ():
        assert re.search(rf"{name}: \w+", notes), notes
    assert "\n" not in notes


def test_a_link_in_place_of_a_folder_is_no_hand_in(graded):
    assert graded["linked"]["status"] == "not graded"
    assert "submitted/linked is a link, no folder" in graded["linked"]["notes"]


def test_a_folder_whose_name_is_no_text_stops_nobody(graded):
    assert graded[r"\udcff"]["status"] == "not graded"
    assert "give it another one" in graded[r"\udcff"]["notes"]


def test_a_late_hand_in_has_the_score_that_nbgrader_gives(graded, course):
    theirs = exported(course)
    for student, score in {"ann": FULL, "late": 0}.items():
        assert theirs[student] == float(graded[student]["score"]) == score
    assert float(graded["late"]["late penalty"]) == 14


def test_marks_given_by_hand_count_as_nbgrader_counts_them(graded, course):
    from nbgrader.api import Gradebook

    by_hand = {"a2_line_test": (1.5, None), "a2_cost_test": (None, 2.0)}  # fewer points than the test; some in addition
    try:
        mark(Gradebook, course, by_hand)
        row = table(grading.grade(A, course))["wrong"]
        assert [float(row["a2_line_test"]), float(row["a2_cost_test"])] == [1.5, 5]
        assert float(row["score"]) == exported(course)["wrong"] == FULL - 4 + 1.5 + 2
    finally:
        mark(Gradebook, course, dict.fromkeys(by_hand, (None, None)))
        grading.grade(A, course)


def mark(gradebook, course, by_hand):
    with gradebook(database(course)) as opened:
        for name, (manual, extra) in by_hand.items():
            grade = opened.find_grade(name, A, A, "wrong")
            grade.manual_score, grade.extra_credit = manual, extra
        opened.db.commit()


def test_no_file_of_the_code_is_left_and_no_temporary_one(graded, course):
    left = {path.name for path in (course / "autograded").rglob("*") if not path.is_dir()}
    assert left == {NAME, "timestamp.txt"}
    assert not any(path.is_symlink() for path in (course / "autograded").rglob("*"))
    assert list((course / "grades" / "running").iterdir()) == []


def test_code_reads_no_linked_data(graded, course):
    assert "READ" not in outputs(course, "reads_linked_data")
    assert "teacher-secret" not in outputs(course, "reads_linked_data")


def test_a_field_that_a_spreadsheet_would_compute_is_text(graded, course):
    assert graded["=1+1"]["student"] == "'=1+1"
    text = (course / "grades" / f"{A}.csv").read_text(encoding="utf-8")
    assert not re.search(r'(^|[;,"\n])[=+@]', text)


def test_started_again_it_grades_no_one_again_and_says_the_same(graded, course):
    journal = course / "grades" / f"{A}.jsonl"
    before = journal.read_bytes()
    assert table(grading.grade(A, course, jobs=1)) == graded
    assert journal.read_bytes() == before


@pytest.fixture(scope="module")
def feedback(graded, course):
    """The pages of all who handed in or left more than a notebook, or have an odd name, and of two of the others."""
    plain = {student for student in graded if student.isidentifier() and holds_a_notebook_alone(course, student)}
    # A page takes half a second
    left_out = ",".join(student for student in plain if not re.match("leaves_|ann$|page$", student))
    nbgrader(course, "generate_feedback", A, f"--CourseDirectory.student_id_exclude={left_out}")
    return course / "feedback"


def holds_a_notebook_alone(course, student):
    files = list((course / "submitted" / student).rglob("*"))
    return [path.name for path in files] == [A, NAME] and not any(path.is_symlink() for path in files)


def test_feedback_holds_the_page_alone(feedback):
    files = [path for path in feedback.rglob("*") if not path.is_dir()]
    named = [
        path for path in files if "[" not in str(path)
    ]  # there nbgrader finds the notebook itself to be a data file
    assert {path.name for path in named} == {f"{A}.html", "timestamp.txt"}
    assert {"ann", "page", "leaves_a_link", "leaves_a_pipe"} < {path.name for path in feedback.iterdir()}
    assert not any(path.is_symlink() for path in files)


def test_what_is_harmless_stays_on_the_page(feedback):
    page = (feedback / "page" / A / f"{A}.html").read_text(encoding="utf-8")
    assert "<td>a cell</td>" in page
    assert "x &lt; y" in page
    assert "<td onclick" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_in_a_real_browser_nothing_of_a_learners_runs(feedback, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    page = feedback / "page" / A / f"{A}.html"
    live = tmp_path / "live.html"  # that the browser would run it, if it were there
    live.write_text("<title>a</title><img src=x onerror=\"document.title = 'taken'\">", encoding="utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.route(re.compile("^https?:"), lambda route: route.abort())
        tab.goto(live.as_uri())
        tab.wait_for_function("document.title == 'taken'")
        asked.clear()
        tab.goto(page.as_uri())
        for link in tab.locator("a:visible").filter(has_text=re.compile("click|^x$")).all():
            link.click(timeout=5_000)
        assert tab.title() == A
        assert tab.evaluate("document.querySelectorAll('iframe, svg, object, embed, form').length") == 0
        names = tab.evaluate("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
        assert not [name for name in names if name.startswith("on")]
        browser.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "https://cdnjs.cloudflare.com/"))]


def exported(course):
    """Student -> score as nbgrader gives it."""
    nbgrader(course, "export", "--to", "all.csv")
    with (course / "all.csv").open(encoding="utf-8") as file:
        return {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}


def outputs(course, student):
    cells = json.loads((course / "autograded" / student / A / NAME).read_text(encoding="utf-8"))["cells"]
    return json.dumps([cell.get("outputs") for cell in cells])


def nbgrader(course, *arguments):
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_there_from_an_earlier_version_is_replaced_not_followed(tmp_path):
    course = tmp_path / "course"
    shutil.copytree(COURSE, course, ignore=shutil.ignore_patterns("gradebook.db", "submitted", "autograded", "grades"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / NAME).write_text("the teacher's", encoding="utf-8")
    (course / "submitted" / "ann" / A).mkdir(parents=True)
    (course / "submitted" / "ann" / A / NAME).write_text(json.dumps(perfect(A)), encoding="utf-8")
    (course / "autograded" / "ann").mkdir(parents=True)
    (course / "autograded" / "ann" / A).symlink_to(elsewhere)
    rows = table(grading.grade(A, course))
    assert rows["ann"]["status"] == "graded"
    assert (elsewhere / NAME).read_text(encoding="utf-8") == "the teacher's"
    assert not Path(course / "autograded" / "ann" / A).is_symlink()
