import copy
import dataclasses
import inspect
import pickle
import sys
import warnings

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import prilora_lite
from prilora_lite import (
    InputNorms,
    LoRALinear,
    PRILoRAConfig,
    Pruner,
    adapt,
    importance,
    keep_mask,
    merge_and_unload,
    save_adapter,
)
from prilora_lite.importance import IMPORTANCE_RULES, sum_of_squares
from tests.environments import processes
from tests.small_models import BUILDERS, batch, build, checkpoint_activations


def adapted(name="bert", dtype=torch.float64, **config):
    return prepared(build(name).to(dtype), **config)


def prepared(model, **config):
    adapt(model, PRILoRAConfig(**({"first_rank": 2, "last_rank": 5} | config)))
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_B, std=0.02)
    for module in model.modules():  # two passes over the same batch must see the same inputs
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


class Reference:
    """The statistic, written plainly: keep all inputs of a step, stack the real tokens, square, average."""

    def __init__(self, model, beta=0.9):
        self.beta, self.s, self.inputs, self.mask = beta, {}, {}, None
        for name, module in model.named_modules():
            if isinstance(module, LoRALinear):
                module.register_forward_pre_hook(lambda _, args, name=name: self.keep(name, args[0]))

    def keep(self, name, x):
        if self.mask is not None:
            self.inputs.setdefault(name, []).append(x.reshape(*self.mask.shape, -1)[self.mask.bool()].detach().double())

    def step(self):
        for name, parts in self.inputs.items():
            q = torch.cat(parts).square().mean(0)
            self.s[name] = self.beta * self.s[name] + (1 - self.beta) * q if name in self.s else q
        self.inputs = {}


def run(model, reference, inputs, backward=True):
    reference.mask = inputs["attention_mask"]
    loss = model(**inputs).loss
    if backward:
        loss.backward()


def assert_statistics_equal(pruner, reference, rtol=1e-12):
    assert set(pruner.layers) == set(reference.s)
    for name in pruner.layers:
        ours = pruner.mean_square(name)
        torch.testing.assert_close(ours.double(), reference.s[name], rtol=rtol, atol=0)


# The statistic against the reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(4, 5, 3), (20, 3)])
@pytest.mark.parametrize("rows", [None, [0, 2, 3, 19]])
def test_squares_and_tokens_are_counted_and_the_input_stays_as_it_was(dtype, shape, rows):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before, norms = x.clone(), InputNorms(3)
    norms.add(x, None if rows is None else torch.tensor(rows))
    real = x.double().reshape(-1, 3)[slice(None) if rows is None else rows]
    assert torch.equal(x, before)
    assert norms.tokens == len(real)
    torch.testing.assert_close(norms.squares.double(), real.square().sum(0), rtol=1e-6, atol=0)


def test_one_example_without_a_batch_is_one_token():
    alone, as_batch = InputNorms(3), InputNorms(3)
    x = torch.tensor([1.0, -2.0, 3.0])
    alone.add(x)
    as_batch.add(x[None])
    assert alone.tokens == as_batch.tokens == 1
    assert torch.equal(alone.squares, as_batch.squares)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "deberta_v2"])
def test_statistics_under_padding(name):
    model = adapted(name)
    pruner, reference = Pruner(model), Reference(model)
    for seed in range(3):
        run(model, reference, batch(padding=seed + 1, seed=seed))
        pruner.step()
        reference.step()
    assert_statistics_equal(pruner, reference)


OPT = hf.OPTConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, ffn_dim=40, vocab_size=99, pad_token_id=0,
    word_embed_proj_dim=24, max_position_embeddings=32,
)  # fmt: skip


def bart(**changes):
    return hf.BartConfig(
        d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=40, decoder_ffn_dim=40, vocab_size=99, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=2, **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        (hf.OPTForSequenceClassification(OPT), None),  # its feed-forward reads all tokens in one row
        (hf.OPTForCausalLM(OPT), None),  # calls the decoder past the backbone
        (hf.BartForCausalLM(bart()), ("self_attn.v_proj", "fc1")),  # and so does this one
    ],
    ids=["OPT", "OPT language model", "BART language model"],
)
def test_the_mask_is_found_where_the_backbone_is_passed_by_or_tokens_stand_in_one_row(model, targets):
    model = prepared(model.double(), targets=targets)
    pruner, reference = Pruner(model), Reference(model)
    inputs = batch()
    if "CausalLM" in type(model).__name__:
        inputs["labels"] = inputs["input_ids"]
    run(model, reference, inputs)
    pruner.step()
    reference.step()
    assert_statistics_equal(pruner, reference)


