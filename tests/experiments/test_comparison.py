"""What a study can say, against scipy, against simulation and by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prilora_lite.experiments.comparison import (
    compare,
    decide,
    detectable,
    detectable_by_seeds,
    explore,
    holm,
    paired_interval,
    pooled_difference,
    seeds_to_decide,
    verdict,
)

values = st.floats(-10, 10).map(lambda x: round(x, 3))


def runs(**methods):
    """Runs of one task per key ``task_method``, one value a seed."""
    rows = []
    for key, row in methods.items():
        task, method = key.split("_")
        rows += [{"task": task, "method": method, "seed": seed, "value": value} for seed, value in enumerate(row)]
    return pd.DataFrame(rows)


def test_a_difference_that_is_the_same_but_for_float32s_rounding_decides_nothing():
    first, second = np.array([81.2, 79.9, 80.4], "f4"), np.array([80.8, 79.5, 80.0], "f4")
    assert (first - second).std() > 0
    assert decide(first - second, 1).word == decide([0.4, 0.4, 0.4], 1).word == "not decided"


def test_the_paired_interval_is_that_of_scipys_paired_test():
    first, second = [80.0, 82.5, 79.0, 81.0], [79.0, 80.0, 79.5, 80.0]
    mean, half = paired_interval(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([1.0, 2.0], [1.0])])
def test_the_paired_interval_refuses_what_is_not_in_pairs(first, second):
    with pytest.raises(ValueError, match="two or more pairs"):
        paired_interval(first, second)


def test_a_comparison_has_scipys_interval_and_p_on_each_task():
    a, b = [0.9, 0.8, 0.85, 0.95], [0.85, 0.82, 0.8, 0.9]
    (row,) = compare(runs(cola_a=a, cola_b=b), "a", "b").itertuples()
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert (row.pairs, row.mean, row.p) == pytest.approx((4, 0.02 + 0.0125, expected.pvalue))
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))


def test_over_all_tasks_seeds_are_the_pairs_not_tasks():
    table = compare(runs(x_a=[1, 2, 3], x_b=[0, 0, 0], y_a=[3, 2, 4], y_b=[0, 0, 0]), "a", "b")
    overall = table[table.task == "all"].iloc[0]
    assert overall.pairs == 3
    assert overall["mean"] == pytest.approx(np.mean([2, 2, 3.5]))


def test_a_seed_that_one_method_lacks_is_left_out():
    (row,) = compare(runs(x_a=[1, 2, 3], x_b=[0, 0]), "a", "b").itertuples()
    assert (row.pairs, row.mean) == (2, 1.5)


def test_one_pair_has_a_mean_and_no_interval():
    (row,) = compare(runs(x_a=[1], x_b=[0]), "a", "b").itertuples()
    assert (row.pairs, row.mean) == (1, 1)
    assert np.isnan([row.low, row.high, row.p]).all()


def test_a_method_without_runs_is_refused_with_those_that_have_some():
    with pytest.raises(ValueError, match="no runs of 'c'; there are a, b"):
        compare(runs(x_a=[1], x_b=[0]), "a", "c")


def test_methods_without_a_seed_in_common_are_refused():
    frame = runs(x_a=[1, 2], x_b=[1, 2])
    frame.loc[frame.method == "b", "seed"] += 10
    with pytest.raises(ValueError, match="no seed of a task in common"):
        compare(frame, "a", "b")


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p):
    corrected = holm(p)
    assert (corrected >= np.array(p)).all()
    assert (corrected <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()


def test_holm_does_not_count_what_could_not_be_tested():
    corrected = holm([0.02, np.nan, 0.5])
    assert corrected[0] == pytest.approx(0.04)
    assert np.isnan(corrected[1])


def test_exploring_corrects_for_all_methods_and_tasks_together():
    generator = np.random.default_rng(0)
    frame = runs(**{f"{task}_{method}": generator.normal(size=5) for task in "xy" for method in ("lora", "b", "c")})
    table = explore(frame)
    assert len(table) == 4
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"]).tolist())
    assert "all" not in set(table["task"])


def test_the_comparison_named_before_the_runs_is_no_look():
    frame = runs(x_lora=[1, 2, 4], x_prilora=[2, 2, 3], x_b=[0, 1, 1])
    assert explore(frame)["method"].tolist() == ["b"]
    assert explore(frame, "b")["method"].tolist() == ["lora", "prilora"]


def test_the_named_comparison_alone_leaves_nothing_to_explore():
    with pytest.raises(ValueError, match="nothing to compare with 'lora'"):
        explore(runs(x_lora=[1, 2], x_prilora=[2, 2]))


def test_more_seeds_show_less_at_the_median_scatter():
    table = pd.DataFrame({"sd": [1.0, np.nan, 2.0, 9.0]})
    assert detectable_by_seeds(table) == {n: detectable(2.0, n) for n in (3, 5, 10, 20)}


@pytest.mark.parametrize("sd", [np.nan, 0.0])
def test_without_scatter_nothing_is_said_of_more_seeds(sd):
    assert detectable_by_seeds(pd.DataFrame({"sd": [sd]})) == {}


@pytest.mark.parametrize("pairs", [2, 3, 5, 20])
def test_a_detectable_difference_is_detected_in_four_studies_of_five(pairs):
    """By simulation: 4,000 studies of a true difference of that size."""
    true = detectable(2.0, pairs)
    studies = np.random.default_rng(0).normal(true, 2.0, size=(4000, pairs))
    shown = (stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05).mean()
    assert shown == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / 4000))


@pytest.mark.parametrize("pairs", [2, 5, 50])
def test_a_detectable_difference_has_its_power_by_scipys_adaptive_integral(pairs):
    effect, critical = detectable(1.0, pairs) * np.sqrt(pairs), stats.t.ppf(0.975, pairs - 1)
    spread = stats.chi(pairs - 1, scale=1 / np.sqrt(pairs - 1))
    shown = spread.expect(lambda s: stats.norm.sf(critical * s - effect) + stats.norm.cdf(-critical * s - effect))
    assert shown == pytest.approx(0.8, abs=1e-9)


@pytest.mark.parametrize(("sd", "pairs"), [(0.0, 5), (1.0, 1), (float("nan"), 5)])
def test_a_detectable_difference_of_nothing_is_refused(sd, pairs):
    with pytest.raises(ValueError, match="expected sd > 0"):
        detectable(sd, pairs)


def test_a_verdict_needs_an_interval_without_zero():
    assert [verdict(0.1, 2), verdict(-2, -0.1), verdict(-1, 1), verdict(0, 1)] == [
        "above", "below", "no difference shown", "no difference shown",
    ]  # fmt: skip


# Verdicts


def with_moments(n, mean, sd):
    """n numbers of exactly this mean and standard deviation."""
    x = np.random.default_rng(0).normal(size=n)
    return mean + sd * (x - x.mean()) / x.std(ddof=1)


def test_a_decision_has_the_published_values_of_an_equivalence_test():
    """Lakens 2017's example of a paired test, data of Mara and Cribbie 2012, as his package TOSTER documents it."""
    sd = np.sqrt(1.17**2 + 1.29**2 - 2 * 0.75 * 1.17 * 1.29)
    decision = decide(with_moments(65, 5.83 - 5.75, sd), margin=0.4 * sd)
    assert decision.p_equal == pytest.approx(0.00770235, rel=1e-5)
    assert (decision.inner_low, decision.inner_high) == pytest.approx((-0.1015433, 0.2615433), abs=1e-7)
    assert (decision.low, decision.high) == pytest.approx((-0.1372988, 0.2972988), abs=1e-7)
    assert decision.word == "equal"


