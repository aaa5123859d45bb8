"""Ranks for PEFT that match no layer are an error: PEFT would give every layer its one rank r, without a word."""

import re
import warnings

import pytest
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model

from prilora_lite import PRILoRACallback, PRILoRAConfig, Pruner, adapt, rank_pattern_for, save_peft_adapter
from prilora_lite.models.layers import lora_layers
from tests.small_models import build
from tests.training import trainer

TARGETS = ["query", "value"]


def wrapped(patterns, **options):
    return get_peft_model(build("bert"), LoraConfig(**{"r": 3, "target_modules": TARGETS} | patterns | options))


OTHERS = {
    "the backbone": lambda: rank_pattern_for(build("bert").bert, 2, 5),
    "another architecture": lambda: rank_pattern_for(build("roberta"), 2, 5),
    "a model with other names": lambda: rank_pattern_for(build("distilbert"), 2, 5),
    "a slip of one's own": lambda: {"rank_pattern": {"encoder.layers.0.attention.self.query": 5}},
    "a slip in the scalings": lambda: {"alpha_pattern": {"queries": 5}},
}


@pytest.mark.parametrize("what", OTHERS)
def test_ranks_of_other_names_are_refused(what):
    model = wrapped(OTHERS[what]())
    assert {layer.rank for layer in lora_layers(model).values()} == {3}  # as PEFT has it
    with pytest.raises(ValueError, match=r"but the adapted layers are called 'bert\.encoder\.layer\.0\."):
        Pruner(model)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_with_trainer_they_are_refused_before_the_first_step(ratio, tmp_path):
    a_trainer = trainer(tmp_path, model=wrapped(OTHERS["the backbone"]()))
    a_trainer.remove_callback(PRILoRACallback)
    a_trainer.add_callback(PRILoRACallback(PRILoRAConfig(ratio=ratio)))
    with pytest.raises(ValueError, match="with the very model that get_peft_model is given"):
        a_trainer.train()
    assert a_trainer.state.global_step == 0


def begun(folder, model, config):
    """A Trainer with the callback of a configuration; train() makes one step."""
    a_trainer = trainer(folder, model=model, max_steps=1)
    a_trainer.remove_callback(PRILoRACallback)
    a_trainer.add_callback(PRILoRACallback(config))
    return a_trainer


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            PRILoRAConfig(first_rank=1, last_rank=3),
            r"given first_rank=1, last_rank=3, .*layer\.0.* has rank 3, and not",
        ),
        (PRILoRAConfig(ranks=(3, 3, 3, 2)), r"given ranks=\(3, 3, 3, 2\), .*layer\.3.* has rank 3, and not rank 2"),
        (PRILoRAConfig(alpha=64), "given alpha=64, .* has scaling 2.667, and not scaling 21.33"),
        (PRILoRAConfig(scaling=(1, 1, 1, 1)), "has scaling 2.667, and not scaling 1"),
        (PRILoRAConfig(dropout=0.1), "given dropout=0.1, .* has dropout 0, and not dropout 0.1"),
        (PRILoRAConfig(layers=(2, 3)), r"has layers \[0, 1, 2, 3\], and not layers \[2, 3\]"),
        (PRILoRAConfig(targets=("query",)), r"self\.value'\], and not modules \['attention\.self\.query'\]"),
    ],
)
def test_what_pefts_adapter_has_not_is_no_setting_of_the_callback(config, message, tmp_path):
    a_trainer = begun(tmp_path, wrapped({}, lora_alpha=8), config)
    with pytest.raises(RuntimeError, match=message):
        a_trainer.train()
    assert a_trainer.state.global_step == 0


@pytest.mark.parametrize(
    "config",
    [
        PRILoRAConfig(),
        PRILoRAConfig(ratio=0.9, interval=1),
        PRILoRAConfig(2, 5, alpha=32, dropout=0.1, layers=range(1, 3), targets=TARGETS),
        PRILoRAConfig(ranks=(7, 3, 4, 7)),
        PRILoRAConfig(alpha=32),
    ],
)
def test_what_pefts_adapter_has_may_be_said_to_the_callback_too(config, tmp_path):
    options = {"layers_to_transform": [1, 2], "lora_dropout": 0.1}
    model = wrapped(rank_pattern_for(build("bert"), 2, 5, alpha=32), **options)
    assert begun(tmp_path, model, config).train().global_step == 1


@pytest.mark.parametrize("options", [{}, {"layers_to_transform": [0, 1]}, {"layers_to_transform": [3]}])
def test_ranks_of_which_some_match_are_taken(options):
    model = wrapped(rank_pattern_for(build("bert"), 2, 5), **options)
    assert Pruner(model).layers


@pytest.mark.parametrize("options", [{}, {"scaling": "sqrt"}])
def test_two_rules_for_the_scaling_are_refused(options):
    with pytest.raises(ValueError, match="leave use_rslora out"):
        Pruner(wrapped(rank_pattern_for(build("bert"), 2, 5, **options), use_rslora=True))


def test_an_alpha_without_effect_is_said():
    with pytest.warns(
        UserWarning, match=r"lora_alpha=32 has no effect: .* alpha 16; .*rank_pattern_for\(model, alpha=32\)"
    ):
        Pruner(wrapped(rank_pattern_for(build("bert"), 2, 5), lora_alpha=32))


