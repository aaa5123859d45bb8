"""PEFT's models pruned as they are, and adapters in its format, both ways."""

import dataclasses
import json
import math
import os
import re
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainingArguments

from prilora_lite import (
    LoRALinear,
    PRILoRACallback,
    PRILoRAConfig,
    Pruner,
    adapt,
    linear_ranks,
    load_adapter,
    load_encoder,
    load_peft_adapter,
    rank_pattern_for,
    report,
    save_adapter,
    save_peft_adapter,
)
from prilora_lite.experiments.presets import PRESETS
from prilora_lite.experiments.tasks import TASKS, get_task
from prilora_lite.integrations.model_card import LIBRARY_TASKS
from prilora_lite.models.layers import lora_layers
from tests.method.test_checkpoint import trained
from tests.small_models import BUILDERS, LAYERS, batch, build, train
from tests.training import assert_same_weights, callback_of, dataset

peft = pytest.importorskip("peft")
CONFIG = PRILoRAConfig(first_rank=2, last_rank=5, interval=2)
architectures = pytest.mark.parametrize("name", BUILDERS)


def wrapped(name="bert", dtype=torch.float32, adapter="default", **options):
    """A model of PEFT's with the ranks of CONFIG on all linear layers of the layers, pooler and head trained."""
    model = build(name).to(dtype)
    plan = adapt(build(name), CONFIG)
    options = {
        "target_modules": [f"{m.stack}.{m.layer}.{m.module}" for m in plan.modules],
        "modules_to_save": ["pooler", "classifier"] if name == "bert" else None,
        **rank_pattern_for(model, first_rank=2, last_rank=5),
        **options,
    }
    return peft.get_peft_model(model, peft.LoraConfig(fan_in_fan_out=name == "gpt2", **options), adapter_name=adapter)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


# Rank patterns


@architectures
def test_peft_gives_each_layer_the_scheduled_rank_and_scaling(name):
    ours = build(name)
    adapt(ours, CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of patterns that match nothing
        warnings.simplefilter("ignore", FutureWarning)
        theirs = wrapped(name)
    expected = {n: (layer.rank, pytest.approx(layer.scaling)) for n, layer in lora_layers(ours).items()}
    got = {n.removeprefix("base_model.model."): (l.rank, l.scaling) for n, l in lora_layers(theirs).items()}
    assert got == expected


def test_layer_1_is_not_taken_for_layer_11_nor_one_output_dense_for_another():
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=24, num_hidden_layers=12, num_attention_heads=2, intermediate_size=40)
    patterns = rank_pattern_for(BertModel(config), first_rank=1, last_rank=12)["rank_pattern"]
    for layer in range(12):
        for inside in ("attention.output.dense", "output.dense"):
            name = f"encoder.layer.{layer}.{inside}"
            hits = [rank for key, rank in patterns.items() if re.match(rf"(.*\.)?({key})$", name)]  # as PEFT matches
            assert hits == [layer + 1]
    assert not any(re.match(rf"(.*\.)?({key})$", "other.encoder.layer.1.output.dense") for key in patterns)


@pytest.mark.parametrize(
    ("options", "alphas"),
    [
        ({"alpha": 7}, [7, 7, 7, 7]),
        ({"alpha": 7, "scaling": "mean"}, [4, 6, 8, 10]),
        ({"alpha": 7, "scaling": "sqrt"}, [7 * (rank / 3.5) ** 0.5 for rank in (2, 3, 4, 5)]),
    ],
)
def test_alpha_is_rank_times_the_scaling_that_was_asked_for(options, alphas):
    patterns = rank_pattern_for(build("bert"), first_rank=2, last_rank=5, **options)
    assert list(patterns["rank_pattern"].values()) == [2, 3, 4, 5]  # their mean: 3.5
    assert list(patterns["alpha_pattern"].values()) == pytest.approx(alphas)


def test_ranks_must_fit_the_targets_alone():
    model = build("gpt2")
    with pytest.raises(ValueError, match=r"layer 3 would get rank 30, but transformer.h.3.attn.c_attn is"):
        rank_pattern_for(model, first_rank=2, last_rank=30)
    model = build("llama")
    assert rank_pattern_for(model, first_rank=2, last_rank=24, targets=("up_proj",))["rank_pattern"]


# Pruning PEFT's models


