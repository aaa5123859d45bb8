"""Stored runs as tables, one row a run: runs that differ in what a result depends on never stand under one name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pandas as pd

from prilora_lite.experiments.identity import as_floats, parts_of, same_method, same_settings
from prilora_lite.experiments.methods import CONFIGURATION, UNUSUAL, method_name
from prilora_lite.experiments.presets import settings_for, settings_from
from prilora_lite.experiments.stored import main_metric


def to_dataframe(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per run: encoder, task, method, seed, the main metric (name and value), configuration, counts and times.

    ``group`` is the encoder with what departs from its preset's settings; where runs of one group differ in precision,
    rows, weights or the task's definition, these too. Methods of one name whose configurations differ have what differs
    in their names. A run that was stored twice counts once. The configuration's columns are empty for a method that has
    none; those of :data:`UNUSUAL` are there only if some run's is not the default, and ``machine`` only if there were
    several. Listed ranks have no first and last rank.
    """
    rows = []
    for record, title, name in named(records):
        metric, value = main_metric(record)
        settings = settings_from(record["settings"])
        config = _configuration(record["method"])
        rows.append(
            {
                "group": title, "encoder": record["encoder"], "task": record["task"],
                "method": name,
                "seed": record["seed"], "metric": metric, "value": value,
                **{name: config.get(name) for name in (*CONFIGURATION, *UNUSUAL)}, **record["counts"],
                "steps": record["steps"], "epochs": settings.epochs, "learning_rate": settings.learning_rate,
                "seconds_per_step": record["seconds_per_step"], "seconds": record["seconds"],
                "machine": record["environment"].get("machine"),
            }
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    usual = [name for name, default in UNUSUAL.items() if rows and (frame[name].dropna() == default).all()]
    usual += ["machine"] if rows and frame["machine"].nunique() <= 1 else []
    return frame.drop(columns=usual)


def groups(records: Iterable[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Runs that may be compared with one another: same encoder, and the same departures from its preset's settings.

    Runs that differ in precision, in a task's rows or definition, or in the encoder's weights, stand apart.

    Returns:
        Title, such as ``pocket, epochs=0.5`` -> one row per run; runs with the preset's own settings first.
    """
    runs = to_dataframe(records)
    titles = sorted(dict.fromkeys(runs["group"]), key=lambda title: "=" in title)
    return {title: runs[runs["group"] == title].reset_index(drop=True) for title in titles}


def named(records: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], str, str]]:
    """Each run once, with its group and what its method is called there; see :func:`to_dataframe`."""
    records = _each_once(records)
    titles = _titles(records)
    return list(zip(records, titles, _method_names(records, titles), strict=True))


def _each_once(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    once: dict[str, dict[str, Any]] = {}
    for record in records:
        parts = parts_of(record)
        of_key = [parts["task"], parts["weights"] or record["encoder"], parts["precision"], parts["rows"]]
        own = [record["task"], record["seed"], _compared_method(record), same_settings(record["settings"])]
        once.setdefault(json.dumps(as_floats([*of_key, *own]), sort_keys=True), record)
    return list(once.values())


def _compared_method(record: dict[str, Any]) -> str:
    """A record's method as it is compared: only its key tells the code of a rule of the user's own."""
    return same_method(parts_of(record)["method"] or record["method"])


def _titles(records: list[dict[str, Any]]) -> list[str]:
    """The group of each run."""
    encoders: dict[str, str] = {}  # one that was found in several places has the first one's name
    for record in records:
        encoders.setdefault(parts_of(record)["weights"], record["encoder"])
    titles = [
        _departures(record, encoders.get(parts_of(record)["weights"] or "", record["encoder"])) for record in records
    ]
    for part, of_one_task in (("weights", False), ("precision", False), ("rows", True), ("task", True)):
        found: dict[Any, set[str]] = {}
        values = [_shown(part, parts_of(record)[part]) for record in records]
        places = [(title, record["task"] if of_one_task else "") for title, record in zip(titles, records, strict=True)]
        for place, value in zip(places, values, strict=True):
            found.setdefault(place, set()).add(value)
        titles = [
            f"{title}, {value}" if len(found[place]) > 1 else title
            for title, place, value in zip(titles, places, values, strict=True)
        ]
    return titles


def _departures(record: dict[str, Any], encoder: str) -> str:
    preset = asdict(settings_for(encoder, record["task"], record["method"]))
    differ = {name: value for name, value in record["settings"].items() if value != preset.get(name)}
    return encoder + "".join(f", {name}={_in_short(value)}" for name, value in differ.items())


def _in_short(value: Any) -> str:
    """A setting as a title shows it: two numbers that differ never look alike."""
    return f"{value:g}" if isinstance(value, int | float) and float(f"{value:g}") == value else str(value)


def _shown(part: str, value: Any) -> str:
    """A part of a run's key in a title."""
    if value is None:
        return f"{part} not recorded"
    if isinstance(value, dict):
        return "task " + "; ".join(f"{name} {v}" for name, v in value.items())
    return value if part == "precision" else f"{part} {value}"


def _method_names(records: list[dict[str, Any]], titles: list[str]) -> list[str]:
    """What each run's method is called; with what differs, where one name would stand for several configurations."""
    names = [method_name(record) for record in records]
    places = [(title, record["task"], name) for title, record, name in zip(titles, records, names, strict=True)]
    configs: dict[Any, dict[str, dict[str, Any]]] = {}
    for place, record in zip(places, records, strict=True):
        if isinstance(record["method"], dict):
            same = _compared_method(record)
            configs.setdefault(place, {})[same] = json.loads(same)
    return [
        name + _differing(configs[place], _compared_method(record)) if len(configs.get(place, ())) > 1 else name
        for place, record, name in zip(places, records, names, strict=True)
    ]


def _differing(configs: dict[str, dict[str, Any]], own: str) -> str:
    differ = [
        name for name, value in configs[own].items() if any(other.get(name) != value for other in configs.values())
    ]
    return "".join(f", {name} {configs[own][name]}" for name in differ)


def _configuration(method: str | dict[str, Any]) -> dict[str, Any]:
    """The columns of a stored configuration; none for a method without one."""
    if isinstance(method, str):
        return {}
    config = UNUSUAL | method  # the first records are older than other schedules
    if isinstance(config["ranks"], list):
        config |= {"first_rank": None, "last_rank": None}
    return {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in config.items()}
