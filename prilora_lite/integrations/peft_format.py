"""PEFT's side of the fence: rank patterns for its LoraConfig, and adapters in its format, written and read."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors.torch import save
from torch import Tensor, nn

from prilora_lite.adapt import Report, find_stacks, head_modules, plan, report, split_name
from prilora_lite.checkpoint import (
    KEY,
    check_all_is_stored,
    description,
    put_adapter,
    read_description,
    read_tensors,
    stored_parameters,
)
from prilora_lite.config import PRILoRAConfig, is_number
from prilora_lite.experiments.encoders import PRESETS
from prilora_lite.experiments.tasks import HUB_NAME, get_task
from prilora_lite.lora import LoRALinear, is_conv1d
from prilora_lite.models.structure import lora_layers
from prilora_lite.shared.errors import expect, unknown
from prilora_lite.shared.files import not_written

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG, WEIGHTS, CARD, PREFIX = "adapter_config.json", "adapter_model.safetensors", "README.md", "base_model.model."
# Of LoraConfig's options those that are read here; of the others only the default is known to compute the same.
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
INSTEAD = "load the adapter with PEFT's PeftModel, which Pruner and PRILoRACallback work on as well"


def rank_pattern_for(
    model: nn.Module,
    first: int = 4,
    last: int = 12,
    *,
    alpha: float = 16.0,
    scaling: str | tuple[float, ...] = "layer",
    targets: tuple[str, ...] | None = None,
) -> dict[str, dict[str, float]]:
    r"""Rising ranks for PEFT: ``LoraConfig(..., **rank_pattern_for(model))``.

    .. math:: r_l = \mathrm{round}\Big(r_s + (r_f - r_s)\,\frac{l}{L-1}\Big), \qquad \alpha_l = s\, r_l

    so that PEFT's own scaling, :math:`\alpha_l / r_l`, is s; not under ``use_rslora``, which divides by the root of
    r_l. Each key is a layer's whole name from the model's root on, so that layer 1 is not taken for layer 11, nor
    attention's ``output.dense`` for that of feed-forward.

    Args:
        model: the base model, before ``get_peft_model``.
        first, last: r_s and r_f, ranks of the first and the last layer.
        alpha, scaling: s, see :class:`~.config.PRILoRAConfig`.
        targets: the linear layers that PEFT is going to adapt, None for any; ranks must fit them.

    Returns:
        ``rank_pattern`` and ``alpha_pattern``.

    Raises:
        TypeError, ValueError: see :func:`~.adapt.adapt`.

    >>> from transformers import BertConfig, BertModel
    >>> small = BertConfig(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40)
    >>> rank_pattern_for(BertModel(small), first=2, last=6)["rank_pattern"]
    {'^encoder\\.layer\\.0\\..+': 2, '^encoder\\.layer\\.1\\..+': 4, '^encoder\\.layer\\.2\\..+': 6}
    """
    expect(nn.Module, model, "a model")
    config = PRILoRAConfig(first_rank=first, last_rank=last, alpha=alpha, scaling=scaling, targets=targets)
    names = {module: name for name, module in model.named_modules()}
    layers = {}
    for layer in plan(model, config)[0]:
        stack, number, _ = split_name(names[next(iter(layer.modules.values()))])
        layers[stack, number] = layer.rank, layer.scaling
    return _patterns(layers)


def save_peft_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    base_model: str | None = None,
    task: str | None = None,
    metrics: dict[str, float] | None = None,
) -> Path:
    """Write an adapted model as PEFT does: its configuration, its weights, and a model card; ready to be uploaded.

    ``PeftModel.from_pretrained(base, folder)`` gives the same logits. The folder is written beside its place and moved
    there in one step.

    Args:
        model: a model that :func:`~.adapt.adapt` has been called on.
        folder: where to; it must not exist, or be empty.
        base_model: name of the base on the hub, or its folder; default: what the model was loaded from.
        task: a GLUE task or one of pocket's, and
        metrics: its metrics, both for the card.

    Returns:
        The folder.

    Raises:
        TypeError: no model, or no path.
        ValueError: the model is not adapted, or is PEFT's own; parameters are trained that an adapter does not hold,
            or a head has some outside of any module; an unknown task, or metrics that are none.
        FileExistsError: the folder holds something.
        ModuleNotFoundError: PEFT is not installed.
        OSError: it can't be written.
    """
    config = getattr(model, "prilora_config", None)
    layers = {name: layer for name, layer in lora_layers(model).items() if isinstance(layer, LoRALinear)}
    if config is None or not layers:
        raise ValueError(
            "this model is not adapted by adapt(model, config), so there is no adapter to write; a model of PEFT's is "
            "written by its own save_pretrained"
        )
    check_all_is_stored(model)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something already: give another folder, or remove it first")
    metrics = {} if metrics is None else metrics
    if not (isinstance(metrics, dict) and all(is_number(value) for value in metrics.values())):
        raise ValueError(f"metrics must be names and numbers, such as {{'accuracy': 0.8}}, got {metrics!r}")
    if metrics and task is None:
        raise ValueError(f"metrics of which task? Give task=..., such as 'mrpc', beside {metrics}")
    lora = _lora_config(model, layers, config)
    lora.base_model_name_or_path, lora.revision = _base_of(model, base_model)
    card = _card(model, config, lora.base_model_name_or_path, task, metrics)
    tensors = {_peft_name(name): p.detach().contiguous().clone() for name, p in stored_parameters(model).items()}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lora.save_pretrained(temporary)
        (temporary / WEIGHTS).write_bytes(save(tensors, {"format": "pt", KEY: description(model, tensors)}))
        card.save(temporary / CARD)
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        raise not_written(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_peft_adapter(model: nn.Module, folder: str | Path) -> Report:
    """Adapt a fresh base model as an adapter in PEFT's format says, and load it, in place.

    An adapter that this library wrote is taken for the base that it was trained on alone. One that PEFT wrote is taken
    if its ranks lie on a line, as those of plain LoRA do; pooler and head stay as they are where it holds none.

    Args:
        model: see :func:`~.checkpoint.load_adapter`.
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        The report of the adapted model; its notes name what the adapter did not hold.

    Raises:
        TypeError: no model, or no path.
        FileNotFoundError: one of the two files is missing. A pickle, ``adapter_model.bin``, is never opened.
        ValueError: a file that can't be read, another base model, an option or a structure that this library does not
            have. The model is as it was then.
        ModuleNotFoundError: PEFT is not installed.
    """
    expect(nn.Module, model, "a model to load the adapter into")
    folder = Path(folder)
    options = _read_options(folder)
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise FileNotFoundError(
            f"{folder} has its weights in a pickle, adapter_model.bin, which could run anything when opened: have its "
            f"author save it again, as {WEIGHTS}"
        )
    metadata, tensors = read_tensors(folder / WEIGHTS)
    twice = [name for name, count in Counter(map(_own_name, tensors)).items() if count > 1]
    if twice:
        raise ValueError(f"{folder / WEIGHTS} holds {twice[0]} twice, under two spellings: which one counts?")
    notes = []
    if KEY in metadata:
        config = read_description(metadata[KEY], tensors, model, folder)
    tensors = {_own_name(name): tensor for name, tensor in tensors.items()}
    layers = _read_layers(options, tensors, folder)
    if KEY not in metadata:
        config = _line_through(model, layers, options, folder)
        kept = {n: p for n, p in stored_parameters(model).items() if n not in tensors and ".lora_" not in n}
        notes = [f"{name} is not in the file and stays as it is" for name in kept]
        notes.append("PEFT's adapters say nothing of pruning, so ratio is 0; " + TO_PRUNE)
        tensors |= kept
    _check_layers(model, config, layers, folder)
    loaded = put_adapter(model, config, tensors, folder)
    return replace(loaded, notes=tuple(notes))


def _lora_config(model: nn.Module, layers: dict[str, LoRALinear], config: PRILoRAConfig) -> LoraConfig:
    of_layers = {split_name(name)[:2]: (layer.rank, layer.scaling) for name, layer in layers.items()}
    rank, scaling = next(iter(of_layers.values()))
    heads = head_modules(model)
    if "" in heads:
        raise ValueError(
            f"{type(model).__name__} has parameters of its head outside of any module, which PEFT can't write: "
            "use save_adapter(model, path)"
        )
    return _peft().LoraConfig(
        r=rank,
        lora_alpha=scaling * rank,
        lora_dropout=config.dropout,
        target_modules=list(layers),
        modules_to_save=heads or None,
        fan_in_fan_out=any(is_conv1d(layer.base) for layer in layers.values()),
        inference_mode=True,
        auto_mapping={"base_model_class": type(model).__name__, "parent_library": type(model).__module__},
        **(_patterns(of_layers) if len(set(of_layers.values())) > 1 else {}),
    )


def _patterns(of_layers: dict[tuple[str, int], tuple[int, float]]) -> dict[str, dict[str, float]]:
    """A regular expression for each layer, as PEFT matches them; its rank, and its rank times the scaling."""
    keys = {(stack, number): "^" + re.escape(f"{stack}.{number}.".lstrip(".")) + ".+" for stack, number in of_layers}
    return {
        "rank_pattern": {keys[layer]: rank for layer, (rank, _) in of_layers.items()},
        "alpha_pattern": {keys[layer]: rank * scaling for layer, (rank, scaling) in of_layers.items()},
    }


def _base_of(model: nn.Module, given: str | None) -> tuple[str | None, str | None]:
    """Name of the base model and its revision, as far as they are known."""
    preset = PRESETS.get(getattr(model, "prilora_encoder", ""))
    if given is None and preset is not None:
        return preset.hub_name, preset.revision
    return given or getattr(model, "name_or_path", None) or None, None


def _card(
    model: nn.Module, config: PRILoRAConfig, base: str | None, task: str | None, metrics: dict[str, float]
) -> ModelCard:
    """What the adapter is: a table for people, and the fields that the hub reads."""
    counts = report(model)
    As = [layer.lora_A for layer in lora_layers(model).values()]
    sparsity = 1 - sum(int(A.count_nonzero()) for A in As) / sum(A.numel() for A in As)
    pruned = f"{config.ratio:g} of A, by {config.importance}, every {config.interval} optimizer steps"
    if not config.ratio:
        pruned = "not by this configuration" if sparsity else "nothing"
    rows = {
        "base model": base or "unknown",
        "ranks, first layer to last": ", ".join(map(str, counts.ranks)),
        "scaling": ", ".join(f"{s:g}" for s in dict.fromkeys(module.scaling for module in counts.modules)),
        "pruned in training": pruned,
        "lora_A and lora_B": f"{counts.adapter:,} entries, {counts.adapter_nonzero:,} not zero",
        "zeros in lora_A": f"{sparsity:.1%}",
        "pooler and head": f"{counts.head:,} entries",
        "task": task or "unknown",
    } | {f"{name}, validation rows": f"{value:.4f}" for name, value in metrics.items()}
    on_hub = task is not None and not get_task(task).in_package
    place = {"dataset_type": HUB_NAME, "dataset_config": task} if on_hub else {"dataset_type": task}
    data = ModelCardData(
        base_model=base if base and not Path(base).exists() else None,
        datasets=[HUB_NAME] if on_hub else None,
        library_name="peft",
        tags=["lora", "prilora"],
        model_name="PRILoRA adapter" if metrics else None,
        eval_results=[
            EvalResult("text-classification", dataset_name=task, metric_type=name, metric_value=value, **place)
            for name, value in metrics.items()
        ]
        or None,
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# PRILoRA adapter\n\n"
        "A low-rank adapter after [PRILoRA](https://arxiv.org/abs/2401.11316): LoRA with a rank for each layer, whose\n"
        "A may be pruned while it trains. Written by prilora-lite.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        "`PeftModel.from_pretrained(base_model, folder)` of PEFT loads it, or `load_peft_adapter(base_model, folder)`\n"
        "of prilora-lite.\n"
    )


def _read_options(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says, with PEFT's defaults for the rest; refuse what computes otherwise than LoRA."""
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no adapter in PEFT's format: there is no {CONFIG} in it")
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}); it may have been cut off: copy it again") from error
    if not isinstance(given, dict):
        raise ValueError(f"{file} must hold one JSON object, got {type(given).__name__}")
    if given.get("peft_type") != "LORA":
        raise ValueError(f"{file} describes {given.get('peft_type')!r}; of PEFT's methods LoRA alone can be read")
    patterns = given.get("alpha_pattern")
    slow = [key for key in patterns if not _matches_soon(key)] if isinstance(patterns, dict) else []
    if slow:
        raise ValueError(
            f"{file} has a pattern that could take hours to match, {slow[0][:80]!r}: name the layers plainly"
        )
    defaults = {f.name: f.default for f in dataclasses.fields(_peft().LoraConfig)}
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
            raise ValueError(f"{file} has {name}={value!r}, which this library does not compute: {INSTEAD}")
    return {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0} | given


