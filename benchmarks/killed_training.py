"""Does one run survive being killed? SIGKILL at random moments of training and of saving, resumed each time.

Run with ``python -m benchmarks.killed_training --kills 50 --output results/killed_training.json`` (POSIX; some five
minutes on two CPU cores). It fails if the resumed run is not the undisturbed one bit for bit, or a file was half
written where a whole one is expected. The processes are forked from one that has loaded torch: a kill takes seconds.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import TrainerCallback

from benchmarks.killed_study import publish
from prilora_lite import (
    PRILoRAConfig,
    adapt,
    checkpoint,
    finetune,
    latest_checkpoint,
    load_adapter,
    load_encoder,
    save_adapter,
)
from prilora_lite.experiments import finetune as library
from prilora_lite.experiments.loop import GlueTrainer
from prilora_lite.experiments.presets import settings_for
from prilora_lite.experiments.tasks import get_task
from prilora_lite.shared.files import write_whole

STEP, SAVING, SAVE_SECONDS = range(3)  # places in what a run tells while it is under way
ESSENCE = ("metrics", "curve", "pruning", "counts", "steps")  # what a kill must not change, beside the adapter


class _Tell(TrainerCallback):
    """Writes the step into shared memory."""

    def __init__(self, told: Any) -> None:
        self.told = told

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.told[STEP] = state.global_step

    on_step_end = on_train_begin


def _telling(save: Callable[..., Any], told: Any) -> Callable[..., Any]:
    """The same function, with the time from its start to its end marked as saving."""

    @functools.wraps(save)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        told[SAVING], started = 1, time.perf_counter()
        try:
            return save(*args, **kwargs)
        finally:
            seconds = time.perf_counter() - started
            told[SAVING], told[SAVE_SECONDS] = 0, min(seconds, told[SAVE_SECONDS] or seconds)

    return wrapped


def train(options: dict[str, Any], folder: Path, told: Any) -> None:
    """Make a run, or go on with it; in a process of its own."""
    GlueTrainer._save_checkpoint = _telling(GlueTrainer._save_checkpoint, told)
    library.try_to_save = _telling(library.try_to_save, told)
    result = finetune(
        **options, output_dir=folder, resume=True, device="cpu", precision="fp32", progress=False,
        callbacks=[_Tell(told)],
    )  # fmt: skip
    write_whole(folder / "result.json", json.dumps(library.result_record(result)).encode())


def save_for_ever(options: dict[str, Any], path: Path, told: Any) -> None:
    """Save one adapter over another, each with all its weights equal to the number of the save."""
    model, _ = load_encoder(options["encoder"], get_task(options["task"]))
    adapt(model, PRILoRAConfig())
    checkpoint.write_whole = _telling(checkpoint.write_whole, told)
    first = int(next(iter(load_file(path).values())).flatten()[0]) + 1 if path.exists() else 0
    for number in range(first, 1 << 24):  # float32 holds these
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.fill_(number)
        save_adapter(model, path)
        told[STEP] += 1


def _start(work: Callable[..., None], options: dict[str, Any], place: Path) -> tuple[Any, Any]:
    context = get_context("forkserver")
    context.set_forkserver_preload(["prilora_lite.experiments.finetune"])
    told = context.RawArray("d", 3)
    told[STEP] = -1
    process = context.Process(target=work, args=(options, place, told))
    process.start()
    return process, told


def _finish(process: Any) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the run ended with {process.exitcode}")


def _kill(process: Any, told: Any, step: int, saving: bool, seconds: float) -> None:
    """Kill a process so many seconds after it has come to a step, or to the next save from there."""
    while process.is_alive() and not (told[STEP] >= step and (told[SAVING] or not saving)):
        time.sleep(0.0005)
    time.sleep(seconds)
    if not process.is_alive():
        raise RuntimeError(f"the process was over before it was killed, with {process.exitcode}: make it longer")
    process.kill()
    process.join()


def outcome(folder: Path) -> list[Any]:
    """What a kill must not change: the results, and the adapter's bytes."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return [*(result[name] for name in ESSENCE), (folder / "adapter.safetensors").read_bytes()]


