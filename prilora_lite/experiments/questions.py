"""Questions that are written down before their runs: what a file of them says.

A file of questions (``results/questions.toml``) names arms, which are configurations, and questions, each of which is
one contrast of arms; it may also describe a task of one's own, and say where the rows are. :mod:`~.learning_rates`
chooses the learning rate of each arm on a part of the training rows, :mod:`~.answers` makes the runs that are missing
and turns all of them into one row for each question.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.methods import METHODS, Method
from prilora_lite.experiments.presets import Settings
from prilora_lite.experiments.study_options import beside, own_task, read_toml
from prilora_lite.experiments.tasks import Task, get_task
from prilora_lite.shared.checks import is_number, is_seed
from prilora_lite.shared.errors import unknown
from prilora_lite.shared.files import given_path

RATE_RULES = ("safe", "best")  # see learning_rates.choose_rate
_KEYS = {  # of a file: how TOML reads each, and what that is in words
    "arms": (dict, "a table [arms]"),
    "question": (list, "one or more tables, each under [[question]] in two brackets"),
    "task": (dict, "a table [task]"),
    "rows": (str, "the name of a folder"),
    "picture": (dict, "tables [picture.HEADING], in each lines of QUESTION = LABEL"),
}


@dataclass(frozen=True)
class Question:
    """One contrast, written down before its runs.

    Attributes:
        name: what the files call it.
        asks, why: the question, and why it matters, in a sentence each.
        contrast: the contrast in words.
        plus, minus: names of arms; the contrast is the mean of the first minus the mean of the second.
        tasks: the mean over these is compared.
        seeds: one pair for each.
        margin: the largest difference that counts as none, in percentage points.
        encoder, settings: what the arms are trained with, beside their learning rates.
        rates: how each arm's learning rate is chosen, one of :data:`RATE_RULES`.
        rate_of: the arm whose learning rate all arms are given; None: each has its own.
        rate_settings: what the runs that choose the rates have in place of ``settings``, to be shorter.
    """

    name: str
    asks: str
    why: str
    contrast: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    tasks: tuple[str | Task, ...]
    seeds: tuple[int, ...]
    margin: float
    encoder: str = "pocket"
    settings: tuple[tuple[str, float], ...] = ()
    rates: str = "safe"
    rate_of: str | None = None
    rate_settings: tuple[tuple[str, float], ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.plus + self.minus))

    def overrides(self, rate: float, tuning: bool = False) -> dict[str, float]:
        """What departs from the preset's settings, in the runs that are reported or in those that choose the rates."""
        return dict(self.settings) | (dict(self.rate_settings) if tuning else {}) | {"learning_rate": rate}


@dataclass(frozen=True)
class Questions:
    """A file of questions: arms by name, questions, where their runs are kept, and the rows' folder if it is named.

    The picture is a choice of answers: heading -> name of a question -> what it is called there.
    """

    arms: dict[str, Method]
    questions: tuple[Question, ...]
    runs: Path
    rates: Path
    rows: str | None = None
    picture: dict[str, dict[str, str]] = field(default_factory=dict)

    def rate_arms(self, question: Question) -> tuple[str, ...]:
        """The arms whose learning rates have to be chosen for a question."""
        return question.arms if question.rate_of is None else (question.rate_of,)


def read_questions(file: str | Path) -> Questions:
    """Read a file of questions. Its runs are kept beside it, in ``NAME.jsonl`` and ``NAME_rates.jsonl``.

    Raises:
        OSError: no such file.
        ValueError: not TOML, an unknown key or arm, a missing key, or a value out of range.
    """
    file = given_path(file)
    content = read_toml(file, "questions are described")
    if "question" not in content and {"methods", "tasks", "seeds"} & content.keys():
        runs = file.with_suffix(".jsonl")
        raise ValueError(
            f"{file} has no questions, it describes a study: prilora-lite ablate {file} makes its runs, and "
            f"prilora-lite report {runs} reports them"
        )
    for key in content:
        if key not in _KEYS:
            raise unknown(f"key in {file}:", key, _KEYS)
    for key, (kind, expected) in _KEYS.items():
        given = content.get(key, kind())
        right = isinstance(given, kind)
        if key == "question":
            right = right and bool(given) and all(isinstance(question, dict) for question in given)
        if not right:
            raise ValueError(f"{file}: {key} must be {expected}, got {content.get(key, 'nothing')!r:.80}")
    try:
        own = [own_task(content["task"])] if "task" in content else []
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    arms = {name: _arm(name, given, file) for name, given in content.get("arms", {}).items()}
    questions = tuple(_question(given, arms, own, file) for given in content["question"])
    names = [question.name for question in questions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file}: two questions are called {twice[0]!r}")
    rows = beside(file, content["rows"]) if "rows" in content else None
    picture = _picture(content.get("picture", {}), names, file)
    rates = file.with_name(f"{file.stem}_rates.jsonl")
    return Questions(arms, questions, file.with_suffix(".jsonl"), rates, rows, picture)


