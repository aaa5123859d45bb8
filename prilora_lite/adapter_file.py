"""The file of an adapter: which tensors it holds, what it says of itself, and whether it is as it was written."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prilora_lite.adapt import plan
from prilora_lite.config import PRILoRAConfig
from prilora_lite.fingerprint import check_base, fingerprint, read_fingerprint, stored_parameters, uncompiled
from prilora_lite.lora import LoRALinear
from prilora_lite.models.linear import linear_shape
from prilora_lite.models.stacks import layer_numbers, split_name
from prilora_lite.report import never_pruned
from prilora_lite.shared.errors import first_of, warn

KEY, FORMAT = "prilora_lite", 2  # the metadata's one entry: safetensors keeps several in no fixed order


def read_adapter(path: Path, model: nn.Module) -> tuple[PRILoRAConfig, dict[str, Tensor]]:
    """The configuration and the tensors in a file that :func:`~.checkpoint.save_adapter` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, a damaged one, or one for another base model.
    """
    if path.is_dir() and (path / "adapter_config.json").is_file():
        raise ValueError(f"{path} is a folder in PEFT's format: load_peft_adapter(model, {str(path)!r}) reads it")
    whole = path / "model.safetensors"  # where Trainer and save_pretrained write a model
    file = whole if whole.is_file() else path
    metadata, tensors = read_tensors(file)
    if KEY not in metadata and any(name.endswith(".lora_A") for name in tensors):
        # by the model's own names, where transformers saves others, as it does with ViT
        own = file.with_name("trained.safetensors")
        load = f"{str(own)!r}, strict=False" if own.is_file() else repr(str(file))
        raise ValueError(
            f"{path} holds a whole adapted model, as Trainer and save_pretrained write it, which does not say how it "
            "was adapted: on a fresh base call adapt(model, config) with the run's configuration, then "
            f"safetensors.torch.load_model(model, {load}), then save_adapter(model, ...)"
        )
    if KEY not in metadata:
        raise ValueError(f"{path} is not an adapter of this library: its metadata has no entry {KEY!r}")
    config, kept = read_description(metadata[KEY], tensors, model, path)
    return config, kept | uncompiled(tensors)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a whole safetensors file.
    """
    if not path.is_file():
        there = sorted(file.name for file in path.glob("*.safetensors")) if path.is_dir() else []
        hint = f": it is a folder, with {', '.join(there)} in it; give the file" if there else ""
        raise FileNotFoundError(f"no adapter file at {path}{hint}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); it may have been cut off: copy it again"
        ) from error


def description(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    """What an adapter's file says in its metadata: configuration, the base's :func:`fingerprint`, and a checksum."""
    entries = {"format": FORMAT, "config": model.prilora_config.to_dict(), "base": fingerprint(model)}
    entries["labels"] = _labels(model)
    return json.dumps(entries | {"sha256": _checksum(entries, tensors)})


def read_description(
    text: str, tensors: dict[str, Tensor], model: nn.Module, path: Path
) -> tuple[PRILoRAConfig, dict[str, Tensor]]:
    """The configuration in a :func:`description`, once file and model are known to be those that it describes.

    With it comes what is a head here and was of the base in the file: earlier versions froze some heads.

    Raises:
        ValueError: it can't be read, the tensors are not those of the checksum, or the model is another base.
    """
    try:
        stored = json.loads(text)
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']!r}, this version reads {FORMAT}; another version may read it")
        if stored.pop("sha256") != _checksum(stored, tensors):
            raise ValueError("its SHA-256 is not that of the file's content: it is damaged, so copy it again")
        config, base = PRILoRAConfig.from_dict(stored["config"]), read_fingerprint(stored["base"])
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} has metadata that can't be used: {what}") from error
    check_base(base, fingerprint(model, base["shapes"]), path)
    there, here = stored.get("labels", []), _labels(model)
    if there != here and sorted(there) == sorted(here):
        raise ValueError(
            f"{path} numbers its labels {', '.join(there)}, and this model {', '.join(here)}: load the model with a "
            "task, or an id2label, whose labels are in the adapter's order"
        )
    return config, {name: p for name, p in stored_parameters(model).items() if name in base["shapes"]}


def _labels(model: nn.Module) -> list[str]:
    """The names of a classifier's labels, in the order of its outputs; none for other models."""
    named = getattr(getattr(model, "config", None), "id2label", None) or {}
    return [str(named[number]) for number in sorted(named)]


