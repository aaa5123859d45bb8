"""The grid of rank slopes and pruning ratios: which runs of a study are its cells, and their figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from prilora_lite.config import SCALINGS, PRILoRAConfig
from prilora_lite.experiments.comparison import mean_and_half
from prilora_lite.experiments.figures import TASK_GREYS, as_written, row_of_panels
from prilora_lite.experiments.looks import MARKERS
from prilora_lite.experiments.methods import UNUSUAL

_PERCENT = "metric on validation (%)"


def grid_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose configurations differ only in slope and ratio, at one mean rank; adds the column ``slope``."""
    for name, default in UNUSUAL.items():
        if name in runs:
            usual = runs[name].isna() if default is None else runs[name] == default
            if name in ("decay", "scope", "regrow"):
                usual |= runs["ratio"] == 0  # no effect where nothing is pruned
            runs = runs[usual]
    flat = (runs["first_rank"] == runs["last_rank"]) & runs["scaling"].isin(SCALINGS)  # all three are one
    usual = runs[(flat | (runs["scaling"] == "layer")) & runs["layers"].isna()]
    total = usual["first_rank"] + usual["last_rank"]
    usual = usual[total == total.mode().max()]
    pruned = usual["interval"] == PRILoRAConfig.interval
    pruned &= usual["importance"] == PRILoRAConfig.importance
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
    """Points above LoRA along the rank slope at one pruning ratio, and along the ratio at one slope; a line per task.

    Args:
        runs: one row per run of a grid, all with the same mean rank.
        slope: r_f - r_s, for the panel on the right, marked on the left.
        ratio: share of A that is pruned, for the panel on the left, marked on the right.

    Returns:
        A figure; mean and 95 % t-interval of the differences to LoRA, the cell without slope and pruning, paired by
        seed; where a task has no such runs, of the metric itself. A task without runs of that slope or ratio lacks in
        that panel.

    Raises:
        ValueError: no runs of that slope or ratio; the message names those that there are.
    """
    usual = grid_cells(runs)
    slopes, ratios = grid_values(runs)
    for name, value, there in (("slope", slope, slopes), ("ratio", ratio, ratios)):
        if value not in there:
            raise ValueError(f"no runs with {name} {value!r}; there are {', '.join(f'{v:g}' for v in there)}")
    usual, unit = _above_lora(usual)
    tasks = list(dict.fromkeys(usual["task"]))
    figure, (left, right) = row_of_panels(2, height=4, sharey=True)
    panels = (
        (left, "slope", slopes, usual["ratio"] == ratio, slope, f"at pruning ratio {ratio:g}"),
        (right, "ratio", ratios, usual["slope"] == slope, ratio, f"at slope {slope:+d}" if slope else "at slope 0"),
    )
    for axes, name, values, fixed, here, title in panels:
        axes.axvline(here, color="0.85", linewidth=8, zorder=0)
        if unit != _PERCENT:
            axes.axhline(0, color="0.3", linewidth=1, zorder=0)
        beside = 0.1 * min(np.diff(values), default=1)  # so that the bars of two tasks don't cover one another
        for place, task in enumerate(tasks):
            cells = [fixed & (usual["task"] == task) & (usual[name] == value) for value in values]
            points = [
                (value + beside * (place - (len(tasks) - 1) / 2), *mean_and_half(usual.loc[cell, "points"]))
                for value, cell in zip(values, cells, strict=True)
                if cell.any()
            ]
            if points:
                axes.errorbar(
                    *zip(*points, strict=True), color=TASK_GREYS[place % len(TASK_GREYS)], capsize=4,
                    label=as_written(task), linestyle=("-", "--")[place % 2], marker=MARKERS[place], markersize=7,
                )  # fmt: skip
        axes.set_xticks(values)
        axes.set_title(title)
    left.set_xlabel("rank slope: last rank - first rank (grey: on the right)")
    right.set_xlabel("pruning ratio (grey: on the left)")
    left.set_ylabel(f"{unit}\n(with 95 % intervals)")
    drawn = {
        label: line for axes in (right, left) for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=len(drawn), frameon=False)
    return figure


def _above_lora(cells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A grid's runs with ``points``, how far each is above LoRA's of its task and seed, and what these are called."""
    lora = cells[(cells["slope"] == 0) & (cells["ratio"] == 0)].groupby(["task", "seed"])["value"].mean()
    if set(cells["task"]) - set(lora.index.get_level_values("task")):
        return cells.assign(points=100 * cells["value"]), _PERCENT
    others = lora.reindex(pd.MultiIndex.from_frame(cells[["task", "seed"]])).to_numpy()
    return cells.assign(points=100 * (cells["value"] - others)).dropna(subset="points"), "points above LoRA, by seed"
