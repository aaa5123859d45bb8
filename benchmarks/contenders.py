"""What is compared: encoders' shapes, ways to fine-tune them, and the floor of a LoRA that keeps B A apart from W0."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig, DebertaV2Config, LlamaConfig, PreTrainedConfig

from prilora_lite.adapt import adapt
from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.baselines import prepare
from prilora_lite.models.heads import head_modules, head_parameters
from prilora_lite.models.linear import linear_shape
from prilora_lite.models.stacks import find_stacks
from prilora_lite.pruner import Pruner

INTERVAL = 40  # optimizer steps from one prune, or one allocation of AdaLoRA's, to the next

# Random weights: a step takes as long as with trained ones, and nothing is downloaded.
SHAPES: dict[str, PreTrainedConfig] = {
    "MiniLM": BertConfig(  # all-MiniLM-L6-v2
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
    ),
    "DeBERTaV3-base": DebertaV2Config(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=128100,
        relative_attention=True, position_buckets=256, max_relative_positions=-1, pos_att_type=["p2c", "c2p"],
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0,
        layer_norm_eps=1e-7,
    ),
    "Llama-1B": LlamaConfig(  # Llama 3.2 1B
        hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
        intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True, pad_token_id=0, use_cache=False,
    ),
}  # fmt: skip

Step = Callable[[], None]
Method = tuple[nn.Module, Step | None]


@dataclass(frozen=True)
class Setting:
    """One place where methods are timed: a shape, a batch, an arithmetic, a rank.

    Args:
        shape: one of :data:`SHAPES`.
        batch, tokens: rows, and tokens in each.
        precision: ``fp32``; ``bf16``, autocast as in Trainer; or ``bf16 weights``, the whole frozen model.
        rank: r of every method; the mean rank of PRILoRA, which goes from r / 2 to 3 r / 2.
        padding: share of each row that is padding.
        layers: depth, the shape's own if left out.
        device: ``cpu`` or ``cuda``.
        compiled: whether with ``torch.compile``.
    """

    shape: str
    batch: int
    tokens: int
    precision: str = "fp32"
    rank: int = 8
    padding: float = 0.0
    layers: int | None = None
    device: str = "cpu"
    compiled: bool = False

    def __str__(self) -> str:
        parts = [f"{self.shape} {self.batch}x{self.tokens} {self.precision}"]
        parts += [f"rank {self.rank}"] if self.rank != 8 else []
        parts += [f"{self.layers} layers"] if self.layers else []
        parts += [f"{self.padding:.0%} padding"] if self.padding else []
        parts += [self.device] if self.device != "cpu" else []
        parts += ["compiled"] if self.compiled else []
        return ", ".join(parts)

    def model(self) -> nn.Module:
        """A random model with a head for two classes."""
        config = copy.deepcopy(SHAPES[self.shape])
        config.num_hidden_layers = self.layers or config.num_hidden_layers
        config.problem_type = "single_label_classification"  # else transformers looks at the labels in each step
        torch.manual_seed(0)
        dtype = torch.bfloat16 if self.precision == "bf16 weights" else torch.float32
        with torch.device(self.device):
            return AutoModelForSequenceClassification.from_config(config, dtype=dtype)

    def inputs(self) -> dict[str, Tensor]:
        """A random batch with labels."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, 30000, (self.batch, self.tokens), generator=generator)
        mask = torch.ones_like(ids)
        mask[:, round(self.tokens * (1 - self.padding)) :] = 0
        labels = torch.randint(0, 2, (self.batch,), generator=generator)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


def frozen(model: nn.Module, rank: int) -> Method:
    """Nothing but the head is trained, yet the backward pass goes through to the embeddings."""
    model.requires_grad_(False)
    for parameter in head_parameters(model).values():
        parameter.requires_grad_(True)
    embeddings = model.get_input_embeddings()
    # Not output.requires_grad_(), at which a compiled graph would end
    embeddings.shift = nn.Parameter(torch.zeros((), device=embeddings.weight.device, dtype=embeddings.weight.dtype))
    embeddings.register_forward_hook(lambda module, args, output: output + module.shift)
    return model, None


def lora(model: nn.Module, rank: int) -> Method:
    """This library's LoRA, the same rank everywhere."""
    adapt(model, PRILoRAConfig.lora(rank, alpha=2 * rank))
    return model, None


def prilora(model: nn.Module, rank: int) -> Method:
    """PRILoRA at the same mean rank, with its pruner."""
    config = PRILoRAConfig(first_rank=rank - rank // 2, last_rank=rank + rank // 2, interval=INTERVAL, alpha=2 * rank)
    adapt(model, config)
    return model, Pruner(model, **config.pruning()).step


def peft_lora(model: nn.Module, rank: int) -> Method:
    """PEFT's LoRA on the same layers."""
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, **_places(model))), None


