"""Published results, to hold a run of the paper's setting against."""

from __future__ import annotations

import textwrap

import pandas as pd

from prilora_lite.experiments.methods import METHODS

SOURCE = "Zhang et al. 2023 (AdaLoRA, arXiv 2303.10512), Table 1: DeBERTaV3-base, means of 5 seeds"
TASKS = ("mnli", "mnli-mm", "sst2", "cola", "qqp", "qqp-f1", "qnli", "rte", "mrpc", "stsb")

# Percent, on GLUE's development sets: MNLI matched and mismatched, QQP accuracy and F1, CoLA Matthews, STS-B the mean
# of Pearson and Spearman, accuracy for the rest. PRILoRA's own row is not in that table.
RESULTS = {
    method: dict(zip(TASKS, values, strict=True))
    for method, values in {
        "full": (89.90, 90.12, 95.63, 69.19, 92.40, 89.80, 94.03, 83.75, 89.46, 91.60),
        "bitfit": (89.37, 89.91, 94.84, 66.96, 88.41, 84.95, 92.24, 78.70, 87.75, 91.35),
        "houlsby": (90.13, 90.17, 95.53, 68.64, 91.91, 89.27, 94.11, 84.48, 89.95, 91.48),
        "pfeiffer": (90.33, 90.39, 95.61, 68.77, 92.04, 89.40, 94.29, 85.20, 89.46, 91.54),
        "lora": (90.65, 90.69, 94.95, 69.82, 91.99, 89.38, 93.87, 85.20, 89.95, 91.60),
        "adalora": (90.76, 90.79, 96.10, 71.45, 92.23, 89.74, 94.55, 88.09, 90.69, 91.84),
    }.items()
}


def table(runs: pd.DataFrame) -> str:
    """Published results on the tasks of runs with the paper's encoder, for a terminal; empty for other encoders."""
    tasks = [task for task in TASKS if task.partition("-")[0] in set(runs["task"])]
    if set(runs["encoder"]) != {"paper"} or not tasks:
        return ""
    lines = [f"{'published, %':<24}" + "".join(f"{task:>10}" for task in tasks)]
    for method, results in RESULTS.items():
        lines.append(f"  {METHODS[method].label:<22}" + "".join(f"{results[task]:>10.2f}" for task in tasks))
    return "\n".join([*lines, *textwrap.wrap(SOURCE, 80)])
