"""Check of exercise 4.1: the running mean square where one step sees several small batches, with padding in them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from prilora_lite.importance import InputNorms
from prilora_lite.teaching.exercises.checking import Answer, check
from prilora_lite.teaching.exercises.reading import tensor

Batch = tuple[Tensor, Tensor]  # x (rows, places, n) and a mask (rows, places), True where the token is real


def _steps(padding: float | None = None) -> list[list[Batch]]:
    """Three steps of two small batches that differ in tokens and length; padding holds noise, or what is given."""
    generator = torch.Generator().manual_seed(0)
    steps = []
    for counts in ((2, 4), (1, 3), (4, 1)):
        batches = []
        for tokens, length in zip(counts, (4, 5), strict=True):
            x, mask = (
                torch.randn(2, length, 3, generator=generator),
                torch.arange(length) < torch.tensor([[tokens], [1]]),
            )
            batches.append((x if padding is None else x.masked_fill(~mask[..., None], padding), mask))
        steps.append(batches)
    return steps


def _joined(batches: list[Batch]) -> Tensor:
    """The real tokens of a step, (tokens, n)."""
    return torch.cat([x[mask] for x, mask in batches])


def _q(batches: list[Batch]) -> Tensor:
    return _joined(batches).square().mean(dim=0)


def _sum_with_mask(batches: list[Batch]) -> Tensor:
    """Padding is multiplied by 0, not left out."""
    return sum((x * mask[..., None]).square().sum(dim=(0, 1)) for x, mask in batches)


def _running(q: Callable[[list[Batch]], Tensor], start: float | None = None) -> Answer:
    """The moving average of a q of each step."""

    def running(steps: list[list[Batch]], decay: float) -> Tensor:
        s = start
        for batches in steps:
            s = q(batches) if s is None else decay * s + (1 - decay) * q(batches)
        return s

    return running


def _each_small_batch(steps: list[list[Batch]], decay: float) -> Tensor:
    return _running(_q)([[batch] for batches in steps for batch in batches], decay)


@check(
    cases=[(_steps(), 0.9), (_steps(), 0.3), (_steps(math.nan), 0.9)],
    hint="Which tokens does a step see, and how many? Compute q of the first step alone: it is s after that step.",
    reads=tensor,
    slips={
        "You counted padding as well; only real tokens count.": _running(
            lambda batches: torch.cat([x.flatten(0, 1) for x, _ in batches]).square().mean(dim=0)
        ),
        "You divided by the number of places, padding included; T counts real tokens.": (
            _running(lambda batches: _sum_with_mask(batches) / sum(mask.numel() for _, mask in batches)),
            _running(lambda batches: _joined(batches).square().sum(0) / sum(mask.numel() for _, mask in batches)),
        ),
        "Your padding is not gone: it holds NaN here, and 0 times NaN is NaN. Pick the real tokens; don't multiply by "
        "the mask.": _running(lambda batches: _sum_with_mask(batches) / sum(mask.sum() for _, mask in batches)),
        "You kept the padding and dropped the real tokens.": _running(
            lambda batches: torch.cat([x[~mask] for x, mask in batches]).square().mean(dim=0)
        ),
        "A mean of the batches' means lets a token of a short batch count more: take one mean over all real tokens of "
        "the step.": _running(
            lambda batches: torch.stack([x[mask].square().mean(dim=0) for x, mask in batches]).mean(dim=0)
        ),
        "You folded after each small batch; s moves once a step.": _each_small_batch,
        "You used the last small batch of each step alone.": _running(lambda batches: _q(batches[-1:])),
        "You used the first small batch of each step alone.": _running(lambda batches: _q(batches[:1])),
        "You swapped beta and 1 - beta.": lambda steps, decay: _running(_q)(steps, 1 - decay),
        "Your s starts at zero; the first q sets it.": _running(_q, start=0.0),
        "That is the q of the last step; s remembers the earlier ones as well.": lambda steps, decay: _q(steps[-1]),
        "That is the q of the first step; later ones move s.": lambda steps, decay: _q(steps[0]),
        "You averaged over all steps alike; a moving average forgets.": (
            lambda steps, decay: torch.stack([_q(batches) for batches in steps]).mean(dim=0),
            lambda steps, decay: _q([batch for batches in steps for batch in batches]),
        ),
        "These are sums of squares; divide by the number of real tokens.": _running(
            lambda batches: _joined(batches).square().sum(dim=0)
        ),
        "You averaged the inputs, not their squares.": _running(lambda batches: _joined(batches).mean(dim=0)),
        "You squared the mean; what is wanted is the mean of the squares.": _running(
            lambda batches: _joined(batches).mean(dim=0).square()
        ),
        "You took the root; s is a mean square.": (
            lambda steps, decay: _running(_q)(steps, decay).sqrt(),
            _running(lambda batches: _q(batches).sqrt()),
        ),
        "Your mean runs over the features: dimension 0 holds the tokens.": _running(
            lambda batches: _joined(batches).square().mean(dim=1)
        ),
        "Small batches differ in length, so they can't be joined as they are: pick the real tokens of each first, then "
        "join.": _running(lambda batches: torch.cat([x for x, _ in batches]).square().mean(dim=0)),
        "You averaged over the features; each feature keeps its own mean square.": _running(
            lambda batches: _joined(batches).square().mean()
        ),
        "Your decay does not change: make use of the argument.": lambda steps, decay: _running(_q)(steps, 0.9),
    },
)
def running_mean_square(steps: list[list[Batch]], decay: float) -> Tensor:
    """04: the moving average over steps of several small batches each, padding left out."""
    norms = InputNorms(steps[0][0][0].shape[-1])
    for batches in steps:
        for x, mask in batches:
            norms.add(x, mask.flatten().nonzero().squeeze(1))
        norms.fold(decay)
    return norms.mean_square
