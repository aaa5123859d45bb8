import re
import shutil

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from prilora_lite import TASKS, compute_metrics, load_rows
from prilora_lite.experiments import tasks
from prilora_lite.experiments.task import OF_CLASSES, OF_NUMBERS
from prilora_lite.experiments.tasks import METRICS, Task, get_task
from tests.small_models import write_rows

# From the GLUE paper and the dataset's own features: columns, classes, validation splits
GLUE = {
    "cola": (("sentence",), 2, 1),
    "sst2": (("sentence",), 2, 1),
    "mrpc": (("sentence1", "sentence2"), 2, 1),
    "stsb": (("sentence1", "sentence2"), 0, 1),
    "qqp": (("question1", "question2"), 2, 1),
    "mnli": (("premise", "hypothesis"), 3, 2),
    "qnli": (("question", "sentence"), 2, 1),
    "rte": (("sentence1", "sentence2"), 2, 1),
    "wnli": (("sentence1", "sentence2"), 2, 1),
}


def test_all_nine_tasks_have_glues_columns_labels_and_splits():
    glue = [task for task in TASKS.values() if task.hub == tasks.GLUE and not task.in_package]
    assert {t.name: (t.columns, len(t.labels), len(t.splits)) for t in glue} == GLUE
    assert TASKS["stsb"].num_labels == 1


@pytest.mark.parametrize("task", GLUE)
def test_rows_come_from_a_folder(task, rows):
    data = load_rows(task, rows)
    assert list(data) == ["train", *TASKS[task].splits]
    assert len(data["train"]) == 40
    assert set(TASKS[task].columns) < set(data["train"].column_names)


@pytest.mark.parametrize("split", ["train", "validation_matched", "validation_mismatched"])
def test_one_split_can_be_read_alone(split, rows):
    assert list(load_rows("mnli", rows, [split])) == [split]


@pytest.mark.parametrize("splits", ["test", ["test"]])
def test_a_split_that_a_task_of_the_package_has_not_is_named(splits):
    with pytest.raises(ValueError, match=r"lack the split .*; there are train, validation"):
        load_rows("pocket-rte", splits=splits)


def test_the_environment_variable_names_the_folder(rows, monkeypatch):
    monkeypatch.setenv("PRILORA_GLUE", str(rows))
    assert len(load_rows("cola")["train"]) == 40


