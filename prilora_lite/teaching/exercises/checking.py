"""How an answer is checked: it is asked some questions, and what comes back is compared with the truth.

Where they differ, the answer is also compared with slips: functions that are wrong in a way that is known, each with
the sentence that helps. So a check is a true function, some questions, and a table of slips.
"""

from __future__ import annotations

import copy
import functools
import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prilora_lite.teaching.exercises import pieces
from prilora_lite.teaching.exercises.reading import (
    LONG,
    SHORT,
    WrongAnswer,
    agree,
    is_rounded,
    is_shown,
    numbers,
    shown,
    shown_call,
    shown_difference,
    unchanged,
)

Answer = Callable[..., Any]
Slips = dict[str, Answer | tuple[Answer, ...]]

# A part of an error's text, and where to look.
ADVICE = {
    "cannot be multiplied": "Write the shapes of the two factors side by side: the inner two numbers must be equal.",
    "must match": "The shapes of the two sides don't fit: print both before that line.",
    "broadcast": "The shapes of the two sides don't fit: print both before that line.",
    "equal size": "Tensors of different shapes can't be stacked; what do you want to join, and along which axis?",
    "is not defined": "Is this name imported in the notebook, and spelled as in the stub?",
    "positional argument": "Keep the arguments of the stub, in their order.",
    "is ambiguous": "A tensor of several numbers is neither true nor false: ask what you mean to ask.",
    "'list'": "Lists can't be subtracted or multiplied entry by entry: make arrays of them, or go through them.",
    "NoneType": "Something is None in that line: which of your values is None at first?",
    "leaf Variable": "A weight that is trained can't be written over directly: go through its .data.",
    "does not require grad": "No gradient can be computed: was what led there kept from torch by no_grad or detach?",
    "ZeroDivisionError": "Look at what you divide by: when is it 0?",
    "out of range": "An index is too large there: places are counted from 0.",
    "must be integers": "A slice counts in whole numbers: make its ends int.",
    "has no attribute": "Print the type of that object: it is not the kind of thing you take it for.",
}


class NotWritten(Exception):
    """A stub was called; its argument is the stub's name."""


@dataclass(frozen=True)
class Outcome:
    """What came of one question.

    Attributes:
        value: what came back, in a form that can be compared; None if there is a fault.
        fault: why nothing can be compared, as a sentence; or the error, in short.
        line: the line of the answer that raised the error; None if there was no error.
    """

    value: np.ndarray | str | None = None
    fault: str = ""
    line: str | None = None

    def like(self, other: Outcome) -> bool:
        """Whether two outcomes are the same: the same fault, or equal values."""
        if self.fault or other.fault:
            return self.fault == other.fault
        return agree(self.value, other.value)


def _call(answer: Answer, *arguments: Any) -> Any:
    return answer(*arguments)


