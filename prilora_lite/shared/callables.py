"""A name for whatever can be called, by which a later run knows whether it has the same: no dependencies."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_DEEPEST = 8  # of values inside values; a function may hold itself


def callable_name(function: Callable[..., Any]) -> str:
    """The name of a function, and a digest that tells it from others that are called so, as all lambdas are.

    The digest is of its code and of what that code uses: plain values, tensors, and other functions of the same
    package, be they defaults, enclosed, global, a partial's arguments, or members of an object or of its class. It is
    the same in every process, of one version of Python.
    """
    named, told = function, function
    while isinstance(named, functools.partial):
        named = named.func
    if not hasattr(named, "__qualname__"):  # an object that can be called
        named = type(named)
    if not isinstance(function, (FunctionType, MethodType, BuiltinFunctionType, functools.partial)):
        told = _of_object(function)
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
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # a tensor, or an array
        return f"{kind}({value.dtype}, {value.tolist()})"
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
        told = value.__code__.replace(co_consts=constants), value.__defaults__, value.__kwdefaults__, enclosed
        return told + tuple(_used_globals(value).items())
    if isinstance(value, MethodType):
        return value.__func__, *_of_object(value.__self__)
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    return ()


def _of_object(value: object) -> tuple[object, ...]:
    """What an object, or a class, is told from others by: its attributes, and what its classes define."""
    kind = value if isinstance(value, type) else type(value)
    members: dict[str, object] = {}
    for each in reversed(kind.__mro__):
        if _package(each) == _package(kind):
            members |= {n: m for n, m in vars(each).items() if n == "__call__" or not n.startswith("__")}
    slots = [name for name, member in members.items() if isinstance(member, MemberDescriptorType)]
    own = {name: getattr(value, name, None) for name in slots}
    if not isinstance(value, type):
        own |= getattr(value, "__dict__", {})
    return {name: member for name, member in members.items() if name not in slots}, own


def _used_globals(function: FunctionType) -> dict[str, object]:
    """The globals that a function reads, by name: values, and functions of its own package; not modules or classes."""
    used: dict[str, object] = {}
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        names = [step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"]
        for name in [name for name in names if name in function.__globals__]:  # the others are Python's own
            value = function.__globals__[name]
            foreign = isinstance(value, FunctionType) and _package(value) != _package(function)
            if value is not function and not foreign and not isinstance(value, (type, ModuleType)):
                used[name] = value
    return used


def _package(value: object) -> str:
    """The package, or the script, that a function or a class is from."""
    return (getattr(value, "__module__", None) or "").partition(".")[0]