@pytest.mark.parametrize("name", ["BART", "T5"])
def test_a_decoder_that_is_given_no_mask_does_not_count_its_padding(name):
    t5 = hf.T5Config(d_model=24, d_kv=12, d_ff=40, num_layers=2, num_heads=2, vocab_size=99, decoder_start_token_id=0)
    model = hf.T5ForConditionalGeneration(t5) if name == "T5" else hf.BartForConditionalGeneration(bart())
    model = prepared(model.double())
    pruner, reference, inputs = Pruner(model), Reference(model), batch()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    reference.mask = inputs["attention_mask"].roll(1, dims=1)  # the decoder reads its start, then the labels
    reference.mask[:, 0] = 1
    model(**inputs | {"labels": labels})
    pruner.step()
    reference.step()
    for name in (
        name for name in pruner.layers if "decoder" in name and not name.endswith((".k", "k_proj", "v", "v_proj"))
    ):
        torch.testing.assert_close(pruner.mean_square(name), reference.s[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["BERT", "GPT-2"])
def test_cross_attention_counts_the_encoders_tokens_and_its_query_the_decoders(name):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    bert = hf.BertConfig(**sizes, vocab_size=99, pad_token_id=0)
    gpt2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_inner": 40, "vocab_size": 99, "pad_token_id": 0}
    decoder = hf.GPT2Config(**gpt2, bos_token_id=1, eos_token_id=2) if name == "GPT-2" else copy.deepcopy(bert)
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(bert, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    model = prepared(hf.EncoderDecoderModel(config).double())
    inputs = batch()
    own_mask = torch.ones(3, 6, dtype=torch.long)
    own_mask[0, -2:] = 0  # other rows are padded, and others longer, than in the encoder
    pruner, kept = Pruner(model), {}
    for layer_name, layer in pruner.layers.items():
        layer.register_forward_pre_hook(lambda _, args, n=layer_name: kept.update({n: args[0].detach()}))
    own = inputs["input_ids"][:, :6]
    rows = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    model(**rows, decoder_input_ids=own, decoder_attention_mask=own_mask)
    pruner.step()
    for layer_name, x in kept.items():
        mask = inputs["attention_mask"] if x.shape[1] == 8 else own_mask
        got = pruner.mean_square(layer_name)
        torch.testing.assert_close(got, x[mask.bool()].square().mean(0), rtol=1e-12, atol=0)
    reads_encoder = {n for n, x in kept.items() if x.shape[1] == 8 and n.startswith("decoder")}
    assert len(reads_encoder) == 2 * (1 if name == "GPT-2" else 2)  # in both layers c_attn; key and value


def test_a_layer_that_runs_without_the_module_that_takes_the_mask_is_an_error():
    model = adapted()
    pruner = Pruner(model)
    with pytest.raises(
        RuntimeError,
        match=r"layer\.0.* ran, but the module that takes the attention mask did not.* call the whole model",
    ):
        model.bert.encoder(torch.zeros(1, 3, 24, dtype=torch.float64))
    pruner.detach()


def test_statistics_under_gradient_accumulation_weigh_by_tokens():
    model = adapted()
    pruner, reference = Pruner(model), Reference(model)
    for step in range(2):
        for rows, padding in ((1, 5), (4, 0), (2, 2)):
            run(model, reference, batch(rows, padding=padding, seed=10 * step + rows))
        pruner.step()
        reference.step()
    assert_statistics_equal(pruner, reference)


@pytest.mark.parametrize("reentrant", [True, False])
def test_statistics_under_gradient_checkpointing(reentrant):
    plain, checkpointed = adapted(), adapted()
    checkpoint_activations(checkpointed, reentrant)
    checkpointed.enable_input_require_grads()
    pruners = []
    for model in (plain, checkpointed):
        pruner = Pruner(model)
        for step in range(2):
            for seed in (0, 1):
                model(**batch(padding=seed + 1, seed=10 * step + seed)).loss.backward()
            pruner.step()
        pruners.append(pruner)
    assert plain.bert.encoder.layer[0].output.dense.lora_B.grad is not None
    torch.testing.assert_close(
        checkpointed.bert.encoder.layer[0].output.dense.lora_B.grad,
        plain.bert.encoder.layer[0].output.dense.lora_B.grad,
    )
    for name, norms in pruners[0].norms.items():
        torch.testing.assert_close(pruners[1].norms[name].mean_square, norms.mean_square, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_under_autocast_are_summed_in_float32(dtype):
    model = adapted(dtype=torch.float32)
    pruner, reference = Pruner(model), Reference(model)
    with torch.autocast("cpu", dtype):
        run(model, reference, batch(rows=16, tokens=32))
    pruner.step()
    reference.step()
    assert pruner.norms[next(iter(pruner.norms))].mean_square.dtype == torch.float32
    assert_statistics_equal(pruner, reference, rtol=1e-6)  # a sum of 509 float32 squares; bfloat16 would miss by 1e-2


def test_evaluation_in_between_does_not_count():
    model = adapted()
    pruner, reference = Pruner(model), Reference(model)
    run(model, reference, batch(seed=0))
    reference.mask = None
    model.eval()
    model(**batch(seed=1))
    with torch.no_grad():
        model(**batch(seed=2))
    model.train()
    pruner.step()
    reference.step()
    assert_statistics_equal(pruner, reference)


def test_the_mask_of_an_evaluation_is_forgotten_where_a_pass_of_the_backbone_alone_has_none():
    model = adapted()
    pruner, inputs = Pruner(model), batch(padding=3)
    model.eval()(**inputs)
    model.train()
    model.base_model(input_ids=inputs["input_ids"])
    assert {int(norms.tokens) for norms in pruner.norms.values()} == {inputs["input_ids"].numel()}


def test_the_mask_is_read_where_it_enters_the_encoder_also_by_position():
    model = adapted()
    pruner, reference = Pruner(model), Reference(model)
    inputs = batch()
    reference.mask = inputs["attention_mask"]
    model.bert(inputs["input_ids"], inputs["attention_mask"])
    pruner.step()
    reference.step()
    assert_statistics_equal(pruner, reference)


def test_without_a_mask_every_token_counts():
    model = adapted()
    pruner = Pruner(model)
    model(**batch(padding=3))  # a mask of an earlier forward pass must not stay behind
    model(input_ids=batch(padding=0)["input_ids"])
    assert {norms.tokens.item() for norms in pruner.norms.values()} == {21 + 24}


@pytest.mark.parametrize("added", [False, True])
def test_in_packed_rows_a_token_counts_where_it_may_attend_to_itself(added):
    model = adapted("llama")
    pruner, reference = Pruner(model), Reference(model)
    text = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 2, 2, 2]])
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]])
    mask = (text[:, :, None] == text[:, None]) & torch.ones(8, 8, dtype=torch.bool).tril() & real.bool()[:, None]
    packed = mask[:, None]
    if added:
        packed = torch.zeros(packed.shape, dtype=torch.float64).masked_fill(~packed, torch.finfo(torch.float64).min)
    reference.mask = real
    model(input_ids=batch(rows=2, padding=0)["input_ids"], attention_mask=packed)
    pruner.step()
    reference.step()
    assert_statistics_equal(pruner, reference)


def test_tokens_in_a_cache_do_not_count_again():
    model = adapted("llama")
    rows = batch(padding=2)
    with torch.no_grad():
        cache = model.eval()(input_ids=rows["input_ids"], use_cache=True).past_key_values
    model.train()
    pruner, reference = Pruner(model), Reference(model)
    reference.mask = rows["attention_mask"]
    whole = torch.cat([torch.ones_like(reference.mask), reference.mask], 1)
    model(input_ids=rows["input_ids"], attention_mask=whole, past_key_values=cache)
    pruner.step()
    reference.step()
    assert_statistics_equal(pruner, reference)


def test_nan_at_padded_places_does_no_harm():
    norms, x = InputNorms(2), torch.tensor([[[1.0, 2.0], [3.0, 4.0], [float("nan"), float("inf")]]])
    norms.add(x, real=torch.tensor([0, 1]))
    norms.fold(0.9)
    assert norms.mean_square.tolist() == [5.0, 10.0]


def test_the_first_fold_sets_and_later_ones_average():
    norms = InputNorms(1)
    seen = []
    for value in (2.0, 4.0, 0.0):
        norms.add(torch.tensor([[value]]))
        norms.fold(0.75)
        seen.append(norms.mean_square.item())
    assert seen == [4.0, 0.75 * 4 + 0.25 * 16, 0.75 * 7]


def test_a_fold_of_nothing_is_refused():
    norms = InputNorms(1)
    with pytest.raises(ValueError, match="no token was counted since the last fold"):
        norms.fold(0.9)
    norms.add(torch.tensor([[2.0]]))
    norms.fold(0.9)
    with pytest.raises(ValueError, match="no token was counted"):
        norms.fold(0.9)
    assert norms.mean_square.tolist() == [4.0]


def test_deberta_counts_tokens_not_relative_positions():
    """With share_att_key query_proj and key_proj run twice: on tokens and on position embeddings."""
    model = adapted("deberta_v2")
    pruner = Pruner(model)
    seen = {}
    for name, module in model.named_modules():
        if name.endswith("self.query_proj"):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0]))
    model(**batch(rows=1, padding=0)).loss.backward()
    pruner.step()
    assert len(seen) == 4
    for name, inputs in seen.items():
        assert len(inputs) == 2  # else this test shows nothing
        tokens = inputs[0].detach().square().mean((0, 1))
        for kind in ("query_proj", "key_proj", "value_proj"):
            got = pruner.mean_square(name.replace("query_proj", kind))
            torch.testing.assert_close(got, tokens, rtol=1e-12, atol=0)


def test_deberta_leaves_padding_out():
    model = adapted("deberta_v2")
    pruner, seen = Pruner(model), {}
    name = "deberta.encoder.layer.3.attention.self.value_proj"
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.setdefault("x", args[0].detach()))
    inputs = batch(padding=3)
    model(**inputs)
    pruner.step()
    expected = seen["x"][inputs["attention_mask"].bool()].square().mean(0)
    torch.testing.assert_close(pruner.norms[name].mean_square, expected, rtol=1e-12, atol=0)


