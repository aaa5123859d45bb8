"""Answers to the exercises of 06 and 07: wrong ones with a part of what they are told, right ones of other forms."""

import math

import torch
from sklearn.metrics import matthews_corrcoef

from prilora_lite import LoRALinear
from prilora_lite import exercises as check


def lora(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def forgets_to_return(model):
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            found[name] = module


def freezes(model):
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data.zero_()
    return lora(model)


def replaces(model):
    found = lora(model)
    model[1] = model[1].base
    return found


def root(tp, tn, fp, fn):
    return math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


def nothing_for_zero(tp, tn, fp, fn):
    if root(tp, tn, fp, fn):
        return (tp * tn - fp * fn) / root(tp, tn, fp, fn)
    return None


def guarded(function):
    """0 instead of dividing by 0."""

    def matthews(*counts):
        try:
            return function(*counts)
        except ZeroDivisionError:
            return 0

    return matthews


WRONG = [
    (check.adapter_layers, lambda model: dict(model.named_modules()), "You took all modules"),
    (check.adapter_layers, lambda model: dict([next(iter(lora(model).items()))]), "return inside the loop"),
    (
        check.adapter_layers,
        lambda model: {n: m for n, m in model.named_children() if type(m) is LoRALinear},
        "one level",
    ),
    (
        check.adapter_layers,
        lambda model: {n: m for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, LoRALinear))},
        "plain linear layers as well",
    ),
    (
        check.adapter_layers,
        lambda model: {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)},
        "You took the plain linear layers",
    ),
    (check.adapter_layers, lambda model: {n: m for n, m in model.named_modules() if "lora" in n}, "You found none"),
    (check.adapter_layers, lambda model: list(lora(model).values()), "A dictionary from name to layer"),
    (check.adapter_layers, lambda model: list(lora(model)), "You return a list"),
    (
        check.adapter_layers,
        lambda model: {n: p for n, p in model.named_parameters() if "lora" in n},
        "These are the weights",
    ),
    (check.adapter_layers, lambda model: {n: m.rank for n, m in lora(model).items()}, "the layers themselves"),
    (check.adapter_layers, lambda model: dict.fromkeys(lora(model)), "the layers themselves; under '1' you have None"),
    (check.adapter_layers, lambda model: {m: n for n, m in lora(model).items()}, "swapped keys and values"),
    (check.adapter_layers, lambda model: dict(enumerate(lora(model).values())), "The keys should be the names"),
    (
        check.adapter_layers,
        lambda model: {n.split(".")[-1]: m for n, m in lora(model).items()},
        "has to lead to its layer",
    ),
    (check.adapter_layers, lambda model: len(lora(model)), "A dictionary from name to layer"),
    (check.adapter_layers, forgets_to_return, "is there a return"),
    (check.adapter_layers, freezes, "changes model"),
    (check.adapter_layers, replaces, "changes model"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero, "forgot the bits"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + total, "a byte holds eight bits"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + total // 8, "unfinished byte"),
    (check.packed_bytes, lambda total, nonzero: int(4 * nonzero + total / 8), "unfinished byte"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + total / 8, "no parts of a byte"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + total // 8 + 1, "fill their bytes exactly"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + math.ceil(nonzero / 8), "Every entry has a bit"),
    (check.packed_bytes, lambda total, nonzero: 32 * nonzero + total, "These are bits"),
    (check.packed_bytes, lambda total, nonzero: 4 * total + math.ceil(total / 8), "the full store"),
    (check.packed_bytes, lambda total, nonzero: 4 * (total - nonzero) + math.ceil(total / 8), "stored the zeros"),
    (check.packed_bytes, lambda total, nonzero: nonzero + math.ceil(total / 8), "4 bytes, not one"),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + round(total / 8), "Two parts|unfinished byte"),
    (check.packed_bytes, lambda total, nonzero: math.ceil((4 * nonzero + total) / 8), "Two parts"),
    (
        check.number_of_prunes,
        lambda rows, batch, epochs, n: epochs * -(-rows // batch) // n,
        "prune in the last step, which",
    ),
    (check.number_of_prunes, lambda rows, batch, epochs, n: -(-epochs * rows // batch // n), "into one another"),
    (
        check.number_of_prunes,
        lambda rows, batch, epochs, n: math.ceil(epochs * (rows // batch) / n),
        "short last batch",
    ),
    (
        check.number_of_prunes,
        lambda rows, batch, epochs, n: epochs * math.ceil(rows / batch) // n + 1,
        "last step twice",
    ),
    (
        check.number_of_prunes,
        lambda rows, batch, epochs, n: math.ceil(epochs * (rows // batch + 1) / n),
        "fill the epoch exactly",
    ),
    (check.number_of_prunes, lambda rows, batch, epochs, n: epochs * (rows // batch) // n, "and the prune in the last"),
    (check.number_of_prunes, lambda rows, batch, epochs, n: math.ceil(math.ceil(rows / batch) / n), "one epoch"),
    (
        check.number_of_prunes,
        lambda rows, b, epochs, n: epochs * math.ceil(math.ceil(rows / b) / n),
        "anew in each epoch",
    ),
    (check.number_of_prunes, lambda rows, batch, epochs, n: math.ceil(epochs * rows / n), "counted rows"),
    (check.number_of_prunes, lambda rows, batch, epochs, n: epochs * math.ceil(rows / batch), "number of steps"),
    (
        check.number_of_prunes,
        lambda rows, batch, epochs, n: epochs * math.ceil(rows / batch) / n,
        "no parts of a prune",
    ),
    (
        check.number_of_prunes,
        lambda rows, batch, epochs, n: round(epochs * math.ceil(rows / batch) / n),
        "to the nearest",
    ),
    (
        check.number_of_prunes,
        lambda rows, batch, epochs, n: epochs * math.ceil(rows / batch) % n,
        "write the steps down",
    ),
    (check.matthews, lambda tp, tn, fp, fn: (tp + tn) / (tp + tn + fp + fn), "accuracy"),
    (check.matthews, guarded(lambda tp, tn, fp, fn: 2 * tp / (2 * tp + fp + fn)), "F1"),
    (check.matthews, guarded(lambda tp, tn, fp, fn: tp / (tp + fp)), "precision"),
    (check.matthews, guarded(lambda tp, tn, fp, fn: tp / (tp + fn)), "recall"),
    (check.matthews, guarded(lambda *c: (c[0] * c[1] - c[2] * c[3]) / root(*c) ** 2), "forgot the root"),
    (check.matthews, guarded(lambda *c: (c[0] * c[1] + c[2] * c[3]) / root(*c)), "count against you"),
    (check.matthews, guarded(lambda *c: (c[2] * c[3] - c[0] * c[1]) / root(*c)), "sign is wrong"),
    (
        check.matthews,
        guarded(lambda tp, tn, fp, fn: (tp * tn - fp * fn) / ((tp + fp) * (tn + fn)) ** 0.5),
        "two of the four sums",
    ),
    (check.matthews, guarded(lambda *c: abs(c[0] * c[1] - c[2] * c[3]) / root(*c)), "worse than chance"),
    (check.matthews, guarded(lambda *c: 100 * (c[0] * c[1] - c[2] * c[3]) / root(*c)), "no percent"),
    (
        check.matthews,
        lambda *c: (c[0] * c[1] - c[2] * c[3]) / root(*c),
        "A constant answer makes the root 0(.|\n)*stopped with ZeroDivisionError",
    ),
    (check.matthews, nothing_for_zero, "is there a return"),
    (
        check.matthews,
        lambda tp, tn, fp, fn: (tp * tn - fp * fn) / root(tp, tn, fp, fn) if fp and fn else 0,
        "one kind of mistake",
    ),
    (
        check.matthews,
        lambda *c: (torch.tensor(c[0] * c[1] - c[2] * c[3]) / root(*c)).item(),
        "A constant answer makes the root 0",
    ),
    (check.matthews, lambda tp, tn, fp, fn: (tp * tn - fp * fn) / (root(tp, tn, fp, fn) + 1), "Write the four sums"),
    (
        check.matthews,
        guarded(lambda tp, tn, fp, fn: (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp)) ** 0.5),
        "Write the four sums",
    ),
]


RIGHT = [
    (check.adapter_layers, lambda model: dict(reversed(lora(model).items()))),
    (check.packed_bytes, lambda total, nonzero: 4 * nonzero + (total + 7) // 8),
    (check.packed_bytes, lambda total, nonzero: 4.0 * nonzero + math.ceil(total / 8)),
    (check.number_of_prunes, lambda rows, batch, epochs, n: -(-epochs * -(-rows // batch) // n)),
    (check.matthews, guarded(lambda tp, tn, fp, fn: (tp * tn - fp * fn) / root(tp, tn, fp, fn))),
    (
        check.matthews,
        lambda tp, tn, fp, fn: matthews_corrcoef(
            [1] * (tp + fn) + [0] * (tn + fp), [1] * tp + [0] * (fn + tn) + [1] * fp
        ),
    ),
]
