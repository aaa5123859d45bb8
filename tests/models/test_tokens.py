"""Each layer's statistic is that of its own input, in every architecture of the table and in some outside it."""

import warnings

import pytest
import torch
import transformers as hf
from torch import nn

from prilora_lite import PRILoRAConfig, Pruner, adapt
from tests.architectures import CASES, build_with, inputs
from tests.small_models import batch, build

CONFIG = PRILoRAConfig(first_rank=2, last_rank=4)
FOUR = {"depths": [1] * 4, "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 1, 2, 2], "num_labels": 2}
SEAMLESS = {"layers": 2, "attention_heads": 2, "ffn_dim": 40}
PIXELS = {"pixel_values": (2, 3, 64, 64)}


def detr():
    backbone = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = hf.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, backbone=None, use_pretrained_backbone=False, d_model=24,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5,
        encoder_ffn_dim=40, decoder_ffn_dim=40, num_labels=2,
    )  # fmt: skip
    return hf.DetrForObjectDetection(config)


def sam():
    vision = hf.SamVisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_dim=40, image_size=32, patch_size=8,
        output_channels=8, global_attn_indexes=[0, 1], window_size=0,
    )  # fmt: skip
    return hf.SamVisionModel(vision)


def rwkv():
    return hf.RwkvForCausalLM(hf.RwkvConfig(vocab_size=99, hidden_size=32, num_hidden_layers=3))


OTHERS = {
    "SegFormer": (lambda: hf.SegformerForImageClassification(hf.SegformerConfig(**FOUR, drop_path_rate=0.0)), PIXELS),
    "PVT": (lambda: hf.PvtForImageClassification(hf.PvtConfig(image_size=64, **FOUR)), PIXELS),
    "PVTv2": (lambda: hf.PvtV2ForImageClassification(hf.PvtV2Config(image_size=64, **FOUR)), PIXELS),
    "RWKV": (rwkv, {"input_ids": (2, 8)}),
    "DETR": (detr, PIXELS),
    "SAM": (sam, {"pixel_values": (2, 3, 32, 32)}),
}


def assert_own_statistics(model, rows, mask_of):
    """Run one training pass of an adapted model, and compare each statistic with the input that the layer had."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    pruner, calls = Pruner(model.train()), {}
    for name in pruner.layers:
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: calls.setdefault(name, []).append(args[0].detach())
        )
    model(**rows)
    pruner.step()
    assert calls
    for name, xs in calls.items():
        x, mask = xs[0], mask_of(name)  # DeBERTa's query and key are called again, on positions
        if mask is not None and x.numel() // x.shape[-1] == mask.numel():
            x = x.reshape(*mask.shape, -1)[mask.bool()]
        expected = x.double().flatten(0, -2).square().mean(0).to(x)
        torch.testing.assert_close(pruner.mean_square(name), expected, rtol=1e-5, atol=1e-9)
    return calls


@pytest.mark.parametrize(("architecture", "head"), CASES, ids=lambda value: getattr(value, "name", value))
def test_each_layer_of_the_table_counts_its_own_input(architecture, head):
    model = build_with(architecture, head)
    adapt(model, CONFIG)
    rows = inputs(architecture, head)

    def mask_of(name):
        decoder = architecture.name == "T5" and name.startswith(("decoder", "transformer.decoder"))
        if decoder and not name.endswith(("EncDecAttention.k", "EncDecAttention.v")):
            return rows.get("decoder_attention_mask", torch.ones_like(rows["attention_mask"]))
        return rows.get("attention_mask")

    if architecture.name == "T5" and "decoder_attention_mask" not in rows:
        rows["decoder_attention_mask"] = torch.ones_like(rows["attention_mask"])
    assert_own_statistics(model, rows, mask_of)


class Own(nn.Module):
    """A model of one's own, whose mask has a name of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16, padding_idx=0)
        self.blocks = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(16, 16)}) for _ in range(2))

    def forward(self, input_ids, mask=None):
        x = self.embed(input_ids)
        for block in self.blocks:
            x = x + block["q"](x)
        return x


class Called(Own):
    """The same, with the arguments of its forward under other names."""

    def __init__(self, *names):
        super().__init__()
        given = ", ".join(names)
        namespace = {}
        exec(f"def forward(self, {given}): return super(Called, self).forward({names[0]})", globals(), namespace)
        self.forward = namespace["forward"].__get__(self)


IDS = torch.tensor([[3, 4, 0], [5, 0, 0]])


def counted(model, *args, **kwargs):
    """How many tokens each layer counts in one pass."""
    adapt(model, CONFIG)
    pruner = Pruner(model.train())
    model(*args, **kwargs)
    return {int(norm.tokens) for norm in pruner.norms.values()}


