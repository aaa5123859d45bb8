"""What fine-tuning costs, part by part: time of a step, memory, inference, saving and loading, a prune, growth."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from benchmarks.contenders import METHODS, PRODUCTS, Setting, Step, lora, peft_lora, train, training_step
from benchmarks.measure import peak_bytes, seconds, wait
from prilora_lite.adapt import adapt, merge_and_unload
from prilora_lite.checkpoint import load_adapter, save_adapter
from prilora_lite.config import PRILoRAConfig
from prilora_lite.models.layers import lora_layers
from prilora_lite.pruner import Pruner

MAIN = {
    "cpu": (Setting("MiniLM", 16, 96), Setting("DeBERTaV3-base", 8, 128)),
    "cuda": (
        Setting("MiniLM", 32, 128, "bf16", device="cuda"),
        Setting("DeBERTaV3-base", 32, 128, "bf16", device="cuda"),
    ),
}
OTHERS = {
    "cpu": (
        Setting("MiniLM", 16, 96, padding=0.4),
        Setting("MiniLM", 32, 32),
        Setting("MiniLM", 8, 256),
        Setting("MiniLM", 16, 96, "bf16"),
        Setting("DeBERTaV3-base", 16, 64),
        Setting("DeBERTaV3-base", 8, 128, "bf16"),
    ),
    "cuda": (
        Setting("Llama-1B", 32, 128, "bf16", device="cuda"),
        Setting("MiniLM", 8, 512, "bf16", device="cuda"),
        Setting("DeBERTaV3-base", 8, 512, "bf16", device="cuda"),
        Setting("Llama-1B", 8, 512, "bf16", device="cuda"),
        Setting("Llama-1B", 8, 512, "bf16 weights", device="cuda"),
        Setting("MiniLM", 32, 128, "bf16", device="cuda", compiled=True),
        Setting("DeBERTaV3-base", 32, 128, "bf16", device="cuda", compiled=True),
        Setting("Llama-1B", 32, 128, "bf16", device="cuda", compiled=True),
    ),
}
FEW = ("frozen", "lora", "prilora", "peft")
GROWTH = {
    "rank": [Setting("MiniLM", 16, 96, rank=rank) for rank in (2, 4, 8, 16, 32, 64)],
    "layers": [Setting("MiniLM", 8, 64, layers=layers) for layers in (6, 12, 18, 24)],
    "tokens": [Setting("MiniLM", 4, tokens) for tokens in (32, 64, 128, 256, 512)],
}
GROWING = ("lora", "prilora", "peft")


def steps(setting: Setting, methods: tuple[str, ...], rounds: int) -> dict[str, list[float]]:
    """Seconds of each method's training steps."""
    base = setting.model()
    return seconds({name: training_step(name, setting, base) for name in methods}, rounds)


def memory(setting: Setting, methods: tuple[str, ...], rounds: int) -> dict[str, int]:
    """Peak bytes of each method: weights, optimizer, activations. Counted, not sampled, so one round is enough."""
    base = setting.model()
    return {name: peak_bytes(partial(training_step, name, setting, base), setting.device) for name in methods}


def inference(setting: Setting, rounds: int) -> dict[str, list[float]]:
    """Seconds of a forward pass without gradients: the plain model, and adapted ones, merged or not."""
    base = setting.model()
    models = {"base": base} | {name: copy.deepcopy(base) for name in ("lora", "lora, merged", "lora, unloaded")}
    for name in models.keys() - {"base"}:
        lora(models[name], setting.rank)
    for layer in lora_layers(models["lora, merged"]).values():
        layer.merge()
    merge_and_unload(models["lora, unloaded"])
    for name in ("peft", "peft, merged"):
        models[name], _ = peft_lora(copy.deepcopy(base), setting.rank)
    models["peft, merged"].merge_adapter()
    return seconds({name: _forward(model, setting) for name, model in models.items()}, rounds)


