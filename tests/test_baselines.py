"""The baselines: what each trains, that it starts as the pre-trained model, that AdaLoRA's allocator really works."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from prilora_lite import Settings, baselines, finetune, load_encoder
from prilora_lite.study import METHODS
from prilora_lite.tasks import TASKS
from tests.models import build

SHORT = Settings(learning_rate=5e-3, epochs=0.2, batch_size=16, max_length=64)
STEPS = 25


def pocket():
    torch.manual_seed(0)
    return load_encoder("pocket", TASKS["pocket-rte"])[0]


def run(name, **options):
    return finetune("pocket-rte", name, settings=SHORT, device="cpu", progress=False, **options)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_at_the_start_the_model_computes_what_it_did(name):
    ids = torch.arange(5, 25).view(2, 10)
    before = pocket()(input_ids=ids).logits
    model, _ = baselines.make_trainable(pocket(), name, steps=STEPS, alpha=16.0)
    assert torch.allclose(model.eval()(input_ids=ids).logits, before, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "part"),
    [("bitfit", "bias"), ("houlsby", ("down", "up")), ("pfeiffer", ("down", "up")), ("adalora", "lora_")],
)
def test_it_trains_its_own_part_with_pooler_and_head_and_nothing_else(name, part):
    model, _ = baselines.make_trainable(pocket(), name, steps=STEPS, alpha=16.0)
    parts = (part,) if isinstance(part, str) else part
    for parameter_name, parameter in model.named_parameters():
        head = "pooler" in parameter_name or "classifier" in parameter_name
        frozen_copy = "original_module" in parameter_name  # PEFT keeps one of what it trains whole
        own = any(p in parameter_name for p in parts)
        assert parameter.requires_grad == ((head and not frozen_copy) or own), parameter_name


@pytest.mark.parametrize(("name", "places"), [("houlsby", 24), ("pfeiffer", 12)])
def test_bottlenecks_stand_where_their_authors_put_them_at_loras_budget(name, places):
    model, _ = baselines.make_trainable(pocket(), name, steps=STEPS, alpha=16.0)
    found = [n for n, module in model.named_modules() if isinstance(module, baselines.Bottleneck)]
    assert len(found) == places
    assert all(n.endswith("output.dense") for n in found)
    assert sum("attention" in n for n in found) == (12 if name == "houlsby" else 0)
    lora = 12 * 8 * (4 * (128 + 128) + 2 * (128 + 256))
    width = next(module.down.out_features for module in model.modules() if isinstance(module, baselines.Bottleneck))
    one_wider = places * (2 * 128 + 1)
    assert abs(baselines.count(model).adapter - lora) <= one_wider / 2
    assert baselines.count(model).adapter == places * (2 * 128 * width + width + 128)


def test_a_bottleneck_computes_its_equation():
    torch.manual_seed(0)
    layer = baselines.Bottleneck(nn.Linear(6, 4), 3)
    nn.init.normal_(layer.up.weight)
    x = torch.randn(5, 6)
    h = x @ layer.base.weight.T + layer.base.bias
    expected = h + nn.functional.gelu(h @ layer.down.weight.T + layer.down.bias) @ layer.up.weight.T + layer.up.bias
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_adaloras_allocator_brings_the_ranks_from_the_start_to_the_budget():
    result = run("adalora")
    ranks = [list(entry["ranks"].values()) for entry in result.history]
    assert len(ranks[0]) == 72
    assert sum(ranks[-1]) == 72 * baselines.RANK
    assert max(map(sum, ranks)) > sum(ranks[-1])
    assert len(set(ranks[-1])) > 1  # other layers, other ranks: it chose
    shapes = {name: module.weight.shape for name, module in pocket().named_modules() if isinstance(module, nn.Linear)}
    left = 0
    for name, rank in result.history[-1]["ranks"].items():
        m, n = shapes[name.removeprefix("base_model.model.")]
        left += rank * (m + n + 1)
    assert result.counts.adapter_nonzero == left


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_a_run_learns_counts_and_saves(name, tmp_path):
    result = run(name, output_dir=tmp_path)
    assert result.steps == STEPS
    assert result.counts.head == 16_770
    assert 0 < result.counts.adapter_nonzero <= result.counts.adapter
    if name == "bitfit":
        assert type(AutoModelForSequenceClassification.from_pretrained(result.path)).__name__.startswith("Bert")
    elif name == "adalora":
        config = json.loads((result.path / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["peft_type"] == "ADALORA"
    else:
        assert sum(tensor.numel() for tensor in load_file(result.path).values()) == result.counts.adapter + 16_770


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer"])
def test_a_model_without_the_places_for_a_bottleneck_is_refused(name):
    with pytest.raises(ValueError, match=r"attention\.output\.dense.*encoders built like BERT"):
        baselines.make_trainable(build("gpt2"), name, steps=STEPS, alpha=16.0)


def test_adalora_without_peft_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'prilora-lite\[peft\]'"):
        baselines.make_trainable(pocket(), "adalora", steps=STEPS, alpha=16.0)


def test_the_ablation_knows_each_baseline():
    assert {METHODS[name].trains for name in baselines.BASELINES} == set(baselines.BASELINES)
