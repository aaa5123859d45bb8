"""The training loop: Trainer with batches of similar length, its bar and clock, and its logs read as metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from prilora_lite.experiments.device import PROCESS, PROCESSES
from prilora_lite.experiments.presets import Settings
from prilora_lite.experiments.tasks import Task, compute_metrics
from prilora_lite.experiments.trial import forward, logits_of
from prilora_lite.shared.checks import check_seed, is_integer

ROWS_AT_ONCE = 64  # in an evaluation


class LengthGroupedSampler(Sampler[int]):
    """Shuffled rows, those of similar length in one batch; a function of seed and epoch alone, so that it resumes.

    Rows are shuffled, cut into pools of 50 batches, sorted by length within each; then the batches are shuffled.
    Less padding, hence faster. Our choice; Trainer's own ``group_by_length`` does not resume in the same order.

    Args:
        lengths: of each row, in tokens.
        batch_size: rows per optimizer step.
        seed: seed for the shuffles.

    Raises:
        ValueError: no rows, a length that is not a number, a batch size below 1, or a seed outside 0 to 2**32 - 1.
        TypeError: lengths that are not a sequence.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        check_seed(seed)
        if not is_integer(batch_size, 1):
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        if not len(lengths) or not all(isinstance(length, int) for length in lengths):
            raise ValueError(f"lengths must be one number of tokens for each row, got {lengths!r:.80}")
        self.lengths, self.batch_size, self.seed = list(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0 up, whose order comes next; called by the data loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        rows = torch.randperm(len(self.lengths), generator=generator).tolist()
        pool = 50 * self.batch_size
        rows = [row for i in range(0, len(rows), pool) for row in sorted(rows[i : i + pool], key=self._length)]
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        rest = batches.pop() if len(batches[-1]) < self.batch_size else []  # a short batch stays last
        order = torch.randperm(len(batches), generator=generator).tolist()
        return iter([row for i in order for row in batches[i]] + rest)

    def _length(self, row: int) -> int:
        return self.lengths[row]


class GlueTrainer(Trainer):
    """Trainer for one task: it groups training rows of similar length into batches and keeps the loss of each batch.

    Attributes:
        losses: of the training batches so far, left on the device so that no step waits for them.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda output: compute_metrics(task, output.predictions, output.label_ids),
            preprocess_logits_for_metrics=lambda predictions, labels: logits_of(predictions),
            **options,
        )
        # Trainer assumes that a forward with **kwargs sums its loss, and multiplies it by the number of processes; ours
        # averages
        self.model_accepts_loss_kwargs = False
        self.losses: list[torch.Tensor] = []

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # nobody reads the count, and each takes a walk over all parameters

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"][:]]
        rows_per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler(lengths, rows_per_step, self.args.seed)


class StepTimer(TrainerCallback):
    """Seconds of each optimizer step, evaluation and saving left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begin = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begin)


class Progress(TrainerCallback):
    """One bar for training, in a terminal or a notebook, and one for an evaluation that stands by itself."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.training = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *rest: Any, **kwargs: Any) -> None:
        self.training = True
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", leave=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *rest: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_prediction_step(self, *args: Any, eval_dataloader: Any = None, **kwargs: Any) -> None:
        if not self.training:
            self.bar = self.bar or tqdm(total=len(eval_dataloader), desc="evaluate", unit="batch", leave=False)
            self.bar.update()

    def on_evaluate(self, *args: Any, metrics: dict[str, float] | None = None, **kwargs: Any) -> None:
        if self.training:
            self.bar.set_postfix({name: f"{value:.3f}" for name, value in metrics_in(metrics or {}).items()})
        else:
            self.bar.close()
            self.bar = None

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.bar.close()
        self.bar, self.training = None, False


def show_progress(trainer: Trainer, progress: bool) -> None:
    """Our bar in place of Trainer's, which prints a dictionary at each log; only the first process shows it."""
    trainer.remove_callback(PrinterCallback)
    if progress and PROCESS == 0:
        trainer.add_callback(Progress)


