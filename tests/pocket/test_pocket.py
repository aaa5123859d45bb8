"""Pocket: the little English, its four tasks, the pre-training, and the weights that come with the package."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForMaskedLM, AutoTokenizer

from prilora_lite import Settings, evaluate, finetune, load_adapter, load_encoder, load_rows
from prilora_lite.experiments.device import pick_precision
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.presets import POCKET_SHORT, PRESETS
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.experiments.tokens import tokenize
from prilora_lite.pocket import grammar, pretrain, tasks
from prilora_lite.shared.records import read_records
from tests.training import some_of_pockets

POCKET = [name for name in TASKS if name.startswith("pocket-")]
MODEL = Path(pretrain.__file__).parent / "model"
ROOT = Path(__file__).parents[2]
QUICK = Settings(epochs=1, max_length=64)  # of a few rows
seeds = st.integers(0, 2**32)


def words_of(concepts):
    return {form: concept for concept in concepts for word in concept.words for form in word.forms}


# The grammar


def test_the_vocabulary_is_small_and_without_repetition():
    words = grammar.vocabulary()
    assert 200 <= len(words) <= 400
    assert len(set(words)) == len(words)


def test_every_noun_has_one_chain_of_hypernyms_up_to_person_animal_or_thing():
    for noun in grammar.NOUNS.values():
        chain = [noun, *grammar.hypernyms(noun)]
        assert chain[-1].name in ("person", "animal", "thing")
        assert all(lower in grammar.hyponyms(upper) for lower, upper in pairwise(chain))


def test_no_word_form_has_two_meanings():
    groups = [*grammar.ATTITUDES.values(), *grammar.REACTIONS.values(), *grammar.OPINIONS.values()]
    concepts = [*grammar.NOUNS.values(), *grammar.TRANSITIVE, *grammar.INTRANSITIVE, *grammar.QUALITIES]
    concepts += [concept for group in groups for concept in group]
    forms = [form for c in concepts for form in {form for word in c.words for form in word.forms}]
    assert [form for form, count in Counter(forms).items() if count > 1] == []


@given(seeds)
def test_all_text_is_made_of_the_vocabulary(seed):
    for text in pretrain.draw_text(Random(seed)):
        assert set(text.split()) <= set(grammar.vocabulary())


@given(seeds)
def test_a_speaker_without_freedom_says_a_meaning_in_one_way(seed):
    clause = grammar.draw_clause(Random(seed))
    assert len({grammar.Speaker(Random(other), freedom=0).say(clause) for other in range(5)}) == 1


@given(seeds)
def test_a_determiner_agrees_with_its_noun(seed):
    nouns = words_of(grammar.NOUNS.values())
    words = grammar.Speaker(Random(seed)).say(grammar.draw_clause(Random(seed))).split()
    for i, word in enumerate(words):
        if word in ("a", "an", "this", "every", "these", "some", "all", "many"):
            noun = next(w for w in words[i:] if w in nouns)
            plurals = [form.forms[1] for form in nouns[noun].words]
            assert (noun in plurals) == (word in ("these", "some", "all", "many"))


@given(seeds)
def test_an_stands_before_vowels_alone(seed):
    text = grammar.Speaker(Random(seed)).say(grammar.draw_clause(Random(seed)))
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)


# The tasks


@pytest.mark.parametrize("task", POCKET)
def test_rows_are_balanced_and_none_occurs_twice(task):
    rows = tasks.draw_rows(task)
    assert {split: len(rows[split]) for split in rows} == {"train": 2000, "validation": 500}
    for split in rows:
        assert Counter(label for _, label in rows[split]) == {0: len(rows[split]) // 2, 1: len(rows[split]) // 2}
    texts = [texts for split in rows.values() for texts, _ in split]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task", POCKET)
def test_the_loader_serves_the_rows_with_glues_columns(task, monkeypatch):
    monkeypatch.setenv("PRILORA_GLUE", "a folder that is not for these")
    data, glue = load_rows(task), TASKS[task.removeprefix("pocket-")]
    assert set(data["train"].column_names) == {*glue.columns, "label", "idx"}
    assert (TASKS[task].labels, TASKS[task].metrics) == (glue.labels, glue.metrics)
    texts, label = tasks.draw_rows(task)["validation"][7]
    assert tuple(data["validation"][7][column] for column in glue.columns) == texts
    assert data["validation"][7]["label"] == label


def test_rows_are_the_same_in_another_process():
    code = "from prilora_lite.pocket.tasks import *; import hashlib\n"
    code += "print(hashlib.sha256(repr([draw_rows(task) for task in DRAW]).encode()).hexdigest())"
    other = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True)
    here = hashlib.sha256(repr([tasks.draw_rows(task) for task in tasks.DRAW]).encode()).hexdigest()
    assert other.stdout.strip() == here, other.stderr


def baseline(task, features):
    """Best validation accuracy of logistic regressions on features of the rows' texts."""
    rows = tasks.draw_rows(task)
    x, z = features([t for t, _ in rows["train"]]), features([t for t, _ in rows["validation"]])
    y, labels = ([label for _, label in rows[split]] for split in rows)
    return max(LogisticRegression(C=c, max_iter=5000).fit(x, y).score(z, labels) for c in (0.01, 0.1, 1.0))


