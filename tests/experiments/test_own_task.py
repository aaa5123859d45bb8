"""A task of one's own, from its files to a run, a study, a table and a card."""

import json
import random

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset
from huggingface_hub import ModelCard

from prilora_lite import (
    PRILoRAConfig,
    Settings,
    Task,
    ablate,
    adapt,
    evaluate,
    finetune,
    grid,
    load_adapter,
    load_encoder,
    save_peft_adapter,
)
from prilora_lite.cli import main
from prilora_lite.experiments import learning_rates, study
from prilora_lite.experiments.study import read_runs
from tests.experiments.test_questions import FILE
from tests.small_models import WORDS

MINE = Task("mine", ("text",), ("bad", "neither", "good"), ("accuracy", "matthews"))
HOW_GOOD = Task("how-good", ("text", "other"))
SHORT = Settings(learning_rate=5e-3, epochs=1, batch_size=8, max_length=16)
CONFIG = PRILoRAConfig(first_rank=1, last_rank=2, interval=2)
OPTIONS = {"settings": SHORT, "device": "cpu", "precision": "fp32", "progress": False}


def frames(task):
    """Random sentences with the words of the tests' encoder."""
    made, generator = {}, random.Random(0)
    for split, count in (("train", 40), ("validation", 16)):
        rows = []
        for _ in range(count):
            texts = [" ".join(generator.choices(WORDS, k=generator.randint(4, 9))) for _ in task.columns]
            label = "good" if "good" in texts[0] else "bad" if "bad" in texts[0] else "neither"
            rows.append([*texts, label if task.labels else generator.random()])
        made[split] = pd.DataFrame(rows, columns=[*task.columns, "label"])
    return made


@pytest.fixture
def folder(tmp_path):
    """Rows as CSV files, where a task's rows are in a folder."""
    for task in (MINE, HOW_GOOD):
        (tmp_path / "rows" / task.name).mkdir(parents=True)
        for split, frame in frames(task).items():
            frame.to_csv(tmp_path / "rows" / task.name / f"{split}.csv", index=False)
    return tmp_path / "rows"


def by_split(task, kind, folder):
    files = {split: folder / task.name / f"{split}.csv" for split in ("train", "validation")}
    if kind == "CSV":
        return files
    if kind == "Dataset":
        return {split: Dataset.from_pandas(frame) for split, frame in frames(task).items()}
    if kind == "ClassLabel":
        names = sorted(task.labels)  # not the task's order
        data = {s: Dataset.from_pandas(f.assign(label=f["label"].map(names.index))) for s, f in frames(task).items()}
        return {split: rows.cast_column("label", ClassLabel(names=names)) for split, rows in data.items()}
    return folder


@pytest.mark.parametrize("kind", ["folder", "CSV", "Dataset", "ClassLabel"])
def test_a_run_on_rows_of_ones_own_is_the_same_wherever_they_come_from(kind, encoder, folder, tmp_path):
    rows = by_split(MINE, kind, folder)
    result = finetune(MINE, CONFIG, encoder=encoder, rows=rows, output_dir=tmp_path / "run", **OPTIONS)
    assert result.task == "mine"
    assert list(result.metrics) == ["accuracy", "matthews"]
    same = finetune(MINE, CONFIG, encoder=encoder, rows=folder, **OPTIONS)
    assert (result.curve, result.losses, result.history) == (same.curve, same.losses, same.history)
    said = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["task"]
    assert said == {
        "name": "mine", "columns": ["text"], "labels": ["bad", "neither", "good"],
        "metrics": ["accuracy", "matthews"], "splits": ["validation"],
    }  # fmt: skip


def test_the_metric_of_a_regression_is_that_of_the_saved_file(encoder, folder, tmp_path):
    result = finetune(HOW_GOOD, CONFIG, encoder=encoder, rows=folder, output_dir=tmp_path, **OPTIONS)
    model, tokenizer = load_encoder(encoder, HOW_GOOD)
    load_adapter(model, result.path)
    more = {"max_length": 16, "device": "cpu", "precision": "fp32", "progress": False}
    assert evaluate(model, tokenizer, HOW_GOOD, rows=folder, **more) == result.metrics
    assert list(result.metrics) == ["pearson_spearman"]


@pytest.mark.parametrize("name", ["all", "two\nlines", "a\tb"])
def test_a_name_that_tables_would_mistake_is_refused(name):
    with pytest.raises(ValueError, match="give it a name of one line; in tables, all is the mean over tasks"):
        Task(name, ("text",), ("bad", "good"))


