"""When two runs are the same one: the one description of a run by what its result depends on, wherever runs are read.

Rows and encoders count by their content, not by their names. A record may be older than a setting: what it lacks is
filled with its default. What has no effect does not count, and 3 epochs are 3.0 epochs. Versions of packages are
written down with each run, but not compared.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.encoders import load_encoder
from prilora_lite.experiments.presets import PRESETS, Settings, settings_from
from prilora_lite.experiments.tasks import Task, task_as_json
from prilora_lite.importance import IMPORTANCE_RULES
from prilora_lite.ranks import SCHEDULES
from prilora_lite.shared.callables import callable_name, is_ours

KEY = ("task", "seed", "encoder", "method", "settings", "precision", "rows", "weights")
DIGITS = 16  # of a digest, hexadecimal
PROBE = "Á naïve, 3-word PROBE: don't  stop!"  # shows case, accents, digits and spaces as a tokenizer takes them
# Fields of an encoder's configuration that change nothing in what it computes with a fresh head
_OF_NO_EFFECT = (
    "_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache",
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task",
)  # fmt: skip


def run_key(
    task: Task,
    seed: int,
    encoder: str,
    method: str | PRILoRAConfig,
    settings: Settings,
    precision: str,
    rows: str,
    weights: str,
) -> list[Any]:
    """What a run's result depends on, as JSON has it, in the order of :data:`KEY`.

    Args:
        task, seed, encoder, method, settings, precision: as the run is made, with nothing left to choose.
        rows: see :func:`rows_digest`.
        weights: see :func:`encoder_digest`.
    """
    trains = method_as_json(method)
    if not isinstance(method, str):
        trains |= own_code(method)
    return [task_as_json(task), seed, encoder, trains, asdict(settings), precision, rows, weights]


def described(key: list[Any]) -> dict[str, Any]:
    """A key as ``run.json`` has it: its parts by name, with each of the settings in place of ``settings``."""
    parts = dict(zip(KEY, key, strict=True))
    return {name: part for name, part in parts.items() if name != "settings"} | parts["settings"]


def parts_of(record: dict[str, Any]) -> dict[str, Any]:
    """The parts of a stored run's key by name, see :data:`KEY`; None for those that an older one lacks."""
    key = record["key"] if isinstance(record["key"], list) and len(record["key"]) > 4 else []
    return dict(zip(KEY, [*key, *[None] * len(KEY)], strict=False))


def rows_digest(task: Task, rows: dict[str, Dataset]) -> str:
    """A short hash of the texts and labels that a task reads; no other columns and splits count.

    A run on a sample, or with labels mended, is not taken for one on all rows.
    """
    digest = hashlib.sha256()
    number = int if task.labels else float
    for split in sorted({"train", *task.splits}):
        for column in sorted((*task.columns, "label")):
            values = rows[split][column][:]  # at once: a column is read row by row otherwise
            values = [number(label) for label in values] if column == "label" else list(values)
            digest.update(json.dumps([split, column, values]).encode())
    return digest.hexdigest()[:DIGITS]


