"""The whole way - adapt, train, prune, save, load, merge, export - with every head of every architecture."""

import copy

import pytest
import torch
from torch import nn

from prilora_lite import (
    LoRALinear,
    Pruner,
    adapt,
    load_adapter,
    load_peft_adapter,
    merge_and_unload,
    save_adapter,
    save_peft_adapter,
)
from prilora_lite.models.layers import lora_layers
from tests.architectures import (
    ARCHITECTURES,
    CASES,
    CLASSIFICATION,
    CONFIG,
    REGRESSION,
    TEXT,
    build_with,
    inputs,
    predictions,
)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].name}-{case[1]}")
def trained(request):
    """Architecture, head, the model after two steps with a prune after each, and the parameters that it had before."""
    architecture, head = request.param
    model = build_with(architecture, head).train()
    adapt(model, CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    pruner = Pruner(model, **CONFIG.pruning())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for seed in range(2):
        model(**inputs(architecture, head, seed)).loss.backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    pruner.detach()
    return architecture, head, model.eval(), before


def test_an_adapted_model_starts_as_its_base_bit_for_bit(trained):
    architecture, head, _, _ = trained
    model = build_with(architecture, head)
    base = predictions(model, inputs(architecture, head))
    adapt(model, CONFIG)
    assert torch.equal(predictions(model, inputs(architecture, head)), base)


def test_training_moves_what_is_trainable_and_nothing_else(trained):
    _, head, model, before = trained
    for name, parameter in model.named_parameters():
        unused = "pooler" in name and head not in (CLASSIFICATION, REGRESSION)  # these heads read every token
        moved = not torch.equal(parameter, before[name])
        assert moved == (parameter.requires_grad and not unused), name


def test_half_of_every_row_of_every_A_is_zero(trained):
    for layer in lora_layers(trained[2]).values():
        assert ((layer.lora_A == 0).sum(1) == layer.in_features // 2).all()


def test_saved_and_loaded_it_predicts_the_same_bit_for_bit(trained, tmp_path):
    architecture, head, model, _ = trained
    fresh = build_with(architecture, head)
    load_adapter(fresh, save_adapter(model, tmp_path / "adapter.safetensors"))
    assert torch.equal(*(predictions(m, inputs(architecture, head)) for m in (fresh, model)))


def test_peft_and_this_library_read_what_is_written_for_peft(trained, tmp_path):
    peft = pytest.importorskip("peft")
    architecture, head, model, _ = trained
    folder = save_peft_adapter(model, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(build_with(architecture, head), folder).eval()
    fresh = build_with(architecture, head)
    load_peft_adapter(fresh, folder)
    assert torch.equal(*(predictions(m, inputs(architecture, head)) for m in (fresh, model)))
    expected, its = (predictions(m.double(), inputs(architecture, head)) for m in (copy.deepcopy(model), theirs))
    torch.testing.assert_close(its, expected, rtol=0, atol=1e-9)  # 1e-6 in float32, but for T5's larger logits


def test_merged_and_exported_it_is_a_plain_model_of_transformers(trained, tmp_path):
    architecture, head, model, _ = trained
    fresh = build_with(architecture, head)
    load_adapter(fresh, save_adapter(model, tmp_path / "adapter.safetensors"))
    merge_and_unload(fresh).save_pretrained(tmp_path / "plain")
    plain = type(model).from_pretrained(tmp_path / "plain").eval()
    assert not any(isinstance(module, LoRALinear) for module in plain.modules())
    expected, got = (predictions(m, inputs(architecture, head)) for m in (model, plain))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


# The statistic of an encoder-decoder


def test_each_kind_of_tokens_is_counted_by_its_own_mask():
    (t5,) = (a for a in ARCHITECTURES if a.name == "T5")
    model = build_with(t5, TEXT).double()
    adapt(model, CONFIG)
    rows = inputs(t5, TEXT)
    rows["decoder_attention_mask"] = rows["attention_mask"].flip(0)  # other rows are padded than in the encoder
    kept = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            module.register_forward_pre_hook(lambda _, args, name=name: kept.update({name: args[0].detach()}))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    pruner = Pruner(model.train(), interval=1)
    model(**rows)
    pruner.step()
    for name in pruner.layers:
        of_encoder = name.startswith("encoder") or name.endswith(("EncDecAttention.k", "EncDecAttention.v"))
        mask = rows["attention_mask" if of_encoder else "decoder_attention_mask"].bool()
        expected = kept[name][mask].square().mean(0)
        torch.testing.assert_close(pruner.mean_square(name), expected, rtol=1e-12, atol=0)
