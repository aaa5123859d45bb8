"""The tasks, GLUE's and pocket's: columns, labels, metrics, and where their rows come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from prilora_lite.experiments.rows import ENDINGS, check_rows, read_file
from prilora_lite.experiments.task import Task
from prilora_lite.pocket.tasks import draw_rows
from prilora_lite.shared.errors import Diverged, unknown
from prilora_lite.shared.files import given_path

GLUE = ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")  # a dataset on the hub, and its commit
FOLDER_VARIABLE = "PRILORA_GLUE"

_ACCEPTABILITY = ("unacceptable", "acceptable")
_SENTIMENT = ("negative", "positive")
_ENTAILMENT = ("entailment", "not_entailment")
_PARAPHRASE = ("not_equivalent", "equivalent")

TASKS = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), _ACCEPTABILITY, ("matthews", "accuracy"), hub=GLUE),
        Task("sst2", ("sentence",), _SENTIMENT, ("accuracy",), hub=GLUE),
        Task("mrpc", ("sentence1", "sentence2"), _PARAPHRASE, ("accuracy", "f1"), hub=GLUE),
        Task("stsb", ("sentence1", "sentence2"), (), ("pearson_spearman", "pearson", "spearman"), hub=GLUE),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1"), hub=GLUE),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            ("validation_matched", "validation_mismatched"),
            hub=GLUE,
        ),
        Task("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",), hub=GLUE),
        Task("rte", ("sentence1", "sentence2"), _ENTAILMENT, ("accuracy",), hub=GLUE),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",), hub=GLUE),
        Task("pocket-cola", ("sentence",), _ACCEPTABILITY, ("matthews", "accuracy"), in_package=True),
        Task("pocket-sst2", ("sentence",), _SENTIMENT, ("accuracy",), in_package=True),
        Task("pocket-mrpc", ("sentence1", "sentence2"), _PARAPHRASE, ("accuracy", "f1"), in_package=True),
        Task("pocket-rte", ("sentence1", "sentence2"), _ENTAILMENT, ("accuracy",), in_package=True),
    )
}


def get_task(name: str | Task) -> Task:
    """The task of that name; a task of your own as it is.

    Raises:
        ValueError: no such task; the message gives the nearest name.
    """
    if isinstance(name, Task):
        return name
    if not isinstance(name, str) or name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def task_as_json(task: Task) -> str | dict[str, Any]:
    """A task in the key of a run: the name of one in :data:`TASKS`, else all that its metrics depend on."""
    ours = TASKS.get(task.name)
    return task.name if ours is not None and ours.as_json() == task.as_json() else task.as_json()


def load_rows(
    task: str | Task, folder: str | Path | None = None, splits: Sequence[str] | None = None
) -> dict[str, Dataset]:
    """The rows of a task.

    They come from ``folder/<task>/<split>.parquet`` (or ``.csv``) if a folder is given, by argument or by the
    environment variable PRILORA_GLUE, and else from the hub at a pinned revision, GLUE's from ``nyu-mll/glue``. Those
    of a pocket task are in the package; a folder need not have them.

    Args:
        task: a task or its name.
        folder: folder with one folder per task.
        splits: those that are needed. None: ``train`` and the task's validation splits.

    Returns:
        Split name -> rows with the task's text columns and ``label``.

    Raises:
        TypeError: a folder that is not a path.
        ValueError: an unknown task, one of your own without a folder, or what :func:`~.rows.check_rows` refuses.
        FileNotFoundError: there is no such folder, or it lacks the task or a split.
        ConnectionError: no folder was given and the hub can't be reached.
    """
    task = get_task(task)
    if task.in_package and folder is not None and not given_path(folder).is_dir():
        raise FileNotFoundError(f"no such folder: {folder}; {task.name} has rows in the package, so leave it out")
    folder = os.environ.get(FOLDER_VARIABLE) or None if folder is None else folder
    folder = None if folder is None else given_path(folder)
    splits = ("train", *task.splits) if splits is None else tuple(splits)
    if task.in_package and (folder is None or not (folder / task.name).is_dir()):
        return check_rows(task, _from_package(task), splits)
    if folder is None and task.hub is None:
        raise ValueError(
            f"where are the rows of {task.name}? Give rows={{'train': 'train.csv', '{task.splits[0]}': ...}}, or "
            f"the folder that has {task.name}/train.csv (or .parquet) in it: rows=FOLDER in Python, --rows FOLDER"
        )
    if folder is None:
        return check_rows(task, _from_hub(task, splits), splits)
    return check_rows(task, {split: _from_folder(folder, task, split) for split in splits}, splits)


def compute_metrics(task: str | Task, predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The task's metrics, by scikit-learn and scipy.

    Args:
        task: a task or its name.
        predictions: (rows, classes) scores, or (rows,) or (rows, 1) numbers for regression.
        labels: (rows,).

    Returns:
        Metric name -> value, the main metric first; correlations and accuracies in [-1, 1], not in percent.
        A correlation with predictions that are all equal, but for rounding, has no value and counts as 0; with labels
        that are all equal it is NaN.

    Raises:
        TypeError: predictions or labels that are not numbers.
        ValueError: an unknown task, predictions that are not finite, or of another shape than the labels ask for.
    """
    task = get_task(task)
    try:
        predictions, labels = np.asarray(predictions, dtype=np.float64), np.asarray(labels)
    except OverflowError as error:
        raise ValueError(f"predictions must be finite numbers: {error}") from error
    if not np.isfinite(predictions).all():
        raise Diverged(f"the model predicts NaN or infinity on {task.name}: it diverged; lower the learning rate")
    shapes = [(len(labels), task.num_labels)] + ([] if task.labels else [(len(labels),)])
    if labels.ndim != 1 or predictions.shape not in shapes:
        raise ValueError(
            f"{task.name} needs labels of (rows,) and predictions of (rows, {task.num_labels}), got {labels.shape} and "
            f"{predictions.shape}"
        )
    known = np.isin(labels, range(task.num_labels)) if task.labels else np.isfinite(labels.astype(np.float64))
    if not known.all():
        expected = f"the numbers of its classes, 0 to {task.num_labels - 1}" if task.labels else "finite numbers"
        why = ": -1 stands for a label that is hidden, as in GLUE's test rows" if (labels[~known] == -1).any() else ""
        raise ValueError(f"{task.name} needs labels that are {expected}, got {labels[~known][0]}{why}")
    predicted = predictions.argmax(axis=-1) if task.labels else predictions.reshape(len(labels))
    return {metric: float(METRICS[metric](labels, predicted)) for metric in task.metrics}


