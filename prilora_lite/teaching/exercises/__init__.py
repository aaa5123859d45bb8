"""Checks of the notebooks' exercises, ``exercises.NAME(answer)``: each says what is wrong with an answer, and where.

A stub that still raises NotImplementedError is "not written yet", a right answer "well done". A wrong one raises
:class:`WrongAnswer`, an AssertionError whose text a notebook shows alone. The files follow the series; ``checking``
has what all checks share, and ``pieces`` keeps the answers that later pages build on.
"""

from prilora_lite.teaching.exercises.importance import fold, importance_scores, keep_in_matrix, keep_rows
from prilora_lite.teaching.exercises.layer import (
    full_parameters,
    lora_forward,
    merged_weight,
    starting_weights,
    truncate,
)
from prilora_lite.teaching.exercises.mine import my_pieces
from prilora_lite.teaching.exercises.norms import running_mean_square
from prilora_lite.teaching.exercises.pruning import churn, nonzero_share, pruner_step, sparsify_for_good
from prilora_lite.teaching.exercises.ranks import rank_schedule, ranks_at_budget, scalings
from prilora_lite.teaching.exercises.reading import WrongAnswer
from prilora_lite.teaching.exercises.results import decision, holm, interaction, paired_interval, verdict
from prilora_lite.teaching.exercises.runs import adapter_layers, matthews, number_of_prunes, packed_bytes
from prilora_lite.teaching.exercises.sentence import report_sentence
from prilora_lite.teaching.exercises.training import train_step

__all__ = [
    "WrongAnswer",
    "adapter_layers",
    "churn",
    "decision",
    "fold",
    "full_parameters",
    "holm",
    "importance_scores",
    "interaction",
    "keep_in_matrix",
    "keep_rows",
    "lora_forward",
    "matthews",
    "merged_weight",
    "my_pieces",
    "nonzero_share",
    "number_of_prunes",
    "packed_bytes",
    "paired_interval",
    "pruner_step",
    "rank_schedule",
    "ranks_at_budget",
    "report_sentence",
    "running_mean_square",
    "scalings",
    "sparsify_for_good",
    "starting_weights",
    "train_step",
    "truncate",
    "verdict",
]


def __dir__() -> list[str]:
    """The checks alone, for those who press Tab."""
    return __all__
