"""What would end a run in the middle is found before it; what a model gives beside scores is not read."""

import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset
from transformers import EarlyStoppingCallback

import prilora_lite.experiments.finetune as finetuning
from prilora_lite import PRILoRACallback, PRILoRAConfig, ablate, evaluate, finetune, grid, load_adapter, load_encoder
from prilora_lite.experiments.tasks import TASKS, compute_metrics, load_rows
from prilora_lite.experiments.trial import try_rows
from tests.small_models import WORDS, write_encoder
from tests.training import CONFIG, FAST, run

WORDS_AND_MARKS = len(WORDS) + 5
SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40, "pad_token_id": 0}
BERT = SIZE | {"vocab_size": WORDS_AND_MARKS, "max_position_embeddings": 32}
END = {"eos_token_id": 3, "decoder_start_token_id": 0, "pad_token_id": 0, "vocab_size": WORDS_AND_MARKS}
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": WORDS_AND_MARKS, "pad_token_id": 0}
BART = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
}  # fmt: skip
MORE_THAN_SCORES = {
    "T5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**END, d_model=24, d_kv=12, d_ff=40, num_layers=2, num_heads=2)
    ),
    "BART": lambda: hf.BartModel(hf.BartConfig(**END, **BART)),
    "hidden states": lambda: hf.BertModel(hf.BertConfig(**BERT, output_hidden_states=True)),
    "attentions": lambda: hf.BertModel(hf.BertConfig(**BERT, output_attentions=True, attn_implementation="eager")),
    "all of it as a tuple": lambda: hf.BertModel(hf.BertConfig(**BERT, return_dict=False, output_hidden_states=True)),
    "a tuple": lambda: hf.BertModel(hf.BertConfig(**BERT, return_dict=False)),
    "past keys and values": lambda: hf.GPT2Model(hf.GPT2Config(**GPT2, use_cache=True, output_hidden_states=True)),
}


def encoder_of(model, folder):
    """A folder with a model's weights, and the tokenizer that knows WORDS."""
    write_encoder(folder)
    model.save_pretrained(folder)
    return str(folder)


# Output with more than scores


@pytest.mark.parametrize("task", ["rte", "stsb", "mnli"])
@pytest.mark.parametrize("what", MORE_THAN_SCORES)
def test_a_model_that_gives_more_than_scores_has_metrics(what, task, rows, tmp_path):
    encoder = encoder_of(MORE_THAN_SCORES[what](), tmp_path / "encoder")
    result = run(encoder, rows, task, PRILoRAConfig(2, 4, interval=3), output_dir=tmp_path / "run")
    assert all(np.isfinite(value) for value in result.metrics.values())
    model, tokenizer = load_encoder(encoder, task)
    load_adapter(model, result.path)
    options = {"rows": rows, "max_length": 16, "precision": "fp32", "device": "cpu", "progress": False}
    assert evaluate(model, tokenizer, task, **options) == result.metrics


@pytest.mark.parametrize("option", ["output_hidden_states", "output_attentions"])
def test_what_a_model_gives_beside_scores_changes_no_metric(option, encoder, rows):
    options = {"rows": rows, "max_length": 16, "precision": "fp32", "device": "cpu", "progress": False}
    model, tokenizer = load_encoder(encoder, "cola")
    alone = evaluate(model, tokenizer, "cola", **options)
    if option == "output_attentions":
        model.set_attn_implementation("eager")
    setattr(model.config, option, True)
    assert evaluate(model, tokenizer, "cola", **options) == alone


# Before a run


@pytest.fixture
def untrained(monkeypatch):
    """Fails if a run has got as far as training."""
    monkeypatch.setattr(finetuning.GlueTrainer, "train", lambda *args, **kwargs: pytest.fail("it was trained"))


def long_rows(words=40, train=8, validation=4):
    def split(count):
        texts = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(words if i == 1 else 3)) for i in range(count)]
        return Dataset.from_dict({"sentence": texts, "label": [i % 2 for i in range(count)]})

    return {"train": split(train), "validation": split(validation)}


