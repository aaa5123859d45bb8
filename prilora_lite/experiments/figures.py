"""Figures of a study's results: pure functions from its runs to a matplotlib figure; and what all figures share."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter
from scipy import stats

from prilora_lite.shared.files import write_whole

# Okabe and Ito's colours, which the colour-blind can tell apart, and anyone on a projector
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P"
VERDICTS = {"difference": (COLOURS[1], "D"), "equal": (COLOURS[0], "o"), "not decided": ("0.45", "s")}
IDEAS = ("lora", "ranks", "pruning", "prilora")  # neither, each alone, both


def plot_ablation(runs: pd.DataFrame, labels: dict[str, str] | None = None) -> Figure:
    """Every run as a dot and every method's mean as a bar, one panel per task.

    Args:
        runs: one row per run, as :func:`~prilora_lite.experiments.reporting.to_dataframe` gives them.
        labels: method -> text on the axis; default: the method's name.

    Returns:
        A figure; metrics in percent.
    """
    labels = labels or {}
    tasks = list(dict.fromkeys(runs["task"]))
    methods = [method for method in labels if method in set(runs["method"])]
    methods += [method for method in dict.fromkeys(runs["method"]) if method not in methods]
    figure = Figure(figsize=(1.5 + 4.2 * len(tasks), 1.3 + 0.5 * len(methods)), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True):
        here = runs[runs["task"] == task]
        for place, method in enumerate(methods):
            values = 100 * here.loc[here["method"] == method, "value"].to_numpy()
            if len(values):
                colour = COLOURS[place % len(COLOURS)]
                spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
                axes.plot(values, place + spread, "o", color=colour, markersize=7, alpha=0.75, clip_on=False)
                axes.plot([values.mean()] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=3)
        seeds = here["seed"].nunique()
        axes.set_title(f"{task} ({seeds} {'seed' if seeds == 1 else 'seeds'})")
        axes.set_xlabel(f"{here['metric'].iloc[0]} on validation (%)")
        axes.grid(axis="x", color="0.85")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(methods)), [labels.get(method, method) for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    return figure


def plot_answers(answers: pd.DataFrame) -> Figure:
    """All answered questions in one picture: difference, its 95 % interval, and the margin as a grey band.

    Args:
        answers: one row a question, as :func:`~.answers.table` gives them; those not run are left out.

    Returns:
        A figure; differences in percentage points.
    """
    rows = answers[answers["verdict"] != "not run"].reset_index(drop=True)
    figure = Figure(figsize=(10, 1.5 + 0.62 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    seen = set()
    for place, row in rows.iterrows():
        word = next(word for word in VERDICTS if row["verdict"].startswith(word))
        colour, marker = VERDICTS[word]
        axes.barh(place, 2 * row["margin"], left=-row["margin"], height=0.8, color="0.9", zorder=0)
        axes.plot([row["low"], row["high"]], [place] * 2, color=colour, linewidth=3)
        label = None if word in seen else word
        axes.plot(row["difference"], place, marker, color=colour, markersize=9, linestyle="none", label=label)
        seen.add(word)
    axes.axvline(0, color="0.3", linewidth=1)
    names = []
    for _, row in rows.iterrows():
        contrast = textwrap.fill(
            row["contrast"].replace(" / ", "\u00a0/\u00a0"), 62
        )  # no line ends at a fraction's bar
        names.append(f"{contrast}\n[{row['tasks'].replace('pocket-', '').replace(' ', ', ')}]")
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("difference in points, with its 95 % interval (grey: the margin)")
    tidy(axes)
    axes.tick_params(axis="y", labelsize=9, length=0)
    if seen:
        figure.legend(loc="outside upper right", ncols=len(seen), frameon=False)
    return figure


def plot_ideas(runs: pd.DataFrame) -> Figure:
    """The two ideas, each alone and together: mean and 95 % t-interval over seeds, one panel per task.

    Args:
        runs: one row per run, with all four methods of :data:`IDEAS`.

    Returns:
        A figure: on the left of a panel without pruning, on the right with it; one line per schedule. A point of one
        seed is hollow.
    """
    tasks = [
        task for task in dict.fromkeys(runs["task"]) if set(IDEAS) <= set(runs.loc[runs["task"] == task, "method"])
    ]
    figure, panels = row_of_panels(len(tasks), height=4)
    for axes, task in zip(panels, tasks, strict=True):
        here = runs[runs["task"] == task]
        lines = (("flat ranks", IDEAS[0::2], "o", -0.03), ("rising ranks", IDEAS[1::2], "s", 0.03))
        for colour, (label, methods, marker, shift) in zip(COLOURS, lines, strict=False):
            means, halves = zip(*(_mean_and_half(here, here["method"] == method) for method in methods), strict=True)
            axes.errorbar(
                [shift, 1 + shift], means, halves, color=colour, marker=marker, markersize=8, capsize=5, label=label
            )
            for x, mean, method in zip([shift, 1 + shift], means, methods, strict=True):
                if (here["method"] == method).sum() == 1:
                    axes.plot(x, mean, marker, color=colour, markersize=8, markerfacecolor="white", zorder=3)
        axes.set_xticks([0, 1], ["not pruned", "half of A pruned"])
        axes.set_xlim(-0.4, 1.4)
        axes.set_title(task)
        axes.set_ylabel(f"{here['metric'].iloc[0]} on validation (%)")
    panels[0].legend(frameon=False, loc="best")
    return figure


def plot_cost(runs: pd.DataFrame, labels: dict[str, str] | None = None) -> Figure:
    """Metric against parameters that are trained and not zero, one point per method, one panel per task.

    Args:
        runs: one row per run.
        labels: method -> its text in the legend; default: the method's name.

    Returns:
        A figure; mean and 95 % t-interval over seeds, hollow where there is one seed. The head counts: it is trained,
        too.
    """
    labels, tasks = labels or {}, list(dict.fromkeys(runs["task"]))
    methods = [method for method in labels if method in set(runs["method"])]
    methods += [method for method in dict.fromkeys(runs["method"]) if method not in methods]
    figure, panels = row_of_panels(len(tasks), height=4.5)
    for axes, task in zip(panels, tasks, strict=True):
        here = runs[runs["task"] == task]
        for place, method in enumerate(methods):
            chosen = here["method"] == method
            if chosen.any():
                mean, half = _mean_and_half(here, chosen)
                parameters = (here.loc[chosen, "adapter_nonzero"] + here.loc[chosen, "head_nonzero"]).median()
                colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS)]
                axes.errorbar(
                    parameters, mean, half, color=colour, marker=marker, markersize=8, capsize=4, linestyle="none",
                    label=labels.get(method, method), markerfacecolor="white" if chosen.sum() == 1 else colour,
                )  # fmt: skip
        low, high = axes.dataLim.intervalx
        if high > 10 * low:  # on a narrow range logarithms only crowd the ticks
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.set_title(task)
        axes.set_ylabel(f"{here['metric'].iloc[0]} on validation (%)")
    figure.supxlabel("trained parameters that are not zero", fontsize="medium")  # too long for each narrow panel
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    return figure


def plot_allocation(ranks: pd.DataFrame, line: Sequence[int]) -> Figure:
    """Where AdaLoRA put its ranks, every seed thin and their mean thick, beside a schedule; one panel per task.

    Args:
        ranks: one row for each run and layer, as :func:`~prilora_lite.experiments.allocation.allocations` gives them.
        line: PRILoRA's rank of each layer, first layer first.
    """
    tasks = list(dict.fromkeys(ranks["task"]))
    columns = min(len(tasks), 2)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(10, 1 + 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes in list(panels)[len(tasks) :]:
        axes.set_axis_off()
    for axes, task in zip(figure.axes, tasks, strict=False):
        here = ranks[ranks["task"] == task]
        for _, run in here.groupby("seed"):
            axes.plot(run["layer"], run["rank"], color=COLOURS[5], linewidth=1)
        mean = here.groupby("layer")["rank"].mean()
        axes.plot(mean.index, mean, "o-", color=COLOURS[0], linewidth=2.5, label="AdaLoRA, chosen by the data")
        axes.plot(range(len(line)), line, "s--", color=COLOURS[1], linewidth=2, label="PRILoRA, a line")
        axes.set_title(task)
        axes.set_xlabel("layer")
        axes.set_ylabel("rank, mean of its matrices")
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def grid_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose configurations differ only in slope and ratio, at one mean rank; adds the column ``slope``."""
    if "ranks" in runs:
        runs = runs[runs["ranks"] == "linear"]
    flat = runs["first_rank"] == runs["last_rank"]  # all scalings are one
    usual = runs[(flat | (runs["scaling"] == "layer")) & runs["layers"].isna()]
    total = usual["first_rank"] + usual["last_rank"]
    usual = usual[total == total.mode().max()]
    pruned = (usual["interval"] == 40) & (usual["importance"] == "magnitude_input")
    usual = usual[pruned | (usual["ratio"] == 0)]
    return usual.assign(slope=(usual["last_rank"] - usual["first_rank"]).astype(int))


