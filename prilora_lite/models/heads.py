"""The parts of a model outside its stacks of layers that are trained with an adapter: pooler and head."""

from __future__ import annotations

import re

from torch import nn

from prilora_lite.models.stacks import backbone_of, is_encoder_decoder, layer_numbers


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Pooler and classification head, by name: all outside the backbone, plus its pooler, except output embeddings.

    In a module that is no model of transformers: all beside its layers and embeddings.
    """
    if not hasattr(model, "base_model"):
        beside = _beside_the_layers(model)
        named = {name: (name.split("."), parameter) for name, parameter in model.named_parameters()}
        return {name: p for name, (parts, p) in named.items() if parts[0] in beside or "pooler" in parts}
    backbone = backbone_of(model)
    outputs = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    frozen = set() if outputs is None else set(outputs.parameters())
    vocabulary = {parameter.shape[0] for parameter in frozen if parameter.ndim}
    frozen |= {p for p in model.parameters() if vocabulary & set(p.shape)}  # MobileBERT's is in two parts
    if backbone is model and (is_encoder_decoder(model) or re.search("For[A-Z]", type(model).__name__)):
        # the heads of T5, and of CLIP's and Whisper's classifiers, stand beside the stacks, without a backbone
        for module in model.children():
            if isinstance(module, nn.Embedding) or _holds_layers(module):
                frozen |= set(module.parameters())
    else:
        frozen |= {p for name, p in backbone.named_parameters() if "pooler" not in name.split(".")}
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
    if hasattr(model, "base_model"):
        return notes
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    parts |= {name: p.numel() for name, p in model.named_parameters(recurse=False)}
    heads = dict.fromkeys(name.partition(".")[0] for name in head)
    said = "stands beside the layers and is trained, as a head"
    return [f"{name} ({parts[name]:,} parameters) {said}" for name in heads] + notes


def _beside_the_layers(model: nn.Module) -> set[str]:
    """The children and parameters of a module that hold neither layers nor embeddings."""
    stacks = {stack.partition(".")[0] for stack in layer_numbers(model)}
    others = {
        name
        for name, child in model.named_children()
        if name in stacks
        or ("" in stacks and name.isdigit())
        or any(isinstance(inside, (nn.ModuleList, nn.Embedding)) for inside in child.modules())
    }
    return {name.partition(".")[0] for name, _ in model.named_parameters()} - others


def _holds_layers(module: nn.Module) -> bool:
    return any(isinstance(inside, nn.ModuleList) for inside in module.modules())