@architectures
def test_peft_trains_and_prunes_as_this_librarys_layer_in_float64(name):
    ours = build(name).double()
    adapt(ours, CONFIG)
    ours.requires_grad_(False)
    theirs = wrapped(name, torch.float64, modules_to_save=None)
    for layer in lora_layers(ours).values():
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
    pairs = list(zip(lora_layers(ours).values(), lora_layers(theirs).values(), strict=True))
    for own, its in pairs:
        nn.init.normal_(own.lora_B, std=0.02)
        its.lora_A.data.copy_(own.lora_A)
        its.lora_B.data.copy_(own.lora_B)
    for model in (ours, theirs):
        train(without_dropout(model), CONFIG, 4)
    for own, its in pairs:
        assert torch.equal(own.lora_A == 0, its.lora_A == 0)
        torch.testing.assert_close(its.lora_A.double(), own.lora_A, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(its.lora_B.double(), own.lora_B, rtol=1e-6, atol=1e-9)
    zeros = sum(int((own.lora_A == 0).sum()) for own, _ in pairs)
    assert zeros == sum(own.rank * (own.in_features // 2) for own, _ in pairs)


def test_only_the_active_of_several_adapters_is_pruned():
    model = wrapped(adapter="first")
    model.add_adapter("second", peft.LoraConfig(target_modules=["query", "output.dense"], r=3))
    model.set_adapter("second")
    before = {name: p.detach().clone() for name, p in model.named_parameters() if ".lora_A.first" in name}
    train(model.train(), CONFIG, 2)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    seconds = [p for name, p in model.named_parameters() if ".lora_A.second" in name]
    assert len(seconds) == 3 * LAYERS
    assert all(((p == 0).sum(1) == p.shape[1] // 2).all() for p in seconds)


@pytest.mark.parametrize("targets", [["query"], ["query", "key", "value", "dense"]])
def test_two_adapters_active_together_are_refused_with_the_way_out(targets):
    model = wrapped(adapter="first", target_modules=targets)
    model.add_adapter("second", peft.LoraConfig(target_modules=targets[:3], r=3))
    model.base_model.set_adapter(["first", "second"])
    with pytest.raises(ValueError, match=r"first, second are active together.*set_adapter\('first'\)"):
        Pruner(model)


def test_an_adapter_of_embeddings_is_refused():
    model = peft.get_peft_model(build("bert"), peft.LoraConfig(target_modules=["word_embeddings"]))
    with pytest.raises(ValueError, match=r"adapts .*word_embeddings, which is not a linear layer"):
        Pruner(model)


def test_an_adapter_of_the_pooler_counts_one_vector_for_each_example():
    model = peft.get_peft_model(
        build("bert"), peft.LoraConfig(target_modules="all-linear", task_type="SEQ_CLS")
    ).train()
    pruner, kept = Pruner(model), []
    (name,) = (name for name in pruner.layers if name.endswith("pooler.dense"))
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: kept.append(args[0].detach()))
    model(**batch())
    pruner.step()
    torch.testing.assert_close(pruner.mean_square(name), kept[0].square().mean(0))


def test_padding_before_a_language_models_head_does_not_count():
    import transformers as hf

    model = hf.LlamaForCausalLM(build("llama").config).double()
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["lm_head"])).train()
    pruner, kept = Pruner(model), []
    ((name, layer),) = pruner.layers.items()
    layer.layer.register_forward_pre_hook(lambda _, args: kept.append(args[0].detach()))
    rows = {name: value for name, value in batch().items() if name != "labels"}
    model(**rows)
    pruner.step()
    expected = kept[0][rows["attention_mask"].bool()].square().mean(0)
    torch.testing.assert_close(pruner.norms[name].mean_square, expected)


def test_every_row_counts_before_a_classifier_behind_the_pooling():
    model = peft.get_peft_model(build("bert"), peft.LoraConfig(target_modules=["classifier"], r=2)).train()
    pruner = Pruner(model)
    model(**batch())
    assert [norms.tokens.item() for norms in pruner.norms.values()] == [3]


def test_a_merged_model_of_pefts_is_not_pruned(tmp_path):
    model = wrapped()
    pruner = train(model.train(), CONFIG, 1)
    model.merge_adapter()
    with pytest.raises(RuntimeError, match=r"query is merged: .* call unmerge\(\)"):
        pruner.prune()
    with pytest.raises(RuntimeError, match="the model is merged"):
        peft_trainer(tmp_path, model=model).train()


def test_the_report_of_ranks_leaves_out_what_stands_in_no_layer():
    model = peft.get_peft_model(build("bert"), peft.LoraConfig(target_modules=["query", "pooler.dense"], r=3))
    result = report(model)
    assert result.ranks == [3] * LAYERS
    assert [m.module for m in result.modules if m.layer is None] == ["base_model.model.bert.pooler.dense"]


def test_the_report_counts_a_model_of_pefts():
    model = wrapped()
    ours = build("bert")
    adapt(ours, CONFIG)
    its, own = report(model), report(ours)
    assert its.ranks == own.ranks == linear_ranks(LAYERS, 2, 5)
    assert (its.adapter, its.head, its.base) == (own.adapter, own.head, own.base)
    train(model.train(), CONFIG, 2)
    assert report(model).adapter_nonzero < its.adapter


def test_the_reports_table_has_every_module_of_pefts_wherever_it_stands():
    config = peft.LoraConfig(target_modules=["pre_classifier", "q_lin", "classifier"])
    result = report(peft.get_peft_model(build("distilbert"), config))
    rows = [line.split()[1] for line in repr(result).splitlines() if line.split()[2:3] in (["24x24"], ["2x24"])]
    assert sorted(rows) == sorted(module.module for module in result.modules)
    assert len(rows) == LAYERS + 2


def peft_trainer(folder, callback=None, model=None, **arguments):
    """A researcher's script on PEFT; one line builds the ranks, one the callback."""
    torch.manual_seed(0)
    options = {
        "output_dir": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 5e-3,
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "seed": 1,
    }  # fmt: skip
    return Trainer(
        wrapped() if model is None else model,
        TrainingArguments(**(options | arguments)),
        train_dataset=dataset(),
        callbacks=[callback or PRILoRACallback(CONFIG)],
    )


def test_a_peft_script_with_the_callback_resumes_bit_for_bit(tmp_path):
    whole = peft_trainer(tmp_path / "whole", save_strategy="steps", save_steps=5)
    whole.train()
    resumed = peft_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert_same_weights(whole.model, resumed.model)
    assert callback_of(resumed).pruner.history == callback_of(whole).pruner.history
    assert callback_of(whole).pruner.steps == 12
    saved = load_file(tmp_path / "whole" / "checkpoint-12" / "adapter_model.safetensors")
    assert all(((A == 0).sum(1) == A.shape[1] // 2).all() for name, A in saved.items() if "lora_A" in name)


def test_without_a_configuration_a_model_of_pefts_is_pruned_by_the_default(tmp_path):
    trainer = peft_trainer(tmp_path, PRILoRACallback())
    trainer.train()
    pruner = callback_of(trainer).pruner
    assert (pruner.settings["ratio"], pruner.settings["interval"]) == (PRILoRAConfig().ratio, PRILoRAConfig().interval)
    assert pruner.history[-1]["after"] == 0.5


def test_a_frozen_adapter_is_refused_with_the_way_out(tmp_path):
    wrapped().save_pretrained(tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(build("bert"), tmp_path / "adapter")
    model.base_model.model.classifier.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"lora_A is frozen in all layers.* needs is_trainable=True"):
        peft_trainer(tmp_path, model=model).train()


def test_a_configuration_beside_another_that_the_model_has_is_refused(tmp_path):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=3, last_rank=3))
    message = (
        "given first_rank=2, last_rank=5, interval=2, but the model was adapted with first_rank=3, last_rank=3, int"
    )
    with pytest.raises(RuntimeError, match=message):
        peft_trainer(tmp_path, model=model).train()


def test_the_configuration_that_the_model_was_adapted_with_is_no_other_where_its_ranks_are_a_function(tmp_path):
    model, config = build("bert"), PRILoRAConfig(ranks=lambda depth: 2 + 2 * depth, interval=2)
    adapt(model, config)
    trainer = peft_trainer(tmp_path, PRILoRACallback(config), model=model, max_steps=2)
    trainer.train()
    assert callback_of(trainer).history[-1]["after"] == 0.5


def test_a_function_that_gives_other_ranks_than_the_model_has_is_refused(tmp_path):
    model = build("bert")
    adapt(model, PRILoRAConfig(ranks=lambda depth: 2 + 2 * depth))
    other = PRILoRACallback(PRILoRAConfig(ranks=lambda depth: 2 + 4 * depth))
    with pytest.raises(
        RuntimeError, match=r"given ranks=\(2, 3, 5, 6\), but the model was adapted with ranks=\(2, 3, 3, 4\)"
    ):
        peft_trainer(tmp_path, other, model=model).train()


# Written in PEFT's format


@architectures
def test_peft_reads_what_is_written_with_equal_logits_and_sparsity(name, tmp_path):
    model = trained(name)
    folder = save_peft_adapter(model, tmp_path / "new" / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        theirs = peft.PeftModel.from_pretrained(build(name), folder).eval()
    torch.testing.assert_close(theirs(**batch()).logits, model(**batch()).logits, rtol=0, atol=1e-6)
    assert report(theirs).adapter_nonzero == report(model).adapter_nonzero < report(model).adapter


@architectures
def test_what_is_written_is_read_back_with_its_configuration(name, tmp_path):
    model = trained(name)
    fresh = build(name)
    result = load_peft_adapter(fresh, save_peft_adapter(model, tmp_path / "adapter"))
    assert torch.equal(fresh(**batch()).logits, model(**batch()).logits)
    assert fresh.prilora_config == CONFIG
    assert result.notes == ()
    assert save_adapter(fresh, tmp_path / "a").read_bytes() == save_adapter(model, tmp_path / "b").read_bytes()


def test_a_compiled_model_is_written_and_read_under_the_names_of_the_one_inside(tmp_path):
    model = trained()
    save_peft_adapter(torch.compile(model, backend="eager"), tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(build("bert"), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(loaded(**batch()).logits, model(**batch()).logits, rtol=0, atol=1e-6)
    load_peft_adapter(torch.compile(fresh := build("bert"), backend="eager"), tmp_path / "adapter")
    assert torch.equal(fresh(**batch()).logits, model(**batch()).logits)


def test_a_folder_that_was_written_under_compiles_names_is_read(tmp_path):
    peft.get_peft_model(
        torch.compile(build("bert"), backend="eager"),
        peft.LoraConfig(
            target_modules=["query"],
            rank_pattern={r"^_orig_mod\.bert\.encoder\.layer\.1\..+": 3},
            alpha_pattern={r"^_orig_mod\.bert\.encoder\.layer\.1\..+": 6},
        ),
    ).save_pretrained(tmp_path)
    loaded = load_peft_adapter(build("bert"), tmp_path)
    assert [(module.rank, module.scaling) for module in loaded.modules] == [(8, 1.0), (3, 2.0), (8, 1.0), (8, 1.0)]


def test_pefts_auto_class_finds_the_base_that_the_model_was_loaded_from(tmp_path):
    build("bert").save_pretrained(tmp_path / "base")
    model = type(build("bert")).from_pretrained(tmp_path / "base")
    adapt(model, CONFIG)
    train(model.train(), CONFIG, 2)
    folder = save_peft_adapter(model.eval(), tmp_path / "adapter")
    theirs = peft.AutoPeftModel.from_pretrained(folder).eval()
    torch.testing.assert_close(theirs(**batch()).logits, model(**batch()).logits, rtol=0, atol=1e-6)
    assert ModelCard.load(folder / "README.md").data.base_model is None  # a local folder is no name on the hub


def test_the_folder_holds_three_files_and_no_local_path(tmp_path):
    (tmp_path / "adapter").mkdir()  # an empty folder is taken
    folder = save_peft_adapter(trained(), tmp_path / "adapter")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    assert str(tmp_path) not in "".join(p.read_text(encoding="latin-1") for p in folder.iterdir())


def test_flat_ranks_are_written_as_plain_lora(tmp_path):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=3, last_rank=3, alpha=6, dropout=0.25, ratio=0))
    folder = save_peft_adapter(model, tmp_path / "adapter")
    options = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (options["r"], options["lora_alpha"], options["rank_pattern"]) == (3, 6, {})
    assert options["lora_dropout"] == 0.25


def test_the_card_states_what_the_adapter_is(tmp_path):
    model = trained()
    folder = save_peft_adapter(
        model, tmp_path / "a", base_model="owner/base", task="mrpc", dataset="nyu-mll/glue", metrics={"accuracy": 0.75}
    )
    card = ModelCard.load(folder / "README.md")
    counts = report(model)
    for part in (
        "| base model | owner/base |", "| ranks, first layer to last | 2, 3, 4, 5 |", "| pruned in training | 0.5 of A",
        f"| lora_A and lora_B | {counts.adapter:,} entries, {counts.adapter_nonzero:,} not zero |",
        "| zeros in lora_A | 50.0% |", "| task | mrpc |", "| accuracy, validation rows | 0.7500 |",
    ):  # fmt: skip
        assert part in card.text, part
    assert (card.data.base_model, card.data.library_name, card.data.datasets) == (
        "owner/base",
        "peft",
        ["nyu-mll/glue"],
    )
    (result,) = card.data.eval_results
    assert (result.dataset_config, result.metric_type, result.metric_value) == ("mrpc", "accuracy", 0.75)


def of_class(name):
    """An adapted model of one of transformers' classes, with its dropout and the rest of a small BERT or GPT-2."""
    model = getattr(hf, name)(build("gpt2" if name.startswith("GPT2") else "bert").config)
    adapt(model, CONFIG)
    return model


def card_of(model, folder, **options):
    given = {"task": "mine", "metrics": {"score": 0.75}} | options
    return ModelCard.load(save_peft_adapter(model, folder / "a", **given) / "README.md")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForQuestionAnswering", "question-answering"),
        ("GPT2LMHeadModel", "text-generation"),
    ],
)
def test_the_cards_results_are_of_the_kind_of_task_that_the_models_class_is_for(name, kind, tmp_path):
    (result,) = card_of(of_class(name), tmp_path).data.eval_results
    assert (result.task_type, result.dataset_type, result.metric_value) == (kind, "mine", 0.75)


def test_the_card_of_a_class_that_names_no_task_has_its_results_for_people_alone(tmp_path):
    card = card_of(of_class("BertForMultipleChoice"), tmp_path)
    assert card.data.eval_results is None
    assert "| score | 0.7500 |" in card.text


@pytest.mark.parametrize(("task", "said"), [("mine", "| score |"), ("pocket-rte", "| score, validation rows |")])
def test_the_card_speaks_of_validation_rows_for_this_librarys_tasks_alone(task, said, tmp_path):
    assert said in card_of(trained(), tmp_path, task=task).text


def test_the_tasks_whose_metrics_are_of_validation_rows_are_all_of_this_library():
    assert {name.removeprefix("pocket-") for name in TASKS} == set(LIBRARY_TASKS)


def test_the_card_names_a_configuration_of_no_other_dataset_than_glue(tmp_path):
    (result,) = card_of(trained(), tmp_path, dataset="owner/mine").data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("owner/mine", None)


def test_the_card_says_how_the_pruner_pruned_not_what_the_configuration_had(tmp_path):
    model = build("bert")
    adapt(model, CONFIG)
    train(model, dataclasses.replace(CONFIG, ratio=0.75, interval=1, importance="magnitude"))
    card = ModelCard.load(save_peft_adapter(model, tmp_path / "a") / "README.md")
    assert "| pruned in training | 0.75 of A, by magnitude, every 1 optimizer steps |" in card.text
    fresh = build("bert")
    load_peft_adapter(fresh, tmp_path / "a")
    assert fresh.prilora_config == dataclasses.replace(CONFIG, ratio=0.75, interval=1, importance="magnitude")


def test_the_card_of_a_model_that_was_not_pruned_claims_no_pruning(tmp_path):
    model = build("bert")
    adapt(model, CONFIG)
    card = ModelCard.load(save_peft_adapter(model, tmp_path / "a") / "README.md")
    assert "| pruned in training | no: 0.5 of A, by magnitude_input, every 2 optimizer steps was to be" in card.text


@pytest.mark.parametrize(("zeros", "said"), [(False, "nothing"), (True, "not by this configuration")])
def test_the_card_of_an_adapter_with_ratio_0_says_what_it_can(zeros, said, tmp_path):
    model = build("bert")
    adapt(model, dataclasses.replace(CONFIG, ratio=0))
    if zeros:
        model.bert.encoder.layer[0].output.dense.lora_A.data.zero_()
    card = ModelCard.load(save_peft_adapter(model, tmp_path / "a") / "README.md")
    assert f"| pruned in training | {said} |" in card.text


def test_a_presets_adapter_names_its_base_on_the_hub_and_the_revision(tmp_path):
    model, _ = load_encoder("pocket", get_task("pocket-cola"))
    model.prilora_base = PRESETS["minilm"].hub_name, PRESETS["minilm"].revision  # as for that preset
    adapt(model, CONFIG)
    folder = save_peft_adapter(model, tmp_path / "adapter")
    options = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert options["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert re.fullmatch("[0-9a-f]{40}", options["revision"])


def test_a_link_to_a_folder_stays_one_and_the_folder_has_the_new_adapter(tmp_path):
    model = build("bert")
    adapt(model, CONFIG)
    first = save_peft_adapter(model, tmp_path / "run")
    (tmp_path / "latest").symlink_to("run", target_is_directory=True)
    model.classifier.bias.data += 1
    before = (first / "adapter_model.safetensors").read_bytes()
    assert save_peft_adapter(model, tmp_path / "latest") == tmp_path / "latest"
    assert (tmp_path / "latest").is_symlink()
    assert (first / "adapter_model.safetensors").read_bytes() != before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "latest"}


def test_the_working_directory_takes_an_adapter_if_it_is_empty(tmp_path, monkeypatch):
    model = build("bert")
    adapt(model, CONFIG)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_peft_adapter(model, ".")
    assert (tmp_path / "here" / "adapter_model.safetensors").is_file()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds more than an adapter"):
        save_peft_adapter(trained(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_adapter_of_an_earlier_run_is_replaced(tmp_path):
    earlier, later = trained(), trained()
    for layer in lora_layers(later).values():
        layer.lora_B.data.neg_()
    for model, folder in ((earlier, "adapter"), (later, "adapter"), (later, "other")):
        save_peft_adapter(model, tmp_path / folder)
    replaced, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "other"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in replaced.items())
    assert not torch.equal(
        next(iter(lora_layers(earlier).values())).lora_B, next(iter(lora_layers(later).values())).lora_B
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "other"]


def test_an_adapter_that_can_not_be_replaced_stays(tmp_path, monkeypatch):
    folder, move = save_peft_adapter(trained(), tmp_path / "adapter"), os.replace
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def refuse_the_new_one(source, target):
        if str(source).endswith(".part"):
            raise OSError("no permission")
        move(source, target)

    monkeypatch.setattr(os, "replace", refuse_the_new_one)
    with pytest.raises(OSError, match="no permission"):
        save_peft_adapter(trained(), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_metric_without_a_value_is_left_out_of_the_card_and_no_weight_is_lost(tmp_path):
    with pytest.warns(UserWarning, match="the card leaves out matthews, which is nan"):
        folder = save_peft_adapter(
            trained(), tmp_path / "a", task="cola", metrics={"matthews": math.nan, "accuracy": 0.7}
        )
    (result,) = ModelCard.load(folder / "README.md").data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.7)


def test_a_crash_while_writing_leaves_nothing(tmp_path, monkeypatch):
    import prilora_lite.integrations.peft_save as peft_save

    def crash(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(peft_save, "save", crash)
    with pytest.raises(OSError, match="no space left"):
        save_peft_adapter(trained(), tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", [build("bert"), pytest.param("peft", id="peft")])
def test_what_adapt_did_not_make_is_not_written(model, tmp_path):
    with pytest.raises(ValueError, match="not adapted by adapt"):
        save_peft_adapter(wrapped() if model == "peft" else model, tmp_path / "adapter")


def test_the_part_that_is_adapted_is_named_where_the_whole_is_to_be_written(tmp_path):
    model = build("bert")
    adapt(model.bert, CONFIG)
    with pytest.raises(ValueError, match=r"bert alone is adapted: give that part, model\.bert"):
        save_peft_adapter(model, tmp_path / "adapter")


def test_parameters_that_would_be_lost_are_named(tmp_path):
    model = trained()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"would be lost, '.*word_embeddings\.weight': .*modules_to_save"):
        save_peft_adapter(model, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_a_heads_parameters_outside_of_any_module_are_not_written(tmp_path):
    import transformers as hf

    config = hf.WhisperConfig(
        d_model=24, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=40, use_weighted_layer_sum=True
    )
    model = hf.WhisperForAudioClassification(config)
    adapt(model, CONFIG)
    with pytest.raises(ValueError, match="outside of any module, which PEFT can't write"):
        save_peft_adapter(model, tmp_path / "adapter")


def test_the_head_of_a_language_model_is_read_back_without_its_output_embedding(tmp_path):
    import transformers as hf

    peft = pytest.importorskip("peft")
    config = hf.EsmConfig(
        vocab_size=33, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40,
        pad_token_id=1, mask_token_id=32,
    )  # fmt: skip
    model, base = (hf.EsmForMaskedLM(config) for _ in range(2))
    base.load_state_dict(model.state_dict())
    adapt(model, CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.requires_grad)
    loaded = peft.PeftModel.from_pretrained(base, save_peft_adapter(model, tmp_path / "adapter")).eval()
    ids = torch.arange(4, 18).view(2, 7)
    torch.testing.assert_close(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_an_adapter_of_mamba_has_no_layer_that_peft_refuses(tmp_path):
    def base():
        torch.manual_seed(0)
        return hf.MambaForCausalLM(hf.MambaConfig(vocab_size=99, hidden_size=24, num_hidden_layers=3, state_size=4))

    model = base()
    adapt(model, PRILoRAConfig.lora(2))
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_B)
    loaded = peft.PeftModel.from_pretrained(base(), save_peft_adapter(model, tmp_path / "adapter")).eval()
    ids = torch.arange(4, 18).view(2, 7)
    torch.testing.assert_close(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


class NamedAlike(nn.Module):
    """A head of one name with a layer, or whose name another in the layers ends with."""

    def __init__(self, inside, head):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(OrderedDict({inside: nn.Linear(8, 8), "act": nn.Tanh(), "norm": nn.LayerNorm(8)}))
            for _ in range(3)
        )
        self.add_module(head, nn.Linear(8, 8))
        self.head = head

    def forward(self, x):
        return self.get_submodule(self.head)(nn.Sequential(*self.layers)(x))


@pytest.mark.parametrize(("inside", "head"), [("fc", "fc"), ("fc", "norm"), ("inner_fc", "fc"), ("fc", "apart")])
def test_peft_reads_a_head_that_is_called_like_a_module_in_the_layers(inside, head, tmp_path):
    def base():
        torch.manual_seed(0)
        return NamedAlike(inside, head)

    model, x = base(), torch.randn(3, 8)
    adapt(model, CONFIG)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.endswith("lora_A"):
            nn.init.normal_(parameter, std=0.1)
    folder = save_peft_adapter(model, tmp_path / "adapter")
    options = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert options["modules_to_save"] == [head if head == "apart" else f"base_model.model.{head}"]
    load_peft_adapter(fresh := base(), folder)
    for loaded in (fresh, peft.PeftModel.from_pretrained(base(), folder)):
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"target_modules": "all-linear", "task_type": "SEQ_CLS"}, {"r": 64}])
def test_an_adapter_that_can_not_be_read_here_is_pruned_as_peft_loads_it(options, tmp_path):
    config = peft.LoraConfig(**{"target_modules": ["query"]} | options)
    peft.get_peft_model(build("bert"), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="load the adapter with PEFT's PeftModel, which Pruner and PRILoRACallback"):
        load_peft_adapter(build("bert"), tmp_path)
    loaded = peft.PeftModel.from_pretrained(build("bert"), tmp_path, is_trainable=True)
    pruner = Pruner(loaded.train(), interval=1)
    loaded(**batch()).loss.backward()
    pruner.step()
    assert pruner.sparsity() == 0.5


@pytest.mark.parametrize("number", [np.float64(0.8125), np.float32(0.8125), torch.tensor(0.8125)])
def test_a_card_takes_metrics_as_numpy_and_torch_give_them(number, tmp_path):
    folder = save_peft_adapter(trained(), tmp_path / "adapter", task="cola", metrics={"matthews": number})
    assert ModelCard.load(folder / "README.md").data.eval_results[0].metric_value == 0.8125


def test_metrics_need_their_task(tmp_path):
    with pytest.raises(ValueError, match="metrics of which task"):
        save_peft_adapter(trained(), tmp_path / "adapter", metrics={"accuracy": 1.0})


# Read from PEFT's format


@architectures
def test_an_adapter_that_peft_wrote_is_read_with_equal_logits(name, tmp_path):
    model = wrapped(name)
    train(model.train(), CONFIG, 2)
    model.eval().save_pretrained(tmp_path)
    fresh = build(name)
    fresh_head = {n: p.detach().clone() for n, p in fresh.named_parameters()}
    result = load_peft_adapter(fresh, tmp_path)
    torch.testing.assert_close(fresh(**batch()).logits, model(**batch()).logits, rtol=0, atol=1e-6)
    assert result.adapter_nonzero == report(model).adapter_nonzero < result.adapter
    if name != "bert":  # no pooler and head in the file: they stay, and it is said
        kept = {note.split()[0] for note in result.notes if "is not in the file and stays as it is" in note}
        assert kept
        assert all(torch.equal(dict(fresh.named_parameters())[n], fresh_head[n]) for n in kept)


def test_an_encoder_decoders_adapter_that_peft_wrote_is_read(tmp_path):
    """Its stacks have mean ranks of their own, and so scalings of their own."""
    from tests.architectures import ARCHITECTURES, TEXT, build_with, inputs

    (t5,) = (a for a in ARCHITECTURES if a.name == "T5")
    base = build_with(t5, TEXT)
    targets = ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]
    options = peft.LoraConfig(target_modules=targets, **rank_pattern_for(base, first_rank=2, last_rank=5))
    model = peft.get_peft_model(base, options)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.02)
    model.save_pretrained(tmp_path)
    fresh = build_with(t5, TEXT)
    load_peft_adapter(fresh, tmp_path)
    adapt(expected := build_with(t5, TEXT), CONFIG)
    assert [l.scaling for l in lora_layers(fresh).values()] == [l.scaling for l in lora_layers(expected).values()]
    rows = inputs(t5, TEXT)
    torch.testing.assert_close(fresh(**rows).logits, model.eval()(**rows).logits, rtol=1e-6, atol=1e-5)


