"""The ablation: methods x tasks x seeds, one JSON line per run, on one machine or several."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product, starmap
from pathlib import Path
from typing import Any

import joblib
from datasets import Dataset
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.device import PROCESS, PROCESSES, pick_device, pick_precision
from prilora_lite.experiments.environment import describe_environment
from prilora_lite.experiments.finetune import check_encoder, finetune, result_record
from prilora_lite.experiments.identity import KEY, digest_of, method_as_json, own_code, rows_digest, run_key, same_run
from prilora_lite.experiments.methods import METHODS as METHODS  # and study.METHODS
from prilora_lite.experiments.methods import Method, as_method
from prilora_lite.experiments.methods import configurations as configurations  # for notebooks: study.configurations
from prilora_lite.experiments.presets import Settings, settings_for, settings_from
from prilora_lite.experiments.rows import check_rows
from prilora_lite.experiments.stored import RECORD, check_stored, main_metric
from prilora_lite.experiments.tasks import Task, get_task, load_rows, task_as_json
from prilora_lite.shared.checks import check_seed, is_integer, plain
from prilora_lite.shared.errors import expect, unknown, warn
from prilora_lite.shared.files import given_path
from prilora_lite.shared.records import Records, read_records
from prilora_lite.shared.workers import in_worker

CRASH = ("name", "encoder", "settings", "task", "method", "seed", "error")  # what that of a crash has, beside its key
BACKENDS = {"processes": "loky", "ray": "prilora-ray"}  # our name -> joblib's


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    method: Method
    task: str | Task
    seed: int


@dataclass(frozen=True)
class _Plan:
    """A run with everything settled, and its place in the grid."""

    number: int
    run: Run
    key: list[Any]
    encoder: str
    settings: Settings
    trains: str | PRILoRAConfig


def grid(
    methods: Iterable[str | Method | PRILoRAConfig], tasks: Iterable[str | Task], seeds: Iterable[int]
) -> list[Run]:
    """All runs, each once, seed by seed, so that a study cut short has whole comparisons.

    Args:
        methods: names of :data:`METHODS`, configurations, or methods of your own such as :func:`configurations` gives.
        tasks: names of tasks, or tasks of your own.
        seeds: numbers from 0 to 2**32 - 1.

    Raises:
        TypeError: methods, tasks or seeds that are not lists of these.
        ValueError: an unknown method or task (the message gives the nearest name), or a number that is not a seed.
    """
    for what, given, example in (("methods", methods, ["lora"]), ("tasks", tasks, ["cola"]), ("seeds", seeds, [0, 1])):
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"{what} must be a list, such as {example}, got {given!r}")
    chosen = [as_method(method) for method in methods]
    found = [get_task(task) for task in tasks]
    tasks = dict.fromkeys(task.name if task_as_json(task) == task.name else task for task in found)
    chosen, seeds = dict.fromkeys(chosen), dict.fromkeys(plain(list(seeds)))
    for seed in seeds:
        check_seed(seed)
    return [Run(method, task, seed) for seed, task, method in product(seeds, tasks, chosen)]


def ablate(
    runs: Iterable[Run],
    output: str | Path,
    *,
    encoder: str = "pocket",
    rows: str | Path | Mapping[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    precision: str = "auto",
    device: str | None = None,
    jobs: int | None = None,
    backend: str = "processes",
    progress: bool = True,
    on_run: Callable[[int, int, Run, dict[str, Any] | None], None] | None = None,
) -> list[dict[str, Any]]:
    """Make the runs that the output file does not hold yet, and append one JSON line for each.

    A run that crashes is written down with its error, the others go on, and the next call tries it again.
    Under torchrun a crash ends the study and is not written down: the run's other processes wait for the crashed one.

    Args:
        runs: the grid.
        output: the file of JSON lines; runs with the same method, task, rows, seed, encoder, settings and precision
            are not repeated.
        encoder, precision, device: see :func:`~.finetune.finetune`.
        rows: a folder of Parquet or CSV files; or by task and split (by split alone, if there is one task) the rows
            themselves, or their file; default: see :func:`~.tasks.load_rows`.
        overrides: settings to change for all runs, such as ``{"epochs": 1}``.
        jobs: runs at a time; default: one, in this process, and with Ray as many as the cluster has processors.
        backend: where they are made: ``processes`` of this machine, or ``ray``, the Ray cluster that runs here (one on
            this machine alone is started if none does). On GPUs, each run takes one: give as many jobs as GPUs.
        progress: show a bar over the runs; or that of each run, where there is one alone or ``on_run`` tells of them.
        on_run: called with number, count, run and its record before each run (record None; not with several jobs) and
            after it. The record of a run that crashed has an ``error``.

    Returns:
        The records of all the runs that are finished, those made earlier too.

    Raises:
        TypeError, ValueError: a bad argument, or rows or settings that no run could be made with.
        OSError: rows or an encoder that are not available, or an output that can't be written.
        ChildProcessError: a worker process was killed.
        RuntimeError: every run crashed; where only some did, a warning says so at the end.
    """
    runs, encoder, output = list(runs), str(encoder), given_path(output)
    for run in runs:
        expect(Run, run, "runs as grid(methods, tasks, seeds) gives them")
    expect(dict, overrides or {}, "overrides as a dict from the name of a setting to its value")
    settings_from(overrides or {})  # raises if a name or a value is wrong
    jobs = _runs_at_a_time(jobs, backend, len(runs))
    precision = pick_precision(precision, encoder, device)
    tasks = dict.fromkeys(run.task for run in runs)
    data = {task: _rows(task, rows, len(tasks)) for task in tasks}
    plans = _plan(runs, encoder, overrides or {}, precision, data)
    if jobs != 1:
        _check_that_workers_know(plans.values())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.open("ab").close()  # a place that can't be written to is better found before the first run
    finished = _records_of(output)
    at_start = dict(finished.by_run())  # under torchrun all processes must choose the same runs before one writes
    to_make = [plan for same, plan in plans.items() if same not in at_start]
    _check_encoders(to_make, data)
    counted = progress and len(to_make) > 1 and not on_run  # one bar over all runs, not one for each

    def announce(plan: _Plan, record: dict[str, Any] | None) -> None:
        if on_run:
            on_run(plan.number, len(plans), plan.run, record)

    def missing() -> Iterator[tuple[Any, ...]]:
        for same, plan in plans.items():
            if record := (at_start if PROCESSES > 1 else finished.by_run()).get(same):
                announce(plan, record)
                continue
            if jobs == 1:
                announce(plan, None)
            yield plan, data[plan.run.task], precision, device, progress and not counted and jobs == 1

    crashes: list[dict[str, Any]] = []
    there, quiet = len(plans) - len(to_make), not counted or PROCESS != 0
    with tqdm(desc="runs", unit="run", total=len(plans), initial=there, leave=False, disable=quiet) as bar:
        for plan, record in _each(_make, missing(), jobs, backend, device):
            if PROCESS == 0:
                finished.append(record)
            crashes += [record] if "error" in record else []
            announce(plan, record)
            bar.update()
    made = finished.by_run()
    records = [made[same] for same in plans if same in made]
    if crashes:
        _tell_of_crashes(crashes, len(plans), output, bool(records))
    return records


def _tell_of_crashes(crashes: list[dict[str, Any]], runs: int, output: Path, any_made: bool) -> None:
    first = crashes[0]
    said = (
        f"{len(crashes)} of {runs} runs crashed: {first['error']} ({first['task']} {first['name']}, seed "
        f"{first['seed']}); {output} says how, and the same call tries them again"
    )
    if not any_made:
        raise RuntimeError(said)
    warn(said)


def _runs_at_a_time(jobs: int | None, backend: str, runs: int) -> int:
    """The number of jobs, at most one for each run; -1: as many as a Ray cluster has processors."""
    if backend not in list(BACKENDS):
        raise unknown("backend", backend, BACKENDS)
    if jobs is not None and not is_integer(jobs, 1):
        raise ValueError(f"jobs must be an integer of at least 1, got {jobs!r}")
    jobs = min(jobs, max(1, runs)) if jobs else (-1 if backend == "ray" else 1)
    if jobs != 1 and PROCESSES > 1:
        raise ValueError("use jobs=1 under torchrun, where several processes already share each run")
    return jobs


def _plan(
    runs: list[Run], encoder: str, overrides: dict[str, Any], precision: str, data: dict[str | Task, dict[str, Dataset]]
) -> dict[str, _Plan]:
    """Every run with everything settled, each once, by the text that two runs share if they are the same."""
    digests = {task: rows_digest(get_task(task), splits) for task, splits in data.items()}
    weights = digest_of(encoder) if runs else ""
    plans: dict[str, _Plan] = {}
    settled: dict[Any, tuple[Settings, str | PRILoRAConfig, list[Any]]] = {}  # once, not for each seed
    for run in runs:
        what = (run.method, run.task)
        if what not in settled:
            settings, trains = settle(run, encoder, overrides)
            task = get_task(run.task)
            key = run_key(task, run.seed, encoder, trains, settings, precision, digests[run.task], weights)
            settled[what] = settings, trains, key
        settings, trains, key = settled[what]
        key = [part if name != "seed" else run.seed for name, part in zip(KEY, key, strict=True)]
        plans.setdefault(same_run(key), _Plan(len(plans) + 1, run, key, encoder, settings, trains))
    return plans


def _check_that_workers_know(plans: Iterable[_Plan]) -> None:
    """Refuse rules and schedules that were registered in this process: a worker has the package's own alone."""
    for plan in plans:
        if isinstance(plan.trains, PRILoRAConfig) and (own := own_code(plan.trains)):
            setting = next(iter(own)).removesuffix("_code")
            raise ValueError(
                f"{setting}={getattr(plan.trains, setting)!r} was registered in this process, and the workers of "
                "several jobs don't know it: use jobs=1"
            )


