"""The adapted linear layers of a model: this library's and PEFT's, and where weights are split or copied."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prilora_lite.lora import LoRALinear
from prilora_lite.shared.errors import expect, first_of, in_python, warn

if TYPE_CHECKING:
    from prilora_lite.config import PRILoRAConfig

PEFTS_OWN = (".lora_", ".modules_to_save.")  # in the names of parameters that PEFT adds to those of the base
_REFUSED = {
    "FullyShardedDataParallel": "FSDP splits each weight among the processes",
    "FSDPModule": "FSDP splits each weight among the processes",
    "DeepSpeedEngine": "DeepSpeed keeps copies of the weights that pruning would not reach",
    "DataParallel": "the replicas of nn.DataParallel lose the input statistics",
}
PEFTS_R, PEFTS_ALPHA = 8, 8  # r and lora_alpha in a LoraConfig that was given none
_STARTS_AT_ZERO = ("true", "gaussian", "eva", "mica")  # of init_lora_weights: B or A is zero before the first step
COMPILED = "_orig_mod."  # stands before all names in a model under torch.compile
WHOLE_WEIGHTS = "use one process per GPU with whole weights in each, torchrun or `accelerate launch` with plain DDP"


class PeftLayer:
    """A linear layer that PEFT's LoRA adapted, read as a :class:`LoRALinear` is. PEFT itself is not needed here.

    Args:
        layer: PEFT's layer.
        adapter: name of one of its adapters.
    """

    def __init__(self, layer: nn.Module, adapter: str) -> None:
        self.layer, self.adapter = layer, adapter
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.rank, self.scaling = layer.r[adapter], layer.scaling[adapter]

    @property
    def lora_A(self) -> nn.Parameter:
        """A, (r, n)."""
        return self.layer.lora_A[self.adapter].weight

    @property
    def lora_B(self) -> nn.Parameter:
        """B, (m, r)."""
        return self.layer.lora_B[self.adapter].weight

    @property
    def dropout(self) -> float:
        """Probability with which an entry of the update's input is dropped in training."""
        return getattr(self.layer.lora_dropout[self.adapter], "p", 0.0)

    @property
    def merged(self) -> bool:
        """Whether the base's weight now holds an update."""
        return self.layer.merged

    @property
    def active(self) -> bool:
        """Whether a forward pass goes through this adapter now."""
        return not self.layer.disable_adapters and self.adapter in self.layer.active_adapters


def lora_layers(model: nn.Module) -> dict[str, LoRALinear | PeftLayer]:
    """Every adapted linear layer of a model by its name: this library's, or PEFT's for the adapter that is active.

    Raises:
        TypeError: not a model.
        ValueError: several of PEFT's adapters are active at once, or the active one adapts more than linear layers.
    """
    expect(nn.Module, model, "a model")
    found: dict[str, LoRALinear | PeftLayer] = {}
    adapters: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            found[name] = module
        elif isinstance(getattr(module, "lora_A", None), nn.ModuleDict):  # PEFT's, a key for each adapter
            for adapter in module.active_adapters:
                if adapter in module.lora_A and hasattr(module, "parameter_name"):  # target_parameters: of experts
                    raise ValueError(
                        f"PEFT's adapter {adapter!r} adapts the parameter {module.parameter_name} of {name}, which has "
                        "no input of its own, so its A has no input norms: leave it out of target_parameters"
                    )
                if adapter in module.lora_A and module.lora_A[adapter].weight.ndim == 2:
                    found[name] = PeftLayer(module, adapter)
                    adapters.add(adapter)
                elif adapter in module.lora_A or adapter in module.lora_embedding_A:
                    raise ValueError(
                        f"PEFT's adapter {adapter!r} adapts {name}, which is not a linear layer, so its A has no input "
                        "norms: leave it out of target_modules"
                    )
    if adapters and len({type(layer) for layer in found.values()}) > 1:
        raise ValueError(
            "the model has layers of adapt() and of PEFT's get_peft_model, one inside the other: start from a fresh "
            "base, and adapt it in one of the two ways"
        )
    if len(adapters) > 1:
        raise ValueError(
            f"PEFT's adapters {', '.join(sorted(adapters))} are active together; one at a time can be pruned: "
            f"model.set_adapter({min(adapters)!r})"
        )
    return found