def test_an_adapter_of_one_stack_alone_is_read(tmp_path):
    from tests.architectures import ARCHITECTURES, TEXT, build_with, inputs

    (t5,) = (a for a in ARCHITECTURES if a.name == "T5")
    model = peft.get_peft_model(build_with(t5, TEXT), peft.LoraConfig(r=2, target_modules=r".*EncDecAttention\.q"))
    assert lora_layers(model)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.02)
    model.save_pretrained(tmp_path)
    load_peft_adapter(fresh := build_with(t5, TEXT), tmp_path)
    rows = inputs(t5, TEXT)
    torch.testing.assert_close(fresh(**rows).logits, model.eval()(**rows).logits, rtol=1e-6, atol=1e-5)


def test_an_adapter_that_peft_wrote_is_pruned_once_its_ratio_is_set(tmp_path):
    wrapped(modules_to_save=["pooler", "classifier"]).save_pretrained(tmp_path / "adapter")
    model = build("bert")
    result = load_peft_adapter(model, tmp_path / "adapter")
    assert "ratio is 0" in result.notes[-1]
    with pytest.raises(RuntimeError, match=r"change the second: model\.prilora_config = dataclasses\.replace"):
        peft_trainer(tmp_path, model=model).train()
    model.prilora_config = dataclasses.replace(model.prilora_config, ratio=0.5)
    trainer = peft_trainer(tmp_path, PRILoRACallback(), model=model)
    trainer.train()
    assert callback_of(trainer).pruner.sparsity() == 0.5


