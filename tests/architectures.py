"""Every architecture with every head that the library is tested on: small random models and their inputs.

``python -m tests.architectures`` prints the table of docs/models.md.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field

import torch
import transformers as hf
from torch import Tensor, nn

from prilora_lite import PRILoRAConfig, adapt
from tests.small_models import HIDDEN, INNER, LAYERS, VOCABULARY, batch, build

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5, interval=1)
END = 1  # T5's end of sequence

CLASSIFICATION, REGRESSION, TOKENS, ANSWERS, TEXT = (
    "classification", "regression", "token classification", "question answering", "language model",
)  # fmt: skip
HEADS = (CLASSIFICATION, REGRESSION, TOKENS, ANSWERS, TEXT)


@dataclass(frozen=True)
class Architecture:
    """What an architecture is called, its small configuration, and the class of each head that it has."""

    name: str
    config: hf.PreTrainedConfig
    heads: dict[str, type]
    note: str = ""
    options: dict[str, object] = field(default_factory=dict)


def _heads(prefix: str, text: str | None = None, tokens: bool = True) -> dict[str, type]:
    classes = {CLASSIFICATION: "ForSequenceClassification", REGRESSION: "ForSequenceClassification"}
    if tokens:
        classes |= {TOKENS: "ForTokenClassification", ANSWERS: "ForQuestionAnswering"}
    if text:
        classes[TEXT] = text
    return {head: getattr(hf, prefix + name) for head, name in classes.items()}


def _of(builder: str, **changes: object) -> hf.PreTrainedConfig:
    config = copy.deepcopy(build(builder).config)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


T5 = hf.T5Config(
    d_model=HIDDEN, d_kv=HIDDEN // 2, d_ff=INNER, num_layers=LAYERS, num_decoder_layers=LAYERS - 1, num_heads=2,
    vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=END, decoder_start_token_id=0, feed_forward_proj="gated-gelu",
)  # fmt: skip
VIT = hf.ViTConfig(
    hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=INNER, image_size=8,
    patch_size=4,
)  # fmt: skip

ARCHITECTURES = (
    Architecture("BERT", _of("bert"), _heads("Bert", "LMHeadModel"), options={TEXT: {"is_decoder": True}}),
    Architecture("RoBERTa", _of("roberta"), _heads("Roberta", "ForCausalLM"), options={TEXT: {"is_decoder": True}}),
    Architecture("ELECTRA", _of("electra"), _heads("Electra", "ForCausalLM"), options={TEXT: {"is_decoder": True}}),
    Architecture("DistilBERT", _of("distilbert"), _heads("DistilBert")),
    Architecture(
        "DeBERTaV2", _of("deberta_v2", share_att_key=False), _heads("DebertaV2"),
        "`pos_key_proj` and `pos_query_proj` read positions, not tokens: left out",
    ),
    Architecture(
        "DeBERTaV3", _of("deberta_v2"), _heads("DebertaV2"),
        "query and key also read positions: their statistic is that of the tokens alone",
    ),
    Architecture("ModernBERT", _of("modernbert"), _heads("ModernBert"), "query, key and value: one matrix, one A"),
    Architecture("GPT-2", _of("gpt2"), _heads("GPT2", "LMHeadModel"), "query, key and value: one matrix, one A"),
    Architecture("Llama", _of("llama"), _heads("Llama", "ForCausalLM")),
    Architecture(
        "T5", T5, _heads("T5", "ForConditionalGeneration"),
        "two schedules, one for each stack; cross-attention counts the encoder's tokens",
    ),
    Architecture("ViT", VIT, {CLASSIFICATION: hf.ViTForImageClassification, REGRESSION: hf.ViTForImageClassification}),
)  # fmt: skip
REFUSED = {
    "ALBERT": "all its layers share their weights: ranks can't differ",
    "mixtures of experts": "an expert sees some tokens only: input norms would not mean the same for all",
}
CASES = [(a, head) for a in ARCHITECTURES for head in a.heads]


def build_with(architecture: Architecture, head: str, seed: int = 0) -> nn.Module:
    """A small random model in evaluation mode."""
    config = copy.deepcopy(architecture.config)
    for name, value in architecture.options.get(head, {}).items():
        setattr(config, name, value)
    config.num_labels = {REGRESSION: 1, TOKENS: 3}.get(head, 2)
    torch.manual_seed(seed)
    return architecture.heads[head](config).eval()


def inputs(architecture: Architecture, head: str, seed: int = 0) -> dict[str, Tensor]:
    """Random rows with labels; the last one ends in padding."""
    if architecture.name == "ViT":
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randn(3, 3, 8, 8, generator=generator)
        return {"pixel_values": pixels, "labels": _labels(head, torch.arange(3))}
    rows = batch(seed=seed)
    ids, mask = rows["input_ids"], rows["attention_mask"]
    if architecture.name == "T5":
        ids[:, 4] = END  # its classifier reads the end of each sequence
    if head == ANSWERS:
        return {"input_ids": ids, "attention_mask": mask} | {
            name: torch.tensor([0, 1, 2]) for name in ("start_positions", "end_positions")
        }
    if head == TOKENS:
        return {"input_ids": ids, "attention_mask": mask, "labels": ids % 3}
    if head == TEXT:
        text = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
        return text | ({"decoder_attention_mask": mask} if architecture.name == "T5" else {})
    return rows | {"labels": _labels(head, torch.arange(3))}


def _labels(head: str, rows: Tensor) -> Tensor:
    return rows / 3 if head == REGRESSION else rows % 2


@torch.no_grad()  # torch chooses another attention kernel where T5's position bias is trained
def predictions(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    """Logits of whatever head it is, in one tensor."""
    output = model(
        **{name: value.to(model.dtype) if value.is_floating_point() else value for name, value in rows.items()}
    )
    if hasattr(output, "start_logits"):
        return torch.cat([output.start_logits, output.end_logits])
    return output.logits


@functools.cache
def table() -> str:
    """The table of docs/models.md: which heads, which layers are adapted, what to know."""
    lines = ["| architecture | heads | adapted in each layer | |", "|---|---|---|---|"]
    for a in ARCHITECTURES:
        result = adapt(build_with(a, CLASSIFICATION), CONFIG)
        names = list(dict.fromkeys(module.module.rpartition(".")[2] for module in result.modules))
        missing = [head for head in HEADS if head not in a.heads]
        few = len(a.heads) < len(missing)
        heads = ", ".join(a.heads) if few else f"all but {', '.join(missing)}" if missing else "all five"
        lines.append(f"| {a.name} | {heads} | {', '.join(f'`{name}`' for name in names)} | {a.note} |")
    lines += [f"| {name} | - | refused | {reason} |" for name, reason in REFUSED.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
