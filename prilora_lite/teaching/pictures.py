"""Pictures of the method's form: a layer beside its frozen weight, the stack of layers, and both in one.

Each function returns a figure and, from the same data, a text for those who can't see it:
``plots.show(*plots.draw_layer(128, 128, 8, 2.0))``. They are drawn on a sheet without axes, in inches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, FancyArrowPatch, Rectangle

from prilora_lite.experiments.looks import FROZEN, INK, LOOKS, schedule_colour

_SIDE = 1.5  # of a weight, the longer one
_UPPER, _MIDDLE, _LOWER = 3.4, 2.35, 1.3  # heights of the frozen way, of x and y, of the trained way


def draw_layer(m: int, n: int, rank: int, scaling: float) -> tuple[Figure, str]:
    r"""A LoRA layer: the input goes through the frozen weight, and through A and B. Weights are drawn to scale.

    .. math:: y = W_0 x + s\,B A\,x

    Args:
        m, n: rows and columns of :math:`W_0`: output and input features.
        rank: r, from 1 to min(m, n).
        scaling: the factor s.

    Returns:
        The figure, and a text that says what it shows.

    Raises:
        ValueError: a rank out of that range.
    """
    if not 1 <= rank <= min(m, n):
        raise ValueError(f"rank must be an integer from 1 to {min(m, n)}, got {rank!r}")
    colour, frozen, trained = LOOKS["lora"].colour, m * n, rank * (m + n)
    share = f"{100 * trained / frozen:.3g} %"
    figure, axes = sheet(10, 4.6)
    _layer(axes, m, n, rank, colour)
    axes.text(0.4, _MIDDLE - 0.4, f"n = {n}", ha="center", va="center", fontsize=11)
    axes.text(6.15, _MIDDLE - 0.4, f"m = {m}", ha="center", va="center", fontsize=11)
    axes.text(6.9, 3.8, "$y = W_0\\,x + s\\,B A\\,x$", fontsize=17, va="center")
    axes.text(6.9, 3.35, f"r = {rank},  s = {scaling:g}", fontsize=13, va="center")
    for name, count, y, fill in (("frozen", frozen, 2.2, FROZEN), ("trained", trained, 1.2, colour)):
        axes.text(6.9, y + 0.36, f"{name}: {count:,} weights", fontsize=13, va="center")
        axes.add_patch(Rectangle((6.9, y - 0.14), 2.8 * count / max(frozen, trained), 0.28, color=fill, gid=name))
    axes.text(6.9, 0.8, f"that is {share} of the frozen ones", fontsize=11, va="center")
    return figure, (
        f"A LoRA layer. The input x, {n} numbers, goes two ways. One is the frozen weight W0, {m} x {n} = {frozen:,} "
        f"weights. The other is A, {rank} x {n}, then B, {m} x {rank}, then times s = {scaling:g}: {trained:,} trained "
        f"weights, {share} of the frozen ones. The sum of both ways is y, {m} numbers."
    )


def draw_stack(ranks: Sequence[int], parameters_per_rank: int) -> tuple[Figure, str]:
    """The encoder as a stack of layers, the first at the bottom, each with an adapter as wide as its rank.

    Args:
        ranks: r_l, first layer first; 0 where a layer has no adapter.
        parameters_per_rank: trainable parameters of one unit of rank in one layer.

    Returns:
        The figure, and a text that says what it shows.
    """
    step = min(0.5, max(0.24, 3.1 / len(ranks)))
    top, total = 0.55 + step * len(ranks), sum(ranks) * parameters_per_rank
    figure, axes = sheet(10, top + 0.75)
    lines = _stack(axes, ranks, schedule_colour(ranks), left=1.3, frozen=2.5, widest=4.2, bottom=0.55, step=step)
    for y, rank in zip(lines, ranks, strict=True):
        text = f"{rank * parameters_per_rank:,}"
        axes.text(9.6, y, text, ha="right", va="center", fontsize=_size(step), color="0.3")
    headers = (("frozen", 2.55, "center"), ("adapter, as wide as its rank", 3.8, "left"), ("parameters", 9.6, "right"))
    for text, x, side in headers:
        axes.text(x, top + 0.2, text, ha=side, va="center", fontsize=12)
    axes.text(9.6, 0.25, f"{total:,} in all", ha="right", va="center", fontsize=12)
    arrow(axes, (0.7, 0.55), (0.7, top))
    axes.text(0.7, 0.3, "input", ha="center", va="center", fontsize=12)
    axes.text(0.7, top + 0.2, "output", ha="center", va="center", fontsize=12)
    return figure, (
        f"A stack of {_layers(ranks)}, the first at the bottom: {_course(ranks)}. Adapters as wide as their ranks, "
        f"from the bottom up {', '.join(map(str, ranks))}: {sum(ranks)} units of rank, each of "
        f"{parameters_per_rank:,} parameters, {total:,} in all."
    )


def draw_method(ranks: Sequence[int]) -> tuple[Figure, str]:
    """PRILoRA in one picture: a layer with its update, whose A is half zero, and the stack with its ranks.

    Args:
        ranks: r_l, first layer first.

    Returns:
        The figure, and a text that says what it shows.
    """
    figure, axes = sheet(10, 4.9)
    colour, rank, size = LOOKS["prilora"].colour, 4, 16
    half = np.tile(np.arange(size) % 2 == 0, (rank, 1))
    _layer(axes, size, size, rank, colour, np.random.default_rng(0).permuted(half, axis=1))
    axes.text(3.2, 4.65, "one layer: $y = W_0\\,x + s\\,B A\\,x$", ha="center", va="center", fontsize=12)
    step = min(0.5, 3.9 / len(ranks))
    _stack(axes, ranks, colour, left=7.0, frozen=0.95, widest=1.5, bottom=0.45, step=step)
    axes.text(8.25, 4.65, f"all layers: {_course(ranks)}", ha="center", va="center", fontsize=12)
    return figure, (
        f"On the left one layer: the input x goes through the frozen weight W0, and through A, B and times s; y is the "
        f"sum. Half of A is zero. On the right {_layers(ranks)} with adapters as wide as their ranks: {_course(ranks)}."
    )


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without axes to draw on, in inches from the lower left corner."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def arrow(axes: Axes, *points: tuple[float, float]) -> None:
    """A line through some points, with a head at the last."""
    for (x0, y0), (x1, y1) in pairwise(points[:-1]):
        axes.plot([x0, x1], [y0, y1], color=INK, linewidth=1.5, solid_capstyle="round")
    look = {"arrowstyle": "-|>", "mutation_scale": 14, "color": INK, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(*points[-2:], **look))


def _layer(axes: Axes, m: int, n: int, rank: int, colour: str, pruned: np.ndarray | None = None) -> None:
    """Both ways through a layer, on the left 6.4 inches of a sheet.

    ``pruned``: which entries of A are zero, (r, n); a layer with them is a sketch, with letters instead of sizes.
    """
    unit, edges = _SIDE / max(m, n), {}
    sizes = (m, n, rank) if pruned is None else ("$m$", "$n$", "$r$")
    for name, x, y, rows, columns, fill, shape in (
        ("W_0", 2.6, _UPPER, m, n, FROZEN, f"{sizes[0]} × {sizes[1]}"),
        ("A", 2.0, _LOWER, rank, n, colour, f"{sizes[2]} × {sizes[1]}"),
        ("B", 3.7, _LOWER, m, rank, colour, f"{sizes[0]} × {sizes[2]}"),
    ):
        corner, width, height = (x - columns * unit / 2, y - rows * unit / 2), columns * unit, rows * unit
        axes.add_patch(Rectangle(corner, width, height, facecolor=fill, edgecolor=fill, linewidth=2, gid=name))
        edges[name] = corner[0], corner[0] + width
        if name == "W_0":
            axes.text(x, y + height / 2 + 0.18, f"$W_0$: {shape}, frozen", ha="center", va="center", fontsize=12)
            if min(width, height) > 0.35:
                _lock(axes, x, y)
        else:
            what = "trained, half zero" if name == "A" and pruned is not None else "trained"
            text = f"${name}$: {shape}\n{what}"
            axes.text(x, corner[1] - 0.08, text, ha="center", va="top", fontsize=12)
    if pruned is not None:
        left, right = edges["A"]
        _zeros(axes, (left, _LOWER - rank * unit / 2), right - left, rank * unit, pruned, colour)
    for x, y, text in ((0.4, _MIDDLE, "$x$"), (4.9, _LOWER, "× $s$"), (5.5, _MIDDLE, "+"), (6.15, _MIDDLE, "$y$")):
        axes.add_patch(Circle((x, y), 0.22, facecolor="white", edgecolor=INK, linewidth=1.5, zorder=3))
        axes.text(x, y, text, ha="center", va="center", fontsize=13, zorder=4)
    arrow(axes, (0.62, _MIDDLE), (0.95, _MIDDLE), (0.95, _UPPER), (edges["W_0"][0], _UPPER))
    arrow(axes, (0.95, _MIDDLE), (0.95, _LOWER), (edges["A"][0], _LOWER))
    arrow(axes, (edges["A"][1], _LOWER), (edges["B"][0], _LOWER))
    arrow(axes, (edges["B"][1], _LOWER), (4.68, _LOWER))
    arrow(axes, (5.12, _LOWER), (5.5, _LOWER), (5.5, _MIDDLE - 0.22))
    arrow(axes, (edges["W_0"][1], _UPPER), (5.5, _UPPER), (5.5, _MIDDLE + 0.22))
    arrow(axes, (5.72, _MIDDLE), (5.93, _MIDDLE))


def _zeros(axes: Axes, corner: tuple[float, float], width: float, height: float, zero: np.ndarray, colour: str) -> None:
    """The zeros of a matrix as white cells of its rectangle, first row on top."""
    rows, columns = zero.shape
    for i, j in np.argwhere(zero):
        place = corner[0] + j * width / columns, corner[1] + (rows - 1 - i) * height / rows
        look = {"facecolor": "white", "edgecolor": colour, "linewidth": 0.8, "gid": "zero"}
        axes.add_patch(Rectangle(place, width / columns, height / rows, **look))


def _lock(axes: Axes, x: float, y: float) -> None:
    axes.add_patch(Arc((x, y + 0.03), 0.2, 0.3, theta1=0, theta2=180, linewidth=2.5, color=INK))
    axes.add_patch(Rectangle((x - 0.15, y - 0.2), 0.3, 0.23, color=INK))


def _stack(
    axes: Axes, ranks: Sequence[int], colour: str, *, left: float, frozen: float, widest: float, bottom: float,
    step: float,
) -> list[float]:  # fmt: skip
    """Layers from the bottom up, each a frozen block, its adapter, and the rank; returns the heights of their lines."""
    unit = widest / max(1, *ranks)
    lines = [bottom + (layer + 0.5) * step for layer in range(len(ranks))]
    for layer, (rank, y) in enumerate(zip(ranks, lines, strict=True)):
        axes.add_patch(Rectangle((left, y - 0.4 * step), frozen, 0.8 * step, facecolor=FROZEN, gid="layer"))
        place = (left + frozen, y - 0.4 * step)
        axes.add_patch(Rectangle(place, rank * unit, 0.8 * step, facecolor=colour, gid="adapter"))
        axes.text(left + frozen / 2, y, f"layer {layer}", ha="center", va="center", fontsize=_size(step))
        axes.text(left + frozen + rank * unit + 0.08, y, f"{rank}", va="center", fontsize=_size(step))
    return lines


def _size(step: float) -> float:
    """Font size of a line that is so many inches high."""
    return min(12.0, 46 * step)


def _layers(ranks: Sequence[int]) -> str:
    return "1 layer" if len(ranks) == 1 else f"{len(ranks)} layers"


def _course(ranks: Sequence[int]) -> str:
    """What a list of ranks does, in words."""
    if len(set(ranks)) == 1:
        return f"every rank is {ranks[0]}"
    if list(ranks) == sorted(ranks):
        return f"the ranks rise from {ranks[0]} to {ranks[-1]}"
    if list(ranks) == sorted(ranks, reverse=True):
        return f"the ranks fall from {ranks[0]} to {ranks[-1]}"
    return f"the ranks lie between {min(ranks)} and {max(ranks)}"
