"""Checks of 03: ranks on a line, ranks at a budget, and the scaling that goes with them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.budget import budget_ranks
from prilora_lite.ranks import linear_ranks
from prilora_lite.teaching.exercises.checking import Answer, check
from prilora_lite.teaching.exercises.reading import WrongAnswer, shown, whole_numbers


def _line(num_layers: int, first: float, last: float) -> list[float]:
    return [first + (last - first) * l / (num_layers - 1) for l in range(num_layers)] if num_layers > 1 else [last]


def _shares(num_layers: int, first: int, last: int) -> list[int]:
    """Each layer's share of the way is rounded by floating point before it is multiplied."""
    steps = max(num_layers - 1, 1)
    return [round(first + (last - first) * (l / steps)) for l in range(num_layers)] if num_layers > 1 else [last]


def _weights(num_layers: int, first: int, last: int) -> list[int]:
    """Both ends are weighed, and rounded by floating point before they are added."""
    shares = [l / (num_layers - 1) for l in range(num_layers)] if num_layers > 1 else [1.0]
    return [round(first * (1 - share) + last * share) for share in shares]


def _sums(num_layers: int, first: int, last: int) -> list[int]:
    """Step by step is added, so that the errors of floating point add up as well."""
    ranks, rank = [], float(first if num_layers > 1 else last)
    for _ in range(num_layers):
        ranks.append(round(rank))
        rank += (last - first) / max(num_layers - 1, 1)
    return ranks


def _torchs(num_layers: int, first: int, last: int) -> list[int]:
    return [int(r) for r in (torch.linspace(first, last, num_layers).round() if num_layers > 1 else [last])]