PLAIN = {"rank_pattern": {}, "alpha_pattern": {}, "r": 3, "lora_alpha": 6}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PLAIN, {"first_rank": 3, "last_rank": 3, "targets": None, "layers": None, "scaling": "layer"}),
        (PLAIN | {"target_modules": ["query", "value"]}, {"targets": ("attention.self.query", "attention.self.value")}),
        (PLAIN | {"target_modules": ["query"], "layers_to_transform": [1, 3]}, {"layers": (1, 3), "first_rank": 3}),
        (PLAIN | {"use_rslora": True}, {"alpha": pytest.approx(6 * 3**0.5)}),
        (PLAIN | {"lora_dropout": 0.25}, {"dropout": 0.25}),
        (
            {"alpha_pattern": {}, "lora_alpha": 12, "use_rslora": True},
            {"first_rank": 2, "last_rank": 5, "scaling": "sqrt", "alpha": pytest.approx(12 * 3.5**0.5)},
        ),
        ({"alpha_pattern": {}, "lora_alpha": 12}, {"first_rank": 2, "last_rank": 5, "scaling": "layer", "alpha": 12}),
    ],
)
def test_pefts_options_become_a_configuration(options, expected, tmp_path):
    model = wrapped(**options)
    train(model.train(), CONFIG, 2)
    model.eval().save_pretrained(tmp_path)
    fresh = build("bert")
    load_peft_adapter(fresh, tmp_path)
    got = fresh.prilora_config.to_dict() | {
        "targets": fresh.prilora_config.targets,
        "layers": fresh.prilora_config.layers,
    }
    assert {name: got[name] for name in expected} == expected
    assert got["ratio"] == 0
    torch.testing.assert_close(fresh(**batch()).logits, model(**batch()).logits, rtol=0, atol=1e-6)