def layers_to_prune(model: nn.Module) -> dict[str, LoRALinear | PeftLayer]:
    """The :func:`lora_layers` of a model, of which at least one A is trained.

    Raises:
        TypeError, ValueError: see there; or there are none, none is trained, or PEFT gave ranks to no layer.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError(
            "the model has neither a LoRALinear nor an active LoRA adapter of PEFT: call adapt(model, config) first"
        )
    if not any(layer.lora_A.requires_grad for layer in layers.values()):
        raise ValueError(
            "lora_A is frozen in all layers, and what is not trained is not pruned: PeftModel.from_pretrained needs "
            "is_trainable=True for an adapter that is to go on training"
        )
    for name, layer in layers.items():
        holder = layer.layer.lora_A[layer.adapter] if isinstance(layer, PeftLayer) else layer
        if ("weight" if isinstance(layer, PeftLayer) else "lora_A") not in holder._parameters:
            raise ValueError(
                f"lora_A of {name} is computed anew in each pass, by a parametrization, so zeros in it would not stay: "
                "remove it with torch.nn.utils.parametrize.remove_parametrizations, or train without pruning (ratio=0)"
            )
    check_patterns(model, layers)
    for config in _lora_configs(model, layers):
        if str(config.init_lora_weights).lower() not in _STARTS_AT_ZERO:
            warn(
                f"LoraConfig has init_lora_weights={config.init_lora_weights!r}, with which B is not zero at the "
                "start: the first prune of A then changes the model by what it began with, not by what it has "
                "learned. Leave init_lora_weights out, so that B begins at zero; or give ratio=0, which prunes nothing"
            )
    return layers


def check_prunable(layers: dict[str, LoRALinear | PeftLayer]) -> None:
    """Raise RuntimeError if a layer is merged, or its PEFT adapter is no longer the active one."""
    for name, layer in layers.items():
        if layer.merged:
            raise RuntimeError(f"{name} is merged: its pruned A would not match its weight; call unmerge() first")
        if isinstance(layer, PeftLayer) and layer.layer.disable_adapters:
            raise RuntimeError(
                f"PEFT's adapters are switched off in {name}: call model.base_model.enable_adapter_layers()"
            )
        if isinstance(layer, PeftLayer) and not layer.active:
            raise RuntimeError(
                f"the Pruner was made for PEFT's adapter {layer.adapter!r}, which is not the active one of {name}: "
                f"call model.set_adapter({layer.adapter!r}), or make a new Pruner for the other"
            )


def check_patterns(model: nn.Module, layers: dict[str, LoRALinear | PeftLayer]) -> None:
    """Raise ValueError if PEFT was given ranks for other names than the model's, or two rules for its scaling.

    PEFT passes over both in silence.

    Args:
        model: adapted by PEFT or not.
        layers: its :func:`lora_layers`.
    """
    names = [name.removeprefix("base_model.model.") for name in layers]
    for config in _lora_configs(model, layers):
        for pattern in ("rank_pattern", "alpha_pattern"):
            keys = getattr(config, pattern, None) or {}
            if keys and not any(re.match(rf"(.*\.)?({key})$", name) for key in keys for name in names):
                raise ValueError(
                    f"PEFT's {pattern} has {first_of(list(keys))}, but the adapted layers are "
                    f"called {names[0]!r} and the like, so none of them has the rank that it was to have: call "
                    "rank_pattern_for with the very model that get_peft_model is given, before it is"
                )
        _warn_of_no_rank(config, names)
        _check_alpha(config, names)
        _warn_of_another_rank(config, names, next(iter(layers.values())).rank)


def _lora_configs(model: nn.Module, layers: dict[str, LoRALinear | PeftLayer]) -> list[Any]:
    """PEFT's configuration of the adapter that the layers are of; none if PEFT has not adapted the model."""
    configs = getattr(model, "peft_config", None) or {}
    adapters = {layer.adapter for layer in layers.values() if isinstance(layer, PeftLayer)}
    return [configs[adapter] for adapter in adapters & set(configs)]


def _from_schedule(pattern: dict[str, float] | None) -> dict[str, float]:
    """What of a rank_pattern or an alpha_pattern rank_pattern_for made."""
    return {key: value for key, value in (pattern or {}).items() if re.fullmatch(r"\^.*\\\.\.\+", key)}


def _warn_of_no_rank(config: Any, names: list[str]) -> None:
    """Warn where rank_pattern_for was given a model with fewer layers than PEFT's: the others get LoraConfig's r."""
    ranks = _from_schedule(config.rank_pattern)
    without = [n for n in names if re.search(r"\.\d+\.", n) and not any(re.match(key, n) for key in ranks)]
    if ranks and without:
        warn(
            f"rank_pattern_for gave no rank to {first_of(without)}, so LoraConfig's r={config.r} is theirs: call it "
            "with the very model that get_peft_model is given"
        )


def _check_alpha(config: Any, names: list[str]) -> None:
    """Refuse, or warn, where a LoraConfig's own scaling stands beside that of rank_pattern_for, which wins or mixes."""
    alphas = _from_schedule(config.alpha_pattern)
    if alphas and config.use_rslora:
        raise ValueError(
            "LoraConfig has use_rslora=True beside rank_pattern_for, whose alpha_pattern is made for division by r and "
            "not by its root, so no layer would have the scaling of either rule: leave use_rslora out; "
            "rank_pattern_for(model, scaling='sqrt') is the rank-stabilised rule"
        )
    alone = _match_all(alphas, names) and len(set(alphas.values())) == 1
    if alone and config.lora_alpha not in (PEFTS_ALPHA, *alphas.values()):
        warn(
            f"LoraConfig's lora_alpha={config.lora_alpha:g} has no effect: rank_pattern_for gave all layers alpha "
            f"{next(iter(alphas.values())):g}; to have the other, rank_pattern_for(model, alpha={config.lora_alpha:g})"
        )


