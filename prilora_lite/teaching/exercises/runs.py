"""Checks of 06 and 07: the layers of a model, what a packed store takes, how often a run prunes, and its metric."""

from __future__ import annotations

import math
from typing import Any

import torch
from sklearn import metrics
from torch import nn

from prilora_lite.lora import LoRALinear
from prilora_lite.teaching.exercises.checking import check
from prilora_lite.teaching.exercises.reading import WrongAnswer, shown


def _model() -> nn.Module:
    """LoRA layers at the top, deeper, and below a plain linear layer's neighbour."""
    with torch.random.fork_rng(devices=[]):
        inner = nn.ModuleDict({"wide": LoRALinear(nn.Linear(2, 4), 2, scaling=1.0), "plain": nn.Linear(4, 2)})
        first, last = (LoRALinear(nn.Linear(3, n), 1, scaling=1.0) for n in (3, 2))
        return nn.Sequential(nn.Linear(3, 3), first, nn.Sequential(nn.ReLU(), inner), last)


def _names(layers: Any, model: nn.Module) -> str:
    """The names of a dictionary, once its values are seen to be what the model has under these names."""
    if layers is None:
        raise WrongAnswer("Nothing came back, only None: is there a return?")
    if not isinstance(layers, dict):
        raise WrongAnswer(f"A dictionary from name to layer is expected; got {shown(layers)}.")
    modules = dict(model.named_modules())
    for name, layer in layers.items():
        if not isinstance(name, str) or name not in modules:
            raise WrongAnswer(f"The keys should be the names that model.named_modules() gives; {shown(name)} is none.")
        if layer is not modules[name]:
            raise WrongAnswer(f"The values should be the layers themselves; under {name!r} you have {shown(layer)}.")
    return ", ".join(sorted(name or "the model itself" for name in layers))


def _named(model: nn.Module, kind: type | tuple[type, ...]) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


@check(
    cases=[(_model(),)],
    hint="Print the names and the types of all modules of a small model: which of them do you want?",
    reads=_names,
    slips={
        "You took all modules; only the LoRA layers are asked for.": lambda model: dict(model.named_modules()),
        "You looked one level deep; layers can sit inside other modules.": lambda model: {
            name: module for name, module in model.named_children() if isinstance(module, LoRALinear)
        },
        "You return inside the loop, after the first layer: what comes later is never looked at.": lambda model: dict(
            list(_named(model, LoRALinear).items())[:1]
        ),
        "You took plain linear layers as well, even those inside the LoRA layers.": lambda model: _named(
            model, (nn.Linear, LoRALinear)
        ),
        "You took the plain linear layers; LoRA's have a type of their own.": lambda model: _named(model, nn.Linear),
        "You found none: which type do you compare with?": lambda model: {},
        "You took the frozen layers inside; the LoRA layers around them are asked for.": lambda model: {
            name: module for name, module in model.named_modules() if name.endswith("base")
        },
        "You return a list; a dictionary from name to layer is expected.": (
            lambda model: list(_named(model, LoRALinear)),
            lambda model: list(_named(model, LoRALinear).items()),
        ),
        "You use the last part of each name alone; a name has to lead to its layer from the top.": lambda model: {
            name.split(".")[-1]: module for name, module in _named(model, LoRALinear).items()
        },
        "These are the weights; the layers that hold them are asked for.": lambda model: {
            name: weight for name, weight in model.named_parameters() if "lora" in name
        },
        "You swapped keys and values: a name leads to its layer.": lambda model: {
            module: name for name, module in _named(model, LoRALinear).items()
        },
    },
)
def adapter_layers(model: nn.Module) -> dict[str, nn.Module]:
    """06: every LoRALinear of a model, by name."""
    return _named(model, LoRALinear)


