"""What a study can say: paired differences with intervals, verdicts for a margin, and how many seeds it would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

PRIMARY = ("prilora", "lora")  # the main comparison; all others are exploratory
POWER = 0.8  # four studies out of five
MOST_SEEDS = 10_000  # more than anybody runs; larger numbers are reported as this one
_TIE = 1e-4  # points; a smaller sd is that of rounding, even in float32: all pairs differ by the same amount


@dataclass(frozen=True)
class Decision:
    """What paired differences say, for a margin that was named before the runs.

    Attributes:
        pairs: their number n.
        mean, sd: of the differences.
        low, high: 95 % t-interval of the mean; NaN, as all below, where the pairs say nothing of the scatter.
        inner_low, inner_high: its 90 % t-interval, which two one-sided tests at 5 % look at.
        p_difference: of the paired t-test that the mean is 0.
        p_equal: the larger p of the two one-sided tests that the mean lies outside the margin.
        margin: the largest difference that counts as none.
    """

    pairs: int
    mean: float
    sd: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    p_difference: float
    p_equal: float
    margin: float

    @property
    def word(self) -> str:
        """``difference``, ``equal`` or ``not decided``."""
        if self.low > 0 or self.high < 0:
            return "difference"
        return "equal" if self.p_equal < 0.05 else "not decided"

    @property
    def seeds(self) -> int | None:
        """How many it would take, see :func:`seeds_to_decide`; None if it is decided, or one seed cannot tell."""
        return seeds_to_decide(self.sd, self.margin) if self.word == "not decided" and not self._unknown else None

    @property
    def _unknown(self) -> str:
        """Why the scatter is not known; empty if it is."""
        if self.pairs > 1 and self.sd > _TIE:
            return ""
        return f"{'one seed' if self.pairs == 1 else 'the same difference for all seeds'} says nothing of the scatter"

    @property
    def sentence(self) -> str:
        """The verdict as a whole sentence."""
        if self.word != "not decided":
            return f"{'That is a' if self.word == 'difference' else 'They are'} {self.verdict}."
        if self._unknown:
            return f"{self._unknown.capitalize()}, so nothing is decided."
        some = f"about {_count(self.seeds)}"
        another = f"another such study, of {some}, would decide in four cases of five"
        enough = another if self.seeds <= self.pairs else f"{some} should be enough"
        return f"Not decided within {_points(self.margin)}; {enough}."

    @property
    def verdict(self) -> str:
        """The word, and what goes with it, for differences in percentage points."""
        if self.word == "difference":
            return "difference" + (f", smaller than {_points(self.margin)}" if self.p_equal < 0.05 else "")
        if self.word == "equal":
            return f"equal within {_points(self.margin)}"
        if self._unknown:
            return f"not decided: {self._unknown}"
        needs = "another study needs" if self.seeds <= self.pairs else "needs"
        return f"not decided: {needs} about {_count(self.seeds)}"


def decide(differences: Sequence[float], margin: float) -> Decision:
    r"""Whether paired differences show a difference, show equality within a margin, or decide neither.

    A difference is shown if the 95 % t-interval of the mean leaves out zero (paired t-test at 5 %). Equality within the
    margin is shown if both one-sided t-tests reject at 5 % that the mean lies outside it, which is to say that the
    90 % interval lies inside it:

    .. math:: -\delta < \bar d - t_{0.95,\,n-1}\,\frac{\mathrm{sd}(d)}{\sqrt n}
        \quad\text{and}\quad \bar d + t_{0.95,\,n-1}\,\frac{\mathrm{sd}(d)}{\sqrt n} < \delta

    Both may be true: a difference is there, and it is smaller than the margin.

    Args:
        differences: d, one for each seed, in percentage points. :func:`paired_differences` gives fractions of 1, so
            multiply them: ``decide(100 * paired_differences(runs, "prilora", "lora")["rte"], margin=1)``.
        margin: delta, above 0, in percentage points too; to be named before the runs.

    Raises:
        ValueError: no differences, one that is not finite, or a margin that is not above 0.

    Source: two one-sided tests, Schuirmann 1987.
    """
    d = np.asarray(differences, dtype=float)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise ValueError(f"expected one finite difference for each seed, got {differences!r:.80}")
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(f"a margin is a finite number above 0, in percentage points, got {margin!r}")
    n, mean, sd = len(d), float(d.mean()), float(pd.Series(d).std())
    if not sd > _TIE:
        return Decision(n, mean, sd, *[math.nan] * 6, margin)
    p_difference = float(stats.ttest_1samp(d, 0).pvalue)
    above = stats.ttest_1samp(d, -margin, alternative="greater")
    below = stats.ttest_1samp(d, margin, alternative="less")
    p_equal = float(max(above.pvalue, below.pvalue))
    return Decision(n, mean, sd, *_interval(d, 0.95), *_interval(d, 0.90), p_difference, p_equal, margin)


def seeds_to_decide(sd: float, margin: float) -> int:
    """The fewest seeds with which a study is likely to decide, whether the truth is no difference or the margin.

    With so many, a true difference as large as the margin is shown by the t-test, and equality within the margin is
    shown where there is no difference, each in four studies out of five.

    Args:
        sd: standard deviation of the paired differences.
        margin: as for :func:`decide`, in the same unit.

    Returns:
        A number of seeds, at most :data:`MOST_SEEDS`. ValueError for a value out of range.
    """
    if not (sd >= 0 and margin > 0):
        raise ValueError(f"expected sd >= 0 and margin > 0, got {sd!r} and {margin!r}")
    few, many = 2, MOST_SEEDS
    while few < many:  # both powers rise with the number of seeds
        n = (few + many) // 2
        enough = sd == 0 or min(_powers(margin * math.sqrt(n) / sd, n)) >= POWER
        few, many = (few, n) if enough else (n + 1, many)
    return few


def _powers(effect: float, pairs: int) -> tuple[float, float]:
    """Power of the t-test if the truth is the margin, and of two one-sided tests if it is 0.

    Averages over the estimated standard deviation, in units of the true one.

    Args:
        effect: the margin in units of the true standard error.
        pairs: their number n.
    """
    places = (np.arange(2000) + 0.5) / 2000
    s = np.sqrt(stats.chi2.ppf(places, pairs - 1) / (pairs - 1))
    critical = stats.t.ppf(0.975, pairs - 1) * s
    shown = stats.norm.sf(critical - effect) + stats.norm.cdf(-critical - effect)
    inside = 2 * stats.norm.cdf(effect - stats.t.ppf(0.95, pairs - 1) * s) - 1
    return float(shown.mean()), float(np.maximum(inside, 0).mean())


def pooled_difference(runs: pd.DataFrame, first: str, second: str) -> tuple[float, float, float, float]:
    r"""The difference of two methods on one task, with the scatter of all its methods pooled, and what seeds explain.

    .. math:: \bar a - \bar b \pm t_{0.975,\,\nu}\; s_p \sqrt{1/n_a + 1/n_b}, \qquad
        s_p^2 = \frac{1}{\nu} \sum_m (n_m - 1)\, s_m^2, \quad \nu = \sum_m (n_m - 1)

    A few pairs can lie close together by luck. Where the seed explains nothing (the last number is large), pairing
    gains nothing, and the scatter within all methods is the better measure of how runs vary.

    Args:
        runs: one row per run of one task, with ``method``, ``seed`` and ``value``.
        first, second: names of methods.

    Returns:
        Mean difference, low and high end of its 95 % interval, and the p of the test that seeds explain nothing (F-test
        of the two-way layout, of the seeds that both have and the methods that have all these; NaN of fewer than two).

    Raises:
        ValueError: no runs of a method, or a single run of each.
    """
    runs = finite(runs)
    values = {name: group["value"].to_numpy() for name, group in runs.groupby("method", sort=False)}
    for name in {first, second} - values.keys():
        raise ValueError(f"no runs of {name!r}; there are {', '.join(sorted(values))}")
    freedom = sum(len(v) - 1 for v in values.values())
    if not freedom:
        raise ValueError("one run of each method says nothing of the scatter")
    variance = sum((len(v) - 1) * v.var(ddof=1) for v in values.values() if len(v) > 1) / freedom
    a, b = values[first], values[second]
    mean = float(a.mean() - b.mean())
    half = float(stats.t.ppf(0.975, freedom) * math.sqrt(variance * (1 / len(a) + 1 / len(b))))
    return mean, mean - half, mean + half, _p_of_seeds(runs, first, second)


def _p_of_seeds(runs: pd.DataFrame, *compared: str) -> float:
    table = runs.pivot_table(index="seed", columns="method", values="value").dropna(subset=compared)
    table = table.dropna(axis="columns").to_numpy()
    seeds, methods = table.shape
    if seeds < 2 or methods < 2:
        return math.nan
    by_seed, by_method = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    left = ((table - by_seed - by_method + table.mean()) ** 2).sum() / ((seeds - 1) * (methods - 1))
    between = methods * ((by_seed - table.mean()) ** 2).sum() / (seeds - 1)
    return float(stats.f.sf(between / left, seeds - 1, (seeds - 1) * (methods - 1))) if left else math.nan


def _interval(d: np.ndarray, level: float) -> tuple[float, float]:
    mean, half = mean_and_half(d, level)
    return mean - half, mean + half


def mean_and_half(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean, and half the width of its t-interval; 0 for one value."""
    mean, n = float(np.mean(values)), len(values)
    return mean, float(stats.t.ppf((1 + level) / 2, n - 1) * stats.sem(values)) if n > 1 else 0.0


