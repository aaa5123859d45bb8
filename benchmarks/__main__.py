"""Speed and cost of fine-tuning with this library, with PEFT and without any, and of the kit itself.

    python -m benchmarks                     # all of it, some 70 minutes on two CPU cores
    python -m benchmarks steps memory        # parts of it
    python -m benchmarks --rounds 0          # only the tables and the figure, from what was measured before

Methods are interleaved in one process. Each finished case is one line of ``results/speed.jsonl``; started again, the
command goes on with the cases that are missing. Beside the file it writes the tables (``speed.md``) and the figure
(``speed.png``). To measure a case anew, delete its line. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import io
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import kit, show, speed
from prilora_lite.files import write_whole
from prilora_lite.records import append_record, read_records
from prilora_lite.study import describe_environment

PARTS = ("steps", "memory", "inference", "handling", "prune", "growth", "kit")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=20, help="how often each step is timed (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("results/speed.jsonl"), metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(options.threads)
    if options.rounds:
        measure(options.parts or PARTS, options.device, options.rounds, options.output)
    write_tables(options.output, options.device)
    return 0


def measure(parts: list[str], device: str, rounds: int, output: Path) -> None:
    """Measure what the file has not yet, one line for each case."""
    known = [record["key"] for record in read_records(output)]
    everything = speed.cases(device) | kit.cases(device)
    environment = describe_environment("fp32", device) | {"peft": version("peft"), "threads": torch.get_num_threads()}
    del environment["precision"]  # each case names its own
    for part in parts:
        for case, run in everything[part].items():
            key = [device, part, case]
            if key in known:
                continue
            print(f"{part}: {case}", file=sys.stderr, flush=True)
            append_record(output, {"key": key, "rounds": rounds, "environment": environment, "result": run(rounds)})


def write_tables(file: Path, device: str) -> None:
    """Print all tables that the file has the parts for, and write them beside it, with the figure."""
    records = read_records(file)
    results = show.gather(records, device)
    tables = {
        "What it costs, in ratios": (show.headline, ("steps", "memory", "inference", "handling", "prune")),
        "Every method": (show.methods, ("steps", "memory")),
        "Every setting": (show.settings, ("steps", "memory")),
        "Growth": (show.growth, ("growth",)),
        "The kit": (show.kit, ("kit",)),
    }
    known = {title: table for title, (table, needs) in tables.items() if results.keys() >= set(needs)}
    text = [f"## {title}\n\n{table(results)}\n" for title, table in known.items()]
    print("\n".join(text))
    write_whole(file.with_suffix(".md"), "\n".join(text).encode())
    if "steps" in results:
        picture = io.BytesIO()
        show.figure(results).savefig(picture, dpi=150)
        write_whole(file.with_suffix(".png"), picture.getvalue())


if __name__ == "__main__":
    sys.exit(main())
