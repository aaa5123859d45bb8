"""The pieces of PRILoRA that a learner writes, kept from page to page in ``my_prilora.py`` beside the notebooks.

A check that passes keeps the cell that defines the answer; notebook 06 builds PRILoRA from what is there. The file is
plain Python, so it can be read, run, and carried to another machine.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Problem = Callable[[Callable[..., Any]], str]  # why a function is not right, in a few words, or nothing

FILE = Path("my_prilora.py")

_HEAD = '''\
"""PRILoRA, written by you: each piece as it passed its check in the notebooks."""

import math
from fractions import Fraction

import torch
from torch import Tensor, nn
'''
_MARK = "# %% "  # the mark of a cell that editors know


def keep(name: str, answer: Callable[..., Any], problem: Problem) -> str:
    """Write the cell that defines a right answer into the file, in place of an older one of its name.

    Args:
        name: what the piece is called in the file.
        answer: the function; its cell's imports, functions and values are kept, and nothing else of the cell.
        problem: what it has to pass once more when it stands alone.

    Returns:
        What to add to "well done": where the piece is kept, or why it could not be; nothing outside a notebook.
    """
    code = getattr(inspect.unwrap(answer), "__code__", None)  # a decorator's function hides it
    source = "".join(linecache.getlines(code.co_filename)) if code else ""
    if code and Path(code.co_filename).exists() and "ipykernel" not in code.co_filename:  # no cell
        return ""
    given = getattr(answer, "__name__", "<lambda>")
    if given == "<lambda>":
        return " (not kept for notebook 06: write it with def, so that it has a name)"
    if not source:
        return " (not kept for notebook 06: its cell can't be found; leave out %%time and the like)" * _in_notebook()
    try:
        cell = _definitions(source)
    except SyntaxError as error:
        return f" (not kept for notebook 06: its cell can't be read as Python: {error})"
    if given != name and given in _defined(cell):
        cell += f"\n\n{name} = {given}"
    found = _problem(name, cell, problem)
    if found:
        return f" (not kept for notebook 06: alone, its cell {found})"
    if re.search(rf"^{_MARK}", cell, flags=re.M):
        return f" (not kept for notebook 06: leave out the line that begins with {_MARK!r}, which divides the file)"
    part = FILE.with_suffix(".part")
    try:
        cells = _cells() | {name: cell}
        text = _HEAD + "".join(f"\n\n{_MARK}{name}\n{cell}\n" for name, cell in cells.items())
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, FILE)
    except OSError as error:
        return f" (not kept for notebook 06: {error.strerror} when {FILE} was written)"
    except UnicodeDecodeError as error:
        return f" (not kept for notebook 06: {FILE} is not in UTF-8 any more: {error})"
    return f", and kept in {FILE}" + _clash(name, cells)


def load(ours: dict[str, tuple[Callable[..., Any], Problem]]) -> SimpleNamespace:
    """The function to use for each piece, the learner's or ours; prints a line for each that says whose it is.

    Args:
        ours: our function for each piece, and what the learner's has to pass.
    """
    cells, found = _cells(), {}
    for name, (function, problem) in ours.items():
        why = _problem(name, cells[name], problem) if name in cells else "not written yet"
        found[name] = function if why else _run(cells[name])[name]
        print(f"{name:<18}" + (f"ours: {why}" if why else "yours"))
    return SimpleNamespace(**found)


def _definitions(source: str) -> str:
    """The imports, functions, classes and values of a cell, without what it only shows or does."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # of IPython's own lines, which nothing that is kept needs
        source = re.sub(r"^\s*[%!].*$", "", source, flags=re.M)
        tree = ast.parse(source)
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    lines, kept, last = source.split("\n"), [], 0
    for node in tree.body:
        future = getattr(node, "module", "") == "__future__"  # which would have to stand first in the file
        if isinstance(node, kinds) and not _is_check(node) and not future and node.lineno > last:
            last = node.end_lineno
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
            blank = "\n\n" if kept and isinstance(node, (ast.FunctionDef, ast.ClassDef)) else ""
            kept.append(blank + "\n".join(lines[first - 1 : node.end_lineno]))
    return "\n".join(kept)


def _clash(name: str, cells: dict[str, str]) -> str:
    """A warning of a helper that another piece has, too, but not the same: where the file is imported, one is lost."""
    own = _top_level(cells[name])
    for other, cell in cells.items():
        theirs = _top_level(cell) if other != name else {}
        if twice := [each for each in own.keys() & theirs.keys() if own[each] != theirs[each]]:
            return f" (but {other} has another {min(twice)}: give one of the two another name)"
    return ""


def _top_level(cell: str) -> dict[str, str]:
    """What a cell defines, by name: its functions, classes and values."""
    found = {}
    for node in ast.parse(cell).body:
        names = [node] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else getattr(node, "targets", [])
        found |= {getattr(each, "name", getattr(each, "id", "")): ast.dump(node) for each in names}
    return {name: dump for name, dump in found.items() if name}


def _is_check(node: ast.stmt) -> bool:
    """Whether a line asks for a check and gives what comes back a name."""
    asked = getattr(node, "value", None)
    return isinstance(asked, ast.Call) and ast.unparse(asked.func).startswith("exercises.")


def _defined(cell: str) -> set[str]:
    """The functions and classes that a cell defines, and no others inside them."""
    return {node.name for node in ast.parse(cell).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def _in_notebook() -> bool:
    """Whether IPython runs, so that an answer may come from a cell."""
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def _cells() -> dict[str, str]:
    """The cells of the file, by the name of their piece."""
    if not FILE.is_file():
        return {}
    _, *parts = re.split(rf"^{re.escape(_MARK)}(\w+)\n", FILE.read_text(encoding="utf-8"), flags=re.M)
    return {name: cell.strip("\n") for name, cell in zip(parts[::2], parts[1::2], strict=True)}


def _run(cell: str) -> dict[str, Any]:
    """The names that a cell defines, after the imports at the head of the file."""
    names: dict[str, Any] = {"__name__": FILE.stem}
    exec(compile(_HEAD + cell, str(FILE), "exec", dont_inherit=True), names)  # with no __future__ of this file
    return names


def _problem(name: str, cell: str, problem: Problem) -> str:
    """Why a cell can't be used by itself, in a few words, or nothing."""
    try:
        found = problem(_run(cell)[name])
    except (Exception, SystemExit) as error:  # whatever a learner's file raises
        return f"stops with {type(error).__name__}: {error}"
    return f"does not pass its check: {found}" if found else ""
