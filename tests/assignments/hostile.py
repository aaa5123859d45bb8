"""Submissions that no honest learner hands in, or that went wrong on the way: name -> a function that makes one."""

import copy

from tests.assignments.submissions import answered, notebook, solutions

A = "a2_rank_schedule"
FIRST = "def schedule(num_layers, first, last):\n"  # how an answer to the first task begins


def _with(code):
    """Right everywhere but in the first answer."""
    return answered(A, solutions(A) | {"a2_line": code})


def _cell(submission, grade_id):
    """The place of a cell."""
    ids = [cell["metadata"].get("nbgrader", {}).get("grade_id") for cell in submission["cells"]]
    return ids.index(grade_id)


def overwritten_tests():
    """Stubs untouched, every test replaced by nothing."""
    submission = copy.deepcopy(notebook(A, "release"))
    for cell in submission["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade"):
            cell["source"] = "pass"
    return submission


def deleted_test():
    """One wrong answer, and its test deleted."""
    submission = _with(FIRST + "    return []")
    del submission["cells"][_cell(submission, "a2_line_test")]
    return submission


def duplicated_test():
    """One wrong answer, and its test twice: the second passes."""
    submission = _with(FIRST + "    return []")
    place = _cell(submission, "a2_line_test")
    submission["cells"].insert(place + 1, copy.deepcopy(submission["cells"][place]) | {"source": "pass", "id": "twice"})
    return submission


def duplicated_answer():
    """A right answer, its cell copied below with an attempt that is wrong."""
    submission = _with(solutions(A)["a2_line"])
    place = _cell(submission, "a2_line")
    wrong = {"source": FIRST + "    return []", "id": "twice"}
    submission["cells"].insert(place + 1, copy.deepcopy(submission["cells"][place]) | wrong)
    return submission


HOSTILE = {
    "overwritten_tests": overwritten_tests,
    "deleted_test": deleted_test,
    "duplicated_test": duplicated_test,
    "duplicated_answer": duplicated_answer,
    "endless_loop": lambda: _with(FIRST + "    while True:\n        pass"),
    "crash": lambda: _with(FIRST + "    import os\n    os._exit(0)"),
    "too_much_memory": lambda: _with(FIRST + "    return [bytearray(2**36)]"),
    "reads_the_frame": lambda: _with(
        "import sys\n\n\n" + FIRST + "    names = sys._getframe(1).f_globals\n"
        "    return names.get('expected') or [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]"
    ),
    "prints_millions_of_lines": lambda: _with(
        FIRST + "    for i in range(3_000_000):\n        print(i)\n    return []"
    ),
    "uses_the_library": lambda: _with(
        "from prilora_lite import linear_ranks\n\n\n" + FIRST + "    return linear_ranks(num_layers, first, last)"
    ),
    "changes_a_module": lambda: _with("import math\n\nmath.floor = math.ceil\n\n\n" + FIRST + "    return []"),
    "looks_for_the_solutions": lambda: _with(
        "from pathlib import Path\n\nimport prilora_lite\n\n\n"
        + FIRST
        + "    near = [*Path('../../..').glob('source/*/*.ipynb'), *Path('../../..').glob('gradebook.db')]\n"
        "    near += Path(prilora_lite.__file__).parent.parent.glob('notebooks/assignments/source/*/*.ipynb')\n"
        "    raise RuntimeError(f'found {len(near)} files')"
    ),
    "calls_out": lambda: _with(
        "import socket\n\n\n" + FIRST + "    socket.create_connection(('127.0.0.1', 9), timeout=5)"
    ),
}
