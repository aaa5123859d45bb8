"""PRILoRA for reading, teaching and use: low-rank adaptation with rising ranks, pruned while it trains.

The method itself (ranks, lora, pruner, config, adapt) needs torch alone and is here at once. What needs transformers
and datasets is loaded when its name is first used.
"""

from importlib import import_module
from typing import Any

from prilora_lite.adapt import Report, adapt, merge_and_unload, report
from prilora_lite.config import PRILoRAConfig
from prilora_lite.lora import LoRALinear
from prilora_lite.pruner import InputNorms, Pruner, importance, keep_mask
from prilora_lite.ranks import adapter_parameters, budget_ranks, linear_ranks

_LOADED_WHEN_USED = {
    "save_adapter": "checkpoint", "load_adapter": "checkpoint",
    "rank_pattern_for": "peft_format", "save_peft_adapter": "peft_format", "load_peft_adapter": "peft_format",
    "PRILoRACallback": "training", "finetune": "training", "evaluate": "training", "latest_checkpoint": "training",
    "TASKS": "tasks", "load_rows": "tasks", "compute_metrics": "tasks",
    "Settings": "encoders", "load_encoder": "encoders",
    "ablate": "study", "grid": "study",
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
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module 'prilora_lite' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"prilora_lite.{_LOADED_WHEN_USED[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
