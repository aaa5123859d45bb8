"""The answers: makes the runs that a file of questions lacks, and turns all of them into one row for each question."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from prilora_lite.experiments import figures
from prilora_lite.experiments.asked_runs import check_alike, check_surroundings, keys_of, records_by_key, values_by_key
from prilora_lite.experiments.comparison import Decision, decide
from prilora_lite.experiments.learning_rates import chosen_rates, make_runs, shown, tune
from prilora_lite.experiments.own_files import check_own, in_markdown
from prilora_lite.experiments.questions import Question, Questions
from prilora_lite.experiments.study import grid
from prilora_lite.shared.errors import unknown
from prilora_lite.shared.files import write_whole

# Arm -> its learning rate, and the mean metric at all that were tried
Rates = dict[str, tuple[float, dict[float, float]]]
_INDENT = {"initial_indent": "  ", "subsequent_indent": "  "}


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
        questions: as :func:`~.questions.read_questions` gives them.
        rows: folder of rows, see :func:`~.tasks.load_rows`; default: the one that the file names, if it names one.
        jobs: runs at a time.
        names: names of the questions to answer; default: all.
        tell: called with a line for each run.

    Raises:
        ValueError: no question of that name, a run that crashed, or what :func:`~.study.ablate` raises.
    """
    rows = questions.rows if rows is None else rows
    names, known = list(names), [question.name for question in questions.questions]
    for name in names:
        if name not in known:
            raise unknown("question", name, known)
    asked = [question for question in questions.questions if not names or question.name in names]
    done = decisions(questions)
    for question in asked:
        if done[question.name] is None:
            # Of all, before the first run
            check_surroundings(questions, question, rows, _own_runs(questions, question))
    for question in asked:
        tell(f"{question.name}: {question.asks}")
        if done[question.name] is not None:
            tell("  all its runs are there")  # so it needs neither rows nor encoder
            continue
        rates = {arm: tune(questions, question, arm, rows, jobs, tell) for arm in questions.rate_arms(question)}
        for arm in question.arms:
            rate = rates[question.rate_of or arm]
            runs = grid([questions.arms[arm]], question.tasks, question.seeds)
            make_runs(runs, questions.runs, question, question.overrides(rate), rows, jobs, tell)


def differences(questions: Questions, question: Question, rates: Rates | None = None) -> pd.Series:
    """The contrast for each seed that has all its runs, in percentage points; seeds that lack one are left out.

    Args:
        questions: the file that the question stands in.
        question: one of its questions.
        rates: each arm's learning rate; default: as :func:`~.learning_rates.chosen_rates` has them.

    Raises:
        LookupError: learning rates that have not been tried yet.
    """
    values = values_by_key(questions.runs)

    def mean(runs: list[str]) -> float:
        return 100 * float(np.mean([values.get(run, np.nan) for run in runs]))

    pairs = _pairs(questions, question, rates or chosen_rates(questions, question))
    records = records_by_key(questions.runs)
    check_alike(question, (records[run] for plus, minus in pairs.values() for run in plus + minus if run in records))
    return pd.Series({seed: mean(plus) - mean(minus) for seed, (plus, minus) in pairs.items()}, dtype=float).dropna()


def of_several_machines(questions: Questions, question: Question) -> list[int]:
    """The seeds whose runs were not all made on one machine: their differences may be the machines'.

    Raises:
        LookupError: learning rates that have not been tried yet.
    """
    records = records_by_key(questions.runs)
    pairs = _pairs(questions, question, chosen_rates(questions, question))
    return [
        seed
        for seed, (plus, minus) in pairs.items()
        if len({records[run]["environment"].get("machine") for run in plus + minus if run in records}) > 1
    ]


