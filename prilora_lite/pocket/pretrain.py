"""Pre-trains the pocket encoder: a small BERT, by masked-language modelling on the little English of ``grammar.py``.

``python -m prilora_lite.pocket.pretrain FOLDER`` writes configuration, tokenizer, weights and a card into the folder.
The text has correct sentences, paraphrases, consequences and reviews that agree, and nothing of what the tasks call
wrong; the encoder never sees a label.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tqdm.auto import tqdm
from transformers import (
    BatchEncoding,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)

from prilora_lite.pocket.grammar import Reviewer, draw_topic, finish, vocabulary
from prilora_lite.pocket.tasks import Texts, draw_cola, draw_mrpc, draw_rte

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
STEPS, BATCH_SIZE, POOL, LEARNING_RATE, MASKED = 10_000, 64, 20, 1e-3, 0.25


def draw_text(rng: Random) -> Texts:
    """One piece of text: a sentence, or two that belong together."""
    kind = rng.choice(("sentence", "paraphrase", "paraphrase", "consequence", "consequence", "review", "review"))
    if kind == "sentence":
        return draw_cola(rng, label=1)
    if kind == "paraphrase":
        return draw_mrpc(rng, label=1)
    if kind == "consequence":
        return draw_rte(rng, label=0)
    # As in other English, few statements are negated and words of one polarity stand together: that is how the polarity
    # of words can be learned from text, and then what a negation or a contrast does to it.
    brief, positive = rng.random() < 0.5, rng.random() < 0.5
    reviewer = Reviewer(rng, negation=0.15, contrast=0.2, pairs=0.5, detail=0.0 if brief else 0.2)
    topic = None if brief else draw_topic(rng)
    review = reviewer.review(positive, topic)
    if rng.random() < 0.5:
        return finish(review), finish(reviewer.reaction(positive))
    return finish(review), finish(reviewer.statement(positive, topic))


def make_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """BERT's tokenizer over the words of the grammar, written to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.txt"
    file.write_text("\n".join((*SPECIAL, *vocabulary())) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(str(file), model_max_length=64)
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_model(vocab_size: int) -> BertForMaskedLM:
    """A BERT of 12 layers, as deep as the paper's encoder so that its ranks apply, and narrow."""
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=vocab_size,
            num_hidden_layers=12,
            hidden_size=128,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,  # no text is seen twice, so there is nothing to overfit
            attention_probs_dropout_prob=0.0,
            initializer_range=0.05,
        )
    )
    # Each layer starts close to the identity, about 1 / sqrt(2 * 12) of its usual size; without this, what spans a
    # whole text, such as its polarity, had not been found after 9,000 steps.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("output.dense.weight"):
                parameter.mul_(0.2)
    return model


def pretrain(folder: Path, steps: int = STEPS, seed: int = 0) -> None:
    """Train for a number of steps and write everything into the folder.

    Args:
        folder: gets ``config.json``, ``model.safetensors`` (half precision), the tokenizer and the card.
        steps: optimizer steps of 64 texts.
        seed: seed for weights, text and masks.

    Raises:
        ValueError: fewer than one step.
        FileExistsError: the folder holds a model already.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if (folder / "model.safetensors").exists():
        raise FileExistsError(f"{folder / 'model.safetensors'} is there already; name another folder, or remove it")
    torch.manual_seed(seed)
    rng = Random(f"pretrain {seed}")
    tokenizer = make_tokenizer(folder)
    model = make_model(len(tokenizer))
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    started, bar = time.time(), tqdm(range(steps), unit="step")
    for step, batch in zip(bar, _batches(rng, tokenizer, collator), strict=False):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    minutes = (time.time() - started) / 60
    model.eval().half().save_pretrained(folder)
    accuracy = masked_accuracy(model.float(), tokenizer, seed)
    (folder / "README.md").write_text(_card(folder, steps, seed, minutes, accuracy), encoding="utf-8")


@torch.no_grad()
def masked_accuracy(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerBase, seed: int) -> float:
    """Share of masked words that the model fills in correctly, in a pool of new texts."""
    torch.manual_seed(seed + 1)
    collator = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=MASKED, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    right = masked = 0
    for batch in islice(_batches(Random(f"evaluate {seed}"), tokenizer, collator), POOL):
        labels = batch.pop("labels")
        hit = model(**batch).logits.argmax(-1) == labels
        right, masked = right + int(hit[labels != -100].sum()), masked + int((labels != -100).sum())
    return right / masked


def _batches(
    rng: Random, tokenizer: PreTrainedTokenizerBase, collator: DataCollatorForLanguageModeling
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end, of texts of similar length: less padding, hence faster."""
    while True:
        texts = [draw_text(rng) for _ in range(POOL * BATCH_SIZE)]
        rows = sorted((tokenizer(*text, return_special_tokens_mask=True) for text in texts), key=_length)
        batches = [rows[i : i + BATCH_SIZE] for i in range(0, len(rows), BATCH_SIZE)]
        rng.shuffle(batches)
        yield from (dict(collator(batch)) for batch in batches)


def _length(row: BatchEncoding) -> int:
    return len(row["input_ids"])


def _card(folder: Path, steps: int, seed: int, minutes: float, accuracy: float) -> str:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return f"""# The pocket encoder

A BERT of 12 layers, width 128, pre-trained by masked-language modelling on sentences and pairs of sentences of a little
English of some {len(vocabulary())} words, drawn by a seeded generator (`prilora_lite/pocket/grammar.py`).

- **Made by** `python -m prilora_lite.pocket.pretrain FOLDER --steps {steps} --seed {seed}`: {steps:,} steps of
  {BATCH_SIZE} texts, {MASKED:.0%} of the words masked, AdamW at {LEARNING_RATE:g}; {minutes:.0f} minutes on
  {torch.get_num_threads()} CPU threads (torch {torch.__version__}, Python {platform.python_version()}).
- **It knows** {accuracy:.1%} of the masked words of {POOL * BATCH_SIZE:,} new texts.
- **It has not seen** a label, nor a sentence that the tasks call wrong: its text is right sentences, paraphrases,
  consequences, and reviews that agree. Sentences of the tasks may occur in it, without their labels.
- **For** teaching and tests. It knows no other English: other words are `[UNK]`.
- **File** `model.safetensors`, half precision, SHA-256 `{digest}`.
- **Licence** Apache-2.0, as the package; the text is generated, no one's words are in it.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pre-train the pocket encoder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pretrain(options.folder, options.steps, options.seed)
