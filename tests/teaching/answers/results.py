"""Answers to exercises of 02, 08 and 09: wrong ones with a part of what they are told, right ones of other forms."""

import statistics
from itertools import accumulate

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from prilora_lite import exercises as check

NONE = "no difference shown"


def interval(half):
    """Mean, and a half width of n, the standard deviation and the list of differences."""

    def paired_interval(first, second):
        d = np.array(first) - np.array(second)
        return d.mean(), half(len(d), d.std(ddof=1), d)

    return paired_interval


def t(n, share=0.975):
    return stats.t.ppf(share, n - 1)


right_interval = interval(lambda n, sd, d: t(n) * sd / n**0.5)


def unpaired(first, second):
    a, b = np.array(first), np.array(second)
    half = t(len(a)) * np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return a.mean() - b.mean(), half


def subtracts_lists(first, second):
    d = first - second
    return np.mean(d), 0


def never_imported(first, second):
    return 0, scipy_stats.t.ppf(0.975, 2)  # noqa: F821


def sorts_first(first, second):
    return right_interval(sorted(first), sorted(second))


def touching_is_enough(mean, half):
    return "first" if mean - half >= 0 else "second" if mean + half <= 0 else NONE


def below_zero_touching_is_enough(mean, half):
    return "first" if mean - half > 0 else "second" if mean + half <= 0 else NONE


def one_branch_without_return(mean, half):
    if mean - half > 0:
        return "first"
    if mean + half < 0:
        return "second"
    return None


def prints(mean, half):
    print("first" if mean > half else "second" if mean < -half else NONE)


def holm_sorted(p):
    m, largest, corrected = len(p), 0, []
    for place, value in enumerate(sorted(p)):
        largest = max(largest, min(1, (m - place) * value))
        corrected.append(largest)
    return corrected


def holm_in_place(p):
    p.sort()
    return holm_sorted(p)


def holm_not_monotone(p):
    order = np.argsort(p)
    corrected = [0] * len(p)
    for place, i in enumerate(order):
        corrected[i] = min(1, (len(p) - place) * p[i])
    return corrected


def holm_uncapped(p):
    corrected, largest = [0] * len(p), 0
    for place, i in enumerate(np.argsort(p)):
        largest = max(largest, (len(p) - place) * p[i])
        corrected[i] = largest
    return corrected


def holm_from_the_largest(p):
    corrected, largest = [0] * len(p), 0
    for place, i in enumerate(np.argsort(p)):
        largest = max(largest, min(1, (place + 1) * p[i]))
        corrected[i] = largest
    return corrected


def holm_one_short(p):
    corrected, largest = [0] * len(p), 0
    for place, i in enumerate(np.argsort(p)):
        largest = max(largest, min(1, max(1, len(p) - 1 - place) * p[i]))
        corrected[i] = largest
    return corrected


def holm_by_index(p):
    """Undoes the sorting with the order itself."""
    order = np.argsort(p)
    return np.array(holm_sorted(p))[order].tolist()


def saying(verdict, form="on {task} the difference is {mean:+.1f} ({low:.1f} to {high:.1f}), {seeds} seeds"):
    """A sentence of a form and a verdict."""

    def report_sentence(task, mean, low, high, seeds):
        values = {"task": task, "mean": mean, "low": low, "high": high, "seeds": seeds}
        return f"{form.format(**values)}: {verdict(mean, low, high)}"

    return report_sentence


def beyond_the_margin(mean, half, inner, margin):
    if mean - half > margin or mean + half < -margin:
        return "difference"
    return "equal" if -margin < mean - inner and mean + inner < margin else "not decided"


def divided_by_place(p):
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected = list(p)
    for place, i in enumerate(order, start=1):
        corrected[i] = min(1, len(p) / place * p[i])
    return corrected


def equal_first(mean, half, inner, margin):
    if -margin < mean - inner and mean + inner < margin:
        return "equal"
    return "difference" if not mean - half <= 0 <= mean + half else "not decided"


def by_one_interval(mean, half, inner, margin):
    if not mean - half <= 0 <= mean + half:
        return "difference"
    return "equal" if -margin < mean - half and mean + half < margin else "not decided"


