"""The named methods, configurations crossed with one another, and what each is called."""

from dataclasses import replace

import pytest

from prilora_lite import PRILoRAConfig, grid
from prilora_lite.experiments.methods import CONTRASTS, METHODS, Method, configurations, method_name
from prilora_lite.ranks import SCHEDULES


def test_the_low_rank_methods_have_equal_budgets():
    methods = [method for name, method in METHODS.items() if name not in CONTRASTS]
    configs = {method.name: method.trains for method in methods if not isinstance(method.trains, str)}
    assert set(configs) == {"lora", "ranks", "pruning", "prilora"}
    assert {sum(config.layer_ranks(12)) for config in configs.values()} == {96}
    assert {config.scaling for config in configs.values()} == {"layer"}
    assert {name for name, config in configs.items() if config.ratio} == {"pruning", "prilora"}


def test_an_alpha_that_would_have_no_effect_is_refused():
    with pytest.raises(ValueError, match="alpha=64 of mine would have no effect"):
        Method("mine", PRILoRAConfig(alpha=64), "mine")
    listed = PRILoRAConfig(alpha=64, scaling=(1.0, 2.0))
    Method("mine", listed, "mine")  # beside which alpha counts for nothing
    with pytest.raises(ValueError, match="alpha_share of mine would have no effect"):
        Method("mine", listed, "mine", alpha_share=1 / 8)


def by_size(lora_A):
    return lora_A.abs()


@pytest.mark.parametrize(
    "setting",
    [
        {"importance": by_size}, {"ranks": lambda depth: 4 + depth}, {"regrow": False}, {"scope": "matrix"},
        {"decay": 0.5}, {"dropout": 0.1}, {"layers": (0, 1)}, {"targets": ("query",)}, {"scaling": "mean"},
        {"interval": 10},
    ],
    ids=lambda setting: next(iter(setting)),
)  # fmt: skip
def test_a_configuration_that_differs_in_one_setting_has_a_name_of_its_own(setting):
    usual, other = (grid([replace(PRILoRAConfig(dropout=0.2), **more)], ["cola"], [0]) for more in ({}, setting))
    assert usual[0].method.name != other[0].method.name
    assert " at 0x" not in other[0].method.name


def test_every_schedule_meets_every_pruning_once():
    methods = configurations([(12, 4), (8, 8), (4, 12)], [0, 0.5], [10, 40], ["magnitude", "random"])
    cells = [(m.trains.first_rank, m.trains.ratio, m.trains.interval, m.trains.importance) for m in methods]
    assert len(set(cells)) == len(cells) == 3 * (1 + 2 * 2)  # without pruning there is no interval and no importance


def test_slopes_about_a_mean_rank_cost_the_same():
    for layers in range(2, 30):
        sums = {sum(m.trains.layer_ranks(layers)) for m in configurations([(8 - d, 8 + d) for d in range(-7, 8)])}
        assert sums == {8 * layers}


def test_a_configuration_with_a_name_keeps_it():
    names = [m.name for m in configurations([(8, 8), (4, 12)], [0, 0.5])]
    assert names == ["lora", "pruning", "ranks", "prilora"]


def test_scalings_are_crossed_with_slopes_and_flat_ranks_have_one():
    methods = configurations([(8, 8), (4, 12)], [0], scalings=["layer", "sqrt", "mean"])
    assert [m.name for m in methods] == ["lora", "ranks", "ranks_sqrt", "ranks_mean"]


def steep_ranks(num_layers, first_rank, last_rank):
    return [first_rank] * (num_layers - 1) + [last_rank]


def record_of(name, config, alpha=16.0):
    return {
        "name": name,
        "method": config if isinstance(config, str) else config.to_dict(),
        "settings": {"alpha": alpha},
    }


def test_a_run_is_called_by_its_configuration_and_not_by_the_name_of_its_day():
    assert method_name(record_of("prilora", PRILoRAConfig(scaling="mean"))) == "prilora_mean"
    assert method_name(record_of("ranks", PRILoRAConfig(ratio=0.0, scaling="mean"))) == "ranks_mean"
    lora = PRILoRAConfig(first_rank=8, last_rank=8, ratio=0.0, scaling="mean", seed=0)
    assert method_name(record_of("lora", lora)) == "lora"
    assert method_name(record_of("lora", replace(lora, alpha=32), alpha=32)) == "lora"
    assert method_name(record_of("prilora", PRILoRAConfig(interval=7))) == "4..12, ratio 0.5, N 7"
    assert method_name(record_of("mine", PRILoRAConfig(interval=7))) == "mine"
    assert method_name(record_of("full", "full")) == "full"


def test_other_configurations_are_named_by_what_they_are():
    (method,) = configurations([(12, 4)], [0.25], [10], ["random"])
    assert method.name == method.label == "12..4, ratio 0.25, N 10, random"


def test_a_schedule_is_crossed_with_ends_and_is_in_the_name(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "steep", steep_ranks)
    methods = configurations([(8, 8), (2, 16)], [0], schedules=["linear", "steep"])
    assert [method.name for method in methods] == ["lora", "2..16, ratio 0", "steep 2..16, ratio 0"]
    assert [method.trains.ranks for method in methods] == ["linear", "linear", "steep"]


def test_listed_ranks_are_in_the_name_and_have_no_ends():
    methods = configurations([(12, 4), (4, 12)], schedules=[(2, 2, 8)])
    assert [(method.name, method.trains.layer_ranks(3)) for method in methods] == [("2,2,8, ratio 0.5", [2, 2, 8])]


def test_a_run_of_another_schedule_is_not_called_prilora(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "steep", steep_ranks)
    assert method_name(record_of("prilora", PRILoRAConfig(ranks="steep"))) == "steep 4..12, ratio 0.5"
    assert method_name(record_of("lora", PRILoRAConfig.lora(8, ranks="steep"))) == "lora"  # flat by any schedule


def test_names_tell_configurations_apart():
    methods = configurations(
        [(12, 4), (8, 8), (6, 10), (1, 15)], [0, 0.25, 0.5], [10, 40], ["magnitude_input", "magnitude", "random"]
    )
    assert len({method.name for method in methods}) == len(methods)
