"""What a schedule of ranks costs, and schedules of any slope that cost the same."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from numbers import Integral

from prilora_lite.ranks import at_least_one, check_layers

NEAR = Fraction(1, 10**9)  # a budget as near to an integer as this is one: 8 / 3 is no exact third in floating point


def budget_ranks(num_layers: int, mean: float, slope: float) -> list[int]:
    r"""Ranks on a line of any slope whose sum is exactly :math:`L\,m`: the slope changes, the budget does not.

    .. math:: r_s = m - d/2, \qquad r_f = m + d/2, \qquad \sum_l r_l = L\,m

    Rounded by largest remainder: every rank is rounded down, then the ranks with the largest remainders get one
    more each until the sum is met. Among equal remainders the larger rank comes first, then the later layer.

    Args:
        num_layers: L, the number of layers, at least 1.
        mean: m, the mean rank; L times m must be an integer, but for rounding: 8 / 3 will do for three layers.
        slope: d = r_f - r_s, the rank of the last layer minus that of the first; negative falls, 0 is flat.

    Returns:
        L ranks, first layer first.

    Raises:
        ValueError: L below 1, a budget L m that is not an integer, or a rank below 1.

    Source: our choice.

    >>> from prilora_lite import linear_ranks
    >>> budget_ranks(12, mean=8, slope=8) == linear_ranks(12, 4, 12)
    True
    >>> budget_ranks(4, mean=8, slope=-9)
    [13, 10, 6, 3]
    """
    check_layers(num_layers)
    m, d = _exact(mean, "mean"), _exact(slope, "slope")
    budget = m * num_layers
    if abs(budget - round(budget)) < NEAR:
        budget = Fraction(round(budget))
        m = budget / num_layers
    line = [m - d / 2 + d * Fraction(l, num_layers - 1) for l in range(num_layers)] if num_layers > 1 else [m]
    if budget.denominator != 1:
        raise ValueError(
            f"a mean rank of {mean} over {num_layers} layers makes a budget of {float(budget):g}, which is not an "
            f"integer; choose a mean that is a multiple of 1/{num_layers}"
        )
    ranks = [r.__floor__() for r in line]
    by_remainder = sorted(range(num_layers), key=lambda l: (line[l] - ranks[l], line[l], l), reverse=True)
    for layer in by_remainder[: int(budget) - sum(ranks)]:
        ranks[layer] += 1
    return at_least_one(ranks, "raise the mean or flatten the slope")


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

    >>> from prilora_lite import linear_ranks
    >>> adapter_parameters(linear_ranks(12, 4, 12), [(768, 768)] * 4 + [(3072, 768), (768, 3072)])
    1327104
    """
    ranks, shapes = list(ranks), [(m, n) for m, n in shapes]
    if not all(isinstance(number, Integral) for number in (*ranks, *(n for shape in shapes for n in shape))):
        raise ValueError(f"ranks and shapes must be integers, got {ranks!r:.80} and {shapes!r:.80}")
    return sum(ranks) * sum(m + n for m, n in shapes)


def _exact(value: float, name: str) -> Fraction:
    """The number as it was written: 8.1 is 81/10 here, not the nearest binary fraction."""
    try:
        return Fraction(str(value))
    except ValueError:
        raise ValueError(f"{name} must be a finite number, got {value!r}") from None
