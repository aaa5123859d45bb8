"""Adapters on disk: one safetensors file, its configuration as JSON in the metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prilora_lite.adapt import adapt, plan
from prilora_lite.config import PRILoRAConfig
from prilora_lite.fingerprint import check_base, fingerprint, read_fingerprint, stored_parameters
from prilora_lite.lora import LoRALinear, linear_shape
from prilora_lite.report import Report, report
from prilora_lite.shared.errors import expect
from prilora_lite.shared.files import write_whole

KEY, FORMAT = "prilora_lite", 2  # the metadata's one entry: safetensors keeps several in no fixed order


def save_adapter(model: nn.Module, path: str | Path) -> Path:
    """Write lora_A, lora_B, pooler and head of an adapted model to one safetensors file.

    With them go the running means and variances of batch norms, which training moves, wherever they are.

    The file is moved to its place in one step, see :func:`~.shared.files.write_whole`: a crash leaves an older file
    whole.

    Args:
        model: a model that :func:`~prilora_lite.adapt.adapt` has been called on, merged or not.
        path: where to write; missing folders are made.

    Returns:
        The path.

    Raises:
        TypeError: not a path.
        ValueError: the model is not adapted, the path has no name, or parameters are trained that an adapter does not
            hold.
        OSError: the file can't be written; an older one stays as it was.
    """
    path = Path(path)
    config = getattr(model, "prilora_config", None)
    if config is None:
        raise ValueError("this model is not adapted, so there is no adapter to save; call adapt(model, config) first")
    check_all_is_stored(model)
    # safetensors refuses tensors that share memory or have gaps
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in stored_parameters(model).items()}
    write_whole(path, save(tensors, {KEY: description(model, tensors)}))
    return path


def load_adapter(model: nn.Module, path: str | Path) -> Report:
    """Adapt a fresh base model as the file says, and load the file's weights into it, in place.

    Args:
        model: the base the adapter was trained on, with a head of the same shape. Its dtype may differ. A model
            adapted with the same configuration is taken as well, but not a merged one.
        path: a file that :func:`save_adapter` wrote.

    Returns:
        The report of the adapted model.

    Raises:
        FileNotFoundError: no such file.
        TypeError: not a model, or not a path.
        ValueError: not an adapter file, or a damaged one; another base model; a missing or extra tensor; another shape.
            The model then stays as it was.
    """
    expect(nn.Module, model, "a model to load the adapter into")
    path = Path(path)
    if path.is_dir() and (path / "adapter_config.json").is_file():
        raise ValueError(f"{path} is a folder in PEFT's format: load_peft_adapter(model, {str(path)!r}) reads it")
    metadata, tensors = read_tensors(path)
    if KEY not in metadata:
        raise ValueError(f"{path} is not an adapter of this library: its metadata has no entry {KEY!r}")
    config = read_description(metadata[KEY], tensors, model, path)
    return put_adapter(model, config, tensors, path)


def put_adapter(model: nn.Module, config: PRILoRAConfig, tensors: dict[str, Tensor], path: Path) -> Report:
    """Adapt a base model by a configuration and give it an adapter's tensors.

    Args:
        model, path: see :func:`load_adapter`; the path is for messages.
        config: the configuration that the adapter was made with.
        tensors: one for each of :func:`stored_parameters`, by its name.

    Returns:
        The report of the adapted model.

    Raises:
        ValueError: the model is merged or adapted differently, or a tensor is missing, extra or of another shape. The
            model then stays as it was.
    """
    if any(isinstance(module, LoRALinear) and module.merged for module in model.modules()):
        raise ValueError(
            "this model is merged, so new lora_A and lora_B would have no effect; unmerge() its layers first"
        )
    current = getattr(model, "prilora_config", None)
    if current is not None and current.canonical() != config.canonical():
        raise ValueError(f"{path} was saved with {config}, but this model is adapted with {current}; load a fresh base")
    _check_tensors(tensors, expected_shapes(model, config), path)
    if current is None:
        adapt(model, config)
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            places[name].copy_(tensor)
    return report(model)


def check_all_is_stored(model: nn.Module) -> None:
    """Raise ValueError if parameters are trained that an adapter does not hold."""
    stored = stored_parameters(model)
    lost = [n for n, p in model.named_parameters() if p.requires_grad and n not in stored]
    if lost:
        raise ValueError(
            f"{lost[0]} and {len(lost) - 1} more parameters are trained, but an adapter holds lora_A, lora_B, pooler "
            "and head alone, so they would be lost: freeze them before training, or save the whole model"
        )


def description(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    """What an adapter's file says in its metadata: configuration, the base's :func:`fingerprint`, and a checksum."""
    entries = {"format": FORMAT, "config": model.prilora_config.to_dict(), "base": fingerprint(model)}
    return json.dumps(entries | {"sha256": _checksum(entries, tensors)})


def read_description(text: str, tensors: dict[str, Tensor], model: nn.Module, path: Path) -> PRILoRAConfig:
    """The configuration in a :func:`description`, once file and model are known to be those that it describes.

    Raises:
        ValueError: it can't be read, the tensors are not those of the checksum, or the model is another base.
    """
    try:
        stored = json.loads(text)
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']!r}, this version reads {FORMAT}; a newer version may read it")
        if stored.pop("sha256") != _checksum(stored, tensors):
            raise ValueError("its SHA-256 is not that of the file's content: it is damaged, so copy it again")
        config, base = PRILoRAConfig.from_dict(stored["config"]), read_fingerprint(stored["base"])
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} has metadata that can't be used: {what}") from error
    check_base(base, fingerprint(model), path)
    return config


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a whole safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no adapter file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); it may have been cut off: copy it again"
        ) from error


def _checksum(entries: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the metadata's other entries and over the tensors' names, dtypes, shapes and bytes.

    It protects against damage, not against malice: whoever changes the content can change the sum.
    """
    digest = hashlib.sha256(json.dumps(entries).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def expected_shapes(model: nn.Module, config: PRILoRAConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the adapter that this model has, or would have once adapted."""
    expected = {name: tuple(tensor.shape) for name, tensor in stored_parameters(model).items()}
    if getattr(model, "prilora_config", None) is None:
        for layer in plan(model, config)[0]:
            for name, module in layer.modules.items():
                out_features, in_features = linear_shape(module)
                expected[f"{name}.lora_A"] = (layer.rank, in_features)
                expected[f"{name}.lora_B"] = (out_features, layer.rank)
    return expected


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], path: str | Path) -> None:
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
        if not tensors[name].double().isfinite().all():
            raise ValueError(f"{path} has NaN or infinity in {name}: the run that it was saved from had diverged")
