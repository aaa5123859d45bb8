"""The baselines: what each trains, that it starts as the pre-trained model, that AdaLoRA's allocator really works."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AlbertConfig, AlbertForSequenceClassification, AutoModelForSequenceClassification

from prilora_lite import Settings, finetune, load_encoder
from prilora_lite.experiments import baselines
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.experiments.trainable import make_trainable
from tests.small_models import LAYERS, batch, build
from tests.training import some_of_pockets

SHORT = Settings(learning_rate=5e-3, epochs=1, batch_size=16, max_length=64)
STEPS = 25


def pocket():
    torch.manual_seed(0)
    return load_encoder("pocket", TASKS["pocket-rte"])[0]


def run(name, steps, **options):
    rows = some_of_pockets(train=16 * steps)
    return finetune("pocket-rte", name, rows=rows, settings=SHORT, device="cpu", progress=False, **options)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_at_the_start_the_model_computes_what_it_did(name):
    ids = torch.arange(5, 25).view(2, 10)
    before = pocket()(input_ids=ids).logits
    model, _ = baselines.prepare(pocket(), name, steps=STEPS, alpha=16.0)
    assert torch.allclose(model.eval()(input_ids=ids).logits, before, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "part"),
    [("bitfit", "bias"), ("houlsby", ("down", "up")), ("pfeiffer", ("down", "up")), ("adalora", "lora_")],
)
def test_it_trains_its_own_part_with_pooler_and_head_and_nothing_else(name, part):
    model, _ = baselines.prepare(pocket(), name, steps=STEPS, alpha=16.0)
    parts = (part,) if isinstance(part, str) else part
    for parameter_name, parameter in model.named_parameters():
        head = "pooler" in parameter_name or "classifier" in parameter_name
        frozen_copy = "original_module" in parameter_name  # PEFT keeps one of what it trains whole
        own = any(p in parameter_name for p in parts)
        assert parameter.requires_grad == ((head and not frozen_copy) or own), parameter_name


def test_a_method_that_nothing_says_how_to_train_is_refused():
    """Entered into METHODS alone it would train the head without a word."""
    with pytest.raises(ValueError, match="unknown method to train 'ia3': valid are head, full, bitfit"):
        make_trainable(pocket(), "ia3", STEPS, 16.0)


def test_bitfit_asks_for_no_ranks_and_takes_layers_that_share_their_weights():
    config = AlbertConfig(
        vocab_size=99, embedding_size=12, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=40,
    )  # fmt: skip
    model, _ = baselines.prepare(AlbertForSequenceClassification(config), "bitfit", steps=STEPS, alpha=16.0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "layer" in name}
    assert all(name.endswith("bias") or "pooler" in name or "classifier" in name for name in trained)


@pytest.mark.parametrize(("name", "places"), [("houlsby", 24), ("pfeiffer", 12)])
def test_bottlenecks_have_loras_budget(name, places):
    model, _ = baselines.prepare(pocket(), name, steps=STEPS, alpha=16.0)
    found = [n for n, module in model.named_modules() if isinstance(module, baselines.Bottleneck)]
    assert len(found) == places
    lora = 12 * 8 * (4 * (128 + 128) + 2 * (128 + 256))
    width = next(module.down.out_features for module in model.modules() if isinstance(module, baselines.Bottleneck))
    one_wider = places * (2 * 128 + 1)
    assert abs(baselines.count_beside_head(model)[0] - lora) <= one_wider / 2
    assert baselines.count_beside_head(model)[0] == places * (2 * 128 * width + width + 128)


def small(h, bottleneck):
    return h + bottleneck.up(nn.functional.gelu(bottleneck.down(h)))


def houlsby_layer(layer, x):
    """A BERT layer with Houlsby's two, written out: before each block's residual and LayerNorm."""
    attention, end = layer.attention.output, layer.output
    dense = attention.dense
    h = attention.LayerNorm(small(dense.base(layer.attention.self(x)[0]), dense) + x)
    return end.LayerNorm(small(end.dense.base(layer.intermediate(h)), end.dense) + h)


def pfeiffer_layer(layer, x):
    """A BERT layer with Pfeiffer's one, written out: behind the LayerNorm that ends it."""
    attention, end = layer.attention.output, layer.output.base
    h = attention.LayerNorm(attention.dense(layer.attention.self(x)[0]) + x)
    return small(end.LayerNorm(end.dense(layer.intermediate(h)) + h), layer.output)


@pytest.mark.parametrize(("name", "written_out"), [("houlsby", houlsby_layer), ("pfeiffer", pfeiffer_layer)])
def test_bottlenecks_stand_where_their_authors_put_them(name, written_out):
    model, _ = baselines.prepare(pocket(), name, steps=STEPS, alpha=16.0)
    for module in model.modules():
        if isinstance(module, baselines.Bottleneck):
            nn.init.normal_(module.up.weight, std=0.1)
    x = torch.randn(2, 5, 128)
    for layer in model.bert.encoder.layer:
        found = layer(x)
        found = found[0] if isinstance(found, tuple) else found
        assert torch.allclose(found, written_out(layer, x), atol=1e-5)


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "deberta_v2"])
def test_bottlenecks_go_into_each_encoder_built_like_bert(architecture, name):
    model, _ = baselines.prepare(build(architecture), name, steps=STEPS, alpha=16.0)
    model(**batch()).loss.backward()
    found = [module for module in model.modules() if isinstance(module, baselines.Bottleneck)]
    assert len(found) == LAYERS * (2 if name == "houlsby" else 1)
    assert all(module.up.weight.grad.count_nonzero() for module in found)


def test_a_bottleneck_computes_its_equation():
    torch.manual_seed(0)
    layer = baselines.Bottleneck(nn.Linear(6, 4), 4, 3)
    nn.init.normal_(layer.up.weight)
    x = torch.randn(5, 6)
    h = x @ layer.base.weight.T + layer.base.bias
    expected = h + nn.functional.gelu(h @ layer.down.weight.T + layer.down.bias) @ layer.up.weight.T + layer.up.bias
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_adaloras_allocator_brings_the_ranks_from_the_start_to_the_budget():
    result = run("adalora", STEPS)
    ranks = [list(entry["ranks"].values()) for entry in result.history]
    assert len(ranks[0]) == 72
    assert sum(ranks[-1]) == 72 * baselines.BUDGET
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
    result = run(name, 8, output_dir=tmp_path)
    assert result.steps == 8
    assert result.counts.head == 16_770
    assert result.counts.base == 1_666_306  # the encoder with its head, without what was added
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
        baselines.prepare(build("gpt2"), name, steps=STEPS, alpha=16.0)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_run_too_short_for_adaloras_schedule_is_refused(steps):
    with pytest.raises(ValueError, match=rf"needs 7 optimizer steps at least, and the run has {steps}"):
        run("adalora", steps)


def test_the_shortest_run_of_adalora_ends_at_its_budget():
    result = run("adalora", baselines.ADALORA_STEPS)
    assert result.steps == baselines.ADALORA_STEPS
    assert sum(result.history[-1]["ranks"].values()) == 72 * baselines.BUDGET


def test_adalora_without_peft_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match="pip install peft"):
        baselines.prepare(pocket(), "adalora", steps=STEPS, alpha=16.0)


def test_the_ablation_knows_each_baseline():
    assert {METHODS[name].trains for name in baselines.BASELINES} == set(baselines.BASELINES)