IN_USE = {
    "PEFT's default": (lambda: rank_pattern_for(build("bert"), 2, 5), {}),
    "the same alpha twice": (lambda: rank_pattern_for(build("bert"), 2, 5, alpha=32), {"lora_alpha": 32}),
    "no patterns": (lambda: {}, {"lora_alpha": 32, "use_rslora": True}),
    "a pattern of one's own": (lambda: {"alpha_pattern": {"query": 5}}, {"lora_alpha": 32, "use_rslora": True}),
    "a module outside the layers": (
        lambda: rank_pattern_for(build("bert"), 2, 5), {"lora_alpha": 32, "target_modules": [*TARGETS, "classifier"]},
    ),
    "another rule": (lambda: rank_pattern_for(build("bert"), 2, 5, scaling="sqrt"), {"lora_alpha": 16}),
}  # fmt: skip


@pytest.mark.parametrize("what", IN_USE)
@pytest.mark.filterwarnings("error:.*lora_alpha")
def test_an_alpha_with_effect_is_taken_in_silence(what):
    patterns, options = IN_USE[what]
    assert Pruner(wrapped(patterns(), **options)).layers


NOT_AT_ZERO = ["pissa", "olora", "orthogonal", False]


def started(init):
    options = {"r": 4, "target_modules": TARGETS, "init_lora_weights": init}
    return get_peft_model(build("bert"), LoraConfig(**options))


@pytest.mark.parametrize("init", NOT_AT_ZERO)
def test_an_adapter_that_does_not_begin_at_zero_is_said_to_lose_its_beginning(init):
    model = started(init)
    with pytest.warns(UserWarning, match=f"init_lora_weights={init!r}, with which B is not zero .*Leave init_lora"):
        Pruner(model)


@pytest.mark.parametrize("init", [True, "gaussian", "mica"])
@pytest.mark.filterwarnings("error:.*init_lora_weights")
def test_an_adapter_that_begins_at_zero_is_pruned_in_silence(init):
    assert Pruner(started(init)).layers


@pytest.mark.filterwarnings("error:.*init_lora_weights")
def test_where_nothing_is_pruned_an_adapter_may_begin_as_it_likes(tmp_path):
    assert begun(tmp_path, started("olora"), PRILoRAConfig(ratio=0)).train().global_step == 1


def test_an_r_without_effect_is_said_with_the_ranks_that_have_it():
    message = r"r=16 has no effect: .* from 4 to 12 and 8 on average; .*rank_pattern_for\(model, (\d+), (\d+)\)"
    with pytest.warns(UserWarning, match=message) as said:
        Pruner(wrapped(rank_pattern_for(build("bert")), r=16))
    first, last = map(int, re.search(message, " ".join(str(one.message) for one in said)).groups())
    ranks = [layer.rank for layer in Pruner(wrapped(rank_pattern_for(build("bert"), first, last))).layers.values()]
    assert sum(ranks) == 16 * len(ranks)


R_IN_USE = {
    "PEFT's default": (lambda: rank_pattern_for(build("bert"), 2, 5), {"r": 8}),
    "the patterns' mean": (lambda: rank_pattern_for(build("bert"), 8, 24), {"r": 16}),
    "the mean of all layers, of which some are adapted": (
        lambda: rank_pattern_for(build("bert"), 8, 24), {"r": 16, "layers_to_transform": [0, 1]},
    ),
    "no patterns": (lambda: {}, {"r": 16}),
    "a module outside the layers": (
        lambda: rank_pattern_for(build("bert"), 2, 5), {"r": 16, "target_modules": [*TARGETS, "classifier"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", R_IN_USE)
@pytest.mark.filterwarnings("error:.*has no effect")
def test_an_r_with_effect_is_taken_in_silence(what):
    patterns, options = R_IN_USE[what]
    assert Pruner(wrapped(patterns(), **options)).layers


@pytest.mark.filterwarnings("error:.*has no effect")
def test_an_adapter_that_was_written_in_pefts_format_goes_on_in_silence(tmp_path):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, targets=TARGETS))
    save_peft_adapter(model, tmp_path / "adapter")
    assert Pruner(PeftModel.from_pretrained(build("bert"), tmp_path / "adapter", is_trainable=True)).layers


def test_without_patterns_nothing_is_asked():
    assert {layer.rank for layer in Pruner(wrapped({})).layers.values()} == {3}


def test_what_is_said_of_a_model_with_two_towers_gives_one_its_ranks():
    tower = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 3}
    text, vision = tower | {"vocab_size": 50, "eos_token_id": 2}, tower | {"image_size": 16, "patch_size": 8}
    model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision))
    with pytest.raises(ValueError, match="more than one stack of layers") as refusal:
        rank_pattern_for(model)
    (said,) = re.findall(r"get_peft_model\(model\.(\w+), .*\*\*rank_pattern_for\(model\.\1\)", str(refusal.value))
    patterns = rank_pattern_for(getattr(model, said), 2, 4)
    get_peft_model(getattr(model, said), LoraConfig(target_modules=["q_proj"], **patterns))
    ranks = {name: layer.rank for name, layer in Pruner(model.train()).layers.items()}
    assert ranks == {f"text_model.encoder.layers.{l}.self_attn.q_proj": 2 + l for l in range(3)}


@pytest.mark.parametrize("ratio", [0, 0.5])
def test_the_callback_says_it_once(ratio, tmp_path):
    model = wrapped(rank_pattern_for(build("bert"), 2, 5), lora_alpha=32)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        begun(tmp_path, model, PRILoRAConfig(ratio=ratio)).train()
    assert len([w for w in told if "lora_alpha=32 has no effect" in str(w.message)]) == 1


def test_layers_that_the_schedules_model_did_not_have_are_named():
    pattern = rank_pattern_for(build("bert"), 2, 5)
    fewer = {key: {k: v for k, v in values.items() if r"\.0\." in k} for key, values in pattern.items()}
    with pytest.warns(UserWarning, match=r"rank_pattern_for gave no rank to .*layer\.1\..* r=\d+ is theirs"):
        Pruner(wrapped(fewer))
