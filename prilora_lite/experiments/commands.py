"""The commands ``ablate``, ``report``, ``ask`` and ``migrate``, whose imports take seconds: made as they run."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prilora_lite.experiments import study_options
from prilora_lite.shared.files import given_path
from prilora_lite.shared.records import read_records

if TYPE_CHECKING:
    from prilora_lite.experiments.methods import Method
    from prilora_lite.experiments.study import Run


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the commands to those of :class:`~prilora_lite.cli.Command`."""
    ablate = commands.add_parser(
        "ablate",
        help="compare methods on tasks over seeds",
        description="Fine-tune with each method on each task for each seed; print a table, write a line of JSON for "
        "each run and a figure. Stopped and started again, it goes on with the runs that are missing. A study can be "
        "described in a file whose keys are the names of the options below, as in results/minilm_glue.toml.",
        argument_default=argparse.SUPPRESS,  # what is not given may be in the file
        names=study_options.names,
    )
    ablate.add_argument(
        "study", nargs="?", default=None, type=given_path, metavar="FILE.toml", help="file that describes the study"
    )
    study_options.add_options(ablate)
    ablate.set_defaults(run=_ablate, loads=True, goes_on=True)

    report = commands.add_parser(
        "report",
        help="make tables and comparisons from raw runs",
        description="Print the tables of a file of runs, PRILoRA minus LoRA with intervals, and all other comparisons; "
        "write the tables (.csv, .md) and figures (.png). For a file of questions, print and write its answers.",
    )
    report.add_argument(
        "file",
        type=given_path,
        help="file of runs that ablate wrote, ending in .jsonl, or of questions, ending in .toml",
    )
    report.add_argument(
        "--output", type=given_path, metavar="FOLDER", help="where to write them (default: beside the file)"
    )
    report.add_argument(
        "--margin",
        type=study_options.OPTIONS["margin"]["type"],
        metavar="POINTS",
        help="the largest difference that counts as none (default: that in the study's own .toml beside it, else 1)",
    )
    report.set_defaults(run=_report, loads=True)

    ask = commands.add_parser(
        "ask",
        help="answer questions written down before their runs",
        description="Choose the learning rates and make the runs that a file of questions still lacks, then print the "
        "answers and write them (.csv, .md, .png). Stopped and started again, it goes on.",
    )
    ask.add_argument("file", type=given_path, metavar="FILE.toml", help="the questions, as in results/questions.toml")
    ask.add_argument("--only", nargs="+", default=[], metavar="NAME", help="names of questions (default: all)")
    ask.add_argument("--rows", metavar="FOLDER", help="folder of rows, as for ablate (default: the file's own)")
    ask.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    ask.set_defaults(run=_ask, loads=True, goes_on=True)

    migrate = commands.add_parser(
        "migrate",
        help="update files of runs made by older versions",
        description="Add what older versions left out of each run's key, the digest of the encoder's weights, so that "
        "the run is still recognised. It is safe to repeat. If an encoder was read from a folder, the folder must not "
        "have changed.",
    )
    migrate.add_argument(
        "files", nargs="+", type=given_path, metavar="FILE.jsonl", help="files of runs that ablate wrote"
    )
    migrate.set_defaults(run=_migrate, loads=True)


