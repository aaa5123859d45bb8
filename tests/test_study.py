import re
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prilora_lite import study
from prilora_lite.cli import main
from prilora_lite.plots import plot_ablation
from prilora_lite.tasks import TASKS
from tests.models import write_rows

ROOT = Path(__file__).parent.parent
QUICK = ["--set", "epochs=1", "batch_size=8", "max_length=16", "--device", "cpu", "--precision", "fp32"]


def command(output, encoder, rows, *more, methods=("lora", "prilora"), tasks=("cola",), seeds=("0", "1")):
    return [
        "ablate", "--methods", *methods, "--tasks", *tasks, "--seeds", *seeds, "--encoder", encoder,
        "--rows", str(rows), "--output", str(output), *QUICK, *more,
    ]  # fmt: skip


def record(method="lora", task="cola", seed=0, value=0.5, **counts):
    counts = {"adapter": 1000, "adapter_nonzero": 750, "head": 200, "head_nonzero": 200, "base": 9000} | counts
    return {
        "key": [method, task, seed], "name": method, "encoder": "e", "task": task, "seed": seed,
        "settings": {"epochs": 1, "learning_rate": 1e-3}, "metrics": {"matthews": value, "accuracy": 0.1},
        "counts": counts, "steps": 5, "seconds_per_step": 0.25, "seconds": 2.0,
    }  # fmt: skip


# The grid and its records


def test_the_grid_goes_seed_by_seed():
    runs = study.grid(["lora", "head"], ["cola", "rte"], [0, 1])
    assert len(runs) == 8
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4
    assert runs[0] == study.Run("lora", "cola", 0)


def test_mistyped_methods_and_tasks_get_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown method 'prilorra': did you mean 'prilora'\?"):
        study.grid(["prilorra"], ["cola"], [0])
    with pytest.raises(ValueError, match=r"unknown task 'colla': did you mean 'cola'\?"):
        study.grid(["lora"], ["colla"], [0])


def test_the_low_rank_methods_have_equal_budgets():
    methods = [method for name, method in study.METHODS.items() if name not in study.CONTRASTS]
    configs = {method.name: method.trains for method in methods if not isinstance(method.trains, str)}
    assert set(configs) == {"lora", "ranks", "pruning", "prilora", "prilora_layer"}
    assert {sum(config.ranks(12)) for config in configs.values()} == {96}
    by_layer = configs.pop("prilora_layer")
    assert by_layer.scalings([4, 12]) == [4.0, 16 / 12]
    assert {config.scalings(config.ranks(12))[0] for config in configs.values()} == {2.0}
    assert {name for name, config in configs.items() if config.ratio} == {"pruning", "prilora"}


def test_a_line_cut_off_by_a_kill_does_not_count_and_is_replaced(tmp_path):
    file = tmp_path / "runs.jsonl"
    study.append_record(file, record(seed=0))
    with file.open("ab") as stream:
        stream.write(b'{"key": "half')
    assert [r["seed"] for r in study.read_records(file)] == [0]
    study.append_record(file, record(seed=1))
    assert [r["seed"] for r in study.read_records(file)] == [0, 1]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    file = tmp_path / "runs.jsonl"
    study.append_record(file, record(seed=0))
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    study.append_record(file, record(seed=1))
    assert [r["seed"] for r in study.read_records(file)] == [0, 1]