@pytest.mark.parametrize("task", POCKET)
def test_words_do_not_give_the_label_away(task):
    """Counts of the words of each text, and for pairs the words that only one of them has."""
    counter = CountVectorizer(vocabulary=grammar.vocabulary(), token_pattern=r"\S+")

    def features(rows):
        counts = [counter.transform(texts).toarray() for texts in zip(*rows, strict=True)]
        return np.hstack([*counts, *([abs(counts[0] - counts[1])] if len(counts) == 2 else [])])

    assert baseline(task, features) <= 0.65


@pytest.mark.parametrize("task", POCKET)
def test_lengths_do_not_give_the_label_away(task):
    """Words and letters of each text, and for pairs what differs and how many words are shared."""

    def features(rows):
        table = []
        for texts in rows:
            lengths = [len(t.split()) for t in texts] + [len(t) for t in texts]
            if len(texts) == 2:
                first, second = (set(text.split()) for text in texts)
                lengths += [abs(lengths[0] - lengths[1]), len(first & second), len(first ^ second)]
            table.append(lengths)
        return np.array(table)

    assert baseline(task, features) <= 0.65


@given(seeds, st.sampled_from(["_valence", "_form", "_order"]))
@example(22847143, "_order")  # painters that run run
def test_these_errors_keep_the_words_of_the_right_sentence(seed, kind):
    right, wrong = getattr(tasks, kind)(Random(seed), grammar.Speaker(Random(seed)))
    assert sorted(right) == sorted(wrong)
    assert right != wrong


@given(seeds)
def test_an_error_of_number_changes_one_word_to_its_other_number(seed):
    right, wrong = tasks._number(Random(seed), grammar.Speaker(Random(seed)))
    changed = [(r, w) for r, w in zip(right, wrong, strict=True) if r != w]
    assert len(changed) == 1
    assert grammar.OTHER_NUMBER[changed[0][0]] == changed[0][1]


def polarity(statement):
    """Plain reference: the polarity of the opinion or attitude, turned by each negation."""
    lexicon = {}
    for sign, kind in ((1, "positive"), (-1, "negative")):
        lexicon |= dict.fromkeys(words_of(grammar.OPINIONS[kind] + grammar.ATTITUDES[kind]), sign)
    (value,) = [lexicon[word] for word in statement if word in lexicon]
    return value * (-1) ** sum(word in ("not", "never", "no") for word in statement)