def _pairs(questions: Questions, question: Question, rates: Rates) -> dict[int, tuple[list[str], list[str]]]:
    """Seed -> the keys of the runs that count with a plus, and of those with a minus."""

    def keys(arms: tuple[str, ...]) -> list[list[str]]:
        each = []
        for arm in arms:
            overrides = question.overrides(rates[question.rate_of or arm][0])
            each += [keys_of(questions, question, arm, task, question.seeds, overrides) for task in question.tasks]
        return [list(runs) for runs in zip(*each, strict=True)]

    return dict(zip(question.seeds, zip(keys(question.plus), keys(question.minus), strict=True), strict=True))


def _own_runs(questions: Questions, question: Question) -> set[str] | None:
    """The keys of the runs that a question compares; None while its learning rates are not chosen."""
    try:
        pairs = _pairs(questions, question, chosen_rates(questions, question))
    except LookupError:
        return None
    return {run for plus, minus in pairs.values() for run in plus + minus}


def decisions(questions: Questions) -> dict[str, Decision | None]:
    """Question -> what its runs say; None where seeds are still missing."""
    found: dict[str, Decision | None] = {}
    for question in questions.questions:
        try:
            d = differences(questions, question)
        except LookupError:
            d = ()
        found[question.name] = decide(d, question.margin) if len(d) == len(question.seeds) else None
    return found


def table(questions: Questions) -> pd.DataFrame:
    """One row for each question, in percentage points; differences are NaN until all its seeds are there."""
    rows, found = [], decisions(questions)
    for question in questions.questions:
        decision = found[question.name]
        settings = ", ".join([question.encoder, *(f"{name}={value:g}" for name, value in question.settings)])
        settings += ", best rates" if question.rates == "best" else ""
        if decision is not None:
            rates = chosen_rates(questions, question)
            settings += "; learning rate " + ", ".join(f"{arm} {rate:g}" for arm, (rate, _) in rates.items())
            mixed = of_several_machines(questions, question)
            settings += f"; seeds run on several machines: {len(mixed)}" if mixed else ""
        rows.append(
            {
                "question": question.name,
                "contrast": question.contrast,
                "tasks": " ".join(map(str, question.tasks)),
                "seeds": len(question.seeds),
                "difference": np.nan if decision is None else round(decision.mean, 3),
                "low": np.nan if decision is None else round(decision.low, 3),
                "high": np.nan if decision is None else round(decision.high, 3),
                "margin": question.margin,
                "verdict": _progress(questions, question) if decision is None else decision.verdict,
                "settings": settings,
            }
        )
    return pd.DataFrame(rows)


def _progress(questions: Questions, question: Question) -> str:
    """How far a question is, and what keeps it from being answered though its runs are made."""
    try:
        done = len(differences(questions, question))
        pairs = _pairs(questions, question, chosen_rates(questions, question))
    except LookupError:
        return "not run"
    values = values_by_key(questions.runs)
    failed = sum(not np.isfinite(values.get(run, 0)) for plus, minus in pairs.values() for run in plus + minus)
    why = f" (runs without a finite score: {failed}; take them out of the file to run them again)" if failed else ""
    return f"unfinished: {done} of {len(question.seeds)} seeds run{why}" if done or failed else "not run"


def by_task(questions: Questions) -> pd.DataFrame:
    """The same contrast on each task of the questions that have several: not asked beforehand, and not a verdict."""
    rows = []
    for question in questions.questions:
        for task in question.tasks if len(question.tasks) > 1 else ():
            try:
                d = differences(questions, replace(question, tasks=(task,)), chosen_rates(questions, question))
            except LookupError:
                continue
            if len(d) == len(question.seeds):
                found = decide(d, question.margin)
                rows.append((question.name, str(task), found.mean, found.low, found.high))
    return pd.DataFrame(rows, columns=["question", "task", "difference", "low", "high"])


