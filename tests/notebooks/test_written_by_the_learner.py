"""The series as a learner leaves it: every piece and exercise written, and 06 built on what was written."""

import contextlib
import io
import linecache
import re

import nbformat
import pytest
from transformers.utils import logging

from prilora_lite import exercises
from prilora_lite.teaching.exercises import mine, pieces
from tests.notebooks.test_form import PATHS
from tests.notebooks.test_solutions import EXERCISES, name_of

WITH_PIECES = [PATHS[number] for number in (1, 3, 4, 5, 6)]  # 06 builds on the pieces of the others
# Cells that run the library alone, whatever was written, or train on after the learner's weights were compared with the
# library's: they are run with the page itself
LIBRARYS_OWN = {
    "01_lora_from_scratch": r"def moved|\bruns = |def accuracy_at|in accuracy\b",
    "03_rank_schedule": r"finetune\(",
    "05_pruning_during_training": r"\bevery_batch\b|\breached\b",
    "06_assemble_prilora": r"finetune\(|\bresult\.|ratio=0\)|\baccuracy\b",
}


def solved(path):
    """A notebook with its solutions in the stubs' places, and what its cells then print as the expected outputs."""
    notebook = nbformat.read(path, as_version=4)
    alone = re.compile(LIBRARYS_OWN.get(path.stem, r"(?!)"))
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type != "code" or not alone.search(cell.source)]
    for place, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags:
            check, solution = notebook.cells[place + 1 : place + 3]
            (cell.source,) = re.findall(r"```python\n(.*?)```", solution.source, flags=re.S)
            kept = f", and kept in {pieces.FILE}" if "piece" in tags else ""
            check.outputs = [nbformat.v4.new_output("stream", text=f"{name_of(cell)}: well done{kept}\n")]
        elif "my_pieces()" in cell.source and cell.cell_type == "code":
            cell.metadata.tags = []  # compared here, as nothing but the solutions can be in the file
            first, last = mine.PIECES[:-1], mine.PIECES[-1]  # the last is written on this page, further down
            lines = [f"{check.__name__:<18}yours\n" for check in first]
            lines.append(f"{last.__name__:<18}ours: not written yet\n")
            cell.outputs = [nbformat.v4.new_output("stream", text="".join(lines))]
    return notebook


def run(notebook):
    """Run the cells of a page one after another; place and text of each cell that does not print what is expected."""
    names = {"__name__": "__main__"}
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        printed, name = io.StringIO(), f"<a cell, {hash(cell.source)}>"
        linecache.cache[name] = len(cell.source), None, cell.source.splitlines(True), name  # as IPython does
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, name, "exec"), names)
        expected = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        if printed.getvalue() != expected and "nbval-ignore-output" not in cell.metadata.get("tags", []):
            yield place, printed.getvalue()


@pytest.fixture
def bars_as_they_were():
    """01 hides the bars of transformers."""
    yield
    logging.enable_progress_bar()


@pytest.mark.usefixtures("bars_as_they_were")
def test_with_every_solution_in_place_the_pages_print_the_same_and_06_is_the_learners(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)  # where there is no page, it prints
    for path in WITH_PIECES:
        assert list(run(solved(path))) == [], path.stem
    names = re.findall(r"^# %% (\w+)$", (tmp_path / pieces.FILE).read_text(encoding="utf-8"), re.M)
    assert names == [check.__name__ for check in mine.PIECES]


@pytest.mark.parametrize(("stub", "check", "solution"), EXERCISES)
def test_a_wrong_answer_stops_the_page_at_its_check(stub, check, solution):
    name = re.search(r"def (\w+)\(", stub).group(1)
    asked = re.search(rf"exercises\.(\w+)\({name}\)", check).group(1)
    for sentence, slip in getattr(exercises, asked).exercise.each_slip():
        names = {"exercises": exercises, name: slip}
        with pytest.raises(exercises.WrongAnswer, match=re.escape(sentence)):
            exec(check, names)


def test_every_piece_is_written_on_a_page():
    written = {name_of(cell) for path in PATHS for cell in nbformat.read(path, 4).cells
               if "piece" in cell.metadata.get("tags", [])}  # fmt: skip
    assert written == {check.__name__ for check in mine.PIECES}
