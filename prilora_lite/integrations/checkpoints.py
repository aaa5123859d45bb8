"""Checkpoints of ``transformers.Trainer`` that tell whether they are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from prilora_lite.shared.files import given_path, sha256_of, write_whole

CHECKSUMS = "checksums.json"
LAST_WHOLE = "latest_checkpoint(folder) finds the last whole one"


class RunIsFinished(RuntimeError):
    """A checkpoint of the run's last step was resumed from in mid-epoch, where Trainer would train one step more."""


class SealCheckpoints(TrainerCallback):
    """Writes the SHA-256 of each file of a checkpoint beside them, when Trainer has written them all."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps > 0:
            raise RunIsFinished(
                f"the run ends at step {state.max_steps}, and the checkpoint is of step {state.global_step}, so there "
                "is nothing left to train, but Trainer would make one step more: to go on, give more steps or epochs; "
                "to use what is there, load the checkpoint's weights"
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = checkpoint_of(args, state)
        args.distributed_state.wait_for_everyone()  # each process writes the state of its own generators
        if args.should_save and folder.is_dir():
            files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != CHECKSUMS)
            write_whole(folder / CHECKSUMS, json.dumps({file.name: sha256_of(file) for file in files}).encode())


def checkpoint_of(args: TrainingArguments, state: TrainerState) -> Path:
    """Where Trainer keeps the checkpoint of this step; a search for hyperparameters has a folder for each trial."""
    folder, name = Path(args.output_dir), f"checkpoint-{state.global_step}"
    if not state.is_hyper_param_search:
        return folder / name
    if state.trial_name:
        return folder / state.trial_name / name
    return max(folder.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime_ns, default=folder / name)


def resumed_from(args: TrainingArguments, state: TrainerState) -> Path:
    """Where a checkpoint lies that is resumed from: Trainer tells a callback only what the arguments say."""
    given = Path(str(args.resume_from_checkpoint))
    return given if given.is_dir() else checkpoint_of(args, state)


def damaged_file(checkpoint: Path) -> Path | None:
    """The first file of a checkpoint that is not as it was written; None if all are, or if there are no checksums."""
    sums = checkpoint / CHECKSUMS
    if not sums.exists():
        return None
    try:
        expected = json.loads(sums.read_text(encoding="utf-8"))
        files = [(checkpoint / Path(name).name, digest) for name, digest in expected.items()]
    except (OSError, ValueError, AttributeError, RecursionError):
        return sums
    return next((file for file, digest in files if not file.is_file() or sha256_of(file) != digest), None)


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint of a Trainer in a folder, of those that were written to their end; None if there is none.

    Trainer writes ``trainer_state.json`` last; a checkpoint without a readable one was cut off and is passed over, and
    so is one with a file whose SHA-256 is not the one that :class:`~.trainer.PRILoRACallback` wrote.

    Raises:
        TypeError, ValueError, OSError: not a path.
    """
    found = []
    for path in given_path(folder).glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(step, int):
            found.append((step, path))
    return next((path for _, path in sorted(found, reverse=True) if damaged_file(path) is None), None)
