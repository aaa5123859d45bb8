"""Junk given to the public functions: only the exceptions that they document come out, and none of them hangs.

``python -m benchmarks.hostile_inputs`` runs the same with more examples.
"""

import dataclasses
import inspect
import json
import math
import os

import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import prilora_lite
from prilora_lite import (
    InputNorms,
    LoRALinear,
    PRILoRACallback,
    PRILoRAConfig,
    Pruner,
    Report,
    Settings,
    Task,
    ablate,
    adapt,
    adapter_parameters,
    budget_ranks,
    compute_metrics,
    evaluate,
    finetune,
    grid,
    importance,
    keep_mask,
    latest_checkpoint,
    linear_ranks,
    load_adapter,
    load_encoder,
    load_peft_adapter,
    load_rows,
    merge_and_unload,
    rank_pattern_for,
    report,
    save_adapter,
    save_peft_adapter,
)
from prilora_lite.experiments.loop import LengthGroupedSampler
from prilora_lite.experiments.tasks import TASKS, get_task
from prilora_lite.shared.records import read_records
from tests.small_models import build

KINDS = (ValueError, TypeError, RuntimeError, OSError)  # no AttributeError, KeyError, IndexError, OverflowError ...
METHOD = (
    "prilora_lite.lora",
    "prilora_lite.importance",
    "prilora_lite.pruner",
    "prilora_lite.adapt",
    "torch.nn.modules.module",
)
UNDOCUMENTED = (RecursionError, NotImplementedError)  # kinds of RuntimeError that say nothing to a user

# The same junk each time, so that a suite that passed passes again; the benchmark draws anew
settings.register_profile(
    "hostile", parent=settings.get_profile("project"), suppress_health_check=list(HealthCheck), derandomize=True
)
EXAMPLES = int(os.environ.get("PRILORA_HOSTILE_EXAMPLES", "0"))  # of each test; set by the benchmark
if EXAMPLES:
    settings.register_profile("many", parent=settings.get_profile("hostile"), max_examples=EXAMPLES, derandomize=False)
PROFILE = settings.get_profile("many" if EXAMPLES else "hostile")

# Junk

numbers = st.one_of(
    st.integers(-3, 20),
    st.integers(-(10**40), 10**40),
    st.sampled_from([10**12, -(2**63), 2**64, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, 1),
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "..", "../../x", "/", "/dev/null", "\0", "a" * 5000, "nan", "row", "cola", "pocket", "\ud800"]
    ),
)
floats = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint8]
)


def tensors_of(least, most, kinds=dtypes):
    """Tensors with so many dimensions, some of them empty."""
    return st.builds(
        lambda shape, dtype, value: torch.full(shape, value).to(dtype),
        st.lists(st.integers(0, 4), min_size=least, max_size=most), kinds,
        st.sampled_from([0.0, 1.0, -2.5, math.nan, math.inf]),
    )  # fmt: skip


tensors, matrices = tensors_of(0, 3), tensors_of(2, 2, floats)
atoms = st.one_of(st.none(), st.booleans(), numbers, texts, st.binary(max_size=4), tensors, st.builds(object))
junk = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(texts, st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)


def either(*valid):
    """Junk, or one of these as often."""
    return st.one_of(st.sampled_from(valid), st.sampled_from(valid), junk)


def documented(function):
    """The kinds of exceptions that a function's docstring names under Raises."""
    raises = (function.__doc__ or "").partition("Raises")[2]
    return tuple(kind for kind in KINDS if kind.__name__ in raises or (kind is OSError and "FileNotFound" in raises))


def survives(function, *arguments, **options):
    """Call it: what comes out is a value or a documented exception with a message. Returns the value, if there is one.

    The method's files document what is out of range; of what has another type altogether, torch's own words are clear.
    """
    of_method = getattr(function, "__module__", "") in METHOD
    expected = KINDS if of_method else documented(function)
    try:
        return function(*arguments, **options)
    except UNDOCUMENTED:
        raise
    except expected as error:
        said = str(error)
    assert said
    return None


def hostile(*strategies, **options):
    """A test over these, in the profile that the benchmark may change."""
    return lambda test: PROFILE(given(*strategies, **options)(test))


# The method


