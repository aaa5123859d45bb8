import dataclasses
import errno
import json
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import prilora_lite.adapter_file as adapter_file
from prilora_lite import LoRALinear, PRILoRAConfig, adapt, load_adapter, merge_and_unload, report, save_adapter
from prilora_lite.fingerprint import fingerprint
from prilora_lite.models.heads import head_parameters
from tests.environments import processes
from tests.small_models import BUILDERS, batch, build, train

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5, interval=2)
DATA = Path(__file__).parents[1] / "data"


def trained(name="bert"):
    model = build(name)
    adapt(model, CONFIG)
    train(model, CONFIG)
    return model.eval()


@pytest.fixture(scope="module")
def adapter_bytes(tmp_path_factory):
    return save_adapter(trained(), tmp_path_factory.mktemp("adapter") / "adapter.safetensors").read_bytes()


@pytest.fixture
def saved(tmp_path):
    model = trained()
    return model, save_adapter(model, tmp_path / "adapter.safetensors")


def rewrite(path, tensors_change=lambda tensors: None, stored_change=json.dumps):
    """Write the file again with other tensors or other JSON, and the checksum of these."""
    with safe_open(path, framework="pt") as file:
        stored = json.loads(file.metadata()[adapter_file.KEY])
    del stored["sha256"]
    tensors = load_file(path)
    tensors_change(tensors)
    text = stored_change(stored)
    try:
        checksum = adapter_file._checksum(json.loads(text), tensors)
    except RecursionError:
        checksum = ""
    save_file(tensors, path, {adapter_file.KEY: f'{text[:-1]}, "sha256": "{checksum}"}}'})


@pytest.mark.parametrize("name", BUILDERS)
def test_a_loaded_adapter_gives_the_same_logits_bit_for_bit(name, tmp_path):
    model = trained(name)
    path = save_adapter(model, tmp_path / "new" / "folder" / "adapter.safetensors")
    fresh = build(name)
    for parameter in head_parameters(fresh).values():  # a head drawn anew, as it is in practice
        nn.init.normal_(parameter)
    report = load_adapter(fresh, path)
    assert torch.equal(fresh(**batch()).logits, model(**batch()).logits)
    assert report.adapter_nonzero < report.adapter
    assert fresh.prilora_config == CONFIG


def test_an_adapter_of_some_layers_loads(tmp_path):
    model = build("bert")
    adapt(model, dataclasses.replace(CONFIG, layers=(1,)))
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_B)
    fresh = build("bert")
    report = load_adapter(fresh, save_adapter(model, tmp_path / "adapter.safetensors"))
    assert torch.equal(fresh(**batch()).logits, model(**batch()).logits)
    assert {module.layer for module in report.modules} == {1}