def decided_by_ends(mean, half, inner, margin):
    if mean - half > 0 or mean + half < 0:
        return "difference"
    return "equal" if -margin < mean - inner < mean + inner < margin else "not decided"


def with_a_typographers_minus(*values):
    return saying(honest)(*values).replace("-", "\u2212")


def unrelated(first, second):
    low, high = stats.ttest_ind(first, second).confidence_interval()
    return (low + high) / 2, (high - low) / 2


def honest(mean, low, high):
    return "first" if low > 0 else "second" if high < 0 else NONE


def rounded(first, second):
    return tuple(round(part, 3) for part in check.paired_interval.exercise.truth(first, second))


def decided(difference, equal):
    def decision(mean, half, inner, margin):
        given = mean - half, mean + half, mean - inner, mean + inner, margin
        return "difference" if difference(*given) else "equal" if equal(*given) else "not decided"

    return decision


def leaves_out_zero(low, high, *_):
    return low > 0 or high < 0


its_upper_end_alone = decided(leaves_out_zero, lambda low, high, left, right, margin: right < margin)
its_lower_end_alone = decided(leaves_out_zero, lambda low, high, left, right, margin: left > -margin)
down_to_the_margin = decided(leaves_out_zero, lambda low, high, left, right, margin: -margin <= left and right < margin)
down_to_zero = decided(
    lambda low, high, *_: low > 0 or high <= 0, lambda low, high, left, right, margin: -margin < left and right < margin
)


