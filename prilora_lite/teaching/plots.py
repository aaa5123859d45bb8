"""Figures: pure functions from data to a matplotlib figure."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter
from scipy import stats

# Okabe and Ito's colours, told apart by the colour-blind and on a projector
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P"


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


def plot_method(ranks: Sequence[int]) -> Figure:
    """The method in one picture: a layer with its update, whose A is half zero, and the encoder as a stack of them.

    Args:
        ranks: r_l, first layer first.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    layer, stack = figure.subplots(1, 2, width_ratios=(1.6, 1))
    frozen, update, size, rank = "0.82", COLOURS[1], 8, 3
    alive = np.random.default_rng(0).permuted(np.tile(np.arange(2 * size) % 2 == 0, (rank, 1)), axis=1)
    layer.add_patch(Rectangle((0, 0), size, size, color=frozen))
    layer.text(size / 2, size / 2, "$W_0$\nfrozen", ha="center", va="center", fontsize=15)
    left = size + 4
    for (i, j), kept in np.ndenumerate(alive):  # A lies below, B stands on it
        cell = (left + j * size / (2 * size), i * 0.6)
        layer.add_patch(
            Rectangle(cell, 0.5, 0.6, facecolor=update if kept else "white", edgecolor=update, linewidth=0.8)
        )
    layer.add_patch(Rectangle((left + size / 2 - 0.9, 3), 1.8, 5, color=update))
    layer.text(left + size / 2, 5.5, "$B$", ha="center", va="center", fontsize=15, color="white")
    layer.text(left + size + 0.3, 0.9, "$A$: half of it\nis zero, pruned\nagain and again", va="center", fontsize=11)
    layer.text(size + 2, size / 2, "+ s", ha="center", va="center", fontsize=15)
    layer.annotate("", (size / 2, -0.1), (left / 2 + 3, -1.8), arrowprops={"arrowstyle": "->"})
    layer.annotate("", (left + size / 2, -0.1), (left / 2 + 5, -1.8), arrowprops={"arrowstyle": "->"})
    layer.text(left / 2 + 4, -2, "input $x$", ha="center", va="top", fontsize=12)
    layer.set_title("one layer: $y = W_0\\,x + s\\,B A\\,x$")
    layer.set_xlim(-0.3, left + size + 5)
    layer.set_ylim(-2.8, size + 0.3)
    layer.set_aspect("equal")
    places = range(len(ranks))
    stack.barh(places, [6] * len(ranks), left=-6, height=0.8, color=frozen, label="frozen weights")
    bars = stack.barh(places, ranks, height=0.8, color=update, label="rank of the update")
    stack.bar_label(bars, padding=3)
    stack.set_yticks([0, len(ranks) - 1], ["first layer", "last layer"])
    stack.set_xlim(-6, max(ranks) * 1.15)
    stack.set_title("all layers: the rank grows with depth")
    stack.legend(loc="upper center", bbox_to_anchor=(0.45, 0.0), ncols=2, frameon=False)
    for axes in (layer, stack):
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks([])
    layer.set_yticks([])
    return figure


VERDICTS = {"difference": (COLOURS[1], "D"), "equal": (COLOURS[0], "o"), "not decided": ("0.45", "s")}