def said_on_saving(model, path):
    """What is warned of when an adapter is saved, and the notes of its report."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save_adapter(model, path)
    return [str(warning.message) for warning in caught], report(model).notes


def test_a_trained_adapter_that_was_never_pruned_says_so_when_it_is_saved_and_reported(tmp_path):
    path = tmp_path / "a.safetensors"
    adapt(model := build("bert"), CONFIG)
    assert said_on_saving(model, path) == ([], ())  # nothing trained yet
    train(model, CONFIG)
    assert said_on_saving(model, path) == ([], ())  # pruned, as it should be
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoRALinear):
                module.lora_A.add_(1e-3)
    warned, notes = said_on_saving(model, path)
    assert len(warned) == len(notes) == 1
    assert f"{path}: no entry of lora_A is zero, though the configuration's ratio is 0.5" in warned[0]
    assert "Or these weights are of a checkpoint that was written between two prunes" in warned[0]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoRALinear):
                module.lora_A[:, 0] = 0  # as below a unit that is dead, and not pruned
    warned, _ = said_on_saving(model, path)
    assert re.search(r"[1-9]% of lora_A is zero, though the configuration's ratio is 0.5", warned[0])
    model.prilora_config = dataclasses.replace(CONFIG, ratio=0)
    assert said_on_saving(model, path) == ([], ())


def test_a_layer_that_the_last_prune_left_out_is_named_when_the_adapter_is_saved(tmp_path):
    adapt(model := build("bert"), CONFIG)
    train(model, CONFIG)
    name, frozen = next((name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear))
    with torch.no_grad():
        frozen.lora_A.add_(1e-3)  # as if it had regrown, and been frozen then
    warned, notes = said_on_saving(model, tmp_path / "a.safetensors")
    assert len(warned) == len(notes) == 1
    assert re.search(rf"1 of \d+ trained matrices are not pruned, .* the first {re.escape(name)}: a prune", warned[0])


def test_stacks_that_were_adapted_differently_are_each_held_to_their_own_ratio():
    model = nn.ModuleList([build("bert"), build("bert")])
    for part, config in zip(model, (CONFIG, dataclasses.replace(CONFIG, ratio=0)), strict=True):
        adapt(part, config)
        for module in part.modules():
            if isinstance(module, LoRALinear):
                nn.init.ones_(module.lora_B)  # trained, and not pruned
    (note,) = report(model).notes
    assert note == report(model[0]).notes[0]


def test_an_adapter_with_nan_is_written_and_named(tmp_path):
    model = trained()
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    warned, _ = said_on_saving(model, tmp_path / "a.safetensors")
    assert "NaN or infinity in 'classifier.bias', so no model will load it" in warned[0]
    refused(build("bert"), tmp_path / "a.safetensors", r"NaN or infinity in classifier\.bias")


def test_the_file_holds_adapter_pooler_and_head_and_nothing_else(saved):
    model, path = saved
    assert set(load_file(path)) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("pooler" in name for name in load_file(path))
    with safe_open(path, framework="pt") as file:
        assert PRILoRAConfig.from_dict(json.loads(file.metadata()["prilora_lite"])["config"]) == CONFIG


def _write_logits(adapter, file):
    torch.set_num_threads(1)
    model = build("bert")
    load_adapter(model, adapter)
    torch.save(model(**batch()).logits, file)


def test_a_second_process_gets_the_same_logits(saved, tmp_path):
    model, path = saved
    other = processes().Process(target=_write_logits, args=(path, tmp_path / "logits.pt"))
    other.start()
    other.join()
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), model(**batch()).logits)


def test_an_adapter_saved_when_one_s_was_the_default_loads_as_it_was():
    """Written by the version whose default was one scaling for all layers, with that version's logits."""
    model = build("bert")
    load_adapter(model, DATA / "adapter_one_s.safetensors")
    expected = load_file(DATA / "adapter_one_s_logits.safetensors")["logits"]
    torch.testing.assert_close(model.eval()(**batch()).logits, expected, rtol=0, atol=1e-6)
    assert {layer.scaling for layer in model.modules() if isinstance(layer, LoRALinear)} == {16 / 3.5}


def test_a_model_whose_configuration_differs_in_nothing_that_has_an_effect_is_adapted_alike(tmp_path):
    flat = PRILoRAConfig(first_rank=3, last_rank=3, ratio=0.0)
    adapt(model := build("bert"), flat)
    path = save_adapter(model, tmp_path / "adapter.safetensors")
    adapt(other := build("bert"), dataclasses.replace(flat, scaling="mean", seed=7))
    load_adapter(other, path)


def test_loading_into_a_model_adapted_alike_works_and_adapted_otherwise_does_not(saved):
    model, path = saved
    alike = build("bert")
    adapt(alike, CONFIG)
    load_adapter(alike, path)
    assert torch.equal(alike(**batch()).logits, model(**batch()).logits)
    other = build("bert")
    adapt(other, PRILoRAConfig(first_rank=3, last_rank=3))
    with pytest.raises(ValueError, match="but this model is adapted with"):
        load_adapter(other, path)