def test_a_model_that_numbers_the_same_labels_otherwise_is_not_judged(encoder, folder):
    model, tokenizer = load_encoder(encoder, MINE)
    turned = Task("mine", ("text",), ("good", "neither", "bad"))
    with pytest.raises(
        ValueError, match="the model numbers its labels bad, neither, good, but mine good, neither, bad"
    ):
        evaluate(model, tokenizer, turned, rows=folder, max_length=16, progress=False)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_of_ones_own_tasks_by_any_number_of_jobs(jobs, encoder, folder, tmp_path):
    runs = grid(["head"], [MINE, HOW_GOOD], [0, 1])
    options = {"encoder": encoder, "rows": folder, "overrides": {"epochs": 1, "batch_size": 8, "max_length": 16}}
    options |= {"device": "cpu", "precision": "fp32", "progress": False, "jobs": jobs}
    records = ablate(runs, tmp_path / "runs.jsonl", **options)
    assert [(r["task"], r["seed"]) for r in records] == [("mine", 0), ("how-good", 0), ("mine", 1), ("how-good", 1)]
    before = (tmp_path / "runs.jsonl").read_bytes()
    assert ablate(runs, tmp_path / "runs.jsonl", **options) == records
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_the_rows_of_a_study_of_one_task_may_be_given_by_split(encoder, folder, tmp_path):
    rows = by_split(MINE, "CSV", folder)
    options = {"overrides": {"epochs": 1, "batch_size": 8, "max_length": 16}, "encoder": encoder, "progress": False}
    (one,) = ablate(grid(["head"], [MINE], [0]), tmp_path / "runs.jsonl", rows=rows, **options)
    assert ablate(grid(["head"], [MINE], [0]), tmp_path / "runs.jsonl", rows={"mine": rows}, **options) == [one]
    with pytest.raises(ValueError, match="rows holds train, validation, but not mine: give "):
        ablate(grid(["head"], [MINE, HOW_GOOD], [0]), tmp_path / "runs.jsonl", rows=rows, **options)


STUDY = """
encoder = {encoder}
rows = {rows}
methods = ["head"]
seeds = [0, 1]
precision = "fp32"
device = "cpu"
[task]
name = "mine"
columns = ["text"]
labels = ["bad", "neither", "good"]
metrics = ["accuracy", "matthews"]
[set]
epochs = 1
batch_size = 8
max_length = 16
"""


def study_file(encoder, folder, tmp_path, text=STUDY):
    file = tmp_path / "study.toml"
    file.write_text(text.format(encoder=json.dumps(encoder), rows=json.dumps(str(folder))), encoding="utf-8")
    return str(file)


def test_a_studys_file_may_describe_the_task(encoder, folder, tmp_path, capsys):
    assert main(["ablate", study_file(encoder, folder, tmp_path), "--jobs", "2"]) == 0
    assert "mine, accuracy %" in capsys.readouterr().out
    assert {run["task"] for run in read_runs(tmp_path / "study.jsonl")} == {"mine"}
    assert "| method | mine, accuracy % |" in (tmp_path / "study.md").read_text(encoding="utf-8")
    before = (tmp_path / "study.jsonl").read_bytes()
    assert main(["ablate", str(tmp_path / "study.toml")]) == 0
    assert (tmp_path / "study.jsonl").read_bytes() == before


def test_a_task_of_the_file_stands_beside_others_by_its_name(encoder, folder, tmp_path):
    file = study_file(encoder, folder, tmp_path, 'tasks = ["colla", "mine"]' + STUDY)
    assert main(["ablate", file, "--tasks", "mine", "--seeds", "0"]) == 0
    assert len(read_runs(tmp_path / "study.jsonl")) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('labels = ["bad"', 'label = ["bad"', "unknown part of [task] 'label': did you mean 'labels'?"),
        ('name = "mine"', "", "[task] lacks name"),
        ('columns = ["text"]', 'columns = "text"', "columns of the task mine must be names"),
        ('"accuracy"', '"acuracy"', "did you mean 'accuracy'"),
        ("[task]", "[tasks]", "tasks must be a list, got {'name': 'mine'"),
        ("[task]", "[[task]]", "task must be a table [task] with name, columns"),
    ],
)
def test_a_mistake_in_the_task_of_a_file_is_one_message(old, new, message, encoder, folder, tmp_path, capsys):
    assert main(["ablate", study_file(encoder, folder, tmp_path, STUDY.replace(old, new))]) == 2
    assert message in capsys.readouterr().err


def test_a_row_that_can_not_be_used_is_named_before_any_run(encoder, folder, tmp_path, capsys):
    file = folder / "mine" / "validation.csv"
    file.write_text(file.read_text(encoding="utf-8").replace(",neither", ",niether", 1), encoding="utf-8")
    assert main(["ablate", study_file(encoder, folder, tmp_path)]) == 2
    assert (
        "the validation rows of mine have the label 'niether', expected bad, neither, good" in capsys.readouterr().err
    )
    assert not read_runs(tmp_path / "study.jsonl")


# Runs that crash


