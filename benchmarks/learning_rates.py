"""Which learning rate suits pocket: head only, LoRA and full fine-tuning, each at several rates.

Run with ``python -m benchmarks.learning_rates``. Trained on the first 1,600 training rows of each task, judged on
the other 400: the validation rows that results are reported on stay unseen. One line of JSON per run; started again, it
goes on with the runs that are missing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd

from prilora_lite.encoders import settings_for
from prilora_lite.study import METHODS, append_record, describe_environment, read_records
from prilora_lite.tasks import TASKS, load_rows
from prilora_lite.training import finetune, pick_precision

RATES = {"head": (1e-3, 3e-3, 1e-2, 3e-2), "lora": (1e-3, 2e-3, 3e-3), "full": (1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3)}
POCKET = [name for name, task in TASKS.items() if task.in_package]


def measure(output: Path, tasks: list[str], seeds: list[int]) -> None:
    """Make the runs that the output file does not hold yet."""
    environment = describe_environment(pick_precision(encoder="pocket"))
    for seed, task, method in product(seeds, tasks, RATES):
        rows = load_rows(task)["train"]
        rows = {"train": rows.select(range(1600)), "validation": rows.select(range(1600, 2000))}
        for rate in RATES[method]:
            key = [task, method, rate, seed]
            if any(record["key"] == key for record in read_records(output)):
                continue
            settings = replace(settings_for("pocket", task), learning_rate=rate)
            result = finetune(task, METHODS[method].trains, rows=rows, settings=settings, seed=seed, progress=False)
            metric, value = next(iter(result.metrics.items()))
            record = dict(zip(("task", "method", "learning_rate", "seed"), key, strict=True))
            append_record(output, {"key": key, **record, "metric": metric, "value": value, "environment": environment})
            print(f"{task} {method} {rate:g}, seed {seed}: {metric} {value:.3f}", flush=True)


def table(output: Path) -> pd.DataFrame:
    """Mean over seeds, one row per method and rate, one column per task and one for the mean over tasks."""
    runs = pd.DataFrame(read_records(output))
    means = runs.pivot_table(index=["method", "learning_rate"], columns="task", values="value")
    return means.assign(mean=means.mean(axis=1, skipna=False)).round(3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=POCKET, choices=POCKET)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--output", type=Path, default=Path("results/pocket_learning_rates.jsonl"))
    options = parser.parse_args()
    measure(options.output, options.tasks, options.seeds)
    print(table(options.output).to_string())
