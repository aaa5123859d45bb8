"""Which layers are pruned: what is trained and active, in whatever module the model lies."""

import importlib
import re
from dataclasses import replace

import peft
import pytest
import torch
import transformers as hf
from torch import nn
from transformers import Trainer, TrainingArguments

from prilora_lite import (
    LoRALinear,
    PRILoRACallback,
    PRILoRAConfig,
    Pruner,
    adapt,
    load_adapter,
    report,
    save_adapter,
)
from prilora_lite.models.layers import lora_layers
from prilora_lite.models.stacks import find_stacks
from tests.small_models import batch, build, checkpoint_activations

CONFIG = PRILoRAConfig(first_rank=2, last_rank=4, interval=2)


class Pairs(nn.Module):
    """A module of one's own: two texts through one encoder, each with its own mask."""

    def __init__(self):
        super().__init__()
        self.encoder = build("bert").bert

    def forward(self, a_ids, a_mask, b_ids, b_mask, labels=None):
        a, b = (
            self.encoder(ids, attention_mask=mask).last_hidden_state[:, 0]
            for ids, mask in ((a_ids, a_mask), (b_ids, b_mask))
        )
        return {"loss": (a - b).square().mean()}


def halves(seed):
    inputs = batch(seed=seed)
    return inputs["input_ids"], inputs["attention_mask"]


def freeze_layer(model, number):
    for name, parameter in model.named_parameters():
        if f".layer.{number}." in name:
            parameter.requires_grad_(False)


def one_step(model, pruner):
    model(**batch()).loss.backward()
    pruner.step()


# What is frozen


def test_a_frozen_adapter_stays_as_it_is_and_the_others_are_pruned():
    model = build("bert").train()
    adapt(model, CONFIG)
    freeze_layer(model, 0)
    pruner = Pruner(model, interval=1)
    before = {name: layer.lora_A.clone() for name, layer in pruner.layers.items()}
    one_step(model, pruner)
    for name, layer in pruner.layers.items():
        assert torch.equal(layer.lora_A, before[name]) == (".layer.0." in name)


def test_an_adapter_that_is_frozen_later_is_pruned_no_more():
    model = build("bert").train()
    adapt(model, CONFIG)
    pruner = Pruner(model, interval=1, decay=0.0)
    one_step(model, pruner)
    freeze_layer(model, 0)
    frozen = next(layer for name, layer in pruner.layers.items() if ".layer.0." in name)
    with torch.no_grad():
        frozen.lora_A.fill_(1.0)
    one_step(model, pruner)
    assert (frozen.lora_A == 1).all()


def test_a_rule_of_the_gradient_can_be_used_beside_a_frozen_layer():
    def sensitivity(lora_A, gradient):
        return (lora_A * gradient).abs()

    model = build("bert").train()
    adapt(model, CONFIG)
    freeze_layer(model, 0)
    pruner = Pruner(model, interval=1, importance=sensitivity)
    one_step(model, pruner)
    assert {name for name, layer in pruner.layers.items() if (layer.lora_A == 0).any()} == {
        name for name in pruner.layers if ".layer.0." not in name
    }


def test_a_model_with_nothing_to_train_is_refused():
    model = build("bert")
    adapt(model, CONFIG)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="lora_A is frozen in all layers"):
        Pruner(model)


# PEFT's adapters


def two_adapters():
    lora = peft.LoraConfig(target_modules=["query", "value"], r=4, init_lora_weights=False)
    model = peft.get_peft_model(build("bert"), lora, adapter_name="first").train()
    model.add_adapter("second", lora)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_adapters_that_are_switched_off_are_switched_on_again_as_the_message_says():
    model = two_adapters()
    pruner = Pruner(model, interval=10)
    model(**batch()).loss.backward()
    model.disable_adapter_layers()
    with pytest.raises(RuntimeError, match=r"switched off in .*: call model.base_model.enable_adapter_layers\(\)"):
        pruner.step()
    model.base_model.enable_adapter_layers()
    pruner.step()
    assert pruner.steps == 1


