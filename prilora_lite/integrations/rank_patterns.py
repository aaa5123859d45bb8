"""Rank schedules for PEFT: the patterns that its LoraConfig takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from torch import nn

from prilora_lite.adapt import plan
from prilora_lite.config import PRILoRAConfig
from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import PeftLayer
from prilora_lite.models.stacks import layer_numbers, split_name
from prilora_lite.shared.errors import expect

# The settings that say what is adapted, and how; the others are of pruning.
ADAPTING = ("first_rank", "last_rank", "ranks", "alpha", "scaling", "dropout", "targets", "layers")


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


def check_as_asked(config: PRILoRAConfig, model: nn.Module, layers: dict[str, LoRALinear | PeftLayer]) -> None:
    """Raise RuntimeError if a configuration asks for other adapters than PEFT made; a default asks for nothing.

    Args:
        config: what a callback was given.
        model: adapted by PEFT.
        layers: its :func:`~.models.layers.lora_layers`.
    """
    default = PRILoRAConfig()
    asked = {name: getattr(config, name) for name in ADAPTING if getattr(config, name) != getattr(default, name)}
    for name, has, wanted, settings in _as_made_and_as_configured(config, model, layers):
        given = ", ".join(f"{setting}={asked[setting]!r}" for setting in settings if setting in asked)
        if given and has != wanted:
            raise RuntimeError(
                f"PRILoRACallback was given {given}, but a model of PEFT's is adapted as its LoraConfig says: {name} "
                f"has {has}, and not {wanted}. Give LoraConfig(..., **rank_pattern_for(model, ...)) the ranks and "
                "alpha, LoraConfig itself dropout, targets and layers, and the callback the settings of pruning alone"
            )


def _as_made_and_as_configured(
    config: PRILoRAConfig, model: nn.Module, layers: dict[str, LoRALinear | PeftLayer]
) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """For each adapted module or stack its name, what it has, what it would have, and the settings that say so."""
    for stack, numbers in layer_numbers(model).items():
        made = {name: layer for name, layer in layers.items() if split_name(name)[0] == stack}
        if not made:
            continue
        ranks = dict(zip(numbers, config.layer_ranks(len(numbers)), strict=True))
        made_ranks = ranks | {split_name(name)[1]: layer.rank for name, layer in made.items()}
        scalings = dict(zip(numbers, config.scalings(list(made_ranks.values())), strict=True))
        for name, layer in made.items():
            number = split_name(name)[1]
            yield name, f"rank {layer.rank}", f"rank {ranks[number]}", ("first_rank", "last_rank", "ranks")
            yield name, f"scaling {layer.scaling:.4g}", f"scaling {scalings[number]:.4g}", ("alpha", "scaling")
            yield name, f"dropout {layer.dropout:g}", f"dropout {config.dropout:g}", ("dropout",)
        adapted = sorted({split_name(name)[1] for name in made})
        yield stack, f"layers {adapted}", f"layers {list(config.layers or numbers)}", ("layers",)
        inside = {split_name(name)[2] for name in made}
        fit = {name for name in inside if any(f".{name}".endswith(f".{target}") for target in config.targets or ())}
        yield stack, f"modules {sorted(inside)}", f"modules {sorted(fit)}", ("targets",)
