"""The command ``prilora-lite``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from prilora_lite.shared.errors import unknown

if TYPE_CHECKING:
    from prilora_lite.experiments import study
    from prilora_lite.experiments.methods import Method

COURSE = Path("notebooks/assignments")

# What a study's file may say: lists, and single values
LISTS = ("methods", "ranks", "ratios", "intervals", "importances", "scalings", "tasks", "seeds")
STUDY = (*LISTS, "margin", "encoder", "rows", "output", "set", "precision", "device", "jobs", "backend")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A mistake of the user's is one message, no traceback."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    if options.loads:
        print("loading torch and transformers ...", file=sys.stderr, flush=True)
    try:
        if getattr(options, "study", None):
            place = arguments.index(options.study)
            described = [*arguments[: place + 1], *_described(Path(options.study)), *arguments[place + 1 :]]
            options = parser.parse_args(described)
        return options.run(options)
    except ModuleNotFoundError as error:
        extra = {"ray": "ray", "peft": "peft", "nbgrader": "classroom"}.get(error.name, "lab")
        print(f"prilora-lite: {error}; it comes with: pip install 'prilora-lite[{extra}]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"prilora-lite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the runs that are missing", file=sys.stderr)
        return 130


class _FileParser(argparse.ArgumentParser):
    """Raises its message, so that it can name the file."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser(kind: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = kind(
        prog="prilora-lite", description="PRILoRA: low-rank adaptation with rising ranks, pruned while it trains."
    )
    parser.set_defaults(loads=False)
    commands = parser.add_subparsers(required=True, metavar="command")
    ablate = commands.add_parser(
        "ablate",
        help="compare methods on tasks over seeds",
        description="Fine-tune with each method on each task for each seed; print a table, write a line of JSON for "
        "each run and a figure. Stopped and started again, it goes on with the runs that are missing. A study can be "
        "described in a file: the options below by their long names, as in results/minilm_glue.toml.",
    )
    ablate.add_argument("study", nargs="?", metavar="FILE.toml", help="file that describes the study")
    ablate.add_argument(
        "--methods",
        nargs="+",
        metavar="M",
        help="head, lora, ranks, pruning, prilora, full, bitfit, houlsby, pfeiffer (adapters), adalora (PEFT), or "
        "all for these; lora_r1, lora_r1_same_s, lora_bottom, lora_top, pruning_95, random_75, ranks_sqrt, ranks_mean, "
        "prilora_sqrt, prilora_mean change one setting more (default: lora prilora, or none beside configurations)",
    )
    crossed = ablate.add_argument_group("configurations, every value with every other one")
    crossed.add_argument(
        "--ranks", nargs="+", type=_ranks, metavar="R", help="first and last, such as 12..4 8 4..12 (default: 4..12)"
    )
    crossed.add_argument("--ratios", nargs="+", type=float, metavar="P", help="of A that is pruned (default: 0.5)")
    crossed.add_argument("--intervals", nargs="+", type=int, metavar="N", help="steps between prunes (default: 40)")
    crossed.add_argument(
        "--importances", nargs="+", metavar="I", help="magnitude_input, magnitude, random (default: magnitude_input)"
    )
    crossed.add_argument("--scalings", nargs="+", metavar="S", help="layer, sqrt, mean (default: layer)")
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
        "--margin",
        type=_margin,
        default="1",
        metavar="POINTS",
        help="the largest difference that counts as none, named before the runs (default: 1)",
    )
    ablate.add_argument(
        "--encoder",
        default="pocket",
        metavar="E",
        help="pocket, pocket-random (the same, not pre-trained), minilm, paper (DeBERTaV3-base), a folder, or a "
        "name on the hub, owner/name or owner/name@REVISION (default: pocket)",
    )
    ablate.add_argument(
        "--rows",
        metavar="FOLDER",
        help="folder with TASK/train.parquet and so on (default: $PRILORA_GLUE, else the hub)",
    )
    ablate.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file of runs, ending in .jsonl; tables and figures go beside it (default: beside FILE.toml, with its "
        "name; else runs/ablation.jsonl)",
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
    ablate.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time (default: 1, with Ray one for each processor)"
    )
    ablate.add_argument(
        "--backend",
        default="processes",
        metavar="B",
        help="where they are made: processes of this machine, or ray, a cluster (needs Ray; default: processes)",
    )
    ablate.set_defaults(run=_ablate, loads=True)

    report = commands.add_parser(
        "report",
        help="tables and comparisons from raw runs",
        description="Print the tables of a file of runs, PRILoRA minus LoRA with intervals, and the other comparisons; "
        "write its tables (.csv, .md) and figures (.png).",
    )
    report.add_argument(
        "file", type=Path, help="file of runs that ablate wrote, ending in .jsonl, or of questions, ending in .toml"
    )
    report.add_argument("--output", type=Path, metavar="FOLDER", help="where to write them (default: beside the file)")
    report.set_defaults(run=_report, loads=True)

    ask = commands.add_parser(
        "ask",
        help="answer questions that were written down before",
        description="Choose the learning rates and make the runs that a file of questions still lacks, then print the "
        "answers and write them (.csv, .png). Stopped and started again, it goes on.",
    )
    ask.add_argument("file", type=Path, metavar="FILE.toml", help="the questions, as in results/questions.toml")
    ask.add_argument("--only", nargs="+", default=[], metavar="NAME", help="names of questions (default: all)")
    ask.add_argument("--rows", metavar="FOLDER", help="GLUE's rows, as for ablate")
    ask.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    ask.set_defaults(run=_ask, loads=True)

    record = commands.add_parser(
        "record",
        help="make the recorded runs of the notebooks again",
        description="Make the runs that a recording does not hold yet. Stopped and started again, it goes on.",
    )
    record.add_argument("names", nargs="*", metavar="NAME", help="layers, layers_minilm, pruning (default: all)")
    record.add_argument("--rows", metavar="FOLDER", help="GLUE's rows for layers_minilm, as for ablate")
    record.add_argument("--folder", type=Path, metavar="FOLDER", help="where to write (default: the package's own)")
    record.set_defaults(run=_record, loads=True)

    notebooks = commands.add_parser(
        "notebooks",
        help="check the repository's notebooks, or execute them anew",
        description="Say which notebooks are not as --execute leaves them; with --execute, run them and save them with "
        "fresh outputs.",
    )
    notebooks.add_argument("paths", nargs="*", type=Path, metavar="FILE", help="default: all in the folder notebooks")
    notebooks.add_argument("--execute", action="store_true", help="run them and save their outputs")
    notebooks.set_defaults(run=_notebooks)

    assignments = commands.add_parser(
        "assignments",
        help="write the learners' copies of the assignments",
        description="Write the learners' copies: without solutions, hidden tests and marking schemes.",
    )
    assignments.add_argument("--release", type=Path, required=True, metavar="FOLDER", help="where to write them")
    assignments.add_argument(
        "--course", type=Path, default=COURSE, metavar="FOLDER", help=f"the course (default: {COURSE})"
    )
    assignments.set_defaults(run=_assignments)

    grade = commands.add_parser(
        "grade",
        help="grade a class: several submissions at a time, each in a sandbox",
        description="Autograde all submissions of an assignment and write grades/ASSIGNMENT.csv. Stopped and started "
        "again, it goes on; a submission that was handed in anew is graded anew. Needs bubblewrap.",
    )
    grade.add_argument("assignment", metavar="ASSIGNMENT", help="such as a1_lora_layer")
    grade.add_argument(
        "--course", type=Path, default=COURSE, metavar="FOLDER",
        help=f"with submitted/STUDENT/ASSIGNMENT in it (default: {COURSE})",
    )  # fmt: skip
    grade.add_argument("--jobs", type=int, default=1, metavar="N", help="submissions at a time (default: 1)")
    grade.add_argument(
        "--unprotected",
        action="store_true",
        help="no sandbox of our own: learners' code has the rights of this command. For a container or an account that "
        "can be thrown away",
    )
    grade.set_defaults(run=_grade)
    return parser