def _warn_of_another_rank(config: Any, names: list[str], first_rank: int) -> None:
    """Warn where a LoraConfig's r is not the mean of the ranks of rank_pattern_for, which win over it.

    An adapter in PEFT's format that this library wrote has the first layer's rank for r.
    """
    ranks = _from_schedule(config.rank_pattern)
    if not (ranks and _match_all(ranks, names)):
        return
    mean, r = sum(ranks.values()) / len(ranks), config.r
    if r not in (PEFTS_R, first_rank) and abs(r - mean) >= 1:
        first = max(1, r // 2)
        warn(
            f"LoraConfig's r={r} has no effect: rank_pattern_for gave all layers ranks, from {min(ranks.values())} to "
            f"{max(ranks.values())} and {mean:g} on average; to have r={r} on average, "
            f"rank_pattern_for(model, {first}, {2 * r - first})"
        )


def _match_all(keys: Iterable[str], names: list[str]) -> bool:
    return all(any(re.match(key, name) for key in keys) for name in names)


def check_whole(model: nn.Module) -> None:
    """Refuse a model whose weights are not whole, not here, or not known to the DistributedDataParallel around it.

    Raises:
        TypeError: not a model.
        ValueError: the model is under FSDP, DeepSpeed or ``nn.DataParallel``, which split, copy or replicate weights;
            or an A is offloaded to memory or disk.
    """
    expect(nn.Module, model, "a model")
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    kinds |= {"DeepSpeedEngine" for parameter in model.parameters() if hasattr(parameter, "ds_id")}  # ZeRO-3
    for name, reason in _REFUSED.items():
        if name in kinds:
            raise ValueError(f"{reason}, so A can't be pruned there: {WHOLE_WEIGHTS}")
    for name, parameter in model.named_parameters():
        if ".lora_A" in name and parameter.is_meta:
            raise ValueError(
                f"{name} is offloaded, as device_map does where the devices are too small, so it can be neither "
                "trained nor pruned: spread the model over devices that hold all of it, or load it in bfloat16"
            )
    _check_kept_alike(model)


def _check_kept_alike(model: nn.Module) -> None:
    """Raise ValueError for an A or B that was made inside DistributedDataParallel, which does not know of it."""
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        return
    known = {id(parameter) for parameter in model._module_parameters}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (".lora_A" in name or ".lora_B" in name) and id(parameter) not in known:
            raise ValueError(
                f"{name} was made after the model was wrapped in DistributedDataParallel, so the processes would "
                "drift apart: adapt the model first, then wrap it (with Accelerate: before prepare)"
            )


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model inside ``DistributedDataParallel``, ``nn.DataParallel`` and ``torch.compile``, which rename all in it.

    Raises:
        TypeError: not a model.
    """
    expect(nn.Module, model, "a model")
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def adapted(model: nn.Module) -> nn.Module:
    """The model :func:`without_wrappers`, once it is known that :func:`~.adapt.adapt` was called on it.

    Raises:
        TypeError: not a model.
        ValueError: it is not adapted, or a part of it alone is.
    """
    model = without_wrappers(model)
    if getattr(model, "prilora_config", None) is not None:
        return model
    parts = [name for name, module in model.named_modules() if "prilora_config" in vars(module)]
    if parts:
        raise ValueError(
            f"of this model {' and '.join(parts)} alone is adapted: give that part, {in_python(parts[0])}, in place of "
            "the model, and save what is trained outside of it yourself"
        )
    if getattr(model, "peft_config", None):
        raise ValueError(
            "this model is not adapted by adapt(model, config) but by PEFT: its own save_pretrained(folder) writes it"
        )
    raise ValueError(
        "this model is not adapted by adapt(model, config), or was merged since, so there is no adapter to save"
    )


def stacked(tensors: Iterable[Tensor]) -> Tensor:
    """One tensor of several of one shape, on the device of the first: a model may be spread over devices."""
    first, *others = tensors
    return torch.stack([first, *(tensor.to(first.device) for tensor in others)])


def configuration_of(model: nn.Module) -> PRILoRAConfig | None:
    """The configuration that :func:`~.adapt.adapt` put on a model, or on a stack of it by itself; None without one.

    Raises:
        ValueError: stacks of the model were adapted with different configurations.
    """
    configs = [module.prilora_config for module in model.modules() if "prilora_config" in vars(module)]
    different = [config for place, config in enumerate(configs) if config not in configs[:place]]  # a rule may not hash
    if len(different) > 1:
        raise ValueError(
            f"stacks of the model were adapted with {len(different)} configurations; one pruner can follow only one"
        )
    return next(iter(configs), None)
