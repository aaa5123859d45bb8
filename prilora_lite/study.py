"""The ablation: methods x tasks x seeds, one JSON line per finished run, and the table they make."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset

from prilora_lite.config import PRILoRAConfig
from prilora_lite.encoders import Settings, settings_for
from prilora_lite.errors import unknown
from prilora_lite.tasks import get_task, load_rows
from prilora_lite.training import finetune, pick_device, pick_precision, result_record


@dataclass(frozen=True)
class Method:
    """A named method of the ablation: what is trained, how tables call it, and its share of the settings' alpha."""

    name: str
    trains: str | PRILoRAConfig
    label: str
    alpha_share: float = 1.0


_LORA = PRILoRAConfig(first_rank=8, last_rank=8, ratio=0.0)

# Equal budgets: ranks 4..12 over the layers cost what rank 8 costs everywhere.
METHODS = {
    method.name: method
    for method in (
        Method("head", "head", "head only"),
        Method("lora", _LORA, "LoRA (r = 8)"),
        Method("ranks", PRILoRAConfig(ratio=0.0), "ranks only (4..12)"),
        Method("pruning", PRILoRAConfig(first_rank=8, last_rank=8), "pruning only (r = 8)"),
        Method("prilora", PRILoRAConfig(), "PRILoRA (4..12, pruned)"),
        Method("prilora_layer", PRILoRAConfig(scaling="layer"), "PRILoRA, alpha / r_l"),
        Method("full", "full", "full fine-tuning"),
        Method("bitfit", "bitfit", "BitFit (biases)"),
        Method("houlsby", "houlsby", "adapter (Houlsby)"),
        Method("pfeiffer", "pfeiffer", "adapter (Pfeiffer)"),
        Method("adalora", "adalora", "AdaLoRA (r 12 to 8)"),
    )
}

# One knob turned far: a rank of one, with LoRA's rule s = alpha / r and with the s of rank 8; four layers of twelve
# alone; hardly any of A left.
_ONE = replace(_LORA, first_rank=1, last_rank=1)
CONTRASTS = {
    method.name: method
    for method in (
        Method("lora_r1", _ONE, "LoRA, r = 1, s = alpha"),
        Method("lora_r1_same_s", _ONE, "LoRA, r = 1, s of r = 8", alpha_share=1 / 8),
        Method("lora_bottom", replace(_LORA, layers=range(4)), "LoRA, layers 0 to 3"),
        Method("lora_top", replace(_LORA, layers=range(8, 12)), "LoRA, layers 8 to 11"),
        Method("pruning_95", replace(_LORA, ratio=0.95), "LoRA, 95 % of A pruned"),
    )
}
METHODS |= CONTRASTS


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    method: str
    task: str
    seed: int


def grid(methods: Iterable[str], tasks: Iterable[str], seeds: Iterable[int]) -> list[Run]:
    """All runs, each once, seed by seed, so that a study cut short has whole comparisons.

    Raises:
        ValueError: an unknown method or task; the nearest name is given.
    """
    methods, tasks, seeds = dict.fromkeys(methods), dict.fromkeys(tasks), dict.fromkeys(seeds)
    for name in methods:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    for name in tasks:
        get_task(name)
    return [Run(method, task, seed) for seed, task, method in product(seeds, tasks, methods)]


