"""The learner's pieces, put together: what notebook 06 builds PRILoRA from."""

from __future__ import annotations

from types import SimpleNamespace

from prilora_lite.teaching.exercises import pieces
from prilora_lite.teaching.exercises.importance import fold, importance_scores, keep_rows
from prilora_lite.teaching.exercises.layer import lora_forward
from prilora_lite.teaching.exercises.pruning import pruner_step
from prilora_lite.teaching.exercises.ranks import rank_schedule
from prilora_lite.teaching.exercises.training import train_step

PIECES = (lora_forward, rank_schedule, importance_scores, keep_rows, fold, pruner_step, train_step)  # as on the pages


def my_pieces() -> SimpleNamespace:
    """The functions of :data:`PIECES`, by name.

    Each is the learner's if it passed its check on its page, and ours otherwise; a line for each says which.
    """
    exercises = [check.exercise for check in PIECES]
    return pieces.load({one.truth.__name__: (one.truth, one.problem) for one in exercises})