def test_a_function_that_the_pruner_was_given_does_not_keep_the_adapter_from_being_saved(tmp_path):
    model = build("bert")
    adapt(model, CONFIG)
    train(model, dataclasses.replace(CONFIG, ratio=0.75, importance=lambda lora_A: lora_A.abs()))
    load_adapter(fresh := build("bert"), save_adapter(model, tmp_path / "a.safetensors"))
    assert fresh.prilora_config == dataclasses.replace(CONFIG, ratio=0.75)


def test_loading_into_a_model_that_was_to_be_pruned_otherwise_works(saved):
    model, path = saved
    other = build("bert")
    adapt(other, dataclasses.replace(CONFIG, ratio=0.9, interval=7))
    load_adapter(other, path)
    assert torch.equal(other(**batch()).logits, model(**batch()).logits)
    assert (other.prilora_config.ratio, other.prilora_config.interval) == (0.9, 7)


def test_a_merged_model_saves_the_same_file(saved, tmp_path):
    model, path = saved
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.merge()
    again = save_adapter(model, tmp_path / "merged.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_loaded_merged_and_unloaded_is_a_plain_transformers_model(saved, tmp_path):
    model, path = saved
    fresh = build("bert")
    load_adapter(fresh, path)
    merge_and_unload(fresh).save_pretrained(tmp_path / "plain")
    plain = type(model).from_pretrained(tmp_path / "plain").eval()
    torch.testing.assert_close(plain(**batch()).logits, model(**batch()).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_base_may_have_another_dtype(saved, dtype):
    _, path = saved
    load_adapter(build("bert").to(dtype), path)


def test_an_adapter_of_a_bf16_base_loads_on_the_float32_base(tmp_path):
    model = build("bert").bfloat16()
    adapt(model, CONFIG)
    load_adapter(build("bert"), save_adapter(model, tmp_path / "a.safetensors"))


WRAPPERS = {"compile": lambda model: torch.compile(model, backend="eager"), "replicas": nn.DataParallel}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_saves_the_same_file(wrapper, saved, tmp_path):
    model, path = saved
    again = save_adapter(WRAPPERS[wrapper](model), tmp_path / "wrapped.safetensors")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_is_loaded_reported_and_merged_like_the_one_inside(wrapper, saved):
    model, path = saved
    fresh = build("bert")
    outside = WRAPPERS[wrapper](fresh)
    load_adapter(outside, path)
    assert report(outside) == report(model)
    assert torch.equal(fresh(**batch()).logits, model(**batch()).logits)
    assert merge_and_unload(outside) is fresh
    assert report(fresh).adapter == 0


def test_a_file_whose_head_was_frozen_with_the_base_loads(saved):
    model, path = saved
    head = {name for name in head_parameters(model) if name.startswith("classifier")}

    def as_it_was_written(stored):
        return json.dumps(stored | {"base": fingerprint(model, head)})

    rewrite(path, lambda tensors: [tensors.pop(name) for name in head], as_it_was_written)
    fresh = build("bert")
    fresh.classifier.load_state_dict(model.classifier.state_dict())
    load_adapter(fresh, path)
    assert torch.equal(fresh(**batch()).logits, model(**batch()).logits)
    refused(build("bert"), path, r"the values of classifier\.\w+ do not")


def test_a_file_that_was_saved_under_compiles_names_loads(saved):
    def compiled(names):
        return {f"_orig_mod.{name}": value for name, value in names.items()}

    def as_it_was_written(stored):
        for part in ("shapes", "rows", "others"):
            stored["base"][part] = compiled(stored["base"][part])
        return json.dumps(stored)

    def names_changed(tensors):
        before = dict(tensors)
        tensors.clear()
        tensors |= compiled(before)

    model, path = saved
    rewrite(path, names_changed, as_it_was_written)
    fresh = build("bert")
    load_adapter(fresh, path)
    assert torch.equal(fresh(**batch()).logits, model(**batch()).logits)


# Mistakes: each must leave the model as it was


def refused(model, path, message, error=ValueError):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(error, match=message):
        load_adapter(model, path)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == trained


def test_other_weights_of_the_same_shape_are_another_base(saved):
    refused(build("bert", seed=1), saved[1], "the shapes agree, but the values of .* do not")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", ["scaled", "negated", "rolled"])
def test_a_changed_base_is_another_base(saved, dtype, change):
    model = build("bert")
    weight = model.bert.encoder.layer[1].intermediate.dense.weight
    changes = {"scaled": weight * 1.05, "negated": -weight, "rolled": weight.roll(1, dims=1)}
    weight.data = changes[change].data
    refused(model.to(dtype), saved[1], r"the values of bert\.encoder\.layer\.1\.intermediate\.dense\.weight do not")


def test_another_architecture_is_another_base(saved):
    refused(build("electra"), saved[1], "trained on another base model: .* missing")


def test_a_head_with_more_labels_does_not_fit(saved):
    model = build("bert")
    model.classifier = nn.Linear(24, 3)
    refused(
        model, saved[1], r"classifier\.weight is \(2, 24\) in the file, \(3, 24\) here; a head needs the same number"
    )


def test_a_missing_tensor_is_named(saved):
    rewrite(saved[1], lambda tensors: tensors.pop("bert.pooler.dense.weight"))
    refused(build("bert"), saved[1], r"1 tensors are missing from the file, the first is bert\.pooler\.dense\.weight")


def test_an_extra_tensor_is_named(saved):
    rewrite(saved[1], lambda tensors: tensors.update(extra=torch.zeros(1)))
    refused(build("bert"), saved[1], "1 tensors in the file have no place, the first is extra")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_off_is_refused(saved, keep):
    content = saved[1].read_bytes()
    saved[1].write_bytes(content[: int(keep * len(content))])
    refused(build("bert"), saved[1], "not a whole safetensors file .* cut off")


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "adapter.safetensors"
    torch.save({"lora_A": torch.zeros(2)}, path)
    refused(build("bert"), path, "not a whole safetensors file")


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(build("bert"), tmp_path / "other.safetensors", "not an adapter of this library")


@pytest.mark.parametrize("what", ["folder", "folder/model.safetensors"])
def test_a_whole_adapted_model_is_refused_with_the_way_to_its_adapter(what, saved, tmp_path):
    model, path = saved
    model.save_pretrained(tmp_path / "folder")
    refused(build("bert"), tmp_path / what, r"holds a whole adapted model, .*safetensors\.torch\.load_model\(model, '")
    adapt(fresh := build("bert"), CONFIG)
    load_model(fresh, tmp_path / "folder" / "model.safetensors")
    assert save_adapter(fresh, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def with_config(**fields):
    """The metadata with other values in its configuration."""
    return lambda stored: json.dumps(stored | {"config": stored["config"] | fields})


def with_rows(change):
    """The metadata with other rows of the base's word embeddings."""

    def changed(stored):
        name = "bert.embeddings.word_embeddings.weight"
        stored["base"]["rows"][name] = change(stored["base"]["rows"][name])
        return json.dumps(stored)

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: '{"a": 1}', "no entry 'format'"),
        (lambda stored: "[" * 100_000, "maximum recursion depth"),
        (lambda stored: "[7]", "metadata that can't be used"),
        (lambda stored: json.dumps(stored | {"format": 3}), "format 3, this version reads 2"),
        (lambda stored: json.dumps(stored | {"config": {"rank": 8}}), "unknown setting 'rank'"),
        (lambda stored: json.dumps(stored | {"config": []}), "metadata that can't be used"),
        (lambda stored: json.dumps(stored | {"base": {}}), "no entry 'rows'"),
        (lambda stored: json.dumps(stored | {"base": []}), "metadata that can't be used"),
        (lambda stored: json.dumps(stored | {"base": stored["base"] | {"shapes": [1]}}), "metadata that can't be used"),
        (lambda stored: json.dumps(stored | {"base": stored["base"] | {"rows": {}}}), "description is incomplete"),
        (with_rows(lambda rows: rows[:1]), "the shapes agree, but the values of .* do not"),
        (with_rows(lambda rows: [*rows, [0, 0]]), "the shapes agree, but the values of .* do not"),
        (with_rows(lambda rows: [[math.nan, math.nan]] * 3), "the shapes agree, but the values of .* do not"),
        (with_rows(lambda rows: [[10**400, 1]] * 3), "metadata that can't be used: .* too large"),
        (with_rows(lambda rows: [[1]] * 3), "metadata that can't be used"),
        (with_rows(lambda rows: "123"), "metadata that can't be used"),
        (with_config(first_rank=10**12, last_rank=10**12), "layer 0 would get rank 1000000000000, but"),
        (with_config(layers=[10**12]), r"layers has \[1000000000000\], but this model's 4 layers"),
        (with_config(alpha=math.nan), "alpha must be a finite number"),
        (with_config(alpha=1e308), "alpha must be a finite number"),
        (with_config(alpha=10**400), "alpha must be a finite number"),
        (with_config(seed=10**30), "seed must be an integer from 0 to"),
        (with_config(targets=5), "targets must be names of linear layers"),
        (with_config(targets=["../../x"]), r"unknown target '\.\./\.\./x'"),
    ],
)
def test_hostile_metadata_is_refused(saved, change, message):
    """Its checksum is right: whoever wrote it can compute one."""
    rewrite(saved[1], stored_change=change)
    refused(build("bert"), saved[1], message)


