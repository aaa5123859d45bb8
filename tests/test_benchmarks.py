"""The benchmarks measure what they say: the statistics on numbers known beforehand, the methods on equal terms."""

import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

import benchmarks
from benchmarks import contenders, measure, show
from benchmarks.contenders import METHODS, Setting, training_step
from prilora_lite.shared.records import read_records
from tests.drawn import assert_legible

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=30000,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    monkeypatch.setitem(contenders.SHAPES, "small", config)


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(benchmarks.__path__)])
def test_each_can_be_started(name):
    importlib.import_module(f"benchmarks.{name}")


def test_the_ratio_of_a_list_to_a_multiple_of_itself_is_known_exactly():
    times = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert measure.ratio_of_medians(times, [2 * t for t in times]) == (0.5, 0.5, 0.5)


def test_the_interval_of_a_ratio_holds_the_ratio_and_narrows_with_the_spread():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 40, generator=generator)
    wide = measure.ratio_of_medians(*(1 + noise).tolist())
    narrow = measure.ratio_of_medians(*(1 + 0.1 * noise).tolist())
    assert wide[1] < wide[0] < wide[2]
    assert narrow[2] - narrow[1] < wide[2] - wide[1]


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_is_found(power):
    sizes = [2, 4, 8, 16]
    found = measure.exponent(sizes, [[3.0 * n**power] * 5 for n in sizes])
    assert found == pytest.approx((power, power, power), abs=1e-12)


def test_every_step_is_taken_once_in_every_round_and_the_warm_up_is_not_counted():
    calls = []
    taken = measure.seconds({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=4)
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 4 + measure.WARM_UP
    assert all(sorted(each) == list("abc") for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert {name: len(times) for name, times in taken.items()} == {"a": 4, "b": 4, "c": 4}


def test_peak_memory_is_what_was_alive_at_once():
    def make():
        kept = torch.zeros(1000)

        def step():
            a = torch.zeros(3000)
            del a
            torch.zeros(2000)

        return lambda: (kept, step())

    assert measure.peak_bytes(make) // 4 == pytest.approx(4000, abs=10)  # torch allocates a few scalars beside


def test_peak_memory_is_the_same_each_time_whatever_ran_before():
    setting = Setting("small", 2, 8)
    base = setting.model()
    peaks = [measure.peak_bytes(lambda: training_step("lora", setting, base)) for _ in range(3)]
    assert len(set(peaks)) == 1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_starts_from_the_same_model(name):
    setting = Setting("small", 2, 8)
    expected = setting.model().eval()(**setting.inputs()).logits
    model, _ = METHODS[name](setting.model(), setting.rank)
    torch.testing.assert_close(model.eval()(**setting.inputs()).logits, expected, rtol=1e-6, atol=1e-7)


def test_all_lora_has_the_same_layers_and_ranks():
    setting = Setting("small", 2, 8, rank=4)
    counts = {}
    for name in ("lora", "prilora", "peft", "peft, no cast"):
        model, _ = METHODS[name](setting.model(), setting.rank)
        counts[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert len(set(counts.values())) == 1, counts


def test_the_frozen_encoder_passes_its_gradient_to_the_embeddings():
    setting = Setting("small", 2, 8)
    model, _ = METHODS["frozen"](setting.model(), 8)
    seen = []

    def watch(module, args, output):
        output.register_hook(lambda gradient: seen.append(gradient.abs().sum().item()))

    model.get_input_embeddings().register_forward_hook(watch)
    model(**setting.inputs()).loss.backward()
    assert seen[0] > 0
    inside = {name: p for name, p in model.named_parameters() if "encoder" in name or "embeddings" in name}
    assert [name for name, p in inside.items() if p.grad is not None] == ["bert.embeddings.word_embeddings.shift"]


@pytest.mark.parametrize("name", [contenders.PRODUCTS, *METHODS])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_leaves_the_model_that_it_is_timed_on_as_it_was(name, precision):
    setting = Setting("small", 2, 8, precision)
    base = setting.model()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    training_step(name, setting, base)()
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


def test_the_products_are_those_of_a_lora_layer():
    t = contenders.layer_tensors(7, 5, 3, tokens=11, dtype=torch.float64, device="cpu")
    for name in ("x", "A", "B_T", "g"):
        t[name].normal_()
    x, A, B_T = (t[name].clone().requires_grad_() for name in ("x", "A", "B_T"))
    y = x @ A.T @ B_T
    y.backward(t["g"])
    contenders.forward_products(t)
    contenders.backward_products(t)
    for name, expected in {"y": y, "dx": x.grad, "dA": A.grad, "dB_T": B_T.grad}.items():
        torch.testing.assert_close(t[name], expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("file", "device"), [("speed.jsonl", "cpu"), ("speed_cuda.jsonl", "cuda")])
def test_the_figure_of_speeds_can_be_read(file, device):
    assert_legible(show.figure(show.gather(read_records(RESULTS / file), device)))
