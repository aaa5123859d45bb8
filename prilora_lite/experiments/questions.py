"""The study's questions: written down before their runs, answered by one command from the raw runs.

A file of questions (``results/questions.toml``) names arms, which are configurations, and questions, each of which is
one contrast of arms. :func:`answer` tunes the learning rate of each arm on a part of the training rows, makes the runs
that are missing, and :func:`table` turns all of them into one row a question.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from prilora_lite.config import PRILoRAConfig, is_number
from prilora_lite.experiments import figures
from prilora_lite.experiments.comparison import Decision, decide
from prilora_lite.experiments.encoders import Settings
from prilora_lite.experiments.methods import METHODS, Method
from prilora_lite.experiments.study import Run, ablate, grid, read_runs, run_key, same_run, settle
from prilora_lite.experiments.tasks import get_task, load_rows
from prilora_lite.shared.errors import unknown
from prilora_lite.shared.files import write_whole

RATES = (1e-3, 2e-3, 4e-3)  # tried first for each arm; extended by factors of 2 while the best is the first or the last
RATE_SEEDS = (0, 1, 2)
LOWEST, HIGHEST = 1e-3 / 64, 4e-3 * 16  # no rates beyond these are tried
CLIFF = 0.2  # a rate is not chosen if doubling it loses more of the metric than this: training collapses there


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
        rate_of: the arm whose learning rate all arms are given; None: each has its own.
        rate_settings: what the runs that choose the rates have in place of ``settings``, to be shorter.
    """

    name: str
    asks: str
    why: str
    contrast: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    margin: float
    encoder: str = "pocket"
    settings: tuple[tuple[str, float], ...] = ()
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
    """A file of questions: the arms by name, the questions, and where their runs are kept."""

    arms: dict[str, Method]
    questions: tuple[Question, ...]
    runs: Path
    rates: Path

    def rate_arms(self, question: Question) -> tuple[str, ...]:
        """The arms whose learning rates have to be chosen for a question."""
        return question.arms if question.rate_of is None else (question.rate_of,)


def read_questions(file: str | Path) -> Questions:
    """Read a file of questions. Its runs are kept beside it, in ``NAME.jsonl`` and ``NAME_rates.jsonl``.

    Raises:
        OSError: no such file.
        ValueError: no TOML, a key or an arm that there is not, a key that is missing, or a value out of range.
    """
    file = Path(file)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no TOML: {error}") from error
    for key in content:
        if key not in ("arms", "question"):
            raise unknown(f"key in {file}:", key, ("arms", "question"))
    arms = {name: _arm(name, given, file) for name, given in content.get("arms", {}).items()}
    questions = tuple(_question(given, arms, file) for given in content.get("question", []))
    names = [question.name for question in questions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file}: two questions are called {twice[0]!r}")
    return Questions(arms, questions, file.with_suffix(".jsonl"), file.with_name(f"{file.stem}_rates.jsonl"))


def _arm(name: str, given: Any, file: Path) -> Method:
    if isinstance(given, str):
        if given not in METHODS:
            raise unknown(f"method in {file}, arm {name}:", given, METHODS)
        return replace(METHODS[given], name=name)
    try:
        config = PRILoRAConfig.from_dict(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}, arm {name}: {error}") from error
    return Method(name, config, name)


def _question(given: dict[str, Any], arms: dict[str, Method], file: Path) -> Question:
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
    check("seeds", whole and seeds["first"] >= 0 and seeds["count"] >= 2, "{ first = NUMBER, count = 2 or more }")

    for arm in [*given["plus"], *given["minus"], *([given["rate_of"]] if "rate_of" in given else [])]:
        if arm not in arms:
            raise unknown(f"arm in {file}, question {name!r}:", arm, arms)
    for task in given["tasks"]:
        get_task(task)
    known = [field.name for field in fields(Settings) if field.name != "learning_rate"]
    for setting in [*given.get("settings", {}), *given.get("rate_settings", {})]:
        if setting not in known:
            raise unknown(f"setting in {file}, question {name!r}:", setting, known)
    lists = {key: tuple(given[key]) for key in ("plus", "minus", "tasks")}
    tables = {key: tuple(given.get(key, {}).items()) for key in ("settings", "rate_settings")}
    return Question(**given | lists | tables | {"seeds": tuple(range(seeds["first"], seeds["first"] + seeds["count"]))})


