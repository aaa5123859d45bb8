import json
import shutil
import warnings
from collections import Counter
from dataclasses import replace

import pytest
import torch
import transformers as hf
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from prilora_lite import (
    LoRALinear,
    PRILoRAConfig,
    Settings,
    evaluate,
    finetune,
    latest_checkpoint,
    load_adapter,
    load_encoder,
    load_rows,
)
from prilora_lite.experiments.finetune import result_record
from prilora_lite.experiments.presets import POCKET_SHORT
from prilora_lite.experiments.rows import drawn_rows
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.experiments.tokens import check_length
from tests.small_models import write_rows
from tests.training import CONFIG, StopAfter, run, some_of_pockets


@pytest.mark.parametrize("task", [task.name for task in TASKS.values() if not task.in_package])
def test_every_task_runs_from_its_columns_to_its_metrics(task, encoder, rows):
    result = run(encoder, rows, task)
    metrics = set(TASKS[task].metrics)
    if task == "mnli":
        metrics = {f"{split}_{metric}" for split in ("matched", "mismatched") for metric in metrics}
    assert set(result.metrics) == metrics
    assert [point["epoch"] for point in result.curve] == [1.0, 2.0]
    assert result.steps == 10
    assert [entry["step"] for entry in result.history] == [3, 6, 9, 10]


def test_training_learns(encoder, rows):
    train = load_rows("sst2", rows)["train"]
    settings = Settings(learning_rate=5e-3, epochs=40, batch_size=8, max_length=16)
    result = run(encoder, {"train": train, "validation": train}, "sst2", settings=settings)
    assert result.metrics["accuracy"] >= 0.95  # 40 rows it has seen 40 times


def test_train_rows_trains_on_rows_that_the_seed_draws(encoder, rows):
    settings = Settings(learning_rate=5e-3, epochs=2, batch_size=8, max_length=16)
    data = load_rows("cola", rows)
    few = run(encoder, data, settings=replace(settings, train_rows=20), seed=3)
    assert few.steps == 2 * 3
    assert few.losses == run(encoder, drawn_rows(TASKS["cola"], data, 20, 3), settings=settings, seed=3).losses


def test_drawn_rows_are_rows_each_once_others_for_each_seed_and_leave_validation_alone():
    task = TASKS["pocket-cola"]
    data = load_rows(task)
    draws = [drawn_rows(task, data, 500, seed) for seed in (0, 0, 1)]
    texts = [draw["train"]["sentence"][:] for draw in draws]
    have = Counter(data["train"]["sentence"][:])
    assert all(len(text) == 500 and not Counter(text) - have for text in texts)
    assert texts[0] == texts[1] != texts[2]
    assert all(draw["validation"] is data["validation"] for draw in draws)
    assert drawn_rows(task, data, None, 0) is data


def test_drawn_rows_of_one_class_are_told_and_more_than_there_are_refused():
    task = TASKS["pocket-cola"]
    data = load_rows(task)
    with pytest.warns(UserWarning, match="all train rows of pocket-cola have the label"):
        [drawn_rows(task, data, 2, seed) for seed in range(40)]
    with pytest.raises(ValueError, match="train_rows=2001, but pocket-cola has only 2000 training rows"):
        drawn_rows(task, data, 2001, 0)


def test_a_methods_name_takes_alpha_from_the_settings(encoder, rows):
    settings = Settings(epochs=0.2, batch_size=8, max_length=16, alpha=64)
    by_name = run(encoder, rows, "cola", "prilora", settings=settings)
    assert (by_name.method, by_name.losses) == (
        PRILoRAConfig(alpha=64),
        run(encoder, rows, "cola", PRILoRAConfig(alpha=64), settings=settings).losses,
    )
    assert run(encoder, rows, "cola", "lora", settings=settings).method == PRILoRAConfig.lora(8, alpha=64)


def test_an_alpha_in_the_settings_that_a_configuration_does_not_take_is_told(encoder, rows):
    settings = Settings(epochs=0.2, batch_size=8, max_length=16, alpha=64)
    with pytest.warns(UserWarning, match=r"alpha=64 in the settings, .* has no effect .* PRILoRAConfig\(alpha=64\)"):
        run(encoder, rows, "cola", PRILoRAConfig(), settings=settings)


def test_an_alpha_of_the_preset_that_a_configuration_does_not_take_is_told(tmp_path):
    with (
        pytest.warns(UserWarning, match=r"alpha=32 in the settings, .*the preset's for this task, .* own is 16"),
        pytest.raises((ValueError, OSError)),
    ):
        finetune("rte", PRILoRAConfig(), encoder="paper", rows=tmp_path)  # where there are none


