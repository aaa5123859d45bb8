"""Check of exercise 9.1: one sentence that says no more than the runs do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from prilora_lite.teaching.exercises.checking import Answer, check
from prilora_lite.teaching.exercises.reading import WrongAnswer, shown
from prilora_lite.teaching.exercises.results import NONE


def _sentence(task: str, mean: float, low: float, high: float, seeds: int, says: str) -> str:
    return f"on {task}: {mean:+.1f} ({low:.1f} to {high:.1f}), {seeds} seeds: {says}"


def _says(low: float, high: float) -> str:
    return "first" if low > 0 else "second" if high < 0 else NONE


def _verdict(text: Any, task: str, mean: float, low: float, high: float, seeds: int) -> str:
    """The verdict of a sentence, once all other parts are seen to be in it."""
    if not isinstance(text, str):
        raise WrongAnswer(f"A text is expected; got {shown(text)}.")
    if task not in text:
        raise WrongAnswer(f"The task, {task!r}, is missing in {shown(text)}.")
    plain = text.replace(task, "").replace("\u2212", "-")  # a typographer's minus
    found = re.findall(r"(?:(?<!\d)[+-]+)?\d+(?:\.\d+)?", plain)  # in 0.5-1.3 it is a dash
    longer = [number for number in found if re.search(r"\.\d\d", number)]
    if longer:
        raise WrongAnswer(f"One digit after the point is asked for; {longer[0]} has more, in {shown(text)}.")
    if f"{mean:+.1f}" not in found:
        signless = f"{mean:.1f}".lstrip("-") in [number.lstrip("-") for number in found]
        what = "The mean has no sign, or the wrong one," if signless else f"The mean, {mean:+.1f}, is missing"
        raise WrongAnswer(f"{what} in {shown(text)}.")
    ends = [number.removeprefix("+") for number in found[found.index(f"{mean:+.1f}") + 1 :]]
    for name, end in (("lower", low), ("upper", high)):
        if f"{end:.1f}" not in ends:
            raise WrongAnswer(f"The {name} end of the interval, {end:.1f}, is missing after the mean in {shown(text)}.")
    if ends.index(f"{low:.1f}") > ends.index(f"{high:.1f}"):
        raise WrongAnswer(f"The lower end of the interval comes first; you have the upper one first in {shown(text)}.")
    if not re.search(rf"(?<![\w.]){seeds} seeds\b", text):
        raise WrongAnswer(f"The number of seeds, written as '{seeds} seeds', is missing in {shown(text)}.")
    end = text.strip(" .\n").rpartition(": ")[2].strip()
    if end in ("first", "second", NONE):
        return end
    raise WrongAnswer(
        f"The sentence ends in a colon and the verdict of exercise 2.2, word for word: first, second or {NONE}. "
        f"Yours ends in {shown(end)}."
    )


def _saying(says: Callable[[float, float, float], str]) -> Answer:
    """A sentence that is complete, with a verdict from mean and both ends."""
    return lambda task, mean, low, high, seeds: _sentence(task, mean, low, high, seeds, says(mean, low, high))


@check(
    cases=(
        ("rte", 1.24, -0.8, 3.3, 5), ("cola", 2.0, 0.4, 3.6, 8), ("sst2", -1.5, -2.5, -0.5, 3),
        ("qnli", -0.3, -2.0, 1.4, 5), ("mrpc", 1.0, 0.0, 2.0, 15), ("stsb", -0.6, -1.2, 0.0, 12),
        ("mnli", 0.54, 0.04, 1.04, 40),
    ),
    hint="The verdict depends on where zero lies: below the interval, above it, or in it, its ends included.",
    reads=_verdict,
    slips={
        "Where an end of the interval is exactly zero, the interval reaches zero: no difference shown.": (
            _saying(lambda mean, low, high: NONE if low < 0 < high else "first" if mean > 0 else "second"),
            _saying(lambda mean, low, high: "first" if low >= 0 else "second" if high <= 0 else NONE),
            _saying(lambda mean, low, high: "first" if low >= 0 else "second" if high < 0 else NONE),
            _saying(lambda mean, low, high: "first" if low > 0 else "second" if high <= 0 else NONE),
        ),
        "You look at the sign of the mean alone; does the interval reach zero?": _saying(
            lambda mean, low, high: "first" if mean > 0 else "second"
        ),
        "Your verdict is the wrong way round: the mean is first minus second.": _saying(
            lambda mean, low, high: "second" if low > 0 else "first" if high < 0 else NONE
        ),
        "The wrong way round: zero outside the interval shows a difference, inside it none.": _saying(
            lambda mean, low, high: NONE if low > 0 or high < 0 else "first" if mean > 0 else "second"
        ),
        "An interval below zero shows a difference as well: the second is better then.": _saying(
            lambda mean, low, high: "first" if low > 0 else NONE
        ),
        "An interval above zero shows a difference as well: the first is better then.": _saying(
            lambda mean, low, high: "second" if high < 0 else NONE
        ),
        "Below zero it is the second that is better.": _saying(
            lambda mean, low, high: "first" if low > 0 or high < 0 else NONE
        ),
        "That the first was not shown to be better does not say that the second is.": _saying(
            lambda mean, low, high: "first" if low > 0 else "second"
        ),
        "You rounded before you decided: 0.04 is printed as 0.0, but lies above zero.": _saying(
            lambda mean, low, high: _says(round(low, 1), round(high, 1))
        ),
        "You say the same whatever the interval is.": (
            _saying(lambda mean, low, high: NONE),
            _saying(lambda mean, low, high: "first"),
            _saying(lambda mean, low, high: "second"),
        ),
    },
)  # fmt: skip
def report_sentence(task: str, mean: float, low: float, high: float, seeds: int) -> str:
    """09: one sentence that says no more than the runs do."""
    return _sentence(task, mean, low, high, seeds, _says(low, high))