def test_a_value_of_another_width_is_no_source_for_the_query():
    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = LoRALinear(nn.Linear(4, 4), 1, scaling=1.0)
            self.value = LoRALinear(nn.Linear(6, 4), 1, scaling=1.0)

        def forward(self, x):
            return self.query(x[..., :4]) + self.value(x)

    model = Bottleneck()
    pruner = Pruner(model, interval=1)
    model(torch.randn(5, 6))
    pruner.step()
    assert pruner.sparsity() == (2 + 3) / 10


def test_an_input_that_query_key_and_value_share_is_squared_once(monkeypatch):
    model, squared = adapted("bert"), []

    def counted(x, real=None):
        squared.append(x)
        return sum_of_squares(x, real)

    monkeypatch.setattr("prilora_lite.models.listener.sum_of_squares", counted)
    Pruner(model)
    model(**batch())
    assert len(squared) == 4 * 4  # four inputs a layer for six matrices


def test_an_input_that_is_written_in_place_is_counted_again():
    from prilora_lite.models.listener import Listener

    layer = LoRALinear(nn.Linear(2, 2), 1, scaling=1.0).train()
    model = nn.Sequential(layer)
    listener = Listener(model, {"0": layer}, keeps_gradients=False)
    x = torch.ones(1, 2)
    model(x).sum().backward()
    with torch.no_grad():
        x.fill_(3.0)
    model(x).sum().backward()
    listener.end_step(1, 0.9)
    assert listener.norms["0"].mean_square.tolist() == [5.0, 5.0]


# Importance and masks


A = torch.tensor([[1.0, -3.0, 2.0, 0.5], [4.0, 1.0, -1.0, 2.0], [-0.1, 0.2, 0.3, -0.4]])
S = torch.tensor([9.0, 1.0, 0.0, 16.0])


def test_importance_by_hand():
    assert importance(A, S).tolist() == torch.tensor(
        [[3.0, 3.0, 0.0, 2.0], [12.0, 1.0, 0.0, 8.0], [0.3, 0.2, 0.0, 1.6]]
    ).tolist()  # fmt: skip
    assert torch.equal(importance(A, None, "magnitude"), A.abs())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_a_in_half_precision_is_scored_as_one_in_float32(dtype):
    """Means of squares that half precision does not hold: they would all be infinite or zero there."""
    s = torch.logspace(-12, 12, 24)
    assert torch.equal(importance(torch.ones(2, 24, dtype=dtype), s), importance(torch.ones(2, 24), s))


@pytest.mark.parametrize("s", [[1.0], [[1.0]] * 4, [1.0] * 3, [1.0, 2.0, -1.0, 0.0], [1.0, 2.0, float("nan"), 0.0]])
def test_a_statistic_of_another_shape_or_below_zero_is_refused(s):
    with pytest.raises(ValueError, match="mean_square must be 4 numbers of at least 0"):
        importance(A, torch.tensor(s))


def test_random_importance_is_drawn_from_the_generator():
    draws = [importance(A, None, "random", torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_importance_refuses_what_it_can_not_use():
    with pytest.raises(ValueError, match="needs mean_square, but none was given"):
        importance(A, None)
    with pytest.raises(
        ValueError, match=f"unknown importance rule 'none such': valid are {', '.join(IMPORTANCE_RULES)}"
    ):
        importance(A, S, "none such")


def test_masks_by_hand():
    scores = importance(A, S)
    assert keep_mask(scores, 0.5).int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]]
    assert keep_mask(scores, 0.5, "matrix").int().tolist() == [[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("ratio", [-0.1, 1, float("inf"), float("nan")])
def test_a_mask_of_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r"the pruning ratio must lie in \[0, 1\)"):
        keep_mask(torch.rand(2, 4), ratio)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4)])
def test_a_mask_of_scores_without_rows_is_refused(shape):
    with pytest.raises(ValueError, match=r"scores must be \(r, n\), a row for each row of A, got \("):
        keep_mask(torch.ones(shape), 0.5)


def test_ties_go_to_the_lower_index():
    assert keep_mask(torch.ones(2, 5), 0.4).int().tolist() == [[0, 0, 1, 1, 1]] * 2
    assert keep_mask(torch.ones(2, 3), 0.5, "matrix").int().tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("ratio", "n", "k"), [(0.1, 10, 1), (0.3, 10, 3), (0.7, 10, 7), (0.29, 100, 29), (0.57, 100, 57), (0.5, 7, 3)]
)
def test_k_is_rounded_down_and_not_by_a_binary_fraction(ratio, n, k):
    assert (~keep_mask(torch.rand(3, n), ratio)).sum(1).tolist() == [k] * 3


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 30),
    ratio=st.floats(0, 0.999),
    levels=st.integers(1, 40),
    scope=st.sampled_from(["row", "matrix"]),
    seed=st.integers(0, 999),
)
def test_exactly_the_k_least_important_are_pruned(rows, columns, ratio, levels, scope, seed):
    scores = torch.randint(0, levels, (rows, columns), generator=torch.Generator().manual_seed(seed)).double()
    keep = keep_mask(scores, ratio, scope)
    groups = zip(scores, keep, strict=True) if scope == "row" else [(scores.flatten(), keep.flatten())]
    for group, kept in groups:
        k = int(ratio * len(group) + 1e-9)
        expected = sorted(range(len(group)), key=lambda i: (group[i], i))[:k]
        assert (~kept).nonzero().flatten().tolist() == sorted(expected)


# The pruner


def train(model, pruner, steps, seed=0, optimizer=None, lr=1e-2):
    optimizer = optimizer or torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        model(**batch(seed=seed + step)).loss.backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    return optimizer


def zeros_per_row(pruner):
    return {name: (layer.lora_A == 0).sum(1).tolist() for name, layer in pruner.layers.items()}


def test_prunes_every_nth_step_and_entries_return_in_between():
    model = adapted()
    pruner = Pruner(model, ratio=0.5, interval=3)
    optimizer, sparsities = None, []
    for step in range(7):
        optimizer = train(model, pruner, 1, seed=step, optimizer=optimizer)
        sparsities.append(pruner.sparsity())
    assert [entry["step"] for entry in pruner.history] == [3, 6]
    assert sparsities == [0, 0, 0.5, 0, 0, 0.5, 0]
    assert {name: pruner.history[1][name] for name in ("step", "before", "after")} == {
        "step": 6,
        "before": 0,
        "after": 0.5,
    }


def test_each_row_gets_k_zeros_where_importance_is_least():
    model = adapted()
    pruner = Pruner(model, ratio=0.3, interval=2)
    train(model, pruner, 1)
    before = {name: layer.lora_A.detach().clone() for name, layer in pruner.layers.items()}
    pruner.prune()
    for name, layer in pruner.layers.items():
        scores = before[name].abs() * pruner.mean_square(name).sqrt()
        k = int(0.3 * layer.in_features)
        for row, scored, old in zip(layer.lora_A, scores, before[name], strict=True):
            gone = row == 0
            assert gone.sum() == k
            assert scored[gone].max() <= scored[~gone].min()
            assert torch.equal(row[~gone], old[~gone])