@given(seeds, st.booleans())
def test_a_review_has_the_polarity_of_its_main_statement(seed, positive):
    words = tasks.draw_sst2(Random(seed), int(positive))[0].removesuffix(" .").split()
    if words[0] == "although":
        main, side = words[words.index(",") + 1 :], words[1 : words.index(",")]
    elif "but" in words:
        main, side = words[words.index("but") + 1 :], words[: words.index("but")]
    elif "although" in words:
        main, side = words[: words.index("although")], words[words.index("although") + 1 :]
    elif "and" in words:
        main, side = words[: words.index("and")], words[words.index("and") + 1 :]
        assert polarity(main) == polarity(side)
        side = None
    else:
        main, side = words, None
    assert polarity(main) == (1 if positive else -1)
    assert side is None or polarity(side) == -polarity(main)


@given(seeds, st.booleans())
def test_a_more_general_subject_follows_under_some_and_not_under_every_or_no(seed, follows):
    premise, hypothesis = tasks._restrict(Random(seed), follows)
    upwards = premise.subject.determiner == "a"
    assert premise.subject.determiner in ("a", "every", "all", "no")

    def parts(phrase):
        return sum(part is not None for part in (phrase.quality, phrase.beside, phrase.clause))

    first, second = premise.subject, hypothesis.subject
    widened = second.noun in grammar.hypernyms(first.noun) or parts(second) < parts(first)
    narrowed = first.noun in grammar.hypernyms(second.noun) or parts(first) < parts(second)
    assert widened != narrowed
    assert follows == (widened == upwards)


# Pre-training


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Folder of an encoder that was trained for two steps."""
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain.pretrain(folder, steps=2)
    return folder


def test_pretraining_writes_an_encoder_that_loads_and_says_how_it_was_made(pretrained):
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(pretrained), AutoTokenizer.from_pretrained(pretrained)
    assert tokenizer.tokenize("The dog sleeps.") == ["the", "dog", "sleeps", "."]
    assert model.config.vocab_size == len(tokenizer)
    digest = hashlib.sha256((pretrained / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (pretrained / "README.md").read_text(encoding="utf-8")


def test_pretraining_again_gives_the_same_weights(pretrained, tmp_path):
    pretrain.pretrain(tmp_path, steps=2)
    assert (tmp_path / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()


def test_pretraining_refuses_a_folder_that_holds_a_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"hours of work")
    with pytest.raises(FileExistsError, match=r"model\.safetensors"):
        pretrain.pretrain(tmp_path, steps=1)


# What comes with the package


def test_the_weights_are_those_that_card_and_preset_name():
    digest = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    assert PRESETS["pocket"].sha256 == digest
    assert digest in (MODEL / "README.md").read_text(encoding="utf-8")


def test_the_card_states_what_the_weights_know():
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    stated = float(re.search(r"knows\*\* ([\d.]+)%", card).group(1)) / 100
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    assert pretrain.masked_accuracy(model.float().eval(), tokenizer, seed=0) == pytest.approx(stated, abs=0.002)


def test_the_tokenizer_knows_every_word_of_the_grammar():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.convert_tokens_to_ids(grammar.vocabulary()) == list(range(5, 5 + len(grammar.vocabulary())))


def test_the_files_stay_below_eight_megabytes():
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 8e6


def test_pocket_is_twelve_layers_deep():
    model, _ = load_encoder("pocket", TASKS["pocket-rte"])
    assert model.config.num_hidden_layers == 12
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_pocket_random_has_the_same_shapes_and_other_weights():
    trained, _ = load_encoder("pocket", TASKS["pocket-rte"])
    fresh, _ = load_encoder("pocket-random", TASKS["pocket-rte"])
    assert {n: p.shape for n, p in trained.named_parameters()} == {n: p.shape for n, p in fresh.named_parameters()}
    query = "bert.encoder.layer.5.attention.self.query.weight"
    assert not torch.equal(trained.get_parameter(query), fresh.get_parameter(query))
    assert {p.dtype for p in fresh.parameters()} == {torch.float32}


def test_pocket_random_depends_on_the_seed_alone():
    first, second = (torch.manual_seed(3) and load_encoder("pocket-random", TASKS["pocket-rte"])[0] for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


# Fine-tuning: transfer is real, on one seed; results/pocket.csv has five


def value(task, method, encoder="pocket", **options):
    """The main metric of a run, in fp32 on the CPU as every machine computes it."""
    result = finetune(task, METHODS[method].trains, encoder=encoder, device="cpu", progress=False, **options)
    return next(iter(result.metrics.values()))


@pytest.fixture(scope="module")
def lora():
    """Task -> LoRA's metric on pocket at the default length; the other two tasks are among the recorded runs below."""
    return {task: value(task, "lora") for task in ("pocket-cola", "pocket-rte")}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "least"), [("pocket-cola", 0.80), ("pocket-rte", 0.88)])
