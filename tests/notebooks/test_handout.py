"""The hand-out: notebooks or assignments, a wheel that installs, and a page that names them."""

import zipfile
from pathlib import Path

import nbformat
import pytest

from prilora_lite.cli import main
from prilora_lite.teaching.notebook_files import setup_cell
from tests.environments import call, fresh

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    """A hand-out of the notebooks, and its archive."""
    folder = tmp_path_factory.mktemp("given") / "kit"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        folder.mkdir()
        (folder / "solutions.txt").write_text("the teacher's", encoding="utf-8")
        assert main(["handout", "--output", str(folder), "--zip"]) == 0
    (folder / "solutions.txt").unlink()
    return folder


def test_it_holds_every_notebook_a_wheel_and_a_page_that_names_them(notebooks):
    given = {path.name for path in notebooks.iterdir()}
    (wheel,) = (name for name in given if name.endswith(".whl"))
    assert given == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} | {wheel, "START_HERE.html"}
    page = (notebooks / "START_HERE.html").read_text(encoding="utf-8")
    for name in given - {"START_HERE.html"}:
        assert f"<code>{name}</code>" in page
    assert "03 The rank schedule" in page


def test_its_archive_holds_the_same_in_a_folder(notebooks):
    with zipfile.ZipFile(notebooks.with_suffix(".zip")) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
    assert files == {f"kit/{path.name}" for path in notebooks.iterdir()}


def test_a_folder_that_holds_the_course_or_the_working_folder_is_refused(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for folder in (".", "..", "notebooks"):
        assert main(["handout", "assignments", "--output", folder, "--zip"]) == 2
        assert "give a folder of its own" in capsys.readouterr().err


def test_its_wheel_is_all_that_a_notebook_needs(notebooks, tmp_path):
    python, _ = fresh(tmp_path / "environment")
    (wheel,) = notebooks.glob("*.whl")
    call(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    assert "prilora-lite is here:" in call(python, "-c", setup_cell(), cwd=tmp_path)


def test_a_wheel_of_an_older_hand_out_goes(monkeypatch, tmp_path):
    pytest.importorskip("nbgrader")
    monkeypatch.chdir(ROOT)
    (tmp_path / "prilora_lite-0.0.1-py3-none-any.whl").touch()
    assert main(["handout", "assignments", "--output", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert "prilora_lite-0.0.1-py3-none-any.whl" not in names
    assert {"a1_lora_layer.ipynb", "a4_ablation_report.ipynb", "START_HERE.html"} <= names
    assert len(names) == 6
    assert "BEGIN HIDDEN TESTS" not in "".join(file.read_text(encoding="utf-8") for file in tmp_path.glob("*.ipynb"))


def test_elsewhere_than_in_the_repository_it_says_where_to_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["handout", "--output", "x"]) == 2
    assert "run this in the repository's folder" in capsys.readouterr().err


def test_a_notebook_in_which_somebody_has_written_stays(notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    mine = tmp_path / "01_lora_from_scratch.ipynb"
    notebook = nbformat.read(notebooks / mine.name, as_version=4)
    next(c for c in notebook.cells if "exercise" in c.metadata.get("tags", [])).source += "  # hours of work"
    nbformat.write(notebook, mine)
    before = mine.read_bytes()
    assert main(["handout", "--output", str(tmp_path)]) == 2
    assert f"{mine} may hold somebody's answers" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {mine.name: before}
