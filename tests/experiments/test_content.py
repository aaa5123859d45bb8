"""A run is what its result depends on: rows and encoders by their content, whatever their names and places."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset
from safetensors.torch import load_file, save_file

from prilora_lite import PRILoRAConfig, Settings, ablate, finetune, grid, load_encoder, load_rows
from prilora_lite.cli import main
from prilora_lite.experiments import identity, study
from prilora_lite.experiments.identity import KEY, digest_of, rows_digest
from prilora_lite.experiments.migrate import migrate
from prilora_lite.experiments.study import read_runs
from prilora_lite.experiments.tasks import TASKS
from tests.experiments.stored import stored, write

RESULTS = Path(__file__).parents[2] / "results"
SHORT = Settings(epochs=1, batch_size=8, max_length=16)


def replaced(data, row, **values):
    """The rows with one of them changed."""
    return data.map(lambda old, i: values if i == row else {}, with_indices=True)


# Each changes the content of the rows, or nothing in it
OTHER_ROWS = {
    "labels mended": lambda d: replaced(d, 3, label=1 - d[3]["label"]),
    "a text mended": lambda d: replaced(d, 3, sentence="the old dog"),
    "a sample": lambda d: d.select(range(12)),
    "another order": lambda d: d.select(range(len(d))[::-1]),
}
SAME_ROWS = {
    "an unused column": lambda d: d.add_column("note", ["x"] * len(d)),
    "an unused column of bytes": lambda d: d.add_column("blob", [b"x"] * len(d)),
    "no idx": lambda d: d.remove_columns("idx"),
    "columns in another order": lambda d: d.select_columns(["label", "sentence"]),
    "labels that have names": lambda d: d.cast_column("label", ClassLabel(names=["unacceptable", "acceptable"])),
    "labels as names": lambda d: Dataset.from_list(
        [row | {"label": TASKS["cola"].labels[row["label"]]} for row in d.to_list()]
    ),
    "labels as truth values": lambda d: Dataset.from_list([r | {"label": bool(r["label"])} for r in d.to_list()]),
}


def other_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def other_configuration(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}), encoding="utf-8")


def other_vocabulary(folder):
    for file in ("tokenizer.json", "vocab.txt"):
        if (folder / file).is_file():
            text = (folder / file).read_text(encoding="utf-8")
            (folder / file).write_text(text.replace("bird", "fish"), encoding="utf-8")


OTHER_ENCODERS = (other_weights, other_configuration, other_vocabulary)


# Resuming


@pytest.fixture(scope="module")
def begun(encoder, rows, tmp_path_factory):
    """A folder with a run that has checkpoints, and the options that it was made with."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(encoder, folder / "encoder")
    options = {"encoder": str(folder / "encoder"), "rows": load_rows("cola", rows), "settings": SHORT}
    options |= {"output_dir": folder / "run", "device": "cpu", "precision": "fp32", "progress": False}
    finetune("cola", "head", save_steps=3, **options)
    return options


@pytest.mark.parametrize("change", OTHER_ROWS)
def test_a_run_is_not_resumed_on_other_rows(change, begun):
    other = {split: OTHER_ROWS[change](data) for split, data in begun["rows"].items()}
    with pytest.raises(ValueError, match=r"checkpoints of another run: the content of the rows was '\w+' and is '\w+'"):
        finetune("cola", "head", resume=True, **(begun | {"rows": other}))


@pytest.mark.parametrize("change", OTHER_ENCODERS, ids=lambda change: change.__name__)
def test_a_run_is_not_resumed_from_an_encoder_that_was_changed_in_its_folder(change, begun, tmp_path):
    shutil.copytree(begun["encoder"], tmp_path / "kept")
    try:
        change(Path(begun["encoder"]))
        with pytest.raises(ValueError, match="checkpoints of another run: the content of the encoder was"):
            finetune("cola", "head", resume=True, **begun)
    finally:
        shutil.copytree(tmp_path / "kept", begun["encoder"], dirs_exist_ok=True)


def test_a_run_is_not_resumed_at_another_precision(begun):
    with pytest.raises(ValueError, match="another run: precision was 'fp32' and is 'bf16'"):
        finetune("cola", "head", resume=True, **(begun | {"precision": "bf16"}))


def test_a_folder_that_does_not_say_on_which_rows_is_not_resumed(begun, tmp_path):
    shutil.copytree(begun["output_dir"], tmp_path / "run")
    said = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    del said["rows"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ValueError, match=r"the content of the rows is '\w+', and run.json does not say what it was"):
        finetune("cola", "head", resume=True, **(begun | {"output_dir": tmp_path / "run"}))


