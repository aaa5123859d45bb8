"""Runs as ``ablate`` stores them, made up: for tests of what is read from them."""

import json
from dataclasses import asdict

from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.presets import settings_for
from prilora_lite.experiments.tasks import get_task


def stored(name="lora", seed=0, value=0.5, task="cola", *, method=None, encoder="pocket", settings=None, **parts):
    """A finished run; ``parts`` are parts of its key: precision, rows, weights, definition (of the task)."""
    trains = METHODS[name].trains if method is None else method
    trains = trains if isinstance(trains, str) else trains.to_dict()
    settings = asdict(settings_for(encoder, task, trains)) | (settings or {})
    last = [parts.get("precision", "fp32"), parts.get("rows", "0" * 16), parts.get("weights", "1" * 16)]
    definition = parts.get("definition", task)
    metrics = definition["metrics"] if isinstance(definition, dict) else get_task(task).metrics
    return {
        "key": [definition, seed, encoder, trains, settings, *last], "name": name,
        "encoder": encoder, "settings": settings, "task": task, "method": trains, "seed": seed,
        "metrics": {metrics[0]: value}, "curve": [], "pruning": [],
        "counts": {"adapter": 1000, "adapter_nonzero": 750, "head": 200, "head_nonzero": 200, "base": 9000},
        "steps": 4, "seconds_per_step": 0.25, "seconds": 1.0, "environment": {"precision": "fp32"},
    }  # fmt: skip


def write(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file
