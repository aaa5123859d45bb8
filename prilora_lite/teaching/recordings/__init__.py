"""Runs recorded for the notebooks, which need more of them than a reader would wait for.

``prilora-lite record`` makes them again.

``layers``: which layers of pocket to adapt, and how to spread a budget over them, in the short run of 63 steps.
``layers_minilm``: the same in thirds on MiniLM with the rows of MRPC, two epochs.
``pruning``: pruning ratio and interval on ``pocket-rte``, one epoch, with loss and sparsity of each step and the masks
of one A.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from transformers import TrainerCallback

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.device import pick_precision
from prilora_lite.experiments.environment import describe_environment
from prilora_lite.experiments.finetune import Result, finetune
from prilora_lite.experiments.identity import method_as_json, same_run
from prilora_lite.experiments.presets import POCKET_SHORT, Settings, settings_for
from prilora_lite.lora import LoRALinear
from prilora_lite.shared.errors import unknown
from prilora_lite.shared.records import append_record, read_records

FOLDER = Path(__file__).parent
LORA = PRILoRAConfig.lora(8)
_SLOPES = {
    name: replace(LORA, first_rank=first, last_rank=last)
    for name, first, last in (("falling", 12, 4), ("flat", 8, 8), ("rising", 4, 12))
}
_HEAD = {"head only": "head"}
_THIN_TOP = {"top third, rank 1": replace(PRILoRAConfig.lora(1), layers=range(8, 12))}

RATIOS = (0.0, 0.25, 0.5, 0.75, 0.9)
INTERVALS = (5, 10, 20, 40, 125)  # the last: once, when training ends
PRUNING_SETTINGS = replace(settings_for("pocket", "pocket-rte"), epochs=1)
WATCHED = "encoder.layer.5.attention.self.query"  # whose masks are kept; pocket's layers are alike


@dataclass(frozen=True)
class Recipe:
    """One run to record: its name, and the method that :func:`~prilora_lite.experiments.finetune.finetune` is given."""

    name: str
    method: PRILoRAConfig | str
    task: str
    seed: int
    encoder: str
    settings: Settings
    trace: bool = False


class Watch(TrainerCallback):
    """Keeps which entries of each A are not zero after each step.

    Attributes:
        alive: one dictionary a step: name of the layer -> boolean (r, n).
    """

    def __init__(self) -> None:
        self.alive: list[dict[str, np.ndarray]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
        self.alive.append({name: (module.lora_A != 0).numpy(force=True) for name, module in adapted.items()})


def recipes(name: str) -> Iterator[Recipe]:
    """The runs of one recording.

    Raises:
        ValueError: no recording of that name.
    """
    if name == "layers":
        methods = {f"layer {layer}": replace(LORA, layers=(layer,)) for layer in range(12)}
        for seed, task in product(range(5), ("pocket-cola", "pocket-rte")):
            for label, method in (methods | _thirds(12) | _SLOPES | _HEAD | _THIN_TOP).items():
                settings = replace(settings_for("pocket", task, method), epochs=POCKET_SHORT.epochs)
                yield Recipe(label, method, task, seed, "pocket", settings)
    elif name == "layers_minilm":
        for seed, (label, method) in product(range(3), (_thirds(6) | _SLOPES | _HEAD).items()):
            settings = replace(settings_for("minilm", "mrpc"), epochs=2)  # one learning rate for all, the head too
            yield Recipe(label, method, "mrpc", seed, "minilm", settings)
    elif name == "pruning":
        for seed, ratio, interval in product(range(3), RATIOS, INTERVALS):
            if ratio or interval == INTERVALS[0]:  # without pruning there is no interval
                config, label = pruning_config(ratio, interval), f"{ratio:g} every {interval}"
                yield Recipe(label, config, "pocket-rte", seed, "pocket", PRUNING_SETTINGS, seed == 0)
    else:
        raise unknown("recording", name, RECORDINGS)


RECORDINGS = ("layers", "layers_minilm", "pruning")
STUDIES = ("minilm_glue", "pocket_grid")


def pruning_config(ratio: float, interval: int) -> PRILoRAConfig:
    """LoRA of rank 8 whose A is pruned: what ``pruning`` records and the train button trains."""
    return replace(LORA, ratio=ratio, interval=interval)


def record(name: str, *, folder: Path = FOLDER, rows: str | None = None) -> Iterator[str]:
    """Make the runs of a recording that its file does not hold yet, on the CPU; yields a line for each.

    Args:
        name: ``layers``, ``layers_minilm`` (wants the rows of GLUE's MRPC) or ``pruning``.
        folder: where ``name.jsonl`` goes.
        rows: see :func:`~prilora_lite.experiments.finetune.finetune`.
    """
    output = Path(folder) / f"{name}.jsonl"
    planned = list(recipes(name))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.open("ab").close()  # a place that can't be written to is better found before the first run
    for number, recipe in enumerate(planned, start=1):
        key = _key(recipe)
        if any(_same(run["key"]) == _same(key) for run in read_records(output)):
            continue
        watch = Watch()
        result = finetune(
            recipe.task, recipe.method, encoder=recipe.encoder, rows=rows, settings=recipe.settings,
            seed=recipe.seed, device="cpu", callbacks=[watch] if recipe.trace else [],
        )  # fmt: skip
        run = {
            "key": key,
            "name": recipe.name,
            "task": recipe.task,
            "seed": recipe.seed,
            "metrics": result.metrics,
            "adapter": result.counts.adapter,
            "adapter_nonzero": result.counts.adapter_nonzero,
            "environment": describe_environment(pick_precision("auto", recipe.encoder, "cpu"), "cpu"),
        }
        if recipe.trace:
            run["trace"] = _trace(result, watch.alive)
        append_record(output, run)
        metric, value = next(iter(result.metrics.items()))
        yield f"[{number}/{len(planned)}] {recipe.task} {recipe.name}, seed {recipe.seed}: {metric} {value:.3f}"


def load(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """A recording, one row per run: name, task, seed, counts, accuracy; of ``pruning`` also ratio and interval.

    Raises:
        ValueError: no recording of that name.
        FileNotFoundError: it is not there, or lacks a run; the message names the command that makes it.
    """
    runs = _runs(name, folder)
    columns = ("name", "task", "seed", "adapter", "adapter_nonzero")
    rows = []
    for run in runs:
        method = run["key"][4]
        pruning = {c: method[c] for c in ("ratio", "interval")} if name == "pruning" else {}
        rows.append({c: run[c] for c in columns} | pruning | {"accuracy": run["metrics"]["accuracy"]})
    return pd.DataFrame(rows)


def load_study(name: str) -> pd.DataFrame:
    """The runs of a study in the repository's ``results``, one row per run; the package has a copy of the table.

    Args:
        name: ``minilm_glue`` or ``pocket_grid``.

    Raises:
        ValueError: no study of that name.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return pd.read_csv(FOLDER / f"{name}.csv", comment="#")


def load_answers() -> pd.DataFrame:
    """The questions of the study in the repository's ``results``, one row a question: what the runs answer."""
    return pd.read_csv(FOLDER / "questions.csv")


def answer(question: str) -> str:
    """What the study says to one question: the contrast, the difference with its 95 % interval, the verdict.

    Where the same was asked again at each configuration's best learning rate, that answer follows.

    Raises:
        ValueError: no question of that name; the message has the nearest.
    """
    answers = load_answers().set_index("question")
    if question not in answers.index:
        raise unknown("question", question, list(answers.index))
    row = answers.loc[question]
    if pd.isna(row["difference"]):
        return f"{row['contrast']}\n  {row['verdict']}"
    size = f"{row['difference']:+.1f} points, 95 % interval {row['low']:.1f} to {row['high']:.1f}"
    where = f"{row['seeds']} seeds on {', '.join(row['tasks'].split())}"
    text = f"{row['contrast']}\n  {size}\n  {where}: {row['verdict']}"
    best = f"{question}, best rates"
    if best not in answers.index or pd.isna(answers.loc[best, "difference"]):
        return text
    row = answers.loc[best]
    size = f"{row['difference']:+.1f} ({row['low']:.1f} to {row['high']:.1f})"
    return f"{text}\n  at the best learning rates {size}: {row['verdict'].split(':')[0]}"


def load_allocation() -> pd.DataFrame:
    """Where AdaLoRA put its ranks in the stored runs: encoder, task, seed, layer, mean rank of its matrices."""
    return pd.read_csv(FOLDER / "allocation.csv")


def load_trace(ratio: float, interval: int, folder: Path = FOLDER) -> dict[str, Any]:
    """How one recorded run of ``pruning`` went, step by step: losses and sparsity; and for the step of each prune
    the mass that it removed, its churn and its mask (r, n).

    Raises:
        ValueError: that pair was not recorded; the message names those that were.
    """
    interval = interval if ratio else INTERVALS[0]
    for run in _runs("pruning", folder):
        if "trace" in run and (run["key"][4]["ratio"], run["key"][4]["interval"]) == (ratio, interval):
            trace = dict(run["trace"])
            trace["masks"] = {int(step): _unpack(bits, trace["shape"]) for step, bits in trace["masks"].items()}
            for name in ("mass", "churn"):
                trace[name] = {int(step): share for step, share in trace[name].items()}
            return trace
    raise ValueError(f"recorded are the ratios {RATIOS} and the intervals {INTERVALS}, not {ratio} every {interval}")


def _key(recipe: Recipe) -> list[Any]:
    """What makes two recorded runs the same one."""
    method = method_as_json(recipe.method)
    return [recipe.name, recipe.task, recipe.seed, recipe.encoder, method, asdict(recipe.settings)]


def _same(key: list[Any]) -> str:
    """Two keys name the same run if this is equal, as in a study's file."""
    return json.dumps([key[0], same_run(key[1:])])


def _runs(name: str, folder: Path) -> list[dict[str, Any]]:
    """The planned runs of a recording, in their order; what else the file may hold is left aside."""
    made = {_same(run["key"]): run for run in read_records(Path(folder) / f"{name}.jsonl")}
    keys = [_same(_key(recipe)) for recipe in recipes(name)]
    missing = [key for key in keys if key not in made]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(keys)} runs of the recording {name!r} are missing in {folder}: "
            f"make them with `prilora-lite record {name}`"
        )
    return [made[key] for key in keys]


