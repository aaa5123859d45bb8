"""What an ablation compares: methods by name, and configurations crossed with one another."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from prilora_lite.config import PRILoRAConfig
from prilora_lite.shared.callables import callable_name
from prilora_lite.shared.errors import unknown

# The settings that the tables of runs have a column for
CONFIGURATION = ("first_rank", "last_rank", "scaling", "layers", "ratio", "interval", "importance")
# Those that have one only where some run's is not the default: tables of the usual runs are what they were
UNUSUAL = {f.name: f.default for f in fields(PRILoRAConfig) if f.name not in (*CONFIGURATION, "alpha", "seed")}


@dataclass(frozen=True)
class Method:
    """A named method of the ablation: what is trained, what tables call it, and its share of the settings' alpha.

    Raises:
        ValueError: a configuration with an alpha of its own, which all methods share; or an alpha_share beside listed
            scalings, which have no alpha.
    """

    name: str
    trains: str | PRILoRAConfig
    label: str
    alpha_share: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.trains, str):
            return
        if self.trains.canonical().alpha != PRILoRAConfig.alpha:
            raise ValueError(
                f"alpha={self.trains.alpha:g} of {self.name} would have no effect: all methods of a study share the "
                "alpha of its settings; set it there (a question's settings, ablate's overrides), or in Python give "
                "Method an alpha_share"
            )
        if self.alpha_share != 1 and not isinstance(self.trains.scaling, str):
            raise ValueError(f"alpha_share of {self.name} would have no effect beside listed scalings")

    def with_alpha(self, alpha: float) -> str | PRILoRAConfig:
        """What is trained, with its share of the settings' alpha."""
        return self.trains if isinstance(self.trains, str) else replace(self.trains, alpha=alpha * self.alpha_share)


_LORA = PRILoRAConfig.lora(8)

# Equal budgets: ranks 4..12 over the layers cost what rank 8 costs everywhere.
METHODS = {
    method.name: method
    for method in (
        Method("head", "head", "head only"),
        Method("lora", _LORA, "LoRA (r = 8)"),
        Method("ranks", PRILoRAConfig(ratio=0.0), "ranks only (4..12)"),
        Method("pruning", PRILoRAConfig(first_rank=8, last_rank=8), "pruning only (r = 8)"),
        Method("prilora", PRILoRAConfig(), "PRILoRA (4..12, pruned)"),
        Method("full", "full", "full fine-tuning"),
        Method("bitfit", "bitfit", "BitFit (biases)"),
        Method("houlsby", "houlsby", "adapter (Houlsby)"),
        Method("pfeiffer", "pfeiffer", "adapter (Pfeiffer)"),
        Method("adalora", "adalora", "AdaLoRA (r 12 to 8)"),
    )
}

# One setting turned far: a rank of one, with LoRA's rule s = alpha / r and with the s of rank 8; four layers of twelve
# alone; hardly any of A left; a quarter of A, drawn before the first step; rising ranks under the other two scalings.
_ONE = PRILoRAConfig.lora(1)
CONTRASTS = {
    method.name: method
    for method in (
        Method("lora_r1", _ONE, "LoRA, r = 1, s = alpha"),
        Method("lora_r1_same_s", _ONE, "LoRA, r = 1, s of r = 8", alpha_share=1 / 8),
        Method("lora_bottom", replace(_LORA, layers=range(4)), "LoRA, layers 0 to 3"),
        Method("lora_top", replace(_LORA, layers=range(8, 12)), "LoRA, layers 8 to 11"),
        Method("pruning_95", replace(_LORA, ratio=0.95), "LoRA, 95 % of A pruned"),
        Method(
            "random_75",
            replace(_LORA, ratio=0.75, interval=1, importance="random", regrow=False),
            "LoRA, a random quarter of A",
        ),
        Method("ranks_sqrt", PRILoRAConfig(ratio=0.0, scaling="sqrt"), "ranks only, rank-stabilised"),
        Method("ranks_mean", PRILoRAConfig(ratio=0.0, scaling="mean"), "ranks only, one s"),
        Method("prilora_sqrt", PRILoRAConfig(scaling="sqrt"), "PRILoRA, rank-stabilised"),
        Method("prilora_mean", PRILoRAConfig(scaling="mean"), "PRILoRA, one s"),
    )
}
METHODS |= CONTRASTS


