"""Checks of 00 and 01: the layer W0 x + s B A x, what it costs, and the nearest update of a given rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from prilora_lite.lora import LoRALinear
from prilora_lite.teaching.exercises.checking import check
from prilora_lite.teaching.exercises.reading import WrongAnswer, numbers, shown, tensor

_generator = torch.Generator().manual_seed(0)


def _small(*shape: int) -> Tensor:
    """Whole numbers from -3 to 3 without 0, with which one can reckon by hand."""
    size, sign = torch.randint(1, 4, shape, generator=_generator), torch.randint(0, 2, shape, generator=_generator)
    return (size * (2 * sign - 1)).float()


def _layer(W0: Tensor, A: Tensor, B: Tensor, s: float) -> LoRALinear:
    """The library's layer with these weights."""
    base = torch.nn.Linear(W0.shape[1], W0.shape[0], bias=False)
    layer = LoRALinear(base, A.shape[0], scaling=s)
    base.weight, layer.lora_A, layer.lora_B = (torch.nn.Parameter(part, part.requires_grad) for part in (W0, A, B))
    return layer


@check(
    cases=((2, 3), (128, 256), (3, 1)),
    hint="Draw the matrix for m = 2 and n = 3, and count.",
    slips={
        "You added the two sides; count what is inside.": lambda m, n: m + n,
        "You went once around the edge; count what is inside.": lambda m, n: 2 * (m + n),
        "You squared m: where is n?": lambda m, n: m * m,
        "You squared n: where is m?": lambda m, n: n * n,
        "You raised m to a power. Every row has the same number of entries.": lambda m, n: m**n,
        "You counted a bias as well, m numbers too many; the question is about the matrix alone.": lambda m, n: (
            m * n + m
        ),
        "You counted n numbers too many; the question is about the matrix alone.": lambda m, n: m * n + n,
    },
)
def full_parameters(m: int, n: int) -> int:
    """00: entries of a weight of m rows and n columns."""
    return torch.empty(m, n).numel()


def _facts(value: Any, r: int, n: int, m: int) -> str:
    """What a start of A and B lets the layer do, in words."""
    if value is None:
        raise WrongAnswer("Nothing came back, only None: is there a return?")
    if not (isinstance(value, (tuple, list)) and len(value) == 2):
        raise WrongAnswer(f"Return two tensors, A and B; what came back is of type {type(value).__name__}.")
    if not all(map(torch.is_tensor, value)):
        kinds = " and ".join(type(part).__name__ for part in value)
        raise WrongAnswer(f"Return two tensors, A and B; what came back are two things of type {kinds}.")
    if not all(part.is_floating_point() for part in value):
        raise WrongAnswer("Whole numbers can't be trained: A and B must hold floating-point numbers.")
    A, B = (part.detach().double() for part in value)
    if (A.shape, B.shape) != ((r, n), (m, r)):
        shapes = f"A of shape {tuple(A.shape)} and B of {tuple(B.shape)}"
        raise WrongAnswer(f"A should be of shape {(r, n)} and B of {(m, r)}; you have {shapes}.")
    if not (A.isfinite().all() and B.isfinite().all()):
        raise WrongAnswer("An entry is no finite number.")
    if (B @ A).any():
        return "the layer does not begin as its base"
    if not A.any() and not B.any():
        return "the layer begins as its base, and never learns"
    apart = max(torch.linalg.matrix_rank(A).item(), torch.linalg.matrix_rank(B).item())
    return f"the layer begins as its base and learns, in directions that start apart: {apart} of {r}"


@check(
    cases=((2, 6, 4), (3, 8, 5)),
    hint="B A must be zero, but not because both are; and no row of A may be made of others, as a copy or a sum is.",
    reads=_facts,
    slips={
        "Both are zero: each one's gradient is multiplied by the other, so neither ever moves.": lambda r, n, m: (
            torch.zeros(r, n),
            torch.zeros(m, r),
        ),
        "Both are drawn, so training starts from a disturbed model: what would make B A zero?": lambda r, n, m: (
            torch.randn(r, n),
            torch.randn(m, r),
        ),
        "All rows are alike, or multiples of one: they would be trained alike, and stay one single direction.": (
            lambda r, n, m: (torch.ones(r, n), torch.zeros(m, r)),
            lambda r, n, m: (torch.zeros(r, n), torch.ones(m, r)),
            lambda r, n, m: (torch.randn(n).expand(r, n), torch.zeros(m, r)),
        ),
        "You gave A and B in the other order: A comes first.": lambda r, n, m: (torch.zeros(m, r), torch.randn(r, n)),
        "You swapped rows and columns: A has a row for each direction, B a column.": lambda r, n, m: (
            torch.randn(n, r),
            torch.zeros(r, m),
        ),
        "You returned one tensor; A and B are wanted, in this order.": lambda r, n, m: torch.randn(r, n),
    },
)
def starting_weights(r: int, n: int, m: int) -> tuple[Tensor, Tensor]:
    """01: A (r x n) and B (m x r) with which a layer begins as its base, and learns."""
    layer = LoRALinear(torch.nn.Linear(n, m), r, scaling=1.0)
    return layer.lora_A.detach(), layer.lora_B.detach()


