"""Which rank each layer gets: a straight line from the first layer to the last, rounded; or another schedule."""

from __future__ import annotations

from collections.abc import Callable

from prilora_lite.shared.checks import is_integer, is_number, plain

MOST_LAYERS = 10_000  # more than any model has; a larger number is a mistake, and its schedule would take forever


def linear_ranks(num_layers: int, first_rank: float, last_rank: float) -> list[int]:
    r"""Ranks on a straight line from the first layer to the last, each rounded to the nearest integer.

    .. math:: r_l = \mathrm{round}\Big(r_s + (r_f - r_s)\,\frac{l}{L-1}\Big), \qquad l = 0, \dots, L-1

    Halves are rounded to the even neighbour; one layer alone gets :math:`r_f`.

    Args:
        num_layers: L, the number of layers, from 1 to :data:`MOST_LAYERS`.
        first_rank: r_s, the rank aimed at in the first layer.
        last_rank: r_f, the rank aimed at in the last layer. Below ``first_rank`` the slope falls; equal to
            ``first_rank`` it is flat.

    Returns:
        L ranks, first layer first.

    Raises:
        ValueError: L out of range, an end that is not a finite number, or a rank that rounds to less than 1.

    Source: PRILoRA (Benedek & Wolf 2024) allocates ranks linearly; the rounding is our choice.

    >>> linear_ranks(12, 4, 12)
    [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]
    """
    check_layers(num_layers)
    for name, value in (("first_rank", first_rank), ("last_rank", last_rank)):
        if not is_number(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
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
        num_layers: L, the number of layers, from 1 to :data:`MOST_LAYERS`.
        function: f, from a depth in [0, 1] to a rank. One layer alone has depth 1.

    Returns:
        L ranks, first layer first.

    Raises:
        ValueError: L out of range, or a value that is not a finite number or rounds to less than 1.

    Source: our choice.

    >>> ranks_by_depth(5, lambda depth: 2 + 14 * depth**2)
    [2, 3, 6, 10, 16]
    """
    check_layers(num_layers)
    return _rounded(plain([function(l / (num_layers - 1) if num_layers > 1 else 1.0) for l in range(num_layers)]))


def check_layers(num_layers: int) -> None:
    """Raise ValueError unless L is an integer from 1 to :data:`MOST_LAYERS`."""
    if not is_integer(plain(num_layers), 1) or num_layers > MOST_LAYERS:
        raise ValueError(f"num_layers must be an integer from 1 to {MOST_LAYERS}, got {num_layers!r}")


def _rounded(values: list[float]) -> list[int]:
    for layer, value in enumerate(values):
        if not is_number(value):
            raise ValueError(f"the rank of layer {layer} must be a finite number, got {value!r}")
    return at_least_one([round(value) for value in values])


def at_least_one(ranks: list[int], mend: str = "raise the ranks") -> list[int]:
    """The ranks as they are; raise ValueError, which says how to mend it, if one is below 1."""
    if min(ranks) < 1:
        layer = ranks.index(min(ranks))
        raise ValueError(f"layer {layer} would get rank {ranks[layer]}, but 1 is the least: {mend}")
    return ranks