def configurations(
    ranks: Iterable[tuple[int, int]] = ((PRILoRAConfig.first_rank, PRILoRAConfig.last_rank),),
    ratios: Iterable[float] = (PRILoRAConfig.ratio,),
    intervals: Iterable[int] = (PRILoRAConfig.interval,),
    importances: Iterable[str] = (PRILoRAConfig.importance,),
    scalings: Iterable[str] = (PRILoRAConfig.scaling,),
    schedules: Iterable[str | tuple[int, ...]] = (PRILoRAConfig.ranks,),
) -> list[Method]:
    """Every schedule with every pruning: configurations crossed, each once, those that have a name under that name.

    What is left out is PRILoRA's own.

    Args:
        ranks: first and last rank: (12, 4) falls, (8, 8) is flat, (4, 12) rises, all at the same budget if they are
            linear.
        ratios: shares of A to prune; 0 is no pruning, whatever interval and importance.
        intervals: N, optimizer steps from one prune to the next.
        importances: names in :data:`~.importance.IMPORTANCE_RULES`.
        scalings: ``layer``, ``sqrt`` or ``mean``; on flat ranks they are one.
        schedules: names in :data:`~.ranks.SCHEDULES`, which agree on equal ends; or ranks themselves, one for each
            layer, which have no ends.

    Raises:
        ValueError: a value that :class:`~.config.PRILoRAConfig` refuses.
    """
    methods = {}
    crossed = product(ranks, schedules, ratios, intervals, importances, scalings)
    for (first, last), schedule, ratio, interval, importance, scaling in crossed:
        config = PRILoRAConfig(
            first_rank=first, last_rank=last, ranks=schedule, scaling=scaling,
            ratio=ratio, interval=interval, importance=importance,
        ).canonical()  # fmt: skip
        methods[config] = _NAMED.get(config) or Method(label := _label(config), config, label)
    return list(methods.values())


_NAMED = {
    method.trains.canonical(): method
    for method in reversed(METHODS.values())
    if isinstance(method.trains, PRILoRAConfig) and method.alpha_share == 1
}


def as_method(method: str | Method | PRILoRAConfig) -> Method:
    """The method of a name, or of a configuration, which is called by its name if it has one.

    Raises:
        ValueError: no such name (the message gives the nearest one), or something else.
    """
    if isinstance(method, PRILoRAConfig):
        own = method.canonical()
        named = next((named for config, named in _NAMED.items() if config == own), None)  # a rule may not hash
        return named or Method(_label(method), method, _label(method))
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]
    if not isinstance(method, Method):
        raise unknown("method", method, METHODS)
    return method


def method_name(record: dict[str, Any]) -> str:
    """What a run's method is called today, told by its configuration: older files call other things by that name."""
    if isinstance(record["method"], str):
        return record["method"]
    config, alpha = PRILoRAConfig.from_dict(record["method"]), record["settings"]["alpha"]
    own = _canonical(config, config.alpha)
    for method in METHODS.values():
        if isinstance(method.trains, PRILoRAConfig) and _canonical(method.trains, alpha * method.alpha_share) == own:
            return method.name
    return _label(config) if record["name"] in METHODS else record["name"]


@functools.cache  # a study has many runs of few configurations
def _canonical(config: PRILoRAConfig, alpha: float) -> PRILoRAConfig:
    return replace(config, alpha=alpha).canonical()


def label_of(name: str) -> str:
    """What tables call a method: its label, or the name of one that has none."""
    return METHODS[name].label if name in METHODS else name


# Fields that a label tells in words of its own, or leaves to the settings
_SHORT = ("first_rank", "last_rank", "ranks", "alpha", "scaling", "ratio", "interval", "importance", "seed")


def _label(config: PRILoRAConfig) -> str:
    """Ranks, ratio and what else is not at its default, in short: ``12..4, mean, ratio 0.25, N 10, scope matrix``."""
    config, default = config.canonical(), PRILoRAConfig()
    parts = [_ranks_in_short(config)]
    if config.scaling != default.scaling:
        parts.append(config.scaling if isinstance(config.scaling, str) else "own scaling")
    parts.append(f"ratio {config.ratio:g}")
    if config.interval != default.interval:
        parts.append(f"N {config.interval}")
    if config.importance != default.importance:
        parts.append(callable_name(config.importance) if callable(config.importance) else config.importance)
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in _SHORT and value != field.default:
            parts.append(f"{field.name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}")
    return ", ".join(parts)


def _ranks_in_short(config: PRILoRAConfig) -> str:
    """``4..12``, flat ``8``, another schedule with its name, or the ranks themselves: ``2,2,8,8``."""
    if isinstance(config.ranks, tuple):
        return ",".join(map(str, config.ranks))
    if callable(config.ranks):
        return callable_name(config.ranks)
    first, last = config.first_rank, config.last_rank
    ends = f"{first}..{last}" if first != last else f"{last}"
    return ends if config.ranks == PRILoRAConfig.ranks else f"{config.ranks} {ends}"