WRONG = [
    (
        check.paired_interval,
        rounded,
        "right, but rounded",
    ),
    (check.paired_interval, interval(lambda n, sd, d: t(n) * sd), "too large by the root of n"),
    (check.paired_interval, interval(lambda n, sd, d: 1.96 * sd / n**0.5), "You used 1.96"),
    (check.paired_interval, interval(lambda n, sd, d: stats.norm.ppf(0.975) * sd / n**0.5), "You used 1.96"),
    (check.paired_interval, interval(lambda n, sd, d: 2 * t(n) * sd / n**0.5), "full width"),
    (check.paired_interval, interval(lambda n, sd, d: t(n) * d.std() / n**0.5), "divides by n; for a sample"),
    (check.paired_interval, interval(lambda n, sd, d: 1.96 * d.std() / n**0.5), "Two things"),
    (check.paired_interval, interval(lambda n, sd, d: stats.t.ppf(0.975, n) * sd / n**0.5), "n degrees of freedom"),
    (check.paired_interval, interval(lambda n, sd, d: t(n, 0.95) * sd / n**0.5), "leaves 5 % above"),
    (check.paired_interval, interval(lambda n, sd, d: sd / n**0.5), "standard error itself"),
    (check.paired_interval, interval(lambda n, sd, d: t(n) * sd / n), "falls with its root"),
    (check.paired_interval, interval(lambda n, sd, d: t(n) * sd / (n - 1) ** 0.5), "root of n - 1"),
    (check.paired_interval, interval(lambda n, sd, d: t(n) * sd**2 / n**0.5), "took the variance"),
    (check.paired_interval, interval(lambda n, sd, d: t(n) * sd / n**0.5 / 2), "a quarter of the width"),
    (check.paired_interval, interval(lambda n, sd, d: 0.0), "Check the parts one by one"),
    (check.paired_interval, interval(lambda n, sd, d: 2.8 * sd / n**0.5), "the t of five pairs"),
    (check.paired_interval, unpaired, "take the differences first"),
    (check.paired_interval, unrelated, "two lists as unrelated"),
    (check.paired_interval, sorts_first, "Check the parts one by one"),
    (check.paired_interval, lambda a, b: right_interval(b, a), "first minus second"),
    (check.paired_interval, lambda a, b: (abs(right_interval(a, b)[0]), right_interval(a, b)[1]), "dropped the sign"),
    (check.paired_interval, lambda a, b: right_interval(a, b)[1], "two are asked for"),
    (check.paired_interval, lambda a, b: right_interval(a, b)[::-1], "the mean comes first"),
    (check.paired_interval, lambda a, b: stats.t.interval(0.95, len(a) - 1, *stats.norm.fit(a)), "Check the parts"),
    (
        check.paired_interval,
        lambda a, b: (right_interval(a, b)[0] - right_interval(a, b)[1], sum(right_interval(a, b))),
        "the two ends",
    ),
    (check.paired_interval, subtracts_lists, "TypeError: unsupported operand(.|\n)*`d = first - second`"),
    (check.paired_interval, never_imported, "Is this name imported(.|\n)*scipy_stats"),
    (
        check.verdict,
        lambda mean, half: "first" if mean > half / 2 else "second" if -mean > half / 2 else NONE,
        "halved the half width once more",
    ),
    (check.verdict, lambda mean, half: "first" if mean > 0 else "second", "sign of the mean alone"),
    (
        check.decision,
        lambda mean, half, inner, margin: "difference" if abs(mean) > half else "equal",
        "make two methods",
    ),
    (check.decision, lambda mean, half, inner, margin: "Equal", "letter by letter; yours is 'Equal'"),
    (check.decision, lambda mean, half, inner, margin: None, "is there a return for every case"),
    (check.decision, lambda mean, half, inner, margin: "not decided", "the same whatever is asked"),
    (check.decision, equal_first, "Where both are true"),
    (check.decision, its_upper_end_alone, "Only one end"),
    (check.decision, its_lower_end_alone, "Only one end"),
    (check.decision, down_to_the_margin, "Draw both intervals|exactly on the margin"),
    (check.decision, down_to_zero, "Draw both intervals|exactly zero"),
    (check.decision, beyond_the_margin, "for a difference it has to leave out zero"),
    (check.decision, by_one_interval, "95 % interval for both"),
    (
        check.verdict,
        lambda mean, half: "first" if mean > 0 else "second" if mean < 0 else NONE,
        "sign of the mean alone",
    ),
    (
        check.verdict,
        lambda mean, half: {1: "first", -1: "second"}.get(int(mean / 1.5), NONE),
        "fixed number(.|\n)*mean=2, half=3",
    ),
    (check.verdict, lambda mean, half: None, "is there a return for every case"),
    (check.verdict, one_branch_without_return, "is there a return for every case"),
    (check.verdict, prints, "is there a return"),
    (
        check.verdict,
        lambda m, h: "first" if m / h > 1.96 else "second" if m / h < -1.96 else NONE,
        "standard error already",
    ),
    (check.verdict, lambda m, h: "first" if m > 2 * h else "second" if m < -2 * h else NONE, "standard error already"),
    (check.verdict, lambda m, h: "first" if m - h > 0.05 else "second" if m + h < -0.05 else NONE, "of your own"),
    (check.verdict, touching_is_enough, "zero is still in it"),
    (check.verdict, below_zero_touching_is_enough, "zero is still in it"),
    (check.verdict, lambda mean, half: "second" if mean > half else "first" if mean < -half else NONE, "swapped"),
    (check.verdict, lambda mean, half: "first" if abs(mean) > half else NONE, "only ask whether there is a difference"),
    (check.verdict, lambda mean, half: "first" if mean > half else NONE, "the second can be as well"),
    (check.verdict, lambda mean, half: "second" if mean < -half else NONE, "the first can be as well"),
    (check.verdict, lambda mean, half: "first" if mean > half else "second", "does not say that the second is"),
    (check.verdict, lambda mean, half: "First" if mean > half else NONE, "letter by letter; yours is 'First'"),
    (check.verdict, lambda mean, half: "first" if mean > half else "no difference", "letter by letter"),
    (check.verdict, lambda mean, half: NONE, "the same whatever is asked: how does it depend on mean and half"),
    (check.verdict, lambda mean, half: "first" if mean > 1 else "second" if mean < -1 else NONE, "fixed number"),
    (check.verdict, lambda mean, half: mean > half, "letter by letter; yours is True"),
    (check.verdict, lambda mean, half: (mean - half, mean + half), "letter by letter"),
    (check.interaction, lambda a, b, c, d: d - a, "what both gain together"),
    (check.interaction, lambda a, b, c, d: d - max(b, c), "the better of the two"),
    (check.interaction, lambda a, b, c, d: (b - a) + (c - a), "the sum of the two gains"),
    (check.interaction, lambda a, b, c, d: d - b, "the ranks alone"),
    (check.interaction, lambda a, b, c, d: d - c, "pruning alone"),
    (check.interaction, lambda a, b, c, d: (b - a) - (d - c), "sign is wrong"),
    (check.interaction, lambda a, b, c, d: d - b - c, "two whole metrics"),
    (check.interaction, lambda a, b, c, d: d - (b + c) / 2, "mean of the two gains"),
    (check.interaction, lambda a, b, c, d: abs((d - c) - (b - a)), "less than the sum"),
    (check.interaction, lambda a, b, c, d: ((d - c) - (b - a)) / 2, "halved it"),
    (check.interaction, lambda a, b, c, d: (d - c) + (b - a), "Compare the two gains"),
    (check.interaction, lambda a, b, c, d: (d - c) / (b - a), "Compare the two gains"),
    (check.interaction, lambda a, b, c, d: d / (b * c) * a, "Compare the two gains"),
    (check.interaction, lambda a, b, c, d: "3 points", "not made of numbers"),
    (check.holm, lambda p: [0.0] * len(p), "Whatever|smallest"),
    (check.holm, holm_sorted, "in the order they came in"),
    (check.holm, holm_in_place, "changes p"),
    (check.holm, lambda p: [min(1, len(p) * value) for value in p], "Bonferroni"),
    (check.holm, lambda p: [len(p) * value for value in p], "Bonferroni|at most 1"),
    (check.holm, lambda p: [value * (len(p) - i) for i, value in enumerate(sorted(p))], "left the values sorted"),
    (check.holm, lambda p: [min(1, value * (len(p) - i)) for i, value in enumerate(p)], "the smallest comes first"),
    (check.holm, holm_not_monotone, "keep the largest so far"),
    (check.holm, holm_uncapped, "at most 1"),
    (check.holm, holm_from_the_largest, "sorted from the largest"),
    (check.holm, holm_one_short, "one too small"),
    (check.holm, holm_by_index, "which is the smallest|order"),
    (check.holm, lambda p: multipletests(p, method="fdr_bh")[1], "Benjamini"),
    (check.holm, divided_by_place, "Holm subtracts: m, m - 1, m - 2"),
    (check.holm, lambda p: p, "You return p as it was"),
    (check.holm, lambda p: [1 - (1 - value) ** len(p) for value in p], "which is the smallest"),
    (check.holm, lambda p: [value < 0.05 for value in p], "expected numbers, got True and False"),
    (check.holm, lambda p: dict(enumerate(p)), "not made of numbers"),
    (check.holm, lambda p: min(p) * len(p), "expected the shape"),
    (check.holm, lambda p: list(accumulate(p, max)), "which is the smallest"),
    (check.report_sentence, lambda task, mean, low, high, seeds: f"{task} {mean:+.1f} is better", "lower end"),
    (check.report_sentence, saying(honest, "{mean:+.1f} ({low:.1f} to {high:.1f}), {seeds} seeds"), "The task, 'rte'"),
    (check.report_sentence, saying(honest, "{task} {mean:.1f} ({low:.1f} to {high:.1f}), {seeds} seeds"), "no sign"),
    (
        check.report_sentence,
        saying(honest, "{task} ({low:.1f} to {high:.1f}), {seeds} seeds"),
        "mean, \\+1.2, is missing",
    ),
    (
        check.report_sentence,
        saying(lambda m, low, high: {"first": "the first is above"}.get(honest(m, low, high), NONE)),
        "in a colon and the verdict of exercise 2.2",
    ),
    (check.report_sentence, saying(honest, "{task} {mean:+.1f}, {seeds} seeds"), "lower end of the interval, -0.8"),
    (check.report_sentence, saying(honest, "{task} {mean:+.1f} (from {low:.1f}), {seeds} seeds"), "upper end"),
    (
        check.report_sentence,
        saying(honest, "{task} {mean:+.1f} ({high:.1f} to {low:.1f}), {seeds} seeds"),
        "lower end .* comes first",
    ),
    (check.report_sentence, saying(honest, "{task} {mean:+.1f} ({low:.1f} to {high:.1f})"), "'5 seeds', is missing"),
    (
        check.report_sentence,
        saying(honest, "{task} {mean:+.1f} ({low:.1f} to {high:.1f}), 1{seeds} seeds"),
        "'5 seeds'",
    ),
    (check.report_sentence, saying(honest, "{task} {mean:+.2f} ({low:.2f} to {high:.2f}), {seeds} seeds"), "One digit"),
    (check.report_sentence, saying(honest, "{task} {mean:+.1f} ({low:.2f} to {high:.2f}), {seeds} seeds"), "One digit"),
    (check.report_sentence, saying(honest, "{task} {mean:+} ({low} to {high}), {seeds} seeds"), "One digit"),
    (
        check.report_sentence,
        saying(lambda m, low, high: NONE if low < 0 < high else "first" if m > 0 else "second"),
        "exactly zero",
    ),
    (
        check.report_sentence,
        saying(lambda m, low, high: "first" if low >= 0 else "second" if high <= 0 else NONE),
        "exactly zero",
    ),
    (check.report_sentence, saying(lambda m, low, high: "first" if m > 0 else "second"), "sign of the mean alone"),
    (
        check.report_sentence,
        saying(lambda m, low, high: "second" if low > 0 else "first" if high < 0 else NONE),
        "wrong way round",
    ),
    (check.report_sentence, saying(lambda m, low, high: honest(m, round(low, 1), round(high, 1))), "rounded before"),
    (check.report_sentence, saying(lambda m, low, high: "first" if low > 0 else NONE), "below zero shows a difference"),
    (check.report_sentence, saying(lambda m, low, high: "first" if low > 0 or high < 0 else NONE), "it is the second"),
    (check.report_sentence, saying(lambda m, low, high: NONE), "the same whatever the interval is"),
    (
        check.report_sentence,
        saying(lambda m, low, high: "worse" if low > 0 else "better" if high < 0 else NONE),
        "word for word",
    ),
    (check.report_sentence, saying(lambda m, low, high: "above"), "word for word"),
    (check.report_sentence, saying(lambda m, low, high: f"better, {honest(m, low, high)}"), "word for word"),
    (
        check.report_sentence,
        lambda task, mean, low, high, seeds: saying(honest)(task, mean, low, high, seeds)[:-3],
        "word for",
    ),
    (check.report_sentence, lambda *values: None, "A text is expected"),
    (check.report_sentence, lambda *values: list(values), "A text is expected"),
]


