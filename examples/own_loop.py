"""PRILoRA in a training loop of your own, with Accelerate and gradient accumulation.

Run it with `python examples/own_loop.py`, or `accelerate launch examples/own_loop.py` on several GPUs; it takes about a
minute on two cores. To make it yours, put your own model, tokenizer and rows where MODEL AND DATA begins, and choose
three numbers anew: the steps, the learning rate (0.004 suits this small encoder in so short a run; all-MiniLM-L6-v2
learned at 0.001, and collapsed at 0.002), and the interval, so that a run is pruned several times.

The one thing to get right: `pruner.step()` belongs to an optimizer step. Under `accelerator.accumulate` the optimizer
steps only when `accelerator.sync_gradients` is True; a `pruner.step()` for each small batch would prune too often.
"""

import argparse

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, set_seed

from prilora_lite import PRILoRAConfig, Pruner, adapt, load_encoder, load_rows, save_adapter

arguments = argparse.ArgumentParser(description="PRILoRA in a training loop of your own")
arguments.add_argument("--output", default="runs/own_loop")
arguments.add_argument("--steps", type=int, default=63)
options = arguments.parse_args()

set_seed(0)  # before the head and A are drawn, so that a second run is the same

# MODEL AND DATA: a small encoder and rows that come with the package
model, tokenizer = load_encoder("pocket", "pocket-rte")
rows = load_rows("pocket-rte")["train"]
tokens = rows.map(
    lambda row: tokenizer(row["sentence1"], row["sentence2"]) | {"labels": row["label"]},
    remove_columns=rows.column_names,
)
batches = DataLoader(tokens, batch_size=8, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))

adapt(model, PRILoRAConfig(first_rank=4, last_rank=12, ratio=0.5, interval=20))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)

accelerator = Accelerator(gradient_accumulation_steps=2)
model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
pruner = Pruner(model.train())  # its settings are those that the model was adapted with

steps = 0
while steps < options.steps:
    for batch in batches:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:  # the optimizer has made a step
            pruner.step()
            steps += 1
            if steps % 20 == 0:
                accelerator.print(f"step {steps}: loss {loss.item():.3f}, zeros in A {pruner.sparsity():.1%}")
            if steps == options.steps:
                break

pruner.prune()  # in the last step, before the model is evaluated and saved
if accelerator.is_main_process:
    path = save_adapter(accelerator.unwrap_model(model), f"{options.output}/adapter.safetensors")
    print(f"{len(pruner.history)} prunes in {steps} steps; {pruner.sparsity():.1%} of all A is zero; saved to {path}")