def test_the_whole_matrix_may_compete():
    model = adapted()
    pruner = Pruner(model, ratio=0.5, interval=1, scope="matrix")
    train(model, pruner, 1)
    counts = zeros_per_row(pruner)
    assert any(len(set(rows)) > 1 for rows in counts.values())
    assert all(sum(rows) == pruner.layers[name].lora_A.numel() // 2 for name, rows in counts.items())


def test_more_zeros_than_k_stay():
    model = adapted()
    pruner = Pruner(model, ratio=0.25, interval=99)
    model(**batch()).loss.backward()
    pruner.step()
    layer = model.bert.encoder.layer[0].output.dense
    with torch.no_grad():
        layer.lora_A[0, :30] = 0
    pruner.prune()
    assert (layer.lora_A[0] == 0).sum() == 30
    assert (layer.lora_A[1] == 0).sum() == 10


def test_b_and_the_optimizers_state_are_left_alone():
    model = adapted()
    pruner = Pruner(model, interval=99)
    optimizer = train(model, pruner, 2)
    B = [layer.lora_B.detach().clone() for layer in pruner.layers.values()]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    pruner.prune()
    assert all(torch.equal(b, layer.lora_B) for b, layer in zip(B, pruner.layers.values(), strict=True))
    for key, entry in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, entry[name]) for name, value in state[key].items())


def test_a_permanent_mask_never_gives_an_entry_back():
    model = adapted()
    pruner = Pruner(model, interval=2, regrow=False)
    optimizer = train(model, pruner, 2)
    gone = {name: layer.lora_A == 0 for name, layer in pruner.layers.items()}
    for step in range(5):
        train(model, pruner, 1, seed=step, optimizer=optimizer)
        assert pruner.sparsity() == 0.5
        assert all(torch.equal(gone[name], layer.lora_A == 0) for name, layer in pruner.layers.items())


@pytest.mark.parametrize("scope", ["row", "matrix"])
def test_a_permanent_mask_stays_for_the_next_pruner(scope):
    model = adapted()
    first = Pruner(model, interval=2, regrow=False, scope=scope)
    train(model, first, 2)
    first.detach()
    gone = zeros(first)
    second = Pruner(model, interval=2, regrow=False, scope=scope)
    optimizer = train(model, second, 1, seed=2)
    assert equal(gone, zeros(second))
    train(model, second, 2, seed=3, optimizer=optimizer)
    assert equal(gone, zeros(second))


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_a_permanent_mask_stays_for_a_pruner_of_another_ratio_which_says_so(ratio):
    model = adapted()
    first = Pruner(model, interval=2, regrow=False)
    train(model, first, 2)
    first.detach()
    gone = zeros(first)
    with pytest.warns(UserWarning, match=f"at ratio 0.5 without regrowth, stay as they are: ratio={ratio} has no"):
        second = Pruner(model, interval=2, ratio=ratio, regrow=False)
    train(model, second, 3, seed=2)
    assert equal(gone, zeros(second))


def test_zeros_that_might_have_regrown_are_no_permanent_mask():
    model = adapted()
    first = Pruner(model, interval=2)
    optimizer = train(model, first, 2)
    first.detach()
    second = Pruner(model, interval=2, ratio=0.25, regrow=False)
    train(model, second, 2, seed=2, optimizer=optimizer)
    assert second.history[-1]["after"] == second.sparsity() == 0.25


def test_fewer_zeros_than_a_prune_leaves_are_no_permanent_mask():
    model = adapted()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.lora_A[0, :3] = 0
    pruner = Pruner(model, interval=2, regrow=False)
    optimizer = train(model, pruner, 1)
    assert pruner.sparsity() == 0
    train(model, pruner, 1, seed=1, optimizer=optimizer)
    assert pruner.sparsity() == 0.5


def test_a_permanent_mask_stays_under_random_importance():
    model = adapted()
    pruner = Pruner(model, interval=2, regrow=False, importance="random")
    train(model, pruner, 2)
    gone = {name: layer.lora_A == 0 for name, layer in pruner.layers.items()}
    train(model, pruner, 4)
    assert all(torch.equal(gone[name], layer.lora_A == 0) for name, layer in pruner.layers.items())


def zeros(pruner):
    return {name: layer.lora_A == 0 for name, layer in pruner.layers.items()}


def equal(masks, others):
    return all(torch.equal(masks[name], others[name]) for name in masks)


def test_random_scores_are_drawn_once_a_run():
    model = adapted()
    pruner = Pruner(model, interval=2, importance="random")
    optimizer = train(model, pruner, 2)
    first = zeros(pruner)
    train(model, pruner, 4, optimizer=optimizer)
    assert len(pruner.history) == 3
    assert equal(first, zeros(pruner))


def test_random_scores_depend_on_the_seed_and_on_nothing_else():
    masks = []
    for seed, dtype in ((0, torch.float64), (0, torch.float32), (1, torch.float32)):
        model = adapted(dtype=dtype)
        torch.manual_seed(len(masks))  # the state of torch's own generator has no part in it
        pruner = Pruner(model, interval=1, importance="random", seed=seed)
        train(model, pruner, 1, seed=len(masks))
        masks.append(zeros(pruner))
    assert equal(masks[0], masks[1])
    assert not equal(masks[1], masks[2])


def test_a_state_whose_scores_were_drawn_anew_at_each_prune_is_refused():
    pruner = Pruner(adapted(), importance="random")
    state = pruner.state_dict()
    del state["settings"]["seed"]
    with pytest.raises(ValueError, match="other settings: seed=None, now 0"):
        pruner.load_state_dict(state)


def test_a_state_of_statistics_that_layers_shared_is_refused():
    model = adapted()
    pruner = Pruner(model, interval=2)
    train(model, pruner, 3)
    state = pruner.state_dict()
    state["norms"] = {name: norms for name, norms in state["norms"].items() if not name.endswith(("query", "key"))}
    again = Pruner(model, interval=2)
    with pytest.raises(ValueError, match="query and key had no statistics of their own: start this run anew"):
        again.load_state_dict(state)
    assert again.steps == 0


@pytest.mark.parametrize("rule", ["magnitude_input", "magnitude", "random"])
def test_a_permanent_mask_can_hold_from_the_first_step_on(rule):
    model = adapted()
    pruner = Pruner(model, interval=1, regrow=False, importance=rule)
    optimizer = train(model, pruner, 1)
    first = zeros(pruner)
    for step in range(4):
        train(model, pruner, 1, seed=step, optimizer=optimizer)
        assert equal(first, zeros(pruner))
        assert pruner.pruned_at == pruner.steps
    assert [entry["step"] for entry in pruner.history] == [1]


def test_the_history_has_the_share_of_the_squared_norm_that_each_prune_removes():
    model = adapted()
    pruner = Pruner(model, interval=1, ratio=0.5)
    before = {name: layer.lora_A.detach().clone() for name, layer in pruner.layers.items()}
    model(**batch())
    pruner.step()  # no optimizer step: A is as it was before the prune
    removed = sum(float((before[name][layer.lora_A == 0] ** 2).sum()) for name, layer in pruner.layers.items())
    norm = sum(float((A**2).sum()) for A in before.values())
    assert pruner.history[0]["mass"] == pytest.approx(removed / norm, rel=1e-6)


def test_the_smaller_half_of_uniform_entries_holds_an_eighth_of_the_squared_norm():
    """The integral of x^2 from 0 to 1/2 over that from 0 to 1."""
    model = adapted("bert", first_rank=12, last_rank=12)
    pruner = Pruner(model, interval=1, ratio=0.5, importance="magnitude")
    model(**batch())
    pruner.step()
    entries = sum(layer.lora_A.numel() for layer in pruner.layers.values())
    assert pruner.history[0]["mass"] == pytest.approx(1 / 8, abs=3 / entries**0.5)


