"""One submission, from what was handed in to its marks: nbgrader's own steps, with the sandbox between them."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import nbformat
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import Execute
from traitlets.config import Config

from prilora_lite.teaching import handin, sandbox
from prilora_lite.teaching.steps import Harmless, JudgeTests

LONGEST_STAMP = 100  # characters of timestamp.txt
_LONGER = 3  # times the limit of a cell, where it trains: A4 makes runs again


def autograde(
    student: str, assignment: str, course: Path, config: Config, room: Path, *, notes: list[str], protected: bool,
    shown: list[str],
) -> None:  # fmt: skip
    """Grade a submission, and put the executed notebook into ``autograded``.

    Args:
        student: the name of the folder in ``submitted``.
        assignment: its name.
        course: the course's folder.
        config: nbgrader's settings.
        room: an empty folder, of this submission alone.
        notes: grows by what a person should know.
        protected: whether the code runs in a sandbox.
        shown: folders that Python takes modules from.

    Raises:
        handin.Refused: it can't be graded.
        RuntimeError: its code ended Python, or wanted more than it may have.
    """
    graded = course / "autograded" / student / assignment
    for old in (graded, course / "feedback" / student / assignment):
        _remove(old)
    handed_in = room / "handed_in"
    folder = course / "submitted" / student / assignment
    notes += handin.take(folder, handed_in)
    assignments = sorted(path.name for path in (course / "source").iterdir() if path.is_dir())
    file, renamed = handin.find(folder, handed_in, assignment, assignments)
    notes += renamed
    notebook = handin.read(file)
    source = _source(assignment, course)
    notebook, changes = handin.rebuild(notebook, source)
    notes += changes
    node = nbformat.from_dict(notebook)
    directory = CourseDirectory(config=config, assignment_id=assignment)
    converter = Autograde(coursedir=directory, config=config)
    stamp = _stamp(handed_in, directory, notes)
    theirs = converter.exclude_overwriting.get(assignment, [])
    missing = [name for name in theirs if not (handed_in / name).is_file()]
    notes += [f"{name} was not handed in" for name in missing]
    _lay_over(course / "source" / assignment, handed_in, theirs)
    resources = {"nbgrader": {"student": student, "assignment": assignment, "notebook": assignment}}
    resources["nbgrader"]["db_url"] = directory.db_url
    with Gradebook(directory.db_url, directory.course_id) as gradebook:
        gradebook.update_or_create_student(student)
        when = {"timestamp": stamp} if stamp else {}
        late = gradebook.update_or_create_submission(assignment, student, **when).total_seconds_late
    notes += [f"handed in {math.ceil(late / 360) / 10:g} h late"] if late else []
    for step in converter.sanitize_preprocessors:
        node, resources = step(parent=converter)(node, resources)
    timeout = config.ExecutePreprocessor.get("timeout", 60) * (_LONGER if theirs else 1)
    _run(node, source, handed_in, room, notes, timeout=timeout, protected=protected, shown=shown)
    for step in (JudgeTests, Harmless, *converter.autograde_preprocessors):
        if step is not Execute:
            node, resources = step(parent=converter)(node, resources)
    notes += _reasons(node)
    graded.mkdir(parents=True)
    (graded / f"{assignment}.ipynb").write_text(nbformat.writes(node) + "\n", encoding="utf-8")
    if stamp:
        (graded / "timestamp.txt").write_text(f"{stamp} UTC", encoding="utf-8")


def run_source(
    assignment: str, course: Path, config: Config, room: Path, *, protected: bool, shown: list[str]
) -> list[str]:
    """Run the course's own notebook as a hand-in is run.

    Args:
        assignment, course, config, room, protected, shown: see :func:`autograde`.

    Returns:
        For each test or answer that fails, its name and what it says.
    """
    source = _source(assignment, course)
    node = nbformat.from_dict(source)
    for number, cell in enumerate(node.cells, 1):
        cell.source, cell.metadata.number = "".join(cell.source), number
    files = room / "handed_in"
    files.mkdir()
    _lay_over(course / "source" / assignment, files, [])
    timeout = _LONGER * config.ExecutePreprocessor.get("timeout", 60)
    _run(node, source, files, room, [], timeout=timeout, protected=protected, shown=shown)
    return _reasons(node)


def _run(node: Any, source: Any, handed_in: Path, room: Path, notes: list[str], **options: Any) -> None:
    """Run the cells of a notebook in the sandbox, and put their outputs in."""
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    cells = [{"source": cell.source, "test": bool(utils.is_grade(cell))} for cell in code]
    parts = [{"place": _place(cell), "source": cell.source, "given": bool(utils.is_locked(cell))} for cell in code]
    for file in sorted(handed_in.glob("*.py")):
        text = file.read_bytes()[: handin.LONGEST_CELL].decode(errors="replace")
        parts.append({"place": handin.plain(file.name), "source": text, "given": False})
    look = {"parts": parts, "names": sorted(_given_names(source))}
    result = sandbox.run(cells, look, handed_in, room, **options)
    notes += map(handin.plain, result["notes"])
    for number, cell in enumerate(code):
        ran = result["cells"].get(number, {"outputs": [], "status": "not reached in time"})
        cell.outputs = [nbformat.from_dict(output) for output in ran["outputs"]]
        if ran["status"] != "ok" and not any(output.output_type == "error" for output in cell.outputs):
            said = f"the cell did not end as it should: {handin.plain(ran['status'])}"
            cell.outputs.append(nbformat.v4.new_output("error", ename="NotRun", evalue=said, traceback=[said]))


def _place(cell: Any) -> str:
    """What a note calls a cell: its name, where the course has one for it, and its number from 1, texts included."""
    number, name = cell.metadata.pop("number"), cell.metadata.get("nbgrader", {}).get("grade_id")
    return f"{name} (cell {number})" if name else f"cell {number}"


def _reasons(node: Any) -> list[str]:
    """Why points were lost: what each test, and each answer, says that it failed by."""
    reasons = []
    for cell in node.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        for output in cell.get("outputs", []) if name else ():
            if output.output_type == "error":
                reasons.append(f"{name}: {handin.plain(f'{output.ename}: {output.evalue}')}")
                break
    return reasons


def _source(assignment: str, course: Path) -> Any:
    return json.loads((course / "source" / assignment / f"{assignment}.ipynb").read_text(encoding="utf-8"))


def _given_names(source: Any) -> set[str]:
    """What the course's own cells set for the answers to use, and no answer has to set."""
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for cell in source["cells"]:
        mark = cell["metadata"].get("nbgrader", {})
        if cell["cell_type"] != "code" or not mark or mark["grade"]:
            continue
        for node in ast.parse("".join(cell["source"])).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names[mark["solution"]].add(node.name)
                continue
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    names[mark["solution"]].add(inner.id)
                elif isinstance(inner, ast.alias):
                    names[mark["solution"]].add((inner.asname or inner.name).split(".")[0])
    return names[False] - names[True]


def _stamp(handed_in: Path, directory: CourseDirectory, notes: list[str]) -> Any:
    """When it was handed in, if that is known."""
    file = handed_in / "timestamp.txt"
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > LONGEST_STAMP:
            raise ValueError("it is too long")
        if stamp := directory.get_existing_timestamp(str(handed_in)):
            return stamp
    except Exception as error:  # nbgrader's reader of times raises many kinds
        notes.append(f"timestamp.txt can't be read: {handin.plain(error)}")
        return None
    notes.append("timestamp.txt can't be read: it holds no time")
    return None


def _lay_over(source: Path, handed_in: Path, excluded: list[str]) -> None:
    """The course's own files beside the notebook take the place of those that were handed in."""
    for path in source.rglob("*"):
        name = path.relative_to(source)
        if (
            path.is_file()
            and path.suffix != ".ipynb"
            and str(name) not in excluded
            and ".ipynb_checkpoints" not in name.parts
        ):
            (handed_in / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, handed_in / name)


def _remove(old: Path) -> None:
    """Remove what is of an earlier version, never what a link there points to."""
    for place in (old.parent, old):
        if place.is_symlink():
            os.unlink(place)
    shutil.rmtree(old, ignore_errors=True)
