"""The report: what it says follows from the raw runs, and fits a terminal."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from prilora_lite.cli import main
from prilora_lite.experiments.comparison import compare, decide, detectable_by_seeds, explore, paired_differences
from prilora_lite.experiments.figures import plot_cost
from prilora_lite.experiments.reporting import conclusion, groups, markdown_table, report, summarize, write
from prilora_lite.shared.records import read_records
from tests.experiments.stored import stored
from tests.experiments.stored import write as write_runs

RESULTS = Path(__file__).parents[2] / "results"
FILES = [RESULTS / "pocket.jsonl", RESULTS / "minilm_glue.jsonl", RESULTS / "pocket_grid.jsonl"]


def test_runs_of_other_length_or_encoder_are_not_mixed():
    parts = groups(read_records(FILES[0]))
    assert set(parts) == {"pocket", "pocket, epochs=0.5", "pocket-random"}
    for runs in parts.values():
        assert not runs.duplicated(["task", "method", "seed"]).any()


def test_presets_whose_tasks_differ_in_length_stay_together():
    main_part = next(iter(groups(read_records(FILES[1])).items()))
    assert main_part[0] == "minilm"
    assert main_part[1]["epochs"].nunique() > 1


@pytest.mark.parametrize("file", [FILES[0], FILES[2]], ids=lambda file: file.stem)
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


@pytest.mark.parametrize("file", [FILES[0], FILES[2]], ids=lambda file: file.stem)
def test_the_named_comparison_says_what_it_decides(file):
    records = read_records(file)
    runs = groups(records)[next(iter(groups(records)))]
    text = report(records)
    for task, differences in paired_differences(runs, "prilora", "lora").items():
        assert re.search(rf"{task} .*\)  {re.escape(decide(100 * differences, 1).verdict)}\n", text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_spans_zero_is_called_no_difference_shown(file):
    lines = re.findall(r"\(\s*(-?[\d.]+) to\s+(-?[\d.]+)\)(?:  p|   ) (.*)", report(read_records(file)))
    assert lines
    for low, high, rest in lines:
        assert re.search("above|below|no difference shown", rest), rest
        if float(low) < 0 < float(high):
            assert "no difference shown" in rest


def test_what_no_correction_leaves_standing_is_called_so():
    said = set()
    for file in FILES:
        lines = re.findall(r"\(\s*(-?[\d.]+) to\s+(-?[\d.]+)\)  p ([\d.]+)  (.*)", report(read_records(file)))
        for low, high, p, rest in lines:
            if float(low) > 0 or float(high) < 0:
                assert ("(uncorrected)" in rest) == (float(p) >= 0.05), rest
                said.add(rest)
    assert {"below", "below (uncorrected)"} <= said


def test_a_paired_difference_stands_beside_the_pooled_one_where_seeds_explain_nothing():
    """BitFit on MiniLM's CoLA, where it is not shown that the seed matters (p 0.06)."""
    text = report(read_records(FILES[1]))
    below = text[text.index("\n BitFit (biases)\n") + 1 :]
    assert re.match(r".*\n  cola +-7\.8 .*below\n +pooled +\(-10\.5 to  -5\.6\) +below\n", below)


def test_close_pairs_are_doubted_where_seeds_explain_nothing():
    """What a seed gives two of the methods it takes from two others; BitFit follows LoRA closely, 2 points below."""
    by_seed = [0, 0.04, -0.04, 0.02, -0.02]
    shapes = {"lora": (0.8, 1), "bitfit": (0.78, 1.02), "full": (0.8, -1), "head": (0.8, -1)}
    records = [
        stored(name, seed, mean + sign * shift)
        for name, (mean, sign) in shapes.items()
        for seed, shift in enumerate(by_seed)
    ]
    text = report(records)
    below = text[text.index("\n BitFit (biases)\n") + 1 :].split("\n")
    assert below[1].endswith("below")
    assert below[2].startswith("        pooled")
    assert below[2].endswith("no difference shown")


