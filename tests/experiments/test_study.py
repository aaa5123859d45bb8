import json
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from benchmarks import killed_study
from prilora_lite import PRILoRAConfig
from prilora_lite.cli import main
from prilora_lite.experiments import reporting, study
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.shared.records import append_record, read_records
from tests.environments import processes
from tests.small_models import write_rows

ROOT = Path(__file__).parents[2]
QUICK = ["--set", "epochs=1", "batch_size=8", "max_length=16", "--device", "cpu", "--precision", "fp32"]


def command(output, encoder, rows, *more, methods=("lora", "prilora"), tasks=("cola",), seeds=("0", "1")):
    return [
        "ablate", "--methods", *methods, "--tasks", *tasks, "--seeds", *seeds, "--encoder", encoder,
        "--rows", str(rows), "--output", str(output), *QUICK, *more,
    ]  # fmt: skip


def record(method="lora", task="cola", seed=0, value=0.5, **counts):
    counts = {"adapter": 1000, "adapter_nonzero": 750, "head": 200, "head_nonzero": 200, "base": 9000} | counts
    return {
        "key": [method, task, seed], "name": method, "method": method, "encoder": "e", "task": task, "seed": seed,
        "settings": {"epochs": 1, "learning_rate": 1e-3}, "metrics": {"matthews": value, "accuracy": 0.1},
        "counts": counts, "steps": 5, "seconds_per_step": 0.25, "seconds": 2.0, "environment": {},
    }  # fmt: skip


