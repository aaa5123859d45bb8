"""When two runs are the same one: the one comparison of methods and settings, used wherever stored runs are read.

A record may be older than a setting: what it lacks is filled with its default. What has no effect does not count, and
3 epochs are 3.0 epochs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.encoders import Settings


def method_as_json(method: str | PRILoRAConfig) -> str | dict[str, Any]:
    """A method as JSON has it."""
    return method if isinstance(method, str) else method.to_dict()


def same_method(method: str | dict[str, Any]) -> str:
    """Two stored methods, names or configurations, train alike if this is equal.

    Raises:
        ValueError: a configuration with a setting that does not exist, or a value out of range.
    """
    if isinstance(method, str):
        return json.dumps(method)
    return _text(PRILoRAConfig.from_dict(method).canonical().to_dict())


def same_settings(settings: dict[str, Any]) -> str:
    """Two stored settings are the same if this is equal.

    Raises:
        ValueError, TypeError: a setting that does not exist, or a value out of range.
    """
    return _text(asdict(Settings(**settings)))


def same_fields(run: dict[str, Any]) -> dict[str, Any]:
    """The description of a run in its folder, ``run.json``, with each field as it is compared.

    Args:
        run: task, encoder, seed, method as JSON has it, and each of the settings.

    Raises:
        ValueError, TypeError: see :func:`same_method`.
    """
    filled = {field.name: field.default for field in fields(Settings)} | run
    compared = {name: _as_floats(value) for name, value in filled.items()}
    return compared | ({"method": same_method(run["method"])} if "method" in run else {})


def same_run(key: list[Any]) -> str:
    """Two keys of :func:`~.study.run_key` name the same run if this is equal."""
    task, seed, encoder, method, settings, *rest = key
    return json.dumps([task, seed, encoder, same_method(method), same_settings(settings), *rest])


def _text(fields: dict[str, Any]) -> str:
    return json.dumps({name: _as_floats(value) for name, value in fields.items()}, sort_keys=True)


def _as_floats(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_floats(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
