import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers as hf
from safetensors.torch import load_model
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

import prilora_lite.integrations.trainer as integration
from prilora_lite import LoRALinear, PRILoRACallback, PRILoRAConfig, adapt, latest_checkpoint, load_adapter
from prilora_lite.integrations.checkpoints import CHECKSUMS
from prilora_lite.models.layers import lora_layers
from tests.small_models import BUILDERS, VOCABULARY, build, checkpoint_activations
from tests.training import CONFIG, StopAfter, assert_same_weights, callback_of, trainer


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


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_an_adapter_that_nothing_trains_is_warned_of_with_and_without_a_pruner(ratio, tmp_path):
    model = build("bert")
    adapt(model, replace(CONFIG, ratio=ratio))
    for layer in lora_layers(model).values():
        layer.lora_B.register_hook(torch.zeros_like)  # as where the layers of Reformer get no gradient
    with pytest.warns(UserWarning, match="lora_B of all layers is still zero after 1[28] steps"):
        trainer(tmp_path, model=model).train()


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


class JudgeAt(TrainerCallback):
    """Asks for an evaluation and a save in one step; behind PRILoRACallback, when that has decided on pruning."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = control.should_save = state.global_step == self.step


def test_a_best_model_that_a_callback_behind_had_evaluated_unpruned_is_pruned_at_the_end(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(integration.logger, "warning", told.append)
    saving = SAVING | {"eval_steps": 8, "save_steps": 8}
    a_trainer = trainer(tmp_path, callbacks=[JudgeAt(4)], load_best_model_at_end=True, **saving)
    a_trainer.train()
    assert a_trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert sparsity(a_trainer.model) == 0.5
    assert callback_of(a_trainer).pruned_after_evaluation
    assert "the model of step 4 was saved unpruned: put PRILoRACallback last among the callbacks" in told[0]
    assert "the best model was evaluated unpruned: put PRILoRACallback last" in told[-1]


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
    with pytest.raises(
        RuntimeError, match=r"weights that Trainer loaded are not those that .*checkpoint-4 was saved with"
    ):
        trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_other_pruning_settings_do_not_resume(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=4).train()
    other = PRILoRAConfig(first_rank=2, last_rank=5, interval=5)
    with pytest.raises(ValueError, match="interval=3, now 5; resume with those that the run began with"):
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


def test_a_resumed_run_is_told_that_its_model_is_not_adapted_before_torch_speaks_of_groups(tmp_path, monkeypatch):
    told = []
    trainer(tmp_path, save_strategy="steps", save_steps=4, max_steps=4).train()
    monkeypatch.setattr(integration.logger, "warning", told.append)
    with pytest.raises(ValueError, match="parameter group"):
        trainer(tmp_path, model=build("bert")).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    (said,) = told
    assert "the model is not adapted: call adapt(model, config)" in said


def test_an_optimizer_whose_parameters_were_chosen_without_the_adapters_is_refused(tmp_path):
    model = build("bert")
    adapt(model, CONFIG)
    head = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="or its parameters were chosen without lora_A and lora_B"):
        trainer(tmp_path, model=model, optimizers=(head, None)).train()


class Averaging(torch.optim.SGD):
    """As the optimizers of the package schedulefree: Trainer calls these around each evaluation."""

    def train(self): ...

    def eval(self): ...


def test_an_optimizer_that_evaluates_an_average_of_its_weights_is_refused_where_they_are_pruned(tmp_path):
    for config in (CONFIG, replace(CONFIG, ratio=0.0)):
        model = build("bert")
        adapt(model, config)
        optimizer = Averaging([p for p in model.parameters() if p.requires_grad], lr=0.1)
        a_trainer = trainer(tmp_path, model=model, optimizers=(optimizer, None))
        if config.ratio:
            with pytest.raises(RuntimeError, match=r"Averaging is free of a schedule: .* whose pruned entries are not"):
                a_trainer.train()
        else:
            assert a_trainer.train().global_step == 18


def test_an_optimizer_that_was_made_before_the_adapter_is_refused(tmp_path):
    model = build("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    adapt(model, CONFIG)
    with pytest.raises(RuntimeError, match="the optimizer was made before the model was adapted"):
        trainer(tmp_path, model=model, optimizers=(optimizer, None)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    a_trainer = trainer(tmp_path, model=model, optimizers=(optimizer, None))
    a_trainer.train()
    assert callback_of(a_trainer).history


def test_a_stack_that_was_adapted_by_itself_is_pruned_by_its_own_configuration(tmp_path):
    model = build("bert")
    adapt(model.bert, replace(CONFIG, ratio=0.25))
    a_trainer = trainer(tmp_path, model=model)
    a_trainer.train()
    pruner = callback_of(a_trainer).pruner
    assert (pruner.settings["ratio"], pruner.settings["interval"]) == (0.25, 3)


def test_stacks_that_were_adapted_with_several_configurations_are_refused(tmp_path):
    config = hf.T5Config(d_model=24, d_kv=12, d_ff=40, num_layers=2, num_heads=2, vocab_size=VOCABULARY)
    model = hf.T5ForConditionalGeneration(config)
    adapt(model.encoder, CONFIG)
    adapt(model.decoder, replace(CONFIG, interval=5))
    with pytest.raises(ValueError, match="stacks of the model were adapted with 2 configurations"):
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


def test_the_callback_loads_none_of_the_libraries_that_only_experiments_need():
    """transformers' own callbacks load some of them: SciPy with PEFT, and scikit-learn and pandas in older versions."""
    code = """
import sys, transformers.trainer_callback
before = set(sys.modules)
from prilora_lite import PRILoRACallback
print(*set(sys.modules) - before)
assert "datasets" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "prilora_lite.integrations.trainer" in loaded
    assert not {"datasets", "sklearn", "scipy", "pandas", "prilora_lite.experiments"} & set(loaded)


# What Trainer loads is checked


def vit():
    small = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}
    torch.manual_seed(0)
    return hf.ViTForImageClassification(hf.ViTConfig(image_size=16, patch_size=4, **small))


def swin():
    torch.manual_seed(0)
    return hf.SwinForImageClassification(
        hf.SwinConfig(image_size=16, patch_size=2, embed_dim=12, depths=[2, 2], num_heads=[2, 2], window_size=4)
    )


def pictures(seed):
    generator = torch.Generator().manual_seed(seed)
    return [{"pixel_values": torch.randn(3, 16, 16, generator=generator), "labels": i % 2} for i in range(16)]


SAVING = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 8}
BEST = SAVING | {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}


def trainer_of_pictures(folder, model, **arguments):
    adapt(model, replace(CONFIG, interval=3))
    options = {"per_device_train_batch_size": 4, "learning_rate": 0.3, "report_to": [], "disable_tqdm": True}
    arguments = hf.TrainingArguments(str(folder), use_cpu=True, **options | arguments)
    return hf.Trainer(
        model, arguments, train_dataset=pictures(0), eval_dataset=pictures(5), callbacks=[PRILoRACallback()]
    )


@pytest.mark.parametrize("make", [vit, swin])
def test_the_best_model_is_loaded_whole_where_transformers_saves_other_names(make, tmp_path):
    a_trainer = trainer_of_pictures(tmp_path, make(), warmup_steps=6, **BEST)
    a_trainer.train()
    assert a_trainer.evaluate()["eval_loss"] == pytest.approx(a_trainer.state.best_metric, abs=1e-6)


@pytest.mark.parametrize("named", [False, True])
def test_a_search_for_hyperparameters_has_whole_checkpoints_in_each_trials_folder(named, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial)
    for trial in ("run-0", "run-1"):
        a_trainer = trainer_of_pictures(tmp_path, vit(), warmup_steps=6, **BEST)
        a_trainer.hp_name = (lambda trial: trial["name"]) if named else None
        monkeypatch.setattr(a_trainer, "_get_output_dir", lambda trial: str(tmp_path / trial["name"]))
        a_trainer.train(trial={"name": trial})
        assert a_trainer.evaluate()["eval_loss"] == pytest.approx(a_trainer.state.best_metric, abs=1e-6)
        assert all((tmp_path / trial / f"checkpoint-{step}" / CHECKSUMS).is_file() for step in (2, 4, 6, 8))


def test_a_run_resumes_where_transformers_saves_other_names(tmp_path):
    whole = trainer_of_pictures(tmp_path / "whole", vit(), **SAVING)
    whole.train()
    resumed = trainer_of_pictures(tmp_path / "whole", vit(), **SAVING)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert_same_weights(whole.model, resumed.model)


def test_what_was_restored_by_the_models_own_names_is_said_to_settle_trainers_warning(tmp_path, monkeypatch):
    told = []
    trainer_of_pictures(tmp_path, vit(), **SAVING).train()
    monkeypatch.setattr(integration.logger, "warning", told.append)
    trainer_of_pictures(tmp_path, vit(), **SAVING).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    (said,) = told
    assert re.search(r"model is whole\. .* [1-9]\d* tensors, were taken from .*trained\.safetensors", said)


def test_where_trainer_found_all_of_it_nothing_is_said_to_be_settled(tmp_path, monkeypatch):
    told = []
    trainer(tmp_path, **SAVING).train()
    monkeypatch.setattr(integration.logger, "warning", told.append)
    trainer(tmp_path, **SAVING).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert not told


def test_what_is_said_of_a_vits_checkpoint_loads_its_adapter(tmp_path):
    whole = trainer_of_pictures(tmp_path, vit(), save_strategy="steps", save_steps=4, max_steps=4)
    whole.train()
    with pytest.raises(ValueError, match="adapt") as refusal:
        load_adapter(vit(), tmp_path / "checkpoint-4")
    ((file, strict),) = re.findall(r"load_model\(model, '(.+)', strict=(\w+)\)", str(refusal.value))
    fresh = vit()
    adapt(fresh, CONFIG)
    load_model(fresh, file, strict=strict == "True")
    assert_same_weights(whole.model, fresh)


def test_a_best_model_that_did_not_arrive_is_an_error(tmp_path, monkeypatch):
    a_trainer = trainer(tmp_path, **BEST)
    monkeypatch.setattr(a_trainer, "_load_best_model", lambda: None)  # as if no key of the file had a place
    monkeypatch.setattr(a_trainer, "compute_loss", rising(a_trainer.compute_loss))
    with pytest.raises(RuntimeError, match=r"weights that Trainer loaded are not those that .*checkpoint-2 was saved"):
        a_trainer.train()


def rising(compute_loss):
    """A loss that is worse at each evaluation, so that the first checkpoint stays the best."""
    count = 0

    def compute(model, *args, **kwargs):
        nonlocal count
        count += not model.training
        loss = compute_loss(model, *args, **kwargs)
        if isinstance(loss, tuple):
            return loss[0] + count, *loss[1:]
        return loss + count * (not model.training)

    return compute


@pytest.mark.parametrize("change", [{"alpha": 160.0}, {"scaling": "mean"}, {"dropout": 0.1}])
def test_a_run_is_not_resumed_with_another_scaling_or_dropout(change, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, **saving).train()
    other = trainer(tmp_path, config=replace(CONFIG, **change), **saving)
    with pytest.raises(RuntimeError, match=r"had rank, scaling and dropout .*: resume with the configuration that"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize("ratio", [0.5, 0])
def test_what_an_adapter_will_not_hold_is_said_before_training(ratio, tmp_path, recwarn):
    a_trainer = trainer(tmp_path, max_steps=4, config=replace(CONFIG, ratio=ratio))
    a_trainer.train()
    assert not [w for w in recwarn if "save_adapter" in str(w.message)]
    a_trainer = trainer(tmp_path, max_steps=4, config=replace(CONFIG, ratio=ratio))
    a_trainer.model.bert.encoder.layer[0].output.LayerNorm.weight.requires_grad_(True)
    said = r"save_adapter will refuse this model: an adapter holds .* alone, .*'bert.encoder.layer.0.output.LayerNorm"
    with pytest.warns(UserWarning, match=said):
        a_trainer.train()


@pytest.mark.parametrize(("steps", "is_said"), [(2, True), (3, True), (4, False)])
def test_a_run_that_is_pruned_once_in_its_last_step_says_so_before_training(steps, is_said, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(integration.logger, "warning", told.append)
    a_trainer = trainer(tmp_path, max_steps=steps)  # every 3 steps
    a_trainer.train()
    assert (len(callback_of(a_trainer).history) == 1) == is_said
    assert len(told) == is_said
    assert not told or f"the run has {steps} steps and the interval is 3, so A is pruned once" in told[0]
