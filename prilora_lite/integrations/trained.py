"""The trained weights of a checkpoint: whether all of them arrived, and a copy of those that would not arrive by name.

Trainer takes what it finds in a checkpoint by name and goes on with a warning where a name is missing. transformers
saves some models under other names than they have (ViT and its kin); PEFT saves its adapter alone, without what else is
trained or counted in training.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from prilora_lite.shared.files import write_whole

TRAINED = "trained.safetensors"


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What training changes in a model, by name: trainable parameters, and the buffers that are saved with them."""
    stored = model.state_dict().keys()
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return parameters | {name: buffer for name, buffer in model.named_buffers() if name in stored}


def digests(model: nn.Module) -> dict[str, str]:
    """A short SHA-256 of each tensor of :func:`trained`."""
    return {name: _digest(tensor) for name, tensor in trained(model).items()}


def keep_what_is_lacking(model: nn.Module, folder: Path) -> None:
    """Write what is trained into a checkpoint by the model's own names, if its files lack a part of it."""
    stored: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            stored |= set(tensors.keys())
    ours = trained(model)
    if not {_as_saved(name, model) for name in ours} <= stored:
        content = {name: tensor.detach().cpu().clone() for name, tensor in ours.items()}
        write_whole(folder / TRAINED, save(content))


@torch.no_grad()
def restore(model: nn.Module, folder: Path, saved: dict[str, str]) -> tuple[list[str], list[str]]:
    """Take what did not arrive from a checkpoint's own copy of it, where there is one.

    Args:
        model: after Trainer has loaded what it found.
        folder: the checkpoint.
        saved: what :func:`digests` gave when it was written.

    Returns:
        Names of the tensors that were taken from there, and of those that are still not as they were saved.
    """
    lacking = missing = _differing(model, saved)
    if lacking and (folder / TRAINED).is_file():
        stored, places = load_file(folder / TRAINED), _places(model)
        for name in lacking:
            if name in stored and name in places and stored[name].shape == places[name].shape:
                places[name].copy_(stored[name])
        lacking = _differing(model, saved)
    return [name for name in missing if name not in lacking], lacking


def _places(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _differing(model: nn.Module, saved: dict[str, str]) -> list[str]:
    places = _places(model)
    return [name for name, digest in saved.items() if name not in places or _digest(places[name]) != digest]


def _as_saved(name: str, model: nn.Module) -> str:
    """PEFT leaves the adapter's name, and those of its wrappers, out of the names in its file."""
    adapters = getattr(model, "peft_config", None)
    if not adapters:
        return name
    return ".".join(part for part in name.split(".") if part not in (*adapters, "modules_to_save", "base_layer"))


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]
