"""Find the linear layers of a model by structure, wrap them, freeze the rest, and say what was done."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from torch import nn

from prilora_lite.config import PRILoRAConfig
from prilora_lite.lora import LoRALinear, is_conv1d, linear_shape
from prilora_lite.models.structure import is_encoder_decoder, lora_layers
from prilora_lite.shared.errors import expect, unknown

if TYPE_CHECKING:
    import pandas as pd

# DeBERTa (v1, and v2 without share_att_key): these read relative positions, never tokens, so an input norm would mean
# nothing
POSITION_LAYERS = ("pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj")
EXPERTS = (
    "is a mixture of experts: an expert sees only some tokens, so the input norms that pruning rests on would not "
    "mean the same for all; use a dense model"
)
_PEFTS_OWN = (".lora_", ".modules_to_save.")  # in the names of parameters that PEFT adds to those of the base


@dataclass(frozen=True)
class AdaptedModule:
    """One adapted linear layer: where it is, its shape (out, in), rank, scaling and counts of A and B together.

    ``layer`` is None for a module outside the numbered layers, which PEFT may have adapted.
    """

    stack: str
    layer: int | None
    module: str
    shape: tuple[int, int]
    rank: int
    scaling: float
    parameters: int
    nonzero: int


@dataclass(frozen=True)
class PlannedLayer:
    """A layer to be adapted: its stack and number there, its linear layers by name inside it, and what they get."""

    stack: str
    number: int
    modules: dict[str, nn.Module]
    rank: int
    scaling: float


@dataclass(frozen=True)
class Report:
    """What is adapted, trained and frozen in a model, at the moment it was made. Prints as a table.

    Attributes:
        modules: one entry per adapted linear layer, first layer first.
        adapter, adapter_nonzero: entries of all lora_A and lora_B, and those that are not zero.
        head, head_nonzero: trainable parameters outside the adapter (pooler, classification head), and those not zero.
        base: parameters of the model without the adapter, trained or not.
        notes: what a reader should know, such as layers left out.
    """

    modules: tuple[AdaptedModule, ...]
    adapter: int
    adapter_nonzero: int
    head: int
    head_nonzero: int
    base: int
    notes: tuple[str, ...] = field(default=())

    @property
    def ranks(self) -> list[int]:
        """Rank of each adapted layer, first layer first; of an encoder-decoder the encoder's, then the decoder's."""
        return list({(m.stack, m.layer): m.rank for m in self.modules if m.layer is not None}.values())

    @property
    def share(self) -> float:
        """Trainable parameters, adapter and head, as a share of the base model's."""
        return (self.adapter + self.head) / self.base

    @property
    def packed_bytes(self) -> int:
        r"""Bytes of a store of the adapter's values that are not zero, in float32, and one bit for each entry.

        .. math:: 4 \cdot \mathrm{nonzero} + \lceil \mathrm{entries} / 8 \rceil

        It is what sparsity could save: ``save_adapter`` stores zeros like other numbers, 4 bytes for each entry.
        """
        return 4 * self.adapter_nonzero + math.ceil(self.adapter / 8)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per adapted linear layer."""
        import pandas as pd

        return pd.DataFrame([asdict(module) for module in self.modules])

    def __repr__(self) -> str:
        width = max([len(module.module) for module in self.modules] + [6])
        lines = [f"{'layer':>5}  {'module':<{width}}  {'shape':>11}  {'rank':>4}  {'parameters':>10}  {'non-zero':>10}"]
        stacks = dict.fromkeys(module.stack for module in self.modules)
        for stack in stacks:
            lines += [f"{stack or 'outside the layers'}:"] if len(stacks) > 1 else []
            for m in (module for module in self.modules if module.stack == stack):
                number, shape = "-" if m.layer is None else m.layer, f"{m.shape[0]}x{m.shape[1]}"
                lines.append(
                    f"{number:>5}  {m.module:<{width}}  {shape:>11}  {m.rank:>4}  {m.parameters:>10,}  {m.nonzero:>10,}"
                )
        lines.append("-" * len(lines[0]))
        for name, count, nonzero in (
            ("adapter", self.adapter, self.adapter_nonzero),
            ("pooler and head", self.head, self.head_nonzero),
        ):
            lines.append(f"{name:<{len(lines[0]) - 24}}  {count:>10,}  {nonzero:>10,}")
        lines.append(f"trainable: {self.share:.2%} of the base model's {self.base:,} parameters")
        stored, packed = 4 * self.adapter, self.packed_bytes
        lines.append(f"adapter: {stored:,} bytes in float32; non-zero values and a bit mask: {packed:,}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def adapt(model: nn.Module, config: PRILoRAConfig | None = None) -> Report:
    """Put a :class:`LoRALinear` of the scheduled rank in place of each target layer, in place, and freeze the rest.

    Layers are found by structure: the linear layers below the numbered modules of the encoder, ``encoder.layer.3.``,
    counted 0 to L-1; of an encoder-decoder each stack has its own 0 to L-1. Trainable afterwards are lora_A, lora_B,
    the pooler and the classification head; the embeddings and the output embeddings of a language model stay frozen.

    Args:
        model: a Hugging Face encoder or decoder, with or without a head.
        config: ranks, scaling, targets; the defaults of :class:`PRILoRAConfig` if left out.

    Returns:
        A report: what was adapted, with which rank, at what cost.

    Raises:
        TypeError: no model, or no configuration.
        ValueError: the model is adapted already, has no numbered layers or stacks of them that are no encoder and
            decoder, shares layers, holds a mixture of experts, a target or a layer's number matches nothing, or a rank
            does not fit.

    The model is left as it was when an error is raised.
    """
    config = PRILoRAConfig() if config is None else config
    expect(nn.Module, model, "a model")
    expect(PRILoRAConfig, config, "a PRILoRAConfig, or None for its defaults")
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ValueError("this model is adapted already; load a fresh one, or merge_and_unload(model) first")
    chosen, notes = plan(model, config)
    for layer in chosen:
        for name, module in layer.modules.items():
            quantized = not module.weight.is_floating_point() or module.weight.element_size() == 1  # float8
            if module.weight.device.type == "meta" or quantized:
                raise ValueError(
                    f"{name} of layer {layer.number} holds {module.weight.dtype} on {module.weight.device}: load the "
                    "model unquantized and with its weights before adapting it; or adapt a quantized one with PEFT's "
                    "LoraConfig(**rank_pattern_for(model)), which PRILoRACallback prunes too"
                )

    trained = {id(parameter) for parameter in head_parameters(model)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    names = {module: name for name, module in model.named_modules()}
    for layer in chosen:
        for module in layer.modules.values():
            adapted = LoRALinear(module, layer.rank, scaling=layer.scaling, dropout=config.dropout)
            adapted.train(module.training)
            parent, _, child = names[module].rpartition(".")
            setattr(model.get_submodule(parent), child, adapted)
    model.prilora_config = config
    return replace(report(model), notes=tuple(notes))


def plan(model: nn.Module, config: PRILoRAConfig) -> tuple[list[PlannedLayer], list[str]]:
    """What :func:`adapt` would do to a model: its layers with their linear layers, rank and scaling; and notes.

    Raises:
        ValueError: see :func:`adapt`.
    """
    stacks, notes = find_stacks(model, config.targets)
    planned = []
    for stack, layers in stacks.items():
        ranks = config.ranks(len(layers))
        of_layers = zip(layers.items(), ranks, config.scalings(ranks), strict=True)
        planned += [PlannedLayer(stack, number, modules, rank, s) for (number, modules), rank, s in of_layers]
    if config.layers is not None:
        numbers = {layer.number for layer in planned}
        missing = sorted(set(config.layers) - numbers)
        if missing:
            raise ValueError(f"layers names {missing}, but the model's {len(numbers)} layers are 0 to {max(numbers)}")
        notes.append(f"only layers {', '.join(map(str, config.layers))} of {len(numbers)} are adapted")
        planned = [layer for layer in planned if layer.number in config.layers]
    for layer in planned:
        for name, module in layer.modules.items():
            if layer.rank > min(linear_shape(module)):
                raise ValueError(
                    f"layer {layer.number} would get rank {layer.rank}, but {name} is "
                    f"{'x'.join(map(str, linear_shape(module)))} and its rank can be {min(linear_shape(module))} at "
                    "most: lower first_rank or last_rank, or leave it out by naming targets"
                )
    return planned, notes


def report(model: nn.Module) -> Report:
    """Count an adapted (or plain) model now; call it again after training to see what pruning left.

    Args:
        model: adapted by :func:`adapt`, or by PEFT's LoRA, whose active adapter is counted then.

    Returns:
        The report that :func:`adapt` returns, without its notes.

    Raises:
        TypeError, ValueError: see :func:`~.structure.lora_layers`.
    """
    modules, adapter_ids = [], set()
    for name, layer in lora_layers(model).items():
        stack, number, inside = split_name(name)
        parameters = layer.lora_A.numel() + layer.lora_B.numel()
        nonzero = int(layer.lora_A.count_nonzero() + layer.lora_B.count_nonzero())
        shape = (layer.out_features, layer.in_features)
        modules.append(AdaptedModule(stack, number, inside, shape, layer.rank, layer.scaling, parameters, nonzero))
        adapter_ids |= {id(layer.lora_A), id(layer.lora_B)}
    others = {name: p for name, p in model.named_parameters() if id(p) not in adapter_ids}
    head = [p for p in others.values() if p.requires_grad]
    return Report(
        modules=tuple(modules),
        adapter=sum(module.parameters for module in modules),
        adapter_nonzero=sum(module.nonzero for module in modules),
        head=sum(p.numel() for p in head),
        head_nonzero=sum(int(p.count_nonzero()) for p in head),
        base=sum(p.numel() for name, p in others.items() if not any(part in name for part in _PEFTS_OWN)),
    )


def merge_and_unload(model: nn.Module) -> nn.Module:
    """Merge every update into its base layer and put the plain layers back, in place.

    Returns:
        The same model object, now without any trace of adaptation, all its parameters trainable again.

    Raises:
        TypeError: no model.
        ValueError: the model is not adapted.
    """
    expect(nn.Module, model, "a model")
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    if not adapted:
        raise ValueError("this model has no LoRALinear to merge")
    for name, module in adapted.items():
        if not module.merged:
            module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.base)
    for module in model.modules():  # the whole model, or the stack that was adapted by itself
        if hasattr(module, "prilora_config"):
            del module.prilora_config
    return model.requires_grad_(True)


def find_stacks(
    model: nn.Module, targets: tuple[str, ...] | None = None
) -> tuple[dict[str, dict[int, dict[str, nn.Module]]], list[str]]:
    """The linear layers that targets name, by stack, by number there, and by name inside the layer; and notes.

    Raises:
        ValueError: see :func:`adapt`.
    """
    backbone = getattr(model, "base_model", model)
    _refuse_other_structures(backbone, getattr(model, "config", None))
    stacks: dict[str, dict[int, dict[str, nn.Module]]] = {}
    places: dict[nn.Module, str] = {}
    for name, module in backbone.named_modules(remove_duplicate=False):
        stack, number, inside = split_name(name)
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and number is not None:
            if module in places:
                raise ValueError(f"{name} is the very layer {places[module]}; a shared layer can't have two ranks")
            places[module] = name
            stacks.setdefault(stack, {}).setdefault(number, {})[inside] = module
    if not stacks:
        raise ValueError(
            f"{type(model).__name__} has no numbered layers with linear layers in them (like encoder.layer.0.…), "
            "so there is nothing to count ranks over"
        )
    if len(stacks) > (2 if is_encoder_decoder(backbone) else 1):
        raise ValueError(
            f"{type(model).__name__} has more than one stack of layers ({', '.join(stacks)}); "
            "adapt one stack by itself: adapt(model.encoder, config), for example"
        )
    stacks = {stack: dict(sorted(layers.items())) for stack, layers in stacks.items()}
    layers = [modules for numbered in stacks.values() for modules in numbered.values()]
    notes = []
    for name in sorted({name for modules in layers for name in modules if name.endswith(POSITION_LAYERS)}):
        notes.append(f"{name} is left out: it reads relative positions, not tokens")
        for modules in layers:
            modules.pop(name, None)
    if targets is not None:
        stacks = _select(stacks, targets)
    return stacks, notes


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Pooler and classification head: what lies outside the backbone, or in its pooler, less any output embeddings."""
    backbone = getattr(model, "base_model", model)
    outputs = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    frozen = set() if outputs is None else {id(p) for p in outputs.parameters()}
    if backbone is model and (is_encoder_decoder(model) or "For" in type(model).__name__):
        # the heads of T5, and of CLIP's and Whisper's classifiers, stand beside the stacks, without a backbone
        parts = [m for m in model.children() if isinstance(m, nn.Embedding) or _holds_layers(m)]
        return [p for p in model.parameters() if id(p) not in frozen | {id(q) for m in parts for q in m.parameters()}]
    frozen |= {id(p) for name, p in backbone.named_parameters() if "pooler" not in name.split(".")}
    return [p for p in model.parameters() if id(p) not in frozen]


