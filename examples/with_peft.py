"""Rising ranks and pruning for a script on PEFT and Trainer: one argument of LoraConfig, and a callback.

Run it with `python examples/with_peft.py` (it needs PEFT); it takes about a minute on two cores. To make it yours, put
your own model, tokenizer and rows where MODEL AND DATA begins, and choose three numbers anew: the steps, the learning
rate (0.004 suits this small encoder in so short a run; all-MiniLM-L6-v2 learned at 0.001, and collapsed at 0.002), and
the interval, so that a run is pruned several times.
"""

import argparse

from peft import LoraConfig, get_peft_model
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

from prilora_lite import PRILoRACallback, PRILoRAConfig, load_encoder, load_rows, rank_pattern_for

arguments = argparse.ArgumentParser(description="rising ranks and pruning on PEFT")
arguments.add_argument("--output", default="runs/with_peft")
arguments.add_argument("--steps", type=int, default=63)
options = arguments.parse_args()

set_seed(0)  # before the head and A are drawn, so that a second run is the same

# MODEL AND DATA: a small encoder and rows that come with the package
base, tokenizer = load_encoder("pocket", "pocket-rte")
rows = load_rows("pocket-rte")
tokens = {
    split: rows[split].map(lambda row: tokenizer(row["sentence1"], row["sentence2"]) | {"labels": row["label"]})
    for split in ("train", "validation")
}

# PEFT freezes the pooler unless it is named, adapt trains it: named here, so that the same weights are trained.
# "output.dense" is found twice in a layer, in attention and in feed-forward: PEFT compares the end of a name
lora = LoraConfig(
    target_modules=["query", "key", "value", "output.dense", "intermediate.dense"],
    modules_to_save=["pooler", "classifier"],
    **rank_pattern_for(base, first_rank=4, last_rank=12),
)
model = get_peft_model(base, lora)
model.print_trainable_parameters()

callback = PRILoRACallback(PRILoRAConfig(ratio=0.5, interval=20))
trainer = Trainer(
    model,
    TrainingArguments(
        options.output, learning_rate=4e-3, max_steps=options.steps, per_device_train_batch_size=16, report_to="none",
        logging_steps=20, save_strategy="no", label_names=["labels"],
    ),
    train_dataset=tokens["train"],
    eval_dataset=tokens["validation"],
    data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda output: {"accuracy": float((output.predictions.argmax(1) == output.label_ids).mean())},
    callbacks=[callback],
)  # fmt: skip
trainer.train()

print(f"accuracy: {trainer.evaluate()['eval_accuracy']:.3f}")
model.save_pretrained(options.output)
print(f"{callback.history[-1]['after']:.1%} of all A is zero; saved to {options.output}")
