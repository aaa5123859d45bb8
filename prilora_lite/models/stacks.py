"""The stacks of numbered layers in a model, and the linear layers in them that targets name."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from prilora_lite.lora import LoRALinear
from prilora_lite.models.linear import is_conv1d
from prilora_lite.shared.errors import in_python, unknown

# DeBERTa (v1, and v2 without share_att_key), Conformers, Swin v2: these read relative positions, never tokens, so an
# input norm would mean nothing
POSITION_LAYERS = ("pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj", "linear_pos", "relative_k_proj")
POSITION_LAYERS += ("continuous_position_bias_mlp", "cpb_mlp")
EXPERTS = (
    "is a mixture of experts: an expert sees only some tokens, so the input norms that pruning rests on would not "
    "mean the same for all; use a dense model"
)

Stacks = dict[str, dict[int, dict[str, nn.Module]]]  # stack -> number of the layer -> name in the model -> module


def find_stacks(model: nn.Module, targets: tuple[str, ...] | None = None) -> tuple[Stacks, list[str]]:
    """The linear layers that targets name: by stack, by number there, and by their names in the model; and notes.

    Raises:
        ValueError: see :func:`~.adapt.adapt`.
    """
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        raise ValueError(
            f"{type(model).__name__} synchronises only the parameters that the model had when it was wrapped, and A "
            "and B are made now: adapt(model, config) first, then wrap the model (with Accelerate: before prepare)"
        )
    backbone = backbone_of(model)
    _refuse_other_structures(backbone, getattr(model, "config", None))
    stacks, notes = _without_useless_layers(model, _all_stacks(model, backbone))
    if not stacks:
        raise ValueError(
            f"{type(model).__name__} has no numbered layers with linear layers in them (like encoder.layer.0.…), "
            "so there is nothing to count ranks over"
        )
    notes += _layers_in_numbered_parts(backbone, stacks)
    if len(stacks) > (2 if is_encoder_decoder(backbone) else 1):
        longest = max(stacks, key=lambda name: len(stacks[name]))
        tower = _alone_above(longest, stacks)
        raise ValueError(
            f"{type(model).__name__} has more than one stack of layers ({', '.join(stacks)}); adapt one by itself: "
            f"model.requires_grad_(False), then adapt({in_python(longest)}, config), "
            "then requires_grad_(True) on your head, which you also save yourself. With PEFT, instead of adapt: "
            f"get_peft_model({tower}, LoraConfig(target_modules=..., **rank_pattern_for({tower})))"
        )
    return (stacks if targets is None else _select(stacks, targets)), notes


def _layers_in_numbered_parts(backbone: nn.Module, stacks: Stacks) -> list[str]:
    """Notes on the numbered parts of a module of one's own that hold layers with numbers: these have one rank.

    Raises:
        ValueError: all layers lie in one such part.
    """
    notes = []
    for stack, layers in ({} if hasattr(backbone, "config") else stacks).items():
        for number, modules in layers.items():
            below = [split_name(split_name(name)[2]) for name in modules]
            only = len(stacks) == len(layers) == 1
            inner = sorted({place[:2] for place in below if place[1] is not None and (only or place[2])})
            outer = f"{stack}.{number}".lstrip(".")
            if only and len(inner) > 1:
                raise ValueError(
                    f"the only numbered layer with linear layers in it is {outer}, and it holds {len(inner)} numbered "
                    f"layers, {outer}.{inner[0][0]}.{inner[0][1]} and so on, which would all have one rank: give the "
                    f"parts of {stack or type(backbone).__name__} names instead of numbers (self.encoder = ...)"
                )
            if len(inner) > 1:
                notes.append(f"{outer} counts as one layer: the {len(inner)} numbered parts in it have the same rank")
    return notes


def _alone_above(stack: str, stacks: Stacks) -> str:
    """The largest part of a model that holds one stack and no other: ``model.text_model``."""
    parts, others = stack.split("."), [f"{other}." for other in stacks if other != stack]
    above = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    alone = (part for part in above if not any(other.startswith(f"{part}.") for other in others))
    return in_python(next(alone, stack))


def backbone_of(model: nn.Module) -> nn.Module:
    """The model below the head: ``base_model``, but the model itself where that leaves the input embeddings outside."""
    inner = getattr(model, "base_model", model)
    try:
        embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    except NotImplementedError:
        return inner
    outside = embeddings in set(model.modules()) - set(inner.modules())
    return model if outside else inner


def _all_stacks(model: nn.Module, backbone: nn.Module) -> Stacks:
    start = next((f"{name}." for name, module in model.named_modules() if module is backbone and name), "")
    stacks: Stacks = {}
    places: dict[int, str] = {}
    for inside, module in backbone.named_modules(remove_duplicate=False):
        name = start + inside
        stack, number, _ = split_name(name)
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and number is not None:
            # not module.weight: where that is computed anew at each look, a later one may have its id
            for part, kind in ((module, "layer"), (module._parameters.get("weight"), "weight")):
                if part is not None and id(part) in places:
                    raise ValueError(
                        f"{name} and {places[id(part)]} are one {kind}; a shared {kind} can't have two ranks"
                    )
                places[id(part)] = name
            stacks.setdefault(stack, {}).setdefault(number, {})[name] = module
    return {stack: dict(sorted(layers.items())) for stack, layers in stacks.items()}


def _without_useless_layers(model: nn.Module, stacks: Stacks) -> tuple[Stacks, list[str]]:
    names = {split_name(n)[2]: n for layers in stacks.values() for modules in layers.values() for n in modules}
    reasons = {inside: "it reads relative positions, not tokens" for inside in names if _reads_positions(inside)}
    reasons |= {
        inside: "Mamba's kernels use its weight directly, so an adapter would have no effect"
        for inside, name in names.items()
        if _past_the_layer(model, name)
    }
    notes = [f"{name} is left out: {reason}" for name, reason in sorted(reasons.items())]
    return _filtered(stacks, lambda inside: inside not in reasons), notes


def _reads_positions(inside: str) -> bool:
    names = tuple(f"_{name}" for name in POSITION_LAYERS)  # whole words: compos_proj is none of them
    return any(f"_{part}".endswith(names) for part in inside.split("."))


def _past_the_layer(model: nn.Module, name: str) -> bool:
    """Whether a layer is one of Mamba's (1 or 2) whose weight kernels take, or in dt_proj's case all code does."""
    mixer, _, own = name.rpartition(".")
    parameters = dict(model.get_submodule(mixer).named_parameters(recurse=False))
    return own in ("x_proj", "dt_proj", "out_proj") and {"A_log", "D"} <= parameters.keys()


def inner_models(module: nn.Module) -> dict[str, nn.Module]:
    """The models of transformers inside a module, by name, none inside another."""
    found: dict[str, nn.Module] = {}
    for name, inside in module.named_modules():
        outermost = name and not any(name.startswith(f"{other}.") for other in found)
        if outermost and hasattr(inside, "config") and hasattr(inside, "base_model"):
            found[name] = inside
    return found


def split_name(name: str) -> tuple[str, int | None, str]:
    """``bert.encoder.layer.3.output.dense`` -> (``bert.encoder.layer``, 3, ``output.dense``); without number: None."""
    match = re.match(r"(?:(.*?)\.)?(\d+)\.(.*)", name)
    return (match[1] or "", int(match[2]), match[3]) if match else ("", None, name)


def layer_numbers(model: nn.Module) -> dict[str, list[int]]:
    """The numbers of the layers that have linear layers in them, in order, by the name of their stack."""
    numbers: dict[str, set[int]] = {}
    for name, module in model.named_modules():
        stack, number, _ = split_name(name)
        linear = isinstance(module, (LoRALinear, nn.Linear)) or is_conv1d(module)
        if linear and number is not None:  # a head has none
            numbers.setdefault(stack, set()).add(number)
    return {stack: sorted(of_layers) for stack, of_layers in numbers.items()}


def is_encoder_decoder(backbone: nn.Module) -> bool:
    """Whether a backbone has an encoder and a decoder, each with layers of its own."""
    return getattr(getattr(backbone, "config", None), "is_encoder_decoder", False) and hasattr(backbone, "decoder")


def _refuse_other_structures(backbone: nn.Module, config: object) -> None:
    name = type(backbone).__name__
    for inside, module in backbone.named_modules():
        if isinstance(module, nn.MultiheadAttention) and split_name(f"{inside}.")[1] is not None:
            raise ValueError(
                f"{inside} is torch's nn.MultiheadAttention, which uses its weights directly, without calling its "
                "layers, so an adapter would have no effect; use a model with linear layers of its own"
            )
        if inside.rpartition(".")[2] == "experts":
            raise ValueError(f"{inside} {EXPERTS}")
        if hasattr(module, "base_layer"):
            raise ValueError(f"{inside} is adapted already, by PEFT or the like; load a fresh model")
        if inside and module is not backbone and hasattr(module, "base_model") and not hasattr(backbone, "config"):
            raise ValueError(
                f"{name} is not a Hugging Face model, but holds one, {inside}: which of its other parts are the head, "
                "and where the attention mask comes in, can't be told. Adapt that one, "
                f"adapt({in_python(inside)}, config), and train, freeze and save the rest yourself"
            )
    for attribute in ("num_experts", "num_local_experts", "n_routed_experts"):
        experts = getattr(config, attribute, None)
        if experts and experts != 1 and getattr(config, "is_moe", True):  # Jamba and Doge may be dense
            raise ValueError(f"{name} ({attribute}={experts}) {EXPERTS}")
    if getattr(config, "model_type", None) == "wavlm":
        raise ValueError(
            f"{name} passes its attention weights straight to a function of torch, without calling the layers, "
            "so adapters there would have no effect; use Wav2Vec2 or HuBERT"
        )
    rescale_every = getattr(config, "rescale_every", 0)
    if rescale_every and getattr(config, "num_hidden_layers", 0) > rescale_every:
        raise ValueError(
            f"{name} divides weights in evaluation, every {rescale_every} layers, and would not divide their updates: "
            "set model.config.rescale_every = 0 before its first pass"
        )
    groups = getattr(config, "num_hidden_groups", None)
    if groups is not None and groups < getattr(config, "num_hidden_layers", groups):
        raise ValueError(
            f"{name} has {config.num_hidden_layers} layers but only {groups} set{'s' * (groups > 1)} of weights, "
            "so the ranks can't differ from layer to layer; use a model with layers of their own"
        )


def _select(stacks: Stacks, targets: tuple[str, ...]) -> Stacks:
    """What the targets name; a stack in which they name nothing is left out."""
    by_layer = {
        stack: {number: {split_name(name)[2] for name in modules} for number, modules in layers.items()}
        for stack, layers in stacks.items()
    }
    names = list(dict.fromkeys(split_name(n)[2] for ls in stacks.values() for modules in ls.values() for n in modules))
    chosen: set[str] = set()
    for target in targets:
        matches = {name for name in names if name == target} or {n for n in names if n.endswith(f".{target}")}
        if not matches:
            parts = {".".join(name.split(".")[i:]) for name in names for i in range(len(name.split(".")))}
            raise unknown("target", target, sorted(parts))
        for layers in by_layer.values():
            missing = [number for number, inside in layers.items() if not inside & matches]
            if 0 < len(missing) < len(layers):
                raise ValueError(
                    f"target {target!r} matches nothing in layers {missing}; targets must exist in every layer"
                )
        chosen |= matches
    selected = _filtered(stacks, lambda inside: inside in chosen)
    return {stack: layers for stack, layers in selected.items() if any(layers.values())}


def _filtered(stacks: Stacks, keep: Callable[[str], bool]) -> Stacks:
    """The stacks with those linear layers whose name inside the layer is kept."""
    return {
        stack: {
            number: {name: module for name, module in modules.items() if keep(split_name(name)[2])}
            for number, modules in layers.items()
        }
        for stack, layers in stacks.items()
    }
