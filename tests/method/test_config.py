import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prilora_lite import PRILoRAConfig
from prilora_lite.integrations.rank_patterns import ADAPTING


def test_the_defaults_are_the_papers_as_we_read_it():
    config = PRILoRAConfig()
    assert config.layer_ranks(12) == [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]
    assert (config.ratio, config.interval, config.decay, config.importance) == (0.5, 40, 0.9, "magnitude_input")


def test_one_scaling_for_all_layers_rests_on_the_mean_rank():
    config = PRILoRAConfig(alpha=16, scaling="mean")
    assert config.scalings(config.layer_ranks(12)) == [2.0] * 12  # mean rank 8


def test_scaling_layer_by_layer_is_loras_rule():
    config = PRILoRAConfig(alpha=12)
    assert config.scaling == "layer"
    assert config.scalings([4, 8, 12]) == [3.0, 1.5, 1.0]


def test_the_three_rules_are_powers_of_the_mean_rank_over_the_rank():
    ranks = [1, 2, 4, 9]
    mean = sum(ranks) / len(ranks)
    for rule, power in (("layer", 1), ("sqrt", 0.5), ("mean", 0)):
        expected = [7 / mean * (mean / rank) ** power for rank in ranks]
        assert PRILoRAConfig(alpha=7, scaling=rule).scalings(ranks) == pytest.approx(expected, rel=1e-15)


@given(rank=st.integers(1, 64), layers=st.integers(1, 40), alpha=st.integers(1, 128))
def test_the_three_rules_agree_on_flat_ranks(rank, layers, alpha):
    rules = [PRILoRAConfig(alpha=alpha, scaling=rule).scalings([rank] * layers) for rule in ("layer", "sqrt", "mean")]
    assert rules[0] == rules[1] == rules[2]


def test_the_rank_stabilised_rule_lies_between_the_others():
    layer, sqrt, mean = (PRILoRAConfig(scaling=rule).scalings([4, 12]) for rule in ("layer", "sqrt", "mean"))
    assert layer[0] > sqrt[0] > mean[0]
    assert layer[1] < sqrt[1] < mean[1]


def test_a_list_of_scalings_is_taken_as_it_is():
    config = PRILoRAConfig(scaling=[1, 0.5])
    assert config.scalings([4, 12]) == [1.0, 0.5]
    assert PRILoRAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="lists 2 numbers, but there are 3 layers"):
        config.scalings([4, 8, 12])


def test_what_has_no_effect_makes_no_other_training():
    flat = PRILoRAConfig(first_rank=8, last_rank=8, ratio=0)
    assert replace(flat, scaling="mean", interval=7, decay=0.5, seed=3).canonical() == flat.canonical()
    assert PRILoRAConfig(seed=3).canonical() == PRILoRAConfig()
    for changed in ({"scaling": "mean"}, {"interval": 7}, {"decay": 0.5}, {"importance": "random", "seed": 3}):
        assert replace(PRILoRAConfig(), **changed).canonical() != PRILoRAConfig().canonical()
    listed = PRILoRAConfig(scaling=(1.0, 2.0))
    assert replace(listed, alpha=32).canonical() == listed.canonical()
    assert replace(PRILoRAConfig(), alpha=32).canonical() != PRILoRAConfig().canonical()
    random = PRILoRAConfig(importance="random")
    assert replace(random, seed=3).canonical() != random.canonical()


def test_every_field_is_a_setting_of_the_adapters_or_of_the_pruner():
    fields = {field.name for field in dataclasses.fields(PRILoRAConfig)}
    assert fields == set(ADAPTING) | set(PRILoRAConfig().pruning())


def test_survives_json():
    config = PRILoRAConfig(first_rank=2, targets=("query", "value"), layers=(0, 3), ratio=0.25, regrow=False)
    assert PRILoRAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_layers_may_come_as_any_sequence_and_are_kept_in_order():
    assert PRILoRAConfig(layers=range(2)) == PRILoRAConfig(layers=[1, 0, 1]) == PRILoRAConfig(layers=(0, 1))
    assert PRILoRAConfig(layers=3).layers == (3,)