def test_damaged_metadata_is_refused(saved):
    content = saved[1].read_bytes()
    saved[1].write_bytes(content.replace(b'\\"interval\\": 2', b'\\"interval\\": 3'))
    refused(build("bert"), saved[1], "its SHA-256 is not that of the file's content: it is damaged")


@given(data=st.data())
def test_no_single_flipped_bit_loads(data, adapter_bytes, tmp_path_factory):
    """Anywhere in the file: in the header, in the metadata, in a tensor."""
    place = data.draw(st.integers(0, 8 * len(adapter_bytes) - 1) | st.integers(0, 8 * 3000))
    damaged = bytearray(adapter_bytes)
    damaged[place // 8] ^= 1 << place % 8
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(damaged)
    refused(build("bert"), path, re.escape(str(path)))


def test_a_file_of_the_first_format_is_refused(saved):
    rewrite(saved[1], stored_change=lambda stored: json.dumps(stored | {"format": 1}))
    refused(build("bert"), saved[1], "format 1, this version reads 2")


def test_a_file_that_is_not_there(tmp_path):
    refused(build("bert"), tmp_path / "none.safetensors", "no adapter file at", FileNotFoundError)


def test_a_merged_model_takes_no_adapter(saved):
    model, path = saved
    model.bert.encoder.layer[0].output.dense.merge()
    refused(model, path, "this model is merged")


def test_parameters_that_would_be_lost_are_named(saved, tmp_path):
    model, _ = saved
    model.bert.encoder.layer[2].output.LayerNorm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"would be lost, '.*layer\.2\.output\.LayerNorm\.weight':"):
        save_adapter(model, tmp_path / "other.safetensors")