def with_statistics(first, second):
    d = [a - b for a, b in zip(first, second, strict=True)]
    return [statistics.mean(d), stats.t.isf(0.025, len(d) - 1) * statistics.stdev(d) / len(d) ** 0.5]


RIGHT = [
    (check.decision, decided_by_ends),
    (check.report_sentence, saying(honest, "{task} {mean:+.1f} ({low:.1f}-{high:.1f}), {seeds} seeds")),
    (check.report_sentence, with_a_typographers_minus),
    (check.paired_interval, right_interval),
    (check.paired_interval, with_statistics),
    (check.paired_interval, lambda a, b: np.array(right_interval(a, b))),
    (check.verdict, lambda mean, half: NONE if abs(mean) <= half else "first" if mean > 0 else "second"),
    (check.interaction, lambda a, b, c, d: (d - a) - ((b - a) + (c - a))),
    (check.interaction, lambda a, b, c, d: float(a - b - c + d)),
    (check.holm, lambda p: multipletests(p, method="holm")[1]),
    (check.holm, lambda p: multipletests(p, method="holm")[1].tolist()),
    (check.report_sentence, saying(honest)),
    (
        check.report_sentence,
        saying(honest, "{task}: {mean:+.1f} points, 95 % interval [{low:.1f}, {high:.1f}], {seeds} seeds"),
    ),
    (check.report_sentence, lambda *values: saying(honest)(*values) + "."),
]
