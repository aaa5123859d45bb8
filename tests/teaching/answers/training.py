"""Answers to the exercise of 06 on a step of training: wrong ones with a part of what they are told, right ones."""

import torch

from prilora_lite import exercises as check


def prunes_first(model, batch, optimizer, pruner):
    model(**batch).loss.backward()
    pruner.step()
    optimizer.step()
    optimizer.zero_grad()


def adds_up(model, batch, optimizer, pruner):
    model(**batch).loss.backward()
    optimizer.step()
    pruner.step()


def zeroes_too_early(model, batch, optimizer, pruner):
    loss = model(**batch).loss
    loss.backward()
    model.zero_grad()
    optimizer.step()
    pruner.step()


def never_prunes(model, batch, optimizer, pruner):
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def never_steps(model, batch, optimizer, pruner):
    model(**batch).loss.backward()
    optimizer.zero_grad()
    pruner.step()


def has_no_gradient(model, batch, optimizer, pruner):
    model(**batch)
    optimizer.step()
    optimizer.zero_grad()
    pruner.step()


def clears_and_steps(model, batch, optimizer, pruner):
    optimizer.zero_grad()
    loss = model(**batch).loss
    optimizer.step()
    loss.backward()
    pruner.step()


def without_gradients(model, batch, optimizer, pruner):
    with torch.no_grad():
        loss = model(**batch).loss
    loss.backward()


def calls_the_loss(model, batch, optimizer, pruner):
    model(**batch).backward()


def passes_the_batch_whole(model, batch, optimizer, pruner):
    model(batch).loss.backward()


WRONG = [
    (check.train_step, prunes_first, "which of the two comes last"),
    (check.train_step, adds_up, "add up"),
    (check.train_step, zeroes_too_early, "they are gone already"),
    (check.train_step, never_prunes, "the pruner's turn"),
    (check.train_step, never_steps, "who takes the step"),
    (check.train_step, has_no_gradient, "the loss alone does not compute it"),
    (check.train_step, clears_and_steps, "not there yet"),
    (check.train_step, without_gradients, "kept from torch by no_grad"),
    (check.train_step, calls_the_loss, "backward"),
    (check.train_step, passes_the_batch_whole, "model.batch."),
    (check.train_step, lambda model, batch, optimizer, pruner: None, "slip of paper"),
]


def zeroes_first(model, batch, optimizer, pruner):
    optimizer.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    pruner.step()
    return loss.item()


def by_the_model(model, batch, optimizer, pruner):
    model.train()
    model(**batch).loss.backward()
    optimizer.step()
    pruner.step()
    model.zero_grad(set_to_none=False)


RIGHT = [(check.train_step, zeroes_first), (check.train_step, by_the_model)]