def answer(
    questions: Questions,
    *,
    rows: str | Path | None = None,
    jobs: int = 1,
    names: Iterable[str] = (),
    tell: Callable[[str], None] = print,
) -> None:
    """Choose the learning rates and make the runs that the files do not hold yet.

    Args:
        questions: as :func:`read_questions` gives them.
        rows: folder of GLUE's rows, see :func:`~.tasks.load_rows`.
        jobs: runs at a time.
        names: of the questions to answer; default: all.
        tell: called with a line for each run.

    Raises:
        ValueError: no question of that name, a run that crashed, or what :func:`~.study.ablate` raises.
    """
    names, known = list(names), [question.name for question in questions.questions]
    for name in names:
        if name not in known:
            raise unknown("question", name, known)
    for question in questions.questions:
        if names and question.name not in names:
            continue
        tell(f"{question.name}: {question.asks}")
        for arm in questions.rate_arms(question):
            _tune(questions, question, arm, rows, jobs, tell)
        for arm in question.arms:
            rate, _ = chosen_rates(questions, question)[question.rate_of or arm]
            runs = grid([questions.arms[arm]], question.tasks, question.seeds)
            _make(runs, questions.runs, question, question.overrides(rate), rows, jobs, tell)


def _make(
    runs: list[Run],
    output: Path,
    question: Question,
    overrides: dict[str, Any],
    rows: Any,
    jobs: int,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    crashed: list[str] = []

    def announce(number: int, count: int, run: Run, record: dict[str, Any] | None) -> None:
        if record is not None and "error" in record:
            crashed.append(f"{run.task} {run.method.name}, seed {run.seed}: {record['error']}")

    records = ablate(
        runs, output, encoder=question.encoder, rows=rows, overrides=overrides, jobs=jobs, progress=False,
        on_run=announce,
    )  # fmt: skip
    if crashed:
        raise ValueError(
            f"{len(crashed)} runs crashed, the first: {crashed[0]}; {output} says how, and the same command tries again"
        )
    tell(
        f"  {runs[0].method.name}, " + ", ".join(f"{k} {v:g}" for k, v in overrides.items()) + f": {len(records)} runs"
    )
    return records


def _tune(
    questions: Questions, question: Question, arm: str, rows: Any, jobs: int, tell: Callable[[str], None]
) -> float:
    """Try learning rates for an arm until :func:`choose_rate` has one."""
    split = {task: training_split(load_rows(task, rows)["train"]) for task in question.tasks}
    runs = grid([questions.arms[arm]], question.tasks, RATE_SEEDS)
    means: dict[float, float] = {}
    rate, wanted = None, list(RATES)
    while rate is None:
        for value in wanted:
            records = _make(runs, questions.rates, question, question.overrides(value, tuning=True), split, jobs, tell)
            means[value] = float(np.mean([next(iter(record["metrics"].values())) for record in records]))
        rate, wanted = choose_rate(means)
    tell(f"  {arm}: learning rate {rate:g} of " + ", ".join(f"{r:g} ({100 * m:.1f})" for r, m in sorted(means.items())))
    return rate


def choose_rate(means: dict[float, float]) -> tuple[float | None, list[float]]:
    """The learning rate to use, or the rates that have to be tried first.

    The best rate, or the next lower one if doubling the best loses more than :data:`CLIFF`; its half and its double
    must have been tried. No rates outside of :data:`LOWEST` to :data:`HIGHEST` are tried.

    Args:
        means: rate -> mean of the metric, in [-1, 1]; rates that are factors of 2 apart.

    Returns:
        The rate and an empty list, or None and the next rates.
    """
    rates = sorted(means)
    place = max(range(len(rates)), key=lambda i: means[rates[i]])
    if place == len(rates) - 1 and rates[-1] < HIGHEST:
        return None, [2 * rates[-1]]
    if place < len(rates) - 1 and means[rates[place + 1]] < means[rates[place]] - CLIFF:
        place -= 1
    if place <= 0 and rates[0] > LOWEST:
        return None, [rates[0] / 2]
    return rates[max(0, place)], []


def training_split(rows: Dataset) -> dict[str, Dataset]:
    """Training rows in a fixed random order, four fifths to train on and one fifth to judge by."""
    rows = rows.shuffle(seed=0)
    cut = len(rows) * 4 // 5
    return {"train": rows.select(range(cut)), "validation": rows.select(range(cut, len(rows)))}


def chosen_rates(questions: Questions, question: Question) -> dict[str, tuple[float, dict[float, float]]]:
    """For each arm its learning rate, and the mean metric at every rate that was tried.

    Raises:
        LookupError: rates that have not been tried yet.
    """
    values = _values(questions.rates)
    tried = sorted({record["settings"]["learning_rate"] for record in read_runs(questions.rates)})
    chosen = {}
    for arm in questions.rate_arms(question):
        means = {}
        for rate in tried:
            keys = [
                _key(questions, question, arm, task, seed, question.overrides(rate, tuning=True))
                for task in question.tasks
                for seed in RATE_SEEDS
            ]
            if all(key in values for key in keys):
                means[rate] = float(np.mean([values[key] for key in keys]))
        rate = choose_rate(means)[0] if set(RATES) <= set(means) else None
        if rate is None:
            raise LookupError(f"question {question.name!r}: the learning rate of {arm} is not chosen yet")
        chosen[arm] = rate, means
    return chosen


def _values(file: Path) -> dict[str, float]:
    """The main metric of each run of a file, by all of its key but precision and rows."""
    values: dict[str, float] = {}
    for record in read_runs(file):
        key = same_run(record["key"][:5])
        if key in values:
            raise ValueError(
                f"{file} holds {record['task']}, seed {record['seed']} twice, on other rows or at another precision: "
                "keep one kind in a file"
            )
        values[key] = next(iter(record["metrics"].values()))
    return values


def _key(questions: Questions, question: Question, arm: str, task: str, seed: int, overrides: dict[str, float]) -> str:
    """The run of an arm in the setting of a question, as :func:`_values` has it."""
    settings, trains = settle(Run(questions.arms[arm], task, seed), question.encoder, overrides)
    return same_run(run_key(Run(questions.arms[arm], task, seed), question.encoder, settings, trains, "", "")[:5])


def differences(questions: Questions, question: Question) -> pd.Series:
    """The contrast for each seed that has all its runs, in percentage points; seeds that lack one are left out.

    Raises:
        LookupError: learning rates that have not been tried yet.
    """
    rates, values = chosen_rates(questions, question), _values(questions.runs)

    def mean(arms: tuple[str, ...], seed: int) -> float:
        keys = [
            _key(questions, question, arm, task, seed, question.overrides(rates[question.rate_of or arm][0]))
            for arm in arms
            for task in question.tasks
        ]
        return 100 * float(np.mean([values.get(key, np.nan) for key in keys]))

    by_seed = {seed: mean(question.plus, seed) - mean(question.minus, seed) for seed in question.seeds}
    return pd.Series(by_seed, dtype=float).dropna()


def decisions(questions: Questions) -> dict[str, Decision | None]:
    """Question -> what its runs say; None where seeds are missing still."""
    found: dict[str, Decision | None] = {}
    for question in questions.questions:
        try:
            d = differences(questions, question)
        except LookupError:
            d = ()
        found[question.name] = decide(d, question.margin) if len(d) == len(question.seeds) else None
    return found


def table(questions: Questions) -> pd.DataFrame:
    """One row for each question, in percentage points; ``verdict`` is "not run" until all its seeds are there."""
    rows, found = [], decisions(questions)
    for question in questions.questions:
        decision = found[question.name]
        settings = ", ".join([question.encoder, *(f"{name}={value:g}" for name, value in question.settings)])
        if decision is not None:
            rates = chosen_rates(questions, question)
            settings += "; learning rate " + ", ".join(f"{arm} {rate:g}" for arm, (rate, _) in rates.items())
        rows.append(
            {
                "question": question.name,
                "contrast": question.contrast,
                "tasks": " ".join(question.tasks),
                "seeds": len(question.seeds),
                "difference": np.nan if decision is None else round(decision.mean, 3),
                "low": np.nan if decision is None else round(decision.low, 3),
                "high": np.nan if decision is None else round(decision.high, 3),
                "margin": question.margin,
                "verdict": "not run" if decision is None else decision.verdict,
                "settings": settings,
            }
        )
    return pd.DataFrame(rows)


def report(questions: Questions) -> str:
    """Every question with its answer, for a terminal of 80 columns."""
    found, paragraphs = decisions(questions), []
    for question in questions.questions:
        decision = found[question.name]
        where = f"{' and '.join(question.tasks)}, {len(question.seeds)} seeds"
        if decision is None:
            said = f"{question.contrast}; {where}: not run yet"
        else:
            said = (
                f"{question.contrast}; {where}: {decision.mean:+.1f} points "
                f"(95 % interval {decision.low:.1f} to {decision.high:.1f}). {decision.sentence}"
            )
        paragraphs.append("\n".join([*textwrap.wrap(question.asks, 80), *textwrap.wrap(said, 78, **_INDENT)]))
    return "\n\n".join(paragraphs)


_INDENT = {"initial_indent": "  ", "subsequent_indent": "  "}


def markdown(questions: Questions) -> str:
    """The answers, and below them every learning rate that was tried for each arm, with the mean of the metric."""
    answers = table(questions)
    lines = [
        ["question", "contrast", "tasks", "seeds", "difference", "95 % interval", "margin", "verdict"],
        ["---"] * 8,
    ]
    for row in answers.to_dict("records"):
        asked = row["verdict"] != "not run"
        numbers = (f"{row['difference']:+.1f}", f"{row['low']:.1f} to {row['high']:.1f}") if asked else ("-", "-")
        where = row["tasks"].replace(" ", ", ")
        margin = f"{row['margin']:g}"
        lines.append([row["question"], row["contrast"], where, str(row["seeds"]), *numbers, margin, row["verdict"]])
    rates = [["question", "arm", "learning rate", "tried: mean of the metric, %"], ["---"] * 4]
    for question, decision in zip(questions.questions, answers["verdict"], strict=True):
        if decision != "not run":
            for arm, (rate, means) in chosen_rates(questions, question).items():
                tried = ", ".join(f"{value:g}: {100 * mean:.1f}" for value, mean in means.items())
                rates.append([question.name, arm, f"{rate:g}", tried])
    tables = ["\n".join("| " + " | ".join(cells) + " |" for cells in rows) for rows in (lines, rates)]
    return f"Answers, in percentage points\n\n{tables[0]}\n\nLearning rates\n\n{tables[1]}\n"


def write(questions: Questions, stem: Path) -> dict[str, Path]:
    """Write the answers: ``.csv``, one row a question; ``.md``, with the learning rates; ``.png``, all in one picture.

    Returns:
        Kind of file -> path.
    """
    answers = table(questions)
    paths = {kind: stem.with_suffix(end) for kind, end in (("table", ".csv"), ("markdown", ".md"), ("figure", ".png"))}
    write_whole(paths["table"], answers.to_csv(index=False, lineterminator="\n").encode())
    write_whole(paths["markdown"], markdown(questions).encode())
    figures.write_png(paths["figure"], figures.plot_answers(answers))
    return paths
