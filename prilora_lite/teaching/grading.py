"""The assignments in class: learners' copies, and a whole class graded side by side. It needs the extra ``classroom``.

nbgrader does the work; here is what its commands can't do: grade several submissions at a time, each in a sandbox, go
on after a stop, and say in one line what was odd about each.
"""

from __future__ import annotations

import ast
import csv
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
from traitlets.config import Config, PyFileConfigLoader

from prilora_lite.shared.errors import unknown
from prilora_lite.shared.files import write_whole
from prilora_lite.shared.records import append_record, read_records

KERNEL = "prilora-sandbox"

# What an answer has no need of. It is graded all the same; the line in the table asks a person to look.
UNUSUAL = {
    "_getframe", "currentframe", "getouterframes", "settrace", "setprofile", "get_ipython", "_ih", "builtins",
    "__builtins__", "ctypes", "gc", "_exit", "subprocess", "socket", "eval", "exec", "compile", "globals", "setattr",
}  # fmt: skip
# What the assignments ask to write, and the library has
LIBRARY = {
    "LoRALinear", "linear_ranks", "budget_ranks", "adapter_parameters", "keep_mask", "importance", "InputNorms",
    "Pruner",
}  # fmt: skip


def release(folder: Path, course: Path) -> list[Path]:
    """Write the learners' copies of all assignments: no solutions, no hidden tests, no marking schemes.

    Args:
        folder: where to; one folder for each assignment.
        course: the folder with ``nbgrader_config.py`` and ``source``.

    Raises:
        ValueError: the course lacks them, or nbgrader can't make a copy; it says why itself.
        OSError: a copy can't be written; older ones are as they were.
    """
    from nbgrader.converters import GenerateAssignment
    from nbgrader.converters.base import NbGraderException
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.preprocessors import SaveCells  # into a gradebook, which a release has no need of

    names = assignments(course)
    config = _config(course)
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
        for file in sorted(path for path in Path(made).rglob("*") if path.is_file()):
            write_whole(folder / file.relative_to(made), file.read_bytes())
    return [folder / name / f"{name}.ipynb" for name in names]


def assignments(course: Path) -> list[str]:
    """Names of a course's assignments.

    Raises:
        ValueError: the folder is no course.
    """
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
        ValueError: no such assignment, no submissions, or no sandbox on this machine.
    """
    course = course.resolve()
    if assignment not in assignments(course):
        raise unknown("assignment", assignment, assignments(course))
    students = sorted(path.parent.name for path in course.glob(f"submitted/*/{assignment}") if path.is_dir())
    if not students:
        raise ValueError(
            f"there are no submissions: expected {course}/submitted/STUDENT/{assignment}/{assignment}.ipynb"
        )
    if protected:
        _require_sandbox()
    _register(assignment, course)
    journal = course / "grades" / f"{assignment}.jsonl"
    journal.parent.mkdir(exist_ok=True)
    keys = {student: [student, _digest(course / "submitted" / student / assignment)] for student in students}
    report = on_done or (lambda count, record: None)
    finished = {r["student"]: r for r in read_records(journal) if keys.get(r["student"]) == r["key"]}
    for record in finished.values():
        report(len(students), record)
    missing = [student for student in students if student not in finished]
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch="n_jobs")
    for record in parallel(joblib.delayed(_grade)(student, assignment, course, protected) for student in missing):
        finished[record["student"]] = {"key": keys[record["student"]], **record}
        append_record(journal, finished[record["student"]])
        report(len(students), record)
    return _write_table(assignment, course, [finished[student] for student in students])


def oddities(notebook: dict[str, Any], locked: set[str]) -> Iterator[str]:
    """What a person should look at in a learner's cells: names that an answer has no need of, a module that is changed.

    Args:
        notebook: the submission, as JSON.
        locked: ids of cells that grading puts back as they were.
    """
    modules: set[str] = set()
    for number, cell in enumerate(notebook.get("cells", []), 1):
        if cell.get("cell_type") != "code":
            continue
        try:
            tree = ast.parse("".join(cell["source"]))
        except SyntaxError:
            continue  # grading will show it
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        modules |= {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
        if cell.get("metadata", {}).get("nbgrader", {}).get("grade_id") in locked:
            continue
        for node in ast.walk(tree):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
            names = {name} if not isinstance(node, (ast.Import, ast.ImportFrom)) else {a.name for a in node.names}
            for used in sorted(names & UNUSUAL):
                yield f"look at cell {number}: {used}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prilora_lite"):
                for used in sorted(names & LIBRARY):
                    yield f"look at cell {number}: imports {used}"
            for target in node.targets if isinstance(node, ast.Assign) else ():
                owner = target.value if isinstance(target, ast.Attribute) else None
                if isinstance(owner, ast.Name) and owner.id in modules:
                    yield f"look at cell {number}: changes {owner.id}.{target.attr}"


def _grade(student: str, assignment: str, course: Path, protected: bool) -> dict[str, Any]:
    """Grade one submission; its record, whatever happened."""
    started = time.time()
    warnings.filterwarnings("ignore", module="nbformat|nbgrader")  # of cells without an id, and of its own queries
    folder = course / "submitted" / student / assignment
    record: dict[str, Any] = {"student": student, "status": "graded", "notes": []}
    try:
        notebook = json.loads((folder / f"{assignment}.ipynb").read_text(encoding="utf-8"))
        record["notes"] += dict.fromkeys(oddities(notebook, _locked(assignment, course)))
        result = _nbgrader(course, protected).autograde(assignment, student, force=True)
    except FileNotFoundError:
        there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        result = {"success": False, "error": f"there is no {assignment}.ipynb, but {there}"}
    except (ValueError, AttributeError) as error:
        result = {"success": False, "error": f"{assignment}.ipynb can't be read: {error}"}
    record["notes"] += dict.fromkeys(_warnings(result.get("log") or ""))
    if not result["success"]:
        record |= {"status": "not graded", "notes": [_reason(result), *record["notes"]]}
    return record | {"seconds": round(time.time() - started, 1)}


def _warnings(log: str) -> Iterator[str]:
    """What nbgrader found odd about the cells, in few words."""
    for line in log.splitlines():
        if "exists multiple times" in line:
            yield f"cell {line.split(chr(39))[1]} is there twice: the last one counts"
        elif "Missing grade cell" in line:
            yield f"cell {line.split('Missing grade cell ')[1].split()[0]} was deleted and put back"
        elif "has changed!" in line and "checksum" not in line:
            yield f"cell {line.split('for cell ')[1].split()[0]} was changed and put back"


def _reason(result: dict[str, Any]) -> str:
    """Why nbgrader gave up, in one line."""
    text = f"{result.get('error') or ''}\n{result.get('log') or ''}"
    if "DeadKernelError" in text or "Kernel died" in text:
        return "the kernel died: the code ends Python, crashes it, or wants too much memory"
    if "kernel became unresponsive" in text:
        return "the code runs without end and can't be interrupted"
    named = [line.strip() for line in text.splitlines() if re.match(r"\s*[\w.]+(Error|Entry)\b", line)]
    lines = named or [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nbgrader gave no reason"


def _write_table(assignment: str, course: Path, records: list[dict[str, Any]]) -> Path:
    """One row for each student: scores by task from the gradebook, status and notes."""
    from nbgrader.api import Gradebook, MissingEntry

    rows, tasks = [], []
    with Gradebook(_database(course)) as gradebook:
        notebook = gradebook.find_assignment(assignment).notebooks[0]
        tasks = [cell.name for cell in [*notebook.grade_cells, *notebook.task_cells]]
        for record in records:
            row = {name: record[name] for name in ("student", "status", "seconds")}
            row["notes"] = "; ".join(record["notes"])
            try:
                submission = gradebook.find_submission(assignment, record["student"])
            except MissingEntry:
                submission = None
            if submission is not None and record["status"] == "graded":
                row |= {"score": submission.score, "of": submission.max_score}
                row["by hand"] = "open" if submission.needs_manual_grade else ""
                row |= {grade.name: grade.score for grade in submission.notebooks[0].grades}
            rows.append(row)
    columns = ["student", "status", "score", "of", "by hand", *tasks, "seconds", "notes"]
    path = course / "grades" / f"{assignment}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _config(course: Path) -> Config:
    """The course's own settings."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    config.CourseDirectory.root = str(course.resolve())
    return config


