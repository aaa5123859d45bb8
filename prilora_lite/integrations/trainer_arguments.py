"""What :class:`~.trainer.PRILoRACallback` refuses of Trainer's arguments before it trains."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate.state import PartialState
from torch import nn
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.training_args import TrainingArguments

from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import WHOLE_WEIGHTS, PeftLayer

SEVERAL_GPUS = (
    "Trainer would use nn.DataParallel over {} GPUs, whose replicas lose the input statistics: "
    "set CUDA_VISIBLE_DEVICES=0 for one GPU, or start one process per GPU with torchrun"
)
SPLIT_WEIGHTS = ("FSDP", "DEEPSPEED", "MEGATRON_LM")  # of Accelerate's ways to train


def check_processes(args: TrainingArguments) -> None:
    """Raise RuntimeError where no process has the whole weights and the statistics of its inputs."""
    if args.n_gpu > 1:
        raise RuntimeError(SEVERAL_GPUS.format(args.n_gpu))
    parallel = getattr(args, "parallelism_config", None)
    if any(getattr(parallel, size, 1) > 1 for size in ("tp_size", "cp_size", "sp_size", "dp_shard_size")):
        raise RuntimeError(f"parallelism_config splits the weights or the tokens among the processes: {WHOLE_WEIGHTS}")
    strategy = PartialState().distributed_type
    if strategy.name in SPLIT_WEIGHTS:
        raise RuntimeError(f"under {strategy.value} no process has whole weights to prune: {WHOLE_WEIGHTS}")


def check_optimizer(
    optimizer: torch.optim.Optimizer | None, model: nn.Module, layers: Iterable[LoRALinear | PeftLayer]
) -> None:
    """Raise RuntimeError if the optimizer has weights of the model, but none of an adapter."""
    if optimizer is None:
        return
    held = _held_by(optimizer)
    adapter = {id(parameter) for layer in layers for parameter in (layer.lora_A, layer.lora_B)}
    if not held & adapter and held & {id(parameter) for parameter in model.parameters()}:
        raise RuntimeError(
            "the optimizer was made before the model was adapted, or its parameters were chosen without lora_A and "
            "lora_B, so these would stay as they are. Adapt the model first, then make the optimizer of all parameters "
            "that are trained: [p for p in model.parameters() if p.requires_grad]"
        )


def check_averages(optimizer: torch.optim.Optimizer | None, ratio: float) -> None:
    """Raise RuntimeError if an optimizer judges a model by an average of its weights, which no pruner prunes."""
    own = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper always has both methods
    if ratio and all(callable(getattr(own, way, None)) for way in ("train", "eval")):
        raise RuntimeError(
            f"{type(own).__name__} is free of a schedule: for each evaluation, and at the end, it puts an average of "
            "earlier weights into the model, whose pruned entries are not zero. Take another optimizer, such as "
            "optim='adamw_torch', or ratio=0"
        )


def left_out(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> list[str]:
    """The names of the model's parameters that ask to be trained and that the optimizer does not hold."""
    if optimizer is None:
        return []
    held = _held_by(optimizer)
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]


def _held_by(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def check_checkpoints(args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
    """Raise RuntimeError where Trainer would write checkpoints that it can't load, or none of the best model."""
    if getattr(model, "_hf_peft_config_loaded", False) and args.save_strategy != SaveStrategy.NO:
        raise RuntimeError(
            "Trainer writes checkpoints of a model that got its adapter by add_adapter, but can't load them: use "
            "PEFT's get_peft_model, or give save_strategy='no' and save the adapter yourself"
        )
    by_steps = args.eval_strategy == IntervalStrategy.STEPS and args.save_strategy == SaveStrategy.STEPS
    if args.load_best_model_at_end and by_steps and state.eval_steps != state.save_steps:
        raise RuntimeError(
            f"load_best_model_at_end with an evaluation every {state.eval_steps} steps and a checkpoint every "
            f"{state.save_steps}: the best one may have no checkpoint, and Trainer would load another or none in "
            f"silence; give save_steps={state.eval_steps} (save_total_limit=1 keeps only the best on the disk)"
        )