def _points(margin: float) -> str:
    return f"{margin:g} point{'' if margin == 1 else 's'}"


def _count(seeds: int) -> str:
    return f"{seeds} seeds" if seeds < MOST_SEEDS else f"{MOST_SEEDS:,} seeds or more"


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
    return mean_and_half(np.asarray(first, dtype=float) - np.asarray(second, dtype=float))


def paired_differences(runs: pd.DataFrame, first: str, second: str) -> dict[str, pd.Series]:
    """One method minus another, paired by seed: for each task, and for the mean over the tasks.

    Args:
        runs: one row per run with ``task``, ``method``, ``seed`` and ``value``, which counts where it is finite.
        first, second: names of methods. Seeds that only one of them has are left out; for the mean over tasks, seeds
            that lack a task as well.

    Returns:
        Task -> one difference for each seed; ``all`` is the mean over the tasks, if there are several.

    Raises:
        ValueError: a method without runs, no seed in common, two runs of one method, task and seed, or several groups.
    """
    runs = finite(runs)
    twice = runs[runs["method"].isin((first, second)) & runs.duplicated(["task", "method", "seed"])]
    if len(twice):
        run = "{method!r} on {task} with seed {seed}".format(**twice.iloc[0])
        raise ValueError(f"there are two different runs of {run}: compare one of groups(records) at a time")
    for task, here in runs[runs["method"].isin((first, second))].groupby("task") if "group" in runs else ():
        if len(apart := here["group"].unique()) > 1:
            told = f"{first!r} and {second!r} on {task} have runs of several groups, {apart[0]!r} and {apart[1]!r}"
            raise ValueError(f"{told}: more than the method differs, so compare one of groups(records) at a time")
    for name in {first, second} - set(runs["method"]):
        raise ValueError(f"no runs of {name!r}; there are {', '.join(sorted(set(runs['method'])))}")
    table = runs.pivot_table(index="seed", columns=["task", "method"], values="value")
    differences = {
        task: (table[task][first] - table[task][second]).dropna()
        for task in dict.fromkeys(runs["task"])
        if {first, second} <= set(table[task].columns)
    }
    if len(differences) > 1:
        differences["all"] = pd.DataFrame(differences).dropna().mean(axis=1)
    if not (differences := {task: d for task, d in differences.items() if len(d)}):
        raise ValueError(f"{first} and {second} have no seed of a task in common")
    return differences


