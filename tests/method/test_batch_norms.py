"""What batch norms keep of their inputs is moved by training, frozen or not: adapters without it give other logits."""

import pytest
import torch
import transformers as hf
from torch import nn

from prilora_lite import (
    PRILoRAConfig,
    Pruner,
    adapt,
    load_adapter,
    load_peft_adapter,
    merge_and_unload,
    save_adapter,
    save_peft_adapter,
)
from prilora_lite.fingerprint import running_statistics
from tests.small_models import batch, build

CONFIG = PRILoRAConfig(first_rank=2, last_rank=4, interval=2)
FOUR = {"depths": [1] * 4, "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 1, 2, 2], "num_labels": 3}
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
SPEECH = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "conv_depthwise_kernel_size": 3}


def segformer():
    config = hf.SegformerConfig(**FOUR, decoder_hidden_size=16)
    return hf.SegformerForSemanticSegmentation(config), {"pixel_values": torch.randn(2, 3, 64, 64)}


def conformer():
    config = hf.Wav2Vec2ConformerConfig(
        **SMALL, **SPEECH, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, mask_time_prob=0.0
    )
    return hf.Wav2Vec2ConformerForSequenceClassification(config), {"input_values": torch.randn(2, 400)}


def in_the_head():
    model = build("bert")
    model.classifier = nn.Sequential(nn.BatchNorm1d(24), model.classifier)
    return model, {name: value for name, value in batch().items() if name != "labels"}


def in_the_backbone():
    model = build("bert")
    model.bert.embeddings.LayerNorm = OverTokens(24)
    return model, {name: value for name, value in batch().items() if name != "labels"}


class OverTokens(nn.BatchNorm1d):
    """A batch norm over all tokens."""

    def forward(self, x):
        return super().forward(x.flatten(0, -2)).view_as(x)


MODELS = {"SegFormer": segformer, "Conformer": conformer, "head": in_the_head, "backbone": in_the_backbone}
INSIDE = ("Conformer", "backbone")  # in these a batch norm stands outside the head


def base(name):
    torch.manual_seed(0)
    return MODELS[name]()


@pytest.fixture(params=MODELS)
def trained(request):
    model, inputs = base(request.param)
    adapt(model, CONFIG)
    pruner = Pruner(model.train())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(**inputs).logits.square().mean().backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    pruner.detach()
    return request.param, model.eval(), inputs


@torch.no_grad()
def logits(model, inputs):
    return model.eval()(**inputs).logits


def test_training_moves_the_statistics(trained):
    """Else the tests below would show nothing."""
    name, model, _ = trained
    before, after = running_statistics(base(name)[0]), running_statistics(model)
    assert after
    assert any(not torch.equal(before[key], value) for key, value in after.items())


def test_a_loaded_adapter_gives_the_same_logits(trained, tmp_path):
    name, model, inputs = trained
    fresh, _ = base(name)
    load_adapter(fresh, save_adapter(model, tmp_path / "adapter.safetensors"))
    assert torch.equal(logits(fresh, inputs), logits(model, inputs))


def test_so_does_one_in_pefts_format_or_it_is_refused(trained, tmp_path):
    from peft import PeftModel

    name, model, inputs = trained
    if name in INSIDE:
        with pytest.raises(ValueError, match=r"training has moved .*, which is in no head"):
            save_peft_adapter(model, tmp_path / "peft")
        return
    save_peft_adapter(model, tmp_path / "peft")
    ours, _ = base(name)
    load_peft_adapter(ours, tmp_path / "peft")
    assert torch.equal(logits(ours, inputs), logits(model, inputs))
    theirs = PeftModel.from_pretrained(base(name)[0], tmp_path / "peft")
    torch.testing.assert_close(logits(theirs, inputs), logits(model, inputs), rtol=1e-5, atol=1e-6)


def test_a_merged_model_has_them(trained):
    _, model, inputs = trained
    expected = logits(model, inputs)
    torch.testing.assert_close(logits(merge_and_unload(model), inputs), expected, rtol=1e-4, atol=1e-5)


def test_a_file_without_them_is_refused(tmp_path):
    """As an earlier version wrote it."""
    model, _ = base("head")
    path = tmp_path / "adapter.safetensors"
    plain = build("bert")
    adapt(plain, CONFIG)
    save_adapter(plain, path)
    with pytest.raises(ValueError, match="classifier"):
        load_adapter(model, path)


@pytest.mark.parametrize("name", ["bert", "deberta_v2", "gpt2", "llama"])
def test_models_without_batch_norms_store_what_they_did(name):
    assert running_statistics(build(name)) == {}
