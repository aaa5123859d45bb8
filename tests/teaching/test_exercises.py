"""The checks of the exercises: plausible wrong answers fail, and are told why."""

import operator
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch

from prilora_lite import PRILoRAConfig, keep_mask
from prilora_lite.teaching import exercises as check


def floor_ranks(num_layers, mean, slope):
    return [int(mean - slope / 2 + slope * l / (num_layers - 1)) for l in range(num_layers)]


def running(steps, decay, q_of_step):
    s = None
    for small in steps:
        q = q_of_step(small)
        s = q if s is None else decay * s + (1 - decay) * q
    return s


def padding_counted(steps, decay):
    return running(steps, decay, lambda small: torch.cat([x.flatten(0, 1) for x, _ in small]).square().mean(0))


def mean_of_means(steps, decay):
    return running(steps, decay, lambda small: torch.stack([x[mask].square().mean(0) for x, mask in small]).mean(0))


def decay_reversed(steps, decay):
    return running(steps, 1 - decay, lambda small: torch.cat([x[mask] for x, mask in small]).square().mean(0))


def dead_before_the_step(optimizer, weight, alive):
    weight.data[~alive] = 0
    optimizer.step()


def dead_gradient_only(optimizer, weight, alive):
    weight.grad[~alive] = 0
    optimizer.step()


def twice(optimizer, weight, alive):
    optimizer.step()
    optimizer.step()
    weight.data[~alive] = 0


def frozen(optimizer, weight, alive):
    weight.data[~alive] = 0


def by_sign(optimizer, weight, alive):
    """What Adam does as long as the gradient does not change."""
    weight.data -= 0.1 * weight.grad.sign()
    weight.data[~alive] = 0


def marks_all_dead(optimizer, weight, alive):
    alive[:] = False
    weight.data[:] = 0


def touching_is_enough(mean, half):
    return "first" if mean - half >= 0 else "second" if mean + half <= 0 else "no difference shown"


def below_zero_touching_is_enough(mean, half):
    return "first" if mean - half > 0 else "second" if mean + half <= 0 else "no difference shown"


def with_root(below):
    """Right but for the rule "sqrt", which divides alpha by something else."""

    def scalings(ranks, alpha, rule):
        mean = sum(ranks) / len(ranks)
        return [alpha / {"mean": mean, "layer": r, "sqrt": below(r, mean)}[rule] for r in ranks]

    return scalings


def levels_the_ranks(ranks, alpha, rule):
    ranks[:] = [sum(ranks) / len(ranks)] * len(ranks)
    return [alpha / rank for rank in ranks]


def levels_the_scores(scores, ratio):
    scores[:] = 0
    return keep_mask(scores, ratio, "matrix")


def empties_a(W0, A, B, s):
    A[:] = 0
    return W0


def smallest_directions(update, r):
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    return u[:, -r:] * s[-r:], v[-r:]