class Gaps(nn.Module):
    """Some of its numbered layers hold nothing that could be adapted, as in MobileViT and SwiftFormer."""

    def __init__(self, linear):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh()) if number in linear else nn.Tanh() for number in range(7)
        )

    def forward(self, x):
        return nn.Sequential(*self.layers)(x)


@pytest.mark.parametrize("linear", [(2, 3, 4), (0, 2, 4, 6)])
@pytest.mark.parametrize("ranks", ["linear", "middle"])
@pytest.mark.parametrize("scaling", ["layer", "each its own"])
def test_an_adapter_of_layers_whose_numbers_have_gaps_is_read(linear, ranks, scaling, tmp_path):
    def base():
        torch.manual_seed(0)
        return Gaps(linear)

    count = len(linear)
    ranks = ranks if ranks == "linear" else (2, 7, 3, 5)[:count]
    scaling = scaling if scaling == "layer" else tuple(1.0 + number**2 for number in range(count))
    patterns = rank_pattern_for(base(), first_rank=2, last_rank=6, ranks=ranks, scaling=scaling)
    model = peft.get_peft_model(base(), peft.LoraConfig(target_modules=r"layers\.\d\.0", **patterns))
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.1)
    model.save_pretrained(tmp_path)
    fresh, x = base(), torch.randn(3, 8)
    load_peft_adapter(fresh, tmp_path)
    expected = linear_ranks(count, 2, 6) if ranks == "linear" else list(ranks)
    assert [layer.rank for layer in lora_layers(fresh).values()] == expected
    torch.testing.assert_close(fresh(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_an_adapter_of_some_layers_of_those_with_gaps_is_read(tmp_path):
    patterns = rank_pattern_for(Gaps((1, 3, 4, 6)), ranks=(2, 5, 3, 4))
    options = peft.LoraConfig(target_modules=["layers.3.0", "layers.6.0"], **patterns)
    peft.get_peft_model(Gaps((1, 3, 4, 6)), options).save_pretrained(tmp_path)
    load_peft_adapter(fresh := Gaps((1, 3, 4, 6)), tmp_path)
    assert {name: layer.rank for name, layer in lora_layers(fresh).items()} == {"layers.3.0": 5, "layers.6.0": 4}
    assert fresh.prilora_config.layers == (3, 6)


def refused(folder, message, error=ValueError, model=None):
    """load_peft_adapter must raise and leave the model as it was."""
    model = model or build("bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        load_peft_adapter(model, folder)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture
def written(tmp_path):
    wrapped().save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder, **options):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | options), encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "has use_dora=True, which this library does not compute: load the adapter with PEFT"),
        ({"bias": "all"}, "has bias='all'"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights='pissa'"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "has layer_replication="),
        ({"peft_type": "IA3"}, "describes 'IA3'; of PEFT's methods only LoRA"),
        ({"rank_patern": {}}, "unknown option in .* 'rank_patern': did you mean 'rank_pattern'"),
        ({"alpha_pattern": {"(": 3}}, "an alpha that can't be used"),
        ({"alpha_pattern": 7}, "an alpha that can't be used"),
        ({"lora_alpha": "16", "alpha_pattern": {}}, "an alpha that can't be used"),
        ({"lora_alpha": float("nan"), "alpha_pattern": {}}, "alpha must be a finite number"),
        ({"lora_dropout": 2}, "dropout must lie in"),
        ({"lora_dropout": 10**400}, "dropout must lie in"),
        ({"lora_alpha": 10**400, "alpha_pattern": {}}, "an alpha that can't be used"),
        ({"alpha_pattern": {"([a-z.]+)+!": 3}}, "a pattern that could take hours to match"),
        ({"alpha_pattern": {"(.|.)" * 40 + "!": 3}}, "a pattern that could take hours to match"),
        ({"alpha_pattern": {".*" * 20 + "!": 3}}, "a pattern that could take hours to match"),
    ],
)
def test_a_configuration_that_can_not_be_honoured_is_refused(written, options, message):
    change(written, **options)
    refused(written, message)


