"""Half precision, torch.compile, and quantized bases: the same statistics and masks, or a clear refusal."""

import warnings

import pytest
import torch
from torch import nn

from prilora_lite import LoRALinear, PRILoRAConfig, Pruner, adapt
from tests.small_models import HIDDEN, batch, build, shallow

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5, interval=2)


def model_without_dropout():
    model = shallow("bert")
    adapt(model, CONFIG)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_B, std=0.02)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def masks_after_two_steps(model, pruner, **autocast):
    """Train, and return where A is zero."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=autocast.get("dtype") == torch.float16)
    for seed in range(2):
        with torch.autocast("cpu", enabled=bool(autocast), **autocast):
            loss = model(**batch(seed=seed)).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        pruner.step()
        optimizer.zero_grad()
    return torch.cat([(layer.lora_A == 0).flatten() for layer in pruner.layers.values()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_a_step_trains_float32_weights_and_prunes_nearly_the_same(dtype):
    model, plain = model_without_dropout(), model_without_dropout()
    mask = masks_after_two_steps(model, Pruner(model, interval=2), dtype=dtype)
    expected = masks_after_two_steps(plain, Pruner(plain, interval=2))
    assert mask.float().mean() == expected.float().mean() == 0.5
    # a mask is discontinuous: entries of nearly equal importance may change places
    assert (mask != expected).float().mean() < 0.05
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_in_half_precision_keeps_a_and_b_in_float32():
    model = build("bert").bfloat16()
    adapt(model, CONFIG)
    pruner = Pruner(model.train(), interval=1)
    model(**batch()).loss.backward()
    pruner.step()
    assert {layer.lora_A.dtype for layer in pruner.layers.values()} == {torch.float32}
    assert {norms.mean_square.dtype for norms in pruner.norms.values()} == {torch.float32}
    assert pruner.sparsity() == 0.5


def test_a_model_that_is_cast_after_adapt_is_warned_of():
    adapt(model := build("bert"), PRILoRAConfig(first_rank=2, last_rank=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pruner(model)
    with pytest.warns(UserWarning, match="A is in bfloat16, in which small steps .*: cast the model before adapt"):
        Pruner(model.bfloat16())


@pytest.mark.parametrize(("dtype", "told"), [(torch.bfloat16, ["bfloat16"]), (torch.float32, [])])
def test_the_report_says_where_a_head_is_trained_in_half_precision(dtype, told):
    notes = adapt(build("bert").to(dtype), CONFIG).notes
    assert [note.split(",")[0] for note in notes] == [f"the head is trained in {name}" for name in told]


# torch.compile, with the backend that needs no compiler: what is traced is the same


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_layer_compiles_as_one_graph(dropout):
    layer = LoRALinear(nn.Linear(7, 5), 3, scaling=2.0, dropout=dropout).train()
    nn.init.normal_(layer.lora_B)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")  # fullgraph: a break is an error
    x = torch.randn(4, 7)
    torch.manual_seed(0)
    expected = layer(x)
    torch.manual_seed(0)
    assert torch.equal(compiled(x), expected)


@pytest.mark.parametrize("listens_to", ["the model", "the compiled one"])
def test_a_compiled_model_has_the_statistics_and_masks_of_a_plain_one(listens_to):
    plain, model = model_without_dropout(), model_without_dropout()
    compiled = torch.compile(model, backend="eager")
    pruner, expected = (
        Pruner(compiled if listens_to == "the compiled one" else model, interval=2),
        Pruner(plain, interval=2),
    )
    assert torch.equal(masks_after_two_steps(compiled, pruner), masks_after_two_steps(plain, expected))
    for name, norms in expected.norms.items():
        assert torch.equal(pruner.norms[name].mean_square, norms.mean_square)


def test_a_pruner_made_after_a_compiled_model_ran_listens_to_it_or_says_that_it_can_not():
    """Older releases of torch don't look for new hooks once they have compiled a module."""
    plain, model = model_without_dropout(), model_without_dropout()
    compiled = torch.compile(model, backend="eager")
    compiled(**batch())
    pruner, expected = Pruner(model), Pruner(plain)
    for each in (compiled, plain):
        each(**batch(seed=1))
    if not any(norms.tokens for norms in pruner.norms.values()):
        with pytest.raises(RuntimeError, match="make the Pruner before training starts"):
            pruner.step()
        return
    expected.step()
    pruner.step()
    for name, norms in expected.norms.items():
        assert torch.equal(pruner.norms[name].mean_square, norms.mean_square)


# Quantized bases


class Int8Linear(nn.Linear):
    """A linear layer as quantizers make them: integers and a scale, which is the weight to no other code."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features)
        self.scale = linear.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def quantized():
    model = build("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.self.query = Int8Linear(layer.attention.self.query)
    return model


def test_a_quantized_base_is_refused_and_peft_named():
    with pytest.raises(ValueError, match=r"holds torch\.int8 on cpu: load the model unquantized.*rank_pattern_for"):
        adapt(quantized(), CONFIG)
    with pytest.raises(TypeError, match=r"the weight is torch\.int8"):
        LoRALinear(Int8Linear(nn.Linear(HIDDEN, HIDDEN)), 2, scaling=1.0)


def test_pefts_lora_on_a_quantized_base_is_pruned():
    peft = pytest.importorskip("peft")
    from prilora_lite import rank_pattern_for

    model = quantized()
    patterns = rank_pattern_for(model, first_rank=2, last_rank=5, targets=("query",))
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], **patterns)).train()
    pruner = Pruner(model, interval=2)
    masks_after_two_steps(model, pruner)
    assert {layer.rank for layer in pruner.layers.values()} == {2, 3, 4, 5}
    assert all(((layer.lora_A == 0).sum(1) == HIDDEN // 2).all() for layer in pruner.layers.values())
