"""PRILoRA with transformers' Trainer: `adapt` before it, a callback in it, one file after it.

Run it with `python examples/with_trainer.py`; it takes about a minute on two cores. To make it yours, put your own
model, tokenizer and rows where MODEL AND DATA begins, and choose three numbers anew: the steps, the learning rate
(0.004 suits this small encoder in so short a run; all-MiniLM-L6-v2 learned at 0.001, and collapsed at 0.002), and the
interval, so that a run is pruned several times.
"""

import argparse

from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

from prilora_lite import PRILoRACallback, PRILoRAConfig, adapt, load_encoder, load_rows, report, save_adapter

arguments = argparse.ArgumentParser(description="PRILoRA with transformers' Trainer")
arguments.add_argument("--output", default="runs/with_trainer")
arguments.add_argument("--steps", type=int, default=63)
options = arguments.parse_args()

set_seed(0)  # before the head and A are drawn, so that a second run is the same

# MODEL AND DATA: a small encoder and rows that come with the package
model, tokenizer = load_encoder("pocket", "pocket-rte")
rows = load_rows("pocket-rte")
tokens = {
    split: rows[split].map(lambda row: tokenizer(row["sentence1"], row["sentence2"]) | {"labels": row["label"]})
    for split in ("train", "validation")
}

# Ranks rise from 4 to 12; half of each A is pruned every 20 optimizer steps, and in the last one
print(adapt(model, PRILoRAConfig(first_rank=4, last_rank=12, ratio=0.5, interval=20)))

trainer = Trainer(
    model,
    TrainingArguments(
        options.output, learning_rate=4e-3, max_steps=options.steps, per_device_train_batch_size=16, report_to="none",
        logging_steps=20, save_strategy="no",
    ),
    train_dataset=tokens["train"],
    eval_dataset=tokens["validation"],
    data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda output: {"accuracy": float((output.predictions.argmax(1) == output.label_ids).mean())},
    callbacks=[PRILoRACallback()],
)  # fmt: skip
trainer.train()

print(f"accuracy: {trainer.evaluate()['eval_accuracy']:.3f}")
if trainer.is_world_process_zero():  # under torchrun one process writes
    path = save_adapter(model, f"{options.output}/adapter.safetensors")
    counts = report(model)
    print(f"{counts.adapter_nonzero:,} of the adapter's {counts.adapter:,} entries are not zero; saved to {path}")