@pytest.fixture
def ray_cluster():
    """A Ray cluster of two workers on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning")
    yield
    ray.shutdown()


def kill_the_workers(output):
    """Wait for the first finished run, then kill the processes that make the others."""
    while not read_records(output):
        threading.Event().wait(0.02)
    for child in psutil.Process().children(recursive=True):
        if "popen_loky" in " ".join(child.cmdline()):
            child.kill()


# The grid


def test_the_grid_goes_seed_by_seed():
    runs = study.grid(["lora", "head"], ["cola", "rte"], [0, 1])
    assert len(runs) == 8
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4
    assert runs[0] == study.Run(METHODS["lora"], "cola", 0)


def test_mistyped_methods_and_tasks_get_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown method 'prilorra': did you mean 'prilora'\?"):
        study.grid(["prilorra"], ["cola"], [0])
    with pytest.raises(ValueError, match=r"unknown task 'colla': did you mean 'cola'\?"):
        study.grid(["lora"], ["colla"], [0])


def test_a_configuration_is_a_method_under_the_name_it_has():
    runs = study.grid([PRILoRAConfig.lora(8), PRILoRAConfig(ratio=0.9)], ["cola"], [0])
    assert [run.method.name for run in runs] == ["lora", "4..12, ratio 0.9"]
    assert runs[1].method.trains == PRILoRAConfig(ratio=0.9)


@pytest.mark.parametrize(
    ("methods", "tasks", "seeds", "said"),
    [
        ("lora", ["cola"], [0], r"methods must be a list, such as \['lora'\], got 'lora'"),
        (["lora"], "cola", [0], r"tasks must be a list, such as \['cola'\], got 'cola'"),
        (["lora"], ["cola"], 3, r"seeds must be a list, such as \[0, 1\], got 3"),
    ],
)
def test_one_thing_in_place_of_a_list_is_told(methods, tasks, seeds, said):
    with pytest.raises(TypeError, match=said):
        study.grid(methods, tasks, seeds)


# Records


def test_a_crash_is_no_run_and_its_run_may_follow(tmp_path):
    file = tmp_path / "runs.jsonl"
    append_record(file, {"key": ["lora", "cola", 0], "error": "RuntimeError: no"})
    append_record(file, record(seed=1))
    assert [r["seed"] for r in read_records(file)] == [1]
    append_record(file, record(seed=0))
    assert [r["seed"] for r in read_records(file)] == [1, 0]


def test_a_run_that_another_process_made_meanwhile_is_not_doubled(tmp_path):
    file = tmp_path / "runs.jsonl"
    assert append_record(file, record(value=0.5))
    assert not append_record(file, record(value=0.6))
    assert [r["metrics"]["matthews"] for r in read_records(file)] == [0.5]


def test_a_line_cut_off_by_a_kill_does_not_count_and_is_replaced(tmp_path):
    file = tmp_path / "runs.jsonl"
    append_record(file, record(seed=0))
    with file.open("ab") as stream:
        stream.write(b'{"key": "half')
    assert [r["seed"] for r in read_records(file)] == [0]
    append_record(file, record(seed=1))
    assert [r["seed"] for r in read_records(file)] == [0, 1]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    file = tmp_path / "runs.jsonl"
    append_record(file, record(seed=0))
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    append_record(file, record(seed=1))
    assert [r["seed"] for r in read_records(file)] == [0, 1]


def test_a_file_of_something_else_is_an_error(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text('{"text": "a dog"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 is not a run of a study: it lacks key;"):
        read_records(file)


@pytest.mark.parametrize("arguments", [["report"], ["ablate", "--methods", "head", "--output"]])
def test_lines_that_are_no_runs_of_a_study_are_named_with_what_they_lack(arguments, capsys):
    file = ROOT / "results" / "pocket_learning_rates.jsonl"
    assert main([*arguments, str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}, line 1 is not a run of a study: it lacks name, encoder, settings, metrics" in said


def test_in_a_script_one_bar_shows_the_runs_or_the_steps_of_a_single_one(encoder, rows, tmp_path, capsys):
    def ablate(seeds, **options):
        capsys.readouterr()
        settings = {"epochs": 1, "batch_size": 8, "max_length": 16}
        runs = study.grid(["head"], ["cola"], seeds)
        study.ablate(runs, tmp_path / "a.jsonl", encoder=encoder, rows=rows, overrides=settings, **options)
        return set(re.findall(r"(\w+): +\d+%", capsys.readouterr().err))

    assert ablate([0, 1]) == {"runs"}
    assert ablate([0, 1]) == set()
    assert ablate([0, 1, 2]) == {"train"}
    assert ablate([0, 1, 2, 3, 4], progress=False) == set()
    assert ablate(range(7), on_run=lambda *_: None) == {"train"}  # who tells of the runs sees each train


def test_a_repeated_seed_is_one_run():
    assert len(study.grid(["lora", "lora"], ["cola"], [0, 0, 1])) == 2


def test_seeds_may_be_numbers_of_numpy():
    runs = study.grid(["lora"], ["cola"], np.arange(2))
    assert [(type(run.seed), run.seed) for run in runs] == [(int, 0), (int, 1)]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text('{"key": 1}\n{"key"\n{"key": 2}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2 is not JSON"):
        read_records(file)


@pytest.mark.parametrize("empty", ["\n", "\r\n", "  \n"])
def test_an_empty_line_is_no_run(empty, tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text(f'{{"key": 1}}\n{empty}{{"key": 2}}\n{empty}', encoding="utf-8", newline="")
    assert [record["key"] for record in read_records(file)] == [1, 2]


def _write(file, start):
    for seed in range(start, start + 25):
        append_record(file, record(seed=seed))


def test_two_processes_may_append_at_once(tmp_path):
    file = tmp_path / "runs.jsonl"
    context = processes()
    writers = [context.Process(target=_write, args=(file, start)) for start in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(r["seed"] for r in read_records(file)) == [*range(25), *range(100, 125)]


def _stay_in_the_middle(file, writing):
    def fsync(descriptor):
        writing.set()
        threading.Event().wait(60)

    os.fsync = fsync
    append_record(file, record(seed=0))


def test_a_writer_that_is_killed_gives_its_lock_back(tmp_path):
    file = tmp_path / "runs.jsonl"
    context = processes()
    writing = context.Event()
    killed = context.Process(target=_stay_in_the_middle, args=(file, writing))
    killed.start()
    assert writing.wait(120)
    other = threading.Thread(target=append_record, args=(file, record(seed=1)), daemon=True)
    other.start()
    other.join(0.3)
    assert other.is_alive()  # it waits
    killed.kill()
    other.join(20)
    assert [r["seed"] for r in read_records(file)] == [0, 1]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [({"epoch": 1}, ValueError, "did you mean 'epochs'"), ([1], TypeError, "overrides as a dict")],
)
def test_settings_that_do_not_exist_are_named_before_the_first_run(overrides, error, said, tmp_path):
    with pytest.raises(error, match=said):
        study.ablate(study.grid(["lora"], ["pocket-rte"], [0]), tmp_path / "runs.jsonl", overrides=overrides)


def test_the_summary_by_hand():
    records = [record(seed=s, value=v) for s, v in ((0, 0.4), (1, 0.5), (2, 0.9))] + [record("head", value=0.2)]
    summary = reporting.summarize(reporting.to_dataframe(records)).set_index("method")
    assert summary.loc["lora", "mean"] == pytest.approx(0.6)
    assert summary.loc["lora", "sd"] == pytest.approx(((0.2**2 + 0.1**2 + 0.3**2) / 2) ** 0.5)
    assert summary.loc["lora", "seeds"] == 3
    assert np.isnan(summary.loc["head", "sd"])
    assert list(summary.index) == ["head", "lora"]  # in the order of METHODS


def test_the_table_fits_a_terminal_and_keeps_adapter_and_head_apart():
    records = [record(m, t, s) for m in METHODS for t in ("cola", "mrpc") for s in (0, 1)]
    text = reporting.format_table(reporting.summarize(reporting.to_dataframe(records)))
    assert max(map(len, text.splitlines())) <= 80
    assert "head only" in text
    row = next(line for line in text.splitlines() if line.startswith("  LoRA"))
    assert row.split()[-6:] == ["(0.0)", "1", "0", "1", "0", "0.250"]


# The command


def test_the_command_prints_a_table_and_writes_runs_summary_and_figure(encoder, rows, tmp_path, capsys):
    output = tmp_path / "new" / "runs.jsonl"
    assert main(command(output, encoder, rows, methods=["head", "lora", "prilora", "full"], seeds=["0"])) == 0
    out, err = capsys.readouterr()
    records = read_records(output)
    assert [r["name"] for r in records] == ["head", "lora", "prilora", "full"]
    assert "[4/4] cola full fine-tuning, seed 0: matthews" in err
    assert [line.split()[0] for line in out.splitlines() if re.match(r"  \S", line)] == [
        "head",
        "LoRA",
        "PRILoRA",
        "full",
    ]
    table = pd.read_csv(output.with_suffix(".csv"), comment="#")
    assert table["adapter_nonzero"].tolist() == [r["counts"]["adapter_nonzero"] for r in records]
    assert table["value"].tolist() == pytest.approx([r["metrics"]["matthews"] for r in records])
    assert output.with_suffix(".csv").read_text(encoding="utf-8").startswith("# python 3.")
    assert output.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert records[0]["environment"]["precision"] == "fp32"
    lora, prilora = records[1]["counts"], records[2]["counts"]
    assert lora["adapter_nonzero"] == lora["adapter"]
    assert lora["head"] == prilora["head"]
    assert records[3]["settings"]["learning_rate"] == 5e-5  # full fine-tuning has a rate of its own


def test_started_again_it_makes_only_the_missing_runs(encoder, rows, tmp_path, capsys):
    output = tmp_path / "runs.jsonl"
    main(command(output, encoder, rows, seeds=["0"]))
    first = output.read_bytes()
    main(command(output, encoder, rows, seeds=["0"]))
    assert output.read_bytes() == first
    capsys.readouterr()
    main(command(output, encoder, rows, seeds=["0", "1"]))
    told = re.findall(r"\[(\d)/4\] .*: \w+ [\d.-]+, (made|after)", capsys.readouterr().err)
    assert told == [("1", "made"), ("2", "made"), ("3", "after"), ("4", "after")]
    assert output.read_bytes().startswith(first)
    assert [(r["name"], r["seed"]) for r in read_records(output)] == [
        ("lora", 0), ("prilora", 0), ("lora", 1), ("prilora", 1),
    ]  # fmt: skip


def test_other_settings_are_other_runs(encoder, rows, tmp_path):
    output = tmp_path / "runs.jsonl"
    main(command(output, encoder, rows, methods=["lora"], seeds=["0"]))
    main(command(output, encoder, rows, "--set", "epochs=2", "batch_size=8", methods=["lora"], seeds=["0"]))
    assert [r["settings"]["epochs"] for r in read_records(output)] == [1, 2]


def test_other_rows_are_other_runs(encoder, rows, tmp_path):
    output, other = tmp_path / "runs.jsonl", write_rows(tmp_path / "rows", TASKS["cola"], seed=1)
    main(command(output, encoder, rows, methods=["head"], seeds=["0"]))
    main(command(output, encoder, other, methods=["head"], seeds=["0"]))
    assert len(read_records(output)) == 2


def test_settings_may_be_given_in_several_places(encoder, rows, tmp_path):
    output = tmp_path / "runs.jsonl"
    main([*command(output, encoder, rows, methods=["head"], seeds=["0"]), "--set", "weight_decay=0.1"])
    (settings,) = [r["settings"] for r in read_records(output)]
    assert (settings["epochs"], settings["weight_decay"]) == (1, 0.1)


def test_a_run_of_an_older_version_is_known_again(encoder, rows, tmp_path):
    """It lacks the fields that have come since; they were at their defaults."""
    output = tmp_path / "runs.jsonl"
    main(command(output, encoder, rows, methods=["lora"], seeds=["0"]))
    (old,) = read_records(output)
    del old["key"][3]["layers"], old["key"][4]["head_dropout"]
    output.write_text(json.dumps(old) + "\n", encoding="utf-8")
    main(command(output, encoder, rows, methods=["lora"], seeds=["0"]))
    assert len(read_records(output)) == 1


def crash_on_seed_1(monkeypatch):
    def finetune(*args, seed, **kwargs):
        if seed == 1:
            raise RuntimeError("out of memory")
        return real(*args, seed=seed, **kwargs)

    real = study.finetune
    monkeypatch.setattr(study, "finetune", finetune)


def test_a_run_that_crashes_is_recorded_and_the_rest_go_on(encoder, rows, tmp_path, monkeypatch, capsys):
    output = tmp_path / "runs.jsonl"
    arguments = command(output, encoder, rows, methods=["head"], seeds=["0", "1", "2"])
    with monkeypatch.context() as patch:
        crash_on_seed_1(patch)
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "head only, seed 1: crashed" in error
    assert "1 of 3 runs crashed: RuntimeError: out of memory" in error
    (crash,) = [r for r in map(json.loads, output.read_text(encoding="utf-8").splitlines()) if "error" in r]
    assert (crash["seed"], crash["error"]) == (1, "RuntimeError: out of memory")
    assert "in finetune" in crash["traceback"]
    assert [r["seed"] for r in read_records(output)] == [0, 2]
    assert main(arguments) == 0  # tried again
    assert [r["seed"] for r in read_records(output)] == [0, 2, 1]


def test_an_earlier_crash_of_another_run_is_no_failure(encoder, rows, tmp_path, monkeypatch):
    output = tmp_path / "runs.jsonl"
    with monkeypatch.context() as patch:
        crash_on_seed_1(patch)
        assert main(command(output, encoder, rows, methods=["head"], seeds=["1"])) == 1
    assert main(command(output, encoder, rows, methods=["head"], seeds=["0"])) == 0


def test_a_study_that_only_crashes_has_no_table_and_fails(encoder, rows, tmp_path, monkeypatch, capsys):
    crash_on_seed_1(monkeypatch)
    assert main(command(tmp_path / "runs.jsonl", encoder, rows, methods=["head"], seeds=["1"])) == 1
    assert capsys.readouterr().out == ""


def essence(path):
    """What must not depend on how a study was made: every run once, and its numbers."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return sorted((r["name"], r["task"], r["seed"], r["metrics"].items(), str(r["curve"])) for r in lines)


