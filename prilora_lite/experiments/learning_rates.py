"""The learning rate of each arm of a question: tried on a part of the training rows, chosen by one rule for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prilora_lite.experiments.asked_runs import diverged_keys, has_diverged, keys_of, training_split, values_by_key
from prilora_lite.experiments.questions import Question, Questions
from prilora_lite.experiments.stored import main_metric
from prilora_lite.experiments.study import Run, ablate, grid
from prilora_lite.experiments.tasks import load_rows
from prilora_lite.shared.errors import Diverged

# Tried first for each arm; extended by factors of 2 until half and double of the chosen one are there
RATES = (1e-3, 2e-3, 4e-3)
RATE_SEEDS = (0, 1, 2)
LOWEST, HIGHEST = 1e-3 / 64, 4e-3 * 16  # no rates beyond these are tried
CLIFF = 0.2  # a rate is not safe if doubling it loses more of the metric than this: training collapses there
DIVERGED = -math.inf  # the mean at a rate at which a run diverged: worse than any other


def choose_rate(means: dict[float, float], rule: str = "safe") -> tuple[float | None, list[float]]:
    """The learning rate to use, or the rates that have to be tried first.

    ``best`` is the best rate; ``safe`` is the same, or the next lower one if doubling the best loses more than
    :data:`CLIFF`. Its half and its double must have been tried. No rates outside of :data:`LOWEST` to :data:`HIGHEST`
    are tried. Rates that all do the same tell nothing, as where training collapses at each of them: lower ones are
    tried until one differs.

    Args:
        means: rate -> mean of the metric, in [-1, 1], or :data:`DIVERGED`; rates that are factors of 2 apart.
        rule: one of :data:`~.questions.RATE_RULES`.

    Returns:
        The rate and an empty list, or None and the next rates: none are left if all did the same.
    """
    rates = sorted(means)
    if len(set(means.values())) == 1:
        return None, [rates[0] / 2] if rates[0] > LOWEST else []
    best = [i for i in range(len(rates)) if means[rates[i]] == max(means.values())]
    place = best[(len(best) - 1) // 2]  # of equal ones the middle: rates that all do the same are no reason to go on
    if place == len(rates) - 1 and rates[-1] < HIGHEST:
        return None, [2 * rates[-1]]
    collapses = place < len(rates) - 1 and means[rates[place + 1]] < means[rates[place]] - CLIFF
    if rule == "safe" and collapses:
        place -= 1
    if place <= 0 and rates[0] > LOWEST:
        return None, [rates[0] / 2]
    return rates[max(0, place)], []


def chosen_rates(questions: Questions, question: Question) -> dict[str, tuple[float, dict[float, float]]]:
    """For each arm its learning rate, and the mean metric at every rate that was tried.

    Raises:
        LookupError: rates that have not been tried yet, or that all did the same.
    """
    return {arm: _chosen_rate(questions, question, arm) for arm in questions.rate_arms(question)}


def _chosen_rate(questions: Questions, question: Question, arm: str) -> tuple[float, dict[float, float]]:
    values = dict.fromkeys(diverged_keys(questions.rates), DIVERGED) | values_by_key(questions.rates)

    def mean_at(rate: float) -> float:
        overrides, keys = question.overrides(rate, tuning=True), []
        for task in question.tasks:
            keys += keys_of(questions, question, arm, task, RATE_SEEDS, overrides)
        means = [values[key] for key in keys if key in values]
        if len(means) < len(keys) and DIVERGED not in means:
            raise LookupError(f"question {question.name!r}: the learning rate of {arm} is not chosen yet")
        return float(np.mean(means))

    rate, means = _search(mean_at, question.rates)
    if rate is None:
        raise LookupError(_all_the_same(question, arm, means))
    return rate, means


def _search(mean_at: Callable[[float], float], rule: str) -> tuple[float | None, dict[float, float]]:
    """The rate that is chosen, and the mean at each that was tried for it: :data:`RATES`, then what the rule wants.

    What else has been tried, for another question, makes no difference. The rate is None if all did the same.
    """
    means: dict[float, float] = {}
    rate, wanted = None, list(RATES)
    while wanted:
        means |= {value: mean_at(value) for value in wanted}
        rate, wanted = choose_rate(means, rule)
    return rate, dict(sorted(means.items()))


def _all_the_same(question: Question, arm: str, means: dict[float, float]) -> str:
    return (
        f"question {question.name!r}: {arm} did the same ({shown(next(iter(means.values())))}) at all learning rates "
        f"from {min(means):g} to {max(means):g}, so none can be chosen, and the question has no answer: give it other "
        "settings, such as more epochs"
    )


def tune(
    questions: Questions, question: Question, arm: str, rows: Any, jobs: int, tell: Callable[[str], None]
) -> float:
    """Try learning rates for an arm, on a part of the training rows, until :func:`choose_rate` has one; this one.

    Raises:
        ValueError: all did the same, or what :func:`make_runs` raises.
    """
    try:
        rate, means = _chosen_rate(questions, question, arm)
    except LookupError:
        rate, means = _try_rates(questions, question, arm, rows, jobs, tell)
    tell(f"  {arm}: learning rate {rate:g} of " + ", ".join(f"{r:g} ({shown(m)})" for r, m in means.items()))
    return rate


def _try_rates(
    questions: Questions, question: Question, arm: str, rows: Any, jobs: int, tell: Callable[[str], None]
) -> tuple[float, dict[float, float]]:
    split = {str(task): training_split(task, load_rows(task, rows)["train"]) for task in question.tasks}
    _check_train_rows(question, split)
    runs = grid([questions.arms[arm]], question.tasks, RATE_SEEDS)

    def mean_at(rate: float) -> float:
        overrides = question.overrides(rate, tuning=True)
        try:
            records = make_runs(runs, questions.rates, question, overrides, split, jobs, tell)
        except Diverged:
            return DIVERGED
        except ValueError as error:
            raise ValueError(
                f"question {question.name!r}, in the runs that choose a learning rate, which train on four fifths of "
                f"the training rows and are judged on the last fifth: {error}"
            ) from error
        return float(np.mean([main_metric(record)[1] for record in records]))

    rate, means = _search(mean_at, question.rates)
    if rate is None:
        raise ValueError(_all_the_same(question, arm, means))
    return rate, means


def _check_train_rows(question: Question, split: dict[str, Any]) -> None:
    """Refuse more training rows than there are to choose rates on: the task has more than that."""
    asked = question.overrides(math.nan, tuning=True).get("train_rows") or 0
    for task, rows in split.items():
        if asked > (have := len(rows["train"])):
            raise ValueError(
                f"question {question.name!r}: train_rows={asked:g}, but learning rates are chosen on four fifths of "
                f"the training rows of {task}, which are {have}: give {have} or fewer, or say so for the choice alone, "
                f"with rate_settings = {{ train_rows = {have} }}"
            )


def shown(mean: float) -> str:
    """A mean of the metric in percent, or ``diverged``."""
    return "diverged" if mean == DIVERGED else f"{100 * mean:.1f}"


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
        Diverged: a run whose training diverged.
        ValueError: a run that crashed for another reason, or what :func:`~.study.ablate` raises.
    """
    crashed: list[str] = []
    kind: type[ValueError] = Diverged  # unless one crashed for another reason

    def announce(number: int, count: int, run: Run, record: dict[str, Any] | None) -> None:
        nonlocal kind
        if record is not None and "error" in record:
            kind = kind if has_diverged(record) else ValueError
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
        raise kind(
            f"{len(crashed)} runs crashed, the first: {crashed[0]}; {output} says how, and the same command tries again"
        )
    tell(
        f"  {runs[0].method.name}, " + ", ".join(f"{k} {v:g}" for k, v in overrides.items()) + f": {len(records)} runs"
    )
    return records