@check(
    cases=((1024, 512), (1000, 10), (1001, 10), (16, 0)),
    hint="Two parts: the values, and a bit for every entry. How many bytes does each take?",
    slips={
        "You forgot the bits that say where the values belong.": lambda total, nonzero: 4 * nonzero,
        "You counted a byte for each entry; a byte holds eight bits.": lambda total, nonzero: 4 * nonzero + total,
        "You cut off the last, unfinished byte of bits; it has to be stored as well.": lambda total, nonzero: (
            4 * nonzero + total // 8
        ),
        "There are no parts of a byte: round up.": lambda total, nonzero: 4 * nonzero + total / 8,
        "You add a byte even where the bits fill their bytes exactly.": lambda total, nonzero: (
            4 * nonzero + total // 8 + 1
        ),
        "Every entry has a bit, the zeros as well: that is how one knows where they are.": lambda total, nonzero: (
            4 * nonzero + math.ceil(nonzero / 8)
        ),
        "Bits are for all entries, not for the zeros alone.": lambda total, nonzero: (
            4 * nonzero + math.ceil((total - nonzero) / 8)
        ),
        "That is the full store, with its zeros; only the other values take 4 bytes.": (
            lambda total, nonzero: 4 * total,
            lambda total, nonzero: 4 * total + math.ceil(total / 8),
        ),
        "These are bits; 8 of them make a byte.": lambda total, nonzero: 32 * nonzero + total,
        "A value takes 4 bytes, not one.": lambda total, nonzero: nonzero + math.ceil(total / 8),
        "You stored the zeros; the other values are to be stored.": lambda total, nonzero: (
            4 * (total - nonzero) + math.ceil(total / 8)
        ),
        "That is a place of 4 bytes for each value; a bit for each entry takes less.": lambda total, nonzero: (
            8 * nonzero
        ),
    },
)
def packed_bytes(total: int, nonzero: int) -> int:
    """06: bytes of a store of the non-zero values and one bit for every entry."""
    return 4 * nonzero + math.ceil(total / 8)