def _read_layers(options: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> dict[str, tuple[int, float]]:
    """Rank and scaling of each module that the adapter adapts, as PEFT would have them."""
    shapes = {name.removesuffix(".lora_A"): A.shape for name, A in tensors.items() if name.endswith(".lora_A")}
    if not shapes:
        raise ValueError(f"{folder} holds no lora_A for any layer of this model")
    for name, shape in shapes.items():
        if len(shape) != 2:
            raise ValueError(f"{folder} adapts {name}, which is no linear layer in a layer of this model")
    return {name: (rank, _scaling(options, name, rank, folder)) for name, (rank, _) in shapes.items()}


def _line_through(
    model: nn.Module, layers: dict[str, tuple[int, float]], options: dict[str, Any], folder: Path
) -> PRILoRAConfig:
    """The configuration with the ranks of the first and the last layer, and the scaling of the first."""
    stacks, _ = find_stacks(model)
    names = {module: name for name, module in model.named_modules()}
    places = {
        names[module]: (stack, number, inside)
        for stack, numbered in stacks.items()
        for number, modules in numbered.items()
        for inside, module in modules.items()
    }
    for name in layers:
        if name not in places:
            raise ValueError(f"{folder} adapts {name}, which is no linear layer in a layer of this model")
    rank = {places[name][1]: rank for name, (rank, _) in layers.items()}
    insides, all_insides = (list(dict.fromkeys(places[name][2] for name in some)) for some in (layers, places))
    line = {
        "first_rank": rank[min(rank)],
        "last_rank": rank[max(rank)],
        "dropout": options["lora_dropout"],
        "targets": None if set(insides) == set(all_insides) else tuple(insides),
        "layers": None if len(rank) == max(map(len, stacks.values())) else tuple(sorted(rank)),
        "ratio": 0,
    }
    means = {stack: statistics.mean(PRILoRAConfig(**line).ranks(len(numbered))) for stack, numbered in stacks.items()}
    alphas = {  # what alpha would be by each rule; the right one gives one alpha for all
        "layer": [s * rank for rank, s in layers.values()],
        "sqrt": [s * math.sqrt(rank * means[places[name][0]]) for name, (rank, s) in layers.items()],
        "mean": [s * means[places[name][0]] for name, (_, s) in layers.items()],
    }
    scaling = next((rule for rule in alphas if math.isclose(min(alphas[rule]), max(alphas[rule]))), "layer")
    return PRILoRAConfig(**line, scaling=scaling, alpha=alphas[scaling][0])


def _check_layers(model: nn.Module, config: PRILoRAConfig, layers: dict[str, tuple[int, float]], folder: Path) -> None:
    """Raise ValueError if a configuration gives a module another rank or scaling than the adapter has."""
    here = {name: (layer.rank, layer.scaling) for name, layer in lora_layers(model).items()}
    if not here:
        names = {module: name for name, module in model.named_modules()}
        planned = plan(model, config)[0]
        here = {names[m]: (layer.rank, layer.scaling) for layer in planned for m in layer.modules.values()}
    for name in sorted(here.keys() | layers.keys()):
        (rank, s), (rank_here, s_here) = layers.get(name, (0, 0)), here.get(name, (0, 0))
        if rank != rank_here or not math.isclose(s, s_here):
            raise ValueError(
                f"{folder} gives {name} rank {rank} and scaling {s:g}; on a line through its other layers, or by the "
                f"configuration that it was written with, they would be {rank_here} and {s_here:g}, and only such "
                f"ranks can be read here: {INSTEAD}"
            )


def _scaling(options: dict[str, Any], module: str, rank: int, folder: Path) -> float:
    """s of a module, as PEFT computes it."""
    patterns = options.get("alpha_pattern") or {}
    try:
        alpha = patterns.get(_peft().utils.other.get_pattern_key(patterns, module), options["lora_alpha"])
        return alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)
    except (AttributeError, TypeError, ArithmeticError, RecursionError, re.error) as error:
        raise ValueError(f"{folder / CONFIG} has an alpha that can't be used: {error}") from error


def _matches_soon(pattern: str) -> bool:
    """Whether a regular expression of few repetitions and choices, no group repeated, so that it can't backtrack long.

    On names of some 60 letters a repetition may try each length, a choice both ways; and all of them combine.
    """
    repetitions, choices = len(re.findall(r"[*+{]", pattern)), len(re.findall(r"[|?]", pattern))
    return not re.search(r"\)[*+{]", pattern) and 60**repetitions * 2**choices <= MOST_TRIES


def _own_name(name: str) -> str:
    name = name.removeprefix(PREFIX)
    return name.removesuffix(".weight") if name.endswith((".lora_A.weight", ".lora_B.weight")) else name


def _peft_name(name: str) -> str:
    return PREFIX + name + (".weight" if name.endswith((".lora_A", ".lora_B")) else "")


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("PEFT's format needs PEFT: pip install 'prilora-lite[peft]'") from error
    return peft
