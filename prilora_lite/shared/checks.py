"""What counts as a number, an integer, a seed: one check for each."""

from __future__ import annotations

from typing import Any

LARGEST = 1e30  # largest accepted setting; keeps derived values finite


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and no larger than :data:`LARGEST`."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST  # False for NaN


def is_integer(value: object, least: int = 0) -> bool:
    """Whether a value is an integer of at least ``least``; True and False do not count."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def plain(value: Any) -> Any:
    """Numbers of NumPy and torch, alone or in a list, as Python's own; anything else as it is."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def is_seed(value: object) -> bool:
    """Whether a value is a seed: 0 <= seed < 2**32, NumPy's range."""
    return is_integer(value) and value < 2**32


def check_seed(seed: object) -> None:
    """Raise ValueError unless a value is a seed."""
    if not is_seed(seed):
        raise ValueError(f"a seed is an integer of at least 0 and below 2**32, got {seed!r}")
