"""The assignments in class: learners' copies, and a whole class graded side by side. It needs the extra ``classroom``.

nbgrader does the work; here is what its commands can't do: grade several submissions at a time, each in a sandbox, go
on after a stop, and say in one line what was odd about each and why points were lost.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib

from prilora_lite.shared.errors import unknown
from prilora_lite.shared.files import write_whole
from prilora_lite.shared.records import append_record, read_records
from prilora_lite.shared.workers import in_worker
from prilora_lite.teaching import handin, sandbox
from prilora_lite.teaching.gradebook import config_of, database, marks, part_with_earlier_marks, register
from prilora_lite.teaching.notebook_files import check_no_answers

PATTERN = "[]*?{}"
_RUNS = {"runs.jsonl"}  # which A4's notebook writes
FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")  # how a field begins that a spreadsheet would compute


def release(folder: Path, course: Path) -> list[Path]:
    """Write the learners' copies of all assignments: no solutions, no hidden tests, no marking schemes.

    Args:
        folder: where to; one folder for each assignment.
        course: the folder with ``nbgrader_config.py`` and ``source``.

    Raises:
        ValueError: the course lacks them, or nbgrader can't make a copy; it says why itself. Or the folder holds the
            course's sources or hand-ins, or notebooks in which somebody has written; nothing is written then.
        OSError: a copy can't be written; older ones are as they were.
    """
    from nbgrader.converters import GenerateAssignment
    from nbgrader.converters.base import NbGraderException
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.preprocessors import SaveCells  # into a gradebook, which a release has no need of

    names = assignments(course)
    for kept in (course / "source", course / "submitted"):
        if folder.resolve().is_relative_to(kept.resolve()):
            raise ValueError(f"{folder} is where the course keeps its own: give another folder, such as copies")
    config = config_of(course)
    config.CourseDirectory.ignore = [*CourseDirectory().ignore, *_RUNS]  # those of the teacher
    with tempfile.TemporaryDirectory(prefix="prilora-") as made:  # nbgrader deletes what it is to write, then writes
        config.CourseDirectory.release_directory = str(Path(made).resolve())
        for name in names:
            directory = CourseDirectory(config=config, assignment_id=name)
            converter = GenerateAssignment(coursedir=directory, config=config, no_database=True)
            converter.preprocessors = [step for step in converter.preprocessors if step is not SaveCells]
            try:
                converter.start()
            except NbGraderException as error:
                raise ValueError(f"nbgrader could not make the learners' copy of {name}: {error}") from error
        copies = {path: folder / path.relative_to(made) for path in sorted(Path(made).rglob("*")) if path.is_file()}
        check_no_answers(copies)
        for copy, place in copies.items():
            write_whole(place, copy.read_bytes())
    return [folder / name / f"{name}.ipynb" for name in names]


def assignments(course: Path) -> list[str]:
    """Names of a course's assignments.

    Raises:
        ValueError: the folder is no course, or nbgrader can't work there.
    """
    place = str(course.resolve())
    if set(PATTERN) & set(place):
        raise ValueError(f"nbgrader takes {' '.join(PATTERN)} in a path for a pattern: move or rename {place}")
    names = sorted(path.parent.name for path in (course / "source").glob("*/*.ipynb"))
    if not names or not (course / "nbgrader_config.py").is_file():
        raise ValueError(f"{course} is no course: expected a folder with nbgrader_config.py and source/NAME/NAME.ipynb")
    return list(dict.fromkeys(names))


def grade(
    assignment: str,
    course: Path,
    *,
    jobs: int = 1,
    protected: bool = True,
    on_done: Callable[[int, dict[str, Any]], None] | None = None,
) -> Path:
    """Autograde every submission that is new or changed, and write the table of the class.

    Each finished submission is one line in ``grades/ASSIGNMENT.jsonl``: stopped and started again, the others follow.
    What can't be graded gets a line that says why, and the rest go on.

    Args:
        assignment: its name.
        course: the folder with ``nbgrader_config.py``, ``source`` and ``submitted/STUDENT/ASSIGNMENT``.
        jobs: submissions at a time.
        protected: run each notebook in a sandbox (see :mod:`~.sandbox`); False where all of this runs in one already.
        on_done: called with the number of submissions, and the record of each when it is done, those of earlier too.

    Returns:
        The table, ``grades/ASSIGNMENT.csv``.

    Raises:
        ValueError: no such assignment, no submissions, no sandbox on this machine, or a source whose own solution
            fails a test.
    """
    course = course.resolve()
    if assignment not in assignments(course):
        raise unknown("assignment", assignment, assignments(course))
    submitted = course / "submitted"
    found = os.listdir(submitted) if submitted.is_dir() else []
    students = sorted(name for name in found if os.path.lexists(submitted / name / assignment))
    astray = _astray(submitted, set(found) - set(students), assignment, assignments(course))
    if not students and not astray:
        raise ValueError(
            f"there are no submissions: expected {course}/submitted/STUDENT/{assignment}/{assignment}.ipynb"
        )
    if protected:
        sandbox.require()
    options = {"protected": protected, "shown": sandbox.python_path(course)}
    journal = course / "grades" / f"{assignment}.jsonl"
    journal.parent.mkdir(exist_ok=True)
    rules = _enter(assignment, course, journal, options)
    written = read_records(journal, ("student", "status", "notes", "seconds"))
    keys = {student: [student, _digest(submitted / student / assignment), rules] for student in students}
    count, report = len(students) + len(astray), on_done or (lambda count, record: None)
    latest = {r["student"]: r for r in written}  # its marks are in the gradebook, whatever was graded before it
    marked = {r["student"]: r["key"][1] for r in written if r["status"] == "graded"}  # the version that marks are of
    finished = {student: r for student, r in latest.items() if r["key"][:3] == keys.get(student)}
    for student in _lost(finished, assignment, course):  # to be graded again
        del finished[student]
        marked.pop(student, None)  # so marks that a person gave, if there are any, are opened for a second look
    for record in [*finished.values(), *astray]:
        report(count, record)
    missing = [student for student in students if student not in finished]
    for student in set(missing) & latest.keys():  # if this stops half-way, its marks are of neither version
        begun = {"key": [student, "begun", rules, len(written)], "student": student}
        append_record(journal, begun | {"status": "begun", "notes": [], "seconds": 0})
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch="n_jobs")
    calls = ((_grade, os.getpid(), student, assignment, course, options) for student in missing)
    for record in parallel(joblib.delayed(in_worker)(*call) for call in calls):
        student = record["student"]
        of = [*keys[student], len(written)]  # who hands in the first version again
        if record.pop("machine"):
            of[1] = "the machine"  # so it is graded next time, and marks stay until then
        elif marked.get(student) != keys[student][1]:
            part_with_earlier_marks(assignment, course, record)
        if record["status"] == "graded":
            record["marks"] = marks(assignment, course, [student]).get(student)
        finished[student] = {"key": of, **record}
        append_record(journal, finished[student])
        report(count, record)
    records = [*finished.values(), *astray]
    return _write_table(assignment, course, sorted(records, key=lambda record: record["student"]))


def _astray(submitted: Path, names: set[str], assignment: str, others: list[str]) -> list[dict[str, Any]]:
    """Records of what seems to be handed in, but lies where it can't be graded."""
    reasons = {name: handin.astray(submitted / name, assignment, others) for name in sorted(names)}
    return [
        {"student": name, "status": "not graded", "notes": [reason], "seconds": 0}
        for name, reason in reasons.items()
        if reason
    ]


