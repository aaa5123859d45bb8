"""The tasks, GLUE's and pocket's: columns, labels, metrics, and where their rows come from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from prilora_lite.pocket.tasks import draw_rows
from prilora_lite.shared.errors import unknown

GLUE = ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")  # a dataset on the hub, and its commit
FOLDER_VARIABLE = "PRILORA_GLUE"


@dataclass(frozen=True)
class Task:
    """One task: its text columns (one or two), labels (none for regression), metrics (the first is the main one).

    ``splits`` names the validation splits; MNLI has a matched and a mismatched one. ``hub`` is the dataset on the hub
    that has the rows under the task's name, and its commit; the rows of a pocket task are in the package.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    splits: tuple[str, ...] = ("validation",)
    hub: tuple[str, str] = GLUE

    @property
    def num_labels(self) -> int:
        """Outputs that the head needs: the classes, or one number for regression."""
        return len(self.labels) or 1

    @property
    def in_package(self) -> bool:
        """Whether its rows are in the package: a pocket task."""
        return self.name.startswith("pocket-")

    @property
    def metric(self) -> str:
        """Name of the main metric."""
        return self.metrics[0]


_ACCEPTABILITY = ("unacceptable", "acceptable")
_SENTIMENT = ("negative", "positive")
_ENTAILMENT = ("entailment", "not_entailment")
_PARAPHRASE = ("not_equivalent", "equivalent")

TASKS = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), _ACCEPTABILITY, ("matthews", "accuracy")),
        Task("sst2", ("sentence",), _SENTIMENT, ("accuracy",)),
        Task("mrpc", ("sentence1", "sentence2"), _PARAPHRASE, ("accuracy", "f1")),
        Task("stsb", ("sentence1", "sentence2"), (), ("pearson_spearman", "pearson", "spearman")),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            ("validation_matched", "validation_mismatched"),
        ),
        Task("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",)),
        Task("rte", ("sentence1", "sentence2"), _ENTAILMENT, ("accuracy",)),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
        Task("pocket-cola", ("sentence",), _ACCEPTABILITY, ("matthews", "accuracy")),
        Task("pocket-sst2", ("sentence",), _SENTIMENT, ("accuracy",)),
        Task("pocket-mrpc", ("sentence1", "sentence2"), _PARAPHRASE, ("accuracy", "f1")),
        Task("pocket-rte", ("sentence1", "sentence2"), _ENTAILMENT, ("accuracy",)),
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


def load_rows(task: str | Task, folder: str | Path | None = None) -> dict[str, Dataset]:
    """The rows of a task, ``train`` and its validation splits.

    Those of a pocket task are in the package. The others come from ``folder/<task>/<split>.parquet`` if a folder is
    given, by argument or by the environment variable PRILORA_GLUE, and else from the hub at a pinned revision, GLUE's
    from ``nyu-mll/glue``.

    Args:
        task: a task or its name.
        folder: folder with one folder per task.

    Returns:
        Split name -> rows with the task's text columns and ``label``.

    Raises:
        TypeError: a folder that is not a path.
        ValueError: unknown task, a missing column, a label out of range, or an empty split.
        FileNotFoundError: the folder lacks the task or a split.
        ConnectionError: no folder was given and the hub can't be reached.
    """
    task = get_task(task)
    folder = os.environ.get(FOLDER_VARIABLE) or None if folder is None else folder
    splits = ("train", *task.splits)
    if task.in_package:
        return check_rows(task, {split: _from_package(task, split) for split in splits})
    if folder is None:
        return check_rows(task, _from_hub(task, splits))
    return check_rows(task, {split: _from_folder(Path(folder), task, split) for split in splits})


def check_rows(task: Task, rows: dict[str, Dataset]) -> dict[str, Dataset]:
    """The same rows, or ValueError: a split or a column is missing, a text is not text, or a label is out of range."""
    for split in ("train", *task.splits):
        if split not in rows:
            have = ", ".join(map(str, rows)) or "none"
            raise ValueError(f"the rows of {task.name} lack the split {split!r}; there are {have}")
        _check(task, split, rows[split])
    return rows