def test_a_mistyped_setting_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown setting 'fist_rank': did you mean 'first_rank'\?"):
        PRILoRAConfig.from_dict({"fist_rank": 4})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first_rank": 0}, "first_rank must be an integer of at least 1, got 0"),
        ({"last_rank": 4.5}, r"last_rank must be an integer of at least 1, got 4\.5"),
        ({"first_rank": True}, "first_rank must be an integer"),
        ({"alpha": 0}, "alpha must be a finite number above 0, got 0"),
        ({"alpha": float("nan")}, "alpha must be a finite number above 0, got nan"),
        ({"alpha": "16"}, "alpha must be a finite number above 0, got '16'"),
        ({"scaling": "men"}, r"unknown scaling 'men': did you mean 'mean'\?"),
        ({"scaling": (1.0, 0)}, r"one finite number above 0 for each layer, got \(1\.0, 0\)"),
        ({"dropout": 1}, r"dropout must lie in \[0, 1\), got 1"),
        ({"dropout": None}, r"dropout must lie in \[0, 1\), got None"),
        ({"targets": "query"}, r"targets must be a tuple of names, such as \('query',\)"),
        ({"targets": ()}, "targets must be names of linear layers, or None"),
        ({"targets": (3,)}, "targets must be names of linear layers, or None"),
        ({"layers": ()}, r"layers must be numbers of layers from 0 up, or None for all; got \(\)"),
        ({"layers": (0, -1)}, "layers must be numbers of layers from 0 up"),
        ({"layers": "bottom"}, "layers must be numbers of layers from 0 up, .* got 'bottom'"),
        ({"layers": (1.5,)}, "layers must be numbers of layers from 0 up"),
        ({"ratio": 1}, r"pruning ratio must lie in \[0, 1\)"),
        ({"ratio": "half"}, r"pruning ratio must lie in \[0, 1\), .* got 'half'"),
        ({"ratio": -0.5}, r"pruning ratio must lie in \[0, 1\)"),
        ({"interval": 0}, "interval must be an integer of at least 1 optimizer step, got 0"),
        ({"decay": 1.5}, r"decay of the input norms must lie in \[0, 1\)"),
        ({"importance": "none such"}, "unknown importance rule 'none such': valid are magnitude_input"),
        ({"scope": "rows"}, r"unknown pruning scope 'rows': did you mean 'row'\? valid are row, matrix"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PRILoRAConfig(**fields)


@pytest.mark.parametrize("value", [[], {}, {"linear"}, [[1]], 1.5, None])
def test_a_name_that_is_none_is_a_plain_error(value):
    """A list or a dictionary can't be looked up in a table."""
    for field in ("importance", "scope", "scaling"):
        with pytest.raises(ValueError, match=r"unknown|must be"):
            PRILoRAConfig(**{field: value})
    with pytest.raises(ValueError, match=r"unknown schedule|must be one integer"):
        PRILoRAConfig(ranks=value)


@pytest.mark.parametrize("number", [np.asarray, torch.tensor])
def test_numbers_of_numpy_and_torch_are_those_of_python(number):
    plain = {
        "first_rank": 4, "last_rank": 6, "alpha": 8, "scaling": [1.0, 0.5], "layers": [0, 1], "ratio": 0.25,
        "interval": 20, "seed": 3,
    }  # fmt: skip
    given = PRILoRAConfig(**{name: number(value) for name, value in plain.items()})
    assert given == PRILoRAConfig(**plain)
    assert json.dumps(given.to_dict()) == json.dumps(PRILoRAConfig(**plain).to_dict())
    assert PRILoRAConfig(ranks=number([4, 6])).ranks == (4, 6)


def test_one_rank_for_all_layers_is_named_where_a_number_is_given_for_ranks():
    with pytest.raises(ValueError, match=r"ranks=8: the same rank in all layers is PRILoRAConfig.lora\(8\)"):
        PRILoRAConfig(ranks=8)


@pytest.mark.parametrize("rule", ["magnitude", "random"])
def test_the_decay_does_not_count_where_the_rule_reads_no_statistics(rule):
    config = PRILoRAConfig(importance=rule)
    assert replace(config, decay=0.5).canonical() == config.canonical()
    assert replace(PRILoRAConfig(), decay=0.5).canonical() != PRILoRAConfig().canonical()
