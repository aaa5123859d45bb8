"""Answers to the exercises of 04: wrong ones with a part of what they are told, right ones of other forms."""

import math

import torch

from prilora_lite import exercises as check
from prilora_lite import importance, keep_mask


def swapped(s, squares, tokens, beta):
    q = squares / tokens
    return q if s is None else (1 - beta) * s + beta * q


def from_zero(s, squares, tokens, beta):
    if s is None:
        s = torch.zeros_like(squares)
    return beta * s + (1 - beta) * squares / tokens


def sums(s, squares, tokens, beta):
    return squares if s is None else beta * s + (1 - beta) * squares


def sums_at_first(s, squares, tokens, beta):
    return squares if s is None else beta * s + (1 - beta) * squares / tokens


def no_share(s, squares, tokens, beta):
    q = squares / tokens
    return q if s is None else beta * s + q


def total(s, squares, tokens, beta):
    q = squares / tokens
    return q if s is None else s + q


def forgets(s, squares, tokens, beta):
    return squares / tokens


def stays(s, squares, tokens, beta):
    return squares / tokens if s is None else s


def no_brackets(s, squares, tokens, beta):
    q = squares / tokens
    return q if s is None else beta * s + 1 - beta * q


def rooted(s, squares, tokens, beta):
    q = (squares / tokens).sqrt()
    return q if s is None else beta * s + (1 - beta) * q


def over_features(s, squares, tokens, beta):
    q = squares.sum() / tokens / len(squares)
    return q if s is None else beta * s + (1 - beta) * q


def all_over_tokens(s, squares, tokens, beta):
    return squares / tokens if s is None else (beta * s + (1 - beta) * squares) / tokens


def squared_again(s, squares, tokens, beta):
    q = squares.square() / tokens
    return q if s is None else beta * s + (1 - beta) * q


def fixed_beta(s, squares, tokens, beta=0.9):
    q = squares / tokens
    return q if s is None else 0.9 * s + 0.1 * q


def never_none(s, squares, tokens, beta):
    return beta * s + (1 - beta) * squares / tokens


def asks_a_tensor(s, squares, tokens, beta):
    q = squares / tokens
    if not s:
        return q
    return beta * s + (1 - beta) * q


def asks_for_zeros(s, squares, tokens, beta):
    q = squares / tokens
    if s is None or s.sum() == 0:
        return q
    return beta * s + (1 - beta) * q


def folds_in_place(s, squares, tokens, beta):
    q = squares / tokens
    return q if s is None else s.mul_(beta).add_((1 - beta) * q)


def divides_in_place(s, squares, tokens, beta):
    squares /= tokens
    return squares if s is None else beta * s + (1 - beta) * squares


def as_list(s, squares, tokens, beta):
    q = squares / tokens
    return (q if s is None else beta * s + (1 - beta) * q).tolist()


def bias_corrected(s, squares, tokens, beta):
    q = squares / tokens
    return q if s is None else (beta * s + (1 - beta) * q) / (1 - beta)


def k_of(scores, ratio):
    return int(ratio * scores.shape[1] + 1e-9)


def without(scores, places):
    keep = torch.ones_like(scores, dtype=torch.bool)
    return keep.scatter(1, places, False)


def stays_k(S, ratio):
    places = S.argsort(dim=1, descending=True)[:, : k_of(S, ratio)]
    return torch.zeros_like(S, dtype=torch.bool).scatter(1, places, True)


def last_k_of_falling(S, ratio):
    return without(S, S.argsort(dim=1, descending=True, stable=True)[:, -k_of(S, ratio) :])


def higher_index(S, ratio):
    order = S.argsort(dim=1, descending=True, stable=True)
    return without(S, order[:, S.shape[1] - k_of(S, ratio) :])


def row_by_row_threshold(S, ratio):
    k = k_of(S, ratio)
    if k == 0:
        return torch.ones_like(S, dtype=torch.bool)
    return S.gt(S.kthvalue(k, dim=1, keepdim=True).values)


def kth_of_none(S, ratio):
    return S.gt(S.kthvalue(k_of(S, ratio), dim=1, keepdim=True).values)


def sorted_index(S, ratio):
    return S.gt(S.sort(dim=1).values[:, k_of(S, ratio) - 1].unsqueeze(1))