def _forward(model: nn.Module, setting: Setting) -> Step:
    model.eval()
    batch = setting.inputs()

    @torch.inference_mode()
    def forward() -> None:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bf16"):
            model(**batch)

    return forward


def handling(setting: Setting, rounds: int) -> dict[str, Any]:
    """Seconds to adapt a model, to save the adapter and to load it into a fresh one; bytes of the file."""
    base, rank, fresh = setting.model(), setting.rank, {}
    ours, theirs = lora(copy.deepcopy(base), rank)[0], peft_lora(copy.deepcopy(base), rank)[0]

    def renew() -> None:
        fresh["model"] = copy.deepcopy(base)

    with tempfile.TemporaryDirectory() as place:
        file, folder = Path(place) / "adapter.safetensors", Path(place) / "peft"
        save_adapter(ours, file)
        theirs.save_pretrained(folder)
        actions = {
            "adapt, lora": lambda: lora(fresh["model"], rank),
            "adapt, peft": lambda: peft_lora(fresh["model"], rank),
            "save, lora": lambda: save_adapter(ours, file),
            "save, peft": lambda: theirs.save_pretrained(folder),
            "load, lora": lambda: load_adapter(fresh["model"], file),
            "load, peft": lambda: PeftModel.from_pretrained(fresh["model"], folder),
        }
        sizes = {"lora": file, "peft": folder / "adapter_model.safetensors"}
        return {
            "seconds": seconds(actions, rounds, before=renew),
            "bytes": {name: path.stat().st_size for name, path in sizes.items()},
        }


def prune(setting: Setting, rounds: int) -> dict[str, list[float]]:
    """Seconds of one prune of all layers, and of the training step before it."""
    model, config = setting.model(), PRILoRAConfig(interval=10**9)  # step() never prunes by itself
    adapt(model, config)
    pruner = Pruner(model, **config.pruning())
    step, step_seconds = train(model, setting, pruner.step), []

    def timed_step() -> None:
        wait()
        begin = time.perf_counter()
        step()
        wait()
        step_seconds.append(time.perf_counter() - begin)

    taken = seconds({"prune": pruner.prune}, rounds, before=timed_step)
    return {"step": step_seconds[-rounds:], **taken}


def growth(axis: str, line: list[Setting], rounds: int) -> dict[str, Any]:
    """Seconds and peak bytes of a step along a line of settings, all interleaved.

    Returns:
        ``sizes``; and of each method ``seconds``, a list for each size, and ``bytes``, a number for each.
    """
    bases = [setting.model() for setting in line]
    settings = list(zip(line, bases, strict=True))
    taken = seconds(
        {f"{name} {i}": training_step(name, *pair) for name in GROWING for i, pair in enumerate(settings)}, rounds
    )
    return {
        "sizes": [getattr(setting, axis) for setting in line],
        "seconds": {name: [taken[f"{name} {i}"] for i in range(len(line))] for name in GROWING},
        "bytes": {
            name: [peak_bytes(partial(training_step, name, *pair), pair[0].device) for pair in settings]
            for name in GROWING
        },
    }


def cases(device: str) -> dict[str, dict[str, Callable[[int], Any]]]:
    """Part -> case -> what measures it, given the number of rounds."""
    main, others = MAIN[device], OTHERS[device]
    lines = {axis: [replace(setting, device=device) for setting in line] for axis, line in GROWTH.items()}
    return {
        "steps": {str(setting): partial(steps, setting, (PRODUCTS, *METHODS)) for setting in main}
        | {str(setting): partial(steps, setting, FEW) for setting in others},
        "memory": {str(setting): partial(memory, setting, tuple(METHODS)) for setting in main}
        | {str(setting): partial(memory, setting, FEW) for setting in others},
        "inference": {str(setting): partial(inference, setting) for setting in main},
        "handling": {str(setting): partial(handling, setting) for setting in main},
        "prune": {str(setting): partial(prune, setting) for setting in main},
        "growth": {axis: partial(growth, axis, line) for axis, line in lines.items()},
    }
