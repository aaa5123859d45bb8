"""What to know of runs before one compares them: their learning rates, and prunes that came too late."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any


def remarks(records: Iterable[dict[str, Any]]) -> str:
    """The learning rates of all methods and, where there are any, those that were pruned in their last step alone.

    Args:
        records: runs as :func:`~.study.ablate` returns them.

    Returns:
        Lines of 80 columns at most.
    """
    records = list(records)
    parts = _learning_rates(records), _pruned_too_late(records)
    return "\n".join(textwrap.fill(part, 80) for part in parts if part)


def _learning_rates(records: list[dict[str, Any]]) -> str:
    """Which methods were trained at which learning rate: a table compares the rates as well."""
    by_rate: dict[float, list[str]] = {}
    for record in records:
        names = by_rate.setdefault(record["settings"]["learning_rate"], [])
        if record["name"] not in names:
            names.append(record["name"])
    if len(by_rate) == 1:
        return f"learning rate {next(iter(by_rate)):g} for all"
    return "learning rate " + "; ".join(f"{rate:g}: {', '.join(names)}" for rate, names in sorted(by_rate.items()))


def _pruned_too_late(records: list[dict[str, Any]]) -> str:
    """Which methods had runs shorter than their interval: pruned in the last step alone, they could not recover."""
    late = {}
    for record in records:
        prunes, steps = record.get("pruning") or [], record["steps"]
        if len(prunes) == 1 and prunes[0]["step"] == steps < record["method"]["interval"]:
            late[record["name"]] = f"{steps} steps, interval {record['method']['interval']}"
    said = ", ".join(f"{name} ({why})" for name, why in late.items())
    return said and (
        f"Pruned only once, in the last step, with no step to recover: {said}. Train longer, or prune more often."
    )
