"""The command ``prilora-lite``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from prilora_lite.errors import unknown


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A mistake of the user's is one message, no traceback."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except ModuleNotFoundError as error:
        print(f"prilora-lite: {error}; it comes with: pip install 'prilora-lite[lab]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"prilora-lite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the runs that are missing", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prilora-lite", description="PRILoRA: low-rank adaptation with rising ranks, pruned while it trains."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    ablate = commands.add_parser(
        "ablate",
        help="compare methods on tasks over seeds",
        description="Fine-tune with each method on each task for each seed; print a table, write a line of JSON for "
        "each run and a figure. Stopped and started again, it goes on with the runs that are missing.",
    )
    ablate.add_argument(
        "--methods",
        nargs="+",
        default=["lora", "prilora"],
        metavar="M",
        help="head, lora, ranks, pruning, prilora, prilora_layer, full, bitfit, houlsby, pfeiffer (adapters), adalora "
        "(needs PEFT), or all for these; lora_r1, "
        "lora_r1_same_s, lora_bottom, lora_top, pruning_95 turn one knob far (default: lora prilora)",
    )
    ablate.add_argument(
        "--tasks",
        nargs="+",
        default=["pocket-rte"],
        metavar="T",
        help="pocket-cola pocket-sst2 pocket-mrpc pocket-rte, or GLUE: cola sst2 mrpc stsb qqp mnli qnli rte wnli "
        "(default: pocket-rte)",
    )
    ablate.add_argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="N", help="default: 0 1")
    ablate.add_argument(
        "--encoder",
        default="pocket",
        metavar="E",
        help="pocket, pocket-random (the same, not pre-trained), minilm, paper (DeBERTaV3-base), a folder, or a "
        "name on the hub (default: pocket)",
    )
    ablate.add_argument(
        "--rows",
        metavar="FOLDER",
        help="folder with TASK/train.parquet and so on (default: $PRILORA_GLUE, else the hub)",
    )
    ablate.add_argument(
        "--output",
        type=Path,
        default=Path("runs/ablation.jsonl"),
        metavar="FILE",
        help="file of runs, ending in .jsonl; a .csv and a .png go beside it (default: runs/ablation.jsonl)",
    )
    ablate.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="change a training setting for all runs, such as epochs=1 or learning_rate=5e-4",
    )
    ablate.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="auto: the preset's, else bf16 where the device computes in it natively (default)",
    )
    ablate.add_argument("--device", choices=["cuda", "mps", "cpu"], help="default: the first of these that is there")
    ablate.set_defaults(run=_ablate)

    report = commands.add_parser(
        "report",
        help="tables and comparisons from raw runs",
        description="Print the tables of a file of runs, PRILoRA minus LoRA with intervals, and the other comparisons.",
    )
    report.add_argument("file", type=Path, help="file of runs that ablate wrote, ending in .jsonl")
    report.set_defaults(run=_report)

    record = commands.add_parser(
        "record",
        help="make the recorded runs of the notebooks again",
        description="Make the runs that a recording does not hold yet. Stopped and started again, it goes on.",
    )
    record.add_argument("names", nargs="*", metavar="NAME", help="layers, layers_minilm, pruning (default: all)")
    record.add_argument("--rows", metavar="FOLDER", help="GLUE's rows for layers_minilm, as for ablate")
    record.add_argument("--folder", type=Path, metavar="FOLDER", help="where to write (default: the package's own)")
    record.set_defaults(run=_record)

    notebooks = commands.add_parser(
        "notebooks",
        help="check the repository's notebooks, or execute them anew",
        description="Say which notebooks are not as --execute leaves them; with --execute, run them and save them with "
        "fresh outputs.",
    )
    notebooks.add_argument("paths", nargs="*", type=Path, metavar="FILE", help="default: all in the folder notebooks")
    notebooks.add_argument("--execute", action="store_true", help="run them and save their outputs")
    notebooks.set_defaults(run=_notebooks)
    return parser


def _ablate(options: argparse.Namespace) -> int:
    print("loading torch and transformers ...", file=sys.stderr, flush=True)
    from prilora_lite import study
    from prilora_lite.plots import plot_ablation

    if options.output.suffix != ".jsonl":
        raise ValueError(f"--output {options.output}: expected a name that ends in .jsonl")
    methods = (
        [name for name in study.METHODS if name not in study.CONTRASTS]
        if options.methods == ["all"]
        else options.methods
    )
    runs = study.grid(methods, options.tasks, options.seeds)

    def announce(number: int, count: int, run: study.Run, record: dict[str, Any] | None) -> None:
        name = f"[{number}/{count}] {run.task} {study.METHODS[run.method].label}, seed {run.seed}"
        if record is None:
            print(name, file=sys.stderr, flush=True)
        else:
            metric, value = next(iter(record["metrics"].items()))
            print(f"{name}: {metric} {value:.3f} after {record['seconds']:.0f} s", file=sys.stderr, flush=True)

    records = study.ablate(
        runs, options.output, encoder=options.encoder, rows=options.rows, overrides=_settings(options.set),
        precision=options.precision, device=options.device, on_run=announce,
    )  # fmt: skip
    frame, in_file = study.to_dataframe(records), study.read_records(options.output)
    summary = study.summarize(frame)
    table, figure = options.output.with_suffix(".csv"), options.output.with_suffix(".png")
    study.write_csv(study.to_dataframe(in_file), in_file, table)
    plot_ablation(frame, {name: method.label for name, method in study.METHODS.items()}).savefig(figure, dpi=150)
    print(f"\n{study.format_table(summary)}\n\nruns: {options.output}   table: {table}   figure: {figure}")
    print("notebooks, from the folder of the repository: jupyter lab notebooks")
    return 0


def _report(options: argparse.Namespace) -> int:
    print("loading torch and transformers ...", file=sys.stderr, flush=True)
    from prilora_lite.reporting import report
    from prilora_lite.study import read_records

    if not options.file.is_file():
        raise ValueError(f"there is no file {options.file}; prilora-lite ablate writes one")
    print(report(read_records(options.file)))
    return 0


def _record(options: argparse.Namespace) -> int:
    print("loading torch and transformers ...", file=sys.stderr, flush=True)
    from prilora_lite import recordings

    names = options.names or recordings.RECORDINGS
    for name in names:
        if name not in recordings.RECORDINGS:  # before the first run, not after it
            raise unknown("recording", name, recordings.RECORDINGS)
    for name in names:
        for line in recordings.record(name, folder=options.folder or recordings.FOLDER, rows=options.rows):
            print(line, flush=True)
        print(f"{name} is complete", flush=True)
    return 0


def _notebooks(options: argparse.Namespace) -> int:
    from nbclient.exceptions import CellExecutionError

    from prilora_lite import notebooks

    paths = options.paths or sorted(Path("notebooks").glob("*.ipynb"))
    if not paths:
        raise ValueError("there is no folder notebooks here: run this in the repository's folder, or name the files")
    found = []
    for path in paths if options.execute else ():
        print(f"{path} ...", end=" ", flush=True)
        try:
            print(f"{notebooks.execute(path):.0f} s", flush=True)
        except CellExecutionError as error:  # the others are worth a look all the same
            print("failed", flush=True)
            found.append(f"{path}: {error.ename}: {error.evalue}")
    found += [line for path in paths for line in notebooks.stale(path)]
    print("\n".join(found) or f"{len(paths)} notebooks are fresh")
    return 1 if found else 0


def _settings(pairs: list[str]) -> dict[str, Any]:
    """``["epochs=1"]`` -> ``{"epochs": 1}``, checked against the settings there are."""
    from prilora_lite.encoders import Settings

    kinds = {field.name: field for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in kinds:
            raise unknown("setting", name, kinds)
        try:
            values[name] = int(text) if name in ("batch_size", "max_length") else float(text)
        except ValueError:
            raise ValueError(f"--set {pair}: expected {name}=NUMBER") from None
    return values