def with_topk(S, ratio):
    return without(S, S.topk(k_of(S, ratio), dim=1, largest=False).indices)


def keeps_topk(S, ratio):
    n = S.shape[1] - k_of(S, ratio)
    return torch.zeros_like(S, dtype=torch.bool).scatter(1, S.topk(n, dim=1).indices, True)


def prunes_scores(S, ratio):
    S[~keep_mask(S, ratio)] = 0
    return S != 0


def levels_the_scores(scores, ratio):
    scores[:] = 0
    return keep_mask(scores, ratio, "matrix")


def nothing_checked(S, ratio):
    return S > 0


def flat(function):
    """A mask of each row applied to the whole matrix as one row."""
    return lambda scores, ratio: function(scores.reshape(1, -1), ratio).view(scores.shape)


def flat_mask(scores, ratio):
    return keep_mask(scores.flatten()[None], ratio)[0]


def thrown_away(S, ratio):
    mask = torch.ones_like(S, dtype=torch.bool)
    mask.scatter(1, S.argsort(dim=1)[:, : int(ratio * S.shape[1])], False)
    return mask


def not_whole(S, ratio):
    return S.argsort(dim=1)[:, : ratio * S.shape[1]]


WRONG = [
    (
        check.fold,
        lambda *given: check.fold.exercise.truth(*given).float(),
        "torch.float64, and your result of torch.float32",
    ),
    (check.importance_scores, lambda A, s: A.abs().float() * s.float().sqrt(), "of type torch.float64"),
    (check.importance_scores, lambda A, s: (A.abs() * s.sqrt()).round(decimals=1), "right, but rounded"),
    (check.importance_scores, lambda A, s: A.abs() * s**1 / 2, "Python takes the power first"),
    (check.keep_rows, thrown_away, "prunes nothing: `scatter`"),
    (check.keep_in_matrix, thrown_away, "prunes nothing: `scatter`"),
    (check.keep_rows, not_whole, "make its ends int(.|\n)*slice indices must be integers"),
    (check.fold, swapped, "swapped beta and 1 - beta"),
    (check.fold, from_zero, "starts from zero"),
    (check.fold, sums, "sums of squares"),
    (check.fold, sums_at_first, "sums of squares|First q"),
    (check.fold, no_share, "You add q in full"),
    (check.fold, total, "You add q in full"),
    (check.fold, forgets, "old s is forgotten"),
    (check.fold, stays, "The old s came back"),
    (check.fold, no_brackets, "brackets"),
    (check.fold, rooted, "took the root"),
    (check.fold, over_features, "averaged over the features"),
    (check.fold, all_over_tokens, "a mean already"),
    (check.fold, squared_again, "squared once more"),
    (check.fold, fixed_beta, "make use of beta"),
    (check.fold, never_none, "in the first step s is None|In the first step s is None"),
    (check.fold, asks_a_tensor, "Ask whether s is None(.|\n)*Boolean value(.|\n)*in the line `if not s:`"),
    (check.fold, asks_for_zeros, "all zeros is not the same as none"),
    (check.fold, folds_in_place, "changes s, which"),
    (check.fold, divides_in_place, "changes squares, which"),
    (check.fold, as_list, "Return a torch tensor; .* list"),
    (check.fold, bias_corrected, "First q, the mean square"),
    (check.fold, lambda s, squares, tokens, beta: None, "is there a return"),
    (check.fold, lambda s, squares, tokens, beta: squares // tokens, "First q"),
    (check.importance_scores, lambda A, s: A * s.sqrt(), "size has no sign"),
    (check.importance_scores, lambda A, s: A.abs() * s, "s is a mean square"),
    (check.importance_scores, lambda A, s: A.square() * s, "squared the score"),
    (check.importance_scores, lambda A, s: A.abs(), "weights alone"),
    (check.importance_scores, lambda A, s: s.sqrt().repeat(len(A), 1), "input alone"),
    (check.importance_scores, lambda A, s: A.abs() / s.sqrt(), "You divided"),
    (check.importance_scores, lambda A, s: A.abs() + s.sqrt(), "You added"),
    (check.importance_scores, lambda A, s: A.abs() @ s.sqrt(), "a score of its own"),
    (check.importance_scores, lambda A, s: (A.abs() * s.sqrt()).sum(dim=1), "a score of its own"),
    (check.importance_scores, lambda A, s: A.abs() * s.sqrt().unsqueeze(1), "You laid s along the rows"),
    (check.importance_scores, lambda A, s: A.abs() * s.norm(), "gave all entries the same input"),
    (check.importance_scores, lambda A, s: (A.abs() * s).sqrt(), "root of the weight as well"),
    (check.importance_scores, lambda A, s: A.abs() * s.square(), "squared the input once more"),
    (check.importance_scores, lambda A, s: A.abs_() * s.sqrt(), "changes A"),
    (check.importance_scores, lambda A, s: A.abs() * s.sqrt_(), "changes s"),
    (check.importance_scores, lambda A, s: A.sqrt() * s, "NaN"),
    (check.importance_scores, lambda A, s: (A.abs() * s.sqrt()).tolist(), "Return a torch tensor"),
    (check.importance_scores, lambda A, s: A.abs() * math.sqrt(s), "column j reads feature j"),
    (check.importance_scores, lambda A, s: A.abs() * s.sqrt() / 2, "Two things make an entry important"),
    (check.keep_rows, lambda S, ratio: ~keep_mask(S, ratio), "upside down"),
    (check.keep_rows, stays_k, "counts what is pruned, not what stays"),
    (check.keep_rows, lambda S, ratio: without(S, S.argsort(dim=1)[:, : int(ratio * S.shape[1])]), "a hair below 29"),
    (check.keep_rows, lambda S, ratio: without(S, S.argsort(dim=1)[:, : round(ratio * S.shape[1])]), "rounded down"),
    (
        check.keep_rows,
        lambda S, ratio: without(S, S.argsort(dim=1)[:, : math.ceil(ratio * S.shape[1])]),
        "rounded down",
    ),
    (
        check.keep_rows,
        lambda scores, ratio: scores > scores.quantile(ratio, dim=1, keepdim=True),
        "A quantile lies between",
    ),
    (
        check.keep_rows,
        lambda scores, ratio: scores >= scores.quantile(ratio, dim=1, keepdim=True),
        "A quantile lies between",
    ),
    (check.keep_rows, row_by_row_threshold, "A threshold treats equal scores alike"),
    (check.keep_rows, kth_of_none, "With ratio 0 nothing may go(.|\n)*stopped with"),
    (check.keep_rows, sorted_index, "With ratio 0 nothing may go"),
    (check.keep_rows, last_k_of_falling, "With ratio 0 nothing may go"),
    (check.keep_rows, higher_index, "with yours it is the higher one"),
    (check.keep_rows, with_topk, "the lower index goes first"),
    (check.keep_rows, keeps_topk, "the lower index goes first|Take one row"),
    (
        check.keep_rows,
        lambda S, ratio: without(S, S.argsort(dim=1, descending=True)[:, : k_of(S, ratio)]),
        "most important",
    ),
    (check.keep_rows, lambda S, ratio: keep_mask(S, ratio, "matrix"), "over the whole matrix"),
    (check.keep_rows, lambda S, ratio: keep_mask(S.T, ratio).T, "within columns"),
    (check.keep_rows, lambda S, ratio: keep_mask(S, ratio).int(), "ones and zeros"),
    (check.keep_rows, lambda S, ratio: keep_mask(S, ratio).float(), "ones and zeros"),
    (check.keep_rows, lambda S, ratio: S * keep_mask(S, ratio), "the scores that are left"),
    (check.keep_rows, lambda S, ratio: S.argsort(dim=1)[:, : k_of(S, ratio)], "You return places"),
    (check.keep_rows, lambda S, ratio: S.argsort(dim=1) >= k_of(S, ratio), "Sorting gave you places"),
    (check.keep_rows, lambda scores, ratio: scores > ratio, "compare the scores with the ratio"),
    (check.keep_rows, lambda scores, ratio: scores > ratio * scores.max(), "not of the largest score"),
    (check.keep_rows, lambda scores, ratio: scores > scores.mean(dim=1, keepdim=True), "the middle of the scores"),
    (check.keep_rows, lambda scores, ratio: scores > scores.median(), "the middle of the scores"),
    (check.keep_rows, lambda S, ratio: S.sort(dim=1).indices >= k_of(S, ratio), "Sorting gave you places"),
    (check.keep_rows, lambda S, ratio: S.argsort(dim=1).argsort(dim=1) > k_of(S, ratio), "Take one row"),
    (check.keep_rows, nothing_checked, "Take one row"),
    (check.keep_rows, prunes_scores, "changes S"),
    (check.keep_rows, lambda S, ratio: keep_mask(S, ratio).tolist(), "Return a torch tensor"),
    (check.keep_rows, lambda S, ratio: torch.rand_like(S) >= ratio, "Take one row"),
    (check.keep_in_matrix, keep_mask, "each row by itself"),
    (check.keep_in_matrix, lambda scores, ratio: keep_mask(scores.T, ratio).T, "each column by itself"),
    (check.keep_in_matrix, lambda scores, ratio: ~keep_mask(scores, ratio, "matrix"), "upside down"),
    (check.keep_in_matrix, lambda scores, ratio: keep_mask(scores, ratio, "matrix").int(), "ones and zeros"),
    (check.keep_in_matrix, flat(stays_k), "counts what is pruned, not what stays"),
    (
        check.keep_in_matrix,
        flat(lambda S, r: without(S, S.argsort(dim=1)[:, : int(r * S.shape[1])])),
        "a hair below 29",
    ),
    (check.keep_in_matrix, flat(lambda S, r: without(S, S.argsort(dim=1)[:, : round(r * S.shape[1])])), "rounded down"),
    (check.keep_in_matrix, lambda scores, ratio: scores > scores.quantile(ratio), "A quantile lies between"),
    (check.keep_in_matrix, flat(row_by_row_threshold), "A threshold treats equal scores alike"),
    (check.keep_in_matrix, flat(sorted_index), "With ratio 0 nothing may go"),
    (check.keep_in_matrix, flat(last_k_of_falling), "With ratio 0 nothing may go"),
    (check.keep_in_matrix, flat(higher_index), "with yours it is the higher one"),
    (check.keep_in_matrix, flat(with_topk), "the lower index goes first"),
    (check.keep_in_matrix, flat_mask, "one long row"),
    (check.keep_in_matrix, lambda scores, ratio: scores * keep_mask(scores, ratio, "matrix"), "scores that are left"),
    (check.keep_in_matrix, lambda scores, ratio: scores > ratio * scores.max(), "not of the largest score"),
    (check.keep_in_matrix, levels_the_scores, "changes scores"),
    (check.keep_in_matrix, lambda scores, ratio: keep_mask(scores, ratio, "matrix").numpy(), "Return a torch tensor"),
]


def sort_and_place(S, ratio):
    keep = torch.ones(S.shape, dtype=torch.bool)
    for row, scores in zip(keep, S.tolist(), strict=True):
        order = sorted(range(len(scores)), key=lambda j: (scores[j], j))
        row[order[: int(ratio * len(scores) + 1e-9)]] = False
    return keep


def by_place_in_order(S, ratio):
    return S.argsort(dim=1, stable=True).argsort(dim=1) >= k_of(S, ratio)


def with_lerp(s, squares, tokens, beta):
    q = squares / tokens
    return q if s is None else torch.lerp(q, s, beta)


RIGHT = [
    (check.fold, with_lerp),
    (check.fold, lambda s, squares, n, beta: squares / n if s is None else s + (1 - beta) * (squares / n - s)),
    (
        check.fold,
        lambda s, squares, n, beta: squares.double() / n if s is None else s * beta + squares / n * (1 - beta),
    ),
    (check.importance_scores, importance),
    (check.importance_scores, lambda A, s: (A * s**0.5).abs()),
    (check.importance_scores, lambda A, s: (A.square() * s).sqrt()),
    (check.importance_scores, lambda A, s: A.abs() @ torch.diag(s.sqrt())),
    (check.keep_rows, keep_mask),
    (check.keep_rows, sort_and_place),
    (check.keep_rows, by_place_in_order),
    (check.keep_rows, lambda S, ratio: torch.stack([keep_mask(row[None], ratio)[0] for row in S])),
    (check.keep_in_matrix, flat(sort_and_place)),
    (check.keep_in_matrix, flat(by_place_in_order)),
]
