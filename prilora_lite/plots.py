"""Figures: pure functions from data to a matplotlib figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the colour-blind and on a projector
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def plot_ablation(runs: pd.DataFrame, labels: dict[str, str] | None = None) -> Figure:
    """Every run as a dot and every method's mean as a bar, one panel per task.

    Args:
        runs: one row per run, as :func:`~prilora_lite.study.to_dataframe` gives them.
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
