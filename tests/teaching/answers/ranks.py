"""Answers to the exercises of 03: wrong ones with a part of what they are told, right ones of other forms."""

import math
import statistics
from fractions import Fraction

import numpy as np
import torch

from prilora_lite import PRILoRAConfig, linear_ranks
from prilora_lite import exercises as check
from prilora_lite.experiments.budget import budget_ranks


def line(num_layers, first, last):
    if num_layers == 1:
        return [last]
    return [first + (last - first) * l / (num_layers - 1) for l in range(num_layers)]


def cut_off(num_layers, first, last):
    return [int(r) for r in line(num_layers, first, last)]


def rounded_up(num_layers, first, last):
    return [math.ceil(r) for r in line(num_layers, first, last)]


def half_up(num_layers, first, last):
    return [int(r + 0.5) for r in line(num_layers, first, last)]


def too_many_steps(num_layers, first, last):
    return [round(first + (last - first) * l / num_layers) for l in range(num_layers)]


def counted_from_one(num_layers, first, last):
    if num_layers == 1:
        return [last]
    return [round(first + (last - first) * l / (num_layers - 1)) for l in range(1, num_layers + 1)]


def no_case_for_one_layer(num_layers, first, last):
    ranks = []
    for l in range(num_layers):
        ranks.append(round(first + (last - first) * l / (num_layers - 1)))
    return ranks


def no_case_in_fractions(num_layers, first, last):
    return [round(first + Fraction((last - first) * l, num_layers - 1)) for l in range(num_layers)]


def first_for_one_layer(num_layers, first, last):
    return [round(r) for r in np.linspace(first, last, num_layers).tolist()]


def floats(num_layers, first, last):
    return [round(r, 0) for r in line(num_layers, first, last)]


def numpys_integers(num_layers, first, last):
    return list(np.array(line(num_layers, first, last)).round().astype(int))


def share_first(num_layers, first, last):
    if num_layers == 1:
        return [last]
    return [round(first + (last - first) * (l / (num_layers - 1))) for l in range(num_layers)]


def weights_of_both_ends(num_layers, first, last):
    if num_layers == 1:
        return [last]
    return [round((1 - l / (num_layers - 1)) * first + l / (num_layers - 1) * last) for l in range(num_layers)]


def adds_up(num_layers, first, last):
    if num_layers == 1:
        return [last]
    ranks, rank = [], first
    for _ in range(num_layers):
        ranks.append(round(rank))
        rank += (last - first) / (num_layers - 1)
    return ranks


def rounds_the_step(num_layers, first, last):
    step = (last - first) // max(num_layers - 1, 1)
    return [first + step * l for l in range(num_layers)] if num_layers > 1 else [last]


def pins_the_last(num_layers, first, last):
    ranks = too_many_steps(num_layers, first, last)
    ranks[-1] = last
    return ranks


def with_root(below):
    """Right but for the rule "sqrt", which divides alpha by something else."""

    def scalings(ranks, alpha, rule):
        mean = sum(ranks) / len(ranks)
        return [alpha / {"mean": mean, "layer": r, "sqrt": below(r, mean)}[rule] for r in ranks]

    return scalings


def levels_the_ranks(ranks, alpha, rule):
    ranks[:] = [sum(ranks) / len(ranks)] * len(ranks)
    return [alpha / rank for rank in ranks]


def sorts_the_ranks(ranks, alpha, rule):
    ranks.append(0)
    return [alpha] * 3


def without_sqrt(ranks, alpha, rule):
    if rule == "layer":
        return [alpha / rank for rank in ranks]
    if rule == "mean":
        return [alpha / (sum(ranks) / len(ranks))] * len(ranks)
    return None


def other_names(ranks, alpha, rule):
    return {"own": [alpha / rank for rank in ranks]}[rule]


def exact_line(num_layers, mean, slope):
    first = mean - Fraction(slope, 2)
    return [first + Fraction(slope * l, num_layers - 1) for l in range(num_layers)]


def given_out(key):
    """Rounded down, then the rest by an order of the layers."""

    def ranks_at_budget(num_layers, mean, slope):
        line = exact_line(num_layers, mean, slope)
        ranks = [math.floor(r) for r in line]
        missing = num_layers * mean - sum(ranks)
        order = sorted(range(num_layers), key=lambda l: key(line[l] - ranks[l], line[l], l), reverse=True)
        for l in order[:missing]:
            ranks[l] += 1
        return ranks

    return ranks_at_budget


def in_floats(num_layers, mean, slope):
    line = [mean - slope / 2 + slope / (num_layers - 1) * l for l in range(num_layers)]
    ranks = [int(r) for r in line]
    order = sorted(range(num_layers), key=lambda l: (line[l] - ranks[l], line[l], l), reverse=True)
    for l in order[: num_layers * mean - sum(ranks)]:
        ranks[l] += 1
    return ranks