@pytest.mark.parametrize("options", [{}, {"layers": (1, 2)}, {"targets": ("query",)}, {"scaling": "mean"}])
def test_scalings_that_the_configuration_does_not_give_are_not_saved(options, tmp_path):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=4, **options))
    assert save_adapter(model, tmp_path / "as_it_was.safetensors").is_file()
    layer = next(module for module in model.modules() if isinstance(module, LoRALinear))
    was = layer.scaling
    layer.scaling *= 0.25
    with pytest.raises(ValueError, match=f"scaling {was / 4:g}, but the configuration, .* gives it .* and {was:g}"):
        save_adapter(model, tmp_path / "a.safetensors")
    layer.scaling = was
    model.prilora_config = dataclasses.replace(model.prilora_config, alpha=4.0)
    with pytest.raises(ValueError, match="set ranks and scaling in the configuration"):
        save_adapter(model, tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["as_it_was.safetensors"]


def test_a_function_as_a_setting_is_named_before_the_training_that_it_would_lose():
    model = build("bert")
    adapt(model, dataclasses.replace(CONFIG, importance=lambda lora_A: lora_A.abs()))
    with pytest.raises(ValueError, match="importance is a function"):
        adapter_file.check_all_is_stored(model)


def test_numbered_layers_may_stand_beside_a_layer_without_a_number(tmp_path):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            for number in range(3):
                self.add_module(str(number), nn.Sequential(nn.Linear(8, 8)))
            self.top = nn.Linear(8, 2)

    model = Bare()
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=4))
    for parameter in model.top.parameters():
        parameter.requires_grad_(False)
    assert save_adapter(model, tmp_path / "a.safetensors").is_file()


