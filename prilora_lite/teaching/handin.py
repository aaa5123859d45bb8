"""What a learner handed in, taken in piece by piece: regular files alone, and of a notebook only what grading needs.

Nothing here follows a link, opens a pipe, or reads more than it must; code is not parsed, only compared.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST_NOTEBOOK = 16 * 2**20  # bytes
LARGEST = 256 * 2**20  # bytes of all files together
MOST_FILES, MOST_CELLS, LONGEST_CELL = 200, 1_000, 100_000
LONGEST = 300_000  # characters of all cells together: pages of them are made by the teacher's own process
LEFT_OUT = {".ipynb_checkpoints", "__pycache__", ".git", ".DS_Store", "__MACOSX", ".vscode", ".idea"}  # of editors
LONGEST_NOTE = 200  # characters of a learner's that stand in one
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
NO_NOTEBOOKS = {  # by how they begin
    b"PK\x03\x04": "is a zip archive: unpack it",
    b"\xff\xfe": "is saved as UTF-16: have it saved again from Jupyter",
    b"\xfe\xff": "is saved as UTF-16: have it saved again from Jupyter",
}
PICTURES = ("image/png", "image/jpeg")

Cell = dict[str, Any]


class Refused(ValueError):
    """It can't be graded; the message says why."""


def digest(folder: Path) -> str:
    """A number for what was handed in: the names and contents of its files, and what else lies there."""
    found = hashlib.sha256()
    if not _is(folder, stat.S_ISDIR):
        return "no folder"
    left = LARGEST
    for number, path in enumerate(_entries(folder)):
        about = path.lstat()
        found.update(f"{path.name}\n".encode(errors="surrogateescape"))
        if not stat.S_ISREG(about.st_mode) or about.st_size > left or number >= MOST_FILES:  # nor is it taken
            found.update(f"{stat.S_IFMT(about.st_mode)} {about.st_size} {about.st_mtime_ns}".encode())
            continue
        left -= about.st_size
        with _open(path) as file:
            while block := file.read(2**20):
                found.update(block)
    return found.hexdigest()


def take(folder: Path, to: Path) -> list[str]:
    """Copy the regular files of a folder; what was left out, in notes for the teacher.

    Raises:
        Refused: the folder is a link or the like.
    """
    for place in (folder.parent, folder):
        if not _is(place, stat.S_ISDIR):
            raise Refused(f"{place.parent.name}/{place.name} is {_kind(place)}, no folder")
    to.mkdir(parents=True)
    notes, left = [], LARGEST
    for number, path in enumerate(path for path in _entries(folder) if path.name not in LEFT_OUT):
        if not _is(path, stat.S_ISREG):
            notes.append(f"{plain(path.name)} is {_kind(path)}: left out")
            continue
        if path.lstat().st_nlink > 1:  # of the same file elsewhere: another's, or the teacher's
            notes.append(f"{plain(path.name)} is a hard link: left out, put a copy in its place if it is honest")
            continue
        size = path.lstat().st_size
        if size > left or number >= MOST_FILES:
            notes.append(f"{plain(path.name)} is too large or one of too many: left out")
            continue
        left -= size
        with _open(path) as file, (to / path.name).open("xb") as copied:
            copied.write(file.read(size))
    return notes if len(notes) <= 5 else [*notes[:5], f"{len(notes) - 5} more were left out"]


def astray(place: Path, assignment: str, assignments: list[str]) -> str:
    """Why something in ``submitted`` that has no folder of the assignment seems to be handed in all the same.

    Args:
        place: a student's folder, or what lies in place of one.
        assignment: that is graded.
        assignments: all of the course: what has the name of another is no slip.

    Returns:
        What is wrong and how to mend it; nothing where nothing was handed in.
    """
    name, wanted = plain(place.name), f"submitted/STUDENT/{assignment}"
    if place.name.startswith("."):
        return ""
    if _is(place, stat.S_ISREG):
        if place.name.lower().endswith(ARCHIVES):
            return f"{name} is an archive: unpack it, so that its notebook lies in {wanted}"
        loose = _may_be_meant(place.name, assignment, assignments)
        return f"{name} lies outside of a folder: move it into {wanted}" if loose else ""
    try:
        inside = [path.name for path in _entries(place)] if _is(place, stat.S_ISDIR) else []
    except OSError as error:
        return f"{name} can't be read ({error.strerror}): let your account read it"
    for found in inside:
        if found.casefold() == assignment.casefold():
            return f"{name} holds a folder {plain(found)}: rename it to {assignment}"
        if _may_be_meant(found, assignment, assignments):
            return f"{name} holds {plain(found)} outside of a folder {assignment}: move it there"
    return ""