def all_to_the_last(num_layers, mean, slope):
    ranks = [math.floor(r) for r in exact_line(num_layers, mean, slope)]
    ranks[-1] += num_layers * mean - sum(ranks)
    return ranks


def one_each_while_left(num_layers, mean, slope):
    ranks = [math.floor(r) for r in exact_line(num_layers, mean, slope)]
    l = 0
    while sum(ranks) < num_layers * mean:
        ranks[l] += 1
        l += 1
    return ranks


def mended_at_the_top(num_layers, mean, slope):
    ranks = [round(r) for r in exact_line(num_layers, mean, slope)]
    ranks[-1] += num_layers * mean - sum(ranks)
    return ranks


def scalings(ranks, alpha, rule, mean_rule):
    mean = sum(ranks) / len(ranks)
    if rule == "mean":
        return mean_rule(alpha, ranks)
    return [alpha / rank if rule == "layer" else alpha / (rank * mean) ** 0.5 for rank in ranks]


def one_number_for_mean(ranks, alpha, rule):
    return scalings(ranks, alpha, rule, lambda alpha, ranks: alpha / (sum(ranks) / len(ranks)))


def median_for_mean(ranks, alpha, rule):
    return scalings(ranks, alpha, rule, lambda alpha, ranks: [alpha / statistics.median(ranks)] * len(ranks))


