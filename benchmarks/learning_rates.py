"""Which learning rate suits an encoder: each method at several rates, LoRA for all that adapt as it does.

Run with ``python -m benchmarks.learning_rates``. Trained on the first four fifths of the training rows of each task,
judged on the last fifth: the validation rows that results are reported on stay unseen. One line of JSON per run;
started again, it goes on with the runs that are missing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd

from prilora_lite.experiments.device import pick_precision
from prilora_lite.experiments.environment import describe_environment
from prilora_lite.experiments.finetune import finetune
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.own_files import in_markdown
from prilora_lite.experiments.presets import settings_for
from prilora_lite.experiments.tasks import TASKS, load_rows
from prilora_lite.shared.records import append_record, read_records

RATES = {
    "pocket": {
        "head": (1e-3, 3e-3, 1e-2, 3e-2),
        "lora": (1e-3, 2e-3, 3e-3),
        "full": (1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3),
        "bitfit": (1e-3, 3e-3, 1e-2, 3e-2),
        "houlsby": (1e-3, 3e-3, 1e-2),
        "pfeiffer": (1e-3, 3e-3, 1e-2),
        "adalora": (2e-3, 5e-3, 1e-2, 2e-2),
    },
    "minilm": {
        "head": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        "lora": (5e-4, 1e-3, 2e-3),
        "full": (5e-5, 1e-4, 2e-4),
        "bitfit": (1e-3, 3e-3, 1e-2),
        "adalora": (1e-3, 3e-3, 1e-2),
    },
}
POCKET = [name for name, task in TASKS.items() if task.in_package]


def measure(
    output: Path,
    encoder: str,
    methods: list[str],
    tasks: list[str],
    seeds: list[int],
    epochs: float,
    rates: list[float] | None,
) -> None:
    """Make the runs that the output file does not hold yet."""
    environment = describe_environment(pick_precision(encoder=encoder))
    for seed, task, method in product(seeds, tasks, methods):
        rows = load_rows(task)["train"]
        cut = len(rows) * 4 // 5
        rows = {"train": rows.select(range(cut)), "validation": rows.select(range(cut, len(rows)))}
        for rate in rates or RATES[encoder][method]:
            key = [task, method, rate, seed]
            if known := [record for record in read_records(output) if record["key"] == key]:
                if known[0].get("epochs", epochs) != epochs:
                    raise SystemExit(f"{output} has {key} after {known[0]['epochs']} epochs: give another --output")
                continue
            settings = replace(settings_for(encoder, task), learning_rate=rate, epochs=epochs)
            result = finetune(
                task, METHODS[method].trains, encoder=encoder, rows=rows, settings=settings, seed=seed, progress=False
            )
            metric, value = next(iter(result.metrics.items()))
            record = dict(zip(("task", "method", "learning_rate", "seed"), key, strict=True))
            record |= {"encoder": encoder, "epochs": epochs, "metric": metric, "value": value}
            append_record(output, {"key": key, **record, "environment": environment})
            print(f"{task} {method} {rate:g}, seed {seed}: {metric} {value:.3f}", flush=True)


def table(output: Path) -> str:
    """Mean over seeds in Markdown: one row per method and rate, one column per task and one for the mean over tasks."""
    runs = pd.DataFrame(read_records(output))
    means = runs.pivot_table(index=["method", "learning_rate"], columns="task", values="value")
    lines = [["method", "rate", *means.columns, "mean"], ["---"] * (len(means.columns) + 3)]
    for (method, rate), values in means.iterrows():
        cells = [*values, values.mean(skipna=False)]
        lines.append([method, f"{rate:g}", *("-" if pd.isna(value) else f"{value:.3f}" for value in cells)])
    return in_markdown(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", default="pocket", choices=RATES)
    parser.add_argument(
        "--methods", nargs="+", default=None, choices={name for rates in RATES.values() for name in rates}
    )
    parser.add_argument("--tasks", nargs="+", default=POCKET, choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--rates", nargs="+", type=float, help="default: those of RATES")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    output = options.output or Path(f"results/{options.encoder}_learning_rates.jsonl")
    methods = options.methods or list(RATES[options.encoder])
    measure(output, options.encoder, methods, options.tasks, options.seeds, options.epochs, options.rates)
    print(table(output))
