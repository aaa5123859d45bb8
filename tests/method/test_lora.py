import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from prilora_lite import LoRALinear, merge_and_unload


def make(kind="linear", out_features=5, in_features=7, rank=3, dtype=torch.float64, trained=True, seed=0, **options):
    torch.manual_seed(seed)
    base = nn.Linear(in_features, out_features) if kind == "linear" else Conv1D(out_features, in_features)
    layer = LoRALinear(base.to(dtype), rank, **({"scaling": 2.0} | options))
    if trained:
        nn.init.normal_(layer.lora_B)
    return layer


def plain(layer, x):
    """The equation, written out: W0 x + b + s B A x."""
    W0 = layer.base.weight if isinstance(layer.base, nn.Linear) else layer.base.weight.T
    return x @ W0.T + layer.base.bias + layer.scaling * (x @ layer.lora_A.T @ layer.lora_B.T)


kinds = pytest.mark.parametrize("kind", ["linear", "conv1d"])


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_starts_as_its_base_bit_for_bit(kind, dtype):
    layer = make(kind, trained=False, dtype=dtype)
    x = torch.randn(4, 6, 7, dtype=dtype)
    assert torch.equal(layer(x), layer.base(x))


@kinds
def test_forward_is_the_equation(kind):
    layer, x = make(kind), torch.randn(4, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 4, 7), (0, 7)])
def test_any_number_of_leading_dimensions(shape):
    layer, x = make(), torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-12, atol=1e-12)


@kinds
def test_gradients_are_those_of_the_equation(kind):
    layer, x = make(kind), torch.randn(4, 6, 7, dtype=torch.float64, requires_grad=True)
    inputs = (x, layer.lora_A, layer.lora_B)
    weights = torch.randn(4, 6, 5, dtype=torch.float64)
    ours = torch.autograd.grad((layer(x) * weights).sum(), inputs)
    theirs = torch.autograd.grad((plain(layer, x) * weights).sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_only_a_and_b_are_trained():
    layer = make()
    layer(torch.randn(2, 7, dtype=torch.float64)).sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {"lora_A", "lora_B"}


def test_without_dropout_there_is_no_dropout_module():
    assert not [module for module in make().modules() if isinstance(module, nn.Dropout)]


def test_dropout_drops_inputs_of_the_update_in_training_only():
    layer, x = make(dropout=0.4), torch.ones(20_000, 7, dtype=torch.float64)
    torch.manual_seed(1)
    dropped = layer(x)
    torch.manual_seed(1)
    expected = layer.base(x) + layer.scaling * (F.dropout(x, 0.4) @ layer.lora_A.T @ layer.lora_B.T)
    torch.testing.assert_close(dropped, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(dropped, plain(layer, x))
    torch.testing.assert_close(layer.eval()(x), plain(layer, x), rtol=1e-12, atol=1e-12)


@kinds
def test_merging_changes_nothing_but_the_number_of_products(kind):
    layer, x = make(kind).eval(), torch.randn(4, 6, 7, dtype=torch.float64)
    before = layer(x)
    layer.merge()
    assert layer.merged
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(x), layer.base(x))


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_unmerging_gives_the_weight_back_bit_for_bit(kind, dtype):
    layer = make(kind, dtype=dtype)
    before = layer.base.weight.clone()
    for _ in range(3):
        layer.merge()
        assert not torch.equal(layer.base.weight, before)
        layer.unmerge()
        assert torch.equal(layer.base.weight, before)
        assert not layer.merged


def test_merging_twice_and_unmerging_an_unmerged_layer_are_refused():
    layer = make()
    with pytest.raises(RuntimeError, match="not merged"):
        layer.unmerge()
    layer.merge()
    with pytest.raises(RuntimeError, match="merged already"):
        layer.merge()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merging_an_update_of_zero_changes_nothing_whatever_the_dtype_of_a_and_b(dtype):
    layer = LoRALinear(nn.Linear(6, 4), 2, scaling=1.0)
    layer.lora_A.data, layer.lora_B.data = layer.lora_A.to(dtype), layer.lora_B.to(dtype)
    before = layer.base.weight.clone()
    layer.merge()
    assert torch.equal(layer.base.weight, before)


def test_the_state_of_a_layer_is_the_same_merged_or_not():
    model = nn.Sequential(LoRALinear(nn.Linear(6, 4), 2, scaling=2.0), nn.Linear(4, 3))
    nn.init.normal_(model[0].lora_B)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[0].merge()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(before["0.base.weight"], model[0].base.weight)
    with pytest.raises(RuntimeError, match="merged, so weights loaded into it would be mixed"):
        model.load_state_dict(before)
    model[0].unmerge()
    model.load_state_dict(before)


@pytest.mark.parametrize(
    "computed",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm,
     lambda layer: prune.l1_unstructured(layer, "weight", 0.5)],
)  # fmt: skip
def test_nothing_is_merged_into_a_weight_that_is_computed_anew(computed):
    layers = [LoRALinear(nn.Linear(6, 4), 2, scaling=1.0), LoRALinear(computed(nn.Linear(6, 4)), 2, scaling=1.0)]
    model, x = nn.Sequential(layers[0], nn.Linear(4, 6), layers[1]).eval(), torch.randn(3, 6)
    for layer in layers:
        nn.init.normal_(layer.lora_B)
    before = model(x)
    with pytest.raises(RuntimeError, match="computed anew from other parameters"):
        layers[1].merge()
    with pytest.raises(RuntimeError, match="computed anew from other parameters"):
        merge_and_unload(model)
    assert torch.equal(model(x), before)
    assert not layers[0].merged


