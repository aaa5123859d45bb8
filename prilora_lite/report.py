"""What was adapted, trained and zeroed in a model: a table."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from prilora_lite.importance import number_pruned
from prilora_lite.models.layers import PEFTS_OWN, configuration_of, lora_layers, without_wrappers
from prilora_lite.models.stacks import split_name

if TYPE_CHECKING:
    import pandas as pd


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
class Report:
    """What is adapted, trained and frozen in a model, at the moment it was made. Prints as a table.

    Attributes:
        modules: one entry per adapted linear layer, first layer first.
        adapter, adapter_nonzero: entries of all lora_A and lora_B, with what PEFT trains beside them, such as DoRA's
            magnitudes; and those that are not zero.
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
        """Rank of each adapted layer, first layer first; for an encoder-decoder, the encoder's, then the decoder's."""
        return list({(m.stack, m.layer): m.rank for m in self.modules if m.layer is not None}.values())

    @property
    def share(self) -> float:
        """Trainable parameters, adapter and head, as a share of the base model's."""
        return (self.adapter + self.head) / self.base

    @property
    def packed_bytes(self) -> int:
        r"""Bytes for the adapter's non-zero values alone, in float32, and one bit for each entry to say where they are.

        .. math:: 4 \cdot \mathrm{nonzero} + \lceil \mathrm{entries} / 8 \rceil

        It shows what sparsity could save: ``save_adapter`` stores zeros like other numbers, 4 bytes for each entry.
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


def report(model: nn.Module) -> Report:
    """Count an adapted (or plain) model now; call it again after training to see what pruning left.

    Args:
        model: adapted by :func:`~.adapt.adapt`, or by PEFT's LoRA, whose active adapter is counted then.

    Returns:
        The report that :func:`~.adapt.adapt` returns; in the place of its notes whether pruning is lacking.

    Raises:
        TypeError, ValueError: see :func:`~.models.layers.lora_layers`.
    """
    model, modules, adapter_ids = without_wrappers(model), [], set()
    for name, layer in lora_layers(model).items():
        stack, number, inside = split_name(name)
        parameters = layer.lora_A.numel() + layer.lora_B.numel()
        nonzero = int(layer.lora_A.count_nonzero() + layer.lora_B.count_nonzero())
        shape = (layer.out_features, layer.in_features)
        modules.append(AdaptedModule(stack, number, inside, shape, layer.rank, layer.scaling, parameters, nonzero))
        adapter_ids |= {id(layer.lora_A), id(layer.lora_B)}
    others = {name: p for name, p in model.named_parameters() if id(p) not in adapter_ids}
    trained = {name: p for name, p in others.items() if p.requires_grad}
    beside = [p for name, p in trained.items() if ".lora_" in name]
    head = [p for name, p in trained.items() if ".lora_" not in name]
    return Report(
        modules=tuple(modules),
        adapter=sum(module.parameters for module in modules) + sum(p.numel() for p in beside),
        adapter_nonzero=sum(module.nonzero for module in modules) + sum(int(p.count_nonzero()) for p in beside),
        head=sum(p.numel() for p in head),
        head_nonzero=sum(int(p.count_nonzero()) for p in head),
        base=sum(p.numel() for name, p in others.items() if not any(part in name for part in PEFTS_OWN)),
        notes=(said,) if (said := never_pruned(model)) else (),
    )


def never_pruned(model: nn.Module) -> str:
    """What is wrong if an adapter has been trained, and not pruned as its configuration says; else nothing."""
    parts = [module for module in model.modules() if "prilora_config" in vars(module)]
    if any(part.prilora_config != parts[0].prilora_config for part in parts):  # stacks, each adapted by itself
        return "; ".join(filter(None, map(never_pruned, parts)))
    config = configuration_of(model)
    trained = {name: layer for name, layer in lora_layers(model).items() if layer.lora_B.any()} if config else {}
    due = {name: number_pruned(config.ratio, layer.in_features) * layer.rank for name, layer in trained.items()}
    zeros = {name: int((layer.lora_A == 0).sum()) for name, layer in trained.items()}
    dense = [name for name in trained if 2 * zeros[name] < due[name]]  # fewer zeros lie where units are dead
    if not dense:
        return ""
    if len(dense) < len(trained):
        return (
            f"{len(dense)} of {len(trained)} trained matrices are not pruned, though the configuration's ratio is "
            f"{config.ratio}, the first {dense[0]}: a prune leaves a frozen lora_A as it is, so freeze it only after "
            "the last one"
        )
    entries = sum(layer.lora_A.numel() for layer in trained.values())
    share = f"{sum(zeros.values()) / entries:.0%} of lora_A" if any(zeros.values()) else "no entry of lora_A"
    return (
        f"{share} is zero, though the configuration's ratio is {config.ratio}: give Trainer a PRILoRACallback; in a "
        "loop of your own, call pruner.step() after each step of the optimizer, and pruner.prune() after the last. Or "
        "these weights are of a checkpoint that was written between two prunes: take those of the run's end"
    )
