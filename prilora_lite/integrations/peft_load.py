"""Reads an adapter in PEFT's format: one that this library wrote, or a LoRA of PEFT's own."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prilora_lite.adapt import plan
from prilora_lite.adapter_file import KEY, read_description, read_tensors
from prilora_lite.checkpoint import put_adapter
from prilora_lite.config import PRILoRAConfig
from prilora_lite.fingerprint import stored_parameters
from prilora_lite.integrations.peft_names import CONFIG, WEIGHTS, own_name, peft
from prilora_lite.models.layers import PEFTS_ALPHA, lora_layers, without_wrappers
from prilora_lite.models.linear import linear_shape
from prilora_lite.models.stacks import Stacks, find_stacks, split_name
from prilora_lite.report import Report
from prilora_lite.shared.checks import is_number
from prilora_lite.shared.errors import expect, unknown
from prilora_lite.shared.files import given_path

# The options of LoraConfig that are read here; for the others, only the default is known to compute the same.
READ = (
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type",
    # these say which layers have an adapter, which the file's tensors say as well
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "fan_in_fan_out",
    # these change nothing in what a saved adapter computes
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "megatron_core", "loftq_config", "eva_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
)  # fmt: skip
SAME_BASE = (True, False, "gaussian", "orthogonal", "eva")  # of init_lora_weights: the others change the base's weights
MOST_TRIES = 10**7  # that matching one of alpha_pattern's keys may need
TO_PRUNE = "to prune this one, model.prilora_config = dataclasses.replace(model.prilora_config, ratio=0.5)"
BY_PEFT = "load the adapter with PEFT's PeftModel, which Pruner and PRILoRACallback work on as well"
OUTSIDE = f"which is not a linear layer in a numbered layer of this model: if the adapter is this model's, {BY_PEFT}"


def load_peft_adapter(model: nn.Module, folder: str | Path) -> Report:
    """Adapt a fresh base model as an adapter in PEFT's format says, and load it, in place.

    An adapter that this library wrote is taken only for the base that it was trained on. One that PEFT wrote is taken
    if all modules of a layer have one rank and one scaling; pooler and head stay as they are where it holds none.

    Args:
        model: see :func:`~.checkpoint.load_adapter`.
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        The report of the adapted model; its notes name what the adapter did not hold.

    Raises:
        TypeError: not a model, or not a path.
        FileNotFoundError: one of the two files is missing. A pickle, ``adapter_model.bin``, is never opened.
        ValueError: a file that can't be read, another base model, an option or a structure that this library does not
            have. The model then stays as it was.
        ModuleNotFoundError: PEFT is not installed.
    """
    expect(nn.Module, model, "a model to load the adapter into")
    folder, model = given_path(folder), without_wrappers(model)
    options = _read_options(folder)
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise FileNotFoundError(
            f"{folder} has its weights in a pickle, adapter_model.bin, which could run anything when opened: have its "
            f"author save it again, as {WEIGHTS}"
        )
    metadata, tensors = read_tensors(folder / WEIGHTS)
    twice = [name for name, count in Counter(map(own_name, tensors)).items() if count > 1]
    if twice:
        raise ValueError(f"{folder / WEIGHTS} holds {twice[0]} twice, under two spellings: which one counts?")
    notes, kept = [], {}
    if KEY in metadata:
        config, kept = read_description(metadata[KEY], tensors, model, folder)
    tensors = kept | {own_name(name): tensor for name, tensor in tensors.items()}
    layers = _read_layers(options, tensors, folder)
    if KEY not in metadata:
        config = _configuration(model, layers, options, folder)
        kept = {n: p for n, p in stored_parameters(model).items() if n not in tensors and ".lora_" not in n}
        notes = [f"{name} is not in the file and stays as it is" for name in kept]
        notes.append("PEFT's adapters say nothing of pruning, so ratio is 0; " + TO_PRUNE)
        tensors |= kept
    _check_layers(model, config, layers, folder)
    loaded = put_adapter(model, config, tensors, folder)
    return replace(loaded, notes=tuple(notes))


def _read_options(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says, and PEFT's defaults for what is read of it; refuses what does not compute LoRA."""
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no adapter in PEFT's format: there is no {CONFIG} in it")
    try:
        # earlier versions wrote the names that layers have under torch.compile, in patterns with a backslash
        given = json.loads(file.read_text(encoding="utf-8").replace(r"^_orig_mod\\.", "^"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); it may have been cut off: copy it again") from error
    if not isinstance(given, dict):
        raise ValueError(f"{file} must hold one JSON object, got {type(given).__name__}")
    if given.get("peft_type") != "LORA":
        raise ValueError(f"{file} describes {given.get('peft_type')!r}; of PEFT's methods only LoRA can be read")
    patterns = given.get("alpha_pattern")
    slow = [key for key in patterns if not _matches_soon(key)] if isinstance(patterns, dict) else []
    if slow:
        raise ValueError(
            f"{file} has a pattern that could take hours to match, {slow[0][:80]!r}: name the layers plainly"
        )
    defaults = {f.name: f.default for f in dataclasses.fields(peft().LoraConfig)}
    for name, value in given.items():
        if name not in defaults and (value is None or value is False):
            continue  # an option of a newer PEFT, switched off
        if name not in defaults:
            raise unknown(f"option in {file}", name, defaults)
        as_lora = name in READ or not value or value == defaults[name]
        if name == "bias":
            as_lora = value == "none"
        if name == "init_lora_weights":
            as_lora = value in SAME_BASE
        if not as_lora:
            raise ValueError(f"{file} has {name}={value!r}, which this library does not compute: {BY_PEFT}")
    return {"lora_alpha": PEFTS_ALPHA, "lora_dropout": 0.0} | given


def _read_layers(options: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> dict[str, tuple[int, float]]:
    """Rank and scaling of each module that the adapter adapts, as PEFT would have them."""
    shapes = {name.removesuffix(".lora_A"): A.shape for name, A in tensors.items() if name.endswith(".lora_A")}
    if not shapes:
        raise ValueError(f"{folder} holds no lora_A for any layer of this model")
    for name, shape in shapes.items():
        if len(shape) != 2:
            raise ValueError(f"{folder} adapts {name}, {OUTSIDE}")
    return {name: (rank, _scaling(options, name, rank, folder)) for name, (rank, _) in shapes.items()}


def _configuration(
    model: nn.Module, layers: dict[str, tuple[int, float]], options: dict[str, Any], folder: Path
) -> PRILoRAConfig:
    """The configuration that gives each layer the rank and the scaling of its first module in the file."""
    stacks, _ = find_stacks(model)
    numbered = [modules for layers_of in stacks.values() for modules in layers_of.values()]
    places = {name: module for modules in numbered for name, module in modules.items()}
    for name, (r, _) in layers.items():
        if name not in places:
            raise ValueError(f"{folder} adapts {name}, {OUTSIDE}")
        if r > (most := min(linear_shape(places[name]))):
            raise ValueError(f"{folder} gives {name} rank {r}, but here a rank is at most {most}, its side: {BY_PEFT}")
    adapted = {split_name(name)[0] for name in layers}
    stacks = {stack: numbered for stack, numbered in stacks.items() if stack in adapted}
    longest = max(stacks, key=lambda stack: len(stacks[stack]))
    rank = {split_name(name)[1]: r for name, (r, _) in reversed(layers.items()) if split_name(name)[0] == longest}
    insides, all_insides = (list(dict.fromkeys(split_name(name)[2] for name in some)) for some in (layers, places))
    numbers = list(stacks[longest])  # they may begin above 0, or have gaps
    fields = {
        "first_rank": rank[min(rank)],
        "last_rank": rank[max(rank)],
        "dropout": options["lora_dropout"],
        "targets": None if set(insides) == set(all_insides) else tuple(insides),
        "layers": None if len(rank) == len(numbers) else tuple(sorted(rank)),
        "ratio": 0,
    }
    line = dict(zip(numbers, PRILoRAConfig(**fields).layer_ranks(len(numbers)), strict=True))
    if any(line[number] != r for number, r in rank.items()):
        fields["ranks"] = _filled(rank, numbers)
    return PRILoRAConfig(**fields, **_scaling_fields(PRILoRAConfig(**fields), stacks, layers))


def _scaling_fields(config: PRILoRAConfig, stacks: Stacks, layers: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """``scaling`` and ``alpha``: the rule by which one alpha serves all modules; else the scalings as they are."""
    means = {stack: statistics.mean(config.layer_ranks(len(numbered))) for stack, numbered in stacks.items()}
    alphas = {
        "layer": [s * rank for rank, s in layers.values()],
        "sqrt": [s * math.sqrt(rank * means[split_name(name)[0]]) for name, (rank, s) in layers.items()],
        "mean": [s * means[split_name(name)[0]] for name, (_, s) in layers.items()],
    }
    for rule, alpha in alphas.items():
        if math.isclose(min(alpha), max(alpha)):
            return {"scaling": rule, "alpha": alpha[0]}
    s = {split_name(name)[1]: s for name, (_, s) in reversed(layers.items())}
    return {"scaling": _filled(s, list(max(stacks.values(), key=len)))}


def _filled(values: dict[int, Any], numbers: list[int]) -> tuple[Any, ...]:
    """A value for every layer, by their numbers; one that has none gets that of the nearest."""
    return tuple(values[min(values, key=lambda number: abs(number - l))] for l in numbers)


def _check_layers(model: nn.Module, config: PRILoRAConfig, layers: dict[str, tuple[int, float]], folder: Path) -> None:
    """Raise ValueError if a configuration gives a module another rank or scaling than the adapter has."""
    here = {name: (layer.rank, layer.scaling) for name, layer in lora_layers(model).items()}
    if not here:
        planned = plan(model, config)[0]
        here = {name: (layer.rank, layer.scaling) for layer in planned for name in layer.modules}
    for name in sorted(here.keys() | layers.keys()):
        (rank, s), (rank_here, s_here) = layers.get(name, (0, 0)), here.get(name, (0, 0))
        if rank != rank_here or not math.isclose(s, s_here):
            raise ValueError(
                f"{folder} gives {name} rank {rank} and scaling {s:g}; by the rest of its layer, or by the "
                f"configuration that it was written with, they would be {rank_here} and {s_here:g}: here all modules "
                f"of a layer have one rank and one scaling. {BY_PEFT[0].upper()}{BY_PEFT[1:]}"
            )


def _scaling(options: dict[str, Any], module: str, rank: int, folder: Path) -> float:
    """s of a module, as PEFT computes it."""
    patterns = options.get("alpha_pattern") or {}
    try:
        alpha = patterns.get(peft().utils.other.get_pattern_key(patterns, module), options["lora_alpha"])
        if not (is_number(alpha) and alpha > 0):
            raise TypeError(f"alpha must be a finite number above 0, got {alpha!r:.80}")
        return alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)
    except (AttributeError, TypeError, ArithmeticError, RecursionError, re.error) as error:
        raise ValueError(f"{folder / CONFIG} has an alpha that can't be used: {error}") from error


def _matches_soon(pattern: str) -> bool:
    """Whether a regular expression has few repetitions and choices, and repeats no group: it can't backtrack for long.

    On names of some 60 letters a repetition may try each length and a choice both ways, and all of them combine.
    """
    repetitions, choices = len(re.findall(r"[*+{]", pattern)), len(re.findall(r"[|?]", pattern))
    return not re.search(r"\)[*+{]", pattern) and 60**repetitions * 2**choices <= MOST_TRIES