def _database(course: Path) -> str:
    return f"sqlite:///{course / 'gradebook.db'}?timeout=60"  # seconds that one writer waits for another


@functools.cache
def _nbgrader(course: Path, protected: bool) -> Any:
    """nbgrader for this process, its kernels in the sandbox."""
    from nbgrader.apps import NbGraderAPI

    config = _config(course)
    config.CourseDirectory.db_url = _database(course)
    config.NbGraderAPI.log_level = "WARN"
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # it calls alembic
    if protected:
        place = Path(tempfile.mkdtemp(prefix="prilora-kernel-"))
        spec = place / "kernels" / KERNEL / "kernel.json"
        spec.parent.mkdir(parents=True)
        launch = [sys.executable, str(Path(__file__).with_name("sandbox.py")), "{connection_file}"]
        described = {"argv": launch, "display_name": KERNEL, "language": "python", "interrupt_mode": "message"}
        spec.write_text(json.dumps(described), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = str(place)
        config.ExecutePreprocessor.kernel_name = KERNEL
        config.KernelManager.transport = "ipc"  # a sandbox without network is reached through files
        config.KernelManager.connection_file = str(place / "sockets" / "kernel.json")
        (place / "sockets").mkdir()
    return NbGraderAPI(config=config)


def _register(assignment: str, course: Path) -> None:
    """Let the gradebook know the assignment's cells, if it does not."""
    from nbgrader.api import Gradebook, MissingEntry

    api = _nbgrader(course, False)
    try:
        with Gradebook(_database(course)) as gradebook:
            gradebook.find_assignment(assignment)
    except MissingEntry:
        result = api.generate_assignment(assignment)
        if not result["success"]:
            raise ValueError(f"nbgrader can't take {assignment} into the gradebook: {_reason(result)}") from None


@functools.cache
def _locked(assignment: str, course: Path) -> set[str]:
    source = json.loads((course / "source" / assignment / f"{assignment}.ipynb").read_text(encoding="utf-8"))
    cells = [cell["metadata"].get("nbgrader", {}) for cell in source["cells"]]
    return {cell["grade_id"] for cell in cells if cell.get("locked")}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _require_sandbox() -> None:
    if shutil.which("bwrap") is None:
        wrong = "bubblewrap is not installed (on Debian and Ubuntu: apt-get install bubblewrap)"
    else:
        tried = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"]
        done = subprocess.run(tried, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        wrong = f"bubblewrap does not work here ({done.stderr.strip()})"
    raise ValueError(
        f"{wrong}, so learners' code would run with all your rights. Install it, or grade in a container or a "
        "throw-away account, where you say --unprotected"
    )
