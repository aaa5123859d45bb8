"""Check of 06: one step of training, with a prune in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from prilora_lite.teaching.exercises.checking import Answer, check
from prilora_lite.teaching.exercises.reading import tensor


class _Model(nn.Module):
    """A weight whose gradient is what it reads; counts how often one is computed."""

    def __init__(self, done: Counter[str]) -> None:
        super().__init__()
        self.weight, self.done = nn.Parameter(torch.tensor([1.0, 2.0, 3.0])), done

    def forward(self, x: Tensor) -> SimpleNamespace:
        loss = (self.weight * x).sum()
        if loss.requires_grad:
            loss.register_hook(lambda _: self.done.update(["gradient"]))
        return SimpleNamespace(loss=loss)


@dataclass
class _FirstEntry:
    """A pruner that zeroes the first entry; counts how often."""

    weight: nn.Parameter
    done: Counter[str]

    def step(self) -> None:
        self.done.update(["prune"])
        self.weight.data[0] = 0


def _by_steps(answer: Answer, inputs: Tensor) -> Tensor:
    """A row for each batch: the weight after it, and how many gradients, optimizer steps and prunes there were."""
    done: Counter[str] = Counter()
    model = _Model(done)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer.register_step_post_hook(lambda *_: done.update(["optimizer"]))
    pruner, rows = _FirstEntry(model.weight, done), []
    for x in inputs:
        answer(model, {"x": x}, optimizer, pruner)
        rows.append([*model.weight.tolist(), *(done[part] for part in ("gradient", "optimizer", "prune"))])
    return torch.tensor(rows)


def _in_order(*parts: str) -> Answer:
    """A step of training whose parts come in this order."""

    def step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer, pruner: _FirstEntry) -> None:
        loss = model(**batch).loss
        does = {"gradient": loss.backward, "move": optimizer.step, "zero": optimizer.zero_grad, "prune": pruner.step}
        for part in parts:
            does[part]()

    return step


@check(
    piece=True,
    cases=((torch.tensor([[1.0, -2.0, 3.0], [2.0, 1.0, -1.0], [-1.0, 4.0, 2.0]]),),),
    hint="Four things happen in one step. Write each on a slip of paper, and ask what has to be there before it.",
    reads=tensor,
    asks=_by_steps,
    compares="the weight after each batch, and the numbers of gradients, optimizer steps and prunes",
    slips={
        "You prune, and then the optimizer moves the zeros: which of the two comes last?": (
            _in_order("gradient", "prune", "move", "zero"),
            _in_order("prune", "gradient", "move", "zero"),
            _in_order("zero", "gradient", "prune", "move"),
        ),
        "The gradients of all batches so far add up: each step should take those of its own batch.": (
            _in_order("gradient", "move", "prune")
        ),
        "When the optimizer steps, there are no gradients: they are gone already, or not there yet.": (
            _in_order("gradient", "zero", "move", "prune"),
            _in_order("zero", "move", "gradient", "prune"),
        ),
        "The weight never moves: who takes the step?": (
            _in_order("gradient", "zero", "prune"),
            _in_order("gradient", "prune"),
        ),
        "Nothing is ever zero: when is the pruner's turn?": _in_order("gradient", "move", "zero"),
        "There is no gradient: the loss alone does not compute it.": (
            _in_order("move", "zero", "prune"),
            _in_order("move", "prune"),
        ),
        "The optimizer steps before the gradient of this batch is there, with that of the last one.": (
            _in_order("move", "zero", "gradient", "prune"),
            _in_order("move", "zero", "prune", "gradient"),
        ),
        "The optimizer steps twice for one batch.": _in_order("gradient", "move", "move", "zero", "prune"),
        "The pruner steps twice for one batch, so it would count the batch twice.": (
            _in_order("gradient", "move", "prune", "zero", "prune"),
            _in_order("gradient", "prune", "move", "zero", "prune"),
        ),
    },
)
def train_step(
    model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer, pruner: _FirstEntry
) -> None:
    """06: one batch: all that is trained moves, and then what is due is pruned."""
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    pruner.step()
