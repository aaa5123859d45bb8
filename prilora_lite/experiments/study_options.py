"""What a study can be told: the options of ``prilora-lite ablate``, and the keys of a study's file, from one table."""

from __future__ import annotations

import argparse
import dataclasses
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from prilora_lite.shared.errors import unknown
from prilora_lite.shared.files import given_path

if TYPE_CHECKING:
    from prilora_lite.experiments.task import Task


def _ranks(text: str) -> tuple[int, int]:
    """``4..12`` -> (4, 12), ``8`` -> (8, 8)."""
    first, dots, last = text.partition("..")
    try:
        return int(first), int(last if dots else first)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: expected FIRST..LAST, such as 4..12, or one rank; a schedule is named by --schedules"
        ) from None


def _schedule(text: str) -> str | tuple[int, ...]:
    """``2,2,8,8`` -> (2, 2, 8, 8); a name as it is."""
    try:
        return tuple(map(int, text.split(","))) if "," in text else text
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected the name of a schedule, or ranks such as 2,2,8,8") from None


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = 0.0
    if not 0 < margin < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number of percentage points above 0")
    return margin


CROSSED = ("ranks", "schedules", "ratios", "intervals", "importances", "scalings")
OPTIONS: dict[
    str, dict[str, Any]
] = {  # name -> how argparse takes it; names() says what stands for {name} in a help text
    "methods": {
        "nargs": "+",
        "metavar": "M",
        "help": "{methods} (houlsby and pfeiffer are bottleneck adapters, adalora needs PEFT), or all for these; or "
        "variants of lora, ranks and prilora: {contrasts} (default: lora prilora, or none if configurations are given)",
    },
    "ranks": {
        "nargs": "+",
        "type": _ranks,
        "metavar": "R",
        "help": "first and last rank, such as 12..4 8 4..12 (default: 4..12)",
    },
    "schedules": {
        "nargs": "+",
        "type": _schedule,
        "metavar": "S",
        "help": "how ranks go from the first to the last: {schedules}; or a rank for each layer, such as 2,2,8,8 "
        "(default: linear)",
    },
    "ratios": {"nargs": "+", "type": float, "metavar": "P", "help": "share of A that is pruned (default: 0.5)"},
    "intervals": {"nargs": "+", "type": int, "metavar": "N", "help": "steps between prunes (default: 40)"},
    "importances": {"nargs": "+", "metavar": "I", "help": "{importances} (default: magnitude_input)"},
    "scalings": {"nargs": "+", "metavar": "S", "help": "{scalings} (default: layer)"},
    "tasks": {
        "nargs": "+",
        "metavar": "T",
        "help": "{pocket_tasks}; from the hub or --rows: {other_tasks} (default: pocket-rte)",
    },
    "seeds": {"nargs": "+", "type": int, "metavar": "N", "help": "one run for each (default: 0 1)"},
    "margin": {
        "type": _margin,
        "metavar": "POINTS",
        "help": "the largest difference that counts as no difference, in percentage points, chosen before the runs "
        "(default: 1)",
    },
    "encoder": {
        "type": os.path.expanduser,  # a folder may be at home
        "metavar": "E",
        "help": "{encoders} (pocket-random is pocket without its pre-training; paper is DeBERTaV3-base), a folder, or "
        "a name on the Hugging Face hub, owner/name or owner/name@REVISION (default: pocket)",
    },
    "rows": {
        "metavar": "FOLDER",
        "help": "folder with TASK/train.parquet and TASK/validation.parquet, or .csv (default: $PRILORA_GLUE, else "
        "the hub)",
    },
    "output": {
        "type": given_path,
        "metavar": "FILE",
        "help": "file of runs, ending in .jsonl; tables and figures go beside it (default: beside FILE.toml, with its "
        "name; else runs/ablation.jsonl)",
    },
    "set": {
        "nargs": "+",
        "action": "extend",
        "metavar": "NAME=VALUE",
        "help": "change training settings for all runs, as in epochs=1 learning_rate=5e-4; there are {settings}",
    },
    "precision": {
        "choices": ["auto", "fp32", "bf16"],
        "help": "auto (default): the encoder's own setting if it has one, else bf16 where the device supports it",
    },
    "device": {"choices": ["cuda", "mps", "cpu"], "help": "where to train (default: the first that is available)"},
    "jobs": {"type": int, "metavar": "N", "help": "runs at a time (default: 1, with Ray one for each processor)"},
    "backend": {
        "metavar": "B",
        "help": "processes: on this machine (default); ray: on a Ray cluster (needs Ray)",
    },
}