def compare(options: dict[str, Any], folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """One run undisturbed, one killed and resumed again and again; what came of both.

    The kills are spread over the steps: before each, so many steps are waited for, then half of the times the next
    save, then a random share of what a step or a save takes.

    Args:
        options: of :func:`~prilora_lite.finetune`: encoder, task, rows, settings, method, save_steps.
        folder: where both write.
        kills: how often the second is killed; fewer than the run has steps.
        seed: of the moments.

    Returns:
        ``kills``, ``killed_at_steps``, ``in_saving``: how many of them while a checkpoint was written,
        ``half_written``: how many left one that is passed over, ``resumed_from_steps``, ``steps``, and ``equal``.
    """
    moments, undisturbed, killed = random.Random(seed), folder / "undisturbed", folder / "killed"
    process, told = _start(train, options, undisturbed)
    _finish(process)
    result = json.loads((undisturbed / "result.json").read_text(encoding="utf-8"))
    steps, step_seconds, save_seconds = result["steps"], result["seconds_per_step"], told[SAVE_SECONDS]
    at, resumed, in_saving, half_written = [], [], 0, 0
    for kill in tqdm(range(kills), desc="kill", leave=False):
        process, told = _start(train, options, killed)
        saving = moments.random() < 0.5
        seconds = moments.random() * (save_seconds if saving else step_seconds)
        _kill(process, told, kill * steps // (kills + 1), saving, seconds)
        at.append(int(told[STEP]))
        in_saving += bool(told[SAVING])
        whole = latest_checkpoint(killed)
        newest = max((int(path.name.partition("-")[2]) for path in killed.glob("checkpoint-*")), default=0)
        resumed.append(0 if whole is None else int(whole.name.partition("-")[2]))
        half_written += newest > resumed[-1]
    _finish(_start(train, options, killed)[0])
    return {
        "kills": kills,
        "killed_at_steps": at,
        "in_saving": in_saving,
        "half_written": half_written,
        "resumed_from_steps": resumed,
        "steps": steps,
        "equal": outcome(undisturbed) == outcome(killed),
    }


def kill_saving(options: dict[str, Any], folder: Path, kills: int) -> dict[str, Any]:
    """Kill a process that saves adapters over one path, again and again; load what is there each time.

    Returns:
        ``kills``, ``in_saving``: how many of them while the file was written, ``saves``, ``parts_left``: files
        of killed processes that were never taken for an adapter, and ``whole``: whether each time an adapter was there,
        all of one save and not older than the time before.
    """
    moments, path = random.Random(0), folder / "adapter.safetensors"
    saves, in_saving, whole, last = 0, 0, True, -1
    for _ in tqdm(range(kills), desc="kill", leave=False):
        process, told = _start(save_for_ever, options, path)
        _kill(process, told, 1, True, moments.random() * told[SAVE_SECONDS])
        in_saving += bool(told[SAVING])
        saves += int(told[STEP]) + 1
        model, _ = load_encoder(options["encoder"], get_task(options["task"]))
        load_adapter(model, path)
        numbers = {end.item() for p in model.parameters() if p.requires_grad for end in (p.min(), p.max())}
        whole &= len(numbers) == 1 and min(numbers) >= last
        last = max(numbers)
    parts = len(list(folder.glob(".*.part")))
    return {"kills": kills, "in_saving": in_saving, "saves": saves, "parts_left": parts, "whole": whole}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    run = {
        "task": "pocket-rte", "method": PRILoRAConfig(interval=5), "encoder": "pocket", "save_steps": 2,
        "settings": replace(settings_for("pocket", "pocket-rte"), epochs=0.6),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        training = compare(run, Path(place), arguments.kills)
        saving = kill_saving(run, Path(place), arguments.kills)
    publish(
        {
            "command": ["python", "-m", "benchmarks.killed_training", "--kills", str(arguments.kills)],
            "training": training,
            "saving": saving,
        },
        arguments.output,
    )
    sys.exit(0 if training["equal"] and saving["whole"] else 1)
