"""What runs have in common or lack is said below their table."""

import pytest

from prilora_lite.experiments.remarks import remarks
from tests.experiments.stored import stored


def at(rate, name="lora", task="pocket-rte", pruned_at=None, **parts):
    """A run of 4 steps, and of an interval of 40 if it prunes."""
    run = stored(name, task=task, settings={"learning_rate": rate}, **parts)
    return run | {"pruning": [{"step": pruned_at}] if pruned_at else []}


def said(*records):
    text = remarks(records)
    assert all(len(line) <= 80 for line in text.splitlines())
    return " ".join(text.split())


PRILORA = "PRILoRA (4..12, pruned)"


@pytest.mark.parametrize(("step", "told"), [(4, f"{PRILORA} on pocket-rte (4 steps, interval 40)"), (3, "")])
def test_methods_that_were_pruned_in_their_last_step_alone_are_named(step, told):
    text = said(at(0.002, "prilora", pruned_at=step), at(0.002), at(0.0005, "full"))
    assert (f"with no step to recover: {told}. Train" in text) if told else "Pruned" not in text


def test_a_method_that_was_pruned_too_late_on_one_task_is_named_with_that_task():
    runs = [at(0.002, "prilora", task, pruned_at=step) for task, step in (("pocket-rte", 4), ("pocket-cola", 2))]
    assert "recover: PRILoRA (4..12, pruned) on pocket-rte (4 steps, interval 40). Train" in said(*runs)


def test_the_methods_of_each_learning_rate_are_named_once_in_each_group():
    runs = [at(0.002), at(0.002, seed=1), at(0.0005, "full"), at(0.002, "prilora")]
    assert said(*runs) == f"learning rate 0.0005: full fine-tuning; 0.002: LoRA (r = 8), {PRILORA}"
    other = at(0.001, encoder="minilm", task="rte", weights="2" * 16)
    assert "learning rate of minilm 0.001 for all" in said(*runs, other)


def test_one_learning_rate_of_all_methods_is_named_alone():
    assert said(at(0.002), at(0.002, "prilora")) == "learning rate 0.002 for all"
