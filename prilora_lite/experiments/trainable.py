"""What a method (a configuration or a name) trains in an encoder, and how many parameters that is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from prilora_lite.adapt import adapt
from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments import baselines
from prilora_lite.integrations.trainer import PRILoRACallback
from prilora_lite.models.heads import head_parameters
from prilora_lite.report import Report, report
from prilora_lite.shared.errors import unknown


def make_trainable(
    model: nn.Module, method: str | PRILoRAConfig, steps: int, alpha: float
) -> tuple[nn.Module, list[Any]]:
    """Freeze and adapt as the method says; the model to train, and the callbacks that the method needs."""
    if isinstance(method, PRILoRAConfig):
        adapt(model, method)
        return model, [PRILoRACallback()]
    if method in baselines.BASELINES:
        return baselines.prepare(model, method, steps=steps, alpha=alpha)
    if method not in ("head", "full"):  # a name in METHODS alone would train the head without a word
        raise unknown("method to train", method, ("head", "full", *baselines.BASELINES))
    model.requires_grad_(method == "full")
    for parameter in head_parameters(model).values():
        parameter.requires_grad_(True)
    return model, []


def count(model: nn.Module, method: str | PRILoRAConfig, base: int) -> Report:
    """The parameters now; ``base`` is how many the model had before a baseline added its own."""
    counted = report(model)
    if method not in baselines.BASELINES:
        return counted
    adapter, nonzero = baselines.count_beside_head(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = sum(parameter.numel() for parameter in trained) - adapter
    return replace(counted, adapter=adapter, adapter_nonzero=nonzero, head=head, head_nonzero=head, base=base)
