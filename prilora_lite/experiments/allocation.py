"""Where AdaLoRA's allocator left its ranks, layer by layer: what the data chose, beside PRILoRA's straight line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from prilora_lite.experiments.frames import named
from prilora_lite.experiments.own_files import in_markdown
from prilora_lite.models.stacks import split_name


def allocations(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The final ranks of AdaLoRA's runs, mean over the matrices of a layer.

    Args:
        records: runs of a study; those of other methods are left out.

    Returns:
        One row for each run and layer: encoder, task, seed, layer (the first is 0), rank.
    """
    rows = []
    for record in records:
        if record["method"] != "adalora" or not record["pruning"]:
            continue
        by_layer: dict[int, list[int]] = {}
        for name, rank in record["pruning"][-1]["ranks"].items():
            by_layer.setdefault(split_name(name)[1], []).append(rank)
        run = {name: record[name] for name in ("encoder", "task", "seed")}
        rows += [run | {"layer": layer, "rank": float(np.mean(by_layer[layer]))} for layer in sorted(by_layer)]
    return pd.DataFrame(rows, columns=["encoder", "task", "seed", "layer", "rank"])


def by_group(records: Iterable[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """The :func:`allocations` of each of :func:`~.frames.groups` that has some: encoders differ in their layers."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for record, title, _ in named(records):
        runs.setdefault(title, []).append(record)
    return {title: ranks for title, own in runs.items() if len(ranks := allocations(own))}


def slopes(ranks: pd.DataFrame) -> pd.DataFrame:
    r"""The slope of each run's ranks: that of the least-squares line, as last rank minus first.

    .. math:: d = (L - 1)\,\frac{\sum_l (l - \bar l)(r_l - \bar r)}{\sum_l (l - \bar l)^2}

    Args:
        ranks: as :func:`allocations` gives them.

    Returns:
        One row a run: encoder, task, seed, slope.
    """
    rows = []
    for (encoder, task, seed), run in ranks.groupby(["encoder", "task", "seed"], sort=False):
        per_layer = np.polyfit(run["layer"], run["rank"], 1)[0]
        rows.append({"encoder": encoder, "task": task, "seed": seed, "slope": per_layer * (len(run) - 1)})
    return pd.DataFrame(rows, columns=["encoder", "task", "seed", "slope"])


def markdown(ranks: pd.DataFrame) -> str:
    """A table in Markdown: for each task the mean rank of each layer over seeds, and the slope with its deviation."""
    layers = sorted(set(ranks["layer"]))
    lines = [["task", *(f"layer {layer}" for layer in layers), "slope"], ["---"] * (len(layers) + 2)]
    found = slopes(ranks)
    for task, runs in ranks.groupby("task", sort=False):
        means = runs.groupby("layer")["rank"].mean()
        slope = found.loc[found["task"] == task, "slope"]
        sd = f" ({slope.std():.1f})" if len(slope) > 1 else ""
        lines.append([task, *(f"{means[layer]:.1f}" for layer in layers), f"{slope.mean():+.1f}{sd}"])
    return in_markdown(lines)