@given(st.lists(values, min_size=2, max_size=12), st.floats(0.1, 20))
def test_a_decision_agrees_with_statsmodels(differences, margin):
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    d = np.array(differences)
    if d.std() < 1e-6:
        return
    decision = decide(d, margin)
    theirs = weightstats.DescrStatsW(d)
    assert decision.p_equal == pytest.approx(theirs.ttost_mean(-margin, margin)[0], rel=1e-9, abs=1e-12)
    assert decision.p_difference == pytest.approx(theirs.ttest_mean(0)[1], rel=1e-9, abs=1e-12)
    assert (decision.low, decision.high) == pytest.approx(theirs.tconfint_mean(0.05), rel=1e-9, abs=1e-9)


@given(st.lists(values, min_size=2, max_size=12), st.floats(0.1, 20))
def test_equal_means_that_the_inner_interval_lies_inside_the_margin(differences, margin):
    decision = decide(differences, margin)
    inside = -margin < decision.inner_low and decision.inner_high < margin
    near = min(abs(decision.inner_low + margin), abs(decision.inner_high - margin)) < 1e-9
    assert near or inside == (decision.p_equal < 0.05)
    assert (decision.word == "difference") == (decision.low > 0 or decision.high < 0)


@pytest.mark.parametrize(
    ("differences", "verdict", "sentence"),
    [
        (with_moments(20, 3, 1), "difference", "That is a difference."),
        (with_moments(20, -0.5, 0.3), "difference, smaller than 1 point",
         "That is a difference, smaller than 1 point."),
        (with_moments(20, 0.1, 1), "equal within 1 point", "They are equal within 1 point."),
        (with_moments(5, 0.5, 2), "not decided: needs about 36 seeds",
         "Not decided within 1 point; about 36 seeds should be enough."),
        (with_moments(10, 0.5, 0.9), "not decided: another study needs about 9 seeds",
         "Not decided within 1 point; another such study, of about 9 seeds, would decide in four cases of five."),
        (with_moments(10, 0.5, 0.94), "not decided: another study needs about 10 seeds",
         "Not decided within 1 point; another such study, of about 10 seeds, would decide in four cases of five."),
        ([0.5], "not decided: one seed says nothing of the scatter",
         "One seed says nothing of the scatter, so nothing is decided."),
        *[(differences, "not decided: the same difference for all seeds says nothing of the scatter",
           "The same difference for all seeds says nothing of the scatter, so nothing is decided.")
          for differences in ([0.0, 0.0], [3.0, 3.0], [0.1 + 0.2, 0.3, 0.3])],
    ],
)  # fmt: skip
def test_each_verdict_in_words(differences, verdict, sentence):
    decision = decide(differences, 1)
    assert (decision.verdict, decision.sentence) == (verdict, sentence)
    assert decision.verdict.startswith(decision.word)