def _ablate(options: argparse.Namespace) -> int:
    from prilora_lite.experiments import reporting, study

    output = options.output or Path(options.study or "runs/ablation").with_suffix(".jsonl")
    if output.suffix != ".jsonl":
        raise ValueError(f"--output {output}: expected a name that ends in .jsonl")
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs}: expected a number of at least 1")
    runs = study.grid(_methods(options), options.tasks, options.seeds)
    speaks = study.RANK == 0  # of several processes for one run, the first
    crashed: list[study.Run] = []

    def announce(number: int, count: int, run: study.Run, record: dict[str, Any] | None) -> None:
        name = f"[{number}/{count}] {run.task} {run.method.label}, seed {run.seed}"
        if record is None:
            tell(name)
        elif "error" in record:
            crashed.append(run)
            tell(f"{name}: crashed after {record['seconds']:.0f} s: {record['error']}")
        else:
            metric, value = next(iter(record["metrics"].items()))
            tell(f"{name}: {metric} {value:.3f} after {record['seconds']:.0f} s")

    def tell(line: str) -> None:
        if speaks:
            print(line, file=sys.stderr, flush=True)

    records = study.ablate(
        runs, output, encoder=options.encoder, rows=options.rows, overrides=_settings(options.set),
        precision=options.precision, device=options.device, jobs=options.jobs, backend=options.backend,
        progress=speaks, on_run=announce,
    )  # fmt: skip
    if speaks and records:
        written = reporting.write(output)
        frame = reporting.to_dataframe(records)
        print(f"\n{reporting.format_table(reporting.summarize(frame))}\n")
        if text := reporting.published_table(frame):
            print(f"{text}\n")
        if text := reporting.conclusion(frame, options.margin):
            print(f"{text}\n")
        print("  ".join([f"runs: {output}", *(f"{kind}: {path}" for kind, path in written.items())]))
        print("notebooks, from the folder of the repository: jupyter lab notebooks")
    if crashed:
        tell(f"{len(crashed)} runs crashed: {output} says how; the same command tries them again")
    return 1 if crashed else 0


