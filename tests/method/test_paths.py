"""A path that begins with ~ is one in the home folder, wherever a user gives one."""

import os
from pathlib import Path

import pytest
import torch

from prilora_lite import PRILoRAConfig, adapt, latest_checkpoint, load_adapter, save_adapter
from prilora_lite.experiments.finetune import _kept_or_temporary
from prilora_lite.experiments.questions import read_questions
from prilora_lite.experiments.tasks import get_task, load_rows
from prilora_lite.shared.files import given_path
from prilora_lite.shared.records import append_record, read_records
from tests.small_models import batch, build, write_rows


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and beside it the folder that the process is in."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not list((tmp_path / "here").iterdir())


def adapted():
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5))
    return model


def test_an_adapter_is_written_to_the_home_folder_and_read_from_it(home):
    model = adapted()
    assert save_adapter(model, "~/adapters/a.safetensors") == home / "adapters" / "a.safetensors"
    load_adapter(fresh := build("bert"), Path("~/adapters/a.safetensors"))
    assert torch.equal(fresh(**batch()).logits, model(**batch()).logits)


def test_pefts_format_is_written_to_the_home_folder_and_read_from_it(home):
    pytest.importorskip("peft")
    from prilora_lite import load_peft_adapter, save_peft_adapter

    assert save_peft_adapter(adapted(), "~/adapter") == home / "adapter"
    load_peft_adapter(build("bert"), "~/adapter")


def test_runs_rows_questions_and_checkpoints_are_found_in_the_home_folder(home):
    append_record("~/runs.jsonl", {"key": {"seed": 0}})
    assert read_records("~/runs.jsonl") == [{"key": {"seed": 0}}] == read_records(home / "runs.jsonl")
    write_rows(home / "rows", task := get_task("cola"))
    assert load_rows(task, "~/rows").keys() == {"train", *task.splits}
    with pytest.raises(OSError, match="home"):
        read_questions("~/questions.toml")
    with _kept_or_temporary("~/run") as folder:
        assert folder == home / "run"
    (home / "checkpoint-3").mkdir()
    (home / "checkpoint-3" / "trainer_state.json").write_text('{"global_step": 3}', encoding="utf-8")
    assert latest_checkpoint("~") == home / "checkpoint-3"


def test_a_name_that_is_no_users_stays_as_it_is_and_what_is_no_path_is_refused():
    assert given_path("~no such user/a") == Path("~no such user/a")
    for value in (None, 3, b"a"):
        with pytest.raises(TypeError):
            given_path(value)
