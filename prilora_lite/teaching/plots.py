"""Figures of the mechanism, pure functions from data to a matplotlib figure; and those of results, as one module."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from prilora_lite.experiments.figures import (
    COLOURS,
    IDEAS,
    grid_cells,
    grid_default,
    grid_values,
    plot_ablation,
    plot_allocation,
    plot_answers,
    plot_cost,
    plot_grid,
    plot_ideas,
    row_of_panels,
    tidy,
)
from prilora_lite.teaching.pictures import draw_layer, draw_method, draw_stack
from prilora_lite.teaching.pruning_pictures import draw_padding, draw_prune_and_regrow, draw_row, toy_trace

__all__ = [
    "COLOURS",
    "IDEAS",
    "draw_layer",
    "draw_method",
    "draw_padding",
    "draw_prune_and_regrow",
    "draw_row",
    "draw_stack",
    "grid_cells",
    "grid_default",
    "grid_values",
    "plot_ablation",
    "plot_allocation",
    "plot_answers",
    "plot_cost",
    "plot_grid",
    "plot_ideas",
    "plot_importance",
    "plot_layers",
    "plot_method",
    "plot_pruning",
    "plot_schedule",
    "plot_spectrum",
    "show",
    "to_png",
    "toy_trace",
    "truncation_errors",
]


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
    figure, panels = row_of_panels(len(tasks), height=1.5 + 0.32 * len(names), sharey=True)
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
    figure, (left, right) = row_of_panels(2, ratios=(3, 1))
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
