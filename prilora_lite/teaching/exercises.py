"""Checks of the notebooks' exercises: each takes what the learner wrote and compares it with the library or by hand.

A stub that still raises NotImplementedError is "not written yet"; a wrong answer raises AssertionError with what was
expected, what came back and where to look. The cases are chosen so that likely mistakes do not pass by chance, and
handed over as copies, so that an answer that writes over them can't change what it is compared with.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from sklearn import metrics

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.comparison import holm as holm_of_values
from prilora_lite.experiments.comparison import paired_interval as paired_interval_of_differences
from prilora_lite.lora import LoRALinear
from prilora_lite.pruner import InputNorms, keep_mask
from prilora_lite.ranks import budget_ranks

Answer = Callable[..., Any]


def _check(compare: Callable[[Answer], None]) -> Callable[[Answer], None]:
    """Print whether an answer is there and right; let the error that says what is wrong pass."""

    @functools.wraps(compare)
    def check(answer: Answer) -> None:
        name = getattr(answer, "__name__", "your answer")
        exercise = compare.__name__
        how = f"write exercises.{exercise}({exercise}), without calling it"
        _require(callable(answer), f"expected a function, got {answer!r}: {how}")
        try:
            compare(answer)
        except NotImplementedError as error:
            if error.args:  # torch raises it, too, for something that it can't do
                raise
            print(f"{name}: not written yet")
        else:
            print(f"{name}: well done")

    return check


def _require(condition: bool, message: str) -> None:
    if not condition:  # no assert statement: Python's -O would take it away
        raise AssertionError(message)


def _equal(what: str, given: Any, expected: Any, hint: str) -> None:
    """Compare numbers, lists, arrays or tensors; the message shows both."""
    second = _array(expected)
    first = _given(what, given, _short(second))
    _require(first.shape == second.shape, f"{what}: expected shape {second.shape}, got {first.shape}. {hint}")
    if second.dtype == bool:
        _require(first.dtype == bool, f"{what}: expected True and False, got {first.dtype}. {hint}")
        close = bool((first == second).all())
    else:
        close = np.allclose(first.astype(float), second, rtol=1e-5, atol=1e-7)
    _require(close, f"{what}: expected {_short(second)}, got {_short(first)}. {hint}")


def _given(what: str, given: Any, expected: str) -> np.ndarray:
    """An answer as an array of numbers."""
    _require(given is not None, f"{what} came back as None: is there a return?")
    try:
        return _array(given)
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: expected {expected}, got {given!r}, which is no such thing") from None


def _array(values: Any) -> np.ndarray:
    """Numbers or truth values as an array.

    Raises:
        TypeError: there is something else in it, such as a complex number or a text, even one that reads like a number.
        ValueError, RuntimeError: its rows differ in length.
    """
    if torch.is_tensor(values):
        values = values.detach().cpu().numpy()
    elif isinstance(values, (list, tuple)):
        values = [value.item() if torch.is_tensor(value) else value for value in values]
    array = np.asarray(values)
    if array.dtype == object and not any(value is None or isinstance(value, (str, bytes)) for value in array.flat):
        array = array.astype(float)  # fractions, for one
    if array.dtype.kind not in "biuf":
        raise TypeError(f"no numbers: {array.dtype}")
    return array


def _short(values: np.ndarray) -> str:
    return np.array2string(values, precision=4, threshold=12)


@_check
def full_parameters(answer: Answer) -> None:
    """00: entries of a weight of m rows and n columns."""
    for m, n in ((2, 3), (128, 256)):
        _equal(f"full_parameters({m}, {n})", answer(m, n), m * n, "every row has n entries")


@_check
def lora_parameters(answer: Answer) -> None:
    """01: entries of A (r x n) and B (m x r)."""
    for m, n, r in ((2, 3, 1), (128, 256, 8), (256, 128, 4)):
        layer = LoRALinear(torch.nn.Linear(n, m), min(r, m, n), scaling=1.0)
        expected = layer.lora_A.numel() + layer.lora_B.numel()
        _equal(f"lora_parameters({m}, {n}, {r})", answer(m, n, r), expected, "A is r x n, B is m x r")


@_check
def merged_weight(answer: Answer) -> None:
    """01: the one weight that does what W0 and the update do together."""
    torch.manual_seed(0)
    for m, n, r, s in ((5, 4, 2, 2.0), (3, 6, 1, 0.5)):
        layer = LoRALinear(torch.nn.Linear(n, m), r, scaling=s)
        torch.nn.init.normal_(layer.lora_B)
        factors = [part.detach().clone() for part in (layer.base.weight, layer.lora_A, layer.lora_B)]
        layer.merge()
        _equal(f"merged_weight with s = {s}", answer(*factors, s), layer.base.weight, "W0 + s B A, in this order")


@_check
def truncate(answer: Answer) -> None:
    """01: factors (B, A) whose product is the nearest matrix of rank r."""
    torch.manual_seed(0)
    update = torch.randn(7, 5)
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    for r in (1, 3):
        given = answer(update.clone(), r)
        pair = isinstance(given, (tuple, list)) and len(given) == 2
        _require(pair, f"expected two matrices, B and A, got {type(given).__name__}: return B, A")
        nearest = u[:, :r] @ torch.diag(s[:r]) @ v[:r]
        factors = []
        for name, factor, shape in (("B", given[0], (7, r)), ("A", given[1], (r, 5))):
            numbers = _given(f"{name} at r = {r}", factor, f"a matrix {shape}")
            _require(
                numbers.shape == shape,
                f"{name} at r = {r}: expected shape {shape}, got {numbers.shape}. B is m x r, A is r x n",
            )
            factors.append(torch.as_tensor(numbers, dtype=update.dtype))
        B, A = factors
        _require(
            torch.allclose(B @ A, nearest, atol=1e-5),
            f"B A at r = {r} is {(B @ A - update).norm():.3f} away from the update, "
            f"the nearest of rank {r} only {(nearest - update).norm():.3f}. Keep the largest singular values",
        )


@_check
def paired_interval(answer: Answer) -> None:
    """02: mean of the differences and half the width of its 95 % t-interval."""
    generator = np.random.default_rng(0)
    for n in (3, 5):
        first, second = generator.normal(80, 3, n), generator.normal(79, 3, n)
        hint = "differences first, pair by pair; ddof=1; n - 1 degrees of freedom"
        _equal(
            f"(mean, half) for {n} pairs",
            answer(list(first), list(second)),
            paired_interval_of_differences(first, second),
            hint,
        )


@_check
def verdict(answer: Answer) -> None:
    """02: what an interval allows one to say."""
    none = "no difference shown"
    cases = [(2, 1, "first"), (-2, 1, "second"), (0.5, 1, none), (-0.9, 1, none)]
    cases += [(2, 3, none), (-2, 3, none), (0.5, 0.2, "first"), (-0.5, 0.2, "second")]
    cases += [(1, 1, none), (-1, 1, none)]  # zero is still in it
    for mean, half, expected in cases:
        given = answer(mean, half)
        _require(
            isinstance(given, str) and given == expected,
            f"verdict({mean}, {half}): expected {expected!r}, got {given!r}; "
            f"the interval goes from {mean - half:g} to {mean + half:g}",
        )


@_check
def scalings(answer: Answer) -> None:
    """03: one s for all layers, LoRA's rule layer by layer, or the rank-stabilised one between them."""
    for ranks, alpha in (([2, 4, 12], 12), ([4, 8, 12], 16)):
        rules = {"mean": "alpha over the mean rank", "layer": "alpha over its own rank"}
        rules["sqrt"] = "alpha over the root of its own rank times the mean rank"
        for rule, hint in rules.items():
            given = answer(list(ranks), alpha, rule)
            expected = PRILoRAConfig(alpha=alpha, scaling=rule).scalings(ranks)
            _equal(f"scalings({ranks}, {alpha}, {rule!r})", given, expected, _slip(rule, given, ranks, alpha) or hint)


