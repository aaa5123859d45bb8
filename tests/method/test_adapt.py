import copy
import dataclasses
import re

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from prilora_lite import LoRALinear, PRILoRAConfig, Pruner, adapt, linear_ranks, merge_and_unload, report
from prilora_lite.models.layers import lora_layers
from tests.small_models import BUILDERS, HIDDEN, INNER, LAYERS, batch, build

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5)
architectures = pytest.mark.parametrize("name", BUILDERS)

# Shapes (out, in) of the linear layers in one layer of each, as the papers of these models have them
H, I = HIDDEN, INNER
SIX = {(H, H): 4, (I, H): 1, (H, I): 1}
SHAPES = {
    "bert": SIX, "roberta": SIX, "electra": SIX, "distilbert": SIX, "deberta_v2": SIX,
    "gpt2": {(3 * H, H): 1, (H, H): 1, (I, H): 1, (H, I): 1},
    "llama": {(H, H): 2, (H // 2, H): 2, (I, H): 2, (H, I): 1},
    "modernbert": {(3 * H, H): 1, (H, H): 1, (2 * I, H): 1, (H, I): 1},
}  # fmt: skip


@architectures
def test_every_linear_layer_of_every_layer_gets_the_scheduled_rank(name):
    model = build(name)
    result = adapt(model, CONFIG)
    assert result.ranks == linear_ranks(LAYERS, 2, 5)
    for layer, rank in enumerate(linear_ranks(LAYERS, 2, 5)):
        modules = [module for module in result.modules if module.layer == layer]
        shapes = [module.shape for module in modules]
        assert {shape: shapes.count(shape) for shape in shapes} == SHAPES[name]
        assert {module.rank for module in modules} == {rank}
    cost = sum((m + n) * count for (m, n), count in SHAPES[name].items())
    assert result.adapter == cost * sum(linear_ranks(LAYERS, 2, 5))


@architectures
def test_chosen_layers_alone_are_adapted_with_the_ranks_of_the_whole_schedule(name):
    everywhere = adapt(build(name), CONFIG)
    result = adapt(build(name), dataclasses.replace(CONFIG, layers=(1,)))
    assert result.modules == tuple(module for module in everywhere.modules if module.layer == 1)
    assert result.notes == (f"only layers 1 of {LAYERS} are adapted",)


def test_a_function_for_the_ranks_is_asked_once():
    ranks = iter([3, 4, 1, 2, 2, 5, 3, 1])
    config = PRILoRAConfig(ranks=lambda depth: next(ranks))
    result = adapt(model := build("bert"), config)
    assert model.prilora_config.ranks == tuple(result.ranks) == (3, 4, 1, 2)[:LAYERS]


def test_a_layer_that_is_not_there_is_named():
    model = build("bert")
    with pytest.raises(ValueError, match=rf"layers has \[7\], but this model's {LAYERS} layers are 0 to {LAYERS - 1}"):
        adapt(model, PRILoRAConfig(layers=(0, 7)))
    assert not hasattr(model, "prilora_config")


@architectures
def test_an_adapted_model_starts_as_its_base_bit_for_bit(name):
    model = build(name)
    before = model(**batch()).logits
    adapt(model, CONFIG)
    assert torch.equal(model(**batch()).logits, before)


@architectures
def test_training_moves_adapter_and_head_and_nothing_else(name):
    model = build(name).train()
    adapt(model, CONFIG)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for seed in range(2):
        model(**batch(seed=seed)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    backbone = dict(model.base_model.named_parameters(prefix=model.base_model_prefix))
    for key, value in model.state_dict().items():
        moves = "lora_" in key or "pooler" in key or key not in backbone
        assert torch.equal(value, before[key]) != moves, key


@architectures
def test_merge_and_unload_gives_back_a_plain_model(name):
    model = build(name)
    plain = build(name)
    adapt(model, CONFIG)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_B, std=0.05)
    adapted = model(**batch()).logits
    assert not torch.allclose(adapted, plain(**batch()).logits, atol=1e-4)
    unloaded = merge_and_unload(model)
    assert unloaded is model
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert not any(hasattr(module, "prilora_config") for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(**batch()).logits, adapted, rtol=1e-5, atol=1e-5)
    adapt(model, CONFIG)  # and can be adapted anew


def test_pooler_and_head_are_trained():
    model = build("bert")
    adapt(model, CONFIG)
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}
    head = {"classifier.weight", "classifier.bias"}
    assert trained == head | {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


@pytest.mark.parametrize("tied", [True, False])
def test_output_embeddings_stay_frozen(tied):
    config = copy.deepcopy(build("gpt2").config)
    config.tie_word_embeddings = tied
    model = hf.GPT2LMHeadModel(config)
    assert adapt(model, CONFIG).head == 0
    assert not model.lm_head.weight.requires_grad


def test_a_bare_encoder_is_adapted_too():
    result = adapt(build("bert").bert, CONFIG)
    assert result.ranks == [2, 3, 4, 5]


def test_one_stack_of_an_encoder_decoder_can_be_adapted_by_itself():
    config = hf.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2, vocab_size=50)
    model = hf.T5ForConditionalGeneration(config)
    assert adapt(model.encoder, PRILoRAConfig(first_rank=1, last_rank=3)).ranks == [1, 2, 3]


def encoder_decoder():
    config = hf.T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=4, num_heads=2, vocab_size=50,
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(config)


class Own(nn.Module):
    """A model of one's own: embeddings, layers, and what stands beside them."""

    def __init__(self):
        super().__init__()
        self.embed, self.stem, self.place = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Parameter(torch.zeros(8))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))
        self.norm, self.classifier = nn.LayerNorm(8), nn.Linear(8, 2)


