"""A name for whatever can be called, by which a later run knows whether it has the same: no dependencies."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_DEEPEST = 8  # of values inside values; a function may hold itself


def callable_name(function: Callable[..., Any]) -> str:
    """The name of a function, and a digest that tells it from others that are called so, as all lambdas are.

    The digest is of its code and of the plain values in it: defaults, what it encloses, a partial's arguments, an
    object's attributes. It is the same in every process, of one version of Python.
    """
    named, told = function, function
    while isinstance(named, functools.partial):
        named = named.func
    if not hasattr(named, "__qualname__"):  # an object that can be called
        named = type(named)
    if not isinstance(function, (FunctionType, MethodType, BuiltinFunctionType, functools.partial)):
        told = type(function).__call__, getattr(function, "__dict__", None)
    digest = hashlib.sha256(_told(told).encode()).hexdigest()[:16]
    return f"{named.__qualname__} ({sys.implementation.cache_tag} {digest})"


def is_ours(function: Callable[..., Any]) -> bool:
    """Whether a function is this package's own."""
    return (getattr(function, "__module__", None) or "").startswith("prilora_lite.")


def _told(value: object, depth: int = 0) -> str:
    """What tells a value from others in every process: nothing with an address or a random order in it."""
    kind = type(value).__qualname__
    if isinstance(value, _PLAIN):
        return repr(value)
    if depth > _DEEPEST:
        return kind
    if isinstance(value, (set, frozenset)):
        return f"{kind}({sorted(_told(part, depth + 1) for part in value)})"
    return f"{kind}({[_told(part, depth + 1) for part in _parts(value)]})"


def _parts(value: object) -> tuple[object, ...] | list[object]:
    """What a value consists of, as far as that decides what a function computes."""
    if isinstance(value, (tuple, list)):
        return value
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, CodeType):
        parameters = value.co_varnames[: value.co_argcount + value.co_kwonlyargcount]
        return value.co_code, value.co_names, parameters, value.co_consts
    if isinstance(value, FunctionType):
        enclosed = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]  # some are empty yet
        constants = tuple(None if part is value.__doc__ else part for part in value.__code__.co_consts)
        return value.__code__.replace(co_consts=constants), value.__defaults__, value.__kwdefaults__, enclosed
    if isinstance(value, MethodType):
        return value.__func__, getattr(value.__self__, "__dict__", None)
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    return ()
