"""What to know of runs before one compares them: their learning rates, and prunes that came too late."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.frames import named
from prilora_lite.experiments.methods import label_of
from prilora_lite.experiments.presets import settings_from

Named = list[tuple[dict[str, Any], str, str]]  # runs, each with its group and what its method is called there


def remarks(records: Iterable[dict[str, Any]]) -> str:
    """The learning rates of all methods and, where there are any, those that were pruned in their last step alone.

    Args:
        records: runs as :func:`~.study.ablate` returns them.

    Returns:
        Lines of 80 columns at most.
    """
    runs = named(records)
    parts = [*_learning_rates(runs), _pruned_too_late(runs)]
    return "\n".join(textwrap.fill(part, 80, break_on_hyphens=False) for part in parts if part)


def _learning_rates(runs: Named) -> list[str]:
    """Which methods of a group were trained at which learning rate: a table compares the rates as well."""
    groups: dict[str, dict[float, list[str]]] = {}
    for record, title, name in runs:
        labels = groups.setdefault(title, {}).setdefault(settings_from(record["settings"]).learning_rate, [])
        if label_of(name) not in labels:
            labels.append(label_of(name))
    lines = []
    for title, rates in groups.items():
        of_group = f" of {title}" if len(groups) > 1 else ""
        said = [f"{rate:g}: {', '.join(labels)}" for rate, labels in sorted(rates.items())]
        told = "; ".join(said) if len(rates) > 1 else f"{next(iter(rates)):g} for all"
        lines.append(f"learning rate{of_group} {told}")
    return lines


def _pruned_too_late(runs: Named) -> str:
    """Which methods had runs no longer than their interval: pruned in the last step alone, they could not recover."""
    late = {}
    for record, _, name in runs:
        prunes, steps = record.get("pruning") or [], record["steps"]
        if len(prunes) == 1 and isinstance(record["method"], dict):
            interval = record["method"].get("interval", PRILoRAConfig.interval)
            if prunes[0].get("step") == steps <= interval and interval > 1:
                late[f"{label_of(name)} on {record['task']} ({steps} steps, interval {interval})"] = None
    if not late:
        return ""
    return (
        f"Pruned only once, in the last step, with no step to recover: {', '.join(late)}. Train longer, or prune more "
        "often."
    )
