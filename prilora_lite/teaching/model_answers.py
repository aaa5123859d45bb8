"""Answers that later tasks of A3 and A4 build on, whatever was written before: a mistake does not count twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from prilora_lite.importance import InputNorms, importance, keep_mask

if TYPE_CHECKING:
    import pandas as pd


def mean_square(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """A3, task 1: the mean square of each feature over the real tokens of one step.

    Args:
        batches: each x (rows, places, n) with its mask (rows, places), True where a place holds a real token.

    Returns:
        q (n,).
    """
    batches = list(batches)
    norms = InputNorms(batches[0][0].shape[-1])
    for x, mask in batches:
        norms.add(x, mask.flatten().nonzero().squeeze(1))
    norms.fold(0.0)
    return norms.mean_square


def moving_average(qs: Sequence[Tensor], decay: float) -> Tensor:
    """A3, task 2: s (n,) after the q (n,) of each step, oldest first."""
    s = qs[0]
    for q in qs[1:]:
        s = decay * s + (1 - decay) * q
    return s


def survivors(A: Tensor, s: Tensor, ratio: float, scope: str) -> Tensor:
    """A3, task 3: boolean (r, n), True where an entry of A survives."""
    return keep_mask(importance(A, s), ratio, scope)


def by_seed(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A4, task 3: the main metric of each run in percent, one row for each seed, one column for each method."""
    import pandas as pd  # A3 needs none of it

    rows = [(record["seed"], record["name"], 100 * next(iter(record["metrics"].values()))) for record in records]
    return pd.DataFrame(rows, columns=["seed", "method", "value"]).pivot(index="seed", columns="method", values="value")
