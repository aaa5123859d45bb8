"""What a study can say: paired differences with intervals, corrected for the number of looks, and what it may miss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import optimize, stats

PRIMARY = ("prilora", "lora")  # the one comparison that is named before the runs; all others are exploratory


def paired_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    r"""Mean of the differences of two methods, pair by pair, and half the width of its 95 % t-interval.

    .. math:: \bar d \pm t_{0.975,\,n-1}\,\frac{\mathrm{sd}(d)}{\sqrt n}, \qquad d_i = a_i - b_i

    Args:
        first, second: a and b, one value a seed, in the same order.

    Raises:
        ValueError: lists of different length, or fewer than two pairs.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"expected two or more pairs, got {len(first)} and {len(second)} values")
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    n = len(difference)
    return float(difference.mean()), float(stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / math.sqrt(n))


def compare(runs: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """One method minus another, paired by seed: for each task, and for the mean over the tasks.

    Args:
        runs: one row per run with ``task``, ``method``, ``seed`` and ``value``.
        first, second: names of methods. Seeds that only one of them has are left out; for the mean over tasks, seeds
            that lack a task as well.

    Returns:
        One row per task and one for ``all`` if there are several: pairs, mean, low and high end of the 95 %
        t-interval, p of the paired t-test, sd of the differences. A single pair has a mean and no interval.

    Raises:
        ValueError: a method without runs, or no seed in common.
    """
    for name in (first, second):
        if name not in set(runs["method"]):
            raise ValueError(f"no runs of {name!r}; there are {', '.join(sorted(set(runs['method'])))}")
    table = runs.pivot_table(index="seed", columns=["task", "method"], values="value")
    differences = {
        task: (table[task][first] - table[task][second]).dropna()
        for task in dict.fromkeys(runs["task"])
        if {first, second} <= set(table[task].columns)
    }
    if len(differences) > 1:
        differences["all"] = pd.DataFrame(differences).dropna().mean(axis=1)
    rows = [{"task": task, **_test(difference)} for task, difference in differences.items() if len(difference)]
    if not rows:
        raise ValueError(f"{first} and {second} have no seed of a task in common")
    return pd.DataFrame(rows)


def explore(runs: pd.DataFrame, reference: str = "lora") -> pd.DataFrame:
    """Every other method minus a reference on every task, with p corrected for the number of looks (Holm).

    The comparison that was named before the runs (:data:`PRIMARY`) is no exploratory one, and is left out.

    Args:
        runs: as for :func:`compare`.
        reference: the method that the others are compared with.

    Returns:
        One row per method and task: the columns of :func:`compare` without ``all``, and ``p_holm``.

    Raises:
        ValueError: no other methods, or a method that has no seed in common with the reference.
    """
    others = [name for name in dict.fromkeys(runs["method"]) if name != reference and (name, reference) != PRIMARY]
    tables = [compare(runs, method, reference).assign(method=method) for method in others]
    if not tables:
        raise ValueError(f"nothing to compare with {reference!r}")
    table = pd.concat(tables, ignore_index=True)
    table = table[table["task"] != "all"].reset_index(drop=True)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def holm(p_values: Sequence[float]) -> np.ndarray:
    r"""P-values corrected for having looked m times: the smallest times m, the next times m - 1, and so on.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\,p_{(j)})

    Values that are not there (NaN, of a single pair) do not count as looks. Source: Holm 1979.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    corrected = np.full_like(p, np.nan)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p[i]))
        corrected[i] = largest
    return corrected


def detectable(sd: float, pairs: int, power: float = 0.8) -> float:
    r"""The smallest true difference that a paired t-test at 5 % would show with this power.

    The d with :math:`P(|t'_{n-1}(d \sqrt n / \mathrm{sd})| > t_{0.975,\,n-1}) = \mathrm{power}`, t' noncentral.

    Args:
        sd: standard deviation of the differences.
        pairs: n, at least 2.
        power: probability to show it, in (0.05, 1).

    Raises:
        ValueError: a value out of range.
    """
    if pairs < 2 or not sd > 0 or not 0.05 < power < 1:
        raise ValueError(f"expected sd > 0, two or more pairs, power in (0.05, 1); got {sd!r}, {pairs!r}, {power!r}")
    critical = stats.t.ppf(0.975, pairs - 1)
    spread = stats.chi(pairs - 1, scale=1 / math.sqrt(pairs - 1))  # of the estimated sd, in units of the true one

    def lacks(effect: float) -> float:
        """Power short of the one asked for; by an integral, as scipy's noncentral t ends in NaN far out."""

        def beyond(s: float) -> float:
            return stats.norm.sf(critical * s - effect) + stats.norm.cdf(-critical * s - effect)

        return float(spread.expect(beyond) - power)

    high = 1.0
    while lacks(high) < 0:
        high *= 2
    return sd * optimize.brentq(lacks, 1e-6, high) / math.sqrt(pairs)


def detectable_by_seeds(table: pd.DataFrame, seeds: Sequence[int] = (3, 5, 10, 20)) -> dict[int, float]:
    """The smallest true difference that so many seeds would show in four studies of five.

    Args:
        table: of differences, as :func:`compare` and :func:`explore` give them; the median of their sd is taken.
        seeds: how many, at least 2.

    Returns:
        Number of seeds -> difference; empty if no sd is known.
    """
    sd = table["sd"].median()
    return {n: detectable(sd, n) for n in seeds} if sd > 0 else {}


def verdict(low: float, high: float) -> str:
    """What an interval of a difference allows to say: ``above``, ``below`` or ``no difference shown``."""
    return "above" if low > 0 else "below" if high < 0 else "no difference shown"


def _test(difference: pd.Series) -> dict[str, float]:
    n, mean = len(difference), float(difference.mean())
    if n == 1:
        return {"pairs": 1, "mean": mean, "low": np.nan, "high": np.nan, "p": np.nan, "sd": np.nan}
    _, half = paired_interval(difference.to_numpy(), np.zeros(n))
    sd = float(difference.std())
    p = float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1)) if sd else float(mean == 0)
    return {"pairs": n, "mean": mean, "low": mean - half, "high": mean + half, "p": p, "sd": sd}
