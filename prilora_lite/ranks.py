"""Which rank each layer gets: a straight line from the first layer to the last, rounded; or another schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from numbers import Integral

from prilora_lite.shared.checks import is_number

MOST_LAYERS = 10_000  # more than any model has; a larger number is a mistake, and its schedule would take for ever


def linear_ranks(num_layers: int, first_rank: float, last_rank: float) -> list[int]:
    r"""Ranks on a straight line from the first layer to the last, each rounded to the nearest integer.

    .. math:: r_l = \mathrm{round}\Big(r_s + (r_f - r_s)\,\frac{l}{L-1}\Big), \qquad l = 0, \dots, L-1

    Halves are rounded to the even neighbour; one layer alone gets :math:`r_f`.

    Args:
        num_layers: L, the number of layers, at least 1.
        first_rank: r_s, the rank aimed at in the first layer.
        last_rank: r_f, the rank aimed at in the last layer. Below ``first_rank`` the slope falls; equal to
            ``first_rank`` it is flat.

    Returns:
        L ranks, first layer first.

    Raises:
        ValueError: L below 1, an end that is not a finite number, or a rank that rounds to less than 1.

    Source: PRILoRA (Benedek & Wolf 2024) allocates ranks linearly; the rounding is our choice.

    >>> linear_ranks(12, 4, 12)
    [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]
    """
    _check_layers(num_layers)
    _check_ends(first_rank, last_rank)
    if num_layers == 1:
        return _rounded([last_rank])
    return _rounded([first_rank + (last_rank - first_rank) * l / (num_layers - 1) for l in range(num_layers)])


# The schedules that a configuration can name: from (num_layers, first_rank, last_rank) to a rank for each layer.
# Between equal ends each of them is flat, so that a run with equal ends is the same run whatever its schedule.
SCHEDULES: dict[str, Callable[[int, float, float], list[int]]] = {"linear": linear_ranks}


def ranks_by_depth(num_layers: int, function: Callable[[float], float]) -> list[int]:
    r"""Ranks that a function of the depth gives, each rounded to the nearest integer.

    .. math:: r_l = \mathrm{round}\, f\Big(\frac{l}{L-1}\Big), \qquad l = 0, \dots, L-1

    Args:
        num_layers: L, the number of layers, at least 1.
        function: f, from a depth in [0, 1] to a rank. One layer alone has depth 1.

    Returns:
        L ranks, first layer first.

    Raises:
        ValueError: L below 1, or a value that is not a finite number or rounds to less than 1.

    Source: our choice.

    >>> ranks_by_depth(5, lambda depth: 2 + 14 * depth**2)
    [2, 3, 6, 10, 16]
    """
    _check_layers(num_layers)
    return _rounded([function(l / (num_layers - 1) if num_layers > 1 else 1.0) for l in range(num_layers)])


def budget_ranks(num_layers: int, mean: float, slope: float) -> list[int]:
    r"""Ranks on a line of any slope whose sum is exactly :math:`L\,m`: the slope changes, the budget does not.

    .. math:: r_s = m - d/2, \qquad r_f = m + d/2, \qquad \sum_l r_l = L\,m

    Rounded by largest remainder: every rank is rounded down, then the ranks with the largest remainders get one
    more each until the sum is met. Among equal remainders the larger rank comes first, then the later layer.

    Args:
        num_layers: L, the number of layers, at least 1.
        mean: m, the mean rank; L times m must be an integer.
        slope: d = r_f - r_s, the rank of the last layer minus that of the first; negative falls, 0 is flat.

    Returns:
        L ranks, first layer first.

    Raises:
        ValueError: L below 1, a budget L m that is not an integer, or a rank below 1.

    Source: our choice.

    >>> budget_ranks(12, mean=8, slope=8) == linear_ranks(12, 4, 12)
    True
    >>> budget_ranks(4, mean=8, slope=-9)
    [13, 10, 6, 3]
    """
    _check_layers(num_layers)
    m, d = _exact(mean, "mean"), _exact(slope, "slope")
    line = [m - d / 2 + d * Fraction(l, num_layers - 1) for l in range(num_layers)] if num_layers > 1 else [m]
    budget = m * num_layers
    if budget.denominator != 1:
        raise ValueError(
            f"a mean rank of {mean} over {num_layers} layers makes a budget of {float(budget):g}, which is not an "
            f"integer; choose a mean that is a multiple of 1/{num_layers}"
        )
    ranks = [r.__floor__() for r in line]
    by_remainder = sorted(range(num_layers), key=lambda l: (line[l] - ranks[l], line[l], l), reverse=True)
    for layer in by_remainder[: int(budget) - sum(ranks)]:
        ranks[layer] += 1
    return _at_least_one(ranks)


def adapter_parameters(ranks: Sequence[int], shapes: Sequence[tuple[int, int]]) -> int:
    r"""Trainable parameters that a rank schedule costs.

    .. math:: \sum_l r_l \sum_{(m,\,n)} (m + n)

    Args:
        ranks: one rank per layer.
        shapes: (out, in) = (m, n) of each adapted matrix of one layer; the same in all layers.

    Returns:
        Number of entries of all lora_A (r x n) and lora_B (m x r) together.

    Raises:
        TypeError, ValueError: not integers, or shapes that are not pairs of integers.

    Source: LoRA (Hu et al. 2021), section 4.2.

    >>> adapter_parameters(linear_ranks(12, 4, 12), [(768, 768)] * 4 + [(3072, 768), (768, 3072)])
    1327104
    """
    ranks, shapes = list(ranks), [(m, n) for m, n in shapes]
    if not all(isinstance(number, Integral) for number in (*ranks, *(n for shape in shapes for n in shape))):
        raise ValueError(f"ranks and shapes must be integers, got {ranks!r:.80} and {shapes!r:.80}")
    return sum(ranks) * sum(m + n for m, n in shapes)


def _check_layers(num_layers: int) -> None:
    if not isinstance(num_layers, Integral) or not 1 <= num_layers <= MOST_LAYERS:
        raise ValueError(f"num_layers must be an integer from 1 to {MOST_LAYERS}, got {num_layers!r}")


def _check_ends(first_rank: float, last_rank: float) -> None:
    for name, value in (("first_rank", first_rank), ("last_rank", last_rank)):
        if not is_number(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")


def _exact(value: float, name: str) -> Fraction:
    """The number as it was written: 8.1 is 81/10 here, not the nearest binary fraction."""
    try:
        return Fraction(str(value))
    except ValueError:
        raise ValueError(f"{name} must be a finite number, got {value!r}") from None


def _rounded(values: list[float]) -> list[int]:
    for layer, value in enumerate(values):
        if not is_number(value):
            raise ValueError(f"the rank of layer {layer} must be a finite number, got {value!r}")
    return _at_least_one([round(value) for value in values])


def _at_least_one(ranks: list[int]) -> list[int]:
    if min(ranks) < 1:
        layer = ranks.index(min(ranks))
        raise ValueError(f"layer {layer} would get rank {ranks[layer]}; a rank is at least 1: raise the lower end")
    return ranks
