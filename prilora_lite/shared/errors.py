"""How errors name things: what is not known, and the first of many; and whose line a warning names."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Sequence

# Between a warning and the line of the user's that led to it: this package, and what calls it
_INSIDE = ("prilora_lite", "torch", "transformers", "accelerate", "peft", "contextlib")


class Diverged(ValueError):
    """A training whose weights, activations or predictions became NaN or infinite."""


def unknown(kind: str, name: object, valid: Iterable[str]) -> ValueError:
    """A ValueError that names what was given, the nearest valid name if one is near, and all valid ones."""
    valid = list(valid)
    near = difflib.get_close_matches(str(name).lower(), valid, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(repr(one) if " " in one else one for one in valid)
    return ValueError(f"unknown {kind} {name!r}: {hint}valid are {listed}")


def first_of(names: Sequence[str]) -> str:
    """The first of some names, and how many follow: ``'a'``, or ``'a' and 3 more``."""
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def in_python(name: str) -> str:
    """How Python gets at a part of a model: ``model[0].auto_model`` for ``0.auto_model``."""
    return "model" + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in name.split("."))


def expect(kind: type, value: object, what: str) -> None:
    """Raise TypeError, which says what was expected, if a value is of another kind."""
    if not isinstance(value, kind):
        raise TypeError(f"expected {what}, got {type(value).__name__} {value!r:.80}")


def warn(message: str) -> None:
    """Warn at the caller's line: the latest one outside of this package and of the libraries that it is called by."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