def test_what_peft_trains_beside_a_and_b_is_counted_with_the_adapter():
    lora = peft.LoraConfig(target_modules=["query"], use_dora=True)
    model = peft.get_peft_model(build("bert"), lora)
    counted = report(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert counted.head == 0
    assert counted.adapter == sum(p.numel() for p in trained)


def test_another_adapter_than_the_pruners_is_refused_and_neither_is_touched():
    model = two_adapters()
    pruner = Pruner(model, interval=10)
    one_step(model, pruner)
    before = {name: p.clone() for name, p in model.named_parameters() if "lora_A" in name}
    model.set_adapter("second")
    model(**batch()).loss.backward()
    for call in (pruner.step, pruner.prune):
        with pytest.raises(RuntimeError, match="made for PEFT's adapter 'first', which is not the active one"):
            call()
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            assert torch.equal(parameter, before[name])


def test_passes_of_another_adapter_are_not_counted():
    model = two_adapters()
    pruner = Pruner(model, interval=10)
    model(**batch()).loss.backward()
    pruner.step()
    alone = {name: pruner.mean_square(name).clone() for name in pruner.layers}
    model.set_adapter("second")
    model(**batch(seed=5)).loss.backward()
    model.set_adapter("first")
    model(**batch()).loss.backward()
    pruner.step()
    for name, mean_square in alone.items():
        torch.testing.assert_close(pruner.mean_square(name), mean_square)


def test_an_adapter_of_a_parameter_has_no_input():
    config = hf.MixtralConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    lora = peft.LoraConfig(r=4, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    model = peft.get_peft_model(hf.MixtralForCausalLM(config), lora)
    with pytest.raises(ValueError, match="leave it out of target_parameters"):
        Pruner(model)


# A module of one's own around the model


def test_the_masks_of_an_encoder_inside_a_module_of_ones_own_are_read():
    torch.manual_seed(0)
    net = Pairs().train()
    adapt(net.encoder, CONFIG)
    whole, inner = Pruner(net), Pruner(net.encoder)
    (a, a_mask), (b, b_mask) = halves(1), halves(2)
    net(a, a_mask, b, b_mask)["loss"].backward()
    real = int(a_mask.sum() + b_mask.sum())
    assert real < a_mask.numel() + b_mask.numel()
    for name, norms in whole.norms.items():
        assert int(norms.tokens) == real
        torch.testing.assert_close(norms.squares, inner.norms[name.removeprefix("encoder.")].squares, rtol=0, atol=0)


class PairsOfTransformers(hf.PreTrainedModel):
    """The same as a class of transformers' kind, whose first mask has the name that its own models give theirs."""

    config_class = hf.BertConfig

    def __init__(self, config):
        super().__init__(config)
        self.text, self.head = hf.BertModel(config), nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids, attention_mask, input_ids_b, attention_mask_b):
        a = self.text(input_ids, attention_mask=attention_mask).pooler_output
        return self.head(a * self.text(input_ids_b, attention_mask=attention_mask_b).pooler_output)


@pytest.mark.parametrize("through_peft", [False, True])
def test_the_second_text_of_a_class_of_ones_own_is_counted_by_its_own_mask(through_peft):
    model = PairsOfTransformers(hf.BertConfig.from_dict(build("bert").config.to_dict()))
    if through_peft:
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "dense"]))
    else:
        adapt(model, CONFIG)
    pruner = Pruner(model.train())
    (a, a_mask), (b, _) = halves(1), halves(2)
    b_mask = torch.ones_like(b)
    model(a, a_mask, b, b_mask).sum().backward()
    tokens = {name: int(norms.tokens) for name, norms in pruner.norms.items() if "layer.0.attention.self" in name}
    assert a_mask.sum() < a_mask.numel()
    assert set(tokens.values()) == {int(a_mask.sum()) + b.numel()}


def test_several_adapted_models_in_one_module_are_refused_by_name():
    net = nn.ModuleDict({"left": build("bert").bert, "right": build("bert").bert})
    for model in net.values():
        adapt(model, CONFIG)
    with pytest.raises(
        ValueError, match=r"holds several models with adapted layers, left, right.*Pruner\(model.left\)"
    ):
        Pruner(net)
    del net["right"]
    assert Pruner(net).layers


class TwoTowers(nn.Module):
    """Each text through an encoder of its own, the first of them frozen."""

    def __init__(self):
        super().__init__()
        self.frozen = build("bert").bert.requires_grad_(False)
        self.encoder = build("bert").bert

    def forward(self, a_ids, a_mask, b_ids, b_mask, labels=None):
        a = self.frozen(a_ids, attention_mask=a_mask).last_hidden_state[:, 0]
        b = self.encoder(b_ids, attention_mask=b_mask).last_hidden_state[:, 0]
        return {"loss": (a - b).square().mean()}