@pytest.mark.filterwarnings("error:alpha")
def test_a_configuration_with_the_presets_alpha_is_taken_in_silence(tmp_path):
    with pytest.raises((ValueError, OSError)):
        finetune("rte", PRILoRAConfig(alpha=32), encoder="paper", rows=tmp_path)


@pytest.mark.parametrize("task", ["cola", "mnli", "stsb"])
def test_the_reported_metric_is_that_of_the_saved_file(task, encoder, rows, tmp_path):
    result = run(encoder, rows, task, output_dir=tmp_path)
    model, tokenizer = load_encoder(encoder, TASKS[task])
    report = load_adapter(model, result.path)
    options = {"rows": rows, "max_length": 16, "precision": "fp32", "device": "cpu", "progress": False}
    assert evaluate(model, tokenizer, task, **options) == result.metrics
    assert report == result.counts
    assert all((m.lora_A == 0).float().mean() == 0.5 for m in model.modules() if isinstance(m, LoRALinear))


@pytest.mark.parametrize("method", ["head", "full"])
def test_the_saved_model_of_a_method_without_adapter_has_the_reported_metric(method, encoder, rows, tmp_path):
    result = run(encoder, rows, "cola", method, output_dir=tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(result.path)
    tokenizer = AutoTokenizer.from_pretrained(result.path)
    options = {"rows": rows, "max_length": 16, "precision": "fp32", "device": "cpu", "progress": False}
    assert evaluate(model, tokenizer, "cola", **options) == result.metrics
    assert result.history == []


def test_head_only_trains_pooler_and_head_and_full_trains_all(encoder, rows):
    head, full = run(encoder, rows, method="head").counts, run(encoder, rows, method="full").counts
    assert (head.adapter, head.head) == (0, 24 * 24 + 24 + 2 * 24 + 2)
    assert full.head == full.base


def test_without_pruning_there_is_no_pruner(encoder, rows):
    result = run(encoder, rows, method=PRILoRAConfig(first_rank=2, last_rank=2, ratio=0.0))
    assert result.history == []
    assert result.counts.adapter_nonzero == result.counts.adapter


def test_a_run_is_a_function_of_its_seed(encoder, rows):
    first, again, other = (run(encoder, rows, "stsb", seed=seed).curve for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("method", [CONFIG, "full"])
def test_resumed_in_mid_epoch_a_run_ends_bit_for_bit_as_if_never_stopped(method, encoder, rows, tmp_path, monkeypatch):
    whole = run(encoder, rows, "stsb", method, output_dir=tmp_path / "whole", save_steps=3)
    import prilora_lite.experiments.finetune as training

    with monkeypatch.context() as patch:  # killed after step 7: a checkpoint of step 6 is there, in the second epoch
        original = training.make_trainable

        def with_a_kill(*arguments):
            model, callbacks = original(*arguments)
            return model, [*callbacks, Killed()]

        patch.setattr(training, "make_trainable", with_a_kill)
        with pytest.raises(KeyboardInterrupt):
            run(encoder, rows, "stsb", method, output_dir=tmp_path / "cut", save_steps=3)
    assert latest_checkpoint(tmp_path / "cut").name == "checkpoint-6"
    resumed = run(encoder, rows, "stsb", method, output_dir=tmp_path / "cut", save_steps=3, resume=True)
    assert resumed.metrics == whole.metrics
    assert resumed.history == whole.history
    if whole.path.is_file():
        assert resumed.path.read_bytes() == whole.path.read_bytes()
    else:
        name = "model.safetensors"
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


class Killed(TrainerCallback):
    pruner = None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epochs", [1, 2])
def test_resuming_a_run_whose_last_checkpoint_is_written_reports_that_checkpoint(epochs, encoder, rows, tmp_path):
    """Trainer saves before it evaluates, and sorts the names in its log."""
    settings = Settings(learning_rate=5e-3, epochs=epochs, batch_size=8, max_length=16)
    options = {"settings": settings, "output_dir": tmp_path, "save_steps": 5}
    first = run(encoder, rows, "stsb", **options)
    again = run(encoder, rows, "stsb", resume=True, **options)
    assert list(again.metrics.items()) == list(first.metrics.items())


@pytest.mark.parametrize("method", [CONFIG, "head"])
@pytest.mark.parametrize("epochs", [0.5, 1.5, 1])
def test_resuming_a_run_that_is_finished_changes_nothing(epochs, method, encoder, rows, tmp_path):
    """Trainer would make one step more where the run ends within an epoch."""
    settings = Settings(learning_rate=5e-3, epochs=epochs, batch_size=8, max_length=16, warmup=0.5)
    options = {"method": method, "settings": settings, "output_dir": tmp_path, "save_steps": 1}
    first = run(encoder, rows, **options)
    weights = first.path if first.path.is_file() else first.path / "model.safetensors"
    before = weights.read_bytes()
    again = run(encoder, rows, resume=True, progress=True, **options)
    assert (again.steps, again.metrics, again.history) == (first.steps, first.metrics, first.history)
    assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, "seed was 0 and is 7"),
        ({"settings": Settings(learning_rate=1e-4, epochs=2, batch_size=8, max_length=16)}, "learning_rate was"),
        ({"method": "head"}, "method was"),
        ({"task": "rte"}, "task was 'cola' and is 'rte'"),
        ({"resume": False}, "holds checkpoints of an earlier run"),
    ],
)
def test_the_checkpoints_of_another_run_are_not_mixed_in(change, message, encoder, rows, tmp_path):
    run(encoder, rows, output_dir=tmp_path, save_steps=5)
    with pytest.raises(ValueError, match=message):
        run(encoder, rows, **({"output_dir": tmp_path, "resume": True} | change))


