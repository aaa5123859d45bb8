"""Small random models, one of each architecture that the library is tested on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pandas
import torch
import transformers as hf
from torch import Tensor, nn

from prilora_lite import PRILoRAConfig, Pruner
from prilora_lite.experiments.tasks import Task

LAYERS, HIDDEN, INNER, VOCABULARY = 4, 24, 40, 99
_COMMON = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": INNER,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
}


def _bert() -> nn.Module:
    return hf.BertForSequenceClassification(hf.BertConfig(**_COMMON))


def _roberta() -> nn.Module:
    return hf.RobertaForSequenceClassification(hf.RobertaConfig(**_COMMON, bos_token_id=1, eos_token_id=2))


def _electra() -> nn.Module:
    return hf.ElectraForSequenceClassification(hf.ElectraConfig(**_COMMON, embedding_size=12))


def _distilbert() -> nn.Module:
    config = hf.DistilBertConfig(
        dim=HIDDEN, n_layers=LAYERS, n_heads=2, hidden_dim=INNER, vocab_size=VOCABULARY, pad_token_id=0
    )
    return hf.DistilBertForSequenceClassification(config)


def _deberta_v2() -> nn.Module:
    config = hf.DebertaV2Config(
        **_COMMON,
        relative_attention=True,
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        max_relative_positions=16,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    )
    return hf.DebertaV2ForSequenceClassification(config)


def _gpt2() -> nn.Module:
    config = hf.GPT2Config(
        n_embd=HIDDEN, n_layer=LAYERS, n_head=2, n_inner=INNER, vocab_size=VOCABULARY,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return hf.GPT2ForSequenceClassification(config)


def _llama() -> nn.Module:
    config = hf.LlamaConfig(**_COMMON, num_key_value_heads=1, bos_token_id=1, eos_token_id=2)
    return hf.LlamaForSequenceClassification(config)


def _modernbert() -> nn.Module:
    config = hf.ModernBertConfig(**_COMMON, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    return hf.ModernBertForSequenceClassification(config)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "bert": _bert,
    "roberta": _roberta,
    "electra": _electra,
    "distilbert": _distilbert,
    "deberta_v2": _deberta_v2,
    "gpt2": _gpt2,
    "llama": _llama,
    "modernbert": _modernbert,
}


def build(name: str, seed: int = 0) -> nn.Module:
    """A small random model in evaluation mode."""
    torch.manual_seed(seed)
    return BUILDERS[name]().eval()


def shallow(name: str, layers: int = 2) -> nn.Module:
    """A model with fewer layers: less to compile. Its cache would break the graph in older versions of transformers."""
    model = build(name)
    model.config.num_hidden_layers, model.config.use_cache = layers, False
    torch.manual_seed(0)
    return type(model)(model.config)


def batch(rows: int = 3, tokens: int = 8, padding: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Random ids; the last row ends in padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if padding:
        ids[-1, -padding:], mask[-1, -padding:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % 2}


def train(model: nn.Module, config: PRILoRAConfig, steps: int = 2) -> Pruner:
    """A few plain steps with pruning, in a loop of one's own; the pruner, which listens no more."""
    pruner = Pruner(model.train(), **config.pruning())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for seed in range(steps):
        model(**batch(seed=seed)).loss.backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    pruner.detach()
    return pruner


def checkpoint_activations(model: nn.Module, reentrant: bool) -> None:
    """Gradient checkpointing of either kind, by the name that this version of transformers has for it."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


WORDS = (
    "the",
    "a",
    "dog",
    "cat",
    "bird",
    "sees",
    "likes",
    "hears",
    "good",
    "bad",
    "old",
    "young",
    "not",
    "very",
    "here",
)


def write_encoder(folder: Path, seed: int = 0, positions: int = 32) -> Path:
    """A small random BERT with a tokenizer that knows WORDS, as ``from_pretrained`` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    hf.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = hf.BertConfig(**(_COMMON | {"vocab_size": len(vocabulary)}), max_position_embeddings=positions)
    hf.BertModel(config).save_pretrained(folder)
    return folder


def write_rows(folder: Path, task: Task, train: int = 40, validation: int = 16, seed: int = 0) -> Path:
    """Random sentences in a task's columns, as Parquet files; the label says whether the first one holds "good"."""
    generator = random.Random(seed)
    (folder / task.name).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), *((split, validation) for split in task.splits)):
        rows = []
        for number in range(count):
            texts = [" ".join(generator.choices(WORDS, k=generator.randint(2, 9))) for _ in task.columns]
            label = int("good" in texts[0]) + (0 if task.labels else generator.random())
            rows.append(dict(zip(task.columns, texts, strict=True)) | {"label": label, "idx": number})
        pandas.DataFrame(rows).to_parquet(folder / task.name / f"{split}.parquet")
    return folder
