import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers as hf
from datasets import Dataset
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from prilora_lite import (
    LoRALinear,
    PRILoRACallback,
    PRILoRAConfig,
    Settings,
    adapt,
    evaluate,
    finetune,
    latest_checkpoint,
    load_adapter,
    load_encoder,
    load_rows,
)
from prilora_lite.experiments.device import bf16_is_native, pick_device
from prilora_lite.experiments.finetune import LengthGroupedSampler, result_record
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.integrations.trainer import CHECKSUMS
from tests.small_models import BUILDERS, VOCABULARY, build, checkpoint_activations

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5, interval=3)
FAST = Settings(learning_rate=5e-3, epochs=2, batch_size=8, max_length=16)
QUIET = {"rows": None, "settings": FAST, "device": "cpu", "precision": "fp32", "progress": False}


def run(encoder, rows, task="cola", method=CONFIG, **options):
    return finetune(task, method, encoder=encoder, **(QUIET | {"rows": rows} | options))


class StopAfter(TrainerCallback):
    """Ends a run early, as a kill between two steps would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def dataset(rows=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, 6), generator=generator)
    return Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist(), "labels": (ids[:, 0] % 2).tolist()}
    )


def trainer(folder, name="bert", config=CONFIG, callbacks=(), model=None, **arguments):
    """A researcher's own Trainer script: the library's part is two lines."""
    if model is None:
        model = build(name)
        adapt(model, config)
    options = {
        "output_dir": str(folder), "num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 5e-3,
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "seed": 1,
    }  # fmt: skip
    return Trainer(
        model,
        TrainingArguments(**(options | arguments)),
        train_dataset=dataset(),
        eval_dataset=dataset(8, seed=1),
        callbacks=[PRILoRACallback(), *callbacks],
    )


def callback_of(a_trainer):
    return next(c for c in a_trainer.callback_handler.callbacks if isinstance(c, PRILoRACallback))


def assert_same_weights(first, second):
    for (name, expected), got in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(expected, got), name


# finetune


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
    model, tokenizer = load_encoder(str(result.path), TASKS["cola"])
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
        original = training._make_trainable

        def with_a_kill(*arguments):
            model, callbacks = original(*arguments)
            return model, [*callbacks, Killed()]

        patch.setattr(training, "_make_trainable", with_a_kill)
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


def test_training_batches_are_grouped_by_length(encoder, rows, monkeypatch):
    import prilora_lite.experiments.finetune as training

    seen = []

    class Spy(training.LengthGroupedSampler):
        def __iter__(self):
            seen.append(self.epoch)
            return super().__iter__()

    monkeypatch.setattr(training, "LengthGroupedSampler", Spy)
    run(encoder, rows)
    assert seen == [0, 1]


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


def test_a_progress_bar_is_shown_and_nothing_else(encoder, rows, capfd):
    run(encoder, rows, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "train: 100%" in err
    assert "{" not in err
    run(encoder, rows, progress=False)
    assert capfd.readouterr() == ("", "")


def test_writing_checkpoints_shows_no_bars_of_its_own(encoder, rows, tmp_path, capfd):
    run(encoder, rows, progress=False, output_dir=tmp_path, save_steps=3)
    assert "shards" not in capfd.readouterr().err


def test_bad_arguments_are_refused_before_anything_is_loaded(rows):
    with pytest.raises(ValueError, match=r"one of head, full, bitfit, .*, got 'lora'"):
        finetune("cola", "lora")
    for wrong in ({"first_rank": 4}, PRILoRAConfig, 8, ["head"]):
        with pytest.raises(ValueError, match="method must be a PRILoRAConfig"):
            finetune("cola", wrong)
    with pytest.raises(ValueError, match="a seed is an integer"):
        finetune("cola", seed=1.5)
    with pytest.raises(ValueError, match="need an output_dir"):
        finetune("cola", save_steps=3)
    with pytest.raises(ValueError, match=r"did you mean 'cola'\?"):
        finetune("coal")


def test_precision_and_device_that_do_not_exist_are_refused(encoder, rows):
    with pytest.raises(ValueError, match="precision must be one of auto, fp32, bf16, got 'fp8'"):
        run(encoder, rows, precision="fp8")
    with pytest.raises(ValueError, match=r"device 'tpu' is not available on this machine, which has .*cpu"):
        run(encoder, rows, device="tpu")


def test_bf16_trains_and_prunes(encoder, rows):
    result = run(encoder, rows, "stsb", precision="bf16")
    assert result.history[-1]["after"] == 0.5
    assert result.metrics != run(encoder, rows, "stsb", precision="fp32").metrics


def test_the_device_is_chosen_by_itself():
    assert pick_device() == ("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    assert pick_device("cpu") == "cpu"
    assert bf16_is_native("mps") is False


# The callback in a Trainer of one's own


@pytest.mark.parametrize("name", BUILDERS)
def test_resumed_from_trainers_checkpoint_in_mid_epoch_bit_for_bit(name, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole = trainer(tmp_path / "whole", name)
    whole.train()
    cut = trainer(tmp_path / "cut", name, callbacks=[StopAfter(8)], **saving)
    cut.train()
    resumed = trainer(tmp_path / "cut", name, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert_same_weights(whole.model, resumed.model)
    assert callback_of(resumed).pruner.history == callback_of(whole).pruner.history


def test_gradient_accumulation_counts_one_step(tmp_path):
    a_trainer = trainer(tmp_path, gradient_accumulation_steps=2)
    a_trainer.train()
    assert a_trainer.state.global_step == callback_of(a_trainer).pruner.steps == 9
    assert [entry["step"] for entry in callback_of(a_trainer).pruner.history] == [3, 6, 9]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_trains_the_same(reentrant, tmp_path):
    plain = trainer(tmp_path / "plain", model=without_dropout())
    model = without_dropout()
    checkpoint_activations(model, reentrant)
    checkpointed = trainer(tmp_path / "checkpointed", model=model)
    plain.train()
    checkpointed.train()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(checkpointed.model.state_dict()[name], value, rtol=1e-9, atol=1e-9)


def without_dropout():
    model = build("bert").double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    adapt(model, CONFIG)
    return model


def test_evaluation_during_training_changes_nothing(tmp_path):
    # without dropout, as every pass over evaluation rows draws a seed from the generator that dropout uses, too
    plain = trainer(tmp_path / "a", model=without_dropout())
    evaluated = trainer(tmp_path / "b", model=without_dropout(), eval_strategy="steps", eval_steps=2)
    plain.train()
    evaluated.train()
    assert_same_weights(plain.model, evaluated.model)


def test_the_last_prune_comes_before_the_last_evaluation_and_save(tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, **kwargs):
            seen.append((state.global_step, sparsity(model)))

    a_trainer = trainer(tmp_path, callbacks=[Look()], eval_strategy="epoch", save_strategy="epoch", max_steps=17)
    a_trainer.train()
    assert seen[-1] == (17, 0.5)
    saved = build("bert")
    adapt(saved, CONFIG)
    checkpoint = a_trainer.args.output_dir + "/checkpoint-17"
    shutil.copy(checkpoint + "/model.safetensors", tmp_path / "m.safetensors")
    from safetensors.torch import load_file

    saved.load_state_dict(load_file(tmp_path / "m.safetensors"), strict=False)
    assert sparsity(saved) == 0.5


def sparsity(model):
    layers = [module.lora_A for module in model.modules() if isinstance(module, LoRALinear)]
    return sum((a == 0).sum().item() for a in layers) / sum(a.numel() for a in layers)


def test_saving_only_the_best_saves_pruned_models(tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, **kwargs):
            seen.append(sparsity(model))

    trainer(
        tmp_path, callbacks=[Look()], eval_strategy="steps", save_strategy="best", eval_steps=4,
        metric_for_best_model="loss", greater_is_better=False,
    ).train()  # fmt: skip
    assert set(seen) == {0.5}


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_the_best_checkpoint_was_pruned_when_it_was_evaluated(strategy, tmp_path):
    seen = {}

    class Look(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
            seen[state.global_step] = (sparsity(model), metrics["eval_loss"])

    a_trainer = trainer(
        tmp_path,
        config=PRILoRAConfig(first_rank=2, last_rank=5, interval=5),  # so that no evaluation meets a prune by chance
        callbacks=[Look()],
        eval_strategy=strategy,
        save_strategy=strategy,
        eval_steps=4,
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
    )
    a_trainer.train()
    assert {value for value, _ in seen.values()} == {0.5}
    assert sparsity(a_trainer.model) == 0.5
    assert a_trainer.evaluate()["eval_loss"] == min(loss for _, loss in list(seen.values()))


def test_early_stopping_leaves_a_pruned_model(tmp_path):
    a_trainer = trainer(
        tmp_path, callbacks=[EarlyStoppingCallback(1, 100.0)], eval_strategy="steps", eval_steps=2,
        save_strategy="steps", save_steps=2, load_best_model_at_end=True,
    )  # fmt: skip
    a_trainer.train()
    assert a_trainer.state.global_step < a_trainer.state.max_steps
    assert sparsity(a_trainer.model) == 0.5


def test_a_run_that_another_callback_stops_is_pruned_at_its_end(tmp_path):
    a_trainer = trainer(tmp_path, callbacks=[StopAfter(5)])
    a_trainer.train()
    assert sparsity(a_trainer.model) == 0.5
    assert callback_of(a_trainer).pruner.pruned_at == 5


def test_the_same_trainer_can_train_twice(tmp_path):
    a_trainer = trainer(tmp_path)
    a_trainer.train()
    a_trainer.train()
    assert callback_of(a_trainer).pruner.steps == 18
    assert all(not hooks for m in a_trainer.model.modules() for hooks in [m._forward_pre_hooks])


def test_a_checkpoint_without_the_callbacks_state_is_not_resumed(tmp_path):
    model = build("bert")
    adapt(model, CONFIG)
    plain = trainer(tmp_path, model=model, save_strategy="steps", save_steps=4)
    plain.remove_callback(PRILoRACallback)
    plain.train()
    with pytest.raises(RuntimeError, match="step 4 was written without PRILoRACallback"):
        trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_weights_that_trainer_did_not_load_whole_are_noticed(tmp_path):
    """Trainer loads with strict=False; a tensor that is missing would pass in silence."""
    from safetensors.torch import load_file, save_file

    trainer(tmp_path, save_strategy="steps", save_steps=4).train()
    file = tmp_path / "checkpoint-4" / "model.safetensors"
    tensors = load_file(file)
    del tensors["bert.encoder.layer.1.output.dense.lora_A"]
    save_file(tensors, file, {"format": "pt"})
    (tmp_path / "checkpoint-4" / CHECKSUMS).unlink()
    with pytest.raises(RuntimeError, match="weights loaded from the checkpoint of step 4 are not those"):
        trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_other_pruning_settings_do_not_resume(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=4).train()
    other = PRILoRAConfig(first_rank=2, last_rank=5, interval=5)
    with pytest.raises(ValueError, match="interval=3, now 5"):
        trainer(tmp_path, config=other).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    trainer(tmp_path, save_strategy="steps", save_steps=4).train()
    assert latest_checkpoint(tmp_path).name == "checkpoint-18"
    state = tmp_path / "checkpoint-18" / "trainer_state.json"
    state.write_text(state.read_text(encoding="utf-8")[:100], encoding="utf-8")
    (tmp_path / "checkpoint-20").mkdir()
    assert latest_checkpoint(tmp_path).name == "checkpoint-16"


def test_an_unadapted_model_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="call adapt"):
        trainer(tmp_path, model=build("bert")).train()


def test_a_stack_that_was_adapted_by_itself_is_pruned_by_its_own_configuration(tmp_path):
    model = build("bert")
    adapt(model.bert, replace(CONFIG, ratio=0.25))
    a_trainer = trainer(tmp_path, model=model)
    a_trainer.train()
    pruner = callback_of(a_trainer).pruner
    assert (pruner.ratio, pruner.interval) == (0.25, 3)


def test_stacks_that_were_adapted_with_several_configurations_are_refused(tmp_path):
    config = hf.T5Config(d_model=24, d_kv=12, d_ff=40, num_layers=2, num_heads=2, vocab_size=VOCABULARY)
    model = hf.T5ForConditionalGeneration(config)
    adapt(model.encoder, CONFIG)
    adapt(model.decoder, replace(CONFIG, interval=5))
    with pytest.raises(RuntimeError, match="stacks of the model were adapted with 2 configurations"):
        trainer(tmp_path, model=model).train()


def test_a_merged_model_is_refused(tmp_path):
    model = build("bert")
    adapt(model, CONFIG)
    model.bert.encoder.layer[0].output.dense.merge()
    with pytest.raises(RuntimeError, match="merged"):
        trainer(tmp_path, model=model).train()


def test_data_parallel_is_refused(tmp_path):
    a_trainer = trainer(tmp_path)
    a_trainer.args._n_gpu = 2
    with pytest.raises(RuntimeError, match="CUDA_VISIBLE_DEVICES=0 for one GPU, or start one process per GPU"):
        callback_of(a_trainer).on_train_begin(a_trainer.args, a_trainer.state, a_trainer.control, model=a_trainer.model)


# The sampler


def test_the_sampler_gives_every_row_once_and_batches_of_like_length():
    lengths = torch.randint(1, 60, (1003,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(1003))
    batches = [[lengths[row] for row in order[i : i + 8]] for i in range(0, 1003, 8)]
    padded = sum(len(b) * max(b) for b in batches)
    assert padded < 1.1 * sum(lengths)
    assert [b[0] for b in batches] != sorted(b[0] for b in batches)  # lengths come in no order


def test_the_sampler_depends_on_seed_and_epoch_alone():
    lengths = list(range(40))
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        sampler = LengthGroupedSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        torch.rand(1)
        orders.append(list(sampler))
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("rows", [1, 7, 8, 9])
def test_the_sampler_takes_few_rows(rows):
    assert sorted(LengthGroupedSampler([3] * rows, 8, 0)) == list(range(rows))


class StopAtStep(TrainerCallback):
    """Stops after the pruner has had its turn in that step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def test_a_run_stopped_early_by_a_callback_reports_the_metrics_of_its_saved_file(tmp_path):
    config, options = PRILoRAConfig(ratio=0.9, interval=1000), {"device": "cpu", "progress": False}
    settings = Settings(learning_rate=2e-3, epochs=1, batch_size=16, max_length=64)
    result = finetune(
        "pocket-cola", config, settings=settings, output_dir=tmp_path, callbacks=[StopAtStep(40)], **options
    )
    assert result.steps == 40
    assert [entry["step"] for entry in result.history] == [40]
    model, tokenizer = load_encoder("pocket", TASKS["pocket-cola"])
    load_adapter(model, result.path)
    assert evaluate(model, tokenizer, "pocket-cola", **options) == result.metrics
