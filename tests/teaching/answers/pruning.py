"""Answers to the exercises of 05: wrong ones with a part of what they are told, right ones of other forms."""

import torch

from prilora_lite import exercises as check
from prilora_lite import importance, keep_mask


def pruned(A, s, ratio, scope="row"):
    return A * keep_mask(importance(A, s), ratio, scope)


def when(due):
    return lambda A, s, step, interval, ratio: pruned(A, s, ratio) if due(step, interval) else A


def how(prune):
    return lambda A, s, step, interval, ratio: prune(A, s, ratio) if step % interval == 0 else A


def returns_nothing_between(A, s, step, interval, ratio):
    if step % interval == 0:
        return pruned(A, s, ratio)
    return None


def zeros_between(A, s, step, interval, ratio):
    return pruned(A, s, ratio) if step % interval == 0 else A * 0


def in_place(A, s, step, interval, ratio):
    if step % interval == 0:
        A[~keep_mask(importance(A, s), ratio)] = 0
    return A


def through_data(A, s, step, interval, ratio):
    if step % interval == 0:
        A.data.masked_fill_(~keep_mask(importance(A, s), ratio), 0)
    return A


def dead_before_the_step(optimizer, weight, alive):
    weight.data[~alive] = 0
    optimizer.step()


def dead_gradient_only(optimizer, weight, alive):
    weight.grad[~alive] = 0
    optimizer.step()


def dead_gradient_and_weight(optimizer, weight, alive):
    weight.data[~alive] = 0
    weight.grad[~alive] = 0
    optimizer.step()


def twice(optimizer, weight, alive):
    optimizer.step()
    optimizer.step()
    weight.data[~alive] = 0


def frozen(optimizer, weight, alive):
    weight.data[~alive] = 0


def wiped_gradient(optimizer, weight, alive):
    optimizer.zero_grad()
    optimizer.step()
    weight.data[~alive] = 0


def by_sign(optimizer, weight, alive):
    """What Adam does as long as the gradient does not change."""
    weight.data -= 0.1 * weight.grad.sign()
    weight.data[~alive] = 0


def marks_all_dead(optimizer, weight, alive):
    alive[:] = False
    weight.data[:] = 0


def zeroes_the_living(optimizer, weight, alive):
    optimizer.step()
    weight.data[alive] = 0


def all_zero(optimizer, weight, alive):
    optimizer.step()
    weight.data.zero_()


def only_steps(optimizer, weight, alive):
    optimizer.step()


def another_tensor(optimizer, weight, alive):
    optimizer.step()
    weight = weight * alive


def without_data(optimizer, weight, alive):
    optimizer.step()
    weight[~alive] = 0


def forgets_the_past(optimizer, weight, alive):
    optimizer.state.clear()
    optimizer.step()
    weight.data[~alive] = 0


def fixed_place(optimizer, weight, alive):
    optimizer.step()
    weight.data[1] = 0


