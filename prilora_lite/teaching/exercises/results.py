"""Checks of 02 and 08: what the differences of runs allow one to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from prilora_lite.experiments.comparison import holm as holm_of_values
from prilora_lite.experiments.comparison import paired_interval as paired_interval_of_differences
from prilora_lite.teaching.exercises.checking import Answer, check
from prilora_lite.teaching.exercises.reading import WrongAnswer, shown

NONE = "no difference shown"


def _half(
    sd: Callable[[np.ndarray], float] = lambda d: d.std(ddof=1),
    t: Callable[[int], float] = lambda n: stats.t.ppf(0.975, n - 1),
    root: Callable[[int], float] = lambda n: n**0.5,
    factor: float = 1.0,
) -> Answer:
    """Mean and half width of the differences, with one or two parts of the formula replaced."""

    def interval(first: list[float], second: list[float]) -> tuple[float, float]:
        d = np.subtract(first, second)
        return d.mean(), factor * t(len(d)) * sd(d) / root(len(d))

    return interval


def _without_pairs(first: list[float], second: list[float]) -> tuple[float, float]:
    spread = (np.var(first, ddof=1) + np.var(second, ddof=1)) ** 0.5
    return np.mean(first) - np.mean(second), stats.t.ppf(0.975, len(first) - 1) * spread / len(first) ** 0.5


def _unrelated(first: list[float], second: list[float]) -> tuple[float, float]:
    mean, half = _without_pairs(first, second)
    n = len(first)
    return mean, half / stats.t.ppf(0.975, n - 1) * stats.t.ppf(0.975, 2 * n - 2)


def _ends(first: list[float], second: list[float]) -> tuple[float, float]:
    mean, half = paired_interval_of_differences(first, second)
    return mean - half, mean + half


@check(
    cases=(
        ([81.0, 83.0, 80.0], [80.0, 79.0, 78.5]),
        ([71.0, 74.0, 70.0, 77.0, 72.0], [73.0, 75.5, 74.0, 75.0, 73.0]),
    ),
    hint="Check the parts one by one: the differences, their mean, their standard deviation, the root of n, and t.",
    slips={
        "Your half width is too large by the root of n: a mean scatters less than a single difference.": _half(
            root=lambda n: 1
        ),
        "You divided by n; the scatter of a mean falls with its root.": _half(root=lambda n: n),
        "You divided by the root of n - 1; below the root stands the number of pairs.": _half(
            root=lambda n: (n - 1) ** 0.5
        ),
        "You used 1.96, which is for very many pairs; with so few t is larger.": (
            _half(t=lambda n: 1.96),
            _half(t=lambda n: stats.norm.ppf(0.975)),
            _half(t=lambda n: 2.0),
        ),
        "2.8 is the t of five pairs; with fewer t is larger, with more it is smaller.": (
            _half(t=lambda n: 2.8),
            _half(t=lambda n: stats.t.ppf(0.975, 4)),
        ),
        "You used the t of n degrees of freedom; one is used up by the mean.": _half(t=lambda n: stats.t.ppf(0.975, n)),
        "Your t leaves 5 % above it; a 95 % interval leaves half of that on each side.": _half(
            t=lambda n: stats.t.ppf(0.95, n - 1)
        ),
        "You used the standard error itself; how many of these does the interval reach?": _half(t=lambda n: 1.0),
        "That is the full width of the interval; half of it is asked for.": _half(factor=2.0),
        "That is a quarter of the width; t reaches from the mean to one end already.": _half(factor=0.5),
        "Your standard deviation divides by n; for a sample it divides by n - 1 (numpy does that with ddof).": _half(
            sd=lambda d: d.std()
        ),
        "Two things: your standard deviation divides by n, not n - 1, and 1.96 is for very many pairs.": _half(
            sd=lambda d: d.std(), t=lambda n: 1.96
        ),
        "You took the variance; its root is the standard deviation.": _half(sd=lambda d: d.var(ddof=1)),
        "You treated the two lists as unrelated. Pairs share their seed: take the differences first.": (
            _without_pairs,
            _unrelated,
        ),
        "Your sign is wrong: first minus second.": lambda first, second: paired_interval_of_differences(second, first),
        "You dropped the sign of the mean; it says which of the two is ahead.": lambda first, second: tuple(
            map(abs, paired_interval_of_differences(first, second))
        ),
        "These are the two ends; mean and half width are asked for.": _ends,
        "That is one number; two are asked for, the mean and half the width.": (
            lambda first, second: paired_interval_of_differences(first, second)[0],
            lambda first, second: paired_interval_of_differences(first, second)[1],
        ),
        "You return the half width first; the mean comes first.": lambda first, second: paired_interval_of_differences(
            first, second
        )[::-1],
    },
)
def paired_interval(first: list[float], second: list[float]) -> tuple[float, float]:
    """02: mean of the differences and half the width of its 95 % t-interval."""
    return paired_interval_of_differences(first, second)


def _one_of(*words: str) -> Callable[..., str]:
    """Reads one of some words."""

    def read(text: Any, *_: Any) -> str:
        if text is None:
            raise WrongAnswer("Nothing came back, only None: is there a return for every case?")
        if not isinstance(text, str) or text not in words:
            listed = ", ".join(map(repr, words))
            raise WrongAnswer(f"The answer is one of {listed}, letter by letter; yours is {shown(text)}.")
        return text

    return read


@check(
    cases=((2, 1), (-2, 1), (0.5, 1), (-0.9, 1), (2, 3), (-2, 3), (0.5, 0.2), (-0.5, 0.2), (1, 1), (-1, 1), (0, 0.5),
           (1.5, 1), (-1.5, 1), (0.03, 0.01)),
    hint="Draw the interval from mean - half to mean + half on a line, and mark zero.",
    reads=_one_of("first", "second", NONE),
    slips={
        "You look at the sign of the mean alone; the interval says whether chance could have made it.": (
            lambda mean, half: "first" if mean > 0 else "second",
            lambda mean, half: "first" if mean >= 0 else "second",
            lambda mean, half: "first" if mean > 0 else "second" if mean < 0 else NONE,
        ),
        "You swapped first and second: the mean is first minus second.": lambda mean, half: (
            "second" if mean > half else "first" if mean < -half else NONE
        ),
        "Where an end of the interval is exactly zero, zero is still in it.": (
            lambda mean, half: "first" if mean >= half else "second" if mean <= -half else NONE,
            lambda mean, half: "first" if mean >= half else "second" if mean < -half else NONE,
            lambda mean, half: "first" if mean > half else "second" if mean <= -half else NONE,
        ),
        "You only ask whether there is a difference; who is better if the mean is below zero?": lambda mean, half: (
            "first" if abs(mean) > half else NONE
        ),
        "You only ask whether the first is better; the second can be as well.": lambda mean, half: (
            "first" if mean > half else NONE
        ),
        "You only ask whether the second is better; the first can be as well.": lambda mean, half: (
            "second" if mean < -half else NONE
        ),
        "That the first was not shown to be better does not say that the second is.": lambda mean, half: (
            "first" if mean > half else "second"
        ),
        "The wrong way round: zero outside the interval shows a difference, inside it none.": lambda mean, half: (
            NONE if abs(mean) > half else "first" if mean > 0 else "second"
        ),
        "You ask about the wrong end: the first is better if even the lower end is above zero.": lambda mean, half: (
            "first" if mean + half > 0 else "second" if mean - half < 0 else NONE
        ),
        "You halved the half width once more: it reaches from the mean to one end already.": lambda mean, half: (
            "first" if mean > half / 2 else "second" if mean < -half / 2 else NONE
        ),
        "The half width is t times the standard error already: compare the mean with it as it is.": (
            lambda mean, half: "first" if mean > 1.96 * half else "second" if mean < -1.96 * half else NONE,
            lambda mean, half: "first" if mean > 2 * half else "second" if mean < -2 * half else NONE,
        ),
        "You compare the mean with a fixed number; what counts is the half width.": lambda mean, half: (
            "first" if mean > 1 else "second" if mean < -1 else NONE
        ),
        "You compare the ends of the interval with a number of your own; compare them with zero.": lambda mean, half: (
            "first" if mean - half > 0.05 else "second" if mean + half < -0.05 else NONE
        ),
    },
)  # fmt: skip
def verdict(mean: float, half: float) -> str:
    """02: what an interval allows one to say."""
    return "first" if mean - half > 0 else "second" if mean + half < 0 else NONE


def _decided(differs: Callable[..., bool], equal: Callable[..., bool]) -> Answer:
    """A decision by two questions, the first of which goes first."""

    def decision(mean: float, half: float, inner: float, margin: float) -> str:
        given = mean, half, inner, margin
        return "difference" if differs(*given) else "equal" if equal(*given) else "not decided"

    return decision


def _leaves_out_zero(mean: float, half: float, *_: float) -> bool:
    return abs(mean) > half


def _lies_inside(mean: float, half: float, inner: float, margin: float) -> bool:
    return abs(mean) + inner < margin


@check(
    cases=(
        (6.3, 2.9, 2.2, 1), (0.0, 0.4, 0.3, 1), (0.9, 1.7, 1.3, 1), (-0.5, 0.55, 0.45, 1), (-6.3, 2.9, 2.2, 1),
        (0.5, 0.2, 0.15, 1), (0.2, 1.1, 0.79, 1), (-0.1, 1.0, 0.85, 2), (0.5, 0.6, 0.5, 1), (0.1, 0.5, 0.4, 0.3),
        (1.5, 2.0, 1.6, 1), (-2.0, 2.5, 2.1, 1), (-0.5, 1.2, 0.9, 1), (0.6, 0.6, 0.5, 1), (1.5, 0.9, 0.7, 1),
        (-0.5, 0.6, 0.5, 1), (-0.6, 0.6, 0.5, 1),
    ),
    hint="Draw both intervals on a line, and mark zero, minus the margin and plus the margin.",
    reads=_one_of("difference", "equal", "not decided"),
    slips={
        "An end of the 90 % interval that is exactly on the margin does not lie between.": _decided(
            _leaves_out_zero, lambda mean, half, inner, margin: abs(mean) + inner <= margin
        ),
        "If an end of the 95 % interval is exactly zero, zero is still in it.": _decided(
            lambda mean, half, inner, margin: abs(mean) >= half, _lies_inside
        ),
        "Zero in the interval does not make two methods equal: compare the 90 % interval with the margin.": _decided(
            _leaves_out_zero, lambda mean, half, inner, margin: True
        ),
        "You compared the mean alone with the margin; the whole 90 % interval has to lie between.": _decided(
            _leaves_out_zero, lambda mean, half, inner, margin: abs(mean) < margin
        ),
        "You used the 95 % interval for both questions; the margin is for the 90 % interval.": _decided(
            _leaves_out_zero, lambda mean, half, inner, margin: abs(mean) + half < margin
        ),
        "You used the 90 % interval for both questions; a difference is shown by the 95 % interval.": _decided(
            lambda mean, half, inner, margin: abs(mean) > inner, _lies_inside
        ),
        "You compare the mean with the margin for a difference; ask whether zero is outside the 95 % interval.": (
            _decided(lambda mean, half, inner, margin: abs(mean) > margin, _lies_inside)
        ),
        "A mean below zero can be a difference as well: the interval may leave out zero on either side.": _decided(
            lambda mean, half, inner, margin: mean > half, _lies_inside
        ),
        "You ask whether the interval leaves out the margin; for a difference it has to leave out zero.": _decided(
            lambda mean, half, inner, margin: abs(mean) - half > margin, _lies_inside
        ),
        "Where both are true, return 'difference'.": _decided(
            lambda *given: _leaves_out_zero(*given) and not _lies_inside(*given), _lies_inside
        ),
        "Only one end was compared with the margin; the interval has two.": (
            _decided(_leaves_out_zero, lambda mean, half, inner, margin: mean + inner < margin),
            _decided(_leaves_out_zero, lambda mean, half, inner, margin: mean - inner > -margin),
        ),
    },
)  # fmt: skip
def decision(mean: float, half: float, inner: float, margin: float) -> str:
    """02: difference, equal within the margin, or not decided."""
    return _decided(_leaves_out_zero, _lies_inside)(mean, half, inner, margin)


@check(
    cases=((80, 82, 79, 85), (80, 82, 79, 81), (80, 83, 81, 87), (80, 82, 82, 82), (80, 78, 79, 75)),
    hint="What does the slope gain without pruning, and what does it gain with it? Compare the two gains.",
    slips={
        "That is what both gain together; how much more is that than the sum of each?": lambda a, b, c, d: d - a,
        "That is the sum of the two gains; what do both do beyond it?": lambda a, b, c, d: (b - a) + (c - a),
        "You compare with the better of the two; the sum of both gains is asked for.": lambda a, b, c, d: d - max(b, c),
        "You compare with the ranks alone: that is what pruning gains where ranks rise.": lambda a, b, c, d: d - b,
        "You compare with pruning alone: that is what the slope gains where A is pruned.": lambda a, b, c, d: d - c,
        "Your sign is wrong: above 0 is where both do more than the sum.": lambda a, b, c, d: (
            (b - a) + (c - a) - (d - a)
        ),
        "You took off two whole metrics; only their gains over LoRA are to be taken off.": lambda a, b, c, d: d - b - c,
        "You compare with the mean of the two gains; it should be their sum.": lambda a, b, c, d: d - (b + c) / 2,
        "You halved it; the difference of the two gains is asked for.": lambda a, b, c, d: (d - c - b + a) / 2,
        "Both can also do less than the sum: then the number is below 0.": (
            lambda a, b, c, d: abs(d - c - b + a),
            lambda a, b, c, d: max(0, d - c - b + a),
        ),
    },
)
def interaction(lora: float, ranks: float, pruning: float, prilora: float) -> float:
    """08: what both ideas do together beyond the sum of what each does alone."""
    return (prilora - pruning) - (ranks - lora)


def _walk(p: list[float], factor: Callable[[int, int], float], keep: bool = True, most: float = 1.0) -> list[float]:
    """The i-th smallest value times a factor of i and m, never below the one before it, at most 1."""
    corrected, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(np.argsort(p, kind="stable")):
        value = min(most, factor(place, len(p)) * p[i])
        largest = max(largest, value) if keep else value
        corrected[i] = largest
    return corrected


def _in_given_order(p: list[float]) -> list[float]:
    largest, corrected = 0.0, []
    for place, value in enumerate(p):
        largest = max(largest, min(1.0, (len(p) - place) * value))
        corrected.append(largest)
    return corrected


def _false_discoveries(p: list[float]) -> list[float]:
    """Benjamini and Hochberg's correction."""
    return stats.false_discovery_control(p).tolist()


