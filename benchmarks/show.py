"""From the file of measurements to its tables and its figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.contenders import INTERVAL
from benchmarks.measure import exponent, ratio_of_medians
from prilora_lite.experiments.looks import LOOKS
from prilora_lite.experiments.own_files import in_markdown

Results = dict[str, dict[str, Any]]  # part -> case -> what was measured

LABELS = {
    "frozen": "frozen encoder", "bitfit": "BitFit", "lora": "LoRA", "prilora": "PRILoRA", "peft": "PEFT LoRA",
    "peft, no cast": "PEFT LoRA, inputs not converted", "adalora": "PEFT AdaLoRA", "full": "full fine-tuning",
}  # fmt: skip

STEPS = (
    ("LoRA / PEFT LoRA", "lora", "peft"),
    ("LoRA / PEFT LoRA without its conversion of inputs", "lora", "peft, no cast"),
    ("PRILoRA / LoRA: what listening to inputs costs", "prilora", "lora"),
    ("PRILoRA / PEFT AdaLoRA", "prilora", "adalora"),
    ("LoRA / frozen encoder", "lora", "frozen"),
    ("PEFT LoRA / frozen encoder", "peft", "frozen"),
    ("BitFit / frozen encoder", "bitfit", "frozen"),
    ("full fine-tuning / frozen encoder", "full", "frozen"),
)
FLOOR = "the floor: frozen encoder with LoRA's bare products / frozen encoder"
INFERENCE = (
    ("merged / plain model", "lora, merged", "base"),
    ("merged and unloaded / plain model", "lora, unloaded", "base"),
    ("unmerged / plain model", "lora", "base"),
    ("PEFT LoRA merged / plain model", "peft, merged", "base"),
    ("PEFT LoRA unmerged / plain model", "peft", "base"),
)
MEMORY = (
    ("LoRA / PEFT LoRA", "lora", "peft"),
    ("PRILoRA / PEFT LoRA", "prilora", "peft"),
    ("LoRA / frozen encoder", "lora", "frozen"),
    ("LoRA / full fine-tuning", "lora", "full"),
)
PRUNE = f"one prune of all layers / the {INTERVAL} steps before it"


def gather(records: Iterable[dict[str, Any]], device: str) -> Results:
    """The results of one device by part and case."""
    results: Results = {}
    for record in records:
        place, part, case = record["key"]
        if place == device:
            results.setdefault(part, {})[case] = record["result"]
    return results


def tables(results: Results) -> str:
    """All tables that there are the parts for, in Markdown."""
    known = {
        "What it costs, in ratios": (headline, ("steps", "memory", "inference", "handling", "prune")),
        "Every method": (methods, ("steps", "memory")),
        "Every setting": (settings, ("steps", "memory")),
        "Growth": (growth, ("growth",)),
        "The kit": (kit, ("kit",)),
    }
    return "\n".join(
        f"## {title}\n\n{table(results)}\n" for title, (table, parts) in known.items() if set(parts) <= set(results)
    )


def headline(results: Results) -> str:
    """The main table: one column for each of the settings in which all methods were timed."""
    columns = _columns(results, "steps", "memory", "inference", "handling", "prune")
    rows: list[tuple[str, list[str]]] = [("**a training step**", [""] * len(columns))]
    rows += [(label, [_ratio(results["steps"][c], a, b) for c in columns]) for label, a, b in STEPS]
    rows.append((FLOOR, [_interval(*floor(results["steps"][c])) for c in columns]))
    rows.append((PRUNE, [_share(results["prune"][c]) for c in columns]))
    rows.append(("**peak memory of training**", [""] * len(columns)))
    peaks = results["memory"]
    rows += [(label, [f"{peaks[c][a] / peaks[c][b]:.3f}" for c in columns]) for label, a, b in MEMORY]
    rows.append(("**a forward pass**", [""] * len(columns)))
    rows += [(label, [_ratio(results["inference"][c], a, b) for c in columns]) for label, a, b in INFERENCE]
    rows.append(("**adapt, save, load** (ms; PEFT's)", [""] * len(columns)))
    rows += [(action, [_both(results["handling"][c], action) for c in columns]) for action in ("adapt", "save", "load")]
    rows.append(("file (kB; PEFT's)", [_sizes(results["handling"][c]["bytes"]) for c in columns]))
    return _markdown(["", *columns], [[label, *cells] for label, cells in rows])


def floor(taken: dict[str, list[float]]) -> tuple[float, float, float]:
    """Frozen encoder and bare products, to the frozen encoder: no LoRA that keeps B A apart from W0 goes below."""
    both = [a + b for a, b in zip(taken["frozen"], taken["products"], strict=True)]
    return ratio_of_medians(both, taken["frozen"])


def settings(results: Results) -> str:
    """Every setting: LoRA's step and peak memory, and ratios."""
    rows = []
    for case in [case for case in results["steps"] if case in results["memory"]]:
        taken, peaks = results["steps"][case], results["memory"][case]
        q1, q3 = np.percentile(taken["lora"], [25, 75])
        rows.append([
            case, f"{1000 * np.median(taken['lora']):.0f} ({1000 * q1:.0f} to {1000 * q3:.0f})",
            _ratio(taken, "lora", "peft"), _ratio(taken, "prilora", "lora"), _ratio(taken, "lora", "frozen"),
            f"{peaks['lora'] / 1e6:,.0f}", f"{peaks['lora'] / peaks['peft']:.3f}",
        ])  # fmt: skip
    ratios = ["LoRA / PEFT LoRA", "PRILoRA / LoRA", "LoRA / frozen encoder"]
    return _markdown(["", "LoRA, ms (quartiles)", *ratios, "LoRA's peak, MB", "/ PEFT LoRA's"], rows)