def _is_one_number(predicted: np.ndarray) -> bool:
    """Whether predictions differ by rounding alone: a collapsed model's vary by a bit, with a batch's padding."""
    return bool(np.ptp(predicted) <= 1e-6 * np.abs(predicted).max())


def _pearson(labels: np.ndarray, predicted: np.ndarray) -> float:
    return 0.0 if _is_one_number(predicted) else pearsonr(predicted, labels).statistic


def _spearman(labels: np.ndarray, predicted: np.ndarray) -> float:
    return 0.0 if _is_one_number(predicted) else spearmanr(predicted, labels).statistic


# From labels and predictions to a number; the names are those of task.OF_CLASSES and task.OF_NUMBERS
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": lambda labels, predicted: f1_score(labels, predicted, zero_division=0.0),
    "matthews": matthews_corrcoef,
    "pearson": _pearson,
    "spearman": _spearman,
    "pearson_spearman": lambda labels, predicted: (_pearson(labels, predicted) + _spearman(labels, predicted)) / 2,
}


def _from_package(task: Task) -> dict[str, Dataset]:
    data = {}
    for split, rows in draw_rows(task.name).items():
        columns = {column: [texts[i] for texts, _ in rows] for i, column in enumerate(task.columns)}
        labels = {"label": [label for _, label in rows], "idx": list(range(len(rows)))}
        data[split] = Dataset.from_dict(columns | labels)
    return data


def _from_folder(folder: Path, task: Task, split: str) -> Dataset:
    files = [folder / task.name / f"{split}{ending}" for ending in ENDINGS]
    there = [file for file in files if file.is_file()]
    if len(there) > 1:
        raise ValueError(f"{' and '.join(map(str, there))} are both there: remove the one that should not be used")
    if not there:
        have = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else None
        found = "no such folder" if have is None else f"the folder holds {', '.join(have) or 'no folders'}"
        rest = f", or none at all (unset {FOLDER_VARIABLE}) to take the rows from the hub" if task.hub else ""
        raise FileNotFoundError(
            f"no rows of {task.name} at {files[0]} ({found}): give the folder that has {task.name}/{split}.parquet "
            f"or .csv in it{rest}"
        )
    return read_file(there[0])


def _from_hub(task: Task, splits: tuple[str, ...]) -> dict[str, Dataset]:
    place, revision = task.hub
    if os.path.isdir(place):
        raise ValueError(
            f"the folder {place} in the working directory would be taken for the hub's dataset of that name: start "
            f"elsewhere, or give a folder with {task.name}/train.parquet in it"
        )
    try:
        return {split: load_dataset(place, task.name, revision=revision, split=split) for split in splits}
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"could not get {task.name} from the hub ({place}): {error}\n"
            f"Either go online, or give a folder with {task.name}/train.parquet in it: --rows FOLDER on the command "
            f"line, rows=FOLDER in Python, or the environment variable {FOLDER_VARIABLE}"
        ) from error