@pytest.fixture
def crashing(monkeypatch):
    """Runs with some of the seeds crash."""
    seeds, real = set(), study.finetune

    def finetune(*args, seed, **more):
        if seed in seeds:
            raise RuntimeError("out of memory")
        return real(*args, seed=seed, **more)

    monkeypatch.setattr(study, "finetune", finetune)
    return seeds


def crash(encoder, folder, tmp_path, count):
    options = {"overrides": {"epochs": 1, "batch_size": 8, "max_length": 16}, "encoder": encoder, "rows": folder}
    return ablate(grid(["head"], [MINE], range(count)), tmp_path / "runs.jsonl", progress=False, **options)


def test_a_study_of_which_every_run_crashes_raises(encoder, folder, tmp_path, crashing):
    crashing |= {0, 1, 2}
    with pytest.raises(RuntimeError, match=r"3 of 3 runs crashed: RuntimeError: out of memory \(mine head, seed 0\)"):
        crash(encoder, folder, tmp_path, 3)


def test_a_study_of_which_some_runs_crash_says_so_at_its_end(encoder, folder, tmp_path, crashing):
    crashing |= {1, 2}
    with pytest.warns(UserWarning, match=r"2 of 3 runs crashed: RuntimeError: out of memory \(mine head, seed 1\)"):
        assert len(crash(encoder, folder, tmp_path, 3)) == 1
    crashing.clear()
    assert len(crash(encoder, folder, tmp_path, 3)) == 3


def test_a_study_whose_runs_crash_anew_beside_finished_ones_gives_these(encoder, folder, tmp_path, crashing):
    made = crash(encoder, folder, tmp_path, 1)
    crashing |= {1}
    with pytest.warns(UserWarning, match="1 of 2 runs crashed"):
        assert crash(encoder, folder, tmp_path, 2) == made


def test_the_command_says_it_too(encoder, folder, tmp_path, crashing, capsys):
    crashing |= {0, 1}
    assert main(["ablate", study_file(encoder, folder, tmp_path)]) == 1
    said = capsys.readouterr()
    assert "2 of 2 runs crashed: RuntimeError: out of memory" in said.err
    assert said.out == ""


# The card


@pytest.mark.parametrize("task", [MINE, "mine", None])
def test_a_card_names_no_dataset_that_was_not_named(task, encoder, tmp_path):
    pytest.importorskip("peft")
    model, _ = load_encoder(encoder, MINE)
    adapt(model, CONFIG)
    metrics = {"accuracy": 0.75} if task else None
    card = ModelCard.load(save_peft_adapter(model, tmp_path / "a", task=task, metrics=metrics) / "README.md")
    assert "glue" not in card.content.lower()
    assert f"| task | {task or 'unknown'} |" in card.text


def test_a_question_about_rows_of_ones_own_is_answered_from_any_folder(encoder, folder, monkeypatch, capsys):
    """The file says which task and where the rows are; its paths count from its own folder."""
    file = folder.parent / "asked.toml"
    own = f'rows = "{folder.name}"\n[task]\nname = "mine"\ncolumns = ["text"]\nlabels = ["bad", "neither", "good"]\n'
    asked = FILE.replace('"cola", "rte"', '"mine"').replace("count = 3", "count = 2")
    asked = asked.replace("{ epochs = 1 }", "{ epochs = 0.2, batch_size = 8, max_length = 16 }")
    file.write_text(f"{own}{asked}encoder = {json.dumps(str(encoder))}\nrate_of = 'lora'\n", encoding="utf-8")
    monkeypatch.setattr(learning_rates, "RATE_SEEDS", (0,))
    monkeypatch.setattr(learning_rates, "choose_rate", lambda means, rule: (1e-3, []))
    monkeypatch.chdir("/")
    assert main(["ask", str(file)]) == 0
    assert "rising minus flat; mine, 2 seeds" in " ".join(capsys.readouterr().out.split())
    assert [run["task"] for run in read_runs(file.with_suffix(".jsonl"))] == ["mine"] * 4


def test_rows_that_are_not_there_leave_no_file_of_runs(encoder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no rows of mine"):
        ablate(grid(["lora"], [MINE], [0]), tmp_path / "runs.jsonl", encoder=encoder, rows=tmp_path)
    assert not (tmp_path / "runs.jsonl").exists()


def test_a_studys_file_is_read_from_another_folder(encoder, folder, monkeypatch):
    file = folder.parent / "study.toml"
    file.write_text(
        f"""
        rows = "{folder.name}"
        encoder = {json.dumps(str(encoder))}
        methods = ["head"]
        seeds = [0]
        [set]
        epochs = 0.2
        max_length = 16
        [task]
        name = "mine"
        columns = ["text"]
        labels = ["bad", "neither", "good"]
        """,
        encoding="utf-8",
    )
    monkeypatch.chdir("/")
    assert main(["ablate", str(file)]) == 0
    assert len(read_runs(file.with_suffix(".jsonl"))) == 1