def _enter(assignment: str, course: Path, journal: Path, options: dict[str, Any]) -> str:
    """Let the gradebook know the source as it is, once its own solution has passed; a number for all of the rules."""
    source, registered = _digest_of_source(course / "source" / assignment), journal.with_suffix(".source")
    known = registered.is_file() and registered.read_text(encoding="utf-8") == source
    if not known:
        registered.unlink(missing_ok=True)  # until the gradebook has what this file says
        _check_source(assignment, course, options)
    if not register(assignment, course, known=known):
        journal.unlink(missing_ok=True)  # of a gradebook that is gone
    write_whole(registered, source.encode())
    return _digest_of_rules(source, assignment, course)


def _check_source(assignment: str, course: Path, options: dict[str, Any]) -> None:
    """Stop where a test fails the course's own solution: it would take points from every right answer."""
    from prilora_lite.teaching import autograde

    mend = f"mend source/{assignment}/{assignment}.ipynb"
    with _room(course) as room:
        try:
            reasons = autograde.run_source(assignment, course, config_of(course), Path(room), **options)
        except (RuntimeError, SyntaxError) as error:
            raise ValueError(f"the course's own solution can't be run: {error}; {mend}") from error
    if reasons:
        raise ValueError(f"the course's own solution loses {reasons[0]}; {mend}")


