"""Tables and figures stand beside the runs, under their name: only files that were written here are written over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_FIRST_COLUMNS = ("group,encoder,task,method,", "question,contrast,tasks,")  # of the tables of runs and of answers
_FIRST_CELLS = ("| method |", "| task |", "| question |", "| machine |", "| crashed |")  # of those in Markdown


def check_own(paths: Iterable[Path]) -> None:
    """Raise ValueError if one of the files is there and was not written by a report or an answer.

    Args:
        paths: of tables (``.csv``, ``.md``) and figures (``.png``).
    """
    for path in paths:
        if path.exists() and not (path.is_file() and _is_own(path)):
            raise ValueError(
                f"{path} was not written by prilora-lite, or was changed by hand since, so it stays as it is: rename "
                "it, or choose another place for the tables and figures"
            )


def _is_own(path: Path) -> bool:
    if path.suffix == ".png":
        tables = [table for table in path.parent.glob("*.md") if path.stem.startswith(table.stem)]
        return b"Matplotlib" in path.read_bytes()[:1024] and any(map(_is_own, tables))
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".csv":
        return next((line for line in text.splitlines() if not line.startswith("#")), "").startswith(_FIRST_COLUMNS)
    paragraphs = [paragraph.strip("\n") for paragraph in text.strip("\n").split("\n\n")]
    titles, tables = paragraphs[0::2], paragraphs[1::2]
    return len(titles) == len(tables) and all(
        "\n" not in title
        and not title.startswith(("#", "|"))
        and table.startswith(_FIRST_CELLS)
        and all(line.startswith("|") for line in table.splitlines())
        for title, table in zip(titles, tables, strict=True)
    )