@dataclass(frozen=True)
class Exercise:
    """One check: the truth, the questions, and what may go wrong.

    Attributes:
        truth: the right function.
        cases: arguments of one call each, chosen so that likely mistakes do not pass by chance.
        hint: where to look if no slip fits; never the solution.
        slips: sentence -> a function that makes this mistake, or several.
        reads: turns what came back into numbers or a text, given the arguments as well; raises
            :class:`~.reading.WrongAnswer` if it can't.
        asks: puts one case to an answer, for answers that are more than a function of it.
        compares: what is compared, for the message, where it is not what came back.
    """

    truth: Answer
    cases: Sequence[tuple]
    hint: str
    slips: Slips
    reads: Callable[..., np.ndarray | str] = numbers
    asks: Callable[..., Any] = _call
    compares: str = ""

    @functools.cached_property
    def names(self) -> list[str]:
        """What the arguments of a case are called."""
        if self.asks is _call:
            return list(inspect.signature(self.truth).parameters)
        return list(inspect.signature(self.asks).parameters)[1:]  # the first is the answer

    def outcome(self, answer: Answer, case: tuple) -> Outcome:
        """Ask one question, with copies of its arguments; see that they are left as they were.

        Raises:
            NotWritten: the answer, or a function that it calls, is a stub.
        """
        given = copy.deepcopy(case)
        try:
            value = self.asks(answer, *given)
        except Exception as error:
            if isinstance(error, NotImplementedError) and not error.args:  # with a text it is torch's own
                raise NotWritten(traceback.extract_tb(error.__traceback__)[-1].name) from None
            return Outcome(fault=_in_short(error), line=_line_of(answer, error))
        for name, before, after in zip(self.names, case, given, strict=True):
            if not unchanged(before, after):
                return Outcome(fault=f"Your function changes {name}, which belongs to the caller. {_instead(before)}")
        try:
            return Outcome(value=self.reads(value, *given))
        except WrongAnswer as wrong:
            return Outcome(fault=str(wrong))
        except Exception as error:  # of an object that is stranger than the reading foresees
            return Outcome(fault=f"What came back can't be used: {_in_short(error)}.")

    def verdict(self, answer: Answer) -> str:
        """What is wrong with an answer, or nothing."""
        right = [self.outcome(self.truth, case) for case in self.cases]
        given = [self.outcome(answer, case) for case in self.cases]
        wrong = [not mine.like(true) for mine, true in zip(given, right, strict=True)]
        if not any(wrong):
            return ""
        place = wrong.index(True)
        sentence, fits = self._slip(given, place)
        if fits < len(given):  # not the whole story: a slip need not agree everywhere, but other reasons come first
            perhaps = sentence and f"Perhaps this is why: {sentence}"
            sentence = self._constant(given, right) or perhaps or self._other(given[place], right[place])
        return f"{sentence}\n{self._evidence(self.cases[place], given[place], right[place])}"

    def alone(self, answer: Answer) -> str:
        """The verdict, whatever the notebook has set or drawn; the answer leaves no trace there.

        Raises:
            NotWritten: the answer, or a function that it calls, is a stub.
        """
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            return self.verdict(answer)

    def problem(self, answer: Answer) -> str:
        """The verdict in a few words; an error, which says more than advice, where the first question raises one."""
        wrong = self.alone(answer)
        return wrong and (self.outcome(answer, self.cases[0]).fault or wrong.splitlines()[0])

    def _slip(self, given: list[Outcome], place: int) -> tuple[str, int]:
        """The sentence of the slip that fits best, and in how many cases it gives what was given.

        It must do so where the answer first went wrong, and in most of the cases: one alone may be chance.
        """
        found, most = "", 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 0 / 0 in a slip of ours is no concern of the learner's
            for sentence, slip in self.each_slip():
                if not self.outcome(slip, self.cases[place]).like(given[place]):
                    continue
                like = sum(self.outcome(slip, case).like(one) for case, one in zip(self.cases, given, strict=True))
                if 2 * like > len(given) and like > most:
                    found, most = sentence, like
        return found, most

    def each_slip(self) -> Iterator[tuple[str, Answer]]:
        """Each sentence with each function that makes its mistake."""
        for sentence, slips in self.slips.items():
            for slip in slips if isinstance(slips, tuple) else (slips,):
                yield sentence, slip

    def _constant(self, given: list[Outcome], right: list[Outcome]) -> str:
        """What to say of an answer that never changes where it should, or nothing."""
        first = given[0]
        if first.fault or not all(one.like(first) for one in given) or all(one.like(right[0]) for one in right):
            return ""
        return f"Your answer is the same whatever is asked: how does it depend on {_listed(self.names)}?"

    def _other(self, mine: Outcome, true: Outcome) -> str:
        """What to say of an answer that no slip gives."""
        if mine.line is not None:
            return next((advice for part, advice in ADVICE.items() if part in mine.fault), self.hint)
        if mine.fault:
            return mine.fault
        if is_rounded(mine.value, true.value):
            return "Your result is right, but rounded: return it as it is."
        if isinstance(mine.value, np.ndarray) and np.isnan(mine.value).any():
            return f"There is NaN, no number, in your result: 0 / 0 gives it, and so does 0 times it. {self.hint}"
        return self.hint

    def _evidence(self, case: tuple, mine: Outcome, true: Outcome) -> str:
        most = LONG if mine.line is None else SHORT  # of an error the shapes say more than the numbers
        question = shown_call(self.truth.__name__, dict(zip(self.names, case, strict=True)), most)
        if mine.line is not None:
            return f"{question} stopped with {mine.fault}" + (f", in the line `{mine.line}`." if mine.line else ".")
        if mine.fault:
            return f"This was asked: {question}."
        what = f"of {self.compares}, " if self.compares else ""
        return f"{question}: {what}{shown_difference(mine.value, true.value)}.{self._where(case)}"

    def _where(self, case: tuple) -> str:
        """Where the arguments of a question can be found that are too long to be shown."""
        if all(is_shown(argument) for argument in case):
            return ""
        place = next(place for place, other in enumerate(self.cases) if other is case)
        return f" What was asked is exercises.{self.truth.__name__}.exercise.cases[{place}]."