def names() -> dict[str, str]:
    """What the help names, from the tables that the runs use: they take seconds to load."""
    from prilora_lite.config import SCALINGS
    from prilora_lite.experiments.methods import CONTRASTS, METHODS
    from prilora_lite.experiments.presets import PRESETS
    from prilora_lite.experiments.tasks import TASKS
    from prilora_lite.importance import IMPORTANCE_RULES
    from prilora_lite.ranks import SCHEDULES

    return {
        "methods": ", ".join(name for name in METHODS if name not in CONTRASTS),
        "contrasts": ", ".join(CONTRASTS),
        "schedules": ", ".join(SCHEDULES),
        "importances": ", ".join(IMPORTANCE_RULES),
        "scalings": ", ".join(SCALINGS),
        "pocket_tasks": " ".join(task.name for task in TASKS.values() if task.in_package),
        "other_tasks": " ".join(task.name for task in TASKS.values() if not task.in_package),
        "encoders": ", ".join(PRESETS),
        "settings": ", ".join(_kinds_of_settings()),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser all of :data:`OPTIONS`."""
    crossed = parser.add_argument_group("configurations: all combinations of these values")
    for name, how in OPTIONS.items():
        (crossed if name in CROSSED else parser).add_argument(f"--{name}", **how)


def told(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line and the study's file say, by option; the command line overrides the file.

    Raises:
        OSError: a file that is not there.
        ValueError: one that is not TOML, or says what no study can be told.
    """
    on_the_line = {name: value for name, value in vars(options).items() if name in OPTIONS}
    in_the_file = read_file(options.study) if options.study else {}
    settings = [*in_the_file.get("set", []), *on_the_line.get("set", [])]
    together = in_the_file | on_the_line | {"set": settings}
    if own := together.pop("task", None):
        together["tasks"] = [own if name == own.name else name for name in together.get("tasks", [own.name])]
    return together


def read_file(file: Path) -> dict[str, Any]:
    """The options in a study's file, each with the value that the command line would give it.

    A table ``task`` describes a task of one's own, in the words of :class:`~.task.Task`.

    Raises:
        OSError: no such file.
        ValueError: not TOML, an unknown option, or a value that it does not take.
    """
    study = read_toml(file, "a study is described")
    parser = _Parser(argument_default=argparse.SUPPRESS)
    add_options(parser)
    options: dict[str, Any] = {}
    for name, value in study.items():
        if name not in (*OPTIONS, "task"):
            if name in _kinds_of_settings():
                raise ValueError(f"{file}: {name} is one of the settings of training: write it under [set]")
            raise unknown(f"option in {file}:", name, (*OPTIONS, "task"))
        try:
            if name == "task":
                options["task"] = own_task(value)
                continue
            words = _words(name, value)
            options |= vars(parser.parse_args([f"--{name}", *words]))
            if name == "set":
                read_settings(words)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    own = options.get("task")
    if own and own.name not in options.get("tasks", [own.name]):
        raise ValueError(
            f"{file}: [task] describes {own.name}, and tasks do not name it: {', '.join(options['tasks'])}"
        )
    for name in ("rows", "encoder"):
        if name in options:
            options[name] = beside(file, options[name])
    if "output" in options:
        options["output"] = file.parent / given_path(options["output"])
    return options


def read_toml(file: Path, what: str) -> dict[str, Any]:
    """What a file says in which ``what``; OSError if there is none, ValueError if it is not TOML."""
    if not file.is_file():
        wrong = "is a folder" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{file} {wrong}; {what} in a file that ends in .toml")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not TOML: {error}") from error


def holds_questions(file: Path) -> bool:
    """Whether a file is one of questions, not of a study; what can't be read is neither."""
    try:
        return "question" in read_toml(file, "questions are described")
    except ValueError:
        return False


def beside(file: Path, path: str) -> str:
    """A path that a file names, which counts from the file's folder if there is such a thing there; a preset's name."""
    from prilora_lite.experiments.presets import PRESETS

    if path in PRESETS:
        return path
    return str(file.parent / path) if (file.parent / path).exists() else path


def own_task(value: Any) -> Task:
    """The task of one's own that a table ``[task]`` describes, in the words of :class:`~.task.Task`.

    Raises:
        ValueError: no table, a part that is missing or unknown, or a value that no task can have.
    """
    from prilora_lite.experiments.task import Task

    parts = ("name", "columns", "labels", "metrics", "splits")
    if not isinstance(value, dict):
        raise ValueError(f"task must be a table [task] with {', '.join(parts)}, got {value!r}")
    for part in value:
        if part not in parts:
            raise unknown("part of [task]", part, parts)
    lacks = [part for part in parts[:2] if part not in value]
    if lacks:
        raise ValueError(f"[task] lacks {', '.join(lacks)}")
    return Task(**value)


class _Parser(argparse.ArgumentParser):
    """Raises its message as an error, so that the file can be named in it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _words(name: str, value: Any) -> list[str]:
    """The value of a study's file as words of the command line, none of which is an option.

    Raises:
        ValueError: a list in place of one value or the reverse, nothing at all, or an option.
    """
    expected = "a table" if name == "set" else "a list" if "nargs" in OPTIONS[name] else "one value"
    given = "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else "one value"
    if given != expected:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    if value in ([], {}):
        raise ValueError(f"{name} holds nothing: give it a value, or leave it out")
    if given == "a table":
        return [f"{setting}={number}" for setting, number in value.items()]
    values = value if given == "a list" else [value]
    for word in values:
        if isinstance(word, str) and word.startswith("-"):
            raise ValueError(f"{name} holds {word!r}, which is an option, not a value")
    return [str(word) for word in values]


def _kinds_of_settings() -> dict[str, str]:
    """The settings of a run by name, with the type of each as it is written."""
    from prilora_lite.experiments.presets import Settings

    return {field.name: str(field.type) for field in dataclasses.fields(Settings)}


def read_settings(pairs: list[str]) -> dict[str, Any]:
    """``["epochs=1"]`` -> ``{"epochs": 1}``, checked against the settings there are."""
    kinds = _kinds_of_settings()
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in kinds:
            raise unknown("setting", name, kinds)
        convert, what = (int, "INTEGER") if "int" in kinds[name] else (float, "NUMBER")
        try:
            values[name] = convert(text)
        except ValueError:
            raise ValueError(f"--set {pair}: expected {name}={what}") from None
    return values
