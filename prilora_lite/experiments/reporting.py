"""From raw runs to tables, comparisons and figures: ``prilora-lite report FILE``."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments import allocation, crashes, figures, grid_figure, published
from prilora_lite.experiments.comparison import (
    PRIMARY,
    decide,
    detectable_by_seeds,
    explore,
    finite,
    paired_differences,
    pooled_difference,
    verdict,
)
from prilora_lite.experiments.frames import groups, to_dataframe
from prilora_lite.experiments.methods import METHODS, label_of
from prilora_lite.experiments.own_files import as_title, check_places, in_markdown, of_another_study, paths_of
from prilora_lite.experiments.study import read_crashes, read_runs
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.ranks import linear_ranks
from prilora_lite.shared.errors import warn
from prilora_lite.shared.files import write_whole

MARGIN = 1.0  # percentage points; the largest difference that counts as none, unless another is named


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per task and method: mean and standard deviation of the metric over seeds, counts, seconds per step.

    The deviation is that of a sample (n - 1); with one seed there is none. Runs whose metric is not a finite number
    count in neither, nor as a seed. Of several groups each has rows of its own, and there is a column ``group``.
    """
    known = np.isfinite(runs["value"])
    runs = runs.assign(value=runs["value"].where(known), seed=runs["seed"].where(known))
    apart = ["group"] if "group" in runs and runs["group"].nunique() > 1 else []
    table = (
        runs.groupby([*apart, "task", "method", "metric"], sort=False)
        .agg(
            seeds=("seed", "nunique"),
            mean=("value", "mean"),
            sd=("value", "std"),
            adapter=("adapter", "first"),
            adapter_nonzero=("adapter_nonzero", "median"),
            head=("head", "first"),
            head_nonzero=("head_nonzero", "median"),
            seconds_per_step=("seconds_per_step", "median"),
        )
        .reset_index()
    )
    table = table.astype({"adapter_nonzero": int, "head_nonzero": int})
    return table.sort_values([*apart, "task", "method"], key=_place, kind="stable", ignore_index=True)


def write(file: Path, folder: Path | None = None) -> dict[str, Path]:
    """Write all tables and figures that a file of runs gives, by the file's name.

    ``.csv``: one row per run, below comment lines (#) that say on what they were measured. ``.md``: a table for each
    of :func:`groups`, and the ranks that AdaLoRA chose in each. ``.png``: every run of the first. Where the runs allow
    it, ``_ideas.png``: each idea alone and both; ``_cost.png``: metric against parameters; ``_grid.png``: metric
    against slope and pruning ratio; ``_allocation.png``: AdaLoRA's ranks by layer.

    Args:
        file: the runs, ending in .jsonl.
        folder: where to write; default: beside the file.

    Returns:
        Kind of file -> path.

    Raises:
        ValueError: see :func:`check_places`; nothing is written then.
    """
    records = read_runs(file)
    check_places(file, folder)
    runs, parts, paths = to_dataframe(records), groups(records), paths_of(file, folder)
    environments = {json.dumps(record["environment"]): record["environment"] for record in records}
    heads = ["# " + ", ".join(f"{name} {value}" for name, value in e.items()) + "\n" for e in environments.values()]
    write_whole(paths["table"], ("".join(heads) + runs.to_csv(index=False, lineterminator="\n")).encode())
    tables = [f"{as_title(title)}: {_legend(part)}\n\n{markdown_table(part)}\n" for title, part in parts.items()]
    for title, here in crashes.crashed_runs(records, read_crashes(file)).groupby("group", sort=False):
        tables.append(
            f"{as_title(title)}: runs that crashed, and are left out\n\n{in_markdown(crashes.markdown_cells(here))}\n"
        )
    allocated = allocation.by_group(records)
    for title, ranks in allocated.items():
        what = f"AdaLoRA{f' of {title}' * (len(allocated) > 1)}: final rank by layer, mean over seeds and matrices"
        tables.append(f"{what}\n\n{allocation.markdown(ranks)}\n")
    write_whole(paths["markdown"], "\n".join(tables).encode())
    drawn = _figures(next(iter(parts.values())))
    if allocated:
        ranks = next(iter(allocated.values()))
        line = linear_ranks(ranks["layer"].max() + 1, PRILoRAConfig.first_rank, PRILoRAConfig.last_rank)
        drawn["allocation"] = figures.plot_allocation(ranks, line)
    for kind in (others := of_another_study(paths)) & drawn.keys():
        warn(f"{paths[kind]} belongs to another study, so the figure is not written: rename one of the two files")
        del drawn[kind]
    for kind, figure in drawn.items():
        figures.write_png(paths[kind], figure)
    for kind in paths.keys() - drawn.keys() - others - {"table", "markdown"}:
        paths[kind].unlink(missing_ok=True)  # of runs that are no longer in the file
    return {kind: paths[kind] for kind in ("table", "markdown", *drawn)}