def test_training_a_merged_layer_is_refused_and_predicting_is_not():
    layer, x = make(), torch.randn(2, 7, dtype=torch.float64)
    layer.merge()
    with pytest.raises(RuntimeError, match="no gradient would reach"):
        layer(x)
    with torch.no_grad():
        layer(x)
    layer.eval()(x)


def test_the_kept_weight_is_not_saved():
    layer = make()
    layer.merge()
    assert set(layer.state_dict()) == {"base.weight", "base.bias", "lora_A", "lora_B"}


def test_half_precision_bases_get_float32_adapters_and_keep_their_output_type():
    layer = make(dtype=torch.bfloat16)
    assert layer.lora_A.dtype == layer.lora_B.dtype == torch.float32
    assert layer(torch.randn(2, 7, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_autocast_computes_in_its_type_and_trains_in_float32():
    layer = make(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(2, 7))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.lora_A.grad.dtype == layer.lora_B.grad.dtype == torch.float32


def test_the_update_is_added_to_the_bases_output_without_another_tensor_of_its_size():
    layer, places = make(), []
    of_base = layer.base.forward
    layer.base.forward = lambda x: places.append(y := of_base(x)) or y
    assert layer(torch.randn(2, 3, layer.in_features, dtype=torch.float64)).data_ptr() == places[0].data_ptr()


def test_a_hook_on_the_base_keeps_what_the_base_returned():
    layer, x, kept = make(), torch.randn(4, 7, dtype=torch.float64), []
    layer.base.register_forward_hook(lambda module, args, output: kept.append(output))
    layer(x)
    assert torch.equal(kept[0], F.linear(x, layer.base.weight, layer.base.bias))


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_gradient_passes_hooks_that_ask_for_it(everywhere):
    layer, x, seen = make(), torch.randn(4, 7, dtype=torch.float64, requires_grad=True), []
    layer(x).square().sum().backward()
    without = layer.lora_B.grad.clone(), x.grad.clone()
    layer.lora_B.grad = x.grad = None
    register = nn.modules.module.register_module_full_backward_hook if everywhere else None
    hook = (register or layer.base.register_full_backward_hook)(lambda module, *gradients: seen.append(module))
    layer(x).square().sum().backward()
    hook.remove()
    assert layer.base in seen
    assert torch.equal(layer.lora_B.grad, without[0])
    assert torch.equal(x.grad, without[1])


@pytest.mark.parametrize("shape", [(2, 3, 14), (14,), (), (1,)])
def test_an_input_of_another_width_is_refused(shape):
    with pytest.raises(RuntimeError):
        make()(torch.randn(shape, dtype=torch.float64))


def test_a_number_alone_is_refused_by_a_layer_of_one_feature():
    with pytest.raises(RuntimeError):
        make(in_features=1, rank=1)(torch.tensor(1.0, dtype=torch.float64))


def test_a_base_without_bias():
    layer = LoRALinear(nn.Linear(7, 5, bias=False), 2, scaling=1.0)
    x = torch.randn(3, 7)
    assert torch.equal(layer(x), x @ layer.weight.T)
    assert layer.bias is None


@given(rank=st.integers(1, 5), scaling=st.floats(0.01, 100), seed=st.integers(0, 99), conv=st.booleans())
def test_the_update_is_linear_in_the_scaling_and_of_rank_at_most_r(rank, scaling, seed, conv):
    layer = make("conv1d" if conv else "linear", rank=rank, scaling=scaling, seed=seed)
    x = torch.randn(3, 7, dtype=torch.float64)
    update = layer(x) - layer.base(x)
    twice = copy.deepcopy(layer)
    twice.scaling = 2 * scaling
    torch.testing.assert_close(twice(x) - twice.base(x), 2 * update, rtol=1e-9, atol=1e-9 * scaling)
    delta = layer.delta_weight()
    assert delta.shape == layer.base.weight.shape
    assert torch.linalg.matrix_rank(delta) <= rank
    torch.testing.assert_close(x @ (delta if conv else delta.T), update, rtol=1e-9, atol=1e-9 * scaling)


@given(seed=st.integers(0, 99), rank=st.integers(1, 5))
def test_merged_and_unmerged_agree(seed, rank):
    layer = make(seed=seed, rank=rank).eval()
    x = torch.randn(3, 7, dtype=torch.float64)
    before = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), before, rtol=1e-10, atol=1e-10)