def report(questions: Questions, names: Sequence[str] | None = None) -> str:
    """Every question, or those of some names, with its answer, for a terminal of 80 columns."""
    found, paragraphs = decisions(questions), []
    for question in questions.questions:
        if names and question.name not in names:
            continue
        decision = found[question.name]
        where = f"{' and '.join(map(str, question.tasks))}, {len(question.seeds)} seeds"
        if decision is None:
            said = f"{question.contrast}; {where}: {_progress(questions, question)}"
        else:
            interval = (
                f" (95 % interval {decision.low:.1f} to {decision.high:.1f})" if np.isfinite(decision.low) else ""
            )
            said = f"{question.contrast}; {where}: {decision.mean:+.1f} points{interval}. {decision.sentence}"
            said += _mixed(questions, question)
        paragraphs.append("\n".join([*textwrap.wrap(question.asks, 80), *textwrap.wrap(said, 78, **_INDENT)]))
    return "\n\n".join(paragraphs)


def markdown(questions: Questions, answers: pd.DataFrame) -> str:
    """Their :func:`table`; the same task by task; and every rate that was tried for each arm, with its mean metric."""
    mixed = [["question", "seeds on several machines: the difference may be theirs"], ["---"] * 2]
    lines = [
        ["question", "contrast", "tasks", "seeds", "difference", "95 % interval", "margin", "verdict"],
        ["---"] * 8,
    ]
    for row in answers.to_dict("records"):
        numbers = _numbers(row) if np.isfinite(row["difference"]) else ("-", "-")
        where = row["tasks"].replace(" ", ", ")
        margin = f"{row['margin']:g}"
        lines.append([row["question"], row["contrast"], where, str(row["seeds"]), *numbers, margin, row["verdict"]])
    tasks = [["question", "task", "difference", "95 % interval"], ["---"] * 4]
    tasks += [[row["question"], row["task"], *_numbers(row)] for row in by_task(questions).to_dict("records")]
    rates = [["question", "arm", "learning rate", "tried: mean of the metric, %"], ["---"] * 4]
    for question, difference in zip(questions.questions, answers["difference"], strict=True):
        if np.isfinite(difference):
            if several := of_several_machines(questions, question):
                mixed.append([question.name, ", ".join(map(str, several))])
            for arm, (rate, means) in chosen_rates(questions, question).items():
                tried = ", ".join(f"{value:g}: {shown(mean)}" for value, mean in means.items())
                rates.append([question.name, arm, f"{rate:g}", tried])
    tables = {
        "Answers, in percentage points; no verdict is corrected for the number of questions": lines,
        "Task by task (not asked beforehand)": tasks,
        "Learning rates": rates,
    } | ({"Several machines": mixed} if len(mixed) > 2 else {})
    return "\n\n".join(f"{title}\n\n{in_markdown(rows)}" for title, rows in tables.items()) + "\n"


def _mixed(questions: Questions, question: Question) -> str:
    seeds = of_several_machines(questions, question)
    several = f" {len(seeds)} of its seeds were run on several machines: the difference may be theirs."
    return several if seeds else ""


def _numbers(row: dict[str, float]) -> tuple[str, str]:
    return f"{row['difference']:+.1f}", f"{row['low']:.1f} to {row['high']:.1f}" if np.isfinite(row["low"]) else "-"


def write(questions: Questions, stem: Path) -> dict[str, Path]:
    """Write the answers: ``.csv``, one row a question; ``.md``, with the learning rates; ``.png``, all in one picture.

    If the file of questions chooses some for a picture of their own, that is ``_chosen.png``.

    Returns:
        Kind of file -> path.

    Raises:
        ValueError: a file of such a name was written by somebody else; nothing is written then.
    """
    answers = table(questions)
    ends = {"table": ".csv", "markdown": ".md", "figure": ".png"}
    ends |= {"chosen": "_chosen.png"} if questions.picture else {}
    paths = {kind: stem.with_name(stem.name + end) for kind, end in ends.items()}
    check_own(paths.values())
    write_whole(paths["table"], answers.to_csv(index=False, lineterminator="\n").encode())
    write_whole(paths["markdown"], markdown(questions, answers).encode())
    figures.write_png(paths["figure"], figures.plot_answers(answers))
    if questions.picture:
        figures.write_png(paths["chosen"], figures.plot_chosen_answers(answers, questions.picture))
    return paths