FEWER_POSITIONS = {
    "RoBERTa": lambda: hf.RobertaModel(hf.RobertaConfig(**(BERT | {"pad_token_id": 1}))),
    "CamemBERT": lambda: hf.CamembertModel(hf.CamembertConfig(**(BERT | {"pad_token_id": 0}))),
    "XLM-RoBERTa": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**(BERT | {"pad_token_id": 1}))),
    "MPNet": lambda: hf.MPNetModel(hf.MPNetConfig(**(BERT | {"pad_token_id": 1}))),
}


@pytest.mark.parametrize("name", FEWER_POSITIONS)
def test_the_positions_that_an_encoder_really_has_are_found(name, tmp_path, untrained):
    """Its configuration counts places that no token gets."""
    encoder = encoder_of(FEWER_POSITIONS[name](), tmp_path / "encoder")
    settings = finetuning.Settings(epochs=1, batch_size=4, max_length=32)
    with pytest.raises(
        ValueError, match=r"max_length is 32, but the encoder has only (30|31) positions: give \1 or less"
    ):
        run(encoder, long_rows(), settings=settings)


def test_an_encoder_reads_as_many_tokens_as_it_is_said_to_have_positions(tmp_path):
    encoder = encoder_of(FEWER_POSITIONS["RoBERTa"](), tmp_path / "encoder")
    assert run(encoder, long_rows(), settings=finetuning.Settings(epochs=1, batch_size=4, max_length=30)).steps == 2


def test_a_study_is_refused_before_its_first_run_where_the_longest_row_can_not_be_read(tmp_path):
    encoder = encoder_of(FEWER_POSITIONS["RoBERTa"](), tmp_path / "encoder")
    data = {"cola": long_rows(train=200)}
    with pytest.raises(ValueError, match="the encoder has only 30 positions"):
        ablate(
            grid(["head"], ["cola"], [0]), tmp_path / "runs.jsonl", encoder=encoder, rows=data, progress=False,
            overrides={"max_length": 32, "epochs": 1},
        )  # fmt: skip
    assert not (tmp_path / "runs.jsonl").read_text(encoding="utf-8")


def test_a_pair_that_an_encoder_can_not_tell_apart_is_refused(rows, tmp_path, untrained):
    one_kind = hf.BertModel(hf.BertConfig(**BERT, type_vocab_size=1))
    with pytest.raises(ValueError, match=r"a batch of two rows, .* can't go through the model: IndexError"):
        run(encoder_of(one_kind, tmp_path / "encoder"), rows, "rte")


def test_a_tokenizer_with_more_words_than_the_model_is_refused(rows, tmp_path, untrained):
    few = hf.BertModel(hf.BertConfig(**(BERT | {"vocab_size": WORDS_AND_MARKS - 3})))
    with pytest.raises(ValueError, match=r"the encoder has 17 embeddings: tokenizer and model do not belong together"):
        run(encoder_of(few, tmp_path / "encoder"), rows)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([2.5] * 4, "all validation rows of stsb have the label 2.5: no correlation"),
        ([1.0], "has no value on .*: there are 1 rows"),
    ],
)
def test_validation_rows_on_which_a_metric_has_no_value_are_refused(labels, message, encoder, untrained):
    texts = {"sentence1": ["a dog"] * len(labels), "sentence2": ["a cat"] * len(labels)}
    rows = {"train": Dataset.from_dict(texts | {"label": labels})}
    with pytest.raises(ValueError, match=message):
        run(encoder, rows | {"validation": rows["train"]}, "stsb")


@pytest.mark.parametrize(("task", "label"), [("cola", 1), ("mrpc", 0)])
def test_validation_rows_of_one_class_are_refused_where_right_answers_would_count_as_nothing(
    task, label, encoder, rows, untrained
):
    here = load_rows(task, rows)
    alike = here["validation"].map(lambda row: {"label": label})
    with pytest.raises(ValueError, match=f"has no value on the validation rows of {task}, .* 1 different labels"):
        run(encoder, {"train": here["train"], "validation": alike}, task)


# What evaluate is given


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("BertForTokenClassification", "a batch of two rows, .* can't go through the model: ValueError"),
        ("BertForMultipleChoice", "can't go through the model: |gives predictions of "),
        ("BertForMaskedLM", "can't go through the model: ValueError"),
        ("BertModel", r"gives no loss, but cola needs a loss and predictions of \(2, 2\)"),
        ("BertForQuestionAnswering", "gives no loss"),
    ],
)
def test_a_model_with_another_head_is_refused(kind, message, encoder, rows):
    _, tokenizer = load_encoder(encoder, "cola")
    model = getattr(hf, kind).from_pretrained(encoder, num_labels=2)
    with pytest.raises(ValueError, match=message):
        evaluate(model, tokenizer, "cola", rows=rows, max_length=16, device="cpu", progress=False)


