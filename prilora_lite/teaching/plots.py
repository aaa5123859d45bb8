"""All figures as one module: pure functions from data to a matplotlib figure.

The pictures, ``draw_...``, also return a text for those who can't see them; the figures of numbers are ``plot_...``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prilora_lite.experiments.figures import (
    IDEAS,
    plot_ablation,
    plot_allocation,
    plot_answers,
    plot_chosen_answers,
    plot_cost,
    plot_ideas,
    row_of_panels,
    tidy,
)
from prilora_lite.experiments.grid_figure import grid_cells, grid_default, grid_values, plot_grid
from prilora_lite.experiments.looks import COLOURS, GREY, LOOKS, schedule_colour
from prilora_lite.teaching.pictures import draw_layer, draw_method, draw_stack
from prilora_lite.teaching.pruning_pictures import draw_padding, draw_prune_and_regrow, draw_row, toy_trace
from prilora_lite.teaching.schedule_pictures import draw_rounding, draw_scalings

__all__ = [
    "COLOURS",
    "IDEAS",
    "LOOKS",
    "draw_layer",
    "draw_method",
    "draw_padding",
    "draw_prune_and_regrow",
    "draw_rounding",
    "draw_row",
    "draw_scalings",
    "draw_stack",
    "grid_cells",
    "grid_default",
    "grid_values",
    "plot_ablation",
    "plot_allocation",
    "plot_answers",
    "plot_chosen_answers",
    "plot_cost",
    "plot_grid",
    "plot_ideas",
    "plot_importance",
    "plot_layers",
    "plot_pruning",
    "plot_schedule",
    "plot_spectrum",
    "show",
    "to_png",
    "toy_trace",
    "truncation_errors",
]


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
    figure, (left, right) = row_of_panels(2)
    kept = places <= rank
    left.semilogy(places[kept], values[kept], "o", color=COLOURS[0], markersize=5, label="kept")
    left.semilogy(places[~kept], values[~kept], "o", color="0.65", markersize=3, label="cut off")
    left.set_xlabel("number of the singular value")
    left.set_ylabel("singular value")
    left.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # above, not on the data
    errors = truncation_errors(values)
    right.plot(places, errors, color="0.65", linewidth=2)
    right.plot(rank, errors[rank - 1], "o", color=COLOURS[0], markersize=11)
    right.set_xlabel("rank r that is kept")
    right.set_ylabel("relative error of the update")
    right.set_ylim(0, 1)
    return figure


def truncation_errors(values: np.ndarray) -> np.ndarray:
    """Relative Frobenius error for each rank from 1 up, from the singular values in falling order."""
    left_over = np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0)
    return np.sqrt(left_over[1:] / left_over[0])


def plot_layers(runs: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Accuracy of recorded runs: every seed as a dot, the mean's gain over the head alone as a bar, one panel per task.

    Ranks that differ from layer to layer have the colour of ``ranks``, all others that of LoRA.

    Args:
        runs: one row per run with ``name``, ``task``, ``seed`` and ``accuracy``.
        names: which of them, from the bottom up, as layers are counted.
    """
    tasks = list(dict.fromkeys(runs["task"]))
    figure, panels = row_of_panels(len(tasks), height=1.8 + 0.32 * len(names), sharey=True)
    figure.get_layout_engine().set(wspace=0.08)  # the last number of one axis is not to touch the first of the next
    for axes, task in zip(panels, tasks, strict=True):
        accuracy = 100 * runs[runs["task"] == task].set_index("name")["accuracy"]
        start = accuracy["head only"].mean()
        for place, name in enumerate(names):
            sloped = name in ("rising", "falling")
            colour, label = LOOKS["ranks" if sloped else "lora"].colour, "ranks on a line" if sloped else "rank 8"
            axes.barh(place, accuracy[name].mean() - start, left=start, color=colour, alpha=0.4, label=label)
            axes.plot(
                accuracy[name], place + _apart(accuracy[name]), "o", color=colour, markeredgecolor="0.2",
                markeredgewidth=0.5, markersize=5,
            )  # fmt: skip
        axes.axvline(start, color=LOOKS["head"].colour, linestyle="--", linewidth=2.5, label="head only, its mean")
        shown = accuracy[[*names, "head only"]]
        axes.set_xlim(shown.min() - 2, min(100, shown.max() + 2))
        axes.set_title(task)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("accuracy on validation (%), one dot per seed")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(-0.5, len(names) - 0.5)
    shown = {label: handle for handle, label in zip(*panels[-1].get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown, loc="outside upper right", ncols=len(shown), frameon=False)
    return figure


def _apart(values: pd.Series) -> np.ndarray:
    """How far up or down to move each of some dots, so that equal values stand one above the other."""
    nth, of = values.groupby(values.to_numpy()).cumcount(), values.groupby(values.to_numpy()).transform("size")
    return 0.24 * (nth - (of - 1) / 2).to_numpy()


def plot_schedule(ranks: Sequence[int], mean: float, parameters_per_rank: int) -> Figure:
    """Rank of each layer as a bar, and what the schedule costs beside a flat one of the same mean.

    Args:
        ranks: r_l, first layer first.
        mean: mean rank of the flat schedule that it is compared with.
        parameters_per_rank: trainable parameters of one unit of rank in one layer.
    """
    figure = Figure(figsize=(10, 4.2))
    margins = {"left": 0.16, "right": 0.94, "top": 0.97, "bottom": 0.13, "hspace": 0.4}
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), gridspec_kw=margins)
    layers, colour, flat = range(len(ranks)), schedule_colour(ranks), LOOKS["lora"].colour
    upper.bar(layers, ranks, color=colour)
    for layer, rank in zip(layers, ranks, strict=True):  # at the foot, where no line crosses the number
        upper.annotate(
            str(rank), (layer, 0), (0, 4), textcoords="offset points", ha="center", fontsize=11,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    upper.axhline(mean, color=flat, linestyle="--", linewidth=2)
    upper.annotate(
        f"r = {mean:g}", (1, mean), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
        va="center", color=flat, fontsize=11,
    )  # fmt: skip
    upper.set_xlabel("layer")
    upper.set_ylabel("rank r")
    upper.set_xlim(-0.6, len(ranks) - 0.4)
    upper.set_ylim(0, max(*ranks, mean) * 1.15)
    upper.set_xticks(layers)
    upper.yaxis.set_major_locator(MaxNLocator(integer=True))
    costs = [total * parameters_per_rank / 1000 for total in (sum(ranks), mean * len(ranks))]
    lengths = lower.barh(["these ranks", f"r = {mean:g} in all layers"], costs, color=[colour, flat], height=0.6)
    lower.bar_label(lengths, fmt="{:,.0f}", padding=4, fontsize=11)
    lower.invert_yaxis()
    lower.set_xlim(0, 1.12 * max(costs))
    lower.set_xlabel("trainable parameters (thousands)")
    for axes in (upper, lower):
        tidy(axes)
    upper.grid(axis="x", visible=False)
    lower.grid(visible=False)
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
    panels[0].stairs(np.sqrt(mean_square), np.arange(len(mean_square) + 1) - 0.5, fill=True, color=GREY)
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
    margins = {"left": 0.08, "right": 0.98, "top": 0.93, "bottom": 0.1, "hspace": 0.5, "wspace": 0.25}
    (losses, mass), (mask_axes, churn_axes) = figure.subplots(2, 2, gridspec_kw=margins)
    colour = LOOKS["pruning"].colour
    steps = np.arange(1, len(trace["losses"]) + 1)
    losses.plot(steps, trace["losses"], color="0.75", linewidth=1)
    losses.plot(steps, pd.Series(trace["losses"]).rolling(10, min_periods=1).mean(), color=colour, linewidth=2)
    losses.set_ylabel("loss (line: mean of 10)")
    losses.set_ylim(0, None)
    mass.plot(steps, 100 * np.array(trace["sparsity"]), color="0.75", linewidth=1, label="zeros (of entries)")
    mass.plot(
        trace["mass"].keys(), [100 * share for share in trace["mass"].values()], "o-", color=colour,
        label="mass (of squared norm)",
    )  # fmt: skip
    mass.set_ylabel("share (%)")
    mass.set_ylim(-3, 103)
    prunes = [at for at in trace["masks"] if step is None or at <= step]
    if prunes:
        keep = trace["masks"][prunes[-1]]
        _mask(mask_axes, keep, f"A of layer 5, query, after step {prunes[-1]}")
        mask_axes.set_xlabel("input feature j (black survives)")
        mass.axvline(prunes[-1], color="0.4", linestyle="--", linewidth=1, label="step shown")
    else:
        mask_axes.set_axis_off()
        mask_axes.text(0.5, 0.5, "nothing pruned yet", ha="center", va="center", fontsize=13)
    mass.legend(
        frameon=False, fontsize=10, loc="lower center", bbox_to_anchor=(0.43, 1), ncols=3, borderaxespad=0.2,
        columnspacing=1, handlelength=1.5,
    )  # above, not on the data  # fmt: skip
    churn = [100 * share for share in trace["churn"].values()]
    churn_axes.plot(trace["churn"].keys(), churn, "o-", color=colour)
    churn_axes.set_ylabel("churn: new among\nthe zeros of all A (%)")
    churn_axes.set_ylim(0, 1.15 * max([0.1, *churn]))  # few are new: on an axis to 100 the line would lie flat
    for axes in (losses, mass, churn_axes):
        axes.set_xlabel("optimizer step")
        axes.set_xlim(0, len(steps) + 1)
        tidy(axes)
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