@hostile(either(0, 1, 4), either(1, 4, 8.5), either(2, 12))
def test_linear_ranks(num_layers, first, last):
    ranks = survives(linear_ranks, num_layers, first, last)
    assert ranks is None or (len(ranks) == num_layers and min(ranks) >= 1)


@hostile(either(1, 4), either(8, 2.5), either(0, -4, 3))
def test_budget_ranks(num_layers, mean, slope):
    ranks = survives(budget_ranks, num_layers, mean, slope)
    assert ranks is None or (len(ranks) == num_layers and min(ranks) >= 1)


@hostile(either([4, 12], (1,)), either([(8, 8)], [(8, 4), (4, 8)]))
def test_adapter_parameters(ranks, shapes):
    survives(adapter_parameters, ranks, shapes)


@hostile(
    st.one_of(st.builds(lambda: nn.Linear(6, 5)), st.builds(lambda: nn.Embedding(3, 3)), junk),
    either(1, 3), either(1.0, 2), either(0.0, 0.5), tensors,
)  # fmt: skip
def test_lora_linear(base, rank, scaling, dropout, x):
    layer = survives(LoRALinear, base, rank, scaling=scaling, dropout=dropout)
    if layer is not None:
        assert layer.rank == rank
        survives(layer, x)


@hostile(either(3), either("cpu"), tensors_of(2, 3), either(0.9))
def test_input_norms(in_features, device, x, decay):
    norms = survives(InputNorms, in_features, device)
    if norms is not None:
        survives(norms.add, x)
        survives(norms.fold, decay)


@hostile(matrices, st.one_of(st.none(), tensors_of(1, 1)), either("magnitude_input", "magnitude", "random"))
def test_importance(lora_A, mean_square, rule):
    survives(importance, lora_A, mean_square, rule)


@hostile(matrices, either(0.0, 0.5), either("row", "matrix"))
def test_keep_mask(scores, ratio, scope):
    survives(keep_mask, scores, ratio, scope)


FIELDS = {field.name: either(field.default) for field in dataclasses.fields(PRILoRAConfig)}


@hostile(st.fixed_dictionaries({}, optional=FIELDS), st.integers(1, 60))
def test_a_configuration(fields, layers):
    config = survives(PRILoRAConfig, **fields)
    if config is not None:
        assert PRILoRAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        ranks = config.layer_ranks(layers)
        assert all(math.isfinite(s) and s > 0 for s in config.scalings(ranks))


@hostile(st.one_of(junk, st.dictionaries(st.sampled_from([*FIELDS, "rank"]), junk, max_size=3)))
def test_a_configuration_from_a_dictionary(fields):
    survives(PRILoRAConfig.from_dict, fields)


def requires_grad(model):
    return [parameter.requires_grad for parameter in model.parameters()]


MODELS = {
    "bert": lambda: build("bert"), "linear": lambda: nn.Linear(2, 2), "none": lambda: nn.Sequential(),
    "numbered": lambda: nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(3, 3))),
}  # fmt: skip
models = st.one_of(st.sampled_from(sorted(MODELS)).map(lambda name: MODELS[name]()), junk)


@hostile(
    models,
    st.one_of(
        st.builds(lambda fields: survives(PRILoRAConfig, **fields), st.fixed_dictionaries({}, optional=FIELDS)), junk
    ),
)
def test_adapt(model, config):
    before = requires_grad(model) if isinstance(model, nn.Module) else None
    if survives(adapt, model, config) is None and before is not None:
        assert requires_grad(model) == before
        assert not any(isinstance(module, LoRALinear) for module in model.modules())


@hostile(models)
def test_report_and_merge(model):
    survives(report, model)
    survives(merge_and_unload, model)


PRUNING = {
    "ratio": either(0.5), "interval": either(2), "decay": either(0.9), "importance": either("magnitude", "random"),
    "scope": either("row"), "regrow": either(True), "seed": either(0),
}  # fmt: skip


@pytest.fixture(scope="module")
def adapted():
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5))
    return model


@hostile(st.booleans(), models, st.fixed_dictionaries({}, optional=PRUNING))
def test_pruner(adapted, good, other, options):
    pruner = survives(Pruner, adapted if good else other, **options)
    if pruner is not None:
        survives(pruner.step)
        survives(pruner.prune)
        pruner.detach()