@check(
    piece=True,
    cases=(
        (4, 4, 12),
        (12, 4, 12),
        (5, 2, 4),
        (6, 12, 4),
        (3, 8, 8),
        (1, 4, 12),
        (23, 12, 1),
        (7, 5, 14),
        (7, 3, 10),
        (23, 14, 1),
    ),
    hint="Write the line for four layers on paper, l = 0 to 3: the first value is the first rank, the last the last.",
    reads=whole_numbers,
    slips={
        "You cut off what comes after the point; round to the nearest.": lambda L, first, last: [
            int(r) for r in _line(L, first, last)
        ],
        "You round up; round to the nearest.": lambda L, first, last: [math.ceil(r) for r in _line(L, first, last)],
        "You round a half up; here a half goes to the even neighbour, so that the sum leans to neither side.": (
            lambda L, first, last: [math.floor(r + 0.5) for r in _line(L, first, last)]
        ),
        "Your line never reaches the last rank: from the first of L layers to the last there are fewer than L steps.": (
            lambda L, first, last: [round(first + (last - first) * l / L) for l in range(L)]
        ),
        "Your line starts one step late: the layers are counted from 0.": lambda L, first, last: [
            round(first + (last - first) * (l + 1) / L) for l in range(L)
        ],
        "Your line overshoots the last rank: the layers are counted from 0.": lambda L, first, last: (
            [round(first + (last - first) * (l + 1) / (L - 1)) for l in range(L)] if L > 1 else [last]
        ),
        "Your ranks run the wrong way: the first rank belongs to the first layer.": lambda L, first, last: linear_ranks(
            L, last, first
        ),
        "One layer alone gets the last rank.": lambda L, first, last: (
            linear_ranks(L, first, last) if L > 1 else [first]
        ),
        "One layer alone: then L - 1 is 0, and you divide by it. What should this layer get?": (
            lambda L, first, last: [round(first + (last - first) * l / (L - 1)) for l in range(L)],
            lambda L, first, last: [round(first + Fraction((last - first) * l, L - 1)) for l in range(L)],
            lambda L, first, last: [round(first + (last - first) * Fraction(l, L - 1)) for l in range(L)],
        ),
        "You rounded the step from layer to layer; keep the step as it is, and round each rank.": (
            lambda L, first, last: [first + (last - first) // max(L - 1, 1) * l for l in range(L)] if L > 1 else [last],
            lambda L, first, last: [first + round((last - first) / (L - 1)) * l for l in range(L)] if L > 1 else [last],
        ),
        "These are the values of the line; now round them.": _line,
        "You gave every layer the same rank; the ranks lie on a line from the first to the last.": (
            lambda L, first, last: [round((first + last) / 2)] * L
        ),
        "One rank is missing: there are L layers.": lambda L, first, last: linear_ranks(L, first, last)[:-1],
        "You add the whole difference at each layer; it belongs to all the steps together.": lambda L, first, last: [
            first + (last - first) * l for l in range(L)
        ],
        "Your line is right on paper. But where it should be exactly one half, floating point comes out a hair beside "
        "it, and rounds the other way: divide last, or use fractions.": (_shares, _weights, _sums, _torchs),
    },
)
def rank_schedule(num_layers: int, first: int, last: int) -> list[int]:
    """03: ranks on a straight line from the first layer to the last, rounded."""
    return linear_ranks(num_layers, first, last)


def _mean(ranks: list[int]) -> float:
    return sum(ranks) / len(ranks)


def _mean_rule(s: Callable[[list[int], float], Any]) -> Answer:
    """Right for the two other rules; for "mean" what is given."""

    def scalings(ranks: list[int], alpha: float, rule: str) -> Any:
        return s(ranks, alpha) if rule == "mean" else PRILoRAConfig(alpha=alpha, scaling=rule).scalings(ranks)

    return scalings


def _sqrt(s: Callable[[float, int, float], float]) -> Answer:
    """Right for the two other rules; for "sqrt" an s of alpha, rank and mean rank."""

    def scalings(ranks: list[int], alpha: float, rule: str) -> list[float]:
        if rule == "sqrt":
            return [s(alpha, rank, _mean(ranks)) for rank in ranks]
        return PRILoRAConfig(alpha=alpha, scaling=rule).scalings(ranks)

    return scalings


@check(
    cases=[(ranks, alpha, rule) for ranks, alpha in (([2, 4, 12], 12), ([4, 5, 8, 9], 16))
           for rule in ("mean", "layer", "sqrt")],
    hint="Alpha stands above in all three. What stands below: for 'layer', for 'mean', and for 'sqrt'?",
    slips={
        "You gave alpha itself: divide it. By what, the rule says.": lambda ranks, alpha, rule: [alpha] * len(ranks),
        "You gave the rank over alpha: alpha stands above.": lambda ranks, alpha, rule: [r / alpha for r in ranks],
        "You divided with //, which drops what comes after the point: the mean rank need not be whole.": _mean_rule(
            lambda ranks, alpha: [alpha / (sum(ranks) // len(ranks))] * len(ranks)
        ),
        "You took the median; the mean rank is the sum over the number.": (
            lambda ranks, alpha, rule: [alpha / statistics.median(ranks)] * len(ranks),
            _mean_rule(lambda ranks, alpha: [alpha / statistics.median(ranks)] * len(ranks)),
            _mean_rule(lambda ranks, alpha: [alpha / sorted(ranks)[len(ranks) // 2]] * len(ranks)),
        ),
        "For 'mean' you give one number; give a list, with an s for each layer.": _mean_rule(
            lambda ranks, alpha: alpha / _mean(ranks)
        ),
        "You gave what 'layer' gives, where each layer looks at its own rank alone. This rule is another one.": (
            lambda ranks, alpha, rule: [alpha / rank for rank in ranks]
        ),
        "You gave what 'mean' gives, one s for all layers. This rule looks at each layer's own rank.": (
            lambda ranks, alpha, rule: [alpha / _mean(ranks)] * len(ranks)
        ),
        "You gave what 'sqrt' gives. This rule is another one.": lambda ranks, alpha, rule: [
            alpha / (rank * _mean(ranks)) ** 0.5 for rank in ranks
        ],
        "You took the root of the rank alone. On equal ranks this would not agree with LoRA's rule: what is missing "
        "below the root?": _sqrt(lambda alpha, rank, mean: alpha / rank**0.5),
        "You took the root of the mean alone; each layer's own rank counts as well.": _sqrt(
            lambda alpha, rank, mean: alpha / mean**0.5
        ),
        "You forgot the root.": _sqrt(lambda alpha, rank, mean: alpha / (rank * mean)),
        "You gave the middle of the two other scalings; the root is of a product.": _sqrt(
            lambda alpha, rank, mean: (alpha / rank + alpha / mean) / 2
        ),
        "You divided by the middle of the two ranks; the root is of a product.": _sqrt(
            lambda alpha, rank, mean: 2 * alpha / (rank + mean)
        ),
        "You took the root of alpha as well; it stands outside.": _sqrt(
            lambda alpha, rank, mean: (alpha / (rank * mean)) ** 0.5
        ),
        "You divided by the sum of the ranks; a mean is that over their number.": lambda ranks, alpha, rule: (
            [alpha / sum(ranks)] * len(ranks)
        ),
        "You divided by the number of layers; what counts is their ranks.": lambda ranks, alpha, rule: (
            [alpha / len(ranks)] * len(ranks)
        ),
        "That is one number; give a list, with an s for each layer.": lambda ranks, alpha, rule: alpha / _mean(ranks),
    },
)  # fmt: skip
def scalings(ranks: list[int], alpha: float, rule: str) -> list[float]:
    """03: LoRA's rule layer by layer, one s for all layers, or the rank-stabilised one between them."""
    return PRILoRAConfig(alpha=alpha, scaling=rule).scalings(ranks)


Order = Callable[[list, list[int], int], object]


def _given_out(line: list, num_layers: int, mean: int, order: Order) -> list[int]:
    """A line rounded down, then one more for those that come first in an order."""
    ranks = [math.floor(r) for r in line]
    for layer in sorted(range(num_layers), key=lambda l: order(line, ranks, l))[: num_layers * mean - sum(ranks)]:
        ranks[layer] += 1
    return ranks


def _by(order: Order) -> Answer:
    """The exact line, and an order of who gets one more."""
    return lambda L, m, d: _given_out(_line(L, m - Fraction(d, 2), m + Fraction(d, 2)), L, m, order)


def _in_order(line: list, ranks: list[int], l: int) -> tuple:
    return ranks[l] - line[l], -line[l], -l


def _steps_in_floats(L: int, m: int, d: int) -> list[int]:
    return _given_out([m - d / 2 + d / (L - 1) * l for l in range(L)], L, m, _in_order)


def _weights_in_floats(L: int, m: int, d: int) -> list[int]:
    shares = [l / (L - 1) for l in range(L)]
    return _given_out([(m - d / 2) * (1 - share) + (m + d / 2) * share for share in shares], L, m, _in_order)


def _within_budget(ranks: Any, num_layers: int, mean: int, slope: int) -> np.ndarray:
    """Ranks, once their sum is seen to be the budget."""
    array = whole_numbers(ranks)
    if array.shape == (num_layers,) and array.sum() != num_layers * mean:
        raise WrongAnswer(
            f"Your ranks {shown(ranks)} add up to {array.sum()}, but the budget L m is {num_layers * mean}."
        )
    return array


@check(
    cases=[
        (5, 8, 8), (12, 8, 8), (4, 8, -9), (4, 8, 9), (6, 8, 0), (2, 8, 3), (12, 8, -5), (12, 8, 11), (24, 8, 13),
        (5, 7, 6), (12, 9, 7),
    ],
    hint="Start from the exact line from m - d/2 to m + d/2, and round all of it down. Who gets what is left over?",
    reads=_within_budget,
    slips={
        "You rounded all of them down, so some of the budget is left over: it has to be given out.": lambda L, m, d: (
            [math.floor(r) for r in _line(L, m - d / 2, m + d / 2)]
        ),
        "You rounded all of them up, which costs more than the budget.": lambda L, m, d: [
            math.ceil(r) for r in _line(L, m - d / 2, m + d / 2)
        ],
        "You rounded each rank by itself, so the sum need not be the budget: round all down first, then give out the "
        "rest.": lambda L, m, d: [round(r) for r in _line(L, m - d / 2, m + d / 2)],
        "Your sum is right, and the largest remainders come first. But of equal remainders the larger rank gets its "
        "unit first; you prefer the earlier layer.": _by(lambda line, ranks, l: (ranks[l] - line[l], l)),
        "Your sum is right, and the largest remainders come first. But of equal remainders the larger rank gets its "
        "unit first; you prefer the later layer.": _by(lambda line, ranks, l: (ranks[l] - line[l], -l)),
        "Your sum is right, and the largest remainders come first. But of equal remainders the larger rank gets its "
        "unit first; you prefer the smaller rank.": _by(lambda line, ranks, l: (ranks[l] - line[l], line[l])),
        "Your sum is right, but you gave the rest to the smallest remainders.": (
            _by(lambda line, ranks, l: (line[l] - ranks[l], -line[l])),
            _by(lambda line, ranks, l: (line[l] - ranks[l], l)),
            _by(lambda line, ranks, l: (line[l] - ranks[l], -l)),
        ),
        "Your sum is right, but you gave the rest to the first layers, whatever their remainders.": _by(
            lambda line, ranks, l: l
        ),
        "Your sum is right, but you gave the rest to the last layers, whatever their remainders.": _by(
            lambda line, ranks, l: -l
        ),
        "Your sum is right, but you gave the rest to the largest ranks, whatever their remainders.": _by(
            lambda line, ranks, l: -line[l]
        ),
        "Your method is right, but in floating point equal remainders come out unequal, so the wrong layer gets its "
        "unit first: use fractions.": (_steps_in_floats, _weights_in_floats),
        "Your ranks run the wrong way: a slope above 0 rises.": lambda L, m, d: budget_ranks(L, m, -d),
        "You gave every layer the mean rank: the slope is missing.": lambda L, m, d: [m] * L,
        "Your line starts at the mean; it should pass it in the middle.": lambda L, m, d: linear_ranks(L, m, m + d),
        "The slope is the whole way from the first layer to the last, not the step from one to the next.": (
            lambda L, m, d: [math.floor(m - d / 2) + d * l for l in range(L)]
        ),
        "The slope is the whole way from the first layer to the last; yours goes twice as far.": lambda L, m, d: [
            math.floor(r) for r in _line(L, m - d, m + d)
        ],
    },
)  # fmt: skip
def ranks_at_budget(num_layers: int, mean: int, slope: int) -> list[int]:
    """03: a line of any slope whose ranks add up to L m."""
    return budget_ranks(num_layers, mean, slope)
