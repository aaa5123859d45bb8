"""A line that no reader of runs could use ends in one message, which names the run and what is wrong with it."""

import json
from dataclasses import asdict

import pytest

from prilora_lite.cli import main
from prilora_lite.experiments.frames import to_dataframe
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.presets import settings_for, settings_from
from prilora_lite.experiments.stored import check_stored, main_metric
from prilora_lite.experiments.study import read_runs
from tests.experiments.stored import stored


def record(**changes):
    """A line as ablate writes it, with some of its parts changed."""
    settings, trains = asdict(settings_for("pocket", "pocket-cola", "lora")), METHODS["lora"].trains.to_dict()
    return {
        "key": ["pocket-cola", 0, "pocket", trains, settings, "fp32", "rows"], "name": "lora", "encoder": "pocket",
        "settings": settings, "task": "pocket-cola", "method": trains, "seed": 0, "metrics": {"matthews": 0.5},
        "curve": [], "pruning": [],
        "counts": {"adapter": 1000, "adapter_nonzero": 750, "head": 200, "head_nonzero": 200, "base": 9000},
        "steps": 4, "seconds_per_step": 0.25, "seconds": 1.0, "environment": {"precision": "fp32"},
    } | changes  # fmt: skip


def newer_key():
    key = record()["key"]
    key[4] = key[4] | {"scheduler": "cosine"}
    return key


WRONG = {
    "a setting of a newer version": ({"settings": record()["settings"] | {"scheduler": "cosine"}}, "'scheduler'"),
    "a setting of a newer version in the key": ({"key": newer_key()}, "key of the run .*unknown setting 'scheduler'"),
    "a setting out of range": ({"settings": record()["settings"] | {"batch_size": 0}}, "batch_size must be an integer"),
    "no metrics": ({"metrics": {}}, r"at least one, got \{\}"),
    "a metric as text": ({"metrics": {"matthews": "0.5"}}, "metrics of the run 'pocket-cola', 'lora', seed 0"),
    "metrics without names": ({"metrics": [0.5]}, r"got \[0.5\]"),
    "a metric that is none": ({"metrics": {"matthews": None}}, "got {'matthews': None}"),
    "metrics without the main one": (
        {"metrics": {"accuracy": 0.5}},
        "expected matthews, the main metric of pocket-cola",
    ),
    "a task of a newer version": ({"task": "boolq"}, "'boolq', 'lora', seed 0 can't be read: unknown task 'boolq'"),
    "counts without entries": ({"counts": {}}, "expected numbers for adapter, adapter_nonzero, head"),
    "a count as text": ({"counts": record()["counts"] | {"head": "many"}}, "'head': 'many'"),
    "a key that is a name": ({"key": "mine"}, "got 'mine'"),
    "a seed as text": ({"seed": "0"}, "expected a whole number, got '0'"),
    "a configuration of a newer version": ({"method": {"rank": 4}}, "method of the run .*unknown setting 'rank'"),
    "seconds as text": ({"seconds": "1 s"}, "got '1 s'"),
    "a task without a name": ({"task": None}, "expected a task's name, got None"),
    "no environment": ({"environment": "cpu"}, "got 'cpu'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_line_that_no_reader_could_use_is_named(what, tmp_path):
    changes, message = WRONG[what]
    file = tmp_path / "runs.jsonl"
    file.write_text(json.dumps(record()) + "\n" + json.dumps(record(**changes)) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_runs(file)
    assert str(file) in str(error.value)
    assert "mend or remove its line" in str(error.value)


@pytest.mark.parametrize("command", ["report", "ablate"])
@pytest.mark.parametrize("what", ["a setting of a newer version in the key", "no metrics", "counts without entries"])
def test_on_the_command_line_it_is_one_message(command, what, tmp_path, capsys):
    file = tmp_path / "runs.jsonl"
    file.write_text(json.dumps(record(**WRONG[what][0])) + "\n", encoding="utf-8")
    given = (
        [str(file)] if command == "report" else ["--methods", "lora", "--tasks", "pocket-cola", "--output", str(file)]
    )
    assert main([command, *given]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"prilora-lite: {file}: ")


def test_a_line_as_it_is_written_is_read(tmp_path):
    check_stored(tmp_path, json.loads(json.dumps(record())))


def test_settings_of_an_older_record_have_the_defaults():
    assert settings_from({"epochs": 2}).batch_size == 32


def test_the_main_metric_is_the_tasks_own_in_whatever_order_a_file_has_them():
    """As ``jq -S`` leaves the lines."""
    assert main_metric(record(metrics={"accuracy": 0.9, "matthews": 0.5})) == ("matthews", 0.5)


def test_the_main_metric_of_two_validation_sets_is_that_of_the_first():
    metrics = {"mismatched_accuracy": 0.7, "matched_accuracy": 0.8}
    assert main_metric(stored(task="mnli") | {"metrics": metrics}) == ("matched_accuracy", 0.8)


def test_the_main_metric_of_a_task_of_ones_own_stands_in_its_key():
    own = {"name": "mine", "columns": ["text"], "labels": ["a", "b"], "metrics": ["matthews", "accuracy"]}
    run = stored(task="mine", definition=own | {"splits": ["dev"]}) | {"metrics": {"accuracy": 0.9, "matthews": 0.5}}
    assert main_metric(run) == ("matthews", 0.5)


def test_lines_whose_keys_were_sorted_are_reported_by_the_same_metric():
    one, other = record(metrics={"matthews": 0.5, "accuracy": 0.9}), record(metrics={"accuracy": 0.9, "matthews": 0.4})
    frame = to_dataframe([one, other | {"seed": 1}])
    assert (frame["metric"].tolist(), frame["value"].tolist()) == (["matthews"] * 2, [0.5, 0.4])


@pytest.mark.parametrize(("setting", "kind"), [("importance", "importance rule"), ("ranks", "schedule of ranks")])
def test_a_run_with_a_rule_or_schedule_of_ones_own_is_not_called_another_versions(setting, kind, tmp_path):
    own = record()["method"] | {setting: "mine"}
    key = record()["key"]
    key[3] = own | {f"{setting}_code": "mine 0123"}
    with pytest.raises(
        ValueError, match=f"unknown {kind}.* 'mine'.*made with a rule or schedule of your own"
    ) as raised:
        check_stored(tmp_path, record(key=key, method=own))
    assert "by hand" not in str(raised.value)
    with pytest.raises(ValueError, match="changed by hand"):  # where no code is known, there was none
        check_stored(tmp_path, record(method=own))