def test_a_folder_may_have_other_rows_for_a_task_of_the_package(rows, tmp_path):
    shutil.copytree(rows / "cola", tmp_path / "pocket-cola")
    assert len(load_rows("pocket-cola", tmp_path)["train"]) == 40
    assert len(load_rows("pocket-cola", rows)["train"]) == 2000  # it need not
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_rows("pocket-cola", tmp_path / "nowhere")


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_folder_at_home_may_have_other_rows_for_a_task_of_the_package(by_variable, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(rows / "cola", tmp_path / "own" / "pocket-cola")
    if by_variable:
        monkeypatch.setenv("PRILORA_GLUE", "~/own")
    assert len(load_rows("pocket-cola", None if by_variable else "~/own")["train"]) == 40


def test_two_files_of_one_split_are_refused(rows, tmp_path):
    shutil.copytree(rows / "cola", tmp_path / "cola")
    (tmp_path / "cola" / "train.csv").write_text("sentence,label\na dog,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.parquet and .*train\.csv are both there: remove"):
        load_rows("cola", tmp_path)


@pytest.mark.parametrize("task", ["cola", "mrpc", "rte"])
def test_real_rows_load(task, real_rows):
    data = load_rows(task, real_rows)
    sizes = {"cola": (8551, 1043), "mrpc": (3668, 408), "rte": (2490, 277)}  # as GLUE's authors give them
    assert (len(data["train"]), len(data["validation"])) == sizes[task]


# Metrics, from their definitions


def scores(predicted, classes=2):
    return np.eye(classes)[predicted]


def test_every_metric_that_a_task_may_name_is_computed():
    assert set(METRICS) == {*OF_CLASSES, *OF_NUMBERS}


def test_accuracy_and_f1_by_hand():
    labels, predicted = [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]  # 2 true positives, 1 false positive, 1 false negative
    metrics = compute_metrics("mrpc", scores(predicted), labels)
    assert metrics == pytest.approx({"accuracy": 3 / 5, "f1": 2 * 2 / (2 * 2 + 1 + 1)})
    assert list(compute_metrics("qqp", scores(predicted), labels)) == ["accuracy", "f1"]


def test_matthews_by_hand():
    labels, predicted = [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]
    tp, tn, fp, fn = 2, 1, 1, 1
    expected = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert compute_metrics("cola", scores(predicted), labels)["matthews"] == pytest.approx(expected)


def test_correlations_by_hand():
    labels, predicted = np.array([0.0, 1.0, 2.0, 4.0]), np.array([1.0, 2.0, 8.0, 9.0])
    x, y = labels - labels.mean(), predicted - predicted.mean()
    pearson = (x @ y) / np.sqrt((x @ x) * (y @ y))
    metrics = compute_metrics("stsb", predicted[:, None], labels)
    assert metrics == pytest.approx({"pearson_spearman": (pearson + 1) / 2, "pearson": pearson, "spearman": 1.0})
    assert next(iter(metrics)) == "pearson_spearman"


@pytest.mark.parametrize("task", ["mnli", "qnli", "rte", "wnli", "sst2"])
def test_the_others_are_judged_by_accuracy(task):
    classes = len(TASKS[task].labels)
    assert compute_metrics(task, scores([0, 1, 1, classes - 1], classes), [0, 1, 0, 0]) == {"accuracy": 0.5}


def test_a_constant_prediction_counts_as_no_correlation():
    assert compute_metrics("stsb", np.ones((3, 1)), [0.0, 1.0, 2.0])["pearson_spearman"] == 0
    assert compute_metrics("cola", scores([1, 1, 1]), [0, 1, 1])["matthews"] == 0


def test_predictions_that_differ_by_rounding_alone_count_as_no_correlation():
    labels = np.repeat(np.arange(6.0), 2)
    predicted = np.full(12, 2.5, np.float32)
    predicted[labels > 2] = np.nextafter(predicted[0], np.float32(3))  # by one bit
    assert set(compute_metrics("stsb", predicted, labels).values()) == {0.0}
    assert compute_metrics("stsb", -predicted, labels)["spearman"] == 0
    small = 1e-8 * labels  # whatever their size, these differ by more
    assert compute_metrics("stsb", small, labels)["pearson_spearman"] == pytest.approx(1)


# Mistakes


def test_an_unknown_task_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown task 'mprc': did you mean 'mrpc'\? valid are cola, sst2"):
        get_task("mprc")


def test_a_folder_without_the_task_says_what_it_has_and_both_ways(rows, tmp_path):
    shutil.copytree(rows / "cola", tmp_path / "cola")
    with pytest.raises(FileNotFoundError, match=r"no rows of rte at .*the folder holds cola.*PRILORA_GLUE.*the hub"):
        load_rows("rte", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_rows("rte", tmp_path / "nowhere")


def test_with_neither_folder_nor_hub_the_error_names_both_ways():
    with pytest.raises(ConnectionError, match=r"go online, or give a folder.*--rows FOLDER.*PRILORA_GLUE"):
        load_rows("rte")


@pytest.mark.parametrize("task", [task for task in TASKS.values() if not task.in_package], ids=lambda task: task.name)
def test_the_hub_is_asked_for_a_tasks_rows_at_a_pinned_commit(task, monkeypatch):
    asked = []

    def refuse(place, name, revision=None, split=None):
        asked.append((place, name, revision))
        raise OSError("the hub is far")

    monkeypatch.setattr(tasks, "load_dataset", refuse)
    with pytest.raises(ConnectionError, match="the hub is far"):
        load_rows(task)
    ((place, name, revision),) = asked
    assert (place, name) == (task.hub[0], task.name)
    assert re.fullmatch("[0-9a-f]{40}", revision)


def test_a_task_of_another_dataset_is_asked_for_there(monkeypatch):
    asked = []

    def give(place, name, revision, split):
        asked.append((place, name, revision, split))
        return Dataset.from_dict({"question": ["who"], "passage": ["a dog"], "label": [1]})

    monkeypatch.setattr(tasks, "load_dataset", give)
    task = Task("answers", ("question", "passage"), ("no", "yes"), ("accuracy",), hub=("owner/other", "a" * 40))
    assert load_rows(task)["validation"]["passage"][0] == "a dog"
    assert asked == [("owner/other", "answers", "a" * 40, split) for split in ("train", "validation")]


def broken(folder, task, change):
    write_rows(folder, TASKS[task])
    file = folder / task / "train.parquet"
    change(pd.read_parquet(file)).to_parquet(file)
    return folder


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("mrpc", lambda f: f.drop(columns="sentence2"), "the train rows of mrpc lack the column sentence2: expected"),
        ("cola", lambda f: f.drop(columns="label"), "lack the column label"),
        ("cola", lambda f: f.assign(label=-1), "have label -1, expected 0 to 1; -1 marks GLUE's hidden test labels"),
        ("mnli", lambda f: f.assign(label=3), "have label 3, expected 0 to 2"),
        ("cola", lambda f: f.assign(label=0.5), r"have label 0\.5, expected 0 to 1"),
        ("stsb", lambda f: f.assign(label=float("nan")), "missing or not finite"),
        ("cola", lambda f: f[:0], "the train split of cola has no rows"),
        ("cola", lambda f: f.assign(sentence=[None, *f.sentence[1:]]), "row 0 of cola train has no text in sentence"),
    ],
)
def test_broken_rows_are_refused(tmp_path, task, change, message):
    with pytest.raises(ValueError, match=message):
        load_rows(task, broken(tmp_path, task, change))


def test_a_file_that_is_no_parquet_is_refused(rows, tmp_path):
    shutil.copytree(rows / "cola", tmp_path / "cola")
    (tmp_path / "cola" / "train.parquet").write_bytes(b"sentence,label\n")
    with pytest.raises(ValueError, match="can't be read as Parquet"):
        load_rows("cola", tmp_path)


def test_splits_whose_metrics_would_have_one_name_are_refused():
    with pytest.raises(ValueError, match=r"splits.*differ behind validation_"):
        Task("mine", ("text",), ("bad", "good"), splits=("validation_hard", "hard"))


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("rte", [1, 2, 2, 1], "numbers of its classes, 0 to 1, got 2"),
        ("mrpc", [-1] * 4, "got -1: -1 stands for a label that is hidden"),
        ("stsb", [1.0, float("nan"), 2.0, 3.0], "finite numbers, got nan"),
    ],
)
def test_labels_that_are_none_are_refused(task, labels, message):
    predictions = np.zeros((4, 1 if task == "stsb" else 2))
    with pytest.raises(ValueError, match=message):
        compute_metrics(task, predictions, labels)
