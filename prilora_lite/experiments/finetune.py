"""One run, from a configuration to its metrics: fine-tune an encoder on a task, and evaluate it."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments, set_seed

from prilora_lite.adapt import plan
from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.bars import no_bars
from prilora_lite.experiments.device import pick_device, pick_precision, threads_for
from prilora_lite.experiments.encoders import load_encoder
from prilora_lite.experiments.identity import described, encoder_digest, method_as_json, rows_digest, run_key
from prilora_lite.experiments.loop import (
    GlueTrainer,
    StepTimer,
    common_arguments,
    curve_of,
    evaluation_sets,
    judged_by,
    metrics_in,
    metrics_of,
    schedule,
    show_progress,
)
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.presets import Settings, settings_for
from prilora_lite.experiments.rows import check_rows, drawn_rows
from prilora_lite.experiments.saving import claim, try_to_save, writing
from prilora_lite.experiments.stored import COUNTS
from prilora_lite.experiments.tasks import Task, get_task, load_rows
from prilora_lite.experiments.tokens import check_length, tokenize
from prilora_lite.experiments.trainable import count, make_trainable
from prilora_lite.experiments.trial import try_out
from prilora_lite.integrations.checkpoints import RunIsFinished, SealCheckpoints, latest_checkpoint
from prilora_lite.integrations.trainer import PRILoRACallback
from prilora_lite.integrations.trainer_arguments import SEVERAL_GPUS
from prilora_lite.report import Report
from prilora_lite.shared.checks import check_seed, is_integer, plain
from prilora_lite.shared.errors import expect, unknown, warn
from prilora_lite.shared.files import given_path


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        task, seed: what was run; ``method`` is the configuration, or the name of what has none, such as ``head``.
        metrics: those of the last evaluation, the task's main one first; MNLI's begin with the name of their split.
        curve: the same after each epoch, with ``epoch``; the last entry is ``metrics``.
        losses: one for each training batch (with several processes, that of this one's part); a resumed run has only
            those since it was resumed.
        history: the pruner's, or the ranks that AdaLoRA's allocator left; empty for the others.
        counts: trainable and non-zero parameters of adapter and head.
        steps: optimizer steps made.
        seconds_per_step: median; the first two steps, which warm up, do not count.
        path: where the adapter or model was saved, None if nowhere: no ``output_dir``, or (with a warning) a full disk.
    """

    task: str
    method: str | PRILoRAConfig
    seed: int
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    losses: list[float]
    history: list[dict[str, Any]]
    counts: Report
    steps: int
    seconds_per_step: float
    path: Path | None


