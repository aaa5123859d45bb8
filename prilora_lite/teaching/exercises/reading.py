"""What came back from an answer: read as numbers, compared, and shown in short."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

SHORT, LONG = (
    12,
    30,
)  # entries that a message still shows: of a result or behind an error, and of arguments to reckon with


class WrongAnswer(AssertionError):
    """What is wrong with an answer and where to look; a notebook shows this text alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # the name that IPython looks for
        return [str(self)]


def numbers(value: Any, *_: Any) -> np.ndarray:
    """Numbers or truth values as an array.

    Raises:
        WrongAnswer: None, or something else that is no number, such as a complex number or a text.
    """
    if value is None:
        raise WrongAnswer("Nothing came back, only None: is there a return?")
    try:
        array = _array(value)
    except Exception:  # whatever the learner's object raises when it is read
        array = None
    if array is None or array.dtype.kind not in "biuf":
        wanted = " Make a list of it." if hasattr(value, "__next__") else ""
        raise WrongAnswer(f"What came back is not made of numbers alone: {shown(value)}.{wanted}")
    return array


def tensor(value: Any, *arguments: Any) -> np.ndarray:
    """Numbers of a tensor, for a piece that later pages build on.

    Raises:
        WrongAnswer: no tensor, none of real numbers, or one less precise than the arguments.
    """
    array = numbers(value)
    if not torch.is_tensor(value):
        raise WrongAnswer(f"Return a torch tensor; what came back is of type {type(value).__name__}.")
    given = next((x.dtype for x in arguments if torch.is_tensor(x) and x.is_floating_point()), value.dtype)
    if value.is_floating_point() and torch.promote_types(value.dtype, given) != value.dtype:
        raise WrongAnswer(f"What was given is of type {given}, and your result of {value.dtype}: leave the type alone.")
    return array


def whole_numbers(value: Any, *_: Any) -> np.ndarray:
    """Ranks as an array.

    Raises:
        WrongAnswer: no list, or something else than whole numbers in it.
    """
    array = numbers(value)
    if not isinstance(value, (list, tuple)):
        raise WrongAnswer(f"Return a list of ranks; what came back is of type {type(value).__name__}.")
    for rank in value:
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise WrongAnswer(
                f"A rank counts directions, so it has to be a whole number, an int. In yours, {shown(value)}, "
                f"{shown(rank)} is of type {type(rank).__name__}."
            )
    return array


def _array(value: Any) -> np.ndarray:
    if torch.is_tensor(value):
        return _from_tensor(value)
    if isinstance(value, (list, tuple)):
        value = [_from_tensor(entry) if torch.is_tensor(entry) else entry for entry in value]
    array = np.asarray(value)
    if array.dtype == object and not any(entry is None or isinstance(entry, (str, bytes)) for entry in array.flat):
        array = array.astype(float)  # fractions, for one
    return array.copy()


def _from_tensor(value: torch.Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()


def agree(given: np.ndarray | str, expected: np.ndarray | str) -> bool:
    """Whether two values are the same: whole numbers exactly, others but for rounding."""
    if isinstance(given, str) or isinstance(expected, str):
        return isinstance(given, str) and isinstance(expected, str) and given == expected
    if given.shape != expected.shape or (given.dtype == bool) != (expected.dtype == bool):
        return False
    return bool(_close(given, expected).all())


def is_rounded(given: np.ndarray | str, expected: np.ndarray | str) -> bool:
    """Whether a result is the expected one with fewer decimals."""
    if isinstance(given, str) or isinstance(expected, str) or given.shape != expected.shape:
        return False
    if expected.dtype.kind != "f" or not given.any():  # nothing of the result is left in zeros
        return False
    return any(agree(given, np.round(expected, places)) for places in range(6))


def _close(given: np.ndarray, expected: np.ndarray) -> np.ndarray:
    first, second = given.astype(float), expected.astype(float)
    if expected.dtype.kind != "f":
        return first == second
    finite = np.abs(second[np.isfinite(second)])
    rounding = 1e-6 * finite.max() if finite.size else 0.0
    return np.isclose(first, second, rtol=1e-5, atol=1e-12 + rounding, equal_nan=True)


def unchanged(before: Any, after: Any) -> bool:
    """Whether something that was handed over is still what it was."""
    if isinstance(before, torch.Tensor):
        same = (before.shape, before.dtype, before.requires_grad) == (after.shape, after.dtype, after.requires_grad)
        return same and np.array_equal(_from_tensor(before), _from_tensor(after), equal_nan=True)
    if isinstance(before, torch.nn.Module):
        first, second = before.state_dict(), after.state_dict()
        return str(before) == str(after) and all(unchanged(first[key], second[key]) for key in first)
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(unchanged, before, after))
    return type(before) is type(after) and before == after


def shown(value: Any) -> str:
    """An object in short, on one line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever the learner's object raises when it is printed
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def shown_call(name: str, arguments: dict[str, Any], most: int) -> str:
    """A call with its arguments; if its tensors have more entries than ``most``, with their shapes."""
    entries = sum(value.numel() for value in arguments.values() if torch.is_tensor(value))
    shown = [_argument(name, value, short=entries <= most) for name, value in arguments.items()]
    return f"{name}({', '.join(shown)})"


def _argument(name: str, value: Any, short: bool) -> str:
    if torch.is_tensor(value):
        return f"{name}={_text(_from_tensor(value).tolist())}" if short else f"{name} of shape {tuple(value.shape)}"
    return f"{name}={value!r}" if is_shown(value) else name


def is_shown(argument: Any) -> bool:
    """Whether :func:`shown_call` shows an argument, or a tensor's shape."""
    plain = argument if isinstance(argument, list) else [argument]
    return torch.is_tensor(argument) or all(isinstance(entry, (int, float, str, type(None))) for entry in plain)


def shown_difference(given: np.ndarray | str, expected: np.ndarray | str) -> str:
    """What was expected and what came back; of long arrays the first entry that differs."""
    if isinstance(given, str) or isinstance(expected, str):
        return f"expected {expected!r}, got {shown(given)}"
    if given.shape != expected.shape:
        return f"expected {_shape(expected)}, got {_shape(given)}"
    if (given.dtype == bool) != (expected.dtype == bool):
        kinds = ["True and False" if array.dtype == bool else "numbers" for array in (expected, given)]
        return f"expected {kinds[0]}, got {kinds[1]}"
    if expected.size <= SHORT:
        return f"expected {_text(expected.tolist())}, got {_text(given.tolist())}"
    place = tuple(int(index) for index in np.argwhere(~_close(given, expected))[0])
    return f"expected {_text(expected[place].item())} at {list(place)}, got {_text(given[place].item())}"


def _shape(array: np.ndarray) -> str:
    return f"the shape {array.shape}" if array.ndim else "a single number"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