def _picture(given: dict[str, Any], names: list[str], file: Path) -> dict[str, dict[str, str]]:
    for heading, chosen in given.items():
        if not (isinstance(chosen, dict) and all(isinstance(label, str) for label in chosen.values())):
            raise ValueError(f"{file}: [picture.{heading!r}] must have lines of QUESTION = LABEL, got {chosen!r:.80}")
        for name in chosen:
            if name not in names:
                raise unknown(f"question in {file}, picture {heading!r}:", name, names)
    return given


def _arm(name: str, given: Any, file: Path) -> Method:
    if isinstance(given, str):
        if given not in METHODS:
            raise unknown(f"method in {file}, arm {name}:", given, METHODS)
        return replace(METHODS[given], name=name)
    try:
        return Method(name, PRILoRAConfig.from_dict(given), name)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}, arm {name}: {error}") from error


def _effect(arm: Method) -> Any:
    """Equal for arms that train alike."""
    trains = arm.trains if isinstance(arm.trains, str) else arm.trains.canonical()
    return trains, arm.alpha_share


def _question(given: dict[str, Any], arms: dict[str, Method], own: list[Task], file: Path) -> Question:
    allowed = {field.name: field.default is MISSING for field in fields(Question)}
    for key in given:
        if key not in allowed:
            raise unknown(f"key in {file}:", key, list(allowed))
    name = given.get("name", "?")
    missing = [key for key, needed in allowed.items() if needed and key not in given]
    if missing:
        raise ValueError(f"{file}: question {name!r} lacks {', '.join(missing)}")

    def check(key: str, good: bool, expected: str) -> None:
        if not good:
            raise ValueError(f"{file}, question {name!r}: {key} must be {expected}, got {given[key]!r}")

    for key in ("name", "asks", "why", "contrast", "encoder", "rate_of"):
        check(key, isinstance(given.get(key, ""), str), "a text")
    for key in ("plus", "minus", "tasks"):
        several = isinstance(given[key], list) and given[key] and all(isinstance(word, str) for word in given[key])
        check(key, bool(several), "a list of names")
    for key in ("settings", "rate_settings"):
        check(key, isinstance(given.get(key, {}), dict), "a table of settings")
    check("margin", is_number(given["margin"]) and given["margin"] > 0, "a number above 0")
    seeds = given["seeds"]
    whole = isinstance(seeds, dict) and set(seeds) == {"first", "count"} and all(type(n) is int for n in seeds.values())
    inside = whole and seeds["first"] >= 0 and seeds["count"] >= 2 and is_seed(seeds["first"] + seeds["count"] - 1)
    check("seeds", inside, "{ first = NUMBER, count = 2 or more }, all at least 0 and below 2**32")

    if (rule := given.get("rates", "safe")) not in RATE_RULES:
        raise unknown(f"rule for rates in {file}, question {name!r}:", rule, RATE_RULES)
    for arm in [*given["plus"], *given["minus"], *([given["rate_of"]] if "rate_of" in given else [])]:
        if arm not in arms:
            raise unknown(f"arm in {file}, question {name!r}:", arm, arms)
    by_name = {task.name: task for task in own}
    tasks = tuple(by_name.get(name) or get_task(name).name for name in given["tasks"])
    known = [field.name for field in fields(Settings) if field.name != "learning_rate"]
    for key in ("settings", "rate_settings"):
        for setting in given.get(key, {}):
            if setting not in known:
                raise unknown(f"setting in {file}, question {name!r}:", setting, known)
        try:
            Settings(**given.get(key, {}))
        except ValueError as error:
            raise ValueError(f"{file}, question {name!r}: {error}") from error
    for key in ("plus", "minus", "tasks"):
        check(key, len(set(given[key])) == len(given[key]), "names that are all different")
    plus, minus = ({_effect(arms[arm]) for arm in given[side]} for side in ("plus", "minus"))
    if plus == minus:
        raise ValueError(
            f"{file}, question {name!r}: plus and minus are the same, so there is nothing to compare: "
            f"{', '.join(given['plus'])} and {', '.join(given['minus'])}"
        )
    if both := set(given["plus"]) & set(given["minus"]):
        raise ValueError(
            f"{file}, question {name!r}: {', '.join(sorted(both))} stands in plus and in minus: leave it out"
        )
    lists = {key: tuple(given[key]) for key in ("plus", "minus")} | {"tasks": tasks}
    encoder = {"encoder": beside(file, given.get("encoder", "pocket"))}
    tables = {key: tuple(given.get(key, {}).items()) for key in ("settings", "rate_settings")}
    return Question(
        **given | lists | tables | encoder | {"seeds": tuple(range(seeds["first"], seeds["first"] + seeds["count"]))}
    )
