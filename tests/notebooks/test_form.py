"""What every notebook must look like. That each gives its committed outputs is tested by nbval, see conftest.py."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from prilora_lite.cli import main
from prilora_lite.teaching import notebook_files as tool

ROOT = Path(__file__).parent.parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EVERY_PAGE = [*PATHS, *sorted((ROOT / "notebooks" / "assignments").rglob("*.ipynb"))]
every = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(path, kind=None, tag=None):
    found = nbformat.read(path, as_version=4).cells
    found = [cell for cell in found if kind in (None, cell.cell_type)]
    return [cell for cell in found if tag is None or tag in cell.metadata.get("tags", [])]


def prose(cell):
    """Words of a markdown cell without headings, tables and what is folded away."""
    text = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.S)
    return [word for line in text.split("\n") if not line.startswith(("#", "|")) for word in line.split()]


def test_the_series_is_numbered_without_a_gap():
    assert [int(path.stem[:2]) for path in PATHS] == list(range(len(PATHS)))
    assert len(PATHS) >= 7


def test_nbval_is_on_for_plain_pytest_and_compares_strictly(pytestconfig):
    assert pytestconfig.option.nbval
    assert not pytestconfig.option.nbval_lax
    assert "notebooks" in pytestconfig.getini("testpaths")


@every
def test_it_is_valid_in_order_and_free_of_widget_state(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert list(tool.stale(path)) == []


@every
def test_it_was_run_from_top_to_bottom_without_an_error(path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [output for cell in code for output in cell.outputs if output.output_type == "error"] == []


@pytest.mark.filterwarnings("ignore:Your element with mimetype")  # before a folded answer
@every
def test_a_page_that_runs_nothing_can_show_it(path):
    HTMLExporter().from_notebook_node(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", EVERY_PAGE, ids=lambda path: path.stem)
def test_what_is_folded_away_is_rendered_and_not_shown_as_typed(path):
    """A line that begins with a tag is HTML up to the next empty line: backticks and links would stay as they are."""
    for cell in cells(path, "markdown"):
        for folded in re.findall(r"<details>(.*?)</details>", cell.source, flags=re.S):
            assert re.fullmatch(r"<summary>[^\n]+</summary>\n\n\S.*\n\n", folded, flags=re.S), folded
        assert not re.search(r"[^\n]\n<details>|[^\n]<details>|</details>(?!\n\n|$)", cell.source), cell.source


# What follows a prediction and is not its answer: an explanation, or the next question
NO_ANSWERS = ("Each row of A", "Now pocket learns", "The button trains", "How good is that?", "One run of each.")


@every
def test_the_answer_to_a_prediction_is_folded_away(path):
    found = cells(path)
    for place, cell in enumerate(found[:-2]):
        if cell.cell_type == "markdown" and "**Predict" in cell.source and found[place + 1].cell_type == "code":
            answer = next(later.source for later in found[place + 1 :] if later.cell_type == "markdown")
            assert "<details><summary>" in answer or answer.startswith(NO_ANSWERS), answer


def texts(cell):
    """Everything of a cell that is read as text: source, printed text, texts of displayed data."""
    yield cell.source
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def machine_path(text):
    """The first path in a text that is right on one machine alone, or None."""
    folders = "home|root|tmp|work|Users|content|opt|usr|var|mnt|private|data"
    return re.search(rf"(?<![\w.:/])/({folders})/|\b[A-Z]:\\", text)


@every
def test_it_names_no_path_of_a_machine(path):
    for cell in cells(path):
        for text in texts(cell):
            assert not machine_path(text), text


@pytest.mark.parametrize("text", ["at\n/home/me/x", "'/var/x'", "in /mnt/x", r"C:\Users\me", "/private/tmp/x"])
def test_a_path_of_a_machine_is_found_also_at_the_start_of_a_line(text):
    new = nbformat.v4
    printed = new.new_output("stream", text=text)
    shown = new.new_output("display_data", data={"text/plain": text})
    for cell in (new.new_markdown_cell(text), *(new.new_code_cell(outputs=[output]) for output in (printed, shown))):
        assert any(map(machine_path, texts(cell)))


@pytest.mark.parametrize("text", ["https://x.org/data/1", "results/data/x", "../opt/x", "S:\n\\frac", "a / data / b"])
def test_an_address_or_a_path_inside_the_project_is_no_path_of_a_machine(text):
    assert not machine_path(text)


@every
def test_code_and_prose_are_short(path):
    for cell in cells(path, "code"):
        assert len(cell.source.split("\n")) <= 20, cell.source
    for cell in cells(path, "markdown"):
        assert len(prose(cell)) <= 75, cell.source


@every
def test_hardly_any_cell_is_left_uncompared(path):
    code, marked = cells(path, "code"), cells(path, "code", "nbval-ignore-output")
    assert len(marked) <= len(code) / 5
    assert not cells(path, "code", "nbval-skip")


@every
def test_its_head_says_what_it_takes(path):
    title, head = (cells(path)[i].source for i in (0, 0))
    assert title.startswith(f"# {path.stem[:2]} ")
    assert int(re.search(r"runs in (\d+) s on two CPU cores", head).group(1)) <= 60
    assert "Reading time" in head


@every
def test_its_head_adds_up_the_minutes_of_its_exercises(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    minutes = sum(map(int, re.findall(r"\*Difficulty \d of 3, priority \d of 3, (\d+) minutes", text)))
    stated = re.search(r"minutes, exercises (\d+) more; runs in", cells(path)[0].source)
    assert (int(stated.group(1)) if stated else 0) == minutes


@every
def test_its_local_links_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            assert target.startswith("https://") or (path.parent / target).is_file(), target


def test_the_glossary_lists_the_symbols_of_all_notebooks():
    (glossary,) = [cell.source for cell in cells(PATHS[0], "markdown") if cell.source.startswith("## Symbols")]
    listed = {name for row in re.findall(r"^\| (.*?) \|", glossary, re.M) for name in re.findall(r"Delta W|\w+", row)}
    used = {"Delta W", "T", "mask", "churn"}
    for path in PATHS:
        for cell in cells(path, "markdown"):
            for line in re.findall(r"\*\*Symbols\*\*.*", cell.source):
                used |= set(re.findall(r"\b[A-Za-z]_[a-z]+\b", line))
    assert used <= listed


@every
def test_it_predicts_and_gives_references(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert len(re.findall(r"\*\*predict", text, flags=re.I)) >= 2
    assert "**References**" in text
    assert "**You need**" in text


@every
def test_every_picture_has_a_text_for_those_who_cannot_see_it(path):
    for cell in cells(path, "code"):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert output.metadata["image/png"]["alt"]


def test_without_a_repository_there_are_no_badges():
    assert tool.badge(PATHS[0], repository="") == ""
    assert all(not cells(path, tag="badge") for path in PATHS) or tool.REPOSITORY


def test_with_a_repository_badge_and_source_come_from_it():
    notebook = nbformat.read(PATHS[0], as_version=4)
    tool.prepare(notebook, PATHS[0], repository="someone/prilora-lite")
    assert f"someone/prilora-lite/blob/main/notebooks/{PATHS[0].name}" in notebook.cells[0].source
    (setup,) = [cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", [])]
    assert 'SOURCE = "git+https://github.com/someone/prilora-lite"' in setup.source
    tool.prepare(notebook, PATHS[0], repository="")
    assert notebook.cells[0].source.startswith("# 00")


def test_an_answer_to_a_prediction_is_folded_and_nothing_else_is():
    new = nbformat.v4

    def code(source, output=None, **metadata):
        outputs = [new.new_output("stream", text=output)] if output else []
        return new.new_code_cell(source, outputs=outputs, metadata=metadata)

    cells = [
        code("", "here", tags=["setup"]),
        new.new_markdown_cell("And now **predict** the sum."),
        code("a = 1"),
        code("print(a + 1)", "2", tags=["nbval-ignore-output"]),
        new.new_markdown_cell("Two."),
        code("print(a + 2)", "3", tags=["hide-output", "own"], jupyter={"outputs_hidden": True, "source_hidden": True}),
        new.new_markdown_cell("**Predict**: where would you stop?"),
        code("explore_rank(update)", "a widget, which the learner is asked to move"),
        new.new_markdown_cell("The question is no more."),
        code("print(3)", "3"),
    ]
    notebook = new.new_notebook(cells=cells)
    tool.prepare(notebook, Path("00_x.ipynb"), "")
    folded = [cell.source for cell in notebook.cells if "hide-output" in cell.metadata.get("tags", [])]
    assert folded == ["print(a + 1)"]
    assert [cell.source for cell in notebook.cells if cell.metadata.get("jupyter", {}).get("outputs_hidden")] == folded
    assert notebook.cells[3].metadata.tags == ["nbval-ignore-output", "hide-output"]
    assert notebook.cells[5].metadata == {"tags": ["own"], "jupyter": {"source_hidden": True}}
    assert notebook.cells[2].metadata == {}


def test_a_folded_answer_does_not_begin_with_what_jupyterlab_would_show_of_it():
    new = nbformat.v4
    answers = [
        new.new_code_cell("print(2)", outputs=[new.new_output("stream", text="2")]),
        new.new_code_cell("show()", outputs=[new.new_output("display_data", {"text/plain": "a line"})]),
    ]
    first = [dict(answer.outputs[0]) for answer in answers]
    setup = new.new_code_cell("", metadata={"tags": ["setup"]})
    notebook = new.new_notebook(cells=[setup, new.new_markdown_cell("**Predict**"), *answers])
    for _ in range(2):
        tool.prepare(notebook, Path("00_x.ipynb"), "")
        for answer, output in zip(notebook.cells[2:], first, strict=True):
            empty, then = answer.outputs
            assert (empty.data, then) == ({}, output)
    notebook.cells[1].source = "No question any more."
    tool.prepare(notebook, Path("00_x.ipynb"), "")
    assert [answer.outputs for answer in notebook.cells[2:]] == [[output] for output in first]


def test_executing_writes_outputs_and_the_time_and_leaves_a_broken_notebook_alone(tmp_path, capsys):
    path = tmp_path / "00_x.ipynb"
    new = nbformat.v4
    setup = new.new_code_cell("", metadata={"tags": ["setup"]})
    head = new.new_markdown_cell("# 00 x\n*runs in 999 s on two CPU cores*")
    live = "import ipywidgets\nprint(6 * 7, flush=True)\nprint('done')\nipywidgets.IntSlider()"
    nbformat.write(new.new_notebook(cells=[head, setup, new.new_code_cell(live)]), path)
    tool.execute(path)
    notebook = nbformat.read(path, as_version=4)
    text, widget = notebook.cells[2].outputs
    assert text.text == "42\ndone\n"
    assert list(widget.data) == ["text/plain"]  # no identity of a widget that is gone
    assert "runs in 999 s" not in notebook.cells[0].source
    assert list(tool.stale(path)) == []
    notebook.cells[2].source = "1 / 0"
    nbformat.write(notebook, path)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        tool.execute(path)
    assert path.read_bytes() == before
    assert main(["notebooks", "--execute", str(path)]) == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_a_notebook_without_ids_of_cells_as_colab_saves_it_gets_them(tmp_path):
    path = tmp_path / "00_x.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", metadata={"tags": ["setup"]})])
    notebook.nbformat_minor = 0
    del notebook.cells[0]["id"]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    tool.execute(path)
    assert list(tool.stale(path)) == []


def test_a_kernel_that_dies_stops_its_own_notebook_alone(tmp_path, capsys):
    paths = [tmp_path / "00_x.ipynb", tmp_path / "01_y.ipynb"]
    for path, source in zip(paths, ("import os; os._exit(1)", "print(6 * 7)"), strict=True):
        cells = [nbformat.v4.new_code_cell("", metadata={"tags": ["setup"]}), nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert main(["notebooks", "--execute", *map(str, paths)]) == 1
    said = capsys.readouterr().out
    assert f"{paths[0]}: DeadKernelError" in said
    assert list(tool.stale(paths[1])) == []


def test_a_notebook_saved_by_another_program_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "00_x.ipynb"
    new = nbformat.v4
    setup = new.new_code_cell("", metadata={"tags": ["setup"]})
    touch = new.new_code_cell(f"open({str(path)!r}, 'a').write(' ')")
    nbformat.write(new.new_notebook(cells=[setup, touch]), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"was saved while it ran.*00_x\.part"):
        tool.execute(path)
    assert path.read_bytes() == before + b" "


def test_what_a_notebook_writes_as_it_is_executed_is_not_left_beside_it(tmp_path):
    path = tmp_path / "00_x.ipynb"
    new = nbformat.v4
    cells = [new.new_code_cell("", metadata={"tags": ["setup"]}), new.new_code_cell("open('runs.jsonl', 'w').close()")]
    nbformat.write(new.new_notebook(cells=cells), path)
    tool.execute(path)
    assert [file.name for file in tmp_path.iterdir()] == ["00_x.ipynb"]


def test_executing_prints_the_name_and_the_seconds_and_no_warning_of_the_kernel(tmp_path, capfd):
    path = tmp_path / "00_x.ipynb"
    cells = [nbformat.v4.new_code_cell("", metadata={"tags": ["setup"]})]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert main(["notebooks", "--execute", str(path)]) == 0
    printed = capfd.readouterr()
    assert re.fullmatch(rf"{re.escape(str(path))} \.\.\. \d+ s\nin order: 1 of 1\n", printed.out)
    assert printed.err == ""


@pytest.mark.parametrize("text", ["no json", "{}", "[]"])
def test_a_file_that_is_no_notebook_is_refused_by_name(text, tmp_path, capsys):
    path = tmp_path / "00_x.ipynb"
    path.write_text(text, encoding="utf-8")
    assert main(["notebooks", str(path)]) == 2
    assert f"{path} is not a notebook" in capsys.readouterr().err