def finite(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose value is a finite number."""
    return runs[np.isfinite(runs["value"])]


def compare(runs: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """What :func:`paired_differences` come to, as a table.

    Args:
        runs, first, second: see there.

    Returns:
        One row per task and one for ``all`` if there are several: pairs, mean, low and high end of the 95 %
        t-interval, p of the paired t-test, sd of the differences. A single pair, or pairs that all differ by the same
        amount, have a mean alone: neither interval, p nor sd.

    Raises:
        ValueError: a method without runs, or no seed in common.
    """
    return pd.DataFrame([{"task": task, **_test(d)} for task, d in paired_differences(runs, first, second).items()])


def explore(runs: pd.DataFrame, reference: str = "lora") -> pd.DataFrame:
    """Every other method minus a reference on every task, with p corrected for the number of looks (Holm).

    The main comparison (:data:`PRIMARY`) is not exploratory, and is left out.

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
    table = pd.concat(tables).query("task != 'all'").reset_index(drop=True)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def holm(p_values: Sequence[float]) -> np.ndarray:
    r"""P-values corrected for having looked m times: the smallest times m, the next times m - 1, and so on.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\,p_{(j)})

    Missing values (NaN, where the scatter is not known) do not count as looks. Source: Holm 1979.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    corrected = np.full_like(p, np.nan)
    order = np.argsort(p)[: (~np.isnan(p)).sum()]  # NaN comes last
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.arange(len(order), 0, -1) * p[order]))
    return corrected


def detectable(sd: float, pairs: int) -> float:
    r"""The smallest true difference that a paired t-test at 5 % would show in four studies out of five.

    The d with :math:`P(|t'_{n-1}(d \sqrt n / \mathrm{sd})| > t_{0.975,\,n-1}) = 0.8`, t' noncentral.

    Args:
        sd: standard deviation of the differences.
        pairs: n, at least 2.

    Raises:
        ValueError: a value out of range.
    """
    if pairs < 2 or not sd > 0:
        raise ValueError(f"expected sd > 0 and two or more pairs, got {sd!r} and {pairs!r}")
    critical = stats.t.ppf(0.975, pairs - 1)
    spread = stats.chi(pairs - 1, scale=1 / math.sqrt(pairs - 1))  # of the estimated sd, in units of the true one
    nodes, weights = np.polynomial.legendre.leggauss(200)
    bottom, top = spread.ppf(1e-15), spread.isf(1e-15)
    s = bottom + (top - bottom) * (nodes + 1) / 2
    weights = weights * spread.pdf(s) * (top - bottom) / 2

    def lacks(effect: float) -> float:
        """Power minus the one asked for; by Gauss's sum, since scipy's noncentral t gives NaN far out."""
        return weights @ (stats.norm.sf(critical * s - effect) + stats.norm.cdf(-critical * s - effect)) - POWER

    high = 1.0
    while lacks(high) < 0:
        high *= 2
    return sd * optimize.brentq(lacks, 1e-6, high) / math.sqrt(pairs)


def detectable_by_seeds(table: pd.DataFrame) -> dict[int, float]:
    """The smallest true difference that 3, 5, 10 and 20 seeds would show in four studies out of five.

    Args:
        table: of differences, as :func:`compare` and :func:`explore` give them; the median of their sd is taken.

    Returns:
        Number of seeds -> difference; empty if no sd is known.
    """
    sd = table["sd"].median()
    return {n: detectable(sd, n) for n in (3, 5, 10, 20)} if sd > 0 else {}


def verdict(low: float, high: float) -> str:
    """What an interval of a difference allows to say: ``above``, ``below`` or ``no difference shown``."""
    return "above" if low > 0 else "below" if high < 0 else "no difference shown"


def _test(difference: pd.Series) -> dict[str, float]:
    n, mean, sd = len(difference), float(difference.mean()), float(difference.std())
    if not 100 * sd > _TIE:
        return {"pairs": n, "mean": mean} | dict.fromkeys(("low", "high", "p", "sd"), math.nan)
    (low, high), p = _interval(difference.to_numpy(), 0.95), float(stats.ttest_1samp(difference, 0).pvalue)
    return {"pairs": n, "mean": mean, "low": low, "high": high, "p": p, "sd": sd}
