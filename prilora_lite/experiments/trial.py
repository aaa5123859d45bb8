"""Before a run, the smallest real thing of each kind: the longest row through the model, and one evaluation.

What the libraries would say in the middle of a run, in words of their own, is found before it, with what to do.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from prilora_lite.experiments.tasks import Task, compute_metrics

SHORT = 8  # tokens that every encoder should be able to read


def logits_of(predictions: Any) -> Any:
    """The scores of the classes, of all that a model gives beside its loss: it may give hidden states and the like.

    They come first in every output of a classifier of transformers', whether it is a tuple or has names.
    """
    return predictions[0] if isinstance(predictions, tuple | list) else predictions


def try_out(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task, tokenized: dict[str, Dataset], max_length: int
) -> None:
    """Both :func:`try_evaluation` and :func:`try_rows`, whose arguments and errors it has."""
    try_evaluation(task, tokenized)
    try_rows(model, tokenizer, task, tokenized, max_length)


def try_rows(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task, tokenized: dict[str, Dataset], max_length: int
) -> None:
    """Pass the longest and the shortest row through a model as a batch, labels and all.

    Args:
        model: as it will be trained or evaluated; it is left as it was, and no random numbers are drawn.
        tokenizer: pads the batch.
        task: says how many scores there must be for each row.
        tokenized: rows by split, as :func:`~.tokens.tokenize` gives them.
        max_length: of rows in tokens, for the message.

    Raises:
        ValueError: the model has not as many positions or words, can't read the batch, or gives no loss or other
            scores than one for each label.
    """
    lengths = {split: pc.list_value_length(_ids(data)).to_numpy() for split, data in tokenized.items()}
    split = max(lengths, key=lambda split: lengths[split].max())
    longest = tokenized[split][int(lengths[split].argmax())]
    shortest = min(((n.min(), int(n.argmin()), split) for split, n in lengths.items()), key=lambda place: place[0])
    _check_words(model, tokenizer, tokenized)
    collate = DataCollatorWithPadding(tokenizer)
    rows = [longest, tokenized[shortest[2]][shortest[1]]]
    try:
        loss, logits = forward(model, collate(rows))
    except Exception as error:  # of every kind, from anywhere in a model
        raise _unreadable(model, collate, longest, max_length, error) from error
    expected = (len(rows), task.num_labels)
    if loss is None or not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        given = "no loss" if loss is None else f"predictions of {shape}"
        raise ValueError(
            f"for {len(rows)} rows of {task.name} the model gives {given}, but {task.name} needs a loss and "
            f"predictions of {expected}, one for each row and label: load it with AutoModelForSequenceClassification"
        )


def try_evaluation(task: Task, tokenized: dict[str, Dataset]) -> None:
    """Compute a task's metrics on its validation labels, as if a model had predicted them.

    Raises:
        ValueError: a metric that does not exist, or has no value on these rows whatever a model predicts.
    """
    for split in task.splits:
        labels = np.asarray(tokenized[split]["labels"])
        right = np.eye(task.num_labels)[labels] if task.labels else labels + np.linspace(0, 1e-3, len(labels))
        try:
            with warnings.catch_warnings(action="ignore"):
                metrics = compute_metrics(task, right, labels)
        except Exception as error:  # scikit-learn's and scipy's
            raise ValueError(f"the metrics of {task.name} can't be computed on its {split} rows: {error}") from error
        # Of numbers, some measures are NaN then; of classes, scikit-learn's are 0 even if all is predicted right
        without = [name for name, value in metrics.items() if not math.isfinite(value) or (task.labels and value == 0)]
        if not task.labels and len(labels) == 1:
            without = list(metrics)  # a correlation
        if without:
            raise ValueError(
                f"{', '.join(without)} has no value on the {split} rows of {task.name}, whatever is predicted: "
                f"there are {len(labels)} rows with {len(set(labels.tolist()))} different labels"
            )


@torch.no_grad()
def forward(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Any, Any]:
    """Loss and scores of a batch, in evaluation mode; of torch's random numbers none is used up."""
    device, state = next(model.parameters()).device, torch.get_rng_state()
    modes = {module: module.training for module in model.modules()}  # a part may be kept in evaluation mode
    model.eval()
    try:
        outputs = model(**{name: value.to(device) for name, value in batch.items()})
    finally:
        for module, training in modes.items():
            module.training = training
        torch.set_rng_state(state)
    if isinstance(outputs, dict):
        return outputs.get("loss"), logits_of(tuple(v for name, v in outputs.items() if name != "loss"))
    return outputs[0], outputs[1] if len(outputs) > 1 else None


def _unreadable(model: nn.Module, collate: Any, row: dict[str, Any], max_length: int, error: Exception) -> ValueError:
    """What to say of an error in a forward pass: how many tokens of the row can be read, if it is their number."""

    def can_read(tokens: int) -> bool:
        try:
            forward(model, collate([_cut(row, tokens)]))
        except Exception:
            return False
        return True

    tokens, reason = len(row["input_ids"]), f"{type(error).__name__}: {error}"
    if tokens <= SHORT or can_read(tokens) or not can_read(SHORT):
        return ValueError(f"a batch of two rows, the longest of {tokens} tokens, can't go through the model: {reason}")
    most, least = tokens, SHORT
    while most - least > 1:
        middle = (most + least) // 2
        most, least = (most, middle) if can_read(middle) else (middle, least)
    return ValueError(
        f"max_length is {max_length}, but the encoder has only {least} positions: give {least} or less ({reason})"
    )


def _cut(row: dict[str, Any], tokens: int) -> dict[str, Any]:
    """A row without tokens in its middle: its end may say that it ends."""
    return {name: value[: tokens - 1] + value[-1:] if isinstance(value, list) else value for name, value in row.items()}


def _check_words(model: nn.Module, tokenizer: PreTrainedTokenizerBase, tokenized: dict[str, Dataset]) -> None:
    words = getattr(model.get_input_embeddings(), "num_embeddings", None)
    highest = max(pc.max(pc.list_flatten(_ids(data))).as_py() for data in tokenized.values())
    if words is not None and highest >= words:
        raise ValueError(
            f"the tokenizer numbers its words up to {len(tokenizer) - 1}, and {highest} is in the rows, but the "
            f"encoder has {words} embeddings: tokenizer and model do not belong together, or words were added to one "
            "alone (model.resize_token_embeddings)"
        )


def _ids(data: Dataset) -> Any:
    return data.with_format("arrow")[:]["input_ids"]
