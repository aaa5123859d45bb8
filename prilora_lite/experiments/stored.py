"""Whether a line of a study's file has the form that ``ablate`` writes: every reader of runs relies on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.identity import parts_of
from prilora_lite.experiments.loop import names_of_metrics
from prilora_lite.experiments.presets import settings_from
from prilora_lite.experiments.tasks import Task, get_task
from prilora_lite.importance import IMPORTANCE_RULES
from prilora_lite.ranks import SCHEDULES

COUNTS = ("adapter", "adapter_nonzero", "head", "head_nonzero", "base")


def main_metric(record: dict[str, Any]) -> tuple[str, float]:
    """Name and value of a run's main metric, which is the one that its task defines, in whatever order they are stored.

    Args:
        record: a run as ``ablate`` writes it; the definition of a task of one's own stands in its key.

    Raises:
        ValueError: a task that is not known, or a record without the metric.
    """
    task = parts_of(record)["task"]
    name = names_of_metrics(Task(**task) if isinstance(task, dict) else get_task(record["task"]))[0]
    if name not in record["metrics"]:
        raise ValueError(f"expected {name}, the main metric of {record['task']}, got {record['metrics']!r:.80}")
    return name, record["metrics"][name]


def check_stored(path: str | Path, record: dict[str, Any]) -> None:
    """Raise ValueError, which names the run and what is wrong with it, if a reader of runs could not use a record."""
    for part, problem in _problems(record):
        what = "Another version wrote it, or it was changed by hand: mend or remove its line"
        if _names_own_code(record):
            what = (
                "The run was made with a rule or schedule of your own. The command does not know it: in Python, enter "
                "it into IMPORTANCE_RULES or SCHEDULES as before, then call ablate, or, from prilora_lite.experiments, "
                "reporting.write(Path(FILE))"
            )
        raise ValueError(
            f"{path}: {part} of the run {record['task']!r}, {record['name']!r}, seed {record['seed']!r} can't be "
            f"read: {problem}. {what}"
        )


def _names_own_code(record: dict[str, Any]) -> bool:
    """Whether a run's method names a function that only the process that made it had."""
    method = parts_of(record)["method"] if isinstance(record.get("key"), list) else None
    tables = {"importance": IMPORTANCE_RULES, "ranks": SCHEDULES}
    return isinstance(method, dict) and any(
        f"{name}_code" in method and method.get(name) not in list(table) for name, table in tables.items()
    )


def _problems(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each part that no reader could use, and why; the main metric, which several parts tell, comes last."""
    for part, (is_right, expected) in _PARTS.items():
        try:
            if not is_right(record[part]):
                yield part, f"expected {expected}, got {record[part]!r:.80}"
        except (ValueError, TypeError) as error:
            yield part, str(error)
    try:
        main_metric(record)
    except (ValueError, TypeError) as error:
        yield "metrics", str(error)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_numeric, value.values()))


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_numeric(value.get(name)) for name in COUNTS)


def _are_settings(value: Any) -> bool:
    return isinstance(value, dict) and bool(settings_from(value))  # which raises what is wrong


def _is_key(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 4 and _are_settings(value[4])


def _is_method(value: Any) -> bool:
    return isinstance(value, str) or bool(PRILoRAConfig.from_dict(value))  # which raises what is wrong


# What the record of a finished run must have, those of older versions, too: a check, and what it expects in words
_PARTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "a method's name"),
    "encoder": (lambda value: isinstance(value, str), "an encoder's name"),
    "settings": (_are_settings, "settings by their names"),
    "key": (_is_key, "a list with task, seed, encoder, method, settings, precision and what else the run depends on"),
    "task": (lambda value: isinstance(value, str), "a task's name"),
    "method": (_is_method, "a method's name or a configuration"),
    "seed": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "metrics": (_are_metrics, "numbers by the names of metrics, at least one"),
    "curve": (lambda value: isinstance(value, list), "a list of evaluations"),
    "pruning": (lambda value: isinstance(value, list), "a list of prunes"),
    "counts": (_are_counts, f"numbers for {', '.join(COUNTS)}"),
    "steps": (_is_numeric, "a number"),
    "seconds_per_step": (_is_numeric, "a number"),
    "seconds": (_is_numeric, "a number"),
    "environment": (lambda value: isinstance(value, dict), "versions by the names of packages"),
}
RECORD = tuple(part for part in _PARTS if part != "key")  # which every record has