WRONG = [
    (check.full_parameters, lambda m, n: m + n, "expected 6, got 5"),
    (check.lora_parameters, lambda m, n, r: r * m * n, "A is r x n"),
    (check.lora_parameters, lambda m, n, r: 5, "expected 3072"),
    (check.merged_weight, lambda W0, A, B, s: W0 + B @ A, "W0 . s B A"),
    (check.merged_weight, lambda W0, A, B, s: (W0 + s * B @ A).T, "expected shape"),
    (check.truncate, smallest_directions, "largest singular values"),
    (check.truncate, lambda update, r: (update[:, :r], torch.eye(5)[:r]), "nearest of rank"),
    (check.paired_interval, lambda a, b: (sum(a) / len(a) - sum(b) / len(b), 0.0), "differences first"),
    (check.verdict, lambda mean, half: "first" if mean > 0 else "second", "no difference shown"),
    (
        check.verdict,
        lambda mean, half: {1: "first", -1: "second"}.get(int(mean / 1.5), "no difference shown"),
        "-1 to 5",
    ),
    (check.verdict, lambda mean, half: None, "got None"),
    (check.verdict, touching_is_enough, "from 0 to 2"),
    (check.verdict, below_zero_touching_is_enough, "from -2 to 0"),
    (check.scalings, lambda ranks, alpha, rule: [alpha] * len(ranks), "alpha itself: divide"),
    (check.scalings, lambda ranks, alpha, rule: [r / alpha for r in ranks], "alpha stands above"),
    (check.scalings, lambda ranks, alpha, rule: [alpha / sorted(ranks)[1]] * 3, "over the median"),
    (
        check.scalings,
        lambda ranks, alpha, rule: [alpha / r for r in ranks],
        "'layer', .* in 'mean' the mean rank counts",
    ),
    (check.scalings, lambda ranks, alpha, rule: [alpha * 3 / sum(ranks)] * 3, "'mean', .* 'layer' looks at each"),
    (check.scalings, with_root(lambda r, mean: r), "'layer', .* in 'sqrt' the mean rank counts"),
    (check.scalings, with_root(lambda r, mean: mean), "'sqrt' looks at each"),
    (check.scalings, with_root(lambda r, mean: r**0.5), "would not agree with LoRA's rule"),
    (check.scalings, with_root(lambda r, mean: r * mean), "forgot the root"),
    (check.scalings, with_root(lambda r, mean: 2 / (1 / r + 1 / mean)), "the root of their product"),
    (check.scalings, with_root(lambda r, mean: mean**0.5), "its own rank times the mean rank"),
    (check.ranks_at_budget, floor_ranks, "no budget left over"),
    (check.running_mean_square, padding_counted, "real tokens"),
    (check.running_mean_square, mean_of_means, "over their number"),
    (check.running_mean_square, decay_reversed, "beta s"),
    (check.running_mean_square, lambda steps, decay: decay_reversed(steps, 0.1), "steps, 0.3"),
    (check.keep_in_matrix, lambda scores, ratio: keep_mask(scores, ratio), "True where the entry survives"),
    (check.keep_in_matrix, lambda scores, ratio: ~keep_mask(scores, ratio, "matrix"), "survives"),
    (check.churn, lambda before, after: ((before & ~after).sum() / (~before).sum()).item(), "of the three zeros"),
    (check.churn, lambda before, after: ((before & ~after).sum() / before.sum()).item(), "of the three zeros"),
    (check.churn, lambda before, after: ((after & ~before).sum() / (~after).sum()).item(), "of the three zeros"),
    (check.churn, lambda before, after: (before != after).float().mean().item(), "of the three zeros"),
    (check.churn, lambda before, after: "two thirds", "which is no such thing"),
    (check.nonzero_share, lambda ratio, m, n: 1 - ratio, "B stays"),
    (check.nonzero_share, lambda ratio, m, n: 1 - ratio / 2, "B stays"),
    (check.sparsify_for_good, dead_before_the_step, "after the optimizer's step"),
    (check.sparsify_for_good, twice, "one optimizer.step"),
    (check.sparsify_for_good, dead_gradient_only, "the pruned entry is"),
    (check.sparsify_for_good, frozen, "go on training"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero, "8 bits a byte"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + total, "8 bits a byte"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + total // 8, "8 bits a byte"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + total / 8, "8 bits a byte"),
    (check.number_of_prunes, lambda rows, batch, epochs, n: epochs * -(-rows // batch) // n, "whether N divides it"),
    (check.number_of_prunes, lambda rows, batch, epochs, n: -(-epochs * rows // batch // n), "a short last batch"),
    (check.matthews, lambda tp, tn, fp, fn: (tp + tn) / (tp + tn + fp + fn), "right answers multiplied"),
    (check.matthews, lambda tp, tn, fp, fn: (tp * tn - fp * fn) / ((tp + fp) * (tn + fn)), "over the root"),
    (check.interaction, lambda a, b, c, d: d - a, "expected 3"),
    (check.interaction, lambda a, b, c, d: d - max(b, c), "where A is pruned"),
    (check.holm, lambda p: [min(1, len(p) * value) for value in p], "the next times m - 1"),
    (check.holm, lambda p: [value * (len(p) - i) for i, value in enumerate(sorted(p))], "never below"),
    (check.report_sentence, lambda task, mean, low, high, seeds: f"{task} {mean:+.1f} is better", "lacks the low end"),
    (
        check.report_sentence,
        lambda task, mean, low, high, seeds: f"{task} {mean:+.1f} ({low:.1f} to {high:.1f}), {seeds} seeds: above",
        "spans zero",
    ),
    (
        check.report_sentence,
        lambda task, mean, low, high, seeds: (
            f"{task} {mean:+.1f} ({low:.1f} to {high:.1f}), {seeds} seeds: no difference shown"
        ),
        "does not span zero",
    ),
    (check.report_sentence, lambda *values: None, "expected a text"),
    (check.adapter_layers, lambda model: dict(model.named_modules()), "expected the names"),
    (check.adapter_layers, lambda model: {"1": model[1], "2.0": None}, "the layers themselves"),
    (check.adapter_layers, lambda model: ["1", "2.0"], "expected a dictionary"),
    (check.truncate, lambda update, r: update, "expected two matrices"),
    (check.ranks_at_budget, lambda num_layers, mean, slope: None, "is there a return"),
    (check.keep_in_matrix, lambda scores, ratio: keep_mask(scores, ratio, "matrix").int(), "True and False"),
    (check.full_parameters, lambda m, n: None, "is there a return"),
    (check.full_parameters, lambda m, n: str(m * n), "got '6', which is no such thing"),
    (check.full_parameters, lambda m, n: complex(m * n), "which is no such thing"),
    (check.full_parameters, lambda m, n: np.array(str(m * n), dtype=object), "which is no such thing"),
    (check.ranks_at_budget, lambda num_layers, mean, slope: [str(mean)] * num_layers, "which is no such thing"),
    (check.ranks_at_budget, lambda num_layers, mean, slope: [None] * num_layers, "which is no such thing"),
    (check.truncate, lambda update, r: ("a", "b"), "B at r = 1: expected .* which is no such thing"),
    (check.truncate, lambda update, r: (None, None), "B at r = 1 came back as None"),
    (check.full_parameters, 6, r"a function, got 6: .*full_parameters\(full_parameters\), without calling it"),
    (check.scalings, levels_the_ranks, "own rank"),
    (check.keep_in_matrix, levels_the_scores, "True where the entry survives"),
    (check.merged_weight, empties_a, "W0 . s B A"),
    (check.sparsify_for_good, by_sign, "go on training"),
    (check.sparsify_for_good, marks_all_dead, "go on training"),
]


@pytest.mark.parametrize(("exercise", "answer", "told"), WRONG)
def test_a_wrong_answer_is_told_why(exercise, answer, told, capsys):
    with pytest.raises(AssertionError, match=told):
        exercise(answer)
    assert "well done" not in capsys.readouterr().out


def test_every_check_is_tried_with_a_wrong_answer():
    public = {getattr(check, name) for name in vars(check) if hasattr(getattr(check, name), "__wrapped__")}
    assert public == {exercise for exercise, _, _ in WRONG}


def test_an_error_of_torchs_own_kind_is_not_taken_for_a_stub(capsys):
    def keep(scores, ratio):
        raise NotImplementedError("abs is not implemented for bool")

    with pytest.raises(NotImplementedError, match="bool"):
        check.keep_in_matrix(keep)
    assert capsys.readouterr().out == ""


def test_an_answer_that_writes_over_what_it_was_given_spoils_no_other_case(capsys):
    def churn(before, after):
        before.logical_not_()
        return ((~before & ~after).sum() / (~after).sum()).item()

    check.churn(churn)
    assert capsys.readouterr().out == "churn: well done\n"


def test_right_answers_of_other_types_pass(capsys):
    def truncate(update, r):
        u, s, v = np.linalg.svd(update.double().numpy(), full_matrices=False)
        return u[:, :r] * s[:r], v[:r]

    check.truncate(truncate)
    check.scalings(lambda ranks, alpha, rule: torch.tensor(PRILoRAConfig(alpha=alpha, scaling=rule).scalings(ranks)))
    check.full_parameters(partial(operator.mul))
    check.full_parameters(lambda m, n: Fraction(m * n))
    out = capsys.readouterr().out.split("\n")
    assert out == ["truncate: well done", "<lambda>: well done", "your answer: well done", "<lambda>: well done", ""]