def _methods(options: argparse.Namespace) -> list[str | Method]:
    """The methods that are named, and the configurations that are crossed."""
    from prilora_lite.experiments.methods import CONTRASTS, METHODS, configurations

    crossed = {name: getattr(options, name) for name in ("ranks", "ratios", "intervals", "importances", "scalings")}
    crossed = {name: values for name, values in crossed.items() if values is not None}
    named = options.methods or ([] if crossed else ["lora", "prilora"])
    if named == ["all"]:
        named = [name for name in METHODS if name not in CONTRASTS]
    return [*named, *(configurations(**crossed) if crossed else [])]


def _ranks(text: str) -> tuple[int, int]:
    """``4..12`` -> (4, 12), ``8`` -> (8, 8)."""
    first, dots, last = text.partition("..")
    try:
        return int(first), int(last if dots else first)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected FIRST..LAST, such as 4..12, or one rank") from None


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = 0.0
    if not 0 < margin < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number of percentage points above 0")
    return margin


def _described(file: Path) -> list[str]:
    """A study's file as the arguments that say the same."""
    try:
        study = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {file}: a study is described in a file that ends in .toml") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no TOML: {error}") from error
    arguments, parser = [], _parser(_FileParser)
    for name, value in study.items():
        if name not in STUDY:
            raise unknown(f"option in {file}:", name, STUDY)
        try:
            words = [f"--{name}", *_words(name, value)]
            parser.parse_args(["ablate", *words])
            if name == "set":
                _settings(words[1:])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        arguments += words
    return arguments


