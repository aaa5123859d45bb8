"""Training with transformers.Trainer: the callback that prunes, and one run from a configuration to its metrics."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import save
from torch import nn
from torch.utils.data import Sampler
from tqdm.auto import tqdm
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from prilora_lite.adapt import Report, adapt, head_parameters, plan, report
from prilora_lite.checkpoint import save_adapter
from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments import baselines
from prilora_lite.experiments.device import PROCESS, PROCESSES, pick_device, pick_precision
from prilora_lite.experiments.encoders import Settings, load_encoder, settings_for
from prilora_lite.experiments.tasks import Task, check_rows, compute_metrics, get_task, load_rows
from prilora_lite.integrations.trainer import SEVERAL_GPUS, PRILoRACallback, SealCheckpoints, latest_checkpoint
from prilora_lite.shared.checks import check_seed
from prilora_lite.shared.errors import expect
from prilora_lite.shared.files import not_written, write_whole

METHODS_BY_NAME = ("head", "full", *baselines.BASELINES)
MOST_UNKNOWN = 0.3  # share of unknown tokens in the first rows above which a run is refused
TORCH_CANT_WRITE = ("PytorchStreamWriter", "iostream error")  # in torch.save's RuntimeError on a full disk


class LengthGroupedSampler(Sampler[int]):
    """Shuffled rows, those of like length in one batch; a function of seed and epoch alone, so that it resumes.

    Rows are shuffled, cut into pools of 50 batches, sorted by length within each; then the batches are shuffled.
    Less padding, hence faster. Our choice; Trainer's own ``group_by_length`` does not resume in the same order.

    Args:
        lengths: of each row, in tokens.
        batch_size: rows per optimizer step.
        seed: of the shuffles.

    Raises:
        ValueError: no rows, a length that is no number, a batch of less than a row, or a seed that is none.
        TypeError: lengths that are no sequence.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        check_seed(seed)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
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
    """Trainer whose training batches are grouped by length, and that keeps the loss of each; evaluation stays in order.

    Attributes:
        losses: of the training batches so far, left on the device so that no step waits for them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Trainer takes a forward(**kwargs) for one that sums the loss over the global batch, and multiplies it by the
        # number of processes; these classifiers average
        self.model_accepts_loss_kwargs = False
        self.losses: list[torch.Tensor] = []

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss)
        return loss

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
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
            self.bar.set_postfix({name: f"{value:.3f}" for name, value in _metrics(metrics or {}).items()})
        else:
            self.bar.close()
            self.bar = None

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.bar.close()
        self.bar, self.training = None, False


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        task, seed: what was run; ``method`` is ``head``, ``full`` or the configuration.
        metrics: of the last evaluation, the task's main metric first; split names stand before those of MNLI.
        curve: the same after each epoch, with ``epoch``; the last entry is ``metrics``.
        losses: of each training batch, of several processes this one's part; a resumed run has those since it was
            resumed.
        history: the pruner's, or the ranks that AdaLoRA's allocator left; empty for the others.
        counts: trainable and non-zero parameters of adapter and head.
        steps: optimizer steps made.
        seconds_per_step: median; the first two steps, which warm up, do not count.
        path: where the adapter or model was saved, None if nowhere.
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
    task: str,
    method: str | PRILoRAConfig | None = None,
    *,
    encoder: str = "pocket",
    rows: str | Path | dict[str, Dataset] | None = None,
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
    """Fine-tune an encoder on a GLUE task and evaluate it on the validation rows after each epoch.

    Args:
        task: one of the nine GLUE tasks or of pocket's four.
        method: a configuration, ``head`` for pooler and head alone, ``full`` for all weights, or one of
            :data:`~.baselines.BASELINES`; default: PRILoRA's own configuration with the settings' alpha. A
            configuration that is given keeps its own alpha.
        encoder: a preset (``pocket``, ``minilm``, ``paper``), a folder, or a name on the hub, ``owner/name@REVISION``.
        rows: a folder of Parquet files, or the rows themselves by split; default: see :func:`~.tasks.load_rows`.
        settings: learning rate, epochs and the like; default: the preset's for this task.
        seed: of the head, the adapter, the order of the rows and dropout.
        output_dir: where the adapter (``adapter.safetensors``), or the whole model, and any checkpoints go.
        save_steps: write a checkpoint to ``output_dir`` every so many optimizer steps.
        resume: go on from the newest whole checkpoint in ``output_dir``; start anew if there is none. A folder with
            the checkpoints of another run (task, method, encoder, seed or settings differ) is refused.
        precision: ``fp32``, ``bf16`` (autocast), or ``auto``: the preset's, else bf16 where the device computes in it
            natively.
        device: ``cpu`` to stay there; default: CUDA, else MPS, else CPU.
        progress: show a progress bar.
        callbacks: of your own, called after PRILoRA's: to watch a run, or to stop it by ``should_training_stop``.

    Returns:
        The run's :class:`Result`. Its metrics are those of the saved file.

    Raises:
        ValueError, TypeError: a bad argument, rows or an encoder that can't be used.
        OSError: rows or an encoder that can't be had, or an output that can't be written.
        RuntimeError: a checkpoint that can't be resumed from, or several GPUs in one process.
    """
    if not (method is None or isinstance(method, PRILoRAConfig) or method in METHODS_BY_NAME):
        raise ValueError(f"method must be a PRILoRAConfig or one of {', '.join(METHODS_BY_NAME)}, got {method!r}")
    check_seed(seed)
    if (save_steps or resume) and output_dir is None:
        raise ValueError("save_steps and resume need an output_dir to keep checkpoints in")
    if not (settings is None or isinstance(settings, Settings)):
        raise ValueError(f"settings must be Settings(...) or None for the preset's, got {settings!r}")
    glue = get_task(task)
    callbacks = list(callbacks)
    encoder, settings = str(encoder), settings or settings_for(str(encoder), task, method)
    method = PRILoRAConfig(alpha=settings.alpha) if method is None else method
    data = check_rows(glue, rows) if isinstance(rows, dict) else load_rows(glue, rows)

    set_seed(seed)
    model, tokenizer = load_encoder(encoder, glue, settings.head_dropout)
    check_length(model, settings.max_length)
    base = sum(parameter.numel() for parameter in model.parameters())
    steps = math.ceil(settings.epochs * math.ceil(len(data["train"]) / settings.batch_size))
    model, own = _make_trainable(model, method, steps, settings.alpha)
    tokenized = {
        split: tokenize(data[split], glue, tokenizer, settings.max_length) for split in ("train", *glue.splits)
    }
    folder = Path(tempfile.mkdtemp(prefix="prilora-")) if output_dir is None else Path(output_dir)
    try:
        _claim(
            folder,
            {"task": task, "method": _plain(method), "encoder": encoder, "seed": seed} | asdict(settings),
            resume,
        )
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            per_device_train_batch_size=_share(settings.batch_size),
            warmup_steps=settings.warmup,
            weight_decay=settings.weight_decay,
            seed=seed,
            eval_strategy="epoch",
            logging_strategy="epoch",
            save_strategy="steps" if save_steps else "no",
            save_steps=save_steps or 500,
            save_total_limit=2,
            **_common_arguments(pick_precision(precision, encoder, device), device),
        )
        if arguments.n_gpu > 1:
            raise RuntimeError(SEVERAL_GPUS.format(arguments.n_gpu))
        timer = StepTimer()
        sealing = [] if any(isinstance(callback, SealCheckpoints) for callback in own) else [SealCheckpoints()]
        trainer = GlueTrainer(
            model,
            arguments,
            train_dataset=tokenized["train"],
            eval_dataset=_evaluation_sets(tokenized, glue),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda output: compute_metrics(glue, output.predictions, output.label_ids),
            callbacks=[*own, *sealing, timer, *callbacks],  # the timer ends after the pruner: it is part of a step
        )
        _show_progress(trainer, progress)
        checkpoint = latest_checkpoint(folder) if resume else None
        with _no_bars_of_files(), _writing(folder):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        judged = any(_metrics(log) for log in trainer.state.log_history if log["step"] == trainer.state.global_step)
        if not judged or any(getattr(callback, "pruned_after_evaluation", False) for callback in own):
            trainer.evaluate()  # Trainer saves before it evaluates, so a resumed run may find only the saving done
        curve = _curve(trainer.state.log_history, glue)
        with _writing(folder):
            path = None if output_dir is None else _save(model, tokenizer, method, folder)
    finally:
        if output_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    return Result(
        task=task,
        method=method,
        seed=seed,
        metrics={name: value for name, value in curve[-1].items() if name != "epoch"},
        curve=curve,
        losses=[loss.item() for loss in trainer.losses],
        history=own[0].history if own else [],
        counts=_count(model, method, base),
        steps=trainer.state.global_step,
        seconds_per_step=statistics.median(timer.seconds[2:] or timer.seconds or [math.nan]),
        path=path,
    )


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    *,
    rows: str | Path | dict[str, Dataset] | None = None,
    max_length: int | None = None,
    precision: str = "auto",
    device: str | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """The task's metrics of a model on the validation rows, computed as :func:`finetune` does.

    Args:
        model, tokenizer: as :func:`~.encoders.load_encoder` gives them, with an adapter loaded or not.
        task, rows, precision, device, progress: see :func:`finetune`.
        max_length: longest row in tokens; default: that of the encoder's settings for this task.

    Returns:
        Metric name -> value.

    Raises:
        TypeError: no model.
        ValueError, OSError: a bad argument, rows that can't be had or that the model does not suit.
    """
    expect(nn.Module, model, "a model to evaluate")
    glue = get_task(task)
    data = check_rows(glue, rows) if isinstance(rows, dict) else load_rows(glue, rows)
    encoder = getattr(model, "prilora_encoder", "")
    max_length = max_length or settings_for(encoder, task).max_length
    check_length(model, max_length)
    if model.config.num_labels != glue.num_labels:
        raise ValueError(f"the model's head has {model.config.num_labels} outputs, but {task} needs {glue.num_labels}")
    tokenized = {split: tokenize(data[split], glue, tokenizer, max_length) for split in glue.splits}
    with tempfile.TemporaryDirectory(prefix="prilora-") as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=folder, **_common_arguments(pick_precision(precision, encoder, device), device)
            ),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda output: compute_metrics(glue, output.predictions, output.label_ids),
        )
        _show_progress(trainer, progress)
        logs = trainer.evaluate(_evaluation_sets(tokenized, glue))
    return _in_order(_metrics(logs), glue)


def check_encoder(
    encoder: str, task: str, rows: dict[str, Dataset], settings: Settings, configs: Iterable[PRILoRAConfig] = ()
) -> None:
    """Raise what :func:`finetune` would of an encoder that can't be had, or that rows, settings or ranks don't suit.

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
    tokenize(rows["train"].select(range(min(100, len(rows["train"])))), glue, tokenizer, settings.max_length)