@pytest.mark.parametrize(
    "prilora", [(0.52, 0.62, 0.72), (0.1, 0.9, 0.3)], ids=["all seeds alike", "10,000 seeds or more"]
)
def test_a_long_verdict_is_wrapped(prilora):
    values = {"lora": (0.5, 0.6, 0.7), "prilora": prilora}
    text = report([stored(name, s, v, "pocket-cola") for name, vs in values.items() for s, v in enumerate(vs)])
    assert "not decided" in text
    assert max(map(len, text.split("\n"))) <= 80


def test_runs_from_several_machines_are_said_to_be_so():
    records = [r for r in read_records(FILES[0]) if r["task"] == "pocket-rte" and r["name"] in ("lora", "bitfit")]
    assert "several machines" not in report(records) + conclusion(groups(records)["pocket"], 1)
    for record in records:
        if record["name"] == "bitfit":
            record["environment"]["machine"] = "another"
    text = report(records)
    assert max(map(len, text.split("\n"))) <= 80
    said = "pocket-rte was run on several machines: a difference may be theirs, and times can't be compared"
    assert said in " ".join(text.split())
    assert "\n  another: BitFit (biases)\n" in text
    runs = groups(records)["pocket"]
    assert " ".join(conclusion(runs, 1).split()).endswith(f"{said}.")
    assert f"{said}\n\n| machine | methods |\n" in markdown_table(runs)
    assert plot_cost(runs).axes[1].get_title().startswith("pocket-rte, several machines\n")


def test_the_conclusion_is_a_sentence_for_each_task():
    runs = groups(read_records(FILES[0]))["pocket"]
    text = conclusion(runs, 1)
    assert max(map(len, text.split("\n"))) <= 80
    for task, differences in paired_differences(runs, "prilora", "lora").items():
        if task != "all":
            found = decide(100 * differences, 1)
            sentence = (
                f"on {task}, 5 seeds: {found.mean:+.1f} points (95 % interval {found.low:.1f} to {found.high:.1f})."
            )
            assert f"{sentence} {found.sentence}" in " ".join(text.split())


def test_the_conclusion_of_one_seed_decides_nothing():
    runs = groups(read_records(FILES[0]))["pocket"]
    text = conclusion(runs[(runs["seed"] == 0) & (runs["task"] == "pocket-rte")], 1)
    assert " ".join(text.split()).endswith("points. One seed says nothing of the scatter, so nothing is decided.")


def test_runs_that_all_have_one_score_come_with_a_warning():
    runs = groups(read_records(FILES[0]))["pocket"]
    alike = runs.assign(value=0.35)
    said = "they seem to give one answer to all rows"
    for task in set(runs["task"]):
        assert f"runs on {task} have the same" in " ".join(conclusion(alike, 1).split())
    assert said in " ".join(conclusion(alike, 1).split())
    assert "so nothing is decided" in " ".join(conclusion(alike, 1).split())
    assert said not in conclusion(runs, 1)


def test_there_is_no_conclusion_without_a_pair():
    runs = groups(read_records(FILES[0]))["pocket"]
    assert conclusion(runs[runs["method"] == "lora"], 1) == ""
    apart = runs[
        ((runs["method"] == "lora") & (runs["seed"] == 0)) | ((runs["method"] == "prilora") & (runs["seed"] == 1))
    ]
    assert conclusion(apart, 1) == ""


def test_the_looks_are_those_of_explore():
    runs = next(iter(groups(read_records(FILES[2])).values()))
    assert f"corrected for {len(explore(runs))} looks" in report(read_records(FILES[2]))


def test_it_says_what_more_seeds_would_show():
    runs = next(iter(groups(read_records(FILES[2])).values()))
    text = report(read_records(FILES[2]))
    for seeds, difference in detectable_by_seeds(explore(runs)).items():
        assert f"{seeds:>2} seeds: {100 * difference:5.1f}" in text


def test_named_methods_come_first_and_the_others_by_their_numbers():
    names = ["12..4, ratio 0.25", "8, ratio 0.25", "prilora", "10..6, ratio 0.5", "10..6, ratio 0.25", "lora"]
    rows = [
        {
            "task": "cola", "method": name, "metric": "m", "seed": 0, "value": 0.5, "adapter": 1, "adapter_nonzero": 1,
            "head": 1, "head_nonzero": 1, "seconds_per_step": 1.0,
        }
        for name in names
    ]  # fmt: skip
    assert summarize(pd.DataFrame(rows))["method"].tolist() == [
        "lora", "prilora", "8, ratio 0.25", "10..6, ratio 0.25", "10..6, ratio 0.5", "12..4, ratio 0.25",
    ]  # fmt: skip