def test_lora_learns(task, least, lora):
    assert lora[task] >= least


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pocket-cola", "pocket-rte"])
def test_the_frozen_encoder_falls_behind_lora(task, lora):
    assert value(task, "head") <= lora[task] - 0.10


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pocket-cola", "pocket-rte"])
def test_without_pretraining_lora_learns_next_to_nothing(task, lora):
    assert value(task, "lora", "pocket-random") <= lora[task] - 0.25


@pytest.mark.parametrize("seed", [0, 1])
def test_a_short_run_tells_lora_from_the_frozen_encoder(seed):
    task, options = "pocket-cola", {"settings": POCKET_SHORT, "seed": seed}
    assert value(task, "lora", **options) >= value(task, "head", **options) + 0.10


def test_a_saved_adapter_has_the_reported_metric(tmp_path):
    options = {"rows": some_of_pockets(), "device": "cpu", "progress": False}
    result = finetune("pocket-rte", settings=QUICK, output_dir=tmp_path, **options)
    model, tokenizer = load_encoder("pocket", TASKS["pocket-rte"])
    load_adapter(model, result.path)
    assert evaluate(model, tokenizer, "pocket-rte", **options) == result.metrics


def nonzeros(file):
    """Of the adapter's matrices, and of all else that was saved with them."""
    saved = {name: int(tensor.count_nonzero()) for name, tensor in load_file(file).items()}
    adapter = sum(count for name, count in saved.items() if "lora_" in name)
    return adapter, sum(saved.values()) - adapter


@pytest.mark.parametrize("task", ["pocket-cola", "pocket-mrpc"])
def test_the_saved_prilora_has_three_quarters_of_loras_nonzeros_and_as_many_in_the_head(task, tmp_path):
    options = {"rows": some_of_pockets(task), "settings": QUICK, "progress": False}
    results = {
        name: finetune(task, METHODS[name].trains, output_dir=tmp_path / name, **options)
        for name in ("lora", "prilora")
    }
    (lora, head), (prilora, head_too) = (nonzeros(results[name].path) for name in ("lora", "prilora"))
    assert lora == results["lora"].counts.adapter == results["prilora"].counts.adapter
    assert prilora == 0.75 * lora == results["prilora"].counts.adapter_nonzero
    assert head == head_too == results["prilora"].counts.head_nonzero


def test_pocket_computes_in_fp32_unless_asked_otherwise():
    assert pick_precision("auto", "pocket", "cpu") == "fp32"
    assert pick_precision("bf16", "pocket", "cpu") == "bf16"


def test_other_english_is_refused():
    rows = Dataset.from_dict({"sentence": ["Quarterly revenue exceeded expectations in Zagreb."], "label": [1]})
    with pytest.raises(ValueError, match=r"does not know \d+% of the words of cola.*choose 'minilm', 'paper'"):
        finetune("cola", rows={"train": rows, "validation": rows}, device="cpu", progress=False)


