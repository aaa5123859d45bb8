"""The card of an adapter in PEFT's format: a table for people, and the fields that the hub reads."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from prilora_lite.models.layers import lora_layers
from prilora_lite.report import report


def model_card(
    model: nn.Module, base: str | None, task: str | None, dataset: str | None, metrics: dict[str, float]
) -> ModelCard:
    """The card of an adapter; the arguments are those of :func:`~.peft_save.save_peft_adapter`."""
    config, counts = model.prilora_config, report(model)
    As = [layer.lora_A for layer in lora_layers(model).values()]
    sparsity = 1 - sum(int(A.count_nonzero()) for A in As) / sum(A.numel() for A in As)
    pruned = f"{config.ratio:g} of A, by {config.importance}, every {config.interval} optimizer steps"
    if config.ratio and not sparsity:
        pruned = f"no: {pruned} was to be, but lora_A holds no zeros"
    if not config.ratio:
        pruned = "not by this configuration" if sparsity else "nothing"
    rows = {
        "base model": base or "unknown",
        "ranks, first layer to last": ", ".join(map(str, counts.ranks)),
        "scaling": ", ".join(f"{s:g}" for s in dict.fromkeys(module.scaling for module in counts.modules)),
        "pruned in training": pruned,
        "lora_A and lora_B": f"{counts.adapter:,} entries, {counts.adapter_nonzero:,} not zero",
        "zeros in lora_A": f"{sparsity:.1%}",
        "pooler and head": f"{counts.head:,} entries",
        "task": task or "unknown",
    } | {f"{name}, validation rows": f"{value:.4f}" for name, value in metrics.items()}
    place = {"dataset_type": dataset, "dataset_config": task} if dataset else {"dataset_type": task}
    data = ModelCardData(
        base_model=base if base and not Path(base).exists() else None,
        datasets=[dataset] if dataset else None,
        library_name="peft",
        tags=["lora", "prilora"],
        model_name="PRILoRA adapter" if metrics else None,
        eval_results=[
            EvalResult("text-classification", dataset_name=task, metric_type=name, metric_value=value, **place)
            for name, value in metrics.items()
        ]
        or None,
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# PRILoRA adapter\n\n"
        "A low-rank adapter after [PRILoRA](https://arxiv.org/abs/2401.11316): LoRA with a rank for each layer, whose\n"
        "A may be pruned while it trains. Written by prilora-lite.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        "`PeftModel.from_pretrained(base_model, folder)` of PEFT loads it, or `load_peft_adapter(base_model, folder)`\n"
        "of prilora-lite.\n"
    )