WRONG = [
    (
        check.rank_schedule,
        lambda L, first, last: [first + round((last - first) / (L - 1)) * l for l in range(L)] if L > 1 else [last],
        "rounded the step",
    ),
    (check.rank_schedule, cut_off, "after the point"),
    (check.rank_schedule, lambda L, first, last: [int(r) for r in line(L, first, last)], "after the point"),
    (check.rank_schedule, rounded_up, "You round up"),
    (check.rank_schedule, half_up, "a half goes to the even neighbour"),
    (check.rank_schedule, too_many_steps, "never reaches the last rank"),
    (check.rank_schedule, counted_from_one, "overshoots"),
    (check.rank_schedule, no_case_for_one_layer, "L - 1 is 0(.|\n)*ZeroDivisionError(.|\n)*in the line `ranks.append"),
    (check.rank_schedule, no_case_in_fractions, "L - 1 is 0"),
    (check.rank_schedule, first_for_one_layer, "One layer alone gets the last rank"),
    (check.rank_schedule, share_first, "floating point"),
    (check.rank_schedule, weights_of_both_ends, "floating point"),
    (check.rank_schedule, adds_up, "floating point"),
    (check.rank_schedule, rounds_the_step, "rounded the step"),
    (check.rank_schedule, line, "now round them"),
    (check.rank_schedule, floats, "4.0 is of type float"),
    (check.rank_schedule, numpys_integers, "of type int64"),
    (check.rank_schedule, lambda L, first, last: torch.linspace(first, last, L).round(), "Return a list of ranks"),
    (check.rank_schedule, lambda L, first, last: linear_ranks(L, last, first), "the wrong way"),
    (check.rank_schedule, lambda L, first, last: [round((first + last) / 2)] * L, "every layer the same rank"),
    (check.rank_schedule, lambda L, first, last: linear_ranks(L, first, last)[: L - 1], "One rank is missing"),
    (check.rank_schedule, lambda L, first, last: list(range(first, last + 1)), "expected the shape"),
    (check.rank_schedule, pins_the_last, "four layers on paper"),
    (check.rank_schedule, lambda L, first, last: None, "is there a return"),
    (check.rank_schedule, lambda L, first, last: [str(first)] * L, "not made of numbers"),
    (check.rank_schedule, lambda L, first, last: [True] * L, "True is of type bool"),
    (check.scalings, one_number_for_mean, "For 'mean' you give one number"),
    (check.scalings, median_for_mean, "took the median"),
    (check.scalings, lambda ranks, alpha, rule: [alpha] * len(ranks), "alpha itself: divide"),
    (check.scalings, lambda ranks, alpha, rule: [r / alpha for r in ranks], "alpha stands above"),
    (check.scalings, lambda ranks, alpha, rule: [alpha / statistics.median(ranks)] * len(ranks), "took the median"),
    (check.scalings, lambda ranks, alpha, rule: [alpha / r for r in ranks], "what 'layer' gives(.|\n)*rule='mean'"),
    (
        check.scalings,
        lambda ranks, alpha, rule: [alpha * len(ranks) / sum(ranks)] * len(ranks),
        "what 'mean' gives(.|\n)*rule='layer'",
    ),
    (
        check.scalings,
        lambda ranks, alpha, rule: with_root(lambda r, m: (r * m) ** 0.5)(ranks, alpha, "sqrt"),
        "'sqrt' gives",
    ),
    (check.scalings, lambda ranks, alpha, rule: alpha * len(ranks) / sum(ranks), "That is one number"),
    (check.scalings, lambda ranks, alpha, rule: [alpha / sum(ranks)] * len(ranks), "sum of the ranks"),
    (check.scalings, lambda ranks, alpha, rule: [alpha / len(ranks)] * len(ranks), "number of layers"),
    (check.scalings, with_root(lambda r, mean: r), "what 'layer' gives(.|\n)*rule='sqrt'"),
    (check.scalings, with_root(lambda r, mean: mean), "what 'mean' gives(.|\n)*rule='sqrt'"),
    (check.scalings, with_root(lambda r, mean: r**0.5), "would not agree with LoRA's rule"),
    (check.scalings, with_root(lambda r, mean: r * mean), "forgot the root"),
    (check.scalings, with_root(lambda r, mean: 2 / (1 / r + 1 / mean)), "middle of the two other scalings"),
    (check.scalings, with_root(lambda r, mean: (r + mean) / 2), "middle of the two ranks"),
    (check.scalings, with_root(lambda r, mean: mean**0.5), "root of the mean alone"),
    (check.scalings, with_root(lambda r, mean: r**0.5 + mean**0.5), "What stands below"),
    (check.scalings, levels_the_ranks, "changes ranks"),
    (check.scalings, sorts_the_ranks, "changes ranks"),
    (check.scalings, without_sqrt, "is there a return"),
    (check.scalings, other_names, "KeyError: 'mean'"),
    (check.ranks_at_budget, lambda L, m, d: [math.floor(r) for r in exact_line(L, m, d)], "budget is left over"),
    (
        check.ranks_at_budget,
        lambda L, m, d: [int(m - d / 2 + d * l / (L - 1)) for l in range(L)],
        "budget is left over",
    ),
    (check.ranks_at_budget, lambda L, m, d: [math.ceil(r) for r in exact_line(L, m, d)], "more than the budget"),
    (check.ranks_at_budget, lambda L, m, d: [round(r) for r in exact_line(L, m, d)], "rounded each rank by itself"),
    (check.ranks_at_budget, lambda L, m, d: linear_ranks(L, m - d / 2, m + d / 2), "rounded each rank by itself"),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: (rest, -l)), "prefer the earlier layer"),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: rest), "prefer the earlier layer"),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: (rest, l)), "prefer the later layer"),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: (rest, -rank)), "prefer the smaller rank"),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: (-rest, rank)), "smallest remainders"),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: -l), "first layers"),
    (check.ranks_at_budget, one_each_while_left, "first layers"),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: l), "last layers"),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: rank), "largest ranks"),
    (check.ranks_at_budget, all_to_the_last, "Who gets what is left over"),
    (check.ranks_at_budget, mended_at_the_top, "rounded each rank by itself"),
    (check.ranks_at_budget, in_floats, "in floating point equal remainders"),
    (check.ranks_at_budget, lambda L, m, d: given_out(lambda rest, r, l: (rest, r))(L, m, -d), "the wrong way"),
    (check.ranks_at_budget, lambda L, m, d: [m] * L, "the slope is missing"),
    (
        check.ranks_at_budget,
        lambda L, m, d: [m + round(Fraction(d * l, L - 1)) for l in range(L)],
        "starts at the mean",
    ),
    (check.ranks_at_budget, lambda L, m, d: [math.floor(m - d / 2) + d * l for l in range(L)], "not the step"),
    (check.ranks_at_budget, lambda L, m, d: [m + l for l in range(L)], r"add up to 50, but the budget L m is 40"),
    (check.ranks_at_budget, exact_line, "of type Fraction"),
    (check.ranks_at_budget, lambda L, mean, d: budget_ranks(L, 8, d), "add up to 40, but the budget L m is 35"),
    (check.scalings, lambda ranks, alpha, rule: map(alpha.__truediv__, ranks), "Make a list of it"),
    (check.ranks_at_budget, lambda L, m, d: [str(m)] * L, "not made of numbers"),
    (check.ranks_at_budget, lambda L, m, d: [None] * L, "not made of numbers"),
    (check.ranks_at_budget, lambda L, m, d: None, "is there a return"),
]


def with_cases(num_layers, first, last):
    step = Fraction(last - first, max(num_layers - 1, 1))
    return [round(last - step * (num_layers - 1 - l)) for l in range(num_layers)]


RIGHT = [
    (check.rank_schedule, with_cases),
    (check.rank_schedule, lambda L, first, last: tuple(round(r) for r in line(L, first, last))),
    (
        check.rank_schedule,
        lambda L, a, b: np.round(np.linspace(a, b, L)).astype(int).tolist() if L > 1 else [b],
    ),
    (check.scalings, lambda ranks, alpha, rule: torch.tensor(PRILoRAConfig(alpha=alpha, scaling=rule).scalings(ranks))),
    (check.scalings, with_root(lambda r, mean: math.sqrt(r) * math.sqrt(mean))),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: (rest, rank, l))),
    (check.ranks_at_budget, given_out(lambda rest, rank, l: (rest, rank))),
]