def _may_be_meant(name: str, assignment: str, assignments: list[str]) -> bool:
    """Whether it is the name of a notebook, and not of another assignment's."""
    another = any(other in name for other in assignments if other != assignment)
    return name.lower().endswith(".ipynb") and not another


def find(folder: Path, taken: Path, assignment: str, assignments: list[str]) -> tuple[Path, list[str]]:
    """The notebook among the files that were taken, and a note if it has another name.

    Args:
        folder: what was handed in.
        taken: its regular files, as :func:`take` has copied them.
        assignment: what the notebook should be called; if it is the only one, it may be called otherwise.
        assignments: all of the course.

    Raises:
        Refused: there is none, or another assignment's, or there are several, none of which has the name.
    """
    name = f"{assignment}.ipynb"
    files = sorted(taken.iterdir())
    notebooks = [file for file in files if file.suffix.lower() == ".ipynb"]
    if (taken / name).is_file():
        others = ", ".join(plain(file.name) for file in notebooks if file.name != name)
        return taken / name, [f"also handed in, and not graded: {others}"] if others else []
    if len(notebooks) == 1 and _may_be_meant(notebooks[0].name, assignment, assignments):
        return notebooks[0], [f"handed in as {plain(notebooks[0].name)}"]
    entries = [path for path in _entries(folder) if path.name not in LEFT_OUT]
    if not entries:
        raise Refused("the folder is empty")
    deeper = [path.name for path in entries if _is(path, stat.S_ISDIR) and os.path.lexists(path / name)]
    if deeper:
        raise Refused(f"the notebook lies one folder too deep, in {plain(deeper[0])}: move it up")
    there = ", ".join(file.name for file in files[:5]) or "nothing that can be taken"
    raise Refused(f"there is no {name}, but {plain(there)}")


def read(file: Path) -> dict[str, Any]:
    """A notebook as JSON, of a form that can be worked with.

    Raises:
        Refused: it is too large, or no notebook.
    """
    name = plain(file.name)
    if file.stat().st_size > LARGEST_NOTEBOOK:
        raise Refused(f"{name} has more than {LARGEST_NOTEBOOK // 2**20} MiB")
    content = file.read_bytes()
    if not content:
        raise Refused(f"{name} is empty (0 bytes): have it handed in again")
    for beginning, what in NO_NOTEBOOKS.items():
        if content.startswith(beginning):
            raise Refused(f"{name} {what}")
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
        cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        if not isinstance(cells, list) or len(cells) > MOST_CELLS:
            raise ValueError(f"it has no list of at most {MOST_CELLS} cells")
        taken = [_cell(cell, number) for number, cell in enumerate(cells, 1)]
        if sum(len(cell["source"]) for cell in taken) > LONGEST:
            raise ValueError(f"its cells have more than {LONGEST} characters in all")
        return {"cells": taken}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise Refused(f"{name} can't be read: {plain(error)}") from error


def _cell(cell: Any, number: int) -> Cell:
    """What grading needs of a cell: kind, text, pictures, and the mark by which the course knows it."""
    source = cell["source"] if "source" in cell else cell.get("input")
    text = "".join(source) if isinstance(source, list) else source
    if not isinstance(text, str) or len(text) > LONGEST_CELL:
        raise ValueError(f"cell {number} has no text of at most {LONGEST_CELL} characters")
    text = _written(text).replace("\r\n", "\n").replace("\x00", "")
    metadata = cell.get("metadata")
    mark = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = mark.get("grade_id") if isinstance(mark, dict) else None
    kind = "code" if cell.get("cell_type") == "code" else "markdown"
    taken = {"cell_type": kind, "source": text, "name": name if isinstance(name, str) else None, "number": number}
    given = cell.get("attachments")
    pictures = {
        _written(str(key)): {kind: data for kind, data in value.items() if kind in PICTURES and is_base64(data)}
        for key, value in (given.items() if isinstance(given, dict) and kind == "markdown" else ())
        if isinstance(value, dict)
    }
    return taken | ({"attachments": pictures} if pictures else {})


def _written(text: str) -> str:
    """The text without what no file can hold: JSON may have halves of characters."""
    return text.encode(errors="replace").decode()


