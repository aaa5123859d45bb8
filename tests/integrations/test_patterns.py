"""Ranks for PEFT that match no layer are an error: PEFT would give every layer its one rank r, without a word."""

import pytest
from peft import LoraConfig, get_peft_model

from prilora_lite import PRILoRACallback, PRILoRAConfig, Pruner, rank_pattern_for
from prilora_lite.models.layers import lora_layers
from tests.small_models import build
from tests.training import trainer

TARGETS = ["query", "value"]


def wrapped(patterns, **options):
    return get_peft_model(build("bert"), LoraConfig(r=3, target_modules=TARGETS, **patterns, **options))


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


@pytest.mark.parametrize("options", [{}, {"layers_to_transform": [0, 1]}, {"layers_to_transform": [3]}])
def test_ranks_of_which_some_match_are_taken(options):
    model = wrapped(rank_pattern_for(build("bert"), 2, 5), **options)
    assert Pruner(model).layers


def test_without_patterns_nothing_is_asked():
    assert {layer.rank for layer in Pruner(wrapped({})).layers.values()} == {3}