def _trace(result: Result, alive: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """What :func:`load_trace` gives back, as plain values; masks as the hexadecimal digits of their bits."""
    flat = [np.concatenate([mask.ravel() for mask in step.values()]) for step in alive]
    prunes = [entry["step"] for entry in result.history]
    masks = {step: next(m for name, m in alive[step - 1].items() if name.endswith(WATCHED)) for step in prunes}
    return {
        "losses": [round(loss, 4) for loss in result.losses],
        "sparsity": [round(1 - float(step.mean()), 4) for step in flat],
        "mass": {entry["step"]: entry["mass"] for entry in result.history},
        "churn": {after: round(churn(flat[before - 1], flat[after - 1]), 4) for before, after in pairwise(prunes)},
        "shape": next((list(mask.shape) for mask in masks.values()), None),
        "masks": {step: np.packbits(mask).tobytes().hex() for step, mask in masks.items()},
    }


def churn(before: np.ndarray, after: np.ndarray) -> float:
    """Share of the zeros after a prune that the prune before had spared; both True where an entry is not zero."""
    return float((before & ~after).sum() / max(1, (~after).sum()))


def _unpack(bits: str, shape: list[int]) -> np.ndarray:
    packed = np.frombuffer(bytes.fromhex(bits), dtype=np.uint8)
    return np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)


def _thirds(num_layers: int) -> dict[str, PRILoRAConfig]:
    third = num_layers // 3
    parts = {"bottom third": 0, "middle third": third, "top third": 2 * third}
    return {name: replace(LORA, layers=range(start, start + third)) for name, start in parts.items()}