def test_a_file_of_something_else_is_an_error(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text('{"text": "a dog"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 is no run of this study"):
        study.read_records(file)


def test_a_repeated_seed_is_one_run():
    assert len(study.grid(["lora", "lora"], ["cola"], [0, 0, 1])) == 2


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text('{"key": 1}\n{"key"\n{"key": 2}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2 is no JSON"):
        study.read_records(file)


def _write(file, start):
    for seed in range(start, start + 25):
        study.append_record(file, record(seed=seed))


def test_two_processes_may_append_at_once(tmp_path):
    file = tmp_path / "runs.jsonl"
    context = get_context("spawn")
    writers = [context.Process(target=_write, args=(file, start)) for start in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(r["seed"] for r in study.read_records(file)) == [*range(25), *range(100, 125)]


def test_the_summary_by_hand():
    records = [record(seed=s, value=v) for s, v in ((0, 0.4), (1, 0.5), (2, 0.9))] + [record("head", value=0.2)]
    summary = study.summarize(study.to_dataframe(records)).set_index("method")
    assert summary.loc["lora", "mean"] == pytest.approx(0.6)
    assert summary.loc["lora", "sd"] == pytest.approx(((0.2**2 + 0.1**2 + 0.3**2) / 2) ** 0.5)
    assert summary.loc["lora", "seeds"] == 3
    assert np.isnan(summary.loc["head", "sd"])
    assert list(summary.index) == ["head", "lora"]  # in the order of METHODS


def test_the_table_fits_a_terminal_and_keeps_adapter_and_head_apart():
    records = [record(m, t, s) for m in study.METHODS for t in ("cola", "mrpc") for s in (0, 1)]
    text = study.format_table(study.summarize(study.to_dataframe(records)))
    assert max(map(len, text.splitlines())) <= 80
    assert "head only" in text
    row = next(line for line in text.splitlines() if line.startswith("  LoRA"))
    assert row.split()[-6:] == ["(0.0)", "1", "0", "1", "0", "0.250"]


# The figure


def test_the_figure_shows_every_run_and_every_mean():
    values = {("lora", 0): 0.4, ("lora", 1): 0.6, ("head", 0): 0.1}
    frame = study.to_dataframe([record(m, seed=s, value=v) for (m, s), v in values.items()])
    figure = plot_ablation(frame, {"head": "head only", "lora": "LoRA"})
    (axes,) = figure.axes
    dots = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    bars = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() != "o"]
    assert dots == [pytest.approx([10]), pytest.approx([40, 60])]
    assert bars == [pytest.approx([10, 10]), pytest.approx([50, 50])]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["head only", "LoRA"]
    assert axes.get_xlabel() == "matthews on validation (%)"


# The command


def test_the_command_prints_a_table_and_writes_runs_summary_and_figure(encoder, rows, tmp_path, capsys):
    output = tmp_path / "new" / "runs.jsonl"
    assert main(command(output, encoder, rows, methods=["head", "lora", "prilora", "full"], seeds=["0"])) == 0
    out, err = capsys.readouterr()
    records = study.read_records(output)
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
    main(command(output, encoder, rows, seeds=["0", "1"]))
    assert output.read_bytes().startswith(first)
    assert [(r["name"], r["seed"]) for r in study.read_records(output)] == [
        ("lora", 0), ("prilora", 0), ("lora", 1), ("prilora", 1),
    ]  # fmt: skip


def test_other_settings_are_other_runs(encoder, rows, tmp_path):
    output = tmp_path / "runs.jsonl"
    main(command(output, encoder, rows, methods=["lora"], seeds=["0"]))
    main(command(output, encoder, rows, "--set", "epochs=2", "batch_size=8", methods=["lora"], seeds=["0"]))
    assert [r["settings"]["epochs"] for r in study.read_records(output)] == [1, 2]


def test_other_rows_are_other_runs(encoder, rows, tmp_path):
    output, other = tmp_path / "runs.jsonl", write_rows(tmp_path / "rows", TASKS["cola"], seed=1)
    main(command(output, encoder, rows, methods=["head"], seeds=["0"]))
    main(command(output, encoder, other, methods=["head"], seeds=["0"]))
    assert len(study.read_records(output)) == 2


def test_settings_may_be_given_in_several_places(encoder, rows, tmp_path):
    output = tmp_path / "runs.jsonl"
    main([*command(output, encoder, rows, methods=["head"], seeds=["0"]), "--set", "weight_decay=0.1"])
    (settings,) = [r["settings"] for r in study.read_records(output)]
    assert (settings["epochs"], settings["weight_decay"]) == (1, 0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_killed_and_started_again_it_ends_as_if_undisturbed(encoder, rows, tmp_path):
    killed, undisturbed = tmp_path / "killed.jsonl", tmp_path / "undisturbed.jsonl"
    arguments = command(killed, encoder, rows)
    code = f"import sys, torch; torch.set_num_threads(1); from prilora_lite.cli import main; main({arguments!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    for line in process.stderr:
        if line.startswith(b"[3/4]"):  # the third run has just begun
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(study.read_records(killed)) == 2
    assert main(arguments) == main(command(undisturbed, encoder, rows)) == 0

    def essence(path):
        return [(r["name"], r["seed"], r["metrics"], r["curve"]) for r in study.read_records(path)]

    assert len(essence(killed)) == 4
    assert essence(killed) == essence(undisturbed)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "colla"], "did you mean 'cola'?"),
        (["--methods", "prilorra"], "did you mean 'prilora'?"),
        (["--set", "epoch=1"], "unknown setting 'epoch': did you mean 'epochs'?"),
        (["--set", "epochs=many"], "--set epochs=many: expected epochs=NUMBER"),
        (["--set", "epochs=0"], "epochs must be a finite number above 0"),
        (["--rows", "/no/such/folder"], "no such folder"),
        (["--output", "runs.csv"], "expected a name that ends in .jsonl"),
        (["--encoder", "no/such/encoder"], "could not load the encoder 'no/such/encoder'"),
    ],
)
def test_a_mistake_is_one_message_and_no_traceback(more, message, encoder, rows, tmp_path, capsys):
    assert main(command(tmp_path / "runs.jsonl", encoder, rows, *more)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert message in error


def test_help_names_all_methods_and_tasks(capsys):
    with pytest.raises(SystemExit):
        main(["ablate", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in study.METHODS)
    assert "cola sst2 mrpc stsb qqp mnli qnli rte wnli" in " ".join(text.split())
