"""The course: notebooks fresh and well formed, copies without answers, a changed rule that changes answers."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from prilora_lite.cli import _parser, main
from prilora_lite.teaching import grading as classroom
from prilora_lite.teaching import notebook_files as tool
from prilora_lite.teaching import sandbox
from prilora_lite.teaching.gradebook import config_of
from tests.assignments import submissions
from tests.assignments.submissions import ASSIGNMENTS, COURSE, named, notebook, perfect, points, solutions, text
from tests.environments import call, fresh

every = pytest.mark.parametrize("assignment", ASSIGNMENTS)
NbGraderApp = pytest.importorskip("nbgrader.apps", reason="needs nbgrader: pip install '.[classroom]'").NbGraderApp


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Folder of learners' copies, made now, where the teacher has run the sources."""
    folder, course = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("course") / "course"
    shutil.copytree(COURSE, course)
    for assignment in ASSIGNMENTS:
        (course / "source" / assignment / "runs.jsonl").write_text("the teacher's\n", encoding="utf-8")
    assert main(["assignments", "--release", str(folder), "--course", str(course)]) == 0
    return folder


def test_the_course_has_the_assignments_that_are_tested():
    assert classroom.assignments(COURSE) == list(ASSIGNMENTS)


@every
def test_the_committed_copy_is_that_of_the_source(assignment, released):
    name = f"{assignment}/{assignment}.ipynb"
    assert (COURSE / "release" / name).read_bytes() == (released / name).read_bytes()


