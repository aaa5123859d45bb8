"""Where a hand-in lies: in its place, in a slightly wrong one, under another name."""

import re

import pytest

from prilora_lite.teaching import handin
from tests.assignments.hostile import A
from tests.assignments.submissions import ASSIGNMENTS

NAME = f"{A}.ipynb"
ASTRAY = {
    f"rosa/{NAME}": f"rosa holds {NAME} outside of a folder {A}: move it there",
    "rosa/untitled.ipynb": f"rosa holds untitled.ipynb outside of a folder {A}: move it there",
    f"sam/{A.upper()}/{NAME}": f"sam holds a folder {A.upper()}: rename it to {A}",
    "lea.ZIP": f"lea.ZIP is an archive: unpack it, so that its notebook lies in submitted/STUDENT/{A}",
    NAME: f"{NAME} lies outside of a folder: move it into submitted/STUDENT/{A}",
    "rosa/a1_lora_layer.ipynb": "",
    "rosa/a1_lora_layer/a1_lora_layer.ipynb": "",
    "a1_lora_layer (1).ipynb": "",
    "list.txt": "",
    ".lea.zip": "",
    ".rosa/x.ipynb": "",
}


@pytest.mark.parametrize("file", ASTRAY)
def test_what_lies_in_a_slightly_wrong_place_is_said_and_what_is_of_another_assignment_is_not(file, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    (place,) = tmp_path.iterdir()
    assert handin.astray(place, A, list(ASSIGNMENTS)) == ASTRAY[file]


def test_a_link_is_not_looked_into_for_what_may_lie_there(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / NAME).touch()
    (tmp_path / "link").symlink_to("elsewhere")
    assert handin.astray(tmp_path / "link", A, list(ASSIGNMENTS)) == ""


def test_a_folder_that_may_not_be_read_is_said_and_stops_nobody(tmp_path, monkeypatch):
    (tmp_path / "rosa").mkdir()
    monkeypatch.setattr(handin.os, "listdir", lambda path: (tmp_path / "nothing").stat())
    said = "rosa can't be read (No such file or directory): let your account read it"
    assert handin.astray(tmp_path / "rosa", A, list(ASSIGNMENTS)) == said


def found(*files, folder):
    """What is found where a learner has handed in these files."""
    for file in files:
        (folder / "ann" / A / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "ann" / A / file).touch()
    handin.take(folder / "ann" / A, folder / "taken")
    file, notes = handin.find(folder / "ann" / A, folder / "taken", A, list(ASSIGNMENTS))
    return file.name, notes


@pytest.mark.parametrize("name", [f"{A} (1).ipynb", f"Copy of {NAME}", "untitled.IPYNB"])
def test_the_only_notebook_is_taken_whatever_its_name_with_a_note(name, tmp_path):
    assert found(name, "runs.jsonl", folder=tmp_path) == (name, [f"handed in as {name}"])


def test_a_name_that_gives_a_terminal_orders_is_said_plainly(tmp_path):
    assert found("\x1b[31m;\n.ipynb", folder=tmp_path)[1] == ["handed in as [31m, .ipynb"]


def test_of_several_notebooks_the_one_with_the_right_name_is_taken_and_a_note_names_the_others(tmp_path):
    note = f"also handed in, and not graded: {A} (1).ipynb"
    assert found(NAME, f"{A} (1).ipynb", folder=tmp_path) == (NAME, [note])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a.ipynb", "b.ipynb"], f"there is no {NAME}, but a.ipynb, b.ipynb"),
        (["runs.jsonl"], f"there is no {NAME}, but runs.jsonl"),
        (["a1_lora_layer (1).ipynb"], f"there is no {NAME}, but a1_lora_layer (1).ipynb"),
        ([f"work/{NAME}"], "the notebook lies one folder too deep, in work: move it up"),
        ([f"work/deeper/{NAME}"], f"there is no {NAME}, but nothing that can be taken"),
        ([".DS_Store", f".ipynb_checkpoints/{NAME}"], "the folder is empty"),
    ],
)
def test_a_folder_without_a_notebook_to_take_is_refused_with_what_is_there(files, said, tmp_path):
    with pytest.raises(handin.Refused, match=re.escape(said)):
        found(*files, folder=tmp_path)


def test_a_link_is_not_the_only_notebook(tmp_path):
    place = tmp_path / "ann" / A
    place.mkdir(parents=True)
    (tmp_path / "secret").touch()
    (place / "a.ipynb").symlink_to(tmp_path / "secret")
    with pytest.raises(handin.Refused, match="nothing that can be taken"):
        found(folder=tmp_path)