def judged_by(task: Task) -> dict[str, Any]:
    """By which metric a callback may choose and stop, in the words of TrainingArguments: the task's main one."""
    return {"metric_for_best_model": names_of_metrics(task)[0], "greater_is_better": True}


def schedule(settings: Settings, seed: int, save_steps: int | None) -> dict[str, Any]:
    """How long and how fast to train, and when to evaluate and save, in the words of TrainingArguments."""
    return {
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": _share(settings.batch_size),
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "seed": seed,
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_strategy": "steps" if save_steps else "no",
        "save_steps": save_steps or 500,
        "save_total_limit": 2,
    }


def _share(batch_size: int) -> int:
    """Rows per step of this process, so that those of all processes make one batch of the settings' size."""
    if batch_size % PROCESSES:
        raise ValueError(f"a batch of {batch_size} rows can't be shared by {PROCESSES} processes: choose a multiple")
    return batch_size // PROCESSES


def common_arguments(precision: str, device: str) -> dict[str, Any]:
    """On what to compute, and how quietly, in the words of TrainingArguments."""
    return {
        "per_device_eval_batch_size": ROWS_AT_ONCE,
        "bf16": precision == "bf16",
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "report_to": [],
        "disable_tqdm": True,
    }


def evaluation_sets(tokenized: dict[str, Dataset], task: Task) -> Dataset | dict[str, Dataset]:
    """The validation rows as Trainer takes them: alone, or by name where a task has several sets, as MNLI has."""
    if len(task.splits) == 1:
        return tokenized[task.splits[0]]
    return {split.removeprefix("validation_"): tokenized[split] for split in task.splits}


def metrics_of(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task, tokenized: dict[str, Dataset], progress: bool
) -> dict[str, float]:
    """The metrics that an evaluation by :class:`GlueTrainer` gives, computed without one.

    To make a Trainer seeds all random numbers and resets what Accelerate's parts share; a loop of the caller's, in the
    middle of which this is called, needs both as they are.
    """
    values: list[float] = []
    for split in task.splits:
        # The loader draws a number, which is not to be the caller's
        options = {"collate_fn": DataCollatorWithPadding(tokenizer), "generator": torch.Generator()}
        batches = DataLoader(tokenized[split], ROWS_AT_ONCE, **options)
        quiet = not progress or PROCESS != 0
        bar = tqdm(batches, desc="evaluate", unit="batch", leave=False, disable=quiet)
        seen = [(forward(model, batch)[1].float().cpu(), batch["labels"]) for batch in bar]
        scores, labels = (torch.cat(parts).numpy() for parts in zip(*seen, strict=True))
        values += compute_metrics(task, scores, labels).values()
    return dict(zip(names_of_metrics(task), values, strict=True))


def metrics_in(log: dict[str, float]) -> dict[str, float]:
    """The metrics in one entry of Trainer's log, without its times and losses; none in an entry of training."""
    timing = ("runtime", "samples_per_second", "steps_per_second", "loss", "model_preparation_time")
    return {
        name.removeprefix("eval_"): value
        for name, value in log.items()
        if name.startswith("eval_") and not name.endswith(timing)
    }


def in_order(metrics: dict[str, float], task: Task) -> dict[str, float]:
    """Validation splits and metrics in the task's order: a log that went through a checkpoint is sorted by name."""
    return {name: metrics[name] for name in names_of_metrics(task)}


def names_of_metrics(task: Task) -> list[str]:
    """The names of a task's metrics in a log, the main one first: where there are several splits, each with its own."""
    splits = [split.removeprefix("validation_") + "_" for split in task.splits] if len(task.splits) > 1 else [""]
    return [split + metric for split in splits for metric in task.metrics]


def curve_of(log_history: list[dict[str, float]], task: Task) -> list[dict[str, float]]:
    """The metrics of each evaluation; those of several validation sets at one step joined."""
    by_step: dict[int, dict[str, float]] = {}
    for log in log_history:
        if metrics_in(log):
            by_step.setdefault(log["step"], {"epoch": log["epoch"]}).update(metrics_in(log))
    return [{"epoch": point["epoch"]} | in_order(point, task) for point in by_step.values()]
