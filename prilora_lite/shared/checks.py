"""What an argument must be, said in one place for all that take it."""

from __future__ import annotations


def check_seed(seed: int) -> None:
    """Raise ValueError unless 0 <= seed < 2**32, the range of NumPy's generators."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"a seed is an integer of at least 0 and below 2**32, got {seed!r}")