@pytest.mark.parametrize("name", ["src_mask", "attn_masks", "attention_mask_a", "tokens_masked"])
def test_any_name_with_a_mask_in_it_is_warned_of(name):
    with pytest.warns(UserWarning, match=rf"attention_mask, and Called.forward has {name}: all tokens count") as warned:
        assert counted(Called("ids", name), IDS, IDS > 0) == {6}
    assert warned[0].filename == __file__  # the line of the user's, not one of torch's


@pytest.mark.parametrize("name", ["head_mask", "decoder_attention_mask", "cross_attn_mask"])
def test_the_mask_of_something_else_is_not_warned_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counted(Called("ids", name), IDS, IDS > 0)


@pytest.mark.parametrize("kind", [dict, hf.BatchEncoding])
def test_the_mask_in_a_batch_that_is_the_one_argument_is_read(kind):
    class OfBatches(Own):
        def forward(self, batch):
            return super().forward(batch["input_ids"])

    assert counted(OfBatches(), kind({"input_ids": IDS, "attention_mask": (IDS > 0).long()})) == {3}


@pytest.mark.parametrize("mask", [(IDS > 0).float(), (IDS == 0) * -1e4, (IDS == 0) * float("-inf")])
def test_a_mask_of_floats_is_read_as_one_or_as_what_is_added_to_the_scores(mask):
    mask = mask.nan_to_num(0.0, neginf=float("-inf"))
    assert counted(Called("ids", "attention_mask"), IDS, mask) == {3}


@pytest.mark.parametrize("architecture", ["bert", "llama"])
@pytest.mark.parametrize("kind", ["keys", "keys, added to the scores", "one for all rows"])
def test_a_mask_that_attention_broadcasts_counts_as_the_whole_one_does(architecture, kind):
    def means(mask):
        adapt(model := build(architecture), CONFIG)
        pruner = Pruner(model.train(), interval=100)
        torch.manual_seed(0)  # of dropout
        model(**batch() | {"attention_mask": mask}).loss.backward()
        pruner.step()
        return torch.cat([norm.mean_square for norm in pruner.norms.values()])

    rows, tokens = batch()["attention_mask"].shape
    mask = batch()["attention_mask"].bool()[:, None, None, :]
    if kind == "keys, added to the scores":
        mask = ~mask * -1e9
    elif kind == "one for all rows":
        mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()
    assert torch.equal(means(mask), means(mask.expand(rows, 1, tokens, tokens)))


def test_a_mask_of_floats_that_is_added_may_pad_nothing():
    assert counted(Called("ids", "attention_mask"), IDS, torch.zeros(2, 3)) == {6}


def test_projections_called_as_debertas_are_in_another_model_count_all_their_calls():
    class Twins(Own):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(
                nn.ModuleDict({"query_proj": nn.Linear(16, 16), "value_proj": nn.Linear(16, 16)}) for _ in range(2)
            )

        def forward(self, first, second):
            for ids in (first, second):
                x = self.embed(ids)
                for block in self.blocks:
                    x = x + block["query_proj"](x) + block["value_proj"](x)

    assert counted(Twins(), IDS, IDS[:, :2]) == {6 + 4}


