"""The runs of a file of questions: which run is which, and whether they belong together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from prilora_lite.experiments.device import pick_precision
from prilora_lite.experiments.identity import digest_of, parts_of, rows_digest, run_key, same_run
from prilora_lite.experiments.questions import Question, Questions
from prilora_lite.experiments.stored import main_metric
from prilora_lite.experiments.study import Run, read_crashes, read_runs, settle
from prilora_lite.experiments.tasks import Task, get_task, load_rows, task_as_json
from prilora_lite.shared.errors import Diverged

_SURROUNDINGS = ("precision", "rows", "weights")  # what the runs of a question share on each task


def training_split(task: str | Task, rows: Dataset) -> dict[str, Dataset]:
    """Training rows in a fixed random order, four fifths to train on and one fifth as all validation splits."""
    rows = rows.shuffle(seed=0, keep_in_memory=True)
    cut = len(rows) * 4 // 5
    return {"train": rows.select(range(cut))} | dict.fromkeys(get_task(task).splits, rows.select(range(cut, len(rows))))


def values_by_key(file: Path) -> dict[str, float]:
    """The main metric of each run of a file, by all parts of its key except precision and rows."""
    return _values(file, _version_of(file))


def records_by_key(file: Path) -> dict[str, dict[str, Any]]:
    """Each run of a file, by the same key; an encoder counts by its weights, wherever it is.

    Raises:
        ValueError: two runs that differ in nothing but precision and rows.
    """
    return _records(file, _version_of(file))


def has_diverged(record: dict[str, Any]) -> bool:
    """Whether the record of a run that crashed says that its training diverged."""
    return record["error"].startswith(f"{Diverged.__name__}:")


def diverged_keys(file: Path) -> frozenset[str]:
    """The runs of a file that diverged, by the keys of :func:`records_by_key`."""
    return _diverged(file, _version_of(file))


def keys_of(
    questions: Questions,
    question: Question,
    arm: str,
    task: str | Task,
    seeds: Sequence[int],
    overrides: dict[str, float],
) -> list[str]:
    """The runs of an arm in the setting of a question, one for each seed, as :func:`records_by_key` has them."""
    settings, trains = settle(Run(questions.arms[arm], task, seeds[0]), question.encoder, overrides)
    files = tuple((file, _version_of(file)) for file in (questions.runs, questions.rates))
    known_by = _weights(question.encoder, files)  # in the place of the encoder's name, as in _key
    key = run_key(get_task(task), seeds[0], known_by, trains, settings, precision="", rows="", weights="")
    task, _, *others = key[:5]  # up to the settings
    return [same_run([task, seed, *others]) for seed in seeds]


def check_surroundings(
    questions: Questions, question: Question, rows: str | Path | None, own: Collection[str] | None
) -> None:
    """Raise ValueError if runs that are there have other rows, another precision or other weights than today's.

    They could not be compared with the runs that are still to be made.

    Args:
        questions: the file that the question stands in.
        question: a question that still lacks runs.
        rows: folder of rows, see :func:`~.tasks.load_rows`.
        own: the runs that the question compares, once its learning rates are chosen: others may differ from today's,
            and so may the precision of the trial runs. None: all runs on the question's tasks count.
    """
    precision, weights = pick_precision("auto", question.encoder), digest_of(question.encoder)
    for task in question.tasks:
        data = load_rows(task, rows)
        for file, here in ((questions.runs, data), (questions.rates, training_split(task, data["train"]))):
            now = dict(zip(_SURROUNDINGS, (precision, rows_digest(get_task(task), here), weights), strict=True))
            trial = file == questions.rates
            for key, record in _records(file, _version_of(file)).items():
                parts = parts_of(record)
                if parts["task"] != task_as_json(get_task(task)) or parts["encoder"] != question.encoder:
                    continue
                if own is not None and not trial and key not in own:
                    continue
                for name in _SURROUNDINGS[1:] if trial and own is not None else _SURROUNDINGS:
                    if parts[name] != now[name]:
                        raise ValueError(
                            f"{file} holds runs on {task} with {name} {parts[name]}, and now they are {now[name]}: go "
                            f"back to those, or rename {questions.runs.name} and {questions.rates.name} to begin anew"
                        )


def check_alike(question: Question, records: Iterable[dict[str, Any]]) -> None:
    """Raise ValueError if runs that are compared differ in rows, precision or weights on a task."""
    seen: dict[Any, dict[str, Any]] = {}
    for record in records:
        parts = parts_of(record)
        first = seen.setdefault(str(record["task"]), parts)
        for name in _SURROUNDINGS:
            if parts[name] != first[name]:
                raise ValueError(
                    f"the runs of question {question.name!r} on {record['task']} can't be compared: some were made "
                    f"with {name} {first[name]}, others with {parts[name]}. Keep one kind in a file"
                )


def _key(record: dict[str, Any]) -> str:
    task, seed, encoder, *rest = record["key"][:5]
    return same_run([task, seed, parts_of(record)["weights"] or encoder, *rest])


def _version_of(file: Path) -> tuple[int, int] | None:
    """Changes when the file does: a report asks for the same runs some hundred times."""
    return (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None


@lru_cache(maxsize=4)
def _records(file: Path, version: tuple[int, int] | None) -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for record in read_runs(file):
        key = _key(record)
        if records.get(key, record)["key"] != record["key"]:
            raise ValueError(
                f"{file} holds {record['task']}, seed {record['seed']} twice, on other rows or at another precision: "
                "keep one kind in a file"
            )
        records[key] = record
    return records


@lru_cache(maxsize=4)
def _values(file: Path, version: tuple[int, int] | None) -> dict[str, float]:
    return {key: main_metric(record)[1] for key, record in _records(file, version).items()}


@lru_cache(maxsize=4)
def _diverged(file: Path, version: tuple[int, int] | None) -> frozenset[str]:
    return frozenset(_key(record) for record in read_crashes(file) if has_diverged(record))


@lru_cache(maxsize=32)
def _weights(encoder: str, files: tuple[tuple[Path, Any], ...]) -> str:
    """What runs know an encoder by: the digest of its weights if a run or a folder has it, else its name."""
    records = [record for file, version in files for record in _records(file, version).values()]
    for record in records:
        if record["encoder"] == encoder:
            return parts_of(record)["weights"] or encoder
    return digest_of(encoder) if records and Path(encoder).is_dir() else encoder