def test_an_unadapted_model_has_nothing_to_save(tmp_path):
    with pytest.raises(ValueError, match="not adapted"):
        save_adapter(build("bert"), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_part_that_is_adapted_is_named_where_the_whole_is_to_be_saved_or_loaded(tmp_path):
    model, path = build("bert"), tmp_path / "a.safetensors"
    adapt(model.bert, CONFIG)
    with pytest.raises(ValueError, match=r"bert alone is adapted: give that part, model\.bert,"):
        save_adapter(model, path)
    save_adapter(model.bert, path)
    refused(build("bert"), path, r"is the adapter of a part of this model: give model\.bert in its place")
    refused(nn.ModuleDict({"mine": build("bert")}), path, r"give model\.mine\.bert in its place")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash_while_saving_leaves_the_old_file_whole(saved, where, monkeypatch):
    model, path = saved
    before = path.read_bytes()

    def crash(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"prilora_lite.shared.files.os.{where}", crash)
    with torch.no_grad():
        model.classifier.bias.add_(1)
    with pytest.raises(OSError, match=rf"{re.escape(str(path))} can't be written \(No space left on device\)"):
        save_adapter(model, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]  # nothing half written lies about


def test_a_place_below_a_file_is_named(saved):
    model, path = saved
    with pytest.raises(OSError, match=r"below\.safetensors can't be written .*: make room or choose another place"):
        save_adapter(model, path / "below.safetensors")


# Is it the same base?


@pytest.mark.parametrize("kind", ["bias", "LayerNorm.weight", "word_embeddings.weight"])
def test_a_base_whose_weights_of_any_kind_differ_is_refused(kind, saved):
    model = build("bert")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(kind) and "classifier" not in name and "pooler" not in name:
                parameter.add_(0.5)
    with pytest.raises(ValueError, match=r"another base model: the shapes agree, but the values of .* do not"):
        load_adapter(model, saved[1])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_attention_heads", 4), ("hidden_act", "relu"), ("layer_norm_eps", 1e-3)],
)
def test_a_base_that_computes_otherwise_with_the_same_weights_is_refused(setting, value, saved):
    model = build("bert")
    setattr(model.config, setting, value)
    with pytest.raises(ValueError, match=f"another base model: {setting} is .* there, {value!r} here"):
        load_adapter(model, saved[1])


CAUSAL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
CAUSAL |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
SMALL_T5 = {"vocab_size": 99, "d_model": 32, "d_ff": 48, "d_kv": 16, "num_layers": 2, "num_heads": 2}
SMALL_FUNNEL = {"vocab_size": 99, "d_model": 32, "d_inner": 48, "d_head": 16, "n_head": 2, "block_sizes": [1, 1]}
SMALL_GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2, "num_labels": 2}


