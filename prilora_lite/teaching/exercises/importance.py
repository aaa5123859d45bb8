"""Checks of 04: the input's running mean square, the importance of each entry of A, and who survives."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from prilora_lite.importance import InputNorms, importance, keep_mask
from prilora_lite.teaching.exercises.checking import Answer, check
from prilora_lite.teaching.exercises.reading import tensor

_s, _squares = torch.tensor([4.0, 1.0, 0.5]), torch.tensor([8.0, 2.0, 6.0])


def _fold(next_s: Callable[[Tensor, Tensor, float], Tensor], first: Callable[[Tensor], Tensor] = lambda q: q) -> Answer:
    """A fold that goes on from s, q and beta as given, and starts from q as given."""

    def fold(s: Tensor | None, squares: Tensor, tokens: int, beta: float) -> Tensor:
        q = squares / tokens
        return first(q) if s is None else next_s(s, q, beta)

    return fold


def _right(s: Tensor | float, q: Tensor, beta: float) -> Tensor:
    return beta * s + (1 - beta) * q


def _asks_anything(s: Tensor | None, squares: Tensor, tokens: int, beta: float) -> Tensor:
    q = squares / tokens
    return q if s is None or not s.any() else _right(s, q, beta)


def _asks_truth(s: Tensor | None, squares: Tensor, tokens: int, beta: float) -> Tensor:
    q = squares / tokens
    return _right(s, q, beta) if s else q


@check(
    piece=True,
    cases=[
        (None, _squares, 4, 0.9),
        (_s, _squares, 5, 0.9),
        (_s.double(), _squares.double(), 4, 0.3),
        (_s * 0, _squares, 2, 0.3),
    ],
    hint="First q, the mean square of this step; then what is left of the old s, and the share of the new q.",
    reads=tensor,
    slips={
        "These are sums of squares; a mean is that over the number of tokens.": lambda s, squares, tokens, beta: (
            squares if s is None else _right(s, squares, beta)
        ),
        "You divided the old s by the tokens as well; it is a mean already.": lambda s, squares, tokens, beta: (
            squares / tokens if s is None else _right(s, squares, beta) / tokens
        ),
        "You swapped beta and 1 - beta: with beta = 0.9 most of the old s stays.": _fold(
            lambda s, q, beta: _right(s, q, 1 - beta)
        ),
        "Your first step starts from zero, so s is far too small at first. There is no old s to mix with.": (
            lambda s, squares, tokens, beta: _right(0.0 if s is None else s, squares / tokens, beta)
        ),
        "You add q in full; a moving average gives it a share, so that both shares make 1.": (
            _fold(lambda s, q, beta: beta * s + q),
            _fold(lambda s, q, beta: s + q),
        ),
        "You add a share of q to all of the old s, so s only grows.": _fold(lambda s, q, beta: s + (1 - beta) * q),
        "That is the q of this step alone: the old s is forgotten.": _fold(lambda s, q, beta: q),
        "The old s came back: this step's q is not in it.": _fold(lambda s, q, beta: s),
        "Without brackets 1 - beta * q is another number: put 1 - beta in brackets.": _fold(
            lambda s, q, beta: beta * s + 1 - beta * q
        ),
        "You took the root; s stays a mean square until the importance is computed.": (
            _fold(lambda s, q, beta: _right(s, q, beta).sqrt(), lambda q: q.sqrt()),
            _fold(lambda s, q, beta: _right(s, q.sqrt(), beta), lambda q: q.sqrt()),
        ),
        "You averaged over the features; each feature keeps its own mean square.": _fold(
            lambda s, q, beta: _right(s, q.mean(), beta), lambda q: q.mean()
        ),
        "You squared once more; the squares are given already.": (
            lambda s, squares, tokens, beta: squares**2 / tokens if s is None else _right(s, squares**2 / tokens, beta)
        ),
        "You mix in equal halves, or with a fixed 0.9: make use of beta.": (
            _fold(lambda s, q, beta: (s + q) / 2),
            _fold(lambda s, q, beta: _right(s, q, 0.9)),
        ),
        "An s that is all zeros is not the same as none: only the first step has None.": _asks_anything,
        "In the first step s is None, and None can't be mixed with anything: what is s then?": (
            lambda s, squares, tokens, beta: _right(s, squares / tokens, beta),
            lambda s, squares, tokens, beta: s * beta + (1 - beta) * squares / tokens,
            lambda s, squares, tokens, beta: (1 - beta) * squares / tokens + s * beta,
        ),
        "A tensor of several numbers is neither true nor false. Ask whether s is None.": _asks_truth,
    },
)
def fold(s: Tensor | None, squares: Tensor, tokens: int, beta: float) -> Tensor:
    """04: the new running mean square, from the old one and the sum of squares over this step's tokens."""
    norms = InputNorms(len(squares))
    norms.mean_square, norms.squares, norms.tokens = s, squares.clone(), torch.tensor(float(tokens))
    norms.fold(beta)
    return norms.mean_square