def peft_lora_without_cast(model: nn.Module, rank: int) -> Method:
    """The same, its layers told not to look at the type of their input."""
    model, _ = peft_lora(model, rank)
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    return model, None


def peft_adalora(model: nn.Module, rank: int) -> Method:
    """PEFT's AdaLoRA on the same layers. It starts at the same rank; what it prunes is zero, not gone."""
    endless = 1_000_000  # steps: none of those timed is in its last phase
    config = AdaLoraConfig(
        init_r=rank, target_r=rank // 2, total_step=endless, tinit=0, tfinal=1, deltaT=INTERVAL,
        lora_alpha=2 * rank, lora_dropout=0.0, **_places(model),
    )  # fmt: skip
    model = get_peft_model(model, config)
    steps = itertools.count(1)
    return model, lambda: model.base_model.update_and_allocate(next(steps))


def bitfit(model: nn.Module, rank: int) -> Method:
    """All biases."""
    prepare(model, "bitfit", steps=0, alpha=0)
    return model, None


def full(model: nn.Module, rank: int) -> Method:
    """All weights."""
    return model, None


# By the name in the results. Each takes a model, which it changes, and a rank, and returns what to train and what to
# call after each optimizer step.
METHODS: dict[str, Callable[[nn.Module, int], Method]] = {
    "frozen": frozen, "lora": lora, "prilora": prilora, "peft": peft_lora, "peft, no cast": peft_lora_without_cast,
    "adalora": peft_adalora, "bitfit": bitfit, "full": full,
}  # fmt: skip
PRODUCTS = "products"


def training_step(name: str, setting: Setting, base: nn.Module) -> Step:
    """A method's training step on a copy of ``base``: forward, backward, AdamW, what the method does after, zeroing.

    Args:
        name: one of :data:`METHODS`; or ``products``: the products of LoRA's layers alone, see :func:`products`.
        setting: shape, batch and arithmetic.
        base: the setting's model, left as it is.
    """
    if name == PRODUCTS:
        return products(setting, base)
    model, after = METHODS[name](copy.deepcopy(base), setting.rank)
    return train(model, setting, after)


def train(model: nn.Module, setting: Setting, after: Step | None) -> Step:
    """One training step of a model, with what is to be called after the optimizer's."""
    model.train()
    if setting.compiled:
        model.forward = torch.compile(model.forward)
    batch = setting.inputs()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        if after is not None:
            after()
        optimizer.zero_grad()

    return step


def products(setting: Setting, base: nn.Module) -> Step:
    """The six products of each LoRA layer and nothing else, into tensors that are there already.

    Layers of one shape share their tensors, which are then read from a warmer cache than a model's: a floor.
    """
    dtype = torch.float32 if setting.precision == "fp32" else torch.bfloat16
    stacks, _ = find_stacks(base)
    shapes = [linear_shape(m) for numbered in stacks.values() for layer in numbered.values() for m in layer.values()]
    tokens = setting.batch * setting.tokens
    tensors = {shape: layer_tensors(*shape, setting.rank, tokens, dtype, setting.device) for shape in set(shapes)}

    @torch.no_grad()
    def step() -> None:
        for shape in shapes:
            forward_products(tensors[shape])
        for shape in reversed(shapes):
            backward_products(tensors[shape])

    return step


def layer_tensors(m: int, n: int, rank: int, tokens: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """What one LoRA layer reads and writes: its tensors in the paper's letters, g the gradient of y."""
    shapes = {
        "x": (tokens, n), "y": (tokens, m), "h": (tokens, rank), "A": (rank, n), "B_T": (rank, m),
        "g": (tokens, m), "gB": (tokens, rank), "dA": (rank, n), "dB_T": (rank, m), "dx": (tokens, n),
    }  # fmt: skip
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in shapes.items()}


def forward_products(t: dict[str, Tensor]) -> None:
    """h = x A^T; y += h B^T."""
    torch.mm(t["x"], t["A"].T, out=t["h"])
    t["y"].addmm_(t["h"], t["B_T"])


def backward_products(t: dict[str, Tensor]) -> None:
    """The gradients of B^T, h^T g; of A, (g B)^T x; and what x's gains, (g B) A."""
    torch.mm(t["g"], t["B_T"].T, out=t["gB"])
    torch.mm(t["h"].T, t["g"], out=t["dB_T"])
    torch.mm(t["gB"].T, t["x"], out=t["dA"])
    t["dx"].addmm_(t["gB"], t["A"])


def _places(model: nn.Module) -> dict[str, list[str]]:
    """The layers that :func:`~prilora_lite.adapt.adapt` adapts and the head, in PEFT's words."""
    stacks, _ = find_stacks(model)
    targets = [name for numbered in stacks.values() for layer in numbered.values() for name in layer]
    return {"target_modules": targets, "modules_to_save": list(head_modules(model))}