def test_a_mask_under_another_name_is_warned_of_once():
    model = Own()
    adapt(model, CONFIG)
    Pruner(model.train())
    ids = torch.tensor([[3, 4, 0], [5, 6, 7]])
    with pytest.warns(UserWarning, match=r"called attention_mask, and Own.forward has mask: all tokens count"):
        model(ids, mask=ids > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(ids, mask=ids > 0)


class OwnPairs(Own):
    """The same with two texts, the first mask under the name that is read."""

    def forward(self, input_ids, attention_mask=None, input_ids_b=None, attention_mask_b=None):
        return super().forward(input_ids) + super().forward(input_ids_b)


def test_a_second_mask_beside_the_one_that_is_read_is_warned_of():
    model = OwnPairs()
    adapt(model, CONFIG)
    Pruner(model.train())
    ids = torch.tensor([[3, 4, 0], [5, 6, 7]])
    with pytest.warns(UserWarning, match=r"called attention_mask, and OwnPairs.forward has attention_mask_b: all"):
        model(ids, ids > 0, ids, ids > 0)


class WithDecoder(Own):
    """A model of one's own whose output layer is called as OPT's stack of layers is."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(16, 50)

    def forward(self, input_ids, attention_mask=None):
        return self.decoder(super().forward(input_ids))


def test_a_mask_comes_into_the_whole_module_where_its_decoder_is_an_output_layer():
    model, mask = WithDecoder(), torch.tensor([[1, 1, 0], [1, 1, 1]])
    adapt(model, CONFIG)
    assert_own_statistics(model, {"input_ids": torch.randint(50, (2, 3)), "attention_mask": mask}, lambda name: mask)


def test_the_padded_patches_of_siglip_2_are_warned_of():
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    model = hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**small, patch_size=4, num_patches=16, vision_use_head=False))
    adapt(model, CONFIG)
    Pruner(model.train())
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, 6:] = 0
    with pytest.warns(UserWarning, match="forward has pixel_attention_mask: all tokens count"):
        model(torch.randn(2, 16, 48), pixel_attention_mask=mask, spatial_shapes=torch.tensor([[4, 4], [3, 2]]))


@pytest.mark.parametrize("mask", [None, torch.ones(3, 3), torch.ones(2, 3, 16)], ids=["none", "causal", "of entries"])
def test_no_mask_and_masks_of_other_things_than_tokens_are_not_warned_of(mask):
    model = Own()
    adapt(model, CONFIG)
    Pruner(model.train())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.tensor([[3, 4, 5], [5, 6, 7]]), mask=mask)


def test_a_mask_that_the_model_is_given_and_its_backbone_is_not_tells_padding():
    torch.manual_seed(0)
    model = rwkv()
    adapt(model, CONFIG)
    mask = torch.tensor([[1] * 8, [1] * 3 + [0] * 5])
    assert_own_statistics(model, {"input_ids": torch.randint(3, 99, (2, 8)), "attention_mask": mask}, lambda name: mask)


def whisper():
    small = {"d_model": 24, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "vocab_size": 99, "pad_token_id": 0}
    small |= {f"{stack}_{what}": 2 for stack in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    options = {"num_mel_bins": 8, "max_source_positions": 16, "bos_token_id": 1, "eos_token_id": 2}
    return hf.WhisperForConditionalGeneration(hf.WhisperConfig(**small, **options, decoder_start_token_id=1))


def test_a_mask_that_does_not_reach_the_layers_and_does_not_fit_their_inputs_is_warned_of_once():
    torch.manual_seed(0)
    model, plain = whisper(), whisper()
    adapt(model, CONFIG)
    adapt(plain, CONFIG)
    rows = {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": torch.randint(3, 99, (2, 5))}
    mask = torch.ones(2, 32, dtype=torch.long)
    mask[1, 8:] = 0
    with pytest.warns(UserWarning, match=r"attention_mask of \(2, 32\) .* does not reach its layers") as warned:
        assert_own_statistics(model, rows | {"attention_mask": mask}, lambda name: None)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_own_statistics(plain, rows, lambda name: None)


def test_pix2structs_cross_attention_counts_the_patches_of_the_encoder():
    torch.manual_seed(0)
    text = {"vocab_size": 99, "hidden_size": 24, "d_kv": 12, "d_ff": 40, "num_layers": 2, "num_heads": 2}
    vision = {"hidden_size": 24, "patch_embed_hidden_size": 12, "d_ff": 40, "d_kv": 12, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "seq_len": 8}
    config = hf.Pix2StructConfig(text_config=text, vision_config=vision, hidden_size=24)
    model = hf.Pix2StructForConditionalGeneration(config)
    adapt(model, CONFIG)
    patches, tokens = torch.ones(2, 8, dtype=torch.long), torch.ones(2, 6, dtype=torch.long)
    patches[0, 3:], tokens[1, 4:] = 0, 0
    rows = {"flattened_patches": torch.cat([torch.ones(2, 8, 2), torch.randn(2, 8, 12)], -1), "attention_mask": patches}
    rows |= {"decoder_input_ids": torch.randint(3, 99, (2, 6)), "decoder_attention_mask": tokens}
    of_patches = ("encoder_decoder_attention.attention.key", "encoder_decoder_attention.attention.value")
    assert_own_statistics(
        model, rows, lambda name: patches if name.startswith("encoder") or name.endswith(of_patches) else tokens
    )


def test_a_decoder_that_is_adapted_by_itself_counts_its_own_tokens_and_those_of_the_encoder():
    torch.manual_seed(0)
    options = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in SEAMLESS.items()}
    config = hf.SeamlessM4TConfig(vocab_size=99, hidden_size=24, pad_token_id=0, **options)
    model = hf.SeamlessM4TForTextToText(config).requires_grad_(False)
    adapt(model.text_decoder.layers, CONFIG)
    source, target = torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long)
    source[0, 2:], target[1, 7:] = 0, 0
    ids = torch.randint(3, 99, (2, 8))
    rows = {"input_ids": ids, "attention_mask": source, "decoder_input_ids": ids, "decoder_attention_mask": target}
    of_source = ("cross_attention.k_proj", "cross_attention.v_proj")
    assert_own_statistics(model, rows, lambda name: source if name.endswith(of_source) else target)


def test_a_mask_counts_in_its_own_pass_alone_where_the_encoder_was_called_before():
    torch.manual_seed(0)
    model = hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=99, d_model=24, d_kv=12, d_ff=40, num_layers=2, num_heads=2, decoder_start_token_id=0)
    )
    adapt(model, CONFIG)
    pruner, mask = Pruner(model.train()), torch.ones(2, 6, dtype=torch.long)
    mask[1, 1:] = 0
    for counted in (12, 24):
        ids = torch.randint(3, 99, (2, 6))
        outputs = model.encoder(input_ids=ids)  # nothing is padded here
        model(encoder_outputs=outputs, attention_mask=mask, decoder_input_ids=ids)
        assert pruner.norms["encoder.block.0.layer.0.SelfAttention.q"].tokens == counted


def test_rows_that_a_model_pads_itself_are_refused_with_the_way_out():
    torch.manual_seed(0)
    config = hf.BigBirdConfig(
        vocab_size=99, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, block_size=4,
        num_random_blocks=1,
    )  # fmt: skip
    model = hf.BigBirdForSequenceClassification(config)
    adapt(model, CONFIG)
    pruner = Pruner(model.train())
    rows = {"input_ids": torch.randint(3, 99, (2, 71)), "attention_mask": torch.ones(2, 71, dtype=torch.long)}
    with pytest.raises(ValueError, match="as BigBird does, give the collator its pad_to_multiple_of"):
        model(**rows)
    padded = {name: nn.functional.pad(value, (0, 1)) for name, value in rows.items()}
    model(**padded)
    assert pruner.norms["bert.encoder.layer.1.attention.self.query"].tokens == 142


def test_a_decoder_without_a_padding_token_is_padded_with_the_whole_models():
    torch.manual_seed(0)
    vision = hf.ViTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40
    )
    text = hf.GPT2Config(vocab_size=99, n_embd=24, n_layer=2, n_head=2)
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.pad_token_id, config.decoder_start_token_id = 0, 1
    model = hf.VisionEncoderDecoderModel(config=config)
    adapt(model, CONFIG)
    labels = torch.randint(3, 99, (2, 8))
    labels[1, 3:] = -100
    real = torch.ones(2, 8, dtype=torch.long)
    real[1, 4:] = 0  # the first token, and three labels
    reads_patches = ("crossattention.c_attn",)
    rows = {"pixel_values": torch.randn(2, 3, 16, 16), "labels": labels}
    own = lambda name: name.startswith("decoder") and not name.endswith(reads_patches)  # noqa: E731
    assert_own_statistics(model, rows, lambda name: real if own(name) else None)


@pytest.mark.parametrize("name", OTHERS)
def test_each_layer_of_models_outside_the_table_counts_its_own_input(name):
    make, shapes = OTHERS[name]
    torch.manual_seed(0)
    model = make()
    adapt(model, CONFIG)
    rows = {what: torch.randint(1, 99, s) if what == "input_ids" else torch.randn(s) for what, s in shapes.items()}
    calls = assert_own_statistics(model, rows, lambda name: None)
    children = {name.rpartition(".")[0]: {} for name in calls}
    for layer, xs in calls.items():
        children[layer.rpartition(".")[0]][layer] = xs[0]
    if name != "SAM":  # SAM has one matrix for query, key and value: it shares nothing that could be mistaken
        assert any(  # else this test shows nothing: some neighbours of one width read different inputs
            a.shape[-1] == b.shape[-1] and (a.shape != b.shape or not torch.equal(a, b))
            for inside in children.values() for a in inside.values() for b in inside.values()
        )  # fmt: skip


@pytest.mark.parametrize("name", ["encoder_of_pairs", "cross_encoder"])
def test_what_a_model_is_called_inside_ones_own_does_not_matter(name):
    config = hf.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    )

    class Pair(hf.PreTrainedModel):
        config_class = hf.BertConfig

        def __init__(self, config):
            super().__init__(config)
            setattr(self, name, hf.BertModel(config))
            self.score = torch.nn.Linear(16, 2)
            self.post_init()

        def forward(self, input_ids, attention_mask=None):
            return self.score(getattr(self, name)(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0])

    model = Pair(config)
    adapt(model, PRILoRAConfig.lora(2, ratio=0.5))
    pruner = Pruner(model.train())
    mask = torch.ones(4, 10, dtype=torch.long)
    mask[:, 5:] = 0
    model(torch.randint(1, 50, (4, 10)), attention_mask=mask).sum().backward()
    assert {float(norms.tokens) for norms in pruner.norms.values()} == {20.0}