class OwnForText(Own):
    pass


@pytest.mark.parametrize("kind", [Own, OwnForText])
def test_the_head_of_a_module_of_ones_own_is_trained_and_named_whatever_the_class_is_called(kind):
    result = adapt(model := kind(), PRILoRAConfig(first_rank=2, last_rank=4))
    beside = [n for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n]
    assert {name.split(".")[0] for name in beside} == {"stem", "place", "norm", "classifier"}
    assert "classifier (18 parameters) stands beside the layers and is trained, as a head" in result.notes
    assert len(result.notes) == 4


class InOneSequence(nn.Module):
    """Its stem and its head have numbers, as its layers have."""

    def __init__(self, layers):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), *layers, nn.LayerNorm(8), nn.Linear(8, 2))


def test_what_stands_before_and_after_the_layers_of_one_sequence_is_trained_and_named():
    layers = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)]
    result = adapt(model := InOneSequence(layers), PRILoRAConfig(first_rank=2, last_rank=4))
    beside = {n.rpartition(".")[0] for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n}
    assert beside == {"net.0", "net.4", "net.5"}
    assert [layer.rank for layer in lora_layers(model).values()] == [2, 3, 4]
    assert "net.5 (18 parameters) stands beside the layers and is trained, as a head" in result.notes


def test_layers_inside_the_only_numbered_layer_are_refused_with_the_way_out():
    encoder = nn.Module()
    encoder.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))
    with pytest.raises(
        ValueError, match=r"is net\.1, and it holds 3 numbered layers, net\.1\.layers\.0 .* of net names"
    ):
        adapt(InOneSequence([encoder]), PRILoRAConfig())


class Wrapped(nn.Module):
    """Such a model inside another module, whose encoder has a norm of its own."""

    def __init__(self):
        super().__init__()
        self.model = Own()
        self.model.encoder = nn.ModuleDict({"blocks": self.model.blocks, "norm": nn.LayerNorm(8)})
        del self.model.blocks


