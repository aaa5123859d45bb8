"""From a task's texts to token ids, and whether the encoder can read them."""

from __future__ import annotations

import contextlib

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from prilora_lite.experiments.bars import no_bars
from prilora_lite.experiments.tasks import Task
from prilora_lite.shared.errors import warn

LONG = 20_000  # number of rows above which tokenization takes long enough to show a bar
MOST_UNKNOWN = 0.3  # share of unknown tokens in a hundred rows above which a run is refused
MOST_CUT = 0.05  # share of rows that may be cut without a word


def tokenize(data: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Token ids of a task's text columns, cut at ``max_length``, and ``labels``; nothing padded yet."""

    def encode(batch: dict[str, list]) -> dict[str, list]:
        encoded = tokenizer(*(batch[column] for column in task.columns), truncation=True, max_length=max_length)
        kind = int if task.labels else float
        return dict(encoded) | {"labels": [kind(label) for label in batch["label"]]}

    with contextlib.nullcontext() if len(data) > LONG else no_bars("datasets"):
        tokenized = data.map(
            encode, batched=True, remove_columns=data.column_names, desc=f"tokenize {task.name}",
            keep_in_memory=True,  # else rows that were loaded from a folder get a cache file in it
        )  # fmt: skip
    rows = tokenized["input_ids"][:]
    _refuse_foreign_words(rows[:: max(1, len(rows) // 100)], task, tokenizer)  # of all: the split may be sorted
    full = sum(len(row) >= max_length for row in rows) / max(1, len(rows))
    if full > MOST_CUT:
        warn(
            f"{full:.0%} of the rows of {task.name} fill all {max_length} tokens of max_length, and what stands behind "
            "these is not read: give more, as far as the encoder has positions (--set max_length=..., in Python "
            "Settings(max_length=...))"
        )
    return tokenized


def _refuse_foreign_words(rows: list[list[int]], task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    unknown = sum(row.count(tokenizer.unk_token_id) for row in rows) / max(1, sum(map(len, rows)))
    if tokenizer.unk_token_id is not None and unknown > MOST_UNKNOWN:
        raise ValueError(
            f"the encoder does not know {unknown:.0%} of the words of {task.name}, so nothing could be learned: "
            "'pocket' reads the pocket tasks alone; for others choose 'minilm', 'paper', a folder or a name on the hub"
        )


def check_length(model: nn.Module, max_length: int) -> None:
    """Raise ValueError if rows may be longer than the encoder has positions."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and 0 < positions < max_length:  # XLNet, which has no limit, says -1
        raise ValueError(
            f"max_length is {max_length}, but the encoder has only {positions} positions: give {positions} or less "
            f"(--set max_length={positions}, in Python Settings(max_length={positions}))"
        )
