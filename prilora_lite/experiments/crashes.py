"""The runs that crashed: a report names them, since those that are left may be the lucky ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from prilora_lite.experiments.frames import named
from prilora_lite.experiments.methods import label_of

COLUMNS = ("group", "task", "method", "seed", "error")
NONE = pd.DataFrame(columns=COLUMNS)


def crashed_runs(records: Iterable[dict[str, Any]], crashes: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per run that crashed: the group that it would stand in, task, method, seed and error.

    Args:
        records: the finished runs.
        crashes: those that crashed, as :func:`~.study.read_crashes` gives them.
    """
    records, crashes = list(records), list(crashes)
    if not crashes:
        return NONE
    together = named([*records, *crashes])
    alone = {title: own for (_, title, _), (_, own, _) in zip(together, named(records), strict=False)}
    rows = [
        (alone.get(title, title), run["task"], method, run["seed"], " ".join(run["error"].split()))
        for run, title, method in together
        if "error" in run
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def sentences(crashed: pd.DataFrame) -> list[str]:
    """What is left out, a sentence for each task, method and error."""
    return [
        f"left out: {label_of(method)} on {task}, seed{'s' * (',' in seeds)} {seeds}, which crashed: {error}"
        for task, method, seeds, error in _together(crashed)
    ]


def markdown_cells(crashed: pd.DataFrame) -> list[list[str]]:
    """The same as a table."""
    rows = [["crashed", "task", "seeds", "error"], ["---"] * 4]
    for task, method, seeds, error in _together(crashed):
        rows.append([label_of(method), task, seeds, error])
    return rows


def beside(crashed: pd.DataFrame, task: str, *methods: str) -> str:
    """How many seeds a comparison on a task (``all``: on any) lacks, since they crashed; empty if none did."""
    here = crashed[crashed["method"].isin(methods) & crashed["task"].isin(crashed["task"] if task == "all" else [task])]
    counts = here.groupby("method", sort=False)["seed"].nunique()
    return " and ".join(
        f"{n} {'seed' if n == 1 else 'seeds'} of {label_of(name)} crashed" for name, n in counts.items()
    )


def _together(crashed: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Task, method, seeds and error, the seeds of one error together."""
    rows = []
    for (task, method, error), here in crashed.groupby(["task", "method", "error"], sort=False):
        rows.append((task, method, ", ".join(map(str, sorted(set(here["seed"])))), error))
    return rows