class ManyTasks(Own):
    """Such a model with a head for each task."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.ModuleList([nn.Linear(8, 2), nn.Linear(8, 3)])


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (Wrapped, {"model.stem", "model.place", "model.norm", "model.classifier", "model.encoder.norm"}),
        (ManyTasks, {"stem", "place", "norm", "classifier"}),
    ],
)
def test_what_stands_outside_the_layers_is_trained_wherever_it_stands(kind, parts):
    model = kind()
    layers = (model.model.encoder["blocks"] if kind is Wrapped else model.blocks).named_parameters()
    frozen = {id(p) for _, p in layers} | {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    result = adapt(model, PRILoRAConfig(first_rank=2, last_rank=4))
    assert {note.partition(" (")[0] for note in result.notes} == parts
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) not in frozen), name


@pytest.mark.parametrize("name", ["Judge", "JudgeForText"])
@pytest.mark.parametrize("base", [hf.BertPreTrainedModel, hf.PreTrainedModel])
def test_the_head_of_a_class_of_ones_own_that_holds_a_model_of_transformers_is_trained_with_its_pooler(base, name):
    def init(self, config):
        base.__init__(self, config)
        self.text = hf.BertModel(config)
        self.judge = nn.Linear(24, 2)

    model = type(name, (base,), {"__init__": init, "config_class": hf.BertConfig})(
        hf.BertConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, vocab_size=50)
    )
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=4))
    trained = {name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name}
    assert {name.rpartition(".")[0] for name in trained} == {"text.pooler.dense", "judge"}


def test_the_head_of_a_pretrained_model_written_from_scratch_is_what_stands_beside_its_layers():
    class Scratch(hf.PreTrainedModel):
        config_class = hf.BertConfig

        def __init__(self, config):
            super().__init__(config)
            self.own = Own()

    result = adapt(Scratch(hf.BertConfig()), PRILoRAConfig(first_rank=2, last_rank=4))
    assert "own.classifier (18 parameters) stands beside the layers and is trained, as a head" in result.notes


def test_a_head_that_shares_the_embeddings_weight_stays_frozen():
    model = Own()
    model.classifier = nn.Linear(8, 50, bias=False)
    model.classifier.weight = model.embed.weight
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=4))
    assert not model.classifier.weight.requires_grad


def test_what_is_said_of_several_stacks_adapts_one_and_trains_its_adapter_and_the_head():
    small = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 3}
    config = hf.CanineConfig(**small, num_hash_buckets=8, max_position_embeddings=16)
    model = hf.CanineForSequenceClassification(config)
    with pytest.raises(ValueError, match="more than one stack of layers") as refusal:
        adapt(model)
    (stack,) = re.findall(r"requires_grad_\(False\), then adapt\(model\.(\S+), config\)", str(refusal.value))
    model.requires_grad_(False)
    adapt(model.get_submodule(stack), PRILoRAConfig(first_rank=2, last_rank=4))
    model.classifier.requires_grad_(True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if ".lora_" in n or n.startswith("classifier.")}


def test_each_stack_of_an_encoder_decoder_has_a_schedule_of_its_own():
    result = adapt(encoder_decoder(), PRILoRAConfig(first_rank=2, last_rank=5))
    assert result.ranks == [2, 5, *linear_ranks(4, 2, 5)]
    scalings = {(module.stack, module.scaling) for module in result.modules}
    assert scalings == {(m.stack, 16 / m.rank) for m in result.modules}
    assert {s for stack, s in scalings if stack == "encoder.block"} == {16 / 2, 16 / 5}


def test_the_report_of_an_encoder_decoder_names_its_stacks():
    lines = repr(adapt(encoder_decoder(), PRILoRAConfig(first_rank=2, last_rank=5))).splitlines()
    assert lines[1] == "encoder.block:"
    assert lines[2].split()[:2] == ["0", "layer.0.SelfAttention.q"]
    assert lines.index("decoder.block:") == 2 + 2 * 6
    assert max(map(len, lines)) <= 80


def test_a_target_in_one_stack_leaves_the_other_as_it_is():
    result = adapt(encoder_decoder(), PRILoRAConfig(first_rank=2, last_rank=5, targets=("EncDecAttention.v",)))
    assert {module.stack for module in result.modules} == {"decoder.block"}
    assert len(result.modules) == 4


def test_the_head_beside_the_stacks_of_an_encoder_decoder_is_trained():
    model = hf.T5ForQuestionAnswering(encoder_decoder().config)
    adapt(model, CONFIG)
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}
    assert trained == {"qa_outputs.weight", "qa_outputs.bias"}


def test_the_head_beside_a_stack_without_a_backbone_is_trained():
    vision = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}
    clip = hf.CLIPConfig(vision_config=vision | {"image_size": 8, "patch_size": 4}, num_labels=2)
    whisper = hf.WhisperConfig(
        d_model=24, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=40, num_mel_bins=8,
        max_source_positions=16, num_labels=2, classifier_proj_size=8,
    )  # fmt: skip
    for model, heads in (
        (hf.CLIPForImageClassification(clip), {"classifier"}),
        (hf.WhisperForAudioClassification(whisper), {"projector", "classifier"}),
    ):
        adapt(model, CONFIG)
        trained = {name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}
        assert trained == {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}


def test_the_training_mode_is_kept():
    for mode in (True, False):
        model = build("bert").train(mode)
        adapt(model, CONFIG)
        assert all(module.training == mode for module in model.modules())


def test_dropout_and_scaling_reach_the_layers():
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, alpha=8, scaling="layer", dropout=0.1))
    layers = [module for module in model.modules() if isinstance(module, LoRALinear)]
    assert {(layer.rank, layer.scaling) for layer in layers} == {(2, 4.0), (3, 8 / 3), (4, 2.0), (5, 1.6)}
    assert {layer.dropout for layer in layers} == {0.1}


# Targets


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("query", "value"), {"attention.self.query", "attention.self.value"}),
        (("dense",), {"attention.output.dense", "intermediate.dense", "output.dense"}),
        (("output.dense",), {"output.dense"}),  # a full name inside the layer: the feed-forward's, not attention's
        (("attention.output.dense",), {"attention.output.dense"}),
        (("self.key",), {"attention.self.key"}),
    ],
)
def test_a_target_is_a_full_name_in_the_layer_or_its_last_parts(targets, expected):
    result = adapt(build("bert"), PRILoRAConfig(first_rank=2, last_rank=5, targets=targets))
    assert {module.module for module in result.modules} == expected
    assert len(result.modules) == LAYERS * len(expected)


def refused(model, message, **config):
    """adapt must raise and leave the model as it was."""
    before = {name: (p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        adapt(model, PRILoRAConfig(**({"first_rank": 2, "last_rank": 5} | config)))
    assert {name: (p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()} == before


def test_a_target_that_matches_nothing_gets_the_nearest_name():
    refused(build("bert"), r"unknown target 'quary': did you mean 'query'\?", targets=("quary",))


def test_one_target_of_several_that_matches_nothing_is_an_error():
    refused(build("bert"), "unknown target 'q_proj'.*valid are", targets=("query", "q_proj"))


def test_a_target_that_exists_in_some_layers_only_is_an_error():
    model = build("bert")
    model.bert.encoder.layer[2].output.extra = nn.Linear(HIDDEN, HIDDEN)
    refused(model, r"target 'extra' matches nothing in layers \[0, 1, 3\]", targets=("extra",))


def test_a_rank_above_the_smaller_side_is_an_error():
    refused(
        build("bert"),
        r"layer 3 would get rank 25, but bert.encoder.layer.3.attention.self.query is 24x24",
        last_rank=25,
    )


def test_adapting_twice_is_an_error():
    model = build("bert")
    adapt(model, CONFIG)
    refused(model, "adapted already")


def test_a_model_without_numbered_layers_is_an_error():
    refused(nn.Sequential(nn.Linear(4, 4)), "no numbered layers")


def test_other_structures_are_refused_by_name():
    albert = hf.AlbertConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=40,
        embedding_size=8,
        vocab_size=50,
    )
    refused(hf.AlbertModel(albert), "has 3 layers but only 1 set of weights")
    mixtral = hf.MixtralConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, num_key_value_heads=1,
        num_local_experts=2, vocab_size=50,
    )  # fmt: skip
    refused(hf.MixtralModel(mixtral), "mixture of experts")
    aria = hf.AriaTextConfig(  # another word for their number
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, num_key_value_heads=1,
        moe_num_experts=2, moe_topk=1, moe_num_shared_experts=1, vocab_size=50, pad_token_id=0,
    )  # fmt: skip
    refused(hf.AriaTextModel(aria), "mixture of experts")


def test_layers_that_an_adapter_could_not_reach_are_refused():
    layer = nn.TransformerEncoderLayer(24, 2, 40, batch_first=True)
    refused(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), "nn.MultiheadAttention")
    block = nn.Sequential(nn.Linear(24, 24))
    refused(nn.ModuleDict({"layers": nn.ModuleList([block] * 3)}), "a shared layer can't have two ranks")


def test_a_module_around_an_encoder_is_refused_with_the_way_out():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = build("bert").bert
            self.classifier = nn.Linear(HIDDEN, 2)

    refused(Mine(), r"holds one, encoder: .* adapt\(model\.encoder, config\)")


def test_a_model_without_weights_and_one_that_is_quantized_are_refused_whole():
    with torch.device("meta"):
        refused(build("bert"), "on meta: load the model unquantized and with its weights")
    for dtype in (torch.int8, torch.float8_e4m3fn):
        model = build("bert")
        weight = nn.Parameter(torch.zeros(HIDDEN, HIDDEN).to(dtype), requires_grad=False)
        model.bert.encoder.layer[2].attention.self.query.weight = weight
        refused(model, rf"layer\.2\.attention\.self\.query holds {dtype}")


def test_a_model_of_pefts_is_refused():
    peft = pytest.importorskip("peft")
    refused(peft.get_peft_model(build("bert"), peft.LoraConfig(target_modules=["query"])), "adapted already, by PEFT")


def test_position_projections_of_deberta_are_left_out_and_it_is_said():
    config = copy.deepcopy(build("deberta_v2").config)
    config.share_att_key = False
    result = adapt(hf.DebertaV2ForSequenceClassification(config), CONFIG)
    assert not [module for module in result.modules if module.module.endswith(("pos_key_proj", "pos_query_proj"))]
    assert "pos_key_proj is left out: it reads relative positions" in repr(result)


# The report


def test_the_report_adds_up():
    model = build("bert")
    base = sum(p.numel() for p in model.parameters())
    result = adapt(model, CONFIG)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert result.base == base
    assert result.adapter + result.head == trainable
    assert result.share == trainable / base
    assert result.adapter == sum(module.parameters for module in result.modules)
    assert result.adapter_nonzero == sum(p.count_nonzero() for n, p in model.named_parameters() if "lora_A" in n)


def test_the_report_counts_what_is_zero_now():
    model = build("bert")
    before = adapt(model, CONFIG)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.lora_A[0, :7] = 0
    now = report(model)
    assert now.adapter == before.adapter
    assert now.adapter_nonzero == before.adapter_nonzero - 7


def test_the_packed_bytes_are_those_of_a_store_that_gives_the_adapter_back():
    model = build("bert")
    adapt(model, CONFIG)
    flat = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if "lora_" in name]).numpy()
    values, mask = flat[flat != 0], np.packbits(flat != 0)
    back = np.zeros_like(flat)
    back[np.unpackbits(mask, count=len(flat)).astype(bool)] = values
    assert (back == flat).all()
    assert report(model).packed_bytes == values.nbytes + mask.nbytes
    nine = dataclasses.replace(report(model), adapter=9, adapter_nonzero=1)
    assert nine.packed_bytes == 4 + 2  # nine bits need a second byte


def test_the_report_is_a_table_that_fits_a_terminal():
    result = adapt(build("bert"), CONFIG)
    lines = repr(result).splitlines()
    assert lines[0].split() == ["layer", "module", "shape", "rank", "parameters", "non-zero"]
    assert lines[1].split() == ["0", "attention.self.query", "24x24", "2", "96", "48"]
    assert len(lines) == 1 + 24 + 1 + 2 + 2
    assert lines[-1].endswith(f"bit mask: {result.packed_bytes:,}")
    assert max(map(len, lines)) <= 80


def test_the_report_turns_into_a_dataframe():
    result = adapt(build("gpt2"), CONFIG)
    frame = result.to_dataframe()
    assert list(frame.columns) == ["stack", "layer", "module", "shape", "rank", "scaling", "parameters", "nonzero"]
    assert frame["parameters"].sum() == result.adapter
    assert frame.groupby("layer")["rank"].first().tolist() == [2, 3, 4, 5]


def test_adapting_prints_nothing(capfd):
    adapt(build("bert"), CONFIG)
    assert capfd.readouterr() == ("", "")


def test_a_plain_model_has_an_empty_report():
    result = report(build("bert"))
    assert (result.adapter, result.modules, result.ranks) == (0, (), [])


def test_unloading_a_plain_model_is_an_error():
    with pytest.raises(ValueError, match="no LoRALinear to merge"):
        merge_and_unload(build("bert"))


# Linear layers and parts of one's own


class Tripled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


class Gated(nn.Linear):
    def forward(self, x, gate):
        return gate * super().forward(x)


class ByMatmul(nn.Linear):
    def forward(self, x):
        return x @ self.weight.T + self.bias


def layers_of(kind):
    model = nn.Module()
    model.layers = nn.ModuleList(nn.ModuleDict({"lin": kind(8, 8)}) for _ in range(3))
    return model


@pytest.mark.parametrize("kind", [Tripled, Gated])
def test_a_linear_layer_that_computes_something_else_is_refused_and_the_model_left_as_it_was(kind):
    model = layers_of(kind)
    said = rf"layers.0.lin is a {kind.__name__}, which computes something else than W x \+ b"
    with pytest.raises(ValueError, match=said):
        adapt(model, PRILoRAConfig(first_rank=2, last_rank=4))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_that_computes_its_product_in_another_way_is_adapted(dtype):
    assert adapt(layers_of(ByMatmul).to(dtype), PRILoRAConfig(first_rank=2, last_rank=4)).ranks == [2, 3, 4]


def test_numbered_parts_that_hold_numbered_layers_are_noted():
    model = nn.Module()
    model.towers = nn.ModuleList(layers_of(nn.Linear) for _ in range(2))
    notes = adapt(model, PRILoRAConfig(first_rank=2, last_rank=4)).notes
    assert "towers.0 counts as one layer: the 3 numbered parts in it have the same rank" in notes


def test_numbered_linear_layers_within_a_layer_are_no_layers_and_need_no_note():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(2))
    assert not adapt(model, PRILoRAConfig(first_rank=2, last_rank=4)).notes


def test_a_plain_model_is_listened_to_by_no_pruner():
    model = build("bert")
    adapt(model, CONFIG)
    Pruner(model)
    merge_and_unload(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
