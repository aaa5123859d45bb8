from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prilora_lite import PRILoRAConfig, adapt, adapter_parameters, budget_ranks, linear_ranks
from prilora_lite.ranks import SCHEDULES, ranks_by_depth
from tests.small_models import build

layers = st.integers(1, 60)
ranks = st.integers(1, 64)


def test_the_papers_schedule():
    assert linear_ranks(12, 4, 12) == [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]


def test_the_papers_schedule_costs_what_rank_8_costs_on_debertav3_base():
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    assert adapter_parameters(linear_ranks(12, 4, 12), shapes) == adapter_parameters([8] * 12, shapes) == 1_327_104


def test_one_layer_alone_gets_the_last_rank():
    assert linear_ranks(1, 4, 12) == [12]


def test_halves_go_to_the_even_neighbour():
    assert linear_ranks(3, 2, 3) == [2, 2, 3]  # 2.5 -> 2
    assert linear_ranks(3, 3, 4) == [3, 4, 4]  # 3.5 -> 4


@given(layers, ranks, ranks)
def test_each_rank_is_the_integer_nearest_to_the_line(num_layers, first, last):
    for l, rank in enumerate(linear_ranks(num_layers, first, last)):
        exact = Fraction(last) if num_layers == 1 else first + (last - first) * Fraction(l, num_layers - 1)
        assert abs(rank - exact) <= Fraction(1, 2)
        assert abs(rank - exact) < Fraction(1, 2) or rank % 2 == 0


@given(st.integers(2, 60), ranks, ranks)
def test_ends_are_met_and_the_schedule_is_monotone(num_layers, first, last):
    schedule = linear_ranks(num_layers, first, last)
    assert (schedule[0], schedule[-1]) == (first, last)
    assert schedule == sorted(schedule, reverse=last < first)


@given(st.integers(2, 60), ranks, ranks)
def test_the_falling_slope_mirrors_the_rising_one(num_layers, first, last):
    assert linear_ranks(num_layers, last, first) == linear_ranks(num_layers, first, last)[::-1]


@given(layers, ranks)
def test_a_flat_slope_is_plain_lora(num_layers, rank):
    assert linear_ranks(num_layers, rank, rank) == budget_ranks(num_layers, rank, 0) == [rank] * num_layers


@pytest.mark.parametrize("name", SCHEDULES)
@given(layers, ranks)
def test_between_equal_ends_every_schedule_is_flat(name, num_layers, rank):
    assert SCHEDULES[name](num_layers, rank, rank) == [rank] * num_layers


@pytest.mark.parametrize("given", [[2] * 3, [2.0] * 4, [0, 1, 2, 3], [True] * 4])
def test_a_schedule_that_gives_no_rank_for_each_layer_is_refused_before_the_model_is_touched(given, monkeypatch):
    monkeypatch.setitem(SCHEDULES, "mine", lambda num_layers, first, last: given)
    model = build("bert")
    before = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=r"the schedule 'mine' gives \[.*\], but there are \d layers: one integer of"):
        adapt(model, PRILoRAConfig(ranks="mine"))
    assert [p.requires_grad for p in model.parameters()] == before


def test_ranks_may_be_a_range():
    assert PRILoRAConfig(ranks=range(2, 6)) == PRILoRAConfig(ranks=(2, 3, 4, 5))


def test_a_schedule_may_give_numpys_integers(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "mine", lambda num_layers, first, last: np.arange(1, num_layers + 1))
    assert PRILoRAConfig(ranks="mine").layer_ranks(4) == [1, 2, 3, 4]


@given(st.integers(1, 60), st.integers(1, 64), st.integers(-120, 120))
def test_a_slope_at_constant_budget_keeps_the_sum_and_stays_near_the_line(num_layers, mean, slope):
    if mean - abs(Fraction(slope, 2)) < 1 and num_layers > 1:
        return
    schedule = budget_ranks(num_layers, mean, slope)
    assert sum(schedule) == num_layers * mean
    assert schedule == sorted(schedule, reverse=slope < 0)
    for l, rank in enumerate(schedule if num_layers > 1 else []):
        assert abs(rank - (mean - Fraction(slope, 2) + slope * Fraction(l, num_layers - 1))) < 1


@given(st.integers(2, 40), st.integers(20, 40), st.integers(1, 38))
def test_at_constant_budget_the_falling_slope_mirrors_the_rising_one(num_layers, mean, slope):
    assert budget_ranks(num_layers, mean, -slope) == budget_ranks(num_layers, mean, slope)[::-1]


@pytest.mark.parametrize(("mean", "slope"), [(8, 20), (8, -20), (0, 0)])
def test_a_slope_too_steep_for_its_budget_is_told_how_to_mend_it(mean, slope):
    with pytest.raises(ValueError, match="but 1 is the least: raise the mean or flatten the slope"):
        budget_ranks(12, mean, slope)


def test_a_flat_budget_with_a_fraction_favours_the_later_layers():
    assert budget_ranks(4, 8.5, 0) == [8, 8, 9, 9]


def test_a_decimal_mean_is_taken_as_written():
    assert sum(budget_ranks(10, 8.1, 4)) == 81


def test_the_count_is_that_of_an_adapted_model():
    report = adapt(build("bert"), PRILoRAConfig(first_rank=2, last_rank=5))
    shapes = [module.shape for module in report.modules if module.layer == 0]
    assert report.adapter == adapter_parameters(linear_ranks(4, 2, 5), shapes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 12), "num_layers must be an integer from 1 to 10000, got 0"),
        ((10**12, 4, 12), "num_layers must be an integer from 1 to 10000, got 1000000000000"),
        ((2.5, 4, 12), "num_layers must be an integer"),
        ((True, 4, 12), "num_layers must be an integer"),
        ((12, 0, 12), "layer 0 would get rank 0"),
        ((12, 4, -3), "layer 11 would get rank -3"),
        ((12, float("nan"), 12), "first_rank must be a finite number, got nan"),
        ((12, 4, float("inf")), "last_rank must be a finite number, got inf"),
        ((12, 4, None), "last_rank must be a finite number, got None"),
    ],
)
def test_impossible_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        linear_ranks(*arguments)


@pytest.mark.parametrize("number", [np.int64, np.float32, torch.tensor])
def test_a_function_of_the_depth_may_give_numbers_of_numpy_and_torch(number):
    ranks = ranks_by_depth(3, lambda depth: number(2 + 4 * depth))
    assert ranks == [2, 4, 6]
    assert {type(rank) for rank in ranks} == {int}
    with pytest.raises(ValueError, match="the rank of layer 0 must be a finite number"):
        ranks_by_depth(3, lambda depth: number([2, 4]) if number is torch.tensor else None)


def test_an_impossible_budget_is_refused():
    with pytest.raises(ValueError, match=r"makes a budget of 98\.4, which is not an integer"):
        budget_ranks(12, 8.2, 4)
    with pytest.raises(ValueError, match="layer 0 would get rank 0"):
        budget_ranks(4, 2, 4)


@pytest.mark.parametrize(("num_layers", "budget"), [(3, 8), (12, 100), (24, 100)])
def test_a_mean_that_floating_point_rounds_is_taken_for_the_fraction(num_layers, budget):
    assert sum(budget_ranks(num_layers, budget / num_layers, 2)) == budget


def test_a_single_layer_is_the_last():
    assert ranks_by_depth(1, lambda depth: 2 + 6 * depth) == [8]
