"""Checks of the notebooks' exercises: each takes what the learner wrote and compares it with the library or by hand.

A stub that still raises NotImplementedError is "not written yet"; a wrong answer raises AssertionError with what was
given, what was expected and where to look.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch

from prilora_lite import study
from prilora_lite.lora import LoRALinear
from prilora_lite.pruner import InputNorms, keep_mask
from prilora_lite.ranks import budget_ranks

Answer = Callable[..., Any]


def _check(compare: Callable[[Answer], None]) -> Callable[[Answer], None]:
    """Print whether an answer is there and right; let the assertion that says what is wrong pass."""

    @functools.wraps(compare)
    def check(answer: Answer) -> None:
        try:
            compare(answer)
        except NotImplementedError:
            print(f"{answer.__name__}: not written yet")
        else:
            print(f"{answer.__name__}: well done")

    return check


def _equal(what: str, given: Any, expected: Any, hint: str) -> None:
    """Compare numbers, lists or tensors; the message shows both."""
    assert given is not None, f"{what} came back as None: is there a return?"
    first, second = (np.asarray(value.detach() if torch.is_tensor(value) else value) for value in (given, expected))
    assert first.shape == second.shape, f"{what}: expected shape {second.shape}, got {first.shape}. {hint}"
    close = (first == second).all() if second.dtype == bool else np.allclose(first, second, rtol=1e-5, atol=1e-7)
    assert close, f"{what}: expected {_short(second)}, got {_short(first)}. {hint}"


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
        before = layer.base.weight.detach().clone()
        given = answer(before.clone(), layer.lora_A.detach(), layer.lora_B.detach(), s)
        layer.merge()
        _equal(f"merged_weight with s = {s}", given, layer.base.weight, "W0 + s B A, in this order")


@_check
def truncate(answer: Answer) -> None:
    """01: factors (B, A) whose product is the nearest matrix of rank r."""
    torch.manual_seed(0)
    update = torch.randn(7, 5)
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    for r in (1, 3):
        B, A = answer(update, r)
        _equal(f"shape of B at r = {r}", B.shape, (7, r), "B is m x r")
        _equal(f"shape of A at r = {r}", A.shape, (r, 5), "A is r x n")
        nearest = u[:, :r] @ torch.diag(s[:r]) @ v[:r]
        assert torch.allclose(B @ A, nearest, atol=1e-5), (
            f"B A at r = {r} is {(B @ A - update).norm():.3f} away from the update, "
            f"the nearest of rank {r} only {(nearest - update).norm():.3f}. Keep the largest singular values"
        )


@_check
def paired_interval(answer: Answer) -> None:
    """02: mean of the differences and half the width of its 95 % t-interval."""
    generator = np.random.default_rng(0)
    for n in (3, 5):
        first, second = generator.normal(80, 3, n), generator.normal(79, 3, n)
        hint = "differences first, pair by pair; ddof=1; n - 1 degrees of freedom"
        _equal(
            f"(mean, half) for {n} pairs", answer(list(first), list(second)), study.paired_interval(first, second), hint
        )


@_check
def verdict(answer: Answer) -> None:
    """02: what an interval allows one to say."""
    for mean, half, expected in (
        (2.0, 1.0, "first"),
        (-2.0, 1.0, "second"),
        (0.5, 1.0, "no difference shown"),
        (-0.9, 1.0, "no difference shown"),
    ):
        given = answer(mean, half)
        assert given == expected, f"verdict({mean}, {half}): expected {expected!r}, got {given!r}"


@_check
def scalings(answer: Answer) -> None:
    """03: one s for all layers, or LoRA's rule layer by layer."""
    ranks = [4, 8, 12]
    _equal("scalings(..., 'mean')", answer(ranks, 16, "mean"), [2.0, 2.0, 2.0], "alpha over the mean rank, for all")
    _equal("scalings(..., 'layer')", answer(ranks, 16, "layer"), [4.0, 2.0, 4 / 3], "alpha over the rank of the layer")


