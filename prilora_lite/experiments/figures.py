"""Figures of a study's results: pure functions from its runs to a matplotlib figure; and what all figures share."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from prilora_lite.experiments import answer_places
from prilora_lite.experiments.comparison import mean_and_half
from prilora_lite.experiments.looks import LOOKS, Look, looks_of
from prilora_lite.experiments.own_files import SIGNATURE
from prilora_lite.shared.files import write_whole

# What is not a method has no colour: marker and fill tell verdicts and tasks apart
VERDICTS = {"difference": ("D", "0.1", "0.1"), "equal": ("o", "0.1", "white"), "not decided": ("s", "0.55", "0.55")}
TASK_GREYS = ("0.1", "0.55", "0.35", "0.7")
IDEAS = ("lora", "ranks", "pruning", "prilora")  # neither, each alone, both
_SEEDS = ", paired by seed (dotted: LoRA's mean)"
_METRICS = {"matthews": "Matthews correlation", "pearson_spearman": "mean correlation"}


def plot_ablation(runs: pd.DataFrame, labels: dict[str, str] | None = None) -> Figure:
    """Every run as a dot and every method's mean as a bar, one panel per task; of two methods, pairs are joined.

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
    looks = looks_of(runs)
    width = 1.5 + (4.2 if len(tasks) < 3 else 2.85) * len(tasks)  # three fit beside each other in a notebook
    figure = Figure(figsize=(width, 1.3 + 0.5 * len(methods)), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True):
        here, dots = runs[runs["task"] == task], {}
        for place, method in enumerate(methods):
            values = 100 * here[here["method"] == method].set_index("seed")["value"]
            if len(values):
                colour = looks[method].colour
                spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
                axes.plot(values, place + spread, "o", color=colour, markersize=7, alpha=0.75, clip_on=False)
                axes.plot([values.mean()] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=3)
                for seed, x, y in zip(values.index, values, place + spread, strict=True):
                    dots.setdefault(seed, []).append((x, y))
        if len(methods) == 2:
            pairs = [ends for ends in dots.values() if len(ends) == 2]
            axes.add_collection(LineCollection(pairs, colors="0.7", linewidths=1, zorder=1))
        axes.set_title(f"{_title(task, here)} ({in_seeds(here.groupby('method')['seed'].nunique())})")
        axes.set_xlabel(f"{_metric(here)} on validation (%)")
        axes.grid(axis="x", color="0.85")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(methods)), [labels.get(method, method) for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    if len(methods) == 2:  # scatter is what one looks at then: a point is as wide on each task
        ends = {axes: axes.get_xlim() for axes in figure.axes}
        widest = max(high - low for low, high in ends.values())
        for axes, (low, high) in ends.items():
            axes.set_xlim((low + high - widest) / 2, (low + high + widest) / 2)
    return figure


def _metric(runs: pd.DataFrame) -> str:
    """The metric of a task's runs, as one would say it."""
    name = runs["metric"].iloc[0]
    return _METRICS.get(name, name)


def in_seeds(counts: Iterable[int]) -> str:
    """How many seeds methods have: ``5 seeds``, or ``5 to 10 seeds``."""
    fewest, most = min(counts), max(counts)
    return f"{fewest if fewest == most else f'{fewest} to {most}'} {'seed' if most == 1 else 'seeds'}"


def _title(task: str, runs: pd.DataFrame) -> str:
    """A task's name, with a warning where its runs come from several machines."""
    several = "machine" in runs and runs["machine"].nunique() > 1
    return as_written(f"{task}, several machines" if several else task)


def as_written(name: str) -> str:
    """A name that Matplotlib draws as it is: what stands between two dollars it would set as a formula."""
    return name.replace("$", r"\$")


def plot_answers(answers: pd.DataFrame) -> Figure:
    """The answered questions in one picture: difference, its 95 % interval, and the margin as a grey band.

    A question that is asked again at the best learning rates is a thinner line below the first answer.

    Args:
        answers: one row a question, as :func:`~.answers.table` gives them; those without an answer are left out.

    Returns:
        A figure; differences in percentage points.
    """
    rows = answers[answers["difference"].notna()]
    again = rows["settings"].str.contains(", best rates")
    rows = rows.assign(again=again, place=answer_places.places_of(rows, again))
    labels = answer_places.labels_of(rows)
    twice = set(rows["place"][rows["place"].duplicated()])
    figure = Figure(figsize=(10, 1.5 + 0.66 * max(1, len(labels))), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1)
    axes = figure.subplots()
    seen = set()
    for _, row in rows.iterrows():
        place = row["place"]
        axes.barh(place, 2 * row["margin"], left=-row["margin"], height=0.8, color="0.9", zorder=0)
        place += (0.24 if row["again"] else -0.1) if place in twice else 0
        _draw_answer(axes, place, row, seen, thin=row["again"])
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(labels)), map(as_written, labels))
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    thin = "\nthin: at each configuration's best learning rate" if rows["again"].any() else ""
    axes.set_xlabel(f"difference in points, with its 95 % interval (grey: the margin){thin}")
    tidy(axes)
    axes.tick_params(axis="y", labelsize=9, length=0)
    if seen:
        figure.legend(loc="outside upper right", ncols=len(seen), frameon=False)
    return figure