def test_what_changes_no_result_is_the_same_run_and_resuming_it_changes_nothing(begun, tmp_path):
    before = {path: path.read_bytes() for path in begun["output_dir"].rglob("*") if path.is_file()}
    shutil.copytree(begun["encoder"], tmp_path / "moved")
    same = {split: SAME_ROWS["an unused column"](data) for split, data in begun["rows"].items()}
    settings = Settings(epochs=1.0, batch_size=8, max_length=16)
    changed = begun | {"encoder": str(tmp_path / "moved"), "rows": same, "settings": settings}
    finetune("cola", "head", resume=True, **changed)
    after = {path: path.read_bytes() for path in begun["output_dir"].rglob("*") if path.is_file()}
    own = begun["output_dir"] / "run.json"  # names the folder that the encoder was read from last
    assert {path: text for path, text in after.items() if path != own} == {
        path: text for path, text in before.items() if path != own
    }


# A folder that is used again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"method": "full"}, "method was"),
        ({"task": "sst2"}, "task was 'cola' and is 'sst2'"),
        ({"settings": Settings(epochs=2, batch_size=8, max_length=16)}, "epochs was 1 and is 2"),
    ],
)
def test_a_folder_with_the_result_of_another_run_is_refused(change, message, encoder, rows, tmp_path):
    options = {"task": "cola", "method": "head", "encoder": encoder, "rows": rows, "settings": SHORT, "seed": 0}
    options |= {"output_dir": tmp_path, "device": "cpu", "progress": False}
    finetune(**options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"holds model of another run: .*{message}.*; give another output_dir"):
        finetune(**(options | change))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    finetune(**options)  # the same run may be made again


def test_an_adapter_of_which_nothing_says_whose_it_is_is_not_written_over(encoder, rows, tmp_path):
    (tmp_path / "adapter.safetensors").write_bytes(b"mine")
    config = PRILoRAConfig(first_rank=1, last_rank=2)
    with pytest.raises(ValueError, match=r"holds adapter.safetensors of another run: .*run.json does not say"):
        finetune("cola", config, encoder=encoder, rows=rows, settings=SHORT, output_dir=tmp_path, progress=False)
    assert (tmp_path / "adapter.safetensors").read_bytes() == b"mine"


# A study


@pytest.fixture
def made(monkeypatch):
    """Every run that a study makes, without making it."""
    found = []

    def make(plan, *rest):
        found.append(plan)
        record = stored(plan.run.method.name, plan.run.seed, task=str(plan.run.task), method=plan.trains)
        return plan, record | {"key": plan.key}

    monkeypatch.setattr(study, "_make", make)
    return found


@pytest.fixture
def again(made, encoder, rows, tmp_path):
    """Makes one run of a study; once more, with what is given changed, it says how many runs it had to make."""
    shutil.copytree(encoder, tmp_path / "encoder")
    usual = {"encoder": str(tmp_path / "encoder"), "rows": {"cola": load_rows("cola", rows)}, "precision": "fp32"}

    def ask(**changes):
        made.clear()
        changes["overrides"] = {"max_length": 16} | changes.get("overrides", {})
        ablate(grid(["lora"], ["cola"], [0]), tmp_path / "runs.jsonl", device="cpu", progress=False, **usual | changes)
        return len(made)

    assert ask() == 1
    return ask


def test_the_same_study_is_not_made_again(again):
    assert again() == 0


@pytest.mark.parametrize("change", OTHER_ROWS)
def test_other_rows_are_other_runs(change, again, rows):
    assert again(rows={"cola": {split: OTHER_ROWS[change](d) for split, d in load_rows("cola", rows).items()}}) == 1


@pytest.mark.parametrize("change", SAME_ROWS)
def test_what_no_run_reads_makes_no_other_runs(change, again, rows):
    assert again(rows={"cola": {split: SAME_ROWS[change](d) for split, d in load_rows("cola", rows).items()}}) == 0


def test_a_split_that_the_task_does_not_have_makes_no_other_runs(again, rows):
    data = load_rows("cola", rows)
    assert again(rows={"cola": data | {"test": data["validation"]}}) == 0


@pytest.mark.parametrize("change", OTHER_ENCODERS, ids=lambda change: change.__name__)
def test_another_encoder_in_the_same_folder_makes_other_runs(change, again, tmp_path):
    change(tmp_path / "encoder")
    assert again() == 1


def test_the_same_encoder_in_another_folder_makes_no_other_runs(again, tmp_path):
    (tmp_path / "encoder").rename(tmp_path / "moved")
    assert again(encoder=str(tmp_path / "moved")) == 0


def test_another_precision_makes_other_runs(again):
    assert again(precision="bf16") == 1


