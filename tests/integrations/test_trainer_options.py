"""Every option of Trainer that touches checkpoints, callbacks or their state, with an adapted model and through PEFT.

What is loaded, at the end or on resume, is what was saved, or an error says what did not arrive.
"""

import dataclasses
import functools
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn

from prilora_lite import PRILoRACallback, PRILoRAConfig, adapt, rank_pattern_for
from prilora_lite.integrations import trainer as integration
from prilora_lite.integrations.checkpoints import CHECKSUMS
from prilora_lite.integrations.trained import TRAINED
from prilora_lite.integrations.trainer_arguments import check_processes
from tests.integrations.test_trainer import trainer_of_pictures, vit
from tests.small_models import build
from tests.training import CONFIG, assert_same_weights, callback_of, trainer

STEPS = {"max_steps": 8, "learning_rate": 0.3, "warmup_steps": 6}
SAVING = STEPS | {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
BEST = SAVING | {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}

# Tried below as they are: with them the best weights are loaded, and a resumed run ends as the whole one.
TRIED = {
    "load_best_model_at_end": {},
    "output_dir": {},
    "save_strategy": {"save_strategy": "best"},
    "save_steps": {"save_steps": 0.25, "eval_steps": 0.25},
    "save_total_limit": {"save_total_limit": 2},
    "save_on_each_node": {"save_on_each_node": True},
    "metric_for_best_model": {"metric_for_best_model": "loss"},
    "greater_is_better": {"greater_is_better": True},
    "restore_callback_states_from_checkpoint": {"restore_callback_states_from_checkpoint": True},
    "enable_jit_checkpoint": {"enable_jit_checkpoint": True},
    "eval_strategy": {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 17},
    "eval_delay": {"eval_delay": 3},
    "eval_on_start": {"eval_on_start": True},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "auto_find_batch_size": {"auto_find_batch_size": True},
    "activation_checkpointing": {"activation_checkpointing": True},
    "activation_checkpointing_kwargs": {
        "activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}
    },
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "torch_compile": {"torch_compile": True, "torch_compile_backend": "eager"},
    "bf16": {"bf16": True},
    "full_determinism": {"full_determinism": True},
    "lr_scheduler_type": {"lr_scheduler_type": "reduce_lr_on_plateau"},
    "optim": {"optim": "adafactor"},
    "average_tokens_across_devices": {"average_tokens_across_devices": False},
    "train_sampling_strategy": {"train_sampling_strategy": "group_by_length"},
    "dataloader_num_workers": {"dataloader_num_workers": 1},
}  # fmt: skip
# Each has a test of its own below, or one in test_trainer.py
BY_ITSELF = {"save_only_model", "ignore_data_skip", "resume_from_checkpoint", "max_steps", "parallelism_config"}
# They say what to upload, how evaluation saves memory, how rows are read, or another name of an option above
NO_CONCERN = {
    "push_to_hub", "hub_strategy", "bf16_full_eval", "fp16_full_eval", "batch_eval_metrics",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "fsdp_config", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order",
}  # fmt: skip
TOUCHES = re.compile(r"checkpoint|callback|\bsav|save_|resum|best|\bstates?\b|restor|\bload", re.IGNORECASE)
FIELDS = {field.name: field for field in dataclasses.fields(hf.TrainingArguments)}


def adapted():
    model = build("bert")
    adapt(model, CONFIG)
    return model


def through_peft(name="default", beside=(), **options):
    """A model of PEFT's; parameters that have a word of ``beside`` in their name are trained, too."""
    base = build("bert")
    patterns = rank_pattern_for(base, first_rank=2, last_rank=5)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value", "output.dense"], **patterns, **options)
    model = get_peft_model(base, config, adapter_name=name)
    for parameter, value in model.named_parameters():
        if any(word in parameter for word in beside):
            value.requires_grad_(True)
    return model


def run_of(folder, model, callback=None, callbacks=(), **arguments):
    a_trainer = trainer(folder, model=model, callbacks=callbacks, **arguments)
    a_trainer.remove_callback(hf.PrinterCallback)
    if callback is not None:
        a_trainer.remove_callback(PRILoRACallback)
        a_trainer.add_callback(callback)
    return a_trainer


def checkpoints(folder):
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def best_then_resumed(folder, make, **arguments):
    """A whole run, checked to end with its best weights; and one resumed from its first checkpoint."""
    whole = run_of(folder, make(), **arguments)
    whole.train()
    assert whole.evaluate()["eval_loss"] == pytest.approx(whole.state.best_metric, abs=1e-6)
    resumed = run_of(folder, make(), **arguments)
    resumed.train(resume_from_checkpoint=str(checkpoints(folder)[0]))
    return whole, resumed


def assert_same_run(first, second):
    assert_same_weights(first.model, second.model)
    assert callback_of(first).pruner.history == callback_of(second).pruner.history


def test_every_option_that_touches_checkpoints_or_callbacks_is_tried_or_without_concern():
    touching = {name for name, field in FIELDS.items() if TOUCHES.search(f"{name} {field.metadata.get('help')}")}
    assert touching - TRIED.keys() - BY_ITSELF - NO_CONCERN == set()


@pytest.mark.parametrize("make", [adapted, pytest.param(through_peft, marks=pytest.mark.slow)])
@pytest.mark.parametrize("option", TRIED)
def test_the_best_weights_are_loaded_and_a_resumed_run_ends_as_the_whole_one(option, make, tmp_path):
    if option not in FIELDS:
        pytest.skip(f"this version of transformers has no {option}")
    assert_same_run(*best_then_resumed(tmp_path, make, **(BEST | TRIED[option])))


def test_the_best_weights_are_not_the_last_ones(tmp_path):
    """Else the tests above would show nothing."""
    whole = run_of(tmp_path, adapted(), **BEST)
    whole.train()
    assert whole.state.best_global_step < whole.state.max_steps


@pytest.mark.parametrize("make", [adapted, through_peft])
def test_a_checkpoint_without_optimizer_is_not_resumed_from(make, tmp_path):
    arguments = BEST | {"save_only_model": True}
    with pytest.raises(RuntimeError, match=r"save_only_model, without the state of the optimizer .*: load its weights"):
        best_then_resumed(tmp_path, make, **arguments)


class Look(hf.TrainerCallback):
    """Keeps the weights of step 4, as they are saved and as a resumed run begins with them."""

    def __init__(self):
        self.saved, self.begun = {}, {}

    def on_save(self, args, state, control, model=None, **kwargs):
        if state.global_step == 4:
            self.saved = {name: value.clone() for name, value in model.state_dict().items()}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 4:
            self.begun = {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", [adapted, through_peft])
def test_with_data_that_are_not_skipped_a_run_starts_from_the_saved_weights(make, tmp_path):
    first, second = Look(), Look()
    run_of(tmp_path, make(), callbacks=[first], **SAVING).train()
    resumed = run_of(tmp_path, make(), callbacks=[second], ignore_data_skip=True, **SAVING)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert first.saved
    assert all(torch.equal(value, second.begun[name]) for name, value in first.saved.items())


# What PEFT does not put into its checkpoints


def with_batch_norm():
    model = through_peft(modules_to_save=["classifier"])
    model.base_model.model.dropout = nn.BatchNorm1d(24)  # before the classifier
    return model


BESIDE = {
    "an adapter of another name": lambda: through_peft("mine"),
    "layer norms": lambda: through_peft(beside=["LayerNorm"]),
    "the pooler": lambda: through_peft(beside=["pooler"]),
    "the statistics of a batch norm": with_batch_norm,
    "biases": lambda: through_peft(bias="lora_only"),
    "DoRA": lambda: through_peft(use_dora=True),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_is_trained_beside_an_adapter_of_pefts_is_loaded_too(what, tmp_path):
    whole, resumed = best_then_resumed(tmp_path, BESIDE[what], **BEST)
    assert_same_run(whole, resumed)


def test_nothing_is_written_twice_where_trainer_finds_all_of_it(tmp_path):
    for make in (adapted, through_peft):
        run_of(tmp_path / make.__name__, make(), **SAVING).train()
    assert not list(tmp_path.rglob(TRAINED))


def test_the_error_names_what_did_not_arrive_and_what_to_do(tmp_path):
    run_of(tmp_path, through_peft(beside=["LayerNorm"]), **SAVING).train()
    (tmp_path / "checkpoint-4" / TRAINED).unlink()
    (tmp_path / "checkpoint-4" / CHECKSUMS).unlink()
    resumed = run_of(tmp_path, through_peft(beside=["LayerNorm"]), **SAVING)
    with pytest.raises(RuntimeError, match=r"embeddings\.LayerNorm.* and 17 more did not arrive.*latest_checkpoint"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_checkpoint_in_another_folder_is_resumed_where_the_arguments_name_it(tmp_path):
    whole = trainer_of_pictures(tmp_path / "first", vit(), **(SAVING | {"learning_rate": 1e-2}))
    whole.train()
    shutil.move(tmp_path / "first" / "checkpoint-4", tmp_path / "elsewhere")
    place = str(tmp_path / "elsewhere")
    arguments = SAVING | {"learning_rate": 1e-2}
    named = trainer_of_pictures(tmp_path / "second", vit(), resume_from_checkpoint=place, **arguments)
    named.train(resume_from_checkpoint=place)
    assert_same_weights(whole.model, named.model)
    with pytest.raises(RuntimeError, match=r"vit.* did not arrive.*TrainingArguments\(resume_from_checkpoint=\.\.\.\)"):
        trainer_of_pictures(tmp_path / "third", vit(), **arguments).train(resume_from_checkpoint=place)


def test_a_run_is_not_resumed_with_other_weights_frozen(tmp_path):
    run_of(tmp_path, adapted(), **SAVING).train()
    model = adapted()
    model.classifier.bias.requires_grad_(False)
    model.bert.embeddings.LayerNorm.bias.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"LayerNorm\.bias' and 1 more were trained and now are not, or the reverse"):
        run_of(tmp_path, model, **SAVING).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


# The callback itself


@pytest.mark.parametrize("restores", [False, True])
def test_the_callbacks_own_configuration_is_there_after_a_resume(restores, tmp_path):
    def one(**arguments):
        return run_of(tmp_path, through_peft(), PRILoRACallback(PRILoRAConfig(ratio=0.25, interval=3)), **arguments)

    whole = one(**SAVING)
    whole.train()
    resumed = one(**SAVING, restore_callback_states_from_checkpoint=restores)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same_run(whole, resumed)


def by_power(power, lora_A):
    return lora_A.abs() ** power


@pytest.mark.parametrize("rule", [lambda lora_A: lora_A.abs(), functools.partial(by_power, 2.0)])
def test_a_configuration_with_a_function_resumes_unless_trainer_is_to_restore_it(rule, tmp_path):
    def one(**arguments):
        return run_of(tmp_path, through_peft(), PRILoRACallback(PRILoRAConfig(importance=rule)), **arguments)

    whole = one(**SAVING)
    whole.train()
    resumed = one(**SAVING)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same_run(whole, resumed)
    with pytest.raises(RuntimeError, match="leave out restore_callback_states_from_checkpoint"):
        one(**SAVING, restore_callback_states_from_checkpoint=True).train(str(tmp_path / "checkpoint-4"))


class Mine(PRILoRACallback):
    """A callback of a user's own, by another name."""


def test_a_callback_derived_from_ours_resumes(tmp_path):
    whole = run_of(tmp_path, adapted(), Mine(), **BEST)
    whole.train()
    resumed = run_of(tmp_path, adapted(), Mine(), **BEST)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same_run(whole, resumed)


def test_two_callbacks_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="two callbacks PRILoRACallback"):
        run_of(tmp_path, adapted(), callbacks=[PRILoRACallback()], **SAVING).train()


# What would go wrong in silence


def test_the_best_evaluation_must_have_a_checkpoint(tmp_path):
    with pytest.raises(RuntimeError, match=r"every 2 steps and a checkpoint every 4: .*give save_steps=2"):
        run_of(tmp_path, adapted(), **(BEST | {"save_steps": 4})).train()


class EvaluatesOnceMore(hf.TrainerCallback):
    """Asks for an evaluation in step 3, where no checkpoint is due."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate |= state.global_step == 3


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([float("nan")] * 6, "no checkpoint was the best, so the model is that of the last step"),
        ([1, 3, 2, 2, 2, 2], r"the best evaluation was in step 3, which has no checkpoint; .*checkpoint-2"),
        ([1, 2, 3, 2, 2, 2], None),
    ],
)
def test_a_best_model_that_is_missing_is_told(scores, message, tmp_path, monkeypatch):
    told, scores = [], iter(scores)
    monkeypatch.setattr(integration.logger, "warning", told.append)
    best = BEST | {"metric_for_best_model": "score", "greater_is_better": True}
    a_trainer = run_of(tmp_path, adapted(), callbacks=[EvaluatesOnceMore()], **best)
    a_trainer.compute_metrics = lambda output: {"score": next(scores)}
    a_trainer.train()
    assert len(told) == (message is not None)
    assert not told or re.search(message, told[0])


class KeepsTheNewestAlone(hf.TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        for checkpoint in checkpoints(Path(args.output_dir))[:-1]:
            shutil.rmtree(checkpoint)


def test_a_best_model_that_somebody_removed_is_told_and_the_script_goes_on(tmp_path, monkeypatch):
    told, scores = [], iter([4, 3, 2, 1])
    monkeypatch.setattr(integration.logger, "warning", told.append)
    best = BEST | {"metric_for_best_model": "score", "greater_is_better": True}
    a_trainer = run_of(tmp_path, adapted(), callbacks=[KeepsTheNewestAlone()], **best)
    a_trainer.compute_metrics = lambda output: {"score": next(scores)}
    a_trainer.train()
    assert re.search(r"the best checkpoint, .*checkpoint-2, is gone: the model is that of the last step", told[0])


def test_weights_that_the_optimizer_was_not_given_are_named(tmp_path, monkeypatch):
    told, model = [], adapted()
    monkeypatch.setattr(integration.logger, "warning", told.append)
    optimizer = torch.optim.AdamW([p for name, p in model.named_parameters() if "lora_" in name])
    run_of(tmp_path, model, optimizers=(optimizer, None), **STEPS).train()
    assert re.search(r"the optimizer does not hold '.*pooler.*' and \d more: that stays as it is", told[0])


def test_a_finished_run_is_not_trained_on(tmp_path):
    arguments = SAVING | {"max_steps": 7, "save_steps": 1}  # six steps make an epoch
    run_of(tmp_path, adapted(), **arguments).train()
    with pytest.raises(RuntimeError, match="ends at step 7, and the checkpoint is of step 7, so there is nothing left"):
        run_of(tmp_path, adapted(), **arguments).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_add_adapter_is_refused_where_trainer_could_not_load_what_it_saves(tmp_path):
    model = build("bert")
    model.add_adapter(LoraConfig(target_modules=["query", "value"], **rank_pattern_for(model, 2, 5)))
    with pytest.raises(RuntimeError, match=r"add_adapter, but can't load them: use PEFT's get_peft_model"):
        run_of(tmp_path, model, **SAVING).train()
    run_of(tmp_path, model, max_steps=2).train()


def test_weights_split_by_parallelism_config_are_refused():
    args = SimpleNamespace(n_gpu=1, parallelism_config=SimpleNamespace(tp_size=2, cp_size=1))
    with pytest.raises(RuntimeError, match="parallelism_config splits the weights or the tokens"):
        check_processes(args)


def test_on_each_node_the_first_process_seals_its_own_checkpoint(tmp_path):
    class OnAnotherNode(hf.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            state.is_world_process_zero = False

    run_of(tmp_path, adapted(), callbacks=[OnAnotherNode()], save_on_each_node=True, **SAVING).train()
    assert all((checkpoint / CHECKSUMS).is_file() for checkpoint in checkpoints(tmp_path))


class OutOfMemory(hf.TrainerCallback):
    """Runs out of memory once, after a step with the whole batch."""

    def __init__(self):
        self.done = False

    def on_substep_end(self, *args, **kwargs):
        self.fail()

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.fail()

    def fail(self):
        if not self.done:
            self.done = True
            raise RuntimeError("CUDA out of memory.")


def test_a_run_that_starts_again_with_smaller_batches_counts_anew(tmp_path):
    a_trainer = run_of(tmp_path, adapted(), callbacks=[OutOfMemory()], auto_find_batch_size=True, **SAVING)
    a_trainer.train()
    pruner = callback_of(a_trainer).pruner
    assert pruner.steps == a_trainer.state.global_step == 8
    assert [entry["step"] for entry in pruner.history] == [3, 6, 8]
    assert not any(module._forward_pre_hooks for module in a_trainer.model.modules())


@pytest.mark.skipif("enable_jit_checkpoint" not in FIELDS, reason="this version of transformers does not have it")
@pytest.mark.parametrize("when", ["on_step_begin", "on_step_end"])
def test_a_checkpoint_written_at_a_signal_resumes_as_if_undisturbed(when, tmp_path):
    """It is written without ``on_save``, and at the end of a step before the callback has had its turn."""
    from transformers.trainer_jit_checkpoint import JITCheckpointCallback

    class Signal(hf.TrainerCallback):
        def request(self, args, state, control, **kwargs):
            if state.global_step == 3:
                self.manager.is_checkpoint_requested = True

    setattr(Signal, when, Signal.request)
    arguments = STEPS | {"save_strategy": "no"}
    whole = run_of(tmp_path / "whole", adapted(), **arguments)
    whole.train()
    cut = run_of(tmp_path / "cut", adapted(), enable_jit_checkpoint=True, **arguments)
    jit = next(c for c in cut.callback_handler.callbacks if isinstance(c, JITCheckpointCallback))
    signal = Signal()
    signal.manager = jit.jit_manager
    cut.callback_handler.callbacks.insert(0, signal)  # before transformers' own
    cut.train()
    assert [path.name for path in checkpoints(tmp_path / "cut")] == ["checkpoint-3"]
    resumed = run_of(tmp_path / "cut", adapted(), **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    assert_same_run(whole, resumed)
