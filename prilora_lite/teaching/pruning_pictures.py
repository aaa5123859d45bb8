"""Pictures of how pruning works: what padding does to the statistics, a row of A at one prune, and a whole run.

Each function returns a figure and, from the same data, a text for those who can't see it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import nn

from prilora_lite.experiments.figures import tidy
from prilora_lite.experiments.looks import GREY, LOOKS
from prilora_lite.importance import importance, keep_mask, sum_of_squares
from prilora_lite.lora import LoRALinear
from prilora_lite.pruner import Pruner
from prilora_lite.teaching.pictures import arrow, sheet

_FEW = 16  # entries of a row that have their numbers written on them
_KEPT = LOOKS["pruning"].colour
_LEFT_OUT = {"facecolor": "white", "edgecolor": "0.45", "hatch": "////", "linewidth": 1}  # padding, and what is pruned


def draw_padding(x: np.ndarray, mask: np.ndarray) -> tuple[Figure, str]:
    r"""How padding is kept out of the statistics: a batch, its attention mask, and the sum over its real tokens.

    .. math:: q_j = \frac{1}{T}\sum_t x_{tj}^2

    Args:
        x: a batch of inputs, (sentences, tokens, n), few and short numbers; padded places may hold anything, NaN too.
        mask: which tokens are real, (sentences, tokens).

    Returns:
        The figure, and a text that says what it shows.

    Raises:
        ValueError: a mask of another shape, or one without a real token.
    """
    real = np.asarray(mask).astype(bool)
    if real.shape != x.shape[:2] or not real.any():
        raise ValueError(f"expected a mask of shape {x.shape[:2]} with a real token, got {mask!r}")
    tokens = torch.tensor(x).flatten(0, 1)
    squares, count = sum_of_squares(tokens, torch.tensor(np.flatnonzero(real))), int(real.sum())
    sums, means = squares.tolist(), (squares / count).tolist()
    rows, n, cell = real.size, x.shape[2], 0.62
    lines = 1.45 + 0.36 * np.arange(rows)[::-1] + 0.14 * (len(x) - 1 - np.arange(rows) // x.shape[1])
    top, mask_at = lines[0] + 0.45, 2.5 + n * cell
    squares_at = mask_at + 1.6
    figure, axes = sheet(squares_at + n * cell + 0.4, top + 0.45)
    for row, (y, values, counts) in enumerate(zip(lines, tokens.tolist(), real.flat, strict=True)):
        sentence, token = divmod(row, x.shape[1])
        name = f"token {token}" if counts else "padding"
        axes.text(2.0, y, name, ha="right", va="center", fontsize=11, color="0" if counts else "0.4")
        if token == 0:
            axes.text(0.1, y, f"sentence {sentence}", va="center", fontsize=11)
        for j, value in enumerate(values):
            _cell(axes, 2.1 + j * cell, y, cell, value, counts)
            _cell(axes, squares_at + j * cell, y, cell, value**2 if counts else "", counts)
        _cell(axes, mask_at, y, 0.5, int(counts), counts)
    for j in range(n):
        _cell(axes, squares_at + j * cell, 0.85, cell, sums[j], True)
        _cell(axes, squares_at + j * cell, 0.35, cell, means[j], True, fill=_KEPT)
    arrow(axes, (mask_at + 0.65, lines.mean()), (squares_at - 0.15, lines.mean()))
    middle = squares_at + n * cell / 2
    headers = ((2.1 + n * cell / 2, "input $x$, by feature"), (mask_at + 0.25, "mask"), (middle, "$x^2$, real tokens"))
    for place, text in headers:
        axes.text(place, top, text, ha="center", va="center", fontsize=12)
    axes.text(squares_at - 0.15, 0.85, f"sum over the {count} real tokens", ha="right", va="center", fontsize=12)
    axes.text(squares_at - 0.15, 0.35, f"divided by {count}: mean square $q_j$", ha="right", va="center", fontsize=12)
    return figure, (
        f"A batch of {len(x)} sentences with {x.shape[1]} places each. Padded places, hatched and with 0 in the mask: "
        f"{rows - count}. Only the {count} real tokens are squared. Sums by feature: {_list(sums)}. Divided by "
        f"{count}, the mean squares q: {_list(means)}."
    )


def draw_row(row: np.ndarray, mean_square: np.ndarray, ratio: float) -> tuple[Figure, str]:
    r"""One row of A before and after a prune: sizes, norms of the input, their product, and what survives.

    .. math:: S_j = |A_j|\,\sqrt{s_j}, \qquad k = \lfloor \mathrm{ratio}\cdot n + 10^{-9} \rfloor

    Args:
        row: a row of A, (n,). Up to 16 entries have their numbers written on them and in the text.
        mean_square: s, (n,), the accumulated mean square of each input feature.
        ratio: share that is pruned, in [0, 1).

    Returns:
        The figure, and a text that says what it shows.

    Raises:
        ValueError: a ratio out of that range.
    """
    weights, squares = (torch.tensor(np.asarray(values, dtype=float)) for values in (row, mean_square))
    scores = importance(weights[None], squares)
    keep = keep_mask(scores, ratio)[0].numpy()
    sizes, norms, products = weights.abs().numpy(), squares.sqrt().numpy(), scores[0].numpy()
    figure = Figure(figsize=(10, 6))
    margins = {"left": 0.14, "right": 0.98, "top": 0.88, "bottom": 0.08, "hspace": 0.3}
    panels = figure.subplots(4, 1, sharex=True, gridspec_kw=margins)
    everything = np.ones(len(keep), dtype=bool)
    for axes, values, filled, colour, name in (
        (panels[0], sizes, everything, "0.45", "before\n$|A_j|$"),
        (panels[1], norms, everything, GREY, "times\n$\\sqrt{s_j}$"),
        (panels[2], products, keep, _KEPT, "importance\n$S_j$"),
        (panels[3], sizes, keep, _KEPT, "after\n$|A_j|$"),
    ):
        bars = axes.bar(range(len(values)), values, width=0.7, color=colour)
        for bar, whole in zip(bars, filled, strict=True):
            bar.set(**({} if whole else _LEFT_OUT))
        if len(values) <= _FEW:
            shown = [f"{value:.3g}" for value in values]
            if axes is panels[3]:
                room = len(values) <= 10
                shown = [x if kept else f"{x if room else ''} \u2192 0" for x, kept in zip(shown, keep, strict=True)]
            axes.bar_label(bars, shown, padding=2, fontsize=11 if len(values) <= 10 else 9)
        axes.set_ylim(0, 1.35 * max(values.max(), 1e-12))
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        tidy(axes)
        axes.grid(visible=False)
        axes.set_yticks([])
    panels[3].set_xlabel("input feature j")
    if len(keep) <= _FEW:
        panels[3].set_xticks(range(len(keep)))
    pruned = len(keep) - int(keep.sum())
    figure.text(
        0.14, 0.94, f"ratio {ratio:g}: k = {pruned} of {len(keep)} entries are pruned", va="center", fontsize=13
    )
    handles = [Patch(color=_KEPT, label="survives"), Patch(**_LEFT_OUT, label="pruned")]
    figure.legend(handles=handles, loc="center right", bbox_to_anchor=(0.98, 0.94), ncols=2, frameon=False, fontsize=11)
    alt = f"A row of A with {len(keep)} entries; {pruned} of them are pruned, those with the smallest importance."
    if len(keep) <= _FEW:
        alt += (
            f" Sizes: {_list(sizes)}. Norms of the input: {_list(norms)}. Importance, their product: "
            f"{_list(products)}. The survivors are j = {_list(np.flatnonzero(keep))}; the others are zero afterwards."
        )
    return figure, alt


def draw_prune_and_regrow(trace: dict[str, Any]) -> tuple[Figure, str]:
    """A run as a timeline: entries of a row of A that are zeroed at each prune and regrow; and what a prune removes.

    Args:
        trace: of :func:`toy_trace`, which has the sizes of the row's entries at each step, or of
            :func:`~prilora_lite.teaching.recordings.load_trace`, which only has who survived each prune.

    Returns:
        The figure, and a text that says what it shows.

    Raises:
        ValueError: nothing was pruned.
    """
    if not trace["mass"]:
        raise ValueError("nothing was pruned in this run: give a trace with at least one prune")
    prunes, steps = list(trace["mass"]), len(trace["sparsity"])
    survived = np.array([trace["masks"][at][0] for at in prunes])
    chosen = _of_each_fate(survived)
    figure = Figure(figsize=(10, 5.8))
    margins = {"left": 0.1, "right": 0.98, "top": 0.93, "bottom": 0.1, "hspace": 0.38}
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2), gridspec_kw=margins)
    for place, j in enumerate(chosen):
        look = _fate(survived[:, j])
        if "row" in trace:
            above = 2 if look["linestyle"] == "-" else 3  # the line that the text follows hides behind none
            upper.plot(range(1, steps + 1), np.abs(trace["row"][:, j]), linewidth=2, zorder=above, **look)
        else:
            upper.plot([0, steps], [place, place], linewidth=2, **look)
            fills = [look["color"] if alive else "white" for alive in survived[:, j]]
            upper.scatter(
                prunes, [place] * len(prunes), c=fills, edgecolors=look["color"], s=45, linewidths=2, zorder=3
            )
    if "row" in trace:
        upper.set_ylabel("size of the weight, $|A_{0j}|$")
        upper.set_ylim(bottom=0)
        before = [float(np.abs(trace["row"][at - 2, ~survived.any(0)]).max(initial=0)) for at in prunes]
        regrown = f"One step before each prune, the largest that is zeroed every time: {_list(before)}. "
    else:
        upper.set_yticks(range(len(chosen)), [f"$A_{{0,{j}}}$" for j in chosen])
        upper.set_ylim(len(chosen) - 0.4, -0.6)
        note = "filled: survives, hollow: zeroed"
        upper.text(1, 1.05, note, transform=upper.transAxes, ha="right", va="bottom", fontsize=10)
        regrown = ""
    zeros = [100 * trace["sparsity"][at - 1] for at in prunes]
    mass = [100 * share for share in trace["mass"].values()]
    lower.plot(range(1, steps + 1), 100 * np.array(trace["sparsity"]), color="0.6", linewidth=1)
    lower.plot(prunes, zeros, "s", color="0.4", markerfacecolor="white", markersize=7, label="exact zeros")
    lower.plot(prunes, mass, "o", color=_KEPT, markersize=7, label="share of the squared norm that the prune removes")
    _write_apart(lower, prunes, mass, 0.07 * steps)
    lower.set_ylim(0, 1.25 * max(*zeros, *mass))
    lower.set_ylabel("share (%)")
    lower.set_xlabel("optimizer step")
    lower.set_xlim(0, steps + 1)
    for axes in (upper, lower):
        for at in prunes:
            axes.axvline(at, color="0.85", linewidth=1, zorder=0)
        tidy(axes)
        axes.grid(axis="x", visible=False)
        names = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # each once
        axes.legend(
            names.values(), names, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, borderaxespad=0.2
        )
    fates = [_fate(survived[:, j])["label"] for j in chosen]
    return figure, (
        f"A run of {steps} steps, pruned after step {_list(prunes)}. Of {len(chosen)} entries of a row of A: "
        f"{', '.join(f'{fates.count(fate)} {fate}' for fate in dict.fromkeys(fates))}. {regrown}Exact zeros after each "
        f"prune: {_list(zeros)} %. Share of the squared norm that it removes: {_list(mass)} %."
    )


def toy_trace(seed: int) -> dict[str, Any]:
    """A small run made on the spot: one layer with a rank-2 update learns a linear map, half of its A pruned.

    Args:
        seed: of the weights, the map and the data.

    Returns:
        What :func:`~prilora_lite.teaching.recordings.load_trace` gives of a recorded run, as far as
        :func:`draw_prune_and_regrow` needs it: ``sparsity``, ``mass`` and ``masks``; and ``row``, the first row of A
        after each step, (steps, n).
    """
    steps, size = 120, 12
    with torch.random.fork_rng(devices=[]):  # what is drawn elsewhere stays as it is
        torch.manual_seed(seed)
        layer = LoRALinear(nn.Linear(size, size, bias=False), 2, scaling=1.0)
        update = torch.randn(size, 2) @ torch.randn(2, size) / 2
        inputs = torch.randn(steps, 64, size) * (0.3 + 1.5 * torch.rand(size))
    optimizer = torch.optim.Adam([layer.lora_A, layer.lora_B], lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    model = nn.Sequential(layer)
    pruner = Pruner(model, ratio=0.5, interval=20)
    rows, sparsity, masks = [], [], {}
    for step, x in enumerate(inputs, start=1):
        loss = (model(x) - x @ (layer.base.weight + update).T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        pruner.step()
        rows.append(layer.lora_A[0].numpy(force=True).copy())
        sparsity.append(pruner.sparsity())
        if pruner.pruned_at == step:
            masks[step] = (layer.lora_A != 0).numpy(force=True)
    mass = {entry["step"]: entry["mass"] for entry in pruner.history}
    return {"sparsity": sparsity, "mass": mass, "masks": masks, "row": np.array(rows)}


def _cell(
    axes: Axes, left: float, y: float, width: float, value: float | str, counts: bool, fill: str = "white"
) -> None:
    """A number in a frame; hatched, with the number on a white ground, where it does not count."""
    look = {"facecolor": fill, "edgecolor": "0.45", "linewidth": 1} if counts else _LEFT_OUT
    axes.add_patch(Rectangle((left, y - 0.18), width, 0.36, **look))
    text = value if isinstance(value, str) else f"{value:.3g}".replace("nan", "NaN")
    ground = None if counts or not text else {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ink = "white" if fill == _KEPT else ("0" if counts else "0.4")
    axes.text(left + width / 2, y, text, ha="center", va="center", fontsize=11, color=ink, bbox=ground)


def _of_each_fate(survived: np.ndarray) -> list[int]:
    """Up to six entries of a row: first two whose fate changes, two always zeroed, two always kept; then others."""
    always, ever = survived.all(0), survived.any(0)
    kinds = [np.flatnonzero(kind).tolist() for kind in (ever & ~always, ~ever, always)]
    first = [j for kind in kinds for j in kind[:2]]
    rest = [j for kind in kinds for j in kind[2:]]
    return (first + rest)[:6]


def _fate(survived: np.ndarray) -> dict[str, str]:
    """How the line of an entry looks, and what it is called."""
    if survived.all():
        return {"color": _KEPT, "linestyle": "-", "label": "always kept"}
    if survived.any():
        look = {"color": LOOKS["lora"].colour, "linestyle": "--"}
        ends = bool(survived[0]), bool(survived[-1])
        if ends == (True, False):
            return {"color": LOOKS["ranks"].colour, "linestyle": "-.", "label": "zeroed in the end"}
        return look | {"label": "kept in the end" if ends[1] > ends[0] else "zeroed now and then"}
    return {"color": GREY, "linestyle": "-", "label": "always zeroed"}


def _write_apart(axes: Axes, places: list[int], values: list[float], least: float) -> None:
    """Numbers on the left of points, left out where there is no room up to the point before."""
    for before, x, value in zip([-np.inf, *places], places, values, strict=False):
        if x - before >= least:
            text = f"{value:.2g}" if value >= 0.01 else "< 0.01"
            axes.annotate(text, (x, value), (-7, 2), textcoords="offset points", ha="right", fontsize=10)


def _list(values: Any) -> str:
    """Numbers in words of a text: three digits, whole ones in full."""
    return ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values)