def _figures(runs: pd.DataFrame) -> dict[str, Figure]:
    """The figures for which there are enough runs that have a number."""
    runs = finite(runs)
    if runs.empty:
        return {}
    labels = {name: method.label for name, method in METHODS.items()}
    drawn = {"figure": figures.plot_ablation(runs, labels)}
    several = runs["seed"].nunique() > 1
    if several and any(set(figures.IDEAS) <= set(here["method"]) for _, here in runs.groupby("task")):
        drawn["ideas"] = figures.plot_ideas(runs)
    if several and 2 < runs["method"].nunique() <= len(METHODS):  # the legend of a grid would hide its points
        drawn["cost"] = figures.plot_cost(runs, labels)
    slopes, ratios = grid_figure.grid_values(runs)
    if len(slopes) > 2 and len(ratios) > 1:
        drawn["grid"] = grid_figure.plot_grid(runs, *grid_figure.grid_default(runs))
    return drawn


def format_table(summary: pd.DataFrame) -> str:
    """The summary for a terminal 80 columns wide: metrics in percent, parameters in thousands."""
    lines = [f"{'':<38} {'trainable':>14} {'non-zero':>14}"]
    task = None
    for row in summary.itertuples():
        place = (getattr(row, "group", ""), row.task)
        if place != task:
            task, title = place, f"{row.task}, {row.metric} %"
            lines += [place[0]] if place[0] else []
            lines.append(f"{title:<38} {'adapter':>7}{'head':>7} {'adapter':>7}{'head':>7}{'s/step':>7}")
        label = label_of(row.method)
        if len(label) > 24:
            lines.append(f"  {label}")
            label = ""
        sd = "" if pd.isna(row.sd) else f" ({100 * row.sd:.1f})"
        counts = [_thousands(n) for n in (row.adapter, row.head, row.adapter_nonzero, row.head_nonzero)]
        lines.append(
            f"  {label:<24}{f'{100 * row.mean:.1f}{sd}':>12} "
            f"{counts[0]:>7}{counts[1]:>7} {counts[2]:>7}{counts[3]:>7}{row.seconds_per_step:>7.3f}"
        )
    lines.append(f"mean (standard deviation) over {figures.in_seeds(summary.seeds)}; parameters in thousands")
    if "full" in set(summary.method):
        lines.append("head: pooler and classifier; for full fine-tuning, all weights")
    return "\n".join(lines)


def _legend(runs: pd.DataFrame) -> str:
    """What stands in the cells of :func:`markdown_table`."""
    return f"mean (standard deviation) over {figures.in_seeds([summarize(runs)['seeds'].max()])}; [n]: over n seeds"