@pytest.mark.parametrize("module", [Pairs, TwoTowers])
def test_the_callback_checkpoints_activations_of_models_inside_a_module_of_ones_own(module, tmp_path):
    torch.manual_seed(0)
    net = module()
    adapt(net.encoder, CONFIG)
    for child in net.children():
        checkpoint_activations(child, reentrant=True)
        child.disable_input_require_grads()  # which transformers 4 does not ask for
    (a, a_mask), (b, b_mask) = halves(1), halves(2)
    rows = [
        {"a_ids": a[i], "a_mask": a_mask[i], "b_ids": b[i], "b_mask": b_mask[i], "labels": 0} for i in range(len(a))
    ]
    options = {"max_steps": 2, "report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    args = TrainingArguments(str(tmp_path), remove_unused_columns=False, **options)
    callback = PRILoRACallback()
    Trainer(net, args, train_dataset=rows, callbacks=[callback]).train()
    assert callback.pruner.steps == 2
    assert callback.pruner.sparsity() == 0.5
    assert all(layer.lora_B.any() for layer in lora_layers(net).values())


# Steps without a token, and without a gradient


def test_a_step_without_a_real_token_leaves_the_statistics_as_they_were():
    model = build("bert").train()
    adapt(model, CONFIG)
    pruner = Pruner(model, interval=10)
    one_step(model, pruner)
    before = {name: pruner.mean_square(name).clone() for name in pruner.layers}
    inputs = batch()
    model(**inputs | {"attention_mask": torch.zeros_like(inputs["attention_mask"])})
    pruner.step()
    assert pruner.steps == 2
    for name, mean_square in before.items():
        assert torch.equal(pruner.mean_square(name), mean_square)
    with pytest.raises(RuntimeError, match="no forward pass in training mode"):
        pruner.step()


def by_gradient(lora_A, gradient):
    return (lora_A * gradient).abs()


@pytest.mark.parametrize("to_none", [True, False])
def test_a_rule_of_the_gradient_sees_it_however_it_is_zeroed(to_none):
    model = build("bert").train()
    adapt(model, CONFIG)
    pruner = Pruner(model, interval=1, importance=by_gradient)
    for layer in pruner.layers.values():
        nn.init.normal_(layer.lora_B)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    model(**batch()).loss.backward()
    expected = {name: (layer.lora_A * layer.lora_A.grad).abs() for name, layer in pruner.layers.items()}
    optimizer.step()
    optimizer.zero_grad(set_to_none=to_none)
    for name in pruner.layers:
        assert torch.equal(pruner.scores(name), expected[name])


def test_a_gradient_that_overflows_leaves_the_one_before():
    model = build("bert").train()
    adapt(model, CONFIG)
    pruner = Pruner(model, interval=1, importance=by_gradient)
    name, layer = next(iter(pruner.layers.items()))
    nn.init.normal_(layer.lora_B)
    model(**batch()).loss.backward()
    before = pruner.scores(name)
    model.zero_grad()
    (model(**batch()).loss * torch.inf).backward()
    assert not layer.lora_A.grad.isfinite().all()
    assert torch.equal(pruner.scores(name), before)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (by_gradient, "no gradient of lora_A of .* has been finite up to step 1"),
        (lambda lora_A: lora_A / 0, "the importance rule gives .* though its lora_A is finite"),
    ],
)
def test_scores_that_are_not_finite_are_told_from_weights_that_are_not(rule, message):
    model = build("bert").train()
    adapt(model, CONFIG)
    pruner = Pruner(model, interval=1, importance=rule)
    loss = model(**batch()).loss
    (loss * torch.inf if rule is by_gradient else loss).backward()
    with pytest.raises(ValueError, match=message):
        pruner.step()


# What is trained beside the layers


def trained_beside(model):
    adapt(model, CONFIG)
    return {name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name}


def test_the_embeddings_and_norms_of_a_model_whose_layers_alone_are_its_base_model_stay_frozen():
    options = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    assert not trained_beside(hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**options, image_size=16, patch_size=4)))
    assert not trained_beside(hf.RoFormerModel(hf.RoFormerConfig(**options, vocab_size=99)))  # "For" begins no head