def test_the_settings_alpha_reaches_the_default_method(encoder, rows):
    settings = Settings(epochs=0.2, batch_size=8, max_length=16, alpha=12)
    result = run(encoder, rows, method=None, settings=settings)
    assert {(module.rank, module.scaling) for module in result.counts.modules} == {(r, 12 / r) for r in (4, 7, 9, 12)}
    assert result.method.alpha == 12


def test_a_diverged_run_is_an_error_and_not_a_score(encoder, rows):
    settings = Settings(learning_rate=1e30, epochs=1, batch_size=8, max_length=16)
    with pytest.raises(ValueError, match="NaN or infinity on cola: it diverged"):
        run(encoder, rows, method="full", settings=settings)


def test_evaluating_needs_no_training_rows(encoder, rows):
    model, tokenizer = load_encoder(encoder, TASKS["cola"])
    data = load_rows("cola", rows)
    found = evaluate(model, tokenizer, "cola", rows={"validation": data["validation"]}, max_length=16, progress=False)
    assert found == evaluate(model, tokenizer, "cola", rows=data, max_length=16, progress=False)
    with pytest.raises(ValueError, match="lack the split 'validation'; there are train"):
        evaluate(model, tokenizer, "cola", rows={"train": data["train"]}, max_length=16, progress=False)


def test_evaluating_needs_no_training_rows_in_a_folder(encoder, rows, tmp_path):
    model, tokenizer = load_encoder(encoder, TASKS["cola"])
    (tmp_path / "cola").mkdir()
    shutil.copy(rows / "cola" / "validation.parquet", tmp_path / "cola")
    found = evaluate(model, tokenizer, "cola", rows=tmp_path, max_length=16, progress=False)
    assert found == evaluate(model, tokenizer, "cola", rows=rows, max_length=16, progress=False)


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_the_model_in_its_mode(training, encoder, rows):
    model, tokenizer = load_encoder(encoder, TASKS["cola"])
    evaluate(model.train(training), tokenizer, "cola", rows=rows, max_length=16, progress=False)
    assert model.training == training


@pytest.mark.parametrize("tasks", [("stsb", "rte"), ("rte", "stsb"), ("mnli", "rte")])
def test_a_classifier_of_one_task_is_an_encoder_for_another(tasks, encoder, tmp_path):
    for task in tasks:
        write_rows(tmp_path / "rows", TASKS[task])
    first = run(encoder, tmp_path / "rows", task=tasks[0], method="full", output_dir=tmp_path / "first")
    second = run(first.path, tmp_path / "rows", task=tasks[1], method="head")
    assert list(second.metrics) == list(TASKS[tasks[1]].metrics)


def test_an_encoder_without_a_limit_of_positions_reads_rows_of_any_length():
    model = hf.XLNetModel(hf.XLNetConfig(vocab_size=99, d_model=24, n_layer=2, n_head=2, d_inner=40))
    check_length(model, 10_000)


def test_rows_given_by_hand_are_checked(encoder, rows):
    data = load_rows("cola", rows)
    with pytest.raises(ValueError, match="lack the split 'validation'; there are train"):
        run(encoder, {"train": data["train"]})
    with pytest.raises(ValueError, match="lack the column sentence1, sentence2"):
        run(encoder, data, "rte")