def markdown_table(runs: pd.DataFrame) -> str:
    """One row per method, one column per task, in percent, with the counts.

    Round brackets hold the standard deviation; square ones the number of seeds, where it differs from other cells.
    """
    summary = summarize(runs)
    tasks = sorted(set(runs["task"]), key=lambda task: ([*TASKS, task].index(task), task))
    metrics = {task: summary.loc[summary["task"] == task, "metric"].iloc[0] for task in tasks}
    titles = [f"{task}, {metrics[task]} %" for task in tasks]
    usual = summary["seeds"].max()
    header = ["method", *titles, "adapter: trainable", "non-zero", "head"]
    lines = [header, ["---"] * len(header)]
    for method, rows in summary.sort_values("method", key=_place, kind="stable").groupby("method", sort=False):
        by_task = {row.task: row for row in rows.itertuples()}
        values = [_cell(by_task.get(task), usual) for task in tasks]
        counts = [_span(rows[name]) for name in ("adapter", "adapter_nonzero", "head")]
        if not rows["adapter"].any():
            counts[:2] = "-", "-"
        lines.append([label_of(method), *values, *counts])
    parts = [in_markdown(lines)]
    for warning, made in _of_several_machines(runs).items():
        parts += [warning, in_markdown([["machine", "methods"], ["---", "---"], *map(list, made.items())])]
    return "\n\n".join(parts)


def conclusion(runs: pd.DataFrame, margin: float, crashed: pd.DataFrame = crashes.NONE) -> str:
    """What runs say of PRILoRA minus LoRA (or of the second of two methods minus the first), a sentence for each task.

    Args:
        runs: one row per run, of one group.
        margin: the largest difference that counts as none, in percentage points.
        crashed: the runs that crashed, of the same group, as :func:`~.crashes.crashed_runs` gives them.

    Returns:
        Lines of 80 columns at most; empty where there is no such pair.
    """
    methods = list(dict.fromkeys(runs["method"]))
    if not set(PRIMARY) <= set(methods) and len(methods) != 2:
        return ""
    first, second = PRIMARY if set(PRIMARY) <= set(methods) else methods[::-1]
    if not _in_common(runs, first, second):
        return ""
    sentences = []
    for task, differences in paired_differences(runs, first, second).items():
        if task == "all":
            continue
        found = decide(100 * differences, margin)
        interval = f" (95 % interval {found.low:.1f} to {found.high:.1f})" if np.isfinite(found.low) else ""
        seeds = f"{found.pairs} seed{'s' if found.pairs > 1 else ''}"
        said = f"{label_of(first)} minus {label_of(second)} on {task}, {seeds}: {found.mean:+.1f} points{interval}."
        lacks = crashes.beside(crashed, task, first, second)
        sentences += textwrap.wrap(f"{said} {found.sentence}" + (f" But {lacks}." if lacks else ""), 80)
    compared = runs[runs["method"].isin([first, second])]
    for warning in [*_of_several_machines(compared), *_all_alike(compared)]:
        sentences += textwrap.wrap(f"{warning}.", 80)
    return "\n".join(sentences)


def report(records: Iterable[dict[str, Any]], crashed: Iterable[dict[str, Any]] = (), margin: float = MARGIN) -> str:
    """Tables, the main comparison, and the exploratory ones, for a terminal of 80 columns.

    Args:
        records: the finished runs.
        crashed: those that crashed, as :func:`~.study.read_crashes` gives them; they are named.
        margin: the largest difference that counts as none, in percentage points.

    Raises:
        ValueError: no runs.
    """
    records, crashed = list(records), list(crashed)
    if not records:
        all_crashed = f": all {len(crashed)} crashed, the last: {crashed[-1]['error']}" if crashed else ""
        raise ValueError(f"there are no runs to report{all_crashed}")
    left_out, parts = crashes.crashed_runs(records, crashed), groups(records)
    sections = [_section(title, runs, left_out[left_out["group"] == title], margin) for title, runs in parts.items()]
    for title, here in left_out[~left_out["group"].isin(parts)].groupby("group", sort=False):
        sections.append("\n".join([title, "=" * len(title), *_wrapped(crashes.sentences(here))]))
    return "\n\n".join(sections)


