"""Training step of this library's LoRA, of PRILoRA and of PEFT's LoRA, interleaved in one process.

    python -m benchmarks.step_time

Prints medians and ratios of medians with 95 % bootstrap intervals. A step is forward, backward, AdamW and zeroing of
the gradients; PRILoRA's also folds its statistics, and prunes every 40th time. PEFT stands twice: as it comes, and with
its cast of the input switched off.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification

from prilora_lite.adapt import adapt
from prilora_lite.config import PRILoRAConfig
from prilora_lite.pruner import Pruner
from prilora_lite.study import describe_environment

# all-MiniLM-L6-v2's shape. Random weights: a step takes as long as with the trained ones, and no download is needed.
MINILM = BertConfig(
    hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
)
TARGETS = r".*encoder\.layer\.\d+\..*(query|key|value|dense)"  # not "dense" alone: that also hits the pooler
PAIRS = (
    ("lora", "peft", "LoRA / PEFT LoRA"),
    ("lora", "peft, no input cast", "LoRA / PEFT LoRA, its input cast off"),
    ("prilora, flat", "lora", "pruning's own cost: PRILoRA at rank 8 / LoRA"),
    ("prilora", "lora", "PRILoRA (ranks 4 to 12) / LoRA"),
)


def contenders(base: nn.Module, rank: int) -> dict[str, Callable[[dict], None]]:
    """Name -> a function that makes one training step on a batch; all start from the same weights."""
    flat = PRILoRAConfig(first_rank=rank, last_rank=rank, ratio=0.0, alpha=2 * rank)
    steps = {}
    for name, config in {
        "lora": flat,
        "prilora, flat": PRILoRAConfig(first_rank=rank, last_rank=rank, alpha=2 * rank),
        "prilora": PRILoRAConfig(alpha=2 * rank),
    }.items():
        model = copy.deepcopy(base)
        adapt(model, config)
        steps[name] = _step(model, Pruner(model, **config.pruning()) if config.ratio else None)
    for name, cast in {"peft": True, "peft, no input cast": False}.items():
        peft_config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            target_modules=TARGETS,
            modules_to_save=["classifier", "pooler"],
        )
        model = get_peft_model(copy.deepcopy(base), peft_config)
        if not cast:
            for module in model.modules():
                if hasattr(module, "cast_input_dtype_enabled"):
                    module.cast_input_dtype_enabled = False
        steps[name] = _step(model, None)
    return steps


def _step(model: nn.Module, pruner: Pruner | None) -> Callable[[dict], None]:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step(batch: dict) -> None:
        model(**batch).loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()
        optimizer.zero_grad()

    return step


def measure(steps: dict[str, Callable[[dict], None]], batch: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; the order within a round is shuffled."""
    generator = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(rounds + 2), desc="rounds"):
        for name in generator.permutation(list(steps)):
            begin = time.perf_counter()
            steps[name](batch)
            if number >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio_of_medians(a: list[float], b: list[float], draws: int = 5000) -> tuple[float, float, float]:
    """median(a) / median(b) and its 95 % bootstrap interval, rounds resampled in pairs."""
    first, second = np.array(a), np.array(b)
    rounds = np.random.default_rng(0).integers(0, len(first), (draws, len(first)))
    ratios = np.median(first[rounds], axis=1) / np.median(second[rounds], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(first) / np.median(second)), float(low), float(high)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="a multiple of 40 counts pruning at its true weight")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--padding", type=float, default=0.0, help="share of each row's places that are padding")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()

    torch.manual_seed(0)
    ids = torch.randint(1000, 30000, (options.batch_size, options.tokens))
    mask = torch.ones_like(ids)
    mask[:, round(options.tokens * (1 - options.padding)) :] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.randint(0, 2, (options.batch_size,))}
    seconds = measure(contenders(BertForSequenceClassification(MINILM), options.rank), batch, options.rounds)

    environment = describe_environment("fp32", "cpu") | {"threads": str(torch.get_num_threads())}
    shape = f"{options.batch_size}x{options.tokens}, rank {options.rank}, padding {options.padding:.0%}"
    print(f"MiniLM's shape, {shape}, {options.rounds} rounds; {environment['machine']}, torch {environment['torch']}")
    for name, values in seconds.items():
        q1, q3 = np.percentile(values, [25, 75])
        print(f"  {name:<24} {1000 * np.median(values):7.1f} ms   (quartiles {1000 * q1:.1f} to {1000 * q3:.1f})")
    ratios = {label: ratio_of_medians(seconds[a], seconds[b]) for a, b, label in PAIRS}
    for label, (ratio, low, high) in ratios.items():
        print(f"  {label:<46} {ratio:.3f}   [{low:.3f}, {high:.3f}]")
    if options.output:
        record = {"environment": environment, "shape": shape, "seconds": seconds, "ratios": ratios}
        options.output.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