def finetune(
    task: str | Task,
    method: str | PRILoRAConfig | None = None,
    *,
    encoder: str = "pocket",
    rows: str | Path | Mapping[str, Dataset | str | Path] | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
    save_steps: int | None = None,
    resume: bool = False,
    precision: str = "auto",
    device: str | None = None,
    progress: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> Result:
    """Fine-tune an encoder on a task and evaluate it on the validation rows after each epoch.

    Args:
        task: a name in :data:`~.tasks.TASKS`, one of GLUE's tasks or of pocket's; or a :class:`~.task.Task` of your
            own.
        method: a configuration, or a name of :data:`~.methods.METHODS`, such as ``lora``, ``head`` for pooler and head
            alone, or ``full`` for all weights; default: ``prilora``. A named method takes alpha from the settings; a
            configuration that is given keeps its own.
        encoder: a preset (``pocket``, ``minilm``, ``paper``), a folder, or a name on the hub, ``owner/name@REVISION``.
        rows: a folder of Parquet or CSV files; or by split the rows themselves, or their file; default: see
            :func:`~.tasks.load_rows`.
        settings: learning rate, epochs and the like; default: the preset's for this task. New ``Settings`` take nothing
            from the preset; to change one of its: ``replace(presets.settings_for(encoder, task, method), epochs=1)``.
        seed: seed for the head, the adapter, the order of the rows and dropout.
        output_dir: where the adapter (``adapter.safetensors``), inserted layers (``trained.safetensors``), or the whole
            model (``model``, which is loaded by transformers' ``AutoModelForSequenceClassification``), and any
            checkpoints go. A folder with the result of another run is refused.
        save_steps: write a checkpoint to ``output_dir`` every so many optimizer steps.
        resume: go on from the newest whole checkpoint in ``output_dir``; start anew if there is none. A folder with
            the checkpoints of another run is refused: one whose task, rows, method, encoder (by its content), seed,
            settings or precision differ.
        precision: ``fp32``, ``bf16`` (autocast), or ``auto``: the preset's, else bf16 where the device computes in it
            natively.
        device: ``cpu`` to stay there; default: CUDA, else MPS, else CPU.
        progress: show a progress bar.
        callbacks: your own, called after PRILoRA's: to watch a run, or to stop it by ``should_training_stop``, as
            transformers' ``EarlyStoppingCallback`` does by the task's main metric. The result is that of the last step.

    Returns:
        The run's :class:`Result`. Its metrics are those of the saved file.

    Raises:
        ValueError, TypeError: a bad argument, rows or an encoder that can't be used.
        OSError: rows or an encoder that are not available, or an output that can't be written before the last step.
        RuntimeError: a checkpoint that can't be resumed from, or several GPUs in one process.
    """
    seed, save_steps = plain((seed, save_steps))
    _check_arguments(method, seed, output_dir, save_steps, resume, settings)
    _check_callbacks(callbacks)
    precision, device = pick_precision(precision, str(encoder), device), pick_device(device)
    glue, callbacks = get_task(task), list(callbacks)
    encoder, method = str(encoder), "prilora" if method is None else method
    settings = _settled(settings, encoder, task, method)
    method = METHODS[method].with_alpha(settings.alpha) if isinstance(method, str) else method
    data = check_rows(glue, rows) if isinstance(rows, Mapping) else load_rows(glue, rows)

    set_seed(seed)
    model, tokenizer = load_encoder(encoder, glue, settings.head_dropout)
    check_length(model, settings.max_length)
    content = {"rows": rows_digest(glue, data), "weights": encoder_digest(model, tokenizer)}
    key = run_key(glue, seed, encoder, method, settings, precision, **content)
    data = drawn_rows(glue, data, settings.train_rows, seed)
    base = sum(parameter.numel() for parameter in model.parameters())
    steps = math.ceil(settings.epochs * math.ceil(len(data["train"]) / settings.batch_size))
    _warn_of_a_long_warmup(settings, steps)
    model, own = make_trainable(model, method, steps, settings.alpha)
    tokenized = {part: tokenize(data[part], glue, tokenizer, settings.max_length) for part in ("train", *glue.splits)}
    try_out(model, tokenizer, glue, tokenized, settings.max_length)
    with _kept_or_temporary(output_dir) as folder, threads_for(encoder):
        claimed = claim(folder, described(key), resume)
        plan_of_run = schedule(settings, seed, save_steps) | (judged_by(glue) if callbacks else {})
        arguments = _arguments(folder, plan_of_run | common_arguments(precision, device))
        timer = StepTimer()
        sealing = [] if any(isinstance(callback, SealCheckpoints) for callback in own) else [SealCheckpoints()]
        trainer = GlueTrainer(
            model,
            arguments,
            glue,
            tokenizer,
            train_dataset=tokenized["train"],
            eval_dataset=evaluation_sets(tokenized, glue),
            callbacks=[*own, *sealing, timer, *callbacks],  # the timer ends after the pruner: it is part of a step
        )
        show_progress(trainer, progress)
        _train(trainer, own, folder, resume)
        curve = curve_of(trainer.state.log_history, glue)
        path = None if output_dir is None else try_to_save(model, tokenizer, method, folder, claimed)
    return Result(
        task=glue.name,
        method=method,
        seed=seed,
        metrics={name: value for name, value in curve[-1].items() if name != "epoch"},
        curve=curve,
        losses=[loss.item() for loss in trainer.losses],
        history=next((callback.history for callback in own if hasattr(callback, "history")), []),
        counts=count(model, method, base),
        steps=trainer.state.global_step,
        seconds_per_step=statistics.median(timer.seconds[2:] or timer.seconds or [math.nan]),
        path=path,
    )


def _arguments(folder: Path, plan_of_run: dict[str, Any]) -> TrainingArguments:
    """Trainer's arguments.

    Raises:
        RuntimeError: several GPUs in one process.
    """
    arguments = TrainingArguments(str(folder), **plan_of_run)
    # Where fp32 is asked for, Trainer takes ACCELERATE_MIXED_PRECISION, which `accelerate launch` sets
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"
    if arguments.n_gpu > 1:
        raise RuntimeError(SEVERAL_GPUS.format(arguments.n_gpu))
    return arguments


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: str | Task,
    *,
    rows: str | Path | Mapping[str, Dataset | str | Path] | None = None,
    max_length: int | None = None,
    precision: str = "auto",
    device: str | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """The task's metrics of a model on the validation rows, computed as :func:`finetune` does.

    The model is moved to the device. Random numbers and Accelerate's state stay as they were, so that a training loop
    may call it.

    Args:
        model, tokenizer: as :func:`~.encoders.load_encoder` gives them, with an adapter loaded or not.
        task, rows, precision, device, progress: see :func:`finetune`; of rows given by split, those of validation.
        max_length: longest row in tokens; default: that of the encoder's settings for this task. Give the run's own if
            it had another, or the metrics are not the run's.

    Returns:
        Metric name -> value.

    Raises:
        TypeError: not a model.
        ValueError, OSError: a bad argument, or rows that are not available or do not suit the model.
    """
    expect(nn.Module, model, "a model to evaluate")
    glue = get_task(task)
    data = check_rows(glue, rows, glue.splits) if isinstance(rows, Mapping) else load_rows(glue, rows, glue.splits)
    encoder = getattr(model, "prilora_encoder", "")
    if not hasattr(getattr(model, "config", None), "num_labels"):
        raise ValueError(f"{type(model).__name__} is no classifier of transformers': load_encoder gives one")
    max_length = settings_for(encoder, task).max_length if max_length is None else max_length
    if not is_integer(max_length, least=4):
        raise ValueError(f"max_length must be an integer of at least 4, got {max_length!r}")
    check_length(model, max_length)
    if model.config.num_labels != glue.num_labels:
        raise ValueError(f"the model's head has {model.config.num_labels} outputs, but {task} needs {glue.num_labels}")
    named = tuple(model.config.id2label.values())
    if named != glue.labels and sorted(named) == sorted(glue.labels):
        raise ValueError(
            f"the model numbers its labels {', '.join(named)}, but {task} {', '.join(glue.labels)}: give a task whose "
            "labels are in the model's order, and rows with names for labels"
        )
    tokenized = {split: tokenize(data[split], glue, tokenizer, max_length) for split in glue.splits}
    try_out(model, tokenizer, glue, tokenized, max_length)
    precision, device = pick_precision(precision, encoder, device), pick_device(device)
    if next(model.parameters()).device.type != device:  # of several devices of a type, the model's own
        model.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        return metrics_of(model, tokenizer, glue, tokenized, progress)


def check_encoder(
    encoder: str, task: str | Task, rows: dict[str, Dataset], settings: Settings, configs: Iterable[PRILoRAConfig] = ()
) -> None:
    """Raise what :func:`finetune` would, if the encoder is not available, or rows, settings or ranks do not suit it.

    Args:
        encoder, task, rows, settings: as for :func:`finetune`.
        configs: methods that are to be put on the encoder.

    Raises:
        ValueError, OSError: see :func:`finetune`.
    """
    glue = get_task(task)
    state = torch.get_rng_state()
    model, tokenizer = load_encoder(encoder, glue, settings.head_dropout)
    torch.set_rng_state(state)  # the fresh head was drawn
    check_length(model, settings.max_length)
    for config in configs:
        plan(model, config)
    drawn_rows(glue, rows, settings.train_rows, 0)  # are there so many?
    some = {"train": _some(rows["train"], glue)} | {split: rows[split] for split in glue.splits}
    tokenized = {split: tokenize(data, glue, tokenizer, settings.max_length) for split, data in some.items()}
    try_out(model, tokenizer, glue, tokenized, settings.max_length)


def _some(data: Dataset, task: Task) -> Dataset:
    """The first hundred rows, and the ten with the longest texts."""
    letters = sum(np.array([len(text) for text in data[column][:]]) for column in task.columns)
    return data.select(sorted({*range(min(100, len(data))), *np.argsort(letters)[-10:].tolist()}))


def _check_arguments(
    method: object, seed: int, output_dir: str | Path | None, save_steps: object, resume: bool, settings: object
) -> None:
    if isinstance(method, PRILoRAConfig):
        method_as_json(method)  # it is written down with the run
    elif method is not None and not (isinstance(method, str) and method in METHODS):
        raise unknown("method (a PRILoRAConfig, or a name):", method, METHODS)
    check_seed(seed)
    if save_steps is not None and not is_integer(save_steps, least=1):
        raise ValueError(f"save_steps must be an integer of at least 1, got {save_steps!r}")
    if (save_steps or resume) and output_dir is None:
        raise ValueError("save_steps and resume need an output_dir to keep checkpoints in")
    if not (settings is None or isinstance(settings, Settings)):
        raise ValueError(f"settings must be Settings(...) or None for the preset's, got {settings!r}")


def _settled(settings: Settings | None, encoder: str, task: str | Task, method: object) -> Settings:
    """The settings of a run, given or the preset's; says where a configuration does not take their alpha."""
    settings = settings or settings_for(encoder, task, method)
    has_alpha = isinstance(method, PRILoRAConfig) and isinstance(method.scaling, str)
    if has_alpha and method.alpha == PRILoRAConfig.alpha != settings.alpha:  # a name takes that of the settings
        warn(
            f"alpha={settings.alpha:g} in the settings, given or the preset's for this task, has no effect on a "
            f"configuration, whose own is {method.alpha:g}: give it there, PRILoRAConfig(alpha={settings.alpha:g})"
        )
    return settings


def _check_callbacks(callbacks: object) -> None:
    if isinstance(callbacks, TrainerCallback):
        raise TypeError(f"callbacks must be a list, got {callbacks!r}: write callbacks=[...] around it")
    for callback in list(callbacks):
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, TrainerCallback):
            raise TypeError(f"expected callbacks derived from transformers' TrainerCallback, got {callback!r}")
        if issubclass(kind, PRILoRACallback):
            raise ValueError(
                "finetune has its own PRILoRACallback: leave yours out, and give method=PRILoRAConfig(...)"
            )


