"""The rows of a task, read from files and checked: texts that are texts, labels that say which class they mean."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet
from datasets import ClassLabel, Dataset

from prilora_lite.experiments.task import OF_NUMBERS, Task
from prilora_lite.shared.checks import is_number, plain
from prilora_lite.shared.errors import warn
from prilora_lite.shared.files import given_path

ENDINGS = (".parquet", ".csv")
_TRUTH = (("false", "true"), ("no", "yes"), ("0", "1"))  # labels that say which of them True is


def check_rows(
    task: Task, rows: Mapping[str, Dataset | str | Path], splits: Sequence[str] | None = None
) -> dict[str, Dataset]:
    """The rows of a task, each label the number of its class.

    Labels may be numbers, names of the task's labels, or of a ``ClassLabel`` that names them: those are mapped by name.
    True and False stand for classes of these names, or for the second and the first of two others.
    A warning says how many validation rows are training rows as well, which texts are empty where the other one of the
    row is not, and which classes the training rows lack.

    Args:
        task: what the rows should suit.
        rows: split -> rows, or the path of a CSV or Parquet file with them.
        splits: those that are needed. None: ``train`` and the task's validation splits.

    Raises:
        TypeError: a split that is neither.
        OSError: a file that is not there.
        ValueError: a split or a column is missing, a row has no text, or a label is missing, out of range or unknown;
            the message names the row, from 0 up.
    """
    checked = {}
    for split in ("train", *task.splits) if splits is None else splits:
        if split not in rows:
            have = ", ".join(map(str, rows)) or "none"
            raise ValueError(f"the rows of {task.name} lack the split {split!r}; there are {have}")
        data = read_file(given_path(rows[split])) if isinstance(rows[split], str | Path) else rows[split]
        if not isinstance(data, Dataset):
            raise TypeError(
                f"the {split} rows of {task.name} must be a Dataset, or the path of a CSV or Parquet file; got "
                f"{type(data).__name__}: Dataset.from_pandas(frame) and Dataset.from_list(rows) make a Dataset"
            )
        data = data.with_format(None)  # texts and labels as they are, all columns
        _check_columns(task, split, data)
        _check_texts(task, split, data)
        checked[split] = _with_numbers(task, split, data)
        if not task.labels:
            _check_precision(task, split, checked[split]["label"][:])
    if "train" in checked:
        _check_labels(task, checked)
    for split in [split for split in checked if split != "train"]:
        if "train" in checked:
            _check_apart(task, split, checked)
        _check_that_labels_differ(task, split, checked[split])
    return checked


def drawn_rows(task: Task, rows: dict[str, Dataset], count: int | None, seed: int) -> dict[str, Dataset]:
    """The rows with only some of those to train on, drawn by the seed; all of them if no number is given.

    Raises:
        ValueError: there are fewer.
    """
    if count is None:
        return rows
    if count > (have := len(rows["train"])):
        raise ValueError(f"train_rows={count}, but {task.name} has only {have} training rows: give {have} or fewer")
    some = rows | {"train": rows["train"].shuffle(seed=seed, keep_in_memory=True).select(range(count))}
    _check_labels(task, some)
    return some


def read_file(file: Path) -> Dataset:
    """A CSV file with a line of names (all values as text), or a Parquet file.

    Raises:
        OSError: no such file.
        ValueError: another kind of file, or one that can't be read.
    """
    if file.suffix not in ENDINGS:
        raise ValueError(f"{file}: expected a file of rows that ends in .csv or .parquet")
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    kind = "CSV" if file.suffix == ".csv" else "Parquet"
    try:
        if kind == "Parquet":
            return Dataset(pyarrow.parquet.read_table(file))
        _check_fields(file)
        table = pandas.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return Dataset.from_dict({column: table[column].tolist() for column in table})
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} can't be read as {kind}: it is not in UTF-8 ({error}); Excel's name for that is 'CSV UTF-8'"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} can't be read as {kind}: {error}") from error


def _check_fields(file: Path) -> None:
    """Raise ValueError if a line of a CSV file has more or fewer fields than names, where pandas would guess."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, strict=True)
            names = next((row for row in reader if row), [])
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two of its columns are called {twice[0]!r}")
            for row in reader:
                if row and len(row) != len(names):
                    raise ValueError(
                        f"line {reader.line_num} has {len(row)} fields, but there are {len(names)} names "
                        f"({', '.join(names)}); a text with a comma in it has to stand in quotes"
                    )
    except csv.Error as error:
        raise ValueError(
            f"line {reader.line_num}: {error}; a text that begins with a quotation mark ends with one, and a quotation "
            "mark inside it is doubled"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _check_columns(task: Task, split: str, data: Dataset) -> None:
    missing = [column for column in (*task.columns, "label") if column not in data.column_names]
    if missing:
        raise ValueError(
            f"the {split} rows of {task.name} lack the column {', '.join(missing)}: "
            f"expected {', '.join((*task.columns, 'label'))}, got {', '.join(data.column_names)}"
        )
    if len(data) == 0:
        raise ValueError(f"the {split} split of {task.name} has no rows")


def _check_texts(task: Task, split: str, data: Dataset) -> None:
    blank: dict[str, set[int]] = {}
    for column in task.columns:
        texts = list(data[column][:])
        bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if bad is not None:
            raise ValueError(f"row {bad} of {task.name} {split} has no text in {column}: {texts[bad]!r}")
        blank[column] = {i for i, text in enumerate(texts) if not text.strip()}
    if empty := set.intersection(*blank.values()):
        row = min(empty)
        raise ValueError(
            f"row {row} of {task.name} {split} has an empty text in {' and '.join(blank)}"
            + (f", and so have {len(empty) - 1} more" if len(empty) > 1 else "")
            + ": leave such rows out, since there is nothing to learn from them"
        )
    for column, some in blank.items():
        if some:
            warn(f"row {min(some)} of {task.name} {split} has an empty text in {column}")


def _with_numbers(task: Task, split: str, data: Dataset) -> Dataset:
    """The rows with labels that are numbers, those of classes from 0 up."""
    feature, read = data.features["label"], plain(list(data["label"][:]))
    given = read
    names = feature.names if isinstance(feature, ClassLabel) else None
    if names is not None:
        given = [names[label] if isinstance(label, int) and 0 <= label < len(names) else label for label in given]
    by_name = any(map(_is_numeral, task.labels))  # such as 1 to 5 stars: then a number is no place, but in a ClassLabel
    labels = [
        _number(task, split, row, label, by_name and not (names and isinstance(label, int)))
        for row, label in enumerate(given)
    ]
    truth = any(isinstance(label, bool) and str(label) not in task.labels for label in given)
    if truth and tuple(map(str.lower, task.labels)) not in _TRUTH and not by_name:
        warn(f"the {split} rows of {task.name} have labels True and False: True is read as {task.labels[1]!r}")
    same = labels == read and all(map(is_number, read))  # True equals 1, but is no number
    same = same and not (task.labels and any(isinstance(label, float) for label in read))  # as pandas makes of a gap
    return data if same else data.remove_columns("label").add_column("label", labels)


def _is_numeral(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _number(task: Task, split: str, row: int, label: Any, by_name: bool) -> int | float:
    if isinstance(label, str | bool) and str(label) in task.labels:
        return task.labels.index(str(label))
    where = f"the {split} rows of {task.name} have"
    stars = by_name and set(task.labels) != {"0", "1"}
    turned = tuple(reversed([name.lower() for name in task.labels])) in _TRUTH[:2]
    if isinstance(label, bool) and (stars or turned or len(task.labels) != 2):  # else True is the second, as 1 is
        expected = f"one of {', '.join(task.labels)}" if task.labels else "a number"
        hint = "; or call the task's labels 'False' and 'True'" if task.labels else ""
        raise ValueError(f"{where} the label {label}, expected {expected} (row {row}): write that instead{hint}")
    try:
        number = math.nan if label is None or label == "" else float(label)
    except (TypeError, ValueError):
        expected = f"{', '.join(task.labels)}, or their numbers" if task.labels else "a number"
        raise ValueError(f"{where} the label {label!r}, expected {expected} (row {row})") from None
    if not math.isfinite(number):
        raise ValueError(f"{where} labels that are missing or not finite (row {row})")
    if not task.labels:
        return number
    if by_name:
        text = str(int(number)) if number.is_integer() else f"{number:g}"
        if text in task.labels:
            return task.labels.index(text)
        raise ValueError(f"{where} label {text}, expected one of {', '.join(task.labels)} (row {row})")
    if number != round(number) or not 0 <= number < len(task.labels):
        hint = "; -1 marks GLUE's hidden test labels" if number == -1 else ""
        raise ValueError(f"{where} label {number:g}, expected 0 to {len(task.labels) - 1}{hint} (row {row})")
    return int(number)


def _check_labels(task: Task, rows: dict[str, Dataset]) -> None:
    """Warn of training labels that are all alike or large numbers, and of classes that only validation rows have."""
    trained = set(rows["train"]["label"][:])
    if len(rows["train"]) > 1 and len(trained) == 1:
        (label,) = (task.labels[label] if task.labels else label for label in trained)
        warn(f"all train rows of {task.name} have the label {label!r}, so nothing can be told apart")
        return
    if not task.labels:
        labels = rows["train"]["label"][:]
        if (far := max(abs(np.mean(labels)), np.std(labels))) > 10:
            warn(
                f"the labels of {task.name} are large (their mean or sd is {far:.3g}), and a model that begins near 0 "
                "learns them slowly: subtract their mean and divide by their sd, which changes no correlation"
            )
    for split in rows if task.labels else ():
        if unknown := sorted(set(rows[split]["label"][:]) - trained):
            names = ", ".join(repr(task.labels[label]) for label in unknown)
            warn(f"{split} rows of {task.name} have labels that no train row has: {names}")


def _check_precision(task: Task, split: str, labels: list[float]) -> None:
    """Refuse numbers that float32, in which a model reckons, can't hold or tells apart in a few steps only."""
    given = np.asarray(labels, np.float64)
    if not np.abs(given).max() < np.finfo(np.float32).max or 0 < given.std() < 1e-5 * abs(given.mean()):
        raise ValueError(
            f"labels of the {split} rows of {task.name} are too large, or too close to one another for their size, for "
            "float32: subtract their mean and divide by their sd, which changes no correlation"
        )


def _check_apart(task: Task, split: str, rows: dict[str, Dataset]) -> None:
    """Warn of validation rows that are trained on."""

    def texts(data: Dataset) -> list[tuple[str, ...]]:
        return list(zip(*(data[column][:] for column in task.columns), strict=True))

    trained = set(texts(rows["train"]))
    twice = [row for row, text in enumerate(texts(rows[split])) if text in trained]
    if twice:
        warn(
            f"{len(twice)} of {len(rows[split])} {split} rows of {task.name} are training rows as well, the first of "
            f"them row {twice[0]}: its metrics count what was learned by heart"
        )


def _check_that_labels_differ(task: Task, split: str, rows: Dataset) -> None:
    """Refuse labels that nothing can be correlated with."""
    if task.metric in OF_NUMBERS and len(labels := list(rows["label"][:])) > 1 and np.ptp(labels) == 0:
        raise ValueError(
            f"all {split} rows of {task.name} have the label {labels[0]:g}: no correlation with them is defined"
        )