def _check_encoders(waiting: list[_Plan], data: dict[str | Task, dict[str, Dataset]]) -> None:
    """Before the first run, and once for each task, refuse what no run could be made with."""
    for task in dict.fromkeys(plan.run.task for plan in waiting):
        here = [plan for plan in waiting if plan.run.task == task]
        configs = {plan.trains for plan in here if isinstance(plan.trains, PRILoRAConfig)}
        check_encoder(here[-1].encoder, task, data[task], here[-1].settings, configs)


def _rows(task: str | Task, rows: str | Path | Mapping[str, Any] | None, tasks: int) -> dict[str, Dataset]:
    task = get_task(task)
    if not isinstance(rows, Mapping):
        return load_rows(task, rows)
    if "train" in rows and tasks == 1:
        return check_rows(task, rows)
    if task.name not in rows:
        raise ValueError(f"rows holds {', '.join(map(str, rows))}, but not {task}: give {{task: {{split: rows}}}}")
    return check_rows(task, rows[task.name])


def settle(run: Run, encoder: str, overrides: dict[str, Any]) -> tuple[Settings, str | PRILoRAConfig]:
    """The settings and configuration that a run has once preset, method and overrides are laid over one another."""
    settings = replace(settings_for(encoder, run.task, run.method.trains), **overrides)
    return settings, run.method.with_alpha(settings.alpha)