@pytest.mark.parametrize(
    ("model", "config", "base", "setting", "values"),
    [
        (hf.BertForMaskedLM, hf.BertConfig, CAUSAL, "is_decoder", (False, True)),
        (hf.GraniteForCausalLM, hf.GraniteConfig, CAUSAL, "residual_multiplier", (1.0, 0.2)),
        (hf.GraniteForCausalLM, hf.GraniteConfig, CAUSAL, "logits_scaling", (1.0, 8.0)),
        (hf.Gemma2ForCausalLM, hf.Gemma2Config, CAUSAL, "attn_logit_softcapping", (50.0, 1.0)),
        (hf.Gemma2ForCausalLM, hf.Gemma2Config, CAUSAL, "query_pre_attn_scalar", (256, 4)),
        (hf.GPT2ForSequenceClassification, hf.GPT2Config, SMALL_GPT2, "scale_attn_weights", (True, False)),
        (hf.GPT2ForSequenceClassification, hf.GPT2Config, SMALL_GPT2, "pad_token_id", (0, 7)),
        (hf.Qwen2ForCausalLM, hf.Qwen2Config, CAUSAL, "is_causal", (False, True)),
        (hf.MistralForCausalLM, hf.MistralConfig, CAUSAL, "sliding_window", (4, None)),
        (hf.MistralForCausalLM, hf.MistralConfig, CAUSAL, "sliding_window", (None, 4)),
        (hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, CAUSAL, "use_parallel_residual", (True, False)),
        (hf.T5ForConditionalGeneration, hf.T5Config, SMALL_T5, "relative_attention_max_distance", (128, 16)),
        (hf.FunnelForSequenceClassification, hf.FunnelConfig, SMALL_FUNNEL, "separate_cls", (True, False)),
    ],
)
def test_a_base_of_another_family_that_computes_otherwise_is_refused(model, config, base, setting, values, tmp_path):
    one, other = (model(config(**base, **{setting: value})) for value in values)
    other.load_state_dict(one.state_dict())
    adapt(one, CONFIG)
    path = save_adapter(one, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"another base model: {setting} is {values[0]!r} there, {values[1]!r} here"):
        load_adapter(other, path)
    same = model(config(**base, **{setting: values[0]}))
    same.load_state_dict(other.state_dict())
    load_adapter(same, path)


def test_an_adapter_that_something_has_cast_is_saved_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"A was cast to torch.bfloat16 after adapt, and its digits are lost"):
        save_adapter(trained().bfloat16(), tmp_path / "a.safetensors")


class MovingNorm(nn.Module):
    """A norm of one's own, which keeps the size of its inputs in a buffer."""

    def __init__(self, features):
        super().__init__()
        self.register_buffer("size", torch.ones(features))

    def forward(self, x):
        if self.training:
            self.size.lerp_(x.detach().square().mean(0).sqrt(), 0.5)
        return x / self.size


class WithMovingNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), MovingNorm(8)) for _ in range(2))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_what_a_norm_of_ones_own_keeps_of_its_inputs_is_saved(tmp_path):
    one, other = WithMovingNorms(), WithMovingNorms()
    other.load_state_dict(one.state_dict())
    adapt(one, PRILoRAConfig(first_rank=2, last_rank=4))
    one.train()(torch.randn(6, 8))
    load_adapter(other, save_adapter(one, tmp_path / "a.safetensors"))
    x = torch.randn(3, 8)
    assert torch.equal(one.eval()(x), other.eval()(x))


def test_a_padding_token_that_is_set_after_loading_makes_no_other_base(tmp_path):
    one, other = (hf.GPT2ForSequenceClassification(hf.GPT2Config(**SMALL_GPT2)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    adapt(one, CONFIG)
    path = save_adapter(one, tmp_path / "a.safetensors")
    other.config.pad_token_id = 0
    load_adapter(other, path)


def other_positions(name):
    if name == "llama":
        small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}
        small |= {"vocab_size": 99, "num_hidden_layers": 2}
        make = lambda theta: hf.LlamaForCausalLM(hf.LlamaConfig(rope_theta=theta, **small))  # noqa: E731
        return make(1e4), make(5e5)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 99}
    small |= {"num_hidden_layers": 2, "relative_attention": True, "share_att_key": True}
    make = lambda kinds: hf.DebertaV2Model(hf.DebertaV2Config(pos_att_type=kinds, **small))  # noqa: E731
    return make(["c2p", "p2c"]), make(["c2p"])