def _words(name: str, value: Any) -> list[str]:
    """The value of a study's file as words of the command line, none of which is an option.

    Raises:
        ValueError: a list in place of one value or the reverse, nothing at all, or an option.
    """
    expected = "a table" if name == "set" else "a list" if name in LISTS else "one value"
    given = "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else "one value"
    if given != expected:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    if value in ([], {}):
        raise ValueError(f"{name} holds nothing: give it a value, or leave it out")
    if given == "a table":
        return [f"{setting}={number}" for setting, number in value.items()]
    values = value if given == "a list" else [value]
    for word in values:
        if isinstance(word, str) and word.startswith("-"):
            raise ValueError(f"{name} holds {word!r}, which is an option, no value")
    return [str(word) for word in values]


def _report(options: argparse.Namespace) -> int:
    from prilora_lite.experiments import reporting, study

    if options.file.suffix == ".toml":
        return _answers(options.file, options.output)
    if not options.file.is_file():
        raise ValueError(f"there is no file {options.file}; prilora-lite ablate writes one")
    print(reporting.report(study.read_runs(options.file)))
    written = reporting.write(options.file, options.output)
    print("\n" + "\n".join(f"{kind}: {path}" for kind, path in written.items()))
    return 0


def _ask(options: argparse.Namespace) -> int:
    from prilora_lite.experiments.answers import answer
    from prilora_lite.experiments.questions import read_questions

    asked = read_questions(options.file)
    if options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs}: expected a number of at least 1")
    answer(asked, rows=options.rows, jobs=options.jobs, names=options.only, tell=lambda line: print(line, flush=True))
    return _answers(options.file, None)


def _answers(file: Path, folder: Path | None) -> int:
    """Print and write the answers that the runs of a file of questions give so far."""
    from prilora_lite.experiments import answers
    from prilora_lite.experiments.questions import read_questions

    asked = read_questions(file)
    print(answers.report(asked))
    written = answers.write(asked, (file.parent if folder is None else folder) / file.stem)
    print("\n" + "\n".join(f"{kind}: {path}" for kind, path in written.items()))
    return 0


def _record(options: argparse.Namespace) -> int:
    from prilora_lite.teaching import recordings

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

    from prilora_lite.teaching import notebook_files as notebooks

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


def _assignments(options: argparse.Namespace) -> int:
    from prilora_lite.teaching import grading as classroom

    for path in classroom.release(options.release, options.course):
        print(path)
    return 0


def _grade(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from prilora_lite.teaching import grading as classroom

    if options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs}: expected a number of at least 1")
    bar, refused = tqdm(desc="grade", unit=" submissions", delay=0.1), []  # shown once its total is known

    def show(count: int, record: dict[str, Any]) -> None:
        bar.total = count
        bar.update()
        if record["status"] != "graded":
            refused.append(record["student"])
            bar.write(f"{record['student']}: {record['status']}: {'; '.join(record['notes'])}", file=sys.stderr)

    with bar:
        table = classroom.grade(
            options.assignment, options.course, jobs=options.jobs, protected=not options.unprotected, on_done=show
        )
    print(f"{bar.n - len(refused)} graded, {len(refused)} not graded: {table}")
    return 0


def _settings(pairs: list[str]) -> dict[str, Any]:
    """``["epochs=1"]`` -> ``{"epochs": 1}``, checked against the settings there are."""
    from prilora_lite.experiments.encoders import Settings

    kinds = {field.name: field for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in kinds:
            raise unknown("setting", name, kinds)
        convert, what = (int, "INTEGER") if name in ("batch_size", "max_length") else (float, "NUMBER")
        try:
            values[name] = convert(text)
        except ValueError:
            raise ValueError(f"--set {pair}: expected {name}={what}") from None
    return values