def test_an_option_of_a_newer_peft_that_is_switched_off_is_passed_over(written):
    change(written, use_something_new=False)
    load_peft_adapter(build("bert"), written)


@pytest.mark.parametrize("pattern", [r".*layer\.(0|1|2|3)\..*", r"^bert\.encoder\.layer\.\d+\.(attention\.)?.+"])
def test_patterns_as_people_write_them_are_read(written, pattern):
    change(written, alpha_pattern={pattern: 6})
    model = build("bert")
    load_peft_adapter(model, written)
    assert {layer.scaling * layer.rank for layer in lora_layers(model).values()} == {6}


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\x00", pytest.param("[" * 10**5, id="nested")])
def test_a_damaged_configuration_is_refused(written, text):
    (written / "adapter_config.json").write_text(text, encoding="utf-8")
    refused(written, r"adapter_config\.json (is not JSON|must hold one JSON object)")


def test_ranks_on_no_line_are_read_as_a_list(tmp_path):
    wrapped(rank_pattern={r".*layer\.2\..*": 7}, alpha_pattern={}, r=3).save_pretrained(tmp_path)
    model = build("bert")
    assert load_peft_adapter(model, tmp_path).ranks == [3, 3, 7, 3]
    assert model.prilora_config.ranks == (3, 3, 7, 3)


def test_scalings_of_no_rule_are_read_as_a_list(tmp_path):
    wrapped(rank_pattern={}, alpha_pattern={r".*layer\.2\..*": 7}, r=3, lora_alpha=6).save_pretrained(tmp_path)
    model = build("bert")
    load_peft_adapter(model, tmp_path)
    assert model.prilora_config.scaling == (2.0, 2.0, 7 / 3, 2.0)


def test_ranks_that_differ_within_a_layer_are_refused_with_the_way_out(tmp_path):
    wrapped(rank_pattern={r".*layer\.2\..*query": 7}, alpha_pattern={}, r=3).save_pretrained(tmp_path)
    refused(tmp_path, "all modules of a layer have one rank .* the adapter with PEFT's PeftModel")


def test_a_pickle_is_not_opened(written):
    marker = written / "opened"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (marker,)

    (written / "adapter_model.safetensors").unlink()
    torch.save(Bomb(), written / "adapter_model.bin")
    refused(written, "weights in a pickle, adapter_model.bin", FileNotFoundError)
    assert not marker.exists()


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(written, file):
    (written / file).unlink()
    refused(written, file.split(".")[0], FileNotFoundError)


def test_an_adapter_of_another_model_is_refused(written):
    roberta = build("roberta")
    refused(written, "adapts bert.encoder.layer.0.* not a linear layer in a numbered layer of", model=roberta)


def test_another_base_is_noticed_where_this_library_wrote_the_adapter(tmp_path):
    folder = save_peft_adapter(trained(), tmp_path / "adapter")
    refused(folder, "the shapes agree, but the values of .* do not", model=build("bert", seed=1))


def test_a_cut_off_file_is_refused(written):
    file = written / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    refused(written, "not a whole safetensors file")


def test_a_tensor_with_no_place_is_named(written):
    file = written / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.extra": torch.zeros(1)}, file)
    refused(written, "in the file have no place, the first is extra")


def test_a_tensor_under_two_spellings_is_refused(written):
    file = written / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    save_file(tensors | {name.removeprefix("base_model.model."): tensors[name] + 1}, file)
    refused(written, "holds .*lora_A twice, under two spellings")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda A: A.to(torch.int8), r"lora_A as torch\.int8"),
        (lambda A: A > 0, r"lora_A as torch\.bool"),
        (lambda A: A.to(torch.float8_e4m3fn), r"lora_A as torch\.float8_e4m3fn"),
        (lambda A: A * float("nan"), r"NaN or infinity in .*lora_A"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(change, message, written):
    file = written / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    save_file(tensors | {name: change(tensors[name])}, file)
    refused(written, message)


def test_another_alpha_than_the_adapter_was_written_with_is_noticed(tmp_path):
    """PEFT would go by the file."""
    folder = save_peft_adapter(trained(), tmp_path / "adapter")
    change(folder, lora_alpha=1000, alpha_pattern={})
    refused(folder, "rank 2 and scaling 500; .*the configuration that it was written with")


def test_a_tensor_changed_in_what_this_library_wrote_is_noticed(tmp_path):
    folder = save_peft_adapter(trained(), tmp_path / "own")
    file = folder / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    save_file(tensors | {name: tensors[name] * 1.001}, file, metadata)
    refused(folder, "its SHA-256 is not that of the file's content")


def test_load_adapter_says_who_reads_pefts_folder(written):
    with pytest.raises(ValueError, match="is a folder in PEFT's format: load_peft_adapter"):
        load_adapter(build("bert"), written)


def test_the_own_configuration_travels_in_the_weights_metadata(tmp_path):
    folder = save_peft_adapter(trained(), tmp_path / "adapter")
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        assert set(file.metadata()) == {"format", "prilora_lite"}
    assert not any(isinstance(module, LoRALinear) for module in build("bert").modules())


@pytest.mark.parametrize("what", [{"task": ("a", "b")}, {"dataset": ["glue"]}, {"base_model": 3}, {"task": {}}])
def test_names_for_the_card_are_text(what, tmp_path):
    model = build("bert")
    adapt(model, PRILoRAConfig(2, 4))
    with pytest.raises(TypeError, match=f"{next(iter(what))} must be a name"):
        save_peft_adapter(model, tmp_path / "adapter", **what)
