"""How it is measured: seconds in interleaved rounds, ratios of medians, peak memory, exponents of growth."""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

WARM_UP = 2  # rounds that are not counted
DRAWS = 5000  # of the bootstrap


def seconds(
    steps: Mapping[str, Callable[[], object]], rounds: int, *, before: Callable[[], object] | None = None
) -> dict[str, list[float]]:
    """Seconds of each step in each round: every round runs all of them once, in an order drawn anew.

    Args:
        steps: what is timed, by name.
        rounds: how many are counted.
        before: called before each step, off the clock.
    """
    generator = np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(rounds + WARM_UP), desc="rounds", leave=False):
        for step in generator.permutation(list(steps)):
            if before is not None:
                before()
            wait()
            begin = time.perf_counter()
            steps[step]()
            wait()
            if number >= WARM_UP:
                taken[step].append(time.perf_counter() - begin)
    return taken


def wait() -> None:
    """Until a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio_of_medians(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """median(a) / median(b) and its 95 % bootstrap interval, rounds resampled in pairs."""
    first, second = np.array(a), np.array(b)
    rounds = np.random.default_rng(0).integers(0, len(first), (DRAWS, len(first)))
    ratios = np.median(first[rounds], axis=1) / np.median(second[rounds], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(first) / np.median(second)), float(low), float(high)


def exponent(sizes: list[float], taken: list[list[float]]) -> tuple[float, float, float]:
    r"""p of :math:`t \propto n^p`, least squares on logarithms of medians, and its 95 % bootstrap interval.

    Args:
        sizes: n.
        taken: for each n its measurements, by round; rounds are resampled together.
    """
    times = np.array(taken)
    rounds = np.random.default_rng(0).integers(0, times.shape[1], (DRAWS, times.shape[1]))
    medians = np.median(times[:, rounds], axis=2)  # (sizes, draws)
    drawn = np.polyfit(np.log(sizes), np.log(medians), 1)[0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.polyfit(np.log(sizes), np.log(np.median(times, axis=1)), 1)[0]), float(low), float(high)


def peak_bytes(make: Callable[[], Callable[[], object]], device: str = "cpu") -> int:
    """Most bytes of tensors that were alive at once while a step was made and run twice, beside those alive before.

    On the CPU the profiler of torch counts each allocation, so the number is exact and the same each time; what
    libraries below torch keep for themselves is not in it. On a GPU the second run counts: the first may compile.
    """
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        step = make()
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        _run_twice(make)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]
    return int(np.cumsum(changes).max())


def _run_twice(make: Callable[[], Callable[[], object]]) -> None:
    step = make()
    step()
    step()
