"""The card of an adapter in PEFT's format: a table for people, and the fields that the hub reads."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from prilora_lite.models.layers import lora_layers
from prilora_lite.report import report

# This library's own tasks, on whose validation rows its metrics are: GLUE's, and pocket's under the same names
LIBRARY_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
# How the hub calls what a class of transformers' is for, by the end of its name
_OF_TEXTS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
}
_OF_INPUTS = {"input_ids": _OF_TEXTS, "pixel_values": {"ForImageClassification": "image-classification"}}


def model_card(
    model: nn.Module, base: str | None, task: str | None, dataset: str | None, metrics: dict[str, float]
) -> ModelCard:
    """The card of an adapter; the arguments are those of :func:`~.peft_save.save_peft_adapter`.

    The metrics are in the hub's fields, too, where the model's class says what kind of task it is for.
    """
    config, counts = model.prilora_config, report(model)
    As = [layer.lora_A for layer in lora_layers(model).values()]
    sparsity = 1 - sum(int(A.count_nonzero()) for A in As) / sum(A.numel() for A in As)
    pruned = f"{config.ratio:g} of A, by {config.importance}, every {config.interval} optimizer steps"
    if config.ratio and not sparsity:
        pruned = f"no: {pruned} was to be, but lora_A holds no zeros"
    if not config.ratio:
        pruned = "not by this configuration" if sparsity else "nothing"
    rows_of = ", validation rows" if task and task.removeprefix("pocket-") in LIBRARY_TASKS else ""
    rows = {
        "base model": base or "unknown",
        "ranks, first layer to last": ", ".join(map(str, counts.ranks)),
        "scaling": ", ".join(f"{s:g}" for s in dict.fromkeys(module.scaling for module in counts.modules)),
        "pruned in training": pruned,
        "lora_A and lora_B": f"{counts.adapter:,} entries, {counts.adapter_nonzero:,} not zero",
        "zeros in lora_A": f"{sparsity:.1%}",
        "pooler and head": f"{counts.head:,} entries",
        "task": task or "unknown",
    } | {f"{name}{rows_of}": f"{value:.4f}" for name, value in metrics.items()}
    kind = _kind_of_task(model)
    results = metrics if kind else {}
    # a configuration of the dataset has the task's name in GLUE alone
    config_of = {"dataset_config": task} if dataset and dataset.rpartition("/")[2] == "glue" else {}
    data = ModelCardData(
        base_model=base if base and not Path(base).exists() else None,
        datasets=[dataset] if dataset else None,
        library_name="peft",
        tags=["lora", "prilora"],
        model_name="PRILoRA adapter" if results else None,
        eval_results=[
            EvalResult(kind, dataset or task, dataset_name=task, metric_type=name, metric_value=value, **config_of)
            for name, value in results.items()
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


def _kind_of_task(model: nn.Module) -> str | None:
    """What the hub calls the kind of task that a model of transformers' is for; None if its class does not say so."""
    kinds = _OF_INPUTS.get(getattr(model, "main_input_name", None), {})
    return next((kind for end, kind in kinds.items() if type(model).__name__.endswith(end)), None)
