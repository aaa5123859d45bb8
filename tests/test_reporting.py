"""The report: what it says follows from the raw runs, and fits a terminal."""

import re
from pathlib import Path

import pytest

from prilora_lite.cli import main
from prilora_lite.comparison import compare
from prilora_lite.records import read_records
from prilora_lite.reporting import groups, report

RESULTS = Path(__file__).parent.parent / "results"
FILES = [RESULTS / "pocket.jsonl", RESULTS / "minilm_glue.jsonl"]


def test_runs_of_other_length_or_encoder_are_not_mixed():
    parts = groups(read_records(FILES[0]))
    assert set(parts) == {"pocket", "pocket, epochs=0.5", "pocket-random"}
    for runs in parts.values():
        assert not runs.duplicated(["task", "method", "seed"]).any()


def test_presets_whose_tasks_differ_in_length_stay_together():
    main_part = next(iter(groups(read_records(FILES[1])).items()))
    assert main_part[0] == "minilm"
    assert main_part[1]["epochs"].nunique() > 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_named_comparison_stands_in_the_report_with_its_interval(file):
    records = read_records(file)
    text = report(records)
    runs = groups(records)[next(iter(groups(records)))]
    for row in compare(runs, "prilora", "lora").itertuples():
        numbers = f"{100 * row.mean:+6.1f} ({100 * row.low:5.1f} to {100 * row.high:5.1f})"
        assert re.search(rf"{row.task} +{re.escape(numbers.strip())}", text), row


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_fits_a_terminal(file):
    assert max(map(len, report(read_records(file)).split("\n"))) <= 80


def test_what_spans_zero_is_called_no_difference_shown():
    for line in report(read_records(FILES[0])).split("\n"):
        found = re.search(r"\(\s*(-?[\d.]+) to\s+(-?[\d.]+)\)  (above|below|no)", line)
        if found and float(found[1]) < 0 < float(found[2]):
            assert found[3] == "no"


def test_the_command_prints_it_and_writes_tables_and_figures(tmp_path, capsys):
    assert main(["report", str(FILES[1]), "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(report(read_records(FILES[1])))
    named = [Path(line.split(": ")[1]) for line in out.rstrip().split("\n\n")[-1].split("\n")]
    assert sorted(named) == sorted(tmp_path.iterdir())
    assert {path.suffix for path in named} == {".csv", ".md", ".png"}


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["report", str(tmp_path / "no.jsonl")]) == 2
    assert "no.jsonl; prilora-lite ablate writes one" in capsys.readouterr().err


def test_an_empty_file_is_no_report(tmp_path, capsys):
    (tmp_path / "empty.jsonl").touch()
    assert main(["report", str(tmp_path / "empty.jsonl")]) == 2
    assert "no runs" in capsys.readouterr().err


def test_one_seed_has_no_interval(tmp_path):
    records = [r for r in read_records(FILES[1]) if r["seed"] == 0]
    assert "(one seed: no interval)" in report(records)