def head_modules(model: nn.Module) -> list[str]:
    """Names of the modules that hold :func:`head_parameters`, none inside another; PEFT's ``modules_to_save``."""
    heads = {id(parameter) for parameter in head_parameters(model)}
    names = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if id(parameter) in heads}
    return sorted(name for name in names if not any(name.startswith(f"{other}.") for other in names))


def split_name(name: str) -> tuple[str, int | None, str]:
    """``bert.encoder.layer.3.output.dense`` -> (``bert.encoder.layer``, 3, ``output.dense``); without number: None."""
    match = re.match(r"(?:(.*?)\.)?(\d+)\.(.*)", name)
    return (match[1] or "", int(match[2]), match[3]) if match else ("", None, name)


def _holds_layers(module: nn.Module) -> bool:
    return any(isinstance(inside, nn.ModuleList) for inside in module.modules())


def _refuse_other_structures(backbone: nn.Module, config: object) -> None:
    name = type(backbone).__name__
    for inside, module in backbone.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            raise ValueError(
                f"{inside} is torch's nn.MultiheadAttention, which reads its weights past any layer in their place, "
                "so an adapter would have no effect; use a model with linear layers of its own"
            )
        if inside.rpartition(".")[2] == "experts":
            raise ValueError(f"{inside} {EXPERTS}")
        if hasattr(module, "base_layer"):
            raise ValueError(f"{inside} is adapted already, by PEFT or the like; load a fresh model")
        if inside and module is not backbone and hasattr(module, "base_model") and not hasattr(backbone, "config"):
            raise ValueError(
                f"{name} is no Hugging Face model, but holds one, {inside}: which of its other parts are the head, and "
                f"where the attention mask comes in, can't be told. Adapt that one, adapt(model.{inside}, config), "
                "and train, freeze and save the rest yourself"
            )
    for attribute in ("num_experts", "num_local_experts", "n_routed_experts"):
        if getattr(config, attribute, None):
            raise ValueError(f"{name} ({attribute}={getattr(config, attribute)}) {EXPERTS}")
    groups = getattr(config, "num_hidden_groups", None)
    if groups is not None and groups < getattr(config, "num_hidden_layers", groups):
        raise ValueError(
            f"{name} shares {groups} group of weights among {config.num_hidden_layers} layers, "
            "so the ranks can't differ from layer to layer; use a model with layers of their own"
        )


def _select(
    stacks: dict[str, dict[int, dict[str, nn.Module]]], targets: tuple[str, ...]
) -> dict[str, dict[int, dict[str, nn.Module]]]:
    """What the targets name; a stack in which they name nothing is left out."""
    names = list(dict.fromkeys(name for layers in stacks.values() for modules in layers.values() for name in modules))
    chosen: set[str] = set()
    for target in targets:
        matches = [name for name in names if name == target] or [n for n in names if n.endswith(f".{target}")]
        if not matches:
            parts = {".".join(name.split(".")[i:]) for name in names for i in range(len(name.split(".")))}
            raise unknown("target", target, sorted(parts))
        for layers in stacks.values():
            missing = [number for number, modules in layers.items() if not modules.keys() & set(matches)]
            if 0 < len(missing) < len(layers):
                raise ValueError(
                    f"target {target!r} matches nothing in layers {missing}; targets must exist in every layer"
                )
        chosen |= set(matches)
    selected = {
        stack: {number: {n: m for n, m in modules.items() if n in chosen} for number, modules in layers.items()}
        for stack, layers in stacks.items()
    }
    return {stack: layers for stack, layers in selected.items() if any(layers.values())}