def read_runs(path: str | Path) -> list[dict[str, Any]]:
    """The finished runs of a study's file. A run that it holds twice counts once, with its first score.

    Raises:
        ValueError: a line that is not a run of a study; the message names the run and what is wrong with it.
    """
    records: dict[str, dict[str, Any]] = {}
    others = []
    for record in read_records(path, RECORD):
        check_stored(path, record)
        first = records.setdefault(same_run(record["key"]), record)
        if main_metric(first) != main_metric(record):
            others.append(record)
    if others:
        one = others[0]
        warn(
            f"{path} holds {len(others)} runs a second time, with another score, such as {one['name']} on "
            f"{one['task']}, seed {one['seed']}: the first counts. Keep the runs of two machines in two files"
        )
    return list(records.values())


def read_crashes(path: str | Path) -> list[dict[str, Any]]:
    """The runs of a study's file that crashed, and were not made since: each once, with its last ``error``."""
    return Records(path, RECORD, same_run).crashes(CRASH)


def _records_of(output: Path) -> Records:
    """The runs of a study's file.

    Raises:
        ValueError: runs of an older version, whose keys do not say which encoder they were made with.
    """
    records = Records(output, RECORD, same_run)
    for record in records.read():
        check_stored(output, record)
    older = sum(len(record["key"]) < len(KEY) for record in records.read())
    if older:
        raise ValueError(
            f"{output} holds {older} runs of an older version, whose keys do not say what weights the encoder had: "
            f"bring them to the new form once, with `prilora-lite migrate {output}`"
        )
    return records