def test_both_parts_of_mobileberts_output_embedding_stay_frozen():
    config = hf.MobileBertConfig(
        vocab_size=99, hidden_size=24, embedding_size=12, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=40, true_hidden_size=24, intra_bottleneck_size=24,
    )  # fmt: skip
    names = trained_beside(hf.MobileBertForMaskedLM(config))
    assert {name.removeprefix("cls.predictions.transform.").partition(".")[0] for name in names} == {
        "dense", "LayerNorm",
    }  # fmt: skip


@pytest.mark.parametrize("vocabulary", [99, 32])  # 32: as large as the hidden size
def test_a_head_is_trained_whatever_the_size_of_the_vocabulary(vocabulary):
    options = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": 2, "n_head": 2}
    names = trained_beside(hf.GPT2DoubleHeadsModel(hf.GPT2Config(**options)))
    assert names == {"multiple_choice_head.summary.weight", "multiple_choice_head.summary.bias"}


def test_a_pooler_that_a_head_for_tokens_does_not_read_stays_frozen():
    options = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    config = hf.LayoutLMConfig(**options, vocab_size=99)
    assert trained_beside(hf.LayoutLMForTokenClassification(config)) == {"classifier.weight", "classifier.bias"}
    assert "layoutlm.pooler.dense.weight" in trained_beside(hf.LayoutLMForSequenceClassification(config))


# What no adapter reaches, or two would


def test_layers_that_read_relative_positions_are_left_out_of_conformers_and_swin_v2():
    config = hf.Swinv2Config(embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=2, image_size=16, patch_size=2)
    result = adapt(hf.Swinv2ForImageClassification(config), CONFIG)
    assert not any("position_bias" in module.module for module in result.modules)
    assert any("continuous_position_bias_mlp.0 is left out: it reads" in note for note in result.notes)
    conformer = hf.Wav2Vec2ConformerConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, conv_dim=(16,),
        conv_stride=(5,), conv_kernel=(10,), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    result = adapt(hf.Wav2Vec2ConformerForSequenceClassification(conformer), CONFIG)
    names = {module.module for module in result.modules}
    assert "self_attn.linear_q" in names
    assert "self_attn.linear_pos" not in names


def test_layers_that_share_a_weight_are_refused():
    model = build("bert")
    layers = model.bert.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    with pytest.raises(ValueError, match="a shared weight can't have two ranks"):
        adapt(model, CONFIG)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())


def test_a_layer_that_is_tied_to_a_part_outside_the_layers_is_refused_unless_targets_leave_it_out():
    layers = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(8, 8), "up": nn.Linear(8, 20)}) for _ in range(2))
    model = nn.ModuleDict({"layers": layers, "words": nn.Embedding(20, 8)})
    layers[1]["up"].weight = model["words"].weight
    with pytest.raises(ValueError, match=r"layers\.1\.up and words are one weight.*leave the layer out with targets"):
        adapt(model, CONFIG)
    assert len(adapt(model, replace(CONFIG, targets=("q",))).modules) == 2


def test_layers_whose_weights_are_computed_anew_at_each_look_share_none():
    layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(6))
    for layer in layers:
        nn.utils.parametrizations.orthogonal(layer[0])
    stacks, _ = find_stacks(nn.ModuleDict({"layers": layers}))
    assert len(stacks["layers"]) == 6


def fused_mamba(projected, conv, conv_bias, x_proj, dt_proj, out_proj, *others, **more):
    """In place of Mamba's kernel, which needs a GPU: like it, it is given weights, and calls no layer."""
    inner = projected.chunk(2, dim=1)[0].transpose(1, 2)
    dt = (inner @ x_proj.T)[..., : dt_proj.shape[1]] @ dt_proj.T
    return (inner * dt) @ out_proj.T


def fused_mamba2(projected, *others, outproj_weight, **more):
    return projected[..., : outproj_weight.shape[1]] @ outproj_weight.T


FUSED = [("mamba_inner_fn", fused_mamba), ("mamba2_split_conv1d_scan_combined", fused_mamba2)]


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "mamba2"])
def test_layers_whose_weights_mambas_kernels_use_directly_are_left_out(family, kernel, monkeypatch):
    config = hf.AutoConfig.for_model(
        family, vocab_size=99, hidden_size=24, num_hidden_layers=2, state_size=8,
        **({"num_heads": 6, "head_dim": 8, "n_groups": 2, "chunk_size": 4} if family == "mamba2" else {}),
    )  # fmt: skip
    model = hf.AutoModelForCausalLM.from_config(config).train()
    if kernel:
        code = importlib.import_module(type(model).__module__)
        monkeypatch.setattr(code, *FUSED[family == "mamba2"])
    result = adapt(model, PRILoRAConfig.lora(1))
    assert "mixer.out_proj is left out: Mamba's kernels use its weight directly" in repr(result)
    ids = torch.randint(3, 99, (2, 6))
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(gradient is not None and gradient.any() for gradient in gradients)