def test_a_merge_into_bfloat16_rounds_once():
    layer = make(rank=5)
    layer.base.bfloat16()
    exact = layer.base.weight.double() + layer.delta_weight()
    layer.merge()
    assert torch.equal(layer.base.weight, exact.bfloat16())


def test_equals_peft():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5)).double()
    ours = LoRALinear(copy.deepcopy(model[0]), 3, scaling=16 / 3)
    config = peft.LoraConfig(r=3, lora_alpha=16, target_modules=["0"])
    theirs = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    layer = theirs.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    ours.load_state_dict(
        {"lora_A": layer.lora_A["default"].weight, "lora_B": layer.lora_B["default"].weight}, strict=False
    )
    x = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(ours.lora_A.grad, layer.lora_A["default"].weight.grad, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours.lora_B.grad, layer.lora_B["default"].weight.grad, rtol=1e-11, atol=1e-11)


def test_a_starts_as_lora_starts_it():
    A = make(in_features=400, out_features=400, rank=64, trained=False).lora_A
    bound = 1 / math.sqrt(400)  # Kaiming uniform with a = sqrt(5)
    assert A.abs().max() <= bound
    assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("rank", [0, -1, 6, 2.0, True, None])
def test_ranks_that_do_not_fit_are_refused(rank):
    with pytest.raises(ValueError, match=r"rank must be an integer from 1 to min\(in, out\) = 5 .* shape 5x7"):
        make(rank=rank)


@pytest.mark.parametrize("scaling", [0, -1.0, math.nan, math.inf, "2", True, None])
def test_scalings_out_of_range_are_refused(scaling):
    with pytest.raises(ValueError, match="scaling must be a finite number above 0"):
        make(scaling=scaling)


def test_the_scaling_is_never_implied():
    with pytest.raises(TypeError, match="scaling"):
        LoRALinear(nn.Linear(7, 5), 2)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan, "0.1", True])
def test_dropout_out_of_range_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout must lie in"):
        make(dropout=dropout)


def test_other_layers_are_refused():
    with pytest.raises(TypeError, match=r"expected nn.Linear or GPT-2's Conv1D, got Embedding"):
        LoRALinear(nn.Embedding(3, 4), 1, scaling=1.0)
    quantized = nn.Linear(4, 4)
    quantized.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match="quantized"):
        LoRALinear(quantized, 1, scaling=1.0)


def test_rank_and_scaling_may_be_numbers_of_numpy():
    layer = LoRALinear(nn.Linear(4, 3), np.int64(2), scaling=np.float32(0.5))
    assert (type(layer.rank), type(layer.scaling)) == (int, float)
    assert (layer.rank, layer.scaling) == (2, 0.5)