@pytest.mark.parametrize(
    "overrides", [{"epochs": 3}, {"epochs": 3.0}, {"alpha": 16}, {"weight_decay": 0}, {"warmup": 0.06}]
)
def test_a_setting_at_its_default_in_any_form_makes_no_other_runs(overrides, again):
    assert again(overrides=overrides) == 0


def test_a_version_of_a_package_is_recorded_and_not_compared(again, tmp_path):
    (record,) = read_runs(tmp_path / "runs.jsonl")
    write(tmp_path / "runs.jsonl", [record | {"environment": {"prilora-lite": "0.0.1", "torch": "1.0"}}])
    assert again() == 0


def test_the_digest_of_an_encoder_leaves_out_what_is_drawn_anew(encoder):
    torch.manual_seed(1)
    first = digest_of(encoder)
    torch.manual_seed(2)
    assert digest_of(encoder) == first != digest_of("pocket")
    assert digest_of("pocket-random") == digest_of("pocket-random") != digest_of("pocket")


def test_an_encoder_is_digested_again_where_it_may_have_changed_and_a_preset_once(encoder, monkeypatch):
    loaded = []
    monkeypatch.setattr(identity, "load_encoder", lambda *name: loaded.append(name[0]) or load_encoder(*name))
    identity._digest_of_preset.cache_clear()
    for name in (encoder, "pocket", "pocket-random", encoder, "pocket", "pocket-random"):
        digest_of(name)
    assert loaded == [encoder, "pocket", "pocket-random", encoder]


# Runs of older versions


def without_weights(records):
    return [record | {"key": record["key"][:-1]} for record in records]


def test_the_keys_of_older_runs_are_brought_to_the_new_form_once(tmp_path, capsys):
    old = [stored(seed=seed) for seed in range(3)]
    file = write(tmp_path / "runs.jsonl", without_weights(old))
    assert main(["migrate", str(file)]) == 0
    assert "runs.jsonl: 3 runs brought to the new form" in capsys.readouterr().out
    assert [r["key"][KEY.index("weights")] for r in read_runs(file)] == [digest_of("pocket")] * 3
    assert without_weights(read_runs(file)) == without_weights(old)
    before = file.read_bytes()
    assert migrate(file) == 0
    assert file.read_bytes() == before
    with file.open("a", encoding="utf-8") as stream:  # an older version adds one more
        stream.write(json.dumps(without_weights([stored(seed=9)])[0]) + "\n")
    assert migrate(file) == 1
    assert file.read_bytes().startswith(before)


@pytest.mark.parametrize("line", ['{"key": ["cola", "lora", 0.001, 0]}', '{"key": 1}', "[]", '{"key"', "1"])
def test_a_file_of_something_else_is_left_as_it_is(line, tmp_path):
    file = write(tmp_path / "runs.jsonl", without_weights([stored()]))
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2 is not"):
        migrate(file)
    assert file.read_bytes() == before


def test_a_study_refuses_runs_whose_keys_say_less_and_names_the_command(tmp_path, made):
    file = write(tmp_path / "runs.jsonl", without_weights([stored()]))
    with pytest.raises(ValueError, match=r"holds 1 runs of an older version.*`prilora-lite migrate .*runs\.jsonl`"):
        ablate(grid(["lora"], ["pocket-rte"], [0]), file, progress=False)
    assert not made


@pytest.mark.parametrize("file", sorted(RESULTS.glob("[mpq]*.jsonl")), ids=lambda file: file.stem)
def test_the_stored_runs_are_in_the_new_form(file):
    if not file.stem.endswith("learning_rates"):
        assert {len(record["key"]) for record in read_runs(file)} == {len(KEY)}


def test_the_stored_runs_go_on_counting(tmp_path, made):
    file = shutil.copy(RESULTS / "pocket.jsonl", tmp_path)
    assert len(ablate(grid(["lora"], ["pocket-rte"], range(5)), file, progress=False)) == 5
    assert not made


def test_the_digests_of_the_stored_rows_are_those_of_the_rows():
    stated = {record["task"]: record["key"][KEY.index("rows")] for record in read_runs(RESULTS / "pocket.jsonl")}
    assert stated == {task: rows_digest(TASKS[task], load_rows(task)) for task in stated}


def test_migrate_passes_over_a_line_that_was_cut_off_and_leaves_a_link_a_link(tmp_path):
    run = stored()
    older = json.dumps(run | {"key": run["key"][:-1]})
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text(f'{older}\n{{"key": ["co', encoding="utf-8")
    link.symlink_to(real)
    assert migrate(link) == 1
    assert link.is_symlink()
    first, last = real.read_text(encoding="utf-8").split("\n")
    assert (len(json.loads(first)["key"]), last) == (len(run["key"]), '{"key": ["co')