def _wrapped(sentences: list[str]) -> list[str]:
    return [line for sentence in sentences for line in textwrap.wrap(sentence, 80)]


def _section(title: str, runs: pd.DataFrame, crashed: pd.DataFrame, margin: float) -> str:
    parts = [title, "=" * len(title), format_table(summarize(runs))]
    if text := published.table(runs):
        parts += ["", text]
    for run in runs.drop(finite(runs).index).itertuples():
        left_out = f"left out: {label_of(run.method)} on {run.task}, seed {run.seed}, whose {run.metric} is {run.value}"
        parts += textwrap.wrap(left_out, 80)
    parts += _wrapped(crashes.sentences(crashed))
    for warning, made in _of_several_machines(runs).items():
        parts += textwrap.wrap(warning, 80)
        for machine, methods in made.items():
            parts += textwrap.wrap(f"{machine}: {methods}", 80, initial_indent="  ", subsequent_indent="    ")
    parts += _wrapped(_all_alike(runs))
    methods, reference = set(runs["method"]), PRIMARY[1]
    if set(PRIMARY) <= methods:
        first, second = map(label_of, PRIMARY)
        own_margin = f", margin {margin:g}" if margin != MARGIN else ""
        parts += ["", f"{first} minus {second}: the main comparison{own_margin}"]
        parts += (
            _primary_lines(runs, crashed, margin)
            if _in_common(runs, *PRIMARY)
            else ["  they have no seed of a task in common"]
        )
    others = [name for name in dict.fromkeys(runs["method"]) if name not in PRIMARY]
    if reference in methods and others:
        parts += ["", f"every other method minus {label_of(reference)}: exploratory"]
        paired = [name for name in others if _in_common(runs, name, reference)]
        if paired:
            parts += _exploratory_lines(runs[runs["method"].isin([*paired, *PRIMARY])], crashed)
        apart = [label_of(name) for name in others if name not in paired]
        for name in apart:
            parts += textwrap.wrap(f" {name}: no seed of a task in common with {label_of(reference)}", 80)
    return "\n".join(parts)


def _of_several_machines(runs: pd.DataFrame) -> dict[str, dict[str, str]]:
    """For each task whose runs were not all made on one machine: a warning, and each machine's methods."""
    said = {}
    for task, here in runs.groupby("task", sort=False) if "machine" in runs else ():
        if here["machine"].nunique() > 1:
            methods = here.groupby("machine", sort=False)["method"].unique()
            warning = f"{task} was run on several machines: a difference may be theirs, and times can't be compared"
            said[warning] = {machine: "; ".join(map(label_of, names)) for machine, names in methods.items()}
    return said


def _all_alike(runs: pd.DataFrame) -> list[str]:
    """A warning for each task on which several methods and seeds have one and the same score."""
    return [
        f"all {len(here)} runs on {task} have the same {here['metric'].iloc[0]}, {100 * here['value'].iloc[0]:.1f}: "
        "they seem to give one answer to all rows; train longer, or at another learning rate"
        for task, here in finite(runs).groupby("task", sort=False)
        if here["value"].nunique() == 1 and here["method"].nunique() > 1 and here["seed"].nunique() > 1
    ]


def _in_common(runs: pd.DataFrame, first: str, second: str) -> bool:
    """Whether two methods have a seed of a task in common."""
    runs = finite(runs)
    one, other = (runs.loc[runs["method"] == method, ["task", "seed"]] for method in (first, second))
    return not one.merge(other).empty


def _primary_lines(runs: pd.DataFrame, crashed: pd.DataFrame, margin: float) -> list[str]:
    lines = []
    for task, differences in paired_differences(runs, *PRIMARY).items():
        found = decide(100 * differences, margin)
        interval = f" ({found.low:5.1f} to {found.high:5.1f})" if np.isfinite(found.low) else ""
        lines += _row(f"  {task:<12} {found.mean:+6.1f}{interval}  {found.verdict}")
        lines += _lacking(crashed, task, *PRIMARY)
    return lines


