"""The gradebook of a class, which nbgrader keeps: what it knows of an assignment, and the marks that are in it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from traitlets.config import Config, PyFileConfigLoader


def config_of(course: Path) -> Config:
    """The course's own settings."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    config.CourseDirectory.root = str(course.resolve())
    config.CourseDirectory.db_url = database(course)
    return config


def database(course: Path) -> str:
    return f"sqlite:///{course / 'gradebook.db'}?timeout=60"  # seconds that one writer waits for another


def _newest_schema() -> str:
    """What nbgrader notes in a gradebook that it makes; it would start alembic for it, from PATH, and wait seconds."""
    import nbgrader
    from alembic.script import ScriptDirectory

    return str(ScriptDirectory(str(Path(nbgrader.__file__).parent / "alembic")).get_current_head())


def register(assignment: str, course: Path, known: bool) -> bool:
    """Let the gradebook know the assignment's cells, if it does not know them as they are; whether it had them."""
    import nbgrader.api
    from nbgrader.api import Gradebook, MissingEntry
    from nbgrader.apps import NbGraderAPI

    nbgrader.api.get_alembic_version = _newest_schema
    try:
        with Gradebook(database(course)) as gradebook:
            found = bool(gradebook.find_assignment(assignment).notebooks)  # none where only a due date was set
    except MissingEntry:
        found = False
    if not (known and found):
        config = config_of(course)
        config.NbGraderAPI.log_level = "WARN"
        with tempfile.TemporaryDirectory(prefix="prilora-") as made:  # nbgrader deletes the copy in release/ first
            config.CourseDirectory.release_directory = str(Path(made).resolve())
            result = NbGraderAPI(config=config).generate_assignment(assignment)
        if not result["success"]:
            text = f"{result.get('error') or ''}\n{result.get('log') or ''}"
            lines = [line.strip() for line in text.splitlines() if re.match(r"\s*[\w.]+(Error|Entry)\b", line)]
            reason = lines[-1] if lines else "it gave no reason"
            raise ValueError(f"nbgrader can't take {assignment} into the gradebook: {reason}") from None
    return found


def marks(assignment: str, course: Path, students: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """What the tests gave for each task, by student; those of whom the gradebook has no hand-in are left out."""
    from nbgrader.api import Gradebook, MissingEntry

    found = {}
    with Gradebook(database(course)) as gradebook:
        for student in students:
            try:
                submission = gradebook.find_submission(assignment, student)
            except MissingEntry:
                continue
            found[student] = {grade.name: grade.auto_score for grade in submission.notebooks[0].grades}
    return found


def part_with_earlier_marks(assignment: str, course: Path, record: dict[str, Any]) -> None:
    """Open again the marks that a person gave an earlier version; of what can't be graded, no marks stay at all."""
    from nbgrader.api import Gradebook, MissingEntry

    if not record["student"].isprintable():
        return  # the gradebook never had it
    with Gradebook(database(course)) as gradebook:
        try:
            submission = gradebook.find_submission(assignment, record["student"])
        except MissingEntry:
            return
        if record["status"] != "graded":
            gradebook.remove_submission(assignment, record["student"])
            return
        for grade in submission.notebooks[0].grades:  # nbgrader itself opens those of tests alone, not those of texts
            grade.needs_manual_grade |= grade.manual_score is not None
        gradebook.db.commit()
