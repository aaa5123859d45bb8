"""PRILoRA for reading, teaching and use: low-rank adaptation with rising ranks, pruned while it trains.

The method itself (ranks, lora, pruner, config, adapt) needs torch alone and is here at once. What needs transformers
and datasets is loaded when its name is first used.
"""

from importlib import import_module
from typing import Any

from prilora_lite.adapt import adapt, merge_and_unload
from prilora_lite.config import PRILoRAConfig
from prilora_lite.importance import InputNorms, importance, keep_mask
from prilora_lite.lora import LoRALinear
from prilora_lite.pruner import Pruner
from prilora_lite.ranks import adapter_parameters, budget_ranks, linear_ranks
from prilora_lite.report import Report, report

_LOADED_WHEN_USED = {
    "save_adapter": "checkpoint", "load_adapter": "checkpoint",
    "rank_pattern_for": "integrations.rank_patterns", "save_peft_adapter": "integrations.peft_save",
    "load_peft_adapter": "integrations.peft_load",
    "PRILoRACallback": "integrations.trainer", "latest_checkpoint": "integrations.trainer",
    "finetune": "experiments.finetune", "evaluate": "experiments.finetune",
    "TASKS": "experiments.tasks", "load_rows": "experiments.tasks", "compute_metrics": "experiments.tasks",
    "Settings": "experiments.encoders", "load_encoder": "experiments.encoders",
    "ablate": "experiments.study", "grid": "experiments.study",
}  # fmt: skip
_MODULES = {
    "study": "experiments.study", "exercises": "teaching.exercises", "plots": "teaching.plots",
    "recordings": "teaching.recordings",
}  # fmt: skip

__version__ = "0.1.0"
__all__ = [
    "InputNorms",
    "LoRALinear",
    "PRILoRAConfig",
    "Pruner",
    "Report",
    "adapt",
    "adapter_parameters",
    "budget_ranks",
    "importance",
    "keep_mask",
    "linear_ranks",
    "merge_and_unload",
    "report",
    *_LOADED_WHEN_USED,
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"prilora_lite.{_MODULES[name]}")
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module 'prilora_lite' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"prilora_lite.{_LOADED_WHEN_USED[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