def ablate(
    runs: Iterable[Run],
    output: str | Path,
    *,
    encoder: str = "pocket",
    rows: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    precision: str = "auto",
    device: str | None = None,
    progress: bool = True,
    on_run: Callable[[int, int, Run, dict[str, Any] | None], None] | None = None,
) -> list[dict[str, Any]]:
    """Make the runs that the output file does not hold yet, and append one JSON line for each.

    Args:
        runs: the grid.
        output: the file of JSON lines; runs with the same method, task, rows, seed, encoder, settings and precision
            are not repeated.
        encoder, rows, precision, device, progress: see :func:`~.training.finetune`.
        overrides: settings to change for all runs, such as ``{"epochs": 1}``.
        on_run: called with number, count, run and its record before each run (record None) and after it.

    Returns:
        The records of all the runs, those made earlier too.
    """
    runs, encoder, output = list(runs), str(encoder), Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.open("ab").close()  # a place that can't be written to is better found before the first run
    environment = describe_environment(pick_precision(precision, encoder, device), device)
    data = {task: load_rows(task, rows) for task in dict.fromkeys(run.task for run in runs)}
    digests = {task: rows_digest(splits) for task, splits in data.items()}
    records = []
    for number, run in enumerate(runs, start=1):
        settings, trains = _settle(run, encoder, overrides or {})
        key = run_key(run, encoder, settings, trains, environment["precision"], digests[run.task])
        record = next((r for r in read_records(output) if r["key"] == key), None)
        if record is None:
            if on_run:
                on_run(number, len(runs), run, None)
            started = time.time()
            result = finetune(
                run.task, trains, encoder=encoder, rows=data[run.task], settings=settings, seed=run.seed,
                precision=precision, device=device, progress=progress,
            )  # fmt: skip
            record = {
                "key": key,
                "name": run.method,
                "encoder": encoder,
                "settings": asdict(settings),
                **result_record(result),
                "seconds": round(time.time() - started, 1),
                "environment": environment,
            }
            append_record(output, record)
        if on_run:
            on_run(number, len(runs), run, record)
        records.append(record)
    return records


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """All whole lines of a file of runs. A last line that was cut off (the process was killed) does not count."""
    path = Path(path)
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is no JSON ({error}); mend or remove that line") from error
        if not isinstance(record, dict) or "key" not in record:
            raise ValueError(f"{path}, line {number} is no run of this study; name another file")
        records.append(record)
    return records


def to_dataframe(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per run: encoder, task, method, seed, the main metric (name and value), counts and times."""
    rows = []
    for record in records:
        metric, value = next(iter(record["metrics"].items()))
        rows.append(
            {
                "encoder": record["encoder"], "task": record["task"], "method": record["name"],
                "seed": record["seed"], "metric": metric, "value": value, **record["counts"],
                "steps": record["steps"], "epochs": record["settings"]["epochs"],
                "learning_rate": record["settings"]["learning_rate"],
                "seconds_per_step": record["seconds_per_step"], "seconds": record["seconds"],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per task and method: mean and standard deviation of the metric over seeds, counts, seconds per step.

    The deviation is that of a sample (n - 1); with one seed there is none.
    """
    order = {name: i for i, name in enumerate(METHODS)}
    groups = runs.groupby(["task", "method", "metric"], sort=False)
    table = groups.agg(
        seeds=("seed", "nunique"),
        mean=("value", "mean"),
        sd=("value", "std"),
        adapter=("adapter", "first"),
        adapter_nonzero=("adapter_nonzero", "median"),
        head=("head", "first"),
        head_nonzero=("head_nonzero", "median"),
        seconds_per_step=("seconds_per_step", "median"),
    ).reset_index()
    table = table.astype({"adapter_nonzero": int, "head_nonzero": int})
    return table.sort_values(
        ["task", "method"], key=lambda c: c.map(order) if c.name == "method" else c, kind="stable", ignore_index=True
    )


def write_csv(runs: pd.DataFrame, records: Iterable[dict[str, Any]], path: str | Path) -> None:
    """The runs as CSV, below comment lines (#) that say on what they were measured."""
    environments = {json.dumps(record["environment"]): record["environment"] for record in records}
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for environment in environments.values():
            file.write("# " + ", ".join(f"{name} {value}" for name, value in environment.items()) + "\n")
        runs.to_csv(file, index=False, lineterminator="\n")


def format_table(summary: pd.DataFrame) -> str:
    """The summary for a terminal 80 columns wide: metrics in percent, parameters in thousands."""
    lines = [f"{'':<38} {'trainable':>14} {'non-zero':>14}"]
    task = None
    for row in summary.itertuples():
        if row.task != task:
            task, title = row.task, f"{row.task}, {row.metric} %"
            lines.append(f"{title:<38} {'adapter':>7}{'head':>7} {'adapter':>7}{'head':>7}{'s/step':>7}")
        label = METHODS[row.method].label if row.method in METHODS else row.method
        sd = "" if pd.isna(row.sd) else f" ({100 * row.sd:.1f})"
        counts = [_thousands(n) for n in (row.adapter, row.head, row.adapter_nonzero, row.head_nonzero)]
        lines.append(
            f"  {label:<24}{f'{100 * row.mean:.1f}{sd}':>12} "
            f"{counts[0]:>7}{counts[1]:>7} {counts[2]:>7}{counts[3]:>7}{row.seconds_per_step:>7.3f}"
        )
    seeds = sorted(set(summary.seeds))
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    lines.append(f"mean (standard deviation) over {count} seed{'s' if seeds[-1] > 1 else ''}; parameters in thousands")
    if "full" in set(summary.method):
        lines.append("head: pooler and classifier; of full fine-tuning all weights")
    return "\n".join(lines)


def describe_environment(precision: str = "auto", device: str | None = None) -> dict[str, str]:
    """Versions, machine and arithmetic that a figure was measured with."""
    place = pick_device(device)
    machine = torch.cuda.get_device_name() if place == "cuda" else f"{_processor()}, {os.cpu_count()} cores"
    packages = ("prilora-lite", "torch", "transformers", "datasets", "accelerate")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": place,
        "machine": machine,
        "precision": pick_precision(precision, device=device),
    }