def _make(
    plan: _Plan, rows: dict[str, Dataset], precision: str, device: str | None, progress: bool
) -> tuple[_Plan, dict[str, Any]]:
    """One run's record: its results, or the error that it ended in."""
    started = time.time()
    record = {"key": plan.key, "name": plan.run.method.name, "encoder": plan.encoder, "settings": asdict(plan.settings)}
    try:
        result = finetune(
            plan.run.task, plan.trains, encoder=plan.encoder, rows=rows, settings=plan.settings, seed=plan.run.seed,
            precision=precision, device=device, progress=progress,
        )  # fmt: skip
        record |= result_record(result)
    except Exception as error:  # whatever it was, it is written down and shown, and the other runs go on
        if PROCESSES > 1:
            raise  # the other processes of this run wait for this one
        record |= {"task": str(plan.run.task), "method": method_as_json(plan.trains), "seed": plan.run.seed}
        record |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    seconds = round(time.time() - started, 1)
    return plan, record | {"seconds": seconds, "environment": describe_environment(precision, device)}


def _each(
    work: Callable[..., Any], calls: Iterator[tuple[Any, ...]], jobs: int, backend: str, device: str | None
) -> Iterator[Any]:
    """What ``work`` gives for each call's arguments: one by one in this process, or as several are done in others."""
    if jobs == 1 and backend == "processes":
        yield from starmap(work, calls)
        return
    options, killed = _join_ray(device) if backend == "ray" else ({}, TerminatedWorkerError)
    with joblib.parallel_config(backend=BACKENDS[backend], n_jobs=jobs, **options):
        try:
            parallel = joblib.Parallel(return_as="generator_unordered", pre_dispatch="n_jobs")
            yield from parallel(joblib.delayed(in_worker)(work, os.getpid(), *call) for call in calls)
        except killed as error:
            raise ChildProcessError(
                "a worker process was killed, perhaps for want of memory: start again, with fewer jobs at a time"
            ) from error


def _join_ray(device: str | None) -> tuple[dict[str, Any], type[Exception]]:
    """Connect to the Ray cluster that runs here, or start one on this machine.

    Returns:
        joblib's options for it, and the error by which it says that a worker died.
    """
    import ray
    from ray.util.joblib.ray_backend import RayBackend

    class RayAsDone(RayBackend):
        """Gives each result when it is there: ``ray.util.joblib`` keeps them to the end, and a kill would lose them."""

        supports_return_generator = True

    if not ray.is_initialized():
        try:
            ray.init(address="auto", logging_level="warning")
        except ConnectionError:
            ray.init(logging_level="warning")
    joblib.register_parallel_backend(BACKENDS["ray"], RayAsDone)
    return {"ray_remote_args": {"num_gpus": 1}} if pick_device(device) == "cuda" else {}, ray.exceptions.RayError