def _grade(student: str, assignment: str, course: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Grade one submission; its record, whatever happened."""
    from sqlalchemy.exc import OperationalError

    from prilora_lite.teaching.autograde import autograde

    started = time.time()
    warnings.filterwarnings("ignore", module="nbformat|nbgrader")  # of cells without an id, and of its own queries
    notes: list[str] = []
    status, machine = "graded", False
    try:
        if student != student.strip() or not student.isprintable() or student.startswith("."):
            raise handin.Refused("nbgrader can't work with such a name of a folder: give it another one")
        if "[" in student:
            notes.append("nbgrader makes no feedback for a folder with [ in its name")
        with _room(course) as room:
            autograde(student, assignment, course, config_of(course), Path(room), notes=notes, **options)
    except handin.Refused as error:
        status, notes = "not graded", [str(error), *notes]
    except Exception as error:  # whatever it is, the rest of the class goes on
        machine = isinstance(error, OSError | MemoryError | OperationalError)  # a full disk, a locked gradebook
        reason = str(error) if type(error) is RuntimeError else f"{type(error).__name__}: {error}"
        again = ["that may be a fault of the machine: the same command tries again"] if machine else []
        status, notes = "not graded", [handin.plain(reason), *again, *notes]
    notes = list(dict.fromkeys(notes))
    seconds = round(time.time() - started, 1)
    return {"student": student, "status": status, "notes": notes, "seconds": seconds, "machine": machine}


def _lost(finished: dict[str, dict[str, Any]], assignment: str, course: Path) -> list[str]:
    """Those who were graded, but whose marks are gone or others: someone removed them, or put a backup back."""
    graded = {student: record for student, record in finished.items() if record["status"] == "graded"}
    found = marks(assignment, course, graded)
    # An older version wrote no marks into its journal
    return [s for s, record in graded.items() if s not in found or found[s] != record.get("marks", found[s])]


def _room(course: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder; those of processes that were killed go."""
    import psutil

    place = course / "grades" / "running"
    place.mkdir(exist_ok=True)
    for old in place.glob("[0-9]*-*"):  # and nothing that a file browser puts there
        if not psutil.pid_exists(int(old.name.split("-")[0])):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=place)


def _digest(folder: Path) -> str:
    try:
        return handin.digest(folder)
    except OSError as error:
        return f"can't be read: {error.errno}"


def _digest_of_source(folder: Path) -> str:
    """A number for what grades: code, marked texts and other files, but not what a look at them leaves behind."""
    found, left_out = hashlib.sha256(), handin.LEFT_OUT | _RUNS
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = path.relative_to(folder), path.read_bytes()
        if not left_out.isdisjoint(name.parts):
            continue
        if path.suffix == ".ipynb":
            cells = [(c["cell_type"], "".join(c["source"]), c["metadata"]) for c in json.loads(content)["cells"]]
            cells = [(kind, text, about.get("nbgrader")) for kind, text, about in cells]
            cells = [cell for cell in cells if cell[2] or (cell[0] == "code" and cell[1].strip())]
            content = json.dumps(cells).encode()
        found.update(f"{name}\n{len(content)}\n".encode(errors="surrogateescape") + content)
    return found.hexdigest()


def _digest_of_rules(source: str, assignment: str, course: Path) -> str:
    """A number for all that marks follow from beside the hand-in: the source, nbgrader's settings, the due date."""
    from nbgrader.api import Gradebook

    with Gradebook(database(course)) as gradebook:
        due = gradebook.find_assignment(assignment).duedate
    settings = (course / "nbgrader_config.py").read_bytes()
    return hashlib.sha256(f"{source}\n{due}\n".encode() + settings).hexdigest()


def _write_table(assignment: str, course: Path, records: list[dict[str, Any]]) -> Path:
    """One row for each student: scores by task from the gradebook, status and notes."""
    from nbgrader.api import Gradebook

    rows, tasks = [], []
    with Gradebook(database(course)) as gradebook:
        notebook = gradebook.find_assignment(assignment).notebooks[0]
        tasks = [cell.name for cell in [*notebook.grade_cells, *notebook.task_cells]]
        for record in records:
            row = {name: record[name] for name in ("student", "status", "seconds")}
            row["notes"] = "; ".join(record["notes"])
            if record["status"] == "graded":
                submission = gradebook.find_submission(assignment, record["student"])
                penalty = submission.late_submission_penalty or 0.0
                row |= {"score": round(max(0.0, submission.score - penalty), 2), "of": submission.max_score}
                row["late penalty"] = round(penalty, 2) or ""
                row["by hand"] = "open" if submission.needs_manual_grade else ""
                row |= {grade.name: grade.score for grade in submission.notebooks[0].grades}
            rows.append({name: _field(value) for name, value in row.items()})
    columns = ["student", "status", "score", "of", "late penalty", "by hand", *tasks, "seconds", "notes"]
    path = course / "grades" / f"{assignment}.csv"
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))
    return path


def _field(value: Any) -> Any:
    """A value of the table; what a spreadsheet would take for a formula is marked as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
