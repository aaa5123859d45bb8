"""Tables and figures stand beside the runs, under their name: only files that were written here are written over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

SIGNATURE = {"Software": "prilora-lite"}  # in the figures that are written here
_OF_ANSWERS = "question,contrast,tasks,"
_FIRST_COLUMNS = ("group,encoder,task,method,", _OF_ANSWERS)  # of the tables of runs and of answers
_FIRST_CELLS = ("| method |", "| task |", "| question |", "| machine |", "| crashed |")  # of those in Markdown
_OWN_NAME = {"table", "markdown", "figure"}  # kinds whose files have the study's name alone


def paths_of(file: Path, folder: Path | None = None) -> dict[str, Path]:
    """Every file that :func:`~.reporting.write` may write, by its kind."""
    stem = (file.parent if folder is None else folder) / file.stem
    ends = {"table": ".csv", "markdown": ".md", "figure": ".png"}
    ends |= {kind: f"_{kind}.png" for kind in ("ideas", "cost", "grid", "allocation")}
    return {kind: stem.with_name(stem.name + end) for kind, end in ends.items()}  # lr0.01.csv for lr0.01.jsonl


def check_places(file: Path, folder: Path | None = None) -> None:
    """Raise ValueError if :func:`~.reporting.write` would write over answers to questions, or a file of others."""
    paths = paths_of(file, folder)
    check_own(paths.values())
    _check_no_answers(paths["table"])


def of_another_study(paths: dict[str, Path]) -> set[str]:
    """The kinds of figures that would replace another study's main one, as ``mine_cost.png`` of ``mine_cost``."""
    return {kind for kind in paths.keys() - _OWN_NAME if paths[kind].with_suffix(".md").exists()}


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


def _check_no_answers(table: Path) -> None:
    """Raise ValueError if a table (``.csv``) that is to be written with runs holds the answers to questions."""
    if table.exists() and _header(table).startswith(_OF_ANSWERS):
        raise ValueError(
            f"{table} holds the answers to questions, and tables of runs would replace them: report the questions "
            "(.toml), or choose another place for the tables of runs"
        )


def in_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its header, whose cells keep to their place, whatever texts they hold."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def as_title(title: str) -> str:
    """A title above a table that Markdown takes for no heading and no table, whatever its encoder is called."""
    return f"\\{title}" if title.startswith(("#", "|")) else title


def _header(table: Path) -> str:
    """The first line of a table that is no comment."""
    lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if not line.startswith("#")), "")


def _is_own(path: Path) -> bool:
    if path.suffix == ".png":
        return SIGNATURE["Software"].encode() in path.read_bytes()[:1024]
    if path.suffix == ".csv":
        return _header(path).startswith(_FIRST_COLUMNS)
    text = path.read_text(encoding="utf-8", errors="replace")
    paragraphs = [paragraph.strip("\n") for paragraph in text.strip("\n").split("\n\n")]
    titles, tables = paragraphs[0::2], paragraphs[1::2]
    return len(titles) == len(tables) and all(
        "\n" not in title
        and not title.startswith(("#", "|"))
        and table.startswith(_FIRST_CELLS)
        and all(line.startswith("|") for line in table.splitlines())
        for title, table in zip(titles, tables, strict=True)
    )