def _slip(rule: str, given: Any, ranks: list[int], alpha: float) -> str:
    """The sentence for a scaling that is wrong in a way that has a name, or nothing."""
    mean, middle = sum(ranks) / len(ranks), sorted(ranks)[len(ranks) // 2]
    slips = {
        "you gave alpha itself: divide it": [alpha] * len(ranks),
        "you gave the rank over alpha: alpha stands above": [rank / alpha for rank in ranks],
        "you gave alpha over the median: the mean rank is sum over number": [alpha / middle] * len(ranks),
        f"you gave 'layer', alpha over each layer's own rank; in {rule!r} the mean rank counts": [
            alpha / rank for rank in ranks
        ],
        f"you gave 'mean', one s for all layers; {rule!r} looks at each layer's own rank": [alpha / mean] * len(ranks),
        "you gave alpha over the root of the rank alone; on flat ranks it would not agree with LoRA's rule: "
        "multiply the rank by the mean rank": [alpha / rank**0.5 for rank in ranks],
        "you forgot the root: alpha over the root of the rank times the mean rank": [alpha / (r * mean) for r in ranks],
        "you gave the middle of the two other rules: it is the root of their product": [
            (alpha / rank + alpha / mean) / 2 for rank in ranks
        ],
    }
    try:
        numbers = _array(given)
    except (TypeError, ValueError, RuntimeError):
        return ""
    for sentence, values in slips.items():
        if numbers.shape == (len(ranks),) and np.allclose(numbers.astype(float), values, rtol=1e-5):
            return sentence
    return ""


@_check
def ranks_at_budget(answer: Answer) -> None:
    """03: a line of any slope whose ranks add up to L m."""
    for layers, mean, slope in product((4, 6, 12), (4, 8), (-5, 0, 3, 6)):
        given, expected = answer(layers, mean, slope), budget_ranks(layers, mean, slope)
        what = f"ranks_at_budget({layers}, {mean}, {slope})"
        _equal(f"sum of {what}", _given(what, given, "a list of ranks").sum(), layers * mean, "no budget left over")
        _equal(what, given, expected, "largest remainders get one more")


@_check
def running_mean_square(answer: Answer) -> None:
    """04: the moving average over steps of several small batches each, padding left out."""
    torch.manual_seed(0)
    for decay in (0.9, 0.3):
        norms, steps = InputNorms(3), []
        for counts in ((2, 4), (1, 3), (4, 1)):
            small = [(torch.randn(2, 4, 3), torch.arange(4) < torch.tensor([[tokens], [1]])) for tokens in counts]
            for x, mask in small:
                norms.add(x, mask.flatten().nonzero().squeeze(1))
            norms.fold(decay)
            steps.append(small)
        hint = (
            "squares of all real tokens of a step over their number; the first step sets s; then beta s + (1 - beta) q"
        )
        _equal(f"running_mean_square(steps, {decay})", answer(steps, decay), norms.mean_square, hint)


@_check
def keep_in_matrix(answer: Answer) -> None:
    """04: the least important entries of the whole matrix, not of each row."""
    torch.manual_seed(0)
    scores = torch.rand(3, 4) * torch.tensor([[1.0], [2.0], [3.0]])
    for ratio in (0.25, 0.5):
        expected = keep_mask(scores, ratio, "matrix")
        given = answer(scores.clone(), ratio)
        _equal(f"keep_in_matrix(scores, {ratio})", given, expected, "True where the entry survives")


@_check
def churn(answer: Answer) -> None:
    """05: which share of the zeros is new."""
    before = torch.tensor([True, True, True, True, True, False, False])
    after = torch.tensor([False, False, True, True, True, False, True])
    given = answer(before.clone(), after)
    _equal("churn(before, after)", given, 2 / 3, "of the three zeros after, two were alive before")
    _equal("churn of equal masks", answer(before.clone(), before.clone()), 0.0, "nothing moved")


@_check
def nonzero_share(answer: Answer) -> None:
    """05: what is left of A and B together when a share of A is zero."""
    for ratio, m, n in ((0.5, 128, 128), (0.5, 256, 128), (0.75, 128, 256)):
        expected = ((1 - ratio) * n + m) / (n + m)
        _equal(f"nonzero_share({ratio}, {m}, {n})", answer(ratio, m, n), expected, "A has r n entries, B r m; B stays")


@_check
def sparsify_for_good(answer: Answer) -> None:
    """05: a step after which what was zero stays zero."""
    twins = [torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0])) for _ in range(2)]
    optimizers = [torch.optim.Adam([weight], lr=0.1) for weight in twins]
    alive = torch.tensor([True, False, True])
    # not all alike: Adam's step would be 0.1 times the sign
    first, *others = torch.tensor([[1.0, 1.0, 1.0], [0.5, 2.0, -1.0], [2.0, 0.5, 0.1], [-1.0, 1.0, 3.0]])
    for weight, optimizer in zip(twins, optimizers, strict=True):
        weight.grad = first.clone()
        optimizer.step()  # now Adam remembers a gradient
        weight.data[1] = 0
    for gradient in others:
        for weight in twins:
            weight.grad = gradient.clone()
        answer(optimizers[0], twins[0], alive.clone())
        optimizers[1].step()
    given, free = (weight.detach() for weight in twins)
    dead = given[1].item()
    _require(
        dead == 0, f"the pruned entry is {dead:g} after three steps: zero it after the optimizer's step, each time"
    )
    _equal(
        "the entries that are alive", given[alive], free[alive], "let them go on training: one optimizer.step() a call"
    )