def plot_answers(answers: pd.DataFrame) -> Figure:
    """All answered questions in one picture: difference, its 95 % interval, and the margin as a grey band.

    Args:
        answers: one row a question, as :func:`~.questions.table` gives them; those not run are left out.

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
    _tidy(axes)
    axes.tick_params(axis="y", labelsize=9, length=0)
    if seen:
        figure.legend(loc="outside upper right", ncols=len(seen), frameon=False)
    return figure


IDEAS = ("lora", "ranks", "pruning", "prilora")  # neither, each alone, both


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
    figure, panels = _panels(len(tasks), height=4)
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
    figure, panels = _panels(len(tasks), height=4.5)
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
        _tidy(axes)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def grid_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose configurations differ in slope and ratio alone, at one mean rank; adds the column ``slope``."""
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
        ValueError: no runs of that slope or ratio; those there are are named.
    """
    usual = grid_cells(runs)
    slopes, ratios = grid_values(runs)
    for name, value, there in (("slope", slope, slopes), ("ratio", ratio, ratios)):
        if value not in there:
            raise ValueError(f"no runs with {name} {value!r}; there are {', '.join(f'{v:g}' for v in there)}")
    figure, (left, right) = _panels(2, height=4, sharey=True)
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


def _mean_and_half(runs: pd.DataFrame, chosen: pd.Series) -> tuple[float, float]:
    """Mean in percent, and half the width of its 95 % t-interval; 0 for one run."""
    values = 100 * runs.loc[chosen, "value"].to_numpy()
    if len(values) < 2:
        return float(values.mean()), 0.0
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def plot_spectrum(values: np.ndarray, rank: int) -> Figure:
    r"""Singular values of an update, and the error that is left when only the largest ``rank`` of them are kept.

    .. math:: \frac{\lVert \Delta W - \Delta W_r \rVert_F}{\lVert \Delta W \rVert_F}

    Args:
        values: singular values of Delta W, (min(m, n),), in falling order, not all zero.
        rank: r, from 1 to min(m, n).

    Raises:
        ValueError: a rank out of that range.
    """
    if not 1 <= rank <= len(values):
        raise ValueError(f"rank must be an integer from 1 to {len(values)}, got {rank!r}")
    places = np.arange(1, len(values) + 1)
    figure, (left, right) = _panels(2)
    kept = places <= rank
    left.semilogy(places[kept], values[kept], "o", color=COLOURS[0], markersize=5, label="kept")
    left.semilogy(places[~kept], values[~kept], "o", color="0.65", markersize=3, label="cut off")
    left.set_xlabel("number of the singular value")
    left.set_ylabel("singular value")
    left.legend(frameon=False)
    errors = truncation_errors(values)
    right.plot(places, errors, color="0.65", linewidth=2)
    right.plot(rank, errors[rank - 1], "o", color=COLOURS[1], markersize=11)
    right.set_xlabel("rank r that is kept")
    right.set_ylabel("relative error of the update")
    right.set_ylim(0, 1)
    return figure


def truncation_errors(values: np.ndarray) -> np.ndarray:
    """Relative Frobenius error for each rank from 1 up, from the singular values in falling order."""
    left_over = np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0)
    return np.sqrt(left_over[1:] / left_over[0])


def plot_layers(runs: pd.DataFrame, names: Sequence[str], reference: str = "head only") -> Figure:
    """Accuracy of recorded runs: every seed as a dot, the mean's gain over a reference as a bar, one panel per task.

    Args:
        runs: one row per run with ``name``, ``task``, ``seed`` and ``accuracy``.
        names: which of them, from top to bottom.
        reference: the runs at whose mean, a dashed line, the bars start.
    """
    tasks = list(dict.fromkeys(runs["task"]))
    figure, panels = _panels(len(tasks), height=1.5 + 0.32 * len(names), sharey=True)
    for axes, task in zip(panels, tasks, strict=True):
        accuracy = 100 * runs[runs["task"] == task].set_index("name")["accuracy"]
        start = accuracy[reference].mean()
        for place, name in enumerate(names):
            axes.barh(place, accuracy[name].mean() - start, left=start, color=COLOURS[0], alpha=0.4)
            axes.plot(accuracy[name], np.full(accuracy[name].size, place), "o", color=COLOURS[0], markersize=5)
        axes.axvline(start, color=COLOURS[1], linestyle="--", linewidth=2, label=reference)
        shown = accuracy[[*names, reference]]
        axes.set_xlim(shown.min() - 2, min(100, shown.max() + 2))
        axes.set_title(task)
        axes.set_xlabel("accuracy on validation (%), one dot a seed")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    panels[-1].legend(loc="best")
    return figure


def plot_schedule(ranks: Sequence[int], mean: float, parameters_per_rank: int) -> Figure:
    """Rank of each layer as a bar, and what the schedule costs beside a flat one of the same mean.

    Args:
        ranks: r_l, first layer first.
        mean: mean rank of the flat schedule that it is compared with.
        parameters_per_rank: trainable parameters of one unit of rank in one layer.
    """
    figure, (left, right) = _panels(2, ratios=(3, 1))
    layers = range(len(ranks))
    bars = left.bar(layers, ranks, color=COLOURS[0])
    left.bar_label(bars, fontsize=11)
    left.axhline(mean, color=COLOURS[1], linestyle="--", linewidth=2, label=f"flat, r = {mean:g}")
    left.set_xlabel("layer")
    left.set_ylabel("rank r")
    left.set_ylim(0, max(*ranks, mean) * 1.25)
    left.set_xticks(layers)
    left.legend(frameon=False, loc="upper left")
    cost, flat = (total * parameters_per_rank / 1000 for total in (sum(ranks), mean * len(ranks)))
    right.bar(["this one"], [cost], color=COLOURS[0])
    right.axhline(flat, color=COLOURS[1], linestyle="--", linewidth=2)
    right.set_ylabel("trainable parameters (thousands)")
    right.set_ylim(0, 1.3 * max(cost, flat))
    return figure


def plot_importance(lora_A: np.ndarray, mean_square: np.ndarray, scores: np.ndarray, keep: np.ndarray) -> Figure:
    """What decides over each entry of A: its size, the norm of its input, the score that both make, and who survives.

    Args:
        lora_A: A, (r, n).
        mean_square: s, (n,), the accumulated mean square of the input.
        scores: S, (r, n).
        keep: which entries survive, (r, n).
    """
    figure = Figure(figsize=(10, 6))  # margins by hand: three times faster than finding them, and a slider waits
    panels = figure.subplots(
        4, 1, gridspec_kw={"left": 0.06, "right": 0.99, "top": 0.94, "bottom": 0.09, "hspace": 0.85}
    )
    panels[0].stairs(np.sqrt(mean_square), np.arange(len(mean_square) + 1) - 0.5, fill=True, color=COLOURS[1])
    panels[0].set_xlim(-0.5, len(mean_square) - 0.5)
    panels[0].set_title("norm of the input, per feature")
    panels[0].set_ylabel(r"$\sqrt{s_j}$")
    for axes, values, title in (
        (panels[1], np.abs(lora_A), "size of the weights of A"),
        (panels[2], scores, "importance"),
    ):
        _heat(axes, values, title)
    _mask(panels[3], keep, f"survivors (black): {keep.mean():.0%}")
    panels[3].set_xlabel("input feature j")
    return figure


def plot_pruning(trace: dict, step: int | None = None) -> Figure:
    """A recorded run: its loss at each step; the mass that each prune removes; the watched mask at one prune; churn.

    The mass is the share of A's squared norm. It says what pruning does to the layer; the count of zeros, the thin grey
    line, does not: exact zeros are gone one step after a prune, while what regrew stays small.

    Args:
        trace: as :func:`~prilora_lite.teaching.recordings.load_trace` gives it.
        step: whose mask is shown: that of the last prune up to it; None for the last of all.
    """
    figure = Figure(figsize=(10, 6))
    margins = {"left": 0.08, "right": 0.98, "top": 0.97, "bottom": 0.1, "hspace": 0.42, "wspace": 0.25}
    (losses, mass), (mask_axes, churn_axes) = figure.subplots(2, 2, gridspec_kw=margins)
    steps = np.arange(1, len(trace["losses"]) + 1)
    losses.plot(steps, trace["losses"], color="0.75", linewidth=1)
    losses.plot(steps, pd.Series(trace["losses"]).rolling(10, min_periods=1).mean(), color=COLOURS[0], linewidth=2)
    losses.set_ylabel("loss (line: mean of 10)")
    losses.set_ylim(0, None)
    mass.plot(steps, 100 * np.array(trace["sparsity"]), color="0.75", linewidth=1, label="zeros")
    mass.plot(
        trace["mass"].keys(), [100 * share for share in trace["mass"].values()], "o-", color=COLOURS[1],
        label="removed by a prune,\nof the squared norm",
    )  # fmt: skip
    mass.set_ylabel("share of all A (%)")
    mass.set_ylim(-3, 103)
    mass.legend(frameon=False, fontsize=9, loc="upper right")
    prunes = [at for at in trace["masks"] if step is None or at <= step]
    if prunes:
        keep = trace["masks"][prunes[-1]]
        _mask(mask_axes, keep, f"A of layer 5, query, after step {prunes[-1]}")
        mask_axes.set_xlabel("input feature j (black survives)")
        mass.axvline(prunes[-1], color="0.4", linestyle="--", linewidth=1)
    else:
        mask_axes.set_axis_off()
        mask_axes.text(0.5, 0.5, "nothing pruned", ha="center", va="center", fontsize=13)
    churn_axes.plot(trace["churn"].keys(), [100 * share for share in trace["churn"].values()], "o-", color=COLOURS[2])
    churn_axes.set_ylabel("new among the zeros\nof all A (%)")
    churn_axes.set_ylim(-3, 103)
    for axes in (losses, mass, churn_axes):
        axes.set_xlabel("optimizer step")
        axes.set_xlim(0, len(steps) + 1)
        _tidy(axes)
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as PNG, on white, so that it can be read in a dark JupyterLab too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=85, facecolor="white")
    return buffer.getvalue()


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook, with a text for those who can't see it."""
    from IPython.display import Image, display

    display(Image(to_png(figure), alt=alt))


def _panels(
    count: int, height: float = 3.4, ratios: Sequence[float] | None = None, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """A figure as wide as a notebook with some panels side by side."""
    figure = Figure(figsize=(10, height), layout="constrained")
    panels = figure.subplots(1, count, width_ratios=ratios, sharey=sharey, squeeze=False)[0]
    for axes in panels:
        _tidy(axes)
    return figure, panels


def _tidy(axes: Axes) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.label.set_fontsize(12)
    axes.yaxis.label.set_fontsize(12)
    axes.tick_params(labelsize=11)


def _heat(axes: Axes, values: np.ndarray, title: str) -> None:
    bright = np.quantile(values, 0.98)  # the few above would leave the rest in one shade
    axes.imshow(values, aspect="auto", cmap="cividis", interpolation="nearest", vmin=0, vmax=bright)
    axes.set_title(f"{title}: dark 0, bright {bright:.2g} and more")
    axes.set_ylabel("row i")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _mask(axes: Axes, keep: np.ndarray, title: str) -> None:
    axes.imshow(~keep, aspect="auto", cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title)
    axes.set_ylabel("row i")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