@pytest.mark.parametrize("place", ["source", "source/new", "submitted"])
def test_no_copies_go_where_the_course_keeps_its_own(place, tmp_path, capsys):
    course = Path(shutil.copytree(COURSE, tmp_path / "course"))
    files = {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    assert main(["assignments", "--release", str(course / place), "--course", str(course)]) == 2
    assert "is where the course keeps its own: give another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in course.rglob("*") if path.is_file()} == files


def test_a_copy_in_which_somebody_has_written_stays_and_one_of_an_older_version_does_not(released, tmp_path, capsys):
    folder = Path(shutil.copytree(released, tmp_path / "copies"))
    name = ASSIGNMENTS[1]
    file = folder / name / f"{name}.ipynb"
    older = json.loads(file.read_text(encoding="utf-8"))
    older["cells"][0]["source"] = "An older text"
    for written, status in ((older, 0), (perfect(name), 2)):
        file.write_text(json.dumps(written), encoding="utf-8")
        before = file.read_bytes()
        assert main(["assignments", "--release", str(folder)]) == status
        assert (file.read_bytes() == before) == (status == 2)
    assert "may hold somebody's answers" in capsys.readouterr().err


def test_learners_get_nothing_but_the_notebooks(released):
    files = {str(path.relative_to(released)) for path in released.rglob("*") if path.is_file()}
    assert files == {str(Path(name) / f"{name}.ipynb") for name in ASSIGNMENTS}


@every
def test_a_copy_equals_its_source_outside_solutions_hidden_tests_and_marking(assignment):
    source, copied = notebook(assignment)["cells"], notebook(assignment, "release")["cells"]
    assert len(source) == len(copied)
    for before, after in zip(map(text, source), map(text, copied), strict=True):
        kept = re.sub(r"[ ]*### BEGIN SOLUTION.*?### END SOLUTION\n?", "", before, flags=re.S)
        kept = re.sub(r"\n### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS", "", kept, flags=re.S)
        kept = re.sub(r"=== BEGIN MARK SCHEME ===.*?=== END MARK SCHEME ===\n?", "", kept, flags=re.S)
        stub = r'[ ]*raise NotImplementedError\("not written yet"\)\n?'
        assert re.sub(stub, "", after).split() == kept.split()


@every
def test_a_copy_holds_no_answer_and_no_output(assignment):
    written = (COURSE / "release" / assignment / f"{assignment}.ipynb").read_text(encoding="utf-8")
    for mark in ("BEGIN SOLUTION", "HIDDEN TESTS", "MARK SCHEME"):
        assert mark not in written
    assert all(not cell.get("outputs") for cell in notebook(assignment, "release")["cells"])


@every
def test_a_copy_needs_no_grader(assignment):
    for cell in notebook(assignment, "release")["cells"]:
        assert cell["cell_type"] != "code" or "nbgrader" not in text(cell)


@every
def test_it_is_fresh_short_and_numbered_from_top_to_bottom(assignment):
    path = COURSE / "source" / assignment / f"{assignment}.ipynb"
    assert list(tool.stale(path)) == []
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        shown = re.sub(r"### BEGIN HIDDEN TESTS.*", "", cell.source, flags=re.S)
        assert len(shown.strip().split("\n")) <= 25, cell.source


@every
def test_points_add_up_and_every_task_has_difficulty_minutes_and_a_hint(assignment):
    cells = notebook(assignment)["cells"]
    said = "\n".join(text(cell) for cell in cells if cell["cell_type"] == "markdown")
    by_machine = re.findall(r"\*(\d+) points, difficulty \d of 3, \d+ minutes\.\*", said)
    by_hand = re.findall(r"\*(\d+) points, \d+ minutes\. Graded by a person\.\*", said)
    about = [cell["metadata"].get("nbgrader", {}) for cell in cells]
    given = {kind: sum(facts.get("points", 0) for facts in about if facts.get(kind)) for kind in ("grade", "task")}
    assert given == {"grade": sum(map(int, by_machine)), "task": sum(map(int, by_hand))}
    assert f"{sum(given.values())} points" in said.split("\n")[2]
    assert len(re.findall("<summary>Hint", said)) >= len(by_machine)
    assert said.count("BEGIN MARK SCHEME") == len(by_hand)


@every
def test_every_function_to_write_has_types_and_a_docstring(assignment):
    for name, code in solutions(assignment).items():
        for node in ast.parse(code).body:
            if isinstance(node, ast.FunctionDef):
                assert node.returns is not None, name
                assert all(argument.annotation is not None for argument in node.args.args), name
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert ast.get_docstring(node), name


@every
def test_every_test_has_a_visible_and_a_hidden_part(assignment):
    for name in points(assignment):
        visible, hidden = text(named(notebook(assignment))[name]).split("### BEGIN HIDDEN TESTS")
        assert "assert " in visible, name
        assert "assert " in hidden, name


# The rule that a teacher changes from year to year: where it is set, its other value, and the answer that it asks for
RULES = {
    "a1_lora_layer": (
        "a1_given", "alpha / r", "alpha / sqrt(r)", "a1_layer", ("alpha / rank", "alpha / math.sqrt(rank)"),
        {"a1_scaling_test"},
    ),
    "a2_rank_schedule": (
        "a2_given", "half to even", "half up", "a2_line", ("round(first", "int(0.5 + first"), {"a2_line_test"},
    ),
    "a3_pruner": (
        "a3_given", "row", "matrix", "a3_survivors",
        ("    k = int(ratio * scores.shape[1] + 1e-9)",
         "    scores = scores.reshape(1, -1)\n    k = int(ratio * scores.shape[1] + 1e-9)"),
        {"a3_survivors_test"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("assignment", RULES)
def test_with_another_rule_last_years_answers_fail_and_this_years_pass(assignment, monkeypatch):
    place, old, new, answer, (before, after), lost = RULES[assignment]
    changed = notebook(assignment)
    cell = named(changed)[place]
    assert f'= "{old}"' in text(cell)
    cell["source"] = text(cell).replace(f'= "{old}"', f'= "{new}"')
    last_years = submissions.perfect(assignment)
    answers = solutions(assignment)
    answers[answer] = answers[answer].replace(before, after)
    if assignment == "a3_pruner":
        answers[answer] = answers[answer].replace("scatter(1, least, False)", "scatter(1, least, False).view(A.shape)")
    this_years = submissions.answered(assignment, answers)
    original = submissions.notebook
    monkeypatch.setattr(
        submissions, "notebook", lambda a, kind="source": changed if kind == "source" else original(a, kind)
    )
    assert submissions.failed(assignment, last_years) == lost
    assert submissions.failed(assignment, this_years) == set()


def test_a_copy_runs_where_there_is_no_grader(tmp_path):
    """The package and what Colab has: the set-up cell, an answer, and its visible test."""
    python, site = fresh(tmp_path / "environment")
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--no-build-isolation",
         COURSE.parent.parent, cwd=tmp_path)  # fmt: skip
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['nbgrader'] = None\n", encoding="utf-8")
    copied = submissions.perfect("a2_rank_schedule")["cells"]
    code = "\n".join(text(cell) for cell in copied if cell["cell_type"] == "code")
    assert "prilora-lite is here" in call(python, "-c", code, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["assignments", "--release", "x", "--course", "nowhere"], "nowhere is no course: expected a folder with"),
        (["grade", "a1_lora", "--course", str(COURSE)], "did you mean 'a1_lora_layer'"),
        (
            ["grade", "a1_lora_layer", "--course", str(COURSE), "--jobs", "0"],
            "--jobs 0: expected a number of at least 1",
        ),
    ],
)
def test_a_wrong_argument_is_answered_in_a_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_class_without_submissions_is_told_where_they_belong(tmp_path, capsys):
    (tmp_path / "source" / "a9").mkdir(parents=True)
    (tmp_path / "source" / "a9" / "a9.ipynb").write_text(json.dumps(notebook("a2_rank_schedule")), encoding="utf-8")
    (tmp_path / "nbgrader_config.py").touch()
    assert main(["grade", "a9", "--course", str(tmp_path)]) == 2
    assert "submitted/STUDENT/a9/a9.ipynb" in capsys.readouterr().err


def test_a_course_in_a_folder_that_nbgrader_takes_for_a_pattern_is_told_so(tmp_path, capsys):
    assert main(["assignments", "--release", str(tmp_path), "--course", str(tmp_path / "course [2026]")]) == 2
    assert "in a path for a pattern: move or rename" in capsys.readouterr().err


def test_the_name_of_a_folder_gives_a_terminal_no_orders(monkeypatch, tmp_path, capsys):
    def grade(*_, on_done, **__):
        on_done(1, {"student": "\x1b[31m\udcff", "status": "not graded", "notes": ["why"]})
        return tmp_path

    monkeypatch.setattr(classroom, "grade", grade)
    assert main(["grade", "a9", "--course", str(tmp_path)]) == 0
    assert r"'\x1b[31m\udcff': not graded: why" in capsys.readouterr().err


def test_without_a_sandbox_it_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        ValueError, match=r"bubblewrap is not installed .* container or a throw-away account.*--unprotected"
    ):
        sandbox.require()


