"""Answers to exercise 4.1: wrong ones with a part of what they are told, a right one of another form."""

import torch

from prilora_lite import exercises as check


def running(steps, decay, q_of_step):
    s = None
    for small in steps:
        q = q_of_step(small)
        s = q if s is None else decay * s + (1 - decay) * q
    return s


def real(small):
    return torch.cat([x[mask] for x, mask in small])


def padding_counted(steps, decay):
    return running(steps, decay, lambda small: torch.cat([x.flatten(0, 1) for x, _ in small]).square().mean(0))


def mean_of_means(steps, decay):
    return running(steps, decay, lambda small: torch.stack([x[mask].square().mean(0) for x, mask in small]).mean(0))


def decay_reversed(steps, decay):
    return running(steps, 1 - decay, lambda small: real(small).square().mean(0))


def multiplied(steps, decay):
    def q(small):
        total = sum((x * mask.unsqueeze(-1)).square().sum((0, 1)) for x, mask in small)
        return total / sum(mask.sum() for _, mask in small)

    return running(steps, decay, q)


def divided_by_places(steps, decay):
    return running(steps, decay, lambda s: real(s).square().sum(0) / sum(mask.numel() for _, mask in s))


def small_steps(steps, decay):
    return running([[batch] for small in steps for batch in small], decay, lambda small: real(small).square().mean(0))


def zero_at_first(steps, decay):
    s = torch.zeros(3)
    for small in steps:
        s = decay * s + (1 - decay) * real(small).square().mean(0)
    return s


def zeros_padding(steps, decay):
    for small in steps:
        for x, mask in small:
            x[~mask] = 0
    return running(steps, decay, lambda small: real(small).square().mean(0))


def stacked(steps, decay):
    def q(small):
        x, mask = torch.stack([x for x, _ in small]), torch.stack([mask for _, mask in small])
        return x[mask].square().mean(0)

    return running(steps, decay, q)


def all_of_them(steps, decay):
    s, found = None, []
    for small in steps:
        q = real(small).square().mean(0)
        s = q if s is None else decay * s + (1 - decay) * q
        found.append(s)
    return torch.stack(found)


def over_tokens(steps, decay):
    return running(steps, decay, lambda small: real(small).square().mean(dim=1))


def joined_first(steps, decay):
    def q(small):
        joined, real = torch.cat([x for x, _ in small]), torch.cat([mask for _, mask in small])
        return joined[real].square().mean(dim=0)

    return running(steps, decay, q)


WRONG = [
    (check.running_mean_square, over_tokens, "dimension 0 holds the tokens"),
    (check.running_mean_square, joined_first, "pick the real tokens of each first"),
    (check.running_mean_square, padding_counted, "counted padding"),
    (check.running_mean_square, mean_of_means, "mean of the batches' means"),
    (check.running_mean_square, decay_reversed, "swapped beta"),
    (check.running_mean_square, lambda steps, decay: decay_reversed(steps, 0.1), "make use of the argument"),
    (check.running_mean_square, multiplied, "0 times NaN is NaN"),
    (check.running_mean_square, divided_by_places, "number of places"),
    (check.running_mean_square, small_steps, "folded after each small batch"),
    (check.running_mean_square, zero_at_first, "starts at zero"),
    (check.running_mean_square, stacked, "can't be stacked"),
    (check.running_mean_square, zeros_padding, "changes steps"),
    (check.running_mean_square, all_of_them, r"expected the shape \(3,\), got the shape \(3, 3\)"),
    (check.running_mean_square, lambda steps, decay: real(steps[-1]).square().mean(0), "q of the last step"),
    (check.running_mean_square, lambda s, d: running(s, d, lambda b: real(b).square().sum(0)), "sums of squares"),
    (check.running_mean_square, lambda s, d: running(s, d, lambda b: real(b).square().mean()), "over the features"),
    (check.running_mean_square, lambda s, d: running(s, d, lambda b: real(b).mean(0)), "not their squares"),
    (check.running_mean_square, lambda s, d: running(s, d, lambda b: real(b).mean(0) ** 2), "squared the mean"),
    (check.running_mean_square, lambda s, d: running(s, d, lambda b: real(b).square().mean(0)).sqrt(), "took the root"),
    (
        check.running_mean_square,
        lambda s, d: running(s, d, lambda b: real(b[-1:]).square().mean(0)),
        "last small batch",
    ),
    (
        check.running_mean_square,
        lambda s, d: running(s, d, lambda b: real(b).norm(dim=0)),
        "Which tokens does a step see",
    ),
    (check.running_mean_square, lambda s, d: torch.cat([x for x, mask in s]), "too many values|Which tokens"),
]


def adding_up(steps, decay):
    s = None
    for small in steps:
        total, count = 0, 0
        for x, mask in small:
            total = total + torch.where(mask[..., None], x, 0).square().sum((0, 1))
            count += mask.sum().item()
        q = total / count
        s = q if s is None else s + (1 - decay) * (q - s)
    return s


RIGHT = [(check.running_mean_square, adding_up)]
