"""Rank schedules for PEFT: the patterns that its LoraConfig takes."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from prilora_lite.adapt import plan
from prilora_lite.config import PRILoRAConfig
from prilora_lite.shared.errors import expect


def rank_pattern_for(
    model: nn.Module,
    first_rank: int = 4,
    last_rank: int = 12,
    *,
    ranks: str | tuple[int, ...] | Callable[[float], float] = "linear",
    alpha: float = 16.0,
    scaling: str | tuple[float, ...] = "layer",
    targets: tuple[str, ...] | None = None,
) -> dict[str, dict[str, float]]:
    r"""Rising ranks for PEFT: ``LoraConfig(..., **rank_pattern_for(model))``.

    .. math:: r_l = \mathrm{round}\Big(r_s + (r_f - r_s)\,\frac{l}{L-1}\Big), \qquad \alpha_l = s_l\, r_l

    so that PEFT's own scaling, :math:`\alpha_l / r_l`, is s_l; not under ``use_rslora``, which divides by the root of
    r_l. Each key is a layer's whole name from the model's root on, so that layer 1 is not taken for layer 11, nor
    attention's ``output.dense`` for that of feed-forward.

    Args:
        model: the base model, before ``get_peft_model``.
        first_rank, last_rank: r_s and r_f, ranks of the first and the last layer.
        ranks: the schedule between them, or the ranks themselves, see :class:`~.config.PRILoRAConfig`.
        alpha, scaling: s_l, see :class:`~.config.PRILoRAConfig`.
        targets: the linear layers that PEFT is going to adapt, None for any; ranks must fit them.

    Returns:
        ``rank_pattern`` and ``alpha_pattern``.

    Raises:
        TypeError, ValueError: see :func:`~.adapt.adapt`.

    >>> from transformers import BertConfig, BertModel
    >>> small = BertConfig(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40)
    >>> rank_pattern_for(BertModel(small), first_rank=2, last_rank=6)["rank_pattern"]
    {'^encoder\\.layer\\.0\\..+': 2, '^encoder\\.layer\\.1\\..+': 4, '^encoder\\.layer\\.2\\..+': 6}
    """
    expect(nn.Module, model, "a model")
    config = PRILoRAConfig(
        first_rank=first_rank, last_rank=last_rank, ranks=ranks, alpha=alpha, scaling=scaling, targets=targets
    )
    layers = {(layer.stack, layer.number): (layer.rank, layer.scaling) for layer in plan(model, config)[0]}
    return patterns(layers)


def patterns(of_layers: dict[tuple[str, int], tuple[int, float]]) -> dict[str, dict[str, float]]:
    """A regular expression for each layer, as PEFT matches them; its rank, and its rank times the scaling."""
    keys = {(stack, number): "^" + re.escape(f"{stack}.{number}.".lstrip(".")) + ".+" for stack, number in of_layers}
    return {
        "rank_pattern": {keys[layer]: rank for layer, (rank, _) in of_layers.items()},
        "alpha_pattern": {keys[layer]: rank * scaling for layer, (rank, scaling) in of_layers.items()},
    }
