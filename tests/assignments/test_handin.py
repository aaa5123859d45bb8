"""What a learner handed in, taken in piece by piece: odd files, odd notebooks, notebooks from other editors."""

import copy
import json
import os
import re

import pytest

from prilora_lite.teaching import handin
from tests.assignments.hostile import A
from tests.assignments.submissions import ASSIGNMENTS, named, notebook, perfect, solutions, text

NAME = f"{A}.ipynb"


def put_in(folder, submission=None):
    """A folder as a learner hands it in."""
    place = folder / "ann" / A
    place.mkdir(parents=True)
    content = submission if isinstance(submission, str) else json.dumps(submission or perfect(A))
    (place / NAME).write_text(content, encoding="utf-8")
    return place


def taken(place, folder):
    """Names that were taken, and notes."""
    notes = handin.take(place, folder / "taken")
    return sorted(path.name for path in (folder / "taken").iterdir()), notes


ODD = {
    "a link": lambda path: path.symlink_to("../secret"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["data.txt", NAME, "timestamp.txt"])
def test_what_is_no_regular_file_is_left_out_with_a_note(kind, name, tmp_path):
    place = put_in(tmp_path)
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (place / name).unlink(missing_ok=True)
    ODD[kind](place / name)
    names, notes = taken(place, tmp_path)
    assert name not in names
    assert notes == [f"{name} is {' '.join(kind.split()[:2])}: left out"]


@pytest.mark.parametrize("name", ["data.txt", NAME])
def test_a_hard_link_is_left_out_with_a_note(name, tmp_path):
    place = put_in(tmp_path)
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (place / name).unlink(missing_ok=True)
    os.link(tmp_path / "secret", place / name)
    names, notes = taken(place, tmp_path)
    assert name not in names
    assert notes == [f"{name} is a hard link: left out, put a copy in its place if it is honest"]


@pytest.mark.parametrize("up", [0, 1])
def test_a_folder_that_is_a_link_is_refused(up, tmp_path):
    place = put_in(tmp_path / "submitted")
    link = tmp_path / "submitted" / "zoe" / A
    if up:
        link.parent.symlink_to("ann")
    else:
        link.parent.mkdir()
        link.symlink_to(place)
    with pytest.raises(handin.Refused, match="is a link, no folder"):
        handin.take(link, tmp_path / "taken")


def test_too_large_files_and_too_many_are_left_out(tmp_path):
    place = put_in(tmp_path)
    with (place / "sparse").open("wb") as file:
        file.truncate(2**40)
    for number in range(handin.MOST_FILES + 5):
        (place / f"small{number:03}").touch()
    names, notes = taken(place, tmp_path)
    assert len(names) <= handin.MOST_FILES
    assert "sparse" not in names
    assert notes[-1].endswith("more were left out")


def test_a_folder_of_very_many_or_large_files_is_not_read_through(tmp_path, monkeypatch):
    place = put_in(tmp_path)
    for number in range(handin.MOST_FILES + 5):
        (place / f"small{number:03}").write_text("x", encoding="utf-8")
    for number in range(3):
        with (place / f"sparse{number}").open("wb") as file:
            file.truncate(handin.LARGEST - 1)
    opened = []
    _open = handin._open
    monkeypatch.setattr(handin, "_open", lambda path: opened.append(path.name) or _open(path))
    handin.digest(place)
    assert len(opened) <= handin.MOST_FILES
    assert not any(name.startswith("sparse") for name in opened), "the last of them, and too many by then"


def test_what_editors_leave_beside_a_notebook_is_no_note(tmp_path):
    place = put_in(tmp_path)
    (place / ".ipynb_checkpoints").mkdir()
    (place / ".DS_Store").touch()
    assert taken(place, tmp_path) == ([NAME], [])


def test_a_digest_reads_neither_links_nor_pipes_nor_giants(tmp_path):
    place = put_in(tmp_path)
    os.mkfifo(place / "pipe")
    (place / "zero").symlink_to("/dev/zero")
    with (place / "sparse").open("wb") as file:
        file.truncate(2**40)
    before = handin.digest(place)
    (place / NAME).write_text("changed", encoding="utf-8")
    assert handin.digest(place) != before


def _bomb(**change):
    submission = perfect(A)
    submission["cells"][5].update(change)
    return json.dumps(submission)


UNREADABLE = {
    "nested lists": "[" * 200_000,
    "nested objects": '{"cells":' * 100_000,
    "no JSON": "{",
    "not UTF-8": b"\xff\xfe\x00".decode("latin-1") * 10,
    "a list": "[]",
    "cells null": '{"cells": null}',
    "cells an object": '{"cells": {}}',
    "cells of text": '{"cells": ["x"]}',
    "too many cells": json.dumps({"cells": [{}] * 2000}),
    "source null": _bomb(source=None),
    "source of numbers": _bomb(source=[1]),
    "source an object": _bomb(source={}),
    "a giant cell": _bomb(source="x" * 200_000),
    "giants in all": json.dumps({"cells": [{"source": "x" * 90_000}] * 4}),
    "a giant number": '{"cells": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_notebook_that_can_not_be_read_is_refused_with_a_reason(case, tmp_path):
    file = put_in(tmp_path, UNREADABLE[case]) / NAME
    with pytest.raises(handin.Refused, match=f"{NAME} can't be read: ."):
        handin.read(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty (0 bytes): have it handed in again"),
        (b"PK\x03\x04 and so on", "is a zip archive: unpack it"),
        ("{}".encode("utf-16"), "is saved as UTF-16: have it saved again from Jupyter"),
        (b"\xfe\xff" + "{}".encode("utf-16-be"), "is saved as UTF-16: have it saved again from Jupyter"),
    ],
)
def test_a_file_that_is_something_else_is_refused_with_what_to_do(content, said, tmp_path):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(handin.Refused, match=re.escape(f"{NAME} {said}")):
        handin.read(tmp_path / NAME)


def test_a_notebook_of_hundreds_of_megabytes_is_not_read(tmp_path):
    file = put_in(tmp_path) / NAME
    with file.open("wb") as opened:
        opened.truncate(2**40)
    with pytest.raises(handin.Refused, match="more than 16 MiB"):
        handin.read(file)


def rebuilt(submission):
    """The notebook to grade, and notes."""
    handed = {"cells": [handin._cell(cell, number) for number, cell in enumerate(submission["cells"], 1)]}
    return handin.rebuild(handed, notebook(A))


def _marks(change):
    """A right submission whose marks were changed."""

    def make():
        submission = perfect(A)
        for cell in submission["cells"]:
            if cell["metadata"].get("nbgrader", {}).get("grade"):
                change(cell)
        return submission

    return make


FORGED = {
    "tags": _marks(lambda cell: cell["metadata"].update(tags=["skip-execution", "raises-exception", ""])),
    "points": _marks(lambda cell: cell["metadata"]["nbgrader"].update(points=100)),
    "a solution": _marks(lambda cell: cell["metadata"]["nbgrader"].update(solution=True)),
    "not locked": _marks(lambda cell: cell["metadata"]["nbgrader"].update(locked=False)),
    "no grade": _marks(lambda cell: cell["metadata"]["nbgrader"].update(grade=False)),
    "a task": _marks(lambda cell: cell["metadata"]["nbgrader"].update(task=True)),
    "another schema": _marks(lambda cell: cell["metadata"]["nbgrader"].update(schema_version=99)),
    "Markdown": _marks(lambda cell: cell.update(cell_type="markdown")),
    "raw": _marks(lambda cell: cell.update(cell_type="raw")),
    "outputs": _marks(
        lambda cell: cell.update(outputs=[{"output_type": "execute_result", "data": {"text/plain": "4"}}])
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_tests_mark_text_and_kind_are_the_courses_own(what):
    made, _ = rebuilt(FORGED[what]())
    assert named(made).keys() == named(notebook(A)).keys()
    for name, cell in named(notebook(A)).items():
        mine = named(made)[name]
        assert mine["metadata"] == {"nbgrader": cell["metadata"]["nbgrader"], "number": mine["metadata"]["number"]}
        assert mine["cell_type"] == cell["cell_type"]
        if not cell["metadata"]["nbgrader"]["solution"]:
            assert mine["source"] == text(cell)
            assert not mine.get("outputs")


@pytest.mark.parametrize("name", [[], {}, None, 3, "a has changed!", "Missing grade cell", "x" * 10_000])
def test_a_name_that_the_course_does_not_know_is_dropped(name):
    submission = perfect(A)
    submission["cells"][0]["metadata"]["nbgrader"] = {"grade_id": name}
    made, notes = rebuilt(submission)
    assert "nbgrader" not in made["cells"][0]["metadata"]
    assert notes == []


def _colab():
    """As Colab gives it back: no ids, metadata of its own, texts in pieces."""
    submission = perfect(A) | {"nbformat_minor": 0, "metadata": {"colab": {"provenance": []}}}
    for cell in submission["cells"]:
        cell.pop("id", None)
        cell["metadata"] |= {"id": "abc", "colab": {"base_uri": "https://localhost"}}
        cell["source"] = text(cell).splitlines(keepends=True)
    return submission


def _bare_cells(submission):
    """As some editors give it back: no metadata at all."""
    for cell in submission["cells"]:
        cell["metadata"] = {}
    return submission


def _vscode():
    """As VS Code gives it back: other ids, a language for each cell, its own kernel."""
    submission = perfect(A)
    submission["metadata"] = {"kernelspec": {"name": "venv"}, "language_info": {"name": "python"}}
    for number, cell in enumerate(submission["cells"]):
        cell["id"] = f"{number:08x}"
        cell["metadata"]["vscode"] = {"languageId": "python"}
    return submission


def _windows():
    submission = perfect(A)
    for cell in submission["cells"]:
        cell["source"] = text(cell).replace("\n", "\r\n")
    return submission


@pytest.mark.parametrize(
    ("make", "notes"),
    [
        (_colab, []),
        (_vscode, []),
        (_windows, []),
        (lambda: _bare_cells(perfect(A)),
         ["the marks of 10 cells were lost, as some editors do; known again by their text"]),
    ],
)  # fmt: skip
def test_a_notebook_from_another_editor_is_the_same(make, notes):
    made, said = rebuilt(make())
    assert said == notes
    assert [(cell["cell_type"], cell["source"], cell["metadata"].get("nbgrader")) for cell in made["cells"]] == [
        (cell["cell_type"], cell["source"], cell["metadata"].get("nbgrader"))
        for cell in rebuilt(perfect(A))[0]["cells"]
    ]


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_whichever_cell_is_deleted_every_test_stands_behind_what_it_tests(assignment):
    order = [name for name in named(notebook(assignment)) if name not in solutions(assignment)]
    for gone in [[name] for name in order] + [order]:
        submission = perfect(assignment)
        submission["cells"] = [
            cell for cell in submission["cells"] if cell["metadata"].get("nbgrader", {}).get("grade_id") not in gone
        ]
        handed = {"cells": [handin._cell(cell, number) for number, cell in enumerate(submission["cells"], 1)]}
        made, notes = handin.rebuild(handed, notebook(assignment))
        assert list(named(made)) == list(named(notebook(assignment)))
        assert notes == [f"cell {name} was deleted and put back" for name in gone]


def test_what_was_changed_deleted_doubled_or_is_missing_is_said():
    submission = perfect(A)
    cells = named(submission)
    cells["a2_cost_test"]["source"] = "pass"
    cells["a2_given"]["source"] += "\nROUNDING = 'half up'"
    again = copy.deepcopy(cells["a2_line"])
    submission["cells"] = [cell for cell in submission["cells"] if cell is not cells["a2_names"]] + [again]
    _, notes = rebuilt(submission)
    assert notes == [
        "cell a2_line is there twice: the last one counts",
        "cell a2_given is not as in the course's source, and was put back",
        "cell a2_cost_test is not as in the course's source, and was put back",
        "cell a2_names is missing",
    ]


def test_where_the_package_comes_from_on_colab_may_be_filled_in_without_a_word():
    submission = perfect(A)
    setup = named(submission)["setup"]
    assert 'SOURCE = ""' in text(setup)
    setup["source"] = text(setup).replace('SOURCE = ""', 'SOURCE = "drive/MyDrive/course"')
    notebook, notes = rebuilt(submission)
    assert notes == []
    assert 'SOURCE = ""' in text(named(notebook)["setup"])


def test_of_attachments_only_pictures_stay():
    submission = perfect(A)
    submission["cells"][0]["attachments"] = {
        "a": {"image/png": "iVBORw0KGgo=", "text/html": "<script>x</script>"},
        "b": {'image/png" onerror="x': "AA==", "image/jpeg": '"><script>x</script>'},
        "c": "no dictionary",
    }
    made, _ = rebuilt(submission)
    assert made["cells"][0]["attachments"] == {"a": {"image/png": "iVBORw0KGgo="}, "b": {}}


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("a\nb; =1+1", "a b, =1+1"),
        ("\x1b[31mred\x1b[0m\x00", "[31mred [0m"),
        ("\u202egnp", "gnp"),
        ("x" * 999, "x" * 197 + "..."),
    ],
)
def test_a_learners_words_in_the_table_are_one_plain_line(said, line):
    assert handin.plain(said) == line