# Files


@pytest.fixture(scope="module")
def folder(tmp_path_factory, adapted):
    """A folder of files of all kinds."""
    folder = tmp_path_factory.mktemp("files")
    save_adapter(adapted, folder / "adapter.safetensors")
    (folder / "checkpoint-1").mkdir()
    (folder / "runs.jsonl").write_text('{"key": 1}\n', encoding="utf-8")
    return folder


paths = st.one_of(st.sampled_from(["adapter.safetensors", "checkpoint-1", "runs.jsonl", "none", "../x"]), texts, junk)


def below(folder, path):
    """Inside the folder, where it is a text that stays there; junk that is no text as it is."""
    if not isinstance(path, str):
        return path
    return os.path.join(folder, path.replace("/", "_").replace("..", "__"))


@hostile(st.booleans(), paths)
def test_save_adapter(adapted, tmp_path_factory, good, path):
    inside = tmp_path_factory.getbasetemp() / "saved"
    if isinstance(path, (bytes, int)):
        path = None
    survives(save_adapter, adapted if good else path, below(inside, path))


@hostile(st.booleans(), paths)
def test_load_adapter(folder, good, path):
    survives(load_adapter, build("bert") if good else path, below(folder, path))


# PEFT's format


@hostile(models, either(4, 2), either(12, 5), either(16.0), either("mean", "layer"), either(None, ("query",)))
def test_rank_pattern_for(model, first, last, alpha, scaling, targets):
    survives(rank_pattern_for, model, first, last, alpha=alpha, scaling=scaling, targets=targets)


@hostile(st.booleans(), paths, either(None, "owner/base"), either(None, "mrpc"), either(None, {"accuracy": 0.5}))
def test_save_peft_adapter(adapted, tmp_path_factory, good, path, base_model, task, metrics):
    pytest.importorskip("peft")
    inside = tmp_path_factory.getbasetemp() / "for-peft"
    if isinstance(path, (bytes, int)):
        path = None
    survives(
        save_peft_adapter, adapted if good else path, below(inside, path), base_model=base_model, task=task,
        metrics=metrics,
    )  # fmt: skip


@pytest.fixture(scope="module")
def peft_folder(tmp_path_factory):
    """An adapter that PEFT wrote, and the options in its configuration."""
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    peft.get_peft_model(build("bert"), peft.LoraConfig(target_modules=["query"])).save_pretrained(folder)
    return folder, json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


@hostile(st.booleans(), st.one_of(st.just(None), paths), st.data())
def test_load_peft_adapter(peft_folder, folder, good, path, data):
    """Another path, or another configuration at the right one."""
    place, options = peft_folder
    if path is None:
        changed = data.draw(st.dictionaries(st.sampled_from([*options, "unheard_of"]), junk, max_size=3))
        text = json.dumps(options | changed, default=repr, ensure_ascii=True, skipkeys=True)
        (place / "adapter_config.json").write_text(text, encoding="utf-8")
    survives(load_peft_adapter, build("bert") if good else path, place if path is None else below(folder, path))


# Runs


@hostile(paths, st.one_of(st.just(()), junk))
def test_read_records(folder, path, fields):
    survives(read_records, below(folder, path), fields)


@hostile(
    st.one_of(st.binary(max_size=40), st.recursive(junk, lambda x: x).map(lambda x: repr(x).encode("utf-8", "replace")))
)
def test_read_records_of_junk(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "junk.jsonl"
    file.write_bytes(content)
    survives(read_records, file)


@hostile(paths, st.one_of(st.binary(max_size=30), st.sampled_from([b'{"global_step": 1}', b"[]", b"[" * 9999])))
def test_latest_checkpoint(folder, path, state):
    (folder / "checkpoint-1" / "trainer_state.json").write_bytes(state)
    survives(latest_checkpoint, below(folder, path))
    survives(latest_checkpoint, folder)


# Tasks, rows, encoders


@hostile(either("cola", "Cola"))
def test_get_task(name):
    survives(get_task, name)


labels = st.lists(st.one_of(st.integers(0, 1), st.floats(0, 5), junk), max_size=5)
predictions = st.one_of(st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=2), max_size=5), labels, junk)


