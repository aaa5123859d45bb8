"""Which of a layer's inputs are real tokens, not padding: the attention masks of the current forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prilora_lite.models.heads import is_of_ones_own
from prilora_lite.models.stacks import backbone_of, inner_models, is_encoder_decoder, split_name
from prilora_lite.shared.errors import in_python, warn

# Facts about families, by the names in their models
# Of BERT and GPT-2, BART, T5, Pix2Struct
_CROSS_ATTENTION = ("cross", "encoder_attn", "EncDecAttention", "encoder_decoder_attention")
_READS_THE_ENCODER = ("key", "value", "k_proj", "v_proj", "k", "v", "c_attn")  # there; only the query reads the decoder
_POSITIONS_AFTER_TOKENS = ("query_proj", "key_proj")  # of DeBERTa's attention, which runs them again on positions
# What names of masks begin with that are not of the layers' own tokens
_OF_OTHERS = ("encoder_", "decoder_", "cross_", "global_", "head_")
_TOKENS_FIRST = ("xlnet", "longformer", "led", "fsmt")  # inside them the first axis is tokens, not examples

Mask = tuple[torch.Size | None, Tensor | None]  # its shape, and which tokens are real; neither where there is no mask


class Hook:
    """A hook that listens for one object; in a copy of the model, pickled or not, it does nothing."""

    def __init__(self, function: Callable[..., None] | None = None) -> None:
        self.function = function

    def __call__(self, *args: Any) -> None:
        if self.function is not None:
            self.function(*args)

    def __deepcopy__(self, memo: dict) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple]:
        return Hook, ()


def drop_hooks(module: nn.Module) -> None:
    """Take out what listens before a module's forward passes."""
    for place, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, Hook):
            del module._forward_pre_hooks[place]
            module._forward_pre_hooks_with_kwargs.pop(place, None)