@_check
def ranks_at_budget(answer: Answer) -> None:
    """03: a line of any slope whose ranks add up to L m."""
    for layers, mean, slope in product((4, 6, 12), (4, 8), (-5, 0, 3, 6)):
        given = answer(layers, mean, slope)
        _equal(f"sum of ranks_at_budget({layers}, {mean}, {slope})", sum(given), layers * mean, "no budget left over")
        expected = budget_ranks(layers, mean, slope)
        _equal(f"ranks_at_budget({layers}, {mean}, {slope})", given, expected, "largest remainders get one more")


@_check
def running_mean_square(answer: Answer) -> None:
    """04: the moving average over steps of several small batches each, padding left out."""
    torch.manual_seed(0)
    norms, steps = InputNorms(3), []
    for counts in ((2, 4), (1, 3), (4, 1)):
        small = [(torch.randn(2, 4, 3), torch.arange(4) < torch.tensor([[tokens], [1]])) for tokens in counts]
        for x, mask in small:
            norms.add(x, mask.flatten().nonzero().squeeze(1))
        norms.fold(0.9)
        steps.append(small)
    hint = "squares of all real tokens of a step over their number; the first step sets s; then 0.9 s + 0.1 q"
    _equal("running_mean_square", answer(steps, 0.9), norms.mean_square, hint)


@_check
def keep_in_matrix(answer: Answer) -> None:
    """04: the least important entries of the whole matrix, not of each row."""
    torch.manual_seed(0)
    scores = torch.rand(3, 4) * torch.tensor([[1.0], [2.0], [3.0]])
    for ratio in (0.25, 0.5):
        given, expected = answer(scores, ratio), keep_mask(scores, ratio, "matrix")
        _equal(f"keep_in_matrix(scores, {ratio})", given, expected, "True where the entry survives")


@_check
def churn(answer: Answer) -> None:
    """05: which share of the zeros is new."""
    before, after = torch.tensor([True, True, False, False]), torch.tensor([False, True, True, False])
    _equal("churn(before, after)", answer(before, after), 0.5, "of the two zeros after, one was alive before")
    _equal("churn of equal masks", answer(before, before), 0.0, "nothing moved")


@_check
def nonzero_share(answer: Answer) -> None:
    """05: what is left of A and B together when a share of A is zero."""
    for ratio, m, n in ((0.5, 128, 128), (0.5, 256, 128), (0.75, 128, 256)):
        expected = ((1 - ratio) * n + m) / (n + m)
        _equal(f"nonzero_share({ratio}, {m}, {n})", answer(ratio, m, n), expected, "A has r n entries, B r m; B stays")


@_check
def sparsify_for_good(answer: Answer) -> None:
    """05: a step after which what was zero stays zero."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()  # now Adam remembers a gradient
    alive = torch.tensor([True, False, True])
    with torch.no_grad():
        weight[1] = 0
    before = weight.detach().clone()
    for _ in range(3):
        weight.grad = torch.ones(3)
        answer(optimizer, weight, alive)
    _equal("the pruned entry after three steps", weight[1], 0.0, "zero it after the optimizer's step, each time")
    assert (weight < before)[alive].all(), "the others must go on training: call optimizer.step()"


@_check
def packed_bytes(answer: Answer) -> None:
    """06: bytes of a store of the non-zero values and one bit for every entry."""
    for total, nonzero in ((1024, 512), (1000, 10)):
        expected = 4 * nonzero + math.ceil(total / 8)
        _equal(f"packed_bytes({total}, {nonzero})", answer(total, nonzero), expected, "4 bytes a value, 8 bits a byte")


@_check
def adapter_layers(answer: Answer) -> None:
    """06: every LoRALinear of a model, by name."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), LoRALinear(torch.nn.Linear(3, 3), 1, scaling=1.0))
    model.append(torch.nn.Sequential(LoRALinear(torch.nn.Linear(3, 2), 1, scaling=1.0)))
    given = answer(model)
    assert list(given) == ["1", "2.0"], f"expected the names ['1', '2.0'], got {list(given)}: named_modules() has them"
    assert given["1"] is model[1], "the values are the layers themselves"