def _checksum(entries: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the metadata's other entries and over the tensors' names, dtypes, shapes and bytes.

    It protects against damage, not against malice: whoever changes the content can change the sum.
    """
    digest = hashlib.sha256(json.dumps(entries).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_all_is_stored(model: nn.Module) -> None:
    """Raise ValueError if an adapter could not hold all: a trained parameter, a scaling, a function as a setting."""
    model.prilora_config.to_dict()  # raises if a function is in it
    _check_as_configured(model)
    stored = stored_parameters(model)
    lost = [n for n, p in model.named_parameters() if p.requires_grad and n not in stored]
    if lost:
        raise ValueError(
            f"an adapter holds lora_A, lora_B, pooler and head alone, so other trained parameters would be lost, "
            f"{first_of(lost)}: freeze them before training; or keep the whole model, "
            "merge_and_unload(model).save_pretrained(folder); or adapt by PEFT, which stores the modules that "
            "LoraConfig(modules_to_save=[...]) names, and prune with PRILoRACallback or Pruner"
        )


def warn_of_what_is_lost(model: nn.Module) -> None:
    """Say before a training that :func:`check_all_is_stored` will refuse what it gives, when it would be too late."""
    if "prilora_config" in vars(model):
        try:
            check_all_is_stored(model)
        except ValueError as error:
            warn(f"save_adapter will refuse this model: {error}")


def warn_of_flaws(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Say what is amiss with an adapter that can be written all the same: never pruned, not finite, or rounded."""
    lost = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    flaws = [never_pruned(model), f"NaN or infinity in {first_of(lost)}, so no model will load it" if lost else ""]
    half = [tensor.dtype for name, tensor in tensors.items() if name.endswith("lora_A") and tensor.element_size() < 4]
    if half:
        flaws.append(f"A was cast to {half[0]} after adapt, and its digits are lost, as by Trainer's bf16_full_eval")
    for flaw in filter(None, flaws):
        warn(f"{path}: {flaw}")


def _check_as_configured(model: nn.Module) -> None:
    """Raise ValueError if a layer has another rank or scaling than its place gets from the configuration."""
    config, numbers = model.prilora_config, layer_numbers(model)
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            stack, number, _ = split_name(name)
            place, ranks = numbers[stack].index(number), config.layer_ranks(len(numbers[stack]))
            rank, scaling = ranks[place], config.scalings(ranks)[place]
            if layer.rank != rank or not math.isclose(layer.scaling, scaling):
                raise ValueError(
                    f"{name} has rank {layer.rank} and scaling {layer.scaling:g}, but the configuration, from which it "
                    f"is rebuilt on loading, gives it {rank} and {scaling:g}: set ranks and scaling in the "
                    "configuration before adapt(model, config), not on the layers"
                )


def _expected_shapes(model: nn.Module, config: PRILoRAConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the adapter that this model has, or would have once adapted."""
    expected = {name: tuple(tensor.shape) for name, tensor in stored_parameters(model).items()}
    if getattr(model, "prilora_config", None) is None:
        for layer in plan(model, config)[0]:
            for name, module in layer.modules.items():
                out_features, in_features = linear_shape(module)
                expected[f"{name}.lora_A"] = (layer.rank, in_features)
                expected[f"{name}.lora_B"] = (out_features, layer.rank)
    return expected


def check_tensors(tensors: dict[str, Tensor], model: nn.Module, config: PRILoRAConfig, path: Path) -> None:
    """Raise ValueError unless the tensors are finite weights, of the names and shapes that the model needs."""
    expected = _expected_shapes(model, config)
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"{path} does not fit this model: "
            + "; ".join(
                f"{len(names)} tensors {what}, the first is {names[0]}"
                for what, names in (("are missing from the file", missing), ("in the file have no place", extra))
                if names
            )
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"{path} does not fit this model: {name} is {tuple(tensors[name].shape)} in the file, {shape} here"
                + ("" if "lora" in name else "; a head needs the same number of labels")
            )
        is_a_count = name.endswith("num_batches_tracked")
        if not (tensors[name].is_floating_point() or is_a_count) or tensors[name].element_size() == 1:
            raise ValueError(f"{path} holds {name} as {tensors[name].dtype}; weights are float32, float16 or bfloat16")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{path} has NaN or infinity in {name}: the run that it was saved from had diverged")
