"""From raw runs to the tables and sentences of a report: ``prilora-lite report FILE``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from prilora_lite.comparison import PRIMARY, compare, detectable, explore, verdict
from prilora_lite.encoders import settings_for
from prilora_lite.study import METHODS, format_table, summarize, to_dataframe


def groups(records: Iterable[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Runs that may be compared with one another: same encoder, all of the preset's length or of the same other one.

    Returns:
        Title -> one row per run.
    """
    runs = to_dataframe(records)
    usual = [
        epochs == settings_for(encoder, task).epochs
        for encoder, task, epochs in zip(runs["encoder"], runs["task"], runs["epochs"], strict=True)
    ]
    length = ["" if same else f", {epochs:g} epochs" for same, epochs in zip(usual, runs["epochs"], strict=True)]
    return dict(list(runs.groupby(runs["encoder"] + length, sort=False)))


def report(records: Iterable[dict[str, Any]]) -> str:
    """Tables, the comparison that was named before the runs, and the exploratory ones, for a terminal of 80 columns.

    Raises:
        ValueError: no runs.
    """
    records = list(records)
    if not records:
        raise ValueError("there are no runs to report")
    return "\n\n".join(_section(title, runs) for title, runs in groups(records).items())


def _section(title: str, runs: pd.DataFrame) -> str:
    parts = [title, "=" * len(title), format_table(summarize(runs))]
    methods = set(runs["method"])
    if set(PRIMARY) <= methods:
        first, second = (METHODS[name].label for name in PRIMARY)
        parts += ["", f"{first} minus {second}: named before the runs"]
        parts += [_line(row) for row in compare(runs, *PRIMARY).itertuples()]
        parts += ["[n: d]: n seeds show a true difference of d in 4 studies of 5"]
    others = runs[runs["method"] != PRIMARY[0]]
    if PRIMARY[1] in methods and others["method"].nunique() > 1:
        table = explore(others, PRIMARY[1])
        parts += ["", f"every other method minus {METHODS[PRIMARY[1]].label}: exploratory"]
        for method, rows in table.groupby("method", sort=False):
            parts.append(f" {METHODS[method].label if method in METHODS else method}")
            parts += [_line(row, row.p_holm) for row in rows.itertuples()]
        parts.append(f"p: of the paired t-test, corrected for {table['p'].notna().sum()} looks (Holm)")
    return "\n".join(parts)


def _line(row: Any, p_holm: float | None = None) -> str:
    """One difference in points, with what may be said of it."""
    text = f"  {row.task:<12} {100 * row.mean:+6.1f}"
    if row.pairs == 1:
        return f"{text}   (one seed: no interval)"
    text += f" ({100 * row.low:5.1f} to {100 * row.high:5.1f})"
    if p_holm is not None:
        return f"{text}  p {p_holm:.3f}"
    smallest = f" [{row.pairs}: {100 * detectable(row.sd, row.pairs):.1f}]" if row.sd else ""
    return f"{text}  {verdict(row.low, row.high)}{smallest}"