def test_a_model_that_could_be_a_mixture_of_experts_and_is_dense_is_adapted():
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    doge = hf.DogeModel(hf.DogeConfig(**small, vocab_size=99))
    assert doge.config.num_experts > 1
    assert not doge.config.is_moe
    names = {module.module for module in adapt(doge, PRILoRAConfig.lora(1)).modules}
    assert "self_attn.dt_proj" in names  # which Doge calls, other than Mamba's of that name
    one = {"num_experts": 1, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False, "vocab_size": 99}
    jamba = hf.JambaModel(hf.JambaConfig(**small, **one, num_key_value_heads=2))
    assert adapt(jamba, PRILoRAConfig.lora(1)).ranks == [1, 1]


def test_torchs_attention_is_refused_in_the_layers_and_not_in_siglips_pooling_above_them():
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**small, image_size=16, patch_size=4))
    assert any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    assert adapt(model, CONFIG).ranks == [2, 4]
    with pytest.raises(ValueError, match=r"layers\.0 is torch's nn\.MultiheadAttention"):
        adapt(nn.ModuleDict({"layers": nn.ModuleList([nn.MultiheadAttention(8, 2)])}), CONFIG)


def test_rwkv_is_refused_while_it_divides_weights_in_evaluation_and_then_computes_what_it_does_in_training():
    torch.manual_seed(0)
    model = hf.RwkvForCausalLM(hf.RwkvConfig(vocab_size=99, hidden_size=24, num_hidden_layers=4, rescale_every=2))
    with pytest.raises(ValueError, match=r"set model\.config\.rescale_every = 0"):
        adapt(model, CONFIG)
    model.config.rescale_every = 0
    adapt(model, CONFIG)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    ids = torch.randint(3, 99, (2, 7))
    torch.testing.assert_close(model.eval()(ids).logits, model.train()(ids).logits)


def test_wavlm_hands_its_weights_past_the_layers():
    config = hf.WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16,),
        conv_stride=(5,), conv_kernel=(10,), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="without calling the layers"):
        adapt(hf.WavLMForSequenceClassification(config), CONFIG)


def test_a_layer_whose_name_only_ends_like_one_of_positions_is_adapted():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.compos_proj, self.pos_proj = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Layer()])})
    adapt(model, PRILoRAConfig.lora(2))
    assert [name for name, m in model.named_modules() if isinstance(m, LoRALinear)] == ["layers.0.compos_proj"]


@pytest.mark.parametrize("nested", [False, True])
def test_all_beside_the_one_model_inside_is_the_head_at_any_depth(nested):
    config = hf.ElectraConfig(
        vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=20,
    )  # fmt: skip

    class Own(hf.PreTrainedModel):
        config_class = hf.ElectraConfig

        def __init__(self, config):
            super().__init__(config)
            inner = hf.ElectraModel(config)
            self.text = torch.nn.ModuleDict({"inner": inner}) if nested else inner
            self.score = torch.nn.Linear(16, 2)
            self.post_init()

    model = Own(config)
    adapt(model, PRILoRAConfig.lora(2))
    trained = [name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name]
    assert trained == ["score.weight", "score.bias"]


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.auto_model = build("bert").bert


def test_a_part_in_a_numbered_place_is_named_as_python_takes_it(tmp_path):
    """As in a SentenceTransformer, which is an nn.Sequential."""
    model, fresh = (nn.Sequential(Features(), nn.Identity()) for _ in range(2))
    with pytest.raises(ValueError, match=re.escape("adapt(model[0].auto_model, config)")):
        adapt(model, CONFIG)
    adapt(model[0].auto_model, CONFIG)
    with pytest.raises(ValueError, match=re.escape("give that part, model[0].auto_model, in place of the model")):
        save_adapter(model, tmp_path / "a.safetensors")
    save_adapter(model[0].auto_model, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=re.escape("give model[0].auto_model in its place")):
        load_adapter(fresh, tmp_path / "a.safetensors")