def plot_chosen_answers(answers: pd.DataFrame, groups: Mapping[str, Mapping[str, str]]) -> Figure:
    """Some of the answers under headings, each with its numbers: a picture that fits on one screen.

    Args:
        answers: see :func:`plot_answers`.
        groups: heading -> name of a question -> what it is called here; one without an answer is left out.

    Returns:
        A figure; differences in percentage points.
    """
    answered = answers[answers["difference"].notna()].set_index("question")
    labels: list[str] = []
    headings: list[int] = []
    figure = Figure(figsize=(10, 1), layout="constrained")
    axes = figure.subplots()
    seen: set[str] = set()
    for heading, chosen in groups.items():
        headings.append(len(labels))
        labels.append(heading)
        for name, label in chosen.items():
            if name in answered.index:
                row = answered.loc[name]
                axes.barh(len(labels), 2 * row["margin"], left=-row["margin"], height=0.9, color="0.9", zorder=0)
                _draw_answer(axes, len(labels), row, seen)
                numbers = f"{row['difference']:+.1f}  ({row['low']:.1f} to {row['high']:.1f})"
                axes.text(1.02, len(labels), numbers, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
                labels.append(label)
    figure.set_size_inches(10, 1.2 + 0.27 * len(labels))
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(labels)), map(as_written, labels))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel("difference in points (bar: 95 % interval; grey: the margin)")
    tidy(axes)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelsize=9, length=0)
    for place in headings:
        axes.get_yticklabels()[place].set_fontweight("bold")
    if seen:
        figure.legend(loc="outside upper right", ncols=len(seen), frameon=False)
    return figure


def _draw_answer(axes: Axes, place: float, row: pd.Series, seen: set[str], thin: bool = False) -> None:
    """An answer's difference and interval; its verdict is named in the legend when it is seen for the first time."""
    word = next(word for word in VERDICTS if row["verdict"].startswith(word))
    marker, colour, fill = VERDICTS[word]
    width = 1.5 if thin else 3
    axes.plot([row["low"], row["high"]], [place] * 2, color=colour, linewidth=width, solid_capstyle="butt")
    axes.plot(
        row["difference"], place, marker, color=colour, markerfacecolor=fill, markersize=6 if thin else 8,
        markeredgewidth=width * 2 / 3, linestyle="none", label=None if word in seen else word,
    )  # fmt: skip
    seen.add(word)


