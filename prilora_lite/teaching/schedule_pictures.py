"""Pictures of a rank schedule: how a straight line becomes whole ranks, and what the scaling does with them.

Each function returns a figure and, from the same data, a text for those who can't see it.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prilora_lite.config import SCALINGS, PRILoRAConfig
from prilora_lite.experiments.figures import tidy
from prilora_lite.experiments.looks import INK, schedule_colour
from prilora_lite.ranks import linear_ranks

_LINES = {"layer": ("-", "o"), "sqrt": ("--", "s"), "mean": (":", "^")}


def draw_rounding(num_layers: int, first_rank: int, last_rank: int) -> tuple[Figure, str]:
    """The exact line from the first rank to the last, and the whole ranks next to it.

    Args:
        num_layers: L, at least 2.
        first_rank, last_rank: the ends, each at least 1.

    Returns:
        The figure, and a text that says what it shows.

    Raises:
        ValueError: fewer than two layers, or an end below 1.
    """
    if num_layers < 2:
        raise ValueError(f"a line needs two layers or more, got {num_layers!r}")
    ranks = linear_ranks(num_layers, first_rank, last_rank)
    layers = range(num_layers)
    line = [first_rank + (last_rank - first_rank) * l / (num_layers - 1) for l in layers]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(layers, line, color=INK, linewidth=1, zorder=3)
    axes.bar(layers, ranks, width=0.55, color=schedule_colour(ranks), zorder=2)
    axes.plot(layers, line, "o", color="white", markeredgecolor=INK, markersize=8, zorder=4)
    for layer, exact, rank in zip(layers, line, ranks, strict=True):
        axes.annotate(
            f"{exact:.3g} → {rank}", (layer, max(exact, rank)), xytext=(0, 8), textcoords="offset points", ha="center"
        )
    axes.set_ylim(0, 1.2 * max(ranks))
    axes.set_xticks(layers)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    axes.set_ylabel("rank")
    tidy(axes)
    steps = ", ".join(f"{exact:.3g} to {rank}" for exact, rank in zip(line, ranks, strict=True))
    return figure, f"A line from {first_rank} to {last_rank} over {num_layers} layers, rounded: {steps}."


def draw_scalings(ranks: Sequence[int], alpha: float) -> tuple[Figure, str]:
    r"""What each rule of scaling does with a schedule: s of each layer, and s r, which sets its early step.

    Args:
        ranks: rank of each layer, first layer first.
        alpha: LoRA's alpha.

    Returns:
        The figure, and a text that says what it shows.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    single, whole = figure.subplots(1, 2)
    says = []
    for rule in SCALINGS:
        s = PRILoRAConfig(alpha=alpha, scaling=rule).scalings(ranks)
        steps = [scaling * rank for scaling, rank in zip(s, ranks, strict=True)]
        dashes, marker = _LINES[rule]
        for axes, values in ((single, s), (whole, steps)):
            axes.plot(values, marker + dashes, color=INK, markerfacecolor="white", markersize=6, label=f"rule: {rule}")
        says.append(f"{rule}: s from {s[0]:.3g} to {s[-1]:.3g}, s r from {steps[0]:.3g} to {steps[-1]:.3g}")
    for axes, title in (
        (single, "s: the step of one direction"),
        (whole, "s times r: the step of the layer, early on"),
    ):
        axes.set_title(title)
        axes.set_xlabel("layer")
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    figure.legend(*single.get_legend_handles_labels(), loc="outside upper center", ncols=len(SCALINGS), frameon=False)
    return figure, f"Scaling of {len(ranks)} layers with ranks {ranks[0]} to {ranks[-1]}. " + "; ".join(says) + "."
