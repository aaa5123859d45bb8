"""What PRILoRA is compared with beside LoRA: BitFit, bottleneck adapters, and PEFT's AdaLoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TrainerCallback

from prilora_lite.experiments.budget import adapter_parameters
from prilora_lite.models.heads import head_modules, head_parameters
from prilora_lite.models.linear import linear_shape
from prilora_lite.models.stacks import find_stacks, split_name

BUDGET = 8  # rank of the LoRA whose number of parameters the others are given
DENSE = ("attention.output.dense", "output.dense")  # the last linear layers of a BERT layer's two blocks
ADALORA_STEPS = 7  # with fewer, one of AdaLoRA's three phases would have no step


def prepare(model: nn.Module, name: str, *, steps: int, alpha: float) -> tuple[nn.Module, list[TrainerCallback]]:
    """Freeze a model and give it what the baseline trains, beside pooler and head.

    Args:
        model: an encoder with a head, not adapted.
        name: ``bitfit``: all biases; ``houlsby``: a bottleneck behind the last linear layer of attention and of
            feed-forward, before residual and LayerNorm; ``pfeiffer``: one behind the LayerNorm that ends each layer;
            ``adalora``: PEFT's AdaLoRA on all linear layers of the layers.
        steps: optimizer steps that the run will make; AdaLoRA spreads its pruning over them.
        alpha: numerator of AdaLoRA's scaling.

    Returns:
        The model to train, which for AdaLoRA is PEFT's wrapper of it, and the callbacks that the method needs.

    Raises:
        ValueError: a structure that the baseline has no place in, or too few steps for AdaLoRA's schedule.
        ModuleNotFoundError: AdaLoRA, if PEFT is not installed.

    Source: BitFit (Ben Zaken et al. 2022), adapters (Houlsby et al. 2019; Pfeiffer et al. 2021), AdaLoRA (Zhang et al.
    2023). Two things are our choice: the bottlenecks' widths match the budget of LoRA of rank 8, and LayerNorms stay
    frozen, which Houlsby et al. train.
    """
    heads = head_parameters(model)
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name in heads)
    return BASELINES[name](model, steps, alpha)


def count_beside_head(model: nn.Module) -> tuple[int, int]:
    """Parameters that a baseline trains beside pooler and head, and those of them that have an effect now."""
    heads = head_parameters(model)
    trained = {
        parameter_name: parameter
        for parameter_name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter_name not in heads and "modules_to_save" not in parameter_name
    }
    total = sum(parameter.numel() for parameter in trained.values())
    if not any("lora_E" in parameter_name for parameter_name in trained):
        return total, sum(int(parameter.count_nonzero()) for parameter in trained.values())
    alive = 0  # a direction of AdaLoRA whose lora_E is zero has no effect, whatever its row and column hold
    for parameter_name, values in trained.items():
        if "lora_E" in parameter_name:
            row, column = (trained[parameter_name.replace("lora_E", other)] for other in ("lora_A", "lora_B"))
            alive += int(values.count_nonzero()) * (1 + row.shape[1] + column.shape[0])
    return total, alive


class Bottleneck(nn.Module):
    r"""A module followed by a small residual network.

    .. math:: h = \mathrm{base}(x), \qquad y = h + W_{up}\,\mathrm{gelu}(W_{down}\,h + b_{down}) + b_{up}

    ``up`` starts at zero, so at the start it computes what its base computes.

    Args:
        base: the module, frozen.
        size: d, features of its output.
        width: size of the bottleneck.
    """

    def __init__(self, base: nn.Module, size: int, width: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        device = next(base.parameters()).device
        self.down = nn.Linear(size, width, device=device)
        self.up = nn.Linear(width, size, device=device)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, *inputs: Tensor) -> Tensor:
        h = self.base(*inputs)
        return h + self.up(F.gelu(self.down(h)))


class AdaLoRACallback(TrainerCallback):
    """Lets PEFT's allocator move the budget after each optimizer step.

    Attributes:
        history: for each change the step and how many directions are left, by layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.history: list[dict[str, Any]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step + 1  # counted after this call
        self.model.base_model.update_and_allocate(step)
        ranks = {
            name.removesuffix(".lora_E.default"): int(parameter.count_nonzero())
            for name, parameter in self.model.named_parameters()
            if name.endswith("lora_E.default")
        }
        if not self.history or ranks != self.history[-1]["ranks"]:
            self.history.append({"step": step, "ranks": ranks})

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        planned = self.model.peft_config["default"].total_step
        if state.max_steps != planned:
            raise RuntimeError(f"AdaLoRA was planned for {planned} steps, but the run will make {state.max_steps}")


def _layers(model: nn.Module) -> list[dict[str, nn.Module]]:
    """The linear layers of each layer of the model, by name."""
    return [modules for numbered in find_stacks(model)[0].values() for modules in numbered.values()]


def _bitfit(model: nn.Module, steps: int, alpha: float) -> tuple[nn.Module, list[TrainerCallback]]:
    heads = head_parameters(model)
    found = [p for name, p in model.named_parameters() if name.endswith("bias") and name not in heads]
    if not found:
        raise ValueError(f"{type(model).__name__} has no biases for BitFit to train")
    for parameter in found:
        parameter.requires_grad_(True)
    return model, []


def _houlsby(model: nn.Module, steps: int, alpha: float) -> tuple[nn.Module, list[TrainerCallback]]:
    _add_bottlenecks(model, lambda attention, feed_forward: (attention, feed_forward))
    return model, []


def _pfeiffer(model: nn.Module, steps: int, alpha: float) -> tuple[nn.Module, list[TrainerCallback]]:
    # BERT's `output`: dense, dropout, and the LayerNorm of their sum with the residual
    _add_bottlenecks(model, lambda attention, feed_forward: (feed_forward.removesuffix(".dense"),))
    return model, []


def _add_bottlenecks(model: nn.Module, places: Callable[[str, str], tuple[str, ...]]) -> None:
    """Put bottlenecks where ``places`` says, given the names of the last linear layers of a layer's two blocks."""
    layers = _layers(model)
    ends = {name.removesuffix(".LayerNorm") for name, _ in model.named_modules() if name.endswith(".output.LayerNorm")}
    dense_of = [{split_name(name)[2]: name for name in modules if name.endswith("output.dense")} for modules in layers]
    for dense in dense_of:
        if set(dense) != set(DENSE) or not ends.issuperset(place.removesuffix(".dense") for place in dense.values()):
            raise ValueError(
                f"{type(model).__name__} has no attention.output.dense and output.dense, with a LayerNorm behind it, "
                "in each layer, which is where a bottleneck is put; bottlenecks are for encoders built like BERT"
            )
    size, _ = linear_shape(model.get_submodule(dense_of[0]["output.dense"]))
    budget = adapter_parameters([BUDGET], [linear_shape(m) for m in layers[0].values()])
    wrapped = [places(*(dense[inside] for inside in DENSE)) for dense in dense_of]
    width = max(1, round((budget / len(wrapped[0]) - size) / (2 * size + 1)))  # 2 d w + w + d parameters each
    for place in [place for in_layer in wrapped for place in in_layer]:
        parent, _, child = place.rpartition(".")
        setattr(model.get_submodule(parent), child, Bottleneck(model.get_submodule(place), size, width))


def _adalora(model: nn.Module, steps: int, alpha: float) -> tuple[nn.Module, list[TrainerCallback]]:
    try:
        from peft import AdaLoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("AdaLoRA is PEFT's: pip install peft") from error
    if steps < ADALORA_STEPS:
        raise ValueError(
            f"AdaLoRA's schedule needs {ADALORA_STEPS} optimizer steps at least, and the run has {steps}: "
            "give it more epochs or rows, or a smaller batch"
        )
    config = AdaLoraConfig(
        init_r=BUDGET * 3 // 2,
        target_r=BUDGET,
        lora_alpha=alpha,
        lora_dropout=0.0,
        total_step=steps,
        tinit=int(0.15 * steps),  # the shares that AdaLoRA's script for RTE has
        tfinal=int(0.45 * steps),
        deltaT=max(1, steps // 100),
        target_modules=[name for modules in _layers(model) for name in modules],
        modules_to_save=list(head_modules(model)),
    )
    wrapped = get_peft_model(model, config)
    return wrapped, [AdaLoRACallback(wrapped)]


BASELINES: dict[str, Callable[[nn.Module, int, float], tuple[nn.Module, list[TrainerCallback]]]] = {
    "bitfit": _bitfit,
    "houlsby": _houlsby,
    "pfeiffer": _pfeiffer,
    "adalora": _adalora,
}