def tokenize(data: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Token ids of a task's text columns, cut at ``max_length``, and ``labels``; nothing padded yet."""

    def encode(batch: dict[str, list]) -> dict[str, list]:
        encoded = tokenizer(*(batch[column] for column in task.columns), truncation=True, max_length=max_length)
        kind = int if task.labels else float
        return dict(encoded) | {"labels": [kind(label) for label in batch["label"]]}

    with _map_bar(show=len(data) > 20_000):
        tokenized = data.map(encode, batched=True, remove_columns=data.column_names, desc=f"tokenize {task.name}")
    _refuse_foreign_words(tokenized[:100]["input_ids"], task, tokenizer)
    return tokenized


def _refuse_foreign_words(rows: list[list[int]], task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    unknown = sum(row.count(tokenizer.unk_token_id) for row in rows) / max(1, sum(map(len, rows)))
    if tokenizer.unk_token_id is not None and unknown > MOST_UNKNOWN:
        raise ValueError(
            f"the encoder does not know {unknown:.0%} of the words of {task.name}, so nothing could be learned: "
            "'pocket' reads the pocket tasks alone; for others choose 'minilm', 'paper', a folder or a name on the hub"
        )


def _make_trainable(
    model: nn.Module, method: str | PRILoRAConfig, steps: int, alpha: float
) -> tuple[nn.Module, list[Any]]:
    """Freeze and adapt as the method says; the model to train, and the callbacks that the method needs."""
    if isinstance(method, PRILoRAConfig):
        adapt(model, method)
        return model, [PRILoRACallback()]
    if method in baselines.BASELINES:
        return baselines.make_trainable(model, method, steps=steps, alpha=alpha)
    model.requires_grad_(method == "full")
    for parameter in head_parameters(model):
        parameter.requires_grad_(True)
    return model, []


def _count(model: nn.Module, method: str | PRILoRAConfig, base: int) -> Report:
    """Parameters now; ``base`` are those that the model had before a baseline added its own."""
    counted = report(model)
    if method not in baselines.BASELINES:
        return counted
    own = baselines.count(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = sum(parameter.numel() for parameter in trained) - own.adapter
    return replace(
        counted, adapter=own.adapter, adapter_nonzero=own.adapter_nonzero, head=head, head_nonzero=head, base=base
    )


def _share(batch_size: int) -> int:
    """Rows per step of this process, so that those of all processes make one batch of the settings' size."""
    if batch_size % PROCESSES:
        raise ValueError(f"a batch of {batch_size} rows can't be shared by {PROCESSES} processes: choose a multiple")
    return batch_size // PROCESSES


def _common_arguments(precision: str, device: str | None) -> dict[str, Any]:
    device = pick_device(device)
    return {
        "per_device_eval_batch_size": 64,
        "bf16": precision == "bf16",
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "report_to": [],
        "disable_tqdm": True,
    }


def _show_progress(trainer: Trainer, progress: bool) -> None:
    """Our bar in place of Trainer's, which prints a dictionary at each log; of several processes the first shows it."""
    trainer.remove_callback(PrinterCallback)
    if progress and PROCESS == 0:
        trainer.add_callback(Progress)


@contextlib.contextmanager
def _map_bar(show: bool) -> Iterator[None]:
    """The bar of ``Dataset.map`` where it takes a while, none where it would only flicker."""
    before = datasets.are_progress_bars_disabled()
    if not show:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not show and not before:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _no_bars_of_files() -> Iterator[None]:
    """Without transformers' bars for each file that it writes or reads."""
    before = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            transformers_logging.enable_progress_bar()


def _evaluation_sets(tokenized: dict[str, Dataset], task: Task) -> Dataset | dict[str, Dataset]:
    if len(task.splits) == 1:
        return tokenized[task.splits[0]]
    return {split.removeprefix("validation_"): tokenized[split] for split in task.splits}


def _metrics(log: dict[str, float]) -> dict[str, float]:
    timing = ("runtime", "samples_per_second", "steps_per_second", "loss", "model_preparation_time")
    return {
        name.removeprefix("eval_"): value
        for name, value in log.items()
        if name.startswith("eval_") and not name.endswith(timing)
    }


def _in_order(metrics: dict[str, float], task: Task) -> dict[str, float]:
    """Validation splits and metrics in the task's order: a log that went through a checkpoint is sorted by name."""
    splits = [split.removeprefix("validation_") + "_" for split in task.splits] if len(task.splits) > 1 else [""]
    return {split + metric: metrics[split + metric] for split in splits for metric in task.metrics}


def _curve(log_history: list[dict[str, float]], task: Task) -> list[dict[str, float]]:
    """The metrics of each evaluation; those of several validation sets at one step joined."""
    by_step: dict[int, dict[str, float]] = {}
    for log in log_history:
        if _metrics(log):
            by_step.setdefault(log["step"], {"epoch": log["epoch"]}).update(_metrics(log))
    return [{"epoch": point["epoch"]} | _in_order(point, task) for point in by_step.values()]


def _claim(folder: Path, run: dict[str, Any], resume: bool) -> None:
    """Write down which run a folder belongs to; refuse one that holds the checkpoints of another."""
    file = folder / "run.json"
    if latest_checkpoint(folder) is not None:
        if not resume:
            raise ValueError(f"{folder} holds checkpoints of an earlier run: resume it, or give another output_dir")
        try:
            earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{file}, which says whose checkpoints these are, can't be read: {error}") from error
        differ = [name for name in run if earlier.get(name) != json.loads(json.dumps(run[name]))]
        if differ:
            changes = ", ".join(f"{name} was {earlier.get(name)!r} and is {run[name]!r}" for name in differ)
            raise ValueError(f"{folder} holds checkpoints of another run: {changes}; give another output_dir")
    write_whole(file, json.dumps(run, indent=1).encode())


def check_length(model: nn.Module, max_length: int) -> None:
    """Raise ValueError if rows may be longer than the encoder has positions."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and max_length > positions:
        raise ValueError(
            f"max_length is {max_length}, but the encoder has only {positions} positions: give {positions} or less"
        )


def _plain(method: str | PRILoRAConfig) -> str | dict[str, Any]:
    """A method as JSON has it."""
    return method if isinstance(method, str) else method.to_dict()


def _save(model: nn.Module, tokenizer: PreTrainedTokenizerBase, method: str | PRILoRAConfig, folder: Path) -> Path:
    """Write what was trained; of several processes the first does. Returns where."""
    if isinstance(method, PRILoRAConfig):
        path = folder / "adapter.safetensors"
        return save_adapter(model, path) if PROCESS == 0 else path
    if method in ("houlsby", "pfeiffer"):  # no class of transformers has these layers
        path = folder / "trained.safetensors"
        trained = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
        if PROCESS == 0:
            write_whole(path, save(trained))
        return path
    if PROCESS == 0:
        with _no_bars_of_files():
            model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """An OSError that names the folder where torch's or safetensors' own error says that a file can't be written."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in TORCH_CANT_WRITE):
            raise
        raise not_written(folder, error) from error


def result_record(result: Result) -> dict[str, Any]:
    """A result as plain values, ready for one line of JSON."""
    counts = asdict(result.counts)
    return {
        "task": result.task,
        "method": _plain(result.method),
        "seed": result.seed,
        "metrics": result.metrics,
        "curve": result.curve,
        "pruning": result.history,
        "counts": {name: counts[name] for name in ("adapter", "adapter_nonzero", "head", "head_nonzero", "base")},
        "steps": result.steps,
        "seconds_per_step": result.seconds_per_step,
    }