@pytest.mark.parametrize("rule", ["magnitude_input", "magnitude", "random"])
def test_pruning_twice_in_a_step_changes_nothing_more(rule):
    model = adapted()
    pruner = Pruner(model, interval=2, importance=rule)
    train(model, pruner, 2)
    before = [layer.lora_A.detach().clone() for layer in pruner.layers.values()]
    pruner.prune()
    assert all(torch.equal(a, layer.lora_A) for a, layer in zip(before, pruner.layers.values(), strict=True))
    assert len(pruner.history) == 1


@pytest.mark.parametrize("regrow", [True, False])
def test_the_last_prune_counts_also_where_the_optimizer_moves_a_after_the_pruners_step(regrow):
    model = adapted()
    pruner = Pruner(model, interval=2, regrow=regrow)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for seed in range(2):
        model(**batch(seed=seed)).loss.backward()
        pruner.step()
        optimizer.step()
    assert pruner.sparsity() < 0.5  # else this test shows nothing
    pruner.prune()
    assert pruner.sparsity() == 0.5


def test_the_rules_prune_differently():
    masks = []
    for rule in ("magnitude_input", "magnitude", "random"):
        model = adapted()
        pruner = Pruner(model, interval=2, importance=rule)
        train(model, pruner, 2)
        masks.append(torch.cat([(layer.lora_A == 0).flatten() for layer in pruner.layers.values()]))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("rule", ["magnitude_input", "random", lambda lora_A, gradient: (lora_A * gradient).abs()])
def test_a_resumed_pruner_goes_on_as_if_never_stopped(rule, regrow, tmp_path):
    def fresh():
        model = adapted()
        pruner = Pruner(model, interval=2, importance=rule, regrow=regrow)
        return model, pruner, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    model, pruner, optimizer = fresh()
    train(model, pruner, 3, optimizer=optimizer)
    model(**batch(seed=50)).loss.backward()  # half of an accumulated step is part of the state
    optimizer.zero_grad()
    torch.save({"model": model.state_dict(), "pruner": pruner.state_dict()}, tmp_path / "state.pt")
    train(model, pruner, 4, seed=3, optimizer=optimizer)

    resumed, again, optimizer = fresh()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["pruner"])
    train(resumed, again, 4, seed=3, optimizer=optimizer)
    for (name, expected), got in zip(model.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, got), name
    assert again.history == pruner.history
    assert len(pruner.history) == (3 if regrow else 1)  # a permanent mask is chosen once


@pytest.mark.parametrize("in_mid_step", [False, True])
def test_a_pruner_that_scores_by_gradients_can_prune_at_once_when_it_is_resumed(in_mid_step):
    def fresh():
        model = adapted(interval=9, importance=weight_times_gradient)
        return model, Pruner(model)

    model, pruner = fresh()
    train(model, pruner, 2)
    if in_mid_step:
        model(**batch(seed=2)).loss.backward()
    resumed, again = fresh()
    resumed.load_state_dict(model.state_dict())
    again.load_state_dict(pruner.state_dict())
    for one in (pruner, again):
        one.prune()
    assert all(torch.equal(again.scores(name), pruner.scores(name)) for name in pruner.layers)
    assert equal(zeros(again), zeros(pruner))
    if in_mid_step:
        again.forget_pending()  # which the resumed run does again
        assert not all(torch.equal(again.scores(name), pruner.scores(name)) for name in pruner.layers)


def test_a_state_from_before_it_held_gradients_loads():
    pruner = Pruner(adapted(importance=weight_times_gradient))
    state = pruner.state_dict()
    for norms in state["norms"].values():
        del norms["gradient"], norms["passing"]
    pruner.load_state_dict(state)


def test_the_state_of_another_pruner_is_refused():
    model = adapted()
    state = Pruner(model, ratio=0.5).state_dict()
    with pytest.raises(ValueError, match=r"other settings: ratio=0\.5, now 0\.25"):
        Pruner(model, ratio=0.25).load_state_dict(state)
    with pytest.raises(ValueError, match="belongs to another model"):
        Pruner(adapted("gpt2"), ratio=0.5).load_state_dict(state)


def test_a_detached_pruner_no_longer_listens():
    model = adapted()
    pruner = Pruner(model)
    pruner.detach()
    model(**batch())
    assert all(norms.tokens == 0 for norms in pruner.norms.values())


