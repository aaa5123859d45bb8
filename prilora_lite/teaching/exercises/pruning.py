"""Checks of 05: one step of the pruner, what died anew, what is left, and zeros for good."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prilora_lite.importance import importance, keep_mask
from prilora_lite.teaching.exercises.checking import Answer, check
from prilora_lite.teaching.exercises.reading import tensor

_A = torch.tensor([[-2.0, 1.0, -8.0, 5.0], [8.0, -4.0, -7.0, 6.0]])
_s = torch.tensor([9.0, 16.0, 1.0, 4.0])


def _when(due: Callable[[int, int], bool]) -> Answer:
    """Prunes as it should, but at other steps."""

    def step(A: Tensor, s: Tensor, step_number: int, interval: int, ratio: float) -> Tensor:
        return _pruned(A, importance(A, s), ratio) if due(step_number, interval) else A

    return step


def _how(prune: Callable[[Tensor, Tensor, float], Tensor | None]) -> Answer:
    """Prunes when it should, but other entries, or something else than A."""

    def step(A: Tensor, s: Tensor, step_number: int, interval: int, ratio: float) -> Tensor | None:
        return A if step_number % interval else prune(A, s, ratio)

    return step


def _pruned(A: Tensor, scores: Tensor, ratio: float, scope: str = "row") -> Tensor:
    return A.masked_fill(~keep_mask(scores, ratio, scope), 0)


def _otherwise(other: Callable[[Tensor], Tensor | None]) -> Answer:
    """Prunes when and what it should, but returns something else than A at other steps."""

    def step(A: Tensor, s: Tensor, step_number: int, interval: int, ratio: float) -> Tensor | None:
        return other(A) if step_number % interval else _pruned(A, importance(A, s), ratio)

    return step


@check(
    piece=True,
    cases=[(_A, _s, *rest) for rest in (
        (3, 3, 0.5), (1, 3, 0.5), (2, 3, 0.5), (4, 3, 0.5), (6, 3, 0.25), (9, 3, 0.5), (1, 1, 0.5), (2, 4, 0.5),
        (5, 2, 0.5), (8, 2, 0.0))] + [(_A.double(), _s.double(), 2, 2, 0.25)],
    hint="Two questions: is it time, and if it is, which entries go? `importance` and `keep_mask` answer the second.",
    reads=tensor,
    slips={
        "You prune at every step; wait until the interval is over.": _when(lambda step, N: True),
        "You never prune: what comes back is A as it was.": _when(lambda step, N: False),
        "You prune one step early: steps are counted from 1.": _when(lambda step, N: (step + 1) % N == 0),
        "You prune one step late: the interval is over in step N itself.": _when(lambda step, N: (step - 1) % N == 0),
        "You prune once, when the first interval is over. It goes on: again after each interval.": _when(
            lambda step, N: step == N
        ),
        "Once the first interval is over you prune at every step.": (
            _when(lambda step, N: step >= N),
            _when(lambda step, N: step > N),
        ),
        "You prune when it is not time, and don't when it is: look at what the remainder is then.": _when(
            lambda step, N: step % N != 0
        ),
        "You divided the interval by the step; it is the step that is counted in intervals.": _when(
            lambda step, N: N % step == 0
        ),
        "You chose by the size of the weights alone; their inputs count as well.": _how(
            lambda A, s, ratio: _pruned(A, A.abs(), ratio)
        ),
        "You chose by s without its root.": _how(lambda A, s, ratio: _pruned(A, A.abs() * s, ratio)),
        "You chose by the inputs alone; the weights count as well.": _how(
            lambda A, s, ratio: _pruned(A, s.expand_as(A), ratio)
        ),
        "Negative weights count as small in yours: size has no sign.": _how(
            lambda A, s, ratio: _pruned(A, A * s.sqrt(), ratio)
        ),
        "You keep what should go, and prune what should stay.": _how(
            lambda A, s, ratio: A.masked_fill(keep_mask(importance(A, s), ratio), 0)
        ),
        "You prune 1 - ratio of each row; the ratio is the share that goes.": _how(
            lambda A, s, ratio: _pruned(A, importance(A, s), 1 - ratio) if ratio else torch.zeros_like(A)
        ),
        "You compare over the whole matrix; each row is pruned by itself.": _how(
            lambda A, s, ratio: _pruned(A, importance(A, s), ratio, "matrix")
        ),
        "You return the mask; return A with zeros in it.": (
            _how(lambda A, s, ratio: keep_mask(importance(A, s), ratio)),
            _how(lambda A, s, ratio: keep_mask(importance(A, s), ratio).int()),
            _how(lambda A, s, ratio: keep_mask(importance(A, s), ratio).to(A)),
        ),
        "You return the scores that are left; return A with zeros in it.": _how(
            lambda A, s, ratio: _pruned(importance(A, s), importance(A, s), ratio)
        ),
        "The survivors lost their sign: leave them as they are.": _how(
            lambda A, s, ratio: _pruned(A.abs(), importance(A, s), ratio)
        ),
        "You return the survivors alone; A keeps its shape, with zeros in it.": _how(
            lambda A, s, ratio: A[keep_mask(importance(A, s), ratio)]
        ),
        "You always prune half of A: make use of the ratio.": _how(
            lambda A, s, ratio: _pruned(A, importance(A, s), 0.5)
        ),
        "Where it is not time to prune, nothing comes back: return A as it was.": _otherwise(lambda A: None),
        "Where it is not time to prune, zeros come back: return A as it was.": _otherwise(torch.zeros_like),
    },
)  # fmt: skip
def pruner_step(A: Tensor, s: Tensor, step_number: int, interval: int, ratio: float) -> Tensor:
    """05: A pruned if the interval is over with this step (counted from 1), and A as it was otherwise."""
    return _pruned(A, importance(A, s), ratio) if step_number % interval == 0 else A


_before = torch.arange(11) < 8
_after = torch.tensor([False] * 4 + [True] * 4 + [False, False, True])


@check(
    cases=(
        (_before, _after),
        (_after, _before),
        (_before, _before),
        (~_before, _before),
        (torch.stack([_before, _before]), torch.stack([_after, _before])),
    ),
    hint="Count with the two masks below: how many zeros are there after the prune, and how many of them are new?",
    slips={
        "You divided by the zeros before the prune; the question is about the zeros after it.": lambda before, after: (
            (before & ~after).sum() / (~before).sum()
        ),
        "You divided by those who lived before; the question is about the zeros after the prune.": (
            lambda before, after: (before & ~after).sum() / before.sum()
        ),
        "You divided by those who live after the prune; the question is about the zeros.": lambda before, after: (
            (before & ~after).sum() / after.sum()
        ),
        "You divided by all entries; the question is about the zeros after the prune.": lambda before, after: (
            (before & ~after).float().mean()
        ),
        "You counted every change; an entry that came back is not newly dead.": (
            lambda before, after: (before != after).float().mean(),
            lambda before, after: (before != after).sum() / (~after).sum(),
        ),
        "You looked at the entries that came back, not at those that died.": (
            lambda before, after: (after & ~before).sum() / (~after).sum(),
            lambda before, after: (after & ~before).sum() / (~before).sum(),
            lambda before, after: (after & ~before).sum() / after.sum(),
        ),
        "That is the share of old zeros; the new ones are asked for.": lambda before, after: (
            (~before & ~after).sum() / (~after).sum()
        ),
        "You gave the number of new zeros; divide it to get a share.": lambda before, after: (before & ~after).sum(),
        "A share lies between 0 and 1: no percent.": lambda before, after: (
            100 * (before & ~after).sum() / (~after).sum()
        ),
        "That is the share of zeros in all; how many of them are new?": lambda before, after: (~after).float().mean(),
        "You give one value for each entry; a single share is asked for.": lambda before, after: before & ~after,
    },
)
def churn(before: Tensor, after: Tensor) -> float:
    """05: which share of the zeros is new."""
    return ((before & ~after).sum() / (~after).sum()).item()


@check(
    cases=((0.5, 4, 4), (0.5, 6, 2), (0.75, 128, 256), (0.25, 256, 128)),
    hint="Take r = 1: how many entries has A, how many has B, and which of them are not zero?",
    slips={
        "You forgot B: it loses nothing.": lambda ratio, m, n: 1 - ratio,
        "A and B are not of the same size where m and n differ, so half of the ratio is not it.": lambda ratio, m, n: (
            1 - ratio / 2
        ),
        "You swapped m and n: A has n columns, B has m rows.": lambda ratio, m, n: (n + (1 - ratio) * m) / (n + m),
        "That is the share of zeros; the question is about the rest.": lambda ratio, m, n: ratio * n / (n + m),
        "The ratio is the share that goes; you let it stay.": lambda ratio, m, n: (ratio * n + m) / (n + m),
        "That is what is left of A alone, seen against both: B is not zero.": lambda ratio, m, n: (
            (1 - ratio) * n / (n + m)
        ),
        "That is how many are left for each unit of rank; divide to get a share.": lambda ratio, m, n: (
            (1 - ratio) * n + m
        ),
        "You divided by the entries of the frozen weight; the question is about A and B.": lambda ratio, m, n: (
            ((1 - ratio) * n + m) / (m * n)
        ),
        "A share lies between 0 and 1: no percent.": lambda ratio, m, n: 100 * ((1 - ratio) * n + m) / (n + m),
        "You took away from B as many as from A; B has its own size, and loses nothing.": lambda ratio, m, n: (
            (m + n - 2 * ratio * n) / (m + n)
        ),
    },
)
def nonzero_share(ratio: float, m: int, n: int) -> float:
    """05: what is left of A and B together when a share of A is zero."""
    return ((1 - ratio) * n + m) / (n + m)


def _train(answer: Answer, alive: Tensor, gradients: Tensor) -> Tensor:
    """The weight after a call of the answer for each gradient but the first, which Adam remembers from before."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for number, gradient in enumerate(gradients):
        weight.grad = gradient.clone()
        if number:
            answer(optimizer, weight, alive)
        else:
            optimizer.step()
            weight.data[~alive] = 0
    return weight.detach()