@check(
    piece=True,
    cases=[
        (torch.tensor([[2.0, -1.0, 0.5, 3.0], [-4.0, 1.0, 0.0, -0.5]]), torch.tensor([9.0, 4.0, 16.0, 0.25])),
        (torch.tensor([[1.0, -3.0], [-2.0, 0.5]]).double(), torch.tensor([4.0, 25.0]).double()),
    ],
    hint="Two things make an entry important: its own size, and the size of what it reads. Column j reads feature j.",
    reads=tensor,
    slips={
        "There are negative scores: size has no sign.": lambda A, s: A * s.sqrt(),
        "s is a mean square; the size of an input is its root.": lambda A, s: A.abs() * s,
        "You squared the input once more; what is wanted goes the other way.": lambda A, s: A.abs() * s**2,
        "You squared the score. It puts the entries in the same order, but it is not S.": lambda A, s: A**2 * s,
        "`s ** 1 / 2` is s / 2, since Python takes the power first.": lambda A, s: A.abs() * s**1 / 2,
        "You took the root of the weight as well.": lambda A, s: (A.abs() * s).sqrt(),
        "That is the size of the weights alone; what do they read?": lambda A, s: A.abs(),
        "That is the size of the input alone; the weights count as well.": (
            lambda A, s: s.sqrt().expand_as(A),
            lambda A, s: s.sqrt(),
        ),
        "You divided: a weight that reads large inputs matters more, not less.": lambda A, s: A.abs() / s.sqrt(),
        "You added the two sizes; a weight acts through its product with its input.": lambda A, s: A.abs() + s.sqrt(),
        "You summed over the features; each entry of A has a score of its own.": (
            lambda A, s: A.abs() @ s.sqrt(),
            lambda A, s: (A.abs() * s.sqrt()).sum(0),
            lambda A, s: (A.abs() * s.sqrt()).sum(),
        ),
        "You gave all entries the same input; column j reads feature j.": (
            lambda A, s: A.abs() * s.sum().sqrt(),
            lambda A, s: A.abs() * s.mean().sqrt(),
            lambda A, s: A.abs() * s.norm(),
        ),
        "You laid s along the rows; there is one s_j for each column.": (
            lambda A, s: A.abs() * s.sqrt()[:, None],
            lambda A, s: s.sqrt()[:, None] * A.abs(),
        ),
        "You scaled the scores afterwards; leave them as they are.": (
            lambda A, s: A.abs() * s.sqrt() / (A.abs() * s.sqrt()).sum(),
            lambda A, s: A.abs() * s.sqrt() / (A.abs() * s.sqrt()).max(),
        ),
    },
)
def importance_scores(A: Tensor, s: Tensor) -> Tensor:
    """04: S, the importance of each entry of A, from its size and its input's mean square."""
    return importance(A, s)


def _unmarked(scores: Tensor, places: Tensor) -> Tensor:
    """False at some places of each row."""
    return torch.ones_like(scores, dtype=torch.bool).scatter(1, places, False)


def _least(scores: Tensor, k: int) -> Tensor:
    """False at the k least scores of each row; of equal scores the lower index comes first."""
    return _unmarked(scores, scores.argsort(dim=1, stable=True)[:, :k])


def _k(scores: Tensor, ratio: float) -> int:
    return int(ratio * scores.shape[1] + 1e-9)


def _threshold(scores: Tensor, ratio: float) -> Tensor:
    """The k-th least score of each row."""
    return scores.sort(dim=1).values[:, [_k(scores, ratio) - 1]]