def test_layers_without_an_attention_mask_work_too():
    """A plain module, as a notebook builds it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        LoRALinear(nn.Linear(6, 4), 2, scaling=1.0), nn.Tanh(), LoRALinear(nn.Linear(4, 3), 1, scaling=1.0)
    )
    pruner = Pruner(model, interval=1)
    x = torch.randn(10, 6)
    model(x)
    pruner.step()
    torch.testing.assert_close(pruner.norms["0"].mean_square, x.square().mean(0))
    assert (model[0].lora_A == 0).sum(1).tolist() == [3, 3]


# Mistakes


def test_nan_in_the_inputs_names_the_layer_and_the_step():
    model = adapted()
    pruner = Pruner(model)
    train(model, pruner, 1)
    with torch.no_grad():
        model.bert.encoder.layer[2].attention.output.LayerNorm.weight[3] = float("nan")
    model(**batch())
    with pytest.raises(ValueError, match=r"in the input of 'bert\.encoder\.layer\.2\.intermediate\.dense' .* step 2"):
        pruner.step()


@pytest.mark.parametrize("rule", ["magnitude_input", lambda lora_A, gradient: lora_A * gradient])
def test_after_a_batch_with_nan_a_good_one_is_counted_as_if_the_bad_one_had_not_been(rule):
    model = adapted(interval=9, importance=rule)
    pruner, norm = Pruner(model), model.bert.embeddings.LayerNorm.weight
    train(model, pruner, 1)
    scores = {name: pruner.scores(name) for name in pruner.layers}
    good = norm.detach().clone()
    norm.data[3] = float("nan")
    model(**batch()).loss.backward()
    with pytest.raises(ValueError, match="in optimizer step 2: check the batch"):
        pruner.step()
    norm.data.copy_(good)
    model.zero_grad()
    assert all(torch.equal(pruner.scores(name), before) for name, before in scores.items())
    train(model, pruner, 1, seed=1)
    assert pruner.steps == 2
    spared = adapted(interval=9, importance=rule)
    alone = Pruner(spared)
    for seed in range(2):
        train(spared, alone, 1, seed=seed)
    assert all(torch.equal(pruner.mean_square(name), alone.mean_square(name)) for name in pruner.layers)


def test_nan_in_a_is_found_before_anything_is_pruned():
    model = adapted()
    pruner = Pruner(model, interval=99)
    train(model, pruner, 1)
    with torch.no_grad():
        model.bert.encoder.layer[3].output.dense.lora_A[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"lora_A of bert\.encoder\.layer\.3\.output\.dense"):
        pruner.prune()
    assert pruner.sparsity() == 0


def test_a_pruner_that_never_saw_a_training_pass_says_so():
    model = adapted().eval()
    pruner = Pruner(model)
    model(**batch())
    with pytest.raises(RuntimeError, match="no forward pass in training mode"):
        pruner.step()
    with pytest.raises(RuntimeError, match="no statistics yet"):
        pruner.prune()


def test_a_detached_pruner_says_that_it_hears_no_pass():
    model = adapted()
    pruner = Pruner(model)
    pruner.detach()
    model(**batch())
    with pytest.raises(RuntimeError, match="the pruner was detached, so it hears none: make a new one"):
        pruner.step()


@pytest.mark.parametrize("mistake", ["twice", "evaluation", "copy"])
def test_a_step_without_a_pass_names_the_mistakes_that_may_be_behind_it(mistake):
    model = adapted()
    pruner = Pruner(model)
    if mistake == "twice":
        train(model, pruner, 1)
    elif mistake == "evaluation":
        model.eval()(**batch())
    else:
        copy.deepcopy(model)(**batch())
    with pytest.raises(RuntimeError, match=r"evaluation mode, .* twice for one pass.* a copy of the model"):
        pruner.step()


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps], ids=["deepcopy", "pickle"])
def test_a_pruner_is_not_copied_since_its_copy_would_hear_nothing(copied):
    pruner = Pruner(adapted())
    with pytest.raises(TypeError, match=r"can't be copied or pickled.* its state_dict\(\)"):
        copied(pruner)


def test_a_model_with_the_tokens_before_the_rows_is_refused():
    config = hf.XLNetConfig(d_model=24, n_layer=2, n_head=2, d_inner=40, vocab_size=99)
    model = hf.XLNetForSequenceClassification(config)
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5))
    with pytest.raises(ValueError, match=r"xlnet have the tokens before the rows.*without pruning \(ratio=0\)"):
        Pruner(model)


def bart_decoder_alone():
    """It has cross-attention that never runs."""
    config = hf.BartConfig(
        d_model=24, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=40, vocab_size=99, pad_token_id=0
    )
    model = hf.BartForCausalLM(config)
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5))
    return model.train()


def test_layers_that_no_forward_pass_reaches_stay_as_they_are_and_are_named_once():
    model = bart_decoder_alone()
    pruner = Pruner(model, interval=1)
    before = {name: layer.lora_A.detach().clone() for name, layer in pruner.layers.items()}
    model(**batch() | {"labels": None})
    with pytest.warns(UserWarning, match=r"reached '.*layers\.0\.encoder_attn\.k_proj' and 7 more in 1 steps.*targets"):
        pruner.step()
    for name, layer in pruner.layers.items():
        assert torch.equal(layer.lora_A, before[name] * (1 if "encoder_attn" in name else pruner.mask(name)))
    model(**batch() | {"labels": None})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner.step()


@pytest.mark.parametrize("asked", ["a permanent mask", "the scores of such a layer"])
def test_what_needs_the_scores_of_a_layer_that_no_forward_pass_reaches_is_refused(asked):
    model = bart_decoder_alone()
    pruner = Pruner(model, interval=2, regrow=asked != "a permanent mask")
    model(**batch() | {"labels": None})
    pruner.step()
    with pytest.raises(RuntimeError, match=r"has reached '.*layers\.0\.encoder_attn\.k_proj'.*with targets"):
        pruner.prune() if asked == "a permanent mask" else pruner.scores("model.decoder.layers.0.encoder_attn.k_proj")
    assert pruner.sparsity() == 0


def test_a_merged_layer_is_not_pruned():
    model = adapted()
    pruner = Pruner(model, interval=99)
    train(model, pruner, 1)
    model.bert.encoder.layer[0].output.dense.merge()
    with pytest.raises(RuntimeError, match="merged"):
        pruner.prune()


def test_masks_of_other_shapes_are_refused():
    model = adapted()
    Pruner(model)
    inputs = batch()
    with pytest.raises(ValueError, match=r"mask of shape \(batch, tokens\), got one of \(3, 1, 8, 8\)"):
        model(inputs["input_ids"], attention_mask=torch.ones(3, 1, 8, 8, dtype=torch.long))


def test_a_model_without_adapted_layers_is_refused():
    with pytest.raises(ValueError, match="neither a LoRALinear nor an active LoRA adapter"):
        Pruner(build("bert"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, r"must lie in \[0, 1\)"),
        ({"ratio": -0.1}, r"must lie in \[0, 1\)"),
        ({"ratio": float("nan")}, r"must lie in \[0, 1\)"),
        ({"interval": 0}, "at least 1 optimizer step, got 0"),
        ({"interval": 2.5}, r"at least 1 optimizer step, got 2\.5"),
        ({"decay": 1.0}, "decay"),
        ({"importance": "none such"}, "unknown importance rule 'none such': valid are magnitude_input"),
        ({"scope": "column"}, "unknown pruning scope 'column': valid are row, matrix"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pruner(adapted(), **options)


# Several processes


def in_two_processes(work, folder):
    method = processes().get_start_method()
    torch.multiprocessing.start_processes(work, args=(str(folder),), nprocs=2, start_method=method)


def _process(rank, folder):
    import torch.distributed as distributed

    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = adapted()
    pruner = Pruner(model, interval=2)
    for step in range(2):
        whole = batch(rows=4, seed=step)
        model(**{name: value[2 * rank : 2 * rank + 2] for name, value in whole.items()})
        pruner.step()
    torch.save({name: layer.lora_A for name, layer in pruner.layers.items()}, f"{folder}/{rank}.pt")
    distributed.barrier()  # neither leaves while the other still talks
    distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX paths")
def test_two_processes_prune_as_one_does_with_the_whole_batch(tmp_path):
    in_two_processes(_process, tmp_path)
    model = adapted()
    pruner = Pruner(model, interval=2)
    for step in range(2):
        model(**batch(rows=4, seed=step))
        pruner.step()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, layer in pruner.layers.items():
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], layer.lora_A)


def test_adapters_made_inside_distributed_data_parallel_are_refused(tmp_path):
    """Its processes would average the head's gradients, but not those of A and B."""
    import torch.distributed as distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = build("bert")
        parallel = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(ValueError, match=r"first, then wrap the model \(with Accelerate: before prepare\)"):
            adapt(parallel, PRILoRAConfig())
        adapt(model, PRILoRAConfig())
        with pytest.raises(ValueError, match="was made after the model was wrapped in DistributedDataParallel"):
            Pruner(parallel)
        Pruner(nn.parallel.DistributedDataParallel(model, find_unused_parameters=True))
    finally:
        distributed.destroy_process_group()


def _process_with_gradients(rank, folder):
    import torch.distributed as distributed

    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = adapted("distilbert")
    pruner = Pruner(model, interval=1, importance=weight_times_gradient)
    parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    for step in range(2):
        skipped = model.distilbert.transformer.layer[1] if rank == step == 0 else None  # as LayerDrop does
        if skipped is not None:
            skipped.forward = lambda x, *_, **__: x
        parallel(**batch(rows=4, seed=2 * step + rank)).loss.backward()
        if skipped is not None:
            del skipped.forward
        averaged = {name: layer.lora_A.grad.clone() for name, layer in pruner.layers.items()}
        before = {name: layer.lora_A.detach().clone() for name, layer in pruner.layers.items()}
        model.zero_grad()
        pruner.step()
    kept = {name: pruner._listener.gradients[name] for name in pruner.layers}
    torch.save({"kept": kept, "averaged": averaged, "before": before, "masks": zeros(pruner)}, f"{folder}/{rank}.pt")
    distributed.barrier()  # neither leaves while the other still talks
    distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX paths")
