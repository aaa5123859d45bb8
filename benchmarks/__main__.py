"""Speed and cost of fine-tuning with this library, with PEFT and without either, and the kit's own waiting times.

    python -m benchmarks                 # all of it, some 70 minutes on two CPU cores
    python -m benchmarks steps memory    # parts of it

Methods take turns in one process, a fresh one for each case: what ran before in a process changes how fast memory is
had, and times by several percent. Each finished case is one line of the output; started again, the command goes on with
the cases that are missing, and makes the tables (``.md``) and the figure (``.png``) beside it anew. Nothing else should
run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks import kit, show, speed
from prilora_lite.experiments.environment import describe_environment
from prilora_lite.experiments.figures import write_png
from prilora_lite.shared.files import write_whole
from prilora_lite.shared.records import append_record, read_records

PARTS = ("steps", "memory", "inference", "handling", "prune", "growth", "kit")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=20, help="how often each step is timed (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/speed.jsonl"), metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, for there to be a spread, got {options.rounds}")
    torch.set_num_threads(options.threads)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    measure(options.parts or PARTS, options.device, options.rounds, options.output)
    publish(options.output, options.device)
    return 0


def measure(parts: list[str], device: str, rounds: int, output: Path) -> None:
    """Measure what the file has not yet, one line for each case."""
    known = [record["key"] for record in read_records(output)]
    everything = speed.cases(device) | {"kit": kit.CASES}
    environment = describe_environment("fp32", device) | {"peft": version("peft"), "threads": torch.get_num_threads()}
    del environment["precision"]  # each case names its own
    wanted = [(part, case, run) for part in parts for case, run in everything[part].items()]
    for part, case, run in wanted:
        key = [device, part, case]
        if key in known:
            continue
        print(f"{part}: {case}", file=sys.stderr, flush=True)
        fresh = ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),))
        with fresh as process:
            result = process.submit(run, rounds).result()
        append_record(output, {"key": key, "rounds": rounds, "environment": environment, "result": result})


def publish(file: Path, device: str) -> None:
    """Print the tables that the file has the parts for, and write them beside it, with the figure."""
    results = show.gather(read_records(file), device)
    text = show.tables(results)
    print(text)
    write_whole(file.with_suffix(".md"), text.encode())
    if "steps" in results:
        write_png(file.with_suffix(".png"), show.figure(results))


if __name__ == "__main__":
    sys.exit(main())
