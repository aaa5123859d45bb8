"""Reports: runs that differ stand apart, a run without a number is named, and nobody's file is written over."""

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from prilora_lite import PRILoRAConfig, ablate, grid
from prilora_lite.cli import main
from prilora_lite.experiments import answers, reporting
from prilora_lite.experiments.comparison import explore, paired_differences
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.questions import read_questions
from prilora_lite.experiments.reporting import conclusion, groups, report, summarize, to_dataframe
from prilora_lite.shared import records
from prilora_lite.shared.records import Records
from tests.experiments.stored import stored, write

OWN = {"name": "mine", "columns": ["text"], "labels": ["bad", "good"], "metrics": ["accuracy"], "splits": ["dev"]}
LORA = METHODS["lora"].trains

# Two kinds of runs, and what must stand in the titles of their tables
KINDS = {
    "a sample and all rows": ({"rows": "sample"}, {"rows": "all"}, "rows sample"),
    "two precisions": ({"precision": "bf16"}, {"precision": "fp32"}, "bf16"),
    "other weights under one name": ({"weights": "a" * 16}, {"weights": "b" * 16}, f"weights {'a' * 16}"),
    "older runs that do not say": ({"weights": None}, {}, "weights not recorded"),
    "two settings": ({"settings": {"epochs": 1}}, {}, "epochs=1"),
    "two settings that look alike in six digits": (
        {"settings": {"learning_rate": 1e-3 / 3}},
        {"settings": {"learning_rate": 0.000333333}},
        "=0.000333333",
    ),
    "two tasks of one name": (
        {"task": "mine", "definition": OWN},
        {"task": "mine", "definition": OWN | {"metrics": ["matthews"]}},
        "metrics ['accuracy']",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_runs_that_differ_are_never_averaged(kind):
    one, other, said = KINDS[kind]
    runs = [stored(seed=s, value=v, **more) for v, more in ((0.6, one), (0.8, other)) for s in (0, 1)]
    tables = {title: summarize(frame) for title, frame in groups(runs).items()}
    assert sorted((t["mean"].item(), t["seeds"].item()) for t in tables.values()) == [(0.6, 2), (0.8, 2)]
    assert any(said in title for title in tables)
    assert sorted(summarize(to_dataframe(runs))["mean"]) == [0.6, 0.8]  # nor in one frame


@pytest.mark.parametrize(
    "change",
    [{"ratio": 0.25}, {"dropout": 0.1}, {"regrow": False}, {"layers": (0, 1)}],
    ids=str,
)
def test_two_configurations_under_one_name_are_never_averaged(change):
    configs = PRILoRAConfig(first_rank=3, last_rank=5), replace(PRILoRAConfig(first_rank=3, last_rank=5), **change)
    runs = [
        stored(seed=s, value=v, method=config) | {"name": "mine"}
        for v, config in zip((0.6, 0.8), configs, strict=True)
        for s in (0, 1)
    ]
    (frame,) = groups(runs).values()
    table = summarize(frame)
    assert sorted(table["mean"]) == [0.6, 0.8]
    assert all(next(iter(change)) in name for name in table["method"])


def test_a_difference_is_not_taken_over_two_kinds_of_runs():
    runs = [stored(name, s, rows=rows) for rows in ("sample", "all") for name in ("lora", "prilora") for s in (0, 1)]
    with pytest.raises(ValueError, match="two different runs of 'lora' on cola with seed 0"):
        paired_differences(to_dataframe(runs), "prilora", "lora")
    assert report(runs).count("the main comparison") == 2


def test_a_run_that_was_stored_twice_counts_once():
    one = stored(seed=0, value=0.6, settings={"epochs": 3})
    twin = stored(seed=0, value=0.6, settings={"epochs": 3.0})
    assert len(to_dataframe([one, twin, one, stored(seed=1)])) == 2


def test_a_run_that_is_older_than_a_setting_counts_once_beside_its_newer_twin():
    newer = stored("prilora", seed=0, value=0.6)
    older = {**newer, "method": {name: v for name, v in newer["method"].items() if name not in ("layers", "ranks")}}
    assert len(to_dataframe([newer, older])) == 1


def test_configurations_that_differ_in_a_seldom_setting_have_a_column_of_it():
    matrix = replace(METHODS["prilora"].trains, scope="matrix").to_dict()
    frame = to_dataframe([stored("prilora", seed=0), {**stored("prilora", seed=1), "method": matrix}])
    assert frame["scope"].tolist() == ["row", "matrix"]
    assert not {"regrow", "decay", "ranks", "targets", "dropout"} & set(frame)


def test_one_encoder_in_two_places_is_one_group():
    runs = [stored(seed=0, encoder="here/encoder"), stored(seed=1, encoder="/there/encoder")]
    ((title, frame),) = groups(runs).items()
    assert (title, len(frame)) == ("here/encoder", 2)


def test_a_task_that_is_not_glues_is_in_the_table():
    runs = [stored(seed=0, task="mine", definition=OWN, encoder="e"), stored(seed=0, task="rte", encoder="e")]
    assert "| method | rte, accuracy % | mine, accuracy % |" in reporting.markdown_table(to_dataframe(runs))


# Runs without a number


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_run_without_a_number_is_named_and_does_not_count(value, tmp_path):
    values = {"lora": (0.5, 0.6, value), "prilora": (0.7, 0.801, 0.9)}
    runs = [stored(name, seed, v) for name, vs in values.items() for seed, v in enumerate(vs)]
    text = report(runs)
    assert f"left out: LoRA (r = 8) on cola, seed 2, whose matthews is {value}" in text
    assert "over 2 to 3 seeds" in text
    assert " +20.1 ( 19.4 to  20.7)" in text  # of two pairs: 20.05, give or take 12.7 times 0.05
    assert "| LoRA (r = 8) | 55.0 (7.1) [2] |" in reporting.markdown_table(to_dataframe(runs))
    assert "2 seeds: +20.1 points" in " ".join(conclusion(to_dataframe(runs), 1).split())
    assert "figure" in reporting.write(write(tmp_path / "runs.jsonl", runs))


def test_a_method_without_any_number_stays_in_the_table(tmp_path):
    runs = [stored("lora", s, float("nan")) for s in (0, 1)]
    (row,) = summarize(to_dataframe(runs)).to_dict("records")
    assert (row["seeds"], np.isnan(row["mean"])) == (0, True)
    assert "nan" in report(runs)
    assert set(reporting.write(write(tmp_path / "runs.jsonl", runs))) == {"table", "markdown"}


# Methods that can't be compared

THREE = [
    stored(name, seed, 0.5 + seed / 10 + 0.001 * (name == "lora") * seed)
    for name in ("lora", "prilora")
    for seed in range(3)
]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([stored("head", 0, task="mrpc")], "head only: no seed of a task in common with LoRA (r = 8)"),
        ([stored("head", 7)], "head only: no seed of a task in common with LoRA (r = 8)"),
        ([stored("full", 0, float("nan"))], "full fine-tuning: no seed of a task in common with LoRA (r = 8)"),
        ([stored("head", 7), stored("full", 0)], "head only: no seed of a task in common with LoRA (r = 8)"),
        ([stored("ranks", 0), stored("pruning", 0, task="mrpc")], "pruning only (r = 8): no seed of a task in common"),
    ],
)
def test_a_method_that_can_not_be_compared_is_named_and_the_rest_is_reported(more, said, tmp_path, capsys):
    assert main(["report", str(write(tmp_path / "runs.jsonl", THREE + more))]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert said in out
    assert "equal within 1 point" in out
    assert {"runs.csv", "runs.md", "runs.png"} <= {path.name for path in tmp_path.iterdir()}


def test_the_named_pair_without_a_seed_in_common_does_not_end_the_report(tmp_path, capsys):
    runs = [stored("lora", s) for s in (0, 1)] + [stored("prilora", s) for s in (2, 3)] + [stored("head", 0)]
    assert main(["report", str(write(tmp_path / "runs.jsonl", runs))]) == 0
    out = capsys.readouterr().out
    assert "they have no seed of a task in common" in out
    assert " head only\n  cola" in out


def test_four_ideas_on_two_tasks_have_no_figure_of_ideas(tmp_path):
    names = {"cola": ("lora", "ranks"), "rte": ("pruning", "prilora")}
    runs = [stored(name, s, task=task) for task, some in names.items() for name in some for s in (0, 1)]
    assert "ideas" not in reporting.write(write(tmp_path / "runs.jsonl", runs))


def test_explore_itself_still_refuses_a_method_without_a_common_seed():
    with pytest.raises(ValueError, match="no seed of a task in common"):
        explore(to_dataframe([*THREE, stored("head", 9)]))


# Files of others


@pytest.fixture
def study_file(tmp_path):
    return write(tmp_path / "plan.jsonl", THREE)


NOTES = {
    "plan.md": b"# What we planned, by hand\n",
    "plan.csv": b"my,own,table\n1,2,3\n",
    "plan.png": b"a picture of the board",
    "plan_cost.png": b"another one",
}


@pytest.mark.parametrize("name", NOTES)
def test_a_file_by_hand_beside_a_study_stays(name, study_file, capsys):
    (study_file.parent / name).write_bytes(NOTES[name])
    assert main(["report", str(study_file)]) == 2
    said = capsys.readouterr()
    assert f"{name} was not written by prilora-lite" in said.err
    assert "LoRA (r = 8)" in said.out  # the report itself is printed
    assert {path.name: path.read_bytes() for path in study_file.parent.iterdir()} == {
        name: NOTES[name], study_file.name: study_file.read_bytes(),
    }  # fmt: skip


def test_a_figure_of_a_study_whose_name_ends_like_a_kind_of_figure_stays(tmp_path):
    runs = [stored(name, seed) for name in ("lora", "prilora", "full") for seed in range(3)]
    mine, other = write(tmp_path / "mine.jsonl", runs), write(tmp_path / "mine_cost.jsonl", THREE)
    reporting.write(other)
    before = (tmp_path / "mine_cost.png").read_bytes()
    with pytest.warns(UserWarning, match=r"mine_cost.png belongs to another study, so the figure is not written"):
        written = reporting.write(mine)
    assert (tmp_path / "mine_cost.png").read_bytes() == before
    assert "cost" not in written
    other.with_suffix(".md").unlink()
    assert "cost" in reporting.write(mine)


@pytest.mark.parametrize(
    "text",
    [
        "\nWhat this means: nothing yet.\n",
        "\n# Notes\n\n| a | b |\n",
        "\n| method | mine |\n",
        "a line below the table\n",
    ],
)
def test_a_table_to_which_notes_were_added_stays(text, study_file, capsys):
    assert main(["report", str(study_file)]) == 0
    table = study_file.with_suffix(".md")
    table.write_text(table.read_text(encoding="utf-8") + text, encoding="utf-8")
    before = table.read_bytes()
    assert main(["report", str(study_file)]) == 2
    assert table.read_bytes() == before


def test_tables_and_figures_of_its_own_are_written_anew(study_file):
    assert main(["report", str(study_file)]) == 0
    first = study_file.with_suffix(".md").read_bytes()
    write(study_file, [*THREE, stored("head", 0)])
    assert main(["report", str(study_file)]) == 0
    assert study_file.with_suffix(".md").read_bytes() != first


def test_a_figure_of_somebody_elses_stays(study_file):
    assert main(["report", str(study_file)]) == 0
    other = study_file.with_name(f"{study_file.stem}_grid.png")
    Figure().savefig(other)
    before = other.read_bytes()
    assert main(["report", str(study_file)]) == 2
    assert other.read_bytes() == before


@pytest.mark.parametrize("name", ["pocket", "pocket_grid", "minilm_glue"])
def test_tables_that_were_written_before_are_known_as_its_own(name, tmp_path):
    for file in (Path(__file__).parents[2] / "results").glob(f"{name}*"):
        shutil.copy(file, tmp_path)
    reporting.check_places(tmp_path / f"{name}.jsonl")


def test_notes_beside_a_study_are_found_before_its_first_run(tmp_path, capsys):
    (tmp_path / "plan.md").write_text("by hand", encoding="utf-8")
    assert main(["ablate", "--methods", "head", "--seeds", "0", "--output", str(tmp_path / "plan.jsonl")]) == 2
    assert not (tmp_path / "plan.jsonl").exists()


def test_answers_are_not_written_over_by_tables_of_their_runs(tmp_path, capsys):
    file = write(tmp_path / "asked.jsonl", THREE)
    answered = b"question,contrast,tasks,seeds\na,b,c,1\n"
    (tmp_path / "asked.csv").write_bytes(answered)
    assert main(["report", str(file)]) == 2
    assert "asked.csv holds the answers to questions" in capsys.readouterr().err
    assert (tmp_path / "asked.csv").read_bytes() == answered


def test_figures_of_runs_that_are_gone_go_with_them_and_another_studys_stay(tmp_path):
    ideas = [stored(name, s, 0.5 + s / 10) for name in ("lora", "ranks", "pruning", "prilora") for s in (0, 1)]
    file, other = write(tmp_path / "plan.jsonl", ideas), write(tmp_path / "plan_grid.jsonl", THREE)
    assert "ideas" in reporting.write(file)
    reporting.write(other)
    write(file, THREE)
    reporting.write(file)
    assert not (tmp_path / "plan_ideas.png").exists()
    assert (tmp_path / "plan_grid.png").exists()


def test_notes_beside_questions_stay(tmp_path):
    results = Path(__file__).parents[2] / "results"
    (tmp_path / "questions.md").write_text("by hand", encoding="utf-8")
    with pytest.raises(ValueError, match=r"questions\.md was not written by prilora-lite"):
        answers.write(read_questions(results / "questions.toml"), tmp_path / "questions")
    assert [path.name for path in tmp_path.iterdir()] == ["questions.md"]


# Long files


@pytest.fixture
def parsed(monkeypatch):
    """Every line that was read as JSON from a file of runs."""
    lines = []

    class Counted:
        dumps = staticmethod(json.dumps)

        @staticmethod
        def loads(line):
            lines.append(line)
            return json.loads(line)

    monkeypatch.setattr(records, "json", Counted)
    return lines


def test_a_restart_reads_each_line_once(tmp_path, rows, encoder, parsed):
    options = {"encoder": encoder, "rows": rows, "overrides": {"epochs": 1, "batch_size": 8, "max_length": 16}}
    options |= {"device": "cpu", "progress": False}
    file = tmp_path / "runs.jsonl"
    (run,) = ablate(grid(["head"], ["cola"], [0]), file, **options)
    write(file, [run | {"seed": s, "key": [run["key"][0], s, *run["key"][2:]]} for s in range(500)])
    parsed.clear()
    assert len(ablate(grid(["head"], ["cola"], range(500)), file, **options)) == 500
    assert len(parsed) == 500


def test_a_run_that_is_added_reads_only_what_is_new(tmp_path, parsed):
    file = write(tmp_path / "runs.jsonl", [stored(seed=s) for s in range(100)])
    growing = Records(file)
    for seed in range(100, 200):
        assert growing.append(stored(seed=seed))
        assert not growing.append(stored(seed=seed))
    assert len(growing.read()) == 200
    assert len(parsed) == 200


def test_what_another_process_adds_meanwhile_is_seen(tmp_path):
    file = write(tmp_path / "runs.jsonl", [stored(seed=0)])
    growing, other = Records(file), Records(file)
    assert len(growing.read()) == 1
    assert other.append(stored(seed=1))
    assert not growing.append(stored(seed=1))
    assert [run["seed"] for run in growing.read()] == [0, 1]


def test_a_file_that_was_made_shorter_is_read_anew(tmp_path):
    file = write(tmp_path / "runs.jsonl", [stored(seed=s) for s in range(3)])
    growing = Records(file)
    assert len(growing.read()) == 3
    write(file, [stored(seed=7)])
    assert [run["seed"] for run in growing.read()] == [7]
    file.unlink()
    assert growing.read() == []


def test_a_broken_line_is_named_by_its_number_each_time(tmp_path):
    file = write(tmp_path / "runs.jsonl", [stored(seed=0)])
    file.write_text(file.read_text(encoding="utf-8") + "{\n{}\n", encoding="utf-8")
    growing = Records(file)
    for _ in range(2):
        with pytest.raises(ValueError, match="line 2 is not JSON"):
            growing.read()


def test_a_file_that_a_shell_joined_in_another_encoding_is_called_so(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps(stored(seed=s)) + "\n" for s in range(2)), encoding="utf-16")
    with pytest.raises(ValueError, match="in UTF-16, as `>` writes in Windows PowerShell: save it in UTF-8"):
        Records(file).read()


def test_a_terminal_that_lacks_a_letter_loses_no_table(tmp_path, monkeypatch):
    named = {"task": "mein Täsk", "definition": OWN | {"name": "mein Täsk"}}
    file = write(tmp_path / "runs.jsonl", [stored(name, s, **named) for name in ("lora", "prilora") for s in (0, 1)])
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["report", str(file)]) == 0
    terminal.flush()
    assert b"mein T?sk" in terminal.buffer.getvalue()
    assert "mein Täsk" in file.with_suffix(".md").read_text(encoding="utf-8")


def test_runs_of_two_lengths_are_not_paired():
    runs = [stored("lora", s, settings={"epochs": 1.0}) for s in (0, 1)]
    runs += [stored("prilora", s, settings={"epochs": 3.0}) for s in (0, 1)]
    with pytest.raises(ValueError, match=r"on cola have runs of several groups, .*: more than the method differs"):
        paired_differences(to_dataframe(runs), "prilora", "lora")