def test_a_grid_has_no_figure_of_costs(tmp_path):
    assert "cost" not in write(FILES[2], tmp_path)
    assert "cost" in write(FILES[1], tmp_path)


def test_the_command_prints_it_and_writes_tables_and_figures(tmp_path, capsys):
    assert main(["report", str(FILES[1]), "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(report(read_records(FILES[1])))
    named = [Path(line.split(": ")[1]) for line in out.rstrip().split("\n\n")[-1].split("\n")]
    assert sorted(named) == sorted(tmp_path.iterdir())
    assert {path.suffix for path in named} == {".csv", ".md", ".png"}


def test_the_ranks_that_adalora_chose_in_two_encoders_have_a_table_each(tmp_path):
    runs = [run for file in FILES[:2] for run in read_records(file) if run["name"] == "adalora"]
    written = write(write_runs(tmp_path / "runs.jsonl", runs))  # of twelve layers and of six
    tables = re.findall(r"AdaLoRA of (\w+): .*\n\n(.*)", written["markdown"].read_text(encoding="utf-8"))
    assert [(title, head.count("layer")) for title, head in tables] == [("pocket", 12), ("minilm", 6)]
    assert "allocation" in written


def test_a_name_with_a_dot_keeps_it_in_every_file(tmp_path):
    for name in ("lr0.001.jsonl", "lr0.002.jsonl"):
        shutil.copy(FILES[1], tmp_path / name)
        write(tmp_path / name)
    assert {path.stem.split("_")[0] for path in tmp_path.iterdir()} == {"lr0.001", "lr0.002"}


@pytest.mark.parametrize("encoder", ["#1", "|one"])
def test_tables_of_an_encoder_with_a_strange_name_are_written_again(encoder, tmp_path):
    file = write_runs(tmp_path / "runs.jsonl", [stored("lora", seed=s, encoder=encoder) for s in (0, 1)])
    first = write(file)["markdown"].read_text(encoding="utf-8")
    assert first.startswith(f"\\{encoder}")
    assert write(file)["markdown"].read_text(encoding="utf-8") == first


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


def equal_within_3_points(folder):
    values = {"lora": (0.5, 0.6, 0.7, 0.65), "prilora": (0.51, 0.6, 0.69, 0.66)}
    runs = [stored(name, s, v) for name, vs in values.items() for s, v in enumerate(vs)]
    return write_runs(folder / "study.jsonl", runs)


def test_the_report_takes_the_margin_of_the_studys_file(tmp_path, capsys):
    file = equal_within_3_points(tmp_path)
    file.with_suffix(".toml").write_text("margin = 3\n", encoding="utf-8")
    assert main(["report", str(file)]) == 0
    out = capsys.readouterr().out
    assert "the main comparison, margin 3\n" in out
    assert "equal within 3 points" in out


def test_a_mistake_in_the_studys_file_is_told_and_not_passed_over(tmp_path, capsys):
    file = equal_within_3_points(tmp_path)
    file.with_suffix(".toml").write_text("margn = 3\n", encoding="utf-8")
    assert main(["report", str(file)]) == 2
    assert "did you mean 'margin'" in capsys.readouterr().err


def test_the_report_takes_another_margin(tmp_path, capsys):
    assert main(["report", str(equal_within_3_points(tmp_path)), "--margin", "3"]) == 0
    assert "equal within 3 points" in capsys.readouterr().out


def test_questions_have_margins_of_their_own(capsys):
    assert main(["report", str(RESULTS / "questions.toml"), "--margin", "3"]) == 2
    assert "each question has a margin of its own" in capsys.readouterr().err


def test_a_bar_in_a_name_keeps_to_its_cell():
    (runs,) = groups([stored(name, seed) for name in ("lora", "prilora") for seed in (0, 1)]).values()
    lines = markdown_table(runs.assign(method=runs["method"] + " | mine")).splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}) == 1
    assert any("\\| mine" in line for line in lines)
