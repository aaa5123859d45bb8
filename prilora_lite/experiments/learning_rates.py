"""The learning rate of each arm of a question: tried on a part of the training rows, chosen by one rule for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from prilora_lite.experiments.identity import run_key, same_run
from prilora_lite.experiments.questions import Question, Questions
from prilora_lite.experiments.study import Run, ablate, grid, read_runs, settle
from prilora_lite.experiments.tasks import Task, get_task, load_rows

RATES = (1e-3, 2e-3, 4e-3)  # tried first for each arm; extended by factors of 2 while the best is the first or the last
RATE_SEEDS = (0, 1, 2)
LOWEST, HIGHEST = 1e-3 / 64, 4e-3 * 16  # no rates beyond these are tried
CLIFF = 0.2  # a rate is not safe if doubling it loses more of the metric than this: training collapses there


def choose_rate(means: dict[float, float], rule: str = "safe") -> tuple[float | None, list[float]]:
    """The learning rate to use, or the rates that have to be tried first.

    ``best`` is the best rate; ``safe`` is the same, or the next lower one if doubling the best loses more than
    :data:`CLIFF`. Its half and its double must have been tried. No rates outside of :data:`LOWEST` to :data:`HIGHEST`
    are tried.

    Args:
        means: rate -> mean of the metric, in [-1, 1]; rates that are factors of 2 apart.
        rule: one of :data:`~.questions.RATE_RULES`.

    Returns:
        The rate and an empty list, or None and the next rates.
    """
    rates = sorted(means)
    place = max(range(len(rates)), key=lambda i: means[rates[i]])
    if place == len(rates) - 1 and rates[-1] < HIGHEST:
        return None, [2 * rates[-1]]
    collapses = place < len(rates) - 1 and means[rates[place + 1]] < means[rates[place]] - CLIFF
    if rule == "safe" and collapses:
        place -= 1
    if place <= 0 and rates[0] > LOWEST:
        return None, [rates[0] / 2]
    return rates[max(0, place)], []


def training_split(task: str | Task, rows: Dataset) -> dict[str, Dataset]:
    """Training rows in a fixed random order, four fifths to train on and one fifth as all validation splits."""
    rows = rows.shuffle(seed=0)
    cut = len(rows) * 4 // 5
    return {"train": rows.select(range(cut))} | dict.fromkeys(get_task(task).splits, rows.select(range(cut, len(rows))))


def chosen_rates(questions: Questions, question: Question) -> dict[str, tuple[float, dict[float, float]]]:
    """For each arm its learning rate, and the mean metric at every rate that was tried.

    Raises:
        LookupError: rates that have not been tried yet.
    """
    values = values_by_key(questions.rates)
    tried = sorted({record["settings"]["learning_rate"] for record in records_by_key(questions.rates).values()})
    chosen = {}
    for arm in questions.rate_arms(question):
        means = {}
        for rate in tried:
            overrides = question.overrides(rate, tuning=True)
            keys = []
            for task in question.tasks:
                keys += keys_of(questions, question, arm, task, RATE_SEEDS, overrides)
            if all(key in values for key in keys):
                means[rate] = float(np.mean([values[key] for key in keys]))
        rate = choose_rate(means, question.rates)[0] if set(RATES) <= set(means) else None
        if rate is None:
            raise LookupError(f"question {question.name!r}: the learning rate of {arm} is not chosen yet")
        chosen[arm] = rate, means
    return chosen


def tune(
    questions: Questions, question: Question, arm: str, rows: Any, jobs: int, tell: Callable[[str], None]
) -> float:
    """Try learning rates for an arm, on a part of the training rows, until :func:`choose_rate` has one."""
    split = {str(task): training_split(task, load_rows(task, rows)["train"]) for task in question.tasks}
    runs = grid([questions.arms[arm]], question.tasks, RATE_SEEDS)
    means: dict[float, float] = {}
    rate, wanted = None, list(RATES)
    while rate is None:
        for value in wanted:
            records = make_runs(
                runs, questions.rates, question, question.overrides(value, tuning=True), split, jobs, tell
            )
            means[value] = float(np.mean([next(iter(record["metrics"].values())) for record in records]))
        rate, wanted = choose_rate(means, question.rates)
    tell(f"  {arm}: learning rate {rate:g} of " + ", ".join(f"{r:g} ({100 * m:.1f})" for r, m in sorted(means.items())))
    return rate


def make_runs(
    runs: list[Run],
    output: Path,
    question: Question,
    overrides: dict[str, Any],
    rows: Any,
    jobs: int,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The records of an arm's runs, made where the file does not hold them yet.

    Args:
        runs: the runs of one arm.
        output: the file of runs.
        question: gives the encoder.
        overrides: settings that depart from the preset's.
        rows, jobs: see :func:`~.study.ablate`.
        tell: called with a line when they are there.

    Raises:
        ValueError: a run that crashed, or what :func:`~.study.ablate` raises.
    """
    crashed: list[str] = []

    def announce(number: int, count: int, run: Run, record: dict[str, Any] | None) -> None:
        if record is not None and "error" in record:
            crashed.append(f"{run.task} {run.method.name}, seed {run.seed}: {record['error']}")

    try:
        records = ablate(
            runs, output, encoder=question.encoder, rows=rows, overrides=overrides, jobs=jobs, progress=False,
            on_run=announce,
        )  # fmt: skip
    except RuntimeError:  # all of them crashed
        if not crashed:
            raise
    if crashed:
        raise ValueError(
            f"{len(crashed)} runs crashed, the first: {crashed[0]}; {output} says how, and the same command tries again"
        )
    tell(
        f"  {runs[0].method.name}, " + ", ".join(f"{k} {v:g}" for k, v in overrides.items()) + f": {len(records)} runs"
    )
    return records


def values_by_key(file: Path) -> dict[str, float]:
    """The main metric of each run of a file, by all parts of its key except precision, rows and weights."""
    return {key: next(iter(record["metrics"].values())) for key, record in records_by_key(file).items()}


def records_by_key(file: Path) -> dict[str, dict[str, Any]]:
    """Each run of a file, by the same key.

    Raises:
        ValueError: two runs that differ in nothing but precision, rows and weights.
    """
    return _records(file, _version_of(file))


def _version_of(file: Path) -> tuple[int, int] | None:
    """Changes when the file does: a report asks for the same runs some hundred times."""
    return (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None


@lru_cache(maxsize=4)
def _records(file: Path, version: tuple[int, int] | None) -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for record in read_runs(file):
        key = same_run(record["key"][:5])
        if key in records:
            raise ValueError(
                f"{file} holds {record['task']}, seed {record['seed']} twice, on other rows or at another precision, "
                "or with other weights: keep one kind in a file"
            )
        records[key] = record
    return records


def keys_of(
    questions: Questions,
    question: Question,
    arm: str,
    task: str | Task,
    seeds: Sequence[int],
    overrides: dict[str, float],
) -> list[str]:
    """The runs of an arm in the setting of a question, one for each seed, as :func:`values_by_key` has them."""
    settings, trains = settle(Run(questions.arms[arm], task, seeds[0]), question.encoder, overrides)
    rest = (question.encoder, trains, settings, "", "", "")
    return [same_run(run_key(get_task(task), seed, *rest)[:5]) for seed in seeds]