def run_key(
    run: Run, encoder: str, settings: Settings, trains: str | PRILoRAConfig, precision: str, rows: str
) -> list[Any]:
    """What makes two runs the same one: task, seed, encoder, method as configured, settings, precision and rows."""
    method = trains if isinstance(trains, str) else trains.to_dict()
    return [run.task, run.seed, encoder, method, asdict(settings), precision, rows]


def rows_digest(rows: dict[str, Dataset]) -> str:
    """A short hash of all texts and labels, so that a run on a sample is not taken for one on all rows."""
    digest = hashlib.sha256()
    for split in sorted(rows):
        for column in sorted(set(rows[split].column_names) - {"idx"}):
            digest.update(json.dumps([split, column, list(rows[split][column])]).encode())
    return digest.hexdigest()[:16]


def _settle(run: Run, encoder: str, overrides: dict[str, Any]) -> tuple[Settings, str | PRILoRAConfig]:
    """The settings and configuration that a run has once preset, method and overrides are laid over one another."""
    method = METHODS[run.method]
    settings = replace(settings_for(encoder, run.task, method.trains), **overrides)
    trains = method.trains
    return settings, trains if isinstance(trains, str) else replace(trains, alpha=settings.alpha * method.alpha_share)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, among threads and processes of one machine."""
    lock = path.with_name(path.name + ".lock")
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except (FileExistsError, PermissionError) as error:  # the second: Windows, while another process removes it
            if isinstance(error, PermissionError) and os.name != "nt":
                raise
            with suppress(OSError):  # it may go between the two looks
                if time.time() - lock.stat().st_mtime > 30:  # its writer is dead: writing takes milliseconds
                    lock.unlink(missing_ok=True)
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one line; a line cut off by an earlier crash is removed first."""
    with _locked(path), path.open("ab+") as file:
        file.seek(0)
        whole = file.read()
        if whole and not whole.endswith(b"\n"):
            tail = whole[whole.rfind(b"\n") + 1 :]
            try:
                json.loads(tail)
                file.write(b"\n")  # whole, only its end of line is missing
            except ValueError:
                file.truncate(len(whole) - len(tail))
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _thousands(count: int) -> str:
    return f"{count / 1000:,.0f}" if count < 10_000_000 else f"{count / 1e6:,.0f}M"