def test_processes_score_by_one_gradient_that_of_the_optimizer_also_where_one_skips_a_layer(tmp_path):
    in_two_processes(_process_with_gradients, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert equal(first["before"], second["before"])
    assert equal(first["masks"], second["masks"])
    assert equal(first["kept"], second["kept"])
    assert equal(first["kept"], first["averaged"])


def test_every_public_name_of_the_method_has_a_docstring():
    for name in prilora_lite.__all__:
        value = getattr(prilora_lite, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


# An importance of one's own, and what a model leaves to its pruner


def weight_times_gradient(lora_A, gradient):
    return (lora_A * gradient).abs()


def test_an_importance_of_ones_own_is_a_function_of_what_its_parameters_name():
    model = adapted()
    pruner = Pruner(model, interval=1, ratio=0.5, importance=weight_times_gradient)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**batch()).loss.backward()
    gradients = {name: layer.lora_A.grad.clone() for name, layer in pruner.layers.items()}
    optimizer.step()
    stepped = {name: layer.lora_A.detach().clone() for name, layer in pruner.layers.items()}
    optimizer.zero_grad()  # as Trainer does before its callbacks hear of the step
    pruner.step()
    for name, layer in pruner.layers.items():
        keep = keep_mask((stepped[name] * gradients[name]).abs(), 0.5)
        assert torch.equal(layer.lora_A, stepped[name] * keep)


def test_a_rule_in_the_table_is_known_by_its_name(monkeypatch):
    monkeypatch.setitem(IMPORTANCE_RULES, "weight_times_gradient", weight_times_gradient)
    config = PRILoRAConfig(importance="weight_times_gradient")
    assert PRILoRAConfig.from_dict(config.to_dict()) == config
    model = adapted(importance="weight_times_gradient")
    pruner = Pruner(model, interval=1)
    train(model, pruner, 1)
    assert pruner.history[0]["after"] >= 0.5


@pytest.mark.parametrize("rule", IMPORTANCE_RULES)
def test_every_rule_in_the_table_scores_alike_whenever_its_generator_starts_alike(rule):
    gradient = torch.ones_like(A)
    first, second = (importance(A, S, rule, torch.Generator().manual_seed(0), gradient) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("rule", IMPORTANCE_RULES)
def test_an_entry_is_as_important_as_its_negative(rule):
    A, gradient = torch.randn(2, 3, 5)
    scores = [
        importance(sign * A, torch.rand(5, generator=torch.Generator().manual_seed(1)), rule,
                   torch.Generator().manual_seed(0), sign * gradient)
        for sign in (1, -1)
    ]  # fmt: skip
    assert torch.equal(*scores)


def test_a_rule_in_the_table_may_ask_for_no_more_than_any_other(monkeypatch):
    monkeypatch.setitem(IMPORTANCE_RULES, "noise", lambda A: torch.rand(A.shape))
    with pytest.raises(ValueError, match="also asks for A, and is given nothing else"):
        PRILoRAConfig(importance="noise")


def test_an_importance_that_asks_for_what_no_rule_is_given_is_refused():
    with pytest.raises(ValueError, match=r"function of any of lora_A, mean_square, gradient, generator; .* hessian"):
        PRILoRAConfig(importance=lambda lora_A, hessian: lora_A)


def test_an_importance_of_another_shape_is_refused():
    model = adapted()
    pruner = Pruner(model, interval=1, importance=lambda lora_A: lora_A.sum(0))
    model(**batch())
    with pytest.raises(ValueError, match=r"a real score for each entry of A, \(2, 24\), got \(24,\)"):
        pruner.step()


@pytest.mark.parametrize("kind", ["complex", "sparse"])
def test_an_importance_of_numbers_without_an_order_or_a_place_is_refused(kind):
    model = adapted()
    odd = {"complex": lambda lora_A: lora_A + 1j, "sparse": lambda lora_A: lora_A.to_sparse()}[kind]
    pruner = Pruner(model, interval=1, importance=odd)
    model(**batch())
    with pytest.raises(ValueError, match=f"a real score for each entry of A, .*{kind}"):
        pruner.step()


def test_an_importance_that_no_file_can_hold_is_refused_when_it_is_saved(tmp_path):
    model = adapted(importance=weight_times_gradient)
    with pytest.raises(ValueError, match=r"put it into importance\.IMPORTANCE_RULES under a name"):
        save_adapter(model, tmp_path / "adapter.safetensors")
    assert not (tmp_path / "adapter.safetensors").exists()


def test_a_pruner_takes_its_settings_from_the_model():
    model = adapted(ratio=0.9, interval=3, importance="magnitude", seed=7)
    assert Pruner(model).settings == {
        "ratio": 0.9, "interval": 3, "decay": 0.9, "importance": "magnitude", "scope": "row", "regrow": True, "seed": 7
    }  # fmt: skip
    assert Pruner(model, ratio=0.25).settings["ratio"] == 0.25


def test_statistics_scores_and_mask_can_be_asked_for_by_layer():
    model = adapted()
    pruner, reference, inputs = Pruner(model, interval=1, ratio=0.5), Reference(model), batch()
    run(model, reference, inputs)
    before = {name: layer.lora_A.detach().clone() for name, layer in pruner.layers.items()}
    pruner.step()
    reference.step()
    for name, layer in pruner.layers.items():
        torch.testing.assert_close(pruner.mean_square(name), reference.s[name], rtol=1e-12, atol=0)
        assert torch.equal(pruner.scores(name), layer.lora_A.abs() * pruner.mean_square(name).sqrt())
        assert torch.equal(layer.lora_A, before[name] * pruner.mask(name))
    with pytest.raises(ValueError, match=r"unknown adapted layer .*: did you mean"):
        pruner.mask(next(iter(pruner.layers))[:-1])


def steps_of(pruner, model, optimizer, number):
    """What is warned of in a loop of some steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(number):
            model(**batch()).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            pruner.step()
    return [str(warning.message) for warning in caught if "lora_B" in str(warning.message)]


def test_an_optimizer_that_was_made_before_the_adapter_is_warned_of_once():
    model = build("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, interval=4))
    warned = steps_of(Pruner(model), model.train(), optimizer, 20)
    assert len(warned) == 1
    assert "lora_B of all layers is still zero after 12 steps" in warned[0]


@pytest.mark.parametrize("interval", [1, 4])
def test_a_warm_up_that_begins_at_zero_is_not_warned_of(interval):
    model = adapted(interval=interval, dtype=torch.float32)
    for layer in Pruner(model).layers.values():
        nn.init.zeros_(layer.lora_B)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    schedule = hf.get_linear_schedule_with_warmup(optimizer, 5, 20)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    assert steps_of(Pruner(model), model, optimizer, 20) == []


def test_a_frozen_layer_has_no_scores_and_says_so():
    model = adapted()
    pruner = Pruner(model)
    frozen, other = list(pruner.layers)[:2]
    pruner.layers[frozen].lora_A.requires_grad_(False)
    model(**batch()).loss.backward()
    pruner.step()
    for ask in (pruner.scores, pruner.mask):
        with pytest.raises(ValueError, match=rf"lora_A of {frozen} is frozen: it has no scores"):
            ask(frozen)
        assert ask(other).shape == pruner.layers[other].lora_A.shape


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_run_goes_on_where_every_a_is_frozen_in_its_midst(steps_before, regrow):
    model = adapted()
    pruner = Pruner(model, interval=2, regrow=regrow)
    train(model, pruner, steps_before)
    for layer in pruner.layers.values():
        layer.lora_A.requires_grad_(False)
    before, prunes = pruner.sparsity(), len(pruner.history)
    train(model, pruner, 3, seed=3)
    pruner.prune()
    assert (pruner.pruned_at, len(pruner.history)) == (steps_before + 3, prunes)
    assert pruner.sparsity() == before
    for layer in pruner.layers.values():
        layer.lora_A.requires_grad_(True)
    pruner.prune()
    assert pruner.sparsity() == 0.5


@pytest.mark.parametrize("regrow", [True, False])
def test_layers_that_were_frozen_until_the_last_prune_are_pruned_though_the_others_have_just_been(regrow):
    model = adapted()
    pruner = Pruner(model, interval=2, regrow=regrow)
    frozen = list(pruner.layers.values())[:5]
    for layer in frozen:
        layer.lora_A.requires_grad_(False)
    train(model, pruner, 4)
    for layer in frozen:
        layer.lora_A.requires_grad_(True)
    pruner.prune()
    assert pruner.sparsity() == 0.5
    prunes = len(pruner.history)
    pruner.prune()
    assert len(pruner.history) == prunes


def test_a_pruner_that_takes_over_what_an_earlier_one_was_told_says_so():
    model = adapted()
    train(model, Pruner(model, importance="magnitude", regrow=False, interval=1), 2)
    with pytest.warns(UserWarning, match=r"interval=1, importance='magnitude' of an earlier Pruner .* this one, too"):
        Pruner(model, regrow=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pruner(model, importance="magnitude", regrow=True, interval=3)
        model.prilora_config = dataclasses.replace(model.prilora_config, interval=7)
        Pruner(model)  # that one was given by hand


def test_after_a_merge_no_pruner_remembers_an_earlier_one():
    peft = pytest.importorskip("peft")
    model = adapted()
    train(model, pruner := Pruner(model, ratio=0.25, interval=1), 1)
    pruner.detach()
    merge_and_unload(model)
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Pruner(model).settings["ratio"] == 0.5


def test_freezing_a_layer_leaves_the_noise_of_the_others_as_it_was():
    model = adapted(importance="random")
    pruner = Pruner(model, interval=1)
    train(model, pruner, 1)
    first, *others = pruner.layers
    before = {name: pruner.layers[name].lora_A != 0 for name in others}
    pruner.layers[first].lora_A.requires_grad_(False)
    train(model, pruner, 1)
    assert all(torch.equal(pruner.layers[name].lora_A != 0, mask) for name, mask in before.items())


def test_without_regrowth_a_layer_that_is_trained_only_later_gets_its_mask_then():
    model = adapted()
    pruner = Pruner(model, interval=1, regrow=False)
    late, *others = pruner.layers.values()
    late.lora_A.requires_grad_(False)
    train(model, pruner, 1)
    masks = [layer.lora_A != 0 for layer in others]
    late.lora_A.requires_grad_(True)
    train(model, pruner, 1)
    chosen = late.lora_A != 0
    train(model, pruner, 2, seed=5)
    assert pruner.sparsity() == 0.5
    assert torch.equal(late.lora_A != 0, chosen)
    assert all(torch.equal(layer.lora_A != 0, mask) for layer, mask in zip(others, masks, strict=True))


def test_tokens_are_counted_exactly_whatever_torchs_default_type_is():
    torch.set_default_dtype(torch.bfloat16)
    try:
        norms = InputNorms(2)
        for _ in range(5):
            norms.add(torch.ones(1001, 2))
    finally:
        torch.set_default_dtype(torch.float32)
    assert norms.tokens == 5005


# Passes that are not the training's


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_of_a_model_feeds_no_pruner(how, tmp_path):
    model = adapted()
    pruner = Pruner(model)
    if how == "torch.save":
        torch.save(model, tmp_path / "model.pt")
        twin = torch.load(tmp_path / "model.pt", weights_only=False)
    else:
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    twin.train()(**batch()).loss.backward()
    assert all(norms.tokens == 0 for norms in pruner.norms.values())
    model(**batch()).loss.backward()
    assert all(norms.tokens > 0 for norms in pruner.norms.values())


def test_a_pass_without_a_gradient_does_not_count():
    model = adapted()
    pruner = Pruner(model)
    with torch.no_grad():
        model(**batch())
    assert all(norms.tokens == 0 for norms in pruner.norms.values())


def test_generation_during_training_does_not_count():
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    llama = hf.LlamaConfig(**small, vocab_size=99, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = prepared(hf.LlamaForCausalLM(llama))
    pruner = Pruner(model)
    ids = torch.randint(5, 99, (2, 8))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # padded on the left
    model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    assert all(norms.tokens == 0 for norms in pruner.norms.values())
    model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    assert {float(norms.tokens) for norms in pruner.norms.values()} == {13.0}


def test_a_mask_for_each_kind_of_layer_is_refused_with_the_way_out():
    model = adapted()
    Pruner(model)
    with pytest.raises(ValueError, match="got a dict: pass the mask as the tokenizer gives it"):
        model(**batch() | {"attention_mask": {"full_attention": None}})


def test_tokens_that_the_mask_does_not_count_are_refused_with_the_way_out():
    speech = hf.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16, 16),
        conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
    )  # fmt: skip
    model = prepared(hf.Wav2Vec2ForSequenceClassification(speech))
    Pruner(model)
    with pytest.raises(ValueError, match="makes other tokens than those its mask counts"):
        model(torch.randn(2, 400), attention_mask=torch.ones(2, 400, dtype=torch.long))


@pytest.mark.parametrize(
    "real", [torch.tensor([1, 1, 0, 0, 1]), torch.ones(1, 5, dtype=torch.bool), torch.ones(4, dtype=torch.bool)]
)
def test_a_mask_of_another_form_is_refused_with_the_way_to_the_right_one(real):
    with pytest.raises(ValueError, match=r"a truth value for each of 5 tokens.*attention_mask\.flatten\(\)\.bool"):
        InputNorms(3).add(torch.randn(1, 5, 3), real)


def test_an_input_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"expected an input of 4 features, got one of shape \(5, 1\)"):
        InputNorms(4).add(torch.randn(5, 1))


def test_an_A_that_is_computed_anew_in_each_pass_is_refused():
    model = build("bert")
    adapt(model, PRILoRAConfig.lora(2, ratio=0.5))
    layer = next(m for m in model.modules() if isinstance(m, LoRALinear))
    torch.nn.utils.parametrize.register_parametrization(layer, "lora_A", torch.nn.Identity())
    with pytest.raises(ValueError, match="is computed anew in each pass, by a parametrization"):
        Pruner(model)


def test_an_input_by_keyword_is_named():
    class ByKeyword(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4)})])

        def forward(self, x):
            return self.layers[0]["fc"](x=x)

    model = ByKeyword()
    adapt(model, PRILoRAConfig.lora(2, ratio=0.5))
    Pruner(model.train())
    with pytest.raises(TypeError, match=r"layers\.0\.fc is called with its input by keyword"):
        model(torch.randn(2, 4))


def test_layers_of_adapt_inside_pefts_are_refused():
    peft = pytest.importorskip("peft")
    model = build("bert")
    adapt(model, PRILoRAConfig.lora(2, ratio=0.5))
    both = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["base"]))
    with pytest.raises(ValueError, match=r"layers of adapt\(\) and of PEFT's get_peft_model"):
        Pruner(both)
