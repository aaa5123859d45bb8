"""PRILoRA for reading, teaching and use: low-rank adaptation with rising ranks, pruned while it trains.

The method is in config, ranks, adapt, lora, importance, pruner and checkpoint, best read in this order; it needs torch
and safetensors alone. Each name is loaded when it is first used: what needs transformers and datasets waits until then,
and the command line's help does not wait for torch.
"""

import gc
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prilora_lite.adapt import adapt, merge_and_unload
    from prilora_lite.config import PRILoRAConfig
    from prilora_lite.experiments.budget import adapter_parameters, budget_ranks
    from prilora_lite.importance import InputNorms, importance, keep_mask
    from prilora_lite.lora import LoRALinear
    from prilora_lite.pruner import Pruner
    from prilora_lite.ranks import linear_ranks
    from prilora_lite.report import Report, report

_LOADED_WHEN_USED = {
    "adapt": "adapt", "merge_and_unload": "adapt", "Report": "report", "report": "report",
    "PRILoRAConfig": "config", "LoRALinear": "lora",
    "InputNorms": "importance", "importance": "importance", "keep_mask": "importance", "Pruner": "pruner",
    "adapter_parameters": "experiments.budget", "budget_ranks": "experiments.budget", "linear_ranks": "ranks",
    "save_adapter": "checkpoint", "load_adapter": "checkpoint",
    "rank_pattern_for": "integrations.rank_patterns", "save_peft_adapter": "integrations.peft_save",
    "load_peft_adapter": "integrations.peft_load",
    "PRILoRACallback": "integrations.trainer", "latest_checkpoint": "integrations.checkpoints",
    "finetune": "experiments.finetune", "evaluate": "experiments.finetune",
    "Task": "experiments.task", "TASKS": "experiments.tasks", "load_rows": "experiments.tasks",
    "compute_metrics": "experiments.tasks",
    "Settings": "experiments.presets", "load_encoder": "experiments.encoders",
    "ablate": "experiments.study", "grid": "experiments.study",
}  # fmt: skip
_MODULES = {
    "study": "experiments.study", "exercises": "teaching.exercises", "plots": "teaching.plots",
    "recordings": "teaching.recordings",
}  # fmt: skip

__version__ = "0.1.0"
__all__ = list(_LOADED_WHEN_USED)


class _Package(ModuleType):
    """A public name stays what it is when the module of the same name is imported, such as ``adapt``.

    Without this, Python would put the module in its place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LOADED_WHEN_USED and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _loaded(_MODULES[name])
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module 'prilora_lite' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(_loaded(_LOADED_WHEN_USED[name]), name)


def _loaded(module: str) -> ModuleType:
    """A module of the package, loaded without a search for garbage: an import makes none, and takes a sixth less."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(f"prilora_lite.{module}")
    finally:
        if collects:
            gc.enable()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
