"""Short runs on small models: by finetune, and by a researcher's own Trainer script."""

from __future__ import annotations

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from prilora_lite import PRILoRACallback, PRILoRAConfig, Settings, adapt, finetune, load_rows
from tests.small_models import VOCABULARY, build

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5, interval=3)
FAST = Settings(learning_rate=5e-3, epochs=2, batch_size=8, max_length=16)
QUIET = {"rows": None, "settings": FAST, "device": "cpu", "precision": "fp32", "progress": False}


def run(encoder, rows, task="cola", method=CONFIG, **options):
    return finetune(task, method, encoder=encoder, **(QUIET | {"rows": rows} | options))


def some_of_pockets(task="pocket-rte", train=112, validation=48):
    """A few rows of one of pocket's tasks: seven batches of 16 to train on; to evaluate all 500 takes seconds."""
    rows = load_rows(task)
    return {"train": rows["train"].select(range(train)), "validation": rows["validation"].select(range(validation))}


class StopAfter(TrainerCallback):
    """Ends a run early, as a kill between two steps would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def dataset(rows=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, 6), generator=generator)
    return Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist(), "labels": (ids[:, 0] % 2).tolist()}
    )


def trainer(folder, name="bert", config=CONFIG, callbacks=(), model=None, optimizers=(None, None), **arguments):
    """A researcher's own Trainer script: the library's part is two lines."""
    if model is None:
        model = build(name)
        adapt(model, config)
    options = {
        "output_dir": str(folder), "num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 5e-3,
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "seed": 1,
    }  # fmt: skip
    return Trainer(
        model,
        TrainingArguments(**(options | arguments)),
        train_dataset=dataset(),
        eval_dataset=dataset(8, seed=1),
        callbacks=[PRILoRACallback(), *callbacks],
        optimizers=optimizers,
    )


def callback_of(a_trainer):
    return next(c for c in a_trainer.callback_handler.callbacks if isinstance(c, PRILoRACallback))


def assert_same_weights(first, second):
    for (name, expected), got in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(expected, got), name