def plot_ideas(runs: pd.DataFrame) -> Figure:
    """The two ideas, each alone and together: means over seeds, one panel per task.

    Args:
        runs: one row per run, with all four methods of :data:`IDEAS`.

    Returns:
        A figure: on the left of a panel without pruning, on the right with it; one line per schedule. A bar is the 95 %
        t-interval of the difference to LoRA, paired by seed; LoRA's mean is a dotted line. A point of one seed is
        hollow.
    """
    tasks = [
        task for task in dict.fromkeys(runs["task"]) if set(IDEAS) <= set(runs.loc[runs["task"] == task, "method"])
    ]
    figure, panels = row_of_panels(len(tasks), height=4.3)
    names = {"lora": "LoRA", "ranks": "ranks alone", "pruning": "pruning alone", "prilora": "PRILoRA: both"}
    for axes, task in zip(panels, tasks, strict=True):
        here = runs[runs["task"] == task]
        for methods, dashes, shift in ((IDEAS[0::2], "-", -0.03), (IDEAS[1::2], "--", 0.03)):
            places = [shift, 1 + shift]
            means, halves = zip(*(_mean_and_half(here, method, "lora") for method in methods), strict=True)
            bars = {"ecolor": [LOOKS[method].colour for method in methods], "elinewidth": 2.5}
            axes.errorbar(places, means, halves, color="0.6", linestyle=dashes, zorder=1.5, **bars)
            for x, mean, method in zip(places, means, methods, strict=True):
                label = names[method] if axes is panels[0] else None
                _draw_mean(axes, x, mean, LOOKS[method], (here["method"] == method).sum() == 1, label)
        axes.axhline(_mean_and_half(here, "lora")[0], color=LOOKS["lora"].colour, linestyle=":", zorder=1)
        axes.set_xticks([0, 1], ["not pruned", "half of A pruned"])
        axes.set_xlim(-0.4, 1.4)
        axes.set_title(_title(task, here[here["method"].isin(IDEAS)]))
        axes.set_ylabel(f"{_metric(here)} on validation (%)")
    figure.legend(loc="outside upper center", ncols=len(IDEAS), frameon=False)
    figure.supxlabel(f"bars: 95 % interval of the difference to LoRA{_SEEDS}", fontsize=11)
    return figure


