"""What runs have in common or lack is said below their table."""

import pytest

from prilora_lite.experiments.remarks import remarks

PRUNED = {"name": "prilora", "steps": 13, "method": {"interval": 40}}


def at(rate, **record):
    return {"name": "lora", "steps": 13, "method": {"interval": 40}, "settings": {"learning_rate": rate}} | record


def said(*records):
    text = remarks(records)
    assert all(len(line) <= 80 for line in text.splitlines())
    return " ".join(text.split())


@pytest.mark.parametrize(("step", "told"), [(13, "prilora (13 steps, interval 40)"), (12, "")])
def test_methods_that_were_pruned_in_their_last_step_alone_are_named(step, told):
    pruned = at(0.001, **PRUNED, pruning=[{"step": step}])
    text = said(pruned, at(0.001, pruning=[]), at(0.001, name="full", method="full"))
    assert (f"with no step to recover: {told}. Train" in text) if told else "Pruned" not in text


def test_the_methods_of_each_learning_rate_are_named_once():
    records = [at(0.002), at(0.002), at(0.001, name="full"), at(0.002, name="prilora"), at(0.004)]
    assert said(*records) == "learning rate 0.001: full; 0.002: lora, prilora; 0.004: lora"


def test_one_learning_rate_of_all_methods_is_named_alone():
    assert said(at(0.002), at(0.002, name="prilora")) == "learning rate 0.002 for all"
