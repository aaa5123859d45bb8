"""The parts of a model outside its stacks of layers that are trained with an adapter: pooler and head."""

from __future__ import annotations

import re

from torch import nn

from prilora_lite.models.stacks import backbone_of, inner_models, is_encoder_decoder, layer_numbers


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Pooler and classification head, by name: all outside the backbone, plus its pooler, except output embeddings.

    A head that reads each token has no use for a pooler, which stays frozen then, as BigBird's.
    In a module of one's own: all beside its layers and embeddings, or beside the one model of transformers in it.
    """
    outputs = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    frozen = set() if outputs is None else set(outputs.parameters())
    hidden = getattr(getattr(model, "config", None), "hidden_size", None)  # a small vocabulary may be as large
    vocabulary = {parameter.shape[0] for parameter in frozen if parameter.ndim} - {hidden}
    frozen |= {p for p in model.parameters() if vocabulary & set(p.shape)}  # MobileBERT's is in two parts
    backbone = _inner_backbone(model) if is_of_ones_own(model) else backbone_of(model)
    if backbone is None:
        beside = {name: p for part in _beside_the_layers(model).values() for name, p in part.items()}
        return {name: p for name, p in beside.items() if p not in frozen}
    if backbone is model and (is_encoder_decoder(model) or re.search("For[A-Z]", type(model).__name__)):
        # the heads of T5, and of CLIP's and Whisper's classifiers, stand beside the stacks, without a backbone
        for module in model.children():
            if isinstance(module, nn.Embedding) or _holds_layers(module):
                frozen |= set(module.parameters())
    else:
        pooled = not re.search("For(TokenClassification|QuestionAnswering|MaskedLM|CausalLM)$", type(model).__name__)
        frozen |= {p for name, p in backbone.named_parameters() if not (pooled and "pooler" in name.split("."))}
    return {name: parameter for name, parameter in model.named_parameters() if parameter not in frozen}


def head_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold :func:`head_parameters`, by name, none inside another; PEFT's ``modules_to_save``."""
    names = {name.rpartition(".")[0] for name in head_parameters(model)}
    outermost = sorted(name for name in names if not any(name.startswith(f"{other}.") for other in names))
    return {name: model.get_submodule(name) for name in outermost}


def head_notes(model: nn.Module) -> list[str]:
    """What is taken for the head of a module that is no model of transformers, and whether it is in half precision."""
    head = head_parameters(model)
    half = sorted({str(p.dtype).removeprefix("torch.") for p in head.values() if p.itemsize < 4})
    notes = [
        f"the head is trained in {dtype}, in which small steps round to nothing: load the model with "
        "dtype=torch.float32, and use autocast (bf16=True in TrainingArguments) for speed"
        for dtype in half
    ]
    if not is_of_ones_own(model) or _inner_backbone(model) is not None:
        return notes
    said = "stands beside the layers and is trained, as a head"
    parts = {part: sum(p.numel() for p in held.values()) for part, held in _beside_the_layers(model).items()}
    return [f"{part} ({size:,} parameters) {said}" for part, size in parts.items()] + notes


def _beside_the_layers(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters outside the numbered layers, by the largest part without layers that holds them; no embeddings."""
    stacks = layer_numbers(model)
    above = {".".join(stack.split(".")[:depth]) for stack in stacks for depth in range(stack.count(".") + 2)} | {""}
    beside: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        depth = next(depth for depth in range(len(parts) + 1) if ".".join(parts[:depth]) not in above)
        part, inside = ".".join(parts[:depth]), ".".join(parts[: depth - 1])
        numbers = stacks.get(inside, ())
        if numbers and parts[depth - 1].isdigit() and numbers[0] <= int(parts[depth - 1]) <= numbers[-1]:
            continue  # a layer; what stands before or after the layers in an nn.Sequential is none
        module = model.get_submodule(part) if depth < len(parts) else nn.Module()
        if "pooler" in parts or not any(isinstance(each, nn.Embedding) for each in module.modules()):
            beside.setdefault(part, {})[name] = parameter
    return beside


def is_of_ones_own(model: nn.Module) -> bool:
    """Whether transformers can't tell what in a model is its backbone: no model of its, or under an unexpected name."""
    above = next((each for each in type(model).__mro__ if each.__module__.startswith("transformers.")), nn.Module)
    abstract = above is nn.Module or above.__name__.endswith("PreTrainedModel")
    return abstract and (not hasattr(model, "base_model") or backbone_of(model) is model)


def _inner_backbone(model: nn.Module) -> nn.Module | None:
    """The backbone of the model of transformers that a class of one's own holds, if it is the only one there."""
    inner = [module for module in inner_models(model).values() if _holds_layers(module)]
    return backbone_of(inner[0]) if len(inner) == 1 else None


def _holds_layers(module: nn.Module) -> bool:
    return any(isinstance(inside, nn.ModuleList) for inside in module.modules())
