"""What a task is: its texts, its labels, its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prilora_lite.shared.errors import unknown

OF_CLASSES, OF_NUMBERS = ("accuracy", "f1", "matthews"), ("pearson_spearman", "pearson", "spearman")


@dataclass(frozen=True)
class Task:
    """One task: text in one or two columns, and a class or a number to be told from it.

    Args:
        name: its name; in a folder of rows, that of the task's own folder.
        columns: the text columns, one or two; the labels are in the column ``label``.
        labels: names of the classes, in the order of the head's outputs; none for regression, where labels are numbers.
        metrics: for classes ``accuracy``, ``matthews`` and (of two) ``f1``, for numbers ``pearson``, ``spearman`` and
            their mean ``pearson_spearman``; the first is the main one. F1 is that of the second label. Default:
            accuracy, or the mean of both correlations.
        splits: names of the validation splits; MNLI has a matched and a mismatched one.
        hub: the dataset on the hub that has the rows under the task's name, and its commit; None if there is none.
        in_package: whether its rows are in the package: a pocket task.

    Raises:
        ValueError: a part that no task can have.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("validation",)
    hub: tuple[str, str] | None = None
    in_package: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.strip()) or set(self.name) & set("/\\"):
            raise ValueError(f"the name of a task is a text without / and \\, got {self.name!r}")
        if self.name == "all" or not self.name.isprintable():
            raise ValueError(
                f"a task may not be called {self.name!r}: "
                "give it a name of one line; in tables, all is the mean over tasks"
            )
        for field, example in (("columns", "text"), ("labels", "bad"), ("metrics", "accuracy"), ("splits", "dev")):
            object.__setattr__(self, field, self._names(field, example))
        if not self.metrics:
            object.__setattr__(self, "metrics", ("accuracy",) if self.labels else OF_NUMBERS[:1])
        self._check("columns", 1 <= len(self.columns) <= 2 and "label" not in self.columns, "one or two names of texts")
        self._check("labels", len(self.labels) != 1, "two classes or more, or none for regression")
        self._check("splits", bool(self.splits) and "train" not in self.splits, "one validation split or more")
        shown = {split.removeprefix("validation_") for split in self.splits}  # so their metrics are named
        self._check("splits", len(shown) == len(self.splits), "names that differ behind validation_")
        fitting = OF_CLASSES if self.labels else OF_NUMBERS
        for metric in self.metrics:
            if metric not in fitting:
                raise unknown(f"metric of {self.name}, whose labels are {'classes' if self.labels else 'numbers'}:",
                              metric, fitting)  # fmt: skip
        self._check("metrics", len(self.labels) <= 2 or "f1" not in self.metrics, "without f1, which is of two classes")

    def __str__(self) -> str:
        return self.name

    @property
    def num_labels(self) -> int:
        """Outputs that the head needs: the classes, or one number for regression."""
        return len(self.labels) or 1

    @property
    def metric(self) -> str:
        """Name of the main metric."""
        return self.metrics[0]

    def as_json(self) -> dict[str, Any]:
        """All that a result depends on, as JSON has it: everything but where the rows come from."""
        parts = {field: v for field, v in vars(self).items() if field not in ("hub", "in_package")}
        return {field: list(v) if isinstance(v, tuple) else v for field, v in parts.items()}

    def _names(self, field: str, example: str) -> tuple[str, ...]:
        given = getattr(self, field)
        names = tuple(str(n) if type(n) is int else n for n in given) if isinstance(given, list | tuple) else ()
        good = isinstance(given, list | tuple) and all(isinstance(name, str) and name for name in names)
        self._check(field, good and len(set(names)) == len(names), f"names, each once, such as ({example!r},)")
        return names

    def _check(self, field: str, good: bool, expected: str) -> None:
        if not good:
            raise ValueError(f"{field} of the task {self.name} must be {expected}; got {getattr(self, field)!r}")
