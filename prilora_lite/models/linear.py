"""The two kinds of linear layers that can be adapted: ``nn.Linear``, and GPT-2's own with its weight transposed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Asked once, and not in a forward pass: before torch 2.13 the question breaks the graph of torch.compile
_AUTOCAST = [device for device in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(device)]


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is GPT-2's ``Conv1D``: a linear layer that stores its weight as (in, out)."""
    return type(module).__name__ == "Conv1D" and isinstance(getattr(module, "nf", None), int)


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(out, in) = (m, n) of an ``nn.Linear`` or ``Conv1D``.

    Raises:
        TypeError: the module is neither.
    """
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if is_conv1d(module):
        return module.weight.shape[1], module.weight.shape[0]
    raise TypeError(f"expected nn.Linear or GPT-2's Conv1D, got {type(module).__name__}")


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which a linear layer multiplies an input: autocast's, where it is on, else the input's own."""
    device = x.device.type
    if x.dtype == torch.float64 or device not in _AUTOCAST or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def is_quantized(weight: Tensor) -> bool:
    """Whether a weight is held in integers, or in float8."""
    return not weight.is_floating_point() or weight.element_size() == 1


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook is given what a module returns, or the gradient of that."""
    everywhere = nn.modules.module
    return bool(
        module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or everywhere._global_forward_hooks
        or everywhere._global_backward_hooks
        or everywhere._global_backward_pre_hooks
    )


def check_mergeable(module: nn.Module) -> None:
    """Raise RuntimeError if the weight of a linear layer is no parameter, so that nothing can be added to it."""
    if "weight" not in module._parameters:
        raise RuntimeError(
            "the weight of this layer is computed anew from other parameters, so an update merged into it would be "
            "lost: first make it a plain weight, with remove_parametrizations or remove of torch.nn.utils"
        )


def check_weight(name: str, module: nn.Module) -> None:
    """Raise ValueError if the weight of a linear layer is quantized or not loaded, or is used in another way."""
    if module.weight.device.type == "meta" or is_quantized(module.weight):
        raise ValueError(
            f"{name} holds {module.weight.dtype} on {module.weight.device}: load the model unquantized and "
            "with its weights before adapting it; or adapt a quantized one with PEFT's "
            "LoraConfig(**rank_pattern_for(model)), which PRILoRACallback prunes too"
        )
    if isinstance(module, nn.Linear) and not _computes_its_product(module):
        raise ValueError(
            f"{name} is a {type(module).__name__}, which computes something else than W x + b, so its update could not "
            "be merged: leave it out with targets"
        )


@torch.no_grad()
def _computes_its_product(module: nn.Linear) -> bool:
    """Whether a class of one's own computes what nn.Linear does, tried with two inputs."""
    if type(module).forward is nn.Linear.forward:
        return True
    x = torch.linspace(-8, 8, 2 * module.in_features).view(2, -1).to(module.weight)
    try:
        y = type(module).forward(module, x)
    except TypeError:  # it asks for more than x
        return False
    product = nn.functional.linear(x, module.weight, module.bias)
    same = isinstance(y, Tensor) and y.shape == product.shape
    return same and bool((y - product).norm() <= 0.05 * product.norm())  # half precision rounds


def check_untied(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    """Raise ValueError if another part of a model uses the weight of one of its layers: a merge would change both."""
    holders: dict[nn.Parameter, dict[nn.Module, str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(parameter, {})[module] = name
    for name, layer in layers.items():
        others = [other for module, other in holders.get(layer.weight, {}).items() if module is not layer]
        if others:
            raise ValueError(
                f"{name} and {others[0]} are one weight, of which {name} alone would be adapted, and a merge would "
                "change both: untie them, or leave the layer out with targets"
            )