@_check
def packed_bytes(answer: Answer) -> None:
    """06: bytes of a store of the non-zero values and one bit for every entry."""
    for total, nonzero in ((1024, 512), (1000, 10), (1001, 10)):
        expected = 4 * nonzero + math.ceil(total / 8)
        _equal(f"packed_bytes({total}, {nonzero})", answer(total, nonzero), expected, "4 bytes a value, 8 bits a byte")


@_check
def adapter_layers(answer: Answer) -> None:
    """06: every LoRALinear of a model, by name."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), LoRALinear(torch.nn.Linear(3, 3), 1, scaling=1.0))
    model.append(torch.nn.Sequential(LoRALinear(torch.nn.Linear(3, 2), 1, scaling=1.0)))
    given = answer(model)
    _require(isinstance(given, dict), f"expected a dictionary from name to layer, got {type(given).__name__}")
    names = list(given)
    _require(names == ["1", "2.0"], f"expected the names ['1', '2.0'], got {names}: named_modules() has them")
    layers = given["1"] is model[1] and given["2.0"] is model[2][0]
    _require(layers, "the values should be the layers themselves")


@_check
def number_of_prunes(answer: Answer) -> None:
    """07: prunes of a run: one every N steps, and one in the last."""
    for case in ((2000, 16, 3, 40), (2000, 16, 1, 125), (8551, 32, 10, 40), (9, 4, 3, 1)):
        rows, batch_size, epochs, interval = case
        expected = math.ceil(epochs * math.ceil(rows / batch_size) / interval)
        hint = "a short last batch is a step, too; the last step prunes, whether N divides it or not"
        _equal(f"number_of_prunes{case}", answer(*case), expected, hint)


@_check
def matthews(answer: Answer) -> None:
    """07: Matthews correlation from the counts of right and wrong answers."""
    hint = "right answers multiplied minus wrong ones multiplied, over the root of the four sums; 0 where that is 0"
    for counts in ((6, 1, 3, 2), (1, 7, 2, 4), (0, 5, 3, 0), (3, 3, 3, 3), (9, 0, 2, 0), (4, 4, 0, 0)):
        tp, tn, fp, fn = counts
        labels, given = [1] * (tp + fn) + [0] * (tn + fp), [1] * tp + [0] * fn + [0] * tn + [1] * fp
        _equal(f"matthews{counts}", answer(*counts), metrics.matthews_corrcoef(labels, given), hint)


@_check
def interaction(answer: Answer) -> None:
    """08: what both ideas do together beyond the sum of what each does alone."""
    for values, expected in (((80, 81, 79, 80), 0), ((80, 82, 81, 86), 3), ((80, 82, 82, 82), -2)):
        hint = "(prilora - pruning) - (ranks - lora): does the slope do more where A is pruned?"
        _equal(f"interaction{values}", answer(*values), expected, hint)


@_check
def holm(answer: Answer) -> None:
    """08: p-values corrected for the number of looks."""
    for p in ([0.01, 0.04, 0.03], [0.2], [0.5, 0.9, 0.6], [0.001, 0.002, 0.003, 0.5]):
        hint = "the smallest times m, the next times m - 1; never below the one before, never above 1"
        _equal(f"holm({p})", answer(list(p)), holm_of_values(p), hint)


@_check
def report_sentence(answer: Answer) -> None:
    """09: one sentence that says no more than the runs do."""
    for case in (("rte", 1.25, -0.8, 3.3, 5), ("cola", 2.0, 0.4, 3.6, 8), ("sst2", -1.5, -2.5, -0.5, 3)):
        task, mean, low, high, seeds = case
        text = answer(*case)
        _require(isinstance(text, str), f"report_sentence{case}: expected a text, got {text!r}")
        parts = {"task": task, "mean with its sign": f"{mean:+.1f}", "low end": f"{low:.1f}"}
        parts |= {"high end": f"{high:.1f}", "number of seeds": f"{seeds} seeds"}
        for what, part in parts.items():
            _require(part in text, f"report_sentence{case} lacks the {what}, {part!r}: {text!r}")
        spans = low <= 0 <= high
        _require(
            ("no difference shown" in text) == spans,
            f"report_sentence{case}: the interval {'spans' if spans else 'does not span'} zero, but it says {text!r}",
        )