def test_the_guides_commands_and_links_are_understood():
    guide = (COURSE / "README.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", guide, flags=re.S)).replace("\\\n", " ").split("\n")
    found = [shlex.split(line) for line in lines]
    ours = [words[words.index("prilora-lite") + 1 :] for words in found if "prilora-lite" in words]
    assert {words[0] for words in ours} == {"assignments", "grade", "notebooks"}
    for words in ours:
        assert _parser().parse_args(words).run
    for command in re.findall(r"nbgrader (\w+_\w+|export)", guide):
        assert command in NbGraderApp.subcommands, command
    for target in re.findall(r"\]\(([^)#]+)\)", guide):
        assert target.startswith("https://") or (COURSE / target).exists(), target


@pytest.mark.parametrize(
    ("path", "student", "file"),
    [
        ("Jane Doe_12_assignsubmission_file_/a.ipynb", "Jane Doe", "a.ipynb"),
        ("Jane Doe_12_assignsubmission_file/runs.jsonl", "Jane Doe", "runs.jsonl"),
        ("Jane_Doe_12_assignsubmission_file_a (1).ipynb", "Jane_Doe", "a (1).ipynb"),
    ],
)
def test_files_of_an_archive_from_moodle_are_told_apart_by_learner(path, student, file):
    from nbgrader.plugins import FileNameCollectorPlugin

    collector = FileNameCollectorPlugin(config=config_of(COURSE))
    assert collector.collect(f"/downloaded/extracted/{path}") == {"student_id": student, "file_id": file}


def test_the_guides_commands_for_handing_out_write_into_two_folders_that_git_ignores():
    guide = (COURSE / "README.md").read_text(encoding="utf-8")
    folders = {re.search(rf"{command} (\w+)", guide)[1] for command in ("--release", "handout assignments --output")}
    assert folders == {"copies", "handout"}
    ignored = (COURSE.parent.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/copies/", "/handout*"} <= set(ignored)


def test_the_guides_rules_are_those_of_the_sources():
    guide = (COURSE / "README.md").read_text(encoding="utf-8")
    for assignment, (place, old, new, *_) in RULES.items():
        (name,) = re.findall(rf'(\w+) = "{re.escape(old)}"', text(named(notebook(assignment))[place]))
        assert f'| {assignment[:2].upper()} | `{name}` | `"{old}"` | `"{new}"` |' in guide


def test_nbgraders_own_command_grades_the_same(tmp_path):
    """The documented command, without our own, on a course of one."""
    course = tmp_path / "course"
    call(sys.executable, "-c", f"import shutil; shutil.copytree({str(COURSE)!r}, {str(course)!r})", cwd=tmp_path)
    file = course / "submitted" / "ann" / "a2_rank_schedule" / "a2_rank_schedule.ipynb"
    file.parent.mkdir(parents=True)
    (course / "source" / "a2_rank_schedule" / "runs.jsonl").write_text("the teacher's\n", encoding="utf-8")
    submission, lost = submissions.wrong("a2_rank_schedule", "a2_cost", "A alone")
    file.write_text(json.dumps(submission), encoding="utf-8")
    for command in (["generate_assignment", "--force"], ["autograde"]):
        run = [sys.executable, "-m", "nbgrader", *command, "a2_rank_schedule"]
        done = subprocess.run(run, cwd=course, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in (course / "release" / "a2_rank_schedule").iterdir()] == ["a2_rank_schedule.ipynb"]
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        grades = gradebook.find_submission("a2_rank_schedule", "ann").notebooks[0].grades
        scores = {grade.name: grade.score for grade in grades}
    assert scores == points("a2_rank_schedule") | dict.fromkeys(lost, 0)


def test_what_a_file_browser_leaves_where_submissions_run_stops_no_grading(tmp_path):
    running = tmp_path / "grades" / "running"
    running.mkdir(parents=True)
    (running / ".DS_Store").touch()
    with classroom._room(tmp_path) as room:
        assert Path(room).parent == running