@check(
    cases=[
        ([0.04, 0.01, 0.03],),
        ([0.2],),
        ([0.9, 0.5, 0.6],),
        ([0.5, 0.003, 0.001, 0.002],),
        ([0.02, 0.3, 0.02, 0.01],),
    ],
    hint="Take [0.04, 0.01, 0.03] on paper: which is the smallest, what is it multiplied by, and where does it stand?",
    slips={
        "Your values are right, but sorted; give them in the order they came in.": (
            lambda p: sorted(_walk(p, lambda place, m: m - place)),
            lambda p: sorted(_walk(p, lambda place, m: m - place), reverse=True),
        ),
        "You multiplied all of them by m, which is Bonferroni's correction; the next smallest gets m - 1, and so on.": (
            lambda p: [min(1.0, len(p) * value) for value in p],
            lambda p: [len(p) * value for value in p],
        ),
        "One of your values is below that of a smaller p: keep the largest so far.": lambda p: _walk(
            p, lambda place, m: m - place, keep=False
        ),
        "A probability is at most 1.": (
            lambda p: _walk(p, lambda place, m: m - place, most=np.inf),
            lambda p: _walk(p, lambda place, m: m - place, keep=False, most=np.inf),
        ),
        "You took the values in the order they came in; the smallest comes first.": (
            _in_given_order,
            lambda p: [min(1.0, (len(p) - i) * value) for i, value in enumerate(p)],
        ),
        "You sorted from the largest: the smallest p is multiplied by m.": lambda p: _walk(
            p, lambda place, m: place + 1
        ),
        "Your factors are one too small: the smallest p is multiplied by m itself.": lambda p: _walk(
            p, lambda place, m: max(1, m - place - 1)
        ),
        "Your factors are one too large: the smallest p is multiplied by m itself.": lambda p: _walk(
            p, lambda place, m: m - place + 1
        ),
        "That is Benjamini and Hochberg's correction, which promises less.": _false_discoveries,
        "You divide m by the place; Holm subtracts: m, m - 1, m - 2.": (
            lambda p: _walk(p, lambda place, m: m / (place + 1)),
            lambda p: _walk(p, lambda place, m: m / (place + 1), keep=False),
        ),
        "You return p as it was.": list,
        "You sorted, multiplied, and left the values sorted: which of them belongs to which p?": (
            lambda p: [min(1.0, (len(p) - i) * value) for i, value in enumerate(sorted(p))],
            lambda p: [(len(p) - i) * value for i, value in enumerate(sorted(p))],
        ),
        "You divided; looking more often makes a p larger.": lambda p: [value / len(p) for value in p],
    },
)
def holm(p: list[float]) -> list[float]:
    """08: p-values corrected for the number of looks."""
    return holm_of_values(p).tolist()