def _ablate(options: argparse.Namespace) -> int:
    from prilora_lite.experiments import crashes, published, reporting, study
    from prilora_lite.experiments.device import PROCESS
    from prilora_lite.experiments.remarks import remarks
    from prilora_lite.experiments.stored import main_metric

    told = study_options.told(options)
    output = told.get("output") or (options.study or Path("runs/ablation")).with_suffix(".jsonl")
    if output.suffix != ".jsonl":
        raise ValueError(f"--output {output}: expected a name that ends in .jsonl")
    if told.get("jobs", 1) < 1:
        raise ValueError(f"--jobs {told['jobs']}: expected a number of at least 1")
    reporting.check_places(output)  # better known before the first run
    runs = study.grid(_methods(told), told.get("tasks", ["pocket-rte"]), told.get("seeds", [0, 1]))
    speaks = PROCESS == 0  # if several processes make one run, the first
    earlier = {str(record["key"]) for record in read_records(output)}
    crashed: list[dict[str, Any]] = []

    def announce(number: int, count: int, run: Run, record: dict[str, Any] | None) -> None:
        name = f"[{number}/{count}] {run.task} {run.method.label}, seed {run.seed}"
        if record is None:
            tell(name)
        elif "error" in record:
            crashed.append(record)
            tell(f"{name}: crashed after {record['seconds']:.0f} s: {record['error']}")
        else:
            metric, value = main_metric(record)
            when = "made earlier" if str(record["key"]) in earlier else f"after {record['seconds']:.0f} s"
            tell(f"{name}: {metric} {value:.3f}, {when}")

    def tell(line: str) -> None:
        if speaks:
            print(line, file=sys.stderr, flush=True)

    if told.get("jobs", 1) > 1:  # no bars then: several would write over each other
        tell(f"{len(runs)} runs, {told['jobs']} at a time: a line for each when it is done")
    read_here = ("tasks", "methods", "seeds", "output", "set", "margin", *study_options.CROSSED)
    passed_on = {name: value for name, value in told.items() if name not in read_here}
    overrides = study_options.read_settings(told["set"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* runs crashed: ")  # told below
        try:
            records = study.ablate(runs, output, overrides=overrides, progress=speaks, on_run=announce, **passed_on)
        except RuntimeError:
            if not crashed:
                raise
            records = []
    if speaks and records:
        frame = reporting.to_dataframe(records)
        print(f"\n{reporting.format_table(reporting.summarize(frame))}\n")
        if text := published.table(frame):
            print(f"{text}\n")
        margin = told.get("margin", reporting.MARGIN)
        if text := reporting.conclusion(frame, margin, crashes.crashed_runs(records, crashed)):
            print(f"{text}\n")
        print(f"{remarks(records)}\n")
        _print_paths({"runs": output} | reporting.write(output))
        if "tasks" not in told:  # a first try, as README shows it
            print("notebooks, from the folder of the repository: jupyter lab notebooks")
    if crashed:
        first = crashed[0]["error"]
        tell(f"{len(crashed)} of {len(runs)} runs crashed: {first}; {output} says how, and the same command tries "
             "them again")  # fmt: skip
    return 1 if crashed else 0


def _methods(told: dict[str, Any]) -> list[str | Method]:
    """The methods that are named, and the configurations that are crossed."""
    from prilora_lite.experiments.methods import CONTRASTS, METHODS, configurations

    crossed = {name: told[name] for name in study_options.CROSSED if name in told}
    named = told.get("methods") or ([] if crossed else ["lora", "prilora"])
    if "all" in named:
        if len(named) > 1:
            raise ValueError(
                f"--methods all stands alone, got {' '.join(map(str, named))}: leave out all, or the others"
            )
        named = [name for name in METHODS if name not in CONTRASTS]
    return [*named, *(configurations(**crossed) if crossed else [])]


def _report(options: argparse.Namespace) -> int:
    from prilora_lite.experiments import reporting, study
    from prilora_lite.experiments.remarks import remarks

    if options.file.suffix == ".toml":
        if options.margin is not None:
            raise ValueError("--margin is for a file of runs: each question has a margin of its own")
        return _answers(options.file, options.output)
    if not options.file.is_file():
        raise ValueError(f"there is no file {options.file}; prilora-lite ablate writes one")
    margin = options.margin or _margin_beside(options.file) or reporting.MARGIN
    records = study.read_runs(options.file)
    print(reporting.report(records, study.read_crashes(options.file), margin))
    if records:
        print(f"\n{remarks(records)}")
    written = reporting.write(options.file, options.output)
    print()
    _print_paths(written)
    return 0


def _print_paths(paths: Mapping[str, Path]) -> None:
    """What was written, a line each."""
    for kind, path in paths.items():
        print(f"{kind}: {path}")


def _margin_beside(runs: Path) -> float | None:
    """The margin in the file of the study that stands beside its runs; none if there is no such file or margin."""
    file = runs.with_suffix(".toml")
    if not file.is_file() or study_options.holds_questions(file):
        return None
    return study_options.read_file(file).get("margin")


def _ask(options: argparse.Namespace) -> int:
    from prilora_lite.experiments.answers import answer
    from prilora_lite.experiments.questions import read_questions

    asked = read_questions(options.file)
    if options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs}: expected a number of at least 1")
    answer(asked, rows=options.rows, jobs=options.jobs, names=options.only, tell=lambda line: print(line, flush=True))
    return _answers(options.file, None, options.only)


def _migrate(options: argparse.Namespace) -> int:
    from prilora_lite.experiments.migrate import migrate

    for file in options.files:
        print(f"{file}: {migrate(file)} runs brought to the new form")
    return 0


def _answers(file: Path, folder: Path | None, only: list[str] | None = None) -> int:
    """Write the answers that the runs of a file of questions give so far, and print them or some of them."""
    from prilora_lite.experiments import answers
    from prilora_lite.experiments.questions import read_questions

    asked = read_questions(file)
    print(answers.report(asked, only))
    written = answers.write(asked, (file.parent if folder is None else folder) / file.stem)
    print()
    _print_paths(written)
    return 0
