"""How models are built, as far as the pruner must know: adapted layers, inputs that layers share, attention masks."""

from __future__ import annotations

from torch import nn

from prilora_lite.lora import LoRALinear, linear_shape
from prilora_lite.shared.errors import expect

# Within one self-attention (and one gated feed-forward) these read the same tensor, so it is read once, at the module
# named on the right. DeBERTa needs this to be right, too: with share_att_key its query_proj and key_proj also run on
# the relative-position embeddings, and only value_proj sees the tokens alone.
_READS_THE_INPUT_OF = {
    "query": "value", "key": "value",
    "query_proj": "value_proj", "key_proj": "value_proj",
    "q_proj": "v_proj", "k_proj": "v_proj",
    "q_lin": "v_lin", "k_lin": "v_lin",
    "q": "v", "k": "v",
    "up_proj": "gate_proj", "wi_0": "wi_1",
}  # fmt: skip
_CROSS_ATTENTION = ("cross", "encoder_attn", "EncDecAttention")  # in the names of BERT's and GPT-2's, BART's and T5's
_READS_THE_ENCODER = ("key", "value", "k_proj", "v_proj", "k", "v", "c_attn")  # there; the query reads the decoder
_ADD_POSITIONS = ("detr", "maskformer", "mask2former", "oneformer", "grounding-dino", "d_fine")  # in the kind of model
_TOKENS_FIRST = ("xlnet", "longformer", "led", "fsmt")
_REFUSED = {
    "FullyShardedDataParallel": "FSDP splits each weight among the processes",
    "FSDPModule": "FSDP splits each weight among the processes",
    "DeepSpeedEngine": "DeepSpeed keeps copies of the weights that pruning would not reach",
    "DataParallel": "the replicas of nn.DataParallel lose the input statistics",
}
INSTEAD = "use one process per GPU with whole weights in each, torchrun or `accelerate launch` with plain DDP"


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
    def merged(self) -> bool:
        """Whether the base's weight now holds an update."""
        return self.layer.merged


def lora_layers(model: nn.Module) -> dict[str, LoRALinear | PeftLayer]:
    """Every adapted linear layer of a model by its name: this library's, or PEFT's for the adapter that is active.

    Raises:
        TypeError: no model.
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
                if adapter in module.lora_A and module.lora_A[adapter].weight.ndim == 2:
                    found[name] = PeftLayer(module, adapter)
                    adapters.add(adapter)
                elif adapter in module.lora_A or adapter in module.lora_embedding_A:
                    raise ValueError(
                        f"PEFT's adapter {adapter!r} adapts {name}, which is no linear layer, so its A has no input "
                        "norms: leave it out of target_modules"
                    )
    if len(adapters) > 1:
        raise ValueError(
            f"PEFT's adapters {', '.join(sorted(adapters))} are active together; one at a time can be pruned: "
            f"model.set_adapter({min(adapters)!r})"
        )
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``DistributedDataParallel`` and ``torch.compile``.

    Raises:
        TypeError: no model.
        ValueError: the model is under FSDP, DeepSpeed or ``nn.DataParallel``, which split, copy or replicate weights.
    """
    expect(nn.Module, model, "a model")
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    kinds |= {"DeepSpeedEngine" for parameter in model.parameters() if hasattr(parameter, "ds_id")}  # ZeRO-3
    for name, reason in _REFUSED.items():
        if name in kinds:
            raise ValueError(f"{reason}, so A can't be pruned there: {INSTEAD}")
    while isinstance(model, nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def shares_inputs(model: nn.Module) -> bool:
    """Whether query, key and value read one tensor; in DETR and its kin positions are added to the first two.

    Raises:
        ValueError: a model whose layers have the tokens before the rows, so that no mask fits their inputs.
    """
    kind = str(getattr(getattr(model, "config", None), "model_type", ""))
    if kind in _TOKENS_FIRST:
        raise ValueError(
            f"the layers of {kind} have the tokens before the rows, so padding can't be told from tokens in their "
            "inputs: train it without pruning (ratio=0)"
        )
    return not any(part in kind for part in _ADD_POSITIONS)


def mask_entries(model: nn.Module) -> dict[str, nn.Module]:
    """The modules where attention masks come in: the backbone, or ``encoder`` and ``decoder`` of a model with both.

    A head may be left out of a forward pass, these can't be.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # out of PEFT's wrapper
    backbone = getattr(model, "base_model", model)
    if is_encoder_decoder(backbone):
        return {"encoder": backbone.encoder, "decoder": backbone.decoder}
    if isinstance(getattr(backbone, "decoder", None), nn.Module) and not hasattr(backbone, "encoder"):
        return {"encoder": backbone.decoder}  # OPT's and BART's language models call it past the backbone
    return {"encoder": backbone}


def is_encoder_decoder(backbone: nn.Module) -> bool:
    """Whether a backbone has an encoder and a decoder, each with layers of its own."""
    return getattr(getattr(backbone, "config", None), "is_encoder_decoder", False) and hasattr(backbone, "decoder")


def source_of_input(name: str, modules: dict[str, nn.Module]) -> str:
    """Name of the module at which the input of this one is read: a sibling that shares it, or itself."""
    parent, _, child = name.rpartition(".")
    source = f"{parent}.{_READS_THE_INPUT_OF.get(child, child)}".lstrip(".")
    if _is_cross_attention(parent) or source not in modules:  # there the query comes from elsewhere than key and value
        return name
    return source if in_features(modules[source]) == in_features(modules[name]) else name


def reads_the_encoder(name: str) -> bool:
    """Whether a module of a decoder reads the encoder's output."""
    parent, _, child = name.rpartition(".")
    return _is_cross_attention(parent) and child in _READS_THE_ENCODER


def in_features(module: nn.Module) -> int:
    """n of a linear layer, adapted or not."""
    return module.in_features if hasattr(module, "in_features") else linear_shape(module)[1]


def _is_cross_attention(name: str) -> bool:
    return any(word in name for word in _CROSS_ATTENTION)