class RealTokens:
    """Reads attention masks where they come into a model, and tells which tokens of a layer's input are real.

    Only passes that train are counted: in training mode, with gradients. A forward pass may leave out the head, but not
    the modules that the masks come into: the backbone, or the encoder and the decoder of a model with both.

    Args:
        model: the whole model.

    Attributes:
        hooks: the hooks to remove when it should stop listening.
        passed: whether a pass has trained; whoever asks may set it back.

    Raises:
        ValueError: a model whose layers have the tokens before the rows, so that no mask fits their inputs.
    """

    def __init__(self, model: nn.Module) -> None:
        kind = str(getattr(getattr(model, "config", None), "model_type", ""))
        if kind in _TOKENS_FIRST:
            raise ValueError(
                f"the layers of {kind} have the tokens before the rows, so padding can't be told from tokens in their "
                "inputs: train it without pruning (ratio=0)"
            )
        self.passed = self._warned = False
        self._reads_positions = any(hasattr(module, "share_att_key") for module in model.modules())  # DeBERTa's
        self._ran: set[str] = set()  # layers of _POSITIONS_AFTER_TOKENS that have had their tokens in this pass
        self._given: Any = None  # the mask that the whole model was given in this pass
        self._withheld = False  # whether that mask was not handed on to the entry
        model = _hugging_face_model(model)
        self._padding = getattr(getattr(model, "config", None), "pad_token_id", None)
        entries = _mask_entries(model)
        # For the current forward pass and each source of tokens: the mask's shape, and which tokens are real. The keys
        # stay the same, so that a model that was compiled in the first pass need not be compiled again.
        self._real: dict[str, Mask | None] = dict.fromkeys((*entries, "memory", "head"))
        self._stack_of = {module: source for source, entry in entries.items() for module in entry.modules()}
        self.hooks = [
            entry.register_forward_pre_hook(Hook(self._reader(source, entry)), with_kwargs=True)
            for source, entry in entries.items()
        ]
        if model not in entries.values():
            self.hooks.append(model.register_forward_pre_hook(Hook(self._keeper(model)), with_kwargs=True))

    def source_of(self, name: str, module: nn.Module) -> str:
        """Whose tokens a layer reads: ``encoder``, ``decoder``, ``memory`` (encoder's, in a decoder), ``head``."""
        parent, _, child = split_name(name)[2].rpartition(".")  # in its layer: around it a name may say anything
        if any(word in parent for word in _CROSS_ATTENTION) and child in _READS_THE_ENCODER:
            return "memory"
        return self._stack_of.get(module, "head")

    def holds_tokens(self, name: str) -> bool:
        """Whether the input with which a layer is called now holds tokens; ask once for each call."""
        if not (self._reads_positions and name.endswith(_POSITIONS_AFTER_TOKENS)):
            return True
        first = name not in self._ran
        self._ran.add(name)
        return first

    def real(self, name: str, source: str, x: Tensor) -> Tensor | None:
        """Which tokens of the input x (..., n) are real, as :func:`~prilora_lite.importance.sum_of_squares` reads it.

        Raises:
            RuntimeError: the layer ran, but not the module that its mask comes into.
            ValueError: the mask fits no such input.
        """
        if self._real[source] is None:
            raise RuntimeError(
                f"{name} ran, but the module that takes the attention mask did not, or ran in evaluation mode, so "
                "padding can't be told from real tokens: call the whole model, after model.train()"
            )
        shape, real = self._real[source]
        if shape is None:
            return None
        if real is not None and real.device != x.device:  # the model is spread over devices
            real = real.to(x.device)
            self._real[source] = shape, real
        if x.shape[:-1] in (shape, (shape.numel(),)):  # OPT's feed-forward has its tokens in one row
            return real
        if source == "head" or x.shape[:-1] == shape[:1]:
            return None  # behind the pooling, where each example is one vector, there is no padding
        if source == "encoder" and self._withheld:
            self._warn(
                f"the attention_mask of {tuple(shape)} that the model was given does not reach its layers, and fits no "
                f"input of {tuple(x.shape)}, as {name} has: all tokens count, padding as well. Leave the mask out if "
                "nothing is padded"
            )
            return None
        longer = x.ndim == 3 and x.shape[0] == shape[0] and x.shape[1] > shape[1]
        pads = "if it pads rows itself, as BigBird does, give the collator its pad_to_multiple_of; else "
        raise ValueError(
            f"the input of {name} is {tuple(x.shape)}, the attention mask {tuple(shape)}: they must agree in "
            "(batch, tokens) for padding to be told from tokens; this model makes other tokens than those its mask "
            f"counts: {pads * longer}leave the mask out if nothing is padded, leave such layers out with targets (in "
            "PEFT with exclude_modules), or train without pruning (ratio=0)"
        )

    def _keeper(self, model: nn.Module) -> Callable[[nn.Module, tuple, dict], None]:
        """A hook that keeps the mask that the whole model is given: RWKV's, for one, hands it on to nothing."""
        signature = inspect.signature(model.forward)

        def keep_mask(module: nn.Module, args: tuple, kwargs: dict) -> None:
            mask = _by_name(signature.bind_partial(*args).arguments | kwargs).get("attention_mask")
            trains = module.training and torch.is_grad_enabled()  # else it would be there for a pass without one
            self._given = mask if trains and isinstance(mask, Tensor) and mask.ndim == 2 else None

        return keep_mask

    def _reader(self, source: str, entry: nn.Module) -> Callable[[nn.Module, tuple, dict], None]:
        signature = inspect.signature(entry.forward)
        others = [name for name in signature.parameters if _may_tell_padding(name)]
        if "attention_mask" in signature.parameters:  # that of the first text, where there is one for another
            others = [name for name in others if name.startswith("attention_mask_")]

        def read_masks(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if module.training and torch.is_grad_enabled():
                self.passed = True
                given = _by_name(signature.bind_partial(*args).arguments | kwargs)
                mask = given.get("attention_mask")
                if source == "encoder":
                    self._withheld = mask is None and self._given is not None
                    mask = self._given if mask is None else mask
                self._given = None  # a decoder runs without its encoder where it is given the encoder's outputs
                if mask is None and source == "decoder":
                    mask = _without_padding(given.get("input_ids"), self._padding_of(entry))
                self._real[source] = _read(_for_all(_after_the_cache(mask, given), given))
                self._real["memory"] = _read(given.get("encoder_attention_mask"))
                self._real["head"] = self._real[source]  # the decoder runs last, so a head after it uses its mask
                if others:
                    self._warn_of(others, given, type(entry).__name__)
                self._ran = set()  # not cleared: what it held before would be looked at again by a compiled model

        return read_masks

    def _padding_of(self, entry: nn.Module) -> int | None:
        """The padding token of a decoder; of one without, such as GPT-2, that of the whole model, which pads it."""
        own = getattr(entry.config, "pad_token_id", None)
        return self._padding if own is None else own

    def _warn_of(self, names: list[str], given: dict[str, Any], model: str) -> None:
        """Warn of a mask (batch, tokens) that came under another name, so that padding counts as tokens."""
        shapes = {
            name: value.shape[:2] for name, value in given.items() if isinstance(value, Tensor) and value.ndim > 1
        }
        for name in names:
            like = [other for other, shape in shapes.items() if other not in names and shape == shapes.get(name)]
            if like and given[name].ndim == 2:
                self._warn(
                    f"the pruner reads padding from an argument called attention_mask, and {model}.forward has {name}: "
                    "all tokens count, padding as well. Call it attention_mask, with 1 or True for real tokens"
                )

    def _warn(self, message: str) -> None:
        """Warn once that padding counts as tokens."""
        if not self._warned and not torch.compiler.is_compiling():
            self._warned = True
            warn(message)


def _by_name(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a forward pass, with what stands in a batch that is one of them, as a tokenizer returns it."""
    inside = {key: value for batch in arguments.values() if isinstance(batch, Mapping) for key, value in batch.items()}
    return inside | arguments


def _may_tell_padding(name: str) -> bool:
    """Whether an argument of this name may be a mask of tokens."""
    return "mask" in name and not name.startswith(_OF_OTHERS)


def _hugging_face_model(model: nn.Module) -> nn.Module:
    """The Hugging Face model that a module of one's own, or PEFT's wrapper, holds; else the module itself.

    Raises:
        ValueError: it holds several with adapted layers.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not hasattr(model, "config") or is_of_ones_own(model):  # its forward may have one mask for each of several texts
        model = _adapted_inside(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _mask_entries(model: nn.Module) -> dict[str, nn.Module]:
    """The modules where attention masks come in, by the source of tokens that each is."""
    backbone = backbone_of(model)
    if is_encoder_decoder(backbone):
        return {"encoder": backbone.encoder, "decoder": backbone.decoder}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        for module in backbone.modules():  # from the outside in
            reads = "encoder_hidden_states" in inspect.signature(module.forward).parameters
            if reads and any(".lora_A" in name for name, _ in module.named_parameters()):
                return {"decoder": module}  # SeamlessM4T's, adapted by itself
    decoder = None if hasattr(backbone, "encoder") else getattr(backbone, "decoder", None)
    if isinstance(decoder, nn.Module) and any(".lora_A" in name for name, _ in decoder.named_parameters()):
        return {"encoder": decoder}  # OPT's and BART's language models call it past the backbone
    return {"encoder": backbone}


def _adapted_inside(model: nn.Module) -> nn.Module:
    """The one Hugging Face model that a module of one's own holds, if its adapted layers lie in there; else itself."""
    holders = inner_models(model)
    adapted = {name for name, parameter in model.named_parameters() if ".lora_A" in name}
    holding = {name: h for name, h in holders.items() if any(a.startswith(f"{name}.") for a in adapted)}
    if len(holding) > 1:
        first = next(iter(holding))
        raise ValueError(
            f"{type(model).__name__} holds several models with adapted layers, {', '.join(holding)}, and where their "
            f"attention masks come in can't be told: make a Pruner for each, Pruner({in_python(first)}) and so on"
        )
    return next(iter(holding.values()), model)


def _read(mask: Tensor | None) -> Mask:
    """A mask's shape (batch, tokens), and which of its tokens are real; neither where there is no mask."""
    if mask is None:
        return None, None
    if isinstance(mask, Tensor) and mask.ndim == 4 and (mask.dtype == torch.bool or mask.is_floating_point()):
        mask = _may_read_itself(mask)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        got = f"one of {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise ValueError(
            f"the pruner counts tokens by an attention mask of shape (batch, tokens), got {got}: pass the mask as "
            "the tokenizer gives it, from which the model builds any other, one of (batch, 1, queries, keys) that is "
            "boolean or added to the scores, or none if nothing is padded"
        )
    if mask.is_floating_point():  # added to the scores if nothing is above zero; else 1 for real tokens
        mask = torch.where((mask <= 0).all(), mask == 0, mask != 0)
    return mask.shape, _which_are_real(mask.flatten())


def _may_read_itself(mask: Tensor) -> Tensor:
    """For each token whether it may attend to itself, (batch, queries): in packed rows, that it is real.

    Args:
        mask: (batch, heads, queries, keys), True or 0 where a query may attend to a key; the last keys are the queries.
    """
    own = mask[:, 0].diagonal(mask.shape[3] - mask.shape[2], dim1=1, dim2=2)
    return own if own.dtype == torch.bool else own == 0


def _after_the_cache(mask: Any, given: dict[str, Any]) -> Any:
    """A mask (batch, tokens) without those tokens that stand in a cache, before the ones of this pass."""
    tokens = _tokens(given)
    if given.get("past_key_values") is None or tokens is None or not isinstance(mask, Tensor) or mask.ndim != 2:
        return mask
    return mask[:, -tokens.shape[1] :]


def _for_all(mask: Any, given: dict[str, Any]) -> Any:
    """A mask (1 or batch, heads, 1 or queries, keys), which attention broadcasts, with all rows and queries."""
    tokens = _tokens(given)
    if tokens is None or not isinstance(mask, Tensor) or mask.ndim != 4:
        return mask
    rows = tokens.shape[0] if mask.shape[0] == 1 else -1
    return mask.expand(rows, -1, tokens.shape[1] if mask.shape[2] == 1 else -1, -1)


def _tokens(given: dict[str, Any]) -> Tensor | None:
    return given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")


def _which_are_real(mask: Tensor) -> Tensor | None:
    """Which tokens are real: their places, None where all are; or for each token whether it is.

    Places are faster on a CPU. How many there are depends on the data: a GPU would be waited for, and a compiled graph
    would end here.
    """
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return mask != 0
    places = mask.nonzero().squeeze(1)
    return places if len(places) < len(mask) else None


def _without_padding(ids: Tensor | None, padding: int | None) -> Tensor | None:
    """The mask of a decoder that was given none; its first token is real: T5 starts with a padding token."""
    if ids is None or padding is None:
        return None
    real = ids != padding
    real[:, :1] = True
    return real