def test_runs_in_several_processes_are_those_of_one(encoder, rows, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert main(command(one, encoder, rows)) == main(command(two, encoder, rows, "--jobs", "2")) == 0
    assert essence(one) == essence(two)


def test_where_several_runs_share_the_screen_it_says_how_many_and_what_will_come(encoder, rows, tmp_path, capsys):
    arguments = command(tmp_path / "runs.jsonl", encoder, rows, methods=["head"], seeds=["1"])
    main(arguments)
    assert "at a time" not in capsys.readouterr().err
    main([*arguments, "--jobs", "2"])
    assert "1 runs, 2 at a time: a line for each when it is done" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_on_a_cluster_are_those_of_one_process(encoder, rows, tmp_path, ray_cluster):
    one, cluster = tmp_path / "one.jsonl", tmp_path / "cluster.jsonl"
    assert main(command(one, encoder, rows)) == main(command(cluster, encoder, rows, "--backend", "ray")) == 0
    assert essence(one) == essence(cluster)


def test_a_worker_that_is_killed_ends_in_a_message_and_the_next_start_goes_on(encoder, rows, tmp_path, capsys):
    output = tmp_path / "runs.jsonl"
    arguments = command(output, encoder, rows, "--jobs", "2", methods=["head"], seeds=map(str, range(20)))
    killer = threading.Thread(target=kill_the_workers, args=[output])
    killer.start()
    status = main(arguments)
    killer.join()
    assert status == 2
    assert "a worker process was killed" in capsys.readouterr().err
    assert main([*arguments, "--jobs", "1"]) == 0  # with as many or as few at a time as one likes
    assert len(essence(output)) == 20


def test_an_output_that_the_file_names_counts_from_its_folder(encoder, rows, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "here" / "s.toml"
    options = {"encoder": str(encoder), "rows": str(rows), "tasks": ["cola"], "methods": ["head"], "seeds": [0]}
    options |= {"output": "runs/mine.jsonl", "precision": "fp32"}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
    file.write_text(f"{text}[set]\nepochs = 1\nbatch_size = 8\nmax_length = 16\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["ablate", "../here/s.toml"]) == 0
    assert len(read_records(tmp_path / "here" / "runs" / "mine.jsonl")) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert main(["ablate", "../here/s.toml", "--output", "given.jsonl"]) == 0
    assert (tmp_path / "elsewhere" / "given.jsonl").is_file()


def test_a_study_may_be_described_in_a_file(encoder, rows, tmp_path):
    file = tmp_path / "slopes.toml"
    file.write_text(
        f"""
        encoder = {json.dumps(str(encoder))}
        rows = {json.dumps(str(rows))}
        tasks = ["cola"]
        seeds = [0, 1]
        ranks = ["6..2", 4, "2..6"]
        ratios = [0, 0.5]
        precision = "fp32"
        [set]
        epochs = 1
        batch_size = 8
        max_length = 16
        """,
        encoding="utf-8",
    )
    assert main(["ablate", str(file), "--seeds", "3"]) == 0  # an argument goes before the file
    frame = reporting.to_dataframe(read_records(tmp_path / "slopes.jsonl"))
    cells = set(zip(frame["first_rank"], frame["last_rank"], frame["ratio"], strict=True))
    assert cells == {(a, b, p) for a, b in ((6, 2), (4, 4), (2, 6)) for p in (0, 0.5)}
    assert set(frame["seed"]) == {3}
    assert frame["adapter"].nunique() == 1
    assert (tmp_path / "slopes_grid.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("path", ["./study.toml", ".//study.toml", "../{here}/study.toml"])
def test_a_study_file_is_found_however_its_path_is_written(path, encoder, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.toml"
    file.write_text(f"encoder = {json.dumps(encoder)}\nrows = {json.dumps(str(rows))}", encoding="utf-8")
    study_file = path.format(here=tmp_path.name)
    assert main(["ablate", study_file, "--methods", "head", "--tasks", "cola", "--seeds", "0", *QUICK]) == 0
    assert len(read_records(tmp_path / "study.jsonl")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate = 1e-3", "{file}: learning_rate is one of the settings of training: write it under [set]"),
        ("seed = [0]", "unknown option in {file}: 'seed': did you mean 'seeds'?"),
        ("seeds = [0", "is not TOML"),
        ('tasks = ["colla"]', "did you mean 'cola'?"),
        ('importances = ["magnitud"]', "unknown importance rule 'magnitud': did you mean 'magnitude'?"),
        ('schedules = ["linar"]', "unknown schedule of ranks 'linar': did you mean 'linear'?"),
        ('schedules = ["2,2,x"]', "{file}: argument --schedules: 2,2,x: expected the name of a schedule, or ranks"),
        ('schedules = ["2,0"]', "ranks must be one integer of at least 1 for each layer, got (2, 0)"),
        ("ratios = [1.5]", "ratio must lie in [0, 1)"),
        ("jobs = 0", "--jobs 0: expected"),
        ("seeds = [0, -1]", "a seed is an integer of at least 0 and below 2**32, got -1"),
        ("seeds = [4294967296]", "below 2**32, got 4294967296"),
        ('ranks = ["0..4"]', "first_rank must be an integer of at least 1, got 0"),
        ('backend = "rai"', "unknown backend 'rai': did you mean 'ray'?"),
        ("[set]\nepoch = 1", "{file}: unknown setting 'epoch': did you mean 'epochs'?"),
        ("[set]\nbatch_size = 16.0", "{file}: --set batch_size=16.0: expected batch_size=INTEGER"),
        ("[set]", "{file}: set holds nothing: give it a value, or leave it out"),
        ("seeds = []", "{file}: seeds holds nothing: give it a value, or leave it out"),
        ('seeds = "0"', "{file}: seeds must be a list, got '0'"),
        ("jobs = [1, 2]", "{file}: jobs must be one value, got [1, 2]"),
        ('methods = ["head", "--seeds", "3"]', "{file}: methods holds '--seeds', which is an option, not a value"),
        ("seeds = [0.5]", "{file}: argument --seeds: invalid int value: '0.5'"),
        ('ranks = ["4.."]', "{file}: argument --ranks: 4..: expected FIRST..LAST"),
        ('precision = "fp64"', "{file}: argument --precision: invalid choice: 'fp64'"),
    ],
)
def test_a_mistake_in_a_file_is_one_message(text, message, tmp_path, capsys):
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    assert main(["ablate", str(file)]) == 2
    assert message.format(file=file) in capsys.readouterr().err


@pytest.mark.parametrize("ranks", ["4..", "..4", "4-12", "4..8..12", "four"])
def test_ranks_are_first_and_last_or_one(ranks, capsys):
    with pytest.raises(SystemExit):
        main(["ablate", "--ranks", ranks])
    assert f"{ranks}: expected FIRST..LAST, such as 4..12, or one rank; a schedule is named by --schedules" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_killed_at_random_moments_and_started_again_it_ends_as_if_undisturbed(encoder, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)
    arguments = command("-", encoder, rows, methods=["head", "lora", "prilora"], seeds=map(str, range(8)))
    place = arguments.index("--output")
    result = killed_study.compare(arguments[:place] + arguments[place + 2 :], tmp_path, kills=3)
    assert result["equal"]
    assert result["runs"] == 24
    first, second, third = result["finished_at_each_kill"]  # spread over the study, not one after its end
    assert 0 <= first < 24
    assert 6 <= second < 24
    assert 12 <= third < 24


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "colla"], "did you mean 'cola'?"),
        (["--methods", "prilorra"], "did you mean 'prilora'?"),
        (["--methods", "all", "head"], "--methods all stands alone, got all head"),
        (["--set", "epoch=1"], "unknown setting 'epoch': did you mean 'epochs'?"),
        (["--set", "epochs=many"], "--set epochs=many: expected epochs=NUMBER"),
        (["--set", "batch_size=16.0"], "--set batch_size=16.0: expected batch_size=INTEGER"),
        (["--set", "train_rows=41"], "train_rows=41, but cola has only 40 training rows: give 40 or fewer"),
        (["--set", "epochs=0"], "epochs must be a finite number above 0"),
        (["--ranks", "2..40"], "layer 2 would get rank 27, but bert.encoder.layer.2.attention.self.query is 24x24"),
        (["--rows", "/no/such/folder"], "no such folder"),
        (["--output", "runs.csv"], "expected a name that ends in .jsonl"),
        (["--encoder", "no/such/encoder"], "could not load the encoder 'no/such/encoder'"),
    ],
)
def test_a_mistake_is_one_message_and_no_traceback(more, message, encoder, rows, tmp_path, capsys):
    output = tmp_path / "runs.jsonl"
    assert main(command(output, encoder, rows, *more)) == 2
    assert not output.exists() or not output.read_bytes()  # before the first run
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert message in error


def test_help_names_all_methods_and_tasks(capsys):
    with pytest.raises(SystemExit):
        main(["ablate", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in METHODS)
    assert "cola sst2 mrpc stsb qqp mnli qnli rte wnli" in " ".join(text.split())
