"""Masks over the A of a model's layers: those that an earlier run has left there, and what masks remove."""

from __future__ import annotations

import torch
from torch import Tensor

from prilora_lite.config import PRILoRAConfig
from prilora_lite.importance import keep_mask
from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import PeftLayer, stacked


@torch.no_grad()
def masks_of_zeros(layers: dict[str, LoRALinear | PeftLayer], config: PRILoRAConfig) -> dict[str, Tensor]:
    """The masks that an earlier run has left in its A, by layer; none unless each A has the zeros that a prune leaves.

    Args:
        layers: adapted layers; what is not trained needs no mask.
        config: with the ratio and scope of the earlier run.
    """
    trained = {name: layer.lora_A for name, layer in layers.items() if layer.lora_A.requires_grad}
    masks = {name: A != 0 for name, A in trained.items()}
    pruned = all((A[~keep_mask(A.abs(), config.ratio, config.scope)] == 0).all() for A in trained.values())
    return masks if pruned and not all(mask.all() for mask in masks.values()) else {}


@torch.no_grad()
def mass_outside(layers: dict[str, LoRALinear | PeftLayer], masks: dict[str, Tensor]) -> float:
    """Share of the squared norm of those A that have a mask, taken together, that the masks remove, in [0, 1]."""
    squares = {name: layers[name].lora_A.square() for name in masks}
    sums = stacked(torch.stack([s.sum(), (s * ~masks[name]).sum()]) for name, s in squares.items())
    norm, removed = sums.sum(0).tolist()
    return removed / norm if norm else 0.0