@pytest.mark.parametrize("name", ["llama", "deberta"])
def test_a_base_whose_positions_are_of_another_kind_is_refused(name, tmp_path):
    one, other = other_positions(name)
    other.load_state_dict(one.state_dict())
    adapt(one, PRILoRAConfig(first_rank=2, last_rank=4))
    path = save_adapter(one, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"another base model: (rope_.*theta|pos_att_type) is .* there"):
        load_adapter(other, path)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_an_adapter_of_a_parametrized_base_loads(kind, tmp_path):
    def base():
        model = build("bert")
        torch.manual_seed(0)
        for layer in model.bert.encoder.layer:
            getattr(nn.utils.parametrizations, kind)(layer.output.dense)
        return model.eval()

    adapt(model := base(), CONFIG)
    for layer in (module for module in model.modules() if isinstance(module, LoRALinear)):
        nn.init.normal_(layer.lora_B, std=0.1)
    load_adapter(other := base(), save_adapter(model, tmp_path / "a.safetensors"))
    assert torch.equal(other.eval()(**batch()).logits, model(**batch()).logits)


@pytest.mark.parametrize("resized", [True, False])
def test_rows_of_words_that_were_added_after_loading_are_named_as_the_cause(resized, tmp_path):
    def with_a_word_more(seed):
        model = build("llama")
        torch.manual_seed(seed)
        model.resize_token_embeddings(model.config.vocab_size + 1)
        return model

    adapt(model := with_a_word_more(1), CONFIG)
    path = save_adapter(model, tmp_path / "a.safetensors")
    refused(
        with_a_word_more(2) if resized else build("llama"), path, "If words were added after loading .*save the enla"
    )
    load_adapter(with_a_word_more(1), path)


def test_other_weights_are_not_taken_for_added_words(saved):
    with pytest.raises(ValueError, match=r"load the very weights that it was trained on$"):
        load_adapter(build("bert", seed=1), saved[1])


def test_a_file_from_before_biases_were_described_is_taken(saved):
    rewrite(saved[1], stored_change=lambda stored: json.dumps(
        stored | {"base": {name: stored["base"][name] for name in ("dtype", "shapes", "rows")}}
    ))  # fmt: skip
    assert load_adapter(build("bert"), saved[1])


@pytest.mark.parametrize("rows", [slice(5, 7), slice(9, 10)])
def test_a_base_of_which_a_few_rows_differ_is_refused(rows, saved):
    model = build("bert")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[rows] += 0.01
    refused(model, saved[1], r"the values of bert\.embeddings\.word_embeddings\.weight do not")


def test_a_file_from_before_all_rows_were_described_is_taken(saved):
    rewrite(saved[1], stored_change=lambda stored: json.dumps(
        stored | {"base": {name: value for name, value in stored["base"].items() if name != "whole"}}
    ))  # fmt: skip
    assert load_adapter(build("bert"), saved[1])


def test_an_adapter_whose_labels_stand_in_another_order_is_refused(tmp_path):
    model, other, renamed = (build("bert") for _ in range(3))
    model.config.id2label, other.config.id2label = {0: "negative", 1: "positive"}, {0: "positive", 1: "negative"}
    adapt(model, PRILoRAConfig.lora(2))
    save_adapter(model, tmp_path / "adapter.safetensors")
    refused(
        other, tmp_path / "adapter.safetensors", "numbers its labels negative, positive, and this model positive, n"
    )
    assert load_adapter(renamed, tmp_path / "adapter.safetensors")  # with no names of its own


def test_a_folder_in_the_place_of_the_file_in_it_is_named(saved):
    folder = saved[1].parent
    with pytest.raises(FileNotFoundError, match=f"it is a folder, with .*{saved[1].name}.* in it; give the file"):
        load_adapter(build("bert"), folder)


def test_another_default_device_changes_nothing_of_what_is_saved(tmp_path):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=4))
    save_adapter(model, tmp_path / "as_usual.safetensors")
    torch.set_default_device("meta")  # a script may set "cuda", and save from there
    try:
        save_adapter(model, tmp_path / "elsewhere.safetensors")
    finally:
        torch.set_default_device(None)
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("as_usual", "elsewhere"))
    assert first == second
