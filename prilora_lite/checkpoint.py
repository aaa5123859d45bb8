"""Adapters on disk: one safetensors file, its configuration as JSON in the metadata."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from prilora_lite.adapt import adapt
from prilora_lite.adapter_file import KEY, check_all_is_stored, check_tensors, description, read_adapter, warn_of_flaws
from prilora_lite.config import PRILoRAConfig
from prilora_lite.fingerprint import stored_parameters
from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import adapted, without_wrappers
from prilora_lite.report import Report, report
from prilora_lite.shared.errors import expect
from prilora_lite.shared.files import given_path, write_whole


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
        TypeError: not a model, or not a path.
        ValueError: the model is not adapted, or only a part of it is; the path has no name; or parameters are trained
            that an adapter does not hold.
        OSError: the file can't be written; an older one stays as it was.
    """
    path, model = given_path(path), adapted(model)
    check_all_is_stored(model)
    # safetensors refuses tensors that share memory or have gaps
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in stored_parameters(model).items()}
    warn_of_flaws(model, tensors, path)
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
    path, model = given_path(path), without_wrappers(model)
    return put_adapter(model, *read_adapter(path, model), path)


def put_adapter(model: nn.Module, config: PRILoRAConfig, tensors: dict[str, Tensor], path: Path) -> Report:
    """Adapt a base model by a configuration and give it an adapter's tensors.

    Args:
        model, path: see :func:`load_adapter`; the path is for messages.
        config: the configuration that the adapter was made with.
        tensors: one for each of :func:`~.fingerprint.stored_parameters`, by its name.

    Raises:
        ValueError: the model is merged or adapted differently, or a tensor is missing, extra or of another shape. The
            model then stays as it was.
    """
    if any(isinstance(module, LoRALinear) and module.merged for module in model.modules()):
        raise ValueError("this model is merged, so another adapter would have no effect; unmerge() its layers first")
    current = getattr(model, "prilora_config", None)
    # how it was pruned is no matter here
    if current is not None and replace(current, ratio=0).canonical() != replace(config, ratio=0).canonical():
        raise ValueError(f"{path} was saved with {config}, but this model is adapted with {current}; load a fresh base")
    check_tensors(tensors, model, config, path)
    if current is None:
        adapt(model, config)
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            places[name].copy_(tensor)
    return report(model)