def test_pairs_that_differ_by_the_same_amount_have_no_interval_and_are_no_look():
    one = pd.DataFrame({"task": "cola", "method": "lora", "seed": range(3), "value": [0.5, 0.6, 0.7]})
    runs = pd.concat([one, one.assign(method="head", value=one["value"] + 0.1), one.assign(method="full", value=0.4)])
    table = explore(runs).set_index("method")
    assert table.loc["head", ["low", "high", "p", "p_holm"]].isna().all()
    assert table.loc["full", "p_holm"] == table.loc["full", "p"]


def test_pairs_that_differ_by_the_same_amount_say_nothing_of_what_seeds_can_show():
    """Their sd is rounding: 1e-17, not 0."""
    table = compare(runs(x_a=[0.3, 1.1, 0.7], x_b=[0.2, 1.0, 0.6]), "a", "b")
    assert detectable_by_seeds(table) == {}


@pytest.mark.parametrize("margin", [0, -1, float("nan"), float("inf")])
def test_a_margin_is_above_zero(margin):
    with pytest.raises(ValueError, match="a margin is a finite number above 0"):
        decide([1.0, 2.0], margin)


@pytest.mark.parametrize("differences", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_a_decision_needs_finite_differences(differences):
    with pytest.raises(ValueError, match="one finite difference for each seed"):
        decide(differences, 1)


@pytest.mark.parametrize(("sd", "margin"), [(2.0, 1.0), (1.0, 1.0), (3.0, 1.5)])
def test_so_many_seeds_decide_in_four_studies_of_five(sd, margin):
    n, random = seeds_to_decide(sd, margin), np.random.default_rng(1)
    for truth, word in ((0.0, "equal"), (margin, "difference")):
        words = [decide(row, margin).word for row in random.normal(truth, sd, (500, n))]
        assert words.count(word) > 373  # of 500, with 400 expected at the least: three standard errors below


def test_a_seed_fewer_would_not_do():
    n = seeds_to_decide(2.0, 1.0)
    random = np.random.default_rng(2).normal(0, 2.0, (20_000, n - 1))
    half = stats.t.ppf(0.95, n - 2) * random.std(1, ddof=1) / np.sqrt(n - 1)
    equal = (np.abs(random.mean(1)) + half < 1).mean()
    assert equal < 0.8 + 3 * np.sqrt(0.16 / 20_000) or detectable(2.0, n - 1) > 1


def test_the_pooled_interval_is_that_of_a_one_way_analysis_of_variance():
    ols = pytest.importorskip("statsmodels.formula.api").ols
    table = runs(t_a=[1.0, 2.0, 4.0], t_b=[2.0, 2.5, 2.0], t_c=[5.0, 7.0, 6.5])
    mean, low, high, _ = pooled_difference(table, "b", "a")
    fit = ols("value ~ method", table).fit()
    interval = fit.conf_int().loc["method[T.b]"]
    assert (mean, low, high) == pytest.approx((fit.params["method[T.b]"], interval[0], interval[1]))


def test_what_seeds_explain_is_the_f_test_of_a_two_way_layout():
    ols = pytest.importorskip("statsmodels.formula.api").ols
    anova_lm = pytest.importorskip("statsmodels.stats.anova").anova_lm
    table = runs(t_a=[1.0, 2.0, 4.0], t_b=[2.0, 2.5, 5.0], t_c=[5.0, 7.0, 7.5])
    p = anova_lm(ols("value ~ C(seed) + method", table).fit()).loc["C(seed)", "PR(>F)"]
    assert pooled_difference(table, "b", "a")[3] == pytest.approx(p)


def test_what_seeds_explain_is_told_without_the_methods_that_lack_some():
    three = {"t_a": [1.0, 2.0, 4.0], "t_b": [2.0, 2.5, 5.0]}
    p = pooled_difference(runs(**three), "b", "a")[3]
    assert pooled_difference(runs(**three, t_c=[9.0]), "b", "a")[3] == pytest.approx(p)


def test_pooling_needs_runs_of_both_and_two_of_one():
    with pytest.raises(ValueError, match="no runs of 'c'; there are a, b"):
        pooled_difference(runs(t_a=[1.0, 2.0], t_b=[2.0, 3.0]), "c", "a")
    with pytest.raises(ValueError, match="says nothing of the scatter"):
        pooled_difference(runs(t_a=[1.0], t_b=[2.0]), "a", "b")