def check(
    *,
    cases: Sequence[tuple],
    hint: str,
    slips: Slips,
    reads: Callable[..., np.ndarray | str] = numbers,
    asks: Callable[..., Any] = _call,
    compares: str = "",
    piece: bool = False,
) -> Callable[[Answer], Callable[[Answer], Answer | None]]:
    """Make a check out of a right function, see :class:`Exercise` for what it takes.

    The check prints "well done", or "not written yet" for a stub that still raises NotImplementedError; it raises
    :class:`~.reading.WrongAnswer` for a wrong answer. With ``piece`` the pages that follow are built on the answer:
    the check keeps it in a file (:mod:`.pieces`) and gives back the function to go on with, the learner's if it is
    written, and ours until then.
    """

    def decorate(truth: Answer) -> Callable[[Answer], Answer | None]:
        exercise = Exercise(truth, cases, hint, slips, reads, asks, compares)
        call = f"exercises.{truth.__name__}({truth.__name__})"

        def checked(answer: Answer) -> Answer | None:
            if not callable(answer):
                raise WrongAnswer(f"The check needs the function itself, not {shown(answer)}: write {call}.")
            name = getattr(answer, "__name__", "your answer")
            if piece and answer is truth:  # the check of a stub gave it back
                print(f"{name}: that is ours. To check yours, run the cell that defines it, then this one.")
                return truth
            try:
                wrong = exercise.alone(answer)
            except NotWritten as stub:
                inner = "" if str(stub) == name or name == "your answer" else f"{stub}, which it calls, is "
                print(f"{name}: {inner}not written yet" + ", so this page goes on with ours" * piece)
                return truth if piece else None
            if wrong:
                raise WrongAnswer(wrong)
            print(f"{name}: well done" + (pieces.keep(truth.__name__, answer, exercise.problem) if piece else ""))
            return answer if piece else None

        # Not by functools.wraps: a check is a function of an answer, not of the answer's arguments
        checked.__name__ = checked.__qualname__ = truth.__name__
        checked.__module__, checked.__doc__, checked.exercise = truth.__module__, truth.__doc__, exercise
        return checked

    return decorate


def _instead(given: Any) -> str:
    """What to do instead of writing into what was given."""
    if torch.is_tensor(given):
        return (
            "Compute a new tensor: +=, an index on the left, and methods whose names end in _ write into the old one."
        )
    return "Leave it as it is, and work on a copy."


def _in_short(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    first = str(error).strip().split("\n")[0]
    first = first if len(first) <= 120 else first[:117] + "..."
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _line_of(answer: Answer, error: Exception) -> str:
    """The line of the answer that raised, or nothing if its source is not known."""
    code = getattr(answer, "__code__", None)
    lines = [
        frame.line or ""
        for frame in traceback.extract_tb(error.__traceback__)
        if code and (frame.filename, frame.name) == (code.co_filename, code.co_name)
    ]
    line = lines[-1] if lines else ""
    return line if len(line) <= 100 else line[:97] + "..."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