# Sentence -> a mask of each row that is wrong in this way; of the whole matrix where it is laid out as one row.
_MASKS: dict[str, Answer | tuple[Answer, ...]] = {
    "Your mask prunes nothing: `scatter`, like most methods, gives back a new tensor and leaves the old one as it was. "
    "Use what it returns.": lambda rows, ratio: torch.ones_like(rows, dtype=torch.bool),
    "Your mask is upside down: True is for the entries that survive.": lambda rows, ratio: ~keep_mask(rows, ratio),
    "The number of survivors is not right: ratio times n counts what is pruned, not what stays.": lambda rows, ratio: (
        _least(rows, rows.shape[1] - _k(rows, ratio))
    ),
    "You prune the most important entries; the least important ones go.": (
        lambda rows, ratio: keep_mask(-rows, ratio),
        lambda rows, ratio: ~_least(rows, rows.shape[1] - _k(rows, ratio)),
    ),
    "With ratio 0 nothing may go: what are index k - 1, the k-th value, and a slice from -k on, when k is 0?": (
        lambda rows, ratio: torch.full(rows.shape, _k(rows, ratio) > 0) & keep_mask(rows, ratio),
        lambda rows, ratio: _least(rows.flip(1), _k(rows, ratio) or rows.shape[1]).flip(1),
        lambda rows, ratio: rows.gt(_threshold(rows, ratio)),
        lambda rows, ratio: rows.gt(rows.kthvalue(_k(rows, ratio), dim=1, keepdim=True).values),
        lambda rows, ratio: rows.gt(rows.kthvalue(max(_k(rows, ratio), 1), dim=1, keepdim=True).values),
    ),
    "Your k is one too small: 0.29 times 100 is a hair below 29 in floating point, and rounding down loses the rest.": (
        lambda rows, ratio: _least(rows, int(ratio * rows.shape[1]))
    ),
    "You round the number of pruned entries to the nearest or up; it is rounded down.": (
        lambda rows, ratio: _least(rows, round(ratio * rows.shape[1])),
        lambda rows, ratio: _least(rows, math.ceil(ratio * rows.shape[1] - 1e-9)),
        lambda rows, ratio: _least(rows, math.ceil(ratio * rows.shape[1])),
    ),
    "A quantile lies between two scores, so it need not cut off k of them: sort, and count.": (
        lambda rows, ratio: rows > rows.quantile(ratio, dim=1, keepdim=True),
        lambda rows, ratio: rows >= rows.quantile(ratio, dim=1, keepdim=True),
    ),
    "Of equal scores the lower index goes first. A threshold treats equal scores alike, so it cuts off too many or too "
    "few.": (
        lambda rows, ratio: rows > _threshold(rows, ratio) if _k(rows, ratio) else keep_mask(rows, ratio),
        lambda rows, ratio: rows >= rows.sort(dim=1).values[:, [_k(rows, ratio)]],
    ),
    "Of equal scores the lower index goes first; with yours it is the higher one.": lambda rows, ratio: keep_mask(
        rows.flip(1), ratio
    ).flip(1),
    "Of equal scores the lower index goes first; topk, and a sort that is not stable, promise no order among them.": (
        lambda rows, ratio: _unmarked(rows, rows.topk(_k(rows, ratio), largest=False).indices),
        lambda rows, ratio: ~_unmarked(rows, rows.topk(rows.shape[1] - _k(rows, ratio)).indices),
        lambda rows, ratio: _unmarked(rows, rows.argsort(dim=1)[:, : _k(rows, ratio)]),
    ),
    "These are ones and zeros; a mask is of True and False, so that ~ and masked_fill understand it.": (
        lambda rows, ratio: keep_mask(rows, ratio).int()
    ),
    "You return the scores that are left; the mask says only which they are.": (
        lambda rows, ratio: rows * keep_mask(rows, ratio),
        lambda rows, ratio: rows.masked_fill(~keep_mask(rows, ratio), 0),
    ),
    "You return places; the mask has True or False for each entry.": (
        lambda rows, ratio: rows.argsort(dim=1, stable=True)[:, : _k(rows, ratio)],
        lambda rows, ratio: rows.argsort(dim=1, stable=True)[:, _k(rows, ratio) :],
    ),
    "You sorted the scores, and marked places in the sorted order: go back to where each was.": lambda rows, ratio: (
        torch.arange(rows.shape[1]).expand_as(rows) >= _k(rows, ratio)
    ),
    "Sorting gave you places: first the place of the smallest score, and so on. You compare them with k as if each "
    "stood for the order of its own entry.": (
        lambda rows, ratio: rows.argsort(dim=1, stable=True) >= _k(rows, ratio),
        lambda rows, ratio: rows.argsort(dim=1) >= _k(rows, ratio),
    ),
    "The ratio is a share of the number of entries, not of the largest score.": (
        lambda rows, ratio: rows > ratio * rows.max(dim=1, keepdim=True).values,
        lambda rows, ratio: rows >= ratio * rows.max(dim=1, keepdim=True).values,
        lambda rows, ratio: rows > ratio * rows.max(),
    ),
    "You compare the scores with the ratio; it is a share of the number of entries.": (
        lambda rows, ratio: rows > ratio,
        lambda rows, ratio: rows >= ratio,
    ),
    "You compare with the middle of the scores, which takes no notice of the ratio.": (
        lambda rows, ratio: rows > rows.median(),
        lambda rows, ratio: rows > rows.median(dim=1, keepdim=True).values,
        lambda rows, ratio: rows > rows.mean(dim=1, keepdim=True),
        lambda rows, ratio: rows > rows.mean(),
    ),
}

