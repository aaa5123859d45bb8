"""What the pruner hears: nothing in a pass looks at data on a device, and a model may be spread over several."""

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from prilora_lite import InputNorms, LoRALinear, PRILoRAConfig, Pruner, adapt
from tests.small_models import BUILDERS, batch, build

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5)


def adapted(name="bert"):
    model = build(name)
    model.config.problem_type = "single_label_classification"  # else transformers looks at the labels
    adapt(model, CONFIG)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_B, std=0.02)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


# No waiting for the device


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tokens_told_by_truth_values_are_those_told_by_places(dtype):
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, 1], x[3, 4, 2] = torch.nan, torch.inf  # padded
    real = torch.ones(20, dtype=torch.bool)
    real[[1, 19]] = False
    by_truth, by_place = InputNorms(3), InputNorms(3)
    by_truth.add(x, real)
    by_place.add(x, real.nonzero().squeeze(1))
    assert by_truth.tokens == by_place.tokens == 18
    assert by_place.squares.isfinite().all()
    torch.testing.assert_close(by_truth.squares, by_place.squares, rtol=1e-6, atol=0)


def on(device, model):
    """Put a model, without its data, on a device that torch only pretends to have.

    Args:
        device: from a module's name to its device.
    """
    for name, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, value in held.items():
                if value is not None:
                    there = torch.empty(value.shape, dtype=value.dtype, device=device(name))
                    held[key] = nn.Parameter(there, value.requires_grad) if held is module._parameters else there
    return model


def batch_on(device):
    return {key: torch.ones(value.shape, dtype=value.dtype, device=device) for key, value in batch().items()}


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "gpt2"])  # GPT-2's head looks for the last token
def test_a_training_pass_on_a_device_looks_at_no_data(name):
    """Tensors without data: to look at it is an error, and so is what has a shape that depends on it."""
    model, unadapted = adapted(name), build(name).train()
    with FakeTensorMode():
        try:
            on(lambda name: "lazy:0", unadapted)(**batch_on("lazy:0") | {"labels": None})
        except RuntimeError as error:
            pytest.skip(f"in this version the unadapted model can't run there either: {error}")
        on(lambda name: "lazy:0", model)
        pruner = Pruner(model)
        model(**batch_on("lazy:0")).loss.backward()
        assert {str(norms.tokens.device) for norms in pruner.norms.values()} == {"lazy:0"}


class Looks(TorchFunctionMode):
    """Counts the calls that would wait for a device."""

    WAITS = ("tolist", "item", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        if getattr(function, "__name__", "") in self.WAITS:
            self.seen.append(function.__name__)
        return function(*arguments, **(options or {}))


def test_an_optimizer_step_waits_for_the_device_once():
    model = adapted()
    pruner = Pruner(model, interval=99)
    for seed in range(3):
        model(**batch(seed=seed)).loss.backward()
        with Looks() as looks:
            pruner.step()
        assert looks.seen == ["tolist"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_are_folded_together_as_each_is_alone(dtype):
    """Three steps; in the second one layer sees nothing. To the bit."""
    layers = nn.ModuleDict({name: LoRALinear(nn.Linear(n, 4, dtype=dtype), 2, scaling=1.0) for name, n in SIZES})
    pruner, alone = Pruner(layers, interval=99, decay=0.7), {name: InputNorms(n) for name, n in SIZES}
    for step, seen in enumerate([("a", "b", "c"), ("a", "c"), ("a", "b", "c")]):
        pruner._listener._tokens._real = dict.fromkeys(pruner._listener._tokens._real, (None, None))
        for name in seen:
            x = torch.randn(5 + step, 7, dict(SIZES)[name], dtype=dtype)
            layers.train()[name](x).sum().backward()
            alone[name].add(x)
        pruner.step()
        for name in seen:
            alone[name].fold(0.7)
        for name, norms in alone.items():
            assert torch.equal(pruner.mean_square(name), norms.mean_square)


SIZES = (("a", 3), ("b", 11), ("c", 3))


# A model that is spread over devices


def second_half(name):
    return any(part in name for part in ("layer.2", "layer.3", "pooler", "classifier"))


@pytest.fixture
def spread():
    """A BERT of which half is on another device, its pruner, and a batch; to mix two devices is an error there."""
    model = adapted()
    with FakeTensorMode():
        on(lambda name: f"lazy:{int(second_half(name))}", model)
        for module in (*model.bert.encoder.layer[2:], model.bert.pooler, model.classifier):
            add_hook_to_module(module, AlignDevicesHook("lazy:1"))
        yield model, Pruner(model), batch_on("lazy:0") | {"labels": batch_on("lazy:1")["labels"]}


def test_each_layers_statistics_are_on_its_own_device(spread):
    model, pruner, inputs = spread
    model(**inputs).loss.backward()
    for name, norms in pruner.norms.items():
        assert str(norms.squares.device) == str(norms.tokens.device) == f"lazy:{int(second_half(name))}"


def test_a_step_brings_the_counts_of_all_devices_together(spread):
    model, pruner, inputs = spread
    model(**inputs).loss.backward()
    with pytest.raises(DataDependentOutputException):  # it comes as far as looking at the counts
        pruner.step()
    with pytest.raises(DataDependentOutputException):
        pruner.sparsity()


def test_the_statistics_of_a_model_under_accelerates_hooks_are_those_of_a_plain_one():
    plain, model = adapted(), adapted()
    places = {"bert.embeddings": "cpu", "bert.pooler": "cpu", "dropout": "cpu", "classifier": "cpu"}
    places |= {f"bert.encoder.layer.{number}": "cpu" for number in range(4)}
    dispatch_model(model, places, main_device="cpu", force_hooks=True)
    pruners = [Pruner(plain), Pruner(model)]
    for each in (plain, model):
        each(**batch()).loss.backward()
    for pruner in pruners:
        pruner.step()
    for name, norms in pruners[0].norms.items():
        assert torch.equal(pruners[1].norms[name].mean_square, norms.mean_square)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_layers_that_accelerate_offloads_are_refused_by_name(where, tmp_path):
    model = adapted()
    if where == "cpu":
        cpu_offload(model, "cpu")
    else:
        places = {"bert": "disk", "dropout": "cpu", "classifier": "cpu"}
        dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    with pytest.raises(ValueError, match=r"layer\.0\.attention\.self\.query\.lora_A is offloaded.*spread the model"):
        Pruner(model)


# A state is a state


def test_a_state_stays_as_it_was_when_training_goes_on():
    model = adapted()
    pruner = Pruner(model, interval=99)
    model(**batch()).loss.backward()
    state = pruner.state_dict()
    again = Pruner(model, interval=99)
    again.load_state_dict(state)
    name = next(iter(pruner.norms))
    before = {key: value.clone() for key, value in state["norms"][name].items() if value is not None}
    model(**batch(seed=1)).loss.backward()
    pruner.step()
    again.step()
    assert all(torch.equal(state["norms"][name][key], value) for key, value in before.items())