def test_rows_longer_than_the_encoder_reads_are_refused(encoder, rows):
    with pytest.raises(ValueError, match="max_length is 64, but the encoder has only 32 positions"):
        run(encoder, rows, settings=Settings(max_length=64))


def test_a_head_of_another_task_is_not_evaluated(encoder, rows):
    model, tokenizer = load_encoder(encoder, TASKS["mnli"])
    with pytest.raises(ValueError, match="head has 3 outputs, but cola needs 2"):
        evaluate(model, tokenizer, "cola", rows=rows, max_length=16)


def test_resuming_without_a_checkpoint_starts_anew(encoder, rows, tmp_path):
    assert run(encoder, rows, output_dir=tmp_path, resume=True).steps == 10


def test_nothing_is_left_behind_without_an_output_folder(encoder, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(encoder, rows).path is None
    assert not list(tmp_path.iterdir())


def test_a_result_is_ready_for_json(encoder, rows):
    record = json.loads(json.dumps(result_record(run(encoder, rows))))
    assert record["method"] == CONFIG.to_dict()
    assert record["counts"]["adapter"] > record["counts"]["adapter_nonzero"]


def test_writing_checkpoints_shows_no_bars_of_its_own(encoder, rows, tmp_path, capfd):
    run(encoder, rows, progress=False, output_dir=tmp_path, save_steps=3)
    assert "shards" not in capfd.readouterr().err


def test_bad_arguments_are_refused_before_anything_is_loaded(rows):
    with pytest.raises(ValueError, match=r"a PRILoRAConfig, or a name\): 'lorra': did you mean 'lora'\?"):
        finetune("cola", "lorra")
    for wrong in ({"first_rank": 4}, PRILoRAConfig, 8, ["head"]):
        with pytest.raises(ValueError, match=r"unknown method \(a PRILoRAConfig, or a name\)"):
            finetune("cola", wrong)
    with pytest.raises(ValueError, match="a seed is an integer"):
        finetune("cola", seed=1.5)
    with pytest.raises(ValueError, match="need an output_dir"):
        finetune("cola", save_steps=3)
    with pytest.raises(ValueError, match=r"did you mean 'cola'\?"):
        finetune("coal")


def test_bf16_trains_and_prunes(encoder, rows):
    result = run(encoder, rows, "stsb", precision="bf16")
    assert result.history[-1]["after"] == 0.5
    assert result.metrics != run(encoder, rows, "stsb", precision="fp32").metrics


def test_a_run_stopped_early_by_a_callback_reports_the_metrics_of_its_saved_file(tmp_path):
    config, options = PRILoRAConfig(ratio=0.9, interval=1000), {"device": "cpu", "progress": False}
    settings = Settings(learning_rate=2e-3, epochs=1, batch_size=16, max_length=64)
    result = finetune(
        "pocket-cola", config, settings=settings, output_dir=tmp_path, callbacks=[StopAfter(20)], **options
    )
    assert result.steps == 20
    assert [entry["step"] for entry in result.history] == [20]
    model, tokenizer = load_encoder("pocket", TASKS["pocket-cola"])
    load_adapter(model, result.path)
    assert evaluate(model, tokenizer, "pocket-cola", **options) == result.metrics


class CountThreads(TrainerCallback):
    def __init__(self):
        self.threads = set()

    def on_step_end(self, *args, **kwargs):
        self.threads.add(torch.get_num_threads())


def test_pocket_trains_with_one_thread_other_encoders_with_torchs_and_torch_is_left_as_it_was(encoder, rows):
    here = torch.get_num_threads()
    few = {"rows": some_of_pockets(train=32), "settings": POCKET_SHORT, "progress": False}
    try:
        torch.set_num_threads(2)
        finetune("pocket-rte", "head", callbacks=[pocket := CountThreads()], **few)
        run(encoder, rows, callbacks=[other := CountThreads(), StopAfter(1)])
        assert (pocket.threads, other.threads, torch.get_num_threads()) == ({1}, {2}, 2)
    finally:
        torch.set_num_threads(here)


@pytest.mark.parametrize(("warmup", "told"), [(0.9, False), (2, False), (3, True), (500, True)])
def test_a_warm_up_that_outlasts_the_run_is_warned_of(warmup, told):
    settings = replace(POCKET_SHORT, warmup=warmup, train_rows=48, epochs=1, batch_size=16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = some_of_pockets("pocket-sst2")
        assert finetune("pocket-sst2", "lora", rows=rows, settings=settings, progress=False).steps == 3
    assert told == any(f"warm-up takes {warmup} steps, and the run has 3" in str(each.message) for each in caught)