def encoder_digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of an encoder as :func:`~.encoders.load_encoder` gives it: weights, configuration, vocabulary.

    The same in a folder and on the hub, and wherever the folder is. What is drawn anew for each run, the head, does not
    count.
    """
    configuration = {name: v for name, v in model.prilora_configuration.items() if name not in _OF_NO_EFFECT}
    words = sorted(tokenizer.get_vocab().items())
    probed = [configuration, words, tokenizer(PROBE)["input_ids"]]
    if unusual := _unusual(tokenizer):
        probed.append(unusual)
    digest = hashlib.sha256(json.dumps(probed, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():  # in their order: versions of transformers have other names
        if name not in model.prilora_fresh:
            digest.update(repr(list(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:DIGITS]


def _unusual(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """How a tokenizer cuts, fills and marks texts, where it is not as nearly all do; the usual adds nothing."""
    sides = {name: getattr(tokenizer, name) for name in ("truncation_side", "padding_side")}
    unusual: dict[str, Any] = {name: side for name, side in sides.items() if side != "right"}
    if "attention_mask" not in tokenizer.model_input_names:
        unusual["model_input_names"] = list(tokenizer.model_input_names)
    return unusual


def digest_of(encoder: str) -> str:
    """The :func:`encoder_digest` of an encoder by its name; the random numbers of the caller stay as they are.

    That of a preset is computed once in a process, as its weights or their revision are pinned.

    Raises:
        ValueError, OSError: see :func:`~.encoders.load_encoder`.
    """
    return (_digest_of_preset if encoder in PRESETS else _digest_of)(encoder)


def _digest_of(encoder: str) -> str:
    state = torch.get_rng_state()
    try:
        return encoder_digest(*load_encoder(encoder, "cola"))  # any task: its head does not count
    finally:
        torch.set_rng_state(state)  # the fresh head was drawn


_digest_of_preset = lru_cache(_digest_of)


def method_as_json(method: str | PRILoRAConfig) -> str | dict[str, Any]:
    """A method as JSON has it."""
    return method if isinstance(method, str) else method.to_dict()


def own_code(config: PRILoRAConfig) -> dict[str, str]:
    """A digest of each function of the user's own that a configuration names: an edited one makes other runs.

    The package's own functions are left out, and those that have no effect.
    """
    config = config.canonical()
    tables = {"importance": IMPORTANCE_RULES, "ranks": SCHEDULES}
    given = {name: getattr(config, name) for name in tables}  # ranks themselves, or a function, are in no table
    named = {name: tables[name][value] for name, value in given.items() if isinstance(value, str)}
    return {f"{name}_code": callable_name(rule) for name, rule in named.items() if not is_ours(rule)}


def same_method(method: str | dict[str, Any]) -> str:
    """Two stored methods, names or configurations, train alike if this is equal.

    Raises:
        ValueError: a configuration with a setting that does not exist, or a value out of range.
    """
    return _same_method(json.dumps(method))


@lru_cache(maxsize=10_000)  # a study has few methods and settings, and many lines
def _same_method(text: str) -> str:
    method = json.loads(text)
    if isinstance(method, str):
        return text
    code = {name: method.pop(name) for name in ("importance_code", "ranks_code") if name in method}
    return _text(PRILoRAConfig.from_dict(method).canonical().to_dict() | code)


def same_settings(settings: dict[str, Any]) -> str:
    """Two stored settings are the same if this is equal.

    Raises:
        ValueError: a setting that does not exist, or a value out of range.
    """
    return _same_settings(json.dumps(settings))


@lru_cache(maxsize=10_000)
def _same_settings(text: str) -> str:
    return _text(asdict(settings_from(json.loads(text))))


def same_fields(run: dict[str, Any]) -> dict[str, Any]:
    """The description of a run in its folder, ``run.json``, with each field as it is compared.

    Args:
        run: as :func:`described` gives it.

    Raises:
        ValueError, TypeError: see :func:`same_method`.
    """
    filled = {field.name: field.default for field in fields(Settings)} | run
    compared = as_floats(filled)
    if "method" in run:
        compared["method"] = same_method(run["method"])
    if run.get("weights"):
        compared["encoder"] = None  # its weights tell what it is, wherever they are
    return compared


def same_run(key: list[Any]) -> str:
    """Two keys of :func:`run_key` name the same run if this is equal.

    Encoders whose weights are known count by these alone; a key may be cut off behind the settings.
    """
    task, seed, encoder, method, settings, *rest = key
    if len(rest) == 3:
        encoder = None
    return json.dumps([task, seed, encoder, same_method(method), same_settings(settings), *rest])


def _text(fields: dict[str, Any]) -> str:
    return json.dumps(as_floats(fields), sort_keys=True)


def as_floats(value: Any) -> Any:
    """The same value with each integer in it as a float, and tuples as lists, so that equal ones have one text."""
    if isinstance(value, dict):
        return {name: as_floats(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_floats(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
