import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import TrainerCallback

import prilora_lite.experiments.loop as loop
from prilora_lite import adapt, evaluate, load_encoder
from prilora_lite.experiments.loop import LengthGroupedSampler
from prilora_lite.experiments.tasks import TASKS, compute_metrics
from tests.training import CONFIG, run


def test_the_sampler_gives_every_row_once_and_batches_of_like_length():
    lengths = torch.randint(1, 60, (1003,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(1003))
    batches = [[lengths[row] for row in order[i : i + 8]] for i in range(0, 1003, 8)]
    padded = sum(len(b) * max(b) for b in batches)
    assert padded < 1.1 * sum(lengths)
    assert [b[0] for b in batches] != sorted(b[0] for b in batches)  # lengths come in no order


def test_the_sampler_depends_on_seed_and_epoch_alone():
    lengths = list(range(40))
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        sampler = LengthGroupedSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        torch.rand(1)
        orders.append(list(sampler))
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("rows", [1, 7, 8, 9])
def test_the_sampler_takes_few_rows(rows):
    assert sorted(LengthGroupedSampler([3] * rows, 8, 0)) == list(range(rows))


def test_training_batches_are_grouped_by_length(encoder, rows, monkeypatch):
    seen = []

    class Spy(loop.LengthGroupedSampler):
        def __iter__(self):
            seen.append(self.epoch)
            return super().__iter__()

    monkeypatch.setattr(loop, "LengthGroupedSampler", Spy)
    run(encoder, rows)
    assert seen == [0, 1]


def test_a_progress_bar_is_shown_and_nothing_else(encoder, rows, capfd):
    run(encoder, rows, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "train: 100%" in err
    assert "{" not in err
    run(encoder, rows, progress=False)
    assert capfd.readouterr() == ("", "")


# Evaluating in the middle of a loop of one's own


def random_state():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


def test_evaluating_draws_no_random_numbers(encoder, rows):
    model, tokenizer = load_encoder(encoder, "cola")
    before = random_state()
    evaluate(model, tokenizer, "cola", rows=rows, max_length=16, device="cpu", progress=True)
    assert random_state() == before


def test_evaluating_leaves_each_module_in_its_mode(encoder, rows):
    model, tokenizer = load_encoder(encoder, "cola")
    model.train().bert.embeddings.eval()
    before = {name: module.training for name, module in model.named_modules()}
    evaluate(model, tokenizer, "cola", rows=rows, max_length=16, device="cpu", progress=False)
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.fixture
def accelerator():
    """Accelerate's state is the process's, and what other tests left in it can't be changed."""
    for state in (states := (AcceleratorState, PartialState, GradientState)):
        state._reset_state()
    yield Accelerator(gradient_accumulation_steps=4, mixed_precision="bf16", cpu=True)
    for state in states:
        state._reset_state()


def test_evaluating_leaves_an_accelerator_as_it_was(accelerator, encoder, rows):
    model, tokenizer = load_encoder(encoder, "cola")
    model = accelerator.unwrap_model(accelerator.prepare(model))
    evaluate(model, tokenizer, "cola", rows=rows, max_length=16, precision="fp32", device="cpu", progress=False)
    assert (accelerator.gradient_accumulation_steps, accelerator.mixed_precision) == (4, "bf16")


def test_evaluating_in_bf16_leaves_the_model_to_compute_as_before(encoder, rows):
    model, tokenizer = load_encoder(encoder, "cola")
    adapt(model, CONFIG)
    batch, before = tokenizer("a", return_tensors="pt"), dict(vars(model))
    expected = model.eval()(**batch).logits
    evaluate(model, tokenizer, "cola", rows=rows, max_length=16, precision="bf16", device="cpu", progress=False)
    assert vars(model).keys() == before.keys()
    assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("task", ["stsb", "mnli"])
def test_a_model_evaluated_alone_has_the_scores_that_trainer_computes(task, precision, encoder, rows, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "compute_metrics", lambda *given: seen.append(given) or compute_metrics(*given))
    options = {"precision": precision, "device": "cpu", "progress": False}
    model = None

    class Keep(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            nonlocal model
            model = kwargs["model"]

    result = run(encoder, rows, task, callbacks=[Keep()], **options)
    _, tokenizer = load_encoder(encoder, task)
    by_trainer, seen = seen[-len(TASKS[task].splits) :], []
    model.__dict__.pop("forward", None)  # Accelerate's, with its own precision
    assert evaluate(model, tokenizer, task, rows=rows, max_length=16, **options) == result.metrics
    for (_, scores, labels), (_, *expected) in zip(seen, by_trainer, strict=True):
        assert np.array_equal(scores, expected[0])
        assert np.array_equal(labels, expected[1])
