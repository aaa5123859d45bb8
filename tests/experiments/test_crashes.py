"""Runs that crashed are named wherever the others are reported: those that are left may be the lucky ones."""

import json

import pytest

from prilora_lite.cli import main
from prilora_lite.experiments.crashes import crashed_runs
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.reporting import check_places, conclusion, groups, report
from prilora_lite.experiments.study import read_crashes
from tests.experiments.stored import stored, write

ERROR = "ValueError: the model predicts NaN or infinity on cola: it diverged | lower the learning rate"
RUNS = [stored("lora", s, 0.5 + s / 100) for s in range(5)] + [stored("prilora", s, 0.6 + s / 90) for s in (0, 1)]


def crash(name, seed, error=ERROR, **more):
    run = stored(name, seed, **more)
    parts = ("key", "name", "encoder", "settings", "task", "method", "seed", "environment")
    return {part: run[part] for part in parts} | {"error": error}


CRASHES = [crash("prilora", seed) for seed in (2, 3, 4)]


def words(text):
    return " ".join(text.split())


def test_a_crash_counts_until_its_run_is_made_and_by_its_last_error(tmp_path):
    lines = [crash("lora", 0), crash("lora", 1, "first"), crash("lora", 1, "second"), stored("lora", 0)]
    assert [run["error"] for run in read_crashes(write(tmp_path / "runs.jsonl", lines))] == ["second"]


def test_the_report_names_runs_that_crashed_and_says_so_beside_the_verdict():
    text = report(RUNS, CRASHES)
    assert max(map(len, text.split("\n"))) <= 80
    assert f"left out: PRILoRA (4..12, pruned) on cola, seeds 2, 3, 4, which crashed: {ERROR}" in words(text)
    assert "difference\n               3 seeds of PRILoRA (4..12, pruned) crashed" in text


def test_an_exploratory_difference_says_it_too():
    text = report([*RUNS, *(stored("ranks", s, 0.7 + s / 80) for s in range(3))], [crash("ranks", 3)])
    exploratory = text[text.index("exploratory") :]
    assert f"1 seed of {METHODS['ranks'].label} crashed" in words(exploratory)


def test_the_conclusion_says_it_too():
    runs = groups(RUNS)["pocket"]
    said = "But 3 seeds of PRILoRA (4..12, pruned) crashed."
    assert words(conclusion(runs, 1, crashed_runs(RUNS, CRASHES))).endswith(said)
    assert "crashed" not in conclusion(runs, 1)


def test_a_crash_at_other_settings_stands_by_itself():
    text = report(RUNS, [crash("prilora", 7, settings={"learning_rate": 9.0})])
    assert "\n\npocket, learning_rate=9\n" in text
    assert "crashed" not in text.split("pocket, learning_rate=9")[0]


def test_the_markdown_names_them_and_is_known_again(tmp_path):
    file = write(tmp_path / "runs.jsonl", [*RUNS, *CRASHES])
    assert main(["report", str(file)]) == 0
    text = file.with_suffix(".md").read_text(encoding="utf-8")
    error = ERROR.replace("|", "\\|")  # which a cell of a table shows as it is
    assert f"| PRILoRA (4..12, pruned) | cola | 2, 3, 4 | {error} |" in text
    check_places(file)


def test_a_file_in_which_all_runs_crashed_says_so(tmp_path, capsys):
    assert main(["report", str(write(tmp_path / "runs.jsonl", CRASHES))]) == 2
    assert f"no runs to report: all 3 crashed, the last: {ERROR}" in capsys.readouterr().err


@pytest.mark.parametrize("line", [{"error": "no key"}, {"key": 1, "error": "no name"}])
def test_a_line_of_a_crash_that_says_too_little_is_passed_over(line, tmp_path):
    file = write(tmp_path / "runs.jsonl", RUNS)
    file.write_text(file.read_text(encoding="utf-8") + json.dumps(line) + "\n", encoding="utf-8")
    assert read_crashes(file) == []
