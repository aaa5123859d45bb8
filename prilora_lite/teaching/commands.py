"""The commands from ``record`` to ``grade``. What they need is imported as they run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from prilora_lite.shared.errors import unknown
from prilora_lite.shared.files import given_path

COURSE = Path("notebooks/assignments")


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the commands to those of :class:`~prilora_lite.cli.Command`."""
    record = commands.add_parser(
        "record",
        help="make the recorded runs that the notebooks show",
        description="Make the recorded runs that are missing. If it is stopped, run it again: it carries on.",
        names=_names,
    )
    record.add_argument("names", nargs="*", metavar="NAME", help="{recordings} (default: all)")
    record.add_argument("--rows", metavar="FOLDER", help="GLUE's rows for layers_minilm, as for ablate")
    record.add_argument(
        "--folder", type=given_path, metavar="FOLDER", help="where to write (default: the package's own)"
    )
    record.set_defaults(run=_record, loads=True, goes_on=True)

    notebooks = commands.add_parser(
        "notebooks",
        help="check the repository's notebooks, or execute them anew",
        description="Check that all cells were executed and have the form that this command gives them; with "
        "--execute, run them and save their outputs. (Whether saved outputs are still right is for pytest to tell.)",
    )
    notebooks.add_argument(
        "paths", nargs="*", type=given_path, metavar="FILE", help="default: all in the folder notebooks"
    )
    notebooks.add_argument("--execute", action="store_true", help="run them and save their outputs")
    notebooks.set_defaults(run=_notebooks)

    handout = commands.add_parser(
        "handout",
        help="write what learners get: notebooks or assignments, and the package",
        description="Write a folder for learners: notebooks or assignments, the package as a wheel, and a page that "
        "says how to begin, on Colab too. Run it in the repository's folder.",
    )
    handout.add_argument(
        "kind", nargs="?", choices=("notebooks", "assignments"), default="notebooks", metavar="KIND",
        help="notebooks (default) or assignments",
    )  # fmt: skip
    handout.add_argument("--output", type=given_path, required=True, metavar="FOLDER", help="where to write")
    handout.add_argument("--zip", action="store_true", help="also pack the folder into FOLDER.zip")
    handout.add_argument(
        "--course", type=given_path, default=COURSE, metavar="FOLDER", help=f"folder of assignments (default: {COURSE})"
    )
    handout.set_defaults(run=_handout)

    assignments = commands.add_parser(
        "assignments",
        help="write the learners' copies of the assignments",
        description="Write the learners' copies: without solutions, hidden tests and marking schemes.",
    )
    assignments.add_argument("--release", type=given_path, required=True, metavar="FOLDER", help="where to write them")
    assignments.add_argument(
        "--course", type=given_path, default=COURSE, metavar="FOLDER", help=f"the course (default: {COURSE})"
    )
    assignments.set_defaults(run=_assignments)

    grade = commands.add_parser(
        "grade",
        help="grade a class: several submissions at a time, each in a sandbox",
        description="Autograde all submissions of an assignment and write grades/ASSIGNMENT.csv in the course's "
        "folder. If it is stopped, run it again: it carries on. A submission that has changed is graded again. Needs "
        "bubblewrap.",
    )
    grade.add_argument("assignment", metavar="ASSIGNMENT", help="such as a1_lora_layer")
    grade.add_argument(
        "--course", type=given_path, default=COURSE, metavar="FOLDER",
        help=f"folder that has submitted/STUDENT/ASSIGNMENT/ in it (default: {COURSE})",
    )  # fmt: skip
    grade.add_argument("--jobs", type=int, default=1, metavar="N", help="submissions at a time (default: 1)")
    grade.add_argument(
        "--unprotected",
        action="store_true",
        help="run without a sandbox: learners' code can then do anything that you can. Use it only in a disposable "
        "container or account",
    )
    grade.set_defaults(run=_grade, goes_on=True)


def _names() -> dict[str, str]:
    """What the help names, from the table of recordings: it takes seconds to load."""
    from prilora_lite.teaching import recordings

    return {"recordings": ", ".join(recordings.RECORDINGS)}


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
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from prilora_lite.teaching import notebook_files

    paths = options.paths or sorted(Path("notebooks").glob("*.ipynb"))
    if not paths:
        raise ValueError("there is no folder notebooks here: run this in the repository's folder, or name the files")
    found = []
    for path in paths if options.execute else ():
        print(f"{path} ...", end=" ", flush=True)
        try:
            print(f"{notebook_files.execute(path):.0f} s", flush=True)
        except CellExecutionError as error:  # the others are worth a look all the same
            print("failed", flush=True)
            found.append(f"{path}: {error.ename}: {error.evalue}")
        except (DeadKernelError, CellTimeoutError) as error:
            print("failed", flush=True)
            found.append(f"{path}: {type(error).__name__}: {error}")
    found += [line for path in paths for line in notebook_files.stale(path)]
    print("\n".join(found) or f"in order: {len(paths)} of {len(paths)}")
    return 1 if found else 0


def _handout(options: argparse.Namespace) -> int:
    from prilora_lite.teaching import handout

    for path in handout.write(options.kind, options.output, options.course, zipped=options.zip):
        print(path)
    return 0


def _assignments(options: argparse.Namespace) -> int:
    from prilora_lite.teaching import grading

    for path in grading.release(options.release, options.course):
        print(path)
    return 0


def _grade(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from prilora_lite.teaching import grading

    if options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs}: expected a number of at least 1")
    bar, refused = tqdm(desc="grade", unit=" submissions", delay=0.1), []  # shown once its total is known

    def show(count: int, record: dict[str, Any]) -> None:
        bar.total = count
        bar.update()
        if record["status"] != "graded":
            refused.append(record["student"])
            name = record["student"]
            name = name if name.isprintable() else ascii(name)  # a terminal obeys some signs
            bar.write(f"{name}: {record['status']}: {'; '.join(record['notes'])}", file=sys.stderr)

    with bar:
        table = grading.grade(
            options.assignment, options.course, jobs=options.jobs, protected=not options.unprotected, on_done=show
        )
    print(f"{bar.n - len(refused)} graded, {len(refused)} not graded: {table}")
    return 0