def _output_or_gradients(y: Any, x: Tensor, W0: Tensor, A: Tensor, B: Tensor, s: float) -> np.ndarray:
    """The output; where A and B ask for gradients, what reaches them."""
    output = tensor(y, x)
    if not A.requires_grad:
        return output
    gradients = [None, None]
    if y.requires_grad:
        gradients = torch.autograd.grad(y.square().sum(), (A, B), allow_unused=True)
    lost = [name for name, gradient in zip("AB", gradients, strict=True) if gradient is None]
    if lost:
        raise WrongAnswer(
            f"The numbers are right, but no gradient reaches {' and '.join(lost)}, so they could never be trained. "
            "Which step leaves torch, or is told to forget where its numbers come from?"
        )
    return np.concatenate([output.ravel(), *(numbers(gradient).ravel() for gradient in gradients)])


_layers = [
    (_small(1, 3), _small(4, 3), _small(2, 3), _small(4, 2), 3.0),
    (*(_small(3, 3).double() for _ in range(4)), 0.5),
    (_small(5, 3), _small(2, 3), _small(1, 3), _small(2, 1), 2.0),
]
_layers.append((*_layers[2][:2], *(part.clone().requires_grad_() for part in _layers[2][2:4]), 2.0))


@check(
    piece=True,
    cases=_layers,
    hint="Take the frozen part first, then the update from right to left. A row of x is one token: which side of the "
    "matrix does it stand on, and which way must the matrix be turned?",
    reads=_output_or_gradients,
    slips={
        "You left out the scaling: the update would be too small or too large.": lambda x, W0, A, B, s: (
            x @ W0.T + x @ A.T @ B.T
        ),
        "That is the frozen layer alone. Where is the update?": lambda x, W0, A, B, s: x @ W0.T,
        "That is the update alone. Where is the frozen layer?": lambda x, W0, A, B, s: s * x @ A.T @ B.T,
        "You scaled the frozen part as well; s belongs to the update alone.": lambda x, W0, A, B, s: (
            s * (x @ W0.T + x @ A.T @ B.T)
        ),
        "You divided by the rank as well; s is alpha / r already.": lambda x, W0, A, B, s: (
            x @ W0.T + s / len(A) * x @ A.T @ B.T
        ),
        "You scaled twice, once at A and once at B.": lambda x, W0, A, B, s: x @ W0.T + (s * x @ A.T) @ (s * B.T),
        "You subtract the update; it is added.": lambda x, W0, A, B, s: x @ W0.T - s * x @ A.T @ B.T,
        "You added s to the update; it is a factor.": lambda x, W0, A, B, s: x @ W0.T + s + x @ A.T @ B.T,
        "Your result has a column for each token; give it a row for each, as x has.": lambda x, W0, A, B, s: (
            W0 @ x.T + s * B @ A @ x.T
        ),
        "A row of x has n entries, and so has a row of W0: which of the two has to be turned?": (
            lambda x, W0, A, B, s: x @ W0 + s * x @ A @ B
        ),
        "The tokens are the rows of x, so W0 can't stand on the left of it as it is.": (
            lambda x, W0, A, B, s: W0 @ x + s * B @ A @ x
        ),
        "W0 meets x the right way; now A: a row of x has n entries, and so has a row of A.": lambda x, W0, A, B, s: (
            x @ W0.T + s * x @ A @ B
        ),
        "W0 meets x the right way, and A reads x before B does.": lambda x, W0, A, B, s: x @ W0.T + s * x @ B @ A,
        "W0 meets x the right way; but A reads first and B writes, so B can't stand on the right of A as it is.": (
            lambda x, W0, A, B, s: x @ W0.T + s * x @ (A @ B)
        ),
        "A has read x the right way; now B: its columns are the directions that A gives.": lambda x, W0, A, B, s: (
            x @ W0.T + s * x @ A.T @ B
        ),
        "`view` and `reshape` refill the numbers in their order; they turn nothing. A matrix is turned by .T.": (
            lambda x, W0, A, B, s: x @ W0.reshape(W0.shape[::-1]) + s * x @ A.reshape(A.T.shape) @ B.reshape(B.T.shape)
        ),
        "The product of B and A is m x n, like W0: treat it as you treat W0.": lambda x, W0, A, B, s: (
            x @ W0.T + s * x @ (B @ A)
        ),
    },
)
def lora_forward(x: Tensor, W0: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    """01: the layer's output for x of shape (tokens, n): tokens x m."""
    base = torch.nn.functional.linear(x, W0)
    return base + s * torch.nn.functional.linear(torch.nn.functional.linear(x, A), B)


@check(
    cases=(
        (_small(4, 3), _small(2, 3), _small(4, 2), 3.0),
        (_small(3, 3), _small(3, 3), _small(3, 3), 0.5),
        (_small(2, 5), _small(1, 5), _small(2, 1), 2.0),
    ),
    hint="Pull x out of the two terms of the layer: what is left in the bracket?",
    slips={
        "You left out the scaling: that belongs to the merged weight as well.": lambda W0, A, B, s: W0 + B @ A,
        "That is the update alone; the merged weight replaces W0, so it holds it.": lambda W0, A, B, s: s * B @ A,
        "That is W0 as it was; the update has to go into it.": lambda W0, A, B, s: W0,
        "You scaled W0 as well; s belongs to the update alone.": lambda W0, A, B, s: s * (W0 + B @ A),
        "You divided by the rank as well; s is alpha / r already.": lambda W0, A, B, s: W0 + s / len(A) * B @ A,
        "You scaled A and B both, so s counts twice.": lambda W0, A, B, s: W0 + (s * B) @ (s * A),
        "You added s; it is a factor of the update.": lambda W0, A, B, s: W0 + s + B @ A,
        "You subtract the update; merging adds it (unmerging would subtract).": lambda W0, A, B, s: W0 - s * B @ A,
        "You returned the transpose; the merged weight is laid out like W0, m x n.": lambda W0, A, B, s: (
            (W0 + s * B @ A).T
        ),
        "This order of A and B does not give an m x n matrix. Which of them stands next to x?": (
            lambda W0, A, B, s: W0 + s * A @ B
        ),
        "This order of A and B, turned, gives an n x m matrix; W0 is m x n.": lambda W0, A, B, s: W0 + s * A.T @ B.T,
        "You multiplied entry by entry (*); a product of matrices is wanted.": lambda W0, A, B, s: W0 + s * B * A,
    },
)
def merged_weight(W0: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    """01: the one weight that does what W0 and the update do together."""
    layer = _layer(W0.clone(), A, B, s)
    layer.merge()
    return layer.base.weight


def _product(pair: Any, update: Tensor, r: int) -> np.ndarray:
    """B A, once both are seen to have their shapes."""
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise WrongAnswer(f"Two matrices are expected, B and then A, separated by a comma; got {shown(pair)}.")
    factors = []
    for name, factor, shape in zip("BA", pair, ((len(update), r), (r, update.shape[1])), strict=True):
        factor = numbers(factor)
        if factor.shape != shape:
            raise WrongAnswer(f"{name} should be of shape {shape}, for r = {r}; yours is {factor.shape}.")
        factors.append(factor.astype(float))
    return factors[0] @ factors[1]


def _svd(update: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(update, full_matrices=False)


def _cut(update: Tensor, r: int, power: float = 1.0, start: int = 0) -> tuple[Tensor, Tensor]:
    """r directions of the update, from one of them on, with a power of their singular values."""
    u, s, v = _svd(update)
    return u[:, start : start + r] * s[start : start + r] ** power, v[start : start + r]


@check(
    cases=[(_small(4, 3).double(), 1), (_small(4, 3).double(), 2), (_small(3, 4).double(), 2)],
    hint="Which directions of U, S and V do you keep, and does each keep its own singular value, once?",
    reads=_product,
    compares="B A",
    slips={
        "Your directions are right, but you left out S: how much of the update lies in each of them?": (
            lambda update, r: _cut(update, r, power=0)
        ),
        "S counts twice, once in B and once in A; it may go to one of them, or its root to both.": (
            lambda update, r: _cut(update, r, power=2)
        ),
        "You took the root of S into one factor only, so half of the scale is lost.": (
            lambda update, r: _cut(update, r, power=0.5)
        ),
        "You divided by S.": lambda update, r: _cut(update, r, power=-1),
        "You kept the smallest singular values; they come sorted, the largest first.": lambda update, r: _cut(
            update, r, start=min(update.shape) - r
        ),
        "You skipped the first direction, which is the largest: places are counted from 0.": (
            lambda update, r: _cut(update, r, start=1)
        ),
        "You took columns of V; torch gives its directions as rows already.": lambda update, r: (
            _svd(update)[0][:, :r] * _svd(update)[1][:r],
            _svd(update)[2][:, :r].T,
        ),
        "You kept some columns of the update: that has rank r, but another such matrix is nearer.": lambda update, r: (
            update[:, :r],
            torch.eye(update.shape[1], dtype=update.dtype)[:r],
        ),
        "You return A first; B is asked for first, then A.": lambda update, r: _cut(update, r)[::-1],
        "You return the whole decomposition; cut it to r directions.": lambda update, r: _cut(
            update, min(update.shape)
        ),
        "You kept rows of U; its directions are columns.": lambda update, r: (
            _svd(update)[0][:r] * _svd(update)[1],
            _svd(update)[2][:r],
        ),
        "All of S is too long for r columns: cut it as well.": lambda update, r: (
            _svd(update)[0][:, :r] * _svd(update)[1],
            _svd(update)[2][:r],
        ),
    },
)
def truncate(update: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """01: factors (B, A) whose product is the nearest matrix of rank r."""
    return _cut(update, r)