def _zero(weight: torch.nn.Parameter, where: Tensor) -> None:
    weight.data[where] = 0


def _before_the_step(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    _zero(weight, ~alive)
    optimizer.step()


def _gradient_alone(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    weight.grad[~alive] = 0
    optimizer.step()


def _gradient_and_before(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    _zero(weight, ~alive)
    weight.grad[~alive] = 0
    optimizer.step()


def _twice(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    optimizer.step()
    optimizer.step()
    _zero(weight, ~alive)


def _the_living(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    optimizer.step()
    _zero(weight, alive)


def _everything(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    optimizer.step()
    weight.data.zero_()


def _by_hand(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    weight.data -= 0.1 * weight.grad
    _zero(weight, ~alive)


def _by_sign(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    weight.data -= 0.1 * weight.grad.sign()
    _zero(weight, ~alive)


def _forgetful(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    optimizer.state.clear()
    optimizer.step()
    _zero(weight, ~alive)


# All gradients differ: while they are alike, Adam's step is the learning rate times their sign.
_gradients = torch.tensor([[1.0, 1.0, 1.0], [0.5, 2.0, -1.0], [2.0, 0.5, 0.1], [-1.0, 1.0, 3.0]])


@check(
    cases=((torch.tensor([True, False, True]), _gradients), (torch.tensor([False, True, True]), _gradients)),
    hint="The living entries should end where the optimizer alone would take them, and the dead ones at 0.",
    reads=tensor,
    asks=_train,
    compares="the weight in the end",
    slips={
        "The dead entry is not 0 in the end: you zero it, and then the optimizer moves it by what it remembers.": (
            _before_the_step
        ),
        "The dead entry moves although its gradient is 0: Adam steps along the gradients that it remembers.": (
            _gradient_alone,
            _gradient_and_before,
        ),
        "You let the optimizer step, but nothing keeps the dead entry at 0.": lambda optimizer, weight, alive: (
            optimizer.step()
        ),
        "The living entries did not move: did the optimizer step, and was the gradient still there?": (
            lambda optimizer, weight, alive: _zero(weight, ~alive),
            lambda optimizer, weight, alive: None,
        ),
        "You let the optimizer step twice in one call.": _twice,
        "You zero the living and keep the dead: alive is True for those that live.": _the_living,
        "All entries are 0; only the dead ones should be.": _everything,
        "The living entries don't end where the optimizer would take them: let it step, with all that it remembers.": (
            _by_hand,
            _by_sign,
            _forgetful,
        ),
    },
)
def sparsify_for_good(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, alive: Tensor) -> None:
    """05: a step after which what was zero stays zero."""
    optimizer.step()
    _zero(weight, ~alive)