def methods(results: Results) -> str:
    """Milliseconds and peak megabytes of every method, where all were timed."""
    columns = _columns(results, "steps", "memory")
    rows = []
    for name, label in LABELS.items():
        times = [1000 * np.median(results["steps"][case][name]) for case in columns]
        peaks = [results["memory"][case][name] / 1e6 for case in columns]
        rows.append([label, *(f"{time:,.0f} ms, {peak:,.0f} MB" for time, peak in zip(times, peaks, strict=True))])
    return _markdown(["", *columns], rows)


def growth(results: Results) -> str:
    """By what a doubled rank, depth or length multiplies a step's time and peak memory: 2 to the fitted power."""
    rows = []
    for axis, found in results["growth"].items():
        sizes = found["sizes"]
        for name, taken in found["seconds"].items():
            time = _interval(*(2**p for p in exponent(sizes, taken)))
            memory = 2 ** exponent(sizes, [[b] for b in found["bytes"][name]])[0]
            first, last = (1000 * np.median(taken[i]) for i in (0, -1))
            rows.append([
                f"{axis}, {sizes[0]} to {sizes[-1]}", LABELS[name], f"{first:.0f} to {last:.0f}", time,
                f"{found['bytes'][name][0] / 1e6:,.0f} to {found['bytes'][name][-1] / 1e6:,.0f}", f"{memory:.2f}",
            ])  # fmt: skip
    return _markdown(["", "", "step, ms", "doubling multiplies it by", "peak, MB", "doubling multiplies it by"], rows)


def kit(results: Results) -> str:
    """What a newcomer waits for."""
    rows = []
    if clone := results["kit"].get("fresh clone"):
        wait = clone["seconds"]
        first = sum(wait[name] for name in ("clone", "environment", "install", "first figure"))
        rows.append(["fresh clone to first figure", f"{first:.0f} s, of which installing {wait['install']:.0f} s"])
        rows += [[name.removesuffix(".ipynb"), f"{taken:.0f} s"] for name, taken in clone["notebooks"].items()]
    if tests := results["kit"].get("all tests"):
        rows.append(["all tests", f"{tests['seconds']['tests'] / 60:.1f} min ({tests['outcome']})"])
    if moves := results["kit"].get("sliders"):
        medians = {name: 1000 * np.median(taken) for name, taken in moves.items()}
        slowest = max(medians, key=medians.get)
        rows.append(["a slider's move", f"{min(medians.values()):.0f} to {medians[slowest]:.0f} ms ({slowest})"])
    return _markdown(["", ""], rows)


def figure(results: Results) -> Figure:
    """Time of a step of each method as a multiple of the frozen encoder's, with 95 % intervals and LoRA's floor."""
    columns = _columns(results, "steps")
    drawn = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, case in zip(drawn.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns, strict=True):
        taken, longest = results["steps"][case], 0.0
        for place, name in enumerate(LABELS):
            ratio, low, high = ratio_of_medians(taken[name], taken["frozen"])
            longest = max(longest, high)
            look = LOOKS[{"frozen": "head", "peft": "lora", "peft, no cast": "lora"}.get(name, name)]
            hatch = "//" if name.startswith("peft") else None  # another library's LoRA
            axes.barh(place, ratio, color=look.colour, edgecolor="white", height=0.6, alpha=0.85, hatch=hatch)
            axes.errorbar(ratio, place, xerr=[[ratio - low], [high - ratio]], color="0.3", capsize=3)
            axes.annotate(
                f"{ratio:.2f}", (0, place), (5, 0), textcoords="offset points", va="center", fontsize=10,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        bound, _, _ = floor(taken)
        axes.axvline(bound, color="black", linestyle="--", linewidth=1.2)
        axes.annotate(f"LoRA's floor {bound:.2f}", (bound, -0.75), (3, 0), textcoords="offset points", fontsize=9)
        axes.set_title(case)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.05 * longest)
    axes.set_yticks(range(len(LABELS)), LABELS.values())
    axes.set_ylim(len(LABELS) - 0.5, -1.1)
    drawn.supxlabel("time of a training step / frozen encoder's, 95 % intervals", fontsize="medium")
    return drawn


def _columns(results: Results, *parts: str) -> list[str]:
    """The settings in which all methods were timed, and that all these parts have."""
    everywhere = set.intersection(*(set(results[part]) for part in parts))
    return [case for case, taken in results["steps"].items() if "products" in taken and case in everywhere]


def _ratio(taken: dict[str, list[float]], a: str, b: str) -> str:
    return _interval(*ratio_of_medians(taken[a], taken[b]))


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _share(taken: dict[str, list[float]]) -> str:
    ratio, low, high = (value / INTERVAL for value in ratio_of_medians(taken["prune"], taken["step"]))
    return f"{ratio:.3%} ({low:.3%} to {high:.3%})"


def _both(found: dict[str, Any], action: str) -> str:
    ours, theirs = (1000 * np.median(found["seconds"][f"{action}, {name}"]) for name in ("lora", "peft"))
    return f"{ours:.0f} ({theirs:.0f})"


def _sizes(sizes: dict[str, int]) -> str:
    return f"{sizes['lora'] / 1000:,.0f} ({sizes['peft'] / 1000:,.0f})"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return in_markdown([head, ["---"] * len(head), *rows])