def rebuild(handed: dict[str, Any], source: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The notebook to grade: the learner's cells with the course's own marks, what is missing put back.

    Args:
        handed: as :func:`read` gives it; its cells keep their ``number`` in the metadata.
        source: the course's notebook, with solutions and hidden tests.

    Returns:
        The notebook, and notes on what was missing, there twice, or changed.
    """
    ours = {name: cell for cell in source["cells"] if (name := cell["metadata"].get("nbgrader", {}).get("grade_id"))}
    cells, notes = _known(handed["cells"], ours)
    order = list(ours)
    for place, name in enumerate(order):
        names = [cell["name"] for cell in cells]
        fixed = not ours[name]["metadata"]["nbgrader"]["solution"]
        if name in names:
            cell = cells[names.index(name)]
            if fixed and _fixed(cell["source"]) != _fixed(_released(ours[name])):
                notes.append(f"cell {name} is not as in the course's source, and was put back")
        elif fixed:
            notes.append(f"cell {name} was deleted and put back")
            before = [names.index(other) + 1 for other in order[place - 1 : place] if other in names]
            after = [names.index(other) for other in order[place + 1 :] if other in names]
            at = (before or after or [len(cells)])[0]
            cells.insert(at, {"cell_type": ours[name]["cell_type"], "source": "", "name": name, "number": None})
        else:
            notes.append(f"cell {name} is missing")
    built = []
    for number, cell in enumerate(cells):
        metadata: dict[str, Any] = {"number": cell["number"]}
        kind, text = cell["cell_type"], cell["source"]
        if cell["name"] in ours:
            mine = ours[cell["name"]]
            metadata["nbgrader"] = copy.deepcopy(mine["metadata"]["nbgrader"])
            kind = mine["cell_type"]
            text = text if mine["metadata"]["nbgrader"]["solution"] else "".join(mine["source"])
        built.append({"cell_type": kind, "id": f"cell-{number:02}", "metadata": metadata, "source": text})
        if kind == "code":
            built[-1] |= {"outputs": [], "execution_count": None}
        elif "attachments" in cell:
            built[-1]["attachments"] = cell["attachments"]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": copy.deepcopy(source["metadata"]), "cells": built}
    return notebook, notes


def _known(cells: list[Cell], ours: dict[str, Any]) -> tuple[list[Cell], list[str]]:
    """The cells, each known by the course's name for it: by its mark, or by its text where an editor lost that."""
    notes, seen = [], set()
    for cell in reversed(cells):
        if cell["name"] not in ours:
            cell["name"] = None
        elif cell["name"] in seen:
            notes.append(f"cell {cell['name']} is there twice: the last one counts")
            cell["name"] = None
        else:
            seen.add(cell["name"])
    found = 0
    for name in (name for name in ours if name not in seen):
        for cell in reversed([cell for cell in cells if cell["name"] is None]):
            if _is_it(cell, ours[name]):
                cell["name"], found = name, found + 1
                break
    if found:
        notes.append(f"the marks of {found} cells were lost, as some editors do; known again by their text")
    return cells, notes


def _is_it(cell: Cell, ours: dict[str, Any]) -> bool:
    """Whether a cell without a mark is this one of the course's: it has its text, or sets what is to be written."""
    if not ours["metadata"]["nbgrader"]["solution"]:
        return _bare(cell["source"]) == _bare(_released(ours)) != ""
    sets = re.compile(r"^(?:def|class) +(\w+)|^(\w+) *=", re.M)
    names = {first or second for first, second in sets.findall("".join(ours["source"]))}
    return cell["cell_type"] == "code" and not names.isdisjoint(a or b for a, b in sets.findall(cell["source"]))


def _released(cell: dict[str, Any]) -> str:
    """A cell of the source as learners get it."""
    text = re.sub(r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS", "", "".join(cell["source"]), flags=re.S)
    return re.sub(r"=== BEGIN MARK SCHEME ===.*?=== END MARK SCHEME ===", "", text, flags=re.S)


def _fixed(text: str) -> str:
    """What must be as it was: all but spaces, and where the set-up cell finds the package on Colab."""
    return _bare(re.sub(r'^SOURCE = "[^"\n]*"', "", text, flags=re.M))


def _bare(text: str) -> str:
    return "".join(text.split())


def is_base64(text: Any) -> bool:
    """Whether it is data of a picture, and can't be anything else on a page."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9+/=\s]*", text) is not None


def plain(text: object) -> str:
    """A learner's words in one line of the table: no control characters, nothing that splits a line of it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 4 * LONGEST_NOTE]).split())
    line = line.replace(";", ",")
    return line if len(line) <= LONGEST_NOTE else f"{line[: LONGEST_NOTE - 3]}..."


def _entries(folder: Path) -> Iterator[Path]:
    yield from sorted(folder / name for name in os.listdir(folder))


def _is(path: Path, kind: Any) -> bool:
    try:
        return kind(path.lstat().st_mode)
    except OSError:
        return False


def _kind(path: Path) -> str:
    kinds = {"a link": stat.S_ISLNK, "a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a file": stat.S_ISREG}
    return next((name for name, kind in kinds.items() if _is(path, kind)), "a device or the like")


def _open(path: Path) -> Any:
    """A regular file for reading; an error where it has become a link since it was looked at."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags), "rb")