def grid_values(runs: pd.DataFrame) -> tuple[list[int], list[float]]:
    """The slopes r_f - r_s and the pruning ratios that there are runs of, at the default interval and importance."""
    usual = grid_cells(runs)
    return sorted(set(usual["slope"])), sorted(set(usual["ratio"]))


def grid_default(runs: pd.DataFrame) -> tuple[int, float]:
    """Slope and ratio that a grid is first shown at: PRILoRA's own, or the largest where there are no runs of them."""
    slopes, ratios = grid_values(runs)
    return 8 if 8 in slopes else slopes[-1], 0.5 if 0.5 in ratios else ratios[-1]


def plot_grid(runs: pd.DataFrame, slope: int, ratio: float) -> Figure:
    """Metric against the rank slope at one pruning ratio, and against the ratio at one slope; a line per task.

    Args:
        runs: one row per run of a grid, all with the same mean rank.
        slope: r_f - r_s, for the panel on the right, marked on the left.
        ratio: share of A that is pruned, for the panel on the left, marked on the right.

    Returns:
        A figure; mean and 95 % t-interval over seeds.

    Raises:
        ValueError: no runs of that slope or ratio; the message names those that there are.
    """
    usual = grid_cells(runs)
    slopes, ratios = grid_values(runs)
    for name, value, there in (("slope", slope, slopes), ("ratio", ratio, ratios)):
        if value not in there:
            raise ValueError(f"no runs with {name} {value!r}; there are {', '.join(f'{v:g}' for v in there)}")
    figure, (left, right) = row_of_panels(2, height=4, sharey=True)
    panels = (
        (left, "slope", slopes, usual["ratio"] == ratio, slope, f"at pruning ratio {ratio:g}"),
        (right, "ratio", ratios, usual["slope"] == slope, ratio, f"at slope {slope:+d}" if slope else "at slope 0"),
    )
    for axes, name, values, fixed, here, title in panels:
        axes.axvline(here, color="0.8", linewidth=8, zorder=0)
        for place, task in enumerate(dict.fromkeys(usual["task"])):
            cells = [fixed & (usual["task"] == task) & (usual[name] == value) for value in values]
            points = [
                (value, *_mean_and_half(usual, cell)) for value, cell in zip(values, cells, strict=True) if cell.any()
            ]
            axes.errorbar(
                *zip(*points, strict=True), color=COLOURS[place], marker=MARKERS[place % 4], capsize=4, label=task
            )
        axes.set_xticks(values)
        axes.set_title(title)
    left.set_xlabel("rank slope: last rank - first rank")
    right.set_xlabel("pruning ratio")
    left.set_ylabel("metric on validation (%)")
    right.legend(frameon=False, loc="best")
    return figure


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure at a resolution for print; a crash leaves an older file as it was."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150)
    write_whole(path, picture.getvalue())


def _mean_and_half(runs: pd.DataFrame, chosen: pd.Series) -> tuple[float, float]:
    """Mean in percent, and half the width of its 95 % t-interval; 0 for one run."""
    values = 100 * runs.loc[chosen, "value"].to_numpy()
    if len(values) < 2:
        return float(values.mean()), 0.0
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def row_of_panels(
    count: int, height: float = 3.4, ratios: Sequence[float] | None = None, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """A figure as wide as a notebook, with some panels side by side."""
    figure = Figure(figsize=(10, height), layout="constrained")
    panels = figure.subplots(1, count, width_ratios=ratios, sharey=sharey, squeeze=False)[0]
    for axes in panels:
        tidy(axes)
    return figure, panels


def tidy(axes: Axes) -> None:
    """A light grid behind the data, no frame on top and right, labels that can be read on a projector."""
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.label.set_fontsize(12)
    axes.yaxis.label.set_fontsize(12)
    axes.tick_params(labelsize=11)
