"""Submissions made from the course's own notebooks: right, wrong, hostile; and a quick grader that runs them here."""

import copy
import json
from pathlib import Path

from tests.assignments.answers import WRONG

COURSE = Path(__file__).parent.parent.parent / "notebooks" / "assignments"
ASSIGNMENTS = ("a1_lora_layer", "a2_rank_schedule", "a3_pruner", "a4_ablation_report")


def notebook(assignment, kind="source"):
    """The notebook as JSON: ``source`` with solutions and hidden tests, ``release`` as learners get it."""
    return json.loads((COURSE / kind / assignment / f"{assignment}.ipynb").read_text(encoding="utf-8"))


def named(notebook):
    """grade_id -> cell."""
    return {
        cell["metadata"]["nbgrader"]["grade_id"]: cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]
    }


def points(assignment):
    """grade_id of each test -> its points."""
    cells = named(notebook(assignment)).items()
    about = {name: cell["metadata"]["nbgrader"] for name, cell in cells}
    return {name: facts["points"] for name, facts in about.items() if facts["grade"]}


def solutions(assignment):
    """grade_id of each answer -> the course's own code, without nbgrader's marks."""
    cells = named(notebook(assignment)).items()
    return {
        name: "\n".join(line for line in text(cell).split("\n") if "### " not in line)
        for name, cell in cells
        if cell["metadata"]["nbgrader"]["solution"]
    }


def text(cell):
    return "".join(cell["source"])


def answered(assignment, answers):
    """A learner's copy with code in place of stubs."""
    copied = copy.deepcopy(notebook(assignment, "release"))
    for name, code in answers.items():
        named(copied)[name]["source"] = code
    return copied


def perfect(assignment):
    return answered(assignment, solutions(assignment))


def wrong(assignment, answer, name):
    """Right everywhere but in one answer; see :data:`WRONG`."""
    code, lost = WRONG[assignment][answer][name]
    right = solutions(assignment)
    if isinstance(code, tuple):  # a replacement within the solution
        before, after = code
        assert right[answer].count(before) == 1, f"{name}: {before!r} is not once in the solution"
        code = right[answer].replace(before, after)
    return answered(assignment, right | {answer: code}), lost


def failed(assignment, submission):
    """The tests that a submission fails, each cell run in this process as nbgrader would with the tests put back."""
    source, lost, silent = named(notebook(assignment)), set(), False
    names = {"__name__": "__main__"}
    for cell in submission["cells"]:
        if cell["cell_type"] != "code":
            continue
        grade_id = cell["metadata"].get("nbgrader", {}).get("grade_id")
        locked = grade_id in source and source[grade_id]["metadata"]["nbgrader"]["locked"]
        code = text(source[grade_id] if locked else cell)
        try:
            exec(compile(code, grade_id or "<cell>", "exec"), names)
        except Exception as error:  # as in a notebook, the next cell goes on
            if grade_id in points(assignment):
                lost.add(grade_id)
                silent |= not str(error)
    assert not silent, "a test failed without a word"
    return lost