@hostile(either(*TASKS), predictions, st.one_of(labels, junk))
def test_compute_metrics(task, predicted, given_labels):
    values = survives(compute_metrics, task, predicted, given_labels)
    assert values is None or all(isinstance(value, float) for value in values.values())


@hostile(either("cola", "mnli", TASKS["stsb"]), junk)
def test_load_rows(tmp_path_factory, task, place):
    place = below(tmp_path_factory.getbasetemp() / "no rows", place)
    survives(load_rows, task, "no rows" if place is None else place)


columns = st.dictionaries(
    st.sampled_from(["sentence", "sentence1", "label", "idx", "x"]),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.integers(-2, 3)), min_size=2, max_size=2),
    max_size=3,
)


@hostile(either("cola", "rte", "stsb"), columns, junk)
def test_rows_of_ones_own(task, some, other):
    try:
        data = {split: Dataset.from_dict(some) for split in ("train", "validation")}
    except Exception:
        data = other if isinstance(other, dict) else {}
    survives(finetune, task, rows=data, encoder="no such encoder")


@hostile(either("no such encoder", "../x"), either(TASKS["cola"]), either(None, 0.1))
def test_load_encoder(name, task, dropout):
    name = "x/no such encoder" if isinstance(name, str) and name in ("pocket", "/") else name
    survives(load_encoder, name, task, dropout)


SETTINGS = {field.name: either(field.default) for field in dataclasses.fields(Settings)}


@hostile(st.fixed_dictionaries({}, optional=SETTINGS))
def test_settings(fields):
    survives(Settings, **fields)


@hostile(either("mine"), either(("text",), ("a", "b")), either(("no", "yes")), either(("accuracy",)))
def test_a_task_of_ones_own(name, columns, labels, metrics):
    survives(Task, name, columns, labels, metrics)


OPTIONS = {
    "settings": either(None), "seed": either(0), "save_steps": either(None, 2), "precision": either("fp32"),
    "device": either("cpu"), "resume": either(False), "progress": st.just(False),
}  # fmt: skip


@hostile(either("cola", "pocket-cola"), either("head", PRILoRAConfig()), st.fixed_dictionaries({}, optional=OPTIONS))
def test_finetune(task, method, options):
    survives(finetune, task, method, rows="no rows", encoder="no such encoder", **options)


@hostile(st.one_of(st.just("model"), junk), junk, either("cola"), either(None, 16))
def test_evaluate(adapted, model, tokenizer, task, max_length):
    survives(evaluate, adapted if model == "model" else model, tokenizer, task, rows="no rows", max_length=max_length)


@hostile(either(["head"], ["prilora"]), either(["cola"]), either([0, 1]))
def test_grid(methods, tasks, seeds):
    survives(grid, methods, tasks, seeds)


GRID = {
    "encoder": either("no such encoder"), "rows": st.just("no rows"), "overrides": either({"epochs": 1}),
    "precision": either("auto"), "device": either("cpu"), "jobs": either(1), "backend": either("processes"),
}  # fmt: skip


@hostile(st.one_of(st.just([]), st.just(grid(["head"], ["cola"], [0])), junk), st.fixed_dictionaries({}, optional=GRID))
def test_ablate(tmp_path_factory, runs, options):
    """Junk for runs with good options, junk for options with no runs or one that can't be made."""
    options = {"encoder": "no such encoder", "rows": "no rows"} | options
    survives(ablate, runs, tmp_path_factory.getbasetemp() / "runs.jsonl", **options)


@hostile(either([3, 1, 2]), either(2), either(0), st.integers(0, 2**40))
def test_the_sampler(lengths, batch_size, seed, epoch):
    sampler = survives(LengthGroupedSampler, lengths, batch_size, seed)
    if sampler is not None:
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(len(lengths)))


def test_the_callback_before_any_training():
    callback = PRILoRACallback()
    assert callback.history == []
    assert callback.on_train_end(None, None, None) is None
    assert callback.state() == {"args": {}, "attributes": {}}


def test_every_public_name_is_here():
    here = inspect.getsource(inspect.getmodule(survives))
    without_arguments = {"TASKS"}  # a dictionary
    missing = [name for name in prilora_lite.__all__ if f"{name}," not in here and name not in without_arguments]
    assert not missing
    assert Report.__doc__