@check(
    cases=(
        (9, 4, 3, 2),
        (2000, 16, 3, 40),
        (2000, 16, 1, 125),
        (8551, 32, 10, 40),
        (9, 4, 3, 1),
        (40, 4, 1, 30),
        (44, 4, 1, 3),
    ),
    hint="Take 9 rows in batches of 4 for 3 epochs, and write the steps down: which of them prune, if N is 2?",
    slips={
        "You left out the short last batch of each epoch: it is a step, too.": lambda rows, batch, epochs, N: math.ceil(
            epochs * (rows // batch) / N
        ),
        "You ran the epochs into one another; each ends with a short batch of its own.": (
            lambda rows, batch, epochs, N: math.ceil(math.ceil(epochs * rows / batch) / N),
            lambda rows, batch, epochs, N: math.ceil(epochs * rows / batch / N),
        ),
        "You left out the prune in the last step, which comes even where N does not divide it.": (
            lambda rows, batch, epochs, N: epochs * math.ceil(rows / batch) // N
        ),
        "You add a short batch even where the batches fill the epoch exactly.": lambda rows, batch, epochs, N: (
            math.ceil(epochs * (rows // batch + 1) / N)
        ),
        "You count the last step twice where N divides it: it is pruned once.": lambda rows, batch, epochs, N: (
            epochs * math.ceil(rows / batch) // N + 1
        ),
        "You left out short batches, and the prune in the last step.": (
            lambda rows, batch, epochs, N: epochs * (rows // batch) // N,
            lambda rows, batch, epochs, N: epochs * rows // batch // N,
        ),
        "That is one epoch; the run has more.": lambda rows, batch, epochs, N: math.ceil(math.ceil(rows / batch) / N),
        "You began to count the interval anew in each epoch; it runs through.": lambda rows, batch, epochs, N: (
            epochs * math.ceil(math.ceil(rows / batch) / N)
        ),
        "You counted rows; a step takes a batch of them.": lambda rows, batch, epochs, N: math.ceil(epochs * rows / N),
        "That is the number of steps; how many of them prune?": lambda rows, batch, epochs, N: (
            epochs * math.ceil(rows / batch)
        ),
        "There are no parts of a prune: which way do you round?": lambda rows, batch, epochs, N: (
            epochs * math.ceil(rows / batch) / N
        ),
        "You rounded the number of prunes to the nearest; think of the last step.": lambda rows, batch, epochs, N: (
            round(epochs * math.ceil(rows / batch) / N)
        ),
    },
)
def number_of_prunes(rows: int, batch_size: int, epochs: int, interval: int) -> int:
    """07: prunes of a run: one every N steps, and one in the last."""
    return math.ceil(epochs * math.ceil(rows / batch_size) / interval)


def _sums(tp: int, tn: int, fp: int, fn: int) -> int:
    return (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


@check(
    cases=((6, 2, 3, 1), (1, 7, 2, 4), (5, 3, 2, 0), (3, 5, 0, 2), (1, 1, 5, 5), (3, 3, 3, 3), (4, 4, 0, 0),
           (9, 0, 2, 0), (0, 5, 3, 0), (0, 0, 3, 4)),
    hint="Write the four sums below the root one by one, for tp = 6, tn = 2, fp = 3, fn = 1.",
    slips={
        "That is the accuracy, the share of right answers.": lambda tp, tn, fp, fn: (tp + tn) / (tp + tn + fp + fn),
        "That is F1, which takes no notice of tn.": lambda tp, tn, fp, fn: _over(2 * tp, 2 * tp + fp + fn),
        "That is the precision.": lambda tp, tn, fp, fn: _over(tp, tp + fp),
        "That is the recall.": lambda tp, tn, fp, fn: _over(tp, tp + fn),
        "You forgot the root below.": lambda tp, tn, fp, fn: _over(tp * tn - fp * fn, _sums(tp, tn, fp, fn)),
        "You add the wrong answers; they count against you.": lambda tp, tn, fp, fn: _over(
            tp * tn + fp * fn, _sums(tp, tn, fp, fn) ** 0.5
        ),
        "Your sign is wrong: right answers count for you.": lambda tp, tn, fp, fn: _over(
            fp * fn - tp * tn, _sums(tp, tn, fp, fn) ** 0.5
        ),
        "Below the root the four sums are multiplied, not added.": lambda tp, tn, fp, fn: _over(
            tp * tn - fp * fn, (2 * (tp + tn + fp + fn)) ** 0.5
        ),
        "You left two of the four sums out.": (
            lambda tp, tn, fp, fn: _over(tp * tn - fp * fn, ((tp + fp) * (tn + fn)) ** 0.5),
            lambda tp, tn, fp, fn: _over(tp * tn - fp * fn, ((tp + fn) * (tn + fp)) ** 0.5),
            lambda tp, tn, fp, fn: _over(tp * tn - fp * fn, (tp + fp) * (tn + fn)),
        ),
        "An answer can be worse than chance: the correlation then lies below 0.": (
            lambda tp, tn, fp, fn: max(0.0, _over(tp * tn - fp * fn, _sums(tp, tn, fp, fn) ** 0.5)),
            lambda tp, tn, fp, fn: abs(_over(tp * tn - fp * fn, _sums(tp, tn, fp, fn) ** 0.5)),
        ),
        "It lies between -1 and 1: no percent.": lambda tp, tn, fp, fn: 100
        * _over(tp * tn - fp * fn, _sums(tp, tn, fp, fn) ** 0.5),
        "A constant answer makes the root 0, and you divide by it: the text says what the result is then.": (
            lambda tp, tn, fp, fn: (tp * tn - fp * fn) / _sums(tp, tn, fp, fn) ** 0.5,
            lambda tp, tn, fp, fn: _over(tp * tn - fp * fn, _sums(tp, tn, fp, fn) ** 0.5)
            if _sums(tp, tn, fp, fn)
            else math.nan,
            lambda tp, tn, fp, fn: (tp * tn - fp * fn) / _sums(tp, tn, fp, fn),
        ),
        "You give 0 wherever one kind of mistake is missing; only a root of 0 calls for that.": lambda tp, tn, fp, fn: (
            (tp * tn - fp * fn) / _sums(tp, tn, fp, fn) ** 0.5 if fp and fn else 0.0
        ),
    },
)  # fmt: skip
def matthews(tp: int, tn: int, fp: int, fn: int) -> float:
    """07: Matthews correlation from the counts of right and wrong answers."""
    labels, given = [1] * (tp + fn) + [0] * (tn + fp), [1] * tp + [0] * fn + [0] * tn + [1] * fp
    return metrics.matthews_corrcoef(labels, given)
