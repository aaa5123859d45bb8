"""Put LoRA layers into a model, freeze the rest, and take them out again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from prilora_lite.config import PRILoRAConfig
from prilora_lite.lora import LoRALinear
from prilora_lite.models.heads import head_notes, head_parameters
from prilora_lite.models.layers import without_wrappers
from prilora_lite.models.linear import check_mergeable, check_untied, check_weight, linear_shape
from prilora_lite.models.stacks import find_stacks
from prilora_lite.models.tokens import drop_hooks
from prilora_lite.report import Report, report
from prilora_lite.shared.errors import expect


@dataclass(frozen=True)
class PlannedLayer:
    """A layer to be adapted: its stack and number there, its linear layers by name, and what they get."""

    stack: str
    number: int
    modules: dict[str, nn.Module]
    rank: int
    scaling: float


def adapt(model: nn.Module, config: PRILoRAConfig | None = None) -> Report:
    """Replace each target layer by a :class:`LoRALinear` of the scheduled rank, in place, and freeze the rest.

    Layers are found by structure: the linear layers below the numbered modules of the encoder, ``encoder.layer.3.``,
    counted 0 to L-1; in an encoder-decoder each stack is counted by itself. Trainable afterwards are lora_A, lora_B,
    the pooler and the classification head; the embeddings and the output embeddings of a language model stay frozen.

    Args:
        model: a Hugging Face encoder or decoder, with or without a head.
        config: ranks, scaling, targets; the defaults of :class:`PRILoRAConfig` if left out.

    Returns:
        A report: what was adapted, with which rank, at what cost.

    Raises:
        TypeError: not a model, or not a configuration.
        ValueError: the model is adapted already, has no numbered layers, has stacks of them that are not an encoder and
            a decoder, shares layers or their weights, or holds a mixture of experts; a linear layer computes another
            product; a target or a layer's number matches nothing; or a rank does not fit. The model is left as it was.
    """
    config = PRILoRAConfig() if config is None else config
    expect(nn.Module, model, "a model")
    expect(PRILoRAConfig, config, "a PRILoRAConfig, or None for its defaults")
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ValueError("this model is adapted already; load a fresh one, or merge_and_unload(model) first")
    config = _with_ranks_written_down(model, config)
    chosen, notes = plan(model, config)
    modules = {name: module for layer in chosen for name, module in layer.modules.items()}
    for name, module in modules.items():
        check_weight(name, module)
    check_untied(model, modules)
    model.requires_grad_(False)
    for parameter in head_parameters(model).values():
        parameter.requires_grad_(True)
    for layer in chosen:
        for name, module in layer.modules.items():
            adapted = LoRALinear(module, layer.rank, scaling=layer.scaling, dropout=config.dropout)
            adapted.train(module.training)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, adapted)
    model.prilora_config = config
    return replace(report(model), notes=(*notes, *head_notes(model)))


def _with_ranks_written_down(model: nn.Module, config: PRILoRAConfig) -> PRILoRAConfig:
    """A function for ``ranks`` replaced by the ranks that it gives, for a file; not so if stacks differ in length."""
    if not callable(config.ranks):
        return config
    lengths = {len(layers) for layers in find_stacks(model, config.targets)[0].values()}
    return config if len(lengths) > 1 else replace(config, ranks=tuple(config.layer_ranks(*lengths)))


def plan(model: nn.Module, config: PRILoRAConfig) -> tuple[list[PlannedLayer], list[str]]:
    """What :func:`adapt` would do to a model: its layers with their linear layers, rank and scaling; and notes.

    Raises:
        ValueError: see :func:`adapt`.
    """
    stacks, notes = find_stacks(model, config.targets)
    planned = []
    for stack, layers in stacks.items():
        ranks = config.layer_ranks(len(layers))
        of_layers = zip(layers.items(), ranks, config.scalings(ranks), strict=True)
        planned += [PlannedLayer(stack, number, modules, rank, s) for (number, modules), rank, s in of_layers]
    if config.layers is not None:
        numbers = {layer.number for layer in planned}
        if missing := sorted(set(config.layers) - numbers):
            raise ValueError(f"layers has {missing}, but this model's {len(numbers)} layers are 0 to {max(numbers)}")
        notes.append(f"only layers {', '.join(map(str, config.layers))} of {len(numbers)} are adapted")
        planned = [layer for layer in planned if layer.number in config.layers]
    for layer in planned:
        for name, module in layer.modules.items():
            shape = linear_shape(module)
            if layer.rank > min(shape):
                raise ValueError(
                    f"layer {layer.number} would get rank {layer.rank}, but {name} is {'x'.join(map(str, shape))}: its "
                    f"rank can be at most {min(shape)}: lower the ranks, or leave it out with targets"
                )
    return planned, notes


def merge_and_unload(model: nn.Module) -> nn.Module:
    """Merge every update into its base layer and put the plain layers back, in place.

    Returns:
        The same model object, unwrapped, now without any trace of adaptation, all its parameters trainable again.

    Raises:
        TypeError, ValueError: not a model, or one that is not adapted.
        RuntimeError: see :meth:`~.lora.LoRALinear.merge`; the model is left as it was.
    """
    model = without_wrappers(model)
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    if not adapted:
        raise ValueError("this model has no LoRALinear to merge; one of PEFT's has a merge_and_unload() of its own")
    for module in adapted.values():
        check_mergeable(module.base)
    for name, module in adapted.items():
        if not module.merged:
            module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.base)
    for module in model.modules():  # the whole model, or the stack that was adapted by itself
        for trace in ("prilora_config", "_pruned_as"):  # the second is of record_pruning
            vars(module).pop(trace, None)
        drop_hooks(module)  # of a Pruner that still listens
    return model.requires_grad_(True)