def compute_metrics(task: str | Task, predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The task's metrics, by scikit-learn and scipy.

    Args:
        task: a task or its name.
        predictions: (rows, classes) scores, or (rows,) or (rows, 1) numbers for regression.
        labels: (rows,).

    Returns:
        Metric name -> value, the main metric first; correlations and accuracies in [-1, 1], not in percent.
        A correlation with predictions that are all equal has no value and counts as 0.

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
        raise ValueError(f"the model predicts NaN or infinity on {task.name}: it diverged; lower the learning rate")
    shapes = [(len(labels), task.num_labels)] + ([] if task.labels else [(len(labels),)])
    if labels.ndim != 1 or predictions.shape not in shapes:
        raise ValueError(
            f"{task.name} needs labels of (rows,) and predictions of (rows, {task.num_labels}), got {labels.shape} and "
            f"{predictions.shape}"
        )
    predicted = predictions.argmax(axis=-1) if task.labels else predictions.reshape(len(labels))
    values: dict[str, float] = {}
    for metric in task.metrics:
        if metric == "accuracy":
            values[metric] = accuracy_score(labels, predicted)
        elif metric == "f1":
            values[metric] = f1_score(labels, predicted, zero_division=0.0)
        elif metric == "matthews":
            values[metric] = matthews_corrcoef(labels, predicted)
        else:
            constant = np.ptp(predicted) == 0
            pearson = 0.0 if constant else pearsonr(predicted, labels).statistic
            spearman = 0.0 if constant else spearmanr(predicted, labels).statistic
            both = {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}
            values[metric] = both[metric]
    return {metric: float(value) for metric, value in values.items()}


def _from_package(task: Task, split: str) -> Dataset:
    rows = draw_rows(task.name)[split]
    columns = {column: [texts[i] for texts, _ in rows] for i, column in enumerate(task.columns)}
    return Dataset.from_dict(columns | {"label": [label for _, label in rows], "idx": list(range(len(rows)))})


def _from_folder(folder: Path, task: Task, split: str) -> Dataset:
    file = folder / task.name / f"{split}.parquet"
    if not file.is_file():
        have = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else None
        found = "no such folder" if have is None else f"the folder holds {', '.join(have) or 'no folders'}"
        raise FileNotFoundError(
            f"no rows of {task.name} at {file} ({found}): give the folder that has {task.name}/{split}.parquet in it, "
            f"or none at all (unset {FOLDER_VARIABLE}) to take the rows from the hub"
        )
    try:
        import pyarrow.parquet

        return Dataset(pyarrow.parquet.read_table(file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} can't be read as Parquet: {error}") from error


def _from_hub(task: Task, splits: tuple[str, ...]) -> dict[str, Dataset]:
    place, revision = task.hub
    try:
        return {split: load_dataset(place, task.name, revision=revision, split=split) for split in splits}
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"could not get {task.name} from the hub ({place}): {error}\n"
            f"Either go online, or give a folder with {task.name}/train.parquet in it: --rows FOLDER on the command "
            f"line, rows=FOLDER in Python, or the environment variable {FOLDER_VARIABLE}"
        ) from error


def _check(task: Task, split: str, data: Dataset) -> None:
    missing = [column for column in (*task.columns, "label") if column not in data.column_names]
    if missing:
        raise ValueError(
            f"the {split} rows of {task.name} lack the column {', '.join(missing)}: "
            f"expected {', '.join((*task.columns, 'label'))}, got {', '.join(data.column_names)}"
        )
    if len(data) == 0:
        raise ValueError(f"the {split} split of {task.name} has no rows")
    for column in task.columns:
        bad = next((i for i, text in enumerate(data[column]) if not isinstance(text, str)), None)
        if bad is not None:
            raise ValueError(f"row {bad} of {task.name} {split} has no text in {column}: {data[column][bad]!r}")
    try:
        labels = np.array([float(label) for label in data["label"]])  # a list of one number is none
    except (TypeError, ValueError):
        raise ValueError(f"the labels of {task.name} {split} must be numbers, got {data['label'][0]!r}") from None
    if not np.isfinite(labels).all():
        raise ValueError(f"the {split} rows of {task.name} have labels that are missing or not finite")
    if task.labels:
        wrong = labels[(labels != labels.round()) | (labels < 0) | (labels >= len(task.labels))]
        if len(wrong):
            hint = "; -1 marks GLUE's hidden test labels" if (wrong == -1).any() else ""
            raise ValueError(
                f"the {split} rows of {task.name} have label {wrong[0]:g}, expected 0 to {len(task.labels) - 1}{hint}"
            )