def test_what_is_no_model_of_transformers_is_refused(encoder, rows):
    _, tokenizer = load_encoder(encoder, "cola")
    with pytest.raises(ValueError, match="Linear is no classifier of transformers'"):
        evaluate(torch.nn.Linear(2, 2), tokenizer, "cola", rows=rows)


@pytest.mark.parametrize("length", [0, -1, 2.5, "16"])
def test_a_length_that_is_none_is_refused(length, encoder, rows):
    model, tokenizer = load_encoder(encoder, "cola")
    with pytest.raises(ValueError, match="max_length must be an integer of at least 4"):
        evaluate(model, tokenizer, "cola", rows=rows, max_length=length)


def test_trying_a_row_leaves_mode_and_random_numbers_as_they_were(encoder, rows):
    model, tokenizer = load_encoder(encoder, "cola")
    model.train()
    before = torch.get_rng_state()
    finetuning.check_encoder(encoder, "cola", finetuning.load_rows("cola", rows), FAST)
    tokenized = {
        "validation": finetuning.tokenize(
            finetuning.load_rows("cola", rows)["validation"], TASKS["cola"], tokenizer, 16
        )
    }
    try_rows(model, tokenizer, TASKS["cola"], tokenized, 16)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


# Callbacks and arguments


@pytest.mark.parametrize("task", ["cola", "mnli", "stsb"])
@pytest.mark.parametrize("method", [CONFIG, "head"])
def test_early_stopping_works_by_the_main_metric(method, task, encoder, rows):
    stop = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=10.0)
    settings = finetuning.Settings(epochs=5, batch_size=8, max_length=16)
    result = run(encoder, rows, task, method, settings=settings, callbacks=[stop])
    assert [point["epoch"] for point in result.curve] == [1.0, 2.0]


def test_a_run_that_is_stopped_early_beside_checkpoints_ends_pruned(encoder, rows, tmp_path):
    stop = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=10.0)
    settings = finetuning.Settings(epochs=5, batch_size=8, max_length=16)
    config = PRILoRAConfig(first_rank=2, last_rank=5, interval=100)
    result = run(encoder, rows, method=config, settings=settings, callbacks=[stop], output_dir=tmp_path, save_steps=5)
    assert result.history[-1]["step"] == result.steps == 10
    assert result.counts.adapter_nonzero < result.counts.adapter


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"callbacks": [print]}, "expected callbacks derived from transformers' TrainerCallback"),
        ({"callbacks": [PRILoRACallback()]}, "finetune has its own PRILoRACallback"),
        ({"save_steps": 0, "output_dir": "x"}, "save_steps must be an integer of at least 1"),
        ({"save_steps": 0.5, "output_dir": "x"}, "save_steps must be an integer of at least 1"),
        ({"precision": "fp8"}, "precision"),
        ({"method": PRILoRAConfig(importance=lambda lora_A: lora_A.abs())}, "importance is a function"),
        ({"method": PRILoRAConfig(ranks=lambda depth: 4)}, "ranks is a function"),
    ],
)
def test_what_no_run_could_be_made_with_is_refused_before_anything_is_loaded(change, message, monkeypatch):
    monkeypatch.setattr(finetuning, "load_encoder", lambda *args: pytest.fail("an encoder was loaded"))
    with pytest.raises((ValueError, TypeError), match=message):
        finetune("cola", **change)


@pytest.mark.parametrize(
    ("task", "shape", "labels"),
    [("cola", (4, 3), 4), ("cola", (4,), 4), ("cola", (3, 2), 4), ("mnli", (4, 2), 4), ("stsb", (4, 2), 4)],
)
def test_predictions_of_another_shape_have_no_metrics(task, shape, labels):
    with pytest.raises(ValueError, match=r"needs labels of \(rows,\) and predictions of \(rows, \d\)"):
        compute_metrics(task, np.zeros(shape), np.arange(labels) % 2)