_unlike = torch.tensor([[0.4, 0.1, 0.3, 0.2], [5.0, 8.0, 6.0, 7.0], [2.0, 1.0, 4.0, 3.0]])
_ties = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 2.0], [0.0, 0.0, 3.0, 3.0]])
_order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).float()
_orders = torch.stack([_order, _order.flip(0)])
_masks = [(_unlike, 0.25), (_unlike, 0.5), (_unlike, 0.0), (_ties, 0.5), (_ties, 0.25)]


@check(
    piece=True,
    cases=[*_masks, (torch.tensor([[3.0, 5.0, 1.0, 4.0, 2.0]]), 0.3), (_orders, 0.29), (_orders // 10, 0.25)],
    hint="Take one row, sort it on paper, and mark the k entries that go. Are they those that yours marks?",
    reads=tensor,
    slips={
        "You compare over the whole matrix, so rows keep different numbers; each row is pruned by itself.": (
            lambda rows, ratio: keep_mask(rows, ratio, "matrix")
        ),
        "You compare within columns; a row is what reads the input in one direction.": lambda rows, ratio: (
            keep_mask(rows.T, ratio).T
        ),
        **_MASKS,
    },
)
def keep_rows(S: Tensor, ratio: float) -> Tensor:
    """04: which entries survive when the least important ones of each row go."""
    return keep_mask(S, ratio)


def _of_the_whole(mask: Answer | tuple[Answer, ...]) -> Answer | tuple[Answer, ...]:
    """A mask of each row, applied to the matrix laid out as one row."""
    if isinstance(mask, tuple):
        return tuple(map(_of_the_whole, mask))

    def of_the_whole(scores: Tensor, ratio: float) -> Tensor:
        flat = mask(scores.reshape(1, -1), ratio)
        return flat.view(scores.shape) if flat.numel() == scores.numel() else flat[0]

    return of_the_whole


@check(
    cases=[*_masks, (torch.tensor([[3.0, 5.0, 1.0, 4.0, 2.0], [9.0, 6.0, 8.0, 10.0, 7.0]]), 0.35),
           (_order.view(4, 25), 0.29), (_order.view(4, 25) // 10, 0.25)],
    hint="Lay the matrix out as one long row, mark the k entries that go, and fold it back.",
    reads=tensor,
    slips={
        "You prune each row by itself; here the rows compete with each other.": keep_mask,
        "You prune each column by itself; here all entries compete with each other.": lambda scores, ratio: keep_mask(
            scores.T, ratio
        ).T,
        "Your mask is one long row; fold it back to the shape of the scores.": lambda scores, ratio: keep_mask(
            scores, ratio, "matrix"
        ).flatten(),
        **{sentence: _of_the_whole(mask) for sentence, mask in _MASKS.items()},
    },
)  # fmt: skip
def keep_in_matrix(scores: Tensor, ratio: float) -> Tensor:
    """04: which entries survive when the least important ones of the whole matrix go, not of each row."""
    return keep_mask(scores, ratio, "matrix")