WRONG = [
    (check.pruner_step, when(lambda step, N: True), "at every step"),
    (check.pruner_step, when(lambda step, N: False), "never prune"),
    (check.pruner_step, when(lambda step, N: (step + 1) % N == 0), "one step early"),
    (check.pruner_step, when(lambda step, N: step % N == 1), "one step late|it is time"),
    (check.pruner_step, when(lambda step, N: step == N), "You prune once"),
    (check.pruner_step, when(lambda step, N: step >= N), "Once the first interval is over"),
    (check.pruner_step, when(lambda step, N: step > N), "Once the first interval is over"),
    (check.pruner_step, when(lambda step, N: step % N), "when it is not time"),
    (check.pruner_step, when(lambda step, N: N % step == 0), "divided the interval by the step"),
    (check.pruner_step, when(lambda step, N: step // N), "Once the first interval is over"),
    (check.pruner_step, how(lambda A, s, ratio: A * keep_mask(A.abs(), ratio)), "size of the weights alone"),
    (check.pruner_step, how(lambda A, s, ratio: A * keep_mask(A.abs() * s, ratio)), "without its root"),
    (check.pruner_step, how(lambda A, s, ratio: A * keep_mask(A * s.sqrt(), ratio)), "Negative weights"),
    (check.pruner_step, how(lambda A, s, ratio: A * keep_mask(s.sqrt().expand_as(A), ratio)), "inputs alone"),
    (check.pruner_step, how(lambda A, s, ratio: A * keep_mask(A.abs() / s.sqrt(), ratio)), "which entries go"),
    (check.pruner_step, how(lambda A, s, ratio: A * ~keep_mask(importance(A, s), ratio)), "keep what should go"),
    (check.pruner_step, how(lambda A, s, ratio: pruned(A, s, ratio, "matrix")), "whole matrix"),
    (check.pruner_step, how(lambda A, s, ratio: keep_mask(importance(A, s), ratio)), "return the mask"),
    (check.pruner_step, how(lambda A, s, ratio: importance(A, s) * keep_mask(importance(A, s), ratio)), "the scores"),
    (check.pruner_step, how(lambda A, s, ratio: A.abs() * keep_mask(importance(A, s), ratio)), "lost their sign"),
    (check.pruner_step, how(lambda A, s, ratio: A[keep_mask(importance(A, s), ratio)]), "the survivors alone"),
    (check.pruner_step, how(lambda A, s, ratio: pruned(A, s, 0.5)), "always prune half"),
    (check.pruner_step, how(lambda A, s, ratio: pruned(A, s, 1 - ratio)), "You prune 1 - ratio"),
    (check.pruner_step, returns_nothing_between, "nothing comes back"),
    (check.pruner_step, zeros_between, "zeros come back"),
    (check.pruner_step, how(lambda A, s, ratio: pruned(A, s, ratio).float()), "of type torch.float64"),
    (check.pruner_step, in_place, "changes A, which"),
    (check.pruner_step, through_data, "changes A, which"),
    (check.pruner_step, lambda A, s, step, interval, ratio: None, "nothing comes back|is there a return"),
    (check.pruner_step, lambda A, s, step, interval, ratio: pruned(A, s, ratio).tolist(), "Return a torch tensor"),
    (check.pruner_step, lambda A, s, step, interval: A, "Keep the arguments of the stub"),
    (
        check.churn,
        lambda before, after: (before & ~after).sum().item() / (len(after) - after.sum().item()),
        "two masks",
    ),
    (check.churn, lambda before, after: ((before & ~after).sum() / (~before).sum()).item(), "zeros before the prune"),
    (check.churn, lambda before, after: ((before & ~after).sum() / before.sum()).item(), "who lived before"),
    (check.churn, lambda before, after: ((before & ~after).sum() / after.sum()).item(), "live after the prune"),
    (check.churn, lambda before, after: ((after & ~before).sum() / (~after).sum()).item(), "that came back"),
    (check.churn, lambda before, after: (before != after).float().mean().item(), "counted every change"),
    (check.churn, lambda before, after: (before ^ after).sum() / (~after).sum(), "counted every change"),
    (check.churn, lambda before, after: (before & ~after).float().mean().item(), "by all entries"),
    (check.churn, lambda before, after: (before & ~after).sum().item(), "the number of new zeros"),
    (check.churn, lambda before, after: (~before & ~after).sum() / (~after).sum(), "old zeros"),
    (check.churn, lambda before, after: 100 * (before & ~after).sum() / (~after).sum(), "no percent"),
    (check.churn, lambda before, after: (~after).float().mean(), "share of zeros in all"),
    (check.churn, lambda before, after: before & ~after, "a single share is asked for"),
    (check.churn, lambda before, after: 2 / 3, "the same whatever is asked"),
    (check.churn, lambda before, after: "two thirds", "not made of numbers"),
    (check.churn, lambda before, after: before.logical_not_().sum() / 3, "changes before"),
    (check.churn, lambda before, after: (before - after).sum() / (~after).sum(), "Count with the two masks"),
    (
        check.churn,
        lambda before, after: ((before.sum() - after.sum()) / (~after).sum()).item(),
        "Count with the two masks",
    ),
    (check.nonzero_share, lambda ratio, m, n: 1 - ratio, "You forgot B"),
    (check.nonzero_share, lambda ratio, m, n: 1 - ratio / 2, "not of the same size"),
    (check.nonzero_share, lambda ratio, m, n: (n + (1 - ratio) * m) / (n + m), "swapped m and n"),
    (check.nonzero_share, lambda ratio, m, n: ratio * n / (m + n), "share of zeros"),
    (check.nonzero_share, lambda ratio, m, n: (ratio * n + m) / (n + m), "the share that goes"),
    (check.nonzero_share, lambda ratio, m, n: (1 - ratio) * n / (n + m), "A alone"),
    (check.nonzero_share, lambda ratio, m, n: (1 - ratio) * n + m, "divide to get a share"),
    (check.nonzero_share, lambda ratio, m, n: 100 * ((1 - ratio) * n + m) / (n + m), "no percent"),
    (check.nonzero_share, lambda ratio, m, n: ((1 - ratio) * n + m) / (n * m), "frozen weight"),
    (check.nonzero_share, lambda ratio, m, n: 0.75, "the same whatever is asked"),
    (check.nonzero_share, lambda ratio, m, n: ((1 - ratio) * n + m) // (n + m), "the same whatever is asked"),
    (check.sparsify_for_good, dead_before_the_step, "and then the optimizer moves it"),
    (check.sparsify_for_good, dead_gradient_only, "although its gradient is 0"),
    (check.sparsify_for_good, dead_gradient_and_weight, "although its gradient is 0"),
    (check.sparsify_for_good, twice, "twice"),
    (check.sparsify_for_good, frozen, "living entries did not move"),
    (check.sparsify_for_good, wiped_gradient, "living entries did not move"),
    (check.sparsify_for_good, lambda optimizer, weight, alive: None, "living entries did not move"),
    (check.sparsify_for_good, by_sign, "where the optimizer would take them"),
    (check.sparsify_for_good, forgets_the_past, "with all that it remembers"),
    (check.sparsify_for_good, marks_all_dead, "changes alive"),
    (check.sparsify_for_good, zeroes_the_living, "zero the living"),
    (check.sparsify_for_good, all_zero, "All entries are 0"),
    (check.sparsify_for_good, only_steps, "nothing keeps the dead entry at 0"),
    (check.sparsify_for_good, another_tensor, "nothing keeps the dead entry at 0"),
    (check.sparsify_for_good, without_data, "through its .data(.|\n)*RuntimeError"),
    (check.sparsify_for_good, fixed_place, "living entries should end"),
]


def by_cases(A, s, step, interval, ratio):
    if step % interval:
        return A.clone()
    return torch.where(keep_mask(importance(A, s), ratio), A, 0.0)


def without_gradient(optimizer, weight, alive):
    optimizer.step()
    with torch.no_grad():
        weight.mul_(alive)


def all_around(optimizer, weight, alive):
    weight.grad *= alive
    optimizer.step()
    weight.data = torch.where(alive, weight.data, 0)


RIGHT = [
    (check.pruner_step, how(pruned)),
    (check.pruner_step, by_cases),
    (check.churn, lambda before, after: (before & ~after).sum() / (~after).sum()),
    (check.churn, lambda before, after: before[~after].float().mean().item()),
    (check.nonzero_share, lambda ratio, m, n: 1 - ratio * n / (n + m)),
    (check.sparsify_for_good, without_gradient),
    (check.sparsify_for_good, all_around),
]