def plot_cost(runs: pd.DataFrame, labels: dict[str, str] | None = None) -> Figure:
    """What each method costs, the cheapest on top, and beside it how well it does; one panel per task.

    Args:
        runs: one row per run.
        labels: method -> its text on the axis; default: the method's name.

    Returns:
        A figure. On the left the parameters that are trained and not zero, those of the head too, median of the runs.
        Then means over seeds, hollow where there is one seed; one far below all others is an arrow and a number. A bar
        is the 95 % t-interval of the difference to LoRA, paired by seed, around LoRA's mean plus that difference;
        without runs of LoRA, that of the mean.
    """
    labels, tasks = labels or {}, list(dict.fromkeys(runs["task"]))
    places = {name: place for place, name in enumerate(dict.fromkeys([*labels, *runs["method"]]))}
    costs = runs.assign(cost=runs["adapter_nonzero"] + runs["head_nonzero"]).groupby("method")["cost"].median()
    methods = sorted(costs.index, key=lambda method: (costs[method], places[method]))
    looks, reference = looks_of(runs), "lora" if "lora" in costs else None
    places_here = {method: place for place, method in enumerate(methods)}
    ratios = [1.3] + [1.5] * len(tasks)
    figure, (numbers, *panels) = row_of_panels(len(ratios), 1.9 + 0.36 * len(methods), ratios, sharey=True)
    for place, method in enumerate(methods):
        _draw_mean(numbers, costs[method], place, looks[method], hollow=False)
        text = EngFormatter(places=2 if 1e6 <= costs[method] < 1e7 else 0, sep=" ")(costs[method])
        numbers.annotate(text, (costs[method], place), (8, 0), textcoords="offset points", va="center", fontsize=10)
    wide = costs.max() > 10 * costs.min()
    if wide:
        numbers.set_xscale("log")
        numbers.xaxis.set_minor_formatter(NullFormatter())
        numbers.set_xlim(costs.min() / 3, costs.max() * 30)  # room for the numbers
    else:
        numbers.set_xlim(0, 1.6 * costs.max())
    numbers.xaxis.set_major_formatter(EngFormatter(sep=" "))
    for axes, task in zip(panels, tasks, strict=True):
        here = runs[runs["task"] == task]
        found = {method: _mean_and_half(here, method, reference) for method in methods if method in set(here["method"])}
        behind = _far_behind({method: mean for method, (mean, _) in found.items()})
        for method, (mean, half) in found.items():
            place, look = places_here[method], looks[method]
            if method == behind:
                axes.annotate(
                    f"{mean:.0f}", (0, place), (26, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                    va="center", arrowprops={"arrowstyle": "-|>", "color": look.colour, "shrinkA": 2, "shrinkB": 1},
                )  # fmt: skip
                continue
            axes.errorbar(mean, place, xerr=half, color=look.colour, capsize=4, label=labels.get(method, method))
            _draw_mean(axes, mean, place, look, hollow=(here["method"] == method).sum() == 1)
        if reference in set(here["method"]):
            axes.axvline(_mean_and_half(here, reference)[0], color=LOOKS["lora"].colour, linestyle=":", zorder=1)
        axes.set_title(f"{_title(task, here)}\n{_metric(here)} (%)", fontsize=11 if len(tasks) <= 3 else 10)
    numbers.set_title(f"trained and\nnot zero{' (log scale)' if wide else ''}", fontsize=11)
    numbers.set_yticks(range(len(methods)), [labels.get(method, method) for method in methods])
    numbers.set_ylim(len(methods) - 0.5, -0.5)
    of = f"the difference to LoRA{_SEEDS}" if reference else "the mean"
    figure.supxlabel(f"on validation; interval: 95 %, of {of}", fontsize=11)
    return figure


def _far_behind(means: Mapping[str, float]) -> str | None:
    """The method whose mean lies so far below all others that on one axis these would fall together."""
    if len(means) < 4:
        return None
    lowest = min(means, key=means.__getitem__)
    others = [mean for method, mean in means.items() if method != lowest]
    return lowest if min(others) - means[lowest] > 2 * (max(others) - min(others)) else None


def plot_allocation(ranks: pd.DataFrame, line: Sequence[int]) -> Figure:
    """Where AdaLoRA put its ranks, every seed thin and their mean thick, beside a schedule; one panel per task.

    Args:
        ranks: one row for each run and layer, as :func:`~prilora_lite.experiments.allocation.allocations` gives them.
        line: PRILoRA's rank of each layer, first layer first.
    """
    tasks = list(dict.fromkeys(ranks["task"]))
    adalora, ranks_look = LOOKS["adalora"], LOOKS["ranks"]
    columns = len(tasks) if len(tasks) <= 3 else 2
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(10, 1 + 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes in list(panels)[len(tasks) :]:
        axes.set_axis_off()
    for axes, task in zip(figure.axes, tasks, strict=False):
        here = ranks[ranks["task"] == task]
        for _, run in here.groupby("seed"):
            axes.plot(run["layer"], run["rank"], color=adalora.colour, linewidth=1, label="AdaLoRA, one seed")
        mean = here.groupby("layer")["rank"].mean()
        axes.plot(
            mean.index, mean, f"{adalora.marker}-", color=adalora.colour, markeredgecolor="0.2", linewidth=3,
            label="AdaLoRA, the mean",
        )  # fmt: skip
        axes.plot(
            range(len(line)), line, f"{ranks_look.marker}--", color=ranks_look.colour, linewidth=2,
            label="PRILoRA's line",
        )  # fmt: skip
        axes.set_title(as_written(task))
        below = axes.get_subplotspec().is_last_row()
        axes.set_xlabel("layer" if below else "")
        axes.set_ylabel("mean rank in the layer")
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    shown = {label: handle for handle, label in zip(*figure.axes[0].get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown, loc="outside upper center", ncols=3, frameon=False)
    return figure


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure at a resolution for print; a crash leaves an older file as it was."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, metadata=SIGNATURE)
    write_whole(path, picture.getvalue())


def _mean_and_half(runs: pd.DataFrame, method: str, reference: str | None = None) -> tuple[float, float]:
    """Mean in percent, and half the width of its 95 % t-interval.

    Beside a reference's runs: the reference's mean plus the paired difference, whose interval it is, so that runs of
    other seeds move neither. The reference itself has no interval.
    """
    values = 100 * runs[runs["method"] == method].set_index("seed")["value"]
    if reference is None or not (runs["method"] == reference).any():
        return mean_and_half(values)
    others = 100 * runs[runs["method"] == reference].set_index("seed")["value"]
    if method == reference or (values - others).isna().all():
        return float(values.mean()), 0.0
    mean, half = mean_and_half((values - others).dropna())
    return others.mean() + mean, half


def _draw_mean(axes: Axes, x: float, y: float, look: Look, hollow: bool, label: str | None = None) -> None:
    """A mean as its method's marker; hollow where it rests on one run."""
    fill, edge = ("white", look.colour) if hollow else (look.colour, "0.2")  # light colours need an edge on white
    axes.plot(
        x, y, look.marker, color=look.colour, markerfacecolor=fill, markeredgecolor=edge, markeredgewidth=0.8,
        markersize=9, zorder=3, label=label,
    )  # fmt: skip


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