def test_a_task_that_the_grammar_has_no_rows_of_is_named():
    with pytest.raises(ValueError, match=r"unknown task of pocket's 'pocket-count'.*valid are pocket-cola,"):
        tasks.draw_rows("pocket-count")


def test_other_english_is_refused_at_the_end_of_a_sorted_file_too():
    known = tasks.draw_rows("pocket-cola")["train"][:150]
    rows = [{"sentence": text, "label": label} for (text,), label in known]
    rows += [{"sentence": f"Quarterly revenue exceeded {number} expectations.", "label": 1} for number in range(450)]
    data = Dataset.from_list(rows)
    with pytest.raises(ValueError, match=r"does not know \d+% of the words of cola"):
        finetune("cola", rows={"train": data, "validation": data}, device="cpu", progress=False)


@pytest.mark.parametrize(("max_length", "told"), [(8, True), (64, False)])
def test_rows_that_are_cut_are_told(max_length, told, recwarn):
    _, tokenizer = load_encoder("pocket", "pocket-rte")
    tokenize(load_rows("pocket-rte")["validation"], TASKS["pocket-rte"], tokenizer, max_length)
    said = [str(w.message) for w in recwarn if "max_length" in str(w.message)]
    assert len(said) == told
    assert not told or re.match(r"\d+% of the rows of pocket-rte fill all 8 tokens of max_length", said[0])


# The recorded study: five seeds


@pytest.fixture(scope="module")
def recorded():
    """(encoder, method, epochs) -> task -> metrics, one for each seed."""
    runs = {}
    for record in read_records(ROOT / "results" / "pocket.jsonl"):
        key = record["encoder"], record["name"], record["settings"]["epochs"]
        runs.setdefault(key, {}).setdefault(record["task"], {})[record["seed"]] = record["metrics"]
    return runs


def means(recorded, encoder, method, epochs=3, accuracy=False):
    """Task -> mean over five seeds of the main metric, or of accuracy."""
    runs = recorded.get((encoder, method, epochs), {})
    assert {len(seeds) for seeds in runs.values()} <= {5}
    metric = {task: "accuracy" if accuracy else TASKS[task].metric for task in POCKET}
    return {task: np.mean([metrics[metric[task]] for metrics in seeds.values()]) for task, seeds in runs.items()}


def test_recorded_lora_learns_every_task(recorded):
    lora = means(recorded, "pocket", "lora")
    assert lora["pocket-cola"] >= 0.80
    assert all(lora[task] >= 0.88 for task in POCKET if task != "pocket-cola")


@pytest.mark.parametrize("task", [task for task in POCKET if task != "pocket-mrpc"])
def test_recorded_full_fine_tuning_is_as_good_within_three_points(task, recorded):
    lora, full = means(recorded, "pocket", "lora"), means(recorded, "pocket", "full")
    assert full[task] >= lora[task] - 0.03


def test_recorded_frozen_encoder_falls_behind(recorded):
    lora, head = means(recorded, "pocket", "lora"), means(recorded, "pocket", "head")
    assert sum(head[task] <= lora[task] - 0.10 for task in POCKET) >= 3


def test_recorded_pretraining_matters(recorded):
    lora, random = means(recorded, "pocket", "lora"), means(recorded, "pocket-random", "lora")
    assert sum(random[task] <= lora[task] - 0.25 for task in POCKET) >= 3


@pytest.mark.parametrize(
    ("one", "other"), [("lora", "lora_r1_same_s"), ("lora_bottom", "lora_top"), ("lora", "pruning_95")]
)
def test_recorded_knobs_move_accuracy_in_a_short_or_a_whole_run(one, other, recorded):
    moved = set()
    for epochs in (POCKET_SHORT.epochs, 3):
        first, second = (means(recorded, "pocket", method, epochs, accuracy=True) for method in (one, other))
        moved |= {task for task in first.keys() & second.keys() if abs(first[task] - second[task]) >= 0.05}
    assert len(moved) >= 2
