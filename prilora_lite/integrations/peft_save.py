"""An adapter written as PEFT writes its own: configuration, weights, and a model card."""

from __future__ import annotations

import os
import shutil
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save
from torch import nn

from prilora_lite.adapter_file import KEY, check_all_is_stored, description
from prilora_lite.config import PRILoRAConfig
from prilora_lite.fingerprint import running_statistics, stored_parameters
from prilora_lite.integrations.model_card import model_card
from prilora_lite.integrations.peft_names import CARD, PREFIX, WEIGHTS, peft, peft_name
from prilora_lite.integrations.rank_patterns import patterns
from prilora_lite.lora import LoRALinear
from prilora_lite.models.heads import head_modules
from prilora_lite.models.layers import adapted, lora_layers
from prilora_lite.models.linear import is_conv1d
from prilora_lite.models.stacks import split_name
from prilora_lite.shared.checks import is_number, plain
from prilora_lite.shared.errors import warn
from prilora_lite.shared.files import given_path, not_written

if TYPE_CHECKING:
    from peft import LoraConfig

_WRITTEN = {"adapter_config.json", WEIGHTS, CARD}


def save_peft_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    base_model: str | None = None,
    task: object = None,
    dataset: str | None = None,
    metrics: dict[str, float] | None = None,
) -> Path:
    """Write an adapted model as PEFT does: its configuration, its weights, and a model card; ready to be uploaded.

    ``PeftModel.from_pretrained(base, folder)`` gives the same logits. The folder is written beside its place and moved
    there when it is whole.

    Args:
        model: a model that :func:`~.adapt.adapt` has been called on.
        folder: where to write. An adapter that is there is replaced; a folder that holds anything else is refused.
        base_model: name of the base on the hub, or its folder; default: what the model was loaded from.
        task: what it was trained on, for the card: a name such as ``mrpc``, or a task of your own.
        dataset: the task's dataset on the hub, such as ``nyu-mll/glue``; without it the card names none.
        metrics: the values that it reached on the task, by name; one that is not finite is left out of the card.

    Returns:
        The folder.

    Raises:
        TypeError: not a model, not a path, or not a name.
        ValueError: the model is not adapted, only a part of it is, or PEFT adapted it; parameters are trained that an
            adapter does not hold, a head has parameters outside any module; a batch norm is
            in no head; or metrics that are not numbers.
        FileExistsError: the folder holds something else than an adapter.
        ModuleNotFoundError: PEFT is not installed.
        OSError: it can't be written.
    """
    model = adapted(model)
    layers = {name: layer for name, layer in lora_layers(model).items() if isinstance(layer, LoRALinear)}
    check_all_is_stored(model)
    folder = given_path(folder)
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= _WRITTEN):
        raise FileExistsError(f"{folder} holds more than an adapter: give another folder, or remove it first")
    named = None if task is None else getattr(task, "name", task)  # a Task of one's own has a name
    for name, value in {"base_model": base_model, "task": named, "dataset": dataset}.items():
        if not (value is None or isinstance(value, str)):
            raise TypeError(f"{name} must be a name, or None if there is none, got {value!r:.80}")
    metrics = _for_card({} if metrics is None else metrics, task, folder)
    lora = _lora_config(model, layers, model.prilora_config)
    lora.base_model_name_or_path, lora.revision = _base_of(model, base_model)
    card = model_card(model, lora.base_model_name_or_path, named, dataset, metrics)
    tensors = {peft_name(name): p.detach().contiguous().clone() for name, p in stored_parameters(model).items()}
    place = Path(os.path.realpath(folder))  # a link stays one, and what it names has the new adapter
    temporary, earlier = (place.with_name(f".{place.name}.{os.getpid()}.{kind}") for kind in ("part", "earlier"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lora.save_pretrained(temporary)
        (temporary / WEIGHTS).write_bytes(save(tensors, {"format": "pt", KEY: description(model, tensors)}))
        card.save(temporary / CARD)
        if place.exists():  # an empty one, or the adapter of an earlier run
            os.replace(place, earlier)
        os.replace(temporary, place)
        shutil.rmtree(earlier, ignore_errors=True)
    except OSError as error:
        if earlier.exists() and not place.exists():
            os.replace(earlier, place)
        raise not_written(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _for_card(metrics: dict[str, float], task: object, folder: Path) -> dict[str, float]:
    """The metrics as the card takes them: Python's numbers, all of them finite."""
    if isinstance(metrics, dict):
        metrics = {name: plain(value) for name, value in metrics.items()}
        for name in [name for name, value in metrics.items() if isinstance(value, float) and not isfinite(value)]:
            warn(f"{folder}: the card leaves out {name}, which is {metrics.pop(name)}")
    if not (isinstance(metrics, dict) and all(is_number(value) for value in metrics.values())):
        raise ValueError(f"metrics must be names and numbers, such as {{'accuracy': 0.8}}, got {metrics!r}")
    if metrics and task is None:
        raise ValueError(f"metrics of which task? Give task=..., such as 'mrpc', beside {metrics}")
    return metrics


def _lora_config(model: nn.Module, layers: dict[str, LoRALinear], config: PRILoRAConfig) -> LoraConfig:
    of_layers = {split_name(name)[:2]: (layer.rank, layer.scaling) for name, layer in layers.items()}
    rank, scaling = next(iter(of_layers.values()))
    heads = head_modules(model)
    _check_heads(model, heads)
    return peft().LoraConfig(
        r=rank,
        lora_alpha=scaling * rank,
        lora_dropout=config.dropout,
        target_modules=list(layers),
        modules_to_save=_names_for_peft(list(heads), model) or None,
        fan_in_fan_out=any(is_conv1d(layer.base) for layer in layers.values()),
        inference_mode=True,
        auto_mapping={"base_model_class": type(model).__name__, "parent_library": type(model).__module__},
        **(patterns(of_layers) if len(set(of_layers.values())) > 1 else {}),
    )


def _check_heads(model: nn.Module, heads: dict[str, nn.Module]) -> None:
    """Raise ValueError if PEFT could not read back what is trained beside the layers: it takes whole modules."""
    if "" in heads:
        raise ValueError(
            f"{type(model).__name__} has parameters of its head outside of any module, which PEFT can't write: "
            "use save_adapter(model, path)"
        )
    outside = [name for name in running_statistics(model) if not name.startswith(tuple(f"{head}." for head in heads))]
    if outside:
        raise ValueError(
            f"training has moved {outside[0]}, which is in no head, and PEFT writes what is in heads alone: use "
            "save_adapter(model, path)"
        )


def _names_for_peft(heads: list[str], model: nn.Module) -> list[str]:
    """The names of heads for PEFT, which takes all modules whose names end so: the whole name where others do too."""
    others = [name for name, _ in model.named_modules(remove_duplicate=False) if name not in heads]
    return [PREFIX + head if any(name.endswith(head) for name in others) else head for head in heads]


def _base_of(model: nn.Module, given: str | None) -> tuple[str | None, str | None]:
    """Name of the base model and its revision, as far as they are known."""
    if given is None and hasattr(model, "prilora_base"):  # load_encoder knows better than the folder that it read
        return model.prilora_base
    return given or getattr(model, "name_or_path", None) or None, None