@contextlib.contextmanager
def _kept_or_temporary(output_dir: str | Path | None) -> Iterator[Path]:
    """The folder of a run; if none was named, one that is deleted when the run ends."""
    if output_dir is not None:
        yield given_path(output_dir)
        return
    with tempfile.TemporaryDirectory(prefix="prilora-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _train(trainer: GlueTrainer, own: list[Any], folder: Path, resume: bool) -> None:
    """Train to the end, then make sure that the last evaluation in the log is of the final weights."""
    checkpoint = latest_checkpoint(folder) if resume else None
    with no_bars("transformers"), writing(folder):
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except RunIsFinished:  # all that was to be done is loaded
            trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    state = trainer.state
    judged = any(metrics_in(log) for log in state.log_history if log["step"] == state.global_step)
    if not judged or any(getattr(callback, "pruned_after_evaluation", False) for callback in own):
        trainer.evaluate()  # Trainer saves before it evaluates, so a resumed run may find only the saving done


def _warn_of_a_long_warmup(settings: Settings, steps: int) -> None:
    """Warn where the learning rate would still be growing when the run ends."""
    if settings.warmup >= max(steps, 1):
        warn(
            f"the warm-up takes {settings.warmup:g} steps, and the run has {steps}: its learning rate never gets to "
            f"{settings.learning_rate:g}. Give warmup as a share of the steps, such as 0.06"
        )


def result_record(result: Result) -> dict[str, Any]:
    """A result as plain values, ready for one line of JSON."""
    counts = asdict(result.counts)
    return {
        "task": result.task,
        "method": method_as_json(result.method),
        "seed": result.seed,
        "metrics": result.metrics,
        "curve": result.curve,
        "pruning": result.history,
        "counts": {name: counts[name] for name in COUNTS},
        "steps": result.steps,
        "seconds_per_step": result.seconds_per_step,
    }