def _row(text: str) -> list[str]:
    """A row of a comparison, in lines of 80 columns."""
    return textwrap.wrap(text, 80, subsequent_indent=" " * 15)


def _lacking(crashed: pd.DataFrame, task: str, *methods: str) -> list[str]:
    """The row below a verdict that says what it lacks."""
    lacks = crashes.beside(crashed, task, *methods)
    return _row(" " * 15 + lacks) if lacks else []


def _exploratory_lines(runs: pd.DataFrame, crashed: pd.DataFrame) -> list[str]:
    parts, table = [], explore(runs, PRIMARY[1])
    for method, rows in table.groupby("method", sort=False):
        parts.append(f" {label_of(method)}")
        for row in rows.itertuples():
            parts += _row(_line(row, row.p_holm))
            parts += _pooled_line(runs[runs["task"] == row.task], method, row)
            parts += _lacking(crashed, row.task, method, PRIMARY[1])
    if looks := table["p"].notna().sum():
        parts.append(f"p: of the paired t-test, corrected for {looks} looks (Holm)")
        if any("pooled" in part for part in parts):
            parts.append("pooled: by the scatter of all methods' runs, where seeds explain nothing")
    if smallest := detectable_by_seeds(table):
        parts += ["", "smallest true difference shown in 4 studies of 5, at the median scatter of these"]
        parts += [f"  {seeds:>2} seeds: {100 * difference:5.1f}" for seeds, difference in smallest.items()]
    return parts


def _line(row: Any, p_holm: float) -> str:
    """One exploratory difference in points, with what may be said of it."""
    text = f"  {row.task:<12} {100 * row.mean:+6.1f}"
    if not np.isfinite(row.low):
        return f"{text}   ({'one seed' if row.pairs == 1 else 'all seeds alike'}: no interval)"
    word = verdict(row.low, row.high)
    hint = p_holm >= 0.05 and word in ("above", "below")
    interval = f"({100 * row.low:5.1f} to {100 * row.high:5.1f})"
    return f"{text} {interval}  p {p_holm:.3f}  {word}{' (uncorrected)' if hint else ''}"


def _pooled_line(runs: pd.DataFrame, method: str, row: Any) -> list[str]:
    """A line below a paired interval without zero: by the pooled scatter, if pairing by seed gains nothing."""
    if not (row.low > 0 or row.high < 0):
        return []
    _, low, high, p_of_seeds = pooled_difference(runs, method, PRIMARY[1])
    if not p_of_seeds > 0.05:
        return []
    return [f"{'pooled':>14}{'':>7} ({100 * low:5.1f} to {100 * high:5.1f})  {'':>7}  {verdict(low, high)}"]


def _place(column: pd.Series) -> pd.Series:
    """Sorting by method: those with a name first, in their order, then the rest by the numbers in their names."""
    if column.name != "method":
        return column
    named = list(METHODS)

    def key(name: str) -> tuple[Any, ...]:
        place = named.index(name) if name in METHODS else len(named)
        return place, [float(number) for number in re.findall(r"\d+(?:\.\d+)?", name)], name

    places = {name: place for place, name in enumerate(sorted(set(column), key=key))}
    return column.map(places)


def _cell(row: Any, usual_seeds: int) -> str:
    if row is None:
        return "-"
    sd = "" if pd.isna(row.sd) else f" ({100 * row.sd:.1f})"
    return f"{100 * row.mean:.1f}{sd}" + (f" [{row.seeds}]" if row.seeds != usual_seeds else "")


def _span(counts: pd.Series) -> str:
    """A number, or the smallest and the largest where tasks differ."""
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _thousands(count: int) -> str:
    return f"{count / 1000:,.0f}" if count < 10_000_000 else f"{count / 1e6:,.0f}M"
